//! Replies of several nodes, made one.
//!
//! Owns the meaning of the response policies that servers publish, and a rule for each command
//! whose policy is "special". Works on the bytes of the replies as they came, RESP2 or RESP3. Never
//! sees an error reply (whoever calls has dealt with those), never guesses: replies that do not
//! have the shape their policy speaks of are [`Odd`].
//!
//! What surprises: a command without a rule of its own and with a policy that this build does not
//! know has one all the same: the first reply stands for all. A newer server's command is then
//! answered for one shard, and rightly so for those that ask about a server instead of its data.

mod info;
mod maps;

use crate::command::spec::{CommandId, ResponsePolicy, Spec, builtin_id};
use crate::resp::frames::{self, Elements, Head};
use crate::resp::write::{self, Protocol};

/// How several replies become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Arrays with one element a key; the elements go where their keys stand in the command.
    ByKey,
    /// Aggregates, one behind the other.
    Concatenated,
    /// Any of them: all say the same.
    First,
    /// The first that is no error, if there is one.
    OneSucceeded,
    /// Integers.
    Number(Fold),
    /// Integers, or arrays of integers: place by place.
    Logical {
        /// Whether one 0 is enough for a 0; otherwise one 1 is enough for a 1.
        is_and: bool,
    },
    /// One of those that are not null, by chance.
    Random,
    /// The text of INFO, field by field.
    Info,
    /// Maps of numbers, field by field.
    Maps,
    /// Texts for people, one behind the other.
    Texts,
    /// What runs where: the first that tells of something.
    Running,
    /// Names and numbers by turns, the same names in all: the numbers are added.
    Counts,
}

/// What is done with integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// The sum.
    Sum,
    /// The least.
    Min,
    /// The greatest.
    Max,
}

/// One reply, and the places of its elements in the merged one.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Its bytes: one whole frame.
    pub bytes: &'a [u8],
    /// For [`Merge::ByKey`]: where each element belongs.
    pub places: &'a [u32],
}

/// The replies do not have the shape that the command's policy speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Odd;

// === impl Merge ===

impl Merge {
    /// How the replies to a command become one that was sent to several places.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        match spec.response_policy {
            // No server publishes a policy for it, because clients of a cluster ask each node
            // themselves.
            _ if spec.id == PUBSUB_SHARDNUMSUB => Self::Counts,
            ResponsePolicy::Default if spec.has_keys() => Self::ByKey,
            ResponsePolicy::Default => Self::Concatenated,
            ResponsePolicy::AllSucceeded => Self::First,
            ResponsePolicy::OneSucceeded => Self::OneSucceeded,
            ResponsePolicy::AggSum => Self::Number(Fold::Sum),
            ResponsePolicy::AggMin => Self::Number(Fold::Min),
            ResponsePolicy::AggMax => Self::Number(Fold::Max),
            ResponsePolicy::AggLogicalAnd => Self::Logical { is_and: true },
            ResponsePolicy::AggLogicalOr => Self::Logical { is_and: false },
            ResponsePolicy::Special => Self::special(spec.id),
        }
    }

    fn special(command: CommandId) -> Self {
        match command {
            RANDOMKEY => Self::Random,
            INFO => Self::Info,
            MEMORY_STATS | LATENCY_HISTOGRAM => Self::Maps,
            MEMORY_DOCTOR | MEMORY_MALLOC_STATS | LATENCY_DOCTOR | LATENCY_GRAPH => Self::Texts,
            // An event is listed once for each node that it happened on.
            LATENCY_LATEST | LATENCY_HISTORY => Self::Concatenated,
            FUNCTION_STATS => Self::Running,
            _ => Self::First,
        }
    }

    /// Appends the one reply to `out`; `count` is the number of keys, `chance` any number.
    ///
    /// # Errors
    /// [`Odd`]; what was appended until then is to be dropped.
    pub fn write<'a>(
        self,
        replies: impl Iterator<Item = Reply<'a>> + Clone,
        (count, chance): (usize, u64),
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) -> Result<(), Odd> {
        let mut bare = replies.clone().map(|reply| reply.bytes);
        match self {
            Self::ByKey => return by_key(replies, count, out),
            Self::Concatenated => return concatenated(bare, out),
            Self::Number(fold) => write::integer(out, number(fold, bare)?),
            Self::Logical { is_and } => return logical(is_and, bare, out),
            Self::Random => out.extend_from_slice(random(bare, chance)?),
            Self::Info => write::verbatim(out, protocol, &info::merged(bare).ok_or(Odd)?),
            Self::Texts => write::verbatim(out, protocol, &texts(bare)?),
            Self::Maps => return maps::merged(bare, out),
            Self::Counts => return counts(bare, out),
            Self::Running => {
                let first = bare.clone().next().ok_or(Odd)?;
                out.extend_from_slice(bare.find(|reply| runs(reply)).unwrap_or(first));
            }
            Self::First | Self::OneSucceeded => out.extend_from_slice(bare.next().ok_or(Odd)?),
        }
        Ok(())
    }
}

/// Elements from all replies, in the order of the keys.
fn by_key<'a>(
    replies: impl Iterator<Item = Reply<'a>>,
    count: usize,
    out: &mut Vec<u8>,
) -> Result<(), Odd> {
    let mut elements: Vec<&[u8]> = vec![&[]; count];
    let mut put = |place: u32, element: &'a [u8]| -> Result<(), Odd> {
        *elements.get_mut(place as usize).ok_or(Odd)? = element;
        Ok(())
    };
    for reply in replies {
        // By far the most parts have one key.
        if let (&[place], Some(element)) = (reply.places, reply.bytes.strip_prefix(b"*1\r\n")) {
            put(place, element)?;
            continue;
        }
        let (head, mut found) = Elements::within(reply.bytes).ok_or(Odd)?;
        if head.kind != b'*' || usize::try_from(head.number) != Ok(reply.places.len()) {
            return Err(Odd);
        }
        for &place in reply.places {
            put(place, found.next().ok_or(Odd)?)?;
        }
    }
    write::array_header(out, count);
    for element in elements {
        if element.is_empty() {
            return Err(Odd);
        }
        out.extend_from_slice(element);
    }
    Ok(())
}

/// All elements of all replies.
fn concatenated<'a>(
    replies: impl Iterator<Item = &'a [u8]> + Clone,
    out: &mut Vec<u8>,
) -> Result<(), Odd> {
    let first = replies.clone().next().ok_or(Odd)?;
    let mut parts = Vec::new();
    for reply in replies.filter(|reply| !frames::is_null(reply)) {
        parts.push(Elements::within(reply).ok_or(Odd)?);
    }
    let Some((Head { kind, .. }, _)) = parts.first() else {
        out.extend_from_slice(first);
        return Ok(());
    };
    if parts.iter().any(|(head, _)| head.kind != *kind) {
        return Err(Odd);
    }
    let count = parts.iter().try_fold(0_i64, |sum, (head, _)| sum.checked_add(head.number));
    write::aggregate_header(out, *kind, usize::try_from(count.ok_or(Odd)?).map_err(|_| Odd)?);
    for (_, elements) in &parts {
        out.extend_from_slice(elements.rest());
    }
    Ok(())
}

fn number<'a>(fold: Fold, replies: impl Iterator<Item = &'a [u8]>) -> Result<i64, Odd> {
    let mut result: Option<i64> = None;
    for reply in replies {
        let value = frames::undecorated(reply).and_then(frames::integer).ok_or(Odd)?;
        result = Some(match (result, fold) {
            (None, _) => value,
            (Some(so_far), Fold::Sum) => so_far.saturating_add(value),
            (Some(so_far), Fold::Min) => so_far.min(value),
            (Some(so_far), Fold::Max) => so_far.max(value),
        });
    }
    result.ok_or(Odd)
}

fn logical<'a>(
    is_and: bool,
    replies: impl Iterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) -> Result<(), Odd> {
    let mut places: Option<Vec<bool>> = None;
    let mut is_array = true;
    for reply in replies {
        let values: Vec<bool> = match Elements::within(reply) {
            Some((_, elements)) => {
                elements.map(|element| Some(frames::integer(element)? != 0)).collect::<Option<_>>()
            }
            None => {
                is_array = false;
                frames::integer(reply).map(|value| vec![value != 0])
            }
        }
        .ok_or(Odd)?;
        let Some(places) = &mut places else {
            places = Some(values);
            continue;
        };
        if places.len() != values.len() {
            return Err(Odd);
        }
        for (place, value) in places.iter_mut().zip(values) {
            *place = if is_and { *place && value } else { *place || value };
        }
    }
    let places = places.ok_or(Odd)?;
    if is_array {
        write::array_header(out, places.len());
    }
    places.iter().for_each(|&place| write::integer(out, i64::from(place)));
    Ok(())
}

/// The first reply with the numbers of all added to its own.
fn counts<'a>(
    mut replies: impl Iterator<Item = &'a [u8]> + Clone,
    out: &mut Vec<u8>,
) -> Result<(), Odd> {
    let all = replies.clone();
    let (head, elements) = replies.next().and_then(Elements::within).ok_or(Odd)?;
    let names: Vec<&[u8]> = elements.step_by(2).collect();
    let mut sums = vec![0_i64; names.len()];
    for reply in all {
        let (its, elements) = Elements::within(reply).ok_or(Odd)?;
        if its.number != head.number {
            return Err(Odd);
        }
        for (sum, count) in sums.iter_mut().zip(elements.skip(1).step_by(2)) {
            *sum = sum.saturating_add(frames::integer(count).ok_or(Odd)?);
        }
    }
    write::array_header(out, 2 * names.len());
    for (name, sum) in names.into_iter().zip(sums) {
        out.extend_from_slice(name);
        write::integer(out, sum);
    }
    Ok(())
}

/// Any reply that is not null, each with the same chance, however many keys its node has.
fn random<'a>(
    replies: impl Iterator<Item = &'a [u8]> + Clone,
    chance: u64,
) -> Result<&'a [u8], Odd> {
    let first = replies.clone().next().ok_or(Odd)?;
    let mut found = replies.filter(|reply| !frames::is_null(reply));
    let count = found.clone().count();
    // The remainder is below the count, so it fits.
    let pick = chance.checked_rem(count as u64).map_or(0, |pick| pick as usize);
    Ok(found.nth(pick).unwrap_or(first))
}

/// Texts for people, each under the number of its node; none of ours goes by the name of a node.
fn texts<'a>(replies: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, Odd> {
    let mut all = Vec::new();
    for (place, reply) in replies.enumerate() {
        let text = frames::undecorated(reply).and_then(frames::string).ok_or(Odd)?;
        if place > 0 {
            all.push(b'\n');
        }
        all.extend_from_slice(format!("# Node {}\n", place + 1).as_bytes());
        all.extend_from_slice(text);
        if !text.ends_with(b"\n") {
            all.push(b'\n');
        }
    }
    Ok(all)
}

/// Whether this reply to FUNCTION STATS tells of a running function: the value of its first field
/// is not null.
fn runs(reply: &[u8]) -> bool {
    let value = Elements::within(reply).and_then(|(_, mut elements)| elements.nth(1));
    value.is_some_and(|value| !frames::is_null(value))
}

const FUNCTION_STATS: CommandId = builtin_id("function|stats");
const INFO: CommandId = builtin_id("info");
const LATENCY_DOCTOR: CommandId = builtin_id("latency|doctor");
const LATENCY_GRAPH: CommandId = builtin_id("latency|graph");
const LATENCY_HISTOGRAM: CommandId = builtin_id("latency|histogram");
const LATENCY_HISTORY: CommandId = builtin_id("latency|history");
const LATENCY_LATEST: CommandId = builtin_id("latency|latest");
const MEMORY_DOCTOR: CommandId = builtin_id("memory|doctor");
const MEMORY_MALLOC_STATS: CommandId = builtin_id("memory|malloc-stats");
const MEMORY_STATS: CommandId = builtin_id("memory|stats");
const PUBSUB_SHARDNUMSUB: CommandId = builtin_id("pubsub|shardnumsub");
const RANDOMKEY: CommandId = builtin_id("randomkey");

#[cfg(test)]
mod tests;

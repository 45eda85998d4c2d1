//! What tells the size of a command before it runs.
//!
//! Owns the table of commands that can be measured, and for one command the questions that measure
//! it: nothing if its arguments bound it, HLEN for HGETALL, ZCOUNT with its own ends for
//! ZRANGEBYSCORE. Pure: never asks ([`crate::dispatch::bound`] does) and never judges.
//!
//! What surprises: arguments that make no sense have no plan. Such a command goes on and meets the
//! server's own words, and options are read as the server reads them, the last one of a kind being
//! the one that counts, so that none can be hidden behind another.

use super::unit::Unit;
use crate::command::Command;
use crate::command::flags::KeyFlags;
use crate::command::keys::KeyPosition;
use crate::command::spec::{Spec, builtin_id};
use crate::command::table::STATS_COUNT;
use crate::resp::{parse_integer, write};

/// How one command is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// What is counted, in words.
    pub unit: Unit,
    /// Whether its reply has as many elements as the answers say: then the reply tells it as well.
    pub is_told_by_reply: bool,
    /// Whether an array of its reply in RESP2 has two elements for one that is counted.
    pub is_in_pairs: bool,
    /// What is asked about each key that is read: words in front of the key.
    verbs: &'static [&'static [&'static str]],
    /// What is put behind the key.
    range: Option<(&'a [u8], &'a [u8])>,
    reach: Reach,
    command: Command<'a>,
    keys: &'a [KeyPosition],
}

/// How much of what the answers add up to is meant by the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// All of it.
    All,
    /// All of it; the answers are multiplied instead of added.
    Product,
    /// From this index to that one, as LRANGE counts.
    Span(i64, i64),
    /// So many at most.
    AtMost(u64),
    /// So many, whatever is there.
    Exactly(u64),
}

/// How the arguments of a command are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It cannot be measured.
    Unknown,
    /// All of a hash.
    Hash,
    /// All of a set.
    Set,
    /// Part of a list, by index.
    List,
    /// ZRANGE, whose arguments begin so far from the usual place (1 for ZRANGESTORE).
    Sorted(usize),
    /// Part of a sorted set, by index.
    SortedByIndex,
    /// Part of a sorted set by score; whether the greater end comes first.
    Score(bool),
    /// Part of a sorted set by name; likewise.
    Lex(bool),
    /// Places nearby; options are looked for from this argument on.
    Geo(usize),
    /// Part of a stream.
    Stream,
    /// SORT: all of whatever it is. LIMIT does not spare the server the sorting.
    Sort,
    /// Algebra of sets.
    Sets,
    /// Algebra of sorted sets, or of sets as such.
    SortedSets,
    /// A string that is read whole.
    String,
    /// Strings that are read whole, together.
    Strings,
    /// Sketches, which have a greatest size; each argument is the key of one.
    Sketches,
    /// Two strings that are compared byte by byte.
    Product,
    /// Part of a string.
    StringRange,
    /// Anything, written out.
    Dump,
    /// MEMORY USAGE: counts everything with SAMPLES 0.
    MemoryUsage,
    /// A count as second argument takes so many off a list, a set, a sorted set.
    PopList,
    PopSet,
    PopSorted,
    /// The option COUNT does.
    PopLists,
    PopSortedSets,
    /// A count reads so many; a negative one may read each several times.
    RandomSet,
    RandomHash,
    RandomSorted,
}

/// What the arguments say, beside the keys.
struct Reading<'a> {
    verbs: &'static [&'static [&'static str]],
    range: Option<(&'a [u8], &'a [u8])>,
    reach: Reach,
}

/// How `command`, of `spec` and with these keys, is measured; `None` if it cannot be, or if the
/// server would refuse it anyway.
#[must_use]
pub fn plan<'a>(spec: &Spec, command: Command<'a>, keys: &'a [KeyPosition]) -> Option<Plan<'a>> {
    let kind = *KINDS.get(spec.id.stats_index())?;
    let Reading { verbs, range, reach } = read(kind, &command)?;
    // A range that is a part of the whole is told by its reply only if the question was for it.
    let is_told_by_reply = match kind {
        Kind::Hash | Kind::Set => true,
        Kind::List | Kind::SortedByIndex => reach == Reach::Span(0, -1),
        Kind::Sorted(0) => reach == Reach::Span(0, -1) || (reach == Reach::All && range.is_some()),
        Kind::Score(_) | Kind::Lex(_) => reach == Reach::All,
        Kind::Stream => reach == Reach::All && is_whole_stream(&command),
        _ => false,
    };
    let is_in_pairs =
        spec.id == HGETALL || (4..command.len()).any(|it| command.has_word_at(it, "withscores"));
    let unit = unit(kind);
    let plan = Plan { unit, is_told_by_reply, is_in_pairs, verbs, range, reach, command, keys };
    (plan.sources().next().is_some()).then_some(plan)
}

/// Whether a rule can bound this command.
#[must_use]
pub fn can_measure(spec: &Spec) -> bool {
    KINDS.get(spec.id.stats_index()).is_some_and(|&kind| kind != Kind::Unknown)
}

/// What is asked, and how the arguments limit it.
fn read<'a>(kind: Kind, command: &Command<'a>) -> Option<Reading<'a>> {
    let all = |verbs| Some(Reading { verbs, range: None, reach: Reach::All });
    let within = |verbs, reach| Some(Reading { verbs, range: None, reach });
    match kind {
        Kind::Unknown => None,
        Kind::Hash => all(HLEN),
        Kind::Set | Kind::Sets => all(SCARD),
        Kind::List => within(LLEN, span(command, 2)?),
        Kind::SortedByIndex => within(ZCARD, span(command, 2)?),
        Kind::Sorted(shift) => sorted(command, shift),
        Kind::Score(reversed) => between(command, ZCOUNT, 2, reversed, 4),
        Kind::Lex(reversed) => between(command, ZLEXCOUNT, 2, reversed, 4),
        Kind::Geo(from) => within(ZCARD, counted(command, "count", 1, from)),
        Kind::Stream if is_one_entry(command) => within(XLEN, Reach::AtMost(1)),
        Kind::Stream => within(XLEN, counted(command, "count", 1, 4)),
        Kind::Sort => all(ANY_LIST),
        Kind::SortedSets => all(ANY_SET),
        Kind::String | Kind::Strings => all(STRLEN),
        // Whatever is longer is no sketch, and the server says so before it reads on.
        Kind::Sketches => within(STRLEN, Reach::AtMost(SKETCH_BYTES * (command.len() as u64 - 1))),
        Kind::Product => within(STRLEN, Reach::Product),
        Kind::StringRange => within(STRLEN, span(command, 2)?),
        Kind::Dump => all(BYTES),
        Kind::MemoryUsage => within(EVERYTHING, samples(command)),
        Kind::PopList => within(LLEN, taken(command)?),
        Kind::PopSet => within(SCARD, taken(command)?),
        Kind::PopSorted => within(ZCARD, taken(command)?),
        Kind::PopLists => within(LLEN, one_or(counted(command, "count", 1, 3))),
        Kind::PopSortedSets => within(ZCARD, one_or(counted(command, "count", 1, 3))),
        Kind::RandomSet => within(SCARD, drawn(command)?),
        Kind::RandomHash => within(HLEN, drawn(command)?),
        Kind::RandomSorted => within(ZCARD, drawn(command)?),
    }
}

/// ZRANGE and ZRANGESTORE: by index, by score or by name.
fn sorted<'a>(command: &Command<'a>, shift: usize) -> Option<Reading<'a>> {
    let options = 4 + shift;
    let has = |word| (options..command.len()).any(|index| command.has_word_at(index, word));
    let ends = 2 + shift;
    match (has("byscore"), has("bylex")) {
        (true, _) => between(command, ZCOUNT, ends, has("rev"), options),
        (_, true) => between(command, ZLEXCOUNT, ends, has("rev"), options),
        _ => Some(Reading { verbs: ZCARD, range: None, reach: span(command, ends)? }),
    }
}

/// The part of a sorted set from one end to the other, with the command's own ends.
fn between<'a>(
    command: &Command<'a>,
    verbs: &'static [&'static [&'static str]],
    first: usize,
    is_reversed: bool,
    options: usize,
) -> Option<Reading<'a>> {
    let (from, to) = (command.argument(first)?, command.argument(first + 1)?);
    let range = Some(if is_reversed { (to, from) } else { (from, to) });
    Some(Reading { verbs, range, reach: counted(command, "limit", 2, options) })
}

/// Two indexes.
fn span(command: &Command<'_>, first: usize) -> Option<Reach> {
    let at = |index| command.argument(index).and_then(parse_integer);
    Some(Reach::Span(at(first)?, at(first + 1)?))
}

/// The count behind the last `word` among the options, whose value stands `behind` places after it.
fn counted(command: &Command<'_>, word: &str, behind: usize, from: usize) -> Reach {
    let (mut index, mut reach) = (from, Reach::All);
    while index + behind < command.len() {
        let count = command.argument(index + behind).and_then(parse_integer);
        match count {
            Some(count) if command.has_word_at(index, word) => {
                // A negative count means all of it to LIMIT; with COUNT it is refused or reads
                // nothing.
                reach = u64::try_from(count).map_or(Reach::All, Reach::AtMost);
                index += behind + 1;
            }
            _ => index += 1,
        }
    }
    reach
}

/// Without the option it is one element.
fn one_or(reach: Reach) -> Reach {
    if reach == Reach::All { Reach::AtMost(1) } else { reach }
}

/// `LPOP key [count]`.
fn taken(command: &Command<'_>) -> Option<Reach> {
    let Some(count) = command.argument(2) else {
        return Some(Reach::AtMost(1));
    };
    u64::try_from(parse_integer(count)?).ok().map(Reach::AtMost)
}

/// `SRANDMEMBER key [count]`.
fn drawn(command: &Command<'_>) -> Option<Reach> {
    let Some(count) = command.argument(2) else {
        return Some(Reach::AtMost(1));
    };
    let count = parse_integer(count)?;
    let draws = count.unsigned_abs();
    Some(if count < 0 { Reach::Exactly(draws) } else { Reach::AtMost(draws) })
}

/// `MEMORY USAGE key [SAMPLES count]`: zero means all.
fn samples(command: &Command<'_>) -> Reach {
    match counted(command, "samples", 1, 3) {
        Reach::AtMost(0) => Reach::All,
        Reach::AtMost(samples) => Reach::AtMost(samples),
        _ => Reach::AtMost(SAMPLES),
    }
}

/// Both ends are the same whole id.
fn is_one_entry(command: &Command<'_>) -> bool {
    let (first, last) = (command.argument(2), command.argument(3));
    let is_id = |id: &[u8]| id.contains(&b'-') && id.first().is_some_and(u8::is_ascii_digit);
    first == last && first.is_some_and(is_id)
}

fn is_whole_stream(command: &Command<'_>) -> bool {
    let ends = (command.argument(2), command.argument(3));
    matches!(ends, (Some(b"-"), Some(b"+")) | (Some(b"+"), Some(b"-")))
}

// === impl Plan ===

impl<'a> Plan<'a> {
    /// The most it can be, as far as the arguments alone tell.
    #[must_use]
    pub fn ceiling(&self) -> Option<u64> {
        match self.reach {
            Reach::All | Reach::Product => None,
            Reach::AtMost(count) | Reach::Exactly(count) => Some(count),
            Reach::Span(first, last) if (first < 0) == (last < 0) => {
                Some(clamped(i128::from(last) - i128::from(first) + 1))
            }
            // From so many before the end to so many behind the beginning.
            Reach::Span(first, last) if first < 0 => {
                Some(first.unsigned_abs().min(clamped(i128::from(last) + 1)))
            }
            Reach::Span(..) => None,
        }
    }

    /// Its size if the arguments alone tell it.
    #[must_use]
    pub fn known(&self) -> Option<u64> {
        if let Reach::Exactly(count) = self.reach { Some(count) } else { None }
    }

    /// Its size when the answers add up to `total`.
    #[must_use]
    pub fn size(&self, total: u64) -> u64 {
        match self.reach {
            Reach::All | Reach::Product => total,
            Reach::AtMost(count) => total.min(count),
            Reach::Exactly(count) => count,
            Reach::Span(first, last) => {
                let length = i128::from(total);
                let from_end = |index: i64| {
                    let index = i128::from(index);
                    if index < 0 { index + length } else { index }
                };
                let (first, last) = (from_end(first).max(0), from_end(last).min(length - 1));
                clamped(last - first + 1)
            }
        }
    }

    /// What several answers are together.
    #[must_use]
    pub fn total(&self, answers: impl Iterator<Item = u64>) -> u64 {
        match self.reach {
            Reach::Product => answers.fold(1, u64::saturating_mul),
            _ => answers.fold(0, u64::saturating_add),
        }
    }

    /// The keys that it reads.
    pub fn sources(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let command = self.command;
        let read = self.keys.iter().filter(|key| !key.flags.contains(KeyFlags::OW));
        read.filter_map(move |key| command.argument(key.index as usize))
    }

    /// How many questions it takes.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sources().count() * self.verbs.len()
    }

    /// The questions, as whole commands.
    #[must_use]
    pub fn questions(&self) -> Vec<Vec<u8>> {
        let mut questions = Vec::with_capacity(self.count());
        for key in self.sources() {
            for verb in self.verbs {
                let mut words: Vec<&[u8]> = verb.iter().map(|word| word.as_bytes()).collect();
                words.push(key);
                if let Some((from, to)) = self.range {
                    words.extend([from, to]);
                }
                let mut question = Vec::new();
                write::command(&mut question, &words);
                questions.push(question);
            }
        }
        questions
    }

    /// What makes two plans ask the same: all but the keys. A range without an end on one side is
    /// another question than one with two: that the last minute of each log is short says nothing of
    /// the whole log.
    pub fn hash_kind(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let open = self.range.map(|(from, to)| (is_infinite(from), is_infinite(to)));
        (self.verbs, self.reach == Reach::Product, open).hash(hasher);
    }

    /// What makes two plans ask the same of the same keys, with whatever range.
    pub fn hash_keys(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        self.hash_kind(hasher);
        self.sources().for_each(|key| key.hash(hasher));
    }

    /// What two plans of the same keys must share to have the same answer; `None`: nothing else.
    #[must_use]
    pub fn range(&self) -> Option<(&'a [u8], &'a [u8])> {
        self.range
    }
}

/// What a question was answered: `None` if that tells nothing.
#[must_use]
pub fn number(reply: &[u8]) -> Option<u64> {
    let line = reply.strip_suffix(b"\r\n")?;
    match line {
        [b':', digits @ ..] => parse_integer(digits).and_then(|it| u64::try_from(it).ok()),
        // The command itself will meet the same error, or the question was one of several of which
        // one fits.
        [b'-', words @ ..] if words.starts_with(b"WRONGTYPE") => Some(0),
        b"$-1" | b"_" => Some(0),
        _ => None,
    }
}

/// Whether an end of a range, by score or by name, lies behind everything.
fn is_infinite(end: &[u8]) -> bool {
    let number = end.strip_prefix(b"(").unwrap_or(end);
    let number = number.strip_prefix(b"-").or(number.strip_prefix(b"+")).unwrap_or(number);
    matches!(end, b"-" | b"+") || number.get(..3).is_some_and(|it| it.eq_ignore_ascii_case(b"inf"))
}

fn clamped(number: i128) -> u64 {
    u64::try_from(number.max(0)).unwrap_or(u64::MAX)
}

fn unit(kind: Kind) -> Unit {
    match kind {
        Kind::Hash => Unit::Fields,
        Kind::RandomHash => Unit::Drawn("fields"),
        Kind::Set => Unit::Members,
        Kind::RandomSet | Kind::RandomSorted => Unit::Drawn("members"),
        Kind::Stream => Unit::Entries,
        Kind::String | Kind::StringRange => Unit::Bytes,
        Kind::Strings | Kind::Sketches => Unit::Together,
        Kind::Dump => Unit::Dumped,
        Kind::Product => Unit::Comparisons,
        Kind::Geo(_) => Unit::Places,
        Kind::Sort => Unit::Sorted,
        Kind::Sets | Kind::SortedSets => Unit::Combined,
        Kind::MemoryUsage => Unit::Samples,
        Kind::PopList | Kind::PopSet | Kind::PopSorted | Kind::PopLists | Kind::PopSortedSets => {
            Unit::Drawn("elements")
        }
        Kind::List | Kind::Sorted(_) | Kind::SortedByIndex => Unit::Elements,
        Kind::Score(_) | Kind::Lex(_) => Unit::Ranged,
        Kind::Unknown => Unit::Elements,
    }
}

static KINDS: [Kind; STATS_COUNT] = {
    let mut kinds = [Kind::Unknown; STATS_COUNT];
    let mut index = 0;
    while index < MEASURED.len() {
        kinds[builtin_id(MEASURED[index].0).index()] = MEASURED[index].1;
        index += 1;
    }
    kinds
};

const MEASURED: [(&str, Kind); 61] = [
    ("hgetall", Kind::Hash),
    ("hkeys", Kind::Hash),
    ("hvals", Kind::Hash),
    ("smembers", Kind::Set),
    ("lrange", Kind::List),
    ("zrange", Kind::Sorted(0)),
    ("zrangestore", Kind::Sorted(1)),
    ("zrevrange", Kind::SortedByIndex),
    ("zremrangebyrank", Kind::SortedByIndex),
    ("zrangebyscore", Kind::Score(false)),
    ("zrevrangebyscore", Kind::Score(true)),
    ("zremrangebyscore", Kind::Score(false)),
    ("zrangebylex", Kind::Lex(false)),
    ("zrevrangebylex", Kind::Lex(true)),
    ("zremrangebylex", Kind::Lex(false)),
    ("georadius", Kind::Geo(6)),
    ("georadius_ro", Kind::Geo(6)),
    ("georadiusbymember", Kind::Geo(5)),
    ("georadiusbymember_ro", Kind::Geo(5)),
    ("geosearch", Kind::Geo(2)),
    ("geosearchstore", Kind::Geo(3)),
    ("xrange", Kind::Stream),
    ("xrevrange", Kind::Stream),
    ("sort", Kind::Sort),
    ("sort_ro", Kind::Sort),
    ("sunion", Kind::Sets),
    ("sinter", Kind::Sets),
    ("sdiff", Kind::Sets),
    ("sunionstore", Kind::Sets),
    ("sinterstore", Kind::Sets),
    ("sdiffstore", Kind::Sets),
    ("sintercard", Kind::Sets),
    ("zunion", Kind::SortedSets),
    ("zinter", Kind::SortedSets),
    ("zdiff", Kind::SortedSets),
    ("zunionstore", Kind::SortedSets),
    ("zinterstore", Kind::SortedSets),
    ("zdiffstore", Kind::SortedSets),
    ("zintercard", Kind::SortedSets),
    ("pfcount", Kind::Sketches),
    ("pfmerge", Kind::Sketches),
    ("bitop", Kind::Strings),
    ("lcs", Kind::Product),
    ("get", Kind::String),
    ("getdel", Kind::String),
    ("getex", Kind::String),
    ("getrange", Kind::StringRange),
    ("substr", Kind::StringRange),
    ("dump", Kind::Dump),
    ("memory|usage", Kind::MemoryUsage),
    ("lpop", Kind::PopList),
    ("rpop", Kind::PopList),
    ("lmpop", Kind::PopLists),
    ("spop", Kind::PopSet),
    ("zpopmin", Kind::PopSorted),
    ("zpopmax", Kind::PopSorted),
    ("zmpop", Kind::PopSortedSets),
    ("srandmember", Kind::RandomSet),
    ("hrandfield", Kind::RandomHash),
    ("zrandmember", Kind::RandomSorted),
    ("getset", Kind::String),
];

const HGETALL: crate::command::spec::CommandId = builtin_id("hgetall");

const HLEN: &[&[&str]] = &[&["HLEN"]];
const SCARD: &[&[&str]] = &[&["SCARD"]];
const LLEN: &[&[&str]] = &[&["LLEN"]];
const ZCARD: &[&[&str]] = &[&["ZCARD"]];
const XLEN: &[&[&str]] = &[&["XLEN"]];
const STRLEN: &[&[&str]] = &[&["STRLEN"]];
const ZCOUNT: &[&[&str]] = &[&["ZCOUNT"]];
const ZLEXCOUNT: &[&[&str]] = &[&["ZLEXCOUNT"]];
/// The one that fits counts, the others say WRONGTYPE.
const ANY_SET: &[&[&str]] = &[&["ZCARD"], &["SCARD"]];
const ANY_LIST: &[&[&str]] = &[&["LLEN"], &["SCARD"], &["ZCARD"]];
const EVERYTHING: &[&[&str]] = &[&["HLEN"], &["SCARD"], &["LLEN"], &["ZCARD"], &["XLEN"]];
/// An estimate, of a few samples.
const BYTES: &[&[&str]] = &[&["MEMORY", "USAGE"]];
/// A sketch with all its registers and its header.
const SKETCH_BYTES: u64 = 12_304;
/// How many samples MEMORY USAGE takes unless told otherwise.
const SAMPLES: u64 = 5;

#[cfg(test)]
mod tests;

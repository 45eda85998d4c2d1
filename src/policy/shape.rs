//! Ways of asking: what a command's own arguments say about how much it wants.
//!
//! Owns [`Shape`] and the question whether a command has it. Where a command's options stand is in
//! [`options`]. Never asks a server and never refuses: what is no number to us is none to Redis, so
//! such a command is left to be answered by it.
//!
//! What surprises: an argument may look like an option and be none (`GEOSEARCH k FROMMEMBER count …`),
//! so options are walked over as the server does it, and of an option that stands twice the last one
//! counts, as there.

mod options;

use super::case::Case;
use crate::command::Command;
use crate::command::spec::Spec;
use options::Grammar;

/// A way of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// More elements than this may come (bytes, of GETRANGE), as far as the arguments tell: both
    /// indexes from the same end, LIMIT or COUNT. What they do not tell is unbounded.
    SpanAbove(u64),
    /// More keys than this.
    KeysAbove(usize),
    /// COUNT n, or a count argument, above this; a negative one counts as its size; absent: not.
    CountAbove(u64),
    /// A negative count below minus this: so many elements come, however few there are.
    RepeatsAbove(u64),
    /// Neither LIMIT nor COUNT is there, or it says "all".
    Unlimited,
    /// The pattern of KEYS or SCAN MATCH holds a wildcard.
    PatternHasGlob,
    /// The pattern of KEYS or SCAN MATCH is one of these, literally.
    PatternIs(Vec<Box<str>>),
    /// An argument is longer than so many bytes.
    ValueAbove(u64),
    /// A string is written without a time to live, or loses it.
    NoTtl,
    /// This word is among the arguments.
    Word(Box<str>),
    /// This word is not among the arguments.
    NoWord(Box<str>),
}

/// The most that can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Most {
    /// So much.
    Known(u64),
    /// As much as is there.
    Unbounded,
}

// === impl Shape ===

impl Shape {
    /// Whether the command is asked in this way.
    #[must_use]
    pub fn fits(&self, case: &Case<'_>) -> bool {
        let (command, name) = (&case.command, &*case.spec.name);
        let counts_above = |most: u64, is_meant: fn(i64) -> bool| {
            let count = Grammar::of(name).count(command);
            count.is_some_and(|count| is_meant(count) && count.unsigned_abs() > most)
        };
        match self {
            Self::SpanAbove(most) => match span(Grammar::of(name), command) {
                Most::Known(span) => span > *most,
                Most::Unbounded => true,
            },
            Self::KeysAbove(most) => case.keys().nth(*most).is_some(),
            Self::CountAbove(most) => counts_above(*most, |_| true),
            Self::RepeatsAbove(most) => counts_above(*most, |count| count < 0),
            Self::Unlimited => limit(Grammar::of(name), command) == Most::Unbounded,
            Self::PatternHasGlob => pattern(name, command).is_some_and(has_glob),
            Self::PatternIs(patterns) => {
                let is = |pattern: &[u8]| patterns.iter().any(|one| one.as_bytes() == pattern);
                pattern(name, command).is_some_and(is)
            }
            Self::ValueAbove(most) => {
                command.arguments().any(|argument| argument.len() as u64 > *most)
            }
            Self::NoTtl => lacks_ttl(name, command),
            Self::Word(word) => has_word(command, word),
            Self::NoWord(word) => !has_word(command, word),
        }
    }

    /// With how many arguments, the name included, a command may be asked in this way.
    pub(super) const fn least_arguments(&self) -> usize {
        match self {
            // The name, and one key more than that.
            Self::KeysAbove(most) => most.saturating_add(2),
            // The name, a key and the count.
            Self::CountAbove(_) | Self::RepeatsAbove(_) => 3,
            _ => 0,
        }
    }

    /// Whether this command can be asked in this way at all. A rule that asks of commands what none of
    /// them has would never match, or always.
    #[must_use]
    pub fn suits(&self, spec: &Spec) -> bool {
        let grammar = Grammar::of(&spec.name);
        match self {
            Self::SpanAbove(_) => grammar.range.is_some() || grammar.limit.is_some(),
            Self::Unlimited => grammar.limit.is_some(),
            Self::CountAbove(_) | Self::RepeatsAbove(_) => grammar.has_count(),
            Self::PatternHasGlob | Self::PatternIs(_) => matches!(&*spec.name, "keys" | "scan"),
            Self::NoTtl => TTL_COMMANDS.contains(&&*spec.name),
            Self::KeysAbove(_) => spec.has_keys(),
            Self::ValueAbove(_) | Self::Word(_) | Self::NoWord(_) => true,
        }
    }

    /// The key of the policy file that asks for it.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::SpanAbove(_) => "span_above",
            Self::KeysAbove(_) => "keys_above",
            Self::CountAbove(_) => "count_above",
            Self::RepeatsAbove(_) => "repeats_above",
            Self::Unlimited => "unlimited",
            Self::PatternHasGlob => "pattern_glob",
            Self::PatternIs(_) => "pattern",
            Self::ValueAbove(_) => "value_above",
            Self::NoTtl => "no_ttl",
            Self::Word(_) => "word",
            Self::NoWord(_) => "no_word",
        }
    }
}

/// The most elements that a range may bring.
fn span(grammar: &Grammar, command: &Command<'_>) -> Most {
    let is_by_value = ["byscore", "bylex"].iter().any(|word| grammar.has(command, word));
    match grammar.range.filter(|_| !is_by_value) {
        Some(start) => between(number(command, start), number(command, start + 1)),
        None => limit(grammar, command),
    }
}

/// How many elements lie between two indexes, of which negative ones count from the end.
fn between(start: Option<i64>, stop: Option<i64>) -> Most {
    // Redis refuses what is no number.
    let (Some(start), Some(stop)) = (start.map(i128::from), stop.map(i128::from)) else {
        return Most::Known(0);
    };
    let span = match (start >= 0, stop >= 0) {
        (true, false) => return Most::Unbounded,
        // From near the end to near the beginning: only what both reach.
        (false, true) => (-start).min(stop + 1),
        _ => stop - start + 1,
    };
    Most::Known(u64::try_from(span.max(0)).unwrap_or(u64::MAX))
}

/// What LIMIT or COUNT says. A command that has neither word is not bounded by one.
fn limit(grammar: &Grammar, command: &Command<'_>) -> Most {
    let Some(word) = grammar.limit else {
        return Most::Unbounded;
    };
    let Some(at) = grammar.amount(command, word) else {
        return Most::Unbounded;
    };
    match number(command, at) {
        Some(0) if grammar.zero_is_all => Most::Unbounded,
        Some(count) => u64::try_from(count).map_or(Most::Unbounded, Most::Known),
        None => Most::Known(0),
    }
}

/// The pattern by which keys are looked for.
fn pattern<'a>(name: &str, command: &Command<'a>) -> Option<&'a [u8]> {
    match name {
        "keys" => command.argument(1),
        "scan" => command.argument(Grammar::of(name).amount(command, "match")?),
        _ => None,
    }
}

/// Whether a pattern matches more than one text. What a backslash stands before is meant as it is.
fn has_glob(pattern: &[u8]) -> bool {
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

/// Whether a string that is written will stay for ever. KEEPTTL leaves it to whoever wrote it first.
fn lacks_ttl(name: &str, command: &Command<'_>) -> bool {
    let has = |word: &str| Grammar::of(name).has(command, word);
    match name {
        "set" => !["ex", "px", "exat", "pxat", "keepttl"].into_iter().any(has),
        "getex" => has("persist"),
        _ => TTL_COMMANDS.contains(&name),
    }
}

fn has_word(command: &Command<'_>, word: &str) -> bool {
    (1..command.len()).any(|index| command.has_word_at(index, word))
}

/// An argument as Redis reads whole numbers. What is none, Redis refuses.
fn number(command: &Command<'_>, index: usize) -> Option<i64> {
    std::str::from_utf8(command.argument(index)?).ok()?.parse().ok()
}

/// Commands that write a string and may leave it without a time to live, or take it away.
const TTL_COMMANDS: [&str; 7] = ["set", "getex", "setnx", "getset", "mset", "msetnx", "persist"];

#[cfg(test)]
mod tests;

//! What rules have met, in words that may be shown: who asked, for what kind of key, how much.
//!
//! Owns [`Offence`], the folding of a key to a pattern, and the bounded [`Report`] of what was or
//! would have been refused. Never holds a key or a value (INV-11): of a key only the first word is
//! kept, and only where more words follow, because a word in the middle may be a person's name.
//!
//! What surprises: the report counts at most [`KINDS_MAX`] kinds. A new one takes the place of the
//! rarest, so a flood of strange clients cannot push out the one that matters.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One command that a rule has met.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Offence {
    /// When, in seconds since 1970.
    pub at: u64,
    /// The client's number, as in CLIENT LIST.
    pub client: u64,
    /// Where it comes from.
    pub address: String,
    /// What it calls itself.
    pub name: String,
    /// The command, lower case.
    pub command: String,
    /// What kind of key it named first; `-` without any.
    pub pattern: String,
    /// How much it would have been.
    pub size: u64,
    /// Of what.
    pub unit: Unit,
}

/// What a size counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Keys that the command names.
    #[default]
    Keys,
    /// Elements of what it would read.
    Elements,
    /// Bytes of what it would read or write.
    Bytes,
}

/// What became of a command that a rule matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It was refused.
    Refused,
    /// It would have been, were the rule enforced for its client.
    Spared,
    /// It went on.
    Passed,
}

/// What was refused or spared, by kind; shared by workers and touched for such commands alone.
#[derive(Debug, Default)]
pub struct Report(Mutex<HashMap<Kind, Counts>>);

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    rule: String,
    command: String,
    pattern: String,
    name: String,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    refused: u64,
    spared: u64,
    biggest: Offence,
    last: u64,
}

/// A row of the report, as pages show it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// The rule.
    pub rule: String,
    /// The command.
    pub command: String,
    /// The kind of key.
    pub pattern: String,
    /// What the clients call themselves.
    pub name: String,
    /// How often it was refused.
    pub refused: u64,
    /// How often it would have been.
    pub would_refuse: u64,
    /// Largest size of all.
    pub biggest: u64,
    /// What that counts.
    pub unit: Unit,
    /// Where the client came from that asked for it.
    pub address: String,
    /// When it was seen last, in seconds since 1970.
    pub last: u64,
}

/// The kind of a key: its first word if others follow, and a star for each of those. What holds a
/// digit is no word but a number of something.
#[must_use]
pub fn folded(key: &[u8]) -> String {
    let is_separator = |byte: &u8| b":/.|-_#@{}[] ".contains(byte);
    let mut pattern = String::new();
    for (place, piece) in key.split_inclusive(is_separator).take(PIECES_MAX).enumerate() {
        let (word, end) = match piece.split_last() {
            Some((end, word)) if is_separator(end) => (word, Some(char::from(*end))),
            _ => (piece, None),
        };
        let letters = word.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let is_followed = end.is_some() || letters < word.len();
        match word.get(..letters) {
            Some(letters) if place == 0 && is_followed && letters.len() <= WORD_BYTES_MAX => {
                pattern.push_str(&String::from_utf8_lossy(letters));
                pattern.push_str(if letters.len() < word.len() { "*" } else { "" });
            }
            _ if word.is_empty() => {}
            _ => pattern.push('*'),
        }
        pattern.extend(end);
    }
    let has_more = key.split(is_separator).nth(PIECES_MAX).is_some();
    pattern.push_str(if has_more { "*" } else { "" });
    pattern
}

/// A text of a client, of bounded length and on one line.
#[must_use]
pub fn shortened(bytes: &[u8]) -> String {
    let most = bytes.get(..bytes.len().min(TEXT_BYTES_MAX)).unwrap_or_default();
    String::from_utf8_lossy(most).replace(|it: char| it.is_control(), " ")
}

// === impl Unit ===

impl Unit {
    /// As pages write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Elements => "elements",
            Self::Bytes => "bytes",
        }
    }
}

// === impl Report ===

impl Report {
    /// Counts one command that was refused, or spared.
    pub fn count(&self, rule: &str, deed: Deed, offence: &Offence) {
        let kind = Kind {
            rule: rule.to_owned(),
            command: offence.command.clone(),
            pattern: offence.pattern.clone(),
            name: offence.name.clone(),
        };
        let mut kinds = self.lock();
        if kinds.len() >= KINDS_MAX && !kinds.contains_key(&kind) {
            let rarest = kinds.iter().min_by_key(|(_, it)| (it.refused + it.spared, it.last));
            let rarest = rarest.map(|(kind, _)| kind.clone());
            rarest.and_then(|rarest| kinds.remove(&rarest));
        }
        let counts = kinds.entry(kind).or_default();
        counts.refused += u64::from(deed == Deed::Refused);
        counts.spared += u64::from(deed == Deed::Spared);
        counts.last = offence.at;
        if offence.size >= counts.biggest.size {
            counts.biggest = offence.clone();
        }
    }

    /// The most frequent kinds, those that would be refused before those that are.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> =
            self.lock().iter().map(|(kind, counts)| row(kind, counts)).collect();
        let rank = |row: &Row| (row.would_refuse, row.refused, row.biggest, row.last);
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(rank(row)));
        rows.truncate(ROWS_MAX);
        rows
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Kind, Counts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn row(kind: &Kind, counts: &Counts) -> Row {
    let Kind { rule, command, pattern, name } = kind.clone();
    let Counts { refused, spared, biggest, last } = counts;
    Row {
        rule,
        command,
        pattern,
        name,
        refused: *refused,
        would_refuse: *spared,
        biggest: biggest.size,
        unit: biggest.unit,
        address: biggest.address.clone(),
        last: *last,
    }
}

/// Most kinds that are counted.
const KINDS_MAX: usize = 1_000;
/// Most rows that are shown.
const ROWS_MAX: usize = 100;
/// Most words of a key that its pattern tells apart.
const PIECES_MAX: usize = 8;
/// Longest first word that is shown.
const WORD_BYTES_MAX: usize = 32;
/// Longest text of a client.
const TEXT_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_tells_the_kind_of_a_key_and_never_the_key() {
        for (key, pattern) in [
            ("session:8f3a", "session:*"),
            ("user:alice@example.com:cart", "user:*@*.*:*"),
            ("user12", "user*"),
            ("alice", "*"),
            ("4711", "*"),
            ("", ""),
            ("{user:alice}:cart", "{*:*}:*"),
            ("a:b:c:d:e:f:g:h:i:j", "a:*:*:*:*:*:*:*:*"),
            ("cart-\u{e9}t\u{e9}", "cart-*"),
        ] {
            assert_eq!(folded(key.as_bytes()), pattern, "{key}");
        }
    }

    fn offence(name: &str, size: u64) -> Offence {
        let (name, command) = (name.to_owned(), "keys".to_owned());
        Offence { name, command, size, at: 1, ..Offence::default() }
    }

    #[test]
    fn kinds_are_counted_together_and_the_biggest_is_kept() {
        let report = Report::default();
        for size in [3, 9, 5] {
            report.count("r", Deed::Spared, &offence("app", size));
        }
        report.count("r", Deed::Refused, &offence("other", 1));
        let rows = report.rows();
        assert_eq!(rows.len(), 2);
        let first = (rows[0].name.as_str(), rows[0].would_refuse, rows[0].refused, rows[0].biggest);
        assert_eq!(first, ("app", 3, 0, 9));
        assert_eq!((rows[1].would_refuse, rows[1].refused), (0, 1));
    }

    #[test]
    fn a_flood_of_kinds_is_bounded_and_does_not_push_out_the_frequent_one() {
        let report = Report::default();
        for _ in 0..10 {
            report.count("r", Deed::Refused, &offence("regular", 1));
        }
        for number in 0..KINDS_MAX * 2 {
            report.count("r", Deed::Refused, &offence(&format!("n{number}"), 1));
        }
        assert_eq!(report.lock().len(), KINDS_MAX);
        assert_eq!(report.rows().len(), ROWS_MAX);
        assert_eq!((report.rows()[0].name.as_str(), report.rows()[0].refused), ("regular", 10));
    }
}

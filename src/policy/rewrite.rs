//! What goes in the place of a command whose rule says `rewrite`.
//!
//! Owns the plan: another command, the same one in parts, or pages that are put together. Pure
//! functions of the command's words; `dispatch::rewrite` carries the plan out. What surprises: a
//! command that the rewrite does not speak of, or that is well as it is, goes as it came, and so
//! does one whose words make no sense: the server's own error is better than ours.

use super::rule::Rewrite;
use crate::command::Command;
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::resp::{parse_integer, write};

/// What is done instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it goes as it came.
    AsItIs,
    /// This command goes.
    Instead(Vec<u8>),
    /// It goes in parts of so many keys.
    Parts(usize),
    /// Its answer is put together from pages.
    Pages(Source),
}

/// Where pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// KEYS: from SCAN.
    Keyspace,
    /// HGETALL: from HSCAN.
    Hash,
    /// SMEMBERS: from SSCAN.
    Set,
}

// === impl Plan ===

impl Plan {
    /// What a rewrite makes of a command.
    #[must_use]
    pub fn of(rewrite: &Rewrite, spec: &Spec, command: &Command<'_>) -> Self {
        let instead = match rewrite {
            Rewrite::Unlink => (spec.id == DEL).then(|| renamed(command, b"UNLINK")),
            Rewrite::Async => asynchronous(spec, command),
            Rewrite::ClampCount(most) => clamped(spec, command, *most),
            Rewrite::Scan(_) => {
                return Source::of(spec.id).map_or(Self::AsItIs, Self::Pages);
            }
            Rewrite::Batch(size) => {
                // Each of these takes nothing but keys.
                let is_wide = DIVISIBLE.contains(&spec.id) && command.len() - 1 > *size;
                return if is_wide { Self::Parts((*size).max(1)) } else { Self::AsItIs };
            }
        };
        instead.map_or(Self::AsItIs, Self::Instead)
    }
}

// === impl Source ===

impl Source {
    fn of(command: CommandId) -> Option<Self> {
        match command {
            KEYS => Some(Self::Keyspace),
            HGETALL => Some(Self::Hash),
            SMEMBERS => Some(Self::Set),
            _ => None,
        }
    }

    /// What a client may call itself instead.
    #[must_use]
    pub fn cursor_command(self) -> &'static str {
        match self {
            Self::Keyspace => "SCAN",
            Self::Hash => "HSCAN",
            Self::Set => "SSCAN",
        }
    }
}

/// The same arguments under another name.
fn renamed(command: &Command<'_>, name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(command.frame().len() + name.len());
    write::array_header(&mut bytes, command.len());
    write::bulk(&mut bytes, name);
    bytes.extend_from_slice(command.raw(1..command.len()));
    bytes
}

/// FLUSHALL or FLUSHDB without a word, or with SYNC, and ASYNC in its place.
fn asynchronous(spec: &Spec, command: &Command<'_>) -> Option<Vec<u8>> {
    let is_sync = match command.len() {
        1 => true,
        2 => command.has_word_at(1, "sync"),
        _ => false,
    };
    let is_meant = is_sync && (spec.id == FLUSHALL || spec.id == FLUSHDB);
    is_meant.then(|| {
        let mut bytes = Vec::new();
        write::command(&mut bytes, &[command.name(), b"ASYNC"]);
        bytes
    })
}

/// SCAN and its kin with a COUNT above `most`, made so many.
fn clamped(spec: &Spec, command: &Command<'_>, most: u64) -> Option<Vec<u8>> {
    let first = match spec.id {
        SCAN => 2,
        HSCAN | SSCAN | ZSCAN => 3,
        _ => return None,
    };
    let large: Vec<usize> = counts(command, first)
        .filter(|&index| {
            let count = command.argument(index).and_then(parse_integer);
            count.and_then(|count| u64::try_from(count).ok()).is_some_and(|count| count > most)
        })
        .collect();
    if large.is_empty() {
        return None;
    }
    let most = most.max(1).to_string();
    let mut bytes = Vec::with_capacity(command.frame().len());
    write::array_header(&mut bytes, command.len());
    for (index, argument) in command.arguments().enumerate() {
        // Redis takes the last of several; none of them may be large.
        let is_large = large.contains(&index);
        write::bulk(&mut bytes, if is_large { most.as_bytes() } else { argument });
    }
    Some(bytes)
}

/// Places of the numbers behind COUNT, as far as the options make sense.
fn counts<'a>(command: &'a Command<'_>, first: usize) -> impl Iterator<Item = usize> + 'a {
    let mut index = first;
    std::iter::from_fn(move || {
        while index < command.len() {
            let option = index;
            // MATCH and TYPE take a word too, which may well be `count`.
            index += if command.has_word_at(option, "novalues") { 1 } else { 2 };
            if command.has_word_at(option, "count") {
                return Some(option + 1);
            }
        }
        None
    })
}

/// What takes nothing but keys and means the same in parts. MSET is atomic, and is none of them.
const DIVISIBLE: [CommandId; 5] = [
    builtin_id("mget"),
    builtin_id("exists"),
    builtin_id("touch"),
    builtin_id("del"),
    builtin_id("unlink"),
];
const DEL: CommandId = builtin_id("del");
const FLUSHALL: CommandId = builtin_id("flushall");
const FLUSHDB: CommandId = builtin_id("flushdb");
const HGETALL: CommandId = builtin_id("hgetall");
const HSCAN: CommandId = builtin_id("hscan");
const KEYS: CommandId = builtin_id("keys");
const SCAN: CommandId = builtin_id("scan");
const SMEMBERS: CommandId = builtin_id("smembers");
const SSCAN: CommandId = builtin_id("sscan");
const ZSCAN: CommandId = builtin_id("zscan");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::Table;
    use crate::command::tests::Request;
    use crate::policy::rule::Paging;
    use std::time::Duration;

    fn plan(rewrite: Rewrite, line: &str) -> Plan {
        let (table, request) = (Table::builtin(), Request::words(line));
        let command = request.command();
        Plan::of(&rewrite, table.resolve(&command).unwrap(), &command)
    }

    /// The words of what goes instead.
    fn instead(rewrite: Rewrite, line: &str) -> Option<String> {
        match plan(rewrite, line) {
            Plan::Instead(bytes) => {
                let text = String::from_utf8(bytes).unwrap();
                let words: Vec<&str> = text.split("\r\n").skip(2).step_by(2).collect();
                assert!(text.starts_with(&format!("*{}\r\n", words.len())), "{text}");
                Some(words.join(" "))
            }
            Plan::AsItIs => None,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn del_becomes_unlink_and_nothing_else_does() {
        assert_eq!(instead(Rewrite::Unlink, "del a b").as_deref(), Some("UNLINK a b"));
        assert_eq!(instead(Rewrite::Unlink, "UNLINK a"), None);
        assert_eq!(instead(Rewrite::Unlink, "GETDEL a"), None);
    }

    #[test]
    fn a_flush_is_made_asynchronous_unless_it_is_or_makes_no_sense() {
        let made = |line| instead(Rewrite::Async, line);
        assert_eq!(made("FLUSHALL").as_deref(), Some("FLUSHALL ASYNC"));
        assert_eq!(made("flushdb sYnC").as_deref(), Some("flushdb ASYNC"));
        for line in ["FLUSHALL ASYNC", "FLUSHDB x", "FLUSHALL SYNC SYNC", "SCRIPT FLUSH"] {
            assert_eq!(made(line), None, "{line}");
        }
    }

    #[test]
    fn every_large_count_is_clamped_and_a_pattern_of_that_name_is_not() {
        let made = |line| instead(Rewrite::ClampCount(1000), line);
        for (line, want) in [
            ("SCAN 0 COUNT 5000", "SCAN 0 COUNT 1000"),
            ("SCAN 0 count 5000 MATCH x COUNT 6000", "SCAN 0 count 1000 MATCH x COUNT 1000"),
            ("HSCAN h 0 NOVALUES COUNT 1001", "HSCAN h 0 NOVALUES COUNT 1000"),
            ("SSCAN s 0 MATCH COUNT COUNT 9999", "SSCAN s 0 MATCH COUNT COUNT 1000"),
            ("ZSCAN 5000 0 COUNT 5000", "ZSCAN 5000 0 COUNT 1000"),
        ] {
            assert_eq!(made(line).as_deref(), Some(want), "{line}");
        }
        for line in [
            "SCAN 0 COUNT 1000",
            "SCAN 5000",
            "SCAN 0 MATCH COUNT TYPE 5000",
            "SCAN 0 COUNT",
            "SCAN 0 COUNT x",
            "SCAN 0 COUNT -5",
            "HSCAN COUNT 5000",
            "SRANDMEMBER COUNT 5000",
        ] {
            assert_eq!(made(line), None, "{line}");
        }
    }

    #[test]
    fn what_is_only_keys_goes_in_parts_and_what_is_atomic_never() {
        assert_eq!(plan(Rewrite::Batch(2), "MGET a b c"), Plan::Parts(2));
        assert_eq!(plan(Rewrite::Batch(3), "MGET a b c"), Plan::AsItIs);
        assert_eq!(plan(Rewrite::Batch(0), "DEL a"), Plan::Parts(1));
        for line in ["MSET a 1 b 2", "SINTER a b c", "PFCOUNT a b c", "SDIFFSTORE d a b c"] {
            assert_eq!(plan(Rewrite::Batch(1), line), Plan::AsItIs, "{line}");
        }
    }

    #[test]
    fn three_commands_are_put_together_from_pages() {
        let every = Duration::ZERO;
        let paging = Paging { page: 10, every, max_bytes: 1, max_elements: 1 };
        let made = |line| plan(Rewrite::Scan(paging), line);
        assert_eq!(made("KEYS *"), Plan::Pages(Source::Keyspace));
        assert_eq!(made("hgetall h"), Plan::Pages(Source::Hash));
        assert_eq!(made("SMEMBERS s"), Plan::Pages(Source::Set));
        assert_eq!(made("HKEYS h"), Plan::AsItIs);
    }
}

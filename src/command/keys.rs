//! Which arguments of a command are keys: as `COMMAND GETKEYS` of Redis 7.0 would answer.
//!
//! Owns the interpretation of key specs, and the seven rules for the commands whose keys no spec
//! can tell (SORT … STORE, MIGRATE … KEYS and kin). Never hashes a key and never decides what a key
//! is good for.
//!
//! Two surprises. Redis asks the specs first, and only if these make no sense of the arguments its
//! own rule for the command, which is more lenient: to the specs of EVAL `1x` is no number, to its
//! rule it is 1. And channels of sharded pub/sub are found like keys and marked as none
//! ([`KeyFlags::NOT_KEY`]): they choose a slot.

use std::fmt;

use super::flags::{Flags, KeyFlags};
use super::spec::{BeginSearch, FindKeys, KeySpec, Spec};
use super::{Command, until_nul};

/// One key among the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPosition {
    /// Which argument it is; always one that the command has.
    pub index: u32,
    /// What is done with it; empty where Redis says nothing either.
    pub flags: KeyFlags,
}

/// Why no keys can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysError {
    /// The command never has keys.
    NoKeys,
    /// Too few or too many arguments: the server would refuse the command.
    Arity,
    /// The arguments make no sense: the server would refuse the command.
    Arguments,
    /// The command has keys that its specs cannot tell. Only commands that one upstream alone knows
    /// are like that; the upstream's own `COMMAND GETKEYS` may know more.
    Incomplete,
}

/// How Redis finds the keys of a command where key specs fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyRule {
    /// Not at all.
    SpecsOnly,
    /// A count at `count`, then that many keys at `first`; and one at `store`, unless that is 0.
    Counted { store: usize, count: usize, first: usize },
    /// SORT: the key and the last STORE.
    Sort,
    /// SORT_RO: the key.
    SortReadonly,
    /// MIGRATE: a key, or what follows KEYS.
    Migrate,
    /// XREAD, XREADGROUP: half of what follows STREAMS.
    Streams,
    /// SET: reads the key with GET.
    Set,
    /// BITFIELD: only reads the key if all it does is GET.
    Bitfield,
}

/// Where the keys of one spec lie: `first`, `first + step` … up to `last`, all within the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    first: usize,
    last: usize,
    step: usize,
}

/// What a spec makes of the arguments.
enum Located {
    /// Keys.
    Keys(Stretch),
    /// None: its keyword is not there.
    Absent,
    /// The arguments contradict it, or it cannot be interpreted.
    Nonsense,
}

/// Finds the keys of `command`, which is of `spec`, in the order of `COMMAND GETKEYS`.
///
/// `out` is emptied first and stays empty on error. Takes time and memory bounded by the number of
/// arguments, whatever count they name.
pub fn keys(
    spec: &Spec,
    command: &Command<'_>,
    out: &mut Vec<KeyPosition>,
) -> Result<(), KeysError> {
    out.clear();
    if spec.key_specs.is_empty() {
        return Err(KeysError::NoKeys);
    }
    if !spec.takes(command.len()) {
        return Err(KeysError::Arity);
    }
    let flags_vary =
        has_flag(spec, KeyFlags::VARIABLE_FLAGS) && spec.key_rule != KeyRule::SpecsOnly;
    if flags_vary || !by_specs(spec, command, out) {
        out.clear();
        by_rule(spec.key_rule, command, out);
    }
    if out.is_empty() && spec.has_keys() && !spec.flags.contains(Flags::NO_MANDATORY_KEYS) {
        return Err(reason(spec));
    }
    Ok(())
}

/// About how many keys a command has, without writing them down; 0 where only a rule could tell.
pub(super) fn count(spec: &Spec, command: &Command<'_>) -> usize {
    let stretches = spec.key_specs.iter().map(|key_spec| match locate(key_spec, command) {
        Located::Keys(stretch) => stretch.len(),
        Located::Absent | Located::Nonsense => 0,
    });
    stretches.sum()
}

/// Interprets the key specs. False if one of them makes no sense of these arguments.
fn by_specs(spec: &Spec, command: &Command<'_>, out: &mut Vec<KeyPosition>) -> bool {
    for key_spec in &spec.key_specs {
        match locate(key_spec, command) {
            Located::Keys(stretch) => stretch.push_to(out, key_spec.flags),
            Located::Absent => continue,
            // SUNSUBSCRIBE without a channel is no mistake.
            Located::Nonsense if key_spec.flags.contains(KeyFlags::NOT_KEY) => continue,
            Located::Nonsense => return false,
        }
        if key_spec.flags.contains(KeyFlags::INCOMPLETE) {
            return false;
        }
    }
    true
}

/// Where the keys of one spec are.
fn locate(spec: &KeySpec, command: &Command<'_>) -> Located {
    let count = command.len() as i64;
    let begin = match &spec.begin {
        BeginSearch::Index(index) => i64::from(*index),
        BeginSearch::Keyword { word, from } => match find_word(command, word, i64::from(*from)) {
            Some(index) => index + 1,
            None => return Located::Absent,
        },
        BeginSearch::Unknown => return Located::Nonsense,
    };
    let (first, last, step) = match spec.find {
        FindKeys::Range { last, step, limit } => {
            (begin, end_of_range(begin, count, last.into(), limit.into()), step)
        }
        FindKeys::Count { index, first, step } => {
            let Some(keys) = number_at(command, begin + i64::from(index)) else {
                return Located::Nonsense;
            };
            let first = begin + i64::from(first);
            // Redis cuts the count to 32 bits here. It is refused when the command runs, but the
            // slot it was routed by until then should be the same.
            (first, first + i64::from((keys - 1) as i32) * i64::from(step), step)
        }
        FindKeys::Unknown => return Located::Nonsense,
    };
    Stretch::within(first, last, i64::from(step), count).map_or(Located::Nonsense, Located::Keys)
}

/// The last key of a range: relative to the first, or from the end.
fn end_of_range(first: i64, count: i64, last: i64, limit: i64) -> i64 {
    match (last, limit) {
        (0.., _) => first + last,
        (_, ..=1) => count + last,
        // The first 1/limit of the rest: XREAD has as many keys as ids.
        _ => first + (count - first) / limit + last,
    }
}

/// The argument that is `word`, looked for from `from` on, or backwards from the end. Redis does not
/// look at the last argument, behind which no key can be, nor going backwards at the first.
fn find_word(command: &Command<'_>, word: &str, from: i64) -> Option<i64> {
    let count = command.len() as i64;
    let is_word =
        |index: &i64| usize::try_from(*index).is_ok_and(|index| command.has_word_at(index, word));
    if from > 0 {
        (from..count - 1).find(is_word)
    } else {
        (2..=(count + from).min(count - 1)).rev().find(is_word)
    }
}

/// The count of keys that an argument names, as Redis reads integers: no blanks, no plus, no leading
/// zero. `None` if there is no such argument, or it is no number, or negative.
fn number_at(command: &Command<'_>, index: i64) -> Option<i64> {
    let text = command.argument(usize::try_from(index).ok()?)?;
    let is_canonical =
        text.first() != Some(&b'+') && (text.len() == 1 || text.first() != Some(&b'0'));
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (is_canonical && number >= 0).then_some(number)
}

/// Whether one of the specs of real keys has a flag.
fn has_flag(spec: &Spec, flag: KeyFlags) -> bool {
    let real = |key_spec: &&KeySpec| !key_spec.flags.contains(KeyFlags::NOT_KEY);
    spec.key_specs.iter().filter(real).any(|key_spec| key_spec.flags.contains(flag))
}

/// Why nothing was found: the arguments, or specs that cannot tell.
fn reason(spec: &Spec) -> KeysError {
    let is_vague = |key_spec: &KeySpec| {
        key_spec.begin == BeginSearch::Unknown
            || key_spec.find == FindKeys::Unknown
            || key_spec.flags.contains(KeyFlags::INCOMPLETE)
    };
    let is_lost = spec.key_rule == KeyRule::SpecsOnly && spec.key_specs.iter().any(is_vague);
    if is_lost { KeysError::Incomplete } else { KeysError::Arguments }
}

// === impl Stretch ===

impl Stretch {
    /// A stretch that lies within `count` arguments, and goes forward; everything else is nonsense.
    fn within(first: i64, last: i64, step: i64, count: i64) -> Option<Stretch> {
        if first < 0 || last < first || last >= count || step < 1 {
            return None;
        }
        Some(Stretch { first: first as usize, last: last as usize, step: step as usize })
    }

    /// How many keys it has.
    fn len(self) -> usize {
        (self.last - self.first) / self.step + 1
    }

    fn push_to(self, out: &mut Vec<KeyPosition>, flags: KeyFlags) {
        for index in (self.first..=self.last).step_by(self.step) {
            push(out, index, flags);
        }
    }
}

/// Keys by the rule of a command.
fn by_rule(rule: KeyRule, command: &Command<'_>, out: &mut Vec<KeyPosition>) {
    match rule {
        KeyRule::SpecsOnly => {}
        KeyRule::Counted { store, count, first } => counted(command, store, count, first, out),
        KeyRule::Sort => sort(command, out),
        KeyRule::SortReadonly => push(out, 1, KeyFlags::RO | KeyFlags::ACCESS),
        KeyRule::Migrate => migrate(command, out),
        KeyRule::Streams => streams(command, out),
        KeyRule::Set => push(out, 1, set_flags(command)),
        KeyRule::Bitfield => push(out, 1, bitfield_flags(command)),
    }
}

/// A count, the keys behind it, and last the destination: the order in which Redis lists them here.
/// More keys than arguments, or none, is a mistake to this rule.
fn counted(
    command: &Command<'_>,
    store: usize,
    count: usize,
    first: usize,
    out: &mut Vec<KeyPosition>,
) {
    let keys = command.argument(count).map_or(0, lenient_number);
    let Some(keys) = usize::try_from(keys).ok().filter(|keys| *keys > 0) else {
        return;
    };
    if keys > command.len().saturating_sub(first) {
        return;
    }
    for index in first..first + keys {
        push(out, index, KeyFlags::default());
    }
    if store > 0 {
        push(out, store, KeyFlags::default());
    }
}

/// `SORT key … STORE destination`. Of several destinations the last one counts, as when it runs.
fn sort(command: &Command<'_>, out: &mut Vec<KeyPosition>) {
    push(out, 1, KeyFlags::RO | KeyFlags::ACCESS);
    let (mut index, mut store) = (2, None);
    while index < command.len() {
        let has = |word: &str| command.has_word_at(index, word);
        // Redis goes on with the destination as if it could be an option, and so do we.
        if has("store") && index + 1 < command.len() {
            store = Some(index + 1);
        }
        index += if has("limit") {
            3
        } else if has("get") || has("by") {
            2
        } else {
            1
        };
    }
    if let Some(index) = store {
        push(out, index, KeyFlags::OW | KeyFlags::UPDATE);
    }
}

/// `MIGRATE host port key|"" db timeout [options] [KEYS key …]`: KEYS cannot come earlier than sixth,
/// and neither a password nor a user's name is taken for it.
fn migrate(command: &Command<'_>, out: &mut Vec<KeyPosition>) {
    let flags = KeyFlags::RW | KeyFlags::ACCESS | KeyFlags::DELETE;
    let mut index = 6;
    while index < command.len() {
        let has = |word: &str| command.has_word_at(index, word);
        if has("keys") {
            // With KEYS the place of the single key must be empty; Redis refuses anything else.
            if command.argument(3).is_some_and(<[u8]>::is_empty) {
                (index + 1..command.len()).for_each(|key| push(out, key, flags));
            }
            return;
        }
        index += if has("auth2") {
            3
        } else if has("auth") {
            2
        } else {
            1
        };
    }
    push(out, 3, flags);
}

/// `XREAD [options] STREAMS key … id …`. Asked only where the key specs failed, hence strict.
fn streams(command: &Command<'_>, out: &mut Vec<KeyPosition>) {
    let mut index = 1;
    while index < command.len() && !command.has_word_at(index, "streams") {
        let has = |word: &str| command.has_word_at(index, word);
        index += match () {
            () if has("block") || has("count") => 2,
            () if has("group") => 3,
            () if has("noack") => 1,
            () => return,
        };
    }
    // As many ids as keys.
    let rest = command.len().saturating_sub(index + 1);
    if rest.is_multiple_of(2) {
        (index + 1..index + 1 + rest / 2).for_each(|key| push(out, key, KeyFlags::default()));
    }
}

/// SET overwrites its key; with GET it tells what was there, too.
fn set_flags(command: &Command<'_>) -> KeyFlags {
    if (3..command.len()).any(|index| command.has_word_at(index, "get")) {
        KeyFlags::RW | KeyFlags::ACCESS | KeyFlags::UPDATE
    } else {
        KeyFlags::OW | KeyFlags::UPDATE
    }
}

/// BITFIELD is a read if every operation is one; what Redis would refuse counts as a write.
fn bitfield_flags(command: &Command<'_>) -> KeyFlags {
    let mut index = 2;
    while index < command.len() {
        let has = |word: &str| command.has_word_at(index, word);
        let behind = command.len() - index - 1;
        index += match () {
            () if has("get") && behind >= 2 => 3,
            () if has("overflow") && behind >= 1 => 2,
            () => return KeyFlags::RW | KeyFlags::ACCESS | KeyFlags::UPDATE,
        };
    }
    KeyFlags::RO | KeyFlags::ACCESS
}

/// Notes one key. A request has fewer than 2^32 arguments: its length in bytes is below that.
fn push(out: &mut Vec<KeyPosition>, index: usize, flags: KeyFlags) {
    out.push(KeyPosition { index: index as u32, flags });
}

/// A number as C's `atoi` reads it: blanks, a sign, digits up to anything else. Numbers beyond 64
/// bits end at the border, and the rest is cut to 32 bits.
fn lenient_number(text: &[u8]) -> i32 {
    let text = until_nul(text);
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    let text = text.get(blanks..).unwrap_or_default();
    let (is_negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let value = digits.fold(0i64, |sum, byte| {
        let digit = i64::from(byte - b'0');
        sum.saturating_mul(10).saturating_add(if is_negative { -digit } else { digit })
    });
    value as i32
}

// === impl KeyRule ===

impl KeyRule {
    /// The rule that Redis has for a command of this full name.
    pub(super) fn of(name: &str) -> KeyRule {
        match name {
            "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro" | "blmpop"
            | "bzmpop" => KeyRule::Counted { store: 0, count: 2, first: 3 },
            "lmpop" | "zmpop" | "sintercard" | "zintercard" | "zdiff" | "zinter" | "zunion" => {
                KeyRule::Counted { store: 0, count: 1, first: 2 }
            }
            "zdiffstore" | "zinterstore" | "zunionstore" => {
                KeyRule::Counted { store: 1, count: 2, first: 3 }
            }
            "sort" => KeyRule::Sort,
            "sort_ro" => KeyRule::SortReadonly,
            "migrate" => KeyRule::Migrate,
            "xread" | "xreadgroup" => KeyRule::Streams,
            "set" => KeyRule::Set,
            "bitfield" => KeyRule::Bitfield,
            _ => KeyRule::SpecsOnly,
        }
    }
}

// === impl KeysError ===

impl fmt::Display for KeysError {
    /// The words of COMMAND GETKEYS.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeysError::NoKeys => "The command has no key arguments",
            KeysError::Arity => "Invalid number of arguments specified for command",
            KeysError::Arguments => "Invalid arguments specified for command",
            KeysError::Incomplete => "The keys of the command cannot be told from its key specs",
        })
    }
}

impl std::error::Error for KeysError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::overlay::LiveSpec;
    use crate::command::table::Table;
    use crate::command::tests::Request;

    /// The keys of a request, or why there are none; the words of GETKEYS shortened.
    fn of(table: &Table, request: &Request) -> String {
        let command = request.command();
        let spec = table.resolve(&command).unwrap();
        let mut found = vec![KeyPosition { index: 99, flags: KeyFlags::RM }];
        match keys(spec, &command, &mut found) {
            Ok(()) => {
                let shown = found.iter().map(|key| {
                    String::from_utf8_lossy(command.argument(key.index as usize).unwrap())
                });
                shown.collect::<Vec<_>>().join(" ")
            }
            Err(error) => {
                assert!(found.is_empty());
                format!("{error:?}")
            }
        }
    }

    #[track_caller]
    fn check(cases: &[(&str, &str)]) {
        let table = Table::builtin();
        for (line, expected) in cases {
            assert_eq!(of(&table, &Request::words(line)), *expected, "{line}");
        }
    }

    #[test]
    fn fixed_and_ranged_keys() {
        check(&[
            ("GET a", "a"),
            ("MGET a b c", "a b c"),
            ("MSET a 1 b 2", "a b"),
            ("MSET a 1 b", "a b"),
            ("BLPOP a b 0", "a b"),
            ("OBJECT ENCODING a", "a"),
            ("XGROUP CREATE s g 0", "s"),
            ("BITOP AND d a b", "d a b"),
            ("RENAME a b", "a b"),
            ("PFMERGE d a b", "d a b"),
            ("PING", "NoKeys"),
            ("CLIENT KILL x", "NoKeys"),
            ("GET", "Arity"),
            ("GET a b", "Arity"),
            ("BITOP AND d", "Arity"),
        ]);
    }

    #[test]
    fn counted_keys() {
        check(&[
            ("EVAL x 2 a b c", "a b"),
            ("EVAL x 0", ""),
            ("EVAL x 0 a", ""),
            ("EVAL x 3 a b", ""),
            ("EVAL x -1 a", ""),
            ("EVAL x 1x a b", "a"),
            ("EVAL x 01 a b", "a"),
            ("EVAL x +1 a b", "a"),
            ("EVAL x 4294967297 a b", "a"),
            ("EVAL x 9223372036854775807 a", ""),
            ("EVAL x 99999999999999999999 a", ""),
            ("FCALL f 1 a b", "a"),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"),
            ("ZUNIONSTORE d 2x a b", "a b d"),
            ("ZUNIONSTORE d 0 a", "Arguments"),
            ("ZUNION 3 a b", "Arguments"),
            ("LMPOP 1 a LEFT", "a"),
            ("BLMPOP 0 2 a b LEFT", "a b"),
        ]);
    }

    #[test]
    fn keys_behind_keywords() {
        check(&[
            ("XREAD COUNT 1 STREAMS a b 0 0", "a b"),
            ("XREAD STREAMS a b c", "a"),
            ("XREAD x y STREAMS a", "Arguments"),
            ("XREAD x y z", "Arguments"),
            ("XREADGROUP GROUP streams c STREAMS a >", "a"),
            ("GEORADIUS g 1 2 3 m STORE a", "g a"),
            ("GEORADIUS g 1 2 3 m STOREDIST a STORE b", "g b a"),
            ("GEORADIUS g 1 2 3 m STORE", "g"),
            ("SORT k", "k"),
            ("SORT k GET store STORE a store b", "k b"),
            ("SORT k LIMIT 0 STORE STORE a", "k a"),
            ("SORT k STORE limit STORE b", "k limit"),
            ("SORT k STORE", "k"),
            ("SORT_RO k BY nosort GET x", "k"),
            ("MIGRATE h 1 k 0 1", "k"),
            ("MIGRATE h 1 k 0 1 AUTH keys", "k"),
            ("MIGRATE h 1 k 0 1 KEYS a", "Arguments"),
        ]);
        let table = Table::builtin();
        let migrate = |rest: &[&str]| {
            of(&table, &Request::new(&[&["MIGRATE", "h", "1", "", "0", "1"], rest].concat()))
        };
        assert_eq!(migrate(&["COPY", "AUTH2", "keys", "keys", "KEYS", "a", "b"]), "a b");
        assert_eq!(migrate(&["KEYS"]), "");
        assert_eq!(migrate(&[]), "");
    }

    #[test]
    fn channels_are_marked_as_no_keys() {
        let table = Table::builtin();
        for (line, expected) in [("SPUBLISH c m", 1), ("SSUBSCRIBE a b c", 3), ("SUNSUBSCRIBE", 0)]
        {
            let request = Request::words(line);
            let spec = table.resolve(&request.command()).unwrap();
            let mut found = Vec::new();
            assert_eq!(keys(spec, &request.command(), &mut found), Ok(()));
            assert_eq!(found.len(), expected, "{line}");
            assert!(found.iter().all(|key| key.flags.contains(KeyFlags::NOT_KEY)));
            assert!(!spec.has_keys());
        }
    }

    #[test]
    fn flags_follow_the_arguments_of_set_and_bitfield() {
        let table = Table::builtin();
        for (line, expected) in [
            ("SET k v", "OW update"),
            ("SET k v EX 5 get", "RW access update"),
            ("BITFIELD k GET u8 0 OVERFLOW SAT GET u8 1", "RO access"),
            ("BITFIELD k GET u8 0 INCRBY u8 0 1", "RW access update"),
            ("BITFIELD k GET u8", "RW access update"),
            ("GETDEL k", "RW access delete"),
        ] {
            let request = Request::words(line);
            let mut found = Vec::new();
            keys(table.resolve(&request.command()).unwrap(), &request.command(), &mut found)
                .unwrap();
            let names: Vec<_> = found[0].flags.names().collect();
            assert_eq!((found.len(), names.join(" ").as_str()), (1, expected), "{line}");
        }
    }

    #[test]
    fn lenient_numbers_are_those_of_atoi() {
        for (text, expected) in [
            (&b"12"[..], 12),
            (b" \x0b\t-3x", -3),
            (b"+7", 7),
            (b"", 0),
            (b"x", 0),
            (b"--1", 0),
            (b"1\x005", 1),
            (b"4294967298", 2),
            (b"99999999999999999999", -1),
        ] {
            assert_eq!(lenient_number(text), expected, "{text:?}");
        }
    }

    /// A table with one command whose single key spec a hostile server made up.
    fn stranger(begin: BeginSearch, find: FindKeys, flags: KeyFlags) -> Table {
        let live = LiveSpec {
            name: "m.x".to_owned(),
            key_specs: vec![KeySpec { begin, find, flags }],
            ..LiveSpec::default()
        };
        Table::builtin().overlay(vec![live])
    }

    #[test]
    fn absurd_specs_of_strangers_find_nothing_and_end_soon() {
        let request = Request::words("m.x 2147483647 k 1 9223372036854775807 k");
        let odd = [i32::MIN, -7, -1, 0, 1, 2, 5, 6, i32::MAX];
        for begin in odd {
            for (a, b) in odd.iter().flat_map(|a| odd.map(|b| (*a, b))) {
                for step in odd {
                    for find in [
                        FindKeys::Range { last: a, step, limit: b },
                        FindKeys::Count { index: a, first: b, step },
                    ] {
                        let starts = [
                            BeginSearch::Index(begin),
                            BeginSearch::Keyword { word: "k".into(), from: begin },
                        ];
                        for begin in starts {
                            let spec = KeySpec { begin, find, flags: KeyFlags::RW };
                            if let Located::Keys(stretch) = locate(&spec, &request.command()) {
                                assert!(stretch.last < 6 && stretch.len() <= 6);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_keyword_is_looked_for_backwards_too() {
        let range = FindKeys::Range { last: -1, step: 1, limit: 0 };
        let begin = BeginSearch::Keyword { word: "K".into(), from: -2 };
        let table = stranger(begin, range, KeyFlags::RW);
        assert_eq!(of(&table, &Request::words("m.x k k a b")), "a b");
        assert_eq!(of(&table, &Request::words("m.x a b c")), "Arguments");
    }

    #[test]
    fn a_stranger_whose_specs_are_vague_says_so() {
        let range = FindKeys::Range { last: 0, step: 1, limit: 0 };
        let unknown = stranger(BeginSearch::Unknown, range, KeyFlags::RW);
        assert_eq!(of(&unknown, &Request::words("m.x a")), "Incomplete");
        let incomplete = stranger(BeginSearch::Index(1), range, KeyFlags::INCOMPLETE);
        assert_eq!(of(&incomplete, &Request::words("m.x a")), "Incomplete");
        // Modules that give no flags get this one by default; the position is right all the same.
        let varies = stranger(BeginSearch::Index(1), range, KeyFlags::VARIABLE_FLAGS);
        assert_eq!(of(&varies, &Request::words("m.x a")), "a");
    }
}

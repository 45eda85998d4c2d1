//! The policy file: any text is rules or complaints, and what is laid out decides like the rules one by one.
//!
//! Input: the text of a file. It is judged as an operator's; whatever it is, nothing panics, and each complaint has a
//! place in it. Rules of a right file are laid out, and for some commands on keys of its own the policy must name the
//! rule that a walk over all rules finds, which is written here. Read again, the file differs in nothing.
#![no_main]

use std::sync::{Arc, LazyLock};

use breakwater::command::keys::{self, KeyPosition};
use breakwater::command::table::Table;
use breakwater::config::{Complaint, KeyPatterns, Profile};
use breakwater::policy::diff::carried_over;
use breakwater::policy::file::{self, Clock, RULES_MAX};
use breakwater::policy::rule::{Origin, Rule};
use breakwater::policy::{Caller, Case, Policy};
use breakwater::pubsub::glob;
use breakwater::resp::write;
use breakwater::route::frame;
use libfuzzer_sys::fuzz_target;

static TABLE: LazyLock<Table> = LazyLock::new(Table::builtin);

/// Neither clock moves, so that a time in the file means the same twice.
const CLOCK: Clock = Clock { now: 1, unix: 1_700_000_000 };

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let rules = match file::parse("policy.toml", text, Origin::File, CLOCK) {
        Ok(rules) => rules.rules,
        Err(complaints) => return check_complaints(text, &complaints),
    };
    assert!(rules.len() <= RULES_MAX, "more rules than there may be");
    let again = file::parse("policy.toml", text, Origin::File, CLOCK).expect("it was right before");
    let (carried, diff) = carried_over(&rules, &again.rules);
    assert!(diff.is_empty(), "the same text says something else: {}", diff.words());
    assert!(carried.iter().zip(&rules).all(|(one, other)| Arc::ptr_eq(one, other)));
    for profile in [Profile::Guard, Profile::Observe] {
        check_verdicts(&Policy::new(1, profile, rules.clone()), profile);
    }
});

/// There is at least one, and an editor finds its place.
fn check_complaints(text: &str, complaints: &[Complaint]) {
    assert!(!complaints.is_empty(), "refused without a word");
    let lines = text.split('\n').count() as u32;
    for complaint in complaints {
        let place = complaint.position.expect("what is wrong with a text has a place in it");
        assert!((1..=lines).contains(&place.line) && place.column > 0, "{complaint}");
        assert!(!complaint.to_string().contains('\n'), "{complaint:?}");
    }
}

/// The plans and the index find what a walk over the rules finds.
fn check_verdicts(policy: &Policy, profile: Profile) {
    let patterns = policy.rules().iter().filter_map(|rule| rule.keys.as_ref());
    let mut subjects: Vec<&[u8]> =
        patterns.flat_map(KeyPatterns::iter).map(str::as_bytes).take(KEYS_MAX).collect();
    subjects.push(b"user:1");
    for subject in subjects {
        for words in [
            &[b"GET", subject][..],
            &[b"MGET", subject, b"user:1"],
            &[b"SET", subject, b"value"],
            &[b"HGETALL", subject],
            &[b"SCAN", b"0", b"MATCH", subject, b"COUNT", b"5000"],
            &[b"KEYS", subject],
            &[b"CONFIG", b"SET", b"maxmemory", b"1"],
            &[b"EVAL", b"return 1", b"1", subject],
        ] {
            check_verdict(policy, profile, words);
        }
    }
}

fn check_verdict(policy: &Policy, profile: Profile, words: &[&[u8]]) {
    let mut bytes = Vec::new();
    write::command(&mut bytes, words);
    frame::with_command(&TABLE, &bytes, |command, spec| {
        let mut positions: Vec<KeyPosition> = Vec::new();
        // What makes no sense leaves the list empty.
        let _ = keys::keys(spec, command, &mut positions);
        let caller = Caller { id: 7, user: b"app", ..Caller::default() };
        let case = Case { spec, command: *command, keys: &positions, caller: &caller, now: 1 };
        let decides = |rule: &&Arc<Rule>| {
            rule.matches_but_for_keys(&case) && speaks_of(rule, &case) && rule.decides(profile, &case)
        };
        let want = policy.rules().iter().find(decides);
        let got = match policy.looks_at(spec.id, command.len()) {
            true => policy.judge(&case, &mut |_| ()),
            false => None,
        };
        assert_eq!(got.map(|rule| &rule.name), want.map(|rule| &rule.name), "{words:?}");
    });
}

/// A restricting rule speaks of any key, a permission of all of them.
fn speaks_of(rule: &Rule, case: &Case<'_>) -> bool {
    let Some(patterns) = &rule.keys else {
        return true;
    };
    let is_meant = |key: &[u8]| patterns.iter().any(|it| glob::matches(it.as_bytes(), key));
    let mut keys = case.keys().peekable();
    match rule.wants_all_keys() {
        true => keys.peek().is_some() && keys.all(is_meant),
        false => keys.any(is_meant),
    }
}

/// Of so many patterns the text itself is looked for as a key.
const KEYS_MAX: usize = 16;

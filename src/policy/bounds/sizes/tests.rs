//! What is believed of sizes, and for how long.
//!
//! Owns the proof of each promise of adaptive questions. What surprises: time is a number here, and the memory of
//! a size does not know what kind of command it came from.

use super::*;
use crate::command::keys;
use crate::command::table::Table;
use crate::command::tests::Request;
use crate::policy::bounds::questions;

const LIMIT: u64 = 10_000;
const START: Micros = 1_000 * clock::SECOND;

fn subject_of(sizes: &Sizes, line: &str, (user, db): (u16, u32)) -> Subject {
    let (table, request) = (Table::builtin(), Request::words(line));
    let spec = table.resolve(&request.command()).unwrap();
    let mut found = Vec::new();
    keys::keys(spec, &request.command(), &mut found).unwrap();
    let plan = questions::plan(spec, request.command(), &found).unwrap();
    sizes.subject(&plan, user, db)
}

fn subject(sizes: &Sizes, line: &str) -> Subject {
    subject_of(sizes, line, (0, 0))
}

fn weigh(sizes: &mut Sizes, line: &str, now: Micros) -> Weight {
    let subject = subject(sizes, line);
    sizes.weigh(subject, LIMIT, now, |total| total)
}

fn note(sizes: &mut Sizes, line: &str, total: u64, now: Micros) {
    let subject = subject(sizes, line);
    sizes.note(subject, total, now);
}

#[test]
fn what_is_small_is_believed_for_a_minute() {
    let mut sizes = Sizes::default();
    assert_eq!(weigh(&mut sizes, "HGETALL h", START), Weight::Unknown);
    note(&mut sizes, "HGETALL h", LIMIT / 2, START);
    let end = START + BELIEVED_FOR;
    assert_eq!(weigh(&mut sizes, "HGETALL h", end), Weight::Small);
    assert_eq!(weigh(&mut sizes, "HKEYS h", end), Weight::Small, "the same question");
    assert_eq!(weigh(&mut sizes, "SMEMBERS h", end), Weight::Unknown, "another question");
    assert_eq!(weigh(&mut sizes, "HGETALL h", end + 1), Weight::Unknown);
    note(&mut sizes, "HGETALL h", LIMIT / 2 + 1, end);
    assert_eq!(weigh(&mut sizes, "HGETALL h", end), Weight::Unknown, "near the limit: ask");
}

#[test]
fn what_is_large_is_refused_and_asked_about_once_a_second() {
    let mut sizes = Sizes::default();
    note(&mut sizes, "HGETALL h", LIMIT + 1, START);
    assert_eq!(weigh(&mut sizes, "HGETALL h", START), Weight::Large(LIMIT + 1));
    assert_eq!(weigh(&mut sizes, "HGETALL h", START + RECHECK - 1), Weight::Large(LIMIT + 1));
    let later = START + RECHECK;
    assert_eq!(weigh(&mut sizes, "HGETALL h", later), Weight::Unknown);
    assert_eq!(weigh(&mut sizes, "HGETALL h", later), Weight::Large(LIMIT + 1), "one asks");
    note(&mut sizes, "HGETALL h", 3, later);
    assert_eq!(weigh(&mut sizes, "HGETALL h", later), Weight::Small);
}

#[test]
fn narrow_ranges_prove_nothing_of_wide_ones_nor_many_of_one_key() {
    let mut sizes = Sizes::default();
    for number in 0..2 * SEEN_MIN {
        note(&mut sizes, &format!("ZRANGEBYSCORE log:7 {number} {number}"), 1, START);
    }
    assert_eq!(weigh(&mut sizes, "ZRANGEBYSCORE log:8 1 1", START), Weight::Unknown, "one key");
    for number in 0..SEEN_MIN {
        note(&mut sizes, &format!("ZRANGEBYSCORE log:{number} 1 1"), 1, START);
    }
    assert_eq!(weigh(&mut sizes, "ZRANGEBYSCORE log:777 5 6", START), Weight::Small);
    for open in ["-inf 5", "5 +inf", "(-INF inf", "-infinity (5"] {
        let line = format!("ZRANGEBYSCORE log:777 {open}");
        assert_eq!(weigh(&mut sizes, &line, START), Weight::Unknown, "{line}");
    }
}

#[test]
fn a_look_changes_nothing_unless_the_command_goes() {
    let mut sizes = Sizes::default();
    note(&mut sizes, "HGETALL h", LIMIT + 1, START);
    let (large, later) = (subject(&sizes, "HGETALL h"), START + RECHECK);
    assert!(!sizes.is_small(large, LIMIT, later, |total| total));
    assert_eq!(weigh(&mut sizes, "HGETALL h", later), Weight::Unknown, "it is still asked about");
    prove(&mut sizes, SEEN_MIN, 1);
    let small = subject(&sizes, "HGETALL user:99999:cart");
    for _ in 1..UNASKED_MAX {
        assert!(sizes.is_small(small, LIMIT, START, |total| total));
    }
    assert!(!sizes.is_small(small, LIMIT, START, |total| total));
    assert_eq!(weigh(&mut sizes, "HGETALL user:99999:cart", START), Weight::Unknown);
}

/// So many keys of one kind, each of this size.
fn prove(sizes: &mut Sizes, count: u32, total: u64) {
    for number in 0..count {
        note(sizes, &format!("HGETALL user:{number}:cart"), total, START);
    }
}

#[test]
fn a_kind_is_proven_by_many_small_keys_and_never_by_one_of_them() {
    let mut sizes = Sizes::default();
    for _ in 0..SEEN_MIN * 2 {
        note(&mut sizes, "HGETALL user:7:cart", 5, START);
    }
    assert_eq!(weigh(&mut sizes, "HGETALL user:99999:cart", START), Weight::Unknown);
    let mut sizes = Sizes::default();
    prove(&mut sizes, SEEN_MIN - 1, LIMIT / 10);
    assert_eq!(weigh(&mut sizes, "HGETALL user:99999:cart", START), Weight::Unknown);
    prove(&mut sizes, SEEN_MIN, LIMIT / 10);
    assert_eq!(weigh(&mut sizes, "HGETALL user:99999:cart", START), Weight::Small);
    assert_eq!(weigh(&mut sizes, "HGETALL user:99999:list", START), Weight::Unknown);
    assert_eq!(weigh(&mut sizes, "SMEMBERS user:99999:cart", START), Weight::Unknown);
    let strict = subject(&sizes, "HGETALL user:99999:cart");
    let weight = sizes.weigh(strict, LIMIT / 2, START, |total| total);
    assert_eq!(weight, Weight::Unknown, "what is small to one rule may not be to another");
}

#[test]
fn one_of_a_proven_kind_is_asked_about_now_and_then() {
    let mut sizes = Sizes::default();
    prove(&mut sizes, SEEN_MIN, 1);
    let asked = (0..UNASKED_MAX * 4)
        .filter(|number| {
            let line = format!("HGETALL user:{}:cart", number + 1_000_000);
            weigh(&mut sizes, &line, START) == Weight::Unknown
        })
        .count();
    assert_eq!(asked, 4);
}

#[test]
fn a_kind_that_had_one_giant_is_not_proven_again() {
    let mut sizes = Sizes::default();
    prove(&mut sizes, SEEN_MIN, 1);
    note(&mut sizes, "HGETALL user:5:cart", LIMIT / 10 + 1, START);
    prove(&mut sizes, SEEN_MIN * 4, 1);
    assert_eq!(weigh(&mut sizes, "HGETALL user:99999:cart", START), Weight::Unknown);
}

#[test]
fn users_databases_and_deployments_are_kept_apart() {
    let mut sizes = Sizes::default();
    sizes.follow(1);
    note(&mut sizes, "HGETALL h", 5, START);
    for whose in [(1, 0), (0, 1)] {
        let other = subject_of(&sizes, "HGETALL h", whose);
        assert_eq!(sizes.weigh(other, LIMIT, START, |total| total), Weight::Unknown);
    }
    sizes.follow(1);
    assert_eq!(weigh(&mut sizes, "HGETALL h", START), Weight::Small);
    prove(&mut sizes, SEEN_MIN, 1);
    sizes.follow(2);
    assert_eq!(weigh(&mut sizes, "HGETALL h", START), Weight::Unknown);
    assert_eq!(weigh(&mut sizes, "HGETALL user:99999:cart", START), Weight::Unknown);
}

#[test]
fn a_reply_is_looked_at_once_and_only_by_its_own_slot() {
    let mut sizes = Sizes::default();
    let subject = subject(&sizes, "HGETALL h");
    let session = SessionId::nobody();
    let awaited = |slot| Awaited { session, slot, subject, is_in_pairs: false, limit: 1 };
    assert!(sizes.awaited(session, 7).is_none());
    sizes.await_reply(awaited(7));
    assert!(sizes.awaited(session, 7 + AWAITED_MAX as u64).is_none());
    assert!(sizes.awaited(session, 7).is_some());
    assert!(sizes.awaited(session, 7).is_none());
    sizes.await_reply(awaited(7));
    sizes.await_reply(awaited(7 + AWAITED_MAX as u64));
    assert!(sizes.awaited(session, 7).is_none(), "displaced");
}

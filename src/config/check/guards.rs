//! Judges what of `[upstream]` holds writes back.
//!
//! Owns the words and bounds of these keys. Never knows what is made of them.
//!
//! What surprises: the grace of a second master is at least a second, because after every failover
//! the old one goes on for a while; and so is the lag of a replica, because Redis counts it in whole
//! seconds.

use toml::Spanned;

use super::super::file::{WrittenConfirm, WrittenUpstream, WrittenWriteGuard};
use super::super::quantity::{HOUR, MILLISECOND, MINUTE, SECOND};
use super::super::{Confirm, GuardSettings, KeyPatterns, SplitBrain, WriteGuard};
use super::{Checker, one_of};

/// All of them.
pub(super) fn check(checker: &mut Checker, written: &WrittenUpstream) -> GuardSettings {
    let grace = &written.split_brain_grace;
    let guard = written.write_guard.as_ref();
    GuardSettings {
        split_brain: split_brain(checker, written.split_brain.as_ref()),
        split_brain_grace: checker.time("split_brain_grace", grace, SECOND..=HOUR),
        write_guard: guard.map(|guard| write_guard(checker, guard)),
        confirm: written.confirm.as_ref().map(|it| confirm(checker, it)),
    }
}

/// What follows when two claim the same.
fn split_brain(checker: &mut Checker, written: Option<&Spanned<String>>) -> SplitBrain {
    let Some(word) = written else {
        return SplitBrain::default();
    };
    match word.get_ref().as_str() {
        "refuse_writes" => SplitBrain::RefuseWrites,
        "report" => SplitBrain::Report,
        other => {
            let fault = one_of("answer to a split brain", other, &["refuse_writes", "report"]);
            checker.keep(word, Err(fault)).unwrap_or_default()
        }
    }
}

fn write_guard(checker: &mut Checker, written: &WrittenWriteGuard) -> WriteGuard {
    WriteGuard {
        replicas: checker.bounded("replicas", &written.replicas, 1..=REPLICAS_MAX),
        max_lag: checker.time("max_lag", &written.max_lag, SECOND..=HOUR),
        keys: patterns(checker, &written.keys),
    }
}

/// WAIT without a limit would wait for ever for a replica that is gone.
fn confirm(checker: &mut Checker, written: &WrittenConfirm) -> Confirm {
    Confirm {
        replicas: checker.bounded("replicas", &written.replicas, 1..=REPLICAS_MAX),
        within: checker.time("within", &written.within, MILLISECOND..=MINUTE),
        keys: patterns(checker, &written.keys),
    }
}

/// An empty pattern matches the empty key alone: that is a slip.
fn patterns(checker: &mut Checker, written: &[Spanned<String>]) -> KeyPatterns {
    for empty in written.iter().filter(|pattern| pattern.get_ref().is_empty()) {
        let hint = "write a pattern as for KEYS, or leave keys out for all of them";
        checker.complain(empty, "an empty pattern matches no key", hint);
    }
    written.iter().map(Spanned::get_ref).collect()
}

/// More replicas than anybody has.
const REPLICAS_MAX: u64 = 100;

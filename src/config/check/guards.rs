//! Judges what of `[upstream]` holds writes back.
//!
//! Owns the words and bounds of these keys. Never knows what is made of them.
//!
//! What surprises: the grace of a second master is at least a second, because after every failover
//! the old one goes on for a while.

use toml::Spanned;

use super::super::file::WrittenUpstream;
use super::super::quantity::{HOUR, SECOND};
use super::super::{GuardSettings, SplitBrain};
use super::{Checker, one_of};

/// All of them.
pub(super) fn check(checker: &mut Checker, written: &WrittenUpstream) -> GuardSettings {
    let grace = &written.split_brain_grace;
    GuardSettings {
        split_brain: split_brain(checker, written.split_brain.as_ref()),
        split_brain_grace: checker.time("split_brain_grace", grace, SECOND..=HOUR),
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

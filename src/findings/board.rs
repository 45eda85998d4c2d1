//! The findings that stand at this moment, by who found them.
//!
//! Owns the one place where findings are published: the log learns of each when it appears and when
//! it is gone, `/metrics`, `/topology` and `/findings` read it. It checks nothing itself. Bounded:
//! a source keeps its [`PER_SOURCE_MAX`] most urgent ones.
//!
//! What surprises: a finding whose numbers change is still the same finding. Only its kind,
//! severity or subject make it another one, so a ratio that wanders does not fill the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Finding, Severity};
use crate::events;

/// What is amiss, as each source has said last.
#[derive(Debug, Default)]
pub struct Board(Mutex<BTreeMap<&'static str, Vec<Finding>>>);

// === impl Board ===

impl Board {
    /// Replaces what `source` has said before. What is new or gone is logged, once.
    pub fn set(&self, source: &'static str, mut findings: Vec<Finding>) {
        findings.iter_mut().for_each(shorten);
        // Stable, so that what is equally urgent keeps the order in which it was found.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings.truncate(PER_SOURCE_MAX);
        let mut seen = BTreeSet::new();
        // Two rows of one series would make the whole page of metrics unreadable.
        findings.retain(|it| seen.insert((it.id, it.severity, it.subject.clone())));
        let mut board = self.lock();
        let before = match findings.is_empty() {
            true => board.remove(source).unwrap_or_default(),
            false => board.insert(source, findings.clone()).unwrap_or_default(),
        };
        drop(board);
        tell(&before, &findings);
    }

    /// Everything that stands, the most urgent first.
    #[must_use]
    pub fn all(&self) -> Vec<Finding> {
        let mut all: Vec<Finding> = self.lock().values().flatten().cloned().collect();
        all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        // Two sources may say the same; the metric has room for one.
        let mut seen = BTreeSet::new();
        all.retain(|it| seen.insert((it.id, it.severity, it.subject.clone())));
        all
    }

    /// How many stand, by severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.all().iter().filter(|finding| finding.severity == severity).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<Finding>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs what has appeared and what is gone. A finding that became worse or better has appeared in
/// its new severity; that the old one is gone is then no news.
fn tell(before: &[Finding], now: &[Finding]) {
    for finding in now.iter().filter(|it| !before.iter().any(|old| old.is_same(it))) {
        events::finding_appeared(finding);
    }
    let is_about = |it: &Finding, old: &Finding| (it.id, &it.subject) == (old.id, &old.subject);
    for finding in before.iter().filter(|old| !now.iter().any(|it| is_about(it, old))) {
        events::finding_gone(finding);
    }
}

/// Cuts what a server's own words could make long, and keeps every field on one line.
fn shorten(finding: &mut Finding) {
    for (field, most) in [
        (&mut finding.subject, SUBJECT_BYTES_MAX),
        (&mut finding.text, TEXT_BYTES_MAX),
        (&mut finding.repair, TEXT_BYTES_MAX),
    ] {
        if field.contains(|it: char| it.is_control()) {
            *field = field.replace(|it: char| it.is_control(), " ");
        }
        field.truncate(field.floor_char_boundary(most));
    }
}

/// Most findings of one source: a cluster of fifty nodes with ten faults each.
const PER_SOURCE_MAX: usize = 500;
/// Longest subject, which is a metric's label.
const SUBJECT_BYTES_MAX: usize = 256;
/// Longest explanation and longest repair.
const TEXT_BYTES_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(id: &'static str, severity: Severity, subject: &str) -> Finding {
        Finding { id, severity, subject: subject.into(), text: "t".into(), repair: "r".into() }
    }

    #[test]
    fn a_source_replaces_only_what_it_said_itself() {
        let board = Board::default();
        board.set("a", vec![finding("x", Severity::Info, "n1")]);
        board.set("b", vec![finding("y", Severity::Critical, "n1")]);
        let ids = |board: &Board| board.all().iter().map(|it| it.id).collect::<Vec<_>>();
        assert_eq!(ids(&board), ["y", "x"]);
        board.set("a", vec![finding("z", Severity::Warning, "n1")]);
        assert_eq!(ids(&board), ["y", "z"]);
        board.set("b", Vec::new());
        assert_eq!(ids(&board), ["z"]);
        assert_eq!(board.count(Severity::Warning), 1);
        assert_eq!(board.count(Severity::Critical), 0);
    }

    #[test]
    fn the_board_is_bounded_and_keeps_the_urgent_ones() {
        let board = Board::default();
        let many = (0..PER_SOURCE_MAX).map(|it| finding("x", Severity::Info, &it.to_string()));
        let worst = finding("w", Severity::Critical, &"s\n".repeat(1_000));
        board.set("a", many.chain([worst]).collect());
        let all = board.all();
        assert_eq!(all.len(), PER_SOURCE_MAX);
        assert_eq!(all[0].id, "w");
        assert_eq!(all[0].subject.len(), SUBJECT_BYTES_MAX);
        assert!(!all[0].subject.contains('\n'));
    }

    #[test]
    fn what_two_sources_say_is_shown_once() {
        let board = Board::default();
        let same = finding("x", Severity::Info, "n1");
        board.set("a", vec![same.clone(), same.clone()]);
        board.set("b", vec![same]);
        assert_eq!(board.all().len(), 1);
    }
}

//! Scripts that had to be killed, and those that may not run for a while because of it.
//!
//! Owns who was killed when, bounded, shared by workers and the watchdog. Never kills. What surprises:
//! the count is this process's own. Another sidecar whose clients send the same script counts for itself.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::{Micros, SECOND};

/// What a script or function is called where it is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Culprit {
    /// A script, by the SHA1 of its text, in hexadecimal digits.
    Script(String),
    /// A function, by its name.
    Function(String),
}

/// Who may not run.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// Whether anybody was killed within the time that counts: the one look of a command.
    is_used: AtomicBool,
    killed: Mutex<VecDeque<(Culprit, Micros)>>,
}

// === impl Quarantine ===

impl Quarantine {
    /// One was killed.
    pub fn note(&self, culprit: Culprit, now: Micros) {
        let mut killed = self.lock();
        forget(&mut killed, now);
        if killed.len() >= KILLED_MAX {
            killed.pop_front();
        }
        killed.push_back((culprit, now));
        self.is_used.store(true, Ordering::Relaxed);
    }

    /// How often this one was killed, if that is too often.
    #[must_use]
    pub fn holds(&self, culprit: &Culprit, now: Micros) -> Option<usize> {
        let mut killed = self.lock();
        forget(&mut killed, now);
        self.is_used.store(!killed.is_empty(), Ordering::Relaxed);
        let count = killed.iter().filter(|(it, _)| it == culprit).count();
        (count >= KILLS).then_some(count)
    }

    /// Whether there is anybody to look for.
    #[inline]
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Culprit, Micros)>> {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget(killed: &mut VecDeque<(Culprit, Micros)>, now: Micros) {
    while killed.front().is_some_and(|(_, at)| now.saturating_sub(*at) >= WITHIN) {
        killed.pop_front();
    }
}

// === impl Culprit ===

impl std::fmt::Display for Culprit {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Script(sha) => out.write_str(sha),
            Self::Function(name) => write!(out, "function {name}"),
        }
    }
}

/// So often within this time is too often; the last kill counts for as long, too.
const KILLS: usize = 2;
const WITHIN: Micros = 600 * SECOND;
/// Kills that are remembered: one takes at least a second of everybody's time.
const KILLED_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_killed_twice_rests_for_ten_minutes() {
        let quarantine = Quarantine::default();
        let culprit = Culprit::Script("a".into());
        let other = Culprit::Function("a".into());
        assert!(!quarantine.is_used());
        quarantine.note(culprit.clone(), SECOND);
        assert_eq!(quarantine.holds(&culprit, 2 * SECOND), None);
        quarantine.note(culprit.clone(), 60 * SECOND);
        assert_eq!(quarantine.holds(&culprit, 61 * SECOND), Some(2));
        assert_eq!(quarantine.holds(&other, 61 * SECOND), None);
        assert_eq!(quarantine.holds(&culprit, 600 * SECOND), Some(2));
        assert_eq!(quarantine.holds(&culprit, 601 * SECOND), None, "the first kill is too old");
        assert!(quarantine.is_used());
        assert_eq!(quarantine.holds(&culprit, 660 * SECOND), None);
        assert!(!quarantine.is_used());
    }

    #[test]
    fn the_list_of_kills_is_bounded() {
        let quarantine = Quarantine::default();
        for number in 0..3 * KILLED_MAX {
            quarantine.note(Culprit::Function(number.to_string()), SECOND);
        }
        assert_eq!(quarantine.lock().len(), KILLED_MAX);
    }
}

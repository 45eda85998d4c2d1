//! How far a replica is behind its primary, as the control plane has found lately.
//!
//! Owns the number and how long it counts. Never asks and never chooses (`topology` and
//! `dispatch::replicas` do). Shared by the control plane and all workers, so it is made of atomics.
//!
//! What surprises: a replica that has lost its primary is not in step while that primary is well,
//! however little it lacks: it will not hear of the next write. While the primary is away nobody
//! hears of any, and then it counts what it lacked when the primary was last heard.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::{Micros, SECOND};

/// What is known of a replica's data.
#[derive(Debug, Default)]
pub struct Freshness {
    /// How far it is behind; means nothing behind `until`.
    behind: AtomicU64,
    /// Until when that counts; 0: it is not known.
    until: AtomicU64,
    /// Whether it is not connected to its primary.
    is_apart: AtomicBool,
}

// === impl Freshness ===

impl Freshness {
    /// At `now` it is so far behind; `None`: further than anybody could tell, or it has no whole data.
    pub fn note(&self, behind: Option<Micros>, is_apart: bool, now: Micros) {
        self.behind.store(behind.unwrap_or_default(), Ordering::Relaxed);
        self.is_apart.store(is_apart, Ordering::Relaxed);
        let until = if behind.is_some() { now + BELIEVED_FOR } else { 0 };
        self.until.store(until, Ordering::Relaxed);
    }

    /// Whether it may serve what may be `max_lag` old.
    #[must_use]
    pub fn is_within(&self, max_lag: Micros, is_primary_away: bool, now: Micros) -> bool {
        self.until.load(Ordering::Relaxed) > now
            && self.behind.load(Ordering::Relaxed) < max_lag
            && (is_primary_away || !self.is_apart.load(Ordering::Relaxed))
    }

    /// How far it is behind, where that is known.
    #[must_use]
    pub fn behind(&self, now: Micros) -> Option<Micros> {
        let is_known = self.until.load(Ordering::Relaxed) > now;
        is_known.then(|| self.behind.load(Ordering::Relaxed))
    }
}

/// How long the data path believes a comparison: two are made in that time.
const BELIEVED_FOR: Micros = 2 * SECOND + SECOND / 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_and_near_enough_is_within() {
        let freshness = Freshness::default();
        assert!(!freshness.is_within(10 * SECOND, true, 1), "nothing is known");
        freshness.note(Some(2 * SECOND), false, SECOND);
        assert!(freshness.is_within(3 * SECOND, false, 2 * SECOND));
        assert!(!freshness.is_within(2 * SECOND, false, 2 * SECOND));
        assert!(!freshness.is_within(3 * SECOND, false, 4 * SECOND), "too long ago");
        freshness.note(Some(0), true, 5 * SECOND);
        assert!(!freshness.is_within(SECOND, false, 5 * SECOND));
        assert!(freshness.is_within(SECOND, true, 5 * SECOND));
        freshness.note(None, false, 6 * SECOND);
        assert!(!freshness.is_within(9 * SECOND, true, 6 * SECOND));
    }
}

//! How many replicas of a node are in step with it, as the control connection has heard.
//!
//! Owns the number, how long it counts, and since when it has been too small. Never asks (the pulse
//! does, while a guard is set) and never refuses anything (`dispatch::guards` does). Shared by the
//! control plane and all workers, so it is made of atomics.
//!
//! What surprises: silence is not good news. A number that has not been renewed for as long as a
//! replica may lag says nothing any more, and a node that may not be asked never tells one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::{Micros, SECOND};

/// What is known of a node's replicas.
#[derive(Debug, Default)]
pub struct Sync {
    /// One more than the replicas in step; 0: not told.
    told: AtomicU64,
    /// Until when that counts.
    until: AtomicU64,
    /// Since when it has been too small; 0: it is not.
    short_since: AtomicU64,
    /// How many seconds each of its replicas is behind that is online, the best first, for whoever
    /// counts otherwise; `None`: not told. Only commands of a keyspace that guards its writes look.
    lags: Mutex<Option<(Micros, Vec<u64>)>>,
}

/// Too few replicas are in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// How many are; `None`: the node has not told, or not lately.
    pub in_step: Option<u64>,
    /// For how long it has been too few; 0 where that is not known.
    pub lasts: Micros,
}

// === impl Sync ===

impl Sync {
    /// The node was asked, and says that so many replicas are in step of `wanted`, no further behind
    /// than `max_lag`; `None`: it will not tell.
    pub fn note(&self, in_step: Option<u64>, (wanted, max_lag): (u64, Micros), now: Micros) {
        let is_short = in_step.is_none_or(|count| count < wanted);
        let since = match self.short_since.load(Ordering::Relaxed) {
            _ if !is_short => 0,
            0 => now,
            since => since,
        };
        self.short_since.store(since, Ordering::Relaxed);
        self.told.store(in_step.map_or(0, |count| count.saturating_add(1)), Ordering::Relaxed);
        self.until.store(now + max_lag + ASKED_WITHIN, Ordering::Relaxed);
    }

    /// The node was asked, and says that its replicas are so many seconds behind; `None`: it will not
    /// tell.
    pub fn note_lags(&self, lags: Option<Vec<u64>>, now: Micros) {
        *self.lags.lock().unwrap_or_else(PoisonError::into_inner) = lags.map(|lags| (now, lags));
    }

    /// How many replicas are no further behind than `max_lag`; `None`: the node has not told, or not
    /// lately.
    #[must_use]
    pub fn in_step(&self, max_lag: Micros, now: Micros) -> Option<u64> {
        let lags = self.lags.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, lags) = lags.as_ref()?;
        let is_fresh = now <= at.saturating_add(max_lag + ASKED_WITHIN);
        is_fresh.then(|| {
            lags.iter().filter(|&&lag| lag.saturating_mul(SECOND) <= max_lag).count() as u64
        })
    }

    /// What is missing at `now` to have so many in step.
    #[must_use]
    pub fn lack(&self, wanted: u64, now: Micros) -> Option<Lack> {
        let is_fresh = now <= self.until.load(Ordering::Relaxed);
        let told = self.told.load(Ordering::Relaxed).checked_sub(1).filter(|_| is_fresh);
        if told.is_some_and(|count| count >= wanted) {
            return None;
        }
        let since = self.short_since.load(Ordering::Relaxed);
        let lasts = if since == 0 { 0 } else { now.saturating_sub(since) };
        Some(Lack { in_step: told, lasts })
    }
}

/// The question is asked once a second, and may take one.
const ASKED_WITHIN: Micros = 2 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_counted_by_whatever_lag_is_asked_for() {
        let sync = Sync::default();
        assert_eq!(sync.in_step(9 * SECOND, 1), None);
        sync.note_lags(Some(vec![0, 1, 8]), SECOND);
        assert_eq!(sync.in_step(SECOND, SECOND), Some(2));
        assert_eq!(sync.in_step(9 * SECOND, SECOND), Some(3));
        assert_eq!(sync.in_step(SECOND, 5 * SECOND), None, "too old");
        sync.note_lags(Some(vec![u64::MAX]), SECOND);
        assert_eq!(sync.in_step(9 * SECOND, SECOND), Some(0), "whatever a server says");
        sync.note_lags(None, 5 * SECOND);
        assert_eq!(sync.in_step(SECOND, 5 * SECOND), None);
    }

    #[test]
    fn only_a_fresh_number_that_is_large_enough_will_do() {
        let sync = Sync::default();
        assert_eq!(sync.lack(1, 5), Some(Lack { in_step: None, lasts: 0 }), "nothing is known");
        let guard = (1, 10 * SECOND);
        sync.note(Some(1), guard, SECOND);
        assert_eq!(sync.lack(1, 2 * SECOND), None);
        assert!(sync.lack(2, 2 * SECOND).is_some());
        sync.note(Some(0), guard, 3 * SECOND);
        sync.note(Some(0), guard, 4 * SECOND);
        let lack = Lack { in_step: Some(0), lasts: 2 * SECOND };
        assert_eq!(sync.lack(1, 5 * SECOND), Some(lack));
        sync.note(Some(1), guard, 6 * SECOND);
        assert_eq!(sync.lack(1, 18 * SECOND), None);
        assert_eq!(sync.lack(1, 19 * SECOND), Some(Lack { in_step: None, lasts: 0 }), "too old");
    }
}

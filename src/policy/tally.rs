//! What a rule has met: how often, by whom last, and the biggest.
//!
//! Owns these counts, shared by workers; only commands that match a rule touch them. Never holds a key
//! or a value (INV-11). A rule that stays the same in a reload keeps its tally. What surprises: counts
//! are exact, while an offender is looked at only where somebody fills it in, which takes a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::offence::{Deed, Offence};
use crate::clock::{MILLISECOND, Micros};

/// What one rule has met.
#[derive(Debug, Default)]
pub struct Tally {
    /// Commands that it matched.
    hits: AtomicU64,
    /// Those that it refused.
    refused: AtomicU64,
    /// Those that it would have refused, were it enforced for that client.
    spared: AtomicU64,
    /// When somebody was last looked at who is let pass.
    looked_at: AtomicU64,
    /// Boxed: most rules of thousands are never met, and would be four times as large.
    offenders: Mutex<Option<Box<Offenders>>>,
}

/// Who is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Offenders {
    /// The last.
    pub last: Option<Offence>,
    /// Whoever asked for most.
    pub biggest: Option<Offence>,
}

// === impl Tally ===

impl Tally {
    /// It matched a command, which is refused or goes on.
    pub fn note(&self, is_refused: bool) {
        self.count(if is_refused { Deed::Refused } else { Deed::Passed });
    }

    /// It matched a command, and this became of it.
    pub fn count(&self, deed: Deed) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        match deed {
            Deed::Refused => self.refused.fetch_add(1, Ordering::Relaxed),
            Deed::Spared => self.spared.fetch_add(1, Ordering::Relaxed),
            Deed::Passed => 0,
        };
    }

    /// Whether whoever was let pass is to be looked at: ten a second are enough to show, and a lock for
    /// each would be felt on the way of commands that are sent all the time.
    #[must_use]
    pub fn is_due(&self, now: Micros) -> bool {
        let last = self.looked_at.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= LOOK_EVERY;
        let (relaxed, now) = (Ordering::Relaxed, now.max(1));
        is_due && self.looked_at.compare_exchange(last, now, relaxed, relaxed).is_ok()
    }

    /// Notes who that was.
    pub fn sight(&self, offence: Offence) {
        let mut offenders = self.lock();
        let offenders = offenders.get_or_insert_default();
        if offenders.biggest.as_ref().is_none_or(|biggest| offence.size >= biggest.size) {
            offenders.biggest = Some(offence.clone());
        }
        offenders.last = Some(offence);
    }

    /// Commands that it matched.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Those that it refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Those that it would have refused.
    #[must_use]
    pub fn spared(&self) -> u64 {
        self.spared.load(Ordering::Relaxed)
    }

    /// The last and the biggest offender.
    #[must_use]
    pub fn offenders(&self) -> Offenders {
        self.lock().as_deref().cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Offenders>>> {
        self.offenders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a rule that lets pass looks at whom.
const LOOK_EVERY: Micros = 100 * MILLISECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_passes_is_looked_at_ten_times_a_second() {
        let tally = Tally::default();
        let looks = (0..1_000).filter(|it| tally.is_due(7 + it * MILLISECOND)).count();
        assert_eq!(looks, 10);
        assert!(!tally.is_due(0), "a clock that goes back stops nobody");
    }

    #[test]
    fn the_last_and_the_biggest_offender_are_kept_apart() {
        let tally = Tally::default();
        for (client, size) in [(1, 5), (2, 9), (3, 2)] {
            tally.count(Deed::Refused);
            tally.sight(Offence { client, size, ..Offence::default() });
        }
        tally.count(Deed::Spared);
        let offenders = tally.offenders();
        assert_eq!(offenders.last.map(|it| it.client), Some(3));
        assert_eq!(offenders.biggest.map(|it| (it.client, it.size)), Some((2, 9)));
        assert_eq!((tally.hits(), tally.refused(), tally.spared()), (4, 3, 1));
    }
}

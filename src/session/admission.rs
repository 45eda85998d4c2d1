//! Admission: what a session may have asked for before it has taken what it got (INV-4).
//!
//! Owns the window of one session: how many commands may be in flight, and how many bytes of
//! replies they may become. Never drops, never evicts: a session over its budget is simply not read
//! until its client has taken some replies, so a slow reader gets everything it asked for and costs
//! its bound.
//!
//! What surprises: the size of a reply is known only when it comes, so the largest recent one
//! stands for the next ones, and the window starts small and doubles (as TCP's does). The product
//! of commands in flight and the largest recent reply, plus what is unsent, stays below the budget.
//! Before the first reply a megabyte is assumed.

/// Commands in flight that a new session starts with.
const WINDOW_START: u32 = 32;

/// What a reply is taken to be before the first has come.
const UNKNOWN_REPLY_BYTES: u64 = 1 << 20;

/// The window of one session.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// Most commands in flight; doubles with each answered window up to the configured maximum.
    window: u32,
    /// Commands answered since the window last grew.
    answered: u32,
    /// Largest recent reply in bytes; decays by a sixteenth with each smaller one. `None` before
    /// the first.
    largest: Option<u64>,
}

/// The configured bounds, the same for every session of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of replies, unsent and expected, that one session may cost.
    pub reply_bytes: u64,
    /// Commands that one session may have in flight.
    pub commands: u32,
}

// === impl Admission ===

impl Default for Admission {
    fn default() -> Self {
        Self { window: WINDOW_START, answered: 0, largest: None }
    }
}

impl Admission {
    /// Whether one more command may be dispatched, with `pending` in flight and `unsent` reply
    /// bytes waiting for the client. At least one command is always admitted when nothing is
    /// pending and nothing is unsent.
    #[must_use]
    pub fn admits(&self, pending: u64, unsent: usize, bounds: &Bounds) -> bool {
        if pending == 0 {
            return (unsent as u64) < bounds.reply_bytes;
        }
        let expected = (pending + 1).saturating_mul(self.largest.unwrap_or(UNKNOWN_REPLY_BYTES));
        pending < u64::from(self.window.min(bounds.commands))
            && expected.saturating_add(unsent as u64) <= bounds.reply_bytes
    }

    /// How many commands [`Self::admits`] one after the other.
    #[must_use]
    pub fn room(&self, pending: u64, unsent: usize, bounds: &Bounds) -> u64 {
        let left = bounds.reply_bytes.saturating_sub(unsent as u64);
        let affordable = left.checked_div(self.largest.unwrap_or(UNKNOWN_REPLY_BYTES));
        let most = affordable.unwrap_or(u64::MAX).min(u64::from(self.window.min(bounds.commands)));
        let least = u64::from(pending == 0 && left > 0);
        most.saturating_sub(pending).max(least)
    }

    /// Learns from a reply (or a part of one, `bytes` so far) of this session.
    pub fn learn(&mut self, bytes: u64) {
        self.largest = Some(match self.largest {
            Some(largest) if bytes < largest => largest - (largest - bytes).div_ceil(16),
            _ => bytes,
        });
    }

    /// Counts an answered command; a full window answered doubles the window.
    pub fn answered(&mut self, bounds: &Bounds) {
        self.answered += 1;
        if self.answered >= self.window && self.window < bounds.commands {
            self.window = self.window.saturating_mul(2).min(bounds.commands);
            self.answered = 0;
        }
    }

    /// Largest recent reply in bytes; 0 before the first.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.largest.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { reply_bytes: 16 << 20, commands: 1024 };

    #[test]
    fn the_window_starts_small_and_doubles_up_to_the_bound() {
        let mut admission = Admission::default();
        assert!(admission.admits(15, 0, &BOUNDS) && !admission.admits(16, 0, &BOUNDS));
        admission.learn(5);
        assert!(admission.admits(31, 0, &BOUNDS) && !admission.admits(32, 0, &BOUNDS));
        for _ in 0..32 {
            admission.answered(&BOUNDS);
        }
        assert!(admission.admits(63, 0, &BOUNDS) && !admission.admits(64, 0, &BOUNDS));
        for _ in 0..100_000 {
            admission.answered(&BOUNDS);
        }
        assert!(admission.admits(1023, 0, &BOUNDS) && !admission.admits(1024, 0, &BOUNDS));
    }

    #[test]
    fn large_replies_shrink_what_may_be_asked_for_and_small_ones_widen_it_again() {
        let mut admission = Admission::default();
        admission.learn(1 << 20);
        assert!(admission.admits(15, 0, &BOUNDS) && !admission.admits(16, 0, &BOUNDS));
        assert!(!admission.admits(8, 8 << 20, &BOUNDS));
        for _ in 0..200 {
            admission.learn(100);
        }
        assert!(admission.admits(31, 0, &BOUNDS));
    }

    proptest! {
        #[test]
        fn room_is_as_many_as_are_admitted_one_by_one(
            pending in 0_u64..2000,
            unsent in 0_usize..40 << 20,
            largest in prop::option::of(0_u64..40 << 20),
            answered in 0..4000,
        ) {
            let mut admission = Admission { largest, ..Admission::default() };
            (0..answered).for_each(|_| admission.answered(&BOUNDS));
            let is_admitted = |more: &u64| admission.admits(pending + more, unsent, &BOUNDS);
            let one_by_one = (0..).take_while(is_admitted).count() as u64;
            prop_assert_eq!(admission.room(pending, unsent, &BOUNDS), one_by_one);
        }
    }

    #[test]
    fn one_command_is_always_admitted_once_the_client_has_taken_its_replies() {
        let mut admission = Admission::default();
        admission.learn(1 << 30);
        assert!(admission.admits(0, 0, &BOUNDS) && !admission.admits(1, 0, &BOUNDS));
        assert!(!admission.admits(0, 16 << 20, &BOUNDS));
    }
}

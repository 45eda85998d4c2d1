//! Since when nothing that a client sent has run.
//!
//! Owns two numbers: up to which command everything was answered by us alone, and when the replies
//! before that had left us. It is kept by local answers and refusals, so what is forwarded pays
//! nothing for it: a command that was forwarded shows as a gap in the numbers.

use crate::clock::{Micros, SECOND};
use crate::session::replies::Sequence;

/// Since when nothing that a client sent has run.
#[derive(Debug, Default)]
pub struct Quiet {
    /// The slot behind the last one that we answered.
    next: Sequence,
    /// When the last reply before these had left us; `None`: there was none.
    since: Option<Micros>,
}

// === impl Quiet ===

impl Quiet {
    /// We answered `slot`; the replies before it had left us at `heard`.
    pub fn note(&mut self, slot: Sequence, heard: Micros) {
        self.since = self.before(slot, heard);
        self.next = slot + 1;
    }

    /// Whether nothing before `slot` can belong to what its client sent together with it. All
    /// replies before it had left us at `heard`.
    #[must_use]
    pub fn lasts(&self, slot: Sequence, heard: Micros, now: Micros) -> bool {
        self.before(slot, heard).is_none_or(|since| now.saturating_sub(since) >= APART)
    }

    /// When something may have run for the client last.
    fn before(&self, slot: Sequence, heard: Micros) -> Option<Micros> {
        if slot == self.next { self.since } else { Some(heard) }
    }
}

/// A client that writes a pipeline piece by piece, without reading, is not silent for so long
/// between two of them.
const APART: Micros = SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forwarded_is_a_gap_and_counts_for_a_second() {
        let mut quiet = Quiet::default();
        assert!(quiet.lasts(0, 0, 5), "a new client");
        quiet.note(0, 0);
        quiet.note(1, 3);
        assert!(quiet.lasts(2, 4, 5), "only its handshake");
        assert!(!quiet.lasts(3, 4, 5), "one command was forwarded");
        quiet.note(3, SECOND);
        quiet.note(4, 2 * SECOND - 2);
        assert!(!quiet.lasts(5, 2 * SECOND - 1, 2 * SECOND - 1));
        assert!(quiet.lasts(5, 2 * SECOND - 1, 2 * SECOND), "refused for a second");
        assert!(quiet.lasts(9, 2 * SECOND, 3 * SECOND), "silent for a second");
    }
}

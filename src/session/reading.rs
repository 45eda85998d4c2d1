//! Which of a session's commands in flight only read, and which of those have left the primary.
//!
//! Owns a few numbers of reply slots, kept only while the policy has keyspaces, and the two answers
//! that order across nodes needs (INV-12). Never knows a node. What surprises: it is told of reads
//! alone. Whatever was not announced shows as a gap in the numbers, and counts as a write.

use crate::session::replies::{Replies, Sequence};

/// The reads of one session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// The first of the newest unbroken row of reads.
    first: Sequence,
    /// One more than the last of it; `first <= end`.
    end: Sequence,
    /// One more than the last that went to a replica; 0: none has.
    apart: Sequence,
}

// === impl Reading ===

impl Reading {
    /// The next command only reads. Saying so again of a command that waits is the same as once.
    pub fn note(&mut self, replies: &Replies) {
        let next = replies.next();
        if self.end != next && self.end != next + 1 {
            self.first = next;
        }
        self.end = next + 1;
    }

    /// The command of this slot goes to a replica.
    pub fn has_left(&mut self, slot: Sequence) {
        self.apart = slot + 1;
    }

    /// Whether all that is unanswered in front of the command that was noted last only reads.
    #[must_use]
    pub fn is_all_in_flight(&self, replies: &Replies) -> bool {
        let head = replies.next() - replies.pending();
        replies.pending() == 0 || (self.first <= head && self.end > replies.next())
    }

    /// Whether a read that went to a replica may be unanswered.
    #[must_use]
    pub fn is_apart(&self, replies: &Replies) -> bool {
        replies.next() - replies.pending() < self.apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{ChunkPool, SendBuffer};

    #[test]
    fn what_was_not_announced_counts_as_a_write() {
        let (mut replies, mut reading) = (Replies::default(), Reading::default());
        let (mut out, mut pool) = (SendBuffer::default(), ChunkPool::default());
        reading.note(&replies);
        assert!(reading.is_all_in_flight(&replies), "nothing is in flight");
        let first = replies.open();
        reading.note(&replies);
        reading.note(&replies);
        assert!(reading.is_all_in_flight(&replies), "a read is");
        let second = replies.open();
        let write = replies.open();
        reading.note(&replies);
        assert!(!reading.is_all_in_flight(&replies), "something else is");
        for slot in [first, second] {
            replies.complete(slot, b"+\r\n", &mut out, &mut pool);
        }
        assert!(!reading.is_all_in_flight(&replies));
        replies.complete(write, b"+\r\n", &mut out, &mut pool);
        assert!(reading.is_all_in_flight(&replies));
    }

    #[test]
    fn a_read_is_apart_until_it_is_answered() {
        let (mut replies, mut reading) = (Replies::default(), Reading::default());
        let (mut out, mut pool) = (SendBuffer::default(), ChunkPool::default());
        assert!(!reading.is_apart(&replies));
        let slot = replies.open();
        reading.has_left(slot);
        assert!(reading.is_apart(&replies));
        replies.complete(slot, b"+\r\n", &mut out, &mut pool);
        assert!(!reading.is_apart(&replies));
    }
}

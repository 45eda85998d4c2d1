//! What a session remembers of its pace: when its next command may go, and whose replies are paid for.
//!
//! Owns that memory. Never measures (`policy::pace` does) and never waits. What surprises: a command
//! that waits is dispatched again and again, and must pay once. It is known by the reply slot that
//! it would get, which nothing else of its session can take before it; our own questions on its
//! behalf can, and then [`Paced::stays`] says where it is now.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::Micros;
use crate::policy::pace::Bucket;
use crate::session::replies::Sequence;

/// The pace of one session's commands.
#[derive(Debug, Default)]
pub struct Paced {
    /// The reply slot that the command in hand would get.
    slot: Option<Sequence>,
    /// When it was first seen.
    pub since: Micros,
    /// When it may go.
    pub at: Micros,
    /// What its reply is charged to.
    payers: Vec<Arc<Bucket>>,
    /// The same of commands whose replies are due, in their order.
    owed: VecDeque<(Sequence, Arc<Bucket>)>,
}

// === impl Paced ===

impl Paced {
    /// Whether the command that would get `slot` has paid.
    #[must_use]
    pub fn knows(&self, slot: Sequence) -> bool {
        self.slot == Some(slot)
    }

    /// Another command is in hand.
    pub fn begin(&mut self, slot: Sequence, now: Micros) {
        self.slot = Some(slot);
        (self.since, self.at) = (now, now);
        self.payers.clear();
    }

    /// It has paid to this bucket and may go at `at`, or when others say so, whichever is later.
    pub fn paid(&mut self, bucket: Arc<Bucket>, at: Micros) {
        self.at = self.at.max(at);
        if bucket.counts_bytes() {
            self.payers.push(bucket);
        }
    }

    /// It goes: its reply will be charged. `oldest` is the first slot whose reply is due.
    pub fn goes(&mut self, slot: Sequence, oldest: Sequence) {
        self.takes_back(slot);
        while self.owed.front().is_some_and(|(owed, _)| *owed < oldest) {
            // It was answered here.
            self.owed.pop_front();
        }
        self.owed.extend(self.payers.iter().map(|bucket| (slot, Arc::clone(bucket))));
    }

    /// It goes now, and its reply will be charged to this bucket too, which keeps nobody waiting.
    pub fn owes(&mut self, bucket: Arc<Bucket>, slot: Sequence, oldest: Sequence, now: Micros) {
        if !self.knows(slot) {
            self.begin(slot, now);
        }
        self.payers.push(bucket);
        self.goes(slot, oldest);
    }

    /// The command that would have got `before` waits after all, and would now get `slot`.
    pub fn stays(&mut self, before: Sequence, slot: Sequence) {
        if self.knows(before) {
            self.takes_back(before);
            self.slot = Some(slot);
        }
    }

    /// The reply of a slot has come, so long as this.
    pub fn charge_reply(&mut self, slot: Sequence, bytes: u64, now: Micros) {
        // They stand in their order, and most replies come in it.
        let place = self.owed.partition_point(|(owed, _)| *owed < slot);
        while self.owed.get(place).is_some_and(|(owed, _)| *owed == slot) {
            if let Some((_, bucket)) = self.owed.remove(place) {
                bucket.charge(now, bytes);
            }
        }
    }

    /// The command in hand is answered here with so many bytes that came from a node.
    pub fn charge(&self, slot: Sequence, bytes: u64, now: Micros) {
        if self.knows(slot) {
            self.payers.iter().for_each(|bucket| bucket.charge(now, bytes));
        }
    }

    fn takes_back(&mut self, slot: Sequence) {
        while self.owed.back().is_some_and(|(owed, _)| *owed >= slot) {
            self.owed.pop_back();
        }
    }
}

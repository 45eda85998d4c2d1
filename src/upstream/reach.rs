//! What this worker has sent again, and may still.
//!
//! Owns the budget of retries, and how long each node has been saying that it cannot serve. Whether
//! a node may be dialled at all is known to all workers together: see `health`.
//!
//! What surprises: the budget of retries is one for all nodes of a worker. It bounds what we add to
//! the load of servers that are in trouble, and that is the same trouble whichever of them has it.

use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::topology::slots::NodeId;

/// All nodes that this worker has had trouble with.
#[derive(Debug)]
pub struct Reaches {
    /// By the node's number.
    nodes: Vec<Reach>,
    /// Epoch and recoveries of the topology that was seen last.
    seen: (u64, u64),
    /// Thousandths of commands that may still be sent again (INV-3).
    retry_budget: u64,
    /// When the budget last grew by time.
    retry_budget_at: Micros,
}

/// What is known of one node.
#[derive(Debug, Default)]
pub struct Reach {
    /// Since when it has said that it cannot serve at the moment, and when it did so last.
    trouble: (Micros, Micros),
}

// === impl Reaches ===

impl Default for Reaches {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            seen: (0, 0),
            retry_budget: RETRY_BUDGET_START,
            retry_budget_at: 0,
        }
    }
}

impl Reaches {
    /// What is known of a node, to be changed.
    pub fn of(&mut self, id: NodeId) -> &mut Reach {
        let place = usize::from(id.0);
        if self.nodes.len() <= place {
            self.nodes.resize_with(place + 1, Reach::default);
        }
        // Just made long enough.
        &mut self.nodes[place]
    }

    /// The control plane has found the node well (again), or it is another deployment.
    ///
    /// Returns whether that is news.
    pub fn note_recoveries(&mut self, epoch: u64, recoveries: u64) -> bool {
        let is_news = self.seen != (epoch, recoveries);
        self.seen = (epoch, recoveries);
        is_news
    }

    /// Epoch of the snapshot that was seen last.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.seen.0
    }

    /// Commands were sent for the first time: a tenth of them may be sent again.
    pub fn earn_retries(&mut self, commands: u64) {
        self.retry_budget = (self.retry_budget + commands * 100).min(RETRY_BUDGET_MAX);
    }

    /// Whether one more command may be sent again at `now`; five a second always may.
    pub fn spend_retry(&mut self, now: Micros) -> bool {
        let earned = now.saturating_sub(self.retry_budget_at) * 5 / MILLISECOND;
        self.retry_budget = (self.retry_budget + earned).min(RETRY_BUDGET_MAX);
        self.retry_budget_at = now;
        let may = self.retry_budget >= 1000;
        self.retry_budget -= if may { 1000 } else { 0 };
        may
    }
}

// === impl Reach ===

impl Reach {
    /// The node says that it cannot serve at the moment. Returns since when it has been saying so.
    pub fn note_trouble(&mut self, now: Micros) -> Micros {
        let (since, last) = self.trouble;
        let is_new = now.saturating_sub(last) > SECOND;
        self.trouble = (if is_new { now } else { since }, now);
        self.trouble.0
    }
}

/// Most commands, in thousandths, that one loss may send again.
const RETRY_BUDGET_MAX: u64 = 1_000_000;
/// What a worker starts with: a quiet client's few reads survive a restart of the node as well.
const RETRY_BUDGET_START: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_tenth_of_the_commands_and_five_a_second() {
        let mut reaches = Reaches::default();
        let first = (0..100).filter(|_| reaches.spend_retry(0)).count();
        assert_eq!(first, 10);
        reaches.earn_retries(20);
        assert!(reaches.spend_retry(0) && reaches.spend_retry(0) && !reaches.spend_retry(0));
        let later = (0..10).filter(|_| reaches.spend_retry(SECOND)).count();
        assert_eq!(later, 5);
    }
}

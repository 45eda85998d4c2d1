//! Which nodes can be reached, as far as this worker has tried.
//!
//! Owns the back-off after failed dials, node by node, and the budget of what may be sent again.
//! Never dials and never waits: whoever wants a connection asks here first, and is told the words
//! for its client if there is no point.
//!
//! What surprises: the budget of retries is one for all nodes of a worker. It bounds what we add to
//! the load of servers that are in trouble, and that is the same trouble whichever of them has it.

use std::time::Duration;

use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::refusal::Refusal;
use crate::topology::slots::NodeId;
use crate::upstream::dial::{DialError, Node};

/// All nodes that this worker has tried to reach.
#[derive(Debug)]
pub struct Reaches {
    /// By the node's number.
    nodes: Vec<Reach>,
    /// Epoch and recoveries of the topology when the failures were counted.
    seen: (u64, u64),
    /// Thousandths of commands that may still be sent again (INV-3).
    retry_budget: u64,
    /// When the budget last grew by time.
    retry_budget_at: Micros,
}

/// What is known of one node.
#[derive(Debug, Default)]
pub struct Reach {
    /// Dials that failed since the last good one.
    failures: u32,
    /// No dial before this moment.
    retry_at: Micros,
    /// Why the last dial failed.
    last_error: Option<DialError>,
    /// Since when no dial has succeeded; 0 while all is well.
    down_since: Micros,
    /// Since when it has said that it cannot serve at the moment, and when it did so last.
    trouble: (Micros, Micros),
    /// State of the jitter's generator.
    jitter: u64,
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

    fn get(&self, id: NodeId) -> Option<&Reach> {
        self.nodes.get(usize::from(id.0))
    }

    /// The control plane has found the node well (again), or it is another deployment: every
    /// back-off is void.
    ///
    /// Returns whether that is news.
    pub fn note_recoveries(&mut self, epoch: u64, recoveries: u64) -> bool {
        let is_news = self.seen != (epoch, recoveries);
        if is_news {
            self.seen = (epoch, recoveries);
            self.nodes.iter_mut().for_each(Reach::note_success);
        }
        is_news
    }

    /// Epoch of the snapshot that was seen last.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.seen.0
    }

    /// What a command is told while the node is not to be dialled.
    #[must_use]
    pub fn refusal(&self, node: &Node, now: Micros) -> Option<Refusal> {
        let reach = self.get(node.id)?;
        let error = reach.last_error.as_ref()?;
        let retry_in = reach.retry_at.checked_sub(now).filter(|&left| left > 0)?;
        Some(Refusal::NodeDown { node: node.name.clone(), cause: error.cause(), retry_in })
    }

    /// What a command is told when the dial that it waited for has failed.
    #[must_use]
    pub fn down(&self, node: &Node, error: &DialError, now: Micros) -> Refusal {
        let retry_at = self.get(node.id).map_or(0, |reach| reach.retry_at);
        let retry_in = retry_at.saturating_sub(now);
        Refusal::NodeDown { node: node.name.clone(), cause: error.cause(), retry_in }
    }

    /// How long until the next dial of the node is allowed.
    #[must_use]
    pub fn pause(&self, id: NodeId, now: Micros) -> Duration {
        let retry_at = self.get(id).map_or(0, |reach| reach.retry_at);
        Duration::from_micros(retry_at.saturating_sub(now))
    }

    /// The error of the last dial, if it failed.
    #[must_use]
    pub fn last_error(&self, id: NodeId) -> Option<&DialError> {
        self.get(id)?.last_error.as_ref()
    }

    /// Since when no dial of the node has succeeded; `None` while all is well.
    #[must_use]
    pub fn down_since(&self, id: NodeId) -> Option<Micros> {
        self.get(id).filter(|reach| reach.last_error.is_some()).map(|reach| reach.down_since)
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
    /// A dial has succeeded.
    pub fn note_success(&mut self) {
        self.failures = 0;
        self.retry_at = 0;
        self.last_error = None;
    }

    /// A dial has failed at `now`: the next one comes after a random part of a growing interval.
    pub fn note_failure(&mut self, error: DialError, now: Micros) {
        let ceiling = (BACKOFF_FIRST << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // Half of the interval is certain, so that "next try in" is never "now".
        self.retry_at = now + ceiling / 2 + self.random() % (ceiling / 2 + 1);
        if self.last_error.is_none() {
            self.down_since = now;
        }
        self.last_error = Some(error);
    }

    /// The node says that it cannot serve at the moment. Returns since when it has been saying so.
    pub fn note_trouble(&mut self, now: Micros) -> Micros {
        let (since, last) = self.trouble;
        let is_new = now.saturating_sub(last) > SECOND;
        self.trouble = (if is_new { now } else { since }, now);
        self.trouble.0
    }

    /// A small generator (xorshift64*) is enough to keep a fleet from dialling in step.
    fn random(&mut self) -> u64 {
        if self.jitter == 0 {
            let mut seed = [0; 8];
            let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed);
            self.jitter = u64::from_le_bytes(seed) | 1;
        }
        self.jitter ^= self.jitter >> 12;
        self.jitter ^= self.jitter << 25;
        self.jitter ^= self.jitter >> 27;
        self.jitter.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Most commands, in thousandths, that one loss may send again.
const RETRY_BUDGET_MAX: u64 = 1_000_000;
/// What a worker starts with: a quiet client's few reads survive a restart of the node as well.
const RETRY_BUDGET_START: u64 = 10_000;
/// First ceiling of the back-off; doubles with each failure.
const BACKOFF_FIRST: Micros = 50 * MILLISECOND;
/// Last ceiling: a node that is back is found within a second even if the control plane is blind.
const BACKOFF_MAX: Micros = SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::labels::DialFailure;

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

    #[test]
    fn the_back_off_grows_to_its_bound_with_jitter_and_ends_with_a_recovery() {
        let mut reaches = Reaches::default();
        let error = || DialError::new(DialFailure::Refused, "no".into());
        let mut waits = Vec::new();
        for _ in 0..20 {
            reaches.of(NodeId(3)).note_failure(error(), 1000);
            waits.push(reaches.of(NodeId(3)).retry_at - 1000);
        }
        assert!(waits[0] >= BACKOFF_FIRST / 2 && waits[0] <= BACKOFF_FIRST);
        assert!(waits[10..].iter().all(|&wait| (BACKOFF_MAX / 2..=BACKOFF_MAX).contains(&wait)));
        assert!(waits[10..].iter().any(|&wait| wait != waits[10]), "without jitter");
        assert!(reaches.last_error(NodeId(2)).is_none(), "another node's trouble");
        reaches.note_recoveries(0, 1);
        assert!(reaches.last_error(NodeId(3)).is_none());
    }
}

//! Which replicas are in step, so that they may serve reads.
//!
//! Owns the comparison of what a replica has with what its primary had a while ago, once a second,
//! and the moment until which the data path may believe it. Never sends anything: contacts ask ROLE
//! with every PING.
//!
//! What surprises: lag is measured in what the primary had at a time, not in seconds since the
//! replica heard of it. An idle primary speaks every ten seconds, and its replica lacks nothing
//! meanwhile. While the primary is away its last known offset is what counts.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::Follower;
use crate::clock::{self, Micros, SECOND};
use crate::topology::slots::MemberRole;

/// What ROLE says of a node's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// Whether it is a replica that is not connected to its primary, or that is loading what it got
    /// from it.
    pub is_apart: bool,
    /// How far it is in the history of its shard, in bytes.
    pub offset: u64,
}

/// What a primary has had when, oldest first.
#[derive(Debug, Default)]
pub struct History(VecDeque<(Micros, u64)>);

// === impl History ===

impl History {
    /// The primary has `offset` at `now`; what is older than `kept` is needed no more, but for the
    /// newest of that.
    pub fn note(&mut self, now: Micros, offset: u64, kept: Micros) {
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= kept) {
            self.0.pop_front();
        }
        self.0.push_back((now, offset));
    }

    /// What it had `lag` before `now`; the oldest known where that is younger. `None` if nothing is
    /// known.
    #[must_use]
    pub fn before(&self, now: Micros, lag: Micros) -> Option<u64> {
        let old = self.0.iter().rev().find(|(at, _)| now.saturating_sub(*at) >= lag);
        old.or_else(|| self.0.front()).map(|(_, offset)| *offset)
    }
}

// === impl Follower ===

impl Follower {
    /// Compares every replica with its primary.
    pub(super) fn judge_replicas(&mut self) {
        let (map, now) = (self.map(), clock::micros());
        let topology = self.shared.topology.load();
        let Some(settings) = &topology.node.settings.cluster else {
            return;
        };
        let lag = clock::to_micros(settings.replica_max_lag);
        for primary in map.members.primaries() {
            let Some(it) = self.contacts.get_mut(&primary.node.id) else {
                continue;
            };
            if let Some(data) = it.contact.data() {
                it.history.note(now, data.offset, lag);
            }
            primary.node.in_step_until.store(0, Ordering::Relaxed);
        }
        for replica in map.members.iter().filter(|it| it.role == MemberRole::Replica) {
            let has = self.contacts.get(&replica.node.id).filter(|it| it.contact.is_up());
            let has = has.and_then(|it| it.contact.data()).filter(|data| !data.is_apart);
            let primary = self.contacts.get(&replica.primary);
            let wanted = primary.and_then(|it| it.history.before(now, lag));
            let is_in_step = has.zip(wanted).is_some_and(|(has, wanted)| has.offset >= wanted);
            let until = if is_in_step { now + BELIEVED_FOR } else { 0 };
            replica.node.in_step_until.store(until, Ordering::Relaxed);
        }
    }
}

/// How long the data path believes a comparison: two are made in that time.
const BELIEVED_FOR: Micros = 2 * SECOND + SECOND / 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_primary_had_is_known_for_as_long_as_it_is_asked_for() {
        let mut history = History::default();
        assert_eq!(history.before(5, 1), None);
        for second in 0..100 {
            history.note(second * SECOND, second * 10, 10 * SECOND);
        }
        assert_eq!(history.before(99 * SECOND, 10 * SECOND), Some(890));
        assert_eq!(history.before(99 * SECOND, 0), Some(990));
        assert!(history.0.len() <= 12);
        let mut young = History::default();
        young.note(SECOND, 7, 10 * SECOND);
        assert_eq!(young.before(2 * SECOND, 10 * SECOND), Some(7), "nothing older is known");
    }
}

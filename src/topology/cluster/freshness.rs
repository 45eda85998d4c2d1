//! Which replicas are in step, so that they may serve reads.
//!
//! Owns the comparison of what a replica has with what its primary had a while ago, once a second;
//! for how long the data path may believe it the node's own `Freshness` says. Never sends anything:
//! contacts ask ROLE with every PING.
//!
//! What surprises: lag is measured in what the primary had at a time, not in seconds since the
//! replica heard of it. An idle primary speaks every ten seconds, and its replica lacks nothing
//! meanwhile. While the primary is away the time at which it was heard last is what counts, or every
//! replica would be too old after a while, and an outage that lasts be worse for it.

use std::collections::VecDeque;

use super::Follower;
use crate::clock::{self, Micros, SECOND};
use crate::topology::slots::MemberRole;
use crate::upstream::dial::Node;

/// What ROLE says of a node's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// Whether it is a replica that is not connected to its primary, or that is loading what it got
    /// from it.
    pub is_apart: bool,
    /// How far it is in the history of its shard, in bytes; `None`: it does not tell, or has no whole
    /// data.
    pub offset: Option<u64>,
}

/// What a primary has had when, oldest first.
#[derive(Debug, Default)]
pub struct History {
    /// When it was seen to have got so far; offsets rise.
    steps: VecDeque<(Micros, u64)>,
    /// When it was heard last.
    heard_at: Micros,
}

// === impl History ===

impl History {
    /// The primary has `offset` at `now`; what is older than `kept` is needed no more, but for the
    /// newest of that.
    pub fn note(&mut self, now: Micros, offset: u64, kept: Micros) {
        self.heard_at = now;
        let newest = self.steps.back().map(|(_, offset)| *offset);
        if newest.is_some_and(|newest| newest > offset) {
            // It has begun anew; what it had before tells nothing.
            self.steps.clear();
        }
        while self.steps.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= kept) {
            self.steps.pop_front();
        }
        if newest != Some(offset) {
            self.steps.push_back((now, offset));
        }
    }

    /// How far behind at `now` is who has come as far as `offset`: for how long the primary has had
    /// more. `None` if it lacks what the primary had before all that is known.
    #[must_use]
    pub fn behind(&self, now: Micros, offset: u64) -> Option<Micros> {
        let had = self.steps.partition_point(|(_, step)| *step <= offset);
        if had == 0 {
            return None;
        }
        let now =
            if now.saturating_sub(self.heard_at) > SILENT_AFTER { self.heard_at } else { now };
        Some(self.steps.get(had).map_or(0, |(at, _)| now.saturating_sub(*at)))
    }

    /// Notes at `replica` how far behind it is that says this of its data; `None`: it does not
    /// answer.
    pub fn judge(&self, replica: &Node, data: Option<Data>, now: Micros) {
        let offset = data.and_then(|data| data.offset);
        let behind = offset.and_then(|offset| self.behind(now, offset));
        replica.freshness.note(behind, data.is_some_and(|data| data.is_apart), now);
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
        let wanted = topology.node.deployment.wishes().lag.unwrap_or_default();
        let lag = clock::to_micros(settings.replica_max_lag).max(wanted);
        for primary in map.members.primaries() {
            let Some(it) = self.contacts.get_mut(&primary.node.id) else {
                continue;
            };
            if let Some(offset) = it.contact.data().and_then(|data| data.offset) {
                it.history.note(now, offset, lag);
            }
            primary.node.freshness.note(None, false, now);
        }
        let nothing = History::default();
        for replica in map.members.iter().filter(|it| it.role == MemberRole::Replica) {
            let has = self.contacts.get(&replica.node.id).filter(|it| it.contact.is_up());
            let primary = self.contacts.get(&replica.primary);
            let history = primary.map_or(&nothing, |it| &it.history);
            history.judge(&replica.node, has.and_then(|it| it.contact.data()), now);
        }
    }
}

/// A primary that has said nothing for so long is away: two questions would have been answered.
const SILENT_AFTER: Micros = 2 * SECOND + SECOND / 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_behind_somebody_is_counts_from_what_was_missed_first() {
        let mut history = History::default();
        assert_eq!(history.behind(5, 1), None, "nothing is known");
        for second in 1..100 {
            history.note(second * SECOND, second * 10, 10 * SECOND);
        }
        let now = 99 * SECOND;
        assert_eq!(history.behind(now, 990), Some(0));
        assert_eq!(history.behind(now, 985), Some(0), "what it lacks came a moment ago");
        assert_eq!(history.behind(now, 960), Some(2 * SECOND));
        assert_eq!(history.behind(now, 100), None, "longer than is remembered");
        assert!(history.steps.len() <= 12);
    }

    #[test]
    fn an_idle_primary_leaves_nobody_behind_and_one_that_is_away_makes_nobody_older() {
        let mut history = History::default();
        history.note(SECOND, 7, 9 * SECOND);
        history.note(50 * SECOND, 7, 9 * SECOND);
        assert_eq!((history.behind(50 * SECOND, 7), history.steps.len()), (Some(0), 1));
        history.note(51 * SECOND, 8, 9 * SECOND);
        history.note(52 * SECOND, 9, 9 * SECOND);
        assert_eq!(history.behind(53 * SECOND, 7), Some(2 * SECOND));
        assert_eq!(history.behind(500 * SECOND, 7), Some(SECOND), "nobody has written since");
        history.note(501 * SECOND, 3, 9 * SECOND);
        assert_eq!((history.behind(501 * SECOND, 3), history.steps.len()), (Some(0), 1));
        assert_eq!(history.behind(501 * SECOND, 2), None, "it has begun anew");
    }
}

//! Lanes that differ in nothing but their node, as one row.
//!
//! Owns the rows of a worker: for each kind of lane (who, which protocol, fast or bulk …) the lane
//! to each node. Never opens one and never looks at one: a lane named here may have been retired or
//! forgotten, and whoever asks checks. A session remembers the number of its row, so that a command
//! finds its lane by two loads.
//!
//! What surprises: rows are never removed, only taken over by a later deployment, perhaps for lanes of
//! another kind. So a number says which deployment it was given for, and means nothing in another one.

use crate::topology::slots::NodeId;
use crate::upstream::lane::{LaneId, LaneKey};

/// Number of a row, for as long as it belongs to the same deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetId {
    place: usize,
    epoch: u64,
}

/// All rows of a worker.
#[derive(Debug, Default)]
pub struct LaneSets(Vec<LaneSet>);

#[derive(Debug)]
struct LaneSet {
    /// The key of its lanes; the node is not compared.
    key: LaneKey,
    /// By the node's number.
    lanes: Vec<Option<LaneId>>,
}

// === impl LaneSets ===

impl LaneSets {
    /// The row of lanes like `key`; a new one if there is none.
    pub fn find(&mut self, key: &LaneKey) -> SetId {
        let alike = |set: &LaneSet| LaneKey { node: key.node, ..set.key.clone() } == *key;
        let numbered = |place| SetId { place, epoch: key.epoch };
        if let Some(place) = self.0.iter().position(alike) {
            return numbered(place);
        }
        let fresh = LaneSet { key: key.clone(), lanes: Vec::new() };
        match self.0.iter().position(|set| set.key.epoch != key.epoch) {
            Some(old) => {
                self.0[old] = fresh;
                numbered(old)
            }
            None => {
                self.0.push(fresh);
                numbered(self.0.len() - 1)
            }
        }
    }

    /// Whether the row was given out for this deployment and is its own still. Whoever kept the number
    /// asks before each use: the row may hold the lanes of another user by now.
    #[inline]
    #[must_use]
    pub fn is_of(&self, set: SetId, epoch: u64) -> bool {
        set.epoch == epoch && self.0.get(set.place).is_some_and(|row| row.key.epoch == epoch)
    }

    /// The lane to `node` in the row, if one was put there.
    #[inline]
    #[must_use]
    pub fn lane(&self, set: SetId, node: NodeId) -> Option<LaneId> {
        *self.0.get(set.place)?.lanes.get(usize::from(node.0))?
    }

    /// Puts a lane into the row.
    pub fn put(&mut self, set: SetId, node: NodeId, lane: LaneId) {
        let place = usize::from(node.0);
        let Some(set) = self.0.get_mut(set.place) else {
            return;
        };
        if set.lanes.len() <= place {
            set.lanes.resize(place + 1, None);
        }
        if let Some(entry) = set.lanes.get_mut(place) {
            *entry = Some(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::resp::write::Protocol;
    use crate::session::state::SessionId;
    use crate::topology::Topology;
    use crate::upstream::rig::Rig;

    /// Asks once, and returns what the lane of that command speaks.
    fn spoken_to(rig: &mut Rig, client: SessionId) -> Protocol {
        rig.say(client, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
        let lane = rig.focus_on(client).lane_id();
        rig.hand_over_all();
        rig.answer(b"$1\r\nx\r\n").unwrap();
        rig.worker.lanes.get(lane).unwrap().key.protocol
    }

    #[test]
    fn a_number_of_an_earlier_deployment_leads_to_nobody_elses_lanes() {
        let mut rig = Rig::before_cluster(3);
        let [ann, bob] = [rig.client(), rig.client()];
        rig.say(bob, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n");
        assert_eq!(spoken_to(&mut rig, ann), Protocol::Resp2);
        assert_eq!(spoken_to(&mut rig, bob), Protocol::Resp3);
        let published = Arc::clone(&rig.worker.shared.topology);
        let before = published.load_full();
        published.store(Arc::new(Topology { epoch: before.epoch + 1, ..Topology::clone(&before) }));
        // Bob is the first to come, and takes the row over that was Ann's.
        for _ in 0..2 {
            assert_eq!(spoken_to(&mut rig, bob), Protocol::Resp3);
            assert_eq!(spoken_to(&mut rig, ann), Protocol::Resp2);
        }
    }
}

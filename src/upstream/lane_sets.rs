//! Lanes that differ in nothing but their node, as one row.
//!
//! Owns the rows of a worker: for each kind of lane (who, which protocol, fast or bulk …) the lane
//! to each node. Never opens one and never looks at one: a lane named here may have been retired or
//! forgotten, and whoever asks checks. A session remembers the number of its row, so that a command
//! finds its lane by two loads.
//!
//! What surprises: rows are never removed, only taken over by a later deployment. There are as many
//! as kinds of lanes.

use crate::topology::slots::NodeId;
use crate::upstream::lane::{LaneId, LaneKey};

/// Number of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetId(usize);

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
        if let Some(place) = self.0.iter().position(alike) {
            return SetId(place);
        }
        let fresh = LaneSet { key: key.clone(), lanes: Vec::new() };
        match self.0.iter().position(|set| set.key.epoch != key.epoch) {
            Some(old) => {
                self.0[old] = fresh;
                SetId(old)
            }
            None => {
                self.0.push(fresh);
                SetId(self.0.len() - 1)
            }
        }
    }

    /// The deployment whose lanes are in the row.
    #[inline]
    #[must_use]
    pub fn epoch(&self, set: SetId) -> Option<u64> {
        self.0.get(set.0).map(|set| set.key.epoch)
    }

    /// The lane to `node` in the row, if one was put there.
    #[inline]
    #[must_use]
    pub fn lane(&self, set: SetId, node: NodeId) -> Option<LaneId> {
        *self.0.get(set.0)?.lanes.get(usize::from(node.0))?
    }

    /// Puts a lane into the row.
    pub fn put(&mut self, set: SetId, node: NodeId, lane: LaneId) {
        let place = usize::from(node.0);
        let Some(set) = self.0.get_mut(set.0) else {
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

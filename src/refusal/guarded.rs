//! What a client is told whose write was held back to protect what is there.
//!
//! Owns the words for that. Never decides (`dispatch::guards` does).
//!
//! What surprises: none of these begins with CLUSTERDOWN or NOREPLICAS, although those words come
//! near. Libraries answer them by sending a whole pipeline again, the commands that succeeded
//! included.

use super::seconds;
use crate::clock::Micros;

/// Why a write was held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// Two primaries of a cluster serve the same slot.
    SlotClaimed {
        /// The slot.
        slot: u16,
        /// The names of two of them.
        claimants: [String; 2],
    },
    /// Two nodes of a Sentinel group say that they are masters.
    GroupClaimed {
        /// What the Sentinels call the group.
        master_name: String,
        /// The one in use, and the other.
        claimants: [String; 2],
    },
    /// Too few replicas are in step with the primary.
    OutOfStep {
        /// The primary's name.
        node: String,
        /// How many are, and for how long it has been too few; `None`: it has not told.
        in_step: Option<(u64, Micros)>,
        /// How many there must be.
        wanted: u64,
        /// How far behind they may be.
        max_lag: Micros,
    },
}

// === impl Guarded ===

impl Guarded {
    /// The words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::SlotClaimed { slot, claimants: [one, other] } => format!(
                "ERR breakwater: not executed: slot {slot} is claimed by 2 masters ({one}, {other}), \
                 and what is written to one of them will be lost; compare CLUSTER NODES on both, or \
                 see upstream.split_brain"
            ),
            Self::GroupClaimed { master_name, claimants: [one, other] } => format!(
                "ERR breakwater: not executed: '{master_name}' has 2 masters ({one}, {other}), and \
                 what is written to one of them will be lost; make one a replica with REPLICAOF, or \
                 see upstream.split_brain"
            ),
            Self::OutOfStep { node, in_step: Some((count, lasts)), wanted, max_lag } => format!(
                "ERR breakwater: not executed: {count} of {wanted} replicas of {node} are in step (at \
                 most {} behind), for {}; see INFO replication there, and upstream.write_guard",
                seconds(*max_lag),
                seconds(*lasts)
            ),
            Self::OutOfStep { node, in_step: None, wanted, .. } => format!(
                "ERR breakwater: not executed: {node} has not told lately whether {wanted} replicas are \
                 in step; may our user ask INFO there? See upstream.write_guard"
            ),
        }
    }
}

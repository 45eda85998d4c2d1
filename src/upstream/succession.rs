//! Leaving a node whose place another one has taken.
//!
//! Owns what becomes of the lanes to it once a new snapshot is published: nothing new is written
//! to it, what was not sent goes to the successor, and what was sent has a moment to be answered.
//! Never decides who the successor is, and never what an unanswered command is worth (`loss` does).
//!
//! What surprises: only a deposed primary is left in haste. When an operator moves us to another
//! deployment, the old one is well and its commands are answered in their own time.

use std::io;

use crate::clock::{MILLISECOND, Micros};
use crate::topology::Topology;
use crate::upstream::lane::{Lane, LaneId, LaneState};
use crate::upstream::{loss, pool};
use crate::worker::Worker;

/// Another node is published: the shared lanes to the one before are left.
pub fn leave(worker: &mut Worker, topology: &Topology) {
    worker.succeeded_at = worker.now;
    let ids: Vec<LaneId> = worker.lanes.keys().collect();
    for id in ids {
        let Some(mut lane) = worker.lanes.lend(id) else {
            continue;
        };
        if lane.key.epoch != topology.epoch && lane.pinned.is_none() {
            leave_lane(worker, topology, &mut lane);
        }
        worker.lanes.restore(id, lane);
    }
}

fn leave_lane(worker: &mut Worker, topology: &Topology, lane: &mut Lane) {
    if lane.state != LaneState::Open {
        loss::evacuate(worker, lane);
        return pool::retire(lane);
    }
    if !is_deposed(topology, lane) {
        return;
    }
    pool::retire(lane);
    if lane.send.unsent() > 0 {
        end(lane);
    }
}

/// Ends a lane to a deposed primary that has not answered within its moment.
pub fn expire(worker: &mut Worker, lane: &mut Lane) {
    let topology = worker.topology.load();
    let is_over = worker.now.saturating_sub(worker.succeeded_at) >= GRACE;
    if is_over && !lane.is_idle() && lane.pinned.is_none() && is_deposed(topology, lane) {
        end(lane);
    }
}

/// Whether the lane leads to a node that was replaced within its deployment.
fn is_deposed(topology: &Topology, lane: &Lane) -> bool {
    let group = lane.node.settings.sentinel.as_ref();
    let is_same = group.is_some() && group == topology.node.settings.sentinel.as_ref();
    is_same && lane.key.epoch != topology.epoch
}

fn end(lane: &mut Lane) {
    lane.broken = Some(io::Error::other("another node is the primary now"));
    lane.wake();
}

/// What a deposed primary may still take to answer.
const GRACE: Micros = 250 * MILLISECOND;

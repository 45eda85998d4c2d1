//! Commands that follow one another to the nodes of a cluster.
//!
//! Owns what a run asks there besides: the slot of each command, who owns it, and whether that owner
//! may be asked yet (INV-12 a). Only commands with one key at a fixed place go in runs, and only to
//! lanes that are open and have room. Never opens a lane and never waits for one: that ends the run,
//! as everything unusual does.
//!
//! What surprises: the commands of a run go to several lanes, and what is said of "the lane" of a
//! session is said of the last one of them, as where they are dispatched one by one.

use super::{Run, Sight};
use crate::command::Command;
use crate::command::spec::Spec;
use crate::config::ReplicaReads;
use crate::dispatch::cluster;
use crate::resp::limits::Limits;
use crate::route::slot::slot;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::topology::slots::SlotMap;
use crate::upstream::pool::{self, room_at_hand};
use crate::worker::Worker;

/// Dispatches plain commands, neighbours with the same owner together, and returns their length.
pub(super) fn take<'t>(
    worker: &mut Worker,
    (topology, slots): (&'t Topology, &SlotMap),
    session: &mut Session,
    limits: &Limits,
    mut run: Run<'_, 't>,
) -> usize {
    if may_read_elsewhere(topology, session) {
        return 0;
    }
    let Some(set) = pool::fast_set(worker, topology, session) else {
        return 0;
    };
    let version = cluster::version_in_flight(slots, session);
    let home = |spec: &Spec, command: &Command<'_>| {
        let slot = slot(command.argument(spec.only_key()?)?);
        slots.owner_id(slot).filter(|_| cluster::has_stayed(slots, version, slot))
    };
    let Worker { policy, lanes, lane_sets, pool, unflushed, now, .. } = worker;
    let sight = Sight { topology, policy: policy.load(), limits, home };
    let mut last = None;
    run.begin(&sight);
    while let Some(next) = run.next.as_ref().filter(|_| run.room > 0)
        && let Some(lane) = lane_sets.lane(set, next.home).and_then(|id| lanes.get_mut(id))
        && let room @ 1.. = room_at_hand(lane)
    {
        last = Some(lane.id);
        run.queue(&sight, session, (lane, room), (pool, unflushed), *now);
    }
    let Some(last) = last else {
        return 0;
    };
    session.epoch = topology.epoch;
    session.stream = Some(false);
    run.end(session, last, *now)
}

/// Whether some commands of the session may be for replicas.
fn may_read_elsewhere(topology: &Topology, session: &Session) -> bool {
    let settings = topology.node.settings.cluster.as_ref();
    settings.is_some_and(|it| session.is_readonly || it.replica_reads != ReplicaReads::Primary)
}

#[cfg(test)]
mod tests;

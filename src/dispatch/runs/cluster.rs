//! Commands that follow one another to the nodes of a cluster.
//!
//! Owns what a run asks there besides: the slot of each command, who owns it, and whether that owner
//! may be asked yet (INV-12 a). Only commands with one key at a fixed place go in runs, and only to
//! lanes that are open and have room. Never opens a lane and never waits for one: that ends the run,
//! as everything unusual does.
//!
//! What surprises: the commands of a run go to several lanes, and what is said of "the lane" of a
//! session is said of the last one of them, as where they are dispatched one by one.

use super::{Ways, go};
use crate::command::Command;
use crate::command::spec::Spec;
use crate::config::ReplicaReads;
use crate::dispatch::cluster;
use crate::resp::limits::Limits;
use crate::resp::request::RequestScanner;
use crate::route::slot::slot;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::topology::slots::{NodeId, SlotMap};
use crate::upstream::lane_sets::LaneSets;
use crate::upstream::pool;
use crate::worker::Worker;

/// Dispatches plain commands and returns their length.
#[inline(always)]
pub(super) fn take(
    worker: &mut Worker,
    (topology, slots): (&Topology, &SlotMap),
    session: &mut Session,
    (scanner, limits): (&mut RequestScanner, &Limits),
    input: &[u8],
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
    let lane = |sets: &LaneSets, node: NodeId| sets.lane(set, node);
    let used = go(worker, topology, session, (scanner, limits), input, Ways { home, lane });
    if used > 0 {
        session.stream = Some(false);
    }
    used
}

/// Whether some commands of the session may be for replicas.
fn may_read_elsewhere(topology: &Topology, session: &Session) -> bool {
    let settings = topology.node.settings.cluster.as_ref();
    settings.is_some_and(|it| session.is_readonly || it.replica_reads != ReplicaReads::Primary)
}

#[cfg(test)]
mod tests;

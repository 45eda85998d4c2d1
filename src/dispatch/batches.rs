//! A command of many keys, sent in batches so that no node is busy with it for long.
//!
//! Owns the way into [`gather`] for a command that a rule has cut, in a cluster or before a single
//! node. Never decides that one is cut (`dispatch::rewrite` does). What surprises: all batches are
//! queued at once. A server takes a client's input in pieces of some kilobytes, and between two of
//! them everybody else has a turn.

use super::doubt::refuse_doubtful;
use super::gather::{Way, send_parts};
use super::order::Order;
use super::{Asked, Dispatched, go, wants_bulk};
use crate::buffer::Piece;
use crate::command::Command;
use crate::command::spec::Spec;
use crate::route;
use crate::route::slot::slot;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::upstream::identity::Identity;
use crate::upstream::lane::Role;
use crate::upstream::pool::{self, NoLane};
use crate::worker::Worker;

/// A command of many keys in parts of at most `size`, wherever they lie.
pub fn send(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    (spec, command, size): (&Spec, Command<'_>, usize),
) -> Dispatched {
    let slots = topology.slots.as_deref();
    let place = route::place(spec, &command, &mut worker.keys);
    if session.detours.as_ref().is_some_and(|detours| detours.conflicts(place)) {
        return Dispatched::Wait;
    }
    if session.doubtful > 0 && (slots.is_none() || session.doubts(place)) {
        return refuse_doubtful(worker, topology, session, spec);
    }
    let is_bulk = wants_bulk(session, spec, &command);
    let (asked, frame) = (Asked::of(spec), Piece::Borrowed(command.frame()));
    let order = Order { topology, identity, slot: None, is_bulk, asked, frame };
    let anybody = slots.and_then(|slots| slots.members.primaries().next());
    let anybody = anybody.map_or(topology.node.id, |member| member.node.id);
    let home = |key: &[u8]| {
        let Some(slots) = slots else {
            return Ok((0, topology.node.id));
        };
        let slot = slot(key);
        Ok((slot, slots.owner_id(slot).unwrap_or(anybody)))
    };
    let mut split = std::mem::take(&mut worker.split);
    let keys = std::mem::take(&mut worker.keys);
    let cut = split.cut_small(spec, &command, &keys, size, home);
    worker.keys = keys;
    let done = match cut {
        Ok(()) => send_parts(worker, slots, session, (spec, command), &split, &order),
        // A server that says itself that this may not be divided.
        Err(_) => {
            go(worker, topology, session, identity, (spec, Role::Plain), command, order.frame)
        }
    };
    worker.split = split;
    done
}

/// The lane to the only node; `None` if it must be waited for. What follows stays on it (INV-12 c).
pub(super) fn only_way<'a>(
    worker: &mut Worker,
    session: &mut Session,
    order: &Order<'a>,
) -> Option<Vec<Way<'a>>> {
    let Order { topology, identity, is_bulk, .. } = *order;
    let way = match pool::lane_for(worker, topology, session, identity, is_bulk) {
        Ok(lane) => {
            session.lane = Some(lane);
            Ok(lane)
        }
        Err(NoLane::Wait) => return None,
        // What it sent before is still on a lane, and comes first (INV-12).
        Err(NoLane::Refused(_)) if session.in_flight > 0 => return None,
        Err(NoLane::Refused(refusal)) => Err(refusal),
    };
    Some(vec![(&topology.node, way)])
}

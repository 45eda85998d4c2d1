//! Where a command goes when many nodes stand behind us.
//!
//! Owns the branches between a command's keys and the lane of one node: all keys in one slot, none
//! at all, or in several slots; and what happens if that node cannot be had now. Never reads a
//! reply (`detour` follows redirects). It is the part of [`super::dispatch`] that only clusters
//! need.
//!
//! What surprises: a command whose node is down is *taken*: it waits among its session's detours
//! for a failover, so that commands for other slots behind it go on at once (INV-5).

use std::sync::Arc;

use super::doubt::refuse_doubtful;
use super::gather::{self, Spread};
use super::order::Order;
use super::{Asked, Dispatched, not_executed, send, wants_bulk};
use crate::buffer::Piece;
use crate::command::Command;
use crate::command::spec::Spec;
use crate::config::ReplicaReads;
use crate::dispatch::replicas;
use crate::pubsub::recount::Recount;
use crate::refusal::Refusal;
use crate::resp::write;
use crate::route::{self, Place};
use crate::session::state::Session;
use crate::topology::Topology;
use crate::topology::slots::SlotMap;
use crate::upstream::dial::Node;
use crate::upstream::identity::Identity;
use crate::upstream::lane::Role;
use crate::upstream::pool::{self, NoLane};
use crate::worker::Worker;

/// Chooses the node of a command and its lane there.
pub fn forward(
    worker: &mut Worker,
    slots: &SlotMap,
    session: &mut Session,
    (topology, identity): (&Topology, Identity),
    (spec, role): (&Spec, Role),
    command: Command<'_>,
    frame: Piece<'_>,
) -> Dispatched {
    let place = route::place(spec, &command, &mut worker.keys);
    if session.detours.as_ref().is_some_and(|detours| detours.conflicts(place)) {
        return Dispatched::Wait;
    }
    if session.doubtful > 0 && session.doubts(place) {
        return refuse_doubtful(worker, topology, session, spec);
    }
    let is_bulk = wants_bulk(session, spec, &command);
    let recount = Recount::of(&worker.shared.tally, spec, &command);
    let asked = Asked { role, recount, ..Asked::of(spec) };
    let slot = if let Place::Slot(slot) = place { Some(slot) } else { None };
    let order = Order { topology, identity, slot, is_bulk, asked, frame };
    match place {
        Place::Slot(slot) => to_slot(worker, slots, session, slot, order),
        Place::Anywhere => match Spread::of(spec) {
            Some(spread) => gather::spread(worker, slots, session, (spec, spread), command, &order),
            None => to_node(worker, session, &anybody(topology), order),
        },
        Place::Several => gather::split(worker, slots, session, spec, command, &order),
    }
}

/// A transaction that is sent whole.
pub fn place(worker: &mut Worker, session: &mut Session, order: Order<'_>) -> Dispatched {
    match (order.slot, &order.topology.slots) {
        (Some(slot), Some(slots)) => to_slot(worker, slots, session, slot, order),
        _ => to_node(worker, session, &anybody(order.topology), order),
    }
}

/// All keys lie in one slot: its owner is asked.
#[inline]
pub fn to_slot(
    worker: &mut Worker,
    slots: &SlotMap,
    session: &mut Session,
    slot: u16,
    order: Order<'_>,
) -> Dispatched {
    if !is_settled(slots, session, slot) {
        return Dispatched::Wait;
    }
    let wish = replicas::wish(session, &order.topology.node, &order.asked);
    if wish.is_none()
        && let Some(owner) = slots.owner_id(slot)
        && let Some(lane) =
            pool::lane_at_hand(worker, order.topology, session, owner, order.is_bulk)
    {
        return send(worker, session, lane, order.asked, order.frame);
    }
    elsewhere(worker, slots, session, (slot, wish), order)
}

/// As [`to_slot`], where a replica may serve the command, or the lane to the owner is not at hand.
fn elsewhere(
    worker: &mut Worker,
    slots: &SlotMap,
    session: &mut Session,
    (slot, wish): (u16, Option<ReplicaReads>),
    order: Order<'_>,
) -> Dispatched {
    let owner = slots.owner(slot);
    if let Some(owner) = owner
        && let Some(wish) = wish
    {
        match replicas::choose(worker, slots, session, owner, wish) {
            Ok(Some(node)) => return to(worker, session, &node, (order, true)),
            Ok(None) => {}
            Err(refusal) => {
                let Some(spec) = order.topology.table.spec(order.asked.command) else {
                    return Dispatched::Wait;
                };
                return not_executed(worker, session, spec, &refusal);
            }
        }
    }
    // Whoever else is asked knows the owner, or says in Redis's words that there is none.
    match owner.or_else(|| slots.members.primaries().next()) {
        Some(member) => to_node(worker, session, &member.node, order),
        None => {
            let refusal = Refusal::NoMap { seed: order.topology.node.name.clone() };
            order.park(worker, session, &order.topology.node, refusal)
        }
    }
}

/// Whether a command for that slot may be dispatched by this map; if not, what was sent to the slot's
/// former owner comes first (INV-12 a).
#[inline]
pub fn is_settled(slots: &SlotMap, session: &mut Session, slot: u16) -> bool {
    let version = version_in_flight(slots, session);
    has_stayed(slots, version, slot)
}

/// The version of the map by which the commands in flight were sent, or will be if there are none.
#[inline]
pub fn version_in_flight(slots: &SlotMap, session: &mut Session) -> u32 {
    if session.in_flight == 0 {
        session.map_version = slots.version;
    }
    session.map_version
}

/// Whether the slot still has the owner that it had by that version of the map.
#[inline]
pub fn has_stayed(slots: &SlotMap, version: u32, slot: u16) -> bool {
    slots.changed <= version || slots.slot(slot).since <= version
}

/// Who gets a command without a key: the node that gets all of them, or another primary while that
/// one is known to be down; the control plane may take a second to agree, and until then commands
/// that anybody could answer would wait.
#[must_use]
pub fn anybody(topology: &Topology) -> Arc<Node> {
    let is_down = |node: &Arc<Node>| node.health.is_away();
    let slots = topology.slots.as_ref().filter(|_| is_down(&topology.node));
    let primaries = slots.into_iter().flat_map(|slots| slots.members.primaries());
    let another = primaries.map(|member| &member.node).find(|&node| !is_down(node));
    Arc::clone(another.unwrap_or(&topology.node))
}

#[inline]
fn to_node(
    worker: &mut Worker,
    session: &mut Session,
    node: &Arc<Node>,
    order: Order<'_>,
) -> Dispatched {
    to(worker, session, node, (order, false))
}

/// Sends a command to this node; as a reader where that is a replica.
#[inline]
pub fn to(
    worker: &mut Worker,
    session: &mut Session,
    node: &Arc<Node>,
    (order, is_readonly): (Order<'_>, bool),
) -> Dispatched {
    let kind = (order.is_bulk, is_readonly);
    match pool::lane_to(worker, order.topology, session, order.identity, node, kind) {
        Ok(lane) => send(worker, session, lane, order.asked, order.frame),
        Err(NoLane::Wait) => Dispatched::Wait,
        Err(NoLane::Refused(refusal)) => order.park(worker, session, node, refusal),
    }
}

/// Redis's own words for keys that one node may hold and one command may not name.
pub fn cross_slot(line: &mut Vec<u8>) {
    write::error(line, "CROSSSLOT Keys in request don't hash to the same slot");
}

//! Commands that go to several places: sent in parts, answered once.
//!
//! Owns the sending of the parts and the moment when the last of them is settled. Which parts there
//! are `route::split` says, or the command's published policy; what their replies become
//! `route::merge` and the [`Gather`] itself. Never waits for one part before another is sent, never
//! sends one if a lane for another must be waited for.
//!
//! What surprises: parts for one node are queued in one piece, with one waiter that is owed as many
//! replies. A part that a node redirects, or that its connection loses, goes on by itself; it is a
//! command like any other then.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::cluster;
use super::order::Order;
use super::{Dispatched, Settled, not_executed, refuse_with, settle_role, waiter};
use super::{batches, detour, keyspaces, patience};
use crate::buffer::{LARGE_BYTES, Piece};
use crate::clock::{Micros, SECOND};
use crate::command::Command;
use crate::command::spec::{CommandId, RequestPolicy, Spec, builtin_id};
use crate::refusal::Refusal;
use crate::refusal::parts::Parts;
use crate::resp::frames::{self, Elements};
use crate::resp::write;
use crate::route::merge::Merge;
use crate::route::scan::{NoStep, Picture, Step, Visit};
use crate::route::split::{NoSplit, Part as SlotPart, Split};
use crate::scripts::follow;
use crate::session::detour::Answer as Last;
use crate::session::gather::{Gather, Means, Part, Room};
use crate::session::state::Session;
use crate::topology::Topology;
use crate::topology::slots::{Health, MemberRole, SlotMap};
use crate::upstream::dial::Node;
use crate::upstream::lane::{Lane, LaneId, LaneKey, Role, Waiter};
use crate::upstream::pool::{self, NoLane};
use crate::worker::{SCRATCH_BYTES, Worker};

/// Where a command without keys goes that is not for anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Every primary, or every node.
    Everywhere {
        /// Whether replicas are among them.
        with_replicas: bool,
    },
    /// One node after the other, call by call.
    Scan,
}

/// The lane to a node, or why there is none now.
pub(super) type Way<'a> = (&'a Arc<Node>, Result<LaneId, Refusal>);

// === impl Spread ===

impl Spread {
    /// Where commands of `spec` without keys go; `None`: to anybody.
    #[must_use]
    pub fn of(spec: &Spec) -> Option<Self> {
        match spec.request_policy {
            // What a health check asks; it must not fail because one of many nodes does.
            _ if spec.id == PING => None,
            // Each primary knows the shard channels of its own slots.
            _ if spec.id == PUBSUB_SHARDCHANNELS || spec.id == PUBSUB_SHARDNUMSUB => {
                Some(Self::Everywhere { with_replicas: false })
            }
            RequestPolicy::AllShards => Some(Self::Everywhere { with_replicas: false }),
            RequestPolicy::AllNodes => Some(Self::Everywhere { with_replicas: true }),
            RequestPolicy::Special if spec.id == SCAN => Some(Self::Scan),
            _ => None,
        }
    }
}

/// A command with keys in several slots, which are at `worker.keys`.
pub fn split(
    worker: &mut Worker,
    slots: &SlotMap,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
    order: &Order<'_>,
) -> Dispatched {
    let mut split = std::mem::take(&mut worker.split);
    let keys = std::mem::take(&mut worker.keys);
    // Whoever else is asked knows the owner, or says in Redis's words that there is none.
    let anybody = slots.members.primaries().next().map(|member| member.node.id);
    let owner = |slot| slots.owner_id(slot).or(anybody);
    let cut = split.cut(spec, &command, &keys, owner);
    worker.keys = keys;
    let done = match cut {
        Ok(()) => send_parts(worker, Some(slots), session, (spec, command), &split, order),
        Err(NoSplit::CrossSlot) => refuse_with(worker, session, Some(spec), cluster::cross_slot),
        Err(NoSplit::Uncovered(_)) => no_map(worker, session, spec, order),
    };
    worker.split = split;
    done
}

/// Sends each part to the owner of its slot, or to the one node that there is.
pub(super) fn send_parts<'a>(
    worker: &mut Worker,
    slots: Option<&'a SlotMap>,
    session: &mut Session,
    (spec, command): (&Spec, Command<'_>),
    split: &Split,
    order: &Order<'a>,
) -> Dispatched {
    if let Some(slots) = slots {
        let has_moved = |part: &SlotPart| slots.slot(part.slot).since > session.map_version;
        if session.in_flight == 0 {
            session.map_version = slots.version;
        } else if split.parts().iter().any(has_moved) {
            // INV-12 a: what was sent to the former owner of one of them comes first.
            return Dispatched::Wait;
        }
    }
    let Some(nodes) = nodes_of(slots, split, order) else {
        return no_map(worker, session, spec, order);
    };
    let ways = match slots {
        Some(_) => ways(worker, session, &nodes, order),
        None => batches::only_way(worker, session, order),
    };
    let Some(ways) = ways else {
        return Dispatched::Wait;
    };
    if let Some(refusal) = hopeless(worker, session, &ways, order) {
        return not_executed(worker, session, spec, &refusal);
    }
    let whole = waiter(worker.now, session, order.asked);
    let mut room = worker.rooms.take();
    room.order.extend_from_slice(split.order());
    let mut bytes = std::mem::take(&mut worker.line);
    let runs = split.parts().chunk_by(|a, b| a.node == b.node);
    for (run, (node, way)) in runs.zip(&ways) {
        bytes.clear();
        // A command has at most 16,384 parts, one a slot.
        let first = room.parts.len() as u16;
        split.write(run, (spec, &command), &mut bytes, |part, request| {
            room.parts.push(Part::new(node.id, part.keys.clone(), request));
        });
        let role = Role::Part { place: first, is_bound: false };
        let own = Waiter { role, frames: run.len() as u32, ..whole };
        match way {
            Ok(lane) => queue(worker, *lane, piece(&mut bytes), own),
            Err(refusal) => {
                let run = room.parts.get(usize::from(first)..).unwrap_or_default();
                let homes = split.parts().iter().skip(usize::from(first));
                let homes = homes.map(|part| slots.map(|_| part.slot));
                park(worker, session, (own, refusal), (run, homes), (&bytes, order));
            }
        }
    }
    worker.line = bytes;
    let means = Means::Merge(Merge::of(spec));
    // Parts with keys are called by these, not by their nodes.
    keep(worker, session, (whole, means), Vec::new(), room);
    Dispatched::Done
}

/// The nodes of the parts, each once and in their order.
fn nodes_of<'a>(
    slots: Option<&'a SlotMap>,
    split: &Split,
    order: &Order<'a>,
) -> Option<Vec<&'a Arc<Node>>> {
    let Some(slots) = slots else {
        return Some(vec![&order.topology.node]);
    };
    let runs = split.parts().chunk_by(|a, b| a.node == b.node).filter_map(|run| run.first());
    runs.map(|part| Some(&slots.members.get(part.node)?.node)).collect()
}

/// Nothing is known of who serves these keys.
#[cold]
fn no_map(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    order: &Order<'_>,
) -> Dispatched {
    worker.shared.map_is_old.notify_one();
    let refusal = Refusal::NoMap { seed: order.topology.node.name.clone() };
    not_executed(worker, session, spec, &refusal)
}

/// A command that is for every node, or for the next one of a scan.
pub fn spread(
    worker: &mut Worker,
    slots: &SlotMap,
    session: &mut Session,
    (spec, spread): (&Spec, Spread),
    command: Command<'_>,
    order: &Order<'_>,
) -> Dispatched {
    if session.in_flight == 0 {
        session.map_version = slots.version;
    } else if slots.version != session.map_version {
        // INV-12 a: it is about all slots, those included that have moved since.
        return Dispatched::Wait;
    }
    match spread {
        Spread::Scan => scan(worker, slots, session, spec, command, order),
        Spread::Everywhere { with_replicas } => {
            let replicas = slots.members.iter().filter(|member| {
                let is_replica = with_replicas && member.role == MemberRole::Replica;
                is_replica && member.health != Health::Failed
            });
            let all = slots.shards().chain(replicas);
            let nodes: Vec<&Arc<Node>> = all.map(|member| &member.node).collect();
            let means = Means::Merge(Merge::of(spec));
            everywhere(worker, slots, session, (spec, means), &nodes, order)
        }
    }
}

/// Sends the same bytes to all `nodes`. A replica that cannot be had is left out; without a primary
/// nothing is sent. INFO speaks of those who are there: libraries ask it before anything else.
fn everywhere(
    worker: &mut Worker,
    slots: &SlotMap,
    session: &mut Session,
    (spec, means): (&Spec, Means),
    nodes: &[&Arc<Node>],
    order: &Order<'_>,
) -> Dispatched {
    let Some(mut ways) = ways(worker, session, nodes, order) else {
        return Dispatched::Wait;
    };
    let is_replica = |node: &Node| {
        slots.members.get(node.id).is_some_and(|member| member.role == MemberRole::Replica)
    };
    let may_lack = |node: &Node| spec.id == INFO || is_replica(node);
    ways.retain(|(node, way)| way.is_ok() || !may_lack(node));
    let refused = ways.iter().find_map(|(_, way)| way.as_ref().err());
    let none = Refusal::NoMap { seed: order.topology.node.name.clone() };
    if let Some(refusal) = refused.or(ways.is_empty().then_some(&none)) {
        worker.shared.map_is_old.notify_one();
        return not_executed(worker, session, spec, refusal);
    }
    let whole = waiter(worker.now, session, order.asked);
    let mut room = worker.rooms.take();
    for (place, (node, way)) in ways.iter().enumerate() {
        let part = Part::new(node.id, 0..0, 0..0);
        room.parts.push(if is_replica(node) { part.dispensable() } else { part });
        // There are fewer nodes than their numbers have room for.
        let own = Waiter { role: Role::Part { place: place as u16, is_bound: true }, ..whole };
        if let Ok(lane) = way {
            queue(worker, *lane, order.frame.clone(), own);
        }
    }
    let nodes = ways.into_iter().map(|(node, _)| Arc::clone(node)).collect();
    keep(worker, session, (whole, means), nodes, room);
    Dispatched::Done
}

/// One call of a scan: one node is asked, with its own cursor in the place of ours.
fn scan(
    worker: &mut Worker,
    slots: &SlotMap,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
    order: &Order<'_>,
) -> Dispatched {
    let cursor = command.argument(1).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let picture = Picture { map: slots, epoch: order.topology.epoch, now: worker.now };
    let step = cursor.ok_or(NoStep::Invalid).and_then(|cursor| {
        worker.shared.scans.lock().unwrap_or_else(PoisonError::into_inner).step(cursor, picture)
    });
    match step {
        Ok(Step::Wait) => {
            // Looked at again in a moment; by then the map may be there.
            worker.shared.map_is_old.notify_one();
            worker.detouring.mark(session.id);
            Dispatched::Wait
        }
        Ok(Step::Done) => {
            worker.answer(session, |line| write_page(line, 0, b"*0\r\n"));
            Dispatched::Done
        }
        Ok(Step::Ask(visit)) => {
            let Some(member) = slots.members.get(visit.node) else {
                return Dispatched::Wait;
            };
            let mut bytes = Vec::with_capacity(command.frame().len() + 20);
            write::array_header(&mut bytes, command.len());
            match &spec.wire_name {
                Some(name) => write::bulk(&mut bytes, name),
                None => bytes.extend_from_slice(command.raw(0..1)),
            }
            write::bulk(&mut bytes, visit.cursor.to_string().as_bytes());
            bytes.extend_from_slice(command.raw(2..command.len()));
            let order = Order { frame: Piece::Shared(bytes.into()), ..order.clone() };
            let nodes = [&member.node];
            everywhere(worker, slots, session, (spec, Means::Page(visit)), &nodes, &order)
        }
        Err(NoStep::NoNodes) => no_map(worker, session, spec, order),
        Err(_) => {
            refuse_with(worker, session, Some(spec), |line| write::error(line, INVALID_CURSOR))
        }
    }
}

/// The lanes to all nodes; `None` if one of them must be waited for.
fn ways<'a>(
    worker: &mut Worker,
    session: &mut Session,
    nodes: &[&'a Arc<Node>],
    order: &Order<'_>,
) -> Option<Vec<Way<'a>>> {
    let mut ways = Vec::with_capacity(nodes.len());
    let kind = (order.is_bulk, false);
    for &node in nodes {
        let lane = pool::lane_to(worker, order.topology, session, order.identity, node, kind);
        let way = match lane {
            Ok(lane) => Ok(lane),
            Err(NoLane::Wait) => return None,
            Err(NoLane::Refused(refusal)) => Err(refusal),
        };
        ways.push((node, way));
    }
    Some(ways)
}

/// Why nothing is sent: a node has been down for longer than it is waited for.
fn hopeless(
    worker: &Worker,
    session: &Session,
    ways: &[Way<'_>],
    order: &Order<'_>,
) -> Option<Refusal> {
    let (topology, frame) = (order.topology, order.frame.bytes());
    ways.iter().find_map(|(node, way)| {
        let refusal = way.as_ref().err()?;
        worker.shared.map_is_old.notify_one();
        let may_wait = patience::may_wait(worker, topology, session, node, (frame, worker.now))
            || keyspaces::has_stand_in(worker, topology, session, node, frame);
        (!may_wait).then(|| refusal.clone())
    })
}

/// Parts whose node is down wait for it, or for whoever takes its place.
#[cold]
fn park(
    worker: &mut Worker,
    session: &mut Session,
    (own, refusal): (Waiter, &Refusal),
    (parts, homes): (&[Part], impl Iterator<Item = Option<u16>>),
    (bytes, order): (&[u8], &Order<'_>),
) {
    let topology = order.topology;
    let fast = LaneKey::of(session, order.identity, topology.epoch, topology.node.id);
    let key = LaneKey { is_bulk: order.is_bulk, ..fast };
    for ((index, part), slot) in (0_u32..).zip(parts).zip(homes) {
        let range = part.request.start as usize..part.request.end as usize;
        let frame = Bytes::copy_from_slice(bytes.get(range).unwrap_or_default());
        let place = (key.clone(), slot);
        let last = Last::Refusal(refusal.clone());
        detour::park(worker, session, own.one(index), frame, place, last);
    }
}

/// The bytes of several parts, large ones without another copy.
fn piece(bytes: &mut Vec<u8>) -> Piece<'_> {
    if bytes.len() >= LARGE_BYTES {
        Piece::Shared(std::mem::take(bytes).into())
    } else {
        Piece::Borrowed(bytes)
    }
}

/// Queues what goes to one node.
fn queue(worker: &mut Worker, id: LaneId, frame: Piece<'_>, own: Waiter) {
    let Some(lane) = worker.lanes.get_mut(id) else {
        // Nothing has run between the question for the lane and this; a client must not hang if
        // that changes.
        debug_assert!(false, "a lane that was just found");
        return;
    };
    lane.used_at = worker.now;
    worker.unflushed.mark(lane.id, lane.send.unsent() == 0);
    if Role::of(own.command) == Role::Script {
        let Worker { shared, stats, pool, .. } = worker;
        follow::enqueue(shared, stats, pool, lane, frame, own, false);
    } else {
        lane.enqueue(&mut worker.pool, frame, own);
    }
}

/// Everything is on its way.
fn keep(
    worker: &Worker,
    session: &mut Session,
    (whole, means): (Waiter, Means),
    nodes: Vec<Arc<Node>>,
    room: Room,
) {
    let most = held_max(worker);
    session.gathers.push(Gather::new(whole, (means, session.protocol), nodes, room, most));
    session.in_flight += 1;
    session.end_of_command();
}

/// Most bytes that a command may hold whose answer is made of several replies.
#[must_use]
pub fn held_max(worker: &Worker) -> usize {
    worker.shared.memory.reply_bytes_total / HELD_SHARE
}

/// One of the replies to a lane's first waiter, which waits for those of several parts.
pub fn one_of_many(worker: &mut Worker, lane: &mut Lane, bytes: &[u8], kind: u8) {
    let Some(first) = lane.waiters.front() else {
        return;
    };
    let (start, own) = (first.start(), first.one(lane.block.0));
    lane.block.0 += 1;
    lane.settling = Some(own.session);
    let is_redirect = kind == b'-' && leave(worker, lane, start, own, bytes);
    if !is_redirect {
        // What went out among others is no detour and has no other role.
        settled(worker, &own, &Settled::Reply { bytes, kind, earlier: lane.streamed });
    }
    lane.streaming = false;
    lane.streamed = 0;
    lane.settling = None;
}

/// The part that a node redirects goes on by itself; `first` is where the bytes of all parts begin. Returns whether it
/// does.
#[cold]
fn leave(worker: &mut Worker, lane: &Lane, first: u64, own: Waiter, reply: &[u8]) -> bool {
    let Role::Part { place, is_bound: false } = own.role else {
        return false;
    };
    let gather = worker
        .sessions
        .get_mut(own.session)
        .and_then(|session| session.gathers.get_mut(own.slot))
        .filter(|gather| gather.wants(place, 1) && !gather.is_away(place));
    let Some((gather, request)) = gather.and_then(|gather| {
        gather.part(place).map(|part| part.request.clone()).map(|request| (gather, request))
    }) else {
        return false;
    };
    let (start, end) = (first + u64::from(request.start), first + u64::from(request.end));
    let Some(frame) = lane.send.piece(start, end).map(detour::owned) else {
        return false;
    };
    gather.send_away(place);
    if detour::take_part(worker, lane, own, frame, reply) {
        return true;
    }
    // It is no redirect after all: the part is settled by this very reply.
    false
}

/// A piece of the long reply that the lane's first waiter is getting.
pub fn piece_of_part(worker: &mut Worker, own: &Waiter, bytes: &[u8]) {
    let Role::Part { place, .. } = own.role else {
        return;
    };
    let session = worker.sessions.get_mut(own.session);
    let gather = session.and_then(|session| session.gathers.get_mut(own.slot));
    if let Some(gather) = gather {
        gather.piece(place, bytes);
    }
}

/// What became of a part, or of several for one node. With the last of all the client gets its
/// answer.
pub fn settled(worker: &mut Worker, own: &Waiter, settled: &Settled<'_>) {
    let Role::Part { place, .. } = own.role else {
        return;
    };
    let gathers = worker.sessions.get_mut(own.session).map(|session| &mut session.gathers);
    let gather = gathers.and_then(|gathers| gathers.get_mut(own.slot));
    let Some(gather) = gather else {
        // A tombstone: the client has gone, or was told already.
        worker.stats.tombstones_consumed.increment();
        return;
    };
    match settled {
        Settled::Reply { bytes, .. } => gather.reply(place, bytes),
        Settled::Failed { refusal, outcome } => gather.fail(place, own.frames, refusal, *outcome),
    }
    if !gather.is_complete() {
        return;
    }
    let session = worker.sessions.get_mut(own.session);
    if let Some(gather) = session.and_then(|session| session.gathers.take(own.slot)) {
        finish(worker, gather);
    }
}

/// All parts are settled: the client gets its answer.
fn finish(worker: &mut Worker, gather: Gather) {
    let topology = Arc::clone(worker.topology.load());
    let Some(spec) = topology.table.spec(gather.waiter.command) else {
        return;
    };
    let chance = worker.now.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let mut bytes = std::mem::take(&mut worker.line);
    bytes.clear();
    let page = |visit, reply: &[u8]| page(worker, &topology, visit, reply);
    let answer = gather.answer(spec, chance, page, &mut bytes);
    let waiter = gather.waiter;
    worker.rooms.give(gather.into_room());
    let settled = match answer {
        Ok(()) => {
            let kind = bytes.first().copied().unwrap_or(b'+');
            Settled::Reply { bytes: &bytes, kind, earlier: 0 }
        }
        Err((refusal, outcome)) => Settled::Failed { refusal, outcome },
    };
    settle_role(worker, &waiter, settled);
    // A long answer must not stay allocated for good.
    bytes.shrink_to(SCRATCH_BYTES);
    worker.line = bytes;
}

/// A node's page of a scan, with our cursor in the place of its own.
fn page(
    worker: &Worker,
    topology: &Topology,
    visit: Visit,
    reply: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let odd = || Refusal::Parts(Box::new(Parts::Unmergeable { command: "scan".into() }));
    let (_, mut elements) = Elements::within(reply).ok_or_else(odd)?;
    let cursor = elements.next().and_then(frames::string);
    let cursor = cursor.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let cursor = cursor.ok_or_else(odd)?;
    let map = topology.slots.as_ref().ok_or_else(odd)?;
    let picture = Picture { map, epoch: topology.epoch, now: worker.now };
    let mut scans = worker.shared.scans.lock().unwrap_or_else(PoisonError::into_inner);
    let next = scans
        .next(visit, cursor, picture)
        .map_err(|_| Refusal::Parts(Box::new(Parts::CursorTooLarge)))?;
    if cursor == 0 && worker.now.saturating_sub(map.fetched_at) > MAP_YOUNG {
        // What has moved unseen should be known by the time that the scan ends.
        worker.shared.map_is_old.notify_one();
    }
    let mut out = Vec::with_capacity(reply.len() + 16);
    write_page(&mut out, next, elements.rest());
    Ok(out)
}

/// A reply of SCAN.
fn write_page(out: &mut Vec<u8>, cursor: u64, keys: &[u8]) {
    write::array_header(out, 2);
    write::bulk(out, cursor.to_string().as_bytes());
    out.extend_from_slice(keys);
}

/// A command in parts may hold one such share of what all replies may.
const HELD_SHARE: usize = 4;
/// A scan that goes to its next node asks for a newer map than this.
const MAP_YOUNG: Micros = 5 * SECOND;
const INVALID_CURSOR: &str = "ERR invalid cursor";
const INFO: CommandId = builtin_id("info");
const PING: CommandId = builtin_id("ping");
const PUBSUB_SHARDCHANNELS: CommandId = builtin_id("pubsub|shardchannels");
const PUBSUB_SHARDNUMSUB: CommandId = builtin_id("pubsub|shardnumsub");
const SCAN: CommandId = builtin_id("scan");

#[cfg(test)]
mod tests;

//! Transactions in a cluster: queued here, and sent whole with EXEC.
//!
//! Owns what is kept between MULTI and EXEC, which node a pinned command belongs to, and what the
//! replies to such a block mean. Never runs a part of a transaction: MULTI, all of it and EXEC are
//! one write to one node, so a redirect before or at EXEC has run nothing, and the whole goes to
//! the slot's new owner.
//!
//! What surprises: QUEUED is our answer, so an error that only the node can give (NOPERM, OOM)
//! comes with EXEC, as the cause of its EXECABORT. And watched keys are lost with their slot: then
//! EXEC finds that they have changed. Why not on a connection of its own from the first key on:
//! docs/decisions/0013.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::buffer::Piece;
use crate::command::Command;
use crate::command::spec::{Class, Lane as LaneKind, RequestPolicy, Spec};
use crate::dispatch::cluster;
use crate::dispatch::order::{self, Order};
use crate::dispatch::{self, Asked, Dispatched, Settled};
use crate::refusal::Refusal;
use crate::resp::write;
use crate::route::{self, Place};
use crate::session::pin::{Abort, Held, Multi, Pending};
use crate::session::state::Session;
use crate::session::{local, pinned, replication, transaction};
use crate::stats::labels::Outcome;
use crate::topology::Topology;
use crate::topology::redirect;
use crate::upstream::dial::Node;
use crate::upstream::lane::{Lane, LaneId, Patience, Role};
use crate::upstream::pool;
use crate::worker::Worker;

/// MULTI: from here on commands are kept.
fn begin(worker: &mut Worker, session: &mut Session, spec: &Spec) -> Dispatched {
    let held = Some(Box::default());
    session.pin.get_or_insert_default().multi = Some(Multi { held, ..Multi::default() });
    session.client.queued.store(0, Ordering::Relaxed);
    local(worker, session, spec, |line| write::simple(line, "OK"))
}

/// Why a pinned command cannot be served in front of a cluster.
#[must_use]
pub fn refusal(spec: &Spec) -> Option<Refusal> {
    let is_about_one_node = match &*spec.name {
        "wait" | "waitaof" | "monitor" | "client|tracking" | "client|caching" => true,
        // Before it gets here, it was seen to be one to invalidations.
        "subscribe" => true,
        _ => replication::is_about_it(spec),
    };
    is_about_one_node.then(|| Refusal::NotServed { command: spec.name.to_string(), why: ONE_NODE })
}

/// The node that a pinned command goes to: in a cluster the owner of its keys' slot, which is told as well. Some
/// commands are answered here instead.
///
/// # Errors
/// What became of the command.
pub fn home(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) -> Result<(Arc<Node>, Option<u16>), Dispatched> {
    let Some(slots) = &topology.slots else {
        return Ok((Arc::clone(&topology.node), None));
    };
    if let Some(refusal) = refusal(spec) {
        return Err(dispatch::refuse(worker, session, spec, &refusal));
    }
    if &*spec.name == "multi" {
        return Err(begin(worker, session, spec));
    }
    let place = route::place(spec, &command, &mut worker.keys);
    if session.detours.as_ref().is_some_and(|detours| detours.conflicts(place)) {
        return Err(Dispatched::Wait);
    }
    let slot = match place {
        Place::Anywhere => return Ok((Arc::clone(&topology.node), None)),
        Place::Slot(slot) => slot,
        Place::Several => return Err(cross_slot(worker, session, spec)),
    };
    let owner = slots.owner(slot).or_else(|| slots.members.primaries().next());
    let Some(owner) = owner else {
        worker.shared.map_is_old.notify_one();
        let refusal = Refusal::NoMap { seed: topology.node.name.clone() };
        return Err(dispatch::not_executed(worker, session, spec, &refusal));
    };
    let pin = session.pin.as_ref();
    let own = pin.and_then(|pin| worker.lanes.get(pin.lane?));
    if own.is_some_and(|lane| lane.key.node != owner.node.id) {
        // Keys are watched elsewhere. A connection to one node cannot know of another's.
        return Err(cross_slot(worker, session, spec));
    }
    Ok((Arc::clone(&owner.node), Some(slot)))
}

fn cross_slot(worker: &mut Worker, session: &mut Session, spec: &Spec) -> Dispatched {
    dispatch::refuse_with(worker, session, Some(spec), cluster::cross_slot)
}

/// Takes a command of a session whose transaction is kept here.
pub fn dispatch(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) -> Dispatched {
    match (spec.class_for(&command), &*spec.name) {
        (_, "exec") => exec(worker, topology, session, spec),
        (_, "discard") => discard(worker, session, spec),
        (_, "quit") => local::answer(worker, topology, session, spec, command),
        (_, "reset") if session.in_flight > 0 => Dispatched::Wait,
        (_, "reset") => {
            pinned::leave(worker, session);
            local::answer(worker, topology, session, spec, command)
        }
        (_, "multi") => nested(worker, topology, session, spec, "MULTI calls can not be nested"),
        (_, "watch") => {
            nested(worker, topology, session, spec, "WATCH inside MULTI is not allowed")
        }
        (Class::Subscriber | Class::Structural, _)
        | (_, "auth" | "client|reply" | "client|tracking" | "monitor") => {
            transaction::refuse_queueing(worker, session, spec)
        }
        (Class::Local, name) if name != "ping" => queue_ours(worker, session, spec, command),
        (Class::Pinned, _) if !spec.blocks(&command) => {
            transaction::refuse_queueing(worker, session, spec)
        }
        _ => queue(worker, session, spec, command),
    }
}

/// Redis answers these at once; to Valkey they are reason enough to fail the EXEC.
fn nested(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    text: &str,
) -> Dispatched {
    let is_valkey = topology.facts.as_ref().is_some_and(|facts| facts.server == "valkey");
    let text = format!("ERR {text}");
    if is_valkey {
        return dispatch::refuse_with(worker, session, Some(spec), |line| {
            write::error(line, &text);
        });
    }
    local(worker, session, spec, |line| write::error(line, &text))
}

/// Keeps a command for EXEC.
fn queue(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) -> Dispatched {
    let place = route::place(spec, &command, &mut worker.keys);
    let is_everywhere = place == Place::Anywhere
        && spec.request_policy != RequestPolicy::Default
        && &*spec.name != "ping";
    if is_everywhere {
        // One node would answer for all of them.
        return transaction::refuse_queueing(worker, session, spec);
    }
    if place == Place::Several {
        return cross_slot(worker, session, spec);
    }
    let piece = Piece::Borrowed(command.frame());
    let frame =
        if spec.wire_name.is_none() { piece } else { dispatch::renamed(spec, &command, piece) };
    let is_bulk = spec.lane_for(&command) == LaneKind::Bulk;
    let is_kept = keep(worker, session, frame.bytes(), |held| {
        if let Place::Slot(slot) = place {
            held.crosses |= held.slot.is_some_and(|other| other != slot);
            held.slot = Some(slot);
        }
        held.is_bulk |= is_bulk;
        held.writes |= !spec.is_retry_safe();
    });
    answer_queued(worker, session, spec, is_kept)
}

/// Keeps a command that is answered here, and something that the node answers in its place.
fn queue_ours(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) -> Dispatched {
    if &*spec.name == "hello" && command.len() > 2 {
        return transaction::refuse_queueing(worker, session, spec);
    }
    let mut stand_in = Vec::new();
    match &*spec.name {
        "echo" | "hello" => stand_in.extend_from_slice(command.frame()),
        _ => write::command(&mut stand_in, &[b"PING"]),
    }
    let Some(multi) = session.pin.as_mut().and_then(|pin| pin.multi.as_mut()) else {
        return Dispatched::Wait;
    };
    multi.ours_bytes += command.frame().len();
    if multi.ours_bytes > transaction::OURS_BYTES_MAX {
        return transaction::refuse_queueing(worker, session, spec);
    }
    multi.ours.push((multi.queued, command.frame().to_vec()));
    let is_kept = keep(worker, session, &stand_in, |_| {});
    answer_queued(worker, session, spec, is_kept)
}

/// Adds a command to what is kept, if there is room for it (INV-4).
fn keep(
    worker: &mut Worker,
    session: &mut Session,
    frame: &[u8],
    note: impl FnOnce(&mut Held),
) -> bool {
    let multi = session.pin.as_mut().and_then(|pin| pin.multi.as_mut());
    let Some(multi) = multi else {
        return false;
    };
    let all = worker.request_bytes + worker.transaction_bytes + frame.len();
    let is_full = multi.queued >= COMMANDS_MAX || all > worker.shared.memory.request_bytes_total;
    let Some(held) = multi.held.as_mut().filter(|_| !is_full) else {
        return false;
    };
    note(held);
    held.frames.extend_from_slice(frame);
    multi.queued += 1;
    worker.transaction_bytes += frame.len();
    let queued = i32::try_from(multi.queued).unwrap_or(i32::MAX);
    session.client.queued.store(queued, Ordering::Relaxed);
    true
}

fn answer_queued(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    is_kept: bool,
) -> Dispatched {
    if is_kept {
        return local(worker, session, spec, |line| write::simple(line, "QUEUED"));
    }
    dispatch::refuse_with(worker, session, Some(spec), |line| write::error(line, TOO_LARGE))
}

fn local(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    write: impl FnOnce(&mut Vec<u8>),
) -> Dispatched {
    worker.stats.command(spec.id.stats_index(), Outcome::Local).increment();
    worker.answer(session, write);
    Dispatched::Done
}

/// DISCARD: nothing has left us but WATCH.
fn discard(worker: &mut Worker, session: &mut Session, spec: &Spec) -> Dispatched {
    let Some(pin) = &mut session.pin else {
        return Dispatched::Wait;
    };
    let lane = pin.lane.filter(|_| pin.has_watches);
    if let Some(lane) = lane {
        if session.in_flight > 0 {
            return Dispatched::Wait;
        }
        return forget_watches(worker, session, spec, lane, Pending::Unwatch);
    }
    pin.end_transaction();
    let done = local(worker, session, spec, |line| write::simple(line, "OK"));
    pinned::forget_if_free(session);
    done
}

/// The end of a transaction that must not be executed: its client is told why.
pub fn end(worker: &mut Worker, session: &mut Session, spec: &Spec) -> Dispatched {
    let Some(pin) = &mut session.pin else {
        return Dispatched::Wait;
    };
    let aborted = pin.multi.as_ref().and_then(|multi| multi.aborted.clone());
    let abort = aborted.unwrap_or(Abort::Refused);
    if let Some(lane) = pin.lane.filter(|_| pin.has_watches) {
        if session.in_flight > 0 {
            return Dispatched::Wait;
        }
        return forget_watches(worker, session, spec, lane, Pending::Aborting(abort));
    }
    pin.end_transaction();
    let done = local(worker, session, spec, |line| write::error(line, &abort.text()));
    pinned::forget_if_free(session);
    done
}

/// The node forgets what was watched; its answer ends the transaction.
fn forget_watches(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    lane: LaneId,
    pending: Pending,
) -> Dispatched {
    let lane = match pool::room_on(worker, lane, session) {
        Ok(lane) => lane,
        Err(refused) => return order::unavailable(worker, session, spec, refused),
    };
    pinned::expect(worker, session, lane, spec, pending, Piece::Borrowed(UNWATCH))
}

/// EXEC: all of it goes out.
fn exec(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
) -> Dispatched {
    let Some(pin) = &mut session.pin else {
        return Dispatched::Wait;
    };
    let (is_lost, watched, lane) = (pin.watch_is_lost, pin.watched_slot, pin.lane);
    let lane = lane.filter(|_| pin.has_watches);
    let Some(multi) = &mut pin.multi else {
        return Dispatched::Wait;
    };
    let Some(held) = &multi.held else {
        return Dispatched::Wait;
    };
    let own = lane.and_then(|lane| worker.lanes.get(lane)).map(|lane| lane.key.node);
    let owner = |slot| topology.slots.as_ref().and_then(|slots| slots.slot(slot).owner);
    // What is watched on one node says nothing about keys of another. A slot that has moved is
    // another matter.
    let is_elsewhere =
        own.is_some() && held.slot.is_some_and(|slot| watched != Some(slot) && owner(slot) != own);
    if held.crosses || is_elsewhere {
        multi.aborted.get_or_insert(Abort::CrossSlot);
    }
    if multi.aborted.is_some() {
        return end(worker, session, spec);
    }
    if is_lost || (multi.queued == 0 && own.is_none()) {
        let protocol = session.protocol;
        pin.end_transaction();
        let done = local(worker, session, spec, |line| match is_lost {
            true => write::null_array(line, protocol),
            false => write::array_header(line, 0),
        });
        pinned::forget_if_free(session);
        return done;
    }
    send(worker, topology, session, spec, lane)
}

/// Sends MULTI, what was kept, and EXEC: on the connection that watches, or on a lane.
fn send(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    own: Option<LaneId>,
) -> Dispatched {
    let (Some(identity), Some(multi)) =
        (session.identity, session.pin.as_ref().and_then(|pin| pin.multi.as_ref()))
    else {
        return Dispatched::Wait;
    };
    let Some(held) = &multi.held else {
        return Dispatched::Wait;
    };
    let (slot, is_bulk) = (held.slot, held.is_bulk);
    let place = slot.map_or(Place::Anywhere, Place::Slot);
    if session.detours.as_ref().is_some_and(|detours| detours.conflicts(place)) {
        return Dispatched::Wait;
    }
    let frame = [MULTI, &held.frames, EXEC].concat();
    let asked = Asked {
        frames: multi.queued + 2,
        is_retry_safe: !held.writes,
        patience: Patience::Long,
        role: Role::Exec { is_held: !multi.ours.is_empty() },
        ..Asked::of(spec)
    };
    let before = session.in_flight;
    let frame = Piece::Shared(frame.into());
    let done = match own {
        Some(_) if before > 0 => Dispatched::Wait,
        Some(lane) => match pool::room_on(worker, lane, session) {
            Ok(lane) => dispatch::send(worker, session, lane, asked, frame),
            Err(refused) => return order::unavailable(worker, session, spec, refused),
        },
        None => {
            let order = Order { topology, identity, slot, is_bulk, asked, frame };
            cluster::place(worker, session, order)
        }
    };
    if done == Dispatched::Wait {
        return done;
    }
    let Some(pin) = &mut session.pin else {
        return done;
    };
    if session.in_flight == before {
        // It was refused here: that was its end.
        pin.end_transaction();
        pinned::forget_if_free(session);
        return done;
    }
    if let Some(multi) = &mut pin.multi {
        let ours = std::mem::take(&mut multi.ours);
        pin.pending = Some(Pending::Exec { queued: multi.queued, ours });
    }
    done
}

/// The answer to a WATCH of one key more whose slot has left the node: what is watched has changed,
/// for all that is known.
#[must_use]
pub fn watch_is_lost(
    session: &mut Session,
    pending: &Pending,
    settled: &Settled<'_>,
) -> Option<Vec<u8>> {
    let Settled::Reply { bytes, .. } = settled else {
        return None;
    };
    let pin = session.pin.as_mut().filter(|pin| pin.has_watches && pin.watched_slot.is_some())?;
    if *pending != Pending::Watch || redirect::of_block(&[], bytes).is_none() {
        return None;
    }
    pin.watch_is_lost = true;
    Some(b"+OK\r\n".to_vec())
}

/// What the replies to a block mean for its client, if that is not the last one as it stands.
/// `before` are the replies to MULTI and to what was queued.
#[must_use]
pub fn verdict(before: &[u8], last: &[u8], lane: &Lane) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    if lane.pinned.is_some() && redirect::of_block(before, last).is_some() {
        // What was watched is on its way to another node, and nothing of the block has run.
        write::null_array(&mut line, lane.key.protocol);
        return Some(line);
    }
    if !last.starts_with(b"-EXECABORT") {
        return None;
    }
    let mut lines = before.split(|&byte| byte == b'\n');
    let cause = lines.find_map(|line| line.strip_prefix(b"-"))?;
    let cause = String::from_utf8_lossy(cause);
    let text = format!("EXECABORT Transaction discarded because of: {}", cause.trim_end());
    write::error(&mut line, &text);
    Some(line)
}

/// Most commands of a transaction that is kept here; each costs the node a line of reply as well.
const COMMANDS_MAX: u32 = 65_536;
const TOO_LARGE: &str = "ERR breakwater: not queued: the transaction, or all unfinished requests \
     together, would exceed memory.request_bytes_total or 65536 commands; send smaller ones";
const ONE_NODE: &str = "it is about the connection to one node, and a cluster has many; connect to \
     the node itself";
const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";

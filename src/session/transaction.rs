//! Between MULTI and EXEC: what a session says while its transaction is open.
//!
//! Owns what is forwarded to be queued, what takes effect at once, and what is answered here
//! although the node queues something in its place. Never believes that a command was queued: the
//! node's own errors make its EXEC fail, and what is refused here makes ours fail.
//!
//! What surprises: commands about the client's own connection (CLIENT ID, SETNAME …) must take
//! effect only if EXEC succeeds, and in their order. The node queues a PING for each, and
//! [`super::exec`] answers in its place.

use std::sync::atomic::Ordering;

use crate::buffer::Piece;
use crate::command::Command;
use crate::command::spec::{Class, Spec};
use crate::dispatch::{self, Asked, Dispatched, Settled, order};
use crate::refusal::Refusal;
use crate::resp::write;
use crate::session::block::SCRIPT_FLUSH;
use crate::session::pin::{Abort, Pending, Pin};
use crate::session::state::Session;
use crate::session::{held, local, pinned, replication};
use crate::stats::labels::Outcome;
use crate::topology::Topology;
use crate::upstream::lane::{LaneId, Role, Waiter};
use crate::upstream::pool;
use crate::worker::Worker;

/// Takes a command of a session whose transaction is open.
pub fn dispatch(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
    frame: Piece<'_>,
) -> Dispatched {
    if session.holds_transaction() {
        return held::dispatch(worker, topology, session, spec, command);
    }
    match &*spec.name {
        "exec" => return end(worker, session, spec, frame, true),
        "discard" => return end(worker, session, spec, frame, false),
        "quit" => return local::answer(worker, topology, session, spec, command),
        "reset" if session.in_flight > 0 => return Dispatched::Wait,
        "reset" => {
            pinned::leave(worker, session);
            return local::answer(worker, topology, session, spec, command);
        }
        _ => {}
    }
    let Some(lane) = session.pin.as_ref().and_then(|pin| pin.lane) else {
        return dispatch::not_executed(worker, session, spec, &Refusal::TransactionLost);
    };
    let lane = match pool::room_on(worker, lane, session) {
        Ok(lane) => lane,
        Err(refused) => return order::unavailable(worker, session, spec, refused),
    };
    match (spec.class_for(&command), &*spec.name) {
        // Redis answers these at once, with an error.
        (_, "multi" | "watch") => dispatch::send(worker, session, lane, Asked::of(spec), frame),
        (Class::Subscriber | Class::Structural, _)
        | (_, "auth" | "client|reply" | "client|tracking" | "monitor" | "replconf") => {
            refuse_queueing(worker, session, spec)
        }
        _ if replication::asks_for_stream(spec) => {
            replication::refuse_queueing(worker, session, spec)
        }
        (Class::Local, _) => match local::passed_on(worker, topology, spec, command) {
            Some(frame) => queue(worker, session, lane, spec, Piece::Shared(frame.into())),
            None => queue_ours(worker, session, lane, spec, command),
        },
        (Class::Pinned, _) if !spec.blocks(&command) => {
            if let Some(pin) = &mut session.pin {
                pin.is_dirty = true;
            }
            queue(worker, session, lane, spec, frame)
        }
        _ => queue(worker, session, lane, spec, frame),
    }
}

/// Forwards a command to be queued.
fn queue(
    worker: &mut Worker,
    session: &mut Session,
    lane: LaneId,
    spec: &Spec,
    frame: Piece<'_>,
) -> Dispatched {
    let asked = Asked { role: Role::Queued, ..Asked::of(spec) };
    let done = dispatch::send(worker, session, lane, asked, frame);
    if done == Dispatched::Done
        && let Some(multi) = session.pin.as_mut().and_then(|pin| pin.multi.as_mut())
    {
        multi.queued += 1;
        multi.flushes_scripts |= spec.id == SCRIPT_FLUSH;
        let queued = i32::try_from(multi.queued).unwrap_or(i32::MAX);
        session.client.queued.store(queued, Ordering::Relaxed);
    }
    done
}

/// Has something queued in the place of a command that is answered here.
fn queue_ours(
    worker: &mut Worker,
    session: &mut Session,
    lane: LaneId,
    spec: &Spec,
    command: Command<'_>,
) -> Dispatched {
    let mut stand_in = Vec::new();
    match &*spec.name {
        "select" | "echo" => stand_in.extend_from_slice(command.frame()),
        // With a version alone the node and we cannot disagree about what becomes of it.
        "hello" if command.len() <= 2 => stand_in.extend_from_slice(command.frame()),
        "hello" => return refuse_queueing(worker, session, spec),
        _ => write::command(&mut stand_in, &[b"PING"]),
    }
    if &*spec.name != "echo"
        && let Some(multi) = session.pin.as_mut().and_then(|pin| pin.multi.as_mut())
    {
        multi.ours_bytes += command.frame().len();
        if multi.ours_bytes > OURS_BYTES_MAX {
            return refuse_queueing(worker, session, spec);
        }
        multi.ours.push((multi.queued, command.frame().to_vec()));
    }
    queue(worker, session, lane, spec, Piece::Borrowed(&stand_in))
}

pub(super) fn refuse_queueing(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
) -> Dispatched {
    let refusal = Refusal::NotInTransaction { command: spec.name.to_string() };
    dispatch::refuse(worker, session, spec, &refusal)
}

/// What came back for a command that was to be queued: if nobody knows whether it was, EXEC must
/// not run.
pub fn note_queued(worker: &mut Worker, waiter: &Waiter, settled: &Settled<'_>) {
    if let Settled::Failed { .. } = settled
        && let Some(session) = worker.sessions.get_mut(waiter.session)
        && let Some(multi) = session.pin.as_mut().and_then(|pin| pin.multi.as_mut())
    {
        multi.aborted.get_or_insert(Abort::Refused);
    }
}

/// An EXEC that is refused itself ends the transaction, and says why.
pub fn end_with(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    abort: Abort,
) -> Dispatched {
    if let Some(multi) = session.pin.as_mut().and_then(|pin| pin.multi.as_mut()) {
        multi.aborted = Some(abort);
    }
    if session.holds_transaction() {
        return held::end(worker, session, spec);
    }
    end(worker, session, spec, Piece::Borrowed(DISCARD), true)
}

/// EXEC or DISCARD: the end of the transaction, one way or the other.
fn end(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    frame: Piece<'_>,
    is_exec: bool,
) -> Dispatched {
    let Some(pin) = &mut session.pin else {
        return Dispatched::Wait;
    };
    let Some(lane) = pin.lane else {
        let abort = pin.multi.take().and_then(|multi| multi.aborted).unwrap_or(Abort::Refused);
        pin.end_transaction();
        worker.stats.command(spec.id.stats_index(), Outcome::Local).increment();
        worker.answer(session, |line| match is_exec {
            true => write::error(line, &abort.text()),
            false => write::simple(line, "OK"),
        });
        pinned::forget_if_free(session);
        return Dispatched::Done;
    };
    let lane = match pool::room_on(worker, lane, session) {
        Ok(lane) => lane,
        Err(refused) => return order::unavailable(worker, session, spec, refused),
    };
    let Some(pending) = session.pin.as_mut().and_then(|pin| ending(pin, is_exec)) else {
        return Dispatched::Wait;
    };
    let is_discarded = matches!(pending, Pending::Aborting(_) | Pending::Unwatched);
    let frame = if is_discarded { Piece::Borrowed(DISCARD) } else { frame };
    pinned::expect(worker, session, lane, spec, pending, frame)
}

/// What the end of the transaction is to be.
fn ending(pin: &mut Pin, is_exec: bool) -> Option<Pending> {
    let multi = pin.multi.as_mut()?;
    Some(match &multi.aborted {
        _ if !is_exec => Pending::Discard,
        Some(abort) => Pending::Aborting(abort.clone()),
        None if pin.watch_is_lost => Pending::Unwatched,
        None => Pending::Exec { queued: multi.queued, ours: std::mem::take(&mut multi.ours) },
    })
}

/// Most bytes of commands that one transaction has answered here (INV-4).
pub(super) const OURS_BYTES_MAX: usize = 1024 * 1024;
/// What is sent in the place of an EXEC that must not be.
const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

//! Between MULTI and EXEC: what a session says while its transaction is open.
//!
//! Owns what is forwarded to be queued, what takes effect at once, and what is answered here although the node
//! queues something in its place. Never believes that a command was queued: the node's own errors make its EXEC
//! fail, and what is refused here makes ours fail.
//!
//! What surprises: commands about the client's own connection (CLIENT ID, SETNAME …) must take effect only if EXEC
//! succeeds, and in their order. The node queues a PING for each, and [`super::exec`] answers in its place.

use std::sync::atomic::Ordering;

use crate::buffer::Piece;
use crate::command::Command;
use crate::command::spec::{Class, Spec};
use crate::dispatch::{self, Asked, Dispatched};
use crate::refusal::Refusal;
use crate::resp::write;
use crate::session::pin::{Abort, Pending};
use crate::session::state::Session;
use crate::session::{local, pinned};
use crate::stats::labels::Outcome;
use crate::topology::Topology;
use crate::upstream::lane::{LaneId, Role};
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
        Err(refused) => return pinned::unavailable(worker, session, spec, refused),
    };
    match (spec.class_for(&command), &*spec.name) {
        // Redis answers these at once, with an error.
        (_, "multi" | "watch") => dispatch::send(worker, session, lane, Asked::of(spec), frame),
        (Class::Subscriber | Class::Structural, _)
        | (_, "auth" | "client|reply" | "client|tracking" | "monitor") => {
            let refusal = Refusal::NotInTransaction { command: spec.name.to_string() };
            dispatch::refuse(worker, session, spec, &refusal)
        }
        (Class::Local, _) => queue_ours(worker, session, lane, spec, command),
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
        "hello" => match version_alone(command) {
            Some(version) => write::command(&mut stand_in, &[b"HELLO", version]),
            None if command.len() == 1 => stand_in.extend_from_slice(command.frame()),
            None => {
                let refusal = Refusal::NotInTransaction { command: spec.name.to_string() };
                return dispatch::refuse(worker, session, spec, &refusal);
            }
        },
        _ => write::command(&mut stand_in, &[b"PING"]),
    }
    if let Some(multi) = session.pin.as_mut().and_then(|pin| pin.multi.as_mut())
        && &*spec.name != "echo"
    {
        multi.ours.push((multi.queued, command.frame().to_vec()));
    }
    queue(worker, session, lane, spec, Piece::Borrowed(&stand_in))
}

/// The version that a HELLO without credentials asks for.
fn version_alone<'a>(command: Command<'a>) -> Option<&'a [u8]> {
    let has_auth = (2..command.len()).any(|index| command.has_word_at(index, "auth"));
    command.argument(1).filter(|_| !has_auth)
}

/// An EXEC with arguments ends the transaction, and says so.
pub fn end_with_wrong_arity(worker: &mut Worker, session: &mut Session, spec: &Spec) -> Dispatched {
    if let Some(multi) = session.pin.as_mut().and_then(|pin| pin.multi.as_mut()) {
        multi.aborted = Some(Abort::WrongArity);
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
        Err(refused) => return pinned::unavailable(worker, session, spec, refused),
    };
    let pending = match session.pin.as_ref() {
        Some(_) if !is_exec => Pending::Discard,
        Some(pin) if pin.watch_is_lost => Pending::Unwatched,
        Some(pin) => match pin.multi.as_ref() {
            Some(multi) => match &multi.aborted {
                Some(abort) => Pending::Aborting(abort.clone()),
                None => Pending::Exec { queued: multi.queued, ours: multi.ours.clone() },
            },
            None => return Dispatched::Wait,
        },
        None => return Dispatched::Wait,
    };
    let is_discarded = matches!(pending, Pending::Aborting(_) | Pending::Unwatched);
    let frame = if is_discarded { Piece::Borrowed(DISCARD) } else { frame };
    pinned::expect(worker, session, lane, spec, pending, frame)
}

/// What is sent in the place of an EXEC that must not be.
const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

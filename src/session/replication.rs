//! A client that reads the replication stream: SYNC and PSYNC, and REPLCONF before and behind them.
//!
//! Owns both directions of such a client: what the node sends goes to it byte by byte as it comes,
//! and of what it says only REPLCONF and empty lines go on. Never keeps more than any reply may
//! keep, never reads what passes. How a connection is borrowed for it, and lost, is as for every
//! other client that has one of its own (`pinned`, `upstream::loss`).
//!
//! What surprises: to the lane the stream is one reply that never ends. Its waiter stays the first
//! one, so a slow reader stops the reading of its own lane as it does in the middle of a giant
//! reply, and no deadline, no PING and no later command can come between.

use std::sync::atomic::Ordering;

use crate::buffer::Piece;
use crate::command::Command;
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::dispatch::{self, Dispatched};
use crate::refusal::Refusal;
use crate::resp::write;
use crate::session::pin::Pending;
use crate::session::state::{Closing, Session};
use crate::stats::labels::{ClosedReason, Outcome};
use crate::topology::Topology;
use crate::upstream::lane::{Lane, LaneId, Role, Waiter};
use crate::upstream::pool;
use crate::upstream::receive::Anomaly;
use crate::worker::Worker;

/// Whether the command asks for the stream.
#[must_use]
pub fn asks_for_stream(spec: &Spec) -> bool {
    matches!(spec.id, SYNC | PSYNC)
}

/// Whether the command asks for the stream, or introduces who will.
#[must_use]
pub fn is_about_it(spec: &Spec) -> bool {
    asks_for_stream(spec) || spec.id == REPLCONF
}

/// Why a command that reads the stream, or introduces a reader, cannot go now.
#[must_use]
pub fn objection(session: &Session, spec: &Spec, command: &Command<'_>) -> Option<Refusal> {
    let why = match spec.id {
        // Messages would come between the bytes of the stream.
        SYNC | PSYNC if session.subscriptions.is_some() => {
            "this client has subscribed; use another connection"
        }
        // Redis leaves these unanswered, and nobody could tell which reply is whose (INV-2).
        REPLCONF if is_unanswered(command) => {
            "ACK and GETACK belong to a replication stream, and this client has none; send SYNC or \
             PSYNC first"
        }
        _ => return None,
    };
    Some(Refusal::NotServed { command: spec.name.to_string(), why })
}

fn is_unanswered(command: &Command<'_>) -> bool {
    (1..command.len())
        .step_by(2)
        .any(|at| ["ack", "getack"].iter().any(|word| command.has_word_at(at, word)))
}

/// What Redis says to a transaction that wants the stream; EXEC fails.
pub fn refuse_queueing(worker: &mut Worker, session: &mut Session, spec: &Spec) -> Dispatched {
    dispatch::refuse_with(worker, session, Some(spec), |line| {
        write::error(line, "ERR Command not allowed inside a transaction");
    })
}

/// Whether nothing else is due on the connection of a stream: among its bytes no reply could be
/// told.
#[must_use]
pub fn may_begin(worker: &Worker, session: &mut Session, lane: LaneId, pending: &Pending) -> bool {
    if *pending != Pending::Stream || worker.lanes.get(lane).is_none_or(Lane::is_idle) {
        return true;
    }
    // It is kept meanwhile; what is due (its name) wakes the session.
    if let Some(pin) = &mut session.pin {
        pin.introduces = true;
    }
    false
}

/// A command of a session that may not be dispatched: it waits, or it is part of the stream.
#[cold]
pub fn barred(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    command: Command<'_>,
    frame: Piece<'_>,
) -> Dispatched {
    if !session.is_replica() {
        return Dispatched::Wait;
    }
    let reason = match topology.table.resolve(&command) {
        Ok(spec) if spec.id == REPLCONF => {
            session.client.note_command(spec.id.0, worker.now);
            let frame = dispatch::renamed(spec, &command, frame);
            return pass(worker, session, frame.bytes());
        }
        Ok(spec) if &*spec.name == "quit" => ClosedReason::ClientClosed,
        // The node would run it, past every rule, and its answer would lie in the stream.
        _ => ClosedReason::ProtocolError,
    };
    session.close(Closing::Now(reason));
    Dispatched::Done
}

/// Gives the node what such a client says: an ACK, or the empty line of one that is still loading.
pub fn pass(worker: &mut Worker, session: &mut Session, bytes: &[u8]) -> Dispatched {
    let id = session.pin.as_ref().and_then(|pin| pin.lane);
    let Some(lane) = id.and_then(|id| worker.lanes.get_mut(id)) else {
        // The stream has ended, and the client is about to learn it.
        return Dispatched::Done;
    };
    if lane.send.unsent() >= pool::LANE_UNSENT_BYTES_MAX {
        pool::await_room(lane, session);
        return Dispatched::Wait;
    }
    worker.unflushed.mark(lane.id, lane.send.unsent() == 0);
    lane.append_to_last(&mut worker.pool, bytes);
    Dispatched::Done
}

/// Whether the bytes that a lane received, of which this is the first, are those of a stream. Only
/// an error is an ordinary reply: the client goes on as if it had not asked.
#[must_use]
pub fn is_stream(lane: &Lane, first: Option<&u8>) -> bool {
    lane.waiters.front().is_some_and(|waiter| waiter.role == Role::Stream)
        && (lane.streaming || (lane.carry.is_empty() && first != Some(&b'-')))
}

/// Whether a stream has begun to flow over it.
#[must_use]
pub fn flows(lane: &Lane) -> bool {
    lane.streaming && is_stream(lane, None)
}

/// Bytes of the stream, fresh from the socket.
///
/// # Errors
/// [`Anomaly::Unexpected`] if nobody has asked for them yet.
pub fn flow(worker: &mut Worker, lane: &mut Lane, input: &[u8]) -> Result<(), Anomaly> {
    let waiter = *lane.waiters.front().ok_or(Anomaly::Unexpected)?;
    lane.settling = Some(waiter.session);
    if !lane.streaming {
        if waiter.end > lane.send.sent() {
            return Err(Anomaly::Unexpected);
        }
        begin(worker, &waiter);
        lane.streaming = true;
    }
    lane.streamed += input.len() as u64;
    if let Some(session) = worker.sessions.get_mut(waiter.session) {
        session.replies.piece(waiter.slot, input, &mut session.out, &mut worker.pool);
        worker.touched.mark(session);
    }
    lane.settling = None;
    Ok(())
}

/// The node has agreed: from here on the connection is a tunnel.
fn begin(worker: &mut Worker, waiter: &Waiter) {
    worker.stats.command(waiter.command.stats_index(), Outcome::Ok).increment();
    if let Some(session) = worker.sessions.get_mut(waiter.session) {
        session.client.is_replica.store(true, Ordering::Relaxed);
        if let Some(pin) = &mut session.pin {
            pin.pending = None;
            pin.is_dirty = true;
            pin.is_replica = true;
        }
        // What it had sent behind its question has waited for the answer.
        session.wake();
    }
}

/// The node has closed the connection: what had come is still the client's, and then its end.
pub fn ended(worker: &mut Worker, waiter: &Waiter) {
    let Worker { sessions, pool, .. } = worker;
    if let Some(session) = sessions.get_mut(waiter.session) {
        session.in_flight = session.in_flight.saturating_sub(1);
        session.complete(pool, waiter.slot, b"");
        session.close(Closing::AfterReplies(ClosedReason::StreamLost));
        session.wake();
    }
}

const SYNC: CommandId = builtin_id("sync");
const PSYNC: CommandId = builtin_id("psync");
const REPLCONF: CommandId = builtin_id("replconf");

#[cfg(test)]
mod tests;

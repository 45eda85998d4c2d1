//! What a lost lane owes its waiters: each is settled exactly once (INV-3).
//!
//! Owns the decision, for every command that was on a connection when it broke: sent again, or
//! answered with the truth about what is known. Never sends again what may have run and changes
//! something. The lane arrives with its old queue and leaves with a new one that holds what is to
//! be sent on the next connection.
//!
//! What surprises: after a write whose outcome is unknown, *later unsent* commands of the same
//! session are not sent either. The old connection's bytes may still be executed after the new
//! connection's (measured in 13 of 40 rounds), and the client's own order would be turned around.

use std::collections::{HashSet, VecDeque};
use std::mem;

use crate::buffer::SendBuffer;
use crate::clock::{MILLISECOND, Micros, to_micros};
use crate::dispatch::patience::is_succession_due;
use crate::dispatch::{self, Settled, detour, keyspaces};
use crate::net::WriteHalf;
use crate::refusal::{Ran, Refusal};
use crate::resp::reply::ReplyScanner;
use crate::route;
use crate::scripts::follow;
use crate::session::replication;
use crate::session::state::{Closing, Session, SessionId};
use crate::stats::labels::{ClosedReason, Outcome, Resent};
use crate::upstream::dial::{DialError, Node};
use crate::upstream::lane::{Lane, LaneState, Role, Waiter};
use crate::worker::Worker;

/// How far a command had come when its connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its last byte was never handed to the kernel: the node cannot have run it.
    Unsent,
    /// Some of its bytes were handed over, the last one was not: the node cannot have run it, and
    /// may have closed the connection *because* of it (a value above its `proto-max-bulk-len`).
    Partly,
    /// Handed over, no byte of the reply came.
    Sent,
    /// Part of the reply has been passed on to the client.
    Answering,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It is queued for the next connection.
    SendAgain(Resent),
    /// The client is told that it was not run.
    NotExecuted,
    /// The client is told that it was not run, because what it counted on is lost with the
    /// connection.
    StateLost,
    /// The client is told that the node closed the connection in the middle of its command.
    CutOff,
    /// The client is told that it may have run.
    OutcomeUnknown,
    /// The client is told that it got no answer to a read.
    ReadLost,
    /// The client holds half a reply: it is disconnected.
    CloseClient,
}

/// The whole rule, in one place: what to do with a command that had come so far.
///
/// `is_inverted`: an earlier write of the same session is in doubt. `may_retry`: the budget and the
/// attempts allow one more.
#[must_use]
pub fn remedy(progress: Progress, waiter: &Waiter, is_inverted: bool, may_retry: bool) -> Remedy {
    match progress {
        Progress::Answering => Remedy::CloseClient,
        Progress::Unsent | Progress::Partly if is_inverted => Remedy::NotExecuted,
        Progress::Unsent => Remedy::SendAgain(Resent::Unsent),
        Progress::Partly if waiter.resent == 0 => Remedy::SendAgain(Resent::Unsent),
        Progress::Partly => Remedy::CutOff,
        Progress::Sent if !waiter.is_retry_safe => Remedy::OutcomeUnknown,
        Progress::Sent if may_retry && waiter.resent < ATTEMPTS_MAX => {
            Remedy::SendAgain(Resent::ReadOnly)
        }
        Progress::Sent => Remedy::ReadLost,
    }
}

/// The rule for a connection that held a transaction, watched keys or what else its session counts
/// on: nothing is sent again, because another connection would take it for something else.
fn without_state(progress: Progress, waiter: &Waiter, exec_is_sent: bool) -> Remedy {
    match progress {
        Progress::Answering => Remedy::CloseClient,
        Progress::Unsent | Progress::Partly => Remedy::StateLost,
        // What was only queued runs with its EXEC or not at all.
        Progress::Sent if waiter.role == Role::Queued && !exec_is_sent => Remedy::StateLost,
        Progress::Sent if waiter.is_retry_safe && waiter.role.is_plain() => Remedy::ReadLost,
        Progress::Sent => Remedy::OutcomeUnknown,
    }
}

/// Settles every waiter of a lane whose connection is gone; what is to be sent again stays queued
/// on it.
pub fn connection_lost(worker: &mut Worker, lane: &mut Lane, node: &Node) {
    let old = mem::take(&mut lane.send);
    let waiters = apart(worker, mem::take(&mut lane.waiters), lane.block.0);
    let was_streaming = mem::take(&mut lane.streaming);
    let loses_state = lane.pinned.as_ref().is_some_and(|pinned| pinned.holds_state);
    let exec_is_sent = waiters.iter().any(|waiter| {
        let is_state = matches!(waiter.role, Role::State { .. } | Role::Exec { .. });
        is_state && waiter.end <= old.sent()
    });
    reset(lane);
    // Sessions with a written, unanswered write.
    let mut inverted: HashSet<SessionId> = HashSet::new();
    for (place, waiter) in waiters.into_iter().enumerate() {
        let is_part = matches!(waiter.role, Role::Part { .. });
        let progress = if place == 0 && was_streaming && !is_part {
            Progress::Answering
        } else if waiter.end - u64::from(waiter.length) >= old.sent() {
            Progress::Unsent
        } else if waiter.end > old.sent() {
            Progress::Partly
        } else {
            Progress::Sent
        };
        if !is_wanted(worker, &waiter) {
            // A deadline has answered for it, or its client is gone; a write in doubt still
            // inverts.
            if progress == Progress::Sent && !waiter.is_retry_safe {
                inverted.insert(waiter.session);
                doubt(worker, &old, &waiter);
            }
            worker.stats.tombstones_consumed.increment();
            continue;
        }
        let is_inverted = inverted.contains(&waiter.session);
        let may_retry = progress == Progress::Sent
            && waiter.is_retry_safe
            // While nobody may dial, what is sent again only waits to be told so, unless a replica
            // serves it.
            && (!node.health.is_open() || is_read_elsewhere(worker, lane, &old, &waiter))
            && worker.reaches.spend_retry(worker.now);
        let remedy = if loses_state {
            without_state(progress, &waiter, exec_is_sent)
        } else {
            remedy(progress, &waiter, is_inverted, may_retry)
        };
        if remedy == Remedy::OutcomeUnknown {
            inverted.insert(waiter.session);
            doubt(worker, &old, &waiter);
        }
        apply(worker, lane, &old, waiter, (progress, remedy), node);
    }
}

/// What a session had sent before it could know of the doubt is not executed either: the same
/// inversion.
fn doubt(worker: &mut Worker, old: &SendBuffer, waiter: &Waiter) {
    let slot = worker.topology.load().slots.is_some().then(|| {
        let frame = old.piece(waiter.start(), waiter.end);
        frame.and_then(|frame| route::frame::slot_of(&worker.topology.load().table, frame.bytes()))
    });
    if let Some(session) = worker.sessions.get_mut(waiter.session) {
        session.lacks_transaction = false;
        if session.doubtful == 0 {
            session.doubted.clear();
        }
        session.doubted.extend(slot.flatten());
        session.doubt_what_is_held();
    }
}

/// Settles what has waited for a connection longer than `retry_window`; the rest stays queued for
/// the next dial.
pub fn dial_failed(worker: &mut Worker, lane: &mut Lane, node: &Node, error: &DialError) {
    let refusal = if error.is_stranger() {
        // The node's own answer to a client that has not authenticated.
        Refusal::NoAuth
    } else {
        node.down(error, worker.now)
    };
    let waiters = apart(worker, mem::take(&mut lane.waiters), 0);
    let old = mem::take(&mut lane.send);
    lane.proven.reset();
    // Waiting does not help somebody without a password.
    let window = if error.is_stranger() { 0 } else { to_micros(node.settings.retry_window) };
    let is_elsewhere = is_elsewhere(worker, lane);
    for waiter in waiters {
        // Another node may serve it meanwhile: how long that is waited for is decided there.
        let may_wait = is_elsewhere && !waiter.is_bound() && window > 0
            || worker.now.saturating_sub(waiter.taken_at) < window;
        if may_wait && is_wanted(worker, &waiter) {
            again(worker, lane, &old, waiter);
            continue;
        }
        let settled = Settled::Failed { refusal: refusal.clone(), outcome: Outcome::NotExecuted };
        dispatch::settle_guarded(worker, &waiter, settled);
    }
}

/// Drops the unsent commands that nobody waits for any more, because the client has gone or was
/// told that its command was dropped: nothing is executed for nobody (INV-3).
pub fn sweep_orphans(worker: &mut Worker, lane: &mut Lane) {
    lane.has_orphans = false;
    let sent = lane.send.sent();
    let first_unsent = lane.waiters.partition_point(|waiter| waiter.end <= sent);
    // A command that is partly handed over must be completed, or the stream is broken.
    let first_whole = lane
        .waiters
        .iter()
        .skip(first_unsent)
        .position(|waiter| waiter.end - u64::from(waiter.length) >= sent)
        .map_or(lane.waiters.len(), |offset| first_unsent + offset);
    let tail = lane.waiters.split_off(first_whole);
    if tail.iter().all(|waiter| is_wanted(worker, waiter)) {
        lane.waiters.extend(tail);
        return;
    }
    let kept_until = tail.front().map_or(sent, |waiter| waiter.end - u64::from(waiter.length));
    let cut = lane.send.split_off(kept_until);
    // A script may have been among what is cut off: whoever relied on it brings it again.
    lane.proven.reset();
    for waiter in tail {
        if is_wanted(worker, &waiter) {
            requeue(worker, lane, &cut, waiter);
        } else {
            worker.stats.tombstones_consumed.increment();
        }
    }
}

/// A lane has got its connection late: commands whose clients have given up meanwhile are not sent
/// (INV-3).
pub fn drop_abandoned(worker: &mut Worker, lane: &Lane) {
    // Of one of them what came later goes as well: nothing overtakes what is dropped.
    let mut gone: HashSet<SessionId> = HashSet::new();
    for waiter in lane.waiters.iter().copied().collect::<Vec<Waiter>>() {
        let has_waited = worker.now.saturating_sub(waiter.taken_at) >= GONE_AFTER;
        let session = worker.sessions.get_mut(waiter.session);
        let is_gone = |session: &Session| has_waited && session.has_left();
        match session {
            Some(session) if gone.contains(&waiter.session) || is_gone(session) => {
                session.close(Closing::AfterReplies(ClosedReason::ClientClosed));
                gone.insert(waiter.session);
            }
            _ => continue,
        }
        let refusal = dropped(worker, &waiter, &lane.node);
        let settled = Settled::Failed { refusal, outcome: Outcome::NotExecuted };
        dispatch::settle_guarded(worker, &waiter, settled);
    }
}

/// What a command is told that was not sent in its time.
#[must_use]
pub fn dropped(worker: &Worker, waiter: &Waiter, node: &Node) -> Refusal {
    let (node, command) = (node.name.clone(), worker_name(worker, waiter));
    let after = worker.now.saturating_sub(waiter.taken_at);
    Refusal::Deadline { node, command, after, ran: Ran::No }
}

/// The waiters of a lane, each for one command: what waits for several parts is taken apart, and of
/// the first one the parts that are `answered` are left out. Some of them may have been sent and
/// others not.
fn apart(worker: &mut Worker, waiters: VecDeque<Waiter>, answered: u32) -> VecDeque<Waiter> {
    if !waiters.iter().any(|waiter| matches!(waiter.role, Role::Part { .. })) {
        return waiters;
    }
    let mut all = VecDeque::with_capacity(waiters.len());
    for (place, waiter) in waiters.into_iter().enumerate() {
        let session = worker.sessions.get_mut(waiter.session);
        let gather = session.and_then(|session| session.gathers.get_mut(waiter.slot));
        match (gather, waiter.role) {
            (Some(gather), Role::Part { .. }) if waiter.frames > 1 => {
                let from = if place == 0 { answered } else { 0 };
                all.extend((from..waiter.frames).filter_map(|index| gather.alone(&waiter, index)));
            }
            (Some(gather), Role::Part { place, .. }) => {
                gather.restart(place);
                all.push_back(waiter);
            }
            _ => all.push_back(waiter),
        }
    }
    all
}

/// Whether somebody still waits for this waiter's reply.
#[must_use]
pub fn is_wanted(worker: &Worker, waiter: &Waiter) -> bool {
    worker.sessions.get(waiter.session).is_some_and(|session| match waiter.role {
        Role::Whisper => session.pin.is_some(),
        Role::Part { place, .. } => session.wants_part(waiter.slot, place, waiter.frames),
        _ => session.replies.is_waiting(waiter.slot),
    })
}

/// The connection is given up with commands on it: whoever still waits is told the truth.
pub fn abandon(worker: &mut Worker, lane: &mut Lane) {
    // A stream ends with its client, and nobody is to be told.
    let is_told = !replication::flows(lane);
    let (waiters, sent) = lane.abandon();
    for waiter in waiters {
        if !is_told || !is_wanted(worker, &waiter) {
            worker.stats.tombstones_consumed.increment();
            continue;
        }
        let (node, ran) = (lane.node.name.clone(), effect(&waiter, sent));
        let (refusal, outcome) = if ran == Ran::No {
            (Refusal::StateLost { node }, Outcome::NotExecuted)
        } else {
            let command = worker_name(worker, &waiter);
            (Refusal::OutcomeUnknown { node, command }, Outcome::Unknown)
        };
        dispatch::settle_guarded(worker, &waiter, Settled::Failed { refusal, outcome });
    }
}

fn apply(
    worker: &mut Worker,
    lane: &mut Lane,
    old: &SendBuffer,
    mut waiter: Waiter,
    (progress, remedy): (Progress, Remedy),
    node: &Node,
) {
    let command = || worker_name(worker, &waiter);
    let node_name = || node.name.clone();
    let (refusal, outcome) = match remedy {
        Remedy::SendAgain(reason) => {
            worker.stats.resent(reason).increment();
            waiter.resent += u8::from(progress != Progress::Unsent);
            return again(worker, lane, old, waiter);
        }
        Remedy::CloseClient if waiter.role == Role::Stream => {
            return replication::ended(worker, &waiter);
        }
        Remedy::CloseClient => {
            if let Some(session) = worker.sessions.get_mut(waiter.session) {
                session.close(Closing::Now(ClosedReason::StreamLost));
                session.wake();
            }
            return;
        }
        Remedy::NotExecuted => (Refusal::NotInverted { node: node_name() }, Outcome::NotExecuted),
        Remedy::StateLost => (Refusal::StateLost { node: node_name() }, Outcome::NotExecuted),
        Remedy::CutOff => {
            (Refusal::CutOff { node: node_name(), command: command() }, Outcome::NotExecuted)
        }
        Remedy::OutcomeUnknown => {
            (Refusal::OutcomeUnknown { node: node_name(), command: command() }, Outcome::Unknown)
        }
        Remedy::ReadLost => {
            (Refusal::ReadLost { node: node_name(), command: command() }, Outcome::Unknown)
        }
    };
    dispatch::settle_guarded(worker, &waiter, Settled::Failed { refusal, outcome });
}

/// Whether the lane's commands may go to another node: there are others, there will be, or commands
/// go elsewhere by now.
fn is_elsewhere(worker: &mut Worker, lane: &Lane) -> bool {
    let topology = worker.topology.load();
    let is_left = lane.key.epoch != topology.epoch || is_succession_due(worker.now, topology);
    // What a replica was asked the primary of a single node can be asked as well.
    let is_replica = lane.key.node != topology.node.id;
    lane.pinned.is_none() && (lane.node.is_of_cluster() || is_left || is_replica)
}

/// Whether a replica serves the command of this waiter while the lane's node is away.
fn is_read_elsewhere(worker: &Worker, lane: &Lane, old: &SendBuffer, waiter: &Waiter) -> bool {
    let frame = old.piece(waiter.start(), waiter.end).filter(|_| lane.pinned.is_none());
    frame.is_some_and(|frame| keyspaces::is_served(worker, &lane.node, waiter, frame.bytes()))
}

/// Settles what waits on a lane that has no connection and will get none, because commands go to
/// another node by now.
pub fn evacuate(worker: &mut Worker, lane: &mut Lane) {
    let waiters = apart(worker, mem::take(&mut lane.waiters), 0);
    let old = mem::take(&mut lane.send);
    lane.proven.reset();
    for waiter in waiters {
        if is_wanted(worker, &waiter) {
            again(worker, lane, &old, waiter);
        } else {
            worker.stats.tombstones_consumed.increment();
        }
    }
}

/// Sends a waiter's command again: on the lane's next connection, or wherever its keys are by then.
fn again(worker: &mut Worker, lane: &mut Lane, old: &SendBuffer, waiter: Waiter) {
    let leaves = is_elsewhere(worker, lane) || is_read_elsewhere(worker, lane, old, &waiter);
    match old.piece(waiter.start(), waiter.end) {
        Some(frame) if !waiter.is_bound() && leaves => detour::adopt(worker, lane, frame, &waiter),
        _ => requeue(worker, lane, old, waiter),
    }
}

/// Queues a waiter's command again, with the bytes that the old queue still holds.
fn requeue(worker: &mut Worker, lane: &mut Lane, old: &SendBuffer, waiter: Waiter) {
    match old.piece(waiter.start(), waiter.end) {
        Some(frame) if waiter.role == Role::Script => {
            let Worker { shared, stats, pool, .. } = worker;
            follow::enqueue(shared, stats, pool, lane, frame, waiter, false);
        }
        Some(frame) => lane.enqueue(&mut worker.pool, frame, waiter),
        None => {
            // A frame lies in one chunk by construction; a client must not hang if that is ever
            // wrong.
            debug_assert!(false, "a frame lies in one chunk");
            let refusal = Refusal::NotInverted { node: lane.node.name.clone() };
            let settled = Settled::Failed { refusal, outcome: Outcome::NotExecuted };
            dispatch::settle_guarded(worker, &waiter, settled);
        }
    }
}

/// Full name of a waiter's command, for messages.
pub fn worker_name(worker: &Worker, waiter: &Waiter) -> String {
    worker.shared.topology.load().table.stats_name(waiter.command).to_owned()
}

/// What is known of the effect of a command that gets no reply.
#[must_use]
pub fn effect(waiter: &Waiter, sent: u64) -> Ran {
    // What is partly handed over must be completed, and then it runs.
    if waiter.end - u64::from(waiter.length) >= sent {
        Ran::No
    } else if waiter.is_retry_safe {
        Ran::ReadOnly
    } else {
        Ran::Maybe
    }
}

/// A new connection starts with a clean scanner and nothing carried over.
fn reset(lane: &mut Lane) {
    lane.state = LaneState::Dialling;
    lane.socket = WriteHalf::Detached;
    lane.has_answered = false;
    lane.write_blocked = false;
    lane.broken = None;
    lane.scanner = ReplyScanner::default();
    lane.carry = Vec::new();
    lane.scanned = 0;
    lane.streamed = 0;
    lane.block = (0, Vec::new());
    lane.overdraft = false;
    lane.paused_at = None;
    lane.handed.clear();
    lane.proven.reset();
}

/// A command that has waited for so long unsent is for nobody if its client has ended its side: what
/// is taken for the applications' time-out where none is declared. A client that only says nothing
/// more looks the same, and hears that it was not executed.
pub const GONE_AFTER: Micros = 500 * MILLISECOND;
/// How often a read is sent again before its client is told.
const ATTEMPTS_MAX: u8 = 2;

#[cfg(test)]
mod tests;

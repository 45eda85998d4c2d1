//! One client connection: read, scan, dispatch, and write replies in order.
//!
//! Owns the task of a session and its turns. Never knows nodes or slots, never awaits a reply: what
//! is due to the client is written by whoever has it (`flush`). Bytes of the client arrive here and
//! leave as commands to `dispatch`; replies pass through `replies` on their way back.
//!
//! What surprises: input is read into the worker's scratch buffer and dispatched from there. A
//! session keeps only what it could not dispatch, so ten thousand idle clients own no buffer.

pub mod admission;
pub mod assembly;
pub mod block;
pub mod confirm;
pub mod detour;
pub mod errand;
pub mod exec;
pub mod feed;
pub mod flush;
pub mod gate;
pub mod gather;
pub mod held;
pub mod invalidations;
pub mod local;
pub mod paced;
pub mod pin;
pub mod pinned;
pub mod pubsub;
pub mod quiet;
pub mod reading;
pub mod registry;
pub mod remaining;
pub mod replication;
pub mod replies;
pub mod state;
pub mod subscriptions;
pub mod tracking;
pub mod transaction;
pub mod wait;

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::buffer::LARGE_BYTES;
use crate::net::ReadHalf;
use crate::stats::labels::ClosedReason;
use crate::topology::Topology;
use crate::upstream::lane::LaneId;
use crate::worker::{SCRATCH_BYTES, SharedWorker, Worker};
use state::{Closing, Session, SessionId};

/// Serves a session until it ends, and takes it off the worker. `start_tasks` is called after each
/// turn, for the lanes that its commands asked for.
pub async fn run(worker: &SharedWorker, id: SessionId, mut read: ReadHalf, start_tasks: impl Fn()) {
    let reason = poll_fn(|cx| {
        let poll = poll_session(worker, id, &mut read, cx);
        start_tasks();
        poll
    })
    .await;
    remove(&mut worker.borrow_mut(), id, reason);
}

/// One turn of the session's task.
fn poll_session(
    worker: &SharedWorker,
    id: SessionId,
    read: &mut ReadHalf,
    cx: &mut Context<'_>,
) -> Poll<ClosedReason> {
    let mut worker = worker.borrow_mut();
    // Before the session is lent: if another node is published, its own commands are moved as well.
    let topology = worker.begin_batch();
    let Some(mut session) = worker.sessions.lend(id) else {
        return Poll::Ready(ClosedReason::Panic);
    };
    if !session.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        session.waker = Some(cx.waker().clone());
    }
    // A panic ends this session and no other.
    let turn = AssertUnwindSafe(|| turn(&mut worker, &topology, &mut session, read, cx));
    let turn = catch_unwind(turn);
    if turn.is_err() {
        worker.stats.panics.increment();
        worker.scratch.resize(SCRATCH_BYTES, 0);
        worker.capture = None;
        give_up_half_queued(&mut worker);
        // Put back, so that `remove` can take it off the registry and the budgets.
        worker.sessions.restore(id, session);
        return Poll::Ready(ClosedReason::Panic);
    }
    let relieved = unpauses(&mut session);
    let over = session.is_over();
    worker.sessions.restore(id, session);
    for id in relieved {
        if let Some(lane) = worker.lanes.get(id) {
            lane.wake();
        }
    }
    flush::answered(&mut worker);
    match over.or_else(|| worker.sessions.get(id).and_then(Session::is_over)) {
        Some(reason) => Poll::Ready(reason),
        None => Poll::Pending,
    }
}

/// Writes what is owed, dispatches what waits, reads what is there.
fn turn(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    read: &mut ReadHalf,
    cx: &mut Context<'_>,
) {
    worker.stats.turn_sessions.increment();
    session.write_blocked = false;
    session.parked = true;
    let written = flush::write(session, cx, worker.now);
    worker.stats.client_bytes_out.add(written as u64);
    let sent = session.out.sent();
    session.out.release(&mut worker.pool, sent);
    session.out.rest(&mut worker.pool);
    for _ in 0..READS_A_TURN {
        if session.has_input() {
            let goes_on = session.admits() && !feed::held(worker, topology, session).is_stuck;
            if goes_on {
                continue;
            }
            if !session.reads_ahead() {
                return;
            }
        } else if session.has_ended {
            session.close(Closing::AfterReplies(ClosedReason::ClientClosed));
            return;
        } else if session.closing.is_some() || session.suspended || !session.admits() {
            return;
        }
        let limit = read_limit(session);
        let mut scratch = std::mem::take(&mut worker.scratch);
        let result = read.poll_read(cx, scratch.get_mut(..limit).unwrap_or_default());
        let is_stuck = match result {
            Poll::Pending => {
                // Who waits for a connection of its own is woken by that too.
                session.parked = session.reads_ahead();
                true
            }
            Poll::Ready(Ok(count)) if count > 0 => {
                let input = scratch.get(..count).unwrap_or_default();
                take_input(worker, topology, session, input) && !session.reads_ahead()
            }
            Poll::Ready(end) => {
                // What waits only for its own session's earlier commands is still dispatched.
                let goes_on = session.is_barred() || session.in_flight > 0;
                session.has_ended = end.is_ok() && goes_on && session.has_input();
                if !session.has_ended || session.is_blocked() {
                    session.close(farewell(session, &end));
                }
                true
            }
        };
        worker.scratch = scratch;
        if is_stuck {
            return;
        }
    }
    cx.waker().wake_by_ref();
}

/// A client that only stopped sending still gets its replies (half-close); one whose connection
/// broke gets nothing, and nothing is executed for it (INV-3).
fn farewell(session: &Session, end: &io::Result<usize>) -> Closing {
    let is_half_close = match end {
        // Redis drops a client that waits and hears nothing more: no element may be popped for
        // nobody.
        _ if session.is_blocked() => false,
        Ok(_) => true,
        // TLS without close_notify: many clients end that way.
        Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
    };
    if is_half_close {
        Closing::AfterReplies(ClosedReason::ClientClosed)
    } else {
        Closing::Now(ClosedReason::ClientClosed)
    }
}

/// Dispatches fresh input, or adds it to what is held. Returns whether there is no point in reading
/// on.
fn take_input(
    worker: &mut Worker,
    topology: &crate::topology::Topology,
    session: &mut Session,
    input: &[u8],
) -> bool {
    worker.stats.client_bytes_in.add(input.len() as u64);
    session.active_at = worker.now;
    if session.partial.is_some() {
        feed::hold(worker, session, input);
        return session.has_input() && feed::held(worker, topology, session).is_stuck;
    }
    feed::fresh(worker, topology, session, input).is_stuck
}

/// How much to read: a large command is read to its end and no further, so that its buffer can move
/// on whole.
fn read_limit(session: &Session) -> usize {
    let missing = session
        .partial
        .as_ref()
        .map_or(0, |partial| partial.needed.saturating_sub(partial.buffer.len() - partial.start));
    if missing >= LARGE_BYTES { missing.min(SCRATCH_BYTES) } else { SCRATCH_BYTES }
}

/// The lanes that wait for this session to take its bytes, if it has taken half of them.
fn unpauses(session: &mut Session) -> Vec<LaneId> {
    if session.paused.is_empty() {
        return Vec::new();
    }
    let is_relieved = session.closing.is_some()
        || !session.write_blocked
        || (session.owed() as u64) < session.gate.bounds.reply_bytes / 2;
    if is_relieved { std::mem::take(&mut session.paused) } else { Vec::new() }
}

/// Takes a session off its worker. Its waiters stay on their lanes as tombstones (INV-1).
pub fn remove(worker: &mut Worker, id: SessionId, reason: ClosedReason) {
    let topology = Arc::clone(worker.topology.load());
    if let Some(mut session) = worker.sessions.lend(id) {
        pubsub::leave_all(worker, &topology, &mut session);
        worker.sessions.restore(id, session);
    }
    let session = worker.sessions.get_mut(id);
    if let Some(session) = session {
        worker.stats.tombstones_made.add(u64::from(session.in_flight));
        let own = session.pin.as_ref().and_then(|pin| pin.lane);
        worker.request_bytes = worker.request_bytes.saturating_sub(feed::held_bytes(session));
        worker.shared.registry.remove(session.client.id);
        if session.in_flight > 0 {
            // What lies before another deployment may lie on several of its lanes.
            let is_on_one = topology.slots.is_none()
                && session.detours.is_none()
                && session.epoch == topology.epoch;
            let lane = session.lane.filter(|_| is_on_one);
            orphan(worker, lane);
        }
        if let Some(own) = own {
            crate::upstream::pinned::give_back(worker, own, false);
        }
    }
    worker.sessions.remove(id);
    worker.stats.clients.sub(1);
    worker.stats.client_closed(reason).increment();
}

/// A panic came between a waiter and its bytes: what is queued behind it would be answered to the wrong
/// one (INV-1). Nothing more goes onto such a lane, and it ends with its next turn.
fn give_up_half_queued(worker: &mut Worker) {
    let lanes: Vec<_> = worker.lanes.keys().collect();
    for id in lanes {
        if let Some(lane) = worker.lanes.get_mut(id).filter(|lane| !lane.is_consistent()) {
            lane.retired = true;
            lane.broken = Some(std::io::Error::other("a panic while commands were queued"));
            lane.wake();
        }
    }
}

/// A client has gone with commands on this lane, or on any: the unsent ones are dropped, and nobody
/// is stopped by its unread reply.
fn orphan(worker: &mut Worker, lane: Option<LaneId>) {
    let lanes = lane.map_or_else(|| worker.lanes.keys().collect(), |lane| vec![lane]);
    for id in lanes {
        if let Some(lane) = worker.lanes.get_mut(id).filter(|lane| !lane.is_idle()) {
            lane.has_orphans |= lane.send.unsent() > 0;
            lane.wake();
        }
    }
}

/// Reads of one turn: a quarter of a megabyte, then the others have theirs.
const READS_A_TURN: usize = 4;

#[cfg(test)]
mod tests {
    use crate::upstream::rig::Rig;

    #[test]
    fn a_lane_with_a_waiter_that_has_no_bytes_is_given_up_and_no_other() {
        let mut rig = Rig::before_cluster(3);
        let ann = rig.client();
        // `b` lies with the first node, `a` with the last.
        rig.say(ann, b"GET b\r\nGET a\r\n");
        let [half, whole] = [0, 2].map(|node| rig.focus_on_node(node).lane_id());
        let lane = rig.worker.lanes.get_mut(half).unwrap();
        let waiter = *lane.waiters.back().unwrap();
        lane.waiters.push_back(crate::upstream::lane::Waiter { end: waiter.end + 20, ..waiter });
        super::give_up_half_queued(&mut rig.worker);
        let is_given_up = |id| {
            let lane = rig.worker.lanes.get(id).unwrap();
            lane.retired && lane.broken.is_some()
        };
        assert!(is_given_up(half) && !is_given_up(whole));
    }
}

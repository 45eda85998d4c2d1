//! Ten times a second: what time alone does to a worker.
//!
//! Owns reply deadlines, stalled and idle clients, paused and idle lanes, the sums of buffered
//! bytes, and giving memory back. Never sends a command, never closes a lane for being slow
//! (INV-5): a deadline fills its own reply slot and leaves a tombstone.
//!
//! What surprises: the deadline of a lane's waiters is looked for from the front and the search
//! stops at the first young one, so a healthy worker's tick looks at one waiter a lane.

use std::io;
use std::sync::Arc;

use crate::allocator;
use crate::clock::{self, Micros, SECOND};
use crate::dispatch::{self, Settled};
use crate::governor::running;
use crate::refusal::{Ran, Refusal};
use crate::session::state::{Closing, Session, SessionId};
use crate::session::{flush, pinned, pubsub};
use crate::stats::labels::{ClosedReason, Outcome};
use crate::upstream::health::chart::Signal;
use crate::upstream::lane::{Lane, LaneId, LaneState, Patience, Waiter};
use crate::upstream::subscriber::{self, LinkId};
use crate::upstream::{self, loss, pool, succession};
use crate::worker::Worker;

/// Does what is due.
pub fn run(worker: &mut Worker) {
    worker.begin_batch();
    let lanes: Vec<LaneId> = worker.lanes.keys().collect();
    let mut pinned_count = 0;
    for id in lanes {
        let Some(mut lane) = worker.lanes.lend(id) else {
            continue;
        };
        expire(worker, &mut lane);
        running::look(worker, &mut lane);
        lane.count_answers(worker.now);
        end_stall(worker, &mut lane);
        bury_dead(worker, &mut lane);
        pool::retire_outdated(worker, &mut lane);
        succession::expire(worker, &mut lane);
        rest(worker, &mut lane);
        pinned_count += u64::from(lane.pinned.is_some());
        pinned::after_turn(worker, &mut lane);
        worker.lanes.restore(id, lane);
    }
    let links: Vec<LinkId> = worker.links.keys().collect();
    for id in links {
        if let Some(mut link) = worker.links.lend(id) {
            subscriber::loss::tick(worker, &mut link);
            worker.links.restore(id, link);
        }
    }
    let Worker { turns, sessions, .. } = worker;
    turns.forget(worker.now, |id, slot| {
        sessions.get(id).is_some_and(|session| session.replies.next() == slot)
    });
    worker.slow.adopt(&worker.shared.watch.load().slowlog);
    worker.stats.pinned.set(pinned_count);
    upstream::pinned::tick(worker);
    look_at_sessions(worker);
    flush::touched(worker);
}

/// Takes no further command from anybody; sessions end when their last reply is written.
pub fn drain(worker: &mut Worker) {
    worker.draining = true;
    let sessions: Vec<SessionId> = worker.sessions.keys().collect();
    for id in sessions {
        if let Some(session) = worker.sessions.get_mut(id) {
            // Who waits for what others do would wait for ever.
            let is_blocked = session.is_blocked();
            let reason = ClosedReason::Drain;
            session.close(match is_blocked {
                true => Closing::Now(reason),
                false => Closing::AfterReplies(reason),
            });
            session.wake();
        }
    }
}

/// Tells the clients whose reply deadline has passed, and leaves tombstones for the replies
/// (INV-5).
pub(crate) fn expire(worker: &mut Worker, lane: &mut Lane) {
    let settings = &lane.node.settings;
    let fast = clock::to_micros(settings.reply_deadline_fast);
    let slow = clock::to_micros(settings.reply_deadline_slow);
    let first_deadline = fast.min(slow);
    let mut late = Vec::new();
    for (place, waiter) in lane.waiters.iter().enumerate() {
        let age = worker.now.saturating_sub(waiter.taken_at);
        if age < first_deadline {
            break;
        }
        let limit = match waiter.patience {
            Patience::Short => fast,
            Patience::Long => slow,
            Patience::Endless => continue,
        };
        // A reply that flows is not late; the lane's own silence is what counts then.
        let age = if place == 0 && lane.streaming { worker.now - lane.heard_at } else { age };
        let is_read = lane.paused_at.is_none() || lane.overdraft;
        if age >= limit && is_read && loss::is_wanted(worker, waiter) {
            late.push((*waiter, limit));
        }
    }
    if !late.is_empty() {
        lane.node.note(Signal::Late(late.len() as u64), worker.now);
    }
    for (waiter, limit) in late {
        let ran = loss::effect(&waiter, lane.send.sent());
        if ran == Ran::No {
            // What the client is told is dropped must really be (INV-3).
            lane.has_orphans = true;
            lane.wake();
        }
        let refusal = Refusal::Deadline {
            node: lane.node.name.clone(),
            command: loss::worker_name(worker, &waiter),
            after: limit,
            ran,
        };
        give_up(worker, &waiter, refusal);
    }
}

/// Settles a waiter that stays on its lane as a tombstone.
fn give_up(worker: &mut Worker, waiter: &Waiter, refusal: Refusal) {
    worker.stats.deadlines_passed.increment();
    worker.stats.tombstones_made.increment();
    let outcome = match &refusal {
        Refusal::Deadline { ran: Ran::No, .. } => Outcome::NotExecuted,
        _ => Outcome::Unknown,
    };
    dispatch::settle_guarded(worker, waiter, Settled::Failed { refusal, outcome });
}

/// Others behind a client that does not read have waited long enough: the lane is read into the
/// total budget.
fn end_stall(worker: &mut Worker, lane: &mut Lane) {
    let Some(paused_at) = lane.paused_at else {
        return;
    };
    let stall = clock::to_micros(worker.shared.memory.lane_stall);
    if worker.now.saturating_sub(paused_at) < stall {
        return;
    }
    let Some(first) = lane.waiters.front() else {
        return;
    };
    let slow = first.session;
    let others_wait = lane
        .waiters
        .iter()
        .any(|waiter| waiter.session != slow && worker.sessions.contains(waiter.session));
    if others_wait && !lane.overdraft {
        lane.overdraft = true;
        lane.wake();
    }
}

/// A lane whose bytes nobody acknowledges leads nowhere; one whose node is slow stays (INV-5).
fn bury_dead(worker: &Worker, lane: &mut Lane) {
    let limit = lane.node.settings.user_timeout;
    let silent_for = worker.now.saturating_sub(lane.heard_at);
    if !lane.is_idle() && silent_for >= clock::to_micros(limit) && lane.socket.is_dead(limit) {
        lane.broken = Some(io::ErrorKind::TimedOut.into());
        lane.wake();
    }
}

/// Closes what has been idle for long, and gives memory back after a second.
fn rest(worker: &mut Worker, lane: &mut Lane) {
    let is_outdated = lane.key.epoch != worker.topology.load().epoch;
    if is_outdated && is_blocked(worker, lane) {
        // It would wait for ever for what now happens elsewhere.
        lane.broken = Some(io::Error::other("the upstream was changed"));
        lane.wake();
    }
    if !lane.is_idle() || lane.state != LaneState::Open {
        return;
    }
    let silent = worker.now.saturating_sub(lane.used_at.max(lane.heard_at));
    if silent >= SECOND {
        lane.shrink(&mut worker.pool);
    }
    let limit = worker.topology.load().silence_max().map(clock::to_micros);
    if lane.pinned.is_some() {
        return rest_pinned(lane, is_outdated, silent, limit, worker.now);
    }
    // Not what our own PINGs do counts, but what clients do.
    let unused = worker.now.saturating_sub(lane.used_at);
    if lane.retired {
        return;
    }
    if is_outdated || unused >= clock::to_micros(lane.node.settings.lane_idle) {
        pool::retire(lane);
        worker.stats.lanes_retired.increment();
    } else if limit.is_some_and(|limit| silent >= limit) {
        // A server with a `timeout` closes who says nothing, and a command that is on its way at
        // that moment has an unknown outcome. So nothing is said in time.
        lane.beat(&mut worker.pool, worker.now);
    }
}

fn is_blocked(worker: &Worker, lane: &Lane) -> bool {
    let owner = lane.owner().and_then(|owner| worker.sessions.get(owner));
    owner.is_some_and(Session::is_blocked)
}

/// A connection of one session is closed when nobody has borrowed it for long; what it holds of an
/// earlier deployment is lost.
fn rest_pinned(
    lane: &mut Lane,
    is_outdated: bool,
    idle: Micros,
    silence_max: Option<Micros>,
    now: Micros,
) {
    let node = Arc::clone(&lane.node);
    // Or before the server closes it while somebody borrows it.
    let is_tired = upstream::pinned::is_tired(lane, idle)
        || silence_max.is_some_and(|silence_max| idle >= silence_max)
        || lane.footing.is_outdated(&node, now);
    if lane.owner().is_none() && (is_outdated || is_tired) {
        pool::retire(lane);
    } else if is_outdated {
        lane.broken = Some(io::Error::other("the upstream was changed"));
        lane.wake();
    }
}

/// Sums what sessions hold, closes those that have stalled or idled too long, and shrinks the quiet
/// ones.
pub(crate) fn look_at_sessions(worker: &mut Worker) {
    let (mut total, mut in_flight) = (0, 0_u64);
    let mut greediest: Option<(usize, SessionId)> = None;
    let (mut transactions, mut replicas) = (0, 0_u64);
    let sessions: Vec<SessionId> = worker.sessions.keys().collect();
    for id in sessions {
        let now = worker.now;
        let Some(session) = worker.sessions.get_mut(id) else {
            continue;
        };
        let owed = session.owed();
        let held = owed + session.gathered();
        total += held;
        transactions += session.transaction_bytes();
        in_flight += u64::from(session.in_flight);
        replicas += u64::from(session.is_replica());
        if greediest.is_none_or(|(most, _)| held > most) {
            greediest = Some((held, id));
        }
        if let Some(reason) = overstays(session, owed, now).or_else(|| lags(session, now)) {
            session.close(Closing::Now(reason));
            session.wake();
        }
        if now.saturating_sub(session.active_at) >= SECOND && session.replies.pending() == 0 {
            session.replies.shrink();
            session.out.shrink();
            session.gathers.shrink();
        }
    }
    worker.reply_bytes = total;
    worker.pushed_bytes = 0;
    worker.transaction_bytes = transactions;
    give_back(worker, in_flight);
    worker.stats.commands_in_flight.set(in_flight);
    worker.stats.replicas.set(replicas);
    worker.stats.reply_buffered_bytes.set(total as u64);
    worker.stats.request_buffered_bytes.set(worker.request_bytes as u64);
    if total > worker.shared.memory.reply_bytes_total {
        close_greediest(worker, greediest.map(|(_, id)| id));
    }
}

/// A quiet worker holds no spare chunks, and after a burst its memory goes back to the kernel.
fn give_back(worker: &mut Worker, in_flight: u64) {
    let held = worker.reply_bytes + worker.request_bytes + worker.subscription_bytes;
    worker.burst_bytes = worker.burst_bytes.max(held);
    if in_flight == 0 && worker.reply_bytes == 0 {
        worker.pool.shrink();
        worker.rooms.shrink();
    }
    if worker.burst_bytes >= BURST_BYTES && held < worker.burst_bytes / 4 {
        worker.burst_bytes = held;
        allocator::give_back();
    }
}

/// Why a client must go: it takes no bytes, or it says nothing.
fn overstays(session: &Session, owed: usize, now: Micros) -> Option<ClosedReason> {
    let since = |then: Micros| now.saturating_sub(then);
    let stall = clock::to_micros(session.gate.stall);
    let has_stalled = owed > 0 && session.stalled_since.is_some_and(|then| since(then) >= stall);
    // A replica that loads what it got reads nothing for as long as that takes.
    if has_stalled && !session.is_replica() {
        return Some(ClosedReason::Stalled);
    }
    // It is not read any more, and must not wait for nobody.
    let waits = session.is_blocked() || session.asks_pin;
    if waits && !session.reads_ahead() && session.socket.has_peer_closed() {
        return Some(ClosedReason::ClientClosed);
    }
    let limit = clock::to_micros(session.gate.idle_timeout?);
    if session.subscriptions.is_some() {
        // Whoever listens need not say anything: as Redis, which exempts its subscribers from
        // `timeout`.
        return None;
    }
    // Half a command is no activity: Redis closes such a client as well.
    let is_idle = session.replies.pending() == 0 && owed == 0 && !session.waits_for_its_turn(now);
    let last = session.active_at.max(session.written_at);
    (is_idle && since(last) >= limit).then_some(ClosedReason::Idle)
}

/// Whether a subscriber has been above its soft limit for too long.
fn lags(session: &mut Session, now: Micros) -> Option<ClosedReason> {
    pubsub::is_slow(session, now).then_some(ClosedReason::SlowSubscriber)
}

/// The total budget is exhausted: the client that holds most of it is closed, and the sum is safe
/// again.
fn close_greediest(worker: &mut Worker, id: Option<SessionId>) {
    if let Some(session) = id.and_then(|id| worker.sessions.get_mut(id)) {
        session.close(Closing::Now(ClosedReason::OutOfMemoryBudget));
        session.wake();
    }
}

/// Bytes held for clients from which on the allocator is asked to return them when they are gone.
const BURST_BYTES: usize = 4 * 1024 * 1024;

//! Commands that need a connection of their own, and everything a session says while it has one.
//!
//! Owns when a connection is borrowed and when it is given back: WATCH to EXEC, a blocking command,
//! CLIENT TRACKING, MONITOR, SYNC. Never chooses among connections (`upstream::pinned` does) and never
//! looks into a transaction (`transaction` does). A command arrives from `dispatch`; its reply
//! comes back through [`settle`].
//!
//! What surprises: a command whose reply decides what the connection holds is a barrier. Nothing of
//! the session is dispatched until it is answered (INV-12 d), so what we believe of the connection
//! is what the node has said.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::arena::Key;
use crate::buffer::Piece;
use crate::command::Command;
use crate::command::spec::{Class, Spec};
use crate::dispatch::order::unless_replaced;
use crate::dispatch::{self, Asked, Dispatched, Settled, guards, order};
use crate::pubsub::recount::Recount;
use crate::refusal::Refusal;
use crate::resp::write::{self, Protocol};
use crate::session::pin::{Multi, Pending};
use crate::session::state::{Closing, Session};
use crate::session::{
    confirm, exec, held, invalidations, local, replication, tracking, transaction, wait,
};
use crate::stats::labels::{ClosedReason, Outcome};
use crate::topology::Topology;
use crate::upstream::dial::Node;
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Lane, LaneId, Patience, Role, Waiter};
use crate::upstream::pinned::{self, Need};
use crate::upstream::pool::{self, NoLane};
use crate::worker::Worker;

/// Takes a command of a session that has a pin, or that needs one. `None` if the command can go
/// where commands of other sessions go.
pub fn dispatch(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    spec: &Spec,
    command: Command<'_>,
    frame: Piece<'_>,
) -> Option<Dispatched> {
    if session.pin.is_some() && !is_current(worker, topology, session) {
        if session.in_flight > 0 {
            return Some(Dispatched::Wait);
        }
        forfeit(worker, session);
    }
    if session.pin.as_ref().is_some_and(|pin| pin.is_monitor)
        && !matches!(&*spec.name, "reset" | "quit")
    {
        return Some(dispatch::refuse(worker, session, spec, &Refusal::Monitoring));
    }
    if session.pin.as_ref().is_some_and(|pin| pin.listens)
        && let Some(done) = invalidations::say(worker, session, spec, command)
    {
        return Some(done);
    }
    if session.in_transaction() {
        return Some(transaction::dispatch(worker, topology, session, spec, command, frame));
    }
    let is_barred = spec.is_barred();
    if session.confirm.is_some()
        || (is_barred && guards::confirms(worker, topology, spec, &command))
    {
        return Some(begin(worker, topology, session, identity, spec, command, frame));
    }
    match spec.class_for(&command) {
        Class::Local => answer_beside(worker, topology, session, spec, command),
        // In a cluster its keys may be anywhere; WATCH and what else is a barrier has been answered
        // (INV-12 d).
        Class::Shared if topology.slots.is_some() => None,
        Class::Shared => {
            let lane = match own_lane(worker, topology, session, identity) {
                Ok(lane) => lane?,
                Err(refused) => return Some(order::unavailable(worker, session, spec, refused)),
            };
            let recount = Recount::of(&worker.shared.tally, spec, &command);
            let asked = Asked { recount, ..Asked::of(spec) };
            Some(dispatch::send(worker, session, lane, asked, frame))
        }
        Class::Pinned => Some(begin(worker, topology, session, identity, spec, command, frame)),
        class if invalidations::are_wanted(class, session, &command) => {
            Some(begin(worker, topology, session, identity, spec, command, frame))
        }
        Class::Subscriber | Class::Structural => None,
    }
}

/// Whether the session's connection is still there, and leads where commands go now (INV-12 a).
fn is_current(worker: &Worker, topology: &Topology, session: &Session) -> bool {
    let Some(id) = session.pin.as_ref().and_then(|pin| pin.lane) else {
        return true;
    };
    worker.lanes.get(id).is_some_and(|lane| lane.key.epoch == topology.epoch && !lane.retired)
}

/// The connection that the session's plain commands go to: its own if it has one or must have one.
fn own_lane(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
) -> Result<Option<LaneId>, NoLane> {
    let Some(pin) = &session.pin else {
        return Ok(None);
    };
    if let Some(lane) = pin.lane {
        return pool::room_on(worker, lane, session).map(Some);
    }
    if pin.tracking.is_none() {
        return Ok(None);
    }
    // The node must be told again what this client wants to hear of.
    let lane = borrow(worker, (topology, &topology.node), session, identity, Need::Lasting)?;
    if let Some(pinned) = worker.lanes.get_mut(lane).and_then(|lane| lane.pinned.as_mut()) {
        pinned.holds_state = true;
    }
    tracking::repeat(worker, session, lane);
    if session.is_barred() { Err(NoLane::Wait) } else { Ok(Some(lane)) }
}

/// A command of class pinned outside of a transaction.
fn begin(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    spec: &Spec,
    command: Command<'_>,
    frame: Piece<'_>,
) -> Dispatched {
    if let Some(done) = answer_at_once(worker, session, spec) {
        return done;
    }
    if let Some(refusal) = replication::objection(session, spec, &command) {
        return dispatch::refuse(worker, session, spec, &refusal);
    }
    let (node, slot) = match held::home(worker, topology, session, spec, command) {
        Ok(home) => home,
        Err(done) => return done,
    };
    let mut frame = frame;
    let (pending, need) = match plan(worker, topology, session, spec, command, &mut frame) {
        Ok(plan) => plan,
        Err(done) => return done,
    };
    let own = own_lane(worker, topology, session, identity);
    let lane = match own.and_then(|lane| match lane {
        Some(lane) => pinned::prolong(worker, session, lane, need),
        None => borrow(worker, (topology, &node), session, identity, need),
    }) {
        Ok(lane) => lane,
        Err(refused) => {
            // What follows was sent for a transaction; Redis never refuses a MULTI and runs the
            // rest.
            let done = unless_replaced(worker, (topology, &node), session, (spec, &frame), refused);
            session.was_refused =
                done == Dispatched::Done && matches!(pending, Pending::Multi | Pending::Watch);
            return done;
        }
    };
    if session.in_flight > 0 || !replication::may_begin(worker, session, lane, &pending) {
        return Dispatched::Wait;
    }
    let is_watch = matches!(pending, Pending::Watch);
    let done = expect(worker, session, lane, spec, pending, frame);
    if let Some(pin) = session.pin.as_mut().filter(|_| is_watch && done == Dispatched::Done) {
        pin.watched_slot = pin.watched_slot.or(slot);
    }
    done
}

/// What a command of its own makes of the connection, and for how long it wants it; its bytes may become others.
fn plan(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
    frame: &mut Piece<'_>,
) -> Result<(Pending, Need), Dispatched> {
    Ok(match &*spec.name {
        "multi" => (Pending::Multi, Need::Brief),
        "watch" => (Pending::Watch, Need::Brief),
        "unwatch" => (Pending::Unwatch, Need::Brief),
        "wait" | "waitaof" => {
            *frame = Piece::Shared([wait::STEP, command.frame()].concat().into());
            (Pending::Wait, Need::Lasting)
        }
        "monitor" => (Pending::Monitor, Need::Lasting),
        "replconf" => (Pending::Introduction, Need::Lasting),
        "sync" | "psync" => (Pending::Stream, Need::Lasting),
        "subscribe" => {
            *frame = invalidations::question(session, frame.clone());
            (Pending::Listen, Need::Lasting)
        }
        "client|tracking" => {
            match tracking::in_the_nodes_terms(worker, command) {
                Ok(Some(said)) => *frame = Piece::Shared(said.into()),
                Ok(None) => {}
                Err(text) => {
                    worker.answer(session, |line| write::error(line, text));
                    return Err(Dispatched::Done);
                }
            }
            (tracking::pending(command), Need::Lasting)
        }
        "client|caching" => (Pending::Once { leaves_state: false }, Need::Brief),
        _ if spec.blocks(&command) => (Pending::Blocking, Need::Lasting),
        _ => (confirm::plan(topology, session, spec, frame), Need::Brief),
    })
}

/// Sends a command that is a barrier.
pub(super) fn expect(
    worker: &mut Worker,
    session: &mut Session,
    lane: LaneId,
    spec: &Spec,
    pending: Pending,
    frame: Piece<'_>,
) -> Dispatched {
    let is_held = match &pending {
        Pending::Exec { ours, .. } => !ours.is_empty(),
        Pending::Aborting(_) | Pending::Unwatched | Pending::Wait | Pending::Confirm(_) => true,
        Pending::Listen | Pending::TrackingInfo(_) => true,
        _ => false,
    };
    let waits = matches!(pending, Pending::Blocking | Pending::Wait);
    session.client.is_blocked.store(waits, Ordering::Relaxed);
    let is_stream = pending == Pending::Stream;
    let asked = Asked {
        frames: if matches!(pending, Pending::Wait | Pending::Confirm(_)) { 2 } else { 1 },
        patience: if waits || is_stream { Patience::Endless } else { Patience::Long },
        role: if is_stream { Role::Stream } else { Role::State { is_held } },
        ..Asked::of(spec)
    };
    let done = dispatch::send(worker, session, lane, asked, frame);
    session.waits_since = None;
    if done == Dispatched::Done
        && let Some(pin) = &mut session.pin
    {
        pin.pending = Some(pending);
    }
    done
}

/// Borrows a connection and remembers it.
fn borrow(
    worker: &mut Worker,
    home: (&Topology, &Arc<Node>),
    session: &mut Session,
    identity: Identity,
    need: Need,
) -> Result<LaneId, NoLane> {
    let lane = pinned::borrow(worker, home, session, identity, need);
    session.asks_pin = lane == Err(NoLane::Wait);
    let lane = lane?;
    session.pin.get_or_insert_default().lane = Some(lane);
    let pinned = worker.lanes.get(lane).and_then(|lane| lane.pinned.as_ref());
    let node_client_id = pinned.map_or(0, |pinned| pinned.node_client_id);
    session.client.node_client_id.store(node_client_id, Ordering::Relaxed);
    Ok(lane)
}

/// What needs no node: the end of a transaction that was never begun, or of watching what is not
/// watched.
fn answer_at_once(worker: &mut Worker, session: &mut Session, spec: &Spec) -> Option<Dispatched> {
    let error = match &*spec.name {
        "exec" => "ERR EXEC without MULTI",
        "discard" => "ERR DISCARD without MULTI",
        "unwatch" if !session.pin.as_ref().is_some_and(|pin| pin.has_watches) => "",
        "unwatch" if session.pin.as_ref().is_some_and(|pin| pin.lane.is_none()) => {
            if let Some(pin) = &mut session.pin {
                pin.end_transaction();
            }
            ""
        }
        _ => return None,
    };
    worker.stats.command(spec.id.stats_index(), Outcome::Local).increment();
    worker.answer(session, |line| match error {
        "" => write::simple(line, "OK"),
        error => write::error(line, error),
    });
    forget_if_free(session);
    Some(Dispatched::Done)
}

/// A command about the client's own connection, of a session that has one upstream too: both must
/// agree.
fn answer_beside(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) -> Option<Dispatched> {
    let lane = session.pin.as_ref().and_then(|pin| pin.lane);
    if let Some(said) = session.pin.as_ref().and_then(|pin| pin.tracking.as_ref()) {
        let redirect = tracking::redirect_of(said);
        match &*spec.name {
            "client|getredir" => {
                worker.answer(session, |line| write::integer(line, redirect.unwrap_or(0)));
                return Some(Dispatched::Done);
            }
            "client|trackinginfo" if session.in_flight > 0 => return Some(Dispatched::Wait),
            "client|trackinginfo" => {
                let (pending, frame) =
                    (Pending::TrackingInfo(redirect), Piece::Borrowed(command.frame()));
                return Some(expect(worker, session, lane?, spec, pending, frame));
            }
            _ => {}
        }
    }
    if changes_everything(spec) && session.in_flight > 0 {
        // What is under way on the connection is answered before that is given up.
        return Some(Dispatched::Wait);
    }
    let identity = session.identity;
    let done = local::answer(worker, topology, session, spec, command);
    if &*spec.name == "reset" {
        leave(worker, session);
    } else if session.identity != identity {
        forfeit(worker, session);
    } else if let Some(lane) = lane {
        pinned::follow(worker, session, lane);
    }
    Some(done)
}

/// Whether a command may make its session somebody else.
fn changes_everything(spec: &Spec) -> bool {
    matches!(&*spec.name, "reset" | "auth" | "hello")
}

/// The session gives up its pin and what it holds, as its client wishes.
pub fn leave(worker: &mut Worker, session: &mut Session) {
    session.asks_pin = false;
    let lane = session.pin.take().and_then(|pin| pin.lane);
    if let Some(lane) = lane {
        session.lane = None;
        session.client.note_pinned(0, false);
        pinned::give_back(worker, lane, false);
    }
}

/// The session cannot keep its connection, and what it holds there is lost: its client is told as
/// after a loss.
pub fn forfeit(worker: &mut Worker, session: &mut Session) {
    let Some(pin) = &mut session.pin else {
        return;
    };
    let lane = pin.lane;
    pin.lose(&worker.shared.topology.load().node.name);
    tell_loss(worker, session);
    if let Some(lane) = lane {
        pinned::give_back(worker, lane, false);
    }
}

/// A session has become somebody else while the node was asked who it is: what it keeps upstream
/// follows.
pub fn follow_identity(worker: &mut Worker, session: &mut Session, before: Option<Identity>) {
    if session.identity != before {
        forfeit(worker, session);
    } else if let Some(lane) = session.pin.as_ref().and_then(|pin| pin.lane) {
        pinned::follow(worker, session, lane);
    }
}

/// The reply of a command that decides what the connection holds.
pub fn settle(worker: &mut Worker, waiter: &Waiter, settled: Settled<'_>) {
    let Some(mut session) = worker.sessions.lend(waiter.session) else {
        return dispatch::deliver(worker, waiter, settled);
    };
    // Guarded, because a lent session that a panic drops would leave its card and its budgets
    // behind.
    let turn = catch_unwind(AssertUnwindSafe(|| decide(worker, &mut session, waiter, &settled)));
    if turn.is_err() {
        worker.stats.panics.increment();
        worker.capture = None;
        session.close(Closing::Now(ClosedReason::Panic));
    }
    worker.sessions.restore(waiter.session, session);
    match turn.unwrap_or_default() {
        Some(bytes) => {
            let kind = bytes.first().copied().unwrap_or(b'-');
            dispatch::deliver(worker, waiter, Settled::Reply { bytes: &bytes, kind, earlier: 0 });
        }
        None => dispatch::deliver(worker, waiter, settled),
    }
}

/// Draws the conclusions, and returns what the client gets if that is not what the node said.
fn decide(
    worker: &mut Worker,
    session: &mut Session,
    waiter: &Waiter,
    settled: &Settled<'_>,
) -> Option<Vec<u8>> {
    let is_due = session.replies.is_waiting(waiter.slot);
    let pending = session.pin.as_mut().filter(|_| is_due)?.pending.take()?;
    session.client.is_blocked.store(false, Ordering::Relaxed);
    let moved = held::watch_is_lost(session, &pending, settled);
    let rewritten = moved.or_else(|| exec::rewrite(worker, session, &pending, settled));
    let multi = session.pin.as_ref().and_then(|pin| pin.multi.as_ref());
    if matches!(pending, Pending::Exec { .. }) && multi.is_some_and(|it| it.flushes_scripts) {
        // Whatever became of the EXEC: what is forgotten in vain is learnt again.
        worker.shared.scripts.flush();
    }
    if let Settled::Reply { kind, .. } = settled {
        conclude(session, pending, !matches!(kind, b'-' | b'!'));
    } else {
        // Nobody knows what the connection holds: it is no longer ours, and its own turn closes it.
        if matches!(pending, Pending::Multi | Pending::Watch) {
            session.doubt_what_is_held();
            session.lacks_transaction = true;
        }
        if ends_transaction(&pending)
            && let Some(pin) = &mut session.pin
        {
            pin.end_transaction();
        }
        let node = worker.shared.topology.load().node.name.clone();
        if let Some(pin) = &mut session.pin {
            pin.lose(&node);
        }
        tell_loss(worker, session);
    }
    forget_if_free(session);
    rewritten
}

/// What the session's pin has become, now that the node has spoken.
fn conclude(session: &mut Session, pending: Pending, is_ok: bool) {
    let Some(pin) = &mut session.pin else {
        return;
    };
    let ends = ends_transaction(&pending);
    match pending {
        Pending::Multi if is_ok => pin.multi = Some(Multi::default()),
        // A DISCARD that was refused leaves the transaction open there.
        Pending::Aborting(_) | Pending::Unwatched | Pending::Discard => pin.is_dirty |= !is_ok,
        Pending::Watch => {
            pin.has_watches |= is_ok;
            // A WATCH that was refused binds nobody to its slot.
            pin.watched_slot = pin.watched_slot.filter(|_| pin.has_watches);
        }
        Pending::Unwatch if is_ok => pin.end_transaction(),
        Pending::Tracking(said) if is_ok => {
            pin.is_dirty = true;
            pin.tracking = said;
        }
        Pending::Listen => {
            pin.is_dirty = true;
            pin.listens = is_ok;
        }
        Pending::Monitor => {
            pin.is_dirty = true;
            pin.is_monitor = is_ok;
        }
        Pending::Introduction => {
            pin.is_dirty = true;
            pin.introduces |= is_ok;
        }
        // An error: it is no stream.
        Pending::Stream => pin.is_dirty = true,
        Pending::Once { leaves_state } => pin.is_dirty |= leaves_state,
        _ => {}
    }
    if ends {
        pin.end_transaction();
    }
    let queued = if pin.multi.is_some() { 0 } else { -1 };
    session.client.queued.store(queued, Ordering::Relaxed);
}

/// Whether the transaction is over once the node has answered.
fn ends_transaction(pending: &Pending) -> bool {
    matches!(
        pending,
        Pending::Exec { .. } | Pending::Aborting(_) | Pending::Unwatched | Pending::Discard
    )
}

/// The node has answered a command of our own, or never will. If it refused, the connection is not
/// what its session's commands need.
pub fn note_whisper(worker: &mut Worker, waiter: &Waiter, settled: &Settled<'_>) {
    let Some(mut session) = worker.sessions.lend(waiter.session) else {
        return;
    };
    let node = worker.shared.topology.load().node.name.clone();
    // One of an earlier connection says nothing about this one.
    let pin = session.pin.as_mut().filter(|pin| pin.lane.map(Key::number) == Some(waiter.slot));
    match (pin, settled) {
        (Some(pin), Settled::Reply { kind, .. }) if !matches!(kind, b'-' | b'!') => {
            pin.whispers = pin.whispers.saturating_sub(1);
        }
        (Some(pin), _) => {
            let is_refused = matches!(settled, Settled::Reply { .. });
            if is_refused && pin.tracking.is_some() {
                // What it reads is not tracked any more, and it cannot be told in words that Redis
                // has.
                session.close(Closing::Now(ClosedReason::StreamLost));
            }
            if let Some(pin) = &mut session.pin {
                pin.lose(&node);
            }
            tell_loss(worker, &mut session);
        }
        (None, _) => {}
    }
    session.wake();
    worker.sessions.restore(waiter.session, session);
}

/// A pin without connection and without state is none.
pub(super) fn forget_if_free(session: &mut Session) {
    if session.pin.as_ref().is_some_and(|pin| pin.lane.is_none() && pin.is_free()) {
        session.pin = None;
    }
}

/// Behind each turn of a pinned connection: what its session needs no more is given back.
pub fn after_turn(worker: &mut Worker, lane: &mut Lane) {
    let Some(owner) = lane.owner() else {
        return;
    };
    let id = lane.id;
    let Some(session) = worker.sessions.get_mut(owner) else {
        // Lent to its own turn, or gone; `session::remove` closes the connections of those that
        // have gone.
        return;
    };
    match &mut session.pin {
        Some(pin) if pin.lane == Some(id) => {
            if let Some((protocol, db)) = pin.moved.take() {
                (lane.key.protocol, lane.key.db) = (protocol, db);
            }
            if let Some(pinned) = &mut lane.pinned {
                pinned.holds_state = pin.holds_state();
            }
            if pin.is_free() && session.in_flight == 0 {
                let is_clean = !pin.is_dirty;
                session.pin = None;
                session.lane = None;
                session.client.note_pinned(0, false);
                pinned::give_back_lane(worker, lane, is_clean);
            }
        }
        _ => pinned::give_back_lane(worker, lane, false),
    }
}

/// The connection of a session has ended and its commands are settled; what it held is lost too.
pub fn lost(worker: &mut Worker, lane: &mut Lane) {
    let Some(owner) = lane.owner().filter(|_| lane.is_idle()) else {
        return;
    };
    let Some(mut session) = worker.sessions.lend(owner) else {
        return;
    };
    if let Some(pin) = &mut session.pin
        && pin.lane == Some(lane.id)
    {
        pin.lose(&lane.node.name);
        tell_loss(worker, &mut session);
        session.wake();
    }
    worker.sessions.restore(owner, session);
}

/// Tells the client of a lost connection what Redis has words for.
fn tell_loss(worker: &mut Worker, session: &mut Session) {
    session.lane = None;
    session.client.note_pinned(0, false);
    let (was_monitor, was_tracking) =
        session.pin.as_ref().map_or((false, false), |pin| (pin.is_monitor, pin.tracking.is_some()));
    if was_monitor {
        session.close(Closing::Now(ClosedReason::StreamLost));
    }
    if was_tracking && session.protocol == Protocol::Resp3 {
        // Whatever it has cached may have changed unseen.
        session.push(&mut worker.pool, tracking::INVALIDATE_ALL);
        worker.touched.mark(session);
    }
    forget_if_free(session);
}

#[cfg(test)]
mod tests;

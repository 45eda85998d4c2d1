//! Connections that belong to one session for a while: how many there may be, and who gets the next
//! one.
//!
//! Owns the budget of pinned connections (shared by all workers), the ones of this worker that
//! rest, and the queue of sessions that want one. Never knows what a session keeps on its
//! connection (`session::pinned` does), never dials: a new one is a lane of its own and its task
//! does the rest. A session borrows with [`borrow`] and gives back with [`give_back`].
//!
//! What surprises: a pinned connection *is* a lane. Order, deadlines, loss and the streaming of
//! replies are the same; only its choice is not, and nothing is sent again on another connection
//! once it holds state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::buffer::Piece;
use crate::clock::{self, Micros, SECOND};
use crate::command::spec::{CommandId, builtin_id};
use crate::config::PinnedMax;
use crate::refusal::Refusal;
use crate::resp::write;
use crate::session::state::{Session, SessionId};
use crate::topology::Topology;
use crate::upstream::dial::Node;
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Lane, LaneId, LaneKey, LaneState, Pinned, Role, Waiter};
use crate::upstream::loss;
use crate::upstream::pool::{self, NoLane};
use crate::worker::Worker;

/// The number of pinned connections of the whole process, and its bound.
#[derive(Debug)]
pub struct PinnedBudget {
    in_use: AtomicUsize,
    /// Those of them that are borrowed for long.
    lasting: AtomicUsize,
    most: AtomicUsize,
    /// Sessions that wait for one, on all workers, as of their last ticks.
    wanted: AtomicUsize,
}

/// One place in the budget; dropping it gives it back.
#[derive(Debug)]
pub struct Place(Arc<PinnedBudget>);

/// One place among the connections that are borrowed for long; dropping it gives it back.
#[derive(Debug)]
pub struct LastingPlace(Arc<PinnedBudget>);

/// What a session wants a connection for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A transaction or a command of its own: over soon.
    Brief,
    /// To wait, perhaps for hours: a tenth of the budget stays out of reach, for the others.
    Lasting,
}

/// What one worker knows of its pinned connections.
#[derive(Debug, Default)]
pub struct PinnedPool {
    /// Connections that rest, oldest first.
    resting: VecDeque<LaneId>,
    /// Sessions that want one, in the order in which they asked.
    queue: VecDeque<Asker>,
    /// Our part of the budget's `wanted`.
    announced: usize,
}

#[derive(Debug)]
struct Asker {
    session: SessionId,
    need: Need,
    since: Micros,
}

/// Lends a connection to `session`, which acts as `identity` and has no command in flight.
///
/// # Errors
/// [`NoLane::Wait`] while there is none to be had, [`NoLane::Refused`] when that has lasted for `pinned_wait` or
/// the node is down.
pub fn borrow(
    worker: &mut Worker,
    (topology, node): (&Topology, &Arc<Node>),
    session: &mut Session,
    identity: Identity,
    need: Need,
) -> Result<LaneId, NoLane> {
    if session.in_flight > 0 {
        // INV-12 c: what was asked before must have happened before.
        return Err(NoLane::Wait);
    }
    lend(worker, (topology, node), session, identity, need)
}

/// As [`borrow`], whatever is in flight.
///
/// # Errors
/// As [`borrow`].
pub fn lend(
    worker: &mut Worker,
    (topology, node): (&Topology, &Arc<Node>),
    session: &mut Session,
    identity: Identity,
    need: Need,
) -> Result<LaneId, NoLane> {
    if let Some(refusal) = refusal(worker, node, session) {
        worker.pinned.forget(session.id);
        return Err(NoLane::Refused(refusal));
    }
    let granted = if worker.pinned.is_overtaking(session.id, need) {
        None
    } else {
        grant(worker, (topology, node), session, identity, need)
    };
    let Some((id, lasting)) = granted else {
        worker.pinned.ask(session.id, need, worker.now);
        return Err(NoLane::Wait);
    };
    worker.pinned.forget(session.id);
    if let Some(pinned) = worker.lanes.get_mut(id).and_then(|lane| lane.pinned.as_mut()) {
        pinned.owner = Some(session.id);
        pinned.lasting = lasting;
    }
    session.lane = Some(id);
    session.epoch = topology.epoch;
    introduce(worker, session, id);
    // There may be one for the next as well.
    wake_next(worker);
    Ok(id)
}

/// The session keeps its connection for longer than it said when it borrowed it.
///
/// # Errors
/// [`NoLane::Wait`] while as many as may last do so.
pub fn prolong(
    worker: &mut Worker,
    session: &mut Session,
    id: LaneId,
    need: Need,
) -> Result<LaneId, NoLane> {
    let pinned = worker.lanes.get_mut(id).and_then(|lane| lane.pinned.as_mut());
    let Some(pinned) = pinned.filter(|pinned| need == Need::Lasting && pinned.lasting.is_none())
    else {
        return Ok(id);
    };
    pinned.lasting = worker.shared.pinned.reserve_lasting();
    if pinned.lasting.is_some() {
        withdraw(worker, session);
        return Ok(id);
    }
    if std::mem::take(&mut session.pin_refused) {
        session.asks_pin = false;
        return Err(NoLane::Refused(busy(worker)));
    }
    session.asks_pin = true;
    worker.pinned.ask(session.id, need, worker.now);
    Err(NoLane::Wait)
}

/// The session asks no longer.
pub fn withdraw(worker: &mut Worker, session: &mut Session) {
    if session.asks_pin {
        worker.pinned.forget(session.id);
        session.asks_pin = false;
        session.pin_refused = false;
    }
}

/// Why there is no point in waiting.
fn refusal(worker: &Worker, node: &Node, session: &mut Session) -> Option<Refusal> {
    if std::mem::take(&mut session.pin_refused) {
        return Some(busy(worker));
    }
    node.refusal(worker.now)
}

/// What a client is told that has waited for too long.
fn busy(worker: &Worker) -> Refusal {
    worker.stats.pinned_refused.increment();
    let most = worker.shared.pinned.most();
    let wait = worker.shared.topology.load().node.settings.pinned_wait;
    Refusal::PinnedBusy { most, wait: clock::to_micros(wait) }
}

/// A connection that rests or a new one, with a place among the lasting ones if it is for long.
fn grant(
    worker: &mut Worker,
    (topology, node): (&Topology, &Arc<Node>),
    session: &Session,
    identity: Identity,
    need: Need,
) -> Option<(LaneId, Option<LastingPlace>)> {
    let lasting = match need {
        Need::Brief => None,
        Need::Lasting => Some(worker.shared.pinned.reserve_lasting()?),
    };
    let key = LaneKey { is_bulk: true, ..LaneKey::of(session, identity, topology.epoch, node.id) };
    let resting = take_resting(worker, &key);
    let id = resting.or_else(|| open(worker, node, session, key))?;
    Some((id, lasting))
}

/// The latest connection that rests and fits: the others may grow old and be closed.
fn take_resting(worker: &mut Worker, key: &LaneKey) -> Option<LaneId> {
    let lanes = &worker.lanes;
    let is_alive = |id: &LaneId| {
        lanes.get(*id).is_some_and(|lane| {
            !lane.retired && lane.broken.is_none() && lane.owner().is_none() && lane.is_idle()
        })
    };
    worker.pinned.resting.retain(is_alive);
    let fits = |id: &LaneId| {
        lanes.get(*id).is_some_and(|lane| lane.key == *key && lane.state == LaneState::Open)
    };
    let place = worker.pinned.resting.iter().rposition(fits)?;
    worker.pinned.resting.remove(place)
}

/// A new connection, if the budget has a place. If not, one that rests for somebody else gives way:
/// its place is free once it has closed, and who asks now is served then.
fn open(worker: &mut Worker, node: &Arc<Node>, session: &Session, key: LaneKey) -> Option<LaneId> {
    let budget = Arc::clone(&worker.shared.pinned);
    let Some(place) = budget.reserve() else {
        retire_oldest(worker);
        return None;
    };
    let (node, now, owner) = (Arc::clone(node), worker.now, Some(session.id));
    let name = Vec::new();
    let pinned =
        Pinned { owner, node_client_id: 0, name, holds_state: false, place, lasting: None };
    let id = worker.lanes.insert(|id| {
        let mut lane = Lane::new(id, key, node, now);
        lane.pinned = Some(Box::new(pinned));
        lane
    });
    worker.to_dial.push(id);
    Some(id)
}

/// The connection that has rested longest is closed.
fn retire_oldest(worker: &mut Worker) {
    let oldest = worker.pinned.resting.pop_front();
    if let Some(lane) = oldest.and_then(|id| worker.lanes.get_mut(id)) {
        pool::retire(lane);
    }
}

/// Brings the session's own connection to its protocol version and database. The session's commands
/// wait until the node has agreed: behind a SELECT that fails they would run in another database.
pub fn follow(worker: &mut Worker, session: &mut Session, id: LaneId) {
    let Some(lane) = worker.lanes.get(id) else {
        return;
    };
    let (protocol, db) = (lane.key.protocol, lane.key.db);
    let mut frame = Vec::new();
    if protocol != session.protocol {
        let version = session.protocol.number().to_string();
        write::command(&mut frame, &[b"HELLO", version.as_bytes()]);
        whisper(worker, session, id, &frame);
    }
    if db != session.db {
        frame.clear();
        write::command(&mut frame, &[b"SELECT", session.db.to_string().as_bytes()]);
        whisper(worker, session, id, &frame);
    }
    if let Some(lane) = worker.lanes.get_mut(id) {
        (lane.key.protocol, lane.key.db) = (session.protocol, session.db);
    }
}

/// Gives the connection its borrower's name, so that the node's CLIENT LIST and SLOWLOG show whose
/// it is. Nobody waits for the answer, and an ACL may refuse it.
fn introduce(worker: &mut Worker, session: &Session, id: LaneId) {
    let name = session.client.labels().name;
    let Some(lane) = worker.lanes.get_mut(id) else {
        return;
    };
    match &mut lane.pinned {
        Some(pinned) if pinned.name != name => pinned.name.clone_from(&name),
        _ => return,
    }
    let shown: &[u8] = if name.is_empty() { OUR_NAME } else { &name };
    let mut frame = Vec::new();
    write::command(&mut frame, &[b"CLIENT", b"SETNAME", shown]);
    let waiter = Waiter { slot: NO_ANSWER, ..whisperer(session.id, id, worker.now) };
    worker.unflushed.mark(id, lane.send.unsent() == 0);
    lane.enqueue(&mut worker.pool, Piece::Borrowed(&frame), waiter);
}

/// Queues a command of our own. Nothing of the session is dispatched before its reply.
pub fn whisper(worker: &mut Worker, session: &mut Session, id: LaneId, frame: &[u8]) {
    let (Some(lane), Some(pin)) = (worker.lanes.get_mut(id), &mut session.pin) else {
        return;
    };
    let waiter = whisperer(session.id, id, worker.now);
    pin.whispers += 1;
    worker.unflushed.mark(id, lane.send.unsent() == 0);
    lane.enqueue(&mut worker.pool, Piece::Borrowed(frame), waiter);
}

/// The waiter of a command of our own on the connection `id` of `session`.
fn whisperer(session: SessionId, id: LaneId, now: Micros) -> Waiter {
    Waiter::of_ours((session, id.number()), WHISPERED, Role::Whisper, now)
}

/// The session wants its connection no more. `is_clean` if nothing of it is left there: only then
/// may somebody else have it.
pub fn give_back(worker: &mut Worker, id: LaneId, is_clean: bool) {
    if let Some(mut lane) = worker.lanes.lend(id) {
        give_back_lane(worker, &mut lane, is_clean);
        worker.lanes.restore(id, lane);
    }
}

/// As [`give_back`], for a connection that is lent to its own turn.
pub fn give_back_lane(worker: &mut Worker, lane: &mut Lane, is_clean: bool) {
    if let Some(pinned) = &mut lane.pinned {
        pinned.owner = None;
        pinned.holds_state = false;
        pinned.lasting = None;
    }
    if is_clean && lane.is_idle() && !lane.retired && lane.state == LaneState::Open {
        worker.pinned.resting.push_back(lane.id);
    } else {
        loss::abandon(worker, lane);
    }
    wake_next(worker);
}

/// Whoever asked first may ask again; those who want to wait stand in nobody's way but each
/// other's.
pub fn wake_next(worker: &mut Worker) {
    if worker.pinned.queue.is_empty() {
        return;
    }
    let sessions = &worker.sessions;
    worker.pinned.queue.retain(|asker| sessions.contains(asker.session));
    for need in [Need::Brief, Need::Lasting] {
        let first = worker.pinned.first(need).and_then(|asker| sessions.get(asker.session));
        if let Some(session) = first {
            session.wake();
        }
    }
}

/// Ten times a second: who has waited too long is told, and the first of the others may try again,
/// because a place may have become free on another worker.
pub fn tick(worker: &mut Worker) {
    let topology = Arc::clone(worker.topology.load());
    let settings = &topology.node.settings;
    let clients = topology.facts.as_ref().and_then(|facts| facts.clients);
    worker.shared.pinned.set_most(settings.pinned_max, clients);
    let wait = clock::to_micros(settings.pinned_wait);
    announce(worker);
    if worker.shared.pinned.in_use() >= worker.shared.pinned.most() {
        // What rests here gives way to whoever waits, on whatever worker.
        for _ in 0..worker.shared.pinned.wanted.load(Ordering::Relaxed) {
            retire_oldest(worker);
        }
    }
    while let Some(asker) = worker.pinned.queue.front()
        && worker.now.saturating_sub(asker.since) >= wait
    {
        let id = asker.session;
        worker.pinned.queue.pop_front();
        if let Some(session) = worker.sessions.get_mut(id) {
            session.pin_refused = true;
            session.wake();
        }
    }
    worker.stats.pinned_waiting.set(worker.pinned.queue.len() as u64);
    wake_next(worker);
}

/// Tells the other workers how many wait here.
fn announce(worker: &mut Worker) {
    let wanted = &worker.shared.pinned.wanted;
    wanted.fetch_add(worker.pinned.queue.len(), Ordering::Relaxed);
    wanted.fetch_sub(worker.pinned.announced, Ordering::Relaxed);
    worker.pinned.announced = worker.pinned.queue.len();
}

/// Whether a pinned connection has rested long enough to be closed.
#[must_use]
pub fn is_tired(lane: &Lane, idle: Micros) -> bool {
    lane.owner().is_none() && idle >= RESTING_MAX
}

// === impl PinnedPool ===

impl PinnedPool {
    /// The first of those that want the same.
    fn first(&self, need: Need) -> Option<&Asker> {
        self.queue.iter().find(|asker| asker.need == need)
    }

    /// Whether somebody else has asked for the same before this session.
    fn is_overtaking(&self, session: SessionId, need: Need) -> bool {
        self.first(need).is_some_and(|first| first.session != session)
    }

    fn ask(&mut self, session: SessionId, need: Need, since: Micros) {
        if !self.queue.iter().any(|asker| asker.session == session) {
            self.queue.push_back(Asker { session, need, since });
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.queue.retain(|asker| asker.session != session);
    }
}

// === impl PinnedBudget ===

impl Default for PinnedBudget {
    fn default() -> Self {
        Self {
            in_use: AtomicUsize::new(0),
            lasting: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            most: AtomicUsize::new(UNKNOWN_MAX),
        }
    }
}

impl PinnedBudget {
    /// Takes a place, if there is one.
    fn reserve(self: &Arc<Self>) -> Option<Place> {
        take(&self.in_use, self.most()).then(|| Place(Arc::clone(self)))
    }

    /// Takes a place among those that are borrowed for long: a tenth of all stays out of their
    /// reach.
    fn reserve_lasting(self: &Arc<Self>) -> Option<LastingPlace> {
        let most = self.most();
        let bound = most.saturating_sub(most.div_ceil(10).max(KEPT_MIN)).max(1);
        take(&self.lasting, bound).then(|| LastingPlace(Arc::clone(self)))
    }

    /// Most pinned connections of the process.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Pinned connections now, resting and dialling ones included.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Sets the bound from the settings and from what the server has said.
    pub fn set_most(&self, settings: PinnedMax, clients: Option<(usize, usize)>) {
        let most = match (settings, clients) {
            (PinnedMax::Fixed(most), _) => most,
            // Four fifths of what the server allows, without what was in use when we connected.
            (PinnedMax::Auto, Some((allowed, in_use))) => {
                (allowed / 5 * 4).saturating_sub(in_use).max(KEPT_MIN + 1)
            }
            (PinnedMax::Auto, None) => UNKNOWN_MAX,
        };
        self.most.store(most, Ordering::Relaxed);
    }
}

/// Counts one more, if there are fewer than `bound`.
fn take(count: &AtomicUsize, bound: usize) -> bool {
    let one_more = |count| (count < bound).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

impl Drop for LastingPlace {
    fn drop(&mut self) {
        self.0.lasting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The name of a connection whose borrower has none.
const OUR_NAME: &[u8] = b"breakwater:pinned";
/// The slot of a command of our own that nobody waits for.
const NO_ANSWER: u64 = u64::MAX;
/// What is counted for commands of our own.
const WHISPERED: CommandId = builtin_id("select");
/// Bound while the server's own is unknown.
const UNKNOWN_MAX: usize = 1024;
/// Places that connections which last never get.
const KEPT_MIN: usize = 4;
/// A connection that has rested for so long is closed.
const RESTING_MAX: Micros = 30 * SECOND;

#[cfg(test)]
mod tests;

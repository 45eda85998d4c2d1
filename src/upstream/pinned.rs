//! Connections that belong to one session for a while: how many there may be, and who gets the next one.
//!
//! Owns the budget of pinned connections (shared by all workers), the ones of this worker that rest, and the queue
//! of sessions that want one. Never knows what a session keeps on its connection (`session::pinned` does), never
//! dials: a new one is a lane of its own and its task does the rest. A session borrows with [`borrow`] and gives
//! back with [`give_back`].
//!
//! What surprises: a pinned connection *is* a lane. Order, deadlines, loss and the streaming of replies are the
//! same; only its choice is not, and nothing is sent again on another connection once it holds state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::buffer::Piece;
use crate::clock::{self, Micros, SECOND};
use crate::command::spec::{CommandId, builtin_id};
use crate::config::PinnedMax;
use crate::pubsub::recount::Recount;
use crate::refusal::Refusal;
use crate::resp::write;
use crate::session::state::{Session, SessionId};
use crate::topology::Topology;
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Lane, LaneId, LaneKey, LaneState, Patience, Pinned, Role, Waiter};
use crate::upstream::pool::{self, NoLane};
use crate::worker::Worker;

/// The number of pinned connections of the whole process, and its bound.
#[derive(Debug)]
pub struct PinnedBudget {
    in_use: AtomicUsize,
    most: AtomicUsize,
}

/// One place in the budget; dropping it gives it back.
#[derive(Debug)]
pub struct Place(Arc<PinnedBudget>);

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
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    need: Need,
) -> Result<LaneId, NoLane> {
    if session.in_flight > 0 {
        // INV-12 c: what was asked before must have happened before.
        return Err(NoLane::Wait);
    }
    if std::mem::take(&mut session.pin_refused) {
        worker.stats.pinned_refused.increment();
        let (most, wait) = (worker.shared.pinned.most(), topology.node.settings.pinned_wait);
        return Err(NoLane::Refused(Refusal::PinnedBusy { most, wait: clock::to_micros(wait) }));
    }
    if let Some(refusal) = worker.reach.refusal(&topology.node, worker.now) {
        return Err(NoLane::Refused(refusal));
    }
    if worker.pinned.is_overtaking(session.id, need) {
        worker.pinned.ask(session.id, need, worker.now);
        return Err(NoLane::Wait);
    }
    let resting = take_resting(worker, topology.epoch, identity);
    let Some(id) = resting.or_else(|| open(worker, topology, session, identity, need)) else {
        worker.pinned.ask(session.id, need, worker.now);
        return Err(NoLane::Wait);
    };
    worker.pinned.forget(session.id);
    if let Some(pinned) = worker.lanes.get_mut(id).and_then(|lane| lane.pinned.as_mut()) {
        pinned.owner = Some(session.id);
    }
    session.lane = Some(id);
    session.epoch = topology.epoch;
    follow(worker, session, id);
    Ok(id)
}

/// The latest connection that rests and fits: the others may grow old and be closed.
fn take_resting(worker: &mut Worker, epoch: u64, identity: Identity) -> Option<LaneId> {
    let lanes = &worker.lanes;
    let is_alive = |id: &LaneId| {
        lanes.get(*id).is_some_and(|lane| {
            !lane.retired && lane.broken.is_none() && lane.owner().is_none() && lane.is_idle()
        })
    };
    worker.pinned.resting.retain(is_alive);
    let fits = |id: &LaneId| {
        lanes.get(*id).is_some_and(|lane| {
            (lane.key.epoch, lane.key.identity) == (epoch, identity)
                && lane.state == LaneState::Open
        })
    };
    let place = worker.pinned.resting.iter().rposition(fits)?;
    worker.pinned.resting.remove(place)
}

/// A new connection, if the budget has a place; one that rests for somebody else gives way.
fn open(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    identity: Identity,
    need: Need,
) -> Option<LaneId> {
    let budget = Arc::clone(&worker.shared.pinned);
    let place = budget.reserve(need).or_else(|| {
        let oldest = worker.pinned.resting.pop_front()?;
        pool::retire(worker.lanes.get_mut(oldest)?);
        // Its place is free once it has closed; who asks now is served then.
        None
    })?;
    let key = LaneKey {
        epoch: topology.epoch,
        identity,
        protocol: session.protocol,
        db: session.db,
        is_bulk: true,
    };
    let (node, now) = (Arc::clone(&topology.node), worker.now);
    let id = worker.lanes.insert(|id| {
        let mut lane = Lane::new(id, key, node, now);
        let (owner, node_client_id) = (Some(session.id), 0);
        let (holds_state, is_monitor) = (false, false);
        lane.pinned =
            Some(Box::new(Pinned { owner, node_client_id, holds_state, is_monitor, place }));
        lane
    });
    worker.to_dial.push(id);
    Some(id)
}

/// Brings the connection to the session's protocol version and database. The node's answers are nobody's: they
/// are consumed in their turn.
pub fn follow(worker: &mut Worker, session: &Session, id: LaneId) {
    let Some(lane) = worker.lanes.get(id) else {
        return;
    };
    let (protocol, db) = (lane.key.protocol, lane.key.db);
    let mut frame = Vec::new();
    if protocol != session.protocol {
        let version = session.protocol.number().to_string();
        write::command(&mut frame, &[b"HELLO", version.as_bytes()]);
        whisper(worker, id, &frame);
    }
    if db != session.db {
        frame.clear();
        write::command(&mut frame, &[b"SELECT", session.db.to_string().as_bytes()]);
        whisper(worker, id, &frame);
    }
    if let Some(lane) = worker.lanes.get_mut(id) {
        (lane.key.protocol, lane.key.db) = (session.protocol, session.db);
    }
}

/// Queues a command of our own whose reply nobody sees.
pub fn whisper(worker: &mut Worker, id: LaneId, frame: &[u8]) {
    let Some(lane) = worker.lanes.get_mut(id) else {
        return;
    };
    let waiter = Waiter {
        session: SessionId::nobody(),
        slot: 0,
        end: 0,
        taken_at: worker.now,
        length: 0,
        frames: 1,
        command: WHISPERED,
        resent: 0,
        is_retry_safe: false,
        patience: Patience::Endless,
        role: Role::Plain,
        is_muted: true,
        recount: Recount::No,
    };
    worker.unflushed.mark(id, lane.send.unsent() == 0);
    lane.enqueue(&mut worker.pool, Piece::Borrowed(frame), waiter);
}

/// The session wants its connection no more. `is_clean` if nothing of it is left there: only then may somebody
/// else have it.
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
    }
    if is_clean && lane.is_idle() && !lane.retired && lane.state == LaneState::Open {
        worker.pinned.resting.push_back(lane.id);
    } else {
        let dropped = lane.abandon();
        worker.stats.tombstones_consumed.add(dropped as u64);
    }
    wake_next(worker);
}

/// Whoever asked first may ask again; those who want to wait stand in nobody's way but each other's.
fn wake_next(worker: &mut Worker) {
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

/// Ten times a second: who has waited too long is told, and the first of the others may try again, because a
/// place may have become free on another worker.
pub fn tick(worker: &mut Worker) {
    let topology = Arc::clone(worker.topology.load());
    let settings = &topology.node.settings;
    let clients = topology.facts.as_ref().and_then(|facts| facts.clients);
    worker.shared.pinned.set_most(settings.pinned_max, clients);
    let wait = clock::to_micros(settings.pinned_wait);
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
        Self { in_use: AtomicUsize::new(0), most: AtomicUsize::new(UNKNOWN_MAX) }
    }
}

impl PinnedBudget {
    /// Takes a place, if `need` may have one.
    fn reserve(self: &Arc<Self>, need: Need) -> Option<Place> {
        let most = self.most();
        let bound = match need {
            Need::Brief => most,
            Need::Lasting => most.saturating_sub(most.div_ceil(10).max(KEPT_MIN)).max(1),
        };
        let taken = self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |in_use| {
            (in_use < bound).then_some(in_use + 1)
        });
        taken.is_ok().then(|| Place(Arc::clone(self)))
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

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is counted for commands of our own.
const WHISPERED: CommandId = builtin_id("select");
/// Bound while the server's own is unknown.
const UNKNOWN_MAX: usize = 1024;
/// Places that connections which last never get.
const KEPT_MIN: usize = 4;
/// A connection that has rested for so long is closed.
const RESTING_MAX: Micros = 30 * SECOND;

//! Sending what waits among the detours, when its moment has come.
//!
//! Owns that moment: the list of sessions that may have something due, the task that looks, the
//! choice of node and lane for each, and the publishing of owners that redirects have named. Never
//! decides what a reply means (`detour` does). Of one slot of a session only the first command is
//! on the road (INV-12 b).
//!
//! What surprises: nothing is sent from within a lane's turn, because the lane that it should go to
//! may be the one that is lent. Whoever marks a session is followed by [`due`], once the lane is
//! back.

use std::collections::{BTreeMap, HashSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::cluster;
use super::detour;
use super::guards;
use super::keyspaces;
use super::patience;
use crate::buffer::Piece;
use crate::clock::{self, Micros};
use crate::scripts::follow;
use crate::session::detour::{Ahead, Aim, Answer, Detour, Stage};
use crate::session::flush;
use crate::session::remaining;
use crate::session::state::{Closing, Session, SessionId};
use crate::stats::labels::ClosedReason;
use crate::topology::Topology;
use crate::topology::slots::NodeId;
use crate::upstream::dial::Node;
use crate::upstream::lane::{LaneId, LaneKey, LaneState, Patience, Role, Waiter};
use crate::upstream::loss;
use crate::upstream::pinned::{self, Need};
use crate::upstream::pool::{self, NoLane};
use crate::worker::{SharedWorker, Worker};

/// Sessions with detours that may be due, and owners of slots that redirects have named since the
/// last look.
#[derive(Debug, Default)]
pub struct Detouring {
    sessions: Vec<SessionId>,
    /// The same, to be looked up: there may be thousands of them.
    listed: HashSet<SessionId>,
    /// Slots and their owners.
    pub patches: Vec<(u16, NodeId)>,
    /// Sessions whose next command waits for a moment, by that and by their number.
    alarms: BTreeMap<(Micros, u64), SessionId>,
    waker: Option<Waker>,
}

/// Sends what is due, for as long as the worker lives.
pub async fn run(worker: SharedWorker) {
    loop {
        poll_fn(|cx| worker.borrow_mut().detouring.poll_any(cx)).await;
        // Only in times of trouble: a look at a few lists costs less than a precise alarm clock.
        tokio::time::sleep(LOOK_EVERY).await;
        let mut worker = worker.borrow_mut();
        worker.now = clock::micros();
        due(&mut worker);
        flush::touched(&mut worker);
    }
}

/// Publishes what redirects have taught, and sends what may be sent. Not to be called while a lane
/// is lent.
pub fn due(worker: &mut Worker) {
    if !worker.detouring.patches.is_empty() {
        publish(worker);
    }
    ring(worker);
    if worker.detouring.sessions.is_empty() {
        return;
    }
    // Before anything goes to a new node: what waits on lanes to the one before may come first.
    worker.follow_topology();
    worker.detouring.listed.clear();
    for id in std::mem::take(&mut worker.detouring.sessions) {
        advance(worker, id);
    }
    if !worker.to_dial.is_empty() {
        // No session's turn follows that would start them.
        worker.tasks_wanted.notify_one();
    }
}

/// Wakes the sessions whose moment has come.
fn ring(worker: &mut Worker) {
    while let Some(alarm) = worker.detouring.alarms.first_entry()
        && alarm.key().0 <= worker.now
    {
        if let Some(session) = worker.sessions.get_mut(alarm.remove()) {
            worker.touched.mark(session);
        }
    }
}

/// Sends what of one session may be sent.
fn advance(worker: &mut Worker, id: SessionId) {
    let topology = Arc::clone(worker.topology.load());
    let Some(mut session) = worker.sessions.lend(id) else {
        return;
    };
    let mut over = Vec::new();
    let mut is_waiting = false;
    if let Some(mut detours) = session.detours.take() {
        let mut ahead = Ahead::default();
        for detour in detours.iter_mut() {
            let may_go = ahead.lets_pass(detour.slot);
            let Stage::Due { at, to } = detour.stage else {
                continue;
            };
            if !may_go {
                // An ASK holds for the moment in which it was said: later the key may be back where
                // it came from, and the node that ASK named would make a second one.
                detour.stage = Stage::Due { at, to: to.filter(|to| !to.is_asking) };
                continue;
            }
            if at <= worker.now && !launch(worker, &topology, &mut session, detour, to) {
                over.push((detour.waiter.slot, detour.waiter.part()));
            }
            is_waiting |= detour.stage != Stage::OnTheRoad;
        }
        let told: Vec<Detour> = over.iter().filter_map(|&which| detours.remove(which)).collect();
        session.detours = Some(detours).filter(|detours| !detours.is_empty());
        worker.sessions.restore(id, session);
        told.into_iter().for_each(|detour| detour::tell(worker, detour));
    } else {
        worker.sessions.restore(id, session);
    }
    if is_waiting {
        worker.detouring.mark(id);
    }
    // Its later commands may be free to go.
    if let Some(session) = worker.sessions.get_mut(id) {
        worker.touched.mark(session);
    }
}

/// Sends one. Returns false if that is not possible and its time is up.
fn launch(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    detour: &mut Detour,
    to: Option<Aim>,
) -> bool {
    let whole = (&*detour.frame, detour.slot);
    if let Some(refusal) = guards::late(worker, topology, &detour.waiter, whole) {
        worker.stats.writes_guarded.increment();
        detour.answer = Answer::Refusal(refusal);
        return false;
    }
    let owner = destination(topology, detour, to);
    let reader = match to {
        None => keyspaces::stand_in(worker, topology, session, detour, &owner),
        Some(_) => None,
    };
    let is_readonly = reader.is_some() && topology.slots.is_some();
    let node = reader.unwrap_or(owner);
    let waited = worker.now.saturating_sub(detour.since);
    if waited >= loss::GONE_AFTER && session.has_left() {
        // Nothing is executed for somebody who has given up (INV-3), nor what it sent behind it.
        detour.answer = Answer::Refusal(loss::dropped(worker, &detour.waiter, &node));
        session.close(Closing::AfterReplies(ClosedReason::ClientClosed));
        return false;
    }
    let lane = lane_for(worker, topology, session, detour, (&node, is_readonly));
    match lane {
        Ok(lane) => {
            let Some(lane) = worker.lanes.get_mut(lane) else {
                return true;
            };
            let is_asking = to.is_some_and(|to| to.is_asking);
            if is_asking && lane.state != LaneState::Open {
                // By the time that it is, what ASK said may be wrong.
                detour.stage = Stage::Due { at: worker.now + detour::WAIT_FIRST, to: None };
                return true;
            }
            detour.stage = Stage::OnTheRoad;
            detour.hops = detour.hops.saturating_add(1);
            let waiter = Waiter { is_detour: true, ..detour.waiter };
            // What waits for others has waited for a part of its time.
            let waited = worker.now.saturating_sub(waiter.taken_at);
            let rest = remaining::of(&detour.frame, waited).filter(|_| is_waiting(&waiter));
            let frame = Piece::Borrowed(rest.as_deref().unwrap_or(&detour.frame));
            lane.used_at = worker.now;
            worker.unflushed.mark(lane.id, lane.send.unsent() == 0);
            let Worker { shared, stats, pool, .. } = worker;
            follow::enqueue(shared, stats, pool, lane, frame, waiter, is_asking);
        }
        Err(NoLane::Wait) => detour.stage = Stage::Due { at: worker.now + detour::WAIT_FIRST, to },
        Err(NoLane::Refused(refusal)) => {
            worker.shared.map_is_old.notify_one();
            detour.answer = Answer::Refusal(refusal);
            // Where the redirect pointed nobody is: its slot's owner may be somebody else by then.
            detour.stage = Stage::Due { at: worker.now + detour::pause(detour), to: None };
            detour.waits = detour.waits.saturating_add(1);
            let what = (&*detour.frame, detour.since);
            return patience::may_wait(worker, topology, session, &node, what)
                || is_tried_again(worker, topology, detour);
        }
    }
    true
}

/// The lane of a detour to `node`: a connection of its own if it was on one.
fn lane_for(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    detour: &Detour,
    (node, is_readonly): (&Arc<Node>, bool),
) -> Result<LaneId, NoLane> {
    if !matches!(detour.waiter.role, Role::State { .. }) {
        // It goes to its slot's owner, whoever was asked first: should that become a replica, it
        // must say so, unless a replica is what is wanted.
        let key =
            LaneKey { epoch: topology.epoch, node: node.id, is_readonly, ..detour.key.clone() };
        let lane = pool::lane_of(worker, node, key)?;
        return pool::room_on(worker, lane, session);
    }
    let need = if is_waiting(&detour.waiter) { Need::Lasting } else { Need::Brief };
    let lane = pinned::lend(worker, (topology, node), session, detour.key.identity, need)?;
    if let Some(pin) = &mut session.pin {
        pin.lane = Some(lane);
    }
    Ok(lane)
}

/// A single node is tried again for as long as a lane would.
fn is_tried_again(worker: &Worker, topology: &Topology, detour: &Detour) -> bool {
    let window = clock::to_micros(topology.node.settings.retry_window);
    topology.slots.is_none() && worker.now.saturating_sub(detour.since) < window
}

/// Whether a command waits for what other clients do.
pub(super) fn is_waiting(waiter: &Waiter) -> bool {
    waiter.patience == Patience::Endless
}

/// The node to be asked next.
fn destination(topology: &Topology, detour: &Detour, to: Option<Aim>) -> Arc<Node> {
    let slots = topology.slots.as_ref();
    let named = to.and_then(|to| slots?.members.get(to.node));
    let owner = || detour.slot.and_then(|slot| slots?.owner(slot));
    let anybody = || slots?.members.primaries().next().filter(|_| detour.slot.is_some());
    let member = named.or_else(owner).or_else(anybody);
    member.map_or_else(|| cluster::anybody(topology), |member| Arc::clone(&member.node))
}

/// A new map with the owners that redirects have named.
fn publish(worker: &mut Worker) {
    let patches = std::mem::take(&mut worker.detouring.patches);
    let (now, epoch) = (worker.now, worker.topology.load().epoch);
    worker.shared.topology.rcu(|current| {
        let slots = current.slots.as_ref().filter(|_| current.epoch == epoch);
        match slots.and_then(|slots| slots.patched(&patches, now)) {
            Some(slots) => Arc::new(current.with_slots(slots)),
            None => Arc::clone(current),
        }
    });
}

// === impl Detouring ===

impl Detouring {
    /// The session may have something to be sent.
    pub fn mark(&mut self, session: SessionId) {
        if self.listed.insert(session) {
            self.sessions.push(session);
        }
        self.wake();
    }

    /// The session's next command is to be looked at again at that time. Saying so twice is the same
    /// as once.
    pub fn alarm(&mut self, session: SessionId, at: Micros) {
        self.alarms.insert((at, session.number()), session);
        self.wake();
    }

    /// There is something to be looked at.
    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn poll_any(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.sessions.is_empty() || !self.patches.is_empty() || !self.alarms.is_empty() {
            return Poll::Ready(());
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// How often the list is looked at while there is anything on it.
const LOOK_EVERY: Duration = Duration::from_millis(1);

//! Which lane a command goes to, and whether there may be a new one.
//!
//! Owns the choice among a worker's lanes, and their number. Never dials: a new lane is put on the
//! worker's list and its task does the rest. A session asks once a command; the answer is usually
//! the lane that it used last.
//!
//! What surprises: a session with commands in flight stays on its lane, even if another would fit
//! better, unless the new one *must* be another; then it waits until its replies are in (INV-12 c).

use std::sync::Arc;

use crate::clock::{Micros, SECOND};
use crate::refusal::Refusal;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::topology::slots::NodeId;
use crate::upstream::dial::Node;
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Lane, LaneId, LaneKey, LaneState};
use crate::upstream::lane_sets::SetId;
use crate::worker::Worker;

/// Why a command cannot go to a lane now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLane {
    /// It can go later: when its session's replies are in, or when the lane's queue has room.
    Wait,
    /// It cannot go.
    Refused(Refusal),
}

/// The lane for a command of `session` that acts as `identity`; `is_bulk` if it may hold others up.
///
/// # Errors
/// [`NoLane`].
pub fn lane_for(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    is_bulk: bool,
) -> Result<LaneId, NoLane> {
    if session.in_flight > 0 {
        if let Some(refusal) = refusal_while_dialling(worker, &topology.node, session.lane) {
            return Err(NoLane::Refused(refusal));
        }
        return stay_or_wait(worker, topology, session, is_bulk);
    }
    session.epoch = topology.epoch;
    let fitting = session.fitting[usize::from(is_bulk)];
    // While the node is known to be down, those who come wait for nobody: they are told at once.
    if let Some(refusal) = refusal_while_dialling(worker, &topology.node, fitting) {
        return Err(NoLane::Refused(refusal));
    }
    if let Some(id) = fitting
        && let Some(lane) = worker.lanes.get_mut(id)
        && !lane.retired
        && lane.key.epoch == topology.epoch
    {
        return has_room(lane, session, worker.now);
    }
    let key =
        LaneKey { is_bulk, ..LaneKey::of(session, identity, topology.epoch, topology.node.id) };
    let id = find_or_open(worker, &topology.node, key)?;
    session.fitting[usize::from(is_bulk)] = Some(id);
    room_on(worker, id, session)
}

/// The lane to one `node` of several, for a command of `session` that acts as `identity`. All its commands in flight are
/// on fast lanes or all on bulk lanes, whichever the nodes: so what goes to one node keeps its order (INV-12 c).
///
/// # Errors
/// [`NoLane`].
#[inline]
pub fn lane_to(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    node: &Arc<Node>,
    (is_bulk, is_readonly): (bool, bool),
) -> Result<LaneId, NoLane> {
    let is_bulk = stream_for(session, topology, is_bulk).ok_or(NoLane::Wait)?;
    session.epoch = topology.epoch;
    session.stream = Some(is_bulk);
    let kind = usize::from(is_bulk) + 2 * usize::from(is_readonly);
    let key = |session: &Session| LaneKey {
        is_bulk,
        is_readonly,
        ..LaneKey::of(session, identity, topology.epoch, node.id)
    };
    let set = match session.sets[kind] {
        Some(set) if worker.lane_sets.is_of(set, topology.epoch) => set,
        _ => worker.lane_sets.find(&key(session)),
    };
    session.sets[kind] = Some(set);
    if let Some(id) = worker.lane_sets.lane(set, node.id)
        && let Some(lane) = worker.lanes.get_mut(id)
        && !lane.retired
        && lane.state == LaneState::Open
    {
        return has_room(lane, session, worker.now);
    }
    let key = key(session);
    let id = lane_with(worker, node, key, set)?;
    room_on(worker, id, session)
}

/// The lane to the primary `node` of several if it is open and has room: what [`lane_to`] would say, without a look
/// at anything but the lane.
#[inline]
pub fn lane_at_hand(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    node: NodeId,
    is_bulk: bool,
) -> Option<LaneId> {
    let is_bulk = stream_for(session, topology, is_bulk)?;
    let set = session.sets[usize::from(is_bulk)]?;
    if !worker.lane_sets.is_of(set, topology.epoch) {
        return None;
    }
    let lane = worker.lanes.get(worker.lane_sets.lane(set, node)?)?;
    if room_at_hand(lane) == 0 {
        return None;
    }
    session.epoch = topology.epoch;
    session.stream = Some(is_bulk);
    Some(lane.id)
}

/// The row of lanes that small commands of `session` may take now, wherever they go: [`lane_at_hand`] would choose from
/// it, unless earlier ones are on bulk lanes.
pub fn fast_set(worker: &Worker, topology: &Topology, session: &Session) -> Option<SetId> {
    let is_bulk = stream_for(session, topology, false)?;
    let set = session.sets[0].filter(|_| !is_bulk)?;
    worker.lane_sets.is_of(set, topology.epoch).then_some(set)
}

/// The lane to the only node that small commands of `session` may take now, if [`lane_for`] would choose it without
/// opening one.
#[inline]
pub fn fast_lane(worker: &Worker, topology: &Topology, session: &Session) -> Option<LaneId> {
    let fitting = session.fitting[0]?;
    let stays = session.epoch == topology.epoch && session.lane == Some(fitting);
    let lane = worker.lanes.get(fitting)?;
    (lane.key.epoch == topology.epoch && (session.in_flight == 0 || stays)).then_some(fitting)
}

/// How many commands a lane takes more, without being opened or waited for.
#[inline]
pub fn room_at_hand(lane: &Lane) -> usize {
    let is_open = !lane.retired && lane.state == LaneState::Open;
    if !is_open || lane.send.unsent() >= LANE_UNSENT_BYTES_MAX {
        return 0;
    }
    lane.node.health.room().saturating_sub(lane.waiters.len())
}

/// Whether a command goes to a bulk lane, in spite of those in flight before it; `None`: it waits for them.
#[inline]
fn stream_for(session: &Session, topology: &Topology, is_bulk: bool) -> Option<bool> {
    if session.in_flight == 0 {
        return Some(is_bulk);
    }
    // A small command may follow on bulk lanes; a heavy one never on fast ones.
    session.stream.filter(|&stream| session.epoch == topology.epoch && (stream || !is_bulk))
}

/// The lane of `key`, which names `node`, whoever asks.
///
/// # Errors
/// [`NoLane::Refused`].
pub fn lane_of(worker: &mut Worker, node: &Arc<Node>, key: LaneKey) -> Result<LaneId, NoLane> {
    let set = worker.lane_sets.find(&key);
    lane_with(worker, node, key, set)
}

fn lane_with(
    worker: &mut Worker,
    node: &Arc<Node>,
    key: LaneKey,
    set: SetId,
) -> Result<LaneId, NoLane> {
    let id = find_or_open(worker, node, key)?;
    worker.lane_sets.put(set, node.id, id);
    Ok(id)
}

/// What a command is told whose lane has no connection and whose node has just refused one.
fn refusal_while_dialling(worker: &Worker, node: &Node, lane: Option<LaneId>) -> Option<Refusal> {
    let lane = worker.lanes.get(lane?)?;
    if lane.state == LaneState::Open {
        return None;
    }
    node.refusal(worker.now)
}

/// INV-12 a and c: with commands in flight only the same lane will do.
fn stay_or_wait(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    is_bulk: bool,
) -> Result<LaneId, NoLane> {
    let Some(lane) = session.lane.and_then(|id| worker.lanes.get_mut(id)) else {
        return Err(NoLane::Wait);
    };
    let fits = session.fitting[usize::from(lane.key.is_bulk)] == Some(lane.id);
    // A small command may follow on the bulk lane; a heavy one never on the fast lane.
    let may_carry = lane.key.is_bulk || !is_bulk;
    if session.epoch == topology.epoch && fits && may_carry && !lane.retired {
        return has_room(lane, session, worker.now);
    }
    Err(NoLane::Wait)
}

/// The lane `id`, if it has room for one more command of `session`.
///
/// # Errors
/// [`NoLane::Wait`].
pub fn room_on(worker: &mut Worker, id: LaneId, session: &Session) -> Result<LaneId, NoLane> {
    match worker.lanes.get_mut(id) {
        Some(lane) => has_room(lane, session, worker.now),
        None => Err(NoLane::Wait),
    }
}

/// A queue that the node does not empty grows no further: its sessions wait (INV-4). They do not
/// where they would wait for a node that serves nobody.
#[inline]
fn has_room(lane: &mut Lane, session: &Session, now: Micros) -> Result<LaneId, NoLane> {
    if lane_has_room(lane) {
        return Ok(lane.id);
    }
    no_room(lane, session, now)
}

#[inline]
fn lane_has_room(lane: &Lane) -> bool {
    lane.send.unsent() < LANE_UNSENT_BYTES_MAX && lane.waiters.len() < lane.node.health.room()
}

#[cold]
fn no_room(lane: &mut Lane, session: &Session, now: Micros) -> Result<LaneId, NoLane> {
    let has_bytes = lane.send.unsent() < LANE_UNSENT_BYTES_MAX;
    if lane.node.no_room(lane.waiters.len(), now).map_err(NoLane::Refused)? && has_bytes {
        return Ok(lane.id);
    }
    await_room(lane, session);
    Err(NoLane::Wait)
}

/// The session is woken when the queue has room again.
pub fn await_room(lane: &mut Lane, session: &Session) {
    if !lane.backlog.contains(&session.id) {
        lane.backlog.push(session.id);
    }
}

fn find_or_open(worker: &mut Worker, node: &Arc<Node>, key: LaneKey) -> Result<LaneId, NoLane> {
    let (mut open, mut retired) = (0, 0);
    let mut idle = None;
    for id in worker.lanes.keys() {
        let Some(lane) = worker.lanes.get(id) else {
            continue;
        };
        let is_elsewhere = lane.key.epoch != key.epoch || lane.key.node != key.node;
        if is_elsewhere || lane.pinned.is_some() {
            continue;
        }
        if lane.retired {
            // What makes way for a better connection must not keep it out; there are not more of
            // those than lanes either.
            retired += usize::from(!lane.outdated);
            continue;
        }
        if lane.key == key {
            // Others may wait there for the node to come back; who comes while it is down does not.
            return match refusal_while_dialling(worker, node, Some(id)) {
                Some(refusal) => Err(NoLane::Refused(refusal)),
                None => Ok(id),
            };
        }
        open += 1;
        if lane.is_idle() && lane.state == LaneState::Open {
            idle = Some(id);
        }
    }
    if let Some(refusal) = node.refusal(worker.now) {
        return Err(NoLane::Refused(refusal));
    }
    if retired >= node.settings.lanes_max {
        // Clients that do not take their giants hold these; one more connection for each would have
        // no end (INV-9).
        return Err(NoLane::Refused(Refusal::TooManyLanes));
    }
    if open >= node.settings.lanes_max {
        // The place of an idle lane is taken; with none idle the command cannot go anywhere
        // (INV-9).
        let Some(lane) = idle.and_then(|id| worker.lanes.get_mut(id)) else {
            return Err(NoLane::Refused(Refusal::TooManyLanes));
        };
        retire(lane);
        worker.stats.lanes_retired.increment();
    }
    let now = worker.now;
    let node = Arc::clone(node);
    let id = worker.lanes.insert(|id| Lane::new(id, key, node, now));
    worker.to_dial.push(id);
    Ok(id)
}

/// The control plane has reached the node again: lanes that have heard nothing meanwhile may be
/// dead without knowing it. New commands go to fresh ones; the old ones are closed by nobody but
/// their own end (INV-5).
pub fn retire_silent(worker: &mut Worker) {
    let ids: Vec<LaneId> = worker.lanes.keys().collect();
    for id in ids {
        let Some(lane) = worker.lanes.get_mut(id) else {
            continue;
        };
        let silent_for = worker.now.saturating_sub(lane.heard_at);
        // A connection of one session may be silent for hours, and that is what it is for.
        let is_shared = lane.pinned.is_none();
        if is_shared && lane.state == LaneState::Open && !lane.is_idle() && silent_for > SECOND {
            retire(lane);
            worker.stats.lanes_retired.increment();
        }
    }
}

/// Retires the lanes that were made with older credentials, or lead where their name does not lead
/// any more. Whoever comes next opens a fresh one; what is in flight gets its replies.
pub fn retire_outdated(worker: &mut Worker, lane: &mut Lane) {
    if lane.retired || lane.pinned.is_some() || lane.state != LaneState::Open {
        return;
    }
    let node = Arc::clone(&lane.node);
    if !lane.footing.is_outdated(&node, worker.now) {
        return;
    }
    let is_one = |it: &Lane| it.outdated && it.key.node == lane.key.node;
    let leaving = worker.lanes.keys().filter(|&id| worker.lanes.get(id).is_some_and(is_one));
    // The rest follows when these are closed (INV-9).
    if leaving.count() < node.settings.lanes_max {
        lane.outdated = true;
        retire(lane);
        worker.stats.lanes_retired.increment();
    }
}

/// The lane takes no new command and is closed when its last reply is in.
pub fn retire(lane: &mut Lane) {
    lane.retired = true;
    lane.wake();
}

/// Bytes that may wait for one lane's socket; its sessions are not read beyond that.
pub const LANE_UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Commands that may be in flight on one lane.
pub const LANE_WAITERS_MAX: usize = 65_536;

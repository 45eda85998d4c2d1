//! Which lane a command goes to, and whether there may be a new one.
//!
//! Owns the choice among a worker's lanes, their number, and the back-off after a failed dial. Never dials: a new
//! lane is put on the worker's list and its task does the rest. A session asks once a command; the answer is
//! usually the lane that it used last.
//!
//! What surprises: a session with commands in flight stays on its lane, even if another would fit better, unless
//! the new one *must* be another; then it waits until its replies are in (INV-12 c).

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::refusal::Refusal;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::upstream::dial::{DialError, Node};
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Lane, LaneId, LaneKey, LaneState};
use crate::worker::Worker;

/// Why a command cannot go to a lane now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLane {
    /// It can go later: when its session's replies are in, or when the lane's queue has room.
    Wait,
    /// It cannot go.
    Refused(Refusal),
}

/// Whether the node can be reached, as far as this worker has tried.
#[derive(Debug)]
pub struct Reach {
    /// Dials that failed since the last good one.
    failures: u32,
    /// No dial before this moment.
    retry_at: Micros,
    /// Why the last dial failed.
    last_error: Option<DialError>,
    /// Epoch and recoveries of the topology when the failures were counted.
    seen: (u64, u64),
    /// State of the jitter's generator.
    jitter: u64,
    /// Thousandths of commands that may still be sent again (INV-3).
    retry_budget: u64,
    /// When the budget last grew by time.
    retry_budget_at: Micros,
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
        if let Some(refusal) = refusal_while_dialling(worker, topology, session.lane) {
            return Err(NoLane::Refused(refusal));
        }
        return stay_or_wait(worker, topology, session, is_bulk);
    }
    session.epoch = topology.epoch;
    let fitting = session.fitting[usize::from(is_bulk)];
    // While the node is known to be down, those who come wait for nobody: they are told at once.
    if let Some(refusal) = refusal_while_dialling(worker, topology, fitting) {
        return Err(NoLane::Refused(refusal));
    }
    if let Some(id) = fitting
        && let Some(lane) = worker.lanes.get_mut(id)
        && !lane.retired
        && lane.key.epoch == topology.epoch
    {
        return has_room(lane, session);
    }
    let key = LaneKey {
        epoch: topology.epoch,
        identity,
        protocol: session.protocol,
        db: session.db,
        is_bulk,
    };
    let id = find_or_open(worker, topology, key)?;
    session.fitting[usize::from(is_bulk)] = Some(id);
    let Some(lane) = worker.lanes.get_mut(id) else {
        return Err(NoLane::Wait);
    };
    has_room(lane, session)
}

/// What a command is told whose lane has no connection and whose node has just refused one.
fn refusal_while_dialling(
    worker: &Worker,
    topology: &Topology,
    lane: Option<LaneId>,
) -> Option<Refusal> {
    let lane = worker.lanes.get(lane?)?;
    if lane.state == LaneState::Open {
        return None;
    }
    worker.reach.refusal(&topology.node, worker.now)
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
        return has_room(lane, session);
    }
    Err(NoLane::Wait)
}

/// The lane `id`, if it has room for one more command of `session`.
///
/// # Errors
/// [`NoLane::Wait`].
pub fn room_on(worker: &mut Worker, id: LaneId, session: &Session) -> Result<LaneId, NoLane> {
    match worker.lanes.get_mut(id) {
        Some(lane) => has_room(lane, session),
        None => Err(NoLane::Wait),
    }
}

/// A queue that the node does not empty grows no further: its sessions wait (INV-4).
fn has_room(lane: &mut Lane, session: &Session) -> Result<LaneId, NoLane> {
    if lane.send.unsent() < LANE_UNSENT_BYTES_MAX && lane.waiters.len() < LANE_WAITERS_MAX {
        return Ok(lane.id);
    }
    if !lane.backlog.contains(&session.id) {
        lane.backlog.push(session.id);
    }
    Err(NoLane::Wait)
}

fn find_or_open(worker: &mut Worker, topology: &Topology, key: LaneKey) -> Result<LaneId, NoLane> {
    let (mut open, mut retired) = (0, 0);
    let mut idle = None;
    for id in worker.lanes.keys() {
        let Some(lane) = worker.lanes.get(id) else {
            continue;
        };
        if lane.key.epoch != key.epoch || lane.pinned.is_some() {
            continue;
        }
        if lane.retired {
            retired += 1;
            continue;
        }
        if lane.key == key {
            // Others may wait there for the node to come back; who comes while it is down does not.
            return match refusal_while_dialling(worker, topology, Some(id)) {
                Some(refusal) => Err(NoLane::Refused(refusal)),
                None => Ok(id),
            };
        }
        open += 1;
        if lane.is_idle() && lane.state == LaneState::Open {
            idle = Some(id);
        }
    }
    if let Some(refusal) = worker.reach.refusal(&topology.node, worker.now) {
        return Err(NoLane::Refused(refusal));
    }
    if retired >= topology.node.settings.lanes_max {
        // Clients that do not take their giants hold these; one more connection for each would have no end (INV-9).
        return Err(NoLane::Refused(Refusal::TooManyLanes));
    }
    if open >= topology.node.settings.lanes_max {
        // The place of an idle lane is taken; with none idle the command cannot go anywhere (INV-9).
        let Some(lane) = idle.and_then(|id| worker.lanes.get_mut(id)) else {
            return Err(NoLane::Refused(Refusal::TooManyLanes));
        };
        retire(lane);
        worker.stats.lanes_retired.increment();
    }
    let now = worker.now;
    let node = Arc::clone(&topology.node);
    let id = worker.lanes.insert(|id| Lane::new(id, key, node, now));
    worker.to_dial.push(id);
    Ok(id)
}

/// The control plane has reached the node again: lanes that have heard nothing meanwhile may be dead without
/// knowing it. New commands go to fresh ones; the old ones are closed by nobody but their own end (INV-5).
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

/// The lane takes no new command and is closed when its last reply is in.
pub fn retire(lane: &mut Lane) {
    lane.retired = true;
    lane.wake();
}

// === impl Reach ===

impl Default for Reach {
    fn default() -> Self {
        Self {
            failures: 0,
            retry_at: 0,
            last_error: None,
            seen: (0, 0),
            jitter: 0,
            retry_budget: RETRY_BUDGET_START,
            retry_budget_at: 0,
        }
    }
}

impl Reach {
    /// A dial has succeeded.
    pub fn note_success(&mut self) {
        self.failures = 0;
        self.retry_at = 0;
        self.last_error = None;
    }

    /// A dial has failed at `now`: the next one comes after a random part of a growing interval.
    pub fn note_failure(&mut self, error: DialError, now: Micros) {
        let ceiling = (BACKOFF_FIRST << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // Half of the interval is certain, so that "next try in" is never "now".
        self.retry_at = now + ceiling / 2 + self.random() % (ceiling / 2 + 1);
        self.last_error = Some(error);
    }

    /// The control plane has found the node well (again), or it is another node: the back-off is void.
    ///
    /// Returns whether that is news.
    pub fn note_recoveries(&mut self, epoch: u64, recoveries: u64) -> bool {
        let is_news = self.seen != (epoch, recoveries);
        if is_news {
            self.seen = (epoch, recoveries);
            self.note_success();
        }
        is_news
    }

    /// What a command is told while the node is not to be dialled.
    #[must_use]
    pub fn refusal(&self, node: &Node, now: Micros) -> Option<Refusal> {
        let error = self.last_error.as_ref()?;
        let retry_in = self.retry_at.checked_sub(now).filter(|&left| left > 0)?;
        Some(Refusal::NodeDown { node: node.name.clone(), cause: error.cause(), retry_in })
    }

    /// How long until the next dial is allowed.
    #[must_use]
    pub fn pause(&self, now: Micros) -> Duration {
        Duration::from_micros(self.retry_at.saturating_sub(now))
    }

    /// The error of the last dial, if it failed.
    #[must_use]
    pub fn last_error(&self) -> Option<&DialError> {
        self.last_error.as_ref()
    }

    /// What a command is told when the dial that it waited for has failed.
    #[must_use]
    pub fn down(&self, node: &Node, error: &DialError, now: Micros) -> Refusal {
        let retry_in = self.retry_at.saturating_sub(now);
        Refusal::NodeDown { node: node.name.clone(), cause: error.cause(), retry_in }
    }

    /// Commands were sent for the first time: a tenth of them may be sent again.
    pub fn earn_retries(&mut self, commands: u64) {
        self.retry_budget = (self.retry_budget + commands * 100).min(RETRY_BUDGET_MAX);
    }

    /// Whether one more command may be sent again at `now`; five a second always may.
    pub fn spend_retry(&mut self, now: Micros) -> bool {
        let earned = now.saturating_sub(self.retry_budget_at) * 5 / MILLISECOND;
        self.retry_budget = (self.retry_budget + earned).min(RETRY_BUDGET_MAX);
        self.retry_budget_at = now;
        let may = self.retry_budget >= 1000;
        self.retry_budget -= if may { 1000 } else { 0 };
        may
    }

    /// A small generator (xorshift64*) is enough to keep a fleet from dialling in step.
    fn random(&mut self) -> u64 {
        if self.jitter == 0 {
            let mut seed = [0; 8];
            let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed);
            self.jitter = u64::from_le_bytes(seed) | 1;
        }
        self.jitter ^= self.jitter >> 12;
        self.jitter ^= self.jitter << 25;
        self.jitter ^= self.jitter >> 27;
        self.jitter.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Bytes that may wait for one lane's socket; its sessions are not read beyond that.
pub const LANE_UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Commands that may be in flight on one lane.
pub const LANE_WAITERS_MAX: usize = 65_536;
/// Most commands, in thousandths, that one loss may send again.
const RETRY_BUDGET_MAX: u64 = 1_000_000;
/// What a worker starts with: a quiet client's few reads survive a restart of the node as well.
const RETRY_BUDGET_START: u64 = 10_000;
/// First ceiling of the back-off; doubles with each failure.
const BACKOFF_FIRST: Micros = 50 * MILLISECOND;
/// Last ceiling: a node that is back is found within a second even if the control plane is blind.
const BACKOFF_MAX: Micros = SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::labels::DialFailure;

    #[test]
    fn retries_are_a_tenth_of_the_commands_and_five_a_second() {
        let mut reach = Reach::default();
        let first = (0..100).filter(|_| reach.spend_retry(0)).count();
        assert_eq!(first, 10);
        reach.earn_retries(20);
        assert!(reach.spend_retry(0) && reach.spend_retry(0) && !reach.spend_retry(0));
        let later = (0..10).filter(|_| reach.spend_retry(SECOND)).count();
        assert_eq!(later, 5);
    }

    #[test]
    fn the_back_off_grows_to_its_bound_with_jitter_and_ends_with_a_recovery() {
        let mut reach = Reach::default();
        let error = || DialError::new(DialFailure::Refused, "no".into());
        let mut waits = Vec::new();
        for _ in 0..20 {
            reach.note_failure(error(), 1000);
            waits.push(reach.retry_at - 1000);
        }
        assert!(waits[0] >= BACKOFF_FIRST / 2 && waits[0] <= BACKOFF_FIRST);
        assert!(waits[10..].iter().all(|&wait| (BACKOFF_MAX / 2..=BACKOFF_MAX).contains(&wait)));
        assert!(waits[10..].iter().any(|&wait| wait != waits[10]), "without jitter");
        reach.note_recoveries(0, 1);
        assert!(reach.last_error().is_none());
    }
}

//! Which of our own scripts may be running at a node.
//!
//! Owns the sign between a worker, which has handed a script over and waits for its reply, and the
//! [`super::watchdog`] on the control plane: a [`Script`] is alive for as long as not one byte of its
//! reply has come. Workers look ten times a second at the first waiter of each lane, and only a script
//! that has been out for longer than a script should be becomes known here.
//!
//! What surprises: the way of a command does not know of this. A lane drops its [`Sign`] when bytes
//! come or the connection goes, and that is all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::quarantine::Culprit;
use crate::clock::{MILLISECOND, Micros};
use crate::command::spec::{CommandId, builtin_id};
use crate::resp::request::arguments;
use crate::scripts::{hex, parse_sha, sha1};
use crate::upstream::lane::{Lane, Waiter};
use crate::worker::Worker;

/// The scripts of this process that may be running at one node.
#[derive(Debug, Default)]
pub struct Running(Mutex<Vec<Arc<Script>>>);

/// A script that was handed to a node.
#[derive(Debug)]
pub struct Script {
    /// What stops it.
    pub stopped_by: Stopper,
    /// When the kernel had taken all of its command.
    pub handed_at: Micros,
    /// Which one it is; `None` for one inside a transaction.
    pub culprit: Option<Culprit>,
    /// Who sent it, for people.
    pub caller: String,
    /// Its reply has begun, or will never come.
    is_over: AtomicBool,
}

/// Which command stops a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopper {
    /// SCRIPT KILL.
    Script,
    /// FUNCTION KILL.
    Function,
    /// One of the two: what runs stands in a transaction.
    Either,
}

/// What a lane holds while its first waiter's script may be running.
#[derive(Debug)]
pub struct Sign(Arc<Script>);

/// Looks whether the first waiter of a lane waits for a script that takes long, and tells the watchdog.
pub fn look(worker: &Worker, lane: &mut Lane) {
    if lane.paused_at.is_some() && !lane.overdraft {
        // Its reply may have come: it is not read, for a client that does not read.
        lane.running = None;
        return;
    }
    if lane.running.is_some() {
        return;
    }
    let Some(first) = lane.waiters.front().copied() else {
        return;
    };
    let Some(stopped_by) = stopper(first.command) else {
        return;
    };
    // Only what was handed over whole can run, and what has begun to answer runs no more.
    let is_handed = first.end <= lane.send.sent() && !lane.streaming && lane.carry.is_empty();
    let handed = lane.handed.iter().find(|(position, _)| *position >= first.end);
    let Some(&(_, handed_at)) = handed.filter(|_| is_handed) else {
        return;
    };
    if worker.now.saturating_sub(handed_at) < LONG {
        return;
    }
    let culprit = culprit(lane, &first);
    let caller = caller(worker, &first);
    let is_over = AtomicBool::new(false);
    let script = Arc::new(Script { stopped_by, handed_at, culprit, caller, is_over });
    lane.node.running.add(Arc::clone(&script));
    // Whether it keeps the node from serving is known at once then, and not half a second later.
    lane.node.health.suspect();
    lane.running = Some(Sign(script));
}

fn stopper(command: CommandId) -> Option<Stopper> {
    match command {
        EVAL | EVAL_RO | EVALSHA | EVALSHA_RO => Some(Stopper::Script),
        FCALL | FCALL_RO => Some(Stopper::Function),
        EXEC => Some(Stopper::Either),
        _ => None,
    }
}

fn culprit(lane: &Lane, first: &Waiter) -> Option<Culprit> {
    let frame = lane.send.piece(first.start(), first.end)?;
    let word = arguments(frame.bytes()).nth(1)?;
    match first.command {
        EVAL | EVAL_RO => Some(Culprit::script(&sha1(word))),
        EVALSHA | EVALSHA_RO => parse_sha(word).map(|sha| Culprit::script(&sha)),
        FCALL | FCALL_RO => Some(Culprit::function(word)),
        _ => None,
    }
}

/// The client's name and address, as CLIENT LIST shows them.
fn caller(worker: &Worker, first: &Waiter) -> String {
    let Some(session) = worker.sessions.get(first.session) else {
        return "a client that has gone".into();
    };
    let client = &session.client;
    let labels = client.labels.lock().unwrap_or_else(PoisonError::into_inner);
    match String::from_utf8_lossy(&labels.name) {
        name if name.is_empty() => client.address.clone(),
        name => format!("'{name}' ({})", client.address),
    }
}

// === impl Running ===

impl Running {
    /// Those whose replies have not begun.
    #[must_use]
    pub fn own(&self) -> Vec<Arc<Script>> {
        let mut all = self.lock();
        all.retain(|script| !script.is_over());
        all.clone()
    }

    fn add(&self, script: Arc<Script>) {
        let mut all = self.lock();
        // At most one a lane is left then.
        all.retain(|script| !script.is_over());
        all.push(script);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Script>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Script ===

impl Script {
    /// Whether its reply has begun, or will never come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
impl Script {
    /// One that was handed over at that time.
    pub(super) fn plain(handed_at: Micros) -> Self {
        Self {
            stopped_by: Stopper::Script,
            handed_at,
            culprit: None,
            caller: "a test".into(),
            is_over: AtomicBool::new(false),
        }
    }

    /// The same, held by a lane.
    pub(super) fn at(handed_at: Micros) -> Sign {
        Sign(Arc::new(Self::plain(handed_at)))
    }
}

// === impl Sign ===

impl Sign {
    /// What it stands for.
    #[must_use]
    pub fn script(&self) -> &Arc<Script> {
        &self.0
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

// === impl Stopper ===

impl Stopper {
    /// Whether a server that names `needed` as what would stop its script may run ours.
    #[must_use]
    pub fn fits(self, needed: Self) -> bool {
        self == Self::Either || self == needed
    }
}

// === impl Culprit ===

impl Culprit {
    /// A script.
    #[must_use]
    pub fn script(sha: &[u8; 20]) -> Self {
        Self::Script(hex(sha))
    }

    /// A function.
    #[must_use]
    pub fn function(name: &[u8]) -> Self {
        let name = name.get(..name.len().min(NAME_BYTES_MAX)).unwrap_or_default();
        Self::Function(String::from_utf8_lossy(name).into_owned())
    }
}

/// A script that has not answered for so long is worth a look.
const LONG: Micros = 100 * MILLISECOND;
/// Longest name of a function that is told.
const NAME_BYTES_MAX: usize = 128;

const EVAL: CommandId = builtin_id("eval");
const EVAL_RO: CommandId = builtin_id("eval_ro");
const EVALSHA: CommandId = builtin_id("evalsha");
const EVALSHA_RO: CommandId = builtin_id("evalsha_ro");
const EXEC: CommandId = builtin_id("exec");
const FCALL: CommandId = builtin_id("fcall");
const FCALL_RO: CommandId = builtin_id("fcall_ro");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::rig::Rig;

    #[test]
    fn a_lane_that_is_not_read_says_nothing_of_its_script() {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, b"*3\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n0\r\n");
        rig.focus_on(ann).hand_over_all();
        rig.worker.now += 2 * LONG;
        let id = rig.lane_id();
        let mut lane = rig.worker.lanes.lend(id).unwrap();
        look(&rig.worker, &mut lane);
        assert_eq!(lane.node.running.own().len(), 1);
        lane.paused_at = Some(rig.worker.now);
        look(&rig.worker, &mut lane);
        assert!(lane.node.running.own().is_empty(), "its reply may lie in the socket");
        look(&rig.worker, &mut lane);
        assert!(lane.running.is_none() && lane.node.running.own().is_empty());
        lane.overdraft = true;
        look(&rig.worker, &mut lane);
        assert_eq!(lane.node.running.own().len(), 1, "it is read again");
        rig.worker.lanes.restore(id, lane);
    }
}

//! One control connection to one node of a cluster.
//!
//! Owns the connection and its task: it dials, pings, asks what the follower wants to know, and
//! dials again when it is lost. Never carries a client's command, never decides anything about the
//! cluster. Whoever asks waits for as long as it likes; the connection itself is given up only
//! after the bound of the control plane.
//!
//! What surprises: an *error* reply to PING is a sign of life, as with a single node; and a node
//! that wants AUTH while we have no credentials is well, only mute, until some client has lent us
//! its name.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::freshness::Data;
use crate::clock::{self, Micros};
use crate::resp::write;
use crate::stats::labels::ErrorClass;
use crate::topology::facts::{self, Learnt, ask};
use crate::topology::pulse::{Pulse, Role, converse};
use crate::topology::restore::Restorer;
use crate::topology::single::answered;
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::exchange::Exchange;
use crate::worker::Shared;

/// The follower's end of a control connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct Contact {
    /// Who is at the other end.
    pub node: Arc<Node>,
    /// Where questions go. One waits while one is answered; more are not accepted.
    questions: mpsc::Sender<Question>,
    state: Rc<RefCell<State>>,
    task: AbortHandle,
}

/// How a control connection is.
#[derive(Clone, Debug, Default)]
pub enum Standing {
    /// The first dial has not ended.
    #[default]
    Dialling,
    /// It answers.
    Up,
    /// The last dial failed, or the connection was lost.
    Down(DialError),
}

#[derive(Debug, Default)]
struct State {
    standing: Standing,
    /// The node wants AUTH and nobody has lent a name: it answers PING with an error and nothing
    /// else.
    is_stranger: bool,
    /// It would take a name, and has not been lent one that the node refused.
    may_borrow: bool,
    /// The node has wanted AUTH of this connection, which had no credentials.
    wants_auth: bool,
    /// Its version, as far as it told.
    version: Option<String>,
    /// Since when an answer is due.
    asked_at: Option<Micros>,
    /// What it said last of its data.
    data: Option<Data>,
    /// Whether the map calls it a primary; only those are given libraries of functions.
    is_primary: bool,
}

/// What the follower wants to know.
#[derive(Debug)]
enum Question {
    /// The replies to so many commands, spelled out.
    Replies { commands: Vec<u8>, count: usize, answer: oneshot::Sender<Vec<Bytes>> },
    /// Everything that is learnt of a node at the beginning.
    Facts(oneshot::Sender<Learnt>),
}

// === impl Contact ===

impl Contact {
    /// Opens the connection; `changed` is notified whenever its standing changes.
    #[must_use]
    pub fn open(node: &Arc<Node>, shared: &Arc<Shared>, changed: &Rc<Notify>) -> Self {
        // One place: whoever finds it taken asks another node (INV-4).
        let (questions, asked) = mpsc::channel(1);
        let state = Rc::default();
        let task = Task {
            node: Arc::clone(node),
            shared: Arc::clone(shared),
            state: Rc::clone(&state),
            changed: Rc::clone(changed),
            asked,
            restorer: Restorer::of_newcomer(),
        };
        let task = tokio::task::spawn_local(task.run()).abort_handle();
        Self { node: Arc::clone(node), questions, state, task }
    }

    /// How the connection is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.state.borrow().standing.clone()
    }

    /// Whether it answers, and lets nobody wait at the moment.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let state = self.state.borrow();
        let silent_since = state.asked_at.map(|asked_at| asked_at + SILENT_AFTER);
        matches!(state.standing, Standing::Up)
            && silent_since.is_none_or(|since| clock::micros() < since)
    }

    /// Whether the node wants AUTH, and we cannot.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        self.state.borrow().is_stranger
    }

    /// Whether strangers have to authenticate themselves there.
    #[must_use]
    pub fn wants_auth(&self) -> bool {
        self.state.borrow().wants_auth
    }

    /// What the map says of it.
    pub fn set_primary(&self, is_primary: bool) {
        self.state.borrow_mut().is_primary = is_primary;
    }

    /// What it said last of its data; `None` if it has not, or is not connected.
    #[must_use]
    pub fn data(&self) -> Option<Data> {
        self.state.borrow().data
    }

    /// The version of the server, once it has told.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        self.state.borrow().version.clone()
    }

    /// Asks; the replies come in the order of `commands`. `None` at once if the connection is not
    /// ready for it, later if it is lost meanwhile.
    pub fn ask(&self, commands: &[&[&[u8]]]) -> Option<oneshot::Receiver<Vec<Bytes>>> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| write::command(&mut bytes, command));
        let (answer, replies) = oneshot::channel();
        let count = commands.len();
        self.send(Question::Replies { commands: bytes, count, answer })?;
        Some(replies)
    }

    /// Asks for all that is learnt of a node at the beginning.
    pub fn learn(&self) -> Option<oneshot::Receiver<Learnt>> {
        let (answer, learnt) = oneshot::channel();
        self.send(Question::Facts(answer))?;
        Some(learnt)
    }

    /// Hands the question over. A contact that is busy with another one already is not waited for:
    /// whoever asks has others to turn to.
    fn send(&self, question: Question) -> Option<()> {
        if !self.is_up() {
            return None;
        }
        self.questions.try_send(question).ok()
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connection's end of it.
struct Task {
    node: Arc<Node>,
    shared: Arc<Shared>,
    state: Rc<RefCell<State>>,
    changed: Rc<Notify>,
    asked: mpsc::Receiver<Question>,
    restorer: Restorer,
}

// === impl Task ===

impl Task {
    /// Until it is aborted.
    async fn run(mut self) {
        let mut pulse = Pulse::of(&self.node, false, ROLE_EVERY);
        loop {
            let Err(error) = self.converse(&mut pulse).await;
            pulse.lost(&error);
            self.set(Standing::Down(error));
            // Whoever asked meanwhile hears at once that there will be no answer.
            while self.asked.try_recv().is_ok() {}
        }
    }

    /// Changes the standing and tells the follower. Nothing is due on a connection that has just
    /// been made or lost.
    fn set(&self, standing: Standing) {
        let mut state = self.state.borrow_mut();
        (state.standing, state.asked_at) = (standing, None);
        state.data = None;
        self.changed.notify_one();
    }

    /// One connection, from the dial to its loss.
    async fn converse(&mut self, pulse: &mut Pulse) -> Result<std::convert::Infallible, DialError> {
        // Within connect_timeout, the handshake included.
        let mut exchange = pulse.connect(&Purpose::control("breakwater:control")).await?;
        self.state.borrow_mut().wants_auth = false;
        self.restorer.connected();
        self.beat(pulse, &mut exchange).await?;
        // Before it is reported as well: clients may be calling already.
        self.restore(&mut exchange).await?;
        let version = pulse.answered(facts::version(&mut exchange)).await?;
        self.state.borrow_mut().version = version;
        self.set(Standing::Up);
        loop {
            tokio::select! {
                question = self.asked.recv() => {
                    // Without a follower this task is about to be aborted.
                    let Some(question) = question else { return std::future::pending().await };
                    self.awaits_answer(true);
                    answer(pulse, &mut exchange, question).await?;
                }
                () = until_beat(pulse, &self.state, &self.shared) => {
                    self.awaits_answer(true);
                    self.beat(pulse, &mut exchange).await?;
                    answered(dial::renew(&self.node, &mut exchange)).await?;
                    self.restore(&mut exchange).await?;
                }
            }
            self.awaits_answer(false);
        }
    }

    /// Notes since when the node lets us wait, so that nobody else turns to it meanwhile.
    fn awaits_answer(&self, does: bool) {
        self.state.borrow_mut().asked_at = does.then(clock::micros);
    }

    /// Loads what a primary has forgotten, where that is allowed. A replica gets it from its
    /// primary.
    async fn restore(&mut self, exchange: &mut Exchange) -> Result<(), DialError> {
        // The borrow must end before the first await.
        let is_due = {
            let state = self.state.borrow();
            state.is_primary && !state.is_stranger
        };
        if is_due { self.restorer.look(&self.shared, &self.node, exchange).await } else { Ok(()) }
    }

    /// Any reply will do. If it is that strangers are not welcome, and a client has proven a name,
    /// that name is lent.
    async fn beat(&self, pulse: &mut Pulse, exchange: &mut Exchange) -> Result<(), DialError> {
        pulse.expects_primary = self.state.borrow().is_primary;
        let beat = pulse.beat(exchange).await?;
        let mut is_stranger = beat.error == Some(ErrorClass::Noauth);
        let wants_auth = is_stranger;
        // What a client has proven to this deployment may be refused by this node: its ACL is its
        // own.
        let mut is_refused = false;
        if is_stranger && let Some(presented) = self.shared.identities.any() {
            let auth: [&[u8]; 3] = [b"AUTH", presented.user(), &presented.password];
            is_stranger = pulse.answered(ask(exchange, &auth)).await?.first() != Some(&b'+');
            is_refused = is_stranger;
        }
        let mut state = self.state.borrow_mut();
        state.may_borrow = is_stranger && !is_refused;
        if beat.was_asked_role {
            state.data = beat.role.as_ref().and_then(data);
        }
        state.wants_auth |= wants_auth;
        if std::mem::replace(&mut state.is_stranger, is_stranger) != is_stranger {
            self.changed.notify_one();
        }
        Ok(())
    }
}

/// Until the next beat is due; less if a client proves a name that a mute connection needs. Its
/// next command wants the slot map.
async fn until_beat(pulse: &Pulse, state: &RefCell<State>, shared: &Shared) {
    let lent = async {
        while !(state.borrow().may_borrow && shared.identities.any().is_some()) {
            sleep(LOAN_EVERY).await;
        }
    };
    let is_mute = state.borrow().may_borrow;
    tokio::select! {
        () = pulse.due() => {}
        () = lent, if is_mute => {}
    }
}

/// What a role says of a node's data.
pub(in crate::topology) fn data(role: &Role) -> Option<Data> {
    match role {
        Role::Primary { offset, .. } => Some(Data { is_apart: false, offset: Some(*offset) }),
        Role::Replica { is_linked, offset } => Some(Data { is_apart: !is_linked, offset: *offset }),
        Role::Sentinel => None,
    }
}

/// Asks the node, within the bound of the control plane. That nobody waits for the answer any more
/// does not matter.
async fn answer(
    pulse: &Pulse,
    exchange: &mut Exchange,
    question: Question,
) -> Result<(), DialError> {
    match question {
        Question::Replies { commands, count, answer } => {
            let replies = pulse.answered(converse(exchange, &commands, count)).await?;
            let _ = answer.send(replies);
        }
        Question::Facts(answer) => {
            let learnt = pulse.answered(facts::learn(exchange)).await?;
            let _ = answer.send(learnt);
        }
    }
    Ok(())
}

/// With which beats ROLE is asked: each second, because replicas are compared with what it says.
const ROLE_EVERY: u64 = 2;
/// How often a mute connection looks for a name that it could borrow.
const LOAN_EVERY: Duration = Duration::from_millis(10);
/// Whoever lets us wait for so long is not asked anything else.
const SILENT_AFTER: Micros = clock::SECOND;

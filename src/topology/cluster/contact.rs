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
use redis_protocol::resp2;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::freshness::Data;
use crate::clock::{self, Micros};
use crate::events;
use crate::resp::write;
use crate::topology::facts::{self, Learnt, ask};
use crate::topology::restore::Restorer;
use crate::topology::single::answered;
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::exchange::{Exchange, ExchangeError};
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
        let mut failures = 0_u32;
        loop {
            let Err(error) = self.converse(&mut failures).await;
            events::dial_failed(&self.node.name, error.cause(), &error.text);
            self.set(Standing::Down(error));
            // Whoever asked meanwhile hears at once that there will be no answer.
            while self.asked.try_recv().is_ok() {}
            // Without jitter on purpose: one connection a node and process, bounded by its own
            // pace.
            sleep(BACKOFF_FIRST * (1 << failures.min(5))).await;
            failures = failures.saturating_add(1);
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

    /// One connection, from the dial to its loss; `failures` is set back as soon as the node has
    /// answered.
    async fn converse(
        &mut self,
        failures: &mut u32,
    ) -> Result<std::convert::Infallible, DialError> {
        // Within connect_timeout, the handshake included.
        let mut exchange = dial::dial(&self.node, &Purpose::control("breakwater:control")).await?;
        self.state.borrow_mut().wants_auth = false;
        self.restorer.connected();
        self.ping(&mut exchange).await?;
        // Before it is reported as well: clients may be calling already.
        self.restore(&mut exchange).await?;
        let version = answered(facts::version(&mut exchange)).await?;
        self.state.borrow_mut().version = version;
        // Only a node that answers ends the growing pauses: one that accepts and says nothing does
        // not.
        *failures = 0;
        self.set(Standing::Up);
        loop {
            tokio::select! {
                question = self.asked.recv() => {
                    // Without a follower this task is about to be aborted.
                    let Some(question) = question else { return std::future::pending().await };
                    self.awaits_answer(true);
                    answer(&mut exchange, question).await?;
                }
                () = until_ping(&self.state, &self.shared) => {
                    self.awaits_answer(true);
                    self.ping(&mut exchange).await?;
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
    async fn ping(&self, exchange: &mut Exchange) -> Result<(), DialError> {
        let mut bytes = Vec::new();
        write::command(&mut bytes, &[b"PING"]);
        write::command(&mut bytes, &[b"ROLE"]);
        let replies = answered(converse(exchange, &bytes, 2)).await?;
        let reply = replies.first().cloned().unwrap_or_default();
        let mut is_stranger = reply.starts_with(b"-NOAUTH");
        // What a client has proven to this deployment may be refused by this node: its ACL is its
        // own.
        let mut is_refused = false;
        if is_stranger && let Some(presented) = self.shared.identities.any() {
            let auth: [&[u8]; 3] = [b"AUTH", presented.user(), &presented.password];
            is_stranger = answered(ask(exchange, &auth)).await?.first() != Some(&b'+');
            is_refused = is_stranger;
        }
        let mut state = self.state.borrow_mut();
        state.may_borrow = is_stranger && !is_refused;
        state.data = replies.get(1).and_then(data);
        state.wants_auth |= reply.starts_with(b"-NOAUTH");
        if std::mem::replace(&mut state.is_stranger, is_stranger) != is_stranger {
            self.changed.notify_one();
        }
        Ok(())
    }
}

/// A second; less if a client proves a name that a mute connection needs. Its next command wants
/// the slot map.
async fn until_ping(state: &RefCell<State>, shared: &Shared) {
    let ping_at = clock::micros() + PING_EVERY;
    loop {
        sleep(LOAN_EVERY).await;
        let may_borrow = state.borrow().may_borrow;
        let is_lent = may_borrow && shared.identities.any().is_some();
        if is_lent || clock::micros() >= ping_at {
            return;
        }
        if !may_borrow {
            return sleep(Duration::from_micros(ping_at.saturating_sub(clock::micros()))).await;
        }
    }
}

/// What a reply to ROLE says of a node's data.
fn data(reply: &Bytes) -> Option<Data> {
    let (frame, _) = resp2::decode::decode_bytes(reply).ok()??;
    let BytesFrame::Array(parts) = frame else {
        return None;
    };
    let number = |place: usize| match parts.get(place) {
        Some(BytesFrame::Integer(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    match parts.first()?.as_bytes()? {
        b"master" => Some(Data { is_apart: false, offset: number(1)? }),
        b"slave" => {
            let is_apart = parts.get(3)?.as_bytes()? != b"connected";
            Some(Data { is_apart, offset: number(4).unwrap_or(0) })
        }
        _ => None,
    }
}

/// Asks the node, within the bound of the control plane. That nobody waits for the answer any more
/// does not matter.
async fn answer(exchange: &mut Exchange, question: Question) -> Result<(), DialError> {
    match question {
        Question::Replies { commands, count, answer } => {
            let replies = answered(converse(exchange, &commands, count)).await?;
            let _ = answer.send(replies);
        }
        Question::Facts(answer) => {
            let learnt = answered(facts::learn(exchange)).await?;
            let _ = answer.send(learnt);
        }
    }
    Ok(())
}

/// Sends `commands` at once and reads their replies.
async fn converse(
    exchange: &mut Exchange,
    commands: &[u8],
    count: usize,
) -> Result<Vec<Bytes>, ExchangeError> {
    exchange.send(commands).await?;
    let mut replies = Vec::with_capacity(count);
    for _ in 0..count {
        replies.push(exchange.reply().await?);
    }
    Ok(replies)
}

/// How often an idle connection is used; any reply is a sign of life.
const PING_EVERY: Micros = clock::SECOND;
/// How often a mute connection looks for a name that it could borrow.
const LOAN_EVERY: Duration = Duration::from_millis(10);
/// Whoever lets us wait for so long is not asked anything else.
const SILENT_AFTER: Micros = clock::SECOND;
/// First pause after a failure; doubles five times.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

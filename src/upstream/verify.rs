//! Taking a client's password to the node (`auth = "passthrough"`).
//!
//! Owns the dial that asks "is this user who it says it is?" and the reading of the answer. Never
//! lets a client in by itself: only the node's own `+OK` does. One dial at a time for a worker,
//! lanes included, and one question at a time for a session, so that no client can make us open
//! many connections (INV-9).
//!
//! What surprises: many clients of one application connect at the same moment with the same
//! password. They queue here, the first asks, and the others find its answer when their turn comes.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::events;
use crate::resp::write::{self, Protocol};
use crate::session::flush;
use crate::session::local::auth;
use crate::session::local::hello::Hello;
use crate::session::replies::Sequence;
use crate::session::state::SessionId;
use crate::stats::labels::DialFailure;
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::health::chart::Signal;
use crate::upstream::identity::{Identity, Presented};
use crate::worker::{SharedWorker, Worker};

/// A question to the node, asked by an AUTH or HELLO whose reply slot is open.
#[derive(Debug)]
pub struct Verification {
    /// Whose; it is suspended until the answer is in.
    pub session: SessionId,
    /// Where the reply goes.
    pub slot: Sequence,
    /// Whether the client does not want to see it (CLIENT REPLY).
    pub is_muted: bool,
    /// Who the client says it is.
    pub presented: Presented,
    /// What is to be done once that is confirmed.
    pub then: Then,
}

/// What is to be done once a client has been confirmed.
#[derive(Debug)]
pub enum Then {
    /// Answer its AUTH.
    Auth,
    /// Go on with its HELLO.
    Hello(Hello),
}

/// What became of a question.
#[derive(Debug)]
pub enum Verdict {
    /// The client is who it says; its commands go to lanes of this identity.
    Confirmed(Identity),
    /// It is not, or nobody could be asked; the whole error line for the client.
    Refused(Vec<u8>),
}

/// Asks the node and finishes the command that wanted to know. `dialling` has one permit for the
/// whole worker.
pub async fn verify(worker: SharedWorker, mut request: Verification, dialling: Rc<Semaphore>) {
    loop {
        let Some(verdict) = judge(&worker, &request, &dialling).await else {
            return;
        };
        let mut worker = worker.borrow_mut();
        let topology = worker.begin_batch();
        let more = auth::conclude(&mut worker, &topology, request, verdict);
        flush::touched(&mut worker);
        match more {
            Some(next) => request = next,
            None => return,
        }
    }
}

/// The verdict; `None` if the client has gone and nobody wants to know.
async fn judge(
    worker: &SharedWorker,
    request: &Verification,
    dialling: &Semaphore,
) -> Option<Verdict> {
    // The semaphore is never closed; without a permit the dial is merely not limited.
    let _permit = dialling.acquire().await.ok();
    let node = match before_dial(&mut worker.borrow_mut(), request)? {
        Before::Known(verdict) => return Some(verdict),
        Before::Ask(node) => node,
    };
    let purpose = Purpose {
        protocol: Protocol::Resp2,
        db: 0,
        presented: Some(request.presented.clone()),
        may_be_stranger: false,
        wants_id: false,
        is_readonly: false,
        label: "breakwater:auth".into(),
    };
    // The connection is closed again: lanes are opened when a command wants one.
    let result = dial::dial(&node, &purpose).await.map(drop);
    Some(after_dial(&mut worker.borrow_mut(), &node, &request.presented, result))
}

/// What can be said when a question's turn has come.
enum Before {
    /// It has been answered meanwhile, or the node cannot be asked now.
    Known(Verdict),
    /// This node is to be asked.
    Ask(Arc<Node>),
}

/// Looks again before dialling; `None` if the client has gone.
fn before_dial(worker: &mut Worker, request: &Verification) -> Option<Before> {
    if !worker.sessions.contains(request.session) {
        return None;
    }
    // While this question waited for its turn another one may have answered it.
    let topology = worker.begin_batch();
    if let Some(identity) = worker.shared.identities.lookup(&request.presented, worker.now) {
        return Some(Before::Known(Verdict::Confirmed(identity)));
    }
    if let Some(words) = worker.shared.identities.refusal(&request.presented, worker.now) {
        let mut line = Vec::new();
        write::error(&mut line, &words);
        return Some(Before::Known(Verdict::Refused(line)));
    }
    // A node that has just been found dead is not dialled for every client that tries.
    if let Some(refusal) = topology.node.refusal(worker.now) {
        let mut line = Vec::new();
        refusal.write(&mut line);
        return Some(Before::Known(Verdict::Refused(line)));
    }
    if let Err(error) = topology.node.health.begin_dial(worker.now) {
        let mut line = Vec::new();
        topology.node.down(&error, worker.now).write(&mut line);
        return Some(Before::Known(Verdict::Refused(line)));
    }
    worker.stats.dials_started.increment();
    Some(Before::Ask(Arc::clone(&topology.node)))
}

/// Reads the outcome of the dial: the node's word, or why it could not be asked.
fn after_dial(
    worker: &mut Worker,
    node: &Node,
    presented: &Presented,
    result: Result<(), DialError>,
) -> Verdict {
    // The dial took its time: the clock is read anew.
    worker.begin_batch();
    let now = worker.now;
    let mut line = Vec::new();
    match result {
        Ok(()) => {
            node.note(Signal::Dialled, now);
            match worker.shared.identities.confirm(presented, now) {
                Ok(identity) => return Verdict::Confirmed(identity),
                Err(error) => write::error(
                    &mut line,
                    &format!("ERR breakwater: not authenticated: {error}; let clients share users"),
                ),
            }
        }
        Err(error) => {
            worker.stats.dial_failed(error.failure).increment();
            if is_answer(&error) {
                // The node is well and has spoken: its words are the client's answer.
                worker.shared.identities.refuse(presented, &error.text, now);
                write::error(&mut line, &error.text);
            } else {
                if !matches!(error.failure, DialFailure::Protocol | DialFailure::Other) {
                    node.note(Signal::DialFailed { error: &error, is_probe: false }, now);
                }
                events::dial_failed(&node.name, error.cause(), &error.text);
                node.down(&error, now).write(&mut line);
            }
        }
    }
    Verdict::Refused(line)
}

/// Whether the error is the node's answer to AUTH, and not a failure to ask. AUTH is the only step
/// of this handshake that must succeed; servers before 6.0 say `ERR invalid password`, which has no
/// class of its own.
fn is_answer(error: &DialError) -> bool {
    match error.failure {
        DialFailure::Auth => true,
        DialFailure::Protocol => error.text.starts_with("ERR "),
        _ => false,
    }
}

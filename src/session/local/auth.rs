//! AUTH: who a client says it is, and who decides whether that is so.
//!
//! Owns the three ways of a listener: its own users (hashes compared here), nobody (`upstream`: all
//! clients share the URL's identity, and the answers are those of a Redis whose default user has no
//! password), and the node (`passthrough`: a password that it has not confirmed within the last
//! minute is taken to it). Never shows, logs or keeps a password; a failed AUTH leaves the client
//! who it was, as in Redis.
//!
//! What surprises: a question to the node takes time, and nothing of the session is dispatched
//! until it is answered (INV-12 c), but the reply slot is open already, so that earlier replies
//! flow.

use crate::clock::Micros;
use crate::command::Command;
use crate::config::Auth;
use crate::resp::write;
use crate::session::gate::{DEFAULT_USER, Gate};
use crate::session::pinned;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::upstream::identity::{Identity, Presented};
use crate::upstream::verify::{Then, Verdict, Verification};
use crate::worker::{Shared, Worker};

use super::hello::{self, Progress};

/// What can be said of credentials at once.
#[derive(Debug)]
pub(super) enum Judged {
    /// They are right; this is who the client is upstream.
    Granted(Identity),
    /// They are wrong.
    Denied,
    /// Only the node knows.
    AskNode(Presented),
}

/// AUTH: one argument is a password of the user `default`, two are user and password.
pub(super) fn auth(worker: &mut Worker, session: &mut Session, command: Command<'_>) {
    // The table demands one argument at least; too many are a matter of syntax, not of arity.
    let (user, password) = match (command.len(), command.argument(1), command.argument(2)) {
        (2, Some(password), _) => (None, password),
        (3, Some(user), Some(password)) => (Some(user), password),
        _ => return worker.answer(session, super::syntax_error),
    };
    // Before anything is compared: an application that sends a password where none is set is
    // configured wrongly, and Redis tells it so.
    if user.is_none() && is_default_open(&session.gate) {
        return worker.answer(session, |line| write::error(line, NO_PASSWORD_SET));
    }
    match judge(&worker.shared, &session.gate, worker.now, user, password) {
        Judged::Granted(identity) => {
            grant(session, identity, user);
            worker.answer(session, super::ok);
        }
        Judged::Denied => worker.answer(session, |line| write::error(line, WRONG_PASSWORD)),
        Judged::AskNode(presented) => ask_node(worker, session, presented, Then::Auth),
    }
}

/// Judges credentials by the rules of the listener; `user` is `None` where only a password was
/// given.
pub(super) fn judge(
    shared: &Shared,
    gate: &Gate,
    now: Micros,
    user: Option<&[u8]>,
    password: &[u8],
) -> Judged {
    let name = user.unwrap_or(DEFAULT_USER.as_bytes());
    // Names are compared whole and with their case, unlike option words.
    let is_right = match &gate.auth {
        Auth::Users(users) => Gate::is_user(users, name, password),
        Auth::Upstream => name == DEFAULT_USER.as_bytes(),
        // What nobody can have as a password is not carried to the node (INV-4).
        Auth::Passthrough if name.len() + password.len() > PRESENTED_BYTES_MAX => false,
        Auth::Passthrough => {
            let presented = Presented { user: user.map(Into::into), password: password.into() };
            return match shared.identities.lookup(&presented, now) {
                Some(identity) => Judged::Granted(identity),
                None => Judged::AskNode(presented),
            };
        }
    };
    // These clients are told apart here only; to the node they all are who the URL says.
    if is_right { Judged::Granted(Identity::UPSTREAM) } else { Judged::Denied }
}

/// Whether the user `default` needs no password, as far as that is decided here. With `passthrough`
/// the node says it itself.
fn is_default_open(gate: &Gate) -> bool {
    match &gate.auth {
        Auth::Upstream => true,
        Auth::Passthrough => false,
        Auth::Users(users) => users.iter().any(|user| user.name == DEFAULT_USER && user.nopass),
    }
}

/// Makes the client the user that it proved to be. Its later commands go to lanes of that identity.
pub(super) fn grant(session: &mut Session, identity: Identity, user: Option<&[u8]>) {
    if session.identity != Some(identity) {
        session.identity = Some(identity);
        session.forget_lanes();
    }
    let user = user.unwrap_or(DEFAULT_USER.as_bytes());
    session.client.relabel(|labels| labels.user = user.to_vec());
}

/// Opens the reply slot and leaves the rest to a task; nothing more is dispatched meanwhile.
pub(super) fn ask_node(
    worker: &mut Worker,
    session: &mut Session,
    presented: Presented,
    then: Then,
) {
    // INV-12: what comes behind this command must not run as who the client was before.
    session.suspended = true;
    worker.to_verify.push(Verification {
        session: session.id,
        slot: session.replies.open(),
        is_muted: session.is_muted(),
        presented,
        then,
    });
    session.end_of_command();
}

/// Goes on with an AUTH or HELLO once the node's verdict is in: answers it and lets the session go
/// on. Returns the next question if the same HELLO presents more credentials.
pub fn conclude(
    worker: &mut Worker,
    topology: &Topology,
    request: Verification,
    verdict: Verdict,
) -> Option<Verification> {
    // A client that has gone meanwhile is owed nothing.
    let mut session = worker.sessions.lend(request.session)?;
    let (slot, is_muted) = (request.slot, request.is_muted);
    let before = session.identity;
    let reply = match verdict {
        Verdict::Refused(line) => line,
        Verdict::Confirmed(identity) => {
            // Its earlier commands are still on lanes of who it was; later ones wait for them
            // (INV-12 c).
            grant(&mut session, identity, request.presented.user.as_deref());
            match go_on(worker, topology, &mut session, request.then) {
                Progress::Answer(reply) => reply,
                Progress::AskNode(presented, rest) => {
                    let (session_id, then) = (session.id, Then::Hello(rest));
                    worker.sessions.restore(session_id, session);
                    let session = session_id;
                    return Some(Verification { session, slot, is_muted, presented, then });
                }
            }
        }
    };
    pinned::follow_identity(worker, &mut session, before);
    session.complete(&mut worker.pool, slot, if is_muted { &[] } else { &reply });
    // Only now may its input be dispatched again; its task is woken for what has piled up.
    session.suspended = false;
    worker.touched.mark(&mut session);
    session.wake();
    worker.sessions.restore(request.session, session);
    None
}

/// What follows a confirmation: AUTH is done, a HELLO has more to do.
fn go_on(worker: &Worker, topology: &Topology, session: &mut Session, then: Then) -> Progress {
    match then {
        Then::Auth => Progress::Answer(b"+OK\r\n".to_vec()),
        Then::Hello(rest) => hello::proceed(&worker.shared, worker.now, topology, session, rest),
    }
}

/// Redis's words for wrong credentials.
pub(super) const WRONG_PASSWORD: &str =
    "WRONGPASS invalid username-password pair or user is disabled.";
/// Redis's words for a password where none is needed.
const NO_PASSWORD_SET: &str = "ERR AUTH <password> called without any password configured for the \
default user. Are you sure your configuration is correct?";
/// Longest user and password together that are taken to a node; tokens of cloud providers are below
/// 4 KiB.
const PRESENTED_BYTES_MAX: usize = 64 * 1024;

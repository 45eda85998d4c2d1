//! Errands: what a session's next command must know before it may go.
//!
//! Owns the sending of an errand's questions and the taking of their answers. A question goes the
//! way of any command of the session (to the owner of its slot, followed through redirects), so what
//! it tells is what the command would meet. Never decides anything.
//!
//! What surprises: the session's command has *waited* meanwhile. It was not taken; it is dispatched
//! again from the beginning when the last answer is in, and then finds the errand done.

use super::{Dispatched, Settled, deliver, go, renamed};
use crate::buffer::Piece;
use crate::route::frame;
use crate::session::errand::Answer;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Role, Waiter};
use crate::worker::{Capture, Worker};

/// Sends what is still to be asked, as far as it can be sent now. Whoever calls this tells the
/// command that it is for to wait.
pub fn go_on(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
) -> Dispatched {
    let is_own = session.errand.as_ref().is_some_and(|errand| errand.due > 0);
    if session.pin.is_some() && session.in_flight > 0 && !is_own {
        // On its own connection a question would be queued with the transaction: it finds a shared
        // one when nothing of the session is under way.
        return Dispatched::Wait;
    }
    // Each answer wakes the session, so the next ones follow.
    while let Some(question) = next(session) {
        // The reply that the client does not want to see is that of its own command.
        let mode = std::mem::take(&mut session.reply_mode);
        let before = worker.capture.replace(Capture::default());
        let sent = frame::with_command(&topology.table, &question, |command, spec| {
            let bytes = renamed(spec, command, Piece::Borrowed(&question));
            go(worker, topology, session, identity, (spec, Role::Errand), *command, bytes)
        });
        let refused = std::mem::replace(&mut worker.capture, before).unwrap_or_default();
        session.reply_mode = mode;
        let Some(errand) = &mut session.errand else {
            break;
        };
        match sent {
            Some(Dispatched::Wait) => {
                errand.questions.push_front(question);
                break;
            }
            Some(Dispatched::Done) if refused.bytes.is_empty() => errand.due += 1,
            Some(Dispatched::Done) if refused.bytes.starts_with(b"-") => {
                errand.answers.push(Answer::Failed(refused.bytes, refused.refusal.map(Box::new)));
            }
            // Known without asking: a scan that is over.
            Some(Dispatched::Done) => errand.answers.push(Answer::Reply(refused.bytes)),
            None => errand.answers.push(Answer::Reply(UNKNOWN.to_vec())),
        }
    }
    let slot = session.replies.next();
    if let Some(errand) = &mut session.errand {
        errand.slots.end = slot;
    }
    if session.errand.as_ref().is_some_and(|errand| errand.is_done()) {
        // No reply will wake it.
        worker.detouring.alarm(session.id, worker.now);
    }
    Dispatched::Wait
}

/// The next question to be sent, if not too many are under way.
fn next(session: &mut Session) -> Option<Vec<u8>> {
    let errand = session.errand.as_mut().filter(|errand| errand.due < DUE_MAX)?;
    errand.questions.pop_front()
}

/// What became of a question.
pub fn answered(worker: &mut Worker, waiter: &Waiter, settled: Settled<'_>) {
    let session = worker.sessions.get_mut(waiter.session);
    let session = session.filter(|session| session.replies.is_waiting(waiter.slot));
    let errand = session.and_then(|session| session.errand.as_mut());
    if let Some(errand) = errand.filter(|errand| errand.slots.contains(&waiter.slot)) {
        errand.due = errand.due.saturating_sub(1);
        errand.answers.push(match &settled {
            Settled::Reply { bytes, earlier: 0, .. } => Answer::Reply(bytes.to_vec()),
            Settled::Reply { bytes, earlier, .. } => Answer::TooLarge(earlier + bytes.len() as u64),
            Settled::Failed { refusal, .. } => {
                let mut line = Vec::new();
                refusal.write(&mut line);
                Answer::Failed(line, Some(Box::new(refusal.clone())))
            }
        });
    }
    deliver(worker, waiter, settled);
}

/// Most questions of a session under way at once: others have commands for the same connection.
const DUE_MAX: u32 = 256;
/// What an upstream says that does not know the question.
const UNKNOWN: &[u8] = b"-ERR unknown command\r\n";

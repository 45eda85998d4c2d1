//! The first word of *not executed* while the upstream is away.
//!
//! Owns the one place where an error of ours may begin with a word that libraries answer by sending
//! again ([`UnavailableError`]), and what makes that safe: such a library repeats all that it had
//! sent together (INV-3). So the word is only said when nothing of that has run, and it is the last
//! that its connection says, so that nothing of it runs afterwards.
//!
//! What surprises: a pipeline may reach us in pieces, and nothing in the bytes says so. What came
//! before is told apart by time ([`crate::session::quiet`]); what comes behind is not read.

use super::{Dispatched, abort_transaction};
use crate::clock::Micros;
use crate::command::spec::Spec;
use crate::config::UnavailableError;
use crate::refusal::Refusal;
use crate::session::replies::Sequence;
use crate::session::state::{Closing, Session};
use crate::stats::labels::{ClosedReason, Outcome};
use crate::topology::Topology;
use crate::worker::Worker;

/// As [`super::refuse`], for what the node is to blame for.
pub fn not_executed(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    refusal: &Refusal,
) -> Dispatched {
    let taken_at = worker.now;
    not_executed_since(worker, session, spec, refusal, taken_at)
}

/// As [`not_executed`], of a command that was first seen at `taken_at`.
pub fn not_executed_since(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    refusal: &Refusal,
    taken_at: Micros,
) -> Dispatched {
    worker.stats.command(spec.id.stats_index(), Outcome::NotExecuted).increment();
    abort_transaction(session);
    if let Some(capture) = &mut worker.capture {
        // Nobody is told yet.
        refusal.write(&mut capture.bytes);
        capture.refusal = Some(refusal.clone());
        return Dispatched::Done;
    }
    let when = (session.replies.next(), taken_at);
    let word = choose(session, worker.topology.load(), refusal, when);
    worker.answer(session, |line| refusal.write_as(word, line));
    Dispatched::Done
}

/// The word that `refusal` of the command of `slot` begins with instead of its own; the session is
/// closed behind it. What counts is when the command was taken: a client that waits sends nothing.
#[cold]
pub fn choose(
    session: &mut Session,
    topology: &Topology,
    refusal: &Refusal,
    (slot, taken_at): (Sequence, Micros),
) -> Option<&'static str> {
    let word = word(topology).filter(|_| refusal.is_of_upstream());
    let word = word.filter(|_| is_alone(session, slot, taken_at))?;
    session.close(Closing::AfterReplies(ClosedReason::ToldToRepeat));
    Some(word)
}

/// What the operator has chosen instead of `ERR`.
fn word(topology: &Topology) -> Option<&'static str> {
    match topology.node.deployment.unavailable_error() {
        UnavailableError::Err => None,
        UnavailableError::Loading => Some("LOADING"),
        UnavailableError::ClusterDown => Some("CLUSTERDOWN"),
    }
}

/// Whether nothing that was sent together with the command of `slot` has run or may yet run: no
/// command before it is unanswered, no reply before it is on its way, no transaction is open. A client that
/// is shown no replies is not told anything.
fn is_alone(session: &Session, slot: Sequence, taken_at: Micros) -> bool {
    let own = u64::from(slot < session.replies.next());
    session.replies.pending() == own
        && !session.is_muted()
        && session.out.unsent() == 0
        && !session.needs_flush
        && session.pin.is_none()
        && session.subscriptions.is_none()
        && session.quiet.lasts(slot, session.written_at, taken_at)
}

#[cfg(test)]
mod tests;

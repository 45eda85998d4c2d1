//! How many scripts there may be at a node at a time: one more goes, waits for its turn, or is refused.
//!
//! Owns that decision, and the waking of who waits. A script that waits stays in its session's input, so
//! order is kept (INV-12), and other sessions are not concerned. Never cuts a script short, and leaves
//! alone what a transaction queues: that runs with its EXEC.
//!
//! What surprises: nothing is counted up or down. Scripts in flight *are* the waiters on this worker's
//! lanes, so one whose client has gone counts until its node has answered, and none can be forgotten.
//! That is a walk over the lanes, which only scripts pay for, and only where there is a bound.

use std::sync::Arc;

use super::judge::Ruling;
use super::{Dispatched, refuse};
use crate::clock::{self, Micros};
use crate::command::Command;
use crate::command::spec::Spec;
use crate::config::Profile;
use crate::governor::admit;
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::refusal::script::ScriptRefusal;
use crate::session::replies::Sequence;
use crate::session::state::{Closing, Session, SessionId};
use crate::stats::control;
use crate::stats::labels::{ClosedReason, ScriptFault};
use crate::topology::Topology;
use crate::upstream::dial::Node;
use crate::upstream::lane::Lane;
use crate::upstream::loss::GONE_AFTER;
use crate::worker::Worker;

/// Whether a command may go, as far as it runs a script.
pub fn take(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    policy: &Policy,
    (spec, command): (&Spec, Command<'_>),
) -> Ruling {
    let settings = worker.shared.watch.load().scripts;
    let Some(most) = settings.in_flight_max.filter(|_| admit::runs(spec.id)) else {
        return Ruling::Goes;
    };
    let node = admit::node(worker, topology, spec, command);
    let Some(node) = node.filter(|_| !session.in_transaction()) else {
        return Ruling::Goes;
    };
    let place = (session.id, session.replies.next());
    pass(worker, &node, Some(place));
    let (ahead, since) = worker.turns.ahead(&node, place);
    // Whoever came first goes first: a script that is new takes no turn for which others wait.
    if ahead + in_flight(worker, &node) < share(worker, most) {
        return Ruling::Goes;
    }
    if policy.profile != Profile::Guard {
        // It goes, and is in flight like the others: what would have been refused is counted, not what
        // would have waited because of it.
        if !session.is_counted() {
            control::script_refused(ScriptFault::Crowded, false);
        }
        return Ruling::Goes;
    }
    let waited = since.map_or(0, |since| worker.now.saturating_sub(since));
    if waited >= clock::to_micros(settings.in_flight_wait) {
        worker.turns.leave(&node, session.id);
        return Ruling::Done(crowded(worker, session, spec, (&node, most, waited)));
    }
    if waited >= GONE_AFTER && session.has_left() {
        // Nothing is executed for somebody who has gone (INV-3).
        worker.turns.leave(&node, session.id);
        session.close(Closing::AfterReplies(ClosedReason::ClientClosed));
        return Ruling::Done(Dispatched::Wait);
    }
    // Counted once, however often it looks.
    if since.is_none() {
        control::script_delayed();
    }
    let at = worker.turns.wait(&node, place, worker.now);
    worker.detouring.alarm(session.id, at);
    Ruling::Done(Dispatched::Wait)
}

/// Something has come from a node that scripts wait for: whose turn it may be looks again.
#[cold]
pub fn answered(worker: &mut Worker, lane: &Lane) {
    pass(worker, &lane.node, None);
    let most = worker.shared.watch.load().scripts.in_flight_max;
    let count = most.map_or(usize::MAX, |most| share(worker, most));
    for session in worker.turns.first(&lane.node, count) {
        worker.detouring.alarm(session, worker.now);
    }
}

/// Forgets those in front of a queue who wait no more. Who went keeps its place until its reply slot is open: its
/// lane may still have told it to wait. The session in hand is lent, and so not found among the others.
fn pass(worker: &mut Worker, node: &Arc<Node>, in_hand: Option<(SessionId, Sequence)>) {
    let Worker { turns, sessions, .. } = worker;
    turns.pass(node, |id, slot| {
        let found = sessions.get(id).map(|session| (id, session.replies.next()));
        in_hand.filter(|it| it.0 == id).or(found) == Some((id, slot))
    });
}

/// Refuses one that has waited for long enough.
fn crowded(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    (node, most, waited): (&Node, usize, Micros),
) -> Dispatched {
    control::script_refused(ScriptFault::Crowded, true);
    let refusal = ScriptRefusal::Crowded { node: node.name.clone(), most, waited };
    refuse(worker, session, spec, &Refusal::Script(Box::new(refusal)))
}

/// A worker's part of what all of them may have: none has to ask the others.
fn share(worker: &Worker, most: usize) -> usize {
    (most / worker.shared.workers().max(1)).max(1)
}

/// Scripts of this worker that a node has or is about to get, and has not answered.
fn in_flight(worker: &Worker, node: &Arc<Node>) -> usize {
    let lanes = worker.lanes.keys().filter_map(|id| worker.lanes.get(id));
    let there = lanes.filter(|lane| Arc::ptr_eq(&lane.node, node));
    there.flat_map(|lane| &lane.waiters).filter(|waiter| admit::runs(waiter.command)).count()
}

#[cfg(test)]
mod tests;

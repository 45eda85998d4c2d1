//! Commands that a rule lets come only so fast: they go, wait for their turn, or are refused.
//!
//! Owns the look at each rule of pace that matches a command, in the order of the rules. Never
//! counts tokens (`policy::pace` does). A command that waits stays in its session's input, so order
//! is kept (INV-12) and nothing is held but what the client has sent.
//!
//! A rule on trial is measured as well: what it would have refused is counted, and nobody waits for it.
//!
//! What surprises: if a later rule refuses, what an earlier one has taken is not given back. Who is
//! refused again and again has asked again and again.

use std::sync::{Arc, PoisonError};

use super::{Dispatched, offender, refuse};
use crate::command::Command;
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::policy::offence::Deed;
use crate::policy::pace::{Bucket, Exhausted, Pace, Payer};
use crate::policy::rule::{Action, Rule};
use crate::policy::{Caller, Policy};
use crate::refusal::Refusal;
use crate::refusal::paced::TooFast;
use crate::session::state::{Closing, Session};
use crate::stats::labels::{ClosedReason, Paced as Count};
use crate::upstream::loss::GONE_AFTER;
use crate::worker::Worker;

/// Measures a command that these rules let pass. Returns what became of it unless it may go now. The
/// keys of the command are at `worker.keys`.
pub fn measure(
    worker: &mut Worker,
    session: &mut Session,
    (spec, command): (&Spec, Command<'_>),
    policy: &Policy,
    passed: &[&Arc<Rule>],
) -> Option<Dispatched> {
    if is_exempt(spec.id) {
        return None;
    }
    let caller = Caller { id: session.client.id, ..Caller::default() };
    let mut paces = passed.iter().filter_map(|rule| match &rule.action {
        Action::Pace(pace) if rule.is_enforced(policy.profile, &caller) => Some((*rule, pace)),
        _ => None,
    });
    let slot = session.replies.next();
    let is_known = session.paced.as_ref().is_some_and(|paced| paced.knows(slot));
    if !is_known {
        let first = paces.next()?;
        session.paced.get_or_insert_default().begin(slot, worker.now);
        for (rule, pace) in std::iter::once(first).chain(paces) {
            if let Err(exhausted) = pay(worker, session, command, pace) {
                let what = (spec, command);
                return Some(too_fast(worker, session, what, (policy, rule, pace), exhausted));
            }
        }
    }
    let is_late = turn(worker, session, !is_known)?;
    is_late.then_some(Dispatched::Wait)
}

/// What a rule would have done that is only tried out: its tokens are taken as if it counted, those for
/// the reply as well if the command is sent. Others have done theirs in [`measure`].
pub fn try_out(
    worker: &Worker,
    session: &mut Session,
    (spec, command): (&Spec, Command<'_>),
    (policy, rule, pace): (&Policy, &Rule, &Pace),
    is_sent: bool,
) -> Deed {
    let caller = Caller { id: session.client.id, ..Caller::default() };
    let is_measured = session.is_counted() || rule.is_enforced(policy.profile, &caller);
    if is_measured || is_exempt(spec.id) {
        return Deed::Passed;
    }
    let bucket = bucket(worker, session, command, pace);
    if bucket.take(worker.now, command.frame().len(), pace.wait).is_err() {
        return Deed::Spared;
    }
    if is_sent && bucket.counts_bytes() {
        let slot = session.replies.next();
        let oldest = slot - session.replies.pending();
        session.paced.get_or_insert_default().owes(bucket, slot, oldest, worker.now);
    }
    Deed::Passed
}

/// Whether a command goes at once, however many there are: what begins and ends a transaction holds
/// a connection of its own until its end has come, and does nothing by itself.
#[must_use]
pub fn is_exempt(id: CommandId) -> bool {
    matches!(id, MULTI | EXEC | DISCARD | WATCH | UNWATCH)
}

/// Takes what one rule counts.
fn pay(
    worker: &Worker,
    session: &mut Session,
    command: Command<'_>,
    pace: &Pace,
) -> Result<(), Exhausted> {
    let bucket = bucket(worker, session, command, pace);
    let at = bucket.take(worker.now, command.frame().len(), pace.wait)?;
    session.paced.get_or_insert_default().paid(bucket, at);
    Ok(())
}

fn bucket(worker: &Worker, session: &Session, command: Command<'_>, pace: &Pace) -> Arc<Bucket> {
    let key = worker.keys.first().and_then(|key| command.argument(key.index as usize));
    let labels = session.client.labels.lock().unwrap_or_else(PoisonError::into_inner);
    let payer = Payer { client: session.client.id, user: &labels.user, key };
    pace.bucket(&payer, worker.now)
}

/// Whether the command in hand is still to wait; `None`: no rule has a say. `is_first`: it was not
/// looked at before.
fn turn(worker: &mut Worker, session: &mut Session, is_first: bool) -> Option<bool> {
    let oldest = session.replies.next() - session.replies.pending();
    let slot = session.replies.next();
    let paced = session.paced.as_mut()?;
    let (since, at) = (paced.since, paced.at);
    if worker.now < at {
        if is_first {
            worker.stats.paced(Count::Delayed).increment();
        }
        worker.detouring.alarm(session.id, at);
        return Some(true);
    }
    paced.goes(slot, oldest);
    if at.saturating_sub(since) >= GONE_AFTER && session.has_left() {
        // Nothing is executed for somebody who has gone (INV-3).
        session.close(Closing::AfterReplies(ClosedReason::ClientClosed));
        return Some(true);
    }
    Some(false)
}

/// Refuses in the name of a rule.
fn too_fast(
    worker: &mut Worker,
    session: &mut Session,
    (spec, command): (&Spec, Command<'_>),
    (policy, rule, pace): (&Policy, &Rule, &Pace),
    exhausted: Exhausted,
) -> Dispatched {
    offender::met(worker, session, spec, command, (rule, Deed::Refused), None);
    worker.stats.paced(Count::Refused).increment();
    let (rate, unit) = match exhausted {
        Exhausted::Commands => (pace.commands, "commands"),
        Exhausted::Bytes => (pace.bytes, "bytes"),
    };
    let refusal = Refusal::TooFast(Box::new(TooFast {
        command: spec.name.to_string(),
        rule: rule.name.to_string(),
        version: policy.version,
        rate: rate.unwrap_or_default(),
        unit,
        message: rule.message.as_deref().unwrap_or_default().to_owned(),
    }));
    refuse(worker, session, spec, &refusal)
}

const MULTI: CommandId = builtin_id("multi");
const EXEC: CommandId = builtin_id("exec");
const DISCARD: CommandId = builtin_id("discard");
const WATCH: CommandId = builtin_id("watch");
const UNWATCH: CommandId = builtin_id("unwatch");

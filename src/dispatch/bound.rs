//! Carrying out `bound`: a command goes if what it would read is small enough.
//!
//! Owns the order of the steps (what the arguments tell, what is remembered, what must be asked)
//! and the words of the refusal. Never knows how a command is measured
//! ([`crate::policy::bounds::questions`] does). What surprises: a size that nobody can tell lets the
//! command go. A user who may not ask HLEN, or a server that does not know it, would otherwise lose
//! HGETALL for good; it is counted, and the documentation says so.

use super::judge::Ruling;
use super::unavailable::not_executed_since;
use super::{Dispatched, abort_transaction, refuse};
use super::{errand, offender};
use crate::command::Command;
use crate::command::spec::Spec;
use crate::policy::Policy;
use crate::policy::bounds::questions::{self, Plan};
use crate::policy::bounds::sizes::{Awaited, Subject, Weight};
use crate::policy::offence::{self, Deed};
use crate::policy::rule::{Bound, Rule};
use crate::refusal::Refusal;
use crate::refusal::denied::{self, Denied};
use crate::resp::write::Protocol;
use crate::session::errand::{About, Answer, Errand};
use crate::session::state::Session;
use crate::stats::labels::Outcome;
use crate::topology::Topology;
use crate::upstream::identity::Identity;
use crate::upstream::lane::Waiter;
use crate::worker::Worker;

/// A command that a rule bounds.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<'a> {
    /// What it is.
    pub spec: &'a Spec,
    /// Its words.
    pub command: Command<'a>,
    /// The rule.
    pub rule: &'a Rule,
    /// How much it allows.
    pub bound: Bound,
    /// The policy that it is part of.
    pub policy: &'a Policy,
}

/// What is to be done with a bounded command.
enum Step {
    /// It goes; what its reply tells is to be noted if it can be.
    Go(Option<Subject>),
    /// It goes, because its size cannot be told.
    Blind,
    /// These must be answered first.
    Ask(Vec<Vec<u8>>),
    /// It is too large: how much, and in words.
    Refuse(u64, String),
    /// It could not be asked for; the whole error that says why, and what of it is ours.
    Fail(Vec<u8>, Option<Refusal>),
}

/// Lets a command go, refuses it, or has its size asked for. `errand` is what was asked before.
pub fn weigh(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    bounded: &Bounded<'_>,
    errand: Option<Box<Errand>>,
) -> Ruling {
    worker.sizes.follow(topology.epoch);
    let keys = std::mem::take(&mut worker.keys);
    let plan = questions::plan(bounded.spec, bounded.command, &keys);
    let (epoch, slot) = (topology.epoch, session.replies.next());
    let about = About::Size { epoch };
    let since = errand.as_ref().map_or(worker.now, |errand| errand.since);
    let errand = errand.filter(|errand| errand.about == about);
    let step = plan.map_or(Step::Go(None), |plan| {
        let subject = worker.sizes.subject(&plan, identity.number(), session.db);
        let step = step(worker, &plan, subject, bounded.bound, errand.as_deref());
        if let Step::Go(Some(subject)) = step {
            let awaited = awaited(session, &plan, subject, bounded.bound.limit);
            worker.sizes.await_reply(awaited);
        }
        step
    });
    worker.keys = keys;
    match step {
        Step::Go(_) | Step::Blind => {
            if matches!(step, Step::Blind) && !session.is_counted() {
                worker.stats.bound_unmeasured.increment();
            }
            met(worker, session, bounded, Deed::Passed, None);
            // If there is no room for it now, it need not be asked about again.
            session.errand = errand;
            Ruling::Goes
        }
        Step::Ask(asked) => {
            worker.stats.bound_probes.add(asked.len() as u64);
            session.errand = Some(Box::new(Errand { about, since, ..Errand::new(asked, slot) }));
            // Questions have keys of their own, and go where those are.
            let keys = std::mem::take(&mut worker.keys);
            let done = errand::go_on(worker, topology, session, identity);
            worker.keys = keys;
            match session.errand.take_if(|errand| errand.is_done()) {
                // Nothing could be sent: its node is away, and that is the command's answer as well.
                Some(errand) => weigh(worker, topology, session, identity, bounded, Some(errand)),
                None => Ruling::Done(done),
            }
        }
        Step::Refuse(size, words) => {
            met(worker, session, bounded, Deed::Refused, Some(size));
            worker.stats.bound_refused.increment();
            Ruling::Done(too_large(worker, session, bounded, words))
        }
        Step::Fail(_, Some(refusal)) => {
            let done = not_executed_since(worker, session, bounded.spec, &refusal, since);
            Ruling::Done(done)
        }
        Step::Fail(line, None) => Ruling::Done(fail(worker, session, bounded.spec, &line)),
    }
}

/// Whether a command goes without being asked about, as far as can be told at this moment; for
/// transactions that arrive whole.
#[must_use]
pub fn is_small(
    worker: &mut Worker,
    session: &Session,
    spec: &Spec,
    command: Command<'_>,
    bound: Bound,
) -> bool {
    let Some(identity) = session.identity else {
        return false;
    };
    let Worker { keys, sizes, topology, now, .. } = worker;
    sizes.follow(topology.load().epoch);
    let Some(plan) = questions::plan(spec, command, keys) else {
        return true;
    };
    if plan.ceiling().is_some_and(|ceiling| ceiling <= bound.limit) {
        return true;
    }
    let subject = sizes.subject(&plan, identity.number(), session.db);
    !bound.is_always
        && plan.known().is_none()
        && plan.count() <= QUESTIONS_MAX
        && sizes.is_small(subject, bound.limit, *now, |total| plan.size(total))
}

/// What a rule would have done that only observes, as far as is known without asking: what the
/// arguments say, and what replies have told within the last minute. The reply to this command will
/// tell, too, if it `is_single`: that of one in a whole transaction comes among others.
pub fn watch(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    (identity, spec, command): (Identity, &Spec, Command<'_>),
    (bound, is_single): (Bound, bool),
) -> (Deed, Option<(u64, offence::Unit)>) {
    worker.sizes.follow(topology.epoch);
    let Worker { keys, sizes, now, .. } = worker;
    let Some(plan) = questions::plan(spec, command, keys) else {
        return (Deed::Passed, None);
    };
    let is_large = |size: &u64| *size > bound.limit;
    let within = plan.ceiling().is_some_and(|ceiling| !is_large(&ceiling));
    let subject = sizes.subject(&plan, identity.number(), session.db);
    let awaited = awaited(session, &plan, subject, u64::MAX);
    // A rule that is enforced awaits it with its own limit.
    if is_single && plan.is_told_by_reply && !sizes.awaits(awaited.session, awaited.slot) {
        sizes.await_reply(awaited);
    }
    let last = || sizes.last(subject, *now).map(|total| plan.size(total));
    match plan.known().or_else(last).filter(is_large) {
        Some(size) if !within => (Deed::Spared, Some((size, plan.unit.reported()))),
        _ => (Deed::Passed, None),
    }
}

/// Notes what the rule has met.
fn met(worker: &Worker, session: &Session, bounded: &Bounded<'_>, deed: Deed, size: Option<u64>) {
    let Bounded { spec, command, rule, .. } = *bounded;
    let plan = questions::plan(spec, command, &worker.keys);
    let size = size.zip(plan.map(|plan| plan.unit.reported()));
    offender::met(worker, session, spec, command, (rule, deed), size);
}

/// What follows from the arguments, from what is known, and from what was answered.
fn step(
    worker: &mut Worker,
    plan: &Plan<'_>,
    subject: Subject,
    bound: Bound,
    errand: Option<&Errand>,
) -> Step {
    let limit = bound.limit;
    let words = |size: u64| format!("{size} {} > limit {limit}", plan.unit.noun());
    let learns = plan.is_told_by_reply.then_some(subject);
    if plan.ceiling().is_some_and(|ceiling| ceiling <= limit) {
        return Step::Go(learns);
    }
    if let Some(size) = plan.known() {
        return Step::Refuse(size, words(size));
    }
    let count = plan.count();
    if count > QUESTIONS_MAX {
        let why = format!("it takes {count} questions (at most {QUESTIONS_MAX}) to tell its size");
        return Step::Refuse(count as u64, why);
    }
    if let Some(errand) = errand {
        if let Some((line, refusal)) = failure(errand) {
            return Step::Fail(line.to_vec(), refusal.cloned());
        }
        let Some(total) = told(plan, errand) else {
            return Step::Blind;
        };
        worker.sizes.note(subject, total, worker.now);
        let size = plan.size(total);
        return if size > limit { Step::Refuse(size, words(size)) } else { Step::Go(learns) };
    }
    let weight = match bound.is_always {
        true => Weight::Unknown,
        false => worker.sizes.weigh(subject, limit, worker.now, |total| plan.size(total)),
    };
    match weight {
        Weight::Small => Step::Go(learns),
        Weight::Large(size) => Step::Refuse(size, words(size)),
        Weight::Unknown => Step::Ask(plan.questions()),
    }
}

/// Why a question was not answered, where the command would fare no better: its node is away, or is
/// loading, or busy. That nobody may ask is another matter.
fn failure(errand: &Errand) -> Option<(&[u8], Option<&Refusal>)> {
    let is_of_state = |reply: &&[u8]| {
        let is_of_command = [&b"-ERR "[..], b"-NOPERM ", b"-WRONGTYPE "];
        reply.starts_with(b"-") && !is_of_command.iter().any(|word| reply.starts_with(word))
    };
    let replies = errand.answers.iter().filter_map(|answer| match answer {
        Answer::Reply(reply) => Some(&reply[..]),
        _ => None,
    });
    let of_node = |reply| (reply, None);
    errand.failure().or_else(|| replies.into_iter().find(is_of_state).map(of_node))
}

/// What all answers are together; `None` if one of them tells nothing.
fn told(plan: &Plan<'_>, errand: &Errand) -> Option<u64> {
    let mut numbers = Vec::with_capacity(errand.answers.len());
    for answer in &errand.answers {
        let Answer::Reply(reply) = answer else {
            return None;
        };
        numbers.push(questions::number(reply)?);
    }
    (numbers.len() == plan.count()).then(|| plan.total(numbers.into_iter()))
}

/// The reply of a command that goes will tell its size.
fn awaited(session: &Session, plan: &Plan<'_>, subject: Subject, limit: u64) -> Awaited {
    Awaited {
        session: session.id,
        slot: session.replies.next(),
        subject,
        is_in_pairs: plan.is_in_pairs && session.protocol == Protocol::Resp2,
        limit,
    }
}

/// Takes the size of a reply from its first bytes, before its client gets them.
#[cold]
pub fn observe(worker: &mut Worker, waiter: &Waiter, reply: &[u8]) {
    let Some(awaited) = worker.sizes.awaited(waiter.session, waiter.slot) else {
        return;
    };
    let Some(count) = length(reply) else {
        return;
    };
    let is_halved = awaited.is_in_pairs && reply.starts_with(b"*");
    let size = if is_halved { count / 2 } else { count };
    if size > awaited.limit {
        worker.stats.bound_slipped.increment();
    }
    worker.sizes.note(awaited.subject, size, worker.now);
}

/// The number in a reply's first line, if it is one of those that count elements.
fn length(reply: &[u8]) -> Option<u64> {
    let line = reply.get(..LENGTH_LINE_MAX.min(reply.len()))?;
    let end = memchr::memchr(b'\r', line)?;
    let number = match line.get(..end)? {
        [b'*' | b'%' | b'~', digits @ ..] => crate::resp::parse_integer(digits)?,
        [b'_'] => 0,
        _ => return None,
    };
    Some(u64::try_from(number).unwrap_or(0))
}

/// Says that a command would read too much.
fn too_large(
    worker: &mut Worker,
    session: &mut Session,
    bounded: &Bounded<'_>,
    size: String,
) -> Dispatched {
    let Bounded { spec, command, rule, policy, .. } = *bounded;
    let plan = questions::plan(spec, command, &worker.keys);
    let key = plan.and_then(|plan| plan.sources().next());
    let cure = plan.map_or("", |plan| plan.unit.cure());
    let mut denied = Denied::by(rule, policy.version, &spec.name);
    denied.command = denied::with_key(&spec.name, key.unwrap_or_default());
    denied.size = Some(size);
    if denied.message.is_empty() {
        cure.clone_into(&mut denied.message);
    }
    refuse(worker, session, spec, &Refusal::Denied(Box::new(denied)))
}

/// Answers a command as its question was answered by the node: it would have had the same fate.
fn fail(worker: &mut Worker, session: &mut Session, spec: &Spec, line: &[u8]) -> Dispatched {
    worker.stats.command(spec.id.stats_index(), Outcome::NotExecuted).increment();
    abort_transaction(session);
    worker.answer(session, |out| out.extend_from_slice(line));
    Dispatched::Done
}

/// Most questions about one command. Each is a command for the server, too, but one that looks at a
/// length: all of them cost less than reading as many keys of a few elements, which is what such a
/// command mostly does. Together they are at most five times as long as the command itself.
const QUESTIONS_MAX: usize = 2_048;
/// The first line of an aggregate is shorter.
const LENGTH_LINE_MAX: usize = 32;

#[cfg(test)]
mod tests;

//! The station of the policy: carrying out what it decides about a command.
//!
//! Owns the way from a verdict to what happens: the command goes, is refused with the rule's name,
//! waits for an errand, or something else goes in its place. Never decides ([`Policy::judge`] does)
//! and never touches a socket. What surprises: it is only called for commands of which some rule
//! speaks; all others pay one look into a table.

use std::sync::{Arc, PoisonError};

use super::bound::{self, Bounded};
use super::{Dispatched, admitted, refuse};
use crate::buffer::Piece;
use crate::command::Command;
use crate::command::flags::Flags;
use crate::command::keys;
use crate::command::spec::Spec;
use crate::governor::admit;
use crate::policy::rule::{Action, Rule};
use crate::policy::{Caller, Case, Policy};
use crate::refusal::Refusal;
use crate::refusal::denied::Denied;
use crate::refusal::script::ScriptRefusal;
use crate::route::frame;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::upstream::identity::Identity;
use crate::worker::Worker;

/// What became of a command that was judged.
#[derive(Debug)]
pub enum Ruling {
    /// It goes on as it came.
    Goes,
    /// It has been answered, or waits.
    Done(Dispatched),
    /// This command goes in its place; it is not judged again.
    Instead(Vec<u8>),
}

/// The rules that have judged the commands of a transaction which arrived whole.
#[derive(Debug, Default)]
pub struct Judged(Vec<Arc<Rule>>);

/// Judges a command of which some rule speaks, or for which an errand was run.
#[cold]
pub fn judge(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    spec: &Spec,
    command: Command<'_>,
) -> Ruling {
    if session.errand.as_ref().is_some_and(|errand| !errand.is_done()) {
        return Ruling::Done(super::errand::go_on(worker, topology, session, identity));
    }
    // What is done with it is known below; left over, it would be taken for the next command's.
    let errand = session.errand.take();
    // Who could not say who they are could never be let in.
    if spec.flags.contains(Flags::NO_AUTH) {
        return Ruling::Goes;
    }
    let policy = Arc::clone(worker.policy.load());
    let mut passed = Vec::new();
    let rule = decide(worker, &policy, session, spec, command, &mut passed);
    // What has been asked about was counted when it came.
    for rule in passed.into_iter().filter(|_| errand.is_none()) {
        rule.tally.note(false);
    }
    if rule.is_none_or(|rule| rule.action != Action::Deny)
        && let Some(refusal) = governed(worker, topology, session, &policy, rule, spec, command)
    {
        return Ruling::Done(refuse(worker, session, spec, &Refusal::Script(Box::new(refusal))));
    }
    let Some(rule) = rule else {
        return Ruling::Goes;
    };
    if let Action::Bound(bound) = rule.action {
        let bounded = Bounded { spec, command, rule, bound, policy: &policy };
        return bound::weigh(worker, topology, session, identity, &bounded, errand);
    }
    rule.tally.note(rule.action == Action::Deny);
    match &rule.action {
        Action::Deny => Ruling::Done(deny(worker, session, spec, &policy, rule)),
        _ => Ruling::Goes,
    }
}

/// The rule that decides, if there is one.
fn decide<'p>(
    worker: &mut Worker,
    policy: &'p Policy,
    session: &Session,
    spec: &Spec,
    command: Command<'_>,
    passed: &mut Vec<&'p Arc<Rule>>,
) -> Option<&'p Arc<Rule>> {
    // What has no keys, or makes no sense, leaves the list empty.
    let _ = keys::keys(spec, &command, &mut worker.keys);
    let (client, now) = (&session.client, worker.now);
    let mut judge = |caller: &Caller<'_>| {
        let case = Case { spec, command, keys: &worker.keys, caller, now };
        policy.judge(&case, &mut |rule| passed.push(rule))
    };
    if !policy.asks_who(spec.id) {
        return judge(&Caller { id: client.id, ..Caller::default() });
    }
    with_caller(session, judge)
}

/// Why the script that a command runs or brings is not sent, if it is not.
fn governed(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    policy: &Policy,
    rule: Option<&Arc<Rule>>,
    spec: &Spec,
    command: Command<'_>,
) -> Option<ScriptRefusal> {
    if !admit::GOVERNED.contains(&spec.id) {
        return None;
    }
    let rule = rule.map(|rule| &**rule);
    with_caller(session, |caller| {
        admit::admit(worker, topology, policy, rule, caller, (spec, command))
    })
}

/// Calls `then` with everything that rules may ask of a client.
fn with_caller<T>(session: &Session, then: impl FnOnce(&Caller<'_>) -> T) -> T {
    let client = &session.client;
    let labels = client.labels.lock().unwrap_or_else(PoisonError::into_inner);
    then(&Caller {
        id: client.id,
        listener: &session.gate.name,
        user: &labels.user,
        address: client.peer(),
        name: &labels.name,
        library: &labels.library_name,
    })
}

// === impl Judged ===

impl Judged {
    /// Whether a command may go as it is. Nothing is counted before the whole transaction may.
    #[cold]
    pub fn lets_pass(
        &mut self,
        worker: &mut Worker,
        session: &Session,
        spec: &Spec,
        command: Command<'_>,
    ) -> bool {
        let policy = Arc::clone(worker.policy.load());
        let mut passed = Vec::new();
        let rule = decide(worker, &policy, session, spec, command, &mut passed);
        let topology = Arc::clone(worker.topology.load());
        let refusal = governed(worker, &topology, session, &policy, rule, spec, command);
        let is_paced = passed.iter().any(|rule| matches!(rule.action, Action::Pace(_)));
        let mut is_free = |rule: &Arc<Rule>| match rule.action {
            Action::Allow | Action::Observe => true,
            Action::Bound(bound) => bound::is_small(worker, session, spec, command, bound),
            _ => false,
        };
        let is_free = !is_paced && rule.is_none_or(&mut is_free);
        self.0.extend(passed.into_iter().chain(rule).cloned());
        is_free && refusal.is_none()
    }

    /// It goes.
    pub fn note(&self) {
        self.0.iter().for_each(|rule| rule.tally.note(false));
    }
}

/// Refuses in the name of a rule.
fn deny(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    policy: &Policy,
    rule: &Rule,
) -> Dispatched {
    let denied = Denied::by(rule, policy.version, &spec.name);
    refuse(worker, session, spec, &Refusal::Denied(Box::new(denied)))
}

/// Sends another command in the place of one that was judged.
#[cold]
pub fn instead(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    bytes: Vec<u8>,
) -> Dispatched {
    let done = frame::with_command(&topology.table, &bytes, |command, spec| {
        let frame = super::renamed(spec, command, Piece::Borrowed(&bytes));
        admitted(worker, topology, session, identity, spec, *command, frame)
    });
    // We made it ourselves, of a command that the upstream knows.
    debug_assert!(done.is_some(), "a rewritten command is known");
    done.unwrap_or(Dispatched::Wait)
}

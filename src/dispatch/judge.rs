//! The station of the policy: carrying out what it decides about a command.
//!
//! Owns the way from a verdict to what happens: the command goes, is refused with the rule's name,
//! waits for an errand, or something else goes in its place. Never decides ([`Policy::judge`] does)
//! and never touches a socket. What surprises: it is only called for commands of which some rule
//! speaks; all others pay one look into a table.

use std::sync::{Arc, PoisonError};

use super::bound::{self, Bounded};
use super::{Dispatched, admitted, keyspaces, offender, pacing, refuse, rewrite, turns};
use crate::buffer::Piece;
use crate::command::Command;
use crate::command::keys;
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::config::Profile;
use crate::governor::admit;
use crate::policy::offence::{Deed, Offence, Unit};
use crate::policy::rule::{Action, Rule};
use crate::policy::{Caller, Case, Policy, is_spared};
use crate::refusal::Refusal;
use crate::refusal::denied::Denied;
use crate::route::frame;
use crate::session::errand::Errand;
use crate::session::pin::Abort;
use crate::session::state::Session;
use crate::session::transaction;
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

/// What rules have met in a transaction which arrived whole. Nothing of it is counted before all of
/// it goes: what does not is judged piece by piece, and what waits is judged again.
#[derive(Debug, Default)]
pub struct Judged {
    met: Vec<(Arc<Rule>, Deed, Option<Offence>)>,
    scripts: Vec<admit::Finding>,
}

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
    let slot = session.replies.next();
    // One whose command was answered otherwise is nobody's.
    let _ = session.errand.take_if(|errand| !errand.is_for(slot));
    let held = keyspaces::hold_back(worker, topology, session, spec, &command);
    let ruling = match held {
        Some(done) => Ruling::Done(done),
        None => weigh(worker, topology, session, identity, spec, command),
    };
    let ruling = match ruling {
        Ruling::Goes => {
            // Rules have counted it; should it wait now, they have done so.
            session.counted = Some(session.replies.next());
            let own = keyspaces::take(worker, topology, session, identity, (spec, command));
            own.map_or(Ruling::Goes, Ruling::Done)
        }
        other => other,
    };
    // Questions on its behalf have reply slots of their own.
    let next = session.replies.next();
    match &ruling {
        Ruling::Goes | Ruling::Instead(_) => session.counted = Some(next),
        Ruling::Done(Dispatched::Wait) => {
            session.counted = session.counted.map(|it| if it == slot { next } else { it });
            if let Some(paced) = &mut session.paced {
                paced.stays(slot, next);
            }
        }
        Ruling::Done(Dispatched::Done) => {}
    }
    ruling
}

fn weigh(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    spec: &Spec,
    command: Command<'_>,
) -> Ruling {
    if let Some(errand) = &session.errand {
        if !errand.is_done() {
            return Ruling::Done(super::errand::go_on(worker, topology, session, identity));
        }
        if errand.pages.is_some() {
            let what = (spec, command);
            return Ruling::Done(rewrite::go_on(worker, topology, session, identity, what));
        }
    }
    // What is done with it is known below; left over, it would be taken for the next command's.
    let errand = session.errand.take();
    if is_spared(spec) {
        return Ruling::Goes;
    }
    let policy = Arc::clone(worker.policy.load());
    if policy.profile == Profile::Open {
        return Ruling::Goes;
    }
    let mut passed = Vec::new();
    let rule = decide(worker, &policy, session, spec, command, &mut passed);
    let what = (spec, command);
    // Whoever is refused anyway takes nobody's turn.
    let is_denied = rule.is_some_and(|rule| rule.action == Action::Deny);
    if !is_denied && let Some(done) = pacing::measure(worker, session, what, &policy, &passed) {
        return Ruling::Done(done);
    }
    let by = (&*policy, rule, errand);
    let ruling = carry_out(worker, topology, session, identity, what, by);
    if matches!(ruling, Ruling::Done(Dispatched::Wait)) {
        return ruling;
    }
    let is_sent = !matches!(ruling, Ruling::Done(_));
    for rule in passed {
        let how = (matches!(ruling, Ruling::Goes), true);
        let (deed, size) = match &rule.action {
            Action::Pace(pace) => {
                let by = (&*policy, &**rule, &**pace);
                (pacing::try_out(worker, session, what, by, is_sent), None)
            }
            _ => spared(worker, topology, session, (identity, spec, command), rule, how),
        };
        offender::met(worker, session, spec, command, (rule, deed), size);
    }
    ruling
}

/// What a rule would have done that let the search go on, and how much the command would have been.
fn spared(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    what: (Identity, &Spec, Command<'_>),
    rule: &Rule,
    (goes, is_single): (bool, bool),
) -> (Deed, Option<(u64, Unit)>) {
    match rule.action {
        Action::Deny => (Deed::Spared, None),
        Action::Bound(bound) if goes => {
            bound::watch(worker, topology, session, what, (bound, is_single))
        }
        _ => (Deed::Passed, None),
    }
}

/// Does what the deciding rule says, and notes that it has met the command.
fn carry_out(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    (spec, command): (&Spec, Command<'_>),
    (policy, rule, errand): (&Policy, Option<&Arc<Rule>>, Option<Box<Errand>>),
) -> Ruling {
    let what = (spec, command);
    if let Some(rule) = rule
        && let Action::Bound(bound) = rule.action
    {
        // It notes itself: it knows how much it would have been.
        let bounded = Bounded { spec, command, rule, bound, policy };
        return bound::weigh(worker, topology, session, identity, &bounded, errand);
    }
    let mut finding = None;
    let refusal = match rule {
        Some(rule) if rule.action == Action::Deny => {
            Some(Refusal::Denied(Box::new(Denied::by(rule, policy.version, &spec.name))))
        }
        _ => {
            finding = governed(worker, topology, session, (policy, rule), what);
            let refusal = finding.clone().and_then(admit::Finding::refusal);
            refusal.map(|refusal| Refusal::Script(Box::new(refusal)))
        }
    };
    let finding = finding.filter(|_| !session.is_counted());
    let deed = if refusal.is_some() { Deed::Refused } else { Deed::Passed };
    let ruling = match (refusal, rule.map(|rule| (rule, &rule.action))) {
        (Some(refusal), _) => Ruling::Done(turn_away(worker, session, spec, &refusal)),
        (None, Some((rule, Action::Rewrite(rewrite)))) => {
            let by = (rule, policy.version, rewrite);
            rewrite::carry_out(worker, topology, session, identity, what, by)
        }
        _ => turns::take(worker, topology, session, policy, what),
    };
    if matches!(ruling, Ruling::Done(Dispatched::Wait)) {
        return ruling;
    }
    finding.iter().for_each(admit::Finding::count);
    if let Some(rule) = rule {
        offender::met(worker, session, spec, command, (rule, deed), None);
    }
    ruling
}

/// Refuses a command so that nothing is left half begun: a transaction ends with its EXEC, and what
/// was sent behind its MULTI does not run without it.
fn turn_away(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    refusal: &Refusal,
) -> Dispatched {
    let is_open = session.in_transaction();
    if is_open && spec.id == EXEC {
        let abort = Abort::Denied(refusal.text());
        return transaction::end_with(worker, session, spec, abort);
    }
    let done = refuse(worker, session, spec, refusal);
    session.was_refused = !is_open && matches!(spec.id, MULTI | WATCH);
    done
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
    as_caller(session, |caller| judge(caller))
}

/// What speaks against the script that a command runs or brings.
fn governed(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    (policy, rule): (&Policy, Option<&Arc<Rule>>),
    (spec, command): (&Spec, Command<'_>),
) -> Option<admit::Finding> {
    if !admit::GOVERNED.contains(&spec.id) {
        return None;
    }
    let rule = rule.map(|rule| &**rule);
    // The keys of what it calls are looked for in the same room.
    let keys = std::mem::take(&mut worker.keys);
    let finding = as_caller(session, |caller| {
        admit::admit(worker, topology, policy, rule, caller, (spec, command))
    });
    worker.keys = keys;
    finding
}

/// Looks at a client as rules see it. Its names are locked meanwhile.
pub fn as_caller<T>(session: &Session, look: impl FnOnce(&Caller<'_>) -> T) -> T {
    let client = &session.client;
    let labels = client.labels.lock().unwrap_or_else(PoisonError::into_inner);
    look(&Caller {
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
    /// Whether a command may go as it is.
    #[cold]
    pub fn lets_pass(
        &mut self,
        worker: &mut Worker,
        session: &Session,
        spec: &Spec,
        command: Command<'_>,
    ) -> bool {
        if is_spared(spec) {
            return true;
        }
        if !keyspaces::goes_whole(worker, session, spec, &command) {
            return false;
        }
        if worker.policy.load().profile == Profile::Open {
            return true;
        }
        let Some(identity) = session.identity else {
            return false;
        };
        let policy = Arc::clone(worker.policy.load());
        let mut passed = Vec::new();
        let rule = decide(worker, &policy, session, spec, command, &mut passed);
        let is_paced = !pacing::is_exempt(spec.id)
            && passed.iter().any(|rule| matches!(rule.action, Action::Pace(_)));
        let mut is_free = |rule: &Arc<Rule>| match rule.action {
            Action::Allow | Action::Observe => true,
            Action::Bound(bound) => bound::is_small(worker, session, spec, command, bound),
            _ => false,
        };
        if is_paced || !rule.is_none_or(&mut is_free) {
            return false;
        }
        let topology = Arc::clone(worker.topology.load());
        let what = (identity, spec, command);
        for rule in passed {
            let (deed, size) = spared(worker, &topology, session, what, rule, (true, false));
            self.add(worker, session, what, (rule, deed), size);
        }
        if let Some(rule) = rule {
            self.add(worker, session, what, (rule, Deed::Passed), None);
        }
        // Last, because it looks for the keys of what the script calls.
        let by = (&*policy, rule);
        let finding = governed(worker, &topology, session, by, (spec, command));
        let is_sent = finding.as_ref().is_none_or(|finding| !finding.is_enforced);
        self.scripts.extend(finding);
        is_sent
    }

    fn add(
        &mut self,
        worker: &Worker,
        session: &Session,
        (_, spec, command): (Identity, &Spec, Command<'_>),
        (rule, deed): (&Arc<Rule>, Deed),
        size: Option<(u64, Unit)>,
    ) {
        let offence = offender::sighted(worker, session, spec, command, (rule, deed), size);
        self.met.push((Arc::clone(rule), deed, offence));
    }

    /// It goes.
    pub fn note(self, worker: &Worker) {
        for (rule, deed, offence) in self.met {
            offender::note(worker, (&*rule, deed), offence);
        }
        self.scripts.iter().for_each(admit::Finding::count);
    }
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
        admitted(worker, topology, session, identity, spec, *command, Piece::Borrowed(&bytes))
    });
    // We made it ourselves, of a command that the upstream knows.
    debug_assert!(done.is_some(), "a rewritten command is known");
    done.unwrap_or(Dispatched::Wait)
}

const EXEC: CommandId = builtin_id("exec");
const MULTI: CommandId = builtin_id("multi");
const WATCH: CommandId = builtin_id("watch");

#[cfg(test)]
mod tests;

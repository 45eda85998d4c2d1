//! Whether a script may be sent.
//!
//! Owns the judgement of one command that runs or brings a script: it is refused if its node is held
//! up by another one, if it had to be killed too often, if it holds a loop without end, or if it calls
//! by name what its client may not call. Never sends anything. An operator's rule that allows EVAL to
//! somebody takes the text on itself: then it is not looked into.
//!
//! What surprises: of a call with computed arguments only the name is judged. A rule that asks for the
//! shape of a command says nothing of it, because the arguments are not known; the rules behind it do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::library::{Library, Literal, Read};
use super::quarantine::Culprit;
use super::{Governor, SCRIPT_BYTES_MAX};
use crate::clock::Micros;
use crate::command::Command;
use crate::command::keys::{self, KeyPosition};
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::command::table::Table;
use crate::config::Profile;
use crate::policy::offence::Deed;
use crate::policy::rule::{Action, Origin, Rule};
use crate::policy::{Caller, Case, Policy};
use crate::refusal::denied::Denied;
use crate::refusal::script::ScriptRefusal;
use crate::route::{self, Place, frame};
use crate::scripts::{Sha, parse_sha, sha1};
use crate::stats::control;
use crate::stats::labels::ScriptFault;
use crate::topology::Topology;
use crate::upstream::dial::Node;
use crate::worker::Worker;

/// The commands that are judged here.
pub const GOVERNED: [CommandId; 8] =
    [EVAL, EVAL_RO, EVALSHA, EVALSHA_RO, FCALL, FCALL_RO, SCRIPT_LOAD, FUNCTION_LOAD];

/// What the text of a script is held against.
#[derive(Clone, Copy, Debug)]
pub struct Court<'p, 'a> {
    /// The commands that are known.
    pub table: &'a Table,
    /// The rules.
    pub policy: &'p Policy,
    /// Whose script it is.
    pub caller: &'a Caller<'a>,
    /// When it came.
    pub now: Micros,
}

/// What is to be said against a script.
#[derive(Debug)]
pub struct Verdict<'p> {
    /// Why it is not sent.
    pub refusal: ScriptRefusal,
    /// Whether that is meant, and not only counted.
    pub is_enforced: bool,
    /// The rule of the policy that says so.
    rule: Option<&'p Arc<Rule>>,
}

/// As a [`Verdict`], for as long as its command waits.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The words.
    refusal: ScriptRefusal,
    /// The rule that denies what it calls.
    rule: Option<Arc<Rule>>,
    /// Whether it is refused for that, and not only counted.
    pub is_enforced: bool,
}

/// What speaks against a script, if anything does; `rule` is what decided about its command. Nothing
/// is counted: a command may have to wait, and is then looked at again. In the profile observe it is
/// not enforced, unless an emergency rule says so.
pub fn admit(
    worker: &mut Worker,
    topology: &Topology,
    policy: &Policy,
    rule: Option<&Rule>,
    caller: &Caller<'_>,
    (spec, command): (&Spec, Command<'_>),
) -> Option<Finding> {
    let part = part(spec.id)?;
    let verdict = if let Some(refusal) = held(worker, topology, part, spec, command) {
        Verdict { refusal, is_enforced: policy.profile == Profile::Guard, rule: None }
    } else {
        let read = (!is_vouched_for(rule)).then(|| read(worker, part, command)).flatten()?;
        let court = Court { table: &topology.table, policy, caller, now: worker.now };
        court.hears(&read, topology.epoch, &mut worker.keys)?
    };
    let Verdict { refusal, is_enforced, rule } = verdict;
    Some(Finding { refusal, is_enforced, rule: rule.cloned() })
}

/// The same for somebody who only asks: nothing is counted and nothing remembered. Whether a node is busy
/// at this moment is not looked at. `governor`: of the process that would be sent the command, if there
/// is one; else nothing is known of a script that is called by its name.
#[must_use]
pub fn foresee<'p>(
    court: &Court<'p, '_>,
    governor: Option<&Governor>,
    rule: Option<&Rule>,
    (spec, command): (&Spec, Command<'_>),
) -> Option<Verdict<'p>> {
    let part = part(spec.id)?;
    let culprit = culprit(part, command, |text| Some(sha1(text)));
    let refusal = governor.and_then(|it| it.quarantined(culprit?, court.now));
    if let Some(refusal) = refusal {
        let is_enforced = court.policy.profile == Profile::Guard;
        return Some(Verdict { refusal, is_enforced, rule: None });
    }
    if is_vouched_for(rule) {
        return None;
    }
    let read = match text(part, command) {
        Some(text) if text.len() > SCRIPT_BYTES_MAX => None,
        Some(text) => Some(Arc::new(Read::new(text))),
        None => governor.and_then(|it| named(&it.library, part, command)),
    };
    let (verdict, _) = court.tries(&*read?, &mut Vec::new());
    verdict
}

/// Whether an operator has taken the text on himself.
fn is_vouched_for(rule: Option<&Rule>) -> bool {
    rule.is_some_and(|rule| {
        let is_let = matches!(rule.action, Action::Allow | Action::Observe);
        is_let && rule.origin != Origin::Catalogue
    })
}

/// What a command says of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// It runs the text that is this argument.
    Runs(usize),
    /// It runs the script of this name.
    Calls,
    /// It runs a function.
    Function,
    /// It brings the text that is this argument.
    Brings(usize),
    /// It brings a library, which is its last argument.
    Library,
}

fn part(id: CommandId) -> Option<Part> {
    match id {
        EVAL | EVAL_RO => Some(Part::Runs(1)),
        EVALSHA | EVALSHA_RO => Some(Part::Calls),
        FCALL | FCALL_RO => Some(Part::Function),
        SCRIPT_LOAD => Some(Part::Brings(2)),
        FUNCTION_LOAD => Some(Part::Library),
        _ => None,
    }
}

/// Whether a command runs a script or a function.
#[must_use]
pub fn runs(id: CommandId) -> bool {
    matches!(part(id), Some(Part::Runs(_) | Part::Calls | Part::Function))
}

/// Why no script of any kind, or not this one, may be sent now.
fn held(
    worker: &mut Worker,
    topology: &Topology,
    part: Part,
    spec: &Spec,
    command: Command<'_>,
) -> Option<ScriptRefusal> {
    if matches!(part, Part::Brings(_) | Part::Library) {
        return None;
    }
    let now = worker.now;
    let node = node(worker, topology, spec, command);
    // So that what is killed there can only be what was there before (`docs/decisions/0023`).
    if let Some(node) = node.filter(|node| node.health.holds_scripts(now)) {
        return Some(ScriptRefusal::Busy { node: node.name.clone() });
    }
    quarantined(worker, part, command, now)
}

fn quarantined(
    worker: &Worker,
    part: Part,
    command: Command<'_>,
    now: Micros,
) -> Option<ScriptRefusal> {
    let governor = &worker.shared.governor;
    if !governor.quarantine.is_used() {
        return None;
    }
    let culprit = culprit(part, command, |text| Some(governor.library.read(text)?.sha))?;
    governor.quarantined(culprit, now)
}

/// Who would be to blame; `sha` names a text.
fn culprit(
    part: Part,
    command: Command<'_>,
    sha: impl FnOnce(&[u8]) -> Option<Sha>,
) -> Option<Culprit> {
    let word = command.argument(1)?;
    Some(match part {
        Part::Runs(_) => Culprit::script(&sha(word)?),
        Part::Calls => Culprit::script(&parse_sha(word)?),
        Part::Function => Culprit::function(word),
        Part::Brings(_) | Part::Library => return None,
    })
}

/// The node that a script would go to, as far as the map tells.
pub fn node(
    worker: &mut Worker,
    topology: &Topology,
    spec: &Spec,
    command: Command<'_>,
) -> Option<Arc<Node>> {
    let Some(slots) = &topology.slots else {
        return Some(Arc::clone(&topology.node));
    };
    match route::place(spec, &command, &mut worker.keys) {
        Place::Slot(slot) => slots.owner(slot).map(|member| Arc::clone(&member.node)),
        _ => None,
    }
}

/// What is known of the script that a command runs or brings.
fn read(worker: &Worker, part: Part, command: Command<'_>) -> Option<Arc<Read>> {
    let library = &worker.shared.governor.library;
    match text(part, command) {
        Some(text) => library.read(text),
        None => named(library, part, command),
    }
}

/// The text that a command carries.
fn text(part: Part, command: Command<'_>) -> Option<&[u8]> {
    match part {
        Part::Runs(place) | Part::Brings(place) => command.argument(place),
        Part::Library => command.argument(command.len().checked_sub(1)?),
        // That of a function came with a FUNCTION LOAD, maybe over another proxy.
        Part::Calls | Part::Function => None,
    }
}

/// What is known of a script that a command only names.
fn named(library: &Library, part: Part, command: Command<'_>) -> Option<Arc<Read>> {
    if part != Part::Calls {
        return None;
    }
    library.named(&parse_sha(command.argument(1)?)?)
}

// === impl Finding ===

impl Finding {
    /// Counts it, once for each command.
    pub fn count(&self) {
        control::script_refused(self.refusal.fault(), self.is_enforced);
        if let Some(rule) = &self.rule {
            rule.tally.count(if self.is_enforced { Deed::Refused } else { Deed::Spared });
        }
    }

    /// Why the script is not sent, if it is not.
    #[must_use]
    pub fn refusal(self) -> Option<ScriptRefusal> {
        self.is_enforced.then_some(self.refusal)
    }
}

// === impl Governor ===

impl Governor {
    fn quarantined(&self, culprit: Culprit, now: Micros) -> Option<ScriptRefusal> {
        let kills = self.quarantine.holds(&culprit, now)?;
        Some(ScriptRefusal::Quarantined { culprit: culprit.to_string(), kills })
    }
}

// === impl Court ===

impl<'p> Court<'p, '_> {
    /// What is wrong with a script that was read before. That no rule speaks of its commands is found
    /// out once for each policy and deployment.
    fn hears(&self, read: &Read, epoch: u64, keys: &mut Vec<KeyPosition>) -> Option<Verdict<'p>> {
        let judged = self.policy.version << 32 | (epoch & u64::from(u32::MAX));
        if read.endless.is_none() && read.quiet_for.load(Ordering::Relaxed) == judged {
            return None;
        }
        let (verdict, is_quiet) = self.tries(read, keys);
        if is_quiet {
            read.quiet_for.store(judged, Ordering::Relaxed);
        }
        verdict
    }

    /// What is wrong with a script, and whether no rule speaks of any of its commands.
    fn tries(&self, read: &Read, keys: &mut Vec<KeyPosition>) -> (Option<Verdict<'p>>, bool) {
        if let Some(text) = &read.endless {
            let refusal = ScriptRefusal::Endless { text: text.clone() };
            let is_enforced = self.policy.profile == Profile::Guard;
            return (Some(Verdict { refusal, is_enforced, rule: None }), false);
        }
        let (mut spared, mut is_quiet) = (None, true);
        for call in &read.calls {
            let found = frame::with_command(self.table, &call.frame, |command, spec| {
                is_quiet &= !self.policy.speaks_of(spec.id);
                self.judges(call, (spec, *command), keys)
            });
            match found.flatten() {
                Some(verdict) if verdict.is_enforced => return (Some(verdict), false),
                // One that is meant may follow.
                verdict => spared = spared.or(verdict),
            }
        }
        (spared, is_quiet)
    }

    /// Whether a command that a script calls is denied to its client, or would be.
    fn judges(
        &self,
        call: &Literal,
        (spec, command): (&Spec, Command<'_>),
        keys: &mut Vec<KeyPosition>,
    ) -> Option<Verdict<'p>> {
        if !self.policy.speaks_of(spec.id) {
            return None;
        }
        // What has no keys, or makes no sense, leaves the list empty.
        let _ = keys::keys(spec, &command, keys);
        let case = Case { spec, command, keys, caller: self.caller, now: self.now };
        let (mut decider, mut spared) = (None, None);
        self.policy.search(&case, &mut |rule, decides| {
            // How a call with computed arguments looks is not known; what restricts all of its kind
            // may stand behind.
            if !call.is_whole && !rule.shape.is_empty() && !rule.wants_all_keys() {
                return false;
            }
            if decides {
                decider = Some(rule);
            } else if !matches!(rule.action, Action::Pace(_)) {
                spared = spared.or(Some(rule));
            }
            decides
        });
        let is_denial = |rule: &&Arc<Rule>| rule.action == Action::Deny;
        let decider = decider.filter(is_denial);
        let rule = decider.or(spared.filter(is_denial))?;
        let denied = Denied::by(rule, self.policy.version, &spec.name);
        let refusal = ScriptRefusal::Calls { line: call.line, denied: Box::new(denied) };
        Some(Verdict { refusal, is_enforced: decider.is_some(), rule: Some(rule) })
    }
}

// === impl ScriptRefusal ===

impl ScriptRefusal {
    /// How it is counted.
    fn fault(&self) -> ScriptFault {
        match self {
            Self::Endless { .. } => ScriptFault::Endless,
            Self::Calls { .. } => ScriptFault::Denied,
            Self::Quarantined { .. } => ScriptFault::Quarantined,
            Self::Busy { .. } => ScriptFault::Busy,
            Self::Crowded { .. } => ScriptFault::Crowded,
        }
    }
}

const EVAL: CommandId = builtin_id("eval");
const EVAL_RO: CommandId = builtin_id("eval_ro");
const EVALSHA: CommandId = builtin_id("evalsha");
const EVALSHA_RO: CommandId = builtin_id("evalsha_ro");
const FCALL: CommandId = builtin_id("fcall");
const FCALL_RO: CommandId = builtin_id("fcall_ro");
const FUNCTION_LOAD: CommandId = builtin_id("function|load");
const SCRIPT_LOAD: CommandId = builtin_id("script|load");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::BUILTIN_COUNT;
    use crate::command::tests::Request;
    use crate::policy::rule::{Commands, Shape};

    use crate::upstream::rig::Rig;

    /// A rule that denies KEYS.
    fn rule(name: &str, origin: Origin, shape: &[Shape]) -> Arc<Rule> {
        let id = Table::builtin().find("keys").unwrap().id;
        let builtin = (0..BUILTIN_COUNT).map(|index| index == id.index()).collect();
        Arc::new(Rule {
            origin,
            commands: Commands { builtin, ..Commands::default() },
            shape: shape.to_vec(),
            ..Rule::sample(name, Action::Deny)
        })
    }

    /// By which rule EVAL of this text would be refused, and whether that is meant.
    fn foreseen(policy: &Policy, text: &str) -> Option<(String, bool)> {
        let (table, request) = (Table::builtin(), Request::new(&[b"EVAL", text.as_bytes(), b"0"]));
        let spec = table.find("eval").unwrap();
        let caller = &Caller::default();
        let court = Court { table: &table, policy, caller, now: 1 };
        let verdict = foresee(&court, None, None, (spec, request.command()))?;
        let name = verdict.rule.map(|rule| rule.name.to_string()).unwrap_or_default();
        assert!(policy.rules().iter().all(|rule| rule.tally.hits() == 0), "it only asks");
        Some((name, verdict.is_enforced))
    }

    #[test]
    fn a_shape_that_cannot_be_seen_hides_no_other_rule() {
        let shaped = || rule("shaped", Origin::File, &[Shape::NoWord("limit".into())]);
        let plain = || rule("plain", Origin::File, &[]);
        let both = Policy::new(1, Profile::Guard, vec![shaped(), plain()]);
        let (known, computed) = ("redis.call('KEYS', 'a*')", "redis.call('KEYS', 'a*' .. ARGV[1])");
        assert_eq!(foreseen(&both, known), Some(("shaped".into(), true)));
        assert_eq!(foreseen(&both, computed), Some(("plain".into(), true)));
        let one = Policy::new(1, Profile::Guard, vec![shaped()]);
        assert_eq!(foreseen(&one, computed), None);
        let observing = Policy::new(1, Profile::Observe, vec![shaped(), plain()]);
        assert_eq!(foreseen(&observing, computed), Some(("plain".into(), false)));
    }

    #[test]
    fn what_an_emergency_forbids_is_forbidden_to_scripts_in_observe_as_well() {
        let mut rig = Rig::new();
        let (trial, order) =
            (rule("trial", Origin::File, &[]), rule("now", Origin::Emergency, &[]));
        let eval = |rig: &mut Rig, rules: Vec<Arc<Rule>>| {
            let policy = Policy::new(7, Profile::Observe, rules);
            rig.worker.shared.policy.store(Arc::new(policy));
            let client = rig.client();
            let text = "return redis.call('KEYS', '*')";
            rig.say(client, Request::new(&[&b"EVAL"[..], text.as_bytes(), b"0"]).command().frame());
            String::from_utf8(rig.take(client)).unwrap()
        };
        assert_eq!(eval(&mut rig, vec![Arc::clone(&trial)]), "", "it goes");
        assert_eq!((trial.tally.spared(), trial.tally.refused()), (1, 0));
        let told = eval(&mut rig, vec![Arc::clone(&trial), Arc::clone(&order)]);
        assert!(told.contains("script refused: line 1: 'keys' is denied by rule now"), "{told}");
        assert_eq!((order.tally.refused(), order.tally.hits()), (1, 1));
    }
}

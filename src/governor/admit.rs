//! Whether a script may be sent.
//!
//! Owns the judgement of one command that runs or brings a script: it is refused if its node is held
//! up by another one, if it had to be killed too often, if it holds a loop without end, or if it calls
//! by name what its client may not call. Never sends anything. An operator's rule that allows EVAL to
//! somebody takes the text on itself: then it is not looked into.
//!
//! What surprises: of a call with computed arguments only the name is judged. A rule that asks for the
//! shape of a command says nothing of it, because the arguments are not known.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::library::{Literal, Read};
use super::quarantine::Culprit;
use crate::clock::Micros;
use crate::command::Command;
use crate::command::keys;
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::config::Profile;
use crate::policy::rule::{Action, Origin, Rule};
use crate::policy::{Caller, Case, Policy};
use crate::refusal::denied::Denied;
use crate::refusal::script::ScriptRefusal;
use crate::route::{self, Place, frame};
use crate::scripts::parse_sha;
use crate::stats::control;
use crate::stats::labels::ScriptFault;
use crate::topology::Topology;
use crate::upstream::dial::Node;
use crate::worker::Worker;

/// The commands that are judged here.
pub const GOVERNED: [CommandId; 8] =
    [EVAL, EVAL_RO, EVALSHA, EVALSHA_RO, FCALL, FCALL_RO, SCRIPT_LOAD, FUNCTION_LOAD];

/// What speaks against a script.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The words.
    refusal: ScriptRefusal,
    /// The rule that denies what it calls.
    rule: Option<Arc<Rule>>,
    /// Whether it is refused for that. Nothing is in the profile observe, it is only counted.
    pub is_enforced: bool,
}

/// What speaks against a script, if anything does; `rule` is what decided about its command. Nothing
/// is counted: a command may have to wait, and is then looked at again.
pub fn admit(
    worker: &mut Worker,
    topology: &Topology,
    policy: &Policy,
    rule: Option<&Rule>,
    caller: &Caller<'_>,
    (spec, command): (&Spec, Command<'_>),
) -> Option<Finding> {
    let part = part(spec.id)?;
    let (refusal, rule) = if let Some(refusal) = held(worker, topology, part, spec, command) {
        (refusal, None)
    } else {
        let is_vouched_for = rule.is_some_and(|rule| {
            let is_let = matches!(rule.action, Action::Allow | Action::Observe);
            is_let && rule.origin != Origin::Catalogue
        });
        let read = (!is_vouched_for).then(|| read(worker, part, command)).flatten()?;
        fault(worker, topology, policy, caller, &read)?
    };
    Some(Finding { refusal, rule, is_enforced: policy.profile == Profile::Guard })
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
    let word = command.argument(1)?;
    let culprit = match part {
        Part::Runs(_) => Culprit::script(&governor.library.read(word)?.sha),
        Part::Calls => Culprit::script(&parse_sha(word)?),
        Part::Function => Culprit::function(word),
        Part::Brings(_) | Part::Library => return None,
    };
    let kills = governor.quarantine.holds(&culprit, now)?;
    Some(ScriptRefusal::Quarantined { culprit: culprit.to_string(), kills })
}

/// The node that a script would go to, as far as the map tells.
fn node(
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
    match part {
        Part::Runs(place) | Part::Brings(place) => library.read(command.argument(place)?),
        Part::Library => library.read(command.argument(command.len().checked_sub(1)?)?),
        Part::Calls => library.named(&parse_sha(command.argument(1)?)?),
        // Its text came with a FUNCTION LOAD, maybe over another proxy.
        Part::Function => None,
    }
}

/// What is wrong with a script, and by which rule.
fn fault(
    worker: &mut Worker,
    topology: &Topology,
    policy: &Policy,
    caller: &Caller<'_>,
    read: &Read,
) -> Option<(ScriptRefusal, Option<Arc<Rule>>)> {
    if let Some(text) = &read.endless {
        return Some((ScriptRefusal::Endless { text: text.clone() }, None));
    }
    // That no rule speaks of its commands is found out once for each policy and deployment.
    let judged = policy.version << 32 | (topology.epoch & u64::from(u32::MAX));
    if read.quiet_for.load(Ordering::Relaxed) == judged {
        return None;
    }
    let mut is_quiet = true;
    for call in &read.calls {
        let found = frame::with_command(&topology.table, &call.frame, |command, spec| {
            is_quiet &= !policy.speaks_of(spec.id);
            judge(worker, policy, caller, call, (spec, *command))
        });
        if let Some((refusal, rule)) = found.flatten() {
            return Some((refusal, Some(rule)));
        }
    }
    if is_quiet {
        read.quiet_for.store(judged, Ordering::Relaxed);
    }
    None
}

/// Whether a command that a script calls is denied to its client.
fn judge(
    worker: &mut Worker,
    policy: &Policy,
    caller: &Caller<'_>,
    call: &Literal,
    (spec, command): (&Spec, Command<'_>),
) -> Option<(ScriptRefusal, Arc<Rule>)> {
    if !policy.speaks_of(spec.id) {
        return None;
    }
    // What has no keys, or makes no sense, leaves the list empty.
    let _ = keys::keys(spec, &command, &mut worker.keys);
    let case = Case { spec, command, keys: &worker.keys, caller, now: worker.now };
    let mut passed = None;
    let decides = policy.judge(&case, &mut |rule| passed = passed.or(Some(rule)));
    // Where nothing is enforced every restriction lets pass, and what it would do is counted.
    let is_enforced = policy.profile == Profile::Guard;
    let rule = if is_enforced { decides } else { passed }?;
    let is_known = call.is_whole || rule.shape.is_empty();
    if rule.action != Action::Deny || !is_known {
        return None;
    }
    let denied = Denied::by(rule, policy.version, &spec.name);
    let refusal = ScriptRefusal::Calls { line: call.line, denied: Box::new(denied) };
    Some((refusal, Arc::clone(rule)))
}

// === impl Finding ===

impl Finding {
    /// Counts it, once for each command.
    pub fn count(&self) {
        control::script_refused(self.refusal.fault(), self.is_enforced);
        if let Some(rule) = &self.rule {
            rule.tally.note(self.is_enforced);
        }
    }

    /// Why the script is not sent, if it is not.
    #[must_use]
    pub fn refusal(self) -> Option<ScriptRefusal> {
        self.is_enforced.then_some(self.refusal)
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

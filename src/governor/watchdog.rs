//! The watchdog: frees a node from a script that does not end.
//!
//! Owns the task of the control plane that looks at each node, acts on what [`super::incident`] decides,
//! and tells people what it cannot repair. Never kills without having asked the node in the moment
//! before, on the same connection, whether it is still busy, and with what: a function is named by the
//! node, and only ours is killed. One KILL an incident; what could not be written is tried again after a
//! second.
//!
//! What surprises: a script that has written cannot be killed by anybody. The node is then taken for
//! lost, so that commands fail at once and not after their deadlines, and an alarm names the script.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::incident::{Act, Incident, Seen, Shot};
use super::running::{Script, Stopper};
use super::stats::{self, Sight};
use crate::clock::{self, Micros};
use crate::config::Profile;
use crate::events;
use crate::findings::Finding;
use crate::resp::write;
use crate::stats::control;
use crate::stats::labels::ScriptKill;
use crate::topology::{Topology, pulse};
use crate::upstream::dial::{DialError, Node};
use crate::upstream::health::chart::Signal;
use crate::watch;
use crate::worker::Shared;

/// What is to be told of nodes, by their names.
type Alarms = Rc<RefCell<BTreeMap<String, Finding>>>;

/// Looks after all nodes of whatever is published as the upstream.
pub async fn follow(shared: Arc<Shared>) -> Infallible {
    let alarms = Alarms::default();
    let mut incidents: BTreeMap<String, Incident> = BTreeMap::new();
    let mut told = 0;
    // A thousand steps are chance enough.
    let jitter = crate::random::below(1_000) as f64 / 1_000.0;
    loop {
        let nodes = watch::nodes(&shared.topology.load());
        incidents.retain(|name, incident| {
            incident.is_on() && nodes.iter().any(|node| node.name == *name)
        });
        for node in &nodes {
            let busy = node.health.busy();
            if busy.is_none() && !incidents.contains_key(&node.name) {
                continue;
            }
            let incident = incidents.entry(node.name.clone()).or_default();
            let own = node.running.own();
            let seen = Seen { now: clock::micros(), busy, own: &own, jitter };
            let settings = shared.watch.load().scripts;
            let (script, at) = match incident.look(&seen, &settings) {
                Act::Wait => continue,
                Act::KillOwn(script, at) => (Some(script), at),
                Act::KillAny => (None, seen.now),
            };
            begin(&shared, node, (script, at), incident.shot(), &alarms);
        }
        alarms.borrow_mut().retain(|name, _| incidents.get(name).is_some_and(Incident::is_on));
        let count = alarms.borrow().len();
        if count != told {
            told = count;
            shared.findings.set("scripts", alarms.borrow().values().cloned().collect());
        }
        let is_any = incidents.values().any(Incident::is_on);
        sleep(if is_any { LOOK_BUSY } else { LOOK }).await;
    }
}

/// Sends the one command in a task of its own: other nodes must not wait for it.
fn begin(
    shared: &Arc<Shared>,
    node: &Arc<Node>,
    (script, at): (Option<Arc<Script>>, Micros),
    shot: Shot,
    alarms: &Alarms,
) {
    let what = match &script {
        Some(script) => name_of(script),
        None => "a script of somebody else".into(),
    };
    if shared.policy.load().profile != Profile::Guard {
        control::script_kill(ScriptKill::Observed);
        return events::script_spared(&node.name, &what);
    }
    let (shared, node, alarms) = (Arc::clone(shared), Arc::clone(node), Rc::clone(alarms));
    tokio::task::spawn_local(async move {
        let is_written = Cell::new(false);
        let killing = kill(&shared, &node, script.as_deref(), at, &is_written);
        let result = match timeout(KILL_WITHIN, killing).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Killed::Failed(error.text),
            Err(_) => Killed::Failed(format!("no answer within {KILL_WITHIN:?}")),
        };
        if !is_written.get() {
            shot.give_back(clock::micros());
        }
        conclude(&shared, &node, script.as_deref(), &what, result, &alarms);
    });
}

/// What became of it.
#[derive(Debug)]
enum Killed {
    /// It was killed.
    Yes,
    /// It had ended before anything was sent, or before that was read.
    Over,
    /// It has written.
    Unkillable,
    /// Something else is in the way, in words.
    Failed(String),
}

/// Asks the node at that time what it is busy with, and kills it if that may still be what was meant.
/// `is_written` tells whether KILL may be on its way, also if this is given up.
async fn kill(
    shared: &Shared,
    node: &Node,
    script: Option<&Script>,
    at: Micros,
    is_written: &Cell<bool>,
) -> Result<Killed, DialError> {
    let mut exchange = watch::connect(node, shared, "breakwater:kill").await?;
    sleep(Duration::from_micros(at.saturating_sub(clock::micros()))).await;
    let replies = pulse::ask_all(&mut exchange, &[&[b"PING"]]).await?;
    let Some(stopper) = replies.first().and_then(stopper_named) else {
        return Ok(Killed::Over);
    };
    let topology = shared.topology.load_full();
    let (container, full) = match stopper {
        Stopper::Function => ("FUNCTION", "function|kill"),
        _ => ("SCRIPT", "script|kill"),
    };
    let mut command = Vec::new();
    write::command(&mut command, &[&wire_name(&topology, container, full), b"KILL"]);
    if let Some(script) = script.filter(|_| stopper == Stopper::Function) {
        let function = wire_name(&topology, "FUNCTION", "function|stats");
        let replies = pulse::ask_all(&mut exchange, &[&[&function, b"STATS"]]).await?;
        let reply = replies.first().map_or(&[][..], |reply| reply);
        match stats::read(reply, script, clock::micros()) {
            Sight::Seen => {}
            Sight::Other => return Ok(Killed::Over),
            Sight::Hidden(reason) => return Ok(Killed::Failed(reason)),
        }
    }
    // Nothing is awaited between this look and the write.
    if script.is_some_and(|script| script.is_over() || !script.stopped_by.fits(stopper)) {
        return Ok(Killed::Over);
    }
    is_written.set(true);
    let replies = pulse::converse(&mut exchange, &command, 1).await?;
    Ok(replies.first().map_or(Killed::Over, result_of))
}

/// What the node calls a container whose subcommand has this full name: it may have been renamed.
fn wire_name(topology: &Topology, container: &str, full: &str) -> Vec<u8> {
    let spec = topology.table.find(full);
    let renamed = spec.and_then(|spec| spec.wire_name.as_deref());
    renamed.unwrap_or(container.as_bytes()).to_vec()
}

/// What the node says would stop what it is busy with; `None`: it is not busy, or with a module's
/// command, which nothing stops.
fn stopper_named(reply: &Bytes) -> Option<Stopper> {
    let text = reply.strip_prefix(b"-BUSY")?;
    let holds = |words: &[u8]| text.windows(words.len()).any(|it| it == words);
    match () {
        () if holds(b"FUNCTION KILL") => Some(Stopper::Function),
        () if holds(b"SCRIPT KILL") => Some(Stopper::Script),
        () => None,
    }
}

fn result_of(reply: &Bytes) -> Killed {
    match reply.first() {
        Some(b'+') => Killed::Yes,
        _ if reply.starts_with(b"-NOTBUSY") => Killed::Over,
        _ if reply.starts_with(b"-UNKILLABLE") => Killed::Unkillable,
        _ => Killed::Failed(String::from_utf8_lossy(reply).trim().to_owned()),
    }
}

/// Counts and tells what became of it, and remembers whose fault it was.
fn conclude(
    shared: &Shared,
    node: &Node,
    script: Option<&Script>,
    what: &str,
    result: Killed,
    alarms: &Alarms,
) {
    let now = clock::micros();
    let alarm = match result {
        Killed::Yes => {
            control::script_kill(ScriptKill::Killed);
            events::script_killed(&node.name, what);
            if let Some(culprit) = script.and_then(|script| script.culprit.clone()) {
                shared.governor.quarantine.note(culprit, now);
            }
            return;
        }
        Killed::Over => return control::script_kill(ScriptKill::Over),
        Killed::Unkillable => {
            control::script_kill(ScriptKill::Unkillable);
            node.note(Signal::Unkillable, now);
            let text = format!(
                "{what} does not end, keeps everybody from being served, and has written: the server \
                 lets nobody kill it"
            );
            let repair = "fail over to a replica, or redis-cli SHUTDOWN NOSAVE, which loses what was \
                          not saved";
            Finding::critical("script_unkillable", &node.name, text, repair.into())
        }
        Killed::Failed(reason) => {
            control::script_kill(ScriptKill::Failed);
            let text = format!("{what} does not end, and could not be killed: {reason}");
            let repair = "redis-cli SCRIPT KILL, or FUNCTION KILL; give our user +script|kill, \
                          +function|kill and +function|stats";
            Finding::critical("script_not_killed", &node.name, text, repair.into())
        }
    };
    alarms.borrow_mut().insert(node.name.clone(), alarm);
}

/// A script of ours, for people.
fn name_of(script: &Script) -> String {
    let who = &script.caller;
    match &script.culprit {
        Some(culprit) => format!("script {culprit} of {who}"),
        None => format!("a script in a transaction of {who}"),
    }
}

/// How often it is looked whether a node is busy, and while one is.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_BUSY: Duration = Duration::from_millis(25);
/// How long the dial and the two questions may take.
const KILL_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunFlags;
    use crate::config::Settings;
    use crate::policy::Policy;
    use crate::upstream::rig::Rig;

    #[tokio::test]
    async fn a_kill_that_was_never_written_is_given_back() {
        let rig = Rig::with(|settings| {
            // Nobody listens there.
            let upstream = Some("redis://127.0.0.1:1".into());
            let flags = RunFlags { upstream, ..RunFlags::default() };
            *settings = Settings::load(&flags).unwrap().upstream;
        });
        let (shared, alarms, shot) = (&rig.worker.shared, Alarms::default(), Shot::default());
        shared.policy.store(Arc::new(Policy::new(1, Profile::Guard, Vec::new())));
        let node = Arc::clone(&shared.topology.load().node);
        shot.take();
        let start = clock::micros();
        assert!(!shot.is_free(Micros::MAX - 1));
        let killing = async {
            begin(shared, &node, (None, 0), shot.clone(), &alarms);
            while alarms.borrow().is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let tasks = tokio::task::LocalSet::new();
        timeout(Duration::from_secs(30), tasks.run_until(killing))
            .await
            .expect("it says that it failed");
        assert!(shot.is_free(Micros::MAX - 1), "it is tried again");
        assert!(!shot.is_free(start), "and not at once");
    }

    #[test]
    fn the_servers_own_words_tell_what_stops_its_script() {
        let named = |text: &'static str| stopper_named(&Bytes::from_static(text.as_bytes()));
        let busy = "-BUSY Redis is busy running a script. You can only call";
        let script = format!("{busy} SCRIPT KILL or SHUTDOWN NOSAVE.\r\n");
        let function = format!("{busy} FUNCTION KILL or SHUTDOWN NOSAVE.\r\n");
        assert_eq!(stopper_named(&Bytes::from(script)), Some(Stopper::Script));
        assert_eq!(stopper_named(&Bytes::from(function)), Some(Stopper::Function));
        assert_eq!(named("-BUSY Redis is busy running a module command.\r\n"), None);
        assert_eq!(named("+PONG\r\n"), None);
        assert_eq!(named("-BUSYKEY SCRIPT\r\n"), None);
    }

    #[test]
    fn each_answer_to_a_kill_has_its_meaning() {
        let result = |text: &'static str| result_of(&Bytes::from_static(text.as_bytes()));
        assert!(matches!(result("+OK\r\n"), Killed::Yes));
        assert!(matches!(result("-NOTBUSY No scripts in execution right now.\r\n"), Killed::Over));
        assert!(matches!(result("-UNKILLABLE Sorry\r\n"), Killed::Unkillable));
        assert!(matches!(result("-NOPERM no\r\n"), Killed::Failed(_)));
    }
}

//! When a script is killed: the decision, without clock and without I/O.
//!
//! Owns what the [`super::watchdog`] remembers of one node from one look to the next, and the rule for
//! acting. Never sends anything. `docs/decisions/0023-who-kills-a-script.md` argues it.
//!
//! What surprises: that a script of ours has no reply while the node is busy proves that it is the one
//! that runs. One that only waited behind another client's would have been told BUSY by then: a busy
//! node reads all its connections, and answers each command at once.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::running::Script;
use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::config::{ScriptSettings, Watchdog};

/// What is remembered of a node.
#[derive(Debug, Default)]
pub struct Incident {
    /// Since when it has been busy without a break that was seen.
    busy_from: Option<Micros>,
    /// The script of ours that must be the one that runs, and since when that is known.
    suspect: Option<(Arc<Script>, Micros)>,
    /// Until when several scripts of ours might have been the one that runs.
    unclear_until: Micros,
    /// Its one KILL.
    shot: Shot,
}

/// The one KILL of an incident, shared with the task that is to write it. A task that outlives its
/// incident says so to nobody.
#[derive(Clone, Debug, Default)]
pub struct Shot(Rc<Cell<Micros>>);

/// What a look has seen.
#[derive(Debug)]
pub struct Seen<'a> {
    /// When.
    pub now: Micros,
    /// When the node has first and last said that it is busy; `None`: it has served since.
    pub busy: Option<(Micros, Micros)>,
    /// Scripts of ours without a reply.
    pub own: &'a [Arc<Script>],
    /// Between 0 and 1, drawn once for this process: how much longer it waits than it must.
    pub jitter: f64,
}

/// What is to be done.
#[derive(Debug)]
pub enum Act {
    /// Nothing.
    Wait,
    /// This script of ours is to be killed at that time: soon, so that a connection can be made.
    KillOwn(Arc<Script>, Micros),
    /// Whatever runs is to be killed.
    KillAny,
}

// === impl Incident ===

impl Incident {
    /// Takes in what was seen.
    pub fn look(&mut self, seen: &Seen<'_>, settings: &ScriptSettings) -> Act {
        let Some((first, last)) = seen.busy else {
            *self = Self::default();
            return Act::Wait;
        };
        if self.suspect.as_ref().is_some_and(|(script, _)| script.is_over()) {
            // It has ended, so what keeps the node busy is another one.
            *self = Self::default();
        }
        let busy_from = *self.busy_from.get_or_insert(seen.now);
        if !self.shot.is_free(seen.now) || settings.watchdog == Watchdog::Off {
            return Act::Wait;
        }
        match seen.own {
            // What was handed over later than the node said so may not have been read yet.
            [script] if script.handed_at < last => {
                // Sent into a node that was busy by then, it has to prove itself from here on.
                let from = if script.handed_at < first { first } else { seen.now };
                let from = from.max(self.unclear_until);
                let (suspect, from) = self.suspect.get_or_insert((Arc::clone(script), from));
                if !Arc::ptr_eq(suspect, script) {
                    (*suspect, *from) = (Arc::clone(script), seen.now);
                }
                let at = *from + crate::clock::to_micros(settings.kill_after);
                if seen.now + LEAD >= at {
                    self.shot.take();
                    return Act::KillOwn(Arc::clone(script), at);
                }
            }
            [] if settings.watchdog == Watchdog::Any => {
                let patience = OTHERS_AFTER + (OTHERS_JITTER as f64 * seen.jitter) as Micros;
                if seen.now.saturating_sub(busy_from) >= patience {
                    self.shot.take();
                    return Act::KillAny;
                }
            }
            // Which of several runs cannot be told, and each has to prove itself anew.
            [_, _, ..] => {
                self.suspect = None;
                self.unclear_until = seen.now;
            }
            _ => {}
        }
        Act::Wait
    }

    /// What whoever acts reports to.
    #[must_use]
    pub fn shot(&self) -> Shot {
        self.shot.clone()
    }

    /// Whether the node was busy at the last look.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.busy_from.is_some()
    }
}

// === impl Shot ===

impl Shot {
    /// Nothing was written after all: it may be tried again, but not at once.
    pub fn give_back(&self, now: Micros) {
        self.0.set(now + AGAIN_AFTER);
    }

    /// Once something was written nothing else is, whatever became of it.
    pub(super) fn take(&self) {
        self.0.set(Micros::MAX);
    }

    /// Whether something may be written.
    pub(super) fn is_free(&self, now: Micros) -> bool {
        self.0.get() <= now
    }
}

/// How long after a KILL that could not be written the next one is tried.
const AGAIN_AFTER: Micros = SECOND;
/// How long before its time a kill is prepared: a busy node answers slowly.
const LEAD: Micros = 100 * MILLISECOND;
/// How long a script of somebody else has, where this proxy may kill it: its own proxy is first.
const OTHERS_AFTER: Micros = 3 * SECOND;
/// How much longer at most, so that not all proxies try at once.
const OTHERS_JITTER: Micros = 1_000 * MILLISECOND;

#[cfg(test)]
mod tests {
    use super::*;

    struct Node {
        incident: Incident,
        settings: ScriptSettings,
        /// When it said first that it is busy.
        first: Option<u64>,
    }

    impl Node {
        fn new(watchdog: Watchdog) -> Self {
            let settings = ScriptSettings { watchdog, ..ScriptSettings::default() };
            Self { incident: Incident::default(), settings, first: None }
        }

        /// A look at `now` milliseconds; the node has said last that it is busy at `last`.
        fn look(&mut self, now: u64, last: Option<u64>, own: &[&Arc<Script>]) -> &'static str {
            let own: Vec<Arc<Script>> = own.iter().map(|script| Arc::clone(script)).collect();
            let now = now * MILLISECOND;
            self.first = last.map(|last| self.first.unwrap_or(last));
            let busy =
                self.first.zip(last).map(|(first, last)| (first * MILLISECOND, last * MILLISECOND));
            let seen = Seen { now, busy, own: &own, jitter: 0.5 };
            match self.incident.look(&seen, &self.settings) {
                Act::Wait => "wait",
                Act::KillOwn(..) => "own",
                Act::KillAny => "any",
            }
        }
    }

    #[test]
    fn our_own_script_is_killed_once_and_not_before_its_time() {
        let sign = Script::at(0);
        let mut node = Node::new(Watchdog::Own);
        // What counts is when it was busy first, not when that was looked at.
        assert_eq!(node.look(400, None, &[sign.script()]), "wait", "nobody is kept waiting yet");
        assert_eq!(node.look(1_000, Some(1_000), &[sign.script()]), "wait");
        assert_eq!(node.look(1_399, Some(1_300), &[sign.script()]), "wait");
        assert_eq!(node.look(1_400, Some(1_400), &[sign.script()]), "own");
        for now in [1_501, 2_000, 9_000] {
            assert_eq!(node.look(now, Some(now), &[sign.script()]), "wait", "only once");
        }
    }

    #[test]
    fn what_was_never_written_is_tried_again_after_a_second() {
        let sign = Script::at(0);
        let mut node = Node::new(Watchdog::Own);
        assert_eq!(node.look(1_000, Some(1_000), &[sign.script()]), "wait");
        assert_eq!(node.look(1_400, Some(1_400), &[sign.script()]), "own");
        assert_eq!(node.look(2_600, Some(2_600), &[sign.script()]), "wait", "it is under way");
        let shot = node.incident.shot();
        shot.give_back(2_600 * MILLISECOND);
        assert_eq!(node.look(3_599, Some(3_599), &[sign.script()]), "wait");
        assert_eq!(node.look(3_600, Some(3_600), &[sign.script()]), "own");
        assert_eq!(
            node.look(9_000, Some(9_000), &[sign.script()]),
            "wait",
            "it is under way again"
        );
        // The next incident has a shot of its own, which a late task of this one does not touch.
        assert_eq!(node.look(9_100, None, &[]), "wait");
        assert_eq!(node.look(10_000, Some(10_000), &[sign.script()]), "wait");
        assert_eq!(node.look(10_500, Some(10_500), &[sign.script()]), "own");
        shot.give_back(0);
        assert_eq!(node.look(20_000, Some(20_000), &[sign.script()]), "wait");
    }

    #[test]
    fn a_script_that_was_sent_into_a_busy_node_is_not_the_one_that_runs() {
        let sign = Script::at(1_200 * MILLISECOND);
        let mut node = Node::new(Watchdog::Own);
        assert_eq!(node.look(1_000, Some(1_000), &[]), "wait");
        assert_eq!(node.look(1_250, Some(1_100), &[sign.script()]), "wait");
        // The node says that it is busy after it was handed over: from there on it counts.
        assert_eq!(node.look(1_300, Some(1_300), &[sign.script()]), "wait");
        assert_eq!(node.look(1_690, Some(1_690), &[sign.script()]), "wait");
        assert_eq!(node.look(1_800, Some(1_800), &[sign.script()]), "own");
    }

    #[test]
    fn what_ended_by_itself_protects_who_comes_next() {
        let sign = Script::at(0);
        let mut node = Node::new(Watchdog::Own);
        assert_eq!(node.look(1_000, Some(1_000), &[sign.script()]), "wait");
        drop(sign);
        // The node never served in between, but it is not our script any more.
        for now in [1_490, 1_600, 5_000, 60_000] {
            assert_eq!(node.look(now, Some(now), &[]), "wait");
        }
        let next = Script::at(60_100 * MILLISECOND);
        assert_eq!(node.look(61_000, Some(61_000), &[next.script()]), "wait");
        assert_eq!(node.look(61_500, Some(61_500), &[next.script()]), "own");
    }

    #[test]
    fn who_cannot_tell_does_not_kill() {
        let (one, other) = (Script::at(0), Script::at(1));
        let mut node = Node::new(Watchdog::Own);
        for now in [1_000, 2_000, 9_000] {
            assert_eq!(node.look(now, Some(now), &[one.script(), other.script()]), "wait");
        }
        drop(other);
        assert_eq!(node.look(9_100, Some(9_100), &[one.script()]), "wait");
        assert_eq!(node.look(9_500, Some(9_600), &[one.script()]), "own");
    }

    #[test]
    fn others_are_killed_only_where_that_was_asked_for_and_later() {
        let mut own = Node::new(Watchdog::Own);
        let mut any = Node::new(Watchdog::Any);
        for (now, want) in [(1_000, "wait"), (4_000, "wait"), (4_499, "wait"), (4_500, "any")] {
            assert_eq!(own.look(now, Some(now), &[]), "wait");
            assert_eq!(any.look(now, Some(now), &[]), want, "{now}");
        }
        assert_eq!(any.look(9_000, Some(9_000), &[]), "wait", "only once");
        let sign = Script::at(0);
        let mut off = Node::new(Watchdog::Off);
        assert_eq!(off.look(1_000, Some(1_000), &[sign.script()]), "wait");
        assert_eq!(off.look(9_000, Some(9_000), &[sign.script()]), "wait");
        assert!(off.incident.is_on());
        assert_eq!(off.look(9_100, None, &[]), "wait");
        assert!(!off.incident.is_on());
    }
}

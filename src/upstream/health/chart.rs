//! What is known of a node, and the state that follows from it.
//!
//! Owns [`State`] and the pure machine that finds it from signals: what the node answers to
//! commands and to probes, dials that fail, silence. Never reads a clock, never acts: `health` does
//! both. Several things may be wrong at a time; the state is the gravest of them.
//!
//! What surprises: an error is a sign of life. MISCONF, OOM and BUSY come from a server that is
//! there and serves others; only what keeps *everybody* from being served is held against it.

use crate::clock::{Micros, SECOND};
use crate::stats::labels::{DialFailure, ErrorClass, NodeState};
use crate::upstream::dial::DialError;

/// How a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing has been heard of it yet.
    #[default]
    Unknown,
    /// It serves.
    Up,
    /// It serves reads and refuses writes.
    ReadOnly(Denial),
    /// A script or function keeps it from serving.
    Busy,
    /// The same, and it has written: nobody can end it.
    Unkillable,
    /// It reads its data set from disk.
    Loading,
    /// It is a replica without its primary that may not serve old data.
    MasterDown,
    /// It should be a primary and is a replica.
    Demoted,
    /// It is connected and says nothing.
    Stalled,
    /// It cannot be reached, for this reason.
    Down(DialFailure),
    /// It is well and refuses our password.
    ConfigError,
}

/// Why writes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It cannot save its data.
    Misconf,
    /// It is above `maxmemory`.
    Oom,
    /// Too few replicas are in step.
    NoReplicas,
}

/// What may be learnt of a node.
#[derive(Clone, Copy, Debug)]
pub enum Signal<'a> {
    /// A connection was made for a command.
    Dialled,
    /// A dial has failed in a way that concerns everybody.
    DialFailed {
        /// How.
        error: &'a DialError,
        /// Whether the control plane dialled, to see whether the node is back.
        is_probe: bool,
    },
    /// A connection that was ready has ended unasked.
    Lost(DialFailure),
    /// So many deadlines have passed.
    Late(u64),
    /// It has refused a command with an error of this class, and the command runs no user code.
    Refused(ErrorClass),
    /// A question has not been answered for long, nor has anything else come.
    Silent,
    /// Bytes of a reply have come while it was taken to be silent.
    Heard,
    /// The script that keeps it busy has written, and cannot be killed.
    Unkillable,
    /// It has answered the control plane.
    Beat(&'a Answered),
}

/// What the node has answered to a beat of the control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// The class of an error that came instead of PONG.
    pub error: Option<ErrorClass>,
    /// Whether it is a replica, if it was asked.
    pub is_replica: Option<bool>,
    /// Whether it should be a primary.
    pub expects_primary: bool,
    /// Whether we have credentials for it.
    pub has_credentials: bool,
    /// Whether a connection was made for this.
    pub by_dial: bool,
    /// Seconds that loading will take, if it has told.
    pub loading_left: Option<u64>,
    /// How long the answer took.
    pub took: Micros,
}

/// Everything known of one node.
#[derive(Debug, Default)]
pub struct Chart {
    /// Why it cannot be reached; the words are the operating system's or the node's own.
    down: Option<DialError>,
    /// What it answers instead of serving: Loading, Busy or MasterDown.
    excuse: Option<State>,
    /// The script that keeps it busy cannot be killed.
    is_unkillable: bool,
    is_silent: bool,
    is_demoted: bool,
    /// Why it refuses writes, and when it did so last.
    denial: Option<(Denial, Micros)>,
    /// It has refused our credentials, or wants some.
    is_barred: bool,
    /// It has answered at least once.
    is_known: bool,
    /// Seconds that loading will take, as it said last.
    pub loading_left: Option<u64>,
    /// How long the last answer to PING took.
    pub ping: Option<Micros>,
}

// === impl Chart ===

impl Chart {
    /// Takes a signal in.
    pub fn note(&mut self, signal: Signal<'_>, now: Micros) {
        match signal {
            Signal::Dialled | Signal::Lost(_) | Signal::Late(_) => {}
            Signal::DialFailed { error, .. } => self.dial_failed(error),
            Signal::Refused(class) => self.refused(class, now),
            // Only while it is busy: it may have ended meanwhile.
            Signal::Unkillable => self.is_unkillable = self.excuse == Some(State::Busy),
            Signal::Silent => self.is_silent = true,
            Signal::Heard => self.is_silent = false,
            Signal::Beat(answered) => self.beat(answered, now),
        }
    }

    /// The breaker has opened because of failures that were no dials.
    pub fn opened(&mut self, failure: DialFailure, words: &str) {
        let error = || DialError::new(failure, words.to_owned());
        self.down.get_or_insert_with(error);
    }

    /// The breaker was closed: whatever it was opened for is over.
    pub fn closed(&mut self) {
        self.down = None;
    }

    /// The gravest of what is wrong.
    #[must_use]
    pub fn state(&self) -> State {
        match (&self.down, self.excuse) {
            _ if self.is_barred => State::ConfigError,
            // One that loads is back, whatever its dials had been like.
            (_, Some(State::Loading)) => State::Loading,
            (Some(error), _) => State::Down(error.failure),
            _ if self.is_silent => State::Stalled,
            (None, Some(State::Busy)) if self.is_unkillable => State::Unkillable,
            (None, Some(excuse)) => excuse,
            _ if self.is_demoted => State::Demoted,
            _ => match self.denial {
                Some((denial, _)) => State::ReadOnly(denial),
                None if self.is_known => State::Up,
                None => State::Unknown,
            },
        }
    }

    /// Whether commands are not to be sent, not even where there is a connection.
    #[must_use]
    pub fn is_mute(&self) -> bool {
        let is_lost = self.is_unkillable && self.excuse == Some(State::Busy);
        self.is_silent || is_lost || matches!(self.excuse, Some(State::Loading | State::MasterDown))
    }

    /// The last failure, for whoever would have dialled.
    #[must_use]
    pub fn failure(&self) -> Option<&DialError> {
        self.down.as_ref()
    }

    fn dial_failed(&mut self, error: &DialError) {
        match error.failure {
            DialFailure::Loading => self.excuse = Some(State::Loading),
            DialFailure::Auth => self.is_barred = true,
            _ => self.is_barred = false,
        }
        if error.failure != DialFailure::Loading {
            // Whatever it said before, it does not say it now.
            self.excuse = None;
        }
        self.down = Some(error.clone());
    }

    fn refused(&mut self, class: ErrorClass, now: Micros) {
        if let Some(excuse) = excuse(class) {
            self.excuse = Some(excuse);
        } else if let Some(denial) = denial(class) {
            self.denial = Some((denial, now));
        } else if class == ErrorClass::Readonly {
            self.is_demoted = true;
        }
    }

    fn beat(&mut self, answered: &Answered, now: Micros) {
        self.is_known = true;
        self.is_silent = false;
        self.ping = Some(answered.took);
        self.excuse = answered.error.and_then(excuse);
        self.is_unkillable &= self.excuse == Some(State::Busy);
        self.loading_left = answered.loading_left.filter(|_| self.excuse == Some(State::Loading));
        self.is_barred = match answered.error {
            Some(ErrorClass::Noauth) => answered.has_credentials,
            _ => self.is_barred && !answered.by_dial,
        };
        self.is_demoted = match answered.is_replica {
            Some(is_replica) => is_replica && answered.expects_primary,
            None => self.is_demoted && answered.expects_primary,
        };
        // PING is refused as long as the data cannot be saved; of the others only writes tell, and
        // nobody may be writing any more.
        self.denial = match (answered.error.and_then(denial), self.denial) {
            (Some(denial), _) => Some((denial, now)),
            (None, Some((Denial::Misconf, _))) => None,
            (None, other) => other.filter(|(_, at)| now.saturating_sub(*at) < DENIAL_LASTS),
        };
    }
}

/// Whether an error says something of the node, and not only of the command.
#[must_use]
pub fn is_telling(class: ErrorClass) -> bool {
    let is_other = matches!(class, ErrorClass::Readonly | ErrorClass::Clusterdown);
    is_other || excuse(class).is_some() || denial(class).is_some()
}

/// What a node that answers so is doing instead of serving.
fn excuse(class: ErrorClass) -> Option<State> {
    match class {
        ErrorClass::Loading => Some(State::Loading),
        ErrorClass::Masterdown => Some(State::MasterDown),
        ErrorClass::Busy => Some(State::Busy),
        _ => None,
    }
}

fn denial(class: ErrorClass) -> Option<Denial> {
    match class {
        ErrorClass::Misconf => Some(Denial::Misconf),
        ErrorClass::Oom => Some(Denial::Oom),
        ErrorClass::Noreplicas => Some(Denial::NoReplicas),
        _ => None,
    }
}

// === impl State ===

impl State {
    /// The label of metrics.
    #[must_use]
    pub fn label(self) -> NodeState {
        match self {
            Self::Unknown => NodeState::Unknown,
            Self::Up => NodeState::Up,
            Self::ReadOnly(_) => NodeState::ReadOnly,
            Self::Busy => NodeState::Busy,
            Self::Unkillable => NodeState::Unkillable,
            Self::Loading => NodeState::Loading,
            Self::MasterDown => NodeState::MasterDown,
            Self::Demoted => NodeState::Demoted,
            Self::Stalled => NodeState::Stalled,
            Self::Down(_) => NodeState::Down,
            Self::ConfigError => NodeState::ConfigError,
        }
    }

    /// Whether it may change at any moment, so that it pays to look often. A full disk stays full
    /// for hours, and a fleet that asks ten times a second would be noticed.
    #[must_use]
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Busy | Self::Unkillable | Self::Loading | Self::MasterDown | Self::Stalled
        )
    }

    /// What follows "upstream 10.0.0.5:6379".
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Unknown => "has not been reached yet".into(),
            Self::Up => "is up".into(),
            Self::ReadOnly(Denial::Misconf) => "refuses writes (MISCONF: it cannot save)".into(),
            Self::ReadOnly(Denial::Oom) => "refuses writes (OOM: it is above maxmemory)".into(),
            Self::ReadOnly(Denial::NoReplicas) => {
                "refuses writes (NOREPLICAS: too few replicas in step)".into()
            }
            Self::Busy => "is busy with a script (busy)".into(),
            Self::Unkillable => {
                "is busy with a script that has written and cannot be killed (unkillable)".into()
            }
            Self::Loading => "is loading its data (loading)".into(),
            Self::MasterDown => "is a replica without its primary (masterdown)".into(),
            Self::Demoted => "is a replica (demoted)".into(),
            Self::Stalled => "does not answer (stalled)".into(),
            Self::Down(failure) => format!("is down ({})", failure.as_str()),
            Self::ConfigError => "refuses our user or password (auth)".into(),
        }
    }

    /// The next thing to do about it, as a command where there is one.
    #[must_use]
    pub fn repair(self) -> &'static str {
        use DialFailure as Failure;
        match self {
            Self::Unknown | Self::Up => "nothing to do",
            Self::ReadOnly(Denial::Misconf) => {
                "free the disk (df -h), then see INFO persistence and the server's log"
            }
            Self::ReadOnly(Denial::Oom) => {
                "redis-cli INFO memory: raise maxmemory, choose an eviction policy, or delete keys"
            }
            Self::ReadOnly(Denial::NoReplicas) => {
                "redis-cli INFO replication: bring the replicas back, or lower min-replicas-to-write"
            }
            Self::Busy => "redis-cli SCRIPT KILL, or FUNCTION KILL",
            Self::Unkillable => {
                "fail over to a replica, or redis-cli SHUTDOWN NOSAVE, which loses what was not saved"
            }
            Self::Loading => "wait; redis-cli INFO persistence tells how long",
            Self::MasterDown => "redis-cli INFO replication: find out why it lost its primary",
            Self::Demoted => "point the url to the primary that redis-cli ROLE names",
            Self::Stalled => {
                "redis-cli PING on its host; look for a slow command (SLOWLOG GET), a stopped \
                 process or a lost link"
            }
            Self::Down(Failure::Refused) => {
                "start the server there (systemctl status redis, kubectl get endpoints), or correct \
                 the upstream's url"
            }
            Self::Down(Failure::Timeout) => {
                "check the network policy and whether the host is alive (ping, kubectl get nodes)"
            }
            Self::Down(Failure::Unresolved) => {
                "check the name in the url and the resolver (getent hosts NAME)"
            }
            Self::Down(Failure::Reset) => {
                "look at the server's log, and for a proxy or firewall in between (redis-cli PING)"
            }
            Self::Down(Failure::Tls) => {
                "check the certificates on both sides (openssl s_client -connect HOST:PORT)"
            }
            Self::Down(Failure::MaxClients) => {
                "raise the server's maxclients or find who holds its connections (CLIENT LIST)"
            }
            Self::ConfigError => {
                "check user and password in the upstream's table (redis-cli ACL LIST)"
            }
            Self::Down(_) => "look at the server's log",
        }
    }
}

/// How long a refusal of writes is believed that only writes could repeat.
const DENIAL_LASTS: Micros = 10 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(error: Option<ErrorClass>) -> Answered {
        Answered { error, expects_primary: true, ..Answered::default() }
    }

    fn after(signals: &[Signal<'_>]) -> State {
        let mut chart = Chart::default();
        signals.iter().for_each(|&signal| chart.note(signal, 0));
        chart.state()
    }

    #[test]
    fn each_answer_has_its_state_and_none_of_them_is_down() {
        let table = [
            (None, State::Up),
            (Some(ErrorClass::Misconf), State::ReadOnly(Denial::Misconf)),
            (Some(ErrorClass::Loading), State::Loading),
            (Some(ErrorClass::Busy), State::Busy),
            (Some(ErrorClass::Masterdown), State::MasterDown),
            // What a stranger hears; nobody gave us a password, so nothing is wrong with it.
            (Some(ErrorClass::Noauth), State::Up),
            (Some(ErrorClass::Noperm), State::Up),
        ];
        for (error, want) in table {
            assert_eq!(after(&[Signal::Beat(&beat(error))]), want);
        }
        let mute = Answered { has_credentials: true, ..beat(Some(ErrorClass::Noauth)) };
        assert_eq!(after(&[Signal::Beat(&mute)]), State::ConfigError);
    }

    #[test]
    fn a_script_that_cannot_be_killed_mutes_its_node_until_it_ends() {
        let busy = beat(Some(ErrorClass::Busy));
        let mut chart = Chart::default();
        chart.note(Signal::Beat(&busy), 0);
        assert!(!chart.is_mute(), "it may end at any moment, or be killed");
        chart.note(Signal::Unkillable, 0);
        assert_eq!((chart.state(), chart.is_mute()), (State::Unkillable, true));
        chart.note(Signal::Beat(&busy), 0);
        assert_eq!((chart.state(), chart.is_mute()), (State::Unkillable, true));
        chart.note(Signal::Beat(&beat(None)), 0);
        assert_eq!((chart.state(), chart.is_mute()), (State::Up, false));
        chart.note(Signal::Beat(&busy), 0);
        assert_eq!(chart.state(), State::Busy, "the next script is another one");
        assert_eq!(after(&[Signal::Beat(&beat(None)), Signal::Unkillable]), State::Up);
    }

    #[test]
    fn refused_commands_tell_what_ping_does_not() {
        let up = beat(None);
        let mut chart = Chart::default();
        for (class, want) in [
            (ErrorClass::Oom, State::ReadOnly(Denial::Oom)),
            (ErrorClass::Noreplicas, State::ReadOnly(Denial::NoReplicas)),
            (ErrorClass::Wrongtype, State::ReadOnly(Denial::NoReplicas)),
            (ErrorClass::Readonly, State::Demoted),
        ] {
            chart.note(Signal::Refused(class), SECOND);
            chart.note(Signal::Beat(&up), 2 * SECOND);
            assert_eq!(chart.state(), want, "{class:?}");
            assert!(!chart.is_mute());
        }
        let primary = Answered { is_replica: Some(false), ..up };
        chart.note(Signal::Beat(&primary), 12 * SECOND);
        assert_eq!(chart.state(), State::Up, "a refusal that nobody repeats is over");
    }

    #[test]
    fn a_replica_is_demoted_only_where_a_primary_should_be() {
        let replica = Answered { is_replica: Some(true), ..beat(None) };
        assert_eq!(after(&[Signal::Beat(&replica)]), State::Demoted);
        let expected = Answered { expects_primary: false, ..replica };
        assert_eq!(after(&[Signal::Beat(&replica), Signal::Beat(&expected)]), State::Up);
    }

    #[test]
    fn silence_ends_with_the_first_byte_and_loading_is_more_than_silence() {
        let up = beat(None);
        assert_eq!(after(&[Signal::Beat(&up), Signal::Silent]), State::Stalled);
        assert_eq!(after(&[Signal::Beat(&up), Signal::Silent, Signal::Heard]), State::Up);
        let loading = beat(Some(ErrorClass::Loading));
        assert_eq!(after(&[Signal::Beat(&loading), Signal::Silent]), State::Loading);
    }

    #[test]
    fn a_wrong_password_is_no_dead_node_and_a_dead_node_is_no_wrong_password() {
        let error = |failure| DialError::new(failure, "text".into());
        let (auth, refused) = (error(DialFailure::Auth), error(DialFailure::Refused));
        let failed = |error| Signal::DialFailed { error, is_probe: true };
        assert_eq!(after(&[failed(&auth)]), State::ConfigError);
        assert_eq!(after(&[failed(&auth), failed(&refused)]), State::Down(DialFailure::Refused));
    }
}

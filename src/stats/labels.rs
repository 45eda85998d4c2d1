//! The label values of our metrics: small closed enums that double as array indexes.
//!
//! This file owns every word that may appear as a label value besides a command's name, so the
//! number of series is known when we compile and no key, value, address or user name can become a
//! label (INV-11). It counts nothing itself. What surprises: the order of the variants is the order
//! of the counters in memory. `ALL` must list every variant in the order of declaration; a test
//! compares them.

// INV-11: a label value is one of the words below or the name of a command of the table.

mod node;
mod policy;
mod script;

pub use node::NodeState;
pub use policy::{Paced, Rewritten};
pub use script::{ScriptFault, ScriptKill};

/// How a command of a client ended: each command is counted under exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream answered, and not with an error.
    Ok,
    /// The upstream answered with an error reply; see [`ErrorClass`] for which.
    ErrorReply,
    /// We answered with an error without asking the upstream: unknown command, arity, NOAUTH …
    Refused,
    /// It was accepted, but we know that no server has run it: no node, or lost while unsent.
    NotExecuted,
    /// It was handed to the kernel and no reply came: it may have run or not (INV-3).
    Unknown,
    /// We answered it as Redis would, without asking: HELLO, ECHO, CLIENT ID …
    Local,
}

/// The first word of an error reply of the upstream, reduced to a closed list.
///
/// The words are those that Redis 7.0 and Valkey 8 answer themselves; scripts and modules may
/// invent any other, which is why [`ErrorClass::Other`] exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// `ERR`: syntax, arity, wrong argument.
    Err,
    /// `WRONGTYPE`: the key holds another type than the command wants.
    Wrongtype,
    /// `MOVED`: the slot lives on another node.
    Moved,
    /// `ASK`: the slot is being migrated and the key is on the other node.
    Ask,
    /// `CLUSTERDOWN`: the slot has no owner or the cluster lost its majority.
    Clusterdown,
    /// `LOADING`: the node reads its data set from disk.
    Loading,
    /// `BUSY`: a script or function runs too long.
    Busy,
    /// `NOSCRIPT`: EVALSHA of a script that the node does not know.
    Noscript,
    /// `READONLY`: a write reached a replica.
    Readonly,
    /// `OOM`: the node is above `maxmemory` and may not evict.
    Oom,
    /// `MISCONF`: the node cannot persist and refuses writes.
    Misconf,
    /// `NOREPLICAS`: fewer healthy replicas than `min-replicas-to-write`.
    Noreplicas,
    /// `NOAUTH`: the upstream connection is not authenticated.
    Noauth,
    /// `WRONGPASS`: user name or password is wrong.
    Wrongpass,
    /// `NOPERM`: an ACL of the upstream forbids it.
    Noperm,
    /// `EXECABORT`: the transaction was discarded.
    Execabort,
    /// `MASTERDOWN`: a replica without its primary that may not serve stale data.
    Masterdown,
    /// `TRYAGAIN`: several keys of a slot that is half migrated.
    Tryagain,
    /// `CROSSSLOT`: keys of different slots in one command.
    Crossslot,
    /// `UNKILLABLE`: a script that has already written cannot be killed.
    Unkillable,
    /// `NOPROTO`: HELLO with a version that the node does not speak.
    Noproto,
    /// Every other first word.
    Other,
}

/// Why a client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedReason {
    /// The client closed it or sent QUIT.
    ClientClosed,
    /// It was silent for longer than the idle timeout.
    Idle,
    /// It sent bytes that are no request of the Redis protocol.
    ProtocolError,
    /// It took no byte of its replies for the whole stall limit.
    Stalled,
    /// The total memory budget was exhausted and this client held most.
    OutOfMemoryBudget,
    /// CLIENT KILL or the operator closed it.
    Killed,
    /// The process was draining.
    Drain,
    /// Its session panicked; others went on.
    Panic,
    /// The upstream failed after a reply had been delivered in part, so it could not be mended.
    StreamLost,
    /// The kernel refused our write.
    WriteError,
    /// It left more messages unread than its limits allow.
    SlowSubscriber,
    /// After a reconnect the upstream refused what it was subscribed to.
    SubscriptionLost,
    /// It was told to repeat a command, and nothing that it had sent behind may run.
    ToldToRepeat,
}

/// Why a client was turned away before it became a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// The cap on clients was reached.
    MaxClients,
    /// The TLS handshake failed or took too long.
    TlsHandshake,
    /// `accept` failed, usually for want of file descriptors.
    AcceptFailed,
}

/// Why a lane ended that we had not retired ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneLost {
    /// The node closed it in order: restart, CLIENT KILL, its own `timeout`.
    Closed,
    /// The connection was reset.
    Reset,
    /// The peer's kernel acknowledged nothing for the whole TCP user timeout.
    Timeout,
    /// TLS failed after the handshake.
    Tls,
    /// The node sent bytes that are no reply, or more replies than were asked for (INV-1).
    Protocol,
    /// We panicked while settling a reply of this lane.
    Panic,
    /// Every other error of the kernel.
    Other,
}

/// Why a dial to a node failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// Nobody listens there.
    Refused,
    /// No answer within the connect timeout.
    Timeout,
    /// The name has no address.
    Unresolved,
    /// The peer reset the connection before it was ready.
    Reset,
    /// The TLS handshake failed.
    Tls,
    /// The node rejected user or password, or asks for one that we do not have.
    Auth,
    /// The peer did not answer as Redis does.
    Protocol,
    /// The node is reading its data set from disk.
    Loading,
    /// The node has reached its `maxclients`.
    MaxClients,
    /// Every other error.
    Other,
}

/// Why we were allowed to send a command again (INV-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resent {
    /// It had never been completely handed to the kernel.
    Unsent,
    /// It only reads, so running it twice changes nothing.
    ReadOnly,
}

/// Why a command was routed again in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirected {
    /// The slot belongs to another node.
    Moved,
    /// The key is already where its slot is moving to.
    Ask,
    /// Some of its keys are there already.
    TryAgain,
    /// The cluster, or this node of it, cannot serve at the moment.
    NotNow,
    /// The node could not be reached, or its connection was lost before the command had left us.
    Unreachable,
}

/// What became of a changed configuration file (INV-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It was valid and is in force.
    Applied,
    /// It had complaints; the one in force before stays in force.
    Refused,
}

/// Why the resolver did not tell where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolverFailure {
    /// It said that it does not know.
    Error,
    /// It did not say anything in time.
    Timeout,
}

/// Why the nodes of a cluster were asked for the slot map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshTrigger {
    /// Nothing was known.
    Start,
    /// Nobody had asked for a while.
    Period,
    /// A worker met a redirect, or a slot that nobody serves.
    Sign,
    /// A control connection was lost, or is back.
    Connection,
    /// A node's idea of the cluster's epoch, size or state had changed.
    Glance,
    /// The one before had brought nothing that could be used.
    Retry,
}

/// What became of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// Members or owners have changed.
    Changed,
    /// All is as it was.
    Same,
    /// Nobody gave an answer that could be used.
    Silence,
    /// Only nodes answered that know less than we do.
    Stale,
    /// The nodes belong to different clusters, none of which has the majority.
    Divided,
}

// === impl Outcome ===

impl Outcome {
    /// Every outcome, in the order of declaration.
    pub const ALL: [Self; 6] =
        [Self::Ok, Self::ErrorReply, Self::Refused, Self::NotExecuted, Self::Unknown, Self::Local];

    /// The value of the label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ErrorReply => "error_reply",
            Self::Refused => "refused",
            Self::NotExecuted => "not_executed",
            Self::Unknown => "unknown",
            Self::Local => "local",
        }
    }
}

// === impl ErrorClass ===

impl ErrorClass {
    /// Every class, in the order of declaration.
    pub const ALL: [Self; 22] = [
        Self::Err,
        Self::Wrongtype,
        Self::Moved,
        Self::Ask,
        Self::Clusterdown,
        Self::Loading,
        Self::Busy,
        Self::Noscript,
        Self::Readonly,
        Self::Oom,
        Self::Misconf,
        Self::Noreplicas,
        Self::Noauth,
        Self::Wrongpass,
        Self::Noperm,
        Self::Execabort,
        Self::Masterdown,
        Self::Tryagain,
        Self::Crossslot,
        Self::Unkillable,
        Self::Noproto,
        Self::Other,
    ];

    /// The class of an error reply.
    ///
    /// `line` is the reply with or without its `-`, with or without its line end; of a RESP3 blob
    /// error it is the payload. The whole first word counts: `BUSYGROUP` is not `BUSY`.
    pub fn of(line: &[u8]) -> Self {
        let line = line.strip_prefix(b"-").unwrap_or(line);
        let is_end = |byte: &u8| matches!(byte, b' ' | b'\r' | b'\n');
        let word = line.split(is_end).next().unwrap_or_default();
        match word {
            b"ERR" => Self::Err,
            b"WRONGTYPE" => Self::Wrongtype,
            b"MOVED" => Self::Moved,
            b"ASK" => Self::Ask,
            b"CLUSTERDOWN" => Self::Clusterdown,
            b"LOADING" => Self::Loading,
            b"BUSY" => Self::Busy,
            b"NOSCRIPT" => Self::Noscript,
            b"READONLY" => Self::Readonly,
            b"OOM" => Self::Oom,
            b"MISCONF" => Self::Misconf,
            b"NOREPLICAS" => Self::Noreplicas,
            b"NOAUTH" => Self::Noauth,
            b"WRONGPASS" => Self::Wrongpass,
            b"NOPERM" => Self::Noperm,
            b"EXECABORT" => Self::Execabort,
            b"MASTERDOWN" => Self::Masterdown,
            b"TRYAGAIN" => Self::Tryagain,
            b"CROSSSLOT" => Self::Crossslot,
            b"UNKILLABLE" => Self::Unkillable,
            b"NOPROTO" => Self::Noproto,
            _ => Self::Other,
        }
    }

    /// The value of the label `code`: the word as Redis spells it, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Err => "err",
            Self::Wrongtype => "wrongtype",
            Self::Moved => "moved",
            Self::Ask => "ask",
            Self::Clusterdown => "clusterdown",
            Self::Loading => "loading",
            Self::Busy => "busy",
            Self::Noscript => "noscript",
            Self::Readonly => "readonly",
            Self::Oom => "oom",
            Self::Misconf => "misconf",
            Self::Noreplicas => "noreplicas",
            Self::Noauth => "noauth",
            Self::Wrongpass => "wrongpass",
            Self::Noperm => "noperm",
            Self::Execabort => "execabort",
            Self::Masterdown => "masterdown",
            Self::Tryagain => "tryagain",
            Self::Crossslot => "crossslot",
            Self::Unkillable => "unkillable",
            Self::Noproto => "noproto",
            Self::Other => "other",
        }
    }
}

// === impl ClosedReason ===

impl ClosedReason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 13] = [
        Self::ClientClosed,
        Self::Idle,
        Self::ProtocolError,
        Self::Stalled,
        Self::OutOfMemoryBudget,
        Self::Killed,
        Self::Drain,
        Self::Panic,
        Self::StreamLost,
        Self::WriteError,
        Self::SlowSubscriber,
        Self::SubscriptionLost,
        Self::ToldToRepeat,
    ];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::Idle => "idle",
            Self::ProtocolError => "protocol_error",
            Self::Stalled => "stalled",
            Self::OutOfMemoryBudget => "out_of_memory_budget",
            Self::Killed => "killed",
            Self::Drain => "drain",
            Self::Panic => "panic",
            Self::StreamLost => "stream_lost",
            Self::WriteError => "write_error",
            Self::SlowSubscriber => "slow_subscriber",
            Self::SubscriptionLost => "subscription_lost",
            Self::ToldToRepeat => "told_to_repeat",
        }
    }
}

// === impl TurnedAway ===

impl TurnedAway {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::MaxClients, Self::TlsHandshake, Self::AcceptFailed];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxClients => "max_clients",
            Self::TlsHandshake => "tls_handshake",
            Self::AcceptFailed => "accept_failed",
        }
    }
}

// === impl LaneLost ===

impl LaneLost {
    /// Every cause, in the order of declaration.
    pub const ALL: [Self; 7] = [
        Self::Closed,
        Self::Reset,
        Self::Timeout,
        Self::Tls,
        Self::Protocol,
        Self::Panic,
        Self::Other,
    ];

    /// The value of the label `cause`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Panic => "panic",
            Self::Other => "other",
        }
    }
}

// === impl DialFailure ===

impl DialFailure {
    /// Every cause, in the order of declaration.
    pub const ALL: [Self; 10] = [
        Self::Refused,
        Self::Timeout,
        Self::Unresolved,
        Self::Reset,
        Self::Tls,
        Self::Auth,
        Self::Protocol,
        Self::Loading,
        Self::MaxClients,
        Self::Other,
    ];

    /// The value of the label `cause`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unresolved => "unresolved",
            Self::Reset => "reset",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Protocol => "protocol",
            Self::Loading => "loading",
            Self::MaxClients => "max_clients",
            Self::Other => "other",
        }
    }
}

// === impl Redirected ===

impl Redirected {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 5] =
        [Self::Moved, Self::Ask, Self::TryAgain, Self::NotNow, Self::Unreachable];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Ask => "ask",
            Self::TryAgain => "tryagain",
            Self::NotNow => "not_now",
            Self::Unreachable => "unreachable",
        }
    }
}

// === impl Resent ===

impl Resent {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 2] = [Self::Unsent, Self::ReadOnly];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::ReadOnly => "read_only",
        }
    }
}

// === impl ResolverFailure ===

impl ResolverFailure {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 2] = [Self::Error, Self::Timeout];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Timeout => "timeout",
        }
    }
}

// === impl Reload ===

impl Reload {
    /// Every result, in the order of declaration.
    pub const ALL: [Self; 2] = [Self::Applied, Self::Refused];

    /// The value of the label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
        }
    }
}

// === impl RefreshTrigger ===

impl RefreshTrigger {
    /// Every trigger, in the order of declaration.
    pub const ALL: [Self; 6] =
        [Self::Start, Self::Period, Self::Sign, Self::Connection, Self::Glance, Self::Retry];

    /// The value of the label `trigger`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Period => "period",
            Self::Sign => "sign",
            Self::Connection => "connection",
            Self::Glance => "glance",
            Self::Retry => "retry",
        }
    }
}

// === impl RefreshOutcome ===

impl RefreshOutcome {
    /// Every outcome, in the order of declaration.
    pub const ALL: [Self; 5] =
        [Self::Changed, Self::Same, Self::Silence, Self::Stale, Self::Divided];

    /// The value of the label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Same => "same",
            Self::Silence => "silence",
            Self::Stale => "stale",
            Self::Divided => "divided",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Checks one enum: indexes follow `ALL`, words are distinct and fit for a label.
    fn check(indexes_and_words: &[(usize, &str)]) {
        let mut seen = HashSet::new();
        for (position, (index, word)) in indexes_and_words.iter().enumerate() {
            assert_eq!(position, *index, "{word} is not where ALL says");
            assert!(seen.insert(word), "{word} appears twice");
            assert!(!word.is_empty());
            assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{word}");
        }
    }

    #[test]
    fn every_enum_indexes_its_array_and_has_distinct_words() {
        check(&Outcome::ALL.map(|it| (it as usize, it.as_str())));
        check(&ErrorClass::ALL.map(|it| (it as usize, it.as_str())));
        check(&ClosedReason::ALL.map(|it| (it as usize, it.as_str())));
        check(&TurnedAway::ALL.map(|it| (it as usize, it.as_str())));
        check(&LaneLost::ALL.map(|it| (it as usize, it.as_str())));
        check(&DialFailure::ALL.map(|it| (it as usize, it.as_str())));
        check(&NodeState::ALL.map(|it| (it as usize, it.as_str())));
        check(&ScriptFault::ALL.map(|it| (it as usize, it.as_str())));
        check(&ScriptKill::ALL.map(|it| (it as usize, it.as_str())));
        check(&Redirected::ALL.map(|it| (it as usize, it.as_str())));
        check(&Resent::ALL.map(|it| (it as usize, it.as_str())));
        check(&Rewritten::ALL.map(|it| (it as usize, it.as_str())));
        check(&Paced::ALL.map(|it| (it as usize, it.as_str())));
        check(&Reload::ALL.map(|it| (it as usize, it.as_str())));
        check(&ResolverFailure::ALL.map(|it| (it as usize, it.as_str())));
        check(&RefreshTrigger::ALL.map(|it| (it as usize, it.as_str())));
        check(&RefreshOutcome::ALL.map(|it| (it as usize, it.as_str())));
    }

    #[test]
    fn every_class_is_found_by_its_own_word_in_every_spelling_of_the_line() {
        for class in ErrorClass::ALL.into_iter().filter(|class| *class != ErrorClass::Other) {
            let word = class.as_str().to_ascii_uppercase();
            for line in [
                word.clone(),
                format!("-{word}"),
                format!("{word} some text"),
                format!("-{word} some text\r\n"),
                format!("-{word}\r\n"),
                format!("{word}\n"),
            ] {
                assert_eq!(ErrorClass::of(line.as_bytes()), class, "{line:?}");
            }
        }
    }

    #[test]
    fn only_the_whole_first_word_in_upper_case_counts() {
        for line in [
            &b"BUSYGROUP Consumer Group name already exists"[..],
            b"BUSYKEY Target key name already exists.",
            b"-ERRATIC",
            b"ASKING",
            b"err lower case",
            b" ERR leading space",
            b"--ERR",
            b"ERR\tx",
            b"OO",
            b"-",
            b"",
            b"\r\n",
            b"\xff\x00",
        ] {
            assert_eq!(ErrorClass::of(line), ErrorClass::Other, "{line:?}");
        }
    }
}

//! One class of data: which keys → how they are served while all is well, and while it is not.
//!
//! Owns the keyspace as it is looked up, and what it has met. Never reads a file and never chooses a
//! node. What surprises: of a keyspace every setting may be absent, and then what the listener, the
//! upstream or the client says holds as if there were no keyspace. Only where something is written
//! it comes first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{Confirm, KeyPatterns, ReplicaReads};

/// A class of data.
#[derive(Clone, Debug)]
pub struct Keyspace {
    /// What refusals, logs and metrics call it; unique among keyspaces.
    pub name: Box<str>,
    /// Which keys; never empty.
    pub keys: KeyPatterns,
    /// Who serves reads; `None`: whom the upstream's settings and the client's READONLY name.
    pub read_from: Option<ReplicaReads>,
    /// How far a replica may be behind to serve reads, or to count for `min_replicas`; 1 second to 1
    /// hour.
    pub max_lag: Duration,
    /// Whether a replica serves reads while the primary cannot.
    pub reads_while_away: bool,
    /// How long a command may wait for a failover; `None`: as long as the listener allows.
    pub wait: Option<Duration>,
    /// How long its clients wait for a reply; `None`: what the listener says.
    pub client_timeout: Option<Duration>,
    /// Whether writes are refused.
    pub is_readonly: bool,
    /// So many replicas must be in step for a write to be let through; 1 to 100.
    pub min_replicas: Option<u64>,
    /// What replicas must have a write before its client is told that it succeeded.
    pub confirm: Option<Confirm>,
    /// What it has met; outlives a reload in which the keyspace does not change.
    pub met: Arc<Met>,
}

/// What became of the commands of one keyspace. Only its own commands touch these counts.
#[derive(Debug, Default)]
pub struct Met([AtomicU64; Fate::ALL.len()]);

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A read that went to the primary.
    Primary,
    /// A read that went to a replica.
    Replica,
    /// A read that went to a replica because its primary was away.
    PrimaryAway,
    /// A read that was refused because only a replica would do, and none was in step.
    NoReplica,
    /// A write that was refused because of `mode = "readonly"`.
    ReadOnly,
    /// A write that was refused because of `min_replicas`.
    OutOfStep,
}

// === impl Keyspace ===

impl Keyspace {
    /// Whether a replica may ever serve its reads.
    #[must_use]
    pub fn may_leave_primary(&self) -> bool {
        let wanted = !matches!(self.read_from, None | Some(ReplicaReads::Primary));
        wanted || self.reads_while_away
    }

    /// Whether two do the same, whatever they have met. Taken apart whole, so that a field which is
    /// added cannot be forgotten here.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let Self {
            name,
            keys,
            read_from,
            max_lag,
            reads_while_away,
            wait,
            client_timeout,
            is_readonly,
            min_replicas,
            confirm,
            met: _,
        } = self;
        (name, keys, read_from, max_lag)
            == (&other.name, &other.keys, &other.read_from, &other.max_lag)
            && (reads_while_away, is_readonly) == (&other.reads_while_away, &other.is_readonly)
            && (wait, client_timeout) == (&other.wait, &other.client_timeout)
            && (min_replicas, confirm) == (&other.min_replicas, &other.confirm)
    }

    /// What it does, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        if let Some(from) = self.read_from {
            words.push(format!("reads from {}", from.as_str()));
        }
        if self.reads_while_away {
            words.push("reads from a replica while the primary is away".to_owned());
        }
        if self.may_leave_primary() {
            words.push(format!("at most {:?} behind", self.max_lag));
        }
        if self.is_readonly {
            words.push("refuses writes".to_owned());
        }
        if let Some(count) = self.min_replicas {
            words.push(format!("writes while {count} replicas are within {:?}", self.max_lag));
        }
        if let Some(Confirm { replicas, within, .. }) = &self.confirm {
            words.push(format!("writes are confirmed by {replicas} within {within:?}"));
        }
        if let Some(wait) = self.wait {
            words.push(format!("waits {wait:?} for a failover"));
        }
        if let Some(timeout) = self.client_timeout {
            words.push(format!("clients give up after {timeout:?}"));
        }
        words.join(", ")
    }
}

#[cfg(test)]
impl Keyspace {
    /// One that says nothing, for tests.
    pub(crate) fn sample(name: &str, pattern: &str) -> Self {
        Self {
            name: name.into(),
            keys: KeyPatterns::from_iter([pattern]),
            read_from: None,
            max_lag: Duration::from_secs(10),
            reads_while_away: false,
            wait: None,
            client_timeout: None,
            is_readonly: false,
            min_replicas: None,
            confirm: None,
            met: Arc::default(),
        }
    }
}

// === impl Met ===

impl Met {
    /// One more.
    pub fn count(&self, fate: Fate) {
        if let Some(count) = self.0.get(fate as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many.
    #[must_use]
    pub fn of(&self, fate: Fate) -> u64 {
        self.0.get(fate as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

// === impl Fate ===

impl Fate {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 6] = [
        Self::Primary,
        Self::Replica,
        Self::PrimaryAway,
        Self::NoReplica,
        Self::ReadOnly,
        Self::OutOfStep,
    ];

    /// The word for metrics and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "read_primary",
            Self::Replica => "read_replica",
            Self::PrimaryAway => "read_replica_primary_away",
            Self::NoReplica => "refused_no_replica",
            Self::ReadOnly => "refused_readonly",
            Self::OutOfStep => "refused_min_replicas",
        }
    }
}

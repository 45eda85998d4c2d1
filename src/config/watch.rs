//! How the servers behind are watched, and what is expected of them: `[expect]`, `[watch]`,
//! `[slowlog]` and `[scripts]`, checked.
//!
//! Owns these settings and their defaults. Never judges what was written (`check/watch.rs` does).
//! What surprises: all of it is hot. Nothing here is held by a connection or a thread.

use std::time::Duration;

/// How the servers behind are watched, and what is expected of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    /// How often each server is asked how it is; 1 second to 1 hour.
    pub every: Duration,
    /// What there should be.
    pub expect: Expect,
    /// Which commands are remembered as slow.
    pub slowlog: SlowlogSettings,
    /// What is done about scripts that do not end.
    pub scripts: ScriptSettings,
}

/// What is done about a script that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptSettings {
    /// Whose scripts are killed.
    pub watchdog: Watchdog,
    /// How long a script of ours may keep its node busy after the node has said so; up to 1 minute.
    pub kill_after: Duration,
    /// How many of ours there may be at one node at a time; `None`: any number.
    pub in_flight_max: Option<usize>,
    /// How long one more may wait for its turn; zero: it is refused at once. Up to 1 minute.
    pub in_flight_wait: Duration,
}

/// Whose scripts are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watchdog {
    /// Those that came over this proxy.
    Own,
    /// Others as well, later.
    Any,
    /// Nobody's.
    Off,
}

/// What there should be behind us. `None`: what was there within the last hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Members of the cluster.
    pub nodes: Option<usize>,
    /// Replicas of each primary.
    pub replicas: Option<usize>,
    /// Sentinels of the group.
    pub sentinels: Option<usize>,
    /// Bytes that a server may use before something kills it; `None`: half more than its
    /// `maxmemory`, and without that the memory of its host.
    pub memory_limit: Option<u64>,
}

/// Which commands are remembered as slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowlogSettings {
    /// Those that took so long here and at their node together; 1 ms to 1 hour.
    pub threshold: Duration,
    /// Whether their first key is remembered with them (INV-11).
    pub keys: bool,
}

// === impl WatchSettings ===

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(10),
            expect: Expect::default(),
            slowlog: SlowlogSettings::default(),
            scripts: ScriptSettings::default(),
        }
    }
}

// === impl ScriptSettings ===

impl Default for ScriptSettings {
    /// Half a second behind the server's own patience; nobody else's scripts; as many as come.
    fn default() -> Self {
        Self {
            watchdog: Watchdog::Own,
            kill_after: Duration::from_millis(500),
            in_flight_max: None,
            in_flight_wait: Duration::from_secs(1),
        }
    }
}

// === impl SlowlogSettings ===

impl Default for SlowlogSettings {
    /// Redis's own threshold; no keys.
    fn default() -> Self {
        Self { threshold: Duration::from_millis(10), keys: false }
    }
}

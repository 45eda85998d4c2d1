//! The tables beside the road: the log, the bounds of memory, and how the servers are watched.
//!
//! Owns their keys and defaults, as `file.rs` does for listeners and the upstream. Never judges a
//! value.
//! What surprises: an absent expectation is no number here. What is then expected is what the
//! watcher has seen last.

use serde::Deserialize;
use toml::Spanned;

use super::super::quantity::{Size, Time};
use super::super::{MemorySettings, ScriptSettings, SlowlogSettings, WatchSettings};
use super::default;

/// `[log]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct WrittenLog {
    /// A level or a filter.
    pub(in crate::config) level: Spanned<String>,
    /// "text" or "json".
    pub(in crate::config) format: Spanned<String>,
}

/// `[memory]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct WrittenMemory {
    /// 64 KiB to 1 TiB.
    pub(in crate::config) session_reply_bytes: Spanned<Size>,
    /// 64 KiB to 1 TiB, at least a session's.
    pub(in crate::config) reply_bytes_total: Spanned<Size>,
    /// 64 KiB to 1 TiB.
    pub(in crate::config) request_bytes_total: Spanned<Size>,
    /// 1 ms to 1 minute.
    pub(in crate::config) lane_stall: Spanned<Time>,
    /// 1 ms to 1 hour, more than `lane_stall`.
    pub(in crate::config) client_stall: Spanned<Time>,
    /// 1 to 65,536.
    pub(in crate::config) session_commands_max: Spanned<usize>,
    /// Up to 1 GiB; 0 remembers nothing.
    pub(in crate::config) script_bytes_total: Spanned<Size>,
    /// Up to 1 GiB.
    pub(in crate::config) script_bytes: Spanned<Size>,
}

/// `[expect]`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct WrittenExpect {
    /// Members of the cluster, 1 to 10,000.
    pub(in crate::config) nodes: Option<Spanned<usize>>,
    /// Replicas of each primary, up to 1,000.
    pub(in crate::config) replicas: Option<Spanned<usize>>,
    /// Sentinels of the group, 1 to 1,000.
    pub(in crate::config) sentinels: Option<Spanned<usize>>,
    /// What a server may use before something kills it.
    pub(in crate::config) memory_limit: Option<Spanned<Size>>,
}

/// `[watch]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct WrittenWatch {
    /// 1 second to 1 hour.
    pub(in crate::config) every: Spanned<Time>,
}

/// `[slowlog]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct WrittenSlowlog {
    /// 1 ms to 1 hour.
    pub(in crate::config) threshold: Spanned<Time>,
    /// Keys are private: the operator must say so.
    pub(in crate::config) keys: Spanned<bool>,
}

/// `[scripts]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct WrittenScripts {
    /// "own", "any" or "off".
    pub(in crate::config) watchdog: Spanned<String>,
    /// Up to 1 minute.
    pub(in crate::config) kill_after: Spanned<Time>,
    /// 1 to 100,000; absent: no bound.
    pub(in crate::config) in_flight_max: Option<Spanned<usize>>,
    /// Up to 1 minute.
    pub(in crate::config) in_flight_wait: Spanned<Time>,
}

// === impl WrittenLog ===

impl Default for WrittenLog {
    fn default() -> Self {
        Self { level: default("info".to_owned()), format: default("text".to_owned()) }
    }
}

// === impl WrittenMemory ===

impl Default for WrittenMemory {
    fn default() -> Self {
        let MemorySettings {
            session_reply_bytes,
            reply_bytes_total,
            request_bytes_total,
            lane_stall,
            client_stall,
            session_commands_max,
            script_bytes_total,
            script_bytes,
        } = MemorySettings::default();
        Self {
            session_reply_bytes: default(Size(session_reply_bytes)),
            reply_bytes_total: default(Size(reply_bytes_total)),
            request_bytes_total: default(Size(request_bytes_total)),
            lane_stall: default(Time(lane_stall)),
            client_stall: default(Time(client_stall)),
            session_commands_max: default(session_commands_max),
            script_bytes_total: default(Size(script_bytes_total)),
            script_bytes: default(Size(script_bytes)),
        }
    }
}

// === impl WrittenWatch ===

impl Default for WrittenWatch {
    fn default() -> Self {
        Self { every: default(Time(WatchSettings::default().every)) }
    }
}

// === impl WrittenScripts ===

impl Default for WrittenScripts {
    fn default() -> Self {
        let ScriptSettings { kill_after, in_flight_wait, .. } = ScriptSettings::default();
        Self {
            watchdog: default("own".to_owned()),
            kill_after: default(Time(kill_after)),
            in_flight_max: None,
            in_flight_wait: default(Time(in_flight_wait)),
        }
    }
}

// === impl WrittenSlowlog ===

impl Default for WrittenSlowlog {
    fn default() -> Self {
        let SlowlogSettings { threshold, keys } = SlowlogSettings::default();
        Self { threshold: default(Time(threshold)), keys: default(keys) }
    }
}

//! The tables below `[upstream]` that hold writes back, as they are written.
//!
//! Owns the names of their keys and the defaults. Never judges a value. What surprises: a table that
//! is there and empty is a guard all the same, with the defaults.

use serde::Deserialize;
use toml::Spanned;

use super::super::quantity::Time;
use super::default;

/// `[upstream.write_guard]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct WrittenWriteGuard {
    /// 1 to 100.
    pub(in crate::config) replicas: Spanned<u64>,
    /// 1 second to 1 hour.
    pub(in crate::config) max_lag: Spanned<Time>,
    /// Patterns; none: all keys.
    pub(in crate::config) keys: Vec<Spanned<String>>,
}

/// `[upstream.confirm]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct WrittenConfirm {
    /// 1 to 100.
    pub(in crate::config) replicas: Spanned<u64>,
    /// 1 millisecond to 1 minute.
    pub(in crate::config) within: Spanned<Time>,
    /// Patterns; none: all keys.
    pub(in crate::config) keys: Vec<Spanned<String>>,
}

// === impl WrittenWriteGuard ===

impl Default for WrittenWriteGuard {
    fn default() -> Self {
        Self { replicas: default(1), max_lag: default(Time::secs(10)), keys: Vec::new() }
    }
}

// === impl WrittenConfirm ===

impl Default for WrittenConfirm {
    fn default() -> Self {
        Self { replicas: default(1), within: default(Time::ms(100)), keys: Vec::new() }
    }
}

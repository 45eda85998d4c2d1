//! What holds writes back to protect what is there: `split_brain` and its kin, checked.
//!
//! Owns these settings and their defaults. Never judges what was written (`check/guards.rs` does).
//! What surprises: a group behind Sentinels has two masters for some seconds after every failover,
//! a cluster never has; so only the former has a time of grace.

use std::time::Duration;

/// What holds writes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// What follows when two claim the same keys.
    pub split_brain: SplitBrain,
    /// How long a second master behind Sentinels may say that it is one before that counts; 1 second
    /// to 1 hour.
    pub split_brain_grace: Duration,
}

/// What follows when two primaries claim the same keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SplitBrain {
    /// Writes to those keys are refused while it lasts.
    #[default]
    RefuseWrites,
    /// It is only told.
    Report,
}

// === impl GuardSettings ===

impl Default for GuardSettings {
    fn default() -> Self {
        let split_brain_grace = Duration::from_secs(30);
        Self { split_brain: SplitBrain::default(), split_brain_grace }
    }
}

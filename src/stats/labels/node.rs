//! The label values that say how a node is.
//!
//! Owns the words of a node's states, and which cause of a failed dial a lost connection counts as.
//! Never decides in which state a node is: `upstream::health` does.

use super::{DialFailure, LaneLost};

/// How a node is, as all that was heard of it says together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Nothing has been heard of it yet.
    Unknown,
    /// It serves.
    Up,
    /// It serves reads and refuses writes.
    ReadOnly,
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
    /// It cannot be reached.
    Down,
    /// It refuses our user or password.
    ConfigError,
}

// === impl NodeState ===

impl NodeState {
    /// Every state, in the order of declaration.
    pub const ALL: [Self; 11] = [
        Self::Unknown,
        Self::Up,
        Self::ReadOnly,
        Self::Busy,
        Self::Unkillable,
        Self::Loading,
        Self::MasterDown,
        Self::Demoted,
        Self::Stalled,
        Self::Down,
        Self::ConfigError,
    ];

    /// The value of the label `state`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::ReadOnly => "read_only",
            Self::Busy => "busy",
            Self::Unkillable => "unkillable",
            Self::Loading => "loading",
            Self::MasterDown => "master_down",
            Self::Demoted => "demoted",
            Self::Stalled => "stalled",
            Self::Down => "down",
            Self::ConfigError => "config_error",
        }
    }
}

impl From<LaneLost> for DialFailure {
    fn from(cause: LaneLost) -> Self {
        match cause {
            LaneLost::Closed | LaneLost::Reset => Self::Reset,
            LaneLost::Timeout => Self::Timeout,
            LaneLost::Tls => Self::Tls,
            LaneLost::Protocol => Self::Protocol,
            LaneLost::Panic | LaneLost::Other => Self::Other,
        }
    }
}

//! The label values that say what became of a script.
//!
//! Owns these words. Never decides: `governor` does.

/// Why a script is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptFault {
    /// It holds a loop without end.
    Endless,
    /// It calls a command that its client may not call.
    Denied,
    /// It had to be killed too often.
    Quarantined,
    /// Its node is held up by another one.
    Busy,
    /// As many as there may be are at its node.
    Crowded,
}

/// What became of an attempt to end a script that did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptKill {
    /// It was killed.
    Killed,
    /// It had ended by itself.
    Over,
    /// It had written, and the server lets nobody kill it.
    Unkillable,
    /// The server could not be asked, or refused.
    Failed,
    /// The profile does not enforce anything.
    Observed,
}

// === impl ScriptFault ===

impl ScriptFault {
    /// Every fault, in the order of declaration.
    pub const ALL: [Self; 5] =
        [Self::Endless, Self::Denied, Self::Quarantined, Self::Busy, Self::Crowded];

    /// The value of the label `fault`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endless => "endless",
            Self::Denied => "denied",
            Self::Quarantined => "quarantined",
            Self::Busy => "busy",
            Self::Crowded => "crowded",
        }
    }
}

// === impl ScriptKill ===

impl ScriptKill {
    /// Every result, in the order of declaration.
    pub const ALL: [Self; 5] =
        [Self::Killed, Self::Over, Self::Unkillable, Self::Failed, Self::Observed];

    /// The value of the label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Over => "over",
            Self::Unkillable => "unkillable",
            Self::Failed => "failed",
            Self::Observed => "observed",
        }
    }
}

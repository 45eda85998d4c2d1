//! How much of the policy is enforced: one word for the whole process.
//!
//! Owns the profiles and their names. Never knows a rule: what each means for one is in
//! `policy::Rule::decides`. What surprises: a policy that nobody has made yet is open, whereas a process
//! that nobody has told anything guards.

/// How much of the policy is enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// No policy at all: only what is structural is refused.
    #[default]
    Open,
    /// Nothing is refused but what is structural; what would have been is counted.
    Observe,
    /// What the policy's rules and our catalogue refuse is refused.
    Guard,
}

// === impl Profile ===

impl Profile {
    /// The profile of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "guard" => Some(Self::Guard),
            "observe" => Some(Self::Observe),
            "open" => Some(Self::Open),
            _ => None,
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Observe => "observe",
            Self::Open => "open",
        }
    }
}

//! The words for what became of commands that a rule rewrites or paces.
//!
//! Owns these two lists and nothing else. What surprises: a command that is paged is counted when
//! its first page is asked for, whatever becomes of it.

/// What went in the place of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// Another command with the same answer.
    Renamed,
    /// The same with a smaller COUNT.
    Clamped,
    /// The same in parts.
    Divided,
    /// Pages of a cursor.
    Paged,
}

/// What became of a command that came too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paced {
    /// It waited for its turn.
    Delayed,
    /// It was refused.
    Refused,
}

// === impl Rewritten ===

impl Rewritten {
    /// Every way, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Renamed, Self::Clamped, Self::Divided, Self::Paged];

    /// The value of the label `how`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Renamed => "renamed",
            Self::Clamped => "clamped",
            Self::Divided => "divided",
            Self::Paged => "paged",
        }
    }
}

// === impl Paced ===

impl Paced {
    /// Every end, in the order of declaration.
    pub const ALL: [Self; 2] = [Self::Delayed, Self::Refused];

    /// The value of the label `outcome`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Refused => "refused",
        }
    }
}

//! What is counted, in words: for the error that a client gets.
//!
//! Owns the noun behind a number and what to do instead, where the operator has said nothing. Never
//! decides.

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Fields of a hash.
    Fields,
    /// Members of a set.
    Members,
    /// Elements of a list or a sorted set, by index.
    Elements,
    /// Elements of a sorted set, by score or name.
    Ranged,
    /// Members of a sorted set of places.
    Places,
    /// Entries of a stream.
    Entries,
    /// Elements that are to be sorted.
    Sorted,
    /// Members of several sets.
    Combined,
    /// Bytes of a string.
    Bytes,
    /// Bytes of several strings.
    Together,
    /// Bytes that a key takes.
    Dumped,
    /// Pairs of bytes that are compared.
    Comparisons,
    /// Elements that are looked at for an estimate.
    Samples,
    /// What a count asks for.
    Drawn(&'static str),
}

// === impl Unit ===

impl Unit {
    /// The noun.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Fields => "fields",
            Self::Members | Self::Places | Self::Combined => "members",
            Self::Elements | Self::Ranged | Self::Sorted | Self::Samples => "elements",
            Self::Entries => "entries",
            Self::Bytes | Self::Together | Self::Dumped => "bytes",
            Self::Comparisons => "comparisons",
            Self::Drawn(noun) => noun,
        }
    }

    /// What to do instead.
    #[must_use]
    pub fn cure(self) -> &'static str {
        match self {
            Self::Fields => "use HSCAN or HMGET",
            Self::Members => "use SSCAN or SMISMEMBER",
            Self::Elements => "ask for a shorter range",
            Self::Ranged => "add LIMIT",
            Self::Places | Self::Entries => "add COUNT",
            Self::Sorted => "read it in pages and sort them in the application",
            Self::Combined => "read the sets by SSCAN or ZSCAN and combine them in the application",
            Self::Bytes => "use GETRANGE for a part of it",
            Self::Together => "use fewer or shorter keys at a time",
            Self::Dumped => "copy it in parts (HSCAN, SSCAN, LRANGE)",
            Self::Comparisons => "compare shorter strings",
            Self::Samples => "use another number of SAMPLES than 0",
            Self::Drawn(_) => "use a smaller count",
        }
    }
}

//! An input of the fuzzer, read as a list of small decisions.
//!
//! Owns the position in it. Never fails: behind its end every decision is 0, so that a shorter input is a valid
//! one, and the fuzzer's cuts keep their meaning. Decisions are single bytes, which mutate well.

/// The decisions that are left.
#[derive(Clone, Debug)]
pub struct Tape<'a> {
    left: &'a [u8],
}

// === impl Tape ===

impl<'a> Tape<'a> {
    /// Reads from the first byte on.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { left: input }
    }

    /// Whether nothing is left to be decided.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    /// The next byte; 0 behind the end.
    pub fn byte(&mut self) -> u8 {
        match self.left {
            [first, rest @ ..] => {
                self.left = rest;
                *first
            }
            [] => 0,
        }
    }

    /// One of `choices`, which is at least 1.
    pub fn below(&mut self, choices: usize) -> usize {
        usize::from(self.byte()) % choices
    }

    /// A count that is mostly small: a byte below 192 is itself, and above that 64 steps up to about a million.
    pub fn count(&mut self) -> usize {
        match self.byte() {
            small @ 0..192 => usize::from(small),
            large => 192 << (usize::from(large - 192) / 5),
        }
    }

    /// Up to `length` bytes as they are.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(length.min(self.left.len()));
        self.left = left;
        taken
    }

    /// All that is left, as it is.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.left
    }
}

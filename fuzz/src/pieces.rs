//! How many bytes arrive at a time.
//!
//! Owns a generator of sizes: small ones most of the time, because that is where a scanner stops in the middle of
//! things, and now and then a large one. Never random by itself: the same seed gives the same sizes, so that a
//! finding can be repeated.

/// Sizes without end, each at least 1.
#[derive(Clone, Debug)]
pub struct Pieces {
    state: u64,
}

// === impl Pieces ===

impl Pieces {
    /// Sizes that follow from `seed`. Seed 0 means one byte at a time.
    #[must_use]
    pub fn new(seed: u8) -> Self {
        Self { state: u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }
}

impl Iterator for Pieces {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.state == 0 {
            return Some(1);
        }
        // xorshift64: a size needs no better randomness, and the state never becomes 0.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let (kind, value) = (self.state % 8, usize::try_from(self.state >> 32).unwrap_or(0));
        Some(match kind {
            0..=4 => 1 + value % 4,
            5 | 6 => 1 + value % 64,
            _ => 1 + value % 4096,
        })
    }
}

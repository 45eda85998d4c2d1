//! What a rule has met: how often, by whom last, and the biggest.
//!
//! Owns these counts, shared by workers; only commands that match a rule touch them. Never holds a key
//! or a value (INV-11).

use std::sync::atomic::{AtomicU64, Ordering};

/// What one rule has met.
#[derive(Debug, Default)]
pub struct Tally {
    /// Commands that it matched.
    hits: AtomicU64,
    /// Those that it refused.
    refused: AtomicU64,
}

// === impl Tally ===

impl Tally {
    /// It matched a command, which is refused or goes on.
    pub fn note(&self, is_refused: bool) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.refused.fetch_add(u64::from(is_refused), Ordering::Relaxed);
    }

    /// Commands that it matched.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Those that it refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

//! Which scripts the node at the end of one connection has, as far as that connection has seen.
//!
//! Owns a bounded set of names for each lane. Never outlives the connection: a node that was
//! restarted has forgotten its scripts, and whoever connects anew knows nothing. A name arrives
//! when a command that brings its script is *queued*, because whatever is queued behind it is run
//! behind it.
//!
//! What surprises: to forget is always safe. The script is then sent once more than it had to be.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::Sha;

/// The scripts of one connection.
#[derive(Debug, Default)]
pub struct Proven {
    shas: HashSet<Sha, RandomState>,
    /// [`super::Scripts::flushes`] when they were proven.
    flushes: u64,
    /// Position behind the last SCRIPT FLUSH on this connection: what was sent before it proves
    /// nothing.
    flushed_until: u64,
}

// === impl Proven ===

impl Proven {
    /// Whether the node has it; `flushes` is how often all was forgotten so far.
    #[must_use]
    pub fn contains(&self, sha: &Sha, flushes: u64) -> bool {
        self.flushes == flushes && self.shas.contains(sha)
    }

    /// A command that brings the script is queued, or has succeeded.
    pub fn insert(&mut self, sha: Sha, flushes: u64) {
        if self.flushes != flushes || self.shas.len() >= PROVEN_MAX {
            self.shas.clear();
            self.flushes = flushes;
        }
        self.shas.insert(sha);
    }

    /// The node has said that it does not have it.
    pub fn forget(&mut self, sha: &Sha) {
        self.shas.remove(sha);
    }

    /// A SCRIPT FLUSH is queued, and ends at this position of the connection's bytes.
    pub fn flush(&mut self, end: u64) {
        self.shas.clear();
        self.flushed_until = end;
    }

    /// Whether a command that ends here comes behind every SCRIPT FLUSH of this connection.
    #[must_use]
    pub fn is_behind_flush(&self, end: u64) -> bool {
        end > self.flushed_until
    }

    /// Another connection, or other commands in the queue than those that were proven by.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Scripts that one connection keeps in mind (20 bytes each); with more of them it starts anew.
const PROVEN_MAX: usize = 1024;

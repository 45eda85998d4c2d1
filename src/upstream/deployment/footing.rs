//! What a connection stands on, and whether that still holds.
//!
//! Owns the comparison of a live connection with what its deployment has learnt since it was made:
//! newer credentials that the node has accepted, and a name that leads elsewhere. Never closes
//! anything: whoever looks retires the connection, and a fresh one takes its place.
//!
//! What surprises: newer credentials alone are no reason. Until the node has accepted them once, a
//! connection that works would be given up for one that may not.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{Micros, SECOND};
use crate::config::Endpoint;
use crate::upstream::dial::Node;

/// What a connection was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footing {
    /// Which of our own credentials; `None` for those of a client.
    pub generation: Option<u64>,
    /// Where it leads; `None` for a unix socket.
    pub peer: Option<IpAddr>,
    /// How often names had changed when that was last compared.
    pub changes: u64,
}

/// Which of our credentials a node takes, and since when connections should have them.
#[derive(Debug, Default)]
pub struct Acceptance {
    generation: AtomicU64,
    /// When connections with older ones are to be replaced.
    due_at: AtomicU64,
}

// === impl Footing ===

impl Footing {
    /// Whether a connection to `node` should make way for a fresh one.
    pub fn is_outdated(&mut self, node: &Node, now: Micros) -> bool {
        let accepted = &node.acceptance;
        let is_older =
            self.generation.is_some_and(|it| it < accepted.generation.load(Ordering::Acquire));
        if is_older && now >= accepted.due_at.load(Ordering::Acquire) {
            return true;
        }
        let names = &node.deployment.names;
        if self.changes == names.changes() {
            return false;
        }
        let changes = names.changes();
        let is_misled = match (&node.settings.endpoint, self.peer) {
            (Endpoint::Tcp { host, .. }, Some(peer)) => !names.leads_to(host, peer),
            _ => false,
        };
        // Whoever is misled stays so until somebody acts on it.
        self.changes = if is_misled { self.changes } else { changes };
        is_misled
    }
}

// === impl Acceptance ===

impl Acceptance {
    /// The node has accepted credentials of that generation at `now`.
    pub fn note(&self, generation: u64, now: Micros) {
        if self.generation.load(Ordering::Acquire) >= generation {
            return;
        }
        // The first ones replace nothing. Later ones reach a whole fleet at once, and its servers
        // must not be dialled by all of it in the same moment.
        self.due_at.store(now + crate::random::below(SPREAD), Ordering::Release);
        self.generation.fetch_max(generation, Ordering::AcqRel);
    }
}

/// Within which time a fleet replaces its connections.
const SPREAD: Micros = 5 * SECOND;

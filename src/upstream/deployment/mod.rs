//! What all nodes of one deployment share, and what may change without moving to another one.
//!
//! Owns the credentials in their generations ([`keyring`]), the addresses behind names ([`names`]),
//! what follows from both for a live connection ([`footing`]), whether writes are let through, and
//! how clients are told that it is away. Each node holds the same one, whoever made the node: a
//! password that was rotated counts for a node that is found tomorrow as well. Never dials and never
//! publishes.
//!
//! What surprises: a node's `settings` say what was configured when the deployment was published;
//! where the two differ, this is newer.

pub mod footing;
pub mod keyring;
pub mod names;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::config::{Mode, UnavailableError, UpstreamSettings};
use keyring::Keyring;
use names::Names;

/// What the nodes of a deployment have in common.
#[derive(Debug)]
pub struct Deployment {
    /// Who we are to its nodes.
    pub keyring: Keyring,
    /// Where its names lead.
    pub names: Names,
    /// Whether writes are refused.
    is_readonly: AtomicBool,
    /// How *not executed* begins while it is away; only refusals read it.
    unavailable_error: RwLock<UnavailableError>,
}

// === impl Deployment ===

impl Deployment {
    /// As it is configured.
    #[must_use]
    pub fn new(settings: &UpstreamSettings) -> Self {
        Self {
            keyring: Keyring::new(settings.credentials.clone()),
            names: Names::default(),
            is_readonly: AtomicBool::new(settings.mode == Mode::ReadOnly),
            unavailable_error: RwLock::new(settings.unavailable_error),
        }
    }

    /// Sets whether writes are refused; whoever publishes tables makes them anew.
    pub fn set_mode(&self, mode: Mode) {
        self.is_readonly.store(mode == Mode::ReadOnly, Ordering::Relaxed);
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        self.is_readonly.load(Ordering::Relaxed)
    }

    /// Sets how *not executed* begins while the deployment is away.
    pub fn set_unavailable_error(&self, word: UnavailableError) {
        *self.unavailable_error.write().unwrap_or_else(PoisonError::into_inner) = word;
    }

    /// How *not executed* begins while the deployment is away.
    #[must_use]
    pub fn unavailable_error(&self) -> UnavailableError {
        *self.unavailable_error.read().unwrap_or_else(PoisonError::into_inner)
    }
}

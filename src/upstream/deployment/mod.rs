//! What all nodes of one deployment share, and what may change without moving to another one.
//!
//! Owns the credentials in their generations ([`keyring`]), the addresses behind names ([`names`]),
//! what follows from both for a live connection ([`footing`]), whether writes are let through, how
//! clients are told that it is away, and what keyspaces want to be known of it. Each node holds the same one, whoever made the node: a
//! password that was rotated counts for a node that is found tomorrow as well. Never dials and never
//! publishes.
//!
//! What surprises: a node's `settings` say what was configured when the deployment was published;
//! where the two differ, this is newer.

pub mod footing;
pub mod keyring;
pub mod names;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::config::{Mode, UnavailableError, UpstreamSettings};
use crate::policy::keyspaces::Wishes;
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
    /// How far behind replicas may be that serve reads of keyspaces; 0: none does.
    lag_wanted: AtomicU64,
    /// Whether primaries are to tell how many replicas are in step, for keyspaces.
    counts_replicas: AtomicBool,
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
            lag_wanted: AtomicU64::default(),
            counts_replicas: AtomicBool::default(),
        }
    }

    /// Sets what the control plane is to find out for keyspaces.
    pub fn wish(&self, wishes: Wishes) {
        self.lag_wanted.store(wishes.lag.unwrap_or_default(), Ordering::Relaxed);
        self.counts_replicas.store(wishes.counts_replicas, Ordering::Relaxed);
    }

    /// What the control plane is to find out for keyspaces.
    #[must_use]
    pub fn wishes(&self) -> Wishes {
        let lag = self.lag_wanted.load(Ordering::Relaxed);
        let counts_replicas = self.counts_replicas.load(Ordering::Relaxed);
        Wishes { lag: Some(lag).filter(|&lag| lag > 0), counts_replicas }
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

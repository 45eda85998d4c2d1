//! Several upstreams in one configuration: `[upstream]` and those of `[upstreams]`, by name.
//!
//! Owns what they are called, how many there may be, and finding one. What is written there is judged
//! by `check/`, as for the only one. What surprises: the default one has a name as well. Nobody writes
//! it, but metrics, the log and the admin port have to call it something beside others.

use super::checker::one_of;
use super::{Complaint, Settings, UpstreamSettings};

/// What the upstream of `[upstream]` is called beside others.
pub const UPSTREAM_DEFAULT: &str = "default";
/// Most upstreams of one process; each costs its own threads.
pub const UPSTREAMS_MAX: usize = 16;

/// An upstream and what the configuration calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedUpstream {
    /// [`UPSTREAM_DEFAULT`], or NAME of `[upstreams.NAME]`: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Where commands go.
    pub settings: UpstreamSettings,
}

// === impl Settings ===

impl Settings {
    /// All upstreams, the default one first.
    pub fn all_upstreams(&self) -> impl Iterator<Item = (&str, &UpstreamSettings)> {
        let others = self.upstreams.iter().map(|it| (&*it.name, &it.settings));
        std::iter::once((UPSTREAM_DEFAULT, &self.upstream)).chain(others)
    }

    /// The upstream of this name.
    #[must_use]
    pub fn upstream_named(&self, name: &str) -> Option<&UpstreamSettings> {
        self.all_upstreams().find(|(its_name, _)| *its_name == name).map(|(_, settings)| settings)
    }

    /// The upstream that `--upstream-name` asks for.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn upstream_asked_for(&self, name: &str) -> Result<&UpstreamSettings, Complaint> {
        self.upstream_named(name).ok_or_else(|| {
            let known: Vec<&str> = self.all_upstreams().map(|(name, _)| name).collect();
            Complaint::about("--upstream-name", one_of("name of an upstream", name, &known))
        })
    }

    /// Upstreams of which `next` may not be believed while the listeners are these: it leads some of
    /// theirs elsewhere, or nobody knows of them here or there. What it says of such a name is meant for
    /// other clients than those who are connected. A listener that is only added harms nobody: it is
    /// not open yet.
    #[must_use]
    pub fn led_elsewhere(&self, next: &Self) -> Vec<String> {
        if self.upstreams.is_empty() && next.upstreams.is_empty() {
            // There is nowhere else.
            return Vec::new();
        }
        let leads = |here: &super::ListenerSettings, it: &super::ListenerSettings| {
            // Not the whole address: who may connect to a socket does not matter here.
            it.address.to_string() == here.address.to_string() && it.upstream == here.upstream
        };
        let is_kept = |name: &str| {
            let here = self.listeners.iter().filter(|listener| listener.upstream == name);
            let stays = |here| next.listeners.iter().any(|there| leads(here, there));
            let is_known = self.upstream_named(name).is_some();
            is_known && next.upstream_named(name).is_some() && here.into_iter().all(stays)
        };
        let names = self.all_upstreams().chain(next.all_upstreams()).map(|(name, _)| name);
        let mut names: Vec<_> = names.filter(|name| !is_kept(name)).map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether the same names stand for upstreams here and there.
    pub(super) fn names_the_same_upstreams(&self, other: &Self) -> bool {
        let names = |it: &Self| -> Vec<String> {
            it.upstreams.iter().map(|upstream| upstream.name.clone()).collect()
        };
        names(self) == names(other)
    }
}

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

    /// Whether the same names stand for upstreams here and there.
    pub(super) fn names_the_same_upstreams(&self, other: &Self) -> bool {
        let names = |it: &Self| -> Vec<String> {
            it.upstreams.iter().map(|upstream| upstream.name.clone()).collect()
        };
        names(self) == names(other)
    }
}

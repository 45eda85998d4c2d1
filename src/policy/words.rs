//! How rules are called on pages, in answers and in labels.
//!
//! Owns these words and nothing else; what a file calls them stands with the reading of files. Never
//! shows more of a rule than its operator wrote. What surprises: the words for what is done are
//! written for somebody who was refused, not for whoever writes rules.

use super::rule::{Action, Mode, Origin, Rewrite, Rule};
use crate::config::Profile;

// === impl Origin ===

impl Origin {
    /// Every origin, in the order in which their rules are tried.
    pub const ALL: [Self; 3] = [Self::Emergency, Self::File, Self::Catalogue];

    /// The value of labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Emergency => "emergency",
            Self::File => "file",
            Self::Catalogue => "catalogue",
        }
    }
}

// === impl Action ===

impl Action {
    /// What it is called in files.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Observe => "observe",
            Self::Bound(_) => "bound",
            Self::Rewrite(_) => "rewrite",
            Self::Deny => "deny",
            Self::Pace(_) => "pace",
        }
    }

    /// What is done, in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Allow => "goes on, and no later rule is asked".to_owned(),
            Self::Observe => "goes on, and is noted".to_owned(),
            Self::Bound(bound) => {
                let always = if bound.is_always { ", each is asked before" } else { "" };
                format!("goes on if it reads at most {}{always}", bound.limit)
            }
            Self::Rewrite(rewrite) => rewrite.words(),
            Self::Deny => "is refused".to_owned(),
            Self::Pace(pace) => {
                let part = |most: Option<u64>, what| most.map(|most| format!("{most} {what}"));
                let parts = [part(pace.commands, "commands"), part(pace.bytes, "bytes")];
                let parts: Vec<String> = parts.into_iter().flatten().collect();
                format!("goes on while no more than {} come in a second", parts.join(" and "))
            }
        }
    }
}

// === impl Rewrite ===

impl Rewrite {
    fn words(&self) -> String {
        match self {
            Self::Unlink => "goes as UNLINK".to_owned(),
            Self::Async => "goes with ASYNC".to_owned(),
            Self::Scan(paging) => format!("is put together from pages of {}", paging.page),
            Self::ClampCount(most) => format!("goes with COUNT {most} at most"),
            Self::Batch(size) => format!("goes in parts of {size} keys"),
        }
    }
}

// === impl Rule ===

impl Rule {
    /// For whom it counts, in words.
    #[must_use]
    pub fn standing(&self, profile: Profile) -> String {
        let is_tried = profile != Profile::Guard && self.origin != Origin::Emergency;
        match (is_tried, self.mode, self.canary) {
            (true, ..) => format!("only observed, by profile {}", profile.name()),
            (_, Mode::Observe, _) => "only observed".to_owned(),
            (_, Mode::Enforce, 100..) => "enforced".to_owned(),
            (_, Mode::Enforce, share) => format!("enforced for {share} % of the clients"),
        }
    }
}

//! Where the policy in force comes from, and what is known beside it.
//!
//! Owns the account that the control plane gives of the policy, for pages and clients who ask: which
//! file, since when, what was wrong with the newest one; and the report of what rules have met. Never
//! looked at by a command that no rule matches. What surprises: after a refused file the account still
//! names the digest of the file that is in force, not of the one that lies there.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::offence::Report;

/// What pages show beside the policy itself.
#[derive(Debug, Default)]
pub struct Ledger {
    account: ArcSwap<Account>,
    /// What was refused, and what would have been.
    pub report: Report,
}

/// Where the policy in force comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Account {
    /// The file of rules as configured; `None`: only the profile's own rules.
    pub source: Option<String>,
    /// SHA-256 of the file that is in force, hexadecimal.
    pub sha256: Option<String>,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Why it is in force.
    pub cause: &'static str,
    /// How it differs from the one before.
    pub changes: String,
    /// It is an earlier one that an operator has asked for: the file says something else.
    pub is_rolled_back: bool,
    /// What is wrong with the newest file; gone with the next one that is right.
    pub complaint: Option<Complaint>,
}

/// A file that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Complaint {
    /// When, in seconds since 1970.
    pub at: u64,
    /// What is wrong, each with its file, line and column; at most [`LINES_MAX`].
    pub lines: Vec<String>,
}

// === impl Ledger ===

impl Ledger {
    /// The account as it is.
    #[must_use]
    pub fn account(&self) -> Arc<Account> {
        self.account.load_full()
    }

    /// Changes it. The control plane alone does, so no change of another is lost.
    pub fn amend(&self, change: impl FnOnce(&mut Account)) {
        let mut account = (*self.account()).clone();
        change(&mut account);
        self.account.store(Arc::new(account));
    }
}

// === impl Complaint ===

impl Complaint {
    /// Of these complaints, so many as a page can bear.
    #[must_use]
    pub fn of(at: u64, complaints: &[crate::config::Complaint]) -> Self {
        let mut lines: Vec<String> =
            complaints.iter().take(LINES_MAX).map(ToString::to_string).collect();
        let more = complaints.len().saturating_sub(LINES_MAX);
        lines.extend((more > 0).then(|| format!("and {more} more")));
        Self { at, lines }
    }
}

/// Most complaints that are kept.
const LINES_MAX: usize = 50;

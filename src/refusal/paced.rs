//! What a client is told that is faster than a rule allows.
//!
//! Owns the words for that. Never measures (`policy::pace` does). What surprises: it is an ERR,
//! because the next moment may be better, and never a word upon which a library tries again by
//! itself: that would make it faster still.

/// Which limit a command would have exceeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooFast {
    /// Full name of the command, lower case.
    pub command: String,
    /// The rule.
    pub rule: String,
    /// Which policy it was part of.
    pub version: u64,
    /// The limit, a second.
    pub rate: u64,
    /// What it counts: `commands` or `bytes`.
    pub unit: &'static str,
    /// What to do instead; may be empty.
    pub message: String,
}

// === impl TooFast ===

impl TooFast {
    /// The words.
    pub(super) fn text(&self) -> String {
        let Self { command, rule, version, rate, unit, message } = self;
        let cure = if message.is_empty() { "slow down" } else { message };
        format!(
            "ERR breakwater: '{command}' refused: rule {rule} allows {rate} {unit}/s \
             (policy {version}); {cure}"
        )
    }
}

//! How large a run is: small where nobody says anything, larger by variables.
//!
//! Owns the reading of those variables. Never reads one that the product reads: Breakwater is started without them.
//! What surprises: a variable that is no number counts as absent.

use std::time::Duration;

/// The number in `BREAKWATER_CLUSTER_{name}`, or `usual`.
pub(crate) fn number(name: &str, usual: usize) -> usize {
    let value = std::env::var(format!("BREAKWATER_CLUSTER_{name}")).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// At least so long does a run last that somebody has asked to last.
pub(crate) fn duration() -> Duration {
    Duration::from_secs(number("SECONDS", 0) as u64)
}

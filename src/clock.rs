//! The only file that reads the clock.
//!
//! Owns the process's notion of time: microseconds since start, from the monotonic clock, and the wall clock for
//! what people read. Never sleeps. A worker reads it once a batch of commands and once a batch of replies
//! (23 ns each), never once a command.
//!
//! What surprises: times are plain `u64` microseconds, so that the data path and its tests can do arithmetic
//! without a clock at hand; 64 bits last for half a million years.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since the process began.
pub type Micros = u64;

/// One second, in the unit of this module.
pub const SECOND: Micros = 1_000_000;

/// One millisecond, in the unit of this module.
pub const MILLISECOND: Micros = 1_000;

/// The instant now, for what must be an [`Instant`].
#[must_use]
#[allow(clippy::disallowed_methods)] // This is the file that the ban points to.
pub fn now() -> Instant {
    Instant::now()
}

/// Microseconds since the first call of this function in the process.
#[must_use]
pub fn micros() -> Micros {
    static START: OnceLock<Instant> = OnceLock::new();
    to_micros(now().duration_since(*START.get_or_init(now)))
}

/// A duration in microseconds; what does not fit counts as for ever.
#[must_use]
pub fn to_micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Seconds of the wall clock since 1970.
#[must_use]
#[allow(clippy::disallowed_methods)] // This is the file that the ban points to.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

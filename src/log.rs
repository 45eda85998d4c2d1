//! The log: set-up, messages that repeat, and what must never be shown.
//!
//! Owns the one subscriber of the process (text or JSON, to stderr, so that stdout belongs to the commands'
//! answers), [`RateLimited`] for messages that a broken network would repeat a thousand times a second, and
//! [`Redacted`] for values that no format string may reveal (INV-11). Never logs by itself, and nothing in the
//! program logs per command at INFO or above.
//!
//! What surprises: [`RateLimited`] has no clock. The caller passes the time of its batch, which costs nothing
//! on the data path and lets tests move time by hand.

use crate::clock::{self, Micros};
use crate::config::{LogFormat, LogSettings};
use std::fmt;
use std::io::{self, IsTerminal};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// A value that `Debug` and `Display` never show, whatever the format string says.
///
/// Equality compares the contents, and not in constant time: it serves the question whether a configuration
/// changed, never the check of a password that somebody sent.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Redacted<T>(T);

/// Lets one message through an interval and counts the others. One of these a place that logs, or a node.
#[derive(Clone, Debug)]
pub struct RateLimited {
    /// Shortest time between two messages, in microseconds.
    interval: Micros,
    /// When the last message went through; `None` before the first.
    last: Option<Micros>,
    /// How many were held back since.
    suppressed: u64,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a level nor a filter.
    #[error("log level: {0}")]
    Level(String),
    /// Somebody else installed a subscriber first.
    #[error("the log is already set up: {0}")]
    Taken(String),
}

/// Installs the log of the process, on stderr. Called once, before the first thread is started.
///
/// # Errors
/// If the level cannot be read, or a subscriber exists.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    // The subscribers differ in type, so each arm installs its own.
    let installed = match settings.format {
        LogFormat::Json => subscriber(filter(&settings.level)?).json().finish().try_init(),
        LogFormat::Text => {
            let is_terminal = io::stderr().is_terminal();
            subscriber(filter(&settings.level)?).with_ansi(is_terminal).finish().try_init()
        }
    };
    installed.map_err(|error| LogError::Taken(error.to_string()))
}

/// Says whether a text is a level (`info`) or a filter (`info,breakwater::upstream=debug`).
///
/// # Errors
/// If it is neither, with a sentence that says why.
pub fn check_level(level: &str) -> Result<(), LogError> {
    filter(level).map(drop)
}

/// What both formats have in common: stderr, the filter, no module paths of a reader's no concern.
fn subscriber(
    filter: EnvFilter,
) -> tracing_subscriber::fmt::SubscriberBuilder<
    tracing_subscriber::fmt::format::DefaultFields,
    tracing_subscriber::fmt::format::Format,
    EnvFilter,
    fn() -> io::Stderr,
> {
    let to_stderr: fn() -> io::Stderr = io::stderr;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(to_stderr)
}

/// `EnvFilter` takes any word for a target and would go silent on a misspelt level, so bare words are looked at here.
fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let is_level = |word: &str| LEVELS.iter().any(|known| word.eq_ignore_ascii_case(known));
    for directive in level.split(',').map(str::trim) {
        let bare = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !is_level(bare) {
            return Err(LogError::Level(format!("'{bare}' is not one of {}", LEVELS.join(", "))));
        }
    }
    EnvFilter::try_new(level).map_err(|error| LogError::Level(error.to_string()))
}

/// Every level, least to most.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

// === impl Redacted ===

impl<T> Redacted<T> {
    /// Hides a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that must have it. Grep for this word to audit who sees secrets.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("<redacted>")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("<redacted>")
    }
}

// === impl RateLimited ===

impl RateLimited {
    /// At most one message an interval; an interval of zero lets everything through.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval: clock::to_micros(interval), last: None, suppressed: 0 }
    }

    /// Asks to log at `now`. `Some(n)`: log it, and say that `n` like it were held back since the last;
    /// `None`: hold it back. A clock that goes backwards holds back.
    pub fn admit(&mut self, now: Micros) -> Option<u64> {
        let is_due = self.last.is_none_or(|last| now.saturating_sub(last) >= self.interval);
        if !is_due {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn a_repeated_message_passes_once_an_interval_with_the_number_held_back() {
        let mut limit = RateLimited::new(Duration::from_secs(10));
        assert_eq!(limit.admit(5 * SECOND), Some(0));
        for second in 6..15 {
            assert_eq!(limit.admit(second * SECOND), None);
        }
        assert_eq!(limit.admit(15 * SECOND), Some(9));
        assert_eq!(limit.admit(14 * SECOND), None, "time went backwards");
        assert_eq!(limit.admit(3600 * SECOND), Some(1));
    }

    #[test]
    fn an_interval_of_zero_holds_nothing_back() {
        let mut limit = RateLimited::new(Duration::ZERO);
        assert_eq!([limit.admit(0), limit.admit(0), limit.admit(0)], [Some(0); 3]);
    }

    #[test]
    fn no_format_string_reveals_a_redacted_value() {
        #[derive(Debug)]
        #[allow(dead_code)] // Read by Debug only.
        struct Holder {
            password: Redacted<String>,
        }
        let password = Redacted::new("hunter2".to_owned());
        let shown = format!(
            "{password} {password:?} {password:#?} {:?}",
            Holder { password: password.clone() }
        );
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(password.expose(), "hunter2");
    }

    #[test]
    fn misspelt_levels_are_refused_instead_of_silencing_the_log() {
        for level in ["info", "WARN", "off", "info,breakwater::upstream=debug", "rustls=warn,debug"]
        {
            assert!(check_level(level).is_ok(), "{level}");
        }
        for level in ["", "loud", "inof", "info,", "info,breakwater=chatty", "breakwater"] {
            assert!(check_level(level).is_err(), "{level}");
        }
        let error = check_level("inof").unwrap_err().to_string();
        assert_eq!(error, "log level: 'inof' is not one of off, error, warn, info, debug, trace");
    }
}

//! What holds writes back to protect what is there: `split_brain`, `[upstream.write_guard]`
//! and `[upstream.confirm]`.
//!
//! Owns these settings and their defaults. Never judges what was written (`check/guards.rs` does).
//! What surprises: a group behind Sentinels has two masters for some seconds after every failover,
//! a cluster never has; so only the former has a time of grace.

use std::time::Duration;

use crate::pubsub::glob;

/// What holds writes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// What follows when two claim the same keys.
    pub split_brain: SplitBrain,
    /// How long a second master behind Sentinels may say that it is one before that counts; 1 second
    /// to 1 hour.
    pub split_brain_grace: Duration,
    /// What replicas must be there for a write to be let through.
    pub write_guard: Option<WriteGuard>,
    /// What replicas must have a write before its client is told that it succeeded.
    pub confirm: Option<Confirm>,
}

/// What follows when two primaries claim the same keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SplitBrain {
    /// Writes to those keys are refused while it lasts.
    #[default]
    RefuseWrites,
    /// It is only told.
    Report,
}

/// Replicas without which nothing is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteGuard {
    /// So many must be in step; 1 to 100.
    pub replicas: u64,
    /// No further behind than this; 1 second to 1 hour.
    pub max_lag: Duration,
    /// For which keys.
    pub keys: KeyPatterns,
}

/// Replicas that a write is confirmed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// So many; 1 to 100.
    pub replicas: u64,
    /// How long that may take; 1 millisecond to 1 minute.
    pub within: Duration,
    /// For which keys.
    pub keys: KeyPatterns,
}

/// Some keys: those that one of these patterns matches, or all if there is no pattern. One text and
/// not one a pattern: a policy may have tens of thousands, and each would be made, compared and freed
/// in every reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPatterns {
    /// All of them, one behind the other.
    text: Box<str>,
    /// Where each ends in it.
    ends: Box<[usize]>,
}

// === impl GuardSettings ===

impl GuardSettings {
    /// Whether there is something to look for at all times.
    #[must_use]
    pub fn watch_writes(&self) -> bool {
        self.write_guard.is_some() || self.confirm.is_some()
    }
}

impl Default for GuardSettings {
    fn default() -> Self {
        let split_brain_grace = Duration::from_secs(30);
        let (write_guard, confirm) = (None, None);
        Self { split_brain: SplitBrain::default(), split_brain_grace, write_guard, confirm }
    }
}

// === impl KeyPatterns ===

impl KeyPatterns {
    /// The patterns, in the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends.iter()).map(|(start, end)| self.text.get(start..*end).unwrap_or(""))
    }

    /// Whether a command with these keys has one that is meant. One without keys is meant where all
    /// are.
    pub fn match_any<'a>(&self, mut keys: impl Iterator<Item = &'a [u8]>) -> bool {
        let is_meant = |key| self.iter().any(|pattern| glob::matches(pattern.as_bytes(), key));
        self.ends.is_empty() || keys.any(is_meant)
    }
}

impl<T: AsRef<str>> FromIterator<T> for KeyPatterns {
    fn from_iter<I: IntoIterator<Item = T>>(patterns: I) -> Self {
        let patterns = patterns.into_iter();
        let count = patterns.size_hint().0;
        // So long that most lists need no second room, in a file of thousands.
        let (mut text, mut ends) = (String::with_capacity(count * 16), Vec::with_capacity(count));
        for pattern in patterns {
            text.push_str(pattern.as_ref());
            ends.push(text.len());
        }
        Self { text: text.into(), ends: ends.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_pattern_all_commands_are_meant_with_one_only_those_with_such_a_key() {
        let (all, some) = (KeyPatterns::default(), KeyPatterns::from_iter(["orders:*"]));
        assert!(all.match_any([].into_iter()) && all.match_any([&b"x"[..]].into_iter()));
        assert!(!some.match_any([].into_iter()) && !some.match_any([&b"x"[..]].into_iter()));
        assert!(some.match_any([&b"x"[..], b"orders:1"].into_iter()));
    }
    #[test]
    fn patterns_come_back_as_they_were_written() {
        for written in [&[][..], &["a*"], &["é:*", "", "b"]] {
            let patterns: KeyPatterns = written.iter().collect();
            assert_eq!(patterns.iter().collect::<Vec<_>>(), written);
        }
        assert_ne!(KeyPatterns::from_iter(["ab", "c"]), KeyPatterns::from_iter(["a", "bc"]));
    }
}

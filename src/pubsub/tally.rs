//! By how much Redis's counts of subscribers are wrong, because many clients share one link.
//!
//! Owns, for all workers together, how many clients of ours get a topic's messages *beyond* the
//! links that Redis counts. Touched by subscriptions, PUBLISH, SPUBLISH and PUBSUB only. Never
//! negative in the end: a correction is made of two numbers that change a moment apart, so a count
//! below zero is shown as zero.
//!
//! What surprises: a topic with one client on one link needs no correction and has no entry. That
//! is the usual case, so a PUBLISH seldom looks at a pattern.

use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::{Kind, glob};

/// Corrections by topic, shared by all workers.
#[derive(Debug, Default)]
pub struct Tally {
    topics: [DashMap<Box<[u8]>, i64, foldhash::fast::RandomState>; 3],
    /// Entries of patterns: without any a PUBLISH does not ask the shards.
    patterns: AtomicUsize,
}

// === impl Tally ===

impl Tally {
    /// `by` more clients (or fewer) than links get what is published to this topic.
    pub fn add(&self, kind: Kind, name: &[u8], by: i64) {
        if by == 0 {
            return;
        }
        match self.topics[kind as usize].entry(name.into()) {
            Entry::Occupied(mut entry) => {
                *entry.get_mut() += by;
                if *entry.get() == 0 {
                    entry.remove();
                    self.note_patterns(kind, false);
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(by);
                self.note_patterns(kind, true);
            }
        }
    }

    /// What is to be added to Redis's number of subscribers of one topic.
    #[must_use]
    pub fn of(&self, kind: Kind, name: &[u8]) -> i64 {
        self.topics[kind as usize].get(name).map_or(0, |entry| *entry)
    }

    /// What is to be added to Redis's number of receivers of a message: those of the channel, and
    /// those of each pattern that matches it.
    #[must_use]
    pub fn of_message(&self, channel: &[u8]) -> i64 {
        let mut sum = self.of(Kind::Channel, channel);
        if self.patterns.load(Ordering::Relaxed) > 0 {
            let patterns = self.topics[Kind::Pattern as usize].iter();
            sum += patterns
                .filter(|entry| glob::matches(entry.key(), channel))
                .map(|entry| *entry.value())
                .sum::<i64>();
        }
        sum
    }

    /// How many topics have a correction.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.iter().map(DashMap::len).sum()
    }

    /// Whether Redis's counts are right as they are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn note_patterns(&self, kind: Kind, is_more: bool) {
        match (kind, is_more) {
            (Kind::Pattern, true) => self.patterns.fetch_add(1, Ordering::Relaxed),
            (Kind::Pattern, false) => self.patterns.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_its_channel_and_every_matching_pattern() {
        let tally = Tally::default();
        tally.add(Kind::Channel, b"news", 3);
        tally.add(Kind::Pattern, b"n*", 2);
        tally.add(Kind::Pattern, b"x*", 7);
        tally.add(Kind::Shard, b"news", 100);
        assert_eq!(tally.of_message(b"news"), 5);
        assert_eq!(tally.of_message(b"n"), 2);
        assert_eq!(tally.of(Kind::Shard, b"news"), 100);
        tally.add(Kind::Pattern, b"n*", -2);
        assert_eq!(tally.of_message(b"news"), 3);
    }

    #[test]
    fn what_is_right_again_leaves_nothing_behind() {
        let tally = Tally::default();
        for kind in Kind::ALL {
            tally.add(kind, b"a", 2);
            tally.add(kind, b"a", -3);
            assert_eq!(tally.of(kind, b"a"), -1);
            tally.add(kind, b"a", 1);
        }
        assert!(tally.is_empty());
        assert_eq!(tally.patterns.load(Ordering::Relaxed), 0);
    }
}

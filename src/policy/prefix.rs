//! Which rules speak of a key: tens of thousands of patterns, looked up at the price of a few.
//!
//! Owns [`KeyIndex`]. Nearly every pattern is `service:*`: its letters before the first wildcard are
//! looked up by hash, once for each length that such a beginning has in the policy, and a `*` alone
//! behind them is a match already. Other patterns are asked only where their beginning fits. Never
//! knows a command or a client.
//!
//! What surprises: the hash of a beginning is the hash of the shorter one and a step, so all lengths
//! together cost one walk along the key, however many there are. A client that chooses its keys to
//! collide gains nothing: the entries are the operator's, and each look ends at the first that differs.

use std::borrow::Cow;
use std::hint::black_box;

use super::Pause;
use crate::pubsub::glob;

/// Rules by the keys that they speak of.
#[derive(Debug)]
pub(super) struct KeyIndex {
    /// Which lengths of beginnings occur, one bit a length.
    lengths: [u64; LENGTH_WORDS],
    /// The longest of them.
    longest: usize,
    /// Where the entry of a hash is; at most half full, a power of two in length.
    slots: Box<[Slot]>,
    /// Distinct beginnings.
    entries: Vec<Entry>,
    /// The bytes of all beginnings.
    text: Vec<u8>,
    /// Who speaks of keys with a beginning.
    postings: Vec<Posting>,
    /// Patterns that are more than a beginning and `*`.
    globs: Vec<Box<[u8]>>,
}

/// A place in the table of hashes.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The upper half of the hash, so that most misses are seen without looking at the entry.
    tag: u32,
    /// One more than the entry's place; 0: nothing is here.
    entry: u32,
}

/// One beginning.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where its bytes are.
    start: u32,
    /// How many; at most [`PREFIX_BYTES_MAX`].
    length: u32,
    /// The last posting of it.
    posting: u32,
}

/// That a rule speaks of keys with this beginning.
#[derive(Clone, Copy, Debug)]
struct Posting {
    /// The rule's place among all.
    place: u32,
    /// Which pattern must match too; [`NONE`]: none.
    glob: u32,
    /// The posting before it of the same beginning; [`NONE`]: it is the first.
    before: u32,
}

/// A pattern on its way into the index.
struct Newcomer<'a> {
    /// Its rule.
    place: u32,
    /// All of it.
    pattern: &'a [u8],
    /// The letters before its first wildcard.
    prefix: Cow<'a, [u8]>,
    /// Whether it is these and a `*`.
    is_prefix: bool,
    /// Theirs.
    hash: u64,
}

/// No such place.
const NONE: u32 = u32::MAX;

/// Longest beginning that is looked up; of longer ones the rest is asked of the pattern.
const PREFIX_BYTES_MAX: usize = 255;

/// How many patterns are laid out at a time, and between two pauses; a few microseconds.
const PATTERNS_AT_A_TIME: usize = 32;

/// Lengths 0 to [`PREFIX_BYTES_MAX`].
const LENGTH_WORDS: usize = (PREFIX_BYTES_MAX + 1) / 64;

// === impl KeyIndex ===

impl KeyIndex {
    /// The index of these patterns, each with the place of its rule.
    pub(super) fn new<'a>(
        mut patterns: impl Iterator<Item = (u32, &'a [u8])> + Clone,
        pause: Pause<'_>,
    ) -> Self {
        let (mut count, mut bytes) = (0_usize, 0);
        for (_, pattern) in patterns.clone() {
            (count, bytes) = (count + 1, bytes + pattern.len());
        }
        let slots = (count * 2).next_power_of_two();
        let mut index = Self {
            lengths: [0; LENGTH_WORDS],
            longest: 0,
            slots: vec![Slot::default(); slots].into(),
            entries: Vec::with_capacity(count),
            text: Vec::with_capacity(bytes),
            postings: Vec::with_capacity(count),
            globs: Vec::new(),
        };
        // A batch is small enough for its slots to be near still when its patterns are added.
        let mut some = Vec::with_capacity(PATTERNS_AT_A_TIME);
        loop {
            some.extend(patterns.by_ref().take(PATTERNS_AT_A_TIME).map(Newcomer::new));
            if some.is_empty() {
                break;
            }
            index.fetch_slots(&some);
            some.drain(..).for_each(|newcomer| index.add(&newcomer));
            pause();
        }
        // Beginnings that several patterns share were counted for each of them.
        index.entries.shrink_to_fit();
        index.text.shrink_to_fit();
        index
    }

    /// Calls `found` with the place of each rule that has a pattern which matches `key`, some more than
    /// once, in no order.
    #[inline]
    pub(super) fn find(&self, key: &[u8], mut found: impl FnMut(u32)) {
        let mut hash = SEED;
        if self.has_length(0) {
            self.look(b"", hash, key, &mut found);
        }
        for (at, byte) in key.iter().enumerate().take(self.longest) {
            hash = step(hash, *byte);
            if self.has_length(at + 1) {
                self.look(key.get(..=at).unwrap_or_default(), hash, key, &mut found);
            }
        }
    }

    #[inline]
    fn has_length(&self, length: usize) -> bool {
        let word = self.lengths.get(length / 64).copied().unwrap_or_default();
        word >> (length % 64) & 1 != 0
    }

    /// Those with this beginning.
    #[inline]
    fn look(&self, prefix: &[u8], hash: u64, key: &[u8], found: &mut impl FnMut(u32)) {
        let Ok(entry) = self.place(prefix, hash) else {
            return;
        };
        let mut at = self.entries.get(entry).map_or(NONE, |entry| entry.posting);
        while let Some(posting) = self.postings.get(at as usize) {
            let pattern = self.globs.get(posting.glob as usize);
            if pattern.is_none_or(|pattern| glob::matches(pattern, key)) {
                found(posting.place);
            }
            at = posting.before;
        }
    }

    /// The entry of a beginning, or the slot where one would be.
    #[inline]
    fn place(&self, prefix: &[u8], hash: u64) -> Result<usize, usize> {
        let (mut at, tag) = self.slot_of(hash);
        // There is a free one: there are twice as many slots as patterns.
        loop {
            let slot = self.slots.get(at).copied().unwrap_or_default();
            let Some(entry) = slot.entry.checked_sub(1) else {
                return Err(at);
            };
            if slot.tag == tag && self.bytes(entry as usize) == prefix {
                return Ok(entry as usize);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Where to look first, and for which tag.
    #[inline]
    fn slot_of(&self, hash: u64) -> (usize, u32) {
        let hash = mix(hash);
        (hash as usize & (self.slots.len() - 1), (hash >> 32) as u32)
    }

    fn bytes(&self, entry: usize) -> &[u8] {
        let bytes = self.entries.get(entry).and_then(|entry| {
            let start = entry.start as usize;
            self.text.get(start..start + entry.length as usize)
        });
        bytes.unwrap_or_default()
    }

    /// Looks at the slots of some patterns before any is needed. The table is larger than what is near
    /// the processor: asked for one by one, each slot is waited for, which was the half of all this.
    fn fetch_slots(&self, some: &[Newcomer<'_>]) {
        let slots = some.iter().filter_map(|it| self.slots.get(self.slot_of(it.hash).0));
        black_box(slots.fold(0, |all, slot| all ^ slot.entry));
    }

    fn add(&mut self, newcomer: &Newcomer<'_>) {
        let &Newcomer { place, pattern, ref prefix, is_prefix, hash } = newcomer;
        let glob = if is_prefix { NONE } else { self.globs.len() as u32 };
        if !is_prefix {
            self.globs.push(pattern.into());
        }
        let entry = self.place(prefix, hash);
        let entry = entry.unwrap_or_else(|slot| self.add_entry(prefix, hash, slot));
        let posting = self.postings.len() as u32;
        if let Some(entry) = self.entries.get_mut(entry) {
            self.postings.push(Posting { place, glob, before: entry.posting });
            entry.posting = posting;
        }
    }

    fn add_entry(&mut self, prefix: &[u8], hash: u64, slot: usize) -> usize {
        let (_, tag) = self.slot_of(hash);
        let (entry, start) = (self.entries.len(), self.text.len() as u32);
        self.slots[slot] = Slot { tag, entry: entry as u32 + 1 };
        self.text.extend_from_slice(prefix);
        self.entries.push(Entry { start, length: prefix.len() as u32, posting: NONE });
        self.lengths[prefix.len() / 64] |= 1 << (prefix.len() % 64);
        self.longest = self.longest.max(prefix.len());
        entry
    }
}

// === impl Newcomer ===

impl<'a> Newcomer<'a> {
    fn new((place, pattern): (u32, &'a [u8])) -> Self {
        let (prefix, rest) = beginning(pattern);
        // Not even a star matches the empty key, so a star alone is asked like any other pattern.
        let is_prefix = rest == b"*" && !prefix.is_empty();
        let hash = prefix.iter().fold(SEED, |hash, byte| step(hash, *byte));
        Self { place, pattern, prefix, is_prefix, hash }
    }
}

/// The letters before the first wildcard of a pattern, and the rest of it.
fn beginning(pattern: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let head = pattern.get(..PREFIX_BYTES_MAX).unwrap_or(pattern);
    let end = head.iter().position(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'));
    let (prefix, rest) = pattern.split_at(end.unwrap_or(head.len()));
    // Only what is escaped is not what is written, and hardly anything is.
    if rest.first() == Some(&b'\\') { unescaped(pattern) } else { (prefix.into(), rest) }
}

/// The same of a pattern in which a backslash comes before any wildcard.
fn unescaped(pattern: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let (mut prefix, mut rest) = (Vec::new(), pattern);
    while prefix.len() < PREFIX_BYTES_MAX {
        rest = match rest {
            [] | [b'*' | b'?' | b'[', ..] => break,
            [b'\\', escaped, behind @ ..] => {
                prefix.push(*escaped);
                behind
            }
            [byte, behind @ ..] => {
                prefix.push(*byte);
                behind
            }
        };
    }
    (prefix.into(), rest)
}

/// The hash of a beginning that is one byte longer.
#[inline]
const fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(FACTOR)
}

/// Spreads a hash over all its bits: a step moves what differs only upwards.
#[inline]
const fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 32).wrapping_mul(FACTOR);
    hash ^ hash >> 29
}

/// The hash of no byte at all.
const SEED: u64 = 0x243f_6a88_85a3_08d3;

/// Odd, with its ones spread: the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    fn found(patterns: &[&str], key: &[u8]) -> Vec<u32> {
        let patterns = (0_u32..).zip(patterns.iter().map(|pattern| pattern.as_bytes()));
        let mut places = Vec::new();
        KeyIndex::new(patterns, &mut || ()).find(key, |place| places.push(place));
        places.sort_unstable();
        places
    }

    #[test]
    fn beginnings_names_and_globs_are_found_side_by_side() {
        let patterns =
            ["user:*", "user:1", "u*", "*", "*:1", "user:[0-4]", "us\\*er:*", "", "user:*"];
        assert_eq!(found(&patterns, b"user:1"), [0, 1, 2, 3, 4, 5, 8]);
        assert_eq!(found(&patterns, b"user:"), [0, 2, 3, 8]);
        assert_eq!(found(&patterns, b"user:10"), [0, 2, 3, 8]);
        assert_eq!(found(&patterns, b"us*er:x"), [2, 3, 6]);
        assert_eq!(found(&patterns, b"x"), [3]);
        assert_eq!(found(&patterns, b""), [7]);
        assert!(found(&[], b"x").is_empty());
    }

    #[test]
    fn a_beginning_may_be_longer_than_what_is_looked_up() {
        let long = "x".repeat(300);
        let patterns = [format!("{long}*"), long.clone(), format!("{}*", &long[..255])];
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        assert_eq!(found(&patterns, long.as_bytes()), [0, 1, 2]);
        assert_eq!(found(&patterns, &long.as_bytes()[..299]), [2]);
        assert_eq!(found(&patterns, format!("{long}y").as_bytes()), [0, 2]);
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            /// Whatever the patterns, those are found that match.
            #[test]
            fn the_index_says_what_the_patterns_say(
                patterns in prop::collection::vec("[ab:*?\\[\\]^\\\\-]{0,6}", 0..20),
                key in "[ab:*\\\\]{0,6}",
            ) {
                let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
                let matching = (0_u32..).zip(&patterns)
                    .filter(|(_, pattern)| glob::matches(pattern.as_bytes(), key.as_bytes()))
                    .map(|(place, _)| place)
                    .collect::<Vec<_>>();
                prop_assert_eq!(found(&patterns, key.as_bytes()), matching);
            }
        }
    }
}

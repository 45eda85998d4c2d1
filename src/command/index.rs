//! Names to ids: an open-addressed table that is asked once or twice for every command.
//!
//! Owns the folding and hashing of names. Knows nothing about what a name means, and never
//! allocates when asked.
//!
//! A name of up to eight bytes *is* its key, folded to lower case inside one integer, so that
//! finding it is one load, a handful of integer operations and one compare. Longer names are hashed
//! eight bytes at a time and compared with the stored spelling. The folding touches letters only:
//! merely setting the case bit would make `GE\x14` a spelling of `GE4`.

use super::spec::CommandId;

/// Longest name that is looked for, in bytes; nothing that a server has is half as long.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// Maps (container, word) to the id of a command or subcommand.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// A power of two of slots, at least half of them free.
    slots: Box<[Slot]>,
    /// How far right a hash is shifted to become the number of a slot.
    shift: u32,
    /// What was inserted, in order; `Slot::entry` counts here.
    entries: Vec<Entry>,
}

/// One name.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The container, or `None` for a command.
    pub(super) container: Option<CommandId>,
    /// The word in lower case: of `client|kill` the second half.
    pub(super) word: Box<[u8]>,
    /// What it is the name of. Several names may mean the same.
    pub(super) id: CommandId,
}

/// 16 bytes, so that four share a cache line.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The folded name, or the hash of one that is longer than eight bytes.
    key: u64,
    /// The container's number, or `NO_CONTAINER`.
    container: u16,
    /// Length of the name in bytes; 0: the slot is free.
    length: u16,
    /// The id's number.
    id: u16,
    /// Position in `entries`.
    entry: u16,
}

/// No table is as long as that: see the limits in `overlay`.
const NO_CONTAINER: u16 = u16::MAX;

const FREE: Slot = Slot { key: 0, container: 0, length: 0, id: 0, entry: 0 };

/// An odd number with well-mixed bits (2^64 divided by the golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

// === impl Index ===

impl Index {
    /// An index of `entries`. Of several entries with the same container and word the first counts;
    /// words that are empty or longer than [`NAME_BYTES_MAX`] are left out.
    pub(super) fn new(entries: Vec<Entry>) -> Index {
        let capacity = (entries.len() * 2).next_power_of_two().max(16);
        let mut index = Index {
            slots: vec![FREE; capacity].into(),
            shift: u64::BITS - capacity.trailing_zeros(),
            entries: Vec::new(),
        };
        for entry in entries {
            index.insert(entry);
        }
        index
    }

    /// The id of `word` among the subcommands of `container`, or among the commands. Any case.
    #[inline]
    pub(super) fn find(&self, container: Option<CommandId>, word: &[u8]) -> Option<CommandId> {
        if word.is_empty() || word.len() > NAME_BYTES_MAX {
            return None;
        }
        let container = container.map_or(NO_CONTAINER, |id| id.0);
        let key = key_of(word);
        let mut at = self.start(container, key);
        loop {
            let slot = self.slots.get(at)?;
            if slot.length == 0 {
                return None;
            }
            if slot.key == key
                && slot.container == container
                && usize::from(slot.length) == word.len()
                && (word.len() <= 8 || self.is_spelled(slot, word))
            {
                return Some(CommandId(slot.id));
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// What was inserted, in order.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds a name, if there is room for its number: tables are bounded far below that.
    fn insert(&mut self, entry: Entry) {
        let length = entry.word.len();
        if self.entries.len() >= usize::from(u16::MAX) {
            return;
        }
        if length == 0
            || length > NAME_BYTES_MAX
            || self.find(entry.container, &entry.word).is_some()
        {
            return;
        }
        let container = entry.container.map_or(NO_CONTAINER, |id| id.0);
        let key = key_of(&entry.word);
        let mut at = self.start(container, key);
        while self.slots[at].length != 0 {
            at = (at + 1) & (self.slots.len() - 1);
        }
        let number = self.entries.len() as u16;
        self.slots[at] =
            Slot { key, container, length: length as u16, id: entry.id.0, entry: number };
        self.entries.push(entry);
    }

    /// The slot where the search for a key begins.
    #[inline]
    fn start(&self, container: u16, key: u64) -> usize {
        // Only the highest bits of a product depend on all bits of its factors: a slot taken from the
        // middle would not see the last letters of an eight-letter name.
        let hash = (key ^ u64::from(container).rotate_left(24)).wrapping_mul(MIX);
        (hash >> self.shift) as usize
    }

    /// Whether a long name is the one of this slot, and not merely of the same hash.
    fn is_spelled(&self, slot: &Slot, word: &[u8]) -> bool {
        let Some(entry) = self.entries.get(usize::from(slot.entry)) else {
            return false;
        };
        let mut pairs = entry.word.chunks(8).zip(word.chunks(8));
        entry.word.len() == word.len()
            && pairs.all(|(known, asked)| load(known) == fold(load(asked)))
    }
}

/// The key of a name that is not empty: itself up to eight bytes, a hash beyond.
#[inline]
fn key_of(word: &[u8]) -> u64 {
    if word.len() <= 8 { fold(load(word)) } else { hash(word) }
}

/// Up to eight bytes as an integer, the first byte lowest. Two loads that overlap are cheaper than a
/// loop over the bytes.
#[inline]
fn load(word: &[u8]) -> u64 {
    if let (Some(low), Some(high)) = (word.first_chunk::<4>(), word.last_chunk::<4>()) {
        let high = u64::from(u32::from_le_bytes(*high));
        return u64::from(u32::from_le_bytes(*low)) | high << (8 * (word.len() - 4));
    }
    word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// All eight bytes in lower case at once; bytes that are no capital letters stay as they are.
#[inline]
fn fold(bytes: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Without their top bits the bytes cannot carry into each other when something is added.
    let low = bytes & (ONES * 0x7f);
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let beyond_z = low + ONES * (0x7f - b'Z' as u64);
    // The top bit of each byte: at least 'A', not beyond 'Z', and ASCII.
    let capital = from_a & !beyond_z & !bytes & (ONES * 0x80);
    bytes | capital >> 2
}

/// A hash of a name longer than eight bytes, whatever its case.
fn hash(word: &[u8]) -> u64 {
    let mut hash = word.len() as u64;
    for chunk in word.chunks(8) {
        hash = (hash ^ fold(load(chunk))).wrapping_mul(MIX).rotate_left(29);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(container: Option<u16>, word: &str, id: u16) -> Entry {
        Entry {
            container: container.map(CommandId),
            word: word.as_bytes().into(),
            id: CommandId(id),
        }
    }

    #[test]
    fn folding_is_exactly_ascii_lower_case() {
        for byte in 0..=u8::MAX {
            let expected = u64::from_le_bytes([byte.to_ascii_lowercase(); 8]);
            assert_eq!(fold(u64::from_le_bytes([byte; 8])), expected, "{byte:#x}");
            // Neighbours do not disturb each other.
            let mixed = [byte, b'A', byte, 0xff, byte, b'Z', 0, byte];
            assert_eq!(
                fold(u64::from_le_bytes(mixed)),
                u64::from_le_bytes(mixed.map(|b| b.to_ascii_lowercase()))
            );
        }
    }

    #[test]
    fn loading_takes_the_bytes_in_order() {
        for length in 1..=8 {
            let word = &b"abcdefgh"[..length];
            let mut bytes = [0; 8];
            bytes[..length].copy_from_slice(word);
            assert_eq!(load(word), u64::from_le_bytes(bytes));
        }
    }

    #[test]
    fn names_are_found_in_any_case_and_only_whole() {
        let index = Index::new(vec![
            entry(None, "get", 0),
            entry(None, "georadiusbymember_ro", 1),
            entry(None, "evalsha", 2),
            entry(None, "a", 3),
            entry(None, "sunionstore", 4),
        ]);
        let find = |word: &[u8]| index.find(None, word).map(CommandId::index);
        assert_eq!(find(b"GeT"), Some(0));
        assert_eq!(find(b"GEORADIUSbymember_RO"), Some(1));
        assert_eq!(find(b"EVALSHA"), Some(2));
        assert_eq!(find(b"A"), Some(3));
        for word in [&b""[..], b"ge", b"gett", b"get\0", b"g\x25t", b"GE\x14", b"sunionstorf"] {
            assert_eq!(find(word), None, "{word:?}");
        }
        assert_eq!(find(&[b'a'; 1000]), None);
        // The case bit of '_' leads to DEL: no letter, no other spelling.
        assert_eq!(find(b"georadiusbymember\x7fro"), None);
    }

    #[test]
    fn subcommands_are_apart_from_commands_and_from_each_other() {
        let index = Index::new(vec![
            entry(None, "client", 0),
            entry(Some(0), "info", 1),
            entry(None, "cluster", 2),
            entry(Some(2), "info", 3),
            entry(None, "info", 4),
        ]);
        assert_eq!(index.find(Some(CommandId(0)), b"INFO"), Some(CommandId(1)));
        assert_eq!(index.find(Some(CommandId(2)), b"info"), Some(CommandId(3)));
        assert_eq!(index.find(None, b"info"), Some(CommandId(4)));
        assert_eq!(index.find(Some(CommandId(1)), b"info"), None);
    }

    #[test]
    fn of_equal_names_the_first_counts() {
        let index = Index::new(vec![entry(None, "x", 1), entry(None, "x", 2), entry(None, "", 3)]);
        assert_eq!(index.find(None, b"x"), Some(CommandId(1)));
        assert_eq!(index.entries().len(), 1);
    }
}

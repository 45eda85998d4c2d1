//! Hash tag and CRC16: from a key to its slot.
//!
//! Owns one function. Never allocates. Source: "Redis cluster specification", sections "Key
//! distribution model" and "Hash tags".
//!
//! What surprises: an empty tag (`{}x`) is no tag, and only the *first* brace counts: `{{a}}`
//! hashes `{a`. And the sum is the crate's for single bytes alone: in a pipeline of GETs its way, where each
//! byte waits for the byte before it, was the costliest step between a client and its node.

use std::sync::LazyLock;

use crc16::{State, XMODEM};

/// Slots of a cluster.
pub const SLOTS: u16 = 16_384;

/// The slot of `key`, from 0 to 16,383.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    crc16(if has_brace(key) { hash_tag(key) } else { key }) % SLOTS
}

/// CRC16 of the variant XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    let tables: &Tables = &TABLES;
    let behind = |others: usize, byte: u8| tables[others][usize::from(byte)];
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    let mut sum = 0_u16;
    for &[a, b, c, d, e, f, g, h] in blocks {
        let [high, low] = sum.to_be_bytes();
        // Eight looks that do not wait for each other.
        sum = behind(7, a ^ high)
            ^ behind(6, b ^ low)
            ^ behind(5, c)
            ^ behind(4, d)
            ^ behind(3, e)
            ^ behind(2, f)
            ^ behind(1, g)
            ^ behind(0, h);
    }
    for &byte in rest {
        let [high, low] = sum.to_be_bytes();
        sum = behind(0, byte ^ high) ^ (u16::from(low) << 8);
    }
    sum
}

/// What each byte adds to a sum with none to seven others behind it.
static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    // A sum of sums is the sum of both, so one byte and zeros tell what that byte adds.
    let add = |others, byte: usize| {
        let mut block = [0; BLOCK];
        block[0] = byte as u8;
        State::<XMODEM>::calculate(block.get(..=others).unwrap_or_default())
    };
    std::array::from_fn(|others| std::array::from_fn(|byte| add(others, byte)))
});

/// Whether the key may have a tag. Most keys are short and have none: a general search costs more than
/// the sum.
#[inline]
fn has_brace(key: &[u8]) -> bool {
    let (blocks, rest) = key.as_chunks::<BLOCK>();
    blocks.iter().any(|block| has_brace_among(*block))
        || match key.last_chunk() {
            Some(last) => !rest.is_empty() && has_brace_among(*last),
            None => rest.contains(&b'{'),
        }
}

/// Eight bytes at once: where one is a brace, and zero once the brace is taken from it, a borrow reaches
/// its top bit.
#[inline]
fn has_brace_among(bytes: [u8; BLOCK]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let others = u64::from_le_bytes(bytes) ^ (ONES * b'{' as u64);
    others.wrapping_sub(ONES) & !others & (ONES << 7) != 0
}

/// The part of the key that is hashed.
// Never: few keys have one, and those that have none would save its registers.
#[inline(never)]
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else {
        return key;
    };
    let behind = key.get(open + 1..).unwrap_or_default();
    match memchr::memchr(b'}', behind) {
        None | Some(0) => key,
        Some(close) => behind.get(..close).unwrap_or(key),
    }
}

/// Bytes that are summed at a time.
const BLOCK: usize = 8;
/// By the number of bytes behind, and by the byte.
type Tables = [[u16; 256]; BLOCK];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_fall_into_the_slots_of_redis() {
        // CLUSTER KEYSLOT of redis-server 7.0.15, and the specification's own examples.
        let table: [(&[u8], u16); 4] =
            [(b"123456789", 12_739), (b"foo", 12_182), (b"", 0), (b"{user1000}.following", 3_443)];
        for (key, want) in table {
            assert_eq!(slot(key), want, "{:?}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn tags_are_cut_as_the_specification_says() {
        let table: [(&[u8], &[u8]); 5] = [
            (b"{user1000}.followers", b"user1000"),
            (b"foo{}{bar}", b"foo{}{bar}"),
            (b"foo{{bar}}zap", b"{bar"),
            (b"foo{bar}{zap}", b"bar"),
            (b"foo{bar", b"foo{bar"),
        ];
        for (key, want) in table {
            assert_eq!(hash_tag(key), want);
        }
    }
    proptest! {
        #[test]
        fn the_sum_is_that_of_others(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            prop_assert_eq!(crc16(&bytes), State::<XMODEM>::calculate(&bytes));
        }

        #[test]
        fn a_brace_is_found_wherever_it_is(key in prop::collection::vec(
            prop_oneof![Just(b'{'), Just(b'}'), Just(b'z'), Just(b'|'), Just(b'\0'), any::<u8>()], 0..30,
        )) {
            prop_assert_eq!(has_brace(&key), key.contains(&b'{'));
            prop_assert_eq!(slot(&key), crc16(hash_tag(&key)) % SLOTS);
        }
    }
}

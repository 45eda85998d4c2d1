//! Hash tag and CRC16: from a key to its slot.
//!
//! Owns one function. Never allocates. Source: "Redis cluster specification", sections "Key
//! distribution model" and "Hash tags".
//!
//! What surprises: an empty tag (`{}x`) is no tag, and only the *first* brace counts: `{{a}}`
//! hashes `{a`.

use crc16::{State, XMODEM};

/// Slots of a cluster.
pub const SLOTS: u16 = 16_384;

/// The slot of `key`, from 0 to 16,383.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    State::<XMODEM>::calculate(hash_tag(key)) % SLOTS
}

/// The part of the key that is hashed.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}

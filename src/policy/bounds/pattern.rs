//! Which keys are of one kind.
//!
//! Owns the folding of a key: numbers and ids in it do not count, so that `user:17:cart` and
//! `user:4711:cart` are the same. Never allocates: the folded key goes piece by piece into a hash.
//! What surprises: only the first 128 bytes are looked at; keys that differ behind them are of one
//! kind.

use std::hash::Hasher;

/// Feeds a key to `hasher` with everything that looks like a number or an id as one byte.
pub fn fold(key: &[u8], hasher: &mut impl Hasher) {
    let mut rest = key.get(..FOLDED_BYTES_MAX).unwrap_or(key);
    while let Some(&first) = rest.first() {
        let (taken, is_id) = match first {
            _ if is_uuid(rest) => (UUID_BYTES, true),
            byte if byte.is_ascii_alphanumeric() => segment(rest),
            _ => (1, false),
        };
        let (segment, behind) = rest.split_at(taken);
        if is_id {
            hasher.write_u8(ID)
        } else {
            hasher.write(segment)
        }
        rest = behind;
    }
    hasher.write_u8(END);
}

/// How long the next run of one kind is, and whether it is an id: hexadecimal digits of some
/// length, or decimal ones.
fn segment(bytes: &[u8]) -> (usize, bool) {
    let run = |is: fn(&u8) -> bool| bytes.iter().take_while(|&byte| is(byte)).count();
    let word = run(u8::is_ascii_alphanumeric);
    let hex = run(u8::is_ascii_hexdigit);
    let has_digit = bytes.iter().take(word).any(u8::is_ascii_digit);
    if hex == word && hex >= HEX_DIGITS_MIN && has_digit {
        return (word, true);
    }
    match run(u8::is_ascii_digit) {
        0 => (run(u8::is_ascii_alphabetic), false),
        digits => (digits, true),
    }
}

/// Whether these bytes begin with groups of 8, 4, 4, 4 and 12 hexadecimal digits.
fn is_uuid(bytes: &[u8]) -> bool {
    let Some(uuid) = bytes.get(..UUID_BYTES) else {
        return false;
    };
    (0..).zip(uuid).all(|(place, byte)| match place {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

const FOLDED_BYTES_MAX: usize = 128;
const UUID_BYTES: usize = 36;
/// Shorter ones are words more often than ids.
const HEX_DIGITS_MIN: usize = 8;
/// Stands for an id. No key in UTF-8 has it, nor the next.
const ID: u8 = 0xff;
const END: u8 = 0xfe;

#[cfg(test)]
mod tests {
    use super::*;

    /// What is hashed.
    #[derive(Default)]
    struct Tape(Vec<u8>);

    impl Hasher for Tape {
        fn finish(&self) -> u64 {
            0
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }

    fn folded(key: &str) -> String {
        let mut tape = Tape::default();
        fold(key.as_bytes(), &mut tape);
        assert_eq!(tape.0.pop(), Some(END));
        tape.0.iter().map(|&byte| if byte == ID { '#' } else { char::from(byte) }).collect()
    }

    #[test]
    fn numbers_and_ids_do_not_count_and_words_do() {
        for (key, want) in [
            ("user:17:cart", "user:#:cart"),
            ("user17", "user#"),
            ("{user:4711}.orders", "{user:#}.orders"),
            ("feed:cafe", "feed:cafe"),
            ("session:deadbeef01", "session:#"),
            ("session:DEADBEEF01:x", "session:#:x"),
            ("deadbeefdeadbeef", "deadbeefdeadbeef"),
            ("b:a1b2", "b:a#b#"),
            ("o/550e8400-e29b-41d4-a716-446655440000/i", "o/#/i"),
            ("cafecafe-cafe-cafe-cafe-cafecafecafe", "#"),
            ("v1:hash", "v#:hash"),
            ("", ""),
        ] {
            assert_eq!(folded(key), want);
        }
    }

    #[test]
    fn a_key_of_any_length_costs_the_same() {
        let long = "x".repeat(1 << 20);
        assert_eq!(folded(&long).len(), FOLDED_BYTES_MAX);
        assert_eq!(folded(&"7".repeat(1 << 20)), "#");
    }
}

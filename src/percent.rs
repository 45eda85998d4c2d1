//! Bytes in URLs and forms: `%41` and `+`.
//!
//! Owns both directions, for the admin port and for who asks it. Never interprets what the bytes are.
//! What surprises: what is no escape is taken as it stands, as browsers do; there is no error.

use std::fmt::Write;

/// The bytes that a value of a form or of a query stands for.
#[must_use]
pub fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = if byte == b'%' { escape(behind) } else { None };
        rest = behind.get(if escaped.is_some() { 2 } else { 0 }..).unwrap_or_default();
        bytes.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    bytes
}

/// The byte that two hexadecimal digits stand for.
fn escape(digits: &[u8]) -> Option<u8> {
    let [high, low, ..] = digits else {
        return None;
    };
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// A text that stands for these bytes in a query.
#[must_use]
pub fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The value of a hexadecimal digit.
fn digit(byte: u8) -> Option<u8> {
    // A digit is below sixteen.
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encoded(&bytes)), bytes);
        assert_eq!(encoded(b"session:* 1"), "session%3A%2A%201");
    }

    #[test]
    fn what_is_no_escape_stands_for_itself() {
        for (text, bytes) in [("a+b", "a b"), ("100%", "100%"), ("%4", "%4"), ("%zz%41", "%zzA")] {
            assert_eq!(decoded(text), bytes.as_bytes(), "{text}");
        }
    }
}

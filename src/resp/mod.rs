//! Framing of RESP2 and RESP3: bytes in, spans out.
//!
//! Owns the two scanners, the small writers of replies, and the limits of the protocol. Never does I/O, never
//! allocates by a declared length, never recurses, never interprets a command. A batch of bytes arrives from a
//! session (requests) or from a lane (replies) and leaves as lengths and spans into the same bytes.
//!
//! What surprises: the request scanner is *stricter* than Redis on purpose. A shared connection dies with
//! everybody's commands if one client's bytes upset the server, so only a subset of what Redis accepts passes
//! (INV-2).

pub mod frames;
pub mod inline;
pub mod limits;
pub mod reply;
pub mod request;
pub mod write;

/// A half-open range of bytes inside a buffer that the caller holds: one argument of a command.
///
/// 32 bits suffice: a whole request is at most [`limits::REQUEST_BYTES_CEILING`] long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset behind the last byte; `start <= end`.
    pub end: u32,
}

/// The number of a header line (`$16\r\n`) whose type byte is at `at`, and the offset behind its CRLF.
///
/// Only what a client or a server writes nearly always is read here: a whole line with a positive number of at
/// most [`SHORT_DIGITS`] digits. `None` says nothing of all others; whoever asks looks again with care.
#[inline]
fn short_header(input: &[u8], at: usize) -> Option<(usize, usize)> {
    let line = input.get(at + 1..)?;
    let mut number = 0;
    for (index, &byte) in line.iter().enumerate().take(SHORT_DIGITS + 1) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let is_whole = index > 0 && byte == b'\r' && line.get(index + 1) == Some(&b'\n');
            return is_whole.then_some((number, at + index + 3));
        }
        number = number * 10 + usize::from(digit);
        if number == 0 {
            return None;
        }
    }
    None
}

/// Digits of a header that [`short_header`] reads: values below a hundred megabytes.
const SHORT_DIGITS: usize = 8;

/// Parses a decimal integer exactly as Redis's `string2ll` does, for the bytes between a type byte and CRLF.
///
/// No sign but a single `-`, no leading zero, no blank, no empty string; anything that does not fit 64 bits is
/// refused. Source: `util.c` of Redis 7.0.
#[must_use]
pub fn parse_integer(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut magnitude: u64 = 0;
    for &digit in digits {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return None;
        }
        // Nineteen digits fit an unsigned 64-bit number, so this cannot overflow.
        magnitude = magnitude * 10 + u64::from(value);
    }
    if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

#[cfg(test)]
mod tests {
    use super::parse_integer;

    #[test]
    fn integers_are_as_strict_as_in_redis() {
        let good: [(&[u8], i64); 6] = [
            (b"0", 0),
            (b"7", 7),
            (b"-1", -1),
            (b"1048576", 1_048_576),
            (b"9223372036854775807", i64::MAX),
            (b"-9223372036854775808", i64::MIN),
        ];
        for (text, value) in good {
            assert_eq!(parse_integer(text), Some(value), "{text:?}");
        }
        let bad: [&[u8]; 11] = [
            b"",
            b"-",
            b"+1",
            b"01",
            b"-0",
            b"-01",
            b" 1",
            b"1 ",
            b"1a",
            b"9223372036854775808",
            b"99999999999999999999",
        ];
        for text in bad {
            assert_eq!(parse_integer(text), None, "{text:?}");
        }
    }
}

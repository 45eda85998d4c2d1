//! Writers of small replies and commands: each appends one RESP element to a buffer.
//!
//! Owns the spelling of RESP2 and RESP3 on the way out. Never checks that a whole reply was written: the caller
//! owns its shape. What surprises: a null is spelled differently in RESP2 (`$-1`) and RESP3 (`_`), a map is a
//! flat array in RESP2, so those writers take the protocol version.

use std::io::Write;

/// The version of the protocol that a client or a lane speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RESP2, what every connection starts with.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

// === impl Protocol ===

impl Protocol {
    /// The number that HELLO and CLIENT INFO use: 2 or 3.
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Appends `$<length>\r\n<bytes>\r\n`.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    number_line(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends `:<value>\r\n`.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, ":{value}\r\n");
}

/// Appends `+<text>\r\n`. The text must hold no CR or LF; ours are constants.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends `-<text>\r\n`, with every CR and LF of the text turned into a blank.
pub fn error(out: &mut Vec<u8>, text: &str) {
    out.push(b'-');
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

/// Appends the null of the protocol version: `$-1` or `_`.
pub fn null(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Appends the null of commands that answer with an array: RESP2 has two nulls, RESP3 one.
pub fn null_array(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"*-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Appends `*<count>\r\n`.
pub fn array_header(out: &mut Vec<u8>, count: usize) {
    number_line(out, b'*', count);
}

/// Appends the header of an aggregate of that type byte; `count` is what its line says.
pub fn aggregate_header(out: &mut Vec<u8>, kind: u8, count: usize) {
    number_line(out, kind, count);
}

/// Appends the header of a map of `pairs` pairs: `%n` in RESP3, a flat array of `2n` in RESP2.
pub fn map_header(out: &mut Vec<u8>, protocol: Protocol, pairs: usize) {
    match protocol {
        Protocol::Resp2 => number_line(out, b'*', pairs * 2),
        Protocol::Resp3 => number_line(out, b'%', pairs),
    }
}

/// Appends the header of a set of `count` elements: `~n` in RESP3, an array in RESP2.
pub fn set_header(out: &mut Vec<u8>, protocol: Protocol, count: usize) {
    match protocol {
        Protocol::Resp2 => number_line(out, b'*', count),
        Protocol::Resp3 => number_line(out, b'~', count),
    }
}

/// Appends text as Redis's verbatim string: `=` with `txt:` in RESP3, a bulk string in RESP2.
pub fn verbatim(out: &mut Vec<u8>, protocol: Protocol, text: &[u8]) {
    match protocol {
        Protocol::Resp2 => bulk(out, text),
        Protocol::Resp3 => {
            number_line(out, b'=', text.len() + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Appends a whole command as a multibulk request.
pub fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    array_header(out, arguments.len());
    for argument in arguments {
        bulk(out, argument);
    }
}

fn number_line(out: &mut Vec<u8>, kind: u8, value: usize) {
    out.push(kind);
    // Small numbers, the common case, need no formatter.
    if let Ok(digit @ 0..=9) = u8::try_from(value) {
        out.push(b'0' + digit);
    } else {
        let _ = write!(out, "{value}");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_element_is_spelled_as_the_specification_says() {
        let mut out = Vec::new();
        bulk(&mut out, b"hello world");
        integer(&mut out, -5);
        simple(&mut out, "OK");
        error(&mut out, "ERR a\r\nb");
        null(&mut out, Protocol::Resp2);
        null(&mut out, Protocol::Resp3);
        map_header(&mut out, Protocol::Resp2, 2);
        map_header(&mut out, Protocol::Resp3, 12);
        verbatim(&mut out, Protocol::Resp3, b"x");
        let want = b"$11\r\nhello world\r\n:-5\r\n+OK\r\n-ERR a  b\r\n$-1\r\n_\r\n*4\r\n%12\r\n=5\r\ntxt:x\r\n";
        assert_eq!(out, want);
    }
}

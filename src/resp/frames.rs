//! Walking over whole replies: where one element ends and the next begins.
//!
//! Owns the reading of frames that the reply scanner has already found to be whole, to take replies apart and to put
//! several together. Never allocates, never recurses, never trusts: bytes that are no frame end the walk, they do not
//! end the process.
//!
//! What surprises: an attribute is part of the element behind it, so a walk over elements never shows one by itself.

use super::parse_integer;

/// The first line of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its type byte.
    pub kind: u8,
    /// The number behind that: a length or a count; 0 where the line holds none.
    pub number: i64,
    /// Bytes of the line.
    pub length: usize,
}

/// The elements of a run of frames, one after the other.
#[derive(Clone, Debug)]
pub struct Elements<'a>(&'a [u8]);

// === impl Head ===

impl Head {
    /// Reads the first line of `bytes`.
    #[must_use]
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let kind = *bytes.first()?;
        let end = memchr::memchr(b'\n', bytes)?;
        let text = bytes.get(1..end)?.strip_suffix(b"\r")?;
        let has_number = matches!(kind, b'$' | b'=' | b'!' | b'*' | b'~' | b'%' | b'|' | b'>');
        let number = if has_number { parse_integer(text)? } else { 0 };
        Some(Self { kind, number, length: end + 1 })
    }

    /// Bytes and elements that belong to the frame behind this line.
    fn behind(self) -> Option<(usize, usize)> {
        let number = usize::try_from(self.number.max(0)).ok()?;
        match self.kind {
            b'$' | b'=' | b'!' if self.number < 0 => Some((0, 0)),
            b'$' | b'=' | b'!' => Some((number.checked_add(2)?, 0)),
            b'*' | b'~' | b'>' => Some((0, number)),
            b'%' => Some((0, number.checked_mul(2)?)),
            // What it decorates belongs to it.
            b'|' => Some((0, number.checked_mul(2)?.checked_add(1)?)),
            _ => Some((0, 0)),
        }
    }
}

// === impl Elements ===

impl<'a> Elements<'a> {
    /// The frames that `bytes` consist of.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The elements of the aggregate that `frame` is, attributes before it apart, and what its head says; `None` if
    /// it is none.
    #[must_use]
    pub fn within(frame: &'a [u8]) -> Option<(Head, Self)> {
        let frame = undecorated(frame)?;
        let head = Head::read(frame)?;
        matches!(head.kind, b'*' | b'~' | b'%')
            .then(|| (head, Self(frame.get(head.length..).unwrap_or_default())))
    }

    /// All bytes that were not walked over yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (element, rest) = self.0.split_at_checked(length(self.0)?)?;
        self.0 = rest;
        Some(element)
    }
}

/// Bytes of the first frame in `bytes`; `None` if it is not whole.
#[must_use]
pub fn length(bytes: &[u8]) -> Option<usize> {
    let (mut position, mut left) = (0_usize, 1_usize);
    while left > 0 {
        let head = Head::read(bytes.get(position..)?)?;
        let (payload, elements) = head.behind()?;
        position = position.checked_add(head.length)?.checked_add(payload)?;
        left = (left - 1).checked_add(elements)?;
    }
    (position <= bytes.len()).then_some(position)
}

/// The frame without the attributes before it.
#[must_use]
pub fn undecorated(mut frame: &[u8]) -> Option<&[u8]> {
    while frame.first() == Some(&b'|') {
        let head = Head::read(frame)?;
        let mut behind = Elements(frame.get(head.length..)?);
        for _ in 0..head.number.checked_mul(2)? {
            behind.next()?;
        }
        frame = behind.rest();
    }
    Some(frame)
}

/// The bytes of a string, whatever it is spelled as; `None` for anything else, null included.
#[must_use]
pub fn string(frame: &[u8]) -> Option<&[u8]> {
    let head = Head::read(frame)?;
    match head.kind {
        b'$' | b'=' => {
            let text = frame.get(head.length..)?.get(..usize::try_from(head.number).ok()?)?;
            // A verbatim string begins with three letters and a colon that say what it is.
            if head.kind == b'=' { text.get(4..) } else { Some(text) }
        }
        b'+' => frame.get(1..head.length - 2),
        _ => None,
    }
}

/// The value of an integer.
#[must_use]
pub fn integer(frame: &[u8]) -> Option<i64> {
    parse_integer(frame.strip_prefix(b":")?.strip_suffix(b"\r\n")?)
}

/// Whether the frame is a null of either version.
#[must_use]
pub fn is_null(frame: &[u8]) -> bool {
    matches!(frame, b"$-1\r\n" | b"*-1\r\n" | b"_\r\n")
}

/// Whether the frame is an error of either version.
#[must_use]
pub fn is_error(frame: &[u8]) -> bool {
    matches!(frame.first(), Some(b'-' | b'!'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::reply::ReplyScanner;
    use proptest::prelude::*;

    #[test]
    fn elements_of_any_shape_are_found() {
        let run = b"+OK\r\n$-1\r\n$5\r\na\r\nbc\r\n*2\r\n:1\r\n*0\r\n%1\r\n$1\r\na\r\n~1\r\n#t\r\n_\r\n|1\r\n+k\r\n+v\r\n:7\r\n-E\r\n";
        let all: Vec<&[u8]> = Elements::of(run).collect();
        assert_eq!(all.len(), 8);
        assert_eq!(all[2], b"$5\r\na\r\nbc\r\n");
        assert_eq!(all[4], b"%1\r\n$1\r\na\r\n~1\r\n#t\r\n");
        assert_eq!(all[6], b"|1\r\n+k\r\n+v\r\n:7\r\n");
        assert_eq!(undecorated(all[6]), Some(&b":7\r\n"[..]));
        assert_eq!(all.concat(), run);
    }

    #[test]
    fn what_is_no_whole_frame_ends_the_walk() {
        let bad: [&[u8]; 7] = [
            b"",
            b"$5\r\nab",
            b"*2\r\n:1\r\n",
            b"$x\r\n",
            b":1",
            b"%99999999999999999999\r\n",
            b"|1\r\n+k\r\n",
        ];
        for bytes in bad {
            assert_eq!(length(bytes), None, "{:?}", String::from_utf8_lossy(bytes));
            assert_eq!(Elements::of(bytes).next(), None);
        }
    }

    #[test]
    fn strings_integers_and_nulls_are_told_apart() {
        assert_eq!(string(b"$2\r\nab\r\n"), Some(&b"ab"[..]));
        assert_eq!(string(b"=6\r\ntxt:ab\r\n"), Some(&b"ab"[..]));
        assert_eq!(string(b"+OK\r\n"), Some(&b"OK"[..]));
        assert_eq!((string(b"$-1\r\n"), string(b":1\r\n")), (None, None));
        assert_eq!((integer(b":-7\r\n"), integer(b"+7\r\n")), (Some(-7), None));
        assert!(is_null(b"_\r\n") && is_null(b"*-1\r\n") && !is_null(b"$0\r\n\r\n"));
        assert!(is_error(b"!3\r\nERR\r\n") && !is_error(b"+OK\r\n"));
    }

    proptest! {
        #[test]
        fn a_walk_agrees_with_the_scanner(bytes in "[-+:$*%_|0-3ab\r\n]{0,40}") {
            let bytes = bytes.as_bytes();
            let scanned = ReplyScanner::default().scan(bytes).ok().filter(|progress| progress.complete);
            if let Some(progress) = scanned {
                prop_assert_eq!(length(bytes), Some(progress.consumed));
            }
        }
    }
}

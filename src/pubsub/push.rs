//! Push frames: what one of the node says, and how ours are spelled.
//!
//! Owns reading the first words of a frame that the reply scanner has found whole, and writing
//! confirmations in both protocol versions. Never copies a message: a client's frame differs from
//! the node's in its first byte only.
//!
//! What surprises: [`read`] needs the first two elements and not the rest, so it also says whose
//! message it is that grows beyond every client's bound.

use super::Kind;
use crate::resp::write::{self, Protocol};

/// What a push of the node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push<'a> {
    /// A message for whoever subscribed to the topic: the channel, or the pattern that matched.
    Message(Kind, &'a [u8]),
    /// The link is subscribed from here on.
    Subscribed(Kind, &'a [u8]),
    /// The link is not subscribed any more.
    Unsubscribed(Kind, &'a [u8]),
    /// Nothing about subscriptions.
    Other,
}

/// Reads the first two elements of a push frame.
#[must_use]
pub fn read(frame: &[u8]) -> Push<'_> {
    let elements = || {
        let rest = frame.strip_prefix(b">")?;
        let header = memchr::memchr(b'\n', rest)?;
        let (word, rest) = bulk(rest.get(header + 1..)?)?;
        let (name, _) = bulk(rest)?;
        Some((word, name))
    };
    let Some((word, name)) = elements() else {
        return Push::Other;
    };
    for kind in Kind::ALL {
        if word == kind.message().as_bytes() {
            return Push::Message(kind, name);
        }
        if word == kind.subscribe().as_bytes() {
            return Push::Subscribed(kind, name);
        }
        if word == kind.unsubscribe().as_bytes() {
            return Push::Unsubscribed(kind, name);
        }
    }
    Push::Other
}

/// The channel of a message: what it was published to, whatever pattern has matched.
#[must_use]
pub fn channel(frame: &[u8]) -> Option<&[u8]> {
    let header = memchr::memchr(b'\n', frame)?;
    let (word, rest) = bulk(frame.get(header + 1..)?)?;
    let (first, rest) = bulk(rest)?;
    let is_pattern = word == Kind::Pattern.message().as_bytes();
    if is_pattern { bulk(rest).map(|(channel, _)| channel) } else { Some(first) }
}

/// The content of the bulk string that `bytes` begins with, and what is behind it.
#[must_use]
pub fn bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"$")?;
    let end = memchr::memchr(b'\r', rest)?;
    let length = crate::resp::parse_integer(rest.get(..end)?)?;
    let content = rest.get(end + 2..)?;
    let length = usize::try_from(length).ok()?;
    Some((content.get(..length)?, content.get(length + 2..)?))
}

/// The first byte of a frame that is no reply: an array in RESP2, a push in RESP3.
#[must_use]
pub fn first_byte(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Resp2 => b'*',
        Protocol::Resp3 => b'>',
    }
}

/// Appends the confirmation of one subscription or of its end; `name` is `None` where there was
/// nothing to end.
pub fn confirmation(
    out: &mut Vec<u8>,
    protocol: Protocol,
    word: &str,
    name: Option<&[u8]>,
    count: usize,
) {
    out.push(first_byte(protocol));
    out.extend_from_slice(b"3\r\n");
    write::bulk(out, word.as_bytes());
    match name {
        Some(name) => write::bulk(out, name),
        None => write::null(out, protocol),
    }
    // A count of subscriptions is bounded far below.
    write::integer(out, i64::try_from(count).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_pushes_are_told_apart() {
        let table: [(&[u8], Push<'_>); 8] = [
            (b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n", Push::Message(Kind::Channel, b"a")),
            (
                b">4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$1\r\na\r\n$1\r\nx\r\n",
                Push::Message(Kind::Pattern, b"a*"),
            ),
            (b">3\r\n$8\r\nsmessage\r\n$0\r\n\r\n$1\r\nx\r\n", Push::Message(Kind::Shard, b"")),
            (b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", Push::Subscribed(Kind::Channel, b"a")),
            (
                b">3\r\n$12\r\nsunsubscribe\r\n$3\r\na\r\n\r\n:0\r\n",
                Push::Unsubscribed(Kind::Shard, b"a\r\n"),
            ),
            (b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", Push::Other),
            (b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n", Push::Other),
            (b">1\r\n+x\r\n", Push::Other),
        ];
        for (frame, expected) in table {
            assert_eq!(read(frame), expected, "{}", frame.escape_ascii());
        }
    }

    #[test]
    fn the_beginning_of_a_frame_says_whose_it_is_and_less_says_nothing() {
        let frame = b">3\r\n$7\r\nmessage\r\n$3\r\nabc\r\n$9\r\n";
        for cut in 0..frame.len() {
            let expected = match cut {
                // From the line end behind the name on.
                26.. => Push::Message(Kind::Channel, b"abc"),
                _ => Push::Other,
            };
            assert_eq!(read(&frame[..cut]), expected, "{cut}");
        }
    }

    #[test]
    fn confirmations_are_spelled_as_by_redis() {
        let mut out = Vec::new();
        confirmation(&mut out, Protocol::Resp2, "subscribe", Some(b"a"), 1);
        confirmation(&mut out, Protocol::Resp2, "unsubscribe", None, 0);
        confirmation(&mut out, Protocol::Resp3, "punsubscribe", None, 12);
        let want = "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n\
                    *3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n\
                    >3\r\n$12\r\npunsubscribe\r\n_\r\n:12\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}

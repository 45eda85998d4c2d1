//! The server's own SLOWLOG: its entries, read.
//!
//! Owns the shape of an entry and the reading of SLOWLOG GET. Pure. Arguments beyond the command's
//! name are dropped here: they are keys and values, which reach no log and no page (INV-11); only
//! what may be shown on request is the first one, and only if the operator asked for keys.
//!
//! What surprises: behind shared connections the address in an entry is ours, for everybody. Who
//! asked is what our own slow log knows; the two are matched by command and time.

use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SlowEntry {
    /// Its number; numbers only rise.
    pub id: u64,
    /// When it ran, in seconds since 1970.
    pub at: u64,
    /// How long, in microseconds, without any waiting.
    pub micros: u64,
    /// The command in upper case.
    pub command: String,
    /// Its first argument, where keys may be shown.
    pub key: Option<String>,
}

/// The entries of a reply to SLOWLOG GET; those that make no sense are left out.
#[must_use]
pub fn read(reply: &BytesFrame, with_keys: bool) -> Vec<SlowEntry> {
    let BytesFrame::Array(entries) = reply else {
        return Vec::new();
    };
    entries.iter().filter_map(|entry| read_entry(entry, with_keys)).collect()
}

fn read_entry(entry: &BytesFrame, with_keys: bool) -> Option<SlowEntry> {
    let BytesFrame::Array(fields) = entry else {
        return None;
    };
    let number = |index: usize| match fields.get(index) {
        Some(BytesFrame::Integer(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    let Some(BytesFrame::Array(arguments)) = fields.get(3) else {
        return None;
    };
    let argument = |index: usize| {
        let bytes = arguments.get(index)?.as_bytes()?;
        let text: String = String::from_utf8_lossy(bytes).chars().take(WORD_CHARS_MAX).collect();
        Some(text)
    };
    Some(SlowEntry {
        id: number(0)?,
        at: number(1)?,
        micros: number(2)?,
        command: argument(0)?.to_ascii_uppercase(),
        key: if with_keys { argument(1) } else { None },
    })
}

/// Longest command and key that are kept, in characters.
const WORD_CHARS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use redis_protocol::resp2;

    #[test]
    fn entries_are_read_and_arguments_are_dropped() {
        let reply = b"*2\r\n*6\r\n:7\r\n:1700000000\r\n:20123\r\n*2\r\n$4\r\nkeys\r\n$3\r\nu:*\r\n$1\r\na\r\n$0\r\n\r\n\
            *1\r\n:6\r\n";
        let (frame, _) =
            resp2::decode::decode_bytes(&bytes::Bytes::from_static(reply)).unwrap().unwrap();
        let entries = read(&frame, false);
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].id, entries[0].micros, entries[0].at), (7, 20_123, 1_700_000_000));
        assert_eq!((entries[0].command.as_str(), &entries[0].key), ("KEYS", &None));
        assert_eq!(read(&frame, true)[0].key.as_deref(), Some("u:*"));
        assert!(read(&BytesFrame::Null, true).is_empty());
    }
}

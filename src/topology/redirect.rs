//! Errors by which a cluster says: not here, not now.
//!
//! Owns the reading of one error line. Never decides what follows from it (`dispatch::detour`
//! does), never resolves a name. What surprises: the port stands behind the *last* colon, because
//! IPv6 addresses come without brackets; and the host may be empty (the one that was asked) or `?`
//! (nobody knows).
//!
//! Source: "Redis cluster specification", sections "MOVED Redirection" and "ASK Redirection";
//! `clusterRedirectClient`.

use crate::route::slot::SLOTS;

/// What an error says about where or when a command can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect<'a> {
    /// The slot belongs to another node.
    Moved(Elsewhere<'a>),
    /// The slot is on its way to another node, and this key is there already.
    Ask(Elsewhere<'a>),
    /// The slot is on its way, and some of the keys are there already.
    TryAgain,
    /// The node cannot serve it at the moment.
    NotNow(NotNow),
}

/// Where a redirect points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere<'a> {
    /// Below [`SLOTS`].
    pub slot: u16,
    /// As the node spelled it: name, address, empty or `?`.
    host: &'a str,
    port: u16,
}

/// Why a node cannot serve at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// The cluster misses a primary, or the slot has none.
    ClusterDown,
    /// It loads its data.
    Loading,
    /// A replica without its primary.
    MasterDown,
    /// A replica, asked to write.
    ReadOnly,
    /// It let go of a client that waited, because it has become a replica.
    Unblocked,
}

/// What the error line `reply` (`-` and CRLF included) says, if it is one of these. The first word
/// must match whole.
#[must_use]
pub fn read(reply: &[u8]) -> Option<Redirect<'_>> {
    let line = reply.strip_prefix(b"-")?.strip_suffix(b"\r\n")?;
    let (word, rest) = match memchr::memchr(b' ', line) {
        Some(blank) => (line.get(..blank)?, line.get(blank + 1..)?),
        None => (line, &[][..]),
    };
    match word {
        b"MOVED" => elsewhere(rest).map(Redirect::Moved),
        b"ASK" => elsewhere(rest).map(Redirect::Ask),
        b"TRYAGAIN" => Some(Redirect::TryAgain),
        b"CLUSTERDOWN" => Some(Redirect::NotNow(NotNow::ClusterDown)),
        b"LOADING" => Some(Redirect::NotNow(NotNow::Loading)),
        b"MASTERDOWN" => Some(Redirect::NotNow(NotNow::MasterDown)),
        // CLIENT UNBLOCK has other words.
        b"UNBLOCKED" if rest.starts_with(b"force unblock") => {
            Some(Redirect::NotNow(NotNow::Unblocked))
        }
        b"READONLY" => Some(Redirect::NotNow(NotNow::ReadOnly)),
        _ => None,
    }
}

/// What an error reply says about routing; of a block's replies `before` are the earlier ones.
/// Whatever EXEC says, a block whose command was redirected when it was to be queued has not run.
#[must_use]
pub fn of_block<'a>(before: &'a [u8], reply: &'a [u8]) -> Option<Redirect<'a>> {
    if let Some(redirect) = read(reply) {
        return Some(redirect);
    }
    if reply.starts_with(b":") {
        // WAIT behind a write: what the write was told is what counts.
        return read(before);
    }
    if !reply.starts_with(b"-EXECABORT") {
        return None;
    }
    // Replies to MULTI and to what is queued are lines.
    before.split_inclusive(|&byte| byte == b'\n').find_map(read)
}

fn elsewhere(rest: &[u8]) -> Option<Elsewhere<'_>> {
    let (slot, address) = std::str::from_utf8(rest).ok()?.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    let slot = slot.parse().ok().filter(|&slot| slot < SLOTS)?;
    Some(Elsewhere { slot, host, port: port.parse().ok()? })
}

// === impl Elsewhere ===

impl Elsewhere<'_> {
    /// `host:port` as the nodes announce it; `None` if the node does not know. `asked` is the host
    /// that was asked.
    #[must_use]
    pub fn address(&self, asked: &str) -> Option<String> {
        match self.host {
            "?" => None,
            "" => Some(format!("{asked}:{}", self.port)),
            host => Some(format!("{host}:{}", self.port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_read_as_servers_spell_them() {
        let table: [(&[u8], u16, Option<&str>); 4] = [
            (b"-MOVED 3999 127.0.0.1:6381\r\n", 3999, Some("127.0.0.1:6381")),
            (b"-MOVED 0 2001:db8::1:6381\r\n", 0, Some("2001:db8::1:6381")),
            (b"-ASK 16383 :6381\r\n", 16383, Some("asked:6381")),
            (b"-ASK 1 ?:6381\r\n", 1, None),
        ];
        for (line, slot, address) in table {
            let (Some(Redirect::Moved(to)) | Some(Redirect::Ask(to))) = read(line) else {
                panic!("{:?}", String::from_utf8_lossy(line));
            };
            assert_eq!((to.slot, to.address("asked").as_deref()), (slot, address));
        }
        let down = b"-CLUSTERDOWN Hash slot not served\r\n";
        assert_eq!(read(down), Some(Redirect::NotNow(NotNow::ClusterDown)));
        assert_eq!(read(b"-TRYAGAIN Multiple keys\r\n"), Some(Redirect::TryAgain));
    }

    #[test]
    fn a_client_that_was_let_go_by_a_deposed_primary_is_not_one_that_was_told_to_stop() {
        let line = b"-UNBLOCKED force unblock from blocking operation, instance state changed\r\n";
        assert_eq!(read(line), Some(Redirect::NotNow(NotNow::Unblocked)));
        assert_eq!(read(b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"), None);
    }

    #[test]
    fn what_only_looks_like_a_redirect_is_none() {
        for line in [
            &b"-MOVEDX 1 a:1\r\n"[..],
            b"-MOVED 16384 a:1\r\n",
            b"-MOVED 1 a\r\n",
            b"-MOVED 1 a:65536\r\n",
            b"-MOVED\r\n",
            b"-ASK 1\r\n",
            b"-ERR MOVED 1 a:1\r\n",
            b"+MOVED 1 a:1\r\n",
            b"-MOVED 1 a:1",
            b"-BUSYGROUP x\r\n",
            b"-\r\n",
            b"",
        ] {
            assert_eq!(read(line), None, "{:?}", String::from_utf8_lossy(line));
        }
    }
}

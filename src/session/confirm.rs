//! `[upstream.confirm]`, and `confirm` of a keyspace: a write whose client is told of success only when replicas have it.
//!
//! Owns the WAIT that goes behind such a write, on the same connection, and the reading of the two
//! replies. Never decides which commands are meant (`dispatch::guards` and
//! `dispatch::keyspaces` do).
//!
//! What surprises: a write that no replica has confirmed *was* applied, and may be on its way. So
//! the client is told that its outcome is unknown, never that it was not executed.

use crate::buffer::Piece;
use crate::command::spec::{Class, Spec};
use crate::config::Confirm;
use crate::resp::frames;
use crate::resp::write;
use crate::session::pin::Pending;
use crate::session::state::Session;
use crate::topology::{Topology, redirect};

/// What is expected of a command that is to go out on a connection of its own: if it could do
/// without one, it is a write to be confirmed, and the question is put behind it.
pub fn plan(topology: &Topology, session: &Session, spec: &Spec, frame: &mut Piece<'_>) -> Pending {
    let general = topology.node.settings.guards.confirm.as_ref();
    match session.confirm.as_deref().or(general) {
        Some(confirm) if spec.class == Class::Shared => {
            *frame = Piece::Shared(question(frame.bytes(), confirm).into());
            Pending::Confirm(confirm.clone())
        }
        _ => Pending::Once { leaves_state: true },
    }
}

/// The write with the question behind it: how many replicas have it?
#[must_use]
fn question(frame: &[u8], confirm: &Confirm) -> Vec<u8> {
    let replicas = confirm.replicas.to_string();
    let within = confirm.within.as_millis().to_string();
    let mut bytes = frame.to_vec();
    write::command(&mut bytes, &[b"WAIT", replicas.as_bytes(), within.as_bytes()]);
    bytes
}

/// The reply to the write, if it failed or is confirmed; otherwise that it is not.
#[must_use]
pub fn answer(replies: &[u8], confirm: &Confirm) -> Vec<u8> {
    let length = frames::length(replies).unwrap_or(replies.len());
    let (write, wait) = replies.split_at(length);
    if redirect::read(write).is_some() {
        // Of a script it may be its own words, after it has written: it is not followed, and is not
        // shown to a client that sees no cluster.
        let said = line(write);
        return unknown(&format!("the node says {said}; check before repeating it"));
    }
    if matches!(write.first(), Some(b'-' | b'!')) {
        return write.to_vec();
    }
    match wait.first() {
        Some(b':') if count(wait) >= confirm.replicas => write.to_vec(),
        Some(b':') => {
            let number = confirm.replicas;
            let noun = if number == 1 { "replica" } else { "replicas" };
            let within = confirm.within.as_millis();
            unknown(&format!("applied, not confirmed by {number} {noun} within {within} ms"))
        }
        _ => unknown(&format!("applied, not confirmed: WAIT was refused ({})", line(wait))),
    }
}

fn unknown(why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write::error(&mut out, &format!("ERR breakwater: outcome unknown: {why}"));
    out
}

/// How many replicas an integer reply speaks of.
fn count(reply: &[u8]) -> u64 {
    let number = std::str::from_utf8(reply.get(1..).unwrap_or_default());
    number.ok().and_then(|number| number.trim_end().parse().ok()).unwrap_or_default()
}

/// The words of an error line.
fn line(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply.get(1..).unwrap_or_default()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::KeyPatterns;

    fn confirm(replicas: u64) -> Confirm {
        let within = Duration::from_millis(100);
        Confirm { replicas, within, keys: KeyPatterns::default() }
    }

    #[test]
    fn the_question_stands_behind_the_write() {
        let bytes = question(b"*1\r\n$1\r\nX\r\n", &confirm(2));
        assert_eq!(bytes, b"*1\r\n$1\r\nX\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$3\r\n100\r\n");
    }

    #[test]
    fn only_a_confirmed_write_succeeds_and_one_that_failed_has_failed() {
        let two = confirm(2);
        assert_eq!(answer(b"$2\r\nOK\r\n:2\r\n", &two), b"$2\r\nOK\r\n");
        assert_eq!(answer(b":7\r\n:3\r\n", &two), b":7\r\n");
        assert_eq!(answer(b"-OOM no\r\n:0\r\n", &two), b"-OOM no\r\n");
        let unknown = b"-ERR breakwater: outcome unknown: applied, not confirmed by 2 replicas within 100 ms\r\n";
        assert_eq!(answer(b"+OK\r\n:1\r\n", &two), unknown);
        let text = b"-ERR breakwater: outcome unknown: applied, not confirmed by 1 replica within 100 ms\r\n";
        assert_eq!(answer(b"+OK\r\n:0\r\n", &confirm(1)), text);
        let refused = answer(b"+OK\r\n-NOPERM no WAIT\r\n", &two);
        assert!(
            refused.starts_with(b"-ERR breakwater: outcome unknown: applied, not confirmed: WAIT")
        );
        let moved = answer(b"-MOVED 1 h:1\r\n:0\r\n", &two);
        assert!(moved.starts_with(b"-ERR breakwater: outcome unknown: the node says MOVED 1 h:1;"));
    }
}

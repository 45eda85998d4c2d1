//! The reply to EXEC, with the elements that are ours put in their places.
//!
//! Owns the rewriting of that one reply: commands about the client's own connection take effect
//! here, in their order, if the node has executed the transaction. Never changes an element that is
//! the node's, nor an error.
//!
//! What surprises: HELLO inside a transaction changes the spelling of the elements behind it. They
//! are framed by the scanner of replies, which reads both versions.

use std::sync::Arc;

use crate::command::Command;
use crate::dispatch::Settled;
use crate::resp::frames;
use crate::resp::limits::Limits;
use crate::resp::request::{RequestScanner, Scanned};
use crate::resp::write::{self, Protocol};
use crate::session::pin::Pending;
use crate::session::state::Session;
use crate::session::{confirm, local, tracking, wait};
use crate::topology::Topology;
use crate::worker::{Capture, Worker};

/// The bytes that the client gets in the place of the node's; `None` if those are right as they
/// are.
pub fn rewrite(
    worker: &mut Worker,
    session: &mut Session,
    pending: &Pending,
    settled: &Settled<'_>,
) -> Option<Vec<u8>> {
    let Settled::Reply { bytes, .. } = settled else {
        return None;
    };
    let mut line = Vec::new();
    match pending {
        Pending::Aborting(abort) => write::error(&mut line, &abort.text()),
        Pending::Wait => return Some(wait::answer(bytes)),
        Pending::Confirm(confirm) => return Some(confirm::answer(bytes, confirm)),
        // The client has its confirmation already: a push.
        Pending::Listen if session.protocol == Protocol::Resp3 && !bytes.starts_with(b"-") => {
            return Some(Vec::new());
        }
        Pending::TrackingInfo(redirect) => return Some(tracking::with_our_id(bytes, *redirect)),
        Pending::Unwatched => write::null_array(&mut line, session.protocol),
        Pending::Exec { queued, ours } if !ours.is_empty() => {
            return splice(worker, session, bytes, *queued, ours);
        }
        _ => return None,
    }
    Some(line)
}

/// Runs our own commands and puts their answers where the node's stand-ins answered.
fn splice(
    worker: &mut Worker,
    session: &mut Session,
    bytes: &[u8],
    queued: u32,
    ours: &[(u32, Vec<u8>)],
) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|&byte| byte == b'\n')? + 1;
    let header = bytes.get(..end)?;
    let count: u32 =
        std::str::from_utf8(header.strip_prefix(b"*")?).ok()?.trim_end().parse().ok()?;
    if count != queued {
        // The node counts otherwise than we do: better no answer than one in the wrong place.
        note_disagreement(session);
        let mut line = Vec::new();
        write::error(
            &mut line,
            "ERR breakwater: outcome unknown: the transaction ran, but its reply has an unexpected number of elements",
        );
        return Some(line);
    }
    let topology = Arc::clone(worker.topology.load());
    let mut out = header.to_vec();
    let mut rest = bytes.get(end..)?;
    let mut ours = ours.iter().peekable();
    for place in 0..count {
        let length = frames::length(rest)?;
        let element = rest.get(..length)?;
        rest = rest.get(length..)?;
        match ours.next_if(|(at, _)| *at == place) {
            Some((_, frame)) if !element.starts_with(b"-") => {
                let answer = answer(worker, &topology, session, frame);
                if answer.starts_with(b"-") {
                    note_disagreement(session);
                }
                out.extend(answer);
            }
            _ => out.extend_from_slice(element),
        }
    }
    let (protocol, db) = (session.protocol, session.db);
    if let Some(pin) = &mut session.pin {
        pin.moved = Some((protocol, db));
    }
    Some(out)
}

/// The connection may not be what we believe: nobody else shall have it.
fn note_disagreement(session: &mut Session) {
    if let Some(pin) = &mut session.pin {
        pin.is_dirty = true;
    }
}

/// The answer to one of our own commands.
fn answer(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    frame: &[u8],
) -> Vec<u8> {
    let mut scanner = RequestScanner::default();
    let Ok(Scanned::Command { length }) = scanner.scan(frame, &Limits::default(), true) else {
        return Vec::new();
    };
    let (frame, spans) = scanner.arguments(frame, length);
    let command = Command::new(frame, spans);
    let Ok(spec) = topology.table.resolve(&command) else {
        return Vec::new();
    };
    worker.capture = Some(Capture::default());
    local::answer(worker, topology, session, spec, command);
    worker.capture.take().unwrap_or_default().bytes
}

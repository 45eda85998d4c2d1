//! From a client's bytes to dispatched commands.
//!
//! Owns the loop that scans and dispatches, and the keeping of what could not be dispatched: an
//! unfinished command, or input beyond the session's window. Never reads a socket. Input arrives as
//! a slice and leaves as commands, in order; what is left moves into the session's [`Partial`].
//!
//! What surprises: a large command is read into a buffer of its own which then travels to the lane
//! as it is, so a value of a megabyte is copied once on its way in and never again.

use std::mem;

use bytes::Bytes;

use crate::buffer::{LARGE_BYTES, Piece};
use crate::command::Command;
use crate::dispatch::judge::Judged;
use crate::dispatch::{self, Dispatched, runs};
use crate::resp::request::{ProtocolError, RequestScanner, Scanned};
use crate::session::block::{self, Block};
use crate::session::replication;
use crate::session::state::{Closing, Partial, Session};
use crate::stats::labels::ClosedReason;
use crate::topology::Topology;
use crate::worker::Worker;

/// How far the input was dispatched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Bytes that are done with.
    pub used: usize,
    /// Bytes from there on without which nothing more can be found; 0 if the next command may be
    /// there.
    pub needed: usize,
    /// Nothing more can be done until the session is woken.
    pub is_stuck: bool,
}

/// Dispatches input that is not held yet, and holds what is left of it.
pub fn fresh(worker: &mut Worker, topology: &Topology, session: &mut Session, input: &[u8]) -> Fed {
    let mut scanner = mem::take(&mut worker.scanner);
    let fed = feed(worker, topology, session, &mut scanner, input);
    let rest = input.get(fed.used..).unwrap_or_default();
    if rest.is_empty() || session.closing.is_some() {
        scanner.reset();
        worker.scanner = scanner;
        return fed;
    }
    let buffer = rest.to_vec();
    let partial = Partial { buffer, start: 0, needed: fed.needed, scanner };
    worker.request_bytes += partial.heap_bytes();
    session.partial = Some(Box::new(partial));
    enforce_budget(worker, session);
    fed
}

/// Adds input to what is held.
pub fn hold(worker: &mut Worker, session: &mut Session, input: &[u8]) {
    let Some(partial) = &mut session.partial else {
        return;
    };
    if partial.start > 0 && partial.start >= partial.buffer.len() / 2 {
        partial.buffer.drain(..partial.start);
        partial.start = 0;
    }
    let before = partial.heap_bytes();
    partial.buffer.extend_from_slice(input);
    worker.request_bytes += partial.heap_bytes() - before;
    enforce_budget(worker, session);
}

/// The client whose unfinished command breaks the budget of all of them is told and closed (INV-4).
fn enforce_budget(worker: &mut Worker, session: &mut Session) {
    if worker.request_bytes > worker.shared.memory.request_bytes_total {
        worker.answer(session, |line| line.extend_from_slice(OUT_OF_MEMORY));
        drop_held(worker, session);
        session.close(Closing::AfterReplies(ClosedReason::OutOfMemoryBudget));
    }
}

/// Dispatches what is held.
pub fn held(worker: &mut Worker, topology: &Topology, session: &mut Session) -> Fed {
    let Some(mut partial) = session.partial.take() else {
        return Fed::default();
    };
    let before = partial.heap_bytes();
    let fed = if is_one_large_command(&partial) {
        feed_large(worker, topology, session, &mut partial)
    } else {
        let Partial { buffer, start, scanner, .. } = &mut *partial;
        let input = buffer.get(*start..).unwrap_or_default();
        feed(worker, topology, session, scanner, input)
    };
    // Nothing is asked, and no page kept, for a command that has been answered.
    let slot = session.replies.next();
    let _ = session.errand.take_if(|errand| !errand.is_for(slot));
    partial.start += fed.used;
    partial.needed = fed.needed;
    let is_done = partial.start >= partial.buffer.len() || session.closing.is_some();
    let after = if is_done { 0 } else { partial.heap_bytes() };
    worker.request_bytes = (worker.request_bytes + after).saturating_sub(before);
    if !is_done {
        session.partial = Some(partial);
    }
    fed
}

/// Bytes that the session holds of requests.
#[must_use]
pub fn held_bytes(session: &Session) -> usize {
    session.partial.as_ref().map_or(0, |partial| partial.heap_bytes())
}

fn drop_held(worker: &mut Worker, session: &mut Session) {
    worker.request_bytes = worker.request_bytes.saturating_sub(held_bytes(session));
    session.partial = None;
}

/// Dispatches command after command until the input, the window or the order says stop.
fn feed(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    scanner: &mut RequestScanner,
    input: &[u8],
) -> Fed {
    let mut fed = Fed::default();
    let limits = topology.limits(&session.gate.limits);
    while fed.used < input.len() {
        let rest = input.get(fed.used..).unwrap_or_default();
        let run = runs::take(worker, topology, session, (scanner, &limits), rest);
        if run > 0 {
            fed.used += run;
            continue;
        }
        if !session.admits() {
            fed.is_stuck = true;
            break;
        }
        match scanner.scan(rest, &limits, session.identity.is_some()) {
            Ok(Scanned::Command { length }) => {
                let (done, length) =
                    dispatch_next(worker, topology, session, scanner, (rest, length));
                scanner.reset();
                if done == Dispatched::Wait {
                    fed.is_stuck = true;
                    break;
                }
                fed.used += length;
                session.doubtful = session.doubtful.saturating_sub(length);
                if mem::take(&mut session.was_refused) {
                    session.doubtful = input.len() - fed.used;
                    session.lacks_transaction = true;
                }
            }
            Ok(Scanned::Nothing { length }) => {
                scanner.reset();
                let silence = rest.get(..length).unwrap_or_default();
                if session.is_replica()
                    && replication::pass(worker, session, silence) == Dispatched::Wait
                {
                    fed.is_stuck = true;
                    break;
                }
                fed.used += length;
                session.doubtful = session.doubtful.saturating_sub(length);
            }
            Ok(Scanned::Incomplete { needed }) => {
                fed.needed = needed;
                break;
            }
            Err(error) => {
                protocol_error(worker, session, error);
                break;
            }
        }
    }
    fed
}

/// Dispatches the command of that length with which `rest` begins, or the whole transaction that it begins. Returns how
/// much that was.
// Inlined: it is on the way of every command that is not part of a run.
#[inline(always)]
fn dispatch_next(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    scanner: &RequestScanner,
    (rest, length): (&[u8], usize),
) -> (Dispatched, usize) {
    let Some((block, judged)) = block(worker, topology, session, rest) else {
        let (frame, spans) = scanner.arguments(rest, length);
        let command = Command::new(frame, spans);
        let piece = Piece::Borrowed(frame);
        return (dispatch::dispatch(worker, topology, session, command, piece), length);
    };
    let frame = Piece::Borrowed(rest.get(..block.length).unwrap_or_default());
    let done = dispatch::dispatch_block(worker, topology, session, &block, frame);
    if done == Dispatched::Done {
        judged.note(worker);
    }
    (done, block.length)
}

/// The whole transaction that `input` begins with, if it does and may share a connection.
#[inline]
fn block(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    input: &[u8],
) -> Option<(Block, Judged)> {
    if !block::begins(input) {
        return None;
    }
    let mut scanner = mem::take(&mut worker.block_scanner);
    let block = block::find(worker, topology, session, &mut scanner, input);
    worker.block_scanner = scanner;
    block
}

/// Whether what is held is exactly one command, too large to be copied.
fn is_one_large_command(partial: &Partial) -> bool {
    partial.start == 0
        && partial.needed == partial.buffer.len()
        && partial.needed >= LARGE_BYTES
        // An inline command travels in its encoded form, never as it came (INV-2).
        && partial.buffer.first() == Some(&b'*')
}

/// As [`feed`], but the buffer itself becomes the command. If it turns out to be more or less than
/// one command it is fed as any other.
fn feed_large(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    partial: &mut Partial,
) -> Fed {
    let is_known = session.identity.is_some();
    let limits = topology.limits(&session.gate.limits);
    let scanned = partial.scanner.scan(&partial.buffer, &limits, is_known);
    if scanned != Ok(Scanned::Command { length: partial.buffer.len() }) {
        let Partial { buffer, scanner, .. } = partial;
        return feed(worker, topology, session, scanner, buffer);
    }
    let length = partial.buffer.len();
    let bytes = Bytes::from(mem::take(&mut partial.buffer));
    let (frame, spans) = partial.scanner.arguments(&bytes, length);
    let command = Command::new(frame, spans);
    let piece = Piece::Shared(bytes.clone());
    let done = dispatch::dispatch(worker, topology, session, command, piece);
    partial.scanner.reset();
    if done == Dispatched::Wait {
        partial.buffer = bytes.into();
        return Fed { used: 0, needed: 0, is_stuck: true };
    }
    session.doubtful = session.doubtful.saturating_sub(length);
    // Nothing is held behind it.
    session.was_refused = false;
    Fed { used: length, ..Fed::default() }
}

/// The client is told what is wrong with its bytes, behind its other replies, and disconnected, as
/// Redis does.
fn protocol_error(worker: &mut Worker, session: &mut Session, error: ProtocolError) {
    worker.stats.client_protocol_errors.increment();
    session.reply_mode = crate::session::state::ReplyMode::On;
    worker.answer(session, |line| error.write(line));
    session.close(Closing::AfterReplies(ClosedReason::ProtocolError));
}

/// What a client is told whose unfinished command does not fit the budget of all of them.
const OUT_OF_MEMORY: &[u8] =
    b"-ERR breakwater: not executed: the unfinished requests of all clients \
exceed memory.request_bytes_total; send smaller values or raise it\r\n";

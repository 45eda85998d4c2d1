//! What is done about a script command when it is queued on a lane, and when its reply comes.
//!
//! Owns the healing of EVALSHA: where the connection has not seen that the node has the script, and
//! its source is known, a SCRIPT LOAD of ours goes out in front, in the same write, and its reply
//! is swallowed. Never changes the client's command, never sends one twice: whether a NOSCRIPT is
//! the node's own or what a script returned after writing cannot be told from outside, so it is
//! passed on (INV-3) and only the next call is healed.
//!
//! What surprises: EVAL with the source would be one command instead of two, but a user may have
//! the right to EVALSHA and not to EVAL. In front of an EVALSHA nothing can go wrong: a SCRIPT LOAD
//! that is refused leaves the answer to be what it would have been.

use crate::buffer::{ChunkPool, Piece};
use crate::command::spec::{CommandId, builtin_id};
use crate::resp::request::arguments;
use crate::resp::write;
use crate::stats::WorkerStats;
use crate::stats::labels::ErrorClass;
use crate::upstream::lane::{Lane, Role, Waiter};
use crate::worker::Shared;

use super::{Sha, parse_sha};

/// Queues a command whose role is [`Role::Script`], with what must come before it.
pub fn enqueue(
    shared: &Shared,
    stats: &WorkerStats,
    pool: &mut ChunkPool,
    lane: &mut Lane,
    frame: Piece<'_>,
    waiter: Waiter,
    is_asking: bool,
) {
    match waiter.command {
        EVALSHA | EVALSHA_RO => {
            if let Some(load) = load_before(shared, lane, frame.bytes()) {
                stats.script_loads.increment();
                return lane.enqueue_behind(pool, &load, is_asking, frame, waiter);
            }
        }
        SCRIPT_FLUSH => {
            // Whatever this client sends behind it finds nothing, so nothing may be healed from
            // here on.
            shared.scripts.flush();
            lane.enqueue(pool, frame, waiter);
            return lane.proven.flush(lane.send.end());
        }
        _ => {}
    }
    if is_asking {
        return lane.enqueue_behind(pool, &[], true, frame, waiter);
    }
    lane.enqueue(pool, frame, waiter);
}

/// The SCRIPT LOAD that an EVALSHA needs in front of it on this lane, if it needs one and the
/// source is known.
fn load_before(shared: &Shared, lane: &mut Lane, frame: &[u8]) -> Option<Vec<u8>> {
    let sha = called(frame)?;
    let flushes = shared.scripts.flushes();
    if lane.proven.contains(&sha, flushes) {
        shared.scripts.touch(&sha);
        return None;
    }
    let source = shared.scripts.source(&sha, lane.key.identity)?;
    // From here on: what is queued behind the SCRIPT LOAD is run behind it.
    lane.proven.insert(sha, flushes);
    let topology = shared.topology.load();
    let name = topology.table.find("script|load").and_then(|spec| spec.wire_name.as_deref());
    let mut load = Vec::with_capacity(source.len() + 64);
    write::command(&mut load, &[name.unwrap_or(b"SCRIPT"), b"LOAD", &source]);
    Some(load)
}

/// The reply to the SCRIPT LOAD in front of the lane's first waiter.
pub fn load_answered(shared: &Shared, stats: &WorkerStats, lane: &mut Lane, reply: &[u8]) {
    if !is_error(reply) {
        return;
    }
    stats.script_loads_refused.increment();
    let Some(sha) = first_frame(lane).as_ref().and_then(|frame| called(frame.bytes())) else {
        return;
    };
    lane.proven.forget(&sha);
    // This user may not load scripts, or the node has no such command: asked again it would say the
    // same, and log it. What passes (LOADING, BUSY) is no reason to give up.
    if matches!(class(reply), ErrorClass::Noperm | ErrorClass::Err) {
        shared.scripts.disown(&sha, lane.key.identity);
    }
}

/// The whole reply to the lane's first waiter, whose role is [`Role::Script`] or [`Role::Library`]
/// and whose command still lies on the lane. Of a long reply `reply` may be only the end.
pub fn answered(shared: &Shared, lane: &mut Lane, reply: &[u8], kind: u8) {
    // Another deployment has scripts of its own.
    if lane.key.epoch != shared.topology.load().epoch {
        return;
    }
    let Some(first) = lane.waiters.front().copied() else {
        return;
    };
    let is_error = matches!(kind, b'-' | b'!');
    // A part for this very node has the role of its command as well.
    let role = if first.is_bound() { Role::of(first.command) } else { first.role };
    match (role, first.command) {
        (Role::Script, EVALSHA | EVALSHA_RO)
            if is_error && class(reply) == ErrorClass::Noscript =>
        {
            doubt(lane);
        }
        _ if is_error => {}
        (Role::Script, EVAL | EVAL_RO) => learn(shared, lane, first.end, 1),
        (Role::Script, SCRIPT_LOAD) => learn(shared, lane, first.end, 2),
        (Role::Library, command) if lane.node.settings.restore_functions => {
            if let Some(frame) = first_frame(lane) {
                shared.libraries.note(lane.key.identity, command, frame.bytes(), reply);
            }
        }
        _ => {}
    }
}

/// Somebody has told the node to forget its scripts, or one of them says so: the next call brings
/// its source.
fn doubt(lane: &mut Lane) {
    if let Some(sha) = first_frame(lane).as_ref().and_then(|frame| called(frame.bytes())) {
        lane.proven.forget(&sha);
    }
}

/// The node has taken the source that is argument `place` of the first waiter's command, which ends
/// at `end`.
fn learn(shared: &Shared, lane: &mut Lane, end: u64, place: usize) {
    // The script was there, but a SCRIPT FLUSH of the same client may be on its way behind it.
    if !lane.proven.is_behind_flush(end) {
        return;
    }
    let flushes = shared.scripts.flushes();
    let sha = first_frame(lane).and_then(|frame| {
        let source = arguments(frame.bytes()).nth(place)?;
        shared.scripts.learn(lane.key.identity, source)
    });
    if let Some(sha) = sha {
        lane.proven.insert(sha, flushes);
    }
}

/// The command of the lane's first waiter, without what was put in front of it.
fn first_frame(lane: &Lane) -> Option<Piece<'_>> {
    let first = lane.waiters.front()?;
    lane.send.piece(first.start(), first.end)
}

/// The script that an EVALSHA calls.
fn called(frame: &[u8]) -> Option<Sha> {
    parse_sha(arguments(frame).nth(1)?)
}

fn is_error(reply: &[u8]) -> bool {
    matches!(reply.first(), Some(b'-' | b'!'))
}

/// The class of an error reply of either version.
fn class(reply: &[u8]) -> ErrorClass {
    match reply.first() {
        Some(b'!') => {
            ErrorClass::of(reply.splitn(2, |&byte| byte == b'\n').nth(1).unwrap_or_default())
        }
        _ => ErrorClass::of(reply),
    }
}

const EVAL: CommandId = builtin_id("eval");
const EVAL_RO: CommandId = builtin_id("eval_ro");
const EVALSHA: CommandId = builtin_id("evalsha");
const EVALSHA_RO: CommandId = builtin_id("evalsha_ro");
const SCRIPT_FLUSH: CommandId = builtin_id("script|flush");
const SCRIPT_LOAD: CommandId = builtin_id("script|load");

#[cfg(test)]
mod tests;

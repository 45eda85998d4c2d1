//! Transactions that arrive whole: MULTI to EXEC in one piece.
//!
//! Owns the search for such a block in a client's input. Never changes a byte: what is found goes
//! out as one contiguous write on a shared connection, and its replies come back as one. Only
//! commands of class shared may be inside; everything else changes or shifts the connection and
//! makes the transaction a pinned one, and so does a command that a rule restricts: what is
//! refused must be refused by itself.
//!
//! What surprises: to INV-3 a block is one command. It is unsent until the last byte of its EXEC is
//! handed over, and if its reply is lost the client is told so in the place of EXEC's.

use crate::command::Command;
use crate::command::spec::{Class, CommandId, Lane, RequestPolicy, Spec, builtin_id};
use crate::dispatch::judge::Judged;
use crate::dispatch::veil;
use crate::resp::limits::Limits;
use crate::resp::request::{RequestScanner, Scanned};
use crate::route::{self, Place};
use crate::session::state::Session;
use crate::topology::Topology;
use crate::worker::Worker;

/// A whole transaction at the beginning of some input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its bytes.
    pub length: usize,
    /// Its commands, MULTI and EXEC among them: as many replies will come.
    pub commands: u32,
    /// The command that ends it.
    pub last: CommandId,
    /// Whether it may hold others up.
    pub is_bulk: bool,
    /// Whether all of it only reads.
    pub is_retry_safe: bool,
    /// In a cluster: where all its keys lie; `None` if it has none.
    pub slot: Option<u16>,
}

/// Whether input begins with MULTI as every client library writes it; anything else pins, which is
/// right as well.
#[must_use]
#[inline]
pub fn begins(input: &[u8]) -> bool {
    const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
    // One byte tells for nearly every command: few have no argument.
    input.get(1) == Some(&b'1')
        && input.get(..MULTI.len()).is_some_and(|start| start.eq_ignore_ascii_case(MULTI))
}

/// The block at the beginning of `input`, whose first command is MULTI, if all of it is here and
/// may share a connection with others.
#[must_use]
pub fn find(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    scanner: &mut RequestScanner,
    input: &[u8],
) -> Option<Block> {
    if session.pin.is_some() || session.is_muted() || session.identity.is_none() {
        return None;
    }
    if session.subscriptions.is_some() {
        // Each command is judged by itself: in RESP2 a subscriber may say next to nothing.
        return None;
    }
    let limits = topology.limits(&session.gate.limits);
    let mut slot = None;
    let (mut length, mut commands, mut is_bulk, mut is_retry_safe) = (0, 0, false, true);
    let mut judged = Judged::default();
    while commands < BLOCK_COMMANDS_MAX && length < BLOCK_BYTES_MAX {
        let rest = input.get(length..)?;
        let (spec, used) = next(topology, scanner, rest, &limits)?;
        length += used;
        commands += 1;
        match spec.id {
            MULTI if commands == 1 => {}
            EXEC | DISCARD if commands > 1 => {
                judged.note();
                return Some(Block {
                    length,
                    commands,
                    last: spec.id,
                    is_bulk,
                    is_retry_safe,
                    slot,
                });
            }
            _ => {
                is_bulk |= shares(spec, scanner, rest, used)? == Lane::Bulk;
                let (frame, spans) = scanner.arguments(rest, used);
                let command = Command::new(frame, spans);
                if worker.policy.load().looks_at(spec.id, command.len()) {
                    judged.lets_pass(worker, session, spec, command).then_some(())?;
                }
                is_retry_safe &= spec.is_retry_safe();
                if topology.slots.is_some() {
                    slot = slot_with(slot, spec, scanner, rest, used)?;
                }
            }
        }
    }
    None
}

/// The next command, if it is whole, known, and not typed by hand.
fn next<'a>(
    topology: &'a Topology,
    scanner: &mut RequestScanner,
    input: &[u8],
    limits: &Limits,
) -> Option<(&'a Spec, usize)> {
    scanner.reset();
    if input.first() != Some(&b'*') {
        return None;
    }
    let Ok(Scanned::Command { length }) = scanner.scan(input, limits, true) else {
        return None;
    };
    let (frame, spans) = scanner.arguments(input, length);
    let command = Command::new(frame, spans);
    let spec = topology.table.resolve(&command).ok()?;
    (spec.accepts(command.len()) && spec.wire_name.is_none()).then_some((spec, length))
}

/// The lane of the command that was just scanned, if it may share one.
fn shares(spec: &Spec, scanner: &RequestScanner, input: &[u8], length: usize) -> Option<Lane> {
    let (frame, spans) = scanner.arguments(input, length);
    let command = Command::new(frame, spans);
    // What SCRIPT FLUSH makes us forget must be noted when its EXEC succeeds; passwords are not shown.
    let is_other = spec.id != SCRIPT_FLUSH && spec.id != veil::CONFIG_GET;
    let is_shared = spec.class_for(&command) == Class::Shared && is_other;
    is_shared.then(|| spec.lane_for(&command))
}

/// The slot of a block with one command more; `None` if one node may not run it all. Such a block
/// is taken piece by piece, and each piece is told what is wrong with it.
fn slot_with(
    slot: Option<u16>,
    spec: &Spec,
    scanner: &RequestScanner,
    input: &[u8],
    length: usize,
) -> Option<Option<u16>> {
    let (frame, spans) = scanner.arguments(input, length);
    let mut keys = Vec::new();
    match route::place(spec, &Command::new(frame, spans), &mut keys) {
        Place::Slot(next) => slot.is_none_or(|slot| slot == next).then_some(Some(next)),
        Place::Anywhere if spec.request_policy == RequestPolicy::Default => Some(slot),
        Place::Anywhere | Place::Several => None,
    }
}

// === impl Block ===

impl Block {
    /// Where its keys lie.
    #[must_use]
    pub fn place(&self) -> Place {
        self.slot.map_or(Place::Anywhere, Place::Slot)
    }
}

/// Most commands of a block; longer ones are pinned, so that no client holds a shared connection
/// for long.
const BLOCK_COMMANDS_MAX: u32 = 1024;
/// Most bytes of a block; likewise.
const BLOCK_BYTES_MAX: usize = 1024 * 1024;

/// A command that changes what we remember.
pub const SCRIPT_FLUSH: CommandId = builtin_id("script|flush");
const MULTI: CommandId = builtin_id("multi");
const EXEC: CommandId = builtin_id("exec");
const DISCARD: CommandId = builtin_id("discard");

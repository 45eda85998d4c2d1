//! Commands that follow one another to one lane.
//!
//! Owns the short way of most commands: they are whole, no rule speaks of them, they keep no state
//! and their session has none that changes what they mean. For a run of such commands the lane is
//! chosen once and the bytes are copied once. Never answers and never refuses: whatever is unusual
//! ends the run, and is left to [`super::dispatch`].
//!
//! What surprises: the scanner keeps the command that ended the run, so it is not scanned twice.

use super::{Asked, BULK_REPLY_BYTES, waiter};
use crate::command::Command;
use crate::command::flags::Flags;
use crate::command::spec::{Class, Lane as LaneKind, Spec};
use crate::policy::Policy;
use crate::resp::limits::Limits;
use crate::resp::request::{RequestScanner, Scanned};
use crate::session::state::Session;
use crate::topology::Topology;
use crate::upstream::lane::{LaneId, Role, Waiter};
use crate::upstream::pool;
use crate::worker::Worker;

/// Dispatches the commands that `input` begins with, as long as they are plain, and returns their
/// length. Before a cluster there are none: each command has a node of its own.
pub fn take(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    (scanner, limits): (&mut RequestScanner, &Limits),
    input: &[u8],
) -> usize {
    let Some(identity) = session.identity.filter(|_| session.sends_runs()) else {
        return 0;
    };
    let is_bulk = session.admission.largest() > BULK_REPLY_BYTES;
    if topology.slots.is_some() || is_bulk || worker.capture.is_some() {
        return 0;
    }
    #[cfg(test)]
    if worker.faults.no_runs {
        return 0;
    }
    let room = session.room();
    // Asked before the lane is: it may have to be opened, and for nothing else than a command.
    let policy = worker.policy.load();
    let first = next(topology, policy, scanner, limits, input).filter(|_| room > 0);
    let Some(first) = first else {
        return 0;
    };
    match pool::lane_for(worker, topology, session, identity, false) {
        Ok(lane) => {
            queue(worker, topology, session, (lane, first), (scanner, limits), (input, room))
        }
        Err(_) => 0,
    }
}

/// Queues up to `room` commands on the lane, from the `first` on, which was looked at.
#[inline(always)]
fn queue(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    (lane, first): (LaneId, (usize, &Spec)),
    (scanner, limits): (&mut RequestScanner, &Limits),
    (input, room): (&[u8], u64),
) -> usize {
    let Some(lane) = worker.lanes.get_mut(lane) else {
        return 0;
    };
    let policy = worker.policy.load();
    // One at least: `lane_for` has found room for it.
    let room_there = lane.node.health.room().saturating_sub(lane.waiters.len()).max(1) as u64;
    let room = room.min(room_there);
    let (start, is_first) = (lane.send.end(), lane.send.unsent() == 0);
    let (mut used, mut count, mut last) = (0, 0, None);
    let mut found = Some(first);
    while let Some((length, spec)) = found
        && u64::from(count) < room
        && used + length <= RUN_BYTES_MAX
    {
        used += length;
        count += 1;
        last = Some(spec.id);
        let asked = Asked { role: Role::of(spec.id), ..Asked::of(spec) };
        let waiter = waiter(worker.now, session, asked);
        let (end, length) = (start + used as u64, length as u32);
        lane.waiters.push_back(Waiter { end, length, ..waiter });
        scanner.reset();
        let rest = input.get(used..).unwrap_or_default();
        found = next(topology, policy, scanner, limits, rest);
    }
    let Some(last) = last else {
        return 0;
    };
    lane.send.append_whole(&mut worker.pool, input.get(..used).unwrap_or_default());
    lane.used_at = worker.now;
    worker.unflushed.mark_many(lane.id, is_first, count as usize);
    session.client.note_command(last.0, worker.now);
    session.lane = Some(lane.id);
    session.in_flight += count;
    used
}

/// The length of the command that `input` begins with, and what it is, if it is a plain one.
#[inline(always)]
fn next<'t>(
    topology: &'t Topology,
    policy: &Policy,
    scanner: &mut RequestScanner,
    limits: &Limits,
    input: &[u8],
) -> Option<(usize, &'t Spec)> {
    // An inline command travels in its encoded form, never as it came (INV-2).
    if input.first() != Some(&b'*') {
        return None;
    }
    let Ok(Scanned::Command { length }) = scanner.scan(input, limits, true) else {
        return None;
    };
    let (frame, spans) = scanner.arguments(input, length);
    let command = Command::new(frame, spans);
    let spec = topology.table.resolve(&command).ok()?;
    let is_plain = length <= RUN_BYTES_MAX
        && is_plain(spec, &command)
        && !policy.looks_at(spec.id, command.len());
    is_plain.then_some((length, spec))
}

/// Whether nothing is to be known of a command but that it goes to the fast lane as it came.
#[inline(always)]
fn is_plain(spec: &Spec, command: &Command<'_>) -> bool {
    spec.accepts(command.len())
        && spec.class == Class::Shared
        && !spec.flags.intersects(Flags::BLOCKING | Flags::PUBSUB)
        && spec.wire_name.is_none()
        && Role::of(spec.id).is_plain()
        && spec.lane_for(command) == LaneKind::Fast
}

/// Most bytes of a run. They lie in one chunk of the lane, of which no more than this may be left
/// over.
const RUN_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests;

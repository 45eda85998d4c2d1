//! Commands that follow one another, of which nothing is to be known but where they go.
//!
//! Owns the short way of most commands: they are whole, no rule speaks of them, they keep no state
//! and their session has none that changes what they mean. For a run of such commands the session is
//! judged once, and of those that go to one lane in a row the bytes are copied once. Never answers
//! and never refuses: whatever is unusual ends the run, and is left to [`super::dispatch`]. What
//! only clusters need is in `cluster`.
//!
//! What surprises: the scanner keeps the command that ended the run, so it is not scanned twice.

use super::{Asked, BULK_REPLY_BYTES, waiter};
use crate::buffer::ChunkPool;
use crate::command::Command;
use crate::command::flags::Flags;
use crate::command::spec::{Class, CommandId, Lane as LaneKind, Spec};
use crate::policy::Policy;
use crate::resp::limits::Limits;
use crate::resp::request::{RequestScanner, Scanned};
use crate::session::state::Session;
use crate::topology::Topology;
use crate::topology::slots::NodeId;
use crate::upstream::flush::Unflushed;
use crate::upstream::lane::{Lane, LaneId, Role, Waiter};
use crate::upstream::lane_sets::LaneSets;
use crate::upstream::pool;
use crate::worker::Worker;

/// Dispatches the commands that `input` begins with, as long as they are plain, and returns their
/// length.
pub fn take(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    (scanner, limits): (&mut RequestScanner, &Limits),
    input: &[u8],
) -> usize {
    let is_known = session.identity.is_some() && session.sends_runs();
    let is_bulk = session.admission.largest() > BULK_REPLY_BYTES;
    if !is_known || is_bulk || worker.capture.is_some() {
        return 0;
    }
    #[cfg(test)]
    if worker.faults.no_runs {
        return 0;
    }
    match &topology.slots {
        Some(slots) => cluster::take(worker, (topology, slots), session, (scanner, limits), input),
        None => {
            let Some(lane) = pool::fast_lane(worker, topology, session) else {
                return 0;
            };
            let (home, lane) = (|_: &Spec, _: &Command<'_>| Some(ANY), |_: &_, _| Some(lane));
            go(worker, topology, session, (scanner, limits), input, Ways { home, lane })
        }
    }
}

/// How commands find their lanes.
struct Ways<H, L> {
    /// The node of a command, if it may go there now.
    home: H,
    /// The lane to a node, whatever its state.
    lane: L,
}

/// Neighbours in a run that go to one lane.
struct Streak<'l> {
    lane: &'l mut Lane,
    home: NodeId,
    /// Where they begin in the input.
    start: usize,
    /// From a position in the input to that on the lane.
    offset: u64,
    /// Commands of the run before them.
    before: u32,
    /// Commands of the run at which the lane, or the session, is full.
    full: u32,
}

/// Queues commands on their lanes as long as they are plain and the lanes have room.
#[inline(always)]
fn go<H, L>(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    (scanner, limits): (&mut RequestScanner, &Limits),
    input: &[u8],
    ways: Ways<H, L>,
) -> usize
where
    H: Fn(&Spec, &Command<'_>) -> Option<NodeId>,
    L: Fn(&LaneSets, NodeId) -> Option<LaneId>,
{
    let room = u32::try_from(session.room()).unwrap_or(u32::MAX);
    let Worker { policy, lanes, lane_sets, pool, unflushed, now, .. } = worker;
    let (policy, now) = (policy.load(), *now);
    let (mut used, mut count, mut command) = (0, 0, CommandId(0));
    let mut streak: Option<Streak<'_>> = None;
    while let rest = input.get(used..).unwrap_or_default()
        && let Some((length, spec, home)) =
            next(topology, policy, (scanner, limits), rest, &ways.home)
    {
        if !streak.as_ref().is_some_and(|it| it.takes(home, count, used + length)) {
            if let Some(before) = streak {
                before.end(pool, unflushed, count, input.get(..used).unwrap_or_default());
            }
            let lane = (ways.lane)(lane_sets, home).and_then(|id| lanes.get_mut(id));
            streak = lane.and_then(|lane| Streak::begin(lane, home, (used, count), room));
            if let Some(fresh) = &mut streak {
                fresh.lane.used_at = now;
                session.lane = Some(fresh.lane.id);
            }
        }
        let Some(streak) = &mut streak else {
            break;
        };
        used += length;
        count += 1;
        command = spec.id;
        let asked = Asked { role: Role::of(spec.id), ..Asked::of(spec) };
        let (end, length) = (streak.offset.wrapping_add(used as u64), length as u32);
        let waiter = waiter(now, session, asked);
        streak.lane.waiters.push_back(Waiter { end, length, ..waiter });
        scanner.go_on();
    }
    if let Some(last) = streak {
        last.end(pool, unflushed, count, input.get(..used).unwrap_or_default());
    }
    if count > 0 {
        session.client.note_command(command.0, now);
        session.epoch = topology.epoch;
        session.in_flight += count;
    }
    used
}

/// The command that `input` begins with, if it is a plain one: its length, what it is, and the node
/// that it goes to.
#[inline(always)]
fn next<'t, H>(
    topology: &'t Topology,
    policy: &Policy,
    (scanner, limits): (&mut RequestScanner, &Limits),
    input: &[u8],
    home: &H,
) -> Option<(usize, &'t Spec, NodeId)>
where
    H: Fn(&Spec, &Command<'_>) -> Option<NodeId>,
{
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
    let home = home(spec, &command).filter(|_| is_plain)?;
    Some((length, spec, home))
}

// === impl Streak ===

impl<'l> Streak<'l> {
    /// A streak on `lane`, if that takes any command now; it begins at `start` of the input, behind
    /// `before` commands of a run that may have `most`.
    #[inline(always)]
    fn begin(
        lane: &'l mut Lane,
        home: NodeId,
        (start, before): (usize, u32),
        most: u32,
    ) -> Option<Self> {
        let room = u32::try_from(pool::room_at_hand(lane)).unwrap_or(u32::MAX);
        let full = before.saturating_add(room).min(most);
        // What is before the streak belongs to other lanes, so that this may be below zero.
        let offset = lane.send.end().wrapping_sub(start as u64);
        (full > before).then_some(Self { lane, home, start, offset, before, full })
    }

    /// Whether the next command, behind `count` others of the run, belongs to it: it goes to `home`
    /// and ends at `end`.
    #[inline(always)]
    fn takes(&self, home: NodeId, count: u32, end: usize) -> bool {
        self.home == home && count < self.full && end - self.start <= RUN_BYTES_MAX
    }

    /// Queues the bytes of its commands, with which `input` ends; the run has `count` by now.
    #[inline(always)]
    fn end(self, pool: &mut ChunkPool, unflushed: &mut Unflushed, count: u32, input: &[u8]) {
        let is_first = self.lane.send.unsent() == 0;
        unflushed.mark_many(self.lane.id, is_first, (count - self.before) as usize);
        self.lane.send.append_whole(pool, input.get(self.start..).unwrap_or_default());
    }
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

/// Stands for the node of every command where there is only one.
const ANY: NodeId = NodeId(0);
/// Most bytes of a streak. They lie in one chunk of the lane, of which no more than this may be left
/// over.
const RUN_BYTES_MAX: usize = 4096;

mod cluster;
#[cfg(test)]
mod tests;

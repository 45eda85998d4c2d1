//! Commands that follow one another to one lane.
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
use crate::clock::Micros;
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
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Lane, LaneId, Role, Waiter};
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
    let Some(identity) = session.identity.filter(|_| session.sends_runs()) else {
        return 0;
    };
    let is_bulk = session.admission.largest() > BULK_REPLY_BYTES;
    if is_bulk || worker.capture.is_some() {
        return 0;
    }
    #[cfg(test)]
    if worker.faults.no_runs {
        return 0;
    }
    let room = session.room();
    let run = Run { scanner, input, room, used: 0, count: 0, last: None, next: None };
    match &topology.slots {
        Some(slots) => cluster::take(worker, (topology, slots), session, limits, run),
        None => to_one(worker, topology, session, identity, limits, run),
    }
}

/// A run before a single node: all of it goes to one lane.
#[inline(always)]
fn to_one<'t>(
    worker: &mut Worker,
    topology: &'t Topology,
    session: &mut Session,
    identity: Identity,
    limits: &Limits,
    mut run: Run<'_, 't>,
) -> usize {
    let home = |_: &Spec, _: &Command<'_>| Some(topology.node.id);
    let policy = worker.policy.load();
    // Asked before the lane is: it may have to be opened, and for nothing else than a command.
    run.begin(&Sight { topology, policy, limits, home });
    if run.next.is_none() || run.room == 0 {
        return 0;
    }
    let Ok(lane) = pool::lane_for(worker, topology, session, identity, false) else {
        return 0;
    };
    let Worker { policy, lanes, pool, unflushed, now, .. } = worker;
    let sight = Sight { topology, policy: policy.load(), limits, home };
    let Some(lane) = lanes.get_mut(lane) else {
        return 0;
    };
    // One at least: `lane_for` has found room for it.
    let room = lane.node.health.room().saturating_sub(lane.waiters.len()).max(1);
    run.queue(&sight, session, (lane, room), (pool, unflushed), *now);
    run.end(session, lane.id, *now)
}

/// A run in the making.
struct Run<'a, 't> {
    /// It has looked at `next`.
    scanner: &'a mut RequestScanner,
    input: &'a [u8],
    /// How many more commands the session may send.
    room: u64,
    /// Bytes of the commands that have been queued.
    used: usize,
    /// How many these are.
    count: u32,
    /// Which command the last one was.
    last: Option<CommandId>,
    /// The command behind them, if it is plain.
    next: Option<Plain<'t>>,
}

/// A command of which nothing is to be known but where it goes.
struct Plain<'t> {
    length: usize,
    spec: &'t Spec,
    /// The node that it goes to.
    home: NodeId,
}

/// What is looked at to tell whether a command is plain.
struct Sight<'s, 't, H> {
    topology: &'t Topology,
    policy: &'s Policy,
    limits: &'s Limits,
    /// The node of a command, if it may go there now.
    home: H,
}

// === impl Run ===

impl<'t> Run<'_, 't> {
    /// Looks at the first command.
    // Never: apart from the loop it is one of a whole run.
    #[inline(never)]
    fn begin<H>(&mut self, sight: &Sight<'_, 't, H>)
    where
        H: Fn(&Spec, &Command<'_>) -> Option<NodeId>,
    {
        self.look(sight);
    }

    /// Looks at what is behind the commands that have been queued.
    #[inline(always)]
    fn look<H>(&mut self, sight: &Sight<'_, 't, H>)
    where
        H: Fn(&Spec, &Command<'_>) -> Option<NodeId>,
    {
        let rest = self.input.get(self.used..).unwrap_or_default();
        self.next = sight.plain(self.scanner, rest);
    }

    /// Queues on `lane`, which has `room` for so many, the next command and those behind it that go to
    /// the same node.
    #[inline(always)]
    fn queue<H>(
        &mut self,
        sight: &Sight<'_, 't, H>,
        session: &mut Session,
        (lane, room): (&mut Lane, usize),
        (pool, unflushed): (&mut ChunkPool, &mut Unflushed),
        now: Micros,
    ) where
        H: Fn(&Spec, &Command<'_>) -> Option<NodeId>,
    {
        let Some(home) = self.next.as_ref().map(|next| next.home) else {
            return;
        };
        let room = self.room.min(room as u64);
        let (start, is_first) = (lane.send.end(), lane.send.unsent() == 0);
        let (before, mut length, mut count) = (self.used, 0, 0);
        while let Some(next) = &self.next
            && next.home == home
            && u64::from(count) < room
            && length + next.length <= RUN_BYTES_MAX
        {
            length += next.length;
            count += 1;
            self.last = Some(next.spec.id);
            let asked = Asked { role: Role::of(next.spec.id), ..Asked::of(next.spec) };
            let waiter = waiter(now, session, asked);
            let end = start + length as u64;
            lane.waiters.push_back(Waiter { end, length: next.length as u32, ..waiter });
            self.scanner.reset();
            self.used = before + length;
            self.look(sight);
        }
        let bytes = self.input.get(before..self.used).unwrap_or_default();
        lane.send.append_whole(pool, bytes);
        lane.used_at = now;
        unflushed.mark_many(lane.id, is_first, count as usize);
        self.room -= u64::from(count);
        self.count += count;
    }

    /// Nothing more is queued; `lane` has got the last one.
    #[inline(always)]
    fn end(self, session: &mut Session, lane: LaneId, now: Micros) -> usize {
        if let Some(last) = self.last {
            session.client.note_command(last.0, now);
            session.lane = Some(lane);
            session.in_flight += self.count;
        }
        self.used
    }
}

// === impl Sight ===

impl<'t, H> Sight<'_, 't, H>
where
    H: Fn(&Spec, &Command<'_>) -> Option<NodeId>,
{
    /// The command that `input` begins with, if it is a plain one.
    #[inline(always)]
    fn plain(&self, scanner: &mut RequestScanner, input: &[u8]) -> Option<Plain<'t>> {
        // An inline command travels in its encoded form, never as it came (INV-2).
        if input.first() != Some(&b'*') {
            return None;
        }
        let Ok(Scanned::Command { length }) = scanner.scan(input, self.limits, true) else {
            return None;
        };
        let (frame, spans) = scanner.arguments(input, length);
        let command = Command::new(frame, spans);
        let spec = self.topology.table.resolve(&command).ok()?;
        let is_plain = length <= RUN_BYTES_MAX
            && is_plain(spec, &command)
            && !self.policy.looks_at(spec.id, command.len());
        let home = (self.home)(spec, &command).filter(|_| is_plain)?;
        Some(Plain { length, spec, home })
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

/// Most bytes of a run. They lie in one chunk of the lane, of which no more than this may be left
/// over.
const RUN_BYTES_MAX: usize = 4096;

mod cluster;
#[cfg(test)]
mod tests;

//! What the tasks of a worker do, without sockets: the session's, the lane's, and the one that writes to nodes.
//!
//! Owns a copy of the few lines around the synchronous core that only await and write. Never decides anything
//! that the core decides. What surprises: a detached socket refuses every byte, so what the kernel would have
//! taken is taken by hand right behind each write, and what the writer would have done then is done here.

use std::io::IoSlice;
use std::sync::Arc;
use std::task::Waker;

use breakwater::buffer::{LARGE_BYTES, Piece, SLICES, SendBuffer};
use breakwater::session::state::{Closing, Session, SessionId};
use breakwater::session::{self, feed, flush};
use breakwater::stats::labels::{ClosedReason, DialFailure};
use breakwater::topology::Topology;
use breakwater::upstream::dial::DialError;
use breakwater::upstream::health::chart::Signal;
use breakwater::upstream::lane::{Lane, LaneId, LaneState};
use breakwater::upstream::{loss, receive};
use breakwater::worker::{SCRATCH_BYTES, Worker};
use bytes::Bytes;

use super::client::Client;
use super::node::{Pipe, PipeState};
use super::{Flag, World};
use crate::pieces::Pieces;

// === impl World ===

impl World {
    /// Runs whoever wants to run, until nobody does.
    pub(super) fn run_ready(&mut self) {
        for _ in 0..TURNS_MAX {
            let mut has_run = false;
            for place in 0..self.clients.len() {
                if self.is_ready(&self.clients[place]) {
                    self.poll_session(place);
                    has_run = true;
                }
            }
            for place in 0..self.pipes.len() {
                let pipe = &self.pipes[place];
                if pipe.state != PipeState::Lost && pipe.flag.is_raised() {
                    self.poll_lane(place);
                    has_run = true;
                }
            }
            if !has_run {
                return;
            }
        }
        panic!("the tasks wake each other for ever");
    }

    /// A session runs when it was woken, or when bytes came and its task waits for them.
    fn is_ready(&self, client: &Client) -> bool {
        let waits_for_input = || {
            let session = self.worker.sessions.get(client.session);
            session.is_some_and(|session| !session.parked)
        };
        client.is_here() && (client.flag.is_raised() || client.is_readable() && waits_for_input())
    }

    /// One poll of a session's task.
    fn poll_session(&mut self, place: usize) {
        let topology = self.begin_batch();
        let client = &mut self.clients[place];
        client.flag.lower();
        let Some(mut session) = self.worker.sessions.lend(client.session) else { return };
        // What was owed before is written first: it may be what keeps the session from taking more.
        let taken = take(&mut session.out, &mut client.room);
        client.receive(&taken, &mut self.ledger);
        let worker = &mut self.worker;
        after_write(worker, &mut session);
        turn(worker, &topology, &mut session, client, &mut self.reads);
        let over = session.is_over();
        let id = session.id;
        worker.sessions.restore(id, session);
        self.flush_touched(|_| {});
        self.start_tasks();
        let over = over.or_else(|| self.worker.sessions.get(id).and_then(Session::is_over));
        if let Some(reason) = over {
            self.remove_session(place, reason);
        }
    }

    /// Takes a session off its worker. What it has not sent must never be executed (INV-3).
    pub(super) fn remove_session(&mut self, place: usize, reason: ClosedReason) {
        let id = self.clients[place].session;
        let lanes: Vec<LaneId> = self.worker.lanes.keys().collect();
        for lane in lanes.into_iter().filter_map(|lane| self.worker.lanes.get(lane)) {
            for waiter in lane.waiters.iter().filter(|waiter| waiter.session == id) {
                let start = waiter.end - u64::from(waiter.length);
                // What is partly handed over must be completed.
                let piece = lane.send.piece(start, waiter.end).filter(|_| start >= lane.send.sent());
                if let Some(piece) = piece {
                    self.ledger.forbid(&frame(piece), "its client had gone before it was sent");
                }
            }
        }
        session::remove(&mut self.worker, id, reason);
        self.clients[place].leave();
    }

    /// Runs `batch`, which may touch sessions, and writes what they are owed, as every task does at its end.
    pub(super) fn flush_touched(&mut self, batch: impl FnOnce(&mut Self)) {
        // Those whose sockets would take bytes: a blocked one is written by its own task only.
        let writable = |id: &SessionId, worker: &Worker| {
            worker.sessions.get(*id).is_some_and(|session| !session.write_blocked)
        };
        let before: Vec<SessionId> =
            self.worker.sessions.keys().filter(|id| writable(id, &self.worker)).collect();
        batch(self);
        flush::touched(&mut self.worker);
        for client in &mut self.clients {
            if !client.is_here() || !before.contains(&client.session) {
                continue;
            }
            let Some(mut session) = self.worker.sessions.lend(client.session) else { continue };
            if session.write_blocked {
                let taken = take(&mut session.out, &mut client.room);
                client.receive(&taken, &mut self.ledger);
                after_write(&mut self.worker, &mut session);
                if session.closing.is_some() || (session.parked && session.admits()) {
                    session.wake();
                }
            }
            self.worker.sessions.restore(client.session, session);
        }
    }

    /// Gives each lane that wants to be dialled a connection in the making.
    fn start_tasks(&mut self) {
        for id in std::mem::take(&mut self.worker.to_dial) {
            let Some(lane) = self.worker.lanes.get_mut(id) else { continue };
            let flag = Arc::new(Flag::default());
            lane.waker = Some(Waker::from(Arc::clone(&flag)));
            self.pipes.push(Pipe::new(id, lane.key.protocol, flag));
        }
    }

    /// One poll of a lane's task in which its socket has nothing to read.
    fn poll_lane(&mut self, place: usize) {
        let pipe = &mut self.pipes[place];
        pipe.flag.lower();
        if pipe.state != PipeState::Open {
            return;
        }
        let id = pipe.lane;
        self.begin_batch();
        let Some(mut lane) = self.worker.lanes.lend(id) else { return };
        if lane.has_orphans {
            loss::sweep_orphans(&mut self.worker, &mut lane);
        }
        self.finish_turn(place, lane);
    }

    /// Puts a lane back behind a turn of its task, and ends it if it is retired and empty.
    fn finish_turn(&mut self, place: usize, mut lane: Box<Lane>) {
        self.release_backlog(&mut lane);
        let (id, is_over) = (lane.id, lane.retired && lane.is_idle());
        self.worker.lanes.restore(id, lane);
        self.flush_touched(|_| {});
        if is_over {
            self.worker.lanes.remove(id);
            self.pipes[place].state = PipeState::Lost;
        }
    }

    fn release_backlog(&self, lane: &mut Lane) {
        for id in lane.backlog.drain(..) {
            if let Some(session) = self.worker.sessions.get(id) {
                session.wake();
            }
        }
    }

    /// A dial has succeeded.
    pub(super) fn opened(&mut self, place: usize) {
        let id = self.pipes[place].lane;
        self.begin_batch();
        self.node.note(Signal::Dialled, self.now);
        self.pipes[place].state = PipeState::Open;
        let Some(mut lane) = self.worker.lanes.lend(id) else { return };
        lane.state = LaneState::Open;
        lane.heard_at = self.now;
        loss::sweep_orphans(&mut self.worker, &mut lane);
        self.finish_turn(place, lane);
    }

    /// A dial has failed: who has waited too long is told, and if nobody is left the lane is forgotten.
    pub(super) fn not_opened(&mut self, place: usize) {
        let id = self.pipes[place].lane;
        let topology = self.begin_batch();
        let error = DialError::new(DialFailure::Refused, "refused by the model".into());
        let Some(mut lane) = self.worker.lanes.lend(id) else { return };
        if lane.key.epoch == topology.epoch {
            self.node.note(Signal::DialFailed { error: &error, is_probe: false }, self.now);
        }
        let node = Arc::clone(&self.node);
        loss::dial_failed(&mut self.worker, &mut lane, &node, &error);
        self.bury(place, lane);
    }

    /// Puts a lane without a connection back: it wants another one, or it is forgotten.
    fn bury(&mut self, place: usize, mut lane: Box<Lane>) {
        self.release_backlog(&mut lane);
        let (id, is_done) = (lane.id, lane.is_idle());
        self.worker.lanes.restore(id, lane);
        if is_done {
            self.worker.lanes.remove(id);
            self.pipes[place].state = PipeState::Lost;
        }
        self.flush_touched(|_| {});
    }

    /// The connection is lost. What the kernel has of it is left to a ghost.
    pub(super) fn lose(&mut self, place: usize) {
        let id = self.pipes[place].lane;
        let ghost = self.pipes[place].lose();
        self.pipes.push(ghost);
        self.begin_batch();
        let Some(mut lane) = self.worker.lanes.lend(id) else { return };
        self.note_doubt(&lane, usize::MAX);
        let node = Arc::clone(&self.node);
        lane.fruitless = if lane.has_answered { 0 } else { lane.fruitless + 1 };
        loss::connection_lost(&mut self.worker, &mut lane, &node);
        self.bury(place, lane);
    }

    /// The outcome of the first `count` commands of a lane becomes unknown, as far as they were sent.
    pub(super) fn note_doubt(&mut self, lane: &Lane, count: usize) {
        for waiter in lane.waiters.iter().take(count) {
            let start = waiter.end - u64::from(waiter.length);
            let client = self.clients.iter().find(|client| client.session == waiter.session);
            if let Some(client) = client.filter(|_| start < lane.send.sent())
                && let Some(piece) = lane.send.piece(start, waiter.end)
            {
                self.ledger.doubt(&frame(piece), client.marks_read());
            }
        }
    }

    /// The kernel takes up to `limit` bytes of what a lane has queued. Returns how many.
    pub(super) fn write_lane(&mut self, place: usize, limit: usize) -> usize {
        let pipe = &mut self.pipes[place];
        let Some(lane) = self.worker.lanes.get_mut(pipe.lane) else { return 0 };
        if pipe.state != PipeState::Open || lane.has_orphans {
            return 0;
        }
        assert!(lane.is_consistent(), "the queue does not match its waiters");
        let bytes = first(&lane.send, limit);
        lane.note_sent(bytes.len(), self.now);
        pipe.inbound.extend_from_slice(&bytes);
        bytes.len()
    }

    /// The lane reads up to `limit` bytes of what the node has answered. Returns how many.
    pub(super) fn read_lane(&mut self, place: usize, limit: usize, is_shared: bool) -> usize {
        let pipe = &mut self.pipes[place];
        let count = limit.min(pipe.outbound.len()).min(SCRATCH_BYTES);
        if pipe.state != PipeState::Open || count == 0 {
            return 0;
        }
        let bytes = Bytes::from(pipe.outbound.drain(..count).collect::<Vec<u8>>());
        let (id, is_mad) = (pipe.lane, pipe.is_mad);
        self.begin_batch();
        let Some(mut lane) = self.worker.lanes.lend(id) else { return 0 };
        let shared = is_shared.then_some(&bytes);
        let result = receive::receive(&mut self.worker, &mut lane, &bytes, shared);
        match result {
            Ok(()) => self.finish_turn(place, lane),
            Err(anomaly) => {
                assert!(is_mad, "a sound reply was refused: {anomaly}");
                self.worker.lanes.restore(id, lane);
                self.lose(place);
            }
        }
        count
    }
}

/// One turn of a session's task behind its write: dispatches what waits, reads what is there.
fn turn(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    client: &mut Client,
    reads: &mut Pieces,
) {
    session.parked = true;
    for _ in 0..READS_A_TURN {
        if session.has_input() {
            if !session.admits() || feed::held(worker, topology, session).is_stuck {
                return;
            }
            continue;
        }
        if session.closing.is_some() || session.suspended || !session.admits() {
            return;
        }
        // Small pieces of a large command take long and find nothing.
        let coarse = if client.arrived.len() > 1024 { 64 } else { 1 };
        let size = coarse * reads.next().unwrap_or(1);
        let size = size.min(read_limit(session)).min(client.arrived.len());
        let input: Vec<u8> = client.arrived.drain(..size).collect();
        if input.is_empty() {
            if client.is_readable() {
                session.close(Closing::AfterReplies(ClosedReason::ClientClosed));
            } else {
                session.parked = false;
            }
            return;
        }
        if take_input(worker, topology, session, &input) {
            return;
        }
    }
    client.flag.raise();
}

fn take_input(worker: &mut Worker, topology: &Topology, session: &mut Session, input: &[u8]) -> bool {
    session.active_at = worker.now;
    if session.partial.is_some() {
        feed::hold(worker, session, input);
        return session.has_input() && feed::held(worker, topology, session).is_stuck;
    }
    feed::fresh(worker, topology, session, input).is_stuck
}

/// A large command is read to its end and no further.
fn read_limit(session: &Session) -> usize {
    let missing = session.partial.as_ref().map_or(0, |partial| {
        partial.needed.saturating_sub(partial.buffer.len() - partial.start)
    });
    if missing >= LARGE_BYTES { missing.min(SCRATCH_BYTES) } else { SCRATCH_BYTES }
}

/// The kernel takes what it has room for.
fn take(out: &mut SendBuffer, room: &mut usize) -> Vec<u8> {
    let mut all = Vec::new();
    while out.unsent() > 0 && *room > 0 {
        let taken = first(out, *room);
        *room -= taken.len();
        out.advance(taken.len());
        all.extend(taken);
    }
    all
}

/// Up to `limit` bytes of what is to be sent next.
fn first(out: &SendBuffer, limit: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let filled = out.unsent_slices(&mut slices);
    let mut bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
    bytes.truncate(limit);
    bytes
}

/// The bytes of a command that waits on a lane.
fn frame(piece: Piece<'_>) -> Vec<u8> {
    match piece {
        Piece::Borrowed(bytes) => bytes.to_vec(),
        Piece::Shared(bytes) => bytes.to_vec(),
    }
}

/// What the writer of a session does when the kernel has taken something.
fn after_write(worker: &mut Worker, session: &mut Session) {
    session.write_blocked = session.out.unsent() > 0;
    let sent = session.out.sent();
    session.out.release(&mut worker.pool, sent);
    session.out.rest(&mut worker.pool);
}

/// Turns of all tasks between two events; a single one drains any input that fits this world.
const TURNS_MAX: usize = 1_000_000;
/// As in the session's task.
const READS_A_TURN: usize = 4;

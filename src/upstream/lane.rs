//! A lane: one shared, pipelined connection to a node, as plain data.
//!
//! Owns the order of everything: bytes on their way to the node, the waiters in the order of those
//! bytes, and the scanner of what comes back. Never touches a socket (its task does), never knows
//! what a command means. A command arrives as a frame and a [`Waiter`]; the *n*-th reply belongs to
//! the *n*-th waiter (INV-1).
//!
//! What surprises: bytes stay here after the kernel has taken them, until their reply has come.
//! That is what allows a read-only command to be sent again after the connection is lost (INV-3).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::Waker;

use crate::arena::Key;
use crate::buffer::{ChunkPool, Piece, SendBuffer};
use crate::clock::Micros;
use crate::command::spec::{CommandId, builtin_id};
use crate::governor::running::Sign;
use crate::net::WriteHalf;
use crate::pubsub::recount::Recount;
use crate::resp::reply::ReplyScanner;
use crate::resp::write::Protocol;
use crate::scripts::proven::Proven;
use crate::session::replies::Sequence;
use crate::session::state::{Session, SessionId};
use crate::topology::slots::NodeId;
use crate::upstream::deployment::footing::Footing;
use crate::upstream::dial::Node;
use crate::upstream::identity::Identity;
use crate::upstream::pinned::{LastingPlace, Place};

/// Key of a lane on its worker.
pub type LaneId = Key<Lane>;

/// What makes two lanes different: commands of one key may share a lane, commands of two may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneKey {
    /// Epoch of the topology that named the node; a lane of an older one takes no new command.
    pub epoch: u64,
    /// The node it leads to.
    pub node: NodeId,
    /// Who the lane is to the node.
    pub identity: Identity,
    /// RESP version that its replies come in.
    pub protocol: Protocol,
    /// Selected database.
    pub db: u32,
    /// Whether it carries what would hold others up.
    pub is_bulk: bool,
    /// Whether the node was told READONLY: a replica then serves reads itself.
    pub is_readonly: bool,
}

// === impl LaneKey ===

impl LaneKey {
    /// The fast lane to a node for commands of `session`, which acts as `identity`.
    #[must_use]
    pub fn of(session: &Session, identity: Identity, epoch: u64, node: NodeId) -> Self {
        let (protocol, db) = (session.protocol, session.db);
        Self { epoch, node, identity, protocol, db, is_bulk: false, is_readonly: false }
    }
}

/// Who gets the next reply, and what is owed if none comes.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// The session that asked. It may be gone: the waiter is then a tombstone.
    pub session: SessionId,
    /// The reply slot in that session.
    pub slot: Sequence,
    /// Position behind the command's last byte on this lane.
    pub end: u64,
    /// When the command was taken from its client.
    pub taken_at: Micros,
    /// Bytes of the command, and of what was put in front of it.
    pub length: u32,
    /// Bytes of a command of ours in front of its own, whose reply nobody sees; 0: there is none.
    pub prelude: u32,
    /// Replies to that which are still to come.
    pub preludes_due: u8,
    /// Whether the last thing in front of it is ASKING.
    pub is_asking: bool,
    /// Whether its session keeps it among its detours.
    pub is_detour: bool,
    /// Which command it is, for counters and messages.
    pub command: CommandId,
    /// How often it was sent again.
    pub resent: u8,
    /// Replies that it is owed: 1, or as many as a transaction block has commands.
    pub frames: u32,
    /// Whether running it twice, or not at all, changes nothing (class R).
    pub is_retry_safe: bool,
    /// When its reply is late.
    pub patience: Patience,
    /// What its reply does besides being delivered.
    pub role: Role,
    /// Whether the client asked not to see the reply.
    pub is_muted: bool,
    /// What happens to the reply before the client gets it.
    pub recount: Recount,
}

/// When a reply is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// After the deadline of commands that take constant or logarithmic time.
    Short,
    /// After the deadline of all others.
    Long,
    /// Never: it waits for what other clients do.
    Endless,
}

/// What a reply does besides being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    Plain,
    /// Its first line may tell how much is kept under a key; else nothing.
    Sized,
    /// It says whether a command was queued in a transaction.
    Queued,
    /// It changes what its session's pinned connection holds; `is_held` if it must be whole,
    /// because parts of it are rewritten.
    State {
        /// Whether it is kept back until it is whole.
        is_held: bool,
    },
    /// It ends a transaction that was queued here: of its replies only the last one is delivered.
    /// It changes what its session holds, as [`Self::State`] does.
    Exec {
        /// Whether it is kept back until it is whole.
        is_held: bool,
    },
    /// It answers a command of our own, and is not delivered: its session's commands wait for it.
    Whisper,
    /// It answers a PING of our own on a connection that nobody uses at the moment.
    Beat,
    /// It says what the node knows of a script.
    Script,
    /// It says which libraries of functions the node has.
    Library,
    /// It is held until it is whole, because what it tells is changed here.
    Info {
        /// Whether a section of ours is added.
        is_joined: bool,
    },
    /// It lists settings, and is held until it is whole, because passwords among them are hidden.
    Settings,
    /// It is one of several replies that become one, or as many of them as the waiter is owed.
    Part {
        /// Number of the (first) part.
        place: u16,
        /// Whether it is for this very node, whatever becomes of its slots.
        is_bound: bool,
    },
    /// It is an error, or the beginning of the replication stream, which never ends.
    Stream,
    /// It says whether a redirect that a script may have made up is the node's own.
    Probe,
    /// It is for us: the session's next command waits for it, and its client does not see it.
    Errand,
}

/// What a lane has that belongs to one session alone.
#[derive(Debug)]
pub struct Pinned {
    /// Whose it is; nobody's while it rests in the pool.
    pub owner: Option<SessionId>,
    /// What the node's own CLIENT ID calls this connection; 0 before it is connected.
    pub node_client_id: u64,
    /// The name that the node shows for it; empty for ours.
    pub name: Vec<u8>,
    /// Whether something would be lost with the connection that its owner counts on: then nothing
    /// is sent again on another one.
    pub holds_state: bool,
    /// Its place in the budget of pinned connections; given back when the lane is dropped.
    pub place: Place,
    /// Its place among those that are borrowed for long.
    pub lasting: Option<LastingPlace>,
}

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// Its task dials the node; commands queue up to a bound.
    Dialling,
    /// Connected.
    Open,
}

/// Everything known of one connection to a node.
#[derive(Debug)]
pub struct Lane {
    /// Its key on this worker.
    pub id: LaneId,
    /// What it may carry.
    pub key: LaneKey,
    /// Where it leads.
    pub node: Arc<Node>,
    /// Dialling or open.
    pub state: LaneState,
    /// Commands on their way, and those whose replies are due.
    pub send: SendBuffer,
    /// Who waits, in the order of the commands' bytes. The last one's `end` equals `send.end()`.
    pub waiters: VecDeque<Waiter>,
    /// When which bytes were handed to the kernel: (position behind them, time). Ascending.
    pub handed: VecDeque<(u64, Micros)>,
    /// Finds where replies end.
    pub scanner: ReplyScanner,
    /// The beginning of a reply that is not passed on yet: a header line, an error, a short reply.
    pub carry: Vec<u8>,
    /// Bytes at the start of `carry` that the scanner has seen; `scanned <= carry.len()`.
    pub scanned: usize,
    /// Scripts that the node has, as far as this connection has seen.
    pub proven: Proven,
    /// Sessions that wait until the queue has room.
    pub backlog: Vec<SessionId>,
    /// Held while the first waiter's script has been out for long and nothing of its reply has come.
    pub running: Option<Sign>,
    /// Whether pieces of the first waiter's reply have been passed on.
    pub streaming: bool,
    /// Bytes of the first waiter's reply passed on so far.
    pub streamed: u64,
    /// Replies of the first waiter's block that have come, and their bytes; the last one is not
    /// among them.
    pub block: (u32, Vec<u8>),
    /// Set for a connection of one session alone.
    pub pinned: Option<Box<Pinned>>,
    /// What the connection was made with.
    pub footing: Footing,
    /// It was retired because a fresh connection stands better, not for what goes over it.
    pub outdated: bool,
    /// No new command is taken; closed when the last reply has come.
    pub retired: bool,
    /// Since when it is not read because the client of the reply in progress does not take its
    /// bytes.
    pub paused_at: Option<Micros>,
    /// Reading goes on although the client does not take its bytes: others have waited long enough.
    pub overdraft: bool,
    /// The session whose reply is being settled: if that panics, it is closed with the lane.
    pub settling: Option<Key<Session>>,
    /// Some waiter's session has gone while the command is unsent: the queue wants to be swept.
    pub has_orphans: bool,
    /// Reads that brought replies, since the node's breaker was told of them.
    pub answers: u64,
    /// Whether this connection has answered a command.
    pub has_answered: bool,
    /// Connections in a row that ended before they answered anything.
    pub fruitless: u32,
    /// Where its bytes go; detached while dialling.
    pub socket: WriteHalf,
    /// The kernel refused bytes: the lane's task writes on when there is room.
    pub write_blocked: bool,
    /// The socket failed while writing; the lane's task buries it.
    pub broken: Option<io::Error>,
    /// Wakes the lane's task.
    pub waker: Option<Waker>,
    /// When bytes last came from the node, or were handed over when none were due.
    pub heard_at: Micros,
    /// When a command was last queued.
    pub used_at: Micros,
}

// === impl Waiter ===

impl Waiter {
    /// The waiter of a command of our own, which no client sees: not to be sent again, and late
    /// after the longer deadline.
    #[must_use]
    pub fn of_ours(
        (session, slot): (SessionId, Sequence),
        command: CommandId,
        role: Role,
        now: Micros,
    ) -> Self {
        Self {
            session,
            slot,
            end: 0,
            taken_at: now,
            length: 0,
            prelude: 0,
            preludes_due: 0,
            is_asking: false,
            is_detour: false,
            command,
            resent: 0,
            frames: 1,
            is_retry_safe: false,
            patience: Patience::Long,
            role,
            is_muted: true,
            recount: Recount::No,
        }
    }

    /// Position of the command's first byte, behind what was put in front of it.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.end - u64::from(self.length) + u64::from(self.prelude)
    }

    /// Whether it waits for the replies of a transaction, and its client for the last of them only.
    #[must_use]
    pub fn is_exec(&self) -> bool {
        matches!(self.role, Role::Exec { .. })
    }

    /// Whether its reply is one, is shown to its client as it is, and does nothing else.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.role == Role::Plain
            && self.frames == 1
            && self.preludes_due == 0
            && !self.is_detour
            && !self.is_muted
            && self.recount == Recount::No
    }

    /// The waiter of one of the parts that this one waits for.
    #[must_use]
    pub fn one(&self, index: u32) -> Self {
        let role = match self.role {
            // A command has at most 16,384 parts.
            Role::Part { place, is_bound } => Role::Part { place: place + index as u16, is_bound },
            role => role,
        };
        Self { role, frames: 1, ..*self }
    }

    /// Which of several parts it waits for; 0 for a command that is whole.
    #[must_use]
    pub fn part(&self) -> u16 {
        if let Role::Part { place, .. } = self.role { place } else { 0 }
    }

    /// Whether it waits for several parts, each a command by itself.
    #[must_use]
    pub fn is_many(&self) -> bool {
        self.frames > 1 && matches!(self.role, Role::Part { .. })
    }

    /// Whether it may be answered by its own node only.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        matches!(self.role, Role::Part { is_bound: true, .. })
    }

    /// Position behind the question whose reply is due next; `answered` replies of its block have
    /// come.
    #[must_use]
    pub fn asked_until(&self, answered: u32) -> u64 {
        match self.preludes_due {
            // A node may answer the beginning of a block, or the first parts, before we have sent
            // the end.
            0 if answered + 1 < self.frames => self.start() + 1,
            0 => self.end,
            // ASKING is the last thing in front, and has its own reply.
            2 if self.is_asking => self.start() - ASKING.len() as u64,
            _ => self.start(),
        }
    }
}

// === impl Lane ===

impl Lane {
    /// A lane that is to be dialled.
    #[must_use]
    pub fn new(id: LaneId, key: LaneKey, node: Arc<Node>, now: Micros) -> Self {
        Self {
            id,
            key,
            node,
            state: LaneState::Dialling,
            send: SendBuffer::default(),
            waiters: VecDeque::new(),
            handed: VecDeque::new(),
            scanner: ReplyScanner::default(),
            carry: Vec::new(),
            scanned: 0,
            proven: Proven::default(),
            backlog: Vec::new(),
            running: None,
            streaming: false,
            streamed: 0,
            block: (0, Vec::new()),
            pinned: None,
            footing: Footing::default(),
            outdated: false,
            retired: false,
            paused_at: None,
            overdraft: false,
            settling: None,
            has_orphans: false,
            answers: 0,
            has_answered: false,
            fruitless: 0,
            socket: WriteHalf::Detached,
            write_blocked: false,
            broken: None,
            waker: None,
            heard_at: now,
            used_at: now,
        }
    }

    /// Queues a command; what its waiter must know of its place is filled in here.
    // Always: it has several callers, and apart from them each waiter would be copied twice.
    #[inline(always)]
    pub fn enqueue(&mut self, pool: &mut ChunkPool, frame: Piece<'_>, mut waiter: Waiter) {
        let start = self.send.end();
        match frame {
            Piece::Borrowed(bytes) => self.send.append_whole(pool, bytes),
            Piece::Shared(bytes) => self.send.append_shared(bytes),
        }
        waiter.end = self.send.end();
        // A frame is at most 1 GiB by the limits of the scanner.
        waiter.length = u32::try_from(waiter.end - start).unwrap_or(u32::MAX);
        waiter.prelude = 0;
        waiter.preludes_due = 0;
        waiter.is_asking = false;
        self.waiters.push_back(waiter);
    }

    /// Queues bytes that get no reply of their own: they belong to the last waiter, who has been
    /// answered in part and is not answered to the end. What was sent of it is done with.
    pub fn append_to_last(&mut self, pool: &mut ChunkPool, bytes: &[u8]) {
        self.send.release(pool, self.send.sent());
        self.handed.truncate(1);
        self.send.append(pool, bytes);
        if let Some(last) = self.waiters.back_mut() {
            last.end = self.send.end();
        }
    }

    /// Asks the node something whose answer nobody waits for, so that the connection is not silent.
    pub fn beat(&mut self, pool: &mut ChunkPool, now: Micros) {
        let ours = Waiter::of_ours((SessionId::nobody(), 0), PING, Role::Beat, now);
        let waiter = Waiter { is_retry_safe: true, patience: Patience::Endless, ..ours };
        self.enqueue(pool, Piece::Borrowed(b"*1\r\n$4\r\nPING\r\n"), waiter);
        // Its own task writes it: nobody else has a turn now.
        self.write_blocked = true;
        self.wake();
    }

    /// As [`Self::enqueue`], behind a command of ours (or nothing), and ASKING if `is_asking`. They
    /// are one to everybody else: sent, kept and dropped together, and answered by the last reply.
    pub fn enqueue_behind(
        &mut self,
        pool: &mut ChunkPool,
        prelude: &[u8],
        is_asking: bool,
        frame: Piece<'_>,
        waiter: Waiter,
    ) {
        let start = self.send.end();
        self.send.append_whole(pool, prelude);
        if is_asking {
            self.send.append_whole(pool, ASKING);
        }
        let in_front = self.send.end() - start;
        self.enqueue(pool, frame, waiter);
        if let Some(last) = self.waiters.back_mut() {
            last.prelude = u32::try_from(in_front).unwrap_or(u32::MAX);
            last.length += last.prelude;
            last.preludes_due = u8::from(!prelude.is_empty()) + u8::from(is_asking);
            last.is_asking = is_asking;
        }
    }

    /// Whether the bytes queued are exactly those of its waiters: without that nothing more may be
    /// sent (INV-1).
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.waiters.back().is_none_or(|last| last.end == self.send.end())
    }

    /// Tells the node's breaker what has come since the last time.
    pub fn count_answers(&mut self, now: Micros) {
        if self.answers > 0 {
            self.node.health.answered(std::mem::take(&mut self.answers), now);
        }
    }

    /// Notes that the kernel took `count` bytes at `now`.
    pub fn note_sent(&mut self, count: usize, now: Micros) {
        if self.send.sent() == self.send.end() {
            return;
        }
        if self.handed.is_empty() {
            self.heard_at = now;
        }
        self.send.advance(count);
        match self.handed.back_mut() {
            // One mark a turn is enough; several writes of one turn share it.
            Some((position, at)) if *at == now => *position = self.send.sent(),
            _ => self.handed.push_back((self.send.sent(), now)),
        }
    }

    /// When the command that ends at `end` was handed to the kernel; forgets older marks.
    pub fn handed_at(&mut self, end: u64) -> Option<Micros> {
        while let Some(&(position, at)) = self.handed.front() {
            if position >= end {
                return Some(at);
            }
            self.handed.pop_front();
        }
        None
    }

    /// The first waiter has been answered: it leaves, and its command's bytes with it.
    pub fn finish_first(&mut self, pool: &mut ChunkPool) -> Option<Waiter> {
        let waiter = self.waiters.pop_front()?;
        self.has_answered = true;
        self.send.release(pool, waiter.end);
        self.streaming = false;
        self.streamed = 0;
        if waiter.frames > 1 {
            self.block.0 = 0;
            self.block.1.clear();
        }
        self.overdraft = false;
        Some(waiter)
    }

    /// The session that this connection belongs to, if it belongs to one.
    #[must_use]
    pub fn owner(&self) -> Option<SessionId> {
        self.pinned.as_ref()?.owner
    }

    /// Drops everything that is queued and closes the connection, whatever it is waiting for:
    /// nothing may be executed for a session that has gone (INV-3). Returns the waiters, and how
    /// far their commands were sent.
    pub fn abandon(&mut self) -> (VecDeque<Waiter>, u64) {
        let sent = self.send.sent();
        self.retired = true;
        self.running = None;
        self.send = SendBuffer::default();
        self.wake();
        (std::mem::take(&mut self.waiters), sent)
    }

    /// Whether nothing is due and nothing is queued.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Wakes the lane's task, to write, to read on, or to close.
    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Gives memory back; called when the lane has been idle for a while.
    pub fn shrink(&mut self, pool: &mut ChunkPool) {
        if self.is_idle() {
            self.send.rest(pool);
            self.send.shrink();
            self.waiters.shrink_to(WAITERS_KEPT);
            self.handed = VecDeque::new();
            self.block.1 = Vec::new();
            if self.carry.is_empty() {
                self.carry = Vec::new();
            }
        }
    }
}

/// What makes a node serve a slot that it is still importing, for the next command or block.
pub const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";
/// Waiters for which an idle lane keeps memory.
const WAITERS_KEPT: usize = 64;
const PING: CommandId = builtin_id("ping");

//! What one client has negotiated and what it is owed.
//!
//! Owns the state of a session as plain data: protocol version, database, identity, reply mode, the
//! ring of reply slots, the bytes on their way to the client. Never reads or writes a socket by
//! itself, never knows a node. The session's task and the lanes' tasks of the same worker both work
//! on it, one after the other.
//!
//! What surprises: there is no read buffer. Input is scanned in the worker's scratch buffer; only
//! what is left of an unfinished or not yet admitted command is kept here, so an idle client costs
//! no buffer at all.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use crate::arena::Key;
use crate::buffer::{ChunkPool, SendBuffer};
use crate::clock::Micros;
use crate::config::Confirm;
use crate::net::WriteHalf;
use crate::resp::request::RequestScanner;
use crate::resp::write::Protocol;
use crate::route::Place;
use crate::session::admission::{Admission, Bounds};
use crate::session::detour::Detours;
use crate::session::errand::Errand;
use crate::session::gate::Gate;
use crate::session::gather::Gathers;
use crate::session::paced::Paced;
use crate::session::pin::Pin;
use crate::session::quiet::Quiet;
use crate::session::reading::Reading;
use crate::session::registry::Client;
use crate::session::replies::{Replies, Sequence};
use crate::session::subscriptions::Subscriptions;
use crate::stats::labels::ClosedReason;
use crate::upstream::identity::Identity;
use crate::upstream::lane::LaneId;
use crate::upstream::lane_sets::SetId;

/// Key of a session on its worker.
pub type SessionId = Key<Session>;

/// One client connection.
#[derive(Debug)]
pub struct Session {
    /// Its key on this worker.
    pub id: SessionId,
    /// What CLIENT LIST shows of it, shared with all workers.
    pub client: Arc<Client>,
    /// The rules of the listener it came through.
    pub gate: Rc<Gate>,
    /// RESP version in use, towards the client and on the lanes.
    pub protocol: Protocol,
    /// Selected database.
    pub db: u32,
    /// It has said READONLY: what it reads may come from a replica.
    pub is_readonly: bool,
    /// Who it is upstream. `None` until it has authenticated.
    pub identity: Option<Identity>,
    /// Whether and which replies are suppressed (CLIENT REPLY).
    pub reply_mode: ReplyMode,
    /// What it is subscribed to; `None` without any subscription.
    pub subscriptions: Option<Box<Subscriptions>>,
    /// The ring of reply slots.
    pub replies: Replies,
    /// Since when nothing of it has run.
    pub quiet: Quiet,
    /// Bytes that the client is owed and the kernel has not taken.
    pub out: SendBuffer,
    /// How much it may ask for.
    pub admission: Admission,
    /// Commands on lanes whose replies are due; tombstones are not among them.
    pub in_flight: u32,
    /// The lane that holds its commands in flight, or that held the last ones (INV-12 c).
    pub lane: Option<LaneId>,
    /// Lanes that fit its protocol, database and identity, fast and bulk; forgotten when one of
    /// these changes.
    pub fitting: [Option<LaneId>; 2],
    /// The same in a cluster, a row of lanes to all nodes: fast, bulk, and both to replicas.
    pub sets: [Option<SetId>; 4],
    /// Whether its commands in flight in a cluster are on bulk lanes; `None` if later ones fit none
    /// of these.
    pub stream: Option<bool>,
    /// Version of the slot map under which the oldest of them was sent (INV-12 a).
    pub map_version: u32,
    /// In a cluster: the slots whose writes are in doubt while `doubtful` is not 0.
    pub doubted: Vec<u16>,
    /// Its commands that must be routed again (INV-12 b).
    pub detours: Option<Box<Detours>>,
    /// What is asked on behalf of its next command, before that may go.
    pub errand: Option<Box<Errand>>,
    /// The command of this reply slot has been counted by the rules that it meets, and waits: nothing
    /// but the same command can come in its place.
    pub counted: Option<Sequence>,
    /// What is known of its commands' pace; `None` until one of them has some.
    pub paced: Option<Box<Paced>>,
    /// Which of its commands in flight only read, while there are keyspaces.
    pub reading: Reading,
    /// By whom the command in hand is to be confirmed, as its keyspace says.
    pub confirm: Option<Box<Confirm>>,
    /// Since when its next command, which wants a connection of its own, waits for a node.
    pub waits_since: Option<Micros>,
    /// Its commands that went to several places.
    pub gathers: Gathers,
    /// Lanes that are not read because it does not take its replies.
    pub paused: Vec<LaneId>,
    /// What it keeps on a connection of its own, if it has or had one.
    pub pin: Option<Box<Pin>>,
    /// It has asked for such a connection and there was none.
    pub asks_pin: bool,
    /// It has asked for too long: its command is to be refused.
    pub pin_refused: bool,
    /// Epoch of the topology under which its commands in flight were dispatched (INV-12 a).
    pub epoch: u64,
    /// Input that is not dispatched yet.
    pub partial: Option<Box<Partial>>,
    /// Bytes of held input that were sent before the client could know that one of its writes is in
    /// doubt; what begins among them is not executed (INV-3, no inversion).
    pub doubtful: usize,
    /// The MULTI or WATCH just dispatched was refused: what is held behind it was meant for a
    /// transaction.
    pub was_refused: bool,
    /// That is why `doubtful` is not 0.
    pub lacks_transaction: bool,
    /// The client has ended its sending side; what it had sent is still dispatched.
    pub has_ended: bool,
    /// Set when no further command is taken; why, and when the connection ends.
    pub closing: Option<Closing>,
    /// Where its bytes go.
    pub socket: WriteHalf,
    /// Whether TLS holds bytes that the kernel has not taken; they are owed although `out` is
    /// empty.
    pub needs_flush: bool,
    /// Whether the kernel refused bytes: the session's own task writes on when the socket has room.
    pub write_blocked: bool,
    /// Wakes the session's task.
    pub waker: Option<Waker>,
    /// Its task has stopped without waiting for input: it wants to be woken when it may take
    /// commands again.
    pub parked: bool,
    /// Whether it is on the worker's list of sessions to be flushed.
    pub touched: bool,
    /// Set while an answer depends on something slow (AUTH against the node, a subscription):
    /// nothing is dispatched.
    pub suspended: bool,
    /// When a command last arrived.
    pub active_at: Micros,
    /// When the kernel last took bytes.
    pub written_at: Micros,
    /// Since when the kernel has taken nothing of what is owed; `None` while it takes what there
    /// is.
    pub stalled_since: Option<Micros>,
}

/// Input that could not be dispatched yet, with the scanner that has looked at it.
#[derive(Debug, Default)]
pub struct Partial {
    /// Bytes from the socket. Those before `start` are done with.
    pub buffer: Vec<u8>,
    /// Offset of the first byte of the command in progress; `start <= buffer.len()`.
    pub start: usize,
    /// Bytes from `start` on without which the scanner cannot progress; 0 if the next command may
    /// be whole.
    pub needed: usize,
    /// The scanner of the command in progress.
    pub scanner: RequestScanner,
}

/// CLIENT REPLY: which replies the client sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// All of them.
    #[default]
    On,
    /// None.
    Off,
    /// None for the next command only; the reply of the CLIENT REPLY SKIP itself is suppressed as
    /// well.
    SkipNext,
}

/// Why and when a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Every command taken is answered first, and every byte is written.
    AfterReplies(ClosedReason),
    /// At once: what the client would get would be wrong or is not wanted.
    Now(ClosedReason),
}

// === impl Partial ===

impl Partial {
    /// Bytes on the heap, spans of a wide command included; they count against the budget of
    /// requests.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.buffer.capacity() + self.scanner.heap_bytes()
    }
}

// === impl Session ===

impl Session {
    /// A session that has just connected.
    #[must_use]
    pub fn new(
        id: SessionId,
        client: Arc<Client>,
        gate: Rc<Gate>,
        identity: Option<Identity>,
        socket: WriteHalf,
        now: Micros,
    ) -> Self {
        Self {
            id,
            client,
            gate,
            protocol: Protocol::Resp2,
            db: 0,
            is_readonly: false,
            identity,
            reply_mode: ReplyMode::On,
            subscriptions: None,
            replies: Replies::default(),
            quiet: Quiet::default(),
            out: SendBuffer::default(),
            admission: Admission::default(),
            in_flight: 0,
            lane: None,
            fitting: [None; 2],
            sets: [None; 4],
            stream: None,
            map_version: 0,
            doubted: Vec::new(),
            detours: None,
            errand: None,
            counted: None,
            paced: None,
            reading: Reading::default(),
            confirm: None,
            waits_since: None,
            gathers: Gathers::default(),
            paused: Vec::new(),
            pin: None,
            asks_pin: false,
            pin_refused: false,
            epoch: 0,
            partial: None,
            doubtful: 0,
            was_refused: false,
            lacks_transaction: false,
            has_ended: false,
            closing: None,
            socket,
            needs_flush: false,
            write_blocked: false,
            waker: None,
            parked: false,
            touched: false,
            suspended: false,
            active_at: now,
            written_at: now,
            stalled_since: None,
        }
    }

    /// Whether one more command may be taken from its input.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.closing.is_none()
            && !self.suspended
            && (self.admission.admits(self.replies.pending(), self.owed(), &self.gate.bounds)
                // Its reply never ends, and what it says of its progress must not wait for that.
                || self.is_replica())
    }

    /// How many more commands may be taken, as far as their replies are like the last ones.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.admission.room(self.replies.pending(), self.owed(), &self.gate.bounds)
    }

    /// Whether nothing that it has said before decides what its next commands mean, or when they go.
    #[must_use]
    pub fn sends_runs(&self) -> bool {
        self.pin.is_none()
            && self.detours.is_none()
            && self.errand.is_none()
            && self.subscriptions.is_none()
            && self.doubtful == 0
            && self.closing.is_none()
            && !self.suspended
            && !self.is_muted()
    }

    /// Whether its replies need nothing but being delivered in their turn.
    #[must_use]
    pub fn takes_runs(&self) -> bool {
        self.paced.is_none()
    }

    /// Bytes of replies that it holds in memory.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.out.unsent() + self.replies.held()
    }

    /// Whether its next command was judged before, and counted then.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.counted == Some(self.replies.next())
    }

    /// Whether we are what its next command waits for: for pages, for a size, for its pace.
    #[must_use]
    pub fn waits_for_its_turn(&self, now: Micros) -> bool {
        self.errand.is_some() || self.paced.as_ref().is_some_and(|paced| now < paced.at)
    }

    /// Bytes of replies that are held until others come with which they become one.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.gathers.held() + self.errand.as_ref().map_or(0, |errand| errand.held())
    }

    /// Whether one of `count` parts from `place` on of the command of that slot wants its reply.
    #[must_use]
    pub fn wants_part(&self, slot: Sequence, place: u16, count: u32) -> bool {
        self.gathers.get(slot).is_some_and(|gather| gather.wants(place, count))
    }

    /// Bounds of its admission.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.gate.bounds
    }

    /// Whether the client is shown the reply of the command that is being taken.
    #[must_use]
    pub fn is_muted(&self) -> bool {
        self.reply_mode != ReplyMode::On
    }

    /// Everything that is held was sent before the client could know what it is told now.
    pub fn doubt_what_is_held(&mut self) {
        self.doubtful =
            self.partial.as_ref().map_or(0, |partial| partial.buffer.len() - partial.start);
    }

    /// Whether a command of this place, sent before its client could know, might overtake a write
    /// in doubt.
    #[must_use]
    pub fn doubts(&self, place: Place) -> bool {
        match place {
            Place::Slot(slot) => self.lacks_transaction || self.doubted.contains(&slot),
            Place::Anywhere | Place::Several => true,
        }
    }

    /// A SKIP ends with the command after it.
    pub fn end_of_command(&mut self) {
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
    }

    /// `slot` is answered by us and nothing has run for it.
    pub fn note_not_run(&mut self, slot: Sequence, now: Micros) {
        if self.replies.pending() == 1 {
            let heard = if self.out.unsent() == 0 { self.written_at } else { now };
            self.quiet.note(slot, heard);
        }
    }

    /// Fills `slot` with a whole reply.
    pub fn complete(&mut self, pool: &mut ChunkPool, slot: Sequence, reply: &[u8]) {
        self.replies.complete(slot, reply, &mut self.out, pool);
    }

    /// Adds a frame that answers nothing: between two replies, never inside one. A client that does
    /// not take what it asked to be sent is closed at the bound of its replies (INV-4).
    pub fn push(&mut self, pool: &mut ChunkPool, frame: &[u8]) {
        self.replies.push(frame, &mut self.out, pool);
        if self.owed() as u64 > self.gate.bounds.reply_bytes {
            self.close(Closing::Now(ClosedReason::OutOfMemoryBudget));
        }
    }

    /// Its lanes fit no longer: it speaks another protocol, or is somebody else.
    pub fn forget_lanes(&mut self) {
        self.fitting = [None; 2];
        self.sets = [None; 4];
        self.stream = None;
    }

    /// Whether its transaction is open.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.multi.is_some())
    }

    /// Whether that transaction is queued here, because nobody knows which node will run it.
    #[must_use]
    pub fn holds_transaction(&self) -> bool {
        let multi = self.pin.as_ref().and_then(|pin| pin.multi.as_ref());
        multi.is_some_and(|multi| multi.held.is_some())
    }

    /// Bytes of that.
    #[must_use]
    pub fn transaction_bytes(&self) -> usize {
        let multi = self.pin.as_ref().and_then(|pin| pin.multi.as_ref());
        multi.and_then(|multi| multi.held.as_ref()).map_or(0, |held| held.frames.capacity())
    }

    /// Whether nothing may be dispatched before the node has answered.
    #[must_use]
    pub fn is_barred(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.is_barred())
    }

    /// Whether it reads the replication stream.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.is_replica)
    }

    /// Whether it waits for what other clients do, or hears of it without end.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.is_blocked())
    }

    /// Whether its client has ended its side. It may still read: one that only says nothing more
    /// looks the same.
    #[must_use]
    pub fn has_left(&self) -> bool {
        let has_ended = Closing::AfterReplies(ClosedReason::ClientClosed);
        self.closing == Some(has_ended) || self.socket.has_peer_closed()
    }

    /// Whether it is read although its next command cannot be dispatched: its end must be noticed,
    /// or something would be executed for nobody (INV-3). Up to a bound; beyond that `server::tick`
    /// asks the kernel.
    #[must_use]
    pub fn reads_ahead(&self) -> bool {
        let held = self.partial.as_ref().map_or(0, |partial| partial.buffer.len());
        (self.is_barred() || self.asks_pin)
            && self.closing.is_none()
            && !self.suspended
            && !self.has_ended
            && held < READ_AHEAD_BYTES
    }

    /// Fills `slot` with an error of ours; a reply that has begun to flow can only end with the
    /// connection.
    pub fn fail(&mut self, pool: &mut ChunkPool, slot: Sequence, error: &[u8]) {
        if !self.replies.fail(slot, error, &mut self.out, pool) {
            self.close(Closing::Now(ClosedReason::StreamLost));
        }
    }

    /// Notes that the session ends; a more urgent wish wins over an earlier one.
    pub fn close(&mut self, closing: Closing) {
        if !matches!(self.closing, Some(Closing::Now(_))) {
            self.closing = Some(closing);
        }
    }

    /// Whether the session's task should end, and why.
    #[must_use]
    pub fn is_over(&self) -> Option<ClosedReason> {
        match self.closing? {
            Closing::Now(reason) => Some(reason),
            Closing::AfterReplies(reason) => {
                let is_written = self.out.unsent() == 0 && !self.needs_flush;
                (self.replies.pending() == 0 && is_written).then_some(reason)
            }
        }
    }

    /// The kernel has refused bytes; the clock of a stall begins with the first refusal.
    pub fn block(&mut self, now: Micros) {
        self.write_blocked = true;
        self.stalled_since.get_or_insert(now);
    }

    /// Wakes the session's task, to go on reading, writing or closing.
    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Whether input waits that was not admitted when it came.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| {
            let left = partial.buffer.len() - partial.start;
            left > 0 && left >= partial.needed
        })
    }
}

/// Input that is read behind a command that waits for a connection, or for what other clients do.
pub const READ_AHEAD_BYTES: usize = 1024 * 1024;

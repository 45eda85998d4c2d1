//! A subscriber link: one RESP3 connection of a worker that carries the subscriptions of all its
//! clients.
//!
//! Owns what is asked of the node and in which order, and the book of who gets which messages.
//! Never touches a socket (`task` does), never writes to a client: answers leave through
//! `session::pubsub`, messages through `receive`. In a cluster there are more links: `place` knows
//! which topic belongs on which, `moving` carries shard channels after their slots, `copies` has
//! every primary tell its keyspace notifications.
//!
//! What surprises: a second client's SUBSCRIBE is sent as well, although the node has the link
//! subscribed already, and an UNSUBSCRIBE that leaves others behind is sent as a PING. The answer's
//! place among the messages is where the subscription begins or ends, exactly as with a connection
//! of its own; without it a client could get what was published before it came, or miss what was
//! published before it left (decision 0010).

pub mod copies;
pub mod loss;
pub mod moving;
pub mod place;
pub mod receive;
pub mod task;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::Waker;

use crate::arena::Key;
use crate::buffer::{ChunkPool, SendBuffer};
use crate::clock::Micros;
use crate::command::spec::CommandId;
use crate::command::table::Table;
use crate::net::WriteHalf;
use crate::pubsub::book::{Book, Idle};
use crate::pubsub::tally::Tally;
use crate::pubsub::{Kind, Name, keyspace};
use crate::resp::reply::ReplyScanner;
use crate::resp::write;
use crate::session::replies::Sequence;
use crate::session::state::SessionId;
use crate::session::subscriptions::weight;
use crate::topology::slots::NodeId;
use crate::upstream::dial::Node;
use crate::upstream::identity::Identity;

/// Key of a link on its worker.
pub type LinkId = Key<Link>;

/// What makes two links different. Channels have ACLs, so each user has links of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkKey {
    /// Who the link is to the node.
    pub identity: Identity,
    /// Where it leads.
    pub leads: Leads,
}

/// Where a link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// To the one node there is, or to any of a cluster: its bus carries channels and patterns
    /// everywhere.
    Anywhere,
    /// To this node and no other, for shard channels and notifications; a number means something in
    /// its epoch only.
    To {
        /// Epoch of the deployment.
        epoch: u64,
        /// The node.
        node: NodeId,
    },
}

/// One question to the node.
#[derive(Debug)]
pub struct Ask {
    /// What is asked.
    pub wire: Wire,
    /// The kind of its topics.
    pub kind: Kind,
    /// Its topics; none of a mark.
    pub names: Vec<Name>,
    /// How many of the topics are answered.
    pub answered: usize,
    /// Position behind its last byte on the connection.
    pub end: u64,
    /// Memory of its topics, as counted in [`Link::asked_bytes`].
    pub bytes: usize,
    /// The client that waits for the answer; `None` if nobody does (any more).
    pub asker: Option<Asker>,
    /// Whether clients hold the topics already and only the node must learn of them (again).
    pub is_again: bool,
    /// The node has refused it, and the answer to the PING behind it is still to come.
    pub is_refused: bool,
    /// How often a redirect was followed.
    pub hops: u8,
}

/// What is asked.
#[derive(Debug)]
pub enum Wire {
    /// To subscribe: one push for each topic, or one error.
    Subscribe,
    /// To end subscriptions: one push for each topic, or one error.
    Unsubscribe,
    /// PING, for the place of its answer; with the text that a client gave.
    Mark(Option<Box<[u8]>>),
}

/// Who waits for an answer.
#[derive(Debug)]
pub struct Asker {
    /// The client; it may be gone.
    pub session: SessionId,
    /// Its reply slot.
    pub slot: Sequence,
    /// When its command was taken.
    pub taken_at: Micros,
    /// The command.
    pub command: CommandId,
    /// Whether it gets the deadline of fast commands.
    pub is_fast: bool,
    /// Whether the client asked not to see errors and pongs; confirmations are shown all the same.
    pub is_muted: bool,
    /// What the answer means to it.
    pub want: Want,
}

/// What an answer means to the client that waits for it.
#[derive(Debug)]
pub enum Want {
    /// It is subscribed to the topics of the question.
    Join,
    /// It is not subscribed to these any more; none: it never was to any.
    Leave(Kind, Vec<Name>),
    /// It is told that the node is there.
    Pong,
}

/// Everything known of one link.
#[derive(Debug)]
pub struct Link {
    /// Its key on this worker.
    pub id: LinkId,
    /// Whose it is.
    pub key: LinkKey,
    /// Epoch of the topology that named the node.
    pub epoch: u64,
    /// Where it leads.
    pub node: Arc<Node>,
    /// Whether it is connected; questions wait until it is.
    pub is_open: bool,
    /// Who gets what.
    pub book: Book,
    /// Questions in the order of their bytes, which is the order of the answers.
    pub asks: VecDeque<Ask>,
    /// Memory of the topics in `asks`.
    pub asked_bytes: usize,
    /// Bytes of the questions.
    pub send: SendBuffer,
    /// Finds where frames end.
    pub scanner: ReplyScanner,
    /// The beginning of a frame that is not whole.
    pub carry: Vec<u8>,
    /// Bytes at the start of `carry` that the scanner has seen.
    pub scanned: usize,
    /// The frame in progress is dropped: it is larger than any client's bound.
    pub is_skipping: bool,
    /// Questions `is_again` that are not answered with yes.
    pub restoring: usize,
    /// Topics that the node could not take now; asked for again by the tick.
    pub later: Vec<(Kind, Name)>,
    /// The node has refused to end a subscription that nobody holds; the tick asks again.
    pub has_unwanted: bool,
    /// Shard channels that the node has ended of its own accord, until the end of the turn.
    pub ended: Vec<Name>,
    /// Questions that the cluster could not answer now, with what it said; asked again by the tick.
    pub deferred: Vec<(Ask, Box<[u8]>)>,
    /// Questions that wait until every primary tells its notifications.
    pub held_back: Vec<Ask>,
    /// Topics whose copies on the primaries may not be wanted any more.
    pub strays: Vec<(Kind, Name)>,
    /// Primaries that tell it their notifications.
    pub told_by: Vec<NodeId>,
    /// Epoch and version of the slot map that its topics were last compared with, and when it was
    /// news.
    pub seen: (u64, u32),
    /// When that map was first seen; 0: everything is where that map wants it.
    pub seen_at: Micros,
    /// Sessions that wait until the queue has room.
    pub backlog: Vec<SessionId>,
    /// Where its bytes go; detached while dialling.
    pub socket: WriteHalf,
    /// The kernel refused bytes: the task writes on when there is room.
    pub write_blocked: bool,
    /// Why the connection is to be given up.
    pub broken: Option<io::Error>,
    /// Nobody has wanted it for long: its task ends.
    pub retired: bool,
    /// Wakes its task.
    pub waker: Option<Waker>,
    /// When bytes last came from the node.
    pub heard_at: Micros,
    /// When it was last asked something.
    pub used_at: Micros,
    /// Whether this connection has answered anything.
    pub has_answered: bool,
    /// Connections in a row that ended before they answered anything.
    pub fruitless: u32,
}

// === impl Link ===

impl Link {
    /// A link without a connection.
    #[must_use]
    pub fn new(
        id: LinkId,
        key: LinkKey,
        epoch: u64,
        node: Arc<Node>,
        tally: Arc<Tally>,
        now: Micros,
    ) -> Self {
        Self {
            id,
            key,
            epoch,
            node,
            is_open: false,
            book: Book::new(tally),
            asks: VecDeque::new(),
            asked_bytes: 0,
            send: SendBuffer::default(),
            scanner: ReplyScanner::default(),
            carry: Vec::new(),
            scanned: 0,
            is_skipping: false,
            restoring: 0,
            later: Vec::new(),
            has_unwanted: false,
            ended: Vec::new(),
            deferred: Vec::new(),
            held_back: Vec::new(),
            strays: Vec::new(),
            told_by: Vec::new(),
            seen: (0, 0),
            seen_at: 0,
            backlog: Vec::new(),
            socket: WriteHalf::Detached,
            write_blocked: false,
            broken: None,
            retired: false,
            waker: None,
            heard_at: now,
            used_at: now,
            has_answered: false,
            fruitless: 0,
        }
    }

    /// Queues a question. While there is no connection it only waits: the next one begins with what
    /// is due then.
    pub fn ask(&mut self, pool: &mut ChunkPool, table: &Table, mut ask: Ask, now: Micros) {
        self.used_at = now;
        self.retired = false;
        if self.is_open {
            for name in &ask.names {
                self.book.asked(ask.kind, name);
            }
            let frame = ask.frame(table);
            self.send.append(pool, &frame);
            ask.end = self.send.end();
        }
        ask.answered = 0;
        ask.bytes = ask.weight();
        self.asked_bytes += ask.bytes;
        self.asks.push_back(ask);
        self.wake();
    }

    /// Takes the first question away: it is answered.
    pub fn pop(&mut self) -> Option<Ask> {
        let ask = self.asks.pop_front()?;
        self.asked_bytes = self.asked_bytes.saturating_sub(ask.bytes);
        Some(ask)
    }

    /// Ends at the node what nobody holds any more among these topics, and forgets the rest of what
    /// is idle.
    pub fn tidy(
        &mut self,
        pool: &mut ChunkPool,
        table: &Table,
        kind: Kind,
        names: &[Name],
        now: Micros,
    ) {
        let mut unwanted = Vec::new();
        for name in names {
            if let Idle::Unwanted(name) = self.book.idle(kind, name) {
                unwanted.push(name);
            }
        }
        // A client may have said a topic twice.
        unwanted.sort_unstable();
        unwanted.dedup();
        for names in place::askable(self.is_in_cluster(), kind, unwanted) {
            self.ask(pool, table, Ask::new(Wire::Unsubscribe, kind, names), now);
        }
        if self.is_in_cluster() && self.key.leads == Leads::Anywhere {
            let copied = names.iter().filter(|name| keyspace::may_notify(kind, name));
            self.strays.extend(copied.map(|name| (kind, Name::clone(name))));
        }
    }

    /// Whether its node is one of many.
    #[must_use]
    pub fn is_in_cluster(&self) -> bool {
        self.node.settings.cluster.is_some()
    }

    /// Whether one more question may be queued (INV-4).
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.send.unsent() < LINK_BYTES_MAX
            && self.asked_bytes < LINK_BYTES_MAX
            && self.asks.len() < LINK_ASKS_MAX
    }

    /// The deployment has changed: the connection is given up, and the next one leads to the new
    /// node.
    pub fn follow(&mut self, epoch: u64) {
        if self.epoch != epoch && self.key.leads == Leads::Anywhere {
            self.give_up("the upstream has changed");
        }
    }

    /// Another connection is to take the place of this one.
    pub fn give_up(&mut self, why: &'static str) {
        if self.is_open && self.broken.is_none() {
            self.broken = Some(io::Error::other(why));
            self.wake();
        }
    }

    /// Whether anybody needs it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let waiting = self.asks.len() + self.deferred.len() + self.held_back.len();
        waiting > 0 || !self.book.is_empty()
    }

    /// Wakes its task, to write, to read or to end.
    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

// === impl Ask ===

impl Ask {
    /// A question whose answer nobody waits for.
    #[must_use]
    pub fn new(wire: Wire, kind: Kind, names: Vec<Name>) -> Self {
        let (answered, end, bytes, hops) = (0, 0, 0, 0);
        let (asker, is_again, is_refused) = (None, false, false);
        Self { wire, kind, names, answered, end, bytes, asker, is_again, is_refused, hops }
    }

    /// Whether a PING stands behind it. A node ends subscriptions to shard channels also of its own
    /// accord, in the same words; only what comes behind shows whether it was the answer, and where
    /// the answer ends.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self.wire, Wire::Unsubscribe) && self.kind == Kind::Shard
    }

    /// The same question for the same topics, asked by nobody.
    #[must_use]
    pub fn again(&self) -> Self {
        let wire = match &self.wire {
            Wire::Subscribe => Wire::Subscribe,
            Wire::Unsubscribe => Wire::Unsubscribe,
            Wire::Mark(text) => Wire::Mark(text.clone()),
        };
        Self { hops: self.hops, ..Self::new(wire, self.kind, self.names.clone()) }
    }

    /// Memory of its topics, those that its client leaves included.
    fn weight(&self) -> usize {
        let leaves = self.asker.as_ref().map_or(&[][..], |asker| match &asker.want {
            Want::Leave(_, names) => names,
            _ => &[],
        });
        self.names.iter().chain(leaves).map(|name| weight(name)).sum()
    }

    /// The question as bytes, in the node's own name for the command.
    fn frame(&self, table: &Table) -> Vec<u8> {
        let name = match &self.wire {
            Wire::Subscribe => self.kind.subscribe(),
            Wire::Unsubscribe => self.kind.unsubscribe(),
            Wire::Mark(_) => "ping",
        };
        let mut arguments = vec![wire_name(table, name)];
        match &self.wire {
            Wire::Mark(text) => arguments.extend(text.as_deref()),
            _ => arguments.extend(self.names.iter().map(|name| &**name)),
        }
        let mut frame = Vec::new();
        write::command(&mut frame, &arguments);
        if self.is_fenced() {
            write::command(&mut frame, &[wire_name(table, "ping")]);
        }
        frame
    }
}

/// The node's own name of a command.
fn wire_name<'a>(table: &'a Table, name: &'a str) -> &'a [u8] {
    table.find(name).and_then(|spec| spec.wire_name.as_deref()).unwrap_or(name.as_bytes())
}

/// Bytes of questions that may wait for the link's socket, and of topics in questions that are not
/// answered; clients wait beyond that.
const LINK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Questions that may be unanswered on one link.
const LINK_ASKS_MAX: usize = 65_536;

//! What a session keeps on a connection of its own.
//!
//! Owns the data of a pinned session: which connection, the open transaction, what is watched, what
//! the node was told about this client, and the one command whose reply decides what comes next.
//! Never sends and never answers (`pinned` and `transaction` do).
//!
//! What surprises: the connection may be lost while the state is remembered. Then the client is
//! told the truth at the next occasion that Redis has words for: EXEC fails, or finds that a
//! watched key has changed.

use crate::config::Confirm;
use crate::resp::write::Protocol;
use crate::upstream::lane::LaneId;

/// The state of a session that has, or had, a connection of its own.
#[derive(Debug, Default)]
pub struct Pin {
    /// The connection; `None` once it was lost.
    pub lane: Option<LaneId>,
    /// The open transaction.
    pub multi: Option<Multi>,
    /// Whether keys are watched.
    pub has_watches: bool,
    /// In a cluster: the slot of the first watched key.
    pub watched_slot: Option<u16>,
    /// Whether watched keys may have changed unseen, because the connection was lost.
    pub watch_is_lost: bool,
    /// CLIENT TRACKING ON as the client said it; said again on a new connection.
    pub tracking: Option<Vec<u8>>,
    /// Whether it hears what another client's CLIENT TRACKING redirects to it.
    pub listens: bool,
    /// Whether the node sends this client what MONITOR sends.
    pub is_monitor: bool,
    /// Whether its client has introduced itself as a replica, or is about to ask for the stream: the
    /// node must hear the next word on this very connection.
    pub introduces: bool,
    /// Whether it reads the replication stream: bytes pass as they come, for as long as it stays.
    pub is_replica: bool,
    /// Whether something may be left on the connection that we do not keep account of.
    pub is_dirty: bool,
    /// What a transaction has made of the connection's protocol version and database; its own turn
    /// takes that over.
    pub moved: Option<(Protocol, u32)>,
    /// Commands of our own that the node has not answered yet; nothing is dispatched before that.
    pub whispers: u32,
    /// The command whose reply is due and decides what the connection holds; nothing is dispatched
    /// before that.
    pub pending: Option<Pending>,
}

/// An open transaction.
#[derive(Debug, Default)]
pub struct Multi {
    /// Commands that the node was given to queue, errors not counted.
    pub queued: u32,
    /// Those whose answer is ours: their place among the queued ones, and the command.
    pub ours: Vec<(u32, Vec<u8>)>,
    /// Bytes of those.
    pub ours_bytes: usize,
    /// Whether SCRIPT FLUSH is among them.
    pub flushes_scripts: bool,
    /// Why EXEC must fail although the node does not know.
    pub aborted: Option<Abort>,
    /// In a cluster: everything that was queued, which goes out with EXEC.
    pub held: Option<Box<Held>>,
}

/// The commands of a transaction that is queued here.
#[derive(Debug, Default)]
pub struct Held {
    /// Their bytes, one behind the other.
    pub frames: Vec<u8>,
    /// Where the keys of all of them lie; `None` until the first one has a key.
    pub slot: Option<u16>,
    /// Whether their keys lie in several slots.
    pub crosses: bool,
    /// Whether one of them may hold others up.
    pub is_bulk: bool,
    /// Whether one of them changes anything.
    pub writes: bool,
}

/// Why a transaction cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abort {
    /// One of its commands was refused here.
    Refused,
    /// EXEC itself had too many arguments.
    WrongArity,
    /// A rule refuses EXEC itself; its words.
    Denied(String),
    /// Its keys lie in several slots.
    CrossSlot,
    /// Its connection was lost; the node's name.
    Lost(String),
}

/// A command whose reply changes what a pinned connection holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Pending {
    /// MULTI.
    Multi,
    /// EXEC, and the elements of its reply that are ours.
    Exec {
        /// Elements of the reply.
        queued: u32,
        /// As in [`Multi::ours`].
        ours: Vec<(u32, Vec<u8>)>,
    },
    /// A DISCARD in the place of an EXEC that cannot be.
    Aborting(Abort),
    /// A DISCARD in the place of an EXEC whose watched keys may have changed.
    Unwatched,
    /// DISCARD.
    Discard,
    /// WATCH.
    Watch,
    /// UNWATCH.
    Unwatch,
    /// A command that waits for other clients.
    Blocking,
    /// WAIT or WAITAOF, behind a command of ours that makes its answer true.
    Wait,
    /// A write, and behind it a WAIT of ours that tells who has it.
    Confirm(Confirm),
    /// CLIENT TRACKING; what it turns on, or nothing if it turns it off.
    Tracking(Option<Vec<u8>>),
    /// SUBSCRIBE to invalidations.
    Listen,
    /// CLIENT TRACKINGINFO, in which the client's own id of a redirection is to stand.
    TrackingInfo(Option<i64>),
    /// MONITOR.
    Monitor,
    /// REPLCONF, before a stream.
    Introduction,
    /// SYNC or PSYNC: an error, or the beginning of a stream.
    Stream,
    /// Any other command of its own; `leaves_state` if the connection cannot be given to others
    /// afterwards.
    Once {
        /// Whether it changes the connection.
        leaves_state: bool,
    },
}

// === impl Pin ===

impl Pin {
    /// Whether something would be lost with the connection.
    #[must_use]
    pub fn holds_state(&self) -> bool {
        self.multi.is_some() || self.has_watches || self.is_sticky()
    }

    /// Whether every command of the session goes to this connection until its client says
    /// otherwise.
    #[must_use]
    pub fn is_sticky(&self) -> bool {
        self.tracking.is_some() || self.is_monitor || self.listens || self.introduces
    }

    /// Whether the session can do without it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        !self.holds_state() && !self.is_barred()
    }

    /// Whether the node must answer before anything more is dispatched.
    #[must_use]
    pub fn is_barred(&self) -> bool {
        self.pending.is_some() || self.whispers > 0 || self.is_replica
    }

    /// Whether the session waits for what other clients do, or hears of it without end.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        let waits =
            matches!(self.pending, Some(Pending::Blocking | Pending::Wait | Pending::Stream));
        waits || self.is_replica
    }

    /// The transaction is over, however it ended; Redis forgets the watched keys with it.
    pub fn end_transaction(&mut self) {
        self.multi = None;
        self.has_watches = false;
        self.watched_slot = None;
        self.watch_is_lost = false;
    }

    /// The connection to `node` is lost, and what it held with it.
    pub fn lose(&mut self, node: &str) {
        self.lane = None;
        self.pending = None;
        self.whispers = 0;
        self.moved = None;
        self.is_dirty = false;
        self.introduces = false;
        self.is_replica = false;
        self.watch_is_lost |= self.has_watches;
        if let Some(multi) = &mut self.multi {
            multi.aborted.get_or_insert_with(|| Abort::Lost(node.to_owned()));
        }
    }
}

// === impl Abort ===

impl Abort {
    /// The whole error of the EXEC.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Refused => "EXECABORT Transaction discarded because of previous errors.".into(),
            Self::WrongArity => "EXECABORT Transaction discarded because of: wrong number of \
                 arguments for 'exec' command"
                .into(),
            Self::Denied(why) => format!("EXECABORT Transaction discarded because of: {why}"),
            Self::CrossSlot => "CROSSSLOT Keys in request don't hash to the same slot".into(),
            Self::Lost(node) => format!(
                "EXECABORT Transaction discarded because of: the connection to {node} was lost"
            ),
        }
    }
}

//! Publish and subscribe, as plain data: what is subscribed to, by whom, and what a push frame
//! says.
//!
//! Owns the words ([`Kind`], [`Name`]), the [`book`] of one link (who gets which messages), the
//! reading and writing of push frames ([`push`]), Redis's patterns ([`glob`]), what only one node
//! of a cluster tells ([`keyspace`]) and what corrects Redis's counts ([`tally`], [`recount`]).
//! Never touches a socket or a session: `upstream::subscriber` has the link, `session::pubsub` the
//! client's side.
//!
//! What surprises: a link holds one subscription for all its clients, so Redis counts one receiver
//! where there are many. The tally knows the difference, over all workers.

pub mod book;
pub mod glob;
pub mod keyspace;
pub mod push;
pub mod recount;
pub mod tally;

use std::rc::Rc;

/// The name of a channel or a pattern; kept once a worker, shared by the book and the sessions.
pub type Name = Rc<[u8]>;

/// The three kinds of subscriptions. One name may be subscribed to in each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE: a channel that a cluster keeps to the shard of its slot.
    Shard,
}

// === impl Kind ===

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// The command that begins a subscription, and the first word of its confirmation.
    #[must_use]
    pub const fn subscribe(self) -> &'static str {
        match self {
            Self::Channel => "subscribe",
            Self::Pattern => "psubscribe",
            Self::Shard => "ssubscribe",
        }
    }

    /// The command that ends a subscription, and the first word of its confirmation.
    #[must_use]
    pub const fn unsubscribe(self) -> &'static str {
        match self {
            Self::Channel => "unsubscribe",
            Self::Pattern => "punsubscribe",
            Self::Shard => "sunsubscribe",
        }
    }

    /// The first word of a message.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Channel => "message",
            Self::Pattern => "pmessage",
            Self::Shard => "smessage",
        }
    }
}

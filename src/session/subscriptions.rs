//! What one client is subscribed to.
//!
//! Owns the client's topics in the order in which it subscribed, their weight in memory, and since
//! when its unread messages exceed the soft limit. Never speaks to a link: `session::pubsub` keeps
//! this and the link's book the same.
//!
//! What surprises: each topic knows its link. A client that has authenticated as somebody else
//! meanwhile keeps what it had, as with Redis, and that is on another link than what it subscribes
//! to from then on.

use std::collections::HashMap;

use crate::clock::Micros;
use crate::pubsub::{Kind, Name};
use crate::upstream::subscriber::LinkId;

/// The subscriptions of one client; a session without any has none of these.
#[derive(Debug, Default)]
pub struct Subscriptions {
    topics: [HashMap<Name, Held, foldhash::fast::RandomState>; 3],
    /// The order of the next topic.
    next: u64,
    /// Memory that the topics are taken to cost.
    bytes: usize,
    /// Since when its unread bytes exceed the soft limit.
    pub above_soft_since: Option<Micros>,
}

/// One topic.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Where its messages come from.
    link: LinkId,
    /// When it was subscribed to, as a number that only rises.
    order: u64,
}

// === impl Subscriptions ===

impl Subscriptions {
    /// Adds a topic. Returns false if the client has it already.
    pub fn hold(&mut self, kind: Kind, name: &Name, link: LinkId) -> bool {
        if self.holds(kind, name) {
            return false;
        }
        self.topics[kind as usize].insert(Name::clone(name), Held { link, order: self.next });
        self.next += 1;
        self.bytes += weight(name);
        true
    }

    /// Takes a topic away and says which link it was on.
    pub fn release(&mut self, kind: Kind, name: &[u8]) -> Option<LinkId> {
        let held = self.topics[kind as usize].remove(name)?;
        self.bytes -= weight(name);
        Some(held.link)
    }

    /// A topic that the client has gets its messages from another link.
    pub fn move_to(&mut self, kind: Kind, name: &[u8], link: LinkId) {
        if let Some(held) = self.topics[kind as usize].get_mut(name) {
            held.link = link;
        }
    }

    /// Whether the client has the topic.
    #[must_use]
    pub fn holds(&self, kind: Kind, name: &[u8]) -> bool {
        self.topics[kind as usize].contains_key(name)
    }

    /// The link of a topic that the client has.
    #[must_use]
    pub fn link(&self, kind: Kind, name: &[u8]) -> Option<LinkId> {
        self.topics[kind as usize].get(name).map(|held| held.link)
    }

    /// All topics of a kind with their links, the oldest first.
    #[must_use]
    pub fn all(&self, kind: Kind) -> Vec<(Name, LinkId)> {
        let topics = self.topics[kind as usize].iter();
        let mut all: Vec<_> = topics.map(|(name, held)| (name, *held)).collect();
        all.sort_unstable_by_key(|(_, held)| held.order);
        all.into_iter().map(|(name, held)| (Name::clone(name), held.link)).collect()
    }

    /// How many topics of one kind there are.
    #[must_use]
    pub fn len_of(&self, kind: Kind) -> usize {
        self.topics[kind as usize].len()
    }

    /// The number in confirmations: channels and patterns together, or the shard channels alone.
    #[must_use]
    pub fn counted(&self, kind: Kind) -> usize {
        match kind {
            Kind::Shard => self.len_of(Kind::Shard),
            Kind::Channel | Kind::Pattern => {
                self.len_of(Kind::Channel) + self.len_of(Kind::Pattern)
            }
        }
    }

    /// How many topics there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.iter().map(HashMap::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that the topics are taken to cost.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What a topic of this name is taken to cost: its name, and its places in this map and in the
/// link's book. Names that several clients share are counted for each.
#[must_use]
pub fn weight(name: &[u8]) -> usize {
    name.len() + TOPIC_BYTES
}

/// Memory of one subscription beside its name, rounded up. Measured: 363 bytes for each of 500,000
/// names of 20 bytes, spare room of the maps included.
const TOPIC_BYTES: usize = 384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Key;

    #[test]
    fn topics_are_counted_as_redis_counts_them_and_listed_in_their_order() {
        let link: LinkId = Key::nobody();
        let mut held = Subscriptions::default();
        let names: Vec<Name> = (0..20_u8).map(|byte| Name::from([byte])).collect();
        for name in names.iter().rev() {
            assert!(held.hold(Kind::Pattern, name, link));
        }
        assert!(!held.hold(Kind::Pattern, &names[3], link));
        assert!(held.hold(Kind::Channel, &names[3], link));
        assert!(held.hold(Kind::Shard, &names[3], link));
        assert_eq!(
            (held.counted(Kind::Channel), held.counted(Kind::Shard), held.len()),
            (21, 1, 22)
        );
        let listed: Vec<Name> = held.all(Kind::Pattern).into_iter().map(|(name, _)| name).collect();
        assert!(listed.iter().eq(names.iter().rev()));
        for kind in Kind::ALL {
            for name in &names {
                held.release(kind, name);
            }
        }
        assert_eq!((held.is_empty(), held.bytes()), (true, 0));
        assert_eq!(held.release(Kind::Channel, b"x"), None);
    }
}

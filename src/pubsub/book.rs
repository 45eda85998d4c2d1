//! Who gets which messages of one link, and what the node knows of it.
//!
//! Owns the topics of a link: the clients that hold each, whether the link is subscribed to it at the node, and how
//! many questions about it are on their way. Never asks the node anything: it says what is to be asked ([`Idle`]).
//! Keeps the shared [`Tally`] right with every change.
//!
//! What surprises: a topic that nobody holds stays until every question about it is answered. Only then it is known
//! whether the node must be told that it is not wanted any more.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::tally::Tally;
use super::{Kind, Name};
use crate::session::state::SessionId;

/// The topics of one link.
#[derive(Debug)]
pub struct Book {
    topics: [HashMap<Name, Topic, foldhash::fast::RandomState>; 3],
    tally: Arc<Tally>,
}

/// Clients of one topic.
pub type Holders = HashSet<SessionId, foldhash::fast::RandomState>;

/// One topic.
#[derive(Debug, Default)]
struct Topic {
    /// Who gets its messages; each has been told so, or is told in the same turn.
    holders: Holders,
    /// Questions about it that the node has not answered.
    in_flight: u32,
    /// Whether the node has the link subscribed, as of its last answer.
    is_upstream: bool,
}

/// What the node said about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The link is subscribed.
    Subscribed,
    /// The link is not subscribed.
    Unsubscribed,
    /// An error: it is as it was.
    Refused,
}

/// What is to be done about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Nothing: somebody holds it, or an answer is due.
    Busy,
    /// Nothing: it is forgotten.
    Forgotten,
    /// Nobody holds it and the node still sends its messages: it is to be unsubscribed.
    Unwanted(Name),
}

// === impl Topic ===

impl Topic {
    /// Receivers beyond the one that Redis counts; none while the node sends nothing.
    fn surplus(&self) -> i64 {
        // As many clients as a process can hold fit many times over.
        let holders = i64::try_from(self.holders.len()).unwrap_or(i64::MAX);
        if self.is_upstream { holders - 1 } else { 0 }
    }
}

// === impl Book ===

impl Book {
    /// An empty book; `tally` is that of all workers.
    #[must_use]
    pub fn new(tally: Arc<Tally>) -> Self {
        Self { topics: Default::default(), tally }
    }

    /// A name as the book spells it: the one that is kept already, or a new one.
    #[must_use]
    pub fn name(&self, kind: Kind, name: &[u8]) -> Name {
        match self.topics[kind as usize].get_key_value(name) {
            Some((kept, _)) => Rc::clone(kept),
            None => name.into(),
        }
    }

    /// A question about the topic is on its way.
    pub fn asked(&mut self, kind: Kind, name: &Name) {
        self.topics[kind as usize].entry(Rc::clone(name)).or_default().in_flight += 1;
    }

    /// A question about the topic has been answered.
    pub fn answered(&mut self, kind: Kind, name: &[u8], answer: Answer) {
        self.change(kind, name, |topic| {
            topic.in_flight = topic.in_flight.saturating_sub(1);
            match answer {
                Answer::Subscribed => topic.is_upstream = true,
                Answer::Unsubscribed => topic.is_upstream = false,
                Answer::Refused => {}
            }
        });
    }

    /// The node has ended the subscription of its own accord. Returns whether somebody holds the topic.
    pub fn ended(&mut self, kind: Kind, name: &[u8]) -> bool {
        self.change(kind, name, |topic| topic.is_upstream = false);
        self.holders(kind, name).is_some_and(|holders| !holders.is_empty())
    }

    /// The client gets the topic's messages from here on.
    pub fn join(&mut self, kind: Kind, name: &[u8], session: SessionId) {
        self.change(kind, name, |topic| topic.holders.insert(session));
    }

    /// The client gets no more of the topic's messages.
    pub fn leave(&mut self, kind: Kind, name: &[u8], session: SessionId) {
        self.change(kind, name, |topic| topic.holders.remove(&session));
    }

    /// Whether nobody but this client wants the topic, now or as soon as the node has answered.
    #[must_use]
    pub fn is_last(&self, kind: Kind, name: &[u8], session: SessionId) -> bool {
        self.topics[kind as usize].get(name).is_some_and(|topic| {
            topic.in_flight == 0 && topic.holders.len() == 1 && topic.holders.contains(&session)
        })
    }

    /// Whether the node sends the topic's messages.
    #[must_use]
    pub fn is_upstream(&self, kind: Kind, name: &[u8]) -> bool {
        self.topics[kind as usize].get(name).is_some_and(|topic| topic.is_upstream)
    }

    /// Whether somebody holds it.
    #[must_use]
    pub fn is_held(&self, kind: Kind, name: &[u8]) -> bool {
        self.holders(kind, name).is_some_and(|holders| !holders.is_empty())
    }

    /// What is to be done about a topic after something has changed.
    pub fn idle(&mut self, kind: Kind, name: &[u8]) -> Idle {
        let topics = &mut self.topics[kind as usize];
        let Some((kept, topic)) = topics.get_key_value(name) else {
            return Idle::Forgotten;
        };
        if !topic.holders.is_empty() || topic.in_flight > 0 {
            return Idle::Busy;
        }
        if topic.is_upstream {
            return Idle::Unwanted(Rc::clone(kept));
        }
        topics.remove(name);
        Idle::Forgotten
    }

    /// Whom a message of the topic is for.
    #[must_use]
    pub fn holders(&self, kind: Kind, name: &[u8]) -> Option<&Holders> {
        self.topics[kind as usize].get(name).map(|topic| &topic.holders)
    }

    /// The connection is gone: the node has forgotten everything, and no answer will come. Returns whether anybody
    /// may miss messages.
    pub fn disconnect(&mut self) -> bool {
        let mut may_miss = false;
        for kind in Kind::ALL {
            self.topics[kind as usize].retain(|name, topic| {
                may_miss |= topic.is_upstream && !topic.holders.is_empty();
                self.tally.add(kind, name, -topic.surplus());
                topic.is_upstream = false;
                topic.in_flight = 0;
                !topic.holders.is_empty()
            });
        }
        may_miss
    }

    /// The topics of one kind that somebody holds.
    pub fn held(&self, kind: Kind) -> impl Iterator<Item = &Name> {
        let topics = self.topics[kind as usize].iter();
        topics.filter(|(_, topic)| !topic.holders.is_empty()).map(|(name, _)| name)
    }

    /// Topics of one kind that the node sends although nobody wants them: it has refused to unsubscribe.
    pub fn unwanted(&self, kind: Kind) -> impl Iterator<Item = &Name> {
        let topics = self.topics[kind as usize].iter();
        topics
            .filter(|(_, topic)| {
                topic.holders.is_empty() && topic.in_flight == 0 && topic.is_upstream
            })
            .map(|(name, _)| name)
    }

    /// Everybody who holds anything, each once.
    #[must_use]
    pub fn everybody(&self) -> Holders {
        let topics = self.topics.iter().flat_map(HashMap::values);
        topics.flat_map(|topic| topic.holders.iter().copied()).collect()
    }

    /// Whether there is no topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.iter().all(HashMap::is_empty)
    }

    /// Gives memory back; called when the link has been quiet for a while.
    pub fn shrink(&mut self) {
        for topics in &mut self.topics {
            if topics.capacity() > 4 * topics.len() {
                topics.shrink_to_fit();
            }
        }
    }

    /// Changes a topic and corrects the tally by what that makes of its surplus.
    fn change<R>(&mut self, kind: Kind, name: &[u8], change: impl FnOnce(&mut Topic) -> R) {
        if let Some(topic) = self.topics[kind as usize].get_mut(name) {
            let before = topic.surplus();
            change(topic);
            self.tally.add(kind, name, topic.surplus() - before);
        }
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        // Whatever way a link ends, nothing of it stays in what all workers share.
        self.disconnect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::rig::Rig;

    /// Keys of so many clients.
    fn sessions(count: usize) -> Vec<SessionId> {
        let mut rig = Rig::new();
        (0..count).map(|_| rig.client()).collect()
    }

    fn book() -> (Book, Arc<Tally>) {
        let tally = Arc::new(Tally::default());
        (Book::new(Arc::clone(&tally)), tally)
    }

    #[test]
    fn the_node_is_asked_to_end_what_the_last_client_has_left() {
        let (mut book, tally) = book();
        let [ann, bob] = sessions(2)[..] else { unreachable!() };
        let name = book.name(Kind::Channel, b"c");
        book.asked(Kind::Channel, &name);
        book.asked(Kind::Channel, &name);
        book.answered(Kind::Channel, &name, Answer::Subscribed);
        book.join(Kind::Channel, &name, ann);
        book.leave(Kind::Channel, &name, ann);
        // Bob's question is on its way.
        assert_eq!(book.idle(Kind::Channel, &name), Idle::Busy);
        book.answered(Kind::Channel, &name, Answer::Subscribed);
        book.join(Kind::Channel, &name, bob);
        book.join(Kind::Channel, &name, ann);
        assert!(!book.is_last(Kind::Channel, &name, bob));
        assert_eq!(tally.of(Kind::Channel, &name), 1);
        book.leave(Kind::Channel, &name, ann);
        assert!(book.is_last(Kind::Channel, &name, bob));
        book.leave(Kind::Channel, &name, bob);
        assert_eq!(tally.of(Kind::Channel, &name), -1);
        assert_eq!(book.idle(Kind::Channel, &name), Idle::Unwanted(Rc::clone(&name)));
        book.asked(Kind::Channel, &name);
        book.answered(Kind::Channel, &name, Answer::Unsubscribed);
        assert_eq!(book.idle(Kind::Channel, &name), Idle::Forgotten);
        assert!(book.is_empty() && tally.is_empty());
    }

    #[test]
    fn a_refused_subscription_leaves_nothing() {
        let (mut book, tally) = book();
        let name = book.name(Kind::Pattern, b"p*");
        book.asked(Kind::Pattern, &name);
        book.answered(Kind::Pattern, &name, Answer::Refused);
        assert_eq!(book.idle(Kind::Pattern, &name), Idle::Forgotten);
        assert!(book.is_empty() && tally.is_empty());
    }

    #[test]
    fn a_lost_connection_keeps_the_clients_and_forgets_the_node() {
        let (mut book, tally) = book();
        let ids = sessions(3);
        let name = book.name(Kind::Shard, b"s");
        book.asked(Kind::Shard, &name);
        book.answered(Kind::Shard, &name, Answer::Subscribed);
        assert_eq!(tally.of(Kind::Shard, &name), -1);
        for &id in &ids {
            book.join(Kind::Shard, &name, id);
        }
        assert_eq!(tally.of(Kind::Shard, &name), 2);
        assert!(book.disconnect());
        // Nobody receives anything, so nobody is counted.
        assert!(tally.is_empty() && !book.is_upstream(Kind::Shard, &name));
        assert_eq!(book.held(Kind::Shard).count(), 1);
        assert!(!book.disconnect(), "what was not subscribed cannot be missed");
        book.asked(Kind::Shard, &name);
        book.answered(Kind::Shard, &name, Answer::Subscribed);
        assert_eq!(tally.of(Kind::Shard, &name), 2);
        drop(book);
        assert!(tally.is_empty());
    }
}

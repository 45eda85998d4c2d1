//! Who gets which messages of one link, and what the node knows of it.
//!
//! Owns the topics of a link: the clients that hold each, whether the link is subscribed to it at
//! the node, and how many questions about it are on their way. Never asks the node anything: it
//! says what is to be asked ([`Idle`]). Keeps the shared [`Tally`] right with every change.
//!
//! What surprises: a topic that nobody holds stays until every question about it is answered. Only
//! then it is known whether the node must be told that it is not wanted any more.

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
    /// Whether PUBLISH is answered by the node that the link leads to: only then the link is among
    /// whom it counts.
    is_counted: bool,
    /// Topics with clients that may have missed messages and have not been told.
    gaps: Vec<(Kind, Name)>,
    /// How many topics are copies.
    copies: usize,
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
    /// It is wanted for clients that hold it on another link, without being among its holders here.
    is_copy: bool,
    /// Its clients may have missed messages: it is among [`Book::gaps`].
    has_gap: bool,
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
    /// Receivers beyond the one that Redis counts, if it counts this link; none while the node
    /// sends nothing.
    fn surplus(&self, is_counted: bool) -> i64 {
        // As many clients as a process can hold fit many times over.
        let holders = i64::try_from(self.holders.len()).unwrap_or(i64::MAX);
        if self.is_upstream { holders - i64::from(is_counted) } else { 0 }
    }

    /// Whether the node is to send its messages.
    fn is_wanted(&self) -> bool {
        self.is_copy || !self.holders.is_empty()
    }
}

// === impl Book ===

impl Book {
    /// An empty book; `tally` is that of all workers.
    #[must_use]
    pub fn new(tally: Arc<Tally>) -> Self {
        let (gaps, copies) = (Vec::new(), 0);
        Self { topics: Default::default(), tally, is_counted: true, gaps, copies }
    }

    /// The link is among the receivers that PUBLISH counts, or it is not, from here on. Who
    /// publishes to a shard channel asks the node of its slot, which is that of the link.
    pub fn count(&mut self, is_counted: bool) {
        if self.is_counted == is_counted {
            return;
        }
        self.is_counted = is_counted;
        for kind in [Kind::Channel, Kind::Pattern] {
            for (name, topic) in &self.topics[kind as usize] {
                let change = topic.surplus(is_counted) - topic.surplus(!is_counted);
                self.tally.add(kind, name, change);
            }
        }
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

    /// The node has ended the subscription, whoever wanted that. Returns whether somebody holds the
    /// topic.
    pub fn ended(&mut self, kind: Kind, name: &[u8]) -> bool {
        self.change(kind, name, |topic| topic.is_upstream = false);
        self.is_held(kind, name)
    }

    /// The topic is wanted here for clients of another link. Returns whether the node is to be
    /// asked for it.
    pub fn copy(&mut self, kind: Kind, name: &Name) -> bool {
        let topic = self.topics[kind as usize].entry(Rc::clone(name)).or_default();
        self.copies += usize::from(!std::mem::replace(&mut topic.is_copy, true));
        !topic.is_upstream && topic.in_flight == 0
    }

    /// The topic is no copy any more.
    pub fn drop_copy(&mut self, kind: Kind, name: &[u8]) {
        if let Some(topic) = self.topics[kind as usize].get_mut(name) {
            self.copies -= usize::from(std::mem::take(&mut topic.is_copy));
        }
    }

    /// All copies of one kind.
    #[must_use]
    pub fn copies(&self, kind: Kind) -> Vec<Name> {
        if self.copies == 0 {
            return Vec::new();
        }
        let topics = self.topics[kind as usize].iter();
        topics.filter(|(_, topic)| topic.is_copy).map(|(name, _)| Rc::clone(name)).collect()
    }

    /// The clients of a topic go to another link.
    pub fn hand_over(&mut self, kind: Kind, name: &[u8]) -> Holders {
        let mut holders = Holders::default();
        self.change(kind, name, |topic| holders = std::mem::take(&mut topic.holders));
        holders
    }

    /// Clients that had the topic on another link have it here.
    pub fn take_over(&mut self, kind: Kind, name: &Name, holders: Holders) {
        self.topics[kind as usize].entry(Rc::clone(name)).or_default();
        self.change(kind, name, |topic| topic.holders.extend(holders));
    }

    /// Whether a question about the topic is on its way.
    #[must_use]
    pub fn is_asked(&self, kind: Kind, name: &[u8]) -> bool {
        self.topics[kind as usize].get(name).is_some_and(|topic| topic.in_flight > 0)
    }

    /// Whoever holds the topic may have missed messages.
    pub fn note_gap(&mut self, kind: Kind, name: &Name) {
        if let Some(topic) = self.topics[kind as usize].get_mut(name)
            && !std::mem::replace(&mut topic.has_gap, true)
        {
            self.gaps.push((kind, Rc::clone(name)));
        }
    }

    /// Topics with gaps of which nobody has been told.
    #[must_use]
    pub fn take_gaps(&mut self) -> Vec<(Kind, Name)> {
        let gaps = std::mem::take(&mut self.gaps);
        for (kind, name) in &gaps {
            if let Some(topic) = self.topics[*kind as usize].get_mut(name) {
                topic.has_gap = false;
            }
        }
        gaps
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
        if topic.is_wanted() || topic.in_flight > 0 {
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

    /// The connection is gone: the node has forgotten everything, and no answer will come. Returns
    /// whether anybody may miss messages.
    pub fn disconnect(&mut self) -> bool {
        let mut may_miss = false;
        self.gaps.clear();
        for kind in Kind::ALL {
            let is_counted = self.is_counted || kind == Kind::Shard;
            self.topics[kind as usize].retain(|name, topic| {
                let misses = topic.is_upstream && topic.is_wanted();
                may_miss |= misses;
                topic.has_gap |= misses;
                if topic.has_gap && topic.is_wanted() {
                    self.gaps.push((kind, Rc::clone(name)));
                }
                self.tally.add(kind, name, -topic.surplus(is_counted));
                topic.is_upstream = false;
                topic.in_flight = 0;
                topic.is_wanted()
            });
        }
        may_miss
    }

    /// The topics of one kind that somebody wants.
    pub fn held(&self, kind: Kind) -> impl Iterator<Item = &Name> {
        let topics = self.topics[kind as usize].iter();
        topics.filter(|(_, topic)| topic.is_wanted()).map(|(name, _)| name)
    }

    /// Topics of one kind that the node sends although nobody wants them: it has refused to
    /// unsubscribe.
    pub fn unwanted(&self, kind: Kind) -> impl Iterator<Item = &Name> {
        let topics = self.topics[kind as usize].iter();
        topics
            .filter(|(_, topic)| !topic.is_wanted() && topic.in_flight == 0 && topic.is_upstream)
            .map(|(name, _)| name)
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
        let is_counted = self.is_counted || kind == Kind::Shard;
        if let Some(topic) = self.topics[kind as usize].get_mut(name) {
            let before = topic.surplus(is_counted);
            change(topic);
            self.tally.add(kind, name, topic.surplus(is_counted) - before);
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

    #[test]
    fn a_copy_is_wanted_without_holders_and_takes_itself_off_the_count() {
        let (mut book, tally) = book();
        let [ann] = sessions(1)[..] else { unreachable!() };
        let name = book.name(Kind::Pattern, b"*");
        assert!(book.copy(Kind::Pattern, &name));
        book.asked(Kind::Pattern, &name);
        assert!(!book.copy(Kind::Pattern, &name), "it is asked for");
        book.answered(Kind::Pattern, &name, Answer::Subscribed);
        assert_eq!(tally.of(Kind::Pattern, &name), -1);
        book.count(false);
        assert!(tally.is_empty(), "the node that counts does not see this link");
        book.join(Kind::Pattern, &name, ann);
        assert_eq!(tally.of(Kind::Pattern, &name), 1);
        book.count(true);
        assert!(tally.is_empty());
        book.leave(Kind::Pattern, &name, ann);
        assert_eq!(book.idle(Kind::Pattern, &name), Idle::Busy);
        assert!(book.disconnect());
        assert_eq!((book.held(Kind::Pattern).count(), book.copies(Kind::Pattern).len()), (1, 1));
        book.drop_copy(Kind::Pattern, &name);
        assert_eq!(book.idle(Kind::Pattern, &name), Idle::Forgotten);
        assert!(tally.is_empty() && book.copies(Kind::Pattern).is_empty());
    }

    #[test]
    fn clients_that_go_to_another_link_take_their_count_with_them() {
        let (mut here, tally) = book();
        let mut there = Book::new(Arc::clone(&tally));
        let ids = sessions(3);
        let name = here.name(Kind::Shard, b"s");
        here.asked(Kind::Shard, &name);
        here.answered(Kind::Shard, &name, Answer::Subscribed);
        for &id in &ids {
            here.join(Kind::Shard, &name, id);
        }
        assert!(here.ended(Kind::Shard, &name) && tally.is_empty());
        let holders = here.hand_over(Kind::Shard, &name);
        assert_eq!(here.idle(Kind::Shard, &name), Idle::Forgotten);
        there.take_over(Kind::Shard, &name, holders);
        for _ in 0..2 {
            there.note_gap(Kind::Shard, &name);
        }
        there.asked(Kind::Shard, &name);
        there.answered(Kind::Shard, &name, Answer::Subscribed);
        assert_eq!(tally.of(Kind::Shard, &name), 2);
        assert_eq!((there.take_gaps().len(), there.take_gaps().len()), (1, 0));
    }
}

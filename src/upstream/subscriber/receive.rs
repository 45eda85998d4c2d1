//! From the bytes of a link to messages and answers.
//!
//! Owns the way of every byte that a node sends on a link: framed, given to everybody who holds the
//! topic, or matched with the question that it answers. Never keeps more of a message than all
//! clients together may be owed, never guesses: an answer that was not asked for ends the
//! connection (INV-1).
//!
//! What surprises: the topics of one SUBSCRIBE are answered one by one, but nothing comes between
//! these answers, so the client is told once, behind the last.

use std::sync::Arc;

use bytes::Bytes;

use super::{Ask, Link, Wire, copies, moving};
use crate::buffer::LARGE_BYTES;
use crate::pubsub::book::Answer;
use crate::pubsub::push::{self, Push};
use crate::pubsub::{Kind, Name};
use crate::server::tick;
use crate::session::flush;
use crate::session::pubsub::{self, Parcel};
use crate::session::state::Closing;
use crate::stats::labels::ClosedReason;
use crate::topology::redirect;
use crate::upstream::receive::Anomaly;
use crate::worker::Worker;

/// Takes `input`, fresh from the socket of `link` (which is lent from `worker.links`).
///
/// # Errors
/// [`Anomaly`]: the connection must be closed.
pub fn receive(worker: &mut Worker, link: &mut Link, input: &[u8]) -> Result<(), Anomaly> {
    worker.stats.upstream_bytes_in.add(input.len() as u64);
    link.heard_at = worker.now;
    link.has_answered = true;
    take(worker, link, input)?;
    moving::settle_ended(worker, link);
    Ok(())
}

fn take(worker: &mut Worker, link: &mut Link, input: &[u8]) -> Result<(), Anomaly> {
    if link.carry.is_empty() {
        let used = frames(worker, link, input)?;
        link.carry.extend_from_slice(input.get(used..).unwrap_or_default());
        return Ok(());
    }
    let mut held = std::mem::take(&mut link.carry);
    held.extend_from_slice(input);
    let used = frames(worker, link, &held)?;
    held.drain(..used);
    // A giant must not stay allocated behind the small ones that follow it.
    held.shrink_to(LARGE_BYTES.max(held.len()));
    link.carry = held;
    Ok(())
}

/// Handles every whole frame in `buffer` and returns how much was used.
fn frames(worker: &mut Worker, link: &mut Link, buffer: &[u8]) -> Result<usize, Anomaly> {
    let mut used = 0;
    loop {
        let rest = buffer.get(used..).unwrap_or_default();
        let fresh = rest.get(link.scanned..).unwrap_or_default();
        if fresh.is_empty() {
            return Ok(used);
        }
        let progress = link.scanner.scan(fresh)?;
        let seen = link.scanned + progress.consumed;
        if progress.complete {
            link.scanned = 0;
            used += seen;
            // The end of a frame that was dropped says nothing more.
            if !std::mem::take(&mut link.is_skipping) {
                let kind = link.scanner.kind().unwrap_or(b'+');
                whole(worker, link, kind, rest.get(..seen).unwrap_or_default())?;
            }
            continue;
        }
        link.scanned = seen;
        if link.is_skipping || seen > worker.shared.memory.reply_bytes_total {
            skip(worker, link, rest);
            link.scanned = 0;
            return Ok(used + seen);
        }
        return Ok(used);
    }
}

/// Drops a message that nobody could be given, and whoever it was for: the same end as with Redis,
/// whose limits of output are below the size of such a message too (INV-4).
fn skip(worker: &mut Worker, link: &mut Link, beginning: &[u8]) {
    if std::mem::replace(&mut link.is_skipping, true) {
        return;
    }
    if let Push::Message(kind, topic) = push::read(beginning) {
        evict(worker, link, kind, topic, ClosedReason::SlowSubscriber);
    }
}

/// Closes everybody who holds a topic.
pub fn evict(worker: &mut Worker, link: &Link, kind: Kind, topic: &[u8], reason: ClosedReason) {
    for &id in link.book.holders(kind, topic).into_iter().flatten() {
        if let Some(session) = worker.sessions.get_mut(id) {
            session.close(Closing::Now(reason));
            session.wake();
        }
    }
}

fn whole(worker: &mut Worker, link: &mut Link, kind: u8, frame: &[u8]) -> Result<(), Anomaly> {
    if kind != b'>' {
        return reply(worker, link, kind, frame);
    }
    match push::read(frame) {
        Push::Message(kind, topic) => message(worker, link, kind, topic, frame),
        Push::Subscribed(kind, name) => {
            if !answers(link, kind, name, true) {
                return Err(Anomaly::Unexpected);
            }
            answered(worker, link, kind, name, Answer::Subscribed);
        }
        Push::Unsubscribed(Kind::Shard, name) => ended(worker, link, name),
        Push::Unsubscribed(kind, name) if answers(link, kind, name, false) => {
            answered(worker, link, kind, name, Answer::Unsubscribed);
        }
        // Nothing but a slot's move ends a subscription unasked.
        Push::Unsubscribed(..) => return Err(Anomaly::Unexpected),
        Push::Other => worker.stats.pushes_dropped.increment(),
    }
    Ok(())
}

/// Gives a message to everybody who holds its topic.
fn message(worker: &mut Worker, link: &Link, kind: Kind, topic: &[u8], frame: &[u8]) {
    worker.stats.messages_received.increment();
    let topology = Arc::clone(worker.topology.load());
    let Worker { links, sessions, pool, stats, touched, now, .. } = worker;
    let Some(holders) = copies::audience(links, &topology, link, (kind, topic), frame) else {
        return;
    };
    let mut parcel = Parcel::new(frame);
    for &id in holders {
        if let Some(session) = sessions.get_mut(id) {
            let is_given = pubsub::give(session, pool, &mut parcel, *now);
            stats.messages_delivered.add(u64::from(is_given));
            touched.mark(session);
        }
    }
    worker.pushed_bytes += frame.len() * holders.len();
    if worker.reply_bytes + worker.pushed_bytes > worker.shared.memory.reply_bytes_total {
        // The sum of the last tick may be outdated by what has been written since: look before
        // judging (INV-4).
        flush::touched(worker);
        tick::look_at_sessions(worker);
    }
}

/// Whether the next answer that is due is this one.
fn answers(link: &Link, kind: Kind, name: &[u8], is_subscribed: bool) -> bool {
    link.asks.front().is_some_and(|ask| {
        let is_wire = match ask.wire {
            Wire::Subscribe => is_subscribed,
            Wire::Unsubscribe => !is_subscribed,
            Wire::Mark(_) => false,
        };
        let is_name = ask.names.get(ask.answered).is_some_and(|due| **due == *name);
        is_wire && is_name && ask.kind == kind && ask.end <= link.send.sent()
    })
}

/// One topic of the first question is answered.
fn answered(worker: &mut Worker, link: &mut Link, kind: Kind, name: &[u8], answer: Answer) {
    link.book.answered(kind, name, answer);
    let Some(ask) = link.asks.front_mut() else {
        return;
    };
    ask.answered += 1;
    if ask.answered < ask.names.len() {
        return;
    }
    let Some(mut ask) = link.pop() else {
        return;
    };
    if let Some(asker) = ask.asker.take() {
        pubsub::confirm(worker, link, asker, &ask);
    }
    if ask.is_again {
        restored(worker, link);
    }
    tidy(worker, link, ask.kind, &ask.names);
}

/// The node has ended a subscription to a shard channel: it was asked to, or the slot has moved. In
/// the latter case the clients keep it, on the link of the slot's new owner.
fn ended(worker: &mut Worker, link: &mut Link, name: &[u8]) {
    let sent = link.send.sent();
    let asked = link.asks.front_mut().filter(|ask| ask.is_fenced() && ask.end <= sent);
    if let Some(ask) = asked.filter(|ask| ask.names.iter().any(|its| **its == *name)) {
        ask.answered += 1;
        link.book.ended(Kind::Shard, name);
    } else if link.book.is_upstream(Kind::Shard, name) && link.book.ended(Kind::Shard, name) {
        worker.stats.subscriptions_moved.increment();
        link.ended.push(link.book.name(Kind::Shard, name));
    }
}

/// A reply that is no push: a mark, or an error.
fn reply(worker: &mut Worker, link: &mut Link, kind: u8, frame: &[u8]) -> Result<(), Anomaly> {
    let is_error = matches!(kind, b'-' | b'!');
    let is_due = link.asks.front().is_some_and(|ask| {
        let is_mark = matches!(ask.wire, Wire::Mark(_)) || ask.is_fenced();
        (is_mark || (is_error && ask.answered == 0)) && ask.end <= link.send.sent()
    });
    if !is_due {
        return Err(Anomaly::Unexpected);
    }
    if is_error && is_refused_before_fence(worker, link, frame) {
        return Ok(());
    }
    let Some(mut ask) = link.pop() else {
        return Err(Anomaly::Unexpected);
    };
    // Behind a question about shard channels this is the PING's answer: it is over, whatever the
    // PING was told.
    let is_ended = ask.is_fenced() && !ask.is_refused;
    let answer = if is_ended { Answer::Unsubscribed } else { Answer::Refused };
    for name in &ask.names {
        link.book.answered(ask.kind, name, answer);
    }
    let (kind, names) = (ask.kind, ask.names.clone());
    match (ask.asker.take(), &ask.wire) {
        (Some(asker), Wire::Mark(_)) => pubsub::marked(worker, link, asker, frame),
        (asker, Wire::Subscribe) => not_subscribed(worker, link, Ask { asker, ..ask }, frame),
        (Some(asker), _) if is_ended => pubsub::confirm(worker, link, asker, &ask),
        (Some(asker), _) => pubsub::refused(worker, asker, frame),
        // What the node does not end stays until the tick asks again.
        (None, _) if !is_ended => {
            link.has_unwanted = true;
            return Ok(());
        }
        (None, _) => {}
    }
    tidy(worker, link, kind, &names);
    Ok(())
}

/// Whether an error is about the end of a subscription, and not about the PING behind it.
fn is_refused_before_fence(worker: &mut Worker, link: &mut Link, error: &[u8]) -> bool {
    let Some(ask) = link.asks.front_mut().filter(|ask| ask.is_fenced() && !ask.is_refused) else {
        return false;
    };
    if redirect::read(error).is_some() {
        // The slot has moved, and the subscription has ended with it.
        ask.answered = ask.names.len();
        return true;
    }
    // All topics have been answered: this is the PING's error, which says nothing about them.
    if ask.answered >= ask.names.len() {
        return false;
    }
    ask.is_refused = true;
    if let Some(asker) = ask.asker.take() {
        pubsub::refused(worker, asker, error);
    }
    true
}

/// The node does not subscribe the link to what a client asks for, or to what clients hold.
fn not_subscribed(worker: &mut Worker, link: &mut Link, mut ask: Ask, error: &[u8]) {
    let redirect = redirect::read(error).filter(|_| link.is_in_cluster());
    if let Some(redirect) = redirect.filter(|_| ask.kind == Kind::Shard) {
        // Whoever asked may have been told that it takes too long.
        let is_wanted = ask.is_again || ask.asker.is_some();
        if is_wanted {
            moving::redirected(worker, link, ask, error, redirect);
        }
    } else if let Some(asker) = ask.asker.take() {
        pubsub::refused(worker, asker, error);
    } else if ask.is_again {
        not_restored(worker, link, &ask, error);
    }
}

/// The node does not take what clients hold. One bad topic fails a whole question, so they are
/// asked for one by one; a topic that is forbidden ends its clients, as Redis ends them when their
/// ACL changes; a node that is busy is asked later.
fn not_restored(worker: &mut Worker, link: &mut Link, ask: &Ask, error: &[u8]) {
    link.restoring -= 1;
    if let [name] = &ask.names[..] {
        if error.starts_with(b"-NOPERM") || error.starts_with(b"-ERR") {
            evict(worker, link, ask.kind, name, ClosedReason::SubscriptionLost);
            return finish_restoring(worker, link);
        }
        link.restoring += 1;
        link.later.push((ask.kind, Name::clone(name)));
        return;
    }
    for name in &ask.names {
        again(worker, link, ask.kind, vec![Name::clone(name)], 0);
    }
}

/// Asks for topics that clients hold already, after so many redirects.
pub fn again(worker: &mut Worker, link: &mut Link, kind: Kind, names: Vec<Name>, hops: u8) {
    let table = Arc::clone(&worker.topology.load().table);
    link.restoring += 1;
    let ask = Ask { is_again: true, hops, ..Ask::new(Wire::Subscribe, kind, names) };
    link.ask(&mut worker.pool, &table, ask, worker.now);
}

/// One question of those is answered with yes.
fn restored(worker: &mut Worker, link: &mut Link) {
    link.restoring = link.restoring.saturating_sub(1);
    finish_restoring(worker, link);
}

/// When everything is subscribed again, whoever can be told is told that messages may be missing.
pub fn finish_restoring(worker: &mut Worker, link: &mut Link) {
    if link.restoring == 0 {
        pubsub::announce_gap(worker, link);
    }
}

/// Ends at the node what nobody wants any more among these topics.
pub fn tidy(worker: &mut Worker, link: &mut Link, kind: Kind, names: &[Name]) {
    let table = Arc::clone(&worker.topology.load().table);
    link.tidy(&mut worker.pool, &table, kind, names, worker.now);
}

// === impl Parcel ===

impl<'a> Parcel<'a> {
    /// A message on its way to any number of clients.
    fn new(frame: &'a [u8]) -> Self {
        Self { frame, shared: None }
    }

    /// The frame behind its first byte, as one allocation for everybody; `None` if copying is
    /// cheaper.
    pub fn shared(&mut self) -> Option<Bytes> {
        if self.frame.len() < LARGE_BYTES {
            return None;
        }
        let frame = self.frame;
        let body = || Bytes::copy_from_slice(frame.get(1..).unwrap_or_default());
        Some(self.shared.get_or_insert_with(body).clone())
    }
}

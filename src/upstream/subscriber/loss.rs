//! What a link does when its connection comes and goes.
//!
//! Owns the order in which a new connection is told what everybody holds and what is still asked
//! for, what becomes of questions without an answer, and how long they wait. Never drops a
//! subscription: clients keep theirs over any number of connections.
//!
//! What surprises: nothing that is asked on a link changes data, so every question may be asked
//! again; and to leave needs no node, so whoever leaves is confirmed at once when there is none.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use super::place::askable;
use super::receive::{again, evict};
use super::{Ask, Asker, Link, Want, copies, moving};
use crate::buffer::SendBuffer;
use crate::clock::{Micros, SECOND, to_micros};
use crate::net::WriteHalf;
use crate::pubsub::{Kind, Name};
use crate::refusal::{Ran, Refusal};
use crate::resp::reply::ReplyScanner;
use crate::session::pubsub;
use crate::session::subscriptions::weight;
use crate::stats::labels::{ClosedReason, DialFailure};
use crate::upstream::dial::{DialError, Node};
use crate::upstream::identity::Identity;
use crate::worker::Worker;

/// The connection is there: what clients hold comes first, then what they ask for.
pub fn opened(worker: &mut Worker, link: &mut Link, socket: WriteHalf) {
    link.is_open = true;
    link.has_answered = false;
    link.socket = socket;
    link.write_blocked = true;
    link.heard_at = worker.now;
    let waiting = mem::take(&mut link.asks);
    link.asked_bytes = 0;
    for kind in Kind::ALL {
        let held: Vec<Name> = link.book.held(kind).cloned().collect();
        for names in askable(link.is_in_cluster(), kind, held).into_iter().flat_map(batches) {
            again(worker, link, kind, names, 0);
        }
    }
    let table = Arc::clone(&worker.topology.load().table);
    for ask in waiting {
        // Nothing is asked for somebody who has gone.
        if ask.asker.as_ref().is_some_and(|asker| worker.sessions.contains(asker.session)) {
            link.ask(&mut worker.pool, &table, ask, worker.now);
        }
    }
}

/// Topics in parts, so that one bad one among them fails few, and no question is larger than its
/// answer is awaited.
fn batches(names: Vec<Name>) -> Vec<Vec<Name>> {
    let mut batches: Vec<Vec<Name>> = Vec::new();
    let mut room = 0;
    for name in names {
        let cost = weight(&name);
        match batches.last_mut() {
            Some(batch) if cost <= room => batch.push(name),
            _ => {
                batches.push(vec![name]);
                room = BATCH_BYTES;
            }
        }
        room = room.saturating_sub(cost);
    }
    batches
}

/// The connection is gone. Who left is confirmed; who asked for more waits for the next one.
pub fn lost(worker: &mut Worker, link: &mut Link) {
    reset(link);
    if link.book.disconnect() {
        worker.stats.subscription_gaps.increment();
    }
    let mut waiting = VecDeque::new();
    for mut ask in mem::take(&mut link.asks) {
        match ask.asker.take() {
            Some(asker) if matches!(asker.want, Want::Leave(..)) => {
                pubsub::confirm(worker, link, asker, &ask);
            }
            Some(asker) => waiting.push_back(Ask { answered: 0, asker: Some(asker), ..ask }),
            None => {}
        }
    }
    link.asks = waiting;
    link.asked_bytes = link.asks.iter().map(|ask| ask.bytes).sum();
    // Whoever left just now may have been the last of a topic.
    link.book.disconnect();
}

fn reset(link: &mut Link) {
    link.is_open = false;
    link.socket = WriteHalf::Detached;
    link.write_blocked = false;
    link.broken = None;
    link.send = SendBuffer::default();
    link.scanner = ReplyScanner::default();
    link.carry = Vec::new();
    link.scanned = 0;
    link.is_skipping = false;
    link.restoring = 0;
    link.has_unwanted = false;
    link.later = Vec::new();
    link.ended = Vec::new();
    // What the map says counts from here on, whether it is news or not.
    link.seen = (0, 0);
}

/// No connection: who has waited longer than `retry_window` is told.
pub fn dial_failed(worker: &mut Worker, link: &mut Link, node: &Node, error: &DialError) {
    if error.failure == DialFailure::Auth && link.key.identity != Identity::UPSTREAM {
        // The user's password has changed: its clients must say who they are anew, as after any
        // restart of the node.
        for kind in Kind::ALL {
            for name in link.book.held(kind) {
                evict(worker, link, kind, name, ClosedReason::SubscriptionLost);
            }
        }
    }
    // Waiting does not help somebody without a password.
    let (refusal, window) = if error.is_stranger() {
        (Refusal::NoAuth, Some(0))
    } else {
        // In a cluster another node may take its place, which takes as long as the client's
        // listener says.
        let window = to_micros(node.settings.retry_window);
        let window = Some(window).filter(|_| !link.is_in_cluster());
        (node.down(error, worker.now), window)
    };
    give_up(worker, link, |patience, _, age| {
        (age >= window.unwrap_or(patience)).then(|| refusal.clone())
    });
    link.asks.retain(|ask| ask.asker.is_some());
    link.asked_bytes = link.asks.iter().map(|ask| ask.bytes).sum();
}

/// Tells whoever has waited for an answer longer than the deadline of its command (INV-5). The
/// question stays in its place: its answer is still to come.
pub fn expire(worker: &mut Worker, link: &mut Link) {
    let settings = &link.node.settings;
    let fast = to_micros(settings.reply_deadline_fast);
    let slow = to_micros(settings.reply_deadline_slow);
    let (node, table) = (link.node.name.clone(), Arc::clone(&worker.topology.load().table));
    let stats = Arc::clone(&worker.stats);
    give_up(worker, link, |_, asker, age| {
        let after = if asker.is_fast { fast } else { slow };
        (age >= after).then(|| {
            stats.deadlines_passed.increment();
            let command = table.stats_name(asker.command).to_owned();
            // An answer that comes later is undone, so to the client this is as if it had only
            // looked.
            Refusal::Deadline { node: node.clone(), command, after, ran: Ran::ReadOnly }
        })
    });
}

/// Settles every asker for whom `verdict` has a refusal; it is told how long the client waits for a
/// failover. Who wants to leave has left.
fn give_up(
    worker: &mut Worker,
    link: &mut Link,
    verdict: impl Fn(Micros, &Asker, Micros) -> Option<Refusal>,
) {
    let mut asks = mem::take(&mut link.asks);
    for ask in &mut asks {
        let Some(asker) = &ask.asker else {
            continue;
        };
        let age = worker.now.saturating_sub(asker.taken_at);
        let session = worker.sessions.get(asker.session);
        let patience =
            session.map_or(0, |session| to_micros(session.gate.failover_wait(None, None)));
        let Some(refusal) = verdict(patience, asker, age) else {
            continue;
        };
        match ask.asker.take() {
            Some(asker) if matches!(asker.want, Want::Leave(..)) => {
                pubsub::confirm(worker, link, asker, ask);
            }
            Some(asker) => pubsub::not_executed(worker, asker, &refusal),
            None => {}
        }
    }
    // Confirming asks nothing, but if it ever did that would come behind what was asked before.
    asks.append(&mut link.asks);
    link.asks = asks;
}

/// What time alone does to a link, ten times a second.
pub fn tick(worker: &mut Worker, link: &mut Link) {
    expire(worker, link);
    link.follow(worker.topology.load().epoch);
    moving::follow_map(worker, link);
    if !link.held_back.is_empty() {
        copies::release_on(worker, link);
    }
    // PUBLISH is answered by this node, which counts the links that it has itself.
    let node = worker.topology.load().node.id;
    link.book.count(link.node.id == node);
    if link.is_open {
        ask_to_end_again(worker, link);
        bury_if_dead(worker, link);
    }
    let idle = worker.now.saturating_sub(link.used_at);
    if idle >= SECOND {
        link.book.shrink();
        link.send.rest(&mut worker.pool);
    }
    if !link.is_wanted() && idle >= to_micros(link.node.settings.lane_idle) {
        link.retired = true;
        link.wake();
    }
}

/// A node that was busy when it was to end a subscription is asked again, once a second.
fn ask_to_end_again(worker: &mut Worker, link: &mut Link) {
    if !link.has_unwanted || worker.now.saturating_sub(link.used_at) < SECOND {
        return;
    }
    link.has_unwanted = false;
    let table = Arc::clone(&worker.topology.load().table);
    for kind in Kind::ALL {
        let names: Vec<Name> = link.book.unwanted(kind).cloned().collect();
        link.tidy(&mut worker.pool, &table, kind, &names, worker.now);
    }
}

/// A connection whose questions nobody's kernel acknowledges leads nowhere; a node that is slow
/// keeps its link.
fn bury_if_dead(worker: &Worker, link: &mut Link) {
    let limit = link.node.settings.user_timeout;
    let silent_for = worker.now.saturating_sub(link.heard_at.max(link.used_at));
    if !link.asks.is_empty() && silent_for >= to_micros(limit) && link.socket.is_dead(limit) {
        link.broken = Some(std::io::ErrorKind::TimedOut.into());
        link.wake();
    }
}

/// Weight of the topics of one question that restores subscriptions.
const BATCH_BYTES: usize = 64 * 1024;

//! Shard channels follow their slots from node to node.
//!
//! Owns what a redirect makes of a question, where clients go whose subscription a node has ended,
//! and the comparison of a link with the slot map. Never tells a client anything but a gap: to it
//! the subscription stands all the time.
//!
//! What surprises: a node's own word weighs more than the map. What it sends is left where it is
//! for a second, in which it says itself that a slot has gone; only then, as if it were cut off
//! from the others, the map is followed.

use std::mem;
use std::sync::Arc;

use super::place::{askable, home, link_to, to};
use super::receive::{again, finish_restoring, tidy};
use super::{Ask, Leads, Link, LinkKey, Wire, copies};
use crate::clock::{Micros, SECOND, to_micros};
use crate::dispatch::detour;
use crate::pubsub::{Kind, Name};
use crate::session::pubsub;
use crate::stats::labels::Redirected;
use crate::topology::Topology;
use crate::topology::redirect::Redirect;
use crate::topology::slots::{Health, SlotMap};
use crate::upstream::dial::Node;
use crate::worker::Worker;

/// The way to another link: its key's part, and its node.
type Way = (Leads, Arc<Node>);

/// A question about shard channels has been redirected: it is asked where the redirect points, or
/// again in a while.
pub fn redirected(
    worker: &mut Worker,
    link: &mut Link,
    mut ask: Ask,
    error: &[u8],
    redirect: Redirect<'_>,
) {
    let topology = Arc::clone(worker.topology.load());
    worker.shared.map_is_old.notify_one();
    let owner = if let Redirect::Moved(there) = redirect {
        worker.stats.redirected(Redirected::Moved).increment();
        detour::learn(worker, &topology, &link.node, &there)
    } else {
        worker.stats.redirected(Redirected::NotNow).increment();
        None
    };
    // A node that only an error reply names is not dialled: the map must know it.
    let member = owner.and_then(|id| topology.slots.as_ref()?.members.get(id));
    // Nodes that point at each other are asked in the pace of the tick.
    let way = member
        .filter(|_| ask.hops < HOPS_AT_ONCE)
        .map(|member| (to(&topology, member), Arc::clone(&member.node)));
    ask.hops += 1;
    match (way, ask.is_again) {
        (Some(way), true) => {
            link.restoring = link.restoring.saturating_sub(1);
            carry(worker, link, mem::take(&mut ask.names), &way, ask.hops);
            finish_restoring(worker, link);
        }
        (Some(way), false) => forward(worker, link, ask, &way),
        (None, true) => {
            // Each of them is one question of its own from here on.
            link.restoring = (link.restoring + ask.names.len()).saturating_sub(1);
            link.later.extend(ask.names.into_iter().map(|name| (Kind::Shard, name)));
        }
        (None, false) => link.deferred.push((ask, error.into())),
    }
}

/// At the end of a turn: what the node has ended of its own accord goes to the new owners. What was
/// published in between is missed.
pub fn settle_ended(worker: &mut Worker, link: &mut Link) {
    if link.ended.is_empty() {
        return;
    }
    let ended = mem::take(&mut link.ended);
    let held: Vec<Name> =
        ended.into_iter().filter(|name| link.book.is_held(Kind::Shard, name)).collect();
    if held.is_empty() {
        return;
    }
    // A slot's channels end in one burst of pushes, which is one gap.
    worker.stats.subscription_gaps.increment();
    worker.shared.map_is_old.notify_one();
    for name in &held {
        link.book.note_gap(Kind::Shard, name);
    }
    let topology = Arc::clone(worker.topology.load());
    send_home(worker, &topology, link, held);
}

/// What time alone does: whatever is not where the slot map wants it goes there.
pub fn follow_map(worker: &mut Worker, link: &mut Link) {
    let topology = Arc::clone(worker.topology.load());
    let seen = (topology.epoch, topology.slots.as_ref().map_or(0, |slots| slots.version));
    if link.seen != seen {
        // A link that has just lost its connection looks at the map as if for the first time.
        let is_first = mem::replace(&mut link.seen, seen) == (0, 0);
        link.seen_at = worker.now;
        if let Some(slots) = &topology.slots {
            leave_lost_node(&topology, slots, link);
        }
        copies::reconcile(worker, &topology, link, is_first);
    }
    copies::prune(worker, &topology, link);
    ask_deferred(worker, &topology, link);
    ask_later(worker, &topology, link);
    let is_foreign = is_foreign(&topology, link);
    let is_trusted = link.is_open && !is_foreign;
    if link.seen_at == 0 || (is_trusted && worker.now.saturating_sub(link.seen_at) < MAP_TRUST) {
        return;
    }
    // Until the map is news again there is nothing to compare.
    link.seen_at = 0;
    if !is_trusted {
        forward_waiting(worker, &topology, link);
    }
    let leads = link.key.leads;
    let is_misplaced = |name: &&Name| home(&topology, Kind::Shard, name).0 != leads;
    let misplaced: Vec<Name> = link.book.held(Kind::Shard).filter(is_misplaced).cloned().collect();
    if misplaced.iter().any(|name| link.book.is_upstream(Kind::Shard, name)) {
        worker.stats.subscription_gaps.increment();
    }
    send_home(worker, &topology, link, misplaced);
}

/// Whether the link leads to a node of another deployment.
fn is_foreign(topology: &Topology, link: &Link) -> bool {
    matches!(link.key.leads, Leads::To { epoch, .. } if epoch != topology.epoch)
}

/// A node that is no member any more, or that the others have given up, has no messages.
fn leave_lost_node(topology: &Topology, slots: &SlotMap, link: &mut Link) {
    // Before the first map nobody is a member, and whoever answers is good enough.
    let is_lost = match slots.members.get(link.node.id) {
        Some(member) => member.health == Health::Failed,
        None => slots.members.primaries().next().is_some(),
    };
    if link.epoch == topology.epoch && is_lost {
        link.give_up("the node has left the cluster, or failed");
    }
}

/// Asks again what the cluster could not answer, for as long as its client waits.
fn ask_deferred(worker: &mut Worker, topology: &Topology, link: &mut Link) {
    for (mut ask, error) in mem::take(&mut link.deferred) {
        let Some(asker) = ask.asker.take() else {
            continue;
        };
        // Nothing is asked for somebody who has gone.
        let Some(session) = worker.sessions.get(asker.session) else {
            continue;
        };
        // Such an error does not say whether a node is missing or a slot is on the move.
        let limit = to_micros(
            session.gate.failover_wait(None, None).max(session.gate.migration_wait(None)),
        );
        if worker.now.saturating_sub(asker.taken_at) >= limit {
            pubsub::refused(worker, asker, &error);
            continue;
        }
        let way = ask.names.first().map(|name| home(topology, Kind::Shard, name));
        let ask = Ask { asker: Some(asker), hops: 0, ..ask };
        if let Some(way) = way {
            forward(worker, link, ask, &way);
        }
    }
}

/// Asks again for what clients hold and the node could not take.
fn ask_later(worker: &mut Worker, topology: &Topology, link: &mut Link) {
    if !link.is_open || link.later.is_empty() {
        return;
    }
    let mut shards = Vec::new();
    for (kind, name) in mem::take(&mut link.later) {
        // Counted again when it is asked for again, here or on another link.
        link.restoring = link.restoring.saturating_sub(1);
        match kind {
            Kind::Shard => shards.push(name),
            _ => again(worker, link, kind, vec![name], 0),
        }
    }
    send_home(worker, topology, link, shards);
    finish_restoring(worker, link);
}

/// Questions that wait for this link's connection although the map names another node.
fn forward_waiting(worker: &mut Worker, topology: &Topology, link: &mut Link) {
    for mut ask in mem::take(&mut link.asks) {
        let is_subscribe = matches!(ask.wire, Wire::Subscribe) && ask.kind == Kind::Shard;
        let name = ask.names.first().filter(|_| is_subscribe && ask.asker.is_some());
        let way = name.map(|name| home(topology, Kind::Shard, name));
        match way.filter(|(leads, _)| *leads != link.key.leads) {
            Some(way) => {
                let next = Ask { asker: ask.asker.take(), ..ask.again() };
                if link.is_open {
                    // Its answer comes all the same, and means nothing.
                    link.asks.push_back(ask);
                }
                forward(worker, link, next, &way);
            }
            None => link.asks.push_back(ask),
        }
    }
    link.asked_bytes = link.asks.iter().map(|ask| ask.bytes).sum();
}

/// Sends topics to the links where they belong.
fn send_home(worker: &mut Worker, topology: &Topology, link: &mut Link, names: Vec<Name>) {
    for names in askable(topology.slots.is_some(), Kind::Shard, names) {
        if let Some(way) = names.first().map(|name| home(topology, Kind::Shard, name)) {
            carry(worker, link, names, &way, 0);
        }
    }
}

/// Clients of these topics get their messages over another link from here on, or again over this
/// one. The topics can be asked for in one question.
fn carry(worker: &mut Worker, link: &mut Link, names: Vec<Name>, way: &Way, hops: u8) {
    let (leads, node) = way;
    if *leads == link.key.leads {
        // It is where it belongs. A connection that is to come begins with everything that is held.
        if link.is_open {
            again(worker, link, Kind::Shard, names, hops);
        }
        return;
    }
    let topology = Arc::clone(worker.topology.load());
    let key = LinkKey { identity: link.key.identity, leads: *leads };
    let id = link_to(worker, &topology, key, node);
    let Some(mut target) = worker.links.lend(id) else {
        return;
    };
    let mut moved = Vec::new();
    for name in &names {
        let holders = link.book.hand_over(Kind::Shard, name);
        // They may have left while the question was on its way.
        if holders.is_empty() {
            continue;
        }
        for &holder in &holders {
            let held = worker.sessions.get_mut(holder).and_then(|it| it.subscriptions.as_mut());
            if let Some(held) = held {
                held.move_to(Kind::Shard, name, id);
            }
        }
        // Both books change in one turn, so that the sum of the counts is right at any moment.
        target.book.take_over(Kind::Shard, name, holders);
        target.book.note_gap(Kind::Shard, name);
        moved.push(Name::clone(name));
    }
    if target.is_open && !moved.is_empty() {
        again(worker, &mut target, Kind::Shard, moved, hops);
    }
    worker.links.restore(id, target);
    // Where this node still sends them, it is to stop.
    tidy(worker, link, Kind::Shard, &names);
}

/// Asks a client's question on another link, or again on this one.
fn forward(worker: &mut Worker, link: &mut Link, ask: Ask, (leads, node): &Way) {
    let topology = Arc::clone(worker.topology.load());
    let (table, now) = (&topology.table, worker.now);
    if *leads == link.key.leads {
        return link.ask(&mut worker.pool, table, ask, now);
    }
    let key = LinkKey { identity: link.key.identity, leads: *leads };
    let id = link_to(worker, &topology, key, node);
    if let Some(mut target) = worker.links.lend(id) {
        target.ask(&mut worker.pool, table, ask, now);
        worker.links.restore(id, target);
    }
}

/// How long a node's silence on a slot that the map gives to another one is taken for an agreement
/// with the map.
const MAP_TRUST: Micros = SECOND;
/// Redirects that are followed at once.
const HOPS_AT_ONCE: u8 = 5;

//! Topics that get keyspace notifications are placed on every primary, because each tells only its
//! own.
//!
//! Owns these copies: which primaries have them, whom their messages are for, and that a client's
//! subscription is not confirmed before they are in place. Never delivers anything but
//! notifications from them: other messages reach the link that may lead anywhere, over the
//! cluster's bus.
//!
//! What surprises: that link delivers no notifications, not even its own node's, so that nobody
//! hears one twice whichever node it leads to. And a message that a client publishes to such a
//! channel comes from every primary.

use std::mem;
use std::sync::Arc;

use super::place::{find, link_to, to};
use super::receive::{again, tidy};
use super::{Ask, Leads, Link, LinkId, LinkKey, Wire};
use crate::arena::Arena;
use crate::clock::{Micros, SECOND};
use crate::pubsub::book::Holders;
use crate::pubsub::{Kind, Name, keyspace, push};
use crate::topology::Topology;
use crate::topology::slots::{Health, Member, MemberRole, NodeId, SlotMap};
use crate::upstream::identity::Identity;
use crate::worker::Worker;

/// Places those of the topics on every primary that may get notifications.
pub fn place(
    worker: &mut Worker,
    topology: &Topology,
    identity: Identity,
    (kind, names): (Kind, &[Name]),
) {
    put(worker, topology, identity, (kind, names), |_| false);
}

/// As [`place`]; on a primary of which `misses` is true, notifications may have been missed until
/// then.
fn put(
    worker: &mut Worker,
    topology: &Topology,
    identity: Identity,
    (kind, names): (Kind, &[Name]),
    misses: impl Fn(&Member) -> bool,
) {
    let Some(slots) = topology.slots.as_ref().filter(|_| notifies(kind, names)) else {
        return;
    };
    for member in primaries(slots) {
        let key = LinkKey { identity, leads: to(topology, member) };
        let id = link_to(worker, topology, key, &member.node);
        let Some(mut link) = worker.links.lend(id) else {
            continue;
        };
        let mut missing = Vec::new();
        for name in names.iter().filter(|name| keyspace::may_notify(kind, name)) {
            if link.book.copy(kind, name) {
                missing.push(Name::clone(name));
            }
        }
        if !missing.is_empty() && misses(member) {
            missing.iter().for_each(|name| link.book.note_gap(kind, name));
        }
        // A connection that is to come begins with everything that is wanted, copies included.
        if link.is_open && !missing.is_empty() {
            again(worker, &mut link, kind, missing, 0);
        }
        worker.links.restore(id, link);
    }
}

/// Whether a question has to wait until every primary has answered for its topics.
pub fn must_wait(worker: &Worker, topology: &Topology, identity: Identity, ask: &Ask) -> bool {
    let Some(slots) = topology
        .slots
        .as_ref()
        .filter(|_| matches!(ask.wire, Wire::Subscribe) && notifies(ask.kind, &ask.names))
    else {
        return false;
    };
    primaries(slots).any(|member| {
        let id = find(&worker.links, LinkKey { identity, leads: to(topology, member) });
        let Some(link) = id.and_then(|id| worker.links.get(id)) else {
            // The map is newer than the copies; the tick will place one there.
            return false;
        };
        if link.is_open {
            ask.names.iter().any(|name| link.book.is_asked(ask.kind, name))
        } else {
            // Nobody waits for a node that is known to be down.
            !member.node.health.is_away()
        }
    })
}

/// After a turn of a primary's link: questions that have waited for it may be asked.
pub fn release(worker: &mut Worker, identity: Identity) {
    let Some(id) = main_of(&worker.links, identity) else {
        return;
    };
    if worker.links.get(id).is_some_and(|link| !link.held_back.is_empty())
        && let Some(mut link) = worker.links.lend(id)
    {
        release_on(worker, &mut link);
        worker.links.restore(id, link);
    }
}

/// As [`release`], with the link that may lead anywhere in hand. No question waits for longer than
/// a second: a node that hangs costs its own notifications, not the subscription.
pub fn release_on(worker: &mut Worker, link: &mut Link) {
    let topology = Arc::clone(worker.topology.load());
    for ask in mem::take(&mut link.held_back) {
        let since = ask.asker.as_ref().map_or(0, |asker| asker.taken_at);
        let is_over = worker.now.saturating_sub(since) >= WAIT_MAX;
        // The order among those that wait does not matter: each is of another client.
        if !is_over && must_wait(worker, &topology, link.key.identity, &ask) {
            link.held_back.push(ask);
        } else {
            link.ask(&mut worker.pool, &topology.table, ask, worker.now);
        }
    }
}

/// The map is news: new primaries get the copies.
pub fn reconcile(worker: &mut Worker, topology: &Topology, link: &mut Link, is_first: bool) {
    let Some(slots) = topology.slots.as_ref().filter(|_| link.key.leads == Leads::Anywhere) else {
        return;
    };
    let told_by: Vec<NodeId> = primaries(slots).map(|member| member.node.id).collect();
    if !is_first && link.told_by == told_by {
        return;
    }
    // Who asks at this moment counts as well: by the time of the answer nobody looks at the map
    // again.
    link.told_by = told_by;
    let identity = link.key.identity;
    for kind in [Kind::Channel, Kind::Pattern] {
        let asked = link.asks.iter().chain(&link.held_back).filter(|ask| ask.kind == kind);
        let names = link.book.held(kind).chain(asked.flat_map(|ask| &ask.names));
        let names: Vec<Name> =
            names.filter(|name| keyspace::may_notify(kind, name)).cloned().collect();
        // Who comes without slots has nothing to tell that could be missed.
        put(worker, topology, identity, (kind, &names), |member| {
            !is_first && has_slots(topology, member)
        });
        // What was forgotten together with a lost connection is still placed.
        for id in primaries_links(&worker.links, identity) {
            let copies = worker.links.get(id).map(|it| it.book.copies(kind)).unwrap_or_default();
            link.strays.extend(copies.into_iter().map(|name| (kind, name)));
        }
    }
}

/// Takes copies away that are not wanted any more: those of topics that nobody holds, and all of a
/// node that is no primary.
pub fn prune(worker: &mut Worker, topology: &Topology, link: &mut Link) {
    if link.key.leads != Leads::Anywhere {
        let is_wanted =
            is_primary(topology, link) && main_of(&worker.links, link.key.identity).is_some();
        for kind in [Kind::Channel, Kind::Pattern].into_iter().filter(|_| !is_wanted) {
            let copies = link.book.copies(kind);
            withdraw(worker, link, kind, &copies);
        }
        return;
    }
    // Somebody may have come back to a topic since it was put on the list.
    let strays = mem::take(&mut link.strays);
    if strays.is_empty() {
        return;
    }
    for kind in [Kind::Channel, Kind::Pattern] {
        let of_kind = strays.iter().filter(|(its, name)| *its == kind && !wants(link, kind, name));
        let names: Vec<Name> = of_kind.map(|(_, name)| Name::clone(name)).collect();
        for id in primaries_links(&worker.links, link.key.identity) {
            if let Some(mut other) = worker.links.lend(id) {
                withdraw(worker, &mut other, kind, &names);
                worker.links.restore(id, other);
            }
        }
    }
}

/// Ends copies of one link. A topic that somebody else has there (there is none of these kinds)
/// would stay.
fn withdraw(worker: &mut Worker, link: &mut Link, kind: Kind, names: &[Name]) {
    if names.is_empty() {
        return;
    }
    for name in names {
        link.book.drop_copy(kind, name);
    }
    tidy(worker, link, kind, names);
}

/// Whom a message of a link is for.
pub fn audience<'a>(
    links: &'a Arena<Link>,
    topology: &Topology,
    link: &'a Link,
    (kind, topic): (Kind, &[u8]),
    frame: &[u8],
) -> Option<&'a Holders> {
    if kind == Kind::Shard || !link.is_in_cluster() {
        return link.book.holders(kind, topic);
    }
    let is_notification = push::channel(frame).is_some_and(keyspace::is_notification);
    if link.key.leads != Leads::Anywhere {
        // A replica tells what its primary tells.
        let is_due = is_notification && is_primary(topology, link);
        // Its holders are known to the other link alone, so that joining and leaving are one
        // place's business.
        let main = main_of(links, link.key.identity).filter(|_| is_due)?;
        return links.get(main)?.book.holders(kind, topic);
    }
    // Without a map there are no copies yet, and what this node tells is better than nothing.
    let is_told_elsewhere =
        is_notification && topology.slots.as_ref().is_some_and(|it| primaries(it).next().is_some());
    link.book.holders(kind, topic).filter(|_| !is_told_elsewhere)
}

/// Who holds a topic for which the link has a copy or a subscription of its own.
pub fn holders<'a>(
    links: &'a Arena<Link>,
    link: &'a Link,
    kind: Kind,
    name: &[u8],
) -> impl Iterator<Item = &'a Holders> {
    let main = main_of(links, link.key.identity);
    let main = main.filter(|_| link.key.leads != Leads::Anywhere && kind != Kind::Shard);
    let copied = main.and_then(|id| links.get(id)?.book.holders(kind, name));
    link.book.holders(kind, name).into_iter().chain(copied)
}

/// Whether the link that may lead anywhere has somebody who holds the topic or asks for it.
fn wants(link: &Link, kind: Kind, name: &Name) -> bool {
    let mut waiting = link.asks.iter().filter(|_| !link.is_open).chain(&link.held_back);
    link.book.is_held(kind, name)
        || link.book.is_asked(kind, name)
        || waiting.any(|ask| ask.kind == kind && ask.names.contains(name))
}

/// Whether any of the topics is of the sort that is copied; most subscriptions end their visit
/// here.
fn notifies(kind: Kind, names: &[Name]) -> bool {
    names.iter().any(|name| keyspace::may_notify(kind, name))
}

/// Primaries that have anything to tell.
fn primaries(slots: &SlotMap) -> impl Iterator<Item = &Arc<Member>> {
    slots.members.primaries().filter(|member| member.health != Health::Failed)
}

/// Whether what the node tells is told by nobody else. A primary that has been replaced tells the
/// same as its successor until the map says so, which is when its copies go.
fn is_primary(topology: &Topology, link: &Link) -> bool {
    let slots = topology.slots.as_ref().filter(|_| link.epoch == topology.epoch);
    slots
        .and_then(|slots| slots.members.get(link.node.id))
        .is_some_and(|member| member.role == MemberRole::Primary && member.health != Health::Failed)
}

/// Whether the node serves any slot, so that keys of clients change there.
fn has_slots(topology: &Topology, member: &Member) -> bool {
    let slots = topology.slots.as_ref();
    slots.is_some_and(|slots| slots.slots().iter().any(|it| it.owner == Some(member.node.id)))
}

/// The link of a user that may lead anywhere.
fn main_of(links: &Arena<Link>, identity: Identity) -> Option<LinkId> {
    find(links, LinkKey { identity, leads: Leads::Anywhere })
}

/// The links of a user to single nodes.
fn primaries_links(links: &Arena<Link>, identity: Identity) -> Vec<LinkId> {
    let is_one = |link: &Link| link.key.identity == identity && link.key.leads != Leads::Anywhere;
    links.keys().filter(|&id| links.get(id).is_some_and(is_one)).collect()
}

/// Longest wait of a subscription for a primary that does not answer.
const WAIT_MAX: Micros = SECOND;

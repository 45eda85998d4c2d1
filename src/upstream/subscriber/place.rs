//! Which topic belongs on which link, and which node a link leads to.
//!
//! Owns the choice among the nodes of a cluster, and the search for a link or its making. Never
//! moves a topic (`moving` does), never dials.
//!
//! What surprises: channels and patterns need *any* node, so their link stays where it is while
//! that node serves, also as a replica; every change of the connection costs messages.

use std::sync::Arc;

use super::{Leads, Link, LinkId, LinkKey};
use crate::arena::Arena;
use crate::clock::Micros;
use crate::pubsub::{Kind, Name};
use crate::refusal::Refusal;
use crate::route::slot::slot;
use crate::topology::Topology;
use crate::topology::slots::{Health, Member};
use crate::upstream::dial::Node;
use crate::upstream::identity::Identity;
use crate::worker::Worker;

/// The link of a topic for a client that acts as `identity`; it is dialled if there is none. The client would wait for
/// a node that is down for `patience`.
///
/// # Errors
/// What the client is told while the node is known to be down, or in a cluster: has been for that time.
pub fn link_for(
    worker: &mut Worker,
    topology: &Topology,
    identity: Identity,
    (kind, name): (Kind, &[u8]),
    patience: Micros,
) -> Result<LinkId, Refusal> {
    let (leads, mut node) = home(topology, kind, name);
    let found = find(&worker.links, LinkKey { identity, leads });
    if let Some(id) = found
        && let Some(link) = worker.links.get_mut(id)
    {
        link.follow(topology.epoch);
        if link.is_open {
            return Ok(id);
        }
    }
    // The link's own choice: a node that is known to be down need not be waited for while there are
    // others.
    if leads == Leads::Anywhere {
        node = anchor(worker, topology, found.and_then(|id| worker.links.get(id)));
    }
    if let Some(refusal) = node.refusal(worker.now) {
        worker.shared.map_is_old.notify_one();
        let since = node.health.away_since().unwrap_or(worker.now);
        // While the one node is known to be down, those who come wait for nobody; others may
        // replace it.
        if topology.slots.is_none() || worker.now.saturating_sub(since) >= patience {
            return Err(refusal);
        }
    }
    Ok(found.unwrap_or_else(|| link_to(worker, topology, LinkKey { identity, leads }, &node)))
}

/// The link of that key; it is dialled if there is none.
pub fn link_to(worker: &mut Worker, topology: &Topology, key: LinkKey, node: &Arc<Node>) -> LinkId {
    if let Some(id) = find(&worker.links, key) {
        return id;
    }
    let (now, tally) = (worker.now, Arc::clone(&worker.shared.tally));
    let (epoch, node) = (topology.epoch, Arc::clone(node));
    let id = worker.links.insert(|id| Link::new(id, key, epoch, node, tally, now));
    worker.links_to_dial.push(id);
    id
}

/// As many links as there are identities and primaries: few enough to look at each.
pub fn find(links: &Arena<Link>, key: LinkKey) -> Option<LinkId> {
    links.keys().find(|&id| links.get(id).is_some_and(|link| link.key == key))
}

/// Where a topic belongs, as far as is known.
pub fn home(topology: &Topology, kind: Kind, name: &[u8]) -> (Leads, Arc<Node>) {
    let slots = topology.slots.as_ref().filter(|_| kind == Kind::Shard);
    let owner = slots.and_then(|slots| {
        // Whoever else is asked knows the owner, or says in Redis's words that there is none.
        slots.owner(slot(name)).or_else(|| slots.members.primaries().next())
    });
    match owner {
        Some(member) => (to(topology, member), Arc::clone(&member.node)),
        None => (Leads::Anywhere, Arc::clone(&topology.node)),
    }
}

/// To this member and no other.
pub fn to(topology: &Topology, member: &Member) -> Leads {
    Leads::To { epoch: topology.epoch, node: member.node.id }
}

/// The node for a link that may lead anywhere: the one that it leads to while that serves, or the
/// one that PUBLISH is sent to, or whoever serves; if nobody does, the one that is to be tried
/// first.
pub fn anchor(worker: &Worker, topology: &Topology, link: Option<&Link>) -> Arc<Node> {
    let Some(slots) = &topology.slots else {
        return Arc::clone(&topology.node);
    };
    let link = link.filter(|link| link.epoch == topology.epoch);
    // A node that accepts and closes is no better than one that refuses.
    let is_shunned = |member: &Member| {
        link.is_some_and(|link| link.fruitless > 0 && link.node.id == member.node.id)
    };
    let serves = |member: &Member| member.health == Health::Online && !member.node.health.is_away();
    let favourites = link.map(|link| link.node.id).into_iter().chain([topology.node.id]);
    let favourites = favourites.filter_map(|id| slots.members.get(id));
    let mut all = favourites.chain(slots.members.primaries()).chain(slots.members.iter());
    let chosen = all.find(|member| serves(member) && !is_shunned(member)).or_else(|| {
        let members = slots.members.iter();
        members.min_by_key(|member| member.node.health.pause(worker.now))
    });
    chosen.map_or_else(|| Arc::clone(&topology.node), |member| Arc::clone(&member.node))
}

/// Topics as they may be asked for together: a cluster takes shard channels of one slot only.
pub fn askable(is_cluster: bool, kind: Kind, mut names: Vec<Name>) -> Vec<Vec<Name>> {
    if names.is_empty() {
        return Vec::new();
    }
    if !is_cluster || kind != Kind::Shard {
        return vec![names];
    }
    names.sort_by_cached_key(|name| slot(name));
    names.chunk_by(|a, b| slot(a) == slot(b)).map(<[Name]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_channels_are_asked_for_slot_by_slot_in_a_cluster_only() {
        let names =
            |all: &[&str]| -> Vec<Name> { all.iter().map(|n| n.as_bytes().into()).collect() };
        let mixed = || names(&["{a}1", "{b}1", "{a}2"]);
        assert_eq!(askable(false, Kind::Shard, mixed()), [mixed()]);
        assert_eq!(askable(true, Kind::Channel, mixed()), [mixed()]);
        let mut parts = askable(true, Kind::Shard, mixed());
        parts.sort();
        assert_eq!(parts, [names(&["{a}1", "{a}2"]), names(&["{b}1"])]);
        assert!(askable(true, Kind::Shard, Vec::new()).is_empty());
    }
}

//! From the follower to the workers: what is published, and when.
//!
//! Owns the making of snapshots: the slot map, the node for commands without a key, the facts and
//! the command table. Never publishes for a deployment that is no longer in force, and never from
//! an older snapshot than the newest: a worker may have published a redirect a microsecond ago
//! (INV-10).
//!
//! What surprises: making a snapshot may run twice, if a worker was quicker. So nothing in it
//! counts or logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::picture::Picture;
use super::{Follower, Topology};
use crate::config::SplitBrain;
use crate::findings::Finding;
use crate::topology::claims::Claims;
use crate::topology::facts::{Facts, Learnt};
use crate::topology::single;
use crate::topology::slots::{Health, Member, MemberRole, NodeId, SlotMap};
use crate::upstream::dial::Node;

// === impl Follower ===

impl Follower {
    /// Publishes the map that follows from `picture`. Returns whether anything in it is new.
    pub(super) fn publish(&self, picture: &Picture) -> bool {
        let mut is_news = false;
        let migrations = self.rounds.survey.migrations();
        self.swap(|current| {
            let empty = SlotMap::empty();
            let map = current.slots.as_deref().unwrap_or(&empty);
            let next = picture.over(map, Arc::clone(&migrations));
            is_news = differ(map, &next);
            // Chosen with the map, so that both change at once for the workers.
            let node = self.keyless(&current.node, &next);
            Topology { node, ..current.with_slots(next) }
        });
        is_news
    }

    /// Publishes the slots on the move, if they are others than those of the map.
    pub(super) fn publish_migrations(&self) {
        let migrations = self.rounds.survey.migrations();
        // Each snapshot makes all workers look again: not without need.
        if self.map().migrations == migrations {
            return;
        }
        self.swap(|current| match &current.slots {
            Some(map) => {
                let (members, slots) = (Arc::clone(&map.members), map.slots().to_vec());
                let migrations = Arc::clone(&migrations);
                let version = map.version + 1;
                current.with_slots(SlotMap::new(
                    version,
                    map.fetched_at,
                    members,
                    migrations,
                    slots,
                ))
            }
            None => current.clone(),
        });
    }

    /// Says which slots two claim, and publishes them if they are others than those of the snapshot.
    pub(super) fn publish_claims(&self, split: &BTreeMap<u16, (NodeId, NodeId)>, map: &SlotMap) {
        let topology = self.shared.topology.load();
        let named = |id| map.members.get(id).map(|member| member.node.name.clone());
        let slots = split.iter().filter_map(|(&slot, &(one, other))| {
            let claimants = [named(one)?, named(other)?];
            Some((slot, claimants))
        });
        let slots: BTreeMap<u16, [String; 2]> = slots.collect();
        self.shared.findings.set(SOURCE, slots_split(&slots).into_iter().collect());
        let refuses = topology.node.settings.guards.split_brain == SplitBrain::RefuseWrites;
        let claims = Claims::of_slots(slots).filter(|_| refuses).map(Arc::new);
        if topology.claims != claims {
            self.swap(|current| Topology { claims: claims.clone(), ..current.clone() });
        }
    }

    /// Publishes what a node has told about itself.
    pub(super) fn note_learnt(&mut self, learnt: Option<(Arc<Node>, Learnt)>) {
        let Some((node, mut learnt)) = learnt else {
            return;
        };
        self.learnt_of = Some(node.id);
        // SELECT of anything but 0 is refused by every cluster; what was counted by trying is not
        // needed.
        learnt.facts.databases = 1;
        // It may have left while it was answering; then what it said is published all the same, and
        // replaced soon.
        let contact = self.contacts.get(&node.id).map(|it| &it.contact);
        // Strangers still have to authenticate themselves, even if we no longer have to.
        learnt.facts.wants_auth |= contact.is_some_and(|contact| contact.wants_auth());
        learnt.facts.version = self.lowest_version().unwrap_or(learnt.facts.version);
        let table = Arc::new(single::table(&node, learnt.commands));
        let facts = Arc::new(learnt.facts);
        self.swap(|current| Topology {
            table: Arc::clone(&table),
            facts: Some(Arc::clone(&facts)),
            ..current.clone()
        });
        self.report();
    }

    /// Publishes what has changed without a word from the cluster: the node for commands without a
    /// key has fallen silent, or a member with an older version has joined.
    pub(super) fn publish_corrections(&self) {
        let topology = self.shared.topology.load();
        let Some(map) = topology.slots.as_ref().filter(|_| topology.epoch == self.epoch) else {
            return;
        };
        let node = self.keyless(&topology.node, map);
        if node.id != topology.node.id {
            self.swap(|current| Topology { node: Arc::clone(&node), ..current.clone() });
        }
        let known = topology.facts.as_ref().map(|facts| &facts.version);
        let lowest = self.lowest_version();
        if let (Some(known), Some(lowest)) = (known, lowest)
            && *known != lowest
        {
            self.swap(|current| {
                let version = lowest.clone();
                let facts = current.facts.as_ref().map(|it| Facts { version, ..(**it).clone() });
                Topology { facts: facts.map(Arc::new), ..current.clone() }
            });
        }
    }

    /// Clients choose commands by the version that HELLO shows, so every node must know them.
    fn lowest_version(&self) -> Option<String> {
        let versions = self.contacts.values().filter_map(|it| it.contact.version());
        versions.min_by_key(|version| ordinal(version))
    }

    /// A node is well that was not: the workers' back-off ends.
    pub(super) fn publish_recovery(&self) {
        self.swap(|current| Topology { recoveries: current.recoveries + 1, ..current.clone() });
    }

    /// Publishes what follows from the newest snapshot, unless that belongs to another deployment.
    fn swap(&self, mut next: impl FnMut(&Topology) -> Topology) {
        self.shared.topology.rcu(|current| match current.epoch == self.epoch {
            true => Arc::new(next(current).guarded()),
            false => Arc::clone(current),
        });
    }

    /// Who gets the commands without a key: whoever gets them, for as long as it is a primary that
    /// is well; then another one.
    fn keyless(&self, present: &Arc<Node>, map: &SlotMap) -> Arc<Node> {
        let is_up = |id: NodeId| self.contacts.get(&id).is_some_and(|it| it.contact.is_up());
        let is_fit = |member: &Member| {
            member.role == MemberRole::Primary
                && member.health == Health::Online
                && is_up(member.node.id)
        };
        if map.members.get(present.id).is_some_and(|member| is_fit(member)) {
            return Arc::clone(present);
        }
        // The first by number, so that all workers, and all turns, agree.
        let fit = map.members.primaries().find(|member| is_fit(member));
        let any = || map.members.primaries().find(|member| member.health == Health::Online);
        fit.or_else(any).map_or_else(|| Arc::clone(present), |member| Arc::clone(&member.node))
    }
}

/// What is said of slots that two claim: one finding, however many there are.
fn slots_split(slots: &BTreeMap<u16, [String; 2]>) -> Option<Finding> {
    let (slot, [one, other]) = slots.first_key_value()?;
    let count = slots.len();
    let text = format!(
        "two masters claim {count} slots, slot {slot} for instance {one} and {other}: the cluster is divided, or was put \
         together wrongly; what is written to one of them will be lost"
    );
    let repair = format!(
        "compare CLUSTER NODES of {one} and {other}; save the keys that only the one with the lower config epoch has \
         (CLUSTER GETKEYSINSLOT {slot} 100, DUMP), then let them meet: redis-cli CLUSTER MEET"
    );
    Some(Finding::critical("cluster_slots_split", "slots", text, repair))
}

/// Whether owners or members differ.
fn differ(map: &SlotMap, next: &SlotMap) -> bool {
    let members = |map: &SlotMap| -> Vec<_> {
        let all = map.members.iter();
        all.map(|it| (it.node.id, it.cluster_id.clone(), it.role, it.primary, it.health)).collect()
    };
    // Compared by number: a node that was replaced at the same address is another member, below.
    let owners = map.slots().iter().zip(next.slots()).any(|(a, b)| a.owner != b.owner);
    owners || members(map) != members(next)
}

/// Under this name the board keeps what this follower has found.
pub const SOURCE: &str = "cluster";

/// A version as numbers, to be compared. What is no number counts as 0.
fn ordinal(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_two_claim_are_one_finding_which_names_both() {
        assert_eq!(slots_split(&BTreeMap::new()), None);
        let names = || ["a:1".to_owned(), "b:2".to_owned()];
        let found = slots_split(&BTreeMap::from([(7, names()), (9, names())])).unwrap();
        assert!(
            found.text.starts_with("two masters claim 2 slots, slot 7 for instance a:1 and b:2:")
        );
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(ordinal("7.0.15") > ordinal("7.0.9"));
        assert!(ordinal("6.2") < ordinal("7.0.0"));
    }
}

//! The shape of a cluster: whether it could lose a node.
//!
//! Owns the checks that only the slot map answers: primaries, replicas of each shard, and how evenly
//! slots lie. Pure. Split claims, open slots and orphaned keys are the follower's own.
//!
//! What surprises: two primaries are worse than one or three. Neither has a majority, so no failure
//! is ever agreed upon.

use crate::findings::Finding;
use crate::topology::slots::{Health, SlotMap};

/// What is amiss with the shape; `cluster` is what the findings call it.
#[must_use]
pub fn shape(map: &SlotMap, cluster: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let slots = |id| map.slots().iter().filter(|slot| slot.owner == Some(id)).count();
    let shards: Vec<_> = map
        .members
        .primaries()
        .map(|primary| (primary, slots(primary.node.id)))
        .filter(|(_, slots)| *slots > 0)
        .collect();
    if shards.is_empty() {
        // Nothing is known yet.
        return found;
    }
    if shards.len() < 3 {
        found.push(Finding::warning(
            "cluster_few_primaries",
            cluster,
            format!(
                "{} primaries serve slots: without three no majority is left when one fails, and \
                 no replica is promoted",
                shards.len()
            ),
            "add primaries: redis-cli --cluster add-node, then --cluster rebalance".to_owned(),
        ));
    }
    let mean = shards.iter().map(|(_, slots)| slots).sum::<usize>() / shards.len();
    for (primary, slots) in &shards {
        let name = &primary.node.name;
        let mut replicas = map.members.replicas_of(primary.node.id);
        if !replicas.any(|replica| replica.health != Health::Failed) {
            found.push(Finding::warning(
                "cluster_shard_without_replica",
                name,
                format!("no replica of it is well: if it fails, {slots} slots are down"),
                format!("redis-cli --cluster add-node NEW {name} --cluster-slave"),
            ));
        }
        if *slots > mean * 3 / 2 {
            found.push(Finding::info(
                "cluster_slots_uneven",
                name,
                format!("it serves {slots} slots, the mean is {mean}"),
                format!("redis-cli --cluster rebalance {name}, unless it was weighted on purpose"),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Topology;
    use crate::topology::slots::{Member, MemberRole, Members, NodeId, Slot};
    use crate::upstream::dial::Node;
    use std::sync::Arc;

    /// Primaries 0.. with so many slots each, and replicas of some of them.
    fn map(slots: &[usize], replicas: &[u16]) -> SlotMap {
        let settings = Topology::for_tests("redis-cluster://h:1").node.settings.clone();
        let member = |id: u16, primary: u16| Member {
            node: Arc::new(Node::new(NodeId(id), settings.clone(), None)),
            cluster_id: "x".into(),
            role: if id == primary { MemberRole::Primary } else { MemberRole::Replica },
            primary: NodeId(primary),
            config_epoch: 1,
            health: Health::Online,
            zone: None,
        };
        let primaries = (0..slots.len() as u16).map(|id| member(id, id));
        let replicas = replicas.iter().zip(100..).map(|(primary, id)| member(id, *primary));
        let members: Vec<_> =
            primaries.chain(replicas).map(|it| (Arc::new(it), Vec::new())).collect();
        let owners = slots.iter().enumerate().flat_map(|(id, count)| {
            let slot = Slot { owner: Some(NodeId(id as u16)), since: 1, patched_at: 0 };
            std::iter::repeat_n(slot, *count)
        });
        SlotMap::new(1, 0, Arc::new(Members::new(members)), Arc::from([]), owners.collect())
    }

    #[test]
    fn a_cluster_that_can_lose_a_node_has_no_findings() {
        let ids = |map: &SlotMap| shape(map, "c").iter().map(|it| it.id).collect::<Vec<_>>();
        assert!(ids(&SlotMap::empty()).is_empty());
        assert!(ids(&map(&[5_461, 5_462, 5_461], &[0, 1, 2])).is_empty());
        // A primary without slots waits for some, and is missed by nobody.
        assert!(ids(&map(&[5_461, 5_462, 5_461, 0], &[0, 1, 2])).is_empty());
        assert_eq!(ids(&map(&[8_192, 8_192], &[0, 1])), ["cluster_few_primaries"]);
        assert_eq!(ids(&map(&[100, 100, 100], &[0, 2])), ["cluster_shard_without_replica"]);
        assert_eq!(ids(&map(&[600, 300, 100], &[0, 1, 2])), ["cluster_slots_uneven"]);
    }
}

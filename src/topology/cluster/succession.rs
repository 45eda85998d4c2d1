//! Who takes over from a primary that is lost.
//!
//! Owns the looking for its successor while a failover may be under way: its replicas are asked for their ROLE ten
//! times a second, and the first that says it is a primary is asked for the map. Never believes it: the map that
//! follows is weighed as any other.
//!
//! What surprises: an election shows nowhere before it is won. An epoch rises when it begins, and nothing that a
//! glance shows changes when it ends, so asking anybody for the map would have to hit the right moment. ROLE costs a
//! server nothing, and is none of the questions about the topology that are rationed.

use tokio::time::{Instant, timeout_at};

use super::{Acquaintance, Follower, GLANCE};
use crate::clock::{self, Micros};
use crate::stats::labels::RefreshTrigger;
use crate::topology::pulse::{Role, read_role};
use crate::topology::slots::NodeId;

// === impl Follower ===

impl Follower {
    /// Looks for the successors of primaries that have been lost for no longer than a failover takes.
    pub(super) async fn expect_successors(&mut self) {
        let lost = self.lost_primaries();
        if lost.is_empty() {
            return;
        }
        let map = self.map();
        let heirs = lost.iter().flat_map(|&primary| map.members.replicas_of(primary));
        let heirs: Vec<NodeId> = heirs.map(|replica| replica.node.id).collect();
        match self.roles_of(&heirs).await {
            // Nobody who could tell: anybody may know more than we do.
            roles if roles.is_empty() => self.pace.hurry(RefreshTrigger::Glance, clock::micros()),
            roles => {
                let heir = roles.iter().find(|(_, role)| matches!(role, Role::Primary { .. }));
                if let Some(&(heir, _)) = heir {
                    self.heir = Some(heir);
                    self.pace.hurry(RefreshTrigger::Glance, clock::micros());
                }
            }
        }
    }

    /// Primaries that do not answer, and have not for no longer than a failover takes. While there
    /// are any, fewer nodes are asked at once.
    pub(super) fn lost_primaries(&mut self) -> Vec<NodeId> {
        let (map, now) = (self.map(), clock::micros());
        let mut lost = Vec::new();
        for primary in map.members.primaries() {
            let Some(it) = self.contacts.get_mut(&primary.node.id) else {
                continue;
            };
            // Whom we have just heard of, and are about to dial, is not lost.
            let is_lost = !it.contact.is_up() && (it.was_up || it.was_down);
            it.lost_at = if is_lost { it.lost_at.or(Some(now)) } else { None };
            if it.lost_at.is_some_and(|at| now.saturating_sub(at) < SUCCESSOR_WITHIN) {
                lost.push(primary.node.id);
            }
        }
        self.pace.expect(!lost.is_empty());
        lost
    }

    /// What these nodes say that they are, as far as they say it at once.
    async fn roles_of(&self, ids: &[NodeId]) -> Vec<(NodeId, Role)> {
        let contacts = ids.iter().filter_map(|id| self.contacts.get(id));
        let able = contacts.filter(|it| it.can_tell()).map(|it: &Acquaintance| &it.contact);
        let asked: Vec<_> =
            able.filter_map(|contact| Some((contact.node.id, contact.ask(&[ROLE])?))).collect();
        let deadline = Instant::from_std(clock::now()) + GLANCE;
        let mut roles = Vec::new();
        for (id, replies) in asked {
            let Ok(Ok(replies)) = timeout_at(deadline, replies).await else { continue };
            roles.extend(replies.first().and_then(read_role).map(|role| (id, role)));
        }
        roles
    }
}

/// What is asked.
const ROLE: &[&[u8]] = &[b"ROLE"];
/// How long a lost primary's successor is looked for with all that may be asked: some failovers
/// of a `cluster-node-timeout` of several seconds. After that it is one of the usual signs.
const SUCCESSOR_WITHIN: Micros = 30 * clock::SECOND;

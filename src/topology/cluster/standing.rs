//! Who is well, and what that means for readiness.
//!
//! Owns what follows from a control connection that was lost or made, and the words about it:
//! readiness is given up only when no shard can be reached. Never dials; contacts do.
//!
//! What surprises: a slot without an owner does not make us unready. A cluster with a dead shard
//! serves the others, and taking every proxy out of its Service would turn one lost shard into an
//! outage.

use tokio::time::timeout;

use super::contact::Standing;
use super::{Acquaintance, Follower, GLANCE};
use crate::clock;
use crate::stats::control;
use crate::stats::labels::RefreshTrigger;
use crate::topology::slots::{Health, MemberRole, SlotMap};
use crate::upstream::dial::DialError;

// === impl Follower ===

impl Follower {
    /// Some contact has changed its standing.
    pub(super) fn note_standings(&mut self) {
        // Before the first map each node that answers is news, afterwards only one that had been
        // lost.
        let is_map_empty = self.map().members.iter().next().is_none();
        let (mut is_recovered, mut is_lost, mut is_first) = (false, false, false);
        for acquaintance in self.contacts.values_mut() {
            match acquaintance.contact.standing() {
                Standing::Up if !acquaintance.was_up => {
                    is_recovered |= acquaintance.was_down;
                    is_first |= is_map_empty;
                    (acquaintance.was_up, acquaintance.was_down) = (true, false);
                }
                Standing::Down(_) if acquaintance.was_up || !acquaintance.was_down => {
                    is_lost |= acquaintance.was_up;
                    (acquaintance.was_up, acquaintance.was_down) = (false, true);
                }
                Standing::Dialling | Standing::Up | Standing::Down(_) => {}
            }
        }
        // Otherwise clients would wait for the rest of a back-off that has no reason any more.
        if is_recovered {
            self.publish_recovery();
        }
        if is_recovered || is_lost || is_first {
            self.pace.hurry(RefreshTrigger::Connection, clock::micros());
        }
        self.report();
    }

    /// Whether something is amiss that the cluster may be about to mend.
    pub(super) fn is_anxious(&self) -> bool {
        let map = self.map();
        let is_up = |id| self.contacts.get(&id).is_some_and(|it| it.contact.is_up());
        let mut primaries =
            map.members.primaries().filter(|it| self.contacts.contains_key(&it.node.id));
        self.pace.is_puzzled(clock::micros()) || primaries.any(|primary| !is_up(primary.node.id))
    }

    /// Looks whether some node's idea of the cluster's epoch, size or state has changed. That costs
    /// a node next to nothing, so it is done each second, and ten times a second while something is
    /// amiss.
    pub(super) async fn glance(&mut self) {
        // Another one each time: one that is cut off would never show us a change.
        let picked = self.pick(&[], 1);
        let Some(acquaintance) = picked.first().and_then(|id| self.contacts.get_mut(id)) else {
            return;
        };
        let Some(replies) = acquaintance.contact.ask(&[INFO]) else {
            return;
        };
        let Ok(Ok(replies)) = timeout(GLANCE, replies).await else {
            return;
        };
        let sight = replies.first().map(|reply| sight(reply)).unwrap_or_default();
        // Compared with what the same node said before: two nodes may differ for long in how many
        // others they know.
        let before = acquaintance.sight.replace(sight);
        if before.is_some() && before != acquaintance.sight {
            self.pace.hurry(RefreshTrigger::Glance, clock::micros());
        }
    }

    /// Starts to learn the facts of the node that has the commands without a key, unless they are
    /// known.
    pub(super) fn keep_learning(&mut self) {
        let topology = self.shared.topology.load_full();
        if self.learning.is_some() || topology.epoch != self.epoch {
            return;
        }
        // The command table is large, and hardly differs between members: one of them is asked,
        // once.
        let is_known = self.learnt_of == Some(topology.node.id) && topology.facts.is_some();
        let acquaintance = self.contacts.get(&topology.node.id);
        if is_known || acquaintance.is_none_or(|it| !it.contact.is_up()) {
            return;
        }
        let learnt = acquaintance.and_then(|it| it.contact.learn());
        self.learning = learnt.map(|learnt| (topology.node.clone(), learnt));
    }

    /// Says whether we can serve, and how old the map is.
    pub(super) fn report(&mut self) {
        let map = self.map();
        control::slot_map_age(clock::micros().saturating_sub(map.fetched_at));
        for role in MemberRole::ALL {
            for health in Health::ALL {
                let members = map.members.iter();
                let count = members.filter(|it| it.role == role && it.health == health).count();
                control::members(role.as_str(), health.as_str(), count);
            }
        }
        self.readiness.set_upstream(self.judge(&map));
        self.readiness.set_notes(self.notes(&map));
    }

    /// What is amiss although we can serve: slots of nobody, and primaries that cannot be reached.
    fn notes(&self, map: &SlotMap) -> Vec<String> {
        let uncovered = map.uncovered();
        let is_known = map.members.iter().next().is_some();
        let hole = (uncovered > 0 && is_known).then(|| {
            format!("{uncovered} slots are served by nobody: redis-cli --cluster check tells which")
        });
        // Counted only for primaries in trouble, which are few.
        let owns = |id| map.slots().iter().filter(|slot| slot.owner == Some(id)).count();
        let lost = map.members.primaries().filter_map(|primary| {
            let trouble = self.contacts.get(&primary.node.id)?.trouble()?;
            // A primary without slots is missed by nobody.
            let slots = Some(owns(primary.node.id)).filter(|&slots| slots > 0)?;
            Some(format!("{slots} slots are down: {trouble}"))
        });
        hole.into_iter().chain(lost).take(WORDS_MAX).collect()
    }

    /// Whether a shard can be reached; if not, why.
    fn judge(&self, map: &SlotMap) -> Result<(), String> {
        if self.contacts.values().any(|it| it.contact.is_up() && it.contact.is_stranger()) {
            // Well, as far as a stranger can see: the first client that proves a name lends it to
            // us.
            return Ok(());
        }
        let of = |id| self.contacts.get(&id);
        let mut primaries = map.members.primaries();
        // One is enough: the commands of the other shards are refused one by one, with reasons.
        if primaries.any(|it| of(it.node.id).is_some_and(|it| it.contact.is_up())) {
            return Ok(());
        }
        let known = map.members.primaries().filter_map(|it| of(it.node.id));
        let troubles: Vec<String> =
            known.filter_map(Acquaintance::trouble).take(WORDS_MAX).collect();
        if !troubles.is_empty() {
            return Err(format!("no shard of the cluster can be reached: {}", troubles.join("; ")));
        }
        let seeds = self.contacts.values();
        let troubles: Vec<String> =
            seeds.filter_map(Acquaintance::trouble).take(WORDS_MAX).collect();
        if troubles.is_empty() {
            return Err(
                "the cluster has not told its nodes: is it a cluster, and may our user ask \
                        CLUSTER SLOTS, SHARDS and NODES?"
                    .to_owned(),
            );
        }
        Err(format!("no seed of the cluster can be reached: {}", troubles.join("; ")))
    }
}

// === impl Acquaintance ===

impl Acquaintance {
    /// Why it cannot be reached, with the next step.
    fn trouble(&self) -> Option<String> {
        match self.contact.standing() {
            Standing::Down(error) => Some(words(&self.contact.node.name, &error)),
            Standing::Dialling | Standing::Up => None,
        }
    }
}

/// The lines of CLUSTER INFO that change when the cluster does, and only then.
fn sight(reply: &[u8]) -> Vec<u8> {
    let lines = reply.split(|&byte| byte == b'\n');
    let telling = lines.filter(|line| TELLING.iter().any(|name| line.starts_with(name)));
    telling.flatten().copied().collect()
}

/// What `/readyz` says of a connection that failed: the cause is the word that the operations
/// manual explains.
fn words(node: &str, error: &DialError) -> String {
    format!("{node} is down ({}: {})", error.cause(), error.text)
}

/// What is glanced at.
const INFO: &[&[u8]] = &[b"CLUSTER", b"INFO"];
/// Fields of CLUSTER INFO.
const TELLING: [&[u8]; 5] = [
    b"cluster_state:",
    b"cluster_slots_assigned:",
    b"cluster_known_nodes:",
    b"cluster_size:",
    b"cluster_current_epoch:",
];
/// Most nodes that are named in one sentence.
const WORDS_MAX: usize = 5;

//! Many views, one picture: whom to believe.
//!
//! Owns the weighing of what several nodes said within one refresh ([`Picture::compose`]), and the
//! laying of the result over the map in force ([`Picture::over`]). Pure: no clock, no socket. Never
//! edits a map (INV-10).
//!
//! What surprises: nothing is believed for being the newest. Between two claims to a slot the
//! higher config epoch decides, whenever they were made; and a slot that nobody claims stays with
//! its last owner, because a command that is sent there in vain gets a redirect, and one that is
//! sent nowhere gets an error.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::directory::Directory;
use super::view::{Seen, View};
use crate::clock::Micros;
use crate::config::Endpoint;
use crate::route::slot::SLOTS;
use crate::stats::labels::RefreshOutcome;
use crate::topology::slots::{
    Health, Member, MemberRole, Members, Migration, NodeId, Slot, SlotMap,
};

/// What one node said, after [`View::resolve`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its number.
    pub from: NodeId,
    /// Its words.
    pub view: View,
}

/// What was learnt in one refresh.
#[derive(Debug)]
pub struct Picture {
    /// Everybody that can be reached somewhere.
    members: Arc<Members>,
    /// The best claim to each slot.
    claims: Vec<Option<Claim>>,
    /// Who answered for itself, by what it said of itself: its own claims can be taken at their
    /// word.
    spoke: HashSet<NodeId>,
    /// Who cannot be asked: nobody's redirect will contradict what is believed of them.
    away: HashSet<NodeId>,
    /// The cluster is another one than that of the map: epochs of the two cannot be compared.
    is_new_generation: bool,
    /// When the first question was sent.
    began: Micros,
}

/// Somebody serves a slot, somebody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    owner: NodeId,
    epoch: u64,
}

/// Why no picture can be made of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Nobody said anything.
    Silence,
    /// All who answered know older epochs than the map in force.
    Stale,
    /// Those who answered belong to different clusters, and none has the majority.
    Divided,
    /// There are no numbers left for addresses, or none of the nodes has an address.
    NoAddresses,
}

// === impl Unusable ===

impl Unusable {
    /// The label of metrics.
    #[must_use]
    pub fn outcome(self) -> RefreshOutcome {
        match self {
            Self::Silence | Self::NoAddresses => RefreshOutcome::Silence,
            Self::Stale => RefreshOutcome::Stale,
            Self::Divided => RefreshOutcome::Divided,
        }
    }

    /// What the log says.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Silence => "no node answered CLUSTER NODES, SHARDS or SLOTS in time",
            Self::Stale => "the nodes that answered know older epochs than the map in force",
            Self::Divided => "the nodes that answered belong to different clusters",
            Self::NoAddresses => "no node has an address that clients may use",
        }
    }
}

// === impl Picture ===

impl Picture {
    /// Weighs `answers` to questions of which the first was sent at `began`, as seen from the map in force.
    /// Nodes that `is_away` cannot be asked.
    ///
    /// # Errors
    /// [`Unusable`]: the map in force stays.
    pub fn compose(
        answers: &[Answer],
        map: &SlotMap,
        directory: &mut Directory,
        began: Micros,
        is_away: impl Fn(NodeId) -> bool,
    ) -> Result<Self, Unusable> {
        if answers.is_empty() {
            return Err(Unusable::Silence);
        }
        let (answers, is_new_generation) = of_one_generation(answers, map)?;
        let nodes = best_descriptions(&answers);
        let ids = addresses(&nodes, directory);
        if ids.is_empty() {
            return Err(Unusable::NoAddresses);
        }
        let members = Arc::new(members(&nodes, &ids, directory));
        let claims = claims(&answers, &ids);
        let spoke = spoke(answers.iter().copied())
            .filter_map(|seen| ids.get(&*seen.id).map(|(id, _)| *id))
            .collect();
        let away = members.iter().map(|member| member.node.id).filter(|&id| is_away(id)).collect();
        Ok(Self { members, claims, spoke, away, is_new_generation, began })
    }

    /// Slots that nobody claims.
    #[must_use]
    pub fn unclaimed(&self) -> usize {
        self.claims.iter().filter(|claim| claim.is_none()).count()
    }

    /// Whether epochs begin anew with this picture.
    #[must_use]
    pub fn is_new_generation(&self) -> bool {
        self.is_new_generation
    }

    /// The map that follows `map`, with these slots on the move.
    #[must_use]
    pub fn over(&self, map: &SlotMap, migrations: Arc<[Migration]>) -> SlotMap {
        let version = map.version + 1;
        let slots = map.slots().iter().zip(&self.claims);
        let slots =
            slots.map(|(&slot, claim)| self.next(map, slot, claim.as_ref(), version)).collect();
        let fetched_at = map.fetched_at.max(self.began);
        SlotMap::new(version, fetched_at, Arc::clone(&self.members), migrations, slots)
    }

    /// The entry that follows `slot`.
    fn next(&self, map: &SlotMap, slot: Slot, claim: Option<&Claim>, version: u32) -> Slot {
        let stays = slot.owner.filter(|&owner| self.members.get(owner).is_some());
        let owner = match (stays, claim) {
            // The redirect is younger than the question.
            (Some(_), _) if slot.patched_at > self.began => return slot,
            (Some(owner), Some(claim)) if claim.owner == owner => Some(owner),
            (Some(owner), Some(claim)) if self.may_replace(map, owner, slot, claim) => {
                Some(claim.owner)
            }
            // A map with holes never replaces a whole one; and what a redirect has said is still
            // not confirmed.
            (Some(_), _) => return slot,
            (None, claim) => claim.map(|claim| claim.owner),
        };
        let since = if owner == slot.owner { slot.since } else { version };
        Slot { owner, since, patched_at: self.vouched(map, slot, owner, claim) }
    }

    /// Until its owner itself has spoken, or its new epoch is known, a slot stays with whom a redirect or the former owner
    /// gave it to: they may know the new owner by an old epoch, and others still by none.
    fn vouched(
        &self,
        map: &SlotMap,
        slot: Slot,
        owner: Option<NodeId>,
        claim: Option<&Claim>,
    ) -> Micros {
        let known = |id| map.members.get(id).map_or(0, |member| member.config_epoch);
        // With a new epoch it is the claim that it made when it took the slot.
        let is_newer = |owner| claim.is_some_and(|claim| claim.epoch > known(owner));
        if owner.is_none_or(|owner| self.spoke.contains(&owner) || is_newer(owner)) {
            return 0;
        }
        match (slot.owner, claim) {
            (Some(former), Some(claim)) if Some(former) != owner => {
                if claim.epoch < known(former) {
                    self.began
                } else {
                    0
                }
            }
            _ => slot.patched_at,
        }
    }

    /// INV-10: whether the claim may take a slot from its present owner, which is still a member.
    fn may_replace(&self, map: &SlotMap, owner: NodeId, slot: Slot, claim: &Claim) -> bool {
        let known = |id| map.members.get(id).map_or(0, |member| member.config_epoch);
        let epoch = known(owner);
        // A redirect tells no epoch, but it is younger than every claim that we had heard of: what a
        // node repeats that has not heard of the move is none against it. The same holds for what
        // the former owner has given up.
        let is_news = slot.patched_at == 0 || claim.epoch > known(claim.owner);
        // An epoch may be news to us and old all the same: the former owner's, of which we hear only
        // now. So somebody else's word against a redirect is not enough as long as the owner is there:
        // were it wrong, it would redirect.
        let is_proven =
            slot.patched_at == 0 || self.spoke.contains(&claim.owner) || self.away.contains(&owner);
        // The owner itself was asked, and does not claim it: then there is nothing to be weighed.
        // Its own claim, had it made one, would be the best one or have lost to this one.
        let is_heard = self.is_new_generation || self.spoke.contains(&owner);
        is_heard || (is_news && is_proven && claim.epoch >= epoch)
    }
}

/// Whether one of the answers is by a node that knows nobody of the map: one that was reset, or a
/// whole other cluster.
#[must_use]
pub fn has_stranger(answers: &[Answer], map: &SlotMap) -> bool {
    let known: HashSet<&str> = map.members.iter().map(|member| &*member.cluster_id).collect();
    let is_stranger =
        |answer: &Answer| !answer.view.nodes.iter().any(|seen| known.contains(&*seen.id));
    !known.is_empty() && answers.iter().any(is_stranger)
}

/// The node whose word is missing: an answer gives one of its slots to somebody whose epoch is
/// lower, or a slot that a redirect gave it to somebody with an epoch that is news. If it agrees, that
/// is so; otherwise whoever said it is behind.
#[must_use]
pub fn witness(answers: &[Answer], map: &SlotMap) -> Option<NodeId> {
    let spoke: HashSet<&str> = spoke(answers.iter()).map(|seen| &*seen.id).collect();
    let views = answers.iter().map(|answer| &answer.view);
    let doubted = views.filter_map(|view| contradicted(view, map).or_else(|| disputed(view, map)));
    doubted
        .filter(|member| !spoke.contains(&*member.cluster_id))
        .map(|member| member.node.id)
        .next()
}

/// Whether two of the answers give a slot to different nodes.
#[must_use]
pub fn is_divided(answers: &[Answer]) -> bool {
    let mut owners: Vec<Option<&str>> = vec![None; usize::from(SLOTS)];
    let seen = answers.iter().flat_map(|answer| &answer.view.nodes);
    let claims = seen.flat_map(|seen| slots_of(seen).map(|slot| (slot, &*seen.id)));
    claims.into_iter().any(|(slot, id)| {
        let owner = owners.get_mut(usize::from(slot)).and_then(|owner| owner.replace(id));
        owner.is_some_and(|owner| owner != id)
    })
}

/// Those of the answers that count, and whether they are of another generation than the map.
///
/// A generation is one set of ids; nodes come and go within it. So answers that share no id with
/// the map are of another, and those that share some are of the same.
fn of_one_generation<'a>(
    answers: &'a [Answer],
    map: &SlotMap,
) -> Result<(Vec<&'a Answer>, bool), Unusable> {
    let known: HashMap<&str, &Arc<Member>> =
        map.members.iter().map(|member| (&*member.cluster_id, member)).collect();
    let is_known =
        |answer: &&Answer| answer.view.nodes.iter().any(|seen| known.contains_key(&*seen.id));
    // An empty answer cannot be here: every node lists itself.
    let (ours, foreign): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(is_known);
    let allied = allied(&foreign);
    if known.is_empty() || allied.len() * 2 > answers.len() {
        let answers = if known.is_empty() { foreign } else { allied };
        return Ok((answers, !known.is_empty()));
    }
    if ours.is_empty() {
        return Err(Unusable::Divided);
    }
    let current: Vec<&Answer> =
        ours.into_iter().filter(|answer| !is_behind(&answer.view, map, &known)).collect();
    if current.is_empty() { Err(Unusable::Stale) } else { Ok((current, false)) }
}

/// The largest group of answers that know of one another.
fn allied<'a>(answers: &[&'a Answer]) -> Vec<&'a Answer> {
    let knows = |answer: &Answer, other: &Answer| {
        other.view.nodes.iter().any(|seen| answer.view.get(&seen.id).is_some())
    };
    let groups = answers.iter().map(|answer| {
        answers.iter().copied().filter(|other| knows(answer, other)).collect::<Vec<_>>()
    });
    groups.max_by_key(Vec::len).unwrap_or_default()
}

/// Whether the view is older than the map: it comes from a node that is cut off, or has not heard
/// yet. It then knows an older epoch of some primary, or gives a slot to somebody who lost it.
fn is_behind(view: &View, map: &SlotMap, known: &HashMap<&str, &Arc<Member>>) -> bool {
    let is_older = |seen: &Seen| {
        known.get(&*seen.id).is_some_and(|member| {
            member.role == MemberRole::Primary && seen.epoch < member.config_epoch
        })
    };
    let mut primaries = view.nodes.iter().filter(|seen| seen.role == MemberRole::Primary);
    primaries.any(|seen| seen.epoch > 0 && is_older(seen)) || contradicted(view, map).is_some()
}

/// A member whose slot the view gives to a lower epoch, although the view knows the member and is
/// not its own.
fn contradicted<'m>(view: &View, map: &'m SlotMap) -> Option<&'m Arc<Member>> {
    let myself = view.myself().map(|seen| &*seen.id);
    let claims = view.nodes.iter().filter(|seen| seen.epoch > 0);
    let claims = claims.flat_map(|seen| slots_of(seen).map(move |slot| (slot, seen)));
    claims.into_iter().find_map(|(slot, seen)| {
        // A redirect tells no epoch: what it said is not known to be higher.
        let owner = map.owner(slot).filter(|_| map.slot(slot).patched_at == 0)?;
        let is_other = owner.cluster_id != seen.id && Some(&*owner.cluster_id) != myself;
        let is_lower = seen.epoch < owner.config_epoch;
        (is_other && is_lower && view.get(&owner.cluster_id).is_some()).then_some(owner)
    })
}

/// A member to which a redirect gave a slot that somebody else has by an epoch that is news.
fn disputed<'m>(view: &View, map: &'m SlotMap) -> Option<&'m Arc<Member>> {
    let known: HashMap<&str, u64> =
        map.members.iter().map(|member| (&*member.cluster_id, member.config_epoch)).collect();
    let is_news = |seen: &&Seen| known.get(&*seen.id).is_none_or(|&epoch| seen.epoch > epoch);
    let claims = view.nodes.iter().filter(is_news);
    let claims = claims.flat_map(|seen| slots_of(seen).map(move |slot| (slot, &seen.id)));
    claims.into_iter().find_map(|(slot, id)| {
        let owner = map.owner(slot).filter(|_| map.slot(slot).patched_at != 0)?;
        (owner.cluster_id != *id).then_some(owner)
    })
}

/// The slots of all ranges.
fn slots_of(seen: &Seen) -> impl Iterator<Item = u16> {
    seen.ranges.iter().flat_map(|&(first, last)| first..=last)
}

/// How those who answered describe themselves.
fn spoke<'a>(answers: impl Iterator<Item = &'a Answer>) -> impl Iterator<Item = &'a Seen> {
    answers.filter_map(|answer| answer.view.myself())
}

/// Each node as the best witness describes it: itself, or else who knows its highest epoch.
fn best_descriptions<'a>(answers: &[&'a Answer]) -> Vec<&'a Seen> {
    let mut best: HashMap<&str, &Seen> = HashMap::new();
    for seen in answers.iter().flat_map(|answer| &answer.view.nodes) {
        let known = best.entry(&seen.id).or_insert(seen);
        if (seen.is_myself, seen.epoch) > (known.is_myself, known.epoch) {
            *known = seen;
        }
    }
    let mut all: Vec<&Seen> = best.into_values().collect();
    // Numbers shall not depend on the order of a hash table.
    all.sort_by(|a, b| (a.host.name(), a.port).cmp(&(b.host.name(), b.port)));
    all
}

/// The number and address of each id that has one. An id without an address cannot be a member.
fn addresses<'a>(
    nodes: &[&'a Seen],
    directory: &mut Directory,
) -> HashMap<&'a str, (NodeId, Endpoint)> {
    let mut ids = HashMap::new();
    let mut taken = HashSet::new();
    for seen in nodes {
        // Such a node is a member for the others, and none for us.
        let Some(host) = seen.host.name() else { continue };
        let endpoint = Endpoint::Tcp { host: host.to_owned(), port: seen.port };
        let Some(node) = directory.node(&endpoint) else { continue };
        // Two ids at one address: a node was replaced, and the old one is not forgotten yet.
        if taken.insert(node.id) || seen.health != Health::Failed {
            ids.insert(&*seen.id, (node.id, endpoint));
        }
    }
    ids
}

/// All who have an address, each with every name that a redirect may use for it.
fn members(
    nodes: &[&Seen],
    ids: &HashMap<&str, (NodeId, Endpoint)>,
    directory: &mut Directory,
) -> Members {
    let all = nodes.iter().filter_map(|seen| {
        let (id, endpoint) = ids.get(&*seen.id)?;
        // A replica whose primary is not known is its own for the moment, and serves nothing.
        let primary = seen.primary.as_deref().and_then(|primary| ids.get(primary));
        let member = Member {
            node: directory.node(endpoint)?,
            cluster_id: seen.id.clone(),
            role: seen.role,
            primary: primary.map_or(*id, |(id, _)| *id),
            config_epoch: seen.epoch,
            health: seen.health,
            zone: seen.zone.clone(),
        };
        let hosts = seen.aliases.iter().map(|alias| &**alias).chain(seen.host.name());
        let addresses = hosts.map(|host| format!("{host}:{}", seen.port).into()).collect();
        Some((Arc::new(member), addresses))
    });
    Members::new(all)
}

/// The claim with the highest epoch to each slot. Of those who have spoken themselves only their own
/// word counts: others may not have heard yet what they gave away.
fn claims(answers: &[&Answer], ids: &HashMap<&str, (NodeId, Endpoint)>) -> Vec<Option<Claim>> {
    let mut claims: Vec<Option<Claim>> = vec![None; usize::from(SLOTS)];
    let spoke: HashSet<&str> = spoke(answers.iter().copied()).map(|seen| &*seen.id).collect();
    let seen = answers.iter().flat_map(|answer| &answer.view.nodes);
    let counts = |seen: &&Seen| seen.is_myself || !spoke.contains(&*seen.id);
    for seen in seen.filter(|seen| seen.role == MemberRole::Primary).filter(counts) {
        let Some(&(owner, _)) = ids.get(&*seen.id) else { continue };
        for slot in slots_of(seen) {
            let Some(claim) = claims.get_mut(usize::from(slot)) else { continue };
            if claim.is_none_or(|claim| seen.epoch > claim.epoch) {
                *claim = Some(Claim { owner, epoch: seen.epoch });
            }
        }
    }
    claims
}

#[cfg(test)]
mod tests;

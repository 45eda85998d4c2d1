//! SCAN over all shards: cursors that lead from node to node.
//!
//! Owns the numbers that clients hold between two calls, and the memory of what the scans behind
//! them must still visit. Never sends, never asks a node. A cursor comes from a client and leaves
//! as the node to be asked next and the node's own cursor; the node's answer leaves as the client's
//! next one.
//!
//! What surprises: the nodes of a scan are those that were there when it began. Keys that move
//! meanwhile may arrive where the scan has been already, so behind the last node come, once more,
//! those that own by then a slot that has moved, or are about to. A key that is there from
//! beginning to end is returned at least once; one that moved, maybe twice. A scan of more than one
//! page a node, and any while slots move, ends only when a map has come that is newer than its last
//! page: what has moved unseen is in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::slot::SLOTS;
use crate::clock::{Micros, SECOND};
use crate::topology::slots::{NodeId, SlotMap};

/// What a scan visits, and since when: common to all scans that began at about the same time.
#[derive(Clone, Debug)]
struct Round {
    /// Which deployment it is of.
    epoch: u64,
    /// The nodes, in their order.
    nodes: Arc<[NodeId]>,
    /// Version of the map when it began: what has moved since may have been missed.
    version: u32,
    /// Epochs of the primaries' claims then. A slot that has left and come back unseen has raised
    /// its owner's.
    claims: Arc<[(NodeId, u64)]>,
    /// For a round that repeats: the slots that it repeats for. What else moves has been visited
    /// where it was.
    slots: Option<Arc<Missed>>,
    /// When it was opened.
    opened_at: Micros,
}

/// All rounds that cursors may speak of.
#[derive(Debug, Default)]
pub struct Rounds {
    /// By number; place 0 is never used, so that no cursor of ours is 0.
    rounds: Vec<Option<Round>>,
    /// Number of the newest.
    newest: usize,
    /// Version of the map that was last seen here; 0: none was.
    seen: u32,
    /// When it was seen to change.
    changed_at: Option<Micros>,
}

/// Slots with keys that a round may not have met.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missed {
    /// All of them.
    slots: SlotSet,
    /// Those that are on the move for the first time since the scan began, and where to. Whatever
    /// has crossed until the next round is met there, and what crosses later was met at the source:
    /// they need no third look.
    leaving: Vec<(u16, NodeId)>,
}

/// A set of slots, a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SlotSet(Box<[u64; SLOTS as usize / 64]>);

/// The slot map in force, and which deployment it is of.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The map.
    pub map: &'a SlotMap,
    /// Number of the deployment.
    pub epoch: u64,
    /// What time it is.
    pub now: Micros,
}

/// Where a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A node is asked.
    Ask(Visit),
    /// All nodes were visited, and it will be known what was missed when a newer map has come.
    Wait,
    /// All is done.
    Done,
}

/// One question to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Which round.
    round: usize,
    /// Which of its nodes, counted from 0.
    place: usize,
    /// That node.
    pub node: NodeId,
    /// The node's own cursor.
    pub cursor: u64,
    /// Whether a node of the scan had more than one page: it has taken long enough for slots to
    /// move.
    is_long: bool,
}

/// Why a cursor leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStep {
    /// It is none of ours, or of another deployment, or forgotten: Redis's own error.
    Invalid,
    /// No node is known.
    NoNodes,
    /// The node's own cursor is too large to be put into one of ours.
    TooLarge,
}

// === impl Rounds ===

impl Rounds {
    /// Where the client's `cursor` leads.
    ///
    /// # Errors
    /// [`NoStep`].
    pub fn step(&mut self, cursor: u64, picture: Picture<'_>) -> Result<Step, NoStep> {
        self.look(picture);
        if cursor == 0 {
            let round = self.begin(picture).ok_or(NoStep::NoNodes)?;
            return self.visit(round, 0, (0, false), picture);
        }
        let number = (cursor & ROUND_MASK) as usize;
        let round = self.round(number).filter(|round| round.epoch == picture.epoch);
        let width = round.ok_or(NoStep::Invalid)?.width();
        let is_long = (cursor >> ROUND_BITS) & 1 == 1;
        let place = ((cursor >> (ROUND_BITS + 1)) & ((1 << width) - 1)) as usize;
        self.visit(number, place, (cursor >> (ROUND_BITS + 1 + width), is_long), picture)
    }

    /// The client's next cursor, when the node of `visit` has answered with the cursor `answer`. 0: all is done.
    ///
    /// # Errors
    /// [`NoStep::TooLarge`].
    pub fn next(&mut self, visit: Visit, answer: u64, picture: Picture<'_>) -> Result<u64, NoStep> {
        self.look(picture);
        match self.round(visit.round) {
            _ if answer != 0 => self.cursor(visit.round, visit.place, (answer, true)),
            Some(round) if visit.place + 1 < round.nodes.len() => {
                self.cursor(visit.round, visit.place + 1, (0, visit.is_long))
            }
            Some(round) => {
                let ended = (picture.now / MILLISECOND, visit.is_long);
                let behind = round.nodes.len();
                match self.visit(visit.round, behind, ended, picture)? {
                    Step::Done => Ok(0),
                    Step::Wait => self.cursor(visit.round, behind, ended),
                    Step::Ask(next) => {
                        self.cursor(next.round, next.place, (next.cursor, next.is_long))
                    }
                }
            }
            None => Ok(0),
        }
    }

    /// Notes when the map last changed.
    fn look(&mut self, picture: Picture<'_>) {
        let version = picture.map.version;
        if self.seen != 0 && self.seen != version {
            self.changed_at = Some(picture.now);
        }
        self.seen = version;
    }

    /// What is done at a place of a round. Nodes that are primaries no longer are passed over:
    /// others own what they had, and did not when the round began.
    fn visit(
        &mut self,
        number: usize,
        place: usize,
        (cursor, is_long): (u64, bool),
        picture: Picture<'_>,
    ) -> Result<Step, NoStep> {
        let round = self.round(number).ok_or(NoStep::Invalid)?;
        if place > round.nodes.len() {
            return Err(NoStep::Invalid);
        }
        let map = picture.map;
        let serves =
            |node: &NodeId| map.members.get(*node).is_some_and(|member| map.is_shard(member));
        let skipped = round.nodes.iter().skip(place).take_while(|node| !serves(node)).count();
        // Behind the last node the cursor is when that was reached.
        let cursor = if skipped == 0 { cursor } else { 0 };
        let place = place + skipped;
        match round.nodes.get(place) {
            Some(&node) => Ok(Step::Ask(Visit { round: number, place, node, cursor, is_long })),
            None => self.end(number, (cursor, is_long), picture),
        }
    }

    /// All nodes of a round were visited, the last one at `ended_at` (milliseconds).
    fn end(
        &mut self,
        number: usize,
        (ended_at, is_long): (u64, bool),
        picture: Picture<'_>,
    ) -> Result<Step, NoStep> {
        let round = self.round(number).ok_or(NoStep::Invalid)?;
        let Picture { map, now, .. } = picture;
        let has_changed = self.changed_at.is_some_and(|then| now.saturating_sub(then) < UNREST);
        let may_have_moved = is_long || has_changed || !map.migrations.is_empty();
        let is_known = map.fetched_at / MILLISECOND > ended_at;
        let waited = (now / MILLISECOND).saturating_sub(ended_at);
        if may_have_moved && !is_known && waited < WAIT_MAX / MILLISECOND {
            return Ok(Step::Wait);
        }
        let missed = round.missed(map);
        if missed.slots.is_empty() {
            return Ok(Step::Done);
        }
        match self.repeat(missed, picture) {
            Some(repeat) => self.visit(repeat, 0, (0, is_long), picture),
            None => Ok(Step::Done),
        }
    }

    /// The round that a scan begins now: one that is open already, if that makes no or little
    /// difference.
    fn begin(&mut self, Picture { map, epoch, now }: Picture<'_>) -> Option<usize> {
        let nodes: Arc<[NodeId]> = map.shards().map(|member| member.node.id).collect();
        if nodes.is_empty() {
            return None;
        }
        let fits = |round: &Round| {
            let is_young = now.saturating_sub(round.opened_at) < SHARED_FOR;
            let is_same = round.epoch == epoch && round.slots.is_none() && round.nodes == nodes;
            is_same && (is_young || round.missed(map).slots.is_empty())
        };
        let shared = self.rounds.iter().position(|round| round.as_ref().is_some_and(fits));
        shared.or_else(|| {
            let (version, claims) = (map.version, claims(map));
            let round = Round { epoch, nodes, version, claims, slots: None, opened_at: now };
            self.open(round, now)
        })
    }

    /// The round that visits the owners of what a round has missed.
    fn repeat(&mut self, missed: Missed, picture: Picture<'_>) -> Option<usize> {
        let Picture { map, epoch, now } = picture;
        let targets = map.migrations.iter().filter(|open| missed.slots.contains(open.slot));
        let owners = missed.slots.iter().filter_map(|slot| map.slot(slot).owner);
        let nodes: BTreeSet<NodeId> =
            owners.chain(targets.filter_map(|open| open.target)).collect();
        let nodes: Arc<[NodeId]> = nodes.into_iter().collect();
        if nodes.is_empty() {
            return None;
        }
        let same = |round: &Round| {
            (round.epoch, round.version, &round.nodes) == (epoch, map.version, &nodes)
                && round.slots.as_deref() == Some(&missed)
        };
        let shared = self.rounds.iter().position(|round| round.as_ref().is_some_and(same));
        if shared.is_some() {
            return shared;
        }
        let slots = Some(Arc::new(missed));
        let (version, claims) = (map.version, claims(map));
        let round = Round { epoch, nodes, version, claims, slots, opened_at: now };
        // With no number left, everything is visited once more: slow, and never wrong.
        self.open(round, now).or_else(|| self.begin(picture))
    }

    /// Gives the round a number; `None` if the oldest one may still be in use.
    fn open(&mut self, round: Round, now: Micros) -> Option<usize> {
        if self.rounds.is_empty() {
            // A process that is started again does not take the cursors of the last one for its
            // own.
            self.newest = (now as usize) % ROUNDS_MAX;
        }
        let number = self.newest % (ROUNDS_MAX - 1) + 1;
        if self.rounds.len() <= number {
            self.rounds.resize(number + 1, None);
        }
        let place = self.rounds.get_mut(number)?;
        let is_first = round.slots.is_none();
        let is_free = place.as_ref().is_none_or(|old| {
            old.epoch != round.epoch || now.saturating_sub(old.opened_at) > KEPT_FOR
        });
        // Rounds that begin a scan are at most one a minute, and must be had.
        if !is_free && !is_first {
            return None;
        }
        *place = Some(round);
        self.newest = number;
        Some(number)
    }

    fn round(&self, number: usize) -> Option<&Round> {
        self.rounds.get(number)?.as_ref()
    }

    /// The number that the client gets.
    fn cursor(
        &self,
        round: usize,
        place: usize,
        (cursor, is_long): (u64, bool),
    ) -> Result<u64, NoStep> {
        let width = self.round(round).map_or(0, Round::width);
        let shift = ROUND_BITS + 1 + width;
        if cursor >> (CURSOR_BITS - shift) != 0 {
            return Err(NoStep::TooLarge);
        }
        let head = u64::from(is_long) << ROUND_BITS | round as u64;
        Ok(cursor << shift | (place as u64) << (ROUND_BITS + 1) | head)
    }
}

// === impl Round ===

impl Round {
    /// Bits that the number of one of its nodes needs, and the number behind the last.
    fn width(&self) -> u32 {
        usize::BITS - self.nodes.len().leading_zeros()
    }

    /// Slots with keys that this round may not have met: they have moved since it began, or are on
    /// the move.
    fn missed(&self, map: &SlotMap) -> Missed {
        let is_ours = |slot: u16| self.slots.as_ref().is_none_or(|ours| ours.slots.contains(slot));
        let mut missed = Missed { slots: SlotSet::empty(), leaving: Vec::new() };
        let was = |node: NodeId| self.claims.iter().find(|(known, _)| *known == node);
        let has_risen =
            |(node, claim): &&(NodeId, u64)| was(*node).is_some_and(|(_, was)| claim > was);
        let claims = claims(map);
        let risen: Vec<NodeId> = claims.iter().filter(has_risen).map(|(node, _)| *node).collect();
        for (number, slot) in (0_u16..).zip(map.slots()) {
            let may_be_back = slot.owner.is_some_and(|owner| risen.contains(&owner));
            if (slot.since > self.version || may_be_back) && is_ours(number) {
                missed.slots.insert(number);
            }
        }
        for open in map.migrations.iter().filter(|open| is_ours(open.slot)) {
            let Some(target) = open.target else {
                continue;
            };
            let entry = (open.slot, target);
            if self.slots.as_ref().is_some_and(|ours| ours.leaving.contains(&entry)) {
                continue;
            }
            if !missed.slots.contains(open.slot) {
                missed.leaving.push(entry);
            }
            missed.slots.insert(open.slot);
        }
        missed
    }
}

// === impl SlotSet ===

impl SlotSet {
    fn empty() -> Self {
        Self(Box::new([0; SLOTS as usize / 64]))
    }

    fn insert(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word |= 1 << (slot % 64);
        }
    }

    fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot / 64)).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn iter(&self) -> impl Iterator<Item = u16> {
        (0..SLOTS).filter(|slot| self.contains(*slot))
    }
}

/// Epochs of what each primary claims.
fn claims(map: &SlotMap) -> Arc<[(NodeId, u64)]> {
    map.members.primaries().map(|member| (member.node.id, member.config_epoch)).collect()
}

/// Bits of a cursor of ours: more are no exact number in JavaScript.
const CURSOR_BITS: u32 = 53;
/// Bits for the number of the round.
const ROUND_BITS: u32 = 10;
const ROUND_MASK: u64 = (1 << ROUND_BITS) - 1;
/// Numbers of rounds, the unused 0 included.
const ROUNDS_MAX: usize = 1 << ROUND_BITS;
/// How long scans begin in the same round although something has moved since it was opened: they
/// look twice then.
const SHARED_FOR: Micros = 60 * SECOND;
/// How long after a change of the map a scan takes care that it knows the newest one.
const UNREST: Micros = 600 * SECOND;
/// How long it waits for that.
const WAIT_MAX: Micros = 2 * SECOND;
const MILLISECOND: Micros = SECOND / 1000;
/// How long cursors of a round are honoured at least while its deployment is in use.
const KEPT_FOR: Micros = 6 * 3600 * SECOND;

#[cfg(test)]
mod tests;

//! The rounds: all primaries are asked for their open slots, and sometimes for keys in slots that
//! are not theirs.
//!
//! Owns when that happens and what follows: log lines with the repair in them, gauges, and the
//! slots on the move in the published map. Never repairs anything itself: the commands change the
//! cluster, and that is for its operator to decide.
//!
//! What surprises: the repairs that come to mind first lose keys. CLUSTER SETSLOT STABLE closes a
//! half-moved slot, and whatever had arrived at the other end cannot be found any more; so that is
//! never advised, and is looked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::census::{self, Found};
use super::survey::{Failure, Finding, Survey, Verdict};
use super::{Acquaintance, Follower, ask, random};
use crate::clock::{self, Micros, SECOND};
use crate::events;
use crate::stats::control;
use crate::topology::slots::{NodeId, SlotMap};
use crate::upstream::dial::Node;

/// What is kept from one round to the next.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    pub(super) survey: Survey,
    /// Who is still to be asked in this round.
    left: VecDeque<NodeId>,
    /// When the next round begins.
    round_at: Micros,
    /// How often a node was told about slots, by its own count: when that changes, slots were
    /// moved.
    told: BTreeMap<NodeId, Vec<u8>>,
    /// When the keys of each primary are counted.
    census_at: BTreeMap<NodeId, Micros>,
    /// The primary whose keys are being counted.
    census: Option<(NodeId, oneshot::Receiver<Option<Vec<Found>>>)>,
    /// Keys that nobody can find, by the node on which they lie.
    orphans: BTreeMap<NodeId, Vec<Found>>,
    /// Nodes that have a series of their own on the metrics page.
    with_series: BTreeSet<NodeId>,
}

// === impl Follower ===

impl Follower {
    /// Once a second: asks a few primaries, judges what they have said so far, and says it.
    pub(super) async fn go_round(&mut self) {
        let now = clock::micros();
        let map = self.map();
        self.begin_round(&map, now);
        let share = (map.members.primaries().count() / ROUND_TICKS).max(2);
        let mut batch = Vec::new();
        // Refreshes come first: this can wait.
        while batch.len() < share && self.pace.is_idle(now) {
            let Some(id) = self.rounds.left.pop_front() else { break };
            if self.contacts.get(&id).is_some_and(Acquaintance::can_tell) {
                self.pace.spend(now);
                batch.push(id);
            }
        }
        if !batch.is_empty() {
            self.ask_for_open_slots(&batch, &map).await;
        }
        self.judge_open_slots(&map);
        self.keep_census(&map);
    }

    /// Begins another round when the last one is over and it is time.
    fn begin_round(&mut self, map: &SlotMap, now: Micros) {
        let is_time = now >= self.rounds.round_at || self.rounds.survey.is_contested();
        // Before the first map there is nobody to ask, and no reason to wait for the next round.
        let is_nobody_known = map.members.primaries().next().is_none();
        if !is_time || is_nobody_known || !self.rounds.left.is_empty() {
            return;
        }
        self.rounds.survey.end_round();
        let period = if self.rounds.survey.is_busy() { ROUND_OPEN } else { ROUND };
        // Never in step with other proxies.
        self.rounds.round_at = now + period / 2 + random::below(period);
        self.rounds.left = map.members.primaries().map(|member| member.node.id).collect();
    }

    /// Asks these primaries for their own lines, then for the keys that are left in slots which
    /// they give away, and for the counters that tell whether slots were moved since the last time.
    async fn ask_for_open_slots(&mut self, ids: &[NodeId], map: &SlotMap) {
        let contacts: Vec<_> = ids
            .iter()
            .filter_map(|id| self.contacts.get(id))
            .map(|it| Rc::clone(&it.contact))
            .collect();
        let borrowed: Vec<_> = contacts.iter().map(|contact| &**contact).collect();
        for (_, view) in ask::views_of(&borrowed).await {
            if let Some(view) = view {
                self.rounds.survey.note(&view, map);
            }
        }
        self.judge_open_slots(map);
        for contact in contacts {
            let id = contact.node.id;
            let leaving: Vec<u16> = self.rounds.survey.leaving(id).take(COUNTED_MAX).collect();
            // What cannot be counted stays as it was, and is called standing still in the end; that
            // is what it looks like.
            for (slot, keys) in
                leaving.iter().zip(census::keys_in(&contact, &leaving).await.unwrap_or_default())
            {
                self.rounds.survey.note_keys(*slot, keys, clock::micros());
            }
            let Some(replies) = contact.ask(&[STATISTICS]) else { continue };
            let Ok(Ok(replies)) = timeout(ANSWER_WITHIN, replies).await else { continue };
            let told = replies.first().map(|reply| moves(reply)).unwrap_or_default();
            let before = self.rounds.told.insert(id, told);
            if before.is_some() && before.as_ref() != self.rounds.told.get(&id) {
                self.rounds.hasten_census(id, clock::micros() + CENSUS_SOON);
            }
        }
    }

    /// Says what has to be said, and brings the metrics and the published map up to date.
    fn judge_open_slots(&mut self, map: &SlotMap) {
        let now = clock::micros();
        let contacts = &self.contacts;
        let is_up = |id: NodeId| contacts.get(&id).is_some_and(|it| it.contact.is_up());
        let (findings, closed) = self.rounds.survey.judge(map, now, is_up);
        for finding in &findings {
            say(finding, map);
        }
        for id in closed {
            self.rounds.hasten_census(id, clock::micros() + CENSUS_SOON);
        }
        let totals = self.rounds.survey.totals(now);
        control::migrations(&totals);
        let split = self.rounds.survey.split();
        self.publish_claims(&split, map);
        self.publish_migrations();
    }

    /// Begins to count keys on the primary that is due, and takes what was counted.
    fn keep_census(&mut self, map: &SlotMap) {
        let now = clock::micros();
        if let Some((id, counted)) = &mut self.rounds.census {
            let id = *id;
            match counted.try_recv() {
                Ok(found) => {
                    self.rounds.census = None;
                    self.note_census(id, found, map, now);
                }
                Err(oneshot::error::TryRecvError::Empty) => return,
                Err(oneshot::error::TryRecvError::Closed) => {
                    self.rounds.census = None;
                    self.note_census(id, None, map, now);
                }
            }
        }
        let primaries: BTreeSet<NodeId> = map.members.primaries().map(|it| it.node.id).collect();
        self.rounds.census_at.retain(|id, _| primaries.contains(id));
        for id in primaries {
            // Soon after the start, but not all at once: somebody may have left keys behind before.
            let soon = || now + CENSUS_FIRST / 2 + random::below(CENSUS_FIRST);
            self.rounds.census_at.entry(id).or_insert_with(soon);
        }
        // One at a time over the whole cluster.
        let due = self.rounds.census_at.iter().filter(|(_, at)| **at <= now);
        let Some((&id, _)) = due.min_by_key(|(_, at)| **at) else {
            return;
        };
        self.rounds.census_at.insert(id, now + CENSUS_EVERY / 2 + random::below(CENSUS_EVERY));
        let Some(acquaintance) = self.contacts.get(&id).filter(|it| it.can_tell()) else {
            return self.note_census(id, None, map, now);
        };
        let (counted, result) = oneshot::channel();
        let contact = Rc::clone(&acquaintance.contact);
        tokio::task::spawn_local(async move { counted.send(census::take(contact).await) });
        self.rounds.census = Some((id, result));
    }

    /// Takes what was counted on a primary. What was said of a slot once is not said again while it
    /// lasts.
    fn note_census(&mut self, id: NodeId, found: Option<Vec<Found>>, map: &SlotMap, now: Micros) {
        if is_counted_again(found.as_deref()) {
            self.rounds.hasten_census(id, now + CENSUS_AGAIN);
        }
        let Some(mut found) = found else {
            return;
        };
        // An open slot has words of its own.
        found.retain(|(slot, _)| !self.rounds.survey.is_open(*slot));
        let Some(holder) = map.members.get(id) else {
            return;
        };
        let before = self.rounds.orphans.insert(id, found.clone()).unwrap_or_default();
        let is_known = |slot: u16| before.iter().any(|(known, _)| *known == slot);
        let news = found.iter().filter(|(slot, _)| !is_known(*slot));
        for &(slot, keys) in news.take(NAMED_MAX) {
            let owner = map.owner(slot);
            let repair =
                repair_of_orphans(&holder.node, slot, owner.map(|owner| &*owner.cluster_id));
            events::keys_orphaned(
                keys,
                slot,
                &holder.node.name,
                owner.map(|it| &*it.node.name),
                &repair,
            );
        }
        let keys = |found: &[Found]| found.iter().map(|(_, keys)| keys).sum::<u64>();
        if !before.is_empty() && found.is_empty() {
            events::keys_found_again(&holder.node.name);
        }
        // A series once made cannot be removed: only nodes that had such keys get one, and not any
        // number of them.
        let may_have =
            self.rounds.with_series.len() < SERIES_MAX || self.rounds.with_series.contains(&id);
        if may_have && (!found.is_empty() || !before.is_empty()) {
            self.rounds.with_series.insert(id);
            control::orphaned_keys(&holder.node.name, keys(&found));
        }
        self.rounds.orphans.retain(|_, found| !found.is_empty());
        control::orphaned_keys(
            EVERYWHERE,
            self.rounds.orphans.values().map(|found| keys(found)).sum(),
        );
    }
}

// === impl Rounds ===

impl Rounds {
    /// Keys are counted there by then: slots were moved, and some may have been left behind.
    fn hasten_census(&mut self, id: NodeId, by: Micros) {
        let at = self.census_at.entry(id).or_insert(by);
        *at = by.min(*at);
    }
}

/// Whether keys are counted again soon where this was found; nothing, if the node did not answer. Whoever
/// repairs wants to see that it helped, and an hour is long for what a busy moment has hidden.
fn is_counted_again(found: Option<&[Found]>) -> bool {
    found.is_none_or(|found| !found.is_empty())
}

/// Puts a finding into words.
fn say(finding: &Finding, map: &SlotMap) {
    let named = |end: Option<NodeId>| end.map_or("a node that is not known", |id| name(map, id));
    let (source, target) = (named(finding.source), named(finding.target));
    let node = finding.source.or(finding.target).and_then(|id| map.members.get(id));
    let repair = node.map(|member| repair_of_open_slot(&member.node)).unwrap_or_default();
    match finding.verdict {
        None => events::migration_closed(finding.slot),
        Some(Verdict::Failed(failure)) => {
            let words = match failure {
                Failure::OneEnd => "only one of them has it open",
                Failure::Unreachable => "one of them cannot be reached",
                Failure::StandsStill => "no key has left the first for a minute",
            };
            events::migration_failed(finding.slot, source, target, words, &repair);
        }
        Some(Verdict::StuckLong) => {
            events::migration_stuck(finding.slot, source, target, 15, &repair)
        }
        Some(Verdict::Stuck) => events::migration_stuck(finding.slot, source, target, 5, &repair),
        Some(Verdict::Moving) => {}
    }
}

/// How people call the node.
fn name(map: &SlotMap, id: NodeId) -> &str {
    map.members.get(id).map_or("a node that has left", |member| &member.node.name)
}

/// What closes an open slot and loses nothing.
fn repair_of_open_slot(node: &Node) -> String {
    format!("redis-cli --cluster fix {}", node.name)
}

/// What brings keys back that lie where nobody looks: the slot is opened there again, and then
/// moved properly.
fn repair_of_orphans(holder: &Node, slot: u16, owner: Option<&str>) -> String {
    let fix = repair_of_open_slot(holder);
    let crate::config::Endpoint::Tcp { host, port } = &holder.settings.endpoint else {
        return fix;
    };
    match owner {
        // Opened on the holder first: only then does the tool see that the keys there belong to a
        // move.
        Some(owner) => format!(
            "redis-cli -h {host} -p {port} CLUSTER SETSLOT {slot} IMPORTING {owner} && {fix}"
        ),
        None => fix,
    }
}

/// The lines of INFO that count what moves slots: orders about them, and keys that arrive.
fn moves(reply: &[u8]) -> Vec<u8> {
    let lines = reply.split(|&byte| byte == b'\n');
    let calls = lines.filter(|line| MOVES.iter().any(|name| line.starts_with(name)));
    // Only the number of calls; the rest of the line changes with time.
    calls.flat_map(|line| line.split(|&byte| byte == b',').next()).flatten().copied().collect()
}

/// What counts what moves slots.
const STATISTICS: &[&[u8]] = &[b"INFO", b"commandstats"];
/// The lines of it. Before 7.0 orders about slots cannot be told from questions, but keys that
/// arrive can.
const MOVES: [&[u8]; 3] =
    [b"cmdstat_cluster|setslot:", b"cmdstat_restore-asking:", b"cmdstat_migrate:"];
/// The node of the series that is the sum of all.
const EVERYWHERE: &str = "all";
/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Mean distance of rounds while a slot is open.
const ROUND_OPEN: Micros = 5 * SECOND;
/// Mean distance of rounds otherwise.
const ROUND: Micros = 20 * SECOND;
/// So many seconds a round may take, however many primaries there are.
const ROUND_TICKS: usize = 20;
/// Open slots whose keys are counted, of each node.
const COUNTED_MAX: usize = 64;
/// Mean distance of counts of misplaced keys.
const CENSUS_EVERY: Micros = 3600 * SECOND;
/// Mean delay of the first.
const CENSUS_FIRST: Micros = 45 * SECOND;
/// How long after a move.
const CENSUS_SOON: Micros = 10 * SECOND;
/// How long after some were found.
const CENSUS_AGAIN: Micros = 30 * SECOND;
/// Slots with misplaced keys that are named in the log at a time.
const NAMED_MAX: usize = 16;
/// Nodes that get a series of their own.
const SERIES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_counted_and_times_are_not() {
        let info = |calls: u32, usec: u32| {
            format!(
                "$99\r\n# Commandstats\r\ncmdstat_get:calls={usec},usec={usec}\r\n\
                 cmdstat_cluster|setslot:calls={calls},usec={usec},usec_per_call=1\r\n"
            )
        };
        assert_eq!(moves(info(1, 2).as_bytes()), moves(info(1, 3).as_bytes()));
        assert_ne!(moves(info(1, 2).as_bytes()), moves(info(2, 2).as_bytes()));
    }

    #[test]
    fn what_was_found_or_could_not_be_counted_is_counted_again_soon() {
        assert!(is_counted_again(Some(&[(7, 1)])) && is_counted_again(None));
        assert!(!is_counted_again(Some(&[])));
        let (mut rounds, id) = (Rounds::default(), NodeId(1));
        rounds.hasten_census(id, CENSUS_AGAIN);
        rounds.hasten_census(id, CENSUS_EVERY);
        assert_eq!(rounds.census_at[&id], CENSUS_AGAIN, "later than was wished before");
    }

    #[test]
    fn repairs_never_close_a_slot_that_has_keys_elsewhere() {
        let topology = crate::topology::Topology::for_tests("redis-cluster://h:7");
        let repair = repair_of_orphans(&topology.node, 93, Some("abc"));
        assert_eq!(
            repair,
            "redis-cli -h h -p 7 CLUSTER SETSLOT 93 IMPORTING abc && redis-cli --cluster fix h:7"
        );
        assert!(!repair.contains("STABLE"));
        assert_eq!(repair_of_orphans(&topology.node, 93, None), "redis-cli --cluster fix h:7");
    }
}

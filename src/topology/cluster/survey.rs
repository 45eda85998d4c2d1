//! Slots on the move: which, since when, and which of them will not arrive by themselves.
//!
//! Owns what each primary has said about its own slots, the judgement over every open one, and the
//! count of slots that two primaries claim for themselves. Pure: it is told what was said and when,
//! and tells what has to be said.
//!
//! What surprises: only a node's own line shows its open slots, so a move has two witnesses, and
//! one of them alone is the commonest sign of a move that was broken off. It must be alone for a
//! while: the two are opened one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::view::{Open, View, Way};
use crate::clock::{Micros, SECOND};
use crate::route::slot::SLOTS;
use crate::topology::slots::{Member, MemberRole, Migration, NodeId, SlotMap};

/// What is known of slots on the move.
#[derive(Debug, Default)]
pub struct Survey {
    /// By the primary that said it.
    said: BTreeMap<NodeId, Said>,
    /// Every slot that some primary has open.
    open: BTreeMap<u16, OpenSlot>,
    /// Slots with two masters at the end of the last round. A move looks the same for as long as
    /// one has not been asked.
    suspected: BTreeSet<u16>,
    /// Those that had two masters at the ends of two rounds, and still have.
    split: BTreeSet<u16>,
    /// Number of the round.
    round: u64,
    /// Somebody has claimed what somebody else claims, and no round has ended since.
    is_contested: bool,
}

/// What a primary said of itself when it was asked last.
#[derive(Debug)]
struct Said {
    open: Vec<Open>,
    ranges: Vec<(u16, u16)>,
    /// In which round: a claim that was not repeated since is that of a node which does not answer,
    /// and nobody can write to it.
    round: u64,
}

/// A slot that is open at one end at least.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OpenSlot {
    ends: Ends,
    /// When it was first seen.
    since: Micros,
    /// Since when only one end has been open.
    lonely_since: Option<Micros>,
    /// Since when one end has not been reached.
    lost_since: Option<Micros>,
    /// Keys that the source still has, and since when it has been so many.
    keys: Option<(u64, Micros)>,
    /// The worst that was said of it.
    told: Verdict,
}

/// Who has a slot open, and whom they name as the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ends {
    source: Option<NodeId>,
    target: Option<NodeId>,
    /// The end that does not have it open, if it is a member.
    named: Option<NodeId>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is on its way.
    #[default]
    Moving,
    /// Open for five minutes.
    Stuck,
    /// Open for a quarter of an hour.
    StuckLong,
    /// It will not arrive without help.
    Failed(Failure),
}

/// Why it will not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Only one end has the slot open.
    OneEnd,
    /// An end cannot be reached.
    Unreachable,
    /// No key has left the source for a minute.
    StandsStill,
}

/// What is to be said of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The slot.
    pub slot: u16,
    /// What has become of it; `None`: it is closed again after something bad was said of it.
    pub verdict: Option<Verdict>,
    /// Its ends, as far as they are known.
    pub source: Option<NodeId>,
    /// Where its keys go.
    pub target: Option<NodeId>,
}

/// Numbers for the metrics page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Open slots.
    pub open: usize,
    /// Those that will not arrive without help.
    pub failed: usize,
    /// Those open for five minutes, and for a quarter of an hour.
    pub stuck: [usize; 2],
    /// How long the oldest has been open.
    pub age: Micros,
    /// Slots that several primaries claim for themselves.
    pub split: usize,
}

// === impl Survey ===

impl Survey {
    /// Remembers what a node said of itself.
    pub fn note(&mut self, view: &View, map: &SlotMap) {
        let Some(myself) = view.myself() else {
            return;
        };
        let Some(member) = map.members.iter().find(|member| member.cluster_id == myself.id) else {
            return;
        };
        if myself.role == MemberRole::Replica {
            self.said.remove(&member.node.id);
            return;
        }
        let ranges = myself.ranges.clone();
        let said = Said { open: view.open.clone(), ranges, round: self.round };
        let before = self.said.insert(member.node.id, said);
        let is_same = before.is_some_and(|before| before.ranges == myself.ranges);
        if !is_same {
            self.note_claims();
        }
    }

    /// Somebody claims other slots than before. Whoever lets go of a claim ends the quarrel at once;
    /// a new one is looked into at once.
    fn note_claims(&mut self) {
        let claimed = self.claimed_twice(self.round.saturating_sub(1));
        self.split.retain(|slot| claimed.contains_key(slot));
        self.is_contested |= claimed.keys().any(|slot| !self.suspected.contains(slot));
    }

    /// Remembers how many keys the source of an open slot has at `now`.
    pub fn note_keys(&mut self, slot: u16, keys: u64, now: Micros) {
        if let Some(open) = self.open.get_mut(&slot)
            && open.keys.is_none_or(|(before, _)| before != keys)
        {
            open.keys = Some((keys, now));
        }
    }

    /// Slots that `node` has open as their source.
    pub fn leaving(&self, node: NodeId) -> impl Iterator<Item = u16> {
        self.open.iter().filter(move |(_, it)| it.ends.source == Some(node)).map(|(slot, _)| *slot)
    }

    /// Whether somebody has a slot open.
    #[must_use]
    pub fn is_open(&self, slot: u16) -> bool {
        self.open.contains_key(&slot)
    }

    /// Whether there is reason to ask often.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.open.is_empty() || !self.suspected.is_empty()
    }

    /// Whether two claim what only one did when the last round ended: the next need not wait.
    #[must_use]
    pub fn is_contested(&self) -> bool {
        self.is_contested
    }

    /// Everybody who answers has been asked once more.
    pub fn end_round(&mut self) {
        let suspected: BTreeSet<u16> = self.claimed_twice(self.round).into_keys().collect();
        self.split = suspected.intersection(&self.suspected).copied().collect();
        self.suspected = suspected;
        self.is_contested = false;
        self.round += 1;
    }

    /// The slots that have two masters, and these.
    #[must_use]
    pub fn split(&self) -> BTreeMap<u16, (NodeId, NodeId)> {
        if self.split.is_empty() {
            return BTreeMap::new();
        }
        let mut claimed = self.claimed_twice(self.round.saturating_sub(1));
        claimed.retain(|slot, _| self.split.contains(slot));
        claimed
    }

    /// What goes into the map.
    #[must_use]
    pub fn migrations(&self) -> Arc<[Migration]> {
        let migration = |(slot, open): (&u16, &OpenSlot)| Migration {
            slot: *slot,
            source: open.ends.source,
            target: open.ends.target,
        };
        self.open.iter().map(migration).collect()
    }

    /// Judges every open slot at `now`. Returns what has not been said yet, and the nodes at which
    /// a slot was closed.
    pub fn judge(
        &mut self,
        map: &SlotMap,
        now: Micros,
        is_reachable: impl Fn(NodeId) -> bool,
    ) -> (Vec<Finding>, BTreeSet<NodeId>) {
        let members: HashMap<&str, &Arc<Member>> =
            map.members.iter().map(|member| (&*member.cluster_id, member)).collect();
        self.said.retain(|id, _| map.members.get(*id).is_some());
        let ends = self.ends(&members);
        let (mut findings, mut closed) = (Vec::new(), BTreeSet::new());
        self.open.retain(|&slot, open| {
            let is_open = ends.contains_key(&slot);
            if !is_open {
                closed.extend(open.ends.all());
                if open.told != Verdict::Moving {
                    findings.push(open.finding(slot, None));
                }
            }
            is_open
        });
        for (slot, ends) in ends {
            let open = self.open.entry(slot).or_insert_with(|| OpenSlot::new(now));
            open.ends = ends;
            let verdict = open.judge(now, &is_reachable);
            if verdict > open.told {
                open.told = verdict;
                findings.push(open.finding(slot, Some(verdict)));
            }
        }
        (findings, closed)
    }

    /// Numbers for the metrics page.
    #[must_use]
    pub fn totals(&self, now: Micros) -> Totals {
        let count = |is: fn(Micros, Verdict) -> bool| {
            self.open.values().filter(|it| is(now.saturating_sub(it.since), it.told)).count()
        };
        let oldest = self.open.values().map(|open| now.saturating_sub(open.since)).max();
        Totals {
            open: self.open.len(),
            failed: count(|_, told| matches!(told, Verdict::Failed(_))),
            stuck: [count(|age, _| age >= STUCK_AFTER), count(|age, _| age >= STUCK_LONG_AFTER)],
            age: oldest.unwrap_or_default(),
            split: self.split.len(),
        }
    }

    /// Slots that several primaries have claimed for themselves since the round `since`, with two of
    /// them.
    fn claimed_twice(&self, since: u64) -> BTreeMap<u16, (NodeId, NodeId)> {
        let mut owners = vec![None; usize::from(SLOTS)];
        let mut split = BTreeMap::new();
        for (&node, said) in self.said.iter().filter(|(_, said)| said.round >= since) {
            for slot in said.ranges.iter().flat_map(|&(first, last)| first..=last) {
                let owner = owners.get_mut(usize::from(slot));
                if let Some(other) = owner.and_then(|owner| owner.replace(node)) {
                    split.insert(slot, (other, node));
                }
            }
        }
        split
    }

    /// The open slots of all, both ends joined.
    fn ends(&self, members: &HashMap<&str, &Arc<Member>>) -> BTreeMap<u16, Ends> {
        let mut joined: BTreeMap<u16, Ends> = BTreeMap::new();
        for (&node, said) in &self.said {
            for Open { slot, way, peer } in &said.open {
                let ends = joined.entry(*slot).or_default();
                match way {
                    Way::Out => ends.source = Some(node),
                    Way::In => ends.target = Some(node),
                }
                ends.named = members.get(&**peer).map(|member| member.node.id).or(ends.named);
            }
        }
        joined
    }
}

// === impl OpenSlot ===

impl OpenSlot {
    /// Nothing is held against a slot that has just been seen.
    fn new(now: Micros) -> Self {
        Self {
            ends: Ends::default(),
            since: now,
            lonely_since: None,
            lost_since: None,
            keys: None,
            told: Verdict::Moving,
        }
    }

    /// The worst that is true at `now`. Each sign must last for a while: while a slot is opened and
    /// closed, its ends differ.
    fn judge(&mut self, now: Micros, is_reachable: impl Fn(NodeId) -> bool) -> Verdict {
        let is_lonely = self.ends.source.is_none() || self.ends.target.is_none();
        // Another end that is no member is as good as unreachable.
        let is_lost = self.ends.all().count() < 2 || !self.ends.all().all(is_reachable);
        let since = |is: bool, since: Option<Micros>| is.then(|| since.unwrap_or(now));
        self.lonely_since = since(is_lonely, self.lonely_since);
        self.lost_since = since(is_lost, self.lost_since);
        let has_passed =
            |since: Option<Micros>, limit| since.is_some_and(|since| now >= since + limit);
        let age = now.saturating_sub(self.since);
        if has_passed(self.lost_since, DOUBT) {
            Verdict::Failed(Failure::Unreachable)
        } else if has_passed(self.lonely_since, DOUBT) {
            Verdict::Failed(Failure::OneEnd)
        } else if has_passed(self.keys.map(|(_, since)| since), STANDSTILL) {
            Verdict::Failed(Failure::StandsStill)
        } else if age >= STUCK_LONG_AFTER {
            Verdict::StuckLong
        } else if age >= STUCK_AFTER {
            Verdict::Stuck
        } else {
            Verdict::Moving
        }
    }

    /// What is to be said. The end that does not have the slot open is named by the other one.
    fn finding(&self, slot: u16, verdict: Option<Verdict>) -> Finding {
        let Ends { source, target, named } = self.ends;
        let source = source.or(named.filter(|_| target.is_some()));
        let target = target.or(named.filter(|_| self.ends.source.is_some()));
        Finding { slot, verdict, source, target }
    }
}

// === impl Ends ===

impl Ends {
    /// Those that are known, each once.
    fn all(&self) -> impl Iterator<Item = NodeId> {
        let all: BTreeSet<NodeId> =
            [self.source, self.target, self.named].into_iter().flatten().collect();
        all.into_iter()
    }
}

/// How long an end may be missing before that is called a failure.
const DOUBT: Micros = 30 * SECOND;
/// How long the number of keys at the source may stay the same.
const STANDSTILL: Micros = 60 * SECOND;
/// When an open slot is worth a warning.
const STUCK_AFTER: Micros = 300 * SECOND;
/// When it is worth getting up for.
const STUCK_LONG_AFTER: Micros = 900 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::cluster::directory::Directory;
    use crate::topology::cluster::nodes;
    use crate::topology::cluster::picture::{Answer, Picture};

    /// What `a` and `b` say of themselves; `a` has the number 1, `b` 2.
    fn told(survey: &mut Survey, a: &str, b: &str) -> SlotMap {
        let lines = |myself: &str, other: &str, slots: &str, others: &str| {
            nodes::read(&format!(
                "{myself} {myself}:1@2 myself,master - 0 0 1 connected {slots}\n\
                 {other} {other}:1@2 master - 0 0 1 connected {others}\n"
            ))
        };
        let views = [lines("a", "b", a, "9"), lines("b", "a", b, "0-8")];
        let answers = views.map(|view| Answer { from: NodeId(0), view });
        let mut directory = Directory::for_tests();
        let picture =
            Picture::compose(&answers, &SlotMap::empty(), &mut directory, 1, |_| false).unwrap();
        let map = picture.over(&SlotMap::empty(), Arc::from([]));
        answers.iter().for_each(|answer| survey.note(&answer.view, &map));
        map
    }

    fn verdicts(findings: &[Finding]) -> Vec<(u16, Option<Verdict>)> {
        findings.iter().map(|finding| (finding.slot, finding.verdict)).collect()
    }

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn a_move_that_goes_on_is_only_named_when_it_takes_long() {
        let mut survey = Survey::default();
        let map = told(&mut survey, "0-8 [7->-b]", "9 [7-<-a]");
        let mut said = Vec::new();
        for second in 0..=1000 {
            survey.note_keys(7, second / 50, second * SECOND);
            said.extend(survey.judge(&map, second * SECOND, |_| true).0);
        }
        assert_eq!(verdicts(&said), [(7, Some(Verdict::Stuck)), (7, Some(Verdict::StuckLong))]);
        let migration = Migration { slot: 7, source: Some(A), target: Some(B) };
        assert_eq!(survey.migrations().as_ref(), [migration]);
        assert_eq!((survey.totals(0).open, survey.leaving(A).count()), (1, 1));
        let map = told(&mut survey, "0-6 8", "7 9");
        let (findings, closed) = survey.judge(&map, 1001 * SECOND, |_| true);
        assert_eq!(verdicts(&findings), [(7, None)]);
        assert_eq!((closed.len(), survey.is_busy()), (2, false));
    }

    #[test]
    fn one_end_alone_is_a_failure_after_a_while_and_names_both() {
        for (a, b) in [("0-8 [7->-b]", "9"), ("0-8", "9 [7-<-a]")] {
            let mut survey = Survey::default();
            let map = told(&mut survey, a, b);
            assert!(survey.judge(&map, 0, |_| true).0.is_empty());
            assert!(survey.judge(&map, DOUBT - 1, |_| true).0.is_empty());
            let (findings, _) = survey.judge(&map, DOUBT, |_| true);
            let verdict = Some(Verdict::Failed(Failure::OneEnd));
            let finding = Finding { slot: 7, verdict, source: Some(A), target: Some(B) };
            assert_eq!(findings, [finding]);
            // Once is enough.
            assert!(survey.judge(&map, DOUBT * 2, |_| true).0.is_empty());
        }
    }

    #[test]
    fn an_end_that_is_lost_or_stands_still_is_a_failure() {
        let mut survey = Survey::default();
        let map = told(&mut survey, "0-8 [7->-b] [8->-gone]", "9 [7-<-a]");
        assert!(survey.judge(&map, 0, |id| id != B).0.is_empty());
        let (findings, _) = survey.judge(&map, DOUBT, |id| id != B);
        let lost = Some(Verdict::Failed(Failure::Unreachable));
        assert_eq!(verdicts(&findings), [(7, lost), (8, lost)]);
        let mut survey = Survey::default();
        let map = told(&mut survey, "0-8 [7->-b]", "9 [7-<-a]");
        survey.judge(&map, 0, |_| true);
        survey.note_keys(7, 50, SECOND);
        survey.note_keys(7, 50, STANDSTILL);
        assert!(survey.judge(&map, STANDSTILL, |_| true).0.is_empty());
        let (findings, _) = survey.judge(&map, STANDSTILL + SECOND, |_| true);
        assert_eq!(verdicts(&findings), [(7, Some(Verdict::Failed(Failure::StandsStill)))]);
        assert_eq!(survey.totals(0).failed, 1);
    }

    fn split(survey: &Survey) -> Vec<(u16, NodeId, NodeId)> {
        let split = survey.split();
        assert_eq!(survey.totals(0).split, split.len());
        split.into_iter().map(|(slot, (one, other))| (slot, one, other)).collect()
    }

    #[test]
    fn a_slot_with_two_masters_is_split_until_one_lets_go() {
        let mut survey = Survey::default();
        told(&mut survey, "0-8", "7-9");
        assert!(survey.is_contested(), "the next round need not wait");
        survey.end_round();
        assert_eq!((survey.totals(0).split, survey.is_busy()), (0, true), "asked only once");
        assert!(!survey.is_contested());
        told(&mut survey, "0-8", "7-9");
        survey.end_round();
        assert_eq!(split(&survey), [(7, A, B), (8, A, B)]);
        assert!(!survey.is_contested(), "that is known");
        told(&mut survey, "0-7", "7-9");
        assert_eq!(split(&survey), [(7, A, B)], "no round need end for that");
        told(&mut survey, "0-6", "7-9");
        assert_eq!(split(&survey), []);
        survey.end_round();
        assert_eq!(split(&survey), []);
    }

    #[test]
    fn a_claim_of_one_that_does_not_answer_is_none() {
        let mut survey = Survey::default();
        let map = told(&mut survey, "0-8", "9");
        survey.end_round();
        // Its replica has taken over; the old primary is dead and says nothing any more.
        for _ in 0..3 {
            let line = "b b:1@2 myself,master - 0 0 1 connected 0-9\n";
            survey.note(&nodes::read(line), &map);
            survey.end_round();
            assert_eq!(split(&survey), []);
        }
    }
}

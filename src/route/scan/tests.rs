//! Scans of a model of a cluster whose keys cross from node to node one by one, between any two
//! calls.
//!
//! Owns the model: what is so, and what is known of it, which is older. What surprises: the clock
//! moves by a millisecond a call, because a scan ends by the age of the map.

use super::*;
use crate::cli::RunFlags;
use crate::config::Settings;
use crate::topology::slots::{Members, Migration, Slot};
use crate::upstream::rig;
use proptest::prelude::*;
use std::collections::HashSet;

/// Slots that the model uses; the others stay where they are.
const USED: u16 = 8;
/// Keys in each of them.
const KEYS: u16 = 6;
/// Steps in which a node's own table is scanned.
const BUCKETS: u64 = 3;

/// A cluster whose keys move under a scan.
struct Model {
    /// What is known of it.
    map: SlotMap,
    /// Who owns which slot in truth.
    owners: Vec<NodeId>,
    /// Slots on the move in truth.
    open: Vec<Migration>,
    /// Epochs of the nodes' claims in truth.
    claims: Vec<u64>,
    now: Micros,
    /// Where each key is: by slot and number.
    holders: Vec<Vec<NodeId>>,
    rounds: Rounds,
    seen: HashSet<(u16, u16)>,
}

fn members(claims: &[u64]) -> Arc<Members> {
    let flags = RunFlags { upstream: Some("redis://node:6379".into()), ..RunFlags::default() };
    rig::members(claims, &Settings::load(&flags).unwrap().upstream)
}

impl Model {
    fn new(nodes: u16) -> Self {
        let slot = |slot: u16| Slot { owner: Some(NodeId(slot % nodes)), since: 1, patched_at: 0 };
        let slots = (0..SLOTS).map(slot).collect();
        let claims: Vec<u64> = (1..=u64::from(nodes)).collect();
        let map = SlotMap::new(1, 0, members(&claims), Arc::from([]), slots);
        let owners: Vec<NodeId> = (0..USED).map(|slot| NodeId(slot % nodes)).collect();
        let holders = owners.iter().map(|owner| vec![*owner; usize::from(KEYS)]).collect();
        let (open, rounds, seen) = (Vec::new(), Rounds::default(), HashSet::new());
        Self { map, owners, open, claims, now: SECOND, holders, rounds, seen }
    }

    fn picture(&self) -> Picture<'_> {
        Picture { map: &self.map, epoch: 1, now: self.now }
    }

    /// The control plane fetches a map.
    fn fetch(&mut self) {
        let mut slots = self.map.slots().to_vec();
        let version = self.map.version + 1;
        for (slot, owner) in slots.iter_mut().zip(&self.owners) {
            if slot.owner != Some(*owner) {
                *slot = Slot { owner: Some(*owner), since: version, patched_at: 0 };
            }
        }
        let open = self.open.as_slice().into();
        self.map = SlotMap::new(version, self.now, members(&self.claims), open, slots);
    }

    /// Opens `slot` towards `target`, if it is not open yet.
    fn open(&mut self, slot: u16, target: NodeId) {
        let source = self.owners[usize::from(slot)];
        if source != target && self.open.iter().all(|open| open.slot != slot) {
            self.open.push(Migration { slot, source: Some(source), target: Some(target) });
        }
    }

    /// One key of an open slot crosses; behind the last one it is closed, as by CLUSTER SETSLOT
    /// NODE.
    fn cross(&mut self, slot: u16) {
        let open = self.open.iter().find(|open| open.slot == slot);
        let Some(target) = open.and_then(|open| open.target) else {
            return;
        };
        let keys = &mut self.holders[usize::from(slot)];
        if let Some(holder) = keys.iter_mut().find(|holder| **holder != target) {
            *holder = target;
            return;
        }
        self.open.retain(|open| open.slot != slot);
        self.owners[usize::from(slot)] = target;
        let greatest = *self.claims.iter().max().unwrap();
        let claim = &mut self.claims[usize::from(target.0)];
        if *claim < greatest {
            *claim = greatest + 1;
        }
    }

    /// One call of SCAN, as a node would answer it.
    fn call(&mut self, cursor: u64) -> u64 {
        self.now += SECOND / 1000;
        let mut rounds = std::mem::take(&mut self.rounds);
        let next = match rounds.step(cursor, self.picture()).unwrap() {
            Step::Done => 0,
            Step::Wait => {
                // The control plane was rung and fetches.
                self.now += SECOND / 1000;
                self.fetch();
                cursor
            }
            Step::Ask(visit) => {
                for slot in 0..USED {
                    for key in 0..KEYS {
                        let is_here =
                            self.holders[usize::from(slot)][usize::from(key)] == visit.node;
                        if is_here && u64::from(key) % BUCKETS == visit.cursor {
                            self.seen.insert((slot, key));
                        }
                    }
                }
                rounds.next(visit, (visit.cursor + 1) % BUCKETS, self.picture()).unwrap()
            }
        };
        self.rounds = rounds;
        assert!(next < 1 << 53, "JavaScript must be able to hold it");
        next
    }
}

#[test]
fn a_scan_visits_all_nodes_and_ends() {
    let mut model = Model::new(3);
    let (mut cursor, mut calls) = (model.call(0), 1);
    while cursor != 0 {
        cursor = model.call(cursor);
        calls += 1;
    }
    // One more waits for a map, and one sees that nothing has moved.
    assert_eq!(calls, 3 * BUCKETS + 2);
    assert_eq!(model.seen.len(), usize::from(USED * KEYS));
}

#[test]
fn scans_of_a_quiet_cluster_share_one_round() {
    let mut model = Model::new(3);
    let first = model.call(0);
    for _ in 0..5000 {
        model.now += 1000 * SECOND;
        assert_eq!(model.call(0), first);
    }
}

#[test]
fn cursors_that_are_not_ours_are_invalid() {
    let mut model = Model::new(3);
    let cursor = model.call(0);
    let mut rounds = std::mem::take(&mut model.rounds);
    let other = Picture { epoch: 2, ..model.picture() };
    assert_eq!(rounds.step(cursor, other), Err(NoStep::Invalid));
    assert_eq!(rounds.step(cursor ^ 1, model.picture()), Err(NoStep::Invalid));
    assert_eq!(Rounds::default().step(cursor, model.picture()), Err(NoStep::Invalid));
    let empty = SlotMap::empty();
    let nothing = Picture { map: &empty, ..model.picture() };
    assert_eq!(Rounds::default().step(0, nothing), Err(NoStep::NoNodes));
}

#[test]
fn a_server_s_cursor_comes_back_whole_or_is_refused() {
    let mut model = Model::new(3);
    let mut rounds = std::mem::take(&mut model.rounds);
    let Ok(Step::Ask(visit)) = rounds.step(0, model.picture()) else {
        panic!("nobody to ask");
    };
    for answer in [1, 7, 1 << 20, (1 << 40) - 1] {
        let cursor = rounds.next(visit, answer, model.picture()).unwrap();
        let want = Visit { cursor: answer, is_long: true, ..visit };
        assert_eq!(rounds.step(cursor, model.picture()), Ok(Step::Ask(want)));
    }
    assert_eq!(rounds.next(visit, 1 << 40, model.picture()), Err(NoStep::TooLarge));
}

#[test]
fn a_node_that_has_gone_is_passed_over() {
    let mut model = Model::new(3);
    let mut rounds = std::mem::take(&mut model.rounds);
    let Ok(Step::Ask(visit)) = rounds.step(0, model.picture()) else {
        panic!("nobody to ask");
    };
    let cursor = rounds.next(visit, 5, model.picture()).unwrap();
    let slots = model.map.slots().to_vec();
    let left = members(&[1, 2, 3]);
    let left = left.iter().skip(1).map(|member| (Arc::clone(member), Vec::new()));
    model.map = SlotMap::new(2, 0, Arc::new(Members::new(left)), Arc::from([]), slots);
    let step = rounds.step(cursor, model.picture());
    let want = Visit { place: 1, node: NodeId(1), cursor: 0, is_long: true, ..visit };
    assert_eq!(step, Ok(Step::Ask(want)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_key_is_missed_however_slots_move(
        moves in prop::collection::vec((0_u16..USED, 0_u16..4, 0_usize..9), 0..60),
        fetches in prop::collection::vec(0_u8..5, 60),
    ) {
        let mut model = Model::new(4);
        let mut cursor = model.call(0);
        let mut calls = 0;
        for ((slot, target, crossings), fetches) in moves.into_iter().zip(fetches) {
            if fetches == 0 {
                model.fetch();
            }
            model.open(slot, NodeId(target));
            for _ in 0..crossings {
                model.cross(slot);
            }
            if cursor == 0 {
                break;
            }
            cursor = model.call(cursor);
        }
        while cursor != 0 {
            cursor = model.call(cursor);
            calls += 1;
            prop_assert!(calls < 1000, "a scan ends when nothing moves any more");
        }
        let all: HashSet<_> =
            (0..USED).flat_map(|slot| (0..KEYS).map(move |key| (slot, key))).collect();
        let missed: Vec<_> = all.difference(&model.seen).collect();
        prop_assert!(missed.is_empty(), "missed {missed:?}");
    }
}

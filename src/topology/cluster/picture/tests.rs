//! Whom the picture believes.
//!
//! Owns a story: a cluster, what its nodes say in one refresh after the other, and the map that
//! follows. Views are written as CLUSTER NODES has them, in short. What surprises: a host is called
//! by its id, and a node that was reset by its old one with a 2.

use super::*;
use crate::topology::cluster::nodes;

/// A cluster's history: the numbers of its nodes, and the map in force.
struct Story {
    directory: Directory,
    map: SlotMap,
    /// Ids of those who cannot be asked.
    away: Vec<&'static str>,
}

/// A view by `by`, from lines such as `a 3 0-99` (primary, epoch, ranges), `b 3 of a`, `c 3 fail
/// 5`. Ids stand for hosts.
fn answer(by: &str, lines: &str) -> Answer {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let id = words.next().unwrap();
        let (host, epoch) = (id.trim_end_matches('2'), words.next().unwrap());
        let mut rest: Vec<&str> = words.collect();
        let mut flags = if id == by { "myself,".to_owned() } else { String::new() };
        let mut primary = "-";
        if rest.first() == Some(&"of") {
            primary = rest[1];
            flags += "slave";
            rest.drain(..2);
        } else {
            flags += "master";
        }
        if rest.first() == Some(&"fail") {
            flags += ",fail";
            rest.remove(0);
        }
        format!("{id} {host}:1@2 {flags} {primary} 0 0 {epoch} connected {}\n", rest.join(" "))
    };
    let text: String = lines.split(';').map(line).collect();
    let view = nodes::read(&text);
    assert_eq!(view.nodes.len(), lines.split(';').count(), "{text}");
    Answer { from: NodeId(0), view }
}

// === impl Story ===

impl Story {
    fn new() -> Self {
        Self { directory: Directory::for_tests(), map: SlotMap::empty(), away: Vec::new() }
    }

    /// Begun with a cluster of `a`, `b` and `c`, epochs 1 to 3, a third of the slots each.
    fn of_three() -> Self {
        let mut story = Self::new();
        story.told(10, &[answer("a", "a 1 0-4999; b 2 5000-9999; c 3 10000-16383")]).unwrap();
        story
    }

    fn told(&mut self, began: Micros, answers: &[Answer]) -> Result<Picture, Unusable> {
        let away: Vec<NodeId> = self.away.iter().map(|id| self.id(id)).collect();
        let is_away = |id| away.contains(&id);
        let picture = Picture::compose(answers, &self.map, &mut self.directory, began, is_away)?;
        self.map = picture.over(&self.map, Arc::from([]));
        Ok(picture)
    }

    fn owner(&self, slot: u16) -> Option<&str> {
        self.map.owner(slot).map(|member| &*member.cluster_id)
    }

    fn id(&self, id: &str) -> NodeId {
        self.map.members.iter().find(|member| &*member.cluster_id == id).unwrap().node.id
    }

    /// A redirect.
    fn moved(&mut self, slot: u16, to: &str, at: Micros) {
        self.map = self.map.patched(&[(slot, self.id(to))], at).unwrap();
    }
}

#[test]
fn the_first_view_is_the_map() {
    let story = Story::of_three();
    assert_eq!(
        (story.owner(0), story.owner(9999), story.owner(16383)),
        (Some("a"), Some("b"), Some("c"))
    );
    assert_eq!((story.map.uncovered(), story.map.version, story.map.fetched_at), (0, 1, 10));
    assert_eq!(story.map.members.at("b:1").unwrap().config_epoch, 2);
}

#[test]
fn the_higher_epoch_wins_a_slot_in_whatever_order_it_is_told() {
    let old = "a 1 0-4999; b 2 5000-9999; c 3 10000-16383";
    let new = "a 1 1-4999; b 4 0 5000-9999; c 3 10000-16383";
    for answers in [[answer("a", old), answer("b", new)], [answer("b", new), answer("a", old)]] {
        let mut story = Story::of_three();
        assert!(is_divided(&answers) && !is_divided(&answers[..1]));
        story.told(20, &answers).unwrap();
        assert_eq!((story.owner(0), story.owner(1)), (Some("b"), Some("a")));
        assert_eq!((story.map.slot(0).since, story.map.slot(1).since), (2, 1));
    }
}

#[test]
fn what_is_cut_off_and_knows_older_epochs_is_not_believed() {
    let mut story = Story::of_three();
    // d was promoted for a, which is cut off and does not know.
    story.told(20, &[answer("b", "a 1 fail; b 2 5000-9999; c 3 10000-16383; d 5 0-4999")]).unwrap();
    assert_eq!(story.owner(0), Some("d"));
    let cut_off = answer("a", "a 1 0-4999; b 2 fail 5000-9999; c 3 fail 10000-16383; d 1 of a");
    let alone = [cut_off];
    assert_eq!(witness(&alone, &story.map), Some(story.id("d")));
    assert_eq!(story.told(30, &alone).unwrap_err(), Unusable::Stale);
    let [cut_off] = alone;
    let fresh = answer("d", "a 5 of d; b 2 5000-9999; c 3 10000-16383; d 5 0-4999");
    story.told(40, &[cut_off, fresh]).unwrap();
    assert_eq!(story.owner(0), Some("d"));
    // One that knows an older epoch of a present primary is left out altogether.
    let behind = answer("c", "a 1 0-4999; b 2 5000-9999; c 3 10000-16383; d 4 0");
    assert_eq!(story.told(50, &[behind]).unwrap_err(), Unusable::Stale);
}

#[test]
fn an_owner_that_gives_a_slot_up_is_taken_at_its_word() {
    let mut story = Story::of_three();
    // By DELSLOTS and ADDSLOTS: no epoch rises.
    let told = || answer("a", "a 1 0-4999 10000; b 2 5000-9999; c 3 10001-16383");
    assert_eq!(witness(&[told()], &story.map), Some(story.id("c")));
    assert_eq!(story.told(20, &[told()]).unwrap_err(), Unusable::Stale);
    let owner = answer("c", "a 1 0-4999 10000; b 2 5000-9999; c 3 10001-16383");
    let both = [told(), owner];
    assert_eq!(witness(&both, &story.map), None);
    story.told(30, &both).unwrap();
    assert_eq!(story.owner(10000), Some("a"));
}

#[test]
fn what_an_owner_gave_away_does_not_come_back_by_hearsay() {
    // b takes slots from c by a new epoch, which c has not heard of when it tells.
    let c_told = || answer("c", "a 1 0-4999; b 2 5000-10000; c 3 10001-16383");
    let a_repeats = || answer("a", "a 1 0-4999; b 2 5000-9999; c 3 10000-16383");
    let mut story = Story::of_three();
    story.told(20, &[c_told()]).unwrap();
    assert_eq!(story.owner(10000), Some("b"));
    // Whether c is there to deny it or not.
    story.told(30, &[a_repeats(), c_told()]).unwrap();
    assert_eq!(story.owner(10000), Some("b"));
    let _ = story.told(40, &[a_repeats()]);
    assert_eq!(story.owner(10000), Some("b"));
    // A newer claim of c's is one, if b does not deny it: as long as it says nothing it would redirect.
    let newer = |by: &str| answer(by, "a 1 0-4999; b 2 5000-9999; c 9 10000-16383");
    assert_eq!(witness(&[newer("a")], &story.map), Some(story.id("b")));
    story.told(50, &[newer("a")]).unwrap();
    assert_eq!(story.owner(10000), Some("b"));
    assert_eq!(witness(&[newer("a"), newer("b")], &story.map), None);
    story.told(60, &[newer("a"), newer("b")]).unwrap();
    assert_eq!(story.owner(10000), Some("c"));
}

#[test]
fn a_map_with_holes_replaces_no_whole_one() {
    let mut story = Story::of_three();
    let picture = story.told(20, &[answer("b", "a 1; b 2 5000-9999; c 3 10000-16383")]).unwrap();
    assert_eq!((picture.unclaimed(), story.map.uncovered()), (5000, 0));
    assert_eq!((story.owner(7), story.map.slot(7).since), (Some("a"), 1));
    // Who is no member any more serves nothing.
    story.told(30, &[answer("b", "b 2 5000-9999; c 3 10000-16383")]).unwrap();
    assert_eq!((story.owner(7), story.map.uncovered()), (None, 5000));
}

#[test]
fn a_redirect_is_older_or_younger_than_a_question() {
    let mut story = Story::of_three();
    story.moved(7, "b", 25);
    story.told(24, &[answer("a", "a 1 0-4999; b 2 5000-9999; c 3 10000-16383")]).unwrap();
    assert_eq!((story.owner(7), story.map.slot(7).patched_at), (Some("b"), 25));
    assert_eq!(story.map.slot(7).since, 2, "the owner did not change");
    let told = answer("a", "a 1 0-6 8-4999; b 4 7 5000-9999; c 3 10000-16383");
    story.told(26, &[told]).unwrap();
    assert_eq!((story.owner(7), story.map.slot(7).patched_at), (Some("b"), 0));
    assert_eq!(story.map.slot(7).since, 2);
}

#[test]
fn a_redirect_stands_against_lower_epochs_but_not_against_its_own_owner() {
    let mut story = Story::of_three();
    let told = |by: &str| answer(by, "a 1 0-4999; b 2 5000-9999; c 3 10000-16383");
    story.moved(7, "c", 25);
    // A question that is younger than the redirect, and an answer that may not know of it yet.
    story.told(30, &[told("b")]).unwrap();
    assert_eq!(story.owner(7), Some("c"), "a lower epoch has replaced a higher one");
    assert_eq!(story.map.slot(7).patched_at, 25, "nobody has confirmed it");
    story.moved(8, "c", 35);
    story.told(40, &[told("c")]).unwrap();
    assert_eq!((story.owner(7), story.owner(8)), (Some("a"), Some("a")));
}

#[test]
fn a_redirect_stands_against_an_old_claim_that_we_hear_of_late() {
    // The slots were b's by an epoch that we did not hear of, and are a's by one that nobody has told.
    let c_repeats = || answer("c", "a 1 0-6 8-4999; b 4 7 5000-9999; c 3 10000-16383");
    let begun = || {
        let mut story = Story::of_three();
        story.moved(7, "c", 15);
        story.moved(7, "a", 25);
        story
    };
    let mut story = begun();
    story.told(30, &[c_repeats()]).unwrap();
    assert_eq!(story.owner(7), Some("a"));
    assert_eq!(story.map.slot(7).patched_at, 25, "nobody has confirmed it");
    // The claimant itself knows what it has, and nobody contradicts for who is away.
    let mut story = begun();
    story.told(30, &[answer("b", "a 1 0-6 8-4999; b 4 7 5000-9999; c 3 10000-16383")]).unwrap();
    assert_eq!(story.owner(7), Some("b"));
    let mut story = begun();
    story.away = vec!["a"];
    story.told(30, &[c_repeats()]).unwrap();
    assert_eq!(story.owner(7), Some("b"));
}

#[test]
fn another_cluster_at_the_same_addresses_needs_the_majority() {
    let mut story = Story::of_three();
    let number = story.id("a");
    let ours = || answer("c", "a 1 0-4999; b 2 5000-9999; c 3 10000-16383");
    let alone = |id: &str| answer(id, &format!("{id} 0"));
    let other = |by: &str| answer(by, "a2 1 0-9999; b2 1 10000-16383");
    // Nodes that were reset and know nobody yet agree on nothing.
    let told = [alone("a2"), alone("b2")];
    assert!(has_stranger(&told, &story.map) && !has_stranger(&[ours()], &story.map));
    assert_eq!(story.told(20, &told).unwrap_err(), Unusable::Divided);
    assert!(!story.told(20, &[other("a2"), ours()]).unwrap().is_new_generation());
    assert_eq!(story.owner(5000), Some("b"));
    let picture = story.told(30, &[other("a2"), ours(), other("b2")]).unwrap();
    assert!(picture.is_new_generation());
    // Its epochs begin anew, and are lower; numbers belong to addresses.
    assert_eq!((story.owner(5000), story.owner(16383)), (Some("a2"), Some("b2")));
    assert_eq!((story.id("a2"), story.map.slot(0).since), (number, 1));
    assert!(!story.told(40, &[other("a2")]).unwrap().is_new_generation());
}

#[test]
fn who_has_no_address_is_no_member_and_holds_no_slot() {
    let mut story = Story::new();
    let mut told = answer("a", "a 1 0-9; b 2 10-16383");
    told.view.nodes[1].host = crate::topology::cluster::view::Host::Unknown;
    story.told(10, &[told]).unwrap();
    assert_eq!((story.owner(9), story.owner(10)), (Some("a"), None));
    assert_eq!(story.told(20, &[]).unwrap_err(), Unusable::Silence);
}

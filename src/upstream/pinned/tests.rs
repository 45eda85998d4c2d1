//! The budget of connections of one client each, and the fairness of its queue.
//!
//! Owns a worker without sockets and a small budget. A session that was told to wait is woken by
//! nobody here: each test offers its command again itself, in the wrong order where the right one
//! must not depend on luck.

use super::*;
use crate::config::PinnedMax;
use crate::upstream::rig::Rig;

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
const BLPOP: &[u8] = b"*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n";
const BUSY: &[u8] = b"-ERR breakwater: not executed: waited ";

/// A rig with so many places.
fn bounded(most: usize) -> Rig {
    let mut rig = Rig::with(|upstream| upstream.pinned_max = PinnedMax::Fixed(most));
    tick(&mut rig.worker);
    rig
}

/// A client that says a command that needs a connection of its own.
fn ask(rig: &mut Rig, command: &[u8]) -> SessionId {
    let client = rig.client();
    rig.say(client, command);
    client
}

fn has_one(rig: &Rig, client: SessionId) -> bool {
    let session = rig.worker.sessions.get(client).unwrap();
    session.pin.as_ref().is_some_and(|pin| pin.lane.is_some())
}

/// An empty transaction of a client that has just begun it: its connection rests afterwards.
fn finish(rig: &mut Rig, client: SessionId) {
    rig.focus_on(client).hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    rig.say(client, EXEC);
    rig.hand_over_all();
    rig.answer(b"*0\r\n").unwrap();
    assert!(!has_one(rig, client));
}

/// Time passes until those who have waited since now are told.
fn let_wait_end(rig: &mut Rig) {
    let wait = rig.worker.shared.topology.load().node.settings.pinned_wait;
    rig.worker.now = clock::micros() + clock::to_micros(wait);
    tick(&mut rig.worker);
}

fn waiting(rig: &Rig) -> usize {
    rig.worker.pinned.queue.len()
}

#[test]
fn the_bound_is_the_operator_s_or_four_fifths_of_what_the_server_has_left() {
    let budget = PinnedBudget::default();
    for (settings, clients, most) in [
        (PinnedMax::Fixed(7), Some((10_000, 10)), 7),
        (PinnedMax::Fixed(7), None, 7),
        (PinnedMax::Auto, Some((10_000, 10)), 7990),
        (PinnedMax::Auto, Some((10_000, 9000)), KEPT_MIN + 1),
        (PinnedMax::Auto, Some((10, 3)), 5),
        (PinnedMax::Auto, None, UNKNOWN_MAX),
    ] {
        budget.set_most(settings, clients);
        assert_eq!(budget.most(), most, "{clients:?}");
    }
}

#[test]
fn places_come_back_when_they_are_dropped_and_not_before() {
    let budget = Arc::new(PinnedBudget::default());
    budget.set_most(PinnedMax::Fixed(3), None);
    let mut places: Vec<Place> = (0..3).map(|_| budget.reserve().unwrap()).collect();
    assert!(budget.reserve().is_none());
    assert_eq!(budget.in_use(), 3);
    places.pop();
    assert_eq!(budget.in_use(), 2);
    let _again = budget.reserve().unwrap();
    assert!(budget.reserve().is_none());
    // A smaller bound takes nobody's place away, and gives none.
    budget.set_most(PinnedMax::Fixed(1), None);
    assert!(budget.reserve().is_none());
    assert_eq!(budget.in_use(), 3);
}

#[test]
fn a_tenth_and_never_less_than_four_stay_out_of_reach_of_those_who_wait() {
    for (most, lasting) in
        [(1, 1), (4, 1), (5, 1), (10, 6), (40, 36), (41, 36), (100, 90), (1000, 900)]
    {
        let budget = Arc::new(PinnedBudget::default());
        budget.set_most(PinnedMax::Fixed(most), None);
        let places: Vec<_> = std::iter::from_fn(|| budget.reserve_lasting()).collect();
        assert_eq!(places.len(), lasting, "of {most}");
        drop(places);
        assert!(budget.reserve_lasting().is_some());
    }
}

#[test]
fn who_asked_first_is_served_first_whoever_is_woken_first() {
    let mut rig = bounded(2);
    let holders = [ask(&mut rig, MULTI), ask(&mut rig, MULTI)];
    let askers: Vec<SessionId> = (0..4).map(|_| ask(&mut rig, MULTI)).collect();
    assert_eq!(waiting(&rig), 4);
    for place in 0..4 {
        // One connection becomes free, and everybody runs for it, the last ones first.
        let giver = if place < 2 { holders[place] } else { askers[place - 2] };
        finish(&mut rig, giver);
        askers[place..].iter().rev().for_each(|asker| rig.resume(*asker));
        let late = ask(&mut rig, MULTI);
        let have = askers.iter().filter(|asker| has_one(&rig, **asker)).count();
        assert!(has_one(&rig, askers[place]), "asker {place}");
        assert!(!has_one(&rig, late), "a newcomer overtakes");
        assert_eq!(have, 2 - usize::from(place == 0));
        rig.leave(late);
    }
    assert_eq!(rig.worker.shared.pinned.in_use(), 2);
}

#[test]
fn those_who_want_to_wait_stand_in_nobody_s_way_but_each_other_s() {
    let mut rig = bounded(6);
    let lasting = [ask(&mut rig, BLPOP), ask(&mut rig, BLPOP)];
    assert!(lasting.iter().all(|client| has_one(&rig, *client)));
    let asker = ask(&mut rig, BLPOP);
    assert!(!has_one(&rig, asker));
    // Four places are left, and all of them can be had at once.
    let brief: Vec<SessionId> = (0..4).map(|_| ask(&mut rig, MULTI)).collect();
    assert!(brief.iter().all(|client| has_one(&rig, *client)));
    // Their connections rest; those are no way around the bound either.
    brief.iter().for_each(|client| finish(&mut rig, *client));
    rig.resume(asker);
    assert!(!has_one(&rig, asker));
    let again = ask(&mut rig, MULTI);
    assert!(has_one(&rig, again));
    // One of those who wait leaves: its successor gets in.
    rig.leave(lasting[0]);
    rig.resume(asker);
    assert!(has_one(&rig, asker));
    let next = ask(&mut rig, BLPOP);
    assert!(!has_one(&rig, next));
}

#[test]
fn a_watch_that_turns_into_a_wait_is_counted_as_one() {
    let mut rig = bounded(5);
    let first = ask(&mut rig, BLPOP);
    assert!(has_one(&rig, first));
    let watcher = ask(&mut rig, b"*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n");
    rig.focus_on(watcher).hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    rig.say(watcher, BLPOP);
    assert_eq!(rig.queued(), b"", "two of five wait, and only one may");
    rig.leave(first);
    rig.resume(watcher);
    assert_eq!(rig.queued(), BLPOP);
}

#[test]
fn who_has_waited_too_long_is_told_and_the_others_keep_their_places() {
    let mut rig = bounded(1);
    let holder = ask(&mut rig, MULTI);
    let early = ask(&mut rig, MULTI);
    let_wait_end(&mut rig);
    let late = ask(&mut rig, MULTI);
    rig.resume(early);
    assert!(rig.owed(early).starts_with(BUSY));
    assert_eq!((rig.owed(late), waiting(&rig)), (Vec::new(), 1));
    finish(&mut rig, holder);
    rig.resume(late);
    assert!(has_one(&rig, late));
    // The one that was refused may ask again, and waits its whole time again.
    rig.say(early, MULTI);
    assert_eq!(waiting(&rig), 1);
    tick(&mut rig.worker);
    finish(&mut rig, late);
    rig.resume(early);
    assert!(has_one(&rig, early));
}

#[test]
fn nobody_stands_in_the_queue_who_does_not_ask_any_more() {
    let block_end = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*1\r\n$4\r\nEXEC\r\n";
    let mut rig = bounded(1);
    let holder = ask(&mut rig, MULTI);
    let (gone, whole, last) = (ask(&mut rig, MULTI), ask(&mut rig, MULTI), ask(&mut rig, MULTI));
    assert_eq!(waiting(&rig), 3);
    // One leaves, and one turns out to be a block that needs no connection of its own.
    rig.leave(gone);
    let mut session = rig.worker.sessions.lend(whole).unwrap();
    crate::session::feed::hold(&mut rig.worker, &mut session, block_end);
    rig.worker.sessions.restore(whole, session);
    rig.resume(whole);
    finish(&mut rig, holder);
    rig.resume(last);
    assert!(has_one(&rig, last), "{} stand before it", waiting(&rig));
    let_wait_end(&mut rig);
    let session = rig.worker.sessions.get(whole).unwrap();
    assert!(
        !session.pin_refused && !session.asks_pin,
        "it will be refused what it never asked for"
    );
}

#[test]
fn a_connection_that_rests_for_others_gives_way() {
    let mut rig = bounded(2);
    let clients = [ask(&mut rig, MULTI), ask(&mut rig, MULTI)];
    clients.iter().for_each(|client| finish(&mut rig, *client));
    // Database 1 wants another connection than those that rest.
    let mut other = rig.client();
    rig.say(other, b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n");
    rig.say(other, MULTI);
    assert!(!has_one(&rig, other));
    let retired = |rig: &Rig| {
        let lanes = rig.worker.lanes.keys().filter_map(|id| rig.worker.lanes.get(id));
        lanes.filter(|lane| lane.retired).map(|lane| lane.id).collect::<Vec<_>>()
    };
    let id = retired(&rig)[0];
    assert_eq!(retired(&rig).len(), 1, "one is enough");
    // Its task ends.
    rig.worker.lanes.remove(id);
    rig.resume(other);
    assert!(has_one(&rig, other));
    // The other one still serves database 0.
    other = ask(&mut rig, MULTI);
    assert!(has_one(&rig, other));
    assert_eq!(rig.worker.shared.pinned.in_use(), 2);
}

//! Waiting for one node, or for whoever takes its place, without sockets.
//!
//! Owns a primary that Sentinels elected, a plain Redis, and a successor that a test publishes.
//! What surprises: the clock is read with each command that a client sends, so time is moved only
//! between two of them.

use std::sync::Arc;

use crate::clock::{MILLISECOND, SECOND};
use crate::config::{Endpoint, SentinelSettings};
use crate::dispatch::departure;
use crate::resp::write::command;
use crate::session::state::SessionId;
use crate::stats::labels::{DialFailure, ErrorClass};
use crate::topology::Topology;
use crate::topology::slots::NodeId;
use crate::upstream::dial::{DialError, Node};
use crate::upstream::health::chart::{Answered, Signal};
use crate::upstream::lane::LaneState;
use crate::upstream::rig::Rig;
use crate::upstream::succession;

const READONLY: &[u8] = b"-READONLY You can't write against a read only replica.\r\n";
const LOADING: &[u8] = b"-LOADING Redis is loading the dataset in memory\r\n";

fn line(words: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    let mut bytes = Vec::new();
    command(&mut bytes, &words);
    bytes
}

fn behind_sentinels() -> Rig {
    Rig::with(|settings| {
        let seeds = vec![Endpoint::Tcp { host: "sentinel".into(), port: 26379 }];
        let (master_name, credentials) = ("mymaster".into(), None);
        settings.sentinel = Some(SentinelSettings { seeds, master_name, credentials });
    })
}

fn publish(rig: &Rig, change: impl FnOnce(&mut Topology)) {
    let published = &rig.worker.shared.topology;
    let mut topology = Topology::clone(&published.load_full());
    change(&mut topology);
    published.store(Arc::new(topology));
}

/// Another node is the primary.
fn succeed(rig: &Rig) {
    publish(rig, |topology| {
        let settings = topology.node.settings.clone();
        let node = Node { name: "successor".into(), ..Node::new(NodeId(1), settings, None) };
        (topology.epoch, topology.node) = (topology.epoch + 1, Arc::new(node));
    });
}

fn announce_failover(rig: &Rig) {
    let until = rig.worker.now + 60 * SECOND;
    publish(rig, |topology| topology.failover_until = until);
}

fn later(rig: &mut Rig) {
    let before = rig.worker.now;
    rig.worker.begin_batch();
    rig.worker.now = rig.worker.now.max(before) + 50 * MILLISECOND;
    departure::due(&mut rig.worker);
}

fn told(rig: &mut Rig, client: SessionId) -> String {
    String::from_utf8(rig.take(client)).unwrap()
}

#[test]
fn a_write_that_a_deposed_primary_refuses_goes_to_its_successor_and_the_next_ones_behind_it() {
    let mut rig = behind_sentinels();
    let ann = rig.client();
    rig.say(ann, &[line("SET a 1"), line("SET a 2")].concat());
    rig.hand_over_all();
    rig.answer(&[READONLY, READONLY].concat()).unwrap();
    rig.say(ann, &line("SET a 3"));
    assert_eq!((told(&mut rig, ann), rig.queued()), (String::new(), Vec::new()));
    succeed(&rig);
    later(&mut rig);
    for write in ["SET a 1", "SET a 2", "SET a 3"] {
        assert_eq!(rig.focus_on_node(1).queued(), line(write));
        rig.hand_over_all();
        rig.answer(b"+OK\r\n").unwrap();
        later(&mut rig);
        rig.resume(ann);
    }
    assert_eq!(told(&mut rig, ann), "+OK\r\n".repeat(3));
}

#[test]
fn a_replica_that_somebody_chose_says_so_at_once() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, &line("SET a 1"));
    rig.hand_over_all();
    rig.answer(READONLY).unwrap();
    assert_eq!(told(&mut rig, ann).as_bytes(), READONLY);
}

/// The control plane has asked the node, and this came of it.
fn beat(rig: &mut Rig, error: Option<ErrorClass>) {
    let node = Arc::clone(&rig.worker.topology.load().node);
    node.note(Signal::Beat(&Answered { error, ..Answered::default() }), rig.worker.now);
}

#[test]
fn loading_is_waited_for_and_never_shown() {
    let mut rig = Rig::new();
    let (ann, bob, eve) = (rig.client(), rig.client(), rig.client());
    rig.worker.topology.load().node.health.watched(true);
    beat(&mut rig, None);
    for client in [ann, bob] {
        rig.say(client, &line("INCR a"));
    }
    rig.hand_over_all();
    rig.answer(&[LOADING, LOADING].concat()).unwrap();
    rig.say(ann, &line("GET a"));
    rig.say(eve, &line("INCR a"));
    later(&mut rig);
    assert_eq!(rig.queued(), b"", "the control plane asks whether it is over, and nobody else");
    beat(&mut rig, None);
    later(&mut rig);
    assert_eq!(rig.queued(), line("INCR a").repeat(3), "each client's first");
    rig.hand_over_all();
    rig.answer(&[b":1\r\n", LOADING, LOADING].concat()).unwrap();
    beat(&mut rig, Some(ErrorClass::Loading));
    rig.worker.now += 3 * SECOND;
    departure::due(&mut rig.worker);
    assert_eq!(told(&mut rig, ann), ":1\r\n");
    for client in [bob, eve] {
        assert!(told(&mut rig, client).contains("is loading its data (loading)"));
    }
}

#[test]
fn what_a_script_says_of_loading_it_says_unless_its_node_agrees() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, &line("EVAL x 0"));
    rig.hand_over_all();
    rig.answer(LOADING).unwrap();
    assert_eq!(rig.queued(), line("PING"));
    rig.hand_over_all();
    rig.answer(b"+PONG\r\n").unwrap();
    assert_eq!(told(&mut rig, ann).as_bytes(), LOADING);
    for words in ["-MOVED 3999 127.0.0.1:1\r\n", "-TRYAGAIN later\r\n", "+OK\r\n"] {
        rig.say(ann, &line("EVAL x 0"));
        rig.hand_over_all();
        rig.answer(words.as_bytes()).unwrap();
        assert_eq!(told(&mut rig, ann), words);
    }
}

/// The node cannot be dialled, as far as this worker knows.
fn lose_for_good(rig: &mut Rig) {
    let error = DialError::new(DialFailure::Refused, "refused".into());
    let hour = 3600 * SECOND;
    let now = rig.worker.now + hour;
    let node = Arc::clone(&rig.worker.topology.load().node);
    node.note(Signal::DialFailed { error: &error, is_probe: false }, now);
    let id = rig.lane_id();
    rig.worker.lanes.get_mut(id).unwrap().state = LaneState::Dialling;
}

#[test]
fn with_the_node_gone_nobody_waits_unless_a_successor_is_announced() {
    let mut rig = behind_sentinels();
    let (ann, bob) = (rig.client(), rig.client());
    rig.open_lane_of(ann);
    lose_for_good(&mut rig);
    rig.say(bob, &line("INCR b"));
    assert!(told(&mut rig, bob).contains("is down (refused)"), "at once");
    announce_failover(&rig);
    rig.say(bob, &[line("INCR b"), line("INCR c")].concat());
    rig.say(ann, &line("WATCH a"));
    assert_eq!(told(&mut rig, bob), "");
    succeed(&rig);
    later(&mut rig);
    rig.resume(ann);
    assert_eq!(rig.focus_on_node(1).queued(), line("INCR b"));
    assert_eq!(rig.focus_on(ann).queued(), line("WATCH a"));
    assert_eq!(told(&mut rig, bob), "");
}

#[test]
fn what_is_refused_does_not_overtake_what_is_still_on_a_lane() {
    let mut rig = behind_sentinels();
    let ann = rig.client();
    rig.open_lane_of(ann);
    rig.say(ann, &line("SET a 1"));
    lose_for_good(&mut rig);
    announce_failover(&rig);
    rig.say(ann, &line("SET a 2"));
    succeed(&rig);
    // Whoever looks first at the new snapshot, be it the one that sends what waits.
    rig.worker.detouring.mark(ann);
    later(&mut rig);
    rig.resume(ann);
    assert_eq!(rig.focus_on_node(1).queued(), line("SET a 1"));
    rig.hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    later(&mut rig);
    rig.resume(ann);
    assert_eq!(rig.focus_on_node(1).queued(), line("SET a 2"));
}

#[test]
fn a_client_waits_no_longer_than_it_may() {
    let mut rig = behind_sentinels();
    let (ann, bob) = (rig.client(), rig.client());
    rig.open_lane_of(ann);
    lose_for_good(&mut rig);
    announce_failover(&rig);
    rig.say(bob, &line("INCR b"));
    later(&mut rig);
    assert_eq!(told(&mut rig, bob), "");
    rig.worker.now += 3 * SECOND;
    departure::due(&mut rig.worker);
    assert!(told(&mut rig, bob).contains("is down (refused)"));
}

#[test]
fn what_was_sent_to_a_deposed_primary_has_a_moment_and_what_was_not_goes_to_its_successor() {
    let mut rig = behind_sentinels();
    let (ann, eve) = (rig.client(), rig.client());
    rig.open_lane_of(ann);
    rig.say(ann, &line("INCR a"));
    rig.hand_over_all();
    let old = rig.lane_id();
    succeed(&rig);
    rig.say(eve, &line("INCR c"));
    assert_eq!(rig.focus_on_node(1).queued(), line("INCR c"));
    assert!(rig.worker.lanes.get(old).unwrap().broken.is_none(), "its moment has begun");
    // Still answered by the old one.
    rig.focus_on_node(0).answer(b":1\r\n").unwrap();
    assert_eq!(told(&mut rig, ann), "+PONG\r\n:1\r\n");
}

#[test]
fn a_deposed_primary_that_says_nothing_is_left_after_its_moment() {
    let mut rig = behind_sentinels();
    let ann = rig.client();
    rig.open_lane_of(ann);
    rig.say(ann, &line("INCR a"));
    rig.hand_over_all();
    let old = rig.lane_id();
    succeed(&rig);
    rig.worker.begin_batch();
    for (waited, is_left) in [(200 * MILLISECOND, false), (300 * MILLISECOND, true)] {
        rig.worker.now = rig.worker.succeeded_at + waited;
        let mut lane = rig.worker.lanes.lend(old).unwrap();
        succession::expire(&mut rig.worker, &mut lane);
        assert_eq!(lane.broken.is_some(), is_left);
        rig.worker.lanes.restore(old, lane);
    }
    rig.focus_on_node(0).lose();
    assert!(told(&mut rig, ann).contains("-ERR breakwater: outcome unknown"));
}

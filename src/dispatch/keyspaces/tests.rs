//! Keyspaces on the way of a command, without sockets: what is held back, and how long is waited.
//!
//! Owns a plain Redis, its replica that a test publishes, and a primary that Sentinels elected. What
//! surprises: the clock is read with each command that a client sends, so time is moved only between
//! two of them.

use std::sync::Arc;

use crate::clock::{MILLISECOND, SECOND};
use crate::config::{Endpoint, Profile, SentinelSettings};
use crate::dispatch::departure;
use crate::policy::Policy;
use crate::policy::file::{self, Clock};
use crate::policy::rule::Origin;
use crate::resp::write::command;
use crate::session::state::SessionId;
use crate::stats::labels::DialFailure;
use crate::topology::Topology;
use crate::topology::slots::NodeId;
use crate::upstream::dial::{DialError, Node};
use crate::upstream::health::chart::Signal;
use crate::upstream::rig::Rig;

fn line(words: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    let mut bytes = Vec::new();
    command(&mut bytes, &words);
    bytes
}

fn told(rig: &mut Rig, client: SessionId) -> String {
    String::from_utf8(rig.take(client)).unwrap()
}

/// A client under a policy of this one keyspace, `k:*`.
fn under(mut rig: Rig, says: &str) -> (Rig, SessionId) {
    let ann = rig.client();
    let text = format!("[[keyspace]]\nname = \"k\"\nkeys = [\"k:*\"]\n{says}\n");
    let read = file::parse("p", &text, Origin::File, Clock { now: 0, unix: 0 }).unwrap();
    let policy = Policy::new(7, Profile::Open, Vec::new()).with_keyspaces(read.keyspaces);
    rig.worker.shared.policy.store(Arc::new(policy));
    (rig, ann)
}

fn publish(rig: &Rig, change: impl FnOnce(&mut Topology)) {
    let published = &rig.worker.shared.topology;
    let mut topology = Topology::clone(&published.load_full());
    change(&mut topology);
    published.store(Arc::new(topology));
}

/// The node has a replica, which is in step for the next seconds.
fn with_replica(rig: &Rig) -> Arc<Node> {
    let settings = rig.worker.shared.topology.load().node.settings.clone();
    let replica = Arc::new(Node { name: "replica".into(), ..Node::new(NodeId(1), settings, None) });
    replica.freshness.note(Some(0), false, crate::clock::micros());
    publish(rig, |topology| topology.replicas = Arc::from([Arc::clone(&replica)]));
    replica
}

fn node(rig: &Rig) -> Arc<Node> {
    Arc::clone(&rig.worker.shared.topology.load().node)
}

/// The control plane finds nobody there.
fn kill(rig: &Rig) {
    let node = node(rig);
    node.health.watched(true);
    let error = DialError::new(DialFailure::Refused, "refused".into());
    for _ in 0..9 {
        node.note(Signal::DialFailed { error: &error, is_probe: true }, rig.worker.now);
    }
    assert!(node.health.is_away());
}

/// The node that a client's last command went to.
fn asked(rig: &Rig, client: SessionId) -> NodeId {
    let lane = rig.worker.sessions.get(client).unwrap().lane.unwrap();
    rig.worker.lanes.get(lane).unwrap().key.node
}

/// Whether a client's last command went to the replica.
fn has_left(rig: &Rig, client: SessionId) -> bool {
    let lane = rig.worker.sessions.get(client).unwrap().lane;
    lane.is_some_and(|lane| rig.worker.lanes.get(lane).unwrap().key.node == NodeId(1))
}

#[test]
fn a_read_leaves_only_if_nothing_but_reads_is_under_way_and_a_write_waits_for_it() {
    let (mut rig, ann) = under(Rig::new(), "read_from = \"prefer-replica\"");
    with_replica(&rig);
    rig.say(ann, &[line("SET k:1 v"), line("GET k:1")].concat());
    assert_eq!(asked(&rig, ann), NodeId(0), "its own write is under way");
    rig.focus_on(ann).hand_over_all();
    rig.answer(b"+OK\r\n$1\r\nv\r\n").unwrap();
    rig.say(ann, &[line("GET k:1"), line("GET k:2"), line("SET k:1 w")].concat());
    assert_eq!(asked(&rig, ann), NodeId(1));
    assert_eq!(rig.focus_on(ann).queued(), [line("GET k:1"), line("GET k:2")].concat());
    rig.hand_over_all();
    rig.answer(b"$1\r\nv\r\n$-1\r\n").unwrap();
    rig.resume(ann);
    assert_eq!(asked(&rig, ann), NodeId(0), "and now the write");
    assert_eq!(rig.focus_on(ann).queued(), line("SET k:1 w"));
    // What has no keyspace, or a keyspace that says nothing of reads, stays.
    let bob = rig.client();
    rig.say(bob, &line("MGET k:1 other"));
    assert_eq!(asked(&rig, bob), NodeId(0));
}

#[test]
fn only_a_primary_that_is_away_is_stood_in_for_and_only_by_who_is_near_enough() {
    let (mut rig, ann) = under(Rig::new(), "when_primary_away = \"replica\"\nmax_lag = \"3s\"");
    let replica = with_replica(&rig);
    rig.say(ann, &line("GET k:1"));
    assert_eq!(asked(&rig, ann), NodeId(0), "it is well");
    rig.focus_on(ann).hand_over_all();
    rig.answer(b"$1\r\nv\r\n").unwrap();
    told(&mut rig, ann);
    kill(&rig);
    rig.say(ann, &line("GET k:1"));
    assert_eq!(asked(&rig, ann), NodeId(1));
    rig.focus_on(ann).hand_over_all();
    rig.answer(b"$1\r\nw\r\n").unwrap();
    assert_eq!(told(&mut rig, ann), "$1\r\nw\r\n");
    for words in ["SET k:1 x", "GET other", "MGET k:1 other", "HSCAN k:h 0", "EVAL return(1) 1 k:1"]
    {
        let bob = rig.client();
        rig.say(bob, &line(words));
        // What needs another lane than the one that stands is refused at once.
        assert!(!has_left(&rig, bob), "{words}");
    }
    replica.freshness.note(Some(3 * SECOND), true, rig.worker.now);
    let eve = rig.client();
    rig.say(eve, &line("GET k:1"));
    assert!(!has_left(&rig, eve), "too old");
}

#[test]
fn a_read_that_was_lost_with_its_primary_goes_on_at_the_replica() {
    let (mut rig, ann) = under(Rig::new(), "when_primary_away = \"replica\"");
    with_replica(&rig);
    rig.say(ann, &line("GET k:1"));
    rig.focus_on(ann).hand_over_all();
    kill(&rig);
    rig.lose();
    rig.worker.begin_batch();
    departure::due(&mut rig.worker);
    let lanes: Vec<_> = rig.worker.lanes.keys().collect();
    let to_replica = lanes.into_iter().find(|id| {
        let lane = rig.worker.lanes.get(*id).unwrap();
        lane.key.node == NodeId(1) && !lane.is_idle()
    });
    assert!(to_replica.is_some(), "it waits for nobody");
}

#[test]
fn a_keyspace_says_how_long_is_waited_for_a_failover() {
    let elected = || {
        Rig::with(|settings| {
            let seeds = vec![Endpoint::Tcp { host: "sentinel".into(), port: 26379 }];
            let (master_name, credentials) = ("mymaster".into(), None);
            settings.sentinel = Some(SentinelSettings { seeds, master_name, credentials });
        })
    };
    for (says, waits) in [
        ("wait = \"0\"", 0),
        ("wait = \"2s\"\nclient_timeout = \"4s\"", 2_000),
        // The listener's clients are taken to wait for 500 ms.
        ("wait = \"2s\"", 400),
        ("client_timeout = \"1s\"", 800),
        ("mode = \"readwrite\"\nclient_timeout = \"10s\"", 3_000),
    ] {
        let (mut rig, ann) = under(elected(), says);
        let until = rig.worker.now + 3600 * SECOND;
        publish(&rig, |topology| topology.failover_until = until);
        kill(&rig);
        rig.say(ann, &line("SET k:1 v"));
        let began = rig.worker.now;
        let mut waited = 0;
        while told(&mut rig, ann).is_empty() {
            rig.worker.begin_batch();
            waited += 50;
            assert!(waited < 10_000, "{says}: for ever");
            rig.worker.now = began + waited * MILLISECOND;
            departure::due(&mut rig.worker);
        }
        assert!((waits..=waits + 150).contains(&waited), "{says}: {waited} ms");
    }
}

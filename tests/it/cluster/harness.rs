//! The tests' own cluster does what it promises: each way of reshaping and hurting it, seen by a direct client.
//!
//! Owns the proof that the other suites test against what they think. Never starts a proxy. What surprises: the
//! answers compared are Redis's, so that a newer Redis may change them.

use std::time::Duration;

use crate::support::cluster::{Cluster, Failover, Shape, key_in, share, slot_of};
use crate::support::relay::Way;
use crate::support::{Client, until};

#[test]
fn a_cluster_forms_and_its_slots_move() {
    let cluster = Cluster::start(3, 1);
    assert_eq!(cluster.owners(), (0..16_384).map(by_share).collect::<Vec<_>>());
    assert_eq!((0..3).map(|i| cluster.replicas_of(i)).collect::<Vec<_>>(), [[3], [4], [5]]);
    let slot = slot_of(&key_in(42, 0));
    assert_eq!(slot, 42);
    assert_eq!(cluster.node(0).text(&format!("CLUSTER KEYSLOT {}", key_in(42, 7))), ":42\r\n");
    fill(&mut cluster.node(0), 42, 25);
    let mut mover = cluster.mover();
    mover.open(42, 0, 1);
    assert_eq!(mover.move_keys(42, 0, 1, 10), 10);
    assert_eq!(cluster.owner(42), 0);
    assert_eq!(cluster.view(0).own().open, [format!("42->-{}", cluster.id(1))]);
    let missing = cluster.node(0).text(&format!("GET {}", key_in(42, 99)));
    assert_eq!(missing, format!("-ASK 42 127.0.0.1:{}\r\n", cluster.port(1)));
    mover.move_slot(42, 0, 1);
    assert_eq!(cluster.owner(42), 1);
    assert_eq!(cluster.node(1).text("CLUSTER COUNTKEYSINSLOT 42"), ":25\r\n");
    let moved = cluster.node(0).text(&format!("GET {}", key_in(42, 0)));
    assert_eq!(moved, format!("-MOVED 42 127.0.0.1:{}\r\n", cluster.port(1)));
    cluster.settle();
}

#[test]
fn replicas_take_over_by_agreement_by_force_and_after_a_death() {
    let mut cluster = Cluster::start(3, 1);
    cluster.failover(3, Failover::Agreed);
    cluster.settle();
    assert_eq!((cluster.owner(0), cluster.replicas_of(3)), (3, vec![0]));
    cluster.failover(0, Failover::Forced);
    cluster.settle();
    cluster.failover(3, Failover::Takeover);
    cluster.settle();
    assert_eq!(cluster.owner(0), 3);
    cluster.kill(1);
    cluster.wait_promoted(4);
    cluster.settle();
    assert_eq!(cluster.owner(share(1, 3).0), 4);
    cluster.restart(1);
    cluster.settle();
    assert_eq!(cluster.replicas_of(4), [1]);
    cluster.stop(2);
    cluster.wait_promoted(5);
    cluster.cont(2);
    cluster.settle();
    assert_eq!(cluster.owner(16_383), 5);
}

#[test]
fn nodes_come_and_go_and_all_can_begin_anew() {
    let mut cluster = Cluster::start(3, 0);
    let added = cluster.add_node();
    cluster.mover().give_empty(&[7, 8], 0, added);
    cluster.settle();
    assert_eq!(cluster.owner(8), added);
    cluster.mover().give_empty(&[7, 8], added, 0);
    cluster.settle();
    cluster.forget(added);
    cluster.settle();
    let old = cluster.id(0);
    fill(&mut cluster.node(0), 42, 1);
    cluster.reset_hard_all();
    cluster.form(3);
    assert_ne!(cluster.id(0), old);
    assert_eq!(cluster.node(0).text("DBSIZE"), ":0\r\n");
}

#[test]
fn a_relay_is_what_the_nodes_announce_and_can_be_made_bad() {
    let cluster = Cluster::start_as(&Shape { is_relayed: true, ..Shape::default() });
    let moved = cluster.node(1).text(&format!("GET {}", key_in(0, 0)));
    assert_eq!(moved, format!("-MOVED 0 127.0.0.1:{}\r\n", cluster.announced(0)));
    let relay = cluster.relay(0);
    let mut client = Client::connect(relay.port());
    assert_eq!(client.text("PING"), "+PONG\r\n");
    relay.cut_after(3);
    client.send("PING\r\n");
    assert_eq!(client.rest(), b"+PO");
    relay.mend();
    let mut client = Client::connect(relay.port());
    relay.blackhole(Way::Back);
    client.send("INCR {x}\r\nECHO swallowed\r\n");
    client.patience(Duration::from_millis(100));
    assert!(client.try_frame().is_err());
    relay.mend();
    client.patience(crate::support::PATIENCE);
    assert_eq!(client.rest(), b"");
    let mut client = Client::connect(relay.port());
    assert_eq!(client.text("ECHO heard"), "$5\r\nheard\r\n");
    relay.refuse();
    assert_eq!(client.rest(), b"");
    let refused = Client::try_connect(("127.0.0.1", relay.port()));
    assert!(refused.is_err() || refused.is_ok_and(|mut client| client.rest().is_empty()));
    relay.mend();
    until("it carries again", || Client::connect(relay.port()).text("PING") == "+PONG\r\n");
}

fn by_share(slot: u16) -> usize {
    (0..3).position(|i| slot <= share(i, 3).1).expect("it is a slot")
}

fn fill(client: &mut Client, slot: u16, keys: usize) {
    for n in 0..keys {
        assert_eq!(client.text(&format!("SET {} v", key_in(slot, n))), "+OK\r\n");
    }
}

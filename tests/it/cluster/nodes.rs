//! Nodes come and go: added, emptied, removed, dead without a replica, and all of them created anew.
//!
//! Owns the proof that a cluster may change everything but the address at which applications find it. Never starts
//! the proxy again.
//!
//! What surprises: a cluster without full coverage loses a third of its slots and serves the rest; one with it
//! serves nothing at all until they are back. Both are Redis's own choice, and clients are told either way.

use std::time::Instant;

use super::load::Load;
use super::probe::{Ending, Probes};
use super::scale;
use super::work::{self, Shared};
use crate::support::cluster::{Cluster, SLOTS, Shape, key_in, share};
use crate::support::random::Random;
use crate::support::until;

#[test]
fn all_nodes_are_replaced_under_every_kind_of_work() {
    let mut random = Random::new(Random::seed_from("BREAKWATER_CLUSTER_SEED"));
    let mut cluster = Cluster::start(3, 0);
    let proxy = super::before(&cluster);
    let shared = Shared::new(&[0, 6_000, 12_000]);
    let clients = scale::number("CLIENTS", 24);
    let load = Load::start(proxy.port(), work::all(clients, &[], &shared, &mut random));
    load.pass_round();
    for old in 0..3 {
        let new = cluster.add_node();
        let (first, last) = share(old, 3);
        cluster.mover().move_slots(&(first..=last).collect::<Vec<_>>(), old, new);
        load.pass_round();
        cluster.settle();
        load.pass_round();
        let before = cluster.errors_of(old, "MOVED");
        load.pass_round();
        let late = cluster.errors_of(old, "MOVED") - before;
        assert_eq!(late, 0, "commands were sent to a node of which all slots are known to be gone");
        cluster.forget(old);
        load.pass_round();
    }
    load.finish();
    let mut client = proxy.client();
    shared.balance(|key| client.call(&["GET", key]));
    // A client that comes when no seed is left is served as well.
    assert_eq!(proxy.client().text("SET late 1"), "+OK\r\n");
}

#[test]
fn without_full_coverage_a_dead_primary_takes_only_its_own_slots_along() {
    let books = lose_one(&["--cluster-require-full-coverage", "no"]);
    for ending in [Ending::NotExecuted, Ending::Unknown, Ending::ClusterDown] {
        assert_eq!(books.count(&[1, 2], ending), 0, "{ending:?} in a shard that nobody touched");
    }
}

#[test]
fn with_full_coverage_all_is_served_again_when_all_is_back() {
    let books = lose_one(&[]);
    assert_eq!(books.count(&[1, 2], Ending::Unknown), 0, "nobody touched these connections");
}

#[test]
fn a_cluster_that_is_created_anew_is_found_again() {
    let cluster = Cluster::start(3, 0);
    let proxy = super::before(&cluster);
    let mut client = proxy.client();
    let keys = [100, 8_000, 16_000].map(|slot| key_in(slot, 0));
    for key in &keys {
        assert_eq!(client.text(&format!("SET {key} old")), "+OK\r\n");
    }
    // Epochs start again, so that everything known has higher ones than what is true.
    for i in 0..3 {
        for _ in 0..10 {
            cluster.node(i).ask("CLUSTER BUMPEPOCH");
        }
    }
    cluster.settle();
    cluster.reset_hard_all();
    cluster.form(3);
    let begin = Instant::now();
    for key in &keys {
        until("the new cluster serves", || client.text(&format!("GET {key}")) == "$-1\r\n");
        assert_eq!(client.text(&format!("SET {key} new")), "+OK\r\n");
    }
    eprintln!("served {:.0?} after it was whole", begin.elapsed());
}

/// A primary without a replica dies and comes back empty, under load.
fn lose_one(more: &[&str]) -> super::probe::Books {
    let mut cluster = Cluster::start_as(&Shape { more, ..Shape::default() });
    let proxy = super::before(&cluster);
    let shards = [0, 1, 2].map(|i| share(i, 3)).map(|(first, last)| first..last + 1);
    let probes = Probes::start(proxy.port(), &shards, 4);
    probes.pass(50, &[0, 1, 2]);
    cluster.kill(0);
    let id = cluster.view(1).at(cluster.port(0)).expect("it was a member").id.clone();
    until("the others give it up", || {
        [1, 2].iter().all(|&i| cluster.view(i).entry(&id).is_some_and(|dead| dead.has_flag("fail")))
    });
    let mut client = proxy.client();
    let reply = client.text(&format!("GET {}", key_in(5, 0)));
    let heads = ["-ERR breakwater: not executed: ", "-CLUSTERDOWN ", "-ERR breakwater: no reply"];
    assert!(heads.iter().any(|head| reply.starts_with(head)), "{reply}");
    cluster.restart(0);
    cluster.settle();
    probes.pass(50, &[0, 1, 2]);
    assert_eq!(client.text(&format!("GET {}", key_in(5, 0))), "$-1\r\n");
    assert!(cluster.owners().len() == usize::from(SLOTS));
    let books = probes.finish();
    eprintln!("errors of the others: {:#?}", books.errors(&[1, 2]));
    books
}

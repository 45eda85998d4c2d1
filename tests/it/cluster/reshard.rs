//! Slots move back and forth under clients of every kind, and nobody notices.
//!
//! Owns the proof that redirects are unseen: no error, no wrong value, and counters that are exactly what was
//! acknowledged. Never counts a run that the servers did not redirect.
//!
//! What surprises: every move is complete before the next begins, as redis-cli does it, so that there is one slot
//! half moved at any time and thousands whose owner has just changed.

use std::time::Instant;

use super::load::Load;
use super::scale;
use super::work::{self, Shared};
use crate::support::cluster::{Cluster, Mover};
use crate::support::random::Random;

#[test]
fn slots_move_under_every_kind_of_work_and_nobody_notices() {
    let slots = scale::number("SLOTS", 100) as u16;
    run(&(0..slots).collect::<Vec<_>>(), 4);
}

#[test]
fn slots_that_stay_half_moved_are_served_from_both_nodes() {
    // So few that all clients have keys in each, and that each is open for long.
    run(&[42, 43, 44, 5_000], 8);
}

/// Moves slots of the first node to the second and back, so often at least, under clients of all kinds.
fn run(moving: &[u16], at_least: usize) {
    let clients = scale::number("CLIENTS", 36);
    let mut random = Random::new(Random::seed_from("BREAKWATER_CLUSTER_SEED"));
    let cluster = Cluster::start_unhurried();
    let proxy = super::before(&cluster);
    let shared =
        Shared::new(&[moving[0], moving[moving.len() / 2], moving[moving.len() - 1], 9_999]);
    let load = Load::start(proxy.port(), work::all(clients, moving, &shared, &mut random));
    load.pass_round();
    let (mut mover, begin, mut passes) = (cluster.mover(), Instant::now(), 0);
    while !load.has_failed() && (passes < at_least || begin.elapsed() < scale::duration()) {
        // Key by key there and by tens back: commands with two keys find one of them here and one there.
        mover.batch = [1, 10][passes % 2];
        pass(&mut mover, &load, moving, passes % 2);
        load.pass_round();
        mover.agree();
        passes += 1;
    }
    let took = begin.elapsed().as_secs_f64();
    let rounds = load.finish();
    let redirects = ["MOVED", "ASK", "TRYAGAIN"].map(|code| cluster.errors(code));
    eprintln!(
        "{passes} times {} slots in {took:.1} s, {rounds} rounds of {clients} clients; \
         MOVED, ASK, TRYAGAIN: {redirects:?}",
        moving.len()
    );
    assert!(redirects[0] > 0 && redirects[1] > 0, "nobody was redirected: the run proves nothing");
    let mut client = proxy.client();
    shared.balance(|key| client.call(&["GET", key]));
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
}

/// Moves all of them to the other node.
fn pass(mover: &mut Mover, load: &Load, moving: &[u16], from: usize) {
    for &slot in moving {
        if load.has_failed() {
            return;
        }
        mover.move_slot(slot, from, 1 - from);
    }
}

//! Primaries die or hand over under load: errors for their slots alone, and nothing runs twice.
//!
//! Owns the proof that a death is one shard's affair. Never asserts how long anything took: with
//! `BREAKWATER_CLUSTER_ROUNDS` (and `_SECONDS` between two deaths) it prints what 99 of 100 commands of the healthy
//! shards took, with and without a fault, and how soon a new primary was found.
//!
//! What surprises: the healthy spans between the faults are the control run, so that both see the same machine.

use std::time::Instant;

use super::probe::{Books, Ending, Probes};
use super::scale;
use crate::support::cluster::{Cluster, Failover, Shape, share};
use crate::support::until;

/// One death.
struct Death {
    killed: Instant,
    promoted: Instant,
    served: Instant,
}

#[test]
fn a_killed_primary_costs_errors_for_its_own_slots_only() {
    let shape = Shape {
        replicas_each: 1,
        more: &["--cluster-require-full-coverage", "no"],
        ..Shape::default()
    };
    let (books, deaths, cluster) = kill_again_and_again(&shape);
    for ending in [Ending::NotExecuted, Ending::Unknown, Ending::ClusterDown] {
        assert_eq!(books.count(&HEALTHY, ending), 0, "{ending:?} in a shard that nobody touched");
    }
    report(&books, &deaths);
    books.balance(&cluster, deaths.len());
}

#[test]
fn a_cluster_that_wants_all_its_slots_is_waited_for() {
    let shape = Shape { replicas_each: 1, ..Shape::default() };
    let (books, deaths, cluster) = kill_again_and_again(&shape);
    // Redis itself refuses all slots until the new primary is there.
    assert_eq!(books.count(&HEALTHY, Ending::Unknown), 0, "nobody touched these connections");
    report(&books, &deaths);
    books.balance(&cluster, deaths.len());
}

#[test]
fn a_primary_that_hands_over_is_followed_without_an_error() {
    let cluster = Cluster::start(3, 1);
    let proxy = super::before(&cluster);
    let probes = Probes::start(proxy.port(), &shards(), EACH);
    probes.pass(20, &ALL);
    for _ in 0..scale::number("ROUNDS", 2) {
        for (shard, pair) in [[0, 3], [1, 4], [2, 5]].into_iter().enumerate() {
            let primary = cluster.owner(share(shard, 3).0);
            let replica = pair[usize::from(pair[0] == primary)];
            cluster.failover(replica, Failover::Agreed);
            probes.pass(20, &ALL);
            cluster.settle();
        }
    }
    let books = probes.finish();
    for ending in [Ending::NotExecuted, Ending::Unknown, Ending::ClusterDown] {
        assert_eq!(books.count(&ALL, ending), 0, "{ending:?} where a primary handed over");
    }
    books.balance(&cluster, 0);
}

/// Kills whoever serves the first shard, and lets it come back as a replica.
fn kill_again_and_again(shape: &Shape<'_>) -> (Books, Vec<Death>, Cluster) {
    let mut cluster = Cluster::start_as(shape);
    let proxy = super::before(&cluster);
    let probes = Probes::start(proxy.port(), &shards(), EACH);
    probes.pass(CALM, &ALL);
    let mut deaths = Vec::new();
    for _ in 0..scale::number("ROUNDS", 1) {
        let primary = cluster.owner(0);
        let replica = 3 - primary;
        let killed = Instant::now();
        cluster.kill(primary);
        cluster.wait_promoted(replica);
        let promoted = Instant::now();
        probes.pass(1, &[0]);
        deaths.push(Death { killed, promoted, served: Instant::now() });
        cluster.restart(primary);
        until("the dead primary is a replica", || cluster.replicas_of(replica) == [primary]);
        cluster.settle();
        std::thread::sleep(scale::duration());
        probes.pass(CALM, &ALL);
    }
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
    (probes.finish(), deaths, cluster)
}

fn report(books: &Books, deaths: &[Death]) {
    let faults: Vec<_> = deaths.iter().map(|death| (death.killed, death.served)).collect();
    let first = books.samples(&ALL).map(|sample| sample.sent).min().expect("somebody has asked");
    let mut calm = vec![(first, faults[0].0)];
    let ends = deaths.iter().skip(1).map(|death| death.killed).chain([Instant::now()]);
    calm.extend(deaths.iter().map(|death| death.served).zip(ends));
    eprintln!(
        "healthy shards, p99: {:.2} ms in faults, {:.2} ms between",
        books.p99_ms(&HEALTHY, &faults),
        books.p99_ms(&HEALTHY, &calm),
    );
    for death in deaths {
        let (first, last) = books.served_after(0, death.promoted);
        let elected = death.promoted - death.killed;
        eprintln!("promoted {elected:.1?} after the kill; served {first:.3?} to {last:.3?} later");
    }
    for (shard, count, at) in books.lost() {
        let before = deaths.iter().filter(|death| death.killed <= at).count();
        eprintln!("shard {shard} lost {count} acknowledged increments in death {before}");
    }
    for (whose, shards) in [("the shard that dies", &ALL[..1]), ("the others", &HEALTHY)] {
        let answered = books.count(shards, Ending::Answered);
        eprintln!("{whose}: {answered} answered, {:#?}", books.errors(shards));
    }
}

fn shards() -> [std::ops::Range<u16>; 3] {
    [0, 1, 2].map(|i| share(i, 3)).map(|(first, last)| first..last + 1)
}

const ALL: [usize; 3] = [0, 1, 2];
const HEALTHY: [usize; 2] = [1, 2];
/// Clients of each shard.
const EACH: usize = 6;
/// Answers for each client before a fault and behind it.
const CALM: u64 = 200;

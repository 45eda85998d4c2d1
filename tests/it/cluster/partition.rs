//! Bad wires between Breakwater and one node, while the cluster itself is whole: slow, cut, reset, silent one way.
//!
//! Owns the proof that a wire is the affair of its node's slots, and that nothing runs twice over it (INV-3, INV-5). Never
//! touches the servers: they see the same cluster all the time.
//!
//! What surprises: no other node can take over here, because for the cluster nobody is away. All that helps is to find
//! out, to tell clients what is known, and to come back.

use std::time::Duration;

use super::probe::{Ending, Probes};
use crate::support::Proxy;
use crate::support::cluster::{Cluster, Shape, share};
use crate::support::relay::Way;

#[test]
fn a_slow_wire_is_an_error_for_nobody() {
    let (cluster, proxy) = start();
    let probes = Probes::start(proxy.port(), &shards(), EACH);
    probes.pass(20, &ALL);
    cluster.relay(0).delay(Duration::from_millis(30));
    probes.pass(20, &ALL);
    cluster.relay(0).mend();
    probes.pass(20, &ALL);
    let books = probes.finish();
    assert!(books.errors(&ALL).is_empty(), "{:#?}", books.errors(&ALL));
    books.balance(&cluster, 0);
}

#[test]
fn a_wire_that_is_cut_at_any_byte_makes_nothing_run_twice() {
    let (cluster, proxy) = start();
    let probes = Probes::start(proxy.port(), &shards(), EACH);
    probes.pass(20, &ALL);
    let relay = cluster.relay(0);
    for bytes in [0, 1, 2, 3, 5, 8, 50, 500] {
        let accepted = relay.accepted();
        relay.cut_after(bytes);
        crate::support::until("somebody dials again", || relay.accepted() > accepted);
        relay.mend();
        probes.pass(5, &ALL);
    }
    for _ in 0..5 {
        relay.reset();
        probes.pass(5, &ALL);
    }
    relay.refuse();
    probes.pass(20, &HEALTHY);
    relay.mend();
    probes.pass(20, &ALL);
    let books = probes.finish();
    healthy_noticed_nothing(&books);
    assert!(
        books.count(&[0], Ending::Unknown) > 0,
        "no INCR was under way: the run proves nothing"
    );
    books.balance(&cluster, 0);
}

#[test]
fn a_wire_that_is_silent_one_way_is_found_out_and_left_alone() {
    let (cluster, proxy) = start();
    let probes = Probes::start(proxy.port(), &shards(), EACH);
    probes.pass(20, &ALL);
    for way in [Way::Back, Way::There] {
        cluster.relay(0).blackhole(way);
        probes.pass(300, &HEALTHY);
        cluster.relay(0).mend();
        probes.pass(20, &ALL);
    }
    assert!(cluster.relay(1).carried(Way::Back) > 0, "the wires are ours");
    let books = probes.finish();
    healthy_noticed_nothing(&books);
    books.balance(&cluster, 0);
}

fn healthy_noticed_nothing(books: &super::probe::Books) {
    eprintln!("behind the bad wire: {:#?}", books.errors(&[0]));
    let errors = books.errors(&HEALTHY);
    assert!(errors.is_empty(), "in shards whose wires were good: {errors:#?}");
}

/// All wires pass relays; a reply that does not come is given up soon.
fn start() -> (Cluster, Proxy) {
    let cluster = Cluster::start_as(&Shape { is_relayed: true, ..Shape::default() });
    let url = cluster.url();
    let toml = |port| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\nclient_timeout = \"60s\"\n\
             [upstream]\nurl = \"{url}\"\nreply_deadline_fast = \"500ms\"\n"
        )
    };
    let proxy = Proxy::listening(|port, _| toml(port)).ready();
    (cluster, proxy)
}

fn shards() -> [std::ops::Range<u16>; 3] {
    [0, 1, 2].map(|i| share(i, 3)).map(|(first, last)| first..last + 1)
}

const ALL: [usize; 3] = [0, 1, 2];
const HEALTHY: [usize; 2] = [1, 2];
/// Clients of each shard.
const EACH: usize = 4;

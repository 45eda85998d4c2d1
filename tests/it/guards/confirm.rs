//! `[upstream.confirm]`: success is told only of writes that a replica has.
//!
//! Owns the proof with replicas that are stopped: the write runs once, and its client is told that nobody has confirmed
//! it. What surprises: the write stands behind the proxy's answer all the same. That is what "unknown" means.

use crate::support::cluster::{Cluster, key_in, share};
use crate::support::sentinel::{GroupShape, servers};
use crate::support::{Client, Proxy, bulk, line, until};

fn file(url: &str) -> String {
    format!(
        "[upstream]\nurl = \"{url}\"\n[upstream.confirm]\nwithin = \"200ms\"\nkeys = [\"orders:*\"]\n"
    )
}

const UNKNOWN: &[u8] =
    b"-ERR breakwater: outcome unknown: applied, not confirmed by 1 replica within 200 ms\r\n";

/// Everything that a client may say while nobody confirms; `n` keeps clients apart.
fn check_unconfirmed(client: &mut Client, n: usize) {
    let words = [
        format!("INCR orders:{n}:a"),
        format!("GET orders:{n}:a"),
        format!("SET other:{n} v"),
        format!("LPUSH other:{n} x"),
        format!("LPUSH orders:{n}:b x"),
        format!("INCR orders:{n}:b"),
        format!("EVAL return(redis.call('incr',KEYS[1])) 1 orders:{n}:a"),
        format!("GET orders:{n}:a"),
    ];
    client.send(words.iter().map(|words| line(words)).collect::<Vec<_>>().concat());
    let frames = client.frames(words.len());
    assert_eq!(frames[0], UNKNOWN);
    assert_eq!(frames[1], bulk(b"1"), "it was applied, once");
    assert_eq!(frames[2], b"+OK\r\n", "no pattern names it");
    assert!(frames[3].starts_with(b"-WRONGTYPE"));
    assert_eq!(frames[4], UNKNOWN);
    assert!(frames[5].starts_with(b"-WRONGTYPE"), "what failed has failed");
    assert_eq!(frames[6], UNKNOWN);
    assert_eq!(frames[7], bulk(b"2"));
    // A transaction is not confirmed, which the manual says.
    client.send(["MULTI", &format!("SET orders:{n}:c v"), "EXEC"].map(line).concat());
    assert_eq!(client.frames(3)[2], b"*1\r\n+OK\r\n");
}

#[test]
fn a_write_that_no_replica_has_is_of_unknown_outcome_and_was_applied_once() {
    let mut nodes = servers(&GroupShape::default());
    until("the replica is in step", || {
        nodes[0].client().text("INFO replication").contains("state=online")
    });
    let proxy = Proxy::configured(&file(&nodes[0].url())).ready();
    let (mut client, mut client3) = (proxy.client(), proxy.client3());
    until("it is confirmed", || client.text("SET orders:0 v") == "+OK\r\n");
    assert_eq!(client3.text("SET orders:0 w"), "+OK\r\n");
    assert_eq!(client.text("INCRBY orders:1 5"), ":5\r\n");
    nodes[1].pause();
    check_unconfirmed(&mut client, 2);
    check_unconfirmed(&mut client3, 3);
    nodes[1].resume();
    until("it is confirmed again", || client.text("SET orders:0 x") == "+OK\r\n");
    assert_eq!(nodes[1].client().text("GET orders:0"), "$1\r\nx\r\n", "the replica has it");
}

#[test]
fn in_a_cluster_a_confirmed_write_follows_its_slot() {
    let mut cluster = Cluster::start(3, 1);
    let proxy = Proxy::configured(&file(&cluster.url())).ready();
    let mut client = proxy.client();
    let key = |shard: usize| format!("orders:{}", key_in(share(shard, 3).0, 0));
    for shard in 0..3 {
        until("it is confirmed", || client.text(&format!("SET {} 1", key(shard))) == "+OK\r\n");
    }
    assert!(client.text(&format!("DEL {} {}", key(0), key(1))).starts_with("-CROSSSLOT"));
    // The proxy learns of a move by a redirect, or sooner: the write runs where the slot is, once.
    for (number, (from, to)) in [(2, (0, 1)), (3, (1, 0)), (4, (0, 1))] {
        cluster.move_slot(share(0, 3).0, from, to);
        assert_eq!(client.text(&format!("INCR {}", key(0))), format!(":{number}\r\n"));
    }
    eprintln!("{} moved", proxy.metric_of("breakwater_commands_redirected_total", "moved"));
    let replica = cluster.replicas_of(1)[0];
    cluster.stop(replica);
    assert_eq!(client.ask(&format!("INCR {}", key(0))), UNKNOWN);
    assert_eq!(client.text(&format!("GET {}", key(0))), "$1\r\n5\r\n");
    assert_eq!(client.text(&format!("INCR {}", key(2))), ":2\r\n");
    cluster.cont(replica);
    until("it is confirmed again", || client.text(&format!("SET {} 9", key(0))) == "+OK\r\n");
}

//! A cluster whose primary is killed and not replaced: its slots are read from its replica.
//!
//! Owns the proofs that need slots: single keys, commands cut in parts, and whose replica is asked. What surprises: a
//! replica answers for its primary's slots only while the cluster as a whole is well, so these clusters are told to
//! serve what they can.

use super::{USUAL, met};
use crate::support::cluster::{Cluster, Shape, key_in, share};
use crate::support::{Client, Proxy, bulk, line, until};

/// A key of that keyspace in that shard.
fn key(keyspace: &str, shard: usize) -> String {
    format!("{keyspace}:{}", key_in(share(shard, 3).0, 0))
}

fn cluster() -> Cluster {
    let more = ["--cluster-replica-no-failover", "yes", "--cluster-require-full-coverage", "no"];
    Cluster::start_as(&Shape { replicas_each: 1, more: &more, ..Shape::default() })
}

fn all_in_step(client: &mut Client) {
    for shard in 0..3 {
        super::until_in_step(client, &key("probe", shard));
    }
}

#[test]
fn the_slots_of_a_killed_primary_are_read_from_its_replica() {
    let mut cluster = cluster();
    let proxy = Proxy::guarding(&cluster.url(), USUAL).ready();
    let (mut client, mut client3) = (proxy.client(), proxy.client3());
    for shard in 0..3 {
        assert_eq!(client.ask(&format!("SET {} v", key("cache", shard))), b"+OK\r\n");
    }
    all_in_step(&mut client);
    until("the replicas have it", || {
        (0..3).all(|shard| {
            let mut replica = cluster.node(cluster.replicas_of(shard)[0]);
            replica.ask("READONLY");
            replica.ask(&format!("GET {}", key("cache", shard))) == bulk(b"v")
        })
    });
    cluster.kill(0);
    let all: Vec<String> = (0..3).map(|shard| key("cache", shard)).collect();
    let mget = format!("MGET {}", all.join(" "));
    for _ in 0..100 {
        for client in [&mut client, &mut client3] {
            assert_eq!(client.ask(&format!("GET {}", all[0])), bulk(b"v"));
            assert_eq!(client.ask(&format!("GET {}", all[1])), bulk(b"v"));
            assert_eq!(client.ask(&mget), [b"*3\r\n".to_vec(), bulk(b"v").repeat(3)].concat());
        }
    }
    for client in [&mut client, &mut client3] {
        until("writes fail at once", || client.text(&format!("SET {} w", all[0])).starts_with('-'));
        let words = [
            format!("GET {}", all[0]),
            format!("SET {} w", all[0]),
            format!("GET {}", all[0]),
            format!("SET {} v", all[1]),
        ];
        client.send(words.map(|words| line(&words)).concat());
        let frames = client.frames(4);
        assert_eq!((&frames[0], &frames[2]), (&bulk(b"v"), &bulk(b"v")));
        assert!(frames[1].starts_with(b"-"));
        assert_eq!(frames[3], b"+OK\r\n");
        assert!(client.text(&format!("GET {}", key("other", 0))).starts_with('-'));
    }
    assert!(met(&proxy, "cache", "read_replica_primary_away") >= 100.0);
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
}

#[test]
fn a_replica_serves_what_it_is_preferred_for_and_its_clients_read_their_own_writes() {
    let cluster = cluster();
    let more = "[[keyspace]]\nname = \"soft\"\nkeys = [\"soft:*\"]\nread_from = \"prefer-replica\"\n\
         [[keyspace]]\nname = \"firm\"\nkeys = [\"firm:*\"]\nread_from = \"primary\"\n";
    let proxy = Proxy::guarding(&cluster.url(), &format!("{USUAL}{more}")).ready();
    let mut client = proxy.client();
    all_in_step(&mut client);
    let (soft, firm) = (key("soft", 1), key("firm", 1));
    for round in 0..200 {
        let pair =
            |n: usize| [line(&format!("SET {soft} {round}-{n}")), line(&format!("GET {soft}"))];
        client.send((0..10).flat_map(pair).collect::<Vec<_>>().concat());
        for (n, pair) in client.frames(20).chunks(2).enumerate() {
            assert_eq!(
                pair[1],
                bulk(format!("{round}-{n}").as_bytes()),
                "an older value than its own"
            );
        }
        client.send([line(&format!("GET {soft}")), line(&format!("SET {soft} later"))].concat());
        assert_ne!(client.frames(2)[0], bulk(b"later"));
    }
    let replica = cluster.replicas_of(1)[0];
    let reads = |i: usize| {
        let info = cluster.node(i).text("INFO commandstats");
        let calls = info
            .split("cmdstat_get:calls=")
            .nth(1)
            .and_then(|rest| rest.split(',').next()?.parse().ok());
        calls.unwrap_or(0_u64)
    };
    let before = reads(replica);
    for _ in 0..100 {
        client.ask(&format!("GET {soft}"));
    }
    assert!(reads(replica) >= before + 100, "{} {before}", reads(replica));
    // Who has said READONLY would be served by a replica; the operator says otherwise.
    assert_eq!(client.ask("READONLY"), b"+OK\r\n");
    let before = reads(replica);
    for _ in 0..100 {
        client.ask(&format!("GET {firm}"));
    }
    assert_eq!(reads(replica), before);
    for _ in 0..100 {
        client.ask(&format!("GET {}", key("other", 1)));
    }
    assert!(reads(replica) >= before + 100, "no keyspace speaks of these");
}

//! `[upstream.write_guard]`: nothing is written where too few replicas are in step.
//!
//! Owns the proof with replicas that are stopped: refused, never run, and let through again once the replica is back. What
//! surprises: a stopped replica stays connected. It is the age of its last acknowledgement that tells.

use crate::support::cluster::{Cluster, key_in, share};
use crate::support::sentinel::{GroupShape, servers};
use crate::support::{Client, Proxy, line, until};

fn file(url: &str) -> String {
    format!(
        "[upstream]\nurl = \"{url}\"\n[upstream.write_guard]\nmax_lag = \"2s\"\nkeys = [\"orders:*\"]\n"
    )
}

fn is_refused(client: &mut Client, words: &str) -> bool {
    let reply = client.text(words);
    reply.starts_with("-ERR breakwater: not executed: 0 of 1 replicas of 127.0.0.1:")
        && reply.contains(" are in step (at most 2.0 s behind), for ")
}

#[test]
fn writes_wait_for_a_replica_in_step_and_other_keys_do_not() {
    let mut nodes = servers(&GroupShape::default());
    let proxy = Proxy::configured(&file(&nodes[0].url())).ready();
    let (mut client, mut client3) = (proxy.client(), proxy.client3());
    until("the replica is known", || client.text("SET orders:1 v") == "+OK\r\n");
    nodes[1].pause();
    until("the write is refused", || is_refused(&mut client, "SET orders:1 v"));
    for client in [&mut client, &mut client3] {
        assert!(is_refused(client, "EVAL return(1) 1 orders:2"));
        assert!(is_refused(client, "MSET other v orders:2 v"));
        assert_eq!(client.text("SET other v"), "+OK\r\n");
        assert_eq!(client.text("GET orders:1"), "$1\r\nv\r\n");
        client.send(["MULTI", "SET other w", "SET orders:2 v", "EXEC"].map(line).concat());
        let frames = client.frames(4);
        assert!(frames[3].starts_with(b"-EXECABORT"));
        assert_eq!(client.text("EXISTS orders:2"), ":0\r\n");
        assert_eq!(client.text("GET other"), "$1\r\nv\r\n");
        client.send(["MULTI", "SET other v", "EXEC"].map(line).concat());
        assert_eq!(client.frames(3)[2], b"*1\r\n+OK\r\n");
    }
    assert!(proxy.metric("breakwater_writes_guarded_total") >= 7.0);
    nodes[1].resume();
    until("it passes again", || client.text("SET orders:1 w") == "+OK\r\n");
    assert_eq!(client3.text("GET orders:1"), "$1\r\nw\r\n");
}

#[test]
fn in_a_cluster_it_is_the_owner_s_replicas_that_count() {
    let mut cluster = Cluster::start(3, 1);
    let proxy = Proxy::configured(&file(&cluster.url())).ready();
    let mut client = proxy.client();
    // The tag within decides about the slot.
    let key = |shard: usize| format!("orders:{}", key_in(share(shard, 3).0, 0));
    for shard in 0..3 {
        let write = format!("SET {} v", key(shard));
        until("the replica is known", || client.text(&write) == "+OK\r\n");
    }
    let replica = cluster.replicas_of(0)[0];
    cluster.stop(replica);
    until("the write is refused", || is_refused(&mut client, &format!("SET {} v", key(0))));
    assert!(is_refused(&mut client, &format!("MSET {} w {} w", key(1), key(0))));
    assert_eq!(client.text(&format!("SET {} w", key(1))), "+OK\r\n");
    assert_eq!(client.text(&format!("GET {}", key(0))), "$1\r\nv\r\n");
    cluster.cont(replica);
    until("it passes again", || client.text(&format!("SET {} w", key(0))) == "+OK\r\n");
}

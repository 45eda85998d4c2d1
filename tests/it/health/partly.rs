//! A node that serves some commands and not others.
//!
//! Owns the proof that a server which refuses writes is never called down, and that its own words
//! reach the client. What surprises: a server that cannot save refuses PING as well, and is alive.

use super::{state_of, until_state};
use crate::support::{Client, Proxy, RedisServer, bulk, eventually, until};

/// Reads go on, writes are answered with Redis's own word, the node is ready.
fn assert_read_only(proxy: &Proxy, client: &mut Client, word: &str, repair: &str) {
    eventually("writes are refused", || {
        client.text("SET k w").starts_with(&format!("-{word} ")).then_some(())
    });
    until_state(proxy, "read_only");
    for _ in 0..100 {
        assert_eq!(client.ask("GET k"), bulk(b"v"));
        assert!(client.text("SET k w").starts_with(&format!("-{word} ")));
    }
    assert_eq!(state_of(proxy), "read_only");
    until("/readyz says so", || {
        let (status, body) = proxy.http("/readyz");
        assert_eq!(status, 200, "{body}");
        body.contains(word) && body.contains(repair)
    });
    assert_eq!(proxy.metric_of("breakwater_node_state_changes_total", "down"), 0.0);
    assert_eq!(proxy.metric("breakwater_breaker_opens_total"), 0.0);
    assert_eq!(proxy.metric("breakwater_lanes_lost_total"), 0.0);
}

fn served() -> (RedisServer, Proxy, Client) {
    served_with(&[])
}

fn served_with(more: &[&str]) -> (RedisServer, Proxy, Client) {
    let redis = RedisServer::start_with(more);
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    (redis, proxy, client)
}

#[test]
fn too_few_replicas_are_no_reason_to_stop_reading() {
    let (redis, proxy, mut client) = served();
    assert_eq!(redis.client().ask("CONFIG SET min-replicas-to-write 1"), b"+OK\r\n");
    assert_read_only(&proxy, &mut client, "NOREPLICAS", "INFO replication");
    assert_eq!(redis.client().ask("CONFIG SET min-replicas-to-write 0"), b"+OK\r\n");
    assert_eq!(client.ask("SET k w"), b"+OK\r\n");
    until_state(&proxy, "up");
}

#[test]
fn a_full_memory_is_no_reason_to_stop_reading() {
    let (redis, proxy, mut client) = served();
    let mut direct = redis.client();
    assert_eq!(direct.ask("CONFIG SET maxmemory-policy noeviction"), b"+OK\r\n");
    assert_eq!(direct.ask("CONFIG SET maxmemory 1mb"), b"+OK\r\n");
    assert_eq!(direct.ask("CONFIG SET maxmemory 100"), b"+OK\r\n");
    assert_read_only(&proxy, &mut client, "OOM", "INFO memory");
}

#[test]
fn a_disk_that_cannot_be_written_is_no_reason_to_stop_reading() {
    let (redis, proxy, mut client) = served_with(&["--dbfilename", "taken"]);
    let mut direct = redis.client();
    // Where the file should be is a folder: nobody can rename a file onto it, whoever runs this.
    std::fs::create_dir_all(redis.folder().join("taken/full")).expect("a folder");
    assert_eq!(direct.call(&["CONFIG", "SET", "save", "3600 1"]), b"+OK\r\n");
    until("a save has failed", || {
        direct.text("BGSAVE");
        direct.text("INFO persistence").contains("rdb_last_bgsave_status:err")
    });
    assert_read_only(&proxy, &mut client, "MISCONF", "df -h");
    assert!(redis.client().text("PING").starts_with("-MISCONF"), "PING is refused as well");
    // With no point in time to be saved, there is nothing that could be missed.
    assert_eq!(direct.ask("CONFIG SET stop-writes-on-bgsave-error no"), b"+OK\r\n");
    until_state(&proxy, "up");
    assert_eq!(client.ask("SET k w"), b"+OK\r\n");
}

#[test]
fn a_script_that_hogs_the_server_shows_as_busy_and_can_be_killed_from_here() {
    let (redis, proxy, mut client) = served();
    assert_eq!(redis.client().ask("CONFIG SET busy-reply-threshold 100"), b"+OK\r\n");
    let mut hog = proxy.client();
    hog.send(crate::support::command(&["EVAL", "while true do end", "0"]));
    until_state(&proxy, "busy");
    assert!(client.text("GET k").starts_with("-BUSY "));
    assert_eq!(proxy.http("/readyz").0, 200);
    eventually("it is killed", || (client.ask("SCRIPT KILL") == b"+OK\r\n").then_some(()));
    assert!(hog.frame().starts_with(b"-"));
    until_state(&proxy, "up");
    assert_eq!(client.ask("GET k"), bulk(b"v"));
}

#[test]
fn a_primary_that_becomes_a_replica_is_named_as_such() {
    let (redis, proxy, mut client) = served();
    let primary = RedisServer::start();
    let port = primary.port();
    assert_eq!(redis.client().text(&format!("REPLICAOF 127.0.0.1 {port}")), "+OK\r\n");
    until_state(&proxy, "demoted");
    until("the log says so", || proxy.log().contains("upstream is a replica (demoted)"));
    assert!(client.text("SET k w").starts_with("-READONLY "));
    assert_eq!(redis.client().ask("REPLICAOF NO ONE"), b"+OK\r\n");
    until_state(&proxy, "up");
}

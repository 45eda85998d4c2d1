//! `[upstream] mode = "readonly"`: what may write is refused, everything else goes on.
//!
//! Owns the proofs for one Redis and for a cluster, both protocols, pipelines and transactions, and that the mode
//! comes and goes without moving anything. What surprises: a script is refused for what it may do; its read-only
//! name is the way to say that it does not.

use crate::support::cluster::Cluster;
use crate::support::{Client, Proxy, RedisServer, bulk, line, until};

fn file(url: &str, mode: &str) -> String {
    format!("[upstream]\nurl = \"{url}\"\nmode = \"{mode}\"\n")
}

fn refused(command: &str) -> Vec<u8> {
    let why = "this upstream is in read-only mode (mode = \"readonly\")";
    format!("-NOPERM breakwater: '{command}' refused: {why}\r\n").into_bytes()
}

/// Everything that a client of either protocol may and may not do.
fn check(client: &mut Client) {
    assert_eq!(client.ask("SET k changed"), refused("set"));
    assert_eq!(client.ask("GET k"), bulk(b"v"));
    assert_eq!(client.ask("EVAL return(1) 0"), refused("eval"));
    assert_eq!(client.ask("EVAL_RO return(1) 0"), b":1\r\n");
    assert_eq!(client.ask("FLUSHALL"), refused("flushall"));
    assert_eq!(client.ask("PUBLISH c m"), b":0\r\n");
    assert!(client.ask("SET k").starts_with(b"-"));
    // Piece by piece: told when it is queued, and again when it is to run.
    assert_eq!(client.ask("MULTI"), b"+OK\r\n");
    assert_eq!(client.ask("GET k"), b"+QUEUED\r\n");
    assert_eq!(client.ask("DEL k"), refused("del"));
    assert!(client.ask("EXEC").starts_with(b"-EXECABORT"));
    // A pipeline: only what writes is refused, in its place. A transaction that arrives whole: nothing of it runs.
    let words = ["SET k x", "GET k", "MULTI", "INCR n", "EXEC", "EXISTS n", "GET k"];
    client.send(words.map(line).concat());
    let frames = client.frames(words.len());
    assert_eq!(frames[0], refused("set"));
    assert_eq!(frames[1], bulk(b"v"));
    assert_eq!((&frames[2][..], &frames[3]), (&b"+OK\r\n"[..], &refused("incr")));
    assert!(frames[4].starts_with(b"-EXECABORT"));
    assert_eq!((&frames[5][..], &frames[6]), (&b":0\r\n"[..], &bulk(b"v")));
    // A transaction that only reads runs.
    client.send(["MULTI", "GET k", "EXEC"].map(line).concat());
    let frames = client.frames(3);
    assert_eq!(frames[2], [b"*1\r\n".to_vec(), bulk(b"v")].concat());
}

fn comes_and_goes(url: &str) {
    let mut proxy = Proxy::configured(&file(url, "readwrite")).ready();
    let (mut client, mut client3) = (proxy.client(), proxy.client3());
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    assert_eq!(client3.ask("GET k"), bulk(b"v"));
    std::fs::write(proxy.file("breakwater.toml"), file(url, "readonly")).unwrap();
    proxy.hang_up();
    until("writes are refused", || client.ask("SET k v") == refused("set"));
    check(&mut client);
    check(&mut client3);
    assert_eq!(proxy.metric("breakwater_readonly_mode"), 1.0);
    std::fs::write(proxy.file("breakwater.toml"), file(url, "readwrite")).unwrap();
    proxy.hang_up();
    until("writes pass", || client.ask("SET k again") == b"+OK\r\n");
    assert_eq!(client3.ask("GET k"), bulk(b"again"));
    assert_eq!(proxy.metric("breakwater_readonly_mode"), 0.0);
    assert_eq!(proxy.metric("breakwater_upstream_changes_total"), 0.0, "nothing was moved");
}

#[test]
fn writes_to_one_redis_are_refused_and_let_through_again() {
    let redis = RedisServer::start();
    comes_and_goes(&redis.url());
    assert!(!redis.client().text("INFO commandstats").contains("cmdstat_flushall"));
}

#[test]
fn writes_to_a_cluster_are_refused_and_let_through_again() {
    let cluster = Cluster::start(3, 0);
    comes_and_goes(&cluster.url());
}

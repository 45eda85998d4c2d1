//! WAIT through a shared connection tells the truth.
//!
//! Owns a primary with one replica that is stopped and resumed. Never measures time: a replica that is stopped
//! stays so until the test says otherwise.
//!
//! What surprises: a WAIT on a connection that has written nothing is answered `:1` by redis-server 7.0 while its
//! only replica is stopped. The first test shows that, so that the others can fail.

use crate::support::{Client, Proxy, RedisServer, eventually};

/// A primary and its replica, in step.
fn pair() -> (RedisServer, RedisServer) {
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let of = format!("127.0.0.1 {}", primary.port());
    let replica = RedisServer::start_with(&["--replicaof", &of]);
    let mut client = primary.client();
    eventually("the replica is in step", || {
        client.call(&["SET", "probe", "1"]);
        (client.ask("WAIT 1 100") == b":1\r\n").then_some(())
    });
    (primary, replica)
}

#[test]
fn a_connection_that_has_written_nothing_lies() {
    let (primary, mut replica) = pair();
    replica.pause();
    let mut writer = primary.client();
    assert_eq!(writer.text("SET k 1"), "+OK\r\n");
    assert_eq!(primary.client().text("WAIT 1 200"), ":1\r\n");
    assert_eq!(writer.text("WAIT 1 200"), ":0\r\n");
    replica.resume();
}

#[test]
fn a_stopped_replica_does_not_count_and_a_resumed_one_does() {
    let (primary, mut replica) = pair();
    let proxy = Proxy::before(&primary.url()).ready();
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut client = proxy.client();
        client.ask(hello);
        replica.pause();
        assert_eq!(client.text("SET k 1"), "+OK\r\n");
        assert_eq!(client.text("WAIT 1 200"), ":0\r\n");
        // The answer belongs to every write before it, not only to those since the last WAIT.
        assert_eq!(client.text("WAIT 1 200"), ":0\r\n");
        assert_eq!(client.text("WAIT 0 200"), ":0\r\n");
        assert_eq!(client.text("SET k 2"), "+OK\r\n");
        assert_eq!(client.text("WAIT 1 200"), ":0\r\n");
        replica.resume();
        assert_eq!(client.text("WAIT 1 0"), ":1\r\n");
        assert_eq!(client.text("GET k"), "$1\r\n2\r\n");
    }
}

#[test]
fn a_pipeline_of_writes_and_a_wait_is_answered_in_order() {
    let (primary, mut replica) = pair();
    let proxy = Proxy::before(&primary.url()).ready();
    let mut client = proxy.client();
    replica.pause();
    client.send("SET a 1\r\nWAIT 1 100\r\nINCR a\r\nWAIT x 100\r\nGET a\r\n");
    let want = ["+OK", ":0", ":2", "-ERR value is not an integer or out of range", "$1\r\n2"];
    for expected in want {
        let frame = client.frame();
        assert_eq!(String::from_utf8_lossy(&frame).trim_end(), expected);
    }
    replica.resume();
}

#[test]
fn a_user_who_may_not_publish_is_told_and_not_lied_to() {
    let (primary, mut replica) = pair();
    let mut admin: Client = primary.client();
    assert_eq!(admin.text("ACL SETUSER ann on >a ~* +@all -publish"), "+OK\r\n");
    replica.pause();
    let url = format!("redis://ann:a@127.0.0.1:{}", primary.port());
    let proxy = Proxy::before(&url).ready();
    let mut client = proxy.client();
    assert_eq!(client.text("SET k 1"), "+OK\r\n");
    let answer = client.text("WAIT 1 100");
    assert!(answer.starts_with("-ERR breakwater: the replicas cannot be counted"), "{answer}");
    replica.resume();
}

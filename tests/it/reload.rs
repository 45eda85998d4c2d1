//! A changed file while traffic flows: the upstream moves, and nothing is applied by halves (INV-6).
//!
//! Owns the proofs that clients stay connected through a move, that a broken file or an unreachable node changes
//! nothing, and that what needs a restart is said. What surprises: a client that has commands in flight moves only
//! when they are answered, so the tests ask one thing at a time.

use crate::support::{Proxy, RedisServer, bulk, until};

fn upstream(redis: &RedisServer) -> String {
    format!("[upstream]\nurl = \"{}\"\n", redis.url())
}

#[test]
fn a_changed_upstream_is_adopted_while_clients_stay_connected() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    assert_eq!(old.client().ask("SET who old"), b"+OK\r\n");
    assert_eq!(new.client().ask("SET who new"), b"+OK\r\n");
    let mut proxy = Proxy::configured(&upstream(&old)).ready();
    let (mut client, mut client3) = (proxy.client(), proxy.client3());
    assert_eq!(client.ask("GET who"), bulk(b"old"));
    std::fs::write(proxy.file("breakwater.toml"), upstream(&new)).unwrap();
    proxy.hang_up();
    until("the first client is moved", || client.ask("GET who") == bulk(b"new"));
    assert_eq!(client3.ask("GET who"), bulk(b"new"));
    assert_eq!(proxy.metric_of("breakwater_config_reloads_total", "applied"), 1.0);
    // Nothing holds on to the old deployment for long: its idle lanes are closed.
    until("the old server has only our asking connection", || {
        let clients = old.client().text("CLIENT LIST");
        !clients.contains("breakwater:fast")
    });
}

#[test]
fn a_broken_file_and_a_dead_node_change_nothing() {
    let redis = RedisServer::start();
    let mut proxy = Proxy::configured(&upstream(&redis)).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    std::fs::write(proxy.file("breakwater.toml"), "[upstream]\nurll = \"redis://h\"\n").unwrap();
    proxy.hang_up();
    until("the complaint is counted", || {
        proxy.metric_of("breakwater_config_reloads_total", "refused") == 1.0
    });
    assert!(proxy.log().contains("breakwater.toml:2:1"), "{}", proxy.log());
    assert_eq!(client.ask("GET k"), bulk(b"v"));
    let dead = format!("[upstream]\nurl = \"redis://127.0.0.1:{}\"\n", crate::support::free_port());
    std::fs::write(proxy.file("breakwater.toml"), dead).unwrap();
    proxy.hang_up();
    until("the dead node is refused", || {
        proxy.metric_of("breakwater_config_reloads_total", "refused") >= 2.0
    });
    assert_eq!(client.ask("GET k"), bulk(b"v"));
}

#[test]
fn what_needs_a_restart_is_said_and_not_applied() {
    let redis = RedisServer::start();
    let mut proxy = Proxy::configured(&upstream(&redis)).ready();
    let changed = format!("workers = 2\n{}", upstream(&redis));
    std::fs::write(proxy.file("breakwater.toml"), changed).unwrap();
    proxy.hang_up();
    until("the restart is asked for", || {
        proxy.log().contains("need a restart") && proxy.log().contains("workers")
    });
    assert_eq!(proxy.client().ask("PING"), b"+PONG\r\n");
}

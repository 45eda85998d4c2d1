//! Names, passwords and clients: one group with several masters, Sentinels that want AUTH, libraries that look for a
//! Sentinel and find us, a move from one Redis to a group and back.
//!
//! Owns what needs no failover, and one that concerns another master. Never looks at how a failover goes.
//!
//! What surprises: a library that is told a wrong address does not fail here by itself. On this machine it would find
//! the server itself; so each job looks at the address first.

mod fred;
mod redis_rs;

use super::{before, toml};
use crate::clients::{has_not_panicked, node, nothing_is_left, python, run};
use crate::support::certs::Certificates;
use crate::support::process::Folder;
use crate::support::sentinel::{GroupShape, Sentinel, SentinelGroup, monitor, servers};
use crate::support::{Proxy, RedisServer, free_port, until};

#[test]
fn masters_of_one_group_are_followed_each_by_its_name() {
    let shape = GroupShape::default();
    let (one, other) = (servers(&shape), servers(&shape));
    let file = monitor("one", one[0].port(), 2) + &monitor("other", other[0].port(), 2);
    let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(&file, None)).collect();
    let mut group = SentinelGroup { nodes: one, sentinels, name: "one".into() };
    group.settle(1);
    let first = before(&group.url());
    group.name = "other".into();
    group.settle(1);
    let second = before(&group.url());
    assert_eq!(group.sentinels[1].text("SENTINEL FAILOVER other"), "+OK\r\n");
    let mut client = second.client();
    until("the other's new primary is in use", || {
        second.metric("breakwater_primary_changes_total") == 1.0
    });
    until("it serves", || client.text("SET who other") == "+OK\r\n");
    assert_eq!(other[1].client().text("GET who"), "$5\r\nother\r\n");
    assert_eq!(first.client().text("SET who one"), "+OK\r\n");
    assert_eq!(group.nodes[0].client().text("GET who"), "$3\r\none\r\n");
    assert_eq!(first.metric("breakwater_primary_changes_total"), 0.0);
}

#[test]
fn sentinels_that_want_a_password_say_so_and_get_it() {
    let shape = GroupShape { password: Some("s3cret"), ..GroupShape::default() };
    let group = SentinelGroup::start_as(&shape);
    let url = group.url();
    let mut proxy = Proxy::listening(|port, _| toml(port, &url));
    until("readiness names the key", || {
        proxy.http("/readyz").1.contains("set sentinel_user and sentinel_password_file")
    });
    let mut client = proxy.client();
    assert!(client.text("GET k").starts_with("-ERR breakwater: not executed"));
    let file = toml(proxy.port(), &url) + "sentinel_password = \"s3cret\"\n";
    std::fs::write(proxy.file("breakwater.toml"), file).unwrap();
    proxy.hang_up();
    until("it serves", || client.text("SET k v") == "+OK\r\n");
    assert!(!proxy.log().contains("s3cret"));
    // Whoever answers at a Sentinel's address is not shown the password of Redis, and the other way round.
    assert!(!group.nodes[0].client().text("INFO commandstats").contains("cmdstat_auth"));
}

#[test]
fn sentinels_and_servers_are_spoken_to_in_tls_by_name() {
    let certificates = Certificates::new();
    let redis = RedisServer::start_tls(&certificates, false);
    let port = free_port();
    let path = |name: &str| certificates.path(name).display().to_string();
    let (cert, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
    let tls = format!(
        "tls-port {port}\ntls-cert-file {cert}\ntls-key-file {key}\ntls-ca-cert-file {ca}\n\
         tls-auth-clients no\ntls-replication yes\n"
    );
    let _sentinel = Sentinel::start(&(monitor("mymaster", redis.port(), 1) + &tls), None);
    let url = format!("rediss-sentinel://localhost:{port}/mymaster");
    let table = format!("[upstream.tls]\nca = \"{ca}\"\n");
    let proxy = Proxy::listening(|port, _| toml(port, &url) + &table).ready();
    assert_eq!(proxy.client().text("SET k v"), "+OK\r\n");
    until("repairs speak TLS as well", || proxy.log().contains("redis-cli --tls"));
}

#[test]
fn a_name_that_nobody_knows_is_said_with_the_next_step() {
    let group = SentinelGroup::start_as(&GroupShape { replicas: 0, ..GroupShape::default() });
    let url = group.url().replace("mymaster", "mistyped");
    let proxy = Proxy::listening(|port, _| toml(port, &url));
    until("readiness names it", || {
        let words = proxy.http("/readyz").1;
        words.contains("knows no master 'mistyped'") && words.contains("SENTINEL MASTERS")
    });
}

#[test]
fn a_running_proxy_moves_to_a_group_and_back() {
    let single = RedisServer::start();
    let group = SentinelGroup::start();
    let mut proxy = Proxy::listening(|port, _| toml(port, &single.url())).ready();
    let mut client = proxy.client();
    for (url, server) in
        [(group.url(), &group.nodes[0]), (single.url(), &single), (group.url(), &group.nodes[0])]
    {
        let file = toml(proxy.port(), &url);
        std::fs::write(proxy.file("breakwater.toml"), file).unwrap();
        proxy.hang_up();
        until("the client is moved", || {
            let stamp = std::process::id();
            server.client().text(&format!("SET who {url}{stamp}"));
            client.text("GET who").contains(&format!("{url}{stamp}"))
        });
        assert_eq!(client.text("SENTINEL MYID").starts_with('$'), url.contains("sentinel"));
    }
    has_not_panicked(&proxy);
}

#[test]
fn clients_that_ask_for_a_sentinel_are_told_the_address_that_they_dialled() {
    let stage = Stage::set();
    let port = stage.proxy.port().to_string();
    for version in [2, 3] {
        let mut client = stage.proxy.client();
        client.text(&format!("HELLO {version}"));
        let address = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len());
        assert_eq!(client.text("SENTINEL GET-MASTER-ADDR-BY-NAME mymaster"), address);
        let nobody = if version == 2 { "*-1\r\n" } else { "_\r\n" };
        assert_eq!(client.text("sentinel get-master-addr-by-name other"), nobody);
        let state = client.text("SENTINEL MASTER mymaster");
        assert!(state.starts_with(if version == 2 { "*36\r\n" } else { "%18\r\n" }), "{state}");
        assert!(client.text("SENTINEL MASTERS").ends_with(&state));
        for words in ["REPLICAS mymaster", "SLAVES mymaster", "SENTINELS mymaster"] {
            assert_eq!(client.text(&format!("SENTINEL {words}")), "*0\r\n");
        }
        assert!(client.text("SENTINEL CKQUORUM mymaster").starts_with("+OK 1 usable"));
        assert_eq!(client.text("SENTINEL MASTER other"), "-ERR No such master with that name\r\n");
        assert_eq!(client.text("SENTINEL PING"), "+PONG\r\n");
        for words in ["FAILOVER mymaster", "RESET *", "SET mymaster quorum 1", "NONSENSE"] {
            assert!(client.text(&format!("SENTINEL {words}")).starts_with('-'), "{words}");
        }
        assert!(client.text("SENTINEL MASTER").contains("wrong number of arguments"));
        assert!(client.text("ROLE").contains("master\r\n"), "that is the real primary's");
    }
    // Before one Redis there is none.
    let proxy = Proxy::before(&stage.group.nodes[0].url()).ready();
    assert!(proxy.client().text("SENTINEL MASTERS").starts_with("-ERR unknown command"));
}

#[test]
fn redis_py() {
    perform("PROTOCOL=2", python("redis_py_sentinel.py", &["PROTOCOL=2"]));
    perform("PROTOCOL=3", python("redis_py_sentinel.py", &["PROTOCOL=3"]));
}

#[test]
fn ioredis_and_node_redis() {
    perform("PROTOCOL=2", node("sentinel.js", &["PROTOCOL=2"]));
    perform("PROTOCOL=3", node("sentinel.js", &["PROTOCOL=3"]));
}

/// A group without a replica and a Breakwater in front of it: for clients that need no failover.
struct Stage {
    group: SentinelGroup,
    proxy: Proxy,
    folder: Folder,
}

// === impl Stage ===

impl Stage {
    fn set() -> Self {
        let shape = GroupShape { sentinels: 1, replicas: 0, quorum: 1, ..GroupShape::default() };
        let group = SentinelGroup::start_as(&shape);
        let proxy = Proxy::before(&group.url()).ready();
        Self { group, proxy, folder: Folder::new() }
    }

    fn clear(&self) {
        nothing_is_left(&mut self.group.nodes[0].client());
        has_not_panicked(&self.proxy);
    }
}

fn perform(version: &str, mut script: std::process::Command) {
    let stage = Stage::set();
    eprintln!("{version}");
    script.env("REDIS_URL", format!("redis://127.0.0.1:{}", stage.proxy.port()));
    run(script, &stage.folder);
    stage.clear();
}

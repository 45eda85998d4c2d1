//! Clients in cluster mode before Breakwater: what they are told, and that they do their work unchanged.
//!
//! Owns the jobs of client libraries (scripts of `tests/clients/`, and `smart/` for the Rust ones), each with three
//! primaries behind one address, and the comparison of our words with those of a node that has every slot. Never looks
//! at how slots move: that no client notices is the matter of the other suites.
//!
//! What surprises: a library that is told a wrong address does not fail here by itself. On this machine it would find
//! the node itself; so the first scene of each job looks at the address.

mod fred;
mod redis_rs;

use std::process::Command;

use crate::clients::{has_not_panicked, node, nothing_is_left, python, run};
use crate::support::cluster::{Cluster, Shape};
use crate::support::pair::masked;
use crate::support::process::Folder;
use crate::support::{Client, Proxy, until};

/// Three primaries, and a Breakwater in front of them.
struct Stage {
    cluster: Cluster,
    proxy: Proxy,
    folder: Folder,
}

#[test]
fn redis_py() {
    perform(|version| python("redis_py_cluster.py", &[version]));
}

#[test]
fn ioredis() {
    perform(|version| node("ioredis_cluster.js", &[version]));
}

#[test]
fn node_redis() {
    perform(|version| node("node_redis_cluster.js", &[version]));
}

/// Runs a script with either version of the protocol.
fn perform(script: impl Fn(&str) -> Command) {
    let stage = Stage::set();
    for version in ["PROTOCOL=2", "PROTOCOL=3"] {
        let mut script = script(version);
        script.env("REDIS_URL", format!("redis://{}", stage.address()));
        run(script, &stage.folder);
        stage.clear();
    }
}

/// Reply by reply, by a client through Breakwater and by one that speaks to a node which is the whole of its cluster.
#[test]
fn the_words_are_those_of_a_node_with_every_slot() {
    // A node that nobody has introduced to itself does not know its address.
    let more = ["--cluster-announce-ip", "127.0.0.1"];
    let cluster = Cluster::start_as(&Shape { primaries: 1, more: &more, ..Shape::default() });
    let proxy = Proxy::before(&cluster.url_of(&[0])).ready();
    for version in [2, 3] {
        let mut told = [proxy.client(), cluster.node(0)].map(|client| talk(client, version));
        let [ours, theirs] = &mut told;
        for ((asked, ours), (_, theirs)) in ours.iter().zip(&*theirs) {
            assert_eq!(ours, theirs, "RESP{version}: {asked}");
        }
    }
}

/// What a client is told, with the names, ports and ids that differ from node to node hidden.
fn talk(mut client: Client, version: u8) -> Vec<(&'static str, String)> {
    let id = client.text("CLUSTER MYID").lines().nth(1).expect("it is a string").to_owned();
    let nodes = client.text("CLUSTER NODES");
    let ports = nodes.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split_once(' '));
    let (port, bus) = ports.and_then(|(ports, _)| ports.split_once('@')).expect("it has ports");
    assert!(client.text(&format!("HELLO {version}")).contains("mode\r\n$7\r\ncluster\r\n"));
    let asked = TALK.iter().map(|&asked| {
        let reply = masked(client.ask(&asked.replace("MYSELF", &id)));
        let reply = String::from_utf8_lossy(&reply).replace(&id, "MYSELF");
        // The length of a line with ports in it depends on these.
        let reply = reply.replace(&format!("@{bus}"), &format!("@{:5}", "BUS"));
        (asked, reply.replace(port, "PORT"))
    });
    asked.collect()
}

/// What is asked in turn; some of it nobody ever asks.
const TALK: [&str; 52] = [
    "CLUSTER SLOTS",
    "CLUSTER SHARDS",
    "CLUSTER NODES",
    "CLUSTER INFO",
    "CLUSTER MYID",
    "CLUSTER MYSHARDID",
    "CLUSTER KEYSLOT foo",
    "CLUSTER KEYSLOT",
    "CLUSTER COUNTKEYSINSLOT 12182",
    "SET foo bar",
    "CLUSTER COUNTKEYSINSLOT 12182",
    "CLUSTER COUNTKEYSINSLOT 16384",
    "CLUSTER COUNTKEYSINSLOT x",
    "CLUSTER GETKEYSINSLOT 12182 10",
    "CLUSTER GETKEYSINSLOT 1 -1",
    "CLUSTER LINKS",
    "CLUSTER COUNT-FAILURE-REPORTS MYSELF",
    "CLUSTER COUNT-FAILURE-REPORTS abc",
    "CLUSTER REPLICAS MYSELF",
    "CLUSTER REPLICAS abc",
    "CLUSTER SLAVES MYSELF",
    "CLUSTER SLAVES :0",
    "CLUSTER HELP",
    "CLUSTER NONE",
    "CLUSTER",
    "CLUSTER SLOTS x",
    "READONLY",
    "READWRITE",
    "ASKING",
    "SELECT 0",
    "SELECT 1",
    "SELECT -1",
    "SELECT x",
    "SELECT 2147483648",
    "SWAPDB 0 1",
    "MOVE foo 1",
    "COPY foo {foo}2 DB 1",
    "HELLO",
    "PING",
    "PING hello",
    "PING a b",
    "INFO cluster",
    "MULTI",
    "PING",
    "CLUSTER KEYSLOT a",
    "CLUSTER SLOTS",
    "SELECT 1",
    "READONLY",
    "ASKING",
    "EXEC",
    "RESET",
    // The other client begins without it too.
    "DEL foo",
];

#[test]
fn no_address_of_a_node_is_told() {
    let stage = Stage::set();
    let mut client = stage.proxy.client();
    let id = client.text("CLUSTER MYID").lines().nth(1).expect("it is a string").to_owned();
    for asked in ["SLOTS", "SHARDS", "NODES", "LINKS", "INFO", &format!("REPLICAS {id}")] {
        let told = client.text(&format!("CLUSTER {asked}"));
        for i in 0..stage.cluster.len() {
            assert!(!told.contains(&stage.cluster.port(i).to_string()), "{asked}: {told}");
            assert!(!told.contains(&stage.cluster.id(i)), "{asked}: {told}");
        }
    }
    // What would change the cluster has reached nobody.
    for i in 0..stage.cluster.len() {
        let other = stage.cluster.id(i);
        assert!(
            client.text(&format!("CLUSTER FORGET {other}")).starts_with("-NOPERM breakwater: ")
        );
    }
    assert!(client.text("CLUSTER RESET HARD").starts_with("-NOPERM breakwater: "));
    stage.cluster.settle();
}

#[test]
fn each_listener_is_found_where_its_clients_dial() {
    let cluster = Cluster::start_as(&Shape { primaries: 1, ..Shape::default() });
    let url = cluster.url_of(&[0]);
    let proxy = Proxy::listening(|port, folder| {
        let socket = folder.path().join("bw.sock");
        format!(
            "[upstream]\nurl = \"{url}\"\n\
             [[listener]]\naddress = \"127.0.0.1:{port}\"\n\
             [[listener]]\naddress = \"[::1]:{port}\"\n\
             [[listener]]\naddress = \"unix:{}\"\nannounce = \"redis.example:7001\"\n",
            socket.display()
        )
    })
    .ready();
    let port = proxy.port();
    let told = |mut client: Client| client.text("CLUSTER SLOTS");
    let at =
        |host: &str, port: u16| format!("*4\r\n${}\r\n{host}\r\n:{port}\r\n$40\r\n", host.len());
    assert!(told(proxy.client()).contains(&at("127.0.0.1", port)));
    let over_ipv6 = Client::try_connect(("::1", port)).expect("it listens there");
    assert!(told(over_ipv6).contains(&at("::1", port)));
    let local = Client::connect_unix(&proxy.file("bw.sock")).expect("it listens there");
    assert!(told(local).contains(&at("redis.example", 7001)));
}

#[test]
fn a_cluster_can_be_presented_as_one_redis() {
    let cluster = Cluster::start(3, 0);
    let toml = format!("[upstream]\nurl = \"{}\"\npresent_as = \"standalone\"\n", cluster.url());
    let proxy = Proxy::configured(&toml).ready();
    let mut client = proxy.client();
    let no_cluster = "-ERR This instance has cluster support disabled\r\n";
    for asked in ["CLUSTER SLOTS", "CLUSTER COUNTKEYSINSLOT 1", "READONLY", "READWRITE", "ASKING"] {
        assert_eq!(client.text(asked), no_cluster, "{asked}");
    }
    assert!(client.text("HELLO 3").contains("mode\r\n$10\r\nstandalone\r\n"));
    for (asked, told) in [
        ("INFO", "redis_mode:standalone"),
        ("INFO everything", "cluster_enabled:0"),
        ("INFO server", "redis_mode:standalone"),
        ("INFO cluster", "cluster_enabled:0"),
    ] {
        let info = client.text(asked);
        assert!(info.contains(&format!("\r\n{told}\r\n")), "{asked}: {info}");
        assert!(!info.contains("redis_mode:cluster"), "{asked}: {info}");
        assert!(!info.contains("cluster_enabled:1"), "{asked}: {info}");
    }
    assert_eq!(client.text("SELECT 1"), "-ERR DB index is out of range\r\n");
}

#[test]
fn ping_is_answered_while_any_shard_is_there() {
    let mut cluster = Cluster::start_as(&Shape {
        more: &["--cluster-require-full-coverage", "no"],
        ..Shape::default()
    });
    let proxy = Proxy::before(&cluster.url()).ready();
    let mut client = proxy.client();
    assert_eq!(client.text("PING"), "+PONG\r\n");
    for slot in [0, 8_000, 16_000] {
        let key = crate::support::cluster::key_in(slot, 0);
        assert_eq!(client.text(&format!("SET {key} x")), "+OK\r\n");
    }
    cluster.kill(0);
    cluster.kill(1);
    for _ in 0..50 {
        assert_eq!(client.text("PING"), "+PONG\r\n");
    }
    cluster.kill(2);
    until("PING says that nobody is there", || {
        client.text("PING").starts_with("-ERR breakwater: not executed: ")
    });
}

#[test]
fn ping_finds_a_shard_that_is_there() {
    let mut cluster = Cluster::start_as(&Shape {
        more: &["--cluster-require-full-coverage", "no"],
        ..Shape::default()
    });
    for gone in [0, 1] {
        // It has not spoken with any node yet but to ask for the others.
        let proxy = Proxy::before(&cluster.url()).ready();
        cluster.kill(gone);
        assert_eq!(proxy.client().text("PING"), "+PONG\r\n", "without node {gone}");
    }
}

// === impl Stage ===

impl Stage {
    fn set() -> Self {
        let cluster = Cluster::start(3, 0);
        let proxy = Proxy::before(&cluster.url()).ready();
        Self { cluster, proxy, folder: Folder::new() }
    }

    /// Where clients connect to.
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port())
    }

    /// Nothing is left of the clients that were there, and every node has had a share of their work.
    fn clear(&self) {
        for i in self.cluster.living() {
            let mut node = self.cluster.node(i);
            nothing_is_left(&mut node);
            assert_ne!(node.text("DBSIZE"), ":0\r\n", "node {i} has been left out");
            assert_eq!(node.text("FLUSHALL"), "+OK\r\n");
        }
        has_not_panicked(&self.proxy);
    }
}

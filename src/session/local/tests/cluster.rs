//! What clients are told of a cluster, compared with a redis-server 7.0.15 that owns every slot of
//! its cluster.
//!
//! Owns no rig but that of [`super`], put in front of a cluster. Never has a node: what nodes
//! answer themselves is not told here. `tests/it/cluster/smart.rs` asks a real one the same
//! questions.

use super::*;
use crate::command::spec::Class;
use crate::config::{Announced, Ping, PresentAs};
use crate::session::local::cluster::refusal;
use crate::upstream::lane::LaneState;

const CLUSTER: &str = "redis-cluster://127.0.0.1:1";
const NO_CLUSTER: &str = "-ERR This instance has cluster support disabled\r\n";

fn before_cluster() -> Rig {
    Rig::before(CLUSTER, Auth::Upstream, |_| {})
}

fn hiding_cluster() -> Rig {
    Rig::before(CLUSTER, Auth::Upstream, |settings| {
        settings.cluster.as_mut().unwrap().present_as = PresentAs::Standalone;
    })
}

impl Rig {
    /// What we are called.
    fn name(&self) -> String {
        self.worker.shared.names.node.clone()
    }

    /// With the names that differ from node to node in place of those of the recording.
    #[track_caller]
    fn compare(&mut self, id: SessionId, table: &[(&str, &str)]) {
        let name = self.name();
        for (line, want) in table {
            let line = line.replace("MYSELF", &name);
            assert_eq!(self.lines(id, &[&line]), want.replace("MYSELF", &name), "{line}");
        }
    }
}

#[test]
fn a_client_sees_one_node_that_owns_every_slot() {
    let mut rig = before_cluster();
    let id = rig.connect();
    let (nodes, info) = (
        "MYSELF 127.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-16383\n",
        "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\ncluster_current_epoch:1\r\n\
         cluster_my_epoch:1\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n",
    );
    let resp2 = [
        (
            "CLUSTER SLOTS",
            "*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:6379\r\n$40\r\nMYSELF\r\n*0\r\n",
        ),
        (
            "CLUSTER SHARDS",
            "*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n*14\r\n$2\r\nid\r\n$40\r\nMYSELF\r\n\
             $4\r\nport\r\n:6379\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$4\r\nrole\r\n\
             $6\r\nmaster\r\n$18\r\nreplication-offset\r\n:0\r\n$6\r\nhealth\r\n$6\r\nonline\r\n",
        ),
        ("CLUSTER NODES", &format!("$102\r\n{nodes}\r\n")),
        ("cluster info", &format!("$312\r\n{info}\r\n")),
        ("CLUSTER MYID", "$40\r\nMYSELF\r\n"),
        ("CLUSTER LINKS", "*0\r\n"),
        ("CLUSTER SLOTS x", "-ERR wrong number of arguments for 'cluster|slots' command\r\n"),
        ("CLUSTER FOO", "-ERR unknown subcommand 'FOO'. Try CLUSTER HELP.\r\n"),
    ];
    rig.compare(id, &resp2);
    rig.lines(id, &["HELLO 3"]);
    let resp3 = [
        (
            "CLUSTER SLOTS",
            "*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:6379\r\n$40\r\nMYSELF\r\n%0\r\n",
        ),
        (
            "CLUSTER SHARDS",
            "*1\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n%7\r\n$2\r\nid\r\n$40\r\nMYSELF\r\n\
             $4\r\nport\r\n:6379\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$4\r\nrole\r\n\
             $6\r\nmaster\r\n$18\r\nreplication-offset\r\n:0\r\n$6\r\nhealth\r\n$6\r\nonline\r\n",
        ),
        ("CLUSTER NODES", &format!("=106\r\ntxt:{nodes}\r\n")),
        ("CLUSTER INFO", &format!("=316\r\ntxt:{info}\r\n")),
    ];
    rig.compare(id, &resp3);
}

#[test]
fn questions_about_nodes_and_keys_have_redis_own_answers() {
    let mut rig = before_cluster();
    let id = rig.connect();
    let table = [
        ("CLUSTER KEYSLOT foo", ":12182\r\n"),
        ("CLUSTER KEYSLOT {user1000}.following", ":3443\r\n"),
        ("CLUSTER COUNT-FAILURE-REPORTS MYSELF", ":0\r\n"),
        ("CLUSTER COUNT-FAILURE-REPORTS abc", "-ERR Unknown node abc\r\n"),
        ("CLUSTER REPLICAS MYSELF", "*0\r\n"),
        ("CLUSTER SLAVES MYSELF", "*0\r\n"),
        ("CLUSTER REPLICAS noaddr", "-ERR Unknown node noaddr\r\n"),
        ("READONLY", OK),
        ("READWRITE", OK),
        ("ASKING", OK),
        ("CLUSTER", "-ERR wrong number of arguments for 'cluster' command\r\n"),
    ];
    rig.compare(id, &table);
    let help = rig.lines(id, &["CLUSTER HELP"]);
    assert!(
        help.starts_with("*56\r\n+CLUSTER <subcommand> [<arg> [value] [opt] ...]. Sub"),
        "{help}"
    );
    assert!(help.ends_with("+HELP\r\n+    Prints this help.\r\n"), "{help}");
}

#[test]
fn nobody_changes_the_cluster_from_here() {
    let mut rig = before_cluster();
    let id = rig.connect();
    for line in [
        "ADDSLOTS 1",
        "ADDSLOTSRANGE 1 2",
        "BUMPEPOCH",
        "DELSLOTS 1",
        "DELSLOTSRANGE 1 2",
        "FAILOVER FORCE",
        "FLUSHSLOTS",
        "FORGET MYSELF",
        "MEET 127.0.0.1 7000",
        "REPLICATE MYSELF",
        "RESET HARD",
        "SAVECONFIG",
        "SET-CONFIG-EPOCH 7",
        "SETSLOT 1 STABLE",
    ] {
        let reply = rig.lines(id, &[&format!("CLUSTER {line}")]);
        let word = line.split(' ').next().unwrap().to_lowercase();
        let want = format!(
            "-NOPERM breakwater: 'cluster|{word}' changes the cluster, which is hidden here behind one address; \
             send it to the node itself\r\n"
        );
        assert_eq!(reply, want);
    }
    assert!(rig.worker.to_dial.is_empty(), "nothing went to a node");
}

#[test]
fn what_explain_calls_refused_is_refused() {
    let mut rig = before_cluster();
    let id = rig.connect();
    let topology = rig.worker.begin_batch();
    for spec in topology.table.specs().filter(|spec| spec.class == Class::Local) {
        let mut words: Vec<&str> = spec.name.split('|').collect();
        words.resize(spec.arity.unsigned_abs() as usize, "1");
        if !spec.is_container && words[0] == "cluster" {
            let reply = String::from_utf8(rig.say(id, &[&words])).unwrap();
            assert_eq!(reply.starts_with("-NOPERM "), refusal(spec).is_some(), "{}", spec.name);
        }
    }
}

#[test]
fn each_client_is_told_the_address_that_it_dialled_itself() {
    let mut rig = before_cluster();
    for (own, host, port, bus) in [
        ("[2001:db8::1]:7000", "2001:db8::1", 7000, 17_000),
        ("10.0.0.7:60000", "10.0.0.7", 60_000, 0),
        ("/run/breakwater.sock:0", "", 0, 10_000),
    ] {
        let id = rig.connect_between("1.1.1.1:1", own);
        let slots = rig.lines(id, &["CLUSTER SLOTS"]);
        let where_we_are = format!("*4\r\n${}\r\n{host}\r\n:{port}\r\n", host.len());
        assert!(slots.contains(&where_we_are), "{slots}");
        let nodes = rig.lines(id, &["CLUSTER NODES"]);
        assert!(nodes.contains(&format!(" {host}:{port}@{bus} myself,")), "{nodes}");
    }
}

#[test]
fn what_is_announced_stands_in_the_place_of_what_was_dialled() {
    let mut rig = before_cluster();
    let gate = Rc::get_mut(&mut rig.gate).unwrap();
    gate.announced = Some(Announced { host: "redis.example".into(), port: 6380 });
    gate.is_tls = true;
    let id = rig.connect();
    let told = rig.lines(id, &["CLUSTER SLOTS", "CLUSTER NODES", "CLUSTER SHARDS"]);
    assert!(told.contains("*4\r\n$13\r\nredis.example\r\n:6380\r\n"), "{told}");
    assert!(told.contains(" redis.example:6380@16380 myself,master "), "{told}");
    assert!(
        told.contains("$8\r\ntls-port\r\n:6380\r\n$2\r\nip\r\n$13\r\nredis.example\r\n"),
        "{told}"
    );
    assert!(!told.contains("127.0.0.1"), "{told}");
}

#[test]
fn our_names_are_drawn_and_stay() {
    let mut rig = before_cluster();
    let (name, shard) = (rig.name(), rig.worker.shared.names.shard.clone());
    for drawn in [&name, &shard] {
        let is_digit = |digit: char| digit.is_ascii_digit() || ('a'..='f').contains(&digit);
        assert!(drawn.len() == 40 && drawn.chars().all(is_digit), "{drawn}");
    }
    assert!(name != shard && name != before_cluster().name());
    for _ in 0..2 {
        let id = rig.connect();
        rig.compare(id, &[("CLUSTER MYID", "$40\r\nMYSELF\r\n")]);
        let told = rig.lines(id, &["CLUSTER MYSHARDID"]);
        assert_eq!(told, format!("$40\r\n{shard}\r\n"));
    }
}

#[test]
fn a_cluster_has_one_database() {
    let mut rig = before_cluster();
    let id = rig.connect();
    let not_here = "-ERR SELECT is not allowed in cluster mode\r\n";
    let range = "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n";
    rig.check(
        id,
        &[
            ("SELECT 0", OK),
            ("SELECT 1", not_here),
            ("SELECT -1", not_here),
            ("SELECT abc", NOT_INTEGER),
            ("SELECT 2147483648", range),
        ],
    );
    let mut rig = hiding_cluster();
    let id = rig.connect();
    rig.check(id, &[("SELECT 0", OK), ("SELECT 1", "-ERR DB index is out of range\r\n")]);
}

#[test]
fn readonly_is_remembered_until_readwrite_or_reset() {
    let mut rig = before_cluster();
    let id = rig.connect();
    for (line, is_readonly) in
        [("READONLY", true), ("READWRITE", false), ("READONLY", true), ("RESET", false)]
    {
        rig.lines(id, &[line]);
        assert_eq!(rig.session(id).is_readonly, is_readonly, "{line}");
        let shown = rig.lines(id, &["CLIENT INFO"]);
        assert_eq!(shown.contains(" flags=r "), is_readonly, "{line}: {shown}");
    }
}

#[test]
fn without_a_cluster_to_be_seen_nothing_is_told_of_one() {
    for mut rig in [hiding_cluster(), Rig::open()] {
        let id = rig.connect();
        let table = [("READONLY", NO_CLUSTER), ("READWRITE", NO_CLUSTER), ("ASKING", NO_CLUSTER)];
        rig.check(id, &table);
        assert!(!rig.session(id).is_readonly);
        assert!(rig.lines(id, &["HELLO"]).contains("mode\r\n$10\r\nstandalone\r\n"));
    }
    let mut rig = hiding_cluster();
    let id = rig.connect();
    for line in ["SLOTS", "NODES", "HELP", "KEYSLOT a", "COUNTKEYSINSLOT 1", "RESET"] {
        assert_eq!(rig.lines(id, &[&format!("CLUSTER {line}")]), NO_CLUSTER, "{line}");
    }
    let mut rig = before_cluster();
    let id = rig.connect();
    assert!(rig.lines(id, &["HELLO"]).contains("mode\r\n$7\r\ncluster\r\n"));
}

#[test]
fn in_front_of_one_redis_cluster_and_ping_are_its_own_affair() {
    let rig = Rig::open();
    let topology = rig.worker.shared.topology.load_full();
    for name in ["cluster|slots", "cluster|meet", "ping"] {
        assert_eq!(topology.table.find(name).unwrap().class, Class::Shared, "{name}");
    }
}

#[test]
fn what_is_about_keys_is_asked_of_the_nodes_that_have_them() {
    let rig = before_cluster();
    let topology = rig.worker.shared.topology.load_full();
    for (name, want) in [
        ("cluster|countkeysinslot", Class::Shared),
        ("cluster|getkeysinslot", Class::Shared),
        ("cluster|slot-stats", Class::Shared),
        ("cluster|keyslot", Class::Local),
    ] {
        assert_eq!(topology.table.find(name).unwrap().class, want, "{name}");
    }
}

#[test]
fn ping_is_answered_here_while_a_connection_stands_and_else_tries_one() {
    let mut rig = before_cluster();
    let id = rig.connect();
    assert_eq!(rig.lines(id, &["PING"]), "");
    let lane = rig.worker.to_dial.pop().unwrap();
    assert!(rig.worker.to_dial.is_empty(), "one connection is tried");
    assert_eq!(rig.worker.lanes.get(lane).unwrap().waiters.len(), 1);
    rig.worker.lanes.get_mut(lane).unwrap().state = LaneState::Open;
    let other = rig.connect();
    rig.check(
        other,
        &[
            ("PING", "+PONG\r\n"),
            ("PING hello", "$5\r\nhello\r\n"),
            ("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
        ],
    );
    rig.worker.lanes.get_mut(lane).unwrap().retired = true;
    assert_eq!(rig.lines(other, &["PING"]), "");
    assert_eq!(rig.worker.to_dial.len(), 1, "a connection that ends says nothing");
}

#[test]
fn who_answers_ping_is_a_setting() {
    for (url, ping, want) in [
        (CLUSTER, None, Class::Local),
        (CLUSTER, Some(Ping::Upstream), Class::Shared),
        ("redis://127.0.0.1:1", None, Class::Shared),
        ("redis://127.0.0.1:1", Some(Ping::Local), Class::Local),
    ] {
        let rig = Rig::before(url, Auth::Upstream, |settings| {
            settings.ping = ping.unwrap_or(settings.ping);
        });
        let topology = rig.worker.shared.topology.load_full();
        assert_eq!(topology.table.find("ping").unwrap().class, want, "{url} {ping:?}");
    }
}

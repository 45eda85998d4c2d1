//! Commands across slots and nodes: one answer, the same as of one Redis, whatever happens to the slots meanwhile.
//!
//! Owns the comparison with a standalone Redis that gets the same commands, and what happens to parts: redirected,
//! lost, or asked for by a client that has left. Never looks at a part itself; `route` has tests of its own. What
//! surprises: the order of KEYS and of a scan is nobody's promise, so those are compared sorted.

use std::collections::BTreeSet;

use crate::support::cluster::{Cluster, key_in, share, slot_of};
use crate::support::random::Random;
use crate::support::redis::RedisServer;
use crate::support::{Client, Proxy, frames, line, shown, until};

/// A proxy that has seen the whole map.
fn before(cluster: &Cluster) -> Proxy {
    // Its clients are patient, or a slow machine would fail the tests.
    let proxy = super::before(cluster);
    let mut client = proxy.client();
    until("the slot map is there", || client.text("GET x") == "$-1\r\n");
    proxy
}

/// Keys in as many slots as there are of them.
fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key:{n}")).collect()
}

/// A command with random keys of the kinds that are cut.
fn any_command(random: &mut Random) -> String {
    let names = ["a", "b", "{a}x", "c", "d", "{c}y", "e", "f", "list", "nobody"];
    let mut key = |_| names[random.below(names.len())];
    let some: Vec<&str> = (0..6).map(&mut key).collect();
    let count = 1 + random.below(6);
    let some = &some[..count];
    match random.below(8) {
        0 => format!(
            "MSET {}",
            some.iter().map(|key| format!("{key} v{count} ")).collect::<String>()
        ),
        1 | 2 => format!("MGET {}", some.join(" ")),
        3 => format!("DEL {}", some.join(" ")),
        4 => format!("EXISTS {}", some.join(" ")),
        5 => format!("TOUCH {}", some.join(" ")),
        6 => format!("UNLINK {}", some.join(" ")),
        _ => format!("RPUSH list {count}"),
    }
}

#[test]
fn what_is_split_is_answered_as_by_one_redis() {
    let (cluster, single) = (Cluster::start(3, 0), RedisServer::start());
    let proxy = before(&cluster);
    let mut random = Random::new(Random::seed_from("BREAKWATER_GATHER_SEED"));
    for version in [2, 3] {
        let mut pair = [proxy.client(), single.client()];
        for client in &mut pair {
            client.ask(&format!("HELLO {version}"));
        }
        for _ in 0..20 {
            // MSET overwrites the list and RPUSH then fails: errors keep their places too.
            let commands: Vec<String> = (0..60).map(|_| any_command(&mut random)).collect();
            let pipeline: Vec<u8> = commands.iter().flat_map(|words| line(words)).collect();
            let [ours, theirs] = pair.each_mut().map(|client| {
                client.send(&pipeline);
                client.frames(commands.len())
            });
            for (place, words) in commands.iter().enumerate() {
                let (got, want) = (shown(&ours[place]), shown(&theirs[place]));
                assert_eq!(got, want, "RESP{version}, {words}");
            }
        }
    }
}

#[test]
fn many_keys_are_many_parts() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let mut other = proxy.client3();
    let keys = keys(3000);
    let pairs: String = keys.iter().map(|key| format!(" {key} {key}")).collect();
    assert_eq!(other.text(&format!("MSET{pairs}")), "+OK\r\n");
    let reply = other.ask(&format!("MGET {}", keys.join(" ")));
    let values: Vec<Vec<u8>> = frames::arguments(&reply);
    assert!(values.iter().zip(&keys).all(|(value, key)| value == key.as_bytes()));
    assert_eq!(values.len(), keys.len());
    let big = "x".repeat(300_000);
    assert_eq!(other.call(&["MSET", "a", &big, "b", &big, "c", &big]), b"+OK\r\n");
    let reply = other.call(&["MGET", "c", "nobody", "b", "a"]);
    assert_eq!(reply.len(), "*4\r\n_\r\n".len() + 3 * (big.len() + "$300000\r\n\r\n".len()));
    assert_eq!(other.text(&format!("DEL {} a b c", keys.join(" "))), ":3003\r\n");
}

#[test]
fn what_makes_sense_only_as_a_whole_is_refused_in_redis_s_words() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let (mut client, mut node) = (proxy.client(), cluster.node(0));
    for words in [
        "MSETNX a 1 b 2",
        "RENAME a b",
        "SINTER a b",
        "PFCOUNT a b",
        "SUNIONSTORE a b c",
        "BITOP AND a b c",
        "EVAL x 2 a b",
        "LMOVE a b LEFT LEFT",
    ] {
        assert_eq!(client.text(words), node.text(words), "{words}");
        assert!(client.text(words).starts_with("-CROSSSLOT "), "{words}");
    }
}

#[test]
fn what_is_about_all_nodes_reaches_all_of_them() {
    let cluster = Cluster::start(3, 1);
    let proxy = before(&cluster);
    let mut client = proxy.client();
    for key in keys(50) {
        client.ask(&format!("SET {key} 1"));
    }
    assert_eq!(client.text("DBSIZE"), ":50\r\n");
    let found: BTreeSet<Vec<u8>> =
        frames::arguments(&client.ask("KEYS key:*")).into_iter().collect();
    assert_eq!(found, keys(50).into_iter().map(String::into_bytes).collect());
    assert!(client.text("RANDOMKEY").contains("key:"));
    assert!(client.text("INFO keyspace").contains("db0:keys=50,expires=0,avg_ttl=0\r\n"));
    assert!(client.text("INFO").contains("# Breakwater\r\n"));
    assert_eq!(client.text("SLOWLOG RESET"), "+OK\r\n");
    assert_eq!(client.text("FLUSHALL"), "+OK\r\n");
    assert_eq!(client.text("DBSIZE"), ":0\r\n");
    assert!((0..3).all(|i| cluster.node(i).text("DBSIZE") == ":0\r\n"));
    assert_eq!(client.text("RANDOMKEY"), "$-1\r\n");
}

#[test]
fn what_is_set_is_set_on_replicas_too() {
    let cluster = Cluster::start(3, 1);
    let proxy = before(&cluster);
    let mut client = proxy.client();
    let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    assert_eq!(client.text("CONFIG SET slowlog-log-slower-than 0"), "+OK\r\n");
    assert!(String::from_utf8_lossy(&client.call(&["SCRIPT", "LOAD", "return 1"])).contains(sha));
    for i in 0..6 {
        let mut node = cluster.node(i);
        assert!(node.text(&format!("SCRIPT EXISTS {sha}")).contains(":1"), "node {i}");
        assert!(
            node.text("CONFIG GET slowlog-log-slower-than").ends_with("$1\r\n0\r\n"),
            "node {i}"
        );
    }
    assert_eq!(
        client.text(&format!("SCRIPT EXISTS {sha} {}", "0".repeat(40))),
        "*2\r\n:1\r\n:0\r\n"
    );
    assert!(client.text("SCRIPT KILL").starts_with("-NOTBUSY "));
    assert!(client.text("CONFIG SET nonsense 1").starts_with("-ERR Unknown option"));
    assert_eq!(client.text("SCRIPT FLUSH"), "+OK\r\n");
    assert!((0..6).all(|i| cluster.node(i).text(&format!("SCRIPT EXISTS {sha}")).contains(":0")));
}

#[test]
fn a_function_is_loaded_on_every_shard_and_called_anywhere() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let mut client = proxy.client();
    let source = "#!lua name=lib\nredis.register_function('f', function(keys) return keys[1] end)";
    assert_eq!(client.call(&["FUNCTION", "LOAD", source]), b"$3\r\nlib\r\n");
    for key in ["a", "b", "c"] {
        assert_eq!(client.text(&format!("FCALL f 1 {key}")), format!("$1\r\n{key}\r\n"));
    }
    let again = client.call(&["FUNCTION", "LOAD", source]);
    assert!(shown(&again).contains("already exists"), "{}", shown(&again));
    assert_eq!(client.text("FUNCTION DELETE lib"), "+OK\r\n");
    assert!(client.text("FCALL f 1 a").starts_with("-ERR Function not found"));
}

#[test]
fn parts_follow_their_slots() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let mut client = proxy.client();
    let (slot, other) = (42, share(2, 3).0);
    let (k0, k1, far) = (key_in(slot, 0), key_in(slot, 1), key_in(other, 0));
    assert_eq!(client.text(&format!("MSET {k0} 0 {k1} 1 {far} f")), "+OK\r\n");
    let mut mover = cluster.mover();
    mover.open(slot, 0, 1);
    // Absent keys of the open slot are asked for at its target.
    let absent = key_in(slot, 7);
    let reply = client.text(&format!("MGET {far} {absent}"));
    assert_eq!(reply, "*2\r\n$1\r\nf\r\n$-1\r\n");
    assert_eq!(client.text(&format!("MSET {absent} 7 {far} g")), "+OK\r\n");
    // One key here and one there: the part waits until the slot is settled.
    assert_eq!(mover.move_keys(slot, 0, 1, 1), 1);
    client.send(line(&format!("MGET {k0} {far} {k1}")));
    client.send(line(&format!("GET {far}")));
    mover.move_slot(slot, 0, 1);
    assert_eq!(shown(&client.frame()), shown(b"*3\r\n$1\r\n0\r\n$1\r\ng\r\n$1\r\n1\r\n"));
    assert_eq!(client.frame(), b"$1\r\ng\r\n");
    // The proxy may know that by now or be told by a redirect.
    assert_eq!(client.text(&format!("DEL {k0} {k1} {far} {absent}")), ":4\r\n");
}

#[test]
fn a_part_whose_node_is_gone_is_named_and_others_go_on() {
    let mut cluster = Cluster::start_as(&crate::support::cluster::Shape {
        primaries: 3,
        more: &["--cluster-require-full-coverage", "no"],
        ..Default::default()
    });
    let proxy = before(&cluster);
    let mut client = proxy.client();
    let keys: Vec<String> = (0..3).map(|i| key_in(share(i, 3).0, 0)).collect();
    let [a, b, c] = [&keys[0], &keys[1], &keys[2]];
    assert_eq!(client.text(&format!("MSET {a} 1 {b} 1 {c} 1")), "+OK\r\n");
    cluster.kill(1);
    let reply = client.text(&format!("MSET {a} 2 {b} 2 {c} 2"));
    let is_partly =
        reply.starts_with("-ERR breakwater: partly executed: 2 of 3 parts executed; key 2: ");
    let is_unknown =
        reply.starts_with("-ERR breakwater: outcome unknown: 2 of 3 parts executed; key 2: ");
    assert!(is_partly || is_unknown, "{reply}");
    assert_eq!(client.text(&format!("MGET {c} {a}")), "*2\r\n$1\r\n2\r\n$1\r\n2\r\n");
    client.send(
        [line(&format!("GET {a}")), line(&format!("MGET {a} {b}")), line(&format!("GET {c}"))]
            .concat(),
    );
    let replies = client.frames(3);
    assert_eq!((&replies[0][..], &replies[2][..]), (&b"$1\r\n2\r\n"[..], &b"$1\r\n2\r\n"[..]));
    assert!(replies[1].starts_with(b"-ERR breakwater: n"), "{}", shown(&replies[1]));
    until("it is known to be down for good", || {
        // By then nothing of the command is sent.
        let reply = client.text(&format!("MSET {a} 3 {b} 3 {c} 3"));
        reply.starts_with("-ERR breakwater: not executed: ") || reply.starts_with("-CLUSTERDOWN")
    });
}

#[test]
fn a_dead_primary_that_was_replaced_is_missed_by_nobody() {
    let mut cluster = Cluster::start(3, 1);
    let proxy = before(&cluster);
    let mut client = proxy.client();
    for key in keys(60) {
        assert_eq!(client.text(&format!("SET {key} 1")), "+OK\r\n");
    }
    until("replicas have everything", || {
        (0..3)
            .map(|i| cluster.node(i + 3).text("DBSIZE"))
            .eq((0..3).map(|i| cluster.node(i).text("DBSIZE")))
    });
    let first = client.ask("SCAN 0 COUNT 1");
    let (cursor, _) = split_page(&first);
    cluster.kill(0);
    cluster.wait_promoted(3);
    until("all shards answer", || client.text("DBSIZE") == ":60\r\n");
    assert_eq!(client.text("SCRIPT FLUSH"), "+OK\r\n", "a dead node is done without");
    // A scan that was begun at the dead node goes on; what it had is with somebody else.
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut cursor = cursor;
    while cursor != "0" {
        let (next, page) = split_page(&client.ask(&format!("SCAN {cursor} COUNT 10")));
        cursor = next;
        found.extend(page);
    }
    assert!(keys(60).iter().all(|key| found.contains(key)), "{found:?}");
}

#[test]
fn clients_that_leave_in_the_middle_leave_nothing_behind() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let keys = keys(100);
    let pairs: String = keys.iter().map(|key| format!(" {key} {key}")).collect();
    let mut stays = proxy.client();
    stays.ask(&format!("MSET{pairs}"));
    for round in 0..60 {
        let mut leaves = proxy.client();
        leaves.send(line(&format!("MGET {}", keys.join(" "))).repeat(5));
        leaves.send(line(&format!("MSET{pairs}")));
        if round % 2 == 0 {
            leaves.abort();
        }
        assert_eq!(frames::arguments(&stays.ask("MGET key:7 key:8")), [b"key:7", b"key:8"]);
    }
    until("nobody waits", || proxy.metric("breakwater_commands_in_flight") == 0.0);
    let values = frames::arguments(&stays.ask(&format!("MGET {}", keys.join(" "))));
    assert!(values.iter().zip(&keys).all(|(value, key)| value == key.as_bytes()));
}

/// All keys that a scan returns, with how often.
fn scan(client: &mut Client, options: &str, mut between: impl FnMut(usize)) -> Vec<String> {
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    for calls in 0.. {
        let reply = client.ask(&format!("SCAN {cursor} {options}"));
        assert!(reply.starts_with(b"*2\r\n"), "{}", shown(&reply));
        let (head, page) = split_page(&reply);
        cursor = head;
        let number: u64 = cursor.parse().expect("a cursor is a number");
        assert!(number < 1 << 53);
        found.extend(page);
        if cursor == "0" {
            break;
        }
        between(calls);
    }
    found
}

fn split_page(reply: &[u8]) -> (String, Vec<String>) {
    let rest = &reply[4..];
    let length = frames::length(rest).expect("a cursor");
    let text = String::from_utf8_lossy(&rest[..length]).into_owned();
    let cursor = text.lines().nth(1).expect("digits").to_owned();
    let page = frames::arguments(&rest[length..]);
    (cursor, page.into_iter().map(|key| String::from_utf8(key).expect("text")).collect())
}

#[test]
fn a_scan_goes_over_all_shards_once() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let mut client = proxy.client3();
    for key in keys(500) {
        client.ask(&format!("SET {key} 1"));
    }
    client.ask("RPUSH other 1");
    let mut found = scan(&mut client, "COUNT 20 MATCH key:*", |_| ());
    found.sort_unstable();
    let mut want = keys(500);
    want.sort_unstable();
    assert_eq!(found, want, "in a quiet cluster each key comes once");
    assert_eq!(scan(&mut client, "TYPE list COUNT 100", |_| ()), ["other"]);
    for bad in ["x", "-1", "99999999999999999999", "12345"] {
        assert_eq!(client.text(&format!("SCAN {bad}")), "-ERR invalid cursor\r\n", "{bad}");
    }
    assert!(client.text("SCAN 0 COUNT x").starts_with("-ERR value is not an integer"));
}

#[test]
fn a_scan_misses_nothing_while_slots_move() {
    let cluster = Cluster::start(3, 0);
    let proxy = before(&cluster);
    let mut client = proxy.client();
    let slots: Vec<u16> = (0..24).map(|n| share(n % 3, 3).0 + n as u16).collect();
    let all: BTreeSet<String> =
        slots.iter().flat_map(|&slot| (0..20).map(move |n| key_in(slot, n))).collect();
    for key in &all {
        assert_eq!(client.text(&format!("SET {key} 1")), "+OK\r\n");
    }
    let mut mover = cluster.mover();
    let mut random = Random::new(Random::seed_from("BREAKWATER_GATHER_SEED"));
    let mut owners: Vec<usize> = (0..24).map(|n| n % 3).collect();
    for to in [0, 2, 1, 0, 2] {
        let found = scan(&mut client, "COUNT 10", |calls| {
            if calls > 60 {
                return;
            }
            let place = random.below(slots.len());
            if owners[place] != to {
                mover.move_slot(slots[place], owners[place], to);
                owners[place] = to;
            }
        });
        let found: BTreeSet<String> = found.into_iter().collect();
        let missed: Vec<_> = all.difference(&found).map(|key| (key, slot_of(key))).collect();
        assert!(missed.is_empty(), "missed {missed:?}");
        // Claims of one epoch that cross on the bus would undo a move.
        cluster.settle();
    }
}

//! One Redis and its replicas: killed, stopped, behind.
//!
//! Owns the proofs for the upstream whose replicas nobody names but the primary. What surprises: a relay between
//! primary and replica keeps the link up while what it carries is late; that is what being behind looks like.

use std::time::{Duration, Instant};

use super::{USUAL, met, until_in_step};
use crate::support::relay::Relay;
use crate::support::sentinel::{GroupShape, servers};
use crate::support::{Client, Proxy, RedisServer, bulk, line, until};

#[test]
fn while_a_killed_primary_is_away_its_replica_serves_reads_and_writes_fail_at_once() {
    let mut nodes = servers(&GroupShape::default());
    let proxy = Proxy::guarding(&nodes[0].url(), USUAL).ready();
    let (mut client, mut client3) = (proxy.client(), proxy.client3());
    for words in ["SET cache:1 v", "SET other v", "RPUSH cache:list a b"] {
        assert!(!client.ask(words).starts_with(b"-"));
    }
    until_in_step(&mut client, "probe:1");
    until("the replica has it", || nodes[1].client().text("LLEN cache:list") == ":2\r\n");
    assert_eq!(client.ask("GET cache:1"), bulk(b"v"));
    assert_eq!(met(&proxy, "cache", "read_replica"), 0.0, "the primary is well");
    nodes[0].kill();
    // From the first moment on: not one read fails, in either protocol.
    for _ in 0..200 {
        for client in [&mut client, &mut client3] {
            assert_eq!(client.ask("GET cache:1"), bulk(b"v"));
        }
    }
    for client in [&mut client, &mut client3] {
        client.send(
            ["GET cache:1", "INCR cache:n", "LLEN cache:list", "GET other"].map(line).concat(),
        );
        let frames = client.frames(4);
        assert_eq!((&frames[0], &frames[2][..]), (&bulk(b"v"), &b":2\r\n"[..]));
        for refused in [&frames[1], &frames[3]] {
            assert!(refused.starts_with(b"-ERR breakwater: not executed: upstream "));
        }
        let asked = Instant::now();
        assert!(client.ask("MGET cache:1 other").starts_with(b"-ERR breakwater: not executed"));
        assert!(client.ask("SET cache:1 w").starts_with(b"-ERR breakwater: not executed"));
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!(client.ask("EVAL_RO return(redis.call('get',KEYS[1])) 1 cache:1"), bulk(b"v"));
        assert!(
            client.ask("EVAL return(redis.call('get',KEYS[1])) 1 cache:1").starts_with(b"-ERR")
        );
    }
    assert!(proxy.metric("breakwater_replica_reads_primary_away_total") >= 100.0);
    assert!(met(&proxy, "cache", "read_replica_primary_away") >= 100.0);
    // Longer than any lag: what a replica lacked when the primary was last heard does not grow.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(4) {
        assert_eq!(client.ask("GET cache:1"), bulk(b"v"));
        std::thread::sleep(Duration::from_millis(20));
    }
    nodes[0].restart();
    until("writes pass again", || client.text("SET cache:1 again") == "+OK\r\n");
    let before = met(&proxy, "cache", "read_primary");
    until("the primary serves again", || {
        client.text("GET cache:1") == "$5\r\nagain\r\n"
            && met(&proxy, "cache", "read_primary") > before
    });
}

#[test]
fn a_replica_that_is_stopped_is_not_asked() {
    let mut nodes = servers(&GroupShape::default());
    let prefer = "[[keyspace]]\nname = \"soft\"\nkeys = [\"soft:*\"]\nread_from = \"prefer-replica\"\n\
         max_lag = \"5s\"\n";
    let proxy = Proxy::guarding(&nodes[0].url(), &format!("{USUAL}{prefer}")).ready();
    let mut client = proxy.client();
    client.ask("MSET soft:1 v probe:1 v");
    until("a replica serves it", || client.text("GET probe:1") == "$1\r\nv\r\n");
    until("a replica serves it", || {
        client.ask("GET soft:1") == bulk(b"v") && met(&proxy, "soft", "read_replica") > 0.0
    });
    nodes[1].pause();
    let refused = |reply: String| {
        reply.starts_with("-ERR breakwater: not executed: no replica of 127.0.0.1:")
            && reply.contains("keyspace probe")
    };
    // Until it is found to be silent it may be asked: a client of its own may wait for that.
    let mut prober = proxy.client();
    until("nobody serves it", || {
        let mut fresh = proxy.client();
        fresh.patience(Duration::from_secs(10));
        refused(fresh.text("GET probe:1"))
    });
    let before = met(&proxy, "soft", "read_replica");
    for n in 0..100 {
        assert_eq!(prober.text(&format!("SET soft:1 {n}")), "+OK\r\n");
        assert_eq!(prober.text("GET soft:1"), format!("${}\r\n{n}\r\n", n.to_string().len()));
    }
    assert_eq!(met(&proxy, "soft", "read_replica"), before, "the primary serves it meanwhile");
    nodes[1].resume();
    until("a replica serves it again", || !prober.text("GET probe:1").starts_with('-'));
}

#[test]
fn a_replica_that_is_behind_serves_only_what_may_be_that_old() {
    let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let relay = Relay::before(primary.port());
    let of = relay.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &of]);
    until("the replica is in step", || {
        replica.client().text("INFO replication").contains("master_link_status:up")
    });
    let keyspace = |name: &str, from: &str, lag: &str| {
        format!(
            "[[keyspace]]\nname = \"{name}\"\nkeys = [\"{name}:*\"]\nread_from = \"{from}\"\nmax_lag = \"{lag}\"\n"
        )
    };
    let policy = keyspace("near", "prefer-replica", "2s") + &keyspace("far", "replica", "1h");
    let proxy = Proxy::guarding(&primary.url(), &policy).ready();
    let mut client = proxy.client();
    until_in_step(&mut client, "far:n");
    relay.delay(Duration::from_secs(6));
    // A value is behind at the replica for six seconds, so after three the replica is too old for it.
    let since = Instant::now();
    let (mut stale, mut n) = (0, 0);
    while since.elapsed() < Duration::from_secs(9) {
        n += 1;
        assert_eq!(client.text(&format!("MSET near:n {n} far:n {n}")), "+OK\r\n");
        if since.elapsed() > Duration::from_secs(5) {
            assert_eq!(number(&mut client, "near:n"), n, "only the primary has it");
            stale += usize::from(number(&mut client, "far:n") < n);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(stale > 0, "what may be old comes from the replica");
    assert!(met(&proxy, "near", "read_primary") > 0.0 && met(&proxy, "far", "read_replica") > 0.0);
}

fn number(client: &mut Client, key: &str) -> i64 {
    let reply = client.text(&format!("GET {key}"));
    reply.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0)
}

#[test]
fn a_client_reads_its_own_writes_that_are_under_way() {
    let nodes = servers(&GroupShape::default());
    let policy =
        "[[keyspace]]\nname = \"soft\"\nkeys = [\"soft:*\"]\nread_from = \"prefer-replica\"\n";
    let proxy = Proxy::guarding(&nodes[0].url(), &format!("{USUAL}{policy}")).ready();
    let mut client = proxy.client();
    until_in_step(&mut client, "probe:1");
    for round in 0..300 {
        let write =
            |n: usize| [line(&format!("SET soft:k {round}-{n}")), line("GET soft:k")].concat();
        client.send((0..20).map(write).collect::<Vec<_>>().concat());
        for (n, pair) in client.frames(40).chunks(2).enumerate() {
            let value = format!("{round}-{n}");
            assert_eq!(pair[0], b"+OK\r\n");
            assert_eq!(pair[1], bulk(value.as_bytes()), "an older value than its own");
        }
        // The other way round: what is read first must not see what is written behind it.
        client.send(["GET soft:k", "SET soft:k later"].map(line).concat());
        assert_ne!(client.frames(2)[0], bulk(b"later"));
    }
    // A transaction and what is watched stay with the primary.
    client.send(["WATCH soft:k", "MULTI", "GET soft:k", "EXEC"].map(line).concat());
    assert_eq!(client.frames(4)[3], [b"*1\r\n".to_vec(), bulk(b"later")].concat());
    until("replicas serve it when nothing is under way", || {
        client.ask("GET soft:k");
        met(&proxy, "soft", "read_replica") > 0.0
    });
}

//! `bound`: what would read too much is refused before the server runs it, and the rest is hardly asked about.
//!
//! Owns the proof with real sizes: whether something ran, and how many questions that took, is read from the server's
//! own counters. What surprises: keys are filled behind the proxy's back, so that nothing is known of them here.

use super::runs;
use crate::support::cluster::{Cluster, key_in, share};
use crate::support::sentinel::SentinelGroup;
use crate::support::{Client, Proxy, RedisServer, line, until};

/// A policy file that bounds these commands.
fn bound(commands: &str, limit: u64, preflight: &str) -> String {
    let quoted: Vec<String> = commands.split(", ").map(|name| format!("\"{name}\"")).collect();
    format!(
        "[[rule]]\nname = \"big\"\ncommands = [{}]\naction = \"bound\"\nlimit = {limit}\npreflight = \"{preflight}\"\n",
        quoted.join(", ")
    )
}

/// A hash of so many fields, a list, a sorted set, a set and a stream; two strings ten times as long.
fn fill(server: &mut Client, tag: &str, count: u32) {
    let script = format!(
        "for i = 1, {count} do
           redis.call('HSET', KEYS[1], 'f' .. i, i)
           redis.call('RPUSH', KEYS[2], i)
           redis.call('ZADD', KEYS[3], i, i)
           redis.call('SADD', KEYS[4], i)
           redis.call('XADD', KEYS[5], '*', 'a', i)
         end
         redis.call('SET', KEYS[6], string.rep('x', {count} * 10))
         redis.call('SET', KEYS[7], string.rep('y', {count} * 10))
         redis.call('GEOADD', KEYS[8], 1, 1, 'a', 1, 1, 'b')
         return 'filled'"
    );
    let kinds = ["hash", "list", "sorted", "set", "stream", "one", "other", "places"];
    let keys: Vec<String> = kinds.iter().map(|kind| format!("{kind}{tag}")).collect();
    let mut words = vec!["EVAL", &script, "8"];
    words.extend(keys.iter().map(String::as_str));
    assert_eq!(server.call(&words), b"$6\r\nfilled\r\n");
}

#[test]
fn a_giant_is_refused_with_its_size_in_its_turn_and_never_runs() {
    let redis = RedisServer::start();
    fill(&mut redis.client(), "", 20_000);
    redis.client().ask("HSET small a 1");
    redis.client().ask("CONFIG SET slowlog-log-slower-than 0");
    let proxy = Proxy::guarding(&redis.url(), &bound("HGETALL", 10_000, "adaptive")).ready();
    let refused = "-ERR breakwater: HGETALL hash refused: 20000 fields > limit 10000; \
                   use HSCAN or HMGET (rule big, policy 1)\r\n";
    for (mut client, small) in [
        (proxy.client(), &b"*2\r\n$1\r\na\r\n$1\r\n1\r\n"[..]),
        (proxy.client3(), b"%1\r\n$1\r\na\r\n$1\r\n1\r\n"),
    ] {
        for _ in 0..3 {
            let pipeline = ["SET a 1", "HGETALL hash", "INCR a", "HGETALL small", "HGETALL hash"];
            client.send(pipeline.map(line).concat());
            let answers = client.frames(5);
            assert_eq!(answers[0], b"+OK\r\n");
            assert_eq!(String::from_utf8_lossy(&answers[1]), refused);
            assert_eq!(answers[2], b":2\r\n");
            assert_eq!(answers[3], small);
            assert_eq!(String::from_utf8_lossy(&answers[4]), refused);
        }
    }
    assert_eq!(runs(&redis, "hgetall"), 6, "the small ones");
    assert!(runs(&redis, "hlen") < 12, "what is known is not asked about each time");
    let slow = redis.client().text("SLOWLOG GET -1");
    assert!(slow.contains("hlen") || slow.contains("HLEN"), "{slow}");
    assert!(!slow.contains("$7\r\nHGETALL\r\n$4\r\nhash"), "{slow}");
    assert!(proxy.metric("breakwater_bound_refused_total") >= 12.0);
    assert!(proxy.metric("breakwater_bound_probes_total") >= 2.0);
}

#[test]
fn every_command_is_bounded_by_what_it_would_read() {
    let (redis, proxy) = bounding_all();
    let mut client = proxy.client();
    for (command, size) in [
        ("LRANGE list 0 -1", "2000 elements"),
        ("LRANGE list 0 99999", "2000 elements"),
        ("LRANGE list 500 -2", "1499 elements"),
        ("ZRANGE sorted 0 -1", "2000 elements"),
        ("ZRANGE sorted 500 3000 BYSCORE", "1501 elements"),
        ("ZRANGE sorted +inf (5 BYSCORE REV", "1995 elements"),
        ("ZRANGEBYSCORE sorted -inf +inf", "2000 elements"),
        ("ZRANGEBYLEX sorted - +", "2000 elements"),
        ("XRANGE stream - +", "2000 entries"),
        ("SORT set", "2000 elements"),
        ("SORT list LIMIT 0 5", "2000 elements"),
        ("SMEMBERS set", "2000 members"),
        ("SUNION set set", "4000 members"),
        ("ZUNIONSTORE to 2 sorted set", "4000 members"),
        ("GEOSEARCH sorted FROMLONLAT 1 1 BYRADIUS 1 km", "2000 members"),
        ("SRANDMEMBER set -1001", "1001 members"),
        ("SPOP set 1500", "1500 elements"),
        ("MEMORY USAGE list SAMPLES 0", "2000 elements"),
        ("BITOP AND to one other", "40000 bytes"),
        ("GET one", "20000 bytes"),
        ("GETRANGE one 0 -1", "20000 bytes"),
    ] {
        let told = client.text(command);
        let wanted = format!(" refused: {size} > limit 1000; ");
        assert!(
            told.starts_with("-ERR breakwater: ") && told.contains(&wanted),
            "{command}: {told}"
        );
    }
    assert!(client.text("DUMP list").contains(" bytes > limit 1000; "));
    for command in [
        "lrange",
        "zrange",
        "zrangebyscore",
        "zrangebylex",
        "xrange",
        "sort",
        "smembers",
        "sunion",
        "zunionstore",
        "geosearch",
        "srandmember",
        "spop",
        "bitop",
        "get",
        "getrange",
        "dump",
    ] {
        assert_eq!(runs(&redis, command), 0, "{command}");
    }
}

/// A server with something of each kind that is above 1,000, and a proxy that bounds all of it there.
fn bounding_all() -> (RedisServer, Proxy) {
    let redis = RedisServer::start();
    fill(&mut redis.client(), "", 2_000);
    let commands = "LRANGE, ZRANGE, ZRANGEBYSCORE, ZRANGEBYLEX, XRANGE, SORT, SMEMBERS, SUNION, ZUNIONSTORE, \
                    GEOSEARCH, SRANDMEMBER, SPOP, MEMORY USAGE, BITOP, GET, GETRANGE, DUMP";
    let proxy = Proxy::guarding(&redis.url(), &bound(commands, 1_000, "adaptive")).ready();
    (redis, proxy)
}

#[test]
fn what_is_small_enough_goes_and_of_what_makes_no_sense_the_server_speaks() {
    let (_redis, proxy) = bounding_all();
    let mut client = proxy.client();
    for command in [
        "LRANGE list 0 999",
        "LRANGE list -5 -1",
        "LRANGE list 1990 99999",
        "LRANGE nothing 0 -1",
        "ZRANGE sorted 0 9 BYSCORE",
        "ZRANGEBYSCORE sorted -inf +inf LIMIT 0 5",
        "XRANGE stream - + COUNT 5",
        "SORT nothing",
        "SUNION nothing",
        "GEOSEARCH places FROMLONLAT 1 1 BYRADIUS 1 km",
        "GEOSEARCH sorted FROMLONLAT 1 1 BYRADIUS 1 km COUNT 3",
        "SRANDMEMBER set 3",
        "SPOP set 2",
        "MEMORY USAGE list",
        "GETRANGE one 0 9",
        "GET nothing",
    ] {
        let told = client.text(command);
        assert!(!told.starts_with('-'), "{command}: {told}");
    }
    // The server's own words for what makes no sense.
    for (command, error) in [
        ("LRANGE list a b", "-ERR value is not"),
        ("LRANGE set 0 -1", "-WRONGTYPE "),
        ("SORT hash", "-WRONGTYPE "),
    ] {
        assert!(client.text(command).starts_with(error), "{command}");
    }
}

#[test]
fn long_strings_are_compared_only_if_their_product_is_small() {
    let redis = RedisServer::start();
    fill(&mut redis.client(), "", 2_000);
    let proxy = Proxy::guarding(&redis.url(), &bound("LCS", 100_000_000, "adaptive")).ready();
    let mut client = proxy.client();
    let told = client.text("LCS one other LEN");
    assert!(told.contains("LCS one refused: 400000000 comparisons > limit 100000000; "), "{told}");
    assert_eq!(runs(&redis, "lcs"), 0);
    redis.client().ask("SET other y");
    assert_eq!(client.text("LCS other other LEN"), ":1\r\n");
}

#[test]
fn in_a_transaction_it_is_refused_when_it_is_queued() {
    let redis = RedisServer::start();
    fill(&mut redis.client(), "", 2_000);
    redis.client().ask("HSET small a 1");
    for preflight in ["adaptive", "always"] {
        let policy = bound("HGETALL", 1_000, preflight);
        let proxy = Proxy::guarding(&redis.url(), &policy).ready();
        for mut client in [proxy.client(), proxy.client3()] {
            let giant = ["MULTI", "SET never 1", "HGETALL hash", "EXEC"].map(line);
            client.send(giant.concat());
            let mut answers = client.frames(4);
            answers.extend(giant.iter().map(|command| {
                client.send(command);
                client.frame()
            }));
            for block in answers.chunks(4) {
                assert_eq!((&block[0][..], &block[1][..]), (&b"+OK\r\n"[..], &b"+QUEUED\r\n"[..]));
                assert!(
                    block[2].starts_with(b"-ERR breakwater: HGETALL hash refused: 2000 fields")
                );
                assert!(block[3].starts_with(b"-EXECABORT"));
            }
            // Questions are asked beside the transaction, not within.
            let small = ["WATCH small", "MULTI", "HGETALL small", "PING", "HGETALL small", "EXEC"];
            for _ in 0..2 {
                client.send(small.map(line).concat());
                let answers = client.frames(6);
                assert!(answers[5].starts_with(b"*3\r\n"), "{}", answers[5].escape_ascii());
                assert_eq!(answers[2], b"+QUEUED\r\n");
            }
        }
    }
    assert_eq!(redis.client().ask("EXISTS never"), b":0\r\n");
    assert_eq!(runs(&redis, "hgetall"), 16, "the small ones, and none else");
}

#[test]
fn once_its_kind_is_known_a_small_key_costs_no_question() {
    let redis = RedisServer::start();
    for number in 0..300 {
        redis.client().ask(&format!("HSET user:{number}:cart a 1"));
    }
    let policy = bound("HGETALL", 10_000, "adaptive");
    let proxy = Proxy::guarding(&redis.url(), &policy).ready();
    let mut client = proxy.client();
    for number in 0..300 {
        assert_eq!(client.ask(&format!("HGETALL user:{number}:cart")).first(), Some(&b'*'));
    }
    // The first 64 had to be asked about, and one of 256 of the others.
    assert_eq!(runs(&redis, "hlen"), 64);
    for number in 0..64 {
        client.ask(&format!("HGETALL user:{number}:cart"));
    }
    assert_eq!((runs(&redis, "hlen"), runs(&redis, "hgetall")), (64, 364));
    // A giant of that kind slips through once; its reply tells.
    fill(&mut redis.client(), "", 20_000);
    redis.client().ask("RENAME hash user:999:cart");
    assert!(client.ask("HGETALL user:999:cart").starts_with(b"*40000\r\n"));
    assert!(client.text("HGETALL user:999:cart").contains("refused: 20000 fields"));
    assert!(client.ask("HGETALL user:1:cart").starts_with(b"*2\r\n"));
    assert!((proxy.metric("breakwater_bound_slipped_total") - 1.0).abs() < 0.1);
    // From then on all of its kind are asked about, unless they are known themselves.
    redis.client().ask("HSET user:1000:cart a 1");
    client.ask("HGETALL user:1000:cart");
    assert_eq!(runs(&redis, "hlen"), 65);
}

#[test]
fn preflight_always_lets_none_slip_through() {
    let redis = RedisServer::start();
    redis.client().ask("HSET hash a 1");
    let proxy = Proxy::guarding(&redis.url(), &bound("HGETALL", 1_000, "always")).ready();
    let mut client = proxy.client();
    for _ in 0..70 {
        assert!(client.ask("HGETALL hash").starts_with(b"*2\r\n"));
    }
    assert_eq!(runs(&redis, "hlen"), 70);
    fill(&mut redis.client(), "", 2_000);
    assert!(client.text("HGETALL hash").contains("refused: 2001 fields"));
    redis.client().ask("DEL hash");
    assert_eq!(client.ask("HGETALL hash"), b"*0\r\n", "and none is refused that has become small");
    assert_eq!(runs(&redis, "hgetall"), 71);
}

#[test]
fn while_it_only_observes_nothing_is_asked_and_what_replies_tell_is_reported() {
    let redis = RedisServer::start();
    fill(&mut redis.client(), "", 2_000);
    redis.client().ask("RENAME hash user:alice:cart");
    redis.client().ask("HSET user:bob:cart a 1");
    let policy = bound("HGETALL, SRANDMEMBER", 1_000, "always") + "mode = \"observe\"\n";
    let proxy = Proxy::guarding(&redis.url(), &policy).ready();
    let mut client = proxy.client();
    // The catalogue has a limit of its own, ten times as high; its questions are not of interest here.
    for _ in 0..3 {
        assert!(client.ask("HGETALL user:alice:cart").starts_with(b"*4000\r\n"));
        assert!(client.ask("HGETALL user:bob:cart").starts_with(b"*2\r\n"));
    }
    assert!(client.ask("SRANDMEMBER set -1001").starts_with(b"*1001\r\n"));
    let page = proxy.http("/policy").1;
    // The question of the catalogue has told how large the first one is; without it only its reply would have.
    for words in ["hits 7, refused 0, would have refused 4", "2000 elements", "1001 elements"] {
        assert!(page.contains(words), "{words} is missing in {page}");
    }
    assert!(!page.contains("alice"), "{page}");
}

#[test]
fn databases_are_kept_apart() {
    let redis = RedisServer::start();
    fill(&mut redis.client(), "", 2_000);
    let mut other = redis.client();
    other.ask("SELECT 3");
    other.ask("HSET hash a 1");
    let proxy = Proxy::guarding(&redis.url(), &bound("HGETALL", 1_000, "adaptive")).ready();
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(["SELECT 3", "HGETALL hash", "SELECT 0", "HGETALL hash"].map(line).concat());
        let answers = client.frames(4);
        assert!(answers[1].starts_with(b"*2\r\n"));
        assert!(answers[3].starts_with(b"-ERR breakwater: HGETALL hash refused: 2000 fields"));
    }
}

#[test]
fn while_its_node_is_away_a_bounded_command_is_told_so_as_any_other() {
    let mut redis = RedisServer::start();
    fill(&mut redis.client(), "", 2_000);
    let proxy = Proxy::guarding(&redis.url(), &bound("HGETALL", 1_000, "always")).ready();
    let mut client = proxy.client();
    assert!(client.text("HGETALL nothing").starts_with("*0"));
    redis.kill();
    for command in ["HGETALL hash", "GET one", "HGETALL hash", "HGETALL hash"] {
        let told = client.text(command);
        assert!(told.starts_with("-ERR breakwater: not executed: "), "{command}: {told}");
    }
    client.send(["HGETALL hash", "PING", "MULTI", "HGETALL hash", "EXEC"].map(line).concat());
    let answers = client.frames(5);
    assert!(answers[0].starts_with(b"-ERR breakwater: not executed: "));
    // An empty server comes back on the same port.
    redis.restart();
    until("it serves again", || client.text("HGETALL nothing").starts_with("*0"));
    fill(&mut redis.client(), "", 2_000);
    assert!(client.text("HGETALL hash").contains("refused: 2000 fields"));
}

#[test]
fn who_may_not_ask_is_not_bounded_and_that_is_counted() {
    let redis = RedisServer::start();
    fill(&mut redis.client(), "", 2_000);
    redis.client().ask("ACL SETUSER limited on >pw ~* +@all -hlen");
    let url = format!("redis://limited:pw@127.0.0.1:{}", redis.port());
    let proxy = Proxy::guarding(&url, &bound("HGETALL", 1_000, "always")).ready();
    assert!(proxy.client().ask("HGETALL hash").starts_with(b"*4000\r\n"));
    assert!(proxy.metric("breakwater_bound_unmeasured_total") >= 1.0);
}

#[test]
fn in_a_cluster_the_owner_of_the_slot_is_asked_wherever_it_has_gone() {
    let cluster = Cluster::start(3, 0);
    let keys: Vec<String> = (0..3).map(|shard| key_in(share(shard, 3).0, 0)).collect();
    for (shard, tag) in keys.iter().enumerate() {
        fill(&mut cluster.node(shard), tag, 2_000);
    }
    let policy = bound("HGETALL, SUNION", 1_000, "always");
    let proxy = Proxy::guarding(&cluster.url(), &policy).ready();
    let mut client = proxy.client();
    let refused = |client: &mut Client| {
        for tag in &keys {
            let told = client.text(&format!("HGETALL hash{tag}"));
            assert!(told.contains(&format!("HGETALL hash{tag} refused: 2000 fields")), "{told}");
            let told = client.text(&format!("SUNION set{tag} set{tag}"));
            assert!(told.contains("refused: 4000 members"), "{told}");
        }
    };
    refused(&mut client);
    for tag in &keys[..2] {
        client.ask(&format!("HSET small{tag} a 1"));
        let block = [
            "MULTI".to_owned(),
            format!("HGETALL small{tag}"),
            format!("HGETALL hash{tag}"),
            "EXEC".to_owned(),
            "MULTI".to_owned(),
            format!("HGETALL small{tag}"),
            format!("SET never{tag} 1"),
            "EXEC".to_owned(),
        ];
        client.send(block.map(|words| line(&words)).concat());
        let answers = client.frames(8);
        assert!(answers[2].starts_with(b"-ERR breakwater: HGETALL hash"));
        assert!(answers[3].starts_with(b"-EXECABORT"));
        assert_eq!(answers[7], b"*2\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n+OK\r\n");
    }
    cluster.move_slot(share(0, 3).0, 0, 1);
    refused(&mut client);
    assert_eq!((cluster.calls("hgetall"), cluster.calls("sunion")), (2, 0), "the small ones");
    let apart = client.text(&format!("SUNION nothing{} nothing{}", keys[0], keys[1]));
    assert!(apart.starts_with("-CROSSSLOT"), "{apart}");
}

#[test]
fn behind_sentinels_it_is_the_same() {
    let group = SentinelGroup::start();
    let proxy = Proxy::guarding(&group.url(), &bound("HGETALL", 1_000, "adaptive")).ready();
    let mut client = proxy.client();
    fill(&mut client, "", 2_000);
    for _ in 0..2 {
        assert!(client.text("HGETALL hash").contains("HGETALL hash refused: 2000 fields"));
    }
    client.ask("DEL hash");
    client.ask("HSET small a 1");
    assert!(client.ask("HGETALL small").starts_with(b"*2\r\n"));
}

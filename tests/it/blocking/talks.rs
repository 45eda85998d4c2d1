//! Conversations with waiting in them, each held with Redis as well, and CLIENT UNBLOCK by the proxy's own ids.
//!
//! Owns the list of ways to wait. Never interprets an answer. What surprises: `?1` in a talk makes sure that the
//! server has the command before somebody else acts; without it both orders would be right.

use super::blocked;
use crate::support::pair::{Pair, pipeline};
use crate::support::{Client, Proxy, RedisServer, eventually};

/// See [`Pair::same_talk`] for the language.
const TALKS: &[&str] = &[
    // Elements that are there are given at once.
    "RPUSH l a b c|BLPOP l 0|BRPOP l 0|BLPOP none l 0|BLPOP l 0.01",
    "RPUSH l a b c d|BLMOVE l m LEFT RIGHT 0|BLMOVE l m RIGHT LEFT 0|BRPOPLPUSH l m 0|LRANGE m 0 -1",
    "RPUSH l a b c|BLMPOP 0 1 l LEFT|BLMPOP 0 2 none l RIGHT COUNT 5|BLMPOP 0.01 1 l LEFT",
    "ZADD z 1 a 2 b 3.5 c|BZPOPMIN z 0|BZPOPMAX z 0|BZMPOP 0 1 z MIN|BZMPOP 0.01 1 z MAX",
    "XADD s 1-1 f v|XREAD BLOCK 0 STREAMS s 0|XREAD COUNT 1 BLOCK 0 STREAMS s 0|XREAD BLOCK 10 STREAMS s $",
    "XGROUP CREATE s g 0 MKSTREAM|XADD s 1-1 f v|XREADGROUP GROUP g c BLOCK 0 STREAMS s >|XREADGROUP GROUP g c BLOCK 10 STREAMS s >|XPENDING s g",
    "XADD block 1-1 f v|XREAD STREAMS block 0|XREAD BLOCK 0 STREAMS block 0",
    "XGROUP CREATE s STREAMS 0 MKSTREAM|XREADGROUP GROUP STREAMS BLOCK BLOCK 10 STREAMS s >",
    // Nothing comes.
    "BLPOP none 0.01|BRPOP none 0.05|BLMOVE none m LEFT LEFT 0.01|BRPOPLPUSH none m 0.01|BLMPOP 0.01 1 none LEFT",
    "BZPOPMIN none 0.01|BZPOPMAX none 0.001|BZMPOP 0.01 1 none MIN|XREAD BLOCK 1 STREAMS none $",
    "WAIT 0 0|WAIT 0 10",
    // Mistakes.
    "BLPOP l|BLPOP l x|BLPOP l -1|BLPOP l 1e400|BLPOP l '1 '|BRPOP l nan|BLPOP l inf|BLPOP l 99999999999999999999",
    "BLMOVE l m UP LEFT 0|BLMPOP 0 0 l LEFT|BLMPOP 0 1 l UP|BLMPOP 0 1 l LEFT COUNT 0|BZMPOP 0 1 z LEFT|WAIT x 0",
    "XREAD BLOCK|XREAD BLOCK x STREAMS s $|XREAD BLOCK -1 STREAMS s $|XREAD BLOCK 0 STREAMS s|XREAD BLOCK 0",
    "XREADGROUP GROUP g c BLOCK 0 STREAMS s >|XREAD BLOCK 0 BLOCK 10 STREAMS s $|WAIT 0 -1",
    "SET s text|BLPOP s 0|BZPOPMIN s 0|XREAD BLOCK 0 STREAMS s 0|BLMOVE s m LEFT LEFT 0|GET s",
    // Somebody pushes.
    ">BLPOP l 0|?1|!RPUSH l a b|<|LRANGE l 0 -1",
    ">BRPOP l m 0|?1|!RPUSH m a b|<|LRANGE m 0 -1",
    ">BLMOVE l m LEFT RIGHT 0|?1|!RPUSH l a|<|LRANGE m 0 -1",
    ">BRPOPLPUSH l m 0|?1|!RPUSH l a|<|LRANGE m 0 -1",
    ">BLMPOP 0 2 l m LEFT COUNT 2|?1|!RPUSH m a b c|<|LRANGE m 0 -1",
    ">BZPOPMIN z 0|?1|!ZADD z 1.5 a 2 b|<|ZRANGE z 0 -1",
    ">BZPOPMAX z y 0|?1|!ZADD y 1.5 a 2 b|<|ZRANGE y 0 -1",
    ">BZMPOP 0 1 z MIN COUNT 2|?1|!ZADD z 1 a 2 b 3 c|<|ZRANGE z 0 -1",
    ">XREAD BLOCK 0 STREAMS s $|?1|!XADD s 1-1 f v|<",
    ">XREAD BLOCK 0 STREAMS s t $ $|?1|!XADD t 1-1 f v|<",
    "XGROUP CREATE s g $ MKSTREAM|>XREADGROUP GROUP g c BLOCK 0 STREAMS s >|?1|!XADD s 1-1 f v|<|XACK s g 1-1",
    "XGROUP CREATE s g $ MKSTREAM|>XREADGROUP GROUP g c BLOCK 0 STREAMS s >|?1|!XGROUP DESTROY s g|<",
    ">BLPOP l 0|?1|!LPUSH l a|<|>BLPOP l 0|?1|!LPUSH l b|<",
    ">BLPOP l 0|?1|!SET l text|!DEL l|!RPUSH l a|<",
    ">BLPOP l 0|?1|!MULTI|!RPUSH l a|!DEL l|!EXEC|!RPUSH l b|<",
    // Elsewhere than in database 0.
    "SELECT 1|>BLPOP l 0|?1|!RPUSH l wrong|!SELECT 1|!RPUSH l a|<|!SELECT 0|LLEN l|SELECT 0|LLEN l",
    // What is said behind it waits, and is answered in order.
    ">BLPOP l 0|>SET a 1|>GET a|>ECHO word|>CLIENT GETNAME|?1|!GET a|!RPUSH l x|<|<|<|<|<",
    ">BLPOP l 0|>BLPOP l 0|>LLEN l|?1|!RPUSH l a|!RPUSH l b c|<|<|<",
    ">BLPOP l 0|>MULTI|>LLEN l|>EXEC|?1|!RPUSH l a b|<|<|<|<",
    ">SET a 1|>BLPOP l 0|>SELECT 1|>SET a 2|?1|!RPUSH l a|<|<|<|<|SELECT 0|GET a",
    ">BLPOP l 0|>RESET|>PING|?1|!RPUSH l a|<|<|<",
    // Long arguments, and many.
    "RPUSH l a|BLPOP n1 n2 n3 n4 n5 n6 n7 n8 n9 n10 n11 n12 n13 n14 n15 n16 n17 n18 n19 n20 l 0",
];

#[test]
fn every_way_to_wait_is_redis_s() {
    let pair = Pair::start();
    for version in [2, 3] {
        TALKS.iter().for_each(|talk| pair.same_talk(version, talk));
    }
    assert_eq!(pair.proxy.metric("breakwater_lanes_lost_total"), 0.0);
    blocked(&pair.redis[0], 0);
}

#[test]
fn a_wait_for_a_key_with_a_long_name_and_a_large_element_is_redis_s() {
    let pair = Pair::start();
    let (key, element) = (vec![b'k'; 100_000], vec![b'e'; 1 << 20]);
    for version in [2, 3] {
        pair.empty();
        let mut replies = Vec::new();
        for (mut client, redis) in pair.clients().into_iter().zip(&pair.redis) {
            client.ask(&format!("HELLO {version}"));
            client.send(crate::support::command(&[&b"BLPOP"[..], &key, b"0"]));
            blocked(redis, 1);
            let mut other = redis.client();
            assert_eq!(other.call(&[&b"RPUSH"[..], &key, &element]), b":1\r\n");
            replies.push(client.frame());
        }
        assert!(replies[0] == replies[1] && replies[0].len() > element.len(), "RESP{version}");
    }
}

#[test]
fn a_muted_wait_says_nothing_and_pops() {
    let pair = Pair::start();
    for talk in [
        "RPUSH l a b|CLIENT REPLY OFF|BLPOP l 0|BLPOP none 0.01|CLIENT REPLY ON|LLEN l|QUIT",
        "RPUSH l a b|CLIENT REPLY SKIP|BLPOP l 0|LLEN l|QUIT",
    ] {
        pair.empty();
        let [ours, theirs] = pair.clients().map(|mut client| {
            client.send(pipeline(talk));
            String::from_utf8_lossy(&client.rest()).into_owned()
        });
        assert_eq!(ours, theirs, "{talk}");
    }
}

/// A proxy with as many workers, and clients that are spread over them.
fn workers(redis: &RedisServer, count: usize) -> Proxy {
    Proxy::start(&["--upstream", &redis.url(), "--workers", &count.to_string()]).ready()
}

fn id_of(client: &mut Client) -> String {
    client.text("CLIENT ID").trim_start_matches(':').trim().to_owned()
}

#[test]
fn client_unblock_wakes_a_client_by_the_id_that_the_proxy_gave_it() {
    let redis = RedisServer::start();
    let proxy = workers(&redis, 2);
    // A new client goes to the worker with fewer, so that half of these share the asker's and half do not.
    let mut asker = proxy.client();
    let mut waiting: Vec<(String, Client)> = (0..8)
        .map(|number| {
            let mut client = if number % 3 == 0 { proxy.client3() } else { proxy.client() };
            (id_of(&mut client), std::mem::replace(&mut client, proxy.client()))
        })
        .collect();
    let unblocked = "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";
    for words in
        ["BLPOP l 0", "BZPOPMIN z 0", "XREAD BLOCK 0 STREAMS s $", "BLMOVE l m LEFT LEFT 0"]
    {
        for (reason, expected) in [("", None), (" TIMEOUT", None), (" ERROR", Some(unblocked))] {
            for (_, client) in &mut waiting {
                client.send(crate::support::line(words));
            }
            blocked(&redis, waiting.len());
            for (place, (id, client)) in waiting.iter_mut().enumerate() {
                assert_eq!(
                    asker.text(&format!("CLIENT UNBLOCK {id}{reason}")),
                    ":1\r\n",
                    "{words}"
                );
                let null = if place % 3 == 0 { "_\r\n" } else { "*-1\r\n" };
                let reply = String::from_utf8_lossy(&client.frame()).into_owned();
                assert_eq!(reply, expected.unwrap_or(null), "{words}{reason}");
                assert_eq!(asker.text(&format!("CLIENT UNBLOCK {id}{reason}")), ":0\r\n");
                assert_eq!(client.ask("PING"), b"+PONG\r\n");
            }
        }
    }
    blocked(&redis, 0);
}

#[test]
fn client_unblock_finds_nobody_who_does_not_wait_and_has_redis_s_errors() {
    let pair = Pair::start();
    let mut client = pair.proxy.client();
    let mut other = pair.proxy.client();
    let id = id_of(&mut other);
    assert_eq!(client.text(&format!("CLIENT UNBLOCK {id}")), ":0\r\n");
    // The node has clients with small ids too; none of those is ours to wake.
    let mut theirs = pair.redis[0].client();
    theirs.send(crate::support::line("BLPOP l 0"));
    blocked(&pair.redis[0], 1);
    for id in 1..50 {
        assert_eq!(client.text(&format!("CLIENT UNBLOCK {id}")), ":0\r\n");
    }
    blocked(&pair.redis[0], 1);
    for words in [
        "CLIENT UNBLOCK",
        "CLIENT UNBLOCK x",
        "CLIENT UNBLOCK 99999999",
        "CLIENT UNBLOCK -1",
        "CLIENT UNBLOCK 99999999 SOON",
        "CLIENT UNBLOCK x SOON",
        "CLIENT UNBLOCK 99999999 error",
        "CLIENT UNBLOCK 99999999 ERROR now",
    ] {
        pair.same_talk(2, words);
    }
    // The reason of a client that does wait is judged as well.
    other.send(crate::support::line("BLPOP l 0"));
    blocked(&pair.redis[0], 2);
    let reply = client.text(&format!("CLIENT UNBLOCK {id} SOON"));
    assert_eq!(reply, "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n");
    assert_eq!(client.text(&format!("CLIENT UNBLOCK {id}")), ":1\r\n");
    assert_eq!(other.text("PING"), "*-1\r\n");
}

#[test]
fn client_unblock_inside_a_transaction_wakes_as_well() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let (mut asker, mut waiting) = (proxy.client(), proxy.client());
    let id = id_of(&mut waiting);
    waiting.send(crate::support::line("BLPOP l 0"));
    blocked(&redis, 1);
    assert_eq!(asker.text("MULTI"), "+OK\r\n");
    assert_eq!(asker.text(&format!("CLIENT UNBLOCK {id} ERROR")), "+QUEUED\r\n");
    blocked(&redis, 1);
    assert_eq!(asker.text("EXEC"), "*1\r\n:1\r\n");
    assert!(waiting.frame().starts_with(b"-UNBLOCKED "));
}

#[test]
fn killing_a_waiting_client_ends_its_wait() {
    let redis = RedisServer::start();
    let proxy = workers(&redis, 2);
    let mut asker = proxy.client();
    for _ in 0..4 {
        let mut waiting = proxy.client();
        let id = id_of(&mut waiting);
        waiting.send(crate::support::line("BLPOP l 0"));
        blocked(&redis, 1);
        assert_eq!(asker.text(&format!("CLIENT KILL ID {id}")), ":1\r\n");
        assert_eq!(waiting.rest(), b"");
        blocked(&redis, 0);
    }
    assert_eq!(redis.client().ask("RPUSH l a"), b":1\r\n");
}

#[test]
fn a_wait_whose_node_is_killed_is_told_so_and_pops_nothing_later() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    client.send(pipeline("BLPOP l 0|INCR n"));
    blocked(&redis, 1);
    redis.restart();
    let reply = String::from_utf8_lossy(&client.frame()).into_owned();
    assert!(reply.starts_with("-ERR breakwater: outcome unknown: "), "{reply}");
    // It was sent before its client could know.
    let behind = String::from_utf8_lossy(&client.frame()).into_owned();
    assert!(behind.starts_with("-ERR breakwater: not executed: "), "{behind}");
    let mut direct = redis.client();
    assert_eq!(direct.ask("RPUSH l a"), b":1\r\n");
    assert_eq!(direct.ask("EXISTS n"), b":0\r\n");
    let popped = eventually("waiting works again", || {
        let frame = client.ask("BLPOP l 0");
        frame.starts_with(b"*").then_some(frame)
    });
    assert_eq!(popped, b"*2\r\n$1\r\nl\r\n$1\r\na\r\n");
}

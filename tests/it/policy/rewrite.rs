//! Rewrites before real servers: another command, parts, and answers that are put together from pages.
//!
//! Owns the comparison with what the server says itself when it is asked directly. What surprises: an answer in
//! pages has no order that anybody promises, so elements are compared sorted; and it is no picture of one moment, so
//! while somebody writes only what is there throughout is asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::runs;
use crate::support::cluster::Cluster;
use crate::support::{Client, Proxy, RedisServer, frames, line, until};

/// HGETALL, SMEMBERS and KEYS in pages of this many, with these caps.
fn pages(page: u32, more: &str) -> String {
    format!(
        "[[rule]]\nname = \"pages\"\ncommands = [\"KEYS\", \"HGETALL\", \"SMEMBERS\"]\n\
         action = \"rewrite\"\nto = \"scan\"\npage = {page}\n{more}\n"
    )
}

/// A rule that rewrites these commands.
fn rewrite(name: &str, commands: &str, to: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\ncommands = [{commands}]\naction = \"rewrite\"\nto = {to}\n"
    )
}

/// The elements of an aggregate, sorted; those of a map in pairs. Its kind and its count are checked.
fn elements(frame: &[u8], kind: u8, width: usize) -> Vec<Vec<u8>> {
    assert_eq!(frame[0], kind, "{}", String::from_utf8_lossy(&frame[..frame.len().min(200)]));
    let head = frame.windows(2).position(|pair| pair == b"\r\n").unwrap() + 2;
    let count: usize = std::str::from_utf8(&frame[1..head - 2]).unwrap().parse().unwrap();
    let (mut rest, mut all) = (&frame[head..], Vec::new());
    while !rest.is_empty() {
        let length = (0..width).fold(0, |sum, _| sum + frames::length(&rest[sum..]).unwrap());
        all.push(rest[..length].to_vec());
        rest = &rest[length..];
    }
    let pairs_a_head = if kind == b'*' { width } else { 1 };
    assert_eq!(count, all.len() * pairs_a_head, "the head tells the truth");
    all.sort();
    all
}

/// A server with keys of several kinds: strings, a hash, a set.
fn filled(redis: &RedisServer, strings: usize, members: usize) {
    let mut client = redis.client();
    let mut tell = |lines: Vec<String>| {
        for chunk in lines.chunks(5_000) {
            client.send(chunk.iter().flat_map(|words| line(words)).collect::<Vec<u8>>());
            client.frames(chunk.len());
        }
    };
    tell((0..strings).map(|n| format!("SET session:{n} {n}")).collect());
    tell((0..members).map(|n| format!("HSET hash field:{n} {n}")).collect());
    tell((0..members).map(|n| format!("SADD set member:{n}")).collect());
}

#[test]
fn an_answer_in_pages_is_what_the_server_would_say_in_one() {
    let redis = RedisServer::start();
    filled(&redis, 50_000, 3_000);
    let proxy = Proxy::guarding(&redis.url(), &pages(1_000, "")).ready();
    for version in [2, 3] {
        let mut pair = [proxy.client(), redis.client()];
        for client in &mut pair {
            client.ask(&format!("HELLO {version}"));
        }
        let before = ["keys", "hgetall", "smembers"].map(|command| runs(&redis, command));
        let ask = |client: &mut Client| {
            let (map, set) = if version == 2 { (b'*', b'*') } else { (b'%', b'~') };
            [
                elements(&client.ask("KEYS session:*"), b'*', 1),
                elements(&client.ask("HGETALL hash"), map, 2),
                elements(&client.ask("SMEMBERS set"), set, 1),
                elements(&client.ask("HGETALL nobody"), map, 2),
                elements(&client.ask("KEYS nobody*"), b'*', 1),
            ]
        };
        let in_pages = ask(&mut pair[0]);
        assert_eq!(in_pages.each_ref().map(Vec::len), [50_000, 3_000, 3_000, 0, 0]);
        let after = ["keys", "hgetall", "smembers"].map(|command| runs(&redis, command));
        assert_eq!(before, after, "none of them was asked for as it was said");
        assert!(in_pages == ask(&mut pair[1]), "the same in RESP{version}");
        // Errors are the server's own, and what follows in a pipeline follows.
        let errors = ["HGETALL session:1", "SMEMBERS hash"].map(|words| pair[0].text(words));
        assert_eq!(errors, ["HGETALL session:1", "SMEMBERS hash"].map(|words| pair[1].text(words)));
        pair[0].send(["GET session:1", "HGETALL hash", "GET session:2"].map(line).concat());
        assert_eq!(pair[0].frame(), b"$1\r\n1\r\n");
        assert_eq!(pair[0].frame().iter().filter(|&&byte| byte == b'\n').count(), 1 + 4 * 3_000);
        assert_eq!(pair[0].frame(), b"$1\r\n2\r\n");
    }
    assert!(proxy.metric("breakwater_rewrite_pages_total") >= 2.0 * 56.0);
}

#[test]
fn what_is_there_throughout_is_in_the_answer_whatever_happens_meanwhile() {
    let redis = RedisServer::start();
    filled(&redis, 0, 5_000);
    let proxy = Proxy::guarding(&redis.url(), &pages(100, "")).ready();
    let (is_over, mut writer) = (AtomicBool::new(false), redis.client());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                // It grows until its table is made larger, shrinks again, and the fields that stay change.
                let words = (0..200).map(|step| match turn / 20_000 % 2 {
                    0 => format!("HSET hash extra:{} {turn}", (turn + step) % 20_000),
                    _ => format!("HDEL hash extra:{}", (turn + step) % 20_000),
                });
                let change = format!("HSET hash field:{} changed", turn % 5_000);
                writer.send(words.chain([change]).flat_map(|it| line(&it)).collect::<Vec<u8>>());
                writer.frames(201);
                turn += 200;
            }
        });
        let mut client = proxy.client();
        for _ in 0..5 {
            let answer = elements(&client.ask("HGETALL hash"), b'*', 2);
            let fields: std::collections::HashSet<&[u8]> =
                answer.iter().map(|pair| &pair[..frames::length(pair).unwrap()]).collect();
            assert_eq!(fields.len(), answer.len(), "no field twice");
            for n in 0..5_000 {
                let field = format!("field:{n}");
                let field = format!("${}\r\n{field}\r\n", field.len());
                assert!(fields.contains(field.as_bytes()), "{field}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn beyond_a_cap_there_is_an_error_and_nothing_is_held() {
    let redis = RedisServer::start();
    filled(&redis, 0, 20_000);
    let (bytes, elements) = ("max_bytes = \"256KiB\"", "max_elements = 10000");
    for (cap, words) in [
        (bytes, "its answer takes more than 262144 bytes"),
        (elements, "its answer has more than 10000 elements"),
    ] {
        let proxy = Proxy::guarding(&redis.url(), &pages(500, cap)).ready();
        let mut client = proxy.client();
        let told = client.text("HGETALL hash");
        assert!(told.starts_with("-ERR breakwater: "), "{told}");
        let setting = cap.split(' ').next().unwrap();
        for part in [words, "HSCAN", setting, "rule pages, policy 1"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(client.ask("PING"), b"+PONG\r\n");
        until("nothing is held", || proxy.metric("breakwater_reply_buffered_bytes") == 0.0);
    }
}

#[test]
fn whoever_leaves_ends_the_reading_of_pages() {
    let redis = RedisServer::start();
    filled(&redis, 20_000, 0);
    let proxy = Proxy::guarding(&redis.url(), &pages(1, "every = \"5ms\"")).ready();
    let mut client = proxy.client();
    client.send([line("KEYS *"), line("SET behind 1")].concat());
    until("pages are read", || runs(&redis, "scan") > 10);
    client.abort();
    // Of 20,000 pages few are read, however long it is waited.
    let mut last = (0, 0);
    until("no more pages are read", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = runs(&redis, "scan");
        last = (last.1, now);
        last.0 == last.1
    });
    assert!(last.1 < 10_000, "{}", last.1);
    assert_eq!(redis.client().ask("EXISTS behind"), b":0\r\n");
    until("its session is closed", || proxy.metric("breakwater_clients") == 0.0);
}

#[test]
fn others_are_served_while_many_answers_are_put_together() {
    let redis = RedisServer::start();
    filled(&redis, 2_000, 0);
    let proxy = Proxy::guarding(&redis.url(), &pages(100, "every = \"5ms\"")).ready();
    let mut readers: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    readers.iter_mut().for_each(|reader| reader.send(line("KEYS session:*")));
    let mut other = proxy.client();
    for _ in 0..50 {
        assert_eq!(other.ask("GET session:7"), b"$1\r\n7\r\n");
    }
    for reader in &mut readers {
        assert_eq!(elements(&reader.frame(), b'*', 1).len(), 2_000);
    }
}

#[test]
fn in_a_transaction_there_are_no_pages_and_exec_fails_as_in_redis() {
    let redis = RedisServer::start();
    let proxy = Proxy::guarding(&redis.url(), &pages(10, "")).ready();
    let mut client = proxy.client();
    client.send(["MULTI", "SET a 1", "KEYS *", "EXEC"].map(line).concat());
    let answers = client.frames(4);
    let told = String::from_utf8_lossy(&answers[2]).into_owned();
    assert!(told.starts_with("-ERR breakwater: ") && told.contains("transaction"), "{told}");
    assert!(answers[3].starts_with(b"-EXECABORT"), "{}", String::from_utf8_lossy(&answers[3]));
    assert_eq!(client.ask("EXISTS a"), b":0\r\n");
}

#[test]
fn del_and_flush_become_what_does_not_block() {
    let redis = RedisServer::start();
    let policy = [
        rewrite("unlink", "\"DEL\"", "\"unlink\""),
        rewrite("async", "\"FLUSHALL\", \"FLUSHDB\"", "\"async\""),
        rewrite("clamp", "\"SCAN\"", "\"clamp\"\ncount = 10"),
    ];
    let proxy = Proxy::guarding(&redis.url(), &policy.concat()).ready();
    filled(&redis, 500, 0);
    let mut client = proxy.client();
    assert_eq!(client.ask("DEL session:1 session:2 nobody"), b":2\r\n");
    // In a transaction as well.
    client.send(["MULTI", "DEL session:3", "EXEC"].map(line).concat());
    assert_eq!(client.frames(3)[2], b"*1\r\n:1\r\n");
    assert_eq!((runs(&redis, "del"), runs(&redis, "unlink")), (0, 2));
    let page = client.ask("SCAN 0 COUNT 500");
    let keys = page.windows(2).filter(|pair| pair == b"\r\n").count() / 2;
    assert!(keys < 100, "a page of {keys}");
    redis.client().ask("CONFIG SET slowlog-log-slower-than 0");
    assert_eq!(client.ask("FLUSHALL SYNC"), b"+OK\r\n");
    assert_eq!(client.ask("FLUSHDB"), b"+OK\r\n");
    let slow = redis.client().text("SLOWLOG GET 10");
    assert!(
        slow.contains("FLUSHALL\r\n$5\r\nASYNC") && slow.contains("FLUSHDB\r\n$5\r\nASYNC"),
        "{slow}"
    );
}

#[test]
fn many_keys_go_in_batches_and_are_answered_in_their_order() {
    let (redis, cluster) = (RedisServer::start(), Cluster::start(3, 0));
    let policy =
        rewrite("batch", "\"MGET\", \"EXISTS\", \"DEL\", \"TOUCH\"", "\"batch\"\nbatch = 100");
    for url in [redis.url(), cluster.url()] {
        let proxy = Proxy::guarding(&url, &policy).ready();
        let mut client = proxy.client();
        until("the slot map is there", || client.text("GET x") == "$-1\r\n");
        // All keys of one slot in the second round: also then they are more than one batch.
        for tag in ["", "{t}"] {
            let key = |n: usize| format!("{tag}k{n}");
            let present: Vec<usize> = (0..5_000).filter(|n| n % 3 != 0).collect();
            let sets = present.iter().flat_map(|&n| line(&format!("SET {} {n}", key(n))));
            client.send(sets.collect::<Vec<u8>>());
            client.frames(present.len());
            let names = (0..5_000).map(key).collect::<Vec<_>>().join(" ");
            let want: String = (0..5_000)
                .map(|n: usize| match (n % 3, n.to_string()) {
                    (0, _) => "$-1\r\n".to_owned(),
                    (_, n) => format!("${}\r\n{n}\r\n", n.len()),
                })
                .collect();
            assert!(client.text(&format!("MGET {names}")) == format!("*5000\r\n{want}"));
            let count = format!(":{}\r\n", present.len());
            assert_eq!(client.text(&format!("EXISTS {names}")), count);
            assert_eq!(client.text(&format!("TOUCH {names}")), count);
            assert_eq!(client.text(&format!("DEL {names}")), count);
            assert_eq!(client.text(&format!("DEL {names}")), ":0\r\n");
        }
        assert_eq!(proxy.metric_of("breakwater_rewrites_total", "divided"), 10.0);
    }
    assert_eq!(runs(&redis, "mget"), 2 * 50);
}

#[test]
fn keys_of_a_cluster_are_put_together_from_all_its_shards() {
    let cluster = Cluster::start(3, 0);
    let proxy = Proxy::guarding(&cluster.url(), &pages(50, "")).ready();
    let mut client = proxy.client();
    until("the slot map is there", || client.text("GET x") == "$-1\r\n");
    for n in 0..1_000 {
        client.ask(&format!("SET key:{n} {n}"));
    }
    client.ask("SADD set a b c");
    for _ in 0..2 {
        let keys = elements(&client.ask("KEYS key:*"), b'*', 1);
        assert_eq!(keys.len(), 1_000);
    }
    assert_eq!(elements(&client.ask("SMEMBERS set"), b'*', 1).len(), 3);
    assert_eq!(cluster.calls("keys"), 0);
}

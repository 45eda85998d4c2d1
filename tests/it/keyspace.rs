//! Commands about the whole keyspace, where the answer of one server cannot be compared with that of another.
//!
//! Owns the proofs that scans see every key, that a dumped key travels, and that databases are swapped under those
//! who are in them. What surprises: one server is asked both ways, directly and through the proxy, because hash
//! tables of two servers have their keys in different orders.

use std::collections::BTreeSet;

use crate::support::{Client, Proxy, RedisServer, bulk, command, frames, line};

/// Every element that a scan returns, and how many times it had to be asked.
fn scan(client: &mut Client, before: &str, after: &str) -> (Vec<Vec<u8>>, usize) {
    let (mut cursor, mut found, mut rounds) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let reply = client.ask(&format!("{before} {cursor} {after}"));
        let elements = frames::arguments(&reply[b"*2\r\n".len()..][next(&reply)..]);
        cursor = first(&reply);
        found.extend(elements);
        rounds += 1;
        if cursor == "0" {
            return (found, rounds);
        }
    }
}

/// The cursor of a SCAN's reply, which is the first of its two elements.
fn first(reply: &[u8]) -> String {
    let text = reply.split(|&byte| byte == b'\n').nth(2).unwrap();
    String::from_utf8(text.to_vec()).unwrap().trim_end().to_owned()
}

/// Bytes of the cursor's own frame.
fn next(reply: &[u8]) -> usize {
    bulk(first(reply).as_bytes()).len()
}

#[test]
fn scans_see_everything_as_they_do_directly() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut direct = redis.client();
    let names = || (0..1000).map(|number| format!("key:{number:04}"));
    let many = |first: &[&str], each: &dyn Fn(String) -> Vec<String>| {
        let mut words: Vec<String> = first.iter().map(|word| (*word).to_owned()).collect();
        words.extend(names().flat_map(each));
        command(&words)
    };
    direct.send(many(&["MSET"], &|name| vec![name, "v".into()]));
    direct.send(many(&["SADD", "a-set"], &|name| vec![name]));
    direct.send(many(&["HSET", "a-hash"], &|name| vec![name, "v".into()]));
    direct.send(many(&["ZADD", "a-zset"], &|name| vec!["1".into(), name]));
    direct.frames(4);
    for client in &mut [proxy.client(), proxy.client3()] {
        for (before, after) in [
            ("SCAN", "MATCH key:* COUNT 7"),
            ("SCAN", "TYPE string"),
            ("SSCAN a-set", "COUNT 50"),
            ("HSCAN a-hash", "COUNT 50"),
            ("ZSCAN a-zset", ""),
        ] {
            let (found, rounds) = scan(client, before, after);
            let keys = found.into_iter().filter(|key| key.starts_with(b"key:"));
            let keys: BTreeSet<Vec<u8>> = keys.collect();
            assert_eq!(keys, names().map(String::into_bytes).collect(), "{before} {after}");
            assert!(rounds > 1, "{before} {after}: cursors are used");
        }
        // Nothing is written meanwhile, so one and the same server gives one and the same order.
        for words in ["KEYS *", "SMEMBERS a-set", "HGETALL a-hash", "ZRANGE a-zset 0 -1"] {
            let mut plain = redis.client();
            if client.ask("HELLO").starts_with(b"%") {
                plain.ask("HELLO 3");
            }
            assert_eq!(client.ask(words), plain.ask(words), "{words}");
        }
    }
}

#[test]
fn a_dumped_key_is_the_same_bytes_and_comes_back_the_same() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut direct = redis.client();
    for words in [
        "SET string 12345",
        "RPUSH list a b 1 2",
        "HSET hash f v g w",
        "SADD set 1 2 3",
        "ZADD zset 1.5 a 2 b",
        "XADD stream 1-1 f v",
        "PFADD hll a b c",
        "SETRANGE large 100000 x",
    ] {
        assert!(!direct.ask(words).starts_with(b"-"), "{words}");
    }
    for client in &mut [proxy.client(), proxy.client3()] {
        for key in ["string", "list", "hash", "set", "zset", "stream", "hll", "large"] {
            let dumped = client.ask(&format!("DUMP {key}"));
            assert_eq!(dumped, direct.ask(&format!("DUMP {key}")), "{key}");
            let start = dumped.iter().position(|&byte| byte == b'\n').unwrap() + 1;
            let payload = &dumped[start..dumped.len() - 2];
            let restore = |ttl: &'static [u8], more: &[&'static [u8]]| {
                command(&[&[&b"RESTORE"[..], b"copy", ttl, payload], more].concat())
            };
            client.ask("DEL copy");
            client.send(restore(b"0", &[]));
            assert_eq!(client.frame(), b"+OK\r\n", "{key}");
            assert_eq!(client.ask("DUMP copy"), dumped, "{key}");
            client.send(restore(b"0", &[]));
            assert_eq!(client.frame(), b"-BUSYKEY Target key name already exists.\r\n");
            client.send(restore(b"33177117420000", &[b"REPLACE", b"ABSTTL"]));
            assert_eq!(client.frame(), b"+OK\r\n", "{key}");
            assert_eq!(client.ask("EXPIRETIME copy"), b":33177117420\r\n");
        }
    }
}

#[test]
fn a_key_is_migrated_to_another_server() {
    let (redis, other) = (RedisServer::start(), RedisServer::start());
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    client.send([line("SET moved 1"), line("SET kept 2"), line("SET many 3")].concat());
    client.frames(3);
    let to = format!("MIGRATE 127.0.0.1 {}", other.port());
    assert_eq!(client.ask(&format!("{to} moved 0 10000")), b"+OK\r\n");
    assert_eq!(client.ask(&format!("{to} moved 0 10000")), b"+NOKEY\r\n");
    assert_eq!(client.ask(&format!("{to} kept 1 10000 COPY REPLACE")), b"+OK\r\n");
    let several = ["", "0", "10000", "KEYS", "many", "none"];
    let words: Vec<&str> = to.split(' ').chain(several).collect();
    assert_eq!(client.call(&words), b"+OK\r\n");
    assert_eq!(client.ask("EXISTS moved kept many"), b":1\r\n");
    assert_eq!(other.client().ask("MGET moved many"), b"*2\r\n$1\r\n1\r\n$1\r\n3\r\n");
}

#[test]
fn databases_are_swapped_under_those_who_are_in_them() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let [mut zero, mut one, mut three] = [proxy.client(), proxy.client(), proxy.client3()];
    for client in [&mut one, &mut three] {
        assert_eq!(client.ask("SELECT 1"), b"+OK\r\n");
    }
    assert_eq!(zero.ask("SET who zero"), b"+OK\r\n");
    assert_eq!(one.ask("SET who one"), b"+OK\r\n");
    assert_eq!(three.ask("SWAPDB 0 1"), b"+OK\r\n");
    for (client, want) in [(&mut zero, "one"), (&mut one, "zero"), (&mut three, "zero")] {
        assert_eq!(client.ask("GET who"), bulk(want.as_bytes()));
    }
    assert_eq!(zero.ask("MOVE who 1"), b":0\r\n");
    assert_eq!(zero.ask("COPY who copy DB 1"), b":1\r\n");
    assert_eq!(one.ask("GET copy"), bulk(b"one"));
    assert_eq!(one.ask("FLUSHDB"), b"+OK\r\n");
    assert_eq!((zero.ask("DBSIZE"), three.ask("DBSIZE")), (b":1\r\n".to_vec(), b":0\r\n".to_vec()));
}

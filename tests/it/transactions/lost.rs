//! Transactions whose node is killed under them: nothing runs twice, and what is said is true (INV-3).
//!
//! Owns one test for each moment at which a connection can end, and a storm of all of them. Never trusts an error
//! without the counter that it speaks of: the server keeps every acknowledged write on disk.
//!
//! What surprises: a lost WATCH is no error. Redis has a word for "what you watched may have changed", and that is
//! what EXEC answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::nothing_is_left;
use crate::support::pair::pipeline;
use crate::support::random::Random;
use crate::support::{Client, Proxy, RedisServer, eventually, shown, until};

/// A server that forgets nothing it has acknowledged, and a proxy.
fn durable() -> (RedisServer, Proxy) {
    let redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let proxy = Proxy::before(&redis.url()).ready();
    (redis, proxy)
}

/// Waits until the proxy reaches the server again.
fn is_back(client: &mut Client) {
    eventually("the proxy reaches the server again", || {
        (client.ask("PING") == b"+PONG\r\n").then_some(())
    });
}

fn counter(redis: &RedisServer, key: &str) -> usize {
    let reply = redis.client().text(&format!("GET {key}"));
    reply.lines().nth(1).unwrap_or("0").parse().expect("it is a counter")
}

/// Bytes that the proxy has handed to the server's kernel.
fn handed_over(proxy: &Proxy) -> f64 {
    proxy.metric_of("breakwater_upstream_bytes_total", "\"out\"")
}

/// Asks on a server that is stopped, and waits until what goes out in one write is on its way.
fn ask_into_the_void(proxy: &Proxy, client: &mut Client, talk: &str) {
    let before = handed_over(proxy);
    client.send(pipeline(talk));
    until("the first of them is handed over", || handed_over(proxy) > before);
}

#[test]
fn a_transaction_whose_node_is_killed_before_exec_is_aborted_with_the_reason() {
    let (mut redis, proxy) = durable();
    for is_back_before_exec in [true, false] {
        let (mut client, mut other) = (proxy.client(), proxy.client());
        assert_eq!(client.text("MULTI"), "+OK\r\n");
        assert_eq!(client.text("INCR n"), "+QUEUED\r\n");
        redis.kill();
        if is_back_before_exec {
            redis.restart();
            is_back(&mut other);
        }
        let queued = client.text("INCR n");
        assert!(queued.starts_with("-ERR breakwater: not executed: "), "{queued}");
        let exec = client.text("EXEC");
        let reason = "-EXECABORT Transaction discarded because of: the connection to ";
        assert!(exec.starts_with(reason) && exec.contains("lost"), "{exec}");
        redis.restart();
        is_back(&mut client);
        assert_eq!(client.text("EXEC"), "-ERR EXEC without MULTI\r\n", "it is over");
        let end = eventually("the next one runs", || {
            client.send(pipeline("WATCH n|MULTI|GET n|EXEC"));
            client.frames(4).pop().filter(|exec| exec.starts_with(b"*"))
        });
        assert_eq!(String::from_utf8_lossy(&end), "*1\r\n$-1\r\n", "something has run");
    }
    nothing_is_left(&redis);
}

#[test]
fn a_transaction_whose_node_is_killed_can_be_discarded() {
    let (mut redis, proxy) = durable();
    let mut client = proxy.client();
    assert_eq!(client.text("MULTI"), "+OK\r\n");
    assert_eq!(client.text("INCR n"), "+QUEUED\r\n");
    redis.restart();
    assert_eq!(client.text("DISCARD"), "+OK\r\n");
    is_back(&mut client);
    assert_eq!(client.text("GET n"), "$-1\r\n");
}

#[test]
fn keys_watched_when_their_node_is_killed_count_as_changed() {
    let (mut redis, proxy) = durable();
    for (version, null) in [(2, "*-1\r\n"), (3, "_\r\n")] {
        for talk in ["WATCH k", "WATCH k|GET k", "SELECT 1|WATCH k", "WATCH k|WATCH l"] {
            let mut client = proxy.client();
            client.ask(&format!("HELLO {version}"));
            client.send(pipeline(talk));
            client.frames(talk.split('|').count());
            redis.restart();
            is_back(&mut client);
            assert_eq!(client.text("MULTI"), "+OK\r\n");
            assert_eq!(client.text("INCR n"), "+QUEUED\r\n");
            assert_eq!(client.text("EXEC"), null, "RESP{version}: {talk}");
            // That was the end of it, as with Redis: the next transaction watches nothing.
            client.send(pipeline("MULTI|ECHO ran|EXEC"));
            let frames = client.frames(3);
            assert_eq!(frames[2], b"*1\r\n$3\r\nran\r\n", "RESP{version}: {talk}");
        }
    }
    assert_eq!(counter(&redis, "n"), 0);
}

#[test]
fn a_lost_watch_ends_with_unwatch_discard_and_reset_and_an_error_wins_over_it() {
    let (mut redis, proxy) = durable();
    for (talk, exec) in [
        ("UNWATCH|MULTI|ECHO ran|EXEC", "*1\r\n$3\r\nran\r\n"),
        ("MULTI|DISCARD|MULTI|ECHO ran|EXEC", "*1\r\n$3\r\nran\r\n"),
        ("RESET|MULTI|ECHO ran|EXEC", "*1\r\n$3\r\nran\r\n"),
        ("WATCH l|MULTI|ECHO ran|EXEC", "*-1\r\n"),
        ("MULTI|UNWATCH|ECHO ran|EXEC", "*-1\r\n"),
        ("MULTI|NOSUCH|EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n"),
    ] {
        let mut client = proxy.client();
        assert_eq!(client.text("WATCH k"), "+OK\r\n");
        redis.restart();
        is_back(&mut client);
        client.send(pipeline(talk));
        let frames = client.frames(talk.split('|').count());
        assert_eq!(String::from_utf8_lossy(frames.last().expect("a reply")), exec, "{talk}");
    }
}

#[test]
fn an_exec_on_its_way_when_its_node_is_killed_has_an_unknown_outcome() {
    let (mut redis, proxy) = durable();
    for (talk, last) in [("EXEC", 0), ("INCR n|EXEC", 1), ("CLIENT GETNAME|INCR n|EXEC", 2)] {
        let mut client = proxy.client();
        client.send(pipeline("MULTI|SELECT 0|INCR n"));
        assert!(client.frames(3).iter().all(|frame| frame.starts_with(b"+")));
        redis.pause();
        ask_into_the_void(&proxy, &mut client, talk);
        redis.kill();
        let frames = client.frames(last + 1);
        let exec = String::from_utf8_lossy(&frames[last]);
        assert!(exec.starts_with("-ERR breakwater: outcome unknown: "), "{talk}: {exec}");
        redis.restart();
        is_back(&mut client);
        assert_eq!(client.text("EXEC"), "-ERR EXEC without MULTI\r\n");
    }
    // The server was stopped before any of them: none can have run, and none has run later.
    assert_eq!(counter(&redis, "n"), 0);
}

#[test]
fn a_whole_block_in_flight_when_its_node_is_killed_is_one_unknown_outcome() {
    let (mut redis, proxy) = durable();
    let mut client = proxy.client();
    assert_eq!(client.text("INCR n"), ":1\r\n");
    redis.pause();
    ask_into_the_void(&proxy, &mut client, "MULTI|INCR n|INCR n|EXEC");
    redis.kill();
    let frames = client.frames(4);
    assert_eq!(frames[..3], [&b"+OK\r\n"[..], b"+QUEUED\r\n", b"+QUEUED\r\n"]);
    let exec = String::from_utf8_lossy(&frames[3]);
    assert!(exec.starts_with("-ERR breakwater: outcome unknown: "), "{exec}");
    redis.restart();
    is_back(&mut client);
    assert_eq!(counter(&redis, "n"), 1);
    // One that only reads may be asked again, and is.
    redis.pause();
    ask_into_the_void(&proxy, &mut client, "MULTI|GET n|GET none|EXEC");
    redis.restart();
    let frames = client.frames(4);
    let exec = String::from_utf8_lossy(&frames[3]);
    // A server that is still reading its file refuses each GET, and therefore the EXEC.
    let is_honest = exec == "*2\r\n$1\r\n1\r\n$-1\r\n"
        || exec == "-EXECABORT Transaction discarded because of previous errors.\r\n"
        || exec.starts_with("-ERR breakwater: no reply: ")
        || exec.starts_with("-ERR breakwater: not executed: ");
    assert!(is_honest, "{exec}");
}

#[test]
fn what_is_queued_behind_a_lost_block_is_not_executed() {
    let (mut redis, proxy) = durable();
    let mut client = proxy.client();
    assert_eq!(client.ask("PING"), b"+PONG\r\n");
    redis.pause();
    ask_into_the_void(&proxy, &mut client, "MULTI|INCR n|EXEC|MULTI|SELECT 1|INCR n|EXEC|INCR n");
    redis.kill();
    let frames = client.frames(3);
    assert!(frames[2].starts_with(b"-ERR breakwater: outcome unknown: "));
    redis.restart();
    let texts: Vec<String> =
        client.frames(5).iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect();
    for place in [0, 2, 4] {
        assert!(texts[place].starts_with("-ERR breakwater: not executed: "), "{texts:?}");
    }
    assert!(texts[3].starts_with("-E"), "EXEC of a transaction that was not executed: {texts:?}");
    is_back(&mut client);
    assert_eq!(counter(&redis, "n"), 0);
}

/// What one client of the storm counted.
#[derive(Default)]
struct Tally {
    acknowledged: usize,
    unknown: usize,
    not_executed: usize,
}

#[test]
fn a_storm_of_transactions_and_kills_runs_nothing_twice() {
    let (mut redis, proxy) = durable();
    let mut seeds = Random::new(Random::seed_from("BREAKWATER_STORM_SEED"));
    let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (is_over, done) = (Arc::clone(&is_over), Arc::clone(&done));
            let (mut client, mut random) = (proxy.client(), Random::new(seeds.next()));
            std::thread::spawn(move || {
                let mut tally = Tally::default();
                while !is_over.load(Ordering::Relaxed) {
                    increment(&mut client, number, &mut random, &mut tally);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                tally
            })
        })
        .collect();
    for _ in 0..KILLS {
        let before = done.load(Ordering::Relaxed);
        until("the clients get on", || done.load(Ordering::Relaxed) >= before + 40 * CLIENTS);
        redis.restart();
    }
    let before = done.load(Ordering::Relaxed);
    until("the clients get on", || done.load(Ordering::Relaxed) >= before + 40 * CLIENTS);
    is_over.store(true, Ordering::Relaxed);
    let tallies = threads.into_iter().map(|thread| thread.join().expect("no client panics"));
    let (mut all, mut unknown, mut not_executed) = (0, 0, 0);
    for (number, tally) in tallies.enumerate() {
        let (left, right) = (
            counter(&redis, &format!("left:{number}")),
            counter(&redis, &format!("right:{number}")),
        );
        assert_eq!(left, right, "client {number}: half a transaction");
        let range = tally.acknowledged..=tally.acknowledged + tally.unknown;
        assert!(range.contains(&left), "client {number}: {left} is not in {range:?}");
        all += tally.acknowledged;
        unknown += tally.unknown;
        not_executed += tally.not_executed;
    }
    eprintln!("{all} transactions, {not_executed} not executed, {unknown} unknown, {KILLS} kills");
    assert!(all > 40 * CLIENTS && not_executed > 0, "the storm did what it claims");
    nothing_is_left(&redis);
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
}

/// One transaction, in one of the ways in which it can arrive, and what is known of it.
fn increment(client: &mut Client, number: usize, random: &mut Random, tally: &mut Tally) {
    let body = format!("INCR left:{number}|INCR right:{number}");
    let talk = match random.below(5) {
        0 | 1 => format!("MULTI|{body}|EXEC"),
        2 => format!("MULTI|{body}|SELECT 0|EXEC"),
        3 => format!("WATCH left:{number}|MULTI|{body}|EXEC"),
        _ => format!("MULTI|{body}|CLIENT GETNAME|EXEC"),
    };
    let mut frames = Vec::new();
    if random.one_in(2) {
        client.send(pipeline(&talk));
        frames = client.frames(talk.split('|').count());
    } else {
        for step in talk.split('|') {
            frames.push(client.ask(step));
            // Who is told that there is no transaction does not go on with it.
            if matches!(step, "MULTI") && frames.last().is_some_and(|frame| frame[0] == b'-') {
                break;
            }
        }
    }
    let exec = frames.last().expect("the last one is answered");
    let starts = |words: &str| exec.starts_with(words.as_bytes());
    let ran_alone = frames.iter().any(|frame| frame.starts_with(b":"));
    assert!(!ran_alone, "{talk}: without MULTI: {}", texts(&frames));
    if starts("-ERR breakwater: outcome unknown: ") {
        tally.unknown += 1;
    } else if starts("*-1") || !starts("*") {
        tally.not_executed += 1;
        let is_honest = ["*-1", "-EXECABORT ", "-LOADING ", "-ERR EXEC without MULTI"]
            .into_iter()
            .chain(["-ERR breakwater: not executed: "])
            .any(starts);
        assert!(is_honest, "{talk}: {}", texts(&frames));
    } else {
        tally.acknowledged += 1;
    }
}

fn texts(frames: &[Vec<u8>]) -> String {
    frames.iter().map(|frame| shown(frame)).collect::<Vec<_>>().join(" ")
}

/// Clients of the storm.
const CLIENTS: usize = 20;
/// How often the server is killed.
const KILLS: usize = 4;

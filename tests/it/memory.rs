//! What clients cost in memory, seen from the kernel (INV-4).
//!
//! Owns the bounds that an operator plans with: a client that asks and does not read, one that promises bytes and
//! does not send them, many that are idle. Never trusts the proxy's own gauges; the figures are those of `/proc`.
//!
//! What surprises: the bars of these figures are for a release build. A debug build has larger stacks and futures
//! and is allowed twice as much for an idle client; everything else is the same.

use std::time::{Duration, Instant};

use crate::support::{Client, Proxy, RedisServer, bulk, command, eventually, line, shown, until};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The named bound of what one client may have asked for: `session_reply_bytes`.
const SESSION_REPLY_BYTES: usize = 16 * MIB;
/// Scratch buffers, freed memory that the allocator has not returned, and the pages of code that ran first.
const SLACK_BYTES: usize = 12 * MIB;

#[test]
fn a_client_that_asks_for_a_gigabyte_and_does_not_read_costs_its_bound_and_gets_every_byte() {
    const GETS: usize = 1000;
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let value: Vec<u8> = (0..MIB).map(|at| b'a' + (at % 23) as u8).collect();
    let expected = bulk(&value);
    let mut other = proxy.client();
    assert_eq!(other.call(&[&b"SET"[..], b"large", &value]), b"+OK\r\n");
    assert_eq!(other.ask("SET small 1"), b"+OK\r\n");
    assert!(other.ask("GET large") == expected);
    let (base, base_of_redis) = (proxy.resident_bytes(), used_memory(&redis));
    let mut slow = proxy.client();
    slow.send(line("GET large").repeat(GETS));
    // Three seconds of not reading is what is tested; others are served meanwhile, and the peak is noted.
    let (mut peak, mut peak_of_redis, mut served) = (0, 0, 0);
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(other.ask("GET small"), bulk(b"1"));
        served += 1;
        peak = peak.max(proxy.resident_bytes());
        peak_of_redis = peak_of_redis.max(used_memory(&redis));
    }
    // What is asked for and not read would wait in Redis: the bound is on the asking.
    let grown = peak_of_redis.saturating_sub(base_of_redis);
    assert!(grown <= 2 * SESSION_REPLY_BYTES, "Redis holds {} MiB more", grown / MIB);
    eprintln!(
        "idle reader: {} KiB before, {} KiB at the peak; {served} replies to another client",
        base / KIB,
        peak / KIB
    );
    assert!(peak <= base + SESSION_REPLY_BYTES + SLACK_BYTES, "{} MiB over", (peak - base) / MIB);
    assert!(peak >= base + MIB, "the proxy did read ahead, or this test tests nothing");
    for number in 0..GETS {
        let frame = slow.frame();
        assert!(frame == expected, "reply {number}: {}", shown(&frame));
        if number % 100 == 0 {
            let resident = proxy.resident_bytes();
            assert!(resident <= base + SESSION_REPLY_BYTES + SLACK_BYTES, "{number}: {resident}");
        }
    }
    assert_eq!(slow.ask("ECHO end"), bulk(b"end"));
    assert_eq!(proxy.metric("breakwater_clients_closed_total"), 0.0, "nobody is evicted");
}

/// What Redis has allocated, the replies that it could not send included.
fn used_memory(redis: &RedisServer) -> usize {
    let info = redis.client().text("INFO memory");
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    used.and_then(|used| used.trim().parse().ok()).expect("Redis tells its memory")
}

#[test]
fn slow_readers_of_one_lane_do_not_stop_the_others() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut other = proxy.client();
    let value = vec![b'v'; 4 * MIB];
    assert_eq!(other.call(&[&b"SET"[..], b"large", &value]), b"+OK\r\n");
    let mut slow: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    for client in &mut slow {
        // The first reply teaches what the others will be; together they stay below the total budget.
        assert!(client.ask("GET large") == bulk(&value));
        client.send(line("GET large").repeat(20));
    }
    for number in 0..200 {
        let words = format!("SET n {number}");
        assert_eq!(other.ask(&words), b"+OK\r\n");
    }
    assert!(other.ask("GET large") == bulk(&value), "even on the lane of the large replies");
    for client in &mut slow {
        for _ in 0..20 {
            assert!(client.frame() == bulk(&value));
        }
    }
    assert_eq!(proxy.metric("breakwater_clients_closed_total"), 0.0, "nobody is evicted");
}

#[test]
fn promised_bytes_cost_nothing_until_they_come() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut marker = proxy.client();
    assert_eq!(marker.ask("PING"), b"+PONG\r\n");
    let base = proxy.resident_bytes();
    let promises: [&[u8]; 6] = [
        b"*2\r\n$3\r\nGET\r\n$536870912\r\nonly this",
        b"*1048576\r\n$3\r\nDEL\r\n$1\r\na\r\n",
        b"*1000000\r\n",
        b"*1000000000\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2147483647\r\n",
        b"*2\r\n$536870912\r\n",
    ];
    let mut clients: Vec<Client> = (0..60).map(|_| proxy.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send([&line("ECHO read")[..], promises[number % promises.len()]].concat());
        assert_eq!(client.frame(), bulk(b"read"));
    }
    // What cannot become a command is refused at once, the rest waits for its bytes.
    for (number, client) in clients.iter_mut().enumerate() {
        if matches!(number % promises.len(), 3 | 4) {
            assert!(client.rest().starts_with(b"-ERR Protocol error: invalid"));
        }
    }
    assert_eq!(marker.ask("PING"), b"+PONG\r\n");
    let grown = proxy.resident_bytes().saturating_sub(base);
    eprintln!("60 promises: {} KiB", grown / KIB);
    assert!(grown <= 4 * MIB, "{} KiB", grown / KIB);
}

#[test]
fn what_a_client_leaves_behind_is_given_back() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut other = proxy.client();
    assert_eq!(other.ask("PING"), b"+PONG\r\n");
    let base = proxy.resident_bytes();
    let whole = command(&[&b"SET"[..], b"large", &vec![b'x'; 64 * MIB]]);
    for _ in 0..3 {
        let mut client = proxy.client();
        client.send(&whole[..48 * MIB]);
        until("the bytes have arrived", || {
            proxy.metric("breakwater_request_buffered_bytes") >= (40 * MIB) as f64
        });
        drop(client);
        until("they are forgotten", || {
            proxy.metric("breakwater_request_buffered_bytes") < MIB as f64
        });
    }
    assert_eq!(redis.client().ask("EXISTS large"), b":0\r\n");
    eventually("the kernel has the memory back", || {
        let _ = other.ask("PING");
        (proxy.resident_bytes() <= base + SLACK_BYTES).then_some(())
    });
}

#[test]
fn a_proxy_without_clients_is_small() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let resident = settled(&proxy);
    let allowed = if cfg!(debug_assertions) { 24 * MIB } else { 8 * MIB };
    eprintln!("idle: {} KiB", resident / KIB);
    assert!(resident <= allowed, "{} KiB, {} KiB allowed", resident / KIB, allowed / KIB);
}

#[test]
fn idle_clients_that_have_worked_cost_next_to_nothing() {
    let wished = 2000;
    // One descriptor here and one there, and other tests run beside this one.
    let clients_max = descriptors().saturating_sub(700).min(wished);
    if clients_max < wished {
        eprintln!(
            "NOTE: the limit of open files allows {clients_max} clients instead of {wished}."
        );
    }
    if clients_max < 100 {
        eprintln!("SKIPPED: too few open files are allowed; nothing was tested.");
        return;
    }
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    // The same work by a few clients first, so that what is shared is not counted as theirs.
    let warm: Vec<Client> = (0..20).map(|number| worked(&proxy, number)).collect();
    let base = settled(&proxy);
    let clients: Vec<Client> = (0..clients_max).map(|number| worked(&proxy, number)).collect();
    let allowed = if cfg!(debug_assertions) { 2 * 2560 } else { 2560 };
    let mut each = 0;
    // Buffers are given back a second after the last command.
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        each = settled(&proxy).saturating_sub(base) / clients_max;
        if each <= allowed {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!("{clients_max} idle clients: {each} bytes each; {} KiB before", base / KIB);
    assert!(each <= allowed, "{each} bytes for each idle client, {allowed} allowed");
    drop((warm, clients));
}

/// A client that has had a pipeline with a value of 1 KiB and larger replies, and is silent then.
fn worked(proxy: &Proxy, number: usize) -> Client {
    let mut client = proxy.client();
    let key = format!("idle:{number}");
    let value = vec![b'i'; KIB];
    let mut bytes = command(&[b"SET", key.as_bytes(), &value]);
    for _ in 0..32 {
        bytes.extend(command(&["GET", &key]));
    }
    client.send(&bytes);
    assert_eq!(client.frame(), b"+OK\r\n");
    assert!(client.frames(32).iter().all(|frame| *frame == bulk(&value)));
    client
}

/// Resident memory when it no longer changes from one look to the next.
fn settled(proxy: &Proxy) -> usize {
    let mut last = 0;
    eventually("the memory is steady", || {
        std::thread::sleep(Duration::from_millis(300));
        let before = std::mem::replace(&mut last, proxy.resident_bytes());
        (before.abs_diff(last) <= 64 * KIB).then_some(last)
    })
}

/// Open files that this process may have.
fn descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_ascii_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(1024)
}

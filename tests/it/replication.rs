//! The replication stream through Breakwater: a real replica, real tools, and readers that misbehave.
//!
//! Owns what only whole processes can show: that a redis-server becomes a replica of our port and stays one, what
//! redis-cli makes of it, and what a reader that does not read costs. Never looks into the stream itself; the
//! replica does. What surprises: a primary waits five seconds for more replicas before it forks, unless told not to.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Client, Proxy, RedisServer, bulk, command, until};

const MIB: usize = 1024 * 1024;
/// The named bound of what one client may be owed: `session_reply_bytes`.
const SESSION_REPLY_BYTES: usize = 16 * MIB;
/// Scratch buffers, freed memory that the allocator has not returned, and the pages of code that ran first.
const SLACK_BYTES: usize = 12 * MIB;

/// A primary that forks as soon as it is asked to.
fn primary() -> RedisServer {
    RedisServer::start_with(&["--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"])
}

/// A number of INFO.
fn number(client: &mut Client, section: &str, name: &str) -> u64 {
    let info = client.text(&format!("INFO {section}"));
    let field = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    field.and_then(|field| field.trim().parse().ok()).expect("INFO tells the number")
}

/// Waits until the replica has a link to whom it follows.
fn until_linked(replica: &mut Client) {
    until("the replica is in step", || {
        replica.text("INFO replication").contains("master_link_status:up")
    });
}

#[test]
fn a_server_becomes_a_replica_of_our_port_and_stays_one() {
    let (redis, other) = (primary(), RedisServer::start());
    let proxy = Proxy::before(&redis.url()).ready();
    let (mut client, mut direct, mut replica) = (proxy.client(), redis.client(), other.client());
    assert_eq!(direct.ask("DEBUG POPULATE 10000 before 200"), b"+OK\r\n");
    assert_eq!(replica.ask(&format!("REPLICAOF 127.0.0.1 {}", proxy.port())), b"+OK\r\n");
    until_linked(&mut replica);
    assert_eq!(replica.ask("DBSIZE"), b":10000\r\n");
    assert_eq!(client.ask("SELECT 3"), b"+OK\r\n");
    assert_eq!(client.ask("SET later yes"), b"+OK\r\n");
    // It is counted only once its ACK has come back the same way.
    assert_eq!(client.ask("WAIT 1 0"), b":1\r\n");
    replica.ask("SELECT 3");
    assert_eq!(replica.ask("GET later"), bulk(b"yes"));
    let list = client.text("CLIENT LIST TYPE replica");
    assert!(list.contains(" flags=S ") && list.contains(" cmd=replconf "), "{list}");
    until("the stream is counted", || proxy.metric("breakwater_replication_streams") == 1.0);
    // It comes back for what it has missed, and says so in its own words.
    let partial = number(&mut direct, "stats", "sync_partial_ok");
    assert_eq!(client.ask("CLIENT KILL TYPE replica"), b":1\r\n");
    assert_eq!(client.ask("SET missed yes"), b"+OK\r\n");
    until("it has gone on", || number(&mut direct, "stats", "sync_partial_ok") > partial);
    assert_eq!(client.ask("WAIT 1 0"), b":1\r\n");
    assert_eq!(replica.ask("GET missed"), bulk(b"yes"));
    assert_eq!(number(&mut direct, "stats", "sync_full"), 1);
    // What the primary ends, ends here.
    assert_eq!(direct.ask("CLIENT KILL TYPE replica"), b":1\r\n");
    until("it has gone on again", || number(&mut direct, "stats", "sync_partial_ok") > partial + 1);
    assert_eq!(replica.ask("REPLICAOF NO ONE"), b"+OK\r\n");
    until("no connection is left", || proxy.metric("breakwater_replication_streams") == 0.0);
    until("the primary has none", || number(&mut direct, "replication", "connected_slaves") == 0);
}

#[test]
fn redis_cli_takes_a_dump_and_listens_as_a_replica() {
    let redis = primary();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    assert_eq!(redis.client().ask("DEBUG POPULATE 5000 dumped 100"), b"+OK\r\n");
    let (file, port) = (proxy.file("taken.rdb"), proxy.port().to_string());
    let cli = || {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port]);
        command
    };
    let taken = cli().arg("--rdb").arg(&file).output().expect("redis-cli runs");
    assert!(taken.status.success(), "{taken:?}");
    let check = Command::new("redis-check-rdb").arg(&file).output().expect("redis-check-rdb runs");
    let verdict = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(verdict.contains("RDB looks OK") && verdict.contains("5000 keys read"), "{verdict}");
    let log = std::fs::File::create(proxy.file("heard")).expect("a file of the test");
    let mut listener = cli().arg("--replica").stdout(log).spawn().expect("redis-cli runs");
    until("it hears a write", || {
        assert_eq!(client.ask("SET heard now"), b"+OK\r\n");
        let heard = std::fs::read_to_string(proxy.file("heard")).unwrap_or_default();
        heard.contains("\"heard\",\"now\"")
    });
    listener.kill().and_then(|()| listener.wait()).expect("it can be ended");
}

#[test]
fn a_reader_that_does_not_read_costs_its_bound_and_nobody_else_waits() {
    const VALUES: usize = 64;
    let redis = primary();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut other = proxy.client();
    // What an RDB would compress would prove nothing.
    assert_eq!(redis.client().ask("CONFIG SET rdbcompression no"), b"+OK\r\n");
    let value: Vec<u8> = (0..MIB).map(|at| b'a' + (at % 23) as u8).collect();
    for number in 0..VALUES {
        let key = format!("large{number}");
        assert_eq!(other.call(&[&b"SET"[..], key.as_bytes(), &value]), b"+OK\r\n");
    }
    let base = proxy.resident_bytes();
    let mut slow = proxy.client();
    slow.send(b"SYNC\r\n");
    let (mut peak, mut served) = (0, 0);
    // Three seconds of not reading is what is tested; others are served meanwhile.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(other.ask("ECHO on"), bulk(b"on"));
        assert_eq!(other.ask("EXISTS large1"), b":1\r\n");
        served += 1;
        peak = peak.max(proxy.resident_bytes());
    }
    eprintln!("stream: {} KiB over at the peak; {served} turns of another", (peak - base) / 1024);
    assert!(peak <= base + SESSION_REPLY_BYTES + SLACK_BYTES, "{} MiB over", (peak - base) / MIB);
    assert!(peak >= base + MIB, "the proxy did read ahead, or this test tests nothing");
    // The payload is announced, and comes whole; writes follow it.
    assert_eq!(other.ask("SET behind the-dump"), b"+OK\r\n");
    let length = payload(&mut slow);
    assert!(length > VALUES * MIB, "{length}");
    let mut heard = Vec::new();
    until("what was written meanwhile comes behind", || {
        slow.sip(4096).expect("the stream goes on");
        heard.extend_from_slice(slow.unread());
        heard.windows(8).any(|window| window == b"the-dump")
    });
}

/// Reads to the end of the payload, at most two megabytes at a time, and returns its length.
fn payload(reader: &mut Client) -> usize {
    let mut head = Vec::new();
    loop {
        reader.sip(1).expect("the stream has a head");
        let byte = *reader.unread().last().expect("a byte came");
        match byte {
            b'\n' if head.starts_with(b"$") => break,
            // The primary says nothing else while it dumps.
            b'\n' => head.clear(),
            byte => head.push(byte),
        }
    }
    let text = String::from_utf8_lossy(&head[1..]).into_owned();
    let length: usize = text.trim().parse().expect("the head is a length");
    // What has been looked at is not needed again.
    let mut left = length;
    while left > 0 {
        left -= reader.discard(left.min(2 * MIB)).expect("the payload is whole");
    }
    length
}

#[test]
fn a_stream_ends_with_the_process_and_not_the_other_way_round() {
    let redis = primary();
    let mut proxy = Proxy::configured(&format!(
        "drain_timeout = \"1h\"\n[upstream]\nurl = \"{}\"\n",
        redis.url()
    ))
    .ready();
    let mut reader = proxy.client();
    reader.send(b"SYNC\r\n");
    payload(&mut reader);
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    proxy.terminate();
    assert!(proxy.exit_status().success());
    reader.rest();
    let mut direct = redis.client();
    until("the primary has none", || number(&mut direct, "replication", "connected_slaves") == 0);
}

#[test]
fn the_guard_denies_it_and_says_why() {
    let redis = primary();
    let proxy = Proxy::guarding(&redis.url(), "").ready();
    let mut client = proxy.client();
    for words in ["SYNC", "PSYNC ? -1", "REPLCONF capa eof"] {
        let told = client.text(words);
        assert!(told.contains("guard.replication") && told.contains("fork"), "{told}");
        assert_eq!(client.ask("SET still served"), b"+OK\r\n");
    }
    assert_eq!(number(&mut redis.client(), "stats", "sync_full"), 0);
    // An operator who means it may.
    let policy = "[[rule]]\nname = \"backup\"\ncommands = [\"SYNC\"]\naction = \"allow\"\n";
    let proxy = Proxy::guarding(&redis.url(), policy).ready();
    let mut reader = proxy.client();
    reader.send(b"SYNC\r\n");
    assert!(payload(&mut reader) > 0);
    // The rules hold for whoever reads the stream as well.
    reader.send(command(&["CONFIG", "SET", "maxmemory", "1mb"]));
    reader.rest();
    assert!(redis.client().text("CONFIG GET maxmemory").ends_with("$1\r\n0\r\n"));
}

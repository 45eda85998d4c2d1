//! INFO through Breakwater: the server's own text, a section more, and nobody who reads it is confused.
//!
//! Owns the proofs that every section is where Redis has it, in both protocol versions, and that the tools which
//! take INFO apart still do. What surprises: most values differ from one call to the next, so what is compared is
//! the names of sections and fields, and their order.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::{Client, Proxy, RedisServer, shown, until};

/// The text in the frame of an INFO, after a check that the frame is right.
fn text(frame: &[u8]) -> String {
    let frame = std::str::from_utf8(frame).expect("INFO is text");
    let (header, text) = frame.split_once("\r\n").unwrap();
    let (kind, length) = header.split_at(1);
    assert_eq!(length.parse(), Ok(text.len() - 2), "{header}");
    let text = text.strip_suffix("\r\n").unwrap();
    match kind {
        "$" => text,
        "=" => text.strip_prefix("txt:").unwrap(),
        _ => panic!("no string: {}", shown(frame.as_bytes())),
    }
    .to_owned()
}

/// Sections and fields in their order, and blank lines; without counters that come and go.
fn names(text: &str) -> Vec<String> {
    let lines = text.split("\r\n").map(|line| line.split(':').next().unwrap_or(line));
    lines.filter(|name| !name.starts_with("cmdstat_")).map(str::to_owned).collect()
}

fn clients(redis: &RedisServer, proxy: &Proxy) -> Vec<[Client; 2]> {
    let mut both = vec![[proxy.client(), redis.client()], [proxy.client(), redis.client()]];
    for client in &mut both[1] {
        assert!(client.ask("HELLO 3").starts_with(b"%"));
    }
    both
}

#[test]
fn every_section_is_the_servers_and_ours_comes_last_where_everything_is_asked_for() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    assert_eq!(redis.client().ask("SET k v"), b"+OK\r\n");
    for [mut ours, mut theirs] in clients(&redis, &proxy) {
        for words in [
            "INFO",
            "INFO default",
            "INFO ALL",
            "INFO everything",
            "INFO server breakwater",
            "INFO nosuch breakwater",
        ] {
            let (ours, theirs) = (ours.ask(words), theirs.ask(words));
            assert_eq!(ours[0], theirs[0], "{words}: the same type of reply");
            let (ours, theirs) = (text(&ours), text(&theirs));
            let (before, section) = ours.split_once("# Breakwater\r\n").expect(words);
            let before =
                if theirs.is_empty() { before } else { before.strip_suffix("\r\n").unwrap() };
            assert_eq!(names(before), names(&theirs), "{words}");
            assert!(section.lines().all(|line| line.starts_with("breakwater_")), "{section}");
            assert!(section.contains("breakwater_upstream_state:up\r\n"), "{section}");
        }
        for words in ["INFO server", "INFO clients memory", "INFO nosuch", "INFO keyspace"] {
            let (ours, theirs) = (ours.ask(words), theirs.ask(words));
            assert_eq!(names(&text(&ours)), names(&text(&theirs)), "{words}");
        }
    }
}

#[test]
fn asked_for_alone_the_section_needs_no_server() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let (mut client, mut client3) = (proxy.client(), proxy.client3());
    let section = text(&client.ask("INFO breakwater"));
    for field in ["version:", "uptime_in_seconds:", "clients:2\r\n", "upstream_state:up\r\n"] {
        assert!(section.contains(&format!("\r\nbreakwater_{field}")), "{field} {section}");
    }
    assert!(client3.ask("INFO Breakwater").starts_with(b"="));
    redis.kill();
    until("the proxy knows that the server is gone", || client.ask("GET k").starts_with(b"-ERR"));
    let section = text(&client.ask("INFO breakwater"));
    assert!(section.contains("\r\nbreakwater_upstream_state:down\r\n"), "{section}");
    assert!(section.contains("\r\nbreakwater_upstream_cause:refused\r\n"), "{section}");
    assert!(client.ask("INFO").starts_with(b"-ERR breakwater: not executed"));
}

#[test]
fn info_takes_its_turn_in_a_pipeline_and_is_silenced_like_any_other() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    client.send("INCR n\r\nINFO\r\nINCR n\r\nINFO breakwater\r\nINFO server\r\nINCR n\r\n");
    let frames = client.frames(6);
    let kinds: Vec<u8> = frames.iter().map(|frame| frame[0]).collect();
    assert_eq!(kinds, b":$:$$:");
    assert_eq!(frames[5], b":3\r\n");
    client.send("CLIENT REPLY SKIP\r\nINFO\r\nCLIENT REPLY SKIP\r\nINFO breakwater\r\nECHO on\r\n");
    assert_eq!(client.frame(), b"$2\r\non\r\n");
}

#[test]
fn redis_cli_reads_what_it_always_read() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    redis.client().ask("MSET a 1 b 2 c 3");
    let port = proxy.port().to_string();
    // It looks for its fields in the text of INFO, and goes on until it is killed.
    let mut stat = Command::new("redis-cli")
        .args(["-p", &port, "--stat", "-i", "0.01"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli can be started");
    let lines = BufReader::new(stat.stdout.take().unwrap()).lines();
    let rows: Vec<String> = lines.map_while(Result::ok).take(5).collect();
    stat.kill().unwrap();
    stat.wait().unwrap();
    // Two lines of headings; the first column of all others is the number of keys.
    assert_eq!(rows.iter().filter(|row| row.starts_with("3 ")).count(), 3, "{rows:?}");
}

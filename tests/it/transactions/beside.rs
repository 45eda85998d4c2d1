//! What a transaction does to others, and what it leaves behind.
//!
//! Owns the client that does everything to the connection that a block could do, beside a hundred who must notice
//! nothing (INV-2), and the clients that leave in the middle. Never counts on luck: the hundred work all the time.
//!
//! What surprises: a client that leaves after MULTI leaves a connection that is closed, not one that is cleaned.

use super::{nothing_is_left, pinned_connections};
use crate::support::crowd::Crowd;
use crate::support::pair::{pipeline, split};
use crate::support::{Client, Proxy, RedisServer, bulk, shown, until};

/// Blocks that change the connection they arrive on, shift its replies, or end it.
const OFFENSIVE: &[&str] = &[
    "MULTI|SELECT 1|SET crowd:1 wrong|EXEC",
    "MULTI|SELECT 1|SET crowd:1 wrong|EXEC|SET crowd:1 wrong",
    "MULTI|HELLO 3|GET none|EXEC|GET none",
    "MULTI|HELLO 2|GET none|EXEC|GET none",
    "MULTI|HELLO 3 FOO|GET none|EXEC|GET none",
    "MULTI|HELLO 3 SETNAME 'a b'|EXEC|GET none",
    "MULTI|HELLO 3 AUTH default secret|EXEC",
    "MULTI|AUTH secret|EXEC",
    "MULTI|AUTH nobody secret|GET none|EXEC",
    "MULTI|CLIENT TRACKING on|GET crowd:1|EXEC",
    "MULTI|CLIENT TRACKING on BCAST|GET crowd:1|EXEC",
    "MULTI|CLIENT REPLY OFF|GET none|EXEC",
    "MULTI|CLIENT REPLY SKIP|GET none|EXEC",
    "MULTI|CLIENT REPLY ON|GET none|EXEC",
    "MULTI|SUBSCRIBE a b|EXEC",
    "MULTI|PSUBSCRIBE a* b*|EXEC",
    "MULTI|SSUBSCRIBE a|EXEC",
    "MULTI|UNSUBSCRIBE|EXEC",
    "MULTI|MONITOR|EXEC",
    "MULTI|RESET|GET none|EXEC",
    "MULTI|SET mine 1|RESET|EXEC",
    "MULTI|QUIT|GET none|EXEC",
    "MULTI|GET none|QUIT",
    "MULTI|CLIENT SETNAME wrong|CLIENT NO-EVICT on|CLIENT GETNAME|EXEC",
    "MULTI|CLIENT KILL TYPE pubsub|EXEC",
    "MULTI|BLPOP none 0|XREAD BLOCK 0 STREAMS none $|WAIT 0 0|EXEC",
    "MULTI|EVAL 'return {1,2,3}' 0|EXEC",
    "MULTI|MULTI|WATCH a|EXEC|EXEC",
    "MULTI|NOSUCH|SET mine|EXEC",
    "MULTI|GET none|DISCARD|EXEC",
    "WATCH mine|MULTI|SET mine 1|EXEC",
    "WATCH mine|HELLO 3|SELECT 2|MULTI|GET none|EXEC",
    "CLIENT REPLY OFF|MULTI|GET none|EXEC",
    "CLIENT REPLY SKIP|MULTI|GET none|EXEC",
    "CLIENT TRACKING on|MULTI|GET crowd:1|EXEC|CLIENT TRACKING off",
    "HELLO 3|CLIENT TRACKING on BCAST|MULTI|SET crowd:none 1|EXEC",
    "MULTI",
    "WATCH mine",
    "WATCH mine|MULTI|SET mine 1",
    "MULTI|SELECT 3|HELLO 3|SET mine 1",
];

#[test]
fn a_hundred_neighbours_notice_nothing_of_what_one_client_does_in_a_block() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let crowd = Crowd::start(&proxy, 100);
    for round in 0..ROUNDS {
        for talk in OFFENSIVE {
            let mut client = if round % 2 == 0 { proxy.client() } else { proxy.client3() };
            offend(&mut client, talk, round);
            // One that has heard the end, one that leaves at once, and one that is cut off.
            match round % 3 {
                0 if !talk.contains("QUIT") => hear_the_end(&mut client, talk),
                1 => client.abort(),
                _ => drop(client),
            }
        }
        crowd.pass_round();
    }
    crowd.finish();
    nothing_is_left(&redis);
    assert_eq!(proxy.metric("breakwater_lanes_lost_total"), 0.0, "a connection was given up");
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
    assert_eq!(redis.client().ask("EXISTS crowd:none"), b":1\r\n", "the last blocks ran");
}

/// Sends a block in one write, or command by command, whatever is answered.
fn offend(client: &mut Client, talk: &str, round: usize) {
    if round % 4 < 2 {
        client.send(pipeline(talk));
        return;
    }
    for step in talk.split('|') {
        let bytes = crate::support::command(&split(step));
        if client.try_send(&bytes).is_err() {
            return;
        }
    }
}

/// Reads until a word comes back that only this client has said.
fn hear_the_end(client: &mut Client, talk: &str) {
    client.send(pipeline("CLIENT REPLY ON|DISCARD|ECHO the-end"));
    let end = bulk(b"the-end");
    loop {
        let frame = client.frame();
        if frame == end {
            return;
        }
        let text = String::from_utf8_lossy(&frame);
        let is_asked = talk.contains("GET crowd:1");
        assert!(is_asked || !text.contains("of-the-crowd"), "{talk}: another's: {text}");
    }
}

/// Rounds over all blocks: every way to send with every way to leave.
const ROUNDS: usize = 12;

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing_upstream() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    for talk in [
        "MULTI",
        "MULTI|SET left 1",
        "MULTI|SET left 1|SELECT 1|SET left 1",
        "MULTI|SET left 1|BLPOP q 0",
        "WATCH k",
        "WATCH k|MULTI",
        "WATCH k|GET k|MULTI|SET left 1",
        "WATCH k|UNWATCH|WATCH l",
        "MULTI|NOSUCH|SET left 1",
        "CLIENT TRACKING on|MULTI|SET left 1",
        "SELECT 2|HELLO 3|WATCH k|MULTI|SET left 1",
    ] {
        for way in 0..4 {
            let mut client = proxy.client();
            client.send(pipeline(talk));
            client.frames(talk.split('|').count());
            match way {
                0 => drop(client),
                1 => client.abort(),
                2 => client.finish_sending(),
                // In the middle of the next command: its length promises more than comes.
                _ => client.send(b"*2\r\n$4\r\nINCR\r\n$100\r\nleft"),
            }
        }
    }
    nothing_is_left(&redis);
    until("their connections are closed", || pinned_connections(&redis) == 0);
    let mut direct = redis.client();
    assert_eq!(direct.ask("EXISTS left k q"), b":0\r\n", "something ran for nobody");
    assert_eq!(direct.ask("INFO keyspace"), bulk(b"# Keyspace\r\n"));
}

#[test]
fn a_clean_transaction_leaves_a_connection_that_the_next_one_uses() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    // Neither version nor database nor identity of the one before may show.
    for round in 0..50 {
        let mut client = if round % 3 == 0 { proxy.client3() } else { proxy.client() };
        let db = round % 5;
        assert_eq!(client.ask(&format!("SELECT {db}")), b"+OK\r\n");
        for words in ["WATCH k", "MULTI"] {
            assert_eq!(client.ask(words), b"+OK\r\n");
        }
        assert_eq!(client.ask(&format!("SET k{round} {db}")), b"+QUEUED\r\n");
        assert_eq!(client.ask("GET none"), b"+QUEUED\r\n");
        let null = if round % 3 == 0 { "_" } else { "$-1" };
        assert_eq!(client.text("EXEC"), format!("*2\r\n+OK\r\n{null}\r\n"));
    }
    // One for each pair of version and database was enough for all of them.
    assert!(pinned_connections(&redis) <= 10, "{}", redis.client().text("CLIENT LIST"));
    assert!(proxy.metric("breakwater_pinned_opened_total") <= 10.0);
    let mut direct = redis.client();
    for db in 0..5 {
        direct.ask(&format!("SELECT {db}"));
        assert_eq!(direct.ask("DBSIZE"), b":10\r\n", "database {db}");
    }
}

#[test]
fn a_connection_whose_transaction_could_not_be_discarded_is_given_to_nobody() {
    let redis = RedisServer::start();
    let mut direct = redis.client();
    assert_eq!(direct.text("ACL SETUSER ann on >a ~* &* +@all -discard"), "+OK\r\n");
    let url = format!("redis://ann:a@127.0.0.1:{}", redis.port());
    let proxy = Proxy::before(&url).ready();
    for end in ["DISCARD", "NOSUCH|EXEC"] {
        let mut client = proxy.client();
        let talk = format!("MULTI|SET a 1|{end}");
        talk.split('|').for_each(|step| drop(client.ask(step)));
        drop(client);
        let mut next = proxy.client();
        assert_eq!(next.text("WATCH k"), "+OK\r\n", "after {talk}");
        assert_eq!(next.text("MULTI"), "+OK\r\n", "after {talk}");
        assert_eq!(next.text("GET k"), "+QUEUED\r\n", "after {talk}");
        assert_eq!(next.text("EXEC"), "*1\r\n$-1\r\n", "after {talk}");
    }
    assert_eq!(direct.ask("EXISTS a"), b":0\r\n");
}

#[test]
fn a_transaction_that_changes_its_connection_and_fails_leaves_no_wrong_version_to_the_next_client()
{
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    for talk in [
        "MULTI|HELLO 3 FOO|EXEC",
        "MULTI|HELLO 3 SETNAME|EXEC",
        "MULTI|HELLO 3 SETNAME 'a b'|EXEC",
        "MULTI|HELLO 3|HELLO 2 FOO|EXEC",
        "MULTI|SELECT 1|SELECT 99|EXEC",
        "MULTI|SELECT 1|HELLO 3 FOO|EXEC",
        "HELLO 3|MULTI|HELLO 2 FOO|EXEC",
        "MULTI|HELLO 3|NOSUCH|EXEC",
        "MULTI|HELLO 3|DISCARD",
        "WATCH k|MULTI|SET k 1|HELLO 3|EXEC now",
    ] {
        let mut client = proxy.client();
        talk.split('|').for_each(|step| drop(client.call(&split(step))));
        drop(client);
        for version in [2, 3] {
            let null = if version == 2 { "$-1" } else { "_" };
            let mut next = proxy.client();
            next.ask(&format!("HELLO {version}"));
            next.send(pipeline("WATCH k|SET here 1|MULTI|GET none|EXEC"));
            let frames = next.frames(5);
            assert_eq!(shown(&frames[4]), shown(format!("*1\r\n{null}\r\n").as_bytes()), "{talk}");
            assert_eq!(redis.client().ask("DEL here"), b":1\r\n", "{talk}: in another database");
        }
    }
}

#[test]
fn a_user_who_may_not_select_never_writes_into_another_database() {
    let redis = RedisServer::start();
    let mut direct = redis.client();
    assert_eq!(direct.text("ACL SETUSER ann on >a ~* &* +@all -select"), "+OK\r\n");
    let url = format!("redis://ann:a@127.0.0.1:{}", redis.port());
    let proxy = Proxy::before(&url).ready();
    // A connection that rests in database 0.
    let mut client = proxy.client();
    for words in ["WATCH k", "UNWATCH"] {
        assert_eq!(client.text(words), "+OK\r\n");
    }
    // Whether we know that it may not or find out later: nothing of what follows is for database 0.
    if client.ask("SELECT 1") != b"+OK\r\n" {
        return;
    }
    for words in ["WATCH k", "SET wrong 1", "MULTI", "SET wrong 2", "EXEC", "BLPOP none 0.01"] {
        client.ask(words);
    }
    assert_eq!(direct.ask("EXISTS wrong"), b":0\r\n");
}

#[test]
fn a_reader_of_a_large_reply_keeps_what_it_watches() {
    let redis = RedisServer::start();
    let proxy = Proxy::configured(&format!(
        "[upstream]\nurl = \"{}\"\n[memory]\nsession_reply_bytes = \"1MiB\"\n",
        redis.url()
    ))
    .ready();
    let value = vec![b'v'; 24 << 20];
    let mut direct = redis.client();
    assert_eq!(direct.call(&[&b"SET"[..], b"large", &value]), b"+OK\r\n");
    let mut client = proxy.client();
    assert_eq!(client.text("WATCH k"), "+OK\r\n");
    client.send(pipeline("GET large"));
    until("the reply waits for its reader", || {
        proxy.metric("breakwater_reply_buffered_bytes") > 0.0
    });
    assert!(client.frame().len() > value.len());
    assert_eq!(direct.text("SET k changed"), "+OK\r\n");
    assert_eq!(client.text("MULTI"), "+OK\r\n");
    assert_eq!(client.text("SET a 1"), "+QUEUED\r\n");
    let exec = client.text("EXEC");
    // The connection may be given up for it, but never silently.
    assert_eq!(exec, "*-1\r\n");
    assert_eq!(client.text("GET a"), "$-1\r\n");
}

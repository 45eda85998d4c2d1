//! Scripts: refused for what is in them, killed when they do not end, kept away after that.
//!
//! Owns the proof that a loop without end does not reach the server, that one which nobody can see beforehand is
//! ended by its own proxy and by nobody else, and that a script which cannot be killed is an alarm. The servers here
//! say BUSY after 500 ms. What surprises: who has sent a SCRIPT KILL, and how often, is asked of the server itself.

use super::runs;
use crate::support::{Client, Proxy, RedisServer, bulk, until};

/// A loop that ends never, and that no reading finds: its condition is computed.
const HIDDEN: &str = "local n = 0 while n < 1 do n = n * 1 end return n";
/// As it, behind a write.
const WRITES: &str = "redis.call('SET', KEYS[1], 1) local n = 0 while n < 1 do n = n * 1 end";

fn redis() -> RedisServer {
    RedisServer::start_with(&["--busy-reply-threshold", "500"])
}

fn call(client: &mut Client, words: &[&str]) -> String {
    String::from_utf8_lossy(&client.call(words)).into_owned()
}

/// A script that ends by itself after so many milliseconds.
fn lasting(milliseconds: u64) -> String {
    format!(
        "local t = redis.call('TIME') local e = t[1] * 1000000 + t[2] + {milliseconds}000 \
         repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] >= e return 'done'"
    )
}

#[test]
fn what_can_never_end_or_calls_what_is_denied_is_not_sent() {
    let redis = redis();
    let proxy = Proxy::guarding(&redis.url(), "").ready();
    let endless = "while true do end";
    let keys = "local x = 1\nreturn redis.call('KEYS', '*')";
    let library = "#!lua name=lib\nredis.register_function('f', function() while 1 do end end)";
    for mut client in [proxy.client(), proxy.client3()] {
        let refused = "-NOPERM breakwater: script refused: line 1: loop without end";
        for words in
            [&["EVAL", endless, "0"][..], &["EVAL_RO", endless, "0"], &["SCRIPT", "LOAD", endless]]
        {
            let told = call(&mut client, words);
            assert!(told.starts_with(refused), "{told}");
            assert!(told.ends_with("(rule guard.scripts)\r\n"), "{told}");
        }
        let told = call(&mut client, &["FUNCTION", "LOAD", "REPLACE", library]);
        assert!(told.starts_with("-NOPERM breakwater: script refused: line 2: loop"), "{told}");
        let told = call(&mut client, &["EVAL", keys, "0"]);
        let denied =
            "-NOPERM breakwater: script refused: line 2: 'keys' is denied by rule guard.keys";
        assert!(told.starts_with(denied), "{told}");
        assert_eq!(client.call(&["EVAL", "return 1", "0"]), b":1\r\n");
        // What does not compile is answered by the server, in its own words.
        assert!(
            call(&mut client, &["EVAL", "while true do", "0"]).starts_with("-ERR Error compiling")
        );
    }
    assert_eq!(runs(&redis, "keys"), 0);
    assert_eq!(proxy.metric_of("breakwater_scripts_refused_total", "endless"), 8.0);
}

#[test]
fn in_the_profile_observe_scripts_are_only_counted() {
    let redis = redis();
    let proxy = Proxy::start(&["--upstream", &redis.url(), "--profile", "observe"]).ready();
    let mut client = proxy.client();
    let keys = "return #redis.call('KEYS', '*')";
    assert_eq!(client.call(&["EVAL", keys, "0"]), b":0\r\n");
    let counted = |label| proxy.metric_of("breakwater_scripts_refused_total", label);
    assert_eq!(counted("denied\",enforced=\"no"), 1.0);
    assert_eq!(counted("enforced=\"yes"), 0.0);
}

#[test]
fn what_does_not_end_is_killed_once_by_its_own_proxy_and_then_kept_away() {
    let redis = redis();
    let proxies: Vec<Proxy> = (0..2).map(|_| Proxy::guarding(&redis.url(), "").ready()).collect();
    let mut other = proxies[1].client();
    for round in 1..=2 {
        let mut client = proxies[0].client();
        let told = call(&mut client, &["EVAL", HIDDEN, "0"]);
        assert!(told.contains("Script killed by user"), "{told}");
        until("others are served", || other.ask("SET a 1") == b"+OK\r\n");
        assert_eq!(runs(&redis, "script|kill"), round);
        // A moment later scripts are taken again.
        until("scripts are sent", || client.call(&["EVAL", "return 1", "0"]) == b":1\r\n");
    }
    let kills = |proxy: &Proxy, result| proxy.metric_of("breakwater_script_kills_total", result);
    assert_eq!(kills(&proxies[0], "killed"), 2.0);
    assert_eq!(kills(&proxies[1], "="), 0.0, "nobody else has tried");
    let mut client = proxies[0].client();
    let told = call(&mut client, &["EVAL", HIDDEN, "0"]);
    assert!(told.starts_with("-ERR breakwater: script quarantined: "), "{told}");
    assert!(told.contains("was killed 2 times within 10 min; mend it"), "{told}");
}

#[test]
fn a_function_is_killed_in_its_own_way() {
    let redis = redis();
    let proxy = Proxy::guarding(&redis.url(), "").ready();
    let library = format!("#!lua name=lib\nredis.register_function('f', function() {HIDDEN} end)");
    let mut client = proxy.client();
    assert_eq!(client.call(&["FUNCTION", "LOAD", &library]), bulk(b"lib"));
    let told = call(&mut client, &["FCALL", "f", "0"]);
    assert!(told.contains("killed"), "{told}");
    assert_eq!((runs(&redis, "function|kill"), runs(&redis, "script|kill")), (1, 0));
    assert!(runs(&redis, "function|stats") > 0, "it was looked at before");
}

#[test]
fn a_script_of_somebody_else_is_not_ours_to_kill() {
    let redis = redis();
    let proxy = Proxy::guarding(&redis.url(), "").ready();
    let mut client = proxy.client();
    // Ours ends by itself when it is about to be killed; the other one starts behind it and takes longer still.
    for length in [700, 900, 1_100] {
        let told = client.call(&["EVAL", &lasting(length), "0"]);
        let mut stranger = redis.client();
        let theirs = stranger.call(&["EVAL", &lasting(1_500), "0"]);
        assert_eq!(theirs, bulk(b"done"), "after {}", String::from_utf8_lossy(&told));
        until("the node serves", || client.ask("SET a 1") == b"+OK\r\n");
    }
    assert!(runs(&redis, "script|kill") <= 1, "only the longest one may have been killed");
}

/// A proxy that lets one script be in flight, and others wait for so long.
fn one_at_a_time(redis: &RedisServer, wait: &str) -> Proxy {
    Proxy::launch_by_file("", |_| {
        format!(
            "[upstream]\nurl = \"{}\"\n[scripts]\nin_flight_max = 1\nin_flight_wait = \"{wait}\"\n",
            redis.url()
        )
    })
    .ready()
}

#[test]
fn a_script_that_would_be_one_too_many_is_refused_and_others_are_served() {
    let redis = RedisServer::start();
    let proxy = one_at_a_time(&redis, "0s");
    let (mut slow, mut other) = (proxy.client(), proxy.client());
    slow.send(crate::support::command(&["EVAL", &lasting(2_000), "0"]));
    until("the second one is refused", || {
        let told = call(&mut other, &["EVAL", "return 1", "0"]);
        told.starts_with(
            "-ERR breakwater: not executed: waited 0.0 s while 1 scripts were in flight at ",
        )
    });
    assert_eq!(other.ask("ECHO b"), bulk(b"b"), "its connection is as it was");
    // Its client leaves, and it counts all the same until the server has answered.
    drop(slow);
    until("it has ended", || other.call(&["EVAL", "return 1", "0"]) == b":1\r\n");
    assert!(proxy.metric_of("breakwater_scripts_refused_total", "crowded\",enforced=\"yes") >= 1.0);
    assert_eq!(proxy.metric("breakwater_scripts_delayed_total"), 0.0);
}

#[test]
fn scripts_that_may_wait_are_all_run_one_after_the_other() {
    let redis = RedisServer::start();
    let proxy = one_at_a_time(&redis, "60s");
    let clients: Vec<_> = (0..8).map(|_| proxy.client()).collect();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let told =
                        client.call(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", "n"]);
                    assert!(told.starts_with(b":"), "{}", String::from_utf8_lossy(&told));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(redis.client().ask("GET n"), bulk(b"400"));
    assert_eq!(
        proxy.metric_of("breakwater_scripts_refused_total", "crowded\",enforced=\"yes"),
        0.0
    );
}

#[test]
fn what_has_written_cannot_be_killed_and_is_an_alarm() {
    let mut redis = redis();
    let proxy = Proxy::guarding(&redis.url(), "").ready();
    let mut client = proxy.client();
    client.ask("CLIENT SETNAME nightly");
    client.send(crate::support::command(&["EVAL", WRITES, "1", "k"]));
    let mut other = proxy.client();
    until("the alarm is raised", || proxy.http("/findings").1.contains("script_unkillable"));
    let findings = proxy.http("/findings").1;
    assert!(findings.contains("nightly"), "the caller is named: {findings}");
    until("commands fail at once, with the cause", || {
        let told = other.text("GET a");
        told.starts_with("-ERR breakwater: not executed: ") && told.contains("(unkillable)")
    });
    assert_eq!(proxy.metric_of("breakwater_node_state", "state=\"unkillable\""), 2.0);
    redis.kill();
}

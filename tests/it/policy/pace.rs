//! Paces before a real server: who is refused, who waits, and who is not concerned.
//!
//! Owns the proof that never more passes than the rate and one second's worth, by the server's own count. What
//! surprises: nothing here says that something is fast enough. A slow machine lets fewer commands pass, never more.

use std::time::{Duration, Instant};

use super::runs;
use crate::support::{Proxy, RedisServer, line};

fn pace(more: &str) -> String {
    format!("[[rule]]\nname = \"slow-down\"\ncommands = [\"GET\"]\naction = \"pace\"\n{more}\n")
}

#[test]
fn whoever_is_too_fast_is_refused_and_others_are_not_concerned() {
    let redis = RedisServer::start();
    let proxy = Proxy::guarding(&redis.url(), &pace("commands_per_second = 50")).ready();
    let mut clients = [proxy.client(), proxy.client3()];
    let begun = Instant::now();
    let (mut passed, mut refused) = (0, 0);
    while begun.elapsed() < Duration::from_secs(2) {
        for client in &mut clients {
            client.send([line("GET a"), line("PING")].concat());
            let answer = String::from_utf8_lossy(&client.frame()).into_owned();
            assert_eq!(client.frame(), b"+PONG\r\n");
            let told = "-ERR breakwater: 'get' refused: rule slow-down allows 50 commands/s \
                        (policy 1); slow down\r\n";
            match answer.starts_with('-') {
                true => assert_eq!(answer, told),
                false => passed += 1,
            }
            refused += u64::from(answer.starts_with('-'));
        }
    }
    let most = 50.0 * begun.elapsed().as_secs_f64() + 50.0;
    assert!(f64::from(passed) <= most + 1.0, "{passed} of {most}");
    assert!(passed >= 50, "a second's worth may come at once: {passed}");
    assert_eq!(runs(&redis, "get"), u64::try_from(passed).unwrap());
    assert_eq!(proxy.metric_of("breakwater_paced_total", "refused"), refused as f64);
}

#[test]
fn whoever_may_wait_gets_all_answers_in_order_and_not_before_their_time() {
    let redis = RedisServer::start();
    let policy = pace("commands_per_second = 20\nwait = \"20s\"");
    let proxy = Proxy::guarding(&redis.url(), &policy).ready();
    let mut client = proxy.client();
    client.ask("SET a 1");
    let begun = Instant::now();
    client.send([line("GET a").repeat(40), line("SET a 2"), line("GET a")].concat());
    let answers = client.frames(42);
    let took = begun.elapsed();
    assert!(answers[..40].iter().all(|answer| answer == b"$1\r\n1\r\n"));
    assert_eq!(answers[40..], [b"+OK\r\n".to_vec(), b"$1\r\n2\r\n".to_vec()]);
    // 21 more than come at once.
    assert!(took >= Duration::from_millis(1_040), "{took:?}");
    assert_eq!(proxy.metric_of("breakwater_paced_total", "delayed"), 21.0);
}

#[test]
fn what_waits_for_its_turn_is_not_executed_for_somebody_who_has_gone() {
    let redis = RedisServer::start();
    let policy = pace("commands_per_second = 1\nwait = \"10s\"");
    let proxy = Proxy::guarding(&redis.url(), &policy).ready();
    let mut client = proxy.client();
    client.send([line("GET a").repeat(2), line("SET behind 1")].concat());
    client.frame();
    client.abort();
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(runs(&redis, "get"), 1);
    assert_eq!(redis.client().ask("EXISTS behind"), b":0\r\n");
}

#[test]
fn each_client_has_its_own_pace_if_the_rule_says_so() {
    let redis = RedisServer::start();
    let policy = pace("commands_per_second = 1\nper = \"client\"");
    let proxy = Proxy::guarding(&redis.url(), &policy).ready();
    let mut clients: Vec<_> = (0..5).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(line("GET a").repeat(20));
    }
    for client in &mut clients {
        let answers = client.frames(20);
        assert_eq!(answers[0], b"$-1\r\n");
        assert!(answers.iter().any(|answer| answer.starts_with(b"-ERR breakwater: ")));
    }
}

#[test]
fn bytes_of_replies_are_paid_by_those_who_come_next() {
    let redis = RedisServer::start();
    let policy = pace("bytes_per_second = \"1KiB\"");
    let proxy = Proxy::guarding(&redis.url(), &policy).ready();
    let mut client = proxy.client();
    client.call(&["SET", "big", &"x".repeat(100_000)]);
    assert_eq!(client.ask("GET big").len(), 100_000 + "$100000\r\n\r\n".len());
    let told = client.text("GET big");
    assert!(told.contains("rule slow-down allows 1024 bytes/s"), "{told}");
    // A minute and a half is owed; other commands pay nothing.
    assert_eq!(client.ask("STRLEN big"), b":100000\r\n");
}

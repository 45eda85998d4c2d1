//! A node that is stopped, cut off or dead.
//!
//! Owns the bounds: how soon it is known, how often it is dialled, that nothing runs for nobody.
//! What surprises: connections are counted where they arrive, at a listener that counts them.

use std::time::{Duration, Instant};

use super::{SOON, state_of, timed, until_refused, until_state};
use crate::support::relay::{Relay, Way};
use crate::support::{Client, Proxy, RedisServer, bulk, eventually, line, until};

#[test]
fn a_stopped_server_costs_one_deadline_and_nobody_else_waits() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET n 1"), b"+OK\r\n");
    redis.pause();
    let mut waits = proxy.client();
    waits.send(line("INCR n"));
    until_state(&proxy, "stalled");
    drop(until_refused(&proxy, "does not answer (stalled)"));
    until("/readyz says so", || {
        let (status, body) = proxy.http("/readyz");
        status == 503 && body.contains("does not answer (stalled)")
    });
    let lost = proxy.metric("breakwater_lanes_lost_total");
    redis.resume();
    // What was sent before is answered, on the connection that it was sent on.
    assert_eq!(waits.frame(), b":2\r\n");
    until_state(&proxy, "up");
    until("it serves", || client.ask("GET n") == bulk(b"2"));
    assert_eq!(proxy.metric("breakwater_lanes_lost_total"), lost, "nothing was closed");
    assert_eq!(redis.client().ask("EXISTS k"), b":0\r\n", "what was refused has not run");
}

#[test]
fn a_link_that_swallows_everything_is_found_in_a_second_and_a_half() {
    let redis = RedisServer::start();
    let relay = Relay::before(redis.port());
    let proxy = Proxy::before(&format!("redis://127.0.0.1:{}", relay.port())).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    let began = Instant::now();
    relay.blackhole(Way::There);
    until_state(&proxy, "stalled");
    // 1.4 s, and what a busy machine adds. Without this it would be the five seconds of a deadline.
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1400) + SOON, "{took:?}");
    assert!(took > Duration::from_millis(900), "a second of silence is not over: {took:?}");
    drop(until_refused(&proxy, "(stalled)"));
    relay.mend();
    eventually("it serves again", || (client.ask("GET k") == bulk(b"v")).then_some(()));
    until_state(&proxy, "up");
}

#[test]
fn a_dead_server_is_dialled_twice_a_second_by_the_whole_process() {
    let redis = RedisServer::start();
    let relay = Relay::before(redis.port());
    let url = format!("redis://127.0.0.1:{}", relay.port());
    let proxy = Proxy::start(&["--upstream", &url, "--workers", "4"]).ready();
    let mut clients: Vec<Client> = (0..16).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    }
    relay.refuse();
    until_state(&proxy, "down");
    let (began, before) = (Instant::now(), relay.accepted());
    let mut refused = 0;
    while began.elapsed() < Duration::from_secs(5) {
        for client in &mut clients {
            let (reply, took) = timed(client, "INCR n");
            assert!(reply.starts_with("-ERR breakwater: not executed: "), "{reply}");
            assert!(took < SOON, "{took:?}");
            refused += 1;
        }
    }
    let (dials, seconds) = (relay.accepted() - before, began.elapsed().as_secs_f64());
    assert!(dials as f64 <= 2.0 * (seconds + 1.0), "{dials} dials in {seconds} s");
    assert!(dials >= 1, "it is tried");
    assert!(refused > 1000, "{refused} commands were refused");
    relay.mend();
    eventually("it serves again", || (clients[0].ask("GET k") == bulk(b"v")).then_some(()));
    assert_eq!(redis.client().ask("EXISTS n"), b":0\r\n", "what was refused has not run");
}

#[test]
fn a_killed_server_is_down_at_once_with_the_cause_and_the_repair_in_the_log() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    assert_eq!(proxy.client().ask("SET k v"), b"+OK\r\n");
    redis.kill();
    drop(until_refused(&proxy, "is down (refused)"));
    until_state(&proxy, "down");
    let (status, body) = proxy.http("/readyz");
    assert!(status == 503 && body.contains("start the server there"), "{body}");
    until("the log says so", || proxy.log().contains("upstream is down (refused): start the"));
    assert_eq!(proxy.metric_of("breakwater_node_state", "node=\"all\",state=\"down\""), 1.0);
    assert!(proxy.metric("breakwater_breaker_opens_total") >= 1.0);
    redis.restart();
    until_state(&proxy, "up");
    until("the log says that it is over", || proxy.log().contains("upstream is up again"));
}

#[test]
fn a_server_that_bounces_sees_two_dials_a_second_of_each_proxy() {
    const PROXIES: usize = 6;
    let redis = RedisServer::start();
    let relay = Relay::before(redis.port());
    let url = format!("redis://127.0.0.1:{}", relay.port());
    let proxies: Vec<Proxy> = (0..PROXIES).map(|_| Proxy::before(&url).ready()).collect();
    let mut clients: Vec<Client> = proxies.iter().map(Proxy::client).collect();
    for bounce in 0..10 {
        for client in &mut clients {
            eventually("it serves", || (client.ask("SET k v") == b"+OK\r\n").then_some(()));
        }
        // Long enough to count as recovered: a relapse would be dialled ever more rarely.
        let served = Instant::now();
        while served.elapsed() < Duration::from_millis(1100) {
            for client in &mut clients {
                assert_eq!(client.ask("GET k"), bulk(b"v"));
            }
        }
        let (began, before) = (Instant::now(), relay.accepted());
        relay.refuse();
        while began.elapsed() < Duration::from_millis(600) {
            for client in &mut clients {
                client.text("GET k");
            }
        }
        let (dials, seconds) = (relay.accepted() - before, began.elapsed().as_secs_f64());
        // In any second two of each; one more second for where the first one begins.
        let most = 2.0 * PROXIES as f64 * (seconds + 1.0);
        assert!(dials as f64 <= most, "bounce {bounce}: {dials} dials in {seconds} s");
        relay.mend();
    }
    for proxy in &proxies {
        until("every one of them is back", || state_of(proxy) == "up");
    }
}

#[test]
fn a_wrong_password_is_an_alarm_and_no_dead_node() {
    let redis = RedisServer::start_with(&["--requirepass", "right"]);
    let url = format!("redis://:wrong@127.0.0.1:{}", redis.port());
    let proxy = Proxy::listening(|port, _| {
        let listener =
            format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\nauth = \"upstream\"\n");
        format!("[upstream]\nurl = \"{url}\"\n{listener}")
    });
    until_state(&proxy, "config_error");
    let reply = eventually("a command is refused", || {
        let reply = proxy.client().text("GET k");
        reply.contains("refuses our user or password (auth)").then_some(reply)
    });
    assert!(reply.starts_with("-ERR breakwater: not executed: upstream "), "{reply}");
    let body = proxy.http("/readyz").1;
    assert!(body.contains("WRONGPASS") && body.contains("check user and password"), "{body}");
    assert_eq!(proxy.metric_of("breakwater_node_state", "node=\"all\",state=\"down\""), 0.0);
}

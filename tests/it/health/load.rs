//! A node that loads its data set.
//!
//! Owns the proof that LOADING is not death: no dials, no wrong words, no delay at the end.
//! What surprises: loading is made slow by `key-load-delay`, and the server only listens meanwhile
//! if it is told to look up often.

use std::time::Instant;

use super::{SOON, state_of, until_refused, until_state};
use crate::support::{Proxy, RedisServer, bulk, eventually, until};

#[test]
fn a_server_that_loads_is_waited_for_and_used_as_soon_as_it_is_done() {
    // Forty thousand keys at 100 µs: four seconds, and more on a busy machine.
    let slow = ["--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024"];
    let mut redis = RedisServer::start_with(&slow);
    let mut direct = redis.client();
    assert_eq!(direct.ask("SET k v"), b"+OK\r\n");
    assert_eq!(direct.ask("DEBUG POPULATE 40000 key 10"), b"+OK\r\n");
    assert_eq!(direct.ask("SAVE"), b"+OK\r\n");
    let proxy = Proxy::before(&redis.url()).ready();
    redis.kill();
    drop(until_refused(&proxy, "is down (refused)"));
    redis.restart_loading(&["--key-load-delay", "100"]);
    until_state(&proxy, "loading");
    let dials = proxy.metric("breakwater_dials_total");
    let began = Instant::now();
    let mut client = until_refused(&proxy, "is loading its data (loading");
    until("/readyz says so", || {
        let (status, body) = proxy.http("/readyz");
        status == 503 && body.contains("is loading its data")
    });
    until("it is done", || {
        let reply = client.text("GET k");
        assert!(!reply.contains("is down") && !reply.starts_with("-LOADING"), "{reply}");
        let mut direct = redis.socket_client();
        !direct.text("PING").starts_with("-LOADING")
    });
    let (loaded, seconds) = (Instant::now(), began.elapsed().as_secs_f64());
    eventually("it serves", || (client.ask("GET k") == bulk(b"v")).then_some(()));
    assert!(loaded.elapsed() < SOON, "{:?} after the end of loading", loaded.elapsed());
    let dials = proxy.metric("breakwater_dials_total") - dials;
    assert!(dials <= 2.0 * (seconds + 2.0), "{dials} dials in {seconds} s");
    until("the state is up", || state_of(&proxy) == "up");
}

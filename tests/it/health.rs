//! What applications see of a Redis that is sick, and what Redis sees of us meanwhile.
//!
//! Owns the proof, with a real server, of the states of a node: stopped, cut off, killed, loading,
//! read-only, locked. Never measures speed; where something must come soon it is compared with what
//! it would take if it did not work at all, which is a deadline of some seconds.
//!
//! What surprises: a stopped process still accepts connections and bytes, in its kernel. That is
//! why nothing but silence shows it.

mod away;
mod load;
mod partly;

use std::time::{Duration, Instant};

use crate::support::{Client, Proxy, until};

/// Waits until the node that stands behind the proxy is in that state.
fn until_state(proxy: &Proxy, state: &str) {
    until(&format!("the node is {state}"), || state_of(proxy) == state);
}

/// The state of the first node on `/topology`.
fn state_of(proxy: &Proxy) -> String {
    let page = proxy.http("/topology").1;
    let row = page.lines().find_map(|line| line.strip_prefix("state "));
    row.and_then(|row| row.split(' ').nth(1)).unwrap_or_default().to_owned()
}

/// What a command is answered, and how long that took.
fn timed(client: &mut Client, words: &str) -> (String, Duration) {
    let began = Instant::now();
    let reply = client.text(words);
    (reply, began.elapsed())
}

/// Waits until a command is refused with `words`, and checks that the next one is refused without
/// delay: far below the deadline of five seconds that it would wait for otherwise.
fn until_refused(proxy: &Proxy, words: &str) -> Client {
    let mut client = proxy.client();
    until(&format!("commands are refused with '{words}'"), || client.text("GET k").contains(words));
    let (reply, took) = timed(&mut client, "SET k v");
    assert!(reply.starts_with("-ERR breakwater: not executed: upstream "), "{reply}");
    assert!(reply.contains(words) && reply.contains(", next try in "), "{reply}");
    assert!(took < SOON, "{took:?}");
    client
}

/// Far less than a deadline, far more than a busy machine needs for a refusal.
const SOON: Duration = Duration::from_secs(2);

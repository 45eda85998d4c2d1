//! Another primary: by death and by order, found, followed, and the old one left alone.
//!
//! Owns the proofs that nothing is doubled and nothing reaches a deposed primary. Never says how fast: that is
//! printed.
//!
//! What surprises: a primary that was killed and comes back takes itself for a master, until a Sentinel tells it
//! otherwise ten seconds later. In that time only we keep writes away from it.

use std::time::Instant;

use super::before;
use crate::support::sentinel::SentinelGroup;
use crate::support::{Client, Proxy, RedisServer, line, until};

#[test]
fn one_sentinel_is_enough_to_find_the_others_and_the_primary() {
    let group = SentinelGroup::start();
    let proxy = before(&group.url_of(&[1]));
    assert_eq!(proxy.client().text("SET k 1"), "+OK\r\n");
    assert_eq!(group.nodes[0].client().text("GET k"), "$1\r\n1\r\n");
    until("all three are watched", || {
        let page = proxy.http("/topology").1;
        let answers = page.matches(&format!("names 127.0.0.1:{}", group.nodes[0].port())).count();
        page.contains("3 of 3 Sentinels answer") && answers == 3
    });
}

#[test]
fn a_killed_primary_is_replaced_and_never_written_to_again() {
    let mut group = SentinelGroup::start();
    let proxy = before(&group.url());
    let mut counter = Counter::before(&proxy);
    counter.count(50);
    let killed = Instant::now();
    group.nodes[0].kill();
    until("somebody is promoted", || is_master(&group.nodes[1]));
    let promoted = Instant::now();
    until("increments are acknowledged again", || counter.increment());
    eprintln!(
        "promoted {:.1?} after the kill, served {:.0?} later",
        promoted - killed,
        promoted.elapsed()
    );
    // It comes back as a master, and stays one until it is told; its clients must not.
    group.nodes[0].restart();
    counter.count(200);
    let deposed = group.nodes[0].client().text("INFO commandstats");
    assert!(!deposed.contains("cmdstat_incr:"), "a write went to the deposed primary: {deposed}");
    counter.balance(&mut group.nodes[1].client());
    assert_eq!(proxy.metric("breakwater_primary_changes_total"), 1.0);
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
}

#[test]
fn a_failover_by_order_is_followed() {
    let group = SentinelGroup::start();
    let proxy = before(&group.url());
    let mut counter = Counter::before(&proxy);
    counter.count(50);
    assert_eq!(group.sentinels[0].text("SENTINEL FAILOVER mymaster"), "+OK\r\n");
    let name = format!("keyless commands to 127.0.0.1:{}\n", group.nodes[1].port());
    until("the new primary is published", || proxy.http("/topology").1.contains(&name));
    until("increments are acknowledged again", || counter.increment());
    counter.count(50);
    // Both had them: what the old one acknowledged before it stepped back was replicated, or is lost by Redis itself.
    let value = group.nodes[1].client().text("GET counter");
    let value: u64 = value.split("\r\n").nth(1).and_then(|it| it.parse().ok()).expect(&value);
    assert!(value <= counter.acknowledged + counter.unknown, "{value}: something ran twice");
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
}

/// A client that increments one key and keeps book.
struct Counter {
    client: Client,
    acknowledged: u64,
    /// Told that the outcome is not known.
    unknown: u64,
}

// === impl Counter ===

impl Counter {
    fn before(proxy: &Proxy) -> Self {
        Self { client: proxy.client(), acknowledged: 0, unknown: 0 }
    }

    /// Whether one more was acknowledged.
    fn increment(&mut self) -> bool {
        let reply = self.client.text("INCR counter");
        if reply.starts_with(':') {
            self.acknowledged += 1;
            return true;
        }
        assert!(reply.starts_with("-ERR breakwater: "), "{reply}");
        if reply.contains("outcome unknown") {
            self.unknown += 1;
        }
        false
    }

    fn count(&mut self, times: u64) {
        for _ in 0..times {
            until("an increment is acknowledged", || self.increment());
        }
    }

    /// What the server has is what was acknowledged, and some of what nobody knows.
    fn balance(&self, server: &mut Client) {
        let reply = server.text("GET counter");
        let value: u64 = reply.split("\r\n").nth(1).and_then(|it| it.parse().ok()).expect(&reply);
        let most = self.acknowledged + self.unknown;
        assert!(value <= most, "{value} of at most {most}: something ran twice");
    }
}

/// Whether a server says that it is a master. One that is turned around closes its connections.
pub(super) fn is_master(server: &RedisServer) -> bool {
    let ask = || {
        let mut client = Client::try_connect(("127.0.0.1", server.port()))?;
        client.try_send(&line("ROLE"))?;
        client.try_frame()
    };
    ask().is_ok_and(|role: Vec<u8>| role.starts_with(b"*3\r\n$6\r\nmaster"))
}

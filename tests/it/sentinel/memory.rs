//! Sentinels that have forgotten: what has been verified stays in use, and they are reminded.
//!
//! Owns the group that was started again from its first file after a failover. Never repairs it by other means than
//! the commands that Breakwater prints.
//!
//! What surprises: such Sentinels do no harm for as long as nobody listens to them. The old primary, started again as
//! what it was, takes itself for a master, they agree, and a client library would follow.

use std::time::Instant;

use super::before;
use super::failover::is_master;
use super::truth::{has, repairs, run};
use crate::support::sentinel::SentinelGroup;
use crate::support::{RedisServer, until};

#[test]
fn sentinels_that_have_forgotten_a_failover_do_not_move_us() {
    let mut group = SentinelGroup::start();
    let proxy = before(&group.url());
    let mut client = proxy.client();
    assert_eq!(client.text("SET before 1"), "+OK\r\n");
    assert_eq!(group.sentinels[0].text("SENTINEL FAILOVER mymaster"), "+OK\r\n");
    until("the new primary is in use", || proxy.metric("breakwater_primary_changes_total") == 1.0);
    until("it serves", || client.text("SET after 1") == "+OK\r\n");
    assert_eq!(group.nodes[1].client().text("GET after"), "$1\r\n1\r\n");
    for sentinel in &mut group.sentinels {
        sentinel.restart_from_first_file();
    }
    // As its supervisor would: with the file in which it is a primary.
    group.nodes[0].restart();
    assert!(is_master(&group.nodes[0]));
    let forgot = Instant::now();
    until("that they forgot is found", || has(&proxy, "sentinel_forgot", "critical"));
    eprintln!("found {:.1?} after they forgot", forgot.elapsed());
    until("the other master is found", || has(&proxy, "sentinel_two_masters", "critical"));
    for number in 0..100 {
        assert_eq!(client.text(&format!("SET k{number} v")), "+OK\r\n");
    }
    assert_eq!(group.nodes[0].client().text("DBSIZE"), ":0\r\n", "a write went to the old one");
    assert_eq!(group.nodes[1].client().text("GET k99"), "$1\r\nv\r\n");
    let reminders = repairs(&proxy, "SENTINEL MONITOR mymaster");
    assert_eq!(reminders.len(), 3, "a line for each Sentinel: {reminders:?}");
    reminders.iter().chain(&repairs(&proxy, "REPLICAOF")).for_each(|words| run(words));
    until("they know again", || {
        !has(&proxy, "sentinel_forgot", "critical")
            && !has(&proxy, "sentinel_two_masters", "critical")
    });
    until("the old one is a replica", || !is_master(&group.nodes[0]));
    assert_eq!(client.text("GET before"), "$1\r\n1\r\n");
    assert_eq!(proxy.metric("breakwater_primary_changes_total"), 1.0);
}

#[test]
fn nobody_is_dialled_whom_one_sentinel_names_against_the_others() {
    let group = SentinelGroup::start();
    let decoy = RedisServer::start();
    let proxy = before(&group.url());
    let astray = &group.sentinels[2];
    assert_eq!(astray.text("SENTINEL REMOVE mymaster"), "+OK\r\n");
    let monitor = format!("SENTINEL MONITOR mymaster 127.0.0.1 {} 2", decoy.port());
    assert_eq!(astray.text(&monitor), "+OK\r\n");
    until("it is found", || has(&proxy, "sentinel_disagree_master", "critical"));
    // Who starts with the three of them is not led astray either.
    let newcomer = before(&group.url());
    for proxy in [&proxy, &newcomer] {
        assert_eq!(proxy.client().text("SET k v"), "+OK\r\n");
    }
    let clients = decoy.client().text("CLIENT LIST");
    assert!(!clients.contains("breakwater"), "the decoy was dialled: {clients}");
    let commands = decoy.client().text("INFO commandstats");
    assert!(!commands.contains("cmdstat_role"), "the decoy was asked: {commands}");
}

#[test]
fn without_sentinels_the_verified_primary_serves_and_it_is_said() {
    let mut group = SentinelGroup::start();
    let proxy = before(&group.url());
    let mut client = proxy.client();
    group.sentinels.iter_mut().for_each(|sentinel| sentinel.kill());
    until("it is found", || has(&proxy, "sentinel_none_reachable", "critical"));
    assert_eq!(client.text("SET k v"), "+OK\r\n");
    assert_eq!(proxy.http("/readyz").0, 200);
    // The connection to it is made anew without them, too.
    group.nodes[0].restart();
    until("it serves again", || client.text("SET k v") == "+OK\r\n");
    group.sentinels.iter_mut().for_each(|sentinel| sentinel.restart_from_first_file());
    until("they are found again", || !has(&proxy, "sentinel_none_reachable", "critical"));
}

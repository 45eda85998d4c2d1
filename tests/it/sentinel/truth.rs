//! What is wrong with a group is said before it matters, with the commands that repair it.
//!
//! Owns the incident that this is for: a quorum of all Sentinels, of which one is away. Never waits for a clock; what
//! has to be said within thirty seconds is printed with the time that it took.
//!
//! What surprises: the repair is tested by doing it, word for word, and the finding is gone.

use std::process::Command;
use std::time::Instant;

use super::before;
use crate::support::sentinel::{GroupShape, SentinelGroup};
use crate::support::{Proxy, RedisServer, until};

#[test]
fn a_quorum_of_all_sentinels_is_found_with_one_away_and_its_repair_repairs() {
    let mut group = SentinelGroup::start_as(&GroupShape { quorum: 3, ..GroupShape::default() });
    group.sentinels[2].kill();
    let proxy = before(&group.url());
    let started = Instant::now();
    until("the quorum is found", || has(&proxy, "sentinel_quorum_all", "critical"));
    until("so is that none can be reached", || has(&proxy, "sentinel_no_quorum", "critical"));
    until("and who is away", || has(&proxy, "sentinel_unreachable", "warning"));
    eprintln!("found {:.1?} after the start", started.elapsed());
    until("it is in the log", || proxy.log().contains("any one Sentinel failure blocks failover"));
    let lines = repairs(&proxy, "SENTINEL SET mymaster quorum 2");
    assert_eq!(lines.len(), 3, "a line for each Sentinel: {lines:?}");
    assert!(proxy.http("/topology").1.contains("sentinel_quorum_all"));
    // Nobody can be promoted now, so nobody waits.
    group.nodes[0].kill();
    let mut client = proxy.client();
    until("commands fail with a reason", || {
        client.text("SET k v").starts_with("-ERR breakwater: not executed")
    });
    until("readiness says what to do", || {
        let (status, words) = proxy.http("/readyz");
        status == 503 && words.contains("SENTINEL FAILOVER mymaster")
    });
    group.nodes[0].restart();
    until("commands are served again", || client.text("SET k v") == "+OK\r\n");
    for words in &lines {
        // The one that is away cannot be told.
        run(words);
    }
    until("the quorum is no finding any more", || {
        !has(&proxy, "sentinel_quorum_all", "critical")
            && !has(&proxy, "sentinel_no_quorum", "critical")
    });
}

#[test]
fn two_sentinels_and_two_unguarded_replicas_are_worth_a_word() {
    let shape = GroupShape { sentinels: 2, replicas: 2, ..GroupShape::default() };
    let group = SentinelGroup::start_as(&shape);
    let proxy = before(&group.url());
    until("too few", || has(&proxy, "sentinel_too_few", "warning"));
    until("unguarded", || has(&proxy, "config_min_replicas", "warning"));
}

#[test]
fn what_was_said_of_a_group_goes_when_another_deployment_takes_its_place() {
    let group = SentinelGroup::start_as(&GroupShape { sentinels: 2, ..GroupShape::default() });
    let single = RedisServer::start();
    let proxy = before(&group.url());
    until("something is said of the group", || has(&proxy, "sentinel_too_few", "warning"));
    until("its Sentinels are counted", || sentinels(&proxy) == 2.0);
    let (status, words) = proxy.post("/upstream", "", &single.url());
    assert_eq!(status, 200, "{words}");
    until("nothing is said of it", || !has(&proxy, "sentinel_too_few", "warning"));
    assert_eq!(sentinels(&proxy), 0.0);
}

fn sentinels(proxy: &Proxy) -> f64 {
    proxy.metric_of("breakwater_sentinels", "state=\"reachable\"")
}

/// Whether this finding stands on the page of metrics.
pub(super) fn has(proxy: &Proxy, id: &str, severity: &str) -> bool {
    let page = proxy.http("/metrics").1;
    let mut series = page.lines().filter(|line| line.starts_with("breakwater_finding{"));
    series.any(|line| {
        line.contains(&format!("id=\"{id}\"")) && line.contains(&format!("severity=\"{severity}\""))
    })
}

/// The commands of a logged repair that contain these words.
pub(super) fn repairs(proxy: &Proxy, words: &str) -> Vec<String> {
    let log = proxy.log();
    let line = log.lines().rfind(|line| line.contains(words)).expect("it was logged");
    let line = line.split(" finding=").next().unwrap_or_default();
    let commands = line.split("; ").filter(|part| part.contains(words));
    // The first one stands behind the sentence.
    commands
        .filter_map(|part| Some(format!("redis-cli {}", part.split_once("redis-cli ")?.1)))
        .collect()
}

/// Runs a line as an operator would.
pub(super) fn run(words: &str) {
    let output = Command::new("sh").args(["-c", words]).output().expect("a shell runs");
    eprintln!("{words}: {}", String::from_utf8_lossy(&output.stdout).trim());
}

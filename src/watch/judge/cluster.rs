//! What a node says of its cluster.
//!
//! Owns the fields of CLUSTER INFO, the traffic on the bus, and the first signs of a partition in
//! CLUSTER NODES. What spans nodes (split claims, open slots, orphaned keys) is the follower's.
//!
//! What surprises: `fail?` is one node's suspicion and decides nothing. It is named all the same,
//! because it is seconds older than everything else that a partition shows.

use super::{Case, Verdict, cli};
use crate::findings::Finding;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    if case.now.info.text("cluster_state").is_none() {
        return;
    }
    state(case, verdict);
    members(case, verdict);
    bus(case, verdict);
    links(case, verdict);
}

fn state(case: &Case<'_>, verdict: &mut Verdict) {
    let (info, node) = (&case.now.info, case.node);
    if !info.is("cluster_state", "ok") {
        verdict.standing.push(Finding::critical(
            "cluster_down",
            node,
            "for this node the cluster is down: it refuses commands with CLUSTERDOWN".to_owned(),
            format!("redis-cli --cluster check {node}, and start the nodes that it misses"),
        ));
    }
    let failed = info.number("cluster_slots_fail").unwrap_or(0);
    let suspected = info.number("cluster_slots_pfail").unwrap_or(0);
    if failed > 0 {
        verdict.standing.push(Finding::critical(
            "cluster_slots_failed",
            node,
            format!("{failed} slots belong to primaries that the cluster has given up"),
            format!("{} CLUSTER NODES names them; start them or promote a replica", cli(node)),
        ));
    } else if suspected > 0 {
        verdict.standing.push(Finding::warning(
            "cluster_slots_suspected",
            node,
            format!("{suspected} slots belong to primaries that this node cannot reach (S3.5)"),
            "look at the network between the nodes before the cluster splits".to_owned(),
        ));
    }
}

fn members(case: &Case<'_>, verdict: &mut Verdict) {
    let expected = case.history.expected_nodes(case.expect);
    let known = case.now.info.number("cluster_known_nodes").unwrap_or(0);
    if known < expected.value {
        verdict.standing.push(Finding::warning(
            "cluster_nodes_missing",
            case.node,
            format!(
                "it knows {known} members, {} are expected ({})",
                expected.value, expected.source
            ),
            "let the missing one CLUSTER MEET; if it was removed, correct [expect] nodes"
                .to_owned(),
        ));
    }
}

fn bus(case: &Case<'_>, verdict: &mut Verdict) {
    let sent = case.history.rate(case.now, "cluster_stats_messages_sent");
    let received = case.history.rate(case.now, "cluster_stats_messages_received");
    let (Some(sent), Some(received)) = (sent, received) else {
        return;
    };
    let rate = sent + received;
    if rate > BUS_WARNING {
        let make = if rate > BUS_CRITICAL { Finding::critical } else { Finding::warning };
        verdict.standing.push(make(
            "cluster_bus_busy",
            case.node,
            format!("{rate:.0} messages a second on the cluster bus: too many nodes, or links that flap (S2)"),
            "raise cluster-node-timeout, use fewer and larger nodes, look for flapping links".into(),
        ));
    }
}

/// Peers that this node suspects, or has no link to.
fn links(case: &Case<'_>, verdict: &mut Verdict) {
    let lines = case.now.nodes.as_deref().unwrap_or_default().lines();
    let is_bad = |line: &&str| {
        let mut words = line.split(' ');
        let flags = words.nth(2).unwrap_or_default();
        let is_gone = |flag: &str| matches!(flag, "myself" | "noaddr" | "handshake" | "fail");
        let is_suspected = flags.split(',').any(|flag| flag == "fail?");
        // Behind the flags: primary, ping, pong, epoch, link.
        let is_cut = words.nth(4) == Some("disconnected");
        !flags.split(',').any(is_gone) && (is_suspected || is_cut)
    };
    let peers: Vec<&str> = lines
        .filter(is_bad)
        .filter_map(|line| line.split(' ').nth(1)?.split('@').next())
        .take(PEERS_NAMED)
        .collect();
    if !peers.is_empty() {
        verdict.standing.push(Finding::warning(
            "cluster_links_lost",
            case.node,
            format!(
                "it has no link to, or suspects, {}: the earliest sign of a partition (S3.5)",
                peers.join(", ")
            ),
            "look at the cluster bus (port + 10000) between these nodes".to_owned(),
        ));
    }
}

/// Messages a second on the bus, sent and received.
const BUS_WARNING: f64 = 500.0;
const BUS_CRITICAL: f64 = 1_000.0;
/// Most peers that one finding names.
const PEERS_NAMED: usize = 5;

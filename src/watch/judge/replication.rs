//! Replication: would a failover lose much, and would a short outage cost a full copy?
//!
//! Owns the gap between primary and replicas, full synchronizations, missing and late replicas, and
//! a replica's own view of its primary.
//!
//! What surprises: a backlog that is full is the normal state, since it never shrinks once it has
//! been filled. What alarms is a replica so far behind that the backlog may no longer cover it.

use super::super::info::Replica;
use super::{Case, MIB, Verdict, bytes, cli};
use crate::findings::Finding;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    if case.now.info.is_primary() {
        let replicas = case.now.info.replicas();
        gap(case, &replicas, verdict);
        health(case, &replicas, verdict);
        missing(case, verdict);
        full_syncs(case, verdict);
    } else {
        own_link(case, verdict);
    }
}

/// The replica that is furthest behind.
fn gap(case: &Case<'_>, replicas: &[Replica], verdict: &mut Verdict) {
    let info = &case.now.info;
    let Some(offset) = info.number("master_repl_offset") else {
        return;
    };
    // One that is being copied to is far behind by nature, and is named as such.
    let online = replicas.iter().filter(|replica| replica.state == "online");
    let Some(last) = online.min_by_key(|replica| replica.offset) else {
        return;
    };
    let gap = offset.saturating_sub(last.offset);
    let size = info.number("repl_backlog_size").unwrap_or(0);
    let used = info.number("repl_backlog_histlen").unwrap_or(0);
    let is_full = size > 0 && used as f64 > 0.8 * size as f64;
    let overruns = size > 0 && gap as f64 > 0.8 * size as f64;
    if !is_full || (gap <= GAP_WARNING && !overruns) {
        return;
    }
    let text = format!(
        "replica {} is {} behind, with a backlog of {}: beyond that it must copy everything anew, \
         and a failover now loses the difference (S3.2)",
        last.address,
        bytes(gap),
        bytes(size)
    );
    let repair =
        format!("look at that replica and its network; then {}", backlog_advice(case.node, case));
    let make = if gap > GAP_CRITICAL || overruns { Finding::critical } else { Finding::warning };
    verdict.standing.push(make("replication_gap", case.node, text, repair));
}

/// Each replica's state and lag.
fn health(case: &Case<'_>, replicas: &[Replica], verdict: &mut Verdict) {
    for replica in replicas {
        let (address, state) = (&replica.address, &replica.state);
        if state != "online" {
            verdict.standing.push(Finding::warning(
                "replica_syncing",
                address,
                format!("the replica of {} is '{state}': until it is online it serves no read and no failover", case.node),
                format!("{} INFO replication; it ends by itself unless it repeats", cli(case.node)),
            ));
        } else if replica.lag > LAG_SECONDS {
            verdict.standing.push(Finding::warning(
                "replica_lagging",
                address,
                format!(
                    "the replica of {} has confirmed nothing for {} s: what was written since is \
                     lost in a failover",
                    case.node, replica.lag
                ),
                format!("see whether it answers: {} PING", cli(address)),
            ));
        }
    }
}

fn missing(case: &Case<'_>, verdict: &mut Verdict) {
    let expected = case.history.expected_replicas(case.expect);
    let Some(connected) = case.now.info.number("connected_slaves") else {
        return;
    };
    if connected >= expected.value {
        return;
    }
    let text = format!(
        "{connected} replicas are connected, {} are expected ({}){}",
        expected.value,
        expected.source,
        if connected == 0 { ": if it fails now, nobody takes over" } else { "" }
    );
    let repair = format!(
        "start the missing one; if it was removed on purpose, correct [expect] replicas. {} INFO \
         replication lists those that are there",
        cli(case.node)
    );
    let make = if connected == 0 { Finding::critical } else { Finding::warning };
    verdict.standing.push(make("replicas_missing", case.node, text, repair));
}

fn full_syncs(case: &Case<'_>, verdict: &mut Verdict) {
    let count = case.history.growth(case.now, "sync_full").filter(|count| *count > 0);
    if let Some(count) = count {
        verdict.events.push(Finding::warning(
            "full_sync",
            case.node,
            format!(
                "{count} replicas copied the whole data set since the last look: that forks, and \
                 repeats for as long as the backlog is shorter than their outages (S3.2)"
            ),
            backlog_advice(case.node, case),
        ));
    }
}

/// A replica's own view.
fn own_link(case: &Case<'_>, verdict: &mut Verdict) {
    let (info, node) = (&case.now.info, case.node);
    let is_down = info.text("master_link_status").is_some_and(|status| status != "up");
    if is_down {
        verdict.standing.push(Finding::critical(
            "primary_link_down",
            node,
            "the replica has lost its primary: what it serves grows older, and it cannot take over \
             without loss"
                .to_owned(),
            format!("{} INFO replication; then look at the primary and the network", cli(node)),
        ));
        return;
    }
    let silent = info.signed("master_last_io_seconds_ago").filter(|silent| *silent > 10);
    if let Some(silent) = silent {
        verdict.standing.push(Finding::warning(
            "primary_silent",
            node,
            format!("the replica has heard nothing of its primary for {silent} s"),
            "look at the primary and the network between the two".to_owned(),
        ));
    }
}

/// The backlog that would do, by the greatest rate of writes that was seen: half a minute of it,
/// twice.
#[must_use]
pub fn backlog_advice(node: &str, case: &Case<'_>) -> String {
    let Some(peak) = case.history.peak.filter(|peak| *peak > 0) else {
        return "size the backlog as peak bytes a second x 30 s x 2; no writes were seen yet to \
                compute it from"
            .to_owned();
    };
    let size = peak.saturating_mul(OUTAGE_SECONDS * 2).max(MIB);
    let set = format!("{} CONFIG SET repl-backlog-size {size}", cli(node));
    let info = &case.now.info;
    let most = info.number("maxmemory").filter(|most| *most > 0);
    let free = || {
        let (all, used) = (info.number("total_system_memory")?, info.number("used_memory_rss")?);
        all.checked_sub(used)
    };
    let affordable = most.or_else(free).map(|memory| memory / 10);
    match affordable.filter(|affordable| size > *affordable) {
        Some(affordable) => format!(
            "a backlog of {} would cover an outage of {OUTAGE_SECONDS} s at the peak of {} a second \
             twice, but takes more than a tenth of the memory; {} are affordable and cover {} s",
            bytes(size),
            bytes(peak),
            bytes(affordable),
            affordable / peak
        ),
        None => format!("{set} ({} a second at the peak, {OUTAGE_SECONDS} s, twice)", bytes(peak)),
    }
}

/// A gap beyond which a replica is behind, and beyond which it is lost.
const GAP_WARNING: u64 = 10 * MIB;
const GAP_CRITICAL: u64 = 50 * MIB;
/// Seconds without a word after which a replica lags; it speaks every second.
const LAG_SECONDS: u64 = 10;
/// The outage that a backlog should cover.
const OUTAGE_SECONDS: u64 = 30;

//! A sample as numbers for the page of metrics.
//!
//! Owns which field becomes which metric, in base units. Pure. What a server does not say has no
//! series, so that nobody mistakes absence for zero.
//!
//! What surprises: the gap and the lag are those of the replica that is worst; a series for each
//! replica would grow with every address that ever connected.

use super::sample::{History, Sample, memory_limit};
use crate::config::Expect;
use crate::stats::nodes::Reading;

/// Every number of a server that answered.
#[must_use]
pub fn readings(now: &Sample, history: &History, expect: &Expect) -> Vec<Reading> {
    let mut all = vec![("breakwater_node_watched", 1.0)];
    let mut add = |family, value: Option<f64>| all.extend(value.map(|value| (family, value)));
    for (family, field) in COUNTS {
        add(family, now.info.number(field).map(|count| count as f64));
    }
    for (family, field) in OKS {
        add(family, now.info.text(field).map(|status| f64::from(u8::from(is_ok(status)))));
    }
    add("breakwater_node_keys", now.keys.map(|keys| keys as f64));
    add("breakwater_node_slow_commands_total", now.slow_id.map(|id| id as f64));
    add("breakwater_node_script_memory_bytes", now.info.script_memory().map(|it| it as f64));
    add("breakwater_node_fragmentation_ratio", now.info.ratio("mem_fragmentation_ratio"));
    let wasted = now.info.signed("mem_fragmentation_bytes");
    add("breakwater_node_fragmentation_bytes", wasted.map(|it| it as f64));
    let stale = now.info.ratio("expired_stale_perc");
    add("breakwater_node_expired_stale_ratio", stale.map(|percent| percent / 100.0));
    let limit = memory_limit(&now.info, expect);
    add("breakwater_node_memory_limit_bytes", limit.map(|limit| limit.value as f64));
    replication(now, history, expect, &mut add);
    let of_cluster = ["cluster_slots_pfail", "cluster_slots_fail"].map(|it| now.info.number(it));
    if let [Some(suspected), Some(failed)] = of_cluster {
        add("breakwater_node_cluster_slots_in_doubt", Some((suspected + failed) as f64));
    }
    let bus =
        ["sent", "received"].map(|way| now.info.number(&format!("cluster_stats_messages_{way}")));
    if let [Some(sent), Some(received)] = bus {
        add("breakwater_node_cluster_messages_total", Some((sent + received) as f64));
    }
    all
}

/// A server that did not answer: only that.
#[must_use]
pub fn unwatched() -> Vec<Reading> {
    vec![("breakwater_node_watched", 0.0)]
}

fn replication(
    now: &Sample,
    history: &History,
    expect: &Expect,
    add: &mut impl FnMut(&'static str, Option<f64>),
) {
    if !now.info.is_primary() {
        let silent = now.info.signed("master_last_io_seconds_ago");
        add("breakwater_node_primary_silent_seconds", silent.map(|it| it as f64));
        return;
    }
    // A server whose INFO was refused says nothing of its replicas.
    if now.info.number("connected_slaves").is_some() {
        let expected = history.expected_replicas(expect).value;
        add("breakwater_node_replicas_expected", Some(expected as f64));
    }
    let replicas = now.info.replicas();
    let behind = replicas.iter().map(|replica| replica.offset).min();
    let offset = now.info.number("master_repl_offset");
    let gap = offset.zip(behind).map(|(offset, behind)| offset.saturating_sub(behind) as f64);
    add("breakwater_node_replication_gap_bytes", gap);
    let lag = replicas.iter().map(|replica| replica.lag).max();
    add("breakwater_node_replica_lag_seconds", lag.map(|lag| lag as f64));
    add("breakwater_node_write_peak_bytes", history.peak.map(|peak| peak as f64));
}

fn is_ok(status: &str) -> bool {
    matches!(status, "ok" | "up")
}

/// Metric and field, where one is the other.
const COUNTS: [(&str, &str); 20] = [
    ("breakwater_node_uptime_seconds", "uptime_in_seconds"),
    ("breakwater_node_loading", "loading"),
    ("breakwater_node_keyspace_hits_total", "keyspace_hits"),
    ("breakwater_node_keyspace_misses_total", "keyspace_misses"),
    ("breakwater_node_evicted_keys_total", "evicted_keys"),
    ("breakwater_node_clients", "connected_clients"),
    ("breakwater_node_clients_max", "maxclients"),
    ("breakwater_node_clients_blocked", "blocked_clients"),
    ("breakwater_node_connections_rejected_total", "rejected_connections"),
    ("breakwater_node_memory_bytes", "used_memory"),
    ("breakwater_node_memory_max_bytes", "maxmemory"),
    ("breakwater_node_resident_memory_bytes", "used_memory_rss"),
    ("breakwater_node_replicas", "connected_slaves"),
    ("breakwater_node_backlog_bytes", "repl_backlog_histlen"),
    ("breakwater_node_backlog_size_bytes", "repl_backlog_size"),
    ("breakwater_node_full_syncs_total", "sync_full"),
    // Above zero while one runs; -1 otherwise, which is no number here.
    ("breakwater_node_save_seconds", "rdb_current_bgsave_time_sec"),
    ("breakwater_node_aof_bytes", "aof_current_size"),
    ("breakwater_node_aof_base_bytes", "aof_base_size"),
    ("breakwater_node_cluster_nodes", "cluster_known_nodes"),
];

/// Metric and field, where the field is a word.
const OKS: [(&str, &str); 4] = [
    ("breakwater_node_save_ok", "rdb_last_bgsave_status"),
    ("breakwater_node_aof_ok", "aof_last_write_status"),
    ("breakwater_node_primary_link_up", "master_link_status"),
    ("breakwater_node_cluster_ok", "cluster_state"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::nodes::FAMILIES;
    use crate::watch::info::Info;

    #[test]
    fn fields_become_metrics_of_known_families_and_absence_is_no_zero() {
        let text = "role:master\nconnected_slaves:1\nmaster_repl_offset:100\nused_memory:5\n\
            slave0:ip=r,port=1,state=online,offset=40,lag=3\nrdb_last_bgsave_status:err\n\
            rdb_current_bgsave_time_sec:-1\nexpired_stale_perc:2.50";
        let now = Sample { info: Info::read(text), keys: Some(9), ..Sample::default() };
        let all = readings(&now, &History::default(), &Expect::default());
        let value = |name: &str| all.iter().find(|(family, _)| *family == name).map(|it| it.1);
        assert!(all.iter().all(|(family, _)| FAMILIES.contains(family)), "{all:?}");
        assert_eq!(value("breakwater_node_replication_gap_bytes"), Some(60.0));
        assert_eq!(value("breakwater_node_replica_lag_seconds"), Some(3.0));
        assert_eq!(value("breakwater_node_save_ok"), Some(0.0));
        assert_eq!(value("breakwater_node_save_seconds"), None);
        assert_eq!(value("breakwater_node_expired_stale_ratio"), Some(0.025));
        assert_eq!(value("breakwater_node_clients"), None);
        assert_eq!(readings(&Sample::default(), &History::default(), &Expect::default()).len(), 1);
    }
}

//! Each check from both sides.
//!
//! Owns a configuration without a fault, which each test spoils in one place. What surprises: some
//! checks need INFO beside the configuration, for what is harmless alone.

use super::*;
use crate::findings::Severity;
use crate::watch::info::Info;

/// A configuration without a fault.
const GOOD: [(&str, &str); 16] = [
    ("save", "3600 1"),
    ("appendonly", "yes"),
    ("repl-backlog-size", "268435456"),
    ("min-replicas-to-write", "1"),
    ("timeout", "3600"),
    ("busy-reply-threshold", "1000"),
    ("lua-time-limit", "1000"),
    ("maxmemory-policy", "volatile-lru"),
    ("activedefrag", "yes"),
    (
        "client-output-buffer-limit",
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    ),
    ("slowlog-log-slower-than", "10000"),
    ("slowlog-max-len", "1000"),
    ("stop-writes-on-bgsave-error", "yes"),
    ("cluster-node-timeout", "5000"),
    ("cluster-replica-validity-factor", "10"),
    ("cluster-require-full-coverage", "no"),
];

/// What follows from the good configuration with these changes, beside this INFO.
fn found(changes: &[(&'static str, &str)], info: &str) -> Vec<(&'static str, Severity)> {
    let changed = GOOD.iter().chain(changes);
    let config = changed.map(|(name, value)| (*name, (*value).to_owned())).collect();
    let asked = Asked { config: Ok(config), idle: None, unix_seconds: 10_000 };
    let now = Sample { info: Info::read(info), ..Sample::default() };
    let mut history = History::default();
    history.peak = Some(100 << 20);
    lint("h:1", &asked, &now, &history).iter().map(|it| (it.id, it.severity)).collect()
}

use Severity::{Info as Note, NotChecked, Warning};

#[test]
fn a_configuration_without_a_fault_has_no_findings() {
    assert_eq!(PARAMETERS.len(), GOOD.len());
    assert!(GOOD.iter().all(|(name, _)| PARAMETERS.contains(name)));
    assert_eq!(found(&[], "cluster_state:ok\nconnected_slaves:3"), []);
}

#[test]
fn each_parameter_is_judged() {
    let off = [("save", ""), ("appendonly", "no")];
    assert_eq!(found(&off, ""), [("config_persistence", Warning)]);
    assert_eq!(found(&off[..1], ""), []);
    let stop = [("stop-writes-on-bgsave-error", "no")];
    assert_eq!(found(&stop, ""), [("config_stop_writes", Warning)]);
    let unsaved = "rdb_last_save_time:6000\nrdb_changes_since_last_save:5";
    assert_eq!(found(&[("appendonly", "no")], unsaved), [("config_save_age", Warning)]);
    assert_eq!(found(&[], unsaved), []);
    let backlog = [("repl-backlog-size", "1048576")];
    assert_eq!(found(&backlog, "connected_slaves:1"), [("config_backlog", Warning)]);
    assert_eq!(found(&backlog, ""), [("config_backlog", Note)]);
    let unguarded = [("min-replicas-to-write", "0")];
    assert_eq!(found(&unguarded, "connected_slaves:2"), [("config_min_replicas", Warning)]);
    // With one replica the setting would turn each of its restarts into a write outage.
    assert_eq!(found(&unguarded, "connected_slaves:1"), []);
    let synced = |seconds| format!("sync_full:1\nrdb_last_bgsave_time_sec:{seconds}");
    assert_eq!(found(&[], &synced(3)), [("config_replica_buffer", Warning)]);
    assert_eq!(found(&[], &synced(2)), []);
}

#[test]
fn parameters_of_diagnosis_and_of_clusters_are_judged() {
    for limit in ["0", "5001"] {
        let busy = [("busy-reply-threshold", limit)];
        assert_eq!(found(&busy, ""), [("config_busy_threshold", Warning)]);
    }
    for limit in ["1001", "5000"] {
        let slow = [("busy-reply-threshold", limit)];
        assert_eq!(found(&slow, ""), [("config_busy_threshold", Note)]);
    }
    assert_eq!(found(&[("activedefrag", "no")], ""), [("config_activedefrag", Note)]);
    for slow in [
        ("slowlog-max-len", "128"),
        ("slowlog-log-slower-than", "-1"),
        ("slowlog-log-slower-than", "10001"),
    ] {
        assert_eq!(found(&[slow], ""), [("config_slowlog", Note)]);
    }
    let late = [("cluster-node-timeout", "15001"), ("min-replicas-to-write", "0")];
    assert_eq!(found(&late, "cluster_state:ok"), [("config_node_timeout", Warning)]);
    assert_eq!(found(&late, ""), []);
    let stale = [("cluster-replica-validity-factor", "0")];
    assert_eq!(found(&stale, "cluster_state:ok"), [("config_replica_validity", Warning)]);
    let full = [("cluster-require-full-coverage", "yes")];
    assert_eq!(found(&full, "cluster_state:ok"), [("config_full_coverage", Note)]);
}

#[test]
fn the_kind_of_keys_decides_about_eviction() {
    let keys = |keys, expires| format!("maxmemory:1\ndb0:keys={keys},expires={expires},avg_ttl=0");
    let keep = [("maxmemory-policy", "noeviction")];
    assert_eq!(found(&keep, &keys(100, 90)), [("config_eviction", Warning)]);
    assert_eq!(found(&keep, &keys(100, 89)), []);
    assert_eq!(found(&keep, &keys(99, 99)), []);
    let any = [("maxmemory-policy", "allkeys-lru")];
    assert_eq!(found(&any, &keys(100, 50)), [("config_allkeys", Note)]);
    assert_eq!(found(&any, &keys(100, 0)), []);
}

#[test]
fn idle_connections_are_counted_or_it_is_said_that_they_were_not() {
    let with = |idle| {
        let config = GOOD.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let asked = Asked { config: Ok(config), idle: Some(idle), unix_seconds: 0 };
        let found = lint("h:1", &asked, &Sample::default(), &History::default());
        found.iter().map(|it| (it.id, it.severity)).collect::<Vec<_>>()
    };
    assert_eq!(with(Ok(49)), []);
    assert_eq!(with(Ok(50)), [("config_timeout", Warning)]);
    assert_eq!(with(Err("NOPERM".to_owned())), [("config_timeout", NotChecked)]);
}

#[test]
fn without_config_each_check_says_that_it_was_not_made() {
    let asked =
        Asked { config: Err("ERR unknown command 'CONFIG'".into()), idle: None, unix_seconds: 0 };
    let found = |info: &str| {
        let now = Sample { info: Info::read(info), ..Sample::default() };
        lint("h:1", &asked, &now, &History::default())
    };
    assert_eq!(found("").len(), CHECKS.len());
    assert_eq!(found("cluster_state:ok").len(), CHECKS.len() + CHECKS_OF_CLUSTER.len());
    assert!(
        found("").iter().all(|it| it.severity == NotChecked && it.text.contains("unknown command"))
    );
}

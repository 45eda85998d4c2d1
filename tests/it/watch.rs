//! The watcher, the lint, the slow log and `doctor`, before real servers in real trouble.
//!
//! Owns the proofs that each class of trouble is found, said in words with a repair, and gone when it is mended; that
//! what could not be checked is never called fine; and that no key is shown to whoever did not ask for keys. What
//! surprises: rounds are a second apart here, because a test that waits for two of ten would wait for half a minute.

mod alerts;

use std::process::Output;

use crate::support::cluster::Cluster;
use crate::support::proxy::binary;
use crate::support::sentinel::{GroupShape, SentinelGroup};
use crate::support::{Proxy, RedisServer, free_port, until};

/// A proxy that watches `redis` every second; `more` is further configuration.
fn watching(redis: &RedisServer, more: &str) -> Proxy {
    Proxy::configured(&configuration(redis, more)).ready()
}

fn configuration(redis: &RedisServer, more: &str) -> String {
    format!("[watch]\nevery = \"1s\"\n{more}\n[upstream]\nurl = \"{}\"\n", redis.url())
}

/// Whether a finding of that id and severity is on the page of metrics.
fn stands(proxy: &Proxy, id: &str, severity: &str) -> bool {
    proxy.metric_of("breakwater_finding", &format!("id=\"{id}\",severity=\"{severity}\"")) > 0.0
}

fn doctor(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, .. } =
        binary().arg("doctor").args(arguments).output().expect("the binary runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned())
}

#[test]
fn bad_settings_are_on_every_page_and_in_the_log_once() {
    let redis = RedisServer::start();
    let proxy = watching(&redis, "");
    until("the lint has run", || stands(&proxy, "config_persistence", "warning"));
    assert!(stands(&proxy, "maxmemory_unset", "warning"));
    assert!(proxy.http("/topology").1.contains("finding warning config_persistence 127.0.0.1:"));
    let (status, page) = proxy.http("/findings");
    assert_eq!(status, 200);
    assert!(page.contains("repair: redis-cli -h 127.0.0.1"), "{page}");
    assert!(proxy.http("/findings.json").1.contains("\"id\": \"config_persistence\""));
    let uptime = proxy.metric("breakwater_node_uptime_seconds");
    until("three rounds have passed", || {
        proxy.metric("breakwater_node_uptime_seconds") >= uptime + 3.0
    });
    let lines = proxy.log().matches("finding=\"config_persistence\"").count();
    assert_eq!(lines, 1, "{}", proxy.log());
    // What is mended is gone, and that is said as well.
    assert_eq!(redis.client().ask("CONFIG SET maxmemory 1gb"), b"+OK\r\n");
    until("it is mended", || !stands(&proxy, "maxmemory_unset", "warning"));
    assert!(proxy.log().contains("no longer found finding=\"maxmemory_unset\""));
}

#[test]
fn doctor_says_what_is_amiss_and_ends_accordingly() {
    let redis = RedisServer::start();
    let (code, page) = doctor(&["--upstream", &redis.url()]);
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains("(config_persistence)") && page.contains("repair: redis-cli"), "{page}");
    let proxy = watching(&redis, "[expect]\nreplicas = 1");
    let file = proxy.file("breakwater.toml").display().to_string();
    let (code, page) = doctor(&["--config", &file]);
    assert_eq!(code, Some(1), "{page}");
    assert!(page.contains("CRITICAL  127.0.0.1:") && page.contains("(replicas_missing)"), "{page}");
    let (code, json) = doctor(&["--json", "--config", &file]);
    assert_eq!(code, Some(1), "{json}");
    assert!(json.contains("\"id\": \"replicas_missing\"") && json.ends_with("}\n"), "{json}");
    let (code, page) = doctor(&["--upstream", &format!("redis://127.0.0.1:{}", free_port())]);
    assert_eq!(code, Some(2), "{page}");
    assert!(page.contains("cannot be reached (refused"), "{page}");
}

#[test]
fn without_config_nothing_is_called_fine() {
    let redis = RedisServer::start_with(&["--rename-command", "CONFIG", "c0nfig"]);
    let proxy = watching(&redis, "");
    until("the lint has tried", || stands(&proxy, "config_persistence", "not_checked"));
    assert!(!stands(&proxy, "config_persistence", "warning"));
    let (code, page) = doctor(&["--upstream", &redis.url()]);
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains("NOT CHECKED  ") && page.contains("table 'renamed'"), "{page}");
    // Whoever tells us the name gets the checks, and the name stays with us.
    let named = format!("{}\n[upstream.renamed]\nCONFIG = \"c0nfig\"\n", configuration(&redis, ""));
    let proxy = Proxy::configured(&named).ready();
    until("the lint has run", || stands(&proxy, "config_persistence", "warning"));
    assert!(!proxy.http("/findings").1.contains("c0nfig"));
}

#[test]
fn a_replica_that_stands_still_is_found_by_gap_and_by_lag() {
    let primary =
        RedisServer::start_with(&["--repl-backlog-size", "1mb", "--repl-diskless-sync-delay", "0"]);
    let port = primary.port().to_string();
    let mut replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let proxy = watching(&primary, "");
    until("the replica is in step", || {
        primary.client().text("INFO replication").contains("state=online")
    });
    until("it is watched", || proxy.metric("breakwater_node_replicas") == 1.0);
    let value = "v".repeat(100 * 1024);
    let mut client = primary.client();
    let mut write = |count: usize| {
        (0..count).for_each(|_| assert_eq!(client.call(&["SET", "k", &value]), b"+OK\r\n"));
    };
    // A backlog that is full is no reason for alarm.
    write(20);
    until("the backlog is full", || {
        proxy.metric("breakwater_node_backlog_bytes")
            > 0.8 * proxy.metric("breakwater_node_backlog_size_bytes")
    });
    until("the replica has caught up", || {
        proxy.metric("breakwater_node_replication_gap_bytes") == 0.0
    });
    assert!(!stands(&proxy, "replication_gap", "critical"));
    replica.pause();
    write(30);
    until("the gap is found", || stands(&proxy, "replication_gap", "critical"));
    assert!(proxy.http("/findings").1.contains("repl-backlog-size"));
    until("the lag is found", || stands(&proxy, "replica_lagging", "warning"));
    replica.resume();
    until("both are gone", || {
        !stands(&proxy, "replication_gap", "critical")
            && !stands(&proxy, "replica_lagging", "warning")
    });
}

#[test]
fn memory_that_is_nearly_full_is_found_and_forgotten() {
    let redis = RedisServer::start();
    let proxy = watching(&redis, "");
    until("it is watched", || proxy.metric("breakwater_node_memory_bytes") > 0.0);
    let used = proxy.metric("breakwater_node_memory_bytes");
    let mut client = redis.client();
    // Such a server refuses no CONFIG, and what it uses wanders by less than this.
    assert_eq!(client.ask(&format!("CONFIG SET maxmemory {}", (used * 1.04) as u64)), b"+OK\r\n");
    until("it is found", || {
        stands(&proxy, "maxmemory_near", "warning") || stands(&proxy, "maxmemory_near", "critical")
    });
    assert_eq!(client.ask("CONFIG SET maxmemory 1gb"), b"+OK\r\n");
    until("it is forgotten", || {
        !stands(&proxy, "maxmemory_near", "warning")
            && !stands(&proxy, "maxmemory_near", "critical")
    });
}

#[test]
fn rejected_connections_and_a_restart_without_data_are_critical() {
    let mut redis = RedisServer::start_with(&["--maxclients", "12"]);
    let proxy = watching(&redis, "");
    let mut client = redis.client();
    for number in 0..200 {
        assert_eq!(client.ask(&format!("SET k{number} v")), b"+OK\r\n");
    }
    until("its keys are counted", || proxy.metric("breakwater_node_keys") == 200.0);
    let crowd: Vec<_> = (0..20).map(|_| redis.client()).collect();
    until("rejections are found", || stands(&proxy, "connections_rejected", "critical"));
    drop((crowd, client));
    redis.restart();
    until("the loss is found", || stands(&proxy, "came_back_empty", "critical"));
    assert!(proxy.http("/findings").1.contains("0 of 200 keys"), "{}", proxy.http("/findings").1);
}

/// A script that keeps the server busy for 25 ms.
const BUSY: &str = "local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end \
    local till = now() + 25000 while now() < till do end return 1";

#[test]
fn a_slow_command_is_shown_with_both_times_and_without_its_key() {
    let redis = RedisServer::start();
    let proxy = watching(&redis, "");
    let mut client = proxy.client();
    until("the server's log is known", || {
        proxy.http("/metrics").1.contains("breakwater_node_slow_commands_total{")
    });
    assert_eq!(client.ask("CLIENT SETNAME batch-job"), b"+OK\r\n");
    assert_eq!(client.call(&["EVAL", BUSY, "1", "private:key"]), b":1\r\n");
    let page = proxy.http("/slowlog").1;
    let line =
        page.lines().find(|line| line.contains(" eval ")).unwrap_or_else(|| panic!("{page}"));
    for part in ["queue ", "upstream ", "4 answered", "by 127.0.0.1:", "name batch-job"] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    assert!(!page.contains("private"), "{page}");
    until("the server's own entry is matched", || {
        proxy.http("/slowlog").1.contains("ms in the server")
    });
    assert!(proxy.http("/slowlog.json").1.contains("\"upstream_micros\": "));
    until("the finding names the command", || stands(&proxy, "slow_commands", "info"));
    assert!(!proxy.http("/findings").1.contains("private") && !proxy.log().contains("private"));
    // Whoever asks for keys gets them, without a restart.
    let mut proxy = proxy;
    std::fs::write(proxy.file("breakwater.toml"), configuration(&redis, "[slowlog]\nkeys = true"))
        .unwrap();
    proxy.hang_up();
    until("keys are shown", || {
        assert_eq!(client.call(&["EVAL", BUSY, "1", "private:key"]), b":1\r\n");
        proxy.http("/slowlog").1.contains("key private:key")
    });
}

#[test]
fn doctor_examines_every_node_of_a_cluster() {
    let cluster = Cluster::start(3, 0);
    let (code, page) = doctor(&["--upstream", &cluster.url()]);
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains("servers asked: 3"), "{page}");
    assert_eq!(page.matches("(cluster_shard_without_replica)").count(), 3, "{page}");
}

#[test]
fn doctor_asks_sentinels_whether_they_could_agree() {
    let group = SentinelGroup::start_as(&GroupShape { quorum: 3, ..GroupShape::default() });
    let (code, page) = doctor(&["--upstream", &group.url()]);
    assert_eq!(code, Some(1), "{page}");
    assert!(page.contains("(sentinel_quorum_all)"), "{page}");
    assert!(page.contains("servers asked: 1") && page.contains("(config_persistence)"), "{page}");
}

#[test]
fn what_only_clients_may_ask_is_checked_in_the_name_of_one() {
    let redis = RedisServer::start_with(&["--requirepass", "pw"]);
    let proxy = watching(&redis, "");
    until("a stranger is told nothing", || stands(&proxy, "config_persistence", "not_checked"));
    assert!(stands(&proxy, "info_refused", "not_checked"));
    assert_eq!(proxy.client().ask("AUTH pw"), b"+OK\r\n");
    until("the checks are made", || stands(&proxy, "config_persistence", "warning"));
    assert!(!stands(&proxy, "info_refused", "not_checked"));
}

#[test]
fn a_server_that_is_gone_is_not_called_mended() {
    let mut redis = RedisServer::start();
    let proxy = watching(&redis, "");
    until("it is watched", || stands(&proxy, "maxmemory_unset", "warning"));
    redis.kill();
    until("it cannot be asked", || stands(&proxy, "node_unwatched", "not_checked"));
    assert_eq!(proxy.metric("breakwater_node_watched"), 0.0);
    assert!(stands(&proxy, "maxmemory_unset", "warning"));
    redis.restart();
    until("it is watched again", || !stands(&proxy, "node_unwatched", "not_checked"));
}

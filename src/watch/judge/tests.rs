//! Each threshold from both sides, with texts as servers write them.
//!
//! Owns no threshold: the numbers stand here once more, so that a changed one is seen. What
//! surprises: most cases are two samples ten seconds apart, because half of the checks look at growth.

use super::*;
use crate::clock::SECOND;
use crate::findings::Severity;
use crate::watch::info::Info;
use crate::watch::slow::SlowEntry;

/// A sample with these fields.
fn sample(seconds: u64, text: &str) -> Sample {
    Sample { at: seconds * SECOND, info: Info::read(text), ..Sample::default() }
}

/// What two samples ten seconds apart are judged to be.
fn judged(before: Sample, now: Sample, expect: &Expect) -> Verdict {
    let mut history = History::default();
    history.note(&before);
    history.keep(before, Vec::new());
    history.note(&now);
    judge(&Case { node: "h:1", now: &now, history: &history, expect })
}

/// The ids and severities of what one text leads to.
fn found(text: &str) -> Vec<(&'static str, Severity)> {
    let verdict = judged(sample(0, text), sample(10, text), &Expect::default());
    verdict.standing.iter().chain(&verdict.events).map(|it| (it.id, it.severity)).collect()
}

/// What follows from a change within ten seconds.
fn changed(before: &str, now: &str) -> Vec<(&'static str, Severity)> {
    let verdict = judged(sample(0, before), sample(10, now), &Expect::default());
    verdict.standing.iter().chain(&verdict.events).map(|it| (it.id, it.severity)).collect()
}

use Severity::{Critical, Info as Note, Warning};

#[test]
fn a_server_that_is_well_has_no_findings() {
    let text = "role:master\nconnected_slaves:0\nmaxmemory:1000\nused_memory:10\nused_memory_rss:900\n\
        mem_fragmentation_ratio:9.0\nmem_fragmentation_bytes:90\nconnected_clients:80\nmaxclients:100\n\
        rdb_last_bgsave_status:ok\naof_last_write_status:ok\nrejected_connections:7\nsync_full:3\n\
        blocked_clients:10\nused_memory_vm_eval:32768\nexpired_stale_perc:0.10\nloading:0";
    assert_eq!(found(text), []);
    // A server that says nothing is not judged.
    assert_eq!(found(""), []);
}

#[test]
fn memory_is_judged_by_ratio_and_amount() {
    let fragmented = |ratio: &str, wasted: u64| {
        found(&format!("mem_fragmentation_ratio:{ratio}\nmem_fragmentation_bytes:{wasted}"))
    };
    let much = 101 * MIB;
    assert_eq!(fragmented("1.30", much), []);
    assert_eq!(fragmented("1.31", much), [("fragmentation", Note)]);
    assert_eq!(fragmented("1.51", much), [("fragmentation", Warning)]);
    assert_eq!(fragmented("2.25", much), [("fragmentation", Critical)]);
    assert_eq!(fragmented("6.66", 99 * MIB), []);
    assert_eq!(
        found("used_memory_rss:81\ntotal_system_memory:100"),
        [("resident_memory_high", Warning)]
    );
    assert_eq!(found("used_memory:5\nmaxmemory:0"), [("maxmemory_unset", Warning)]);
    let full = |used: u64, policy: &str| {
        found(&format!("used_memory:{used}\nmaxmemory:100\nmaxmemory_policy:{policy}"))
    };
    assert_eq!(full(90, "noeviction"), []);
    assert_eq!(full(91, "noeviction"), [("maxmemory_near", Warning)]);
    assert_eq!(full(101, "volatile-lru"), [("maxmemory_near", Critical)]);
    assert_eq!(full(101, "allkeys-lru"), [("maxmemory_near", Note)]);
    assert_eq!(found("used_memory_lua:6000000"), [("script_memory_high", Warning)]);
    assert_eq!(found("expired_stale_perc:30.5"), [("expired_stale", Note)]);
    assert_eq!(changed("evicted_keys:5", "evicted_keys:6"), [("evictions", Note)]);
}

#[test]
fn connections_are_judged_before_and_after_they_are_refused() {
    assert_eq!(found("connected_clients:81\nmaxclients:100"), [("clients_near_max", Warning)]);
    let rejected = changed("rejected_connections:1", "rejected_connections:4");
    assert_eq!(rejected, [("connections_rejected", Critical)]);
    // A restart begins at zero, and what it has then is of another life.
    let other = changed("run_id:a\nrejected_connections:1", "run_id:b\nrejected_connections:4");
    assert_eq!(other, [("restarted", Warning)]);
    assert_eq!(found("connected_clients:150\nblocked_clients:120"), [("clients_blocked", Note)]);
}

/// A primary with a backlog of 100 MiB, filled as given, and a replica so many bytes behind.
fn primary(filled: u64, gap: u64) -> String {
    format!(
        "role:master\nconnected_slaves:1\nmaster_repl_offset:1000000000\nrepl_backlog_size:{}\n\
         repl_backlog_histlen:{filled}\nslave0:ip=r,port=1,state=online,offset={},lag=0",
        100 * MIB,
        1_000_000_000 - gap
    )
}

#[test]
fn a_full_backlog_is_normal_and_a_gap_is_not() {
    assert_eq!(found(&primary(100 * MIB, 0)), []);
    assert_eq!(found(&primary(100 * MIB, 10 * MIB)), []);
    assert_eq!(found(&primary(100 * MIB, 11 * MIB)), [("replication_gap", Warning)]);
    assert_eq!(found(&primary(100 * MIB, 51 * MIB)), [("replication_gap", Critical)]);
    // While the backlog has room nothing is lost from it.
    assert_eq!(found(&primary(50 * MIB, 40 * MIB)), []);
    // With Redis's own megabyte it is critical long before ten.
    let small = primary(MIB, MIB - 1).replace(&(100 * MIB).to_string(), &MIB.to_string());
    assert_eq!(found(&small), [("replication_gap", Critical)]);
}

#[test]
fn replicas_are_counted_and_listened_to() {
    let lagging = primary(0, 0).replace("lag=0", "lag=11");
    assert_eq!(found(&lagging), [("replica_lagging", Warning)]);
    let syncing = primary(0, 0).replace("state=online", "state=wait_bgsave");
    assert_eq!(found(&syncing), [("replica_syncing", Warning)]);
    let gone = "role:master\nconnected_slaves:0";
    assert_eq!(changed(&primary(0, 0), gone), [("replicas_missing", Critical)]);
    let expect = Expect { replicas: Some(2), ..Expect::default() };
    let one = primary(0, 0);
    let verdict = judged(sample(0, &one), sample(10, &one), &expect);
    assert_eq!(
        (verdict.standing[0].id, verdict.standing[0].severity),
        ("replicas_missing", Warning)
    );
    assert!(verdict.standing[0].text.contains("[expect]"));
    assert_eq!(changed("sync_full:1", "sync_full:2"), [("full_sync", Warning)]);
    let replica = |status: &str, silent: i32| {
        found(&format!(
            "role:slave\nmaster_link_status:{status}\nmaster_last_io_seconds_ago:{silent}"
        ))
    };
    assert_eq!(replica("up", 1), []);
    assert_eq!(replica("up", 11), [("primary_silent", Warning)]);
    assert_eq!(replica("down", -1), [("primary_link_down", Critical)]);
}

#[test]
fn the_advice_on_the_backlog_names_a_size_or_what_can_be_afforded() {
    let advice = |most: u64| {
        let text = |offset: u64| {
            format!(
                "role:master\nmaxmemory:{most}\nused_memory:1\nmaster_repl_offset:{offset}\nsync_full:{}",
                offset / 1000
            )
        };
        let verdict = judged(sample(0, &text(0)), sample(10, &text(100 * MIB)), &Expect::default());
        verdict.events[0].repair.clone()
    };
    // 10 MiB a second for 30 s, twice.
    assert!(advice(10 << 30).contains(&format!("CONFIG SET repl-backlog-size {}", 600 * MIB)));
    let poor = advice(1 << 30);
    assert!(poor.contains("102.4 MiB are affordable and cover 10 s"), "{poor}");
}

#[test]
fn persistence_is_judged_by_its_last_words() {
    assert_eq!(found("rdb_last_bgsave_status:err"), [("save_failed", Critical)]);
    assert_eq!(found("aof_last_write_status:err"), [("aof_write_failed", Critical)]);
    assert_eq!(found("aof_last_bgrewrite_status:err"), [("aof_rewrite_failed", Warning)]);
    let grown = |now: u64, base: u64| {
        found(&format!("aof_current_size:{}\naof_base_size:{}", now * MIB, base * MIB))
    };
    assert_eq!(grown(300, 100), []);
    assert_eq!(grown(301, 100), [("aof_grown", Warning)]);
    assert_eq!(grown(60, 1), []);
    let saving = |now: u64, last: u64| {
        found(&format!(
            "rdb_bgsave_in_progress:1\nrdb_current_bgsave_time_sec:{now}\nrdb_last_bgsave_time_sec:{last}"
        ))
    };
    assert_eq!(saving(61, 30), [("save_slow", Warning)]);
    assert_eq!(saving(19, 1), []);
}

#[test]
fn restarts_are_told_from_losses() {
    let with_keys = |seconds, text, keys| Sample { keys: Some(keys), ..sample(seconds, text) };
    let ids = |before, now| {
        let verdict = judged(before, now, &Expect::default());
        verdict.events.iter().map(|it| (it.id, it.severity)).collect::<Vec<_>>()
    };
    let (a, b) = ("run_id:a\nuptime_in_seconds:50", "run_id:b\nuptime_in_seconds:1");
    assert_eq!(ids(with_keys(0, a, 1_000), with_keys(10, b, 900)), [("restarted", Warning)]);
    assert_eq!(ids(with_keys(0, a, 1_000), with_keys(10, b, 99)), [("came_back_empty", Critical)]);
    assert_eq!(ids(with_keys(0, a, 1_000), with_keys(10, a, 99)), [("keys_vanished", Warning)]);
    assert_eq!(ids(with_keys(0, a, 99), with_keys(10, a, 0)), []);
    let loading = "run_id:b\nuptime_in_seconds:1\nloading:1";
    assert_eq!(ids(with_keys(0, a, 1_000), with_keys(10, loading, 0)), []);
}

#[test]
fn slow_answers_and_slow_commands_are_named() {
    let slow = |micros| Sample { ping: Some(micros), ..sample(10, "") };
    let severity = |now: Sample| {
        let verdict = judged(sample(0, ""), now, &Expect::default());
        verdict.standing.first().map(|it| (it.id, it.severity))
    };
    assert_eq!(severity(slow(SECOND)), None);
    assert_eq!(severity(slow(SECOND + 1)), Some(("ping_slow", Warning)));
    assert_eq!(severity(slow(5 * SECOND + 1)), Some(("ping_slow", Critical)));
    let entry = |micros| SlowEntry { id: 1, at: 1, micros, command: "KEYS".into(), key: None };
    let now = Sample { slow: vec![entry(20_000), entry(28_000_000)], ..sample(10, "") };
    let verdict = judged(sample(0, ""), now, &Expect::default());
    assert_eq!((verdict.events[0].id, verdict.events[0].severity), ("slow_commands", Warning));
    assert!(verdict.events[0].text.contains("KEYS with 28000 ms"), "{}", verdict.events[0].text);
}

#[test]
fn a_node_tells_of_its_cluster() {
    let ok = "cluster_state:ok\ncluster_known_nodes:6\ncluster_slots_pfail:0\ncluster_slots_fail:0";
    assert_eq!(found(ok), []);
    assert_eq!(found("cluster_state:fail"), [("cluster_down", Critical)]);
    let slots = |name: &str| found(&format!("cluster_state:ok\ncluster_slots_{name}:5461"));
    assert_eq!(slots("fail"), [("cluster_slots_failed", Critical)]);
    assert_eq!(slots("pfail"), [("cluster_slots_suspected", Warning)]);
    let five = ok.replace(":6", ":5");
    assert_eq!(changed(ok, &five), [("cluster_nodes_missing", Warning)]);
    let bus = |sent: u64| {
        format!(
            "cluster_state:ok\ncluster_stats_messages_sent:{sent}\ncluster_stats_messages_received:0"
        )
    };
    assert_eq!(changed(&bus(0), &bus(5_000)), []);
    assert_eq!(changed(&bus(0), &bus(5_010)), [("cluster_bus_busy", Warning)]);
    assert_eq!(changed(&bus(0), &bus(10_010)), [("cluster_bus_busy", Critical)]);
    let nodes = "a h:1@2 myself,master - 0 0 1 connected 0-1\nb h:2@3 master,fail? - 0 0 2 connected\n\
        c h:3@4 slave b 0 0 2 disconnected\nd h:4@5 master,fail - 0 0 2 disconnected\n";
    let now = Sample { nodes: Some(nodes.to_owned()), ..sample(10, ok) };
    let verdict = judged(sample(0, ok), now, &Expect::default());
    assert_eq!(verdict.standing[0].id, "cluster_links_lost");
    assert!(verdict.standing[0].text.contains("h:2, h:3:"), "{}", verdict.standing[0].text);
}

#[test]
fn what_was_refused_is_not_fine() {
    let refused = vec![("INFO", "NOPERM this user has no permissions".to_owned())];
    let now = Sample { refused, ..sample(10, "") };
    let verdict = judged(sample(0, ""), now, &Expect::default());
    assert_eq!(
        (verdict.standing[0].id, verdict.standing[0].severity),
        ("info_refused", Severity::NotChecked)
    );
    assert!(verdict.standing[0].repair.contains("+info"));
}

#[test]
fn addresses_and_sizes_are_spelled_for_people() {
    assert_eq!(cli("h:1"), "redis-cli -h h -p 1");
    assert_eq!(cli("[::1]:7"), "redis-cli -h ::1 -p 7");
    assert_eq!(cli("unix:/run/r.sock"), "redis-cli -s /run/r.sock");
    assert_eq!((bytes(1_023).as_str(), bytes(MIB + MIB / 2).as_str()), ("1023 B", "1.5 MiB"));
}

//! Every metric family of the page: its name, its sentence of help and where its value comes from.
//!
//! This file is the table that joins [`WorkerStats`] to metric names; `export` walks it. A family
//! that is not in `HELP` must not exist: a test compares the page, this table and
//! `docs/metrics.md`, in both directions. What surprises: the readers are boxed closures. They run
//! once a scrape, never for a command.

use super::labels::{
    ClosedReason, DialFailure, ErrorClass, LaneLost, Paced, Redirected, Resent, Rewritten,
};
use super::{Counter, WorkerStats};

/// Commands by name and outcome; its series are registered when first counted.
pub(super) const COMMANDS: &str = "breakwater_commands_total";
/// Version of the program, as a label of a constant 1.
pub(super) const BUILD_INFO: &str = "breakwater_build_info";
/// Seconds since the exporter was made.
pub(super) const UPTIME: &str = "breakwater_uptime_seconds";
/// Histogram of [`WorkerStats::queue_time`].
pub(super) const QUEUE_SECONDS: &str = "breakwater_command_queue_seconds";
/// Histogram of [`WorkerStats::upstream_time`].
pub(super) const UPSTREAM_SECONDS: &str = "breakwater_command_upstream_seconds";

/// What is amiss behind us; its series come and go, so they never enter the registry.
pub(super) const FINDING: &str = "breakwater_finding";

/// Every family with its help, one a line: the first word is the name, the rest is the help. It is
/// kept as text because that is how it is read and edited; it is taken apart once at the start.
const HELP: &str = "\
breakwater_commands_total                Commands of clients by name and by how they ended.
breakwater_error_replies_total           Error replies of the upstream by their first word.
breakwater_client_bytes_total            Bytes received from (in) and sent to (out) clients.
breakwater_upstream_bytes_total          Bytes received from (in) and sent to (out) the upstream.
breakwater_command_queue_seconds         Time from a command's arrival until the kernel took it.
breakwater_command_upstream_seconds      Time from handing a command to the kernel until its reply.
breakwater_commands_in_flight            Commands sent to the upstream and not yet answered.
breakwater_commands_redirected_total     Commands routed again in a cluster, by what made it necessary.
breakwater_commands_resent_total         Commands sent again, by what made that safe.
breakwater_deadlines_passed_total        Commands whose reply deadline passed.
breakwater_tombstones_made_total         Replies still owed to nobody: client gone or answered.
breakwater_tombstones_consumed_total     Replies dropped because nobody waited any more.
breakwater_pushes_dropped_total          RESP3 pushes that arrived on a lane and were dropped.
breakwater_reply_buffered_bytes          Bytes of replies that wait for their client.
breakwater_request_buffered_bytes        Bytes of requests that wait to be framed or sent.
breakwater_clients                       Clients connected.
breakwater_clients_accepted_total        Clients accepted.
breakwater_clients_closed_total          Client connections ended, by reason.
breakwater_clients_turned_away_total     Clients turned away before a session, by reason.
breakwater_client_protocol_errors_total  Sessions that sent bytes that are no request.
breakwater_lanes                         Shared upstream connections that are ready to use.
breakwater_lanes_opened_total            Lanes that became ready to use.
breakwater_lanes_lost_total              Lanes that ended unasked, by cause.
breakwater_subscriber_links              Upstream connections that carry subscriptions.
breakwater_subscriber_links_opened_total Subscriber links that became ready to use.
breakwater_subscriber_links_lost_total   Subscriber links that ended unasked, by cause.
breakwater_subscriptions                 Subscriptions that clients hold.
breakwater_messages_received_total       Published messages that came from the upstream.
breakwater_messages_delivered_total      Published messages that clients were given.
breakwater_subscription_gaps_total       Times that messages may have been missed.
breakwater_subscriptions_moved_total     Subscriptions that the upstream ended and we renewed.
breakwater_lanes_retired_total           Lanes closed in order: idle, too old or replaced.
breakwater_pinned_connections            Upstream connections that belong to one client each.
breakwater_replication_streams           Clients that read the replication stream of a server.
breakwater_pinned_waiting                Clients that wait for such a connection.
breakwater_pinned_opened_total           Connections of one client that became ready to use.
breakwater_pinned_refused_total          Commands refused after waiting for such a connection.
breakwater_lane_flushes_total            Writes to lanes.
breakwater_lane_commands_total           Commands carried by writes to lanes.
breakwater_dials_total                   Attempts to connect to a node.
breakwater_dial_failures_total           Attempts to connect that failed, by cause.
breakwater_scripts                       Sources of scripts that are remembered.
breakwater_script_bytes                  Bytes that remembered scripts take.
breakwater_scripts_refused_total         Scripts that were not sent, by what is wrong with them.
breakwater_scripts_unread_total          Scripts that were too long to be looked into.
breakwater_scripts_delayed_total         Scripts that waited until fewer were in flight at their node.
breakwater_script_kills_total            Scripts that did not end, by what became of them.
breakwater_replica_reads_total           Commands that were sent to a replica.
breakwater_replica_reads_primary_away_total Of those, what a keyspace sent there because the primary was away.
breakwater_writes_guarded_total          Writes refused for two masters or missing replicas.
breakwater_bound_probes_total            Questions how much a command would read.
breakwater_bound_refused_total           Commands refused because they would read too much.
breakwater_bound_unmeasured_total        Commands that went although their size could not be told.
breakwater_bound_slipped_total           Commands that went and turned out to be too large.
breakwater_rewrites_total                Commands in whose place a rule sent something else.
breakwater_rewrite_pages_total           Pages of which answers were put together.
breakwater_paced_total                   Commands that came sooner than a rule allows.
breakwater_script_loads_total            Sources sent to the node in front of an EVALSHA.
breakwater_script_loads_refused_total    Such sources that the node refused.
breakwater_libraries_restored_total      Libraries of functions loaded again into an empty node.
breakwater_slot_map_age_seconds          Seconds since the slot map was asked for; 0 without a cluster.
breakwater_slot_map_refreshes_total      Times that nodes were asked for the slot map, by reason.
breakwater_slots_uncovered               Slots that no node of the cluster claims.
breakwater_slots_split                   Slots that several nodes of the cluster claim.
breakwater_cluster_members               Nodes of the cluster by role and health.
breakwater_migrations_open               Slots that are being moved.
breakwater_migrations_failed             Open slots that will not arrive without help.
breakwater_migrations_stuck              Slots open for 5 (warning) and 15 minutes (critical).
breakwater_migration_age_seconds         How long the oldest open slot has been open.
breakwater_orphaned_keys                 Keys on a node that does not serve their slot.
breakwater_node_state                    1 for the state that a node is in; all: nodes in that state.
breakwater_node_state_changes_total      Times that a node came into a state.
breakwater_node_ping_seconds             Time that the last PING of a node took; all: of any node.
breakwater_breaker_opens_total           Times that a node was found to be failing.
breakwater_primary_changes_total         Times that Sentinels named another primary that was followed.
breakwater_sentinel_generations_total    Times that what Sentinels remember began anew.
breakwater_sentinels                     Sentinels that are known, by whether they answer.
breakwater_cluster_generations_total     Times the cluster became another one at its addresses.
breakwater_upstream_up                   1 if the upstream answers, else 0.
breakwater_upstream_outages_total        Times the upstream went from up to down.
breakwater_upstream_changes_total        Times the proxy was moved to another upstream.
breakwater_draining                      1 while the process drains, else 0.
breakwater_turns_total                   Turns in which commands were handed to nodes.
breakwater_turn_sessions_total           Times a session had work.
breakwater_panics_total                  Panics caught at the edge of a session or a lane.
breakwater_config_reloads_total          Changed configuration files, by what became of them.
breakwater_credentials_alarm             1 while the newest password is refused or unreadable.
breakwater_credentials_previous_total Connections made with the password before the newest.
breakwater_credentials_refused_total     Refusals of our own password by a node.
breakwater_credentials_rotations_total   Changes of our own password or user.
breakwater_readonly_mode                 1 while writes are refused.
breakwater_resolver_changes_total        Answers of the resolver that differ from the one before.
breakwater_resolver_failures_total       Questions that the resolver did not answer, by how it failed.
breakwater_resolver_stale_answers_total     Dials to addresses that the resolver had said before.
breakwater_policy_version                Number of the policy in force: each change is one more.
breakwater_policy_rules                  Rules of the policy in force, by who made them.
breakwater_policy_reloads_total          Policy files that were judged, by what became of them.
breakwater_policy_last_reload_successful 0 if the newest policy file was refused.
breakwater_policy_hits_total             Commands that rules matched, by rule and what became of them.
breakwater_keyspace_commands_total       Commands of keyspaces, by keyspace and what became of them.
breakwater_config_last_reload_successful 0 if the newest configuration was refused.
breakwater_log_lines_suppressed_total    Log lines dropped because they repeated too often.
breakwater_build_info                    Always 1; the label is the version that runs.
breakwater_uptime_seconds                Seconds since the process began to serve.
breakwater_finding                       Always 1 for what is amiss behind us, or was not checked.
breakwater_node_watched 1 if the watcher's last round reached the server.
breakwater_node_uptime_seconds Seconds since the server started.
breakwater_node_loading 1 while the server loads its data.
breakwater_node_keys Keys of the selected database of the server.
breakwater_node_keyspace_hits_total Reads that found a key on the server.
breakwater_node_keyspace_misses_total Reads that found no key on the server.
breakwater_node_evicted_keys_total Keys that the server evicted for want of memory.
breakwater_node_expired_stale_ratio Estimated share of expired keys that still take memory.
breakwater_node_slow_commands_total Entries that the server ever made in its SLOWLOG.
breakwater_node_clients Connections of the server.
breakwater_node_clients_max Connections that the server allows.
breakwater_node_clients_blocked Clients of the server that wait in a blocking command.
breakwater_node_connections_rejected_total Connections that the server refused because of maxclients.
breakwater_node_memory_bytes Memory that the server uses for data.
breakwater_node_memory_max_bytes The server's maxmemory; 0 is unlimited.
breakwater_node_resident_memory_bytes Resident memory of the server.
breakwater_node_memory_limit_bytes What the server is taken to be allowed by its host.
breakwater_node_script_memory_bytes Memory of the server's scripts.
breakwater_node_fragmentation_ratio Resident memory divided by used memory.
breakwater_node_fragmentation_bytes Resident memory that holds no data.
breakwater_node_replicas Replicas connected to the primary.
breakwater_node_replicas_expected Replicas that should be connected.
breakwater_node_replication_gap_bytes Bytes that the worst replica is behind.
breakwater_node_replica_lag_seconds Seconds since the worst replica confirmed anything.
breakwater_node_backlog_bytes Bytes in the replication backlog.
breakwater_node_backlog_size_bytes Size of the replication backlog.
breakwater_node_write_peak_bytes Greatest growth of the replication offset in bytes a second.
breakwater_node_full_syncs_total Full copies that the primary made for replicas.
breakwater_node_primary_link_up 1 if the replica is linked to its primary.
breakwater_node_primary_silent_seconds Seconds since the replica heard of its primary.
breakwater_node_save_ok 1 if the server's last save succeeded.
breakwater_node_save_seconds How long the save in progress has taken.
breakwater_node_aof_ok 1 if the last write of the append-only file succeeded.
breakwater_node_aof_bytes Size of the append-only file.
breakwater_node_aof_base_bytes Size of the append-only file after its last rewrite.
breakwater_node_cluster_ok 1 if the cluster is up as this node sees it.
breakwater_node_cluster_nodes Members of the cluster that this node knows.
breakwater_node_cluster_slots_in_doubt Slots whose primary this node suspects or has given up.
breakwater_node_cluster_messages_total Messages on the cluster bus, sent and received by this node.
process_cpu_seconds_total                User and system CPU time spent in seconds.
process_resident_memory_bytes            Resident memory size in bytes.
process_virtual_memory_bytes             Virtual memory size in bytes.
process_open_fds                         Number of open file descriptors.
process_max_fds                          Maximum number of open file descriptors.
process_start_time_seconds               Start time of the process since unix epoch in seconds.
";

/// A label and its value.
pub(super) type Label = (&'static str, &'static str);

/// One series whose value is the sum of a number of each worker.
///
/// `T` is `u64` for counters and `i64` for gauges, which a bug of ours could bring below zero: then
/// the page must show it.
pub(super) struct Series<T> {
    /// Name of the family, one of those with a help.
    pub(super) family: &'static str,
    /// The one label of the series, if the family has any.
    pub(super) label: Option<Label>,
    /// Reads one worker's share.
    pub(super) read: Box<dyn Fn(&WorkerStats) -> T + Send + Sync>,
}

// === impl Series ===

impl<T> Series<T> {
    /// The registry's key of this series.
    pub(super) fn key(&self) -> metrics::Key {
        key(self.family, self.label)
    }
}

/// The registry's key of a family with at most one label.
pub(super) fn key(family: &'static str, label: Option<Label>) -> metrics::Key {
    match label {
        None => metrics::Key::from_static_name(family),
        Some(label) => metrics::Key::from_parts(family, &[label]),
    }
}

/// Every family and its help.
///
/// A help has neither line ends nor backslashes, so it needs no escapes.
pub(super) fn described() -> impl Iterator<Item = (&'static str, &'static str)> {
    let pairs = HELP.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(family, help)| (family, help.trim_start()))
}

/// Whether the series of a family are the process's own, whatever stands behind it.
pub(super) fn is_of_process(family: &str) -> bool {
    OF_PROCESS.contains(&family) || family.starts_with("process_")
}

/// Families of the registry that no upstream has a share in, but for the kernel's.
const OF_PROCESS: [&str; 8] = [
    BUILD_INFO,
    UPTIME,
    "breakwater_config_last_reload_successful",
    "breakwater_config_reloads_total",
    "breakwater_draining",
    "breakwater_log_lines_suppressed_total",
    "breakwater_policy_last_reload_successful",
    "breakwater_policy_reloads_total",
];

/// The help of a family; empty for one that is not described.
pub(super) fn help(family: &str) -> &'static str {
    described().find(|(name, _)| *name == family).map_or("", |(_, help)| help)
}

/// Every counter but those by command, which are registered when they are first needed.
///
/// Each closed list of labels is walked through its `ALL`, so a variant that is added to an enum
/// reaches the page by itself, and a test then asks for its documentation.
pub(super) fn counters() -> Vec<Series<u64>> {
    let mut all = plain_counters();
    all.extend(byte_counters());
    // Closed lists are complete from the start, zeros included: a rate needs a first value.
    let family = "breakwater_error_replies_total";
    all.extend(ErrorClass::ALL.map(|class| {
        let label = ("code", class.as_str());
        labelled(family, label, move |worker| worker.error_reply(class))
    }));
    let family = "breakwater_clients_closed_total";
    all.extend(ClosedReason::ALL.map(|reason| {
        let label = ("reason", reason.as_str());
        labelled(family, label, move |worker| worker.client_closed(reason))
    }));
    let family = "breakwater_lanes_lost_total";
    all.extend(LaneLost::ALL.map(|cause| {
        let label = ("cause", cause.as_str());
        labelled(family, label, move |worker| worker.lane_lost(cause))
    }));
    let family = "breakwater_subscriber_links_lost_total";
    all.extend(LaneLost::ALL.map(|cause| {
        let label = ("cause", cause.as_str());
        labelled(family, label, move |worker| worker.subscriber_link_lost(cause))
    }));
    let family = "breakwater_dial_failures_total";
    all.extend(DialFailure::ALL.map(|cause| {
        let label = ("cause", cause.as_str());
        labelled(family, label, move |worker| worker.dial_failed(cause))
    }));
    let family = "breakwater_commands_redirected_total";
    all.extend(Redirected::ALL.map(|reason| {
        let label = ("reason", reason.as_str());
        labelled(family, label, move |worker| worker.redirected(reason))
    }));
    let family = "breakwater_rewrites_total";
    all.extend(
        Rewritten::ALL.map(|how| {
            labelled(family, ("how", how.as_str()), move |worker| worker.rewritten(how))
        }),
    );
    let family = "breakwater_paced_total";
    all.extend(Paced::ALL.map(|outcome| {
        labelled(family, ("outcome", outcome.as_str()), move |worker| worker.paced(outcome))
    }));
    let family = "breakwater_commands_resent_total";
    all.extend(Resent::ALL.map(|reason| {
        let label = ("reason", reason.as_str());
        labelled(family, label, move |worker| worker.resent(reason))
    }));
    all
}

/// Counters without a label, by what an operator would ask about.
fn plain_counters() -> Vec<Series<u64>> {
    vec![
        // What befell commands on their way.
        plain("breakwater_deadlines_passed_total", |it| &it.deadlines_passed),
        plain("breakwater_tombstones_made_total", |it| &it.tombstones_made),
        plain("breakwater_tombstones_consumed_total", |it| &it.tombstones_consumed),
        plain("breakwater_pushes_dropped_total", |it| &it.pushes_dropped),
        plain("breakwater_replica_reads_total", |it| &it.replica_reads),
        plain("breakwater_replica_reads_primary_away_total", |it| &it.replica_reads_primary_away),
        plain("breakwater_writes_guarded_total", |it| &it.writes_guarded),
        plain("breakwater_bound_probes_total", |it| &it.bound_probes),
        plain("breakwater_bound_refused_total", |it| &it.bound_refused),
        plain("breakwater_bound_unmeasured_total", |it| &it.bound_unmeasured),
        plain("breakwater_bound_slipped_total", |it| &it.bound_slipped),
        plain("breakwater_rewrite_pages_total", |it| &it.pages),
        plain("breakwater_script_loads_total", |it| &it.script_loads),
        plain("breakwater_script_loads_refused_total", |it| &it.script_loads_refused),
        plain("breakwater_panics_total", |it| &it.panics),
        // How well work is batched: the second of each pair is divided by the first.
        plain("breakwater_lane_flushes_total", |it| &it.lane_flushes),
        plain("breakwater_lane_commands_total", |it| &it.lane_commands),
        plain("breakwater_turns_total", |it| &it.turns),
        plain("breakwater_turn_sessions_total", |it| &it.turn_sessions),
        // Connections on both sides.
        plain("breakwater_clients_accepted_total", |it| &it.clients_accepted),
        plain("breakwater_client_protocol_errors_total", |it| &it.client_protocol_errors),
        plain("breakwater_lanes_opened_total", |it| &it.lanes_opened),
        plain("breakwater_lanes_retired_total", |it| &it.lanes_retired),
        plain("breakwater_pinned_opened_total", |it| &it.pinned_opened),
        plain("breakwater_pinned_refused_total", |it| &it.pinned_refused),
        plain("breakwater_dials_total", |it| &it.dials_started),
        // Publish and subscribe.
        plain("breakwater_subscriber_links_opened_total", |it| &it.subscriber_links_opened),
        plain("breakwater_messages_received_total", |it| &it.messages_received),
        plain("breakwater_messages_delivered_total", |it| &it.messages_delivered),
        plain("breakwater_subscription_gaps_total", |it| &it.subscription_gaps),
        plain("breakwater_subscriptions_moved_total", |it| &it.subscriptions_moved),
    ]
}

/// Bytes by direction, seen from us: what we received is `in`.
fn byte_counters() -> [Series<u64>; 4] {
    let clients = "breakwater_client_bytes_total";
    let upstream = "breakwater_upstream_bytes_total";
    [
        labelled(clients, ("direction", "in"), |it| &it.client_bytes_in),
        labelled(clients, ("direction", "out"), |it| &it.client_bytes_out),
        labelled(upstream, ("direction", "in"), |it| &it.upstream_bytes_in),
        labelled(upstream, ("direction", "out"), |it| &it.upstream_bytes_out),
    ]
}

/// Every gauge that workers hold.
pub(super) fn gauges() -> [Series<i64>; 10] {
    [
        gauge("breakwater_clients", |it| it.clients.get()),
        gauge("breakwater_lanes", |it| it.lanes.get()),
        gauge("breakwater_subscriber_links", |it| it.subscriber_links.get()),
        gauge("breakwater_subscriptions", |it| it.subscriptions.get()),
        gauge("breakwater_pinned_connections", |it| it.pinned.get()),
        gauge("breakwater_replication_streams", |it| it.replicas.get()),
        gauge("breakwater_pinned_waiting", |it| it.pinned_waiting.get()),
        gauge("breakwater_commands_in_flight", |it| it.commands_in_flight.get()),
        gauge("breakwater_reply_buffered_bytes", |it| it.reply_buffered_bytes.get()),
        gauge("breakwater_request_buffered_bytes", |it| it.request_buffered_bytes.get()),
    ]
}

/// A counter without a label.
fn plain(family: &'static str, counter: fn(&WorkerStats) -> &Counter) -> Series<u64> {
    Series { family, label: None, read: Box::new(move |worker| counter(worker).get()) }
}

/// A counter with one label.
fn labelled(
    family: &'static str,
    label: Label,
    counter: impl Fn(&WorkerStats) -> &Counter + Send + Sync + 'static,
) -> Series<u64> {
    Series { family, label: Some(label), read: Box::new(move |worker| counter(worker).get()) }
}

/// A gauge; none of the workers' gauges has a label, because each is a sum of its own.
fn gauge(family: &'static str, read: fn(&WorkerStats) -> i64) -> Series<i64> {
    Series { family, label: None, read: Box::new(read) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_family_is_described_once_and_in_a_sentence() {
        let names: HashSet<_> = described().map(|(family, _)| family).collect();
        assert_eq!(names.len(), HELP.lines().count());
        for (family, help) in described() {
            assert!(help.starts_with(|first: char| first.is_ascii_alphanumeric()), "{family}");
            assert!(help.ends_with('.') && !help.contains('\\'), "{family}: {help}");
        }
    }

    #[test]
    fn every_series_belongs_to_a_described_family_and_is_listed_once() {
        let counters = counters().into_iter().map(|it| (it.family, it.label));
        let gauges = gauges().into_iter().map(|it| (it.family, it.label));
        let all: Vec<_> = counters.chain(gauges).collect();
        let distinct: HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        for (family, _) in all {
            assert!(!help(family).is_empty(), "{family} has no help");
        }
    }
}

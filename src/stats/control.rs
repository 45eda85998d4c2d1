//! What the control plane counts: rare events, through the `metrics` crate's global recorder.
//!
//! This file owns the only calls of `metrics` macros in the project, one typed function for each
//! event, so that names and labels are spelled once. Any thread may call them; each costs some 50
//! ns, so nothing that happens for each command belongs here. What surprises: before
//! `Exporter::install` has run, or in a test without an exporter, the events vanish silently.
//! Histograms are absent on purpose: the recorder keeps every sample until the next scrape.

use crate::clock::{Micros, SECOND};
use crate::topology::cluster::survey::Totals;
use crate::topology::slots::{Health, MemberRole};

use super::labels::{
    NodeState, RefreshOutcome, RefreshTrigger, Reload, ResolverFailure, ScriptFault, ScriptKill,
    TurnedAway,
};

/// A client was turned away before it became a session.
pub fn client_turned_away(reason: TurnedAway) {
    metrics::counter!(CLIENTS_TURNED_AWAY, "reason" => reason.as_str()).increment(1);
}

/// A configuration file changed and was judged. Also sets the gauge that alerts can watch.
pub fn config_reloaded(result: Reload) {
    metrics::counter!(CONFIG_RELOADS, "result" => result.as_str()).increment(1);
    let is_good = f64::from(u8::from(result == Reload::Applied));
    metrics::gauge!(CONFIG_LAST_RELOAD_SUCCESSFUL).set(is_good);
}

/// The policy was read again and judged. Also sets the gauge that alerts can watch.
pub fn policy_reloaded(result: Reload) {
    metrics::counter!(POLICY_RELOADS, "result" => result.as_str()).increment(1);
    let is_good = f64::from(u8::from(result == Reload::Applied));
    metrics::gauge!(POLICY_LAST_RELOAD_SUCCESSFUL).set(is_good);
}

/// The proxy was moved to another upstream while it ran.
pub fn upstream_changed() {
    metrics::counter!(UPSTREAM_CHANGES).increment(1);
}

/// Our own user or password has been replaced by another one.
pub fn credentials_rotated() {
    metrics::counter!(CREDENTIALS_ROTATED).increment(1);
}

/// A node has refused our own newest password.
pub fn credentials_refused() {
    metrics::counter!(CREDENTIALS_REFUSED).increment(1);
}

/// A connection was made with our previous password.
pub fn previous_credentials_used() {
    metrics::counter!(CREDENTIALS_PREVIOUS).increment(1);
}

/// Whether our own credentials are in order, as of a scrape.
pub fn credentials_alarm(is_on: bool) {
    metrics::gauge!(CREDENTIALS_ALARM).set(f64::from(u8::from(is_on)));
}

/// The resolver did not tell where a name leads.
pub fn resolver_failed(reason: ResolverFailure) {
    metrics::counter!(RESOLVER_FAILURES, "reason" => reason.as_str()).increment(1);
}

/// What it had said before was used instead.
pub fn stale_address_used() {
    metrics::counter!(RESOLVER_STALE).increment(1);
}

/// A name leads to other addresses than before.
pub fn name_moved() {
    metrics::counter!(RESOLVER_CHANGES).increment(1);
}

/// Whether writes are refused.
pub fn readonly_mode(is_on: bool) {
    metrics::gauge!(READONLY_MODE).set(f64::from(u8::from(is_on)));
}

/// Log lines were dropped because the same message had been written too often.
pub fn log_lines_suppressed(lines: u64) {
    metrics::counter!(LOG_LINES_SUPPRESSED).increment(lines);
}

/// Scripts were remembered or forgotten; so many are left, and cost so many bytes.
pub fn scripts(count: usize, bytes: usize) {
    metrics::gauge!(SCRIPTS).set(count as f64);
    metrics::gauge!(SCRIPT_BYTES).set(bytes as f64);
}

/// A script waits until fewer of its node's are in flight.
pub fn script_delayed() {
    metrics::counter!(SCRIPTS_DELAYED).increment(1);
}

/// A script was too long to be looked into.
pub fn script_unread() {
    metrics::counter!(SCRIPTS_UNREAD).increment(1);
}

/// A script is not sent, or would not be if the profile enforced anything.
pub fn script_refused(fault: ScriptFault, is_enforced: bool) {
    let enforced = if is_enforced { "yes" } else { "no" };
    let labels = [("fault", fault.as_str()), ("enforced", enforced)];
    metrics::counter!(SCRIPTS_REFUSED, &labels).increment(1);
}

/// A script did not end, and this is what became of it.
pub fn script_kill(result: ScriptKill) {
    metrics::counter!(SCRIPT_KILLS, "result" => result.as_str()).increment(1);
}

/// Libraries of functions were loaded again into a node that had come back empty.
pub fn libraries_restored(count: u64) {
    metrics::counter!(LIBRARIES_RESTORED).increment(count);
}

/// The nodes of a cluster were asked for the slot map.
pub fn map_refreshed(trigger: RefreshTrigger, outcome: RefreshOutcome) {
    let labels = [("trigger", trigger.as_str()), ("outcome", outcome.as_str())];
    metrics::counter!(MAP_REFRESHES, &labels).increment(1);
}

/// How old the slot map is: since the first question of the newest refresh that is in it was sent.
pub fn slot_map_age(age: Micros) {
    metrics::gauge!(SLOT_MAP_AGE).set(age as f64 / SECOND as f64);
}

/// Slots that nobody claims, as of the newest refresh.
pub fn slots_uncovered(count: usize) {
    metrics::gauge!(SLOTS_UNCOVERED).set(count as f64);
}

/// Slots on the move, and those that several primaries claim for themselves.
pub fn migrations(totals: &Totals) {
    metrics::gauge!(SLOTS_SPLIT).set(totals.split as f64);
    metrics::gauge!(MIGRATIONS).set(totals.open as f64);
    metrics::gauge!(MIGRATIONS_FAILED).set(totals.failed as f64);
    let [warning, critical] = totals.stuck;
    metrics::gauge!(MIGRATIONS_STUCK, "severity" => "warning").set(warning as f64);
    metrics::gauge!(MIGRATIONS_STUCK, "severity" => "critical").set(critical as f64);
    metrics::gauge!(MIGRATION_AGE).set(totals.age as f64 / SECOND as f64);
}

/// Keys on a node, or on all, that lie in slots which somebody else serves.
pub fn orphaned_keys(node: &str, keys: u64) {
    metrics::gauge!(ORPHANED_KEYS, "node" => node.to_owned()).set(keys as f64);
}

/// Members of the cluster of that role and health.
pub fn members(role: &'static str, health: &'static str, count: usize) {
    metrics::gauge!(MEMBERS, "role" => role, "health" => health).set(count as f64);
}

/// The cluster has become another one behind the same addresses.
pub fn generation_changed() {
    metrics::counter!(GENERATIONS).increment(1);
}

/// So many Sentinels answer, of so many that there are.
pub fn sentinels(reachable: usize, size: usize) {
    metrics::gauge!(SENTINELS, "state" => "reachable").set(reachable as f64);
    let unreachable = size.saturating_sub(reachable);
    metrics::gauge!(SENTINELS, "state" => "unreachable").set(unreachable as f64);
}

/// Nothing is known of a cluster or a Sentinel group: there was none yet, or it is no longer ours.
pub fn topology_forgotten() {
    slot_map_age(0);
    slots_uncovered(0);
    migrations(&Totals::default());
    orphaned_keys("all", 0);
    for role in MemberRole::ALL {
        for health in Health::ALL {
            members(role.as_str(), health.as_str(), 0);
        }
    }
    sentinels(0, 0);
}

/// Sentinels have named another primary, and commands go there.
pub fn primary_followed() {
    metrics::counter!(PRIMARY_CHANGES).increment(1);
}

/// What Sentinels remember begins anew.
pub fn sentinel_generation_changed() {
    metrics::counter!(SENTINEL_GENERATIONS).increment(1);
}

/// A node has gone from one state to another.
///
/// The series of `all` counts the nodes in each state.
pub fn node_state(node: &str, before: NodeState, after: NodeState) {
    let gauge = |node: &str, state: NodeState| metrics::gauge!(NODE_STATE, "node" => node.to_owned(), "state" => state.as_str());
    for state in NodeState::ALL {
        gauge(node, state).set(f64::from(u8::from(state == after)));
    }
    // One that was never heard of was not counted.
    if before != NodeState::Unknown {
        gauge("all", before).decrement(1.0);
    }
    if after != NodeState::Unknown {
        gauge("all", after).increment(1.0);
        metrics::counter!(NODE_STATE_CHANGES, "state" => after.as_str()).increment(1);
    }
}

/// Nobody looks after that node any more: it is no longer shown in any state.
pub fn node_forgotten(node: &str, state: NodeState) {
    node_state(node, state, NodeState::Unknown);
    let labels = [("node", node.to_owned()), ("state", NodeState::Unknown.as_str().to_owned())];
    metrics::gauge!(NODE_STATE, &labels).set(0.0);
}

/// The answer to a PING of the control plane took so long.
pub fn node_ping(node: &str, took: Micros) {
    let seconds = took as f64 / SECOND as f64;
    metrics::gauge!(NODE_PING, "node" => node.to_owned()).set(seconds);
    metrics::gauge!(NODE_PING, "node" => "all").set(seconds);
}

/// From here on nobody dials a node, or commands for it are refused.
pub fn breaker_opened() {
    metrics::counter!(BREAKER_OPENS).increment(1);
}

/// Publishes the readiness as it is at the moment of a scrape.
///
/// `outages` is the number of times the upstream went from up to down since the start.
pub fn readiness(is_upstream_up: bool, is_draining: bool, outages: u64) {
    metrics::gauge!(UPSTREAM_UP).set(f64::from(u8::from(is_upstream_up)));
    metrics::gauge!(DRAINING).set(f64::from(u8::from(is_draining)));
    metrics::counter!(UPSTREAM_OUTAGES).absolute(outages);
}

/// Makes every series of this file appear with its first value, so that a rate has a beginning and
/// an alert does not mistake "never happened" for "not measured".
pub(super) fn register() {
    for reason in TurnedAway::ALL {
        metrics::counter!(CLIENTS_TURNED_AWAY, "reason" => reason.as_str()).absolute(0);
    }
    for result in Reload::ALL {
        metrics::counter!(CONFIG_RELOADS, "result" => result.as_str()).absolute(0);
        metrics::counter!(POLICY_RELOADS, "result" => result.as_str()).absolute(0);
    }
    // The files read at the start were good, otherwise there would be no process.
    metrics::gauge!(POLICY_LAST_RELOAD_SUCCESSFUL).set(1.0);
    metrics::gauge!(CONFIG_LAST_RELOAD_SUCCESSFUL).set(1.0);
    metrics::counter!(UPSTREAM_CHANGES).absolute(0);
    for name in [
        CREDENTIALS_ROTATED,
        CREDENTIALS_REFUSED,
        CREDENTIALS_PREVIOUS,
        RESOLVER_STALE,
        RESOLVER_CHANGES,
    ] {
        metrics::counter!(name).absolute(0);
    }
    credentials_alarm(false);
    readonly_mode(false);
    for reason in ResolverFailure::ALL {
        metrics::counter!(RESOLVER_FAILURES, "reason" => reason.as_str()).absolute(0);
    }
    metrics::counter!(LOG_LINES_SUPPRESSED).absolute(0);
    metrics::counter!(LIBRARIES_RESTORED).absolute(0);
    scripts(0, 0);
    metrics::counter!(SCRIPTS_UNREAD).absolute(0);
    metrics::counter!(SCRIPTS_DELAYED).absolute(0);
    for fault in ScriptFault::ALL {
        for enforced in ["yes", "no"] {
            let labels = [("fault", fault.as_str()), ("enforced", enforced)];
            metrics::counter!(SCRIPTS_REFUSED, &labels).absolute(0);
        }
    }
    for result in ScriptKill::ALL {
        metrics::counter!(SCRIPT_KILLS, "result" => result.as_str()).absolute(0);
    }
    for trigger in RefreshTrigger::ALL {
        for outcome in RefreshOutcome::ALL {
            let labels = [("trigger", trigger.as_str()), ("outcome", outcome.as_str())];
            metrics::counter!(MAP_REFRESHES, &labels).absolute(0);
        }
    }
    metrics::counter!(GENERATIONS).absolute(0);
    topology_forgotten();
    metrics::counter!(PRIMARY_CHANGES).absolute(0);
    metrics::counter!(SENTINEL_GENERATIONS).absolute(0);
    readiness(false, false, 0);
    for state in NodeState::ALL {
        let labels = [("node", "all"), ("state", state.as_str())];
        metrics::gauge!(NODE_STATE, &labels).set(0.0);
        metrics::counter!(NODE_STATE_CHANGES, "state" => state.as_str()).absolute(0);
    }
    metrics::gauge!(NODE_PING, "node" => "all").set(0.0);
    metrics::counter!(BREAKER_OPENS).absolute(0);
}

const BREAKER_OPENS: &str = "breakwater_breaker_opens_total";
const CLIENTS_TURNED_AWAY: &str = "breakwater_clients_turned_away_total";
const CONFIG_LAST_RELOAD_SUCCESSFUL: &str = "breakwater_config_last_reload_successful";
const CONFIG_RELOADS: &str = "breakwater_config_reloads_total";
const CREDENTIALS_ALARM: &str = "breakwater_credentials_alarm";
const CREDENTIALS_PREVIOUS: &str = "breakwater_credentials_previous_total";
const CREDENTIALS_REFUSED: &str = "breakwater_credentials_refused_total";
const CREDENTIALS_ROTATED: &str = "breakwater_credentials_rotations_total";
const DRAINING: &str = "breakwater_draining";
const GENERATIONS: &str = "breakwater_cluster_generations_total";
const LIBRARIES_RESTORED: &str = "breakwater_libraries_restored_total";
const LOG_LINES_SUPPRESSED: &str = "breakwater_log_lines_suppressed_total";
const MAP_REFRESHES: &str = "breakwater_slot_map_refreshes_total";
const MEMBERS: &str = "breakwater_cluster_members";
const MIGRATIONS: &str = "breakwater_migrations_open";
const MIGRATIONS_FAILED: &str = "breakwater_migrations_failed";
const MIGRATIONS_STUCK: &str = "breakwater_migrations_stuck";
const MIGRATION_AGE: &str = "breakwater_migration_age_seconds";
const NODE_PING: &str = "breakwater_node_ping_seconds";
const NODE_STATE: &str = "breakwater_node_state";
const NODE_STATE_CHANGES: &str = "breakwater_node_state_changes_total";
const ORPHANED_KEYS: &str = "breakwater_orphaned_keys";
const POLICY_LAST_RELOAD_SUCCESSFUL: &str = "breakwater_policy_last_reload_successful";
const POLICY_RELOADS: &str = "breakwater_policy_reloads_total";
const PRIMARY_CHANGES: &str = "breakwater_primary_changes_total";
const READONLY_MODE: &str = "breakwater_readonly_mode";
const RESOLVER_CHANGES: &str = "breakwater_resolver_changes_total";
const RESOLVER_FAILURES: &str = "breakwater_resolver_failures_total";
const RESOLVER_STALE: &str = "breakwater_resolver_stale_answers_total";
const SCRIPTS: &str = "breakwater_scripts";
const SCRIPTS_REFUSED: &str = "breakwater_scripts_refused_total";
const SCRIPTS_UNREAD: &str = "breakwater_scripts_unread_total";
const SCRIPTS_DELAYED: &str = "breakwater_scripts_delayed_total";
const SCRIPT_KILLS: &str = "breakwater_script_kills_total";
const SCRIPT_BYTES: &str = "breakwater_script_bytes";
const SENTINELS: &str = "breakwater_sentinels";
const SENTINEL_GENERATIONS: &str = "breakwater_sentinel_generations_total";
const SLOTS_SPLIT: &str = "breakwater_slots_split";
const SLOTS_UNCOVERED: &str = "breakwater_slots_uncovered";
const SLOT_MAP_AGE: &str = "breakwater_slot_map_age_seconds";
const UPSTREAM_CHANGES: &str = "breakwater_upstream_changes_total";
const UPSTREAM_OUTAGES: &str = "breakwater_upstream_outages_total";
const UPSTREAM_UP: &str = "breakwater_upstream_up";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::export::Exporter;

    #[test]
    fn every_event_reaches_the_exporter_under_its_name() {
        let exporter = Exporter::of_one(Vec::new(), |_| "");
        exporter.scoped(|| {
            client_turned_away(TurnedAway::MaxClients);
            config_reloaded(Reload::Refused);
            upstream_changed();
            log_lines_suppressed(7);
            scripts(2, 600);
            script_unread();
            script_delayed();
            script_refused(ScriptFault::Endless, true);
            script_kill(ScriptKill::Killed);
            libraries_restored(3);
            readiness(true, true, 3);
        });
        let text = exporter.render();
        for line in [
            "breakwater_clients_turned_away_total{reason=\"max_clients\"} 1",
            "breakwater_clients_turned_away_total{reason=\"tls_handshake\"} 0",
            "breakwater_config_reloads_total{result=\"refused\"} 1",
            "breakwater_config_reloads_total{result=\"applied\"} 0",
            "breakwater_config_last_reload_successful 0",
            "breakwater_upstream_changes_total 1",
            "breakwater_log_lines_suppressed_total 7",
            "breakwater_scripts 2",
            "breakwater_scripts_unread_total 1",
            "breakwater_scripts_delayed_total 1",
            "breakwater_scripts_refused_total{fault=\"endless\",enforced=\"yes\"} 1",
            "breakwater_script_kills_total{result=\"killed\"} 1",
            "breakwater_script_kills_total{result=\"over\"} 0",
            "breakwater_script_bytes 600",
            "breakwater_libraries_restored_total 3",
            "breakwater_upstream_up 1",
            "breakwater_draining 1",
            "breakwater_upstream_outages_total 3",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is missing");
        }
    }

    #[test]
    fn a_good_reload_clears_the_alarm_of_a_bad_one() {
        let exporter = Exporter::of_one(Vec::new(), |_| "");
        exporter.scoped(|| {
            config_reloaded(Reload::Refused);
            config_reloaded(Reload::Applied);
        });
        let text = exporter.render();
        assert!(text.lines().any(|it| it == "breakwater_config_last_reload_successful 1"));
    }
}

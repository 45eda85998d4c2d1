//! Metrics of the servers behind, one series a server: they come and go with the topology.
//!
//! Owns the families and the newest readings of each server, which the watcher replaces whole and
//! the page reads. They never enter the registry: it would show a server that is gone for ever.
//!
//! What surprises: a counter here is the server's own and begins anew when that restarts, as
//! Prometheus expects of counters.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::families;
use super::text::{self, Kind};

/// One number of a server; the name is one of [`FAMILIES`].
pub type Reading = (&'static str, f64);

/// The newest readings by server.
#[derive(Debug, Default)]
pub struct NodeSeries(Mutex<BTreeMap<String, Vec<Reading>>>);

// === impl NodeSeries ===

impl NodeSeries {
    /// Replaces everything: servers that are not among `all` are gone.
    pub fn set(&self, all: BTreeMap<String, Vec<Reading>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Appends every family, also those without a series.
    pub(super) fn write(&self, page: &mut String) {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for name in FAMILIES {
            let rows = nodes.iter().filter_map(|(node, readings)| {
                let (_, value) = readings.iter().find(|(family, _)| *family == name)?;
                Some((vec![("node", node.as_str())], *value))
            });
            let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
            text::write_rows(page, name, families::help(name), kind, rows);
        }
    }
}

/// Every family of this file; `families` has the help of each.
pub const FAMILIES: [&str; 39] = [
    "breakwater_node_watched",
    "breakwater_node_uptime_seconds",
    "breakwater_node_loading",
    "breakwater_node_keys",
    "breakwater_node_keyspace_hits_total",
    "breakwater_node_keyspace_misses_total",
    "breakwater_node_evicted_keys_total",
    "breakwater_node_expired_stale_ratio",
    "breakwater_node_slow_commands_total",
    "breakwater_node_clients",
    "breakwater_node_clients_max",
    "breakwater_node_clients_blocked",
    "breakwater_node_connections_rejected_total",
    "breakwater_node_memory_bytes",
    "breakwater_node_memory_max_bytes",
    "breakwater_node_resident_memory_bytes",
    "breakwater_node_memory_limit_bytes",
    "breakwater_node_script_memory_bytes",
    "breakwater_node_fragmentation_ratio",
    "breakwater_node_fragmentation_bytes",
    "breakwater_node_replicas",
    "breakwater_node_replicas_expected",
    "breakwater_node_replication_gap_bytes",
    "breakwater_node_replica_lag_seconds",
    "breakwater_node_backlog_bytes",
    "breakwater_node_backlog_size_bytes",
    "breakwater_node_write_peak_bytes",
    "breakwater_node_full_syncs_total",
    "breakwater_node_primary_link_up",
    "breakwater_node_primary_silent_seconds",
    "breakwater_node_save_ok",
    "breakwater_node_save_seconds",
    "breakwater_node_aof_ok",
    "breakwater_node_aof_bytes",
    "breakwater_node_aof_base_bytes",
    "breakwater_node_cluster_ok",
    "breakwater_node_cluster_nodes",
    "breakwater_node_cluster_slots_in_doubt",
    "breakwater_node_cluster_messages_total",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_go_with_their_server() {
        let series = NodeSeries::default();
        let all = |node: &str| [(node.to_owned(), vec![("breakwater_node_keys", 7.0)])].into();
        series.set(all("a\"b:1"));
        let mut page = String::new();
        series.write(&mut page);
        assert!(page.contains("\nbreakwater_node_keys{node=\"a\\\"b:1\"} 7\n"), "{page}");
        assert!(page.contains("# TYPE breakwater_node_slow_commands_total counter\n"));
        series.set(all("c:1"));
        page.clear();
        series.write(&mut page);
        assert!(!page.contains("a\\\"b") && page.contains("c:1"));
    }
}

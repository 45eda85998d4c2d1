//! `[[keyspace]]` on real servers: reads that go to replicas, writes that are held back, waits.
//!
//! Owns the proofs that only whole deployments can give: what goes on while a primary is away, what a replica that is
//! behind is not asked for, and that the order of a client's own commands holds across nodes. What surprises: that the
//! proxy knows a replica nothing tells at once; a key that only replicas may serve is asked until it is answered.

mod cluster;
mod one;
mod sentinel;
mod writes;

use crate::support::{Client, Proxy, until};

/// Two keyspaces of every policy here: `probe:*` is served by replicas or by nobody, `cache:*` by a replica while the
/// primary is away.
const USUAL: &str = "[[keyspace]]\nname = \"probe\"\nkeys = [\"probe:*\"]\nread_from = \"replica\"\n\
     [[keyspace]]\nname = \"cache\"\nkeys = [\"cache:*\"]\nwhen_primary_away = \"replica\"\n";

/// Waits until the proxy has found a replica in step for this key.
fn until_in_step(client: &mut Client, key: &str) {
    until("a replica is in step", || !client.text(&format!("GET {key}")).starts_with('-'));
}

/// What a keyspace has met.
fn met(proxy: &Proxy, keyspace: &str, fate: &str) -> f64 {
    let labels = format!("keyspace=\"{keyspace}\",fate=\"{fate}\"");
    proxy.metric_of("breakwater_keyspace_commands_total", &labels)
}

//! Breakwater before a real Redis Cluster: slots move, nodes die, and clients go on.
//!
//! Owns what only whole clusters can show; the parts below have their own tests. Never asserts a speed: what took
//! how long is printed, for whoever runs one of these by hand and at length. `BREAKWATER_CLUSTER_SECONDS`,
//! `_CLIENTS`, `_SLOTS` and `_ROUNDS` make them larger, `_SEED` repeats the choices of a run, `_KINDS` says
//! which kinds of work there are.
//!
//! What surprises: `harness` tests the tests' own cluster, without a proxy. A failure there is no fault of
//! Breakwater's.

mod failover;
mod gather;
mod harness;
mod load;
mod loops;
mod nodes;
mod order;
mod probe;
mod pubsub;
mod reshard;
mod scale;
mod smart;
mod stop;
mod storm;
mod topology;
mod work;

use crate::support::Proxy;
use crate::support::cluster::Cluster;

/// Breakwater before `cluster`, for applications that wait: what waits for the cluster waits as long as it ever does.
fn before(cluster: &Cluster) -> Proxy {
    let url = cluster.url();
    let toml = |port| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\nclient_timeout = \"60s\"\n\
             [upstream]\nurl = \"{url}\"\n"
        )
    };
    Proxy::listening(|port, _| toml(port)).ready()
}

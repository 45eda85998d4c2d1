//! Breakwater before a real Sentinel group: primaries die, Sentinels forget, and clients go on.
//!
//! Owns what only whole groups can show; the words that are weighed have tests of their own beside the rule. Never
//! asserts how long anything took, except that it ends.
//!
//! What surprises: each group is three Sentinels and two servers, and a failover takes the second in which the primary
//! is called down and one or two more. The tests run side by side.

mod failover;
mod memory;
mod names;
mod truth;

use crate::support::Proxy;

/// Breakwater before this upstream, for applications that wait.
fn before(url: &str) -> Proxy {
    Proxy::listening(|port, _| toml(port, url)).ready()
}

fn toml(port: u16, url: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:{port}\"\nclient_timeout = \"60s\"\n\
         [upstream]\nurl = \"{url}\"\n"
    )
}

//! From what a server says of itself to what is amiss: the thresholds, and why each matters.
//!
//! Owns the order of the checks and what they have in common; each file below owns one part of
//! INFO. Pure: a sample, what earlier ones added up to, and what the operator expects. A field that
//! the server does not have leaves its check without a word.
//!
//! What surprises: there are two kinds of findings. What *is* (memory full) is gone with the next
//! sample that is better; what *happened* (a restart, a rejected connection) is over when it is
//! seen, so the watcher goes on showing it for some minutes.

mod clients;
mod cluster;
mod memory;
mod persistence;
mod process;
mod replication;

pub use replication::backlog_advice;

use super::sample::{History, Sample};
use crate::config::Expect;
use crate::findings::Finding;

/// All that a check may look at.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// What messages call the server.
    pub node: &'a str,
    /// The newest sample.
    pub now: &'a Sample,
    /// What earlier ones added up to; the newest is noted in it but is not the last one yet.
    pub history: &'a History,
    /// What the operator expects.
    pub expect: &'a Expect,
}

/// What came of the checks.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is amiss now.
    pub standing: Vec<Finding>,
    /// What has happened since the last sample.
    pub events: Vec<Finding>,
}

/// Every check of one server.
#[must_use]
pub fn judge(case: &Case<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    refused(case, &mut verdict);
    process::judge(case, &mut verdict);
    memory::judge(case, &mut verdict);
    clients::judge(case, &mut verdict);
    replication::judge(case, &mut verdict);
    persistence::judge(case, &mut verdict);
    cluster::judge(case, &mut verdict);
    verdict
}

/// What a server does not tell is unknown, not fine.
fn refused(case: &Case<'_>, verdict: &mut Verdict) {
    for (command, words) in &case.now.refused {
        let id = match *command {
            "INFO" => "info_refused",
            "SLOWLOG" => "slowlog_refused",
            "CLUSTER" => "cluster_info_refused",
            _ => "watch_refused",
        };
        let repair = format!(
            "give our user +{} (ACL SETUSER), or name the command in the upstream's table 'renamed'",
            command.to_ascii_lowercase()
        );
        let reason = format!("{command} was refused: {words}");
        verdict.standing.push(Finding::not_checked(id, case.node, &reason, &repair));
    }
}

/// `redis-cli` with the address of a server, as a person would type it.
#[must_use]
pub fn cli(node: &str) -> String {
    if let Some(path) = node.strip_prefix("unix:") {
        return format!("redis-cli -s {path}");
    }
    match node.rsplit_once(':') {
        Some((host, port)) => {
            format!("redis-cli -h {} -p {port}", host.trim_matches(['[', ']']))
        }
        None => format!("redis-cli -h {node}"),
    }
}

/// Bytes for people: `1.5 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    let (mut value, mut unit) = (count as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

const MIB: u64 = 1 << 20;

#[cfg(test)]
mod tests;

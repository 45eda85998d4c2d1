//! CONFIG as a source of future incidents: settings that look fine until the day they matter.
//!
//! Owns the list of parameters and what each means here; `judge` and INFO speak of what is, this of
//! what will be. Pure but for what `probe` fetched. Never sets anything: the repair is printed, a
//! person runs it.
//!
//! What surprises: many defaults of Redis are findings. A backlog of one megabyte, no `timeout`, a
//! slow log of 128 entries suit a laptop. And a server that forbids CONFIG gets one *not checked*
//! for each check, so that nobody reads silence as health.

pub mod shape;

use std::collections::HashMap;

use super::judge::{bytes, cli};
use super::sample::{History, Sample};
use crate::findings::Finding;

/// What CONFIG GET is asked for, one by one: `*` would fetch passwords as well.
pub const PARAMETERS: [&str; 16] = [
    "save",
    "appendonly",
    "repl-backlog-size",
    "min-replicas-to-write",
    "timeout",
    "busy-reply-threshold",
    "lua-time-limit",
    "maxmemory-policy",
    "activedefrag",
    "client-output-buffer-limit",
    "slowlog-log-slower-than",
    "slowlog-max-len",
    "stop-writes-on-bgsave-error",
    "cluster-node-timeout",
    "cluster-replica-validity-factor",
    "cluster-require-full-coverage",
];

/// What was asked of one server.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Parameter to value; or why there is none.
    pub config: Result<HashMap<&'static str, String>, String>,
    /// Connections that have said nothing for an hour; `None` where it does not matter.
    pub idle: Option<Result<usize, String>>,
    /// Seconds since 1970.
    pub unix_seconds: u64,
}

/// Everything that a check may look at.
struct Lint<'a> {
    node: &'a str,
    config: &'a HashMap<&'static str, String>,
    asked: &'a Asked,
    now: &'a Sample,
    history: &'a History,
    found: Vec<Finding>,
}

/// Every check of one server.
#[must_use]
pub fn lint(node: &str, asked: &Asked, now: &Sample, history: &History) -> Vec<Finding> {
    let config = match &asked.config {
        Ok(config) => config,
        Err(reason) => return not_checked(node, reason, now),
    };
    let mut lint = Lint { node, config, asked, now, history, found: Vec::new() };
    lint.persistence();
    lint.replication();
    lint.clients();
    lint.memory();
    lint.diagnosis();
    lint.cluster();
    lint.found
}

/// Whether so many clients are worth counting the idle ones among.
#[must_use]
pub fn wants_idle(config: &HashMap<&'static str, String>, now: &Sample) -> bool {
    let clients = now.info.number("connected_clients").unwrap_or(0);
    config.get("timeout").is_some_and(|it| it == "0") && clients >= IDLE_MANY as u64
}

/// Without CONFIG each of the checks is named.
fn not_checked(node: &str, reason: &str, now: &Sample) -> Vec<Finding> {
    let is_cluster = now.info.text("cluster_state").is_some();
    let of_cluster = CHECKS_OF_CLUSTER.into_iter().filter(|_| is_cluster);
    let reason = format!("CONFIG GET was refused: {reason}");
    let repair = "give our user +config|get (ACL SETUSER); if CONFIG was renamed, write its name \
                  in the upstream's table 'renamed'";
    let finding = |id| Finding::not_checked(id, node, &reason, repair);
    CHECKS.into_iter().chain(of_cluster).map(finding).collect()
}

// === impl Lint ===

impl Lint<'_> {
    fn text(&self, parameter: &str) -> Option<&str> {
        self.config.get(parameter).map(String::as_str)
    }

    fn number(&self, parameter: &str) -> Option<i64> {
        self.text(parameter)?.parse().ok()
    }

    fn is(&self, parameter: &str, value: &str) -> bool {
        self.text(parameter) == Some(value)
    }

    fn replicas(&self) -> u64 {
        self.now.info.number("connected_slaves").unwrap_or(0)
    }

    fn warn(&mut self, id: &'static str, text: String, repair: String) {
        self.found.push(Finding::warning(id, self.node, text, repair));
    }

    fn note(&mut self, id: &'static str, text: String, repair: String) {
        self.found.push(Finding::info(id, self.node, text, repair));
    }

    /// `CONFIG SET`, ready to be copied.
    fn set(&self, rest: &str) -> String {
        format!("{} CONFIG SET {rest} && {0} CONFIG REWRITE", cli(self.node))
    }

    fn persistence(&mut self) {
        let saves = !self.is("save", "");
        if !saves && self.is("appendonly", "no") {
            let text = "neither save nor appendonly is on: after a restart it is empty (S3.10)";
            let repair = self.set("appendonly yes");
            self.warn("config_persistence", text.to_owned(), repair);
        }
        if self.is("stop-writes-on-bgsave-error", "no") {
            let text = "stop-writes-on-bgsave-error is no: when saving fails no write is refused, \
                        only rdb_last_bgsave_status shows it (S3.9)";
            let repair = self.set("stop-writes-on-bgsave-error yes");
            self.warn("config_stop_writes", text.to_owned(), repair);
        }
        let info = &self.now.info;
        let age =
            info.number("rdb_last_save_time").map(|at| self.asked.unix_seconds.saturating_sub(at));
        let changes = info.number("rdb_changes_since_last_save").unwrap_or(0);
        let is_old = age.is_some_and(|age| age > SAVE_AGE) && changes > 0;
        if saves && is_old && self.is("appendonly", "no") {
            let hours = age.unwrap_or(0) / 3_600;
            let text = format!("{changes} changes are not saved, the last save is {hours} h old");
            self.warn(
                "config_save_age",
                text,
                format!("{} BGSAVE; then check the save rules", cli(self.node)),
            );
        }
    }

    fn replication(&mut self) {
        let replicas = self.replicas();
        let size = self.number("repl-backlog-size").unwrap_or(i64::MAX);
        if size <= BACKLOG_DEFAULT {
            let text = format!(
                "repl-backlog-size is {}: a replica that is away for a moment under load copies \
                 everything anew (S3.2)",
                bytes(size.unsigned_abs())
            );
            let repair = self.set("repl-backlog-size 268435456");
            let repair = format!("{repair}; rule: peak bytes a second x 30 s x 2");
            if replicas > 0 {
                self.warn("config_backlog", text, repair);
            } else {
                self.note("config_backlog", text, repair);
            }
        }
        if replicas >= 2 && self.number("min-replicas-to-write") == Some(0) {
            let text = "min-replicas-to-write is 0: a primary that is cut off goes on accepting \
                        writes, which are gone when the network heals (S3.5)";
            let repair = self.set("min-replicas-to-write 1");
            self.warn("config_min_replicas", text.to_owned(), repair);
        }
        self.replica_buffer();
    }

    /// The buffer for a replica must last for a whole synchronization at the peak.
    fn replica_buffer(&mut self) {
        let words: Vec<&str> =
            self.text("client-output-buffer-limit").unwrap_or_default().split(' ').collect();
        let class = words.iter().position(|word| ["slave", "replica"].contains(word));
        let hard = class.and_then(|at| words.get(at + 1)?.parse::<u64>().ok());
        let has_synced = self.now.info.number("sync_full").is_some_and(|count| count > 0);
        let took = self.now.info.number("rdb_last_bgsave_time_sec").filter(|_| has_synced);
        let (Some(hard), Some(took), Some(peak)) = (hard, took, self.history.peak) else {
            return;
        };
        let needed = peak.saturating_mul(took.max(1));
        if hard > 0 && hard < needed {
            let text = format!(
                "client-output-buffer-limit replica ends a link at {}, but a full synchronization \
                 took {took} s, in which {} may be written: it would never finish (S3.2)",
                bytes(hard),
                bytes(needed)
            );
            let repair =
                self.set(&format!("client-output-buffer-limit \"replica {} 0 0\"", needed * 2));
            self.warn("config_replica_buffer", text, repair);
        }
    }

    fn clients(&mut self) {
        match self.asked.idle.clone() {
            Some(Ok(idle)) if idle >= IDLE_MANY => {
                let text = format!(
                    "timeout is 0 and {idle} connections have said nothing for an hour: leaked, or \
                     pools that are too large (S3.8)"
                );
                let repair = self.set("timeout 3600");
                self.warn("config_timeout", text, repair);
            }
            Some(Err(reason)) => self.found.push(Finding::not_checked(
                "config_timeout",
                self.node,
                &format!("timeout is 0, and the idle connections could not be counted: {reason}"),
                "look at CLIENT LIST by hand: idle and addr",
            )),
            _ => {}
        }
        let threshold =
            self.number("busy-reply-threshold").or_else(|| self.number("lua-time-limit"));
        if threshold.is_some_and(|limit| limit == 0 || limit > BUSY_MOST) {
            let text = "busy-reply-threshold is off or above 5 s: a script that hangs keeps the \
                        server mute that long before it can be killed (S3.4)";
            let repair = self.set("busy-reply-threshold 1000");
            self.warn("config_busy_threshold", text.to_owned(), repair);
        } else if let Some(limit) = threshold.filter(|&limit| limit > BUSY_GOOD) {
            let text = format!(
                "busy-reply-threshold is {limit} ms: so long a script that hangs keeps everybody \
                 waiting before anybody can kill it (S3.4); 500 to 1000 is enough for most"
            );
            let repair = self.set("busy-reply-threshold 1000");
            self.note("config_busy_threshold", text, repair);
        }
    }

    fn memory(&mut self) {
        let (keys, expires) = self.now.info.keyspace();
        let policy = self.text("maxmemory-policy").unwrap_or_default().to_owned();
        let is_bounded = self.now.info.number("maxmemory").is_some_and(|most| most > 0);
        let is_cache = keys >= KEYS_TO_JUDGE_BY && expires * 10 >= keys * 9;
        if policy == "noeviction" && is_bounded && is_cache {
            let text = format!(
                "maxmemory-policy is noeviction, but {expires} of {keys} keys expire, as in a \
                 cache: when it is full, writes fail instead of old keys going"
            );
            let repair = self.set("maxmemory-policy allkeys-lru");
            self.warn("config_eviction", text, repair);
        }
        let lasting = keys.saturating_sub(expires);
        let is_mixed = keys >= KEYS_TO_JUDGE_BY && lasting * 10 >= keys && expires * 10 >= keys;
        if policy.starts_with("allkeys-") && is_mixed {
            let text = format!(
                "maxmemory-policy is {policy}, and {lasting} of {keys} keys never expire: if those \
                 are data and no cache, they are evicted with the rest"
            );
            let repair = self.set("maxmemory-policy volatile-lru");
            self.note("config_allkeys", text, format!("if they are data: {repair}"));
        }
        if self.is("activedefrag", "no") {
            let text = "activedefrag is no: fragmentation is given back by a restart only (S3.6)";
            let repair = self.set("activedefrag yes");
            let repair = format!("{repair}; a build without it refuses that");
            self.note("config_activedefrag", text.to_owned(), repair);
        }
    }

    fn diagnosis(&mut self) {
        let slower = self.number("slowlog-log-slower-than");
        let length = self.number("slowlog-max-len");
        let is_blind = slower.is_some_and(|micros| !(0..=SLOWER_MOST).contains(&micros));
        if is_blind || length.is_some_and(|length| length < SLOWLOG_LENGTH) {
            let text = format!(
                "SLOWLOG keeps {} entries of commands over {} us: too little to explain an \
                 incident afterwards (-1: off)",
                length.unwrap_or(0),
                slower.unwrap_or(0)
            );
            let repair = self.set("slowlog-log-slower-than 10000 slowlog-max-len 1000");
            self.note("config_slowlog", text, repair);
        }
    }

    fn cluster(&mut self) {
        if self.now.info.text("cluster_state").is_none() {
            return;
        }
        let patience = self.number("cluster-node-timeout").unwrap_or(0);
        if patience > NODE_TIMEOUT_MOST && self.number("min-replicas-to-write") == Some(0) {
            let text = format!(
                "cluster-node-timeout is {patience} ms and min-replicas-to-write 0: a primary that \
                 is cut off accepts writes for about 1.4 times as long, and all of them are lost (S3.5)"
            );
            let repair = self.set("cluster-node-timeout 5000");
            self.warn("config_node_timeout", text, repair);
        }
        if self.number("cluster-replica-validity-factor") == Some(0) {
            let text = "cluster-replica-validity-factor is 0: a replica may take over however old \
                        its data is";
            let repair = self.set("cluster-replica-validity-factor 10");
            self.warn("config_replica_validity", text.to_owned(), repair);
        }
        if self.is("cluster-require-full-coverage", "yes") {
            let text = "cluster-require-full-coverage is yes: one lost shard makes all the others \
                        refuse commands (S2)";
            let repair = self.set("cluster-require-full-coverage no");
            self.note(
                "config_full_coverage",
                text.to_owned(),
                format!("if the rest may go on: {repair}"),
            );
        }
    }
}

/// The checks that need CONFIG, for the case that it is refused.
const CHECKS: [&str; 12] = [
    "config_persistence",
    "config_stop_writes",
    "config_save_age",
    "config_backlog",
    "config_min_replicas",
    "config_replica_buffer",
    "config_timeout",
    "config_busy_threshold",
    "config_eviction",
    "config_allkeys",
    "config_activedefrag",
    "config_slowlog",
];
/// Those of them that only a cluster has.
const CHECKS_OF_CLUSTER: [&str; 3] =
    ["config_node_timeout", "config_replica_validity", "config_full_coverage"];
/// Seconds after which unsaved changes are old.
const SAVE_AGE: u64 = 3_600;
/// Redis's own size of the backlog.
const BACKLOG_DEFAULT: i64 = 1 << 20;
/// Idle connections that are worth a word.
const IDLE_MANY: usize = 50;
/// Milliseconds that a script may keep everybody waiting before it can be killed.
const BUSY_GOOD: i64 = 1_000;
/// Redis's own threshold, in milliseconds.
const BUSY_MOST: i64 = 5_000;
/// Keys without which nothing can be said about their kind.
const KEYS_TO_JUDGE_BY: u64 = 100;
/// Microseconds: what is slower must be in the slow log, and how many of it.
const SLOWER_MOST: i64 = 10_000;
const SLOWLOG_LENGTH: i64 = 1_000;
/// Milliseconds: the usual time-out of a cluster's nodes.
const NODE_TIMEOUT_MOST: i64 = 15_000;

#[cfg(test)]
mod tests;

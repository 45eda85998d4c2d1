//! What the policy refuses, bounds, rewrites and paces, before real servers; and how it is changed meanwhile.
//!
//! Owns the proof that each promise of `docs/policy.md` holds on the wire, in RESP2 and RESP3, alone, in pipelines
//! and in transactions. Every other suite runs with `--profile open`. What surprises: whether something *ran* is asked
//! of the server itself (`INFO commandstats`), never concluded from what a client was told.

mod bounds;
mod catalogue;
mod denials;
mod emergency;
mod guide;
mod knowing;
mod pace;
mod reload;
mod rewrite;
mod scripts;

use crate::support::RedisServer;

/// How often the server has run a command, as it counts itself.
fn runs(redis: &RedisServer, command: &str) -> u64 {
    let stats = redis.client().text("INFO commandstats");
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
    let calls = line.and_then(|line| line.strip_prefix("calls="));
    calls.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}

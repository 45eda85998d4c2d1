//! Connections: how near the server is to refusing them.
//!
//! Owns `maxclients`, rejected connections and blocked clients.
//!
//! What surprises: a rejection is critical though it is over. Whoever was rejected is a pod that
//! could not start, and nothing else on the server shows it.

use super::{Case, Verdict, cli};
use crate::findings::Finding;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    let (info, node) = (&case.now.info, case.node);
    let connected = info.number("connected_clients").unwrap_or(0);
    let most = info.number("maxclients").filter(|most| *most > 0);
    if let Some(most) = most.filter(|most| connected as f64 > 0.8 * *most as f64) {
        verdict.standing.push(Finding::warning(
            "clients_near_max",
            node,
            format!(
                "{connected} of {most} connections are taken; the next ones are refused (S3.8)"
            ),
            format!("{} CLIENT LIST, sorted by addr and idle, shows who holds them", cli(node)),
        ));
    }
    let rejected = case.history.growth(case.now, "rejected_connections");
    if let Some(count) = rejected.filter(|count| *count > 0) {
        verdict.events.push(Finding::critical(
            "connections_rejected",
            node,
            format!("{count} connections were rejected since the last look: maxclients is reached (S3.8)"),
            format!(
                "{0} CLIENT LIST shows who holds them; {0} CONFIG SET maxclients MORE buys time",
                cli(node)
            ),
        ));
    }
    let blocked = info.number("blocked_clients").unwrap_or(0);
    if blocked >= BLOCKED_MANY && blocked * 2 > connected {
        verdict.standing.push(Finding::info(
            "clients_blocked",
            node,
            format!("{blocked} of {connected} clients wait in a blocking command"),
            "right for consumers of queues; if there are none, the producers have stopped".into(),
        ));
    }
}

/// Fewer blocked clients are nothing to speak of.
const BLOCKED_MANY: u64 = 100;

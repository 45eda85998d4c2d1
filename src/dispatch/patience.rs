//! How long a command may wait for a node.
//!
//! Owns the rule: a command waits only while there is reason to believe that somebody will serve
//! it, and never longer than the bounds of its keyspace, or of its listener where that says nothing.
//! Never waits itself, never sends.
//!
//! What surprises: before a single node nothing is waited for but what has been announced: a
//! successor, or data that is being loaded. A node that is merely gone fails its clients at once,
//! because a thousand of them waiting in vain is how an outage spreads.

use crate::clock::{self, Micros};
use crate::dispatch::keyspaces;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::topology::redirect::NotNow;
use crate::upstream::dial::Node;
use crate::worker::Worker;

/// What a command waits for, which decides for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A slot that is on the move.
    Migration,
    /// A node that is to come back, or to be replaced.
    Failover,
}

/// Whether the command of `frame` of `session`, which waits since `since`, has waited for long enough.
#[must_use]
pub fn is_over(
    worker: &Worker,
    session: &Session,
    (frame, since): (&[u8], Micros),
    waiting: Waiting,
) -> bool {
    let (wait, client_timeout) = keyspaces::patience(worker, frame);
    let limit = match waiting {
        Waiting::Migration => session.gate.migration_wait(client_timeout),
        Waiting::Failover => session.gate.failover_wait(wait, client_timeout),
    };
    worker.now.saturating_sub(since) >= clock::to_micros(limit)
}

/// Whether the command of `frame`, which waits since `since` for `node`, which cannot be had now, may
/// wait on.
#[must_use]
pub fn may_wait(
    worker: &Worker,
    topology: &Topology,
    session: &Session,
    node: &Node,
    (frame, since): (&[u8], Micros),
) -> bool {
    let since = if topology.slots.is_some() {
        // Of a cluster somebody takes the place of whoever is gone, soon or not at all.
        node.health.away_since().unwrap_or(since)
    } else if is_succession_due(worker.now, topology) || node.health.is_loading() {
        since
    } else {
        return false;
    };
    !is_over(worker, session, (frame, since), Waiting::Failover)
}

/// Whether a successor of the one node has been announced.
#[must_use]
pub fn is_succession_due(now: Micros, topology: &Topology) -> bool {
    topology.failover_until > now
}

/// Whether what a single node says of itself will pass, so that its command may wait. A replica
/// that is asked to write stays one, unless somebody decides otherwise.
#[must_use]
pub fn will_pass(topology: &Topology, why: NotNow) -> bool {
    match why {
        NotNow::Loading => true,
        NotNow::ReadOnly | NotNow::Unblocked => topology.node.is_replaceable(),
        // Of a cluster, or of a replica that somebody chose to ask.
        NotNow::ClusterDown | NotNow::MasterDown => topology.slots.is_some(),
    }
}

#[cfg(test)]
mod tests;

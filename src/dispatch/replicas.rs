//! Whether a replica may serve a command, and which one.
//!
//! Owns the choice, out of what the control plane believes of the replicas at this moment. Never
//! asks a replica and never measures (`topology::cluster` does). Only commands that read, and run
//! none of the user's code, are sent there.
//!
//! What surprises: a session keeps to one replica while the picture stands, so that what it reads
//! does not go back in time from one command to the next. It may still not see its own last write:
//! that is what READONLY means.

use std::sync::Arc;

use super::Asked;
use crate::clock;
use crate::config::ReplicaReads;
use crate::refusal::Refusal;
use crate::session::state::Session;
use crate::topology::slots::{Member, SlotMap};
use crate::upstream::dial::Node;
use crate::worker::Worker;

/// Who shall serve a command, if that need not be the primary. All nodes of a deployment have the settings of `node`.
#[inline]
pub fn wish(session: &Session, node: &Node, asked: &Asked) -> Option<ReplicaReads> {
    let configured = node.settings.cluster.as_ref()?.replica_reads;
    let wish = match configured {
        ReplicaReads::Primary if session.is_readonly => ReplicaReads::PreferReplica,
        ReplicaReads::Primary => return None,
        wish => wish,
    };
    (asked.is_retry_safe && asked.role.is_plain() && asked.frames == 1).then_some(wish)
}

/// The replica of `owner` for a command of `session`; `None`: the primary.
///
/// # Errors
/// What the client is told if only a replica would do.
pub fn choose(
    worker: &Worker,
    slots: &SlotMap,
    session: &Session,
    owner: &Member,
    wish: ReplicaReads,
) -> Result<Option<Arc<Node>>, Refusal> {
    let settings = owner.node.settings.cluster.as_ref();
    let max_lag = settings.map_or(0, |cluster| clock::to_micros(cluster.replica_max_lag));
    let in_step = of(slots, owner)
        .filter(|(node, _)| node.freshness.is_within(max_lag, false, worker.now))
        .filter(|(node, _)| node.refusal(worker.now).is_none());
    match pick(session.client.id, in_step) {
        Some(node) => {
            worker.stats.replica_reads.increment();
            Ok(Some(Arc::clone(node)))
        }
        None if wish == ReplicaReads::Replica => {
            Err(Refusal::NoReplica { node: owner.node.name.clone() })
        }
        None => Ok(None),
    }
}

/// The replicas of `owner`, and whether each is near.
pub fn of<'m>(
    slots: &'m SlotMap,
    owner: &'m Member,
) -> impl Iterator<Item = (&'m Arc<Node>, bool)> + Clone {
    let zone = owner.node.settings.cluster.as_ref().and_then(|cluster| cluster.zone.as_deref());
    let is_near = move |it: &Member| zone.is_some() && it.zone.as_deref() == zone;
    slots.members.replicas_of(owner.node.id).map(move |it| (&it.node, is_near(it)))
}

/// One of those that are in step: a near one if there is any, and of as many always the same for a
/// client of that number. They are looked through again for each question, because a list would be an
/// allocation a command.
pub fn pick<'m>(
    client: u64,
    in_step: impl Iterator<Item = (&'m Arc<Node>, bool)> + Clone,
) -> Option<&'m Arc<Node>> {
    let place = |count: usize| usize::try_from(client).unwrap_or(0) % count;
    let mut near = in_step.clone().filter(|(_, is_near)| *is_near);
    let mut all = in_step.clone();
    let chosen = match (near.clone().count(), in_step.count()) {
        (_, 0) => None,
        (0, count) => all.nth(place(count)),
        (count, _) => near.nth(place(count)),
    };
    chosen.map(|(node, _)| node)
}

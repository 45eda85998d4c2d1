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
use std::sync::atomic::Ordering;

use super::Asked;
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
    let zone = owner.node.settings.cluster.as_ref().and_then(|cluster| cluster.zone.as_deref());
    // Looked through again for each question: a list would be an allocation a command.
    let in_step = || {
        let replicas = slots.members.replicas_of(owner.node.id);
        replicas
            .filter(|it| it.node.in_step_until.load(Ordering::Relaxed) > worker.now)
            .filter(|it| it.node.refusal(worker.now).is_none())
    };
    let is_near = |it: &Member| zone.is_some() && it.zone.as_deref() == zone;
    let near = in_step().filter(|it| is_near(it)).count();
    let place = |count: usize| usize::try_from(session.client.id).unwrap_or(0) % count;
    let chosen = match (near, in_step().count()) {
        (_, 0) => None,
        (0, all) => in_step().nth(place(all)),
        (near, _) => in_step().filter(|it| is_near(it)).nth(place(near)),
    };
    match chosen {
        Some(member) => {
            worker.stats.replica_reads.increment();
            Ok(Some(Arc::clone(&member.node)))
        }
        None if wish == ReplicaReads::Replica => {
            Err(Refusal::NoReplica { node: owner.node.name.clone() })
        }
        None => Ok(None),
    }
}

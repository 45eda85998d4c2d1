//! Whether a write may go on while something speaks against it.
//!
//! Owns the look at each command that may write, in the times in which there is something to look
//! for: the published table then leads all of them here. Never finds anything out (the control plane
//! does) and costs nothing while there is nothing to look for.
//!
//! What surprises: what is refused here in a transaction makes its EXEC fail, as an error of Redis
//! would; what was queued before there was something to look for is not called back.

use super::{Dispatched, keyspaces, not_executed, refuse, refuse_with};
use crate::clock::{Micros, to_micros};
use crate::command::Command;
use crate::command::errors;
use crate::command::keys;
use crate::command::spec::{Class, Spec};
use crate::config::WriteGuard;
use crate::refusal::Refusal;
use crate::refusal::guarded::Guarded;
use crate::route::frame;
use crate::route::slot::slot;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::upstream::dial::Node;
use crate::upstream::lane::Waiter;
use crate::worker::Worker;

/// Lets a command that may write go on, or answers it.
///
/// # Errors
/// What became of it.
#[cold]
pub fn admit<'t>(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &'t Spec,
    command: Command<'_>,
) -> Result<&'t Spec, Dispatched> {
    if topology.table.refuses_writes() {
        let refusal = Refusal::barred(&spec.name, session.identity.is_none());
        return Err(refuse(worker, session, spec, &refusal));
    }
    if !spec.takes(command.len()) {
        return Err(refuse_with(worker, session, Some(spec), |line| {
            errors::wrong_arity(line, spec);
        }));
    }
    // A stranger is told first that it is one.
    if session.identity.is_none() {
        return Ok(spec);
    }
    match refusal(worker, topology, spec, &command) {
        Some(refusal) => {
            worker.stats.writes_guarded.increment();
            Err(not_executed(worker, session, spec, &refusal))
        }
        None => Ok(spec),
    }
}

/// Whether a write that was let go on is to be confirmed by replicas: one of its keys is meant.
#[cold]
pub fn confirms(
    worker: &mut Worker,
    topology: &Topology,
    spec: &Spec,
    command: &Command<'_>,
) -> bool {
    let Some(confirm) = &topology.node.settings.guards.confirm else {
        return false;
    };
    if spec.class_for(command) != Class::Shared {
        return false;
    }
    let has_keys = keys::keys(spec, command, &mut worker.keys).is_ok() && !worker.keys.is_empty();
    let keys = worker.keys.iter().filter_map(|key| command.argument(key.index as usize));
    has_keys && confirm.keys.match_any(keys)
}

/// What speaks against sending a command now that was taken earlier and has waited since.
#[must_use]
pub fn late(
    worker: &mut Worker,
    topology: &Topology,
    waiter: &Waiter,
    (frame, slot): (&[u8], Option<u16>),
) -> Option<Refusal> {
    if waiter.is_retry_safe {
        return None;
    }
    if waiter.frames == 1
        && let Some(refusal) = keyspaces::late(worker, topology, frame)
    {
        return Some(refusal);
    }
    if !topology.table.watches_writes() {
        return None;
    }
    if waiter.frames > 1 {
        // A whole transaction, taken when there were no claims: nothing else lets one through.
        return topology.claims.as_ref()?.bar(slot.as_slice());
    }
    let against = |command: &Command<'_>, spec: &Spec| {
        spec.may_write().then(|| refusal(worker, topology, spec, command)).flatten()
    };
    frame::with_command(&topology.table, frame, against).flatten()
}

/// What speaks against it.
fn refusal(
    worker: &mut Worker,
    topology: &Topology,
    spec: &Spec,
    command: &Command<'_>,
) -> Option<Refusal> {
    // What has no keys, or makes no sense, leaves the list empty.
    let _ = keys::keys(spec, command, &mut worker.keys);
    let keys = || worker.keys.iter().filter_map(|key| command.argument(key.index as usize));
    let slots = || -> Vec<u16> { keys().map(slot).collect() };
    if let Some(claims) = &topology.claims
        && let Some(refusal) = claims.bar(&slots())
    {
        return Some(refusal);
    }
    let guard = topology.node.settings.guards.write_guard.as_ref()?;
    if !guard.keys.match_any(keys()) {
        return None;
    }
    match &topology.slots {
        None => out_of_step(&topology.node, guard, worker.now),
        Some(map) => {
            let slots = slots();
            let owner = |slot: &u16| map.owner(*slot);
            // What names no key may write anywhere.
            let everywhere = map.shards().filter(|_| slots.is_empty());
            let mut owners = slots.iter().filter_map(owner).chain(everywhere);
            owners.find_map(|owner| out_of_step(&owner.node, guard, worker.now))
        }
    }
}

/// That too few replicas of `node` are in step, if they are.
fn out_of_step(node: &Node, guard: &WriteGuard, now: Micros) -> Option<Refusal> {
    let lack = node.sync.lack(guard.replicas, now)?;
    Some(Refusal::Guarded(Box::new(Guarded::OutOfStep {
        node: node.name.clone(),
        in_step: lack.in_step.map(|count| (count, lack.lasts)),
        wanted: guard.replicas,
        max_lag: to_micros(guard.max_lag),
    })))
}

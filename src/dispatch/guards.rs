//! Whether a write may go on while something speaks against it.
//!
//! Owns the look at each command that may write, in the times in which there is something to look
//! for: the published table then leads all of them here. Never finds anything out (the control plane
//! does) and costs nothing while there is nothing to look for.
//!
//! What surprises: what is refused here in a transaction makes its EXEC fail, as an error of Redis
//! would; what was queued before there was something to look for is not called back.

use super::{Dispatched, not_executed};
use crate::command::Command;
use crate::command::keys;
use crate::command::spec::Spec;
use crate::refusal::Refusal;
use crate::route::slot::slot;
use crate::session::state::Session;
use crate::topology::Topology;
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

/// What speaks against it.
fn refusal(
    worker: &mut Worker,
    topology: &Topology,
    spec: &Spec,
    command: &Command<'_>,
) -> Option<Refusal> {
    let claims = topology.claims.as_ref()?;
    // What has no keys, or makes no sense, leaves the list empty.
    let _ = keys::keys(spec, command, &mut worker.keys);
    let found = worker.keys.iter().filter_map(|key| command.argument(key.index as usize));
    let slots: Vec<u16> = found.map(slot).collect();
    claims.bar(&slots)
}

/// What speaks against sending a command now that was taken earlier and has waited since.
#[must_use]
pub fn late(topology: &Topology, waiter: &Waiter, slot: Option<u16>) -> Option<Refusal> {
    let claims = topology.claims.as_ref()?;
    let may_write = topology.table.spec(waiter.command).is_some_and(Spec::may_write);
    // Of a whole transaction only the last command is known by name.
    let is_block = waiter.frames > 1 && !waiter.is_retry_safe;
    (may_write || is_block).then(|| claims.bar(slot.as_slice())).flatten()
}

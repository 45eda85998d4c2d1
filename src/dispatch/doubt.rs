//! What is refused because of what the session has said before.
//!
//! Owns two refusals: of commands that were sent before their client could know that an earlier write
//! of its own is in doubt (INV-3, no inversion), and of whole transactions. Never decides that
//! something is in doubt (`loss` does). What surprises: a refused block still answers its MULTI and
//! its queued commands, because its client counts replies.

use super::{Dispatched, not_executed};
use crate::command::spec::{Class, Spec};
use crate::refusal::Refusal;
use crate::resp::write;
use crate::session::state::Session;
use crate::stats::labels::Outcome;
use crate::topology::Topology;
use crate::worker::Worker;

/// A write of the session is in doubt, and this was sent before the client could know (INV-3). The
/// commands that end a transaction pass: they find that its connection is lost.
pub fn is_after_doubt(session: &Session, class: Class) -> bool {
    session.doubtful > 0 && class != Class::Local && !session.in_transaction()
}

/// Answers a command that might overtake a write in doubt.
pub fn refuse_doubtful(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
) -> Dispatched {
    let refusal = why(topology, session);
    not_executed(worker, session, spec, &refusal)
}

/// Why what the session sent before its client could know is not executed.
pub fn why(topology: &Topology, session: &Session) -> Refusal {
    if session.lacks_transaction {
        Refusal::NoTransaction
    } else {
        Refusal::NotInverted { node: topology.node.name.clone() }
    }
}

/// As [`not_executed`], for all commands of a block.
pub fn not_executed_block(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    commands: u32,
    refusal: &Refusal,
) -> Dispatched {
    worker.stats.command(spec.id.stats_index(), Outcome::NotExecuted).increment();
    worker.answer(session, |line| {
        write_queued(line, commands);
        refusal.write(line);
    });
    Dispatched::Done
}

/// The replies of a block's first commands, in front of the error that stands for EXEC's.
pub fn write_queued(line: &mut Vec<u8>, frames: u32) {
    for place in 1..frames {
        write::simple(line, if place == 1 { "OK" } else { "QUEUED" });
    }
}

//! Interim: replaced by the real module.
use crate::command::Command;
use crate::command::spec::Spec;
use crate::dispatch::Dispatched;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::worker::Worker;
/// Interim.
pub fn answer(worker: &mut Worker, _: &Topology, session: &mut Session, _: &Spec, _: Command<'_>) -> Dispatched {
    worker.answer(session, |line| line.extend_from_slice(b"+OK\r\n"));
    Dispatched::Done
}

//! A command whose node is still to be chosen, and what becomes of it if none can be had.
//!
//! Owns what must be known of it until then. Never chooses: `cluster` does, where there is a choice.
//! A command that waits is *taken*: it has its reply slot and stands among its session's detours,
//! so that whatever does not depend on it may pass.

use bytes::Bytes;

use super::doubt::not_executed_block;
use super::{Asked, Dispatched, detour, not_executed, patience, waiter};
use crate::buffer::Piece;
use crate::command::spec::Spec;
use crate::refusal::Refusal;
use crate::session::detour::Answer;
use crate::session::state::Session;
use crate::topology::Topology;
use crate::upstream::dial::Node;
use crate::upstream::identity::Identity;
use crate::upstream::lane::LaneKey;
use crate::upstream::loss::GONE_AFTER;
use crate::upstream::pool::NoLane;
use crate::worker::Worker;

/// A command on its way to a node that is still to be chosen.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// The picture that it is chosen from.
    pub topology: &'a Topology,
    /// Who asks.
    pub identity: Identity,
    /// Where all its keys lie; `None`: it has none.
    pub slot: Option<u16>,
    /// Whether it may hold others up.
    pub is_bulk: bool,
    /// What its waiter must know.
    pub asked: Asked,
    /// Its bytes.
    pub frame: Piece<'a>,
}

// === impl Order ===

impl Order<'_> {
    /// `node` cannot be had now: the command waits for it, or for another in its place, if
    /// there is any hope within its time.
    #[cold]
    pub fn park(
        &self,
        worker: &mut Worker,
        session: &mut Session,
        node: &Node,
        refusal: Refusal,
    ) -> Dispatched {
        worker.shared.map_is_old.notify_one();
        let what = (self.frame.bytes(), worker.now);
        let may_wait = patience::may_wait(worker, self.topology, session, node, what);
        if may_wait && session.in_flight > 0 && self.topology.slots.is_none() {
            // What it sent before is still on a lane, and comes first (INV-12).
            return Dispatched::Wait;
        }
        if !may_wait && let Some(spec) = self.topology.table.spec(self.asked.command) {
            return match self.asked.frames {
                1 => not_executed(worker, session, spec, &refusal),
                frames => not_executed_block(worker, session, spec, frames, &refusal),
            };
        }
        let own = LaneKey::of(session, self.identity, self.topology.epoch, node.id);
        let key = LaneKey { is_bulk: self.is_bulk, ..own };
        let waiter = waiter(worker.now, session, self.asked);
        let frame = Bytes::copy_from_slice(self.frame.bytes());
        session.in_flight += 1;
        let place = (key, self.slot);
        detour::park(worker, session, waiter, frame, place, Answer::Refusal(refusal));
        session.end_of_command();
        Dispatched::Done
    }
}

/// As [`unavailable`], but where somebody is about to take the node's place it is waited for.
pub fn unless_replaced(
    worker: &mut Worker,
    (topology, node): (&Topology, &Node),
    session: &mut Session,
    (spec, frame): (&Spec, &Piece<'_>),
    refused: NoLane,
) -> Dispatched {
    if refused == NoLane::Wait {
        return Dispatched::Wait;
    }
    let since = *session.waits_since.get_or_insert(worker.now);
    let may_wait = patience::may_wait(worker, topology, session, node, (frame.bytes(), since));
    // Nothing is executed for somebody who has gone (INV-3).
    let has_waited = worker.now.saturating_sub(since) >= GONE_AFTER;
    if may_wait && !(has_waited && session.has_left()) {
        worker.shared.map_is_old.notify_one();
        worker.detouring.mark(session.id);
        return Dispatched::Wait;
    }
    session.waits_since = None;
    unavailable(worker, session, spec, refused)
}

/// Answers with what keeps the command from its connection.
pub fn unavailable(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    refused: NoLane,
) -> Dispatched {
    match refused {
        NoLane::Wait => Dispatched::Wait,
        NoLane::Refused(refusal) => not_executed(worker, session, spec, &refusal),
    }
}

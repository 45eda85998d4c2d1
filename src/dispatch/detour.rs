//! What follows from a redirect, a lost lane or a node that is down: the command is routed again,
//! or its client is told.
//!
//! Owns the decisions about [`Detour`]s: [`take`] takes a command off its lane upon a redirect,
//! [`adopt`] upon a loss. When they are sent `departure` decides. Never sends what may have run
//! (INV-3): what a server redirects it has not run, and `loss` has judged the rest. Hops and waits
//! are bounded in number and in time; what is told then is what the node said last.
//!
//! What surprises: a script can return the very text of a redirect after it has written. For
//! commands that run the user's code the same node is asked an EXISTS of the same keys first; only
//! what it redirects as well was real.

use std::sync::Arc;

use bytes::Bytes;

use super::patience::{self, Waiting};
use super::{Settled, departure, settle_guarded};
use crate::buffer::Piece;
use crate::clock::{MILLISECOND, Micros};
use crate::command::spec::Spec;
use crate::config::Endpoint;
use crate::refusal::Refusal;
use crate::resp::write;
use crate::route;
use crate::session::detour::{Aim, Answer, Detour, Stage};
use crate::session::pin::Pending;
use crate::session::state::Session;
use crate::stats::labels::{Outcome, Redirected};
use crate::topology::Topology;
use crate::topology::redirect::{self, NotNow, Redirect};
use crate::topology::slots::NodeId;
use crate::upstream::dial::Node;
use crate::upstream::lane::{Lane, LaneKey, Patience, Role, Waiter};
use crate::upstream::loss;
use crate::upstream::pinned;
use crate::worker::Worker;

/// Upon an error reply to the first waiter of a lane: if it says "not here" or "not now", the
/// command leaves the lane. Returns whether it did; the reply is used up then.
#[cold]
pub fn take(worker: &mut Worker, lane: &mut Lane, reply: &[u8]) -> bool {
    let Some(first) = lane.waiters.front().copied() else {
        return false;
    };
    let is_free = lane.pinned.is_none() || has_left_nothing(worker, lane, &first);
    let is_candidate = is_free && !lane.streaming && first.role != Role::Probe && !first.is_bound();
    let before = if first.frames > 1 { lane.block.1.clone() } else { Vec::new() };
    let Some(redirect) = redirect::of_block(&before, reply).filter(|_| is_candidate) else {
        return false;
    };
    let Some(frame) = lane.send.piece(first.start(), first.end).map(owned) else {
        return false;
    };
    if !loss::is_wanted(worker, &first) {
        return false;
    }
    let topology = Arc::clone(worker.topology.load());
    let answer = Answer::Reply([&before, reply].concat().into());
    let mut detour = detour_of(worker, &topology, &first, frame, lane.key.clone(), answer);
    // A replica that was asked in the place of a single node says nothing of that one.
    let is_replicas = topology.slots.is_none() && lane.node.id != topology.node.id;
    let is_its_own = is_replicas && matches!(redirect, Redirect::NotNow(_));
    if !is_its_own && !is_about(&topology, &redirect, detour.slot) {
        // Only what was on the list goes back there: nobody would take anything else off it.
        if first.is_detour {
            restore(worker, detour);
        }
        return false;
    }
    detour.waiter.is_asking = first.is_asking;
    let is_whole = first.frames == 1 && !matches!(first.role, Role::Part { .. });
    let is_users =
        is_whole && topology.table.spec(first.command).is_none_or(|spec| spec.runs_user_code());
    lane.finish_first(&mut worker.pool);
    if lane.pinned.is_some() {
        give_back(worker, lane, &detour);
    }
    if is_users {
        probe(worker, &topology, lane, detour);
        return true;
    }
    let waiting = follow_redirect(worker, &topology, &mut detour, redirect, &lane.node);
    keep_or_tell(worker, &topology, detour, waiting);
    true
}

/// Whether a command on a connection of its own has left nothing there, so that another connection
/// will do as well.
fn has_left_nothing(worker: &Worker, lane: &Lane, waiter: &Waiter) -> bool {
    let session = worker.sessions.get(waiter.session);
    let table = &worker.shared.topology.load().table;
    let runs_user_code = table.spec(waiter.command).is_none_or(Spec::runs_user_code);
    session.and_then(|session| session.pin.as_ref()).is_some_and(|pin| {
        let is_alone = pin.lane == Some(lane.id) && !pin.holds_state();
        let leaves_nothing = match pin.pending {
            Some(Pending::Blocking | Pending::Watch) => true,
            // Nobody could tell a script's own words from the node's.
            Some(Pending::Confirm(_)) => !runs_user_code,
            _ => false,
        };
        is_alone && leaves_nothing
    })
}

/// The session needs this connection no more: its command goes on elsewhere.
fn give_back(worker: &mut Worker, lane: &mut Lane, detour: &Detour) {
    if let Some(session) = worker.sessions.get_mut(detour.waiter.session) {
        session.lane = None;
        if let Some(pin) = &mut session.pin {
            pin.lane = None;
        }
    }
    // Whoever lets go of its clients closes their connections.
    let is_clean = !matches!(&detour.answer, Answer::Reply(line) if line.starts_with(b"-UNB"));
    pinned::give_back_lane(worker, lane, is_clean);
}

/// As [`take`], for one of several parts that the first waiter of a lane waits for; `frame` is its
/// command.
pub fn take_part(
    worker: &mut Worker,
    lane: &Lane,
    own: Waiter,
    frame: Bytes,
    reply: &[u8],
) -> bool {
    let Some(redirect) = redirect::read(reply) else {
        return false;
    };
    let topology = Arc::clone(worker.topology.load());
    let answer = Answer::Reply(Bytes::copy_from_slice(reply));
    let mut detour = detour_of(worker, &topology, &own, frame, lane.key.clone(), answer);
    if !is_about(&topology, &redirect, detour.slot) {
        return false;
    }
    detour.waiter.is_asking = own.is_asking;
    let waiting = follow_redirect(worker, &topology, &mut detour, redirect, &lane.node);
    keep_or_tell(worker, &topology, detour, waiting);
    true
}

/// The reply to the question whether a redirect was the node's own, or none came.
pub fn proven(worker: &mut Worker, waiter: &Waiter, settled: &Settled<'_>) {
    let topology = Arc::clone(worker.topology.load());
    let session = worker.sessions.get_mut(waiter.session);
    let Some(mut detour) = session.and_then(|session| take_off(session, waiter)) else {
        return;
    };
    let asked = topology.slots.as_ref().and_then(|slots| slots.members.get(detour.key.node));
    let node = asked.map_or_else(|| Arc::clone(&topology.node), |member| Arc::clone(&member.node));
    let redirect = match settled {
        Settled::Reply { bytes, .. } => redirect::read(bytes),
        Settled::Failed { .. } => None,
    };
    match redirect.filter(|redirect| is_about(&topology, redirect, detour.slot)) {
        Some(redirect) => {
            let waiting = follow_redirect(worker, &topology, &mut detour, redirect, &node);
            keep_or_tell(worker, &topology, detour, waiting);
        }
        // What the script said, it said.
        None => tell(worker, detour),
    }
}

/// A command whose lane is lost and that `loss` allows to be sent again.
pub fn adopt(worker: &mut Worker, lane: &Lane, frame: Piece<'_>, waiter: &Waiter) {
    let topology = Arc::clone(worker.topology.load());
    let refusal = lane.node.refusal(worker.now).unwrap_or_else(|| Refusal::NodeDown {
        node: lane.node.name.clone(),
        cause: "reset",
        retry_in: 0,
    });
    if waiter.role == Role::Probe {
        let failed = Settled::Failed { refusal, outcome: Outcome::NotExecuted };
        return settle_guarded(worker, waiter, failed);
    }
    worker.stats.redirected(Redirected::Unreachable).increment();
    worker.shared.map_is_old.notify_one();
    let (key, answer) = (lane.key.clone(), Answer::Refusal(refusal));
    let mut detour = detour_of(worker, &topology, waiter, owned(frame), key, answer);
    detour.stage = Stage::Due { at: worker.now, to: None };
    restore(worker, detour);
}

/// A fresh command that has no node to go to; it has its reply slot already.
pub fn park(
    worker: &mut Worker,
    session: &mut Session,
    waiter: Waiter,
    frame: Bytes,
    (key, slot): (LaneKey, Option<u16>),
    answer: Answer,
) {
    worker.stats.redirected(Redirected::Unreachable).increment();
    let stage = Stage::Due { at: worker.now + WAIT_FIRST, to: None };
    let since = worker.now;
    let detour = Detour { waiter, frame, key, slot, stage, since, hops: 0, waits: 0, answer };
    session.detours.get_or_insert_default().push(detour);
    worker.detouring.mark(session.id);
}

/// A command that was sent on a detour is settled: what waits behind it may go.
pub fn arrived(worker: &mut Worker, waiter: &Waiter) {
    let Some(session) = worker.sessions.get_mut(waiter.session) else {
        return;
    };
    if take_off(session, waiter).is_some() {
        worker.detouring.mark(waiter.session);
    }
}

/// A redirect for another slot than the command's is not about this command. A single node
/// redirects nobody, and not everything that it says of itself will pass.
fn is_about(topology: &Topology, redirect: &Redirect<'_>, slot: Option<u16>) -> bool {
    match redirect {
        Redirect::NotNow(why) if topology.slots.is_none() => patience::will_pass(topology, *why),
        _ if topology.slots.is_none() => false,
        Redirect::Moved(to) | Redirect::Ask(to) => slot == Some(to.slot),
        Redirect::TryAgain => slot.is_some(),
        Redirect::NotNow(_) => true,
    }
}

/// The detour of a waiter's command: the one that it is on, or a new one.
fn detour_of(
    worker: &mut Worker,
    topology: &Topology,
    waiter: &Waiter,
    frame: Bytes,
    key: LaneKey,
    answer: Answer,
) -> Detour {
    let on_the_road = worker.sessions.get_mut(waiter.session).filter(|_| waiter.is_detour);
    let known = on_the_road.and_then(|session| take_off(session, waiter));
    if let Some(known) = known {
        let waiter = Waiter { resent: waiter.resent, ..known.waiter };
        return Detour { waiter, key, answer, ..known };
    }
    // Before a single node everything is in everything's way.
    let slot = topology.slots.as_ref().and_then(|_| route::frame::slot_of(&topology.table, &frame));
    let stage = Stage::OnTheRoad;
    let since = worker.now;
    Detour { waiter: *waiter, frame, key, slot, stage, since, hops: 0, waits: 0, answer }
}

fn take_off(session: &mut Session, waiter: &Waiter) -> Option<Detour> {
    let detours = session.detours.as_mut()?;
    let detour = detours.remove((waiter.slot, waiter.part()));
    if detours.is_empty() {
        session.detours = None;
    }
    detour
}

/// Puts a detour (back) on its session's list.
fn restore(worker: &mut Worker, detour: Detour) {
    let id = detour.waiter.session;
    if let Some(session) = worker.sessions.get_mut(id) {
        session.detours.get_or_insert_default().push(detour);
        worker.detouring.mark(id);
    }
}

/// Decides what a redirect of the node `asked` makes of a command. Returns what is waited for.
fn follow_redirect(
    worker: &mut Worker,
    topology: &Topology,
    detour: &mut Detour,
    redirect: Redirect<'_>,
    asked: &Node,
) -> Waiting {
    let now = worker.now;
    let mut waiting = Waiting::Migration;
    let (reason, to) = match redirect {
        Redirect::Moved(to) => {
            let aim = learn(worker, topology, asked, &to);
            worker.shared.map_is_old.notify_one();
            (Redirected::Moved, aim.map(|node| Aim { node, is_asking: false }))
        }
        Redirect::Ask(to) => {
            let aim = member_at(worker, topology, asked, &to);
            // Who watches a key there would have to ask for all that follows, too: that waits for
            // the slot to settle.
            let is_state = matches!(detour.waiter.role, Role::State { .. });
            let aim = aim.filter(|_| !is_state || departure::is_waiting(&detour.waiter));
            (Redirected::Ask, aim.map(|node| Aim { node, is_asking: true }))
        }
        Redirect::TryAgain => (Redirected::TryAgain, None),
        Redirect::NotNow(why) => {
            waiting = Waiting::Failover;
            worker.shared.map_is_old.notify_one();
            if why == NotNow::Loading {
                // Several libraries run a whole pipeline again upon that word.
                detour.answer = Answer::Refusal(asked.loading(now));
            }
            (Redirected::NotNow, None)
        }
    };
    worker.stats.redirected(reason).increment();
    // An ASK is for the next moment only: it is followed at once, or its slot's owner is asked again
    // after a pause. That is done where two of them follow each other, which is a circle.
    let is_asking = to.is_some_and(|to| to.is_asking);
    let is_circle = !is_asking || detour.waiter.is_asking;
    let waits = to.is_none() || (detour.hops >= HOPS_AT_ONCE && is_circle);
    let at = if waits { now + pause(detour) } else { now };
    let to = to.filter(|_| !(waits && is_asking));
    detour.stage = Stage::Due { at, to };
    detour.waits = detour.waits.saturating_add(u8::from(waits));
    waiting
}

/// The member that a MOVED of the node `asked` names; the map is about to learn of it.
pub fn learn(
    worker: &mut Worker,
    topology: &Topology,
    asked: &Node,
    to: &redirect::Elsewhere<'_>,
) -> Option<NodeId> {
    let node = member_at(worker, topology, asked, to)?;
    worker.detouring.patches.push((to.slot, node));
    worker.detouring.wake();
    Some(node)
}

/// The member that a redirect names. A node that only an error reply names is not dialled; but it
/// is reason enough to ask.
fn member_at(
    worker: &Worker,
    topology: &Topology,
    asked: &Node,
    to: &redirect::Elsewhere<'_>,
) -> Option<NodeId> {
    let Endpoint::Tcp { host, .. } = &asked.settings.endpoint else {
        return None;
    };
    let address = to.address(host);
    let member = address.and_then(|address| topology.slots.as_ref()?.members.at(&address));
    if member.is_none() {
        worker.shared.stranger_named.notify_one();
    }
    member.map(|member| member.node.id)
}

/// Doubling from 2 to 50 ms, with jitter from the command's own number so that a fleet does not ask
/// in step.
pub(super) fn pause(detour: &Detour) -> Micros {
    let ceiling = (WAIT_FIRST << detour.waits.min(8)).min(WAIT_MAX);
    let jitter = detour.waiter.taken_at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    ceiling / 2 + jitter % (ceiling / 2 + 1)
}

/// Keeps a command that a node has refused, unless its time is up.
fn keep_or_tell(worker: &mut Worker, topology: &Topology, detour: Detour, waiting: Waiting) {
    let (now, node) = (worker.now, detour.key.node);
    // A shard that is in trouble lets nobody wait again and again; a single node that says so is
    // there, and will be well.
    let since = if waiting == Waiting::Failover && topology.slots.is_some() {
        worker.reaches.of(node).note_trouble(now)
    } else {
        detour.since
    };
    let session = worker.sessions.get(detour.waiter.session);
    let what = (&*detour.frame, since);
    if session.is_some_and(|session| patience::is_over(worker, session, what, waiting)) {
        return tell(worker, detour);
    }
    restore(worker, detour);
}

/// The client gets what was said last.
pub(super) fn tell(worker: &mut Worker, detour: Detour) {
    let waiter = Waiter { is_detour: false, ..detour.waiter };
    worker.detouring.mark(waiter.session);
    match detour.answer {
        Answer::Reply(bytes) => {
            let kind = bytes.first().copied().unwrap_or(b'-');
            settle_guarded(worker, &waiter, Settled::Reply { bytes: &bytes, kind, earlier: 0 });
        }
        Answer::Refusal(refusal) => {
            let failed = Settled::Failed { refusal, outcome: Outcome::NotExecuted };
            settle_guarded(worker, &waiter, failed);
        }
    }
}

/// Asks the node whether it redirects these keys itself, or a single one whether it is well.
fn probe(worker: &mut Worker, topology: &Topology, lane: &mut Lane, detour: Detour) {
    let question = route::frame::with_command(&topology.table, &detour.frame, |command, spec| {
        route::place(spec, command, &mut worker.keys);
        let mut words: Vec<&[u8]> = vec![b"EXISTS"];
        if topology.slots.is_none() {
            words = vec![b"PING"];
        } else if let Some(index) = spec.only_key() {
            words.extend(command.argument(index));
        } else {
            let keys = worker.keys.iter().filter_map(|key| command.argument(key.index as usize));
            words.extend(keys);
        }
        let mut question = Vec::new();
        write::command(&mut question, &words);
        question
    });
    let is_askable = detour.slot.is_some() || topology.slots.is_none();
    let Some(question) = question.filter(|_| is_askable) else {
        return tell(worker, detour);
    };
    let waiter = Waiter {
        role: Role::Probe,
        is_retry_safe: true,
        patience: Patience::Short,
        is_detour: false,
        ..detour.waiter
    };
    worker.unflushed.mark(lane.id, lane.send.unsent() == 0);
    lane.enqueue(&mut worker.pool, Piece::Borrowed(&question), waiter);
    restore(worker, detour);
}

/// A copy that outlives its lane.
pub fn owned(frame: Piece<'_>) -> Bytes {
    match frame {
        Piece::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        Piece::Shared(bytes) => bytes,
    }
}

/// Redirects that are followed at once; after that each waits a little.
const HOPS_AT_ONCE: u8 = 5;
/// First wait for a slot on the move; doubles.
pub(super) const WAIT_FIRST: Micros = 2 * MILLISECOND;
/// Longest such wait.
const WAIT_MAX: Micros = 50 * MILLISECOND;

#[cfg(test)]
mod tests;

//! The station of keyspaces: what the class of a command's keys makes of it.
//!
//! Owns three decisions, for commands whose keys have a keyspace: a write is refused or is to be
//! confirmed, a read goes to a replica, and how long a command waits for a failover. Never finds out
//! how replicas are (the control plane does), and never sees a command while the policy has no
//! keyspace: it is called from the judge's station, which other commands pass by.
//!
//! What surprises: a client's own order holds across nodes. A read leaves the primary only if all that
//! its client has in flight are reads, and a write waits for the reads that have left; so nobody reads
//! what was before its own write while that is under way (INV-12). What was acknowledged before may
//! still be missing at a replica: that is what `max_lag` bounds.

use std::sync::Arc;
use std::time::Duration;

use super::doubt::{is_after_doubt, refuse_doubtful};
use super::order::Order;
use super::{Asked, Dispatched, cluster, guards, not_executed, refuse, renamed, send, wants_bulk};
use crate::buffer::Piece;
use crate::clock::Micros;
use crate::command::Command;
use crate::command::flags::KeyFlags;
use crate::command::keys::{self, KeyPosition};
use crate::command::spec::{Class, Spec};
use crate::config::{Confirm, ReplicaReads};
use crate::dispatch::replicas;
use crate::policy::Policy;
use crate::policy::keyspace::Fate;
use crate::policy::keyspaces::{Keyspaces, Terms, stricter};
use crate::pubsub::recount::Recount;
use crate::refusal::Refusal;
use crate::refusal::keyspace::HeldBack;
use crate::route::{self, Place, frame, slot::slot};
use crate::session::detour::Detour;
use crate::session::state::Session;
use crate::session::{pinned, pubsub};
use crate::topology::Topology;
use crate::topology::slots::SlotMap;
use crate::upstream::dial::Node;
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Role, Waiter};
use crate::upstream::pool::{self, NoLane};
use crate::worker::Worker;

/// Who serves a read.
enum Source {
    /// The primary, as any other command.
    Primary,
    /// This replica, and why.
    Replica(Arc<Node>, Fate),
    /// Nobody: only a replica may, and none is in step.
    Nobody,
}

/// Looks at a command that may write, before rules are asked: what no keyspace lets through has not
/// run, and one that would overtake a read of its own client waits.
pub fn hold_back(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: &Command<'_>,
) -> Option<Dispatched> {
    let policy = Arc::clone(worker.policy.load());
    let keyspaces = policy.keyspaces().filter(|_| spec.may_write())?;
    // INV-12: of GET k and SET k on two connections the SET may run first, and the GET would tell of
    // it. What names no key waits as well: FLUSHALL is about all of them.
    if session.reading.is_apart(&session.replies) {
        return Some(Dispatched::Wait);
    }
    let found = keys_of(spec, command);
    let terms = keyspaces.terms(named(command, &found))?;
    if let Some(keyspace) = terms.readonly {
        keyspace.met.count(Fate::ReadOnly);
        let (command, keyspace) = (spec.name.to_string(), keyspace.name.to_string());
        let refusal = Refusal::HeldBack(Box::new(HeldBack::ReadOnly { command, keyspace }));
        return Some(refuse(worker, session, spec, &refusal));
    }
    let refusal = out_of_step(topology, &terms, named(command, &found), worker.now)?;
    worker.stats.writes_guarded.increment();
    Some(not_executed(worker, session, spec, &refusal))
}

/// What speaks against a write that was taken earlier and has waited since.
#[must_use]
pub fn late(worker: &Worker, topology: &Topology, frame: &[u8]) -> Option<Refusal> {
    let policy = worker.shared.policy.load();
    let keyspaces = policy.keyspaces()?;
    let against = |command: &Command<'_>, spec: &Spec| {
        let found = keys_of(spec, command);
        let terms = keyspaces.terms(named(command, &found)).filter(|_| spec.may_write())?;
        out_of_step(topology, &terms, named(command, &found), worker.now)
    };
    frame::with_command(&topology.table, frame, against).flatten()
}

/// Whether a command may go as a part of a transaction that was sent whole: nothing holds it back.
#[must_use]
pub fn goes_whole(
    worker: &mut Worker,
    session: &Session,
    spec: &Spec,
    command: &Command<'_>,
) -> bool {
    let policy = Arc::clone(worker.policy.load());
    let Some(keyspaces) = policy.keyspaces().filter(|_| spec.may_write()) else {
        return true;
    };
    let found = keys_of(spec, command);
    let terms = keyspaces.terms(named(command, &found));
    // What is to be confirmed goes whole: a transaction never is, whichever way it comes.
    let is_free = terms.is_none_or(|terms| terms.readonly.is_none() && terms.guard.is_none());
    is_free && !session.reading.is_apart(&session.replies)
}

/// That too few replicas are in step with one of the primaries that a write goes to.
fn out_of_step<'k>(
    topology: &Topology,
    terms: &Terms<'_>,
    mut keys: impl Iterator<Item = &'k [u8]>,
    now: Micros,
) -> Option<Refusal> {
    let (wanted, keyspace) = terms.guard?;
    let max_lag = crate::clock::to_micros(keyspace.max_lag);
    let lacks = |node: &Node| {
        let in_step = node.sync.in_step(max_lag, now);
        if in_step.is_some_and(|count| count >= wanted) {
            return None;
        }
        keyspace.met.count(Fate::OutOfStep);
        let (keyspace, node) = (keyspace.name.to_string(), node.name.clone());
        let held_back = HeldBack::OutOfStep { keyspace, node, in_step, wanted, max_lag };
        Some(Refusal::HeldBack(Box::new(held_back)))
    };
    match &topology.slots {
        None => lacks(&topology.node),
        // A slot that nobody owns is refused where its owner is looked for, in better words.
        Some(slots) => keys.find_map(|key| lacks(&slots.owner(slot(key))?.node)),
    }
}

/// Takes a command that nothing speaks against, if its keyspace has a way of its own for it; `None`:
/// it goes as any other.
pub fn take(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    (spec, command): (&Spec, Command<'_>),
) -> Option<Dispatched> {
    let policy = Arc::clone(worker.policy.load());
    let keyspaces = policy.keyspaces()?;
    if spec.is_retry_safe() {
        session.reading.note(&session.replies);
    }
    let terms = terms(keyspaces, spec, &command)?;
    if let Some(confirm) = to_confirm(worker, topology, session, spec, &command, &terms) {
        session.confirm = Some(Box::new(confirm));
        let done = confirmed(worker, topology, session, identity, (spec, command));
        session.confirm = None;
        return done;
    }
    // A keyspace may be about writes alone; then reads go as if there were none.
    let is_said = terms.read_from.is_some() || terms.reads_while_away;
    if !is_said || !is_readable(session, spec, &command) {
        return None;
    }
    match &topology.slots {
        None => read_of_one(worker, topology, session, identity, (spec, command), &terms),
        Some(slots) => {
            let who = (topology, identity);
            read_of_slot(worker, slots, session, who, (spec, command), &terms)
        }
    }
}

/// By whom a command is to be confirmed, if its keyspace says so.
fn to_confirm(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    spec: &Spec,
    command: &Command<'_>,
    terms: &Terms<'_>,
) -> Option<Confirm> {
    let own = terms.confirm.filter(|_| spec.may_write() && !session.in_transaction())?;
    if spec.class_for(command) != Class::Shared {
        return None;
    }
    // Both may speak of the same key; the client is told of success when the stricter has its way.
    let is_meant = guards::confirms(worker, topology, spec, command);
    let general = topology.node.settings.guards.confirm.as_ref().filter(|_| is_meant);
    stricter(Some(own), general).cloned()
}

/// Sends a write on a connection of its own, with the question behind it who has it.
fn confirmed(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    (spec, command): (&Spec, Command<'_>),
) -> Option<Dispatched> {
    // The same two questions that stand in front of every command on a connection of its own.
    if is_after_doubt(session, Class::Shared) {
        return Some(refuse_doubtful(worker, topology, session, spec));
    }
    if session.subscriptions.is_some()
        && let Some(done) = pubsub::restrict(worker, topology, session, spec, command)
    {
        return Some(done);
    }
    let frame = as_sent(spec, &command);
    pinned::dispatch(worker, topology, session, identity, spec, command, frame)
}

/// Whether a command may be served by another node than all others of its client are.
fn is_readable(session: &Session, spec: &Spec, command: &Command<'_>) -> bool {
    let role = Role::of(spec.id);
    // What holds a connection of its own reads there: what is watched, and what a transaction reads,
    // must be of one moment. A subscriber in RESP2 may read nothing at all, which is told elsewhere.
    // A cursor means something to the node that gave it out, and to no other.
    let has_cursor = spec.name.ends_with("scan");
    spec.is_retry_safe()
        && spec.class_for(command) == Class::Shared
        && (role.is_plain() || role == Role::Script)
        && !has_cursor
        && session.pin.is_none()
        && session.subscriptions.is_none()
        && session.doubtful == 0
}

/// A read where one node serves everything.
fn read_of_one(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    (spec, command): (&Spec, Command<'_>),
    terms: &Terms<'_>,
) -> Option<Dispatched> {
    let copies = topology.replicas.iter().map(|node| (node, false));
    let (node, fate) = match choose(worker, session, terms, &topology.node, copies) {
        Source::Replica(node, fate) => (node, fate),
        Source::Primary => {
            terms.first.met.count(Fate::Primary);
            return None;
        }
        Source::Nobody => {
            return Some(no_replica(worker, session, spec, (terms, &topology.node)));
        }
    };
    // INV-12: its own write is under way at the primary, and the replica has not heard of it.
    if !session.reading.is_all_in_flight(&session.replies) {
        return unless_away(terms, &topology.node);
    }
    // Its reads in flight at the primary may be overtaken: reads change nothing for each other.
    let is_bulk = wants_bulk(session, spec, &command);
    // One node's commands go without that word, which the row of lanes to several wants to know.
    session.stream.get_or_insert(is_bulk);
    let kind = (is_bulk, false);
    match pool::lane_to(worker, topology, session, identity, &node, kind) {
        Ok(lane) => {
            note_departure(worker, session, (terms, fate));
            let role = Role::of(spec.id);
            let recount = Recount::of(&worker.shared.tally, spec, &command);
            let asked = Asked { role, recount, ..Asked::of(spec) };
            Some(send(worker, session, lane, asked, as_sent(spec, &command)))
        }
        Err(NoLane::Wait) => Some(Dispatched::Wait),
        // It has gone this very moment; the primary knows as well.
        Err(NoLane::Refused(_)) if terms.read_from != Some(ReplicaReads::Replica) => None,
        Err(NoLane::Refused(refusal)) => Some(not_executed(worker, session, spec, &refusal)),
    }
}

/// A read of a cluster's keys, if all of them lie in one slot. What is cut asks primaries first; a
/// part of it whose primary is away goes on by [`stand_in`].
fn read_of_slot(
    worker: &mut Worker,
    slots: &SlotMap,
    session: &mut Session,
    (topology, identity): (&Topology, Identity),
    (spec, command): (&Spec, Command<'_>),
    terms: &Terms<'_>,
) -> Option<Dispatched> {
    let place = route::place(spec, &command, &mut worker.keys);
    let Place::Slot(slot) = place else {
        return None;
    };
    if session.detours.as_ref().is_some_and(|detours| detours.conflicts(place)) {
        return Some(Dispatched::Wait);
    }
    let owner = slots.owner(slot)?;
    let copies = replicas::of(slots, owner);
    let (node, is_elsewhere) = match choose(worker, session, terms, &owner.node, copies) {
        // INV-12, as before one node; but the owner must be asked here, because the client's own
        // READONLY would send it to a replica.
        Source::Replica(..) if !session.reading.is_all_in_flight(&session.replies) => {
            if unless_away(terms, &owner.node).is_some() {
                return Some(Dispatched::Wait);
            }
            (Arc::clone(&owner.node), None)
        }
        Source::Replica(node, fate) => (node, Some(fate)),
        Source::Primary => (Arc::clone(&owner.node), None),
        Source::Nobody => {
            return Some(no_replica(worker, session, spec, (terms, &owner.node)));
        }
    };
    if !cluster::is_settled(slots, session, slot) {
        return Some(Dispatched::Wait);
    }
    if is_elsewhere.is_none() {
        terms.first.met.count(Fate::Primary);
        // Whatever the client's READONLY would allow, unless nothing was said of that.
        terms.read_from?;
    }
    let is_bulk = wants_bulk(session, spec, &command);
    let recount = Recount::of(&worker.shared.tally, spec, &command);
    let asked = Asked { role: Role::of(spec.id), recount, ..Asked::of(spec) };
    let frame = as_sent(spec, &command);
    let order = Order { topology, identity, slot: Some(slot), is_bulk, asked, frame };
    let next = session.replies.next();
    let done = cluster::to(worker, session, &node, (order, is_elsewhere.is_some()));
    if let Some(fate) = is_elsewhere.filter(|_| session.replies.next() > next) {
        note_departure_of(worker, session, (terms, fate), next);
    }
    Some(done)
}

/// Who serves a read of `primary`'s keys; `copies` are its replicas, and whether each is near.
fn choose<'n>(
    worker: &Worker,
    session: &Session,
    terms: &Terms<'_>,
    primary: &Node,
    copies: impl Iterator<Item = (&'n Arc<Node>, bool)> + Clone,
) -> Source {
    let is_wanted = !matches!(terms.read_from, None | Some(ReplicaReads::Primary));
    // Without that word a replica that has lost its primary is not asked, however the primary is:
    // whoever prefers replicas has not said that what they read may be as old as an outage is long.
    let is_away = terms.reads_while_away && primary.health.is_away();
    if !is_wanted && !is_away {
        return Source::Primary;
    }
    let in_step = copies.filter(|(node, _)| {
        node.freshness.is_within(terms.max_lag, is_away, worker.now)
            && node.refusal(worker.now).is_none()
    });
    let fate = if is_away { Fate::PrimaryAway } else { Fate::Replica };
    match replicas::pick(session.client.id, in_step) {
        Some(node) => Source::Replica(Arc::clone(node), fate),
        None if terms.read_from == Some(ReplicaReads::Replica) => Source::Nobody,
        None => Source::Primary,
    }
}

/// A read whose client has more than reads in flight stays with the primary, unless there is nobody or
/// it must not: then it waits for those.
fn unless_away(terms: &Terms<'_>, primary: &Node) -> Option<Dispatched> {
    let must = terms.read_from == Some(ReplicaReads::Replica) || primary.health.is_away();
    must.then_some(Dispatched::Wait)
}

fn no_replica(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    (terms, primary): (&Terms<'_>, &Node),
) -> Dispatched {
    terms.first.met.count(Fate::NoReplica);
    let held_back = HeldBack::NoReplica {
        keyspace: terms.first.name.to_string(),
        node: primary.name.clone(),
        max_lag: terms.max_lag,
    };
    not_executed(worker, session, spec, &Refusal::HeldBack(Box::new(held_back)))
}

/// The next command of the session goes to a replica.
fn note_departure(worker: &Worker, session: &mut Session, what: (&Terms<'_>, Fate)) {
    let slot = session.replies.next();
    note_departure_of(worker, session, what, slot);
}

fn note_departure_of(
    worker: &Worker,
    session: &mut Session,
    (terms, fate): (&Terms<'_>, Fate),
    slot: u64,
) {
    session.reading.has_left(slot);
    note_read(worker, (terms, fate));
}

fn note_read(worker: &Worker, (terms, fate): (&Terms<'_>, Fate)) {
    terms.first.met.count(fate);
    worker.stats.replica_reads.increment();
    if fate == Fate::PrimaryAway {
        worker.stats.replica_reads_primary_away.increment();
    }
}

/// The replica that serves a command on a detour in the place of `primary`, which is away, if the
/// command's keyspace allows that; and whether it must be told READONLY.
#[cold]
pub fn stand_in(
    worker: &Worker,
    topology: &Topology,
    session: &Session,
    detour: &Detour,
    primary: &Node,
) -> Option<Arc<Node>> {
    if !may_be_served_elsewhere(&detour.waiter) {
        return None;
    }
    let (node, fate, first) =
        stand_in_for(worker, topology, session, primary, (&detour.frame, detour.slot))?;
    first.met.count(fate);
    worker.stats.replica_reads.increment();
    worker.stats.replica_reads_primary_away.increment();
    Some(node)
}

/// Whether a replica could serve the command of a waiter in the place of `primary`, which is lost.
#[cold]
pub fn is_served(worker: &Worker, primary: &Node, waiter: &Waiter, frame: &[u8]) -> bool {
    let session = worker.sessions.get(waiter.session);
    may_be_served_elsewhere(waiter)
        && session.is_some_and(|session| {
            let topology = worker.shared.topology.load();
            has_stand_in(worker, &topology, session, primary, frame)
        })
}

fn may_be_served_elsewhere(waiter: &Waiter) -> bool {
    let is_plain = match waiter.role {
        Role::Part { is_bound, .. } => !is_bound,
        role => role.is_plain() || role == Role::Script,
    };
    is_plain && waiter.is_retry_safe && waiter.frames == 1
}

/// Whether a replica could serve the command of `frame`, or a part of it, in the place of `primary`.
#[cold]
pub fn has_stand_in(
    worker: &Worker,
    topology: &Topology,
    session: &Session,
    primary: &Node,
    frame: &[u8],
) -> bool {
    stand_in_for(worker, topology, session, primary, (frame, None)).is_some()
}

fn stand_in_for(
    worker: &Worker,
    topology: &Topology,
    session: &Session,
    primary: &Node,
    (frame, slot): (&[u8], Option<u16>),
) -> Option<(Arc<Node>, Fate, Arc<crate::policy::keyspace::Keyspace>)> {
    // Nearly always the end of it: a detour goes to a node that is well.
    if !primary.health.is_away() {
        return None;
    }
    let policy: &Policy = &worker.shared.policy.load();
    let keyspaces = policy.keyspaces()?;
    let look = |command: &Command<'_>, spec: &Spec| {
        let terms =
            terms(keyspaces, spec, command).filter(|_| is_readable(session, spec, command))?;
        let source = match &topology.slots {
            None => {
                let copies = topology.replicas.iter().map(|node| (node, false));
                choose(worker, session, &terms, primary, copies)
            }
            Some(slots) => {
                let owner = match slot {
                    Some(slot) => slots.owner(slot)?,
                    None => slots.members.get(primary.id)?,
                };
                choose(worker, session, &terms, primary, replicas::of(slots, owner))
            }
        };
        match source {
            Source::Replica(node, fate) => Some((node, fate, Arc::clone(terms.first))),
            Source::Primary | Source::Nobody => None,
        }
    };
    frame::with_command(&topology.table, frame, look).flatten()
}

/// What the keyspaces of a command say of waiting: how long for a failover, and how long its clients
/// wait at all.
#[cold]
pub fn patience(worker: &Worker, frame: &[u8]) -> (Option<Duration>, Option<Duration>) {
    let (policy, topology) = (worker.shared.policy.load(), worker.shared.topology.load());
    let Some(keyspaces) = policy.keyspaces() else {
        return (None, None);
    };
    let look = |command: &Command<'_>, spec: &Spec| {
        terms(keyspaces, spec, command).map(|terms| (terms.wait, terms.client_timeout))
    };
    frame::with_command(&topology.table, frame, look).flatten().unwrap_or_default()
}

fn terms<'p>(keyspaces: &'p Keyspaces, spec: &Spec, command: &Command<'_>) -> Option<Terms<'p>> {
    if let Some(key) = spec.only_key().and_then(|index| command.argument(index)) {
        return keyspaces.terms(std::iter::once(key));
    }
    let found = keys_of(spec, command);
    keyspaces.terms(named(command, &found))
}

/// Where the keys of a command are. What has none, or makes no sense, leaves the list empty.
fn keys_of(spec: &Spec, command: &Command<'_>) -> Vec<KeyPosition> {
    let mut found = Vec::new();
    let _ = keys::keys(spec, command, &mut found);
    found.retain(|key| !key.flags.contains(KeyFlags::NOT_KEY));
    found
}

fn named<'c>(
    command: &Command<'c>,
    found: &'c [KeyPosition],
) -> impl Iterator<Item = &'c [u8]> + use<'c> {
    let command = *command;
    found.iter().filter_map(move |key| command.argument(key.index as usize))
}

/// The bytes of a command as its node understands them.
fn as_sent<'c>(spec: &Spec, command: &Command<'c>) -> Piece<'c> {
    let own = Piece::Borrowed(command.frame());
    if spec.wire_name.is_none() { own } else { renamed(spec, command, own) }
}

#[cfg(test)]
mod tests;

//! The screen: where each command goes, and where each reply goes.
//!
//! Owns the branches of the whole product: [`dispatch`] takes a command from a session and answers
//! it here, refuses it, or queues it on a lane; [`settle`] takes what became of it and delivers it.
//! Neither awaits, neither touches a socket, so tests, fuzzers and benchmarks call them as they
//! are.
//!
//! What surprises: a command may be told to *wait*. Then nothing happened, its bytes stay in the
//! session's input, and it is dispatched again when the reason is gone: order matters more than
//! speed (INV-12).

pub mod batches;
pub mod bound;
pub mod cluster;
pub mod departure;
pub mod detour;
pub mod doubt;
pub mod errand;
pub mod gather;
pub mod guards;
pub mod judge;
pub mod keyspaces;
pub mod offender;
pub mod order;
pub mod pacing;
pub mod patience;
pub mod replicas;
pub mod rewrite;
pub mod runs;
pub mod turns;
pub mod unavailable;
pub mod veil;

use std::panic::{AssertUnwindSafe, catch_unwind};

use doubt::{is_after_doubt, not_executed_block, refuse_doubtful, write_queued};
use judge::Ruling;
use order::Order;
pub use unavailable::not_executed;
use veil::Veiled;

use crate::buffer::Piece;
use crate::clock::Micros;
use crate::command::Command;
use crate::command::errors;
use crate::command::flags::Flags;
use crate::command::spec::{Class, CommandId, Lane as LaneKind, Spec};
use crate::command::table::Unknown;
use crate::info;
use crate::pubsub::recount::Recount;
use crate::refusal::Refusal;
use crate::resp::write;
use crate::scripts::follow;
use crate::session::block::Block;
use crate::session::detour::Detours;
use crate::session::pin::Abort;
use crate::session::state::{Closing, Session};
use crate::session::{invalidations, local, pinned, pubsub, replication, transaction};
use crate::stats::WorkerStats;
use crate::stats::labels::{ClosedReason, Outcome};
use crate::topology::Topology;
use crate::upstream::identity::Identity;
use crate::upstream::lane::{LaneId, Patience, Role, Waiter};
use crate::upstream::pinned as upstream_pinned;
use crate::upstream::pool::{self, NoLane};
use crate::worker::Worker;

/// What became of a command that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatched {
    /// It has its reply slot; its bytes are done with.
    Done,
    /// Nothing happened: offer it again when the session is woken.
    Wait,
}

/// What is asked of a node, as far as its waiter must know.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Which command, for counters and messages.
    pub command: CommandId,
    /// Replies that will come.
    pub frames: u32,
    /// Whether running it twice, or not at all, changes nothing.
    pub is_retry_safe: bool,
    /// When the reply is late.
    pub patience: Patience,
    /// What the reply does besides being delivered.
    pub role: Role,
    /// What happens to the reply before its client gets it.
    pub recount: Recount,
}

/// What came back for a waiter.
#[derive(Clone, Debug)]
pub enum Settled<'a> {
    /// The node's whole reply, or the rest of it if pieces were passed on before.
    Reply {
        /// Its bytes, untouched.
        bytes: &'a [u8],
        /// Its type byte.
        kind: u8,
        /// Bytes that were passed on before.
        earlier: u64,
    },
    /// No reply will be delivered; this is what the client is told instead.
    Failed {
        /// The words.
        refusal: Refusal,
        /// How it is counted.
        outcome: Outcome,
    },
}

/// Takes one command of `session`: six outcomes, in the order of the path.
pub fn dispatch(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    command: Command<'_>,
    frame: Piece<'_>,
) -> Dispatched {
    // 0. What the session said last decides what this means, and is not answered yet (INV-12).
    if session.is_barred() || (session.detours.is_some() && topology.slots.is_none()) {
        return replication::barred(worker, topology, session, command, frame);
    }
    // 1. What nobody knows is answered here, in Redis's words.
    let spec = match resolve(worker, topology, session, command) {
        Ok(spec) => spec,
        Err(done) => return done,
    };
    session.client.note_command(spec.id.0, worker.now);
    // 2. Strangers get nothing but what Redis gives to strangers.
    let Some(identity) =
        session.identity.or_else(|| spec.flags.contains(Flags::NO_AUTH).then_some(STRANGER))
    else {
        return refuse(worker, session, spec, &Refusal::NoAuth);
    };
    if session.doubtful > 0 && session.lacks_transaction {
        // Nothing of a transaction that was never begun takes effect, SELECT and its kind included.
        return refuse_doubtful(worker, topology, session, spec);
    }
    // 3. What a rule speaks of is judged: it is refused, waits, or something else goes in its place.
    if session.errand.is_some() || worker.policy.load().looks_at(spec.id, command.len()) {
        match judge::judge(worker, topology, session, identity, spec, command) {
            Ruling::Goes => {}
            Ruling::Done(done) => return done,
            Ruling::Instead(bytes) => {
                return judge::instead(worker, topology, session, identity, bytes);
            }
        }
    }
    admitted(worker, topology, session, identity, spec, command, frame)
}

/// A command that nothing speaks against.
#[inline(always)]
fn admitted(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    spec: &Spec,
    command: Command<'_>,
    frame: Piece<'_>,
) -> Dispatched {
    // In RESP2 whoever has subscribed may say little else.
    if session.subscriptions.is_some()
        && let Some(done) = pubsub::restrict(worker, topology, session, spec, command)
    {
        return done;
    }
    // 4. What keeps state, or is to be confirmed, gets a connection of its own; some is answered here, or refused.
    let class = spec.class_for(&command);
    let mut frame = if spec.wire_name.is_none() { frame } else { renamed(spec, &command, frame) };
    if session.pin.is_some()
        || class == Class::Pinned
        || invalidations::are_wanted(class, session, &command)
        || (spec.is_barred() && guards::confirms(worker, topology, spec, &command))
    {
        if is_after_doubt(session, class) {
            return refuse_doubtful(worker, topology, session, spec);
        }
        let own = frame.clone();
        let taken = match veil::beside(worker, session, spec) {
            Veiled::Elsewhere => None,
            Veiled::Refused => {
                let command = spec.name.to_string();
                Some(refuse(worker, session, spec, &Refusal::NotInTransaction { command }))
            }
            Veiled::No => pinned::dispatch(worker, topology, session, identity, spec, command, own),
        };
        if let Some(done) = taken {
            return done;
        }
    }
    let mut role = Role::of(spec.id);
    match class {
        Class::Local => match local::passed_on(worker, topology, spec, command) {
            Some(bytes) => frame = Piece::Shared(bytes.into()),
            None => return local::answer(worker, topology, session, spec, command),
        },
        Class::Subscriber => {
            return pubsub::command(worker, topology, session, identity, spec, command);
        }
        Class::Shared if matches!(role, Role::Info { .. }) => {
            if info::is_wanted_alone(&command) {
                return info::answer(worker, session, spec);
            }
            role = info::role(topology, &command);
        }
        Class::Shared if role == Role::Settings => role = veil::role(worker),
        Class::Shared => {}
        _ => return refuse(worker, session, spec, &not_served(spec)),
    }
    go(worker, topology, session, identity, (spec, role), command, frame)
}

/// 5. Where it goes, if it may go now.
#[inline(always)]
fn go(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    (spec, role): (&Spec, Role),
    command: Command<'_>,
    frame: Piece<'_>,
) -> Dispatched {
    if let Some(slots) = &topology.slots {
        let who = (topology, identity);
        return cluster::forward(worker, slots, session, who, (spec, role), command, frame);
    }
    if session.doubtful > 0 {
        return refuse_doubtful(worker, topology, session, spec);
    }
    forward(worker, topology, session, identity, (spec, role), command, frame)
}

/// Chooses the lane of a command that goes to one.
fn forward(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    (spec, role): (&Spec, Role),
    command: Command<'_>,
    frame: Piece<'_>,
) -> Dispatched {
    let is_bulk = wants_bulk(session, spec, &command);
    match pool::lane_for(worker, topology, session, identity, is_bulk) {
        Ok(lane) => {
            let recount = Recount::of(&worker.shared.tally, spec, &command);
            send(worker, session, lane, Asked { role, recount, ..Asked::of(spec) }, frame)
        }
        Err(NoLane::Wait) => Dispatched::Wait,
        Err(NoLane::Refused(refusal)) => {
            let recount = Recount::of(&worker.shared.tally, spec, &command);
            let asked = Asked { role, recount, ..Asked::of(spec) };
            let order = Order { topology, identity, slot: None, is_bulk, asked, frame };
            order.park(worker, session, &topology.node, refusal)
        }
    }
}

/// What the command is, or what became of one that is none.
fn resolve<'t>(
    worker: &mut Worker,
    topology: &'t Topology,
    session: &mut Session,
    command: Command<'_>,
) -> Result<&'t Spec, Dispatched> {
    match topology.table.resolve(&command) {
        Ok(spec) if spec.accepts(command.len()) => Ok(spec),
        Ok(spec) if spec.is_barred() => guards::admit(worker, topology, session, spec, command),
        Ok(spec) if session.in_transaction() && &*spec.name == "exec" => {
            Err(transaction::end_with(worker, session, spec, Abort::WrongArity))
        }
        Ok(spec) => Err(refuse_with(worker, session, Some(spec), |line| {
            errors::wrong_arity(line, spec);
        })),
        Err(unknown) => Err(refuse_unknown(worker, session, unknown, command)),
    }
}

/// Takes a whole transaction: one write, one waiter, as many replies as it has commands.
pub fn dispatch_block(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    block: &Block,
    frame: Piece<'_>,
) -> Dispatched {
    let (Some(identity), Some(spec)) = (session.identity, topology.table.spec(block.last)) else {
        return Dispatched::Wait;
    };
    let conflicts =
        |detours: &Detours| topology.slots.is_none() || detours.conflicts(block.place());
    if session.detours.as_ref().is_some_and(|detours| conflicts(detours)) {
        return Dispatched::Wait;
    }
    session.client.note_command(spec.id.0, worker.now);
    // Its MULTI may have asked for a connection before the rest arrived.
    upstream_pinned::withdraw(worker, session);
    let asked = Asked {
        frames: block.commands,
        is_retry_safe: block.is_retry_safe,
        patience: Patience::Long,
        ..Asked::of(spec)
    };
    if session.doubtful > 0 && (topology.slots.is_none() || session.doubts(block.place())) {
        let refusal = doubt::why(topology, session);
        return not_executed_block(worker, session, spec, block.commands, &refusal);
    }
    let is_bulk = block.is_bulk;
    let slot = block.slot.filter(|_| topology.slots.is_some());
    let order = Order { topology, identity, slot, is_bulk, asked, frame };
    if topology.slots.is_some() {
        return cluster::place(worker, session, order);
    }
    match pool::lane_for(worker, topology, session, identity, is_bulk) {
        Ok(lane) => send(worker, session, lane, order.asked, order.frame),
        Err(NoLane::Wait) => Dispatched::Wait,
        Err(NoLane::Refused(refusal)) => order.park(worker, session, &topology.node, refusal),
    }
}

/// 6. Opens the reply slot and queues the frame. Nothing between the two may fail (INV-1).
// Measured: with `go`, 60 instructions a command as calls of their own.
#[inline(always)]
pub fn send(
    worker: &mut Worker,
    session: &mut Session,
    lane: LaneId,
    asked: Asked,
    frame: Piece<'_>,
) -> Dispatched {
    let Some(lane) = worker.lanes.get_mut(lane) else {
        return Dispatched::Wait;
    };
    let waiter = waiter(worker.now, session, asked);
    lane.used_at = worker.now;
    // Written once a turn, behind every session that is ready now.
    worker.unflushed.mark(lane.id, lane.send.unsent() == 0);
    if asked.role == Role::Script {
        let Worker { shared, stats, pool, .. } = worker;
        follow::enqueue(shared, stats, pool, lane, frame, waiter, false);
    } else {
        lane.enqueue(&mut worker.pool, frame, waiter);
    }
    session.lane = Some(lane.id);
    session.in_flight += 1;
    session.end_of_command();
    Dispatched::Done
}

/// The waiter of a command, whose reply slot is opened with it.
#[inline(always)]
fn waiter(now: Micros, session: &mut Session, asked: Asked) -> Waiter {
    Waiter {
        session: session.id,
        slot: session.replies.open(),
        end: 0,
        taken_at: now,
        length: 0,
        prelude: 0,
        preludes_due: 0,
        is_asking: false,
        is_detour: false,
        frames: asked.frames,
        command: asked.command,
        resent: 0,
        is_retry_safe: asked.is_retry_safe,
        patience: asked.patience,
        role: asked.role,
        is_muted: session.is_muted() || asked.role == Role::Errand,
        recount: asked.recount,
    }
}

/// Delivers what became of a waiter's command. Called exactly once for each waiter.
// Measured: 29 instructions a reply as a call of its own.
#[inline(always)]
pub fn settle(worker: &mut Worker, waiter: &Waiter, settled: Settled<'_>) {
    #[cfg(test)]
    worker.faults.maybe_panic_in_settle();
    if waiter.role == Role::Plain && !waiter.is_detour {
        return deliver(worker, waiter, settled);
    }
    settle_role(worker, waiter, settled);
}

/// A reply that does more than being delivered.
fn settle_role(worker: &mut Worker, waiter: &Waiter, settled: Settled<'_>) {
    if waiter.is_detour {
        detour::arrived(worker, waiter);
    }
    match waiter.role {
        Role::Part { .. } => gather::settled(worker, waiter, &settled),
        Role::Probe => detour::proven(worker, waiter, &settled),
        Role::Errand => errand::answered(worker, waiter, settled),
        Role::Plain | Role::Sized | Role::Script | Role::Library => {
            deliver(worker, waiter, settled);
        }
        Role::Settings => match &settled {
            Settled::Reply { bytes, .. } => {
                let bytes = veil::retold(bytes);
                let kind = bytes.first().copied().unwrap_or(b'-');
                deliver(worker, waiter, Settled::Reply { bytes: &bytes, kind, earlier: 0 });
            }
            Settled::Failed { .. } => deliver(worker, waiter, settled),
        },
        Role::Info { is_joined } => match info::retold(worker, &settled, is_joined) {
            Some(bytes) => {
                let kind = bytes.first().copied().unwrap_or(b'$');
                deliver(worker, waiter, Settled::Reply { bytes: &bytes, kind, earlier: 0 });
            }
            None => deliver(worker, waiter, settled),
        },
        Role::Queued => {
            transaction::note_queued(worker, waiter, &settled);
            deliver(worker, waiter, settled);
        }
        Role::State { .. } | Role::Exec { .. } | Role::Stream => {
            pinned::settle(worker, waiter, settled);
        }
        Role::Whisper => pinned::note_whisper(worker, waiter, &settled),
        Role::Beat => {}
    }
}

/// Gives its session what came back for a waiter.
pub fn deliver(worker: &mut Worker, waiter: &Waiter, settled: Settled<'_>) {
    let Some(session) = worker.sessions.get_mut(waiter.session) else {
        // A tombstone: its client is gone.
        worker.stats.tombstones_consumed.increment();
        return;
    };
    if !session.replies.is_waiting(waiter.slot) {
        // A tombstone: its deadline passed and the client was told.
        worker.stats.tombstones_consumed.increment();
        return;
    }
    let outcome = match &settled {
        Settled::Reply { bytes, kind, .. } => worker.stats.note_reply(bytes, *kind),
        Settled::Failed { outcome, .. } => *outcome,
    };
    worker.stats.command(waiter.command.stats_index(), outcome).increment();
    session.in_flight = session.in_flight.saturating_sub(1);
    session.admission.answered(&session.gate.bounds);
    match settled {
        Settled::Reply { bytes, earlier, .. } => {
            session.admission.learn(earlier + bytes.len() as u64);
            if let Some(paced) = &mut session.paced {
                paced.charge_reply(waiter.slot, earlier + bytes.len() as u64, worker.now);
            }
            let shown = if waiter.is_muted {
                &[]
            } else if waiter.recount == Recount::No {
                bytes
            } else {
                worker.line.clear();
                waiter.recount.apply(&worker.shared.tally, bytes, &mut worker.line);
                &worker.line
            };
            session.complete(&mut worker.pool, waiter.slot, shown);
        }
        Settled::Failed { refusal, .. } => {
            worker.line.clear();
            if !waiter.is_muted {
                if waiter.role == Role::Plain {
                    write_queued(&mut worker.line, waiter.frames);
                }
                // The words in front of a block's are positive.
                let when = Some((waiter.slot, waiter.taken_at)).filter(|_| waiter.frames == 1);
                let topology = worker.topology.load();
                let choose = |when| unavailable::choose(session, topology, &refusal, when);
                refusal.write_as(when.and_then(choose), &mut worker.line);
            }
            if refusal.is_of_upstream() {
                session.note_not_run(waiter.slot, worker.now);
            }
            session.fail(&mut worker.pool, waiter.slot, &worker.line);
        }
    }
    worker.touched.mark(session);
}

/// As [`settle`], where nobody above could bury what a panic leaves: the session that cannot be
/// trusted any more is closed, and the caller goes on with the other waiters.
pub fn settle_guarded(worker: &mut Worker, waiter: &Waiter, settled: Settled<'_>) {
    if catch_unwind(AssertUnwindSafe(|| settle(worker, waiter, settled))).is_err() {
        worker.stats.panics.increment();
        if let Some(session) = worker.sessions.get_mut(waiter.session) {
            session.close(Closing::Now(ClosedReason::Panic));
            session.wake();
        }
    }
}

/// Whether a command belongs on the lane of those that may hold others up.
fn wants_bulk(session: &Session, spec: &Spec, command: &Command<'_>) -> bool {
    session.admission.largest() > BULK_REPLY_BYTES || spec.lane_for(command) == LaneKind::Bulk
}

/// Answers with an error of ours, in the order of the session's replies.
pub fn refuse(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    refusal: &Refusal,
) -> Dispatched {
    refuse_with(worker, session, Some(spec), |line| refusal.write(line))
}

/// What was refused here was not queued there: EXEC must fail as if the node had refused it.
fn abort_transaction(session: &mut Session) {
    if let Some(multi) = session.pin.as_mut().and_then(|pin| pin.multi.as_mut()) {
        multi.aborted.get_or_insert(Abort::Refused);
    }
}

/// As [`refuse`], with words of Redis.
pub fn refuse_with(
    worker: &mut Worker,
    session: &mut Session,
    spec: Option<&Spec>,
    write: impl FnOnce(&mut Vec<u8>),
) -> Dispatched {
    let command = spec.map_or(WorkerStats::OTHER_COMMAND, |spec| spec.id.stats_index());
    worker.stats.command(command, Outcome::Refused).increment();
    abort_transaction(session);
    worker.answer(session, write);
    Dispatched::Done
}

fn refuse_unknown(
    worker: &mut Worker,
    session: &mut Session,
    unknown: Unknown,
    command: Command<'_>,
) -> Dispatched {
    // As Redis: `POST` and `Host:` mean that a browser was tricked into talking to us; it gets
    // nothing.
    if unknown == Unknown::Command && command.is_http() {
        session.close(Closing::Now(ClosedReason::ProtocolError));
        return Dispatched::Done;
    }
    refuse_with(worker, session, None, |line| errors::unknown(line, unknown, &command))
}

/// The frame as the node understands it: with its own name of the command where that was renamed.
pub fn renamed<'a>(spec: &Spec, command: &Command<'_>, frame: Piece<'a>) -> Piece<'a> {
    let Some(name) = &spec.wire_name else {
        return frame;
    };
    let mut bytes = Vec::with_capacity(command.frame().len() + name.len());
    write::array_header(&mut bytes, command.len());
    write::bulk(&mut bytes, name);
    for argument in command.arguments().skip(1) {
        write::bulk(&mut bytes, argument);
    }
    Piece::Shared(bytes.into())
}

/// Why this build cannot serve a command, and what to do instead.
#[must_use]
pub fn not_served(spec: &Spec) -> Refusal {
    let why = match spec.class {
        Class::Structural => {
            "it takes its connection over for good, and this one is shared; connect to the node itself"
        }
        _ => "it keeps state on its connection, which is shared here; send it to the node itself",
    };
    Refusal::NotServed { command: spec.name.to_string(), why }
}

// === impl Asked ===

impl Asked {
    /// One command, whose reply does nothing but being delivered.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        Self {
            command: spec.id,
            frames: 1,
            is_retry_safe: spec.is_retry_safe(),
            patience: if spec.is_fast() { Patience::Short } else { Patience::Long },
            role: Role::Plain,
            recount: Recount::No,
        }
    }
}

/// Who an unauthenticated client is to commands that are answered before AUTH.
const STRANGER: Identity = Identity::UPSTREAM;

/// Replies above this size move their session to the bulk lane.
const BULK_REPLY_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests;

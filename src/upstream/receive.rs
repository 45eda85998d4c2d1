//! From the bytes of a lane to settled replies.
//!
//! Owns the way of every byte that a node sends: framed, given to the first waiter, passed on in
//! pieces when a reply is long. Never keeps more than the beginning of a reply, never guesses:
//! bytes that nobody waits for end the lane (INV-1).
//!
//! What surprises: an error is held until it is whole, however long, because its first words may
//! decide what happens next; everything else is passed on once 16 KiB of it are there.

use bytes::Bytes;

use crate::clock::Micros;
use crate::dispatch::{self, Settled, bound, detour, gather, turns};
use crate::pubsub::recount::Recount;
use crate::resp::reply::ReplyError;
use crate::scripts::follow;
use crate::session::{held, replication};
use crate::slowlog;
use crate::stats::labels::ErrorClass;
use crate::upstream::health::chart::{self, Signal};
use crate::upstream::lane::{Lane, Role, Waiter};
use crate::upstream::runs;
use crate::worker::Worker;

/// Why a lane must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Anomaly {
    /// The bytes are no reply.
    #[error("malformed reply: {0}")]
    Malformed(#[from] ReplyError),
    /// A reply came that nobody waits for.
    #[error("a reply that nobody asked for")]
    Unexpected,
    /// An error, an attribute, a push or a rewritten reply longer than its bound.
    #[error("a reply that must be whole is longer than its bound")]
    TooLong,
}

/// Takes `input`, fresh from the socket of `lane` (which is lent from `worker.lanes`). `shared` is the same bytes
/// as a buffer that may be kept without copying, if there is one.
///
/// # Errors
/// [`Anomaly`]: the lane must be closed; the waiters that are left are settled by `loss`.
pub fn receive(
    worker: &mut Worker,
    lane: &mut Lane,
    input: &[u8],
    shared: Option<&Bytes>,
) -> Result<(), Anomaly> {
    worker.stats.upstream_bytes_in.add(input.len() as u64);
    lane.heard_at = worker.now;
    // The beginning of a reply is the end of the script behind it.
    lane.running = None;
    if !worker.turns.is_empty() {
        turns::answered(worker, lane);
    }
    lane.answers += 1;
    lane.node.heard(worker.now);
    if lane.pinned.is_some() && replication::is_stream(lane, input.first()) {
        return replication::flow(worker, lane, input);
    }
    if lane.carry.is_empty() {
        let used = frames(worker, lane, input, shared)?;
        lane.carry.extend_from_slice(input.get(used..).unwrap_or_default());
        return Ok(());
    }
    let mut held = std::mem::take(&mut lane.carry);
    held.extend_from_slice(input);
    let used = frames(worker, lane, &held, None)?;
    held.drain(..used);
    lane.carry = held;
    if lane.carry.is_empty() {
        lane.carry.shrink_to(STREAM_FROM_BYTES);
    }
    Ok(())
}

/// Settles every whole reply in `buffer`, passes on what may be passed on, and returns how much was
/// used.
fn frames(
    worker: &mut Worker,
    lane: &mut Lane,
    buffer: &[u8],
    shared: Option<&Bytes>,
) -> Result<usize, Anomaly> {
    let mut used = 0;
    loop {
        // In the middle of a push that is let go nothing is kept back either, and only the scanner knows.
        if lane.scanned == 0 && lane.scanner.is_between_replies() {
            let run = runs::settle(worker, lane, buffer.get(used..).unwrap_or_default());
            used += run;
            if run > 0 {
                continue;
            }
        }
        let rest = buffer.get(used..).unwrap_or_default();
        let fresh = rest.get(lane.scanned..).unwrap_or_default();
        if fresh.is_empty() {
            return Ok(used);
        }
        let progress = lane.scanner.scan(fresh)?;
        let seen = lane.scanned + progress.consumed;
        let piece = rest.get(..seen).unwrap_or_default();
        if progress.complete {
            lane.scanned = 0;
            used += seen;
            whole(worker, lane, piece, shared)?;
            continue;
        }
        if may_pass_on(worker, lane, seen)? {
            lane.scanned = 0;
            pass_on(worker, lane, piece, shared)?;
            return Ok(used + seen);
        }
        lane.scanned = seen;
        expect_asked(worker, lane, rest)?;
        return Ok(used);
    }
}

/// The beginning of a reply is held only for a waiter whose question was handed over; anything else
/// but a push (or attributes before one) would become the beginning of somebody's reply (INV-1).
fn expect_asked(worker: &Worker, lane: &Lane, rest: &[u8]) -> Result<(), Anomaly> {
    let is_asked = lane
        .waiters
        .front()
        .is_some_and(|first| first.asked_until(lane.block.0) <= lane.send.sent());
    match rest.first() {
        Some(kind) if !is_asked && !matches!(kind, b'>' | b'|') && !is_monitors(worker, lane) => {
            Err(Anomaly::Unexpected)
        }
        _ => Ok(()),
    }
}

/// A reply is complete: its first waiter gets it.
fn whole(
    worker: &mut Worker,
    lane: &mut Lane,
    bytes: &[u8],
    shared: Option<&Bytes>,
) -> Result<(), Anomaly> {
    let kind = lane.scanner.kind().unwrap_or(b'+');
    if kind == b'>' || is_monitors(worker, lane) {
        push(worker, lane, bytes);
        return Ok(());
    }
    let answered = lane.block.0;
    let first = lane.waiters.front_mut().ok_or(Anomaly::Unexpected)?;
    let (end, frames) = (first.asked_until(answered), first.frames);
    if end > lane.send.sent() {
        // The answer came before the question was sent.
        return Err(Anomaly::Unexpected);
    }
    if first.preludes_due > 0 {
        first.preludes_due -= 1;
        if !(first.is_asking && first.preludes_due == 0) {
            follow::load_answered(&worker.shared, &worker.stats, lane, bytes);
        }
        return Ok(());
    }
    if first.is_many() {
        return one_of_many(worker, lane, bytes, kind);
    }
    let follows = matches!(first.role, Role::Script | Role::Library) || first.is_bound();
    if frames > 1 && lane.block.0 + 1 < frames {
        return keep_for_block(worker, lane, bytes);
    }
    let is_error = kind == b'-' || (frames > 1 && lane.block.1.starts_with(b"-"));
    if is_error && is_taken(worker, lane, bytes) {
        return Ok(());
    }
    note_size(worker, lane, bytes);
    let handed_at = handed_at(worker, lane, end, bytes);
    let (earlier, bytes) = if lane.streaming && Lane::is_worth_sharing(bytes.len()) {
        pass_on(worker, lane, bytes, shared)?;
        (lane.streamed, &[][..])
    } else {
        (lane.streamed, bytes)
    };
    let mut before = if frames > 1 { std::mem::take(&mut lane.block.1) } else { Vec::new() };
    let mut verdict = None;
    if frames > 1 && lane.waiters.front().is_some_and(Waiter::is_exec) {
        verdict = held::verdict(&before, bytes, lane);
        before.clear();
    }
    let (bytes, kind) = match &verdict {
        Some(verdict) => (&verdict[..], verdict.first().copied().unwrap_or(kind)),
        None => (bytes, kind),
    };
    if follows {
        // While the command still lies on the lane.
        follow::answered(&worker.shared, lane, bytes, kind);
    }
    let waiter = lane.finish_first(&mut worker.pool).ok_or(Anomaly::Unexpected)?;
    note_times(worker, handed_at, &waiter);
    lane.settling = Some(waiter.session);
    let joined = (!before.is_empty()).then(|| [&before, bytes].concat());
    let bytes = joined.as_deref().unwrap_or(bytes);
    dispatch::settle(worker, &waiter, Settled::Reply { bytes, kind, earlier });
    lane.settling = None;
    Ok(())
}

/// An error may say something of the node, and may be followed elsewhere: then the reply is used up.
#[cold]
fn is_taken(worker: &mut Worker, lane: &mut Lane, bytes: &[u8]) -> bool {
    note_error(worker, lane, bytes);
    detour::take(worker, lane, bytes)
}

/// What an error says of the node that sent it. A script can return the very words of one, and is
/// not believed.
#[cold]
fn note_error(worker: &mut Worker, lane: &Lane, bytes: &[u8]) {
    let class = ErrorClass::of(bytes);
    // A slot that nobody owns says nothing of the node that was asked.
    if !chart::is_telling(class) || bytes.starts_with(b"-CLUSTERDOWN Hash slot") {
        return;
    }
    let command = lane.waiters.front().map(|first| first.command);
    let table = &worker.topology.load().table;
    let spec = command.and_then(|command| table.spec(command));
    if spec.is_some_and(|spec| !spec.runs_user_code()) {
        lane.node.note(Signal::Refused(class), worker.now);
    }
}

/// The beginning of the first waiter's reply may tell how much is kept under a key.
#[inline(always)]
fn note_size(worker: &mut Worker, lane: &Lane, bytes: &[u8]) {
    let first = lane.waiters.front().filter(|first| first.role == Role::Sized && !lane.streaming);
    if let Some(first) = first {
        bound::observe(worker, first, bytes);
    }
}

/// When the first waiter's command was handed to the kernel; it is noted here if it was slow, while
/// its bytes are still there.
#[inline(always)]
fn handed_at(worker: &Worker, lane: &mut Lane, end: u64, bytes: &[u8]) -> Micros {
    let handed_at = lane.handed_at(end).unwrap_or(worker.now);
    slowlog::note(worker, lane, handed_at, bytes.len());
    handed_at
}

/// How long a command waited here, and how long at its node.
#[inline(always)]
fn note_times(worker: &Worker, handed_at: Micros, waiter: &Waiter) {
    worker.stats.queue_time.record(handed_at.saturating_sub(waiter.taken_at));
    worker.stats.upstream_time.record(worker.now.saturating_sub(handed_at));
}

/// One of the replies that the first waiter is owed for several parts; with the last one it leaves.
fn one_of_many(
    worker: &mut Worker,
    lane: &mut Lane,
    bytes: &[u8],
    kind: u8,
) -> Result<(), Anomaly> {
    if kind == b'-' {
        note_error(worker, lane, bytes);
    }
    gather::one_of_many(worker, lane, bytes, kind);
    let is_over = lane.waiters.front().is_none_or(|first| lane.block.0 >= first.frames);
    if !is_over {
        return Ok(());
    }
    let end = lane.waiters.front().map_or(0, |first| first.end);
    if end > lane.send.sent() {
        return Err(Anomaly::Unexpected);
    }
    let handed_at = handed_at(worker, lane, end, bytes);
    let waiter = lane.finish_first(&mut worker.pool).ok_or(Anomaly::Unexpected)?;
    note_times(worker, handed_at, &waiter);
    Ok(())
}

/// The first replies of a block are short lines; they are delivered with the last one, or not at
/// all. They are long only where the node has not taken MULTI (an ACL), and then they need not
/// wait.
#[cold]
fn keep_for_block(worker: &mut Worker, lane: &mut Lane, bytes: &[u8]) -> Result<(), Anomaly> {
    lane.block.0 += 1;
    lane.block.1.extend_from_slice(bytes);
    if lane.block.1.len() > HELD_BYTES_MAX {
        let first = lane.waiters.front();
        if first.is_some_and(Waiter::is_exec) {
            return Err(Anomaly::TooLong);
        }
        pass_on(worker, lane, &[], None)?;
    }
    Ok(())
}

/// Whether a frame is a line of MONITOR, or an invalidation in RESP2: those answer nothing. A
/// client that hears them can ask nothing else.
#[inline]
fn is_monitors(worker: &Worker, lane: &Lane) -> bool {
    if lane.pinned.is_none() || !lane.waiters.is_empty() {
        return false;
    }
    let Some(owner) = lane.owner() else {
        return false;
    };
    let session = worker.sessions.get(owner);
    session.is_some_and(|session| {
        session.pin.as_ref().is_some_and(|pin| pin.is_monitor || pin.listens)
    })
}

/// A push is no reply (INV-1): it belongs to the session that owns the connection, and on a shared
/// one to nobody.
fn push(worker: &mut Worker, lane: &Lane, frame: &[u8]) {
    let owner = lane.owner().and_then(|owner| worker.sessions.get_mut(owner));
    match owner {
        Some(session) => {
            session.push(&mut worker.pool, frame);
            worker.touched.mark(session);
        }
        None => worker.stats.pushes_dropped.increment(),
    }
}

/// Whether the `seen` bytes of the reply in progress may go to the client before the reply is
/// whole.
fn may_pass_on(worker: &Worker, lane: &Lane, seen: usize) -> Result<bool, Anomaly> {
    if lane.streaming {
        return Ok(seen > 0);
    }
    let first = lane.waiters.front();
    let is_rewritten = first.is_some_and(|first| {
        matches!(
            first.role,
            Role::State { is_held: true } | Role::Exec { is_held: true } | Role::Settings
        )
    });
    if first.is_some_and(|first| first.role == Role::Errand) {
        // It is for us, whole, unless it is larger than anybody could want.
        return Ok(seen > WHOLE_BYTES_MAX);
    }
    // A push of one's own connection is delivered whole, between two replies.
    let is_own_push = lane.pinned.is_some() && lane.scanner.kind() == Some(b'>');
    if is_rewritten || is_own_push || is_monitors(worker, lane) {
        let is_too_long = seen > WHOLE_BYTES_MAX;
        return if is_too_long { Err(Anomaly::TooLong) } else { Ok(false) };
    }
    match lane.scanner.kind() {
        // What nobody shall see is short, or it is no reply to what we asked.
        _ if seen > HELD_BYTES_MAX && first.is_some_and(|first| first.preludes_due > 0) => {
            Err(Anomaly::TooLong)
        }
        _ if first.is_some_and(|first| first.preludes_due > 0) => Ok(false),
        Some(b'-' | b'!') | None if seen > HELD_BYTES_MAX => Err(Anomaly::TooLong),
        Some(b'-' | b'!') | None => Ok(false),
        // What is to be rewritten is held whole; the command's length has bounded it.
        Some(_) if first.is_some_and(|first| first.recount != Recount::No) => {
            Ok(seen > HELD_BYTES_MAX)
        }
        // Beyond any honest size it is passed on as it is.
        Some(_) if first.is_some_and(|first| matches!(first.role, Role::Info { .. })) => {
            Ok(seen >= HELD_BYTES_MAX)
        }
        Some(_) => Ok(seen >= STREAM_FROM_BYTES),
    }
}

/// Gives a piece of a long reply to the first waiter's session.
fn pass_on(
    worker: &mut Worker,
    lane: &mut Lane,
    piece: &[u8],
    shared: Option<&Bytes>,
) -> Result<(), Anomaly> {
    if lane.scanner.kind() == Some(b'>') {
        return Ok(());
    }
    let waiter = *lane.waiters.front().ok_or(Anomaly::Unexpected)?;
    if waiter.asked_until(lane.block.0) > lane.send.sent() {
        return Err(Anomaly::Unexpected);
    }
    if matches!(waiter.role, Role::Part { .. }) {
        lane.streaming = true;
        lane.streamed += piece.len() as u64;
        gather::piece_of_part(worker, &waiter.one(lane.block.0), piece);
        return Ok(());
    }
    note_size(worker, lane, piece);
    if !lane.block.1.is_empty() {
        let before = std::mem::take(&mut lane.block.1);
        if let Some(session) = worker.sessions.get_mut(waiter.session) {
            session.replies.piece(waiter.slot, &before, &mut session.out, &mut worker.pool);
        }
    }
    lane.streaming = true;
    lane.streamed += piece.len() as u64;
    lane.settling = Some(waiter.session);
    if let Some(session) = worker.sessions.get_mut(waiter.session)
        && !waiter.is_muted
    {
        session.admission.learn(lane.streamed + lane.scanner.bulk_left());
        match shared {
            Some(bytes)
                if session.replies.is_due(waiter.slot) && Lane::is_worth_sharing(piece.len()) =>
            {
                session.out.append_shared(bytes.slice_ref(piece));
                session.replies.note_piece(waiter.slot);
            }
            _ => {
                session.replies.piece(waiter.slot, piece, &mut session.out, &mut worker.pool);
            }
        }
        worker.touched.mark(session);
    }
    lane.settling = None;
    Ok(())
}

// === impl Lane ===

impl Lane {
    /// Whether a piece of this length is better kept as it is than copied.
    fn is_worth_sharing(length: usize) -> bool {
        length >= STREAM_FROM_BYTES
    }
}

/// From this many bytes on a reply is passed on in pieces.
const STREAM_FROM_BYTES: usize = 16 * 1024;
/// Most bytes of a frame that is kept back until it is whole, because parts of it are rewritten or
/// because it goes between two replies; the default bound of what a session may be owed.
const WHOLE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of an error reply (or of attributes before a reply) that are held.
const HELD_BYTES_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests;

//! The task of a lane: its socket, and nothing else.
//!
//! Owns dialling, reading what the node answers, and the end of the connection. Never decides about
//! a command: `receive` and `loss` do. The task ends when the lane is retired and empty, or when
//! the node is lost and nothing is left to be sent again.
//!
//! What surprises: it writes only what the kernel refused before. Fresh commands are written by
//! `flush`, once a turn for all sessions; that is most of what makes a shared connection cheap.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::dispatch::departure;
use crate::events;
use crate::net::{ReadHalf, WriteHalf};
use crate::session::state::Closing;
use crate::session::{flush, pinned};
use crate::stats::labels::{ClosedReason, DialFailure, LaneLost};
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::health::chart::Signal;
use crate::upstream::identity::Identity;
use crate::upstream::lane::{Lane, LaneId, LaneState};
use crate::upstream::pinned::wake_next;
use crate::upstream::{flush as lane_flush, loss, pool, receive};
use crate::worker::{SharedWorker, Worker};

/// Why a lane's connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was retired and its last reply is in.
    Retired,
    /// It is lost.
    Lost(LaneLost, String),
}

/// How many connections one worker may be dialling at a time (INV-9), whatever the node.
#[derive(Debug)]
pub struct Dialling(Semaphore);

/// Runs a lane from its dial to its end.
pub async fn run(worker: SharedWorker, id: LaneId, dialling: Rc<Dialling>) {
    while let Some(node) = node_of(&worker, id) {
        let mut read = match dial_lane(&worker, id, &node, &dialling).await {
            Ok(read) => read,
            Err(error) => match give_up(&worker, id, &node, &error) {
                Some(pause) => {
                    node.health.rest(pause).await;
                    continue;
                }
                None => return,
            },
        };
        let end = poll_fn(|cx| poll_lane(&worker, id, &mut read, cx)).await;
        if !outlives(&worker, id, &node, end) {
            return;
        }
    }
}

fn node_of(worker: &SharedWorker, id: LaneId) -> Option<Arc<Node>> {
    worker.borrow().lanes.get(id).map(|lane| Arc::clone(&lane.node))
}

/// Dials in its turn, unless the node has just been found dead.
async fn dial_lane(
    worker: &SharedWorker,
    id: LaneId,
    node: &Node,
    dialling: &Dialling,
) -> Result<ReadHalf, DialError> {
    pause(worker, id).await;
    // The node's turn first: who waits for a sick one must not keep others from dialling (INV-5).
    let _turn = node.health.turn().await;
    let _permit = dialling.permit().await;
    let purpose = {
        let mut worker = worker.borrow_mut();
        // Somebody else may have tried while this one waited for its turn.
        node.health.begin_dial(crate::clock::micros())?;
        worker.stats.dials_started.increment();
        purpose(&mut worker, id)
    };
    let result = dial::dial(node, &purpose).await;
    let mut worker = worker.borrow_mut();
    worker.now = crate::clock::micros();
    match result {
        Ok(exchange) => {
            node.note(Signal::Dialled, worker.now);
            let node_client_id = exchange.node_client_id.unwrap_or(0);
            let footing = exchange.footing;
            let (read, write) = exchange.into_halves();
            opened(&mut worker, id, write, node_client_id);
            if let Some(lane) = worker.lanes.get_mut(id) {
                lane.footing = footing;
            }
            Ok(read)
        }
        Err(error) => {
            worker.stats.dial_failed(error.failure).increment();
            note_failure(&worker, id, &error);
            events::dial_failed(&node.name, error.cause(), &error.text);
            Err(error)
        }
    }
}

/// A lane whose connections end before they answer anything is not dialled again at once, or a
/// front that accepts and closes would be dialled without end (INV-9). Its commands wait; they have
/// deadlines.
async fn pause(worker: &SharedWorker, id: LaneId) {
    let fruitless = worker.borrow().lanes.get(id).map_or(0, |lane| lane.fruitless);
    if fruitless > 0 {
        let pause = FRUITLESS_PAUSE * (1 << fruitless.min(6));
        tokio::time::sleep(pause.min(FRUITLESS_PAUSE_MAX)).await;
    }
}

/// Remembers a failure that concerns everybody. A password of one client, a database that does not
/// exist or a node that commands no longer go to must not keep the others from dialling (INV-5).
fn note_failure(worker: &Worker, id: LaneId, error: &DialError) {
    if let Some(lane) = worker.lanes.get(id)
        && is_everybodys(error, lane.key.identity)
    {
        lane.node.note(Signal::DialFailed { error, is_probe: false }, worker.now);
    }
}

/// Whether a failed dial of this identity says that nobody's would have succeeded.
pub(crate) fn is_everybodys(error: &DialError, identity: Identity) -> bool {
    match error.failure {
        DialFailure::Auth => identity == Identity::UPSTREAM && !error.is_stranger(),
        DialFailure::Protocol | DialFailure::Other => false,
        _ => true,
    }
}

fn purpose(worker: &mut Worker, id: LaneId) -> Purpose {
    let key = worker.lanes.get(id).map(|lane| lane.key.clone());
    let (protocol, db, is_bulk) =
        key.as_ref().map_or_else(Default::default, |key| (key.protocol, key.db, key.is_bulk));
    let is_pinned = worker.lanes.get(id).is_some_and(|lane| lane.pinned.is_some());
    let kind = match is_bulk {
        _ if is_pinned => "pinned",
        true => "bulk",
        false => "fast",
    };
    Purpose {
        protocol,
        db,
        may_be_stranger: false,
        presented: key.as_ref().and_then(|key| worker.shared.identities.presented(key.identity)),
        wants_id: is_pinned,
        is_readonly: key.as_ref().is_some_and(|key| key.is_readonly),
        label: format!("breakwater:{kind}"),
    }
}

/// The connection is ready: clients that have gone meanwhile get nothing executed.
fn opened(worker: &mut Worker, id: LaneId, socket: WriteHalf, node_client_id: u64) {
    let Some(mut lane) = worker.lanes.lend(id) else {
        return;
    };
    let owner = lane.owner().and_then(|owner| worker.sessions.get(owner));
    match (&mut lane.pinned, owner) {
        (None, _) => {
            worker.stats.lanes_opened.increment();
            worker.stats.lanes.add(1);
        }
        (Some(pinned), owner) => {
            worker.stats.pinned_opened.increment();
            pinned.node_client_id = node_client_id;
            if let Some(session) = owner {
                session.client.node_client_id.store(node_client_id, Ordering::Relaxed);
            }
        }
    }
    lane.state = LaneState::Open;
    lane.socket = socket;
    lane.write_blocked = true;
    lane.heard_at = worker.now;
    loss::drop_abandoned(worker, &lane);
    loss::sweep_orphans(worker, &mut lane);
    worker.lanes.restore(id, lane);
}

/// No connection: who has waited too long is told. Returns when to dial again, if somebody still
/// waits; otherwise the lane is forgotten.
fn give_up(worker: &SharedWorker, id: LaneId, node: &Node, error: &DialError) -> Option<Duration> {
    let mut worker = worker.borrow_mut();
    worker.now = crate::clock::micros();
    let mut lane = worker.lanes.lend(id)?;
    loss::dial_failed(&mut worker, &mut lane, node, error);
    pinned::lost(&mut worker, &mut lane);
    release_backlog(&worker, &mut lane);
    let is_done = lane.is_idle();
    worker.lanes.restore(id, lane);
    if is_done {
        worker.lanes.remove(id);
        // The place of a pinned connection is free again.
        wake_next(&mut worker);
    }
    departure::due(&mut worker);
    flush::touched(&mut worker);
    // Never at once: an error that concerns this lane alone sets no back-off for all. Nor as late as
    // the breaker allows a dial: whoever has waited for its `retry_window` is told by then.
    let pause = node.health.pause(worker.now).clamp(FRUITLESS_PAUSE, TOLD_EVERY);
    (!is_done).then_some(pause)
}

/// Buries the connection. Returns whether the lane wants another one.
fn outlives(worker: &SharedWorker, id: LaneId, node: &Node, end: End) -> bool {
    let mut worker = worker.borrow_mut();
    worker.now = crate::clock::micros();
    let Some(mut lane) = worker.lanes.lend(id) else {
        return false;
    };
    worker.stats.lanes.sub(u64::from(lane.pinned.is_none()));
    if let End::Lost(cause, text) = end {
        worker.stats.lane_lost(cause).increment();
        // What was answered before the loss counts before it.
        lane.count_answers(worker.now);
        node.note(Signal::Lost(cause.into()), worker.now);
        events::lane_lost(&node.name, cause.as_str(), &text);
        // Of a cluster's node somebody else may have taken the place.
        worker.shared.map_is_old.notify_one();
        lane.fruitless = if lane.has_answered { 0 } else { lane.fruitless + 1 };
        loss::connection_lost(&mut worker, &mut lane, node);
    }
    pinned::lost(&mut worker, &mut lane);
    release_backlog(&worker, &mut lane);
    let is_done = lane.is_idle();
    worker.lanes.restore(id, lane);
    if is_done {
        worker.lanes.remove(id);
        // The place of a pinned connection is free again.
        wake_next(&mut worker);
    }
    departure::due(&mut worker);
    flush::touched(&mut worker);
    !is_done
}

/// One turn of the lane's task.
fn poll_lane(
    worker: &SharedWorker,
    id: LaneId,
    read: &mut ReadHalf,
    cx: &mut Context<'_>,
) -> Poll<End> {
    let mut worker = worker.borrow_mut();
    let Some(mut lane) = worker.lanes.lend(id) else {
        return Poll::Ready(End::Retired);
    };
    if !lane.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        lane.waker = Some(cx.waker().clone());
    }
    // A panic while settling must not take the worker: the lane is closed, its waiters are settled
    // by `loss`.
    let turn = catch_unwind(AssertUnwindSafe(|| turn(&mut worker, &mut lane, read, cx)));
    let result = turn.unwrap_or_else(|_| Err(panicked(&mut worker, &mut lane)));
    if lane.send.unsent() < pool::LANE_UNSENT_BYTES_MAX / 2 {
        release_backlog(&worker, &mut lane);
    }
    pinned::after_turn(&mut worker, &mut lane);
    let is_over = lane.retired && lane.is_idle();
    worker.lanes.restore(id, lane);
    departure::due(&mut worker);
    flush::answered(&mut worker);
    match result {
        Err(end) => Poll::Ready(end),
        Ok(()) if is_over => Poll::Ready(End::Retired),
        Ok(()) => Poll::Pending,
    }
}

/// Writes what was refused before, then reads and settles, until the kernel has nothing more or the
/// turn is long enough.
fn turn(
    worker: &mut Worker,
    lane: &mut Lane,
    read: &mut ReadHalf,
    cx: &mut Context<'_>,
) -> Result<(), End> {
    if lane.retired && lane.pinned.is_some() && lane.is_idle() {
        // Its session has gone: what the node still says is for nobody.
        return Err(End::Retired);
    }
    if lane.has_orphans {
        loss::sweep_orphans(worker, lane);
        lane.write_blocked = true;
    }
    if let Some(error) = lane.broken.take() {
        return Err(End::io(&error));
    }
    if lane.write_blocked {
        worker.now = crate::clock::micros();
        let count = lane_flush::write(lane, cx, worker.now).map_err(|error| End::io(&error))?;
        worker.stats.upstream_bytes_out.add(count as u64);
    }
    for _ in 0..READS_A_TURN {
        if is_paused(worker, lane) {
            return Ok(());
        }
        if !receive_once(worker, lane, read, cx)? {
            return Ok(());
        }
        // Replies go out as they come: a long one must not pile up here.
        flush::answered(worker);
        check_giant(worker, lane);
    }
    cx.waker().wake_by_ref();
    Ok(())
}

/// One read, settled. Returns whether there may be more.
fn receive_once(
    worker: &mut Worker,
    lane: &mut Lane,
    read: &mut ReadHalf,
    cx: &mut Context<'_>,
) -> Result<bool, End> {
    if lane.streaming && lane.scanner.bulk_left() >= GIANT_READ_BYTES as u64 {
        return receive_giant(worker, lane, read, cx);
    }
    let mut scratch = std::mem::take(&mut worker.scratch);
    let result = read.poll_read(cx, &mut scratch);
    let outcome = match result {
        Poll::Pending => Ok(false),
        Poll::Ready(Err(error)) => Err(End::io(&error)),
        Poll::Ready(Ok(0)) => Err(End::closed()),
        Poll::Ready(Ok(count)) => {
            worker.now = crate::clock::micros();
            let bytes = scratch.get(..count).unwrap_or_default();
            receive::receive(worker, lane, bytes, None).map(|()| true).map_err(End::from)
        }
    };
    worker.scratch = scratch;
    outcome
}

/// As [`receive_once`], into a buffer that the client's queue keeps: a giant is not copied.
fn receive_giant(
    worker: &mut Worker,
    lane: &mut Lane,
    read: &mut ReadHalf,
    cx: &mut Context<'_>,
) -> Result<bool, End> {
    let mut buffer = BytesMut::zeroed(GIANT_READ_BYTES);
    match read.poll_read(cx, &mut buffer) {
        Poll::Pending => Ok(false),
        Poll::Ready(Err(error)) => Err(End::io(&error)),
        Poll::Ready(Ok(0)) => Err(End::closed()),
        Poll::Ready(Ok(count)) => {
            worker.now = crate::clock::micros();
            buffer.truncate(count);
            let bytes: Bytes = buffer.freeze();
            receive::receive(worker, lane, &bytes, Some(&bytes)).map(|()| true).map_err(End::from)
        }
    }
}

/// Whether the lane waits for the client of the reply in progress (admission: the giant).
fn is_paused(worker: &mut Worker, lane: &mut Lane) -> bool {
    if lane.paused_at.is_none() || lane.overdraft {
        return false;
    }
    let first = lane.waiters.front().map(|first| first.session);
    let session = first.and_then(|first| worker.sessions.get_mut(first));
    // A client that has gone, or that has taken half of what it is owed, stops nobody.
    let slow = session.filter(|session| {
        session.write_blocked && session.owed() as u64 >= session.gate.bounds.reply_bytes / 2
    });
    let Some(session) = slow else {
        lane.paused_at = None;
        return false;
    };
    // It may be another one than the lane was paused for: the one that it waits for must wake it.
    if !session.paused.contains(&lane.id) {
        session.paused.push(lane.id);
    }
    true
}

/// A reply longer than its session's room, for a client that does not read, retires the lane; at
/// the session's bound the lane is not read on.
fn check_giant(worker: &mut Worker, lane: &mut Lane) {
    let Some(first) = lane.waiters.front() else {
        return;
    };
    let Some(session) = worker.sessions.get_mut(first.session) else {
        return;
    };
    if !session.write_blocked {
        return;
    }
    let owed = session.owed() as u64;
    let bound = session.gate.bounds.reply_bytes;
    let in_progress = if lane.streaming { lane.scanner.bulk_left() } else { 0 };
    // A connection of one client holds up nobody else, and may hold what cannot be taken elsewhere.
    if owed + in_progress > bound && !lane.retired && lane.pinned.is_none() {
        pool::retire(lane);
        worker.stats.lanes_retired.increment();
    }
    // A quarter is left for what one more turn brings and for buffers that are not full.
    let full = bound / 4 * 3;
    if owed >= full && !lane.overdraft && lane.paused_at.is_none() {
        lane.paused_at = Some(worker.now);
        // From here on silence says nothing of whether a script still runs.
        lane.running = None;
    }
}

/// Sessions that found the queue full may offer their commands again.
fn release_backlog(worker: &Worker, lane: &mut Lane) {
    for id in lane.backlog.drain(..) {
        if let Some(session) = worker.sessions.get(id) {
            session.wake();
        }
    }
}

/// What a caught panic leaves behind: the session that was being settled cannot be trusted any
/// more.
pub(crate) fn panicked(worker: &mut Worker, lane: &mut Lane) -> End {
    worker.stats.panics.increment();
    worker.capture = None;
    if worker.scratch.is_empty() {
        worker.scratch = vec![0; crate::worker::SCRATCH_BYTES];
    }
    if let Some(session) = lane.settling.take().and_then(|id| worker.sessions.get_mut(id)) {
        session.close(Closing::Now(ClosedReason::Panic));
        session.wake();
    }
    End::Lost(LaneLost::Panic, "a panic while settling a reply".into())
}

// === impl Dialling ===

impl Default for Dialling {
    fn default() -> Self {
        Self(Semaphore::new(DIALS_MAX))
    }
}

impl Dialling {
    /// The permit to dial. The semaphore is never closed; without a permit the dial is merely not
    /// limited.
    pub(crate) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.0.acquire().await.ok()
    }
}

// === impl End ===

impl End {
    pub(crate) fn closed() -> Self {
        Self::Lost(LaneLost::Closed, "the node closed the connection".into())
    }

    pub(crate) fn io(error: &io::Error) -> Self {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => LaneLost::Reset,
            io::ErrorKind::TimedOut => LaneLost::Timeout,
            io::ErrorKind::InvalidData => LaneLost::Tls,
            io::ErrorKind::UnexpectedEof => LaneLost::Closed,
            _ => LaneLost::Other,
        };
        Self::Lost(cause, error.to_string())
    }
}

impl From<receive::Anomaly> for End {
    fn from(anomaly: receive::Anomaly) -> Self {
        Self::Lost(LaneLost::Protocol, anomaly.to_string())
    }
}

/// Dials of one worker at a time.
const DIALS_MAX: usize = 16;
/// Reads of one turn: half a megabyte in all, then the others have theirs.
const READS_A_TURN: usize = 8;
/// Size of one read of a reply that has at least so much to come.
const GIANT_READ_BYTES: usize = 256 * 1024;
/// Pause before a connection is replaced that has answered nothing; doubles each time.
pub(crate) const FRUITLESS_PAUSE: Duration = Duration::from_millis(10);
/// How often those are looked at who wait for a connection that is not to be had.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// Longest such pause.
pub(crate) const FRUITLESS_PAUSE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::rig::Rig;

    #[test]
    fn a_lane_that_is_paused_says_no_longer_that_a_script_runs() {
        let mut rig = Rig::new();
        let client = rig.client();
        rig.say(client, b"EVAL large 0\r\n");
        rig.hand_over_all();
        rig.worker.now += crate::clock::SECOND;
        let slot = rig.first_waiter().slot;
        let id = rig.lane_id();
        let mut lane = rig.worker.lanes.lend(id).unwrap();
        crate::governor::running::look(&rig.worker, &mut lane);
        assert_eq!(lane.node.running.own().len(), 1);
        let Worker { sessions, pool, .. } = &mut rig.worker;
        let session = sessions.get_mut(client).unwrap();
        session.write_blocked = true;
        let owed = usize::try_from(session.gate.bounds.reply_bytes).unwrap();
        session.replies.piece(slot, &vec![b'x'; owed], &mut session.out, pool);
        check_giant(&mut rig.worker, &mut lane);
        assert!(lane.paused_at.is_some() && lane.node.running.own().is_empty());
        rig.worker.lanes.restore(id, lane);
    }

    #[test]
    fn whoever_a_paused_lane_waits_for_now_wakes_it() {
        let mut rig = Rig::new();
        let client = rig.client();
        rig.say(client, b"GET large\r\n");
        rig.hand_over_all();
        let session = rig.worker.sessions.get_mut(client).unwrap();
        session.write_blocked = true;
        let owed = usize::try_from(session.gate.bounds.reply_bytes).unwrap();
        let slot = rig.first_waiter().slot;
        let Worker { sessions, pool, .. } = &mut rig.worker;
        let session = sessions.get_mut(client).unwrap();
        session.replies.piece(slot, &vec![b'x'; owed], &mut session.out, pool);
        // It was paused for the client of an earlier reply.
        let id = rig.lane_id();
        let mut lane = rig.worker.lanes.lend(id).unwrap();
        lane.paused_at = Some(0);
        assert!(is_paused(&mut rig.worker, &mut lane) && is_paused(&mut rig.worker, &mut lane));
        assert_eq!(rig.worker.sessions.get_mut(client).unwrap().paused, [id]);
        rig.worker.sessions.get_mut(client).unwrap().write_blocked = false;
        assert!(!is_paused(&mut rig.worker, &mut lane) && lane.paused_at.is_none());
    }
}

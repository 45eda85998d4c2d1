//! The end of a turn: one task a worker, which writes to nodes and then to clients.
//!
//! Owns the moment when queued commands are handed to the kernel, and that of the replies that lanes have read.
//! Never reads, never settles. Sessions queue commands on lanes and mark them; this task runs behind every session
//! that was ready in the same turn, writes each marked lane once, and then each client once: while it writes to
//! the clients the nodes are at work already.
//!
//! What surprises: this is a task of its own and not a part of the lane's. The lane's task is woken by its socket,
//! in the middle of the sessions that are ready; a write there would be one of two in the same turn (measured:
//! 2.35 instead of 2.3 system calls a request).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};

use crate::buffer::SLICES;
use crate::clock;
use crate::session;
use crate::upstream::lane::{Lane, LaneId, LaneState};
use crate::worker::{SharedWorker, Worker};

/// Lanes with commands that the kernel has not been offered, and the task that will.
#[derive(Debug, Default)]
pub struct Unflushed {
    lanes: Vec<LaneId>,
    /// Commands queued since the last flush.
    commands: usize,
    /// Whether clients are owed what a lane has read.
    has_replies: bool,
    waker: Option<Waker>,
}

/// Writes what sessions queue, and what lanes have for them, for as long as the worker lives.
pub async fn run(worker: SharedWorker) {
    loop {
        poll_fn(|cx| worker.borrow_mut().unflushed.poll_any(cx)).await;
        let mut worker = worker.borrow_mut();
        if worker.unflushed.commands > 0 {
            all(&mut worker);
        }
        worker.unflushed.has_replies = false;
        session::flush::touched(&mut worker);
    }
}

/// Offers the kernel what is queued on every marked lane.
fn all(worker: &mut Worker) {
    worker.now = clock::micros();
    worker.stats.turns.increment();
    let mut lanes = std::mem::take(&mut worker.unflushed.lanes);
    worker.stats.lane_commands.add(worker.unflushed.commands as u64);
    worker.reaches.earn_retries(worker.unflushed.commands as u64);
    worker.unflushed.commands = 0;
    for id in lanes.drain(..) {
        let Some(lane) = worker.lanes.get_mut(id) else {
            continue;
        };
        let waker = lane.waker.take();
        let mut cx = Context::from_waker(waker.as_ref().unwrap_or(Waker::noop()));
        let taken = write(lane, &mut cx, worker.now);
        lane.waker = waker;
        worker.stats.lane_flushes.increment();
        match taken {
            Ok(count) => worker.stats.upstream_bytes_out.add(count as u64),
            Err(error) => {
                // The lane's task buries it.
                lane.broken = Some(error);
                lane.wake();
            }
        }
    }
    worker.unflushed.lanes = lanes;
}

/// Hands what is queued on an open lane to the kernel and returns how many bytes it took. `cx` is the lane's task,
/// which goes on when the kernel has room again.
///
/// # Errors
/// Those of the socket, and a queue that does not match its waiters: nothing more may be sent then (INV-1).
pub fn write(lane: &mut Lane, cx: &mut Context<'_>, now: clock::Micros) -> io::Result<usize> {
    let mut total = 0;
    if lane.state != LaneState::Open || lane.has_orphans {
        return Ok(total);
    }
    if !lane.is_consistent() {
        return Err(io::Error::other("the queue does not match its waiters"));
    }
    lane.write_blocked = false;
    while lane.send.unsent() > 0 && !lane.write_blocked {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = lane.send.unsent_slices(&mut slices);
        match lane.socket.poll_write(cx, slices.get(..filled).unwrap_or_default()) {
            Poll::Ready(count) => {
                let count = count?;
                lane.note_sent(count, now);
                total += count;
            }
            Poll::Pending => lane.write_blocked = true,
        }
    }
    match lane.socket.poll_flush(cx) {
        Poll::Ready(result) => result?,
        Poll::Pending => lane.write_blocked = true,
    }
    Ok(total)
}

// === impl Unflushed ===

impl Unflushed {
    /// A command has been queued on `lane`; `is_first` if the kernel had taken all before it.
    pub fn mark(&mut self, lane: LaneId, is_first: bool) {
        self.mark_many(lane, is_first, 1);
    }

    /// As [`Self::mark`], for so many commands.
    pub fn mark_many(&mut self, lane: LaneId, is_first: bool, commands: usize) {
        self.ring();
        self.commands += commands;
        if is_first {
            self.lanes.push(lane);
        }
    }

    /// Clients are owed replies, which can wait until the turn ends.
    pub fn mark_replies(&mut self) {
        self.ring();
        self.has_replies = true;
    }

    /// Wakes the task if it has nothing to do yet.
    fn ring(&self) {
        if let Some(waker) = self.waker.as_ref().filter(|_| !self.is_due()) {
            waker.wake_by_ref();
        }
    }

    /// Whether something is to be written.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.commands > 0 || self.has_replies
    }

    fn poll_any(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.is_due() {
            return Poll::Ready(());
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

//! Writing to nodes: one task a worker, once a turn, for all lanes.
//!
//! Owns the moment when queued commands are handed to the kernel. Never reads, never settles. Sessions queue
//! commands on lanes and mark them; this task runs behind every session that was ready in the same turn and
//! writes each marked lane once.
//!
//! What surprises: this is a task of its own and not a part of the lane's. The lane's task is woken by its socket,
//! in the middle of the sessions that are ready; a write there would be one of two in the same turn (measured:
//! 2.35 instead of 2.3 system calls a request).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};

use crate::buffer::SLICES;
use crate::clock;
use crate::session::flush as clients;
use crate::upstream::lane::{Lane, LaneId, LaneState};
use crate::worker::{SharedWorker, Worker};

/// Lanes with commands that the kernel has not been offered, and the task that will.
#[derive(Debug, Default)]
pub struct Unflushed {
    lanes: Vec<LaneId>,
    /// Commands queued since the last flush.
    commands: usize,
    /// Whether clients are to be written to as well, behind all lanes of the turn.
    expects_clients: bool,
    waker: Option<Waker>,
}

/// Writes what sessions queue, and to the clients that were put off, for as long as the worker lives.
pub async fn run(worker: SharedWorker) {
    loop {
        poll_fn(|cx| worker.borrow_mut().unflushed.poll_any(cx)).await;
        while end_turn(&mut worker.borrow_mut()) {
            // Sockets are looked at once more, whoever has become ready has a turn, then it goes on.
            tokio::task::yield_now().await;
        }
    }
}

/// Returns whether there are clients whose turn is the end of the next turn.
fn end_turn(worker: &mut Worker) -> bool {
    worker.now = clock::micros();
    if worker.unflushed.commands > 0 {
        all(worker);
    }
    worker.unflushed.expects_clients = false;
    clients::put_off(worker)
}

/// Offers the kernel what is queued on every marked lane.
fn all(worker: &mut Worker) {
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
        if self.commands == 0 {
            self.wake();
        }
        self.commands += commands;
        if is_first {
            self.lanes.push(lane);
        }
    }

    /// Clients wait for the end of this turn.
    pub fn expect_clients(&mut self) {
        if !self.expects_clients {
            self.expects_clients = true;
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn poll_any(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.commands > 0 || self.expects_clients {
            return Poll::Ready(());
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

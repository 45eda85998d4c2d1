//! Writing to clients, whoever has something for them.
//!
//! Owns how a session's bytes go to its socket: from the task that made them, or, if a lane brought
//! them, at the end of the turn (`upstream::flush`). Never waits: what the kernel refuses stays with the session, whose
//! own task writes on when the socket has room.
//!
//! What surprises: it is not the session's task that writes what came from a node. Waking fifty session tasks to
//! write fifty replies would cost fifty turns of the scheduler and keep no promise better.

use std::io::IoSlice;
use std::task::{Context, Poll, Waker};

use crate::buffer::SLICES;
use crate::session::state::{Closing, Session, SessionId};
use crate::stats::labels::ClosedReason;
use crate::worker::Worker;

/// Writes for every session on the worker's list, and wakes those that can go on.
pub fn touched(worker: &mut Worker) {
    if worker.touched.is_empty() {
        return;
    }
    let list = worker.touched.take();
    for &id in &list {
        one(worker, id);
    }
    worker.touched.reuse(list);
}

/// As [`touched`], at the end of a turn of the session `id`: what it alone is owed. If others are as
/// well, a lane has been read in this turn of the event loop, and all of it goes at its end.
pub fn own(worker: &mut Worker, id: SessionId) {
    if worker.touched.is_only(id) {
        touched(worker);
    } else if !worker.touched.is_empty() {
        worker.unflushed.mark_replies();
    }
}

/// Writes what one session is owed.
fn one(worker: &mut Worker, id: SessionId) {
    let Some(session) = worker.sessions.get_mut(id) else {
        return;
    };
    session.touched = false;
    // Taken out for the call instead of cloned: a clone is two atomic operations a reply.
    let waker = session.waker.take();
    let cx = &mut Context::from_waker(waker.as_ref().unwrap_or(Waker::noop()));
    let count = write(session, cx, worker.now);
    session.waker = waker;
    worker.stats.client_bytes_out.add(count as u64);
    let sent = session.out.sent();
    session.out.release(&mut worker.pool, sent);
    session.out.rest(&mut worker.pool);
    if session.closing.is_some() || (session.parked && session.admits()) {
        session.wake();
    }
}

/// Hands the session's bytes to the kernel and returns how many it took.
pub fn write(session: &mut Session, cx: &mut Context<'_>, now: u64) -> usize {
    let mut total = 0;
    while session.out.unsent() > 0 && !session.write_blocked {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = session.out.unsent_slices(&mut slices);
        match session.socket.poll_write(cx, slices.get(..filled).unwrap_or_default()) {
            Poll::Ready(Ok(count)) => {
                session.out.advance(count);
                session.written_at = now;
                session.stalled_since = None;
                total += count;
            }
            Poll::Ready(Err(_)) => {
                session.close(Closing::Now(ClosedReason::WriteError));
                return total;
            }
            Poll::Pending => session.block(now),
        }
    }
    session.needs_flush |= total > 0;
    if session.needs_flush {
        match session.socket.poll_flush(cx) {
            Poll::Ready(Ok(())) => session.needs_flush = false,
            Poll::Ready(Err(_)) => session.close(Closing::Now(ClosedReason::WriteError)),
            Poll::Pending => session.block(now),
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::rig::Rig;

    #[test]
    fn what_a_lane_brought_waits_for_the_end_of_the_turn_and_what_is_one_s_own_does_not() {
        let mut rig = Rig::new();
        let (ann, bob) = (rig.client(), rig.client());
        let mark = |rig: &mut Rig, client| {
            let Worker { sessions, touched, .. } = &mut rig.worker;
            touched.mark(sessions.get_mut(client).unwrap());
        };
        mark(&mut rig, ann);
        own(&mut rig.worker, ann);
        assert!(rig.worker.touched.is_empty() && !rig.worker.unflushed.is_due());
        mark(&mut rig, bob);
        mark(&mut rig, ann);
        own(&mut rig.worker, ann);
        assert!(rig.worker.unflushed.is_due());
        assert_eq!(rig.worker.touched.take(), [bob, ann]);
    }
}

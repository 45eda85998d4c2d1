//! Writing to clients, whoever has something for them.
//!
//! Owns the moment when a session's bytes go to its socket: at the end of the batch that made them,
//! from the task that made them. Never waits: what the kernel refuses stays with the session, whose
//! own task writes on when the socket has room.
//!
//! What surprises: the lane's task writes to the clients' sockets. Waking fifty session tasks to
//! write fifty replies would cost fifty turns of the scheduler and keep no promise better. Only who
//! waits for more replies is written to behind all lanes that are readable in this turn of the event
//! loop and the next one: before a cluster each lane has a part of a pipeline's replies, and would
//! write its own.

use std::io::IoSlice;
use std::task::{Context, Poll, Waker};

use crate::buffer::{LARGE_BYTES, SLICES};
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

/// As [`touched`], but those who wait for more replies have their turn with [`put_off`].
pub fn answered(worker: &mut Worker) {
    if worker.touched.is_empty() {
        return;
    }
    let list = worker.touched.take();
    for &id in &list {
        if waits(worker, id) {
            worker.touched.later.push(id);
        } else {
            one(worker, id);
        }
    }
    worker.touched.reuse(list);
    if !worker.touched.later.is_empty() {
        worker.unflushed.expect_clients();
    }
}

/// Writes for those who were put off, at the end of a turn of the event loop. Who still waits for
/// more has until the end of the next one, which takes what is readable by now and does not wait.
/// Returns whether there are such.
pub fn put_off(worker: &mut Worker) -> bool {
    let mut due = std::mem::take(&mut worker.touched.due);
    due.drain(..).for_each(|id| one(worker, id));
    let mut later = std::mem::take(&mut worker.touched.later);
    for id in later.drain(..) {
        if waits(worker, id) {
            due.push(id);
        } else {
            one(worker, id);
        }
    }
    worker.touched.later = later;
    worker.touched.due = due;
    !worker.touched.due.is_empty()
}

/// Whether more may come for a session soon. Much is written at once: it would pile up here.
fn waits(worker: &Worker, id: SessionId) -> bool {
    worker.sessions.get(id).is_some_and(|session| {
        session.replies.pending() > 0 && session.out.unsent() < PUT_OFF_BYTES_MAX
    })
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

/// Hands the session's bytes to the kernel and returns how many it took. After a panic nobody knows
/// whose they are.
pub fn write(session: &mut Session, cx: &mut Context<'_>, now: u64) -> usize {
    if matches!(session.closing, Some(Closing::Now(ClosedReason::Panic))) {
        return 0;
    }
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

/// What may be put off for one session.
const PUT_OFF_BYTES_MAX: usize = LARGE_BYTES;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::rig::Rig;

    /// What the client is owed, and whether the kernel was offered it.
    fn owed(rig: &Rig, client: SessionId) -> (usize, bool) {
        let session = rig.worker.sessions.get(client).unwrap();
        (session.out.unsent(), session.write_blocked)
    }

    #[test]
    fn who_waits_for_another_lane_is_written_to_behind_it() {
        let mut rig = Rig::before_cluster(3);
        let [ann, bob] = [rig.client(), rig.client()];
        // `b` lies with the first node, `a` with the last.
        rig.say(ann, b"GET b\r\nGET a\r\n");
        rig.say(bob, b"GET b\r\n");
        rig.focus_on_node(0).hand_over_all();
        rig.answer(b"$1\r\nx\r\n$1\r\ny\r\n").unwrap();
        answered(&mut rig.worker);
        assert_eq!((owed(&rig, ann), owed(&rig, bob)), ((7, false), (7, true)));
        assert!(put_off(&mut rig.worker) && !owed(&rig, ann).1);
        rig.focus_on_node(2).hand_over_all();
        rig.answer(b"$1\r\nz\r\n").unwrap();
        answered(&mut rig.worker);
        assert!(!put_off(&mut rig.worker));
        assert_eq!(owed(&rig, ann), (14, true));
    }

    #[test]
    fn nobody_waits_for_a_reply_that_does_not_come() {
        let mut rig = Rig::before_cluster(3);
        let ann = rig.client();
        rig.say(ann, b"GET b\r\nGET a\r\n");
        rig.focus_on_node(0).hand_over_all();
        rig.answer(b"$1\r\nx\r\n").unwrap();
        answered(&mut rig.worker);
        assert!(put_off(&mut rig.worker) && !put_off(&mut rig.worker));
        assert_eq!(owed(&rig, ann), (7, true));
    }

    #[test]
    fn whose_replies_are_all_there_waits_for_no_other_turn() {
        let mut rig = Rig::before_cluster(3);
        let ann = rig.client();
        rig.say(ann, b"GET b\r\nGET a\r\n");
        for node in [0, 2] {
            rig.focus_on_node(node).hand_over_all();
            rig.answer(b"$1\r\nx\r\n").unwrap();
            answered(&mut rig.worker);
        }
        assert!(!owed(&rig, ann).1 && !put_off(&mut rig.worker));
        assert_eq!(owed(&rig, ann), (14, true));
    }

    #[test]
    fn who_has_panicked_is_written_nothing_more() {
        let mut rig = Rig::new();
        let [ann, bob] = [rig.client(), rig.client()];
        rig.say(ann, b"GET a\r\n");
        rig.say(bob, b"GET b\r\n");
        rig.focus_on(ann).hand_over_all();
        rig.answer(b"$1\r\nx\r\n$1\r\ny\r\n").unwrap();
        rig.worker.sessions.get_mut(ann).unwrap().close(Closing::Now(ClosedReason::Panic));
        answered(&mut rig.worker);
        assert_eq!((owed(&rig, ann), owed(&rig, bob)), ((7, false), (7, true)));
    }

    #[test]
    fn what_is_much_is_written_at_once() {
        let mut rig = Rig::before_cluster(3);
        let ann = rig.client();
        rig.say(ann, b"GET b\r\nGET a\r\n");
        rig.focus_on_node(0).hand_over_all();
        let value = "x".repeat(PUT_OFF_BYTES_MAX);
        rig.answer(format!("${}\r\n{value}\r\n", value.len()).as_bytes()).unwrap();
        answered(&mut rig.worker);
        assert!(owed(&rig, ann).1);
    }
}

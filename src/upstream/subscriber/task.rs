//! The task of a link: its socket, and nothing else.
//!
//! Owns dialling, reading, writing and the end of the connection. Never decides about a
//! subscription: `receive` and `loss` do. The task ends when nobody has wanted the link for a
//! while, or when its node is lost and nobody holds or asks for anything.
//!
//! What surprises: it reads as fast as the node sends, whatever the clients do: a link that is not
//! read is closed by the server for all of them, a client that does not read is closed by us alone.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Leads, Link, LinkId, LinkKey, copies, loss, place, receive};
use crate::buffer::SLICES;
use crate::clock;
use crate::events;
use crate::net::ReadHalf;
use crate::resp::write::Protocol;
use crate::session::flush;
use crate::stats::labels::LaneLost;
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::health::chart::Signal;
use crate::upstream::task::{Dialling, End, FRUITLESS_PAUSE, FRUITLESS_PAUSE_MAX, is_everybodys};
use crate::worker::{SCRATCH_BYTES, SharedWorker, Worker};

/// Runs a link from its first dial to its end.
pub async fn run(worker: SharedWorker, id: LinkId, dialling: Rc<Dialling>) {
    while let Some(node) = aim(&worker, id) {
        let mut read = match connect(&worker, id, &node, &dialling).await {
            Ok(read) => read,
            Err(error) => match give_up(&worker, id, &node, &error) {
                Some(pause) => {
                    node.health.rest(pause).await;
                    continue;
                }
                None => return,
            },
        };
        let end = poll_fn(|cx| poll_link(&worker, id, &mut read, cx)).await;
        if !outlives(&worker, id, end) {
            return;
        }
    }
}

/// Where the next connection leads: to the link's own node, or to any of the deployment in force.
fn aim(worker: &SharedWorker, id: LinkId) -> Option<Arc<Node>> {
    let mut worker = worker.borrow_mut();
    let topology = worker.begin_batch();
    let anchor = place::anchor(&worker, &topology, worker.links.get(id));
    let link = worker.links.get_mut(id)?;
    if link.key.leads == Leads::Anywhere {
        link.epoch = topology.epoch;
        link.node = anchor;
    }
    link.book.count(link.node.id == topology.node.id);
    Some(Arc::clone(&link.node))
}

/// Dials in its turn, unless the node has just been found dead.
async fn connect(
    worker: &SharedWorker,
    id: LinkId,
    node: &Node,
    dialling: &Dialling,
) -> Result<ReadHalf, DialError> {
    let fruitless = worker.borrow().links.get(id).map_or(0, |link| link.fruitless);
    if fruitless > 0 {
        // A front that accepts and closes must not be dialled without end (INV-9).
        let pause = FRUITLESS_PAUSE * (1 << fruitless.min(6));
        tokio::time::sleep(pause.min(FRUITLESS_PAUSE_MAX)).await;
    }
    let _turn = node.health.turn().await;
    let _permit = dialling.permit().await;
    let purpose = prepare(&mut worker.borrow_mut(), id, node)?;
    let result = dial::dial(node, &purpose).await;
    let mut worker = worker.borrow_mut();
    worker.now = clock::micros();
    match result {
        Ok(exchange) => {
            node.note(Signal::Dialled, worker.now);
            worker.stats.subscriber_links_opened.increment();
            worker.stats.subscriber_links.add(1);
            let (read, write) = exchange.into_halves();
            if let Some(mut link) = worker.links.lend(id) {
                loss::opened(&mut worker, &mut link, write);
                worker.links.restore(id, link);
            }
            Ok(read)
        }
        Err(error) => {
            worker.stats.dial_failed(error.failure).increment();
            note_failure(&mut worker, id, &error);
            events::dial_failed(&node.name, error.cause(), &error.text);
            Err(error)
        }
    }
}

/// What the dial is for; an error if somebody else has found the node dead while this one waited
/// for its turn.
fn prepare(worker: &mut Worker, id: LinkId, node: &Node) -> Result<Purpose, DialError> {
    node.health.begin_dial(clock::micros())?;
    worker.stats.dials_started.increment();
    let identity = worker.links.get(id).map(|link| link.key.identity);
    Ok(Purpose {
        // Pushes are told from replies by their type only here.
        protocol: Protocol::Resp3,
        db: 0,
        presented: identity.and_then(|identity| worker.shared.identities.presented(identity)),
        may_be_stranger: false,
        wants_id: false,
        is_readonly: false,
        label: "breakwater:pubsub".into(),
    })
}

/// Remembers a failure that concerns everybody (INV-5).
fn note_failure(worker: &mut Worker, id: LinkId, error: &DialError) {
    let now = worker.now;
    let Some(link) = worker.links.get_mut(id) else {
        return;
    };
    if is_everybodys(error, link.key.identity) {
        link.node.note(Signal::DialFailed { error, is_probe: false }, now);
    } else {
        // No back-off of all holds this one up, so it has its own.
        link.fruitless += 1;
    }
}

/// No connection. Returns when to dial again, if anybody holds or asks for anything; otherwise the
/// link is forgotten.
fn give_up(worker: &SharedWorker, id: LinkId, node: &Node, error: &DialError) -> Option<Duration> {
    let mut worker = worker.borrow_mut();
    worker.now = clock::micros();
    let mut link = worker.links.lend(id)?;
    loss::dial_failed(&mut worker, &mut link, node, error);
    worker.shared.map_is_old.notify_one();
    let is_wanted = end_turn(&mut worker, id, link);
    let topology = Arc::clone(worker.topology.load());
    let link = worker.links.get(id).filter(|link| link.key.leads == Leads::Anywhere);
    // Whoever may lead anywhere tries the next node at once.
    let next = link.map(|link| place::anchor(&worker, &topology, Some(link)));
    let pause = next.as_deref().unwrap_or(node).health.pause(worker.now).max(FRUITLESS_PAUSE);
    is_wanted.then_some(pause)
}

/// Buries the connection. Returns whether the link wants another one.
fn outlives(worker: &SharedWorker, id: LinkId, end: End) -> bool {
    let mut worker = worker.borrow_mut();
    worker.now = clock::micros();
    worker.stats.subscriber_links.sub(1);
    let Some(mut link) = worker.links.lend(id) else {
        return false;
    };
    if let End::Lost(cause, text) = end {
        worker.stats.subscriber_link_lost(cause).increment();
        link.node.note(Signal::Lost(cause.into()), worker.now);
        events::lane_lost(&link.node.name, cause.as_str(), &text);
        link.fruitless = if link.has_answered { 0 } else { link.fruitless + 1 };
    }
    worker.shared.map_is_old.notify_one();
    loss::lost(&mut worker, &mut link);
    end_turn(&mut worker, id, link)
}

/// Puts the link back, or forgets it if nobody wants it; the clients are written to. Returns
/// whether it stays.
fn end_turn(worker: &mut Worker, id: LinkId, mut link: Box<Link>) -> bool {
    for session in link.backlog.drain(..) {
        if let Some(session) = worker.sessions.get(session) {
            session.wake();
        }
    }
    let (is_wanted, key) = (link.is_wanted(), link.key);
    worker.links.restore(id, link);
    if !is_wanted {
        worker.links.remove(id);
    }
    release(worker, key);
    flush::touched(worker);
    is_wanted
}

/// One turn of the link's task.
fn poll_link(
    worker: &SharedWorker,
    id: LinkId,
    read: &mut ReadHalf,
    cx: &mut Context<'_>,
) -> Poll<End> {
    let mut worker = worker.borrow_mut();
    let Some(mut link) = worker.links.lend(id) else {
        return Poll::Ready(End::Retired);
    };
    if !link.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        link.waker = Some(cx.waker().clone());
    }
    // A panic must not take the worker: the connection is closed and everything is subscribed anew.
    let turn = catch_unwind(AssertUnwindSafe(|| turn(&mut worker, &mut link, read, cx)));
    let result = turn.unwrap_or_else(|_| {
        worker.stats.panics.increment();
        worker.scratch.resize(SCRATCH_BYTES, 0);
        Err(End::Lost(LaneLost::Panic, "a panic while handling a message".into()))
    });
    if link.has_room() {
        for session in link.backlog.drain(..) {
            if let Some(session) = worker.sessions.get(session) {
                session.wake();
            }
        }
    }
    let (is_over, key) = (link.retired && !link.is_wanted(), link.key);
    worker.links.restore(id, link);
    release(&mut worker, key);
    flush::touched(&mut worker);
    match result {
        Err(end) => Poll::Ready(end),
        Ok(()) if is_over => Poll::Ready(End::Retired),
        Ok(()) => Poll::Pending,
    }
}

/// What waited for a primary's link may go on.
fn release(worker: &mut Worker, key: LinkKey) {
    if key.leads != Leads::Anywhere {
        copies::release(worker, key.identity);
    }
}

/// Reads and handles what is there, and writes what is asked.
fn turn(
    worker: &mut Worker,
    link: &mut Link,
    read: &mut ReadHalf,
    cx: &mut Context<'_>,
) -> Result<(), End> {
    if let Some(error) = link.broken.take() {
        return Err(End::io(&error));
    }
    worker.begin_batch();
    write(worker, link, cx)?;
    for _ in 0..READS_A_TURN {
        let mut scratch = std::mem::take(&mut worker.scratch);
        let result = read.poll_read(cx, &mut scratch);
        let outcome = match result {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(error)) => Err(End::io(&error)),
            Poll::Ready(Ok(0)) => Err(End::closed()),
            Poll::Ready(Ok(count)) => {
                let bytes = scratch.get(..count).unwrap_or_default();
                receive::receive(worker, link, bytes).map(|()| true).map_err(End::from)
            }
        };
        worker.scratch = scratch;
        if !outcome? {
            // What the answers made necessary goes out in the same turn.
            return write(worker, link, cx);
        }
        flush::touched(worker);
    }
    cx.waker().wake_by_ref();
    write(worker, link, cx)
}

/// Hands queued questions to the kernel.
fn write(worker: &mut Worker, link: &mut Link, cx: &mut Context<'_>) -> Result<(), End> {
    let mut total = 0;
    link.write_blocked = false;
    while link.send.unsent() > 0 && !link.write_blocked {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = link.send.unsent_slices(&mut slices);
        match link.socket.poll_write(cx, slices.get(..filled).unwrap_or_default()) {
            Poll::Ready(Ok(count)) => {
                link.send.advance(count);
                total += count;
            }
            Poll::Ready(Err(error)) => return Err(End::io(&error)),
            Poll::Pending => link.write_blocked = true,
        }
    }
    // Questions are kept in words, not as bytes: what the kernel took may be forgotten.
    let sent = link.send.sent();
    link.send.release(&mut worker.pool, sent);
    worker.stats.upstream_bytes_out.add(total as u64);
    match link.socket.poll_flush(cx) {
        Poll::Ready(result) => result.map_err(|error: io::Error| End::io(&error)),
        Poll::Pending => Ok(()),
    }
}

/// Reads of one turn: a quarter of a megabyte, then the others have theirs.
const READS_A_TURN: usize = 4;

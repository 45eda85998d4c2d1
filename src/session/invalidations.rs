//! Hearing what another client's CLIENT TRACKING … REDIRECT sends, on a connection of one's own.
//!
//! Owns SUBSCRIBE `__redis__:invalidate` and what its client may say meanwhile. Never touches the
//! subscriber link: the node sends invalidations to one connection by its id, so they need a
//! connection that is this client's alone.
//!
//! What surprises: in RESP3 the confirmation is a push and no reply. A PING goes behind the
//! SUBSCRIBE, and its answer, which nobody sees, says that the subscription holds.

use crate::buffer::Piece;
use crate::command::Command;
use crate::command::spec::{Class, Spec};
use crate::dispatch::{self, Dispatched};
use crate::resp::write::{self, Protocol};
use crate::session::pinned;
use crate::session::pubsub;
use crate::session::state::Session;
use crate::stats::labels::Outcome;
use crate::worker::Worker;

/// Whether a command subscribes to invalidations, and to nothing else.
#[must_use]
pub fn are_wanted(class: Class, session: &Session, command: &Command<'_>) -> bool {
    class == Class::Subscriber
        && session.subscriptions.is_none()
        && command.len() == 2
        && command.has_word_at(0, "subscribe")
        && command.argument(1) == Some(CHANNEL)
}

/// What is sent for the SUBSCRIBE.
#[must_use]
pub fn question<'a>(session: &Session, frame: Piece<'a>) -> Piece<'a> {
    match (session.protocol, frame) {
        (Protocol::Resp2, frame) => frame,
        (Protocol::Resp3, Piece::Borrowed(bytes)) => Piece::Shared([bytes, PING].concat().into()),
        (Protocol::Resp3, Piece::Shared(bytes)) => Piece::Shared([&bytes, PING].concat().into()),
    }
}

/// A command of a client that listens; `None` if it goes its usual way.
pub fn say(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) -> Option<Dispatched> {
    let is_resp2 = session.protocol == Protocol::Resp2;
    let names_it = command.argument(1).is_none_or(|channel| channel == CHANNEL);
    match &*spec.name {
        "quit" | "reset" => None,
        "subscribe" if names_it && command.len() == 2 => {
            Some(confirm(worker, session, spec, b"subscribe", 1))
        }
        "unsubscribe" if names_it && command.len() <= 2 => {
            let done = confirm(worker, session, spec, b"unsubscribe", 0);
            pinned::leave(worker, session);
            Some(done)
        }
        "ping" if is_resp2 => {
            worker.stats.command(spec.id.stats_index(), Outcome::Local).increment();
            let text = command.argument(1).unwrap_or_default();
            worker.answer(session, |line| {
                write::array_header(line, 2);
                write::bulk(line, b"pong");
                write::bulk(line, text);
            });
            Some(Dispatched::Done)
        }
        _ if spec.class == Class::Subscriber => {
            let text = "ERR breakwater: a client that hears invalidations cannot subscribe to \
                 anything else; use another connection";
            Some(dispatch::refuse_with(worker, session, Some(spec), |line| {
                write::error(line, text);
            }))
        }
        name if is_resp2 => Some(pubsub::refuse_in_context(worker, session, spec, name)),
        _ => None,
    }
}

/// The confirmation of a change that needs no node.
fn confirm(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    what: &[u8],
    count: i64,
) -> Dispatched {
    worker.stats.command(spec.id.stats_index(), Outcome::Local).increment();
    let is_push = session.protocol == Protocol::Resp3;
    worker.answer(session, |line| {
        line.extend_from_slice(if is_push { b">3\r\n" } else { b"*3\r\n" });
        write::bulk(line, what);
        write::bulk(line, CHANNEL);
        write::integer(line, count);
    });
    Dispatched::Done
}

/// The channel of invalidations.
const CHANNEL: &[u8] = b"__redis__:invalidate";
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

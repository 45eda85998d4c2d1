//! The connection itself: ECHO, SELECT, QUIT, RESET, and what only a cluster understands.
//!
//! Owns which database a session is in and how it gets back to where it began. Never moves a command that is in
//! flight: those stay on their lane, and later ones wait for them there (INV-12 c).
//!
//! What surprises: RESET is answered even after CLIENT REPLY OFF, which it ends, and is not answered after CLIENT
//! REPLY SKIP, which had taken effect before.

use crate::command::Command;
use crate::resp::parse_integer;
use crate::resp::write::{self, Protocol};
use crate::session::gate::DEFAULT_USER;
use crate::session::pubsub;
use crate::session::state::{Closing, ReplyMode, Session};
use crate::stats::labels::ClosedReason;
use crate::topology::Topology;
use crate::worker::Worker;

/// ECHO: the argument as a bulk string.
pub(super) fn echo(worker: &mut Worker, session: &mut Session, command: Command<'_>) {
    let text = command.argument(1).unwrap_or_default();
    worker.answer(session, |line| write::bulk(line, text));
}

/// SELECT: the later commands go to lanes of another database.
pub(super) fn select(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    command: Command<'_>,
) {
    // Three different mistakes have three different texts, and the parser is the strict one of Redis: no blank,
    // no sign but a minus, no leading zero.
    let error = match parse_integer(command.argument(1).unwrap_or_default()).map(i32::try_from) {
        None => "ERR value is not an integer or out of range",
        Some(Err(_)) => "ERR value is out of range, value must between -2147483648 and 2147483647",
        Some(Ok(index)) => match u32::try_from(index) {
            Ok(db) if db < topology.databases() => {
                enter(session, session.protocol, db);
                return worker.answer(session, super::ok);
            }
            _ => "ERR DB index is out of range",
        },
    };
    worker.answer(session, |line| write::error(line, error));
}

/// Changes protocol version and database, and forgets the lanes if they no longer fit. Selecting the same
/// database again, as pools do, costs nothing.
pub(super) fn enter(session: &mut Session, protocol: Protocol, db: u32) {
    if (protocol, db) != (session.protocol, session.db) {
        session.protocol = protocol;
        session.db = db;
        session.forget_lanes();
        session.client.note_state(protocol, db);
    }
}

/// QUIT: everything asked before is answered, then the connection ends.
pub(super) fn quit(worker: &mut Worker, session: &mut Session) {
    worker.answer(session, super::ok);
    session.close(Closing::AfterReplies(ClosedReason::ClientClosed));
}

/// RESET: as after connecting, but for the client's id and CLIENT NO-EVICT, which Redis keeps.
pub(super) fn reset(worker: &mut Worker, topology: &Topology, session: &mut Session) {
    // Where a client of this proxy begins, which is database 0 unless `[upstream]` names another.
    enter(session, Protocol::Resp2, topology.node.settings.db);
    let wants_auth = topology.facts.as_ref().is_some_and(|facts| facts.wants_auth);
    // Whoever must authenticate on connecting must do so again; the others stay who they are.
    let stranger = session.gate.stranger(wants_auth);
    if session.identity != stranger {
        session.identity = stranger;
        session.forget_lanes();
    }
    session.client.relabel(|labels| {
        labels.name = Vec::new();
        labels.user = DEFAULT_USER.into();
    });
    // A SKIP is left alone: it has muted this very command, and ends with it.
    if session.reply_mode == ReplyMode::Off {
        session.reply_mode = ReplyMode::On;
    }
    pubsub::leave_all(worker, topology, session);
    worker.answer(session, |line| write::simple(line, "RESET"));
}

/// ASKING, READONLY, READWRITE: what stands behind us is no cluster.
pub(super) fn no_cluster(worker: &mut Worker, session: &mut Session) {
    let text = "ERR This instance has cluster support disabled";
    worker.answer(session, |line| write::error(line, text));
}

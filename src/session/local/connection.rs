//! The connection itself: ECHO, PING, SELECT, QUIT, RESET.
//!
//! Owns which database a session is in and how it gets back to where it began. Never moves a
//! command that is in flight: those stay on their lane, and later ones wait for them there (INV-12
//! c).
//!
//! What surprises: RESET is answered even after CLIENT REPLY OFF, which it ends, and is not
//! answered after CLIENT REPLY SKIP, which had taken effect before.

use crate::command::spec::Spec;
use crate::command::{Command, errors};
use crate::resp::parse_integer;
use crate::resp::write::{self, Protocol};
use crate::session::gate::DEFAULT_USER;
use crate::session::pubsub;
use crate::session::state::{Closing, ReplyMode, Session};
use crate::stats::labels::ClosedReason;
use crate::topology::Topology;
use crate::upstream::lane::LaneState;
use crate::worker::Worker;

use super::cluster;

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
    // Four different mistakes have four different texts, and the parser is the strict one of Redis:
    // no blank, no sign but a minus, no leading zero.
    let error = match parse_integer(command.argument(1).unwrap_or_default()).map(i32::try_from) {
        None => "ERR value is not an integer or out of range",
        Some(Err(_)) => "ERR value is out of range, value must between -2147483648 and 2147483647",
        Some(Ok(index)) => match u32::try_from(index) {
            Ok(db) if db < topology.databases() => {
                enter(session, session.protocol, db);
                return worker.answer(session, super::ok);
            }
            // Redis refuses every other database, those that cannot exist included.
            _ if topology.shows_cluster() => "ERR SELECT is not allowed in cluster mode",
            _ => "ERR DB index is out of range",
        },
    };
    worker.answer(session, |line| write::error(line, error));
}

/// Changes protocol version and database, and forgets the lanes if they no longer fit. Selecting
/// the same database again, as pools do, costs nothing.
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
    cluster::forget_readonly(session);
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

/// PING where it is answered here.
pub(super) fn ping(worker: &mut Worker, session: &mut Session, spec: &Spec, command: Command<'_>) {
    worker.answer(session, |line| match (command.len(), command.argument(1)) {
        (3.., _) => errors::wrong_arity(line, spec),
        (_, Some(text)) => write::bulk(line, text),
        (_, None) => write::simple(line, "PONG"),
    });
}

/// Whether a connection of this worker stands to a node that takes writes; each of those is a
/// shard. Without one nothing is known: whoever wants to know must try.
///
/// A stopped node keeps its connections, and a dead machine for as long as `user_timeout`. That is
/// what a client of one Redis sees too, whose PING then waits; here commands for other slots go on
/// meanwhile, so PING does not wait.
pub(super) fn is_upstream_there(worker: &Worker, topology: &Topology) -> bool {
    worker.lanes.keys().filter_map(|id| worker.lanes.get(id)).any(|lane| {
        let is_current = lane.key.epoch == topology.epoch && !lane.retired;
        is_current && lane.state == LaneState::Open && !lane.key.is_readonly
    })
}

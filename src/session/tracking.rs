//! CLIENT TRACKING of the application: its own connection, told what it wants to hear of.
//!
//! Owns the translation of REDIRECT (our ids into the node's), and the saying again on a new connection. Never
//! filters what the node sends: invalidations are pushes of a pinned connection and pass as they come.
//!
//! What surprises: when the connection is lost, everything that the client has cached may have changed unseen. A
//! RESP3 client is told with the push that Redis sends after FLUSHALL.

use std::sync::atomic::Ordering;

use crate::buffer::Piece;
use crate::command::Command;
use crate::dispatch::Dispatched;
use crate::resp::parse_integer;
use crate::resp::write;
use crate::session::pin::Pending;
use crate::session::state::Session;
use crate::upstream::lane::LaneId;
use crate::upstream::pinned;
use crate::worker::Worker;

/// The push that empties a client's cache.
pub const INVALIDATE_ALL: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

/// CLIENT TRACKING with the node's own id behind REDIRECT; `None` if there is no REDIRECT.
///
/// # Errors
/// What became of the command if it names a client that cannot be redirected to.
pub fn in_the_nodes_terms(
    worker: &mut Worker,
    session: &mut Session,
    command: Command<'_>,
) -> Result<Option<Vec<u8>>, Dispatched> {
    let Some(place) = (3..command.len()).find(|&at| command.has_word_at(at, "redirect")) else {
        return Ok(None);
    };
    let Some(id) = command.argument(place + 1).and_then(parse_integer) else {
        // The node has the words for what is wrong with it.
        return Ok(None);
    };
    let target = u64::try_from(id).ok().and_then(|id| worker.shared.registry.find(id));
    let Some(node_client_id) =
        target.map(|card| card.node_client_id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    else {
        let text = "ERR The client ID you want redirect to does not exist";
        worker.answer(session, |line| write::error(line, text));
        return Err(Dispatched::Done);
    };
    let translated = node_client_id.to_string();
    let arguments: Vec<&[u8]> = (0..command.len())
        .filter_map(|at| match at == place + 1 {
            true => Some(translated.as_bytes()),
            false => command.argument(at),
        })
        .collect();
    let mut said = Vec::new();
    write::command(&mut said, &arguments);
    Ok(Some(said))
}

/// What the command will have changed once the node has accepted it.
#[must_use]
pub fn pending(command: Command<'_>, frame: &Piece<'_>) -> Pending {
    if !command.has_word_at(2, "on") {
        return Pending::Tracking(None);
    }
    let bytes = match frame {
        Piece::Borrowed(bytes) => bytes.to_vec(),
        Piece::Shared(bytes) => bytes.to_vec(),
    };
    Pending::Tracking(Some(bytes))
}

/// Says on a new connection what was said on the lost one.
pub fn repeat(worker: &mut Worker, session: &Session, lane: LaneId) {
    if let Some(said) = session.pin.as_ref().and_then(|pin| pin.tracking.as_ref()) {
        pinned::whisper(worker, lane, said);
    }
}

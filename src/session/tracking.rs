//! CLIENT TRACKING of the application: its own connection, told what it wants to hear of.
//!
//! Owns the translation of REDIRECT (our ids into the node's), and the saying again on a new
//! connection. Never filters what the node sends: invalidations are pushes of a pinned connection
//! and pass as they come.
//!
//! What surprises: when the connection is lost, everything that the client has cached may have
//! changed unseen. A RESP3 client is told with the push that Redis sends after FLUSHALL.

use std::sync::atomic::Ordering;

use crate::command::Command;
use crate::resp::limits::Limits;
use crate::resp::parse_integer;
use crate::resp::request::{RequestScanner, Scanned};
use crate::resp::write;
use crate::session::pin::Pending;
use crate::session::state::Session;
use crate::upstream::lane::LaneId;
use crate::upstream::pinned;
use crate::worker::Worker;

/// The push that empties a client's cache.
pub const INVALIDATE_ALL: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

/// CLIENT TRACKING with the node's own id behind REDIRECT; `None` if it has none that we can read.
///
/// # Errors
/// The whole error line, if it names a client that cannot be redirected to.
pub fn in_the_nodes_terms(
    worker: &Worker,
    command: Command<'_>,
) -> Result<Option<Vec<u8>>, &'static str> {
    let Some(place) = (3..command.len()).find(|&at| command.has_word_at(at, "redirect")) else {
        return Ok(None);
    };
    let Some(id) = command.argument(place + 1).and_then(parse_integer) else {
        // The node has the words for what is wrong with it.
        return Ok(None);
    };
    let target = u64::try_from(id).ok().and_then(|id| worker.shared.registry.find(id));
    let node_client_id = target
        .map(|card| card.node_client_id.load(Ordering::Relaxed))
        .filter(|id| *id != 0)
        .ok_or("ERR The client ID you want redirect to does not exist")?
        .to_string();
    let mut arguments: Vec<&[u8]> = command.arguments().collect();
    if let Some(argument) = arguments.get_mut(place + 1) {
        *argument = node_client_id.as_bytes();
    }
    let mut said = Vec::new();
    write::command(&mut said, &arguments);
    Ok(Some(said))
}

/// Our id of the client that a CLIENT TRACKING redirects to.
#[must_use]
pub fn redirect_of(said: &[u8]) -> Option<i64> {
    let mut scanner = RequestScanner::default();
    let Ok(Scanned::Command { length }) = scanner.scan(said, &Limits::default(), true) else {
        return None;
    };
    let (frame, spans) = scanner.arguments(said, length);
    let command = Command::new(frame, spans);
    let place = (3..command.len()).find(|&at| command.has_word_at(at, "redirect"))?;
    parse_integer(command.argument(place + 1)?)
}

/// The reply to CLIENT TRACKINGINFO with our id of the redirection in the place of the node's.
#[must_use]
pub fn with_our_id(reply: &[u8], redirect: Option<i64>) -> Vec<u8> {
    const FIELD: &[u8] = b"$8\r\nredirect\r\n:";
    let place = reply.windows(FIELD.len()).position(|window| window == FIELD);
    let (Some(place), Some(redirect)) = (place, redirect) else {
        return reply.to_vec();
    };
    let (before, rest) = reply.split_at(place + FIELD.len());
    let end = rest.iter().position(|&byte| byte == b'\r').unwrap_or(rest.len());
    let after = rest.get(end..).unwrap_or_default();
    [before, redirect.to_string().as_bytes(), after].concat()
}

/// What the command will have changed once the node has accepted it.
#[must_use]
pub fn pending(command: Command<'_>) -> Pending {
    let is_on = command.has_word_at(2, "on");
    Pending::Tracking(is_on.then(|| command.frame().to_vec()))
}

/// Says on a new connection what was said on the lost one.
pub fn repeat(worker: &mut Worker, session: &mut Session, lane: LaneId) {
    let Some(said) = session.pin.as_ref().and_then(|pin| pin.tracking.clone()) else {
        return;
    };
    let mut scanner = RequestScanner::default();
    let Ok(Scanned::Command { length }) = scanner.scan(&said, &Limits::default(), true) else {
        return;
    };
    let (frame, spans) = scanner.arguments(&said, length);
    // The client that it redirects to may have another connection by now.
    match in_the_nodes_terms(worker, Command::new(frame, spans)) {
        Ok(translated) => {
            pinned::whisper(worker, session, lane, translated.as_deref().unwrap_or(frame));
        }
        Err(_) => {
            // Nobody is left to be told: as with Redis, the client goes on without.
            if let Some(pin) = &mut session.pin {
                pin.tracking = None;
                pin.is_dirty = true;
            }
        }
    }
}

//! CLIENT KILL: by address, in the old form, or by any of the filters of the new one.
//!
//! Owns the filters and the end of the clients they match. Ends sessions of this worker itself and
//! never touches those of another: that worker gets a message. A victim's replies are dropped, as
//! in Redis; what it had asked for stays on the lanes as tombstones (INV-1).
//!
//! What surprises: a victim's card is taken down at once, so that killing it twice counts once,
//! although its session ends a moment later.

use std::sync::Arc;

use crate::command::Command;
use crate::config::Auth;
use crate::resp::parse_integer;
use crate::resp::write;
use crate::session::gate::DEFAULT_USER;
use crate::session::registry::Client;
use crate::session::state::{Closing, Session};
use crate::stats::labels::ClosedReason;
use crate::worker::{Message, Shared, Worker};

use super::client_list::Kind;

/// Whom to kill: whoever matches everything that is set.
#[derive(Debug, Default)]
struct Filter<'a> {
    id: Option<u64>,
    kind: Option<Kind>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    /// The client that asks may be killed as well.
    includes_self: bool,
}

/// CLIENT KILL, both forms.
pub(super) fn kill(worker: &mut Worker, session: &mut Session, command: Command<'_>) {
    // One argument is an address, whatever it looks like: `CLIENT KILL ID` looks for the address
    // "ID".
    let is_old_form = command.len() == 3;
    let filter = if is_old_form {
        let address = command.argument(2).map(super::c_string);
        Ok(Filter { address, includes_self: true, ..Filter::default() })
    } else {
        Filter::from_options(&worker.shared, session, command)
    };
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) => return worker.answer(session, |line| line.extend_from_slice(&error)),
    };
    // All that match are ended in one go; the number is answered, or in the old form whether there
    // was one.
    let mut killed = 0;
    let mut is_own_end = false;
    for client in worker.shared.registry.all() {
        if !filter.matches(&client, session.client.id) {
            continue;
        }
        if client.id == session.client.id {
            // Its own end comes last, behind its answer.
            is_own_end = true;
            killed += 1;
        } else if end(worker, session, &client) {
            killed += 1;
        }
    }
    worker.answer(session, |line| match (is_old_form, killed) {
        (true, 0) => write::error(line, "ERR No such client"),
        (true, _) => super::ok(line),
        (false, killed) => write::integer(line, killed),
    });
    if is_own_end {
        session.close(Closing::AfterReplies(ClosedReason::Killed));
    }
}

/// Ends another client. Returns whether that is certain.
fn end(worker: &mut Worker, session: &Session, victim: &Arc<Client>) -> bool {
    let (own, home) = (&session.client.home, &victim.home);
    // Sessions are counted by each worker for itself: the same key on another worker is another
    // client.
    if own.worker.inbox.same_channel(&home.worker.inbox) {
        let Some(other) = worker.sessions.get_mut(home.session) else {
            return false;
        };
        other.close(Closing::Now(ClosedReason::Killed));
        other.wake();
    } else if home.worker.inbox.try_send(Message::Kill(home.session)).is_err() {
        // That worker is swamped: the answer counts who was killed, so the client can ask again.
        return false;
    }
    // Its session does this again when it ends, which does no harm.
    worker.shared.registry.remove(victim.id);
    true
}

// === impl Filter ===

impl<'a> Filter<'a> {
    /// Reads pairs of option and value in order; the error is that of the first mistake, a whole
    /// line.
    fn from_options(
        shared: &Shared,
        session: &Session,
        command: Command<'a>,
    ) -> Result<Self, Vec<u8>> {
        let mut filter = Self::default();
        for place in (2..command.len()).step_by(2) {
            let option = command.argument(place).unwrap_or_default();
            let Some(value) = command.argument(place + 1) else {
                return Err(syntax_error());
            };
            filter.set(shared, session, option, value)?;
        }
        Ok(filter)
    }

    /// Takes one option. A later one of the same name wins.
    fn set(
        &mut self,
        shared: &Shared,
        session: &Session,
        option: &[u8],
        value: &'a [u8],
    ) -> Result<(), Vec<u8>> {
        let is = |word| super::is_word(option, word);
        let is_value = |word| super::is_word(value, word);
        if is("id") {
            self.id = Some(id(value)?);
        } else if is("type") {
            self.kind = Some(Kind::from_word(value)?);
        } else if is("addr") {
            self.address = Some(super::c_string(value));
        } else if is("laddr") {
            self.local_address = Some(super::c_string(value));
        } else if is("user") {
            // Redis looks the user up by its whole name and prints it as a C string.
            if !user_exists(shared, session, value) {
                let mut error = Vec::new();
                super::error_about(&mut error, "ERR No such user '", value, "'");
                return Err(error);
            }
            self.user = Some(value);
        } else if is("skipme") && (is_value("yes") || is_value("no")) {
            self.includes_self = is_value("no");
        } else {
            return Err(syntax_error());
        }
        Ok(())
    }

    /// Whether `client` is meant, if the client `own` asks. A filter that is not set lets everybody
    /// through.
    fn matches(&self, client: &Client, own: u64) -> bool {
        self.address.is_none_or(|address| client.address.as_bytes() == address)
            && self.local_address.is_none_or(|address| client.local_address.as_bytes() == address)
            && self.kind.is_none_or(|kind| kind == Kind::of(client))
            && self.id.is_none_or(|id| client.id == id)
            && self.user.is_none_or(|user| client.labels().user == user)
            && (self.includes_self || client.id != own)
    }
}

/// The whole error line for whatever is not understood.
fn syntax_error() -> Vec<u8> {
    let mut error = Vec::new();
    super::syntax_error(&mut error);
    error
}

/// A client id: any positive number of 64 bits. One that nobody has is no mistake.
fn id(value: &[u8]) -> Result<u64, Vec<u8>> {
    let id = parse_integer(value).filter(|id| *id > 0).and_then(|id| u64::try_from(id).ok());
    id.ok_or_else(|| {
        let mut error = Vec::new();
        write::error(&mut error, "ERR client-id should be greater than 0");
        error
    })
}

/// Whether there is such a user, as far as a proxy can know: `default`, one of the listener's, or
/// one that somebody has proved to be.
fn user_exists(shared: &Shared, session: &Session, name: &[u8]) -> bool {
    let is_listed = match &session.gate.auth {
        Auth::Users(users) => users.iter().any(|user| user.name.as_bytes() == name),
        Auth::Upstream | Auth::Passthrough => false,
    };
    let is_default = name == DEFAULT_USER.as_bytes();
    is_default || is_listed || shared.registry.all().iter().any(|it| it.labels().user == name)
}

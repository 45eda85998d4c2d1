//! CONFIG GET without passwords, while the profile is `guard`.
//!
//! Owns which settings are secrets, and the reply without them. Never asks the node for anything
//! else: exporters ask for `*`, and get everything but the values of these. What surprises: inside a
//! transaction it is refused, because EXEC's reply is passed on as it comes, and on a connection of
//! the client's own it leaves that connection alone and takes a shared one.

use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::config::Profile;
use crate::resp::frames::{self, Elements};
use crate::resp::write;
use crate::session::state::Session;
use crate::upstream::lane::Role;
use crate::worker::Worker;

/// What becomes of a CONFIG GET of a session that has a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Veiled {
    /// It is no business of ours.
    No,
    /// It goes where commands of other sessions go.
    Elsewhere,
    /// It cannot be answered there.
    Refused,
}

/// How a session with a connection of its own is served.
#[must_use]
pub fn beside(worker: &mut Worker, session: &Session, spec: &Spec) -> Veiled {
    if spec.id != CONFIG_GET || role(worker) == Role::Plain {
        return Veiled::No;
    }
    match &session.pin {
        Some(pin) if pin.multi.is_some() => Veiled::Refused,
        // Whoever only hears what others do is told so.
        Some(pin) if pin.is_monitor || pin.listens => Veiled::No,
        Some(_) => Veiled::Elsewhere,
        None => Veiled::No,
    }
}

/// What happens to its reply.
#[must_use]
pub fn role(worker: &mut Worker) -> Role {
    match worker.policy.load().profile {
        Profile::Guard => Role::Settings,
        Profile::Observe | Profile::Open => Role::Plain,
    }
}

/// The reply as its client may see it; an error of the node's stays, and what cannot be read is not
/// shown.
#[must_use]
pub fn retold(reply: &[u8]) -> Vec<u8> {
    if matches!(reply.first(), Some(b'-' | b'!')) {
        return reply.to_vec();
    }
    veiled(reply).unwrap_or_else(|| {
        let mut line = Vec::new();
        write::error(&mut line, UNREADABLE);
        line
    })
}

/// The reply with the values of secrets hidden; `None` if it is no list of names and values.
fn veiled(reply: &[u8]) -> Option<Vec<u8>> {
    let (head, elements) = Elements::within(reply)?;
    let begin = reply.len().checked_sub(elements.rest().len())?;
    let mut out = reply.get(..begin)?.to_vec();
    let (mut hides, mut count) = (false, 0);
    for element in elements {
        let is_name = count % 2 == 0;
        count += 1;
        let content = frames::string(element)?;
        if !is_name && hides && !content.is_empty() {
            write::bulk(&mut out, HIDDEN);
        } else {
            out.extend_from_slice(element);
        }
        hides = is_name && is_secret(content);
    }
    let due = if head.kind == b'%' { head.number.checked_mul(2)? } else { head.number };
    (i64::from(count) == due).then_some(out)
}

fn is_secret(name: &[u8]) -> bool {
    SECRETS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// The command that this is about. In a transaction that arrives whole it is not, either.
pub const CONFIG_GET: CommandId = builtin_id("config|get");
/// Settings whose values open doors (Redis 7.0, 8 and Valkey).
const SECRETS: [&[u8]; 4] =
    [b"requirepass", b"masterauth", b"tls-key-file-pass", b"tls-client-key-file-pass"];
/// What stands in their place; empty ones stay so, because that there is none is no secret.
const HIDDEN: &[u8] = b"(hidden by breakwater)";
const UNREADABLE: &str = "ERR breakwater: the reply to CONFIG GET could not be read, and is not shown because it may hold \
     passwords; ask the node itself";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secrets_are_hidden_and_everything_else_stays() {
        let reply = b"*6\r\n$11\r\nrequirepass\r\n$3\r\nabc\r\n$10\r\nmasterauth\r\n$0\r\n\r\n$4\r\nport\r\n$4\r\n6379\r\n";
        let shown = b"*6\r\n$11\r\nrequirepass\r\n$22\r\n(hidden by breakwater)\r\n$10\r\nmasterauth\r\n$0\r\n\r\n$4\r\nport\r\n$4\r\n6379\r\n";
        assert_eq!(veiled(reply).as_deref(), Some(&shown[..]));
        let map = b"%1\r\n$11\r\nREQUIREPASS\r\n$3\r\nabc\r\n";
        let shown = b"%1\r\n$11\r\nREQUIREPASS\r\n$22\r\n(hidden by breakwater)\r\n";
        assert_eq!(veiled(map).as_deref(), Some(&shown[..]));
        assert_eq!(veiled(b"*0\r\n").as_deref(), Some(&b"*0\r\n"[..]));
    }

    #[test]
    fn a_value_that_is_called_like_a_secret_is_none() {
        let reply = b"*4\r\n$4\r\nname\r\n$11\r\nrequirepass\r\n$4\r\nport\r\n$1\r\n1\r\n";
        assert_eq!(veiled(reply).as_deref(), Some(&reply[..]));
    }

    #[test]
    fn what_is_no_list_of_settings_is_not_shown() {
        for reply in [&b"$3\r\nabc\r\n"[..], b"*1\r\n:1\r\n", b"*1\r\n", b""] {
            assert!(retold(reply).starts_with(b"-ERR "), "{}", String::from_utf8_lossy(reply));
        }
        assert_eq!(retold(b"-NOPERM no\r\n"), b"-NOPERM no\r\n");
    }
}

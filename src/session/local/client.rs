//! CLIENT, the small subcommands: id, name, library, reply mode, and switches that mean nothing to
//! a proxy.
//!
//! Owns the rule for names and the emulation of CLIENT REPLY. Never forwards any of these: on a
//! shared connection they would rename, mute or unblock somebody else.
//!
//! What surprises: NO-EVICT and NO-TOUCH are accepted and change nothing upstream, because the
//! node's view of a shared connection is not this client's; UNBLOCK finds nobody, because nobody
//! blocks here.

use std::sync::atomic::Ordering;

use crate::command::Command;
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::resp::parse_integer;
use crate::resp::write::{self, Protocol};
use crate::session::state::{ReplyMode, Session};
use crate::worker::Worker;

/// CLIENT ID: our own, unique in the life of the process.
pub(super) fn id(worker: &mut Worker, session: &mut Session) {
    let id = i64::try_from(session.client.id).unwrap_or(i64::MAX);
    worker.answer(session, |line| write::integer(line, id));
}

/// CLIENT GETNAME: null without a name.
pub(super) fn get_name(worker: &mut Worker, session: &mut Session) {
    let (name, protocol) = (session.client.labels().name, session.protocol);
    // A name cannot be empty: setting an empty one means having none.
    worker.answer(session, |line| match &*name {
        [] => write::null(line, protocol),
        name => write::bulk(line, name),
    });
}

/// CLIENT SETNAME: an empty name takes it away.
pub(super) fn set_name(worker: &mut Worker, session: &mut Session, command: Command<'_>) {
    let renamed = rename(session, command.argument(2).unwrap_or_default());
    worker.answer(session, |line| match renamed {
        Ok(()) => super::ok(line),
        Err(text) => write::error(line, text),
    });
}

/// Gives the client a name.
///
/// # Errors
/// The whole text of the error reply.
pub(super) fn rename(session: &Session, name: &[u8]) -> Result<(), &'static str> {
    if !is_label(name) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.");
    }
    // After the rule of Redis, so that its text wins where both apply.
    if name.len() > LABEL_BYTES_MAX {
        return Err("ERR breakwater: a client name may have at most 4096 bytes; use a shorter one");
    }
    session.client.relabel(|labels| labels.name = name.to_vec());
    Ok(())
}

/// CLIENT SETINFO LIB-NAME or LIB-VER; the table knows it if the upstream does (7.2).
pub(super) fn set_info(worker: &mut Worker, session: &mut Session, command: Command<'_>) {
    let attribute = command.argument(2).unwrap_or_default();
    let value = command.argument(3).unwrap_or_default();
    // The client's own spelling of the attribute comes back in both errors.
    let is_name = super::is_word(attribute, "lib-name");
    if !is_name && !super::is_word(attribute, "lib-ver") {
        return worker.answer(session, |line| {
            super::error_about(line, "ERR Unrecognized option '", attribute, "'");
        });
    }
    // Here Redis reads the value as a C string: what follows a NUL byte is not looked at.
    if !is_label(super::c_string(value)) {
        return worker.answer(session, |line| {
            let rule = " cannot contain spaces, newlines or special characters.";
            super::error_about(line, "ERR ", attribute, rule);
        });
    }
    if value.len() > LABEL_BYTES_MAX {
        return worker.answer(session, |line| {
            let rule = " may have at most 4096 bytes; use a shorter one";
            super::error_about(line, "ERR breakwater: ", attribute, rule);
        });
    }
    session.client.relabel(|labels| {
        let label = if is_name { &mut labels.library_name } else { &mut labels.library_version };
        *label = super::c_string(value).to_vec();
    });
    worker.answer(session, super::ok);
}

/// Whether CLIENT LIST can show it: visible ASCII, so that its lines can be split at blanks.
fn is_label(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_graphic)
}

/// CLIENT REPLY: OFF and SKIP have no reply themselves; ON is answered even if a SKIP came just
/// before.
pub(super) fn reply(worker: &mut Worker, session: &mut Session, command: Command<'_>) {
    let mode = if command.has_word_at(2, "on") {
        // Before the answer, which is shown for that reason.
        session.reply_mode = ReplyMode::On;
        return worker.answer(session, super::ok);
    } else if command.has_word_at(2, "off") {
        ReplyMode::Off
    } else if command.has_word_at(2, "skip") {
        // After OFF there is nothing to skip.
        match session.reply_mode {
            ReplyMode::Off => ReplyMode::Off,
            _ => ReplyMode::SkipNext,
        }
    } else {
        return worker.answer(session, super::syntax_error);
    };
    worker.answer(session, |_| {});
    // Behind the empty answer, which would otherwise count as the command to be skipped.
    session.reply_mode = mode;
}

/// CLIENT NO-EVICT: shown by CLIENT LIST, and that is all; we evict no client.
pub(super) fn no_evict(worker: &mut Worker, session: &mut Session, command: Command<'_>) {
    let switch = on_or_off(command);
    if let Some(is_on) = switch {
        session.client.no_evict.store(is_on, Ordering::Relaxed);
    }
    acknowledge(worker, session, switch);
}

/// CLIENT NO-TOUCH (7.2): accepted; the node goes on counting this client's reads as uses of a key.
pub(super) fn no_touch(worker: &mut Worker, session: &mut Session, command: Command<'_>) {
    acknowledge(worker, session, on_or_off(command));
}

/// The argument of a switch; `None` if it is neither.
fn on_or_off(command: Command<'_>) -> Option<bool> {
    let is_on = command.has_word_at(2, "on");
    (is_on || command.has_word_at(2, "off")).then_some(is_on)
}

/// The answer to a switch.
fn acknowledge(worker: &mut Worker, session: &mut Session, switch: Option<bool>) {
    worker.answer(session, |line| match switch {
        Some(_) => super::ok(line),
        None => super::syntax_error(line),
    });
}

/// CLIENT UNBLOCK: nobody blocks here, so the answer is 0 for every id, once the arguments are in
/// order.
pub(super) fn unblock(worker: &mut Worker, session: &mut Session, command: Command<'_>) {
    // The table's arity has no upper bound here; Redis finds out itself, with a text of its own.
    if command.len() > 4 {
        let word = command.argument(1).unwrap_or_default();
        return worker.answer(session, |line| {
            let before = "ERR unknown subcommand or wrong number of arguments for '";
            super::error_about(line, before, word, "'. Try CLIENT HELP.");
        });
    }
    // The reason is judged before the id, whatever the order of the arguments.
    let has_reason = command.len() == 4;
    let is_reason = command.has_word_at(3, "timeout") || command.has_word_at(3, "error");
    let id = parse_integer(command.argument(2).unwrap_or_default());
    worker.answer(session, |line| {
        if has_reason && !is_reason {
            write::error(line, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
        } else if id.is_none() {
            write::error(line, "ERR value is not an integer or out of range");
        } else {
            write::integer(line, 0);
        }
    });
}

/// CLIENT UNBLOCK in the node's terms, if the client that it names waits on a connection of its
/// own.
#[must_use]
pub(super) fn unblock_there(worker: &Worker, spec: &Spec, command: Command<'_>) -> Option<Vec<u8>> {
    const UNBLOCK: CommandId = builtin_id("client|unblock");
    if spec.id != UNBLOCK || command.len() > 4 {
        return None;
    }
    let id = u64::try_from(parse_integer(command.argument(2)?)?).ok()?;
    let card = worker.shared.registry.find(id)?;
    let node_client_id = card.node_client_id.load(Ordering::Relaxed);
    if !card.is_blocked.load(Ordering::Relaxed) || node_client_id == 0 {
        return None;
    }
    let id = node_client_id.to_string();
    let mut arguments: Vec<&[u8]> = command.arguments().collect();
    *arguments.get_mut(2)? = id.as_bytes();
    let mut frame = Vec::new();
    write::command(&mut frame, &arguments);
    Some(frame)
}

/// CLIENT TRACKINGINFO of a client that tracks nothing.
pub(super) fn tracking_info(worker: &mut Worker, session: &mut Session) {
    let protocol: Protocol = session.protocol;
    worker.answer(session, |line| {
        write::map_header(line, protocol, 3);
        write::bulk(line, b"flags");
        write::set_header(line, protocol, 1);
        write::bulk(line, b"off");
        write::bulk(line, b"redirect");
        write::integer(line, -1);
        // Not a set, although prefixes are one: as Redis has it.
        write::bulk(line, b"prefixes");
        write::array_header(line, 0);
    });
}

/// Longest name of a client or library. Redis has no bound; ten thousand clients must have one
/// (INV-4).
const LABEL_BYTES_MAX: usize = 4096;

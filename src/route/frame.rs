//! From a whole frame back to the command in it, and to its slot.
//!
//! Owns the second look at bytes that were dispatched once already: a command that is redirected,
//! or lost with its node, is known by its frame alone. Never looks at what a client has not sent
//! whole. What surprises: a block of several commands lies where the first of them that has a key
//! does; all others do as well, or it would not be one.

use crate::command::Command;
use crate::command::spec::Spec;
use crate::command::table::Table;
use crate::resp::limits::Limits;
use crate::resp::request::{RequestScanner, Scanned};
use crate::route::{self, Place};

/// The slot of a whole command, or of the first command of a block that has a key.
pub fn slot_of(table: &Table, frame: &[u8]) -> Option<u16> {
    let mut rest = frame;
    let mut keys = Vec::new();
    loop {
        let (place, used) = next_command(table, rest, |command, spec| {
            spec.map(|spec| route::place(spec, command, &mut keys))
        })?;
        if let Some(Place::Slot(slot)) = place {
            return Some(slot);
        }
        rest = rest.get(used..)?;
    }
}

/// Calls `then` with the command that `frame` is, if it is known.
pub fn with_command<T>(
    table: &Table,
    frame: &[u8],
    then: impl FnOnce(&Command<'_>, &Spec) -> T,
) -> Option<T> {
    next_command(table, frame, |command, spec| spec.map(|spec| then(command, spec)))?.0
}

/// Calls `then` with the command at the beginning of `frame`; returns its length as well.
fn next_command<T>(
    table: &Table,
    frame: &[u8],
    then: impl FnOnce(&Command<'_>, Option<&Spec>) -> T,
) -> Option<(T, usize)> {
    let mut scanner = RequestScanner::default();
    let Ok(Scanned::Command { length }) = scanner.scan(frame, &Limits::default(), true) else {
        return None;
    };
    let (frame, spans) = scanner.arguments(frame, length);
    let command = Command::new(frame, spans);
    Some((then(&command, table.resolve(&command).ok()), length))
}

//! Where a command belongs: from its keys to a slot.
//!
//! Owns the arithmetic of slots, and the question whether all keys of a command lie in one. Never opens a connection,
//! never knows which node owns a slot. One node serves all slots of a standalone Redis, so its data path has nothing
//! to ask here.

pub mod merge;
pub mod scan;
pub mod slot;
pub mod split;

use crate::command::Command;
use crate::command::keys::{self, KeyPosition};
use crate::command::spec::Spec;
use slot::slot;

/// Where the keys of a command lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All in this slot.
    Slot(u16),
    /// It has none, or the server would refuse it anyway.
    Anywhere,
    /// In more than one slot.
    Several,
}

/// Where the keys of `command`, which is of `spec`, lie. `found` is room for them.
#[inline]
pub fn place(spec: &Spec, command: &Command<'_>, found: &mut Vec<KeyPosition>) -> Place {
    match spec.only_key().and_then(|index| command.argument(index)) {
        Some(key) => Place::Slot(slot(key)),
        None => place_of_many(spec, command, found),
    }
}

fn place_of_many(spec: &Spec, command: &Command<'_>, found: &mut Vec<KeyPosition>) -> Place {
    if keys::keys(spec, command, found).is_err() {
        return Place::Anywhere;
    }
    let mut slots = found.iter().filter_map(|key| command.argument(key.index as usize)).map(slot);
    match slots.next() {
        None => Place::Anywhere,
        Some(first) if slots.all(|slot| slot == first) => Place::Slot(first),
        Some(_) => Place::Several,
    }
}

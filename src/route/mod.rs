//! Where a command belongs: from its keys to a slot.
//!
//! Owns the arithmetic of slots, and the question whether all keys of a command lie in one. Never
//! opens a connection, never knows which node owns a slot. One node serves all slots of a
//! standalone Redis, so its data path has nothing to ask here.

pub mod frame;
pub mod merge;
pub mod scan;
pub mod slot;
pub mod split;

use crate::command::Command;
use crate::command::keys::{self, KeyPosition};
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::resp::parse_integer;
use slot::{SLOTS, slot};

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
        return named_slot(spec, command).map_or(Place::Anywhere, Place::Slot);
    }
    let mut slots = found.iter().filter_map(|key| command.argument(key.index as usize)).map(slot);
    match slots.next() {
        None => Place::Anywhere,
        Some(first) if slots.all(|slot| slot == first) => Place::Slot(first),
        Some(_) => Place::Several,
    }
}

/// The slot that a command without keys names by its number: its owner alone has the answer. What
/// names no slot that there is gets the right error from any node.
fn named_slot(spec: &Spec, command: &Command<'_>) -> Option<u16> {
    const COUNT: CommandId = builtin_id("cluster|countkeysinslot");
    const LIST: CommandId = builtin_id("cluster|getkeysinslot");
    if spec.id != COUNT && spec.id != LIST {
        return None;
    }
    let number = parse_integer(command.argument(2)?)?;
    u16::try_from(number).ok().filter(|&slot| slot < SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::Table;
    use crate::command::tests::Request;

    #[test]
    fn keys_of_a_slot_are_counted_where_the_slot_is() {
        let table = Table::builtin();
        for (line, want) in [
            ("CLUSTER COUNTKEYSINSLOT 16383", Place::Slot(16_383)),
            ("CLUSTER GETKEYSINSLOT 0 10", Place::Slot(0)),
            ("CLUSTER COUNTKEYSINSLOT 16384", Place::Anywhere),
            ("CLUSTER COUNTKEYSINSLOT -1", Place::Anywhere),
            ("CLUSTER GETKEYSINSLOT x 1", Place::Anywhere),
            ("CLUSTER KEYSLOT 5", Place::Anywhere),
            ("PING 5", Place::Anywhere),
        ] {
            let request = Request::words(line);
            let spec = table.resolve(&request.command()).unwrap();
            assert_eq!(place(spec, &request.command(), &mut Vec::new()), want, "{line}");
        }
    }
}

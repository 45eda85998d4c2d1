//! A command with keys in several slots, cut into one command a slot.
//!
//! Owns the cut: which keys belong together, and the bytes of each part. Works from the key specs
//! alone, so a command that only a newer server has is cut as well. Never sends, never knows a node
//! but by its number, and never cuts what the servers do not call `multi_shard`: half of a MSETNX
//! would be a wrong answer.
//!
//! What surprises: parts are cut by slot even where one node owns both, because a node refuses a
//! command across slots whoever owns them. They are ordered by node, so that what goes to one node
//! can be queued in one piece.

use std::ops::Range;

use super::slot::slot;
use crate::command::Command;
use crate::command::keys::KeyPosition;
use crate::command::spec::{FindKeys, RequestPolicy, Spec};
use crate::resp::write;
use crate::topology::slots::NodeId;

/// One command of the cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where all its keys lie.
    pub slot: u16,
    /// Who owns that slot.
    pub node: NodeId,
    /// Which of [`Split::order`] are its keys; in the order of the command they came from.
    pub keys: Range<u32>,
}

/// A command in parts. Kept by its owner and used again, so that the next one allocates nothing.
#[derive(Debug, Default)]
pub struct Split {
    /// The parts, by node and then by slot.
    parts: Vec<Part>,
    /// Number of each key among the command's keys, in the order of the parts.
    order: Vec<u32>,
    /// Each key as one number that sorts by node, slot and place.
    packed: Vec<u64>,
    /// Where the keys are among the arguments.
    shape: Shape,
}

/// Where the arguments of a command lie that is to be cut: so many that every part gets, then key
/// after key with what belongs to it, then what every part gets again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// The first key.
    first: usize,
    /// From key to key.
    step: usize,
    /// Behind what belongs to the last key.
    end: usize,
}

/// Why a command is not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSplit {
    /// It means something only as a whole.
    CrossSlot,
    /// Nobody is known to serve this slot.
    Uncovered(u16),
}

// === impl Split ===

impl Split {
    /// Cuts `command`, whose keys are at `keys`. `owner` says who serves a slot.
    ///
    /// # Errors
    /// [`NoSplit`].
    pub fn cut(
        &mut self,
        spec: &Spec,
        command: &Command<'_>,
        keys: &[KeyPosition],
        owner: impl Fn(u16) -> Option<NodeId>,
    ) -> Result<(), NoSplit> {
        self.cut_small(spec, command, keys, usize::MAX, |key| {
            let slot = slot(key);
            Ok((slot, owner(slot).ok_or(NoSplit::Uncovered(slot))?))
        })
    }

    /// As [`Self::cut`], into parts of at most `size` keys; `home` says where a key lies and who
    /// serves it there. Before a single node all keys may lie in one place.
    ///
    /// # Errors
    /// [`NoSplit`].
    pub fn cut_small(
        &mut self,
        spec: &Spec,
        command: &Command<'_>,
        keys: &[KeyPosition],
        size: usize,
        home: impl Fn(&[u8]) -> Result<(u16, NodeId), NoSplit>,
    ) -> Result<(), NoSplit> {
        self.shape = Shape::of(spec, command, keys).ok_or(NoSplit::CrossSlot)?;
        let size = size.max(keys.len().div_ceil(PARTS_MAX));
        self.packed.clear();
        for (place, key) in keys.iter().enumerate() {
            let (slot, node) = home(command.argument(key.index as usize).unwrap_or_default())?;
            // A command has fewer than 2^32 arguments.
            self.packed.push(u64::from(node.0) << 48 | u64::from(slot) << 32 | place as u64);
        }
        self.packed.sort_unstable();
        self.parts.clear();
        self.order.clear();
        for &packed in &self.packed {
            let (node, slot) = (NodeId((packed >> 48) as u16), (packed >> 32) as u16);
            let at = self.order.len() as u32;
            self.order.push(packed as u32);
            match self.parts.last_mut() {
                Some(part) if part.slot == slot && part.keys.len() < size => part.keys.end = at + 1,
                _ => self.parts.push(Part { slot, node, keys: at..at + 1 }),
            }
        }
        Ok(())
    }

    /// The parts, those of one node side by side.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Number of each key among the command's keys, in the order of the parts.
    #[must_use]
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// Appends the commands that `parts` of the `command` just cut are, and tells `then` where each of
    /// them lies.
    pub fn write(
        &self,
        parts: &[Part],
        (spec, command): (&Spec, &Command<'_>),
        out: &mut Vec<u8>,
        mut then: impl FnMut(&Part, Range<u32>),
    ) {
        let Shape { first, step, end } = self.shape;
        let behind = command.raw(end..command.len());
        // What stands in front of the keys is the same wherever these are as many.
        let (mut as_many, mut front) = (0, 0..0);
        for part in parts {
            let (keys, start) = (self.keys_of(part), out.len());
            if keys.len() == as_many {
                out.extend_from_within(front.clone());
            } else {
                write::array_header(out, first + keys.len() * step + (command.len() - end));
                match &spec.wire_name {
                    Some(name) => write::bulk(out, name),
                    None => out.extend_from_slice(command.raw(0..1)),
                }
                out.extend_from_slice(command.raw(1..first));
                (as_many, front) = (keys.len(), start..out.len());
            }
            for &place in keys {
                let at = first + place as usize * step;
                out.extend_from_slice(command.raw(at..at + step));
            }
            out.extend_from_slice(behind);
            // A command is shorter than 4 GiB, and so are its parts.
            then(part, start as u32..out.len() as u32);
        }
    }

    /// Numbers of the keys of `part`.
    #[must_use]
    pub fn keys_of(&self, part: &Part) -> &[u32] {
        self.order.get(part.keys.start as usize..part.keys.end as usize).unwrap_or_default()
    }
}

// === impl Shape ===

impl Shape {
    /// The shape of a command that may be cut; `None` where it may not, or where the specs do not
    /// tell enough.
    fn of(spec: &Spec, command: &Command<'_>, keys: &[KeyPosition]) -> Option<Self> {
        if spec.request_policy != RequestPolicy::MultiShard {
            return None;
        }
        let [key_spec] = &*spec.key_specs else {
            return None;
        };
        let FindKeys::Range { step, .. } = key_spec.find else {
            return None;
        };
        let step = usize::try_from(step).ok().filter(|step| *step > 0)?;
        let first = keys.first()?.index as usize;
        let is_regular =
            keys.iter().enumerate().all(|(place, key)| key.index as usize == first + place * step);
        let end = first + keys.len() * step;
        // MSET with a key that has no value is refused by the node in its own words, not by what we
        // make of it.
        (is_regular && first > 0 && end <= command.len()).then_some(Self { first, step, end })
    }
}

/// Parts that a size may make, besides one for each slot: their numbers have 16 bits.
const PARTS_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::keys;
    use crate::command::table::Table;
    use crate::command::tests::Request;
    use crate::route::slot::SLOTS;
    use proptest::prelude::*;

    /// Three nodes that share the slots evenly.
    fn owner(slot: u16) -> Option<NodeId> {
        Some(NodeId(slot / (SLOTS / 3 + 1)))
    }

    fn cut(request: &Request, split: &mut Split) -> Result<Vec<(NodeId, u16, String)>, NoSplit> {
        let (table, command, mut found) = (Table::builtin(), request.command(), Vec::new());
        let spec = table.resolve(&command).unwrap();
        keys::keys(spec, &command, &mut found).unwrap();
        split.cut(spec, &command, &found, owner)?;
        let (mut out, mut ranges) = (Vec::new(), Vec::new());
        split.write(split.parts(), (spec, &command), &mut out, |part, range| {
            ranges.push((part.node, part.slot, range.start as usize..range.end as usize));
        });
        let text = String::from_utf8(out).unwrap();
        Ok(ranges.into_iter().map(|(node, slot, range)| (node, slot, text[range].into())).collect())
    }

    #[test]
    fn keys_of_one_slot_stay_together_and_those_of_one_node_side_by_side() {
        let mut split = Split::default();
        let request = Request::words("mGet {b}1 {a}1 {b}2 nobody {a}2");
        let parts = cut(&request, &mut split).unwrap();
        let want = [
            "*3\r\n$4\r\nmGet\r\n$4\r\n{b}1\r\n$4\r\n{b}2\r\n",
            "*3\r\n$4\r\nmGet\r\n$4\r\n{a}1\r\n$4\r\n{a}2\r\n",
            "*2\r\n$4\r\nmGet\r\n$6\r\nnobody\r\n",
        ];
        let mut written: Vec<&str> = parts.iter().map(|(_, _, bytes)| &**bytes).collect();
        written.sort_unstable();
        let mut sorted = want.to_vec();
        sorted.sort_unstable();
        assert_eq!(written, sorted);
        assert!(parts.is_sorted_by_key(|(node, slot, _)| (*node, *slot)));
        let a = split.parts().iter().find(|part| part.slot == slot(b"a")).unwrap();
        assert_eq!(split.keys_of(a), [1, 4]);
    }

    #[test]
    fn a_value_follows_its_key() {
        let parts = cut(&Request::words("MSET a 1 b 2 {a}x 3"), &mut Split::default()).unwrap();
        let all: Vec<&str> = parts.iter().map(|(_, _, bytes)| &**bytes).collect();
        assert!(
            all.contains(&"*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$4\r\n{a}x\r\n$1\r\n3\r\n")
        );
        assert!(all.contains(&"*3\r\n$4\r\nMSET\r\n$1\r\nb\r\n$1\r\n2\r\n"));
    }

    #[test]
    fn a_key_that_is_named_twice_is_asked_for_twice() {
        let parts = cut(&Request::words("EXISTS a b a"), &mut Split::default()).unwrap();
        assert_eq!(parts.len(), 2);
        assert!(parts.iter().any(|(_, _, part)| part.starts_with("*3\r\n")));
    }

    #[test]
    fn what_means_something_only_as_a_whole_is_not_cut() {
        for line in [
            "MSETNX a 1 b 2",
            "RENAME a b",
            "SINTER a b",
            "PFCOUNT a b",
            "COPY a b",
            "EVAL x 2 a b",
            "MSET a 1 b",
        ] {
            let cut = cut(&Request::words(line), &mut Split::default());
            assert_eq!(cut, Err(NoSplit::CrossSlot), "{line}");
        }
    }

    #[test]
    fn a_slot_that_nobody_serves_is_named() {
        let (table, request) = (Table::builtin(), Request::words("DEL a b"));
        let (command, mut found) = (request.command(), Vec::new());
        let spec = table.resolve(&command).unwrap();
        keys::keys(spec, &command, &mut found).unwrap();
        let hole = slot(b"b");
        let cut = Split::default()
            .cut(spec, &command, &found, |slot| owner(slot).filter(|_| slot != hole));
        assert_eq!(cut, Err(NoSplit::Uncovered(hole)));
    }

    proptest! {
        #[test]
        fn every_key_is_in_one_part_and_in_the_order_of_the_command(
            names in prop::collection::vec("[a-d]{1,2}", 1..40),
        ) {
            let mut arguments = vec!["DEL".to_owned()];
            arguments.extend(names.iter().cloned());
            let request = Request::new(&arguments);
            let mut split = Split::default();
            let parts = cut(&request, &mut split).unwrap();
            let mut seen: Vec<u32> = split.order().to_vec();
            for (part, (_, _, written)) in split.parts().iter().zip(&parts) {
                let keys = split.keys_of(part);
                let own = keys.iter().map(|&key| names[key as usize].as_bytes());
                let (words, mut want) = (std::iter::once(&b"DEL"[..]).chain(own), Vec::new());
                write::command(&mut want, &words.collect::<Vec<_>>());
                prop_assert_eq!(written.as_bytes(), want);
                prop_assert!(keys.is_sorted());
                prop_assert!(keys.iter().all(|&key| slot(names[key as usize].as_bytes()) == part.slot));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..names.len() as u32).collect::<Vec<_>>());
            let mut slots: Vec<u16> = parts.iter().map(|(_, slot, _)| *slot).collect();
            slots.sort_unstable();
            slots.dedup();
            prop_assert_eq!(slots.len(), parts.len());
        }
    }
}

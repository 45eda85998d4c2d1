//! Commands of a session that left their lane without an answer and must be routed again.
//!
//! Owns the list, in the order of the session's commands: what each waits for and how long it may,
//! and the rule that of one slot only the first is on the road. Never sends and never decides what
//! a redirect means (`dispatch::detour` does).
//!
//! What surprises: while a slot is in the list, the session's later commands for it are not
//! dispatched at all, and its commands without a key neither (INV-12 b). Commands for other slots
//! pass.

use bytes::Bytes;

use crate::clock::Micros;
use crate::refusal::Refusal;
use crate::route::Place;
use crate::session::replies::Sequence;
use crate::topology::slots::NodeId;
use crate::upstream::lane::{LaneKey, Waiter};

/// One command that must be routed again.
#[derive(Debug)]
pub struct Detour {
    /// Who waits, as it was on the lane that it left.
    pub waiter: Waiter,
    /// The command, without anything that was put in front of it.
    pub frame: Bytes,
    /// What its lane must be like; the node does not count.
    pub key: LaneKey,
    /// Where its keys lie; `None`: it has none.
    pub slot: Option<u16>,
    /// What it waits for.
    pub stage: Stage,
    /// When it left its lane first.
    pub since: Micros,
    /// How often it was sent elsewhere.
    pub hops: u8,
    /// How often it has waited.
    pub waits: u8,
    /// What its client is told when its time is up.
    pub answer: Answer,
}

/// What a detour waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its moment; `to` is where the last redirect pointed, else its slot's owner is asked.
    Due {
        /// Not before.
        at: Micros,
        /// Where to.
        to: Option<Aim>,
    },
    /// Its reply, or that of the question whether its redirect is real.
    OnTheRoad,
}

/// A node that a redirect named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// The node.
    pub node: NodeId,
    /// Whether it must be told that it is asked for a slot that it does not own yet.
    pub is_asking: bool,
}

/// What a client is told that has waited in vain.
#[derive(Clone, Debug)]
pub enum Answer {
    /// What the node said last.
    Reply(Bytes),
    /// That no node could be asked.
    Refusal(Refusal),
}

/// The list.
#[derive(Debug, Default)]
pub struct Detours(Vec<Detour>);

/// Slots on which an earlier detour of the list is not over yet.
#[derive(Debug, Default)]
pub struct Ahead {
    slots: Vec<u16>,
    /// One without keys: it is in everybody's way, and everybody in its.
    keyless: bool,
}

// === impl Detours ===

impl Detours {
    /// Adds a command, in its place.
    pub fn push(&mut self, detour: Detour) {
        let order = |detour: &Detour| (detour.waiter.slot, detour.waiter.part());
        let place = self.0.partition_point(|other| order(other) < order(&detour));
        self.0.insert(place, detour);
    }

    /// Whether a command of this place must wait for one that is here.
    #[must_use]
    pub fn conflicts(&self, place: Place) -> bool {
        match place {
            Place::Slot(slot) => {
                self.0.iter().any(|detour| detour.slot.is_none_or(|other| other == slot))
            }
            // Its parts would have to be looked at one by one; it is rare, and waiting is always
            // right.
            Place::Anywhere | Place::Several => !self.0.is_empty(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order of the session's commands.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Detour> {
        self.0.iter_mut()
    }

    /// The command of that reply slot.
    pub fn get_mut(&mut self, slot: Sequence) -> Option<&mut Detour> {
        self.0.iter_mut().find(|detour| detour.waiter.slot == slot)
    }

    /// Takes the command of that reply slot, or that part of it, off the list.
    pub fn remove(&mut self, (slot, part): (Sequence, u16)) -> Option<Detour> {
        let is_it = |detour: &Detour| (detour.waiter.slot, detour.waiter.part()) == (slot, part);
        let place = self.0.iter().position(is_it)?;
        Some(self.0.remove(place))
    }
}

// === impl Ahead ===

impl Ahead {
    /// Whether this one is free to go; from now on it is in the way of those behind it.
    pub fn lets_pass(&mut self, slot: Option<u16>) -> bool {
        let is_first = match slot {
            Some(slot) => !self.keyless && !self.slots.contains(&slot),
            None => !self.keyless && self.slots.is_empty(),
        };
        match slot {
            Some(slot) if is_first => self.slots.push(slot),
            Some(_) => {}
            None => self.keyless = true,
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_slot_only_the_first_may_go_and_keyless_ones_go_alone() {
        let mut ahead = Ahead::default();
        assert!(ahead.lets_pass(Some(1)) && ahead.lets_pass(Some(2)));
        assert!(!ahead.lets_pass(Some(1)));
        assert!(!ahead.lets_pass(None), "others are ahead of it");
        assert!(!ahead.lets_pass(Some(3)), "it is ahead of all that follow");
        assert!(Ahead::default().lets_pass(None));
    }
}

//! A command of a session that went to several places, and what has come back so far.
//!
//! Owns the parts, their replies until the last one is in, and the one answer that is made of them.
//! Never sends and never knows a lane (`dispatch::gather` does). A part is settled once: by its
//! reply, by an error of the node, or by one of ours; what comes for it later is swallowed.
//!
//! What surprises: an answer that is not whole is none. If a part of a read failed, the client gets
//! that part's error; if parts of a write failed and others have run, an error that says which,
//! because no other words would be true.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::command::spec::Spec;
use crate::refusal::Refusal;
use crate::refusal::parts::Parts;
use crate::resp::frames;
use crate::resp::write::Protocol;
use crate::route::merge::{Merge, Reply};
use crate::route::scan::Visit;
use crate::session::replies::Sequence;
use crate::stats::labels::Outcome;
use crate::topology::slots::NodeId;
use crate::upstream::dial::Node;
use crate::upstream::lane::Waiter;

/// The commands of one session that wait for several replies, in the order of its commands.
#[derive(Debug, Default)]
pub struct Gathers(VecDeque<Gather>);

/// One such command.
#[derive(Debug)]
pub struct Gather {
    /// Who gets the answer: a waiter that is on no lane.
    pub waiter: Waiter,
    /// How the replies become one.
    pub means: Means,
    /// Version in which the replies are spelled.
    pub protocol: Protocol,
    /// Where its parts went, unless their keys are what they are called by.
    nodes: Vec<Arc<Node>>,
    /// Its parts.
    parts: Vec<Part>,
    /// Number of each key among the command's keys, in the order of the parts; empty if the parts
    /// are whole commands.
    order: Vec<u32>,
    /// Replies, one behind the other.
    bytes: Vec<u8>,
    /// Parts that are not settled yet.
    missing: usize,
    /// Bytes held, those of unfinished replies included.
    held: usize,
    /// Most of them.
    held_max: usize,
    /// That was not enough: what came is dropped, and the client is told.
    is_too_large: bool,
    /// Whether a part has no reply, or one that is an error.
    has_failed: bool,
}

/// Memory of commands in parts that were answered, for those that come after them.
#[derive(Debug, Default)]
pub struct Rooms(Vec<Room>);

/// What a command in parts needs memory for.
#[derive(Debug, Default)]
pub struct Room {
    /// Its parts.
    pub parts: Vec<Part>,
    /// Number of each key among the command's keys, in the order of the parts; empty if the parts
    /// are whole commands.
    pub order: Vec<u32>,
    /// Their replies.
    bytes: Vec<u8>,
}

/// How the replies become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By the command's policy.
    Merge(Merge),
    /// One node's page of a scan, whose cursor is ours.
    Page(Visit),
}

/// One place that the command went to.
#[derive(Debug)]
pub struct Part {
    /// The node.
    pub node: NodeId,
    /// Which of [`Gather::order`] are its keys.
    pub keys: std::ops::Range<u32>,
    /// Where its command lies among the bytes that were queued in one piece.
    pub request: std::ops::Range<u32>,
    /// Whether the answer can do without it: a replica that does not serve now will be told by
    /// nobody else.
    is_dispensable: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing of its reply is here.
    Waiting,
    /// It has left the lane on which it went out, to be sent by itself.
    Away,
    /// The first pieces of a long reply.
    Begun(Vec<u8>),
    /// The whole reply, among all others.
    Here { start: usize, end: usize },
    /// The whole reply, which was long.
    Long(Vec<u8>),
    /// No reply will come.
    Failed(Box<(Refusal, Outcome)>),
}

// === impl Gathers ===

impl Gathers {
    /// Adds a command; its reply slot is the newest.
    pub fn push(&mut self, gather: Gather) {
        self.0.push_back(gather);
    }

    /// The command of that reply slot.
    pub fn get_mut(&mut self, slot: Sequence) -> Option<&mut Gather> {
        let place = self.place(slot)?;
        self.0.get_mut(place)
    }

    /// The command of that reply slot.
    #[must_use]
    pub fn get(&self, slot: Sequence) -> Option<&Gather> {
        self.0.get(self.place(slot)?)
    }

    /// Takes the command of that reply slot off the list.
    pub fn take(&mut self, slot: Sequence) -> Option<Gather> {
        let place = self.place(slot)?;
        self.0.remove(place)
    }

    fn place(&self, slot: Sequence) -> Option<usize> {
        self.0.binary_search_by_key(&slot, |gather| gather.waiter.slot).ok()
    }

    /// Gives memory back; called when the session has been idle for a while.
    pub fn shrink(&mut self) {
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }

    /// Bytes that all of them hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.iter().map(|gather| gather.held).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// === impl Rooms ===

impl Rooms {
    /// Memory for one command.
    pub fn take(&mut self) -> Room {
        self.0.pop().unwrap_or_default()
    }

    /// Takes back what a command does not need any more, unless that is more than most need.
    pub fn give(&mut self, mut room: Room) {
        let is_usual =
            room.bytes.capacity() <= ROOM_BYTES_MAX && room.parts.capacity() <= ROOM_PARTS_MAX;
        if is_usual && self.0.len() < ROOMS_MAX {
            room.parts.clear();
            room.order.clear();
            room.bytes.clear();
            self.0.push(room);
        }
    }

    /// Gives the memory back; called when a worker has been idle.
    pub fn shrink(&mut self) {
        self.0 = Vec::new();
    }
}

// === impl Part ===

impl Part {
    /// A part that is on its way.
    #[must_use]
    pub fn new(node: NodeId, keys: std::ops::Range<u32>, request: std::ops::Range<u32>) -> Self {
        Self { node, keys, request, is_dispensable: false, state: State::Waiting }
    }

    /// The same, if the answer can do without it.
    #[must_use]
    pub fn dispensable(self) -> Self {
        Self { is_dispensable: true, ..self }
    }

    /// Whether its reply may still come, as that of a command by itself or not.
    fn is_open(&self) -> bool {
        matches!(self.state, State::Waiting | State::Away | State::Begun(_))
    }
}

// === impl Gather ===

impl Gather {
    /// A command whose parts are on their way.
    #[must_use]
    pub fn new(
        waiter: Waiter,
        (means, protocol): (Means, Protocol),
        nodes: Vec<Arc<Node>>,
        room: Room,
        held_max: usize,
    ) -> Self {
        let Room { parts, order, bytes } = room;
        let missing = parts.len();
        let (held, is_too_large, has_failed) = (0, false, false);
        Self {
            waiter,
            means,
            protocol,
            nodes,
            parts,
            order,
            bytes,
            missing,
            held,
            held_max,
            is_too_large,
            has_failed,
        }
    }

    /// Its memory, when it is answered.
    #[must_use]
    pub fn into_room(self) -> Room {
        let Self { parts, order, bytes, .. } = self;
        Room { parts, order, bytes }
    }

    /// Whether all parts are settled.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// The part of that number.
    #[must_use]
    pub fn part(&self, place: u16) -> Option<&Part> {
        self.parts.get(usize::from(place))
    }

    /// Whether one of `count` parts from `place` on wants its reply.
    #[must_use]
    pub fn wants(&self, place: u16, count: u32) -> bool {
        self.parts.iter().skip(usize::from(place)).take(count as usize).any(Part::is_open)
    }

    /// The part goes on by itself: what becomes of its former lane does not concern it.
    pub fn send_away(&mut self, place: u16) {
        if let Some(part) = self.parts.get_mut(usize::from(place)).filter(|part| part.is_open()) {
            part.state = State::Away;
        }
    }

    /// Whether the part goes on by itself.
    #[must_use]
    pub fn is_away(&self, place: u16) -> bool {
        self.part(place).is_some_and(|part| matches!(part.state, State::Away))
    }

    /// A piece of a part's long reply.
    pub fn piece(&mut self, place: u16, bytes: &[u8]) {
        if !self.has_room(bytes.len()) {
            return;
        }
        let Some(part) = self.parts.get_mut(usize::from(place)).filter(|part| part.is_open())
        else {
            return;
        };
        self.held += bytes.len();
        match &mut part.state {
            State::Begun(begun) => begun.extend_from_slice(bytes),
            state => *state = State::Begun(bytes.to_vec()),
        }
    }

    /// The waiter of one of several parts, as if it had been queued by itself; what has come of its
    /// reply is void.
    pub fn alone(&mut self, many: &Waiter, index: u32) -> Option<Waiter> {
        let own = many.one(index);
        self.restart(own.part());
        let request = &self.part(own.part())?.request;
        let end = many.start() + u64::from(request.end);
        Some(Waiter { end, length: request.end - request.start, ..own })
    }

    /// What has come of the part's reply is void: it is asked again.
    pub fn restart(&mut self, place: u16) {
        if let Some(part) = self.parts.get_mut(usize::from(place))
            && let State::Begun(begun) = &part.state
        {
            self.held -= begun.len();
            part.state = State::Waiting;
        }
    }

    /// The part's reply, or the rest of it.
    pub fn reply(&mut self, place: u16, bytes: &[u8]) {
        let has_room = self.has_room(bytes.len());
        let Some(part) = self.parts.get_mut(usize::from(place)).filter(|part| part.is_open())
        else {
            return;
        };
        self.missing -= 1;
        let state = std::mem::replace(&mut part.state, State::Here { start: 0, end: 0 });
        if !has_room {
            return;
        }
        self.held += bytes.len();
        self.has_failed |= frames::is_error(bytes);
        part.state = if let State::Begun(mut begun) = state {
            begun.extend_from_slice(bytes);
            State::Long(begun)
        } else {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(bytes);
            State::Here { start, end: self.bytes.len() }
        };
    }

    /// Of `count` parts from `place` on, those without a reply get none; those that go on by
    /// themselves are not meant, unless it is one of them alone.
    pub fn fail(&mut self, place: u16, count: u32, refusal: &Refusal, outcome: Outcome) {
        for part in self.parts.iter_mut().skip(usize::from(place)).take(count as usize) {
            let is_meant = count == 1 || !matches!(part.state, State::Away);
            if part.is_open() && is_meant {
                part.state = State::Failed(Box::new((refusal.clone(), outcome)));
                self.missing -= 1;
                self.has_failed = true;
            }
        }
    }

    /// Whether so many bytes more may be held; if not, everything is dropped at once (INV-4).
    fn has_room(&mut self, more: usize) -> bool {
        if !self.is_too_large && self.held + more <= self.held_max {
            return true;
        }
        if !self.is_too_large {
            self.is_too_large = true;
            self.has_failed = true;
            self.bytes = Vec::new();
            self.held = 0;
            for part in &mut self.parts {
                match part.state {
                    State::Begun(_) => part.state = State::Waiting,
                    State::Long(_) | State::Here { .. } => {
                        part.state = State::Here { start: 0, end: 0 };
                    }
                    State::Waiting | State::Away | State::Failed(_) => {}
                }
            }
        }
        false
    }

    /// The reply of a part, if it has one.
    fn bytes_of<'a>(&'a self, part: &'a Part) -> Option<&'a [u8]> {
        match &part.state {
            State::Here { start, end } => self.bytes.get(*start..*end),
            State::Long(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// All replies that there are.
    fn replies(&self) -> impl Iterator<Item = Reply<'_>> + Clone {
        self.parts.iter().filter_map(|part| {
            let range = part.keys.start as usize..part.keys.end as usize;
            let places = self.order.get(range).unwrap_or_default();
            Some(Reply { bytes: self.bytes_of(part)?, places })
        })
    }

    /// Writes the answer to `out`, when all parts are settled. `page` makes one of a page of a scan.
    ///
    /// # Errors
    /// What the client is told instead.
    pub fn answer(
        &self,
        spec: &Spec,
        chance: u64,
        page: impl FnOnce(Visit, &[u8]) -> Result<Vec<u8>, Refusal>,
        out: &mut Vec<u8>,
    ) -> Result<(), (Refusal, Outcome)> {
        if self.has_failed {
            let is_failed = |part: &Part| self.is_failed(part);
            let failed = self.parts.iter().filter(|part| is_failed(part)).count();
            let is_one_enough = self.means == Means::Merge(Merge::OneSucceeded);
            if failed > 0 && !(is_one_enough && failed < self.parts.len()) {
                return self.failure(spec, is_failed, failed, out);
            }
        }
        if self.is_too_large {
            let (command, most) = (spec.name.to_string(), self.held_max);
            let parts = Parts::TooLarge { command, most };
            return Err((Refusal::Parts(Box::new(parts)), Outcome::Refused));
        }
        let good = self.replies().filter(|reply| !frames::is_error(reply.bytes));
        match self.means {
            Means::Page(visit) => {
                let reply = good.clone().next().map_or(&[][..], |reply| reply.bytes);
                let page = page(visit, reply).map_err(|refusal| (refusal, Outcome::Refused))?;
                out.extend_from_slice(&page);
                Ok(())
            }
            Means::Merge(how) => {
                out.reserve(self.bytes.len() + 32);
                how.write(good, (self.order.len(), chance), self.protocol, out).map_err(|_| {
                    let parts = Parts::Unmergeable { command: spec.name.to_string() };
                    (Refusal::Parts(Box::new(parts)), Outcome::Unknown)
                })
            }
        }
    }

    /// Whether the part has no reply, or an error that the answer cannot do without.
    fn is_failed(&self, part: &Part) -> bool {
        let reply = self.bytes_of(part);
        let is_away =
            || reply.is_none_or(|reply| NOT_SERVING.iter().any(|&code| reply.starts_with(code)));
        reply.is_none_or(frames::is_error) && !(part.is_dispensable && is_away())
    }

    /// The answer if parts have failed: what one of them was told, or, if something has been
    /// changed, how much.
    fn failure(
        &self,
        spec: &Spec,
        is_failed: impl Fn(&Part) -> bool,
        failed: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), (Refusal, Outcome)> {
        let severity = |part: &Part| match &part.state {
            State::Failed(failure) if failure.1 == Outcome::Unknown => 2,
            // That there was nothing to do (`NOTBUSY`) says less than any other error.
            _ => u8::from(!self.bytes_of(part).is_some_and(|reply| reply.starts_with(b"-NOTBUSY"))),
        };
        let all = || self.parts.iter().filter(|part| is_failed(part));
        // The first of the worst.
        let Some(worst) = all().rev().max_by_key(|part| severity(part)) else {
            return Ok(());
        };
        let is_unknown = !spec.is_retry_safe() && severity(worst) == 2;
        let alone = failed == self.parts.len() && (failed == 1 || !is_unknown);
        if spec.is_retry_safe() || alone {
            return match (&worst.state, self.bytes_of(worst)) {
                (State::Failed(failure), _) => Err((failure.0.clone(), failure.1)),
                (_, reply) => {
                    out.extend_from_slice(reply.unwrap_or_default());
                    Ok(())
                }
            };
        }
        let names: Vec<String> = all().map(|part| self.name_of(part)).collect();
        let why = match (&worst.state, self.bytes_of(worst)) {
            (State::Failed(failure), _) => failure.0.text(),
            (_, reply) => {
                let text = reply.and_then(|reply| reply.get(1..)).unwrap_or_default();
                String::from_utf8_lossy(text).trim_end().to_owned()
            }
        };
        let partly = Parts::Partly {
            done: self.parts.len() - failed,
            of: self.parts.len(),
            is_unknown,
            failed: names,
            why,
        };
        let outcome = if is_unknown { Outcome::Unknown } else { Outcome::ErrorReply };
        Err((Refusal::Parts(Box::new(partly)), outcome))
    }

    /// What a message calls a part: its keys by their numbers, or its node.
    fn name_of(&self, part: &Part) -> String {
        let range = part.keys.start as usize..part.keys.end as usize;
        let keys = self.order.get(range).filter(|keys| !keys.is_empty());
        keys.map_or_else(
            || {
                let node = self.nodes.iter().find(|node| node.id == part.node);
                node.map_or_else(String::new, |node| node.name.clone())
            },
            |keys| {
                let numbers: Vec<String> =
                    keys.iter().map(|key| format!("key {}", key + 1)).collect();
                numbers.join(", ")
            },
        )
    }
}

/// Commands in parts whose memory a worker keeps: as many as clients are usually busy with some.
const ROOMS_MAX: usize = 64;
/// Bytes of replies that such a memory may hold.
const ROOM_BYTES_MAX: usize = 32 * 1024;
/// Parts that it may hold.
const ROOM_PARTS_MAX: usize = 256;
/// How a replica says that it does not serve now.
const NOT_SERVING: [&[u8]; 2] = [b"-LOADING ", b"-MASTERDOWN "];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_for_the_next_command_unless_it_is_much() {
        let mut rooms = Rooms::default();
        let mut room = rooms.take();
        room.order.push(1);
        room.bytes.extend_from_slice(b"*1\r\n");
        rooms.give(room);
        let mut room = rooms.take();
        assert!(room.order.is_empty() && room.bytes.is_empty() && room.bytes.capacity() > 0);
        room.bytes.reserve(2 * ROOM_BYTES_MAX);
        rooms.give(room);
        assert_eq!(rooms.take().bytes.capacity(), 0);
        (0..2 * ROOMS_MAX).for_each(|_| rooms.give(Room::default()));
        assert_eq!(rooms.0.len(), ROOMS_MAX);
    }
}

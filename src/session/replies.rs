//! Ordered reply slots: completion in any order, delivery in the order of the commands (INV-1).
//!
//! Owns the sequence numbers of one session's commands and the replies that came before their turn.
//! Never knows where a reply comes from. A slot is opened when a command is taken, and filled with
//! a whole reply, with pieces of a long one, or with an error of ours; what is due goes to the
//! client's [`SendBuffer`] at once.
//!
//! What surprises: a slot in order costs two integers and no memory. Only replies that overtake
//! others, such as a local answer behind an unanswered GET, are held here. Before a cluster that is
//! every second one, so the small ones lie in one buffer and are no allocations of their own.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::buffer::{ChunkPool, SendBuffer};

/// Position of a command in its session's order, from 0 on.
pub type Sequence = u64;

/// The slots of one session.
#[derive(Debug, Default)]
pub struct Replies {
    /// The slot whose reply is due next; `head <= next`.
    head: Sequence,
    /// The slot that the next command gets.
    next: Sequence,
    /// State of the slots from `head` on, as far as it differs from [`Slot::Waiting`].
    early: VecDeque<Slot>,
    /// Whether a part of the reply of `head` has been appended to the client's bytes.
    head_started: bool,
    /// The small whole replies of `early`, in the order in which they came.
    small: Vec<u8>,
    /// Bytes of replies in `early` and in `pushes`; they count against the session's budget.
    held: usize,
    /// Pushes that came in the middle of a reply: they follow its last byte.
    pushes: Vec<u8>,
}

#[derive(Debug, Default)]
enum Slot {
    /// No byte of the reply is here.
    #[default]
    Waiting,
    /// The first pieces of a reply whose end is still to come.
    Partial(Vec<u8>),
    /// The whole reply.
    Whole(Vec<u8>),
    /// The whole reply, in [`Replies::small`].
    Small { start: u32, end: u32 },
}

/// Slots that are being filled with replies that came one behind the other: those that go to the same
/// place are copied there together.
#[derive(Debug)]
pub struct Filling<'a> {
    replies: &'a mut Replies,
    out: &'a mut SendBuffer,
    pool: &'a mut ChunkPool,
    bytes: &'a [u8],
    /// Bytes that have been copied; `copied <= end <= bytes.len()`.
    copied: usize,
    /// Bytes that have a slot.
    end: usize,
    /// The slot whose reply goes to the client with nothing behind it; [`NONE`] while some are held.
    due: Sequence,
    /// Whether the bytes between `copied` and `end` are held; else they are due.
    is_held: bool,
}

// === impl Replies ===

impl Replies {
    /// Opens the slot of the next command.
    pub fn open(&mut self) -> Sequence {
        self.next += 1;
        self.next - 1
    }

    /// The slot that the next command gets.
    #[must_use]
    pub fn next(&self) -> Sequence {
        self.next
    }

    /// Slots that are not delivered yet.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.next - self.head
    }

    /// Bytes of replies that wait for their turn.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether the slot still wants its reply: it is neither filled nor delivered.
    #[must_use]
    pub fn is_waiting(&self, slot: Sequence) -> bool {
        let Some(offset) = slot.checked_sub(self.head) else {
            return false;
        };
        let state = usize::try_from(offset).ok().and_then(|offset| self.early.get(offset));
        slot < self.next && !matches!(state, Some(Slot::Whole(_) | Slot::Small { .. }))
    }

    /// Whether bytes of the slot's reply have been handed to the client: it can no longer become an
    /// error.
    #[must_use]
    pub fn is_started(&self, slot: Sequence) -> bool {
        slot == self.head && self.head_started
    }

    /// Begins to fill slots with whole replies, which lie one behind the other in `bytes`.
    pub fn filling<'a>(
        &'a mut self,
        bytes: &'a [u8],
        out: &'a mut SendBuffer,
        pool: &'a mut ChunkPool,
    ) -> Filling<'a> {
        let due = self.plain_due();
        Filling { replies: self, out, pool, bytes, copied: 0, end: 0, due, is_held: false }
    }

    /// The slot at the head, if its reply is not begun and nothing is held behind it.
    fn plain_due(&self) -> Sequence {
        if self.head_started || !self.early.is_empty() { NONE } else { self.head }
    }

    /// Fills the slot with a whole reply (or with the rest of one that [`Self::piece`] began) and
    /// delivers what is due. An empty reply is how a muted command (CLIENT REPLY OFF) passes. A
    /// filled slot is left alone.
    pub fn complete(
        &mut self,
        slot: Sequence,
        reply: &[u8],
        out: &mut SendBuffer,
        pool: &mut ChunkPool,
    ) {
        if slot == self.head && slot < self.next {
            out.append(pool, reply);
            self.advance(out, pool);
        } else {
            self.overtake(slot, reply);
        }
    }

    /// Keeps a reply that is not due yet.
    // Never: what comes in its turn would save the registers of this.
    #[inline(never)]
    fn overtake(&mut self, slot: Sequence, reply: &[u8]) {
        if slot < self.head || slot >= self.next {
            return;
        }
        self.make_room();
        let start = self.small.len();
        let range = (u32::try_from(start), u32::try_from(start + reply.len()));
        let state = self.slot_mut(slot);
        match (&mut *state, range) {
            (Slot::Whole(_) | Slot::Small { .. }, _) => return,
            (Slot::Partial(bytes), _) => {
                bytes.extend_from_slice(reply);
                *state = Slot::Whole(std::mem::take(bytes));
            }
            (Slot::Waiting, (Ok(start), Ok(end))) if reply.len() <= SMALL_BYTES_MAX => {
                *state = Slot::Small { start, end };
                self.small.extend_from_slice(reply);
            }
            (Slot::Waiting, _) => *state = Slot::Whole(reply.to_vec()),
        }
        self.held += reply.len();
    }

    /// Whoever always has something in flight never empties `small`: what has been delivered from it
    /// is dropped once it is the larger part.
    #[inline]
    fn make_room(&mut self) {
        if self.small.len() > SMALL_KEPT_BYTES && self.small.len() / 2 > self.held {
            self.compact();
        }
    }

    /// Drops what has been delivered from `small`.
    #[cold]
    fn compact(&mut self) {
        let before = std::mem::take(&mut self.small);
        for slot in &mut self.early {
            if let Slot::Small { start, end } = slot {
                let at = self.small.len() as u32;
                self.small.extend_from_slice(small(&before, *start, *end));
                *slot = Slot::Small { start: at, end: self.small.len() as u32 };
            }
        }
    }

    /// Fills the slot with an error of ours instead of what it has so far. Returns false if bytes
    /// of its reply have reached the client already: then only closing the client is honest.
    pub fn fail(
        &mut self,
        slot: Sequence,
        error: &[u8],
        out: &mut SendBuffer,
        pool: &mut ChunkPool,
    ) -> bool {
        if self.is_started(slot) {
            return false;
        }
        if slot > self.head && self.is_waiting(slot) {
            let state = std::mem::take(self.slot_mut(slot));
            if let Slot::Partial(bytes) = state {
                self.held -= bytes.len();
            }
        }
        self.complete(slot, error, out, pool);
        true
    }

    /// Adds a piece of a reply whose end is still to come. Returns whether it went to the client's
    /// bytes.
    pub fn piece(
        &mut self,
        slot: Sequence,
        piece: &[u8],
        out: &mut SendBuffer,
        pool: &mut ChunkPool,
    ) -> bool {
        if slot == self.head && slot < self.next {
            out.append(pool, piece);
            self.head_started = true;
            return true;
        }
        if self.is_waiting(slot) {
            self.held += piece.len();
            let state = self.slot_mut(slot);
            match state {
                Slot::Partial(bytes) => bytes.extend_from_slice(piece),
                _ => *state = Slot::Partial(piece.to_vec()),
            }
        }
        false
    }

    /// Adds a whole frame that is no reply (a RESP3 push, a message of RESP2): at once, or behind
    /// the reply whose first pieces are out already. It never goes between two pieces of one reply.
    pub fn push(&mut self, frame: &[u8], out: &mut SendBuffer, pool: &mut ChunkPool) {
        if self.head_started {
            self.held += frame.len();
            self.pushes.extend_from_slice(frame);
        } else {
            out.append(pool, frame);
        }
    }

    /// As [`Self::push`], for a large frame that others get as well: its first byte, and the rest
    /// without a copy.
    pub fn push_shared(
        &mut self,
        first: u8,
        rest: Bytes,
        out: &mut SendBuffer,
        pool: &mut ChunkPool,
    ) {
        self.push(&[first], out, pool);
        if self.head_started {
            self.push(&rest, out, pool);
        } else {
            out.append_shared(rest);
        }
    }

    /// Notes that a piece of `slot` was appended to the client's bytes by the caller, without a
    /// copy.
    pub fn note_piece(&mut self, slot: Sequence) {
        if slot == self.head {
            self.head_started = true;
        }
    }

    /// Whether the slot's reply is due now, so that its bytes may go to the client directly.
    #[must_use]
    pub fn is_due(&self, slot: Sequence) -> bool {
        slot == self.head && slot < self.next
    }

    /// Gives memory back; called when the session has been idle for a while.
    pub fn shrink(&mut self) {
        if self.early.is_empty() {
            self.early = VecDeque::new();
            self.small = Vec::new();
        }
    }

    /// Goes to the next slot, and on as long as replies are there already.
    fn advance(&mut self, out: &mut SendBuffer, pool: &mut ChunkPool) {
        self.head += 1;
        self.head_started = false;
        if !self.pushes.is_empty() {
            let pushes = std::mem::take(&mut self.pushes);
            self.held -= pushes.len();
            out.append(pool, &pushes);
        }
        if !self.early.is_empty() {
            self.go_on(out, pool);
        }
    }

    /// The reply in front of `head` has been delivered whole: those that are held behind it follow.
    fn go_on(&mut self, out: &mut SendBuffer, pool: &mut ChunkPool) {
        loop {
            self.early.pop_front();
            match self.early.front_mut() {
                Some(&mut Slot::Small { start, end }) => {
                    let bytes = small(&self.small, start, end);
                    self.held -= bytes.len();
                    out.append(pool, bytes);
                }
                Some(Slot::Whole(bytes)) => {
                    self.held -= bytes.len();
                    out.append(pool, bytes);
                }
                Some(state @ Slot::Partial(_)) => {
                    if let Slot::Partial(bytes) = std::mem::take(state) {
                        self.held -= bytes.len();
                        out.append(pool, &bytes);
                        self.head_started = true;
                    }
                    return;
                }
                Some(Slot::Waiting) => return,
                None => break,
            }
            self.head += 1;
        }
        self.small.clear();
        // What a burst left behind is not kept for each client.
        self.small.shrink_to(SMALL_KEPT_BYTES);
    }

    /// The state of a slot at or behind the head; the deque grows up to it.
    #[inline]
    fn slot_mut(&mut self, slot: Sequence) -> &mut Slot {
        // Slots are as many as commands in flight, which admission bounds.
        let offset = usize::try_from(slot.saturating_sub(self.head)).unwrap_or(usize::MAX);
        while self.early.len() <= offset {
            self.early.push_back(Slot::Waiting);
        }
        &mut self.early[offset]
    }
}

// === impl Filling ===

impl Filling<'_> {
    /// The `length` bytes behind the `used` ones are the reply of `slot`. Returns whether they have been
    /// taken; they are not if the slot has begun to be filled, wants no reply any more, or holds one so large that it
    /// is kept by itself.
    #[inline(always)]
    pub fn fill(&mut self, slot: Sequence, (used, length): (usize, usize)) -> bool {
        if slot == self.due {
            self.due += 1;
            return true;
        }
        self.end = used;
        self.note_due();
        let is_due = self.replies.is_due(slot) && !self.replies.head_started;
        if is_due {
            self.close_gap(length);
        }
        is_due || self.hold(slot, length)
    }

    /// The next `length` bytes are the reply that those wait for which are held.
    #[inline]
    fn close_gap(&mut self, length: usize) {
        self.copy();
        self.is_held = false;
        self.end += length;
        self.copy();
        self.replies.head += 1;
        if !self.replies.early.is_empty() {
            self.replies.go_on(self.out, self.pool);
        }
        self.due = self.replies.plain_due();
    }

    /// As [`Self::fill`], where the slot is not due.
    #[inline]
    fn hold(&mut self, slot: Sequence, length: usize) -> bool {
        // What is at the head and not due has been delivered in part.
        if slot <= self.replies.head || slot >= self.replies.next || length > SMALL_BYTES_MAX {
            return false;
        }
        if !self.is_held {
            self.copy();
            self.replies.make_room();
        }
        let start = self.replies.small.len() + (self.end - self.copied);
        let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(start + length)) else {
            return false;
        };
        let state = self.replies.slot_mut(slot);
        if !matches!(state, Slot::Waiting) {
            return false;
        }
        *state = Slot::Small { start, end };
        (self.is_held, self.due) = (true, NONE);
        self.replies.held += length;
        self.end += length;
        true
    }

    /// The slots before `due` have been delivered.
    #[inline]
    fn note_due(&mut self) {
        if self.due != NONE {
            self.replies.head = self.due;
        }
    }

    /// The bytes that have been taken since the last copy go where they belong, in one piece.
    #[inline]
    fn copy(&mut self) {
        let bytes = self.bytes.get(self.copied..self.end).unwrap_or_default();
        self.copied = self.end;
        if self.is_held {
            self.replies.small.extend_from_slice(bytes);
        } else if !bytes.is_empty() {
            self.out.append(self.pool, bytes);
        }
    }

    /// Nothing comes behind the `used` bytes. Without this the last replies are lost.
    #[inline]
    pub fn finish(mut self, used: usize) {
        self.end = used;
        self.note_due();
        self.copy();
    }
}

/// A reply among the small ones.
fn small(all: &[u8], start: u32, end: u32) -> &[u8] {
    all.get(start as usize..end as usize).unwrap_or_default()
}

/// Stands for no slot.
const NONE: Sequence = Sequence::MAX;
/// Larger replies are an allocation each: as many as there are of those cost little beside their bytes.
const SMALL_BYTES_MAX: usize = 1024;
/// What a session keeps for its next pipeline until it has been idle for a while.
const SMALL_KEPT_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::IoSlice;

    struct Rig {
        replies: Replies,
        out: SendBuffer,
        pool: ChunkPool,
    }

    impl Rig {
        fn new(commands: u64) -> Self {
            let mut replies = Replies::default();
            for want in 0..commands {
                assert_eq!(replies.open(), want);
            }
            Self { replies, out: SendBuffer::default(), pool: ChunkPool::default() }
        }

        fn complete(&mut self, slot: Sequence, reply: &[u8]) {
            self.replies.complete(slot, reply, &mut self.out, &mut self.pool);
        }

        fn piece(&mut self, slot: Sequence, piece: &[u8]) -> bool {
            self.replies.piece(slot, piece, &mut self.out, &mut self.pool)
        }

        fn push(&mut self, frame: &[u8]) {
            self.replies.push(frame, &mut self.out, &mut self.pool);
        }

        fn sent(&self) -> Vec<u8> {
            let mut slices = [IoSlice::new(&[]); crate::buffer::SLICES];
            let count = self.out.unsent_slices(&mut slices);
            slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
        }
    }

    #[test]
    fn replies_are_delivered_in_the_order_of_the_commands() {
        let mut rig = Rig::new(4);
        rig.complete(2, b"c");
        rig.complete(1, b"b");
        assert_eq!((rig.sent(), rig.replies.held()), (b"".to_vec(), 2));
        rig.complete(0, b"a");
        assert_eq!((rig.sent(), rig.replies.held()), (b"abc".to_vec(), 0));
        rig.complete(3, b"d");
        assert_eq!((rig.sent(), rig.replies.pending()), (b"abcd".to_vec(), 0));
    }

    #[test]
    fn a_filled_slot_is_left_alone() {
        let mut rig = Rig::new(2);
        rig.complete(1, b"error");
        rig.complete(1, b"late reply");
        rig.complete(0, b"a");
        rig.complete(0, b"late reply");
        rig.complete(1, b"late reply");
        assert_eq!(rig.sent(), b"aerror");
    }

    #[test]
    fn pieces_of_a_reply_that_is_due_go_out_at_once_and_others_wait() {
        let mut rig = Rig::new(2);
        assert!(!rig.piece(1, b"b1"));
        assert!(rig.piece(0, b"a1"));
        assert!(rig.replies.is_started(0) && !rig.replies.is_started(1));
        rig.complete(0, b"a2");
        assert_eq!(rig.sent(), b"a1a2b1");
        assert!(rig.replies.is_started(1));
        rig.complete(1, b"b2");
        assert_eq!(rig.sent(), b"a1a2b1b2");
    }

    #[test]
    fn a_push_goes_out_at_once_but_never_into_a_reply() {
        let mut rig = Rig::new(2);
        rig.push(b">1");
        rig.piece(0, b"a1");
        rig.push(b">2");
        rig.piece(0, b"a2");
        assert_eq!((rig.sent(), rig.replies.held()), (b">1a1a2".to_vec(), 2));
        rig.complete(0, b"a3");
        rig.push(b">3");
        rig.complete(1, b"b");
        assert_eq!((rig.sent(), rig.replies.held()), (b">1a1a2a3>2>3b".to_vec(), 0));
    }

    #[test]
    fn a_started_reply_cannot_become_an_error_and_a_held_one_can() {
        let mut rig = Rig::new(2);
        rig.piece(0, b"a1");
        rig.piece(1, b"b1");
        assert!(!rig.replies.fail(0, b"-no", &mut rig.out, &mut rig.pool));
        assert!(rig.replies.fail(1, b"-no", &mut rig.out, &mut rig.pool));
        rig.complete(0, b"a2");
        assert_eq!((rig.sent(), rig.replies.held()), (b"a1a2-no".to_vec(), 0));
    }

    #[test]
    fn who_always_has_something_in_flight_holds_no_more_than_what_is_held() {
        let mut rig = Rig::new(2);
        let reply = |slot: u64| format!("{slot},").repeat(8);
        rig.complete(1, reply(1).as_bytes());
        for head in (0..1_000).step_by(2) {
            rig.replies.open();
            rig.replies.open();
            // One overtakes those that go now, so that never all are there.
            rig.complete(head + 3, reply(head + 3).as_bytes());
            rig.complete(head, reply(head).as_bytes());
            let kept = rig.replies.small.len();
            assert!(kept < 2 * SMALL_KEPT_BYTES, "{kept} at {head}");
            assert_eq!(rig.replies.held(), reply(head + 3).len());
        }
        let want: String = (0..1_000).map(reply).collect();
        assert_eq!(rig.sent(), want.into_bytes());
    }

    #[test]
    fn small_and_large_replies_overtake_others_alike() {
        let mut rig = Rig::new(4);
        let large = vec![b'x'; SMALL_BYTES_MAX + 1];
        rig.complete(3, b"d");
        rig.complete(2, &large);
        rig.complete(1, b"b");
        assert_eq!(rig.replies.held(), large.len() + 2);
        rig.complete(0, b"a");
        assert_eq!(rig.sent(), [b"ab", &large[..], b"d"].concat());
        rig.replies.shrink();
        assert_eq!((rig.replies.held(), rig.replies.small.capacity()), (0, 0));
    }

    proptest! {
        #[test]
        fn any_order_of_completion_gives_the_order_of_the_commands(
            order in Just((0..20_u64).collect::<Vec<_>>()).prop_shuffle(),
            pieces in prop::collection::vec(0_usize..4, 20),
        ) {
            let mut rig = Rig::new(20);
            for &slot in &order {
                for _ in 0..pieces[usize::try_from(slot).unwrap()] {
                    rig.piece(slot, format!("{slot},").as_bytes());
                }
            }
            for &slot in &order {
                rig.complete(slot, format!("{slot};").as_bytes());
            }
            let want: String = (0..20).map(|slot| {
                format!("{slot},").repeat(pieces[slot]) + &format!("{slot};")
            }).collect();
            prop_assert_eq!(rig.sent(), want.into_bytes());
            prop_assert_eq!((rig.replies.pending(), rig.replies.held()), (0, 0));
        }
    }
}

//! What one worker knows of the sizes of keys, and what it may take for granted.
//!
//! Owns three memories of fixed size: what keys were measured to be, how large keys of a kind have
//! been, and which replies on their way will tell a size. Never asks: [`Sizes::weigh`] says what is
//! known, and everything that comes to be known goes through [`Sizes::note`].
//!
//! What surprises: a kind of keys is judged by the largest that was ever seen of it. That a rule is
//! made stricter needs no other thought, and one giant is enough to ask again about all its kin.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::RandomState;

use super::pattern;
use super::questions::Plan;
use super::table::Table;
use crate::clock::{self, Micros};
use crate::session::replies::Sequence;
use crate::session::state::SessionId;

/// All that a worker knows of sizes.
#[derive(Debug)]
pub struct Sizes {
    /// Which deployment this is about. Another one's keys are other keys.
    epoch: u64,
    /// Of this process alone, so that nobody can make keys up that are taken for one another.
    hasher: RandomState,
    /// What was measured.
    known: Table<u64>,
    /// What is known of keys of one kind.
    kinds: Table<Kin>,
    /// Replies that will tell a size.
    awaited: Vec<Option<Awaited>>,
}

/// Whose size it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// These very keys, asked about in this way, by this user, in this database.
    whole: u64,
    /// The same, whatever part of them is meant.
    keys: u64,
    /// All keys like them.
    kind: u64,
}

/// What may be concluded of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It is small enough, as far as can be told without asking.
    Small,
    /// It is too large: so many, a moment ago.
    Large(u64),
    /// It must be asked for.
    Unknown,
}

/// What is known of a subject.
enum Outlook {
    /// It is small.
    Small,
    /// It was so large, and that was so long ago.
    Large(u64, Micros),
    /// It is not known itself; all of its kind were small.
    OfSmallKind(Kin),
    /// Nothing that would be enough.
    Unknown,
}

/// What is known of keys of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Kin {
    /// The largest.
    largest: u64,
    /// How many were seen.
    seen: u32,
    /// How many went without a question since the last one that did not.
    unasked: u32,
}

/// A reply that will tell a size.
#[derive(Clone, Copy, Debug)]
pub struct Awaited {
    /// Whose reply.
    pub session: SessionId,
    /// Which of its replies.
    pub slot: Sequence,
    /// What it tells.
    pub subject: Subject,
    /// Whether an array counts each element twice.
    pub is_in_pairs: bool,
    /// What would have been too large.
    pub limit: u64,
}

// === impl Sizes ===

impl Default for Sizes {
    fn default() -> Self {
        Self {
            epoch: 0,
            hasher: RandomState::default(),
            known: Table::new(KNOWN_MAX),
            kinds: Table::new(KINDS_MAX),
            awaited: Vec::new(),
        }
    }
}

impl Sizes {
    /// From here on it is about this deployment; what is known of another one is forgotten.
    pub fn follow(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.known.clear();
            self.kinds.clear();
            self.awaited.clear();
        }
    }

    /// Whose size a plan asks for; `user` is who asks, because nobody shall learn by a refusal what
    /// the server would not tell him.
    #[must_use]
    pub fn subject(&self, plan: &Plan<'_>, user: u16, db: u32) -> Subject {
        use std::hash::Hasher;
        let mut keys = self.hasher.build_hasher();
        (user, db).hash(&mut keys);
        plan.hash_keys(&mut keys);
        let mut whole = keys.clone();
        if let Some(range) = plan.range() {
            range.hash(&mut whole);
        }
        let mut kind = self.hasher.build_hasher();
        plan.hash_kind(&mut kind);
        // Of many keys together more is expected than of few.
        plan.sources().count().checked_ilog2().hash(&mut kind);
        plan.sources().take(FOLDED_KEYS_MAX).for_each(|key| pattern::fold(key, &mut kind));
        Subject { whole: whole.finish(), keys: keys.finish(), kind: kind.finish() }
    }

    /// What may be concluded about a subject; `size` says how much of a total is meant. Whoever is told
    /// that it is unknown asks.
    pub fn weigh(
        &mut self,
        subject: Subject,
        limit: u64,
        now: Micros,
        size: impl Fn(u64) -> u64,
    ) -> Weight {
        match self.outlook(subject, limit, now, size) {
            Outlook::Small => Weight::Small,
            Outlook::Large(size, age) if age < RECHECK => Weight::Large(size),
            Outlook::Large(..) => {
                // Whoever comes while this one asks is refused: a crowd does not ask all at once.
                if let Some((total, _)) = self.known.get(subject.whole) {
                    self.known.put(subject.whole, total, now);
                }
                Weight::Unknown
            }
            Outlook::OfSmallKind(kin) => {
                let is_tried = kin.unasked + 1 >= UNASKED_MAX;
                let unasked = if is_tried { 0 } else { kin.unasked + 1 };
                self.kinds.put(subject.kind, Kin { unasked, ..kin }, now);
                if is_tried { Weight::Unknown } else { Weight::Small }
            }
            Outlook::Unknown => Weight::Unknown,
        }
    }

    /// Whether a subject would be weighed as small. If not, nothing has changed: it is still to be
    /// weighed.
    pub fn is_small(
        &mut self,
        subject: Subject,
        limit: u64,
        now: Micros,
        size: impl Fn(u64) -> u64,
    ) -> bool {
        match self.outlook(subject, limit, now, size) {
            Outlook::Small => true,
            Outlook::OfSmallKind(kin) if kin.unasked + 1 < UNASKED_MAX => {
                let unasked = kin.unasked + 1;
                self.kinds.put(subject.kind, Kin { unasked, ..kin }, now);
                true
            }
            _ => false,
        }
    }

    fn outlook(
        &self,
        subject: Subject,
        limit: u64,
        now: Micros,
        size: impl Fn(u64) -> u64,
    ) -> Outlook {
        if let Some((total, at)) = self.known.get(subject.whole) {
            let (size, age) = (size(total), now.saturating_sub(at));
            if size > limit {
                return Outlook::Large(size, age);
            }
            if age <= BELIEVED_FOR {
                return if size <= limit / 2 { Outlook::Small } else { Outlook::Unknown };
            }
        }
        match self.kinds.get(subject.kind) {
            Some((kin, _)) if kin.seen >= SEEN_MIN && kin.largest <= limit / 10 => {
                Outlook::OfSmallKind(kin)
            }
            _ => Outlook::Unknown,
        }
    }

    /// The size of a subject, if it was seen within the time in which it is believed.
    #[must_use]
    pub fn last(&self, subject: Subject, now: Micros) -> Option<u64> {
        let (total, at) = self.known.get(subject.whole)?;
        (now.saturating_sub(at) <= BELIEVED_FOR).then_some(total)
    }

    /// A size has come to be known.
    pub fn note(&mut self, subject: Subject, total: u64, now: Micros) {
        let known = self.known.get(subject.keys);
        // The same key again is no further evidence for its kind, and neither is another part of it.
        let is_news = known.is_none_or(|(_, at)| now.saturating_sub(at) > BELIEVED_FOR);
        self.known.put(subject.keys, total, now);
        self.known.put(subject.whole, total, now);
        let (mut kin, _) = self.kinds.get(subject.kind).unwrap_or_default();
        kin.largest = kin.largest.max(total);
        kin.seen = kin.seen.saturating_add(u32::from(is_news));
        self.kinds.put(subject.kind, kin, now);
    }

    /// A reply will tell a size. One that is never looked for is displaced by another.
    pub fn await_reply(&mut self, awaited: Awaited) {
        if self.awaited.is_empty() {
            self.awaited = vec![None; AWAITED_MAX];
        }
        let index = place(awaited.session, awaited.slot);
        if let Some(place) = self.awaited.get_mut(index) {
            *place = Some(awaited);
        }
    }

    /// Whether the reply of a session's slot is awaited.
    #[must_use]
    pub fn awaits(&self, session: SessionId, slot: Sequence) -> bool {
        let place = self.awaited.get(place(session, slot)).and_then(Option::as_ref);
        place.is_some_and(|awaited| (awaited.session, awaited.slot) == (session, slot))
    }

    /// What the reply of a session's slot tells, if that is known; it is asked for once.
    pub fn awaited(&mut self, session: SessionId, slot: Sequence) -> Option<Awaited> {
        let place = self.awaited.get_mut(place(session, slot))?;
        place.take_if(|awaited| (awaited.session, awaited.slot) == (session, slot))
    }
}

fn place(session: SessionId, slot: Sequence) -> usize {
    // Sessions are numbered from 0 on, in the upper half, and a pipeline's slots are neighbours.
    let mixed = (session.number() >> 32).wrapping_mul(61).wrapping_add(slot);
    (mixed % AWAITED_MAX as u64) as usize
}

/// Keys whose size is remembered.
const KNOWN_MAX: usize = 65_536;
/// Kinds of keys.
const KINDS_MAX: usize = 4_096;
/// Replies on their way that will be looked at.
const AWAITED_MAX: usize = 1_024;
/// Keys of a command that make its kind.
const FOLDED_KEYS_MAX: usize = 8;
/// How long a small key is taken to be small.
const BELIEVED_FOR: Micros = 60 * clock::SECOND;
/// How long a large key is taken to be large.
const RECHECK: Micros = clock::SECOND;
/// How many keys of a kind must have been small.
const SEEN_MIN: u32 = 64;
/// Of so many that go unasked, one is asked about.
const UNASKED_MAX: u32 = 256;

#[cfg(test)]
mod tests;

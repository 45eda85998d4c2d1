//! Scripts that clients have run, by the SHA1 that EVALSHA calls them by, shared by all workers.
//!
//! Owns the sources, who has used them, and their bound in bytes; [`proven`] is what one connection
//! knows of its node, [`follow`] what is done with a command and its reply, [`libraries`] the same
//! for functions. Never runs or reads a script. A source arrives with an EVAL or a SCRIPT LOAD that
//! the node has answered without an error, and leaves in a SCRIPT LOAD of ours, in front of an
//! EVALSHA that would otherwise be told NOSCRIPT.
//!
//! What surprises: a source belongs to the identities that have sent it themselves. Redis shares
//! scripts among its users, but what makes a node forget them (a restart, SCRIPT FLUSH) takes them
//! from everybody, and nobody may get one back that was somebody else's.

pub mod follow;
pub mod libraries;
pub mod proven;

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dashmap::DashMap;
use foldhash::quality::RandomState;
use ring::digest;

use crate::config::MemorySettings;
use crate::stats::control;
use crate::upstream::identity::{IDENTITIES_MAX, Identity};

/// The SHA1 of a script: its name to EVALSHA.
pub type Sha = [u8; 20];

/// The sources of all workers.
#[derive(Debug)]
pub struct Scripts {
    by_sha: DashMap<Sha, Script>,
    /// A quick hash of the source → its SHA1: who sends EVAL every time does not pay for SHA1 every
    /// time.
    by_content: DashMap<u64, Sha>,
    hasher: RandomState,
    /// Who is evicted next. Locked only by what adds or removes; never while an entry of a map is
    /// held.
    order: Mutex<Order>,
    /// How often everything was forgotten: what a connection has proven before counts no more.
    flushes: AtomicU64,
    /// Bound of `order.bytes`; 0: nothing is remembered.
    bytes_max: usize,
    /// Longest source that is remembered.
    script_bytes_max: usize,
}

/// One source.
#[derive(Debug)]
struct Script {
    source: Bytes,
    /// Its key in `by_content`.
    hash: u64,
    /// Identities that have sent it with success, a bit each.
    owners: AtomicU32,
    /// Used since the clock's hand last passed: it gets another round.
    is_used: AtomicBool,
}

/// The clock: a queue in which what was used goes round once more.
#[derive(Debug, Default)]
struct Order {
    queue: VecDeque<Sha>,
    /// What the entries cost, bookkeeping included; at most `bytes_max`.
    bytes: usize,
}

/// The SHA1 that `digits` spell, as EVALSHA takes it: 40 hexadecimal digits in any case.
#[must_use]
pub fn parse_sha(digits: &[u8]) -> Option<Sha> {
    let digits: &[u8; 40] = digits.try_into().ok()?;
    let mut sha = Sha::default();
    for (byte, pair) in sha.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        let digit =
            |digit: &u8| char::from(*digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(sha)
}

/// The digits of a SHA1, as Redis shows them.
pub(crate) fn hex(sha: &Sha) -> String {
    sha.iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl Scripts ===

impl Scripts {
    /// Remembers nothing yet, and never more than `memory` says.
    #[must_use]
    pub fn new(memory: &MemorySettings) -> Self {
        Self {
            by_sha: DashMap::new(),
            by_content: DashMap::new(),
            hasher: RandomState::default(),
            order: Mutex::default(),
            flushes: AtomicU64::new(0),
            bytes_max: memory.script_bytes_total,
            script_bytes_max: memory.script_bytes,
        }
    }

    /// The node has taken `source` from `identity`. Returns its name; `None` if it is not
    /// remembered.
    pub fn learn(&self, identity: Identity, source: &[u8]) -> Option<Sha> {
        if source.len() > self.script_bytes_max || cost(source.len()) > self.bytes_max {
            return None;
        }
        let hash = self.hasher.hash_one(source);
        let sha = match self.by_content.get(&hash).map(|sha| *sha) {
            Some(sha) if self.own(&sha, identity, source) => return Some(sha),
            _ => sha1(source),
        };
        // The other half of a collision of the quick hash; of one of SHA1 the first stays, as in
        // Redis.
        if !self.own(&sha, identity, source) {
            self.insert(sha, hash, identity, source);
        }
        Some(sha)
    }

    /// The source of `sha`, if `identity` has sent it itself.
    #[must_use]
    pub fn source(&self, sha: &Sha, identity: Identity) -> Option<Bytes> {
        let script = self.by_sha.get(sha)?;
        let is_owner = script.owners.load(Ordering::Relaxed) & bit(identity) != 0;
        script.touch();
        is_owner.then(|| script.source.clone())
    }

    /// `sha` was called: it is kept longer than what nobody calls.
    pub fn touch(&self, sha: &Sha) {
        if let Some(script) = self.by_sha.get(sha) {
            script.touch();
        }
    }

    /// The node does not take this script from `identity`: it is not offered again before that
    /// sends it itself.
    pub fn disown(&self, sha: &Sha, identity: Identity) {
        if let Some(script) = self.by_sha.get(sha) {
            script.owners.fetch_and(!bit(identity), Ordering::Relaxed);
        }
    }

    /// Forgets everything: SCRIPT FLUSH, or another upstream.
    pub fn flush(&self) {
        let mut order = self.order();
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.by_content.clear();
        self.by_sha.clear();
        *order = Order::default();
        self.publish(&order);
    }

    /// How often everything was forgotten.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Number of scripts, and what they cost in bytes.
    #[must_use]
    pub fn totals(&self) -> (usize, usize) {
        let order = self.order();
        (order.queue.len(), order.bytes)
    }

    /// Notes that `identity` has sent this very source. Returns false if it is not here.
    fn own(&self, sha: &Sha, identity: Identity, source: &[u8]) -> bool {
        let Some(script) = self.by_sha.get(sha).filter(|script| script.source == source) else {
            return false;
        };
        script.owners.fetch_or(bit(identity), Ordering::Relaxed);
        script.touch();
        true
    }

    fn insert(&self, sha: Sha, hash: u64, identity: Identity, source: &[u8]) {
        let mut order = self.order();
        if self.by_sha.contains_key(&sha) {
            // Another worker was quicker.
            return;
        }
        // Before it joins: where everything else is in use it would be the next to go.
        self.evict(&mut order, cost(source.len()));
        let script = Script {
            source: Bytes::copy_from_slice(source),
            hash,
            owners: AtomicU32::new(bit(identity)),
            is_used: AtomicBool::new(false),
        };
        self.by_sha.insert(sha, script);
        self.by_content.insert(hash, sha);
        order.queue.push_back(sha);
        order.bytes += cost(source.len());
        self.publish(&order);
    }

    /// Makes room for so many bytes. What was used since the hand last passed goes round once more,
    /// so a flood of scripts that run once does not wash away those that are called by name.
    fn evict(&self, order: &mut Order, room: usize) {
        // Twice round at most: others may use scripts as fast as the hand passes.
        let mut rounds = order.queue.len() * 2;
        while order.bytes + room > self.bytes_max
            && let Some(sha) = order.queue.pop_front()
        {
            rounds = rounds.saturating_sub(1);
            let was_used = |script: &Script| script.is_used.swap(false, Ordering::Relaxed);
            let is_spared = self.by_sha.get(&sha).is_some_and(|script| was_used(&script));
            if is_spared && rounds > 0 {
                order.queue.push_back(sha);
            } else if let Some((_, script)) = self.by_sha.remove(&sha) {
                order.bytes = order.bytes.saturating_sub(cost(script.source.len()));
                self.by_content.remove_if(&script.hash, |_, theirs| *theirs == sha);
            }
        }
    }

    fn publish(&self, order: &Order) {
        control::scripts(order.queue.len(), order.bytes);
    }

    /// Every change is whole before the next begins, also where a holder panicked.
    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Script ===

impl Script {
    /// Reads before it writes: a script that all workers call stays in all their caches.
    fn touch(&self) {
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
    }
}

/// What a source of this length takes from the budget.
fn cost(length: usize) -> usize {
    length + ENTRY_BYTES
}

/// The bit of an identity among the owners.
fn bit(identity: Identity) -> u32 {
    // Identity 0 and those of clients.
    const { assert!(IDENTITIES_MAX < 32) };
    1 << identity.number()
}

/// The SHA1 of a source.
pub(crate) fn sha1(source: &[u8]) -> Sha {
    let mut sha = Sha::default();
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, source);
    sha.copy_from_slice(digest.as_ref());
    sha
}

/// Bookkeeping of one script: its places in the two maps and in the queue.
const ENTRY_BYTES: usize = 256;

#[cfg(test)]
mod tests;

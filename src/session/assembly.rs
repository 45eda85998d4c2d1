//! An answer that is put together from the pages of a cursor.
//!
//! Owns what has come so far, each element once, and the question for the next page. Never sends and
//! never waits (`dispatch::rewrite` does). Memory is counted as it is taken, the index of what has
//! been seen included, and bounded by the rule's `max_bytes`.
//!
//! What surprises: elements are kept as the frames that they came in, so a set or a list of keys is
//! its own reply but for the first line. A field that is seen twice with two values keeps its first
//! place and its last value.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::Micros;
use crate::policy::rewrite::Source;
use crate::policy::rule::{Paging, Rule};
use crate::refusal::Refusal;
use crate::resp::frames::{self, Elements};
use crate::resp::write::{self, Protocol};
use crate::topology::slots::NodeId;

/// An answer in the making.
#[derive(Debug)]
pub struct Assembly {
    /// In whose name.
    pub rule: Arc<Rule>,
    /// Of which policy.
    pub version: u64,
    /// When it was asked for.
    pub since: Micros,
    /// The next page is not asked for before that.
    pub not_before: Micros,
    /// Who is read; cursors of anybody else mean something else.
    pub footing: Footing,
    /// The right to be one of few; `None` while it waits for that.
    pub permit: Option<Permit>,
    source: Source,
    /// The key, or the pattern.
    subject: Vec<u8>,
    /// Where the node goes on.
    cursor: Vec<u8>,
    paging: Paging,
    elements: Pile,
}

/// Who is read: which deployment, since which return of its node, and who owns the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footing {
    /// The deployment, or behind Sentinels the primary.
    pub epoch: u64,
    /// How often a single node has come back.
    pub recoveries: u64,
    /// Of a cluster, for what has a key: the owner of its slot.
    pub owner: Option<NodeId>,
}

/// How many answers of a worker are being put together.
#[derive(Debug, Default)]
pub struct Permits(Rc<Cell<usize>>);

/// The right to be one of them.
#[derive(Debug)]
pub struct Permit(Rc<Cell<usize>>);

/// Why an answer cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The node's own error: WRONGTYPE, NOPERM …
    Told(Vec<u8>),
    /// No node could be asked for a page, in words of ours: their first depends on who is told.
    Away(Box<Refusal>),
    /// It is larger than so many bytes.
    Bytes(usize),
    /// It has more elements than so many.
    Elements(u64),
    /// Another server answers now, and knows nothing of the cursor.
    Moved,
    /// A page does not have the shape of one.
    Odd,
}

/// Elements, each once.
#[derive(Debug, Default)]
struct Pile {
    /// Their frames, one behind the other; for a hash also values that were replaced.
    bytes: Vec<u8>,
    /// Of a hash: where each field and its value begin.
    pairs: Vec<(u32, u32)>,
    /// By hash: where an element begins, or which pair it is.
    seen: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    count: u64,
    seed: foldhash::fast::RandomState,
}

/// Keys that are hashes already.
#[derive(Debug, Default)]
struct AsItIs(u64);

// === impl Assembly ===

impl Assembly {
    /// An answer of which nothing is there.
    #[must_use]
    pub fn new(
        (rule, version): (Arc<Rule>, u64),
        (source, subject): (Source, &[u8]),
        (paging, footing): (Paging, Footing),
        now: Micros,
    ) -> Self {
        Self {
            rule,
            version,
            since: now,
            not_before: now,
            footing,
            permit: None,
            source,
            subject: subject.to_vec(),
            cursor: b"0".to_vec(),
            paging,
            elements: Pile::default(),
        }
    }

    /// What it is made of.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// The key, or the pattern.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// How its pages are read.
    #[must_use]
    pub fn paging(&self) -> &Paging {
        &self.paging
    }

    /// The command that asks for the next page.
    #[must_use]
    pub fn question(&self) -> Vec<u8> {
        let (name, page) = (self.source.cursor_command().as_bytes(), self.paging.page.to_string());
        let (cursor, subject) = (&self.cursor[..], &self.subject[..]);
        let mut bytes = Vec::new();
        let words: [&[u8]; 6] = match self.source {
            Source::Keyspace => [name, cursor, b"MATCH", subject, b"COUNT", page.as_bytes()],
            Source::Hash | Source::Set => {
                write::command(&mut bytes, &[name, subject, cursor, b"COUNT", page.as_bytes()]);
                return bytes;
            }
        };
        write::command(&mut bytes, &words);
        bytes
    }

    /// Takes a page. Returns whether it was the last one.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn take(&mut self, page: &[u8]) -> Result<bool, Failure> {
        if frames::is_error(page) {
            return Err(Failure::Told(page.to_vec()));
        }
        let (_, mut parts) = Elements::within(page).ok_or(Failure::Odd)?;
        let cursor = parts.next().and_then(frames::string).ok_or(Failure::Odd)?;
        let (head, mut elements) = parts.next().and_then(Elements::within).ok_or(Failure::Odd)?;
        self.cursor.clear();
        self.cursor.extend_from_slice(cursor);
        // A count that the page does not hold would make us believe that it is empty.
        let mut left = head.number;
        while left > 0 {
            let element = elements.next().ok_or(Failure::Odd)?;
            left -= 1;
            if self.source == Source::Hash {
                let value = elements.next().ok_or(Failure::Odd)?;
                left -= 1;
                self.elements.put(element, value);
            } else {
                self.elements.add(element);
            }
            if self.elements.count > self.paging.max_elements {
                return Err(Failure::Elements(self.paging.max_elements));
            }
            if self.elements.size() > self.paging.max_bytes {
                return Err(Failure::Bytes(self.paging.max_bytes));
            }
        }
        Ok(self.cursor == b"0")
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.elements.held()
    }

    /// The whole reply.
    #[must_use]
    pub fn finish(self, protocol: Protocol) -> Vec<u8> {
        let Pile { bytes, pairs, count, .. } = self.elements;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut reply = Vec::with_capacity(bytes.len() + 16);
        match self.source {
            Source::Keyspace => write::array_header(&mut reply, count),
            Source::Set => write::set_header(&mut reply, protocol, count),
            Source::Hash => {
                write::map_header(&mut reply, protocol, count);
                for (field, value) in pairs {
                    reply.extend_from_slice(frame_at(&bytes, field));
                    reply.extend_from_slice(frame_at(&bytes, value));
                }
                return reply;
            }
        }
        reply.extend_from_slice(&bytes);
        reply
    }
}

// === impl Pile ===

impl Pile {
    /// Adds an element unless it is there.
    fn add(&mut self, element: &[u8]) {
        let at = self.end();
        let is_it = |bytes: &[u8], at| frame_at(bytes, at) == element;
        if self.place(element, at, is_it).is_none() {
            self.bytes.extend_from_slice(element);
        }
    }

    /// Adds a field with its value, or gives a field that is there that value.
    fn put(&mut self, field: &[u8], value: &[u8]) {
        let number = u32::try_from(self.pairs.len()).unwrap_or(u32::MAX);
        let pairs = std::mem::take(&mut self.pairs);
        let at = |number: u32| pairs.get(number as usize).map_or(0, |(field, _)| *field);
        let known = self.place(field, number, |bytes, other| frame_at(bytes, at(other)) == field);
        self.pairs = pairs;
        let Some(known) = known else {
            let start = self.end();
            self.bytes.extend_from_slice(field);
            self.pairs.push((start, self.end()));
            self.bytes.extend_from_slice(value);
            return;
        };
        let end = self.end();
        if let Some((_, old)) = self.pairs.get_mut(known as usize)
            && frame_at(&self.bytes, *old) != value
        {
            *old = end;
            self.bytes.extend_from_slice(value);
        }
    }

    /// Where `element` is; if it is not there, it is noted under `fresh`.
    fn place(
        &mut self,
        element: &[u8],
        fresh: u32,
        is_it: impl Fn(&[u8], u32) -> bool,
    ) -> Option<u32> {
        let mut hash = self.seed.hash_one(element);
        // Two that have the same hash stand in neighbouring places.
        while let Some(&known) = self.seen.get(&hash) {
            if is_it(&self.bytes, known) {
                return Some(known);
            }
            hash = hash.wrapping_add(1);
        }
        self.seen.insert(hash, fresh);
        self.count += 1;
        None
    }

    /// Where the next frame goes. What does not fit the number was refused before: nobody may hold
    /// four gigabytes.
    fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// What counts against `max_bytes`: the same for the same elements, however they came.
    fn size(&self) -> usize {
        self.bytes.len() + self.seen.len() * ELEMENT_BYTES
    }

    /// Memory that it takes.
    fn held(&self) -> usize {
        let pairs = self.pairs.capacity() * size_of::<(u32, u32)>();
        self.bytes.capacity() + pairs + self.seen.capacity() * INDEX_BYTES
    }
}

// === impl Permits ===

impl Permits {
    /// One more, unless there are too many.
    #[must_use]
    pub fn take(&self) -> Option<Permit> {
        let used = self.0.get();
        (used < ASSEMBLIES_MAX).then(|| {
            self.0.set(used + 1);
            Permit(Rc::clone(&self.0))
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

// === impl AsItIs ===

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not used for a `u64`; any other key would still find itself.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The frame that begins there.
fn frame_at(bytes: &[u8], at: u32) -> &[u8] {
    let rest = bytes.get(at as usize..).unwrap_or_default();
    rest.get(..frames::length(rest).unwrap_or(rest.len())).unwrap_or_default()
}

/// Answers that one worker puts together at the same time: so many pages of it are on servers at most.
const ASSEMBLIES_MAX: usize = 8;
/// What an element is taken to cost besides its bytes.
const ELEMENT_BYTES: usize = 32;
/// What the index takes for an element: a hash, a number and the byte of its table.
const INDEX_BYTES: usize = 17;

#[cfg(test)]
mod tests;

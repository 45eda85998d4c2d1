//! What was read in scripts, so that each is read once.
//!
//! Owns the judgements of scripts that clients have sent, shared by all workers and bounded: of those
//! that nobody sends any more the oldest are forgotten. Never keeps a script itself. What surprises: a
//! script is found by a keyed hash of its text, because it comes whole with every EVAL and its SHA1
//! would cost more than everything else that is done about it.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;

use super::SCRIPT_BYTES_MAX;
use super::lint::{Call, lint};
use crate::resp::write;
use crate::scripts::{Sha, sha1};
use crate::stats::control;

/// What is known of a script.
#[derive(Debug)]
pub struct Read {
    /// Its name to EVALSHA.
    pub sha: Sha,
    /// Of a loop without end: where and which, in words.
    pub endless: Option<String>,
    /// What it calls by literal names, each once, as whole commands.
    pub calls: Vec<Literal>,
    /// The policy and deployment for which no rule speaks of any of them; 0: for none.
    pub quiet_for: AtomicU64,
}

/// A command that a script calls by its literal name.
#[derive(Debug)]
pub struct Literal {
    /// Its literal words, as a client would send them.
    pub frame: Vec<u8>,
    /// Whether those are all.
    pub is_whole: bool,
    /// Its line in the script.
    pub line: u32,
}

/// The judgements of many scripts.
#[derive(Debug, Default)]
pub struct Library {
    /// Two different keys make one of 128 bits: nobody can make two scripts with the same.
    hashers: [RandomState; 2],
    shelves: Mutex<Shelves>,
}

/// Two generations: what was asked for since the younger one began, and what was before. When the
/// younger one is full it becomes the older one, and what nobody asked for in between is gone.
#[derive(Debug, Default)]
struct Shelves {
    young: Shelf,
    old: Shelf,
}

#[derive(Debug, Default)]
struct Shelf {
    by_text: HashMap<u128, Arc<Read>>,
    by_sha: HashMap<Sha, Arc<Read>>,
}

// === impl Library ===

impl Library {
    /// What is in a script, which is read now if it was not before; `None`: it is too long for that.
    #[must_use]
    pub fn read(&self, source: &[u8]) -> Option<Arc<Read>> {
        if source.len() > SCRIPT_BYTES_MAX {
            control::script_unread();
            return None;
        }
        let key = self.key(source);
        let known = self.lock().find(key);
        if known.is_some() {
            return known;
        }
        // Not under the lock: reading takes as long as the script is.
        let read = Arc::new(Read::new(source));
        self.lock().put(key, &read);
        Some(read)
    }

    /// What is in the script of that name, if somebody has sent it.
    #[must_use]
    pub fn named(&self, sha: &Sha) -> Option<Arc<Read>> {
        let shelves = self.lock();
        [&shelves.young, &shelves.old].iter().find_map(|shelf| shelf.by_sha.get(sha).cloned())
    }

    fn key(&self, source: &[u8]) -> u128 {
        let [first, second] = &self.hashers;
        u128::from(first.hash_one(source)) << 64 | u128::from(second.hash_one(source))
    }

    /// Every change is whole before the next begins, also where a holder panicked.
    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Shelves ===

impl Shelves {
    /// What is known of a script, which joins the younger generation by being asked for.
    fn find(&mut self, key: u128) -> Option<Arc<Read>> {
        if let Some(read) = self.young.by_text.get(&key) {
            return Some(Arc::clone(read));
        }
        let read = Arc::clone(self.old.by_text.get(&key)?);
        self.put(key, &read);
        Some(read)
    }

    fn put(&mut self, key: u128, read: &Arc<Read>) {
        if self.young.by_text.len() >= SHELF_SCRIPTS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.by_text.insert(key, Arc::clone(read));
        self.young.by_sha.insert(read.sha, Arc::clone(read));
    }
}

// === impl Read ===

impl Read {
    /// Reads a script, for nobody to remember.
    #[must_use]
    pub fn new(source: &[u8]) -> Self {
        let lint = lint(source);
        let endless = lint.endless().map(|it| format!("line {}: {}", it.position.line, it.text));
        let mut calls: Vec<Literal> = Vec::new();
        let mut room = CALLS_BYTES_MAX;
        for call in &lint.calls {
            let literal = Literal::of(call);
            let Some(left) = room.checked_sub(literal.frame.len()) else {
                break;
            };
            if !calls.iter().any(|it| it.frame == literal.frame && it.is_whole == call.is_whole) {
                calls.push(literal);
                room = left;
            }
        }
        Self { sha: sha1(source), endless, calls, quiet_for: AtomicU64::default() }
    }
}

// === impl Literal ===

impl Literal {
    fn of(call: &Call) -> Self {
        let words: Vec<&[u8]> = call.words.iter().map(Vec::as_slice).collect();
        let mut frame = Vec::new();
        write::command(&mut frame, &words);
        Self { frame, is_whole: call.is_whole, line: call.position.line }
    }
}

/// Bytes of a script's calls that are kept, as many as a few hundred different calls have. A script that
/// hides one behind as many others could as well have computed its name.
const CALLS_BYTES_MAX: usize = 16 << 10;
/// Scripts of a generation. A program has a few dozen.
const SHELF_SCRIPTS: usize = 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_once_and_found_by_its_name() {
        let library = Library::default();
        let source = b"redis.call('GET', KEYS[1]) redis.call('GET', KEYS[2]) while true do end";
        let read = library.read(source).unwrap();
        assert!(Arc::ptr_eq(&read, &library.read(source).unwrap()));
        assert!(Arc::ptr_eq(&read, &library.named(&sha1(source)).unwrap()));
        assert!(read.endless.as_ref().unwrap().starts_with("line 1: loop without end"));
        assert_eq!(read.calls.len(), 1, "the same call counts once");
        assert!(library.named(&[7; 20]).is_none());
        assert!(library.read(&vec![b' '; SCRIPT_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn of_a_huge_script_little_is_kept() {
        let library = Library::default();
        let bytes = |read: &Read| read.calls.iter().map(|it| it.frame.capacity()).sum::<usize>();
        let long = "x".repeat(SCRIPT_BYTES_MAX - 100);
        let one = library.read(format!("redis.call('SET', 'k', '{long}')").as_bytes()).unwrap();
        assert!(bytes(&one) < 100 && !one.calls[0].is_whole, "{}", bytes(&one));
        assert!(library.read(format!("redis.call '{long}'").as_bytes()).unwrap().calls.is_empty());
        let call = |number: usize| format!("redis.call('SET', 'k{number:0200}', '{number}')\n");
        let many: String = (0..900).map(call).collect();
        let many = library.read(many.as_bytes()).unwrap();
        assert!(bytes(&many) <= 2 * CALLS_BYTES_MAX, "{}", bytes(&many));
        assert!(many.calls.len() > 50, "{}", many.calls.len());
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten_and_the_rest_is_kept() {
        let library = Library::default();
        let kept = library.read(b"return 'kept'").unwrap();
        library.read(b"return 'lost'").unwrap();
        for number in 0..3 * SHELF_SCRIPTS {
            library.read(format!("return {number}").as_bytes()).unwrap();
            if number % 1_000 == 0 {
                assert!(Arc::ptr_eq(&kept, &library.read(b"return 'kept'").unwrap()));
            }
        }
        assert!(library.named(&sha1(b"return 'lost'")).is_none());
        let shelves = library.lock();
        let count = shelves.young.by_text.len() + shelves.old.by_text.len();
        assert!(count <= 2 * SHELF_SCRIPTS + 1, "{count}");
    }
}

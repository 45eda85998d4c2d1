//! Libraries of functions that clients have loaded, to be loaded again into a node that has come
//! back empty.
//!
//! Owns their names and sources, within the same bound as all scripts. Never loads one: the control
//! plane does, where `[upstream] restore_functions` allows it (`topology::restore`). A library
//! arrives with a FUNCTION LOAD that succeeded and leaves with a FUNCTION DELETE, FLUSH or RESTORE
//! that did.
//!
//! What surprises: only what the upstream's own user has loaded is kept, because that is who loads
//! it again: one client's code must not run with another's rights.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::command::spec::{CommandId, builtin_id};
use crate::config::MemorySettings;
use crate::resp::request::arguments;
use crate::upstream::identity::Identity;

/// The libraries of all workers.
#[derive(Debug)]
pub struct Libraries {
    /// Name → source, as FUNCTION LOAD took it.
    known: Mutex<BTreeMap<Vec<u8>, Bytes>>,
    /// Bound of names and sources together.
    bytes_max: usize,
}

// === impl Libraries ===

impl Libraries {
    /// Remembers nothing yet, and never more than `memory` says.
    #[must_use]
    pub fn new(memory: &MemorySettings) -> Self {
        Self { known: Mutex::default(), bytes_max: memory.script_bytes_total }
    }

    /// A FUNCTION command of `identity`, `frame`, has succeeded with `reply`.
    pub fn note(&self, identity: Identity, command: CommandId, frame: &[u8], reply: &[u8]) {
        match command {
            LOAD if identity == Identity::UPSTREAM => {
                if let (Some(name), Some(code)) = (bulk(reply), arguments(frame).last()) {
                    self.insert(name, code);
                }
            }
            // Somebody else's library took the place of ours.
            LOAD => drop(bulk(reply).and_then(|name| self.known().remove(name))),
            DELETE => drop(arguments(frame).nth(2).and_then(|name| self.known().remove(name))),
            FLUSH => self.clear(),
            // What a dump holds is not ours to read; what it may have replaced is not what we
            // remember.
            RESTORE if replaces(frame) => self.clear(),
            _ => {}
        }
    }

    /// Names and sources of all of them.
    #[must_use]
    pub fn all(&self) -> Vec<(Vec<u8>, Bytes)> {
        self.known().iter().map(|(name, code)| (name.clone(), code.clone())).collect()
    }

    /// Forgets everything: FUNCTION FLUSH, or another upstream.
    pub fn clear(&self) {
        self.known().clear();
    }

    /// A library that does not fit is not remembered, and neither is what it has replaced.
    fn insert(&self, name: &[u8], code: &[u8]) {
        let mut known = self.known();
        known.remove(name);
        let held: usize = known.iter().map(|(name, code)| name.len() + code.len()).sum();
        if held + name.len() + code.len() <= self.bytes_max {
            known.insert(name.to_vec(), Bytes::copy_from_slice(code));
        }
    }

    /// Every change is a single one, so the map is whole even if a holder panicked.
    fn known(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Bytes>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content of a bulk or simple string; the same in both versions.
fn bulk(reply: &[u8]) -> Option<&[u8]> {
    let content = match reply.first()? {
        b'$' => reply.splitn(2, |&byte| byte == b'\n').nth(1)?,
        b'+' => reply.get(1..)?,
        _ => return None,
    };
    content.strip_suffix(b"\r\n")
}

/// Whether a FUNCTION RESTORE may have put something in the place of what was there.
fn replaces(frame: &[u8]) -> bool {
    let policy = arguments(frame).nth(3).unwrap_or_default();
    policy.eq_ignore_ascii_case(b"flush") || policy.eq_ignore_ascii_case(b"replace")
}

const LOAD: CommandId = builtin_id("function|load");
const DELETE: CommandId = builtin_id("function|delete");
const FLUSH: CommandId = builtin_id("function|flush");
const RESTORE: CommandId = builtin_id("function|restore");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::write;
    use crate::upstream::identity::{Identities, Presented};

    fn libraries(bytes: usize) -> Libraries {
        Libraries::new(&MemorySettings { script_bytes_total: bytes, ..MemorySettings::default() })
    }

    fn note(libraries: &Libraries, identity: Identity, command: CommandId, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut frame = Vec::new();
        write::command(&mut frame, &words);
        libraries.note(identity, command, &frame, b"$3\r\nlib\r\n");
    }

    fn names(libraries: &Libraries) -> Vec<String> {
        let all = libraries.all().into_iter();
        all.map(|(name, code)| format!("{name:?}={code:?}").replace("b\"", "\"")).collect()
    }

    fn load(libraries: &Libraries, code: &str) {
        note(libraries, Identity::UPSTREAM, LOAD, &["FUNCTION", "LOAD", "REPLACE", code]);
    }

    #[test]
    fn what_was_loaded_last_is_kept_until_it_is_deleted() {
        let known = libraries(1000);
        load(&known, "one");
        load(&known, "two");
        assert_eq!(known.all(), [(b"lib".to_vec(), Bytes::from_static(b"two"))]);
        note(&known, Identity::UPSTREAM, DELETE, &["FUNCTION", "DELETE", "other"]);
        assert_eq!(names(&known).len(), 1);
        note(&known, Identity::UPSTREAM, DELETE, &["FUNCTION", "DELETE", "lib"]);
        assert_eq!(names(&known).len(), 0);
    }

    #[test]
    fn a_flush_and_a_dump_that_may_replace_forget_everything() {
        for (command, words, is_left) in [
            (FLUSH, &["FUNCTION", "FLUSH", "ASYNC"][..], false),
            (RESTORE, &["FUNCTION", "RESTORE", "dump", "Replace"], false),
            (RESTORE, &["FUNCTION", "RESTORE", "dump", "flush"], false),
            (RESTORE, &["FUNCTION", "RESTORE", "dump", "APPEND"], true),
            (RESTORE, &["FUNCTION", "RESTORE", "dump"], true),
        ] {
            let known = libraries(1000);
            load(&known, "one");
            note(&known, Identity::UPSTREAM, command, words);
            assert_eq!(!known.all().is_empty(), is_left, "{words:?}");
        }
    }

    #[test]
    fn the_bound_holds_and_what_does_not_fit_leaves_nothing_outdated_behind() {
        let known = libraries(10);
        load(&known, "1234567");
        assert_eq!(known.all().len(), 1);
        load(&known, "12345678");
        assert_eq!(known.all().len(), 0);
    }

    #[test]
    fn another_users_library_is_not_kept_and_takes_the_place_of_ours() {
        let presented = Presented { user: Some(b"ann".to_vec()), password: b"x".to_vec() };
        let ann = Identities::default().confirm(&presented, 0).unwrap();
        let known = libraries(1000);
        load(&known, "one");
        note(&known, ann, LOAD, &["FUNCTION", "LOAD", "REPLACE", "hers"]);
        assert_eq!(known.all().len(), 0);
    }
}

//! Our own credentials, in generations: the newest password, and the one before it.
//!
//! Owns what the password source (file, variable, configuration) said last and before that, which
//! nodes refuse the newest, and the words for it. Never dials: a dial asks [`Keyring::keys`] and
//! reports what became of each. At most two passwords are kept (INV-4), never shown (INV-11).
//!
//! What surprises: a source that cannot be read changes nothing. Whoever replaces a mounted secret
//! removes the old file a moment before the new one is there, and in that moment everything works
//! on. And a password that is back after a rollback is a generation of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::{Credentials, SecretError};
use crate::events;
use crate::stats::control;
use crate::upstream::identity::Presented;

/// Who we are to the nodes of a deployment.
#[derive(Debug)]
pub struct Keyring {
    state: Mutex<State>,
    /// That of the newest key; read on every tick without the lock.
    generation: AtomicU64,
}

/// What is presented to a node, and how new it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Rises with each change.
    pub generation: u64,
    /// `None`: nothing is presented, because nothing is configured.
    pub presented: Option<Presented>,
}

#[derive(Debug)]
struct State {
    source: Option<Credentials>,
    /// `None` until the source has been read.
    newest: Option<Key>,
    /// What `newest` has replaced, if that was a password.
    previous: Option<Key>,
    /// Why the source could not be read the last time.
    unreadable: Option<String>,
    /// Nodes that refuse the newest key, and their words.
    refused: BTreeMap<String, String>,
}

/// Nodes whose refusal is remembered by name; a wrong password needs no more to be found.
const REFUSED_MAX: usize = 16;

// === impl Keyring ===

impl Keyring {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(source: Option<Credentials>) -> Self {
        let state = State {
            source,
            newest: None,
            previous: None,
            unreadable: None,
            refused: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), generation: AtomicU64::new(0) }
    }

    /// What to present to a node, in this order. Reads the source, so it blocks on the file system.
    ///
    /// # Errors
    /// If the source has never been readable.
    pub fn keys(&self) -> Result<(Key, Option<Key>), SecretError> {
        let mut state = self.state();
        let looked = self.look_at(&mut state);
        // What was read before is better than nothing.
        if let Some(newest) = &state.newest {
            return Ok((newest.clone(), state.previous.clone()));
        }
        looked.map(|()| (Key { generation: self.generation(), presented: None }, None))
    }

    /// Reads the source again, as the control plane does every second.
    pub fn look(&self) {
        let mut state = self.state();
        let complaint = self.look_at(&mut state).err().map(|error| error.to_string());
        if complaint != state.unreadable {
            if let Some(words) = &complaint {
                events::password_unreadable(words);
            }
            state.unreadable = complaint;
        }
    }

    /// Takes what a changed configuration says.
    pub fn replace(&self, source: Option<Credentials>) {
        let mut state = self.state();
        state.source = source;
        let _ = self.look_at(&mut state);
    }

    /// The generation of the newest key.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A node has refused the newest key, in these words.
    pub fn note_refused(&self, key: &Key, node: &str, words: &str) {
        control::credentials_refused();
        let mut state = self.state();
        if key.generation != self.generation() {
            return;
        }
        let has_room = state.refused.len() < REFUSED_MAX;
        if !state.refused.contains_key(node) && has_room {
            state.refused.insert(node.to_owned(), words.to_owned());
            events::credentials_refused(node, words);
        }
    }

    /// A node has accepted a key.
    pub fn note_accepted(&self, key: &Key, node: &str) {
        let mut state = self.state();
        if key.generation != self.generation() {
            control::previous_credentials_used();
        } else if state.refused.remove(node).is_some() {
            events::credentials_accepted(node);
        }
    }

    /// What is wrong, in words with the next step; `None` while nothing is.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        let state = self.state();
        if let Some((node, words)) = state.refused.first_key_value() {
            let others = match state.refused.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            return Some(format!(
                "credentials: {node}{others} refuses the newest password for this upstream ({words}): \
                 add it with ACL SETUSER, or put the right one where its table reads it"
            ));
        }
        state.unreadable.as_ref().map(|words| {
            format!("credentials: {words}; the password that was read before stays in use")
        })
    }

    fn look_at(&self, state: &mut State) -> Result<(), SecretError> {
        let presented = match &state.source {
            None => None,
            Some(credentials) => Some(Presented {
                user: credentials.user.as_ref().map(|user| user.clone().into_bytes()),
                password: credentials.password.read()?.expose().to_vec(),
            }),
        };
        if state.newest.as_ref().is_some_and(|newest| newest.presented == presented) {
            return Ok(());
        }
        let is_nobody = presented.is_none();
        let generation = self.generation() + 1;
        let replaced = state.newest.replace(Key { generation, presented });
        if replaced.is_some() {
            control::credentials_rotated();
            events::credentials_rotated();
        }
        // To come without a password where one is configured, or the reverse, would be to come as
        // somebody else.
        state.previous = replaced.filter(|key| key.presented.is_some() && !is_nobody);
        state.refused.clear();
        self.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// Every change leaves the state whole, so a panic elsewhere does not matter.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::config::scratch::Folder;

    fn of_file(folder: &Folder, content: &str) -> Keyring {
        let password = Secret::File(folder.write("password", content));
        Keyring::new(Some(Credentials { user: Some("app".into()), password }))
    }

    fn password(key: &Key) -> &[u8] {
        &key.presented.as_ref().unwrap().password
    }

    #[test]
    fn the_newest_comes_first_and_only_one_before_it_is_kept() {
        let folder = Folder::new();
        let keyring = of_file(&folder, "one\n");
        let (newest, previous) = keyring.keys().unwrap();
        assert_eq!((password(&newest), newest.generation, previous), (&b"one"[..], 1, None));
        for (number, content) in [(2, "two"), (3, "three")] {
            folder.write("password", content);
            keyring.look();
            assert_eq!(keyring.generation(), number);
        }
        let (newest, previous) = keyring.keys().unwrap();
        assert_eq!((password(&newest), password(&previous.unwrap())), (&b"three"[..], &b"two"[..]));
        // The same content, written again, is no rotation; a rollback is one.
        folder.write("password", "three\n");
        keyring.look();
        assert_eq!(keyring.generation(), 3);
        folder.write("password", "two");
        let (newest, previous) = keyring.keys().unwrap();
        assert_eq!((password(&newest), newest.generation), (&b"two"[..], 4));
        assert_eq!(password(&previous.unwrap()), b"three");
    }

    #[test]
    fn a_file_that_is_gone_for_a_moment_changes_nothing_and_is_said() {
        let folder = Folder::new();
        let keyring = of_file(&folder, "one");
        keyring.keys().unwrap();
        std::fs::remove_file(folder.path("password")).unwrap();
        keyring.look();
        assert_eq!(password(&keyring.keys().unwrap().0), b"one");
        assert!(keyring.alarm().unwrap().contains("cannot be read"));
        folder.write("password", "one");
        keyring.look();
        assert_eq!((keyring.alarm(), keyring.generation()), (None, 1));
        let folder = Folder::new();
        let missing = Secret::File(folder.path("nothing"));
        assert!(Keyring::new(Some(Credentials { user: None, password: missing })).keys().is_err());
    }

    #[test]
    fn a_refusal_is_an_alarm_until_that_node_accepts_the_newest() {
        let folder = Folder::new();
        let keyring = of_file(&folder, "one");
        let (old, _) = keyring.keys().unwrap();
        folder.write("password", "two");
        let (new, _) = keyring.keys().unwrap();
        keyring.note_refused(&old, "a:1", "WRONGPASS");
        assert_eq!(keyring.alarm(), None, "the old one may be refused");
        keyring.note_refused(&new, "a:1", "WRONGPASS no");
        keyring.note_refused(&new, "b:1", "WRONGPASS no");
        let words = keyring.alarm().unwrap();
        // Whose it is stands before the line: it may be one of `[upstreams]`.
        assert!(!words.contains("[upstream]"), "{words}");
        assert!(words.contains("a:1 and 1 more refuses") && !words.contains("two"), "{words}");
        keyring.note_accepted(&old, "a:1");
        keyring.note_accepted(&new, "b:1");
        assert!(keyring.alarm().unwrap().contains("a:1 refuses"));
        keyring.note_accepted(&new, "a:1");
        assert_eq!(keyring.alarm(), None);
    }

    #[test]
    fn a_password_that_is_no_longer_configured_is_not_tried() {
        let folder = Folder::new();
        let keyring = Keyring::new(None);
        assert_eq!(keyring.keys().unwrap().0.presented, None);
        let password = Secret::File(folder.write("password", "one"));
        keyring.replace(Some(Credentials { user: None, password }));
        let (newest, previous) = keyring.keys().unwrap();
        assert_eq!((newest.generation, previous), (2, None));
        keyring.replace(None);
        let (newest, previous) = keyring.keys().unwrap();
        assert_eq!((newest.presented, previous), (None, None));
    }
}

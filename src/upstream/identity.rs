//! Who a client is to the node, and which passwords the node has confirmed.
//!
//! Owns the numbering of identities (lanes are keyed by them), the credentials behind each, and the
//! confirmations of `auth = "passthrough"`, shared by all workers. Never logs a password, never
//! keeps a confirmation longer than a minute, never holds more than a fixed number of identities
//! (INV-9).
//!
//! What surprises: the password of a pass-through identity is kept in memory, because its lanes
//! must be dialled again after a loss; the confirmation itself is a salted hash, so that looking
//! one up compares no passwords.

use std::sync::{Mutex, PoisonError};

use dashmap::DashMap;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use crate::clock::{self, Micros};

/// Number of an identity; identity 0 is that of the upstream's own URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity(u16);

/// A user and its password, as a client presented them.
#[derive(Clone, PartialEq, Eq)]
pub struct Presented {
    /// User name; `None` when AUTH had only a password, which means `default`.
    pub user: Option<Vec<u8>>,
    /// Password in the clear.
    pub password: Vec<u8>,
}

/// All identities of the process.
#[derive(Debug)]
pub struct Identities {
    /// Credentials of identity n at place n - 1. Locked only by AUTH and by dials.
    known: Mutex<Vec<Presented>>,
    /// Salted hash of user and password → which identity, and when the node confirmed it.
    confirmed: DashMap<[u8; 32], (Identity, Micros)>,
    /// Salted hash of what the node has just refused → its words, and when.
    refused: DashMap<[u8; 32], (String, Micros)>,
    salt: [u8; 32],
}

/// More distinct users than [`IDENTITIES_MAX`] asked for lanes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many identities: at most {IDENTITIES_MAX} users can have connections of their own")]
pub struct TooManyIdentities;

/// Most identities of a process; each may open lanes of its own (INV-9).
pub const IDENTITIES_MAX: usize = 16;

/// How long the node's refusal is repeated without asking again.
const REFUSED_FOR: Micros = clock::SECOND;

/// Refused credentials that are remembered at a time.
const REFUSED_MAX: usize = 1024;

/// How long the node's confirmation of a password is believed.
const CONFIRMED_FOR: Micros = 60 * clock::SECOND;

// === impl Identity ===

impl Identity {
    /// Who the upstream's URL says we are; also every client when the node asks for no password.
    pub const UPSTREAM: Self = Self(0);

    /// Its number; at most [`IDENTITIES_MAX`].
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

// === impl Presented ===

impl Presented {
    /// The user, spelled out: AUTH with a password alone means `default`.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        self.user.as_deref().unwrap_or(b"default")
    }
}

impl std::fmt::Debug for Presented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // INV-11: never a password, not even in a debug line.
        f.debug_struct("Presented").field("user", &self.user.is_some()).finish_non_exhaustive()
    }
}

// === impl Identities ===

impl Default for Identities {
    fn default() -> Self {
        let mut salt = [0; 32];
        // Without randomness the hash is unsalted: weaker, but it never leaves this process.
        let _ = SystemRandom::new().fill(&mut salt);
        let (confirmed, refused) = (DashMap::new(), DashMap::new());
        Self { known: Mutex::new(Vec::new()), confirmed, refused, salt }
    }
}

impl Identities {
    /// The identity of these credentials, if the node confirmed them within the last minute.
    #[must_use]
    pub fn lookup(&self, presented: &Presented, now: Micros) -> Option<Identity> {
        let (identity, at) = *self.confirmed.get(&self.hash(presented))?;
        (now.saturating_sub(at) < CONFIRMED_FOR).then_some(identity)
    }

    /// Remembers that the node confirmed these credentials at `now`.
    ///
    /// # Errors
    /// [`TooManyIdentities`] if they are new and the table is full.
    pub fn confirm(
        &self,
        presented: &Presented,
        now: Micros,
    ) -> Result<Identity, TooManyIdentities> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // One identity a user: a rotated password replaces the one that lanes were dialled with
        // before.
        let place = match known.iter().position(|one| one.user() == presented.user()) {
            Some(place) => {
                if let Some(one) = known.get_mut(place) {
                    one.clone_from(presented);
                }
                place
            }
            None if known.len() >= IDENTITIES_MAX => return Err(TooManyIdentities),
            None => {
                known.push(presented.clone());
                known.len() - 1
            }
        };
        let identity = Identity(u16::try_from(place + 1).map_err(|_| TooManyIdentities)?);
        self.confirmed.insert(self.hash(presented), (identity, now));
        Ok(identity)
    }

    /// The node's words if it refused these credentials within the last second: a client that tries
    /// again and again with a wrong password is not worth a dial each time.
    #[must_use]
    pub fn refusal(&self, presented: &Presented, now: Micros) -> Option<String> {
        let entry = self.refused.get(&self.hash(presented))?;
        (now.saturating_sub(entry.1) < REFUSED_FOR).then(|| entry.0.clone())
    }

    /// Remembers that the node refused these credentials.
    pub fn refuse(&self, presented: &Presented, words: &str, now: Micros) {
        if self.refused.len() >= REFUSED_MAX {
            self.refused.retain(|_, (_, at)| now.saturating_sub(*at) < REFUSED_FOR);
        }
        if self.refused.len() < REFUSED_MAX {
            self.refused.insert(self.hash(presented), (words.to_owned(), now));
        }
    }

    /// Any credentials that the node has confirmed: what the control plane may ask its questions
    /// with.
    #[must_use]
    pub fn any(&self) -> Option<Presented> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    /// The credentials with which lanes of this identity are dialled; `None` for the upstream's
    /// own.
    #[must_use]
    pub fn presented(&self, identity: Identity) -> Option<Presented> {
        let place = usize::from(identity.0).checked_sub(1)?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(place).cloned()
    }

    fn hash(&self, presented: &Presented) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.salt);
        // AUTH with and without a user name are one user, but a node without passwords answers them
        // differently.
        context.update(&[u8::from(presented.user.is_some())]);
        // The length separates user from password; without it `ab`+`c` would be `a`+`bc`.
        let user = presented.user();
        context.update(&(user.len() as u64).to_le_bytes());
        context.update(user);
        context.update(&presented.password);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(user: &str, password: &str) -> Presented {
        Presented { user: Some(user.into()), password: password.into() }
    }

    #[test]
    fn a_confirmation_lasts_a_minute_and_only_for_that_password() {
        let identities = Identities::default();
        let ann = presented("ann", "secret");
        let identity = identities.confirm(&ann, 0).unwrap();
        assert_eq!(identities.lookup(&ann, 59 * clock::SECOND), Some(identity));
        assert_eq!(identities.lookup(&ann, 60 * clock::SECOND), None);
        assert_eq!(identities.lookup(&presented("ann", "other"), 0), None);
        assert_eq!(identities.lookup(&presented("anns", "ecret"), 0), None);
        assert_eq!(identities.presented(identity), Some(ann));
        assert_eq!(identities.presented(Identity::UPSTREAM), None);
    }

    #[test]
    fn a_rotated_password_keeps_the_identity_and_default_has_two_spellings() {
        let identities = Identities::default();
        let old = identities.confirm(&presented("ann", "old"), 0).unwrap();
        assert_eq!(identities.confirm(&presented("ann", "new"), 0), Ok(old));
        assert_eq!(identities.presented(old), Some(presented("ann", "new")));
        let unnamed = Presented { user: None, password: b"x".to_vec() };
        let default = identities.confirm(&unnamed, 0).unwrap();
        assert_eq!(identities.confirm(&presented("default", "x"), 0), Ok(default));
    }

    #[test]
    fn a_refusal_is_repeated_for_a_second() {
        let identities = Identities::default();
        let eve = presented("eve", "guess");
        identities.refuse(&eve, "WRONGPASS no", 0);
        assert_eq!(identities.refusal(&eve, clock::SECOND - 1).as_deref(), Some("WRONGPASS no"));
        assert_eq!(identities.refusal(&eve, clock::SECOND), None);
        assert_eq!(identities.refusal(&presented("eve", "other"), 0), None);
    }

    #[test]
    fn the_number_of_identities_is_bounded() {
        let identities = Identities::default();
        for number in 0..IDENTITIES_MAX {
            identities.confirm(&presented(&number.to_string(), "x"), 0).unwrap();
        }
        assert_eq!(identities.confirm(&presented("more", "x"), 0), Err(TooManyIdentities));
        assert!(identities.confirm(&presented("3", "x"), 0).is_ok());
    }

    #[test]
    fn no_password_shows_up_in_a_debug_line() {
        assert!(!format!("{:?}", presented("ann", "secret")).contains("secret"));
    }
}

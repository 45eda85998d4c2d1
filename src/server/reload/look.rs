//! One look at the policy file: from its bytes to a policy that can be published.
//!
//! Owns the reading, the comparison with what is in force and the laying out, and the manner in which
//! such long work is done. Never publishes, and never runs on a thread that anybody waits for.
//!
//! What surprises: the work is done in spells, with a rest behind each. A worker whose processor is
//! taken waits until the kernel gives it back, which may be some milliseconds later; who rests often is
//! soon out of its way. And freeing thousands of rules is such work as well, and so is the digest of a
//! large file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::policy::Wanted;
use crate::clock::{self, Micros};
use crate::config::source::Source;
use crate::config::{Complaint, Profile, content_hash};
use crate::policy::diff::{Diff, carried_over, keyspaces_carried_over};
use crate::policy::keyspace::Keyspace;
use crate::policy::rule::Rule;
use crate::policy::{self, Pause, Policy, file};

/// The lasting part of a policy: what a file and a profile say.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// How much of it is enforced.
    pub(super) profile: Profile,
    /// The file's rules, and the catalogue's behind them.
    pub(super) rules: Rules,
    /// The file's classes of data.
    pub(super) keyspaces: Arc<[Arc<Keyspace>]>,
    /// What is allowed in the file but deserves a warning.
    pub(super) notes: Arc<[Complaint]>,
    /// The file, as pages show it; `None`: there is none.
    pub(super) source: Option<String>,
    /// What its bytes were.
    pub(super) hash: Hash,
}

/// Rules that several standing parts and threads may have.
pub(super) type Rules = Arc<Vec<Arc<Rule>>>;

/// SHA-256 of a file; `None` without one. Of a file that cannot be read it is that of the complaint, so
/// that each is told once.
pub(super) type Hash = Option<[u8; 32]>;

/// What a look at the file has shown.
pub(super) enum Look {
    /// The same bytes as before.
    Untouched,
    /// It cannot be used.
    Refused(Hash, Vec<Complaint>),
    /// It says what is in force.
    Same(Hash),
    /// It says something else.
    Other(Box<(Standing, Diff, Policy)>),
}

/// One look at the file.
pub(super) struct Errand {
    /// Which file, and which profile.
    pub(super) wanted: Wanted,
    /// Bytes with this digest need not be judged again.
    pub(super) seen: Hash,
    /// Somebody wants them judged all the same, and what is wrong with them told again.
    pub(super) is_asked: bool,
    /// What is in force: what stays the same is carried over from it.
    pub(super) standing: Standing,
    /// Rules of operators for the moment, which stand in front.
    pub(super) emergencies: Vec<Arc<Rule>>,
    /// What the next policy is called.
    pub(super) version: u64,
}

/// A spell of work.
struct Spell {
    /// When it began.
    since: Micros,
    /// How long it may be.
    length: Micros,
}

/// Does long work on a thread of its own, in spells. `None`: it has panicked.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce(Pause<'_>) -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(move || in_spells(work)).await.ok()
}

/// Frees rules where it delays nobody, unless others have them too.
pub(super) fn discard(rules: Rules) {
    let free = move |pause: Pause<'_>| {
        for rule in Arc::into_inner(rules).into_iter().flatten() {
            drop(rule);
            pause();
        }
    };
    tokio::task::spawn_blocking(move || in_spells(free));
}

/// The same with policies that nobody has any more.
pub(super) fn take_apart(policies: Vec<Arc<Policy>>) {
    let free = move |pause: Pause<'_>| {
        policies.into_iter().filter_map(Arc::into_inner).for_each(|it| it.take_apart(pause));
    };
    tokio::task::spawn_blocking(move || in_spells(free));
}

/// What a file says, with nothing of before to compare it with.
pub(super) fn first(wanted: &Wanted) -> Result<Standing, Vec<Complaint>> {
    let Wanted { profile, path } = wanted;
    let (hash, opened) = opened(path.as_deref(), &mut || ());
    let source = opened.map_err(|complaint| vec![complaint])?;
    let read = policy::read(source, clock::micros(), &mut || ())?;
    let (rules, keyspaces, notes) = (read.rules.into(), read.keyspaces.into(), read.notes.into());
    let source = shown(path.as_deref());
    Ok(Standing { profile: *profile, rules, keyspaces, notes, source, hash })
}

/// The policy of these rules, emergencies first.
pub(super) fn lay_out(
    version: u64,
    standing: &Standing,
    emergencies: &[Arc<Rule>],
    pause: Pause<'_>,
) -> Policy {
    // An operator's word of this moment is tried before what was written in quiet times.
    let rules = emergencies.iter().chain(standing.rules.iter()).map(Arc::clone).collect();
    let policy = Policy::laid_out(version, standing.profile, rules, pause);
    let mut policy = policy.with_keyspaces(standing.keyspaces.to_vec());
    policy.notes = standing.notes.to_vec();
    policy
}

fn in_spells<T>(work: impl FnOnce(Pause<'_>) -> T) -> T {
    let mut spell = Spell { since: clock::micros(), length: SPELL };
    work(&mut || spell.end_if_over())
}

/// A file's digest and text.
fn opened(path: Option<&Path>, pause: Pause<'_>) -> (Hash, Result<Option<Source>, Complaint>) {
    let opened = path.map(file::open).transpose();
    let hash = match &opened {
        Ok(source) => source.as_ref().map(|source| digest(source.text.as_bytes(), pause)),
        Err(complaint) => Some(content_hash(complaint.to_string().as_bytes())),
    };
    (hash, opened)
}

/// [`content_hash`] of a long text, in parts.
fn digest(text: &[u8], pause: Pause<'_>) -> [u8; 32] {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for part in text.chunks(DIGEST_AT_A_TIME) {
        pause();
        digest.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.finish().as_ref());
    hash
}

/// Some tens of microseconds.
const DIGEST_AT_A_TIME: usize = 64 << 10;

fn shown(path: Option<&Path>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

// === impl Errand ===

impl Errand {
    pub(super) fn run(self, pause: Pause<'_>) -> Look {
        let Self { wanted: Wanted { profile, path }, standing, emergencies, version, .. } = self;
        let (hash, opened) = opened(path.as_deref(), pause);
        if hash == self.seen && !self.is_asked {
            return Look::Untouched;
        }
        let source = match opened {
            Ok(source) => source,
            Err(complaint) => return Look::Refused(hash, vec![complaint]),
        };
        let read = match policy::read(source, clock::micros(), pause) {
            Ok(read) => read,
            Err(complaints) => return Look::Refused(hash, complaints),
        };
        let (rules, mut diff) = carried_over(&standing.rules, &read.rules, pause);
        let keyspaces =
            keyspaces_carried_over(&standing.keyspaces, &read.keyspaces, &mut diff).into();
        // Of a rule that says what it said before the new twin goes, with its unused tally.
        for twin in read.rules {
            drop(twin);
            pause();
        }
        if diff.is_empty() && profile == standing.profile {
            return Look::Same(hash);
        }
        let (source, notes) = (shown(path.as_deref()), read.notes.into());
        let newer = Standing { profile, rules: rules.into(), keyspaces, notes, source, hash };
        let policy = lay_out(version, &newer, &emergencies, pause);
        Look::Other(Box::new((newer, diff, policy)))
    }
}

// === impl Spell ===

impl Spell {
    fn end_if_over(&mut self) {
        let end = clock::micros();
        if end.saturating_sub(self.since) < self.length {
            return;
        }
        std::thread::sleep(REST);
        self.since = clock::micros();
        // Where many want the processor a rest is long. As long may the work go on then, or it would
        // take its length many times over.
        self.length = (self.since - end).clamp(SPELL, SPELL_MAX);
    }
}

/// How long others have to wait for the processor.
const SPELL: Micros = 250;

/// How long at most, where it has been taken from us for as long. The work is short enough by now that
/// more would save nothing: twenty to forty such spells are a reload of thousands of rules.
const SPELL_MAX: Micros = 500;

/// How long it is theirs then.
const REST: Duration = Duration::from_micros(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_in_parts_is_that_of_the_whole_and_others_have_turns_meanwhile() {
        for length in [0, 1, DIGEST_AT_A_TIME, 3 * DIGEST_AT_A_TIME + 1] {
            let text = vec![b'x'; length];
            let mut turns = 0;
            assert_eq!(digest(&text, &mut || turns += 1), content_hash(&text));
            assert_eq!(turns, length.div_ceil(DIGEST_AT_A_TIME));
        }
    }
}

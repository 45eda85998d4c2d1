//! All keyspaces of a policy: which one a key belongs to, and what follows for a whole command.
//!
//! Owns [`Keyspaces`] and the rule for commands of several keys: of what their keyspaces say, the
//! strictest holds ([`Terms`]). The lookup is that of rules, so thousands of patterns cost what a few
//! do. Pure: it knows no node and no client.
//!
//! What surprises: a key belongs to the first keyspace that matches it and to no other. And a key
//! without one takes part: what nobody said may be read from a replica is not, whatever the other
//! keys of its command allow.

use std::sync::Arc;
use std::time::Duration;

use super::keyspace::Keyspace;
use super::prefix::KeyIndex;
use crate::clock::{self, Micros};
use crate::config::{Confirm, ReplicaReads};

/// The keyspaces of a policy, in the order in which they are tried.
#[derive(Debug)]
pub struct Keyspaces {
    all: Vec<Arc<Keyspace>>,
    index: KeyIndex,
}

/// What is asked of the control plane because of keyspaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// How far behind the furthest replica may be that serves reads; `None`: no replica does.
    pub lag: Option<Micros>,
    /// Whether primaries are to tell how many replicas are in step.
    pub counts_replicas: bool,
}

/// What the keyspaces of one command's keys say together.
#[derive(Clone, Debug)]
pub struct Terms<'p> {
    /// Of its first key that has one; what it meets is counted there.
    pub first: &'p Arc<Keyspace>,
    /// Who serves it, if it reads; `None`: nothing was said.
    pub read_from: Option<ReplicaReads>,
    /// Whether a replica serves it while the primary cannot, if it reads.
    pub reads_while_away: bool,
    /// How far behind that replica may be.
    pub max_lag: Micros,
    /// The shortest of what may be waited for a failover.
    pub wait: Option<Duration>,
    /// The shortest patience of clients.
    pub client_timeout: Option<Duration>,
    /// Who refuses writes.
    pub readonly: Option<&'p Arc<Keyspace>>,
    /// Who wants replicas in step: the one that wants most.
    pub guard: Option<(u64, &'p Arc<Keyspace>)>,
    /// By whom a write is confirmed: as the one says that wants most.
    pub confirm: Option<&'p Confirm>,
}

// === impl Keyspaces ===

impl Keyspaces {
    /// These, in their order; `None` if there are none.
    #[must_use]
    pub fn new(all: Vec<Arc<Keyspace>>) -> Option<Self> {
        if all.is_empty() {
            return None;
        }
        let patterns = (0_u32..).zip(&all).flat_map(|(place, keyspace)| {
            keyspace.keys.iter().map(move |pattern| (place, pattern.as_bytes()))
        });
        let index = KeyIndex::new(patterns, &mut || ());
        Some(Self { all, index })
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Arc<Keyspace>] {
        &self.all
    }

    /// The one that a key belongs to.
    #[must_use]
    pub fn of(&self, key: &[u8]) -> Option<&Arc<Keyspace>> {
        let mut first = u32::MAX;
        self.index.find(key, |place| first = first.min(place));
        self.all.get(first as usize)
    }

    /// What holds for a command with these keys; `None` if none of them has a keyspace.
    pub fn terms<'p, 'k>(&'p self, keys: impl Iterator<Item = &'k [u8]>) -> Option<Terms<'p>> {
        let (mut terms, mut has_stranger) = (None::<Terms<'p>>, false);
        for key in keys {
            match (self.of(key), &mut terms) {
                (None, _) => has_stranger = true,
                (Some(keyspace), Some(terms)) => terms.tighten(keyspace),
                (Some(keyspace), none) => *none = Some(Terms::of(keyspace)),
            }
        }
        let mut terms = terms?;
        if has_stranger {
            // Nobody has said that it may be old.
            terms.read_from = stricter_source(terms.read_from, None);
            terms.reads_while_away = false;
        }
        Some(terms)
    }

    /// What they need to be known.
    #[must_use]
    pub fn wishes(&self) -> Wishes {
        let leaving = self.all.iter().filter(|it| it.may_leave_primary());
        Wishes {
            lag: leaving.map(|it| clock::to_micros(it.max_lag)).max(),
            counts_replicas: self.all.iter().any(|it| it.min_replicas.is_some()),
        }
    }
}

// === impl Terms ===

impl<'p> Terms<'p> {
    fn of(keyspace: &'p Arc<Keyspace>) -> Self {
        Self {
            first: keyspace,
            read_from: keyspace.read_from,
            reads_while_away: keyspace.reads_while_away,
            max_lag: clock::to_micros(keyspace.max_lag),
            wait: keyspace.wait,
            client_timeout: keyspace.client_timeout,
            readonly: keyspace.is_readonly.then_some(keyspace),
            guard: keyspace.min_replicas.map(|count| (count, keyspace)),
            confirm: keyspace.confirm.as_ref(),
        }
    }

    /// One more key, of this keyspace.
    fn tighten(&mut self, keyspace: &'p Arc<Keyspace>) {
        let other = Self::of(keyspace);
        self.read_from = stricter_source(self.read_from, other.read_from);
        self.reads_while_away &= other.reads_while_away;
        self.max_lag = self.max_lag.min(other.max_lag);
        self.wait = shorter(self.wait, other.wait);
        self.client_timeout = shorter(self.client_timeout, other.client_timeout);
        self.readonly = self.readonly.or(other.readonly);
        if other.guard.map(demand) > self.guard.map(demand) {
            self.guard = other.guard;
        }
        self.confirm = stricter(self.confirm, other.confirm);
    }

    /// Whether its reads may be served by a replica at all.
    #[must_use]
    pub fn may_leave_primary(&self) -> bool {
        let wanted = !matches!(self.read_from, None | Some(ReplicaReads::Primary));
        wanted || self.reads_while_away
    }
}

/// More replicas are stricter, and of as many those that are less far behind.
fn demand((count, keyspace): (u64, &Arc<Keyspace>)) -> (u64, std::cmp::Reverse<Duration>) {
    (count, std::cmp::Reverse(keyspace.max_lag))
}

/// The stricter of two confirmations: more replicas, and of as many sooner.
#[must_use]
pub fn stricter<'c>(one: Option<&'c Confirm>, other: Option<&'c Confirm>) -> Option<&'c Confirm> {
    let demand = |it: &&Confirm| (it.replicas, std::cmp::Reverse(it.within));
    one.into_iter().chain(other).max_by_key(demand)
}

/// The fresher of two sources: the primary, then what was not written, then replicas; whoever wants
/// the primary spared comes last, because the other may not have what it wants.
fn stricter_source(one: Option<ReplicaReads>, other: Option<ReplicaReads>) -> Option<ReplicaReads> {
    let rank = |source: &Option<ReplicaReads>| match source {
        Some(ReplicaReads::Primary) => 0,
        None => 1,
        Some(ReplicaReads::PreferReplica) => 2,
        Some(ReplicaReads::Replica) => 3,
    };
    std::cmp::min_by_key(one, other, rank)
}

/// The shorter of two times; one that was not written is none.
fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyPatterns;

    fn keyspace(name: &str, pattern: &str) -> Keyspace {
        Keyspace::sample(name, pattern)
    }

    fn of(all: Vec<Keyspace>) -> Keyspaces {
        Keyspaces::new(all.into_iter().map(Arc::new).collect()).unwrap()
    }

    fn terms<'p>(all: &'p Keyspaces, keys: &[&str]) -> Option<Terms<'p>> {
        all.terms(keys.iter().map(|key| key.as_bytes()))
    }

    #[test]
    fn the_first_keyspace_that_matches_a_key_has_it() {
        let all = of(vec![
            keyspace("one", "cache:1"),
            keyspace("cache", "cache:*"),
            keyspace("tail", "*:tail"),
        ]);
        let name = |key: &str| all.of(key.as_bytes()).map(|it| it.name.to_string());
        assert_eq!(name("cache:1").as_deref(), Some("one"));
        assert_eq!(name("cache:tail").as_deref(), Some("cache"));
        assert_eq!(name("x:tail").as_deref(), Some("tail"));
        assert_eq!(name("x"), None);
        assert!(Keyspaces::new(Vec::new()).is_none());
    }

    #[test]
    fn of_several_keyspaces_the_strictest_holds() {
        use ReplicaReads::{PreferReplica, Primary, Replica};
        let second = Duration::from_secs(1);
        let confirm =
            |replicas| Some(Confirm { replicas, within: second, keys: KeyPatterns::default() });
        let all = of(vec![
            Keyspace {
                read_from: Some(PreferReplica),
                reads_while_away: true,
                max_lag: second * 9,
                wait: Some(second),
                min_replicas: Some(1),
                confirm: confirm(1),
                ..keyspace("a", "a:*")
            },
            Keyspace {
                read_from: Some(Replica),
                reads_while_away: true,
                max_lag: second * 3,
                client_timeout: Some(second),
                min_replicas: Some(2),
                confirm: confirm(2),
                ..keyspace("b", "b:*")
            },
            Keyspace { read_from: Some(Primary), is_readonly: true, ..keyspace("c", "c:*") },
        ]);
        let both = terms(&all, &["a:1", "b:1"]).unwrap();
        assert_eq!((both.read_from, both.reads_while_away), (Some(PreferReplica), true));
        assert_eq!((both.max_lag, both.wait), (clock::to_micros(second * 3), Some(second)));
        assert_eq!(both.guard.map(|(count, it)| (count, &*it.name)), Some((2, "b")));
        assert_eq!(both.confirm.map(|it| it.replicas), Some(2));
        assert!(both.readonly.is_none());
        let all_three = terms(&all, &["a:1", "b:1", "c:1"]).unwrap();
        assert_eq!((all_three.read_from, all_three.reads_while_away), (Some(Primary), false));
        assert_eq!(all_three.readonly.map(|it| &*it.name), Some("c"));
        assert!(terms(&all, &["x"]).is_none());
    }

    #[test]
    fn a_key_without_a_keyspace_keeps_its_command_with_the_primary() {
        let all = of(vec![Keyspace {
            read_from: Some(ReplicaReads::Replica),
            reads_while_away: true,
            is_readonly: true,
            ..keyspace("a", "a:*")
        }]);
        assert!(terms(&all, &["a:1"]).unwrap().may_leave_primary());
        let mixed = terms(&all, &["a:1", "x"]).unwrap();
        assert!(!mixed.may_leave_primary() && mixed.readonly.is_some());
        let wishes = all.wishes();
        assert_eq!(wishes.lag, Some(clock::to_micros(Duration::from_secs(10))));
        assert!(!wishes.counts_replicas);
    }
}

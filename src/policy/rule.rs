//! One rule: which commands, on which keys, by whom → what is done.
//!
//! Owns the rule as it is matched. Never reads a file. What surprises: a restricting rule matches if
//! *any* key of the command matches, an `allow` only if *all* do; so a permission for some keys does
//! not carry others along.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::case::{Caller, Case};
use super::pace::Pace;
pub use super::shape::Shape;
use super::tally::Tally;
use crate::clock::Micros;
use crate::command::table::BUILTIN_COUNT;
use crate::config::KeyPatterns;
use crate::pubsub::glob;

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What refusals, logs and metrics call it; unique in a policy.
    pub name: Box<str>,
    /// Who made it.
    pub origin: Origin,
    /// Which commands it speaks of.
    pub commands: Commands,
    /// On which keys; `None`: on all, and on none. A command without keys never matches a rule that
    /// has some.
    pub keys: Option<KeyPatterns>,
    /// By whom; `None`: by all.
    pub who: Option<Who>,
    /// Only what is asked in these ways.
    pub shape: Vec<Shape>,
    /// What is done.
    pub action: Action,
    /// Whether it is only tried out.
    pub mode: Mode,
    /// For how many clients of a hundred it is enforced; for the others it observes. 0 to 100.
    pub canary: u8,
    /// When it ends.
    pub expires: Option<Micros>,
    /// What to do instead: the end of the error's text. Never holds a line end.
    pub message: Option<Box<str>>,
    /// What it has met; outlives a reload in which the rule does not change.
    pub tally: Arc<Tally>,
}

/// Who made a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An operator by the admin port, for a time.
    Emergency,
    /// An operator in the policy file.
    File,
    /// We: the profile's catalogue.
    Catalogue,
}

/// Some commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// Whether all are meant.
    pub all: bool,
    /// By number; names of one upstream only are looked at one by one.
    pub builtin: Vec<bool>,
    /// Names in lower case, with `|` before a subcommand, that no built-in command has. One that ends
    /// with `|` means all subcommands of a container.
    pub strangers: Vec<Box<str>>,
    /// ACL categories; for strangers, the built-in commands are in `builtin`.
    pub categories: Vec<crate::command::flags::Categories>,
}

/// Some clients. Each field that is not empty must have one that fits, and is fitted by who says
/// nothing only if it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Listeners' addresses, as configured.
    pub listeners: Vec<Box<str>>,
    /// Users: globs.
    pub users: Vec<Box<str>>,
    /// Networks: address and prefix length.
    pub networks: Vec<(IpAddr, u8)>,
    /// Names of CLIENT SETNAME: globs.
    pub names: Vec<Box<str>>,
    /// Names of libraries: globs.
    pub libraries: Vec<Box<str>>,
}

/// What is done with a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It goes on, and no other rule is asked.
    Allow,
    /// The same, and it is noted.
    Observe,
    /// It goes on if what it would read is small enough.
    Bound(Bound),
    /// Something else with the same answer goes on.
    Rewrite(Rewrite),
    /// It is refused.
    Deny,
    /// It waits its turn, or is refused.
    Pace(Arc<Pace>),
}

/// How much a command may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Elements, or bytes of strings, or for LCS the product of the two lengths.
    pub limit: u64,
    /// Whether every command is preceded by the question how much it is.
    pub is_always: bool,
}

/// What is done instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// DEL becomes UNLINK.
    Unlink,
    /// FLUSHALL and FLUSHDB get ASYNC.
    Async,
    /// KEYS, HGETALL, SMEMBERS are put together from pages of SCAN, HSCAN, SSCAN.
    Scan(Paging),
    /// COUNT of SCAN and its kin becomes at most this.
    ClampCount(u64),
    /// A command of many keys goes in parts of so many.
    Batch(usize),
}

/// How a rewritten command reads its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// COUNT of a page.
    pub page: u64,
    /// Shortest time from page to page.
    pub every: Duration,
    /// Most bytes of an answer.
    pub max_bytes: usize,
    /// Most elements of an answer.
    pub max_elements: u64,
}

/// Whether a rule is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    #[default]
    Enforce,
    /// It is only counted what it would do.
    Observe,
}

// === impl Rule ===

impl Rule {
    /// Whether all but its keys speak of this case; the keys are looked up for all rules at once.
    #[must_use]
    pub fn matches_but_for_keys(&self, case: &Case<'_>) -> bool {
        self.expires.is_none_or(|end| case.now < end)
            && self.commands.include(case.spec)
            && self.who.as_ref().is_none_or(|who| who.include(case.caller))
            && self.shape.iter().all(|shape| shape.fits(case))
    }

    /// With how many arguments, the name included, a command may match at all.
    #[must_use]
    pub fn least_arguments(&self) -> usize {
        self.shape.iter().map(Shape::least_arguments).max().unwrap_or_default()
    }

    /// Whether all of a command's keys must match, and not only one.
    #[must_use]
    pub fn wants_all_keys(&self) -> bool {
        matches!(self.action, Action::Allow | Action::Observe)
    }

    /// Whether it matches every command of this number, whoever sends it and however.
    #[must_use]
    pub fn is_unconditional_for(&self, index: usize) -> bool {
        self.keys.is_none()
            && self.who.is_none()
            && self.shape.is_empty()
            && self.expires.is_none()
            && self.commands.surely_include(index)
    }
}

// === impl Commands ===

impl Commands {
    /// Whether a command of this number may be meant; the number behind the last built-in one stands
    /// for all others.
    #[must_use]
    pub fn may_include(&self, index: usize) -> bool {
        let has_strangers = !self.strangers.is_empty() || !self.categories.is_empty();
        self.all
            || (index == BUILTIN_COUNT && has_strangers)
            || self.builtin.get(index).copied().unwrap_or_default()
    }

    /// Whether every command of this number is meant.
    #[must_use]
    pub fn surely_include(&self, index: usize) -> bool {
        self.all || self.builtin.get(index).copied().unwrap_or_default()
    }

    /// Whether this one is meant.
    #[must_use]
    pub fn include(&self, spec: &crate::command::spec::Spec) -> bool {
        if self.all || spec.id.is_builtin() {
            return self.all || self.builtin.get(spec.id.index()).copied().unwrap_or_default();
        }
        let is_meant = |name: &str| match name.ends_with('|') {
            true => spec.name.starts_with(name),
            false => *spec.name == *name,
        };
        self.strangers.iter().any(|name| is_meant(name))
            || self.categories.iter().any(|&one| spec.categories.contains(one))
    }
}

// === impl Who ===

impl Who {
    /// Whether this client is meant.
    #[must_use]
    pub fn include(&self, caller: &Caller<'_>) -> bool {
        let mut listeners = self.listeners.iter();
        (self.listeners.is_empty() || listeners.any(|listener| **listener == *caller.listener))
            && fits_one(&self.users, caller.user)
            && fits_one(&self.names, caller.name)
            && fits_one(&self.libraries, caller.library)
            && (self.networks.is_empty() || self.is_within(caller.address))
    }

    /// A client on a unix socket is in no network.
    fn is_within(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address.map(|address| address.to_canonical()) else {
            return false;
        };
        self.networks.iter().any(|&(network, length)| holds(network, length, address))
    }
}

/// Whether one of some globs fits; none: whatever it is.
fn fits_one(globs: &[Box<str>], text: &[u8]) -> bool {
    globs.is_empty() || globs.iter().any(|one| glob::matches(one.as_bytes(), text))
}

/// Whether an address lies in a network. IPv4 within IPv6 has become IPv4 on both sides.
fn holds(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let differ = |network: u128, address: u128, bits: u32| {
        let outside = bits.saturating_sub(u32::from(length));
        // Shifting out all the bits is more than a shift can do.
        (network ^ address).checked_shr(outside).unwrap_or_default() != 0
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            !differ(network.to_bits().into(), address.to_bits().into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            !differ(network.to_bits(), address.to_bits(), 128)
        }
        _ => false,
    }
}

#[cfg(test)]
impl Rule {
    /// A rule of a file for all commands, enforced without conditions: tests change what they are about.
    pub(crate) fn sample(name: &str, action: Action) -> Self {
        Self {
            name: name.into(),
            origin: Origin::File,
            commands: Commands { all: true, ..Commands::default() },
            keys: None,
            who: None,
            shape: Vec::new(),
            action,
            mode: Mode::Enforce,
            canary: 100,
            expires: None,
            message: None,
            tally: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller<'static> {
        Caller {
            id: 1,
            listener: "127.0.0.1:6379",
            user: b"app",
            address: Some(IpAddr::from([10, 1, 2, 3])),
            name: b"worker-7",
            library: b"redis-py",
        }
    }

    fn names(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    #[test]
    fn every_list_must_have_one_that_fits_the_client() {
        let fitting = Who {
            listeners: names(&["unix:/run/x", "127.0.0.1:6379"]),
            users: names(&["other", "a*"]),
            networks: vec![(IpAddr::from([10, 0, 0, 0]), 8)],
            names: names(&["worker-?"]),
            libraries: names(&["redis-*"]),
        };
        assert!(fitting.include(&caller()));
        assert!(Who::default().include(&Caller::default()));
        for other in [
            Who { listeners: names(&["127.0.0.1:*"]), ..fitting.clone() },
            Who { users: names(&["b*"]), ..fitting.clone() },
            Who { networks: vec![(IpAddr::from([11, 0, 0, 0]), 8)], ..fitting.clone() },
            Who { names: names(&["worker-??"]), ..fitting.clone() },
            Who { libraries: names(&["jedis"]), ..fitting.clone() },
        ] {
            assert!(!other.include(&caller()), "{other:?}");
        }
        assert!(!fitting.include(&Caller { address: None, ..caller() }));
        assert!(!fitting.include(&Caller { name: b"", ..caller() }));
    }

    #[test]
    fn networks_are_compared_by_their_first_bits() {
        for (network, length, address, is_in) in [
            ("10.0.0.0", 8, "10.255.0.1", true),
            ("10.0.0.0", 8, "11.0.0.0", false),
            ("10.1.2.3", 32, "10.1.2.3", true),
            ("10.1.2.3", 32, "10.1.2.2", false),
            ("0.0.0.0", 0, "255.1.1.1", true),
            ("0.0.0.0", 0, "2001:db8::1", false),
            ("::", 0, "2001:db8::1", true),
            ("2001:db8::", 33, "2001:db8:7fff::", true),
            ("2001:db8::", 33, "2001:db8:8000::", false),
            // As a listener on [::] sees a client of IPv4.
            ("10.0.0.0", 8, "::ffff:10.0.0.9", true),
        ] {
            let who = Who { networks: vec![(network.parse().unwrap(), length)], ..Who::default() };
            let address = Some(address.parse().unwrap());
            assert_eq!(who.is_within(address), is_in, "{network}/{length} {address:?}");
        }
    }
}

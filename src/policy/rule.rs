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
use super::tally::Tally;
use crate::clock::Micros;
use crate::command::table::BUILTIN_COUNT;
use crate::config::KeyPatterns;

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
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// Whether all are meant.
    pub all: bool,
    /// By number; names of one upstream only are looked at one by one.
    pub builtin: Vec<bool>,
    /// Names in lower case, with `|` before a subcommand, that no built-in command has.
    pub strangers: Vec<Box<str>>,
    /// ACL categories; for strangers, the built-in commands are in `builtin`.
    pub categories: Vec<crate::command::flags::Categories>,
}

/// Some clients. Each field that is not empty must have one that fits.
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

/// A way of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Of LRANGE, ZRANGE and kin by index: more elements than this may come, as far as the arguments
    /// tell; an end that counts from the tail is unbounded.
    SpanAbove(u64),
    /// More keys than this.
    KeysAbove(usize),
    /// COUNT n, or a count argument, above this; absent: not.
    CountAbove(u64),
    /// Neither LIMIT nor COUNT is there.
    Unlimited,
    /// The pattern of KEYS or SCAN MATCH holds a wildcard.
    PatternHasGlob,
    /// The pattern of KEYS or SCAN MATCH is one of these, literally.
    PatternIs(Vec<Box<str>>),
    /// An argument is longer than so many bytes.
    ValueAbove(u64),
    /// SET and its kin without a time to live.
    NoTtl,
    /// This word is among the arguments.
    Word(Box<str>),
    /// This word is not among the arguments.
    NoWord(Box<str>),
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
    /// Whether it speaks of this case.
    #[must_use]
    pub fn matches(&self, case: &Case<'_>) -> bool {
        self.expires.is_none_or(|end| case.now < end)
            && self.commands.include(case.spec)
            && self.has_keys_of(case)
            && self.who.as_ref().is_none_or(|who| who.include(case.caller))
            && self.shape.iter().all(|shape| shape.fits(case))
    }

    fn has_keys_of(&self, case: &Case<'_>) -> bool {
        let Some(patterns) = &self.keys else {
            return true;
        };
        if case.keys.is_empty() {
            return false;
        }
        if self.action == Action::Allow {
            case.keys().all(|key| patterns.match_any(std::iter::once(key)))
        } else {
            patterns.match_any(case.keys())
        }
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

    /// Whether this one is meant.
    #[must_use]
    pub fn include(&self, spec: &crate::command::spec::Spec) -> bool {
        if self.all || spec.id.is_builtin() {
            return self.all || self.builtin.get(spec.id.index()).copied().unwrap_or_default();
        }
        self.strangers.contains(&spec.name)
            || self.categories.iter().any(|&one| spec.categories.contains(one))
    }
}

// === impl Who ===

impl Who {
    /// Whether this client is meant.
    #[must_use]
    pub fn include(&self, _caller: &Caller<'_>) -> bool {
        true
    }
}

// === impl Shape ===

impl Shape {
    /// Whether the command is asked in this way.
    #[must_use]
    pub fn fits(&self, _case: &Case<'_>) -> bool {
        true
    }
}

//! What may be asked of the servers, by whom, and how it is asked if not as it came.
//!
//! Owns the [`Policy`] in force: rules in the order in which they are tried, laid out so that a
//! command which no rule speaks of costs one look into a table. Never touches a socket or a session,
//! and never counts: [`Policy::judge`] is a pure function of a [`Case`], so that `breakwater explain`,
//! `PROXY WHY` and the path of a command cannot come to different conclusions. `dispatch::judge`
//! carries its verdicts out.
//!
//! What surprises: a rule that only observes, and one whose pace is kept, do not end the search. A
//! rule on trial must not open what the rule behind it closes.

pub mod bounds;
pub mod case;
pub mod catalogue;
pub mod diff;
pub mod emergency;
pub mod file;
pub mod keyspace;
pub mod keyspaces;
pub mod ledger;
pub mod offence;
pub mod pace;
mod prefix;
pub mod rewrite;
pub mod rule;
mod shape;
pub mod tally;
pub mod words;

use std::path::Path;
use std::sync::Arc;

use crate::clock::Micros;
use crate::command::flags::Flags;
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::command::table::{BUILTIN_COUNT, Table};
use crate::config::source::Source;
use crate::config::{Complaint, KeyPatterns, Profile};
use crate::governor::admit::GOVERNED;
pub use case::{Caller, Case};
use file::Clock;
use keyspace::Keyspace;
use keyspaces::Keyspaces;
use prefix::KeyIndex;
use rule::{Action, Origin, Rule};

/// Called between two small pieces of long work, so that whoever waits for the processor can have it.
pub type Pause<'a> = &'a mut dyn FnMut();

/// Where policies are published.
pub type Published = Arc<arc_swap::ArcSwap<Policy>>;

/// Everything that is decided about commands, as one whole. Never edited: a change makes another one
/// (INV-6).
#[derive(Debug, Default)]
pub struct Policy {
    /// Counts the policies that have been in force in this process; what a refusal names.
    pub version: u64,
    /// How much of it is enforced.
    pub profile: Profile,
    /// What is allowed in its file but deserves a warning.
    pub notes: Vec<Complaint>,
    /// All rules, in the order in which they are tried: those for the moment, the operator's, ours.
    rules: Vec<Arc<Rule>>,
    /// Which of them may speak of a command; by the command's number, and one more for all names
    /// that only one upstream knows.
    plans: Vec<Plan>,
    /// Those that speak of keys, whatever the command: there may be thousands, so the plans share them.
    /// What stands behind a rule that always decides is among them, and is not reached.
    everywhere: Bits,
    /// Which of them speak of a key.
    keys: Option<KeyIndex>,
    /// Classes of data, in every profile: whoever writes one wants what it says.
    keyspaces: Option<Keyspaces>,
}

/// The rules that may speak of one command. What stands behind a rule that always decides is left
/// out, and so is a permission of ours: it would change nothing.
#[derive(Clone, Debug)]
struct Plan {
    /// Places among all rules of those that ask for no key, ascending.
    keyless: Vec<u32>,
    /// The same of those that do, but for those that speak of every command.
    keyed: Bits,
    /// With how many arguments a command may match the first of them; without any, none has enough.
    least: usize,
    /// With how many arguments a command is looked at: the same, or fewer because of keyspaces.
    looked: usize,
    /// Whether one of them asks who the client is.
    asks_who: bool,
    /// Whether the last of them always decides, so that none behind it is ever tried.
    is_closed: bool,
}

/// Places among all rules, a bit each; empty: there are none.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

/// Makes a policy: the rules of a file, if there is one, before those of the profile. The file is
/// read and nothing else; `now` is what `expires` is counted from.
///
/// # Errors
/// Every complaint about the file, in its order.
pub fn load(
    profile: Profile,
    path: Option<&Path>,
    version: u64,
    now: Micros,
) -> Result<Policy, Vec<Complaint>> {
    let source = path.map(file::open).transpose().map_err(|complaint| vec![complaint])?;
    let file::Rules { rules, keyspaces, notes } = read(source, now, &mut || ())?;
    let mut policy = Policy::new(version, profile, rules).with_keyspaces(keyspaces);
    policy.notes = notes;
    Ok(policy)
}

/// The rules of a file, if there is one, and those of the catalogue behind them; or every complaint
/// about the file, in its order.
pub(crate) fn read(
    source: Option<Source>,
    now: Micros,
    pause: Pause<'_>,
) -> Result<file::Rules, Vec<Complaint>> {
    let judged = |source| file::judged(source, Origin::File, Clock::at(now), pause);
    let written = source.map(judged).transpose()?;
    let mut written = written.unwrap_or_default();
    written.rules.extend(catalogue::rules());
    Ok(written)
}

/// Whether no rule is asked about a command. Who could not say who they are could never be let in,
/// and who could not give up what they have begun would keep it: behind a DISCARD that was refused
/// the next user of a client's connection would find its commands queued.
#[must_use]
pub fn is_spared(spec: &Spec) -> bool {
    spec.flags.contains(Flags::NO_AUTH) || matches!(spec.id, DISCARD | UNWATCH)
}

const DISCARD: CommandId = builtin_id("discard");
const UNWATCH: CommandId = builtin_id("unwatch");

// === impl Policy ===

impl Policy {
    /// The policy of these rules.
    #[must_use]
    pub fn new(version: u64, profile: Profile, rules: Vec<Arc<Rule>>) -> Self {
        Self::laid_out(version, profile, rules, &mut || ())
    }

    /// The same, for a thread that shares its processor with workers.
    #[must_use]
    pub fn laid_out(
        version: u64,
        profile: Profile,
        rules: Vec<Arc<Rule>>,
        pause: Pause<'_>,
    ) -> Self {
        if profile == Profile::Open {
            return Self { version, profile, ..Self::default() };
        }
        let (mut plans, everywhere) = Plan::all(profile, &rules, pause);
        for id in GOVERNED {
            if let Some(plan) = plans.get_mut(id.stats_index()) {
                // A script is judged by what is in it, whatever else rules say.
                plan.least = 0;
            }
        }
        let patterns = (0_u32..).zip(&rules).flat_map(|(place, rule)| {
            let patterns = rule.keys.iter().flat_map(KeyPatterns::iter);
            patterns.map(move |pattern| (place, pattern.as_bytes()))
        });
        let keys =
            rules.iter().any(|rule| rule.keys.is_some()).then(|| KeyIndex::new(patterns, pause));
        plans.iter_mut().for_each(|plan| plan.looked = plan.least);
        let (notes, keyspaces) = (Vec::new(), None);
        Self { version, profile, notes, plans, everywhere, keys, keyspaces, rules }
    }

    /// The same with these keyspaces, in their order. What has keys is looked at then, and what may
    /// write: it must not overtake a read that went elsewhere.
    #[must_use]
    pub fn with_keyspaces(mut self, keyspaces: Vec<Arc<Keyspace>>) -> Self {
        self.keyspaces = Keyspaces::new(keyspaces);
        if self.keyspaces.is_none() {
            return self;
        }
        self.plans.resize(BUILTIN_COUNT + 1, Plan::default());
        let table = Table::builtin();
        for (index, plan) in self.plans.iter_mut().enumerate() {
            let spec = table.spec(CommandId(index as u16)).filter(|_| index < BUILTIN_COUNT);
            if spec.is_none_or(|spec| spec.has_keys() || spec.may_write()) {
                plan.looked = 0;
            }
        }
        self
    }

    /// Frees it: thousands of rules at once would take milliseconds.
    pub fn take_apart(self, pause: Pause<'_>) {
        for rule in self.rules {
            drop(rule);
            pause();
        }
    }

    /// The keyspaces, if there are any.
    #[inline]
    #[must_use]
    pub fn keyspaces(&self) -> Option<&Keyspaces> {
        self.keyspaces.as_ref()
    }

    /// All rules, in the order in which they are tried.
    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// How many of them are an operator's.
    #[must_use]
    pub fn operators(&self) -> usize {
        self.rules.iter().filter(|rule| rule.origin != Origin::Catalogue).count()
    }

    /// Whether any rule may speak of this command, or what it carries is judged.
    #[inline]
    #[must_use]
    pub fn speaks_of(&self, id: CommandId) -> bool {
        self.plan(id).is_some_and(|plan| plan.least < usize::MAX)
    }

    /// Whether any rule may speak of this command with so many arguments, the name included, or a
    /// keyspace of its keys. EXISTS of one key is not looked at because of a rule for a thousand.
    #[inline]
    #[must_use]
    pub fn looks_at(&self, id: CommandId, arguments: usize) -> bool {
        self.plan(id).is_some_and(|plan| arguments >= plan.looked)
    }

    /// Whether any of them asks who the client is; if not, the case need not tell.
    #[must_use]
    pub fn asks_who(&self, id: CommandId) -> bool {
        self.plan(id).is_some_and(|plan| plan.asks_who)
    }

    /// The rule that decides a case: the first that matches and ends the search. `passed` is told of
    /// those that match and let it go on: rules that only observe, and pace that may be kept.
    pub fn judge<'p>(
        &'p self,
        case: &Case<'_>,
        passed: &mut dyn FnMut(&'p Arc<Rule>),
    ) -> Option<&'p Arc<Rule>> {
        let mut found = None;
        self.search(case, &mut |rule, decides| {
            if decides {
                found = Some(rule);
            } else {
                passed(rule);
            }
            decides
        });
        found
    }

    /// Shows the rules that match a case to `is_enough`, and whether each would decide, until that says so.
    pub fn search<'p>(
        &'p self,
        case: &Case<'_>,
        is_enough: &mut dyn FnMut(&'p Arc<Rule>, bool) -> bool,
    ) {
        let Some(plan) = self.plan(case.spec.id) else {
            return;
        };
        let keyed = self.keyed(plan, case);
        for place in merged(&plan.keyless, &keyed) {
            let Some(rule) = self.rules.get(place as usize) else {
                continue;
            };
            if rule.matches_but_for_keys(case) && is_enough(rule, rule.decides(self.profile, case))
            {
                return;
            }
        }
    }

    /// Places of the rules of a plan that speak of the keys of a case, ascending. Nothing is allocated
    /// unless there are some.
    fn keyed(&self, plan: &Plan, case: &Case<'_>) -> Vec<u32> {
        let has_some = !plan.keyed.is_empty() || !self.everywhere.is_empty();
        let Some(index) = self.keys.as_ref().filter(|_| has_some) else {
            return Vec::new();
        };
        let mut found: Vec<(u32, u32)> = Vec::new();
        let mut count = 0;
        for (key, number) in case.keys().zip(0_u32..) {
            count = number + 1;
            index.find(key, |place| {
                if self.everywhere.has(place) || plan.keyed.has(place) {
                    found.push((place, number));
                }
            });
        }
        // A key counts once for a rule, however many of its patterns it matches.
        found.sort_unstable();
        found.dedup();
        let mut places = Vec::new();
        for matches in found.chunk_by(|one, other| one.0 == other.0) {
            let Some(&(place, _)) = matches.first() else {
                continue;
            };
            let wants_all =
                self.rules.get(place as usize).is_some_and(|rule| rule.wants_all_keys());
            if !wants_all || matches.len() == count as usize {
                places.push(place);
            }
        }
        places
    }

    #[inline]
    fn plan(&self, id: CommandId) -> Option<&Plan> {
        self.plans.get(id.stats_index())
    }
}

// === impl Plan ===

impl Default for Plan {
    /// No rule speaks of the command.
    fn default() -> Self {
        Self {
            keyless: Vec::new(),
            keyed: Bits::default(),
            least: usize::MAX,
            looked: usize::MAX,
            asks_who: false,
            is_closed: false,
        }
    }
}

impl Plan {
    /// What these rules mean for each number, and which of them speak of keys whatever the command. One
    /// rule after the other: there are thousands of rules, and each is looked at once.
    fn all(profile: Profile, rules: &[Arc<Rule>], pause: Pause<'_>) -> (Vec<Self>, Bits) {
        let mut plans = vec![Self::default(); BUILTIN_COUNT + 1];
        let (mut everywhere, mut common) = (Bits::default(), Self::default());
        for (place, rule) in (0_u32..).zip(rules) {
            pause();
            // Such a rule closes no plan, so it is the same to all of them: thousands of these would
            // otherwise be noted once for each command.
            if rule.commands.all && rule.keys.is_some() {
                everywhere.set(place, rules.len());
                common.serve(rule);
                continue;
            }
            let always_decides = rule.always_decides(profile);
            for (index, plan) in plans.iter_mut().enumerate() {
                if rule.commands.may_include(index) && !plan.is_closed {
                    plan.is_closed = always_decides && rule.is_unconditional_for(index);
                    plan.add(place, rule, rules.len());
                }
            }
        }
        // Into closed plans as well: it costs their commands a look, and changes no verdict.
        for plan in &mut plans {
            plan.asks_who |= common.asks_who;
            plan.least = plan.least.min(common.least);
        }
        (plans, everywhere)
    }

    fn add(&mut self, place: u32, rule: &Rule, count: usize) {
        // That it may go on is what follows from no rule, too.
        if self.is_closed && rule.action == Action::Allow && rule.origin == Origin::Catalogue {
            return;
        }
        match rule.keys {
            None => self.keyless.push(place),
            Some(_) => self.keyed.set(place, count),
        }
        self.serve(rule);
    }

    /// What a rule needs to be told of a command, and how long that must be.
    fn serve(&mut self, rule: &Rule) {
        self.asks_who |= rule.asks_who();
        self.least = self.least.min(rule.least_arguments());
    }
}

// === impl Bits ===

impl Bits {
    /// Adds a place, which is below `count`.
    fn set(&mut self, place: u32, count: usize) {
        if self.0.is_empty() {
            self.0 = vec![0; count.div_ceil(64)];
        }
        if let Some(word) = self.0.get_mut(place as usize / 64) {
            *word |= 1 << (place % 64);
        }
    }

    #[inline]
    fn has(&self, place: u32) -> bool {
        let word = self.0.get(place as usize / 64).copied().unwrap_or_default();
        word >> (place % 64) & 1 != 0
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Two ascending lists as one.
fn merged(one: &[u32], other: &[u32]) -> impl Iterator<Item = u32> {
    let (mut one, mut other) = (one.iter().copied().peekable(), other.iter().copied().peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(first), Some(second)) if second < first => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}

// === impl Rule ===

impl Rule {
    /// Whether this rule, which matches, ends the search.
    #[must_use]
    pub fn decides(&self, profile: Profile, case: &Case<'_>) -> bool {
        match self.action {
            Action::Allow | Action::Observe => true,
            // Whoever keeps it goes on; who does not is stopped by whoever measures it.
            Action::Pace(_) => false,
            _ => self.is_enforced(profile, case.caller),
        }
    }

    /// Whether it ends the search whenever it matches.
    fn always_decides(&self, profile: Profile) -> bool {
        match self.action {
            Action::Allow | Action::Observe => true,
            Action::Pace(_) => false,
            _ => {
                profile == Profile::Guard && self.mode == rule::Mode::Enforce && self.canary >= 100
            }
        }
    }

    /// Whether it cannot be told without the client whether it matches, or what follows.
    fn asks_who(&self) -> bool {
        let is_per_user = matches!(&self.action, Action::Pace(pace) if pace.per == pace::Per::User);
        self.who.is_some() || self.canary < 100 || is_per_user
    }

    /// Whether its restriction is meant for this client, and not only counted.
    #[must_use]
    pub fn is_enforced(&self, profile: Profile, caller: &Caller<'_>) -> bool {
        // What an operator has just ordered is not on trial, whatever else is.
        let is_meant = profile == Profile::Guard || self.origin == rule::Origin::Emergency;
        is_meant && self.mode == rule::Mode::Enforce && caller.is_in(self)
    }
}

#[cfg(test)]
mod tests;

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

pub mod case;
pub mod pace;
pub mod rewrite;
pub mod rule;
pub mod tally;

use std::sync::Arc;

use crate::command::spec::CommandId;
use crate::command::table::BUILTIN_COUNT;
use crate::config::Profile;
pub use case::{Caller, Case};
use rule::{Action, Rule};

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
    /// All rules, in the order in which they are tried: those for the moment, the operator's, ours.
    rules: Vec<Arc<Rule>>,
    /// Which of them may speak of a command; by the command's number, and one more for all names
    /// that only one upstream knows.
    plans: Vec<Plan>,
}

/// The rules that may speak of one command.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// Their places among all rules, ascending.
    rules: Vec<u32>,
    /// Whether one of them asks who the client is.
    asks_who: bool,
}

// === impl Policy ===

impl Policy {
    /// The policy of these rules.
    #[must_use]
    pub fn new(version: u64, profile: Profile, rules: Vec<Arc<Rule>>) -> Self {
        if profile == Profile::Open {
            return Self { version, profile, ..Self::default() };
        }
        let mut plans = vec![Plan::default(); BUILTIN_COUNT + 1];
        for (place, rule) in (0_u32..).zip(&rules) {
            for (index, plan) in plans.iter_mut().enumerate() {
                if rule.commands.may_include(index) {
                    plan.rules.push(place);
                    plan.asks_who |= rule.who.is_some() || rule.canary < 100;
                }
            }
        }
        Self { version, profile, rules, plans }
    }

    /// All rules, in the order in which they are tried.
    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Whether any rule may speak of this command.
    #[inline]
    #[must_use]
    pub fn speaks_of(&self, id: CommandId) -> bool {
        self.plan(id).is_some_and(|plan| !plan.rules.is_empty())
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
        let plan = self.plan(case.spec.id)?;
        for rule in plan.rules.iter().filter_map(|&place| self.rules.get(place as usize)) {
            if !rule.matches(case) {
                continue;
            }
            if rule.decides(self.profile, case) {
                return Some(rule);
            }
            passed(rule);
        }
        None
    }

    #[inline]
    fn plan(&self, id: CommandId) -> Option<&Plan> {
        self.plans.get(id.stats_index())
    }
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

    /// Whether its restriction is meant for this client, and not only counted.
    #[must_use]
    pub fn is_enforced(&self, profile: Profile, caller: &Caller<'_>) -> bool {
        profile == Profile::Guard && self.mode == rule::Mode::Enforce && caller.is_in(self)
    }
}

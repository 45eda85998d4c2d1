//! From one policy to the next: what is the same stays the same, and the rest can be told.
//!
//! Owns the comparison of rules and of keyspaces. One that says what it said before is carried over as
//! it is, with its tally and whatever its pace has measured; a log line says what was added, removed and
//! changed, by name. Never publishes. What surprises: a rule that only moved counts as changed nowhere, but
//! the order is compared too, because the first match decides.

use std::sync::Arc;

use super::Pause;
use super::keyspace::Keyspace;
use super::rule::{Action, Rule};
use crate::clock::{Micros, SECOND};

/// How two policies differ, by the names of their rules and keyspaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Diff {
    /// Only in the newer.
    pub added: Vec<String>,
    /// Only in the older.
    pub removed: Vec<String>,
    /// In both, and not the same.
    pub changed: Vec<String>,
    /// Whether those of both stand in another order.
    pub is_reordered: bool,
}

/// The newer rules, with each that is the same as an older one replaced by that, and how they differ.
#[must_use]
pub fn carried_over(
    older: &[Arc<Rule>],
    newer: &[Arc<Rule>],
    pause: Pause<'_>,
) -> (Vec<Arc<Rule>>, Diff) {
    let mut left: foldhash::HashMap<&str, (usize, &Arc<Rule>)> =
        older.iter().enumerate().map(|(place, rule)| (&*rule.name, (place, rule))).collect();
    let mut diff = Diff::default();
    let mut furthest = 0;
    let mut rules = Vec::with_capacity(newer.len());
    for rule in newer {
        pause();
        let Some((place, before)) = left.remove(&*rule.name) else {
            diff.added.push(rule.name.to_string());
            rules.push(Arc::clone(rule));
            continue;
        };
        diff.is_reordered |= place < furthest;
        furthest = furthest.max(place);
        let is_same = says_the_same(before, rule);
        if !is_same {
            diff.changed.push(rule.name.to_string());
        }
        rules.push(if is_same { Arc::clone(before) } else { with_pace_of(before, rule) });
    }
    let is_gone = |rule: &&Arc<Rule>| left.contains_key(&*rule.name);
    diff.removed = older.iter().filter(is_gone).map(|rule| rule.name.to_string()).collect();
    (rules, diff)
}

/// The same for keyspaces, which are called `keyspace NAME` in `diff`.
#[must_use]
pub fn keyspaces_carried_over(
    older: &[Arc<Keyspace>],
    newer: &[Arc<Keyspace>],
    diff: &mut Diff,
) -> Vec<Arc<Keyspace>> {
    let named = |keyspace: &Keyspace| format!("keyspace {}", keyspace.name);
    let mut left: foldhash::HashMap<&str, (usize, &Arc<Keyspace>)> =
        older.iter().enumerate().map(|(place, it)| (&*it.name, (place, it))).collect();
    let mut furthest = 0;
    let mut carried = Vec::with_capacity(newer.len());
    for keyspace in newer {
        let Some((place, before)) = left.remove(&*keyspace.name) else {
            diff.added.push(named(keyspace));
            carried.push(Arc::clone(keyspace));
            continue;
        };
        diff.is_reordered |= place < furthest;
        furthest = furthest.max(place);
        let is_same = before.says_the_same(keyspace);
        if !is_same {
            diff.changed.push(named(keyspace));
        }
        carried.push(Arc::clone(if is_same { before } else { keyspace }));
    }
    let gone = older.iter().filter(|it| left.contains_key(&*it.name));
    diff.removed.extend(gone.map(|it| named(it)));
    carried
}

/// A changed rule; if its pace has not changed, what was taken is not given back.
fn with_pace_of(before: &Rule, rule: &Arc<Rule>) -> Arc<Rule> {
    match (&before.action, &rule.action) {
        (Action::Pace(old), Action::Pace(new)) if old == new => {
            Arc::new(Rule { action: Action::Pace(Arc::clone(old)), ..Rule::clone(rule) })
        }
        _ => Arc::clone(rule),
    }
}

/// Whether two rules do the same, whatever they have met. Taken apart whole, so that a field which
/// is added to rules cannot be forgotten here.
fn says_the_same(one: &Rule, other: &Rule) -> bool {
    let Rule {
        name,
        origin,
        commands,
        keys,
        who,
        shape,
        action,
        mode,
        canary,
        expires,
        message,
        tally: _,
    } = one;
    (name, origin, mode, canary) == (&other.name, &other.origin, &other.mode, &other.canary)
        && commands == &other.commands
        && (keys, who, shape) == (&other.keys, &other.who, &other.shape)
        && (action, message) == (&other.action, &other.message)
        && is_same_end(*expires, other.expires)
}

/// Ends are counted from the reading of a file, so the same one is found again a little aside.
fn is_same_end(one: Option<Micros>, other: Option<Micros>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.abs_diff(other) < SECOND,
        (one, other) => one == other,
    }
}

// === impl Diff ===

impl Diff {
    /// Whether there is no difference.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// In words, at most [`NAMES_MAX`] names of each kind.
    #[must_use]
    pub fn words(&self) -> String {
        let kinds =
            [("added", &self.added), ("removed", &self.removed), ("changed", &self.changed)];
        let mut parts: Vec<String> = kinds
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|it| named(it.0, it.1))
            .collect();
        if self.is_reordered {
            parts.push("rules stand in another order".to_owned());
        }
        if parts.is_empty() { "no rule differs".to_owned() } else { parts.join("; ") }
    }
}

fn named(what: &str, names: &[String]) -> String {
    let shown = names.get(..names.len().min(NAMES_MAX)).unwrap_or_default().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => format!("{what} {shown}"),
        more => format!("{what} {shown} and {more} more"),
    }
}

/// Most names of one kind in a log line.
const NAMES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pace::{Pace, Payer, Per};

    fn rule(name: &str, message: &str) -> Arc<Rule> {
        Arc::new(Rule { message: Some(message.into()), ..Rule::sample(name, Action::Deny) })
    }

    #[test]
    fn a_pace_forgives_nothing_because_its_rule_is_worded_anew() {
        let paced = |rate, message| {
            let pace = Pace::new(Some(rate), None, std::time::Duration::ZERO, Per::Rule);
            let rule = Rule::clone(&rule("slow", message));
            Arc::new(Rule { action: Action::Pace(Arc::new(pace)), ..rule })
        };
        let takes = |rule: &Rule| match &rule.action {
            Action::Pace(pace) => pace.bucket(&Payer::default(), 0).take(0, 0, pace.wait).is_ok(),
            _ => unreachable!("it is a pace"),
        };
        let older = [paced(1, "a")];
        assert!(takes(&older[0]) && !takes(&older[0]));
        let (same, _) = carried_over(&older, &[paced(1, "b")], &mut || ());
        assert!(!takes(&same[0]) && same[0].message.as_deref() == Some("b"));
        let (faster, _) = carried_over(&older, &[paced(2, "a")], &mut || ());
        assert!(takes(&faster[0]));
    }

    #[test]
    fn what_stays_keeps_its_tally_and_what_changes_does_not() {
        let older = [rule("same", "a"), rule("changed", "a"), rule("gone", "a")];
        older.iter().for_each(|rule| rule.tally.note(true));
        let newer = [rule("new", "a"), rule("same", "a"), rule("changed", "b")];
        let (rules, diff) = carried_over(&older, &newer, &mut || ());
        assert!(Arc::ptr_eq(&rules[1], &older[0]));
        assert_eq!(rules.iter().map(|rule| rule.tally.hits()).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(diff.words(), "added new; removed gone; changed changed");
    }

    #[test]
    fn keyspaces_are_told_beside_the_rules_and_keep_what_they_have_met() {
        let keyspace = |name: &str, is_readonly| {
            Arc::new(Keyspace { is_readonly, ..Keyspace::sample(name, "k:*") })
        };
        let older = [keyspace("same", true), keyspace("changed", true), keyspace("gone", true)];
        let newer = [keyspace("same", true), keyspace("changed", false), keyspace("new", true)];
        let mut diff = Diff::default();
        let carried = keyspaces_carried_over(&older, &newer, &mut diff);
        assert!(Arc::ptr_eq(&carried[0], &older[0]) && Arc::ptr_eq(&carried[1], &newer[1]));
        assert_eq!(
            diff.words(),
            "added keyspace new; removed keyspace gone; changed keyspace changed"
        );
        let mut diff = Diff::default();
        let other_way = [Arc::clone(&older[1]), Arc::clone(&older[0]), Arc::clone(&older[2])];
        let _ = keyspaces_carried_over(&older, &other_way, &mut diff);
        assert!(diff.is_reordered);
    }

    #[test]
    fn another_order_is_a_difference_and_an_end_a_moment_later_is_none() {
        let older = [rule("a", "x"), rule("b", "x")];
        let (_, diff) = carried_over(&older, &[rule("b", "x"), rule("a", "x")], &mut || ());
        assert_eq!(diff.words(), "rules stand in another order");
        let ends = |at: Micros| Arc::new(Rule { expires: Some(at), ..(*rule("a", "x")).clone() });
        assert!(
            carried_over(&[ends(9 * SECOND)], &[ends(9 * SECOND + 5)], &mut || ()).1.is_empty()
        );
        assert!(!carried_over(&[ends(9 * SECOND)], &[ends(19 * SECOND)], &mut || ()).1.is_empty());
    }
}

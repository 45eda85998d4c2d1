//! Metrics of the policy in force: its number, its rules and keyspaces, and what they have met.
//!
//! Owns these families, written from the policy itself when somebody scrapes. They never enter the
//! registry: rules come and go with their file. Never shows a rule that has met nothing.
//!
//! What surprises: a counter of a rule that changes begins anew, as Prometheus expects of counters.
//! Beyond [`SERIES_MAX`] series the rules that met least are summed up as `other`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::families;
use super::text::{self, Kind};
use crate::policy::Policy;
use crate::policy::keyspace::Fate;
use crate::policy::rule::Origin;

/// Appends every family.
pub(super) fn write(page: &mut String, policy: &Policy) {
    let version = [(Vec::new(), policy.version as f64)];
    let help = families::help(VERSION);
    text::write_rows(page, VERSION, help, Kind::Gauge, version.into_iter());
    let of = |origin: Origin| policy.rules().iter().filter(|rule| rule.origin == origin).count();
    let rules = Origin::ALL.map(|it| (vec![("origin", it.as_str())], of(it) as f64));
    text::write_rows(page, RULES, families::help(RULES), Kind::Gauge, rules.into_iter());
    let hits = hits(policy);
    let rows = hits
        .iter()
        .map(|(name, result, count)| (vec![("rule", *name), ("result", *result)], *count as f64));
    text::write_rows(page, HITS, families::help(HITS), Kind::Counter, rows);
    let met = met(policy);
    let rows = met
        .iter()
        .map(|(name, fate, count)| (vec![("keyspace", *name), ("fate", *fate)], *count as f64));
    text::write_rows(page, KEYSPACES, families::help(KEYSPACES), Kind::Counter, rows);
}

/// What keyspaces have met: name, what became of it, how often.
fn met(policy: &Policy) -> Vec<(&str, &'static str, u64)> {
    let all = policy.keyspaces().map(|it| it.all()).unwrap_or_default();
    let counts = all.iter().flat_map(|keyspace| {
        Fate::ALL.map(|fate| (&*keyspace.name, fate.as_str(), keyspace.met.of(fate)))
    });
    let rows = counts.filter(|(_, _, count)| *count > 0).collect();
    bounded(rows, Fate::ALL.map(Fate::as_str))
}

/// What rules have met: name, what became of it, how often.
fn hits(policy: &Policy) -> Vec<(&str, &'static str, u64)> {
    let counts = policy.rules().iter().flat_map(|rule| {
        let (hits, refused, spared) =
            (rule.tally.hits(), rule.tally.refused(), rule.tally.spared());
        // Counted one after the other, so they may be a command apart.
        let passed = hits.saturating_sub(refused + spared);
        let by_result = [("refused", refused), ("would_refuse", spared), ("passed", passed)];
        by_result.map(|(result, count)| (&*rule.name, result, count))
    });
    // A file may come to use the name of an emergency rule, and no series may be there twice.
    let mut sums = BTreeMap::new();
    for (name, result, count) in counts.filter(|(_, _, count)| *count > 0) {
        *sums.entry((name, result)).or_default() += count;
    }
    let rows = sums.into_iter().map(|((name, it), count)| (name, it, count)).collect();
    bounded(rows, RESULTS)
}

/// These rows in order; beyond [`SERIES_MAX`] the smallest are summed up.
fn bounded<'p, const N: usize>(
    mut rows: Vec<(&'p str, &'static str, u64)>,
    results: [&'static str; N],
) -> Vec<(&'p str, &'static str, u64)> {
    if rows.len() > SERIES_MAX {
        rows.sort_unstable_by_key(|(_, _, count)| Reverse(*count));
        let rest = rows.split_off(SERIES_MAX - N);
        for of in results {
            let count = rest.iter().filter(|(_, result, _)| *result == of).map(|it| it.2).sum();
            rows.push(("other", of, count));
        }
    }
    rows.sort_unstable();
    rows
}

const VERSION: &str = "breakwater_policy_version";
const RULES: &str = "breakwater_policy_rules";
const HITS: &str = "breakwater_policy_hits_total";
const KEYSPACES: &str = "breakwater_keyspace_commands_total";
/// What becomes of a command that a rule matches.
const RESULTS: [&str; 3] = ["refused", "would_refuse", "passed"];
/// Most series of one family.
const SERIES_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Profile;
    use crate::policy::offence::Deed;
    use crate::policy::rule::{Action, Rule};
    use std::sync::Arc;

    fn policy(names: impl Iterator<Item = String>) -> Policy {
        let rule = |name: String| Rule::sample(&name, Action::Deny);
        Policy::new(7, Profile::Guard, names.map(rule).map(Arc::new).collect())
    }

    #[test]
    fn a_rule_is_shown_once_it_has_met_something() {
        let policy = policy(["a", "b"].into_iter().map(str::to_owned));
        policy.rules()[1].tally.count(Deed::Refused);
        policy.rules()[1].tally.count(Deed::Spared);
        let mut page = String::new();
        write(&mut page, &policy);
        for line in [
            "breakwater_policy_version 7",
            "breakwater_policy_rules{origin=\"file\"} 2",
            "breakwater_policy_rules{origin=\"emergency\"} 0",
            "breakwater_policy_hits_total{rule=\"b\",result=\"refused\"} 1",
            "breakwater_policy_hits_total{rule=\"b\",result=\"would_refuse\"} 1",
        ] {
            assert!(page.lines().any(|it| it == line), "{line} is missing in\n{page}");
        }
        assert!(!page.contains("\"a\"") && !page.contains("passed"));
    }

    #[test]
    fn series_are_bounded_and_nothing_is_lost() {
        let policy = policy((0..2_000).map(|number| format!("r{number}")));
        policy.rules().iter().for_each(|rule| rule.tally.count(Deed::Refused));
        policy.rules()[5].tally.count(Deed::Refused);
        let rows = hits(&policy);
        assert_eq!(rows.len(), SERIES_MAX);
        assert_eq!(rows.iter().map(|row| row.2).sum::<u64>(), 2_001);
        assert!(rows.contains(&("r5", "refused", 2)));
    }
}

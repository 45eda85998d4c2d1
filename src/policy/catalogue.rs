//! The built-in rules: what nobody should do to a shared Redis, and what to do instead.
//!
//! Owns `catalogue.toml`, which is a policy file like an operator's and read by the same parser. Never
//! decides when it counts: the profile does.
//!
//! What surprises: every command that the table knows stands in it, the harmless ones too. A command
//! that nobody has thought about must not be allowed by silence; a test lists those that are missing.

use std::sync::Arc;

use super::file::{self, Clock};
use super::rule::{Origin, Rule};

const TEXT: &str = include_str!("catalogue.toml");

/// All of them, in the order in which they are tried.
///
/// # Panics
/// If `catalogue.toml` does not follow the rules of its own language.
#[must_use]
#[allow(clippy::panic, reason = "the catalogue is part of the program; a test reads it")]
pub fn rules() -> Vec<Arc<Rule>> {
    // No rule of ours ends at some time.
    let clock = Clock { now: 0, unix: 0 };
    match file::parse("catalogue.toml", TEXT, Origin::Catalogue, clock) {
        Ok(rules) => rules.rules,
        Err(complaints) => panic!("the catalogue is broken: {complaints:?}"),
    }
}

/// The rule for what the catalogue does not name.
pub const UNKNOWN: &str = "guard.unknown";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::Table;

    #[test]
    fn every_command_and_subcommand_is_classified_whatever_its_arguments() {
        let (rules, table) = (rules(), Table::builtin());
        let is_classified = |index: usize| {
            let mut named = rules.iter().filter(|rule| &*rule.name != UNKNOWN);
            named.any(|rule| rule.is_unconditional_for(index))
        };
        let forgotten: Vec<&str> = table
            .specs()
            // A container alone is nothing; its subcommands are looked at.
            .filter(|spec| !spec.is_container && !is_classified(spec.id.index()))
            .map(|spec| &*spec.name)
            .collect();
        assert!(forgotten.is_empty(), "add to catalogue.toml: {forgotten:?}");
    }

    #[test]
    fn our_names_say_so_and_every_refusal_says_what_to_do_instead() {
        use crate::policy::rule::Action;
        for rule in rules() {
            assert!(rule.name.starts_with("guard."), "{}", rule.name);
            let refuses = matches!(rule.action, Action::Deny | Action::Bound(_));
            assert_eq!(refuses, rule.message.is_some(), "{}", rule.name);
        }
    }
}

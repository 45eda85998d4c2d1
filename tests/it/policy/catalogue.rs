//! The catalogue against what a real server says of itself.
//!
//! Owns the proof that no command of the local server was forgotten: each one, and each subcommand, must stand in a rule
//! of the catalogue by name. Never judges whether the rule is a good one.

use breakwater::command::table::Table;
use breakwater::policy::catalogue;
use breakwater::policy::rule::Rule;

use crate::support::RedisServer;

/// Names of all commands and subcommands in a reply to COMMAND: each entry is an array of ten that begins with the name
/// and the arity.
fn names(reply: &str) -> Vec<String> {
    let lines: Vec<&str> = reply.lines().collect();
    let entries = lines.windows(4).filter(|entry| {
        entry[0] == "*10" && entry[1].starts_with('$') && entry[3].starts_with(':')
    });
    entries.map(|entry| entry[2].to_owned()).collect()
}

#[test]
fn every_command_that_the_server_knows_is_classified() {
    let redis = RedisServer::start();
    let names = names(&redis.client().text("COMMAND"));
    assert!(names.len() > 300, "the server listed only {} names", names.len());
    for name in ["get", "config|set", "xinfo|stream"] {
        assert!(names.iter().any(|known| known == name), "{name} was not listed");
    }
    let (table, rules) = (Table::builtin(), catalogue::rules());
    let is_classified = |name: &str| {
        let Some(spec) = table.find(name) else {
            return false;
        };
        let names_it = |rule: &Rule| rule.is_unconditional_for(spec.id.index());
        let mut named = rules.iter().filter(|rule| &*rule.name != catalogue::UNKNOWN);
        spec.is_container || named.any(|rule| names_it(rule))
    };
    let forgotten: Vec<&String> = names.iter().filter(|name| !is_classified(name)).collect();
    assert!(forgotten.is_empty(), "add to src/policy/catalogue.toml: {forgotten:?}");
}

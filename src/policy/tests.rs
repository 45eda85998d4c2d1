//! Policies as a whole: which rule decides, and which commands are not looked at.
//!
//! Owns the proof that the plans and the index change nothing about the order in which rules are
//! tried. Shapes, patterns and files have tests of their own.

use super::*;
use crate::command::keys;
use crate::command::table::Table;
use crate::command::tests::Request;

fn policy(profile: Profile, text: &str) -> Policy {
    let clock = Clock { now: 0, unix: 0 };
    let mut rules = file::parse("p", text, Origin::File, clock).unwrap().rules;
    rules.extend(catalogue::rules());
    Policy::new(1, profile, rules)
}

fn rules(lines: &[&str]) -> String {
    let rule = |(number, lines)| format!("[[rule]]\nname = \"r{number}\"\n{lines}\n");
    lines.iter().enumerate().map(rule).collect()
}

/// The rule that decides, and those that were passed on the way.
fn verdict(policy: &Policy, line: &str) -> (String, Vec<String>) {
    let (table, request) = (Table::builtin(), Request::words(line));
    let command = request.command();
    let spec = table.resolve(&command).unwrap();
    if !policy.looks_at(spec.id, command.len()) {
        return ("silence".to_owned(), Vec::new());
    }
    let mut positions = Vec::new();
    let _ = keys::keys(spec, &command, &mut positions);
    let caller = Caller { id: 7, user: b"app", ..Caller::default() };
    let case = Case { spec, command, keys: &positions, caller: &caller, now: 0 };
    let mut passed = Vec::new();
    let decided = policy.judge(&case, &mut |rule| passed.push(rule.name.to_string()));
    (decided.map_or("none".to_owned(), |rule| rule.name.to_string()), passed)
}

fn decides(policy: &Policy, line: &str) -> String {
    verdict(policy, line).0
}

#[test]
fn the_catalogue_refuses_bounds_and_is_silent_about_the_rest() {
    let policy = policy(Profile::Guard, "");
    for (line, rule) in [
        ("KEYS *", "guard.keys"),
        ("FLUSHALL", "guard.flush"),
        ("CONFIG SET a b", "guard.config"),
        ("CONFIG GET a", "silence"),
        ("HGETALL k", "guard.collections"),
        ("LRANGE k 0 -1", "guard.ranges"),
        ("LRANGE k 0 9", "none"),
        ("MGET a b", "silence"),
        ("LPOP k", "silence"),
        ("LPOP k 10", "none"),
        ("SCAN 0 COUNT 100000", "guard.scans"),
        ("GET k", "silence"),
        ("SET k v", "silence"),
        ("PING", "silence"),
        // What is in a script is looked at, and no rule speaks of EVAL itself.
        ("EVAL x 0", "none"),
        ("RENAME a b", "guard.watched"),
    ] {
        assert_eq!(decides(&policy, line), rule, "{line}");
    }
}

#[test]
fn a_command_with_as_many_keys_as_a_rule_allows_is_not_looked_at() {
    let policy = policy(Profile::Guard, "");
    let keys = |count: usize| "k ".repeat(count);
    assert_eq!(decides(&policy, &format!("EXISTS {}", keys(1_000))), "silence");
    assert_eq!(decides(&policy, &format!("EXISTS {}", keys(1_001))), "guard.many-keys");
    assert_eq!(decides(&policy, &format!("MSET {}", keys(2_000))), "none");
    assert_eq!(decides(&policy, &format!("MSET {}", keys(2_002))), "guard.many-sets");
    let exists = Table::builtin().find("exists").unwrap().id;
    assert!(policy.speaks_of(exists));
    assert!(!policy.speaks_of(Table::builtin().find("get").unwrap().id));
}

#[test]
fn in_observe_everything_is_counted_and_nothing_decided() {
    let policy = policy(Profile::Observe, "");
    assert_eq!(verdict(&policy, "KEYS *"), ("none".to_owned(), vec!["guard.keys".to_owned()]));
    assert_eq!(decides(&policy, "GET k"), "silence");
}

#[test]
fn an_open_profile_has_no_rules() {
    let policy = policy(Profile::Open, &rules(&["action = \"deny\""]));
    assert_eq!(decides(&policy, "KEYS *"), "silence");
    assert!(policy.rules().is_empty());
}

#[test]
fn the_first_match_decides_over_rules_with_keys_and_without() {
    let text = rules(&[
        "action = \"allow\"\nkeys = [\"a*\"]",
        "action = \"deny\"\ncommands = [\"GET\"]\nusers = [\"app\"]\nkeys = [\"ab*\", \"b*\"]",
        "action = \"deny\"\ncommands = [\"GET\"]\nusers = [\"other\"]",
        "action = \"observe\"\ncommands = [\"GET\"]",
        "action = \"deny\"\nkeys = [\"c\"]",
    ]);
    let policy = policy(Profile::Guard, &text);
    for (line, rule) in [
        ("GET abc", "r0"),
        ("GET b", "r1"),
        ("GET c", "r3"),
        ("SET c 1", "r4"),
        ("SET d 1", "none"),
        ("KEYS a", "guard.keys"),
        ("PING", "none"),
    ] {
        assert_eq!(decides(&policy, line), rule, "{line}");
    }
}

#[test]
fn a_permission_wants_all_keys_and_a_refusal_one() {
    let text = rules(&[
        "action = \"allow\"\nkeys = [\"a*\", \"aa*\", \"b\"]",
        "action = \"deny\"\nkeys = [\"a*\"]",
    ]);
    let policy = policy(Profile::Guard, &text);
    for (line, rule) in [
        ("MGET aa b", "r0"),
        ("MGET aa aa aa", "r0"),
        ("MGET aaa c", "r1"),
        ("MGET c aa", "r1"),
        ("MGET c b", "none"),
        ("RENAME b ax", "r0"),
        // Redis takes no key for none.
        ("PUBLISH a x", "none"),
        ("SPUBLISH a x", "none"),
    ] {
        assert_eq!(decides(&policy, line), rule, "{line}");
    }
}

#[test]
fn what_only_observes_does_not_open_what_the_next_rule_closes() {
    let text = rules(&[
        "action = \"deny\"\ncommands = [\"GET\"]\nmode = \"observe\"",
        "action = \"deny\"\ncommands = [\"GET\"]\ncanary = 0",
        "action = \"pace\"\ncommands = [\"GET\"]\ncommands_per_second = 5",
        "action = \"deny\"\ncommands = [\"GET\"]\nkeys = [\"k\"]",
    ]);
    let policy = policy(Profile::Guard, &text);
    let passed = ["r0", "r1", "r2"].map(str::to_owned).to_vec();
    assert_eq!(verdict(&policy, "GET k"), ("r3".to_owned(), passed));
}

#[test]
fn an_operators_permission_counts_although_it_changes_nothing() {
    let policy = policy(Profile::Guard, &rules(&["action = \"allow\"\ncommands = [\"GET\"]"]));
    assert_eq!(decides(&policy, "GET k"), "r0");
    assert_eq!(decides(&policy, "SET k v"), "silence");
}

#[test]
fn what_only_a_server_knows_is_judged_by_its_categories() {
    use crate::command::flags::{Categories, Flags};
    use crate::command::overlay::LiveSpec;
    use crate::command::spec::{RequestPolicy, ResponsePolicy};
    let stranger = |name: &str, categories: &[&str]| {
        let categories = categories.iter().filter_map(|name| Categories::from_name(name));
        LiveSpec {
            name: name.to_owned(),
            arity: -1,
            flags: Flags::default(),
            categories: categories.fold(Categories::default(), Categories::union),
            first_key: 0,
            last_key: 0,
            key_step: 0,
            request_policy: RequestPolicy::Default,
            response_policy: ResponsePolicy::Default,
            key_specs: Vec::new(),
            subcommands: Vec::new(),
        }
    };
    let live = vec![stranger("m.wipe", &["dangerous"]), stranger("m.get", &["read"])];
    let table = Table::builtin().overlay(live);
    let policy = policy(Profile::Guard, "");
    let decide = |line: &str| {
        let request = Request::words(line);
        let command = request.command();
        let spec = table.resolve(&command).unwrap();
        let caller = Caller::default();
        let case = Case { spec, command, keys: &[], caller: &caller, now: 0 };
        policy.judge(&case, &mut |_| ()).map(|rule| rule.name.to_string())
    };
    assert_eq!(decide("M.WIPE").as_deref(), Some(catalogue::UNKNOWN));
    assert_eq!(decide("M.GET"), None);
}

#[test]
fn a_rule_ends_when_its_time_is_over() {
    let text = rules(&["action = \"deny\"\ncommands = [\"GET\"]\nexpires = 1970-01-01T00:00:05Z"]);
    let policy = policy(Profile::Guard, &text);
    let (table, request) = (Table::builtin(), Request::words("GET k"));
    let (command, caller) = (request.command(), Caller::default());
    let spec = table.resolve(&command).unwrap();
    let decides = |now| {
        let case = Case { spec, command, keys: &[], caller: &caller, now };
        policy.judge(&case, &mut |_| ()).is_some()
    };
    assert!(decides(4_999_999) && !decides(5_000_000));
}

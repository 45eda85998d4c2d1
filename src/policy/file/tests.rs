//! The language of rules: what each key means, and every complaint with its place.
//!
//! Owns the proof that a file with a mistake is told all of them at once. What surprises: lines are
//! counted by hand, so a test that adds one to a text moves the places below it.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::command::table::Table;
use crate::config::KeyPatterns;
use crate::policy::pace::{Pace, Per};
use crate::policy::rule::{Action, Bound, Mode, Paging, Rewrite, Shape, Who};

/// 2027-01-01T00:00:00Z.
const CLOCK: Clock = Clock { now: 5_000_000, unix: 1_798_761_600 };

fn rules(text: &str) -> Vec<Arc<Rule>> {
    parse("p", text, Origin::File, CLOCK).unwrap().rules
}

fn rule(lines: &str) -> Arc<Rule> {
    let mut rules = rules(&format!("[[rule]]\nname = \"r\"\n{lines}"));
    assert_eq!(rules.len(), 1);
    rules.remove(0)
}

fn complaints(text: &str) -> Vec<String> {
    let complaints = parse("p", text, Origin::File, CLOCK).unwrap_err();
    complaints.iter().map(ToString::to_string).collect()
}

/// Complaints about a rule with a name, whose own lines begin with line 3.
fn of(lines: &str) -> Vec<String> {
    complaints(&format!("[[rule]]\nname = \"r\"\n{lines}"))
}

fn names(commands: &crate::policy::rule::Commands) -> Vec<String> {
    let table = Table::builtin();
    let meant = table.specs().filter(|spec| commands.surely_include(spec.id.index()));
    meant.map(|spec| spec.name.to_string()).collect()
}

#[test]
fn a_rule_is_what_it_says() {
    let rule = rule(
        "commands = [\"HGETALL\", \"memory usage\"]\n\
         keys = [\"user:*\", \"cart:[0-9]*\"]\n\
         listeners = [\"127.0.0.1:6379\"]\n\
         users = [\"app-*\"]\n\
         networks = [\"10.0.0.0/8\", \"::ffff:192.168.0.0/112\", \"fd00::1\"]\n\
         client_names = [\"worker-*\"]\n\
         libraries = [\"redis-py*\"]\n\
         value_above = \"1MiB\"\n\
         word = \"NX\"\n\
         action = \"bound\"\n\
         limit = 10000\n\
         preflight = \"always\"\n\
         mode = \"observe\"\n\
         canary = \"10%\"\n\
         expires = 2027-01-01T01:00:10+01:00\n\
         message = \"use HSCAN\"\n",
    );
    assert_eq!(names(&rule.commands), ["hgetall", "memory|usage"]);
    assert_eq!(rule.keys, Some(KeyPatterns::from_iter(["user:*", "cart:[0-9]*"])));
    let networks = vec![
        (IpAddr::from([10, 0, 0, 0]), 8),
        (IpAddr::from([192, 168, 0, 0]), 16),
        ("fd00::1".parse().unwrap(), 128),
    ];
    let who = Who {
        listeners: vec!["127.0.0.1:6379".into()],
        users: vec!["app-*".into()],
        networks,
        names: vec!["worker-*".into()],
        libraries: vec!["redis-py*".into()],
    };
    assert_eq!(rule.who, Some(who));
    assert_eq!(rule.shape, [Shape::ValueAbove(1 << 20), Shape::Word("NX".into())]);
    assert_eq!(rule.action, Action::Bound(Bound { limit: 10_000, is_always: true }));
    assert_eq!((rule.mode, rule.canary), (Mode::Observe, 10));
    assert_eq!(rule.expires, Some(CLOCK.now + 10_000_000));
    assert_eq!(rule.message.as_deref(), Some("use HSCAN"));
    assert_eq!((&*rule.name, rule.origin), ("r", Origin::File));
}

#[test]
fn what_is_left_out_does_not_matter() {
    let rule = rule("action = \"deny\"\n");
    assert!(rule.commands.all && rule.keys.is_none() && rule.who.is_none());
    assert!(rule.shape.is_empty() && rule.expires.is_none() && rule.message.is_none());
    assert_eq!((rule.mode, rule.canary), (Mode::Enforce, 100));
    assert!(rules("").is_empty());
}

#[test]
fn commands_are_named_in_several_ways() {
    let of = |names: &str| rule(&format!("action = \"deny\"\ncommands = [{names}]\n"));
    assert_eq!(names(&of("\"CONFIG|SET\"").commands), ["config|set"]);
    let xinfo = of("\"XINFO\"");
    assert_eq!(
        names(&xinfo.commands),
        ["xinfo", "xinfo|consumers", "xinfo|groups", "xinfo|help", "xinfo|stream"]
    );
    let scripting = names(&of("\"@Scripting\"").commands);
    assert!(
        scripting.contains(&"eval".to_owned()) && scripting.contains(&"script|load".to_owned())
    );
    let own = of("\"FT.SEARCH\", \"server:WIPE ALL\", \"server:@admin\"");
    assert_eq!(own.commands.categories.len(), 1);
    assert_eq!(own.commands.strangers.concat(), "ft.searchwipe|all");
    assert_eq!(names(&own.commands), [""; 0]);
}

#[test]
fn every_action_has_its_parameters() {
    let action = |lines: &str| rule(lines).action.clone();
    assert_eq!(action("action = \"allow\"\n"), Action::Allow);
    assert_eq!(action("action = \"observe\"\n"), Action::Observe);
    let bound = "action = \"bound\"\nlimit = \"10MiB\"\n";
    assert_eq!(action(bound), Action::Bound(Bound { limit: 10 << 20, is_always: false }));
    let rewrite = |commands: &str, rest: &str| {
        action(&format!("commands = [{commands}]\naction = \"rewrite\"\n{rest}\n"))
    };
    assert_eq!(rewrite("\"DEL\"", "to = \"unlink\""), Action::Rewrite(Rewrite::Unlink));
    assert_eq!(rewrite("\"FLUSHALL\"", "to = \"async\""), Action::Rewrite(Rewrite::Async));
    assert_eq!(
        rewrite("\"SCAN\", \"HSCAN\"", "to = \"clamp\"\ncount = 50"),
        Action::Rewrite(Rewrite::ClampCount(50))
    );
    assert_eq!(rewrite("\"MGET\"", "to = \"batch\""), Action::Rewrite(Rewrite::Batch(100)));
    let paging =
        Paging { page: 500, every: Duration::from_millis(2), max_bytes: 16 << 20, max_elements: 7 };
    assert_eq!(
        rewrite("\"KEYS\"", "to = \"scan\"\nevery = \"2ms\"\nmax_elements = 7"),
        Action::Rewrite(Rewrite::Scan(paging))
    );
    let pace = action(
        "action = \"pace\"\ncommands_per_second = 10\nbytes_per_second = \"1MiB\"\n\
         wait = \"50ms\"\nper = \"user\"\n",
    );
    let expected = Pace::new(Some(10), Some(1 << 20), Duration::from_millis(50), Per::User);
    assert_eq!(pace, Action::Pace(Arc::new(expected)));
    let lines =
        "action = \"pace\"\ncommands_per_second = 10\nper = \"key_prefix\"\nkey_parts = 2\n";
    let expected = Pace::new(Some(10), None, Duration::ZERO, Per::KeyPrefix(2));
    assert_eq!(action(lines), Action::Pace(Arc::new(expected)));
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place() {
    let found = complaints(
        "[[rule]]\n\
         nmae = \"a\"\n\
         action = \"denny\"\n\
         [[rule]]\n\
         name = \"b c\"\n\
         commands = [\"FLUSHAL\", \"CONFIG\", \"@dangeros\", 7]\n\
         action = \"deny\"\n\
         limit = 5\n\
         [[rule]]\n\
         name = \"b\"\n\
         canary = 101\n\
         action = \"pace\"\n\
         keys = []\n\
         networks = [\"10.0.0.0/33\", \"here\"]\n\
         [[rule]]\n\
         name = \"b\"\n\
         expires = 2027-01-01\n\
         action = \"rewrite\"\n\
         to = \"unlink\"\n\
         commands = [\"UNLINK\"]\n\
         page = 5\n",
    );
    assert_eq!(
        found,
        [
            "p:2:1: 'nmae' is not a key of [rule]; did you mean 'name'?",
            "p:3:10: 'denny' is not an action; did you mean 'deny'?",
            "p:5:8: 'b c' cannot be the name of a rule; use letters, digits, '.', '_' and '-', at most 64",
            "p:6:13: 'FLUSHAL' is not a command; did you mean 'flushall'? if only your server has it, write \"server:FLUSHAL\"",
            "p:6:34: '@dangeros' is not a category; did you mean '@dangerous'?",
            "p:6:47: 'commands' is an integer; write a text, in quotes",
            "p:8:9: 'limit' means nothing with action = \"deny\"; it belongs to bound",
            "p:11:10: '101' is not a percentage; write 0 to 100",
            "p:13:8: 'keys' is an empty list, which nothing matches; leave 'keys' out if it shall not matter",
            "p:14:13: '10.0.0.0/33' is not a network; write an address and the length of its prefix, as 10.0.0.0/8 or fd00::/8",
            "p:14:28: 'here' is not a network; write an address and the length of its prefix, as 10.0.0.0/8 or fd00::/8",
            "p:16:8: 'b' is the name of another rule already; see line 10; each rule has a name of its own",
            "p:17:11: 'expires' needs a date, a time and a time zone; write it as 2027-01-31T18:00:00Z or 2027-01-31T18:00:00+01:00",
            "p:20:12: 'unlink' cannot be rewritten to 'unlink'; this rewrite is for DEL",
            "p:21:8: 'page' means nothing with to = \"unlink\"; it belongs to to = \"scan\"",
        ]
    );
}

#[test]
fn a_file_of_another_shape_is_told_what_it_should_be() {
    for (text, complaint) in [
        ("rule = 5", "p:1:8: 'rule' is no list; write each rule below a line [[rule]]"),
        ("[rule]\nname = \"x\"", "p:1:1: 'rule' is no list; write each rule below a line [[rule]]"),
        ("rule = [1]", "p:1:9: 'rule' is no table; write each rule below a line [[rule]]"),
        ("rules = []", "p:1:1: 'rules' is not a key; did you mean 'rule'?"),
        (
            "keyspace = 5",
            "p:1:12: 'keyspace' is no list; write each keyspace below a line [[keyspace]]",
        ),
        (
            "profile = \"guard\"",
            "p:1:1: 'profile' is not a key; it belongs into the configuration, breakwater.toml",
        ),
    ] {
        assert_eq!(complaints(text), [complaint], "{text}");
    }
    assert!(complaints("[[rule]\n")[0].starts_with("p:1:"));
}

#[test]
fn what_could_never_match_or_never_act_is_an_error() {
    for (lines, complaint) in [
        (
            "",
            "p:1:1: a rule without an action; write action = \"deny\", or allow, observe, bound, rewrite or pace",
        ),
        ("action = \"bound\"", "p:3:10: a bound without a limit; write limit = 10000"),
        (
            "action = \"bound\"\nlimit = 5\ncommands = [\"HGETALL\", \"@read\", \"GETBIT\"]",
            "p:5:33: 'GETBIT' cannot be bounded; nothing tells its size before it runs; use deny or pace, or see docs/policy.md for those that can be",
        ),
        (
            "action = \"rewrite\"\ncommands = [\"DEL\"]",
            "p:3:10: a rewrite that does not say to what; write to = \"…\": unlink, async, scan, clamp, batch",
        ),
        (
            "action = \"rewrite\"\nto = \"unlink\"",
            "p:4:6: a rewrite without commands; this rewrite is for DEL",
        ),
        (
            "action = \"pace\"",
            "p:3:10: a pace without a rate; write commands_per_second = 100, bytes_per_second = \"10MiB\" or both",
        ),
        (
            "action = \"pace\"\ncommands_per_second = 0",
            "p:4:23: commands_per_second is 0; write 1 to 100000000",
        ),
        (
            "action = \"pace\"\ncommands_per_second = 5\nkey_parts = 2",
            "p:5:13: 'key_parts' means nothing here; it belongs to per = \"key_prefix\"",
        ),
        (
            "action = \"deny\"\ncommands = [\"PING\", \"FLUSHALL\"]\nkeys = [\"a*\"]",
            "p:4:12: 'keys' can never match: none of these commands has keys; leave 'keys' out",
        ),
        (
            "action = \"deny\"\ncommands = [\"AUTH\", \"RESET\"]",
            "p:4:12: no rule is asked about these commands: they let clients in, or out; limit who connects by [[listener]] and its users instead",
        ),
        (
            "action = \"deny\"\ncommands = [\"GET\"]\nspan_above = 5",
            "p:4:12: 'span_above' says nothing about any of these commands; leave it out, or see docs/policy.md for what it is for",
        ),
        (
            "action = \"deny\"\nunlimited = false",
            "p:4:13: 'unlimited' can only be true; leave it out; a rule for the others comes behind",
        ),
        (
            "action = \"allow\"\nmode = \"observe\"",
            "p:4:8: 'mode' means nothing with action = \"allow\"; it belongs to bound, rewrite, deny, pace",
        ),
        (
            "action = \"deny\"\ncommands = []",
            "p:4:12: an empty list of commands; name some, or leave 'commands' out for all of them",
        ),
        (
            "action = \"deny\"\nkeys = [\"\"]",
            "p:4:9: 'keys' has an empty text; write a pattern as for KEYS",
        ),
        (
            "action = \"deny\"\nmessage = \"a\\nb\"",
            "p:4:11: 'message' holds a line end or another control character; it is one line of an error",
        ),
    ] {
        assert_eq!(of(lines), [complaint], "{lines}");
    }
    let ours = complaints("[[rule]]\nname = \"guard.x\"\naction = \"deny\"\n");
    assert_eq!(ours.len(), 1);
    assert!(ours[0].contains("are the built-in rules'"), "{ours:?}");
    let nameless = complaints("[[rule]]\naction = \"deny\"\n");
    assert!(nameless[0].starts_with("p:1:1: a rule without a name"), "{nameless:?}");
}

#[test]
fn a_rule_whose_time_is_over_is_noted_and_kept() {
    let text = "[[rule]]\nname = \"r\"\naction = \"deny\"\nexpires = 2026-12-31T23:59:59Z\n";
    let Rules { rules, notes, .. } = parse("p", text, Origin::File, CLOCK).unwrap();
    assert!(rules[0].expires.unwrap() <= CLOCK.now);
    let note = "p:4:11: the time of this rule is over; it does nothing; remove it";
    assert_eq!(notes.iter().map(ToString::to_string).collect::<Vec<_>>(), [note]);
}

#[test]
fn moments_become_seconds() {
    for (text, now) in [
        ("2027-01-01T00:00:01Z", 1),
        ("2027-01-01T00:00:00-02:30", 9_000),
        ("2028-02-29T00:00:00Z", 36_633_600),
        ("2028-03-01T12:00:00.5Z", 36_763_200),
    ] {
        let rule = rule(&format!("action = \"deny\"\nexpires = {text}\n"));
        assert_eq!(rule.expires, Some(CLOCK.now + now * 1_000_000), "{text}");
    }
}

#[test]
fn there_are_not_too_many_rules() {
    let one = |number: usize| format!("[[rule]]\nname=\"r{number}\"\naction=\"allow\"\n");
    let text: String = (0..RULES_MAX + 2).map(one).collect();
    let found = complaints(&text);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("20002 rules are more than 20000"), "{found:?}");
}

const KEYSPACE: &str = "[[keyspace]]\nname = \"k\"\nkeys = [\"k:*\"]\n";

#[test]
fn a_keyspace_is_read_with_its_defaults() {
    let text = format!(
        "{KEYSPACE}read_from = \"prefer-replica\"\nwhen_primary_away = \"replica\"\n\
         wait = \"1s\"\nclient_timeout = \"2s\"\nmin_replicas = 2\nconfirm = {{ replicas = 1 }}\n"
    );
    let Rules { rules, keyspaces, .. } = parse("p", &text, Origin::File, CLOCK).unwrap();
    assert!(rules.is_empty());
    let [keyspace] = &keyspaces[..] else { panic!("one was written") };
    assert_eq!(&*keyspace.name, "k");
    assert_eq!(keyspace.keys, KeyPatterns::from_iter(["k:*"]));
    assert_eq!(
        keyspace.words(),
        "reads from prefer-replica, reads from a replica while the primary is away, at most 10s \
         behind, writes while 2 replicas are within 10s, writes are confirmed by 1 within 100ms, \
         waits 1s for a failover, clients give up after 2s"
    );
    let readonly = format!("{KEYSPACE}mode = \"readonly\"\n");
    let Rules { keyspaces, .. } = parse("p", &readonly, Origin::File, CLOCK).unwrap();
    assert!(keyspaces[0].is_readonly && !keyspaces[0].may_leave_primary());
}

#[test]
fn what_is_wrong_with_a_keyspace_is_told_with_its_place() {
    for (more, complaint) in [
        ("", "p:1:1: a keyspace that changes nothing; write read_from, when_primary_away, wait,…"),
        (
            "read_from = \"replicas\"",
            "p:4:13: 'replicas' is not a source of reads; did you mean 'replica'?",
        ),
        ("when_primary_away = \"wait\"", "p:4:21: 'wait' is not an answer to a primary that is…"),
        ("mode = \"reed\"", "p:4:8: 'reed' is not a mode; …"),
        ("wait = \"2m\"", "p:4:8: wait is 2m; write 0s to 1m"),
        ("max_lag = \"1s\"\nmode = \"readonly\"", "p:4:11: 'max_lag' means nothing here: no…"),
        (
            "wait = \"1s\"\nclient_timeout = \"1s\"",
            "p:4:8: 'wait' is more than 0.8 of 'client_timeout'; clients would give up before…",
        ),
        (
            "mode = \"readonly\"\nmin_replicas = 1",
            "p:5:16: 'min_replicas' means nothing with mode = \"readonly\"; no write gets that far",
        ),
        ("min_replicas = 0", "p:4:16: min_replicas is 0; write 1 to 100"),
        ("confirm = { replica = 1 }", "p:4:13: 'replica' is not a key of [keyspace.confirm]; did…"),
        ("collapse = true", "p:4:1: 'collapse' is not a key of [keyspace]; this build does not…"),
        (
            "action = \"deny\"",
            "p:4:1: 'action' is not a key of [keyspace]; it belongs into a [[rule]]",
        ),
        ("red_from = \"replica\"", "p:4:1: 'red_from' is not a key of [keyspace]; did you mean…"),
    ] {
        let found = complaints(&format!("{KEYSPACE}{more}\n"));
        let is_like = |found: &String| match complaint.strip_suffix('…') {
            Some(start) => found.starts_with(start),
            None => found == complaint,
        };
        assert!(
            matches!(&found[..], [one] if is_like(one)),
            "{more}\nwanted {complaint}\ngot {found:?}"
        );
    }
    let nameless = "[[keyspace]]\nmode = \"readonly\"\n";
    assert_eq!(complaints(nameless).len(), 2, "{:?}", complaints(nameless));
    let twice = format!("{KEYSPACE}mode = \"readonly\"\n{KEYSPACE}mode = \"readonly\"\n");
    assert_eq!(
        complaints(&twice),
        [
            "p:6:8: 'k' is the name of another keyspace already; see line 2; each keyspace has a name of its own"
        ]
    );
}

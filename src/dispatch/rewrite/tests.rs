//! Rewrites and paces without sockets: what is queued, what the client is told, and when.
//!
//! What surprises: the clock is the process's own, so tests of time set the worker's and look at
//! what is due then.

use std::time::Duration;

use super::*;
use crate::command::spec::CommandId;
use crate::command::table::{BUILTIN_COUNT, Table};
use crate::config::Profile;
use crate::dispatch::departure;
use crate::policy::Policy;
use crate::policy::pace::{Exhausted, Pace, Payer, Per};
use crate::policy::rule::{Action, Commands, Mode};
use crate::resp::write;
use crate::session::state::SessionId;
use crate::topology::slots::SlotMap;
use crate::upstream::rig::Rig;

fn line(words: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    let mut bytes = Vec::new();
    write::command(&mut bytes, &words);
    bytes
}

fn id(name: &str) -> CommandId {
    let table = Table::builtin();
    let bytes = line(name);
    frame::with_command(&table, &bytes, |_, spec| spec.id).unwrap()
}

fn rule(name: &str, commands: &[&str], action: Action) -> Arc<Rule> {
    let mut builtin = vec![false; BUILTIN_COUNT];
    for command in commands {
        builtin[id(command).index()] = true;
    }
    Arc::new(Rule {
        commands: Commands { builtin, ..Commands::default() },
        ..Rule::sample(name, action)
    })
}

fn paging() -> Paging {
    let every = Duration::from_millis(1);
    Paging { page: 10, every, max_bytes: 1 << 20, max_elements: 1000 }
}

/// A client with an open lane, under these rules.
fn under(mut rig: Rig, rules: Vec<Arc<Rule>>) -> (Rig, SessionId) {
    let ann = rig.client();
    rig.open_lane_of(ann);
    rig.take(ann);
    rig.worker.shared.policy.store(Arc::new(Policy::new(7, Profile::Guard, rules)));
    (rig, ann)
}

fn scan() -> Vec<Arc<Rule>> {
    let scan = Action::Rewrite(Rewrite::Scan(paging()));
    vec![rule("pages", &["KEYS", "HGETALL", "SMEMBERS"], scan)]
}

fn told(rig: &mut Rig, client: SessionId) -> String {
    String::from_utf8(rig.take(client)).unwrap()
}

/// The node answers what it was sent.
fn answer(rig: &mut Rig, bytes: &str) {
    rig.hand_over_all();
    rig.answer(bytes.as_bytes()).unwrap();
}

/// Time passes, and the client's command is looked at again.
fn later(rig: &mut Rig, client: SessionId) {
    std::thread::sleep(Duration::from_millis(2));
    rig.resume(client);
}

fn held(rig: &Rig, client: SessionId) -> usize {
    rig.worker.sessions.get(client).unwrap().gathered()
}

#[test]
fn pages_are_asked_for_one_after_the_other_and_become_one_answer() {
    let (mut rig, ann) = under(Rig::new(), scan());
    rig.say(ann, &[line("HGETALL h"), line("GET behind")].concat());
    assert_eq!(rig.queued(), line("HSCAN h 0 COUNT 10"));
    answer(&mut rig, "*2\r\n$1\r\n7\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n");
    rig.resume(ann);
    later(&mut rig, ann);
    assert_eq!(rig.queued(), line("HSCAN h 7 COUNT 10"));
    assert!(held(&rig, ann) > 0);
    answer(&mut rig, "*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$1\r\n2\r\n");
    rig.resume(ann);
    assert_eq!(told(&mut rig, ann), "*2\r\n$1\r\na\r\n$1\r\n2\r\n");
    assert_eq!(rig.queued(), line("GET behind"));
    assert_eq!(held(&rig, ann), 0);
}

#[test]
fn a_page_that_nobody_can_be_asked_for_fails_with_the_operator_s_word() {
    use crate::config::UnavailableError::{ClusterDown, Err};
    for (word, want) in
        [(Err, "-ERR breakwater: not executed"), (ClusterDown, "-CLUSTERDOWN breakwater: ")]
    {
        let mut rig = Rig::with(|upstream| upstream.unavailable_error = word);
        let ann = rig.client();
        rig.worker.shared.policy.store(Arc::new(Policy::new(7, Profile::Guard, scan())));
        rig.say(ann, &line("HGETALL h"));
        rig.focus_on(ann).fail_dial();
        rig.resume(ann);
        let told = told(&mut rig, ann);
        assert!(told.starts_with(want) && told.lines().count() == 1, "{told}");
        assert_eq!(rig.closing(ann).is_some(), word == ClusterDown);
    }
}

#[test]
fn a_page_is_not_asked_for_before_its_time() {
    let every = Duration::from_secs(3600);
    let scan = Action::Rewrite(Rewrite::Scan(Paging { every, ..paging() }));
    let (mut rig, ann) = under(Rig::new(), vec![rule("pages", &["KEYS"], scan)]);
    rig.say(ann, &line("KEYS *"));
    assert_eq!(rig.queued(), line("SCAN 0 MATCH * COUNT 10"));
    answer(&mut rig, "*2\r\n$1\r\n7\r\n*0\r\n");
    for _ in 0..3 {
        later(&mut rig, ann);
        assert_eq!(rig.queued(), b"");
    }
}

#[test]
fn errors_of_the_node_are_the_answer_and_caps_are_named() {
    let (mut rig, ann) = under(Rig::new(), scan());
    rig.say(ann, &line("SMEMBERS s"));
    answer(&mut rig, "-WRONGTYPE x\r\n");
    rig.resume(ann);
    assert_eq!(told(&mut rig, ann), "-WRONGTYPE x\r\n");
    let scan = Action::Rewrite(Rewrite::Scan(Paging { max_elements: 1, ..paging() }));
    let (mut rig, ann) = under(Rig::new(), vec![rule("pages", &["SMEMBERS"], scan)]);
    rig.say(ann, &line("SMEMBERS s"));
    answer(&mut rig, "*2\r\n$1\r\n9\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    rig.resume(ann);
    assert_eq!(
        told(&mut rig, ann),
        "-ERR breakwater: SMEMBERS s refused: its answer has more than 1 elements; read it page by \
         page with SSCAN, or raise max_elements (rule pages, policy 7)\r\n"
    );
    assert_eq!((held(&rig, ann), rig.queued()), (0, Vec::new()));
}

#[test]
fn whoever_has_gone_has_no_more_pages_fetched() {
    let (mut rig, ann) = under(Rig::new(), scan());
    rig.say(ann, &line("KEYS *"));
    answer(&mut rig, "*2\r\n$1\r\n7\r\n*0\r\n");
    rig.leave(ann);
    assert_eq!(rig.queued(), b"");
    let permits: Vec<_> = std::iter::from_fn(|| rig.worker.assemblies.take()).collect();
    assert_eq!(permits.len(), 8, "its place is free");
}

#[test]
fn only_so_many_answers_are_put_together_at_a_time() {
    let (mut rig, _) = under(Rig::new(), scan());
    let clients: Vec<SessionId> = (0..9).map(|_| rig.client()).collect();
    for &client in &clients {
        rig.say(client, &line("KEYS *"));
    }
    assert_eq!(rig.queued(), line("SCAN 0 MATCH * COUNT 10").repeat(8));
    answer(&mut rig, "*2\r\n$1\r\n0\r\n*0\r\n");
    rig.resume(clients[0]);
    assert_eq!(told(&mut rig, clients[0]), "*0\r\n");
    later(&mut rig, clients[8]);
    assert_eq!(rig.queued(), line("SCAN 0 MATCH * COUNT 10"));
}

#[test]
fn a_scan_of_the_whole_cluster_goes_from_node_to_node() {
    let (mut rig, _) = under(Rig::before_cluster(2), scan());
    let ann = rig.client();
    rig.say(ann, &line("KEYS *"));
    rig.focus_on_node(0).hand_over_all();
    rig.answer(b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n").unwrap();
    rig.resume(ann);
    later(&mut rig, ann);
    rig.focus_on_node(1).hand_over_all();
    rig.answer(b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nb\r\n").unwrap();
    rig.resume(ann);
    later(&mut rig, ann);
    assert_eq!(told(&mut rig, ann), "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
}

#[test]
fn a_scan_that_waits_for_a_newer_map_goes_on_when_that_is_there() {
    let (mut rig, _) = under(Rig::before_cluster(1), scan());
    let ann = rig.client();
    rig.say(ann, &line("KEYS *"));
    for cursor in ["7", "0"] {
        rig.focus_on_node(0);
        answer(&mut rig, &format!("*2\r\n$1\r\n{cursor}\r\n*1\r\n$1\r\na\r\n"));
        rig.resume(ann);
        later(&mut rig, ann);
    }
    assert_eq!(told(&mut rig, ann), "", "slots may have moved since it began");
    let known = rig.worker.shared.topology.load_full();
    let map = known.slots.as_ref().unwrap();
    let (members, slots) = (Arc::clone(&map.members), map.slots().to_vec());
    let newer = SlotMap::new(map.version, u64::MAX, members, Arc::from([]), slots);
    rig.worker.shared.topology.store(Arc::new(known.with_slots(newer)));
    // The answer is known without a question, so nobody's reply wakes the session.
    rig.resume(ann);
    drop(rig.worker.touched.take());
    rig.worker.sessions.get_mut(ann).unwrap().touched = false;
    rig.worker.now += MILLISECOND;
    departure::due(&mut rig.worker);
    assert_eq!(rig.worker.touched.take(), [ann]);
    rig.resume(ann);
    assert_eq!(told(&mut rig, ann), "*1\r\n$1\r\na\r\n");
}

#[test]
fn a_node_that_is_away_ends_the_answer_with_its_error() {
    let (mut rig, _) = under(Rig::before_cluster(2), scan());
    let ann = rig.client();
    rig.say(ann, &line("KEYS *"));
    rig.focus_on_node(0).hand_over_all();
    rig.answer(b"-LOADING x\r\n").unwrap();
    rig.resume(ann);
    assert_eq!(told(&mut rig, ann), "-LOADING x\r\n");
    assert!(rig.worker.sessions.get(ann).unwrap().errand.is_none());
}

#[test]
fn another_command_goes_in_the_place_of_one() {
    let rules = vec![
        rule("unlink", &["DEL"], Action::Rewrite(Rewrite::Unlink)),
        rule("async", &["FLUSHALL"], Action::Rewrite(Rewrite::Async)),
        rule("clamp", &["SCAN"], Action::Rewrite(Rewrite::ClampCount(100))),
    ];
    let (mut rig, ann) = under(Rig::new(), rules);
    for (asked, sent, reply) in [
        ("DEL a b", "UNLINK a b", ":2\r\n"),
        ("FLUSHALL", "FLUSHALL ASYNC", "+OK\r\n"),
        ("SCAN 0 COUNT 900", "SCAN 0 COUNT 100", "*2\r\n$1\r\n0\r\n*0\r\n"),
    ] {
        rig.say(ann, &line(asked));
        assert_eq!(rig.focus_on(ann).queued(), line(sent));
        answer(&mut rig, reply);
        assert_eq!(told(&mut rig, ann), reply);
    }
}

#[test]
fn many_keys_go_in_batches_and_come_back_in_their_order() {
    let batch = || rule("batch", &["MGET", "DEL"], Action::Rewrite(Rewrite::Batch(2)));
    let (mut rig, ann) = under(Rig::new(), vec![batch()]);
    rig.say(ann, &[line("GET x"), line("MGET a b c d e"), line("GET y")].concat());
    let parts = [line("MGET a b"), line("MGET c d"), line("MGET e")].concat();
    assert_eq!(rig.queued(), [line("GET x"), parts, line("GET y")].concat());
    answer(&mut rig, ":0\r\n*2\r\n:1\r\n$-1\r\n*2\r\n:3\r\n:4\r\n*1\r\n:5\r\n:6\r\n");
    assert_eq!(told(&mut rig, ann), ":0\r\n*5\r\n:1\r\n$-1\r\n:3\r\n:4\r\n:5\r\n:6\r\n");
    rig.say(ann, &line("DEL a b c"));
    answer(&mut rig, ":2\r\n-MISCONF x\r\n");
    let error = told(&mut rig, ann);
    assert!(error.starts_with("-ERR breakwater: partly executed: 1 of 2 parts"), "{error}");
}

#[test]
fn in_a_cluster_each_slot_s_part_is_cut_as_well() {
    let batch = rule("batch", &["MGET"], Action::Rewrite(Rewrite::Batch(2)));
    let (mut rig, _) = under(Rig::before_cluster(2), vec![batch]);
    let ann = rig.client();
    rig.say(ann, &line("MGET {b}1 {b}2 {a}1 {b}3"));
    assert_eq!(rig.focus_on_node(0).queued(), [line("MGET {b}1 {b}2"), line("MGET {b}3")].concat());
    assert_eq!(rig.focus_on_node(1).queued(), line("MGET {a}1"));
    answer(&mut rig, "*1\r\n:3\r\n");
    rig.focus_on_node(0);
    answer(&mut rig, "*2\r\n:1\r\n:2\r\n*1\r\n:4\r\n");
    assert_eq!(told(&mut rig, ann), "*4\r\n:1\r\n:2\r\n:3\r\n:4\r\n");
}

#[test]
fn a_lost_connection_with_batches_on_it_says_what_has_run() {
    let batch = rule("batch", &["DEL"], Action::Rewrite(Rewrite::Batch(1)));
    let (mut rig, ann) = under(Rig::new(), vec![batch]);
    rig.say(ann, &line("DEL a b c"));
    rig.hand_over(line("DEL a").len() * 2);
    rig.answer(b":1\r\n").unwrap();
    rig.lose();
    let error = told(&mut rig, ann);
    assert!(error.starts_with("-ERR breakwater: outcome unknown: 1 of 3 parts"), "{error}");
    assert_eq!(rig.queued(), b"", "the third part would be out of order");
}

/// A rule that lets so many GETs a second come.
fn paced(commands: Option<u64>, bytes: Option<u64>, wait: u64) -> Vec<Arc<Rule>> {
    let pace = Pace::new(commands, bytes, Duration::from_millis(wait), Per::Rule);
    vec![rule("slow-down", &["GET", "KEYS"], Action::Pace(Arc::new(pace)))]
}

#[test]
fn whoever_is_too_fast_is_told_which_rule_says_so() {
    let (mut rig, ann) = under(Rig::new(), paced(Some(3), None, 0));
    rig.say(ann, &line("GET a").repeat(4));
    assert_eq!(rig.queued(), line("GET a").repeat(3));
    answer(&mut rig, ":1\r\n:2\r\n:3\r\n");
    assert_eq!(
        told(&mut rig, ann),
        ":1\r\n:2\r\n:3\r\n-ERR breakwater: 'get' refused: rule slow-down allows 3 commands/s \
         (policy 7); slow down\r\n"
    );
}

#[test]
fn whoever_may_wait_pays_once_and_keeps_its_order() {
    let (mut rig, ann) = under(Rig::new(), paced(Some(10), None, 10_000));
    rig.say(ann, &[line("GET a").repeat(11), line("PING")].concat());
    let asked = line("GET a").len();
    assert_eq!(rig.queued().len(), 10 * asked);
    for _ in 0..5 {
        // Looked at again and again, it pays no more.
        rig.resume(ann);
    }
    std::thread::sleep(Duration::from_millis(105));
    rig.resume(ann);
    let want = [line("GET a").repeat(11), line("PING")].concat();
    assert_eq!(rig.queued().len(), want.len());
    rig.say(ann, &line("GET a"));
    std::thread::sleep(Duration::from_millis(105));
    rig.resume(ann);
    assert_eq!(rig.queued().len(), want.len() + asked, "a second one waits as long as the first");
}

#[test]
fn a_reply_is_charged_to_the_rule_that_let_its_command_pass() {
    let (mut rig, ann) = under(Rig::new(), paced(None, Some(1000), 0));
    rig.say(ann, &line("GET a"));
    answer(&mut rig, &format!("$100000\r\n{}\r\n", "x".repeat(100_000)));
    rig.take(ann);
    rig.say(ann, &line("GET a"));
    let error = told(&mut rig, ann);
    assert!(error.contains("rule slow-down allows 1000 bytes/s"), "{error}");
    rig.say(ann, &line("PING"));
    assert_eq!(rig.focus_on(ann).queued(), line("PING"), "other commands are not paced");
}

/// Such a rule, only tried out, and its client.
fn on_trial(commands: Option<u64>, bytes: Option<u64>) -> (Rig, SessionId, Arc<Rule>) {
    let rules = paced(commands, bytes, 0);
    let trial = Arc::new(Rule { mode: Mode::Observe, ..Rule::clone(&rules[0]) });
    let (rig, ann) = under(Rig::new(), vec![Arc::clone(&trial)]);
    (rig, ann, trial)
}

#[test]
fn a_rule_on_trial_lets_everybody_pass_and_counts_whom_it_would_have_refused() {
    let (mut rig, ann, rule) = on_trial(Some(3), None);
    rig.say(ann, &line("GET a").repeat(9));
    assert_eq!(rig.queued(), line("GET a").repeat(9));
    assert_eq!((rule.tally.hits(), rule.tally.spared(), rule.tally.refused()), (9, 6, 0));
    for _ in 0..3 {
        rig.resume(ann);
    }
    assert_eq!(rule.tally.hits(), 9);
    assert_eq!(rule.tally.offenders().last.map(|it| it.command), Some("get".to_owned()));
}

#[test]
fn a_rule_on_trial_is_charged_for_replies_like_any_other() {
    let (mut rig, ann, rule) = on_trial(None, Some(1000));
    rig.say(ann, &line("GET a"));
    answer(&mut rig, &format!("$100000\r\n{}\r\n", "x".repeat(100_000)));
    rig.take(ann);
    rig.say(ann, &line("GET a"));
    assert_eq!(rig.focus_on(ann).queued(), line("GET a"));
    assert_eq!((rule.tally.hits(), rule.tally.spared()), (2, 1));
}

#[test]
fn an_answer_in_pages_is_charged_whole_and_its_command_once() {
    let rules = [paced(Some(1), Some(1_000_000), 0), scan()].concat();
    let (mut rig, ann) = under(Rig::new(), rules.clone());
    rig.say(ann, &line("KEYS *"));
    let long = "x".repeat(900_000);
    let page = format!("*2\r\n$1\r\nb\r\n$900000\r\n{long}\r\n");
    rig.worker.shared.policy.store(Arc::new(Policy::new(8, Profile::Guard, rules.clone())));
    answer(&mut rig, "*2\r\n$1\r\n7\r\n*1\r\n$1\r\nb\r\n");
    later(&mut rig, ann);
    later(&mut rig, ann);
    assert_eq!(rig.queued(), line("SCAN 7 MATCH * COUNT 10"), "it has paid already");
    answer(&mut rig, &format!("*2\r\n$1\r\n0\r\n{page}"));
    rig.resume(ann);
    assert!(told(&mut rig, ann).starts_with("*2\r\n$1\r\nb\r\n$900000\r\n"));
    let now = rig.worker.now;
    let Action::Pace(pace) = &rules[0].action else {
        unreachable!("it is a pace");
    };
    let bucket = pace.bucket(&Payer::default(), now);
    bucket.charge(now, 150_000);
    assert_eq!(bucket.take(now, 1, Duration::ZERO), Err(Exhausted::Bytes));
}

#[test]
fn whoever_waits_for_us_is_not_idle() {
    let (mut rig, ann) = under(Rig::new(), [scan(), paced(Some(1), None, 60_000)].concat());
    let bob = rig.client();
    rig.say(ann, &line("HGETALL h"));
    answer(&mut rig, "*2\r\n$1\r\n7\r\n*0\r\n");
    rig.say(bob, &line("GET a").repeat(2));
    let now = rig.worker.now;
    for client in [ann, bob] {
        let session = rig.worker.sessions.get(client).unwrap();
        assert!(session.waits_for_its_turn(now), "{client:?}");
    }
}

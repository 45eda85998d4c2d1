//! What rules leave behind, without sockets: transactions that end, counts, questions of commands
//! that were answered otherwise.
//!
//! What surprises: a whole transaction goes to a shared lane, one in pieces to a connection of its
//! own, so each look at what was sent follows the client's last command.

use std::sync::Arc;

use super::*;
use crate::config::Profile;
use crate::policy::file::{self, Clock};
use crate::policy::rule::Origin;
use crate::resp::write;
use crate::session::state::SessionId;
use crate::upstream::rig::Rig;

fn line(words: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    let mut bytes = Vec::new();
    write::command(&mut bytes, &words);
    bytes
}

fn lines(commands: &[&str]) -> Vec<u8> {
    commands.iter().flat_map(|words| line(words)).collect()
}

/// One rule of that name.
fn rule(name: &str, commands: &str, rest: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\ncommands = [{commands}]\n{rest}\n")
}

/// A client under these rules.
fn under(mut rig: Rig, profile: Profile, text: &str) -> (Rig, SessionId) {
    let ann = rig.client();
    let clock = Clock { now: 0, unix: 0 };
    let rules = file::parse("p", text, Origin::File, clock).unwrap().rules;
    rig.worker.shared.policy.store(Arc::new(Policy::new(7, profile, rules)));
    (rig, ann)
}

fn told(rig: &mut Rig, client: SessionId) -> String {
    String::from_utf8(rig.take(client)).unwrap()
}

/// The client says something, and the node answers what it was sent of it.
fn say(rig: &mut Rig, client: SessionId, words: &str, reply: &str) {
    rig.say(client, &line(words));
    rig.focus_on(client).hand_over_all();
    rig.answer(reply.as_bytes()).unwrap();
}

fn is_free(rig: &Rig, client: SessionId) -> bool {
    rig.worker.sessions.get(client).unwrap().pin.is_none()
}

const ABORTED: &str = "-EXECABORT Transaction discarded because of: NOPERM breakwater: 'exec' is \
     denied by rule no (policy 7)\r\n";

#[test]
fn an_exec_that_is_denied_ends_its_transaction() {
    let text = rule("no", "\"EXEC\"", "action = \"deny\"");
    let (mut rig, ann) = under(Rig::new(), Profile::Guard, &text);
    say(&mut rig, ann, "MULTI", "+OK\r\n");
    say(&mut rig, ann, "GET a", "+QUEUED\r\n");
    rig.say(ann, &lines(&["EXEC", "GET b"]));
    assert_eq!(rig.focus_on(ann).queued(), line("DISCARD"));
    rig.hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    assert_eq!(told(&mut rig, ann), format!("+OK\r\n+QUEUED\r\n{ABORTED}"));
    assert!(is_free(&rig, ann), "the connection is another's");
    rig.resume(ann);
    assert_eq!(rig.focus_on(ann).queued(), line("GET b"));
    // One that arrives whole is no way around the rule.
    let (mut rig, ann) = under(Rig::new(), Profile::Guard, &text);
    rig.say(ann, &lines(&["MULTI", "GET a", "EXEC"]));
    assert_eq!(rig.focus_on(ann).queued(), line("MULTI"));
    // In a cluster it is kept here.
    let (mut rig, ann) = under(Rig::before_cluster(2), Profile::Guard, &text);
    for words in ["MULTI", "GET a", "EXEC"] {
        rig.say(ann, &line(words));
    }
    assert_eq!(told(&mut rig, ann), format!("+OK\r\n+QUEUED\r\n{ABORTED}"));
    assert!(is_free(&rig, ann));
    rig.say(ann, &line("EXEC"));
    assert_eq!(
        told(&mut rig, ann),
        "-NOPERM breakwater: 'exec' is denied by rule no (policy 7)\r\n"
    );
}

#[test]
fn what_gives_a_transaction_up_is_never_refused() {
    for action in ["action = \"deny\"", "action = \"pace\"\ncommands_per_second = 1"] {
        let text = rule("no", "\"DISCARD\", \"UNWATCH\", \"RESET\", \"QUIT\"", action);
        let (mut rig, ann) = under(Rig::new(), Profile::Guard, &text);
        for _ in 0..3 {
            say(&mut rig, ann, "WATCH k", "+OK\r\n");
            say(&mut rig, ann, "UNWATCH", "+OK\r\n");
            say(&mut rig, ann, "MULTI", "+OK\r\n");
            say(&mut rig, ann, "DISCARD", "+OK\r\n");
            assert_eq!(told(&mut rig, ann), "+OK\r\n".repeat(4), "{action}");
            assert!(is_free(&rig, ann), "{action}");
            rig.say(ann, &lines(&["MULTI", "GET a", "DISCARD"]));
            assert_eq!(rig.focus_on(ann).queued(), lines(&["MULTI", "GET a", "DISCARD"]));
            rig.hand_over_all();
            rig.answer(b"+OK\r\n+QUEUED\r\n+OK\r\n").unwrap();
            rig.take(ann);
        }
        rig.say(ann, &lines(&["RESET", "QUIT"]));
        assert_eq!(told(&mut rig, ann), "+RESET\r\n+OK\r\n");
    }
}

#[test]
fn no_pace_holds_up_what_begins_and_ends_a_transaction() {
    let text = rule("slow", "\"@transaction\"", "action = \"pace\"\ncommands_per_second = 1");
    let (mut rig, ann) = under(Rig::new(), Profile::Guard, &text);
    for _ in 0..3 {
        for words in ["WATCH k", "UNWATCH", "WATCH k", "MULTI"] {
            say(&mut rig, ann, words, "+OK\r\n");
        }
        say(&mut rig, ann, "EXEC", "*0\r\n");
        assert_eq!(told(&mut rig, ann), format!("{}*0\r\n", "+OK\r\n".repeat(4)));
    }
}

#[test]
fn what_was_sent_behind_a_refused_multi_or_watch_does_not_run() {
    for refused in ["MULTI", "WATCH k"] {
        let name = refused.split(' ').next().unwrap();
        let text = rule("no", &format!("\"{name}\""), "action = \"deny\"");
        let (mut rig, ann) = under(Rig::new(), Profile::Guard, &text);
        rig.open_lane_of(ann).take(ann);
        rig.say(ann, &lines(&[refused, "MULTI", "SET a 1", "EXEC"]));
        let told = told(&mut rig, ann);
        let begin = format!("-NOPERM breakwater: '{}' is denied", name.to_lowercase());
        assert!(told.starts_with(&begin), "{told}");
        let is_block = refused != "MULTI";
        let errors = told.matches("-ERR breakwater: not executed: the MULTI or WATCH").count();
        assert_eq!((errors, told.lines().count()), (if is_block { 1 } else { 3 }, 4), "{told}");
        assert_eq!(rig.queued(), b"", "{refused}");
        // What is sent once the client knows runs.
        rig.say(ann, &line("GET b"));
        assert_eq!(rig.queued(), line("GET b"));
    }
}

/// Somebody else answers for the client's command, as before AUTH; then all is as it was.
fn refuse_next(rig: &mut Rig, client: SessionId) {
    let identity = rig.worker.sessions.get_mut(client).unwrap().identity.take();
    rig.resume(client);
    let session = rig.worker.sessions.get_mut(client).unwrap();
    session.identity = identity;
    assert!(session.errand.is_none(), "it holds nothing more");
}

#[test]
fn what_was_asked_for_one_command_is_not_taken_for_another_s() {
    let text = rule("big", "\"HGETALL\"", "action = \"bound\"\nlimit = 10");
    let (mut rig, ann) = under(Rig::new(), Profile::Guard, &text);
    rig.open_lane_of(ann).take(ann);
    rig.say(ann, &line("HGETALL h"));
    assert_eq!(rig.queued(), line("HLEN h"));
    rig.hand_over_all();
    refuse_next(&mut rig, ann);
    rig.say(ann, &line("HGETALL g"));
    assert_eq!(rig.queued(), line("HLEN g"));
    rig.hand_over_all();
    rig.answer(b":11\r\n").unwrap();
    rig.resume(ann);
    assert_eq!(told(&mut rig, ann), NOAUTH, "g is not as large as h");
    rig.answer(b":1\r\n").unwrap();
    rig.resume(ann);
    assert_eq!(rig.focus_on(ann).queued(), line("HGETALL g"));
}

#[test]
fn pages_of_one_command_are_not_the_answer_to_another() {
    let text = rule("pages", "\"KEYS\"", "action = \"rewrite\"\nto = \"scan\"");
    let (mut rig, ann) = under(Rig::new(), Profile::Guard, &text);
    rig.open_lane_of(ann).take(ann);
    rig.say(ann, &line("KEYS *"));
    rig.hand_over_all();
    refuse_next(&mut rig, ann);
    rig.answer(b"*2\r\n$1\r\n0\r\n*0\r\n").unwrap();
    rig.say(ann, &line("GET a"));
    assert_eq!(rig.focus_on(ann).queued(), line("GET a"));
    assert_eq!(told(&mut rig, ann), NOAUTH);
}

const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";

/// How often the only rule has met a command, and would have refused one.
fn counted(rig: &Rig) -> (u64, u64) {
    let policy = rig.worker.shared.policy.load();
    let tally = &policy.rules()[0].tally;
    (tally.hits(), tally.spared())
}

#[test]
fn a_command_that_waits_is_counted_once() {
    let text = rule("noted", "\"MULTI\"", "action = \"observe\"");
    let (mut rig, ann) = under(Rig::new(), Profile::Guard, &text);
    rig.open_lane_of(ann).take(ann);
    rig.say(ann, &lines(&["GET a", "MULTI"]));
    for _ in 0..3 {
        rig.resume(ann);
    }
    assert_eq!(rig.queued(), line("GET a"), "MULTI waits");
    assert_eq!(counted(&rig).0, 1);
    rig.hand_over_all();
    rig.answer(b"$-1\r\n").unwrap();
    rig.resume(ann);
    rig.focus_on(ann).hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    assert_eq!((told(&mut rig, ann).as_str(), counted(&rig).0), ("$-1\r\n+OK\r\n", 1));
    rig.say(ann, &line("MULTI"));
    assert_eq!(counted(&rig).0, 2, "another one");
}

#[test]
fn a_transaction_that_arrives_whole_is_reported_when_it_goes() {
    let text = rule("no", "\"GET\"", "action = \"deny\"");
    let (mut rig, ann) = under(Rig::new(), Profile::Observe, &text);
    rig.open_lane_of(ann).take(ann);
    rig.say(ann, &lines(&["SET a 1", "SELECT 1", "MULTI", "GET b", "SET c 1", "GET d", "EXEC"]));
    for _ in 0..3 {
        rig.resume(ann);
    }
    assert_eq!((rig.queued(), counted(&rig)), (line("SET a 1"), (0, 0)), "it waits");
    rig.hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    rig.resume(ann);
    assert!(rig.focus_on(ann).queued().ends_with(&line("EXEC")));
    assert_eq!(counted(&rig), (2, 2));
    let rows = rig.worker.shared.ledger.report.rows();
    assert_eq!(rows.iter().map(|row| row.would_refuse).sum::<u64>(), 2, "{rows:?}");
    let sighted = rig.worker.shared.policy.load().rules()[0].tally.offenders();
    assert_eq!(sighted.last.map(|it| it.command), Some("get".to_owned()));
}

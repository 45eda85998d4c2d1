//! What a bounded command sends, and what its client is told, without sockets.
//!
//! Owns one policy, which bounds by ten. What surprises: a question and the command that it is for travel on
//! different lanes, so each look at what was sent follows the client's last command.

use std::sync::Arc;

use super::*;
use crate::clock::SECOND;
use crate::command::table::{BUILTIN_COUNT, Table};
use crate::config::Profile;
use crate::policy::rule::{Action, Commands};
use crate::resp::write;
use crate::session::state::SessionId;
use crate::stats::labels::DialFailure;
use crate::upstream::dial::DialError;
use crate::upstream::health::chart::Signal;
use crate::upstream::rig::Rig;

const HLEN: &[u8] = b"*2\r\n$4\r\nHLEN\r\n$1\r\nh\r\n";
const REFUSED: &str = "-ERR breakwater: HGETALL h refused: 11 fields > limit 10; use HSCAN or HMGET (rule big, policy 7)\r\n";

/// A worker whose policy bounds these commands by ten.
fn rig(names: &[&str], is_always: bool) -> (Rig, SessionId) {
    bounding(Rig::new(), names, is_always)
}

fn bounding(mut rig: Rig, names: &[&str], is_always: bool) -> (Rig, SessionId) {
    let table = Table::builtin();
    let mut commands = Commands { builtin: vec![false; BUILTIN_COUNT], ..Commands::default() };
    for name in names {
        commands.builtin[table.find(name).unwrap().id.index()] = true;
    }
    let rule =
        Rule { commands, ..Rule::sample("big", Action::Bound(Bound { limit: 10, is_always })) };
    let policy = Policy::new(7, Profile::Guard, vec![Arc::new(rule)]);
    rig.worker.shared.policy.store(Arc::new(policy));
    let client = rig.client();
    (rig, client)
}

fn words(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    write::command(&mut bytes, &words);
    bytes
}

/// The node answers what it was sent; the client goes on.
fn answer(rig: &mut Rig, client: SessionId, bytes: &[u8]) {
    rig.focus_on(client).hand_over_all();
    rig.answer(bytes).unwrap();
    rig.resume(client);
}

/// What goes where the client's last command went.
fn queued(rig: &mut Rig, client: SessionId) -> Vec<u8> {
    rig.focus_on(client).queued()
}

fn told(rig: &mut Rig, client: SessionId) -> String {
    String::from_utf8(rig.take(client)).unwrap()
}

#[test]
fn a_giant_is_measured_and_refused_in_its_turn() {
    let (mut rig, ann) = rig(&["hgetall"], false);
    rig.say(ann, &[words("GET a"), words("HGETALL h"), words("GET b")].concat());
    assert_eq!(queued(&mut rig, ann), [words("GET a"), HLEN.to_vec()].concat());
    answer(&mut rig, ann, b"$-1\r\n:11\r\n");
    assert_eq!(queued(&mut rig, ann), words("GET b"), "HGETALL never goes");
    answer(&mut rig, ann, b"$1\r\nb\r\n");
    assert_eq!(told(&mut rig, ann), format!("$-1\r\n{REFUSED}$1\r\nb\r\n"));
    rig.say(ann, &words("HGETALL h"));
    assert_eq!(told(&mut rig, ann), REFUSED, "known to be large");
    assert_eq!((queued(&mut rig, ann).len(), rig.worker.stats.bound_probes.get()), (0, 1));
    assert_eq!(rig.worker.stats.bound_refused.get(), 2);
}

#[test]
fn what_is_small_goes_and_is_known_for_the_next_one() {
    let (mut rig, ann) = rig(&["hgetall"], false);
    rig.say(ann, &words("HGETALL h"));
    assert_eq!(queued(&mut rig, ann), HLEN);
    answer(&mut rig, ann, b":1\r\n");
    assert_eq!(queued(&mut rig, ann), words("HGETALL h"));
    answer(&mut rig, ann, b"*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    rig.say(ann, &words("HGETALL h"));
    assert_eq!(queued(&mut rig, ann), words("HGETALL h"), "without a question");
    answer(&mut rig, ann, b"*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    assert_eq!(told(&mut rig, ann).matches("*2\r\n").count(), 2);
    assert_eq!(rig.worker.stats.bound_probes.get(), 1);
}

#[test]
fn a_reply_tells_that_its_key_has_grown() {
    let (mut rig, ann) = rig(&["hgetall"], false);
    rig.say(ann, &words("HGETALL h"));
    answer(&mut rig, ann, b":1\r\n");
    let large = format!("*22\r\n{}", "$1\r\nx\r\n".repeat(22));
    answer(&mut rig, ann, large.as_bytes());
    assert_eq!(told(&mut rig, ann), large);
    rig.say(ann, &words("HGETALL h"));
    assert_eq!(told(&mut rig, ann), REFUSED);
    assert_eq!(rig.worker.stats.bound_slipped.get(), 1);
}

#[test]
fn a_reply_that_is_passed_on_in_pieces_tells_as_much() {
    let (mut rig, ann) = rig(&["hgetall"], false);
    rig.say(ann, &words("HGETALL h"));
    answer(&mut rig, ann, b":1\r\n");
    rig.focus_on(ann);
    let field = format!("$40000\r\n{}\r\n", "x".repeat(40_000));
    rig.hand_over_all();
    for piece in [format!("*22\r\n{field}"), field.repeat(21)] {
        rig.answer(piece.as_bytes()).unwrap();
    }
    rig.take(ann);
    rig.say(ann, &words("HGETALL h"));
    assert_eq!(told(&mut rig, ann), REFUSED);
}

#[test]
fn always_means_each_time() {
    let (mut rig, ann) = rig(&["hgetall"], true);
    for _ in 0..3 {
        rig.say(ann, &words("HGETALL h"));
        assert_eq!(queued(&mut rig, ann), HLEN);
        answer(&mut rig, ann, b":0\r\n");
        assert_eq!(queued(&mut rig, ann), words("HGETALL h"));
        answer(&mut rig, ann, b"*0\r\n");
    }
    assert_eq!(told(&mut rig, ann), "*0\r\n*0\r\n*0\r\n");
}

#[test]
fn a_size_that_nobody_tells_stops_nothing_and_a_failed_question_does() {
    for said in [&b"-NOPERM no\r\n"[..], b"-ERR unknown command\r\n", b"+OK\r\n"] {
        let (mut rig, ann) = rig(&["hgetall"], false);
        rig.say(ann, &words("HGETALL h"));
        answer(&mut rig, ann, said);
        assert_eq!(queued(&mut rig, ann), words("HGETALL h"));
        assert_eq!(rig.worker.stats.bound_unmeasured.get(), 1);
    }
    for said in [&b"-NOAUTH Authentication required.\r\n"[..], b"-BUSY Redis is busy\r\n"] {
        let (mut rig, ann) = rig(&["hgetall"], false);
        rig.say(ann, &words("HGETALL h"));
        answer(&mut rig, ann, said);
        assert_eq!(told(&mut rig, ann).as_bytes(), said);
        assert_eq!(queued(&mut rig, ann), b"");
    }
    let (mut rig, ann) = rig(&["hgetall"], false);
    rig.say(ann, &words("HGETALL h"));
    rig.focus_on(ann).hand_over_all();
    rig.lose();
    rig.resume(ann);
    rig.worker.now = 0;
    // The question is read-only and is asked again, until nobody can be reached.
    assert_eq!(queued(&mut rig, ann), HLEN);
    rig.fail_dial();
    rig.resume(ann);
    let told = told(&mut rig, ann);
    assert!(told.starts_with("-ERR breakwater: ") && told.ends_with("\r\n"), "{told}");
    assert_eq!(queued(&mut rig, ann), b"", "HGETALL has not gone");
}

#[test]
fn keys_of_another_kind_are_no_obstacle() {
    let (mut rig, ann) = rig(&["sort"], false);
    rig.say(ann, &words("SORT k"));
    answer(&mut rig, ann, b":3\r\n-WRONGTYPE x\r\n-WRONGTYPE x\r\n");
    assert_eq!(queued(&mut rig, ann), words("SORT k"));
}

#[test]
fn too_many_questions_are_not_asked() {
    let (mut rig, ann) = rig(&["sunion"], false);
    let keys: Vec<String> = (0..QUESTIONS_MAX + 1).map(|number| format!("k{number}")).collect();
    rig.say(ann, &words(&format!("SUNION {}", keys.join(" "))));
    let told = told(&mut rig, ann);
    assert!(told.contains("SUNION k0 refused: it takes 2049 questions (at most 2048)"), "{told}");
}

#[test]
fn many_small_keys_are_asked_about_by_and_by_and_go() {
    let (mut rig, ann) = rig(&["sunion"], false);
    let keys: Vec<String> = (0..600).map(|number| format!("{{k}}{number}")).collect();
    let union = words(&format!("SUNION {}", keys.join(" ")));
    rig.say(ann, &union);
    let mut asked = 0;
    while asked < 600 {
        let waves = String::from_utf8(queued(&mut rig, ann)).unwrap().matches("SCARD").count();
        assert!((1..=256).contains(&waves), "{waves} at once after {asked}");
        asked += waves;
        answer(&mut rig, ann, ":0\r\n".repeat(waves).as_bytes());
    }
    assert_eq!(queued(&mut rig, ann), union);
}

#[test]
fn another_deployment_and_another_database_are_asked_again() {
    let (mut rig, ann) = rig(&["hgetall"], false);
    rig.say(ann, &words("HGETALL h"));
    answer(&mut rig, ann, b":11\r\n");
    assert_eq!(told(&mut rig, ann), REFUSED);
    rig.say(ann, &[words("SELECT 3"), words("HGETALL h")].concat());
    assert_eq!(told(&mut rig, ann), "+OK\r\n");
    assert_eq!(queued(&mut rig, ann), HLEN);
}

#[test]
fn keys_are_shown_as_a_line_of_text() {
    assert_eq!(denied::with_key("memory|usage", b"a\r\n\xffb"), "MEMORY USAGE a\\r\\n\\xffb");
    let long = denied::with_key("get", &[b'k'; 1000]);
    assert!(long.len() < 200 && long.ends_with("kkk..."));
}

#[test]
fn first_lines_count_elements_or_tell_nothing() {
    for (reply, want) in [
        (&b"*3\r\n:1\r\n"[..], Some(3)),
        (b"%3\r\n", Some(3)),
        (b"~0\r\n", Some(0)),
        (b"*-1\r\n", Some(0)),
        (b"_\r\n", Some(0)),
        (b"-ERR no\r\n", None),
        (b"$3\r\nabc\r\n", None),
        (b"|1\r\n+a\r\n+b\r\n*0\r\n", None),
        (b"*99999999999999999999999999999999999999\r\n", None),
        (b"*x\r\n", None),
        (b"*1", None),
        (b"", None),
    ] {
        assert_eq!(length(reply), want, "{}", reply.escape_ascii());
    }
}

#[test]
fn a_question_that_nobody_can_be_asked_fails_with_the_operator_s_word() {
    use crate::config::UnavailableError::{Err, Loading};
    for (word, want) in [(Err, "-ERR breakwater: not executed"), (Loading, "-LOADING breakwater: ")]
    {
        // On its way to the node, and before it could be sent at all.
        for is_sent in [true, false] {
            let rig = Rig::with(|upstream| upstream.unavailable_error = word);
            let (mut rig, ann) = bounding(rig, &["hgetall"], false);
            if is_sent {
                rig.say(ann, &words("HGETALL h"));
                rig.focus_on(ann).fail_dial();
                rig.resume(ann);
            } else {
                let error = DialError::new(DialFailure::Refused, "refused".into());
                let node = Arc::clone(&rig.worker.topology.load().node);
                let hour = rig.worker.now + 3600 * SECOND;
                node.note(Signal::DialFailed { error: &error, is_probe: false }, hour);
                rig.say(ann, &words("HGETALL h"));
            }
            let told = told(&mut rig, ann);
            assert!(told.starts_with(want) && told.lines().count() == 1, "{is_sent} {told}");
            assert_eq!(rig.closing(ann).is_some(), word == Loading, "{is_sent}");
        }
    }
}

//! Script commands on a lane without sockets: what goes out in front of them, and what that may not
//! change.
//!
//! What surprises: the lane "knows" only what it has seen, so every test that wants a healed
//! EVALSHA first lets the lane be lost, as a restart of the node would.

use super::*;
use crate::session::state::SessionId;
use crate::upstream::rig::Rig;

const SOURCE: &str = "return 1";
const SHA: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
const INCR: &[u8] = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n";
/// A write that travels on the same lane as scripts, also if nothing of its client is in flight.
const STORE: &[u8] = b"*4\r\n$4\r\nSORT\r\n$1\r\na\r\n$5\r\nSTORE\r\n$1\r\nb\r\n";
const NOSCRIPT: &[u8] = b"-NOSCRIPT No matching script. Please use EVAL.\r\n";

fn command(words: &[&str]) -> Vec<u8> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut bytes = Vec::new();
    write::command(&mut bytes, &words);
    bytes
}

fn eval() -> Vec<u8> {
    command(&["EVAL", SOURCE, "0"])
}

fn evalsha() -> Vec<u8> {
    command(&["EVALSHA", SHA, "0"])
}

fn load() -> Vec<u8> {
    command(&["SCRIPT", "LOAD", SOURCE])
}

fn loaded() -> Vec<u8> {
    format!("$40\r\n{SHA}\r\n").into_bytes()
}

/// A client whose EVAL has succeeded, on a lane whose node has been restarted since.
fn restarted() -> (Rig, SessionId) {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, &eval());
    rig.hand_over_all();
    rig.answer(b":1\r\n").unwrap();
    rig.lose();
    (rig, ann)
}

#[test]
fn what_the_connection_has_seen_is_not_sent_again() {
    for bringing in [eval(), load()] {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, &bringing);
        rig.hand_over_all();
        rig.answer(b":1\r\n").unwrap();
        rig.say(ann, &evalsha());
        assert_eq!(rig.queued(), evalsha());
    }
}

#[test]
fn after_a_restart_the_source_goes_out_in_front_and_its_reply_is_swallowed() {
    let (mut rig, ann) = restarted();
    let pipeline = [STORE, &evalsha(), INCR, &evalsha(), INCR].concat();
    rig.say(ann, &pipeline);
    let sent = [STORE, &load(), &evalsha(), INCR, &evalsha(), INCR].concat();
    assert_eq!(rig.queued(), sent, "once for each connection");
    rig.hand_over_all();
    let replies = [b":1\r\n", &loaded()[..], b":7\r\n:2\r\n:8\r\n:3\r\n"].concat();
    // In pieces of any size.
    for piece in replies.chunks(3) {
        rig.answer(piece).unwrap();
    }
    assert!(rig.owed(ann).ends_with(b":1\r\n:7\r\n:2\r\n:8\r\n:3\r\n"));
    assert_eq!(rig.worker.stats.script_loads.get(), 1);
}

#[test]
fn a_name_in_capitals_is_healed_as_well_and_what_nobody_knows_goes_out_as_it_is() {
    let (mut rig, ann) = restarted();
    let capitals = command(&["evalsha", &SHA.to_uppercase(), "0"]);
    rig.say(ann, &capitals);
    assert_eq!(rig.queued(), [load(), capitals].concat());
    let (mut rig, ann) = restarted();
    let unknown = command(&["EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "0"]);
    rig.say(ann, &unknown);
    assert_eq!(rig.queued(), unknown);
}

#[test]
fn what_failed_is_not_remembered() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, &eval());
    rig.hand_over_all();
    rig.answer(b"-NOPERM no\r\n").unwrap();
    rig.lose();
    rig.say(ann, &evalsha());
    assert_eq!(rig.queued(), evalsha());
}

#[test]
fn a_reply_that_comes_before_its_question_is_not_believed() {
    // The SCRIPT LOAD may be answered while the EVALSHA is still on its way out; not earlier, and
    // nothing more.
    let (mut rig, ann) = restarted();
    rig.say(ann, &evalsha());
    rig.hand_over(load().len() - 1);
    assert!(rig.answer(&loaded()).is_err());
    let (mut rig, ann) = restarted();
    rig.say(ann, &evalsha());
    rig.hand_over(load().len());
    rig.answer(&loaded()).unwrap();
    assert!(rig.answer(b":1\r\n").is_err());
}

#[test]
fn a_refused_source_leaves_the_answer_to_the_node_and_is_not_offered_again() {
    for (refusal, is_offered_again) in
        [("-NOPERM no", false), ("-ERR unknown command", false), ("-LOADING wait", true)]
    {
        let (mut rig, ann) = restarted();
        rig.say(ann, &evalsha());
        rig.hand_over_all();
        rig.answer(format!("{refusal}\r\n:5\r\n").as_bytes()).unwrap();
        assert!(rig.owed(ann).ends_with(b":5\r\n"), "{refusal}");
        rig.say(ann, &evalsha());
        let want = if is_offered_again { [load(), evalsha()].concat() } else { evalsha() };
        assert_eq!(rig.queued(), want, "{refusal}");
    }
}

#[test]
fn a_noscript_of_a_script_that_is_there_is_passed_on_and_only_the_next_call_is_healed() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, &eval());
    rig.hand_over_all();
    rig.answer(b":1\r\n").unwrap();
    rig.say(ann, &evalsha());
    rig.hand_over_all();
    rig.answer(NOSCRIPT).unwrap();
    assert!(rig.owed(ann).ends_with(NOSCRIPT));
    assert_eq!(rig.queued(), b"", "nothing is sent a second time");
    rig.say(ann, &evalsha());
    assert_eq!(rig.queued(), [load(), evalsha()].concat());
}

#[test]
fn behind_a_flush_nothing_is_healed() {
    for was_restarted in [false, true] {
        let (mut rig, ann) = restarted();
        if !was_restarted {
            rig.say(ann, &evalsha());
            rig.hand_over_all();
            rig.answer(&[loaded(), b":1\r\n".to_vec()].concat()).unwrap();
        }
        let flush = command(&["SCRIPT", "FLUSH"]);
        let pipeline = [flush, evalsha()].concat();
        rig.say(ann, &pipeline);
        assert_eq!(rig.queued(), pipeline);
    }
}

#[test]
fn an_eval_that_is_answered_behind_a_flush_of_its_own_client_teaches_nothing() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, &[eval(), command(&["SCRIPT", "FLUSH"])].concat());
    rig.hand_over_all();
    // The EVAL is answered while the SCRIPT FLUSH is on its way.
    rig.answer(b":1\r\n").unwrap();
    rig.say(ann, &evalsha());
    assert_eq!(rig.queued(), evalsha());
    rig.hand_over_all();
    rig.answer(&[b"+OK\r\n", NOSCRIPT].concat()).unwrap();
    // And neither does anybody know the source.
    rig.say(ann, &evalsha());
    assert_eq!(rig.queued(), evalsha());
    rig.hand_over_all();
    rig.answer(NOSCRIPT).unwrap();
    // An EVAL behind the flush teaches again.
    rig.say(ann, &eval());
    rig.hand_over_all();
    rig.answer(b":1\r\n").unwrap();
    rig.lose();
    rig.say(ann, &evalsha());
    assert_eq!(rig.queued(), [load(), evalsha()].concat());
}

#[test]
fn an_evalsha_that_was_never_sent_brings_its_source_to_the_next_connection() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    rig.say(ann, &eval());
    rig.hand_over_all();
    rig.answer(b":1\r\n").unwrap();
    rig.say(bob, &evalsha());
    rig.say(ann, STORE);
    rig.lose();
    assert_eq!(rig.queued(), [&load()[..], &evalsha(), STORE].concat());
    // And once more: what was put in front belongs to the connection, not to the command.
    rig.lose();
    assert_eq!(rig.queued(), [&load()[..], &evalsha(), STORE].concat());
    rig.hand_over_all();
    rig.answer(&[&loaded()[..], b":4\r\n:5\r\n"].concat()).unwrap();
    assert!(rig.owed(bob).ends_with(b":4\r\n") && rig.owed(ann).ends_with(b":5\r\n"));
}

#[test]
fn a_source_that_was_dropped_while_the_node_was_away_is_brought_by_the_next_call() {
    let (mut rig, ann) = restarted();
    let bob = rig.client();
    rig.say(ann, &evalsha());
    rig.say(bob, &evalsha());
    assert_eq!(rig.queued(), [load(), evalsha(), evalsha()].concat());
    // The first one has waited too long and is told; the other's connection is still to be made.
    rig.fail_dial();
    let owed = String::from_utf8(rig.owed(ann)).unwrap();
    assert!(owed.contains("not executed") && owed.contains("refused"), "{owed}");
    assert_eq!(rig.queued(), [load(), evalsha()].concat());
}

#[test]
fn a_read_only_call_that_is_sent_again_is_answered_once() {
    let (mut rig, ann) = restarted();
    let read = command(&["EVALSHA_RO", SHA, "0"]);
    rig.say(ann, &read);
    rig.hand_over_all();
    // The connection breaks between the two replies: the command has one reply to come, or two
    // again.
    rig.answer(&loaded()).unwrap();
    rig.lose();
    assert_eq!(rig.queued(), [load(), read].concat());
    rig.hand_over_all();
    rig.answer(&[&loaded()[..], b":1\r\n"].concat()).unwrap();
    assert!(rig.owed(ann).ends_with(b":1\r\n:1\r\n"));
}

#[test]
fn a_call_that_may_have_run_is_not_sent_again() {
    for answered in [&b""[..], &loaded()] {
        let (mut rig, ann) = restarted();
        rig.say(ann, &evalsha());
        rig.hand_over_all();
        rig.answer(answered).unwrap();
        rig.lose();
        assert_eq!(rig.queued(), b"");
        let owed = String::from_utf8(rig.owed(ann)).unwrap();
        assert!(owed.contains("outcome unknown"), "{owed}");
    }
}

#[test]
fn a_client_that_leaves_takes_its_script_along_and_nobody_else_s() {
    let (mut rig, ann) = restarted();
    let bob = rig.client();
    rig.say(ann, &evalsha());
    rig.say(bob, &evalsha());
    assert_eq!(rig.queued(), [load(), evalsha(), evalsha()].concat());
    rig.leave(ann);
    rig.sweep();
    assert_eq!(rig.queued(), [load(), evalsha()].concat());
    rig.hand_over_all();
    rig.answer(&[&loaded()[..], b":1\r\n"].concat()).unwrap();
    assert_eq!(rig.owed(bob), b":1\r\n");
}

#[test]
fn a_source_that_has_left_is_followed_by_its_command_also_for_nobody() {
    let (mut rig, ann) = restarted();
    let bob = rig.client();
    rig.say(ann, &evalsha());
    rig.say(bob, STORE);
    rig.hand_over(load().len());
    rig.leave(ann);
    rig.sweep();
    assert_eq!(rig.queued(), [&evalsha()[..], STORE].concat());
    rig.hand_over_all();
    rig.answer(&[&loaded()[..], b":1\r\n:2\r\n"].concat()).unwrap();
    assert_eq!(rig.owed(bob), b":2\r\n");
}

#[test]
fn a_deadline_between_the_two_replies_leaves_one_tombstone() {
    let (mut rig, ann) = restarted();
    let bob = rig.client();
    rig.say(ann, &evalsha());
    rig.say(bob, STORE);
    rig.hand_over_all();
    rig.answer(&loaded()).unwrap();
    rig.expire_first();
    rig.answer(b":1\r\n:2\r\n").unwrap();
    assert_eq!(rig.owed(bob), b":2\r\n");
    assert_eq!(rig.worker.stats.tombstones_consumed.get(), 1);
}

#[test]
fn a_library_is_noted_only_where_the_operator_allows_it_and_only_after_success() {
    for (is_allowed, reply, want) in
        [(true, &b"$3\r\nlib\r\n"[..], 1), (true, b"-ERR no\r\n", 0), (false, b"$3\r\nlib\r\n", 0)]
    {
        let mut rig = Rig::with(|upstream| upstream.restore_functions = is_allowed);
        let ann = rig.client();
        rig.say(ann, &command(&["FUNCTION", "LOAD", "#!lua name=lib"]));
        rig.hand_over_all();
        rig.answer(reply).unwrap();
        assert_eq!(rig.worker.shared.libraries.all().len(), want);
    }
}

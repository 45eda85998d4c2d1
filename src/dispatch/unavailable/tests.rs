//! Which refusals begin with the operator's word, without sockets.
//!
//! What surprises: the clock is read with each command that a client sends, so what holds a second
//! later is asked of the rule itself.

use std::sync::Arc;

use super::*;
use crate::clock::SECOND;
use crate::resp::write::command;
use crate::session::state::SessionId;
use crate::stats::labels::DialFailure;
use crate::upstream::dial::DialError;
use crate::upstream::health::chart::Signal;
use crate::upstream::lane::LaneState;
use crate::upstream::rig::Rig;

fn line(words: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    let mut bytes = Vec::new();
    command(&mut bytes, &words);
    bytes
}

fn with(word: UnavailableError) -> Rig {
    Rig::with(|upstream| upstream.unavailable_error = word)
}

/// No lane of the rig has a connection, and its node cannot be dialled for the next hour.
fn fall(rig: &mut Rig) {
    let error = DialError::new(DialFailure::Refused, "refused".into());
    let node = Arc::clone(&rig.worker.topology.load().node);
    let hour = rig.worker.now + 3600 * SECOND;
    node.note(Signal::DialFailed { error: &error, is_probe: false }, hour);
    let lanes: Vec<_> = rig.worker.lanes.keys().collect();
    for lane in lanes {
        rig.worker.lanes.get_mut(lane).unwrap().state = LaneState::Dialling;
    }
}

/// What a client is told, the first word of each line.
fn told(rig: &mut Rig, client: SessionId) -> Vec<String> {
    let text = String::from_utf8(rig.take(client)).unwrap();
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn is_closing(rig: &Rig, client: SessionId) -> bool {
    rig.closing(client) == Some(Closing::AfterReplies(ClosedReason::ToldToRepeat))
}

#[test]
fn a_new_client_is_told_with_the_operator_s_word_and_nothing_behind_it_runs() {
    use UnavailableError::{ClusterDown, Err, Loading};
    for (word, want) in [(Err, "-ERR"), (Loading, "-LOADING"), (ClusterDown, "-CLUSTERDOWN")] {
        let mut rig = with(word);
        let ann = rig.client();
        fall(&mut rig);
        rig.say(ann, &line("CLIENT SETNAME ann"));
        assert_eq!(told(&mut rig, ann), ["+OK"]);
        rig.say(ann, &[line("INCR a"), line("INCR a")].concat());
        let times = if word == Err { 2 } else { 1 };
        assert_eq!(told(&mut rig, ann), vec![want; times]);
        assert_eq!(is_closing(&rig, ann), word != Err);
    }
}

#[test]
fn behind_a_reply_it_is_err_until_a_second_has_passed() {
    let mut rig = with(UnavailableError::Loading);
    let ann = rig.client();
    rig.open_lane_of(ann);
    assert_eq!(told(&mut rig, ann), ["+PONG"]);
    fall(&mut rig);
    for _ in 0..3 {
        rig.say(ann, &line("INCR a"));
        assert_eq!(told(&mut rig, ann), ["-ERR"]);
    }
    assert!(!is_closing(&rig, ann));
    let second_later = rig.worker.now + SECOND;
    let session = rig.worker.sessions.get_mut(ann).unwrap();
    assert!(is_alone(session, session.replies.next(), second_later));
}

#[test]
fn with_a_reply_on_its_way_or_one_to_come_it_is_err() {
    let mut rig = with(UnavailableError::Loading);
    let (ann, bob) = (rig.client(), rig.client());
    fall(&mut rig);
    // Answered here, in the same write.
    rig.say(ann, &[line("ECHO a"), line("INCR a")].concat());
    assert_eq!(told(&mut rig, ann), ["$1", "a", "-ERR"]);
    rig.say(bob, &[line("MULTI"), line("INCR a"), line("EXEC")].concat());
    let words = told(&mut rig, bob);
    assert_eq!(words.last().unwrap(), "-ERR", "{words:?}");
    assert!(!is_closing(&rig, ann) && !is_closing(&rig, bob));
}

#[test]
fn of_a_pipeline_that_waits_for_a_connection_no_command_says_it() {
    let mut rig = with(UnavailableError::Loading);
    let ann = rig.client();
    rig.say(ann, &[line("INCR a"), line("INCR b")].concat());
    rig.fail_dial();
    assert_eq!(told(&mut rig, ann), ["-ERR"]);
    assert!(!is_closing(&rig, ann));
}

#[test]
fn a_command_that_alone_waited_for_a_connection_says_it() {
    let mut rig = with(UnavailableError::Loading);
    let ann = rig.client();
    rig.say(ann, &line("INCR a"));
    rig.fail_dial();
    assert_eq!(told(&mut rig, ann), ["-LOADING"]);
    assert!(is_closing(&rig, ann));
}

#[test]
fn whatever_may_have_run_begins_with_err() {
    let mut rig = with(UnavailableError::Loading);
    let ann = rig.client();
    rig.say(ann, &line("INCR a"));
    rig.hand_over_all();
    rig.lose();
    assert_eq!(told(&mut rig, ann), ["-ERR"]);
    assert!(!is_closing(&rig, ann));
}

#[test]
fn a_command_that_waited_for_long_remembers_what_was_sent_with_it() {
    let mut rig = Rig::with(|upstream| {
        upstream.unavailable_error = UnavailableError::Loading;
        upstream.retry_window = std::time::Duration::from_secs(3);
    });
    let ann = rig.client();
    rig.say(ann, &[line("INCR a"), line("INCR b")].concat());
    rig.hand_over(line("INCR a").len());
    rig.answer(b":1\r\n").unwrap();
    assert_eq!(told(&mut rig, ann), [":1"]);
    rig.lose();
    // The first reply left at the moment in which both commands were taken.
    rig.worker.sessions.get_mut(ann).unwrap().written_at = 0;
    rig.fail_dial();
    assert_eq!(told(&mut rig, ann), ["-ERR"]);
    assert!(!is_closing(&rig, ann));
}

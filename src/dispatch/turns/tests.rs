//! Scripts that wait for each other, without sockets.
//!
//! What surprises: a rig has one worker, so the whole bound is its own.

use std::time::Duration;

use super::*;
use crate::config::{ScriptSettings, WatchSettings};
use crate::resp::write;
use crate::session::state::SessionId;
use crate::upstream::rig::Rig;

fn line(words: &[&str]) -> Vec<u8> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut bytes = Vec::new();
    write::command(&mut bytes, &words);
    bytes
}

fn script() -> Vec<u8> {
    line(&["EVAL", "return 1", "0"])
}

/// Two clients of a node that one script may be at.
fn rig(profile: Profile, wait: Duration) -> (Rig, [SessionId; 2]) {
    let mut rig = Rig::new();
    let clients = [rig.client(), rig.client()];
    rig.open_lane_of(clients[0]);
    let scripts =
        ScriptSettings { in_flight_max: Some(1), in_flight_wait: wait, ..Default::default() };
    rig.worker.shared.watch_as(WatchSettings { scripts, ..Default::default() });
    rig.worker.shared.policy.store(Arc::new(Policy::new(7, profile, Vec::new())));
    (rig, clients)
}

const LONG: Duration = Duration::from_secs(60);

fn told(rig: &mut Rig, client: SessionId) -> String {
    String::from_utf8(rig.take(client)).unwrap()
}

#[test]
fn one_script_waits_for_the_other_and_nobody_else_does() {
    let (mut rig, [ann, bob]) = rig(Profile::Guard, LONG);
    rig.say(ann, &script());
    rig.say(bob, &[script(), line(&["GET", "behind"])].concat());
    rig.say(ann, &line(&["GET", "a"]));
    assert_eq!(rig.focus_on(ann).queued(), [script(), line(&["GET", "a"])].concat());
    rig.resume(bob);
    rig.hand_over_all();
    assert_eq!(rig.queued(), b"", "it has no answer yet");
    rig.answer(b":1\r\n+a\r\n").unwrap();
    rig.resume(bob);
    assert_eq!(rig.focus_on(bob).queued(), [script(), line(&["GET", "behind"])].concat());
    rig.hand_over_all();
    rig.answer(b":1\r\n+b\r\n").unwrap();
    assert!(rig.worker.turns.is_empty());
}

#[test]
fn whoever_has_waited_for_long_enough_is_refused_and_its_next_command_goes() {
    let (mut rig, [ann, bob]) = rig(Profile::Guard, Duration::ZERO);
    rig.say(ann, &line(&["FCALL", "f", "0"]));
    rig.say(bob, &[script(), line(&["GET", "behind"])].concat());
    assert_eq!(rig.focus_on(ann).queued(), line(&["FCALL", "f", "0"]));
    assert_eq!(rig.focus_on(bob).queued(), line(&["GET", "behind"]));
    let refused = told(&mut rig, bob);
    let want = "-ERR breakwater: not executed: waited 0.0 s while 1 scripts were in flight at ";
    assert!(refused.starts_with(want), "{refused}");
    assert!(refused.ends_with("or raise scripts.in_flight_max\r\n"), "{refused}");
    assert!(rig.worker.turns.is_empty());
}

#[test]
fn a_script_whose_client_has_left_counts_until_the_node_has_answered() {
    let (mut rig, [ann, bob]) = rig(Profile::Guard, Duration::ZERO);
    rig.say(ann, &script());
    rig.focus_on(ann).hand_over_all();
    rig.leave(ann);
    rig.say(bob, &script());
    assert!(told(&mut rig, bob).contains("1 scripts were in flight"));
    rig.answer(b":1\r\n").unwrap();
    rig.say(bob, &script());
    assert_eq!(rig.focus_on(bob).queued(), script());
}

#[test]
fn who_waits_and_leaves_gives_its_place_to_the_next() {
    let (mut rig, [ann, bob]) = rig(Profile::Guard, LONG);
    let eve = rig.client();
    rig.say(ann, &script());
    rig.focus_on(ann).hand_over_all();
    rig.say(bob, &script());
    rig.say(eve, &script());
    rig.leave(bob);
    rig.answer(b":1\r\n").unwrap();
    rig.resume(eve);
    assert_eq!(rig.focus_on(eve).queued(), script());
}

/// Its lane may still tell it to wait, and then it must not queue anew.
#[test]
fn who_may_go_keeps_its_place_until_its_reply_slot_is_open() {
    let (mut rig, [ann, bob]) = rig(Profile::Guard, LONG);
    rig.say(ann, &script());
    rig.focus_on(ann).hand_over_all();
    rig.say(bob, &script());
    rig.answer(b":1\r\n").unwrap();
    let (topology, policy) = (rig.worker.topology.load().clone(), rig.worker.policy.load().clone());
    let waiting = |rig: &Rig| rig.worker.turns.first(&topology.node, 9).collect::<Vec<_>>();
    let mut session = rig.worker.sessions.lend(bob).unwrap();
    let ruling = crate::route::frame::with_command(&topology.table, &script(), |command, spec| {
        take(&mut rig.worker, &topology, &mut session, &policy, (spec, *command))
    });
    assert!(matches!(ruling, Some(Ruling::Goes)));
    assert_eq!(waiting(&rig), [bob]);
    rig.worker.sessions.restore(bob, session);
    rig.resume(bob);
    pass(&mut rig.worker, &topology.node, None);
    assert_eq!(waiting(&rig), [], "it has gone");
}

#[test]
fn the_other_profiles_let_them_go() {
    for profile in [Profile::Observe, Profile::Open] {
        let (mut rig, [ann, bob]) = rig(profile, Duration::ZERO);
        rig.say(ann, &script());
        rig.say(bob, &script());
        assert_eq!(rig.focus_on(bob).queued(), script().repeat(2), "{profile:?}");
    }
}

#[test]
fn what_a_transaction_queues_is_not_held_back() {
    let (mut rig, [ann, bob]) = rig(Profile::Guard, Duration::ZERO);
    rig.say(ann, &script());
    rig.say(bob, &[line(&["MULTI"]), script()].concat());
    assert!(!told(&mut rig, bob).contains("breakwater"), "it runs with its EXEC");
}

//! A lost lane, waiter by waiter: what is sent again, what is told, and what a panic leaves behind.
//!
//! Owns a worker without sockets: clients are byte strings that go through `feed`, the node is byte
//! strings that go through `receive`. What surprises: "handed to the kernel" is a number here, so
//! each test chooses exactly how far the connection had come when it broke.

use super::*;
use crate::upstream::rig::Rig;

const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
const INCR: &[u8] = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n";

#[test]
fn a_read_is_sent_again_and_a_write_is_not() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    rig.say(ann, GET);
    rig.say(bob, INCR);
    rig.hand_over_all();
    rig.lose();
    assert_eq!(rig.queued(), GET);
    assert_eq!(rig.owed(ann), b"");
    assert!(rig.owed(bob).starts_with(b"-ERR breakwater: outcome unknown: "));
    rig.hand_over_all();
    rig.answer(b"$1\r\nx\r\n").unwrap();
    assert_eq!(rig.owed(ann), b"$1\r\nx\r\n");
}

#[test]
fn what_never_left_completely_is_sent_again_write_or_not() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, INCR);
    rig.hand_over(INCR.len() - 1);
    rig.lose();
    assert_eq!((rig.queued(), rig.owed(ann)), (INCR.to_vec(), Vec::new()));
}

#[test]
fn nothing_overtakes_a_write_in_doubt() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    rig.say(ann, INCR);
    rig.hand_over_all();
    rig.say(ann, GET);
    rig.say(bob, GET);
    rig.lose();
    let owed = String::from_utf8(rig.owed(ann)).unwrap();
    let lines: Vec<&str> = owed.lines().collect();
    assert!(lines[0].contains("outcome unknown"), "{owed}");
    assert!(lines[1].contains("not executed") && lines[1].contains("earlier write"), "{owed}");
    // The other client has nothing in doubt: its command is sent again.
    assert_eq!((rig.queued(), rig.owed(bob)), (GET.to_vec(), Vec::new()));
}

#[test]
fn a_deadline_leaves_a_tombstone_that_swallows_the_late_reply() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    rig.say(ann, INCR);
    rig.say(bob, GET);
    rig.hand_over_all();
    rig.expire_first();
    assert!(rig.owed(ann).starts_with(b"-ERR breakwater: outcome unknown: no reply from "));
    rig.answer(b":1\r\n$1\r\nb\r\n").unwrap();
    assert!(!rig.owed(ann).ends_with(b":1\r\n"), "the late reply was delivered");
    assert_eq!(rig.owed(bob), b"$1\r\nb\r\n");
    assert_eq!(rig.worker.stats.tombstones_consumed.get(), 1);
}

#[test]
fn a_client_that_has_gone_keeps_its_place_until_its_reply_has_passed() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    rig.say(ann, GET);
    rig.say(bob, GET);
    rig.hand_over_all();
    rig.leave(ann);
    rig.answer(b"$3\r\nann\r\n$3\r\nbob\r\n").unwrap();
    assert_eq!(rig.owed(bob), b"$3\r\nbob\r\n");
}

#[test]
fn unsent_commands_of_a_client_that_has_gone_are_not_sent() {
    for handed in [0, 5] {
        let mut rig = Rig::new();
        let (ann, bob) = (rig.client(), rig.client());
        rig.say(bob, GET);
        rig.say(ann, INCR);
        rig.say(ann, INCR);
        rig.say(bob, GET);
        // A command that is partly handed over must be completed, or the stream would be broken.
        let handed = if handed == 0 { 0 } else { GET.len() + handed };
        rig.hand_over(handed);
        rig.leave(ann);
        rig.sweep();
        let whole = if handed == 0 { [GET, GET].concat() } else { [GET, INCR, GET].concat() };
        assert_eq!(rig.queued(), whole[handed..], "{handed} bytes handed over");
        rig.hand_over_all();
        let replies: &[u8] = if handed == 0 { b"+1\r\n+2\r\n" } else { b"+1\r\n:9\r\n+2\r\n" };
        rig.answer(replies).unwrap();
        assert_eq!(rig.owed(bob), b"+1\r\n+2\r\n");
    }
}

#[test]
fn what_a_client_is_told_is_dropped_is_dropped() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, INCR);
    rig.expire_first();
    assert!(String::from_utf8(rig.owed(ann)).unwrap().contains("was dropped unsent"));
    rig.sweep();
    assert_eq!(rig.queued(), b"");
}

#[test]
fn a_command_at_which_the_node_closes_is_not_sent_for_ever() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    rig.say(ann, INCR);
    rig.say(bob, GET);
    for _ in 0..2 {
        rig.hand_over(INCR.len() - 1);
        rig.lose();
    }
    assert!(String::from_utf8(rig.owed(ann)).unwrap().contains("closed the connection twice"));
    assert_eq!(rig.queued(), GET);
}

#[test]
fn input_that_was_sent_before_the_doubt_was_known_is_not_executed() {
    let mut rig = Rig::new();
    let ann = rig.client();
    // The window of a new session admits sixteen; the rest is held.
    rig.say(ann, &INCR.repeat(20));
    rig.hand_over_all();
    rig.lose();
    rig.resume(ann);
    let owed = String::from_utf8(rig.owed(ann)).unwrap();
    let (unknown, dropped): (Vec<&str>, Vec<&str>) =
        owed.lines().partition(|line| line.contains("outcome unknown"));
    assert_eq!((unknown.len(), dropped.len()), (16, 4), "{owed}");
    assert!(dropped.iter().all(|line| line.contains("not executed")), "{owed}");
    rig.say(ann, GET);
    assert_eq!(rig.queued(), GET);
}

#[test]
fn half_a_reply_ends_its_client_and_nobody_else() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    rig.say(ann, GET);
    rig.say(bob, GET);
    rig.hand_over_all();
    let mut half = b"$40000\r\n".to_vec();
    half.extend([b'x'; 20_000]);
    rig.answer(&half).unwrap();
    rig.lose();
    assert_eq!(rig.closing(ann), Some(Closing::Now(ClosedReason::StreamLost)));
    assert_eq!((rig.closing(bob), rig.queued()), (None, GET.to_vec()));
}

#[test]
fn replies_without_a_question_are_an_anomaly() {
    let mut rig = Rig::new();
    let ann = rig.client();
    assert!(rig.open_lane_of(ann).answer(b"+OK\r\n").is_err());
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, GET);
    // The answer comes before the question was handed over.
    assert!(rig.answer(b"+OK\r\n").is_err());
    assert_eq!(rig.owed(ann), b"");
}

#[test]
fn a_panic_while_settling_settles_every_other_waiter_exactly_once() {
    let mut rig = Rig::new();
    let (ann, bob, eve) = (rig.client(), rig.client(), rig.client());
    rig.say(ann, GET);
    rig.say(bob, GET);
    rig.say(eve, INCR);
    rig.hand_over_all();
    rig.worker.faults.panic_in_settle = Some(0);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        rig.answer(b"$3\r\nann\r\n").unwrap();
    }));
    assert!(panicked.is_err());
    rig.bury_after_panic();
    assert_eq!(rig.closing(ann), Some(Closing::Now(ClosedReason::Panic)));
    assert_eq!((rig.queued(), rig.owed(bob)), (GET.to_vec(), Vec::new()));
    let owed = rig.owed(eve);
    assert!(owed.starts_with(b"-ERR breakwater: outcome unknown: "));
    assert_eq!(owed.iter().filter(|&&byte| byte == b'\n').count(), 1);
    rig.hand_over_all();
    rig.answer(b"$3\r\nbob\r\n").unwrap();
    assert_eq!(rig.owed(bob), b"$3\r\nbob\r\n");
}

#[test]
fn the_rule_is_total() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, GET);
    let read = rig.first_waiter();
    let write = Waiter { is_retry_safe: false, ..read };
    let tired = Waiter { resent: ATTEMPTS_MAX, ..read };
    let table = [
        (Progress::Unsent, write, false, false, Remedy::SendAgain(Resent::Unsent)),
        (Progress::Unsent, read, true, true, Remedy::NotExecuted),
        (Progress::Partly, write, false, false, Remedy::SendAgain(Resent::Unsent)),
        (Progress::Partly, tired, false, true, Remedy::CutOff),
        (Progress::Partly, write, true, false, Remedy::NotExecuted),
        (Progress::Sent, read, false, true, Remedy::SendAgain(Resent::ReadOnly)),
        (Progress::Sent, read, false, false, Remedy::ReadLost),
        (Progress::Sent, tired, false, true, Remedy::ReadLost),
        (Progress::Sent, write, false, true, Remedy::OutcomeUnknown),
        (Progress::Answering, read, false, true, Remedy::CloseClient),
    ];
    for (progress, waiter, is_inverted, may_retry, want) in table {
        assert_eq!(remedy(progress, &waiter, is_inverted, may_retry), want);
    }
}

//! What all who ask one node's health are told, at the same moment and from any side.
//!
//! Owns no time: each signal comes with a moment that the test has chosen. Never dials.

use super::*;
use crate::clock::SECOND;
use crate::topology::Topology;
use crate::upstream::health::chart::Answered;
use std::sync::Arc;

fn node() -> Arc<Node> {
    Topology::for_tests("redis://h:1").node
}

fn refused() -> DialError {
    DialError::new(DialFailure::Refused, "nobody there".into())
}

fn beat(error: Option<ErrorClass>, by_dial: bool) -> Answered {
    Answered { error, by_dial, expects_primary: true, ..Answered::default() }
}

fn told(node: &Node, now: Micros) -> String {
    node.refusal(now).map(|refusal| refusal.text()).unwrap_or_default()
}

#[test]
fn one_failed_dial_is_known_to_all_and_names_node_cause_and_time() {
    let node = node();
    node.note(Signal::DialFailed { error: &refused(), is_probe: false }, SECOND);
    let text = told(&node, SECOND);
    let start = "ERR breakwater: not executed: upstream h:1 is down (refused), next try in 0.";
    assert!(text.starts_with(start), "{text}");
    assert_eq!(node.health.state(), State::Down(DialFailure::Refused));
    assert_eq!(node.health.away_since(), Some(SECOND));
    assert!(node.verdict().unwrap_err().contains("(nobody there): start the server"));
    assert!(node.health.room() > 0, "a connection that is there may be used");
}

#[test]
fn while_somebody_looks_after_it_no_command_dials_a_node_that_is_down() {
    let node = node();
    node.health.watched(true);
    let mut dials = Vec::new();
    node.note(Signal::DialFailed { error: &refused(), is_probe: false }, SECOND);
    for now in (SECOND..31 * SECOND).step_by(1000) {
        assert!(node.health.begin_dial(now).is_err(), "at {now}");
        assert!(node.health.may_be_asked(now).is_err(), "at {now}");
        if node.health.begin_probe(now).is_ok() {
            dials.push(now);
            node.note(Signal::DialFailed { error: &refused(), is_probe: true }, now);
        }
    }
    assert!(dials.windows(3).all(|three| three[2] - three[0] >= SECOND), "{dials:?}");
    // The probe succeeds: everybody may, at once.
    node.note(Signal::Beat(&beat(None, true)), 31 * SECOND);
    assert!(node.health.begin_dial(31 * SECOND).is_ok());
    assert!(node.health.may_be_asked(31 * SECOND).is_ok());
    assert_eq!((node.health.state(), told(&node, 31 * SECOND).as_str()), (State::Up, ""));
}

#[test]
fn a_node_that_nobody_looks_after_is_tried_by_a_command_when_its_time_has_come() {
    let node = node();
    node.note(Signal::DialFailed { error: &refused(), is_probe: false }, SECOND);
    assert!(node.health.begin_dial(SECOND + 1).is_err());
    assert!(node.health.begin_dial(2 * SECOND).is_ok() && node.refusal(2 * SECOND).is_none());
    node.note(Signal::Dialled, 2 * SECOND);
    assert!(!node.health.is_away());
}

#[test]
fn a_connection_that_answers_does_not_hide_that_no_other_can_be_made() {
    let node = node();
    node.health.watched(true);
    let full = DialError::new(DialFailure::MaxClients, "max".into());
    node.note(Signal::DialFailed { error: &full, is_probe: false }, SECOND);
    node.note(Signal::Beat(&beat(None, false)), 10 * SECOND);
    assert!(node.health.begin_dial(10 * SECOND).is_err());
    assert!(node.health.wants_dial(10 * SECOND), "so the control plane dials");
}

#[test]
fn a_node_that_loads_or_hangs_gets_nothing_and_is_back_with_its_first_good_answer() {
    let node = node();
    node.health.watched(true);
    node.note(Signal::Beat(&beat(None, true)), SECOND);
    let mut now = SECOND;
    for (signal, words) in [
        (Signal::Refused(ErrorClass::Loading), "is loading its data (loading)"),
        (Signal::Refused(ErrorClass::Masterdown), "is a replica without its primary (masterdown)"),
        (Signal::Silent, "does not answer (stalled)"),
    ] {
        now += SECOND;
        node.note(signal, now);
        assert_eq!(node.health.room(), 0);
        assert!(told(&node, now).contains(&format!("upstream h:1 {words}, next try in 0.")));
        assert!(node.no_room(0, now).is_err());
        node.note(Signal::Beat(&beat(None, false)), now);
        assert!(node.health.room() > 0 && node.no_room(0, now) == Ok(true));
    }
}

#[test]
fn what_refuses_writes_or_runs_a_script_is_sent_everything() {
    let node = node();
    for class in [
        ErrorClass::Misconf,
        ErrorClass::Oom,
        ErrorClass::Noreplicas,
        ErrorClass::Busy,
        ErrorClass::Readonly,
        ErrorClass::Wrongtype,
    ] {
        for _ in 0..100 {
            node.note(Signal::Refused(class), SECOND);
        }
        assert_eq!(node.health.room(), LANE_WAITERS_MAX, "{class:?}");
        assert_eq!((told(&node, SECOND).as_str(), node.verdict()), ("", Ok(())));
    }
}

#[test]
fn restarts_with_answers_between_them_are_no_row_of_failures() {
    let node = node();
    for second in 1..=20 {
        node.note(Signal::Lost(DialFailure::Reset), second * SECOND);
        node.note(Signal::Beat(&beat(None, true)), second * SECOND);
    }
    assert!(!node.health.is_open());
    for _ in 0..5 {
        node.note(Signal::Lost(DialFailure::Reset), 60 * SECOND);
    }
    assert_eq!(node.health.state(), State::Down(DialFailure::Reset));
    node.note(Signal::Beat(&beat(None, false)), 61 * SECOND);
    assert_eq!(node.health.state(), State::Up);
}

#[test]
fn deadlines_count_only_if_nothing_at_all_has_come() {
    let node = node();
    node.heard(10 * SECOND);
    node.note(Signal::Late(100), 10 * SECOND + 1);
    assert!(!node.health.is_open(), "one slow command among many others");
    node.note(Signal::Late(5), 12 * SECOND);
    assert!(node.health.is_open());
}

#[test]
fn after_a_recovery_the_queue_grows_again_without_anybody_s_help() {
    let node = node();
    node.note(Signal::DialFailed { error: &refused(), is_probe: false }, SECOND);
    assert_eq!(node.health.room(), 1024);
    node.note(Signal::Beat(&beat(None, true)), 2 * SECOND);
    let tenth = LANE_WAITERS_MAX / 10;
    assert_eq!(node.health.room(), tenth);
    assert_eq!(node.no_room(tenth, 2 * SECOND), Ok(false));
    assert_eq!(node.no_room(tenth, 5 * SECOND), Ok(true));
    assert_eq!(node.no_room(LANE_WAITERS_MAX - 1, 7 * SECOND), Ok(true));
}

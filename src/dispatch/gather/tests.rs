//! Commands in parts without sockets: what is queued where, and what becomes of it in every order
//! of events.
//!
//! Owns three nodes that answer when a test says so. What surprises: keys are chosen by their
//! slots, `a` lies with the last node, `b` with the first, `c` with the second.

use super::*;
use crate::resp::write::command;
use crate::route::slot::{SLOTS, slot};
use crate::session::state::SessionId;
use crate::stats::labels::DialFailure;
use crate::topology::slots::NodeId;
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

/// A client of a worker before three nodes, with a lane open to each.
fn rig() -> (Rig, SessionId) {
    assert!([slot(b"b"), slot(b"c"), slot(b"a")].is_sorted(), "each key has a node of its own");
    let mut rig = Rig::before_cluster(3);
    let ann = rig.client();
    for (node, key) in ["b", "c", "a"].iter().enumerate() {
        rig.say(ann, &line(&format!("GET {key}")));
        rig.focus_on_node(node as u16).hand_over_all();
        rig.answer(b"$-1\r\n").unwrap();
    }
    rig.take(ann);
    (rig, ann)
}

/// The node's whole answer to all that it was sent.
fn answer(rig: &mut Rig, node: u16, bytes: &[u8]) {
    rig.focus_on_node(node).hand_over_all();
    rig.answer(bytes).unwrap();
}

fn told(rig: &mut Rig, client: SessionId) -> String {
    String::from_utf8(rig.take(client)).unwrap()
}

#[test]
fn parts_are_answered_in_any_order_and_the_client_in_its_own() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let (mut rig, ann) = rig();
        rig.say(ann, &[line("MGET a b c"), line("GET b")].concat());
        assert_eq!(rig.focus_on_node(2).queued(), line("MGET a"));
        assert_eq!(rig.focus_on_node(0).queued(), [line("MGET b"), line("GET b")].concat());
        for node in order {
            let reply = format!("*1\r\n:{node}\r\n");
            let behind = if node == 0 { "$1\r\nx\r\n" } else { "" };
            answer(&mut rig, node, format!("{reply}{behind}").as_bytes());
        }
        assert_eq!(told(&mut rig, ann), "*3\r\n:2\r\n:0\r\n:1\r\n$1\r\nx\r\n", "{order:?}");
        assert!(rig.worker.sessions.get(ann).unwrap().gathers.is_empty());
    }
}

#[test]
fn parts_for_one_node_are_one_waiter_and_their_replies_may_come_in_pieces() {
    let (mut rig, ann) = rig();
    rig.say(ann, &line("MGET a {a}2 a3 {b}1"));
    let last = rig.focus_on_node(2).first_waiter();
    let owner_of_a3 = rig.worker.topology.load().slots.as_ref().unwrap().slot(slot(b"a3")).owner;
    assert_eq!(last.frames, 1 + u32::from(owner_of_a3.unwrap().0 == 2));
    let long = "x".repeat(40_000);
    let reply = format!("*2\r\n${}\r\n{long}\r\n$1\r\ny\r\n", long.len());
    answer(&mut rig, 0, b"*1\r\n$1\r\nb\r\n");
    rig.focus_on_node(2).hand_over_all();
    for piece in reply.as_bytes().chunks(9_999) {
        rig.answer(piece).unwrap();
    }
    if last.frames == 2 {
        rig.answer(b"*1\r\n$1\r\nz\r\n").unwrap();
    } else {
        answer(&mut rig, owner_of_a3.unwrap().0, b"*1\r\n$1\r\nz\r\n");
    }
    let want = format!("*4\r\n${}\r\n{long}\r\n$1\r\ny\r\n$1\r\nz\r\n$1\r\nb\r\n", long.len());
    assert_eq!(told(&mut rig, ann), want);
}

#[test]
fn a_late_part_is_an_error_of_its_command_alone_and_its_reply_is_swallowed() {
    let (mut rig, ann) = rig();
    rig.say(ann, &[line("MGET a b"), line("GET b")].concat());
    rig.focus_on_node(2).hand_over_all();
    answer(&mut rig, 0, b"*1\r\n:1\r\n:2\r\n");
    assert_eq!(told(&mut rig, ann), "");
    rig.focus_on_node(2).expire_first();
    let told_late = told(&mut rig, ann);
    assert!(told_late.starts_with("-ERR breakwater: no reply from node2 within "), "{told_late}");
    assert!(told_late.ends_with("may be repeated\r\n:2\r\n"), "{told_late}");
    answer(&mut rig, 2, b"*1\r\n:9\r\n");
    rig.say(ann, &line("GET a"));
    answer(&mut rig, 2, b":3\r\n");
    assert_eq!(told(&mut rig, ann), ":3\r\n");
}

/// Keys in three slots of the last node, in the order of those slots.
fn three_of_the_last() -> Vec<String> {
    let mut keys: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
    keys.retain(|key| slot(key.as_bytes()) > SLOTS / 3 * 2 + 2);
    keys.sort_by_key(|key| slot(key.as_bytes()));
    keys.truncate(3);
    keys
}

#[test]
fn of_a_write_that_is_lost_on_its_way_each_part_is_what_became_of_it() {
    let keys = three_of_the_last();
    let asked = format!("MSET b 0 {} 1 {} 2 {} 3", keys[0], keys[1], keys[2]);
    // How much was handed over and answered: nothing, two parts and a bit with one reply, the same
    // with two.
    for (handed, answered) in [(0, 0), (2, 1), (2, 2)] {
        let (mut rig, ann) = rig();
        rig.say(ann, &line(&asked));
        answer(&mut rig, 0, b"+OK\r\n");
        assert_eq!(rig.focus_on_node(2).first_waiter().frames, 3);
        let part = line(&format!("MSET {} 1", keys[0])).len();
        rig.hand_over(part * handed + if handed > 0 { 5 } else { 0 });
        for _ in 0..answered {
            rig.answer(b"+OK\r\n").unwrap();
        }
        rig.lose();
        let at_once = told(&mut rig, ann);
        crate::dispatch::departure::due(&mut rig.worker);
        let unsent: Vec<u8> = (handed..3)
            .flat_map(|part| line(&format!("MSET {} {}", keys[part], part + 1)))
            .collect();
        let again = rig.focus_on_node(2).queued();
        if handed > answered {
            // Behind a write in doubt nothing is sent that was not.
            assert_eq!(again, b"");
            let want = "-ERR breakwater: outcome unknown: 2 of 4 parts executed; key 3, key 4: ";
            assert!(at_once.starts_with(want), "{at_once}");
        } else {
            assert_eq!(at_once, "", "what was not whole at the node is sent again");
            assert_eq!(again, unsent);
            answer(&mut rig, 2, "+OK\r\n".repeat(3 - handed).as_bytes());
            assert_eq!(told(&mut rig, ann), "+OK\r\n");
        }
    }
}

#[test]
fn a_write_in_doubt_names_its_parts_and_says_how_many_have_run() {
    let (mut rig, ann) = rig();
    rig.say(ann, &line("MSET a 1 b 1 c 1"));
    answer(&mut rig, 0, b"+OK\r\n");
    answer(&mut rig, 1, b"-OOM command not allowed when used memory > 'maxmemory'.\r\n");
    rig.focus_on_node(2).hand_over_all();
    rig.lose();
    let told_lost = told(&mut rig, ann);
    let want = "-ERR breakwater: outcome unknown: 1 of 3 parts executed; key 3, key 1: outcome unknown: the connection to node:6379 was lost";
    assert!(told_lost.starts_with(want), "{told_lost}");
    let (mut rig, ann) = self::rig();
    rig.say(ann, &line("MSET a 1 b 1 c 1"));
    answer(&mut rig, 0, b"+OK\r\n");
    answer(&mut rig, 2, b"+OK\r\n");
    answer(&mut rig, 1, b"-OOM no\r\n");
    let want = "-ERR breakwater: partly executed: 2 of 3 parts executed; key 3: OOM no\r\n";
    assert_eq!(told(&mut rig, ann), want);
}

#[test]
fn a_read_that_is_lost_is_asked_again_and_what_had_come_of_it_is_forgotten() {
    let (mut rig, ann) = rig();
    rig.say(ann, &line("MGET a b"));
    answer(&mut rig, 0, b"*1\r\n:0\r\n");
    rig.focus_on_node(2).hand_over_all();
    let begun = format!("*1\r\n$40000\r\n{}", "x".repeat(30_000));
    rig.answer(begun.as_bytes()).unwrap();
    rig.lose();
    assert!(rig.closing(ann).is_none(), "nothing of it has reached the client");
    crate::dispatch::departure::due(&mut rig.worker);
    assert_eq!(rig.focus_on_node(2).queued(), line("MGET a"));
    answer(&mut rig, 2, b"*1\r\n:2\r\n");
    assert_eq!(told(&mut rig, ann), "*2\r\n:2\r\n:0\r\n");
}

#[test]
fn a_part_that_is_redirected_goes_on_by_itself() {
    let (mut rig, ann) = rig();
    rig.say(ann, &line("DEL a b"));
    answer(&mut rig, 0, b":1\r\n");
    answer(&mut rig, 2, b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
    assert_eq!(told(&mut rig, ann), "");
    rig.worker.now += SECOND / 10;
    crate::dispatch::departure::due(&mut rig.worker);
    assert_eq!(rig.focus_on_node(2).queued(), line("DEL a"));
    answer(&mut rig, 2, b":1\r\n");
    assert_eq!(told(&mut rig, ann), ":2\r\n");
    assert!(rig.worker.sessions.get(ann).unwrap().detours.is_none());
}

#[test]
fn a_client_that_leaves_leaves_tombstones() {
    let (mut rig, ann) = rig();
    rig.say(ann, &line("MGET a b c"));
    answer(&mut rig, 0, b"*1\r\n:1\r\n");
    rig.focus_on_node(2).hand_over_all();
    rig.leave(ann);
    let bob = rig.client();
    rig.say(bob, &line("GET a"));
    answer(&mut rig, 2, b"*1\r\n:9\r\n:5\r\n");
    assert_eq!(told(&mut rig, bob), ":5\r\n");
}

#[test]
fn what_is_for_all_nodes_is_never_asked_twice_of_one() {
    let (mut rig, ann) = rig();
    rig.say(ann, &line("DBSIZE"));
    answer(&mut rig, 0, b":1\r\n");
    answer(&mut rig, 1, b":2\r\n");
    rig.focus_on_node(2).hand_over_all();
    rig.lose();
    // Sent again on the same lane: another node would count its keys twice.
    assert_eq!(rig.focus_on_node(2).queued(), line("DBSIZE"));
    answer(&mut rig, 2, b":4\r\n");
    assert_eq!(told(&mut rig, ann), ":7\r\n");
    rig.say(ann, &line("FLUSHALL"));
    for node in [0, 1] {
        answer(&mut rig, node, b"+OK\r\n");
    }
    answer(&mut rig, 2, b"-READONLY You can't write against a read only replica.\r\n");
    let want = "-ERR breakwater: partly executed: 2 of 3 parts executed; node2: READONLY You can't write against a read only replica.\r\n";
    assert_eq!(told(&mut rig, ann), want);
}

#[test]
fn more_than_may_be_held_is_dropped_and_said() {
    let (mut rig, ann) = rig();
    let held_max = rig.worker.shared.memory.reply_bytes_total / HELD_SHARE;
    rig.say(ann, &line("MGET a b"));
    answer(&mut rig, 0, b"*1\r\n$1\r\nb\r\n");
    rig.focus_on_node(2).hand_over_all();
    rig.answer(format!("*1\r\n${}\r\n", held_max + 1).as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..(held_max + 1) / piece.len() {
        rig.answer(&piece).unwrap();
        assert!(rig.worker.sessions.get(ann).unwrap().gathered() <= held_max);
    }
    rig.answer(b"x\r\n").unwrap();
    let told_large = told(&mut rig, ann);
    assert!(
        told_large.starts_with("-ERR breakwater: the replies of all nodes to MGET exceed"),
        "{told_large}"
    );
    rig.say(ann, &line("GET a"));
    answer(&mut rig, 2, b":1\r\n");
    assert_eq!(told(&mut rig, ann), ":1\r\n");
}

#[test]
fn info_speaks_of_those_who_are_there_and_what_changes_something_of_all_or_none() {
    let (mut rig, ann) = rig();
    let map = rig.worker.topology.load().slots.clone().unwrap();
    let error = DialError::new(DialFailure::Refused, "refused".into());
    let far = rig.worker.now + 3600 * crate::clock::SECOND;
    let gone = map.members.get(NodeId(1)).unwrap();
    gone.node.note(Signal::DialFailed { error: &error, is_probe: false }, far);
    let lane = rig.focus_on_node(1).lane_id();
    rig.worker.lanes.get_mut(lane).unwrap().state = LaneState::Dialling;
    rig.say(ann, &line("INFO server"));
    for node in [0, 2] {
        answer(&mut rig, node, b"$27\r\n# Server\r\nredis_version:7\r\n\r\n");
    }
    assert!(told(&mut rig, ann).contains("redis_version:7"));
    rig.worker.now += 60 * crate::clock::SECOND;
    rig.say(ann, &line("DBSIZE"));
    assert_eq!(rig.focus_on_node(0).queued(), b"", "not a part of it was sent");
}

#[test]
fn a_scan_asks_one_node_after_the_other_with_its_own_cursor() {
    let (mut rig, ann) = rig();
    let mut cursor = "0".to_owned();
    for (node, theirs) in [(0, "0"), (0, "5"), (1, "0"), (2, "0")] {
        rig.say(ann, &line(&format!("SCAN {cursor} COUNT 7")));
        let next = if (node, theirs) == (0, "0") { "5" } else { "0" };
        assert_eq!(rig.focus_on_node(node).queued(), line(&format!("SCAN {theirs} COUNT 7")));
        answer(&mut rig, node, format!("*2\r\n$1\r\n{next}\r\n*1\r\n$1\r\nk\r\n").as_bytes());
        let reply = told(&mut rig, ann);
        assert!(reply.ends_with("\r\n*1\r\n$1\r\nk\r\n"), "{reply}");
        cursor = reply.lines().nth(2).unwrap().to_owned();
    }
    // The map is as old as the scan: the last call waits until it has waited for long enough.
    rig.say(ann, &line(&format!("SCAN {cursor}")));
    assert_eq!(told(&mut rig, ann), "");
    assert!(rig.worker.sessions.get(ann).unwrap().has_input());
}

//! Redirects without sockets: what waits, what goes on, and in which order.
//!
//! Owns three nodes that answer when a test says so. What surprises: keys are chosen by their
//! slots, `a` lies with the last node and `b` with the first; and redirects name a node that the
//! map does not know, so that what follows them asks its slot's owner again.

use crate::clock::SECOND;
use crate::dispatch::departure;
use crate::resp::write::command;
use crate::route::slot::slot;
use crate::session::state::SessionId;
use crate::upstream::rig::Rig;

const TRYAGAIN: &[u8] = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n";

fn line(words: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    let mut bytes = Vec::new();
    command(&mut bytes, &words);
    bytes
}

/// The last node's answer to all that it was sent.
fn answer(rig: &mut Rig, bytes: &[u8]) {
    rig.focus_on_node(2).hand_over_all();
    rig.answer(bytes).unwrap();
}

/// Time passes, and what is due is sent. What the last node would be sent next.
fn later(rig: &mut Rig) -> Vec<u8> {
    rig.worker.now += SECOND / 10;
    departure::due(&mut rig.worker);
    rig.focus_on_node(2).queued()
}

fn told(rig: &mut Rig, client: SessionId) -> String {
    String::from_utf8(rig.take(client)).unwrap()
}

#[test]
fn while_a_command_waits_for_its_slot_later_ones_for_it_wait_and_others_pass() {
    let mut rig = Rig::before_cluster(3);
    let ann = rig.client();
    rig.say(ann, &line("SET a 1"));
    answer(&mut rig, TRYAGAIN);
    rig.say(ann, &line("SET b 1"));
    assert_eq!(rig.focus_on_node(0).queued(), line("SET b 1"), "another slot");
    rig.say(ann, &line("SET a 2"));
    assert_eq!(rig.focus_on_node(2).queued(), b"", "the same slot");
    assert_eq!(later(&mut rig), line("SET a 1"));
    rig.resume(ann);
    assert_eq!(rig.focus_on_node(2).queued(), line("SET a 1"), "it is only on the road");
    answer(&mut rig, b"+OK\r\n");
    rig.resume(ann);
    assert_eq!(rig.focus_on_node(2).queued(), line("SET a 2"));
    rig.focus_on_node(0).hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    answer(&mut rig, b"+OK\r\n");
    assert_eq!(told(&mut rig, ann), "+OK\r\n+OK\r\n+OK\r\n");
}

#[test]
fn redirected_commands_of_one_slot_go_one_by_one() {
    let mut rig = Rig::before_cluster(3);
    let ann = rig.client();
    rig.say(ann, &[line("SET a 1"), line("SET a 2")].concat());
    answer(&mut rig, &[TRYAGAIN, TRYAGAIN].concat());
    assert_eq!(later(&mut rig), line("SET a 1"));
    answer(&mut rig, TRYAGAIN);
    assert_eq!(later(&mut rig), line("SET a 1"), "and none overtakes another");
    answer(&mut rig, b"+OK\r\n");
    assert_eq!(later(&mut rig), line("SET a 2"));
    answer(&mut rig, b"+OK\r\n");
    assert_eq!(told(&mut rig, ann), "+OK\r\n+OK\r\n");
}

#[test]
fn a_redirect_that_a_script_made_up_is_its_answer() {
    let mut rig = Rig::before_cluster(3);
    let ann = rig.client();
    let moved = format!("-MOVED {} 10.0.0.1:6379\r\n", slot(b"a"));
    rig.say(ann, &line("EVAL x 1 a"));
    answer(&mut rig, moved.as_bytes());
    assert_eq!(rig.focus_on_node(2).queued(), line("EXISTS a"));
    answer(&mut rig, b":1\r\n");
    assert_eq!(told(&mut rig, ann), moved, "the node itself serves the key");
    rig.say(ann, &line("EVAL x 1 a"));
    answer(&mut rig, moved.as_bytes());
    answer(&mut rig, moved.as_bytes());
    assert_eq!(told(&mut rig, ann), "", "the node redirects the key, too");
    assert_eq!(later(&mut rig), line("EVAL x 1 a"));
    answer(&mut rig, b":7\r\n");
    assert_eq!(told(&mut rig, ann), ":7\r\n");
}

#[test]
fn a_redirect_for_another_slot_is_passed_on() {
    let mut rig = Rig::before_cluster(3);
    let ann = rig.client();
    rig.say(ann, &line("GET a"));
    answer(&mut rig, b"-MOVED 1 10.0.0.1:6379\r\n");
    assert_eq!(told(&mut rig, ann), "-MOVED 1 10.0.0.1:6379\r\n");
    rig.say(ann, &line("GET a"));
    answer(&mut rig, b"$-1\r\n");
    assert_eq!(told(&mut rig, ann), "$-1\r\n", "nothing of it is in the way");
}

#[test]
fn a_transaction_whose_command_is_redirected_goes_whole() {
    let mut rig = Rig::before_cluster(3);
    let ann = rig.client();
    let block = [line("MULTI"), line("SET a 1"), line("EXEC")].concat();
    rig.say(ann, &block);
    assert_eq!(rig.focus_on_node(2).queued(), block);
    let moved = format!("+OK\r\n-MOVED {} 10.0.0.1:6379\r\n-EXECABORT x\r\n", slot(b"a"));
    answer(&mut rig, moved.as_bytes());
    assert_eq!(later(&mut rig), block, "nothing of it has run");
    answer(&mut rig, b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    assert_eq!(told(&mut rig, ann), "+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
}

#[test]
fn a_client_whose_time_is_up_gets_the_nodes_last_words() {
    let mut rig = Rig::before_cluster(3);
    let ann = rig.client();
    rig.say(ann, &line("GET a"));
    answer(&mut rig, TRYAGAIN);
    assert_eq!(later(&mut rig), line("GET a"));
    rig.worker.now += SECOND;
    answer(&mut rig, TRYAGAIN);
    assert_eq!(told(&mut rig, ann).as_bytes(), TRYAGAIN);
    assert!(rig.worker.sessions.get(ann).unwrap().detours.is_none());
}

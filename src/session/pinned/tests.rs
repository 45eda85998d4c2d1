//! A session whose connection is lost, at every stage of what it can hold there (INV-3).
//!
//! Owns a worker without sockets: how far a connection had come when it broke is a number, and
//! every number is tried. What surprises: the words of an error are compared by their beginnings
//! only, which are what an application relies on: `not executed` and `outcome unknown` must never
//! be mixed up.

use super::*;
use crate::session::state::SessionId;
use crate::upstream::rig::Rig;

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";
const INCR: &[u8] = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n";
const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
const WATCH: &[u8] = b"*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n";
const BLPOP: &[u8] = b"*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n";
const TRACKING: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\non\r\n";

const NOT_EXECUTED: &str = "-ERR breakwater: not executed: ";
const UNKNOWN: &str = "-ERR breakwater: outcome unknown: ";
const NO_REPLY: &str = "-ERR breakwater: no reply: ";
const LOST: &str = "-EXECABORT Transaction discarded because of: the connection to ";

/// A command, and what the node answers.
type Said<'a> = (&'a [u8], &'a [u8]);

/// A client that has said these commands, each answered, on a connection of its own.
fn client(rig: &mut Rig, said: &[Said<'_>]) -> SessionId {
    let ann = rig.client();
    for (command, reply) in said {
        rig.say(ann, command);
        rig.focus_on(ann).hand_over_all();
        rig.answer(reply).unwrap();
    }
    rig.take(ann);
    ann
}

fn lines(rig: &mut Rig, client: SessionId) -> Vec<String> {
    let text = String::from_utf8(rig.take(client)).unwrap();
    text.split_inclusive("\r\n").map(str::to_owned).collect()
}

/// The client got exactly these lines, by their beginnings.
fn got(rig: &mut Rig, client: SessionId, expected: &[&str], when: &str) {
    let lines = lines(rig, client);
    let is_right = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, start)| line.starts_with(start));
    assert!(is_right, "{when}: {lines:?}");
}

/// Says a command to a session whose connection is gone, and returns the answer.
fn answer_to(rig: &mut Rig, client: SessionId, command: &[u8]) -> String {
    rig.say(client, command);
    lines(rig, client).concat()
}

/// Nothing of the session is on any connection, and it has none.
fn is_free(rig: &Rig, client: SessionId) -> bool {
    let session = rig.worker.sessions.get(client).unwrap();
    session.pin.is_none() && session.lane.is_none() && session.in_flight == 0
}

#[test]
fn a_whole_block_is_sent_again_until_its_last_byte_was_handed_over_and_never_after() {
    let block = [MULTI, INCR, GET, EXEC].concat();
    for handed in 0..=block.len() {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, &block);
        rig.focus_on(ann).hand_over(handed);
        rig.lose();
        if handed < block.len() {
            assert_eq!((rig.queued(), rig.take(ann)), (block.clone(), vec![]), "{handed}");
        } else {
            assert_eq!(rig.queued(), b"");
            got(&mut rig, ann, &["+OK", "+QUEUED", "+QUEUED", UNKNOWN], "all of it");
        }
    }
}

#[test]
fn a_block_whose_replies_have_begun_to_come_is_one_unknown_outcome() {
    let block = [MULTI, INCR, GET, EXEC].concat();
    let replies = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n$1\r\nx\r\n";
    for heard in 0..replies.len() {
        let mut rig = Rig::new();
        let (ann, bob) = (rig.client(), rig.client());
        rig.say(ann, &block);
        rig.say(bob, GET);
        rig.focus_on(ann).hand_over_all();
        rig.answer(&replies[..heard]).unwrap();
        rig.lose();
        got(&mut rig, ann, &["+OK", "+QUEUED", "+QUEUED", UNKNOWN], "some of its replies");
        // The neighbour's read is asked again, and its reply is the first of the next connection.
        assert_eq!(rig.queued(), GET, "{heard} bytes heard");
        rig.hand_over_all();
        rig.answer(b"$3\r\nbob\r\n").unwrap();
        assert_eq!((rig.take(bob), rig.take(ann)), (b"$3\r\nbob\r\n".to_vec(), vec![]));
    }
}

#[test]
fn a_block_that_only_reads_is_asked_again_and_answered_once() {
    let block = [MULTI, GET, EXEC].concat();
    let replies = b"+OK\r\n+QUEUED\r\n*1\r\n$1\r\nx\r\n";
    for heard in 0..replies.len() {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, &block);
        rig.focus_on(ann).hand_over_all();
        rig.answer(&replies[..heard]).unwrap();
        rig.lose();
        assert_eq!((rig.queued(), rig.take(ann)), (block.clone(), vec![]), "{heard} bytes heard");
        rig.hand_over_all();
        rig.answer(replies).unwrap();
        assert_eq!(rig.take(ann), replies);
    }
}

#[test]
fn half_a_large_reply_of_exec_ends_the_client() {
    for commands in [[MULTI, GET, EXEC].concat(), [MULTI, INCR, GET, EXEC].concat()] {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, &commands);
        rig.focus_on(ann).hand_over_all();
        let count = commands.iter().filter(|byte| **byte == b'*').count() - 2;
        let mut half = [b"+OK\r\n".to_vec(), b"+QUEUED\r\n".repeat(count)].concat();
        half.extend(format!("*{count}\r\n$50000\r\n").bytes());
        half.extend([b'v'; 20_000]);
        rig.answer(&half).unwrap();
        rig.lose();
        assert_eq!(rig.closing(ann), Some(Closing::Now(ClosedReason::StreamLost)));
    }
}

#[test]
fn a_multi_that_never_left_is_sent_again_and_begins_the_transaction() {
    for handed in 0..MULTI.len() {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, MULTI);
        rig.focus_on(ann).hand_over(handed);
        rig.lose();
        assert_eq!((rig.queued(), rig.take(ann)), (MULTI.to_vec(), vec![]), "{handed}");
        rig.hand_over_all();
        rig.answer(b"+OK\r\n").unwrap();
        assert!(rig.worker.sessions.get(ann).unwrap().in_transaction());
    }
}

#[test]
fn a_multi_whose_answer_is_lost_takes_the_rest_of_its_transaction_along() {
    let mut rig = Rig::new();
    let ann = rig.client();
    // SELECT makes it no block. All of it was sent before the client could know.
    let select = b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n";
    rig.say(ann, &[MULTI, INCR, select, EXEC].concat());
    rig.focus_on(ann).hand_over_all();
    rig.lose();
    rig.resume(ann);
    let lines = lines(&mut rig, ann);
    assert!(lines[0].starts_with(UNKNOWN), "{lines:?}");
    assert!(lines[1].starts_with(NOT_EXECUTED), "{lines:?}");
    assert!(lines[3].starts_with("-"), "{lines:?}");
    assert_eq!(rig.worker.sessions.get(ann).unwrap().db, 0, "a part of it took effect: {lines:?}");
    let sent = rig.worker.lanes.keys().filter_map(|id| rig.worker.lanes.get(id));
    assert_eq!(sent.map(|lane| lane.send.unsent()).sum::<usize>(), 0, "INCR is on its way");
}

#[test]
fn an_open_transaction_is_lost_with_its_connection_whatever_was_queued() {
    let said: [Said<'_>; 2] = [(MULTI, b"+OK\r\n"), (INCR, b"+QUEUED\r\n")];
    for handed in 0..=2 * INCR.len() {
        let mut rig = Rig::new();
        let ann = client(&mut rig, &said);
        rig.say(ann, &[INCR, INCR].concat());
        rig.hand_over(handed);
        rig.lose();
        // Handed over or not: what was only queued runs with its EXEC or not at all.
        got(&mut rig, ann, &[NOT_EXECUTED, NOT_EXECUTED], "queued, unanswered");
        assert!(answer_to(&mut rig, ann, GET).starts_with(NOT_EXECUTED));
        let exec = answer_to(&mut rig, ann, EXEC);
        assert!(exec.starts_with("-EXECABORT Transaction discarded"), "{exec}");
        assert!(is_free(&rig, ann));
    }
}

#[test]
fn a_lost_transaction_can_be_discarded_and_its_exec_may_have_too_many_arguments() {
    let exec_now = b"*2\r\n$4\r\nEXEC\r\n$3\r\nnow\r\n";
    for (command, expected) in
        [(DISCARD, "+OK\r\n"), (EXEC, LOST), (&exec_now[..], "-EXECABORT Transaction discarded")]
    {
        let mut rig = Rig::new();
        let ann = client(&mut rig, &[(MULTI, b"+OK\r\n")]);
        rig.lose();
        assert!(answer_to(&mut rig, ann, command).starts_with(expected), "{expected}");
        assert!(is_free(&rig, ann));
    }
}

#[test]
fn an_exec_may_have_run_only_if_its_last_byte_was_handed_over() {
    for handed in 0..=INCR.len() + EXEC.len() {
        let mut rig = Rig::new();
        let ann = client(&mut rig, &[(MULTI, b"+OK\r\n"), (INCR, b"+QUEUED\r\n")]);
        rig.say(ann, &[INCR, EXEC].concat());
        rig.hand_over(handed);
        rig.lose();
        let is_sent = handed == INCR.len() + EXEC.len();
        let expected = if is_sent { [UNKNOWN; 2] } else { [NOT_EXECUTED; 2] };
        got(&mut rig, ann, &expected, &format!("{handed} bytes handed over"));
        // It is over either way.
        assert_eq!(answer_to(&mut rig, ann, EXEC), "-ERR EXEC without MULTI\r\n");
        assert!(is_free(&rig, ann));
    }
}

#[test]
fn an_exec_whose_reply_has_begun_and_is_kept_back_is_an_unknown_outcome() {
    let id = b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n";
    let reply = b"*2\r\n+PONG\r\n:1\r\n";
    for heard in 0..reply.len() {
        let mut rig = Rig::new();
        let said: [Said<'_>; 3] =
            [(MULTI, b"+OK\r\n"), (id, b"+QUEUED\r\n"), (INCR, b"+QUEUED\r\n")];
        let ann = client(&mut rig, &said);
        rig.say(ann, EXEC);
        rig.hand_over_all();
        rig.answer(&reply[..heard]).unwrap();
        rig.lose();
        got(&mut rig, ann, &[UNKNOWN], "half of a reply that is ours in part");
        assert_eq!(rig.closing(ann), None);
    }
}

#[test]
fn a_command_given_up_in_a_transaction_fails_its_exec() {
    for is_handed in [false, true] {
        let mut rig = Rig::new();
        let ann = client(&mut rig, &[(MULTI, b"+OK\r\n")]);
        rig.say(ann, INCR);
        if is_handed {
            rig.hand_over_all();
        }
        rig.expire_first();
        let told = lines(&mut rig, ann).concat();
        assert!(told.starts_with(if is_handed { UNKNOWN } else { NOT_EXECUTED }), "{told}");
        rig.say(ann, EXEC);
        // Whatever the node is asked, it is not to execute.
        assert!(!rig.queued().ends_with(EXEC), "{told}");
        assert!(rig.queued().ends_with(DISCARD), "{told}");
    }
}

#[test]
fn watched_keys_are_lost_with_their_connection_and_exec_says_so_in_redis_s_way() {
    for (hello, null) in [(&b"*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n"[..], "*-1\r\n"), (HELLO_3, "_\r\n")]
    {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, hello);
        rig.say(ann, WATCH);
        rig.focus_on(ann).hand_over_all();
        rig.answer(b"+OK\r\n").unwrap();
        rig.lose();
        rig.take(ann);
        rig.say(ann, MULTI);
        rig.focus_on(ann).hand_over_all();
        rig.answer(b"+OK\r\n").unwrap();
        rig.say(ann, INCR);
        rig.hand_over_all();
        rig.answer(b"+QUEUED\r\n").unwrap();
        rig.say(ann, EXEC);
        assert_eq!(rig.queued(), DISCARD, "the new connection watches nothing");
        rig.hand_over_all();
        rig.answer(b"+OK\r\n").unwrap();
        assert_eq!(lines(&mut rig, ann).concat(), format!("+OK\r\n+QUEUED\r\n{null}"));
        assert!(is_free(&rig, ann));
    }
}

const HELLO_3: &[u8] = b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";

#[test]
fn what_runs_beside_a_watch_is_told_the_truth_and_not_sent_again() {
    for (command, when_sent) in [(INCR, UNKNOWN), (GET, NO_REPLY)] {
        for handed in 0..=command.len() {
            let mut rig = Rig::new();
            let ann = client(&mut rig, &[(WATCH, b"+OK\r\n")]);
            rig.say(ann, command);
            rig.hand_over(handed);
            rig.lose();
            let is_sent = handed == command.len();
            got(&mut rig, ann, &[if is_sent { when_sent } else { NOT_EXECUTED }], "beside WATCH");
            assert!(rig.worker.sessions.get(ann).unwrap().pin.as_ref().unwrap().watch_is_lost);
        }
    }
}

#[test]
fn a_wait_that_never_left_is_sent_again_and_one_that_did_may_have_popped() {
    for handed in 0..=BLPOP.len() {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, &[BLPOP, INCR].concat());
        rig.focus_on(ann).hand_over(handed);
        rig.lose();
        if handed < BLPOP.len() {
            assert_eq!((rig.queued(), rig.take(ann)), (BLPOP.to_vec(), vec![]), "{handed}");
            continue;
        }
        rig.resume(ann);
        got(&mut rig, ann, &[UNKNOWN, NOT_EXECUTED], "what is behind it was sent before that");
        assert!(is_free(&rig, ann));
    }
}

#[test]
fn a_client_that_tracks_is_told_of_the_gap_and_the_node_is_told_again_before_anything_else() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, HELLO_3);
    rig.say(ann, TRACKING);
    rig.focus_on(ann).hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    rig.take(ann);
    rig.say(ann, GET);
    rig.hand_over_all();
    rig.lose();
    let told = lines(&mut rig, ann).concat();
    let invalidate = String::from_utf8_lossy(tracking::INVALIDATE_ALL).into_owned();
    assert!(told.starts_with(NO_REPLY) && told.ends_with(&invalidate), "{told}");
    rig.say(ann, &[GET, GET].concat());
    assert_eq!(rig.focus_on(ann).queued(), TRACKING, "a read that nobody tracks is on its way");
    rig.hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    rig.resume(ann);
    assert_eq!(rig.queued(), [GET, GET].concat());
    rig.hand_over_all();
    rig.answer(b"$1\r\n1\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n$1\r\n2\r\n").unwrap();
    assert_eq!(lines(&mut rig, ann).concat().matches("invalidate").count(), 1);
}

#[test]
fn a_client_that_leaves_takes_everything_unsent_with_it_at_every_stage() {
    let whole = [WATCH, MULTI, INCR, INCR, EXEC];
    let replies: [&[u8]; 4] = [b"+OK\r\n", b"+OK\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n"];
    for stage in 0..whole.len() {
        let mut rig = Rig::new();
        let said: Vec<Said<'_>> =
            whole[..stage].iter().copied().zip(replies.iter().copied()).collect();
        let ann = client(&mut rig, &said);
        rig.say(ann, whole[stage]);
        rig.focus_on(ann);
        rig.leave(ann);
        // The connection is closed by its own task; until then nothing more goes out on it.
        assert_eq!(rig.queued(), b"", "stage {stage}");
        let lane = rig.worker.lanes.keys().next().and_then(|id| rig.worker.lanes.get(id)).unwrap();
        assert!(lane.retired && lane.is_idle() && lane.owner().is_none(), "stage {stage}");
    }
}

#[test]
fn a_connection_goes_back_only_when_nothing_is_left_on_it() {
    let reset: &[u8] = b"*1\r\n$5\r\nRESET\r\n";
    let unwatch: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";
    let table: [(&[Said<'_>], bool); 8] = [
        (&[(MULTI, b"+OK\r\n"), (EXEC, b"*0\r\n")], true),
        (&[(MULTI, b"+OK\r\n"), (DISCARD, b"+OK\r\n")], true),
        (&[(MULTI, b"+OK\r\n"), (EXEC, b"-EXECABORT x\r\n")], true),
        (&[(MULTI, b"-NOPERM x\r\n")], true),
        (&[(WATCH, b"+OK\r\n"), (unwatch, b"+OK\r\n")], true),
        (&[(BLPOP, b"*-1\r\n")], true),
        (&[(MULTI, b"+OK\r\n"), (DISCARD, b"-NOPERM x\r\n")], false),
        (&[(TRACKING, b"+OK\r\n")], false),
    ];
    for (said, is_clean) in table {
        let mut rig = Rig::new();
        let ann = client(&mut rig, said);
        if !is_clean && said.len() == 1 {
            rig.say(ann, reset);
        }
        let lane = rig.worker.lanes.keys().next().and_then(|id| rig.worker.lanes.get(id)).unwrap();
        let last = String::from_utf8_lossy(said[said.len() - 1].0);
        assert_eq!((lane.owner(), lane.retired), (None, !is_clean), "{last}");
    }
}

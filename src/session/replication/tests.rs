//! The stream without sockets: every byte of it, and everything its client may and may not say.
//!
//! Owns a worker, a client and the lane of its stream; the node's bytes are spelled here. What
//! surprises: the payload is full of what looks like replies, because nobody may look.

use super::*;
use crate::session::state::SessionId;
use crate::upstream::rig::Rig;

const ASK: &[u8] = b"*1\r\n$4\r\nSYNC\r\n";
const CAPA: &[u8] = b"*3\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n";
const ACK: &[u8] = b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$1\r\n7\r\n";
const FLUSHALL: &[u8] = b"*1\r\n$8\r\nFLUSHALL\r\n";
const STREAM: &[u8] = b"\n\n$18\r\nREDIS0010\r\n-ERR\r\n:1*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n>push";

/// A client that has asked for the stream, and its lane has sent the question.
fn asked(rig: &mut Rig) -> SessionId {
    let ann = rig.client();
    rig.say(ann, ASK);
    rig.focus_on(ann).hand_over_all();
    ann
}

/// A client to which the stream flows.
fn reader(rig: &mut Rig) -> SessionId {
    let ann = asked(rig);
    rig.answer(STREAM).unwrap();
    rig.take(ann);
    ann
}

#[test]
fn every_byte_of_a_stream_passes_wherever_it_is_cut() {
    for at in 1..STREAM.len() {
        let mut rig = Rig::new();
        let ann = asked(&mut rig);
        rig.answer(&STREAM[..at]).unwrap();
        rig.answer(&STREAM[at..]).unwrap();
        assert_eq!(rig.take(ann), STREAM, "cut at {at}");
        rig.answer(b"+more").unwrap();
        assert_eq!((rig.take(ann), rig.closing(ann)), (b"+more".to_vec(), None));
    }
}

#[test]
fn an_error_is_no_stream_and_its_client_goes_on() {
    for at in 1..8 {
        let mut rig = Rig::new();
        let ann = asked(&mut rig);
        let error = b"-NOMASTERLINK x\r\n";
        rig.answer(&error[..at]).unwrap();
        rig.answer(&error[at..]).unwrap();
        assert_eq!(rig.take(ann), error, "cut at {at}");
        assert!(!rig.worker.sessions.get(ann).unwrap().is_replica());
        rig.say(ann, FLUSHALL);
        assert_eq!(rig.focus_on(ann).queued(), FLUSHALL);
    }
}

#[test]
fn what_is_said_behind_the_question_waits_for_the_stream_and_then_passes() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, &[ASK, ACK, b"\r\n"].concat());
    assert_eq!(rig.focus_on(ann).queued(), ASK);
    rig.hand_over_all();
    rig.answer(b"\n").unwrap();
    rig.resume(ann);
    assert_eq!(rig.queued(), [ACK, b"\r\n"].concat());
}

#[test]
fn nothing_else_reaches_the_node_past_the_rules() {
    for (said, reason) in [
        (FLUSHALL, ClosedReason::ProtocolError),
        (ASK, ClosedReason::ProtocolError),
        (b"*1\r\n$4\r\nNONE\r\n", ClosedReason::ProtocolError),
        (b"*1\r\n$4\r\nQUIT\r\n", ClosedReason::ClientClosed),
    ] {
        let mut rig = Rig::new();
        let ann = reader(&mut rig);
        rig.say(ann, &[ACK, said, ACK].concat());
        assert_eq!(rig.queued(), ACK);
        assert_eq!((rig.take(ann), rig.closing(ann)), (vec![], Some(Closing::Now(reason))));
    }
}

#[test]
fn progress_is_reported_however_much_is_unread_and_costs_no_memory() {
    let mut rig = Rig::new();
    let ann = reader(&mut rig);
    rig.answer(&vec![b'x'; 17 << 20]).unwrap();
    for _ in 0..10_000 {
        rig.worker.now += 1;
        rig.say(ann, &[ACK, b"\n"].concat());
        assert_eq!(rig.queued(), [ACK, b"\n"].concat());
        rig.hand_over_all();
    }
    let id = rig.lane_id();
    let lane = rig.worker.lanes.get(id).unwrap();
    assert!(lane.send.held() <= 2 * crate::buffer::CHUNK_BYTES, "{}", lane.send.held());
    assert!(lane.handed.len() <= 2 && lane.is_consistent());
}

#[test]
fn a_node_that_takes_nothing_is_given_no_more_than_a_lane_may_hold() {
    let mut rig = Rig::new();
    let ann = reader(&mut rig);
    let mut long = Vec::new();
    write::command(&mut long, &[b"REPLCONF", b"x", &vec![b'x'; 1 << 20]]);
    for _ in 0..20 {
        rig.say(ann, &long);
    }
    let id = rig.lane_id();
    let lane = rig.worker.lanes.get(id).unwrap();
    assert!(lane.send.unsent() <= pool::LANE_UNSENT_BYTES_MAX + long.len());
    assert_eq!(lane.backlog, [ann]);
    rig.say(ann, b"\n");
    assert!(rig.worker.sessions.get(ann).unwrap().partial.is_some(), "the rest waits");
}

#[test]
fn what_came_before_its_end_is_delivered_and_then_the_client_is_closed() {
    let mut rig = Rig::new();
    let ann = asked(&mut rig);
    rig.answer(STREAM).unwrap();
    rig.lose();
    assert_eq!(rig.take(ann), STREAM);
    let ended = Closing::AfterReplies(ClosedReason::StreamLost);
    assert_eq!(rig.closing(ann), Some(ended));
    let session = rig.worker.sessions.get(ann).unwrap();
    assert_eq!((session.is_over(), session.in_flight), (Some(ClosedReason::StreamLost), 0));
}

#[test]
fn a_connection_that_is_lost_before_the_stream_begins_is_an_error() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.say(ann, CAPA);
    rig.focus_on(ann).hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    rig.take(ann);
    rig.say(ann, ASK);
    rig.hand_over_all();
    rig.lose();
    let told = rig.take(ann);
    assert!(told.starts_with(b"-ERR breakwater: outcome unknown: "), "{told:?}");
    assert!(rig.worker.sessions.get(ann).unwrap().pin.is_none());
}

#[test]
fn the_connection_goes_with_its_client() {
    let mut rig = Rig::new();
    let ann = reader(&mut rig);
    rig.leave(ann);
    let id = rig.lane_id();
    let lane = rig.worker.lanes.get(id).unwrap();
    assert!(lane.retired && lane.is_idle() && lane.owner().is_none());
}

#[test]
fn an_introduction_keeps_the_connection_that_the_stream_will_come_over() {
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    rig.say(ann, CAPA);
    rig.focus_on(ann).hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    let own = rig.lane_id();
    rig.say(bob, CAPA);
    assert_ne!(rig.worker.sessions.get(bob).unwrap().lane, Some(own));
    rig.say(ann, ASK);
    assert_eq!((rig.lane_id(), rig.queued()), (own, ASK.to_vec()));
}

#[test]
fn a_stream_waits_until_nothing_else_is_due_on_its_connection() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.worker.sessions.get(ann).unwrap().client.relabel(|labels| labels.name = b"ann".into());
    rig.say(ann, ASK);
    rig.focus_on(ann);
    assert!(!String::from_utf8_lossy(&rig.queued()).contains("SYNC"));
    rig.hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    rig.resume(ann);
    assert_eq!(rig.queued(), ASK);
    rig.hand_over_all();
    rig.answer(STREAM).unwrap();
    assert_eq!(rig.take(ann), STREAM);
}

#[test]
fn what_redis_would_not_answer_or_mix_up_is_refused_with_its_reason() {
    let mut rig = Rig::new();
    let ann = rig.client();
    for said in
        [ACK, b"*5\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n$6\r\ngetack\r\n$1\r\n*\r\n"]
    {
        rig.say(ann, said);
        let told = String::from_utf8(rig.take(ann)).unwrap();
        assert!(told.starts_with("-ERR breakwater: 'replconf' is not served: ACK and"), "{told}");
    }
    assert_eq!(rig.worker.lanes.keys().count(), 0);
}

#[test]
fn inside_a_transaction_it_is_refused_in_the_words_of_redis() {
    for (said, words) in [
        (ASK, "-ERR Command not allowed inside a transaction\r\n"),
        (CAPA, "-ERR breakwater: 'replconf' is not served inside MULTI"),
    ] {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, b"*1\r\n$5\r\nMULTI\r\n");
        rig.focus_on(ann).hand_over_all();
        rig.answer(b"+OK\r\n").unwrap();
        rig.take(ann);
        rig.say(ann, &[said, b"*1\r\n$4\r\nEXEC\r\n"].concat());
        assert!(String::from_utf8_lossy(&rig.take(ann)).starts_with(words));
        assert_eq!(rig.queued(), b"*1\r\n$7\r\nDISCARD\r\n");
    }
}

#[test]
fn a_cluster_has_no_single_stream_and_says_where_to_go() {
    for said in [ASK, CAPA, b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n"] {
        let mut rig = Rig::before_cluster(2);
        let ann = rig.client();
        rig.say(ann, said);
        let told = String::from_utf8(rig.take(ann)).unwrap();
        assert!(told.starts_with("-ERR breakwater: '"), "{told}");
        assert!(told.ends_with("connect to the node itself\r\n"), "{told}");
    }
}

#[test]
fn a_reader_that_takes_its_time_is_not_closed_for_it() {
    let mut rig = Rig::new();
    let (ann, bob) = (reader(&mut rig), rig.client());
    rig.answer(b"unread").unwrap();
    rig.worker.now = 3600 * crate::clock::SECOND;
    for client in [ann, bob] {
        let Worker { sessions, pool, .. } = &mut rig.worker;
        let session = sessions.get_mut(client).unwrap();
        session.out.append(pool, b"unread");
        session.stalled_since = Some(0);
    }
    crate::server::tick::look_at_sessions(&mut rig.worker);
    assert_eq!(rig.closing(ann), None);
    assert_eq!(rig.closing(bob), Some(Closing::Now(ClosedReason::Stalled)));
    assert_eq!(rig.worker.stats.replicas.get(), 1);
}

#[test]
fn a_stream_does_not_hold_up_the_end_of_the_process() {
    let mut rig = Rig::new();
    let (flowing, waiting) = (reader(&mut rig), asked(&mut rig));
    crate::server::tick::drain(&mut rig.worker);
    for client in [flowing, waiting] {
        assert_eq!(rig.closing(client), Some(Closing::Now(ClosedReason::Drain)));
    }
}

#[test]
fn messages_never_come_between_the_bytes_of_a_stream() {
    let mut rig = Rig::new();
    let ann = rig.client();
    rig.worker.sessions.get_mut(ann).unwrap().protocol = write::Protocol::Resp3;
    rig.worker.sessions.get_mut(ann).unwrap().subscriptions = Some(Box::default());
    rig.say(ann, ASK);
    let told = String::from_utf8(rig.take(ann)).unwrap();
    assert!(
        told.starts_with("-ERR breakwater: 'sync' is not served: this client has sub"),
        "{told}"
    );
}

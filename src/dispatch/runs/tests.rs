//! Runs against the long way: whatever is said and answered, both must give the same.
//!
//! Owns a conversation of two clients with one node, played twice. What surprises: it is cut
//! anywhere, on both sides, because a run ends where the bytes do.

use proptest::prelude::*;

use crate::session::feed;
use crate::session::state::{Closing, SessionId};
use crate::stats::labels::{ClosedReason, Outcome};
use crate::upstream::lane::LaneId;
use crate::upstream::receive;
use crate::upstream::rig::{Rig, bytes_of};

/// What clients say: plain commands, and everything that ends a run.
const SAID: [&[u8]; 16] = [
    b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    b"*2\r\n$3\r\nget\r\n$16\r\nkey:000000012345\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\nv\r\n\r\n\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$0\r\n\r\n",
    b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n",
    b"*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"*1\r\n$3\r\nGET\r\n",
    b"*1\r\n$6\r\nNOSUCH\r\n",
    b"get inline\r\n",
    b"*0\r\n",
    b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n",
    b"*2\r\n$7\r\nHGETALL\r\n$1\r\nh\r\n",
    b"*4\r\n$4\r\nSORT\r\n$1\r\nl\r\n$2\r\nBY\r\n$6\r\nnosort\r\n",
    b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n",
    b"*1\r\n$5\r\nMULTI\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nEXEC\r\n",
];

/// What the node answers, in turn.
const ANSWERED: [&[u8]; 8] = [
    b"$5\r\nhello\r\n",
    b"+OK\r\n",
    b":12\r\n",
    b"$-1\r\n",
    b"-ERR no\r\n",
    b"*2\r\n$1\r\na\r\n:1\r\n",
    b"$0\r\n\r\n",
    b"$2\r\n\r\n\r\n",
];

/// What was seen of a conversation.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// What each client got.
    got: [Vec<u8>; 2],
    /// What each lane was sent.
    sent: Vec<Vec<u8>>,
    /// Commands that were answered, by their outcome; and how many times were recorded.
    counted: (Vec<u64>, u64, u64),
    in_flight: u32,
}

/// A client's socket brings bytes.
fn bring(rig: &mut Rig, client: SessionId, bytes: &[u8]) {
    let session = rig.worker.sessions.get_mut(client).unwrap();
    if session.partial.is_none() {
        return rig.say(client, bytes);
    }
    let mut session = rig.worker.sessions.lend(client).unwrap();
    feed::hold(&mut rig.worker, &mut session, bytes);
    rig.worker.sessions.restore(client, session);
    rig.resume(client);
}

/// The node takes what a lane has for it and answers, in pieces of so many bytes.
fn serve(rig: &mut Rig, lane: LaneId, served: &mut usize, piece: usize, seen: &mut Seen) {
    let mut it = rig.worker.lanes.lend(lane).unwrap();
    let start = seen.sent.len();
    seen.sent.push(bytes_of(&it.send));
    it.note_sent(it.send.unsent(), rig.worker.now);
    let due = it.waiters.iter().map(|waiter| waiter.frames).sum::<u32>();
    let answers: Vec<u8> =
        (*served..).take(due as usize).flat_map(|n| ANSWERED[n % 8]).copied().collect();
    *served += due as usize;
    rig.worker.now += 7;
    for piece in answers.chunks(piece) {
        receive::receive(&mut rig.worker, &mut it, piece, None).unwrap();
    }
    assert!(it.is_idle() && it.carry.is_empty() && seen.sent.len() == start + 1);
    rig.worker.lanes.restore(lane, it);
}

/// Plays a conversation: who says what, cut into pieces; `pause` of them before the node answers.
fn play(no_runs: bool, said: &[(usize, usize)], cuts: (usize, usize), pause: usize) -> Seen {
    let mut rig = Rig::new();
    rig.worker.faults.no_runs = no_runs;
    let clients = [rig.client(), rig.client()];
    let (mut seen, mut served) = (Seen::default(), 0);
    let turns = said.chunks(pause).chain([&[][..], &[][..], &[][..]]);
    for turn in turns {
        for client in [0, 1] {
            let theirs = turn.iter().filter(|(who, _)| *who == client);
            let bytes: Vec<u8> = theirs.flat_map(|(_, what)| SAID[*what]).copied().collect();
            bytes.chunks(cuts.0).for_each(|piece| bring(&mut rig, clients[client], piece));
        }
        let lanes: Vec<LaneId> = rig.worker.lanes.keys().collect();
        for lane in lanes {
            serve(&mut rig, lane, &mut served, cuts.1, &mut seen);
        }
        // Whoever was told to wait is woken by its replies.
        clients.iter().for_each(|client| rig.resume(*client));
    }
    seen.got = clients.map(|client| rig.take(client));
    let stats = &rig.worker.stats;
    let each = |outcome| (0..stats.commands()).map(move |id| stats.command(id, outcome).get());
    seen.counted.0 = Outcome::ALL.into_iter().flat_map(each).collect();
    seen.counted.1 = stats.queue_time.snapshot().count();
    seen.counted.2 = stats.upstream_time.snapshot().sum_us();
    seen.in_flight = clients.map(|id| rig.worker.sessions.get(id).unwrap().in_flight).iter().sum();
    seen
}

proptest! {
    #[test]
    fn a_run_gives_what_the_long_way_gives(
        said in prop::collection::vec((0_usize..2, 0_usize..SAID.len()), 1..60),
        cuts in (1_usize..300, 1_usize..300),
        pause in 1_usize..40,
    ) {
        let (short, long) = (play(false, &said, cuts, pause), play(true, &said, cuts, pause));
        prop_assert_eq!(short, long);
    }

    #[test]
    fn plain_commands_in_a_row_are_no_different(
        said in prop::collection::vec((0_usize..2, 0_usize..5), 1..200),
        cuts in (20_usize..5000, 20_usize..5000),
        pause in 1_usize..200,
    ) {
        let (short, long) = (play(false, &said, cuts, pause), play(true, &said, cuts, pause));
        prop_assert_eq!(short, long);
    }
}

/// So many commands in one piece, and how many went out at once.
fn sent_at_once(change: impl FnOnce(&mut Rig, SessionId), commands: usize) -> usize {
    let mut rig = Rig::new();
    let client = rig.client();
    rig.open_lane_of(client);
    change(&mut rig, client);
    rig.say(client, &SAID[0].repeat(commands));
    rig.queued().len() / SAID[0].len()
}

#[test]
fn a_run_keeps_to_the_window_of_its_session_and_to_the_room_of_its_node() {
    assert_eq!(sent_at_once(|_, _| {}, 500), 32, "a new session's window");
    let large = |rig: &mut Rig, client| {
        let session = rig.worker.sessions.get_mut(client).unwrap();
        let bounds = session.gate.bounds;
        (0..2000).for_each(|_| session.admission.answered(&bounds));
        session.admission.learn(60 << 10);
    };
    assert_eq!(sent_at_once(large, 500), 273, "as many as the replies that its bound affords");
    let closing = |rig: &mut Rig, client: SessionId| {
        let session = rig.worker.sessions.get_mut(client).unwrap();
        session.close(Closing::AfterReplies(ClosedReason::Killed));
    };
    assert_eq!(sent_at_once(closing, 500), 0);
}

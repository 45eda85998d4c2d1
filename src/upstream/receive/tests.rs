//! Replies of transactions, cut wherever a socket may cut them, with pushes in between.
//!
//! Owns a worker without sockets: the node is byte strings that arrive in pieces. What surprises:
//! nothing a client gets may depend on where its replies were cut, so every cut is tried and the
//! bytes are compared.

use crate::session::state::SessionId;
use crate::upstream::receive::Anomaly;
use crate::upstream::rig::Rig;

fn commands(lines: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines.split('|') {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        crate::resp::write::command(&mut bytes, &words);
    }
    bytes
}

const PUSH: &[u8] = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n";
/// The node's replies to `MULTI|INCR n|GET a|EXEC`, one by one.
const BLOCK: [&[u8]; 4] = [b"+OK\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n", b"*2\r\n:1\r\n$1\r\nx\r\n"];

/// The node sends bytes cut at `cuts`.
fn answer_in_pieces(rig: &mut Rig, bytes: &[u8], cuts: &[usize]) -> Result<(), Anomaly> {
    let mut from = 0;
    for &to in cuts.iter().chain([&bytes.len()]) {
        rig.answer(&bytes[from..to])?;
        from = to;
    }
    Ok(())
}

/// Two clients on one lane: a block of the first, a read of the second.
fn block_and_neighbour(rig: &mut Rig, ann: SessionId, bob: SessionId) {
    rig.say(ann, &commands("MULTI|INCR n|GET a|EXEC"));
    rig.say(bob, &commands("GET b"));
    rig.hand_over_all();
}

#[test]
fn a_block_and_its_neighbour_get_their_own_wherever_the_bytes_are_cut() {
    let expected = BLOCK.concat();
    let bytes = [&expected[..], b"$3\r\nbob\r\n"].concat();
    let every_byte: Vec<usize> = (1..bytes.len()).collect();
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    for cuts in (0..=bytes.len()).map(|at| vec![at]).chain([every_byte]) {
        block_and_neighbour(&mut rig, ann, bob);
        answer_in_pieces(&mut rig, &bytes, &cuts).unwrap();
        assert_eq!(rig.take(ann), expected, "cut at {cuts:?}");
        assert_eq!(rig.take(bob), b"$3\r\nbob\r\n", "cut at {cuts:?}");
    }
}

#[test]
fn a_push_between_two_replies_of_a_block_is_nobody_s_on_a_shared_connection() {
    for place in 0..=BLOCK.len() {
        let before = BLOCK[..place].concat();
        let bytes = [&before[..], PUSH, &BLOCK[place..].concat(), b"$3\r\nbob\r\n"].concat();
        let every_byte: Vec<usize> = (1..bytes.len()).collect();
        let mut rig = Rig::new();
        let (ann, bob) = (rig.client(), rig.client());
        for cuts in (0..=bytes.len()).map(|at| vec![at]).chain([every_byte]) {
            block_and_neighbour(&mut rig, ann, bob);
            answer_in_pieces(&mut rig, &bytes, &cuts).unwrap();
            assert_eq!(rig.take(ann), BLOCK.concat(), "behind {place} replies, cut at {cuts:?}");
            assert_eq!(rig.take(bob), b"$3\r\nbob\r\n");
        }
        assert_eq!(rig.worker.stats.pushes_dropped.get(), bytes.len() as u64 + 2);
    }
}

#[test]
fn a_push_of_any_length_is_nobody_s_whatever_its_pieces_look_like() {
    let filling = vec![b'x'; 20_000];
    let head = [b">2\r\n$20000\r\n", &filling[..], b"\r\n"].concat();
    let bytes = [&head[..], b"$3\r\nfoo\r\n$1\r\na\r\n"].concat();
    // Cut where the rest of it begins like a reply, and like the end of one.
    for cut in [17_000, head.len(), head.len() + 9] {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.open_lane_of(ann);
        let _ = rig.take(ann);
        rig.say(ann, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
        rig.hand_over_all();
        answer_in_pieces(&mut rig, &bytes, &[cut]).unwrap();
        assert_eq!(rig.take(ann), b"$1\r\na\r\n", "cut at {cut}");
    }
}

#[test]
fn nothing_of_a_block_is_delivered_before_all_of_it_has_come() {
    let bytes = BLOCK.concat();
    let mut rig = Rig::new();
    let (ann, bob) = (rig.client(), rig.client());
    block_and_neighbour(&mut rig, ann, bob);
    for length in 0..bytes.len() {
        // Or an error of ours could not stand in the place of EXEC's reply.
        assert_eq!(rig.owed(ann), b"", "{length} bytes have come");
        rig.answer(&bytes[length..=length]).unwrap();
    }
    assert_eq!(rig.owed(ann), bytes);
}

#[test]
fn a_block_whose_multi_was_refused_passes_long_replies_on() {
    let value = format!("$300000\r\n{}\r\n", "v".repeat(300_000)).into_bytes();
    let replies = [
        b"-NOPERM no multi\r\n".to_vec(),
        value.repeat(6),
        b"-ERR EXEC without MULTI\r\n".to_vec(),
    ];
    let bytes = replies.concat();
    for piece in [bytes.len(), 65_536, 1000] {
        let mut rig = Rig::new();
        let (ann, bob) = (rig.client(), rig.client());
        rig.say(ann, &commands("MULTI|GET a|GET a|GET a|GET a|GET a|GET a|EXEC"));
        rig.say(bob, &commands("GET b"));
        rig.hand_over_all();
        bytes.chunks(piece).for_each(|piece| rig.answer(piece).unwrap());
        rig.answer(b"$3\r\nbob\r\n").unwrap();
        assert!(rig.take(ann) == bytes, "in pieces of {piece}");
        assert_eq!(rig.owed(bob), b"$3\r\nbob\r\n");
    }
}

/// A client with a connection of its own, in the middle of whatever follows.
fn watcher(rig: &mut Rig) -> SessionId {
    let ann = rig.client();
    rig.say(ann, &commands("WATCH k"));
    rig.focus_on(ann).hand_over_all();
    rig.answer(b"+OK\r\n").unwrap();
    rig.take(ann);
    ann
}

#[test]
fn a_push_of_one_s_own_connection_comes_between_two_replies_wherever_it_is_cut() {
    let large = format!("$40000\r\n{}\r\n", "v".repeat(40_000)).into_bytes();
    let replies: [&[u8]; 4] = [b"$1\r\na\r\n", &large, b"*2\r\n:1\r\n:2\r\n", b"+PONG\r\n"];
    for place in 0..=replies.len() {
        let bytes = [&replies[..place].concat()[..], PUSH, &replies[place..].concat()[..]].concat();
        // All cuts of the small replies and of the push, and some within the large one.
        let cuts =
            (0..bytes.len()).filter(|at| *at < 100 || at % 4099 == 0 || bytes.len() - at < 100);
        let mut rig = Rig::new();
        let ann = watcher(&mut rig);
        for at in cuts {
            rig.say(ann, &commands("GET a|GET b|MGET c d|PING"));
            rig.hand_over_all();
            answer_in_pieces(&mut rig, &bytes, &[at]).unwrap();
            assert!(rig.take(ann) == bytes, "behind {place} replies, cut at {at}");
        }
    }
}

#[test]
fn the_reply_to_exec_is_rewritten_wherever_it_is_cut() {
    let queued = b"+QUEUED\r\n".repeat(4);
    let exec = b"*4\r\n+OK\r\n+PONG\r\n*2\r\n:1\r\n$2\r\nhi\r\n+PONG\r\n";
    let expected = b"*4\r\n+OK\r\n$-1\r\n*2\r\n:1\r\n$2\r\nhi\r\n:1\r\n";
    for at in 0..=exec.len() {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, &commands("MULTI|SELECT 1|CLIENT GETNAME|EVAL x 0|CLIENT ID|EXEC"));
        rig.focus_on(ann).hand_over_all();
        rig.answer(b"+OK\r\n").unwrap();
        rig.resume(ann);
        rig.hand_over_all();
        rig.answer(&queued).unwrap();
        answer_in_pieces(&mut rig, exec, &[at]).unwrap();
        let owed = [b"+OK\r\n", &queued[..], expected].concat();
        assert_eq!(rig.owed(ann), owed, "cut at {at}");
        assert_eq!(rig.worker.sessions.get(ann).unwrap().db, 1);
    }
}

#[test]
fn lines_of_monitor_are_the_client_s_wherever_they_are_cut() {
    let lines = b"+OK\r\n+1.5 [0 127.0.0.1:1] \"get\" \"a\"\r\n+1.6 [0 127.0.0.1:1] \"ping\"\r\n";
    for at in 0..=lines.len() {
        let mut rig = Rig::new();
        let ann = rig.client();
        rig.say(ann, &commands("MONITOR"));
        rig.focus_on(ann).hand_over_all();
        answer_in_pieces(&mut rig, lines, &[at]).unwrap();
        assert_eq!(rig.owed(ann), lines, "cut at {at}");
    }
}

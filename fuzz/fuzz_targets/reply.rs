//! The reply scanner: a reply must end at the same byte however it arrives, and where others say it ends (INV-1).
//!
//! Input: a byte that seeds the sizes of the pieces, a byte that chooses between two kinds of input, then either
//! the bytes of a node, or decisions from which valid replies are made. Bytes are scanned at once and in pieces.
//! What surprises: the decoder that judges recurses without bound, so it sees a reply only after the scanner has
//! limited its depth.
#![no_main]

use breakwater::resp::limits::DECODED_DEPTH_CEILING;
use breakwater::resp::reply::{ReplyError, ReplyScanner};
use breakwater_fuzz::pieces::Pieces;
use breakwater_fuzz::tape::Tape;
use libfuzzer_sys::fuzz_target;
use redis_protocol::{resp2, resp3};

/// What a node's bytes turned out to be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Every whole reply: where it ends, and its type byte.
    replies: Vec<(usize, Option<u8>)>,
    error: Option<ReplyError>,
}

fuzz_target!(|input: &[u8]| {
    let mut tape = Tape::new(input);
    let pieces = Pieces::new(tape.byte());
    let is_made = tape.byte() & 1 == 1;
    if is_made {
        let (bytes, ends) = made(&mut tape);
        let found = check_pieces(&bytes, pieces);
        assert_eq!(found.error, None, "a valid reply was refused: {bytes:?}");
        let found_ends: Vec<usize> = found.replies.iter().map(|(end, _)| *end).collect();
        assert_eq!(found_ends, ends, "replies end elsewhere: {bytes:?}");
    } else {
        check_pieces(tape.rest(), pieces);
    }
});

/// Scans in three ways, which must agree with each other, and asks the decoder about each whole reply.
fn check_pieces(bytes: &[u8], pieces: Pieces) -> Found {
    let whole = scan(bytes, std::iter::repeat(bytes.len().max(1)));
    assert_eq!(whole, scan(bytes, pieces), "the sizes of the pieces changed what was found");
    if bytes.len() <= 256 {
        assert_eq!(whole, scan(bytes, Pieces::new(0)), "single bytes changed what was found");
    }
    let mut start = 0;
    for &(end, kind) in &whole.replies {
        check_with_decoder(&bytes[start..end], kind);
        start = end;
    }
    whole
}

/// Scans `bytes` as they arrive in pieces of these sizes, as a lane does.
fn scan(bytes: &[u8], pieces: impl Iterator<Item = usize>) -> Found {
    let (mut found, mut scanner) = (Found::default(), ReplyScanner::default());
    let (mut arrived, mut seen) = (0, 0);
    for size in pieces {
        arrived = (arrived + size).min(bytes.len());
        while seen < arrived {
            let fresh = &bytes[seen..arrived];
            let progress = match scanner.scan(fresh) {
                Ok(progress) => progress,
                Err(error) => {
                    found.error = Some(error);
                    return found;
                }
            };
            assert!(progress.consumed <= fresh.len());
            seen += progress.consumed;
            if !progress.complete {
                // What is presented again is a header line, and those are short: nothing piles up (INV-4).
                assert!(arrived - seen < 32, "{} bytes are wanted again", arrived - seen);
                break;
            }
            assert!(progress.consumed > 0, "a reply without an end of its own");
            found.replies.push((seen, scanner.kind()));
        }
        if arrived == bytes.len() {
            break;
        }
    }
    found
}

/// Where another implementation finds a whole reply too, it must be the same. It knows fewer spellings of some
/// types, and RESP2 has fewer types, so what it refuses proves nothing.
fn check_with_decoder(reply: &[u8], kind: Option<u8>) {
    match resp3::decode::complete::decode(reply) {
        Ok(Some((_, length))) => assert_eq!(length, reply.len(), "RESP3 ends elsewhere: {reply:?}"),
        Ok(None) => panic!("RESP3 misses something: {reply:?}"),
        Err(_) => {}
    }
    if matches!(kind, Some(b'+' | b'-' | b':' | b'$' | b'*')) && reply.first().copied() == kind {
        match resp2::decode::decode(reply) {
            Ok(Some((_, length))) => assert_eq!(length, reply.len(), "RESP2 ends elsewhere: {reply:?}"),
            Ok(None) => panic!("RESP2 misses something: {reply:?}"),
            Err(_) => {}
        }
    }
}

/// Valid replies made of the fuzzer's decisions, and where each of them ends.
fn made(tape: &mut Tape<'_>) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    while !tape.is_over() && bytes.len() < MADE_BYTES_MAX {
        if tape.below(16) == 0 {
            bytes.extend_from_slice(b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n");
        } else {
            make(tape, &mut bytes, 1);
        }
        ends.push(bytes.len());
    }
    (bytes, ends)
}

/// Appends one reply that begins at `depth`, which is 1 for the reply itself.
fn make(tape: &mut Tape<'_>, out: &mut Vec<u8>, depth: usize) {
    // The last level can hold no level below it, and no attribute, which is one as well.
    let kinds = if depth < DECODED_DEPTH_CEILING && out.len() < MADE_BYTES_MAX { 20 } else { 14 };
    match tape.below(kinds) {
        0 => out.extend_from_slice(b"+OK\r\n"),
        1 => out.extend_from_slice(b"-ERR no\r\n"),
        2 => out.extend_from_slice(b":-42\r\n"),
        3 => out.extend_from_slice(b"$-1\r\n"),
        4 => out.extend_from_slice(b"*-1\r\n"),
        5 => out.extend_from_slice(b"*0\r\n"),
        6 => out.extend_from_slice(b"_\r\n"),
        7 => out.extend_from_slice(b"#t\r\n"),
        8 => out.extend_from_slice(b",1.5\r\n"),
        9 => out.extend_from_slice(b"(3492890328409238509324850943850943825024385\r\n"),
        10 => out.extend_from_slice(b"=7\r\ntxt:one\r\n"),
        11 => out.extend_from_slice(b"!5\r\nERR x\r\n"),
        12 | 13 => {
            let length = tape.below(40);
            let bytes = tape.bytes(length);
            breakwater::resp::write::bulk(out, bytes);
        }
        14 | 15 => aggregate(tape, out, b'*', 1, depth),
        16 => aggregate(tape, out, b'~', 1, depth),
        17 | 18 => aggregate(tape, out, b'%', 2, depth),
        _ => {
            aggregate(tape, out, b'|', 2, depth);
            make(tape, out, depth);
        }
    }
}

fn aggregate(tape: &mut Tape<'_>, out: &mut Vec<u8>, kind: u8, each: usize, depth: usize) {
    let count = tape.below(4);
    out.extend_from_slice(format!("{}{count}\r\n", char::from(kind)).as_bytes());
    for _ in 0..count * each {
        make(tape, out, depth + 1);
    }
}

/// Made replies end growing here.
const MADE_BYTES_MAX: usize = 8192;

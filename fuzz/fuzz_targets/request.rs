//! The request scanner: what it finds must not depend on how the bytes arrive (INV-2, INV-4).
//!
//! Input: a byte of settings, a byte that seeds the sizes of the pieces, then what a client sends. The bytes are
//! scanned twice, all at once and in pieces, and both must find the same commands and the same error at the same
//! places. What is found must be spelled the only way that Redis spells it, so nothing but the arguments can
//! reach a lane; an independent decoder must agree. The scanner's own memory is bounded by what arrived.
#![no_main]

use breakwater::resp::limits::Limits;
use breakwater::resp::request::{ProtocolError, RequestScanner, Scanned};
use breakwater::resp::write;
use breakwater_fuzz::pieces::Pieces;
use breakwater_fuzz::tape::Tape;
use libfuzzer_sys::fuzz_target;
use redis_protocol::resp2;

/// What a client's bytes turned out to be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Every command: where it ended, and what would be forwarded.
    commands: Vec<(usize, Vec<u8>)>,
    /// Where the scanner stopped: at the error, or at the command that is not whole.
    end: usize,
    /// Bytes that it wants before it can go on, from `end` on; 0 behind a whole command.
    needed: usize,
    error: Option<ProtocolError>,
}

/// The rules under which the bytes are scanned.
#[derive(Clone, Copy, Debug)]
struct Rules {
    limits: Limits,
    authenticated: bool,
}

fuzz_target!(|input: &[u8]| {
    let mut tape = Tape::new(input);
    let rules = Rules::new(tape.byte());
    let pieces = Pieces::new(tape.byte());
    let bytes = tape.rest();
    let whole = scan(bytes, rules, std::iter::repeat(bytes.len().max(1)));
    let cut = scan(bytes, rules, pieces);
    assert_eq!(whole, cut, "the sizes of the pieces changed what was found");
    // Short inputs are cheap enough for the hardest cut of all.
    if bytes.len() <= 256 {
        let single = scan(bytes, rules, Pieces::new(0));
        assert_eq!(whole, single, "single bytes changed what was found");
    }
    for (_, frame) in &whole.commands {
        check_with_decoder(frame);
    }
});

/// Scans `bytes` as they arrive in pieces of these sizes, as a session does.
fn scan(bytes: &[u8], rules: Rules, pieces: impl Iterator<Item = usize>) -> Found {
    let (mut found, mut scanner) = (Found::default(), RequestScanner::default());
    let mut arrived = 0;
    for size in pieces {
        arrived = (arrived + size).min(bytes.len());
        scan_arrived(&bytes[..arrived], rules, &mut scanner, &mut found);
        if arrived == bytes.len() || found.error.is_some() {
            break;
        }
    }
    found
}

fn scan_arrived(arrived: &[u8], rules: Rules, scanner: &mut RequestScanner, found: &mut Found) {
    while found.end < arrived.len() {
        let rest = &arrived[found.end..];
        let promised = std::mem::take(&mut found.needed);
        let scanned = scanner.scan(rest, &rules.limits, rules.authenticated);
        check_memory(scanner, rest);
        match scanned {
            Ok(Scanned::Command { length }) => {
                assert!(promised <= length, "{promised} bytes were wanted for {length}");
                let frame = check_command(scanner, rest, length);
                found.end += length;
                found.commands.push((found.end, frame));
                scanner.reset();
            }
            Ok(Scanned::Nothing { length }) => {
                assert!(length > 0 && length <= rest.len());
                found.end += length;
                scanner.reset();
            }
            Ok(Scanned::Incomplete { needed }) => {
                // Without this a session would try for ever, or never again.
                assert!(needed > rest.len(), "{needed} bytes wanted, {} are there", rest.len());
                found.needed = needed;
                return;
            }
            Err(error) => {
                let mut line = Vec::new();
                error.write(&mut line);
                check_error_line(&line);
                found.error = Some(error);
                return;
            }
        }
    }
}

/// The command as it would be forwarded: it must be the canonical spelling of its arguments, and nothing else.
fn check_command(scanner: &RequestScanner, rest: &[u8], length: usize) -> Vec<u8> {
    assert!(length > 0 && length <= rest.len());
    let (frame, spans) = scanner.arguments(rest, length);
    assert!(!spans.is_empty(), "a command without a name");
    let arguments: Vec<&[u8]> =
        spans.iter().map(|span| &frame[span.start as usize..span.end as usize]).collect();
    let mut canonical = Vec::new();
    write::command(&mut canonical, &arguments);
    assert!(canonical == frame, "what is forwarded is not what was understood: {frame:?}");
    canonical
}

/// Memory follows what arrived, never what was declared. The worst is an inline line of one-byte arguments: each
/// two bytes become a span and an encoded bulk, both in vectors that double.
fn check_memory(scanner: &RequestScanner, rest: &[u8]) {
    let bound = 2048 + 16 * rest.len();
    assert!(scanner.heap_bytes() <= bound, "{} bytes for {}", scanner.heap_bytes(), rest.len());
}

fn check_error_line(line: &[u8]) {
    let text = line.strip_suffix(b"\r\n").expect("a whole line");
    assert!(text.starts_with(b"-ERR Protocol error: "));
    assert!(!text.contains(&b'\r') && !text.contains(&b'\n'), "an error of two lines: {text:?}");
}

/// Another implementation must see the same command, and end where we end. It recurses, and takes more than
/// Redis does, so it is only shown what passed.
fn check_with_decoder(frame: &[u8]) {
    let (decoded, length) = resp2::decode::decode(frame).expect("valid").expect("whole");
    assert_eq!(length, frame.len(), "the decoder ends elsewhere: {frame:?}");
    let resp2::types::OwnedFrame::Array(arguments) = decoded else {
        panic!("no array: {frame:?}")
    };
    assert!(arguments.iter().all(|argument| matches!(argument, resp2::types::OwnedFrame::BulkString(_))));
}

// === impl Rules ===

impl Rules {
    fn new(settings: u8) -> Self {
        // Low limits put their edges within reach of small inputs.
        let lowered =
            Limits { bulk_bytes: 100, arguments: 12, inline_bytes: 80, request_bytes: 300 };
        let limits = if settings & 2 == 0 { Limits::default() } else { lowered };
        Self { limits, authenticated: settings & 1 == 0 }
    }
}

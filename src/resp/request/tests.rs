//! Requests in pieces, requests that Redis would not survive, and the limits.
//!
//! Owns tables of literal bytes and the property that chunking changes nothing. What surprises: the feeder asks each
//! finished scanner a second time, because a session that must wait offers its command again, and because whatever
//! ends a run is scanned once more by whoever takes it from there.

use super::*;
use proptest::prelude::*;

fn scan_all(input: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
    scan_in_pieces(input, &[input.len()])
}

/// Feeds `input` in pieces of the given lengths (cycled), as a socket would deliver it.
fn scan_in_pieces(input: &[u8], pieces: &[usize]) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
    let mut scanner = RequestScanner::default();
    let (mut held, mut fed, mut commands) = (Vec::new(), 0, Vec::new());
    let mut lengths = pieces.iter().cycle();
    while fed < input.len() {
        let next = (fed + (*lengths.next().unwrap()).max(1)).min(input.len());
        held.extend_from_slice(&input[fed..next]);
        fed = next;
        loop {
            let scanned = scanner.scan(&held, &Limits::default(), true);
            if scanned.is_err() {
                assert_eq!(scanner.scan(&held, &Limits::default(), true), scanned);
            }
            let length = match scanned? {
                Scanned::Incomplete { needed } => {
                    assert!(needed > held.len(), "progress must be possible only with more");
                    break;
                }
                Scanned::Nothing { length } => length,
                Scanned::Command { length } => {
                    let again = scanner.scan(&held, &Limits::default(), true);
                    assert_eq!(again, Ok(Scanned::Command { length }));
                    let (frame, spans) = scanner.arguments(&held, length);
                    let arguments =
                        spans.iter().map(|s| frame[s.start as usize..s.end as usize].to_vec());
                    commands.push(arguments.collect());
                    length
                }
            };
            scanner.reset();
            held.drain(..length);
            if held.is_empty() {
                break;
            }
        }
    }
    Ok(commands)
}

fn words(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn multibulk_and_inline_commands_are_found_at_every_split() {
    let input =
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n\r\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\nset k \"a b\"\r\n";
    let want =
        vec![words(&["GET", "a"]), words(&["PING"]), words(&[""]), words(&["set", "k", "a b"])];
    for size in 1..=input.len() {
        assert_eq!(scan_in_pieces(input, &[size]).unwrap(), want, "pieces of {size}");
    }
}

#[test]
fn what_would_upset_redis_or_a_shared_connection_is_refused() {
    use ProtocolError as E;
    let table: [(&[u8], ProtocolError); 19] = [
        (b"*+1\r\n$4\r\nPING\r\n", E::InvalidMultibulkLength),
        (b"*01\r\n$4\r\nPING\r\n", E::InvalidMultibulkLength),
        (b"*\r\n", E::InvalidMultibulkLength),
        (b"*1\n$4\r\nPING\r\n", E::InvalidMultibulkLength),
        (b"*1\rX", E::InvalidMultibulkLength),
        (b"*2147483648\r\n", E::InvalidMultibulkLength),
        (b"*1000000000\r\n", E::InvalidMultibulkLength),
        (b"*1048577\r\n", E::InvalidMultibulkLength),
        (b"*99999999999999999999999999999999999999", E::InvalidMultibulkLength),
        (b"*1\r\n$+4\r\nPING\r\n", E::InvalidBulkLength),
        (b"*1\r\n$04\r\nPING\r\n", E::InvalidBulkLength),
        (b"*1\r\n$-1\r\n", E::InvalidBulkLength),
        (b"*1\r\n$2147483647\r\n", E::InvalidBulkLength),
        (b"*1\r\n:5\r\n", E::ExpectedBulk(b':')),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", E::ExpectedBulk(b'*')),
        (b"*1\r\n$4\r\nPINGXX", E::MissingTerminator),
        (b"GET a\0b\r\n", E::NulInInline),
        (b"GET \"a\r\n", E::UnbalancedQuotes),
        (b"*1\r\n\r\n", E::ExpectedBulk(b'\r')),
    ];
    for (input, want) in table {
        assert_eq!(scan_all(input), Err(want), "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn inline_commands_end_at_64_kib() {
    let long = vec![b'a'; 64 * 1024 + 1];
    assert_eq!(scan_all(&long), Err(ProtocolError::TooBigInline));
    let mut fits = vec![b'a'; 64 * 1024];
    fits.extend_from_slice(b"\n");
    assert_eq!(scan_all(&fits).unwrap().len(), 1);
}

#[test]
fn strangers_get_the_small_limits_of_redis() {
    let mut scanner = RequestScanner::default();
    let got = scanner.scan(b"*11\r\n", &Limits::default(), false);
    assert_eq!(got, Err(ProtocolError::UnauthenticatedMultibulkLength));
    let mut scanner = RequestScanner::default();
    let got = scanner.scan(b"*1\r\n$16385\r\n", &Limits::default(), false);
    assert_eq!(got, Err(ProtocolError::UnauthenticatedBulkLength));
}

#[test]
fn lowered_limits_hold() {
    let limits = Limits { bulk_bytes: 8, arguments: 2, inline_bytes: 16, request_bytes: 24 };
    let scan = |input: &[u8]| RequestScanner::default().scan(input, &limits, true);
    assert_eq!(scan(b"*3\r\n"), Err(ProtocolError::InvalidMultibulkLength));
    assert_eq!(scan(b"*1\r\n$9\r\n"), Err(ProtocolError::InvalidBulkLength));
    assert_eq!(scan(b"*2\r\n$8\r\n12345678\r\n$8\r\n"), Err(ProtocolError::TooBigRequest));
    assert_eq!(scan(b"12345678901234567"), Err(ProtocolError::TooBigInline));
}

#[test]
fn a_declared_length_reserves_nothing() {
    let mut scanner = RequestScanner::default();
    let got = scanner.scan(b"*1048576\r\n$536870912\r\n", &Limits::default(), true);
    assert!(matches!(got, Ok(Scanned::Incomplete { .. })));
    assert!(scanner.heap_bytes() < 4096);
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_commands_as_the_whole(
        input in prop::collection::vec(prop_oneof![
            Just(b'*'), Just(b'$'), Just(b'1'), Just(b'2'), Just(b'0'), Just(b'-'), Just(b'\r'),
            Just(b'\n'), Just(b'"'), Just(b'\''), Just(b'\\'), Just(b' '), any::<u8>()], 0..200),
        pieces in prop::collection::vec(1_usize..40, 1..8),
    ) {
        prop_assert_eq!(scan_in_pieces(&input, &pieces), scan_all(&input));
    }

    #[test]
    fn valid_commands_survive_any_chunking(
        commands in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..6), 1..6),
        pieces in prop::collection::vec(1_usize..40, 1..8),
    ) {
        let mut input = Vec::new();
        for command in &commands {
            let arguments: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            crate::resp::write::command(&mut input, &arguments);
        }
        prop_assert_eq!(scan_in_pieces(&input, &pieces).unwrap(), commands);
    }
}

#[test]
fn the_arguments_of_an_accepted_frame_are_found_again() {
    let found = |frame: &'static [u8]| super::arguments(frame).collect::<Vec<_>>();
    let frame = b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n$1\r\n";
    assert_eq!(found(frame), [&b"SET"[..], b"", b"\r\n$1"]);
    // What is no frame gives what can be made out, and nothing runs past its end.
    for (frame, count) in [(&b""[..], 0), (b"GET a\r\n", 0), (b"*2\r\n$3\r\nGET\r\n$9\r\na\r\n", 1)]
    {
        assert_eq!(found(frame).len(), count);
    }
}

//! Replies in pieces, replies that are none, and the bounds of nesting and lines.
//!
//! Owns every RESP2 and RESP3 type as literal bytes and a generator of nested replies. What surprises: only the
//! beginning of a header line may ever be left over, which the feeder checks after each piece.

use super::*;
use proptest::prelude::*;

/// Scans `input` in pieces and returns the length and kind of every reply in it.
fn replies(input: &[u8], pieces: &[usize]) -> Result<Vec<(usize, u8)>, ReplyError> {
    let mut scanner = ReplyScanner::default();
    let (mut held, mut fed, mut length, mut found) = (Vec::new(), 0, 0, Vec::new());
    let mut lengths = pieces.iter().cycle();
    while fed < input.len() {
        let next = (fed + (*lengths.next().unwrap()).max(1)).min(input.len());
        held.extend_from_slice(&input[fed..next]);
        fed = next;
        loop {
            let progress = scanner.scan(&held)?;
            held.drain(..progress.consumed);
            length += progress.consumed;
            if !progress.complete {
                assert!(held.len() < HEADER_BYTES_CEILING, "only a header line may be kept");
                break;
            }
            found.push((length, scanner.kind().unwrap()));
            length = 0;
            if held.is_empty() {
                break;
            }
        }
    }
    Ok(found)
}

fn whole(input: &[u8]) -> Result<Vec<(usize, u8)>, ReplyError> {
    replies(input, &[input.len()])
}

const EVERY_TYPE: [&[u8]; 22] = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":-12\r\n",
    b"$5\r\nhe\r\no\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",3.14\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n",
    b"=15\r\ntxt:Some string\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n+c\r\n",
    b"~3\r\n+a\r\n+b\r\n%0\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
    b"*2\r\n|1\r\n+x\r\n*2\r\n:1\r\n:2\r\n:5\r\n:6\r\n",
    b"|1\r\n+a\r\n|1\r\n+b\r\n+c\r\n+d\r\n+value\r\n",
    b"|0\r\n*1\r\n|0\r\n+z\r\n",
];

#[test]
fn every_type_is_found_at_every_split() {
    let stream: Vec<u8> = EVERY_TYPE.concat();
    let lengths: Vec<usize> = EVERY_TYPE.iter().map(|reply| reply.len()).collect();
    for size in 1..=stream.len() {
        let got = replies(&stream, &[size]).unwrap();
        let got: Vec<usize> = got.into_iter().map(|(length, _)| length).collect();
        assert_eq!(got, lengths, "pieces of {size}");
    }
}

#[test]
fn an_attribute_does_not_hide_the_kind_of_its_reply() {
    assert_eq!(whole(b"|1\r\n+a\r\n+b\r\n-ERR x\r\n").unwrap(), vec![(20, b'-')]);
    assert_eq!(whole(b"|1\r\n+a\r\n+b\r\n>1\r\n+m\r\n").unwrap(), vec![(20, b'>')]);
}

#[test]
fn malformed_replies_are_refused() {
    use ReplyError as E;
    let table: [(&[u8], ReplyError); 13] = [
        (b"HTTP/1.1 200 OK\r\n", E::UnknownType(b'H')),
        (b"\r\n", E::UnknownType(b'\r')),
        (b"$?\r\n", E::Streamed),
        (b"*?\r\n", E::Streamed),
        (b"$-2\r\n", E::InvalidLength),
        (b"$+1\r\n", E::InvalidLength),
        (b"%-1\r\n", E::InvalidLength),
        (b"*99999999999999999999\r\n", E::InvalidLength),
        (b"$123456789012345678901234567890123\r\n", E::InvalidLength),
        (b"$2\r\nabXX", E::MissingTerminator),
        (b"+OK\n", E::MissingTerminator),
        (b"*1\r\n>1\r\n+x\r\n", E::NestedPush),
        (b"$1\rx", E::MissingTerminator),
    ];
    for (input, want) in table {
        assert_eq!(whole(input), Err(want), "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn a_header_line_is_refused_before_it_is_whole() {
    // Found by fuzzing: with its CR as the 32nd byte the whole line was wanted again.
    let line = [&b"*"[..], &[0; 30], b"\r"].concat();
    assert_eq!(line.len(), HEADER_BYTES_CEILING);
    assert_eq!(ReplyScanner::default().scan(&line), Err(ReplyError::InvalidLength));
}

#[test]
fn nesting_is_bounded_without_recursion() {
    assert_eq!(whole(&b"*1\r\n".repeat(100_000)), Err(ReplyError::TooDeep));
    let mut deepest = b"*1\r\n".repeat(REPLY_DEPTH_CEILING - 1);
    deepest.extend_from_slice(b"+x\r\n");
    assert_eq!(whole(&deepest).unwrap().len(), 1);
}

#[test]
fn levels_beyond_those_kept_in_place_close_in_their_order() {
    // A table that contains itself, as a script returns it, and a number behind it on each level.
    let mut reply = b"*2\r\n".repeat(1000);
    reply.extend_from_slice(b"-ERR reached lua stack limit\r\n");
    reply.extend_from_slice(&b":1\r\n".repeat(1000));
    let twice = [&reply[..], b"+next\r\n"].concat();
    let frames = whole(&twice).unwrap();
    assert_eq!(frames.len(), 2);
}

#[test]
fn an_endless_line_is_refused() {
    let mut line = b"+".to_vec();
    line.resize(LINE_BYTES_CEILING + 3, b'a');
    assert_eq!(whole(&line), Err(ReplyError::LineTooLong));
}

fn reply() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        "[a-zA-Z ]{0,12}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
        "[A-Z]{1,9}".prop_map(|text| format!("-{text} x\r\n").into_bytes()),
        any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| {
            let mut out = Vec::new();
            crate::resp::write::bulk(&mut out, &bytes);
            out
        }),
        Just(b"$-1\r\n".to_vec()),
        Just(b"_\r\n".to_vec()),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        (
            prop_oneof![Just('*'), Just('~'), Just('%'), Just('|')],
            prop::collection::vec(inner.clone(), 0..6),
            inner,
        )
            .prop_map(|(kind, mut elements, decorated)| {
                if matches!(kind, '%' | '|') && elements.len() % 2 == 1 {
                    elements.pop();
                }
                let each = if matches!(kind, '%' | '|') { 2 } else { 1 };
                let mut out = format!("{kind}{}\r\n", elements.len() / each).into_bytes();
                out.extend(elements.concat());
                if kind == '|' {
                    out.extend(decorated);
                }
                out
            })
    })
}

proptest! {
    #[test]
    fn valid_replies_survive_any_chunking(
        list in prop::collection::vec(reply(), 1..6),
        pieces in prop::collection::vec(1_usize..40, 1..8),
    ) {
        let lengths: Vec<usize> = list.iter().map(Vec::len).collect();
        let got = replies(&list.concat(), &pieces).unwrap();
        prop_assert_eq!(got.into_iter().map(|(length, _)| length).collect::<Vec<_>>(), lengths);
    }

    #[test]
    fn any_chunking_gives_the_same_replies_as_the_whole(
        input in prop::collection::vec(prop_oneof![
            Just(b'*'), Just(b'$'), Just(b'%'), Just(b'|'), Just(b'>'), Just(b'+'), Just(b'1'),
            Just(b'2'), Just(b'0'), Just(b'-'), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..200),
        pieces in prop::collection::vec(1_usize..40, 1..8),
    ) {
        prop_assert_eq!(replies(&input, &pieces), whole(&input));
    }

    #[test]
    fn what_is_usual_is_exactly_what_the_scanner_finds(
        input in prop_oneof![
            reply(),
            prop::collection::vec(prop_oneof![
                Just(b'$'), Just(b'+'), Just(b':'), Just(b'1'), Just(b'0'), Just(b'-'), Just(b'\r'),
                Just(b'\n')], 0..12),
        ],
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let input = [input, behind].concat();
        let mut scanner = ReplyScanner::default();
        if let Some(length) = usual(&input) {
            let progress = scanner.scan(&input);
            prop_assert_eq!(progress, Ok(Progress { consumed: length, complete: true }));
            prop_assert!(!matches!(scanner.kind(), Some(b'-' | b'!' | b'>') | None));
        }
    }
}

#[test]
fn what_most_replies_are_is_usual() {
    for reply in
        ["$5\r\nhello\r\n", "$-1\r\n", "+OK\r\n", ":-12\r\n", "_\r\n", "$12\r\nhello\r\nworld\r\n"]
    {
        assert_eq!(usual(reply.as_bytes()), Some(reply.len()), "{reply:?}");
        assert_eq!(
            usual(&reply.as_bytes()[..reply.len() - 1]),
            None,
            "{reply:?} but its last byte"
        );
    }
    for other in [
        "-ERR\r\n",
        "*1\r\n:1\r\n",
        ">0\r\n",
        "$05\r\nhello\r\n",
        "$5\r\nhelloxx",
        "+OK\n",
        "$-2\r\n",
    ] {
        assert_eq!(usual(other.as_bytes()), None, "{other:?}");
    }
}

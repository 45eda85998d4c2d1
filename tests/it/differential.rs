//! The same bytes to Redis directly and through Breakwater, and the same bytes back (INV-7).
//!
//! Owns a list of commands, `differential/commands.txt`, that goes to two equal servers in both protocol versions:
//! one by one, so that a difference has a name, and once more as a single pipeline. Never compares what two
//! servers may answer differently: times, random choices, and the order of hash tables, whose seed differs.
//!
//! What surprises: identities are masked. A client's id is a number of the process that gave it.

use crate::support::pair::{Pair, masked, pipeline, split};
use crate::support::{command, shown};

/// One invocation a line; `'…'` quotes, with `\n`, `\t`, `\0` and `\'` inside; `#` begins a comment.
const COMMANDS: &str = include_str!("differential/commands.txt");

/// Lines of the list as they stand, and as commands.
fn commands() -> Vec<(&'static str, Vec<u8>)> {
    let lines = COMMANDS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| (line, command(&split(line)))).collect()
}

#[test]
fn hundreds_of_commands_are_answered_to_the_byte_as_redis_answers_them() {
    let pair = Pair::start();
    let commands = commands();
    assert!(commands.len() >= 200, "the bar is 200, the list has {}", commands.len());
    for version in [2, 3] {
        pair.empty();
        let [mut ours, mut theirs] = pair.clients();
        let hello = format!("HELLO {version}");
        assert_eq!(shown(&masked(ours.ask(&hello))), shown(&masked(theirs.ask(&hello))));
        let mut differences = Vec::new();
        for (words, bytes) in &commands {
            ours.send(bytes);
            theirs.send(bytes);
            let (left, right) = (masked(ours.frame()), masked(theirs.frame()));
            if left != right {
                let (left, right) = (shown(&left), shown(&right));
                differences
                    .push(format!("RESP{version}: {words}\n  ours   {left}\n  Redis  {right}"));
            }
        }
        eprintln!("RESP{version}: {} commands compared", commands.len());
        assert!(
            differences.is_empty(),
            "{} differ:\n{}",
            differences.len(),
            differences.join("\n")
        );
    }
}

#[test]
fn the_same_commands_in_one_pipeline_give_the_same_bytes() {
    let pair = Pair::start();
    let commands = commands();
    let pipeline: Vec<u8> = commands.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    for version in [2, 3] {
        pair.empty();
        let mut replies = pair.clients().map(|mut client| {
            client.ask(&format!("HELLO {version}"));
            client.send(&pipeline);
            client.finish_sending();
            let frames = client.frames(commands.len());
            assert_eq!(client.rest(), b"", "one reply for each command");
            frames
        });
        let [ours, theirs] = &mut replies;
        for ((words, _), (ours, theirs)) in commands.iter().zip(ours.iter().zip(theirs.iter())) {
            let (ours, theirs) = (masked(ours.clone()), masked(theirs.clone()));
            assert_eq!(shown(&ours), shown(&theirs), "RESP{version}: {words}; Redis is right");
        }
    }
}

#[test]
fn inline_commands_are_answered_to_the_byte_as_redis_answers_them() {
    let pair = Pair::start();
    for bytes in [
        &b"PING\r\n"[..],
        b"ping\n",
        b"  PING  \r\n",
        b"\tPING\thello\r\n",
        b"SET in line\r\nGET in\r\n",
        b"SET in \"a b\"\r\nGET in\r\n",
        b"SET in 'a \"b\" c'\r\nGET in\r\n",
        b"SET in 'it\\'s'\r\nGET in\r\n",
        b"SET in \"\\x00\\xff\\n\\r\\t\\a\\b\\\\\\\"\"\r\nGET in\r\n",
        b"SET in \"\\xzz\"\r\nGET in\r\n",
        b"SET in \"\"\r\nGET in\r\n",
        b"SET in a\rb\r\nGET in\r\n",
        b"\r\n\r\nECHO a\r\n\n",
        b"ECHO a\r\n*2\r\n$4\r\nECHO\r\n$1\r\nb\r\nECHO c\n",
        b"GET\r\n",
        b"NOSUCH a b\r\n",
        b"QUIT\r\nPING\r\n",
        b"*1\r\n$4\r\nquit\r\n*1\r\n$4\r\nPING\r\n",
        b"QUIT now\r\nPING\r\n",
        b"ECHO \"open\r\n",
    ] {
        pair.same_stream(bytes);
    }
}

#[test]
fn client_reply_silences_exactly_what_redis_silences() {
    let pair = Pair::start();
    for lines in [
        "CLIENT REPLY OFF|SET a 1|GET a|ECHO x|CLIENT REPLY ON|GET a",
        "CLIENT REPLY SKIP|SET a 2|GET a",
        "CLIENT REPLY SKIP|ECHO hidden|ECHO shown",
        "CLIENT REPLY SKIP|CLIENT REPLY SKIP|ECHO a|ECHO b",
        "CLIENT REPLY SKIP|CLIENT REPLY ON|ECHO a",
        "CLIENT REPLY OFF|CLIENT REPLY SKIP|ECHO a|CLIENT REPLY ON|ECHO b",
        "CLIENT REPLY OFF|CLIENT REPLY BOGUS|NOSUCH|GET|CLIENT REPLY ON|ECHO b",
        "CLIENT REPLY OFF|RESET|ECHO b",
        "CLIENT REPLY OFF|HELLO 3|CLIENT REPLY ON|GET none",
        "CLIENT REPLY SKIP|NOSUCH|ECHO b",
        "CLIENT REPLY SKIP|SELECT 1|GET a|SELECT 0|GET a",
        "CLIENT REPLY OFF|QUIT|ECHO never",
        "CLIENT REPLY SKIP",
    ] {
        pair.same_stream(&pipeline(lines));
    }
}

#[test]
fn a_clients_view_of_itself_has_the_fields_that_redis_shows() {
    let pair = Pair::start();
    let fields = |text: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.contains("id=")).expect("a line about a client");
        let names = line.split(' ').filter_map(|field| field.split_once('='));
        names.map(|(name, _)| name.to_owned()).collect()
    };
    for version in [2, 3] {
        for words in ["CLIENT INFO", "CLIENT LIST", "CLIENT LIST TYPE normal"] {
            let [ours, theirs] = pair.clients().map(|mut client| {
                client.ask(&format!("HELLO {version} SETNAME myself"));
                client.text(words)
            });
            assert_eq!(fields(&ours), fields(&theirs), "{words}");
            assert_eq!(ours.chars().next(), theirs.chars().next(), "the same type of reply");
            for field in [" name=myself ", &format!(" resp={version} "), " db=0 "] {
                assert_eq!(ours.contains(field), theirs.contains(field), "{field}: {ours}");
            }
        }
    }
    let mut client = pair.proxy.client();
    let id = client.text("CLIENT ID");
    let info = client.text("CLIENT INFO");
    assert!(info.contains(&format!("id={} ", id.trim_start_matches(':').trim())), "{id} {info}");
}

#[test]
fn what_this_build_does_not_serve_is_refused_and_the_connection_stays_usable() {
    let pair = Pair::start();
    let mut client = pair.proxy.client();
    for words in ["REPLCONF ACK 1", "SCRIPT DEBUG YES"] {
        let reply = client.text(words);
        assert!(reply.starts_with("-ERR breakwater: '") && reply.contains("not served"), "{reply}");
        let name = words.split(' ').next().unwrap_or_default().to_lowercase();
        assert!(reply.contains(&name), "{words}: {reply}");
        assert_eq!(client.ask("ECHO on"), b"$2\r\non\r\n");
    }
    assert_eq!(client.ask("SET still 1"), b"+OK\r\n");
    assert_eq!(pair.redis[0].client().ask("GET still"), b"$1\r\n1\r\n");
}

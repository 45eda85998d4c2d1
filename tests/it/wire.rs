//! Bytes that no honest client and no honest server sends.
//!
//! Owns the strictness table: what each malformed input does to its own connection, and that it does nothing to
//! a hundred healthy clients of the same proxy (INV-2). The second half turns the table around: a server that
//! misbehaves costs its lane and nothing else, and nobody is given another's reply (INV-1).
//!
//! What surprises: where our answer should be Redis's own, the same bytes go to a redis-server as well, and the
//! two are compared. Only the rows where we are stricter say what they expect in words.

use crate::support::crowd::Crowd;
use crate::support::fake::Gate;
use crate::support::{
    Act, Client, FakeUpstream, Proxy, RedisServer, bulk, command, line, shown, until,
};

/// What a row of the table demands.
#[derive(Clone)]
enum Demand {
    /// No reply, and the next command is answered.
    Silence,
    /// Whatever Redis does, to the byte; it closes the connection.
    AsRedis,
    /// We are stricter: an error with this text, then the end.
    Refusal(&'static str),
}

use Demand::{AsRedis, Refusal, Silence};

/// A row: what it is, the bytes, the demand.
type Row = (&'static str, Vec<u8>, Demand);

fn row(name: &'static str, bytes: &[u8], demand: Demand) -> Row {
    (name, bytes.to_vec(), demand)
}

fn table() -> Vec<Row> {
    [swallowed(), refused_by_redis(), refused_by_us()].concat()
}

fn swallowed() -> Vec<Row> {
    vec![
        row("no arguments", b"*0\r\n", Silence),
        row("minus one arguments", b"*-1\r\n", Silence),
        row("minus five arguments", b"*-5\r\n", Silence),
        row("an empty line", b"\r\n", Silence),
        row("blanks", b" \t  \r\n", Silence),
        row("a bare LF", b"\n", Silence),
        row("all of these", b"*0\r\n\r\n\n*-1\r\n  \r\n*-5\r\n\n\n", Silence),
    ]
}

fn refused_by_redis() -> Vec<Row> {
    // So long that Redis, too, has read more than it takes before the next line end comes.
    let endless_line = [b"ECHO ", &vec![b'x'; 300_000][..]].concat();
    vec![
        row("a sign in a count", b"*+1\r\n$4\r\nPING\r\n", AsRedis),
        row("a zero before a count", b"*01\r\n$4\r\nPING\r\n", AsRedis),
        row("a count that is no number", b"*one\r\n$4\r\nPING\r\n", AsRedis),
        row("a count that is nothing", b"*\r\n$4\r\nPING\r\n", AsRedis),
        row("a sign in a length", b"*1\r\n$+4\r\nPING\r\n", AsRedis),
        row("a zero before a length", b"*1\r\n$04\r\nPING\r\n", AsRedis),
        row("a length that is no number", b"*1\r\n$four\r\nPING\r\n", AsRedis),
        row("an integer as argument", b"*1\r\n:5\r\n", AsRedis),
        row("a simple string as argument", b"*1\r\n+PING\r\n", AsRedis),
        row("an array as argument", b"*1\r\n*1\r\n$4\r\nPING\r\n", AsRedis),
        row("null as argument", b"*2\r\n$3\r\nGET\r\n$-1\r\n", AsRedis),
        row("more arguments than Redis counts", b"*2147483648\r\n", AsRedis),
        row("a length of 2 GiB", b"*1\r\n$2147483647\r\n", AsRedis),
        row("a length of 512 MiB and a byte", b"*1\r\n$536870913\r\n", AsRedis),
        row("nesting without end", &b"*1\r\n".repeat(100_000), AsRedis),
        row("quotes without their partner", b"ECHO \"a\r\n", AsRedis),
        row("a quote in the middle of a word", b"ECHO \"a\"b\r\n", AsRedis),
        row("an inline without end", &endless_line, AsRedis),
        row("a browser, inline", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", AsRedis),
        row("a browser's header", b"hOsT: x\r\n\r\n", AsRedis),
        row("a browser, multibulk", b"*2\r\n$4\r\npost\r\n$1\r\n/\r\n", AsRedis),
        row("a header, multibulk", b"*2\r\n$5\r\nHost:\r\n$1\r\nx\r\n", AsRedis),
    ]
}

fn refused_by_us() -> Vec<Row> {
    let long_line = [b"ECHO ", &vec![b'x'; 70_000][..], b"\r\n"].concat();
    vec![
        row(
            "no CRLF behind an argument",
            b"*1\r\n$4\r\nPINGXX",
            Refusal("Protocol error: expected CRLF"),
        ),
        row("NUL in an inline", b"GET a\0b\r\n", Refusal("Protocol error: NUL")),
        row("a line above 64 KiB", &long_line, Refusal("Protocol error: too big inline request")),
        row(
            "more arguments than a connection carries",
            b"*1048577\r\n",
            Refusal("Protocol error: invalid multibulk length"),
        ),
        row(
            "a thousand million arguments",
            b"*1000000000\r\n",
            Refusal("Protocol error: invalid multibulk length"),
        ),
        row(
            "a count as long as a line",
            &[b"*", &[b'1'; 5000][..]].concat(),
            Refusal("Protocol error: invalid multibulk length"),
        ),
    ]
}

#[test]
fn malformed_input_costs_its_own_connection_and_nobody_else_notices() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let crowd = Crowd::start(&proxy, 100);
    crowd.pass_round();
    for (name, bytes, demand) in table() {
        eprintln!("row: {name}");
        match demand {
            Silence => assert_silent(&mut proxy.client(), &bytes),
            AsRedis => {
                let ours = provoke(proxy.client(), &bytes);
                let theirs = provoke(redis.client(), &bytes);
                assert_eq!(shown(&ours), shown(&theirs), "{name}: Breakwater left, Redis right");
            }
            Refusal(text) => {
                let reply = provoke(proxy.client(), &bytes);
                let reply = String::from_utf8_lossy(&reply).into_owned();
                let one_line = reply.strip_suffix("\r\n").is_some_and(|line| !line.contains('\n'));
                assert!(reply.starts_with(&format!("-ERR {text}")) && one_line, "{name}: {reply}");
            }
        }
        crowd.pass_round();
    }
    assert!(crowd.finish() > 0);
    assert_eq!(proxy.metric("breakwater_lanes_lost_total"), 0.0);
    assert!(proxy.metric("breakwater_client_protocol_errors_total") >= 10.0);
}

/// Sends bytes that deserve no reply, alone and before a command; only the command's reply may come.
fn assert_silent(client: &mut Client, bytes: &[u8]) {
    for marker in ["first", "second"] {
        client.send([bytes, &line(&format!("ECHO {marker}"))].concat());
        assert_eq!(shown(&client.frame()), shown(&bulk(marker.as_bytes())));
        client.send(bytes);
    }
    assert_eq!(client.ask("ECHO end"), bulk(b"end"));
}

/// Sends a good command, the bytes, and another good command. Returns what came after the first reply until the
/// connection was closed.
fn provoke(mut client: Client, bytes: &[u8]) -> Vec<u8> {
    assert_eq!(client.ask("ECHO before"), bulk(b"before"));
    // The peer may close while we are still sending.
    let _ = client.try_send(&[bytes, &line("ECHO after")].concat());
    client.rest()
}

#[test]
fn strangers_are_given_no_more_room_than_redis_gives_them() {
    let redis = RedisServer::start();
    let proxy = Proxy::listening(|port, _| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\n[[listener.user]]\nname = \"app\"\n\
             passwords = [\"#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\"]\n\
             [upstream]\nurl = \"{}\"\n",
            redis.url()
        )
    })
    .ready();
    let locked = RedisServer::start_with(&["--requirepass", "secret"]);
    let eleven = command(&["MSET", "a", "1", "b", "2", "c", "3", "d", "4", "e", "5"]);
    let long = command(&["AUTH", &"x".repeat(16 * 1024 + 1)]);
    for bytes in [eleven.clone(), long] {
        let mut ours = proxy.client();
        let mut theirs = locked.client();
        // The peer may close while we are still sending.
        let _ = ours.try_send(&bytes);
        let _ = theirs.try_send(&bytes);
        let reply = ours.rest();
        assert!(reply.starts_with(b"-ERR Protocol error: unauthenticated"), "{}", shown(&reply));
        assert_eq!(shown(&reply), shown(&theirs.rest()));
    }
    // The same is welcome from those who have said who they are.
    let mut client = proxy.client();
    assert_eq!(client.ask("AUTH app secret"), b"+OK\r\n");
    client.send(&eleven);
    assert_eq!(client.frame(), b"+OK\r\n");
}

#[test]
fn a_pipeline_may_be_cut_at_any_byte() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let commands = [
        line("ECHO x"),
        line("SET cut value-of-cut"),
        b"GET cut\r\n".to_vec(),
        b"*0\r\n".to_vec(),
        b"\r\n".to_vec(),
        line("MGET cut none cut"),
        b"SET \"quoted key\" 'a b'\r\n".to_vec(),
        command(&["GET", "quoted key"]),
        line("INCRBY n 5"),
        line("DEL n"),
    ];
    let replies: &[&[u8]] = &[
        b"$1\r\nx\r\n",
        b"+OK\r\n",
        b"$12\r\nvalue-of-cut\r\n",
        b"*3\r\n$12\r\nvalue-of-cut\r\n$-1\r\n$12\r\nvalue-of-cut\r\n",
        b"+OK\r\n",
        b"$3\r\na b\r\n",
        b":5\r\n",
        b":1\r\n",
    ];
    let bytes = commands.concat();
    let mut client = proxy.client();
    for cut in 1..bytes.len() {
        // The reply to this command proves that the first piece was read before the second was sent.
        client.send([&line("ECHO sent")[..], &bytes[..cut]].concat());
        assert_eq!(client.frame(), bulk(b"sent"));
        client.send(&bytes[cut..]);
        for expected in replies {
            let frame = client.frame();
            assert_eq!(shown(&frame), shown(expected), "cut at {cut}");
        }
    }
}

#[test]
fn what_came_before_a_half_close_is_answered_then_the_connection_ends() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for number in 0..500 {
        let value = format!("value-{number}-{}", "x".repeat(number));
        bytes.extend(command(&["SET", &format!("half:{number}"), &value]));
        bytes.extend(command(&["GET", &format!("half:{number}")]));
        expected.extend(b"+OK\r\n");
        expected.extend(bulk(value.as_bytes()));
    }
    // An unfinished command is nobody's: it is dropped.
    bytes.extend(b"*3\r\n$3\r\nSET\r\n$4\r\nlost\r\n$5\r\nva");
    let mut client = proxy.client();
    client.send(&bytes);
    client.finish_sending();
    let got = client.rest();
    assert_eq!(got.len(), expected.len());
    assert!(got == expected, "the replies are in order and whole");
    assert_eq!(redis.client().ask("EXISTS lost"), b":0\r\n");
}

#[test]
fn a_value_of_64_mib_in_pieces_of_1_kib_passes_both_ways() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut other = proxy.client();
    let value: Vec<u8> = (0..64_usize << 20).map(|at| (at * 31 + at / 7919) as u8).collect();
    let mut client = proxy.client();
    for (number, piece) in command(&[&b"SET"[..], b"large", &value]).chunks(1024).enumerate() {
        client.send(piece);
        if number % 8192 == 0 {
            assert_eq!(other.ask("ECHO alive"), bulk(b"alive"));
        }
    }
    assert_eq!(client.frame(), b"+OK\r\n");
    client.send(line("GET large"));
    assert!(client.frame() == bulk(&value), "what went in comes out");
    assert_eq!(redis.client().ask("STRLEN large"), format!(":{}\r\n", value.len()).as_bytes());
}

// === hostile servers ===

/// What a hostile server answers to the first `GET bad`, and whether nothing of it may reach the client.
const BAD_REPLIES: [(&str, &[u8]); 7] = [
    ("an unknown type", b"?what\r\n"),
    ("a length that is no number", b"$abc\r\nabc\r\n"),
    ("a bulk string without its end", b"$3\r\nabcdef\r\n"),
    ("LF without CR", b"+OK\n+OK\r\n"),
    ("a streamed array", b"*?\r\n:1\r\n.\r\n"),
    ("a streamed string", b"$?\r\n;4\r\nabcd\r\n;0\r\n"),
    ("a count that is no number", b"*-2\r\n"),
];

#[test]
fn a_malformed_reply_costs_the_lane_and_waiters_are_told_the_truth() {
    let endless = [b"-ERR ", &vec![b'x'; 3 << 20][..]].concat();
    let mut rows: Vec<(&str, Vec<u8>)> = vec![("an error line without end", endless)];
    rows.extend(BAD_REPLIES.map(|(name, bytes)| (name, bytes.to_vec())));
    for (name, bad) in rows {
        eprintln!("row: {name}");
        assert_lane_is_given_up(bad);
    }
}

#[test]
fn a_reply_that_nests_beyond_its_bound_costs_its_own_client_and_the_lane() {
    let gate = Gate::new();
    let door = std::sync::Arc::clone(&gate);
    let fake = FakeUpstream::start(move |asked| match asked.words.as_str() {
        "EVAL bad 0" => {
            door.pass();
            Act::Reply(b"*1\r\n".repeat(10_000))
        }
        words => Act::Reply(bulk(format!("reply to {words}").as_bytes())),
    });
    let proxy = Proxy::before(&fake.url()).ready();
    let (mut first, mut reader) = (proxy.client(), proxy.client());
    for _ in 0..30 {
        assert_eq!(reader.ask("GET warm"), bulk(b"reply to GET warm"));
    }
    first.send(line("EVAL bad 0"));
    fake.wait_for("EVAL bad 0");
    gate.open();
    // Either a part of the reply has been passed on, and nothing honest can follow it, or it is told.
    if let Ok(frame) = first.try_frame() {
        assert!(frame.starts_with(b"-ERR breakwater: outcome unknown: "), "{}", shown(&frame));
    }
    assert_eq!(reader.ask("GET r"), bulk(b"reply to GET r"));
}

/// One client's write is answered with `bad`; another's read and a third's write wait behind it.
fn assert_lane_is_given_up(bad: Vec<u8>) {
    let gate = Gate::new();
    let door = std::sync::Arc::clone(&gate);
    let fake = FakeUpstream::start(move |asked| match asked.words.as_str() {
        "INCR bad" => {
            door.pass();
            Act::Reply(bad.clone())
        }
        words => Act::Reply(bulk(format!("reply to {words}").as_bytes())),
    });
    let proxy = Proxy::before(&fake.url()).ready();
    let (mut first, mut reader, mut writer) = (proxy.client(), proxy.client(), proxy.client());
    // A tenth of what was sent for the first time may be sent again.
    for _ in 0..30 {
        assert_eq!(first.ask("GET warm"), bulk(b"reply to GET warm"));
    }
    first.send(line("INCR bad"));
    fake.wait_for("INCR bad");
    reader.send(line("GET r"));
    writer.send(line("INCR w"));
    wait_in_flight(&proxy, 3);
    gate.open();
    for (client, command) in [(&mut first, "INCR"), (&mut writer, "INCR")] {
        let reply = String::from_utf8_lossy(&client.frame()).into_owned();
        assert!(reply.starts_with("-ERR breakwater: outcome unknown: "), "{reply}");
        assert!(reply.contains(command), "{reply}");
    }
    assert_eq!(shown(&reader.frame()), shown(&bulk(b"reply to GET r")), "a read is asked again");
    for (client, words) in
        [(&mut first, "GET one"), (&mut reader, "GET two"), (&mut writer, "INCR w2")]
    {
        assert_eq!(shown(&client.ask(words)), shown(&bulk(format!("reply to {words}").as_bytes())));
    }
    assert_eq!(fake.count("INCR bad"), 1, "a write is not sent twice");
    // This counts the one of the first client and the later one that was answered.
    assert!(fake.count("INCR w") <= 2, "a write is not sent twice");
    assert_eq!(proxy.metric_of("breakwater_lanes_lost_total", "cause=\"protocol\""), 1.0);
}

/// Waits until the proxy has so many commands under way; the gauge is set by its tick.
fn wait_in_flight(proxy: &Proxy, count: usize) {
    until(&format!("{count} commands are in flight"), || {
        proxy.metric("breakwater_commands_in_flight") >= count as f64
    });
}

#[test]
fn a_line_without_end_that_is_no_error_closes_the_client_that_has_its_beginning() {
    let fake = FakeUpstream::start(|asked| match asked.words.as_str() {
        "GET endless" => Act::Reply([b"+", &vec![b'x'; 3 << 20][..]].concat()),
        words => Act::Reply(bulk(format!("reply to {words}").as_bytes())),
    });
    let proxy = Proxy::before(&fake.url()).ready();
    let (mut victim, mut other) = (proxy.client(), proxy.client());
    assert_eq!(other.ask("GET warm"), bulk(b"reply to GET warm"));
    victim.send(line("GET endless"));
    let got = victim.rest();
    let is_prefix =
        got.iter().enumerate().all(|(at, &byte)| byte == if at == 0 { b'+' } else { b'x' });
    let is_told = got.starts_with(b"-ERR breakwater: ");
    assert!(is_prefix || is_told, "{}", shown(&got));
    assert_eq!(other.ask("GET x"), bulk(b"reply to GET x"));
    assert_eq!(proxy.client().ask("GET y"), bulk(b"reply to GET y"));
}

#[test]
fn a_reply_too_many_closes_the_lane_and_is_given_to_nobody() {
    let fake = FakeUpstream::start(|asked| match asked.words.as_str() {
        "GET twice" => Act::Reply(b"$5\r\nfirst\r\n$6\r\nsecond\r\n".to_vec()),
        words => Act::Reply(bulk(format!("reply to {words}").as_bytes())),
    });
    let proxy = Proxy::before(&fake.url()).ready();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    assert_eq!(other.ask("GET warm"), bulk(b"reply to GET warm"));
    assert_eq!(client.ask("GET twice"), bulk(b"first"));
    until("the lane is given up", || proxy.metric("breakwater_lanes_lost_total") == 1.0);
    for number in 0..10 {
        let words = format!("GET k{number}");
        let expected = bulk(format!("reply to {words}").as_bytes());
        assert_eq!(shown(&client.ask(&words)), shown(&expected));
        assert_eq!(shown(&other.ask(&words)), shown(&expected));
    }
    let connections: Vec<usize> = fake.asked().iter().map(|asked| asked.connection).collect();
    assert_ne!(connections.first(), connections.last(), "a fresh lane");
}

#[test]
fn a_reply_before_its_question_closes_the_lane_and_is_given_to_nobody() {
    let fake = FakeUpstream::start(|asked| {
        Act::Reply(bulk(format!("reply to {}", asked.words).as_bytes()))
    });
    let proxy = Proxy::before(&fake.url()).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("GET a"), bulk(b"reply to GET a"));
    fake.inject("GET a", b"$4\r\nevil\r\n");
    until("the lane is given up", || proxy.metric("breakwater_lanes_lost_total") == 1.0);
    assert_eq!(client.ask("GET b"), bulk(b"reply to GET b"));
}

#[test]
fn the_beginning_of_a_reply_on_an_idle_lane_closes_it_before_anybody_asks() {
    let fake = FakeUpstream::start(|asked| {
        Act::Reply(bulk(format!("reply to {}", asked.words).as_bytes()))
    });
    let proxy = Proxy::before(&fake.url()).ready();
    let mut client = proxy.client();
    assert_eq!(client.ask("GET a"), bulk(b"reply to GET a"));
    // If the lane lived on, the next replies would become the rest of this one.
    fake.inject("GET a", b"$23\r\nhalf of");
    until("the lane is given up", || proxy.metric("breakwater_lanes_lost_total") == 1.0);
    assert_eq!(client.ask("GET b"), bulk(b"reply to GET b"));
}

#[test]
fn pushes_on_a_lane_are_dropped_and_counted_and_the_lane_lives() {
    let push = b">2\r\n+message\r\n*2\r\n+a\r\n$3\r\nb\r\n\r\n";
    let fake = FakeUpstream::start(move |asked| {
        let reply = bulk(format!("reply to {}", asked.words).as_bytes());
        Act::Reply([push, &reply[..], push, push].concat())
    });
    let proxy = Proxy::before(&fake.url()).ready();
    for mut client in [proxy.client(), proxy.client3()] {
        for number in 0..20 {
            let words = format!("GET k{number}");
            let expected = bulk(format!("reply to {words}").as_bytes());
            assert_eq!(shown(&client.ask(&words)), shown(&expected));
        }
    }
    until("the pushes are counted", || proxy.metric("breakwater_pushes_dropped_total") == 120.0);
    assert_eq!(proxy.metric("breakwater_lanes_lost_total"), 0.0);
}

#[test]
fn replies_of_every_type_pass_untouched() {
    const REPLIES: [&[u8]; 16] = [
        b"+OK\r\n",
        b"-WRONGTYPE Operation against a key\r\n",
        b":-42\r\n",
        b"$0\r\n\r\n",
        b"$4\r\n\r\n\r\n\r\n",
        b"*-1\r\n",
        b"_\r\n",
        b",3.5\r\n",
        b",inf\r\n",
        b"#t\r\n",
        b"(3492890328409238509324850943850943825024385\r\n",
        b"!21\r\nSYNTAX invalid syntax\r\n",
        b"=15\r\ntxt:Some string\r\n",
        b"%2\r\n+a\r\n~2\r\n:1\r\n:2\r\n+b\r\n*1\r\n*0\r\n",
        b"|1\r\n+ttl\r\n:3600\r\n*2\r\n:1\r\n|1\r\n+x\r\n_\r\n:2\r\n",
        b"*2\r\n$-1\r\n%0\r\n",
    ];
    let fake = FakeUpstream::start(|asked| {
        let number: Option<usize> = asked.words.strip_prefix("GET ").and_then(|n| n.parse().ok());
        Act::Reply(REPLIES[number.expect("the test asks for numbers")].to_vec())
    });
    let proxy = Proxy::before(&fake.url()).ready();
    let mut client = proxy.client3();
    let pipeline: Vec<u8> = (0..REPLIES.len()).flat_map(|n| line(&format!("GET {n}"))).collect();
    client.send(&pipeline);
    for expected in REPLIES {
        assert_eq!(shown(&client.frame()), shown(expected));
    }
    assert_eq!(proxy.metric("breakwater_lanes_lost_total"), 0.0);
}

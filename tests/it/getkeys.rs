//! The command table against a real redis-server: names, keys, and the texts of errors.
//!
//! Every command and subcommand that the local server lists is given argument lists from a
//! generator with a fixed seed, and `COMMAND GETKEYS` and `GETKEYSANDFLAGS` must say what
//! `command::keys` says, refusals included. Where commands are executed, it is on the test's own
//! server, and to see that each is answered once or refused.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use breakwater::command::flags::{Flags, KeyFlags};
use breakwater::command::keys::{KeyPosition, KeysError, keys};
use breakwater::command::overlay::{Value, from_reply};
use breakwater::command::spec::{Class, Spec};
use breakwater::command::table::{Table, Unknown};
use breakwater::command::{Command, errors};
use breakwater::resp::Span;

use crate::support::RedisServer;

/// Argument lists for each command.
const LISTS: usize = 60;

/// Requests that are written before their replies are read.
const WINDOW: usize = 200;

#[test]
fn the_overlaid_table_knows_exactly_what_the_server_knows() {
    let server = RedisServer::start();
    let mut wire = Wire::connect(&server);
    let reply = wire.ask(&[b"COMMAND"]);
    let mut listed = BTreeSet::new();
    for command in reply.items() {
        listed.insert(command.items()[0].text());
        let subcommands = command.items().get(9).map_or(&[][..], Reply::items);
        listed.extend(subcommands.iter().map(|subcommand| subcommand.items()[0].text()));
    }
    let table = overlaid(&reply);
    let known: BTreeSet<String> = table.specs().map(|spec| spec.name.to_string()).collect();
    assert_eq!(known, listed);
    assert!(known.len() > 300, "the server listed only {} names", known.len());
    println!("{} names of the server are known, and no others", known.len());
}

#[test]
fn what_the_server_says_of_its_commands_is_what_the_table_says() {
    let server = RedisServer::start();
    let mut wire = Wire::connect(&server);
    let reply = wire.ask(&[b"COMMAND"]);
    let live = from_reply(&reply.to_value()).unwrap();
    assert_eq!(live.skipped, 0);
    let builtin = Table::builtin();
    let mut compared = 0;
    for live in live.commands.iter().flat_map(|c| std::iter::once(c).chain(&c.subcommands)) {
        // A server of another version than the table's has its own opinion on some commands.
        let Some(spec) = builtin.find(&live.name) else {
            continue;
        };
        compared += 1;
        assert_eq!(spec.is_write(), live.flags.contains(Flags::WRITE), "{}", live.name);
        assert_eq!(spec.is_readonly(), live.flags.contains(Flags::READONLY), "{}", live.name);
        assert_eq!(spec.key_specs.len(), live.key_specs.len(), "{}", live.name);
        assert!(spec.categories.contains(live.categories), "{}", live.name);
        assert_eq!(spec.first_key, live.first_key, "{}", live.name);
    }
    println!("{compared} commands compared");
    assert!(compared > 300);
}

#[test]
fn keys_are_those_of_command_getkeys() {
    let server = RedisServer::start();
    let mut wire = Wire::connect(&server);
    let table = overlaid(&wire.ask(&[b"COMMAND"]));
    let mut random = Random(0x5eed_0001);
    let mut totals = Totals::default();
    // A container with an argument is a subcommand, and about a lone name Redis 7.0 cannot be asked.
    for spec in table.specs().filter(|spec| !spec.is_container) {
        let lists: Vec<Request> = (0..LISTS).map(|_| random.request(spec, 2)).collect();
        let found = wire.ask_about("GETKEYS", &lists);
        let flagged = wire.ask_about("GETKEYSANDFLAGS", &lists);
        let mut succeeded = 0;
        for (request, (found, flagged)) in lists.iter().zip(found.iter().zip(&flagged)) {
            let ours = ours(&table, request);
            assert_eq!(ours.names(request), *found, "GETKEYS {request:?}");
            assert_eq!(ours.names_and_flags(request), *flagged, "GETKEYSANDFLAGS {request:?}");
            succeeded += usize::from(ours.0.is_ok());
        }
        // A generator that only makes mistakes would prove little.
        assert!(succeeded > 0 || !spec.has_keys(), "no list fitted {}", spec.name);
        totals.add(spec, succeeded);
    }
    println!("{totals:?}");
    assert!(totals.commands > 300 && totals.succeeded > 5_000 && totals.refused > 5_000);
}

#[test]
fn a_wrong_number_of_arguments_is_refused_in_the_servers_words() {
    let server = RedisServer::start();
    let mut wire = Wire::connect(&server);
    let table = overlaid(&wire.ask(&[b"COMMAND"]));
    let mut compared = 0;
    for spec in table.specs() {
        let name: Vec<Vec<u8>> =
            spec.name.to_uppercase().split('|').map(|word| word.as_bytes().to_vec()).collect();
        for length in name.len()..name.len() + 8 {
            // Anything that the server would run is not sent.
            if spec.accepts(length) || (spec.is_container && length > 1) {
                continue;
            }
            let mut arguments = name.clone();
            arguments.resize(length, b"x".to_vec());
            let request = Request::new(arguments);
            let mut expected = Vec::new();
            errors::wrong_arity(&mut expected, spec);
            wire.expect_line(&request, &expected);
            compared += 1;
        }
    }
    println!("{compared} commands of the wrong length");
    assert!(compared > 1_000);
}

#[test]
fn unknown_names_are_refused_in_the_servers_words() {
    let server = RedisServer::start();
    let mut wire = Wire::connect(&server);
    let table = overlaid(&wire.ask(&[b"COMMAND"]));
    let mut random = Random(0x5eed_0002);
    let mut told = [0, 0];
    for _ in 0..3_000 {
        let mut arguments: Vec<Vec<u8>> =
            (0..1 + random.below(6)).map(|_| random.bytes()).collect();
        if random.below(2) == 0 {
            let containers = [&b"CLIENT"[..], b"config", b"xGroup", b"Object"];
            arguments.insert(0, containers[random.below(containers.len())].to_vec());
        }
        let request = Request::new(arguments);
        // What exists (a lone container, a lucky strike) is not the matter here.
        let Err(what) = table.resolve(&request.command()) else {
            continue;
        };
        let mut expected = Vec::new();
        errors::unknown(&mut expected, what, &request.command());
        wire.expect_line(&request, &expected);
        told[usize::from(what == Unknown::Subcommand)] += 1;
    }
    println!("{} unknown commands, {} unknown subcommands", told[0], told[1]);
    assert!(told[0] > 1_000 && told[1] > 1_000);
}

/// INV-2: what may travel on a lane is answered once and leaves the connection as it was.
#[test]
fn a_shared_command_is_answered_exactly_once_and_changes_nothing_about_the_connection() {
    // They write files, dial out, or take a second each.
    const LEFT_OUT: [&str; 4] = ["bgsave", "bgrewriteaof", "migrate", "pfselftest"];
    let server = RedisServer::start();
    let mut wire = Wire::connect(&server);
    let table = overlaid(&wire.ask(&[b"COMMAND"]));
    // Some state, so that it can be lost.
    wire.ask(&[b"CLIENT", b"SETNAME", b"lane"]);
    wire.ask(&[b"SELECT", b"3"]);
    let mut random = Random(0x5eed_0003);
    let (before, mut asked) = (wire.own_state(), 0);
    for spec in table.specs().filter(|spec| !LEFT_OUT.contains(&&*spec.name)) {
        for list in 0..LISTS / 2 {
            let request = random.request(spec, 1);
            let command = request.command();
            // A generated XREAD may well block, and then it is not shared.
            if table.resolve(&command).map(|spec| spec.class_for(&command)) != Ok(Class::Shared) {
                continue;
            }
            let marker = format!("{} {list}", spec.name);
            wire.send(&request.1);
            let _reply = wire.read();
            let echoed = wire.ask(&[b"ECHO", marker.as_bytes()]);
            assert_eq!(echoed.text(), marker, "after {request:?}");
            asked += 1;
        }
        assert_eq!(wire.own_state(), before, "after {}", spec.name);
    }
    println!("{asked} shared commands, each answered once");
    assert!(asked > 5_000);
}

/// The table as a proxy in front of this server would have it.
fn overlaid(reply: &Reply) -> Table {
    Table::builtin().overlay(from_reply(&reply.to_value()).unwrap().commands)
}

/// What `command::keys` says of a request.
struct Ours(Result<Vec<KeyPosition>, KeysError>);

/// Asks `command::keys`, and leaves out what Redis does not call a key.
fn ours(table: &Table, request: &Request) -> Ours {
    let command = request.command();
    let spec = table.resolve(&command).unwrap();
    let mut found = vec![KeyPosition { index: 7, flags: KeyFlags::RW }];
    let outcome = keys(spec, &command, &mut found);
    if outcome.is_ok() && !spec.has_keys() {
        // Channels: not a key, though found like one.
        assert!(found.iter().all(|key| key.flags.contains(KeyFlags::NOT_KEY)));
        return Ours(Err(KeysError::NoKeys));
    }
    // GETKEYS asks whether there are keys first, and only then counts arguments.
    let outcome = if spec.has_keys() { outcome } else { outcome.and(Err(KeysError::NoKeys)) };
    match outcome {
        Err(_) if !spec.has_keys() => Ours(Err(KeysError::NoKeys)),
        Err(error) => Ours(Err(error)),
        Ok(()) => Ours(Ok(found)),
    }
}

/// Counts of the comparison, to be printed.
#[derive(Debug, Default)]
struct Totals {
    commands: usize,
    with_keys: usize,
    succeeded: usize,
    refused: usize,
}

// === impl Totals ===

impl Totals {
    fn add(&mut self, spec: &Spec, succeeded: usize) {
        self.commands += 1;
        self.with_keys += usize::from(spec.has_keys());
        self.succeeded += succeeded;
        self.refused += LISTS - succeeded;
    }
}

// === impl Ours ===

impl Ours {
    fn names(&self, request: &Request) -> Reply {
        self.reply(|key| Reply::Bytes(Some(request.0[key.index as usize].clone())))
    }

    fn names_and_flags(&self, request: &Request) -> Reply {
        self.reply(|key| {
            let flags = key.flags.names().map(|name| Reply::Status(name.into())).collect();
            let name = request.0[key.index as usize].clone();
            Reply::Array(Some(vec![Reply::Bytes(Some(name)), Reply::Array(Some(flags))]))
        })
    }

    fn reply(&self, show: impl Fn(&KeyPosition) -> Reply) -> Reply {
        match &self.0 {
            Ok(found) => Reply::Array(Some(found.iter().map(show).collect())),
            Err(error) => Reply::Error(format!("ERR {error}").into_bytes()),
        }
    }
}

/// The arguments of a request, its bytes, and where in them the arguments lie.
struct Request(Vec<Vec<u8>>, Vec<u8>, Vec<Span>);

// === impl Request ===

impl Request {
    fn new(arguments: Vec<Vec<u8>>) -> Request {
        let mut frame = format!("*{}\r\n", arguments.len()).into_bytes();
        let mut spans = Vec::new();
        for argument in &arguments {
            frame.extend(format!("${}\r\n", argument.len()).bytes());
            let start = frame.len() as u32;
            frame.extend(argument);
            spans.push(Span { start, end: frame.len() as u32 });
            frame.extend(b"\r\n");
        }
        Request(arguments, frame, spans)
    }

    fn command(&self) -> Command<'_> {
        Command::new(&self.1, &self.2)
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|argument| argument.escape_ascii().to_string()))
            .finish()
    }
}

/// A generator of argument lists; the same ones in every run.
struct Random(u64);

// === impl Random ===

impl Random {
    /// A number below `end`, by xorshift.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }

    /// At least `shortest` arguments for a command: often as many as it takes, and of the words that matter to it.
    fn request(&mut self, spec: &Spec, shortest: usize) -> Request {
        let least = spec.arity.unsigned_abs() as usize;
        let name = spec.name.split('|').map(|word| word.as_bytes().to_vec());
        let mut arguments: Vec<Vec<u8>> = name.collect();
        let length = match self.below(8) {
            0 => least.saturating_sub(1),
            1 => least + 1,
            _ if spec.arity < 0 => least + self.below(7),
            _ => least,
        };
        while arguments.len() < length.max(shortest) {
            arguments.push(self.argument(spec));
        }
        Request::new(arguments)
    }

    /// One argument. Small counts and the words of the command are frequent.
    fn argument(&mut self, spec: &Spec) -> Vec<u8> {
        const PLAIN: [&[u8]; 8] =
            [b"a", b"b", b"k1", b"{tag}x", b"", b"c\0d", b"\xff\r\n", b"left"];
        const COUNTS: [&[u8]; 14] = [
            b"0",
            b"1",
            b"2",
            b"3",
            b"-1",
            b"1x",
            b" 2",
            b"+1",
            b"01",
            b"100",
            b"1.5",
            b"4294967298",
            b"9223372036854775807",
            b"99999999999999999999",
        ];
        let words: &[&[u8]] = match &*spec.name {
            "sort" | "sort_ro" => &[b"STORE", b"store\0x", b"limit", b"GET", b"By", b"alpha"],
            "migrate" => &[b"KEYS", b"auth", b"AUTH2", b"copy", b"REPLACE", b""],
            "xread" | "xreadgroup" => {
                &[b"STREAMS", b"streams\0", b"COUNT", b"BLOCK", b"GROUP", b"noack"]
            }
            "set" => &[b"GET", b"EX", b"nx", b"get\0"],
            "bitfield" => &[b"GET", b"SET", b"incrby", b"overflow", b"u8"],
            "georadius" | "georadiusbymember" => &[b"STORE", b"storedist", b"m", b"COUNT"],
            _ => &[b"WEIGHTS", b"AND", b"STORE", b"KEYS", b"STREAMS"],
        };
        let pick = |pool: &[&[u8]], at: usize| pool[at % pool.len()].to_vec();
        let at = self.below(1 << 20);
        match self.below(10) {
            0..4 => pick(&PLAIN, at),
            4..6 => pick(&COUNTS[..4], at),
            6 => pick(&COUNTS, at),
            _ => pick(words, at),
        }
    }

    /// Any bytes, line ends and NUL among them, of lengths around the 128 at which Redis cuts.
    fn bytes(&mut self) -> Vec<u8> {
        const ODD: [u8; 8] = [0, b'\r', b'\n', b'\'', b' ', 0xff, b'%', b'|'];
        let length = match self.below(4) {
            0 => self.below(4),
            1 => 118 + self.below(14),
            _ => self.below(60),
        };
        let byte = |random: &mut Random| match random.below(40) {
            0 => ODD[random.below(ODD.len())],
            _ => b'a' + random.below(26) as u8,
        };
        (0..length).map(|_| byte(self)).collect()
    }
}

/// A reply of protocol version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Status(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bytes(Option<Vec<u8>>),
    Array(Option<Vec<Reply>>),
}

// === impl Reply ===

impl Reply {
    fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(Some(items)) => items,
            _ => &[],
        }
    }

    fn text(&self) -> String {
        match self {
            Reply::Status(text) | Reply::Bytes(Some(text)) => {
                String::from_utf8_lossy(text).into_owned()
            }
            other => panic!("no text: {other:?}"),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Reply::Status(text) | Reply::Bytes(Some(text)) => Value::Bytes(text.clone()),
            Reply::Integer(number) => Value::Integer(*number),
            Reply::Array(Some(items)) => Value::Array(items.iter().map(Reply::to_value).collect()),
            Reply::Error(_) | Reply::Bytes(None) | Reply::Array(None) => Value::Null,
        }
    }
}

/// A connection to the server.
struct Wire(BufReader<TcpStream>);

// === impl Wire ===

impl Wire {
    fn connect(server: &RedisServer) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire(BufReader::new(stream))
    }

    fn ask(&mut self, arguments: &[&[u8]]) -> Reply {
        self.send(&Request::new(arguments.iter().map(|argument| argument.to_vec()).collect()).1);
        self.read()
    }

    /// Asks, and the first line of the reply, with its end, must be this one.
    fn expect_line(&mut self, request: &Request, expected: &[u8]) {
        self.send(&request.1);
        let (answered, expected) = (self.line(), expected.escape_ascii());
        assert_eq!(answered.escape_ascii().to_string(), expected.to_string());
    }

    /// `COMMAND <how> <request>` for each request.
    fn ask_about(&mut self, how: &str, requests: &[Request]) -> Vec<Reply> {
        let mut replies = Vec::new();
        for window in requests.chunks(WINDOW) {
            let mut bytes = Vec::new();
            for request in window {
                let mut arguments = vec![b"COMMAND".to_vec(), how.as_bytes().to_vec()];
                arguments.extend(request.0.iter().cloned());
                bytes.extend(Request::new(arguments).1);
            }
            self.send(&bytes);
            replies.extend(window.iter().map(|_| self.read()));
        }
        replies
    }

    /// What the server remembers of this connection, without what changes by itself.
    fn own_state(&mut self) -> Vec<String> {
        const STATE: [&str; 12] = [
            "id=", "name=", "flags=", "db=", "sub=", "psub=", "ssub=", "multi=", "watch=", "user=",
            "redir=", "resp=",
        ];
        let info = self.ask(&[b"CLIENT", b"INFO"]).text();
        let is_state = |field: &&str| STATE.iter().any(|name| field.starts_with(name));
        info.split_whitespace().filter(is_state).map(str::to_owned).collect()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).unwrap();
        assert!(line.ends_with(b"\r\n"), "the server closed the connection: {line:?}");
        line
    }

    fn read(&mut self) -> Reply {
        let line = self.line();
        let (kind, rest) = (line[0], &line[1..line.len() - 2]);
        let number = || std::str::from_utf8(rest).unwrap().parse::<i64>().unwrap();
        match kind {
            b'+' => Reply::Status(rest.to_vec()),
            b'-' => Reply::Error(rest.to_vec()),
            b':' => Reply::Integer(number()),
            b'$' => Reply::Bytes(usize::try_from(number()).ok().map(|length| self.bulk(length))),
            b'*' => Reply::Array(
                usize::try_from(number())
                    .ok()
                    .map(|items| (0..items).map(|_| self.read()).collect()),
            ),
            other => panic!("unexpected reply type {other}"),
        }
    }

    fn bulk(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }
}

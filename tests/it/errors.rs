//! What client libraries make of Breakwater's own errors: which exception, whether they repeat, what runs twice.
//!
//! Owns a matrix: libraries × errors × (one command, a pipeline of INCR and the command that fails). How often a
//! library sent is counted at Breakwater, what ran at the servers, which are fakes, so that each error comes for sure.
//! The rows are printed, and `docs/compatibility.md` must have them as they are. `breaker` is about a client with a
//! circuit breaker of its own.
//!
//! What surprises: INCR may run once and never twice. That is what the first words of our errors are chosen for, and
//! a library that repeats does so because the operator has asked for `LOADING`.

mod breaker;
mod fred;
mod redis_rs;

use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::clients::{has_not_panicked, node, python, run};
use crate::support::process::Folder;
use crate::support::{Act, FakeUpstream, Proxy, bulk, free_port, until};

/// One error, with a Breakwater of its own for each library.
struct Case {
    name: &'static str,
    proxy: Proxy,
    /// Whether a library can wait until it is served. If not, what it sends is the first of its connection.
    is_served: bool,
    /// What a library sends alone.
    alone: &'static str,
    /// What it sends behind an INCR, in one pipeline.
    behind: &'static str,
    /// The key of that INCR.
    counter: String,
}

/// What a library has seen.
struct Seen {
    /// The exception's class.
    class: String,
    /// Whether its connection is the same afterwards.
    is_kept: bool,
}

/// The servers behind: one alone, and two clusters of two nodes each, of which the second is sick.
struct Servers {
    single: FakeUpstream,
    lame: [FakeUpstream; 1],
    full: [FakeUpstream; 2],
}

#[test]
fn redis_py() {
    matrix("redis-py", |cases| script(python("our_errors.py", &["LIBRARY=sync"]), cases));
}

#[test]
fn redis_py_asyncio() {
    matrix("redis.asyncio", |cases| script(python("our_errors.py", &["LIBRARY=asyncio"]), cases));
}

#[test]
fn ioredis() {
    matrix("ioredis", |cases| script(node("our_errors.js", &["LIBRARY=ioredis"]), cases));
}

#[test]
fn node_redis() {
    matrix("node-redis", |cases| script(node("our_errors.js", &["LIBRARY=node-redis"]), cases));
}

#[test]
fn redis_rs() {
    matrix("redis-rs", redis_rs::meet);
}

#[test]
fn fred() {
    matrix("fred", fred::meet);
}

/// Lets a library meet all errors, counts, and compares with the page.
fn matrix(library: &str, meet: impl Fn(&[Case]) -> Vec<[Seen; 2]>) {
    let servers = Servers::start();
    let cases = cases(&servers, library);
    let seen = meet(&cases);
    assert_eq!(seen.len(), cases.len());
    let rows: Vec<String> = cases
        .iter()
        .zip(&seen)
        .map(|(case, [alone, behind])| {
            has_not_panicked(&case.proxy);
            let ran = servers.runs(&format!("INCR {}", case.counter));
            assert!(ran <= 1, "INCR ran {ran} times, {library}, {}", case.name);
            let first = case.alone.split(' ').next().unwrap_or_default();
            let sent = [case.taken(first), case.taken("INCR")];
            if case.is_served {
                assert_eq!(sent, [1, 1], "{library} has repeated: {}", case.name);
            }
            let [alone, behind] = [alone.told(sent[0]), behind.told(sent[1])];
            format!("| {library} | {} | {alone} | {behind} | {ran} |", case.name)
        })
        .collect();
    assert_eq!(servers.runs("APPEND unknown"), 1, "what may have run is not sent again");
    assert_eq!(servers.runs("SETRANGE unknown"), 1, "what may have run is not sent again");
    println!("{HEAD}\n{}", rows.join("\n"));
    let page = include_str!("../../docs/compatibility.md");
    let missing: Vec<&String> = rows.iter().filter(|row| !page.contains(*row)).collect();
    assert!(missing.is_empty(), "docs/compatibility.md does not say so:\n{missing:#?}");
}

/// Every error, each behind a Breakwater of its own, so that none of them disturbs the next.
fn cases(servers: &Servers, library: &str) -> Vec<Case> {
    let single = servers.single.url();
    let of = |more: &str, url: &str| {
        Proxy::configured(&format!("[upstream]\nurl = \"{url}\"\nconnect_timeout = \"5s\"\n{more}"))
    };
    let case = |name: &'static str, proxy, (alone, behind)| {
        let counter = format!("{{bar}}:{library}:{}:", name.replace(' ', "-"));
        Case { name, proxy, is_served: !name.ends_with("as LOADING"), alone, behind, counter }
    };
    let late = "reply_deadline_fast = \"300ms\"\nreply_deadline_slow = \"300ms\"\n";
    let (chosen, nobody) = ("unavailable_error = \"LOADING\"\n", free_port());
    vec![
        case("denied", of("mode = \"readonly\"\n", &single), APPENDS),
        case("denied by a rule", Proxy::guarding(&single, RULES), APPENDS),
        case("too large", Proxy::guarding(&single, RULES), ("HGETALL {foo}", "SMEMBERS {foo}")),
        case("node down", of("", &servers.lame_url()), APPENDS),
        case("loading", of("", &single), ("APPEND loading x", "SETRANGE loading 0 x")),
        case("outcome unknown", of("", &single), ("APPEND unknown x", "SETRANGE unknown 0 x")),
        case("no reply", of(late, &single), ("STRLEN late", "GETRANGE late 0 1")),
        case("partly executed", of("", &servers.full_url()), FULL),
        case("node down, as LOADING", half(of(chosen, &servers.lame_url())), APPENDS),
        case("all down, as LOADING", of(chosen, &format!("redis://127.0.0.1:{nobody}")), APPENDS),
    ]
}

/// Waits until a cluster's first node is served and its second is known to be down.
fn half(proxy: Proxy) -> Proxy {
    let mut client = proxy.client();
    until("the first is served", || client.text("GET {bar}ready").contains("ready"));
    until("the second is down", || {
        let told = proxy.client().text("GET {foo}");
        told.contains("is down (refused)")
    });
    proxy
}

/// A script meets the errors: it is told of them in its environment, and says what it has seen.
fn script(mut script: Command, cases: &[Case]) -> Vec<[Seen; 2]> {
    let told: Vec<String> = cases.iter().map(Case::for_script).collect();
    let folder = Folder::new();
    script.env("CASES", told.join("\n")).env("REDIS_URL", "redis://127.0.0.1:1");
    run(script, &folder);
    let said = std::fs::read_to_string(folder.path().join("script.log")).expect("it has said");
    let seen = |name: &str, shape: &str| {
        let prefix = format!("seen\t{name}\t{shape}\t");
        let line = said.lines().find_map(|line| line.strip_prefix(&prefix));
        let (class, kept) = line.and_then(|line| line.split_once('\t')).expect("it saw it");
        Seen { class: class.to_owned(), is_kept: kept == "kept" }
    };
    cases.iter().map(|case| [seen(case.name, "alone"), seen(case.name, "behind")]).collect()
}

// === impl Case ===

impl Case {
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.proxy.port())
    }

    /// What is sent, in order, alone or in a pipeline.
    fn shapes(&self) -> [Vec<Vec<String>>; 2] {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let counted = words(&format!("INCR {}", self.counter));
        [vec![words(self.alone)], vec![counted, words(self.behind)]]
    }

    fn for_script(&self) -> String {
        let served = if self.is_served { "served" } else { "away" };
        let counted = format!("INCR {}", self.counter);
        [self.name, &self.url(), served, self.alone, &counted, self.behind].join("\t")
    }

    /// How often Breakwater was sent the command.
    fn taken(&self, command: &str) -> usize {
        let label = format!("command=\"{}\"", command.to_lowercase());
        self.proxy.metric_of("breakwater_commands_total", &label) as usize
    }
}

// === impl Seen ===

impl Seen {
    fn told(&self, sent: usize) -> String {
        let kept = if self.is_kept { "kept" } else { "new" };
        format!("`{}`, sent {sent}×, {kept}", self.class)
    }
}

// === impl Servers ===

impl Servers {
    fn start() -> Self {
        let single = FakeUpstream::start(|asked| answer(&asked.words, ""));
        Self { single, lame: [first_of_two(free_port())], full: two() }
    }

    fn lame_url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.lame[0].port())
    }

    fn full_url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.full[0].port())
    }

    /// How often a command reached any of them.
    fn runs(&self, words: &str) -> usize {
        let all = [&self.single].into_iter().chain(&self.lame).chain(&self.full);
        all.map(|fake| fake.count(words)).sum()
    }
}

/// The first node of a cluster whose second one is at that port.
fn first_of_two(second: u16) -> FakeUpstream {
    let own = Arc::new(OnceLock::new());
    let its = Arc::clone(&own);
    let fake = FakeUpstream::start(move |asked| {
        let ports = [*its.wait(), second];
        answer(&asked.words, &nodes(0, ports))
    });
    own.set(fake.port()).expect("it is set once");
    fake
}

/// A cluster whose second node has no memory left.
fn two() -> [FakeUpstream; 2] {
    let first = Arc::new(OnceLock::new());
    let own = Arc::new(OnceLock::new());
    let (its_first, its_own) = (Arc::clone(&first), Arc::clone(&own));
    let second = FakeUpstream::start(move |asked| {
        answer(&asked.words, &nodes(1, [*its_first.wait(), *its_own.wait()]))
    });
    own.set(second.port()).expect("it is set once");
    let one = first_of_two(second.port());
    first.set(one.port()).expect("it is set once");
    [one, second]
}

/// What every fake answers, by what it is asked for.
fn answer(words: &str, nodes: &str) -> Act {
    let reply: &[u8] = match words {
        "CLUSTER NODES" if !nodes.is_empty() => return Act::Reply(bulk(nodes.as_bytes())),
        "READONLY" | "ASKING" => b"+OK\r\n",
        _ if words.contains(" unknown") => return Act::Close,
        _ if words.contains(" loading") => b"-LOADING Redis is loading the dataset in memory\r\n",
        _ if words.contains(" {foo}full") => b"-OOM command not allowed\r\n",
        _ if words.contains(" late") => {
            // Four deadlines; what comes then is thrown away.
            std::thread::sleep(LATE);
            b"+late\r\n"
        }
        _ if words.starts_with("CLUSTER ") => b"-ERR unknown subcommand\r\n",
        _ if words.starts_with("GET ") => b"$5\r\nready\r\n",
        _ if words.starts_with("MSET ") => b"+OK\r\n",
        _ if words.starts_with("HLEN ") || words.starts_with("SCARD ") => b":99\r\n",
        _ => b":1\r\n",
    };
    Act::Reply(reply.to_vec())
}

/// What one of two nodes says of both.
fn nodes(myself: usize, ports: [u16; 2]) -> String {
    let line = |number: usize| {
        let (id, port) = (["a", "b"][number].repeat(40), ports[number]);
        let flags = if number == myself { "myself,master" } else { "master" };
        let slots = ["0-8191", "8192-16383"][number];
        format!("{id} 127.0.0.1:{port}@{port} {flags} - 0 0 {number} connected {slots}\n")
    };
    line(0) + &line(1)
}

/// Two commands whose key is on a cluster's second node, and two that need both nodes.
const APPENDS: (&str, &str) = ("APPEND {foo} x", "SETRANGE {foo} 0 x");
const FULL: (&str, &str) = ("MSET {bar} x {foo}full x", "DEL {bar} {foo}full");
/// What two of the commands are refused by, and two others bounded.
const RULES: &str = "[[rule]]\n\
     name = \"frozen\"\n\
     commands = [\"APPEND\", \"SETRANGE\"]\n\
     action = \"deny\"\n\
     [[rule]]\n\
     name = \"small\"\n\
     commands = [\"HGETALL\", \"SMEMBERS\"]\n\
     action = \"bound\"\n\
     limit = 10\n";
const HEAD: &str = "\
| library | error | a command alone | INCR and a command in one pipeline | INCR ran |\n\
|---|---|---|---|---|";
/// How long the fake takes for a reply of which the client was told that it is late.
const LATE: Duration = Duration::from_millis(1200);

//! Three hundred clients that do everything at once, in any order, and leave whenever they like.
//!
//! Owns random interleavings of transactions, waits, subscriptions and plain commands, and the accounts that must
//! balance afterwards: every element that was pushed was popped once or is still there, two keys that are only
//! changed together are equal, nobody sees another's reply or message, and nothing is left upstream. Never kills a node:
//! `chaos` and `transactions` do.
//!
//! What surprises: an element that was popped for a client which left at that moment is lost with Redis itself.
//! Such are counted apart: there can be no more of them than pops that nobody heard of, from the same phase on,
//! because between two phases the server itself says that nobody waits.
//! BREAKWATER_INTERLEAVINGS sets how many, BREAKWATER_INTERLEAVINGS_SEED repeats the choices, and with
//! BREAKWATER_INTERLEAVINGS_DIRECT=1 the same clients talk to Redis itself, to see what it loses.

mod actions;
mod actor;
mod audience;
mod book;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use self::actor::Actor;
use self::audience::CHANNELS;
use self::book::{Book, Push};
use crate::support::random::Random;
use crate::support::{Client, Proxy, RedisServer, until};

/// What all clients of a run share.
pub(crate) struct World {
    /// Where they connect to.
    port: u16,
    /// Interleavings until the end of the phase.
    limit: AtomicUsize,
    begun: AtomicUsize,
    phase: AtomicUsize,
    /// Makes every value unlike every other.
    serial: AtomicU64,
    /// Somebody has found a violation: the others may stop.
    is_over: AtomicBool,
}

/// Clients of a run.
const CLIENTS: usize = 300;
/// Interleavings where nobody says how many: some seconds for a debug build on two cores.
const INTERLEAVINGS: usize = 20_000;
/// Between two of them nobody waits.
pub(crate) const PHASES: usize = 5;
/// Pairs of keys that are only changed together.
pub(crate) const PAIRS: usize = 4;
/// Lists, and as many sorted sets, that elements go through.
pub(crate) const QUEUES: usize = 5;
/// Connections that may belong to one client each: fewer than would like one.
const PINNED_MAX: usize = 120;

#[test]
fn three_hundred_clients_in_any_order_lose_mix_up_and_leave_nothing() {
    let total = variable("BREAKWATER_INTERLEAVINGS").unwrap_or(INTERLEAVINGS);
    let is_direct = variable("BREAKWATER_INTERLEAVINGS_DIRECT").is_some();
    let mut seeds = Random::new(Random::seed_from("BREAKWATER_INTERLEAVINGS_SEED"));
    let redis = RedisServer::start();
    // A machine that is busy with others may take its time for a connection as well.
    let proxy = Proxy::configured(&format!(
        "workers = 2\n[upstream]\nurl = \"{}\"\npinned_max = {PINNED_MAX}\npinned_wait = \"60s\"\n\
         connect_timeout = \"60s\"\n",
        redis.url()
    ))
    .ready();
    let world = Arc::new(World {
        port: if is_direct { redis.port() } else { proxy.port() },
        limit: AtomicUsize::new(0),
        begun: AtomicUsize::new(0),
        phase: AtomicUsize::new(0),
        serial: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    let mut actors: Vec<Actor> = (0..CLIENTS)
        .map(|number| Actor::new(Arc::clone(&world), number, Random::new(seeds.next())))
        .collect();
    for phase in 0..PHASES {
        world.phase.store(phase, Ordering::Relaxed);
        world.limit.store(total * (phase + 1) / PHASES, Ordering::Relaxed);
        let threads: Vec<_> =
            actors.drain(..).map(|actor| std::thread::spawn(move || actor.work())).collect();
        actors.extend(threads.into_iter().map(|thread| thread.join().expect("no client panics")));
        // Whoever waited has been answered or has left.
        nobody_waits(&redis);
    }
    let mut book = Book::default();
    actors.into_iter().for_each(|actor| book.add(actor.book));
    eprintln!("{book}");
    assert!(book.violations.is_empty(), "{}", book.violations.join("\n"));
    assert_eq!(book.actions.values().sum::<usize>(), total, "the run did what it claims");
    let mut direct = redis.client();
    balance_elements(&mut direct, &book);
    balance_pairs(&mut direct, &book);
    nothing_is_left(&proxy, &redis);
}

fn nobody_waits(redis: &RedisServer) {
    let mut direct = redis.client();
    until("nobody waits", || direct.text("INFO clients").contains("blocked_clients:0\r\n"));
}

fn variable(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// Each element was popped once, or is still there, or was popped for somebody who left.
fn balance_elements(direct: &mut Client, book: &Book) {
    let mut places: HashMap<String, Vec<&str>> = HashMap::new();
    for element in &book.popped {
        places.entry(element.clone()).or_default().push("popped");
    }
    for queue in 0..QUEUES {
        for words in [format!("LRANGE q:{queue} 0 -1"), format!("ZRANGE z:{queue} 0 -1")] {
            for element in book::elements(&direct.ask(&words)) {
                places.entry(element).or_default().push("still there");
            }
        }
    }
    for (element, places) in &places {
        assert_eq!(places.len(), 1, "{element}: {places:?}");
        assert!(book.pushed.contains_key(element), "{element} was pushed by nobody");
    }
    let mut lost = [0; PHASES];
    for (element, push) in &book.pushed {
        let is_found = places.contains_key(element);
        assert!(*push != Push::NotExecuted || !is_found, "{element} was pushed by no EXEC");
        lost[book::phase(element)] += usize::from(*push == Push::Acknowledged && !is_found);
    }
    eprintln!("{lost:?} elements lost, {:?} pops that nobody heard of", book.unheard_pops);
    for phase in 0..PHASES {
        let lost: usize = lost[phase..].iter().sum();
        let unheard: usize = book.unheard_pops[phase..].iter().sum();
        assert!(lost <= unheard, "{lost} elements have vanished since phase {phase}");
    }
}

/// Keys that are only changed together are equal, and count what was acknowledged.
fn balance_pairs(direct: &mut Client, book: &Book) {
    for pair in 0..PAIRS {
        let values = direct.ask(&format!("MGET x:{pair} y:{pair}"));
        let values: HashSet<String> = book::bulks(&values).into_iter().collect();
        assert!(values.len() <= 1, "x:{pair} and y:{pair} differ: {values:?}");
        let counters = book::bulks(&direct.ask(&format!("MGET cx:{pair} cy:{pair}")));
        let counts: Vec<usize> =
            counters.iter().map(|text| text.parse().expect("a number")).collect();
        let (least, most) = (book.acknowledged[pair], book.acknowledged[pair] + book.unknown[pair]);
        assert_eq!(counts.first(), counts.last(), "cx:{pair} and cy:{pair}");
        let count = counts.first().copied().unwrap_or(0);
        assert!((least..=most).contains(&count), "cx:{pair} = {count}, not in {least}..={most}");
    }
}

/// Nobody waits, nothing is open, nobody is subscribed, and every connection can be had again.
fn nothing_is_left(proxy: &Proxy, redis: &RedisServer) {
    let mut direct = redis.client();
    crate::transactions::nothing_is_left(redis);
    until("nobody is subscribed", || {
        direct.ask("PUBSUB CHANNELS") == b"*0\r\n" && direct.ask("PUBSUB NUMPAT") == b":0\r\n"
    });
    until("all clients have gone", || proxy.metric("breakwater_clients") == 0.0);
    let mut through = proxy.client();
    for channel in CHANNELS {
        assert_eq!(through.ask(&format!("PUBLISH {channel} nobody")), b":0\r\n", "{channel}");
    }
    drop(through);
    until("and this one too", || proxy.metric("breakwater_clients") == 0.0);
    until("nobody stands in the queue", || proxy.metric("breakwater_pinned_waiting") == 0.0);
    // A connection that nobody gave back would be missing here.
    let mut all: Vec<Client> = (0..PINNED_MAX).map(|_| proxy.client()).collect();
    for words in ["MULTI", "GET none", "EXEC"] {
        all.iter_mut().for_each(|client| client.send(crate::support::line(words)));
        for client in &mut all {
            let frame = client.frame();
            assert_ne!(frame[0], b'-', "{words}: {}", String::from_utf8_lossy(&frame));
        }
    }
    assert!(crate::transactions::pinned_connections(redis) <= PINNED_MAX);
    assert_eq!(proxy.metric("breakwater_lanes_lost_total"), 0.0, "a connection was given up");
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
}

// === impl World ===

impl World {
    /// Takes one of the interleavings that are left.
    fn next(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let one_more = |begun| (begun < limit).then_some(begun + 1);
        let is_over = self.is_over.load(Ordering::Relaxed);
        !is_over && self.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn phase(&self) -> usize {
        self.phase.load(Ordering::Relaxed)
    }

    /// A number that nobody else has.
    fn unique(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }
}

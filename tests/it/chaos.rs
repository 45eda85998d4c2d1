//! Two hundred clients, a server that is killed five times, and a book that must balance.
//!
//! Owns the proof that the shared connections mix nothing up (INV-1) and that nothing runs twice (INV-3). Each
//! client keeps a model of its own keys and knows the exact bytes of every reply; the counters that all share are
//! summed at the end. Never accepts an error that Breakwater does not document for that kind of command.
//!
//! What surprises: after a write whose outcome is unknown its key is never used again, because that write may
//! still happen. BREAKWATER_CHAOS_PIPELINES sets the length, BREAKWATER_CHAOS_SEED repeats a run's choices.

mod book;
mod client;
mod plan;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use self::book::Book;
use crate::support::random::Random;
use crate::support::{Client, Proxy, RedisServer, until};

/// What all clients of a run share.
pub(crate) struct Run {
    /// Pipelines in all.
    total: usize,
    /// Pipelines begun.
    begun: AtomicUsize,
    /// Commands that were told that they did not run.
    refused: AtomicUsize,
    /// Somebody has found a violation: the others may stop.
    is_over: AtomicBool,
}

/// Clients of a run.
const CLIENTS: usize = 200;
/// How often the server is killed.
const KILLS: usize = 5;
/// Pipelines where nobody says how many: some seconds for a debug build on two cores.
const PIPELINES: usize = 30_000;
/// Counters that every client increments.
pub(crate) const SHARED_COUNTERS: usize = 5;

#[test]
fn two_hundred_clients_and_five_kills_lose_double_and_mix_up_nothing() {
    let pipelines = std::env::var("BREAKWATER_CHAOS_PIPELINES").ok();
    let total = pipelines.and_then(|text| text.parse().ok()).unwrap_or(PIPELINES);
    let mut seeds = Random::new(Random::seed_from("BREAKWATER_CHAOS_SEED"));
    // What the server acknowledges it has written first; a SIGKILL loses nothing that anybody was told.
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let proxy = Proxy::before(&redis.url()).ready();
    let run = Arc::new(Run {
        total,
        begun: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
    });
    let begin = Instant::now();
    let threads: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (run, random, port) = (Arc::clone(&run), Random::new(seeds.next()), proxy.port());
            std::thread::spawn(move || client::work(&run, number, port, random))
        })
        .collect();
    for kill in 1..=KILLS {
        kill_at(&run, &mut redis, total * kill / (KILLS + 1));
    }
    let mut sum = Book::default();
    for thread in threads {
        sum.add(thread.join().expect("no client panics"));
    }
    let seconds = begin.elapsed().as_secs_f64();
    eprintln!("{sum}\n{:.0} pipelines a second, {KILLS} kills", total as f64 / seconds);
    assert!(sum.violations.is_empty(), "{}", sum.violations.join("\n"));
    assert!(sum.pipelines >= total && sum.acknowledged > total, "the run did what it claims");
    balance(&redis, &sum);
    assert_eq!(proxy.metric("breakwater_panics_total"), 0.0);
}

/// Kills the server once so many pipelines have begun, and starts it again when clients have noticed.
fn kill_at(run: &Run, redis: &mut RedisServer, begun: usize) {
    let is_over = || run.is_over.load(Ordering::Relaxed);
    until("the clients get on with it", || run.begun.load(Ordering::Relaxed) >= begun || is_over());
    let refused = run.refused.load(Ordering::Relaxed);
    redis.kill();
    until("the clients notice", || run.refused.load(Ordering::Relaxed) > refused + 20 || is_over());
    redis.restart();
}

/// Every counter holds what was acknowledged, and of what is in doubt each increment at most once.
fn balance(redis: &RedisServer, sum: &Book) {
    let mut direct = redis.client();
    for counter in 0..SHARED_COUNTERS {
        let value = read_counter(&mut direct, &format!("shared:{counter}"));
        let (seen, unknown) = (&sum.shared_values[counter], sum.shared_unknown[counter]);
        let distinct: HashSet<&i64> = seen.iter().collect();
        eprintln!("shared:{counter} = {value}: {} acknowledged, {unknown} unknown", seen.len());
        assert_eq!(distinct.len(), seen.len(), "two clients were given the same increment");
        assert!(seen.iter().all(|seen| (1..=value).contains(seen)), "an increment that was lost");
        let range = seen.len() as i64..=(seen.len() + unknown) as i64;
        assert!(range.contains(&value), "shared:{counter} = {value}, which is not in {range:?}");
    }
    for (number, acknowledged, unknown) in &sum.own_counters {
        let value = read_counter(&mut direct, &format!("own:{number}"));
        let range = *acknowledged..=acknowledged + unknown;
        assert!(range.contains(&value), "own:{number} = {value}, which is not in {range:?}");
    }
}

fn read_counter(direct: &mut Client, key: &str) -> i64 {
    let reply = direct.text(&format!("GET {key}"));
    let digits = reply.lines().nth(1).unwrap_or("0");
    digits.parse().unwrap_or_else(|_| panic!("{key} is no counter: {reply}"))
}

// === impl Run ===

impl Run {
    /// Takes one of the pipelines that are left.
    fn next(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
            && self.begun.fetch_add(1, Ordering::Relaxed) < self.total
    }
}

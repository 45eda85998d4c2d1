//! Clients that do their work over and over while somebody reshapes the cluster, and that must notice nothing.
//!
//! Owns one thread for each client. Never forgives: a reply that is not the one that the work expects ends that
//! client, with its name, its round and the bytes that came. `work` has the kinds of work.
//!
//! What surprises: [`Load::pass_round`] is how a test knows that what it has done was seen by every client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use super::work::Work;
use crate::support::{Client, until};

/// The clients, at work.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    /// Rounds that each client has finished.
    rounds: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

// === impl Load ===

impl Load {
    /// One client for each piece of work, connected to `port`.
    pub(crate) fn start(port: u16, work: Vec<Work>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut load = Self { is_over, rounds: Vec::new(), threads: Vec::new() };
        for work in work {
            let rounds = Arc::new(AtomicU64::new(0));
            load.rounds.push(Arc::clone(&rounds));
            let is_over = Arc::clone(&load.is_over);
            load.threads.push(std::thread::spawn(move || labour(port, work, &is_over, &rounds)));
        }
        load
    }

    /// Waits until every client has done one round from its first to its last command.
    pub(crate) fn pass_round(&self) {
        let before = self.counts();
        until("every client gets on with its work", || {
            // A client that has ended has found a failure, which `finish` reports.
            self.has_failed()
                || self.counts().iter().zip(&before).all(|(after, before)| *after >= before + 2)
        });
    }

    /// Whether a client has ended, because it found a failure.
    pub(crate) fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops, and fails if any client noticed anything; the rounds of all.
    pub(crate) fn finish(mut self) -> u64 {
        self.pass_round();
        self.is_over.store(true, Ordering::Relaxed);
        let mut complaints = Vec::new();
        for thread in self.threads.drain(..) {
            complaints.extend(thread.join().expect("no client panics").err());
        }
        let (count, shown) = (complaints.len(), complaints.iter().take(SHOWN));
        let shown: Vec<&str> = shown.map(String::as_str).collect();
        assert!(count == 0, "{count} clients noticed something:\n{}", shown.join("\n"));
        self.counts().iter().sum()
    }

    fn counts(&self) -> Vec<u64> {
        self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn labour(
    port: u16,
    mut work: Work,
    is_over: &AtomicBool,
    rounds: &AtomicU64,
) -> Result<(), String> {
    let connect = || Client::try_connect(("127.0.0.1", port));
    let mut client = connect().map_err(|error| format!("{} cannot connect: {error}", work.name))?;
    while !is_over.load(Ordering::Relaxed) {
        let round = rounds.load(Ordering::Relaxed);
        let begin = Instant::now();
        (work.round)(&mut client, round).map_err(|what| {
            format!("{}, {:?} into round {round}: {what}", work.name, begin.elapsed())
        })?;
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Complaints that the report of a failed run shows.
const SHOWN: usize = 20;

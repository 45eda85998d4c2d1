//! Healthy clients that must notice nothing.
//!
//! Owns a number of connections that ask and check without pause until they are told to stop. Never forgives: a
//! wrong, late or missing reply, an error or a closed connection is a failure, with the bytes that came.
//!
//! What surprises: a few threads drive all connections, each asking on all of its connections before it reads
//! from the first, so that every connection has commands in flight at nearly all times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::{Client, Proxy, bulk, command, shown, until};

/// The clients, at work.
pub(crate) struct Crowd {
    is_over: Arc<AtomicBool>,
    /// Rounds that each thread has finished; in one round each of its clients is served once.
    rounds: Arc<[AtomicU64]>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

// === impl Crowd ===

impl Crowd {
    /// `size` clients, every second of which speaks RESP3.
    pub(crate) fn start(proxy: &Proxy, size: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let rounds: Arc<[AtomicU64]> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
        let threads = (0..THREADS).map(|thread| {
            let mine = (0..size).filter(|number| number % THREADS == thread);
            let mut clients: Vec<(usize, Client)> = mine
                .map(|number| {
                    let is_third = (number / THREADS) % 2 == 1;
                    (number, if is_third { proxy.client3() } else { proxy.client() })
                })
                .collect();
            let (is_over, rounds) = (Arc::clone(&is_over), Arc::clone(&rounds));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let round = rounds[thread].load(Ordering::Relaxed);
                    ask_all(&mut clients, round)?;
                    rounds[thread].fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        Self { threads: threads.collect(), is_over, rounds }
    }

    /// Waits until every client has been served once more from its first to its last command.
    pub(crate) fn pass_round(&self) {
        let before: Vec<u64> = self.counts();
        until("every healthy client is served", || {
            // A thread that has ended has found a failure, which `finish` reports.
            self.threads.iter().any(JoinHandle::is_finished)
                || self.counts().iter().zip(&before).all(|(after, before)| *after >= before + 2)
        });
    }

    /// Stops, and fails if any client noticed anything.
    pub(crate) fn finish(mut self) -> u64 {
        self.pass_round();
        self.is_over.store(true, Ordering::Relaxed);
        let mut complaints = Vec::new();
        for thread in self.threads.drain(..) {
            complaints.extend(thread.join().expect("no client panics").err());
        }
        assert!(complaints.is_empty(), "healthy clients noticed:\n{}", complaints.join("\n"));
        self.counts().iter().sum()
    }

    fn counts(&self) -> Vec<u64> {
        self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// One pipeline for each client, then the replies of each.
fn ask_all(clients: &mut [(usize, Client)], round: u64) -> Result<(), String> {
    for (number, client) in clients.iter_mut() {
        let (key, value) = words(*number, round);
        let mut bytes = command(&["SET", &key, &value]);
        bytes.extend(command(&["GET", &key]));
        bytes.extend(command(&["ECHO", &value]));
        bytes.extend(command(&["MGET", &key, &key]));
        client.try_send(&bytes).map_err(|error| format!("client {number} cannot send: {error}"))?;
    }
    for (number, client) in clients.iter_mut() {
        let (_, value) = words(*number, round);
        let value = bulk(value.as_bytes());
        let both = [&b"*2\r\n"[..], &value, &value].concat();
        for expected in [&b"+OK\r\n"[..], &value, &value, &both] {
            let frame = client
                .try_frame()
                .map_err(|error| format!("client {number} got no reply: {error}"))?;
            if frame != expected {
                let (got, expected) = (shown(&frame), shown(expected));
                return Err(format!("client {number} got {got} instead of {expected}"));
            }
        }
    }
    Ok(())
}

/// Key and value of a client's round: nobody else has this value.
fn words(number: usize, round: u64) -> (String, String) {
    (format!("crowd:{number}"), format!("value-{number}-{round}-of-the-crowd"))
}

/// Threads that drive the clients; the machine has other work.
const THREADS: usize = 4;

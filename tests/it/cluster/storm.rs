//! A third of all slots changes its owner at once, under load: a storm of redirects, and a few questions.
//!
//! Owns the proof that redirects mend the map by themselves, and that they do not become a storm of topology calls.
//! Counts on the servers; the tests' own questions are not among what is counted.
//!
//! What surprises: the slots are empty, so that they can change hands without a migration. An empty answer is the
//! right answer there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::support::cluster::{Cluster, key_in, share};
use crate::support::random::Random;
use crate::support::{Client, Proxy, line, shown};

#[test]
fn a_third_of_all_slots_changes_hands_and_nobody_notices() {
    let cluster = Cluster::start_unhurried();
    let proxy = super::before(&cluster);
    let slots: Vec<u16> = (0..=share(0, 3).1).collect();
    let mut client = proxy.client();
    ask_each(&cluster, &mut client, &slots);
    let (mut calls, mut seconds, mut redirects_in_all) = (0, 0.0, 0);
    let readers = Readers::start(&proxy, &slots);
    let mut mover = cluster.mover();
    for turn in 0..TURNS {
        let (asked, begin) = (topology_calls(&cluster), Instant::now());
        let redirects = cluster.errors("MOVED");
        mover.give_empty(&slots, turn % 2, 1 - turn % 2);
        ask_each(&cluster, &mut client, &slots);
        let redirected = cluster.errors("MOVED") - redirects;
        // One round trip a slot: whoever asks again is not redirected again, whatever else is in flight.
        let most = slots.len() * (1 + READERS);
        assert!(redirected <= most as u64, "{redirected} redirects for {} slots", slots.len());
        let before = cluster.errors("MOVED");
        ask_each(&cluster, &mut client, &slots);
        // But for what each reader may have had in flight when the last of them became known.
        let again = cluster.errors("MOVED") - before;
        assert!(
            again <= READERS as u64,
            "{again} redirects for slots that were known to have moved"
        );
        eprintln!("{redirected} redirects for {} slots", slots.len());
        redirects_in_all += redirected;
        calls += topology_calls(&cluster) - asked;
        seconds += begin.elapsed().as_secs_f64();
        // This asks as well, outside of what is counted.
        mover.agree();
    }
    readers.finish();
    // In a turn the new owner's own word may be quicker than any redirect; in all of them it is not.
    assert!(redirects_in_all > 0, "nobody was redirected: the run proves nothing");
    eprintln!("{calls} topology calls in {seconds:.1} s");
    // A turn may begin with a full second's worth.
    let most = (seconds + TURNS as f64) * CALLS_A_SECOND;
    assert!(calls as f64 <= most, "{calls} topology calls in {seconds:.1} s, at most {most}");
    assert_eq!(proxy.metric("breakwater_slots_uncovered"), 0.0);
}

/// Clients that read from slots at random, until they are told to stop.
struct Readers {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

// === impl Readers ===

impl Readers {
    fn start(proxy: &Proxy, slots: &[u16]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let reader = |n: usize| {
            let (is_over, slots, mut client) =
                (Arc::clone(&is_over), slots.to_vec(), proxy.client());
            let mut random = Random::new(n as u64);
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let slot = slots[random.below(slots.len())];
                    let reply = client.text(&format!("GET {}", key_in(slot, n)));
                    if reply != "$-1\r\n" {
                        return Err(format!("slot {slot}: {reply}"));
                    }
                }
                Ok(())
            })
        };
        let threads = (0..READERS).map(reader).collect();
        Self { is_over, threads }
    }

    fn finish(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let results = self.threads.into_iter().map(|thread| thread.join().expect("no panic"));
        let wrong: Vec<String> = results.filter_map(Result::err).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// One GET for each slot, so many in a write.
fn ask_each(cluster: &Cluster, client: &mut Client, slots: &[u16]) {
    for slots in slots.chunks(100) {
        let words = |slot: &u16| line(&format!("GET {}", key_in(*slot, 0)));
        client.send(slots.iter().flat_map(words).collect::<Vec<u8>>());
        for (slot, reply) in slots.iter().zip(client.frames(slots.len())) {
            assert!(
                reply == b"$-1\r\n",
                "slot {slot}: {}; {}",
                shown(&reply),
                said_of(cluster, *slot)
            );
        }
    }
}

/// What each node says of the owner of `slot`, for whoever reads why this failed.
fn said_of(cluster: &Cluster, slot: u16) -> String {
    let said = |i: usize| {
        let view = cluster.view(i);
        let owners = view.owners_of(slot);
        format!("node {} says that it is of {owners}", cluster.port(i))
    };
    (0..cluster.len()).map(said).collect::<Vec<_>>().join("; ")
}

/// How often the nodes were asked who is where.
fn topology_calls(cluster: &Cluster) -> u64 {
    ["cluster|nodes", "cluster|shards", "cluster|slots"]
        .map(|name| cluster.calls(name))
        .iter()
        .sum()
}

/// How often the slots change hands.
const TURNS: usize = 6;
/// Clients that read at random.
const READERS: usize = 8;
/// Topology calls that are allowed.
const CALLS_A_SECOND: f64 = 4.0;

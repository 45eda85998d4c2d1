//! One client's pipelined writes to one key, while its slot moves and others' redirects patch the map (INV-12).
//!
//! Owns the proof that the last write wins, and that no write overtakes another. Never looks at single replies only:
//! a list shows every inversion, the register the one that matters.
//!
//! What surprises: the others never write. They only get their redirects first, so that the map changes between two
//! commands of the writer's pipeline, which it sends in pieces. The wire to one of the two nodes is slow, so that what was
//! sent there is overtaken unless it is waited for. A slot is not opened again before everybody who was on the way when it was
//! closed has arrived: an ASK that is two moves old would make a second key of the same name, by any client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::scale;
use crate::support::cluster::{Cluster, Shape, key_in};
use crate::support::{Client, command, shown, until};

/// What the threads of a run share.
struct Run {
    /// Rounds begun.
    begun: AtomicUsize,
    /// Rounds that each writer and each reader has finished.
    finished: Vec<AtomicUsize>,
    rounds: usize,
    is_over: AtomicBool,
}

#[test]
fn the_last_of_pipelined_writes_wins_while_the_slot_moves() {
    let cluster = Cluster::start_as(&Shape { is_relayed: true, ..Shape::default() });
    cluster.relay(0).delay(Duration::from_millis(2));
    let proxy = super::before(&cluster);
    let rounds = scale::number("ROUNDS", 200);
    let run = Arc::new(Run::new(rounds));
    let others: Vec<_> = (0..OTHERS)
        .map(|n| {
            let (run, client) = (Arc::clone(&run), proxy.client());
            std::thread::spawn(move || run.patch(client, n))
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let (run, client) = (Arc::clone(&run), proxy.client());
            std::thread::spawn(move || run.write(client, n))
        })
        .collect();
    let (mut mover, mut moves) = (cluster.mover(), 0);
    // One that has found something wrong ends early; the others end soon after the last round.
    while !writers.iter().any(std::thread::JoinHandle::is_finished) {
        mover.move_slot(SLOT, moves % 2, 1 - moves % 2);
        moves += 1;
        mover.agree();
        run.pass(|| writers.iter().any(std::thread::JoinHandle::is_finished));
    }
    run.is_over.store(true, Ordering::Relaxed);
    let wrong: Vec<String> = writers
        .into_iter()
        .chain(others)
        .filter_map(|thread| thread.join().expect("no client panics").err())
        .collect();
    let redirects = ["MOVED", "ASK"].map(|code| cluster.errors(code));
    eprintln!("{rounds} rounds, {moves} moves; MOVED, ASK: {redirects:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(redirects[0] > 0, "nobody was redirected: the run proves nothing");
}

// === impl Run ===

impl Run {
    fn new(rounds: usize) -> Self {
        Self {
            begun: AtomicUsize::new(0),
            finished: (0..WRITERS + OTHERS).map(|_| AtomicUsize::new(0)).collect(),
            rounds,
            is_over: AtomicBool::new(false),
        }
    }

    /// Waits until what everybody is doing has been done, or a writer has ended.
    fn pass(&self, has_ended: impl Fn() -> bool) {
        let counts = || self.finished.iter().map(|rounds| rounds.load(Ordering::Relaxed));
        let before: Vec<usize> = counts().collect();
        until("everybody gets on", || {
            has_ended() || counts().zip(&before).all(|(now, old)| now > *old)
        });
    }

    /// Pipelines of writes to one key, each checked when it is answered.
    fn write(&self, mut client: Client, writer: usize) -> Result<(), String> {
        let (register, list) = (key_in(SLOT, writer), key_in(SLOT, 100 + writer));
        loop {
            let round = self.begun.fetch_add(1, Ordering::Relaxed);
            if round >= self.rounds {
                return Ok(());
            }
            client.send(command(&["DEL", &list]));
            for n in 0..WRITES {
                let set = command(&["SET", &register, &format!("{round}-{n}")]);
                client.send([set, command(&["RPUSH", &list, &n.to_string()])].concat());
                std::thread::sleep(PIECES_APART);
            }
            for (place, reply) in client.frames(1 + 2 * WRITES).iter().enumerate() {
                if reply[0] == b'-' {
                    return Err(format!("round {round}, reply {place}: {}", shown(reply)));
                }
            }
            let last = client.text(&format!("GET {register}"));
            if last.lines().nth(1) != Some(&format!("{round}-{}", WRITES - 1)) {
                return Err(format!("round {round}: the last write did not win: {last}"));
            }
            let all = client.text(&format!("LRANGE {list} 0 -1"));
            let expected: Vec<String> = (0..WRITES).map(|n| n.to_string()).collect();
            if all.lines().skip(2).step_by(2).ne(expected.iter().map(String::as_str)) {
                return Err(format!("round {round}: out of order: {}", shown(all.as_bytes())));
            }
            self.finished[writer].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads from the slot, so that redirects come here as well.
    fn patch(&self, mut client: Client, n: usize) -> Result<(), String> {
        let words = format!("GET {}", key_in(SLOT, 1_000 + n));
        while !self.is_over.load(Ordering::Relaxed) {
            let reply = client.text(&words);
            if reply != "$-1\r\n" {
                return Err(format!("{words}: {reply}"));
            }
            self.finished[WRITERS + n].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The slot that moves.
const SLOT: u16 = 42;
/// Clients that write.
const WRITERS: usize = 4;
/// Clients that read from the slot.
const OTHERS: usize = 4;
/// Between two pieces of a writer's pipeline.
const PIECES_APART: Duration = Duration::from_micros(200);
/// Writes to each of a writer's two keys in one round.
const WRITES: usize = 10;

//! The kinds of work that clients do while a cluster changes: each round with the exact bytes that must come back.
//!
//! Owns the keys of each client, which nobody else touches but for the counters that all share. Never accepts an
//! error, never asks twice.
//!
//! What surprises: half of each client's keys lie in the slots that the test moves, the rest anywhere, so that one
//! pipeline has commands that are redirected between commands that are not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::cluster::{SLOTS, key_in};
use crate::support::random::Random;
use crate::support::{Client, bulk, command, shown};

/// What a client does.
pub(crate) struct Work {
    /// For messages.
    pub(crate) name: String,
    pub(crate) round: Round,
}

/// One round, with its number; an error says what was wrong.
pub(crate) type Round = Box<dyn FnMut(&mut Client, u64) -> Result<(), String> + Send>;

/// The keys of one client.
struct Keys {
    number: usize,
    /// How many it has handed out.
    taken: usize,
    random: Random,
    moving: Vec<u16>,
}

/// Counters that all clients increment, and how often they were told that they had.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) keys: Arc<[String]>,
    pub(crate) acknowledged: Arc<[AtomicU64]>,
}

/// A kind of work, by its name.
type Kind = (&'static str, fn(Keys, Shared) -> Work);

/// All kinds that `BREAKWATER_CLUSTER_KINDS` may name.
const KINDS: [Kind; 6] = [
    ("singles", singles),
    ("pipeline", pipeline),
    ("script", script),
    ("transaction", transaction),
    ("split", split),
    ("blocking", blocking),
];

/// Kinds where nobody names any.
const USUAL: &str = "singles,pipeline,script,transaction,split,blocking";

/// `count` clients of all kinds in turn, of whose keys half lie in the slots `moving`.
pub(crate) fn all(count: usize, moving: &[u16], shared: &Shared, random: &mut Random) -> Vec<Work> {
    let chosen = std::env::var("BREAKWATER_CLUSTER_KINDS").ok();
    let chosen = chosen.as_deref().unwrap_or(USUAL);
    let is_chosen = |name| chosen.split(',').any(|its| its == name);
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|(name, _)| is_chosen(*name)).collect();
    let work = |number: usize| {
        let (random, moving) = (Random::new(random.next()), moving.to_vec());
        kinds[number % kinds.len()].1(Keys { number, taken: 0, random, moving }, shared.clone())
    };
    (0..count).map(work).collect()
}

// === impl Shared ===

impl Shared {
    /// One counter in each of the slots.
    pub(crate) fn new(slots: &[u16]) -> Self {
        let keys = slots.iter().map(|&slot| format!("{}:shared", key_in(slot, 0))).collect();
        let acknowledged = slots.iter().map(|_| AtomicU64::new(0)).collect();
        Self { keys, acknowledged }
    }

    /// Fails unless each counter, as `read` finds it, is what was acknowledged.
    pub(crate) fn balance(&self, mut read: impl FnMut(&str) -> Vec<u8>) {
        for (key, acknowledged) in self.keys.iter().zip(self.acknowledged.iter()) {
            let expected = match acknowledged.load(Ordering::Relaxed) {
                0 => b"$-1\r\n".to_vec(),
                sum => bulk(sum.to_string().as_bytes()),
            };
            assert_eq!(shown(&read(key)), shown(&expected), "{key} against what was said");
        }
    }
}

// === impl Keys ===

impl Keys {
    /// So many keys, every second in a slot that moves.
    fn take(&mut self, count: usize) -> Vec<String> {
        let one = |n: usize| {
            let slot = self.slot(n.is_multiple_of(2));
            self.key(slot)
        };
        (0..count).map(one).collect()
    }

    /// So many keys in one slot that moves.
    fn together(&mut self, count: usize) -> Vec<String> {
        let slot = self.slot(true);
        (0..count).map(|_| self.key(slot)).collect()
    }

    fn slot(&mut self, is_moving: bool) -> u16 {
        match is_moving && !self.moving.is_empty() {
            true => self.moving[self.random.below(self.moving.len())],
            false => self.random.below(usize::from(SLOTS)) as u16,
        }
    }

    /// A key that nobody has.
    fn key(&mut self, slot: u16) -> String {
        self.taken += 1;
        format!("{}:{}", key_in(slot, self.number + 1), self.taken)
    }

    fn named(&self, kind: &str, round: Round) -> Work {
        Work { name: format!("client {} ({kind})", self.number), round }
    }
}

/// SET, GET and INCR, one by one.
fn singles(mut keys: Keys, shared: Shared) -> Work {
    let (own, counters) = (keys.take(8), keys.take(8));
    let number = keys.number;
    let round = move |client: &mut Client, round: u64| {
        let value = format!("value-{number}-{round}");
        for (key, counter) in own.iter().zip(&counters) {
            ask(client, &["SET", key, &value], b"+OK\r\n")?;
            ask(client, &["GET", key], &bulk(value.as_bytes()))?;
            ask(client, &["INCR", counter], &integer(round + 1))?;
        }
        let place = round as usize % shared.keys.len();
        let reply = exchange(client, &["INCR", &shared.keys[place]])?;
        shared.acknowledged[place].fetch_add(1, Ordering::Relaxed);
        if reply[0] == b':' { Ok(()) } else { Err(format!("INCR: {}", shown(&reply))) }
    };
    keys.named("singles", Box::new(round))
}

/// MGET of ten keys, two of them in one slot, and its kin.
fn split(mut keys: Keys, _: Shared) -> Work {
    let mut ten = keys.take(8);
    // Half moved, these two lie on two nodes: what Redis answers with TRYAGAIN.
    ten.extend(keys.together(2));
    let number = keys.number;
    let round = move |client: &mut Client, round: u64| {
        let values: Vec<String> = (0..10).map(|n| format!("{number}-{round}-{n}")).collect();
        let with = |name: &str| -> Vec<String> {
            std::iter::once(name.to_owned()).chain(ten.iter().cloned()).collect()
        };
        for (key, value) in ten.iter().zip(&values) {
            ask(client, &["SET", key, value], b"+OK\r\n")?;
        }
        let all: Vec<u8> = values.iter().flat_map(|value| bulk(value.as_bytes())).collect();
        ask(client, &with("MGET"), &[b"*10\r\n", &all[..]].concat())?;
        ask(client, &with("EXISTS"), b":10\r\n")?;
        let pairs = ten.iter().zip(&values).flat_map(|(key, value)| [key.clone(), value.clone()]);
        let mset: Vec<String> = std::iter::once("MSET".to_owned()).chain(pairs).collect();
        ask(client, &with("DEL"), b":10\r\n")?;
        ask(client, &mset, b"+OK\r\n")?;
        ask(client, &with("MGET"), &[b"*10\r\n", &all[..]].concat())
    };
    keys.named("split", Box::new(round))
}

/// MULTI … EXEC with two keys of one slot, in one write and step by step.
fn transaction(mut keys: Keys, _: Shared) -> Work {
    let pairs: Vec<Vec<String>> = (0..4).map(|_| keys.together(2)).collect();
    let mut counts = vec![0; pairs.len()];
    let number = keys.number;
    let round = move |client: &mut Client, round: u64| {
        let value = format!("{number}-{round}");
        let place = round as usize % pairs.len();
        let [counter, register] = &pairs[place][..] else { return Err("no pair".into()) };
        let steps: [&[&str]; 5] = [
            &["MULTI"],
            &["INCR", counter],
            &["SET", register, &value],
            &["GET", register],
            &["EXEC"],
        ];
        counts[place] += 1;
        let results = [&integer(counts[place])[..], b"+OK\r\n", &bulk(value.as_bytes())].concat();
        let exec = [b"*3\r\n", &results[..]].concat();
        let queued = b"+QUEUED\r\n".to_vec();
        let replies = [b"+OK\r\n".to_vec(), queued.clone(), queued.clone(), queued, exec];
        talk(client, &steps, &replies, (round / 4).is_multiple_of(2))
    };
    keys.named("transaction", Box::new(round))
}

/// Waits for an element that somebody pushes: each comes once, to the one who waits.
fn blocking(mut keys: Keys, _: Shared) -> Work {
    let lists = keys.take(4);
    let number = keys.number;
    let mut pusher: Option<Client> = None;
    let round = move |client: &mut Client, round: u64| {
        let element = format!("{number}-{round}");
        let list = &lists[round as usize % lists.len()];
        let pusher = match &mut pusher {
            Some(pusher) => pusher,
            none => none.insert(client.another().map_err(|error| error.to_string())?),
        };
        let (push, pop) = (["RPUSH", list, &element], ["BLPOP", list, "60"]);
        let popped = [b"*2\r\n", &bulk(list.as_bytes())[..], &bulk(element.as_bytes())].concat();
        if round.is_multiple_of(2) {
            ask(pusher, &push, b":1\r\n")?;
            return ask(client, &pop, &popped);
        }
        send(client, &command(&pop))?;
        // It waits for a while, so that its slot moves under it.
        std::thread::sleep(std::time::Duration::from_millis(round % 50));
        ask(pusher, &push, b":1\r\n")?;
        expect(client, &pop, &popped)
    };
    keys.named("blocking", Box::new(round))
}

/// Fifty commands of which each reply depends on the ones before, in one write.
fn pipeline(mut keys: Keys, shared: Shared) -> Work {
    let (own, lists) = (keys.take(10), keys.take(5));
    let number = keys.number;
    let round = move |client: &mut Client, round: u64| {
        let (mut bytes, mut replies) = (Vec::new(), Vec::new());
        let mut add = |words: &[&str], reply: Vec<u8>| {
            bytes.extend(command(words));
            replies.push((words.join(" "), reply));
        };
        for (n, key) in own.iter().enumerate() {
            let value = format!("{number}-{round}-{n}");
            add(&["SET", key, "overwritten"], b"+OK\r\n".to_vec());
            add(&["SET", key, &value], b"+OK\r\n".to_vec());
            add(&["GET", key], bulk(value.as_bytes()));
        }
        for list in &lists {
            add(&["DEL", list], integer(u64::from(round > 0)));
            add(&["RPUSH", list, "a"], integer(1));
            add(&["RPUSH", list, "b"], integer(2));
            add(&["LRANGE", list, "0", "-1"], b"*2\r\n$1\r\na\r\n$1\r\nb\r\n".to_vec());
        }
        assert_eq!(replies.len(), 50);
        send(client, &bytes)?;
        for (words, reply) in &replies {
            expect(client, &[words], reply)?;
        }
        let place = round as usize % shared.keys.len();
        let reply = exchange(client, &["INCR", &shared.keys[place]])?;
        shared.acknowledged[place].fetch_add(1, Ordering::Relaxed);
        if reply[0] == b':' { Ok(()) } else { Err(format!("INCR: {}", shown(&reply))) }
    };
    keys.named("pipeline", Box::new(round))
}

/// EVAL and EVALSHA with a key.
fn script(mut keys: Keys, _: Shared) -> Work {
    const BODY: &str = "return redis.call('incrby', KEYS[1], ARGV[1])";
    let counters = keys.take(6);
    let round = move |client: &mut Client, round: u64| {
        for counter in &counters {
            ask(client, &["EVAL", BODY, "1", counter, "2"], &integer(2 * round + 2))?;
        }
        Ok(())
    };
    keys.named("script", Box::new(round))
}

/// Sends commands in one write or one by one; each reply must be the given one.
fn talk(
    client: &mut Client,
    steps: &[&[&str]],
    replies: &[Vec<u8>],
    is_whole: bool,
) -> Result<(), String> {
    if is_whole {
        let bytes: Vec<u8> = steps.iter().flat_map(|words| command(words)).collect();
        send(client, &bytes)?;
    }
    for (words, reply) in steps.iter().zip(replies) {
        if !is_whole {
            send(client, &command(words))?;
        }
        expect(client, words, reply)?;
    }
    Ok(())
}

fn ask<T: AsRef<[u8]>>(client: &mut Client, words: &[T], reply: &[u8]) -> Result<(), String> {
    send(client, &command(words))?;
    expect(client, words, reply)
}

fn exchange<T: AsRef<[u8]>>(client: &mut Client, words: &[T]) -> Result<Vec<u8>, String> {
    send(client, &command(words))?;
    client.try_frame().map_err(|error| format!("no reply to {}: {error}", joined(words)))
}

fn send(client: &mut Client, bytes: &[u8]) -> Result<(), String> {
    client.try_send(bytes).map_err(|error| format!("cannot send: {error}"))
}

fn expect<T: AsRef<[u8]>>(client: &mut Client, words: &[T], reply: &[u8]) -> Result<(), String> {
    let frame =
        client.try_frame().map_err(|error| format!("no reply to {}: {error}", joined(words)))?;
    if frame == reply {
        return Ok(());
    }
    Err(format!("{} was answered {} instead of {}", joined(words), shown(&frame), shown(reply)))
}

fn joined<T: AsRef<[u8]>>(words: &[T]) -> String {
    shown(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(&b' '))
}

fn integer(value: u64) -> Vec<u8> {
    format!(":{value}\r\n").into_bytes()
}

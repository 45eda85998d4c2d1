//! One pipeline: its bytes, and what each of its replies must be.
//!
//! Owns the choice of commands and the client's model of its own keys. Every value is unlike every other of the
//! run: it begins with client and serial number. Never talks to anybody.
//!
//! What surprises: a plan assumes that all goes well. Where it does not, [`Model::settle`] says which of the
//! client's keys are still known, and the others are never used again.

use std::collections::HashMap;

use super::SHARED_COUNTERS;
use crate::support::random::Random;
use crate::support::{bulk, command, line};

/// Where a value lives: database, place among the client's keys, and how often the place was given up.
pub(crate) type Key = (usize, usize, usize);

/// What a step does, for the judgement of its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Answered by Breakwater itself: nothing but the expected reply will do.
    Local,
    /// Reads keys.
    Read(Vec<Key>),
    /// Writes a key; the value is in the model.
    Write(Key, Vec<u8>),
    /// Increments the client's own counter.
    IncrementOwn,
    /// Increments a shared counter.
    IncrementShared(usize),
}

/// A command with its reply if all goes well.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) step: Step,
    /// `None` where only the judge can know: increments.
    pub(crate) expected: Option<Vec<u8>>,
    /// Where its bytes end in those of the pipeline.
    pub(crate) end: usize,
}

/// A pipeline.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) bytes: Vec<u8>,
    pub(crate) steps: Vec<Planned>,
}

/// What a client knows of its own keys.
pub(crate) struct Model {
    client: usize,
    serial: usize,
    /// How often each place was given up.
    generations: HashMap<(usize, usize), usize>,
    /// Content of each key; absent means that it was never written.
    values: HashMap<Key, Vec<u8>>,
    /// RESP3 has another null.
    pub(crate) is_resp3: bool,
    /// Database of the connection.
    db: usize,
}

// === impl Plan ===

impl Plan {
    fn push(&mut self, bytes: Vec<u8>, step: Step, expected: Option<Vec<u8>>) {
        self.bytes.extend(bytes);
        self.steps.push(Planned { step, expected, end: self.bytes.len() });
    }

    /// Every value that the pipeline writes to `key`.
    pub(crate) fn written(&self, key: Key) -> impl Iterator<Item = &[u8]> {
        self.steps.iter().filter_map(move |planned| match &planned.step {
            Step::Write(written, value) if *written == key => Some(&value[..]),
            _ => None,
        })
    }
}

// === impl Model ===

impl Model {
    pub(crate) fn new(client: usize) -> Self {
        Self {
            client,
            serial: 0,
            generations: HashMap::new(),
            values: HashMap::new(),
            is_resp3: false,
            db: 0,
        }
    }

    /// A fresh connection starts here.
    pub(crate) fn reconnect(&mut self, is_resp3: bool) {
        self.is_resp3 = is_resp3;
        self.db = 0;
    }

    /// Content of a key as it was before the pipeline in hand.
    pub(crate) fn value(&self, key: Key) -> Option<&Vec<u8>> {
        self.values.get(&key)
    }

    /// The reply to GET for this content.
    pub(crate) fn reply(&self, value: Option<&[u8]>) -> Vec<u8> {
        match value {
            Some(value) => bulk(value),
            None if self.is_resp3 => b"_\r\n".to_vec(),
            None => b"$-1\r\n".to_vec(),
        }
    }

    /// A pipeline of one to thirty commands.
    pub(crate) fn plan(&mut self, random: &mut Random) -> Plan {
        let mut plan = Plan::default();
        // What the keys hold at this point of the pipeline, if all goes well.
        let mut ahead: HashMap<Key, Vec<u8>> = HashMap::new();
        let length = if random.one_in(10) { 30 } else { 1 + random.below(10) };
        for _ in 0..length {
            if random.one_in(15) {
                // Redis answers nothing to these, and neither must we.
                plan.bytes.extend([&b"*0\r\n"[..], b"\r\n", b"*-1\r\n"][random.below(3)]);
            }
            match random.below(12) {
                0..3 => self.plan_write(random, &mut plan, &mut ahead),
                3..6 => self.plan_read(random, &mut plan, &ahead, 1),
                6 => {
                    let count = 2 + random.below(4);
                    self.plan_read(random, &mut plan, &ahead, count);
                }
                7..10 => self.plan_increment(random, &mut plan),
                10 => {
                    let db = random.below(2);
                    self.select(&mut plan, db);
                }
                _ => self.plan_local(random, &mut plan),
            }
        }
        if plan.steps.is_empty() {
            self.plan_local(random, &mut plan);
        }
        // The next pipeline begins in database 0, whether on this connection or on a new one.
        self.select(&mut plan, 0);
        plan
    }

    fn plan_increment(&mut self, random: &mut Random, plan: &mut Plan) {
        // Counters are counted in one database.
        self.select(plan, 0);
        if random.one_in(3) {
            plan.push(line(&format!("INCR own:{}", self.client)), Step::IncrementOwn, None);
        } else {
            let counter = random.below(SHARED_COUNTERS);
            let step = Step::IncrementShared(counter);
            plan.push(line(&format!("INCR shared:{counter}")), step, None);
        }
    }

    fn plan_write(
        &mut self,
        random: &mut Random,
        plan: &mut Plan,
        ahead: &mut HashMap<Key, Vec<u8>>,
    ) {
        let key = self.key(random);
        let value = self.fresh_value(random);
        let bytes = command(&[&b"SET"[..], self.name(key).as_bytes(), &value]);
        ahead.insert(key, value.clone());
        plan.push(bytes, Step::Write(key, value), Some(b"+OK\r\n".to_vec()));
    }

    fn plan_read(
        &mut self,
        random: &mut Random,
        plan: &mut Plan,
        ahead: &HashMap<Key, Vec<u8>>,
        count: usize,
    ) {
        let keys: Vec<Key> = (0..count).map(|_| self.key(random)).collect();
        let content = |key: &Key| ahead.get(key).or_else(|| self.values.get(key)).map(|v| &v[..]);
        let names: Vec<String> = keys.iter().map(|key| self.name(*key)).collect();
        let mut words = vec![if count == 1 { "GET" } else { "MGET" }];
        words.extend(names.iter().map(String::as_str));
        let mut expected = Vec::new();
        if count > 1 {
            expected.extend(format!("*{count}\r\n").bytes());
        }
        keys.iter().for_each(|key| expected.extend(self.reply(content(key))));
        plan.push(command(&words), Step::Read(keys), Some(expected));
    }

    /// Commands that no server is asked for, and one that nobody knows.
    fn plan_local(&mut self, random: &mut Random, plan: &mut Plan) {
        let serial = self.next_serial();
        let word = format!("word-{}-{serial}", self.client);
        let mut push =
            |words: &str, reply: Vec<u8>| plan.push(line(words), Step::Local, Some(reply));
        match random.below(3) {
            0 => push(&format!("ECHO {word}"), bulk(word.as_bytes())),
            1 => {
                push(&format!("CLIENT SETNAME {word}"), b"+OK\r\n".to_vec());
                push("CLIENT GETNAME", bulk(word.as_bytes()));
            }
            _ => {
                let text =
                    format!("-ERR unknown command 'NO-{word}', with args beginning with: 'a' \r\n");
                push(&format!("NO-{word} a"), text.into_bytes());
            }
        }
    }

    fn select(&mut self, plan: &mut Plan, db: usize) {
        if self.db != db {
            self.db = db;
            plan.push(line(&format!("SELECT {db}")), Step::Local, Some(b"+OK\r\n".to_vec()));
        }
    }

    fn key(&self, random: &mut Random) -> Key {
        let place = random.below(KEYS);
        (self.db, place, self.generation(self.db, place))
    }

    fn generation(&self, db: usize, place: usize) -> usize {
        self.generations.get(&(db, place)).copied().unwrap_or(0)
    }

    fn name(&self, (_, place, generation): Key) -> String {
        format!("c{}:k{place}:{generation}", self.client)
    }

    fn next_serial(&mut self) -> usize {
        self.serial += 1;
        self.serial
    }

    /// Mostly short, sometimes beyond what is passed on whole, rarely beyond what any buffer holds.
    fn fresh_value(&mut self, random: &mut Random) -> Vec<u8> {
        let length = match random.below(100) {
            0 => 200_000 + random.below(300_000),
            1..5 => 10_000 + random.below(30_000),
            5..20 => random.below(4_000),
            _ => random.below(60),
        };
        let serial = self.next_serial();
        let mark = format!("<{}.{serial}>", self.client);
        let mut value = mark.clone().into_bytes();
        value.resize(value.len() + length, b'a' + (self.client % 26) as u8);
        // The end is as unlike the others' as the beginning.
        value.extend(mark.bytes());
        value
    }

    /// Takes over what a pipeline did: `known` writes happened or did not, as told; `doubtful` ones may have.
    pub(crate) fn settle(&mut self, known: HashMap<Key, Vec<u8>>, doubtful: Vec<Key>) {
        self.values.extend(known);
        for key in doubtful {
            let (db, place, generation) = key;
            self.values.remove(&key);
            self.generations.insert((db, place), generation + 1);
        }
    }
}

/// Keys of a client in each database.
const KEYS: usize = 8;

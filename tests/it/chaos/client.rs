//! One client of the run: sends pipelines, takes replies at its own pace, leaves when it likes, and judges.
//!
//! Owns a connection, the model of its keys and its book. Never shares a key with another client, so every
//! byte of every reply is known beforehand, but for the counters.
//!
//! What surprises: only the absence of errors makes a pipeline's reads exact. If a write of the same pipeline was
//! in doubt, a read of that key may see any value that the pipeline wrote, and nothing else.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Run;
use super::book::Book;
use super::plan::{Key, Model, Plan, Planned, Step};
use crate::support::client::is_reset;
use crate::support::random::Random;
use crate::support::{Client, shown};

/// How a pipeline's commands ended, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// By a reply that is no error of Breakwater's.
    Answered,
    /// By an error that says that it was not run.
    NotExecuted,
    /// It may have run: by an error that says so, or by no reply at all.
    Doubtful,
}

/// A client at work.
struct Worker<'a> {
    run: &'a Run,
    number: usize,
    port: u16,
    random: Random,
    model: Model,
    book: Book,
    client: Client,
    own_acknowledged: i64,
    own_unknown: i64,
    own_last: i64,
}

/// Works until the pipelines are used up.
pub(crate) fn work(run: &Run, number: usize, port: u16, mut random: Random) -> Book {
    let client = connect(port, random.one_in(2));
    let mut worker = Worker {
        run,
        number,
        port,
        random,
        model: Model::new(number),
        book: Book::default(),
        client: client.0,
        own_acknowledged: 0,
        own_unknown: 0,
        own_last: 0,
    };
    worker.model.reconnect(client.1);
    while run.next() {
        worker.one_pipeline();
        if !worker.book.violations.is_empty() {
            run.is_over.store(true, Ordering::Relaxed);
        }
    }
    let own = (number, worker.own_acknowledged, worker.own_unknown);
    worker.book.own_counters.push(own);
    worker.book
}

fn connect(port: u16, is_resp3: bool) -> (Client, bool) {
    let mut client = Client::connect(port);
    if is_resp3 {
        let reply = client.ask("HELLO 3");
        assert!(reply.starts_with(b"%"), "{}", shown(&reply));
    }
    (client, is_resp3)
}

// === impl Worker ===

impl Worker<'_> {
    fn one_pipeline(&mut self) {
        let plan = self.model.plan(&mut self.random);
        self.book.pipelines += 1;
        let (sent, wanted) = self.choose_end(&plan);
        if let Err(error) = self.client.try_send(&plan.bytes[..sent]) {
            // Nothing is closed for having been sent something, unless a reply to its beginning broke off.
            if !(is_reset(&error) && plan.steps.iter().any(is_large)) {
                self.complain(&format!("cannot send: {error}"));
            }
        }
        let frames = self.take(&plan, wanted);
        let is_cut_short = frames.len() < plan.steps.len();
        self.judge(&plan, &frames, sent);
        if is_cut_short {
            let is_resp3 = self.random.one_in(2);
            let (client, is_resp3) = connect(self.port, is_resp3);
            self.client = client;
            self.model.reconnect(is_resp3);
        }
    }

    /// How many bytes are sent and how many replies are taken: all, unless the client leaves in the middle.
    fn choose_end(&mut self, plan: &Plan) -> (usize, usize) {
        match self.random.below(40) {
            // It leaves while it is sending ...
            0 => (self.random.below(plan.bytes.len()), 0),
            // ... or while it is reading.
            1 => (plan.bytes.len(), self.random.below(plan.steps.len())),
            _ => (plan.bytes.len(), plan.steps.len()),
        }
    }

    /// Takes replies, fewer than `wanted` only if the connection is closed.
    fn take(&mut self, plan: &Plan, wanted: usize) -> Vec<Vec<u8>> {
        let is_slow = self.random.one_in(50);
        let mut frames = Vec::new();
        for planned in plan.steps.iter().take(wanted) {
            if is_slow {
                // A slow reader: small sips with pauses, before it takes the whole reply.
                for _ in 0..3 {
                    std::thread::sleep(Duration::from_millis(1));
                    if self.client.unread().is_empty() {
                        let _ = self.client.sip(64);
                    }
                }
            }
            match self.client.try_frame() {
                Ok(frame) => frames.push(frame),
                Err(error) => {
                    self.note_cut(plan, planned, frames.len(), &error);
                    return frames;
                }
            }
        }
        if wanted < plan.steps.len() {
            self.book.left += 1;
        }
        frames
    }

    /// Only a large reply whose beginning may be with the client can end with the connection.
    fn note_cut(&mut self, plan: &Plan, planned: &Planned, place: usize, error: &std::io::Error) {
        if is_reset(error) && plan.steps[place..].iter().any(is_large) {
            self.book.cut += 1;
            return;
        }
        let unread = shown(self.client.unread());
        self.complain(&format!("reply {place} to {:?} is lost ({error}): {unread}", planned.step));
    }

    fn judge(&mut self, plan: &Plan, frames: &[Vec<u8>], sent: usize) {
        let mut endings = Vec::new();
        for (place, planned) in plan.steps.iter().enumerate() {
            let ending = match frames.get(place) {
                Some(frame) => self.ending(planned, frame),
                None if planned.end > sent => Ending::NotExecuted,
                None => {
                    self.book.unanswered += 1;
                    Ending::Doubtful
                }
            };
            endings.push(ending);
        }
        let is_calm = endings.iter().all(|ending| *ending == Ending::Answered);
        for (place, (planned, ending)) in plan.steps.iter().zip(&endings).enumerate() {
            let frame = frames.get(place).map(|frame| &frame[..]);
            self.judge_one(plan, planned, *ending, frame, is_calm);
        }
        self.settle(plan, &endings);
        if endings.contains(&Ending::NotExecuted) && frames.len() == plan.steps.len() {
            // The server is down. A client that hammers on would use up the run before it is back.
            std::thread::sleep(Duration::from_millis(50 + self.random.below(100) as u64));
        }
    }

    /// Reads an error of ours, and complains about one that this command must not get.
    fn ending(&mut self, planned: &Planned, frame: &[u8]) -> Ending {
        if frame.first() != Some(&b'-') || planned.step == Step::Local {
            return Ending::Answered;
        }
        let is_read = matches!(planned.step, Step::Read(_));
        let starts = |text: &str| frame.starts_with(text.as_bytes());
        if starts("-ERR breakwater: not executed: ") || starts("-LOADING ") {
            self.book.not_executed += 1;
            self.run.refused.fetch_add(1, Ordering::Relaxed);
            return Ending::NotExecuted;
        }
        if starts("-ERR breakwater: outcome unknown: ") && !is_read {
            self.book.unknown += 1;
            return Ending::Doubtful;
        }
        if starts("-ERR breakwater: no reply") && is_read {
            self.book.no_reply += 1;
            self.run.refused.fetch_add(1, Ordering::Relaxed);
            return Ending::NotExecuted;
        }
        self.complain(&format!("{:?} was answered {}", planned.step, shown(frame)));
        Ending::Doubtful
    }

    fn judge_one(
        &mut self,
        plan: &Plan,
        planned: &Planned,
        ending: Ending,
        frame: Option<&[u8]>,
        is_calm: bool,
    ) {
        match &planned.step {
            Step::IncrementOwn if ending == Ending::Doubtful => self.own_unknown += 1,
            Step::IncrementShared(n) if ending == Ending::Doubtful => {
                self.book.shared_unknown[*n] += 1
            }
            _ => {}
        }
        let Some(frame) = frame.filter(|_| ending == Ending::Answered) else {
            return;
        };
        self.book.acknowledged += 1;
        self.book.bytes += frame.len();
        let is_right = match (&planned.step, &planned.expected) {
            (Step::IncrementOwn, _) => self.is_next_own(frame),
            (Step::IncrementShared(counter), _) => match integer(frame) {
                Some(value) => {
                    self.book.shared_values[*counter].push(value);
                    true
                }
                None => false,
            },
            (Step::Read(keys), Some(expected)) => {
                frame == expected || (!is_calm && self.is_possible(plan, keys, frame))
            }
            (_, expected) => expected.as_deref() == Some(frame),
        };
        if !is_right {
            let expected = planned.expected.as_deref().map(shown);
            self.complain(&format!("{:?} got {}, not {expected:?}", planned.step, shown(frame)));
        }
    }

    /// Nobody else increments it: the next value, or one that leaves room for what is in doubt.
    fn is_next_own(&mut self, frame: &[u8]) -> bool {
        let Some(value) = integer(frame) else {
            return false;
        };
        self.own_acknowledged += 1;
        let is_next = value > self.own_last && value <= self.own_acknowledged + self.own_unknown;
        self.own_last = value;
        is_next
    }

    /// Whether a reply consists of values that its keys had before, or may have got from this pipeline.
    fn is_possible(&self, plan: &Plan, keys: &[Key], frame: &[u8]) -> bool {
        let header = if keys.len() > 1 { format!("*{}\r\n", keys.len()) } else { String::new() };
        let Some(mut rest) = frame.strip_prefix(header.as_bytes()) else {
            return false;
        };
        for key in keys {
            let before = self.model.reply(self.model.value(*key).map(|value| &value[..]));
            let written = plan.written(*key).map(|value| self.model.reply(Some(value)));
            let mut possible = std::iter::once(before).chain(written);
            let Some(element) = possible.find(|element| rest.starts_with(element)) else {
                return false;
            };
            rest = &rest[element.len()..];
        }
        rest.is_empty()
    }

    fn settle(&mut self, plan: &Plan, endings: &[Ending]) {
        let mut known: HashMap<Key, Vec<u8>> = HashMap::new();
        let mut doubtful = Vec::new();
        for (planned, ending) in plan.steps.iter().zip(endings) {
            let Step::Write(key, value) = &planned.step else {
                continue;
            };
            match ending {
                Ending::Answered => drop(known.insert(*key, value.clone())),
                Ending::NotExecuted => {}
                Ending::Doubtful if doubtful.contains(key) => {}
                Ending::Doubtful => doubtful.push(*key),
            }
        }
        self.model.settle(known, doubtful);
    }

    fn complain(&mut self, what: &str) {
        self.book.violations.push(format!("client {}: {what}", self.number));
    }
}

/// Whether the reply may be passed on before it is whole; smaller ones are never cut.
fn is_large(planned: &Planned) -> bool {
    planned.expected.as_ref().is_some_and(|expected| expected.len() >= STREAMED_BYTES)
}

fn integer(frame: &[u8]) -> Option<i64> {
    let digits = frame.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// From this size on a reply may be passed on in pieces.
const STREAMED_BYTES: usize = 16 * 1024;

//! What clients do, and what their replies must be.
//!
//! Owns one action each for plain commands, pairs changed together, compare-and-set, queues, and subscriptions.
//! Never accepts an error: no node dies here and everybody gets a connection in the end. What surprises: a reply
//! is judged as far as it was heard, and what was not heard is booked as unknown.

use super::actor::{Actor, Heard, Step, step};
use super::book::{Push, bulks, elements};
use super::{PAIRS, QUEUES};
use crate::support::{Client, PATIENCE, bulk, shown};

// === impl Actor ===

impl Actor {
    /// One of everything.
    pub(crate) fn act(&mut self) {
        let (name, action): (_, fn(&mut Self)) = match self.random.below(20) {
            0..3 => ("plain", Self::plain),
            3..5 => ("change", Self::change),
            5..7 => ("look", Self::look),
            7..9 => ("compare", Self::compare_and_set),
            9..11 => ("push", Self::push),
            11..14 => ("pop", Self::pop),
            14 => ("move", Self::push_and_pop_in_a_transaction),
            15 => ("listen", Self::listen),
            _ => ("share", Self::share),
        };
        *self.book.actions.entry(name).or_default() += 1;
        action(self);
    }

    /// Own values come back, and nobody else's.
    fn plain(&mut self) {
        // What a lost connection of this client still does is done to another key.
        let (key, value) = (format!("own:{}:{}", self.number, self.book.left), self.value());
        let steps = [
            step(&format!("SET {key} {value}")),
            step(&format!("GET {key}")),
            step(&format!("ECHO {value}")),
            step(&format!("MGET {key} {key}")),
        ];
        let value = bulk(value.as_bytes());
        let both = [&b"*2\r\n"[..], &value, &value].concat();
        let heard = self.say(&steps, LEAVES, false);
        self.judge(&heard, &[b"+OK\r\n", &value, &value, &both]);
    }

    /// Two keys and two counters, in one transaction.
    fn change(&mut self) {
        let (pair, value) = (self.random.below(PAIRS), self.value());
        let mut steps = vec![step("MULTI")];
        steps.extend(changes(pair, &value));
        // What keeps the transaction from sharing a connection, or nothing.
        match self.random.below(4) {
            0 => steps.push(step("CLIENT GETNAME")),
            1 => steps.push(step("SELECT 0")),
            _ => {}
        }
        steps.push(step(if self.random.one_in(8) { "DISCARD" } else { "EXEC" }));
        let is_exec = steps.last() == Some(&step("EXEC"));
        let heard = self.say(&steps, LEAVES, false);
        self.judge_queued(&heard, 1, steps.len());
        if !is_exec {
            return self.judge_last(&heard, steps.len(), |frame| frame == b"+OK\r\n");
        }
        self.book_change(&heard, steps.len(), pair, None);
    }

    /// Two keys that are only changed together are equal at every moment.
    fn look(&mut self) {
        let pair = self.random.below(PAIRS);
        let read = step(&format!("MGET x:{pair} y:{pair} cx:{pair} cy:{pair}"));
        let steps = match self.random.below(3) {
            0 => vec![read],
            1 => vec![step("MULTI"), read, step("EXEC")],
            _ => vec![step(&format!("WATCH x:{pair}")), step("MULTI"), read, step("EXEC")],
        };
        let heard = self.say(&steps, LEAVES, false);
        let is_equal = |frame: &[u8]| {
            let values = bulks(frame);
            let is_null = frame.starts_with(b"*-1") || frame.starts_with(b"_");
            is_null || values.is_empty() || (values[0] == values[1] && values[2] == values[3])
        };
        self.judge_last(&heard, steps.len(), is_equal);
    }

    /// WATCH, read, and write only if nobody else has.
    fn compare_and_set(&mut self) {
        let (pair, value) = (self.random.below(PAIRS), self.value());
        let read = [step(&format!("WATCH cx:{pair} y:{pair}")), step(&format!("GET cx:{pair}"))];
        let heard = self.say(&read, LEAVES, false);
        let Some(before) = heard.frames.get(1).filter(|_| !heard.has_left) else {
            return;
        };
        let before: usize = bulks(before).first().map_or(0, |text| text.parse().unwrap_or(0));
        if self.random.one_in(6) {
            let heard = self.say(&[step("UNWATCH")], LEAVES, false);
            return self.judge(&heard, &[b"+OK\r\n"]);
        }
        let mut steps = vec![step("MULTI")];
        steps.extend(changes(pair, &value));
        steps.push(step("EXEC"));
        let heard = self.say(&steps, LEAVES, false);
        self.judge_queued(&heard, 1, steps.len());
        self.book_change(&heard, steps.len(), pair, Some(before));
    }

    /// Books the EXEC of a change: both counters are equal, and one more than what was watched.
    fn book_change(&mut self, heard: &Heard, count: usize, pair: usize, before: Option<usize>) {
        let Some(exec) = heard.frames.get(count - 1) else {
            self.book.unknown[pair] += usize::from(heard.said == count);
            return;
        };
        let text = String::from_utf8_lossy(exec);
        let counters: Vec<usize> = text
            .lines()
            .filter_map(|line| line.strip_prefix(':'))
            .filter_map(|digits| digits.parse().ok())
            .collect();
        match (&counters[..], before) {
            ([], Some(_)) if text == "*-1\r\n" || text == "_\r\n" => self.book.aborted += 1,
            ([left, right], before) if left == right && before.is_none_or(|n| n + 1 == *left) => {
                self.book.acknowledged[pair] += 1;
                self.book.right += 1;
            }
            _ => self.complain(format!("EXEC of pair {pair}, {before:?} before: {text:?}")),
        }
    }

    /// One to three elements.
    fn push(&mut self) {
        let (queue, count) = (self.random.below(QUEUES), 1 + self.random.below(3));
        let fresh: Vec<String> = (0..count).map(|_| self.element()).collect();
        let steps = [match self.random.below(3) {
            0 => {
                let scored: Vec<String> =
                    fresh.iter().map(|element| format!("1 {element}")).collect();
                step(&format!("ZADD z:{queue} {}", scored.join(" ")))
            }
            1 => step(&format!("LPUSH q:{queue} {}", fresh.join(" "))),
            _ => step(&format!("RPUSH q:{queue} {}", fresh.join(" "))),
        }];
        let heard = self.say(&steps, LEAVES, false);
        self.judge_last(&heard, 1, |frame| frame.starts_with(b":"));
        let push = match (heard.frames.len(), heard.said) {
            (1, _) => Push::Acknowledged,
            (_, 1) => Push::Unknown,
            _ => Push::NotExecuted,
        };
        self.book.pushed.extend(fresh.into_iter().map(|element| (element, push)));
    }

    /// Waits for an element, in one of the ways to wait, alone or in front of other commands.
    fn pop(&mut self) {
        let (queue, other) = (self.random.below(QUEUES), self.random.below(QUEUES));
        let time = ["0", "0.001", "0.01", "0.03"][self.random.below(4)];
        let pop = match self.random.below(7) {
            0 => format!("BRPOP q:{queue} q:{other} {time}"),
            1 => format!("BLMPOP {time} 2 q:{queue} q:{other} LEFT COUNT 2"),
            2 => format!("BZPOPMIN z:{queue} z:{other} {time}"),
            3 => format!("BZMPOP {time} 1 z:{queue} MAX COUNT 2"),
            4 => format!("LPOP q:{queue}"),
            _ => format!("BLPOP q:{queue} q:{other} {time}"),
        };
        let mut steps = vec![step(&pop)];
        let word = self.value();
        if self.random.one_in(3) {
            steps.push(step(&format!("ECHO {word}")));
        }
        if self.random.one_in(6) {
            steps.insert(0, step(&format!("BLMOVE q:{queue} q:{other} LEFT RIGHT 0.001")));
        }
        let heard = self.say(&steps, LEAVES, true);
        for (place, asked) in steps.iter().enumerate() {
            let is_pop = asked == &step(&pop);
            match heard.frames.get(place) {
                Some(frame) if frame[0] == b'-' => {
                    self.complain(format!("{pop}: {}", shown(frame)))
                }
                Some(frame) if is_pop => {
                    self.book.popped.extend(elements(frame));
                    self.book.right += 1;
                }
                Some(frame)
                    if asked.starts_with(b"*2\r\n$4\r\nECHO")
                        && *frame != bulk(word.as_bytes()) =>
                {
                    self.complain(format!("ECHO behind {pop}: {}", shown(frame)));
                }
                // As many as it asks for may be gone.
                None if is_pop && place < heard.said => {
                    let most = if pop.contains("COUNT 2") { 2 } else { 1 };
                    self.book.unheard_pops[self.world.phase()] += most;
                }
                _ => {}
            }
        }
    }

    /// An element comes and another goes, or neither.
    fn push_and_pop_in_a_transaction(&mut self) {
        let (queue, fresh) = (self.random.below(QUEUES), self.element());
        let steps = [
            step("MULTI"),
            step(&format!("RPUSH q:{queue} {fresh}")),
            step(&format!("BLPOP q:{} 0", self.random.below(QUEUES))),
            step("EXEC"),
        ];
        let heard = self.say(&steps, LEAVES / 2, false);
        self.judge_queued(&heard, 1, steps.len());
        self.judge_last(&heard, steps.len(), |frame| frame.starts_with(b"*2\r\n:"));
        let push = match (heard.frames.get(3), heard.said) {
            (Some(exec), _) => {
                self.book.popped.extend(elements(exec));
                Push::Acknowledged
            }
            (None, 4) => {
                self.book.unheard_pops[self.world.phase()] += 1;
                Push::Unknown
            }
            _ => Push::NotExecuted,
        };
        self.book.pushed.insert(fresh, push);
    }

    /// Subscribes to what nobody else knows of, and hears what is published there, once.
    fn listen(&mut self) {
        let (channel, word) = (self.value(), self.value());
        let mut listener = self.connect();
        listener.patience(PATIENCE);
        let (verb, name) = match self.random.below(2) {
            0 => ("SUBSCRIBE", channel.clone()),
            _ => ("PSUBSCRIBE", format!("{channel}*")),
        };
        let confirmed = listener.ask(&format!("{verb} {name}"));
        if !String::from_utf8_lossy(&confirmed).to_uppercase().contains(verb) {
            return self.complain(format!("{verb}: {}", shown(&confirmed)));
        }
        let publish = [step(&format!("PUBLISH {channel} {word}"))];
        let heard = self.say(&publish, 0, false);
        self.judge(&heard, &[b":1\r\n"]);
        let message = listener.frame();
        let is_message = bulks(&message).contains(&channel) && bulks(&message).contains(&word);
        if !is_message {
            return self.complain(format!("{word} on {channel}: {}", shown(&message)));
        }
        self.book.right += 1;
        self.stop_listening(listener, verb);
    }

    /// Unsubscribes and goes on, or just leaves.
    fn stop_listening(&mut self, mut listener: Client, verb: &str) {
        match self.random.below(4) {
            0 => drop(listener),
            1 => listener.abort(),
            _ => {
                let word = self.value();
                let farewell = listener.ask(&verb.replace("SUBSCRIBE", "UNSUBSCRIBE"));
                let echo = listener.ask(&format!("ECHO {word}"));
                if echo != bulk(word.as_bytes()) {
                    let (farewell, echo) = (shown(&farewell), shown(&echo));
                    self.complain(format!("behind {verb}: {farewell}, {echo}"));
                }
            }
        }
    }

    /// What was heard is what must be heard, as far as it goes.
    fn judge(&mut self, heard: &Heard, expected: &[&[u8]]) {
        for (frame, expected) in heard.frames.iter().zip(expected) {
            if frame == expected {
                self.book.right += 1;
            } else {
                self.complain(format!("{} instead of {}", shown(frame), shown(expected)));
            }
        }
        if heard.frames.len() > expected.len() {
            self.complain(format!("{} replies too many", heard.frames.len() - expected.len()));
        }
    }

    /// MULTI was accepted and everything behind it queued.
    fn judge_queued(&mut self, heard: &Heard, multis: usize, count: usize) {
        for (place, frame) in heard.frames.iter().take(count - 1).enumerate() {
            let expected: &[u8] = if place < multis { b"+OK\r\n" } else { b"+QUEUED\r\n" };
            if frame != expected {
                self.complain(format!("step {place} of a transaction: {}", shown(frame)));
            }
        }
    }

    fn judge_last(&mut self, heard: &Heard, count: usize, is_right: impl Fn(&[u8]) -> bool) {
        match heard.frames.get(count - 1) {
            Some(frame) if is_right(frame) => self.book.right += 1,
            Some(frame) => self.complain(format!("the last of {count}: {}", shown(frame))),
            None => {}
        }
    }

    /// A word that nobody else says.
    pub(crate) fn value(&mut self) -> String {
        format!("v-{}-{}", self.number, self.world.unique())
    }

    fn element(&mut self) -> String {
        format!("e-{}-{}-{}", self.world.phase(), self.number, self.world.unique())
    }
}

/// What is only done together.
fn changes(pair: usize, value: &str) -> [Step; 4] {
    [
        step(&format!("SET x:{pair} {value}")),
        step(&format!("SET y:{pair} {value}")),
        step(&format!("INCR cx:{pair}")),
        step(&format!("INCR cy:{pair}")),
    ]
}

/// A client leaves in the middle of one talk in so many.
const LEAVES: usize = 8;

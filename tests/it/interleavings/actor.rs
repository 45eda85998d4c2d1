//! One client: it connects, says things in one of many ways, and leaves in one of many.
//!
//! Owns the connection and how a talk is put on it: in one write, in two cut anywhere, or step by step; to its
//! end, or to a place in its middle. Never knows what the talk means (`actions` does): it reports what was heard
//! and how far the talk came.
//!
//! What surprises: who half-closes still listens. What comes then counts as heard.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::World;
use super::audience::Audience;
use super::book::Book;
use crate::support::random::Random;
use crate::support::{Client, PATIENCE, command, shown};

/// A client.
pub(crate) struct Actor {
    pub(crate) world: Arc<World>,
    pub(crate) number: usize,
    pub(crate) random: Random,
    pub(crate) book: Book,
    client: Option<Client>,
    /// Its other connection, which listens.
    pub(crate) audience: Option<Audience>,
}

/// What became of a talk.
pub(crate) struct Heard {
    /// Replies, in the order of the commands.
    pub(crate) frames: Vec<Vec<u8>>,
    /// Commands of which the last byte was sent.
    pub(crate) said: usize,
    /// The connection is gone, and what it held.
    pub(crate) has_left: bool,
}

/// A command of a talk.
pub(crate) type Step = Vec<u8>;

// === impl Actor ===

impl Actor {
    pub(crate) fn new(world: Arc<World>, number: usize, random: Random) -> Self {
        Self { world, number, random, book: Book::default(), client: None, audience: None }
    }

    /// Acts until the phase is over.
    pub(crate) fn work(mut self) -> Self {
        while self.world.next() {
            self.act();
            if !self.book.violations.is_empty() {
                self.world.is_over.store(true, Ordering::Relaxed);
            }
        }
        self
    }

    /// A new connection, RESP2 or RESP3.
    pub(crate) fn connect(&mut self) -> Client {
        let mut client = Client::connect(self.world.port);
        if self.random.one_in(2) {
            let version = 2 + self.random.below(2);
            let hello = client.ask(&format!("HELLO {version}"));
            assert_ne!(hello[0], b'-', "HELLO {version}");
        }
        client
    }

    /// Says a talk. One in `leaves` times the client leaves in its middle; 0 is never. `waits` if an answer may be
    /// long in coming: then the client loses patience and leaves.
    pub(crate) fn say(&mut self, steps: &[Step], leaves: usize, waits: bool) -> Heard {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.connect(),
        };
        let is_leaving = leaves > 0 && self.random.one_in(leaves);
        let most = if is_leaving { self.random.below(steps.len() + 1) } else { steps.len() };
        client.patience(if waits { IMPATIENCE } else { PATIENCE });
        let mut heard = match self.random.below(3) {
            0 => self.say_step_by_step(&mut client, &steps[..most]),
            _ => self.say_at_once(&mut client, &steps[..most], is_leaving),
        };
        if is_leaving {
            if let Some(next) = steps.get(most).filter(|_| self.random.one_in(2)) {
                // In the middle of a command.
                let _ = client.try_send(&next[..self.random.below(next.len())]);
            }
            self.leave(client, &mut heard);
        } else if heard.frames.len() < heard.said {
            self.leave(client, &mut heard);
        } else {
            self.client = Some(client);
        }
        heard
    }

    fn say_step_by_step(&mut self, client: &mut Client, steps: &[Step]) -> Heard {
        let mut heard = Heard { frames: Vec::new(), said: 0, has_left: false };
        for step in steps {
            client.send(step);
            heard.said += 1;
            match client.try_frame() {
                Ok(frame) => heard.frames.push(frame),
                Err(error) => {
                    self.note(&error);
                    break;
                }
            }
        }
        heard
    }

    /// In one write or in two; who leaves hears only some of the answers.
    fn say_at_once(&mut self, client: &mut Client, steps: &[Step], is_leaving: bool) -> Heard {
        let bytes = steps.concat();
        let cut = if self.random.one_in(2) { self.random.below(bytes.len() + 1) } else { 0 };
        client.send(&bytes[..cut]);
        client.send(&bytes[cut..]);
        let mut heard = Heard { frames: Vec::new(), said: steps.len(), has_left: false };
        let wanted = if is_leaving { self.random.below(steps.len() + 1) } else { steps.len() };
        while heard.frames.len() < wanted {
            match client.try_frame() {
                Ok(frame) => heard.frames.push(frame),
                Err(error) => {
                    self.note(&error);
                    break;
                }
            }
        }
        heard
    }

    /// Leaves; who only stops sending hears the rest.
    fn leave(&mut self, mut client: Client, heard: &mut Heard) {
        self.book.left += 1;
        heard.has_left = true;
        match self.random.below(3) {
            0 => drop(client),
            1 => client.abort(),
            _ => {
                client.patience(PATIENCE);
                client.finish_sending();
                loop {
                    match client.try_frame() {
                        // What waited too long for a connection is not executed for one that may
                        // have gone, nor is what it sent behind it: the same as unheard.
                        Ok(frame) if shown(&frame).contains("was dropped unsent") => {}
                        Ok(frame) => heard.frames.push(frame),
                        Err(error) if crate::support::client::is_reset(&error) => break,
                        Err(error) => {
                            self.complain(format!("half-closed and not closed: {error}"));
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Losing patience is a client's right; a connection that ends unasked is not ours.
    fn note(&mut self, error: &io::Error) {
        let is_impatience =
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        if !is_impatience {
            self.complain(format!("the connection ended: {error}"));
        }
    }

    pub(crate) fn complain(&mut self, what: String) {
        self.book.violations.push(format!("client {}: {what}", self.number));
    }
}

/// The words of a line as a step.
pub(crate) fn step(words: &str) -> Step {
    command(&words.split(' ').collect::<Vec<_>>())
}

/// How long a client waits for something that may never come.
const IMPATIENCE: Duration = Duration::from_millis(60);

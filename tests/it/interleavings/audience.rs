//! Those who listen to what everybody hears: channels and patterns that all clients share.
//!
//! Owns one listening connection of a client, and what it must be told: confirmations in the order of its commands,
//! messages of topics that it has and of no others, each publisher's in their order, each once for each topic, and its
//! own client's without fail. Never reads ahead: what nobody has asked for yet waits in the socket.
//!
//! What surprises: a topic is a channel or a pattern, and one message may come for several of them. RESP2 and RESP3
//! differ in what may be said between: a PING, or anything.

use std::collections::{BTreeSet, HashMap};

use super::actor::{Actor, step};
use super::book::bulks;
use crate::support::client::is_reset;
use crate::support::{Client, PATIENCE, bulk, shown};

/// A connection that listens.
pub(crate) struct Audience {
    client: Client,
    is_resp3: bool,
    /// What it has been told that it has.
    topics: BTreeSet<&'static str>,
    /// The last word of each publisher, by topic.
    heard: HashMap<(&'static str, String), u64>,
}

/// What went wrong, in words.
type Told<T> = Result<T, String>;

// === impl Actor ===

impl Actor {
    /// Joins, parts, publishes, talks between, or leaves, on a connection that it keeps for this.
    pub(crate) fn share(&mut self) {
        let mut audience = match self.audience.take() {
            Some(audience) => audience,
            None => self.gather(),
        };
        let outcome = match self.random.below(8) {
            0..3 => self.some_topics().and_then(|topics| audience.join(&topics)),
            3 => self.some_topics().and_then(|topics| audience.part(&topics)),
            4..6 => self.tell(&mut audience),
            6 => audience.talk_between(&self.value()),
            _ => return self.disperse(audience),
        };
        match outcome {
            Ok(()) => {
                self.book.right += 1;
                self.audience = Some(audience);
            }
            Err(what) => self.complain(what),
        }
    }

    fn gather(&mut self) -> Audience {
        let mut client = self.connect();
        client.patience(PATIENCE);
        let is_resp3 = client.ask("HELLO").starts_with(b"%");
        Audience { client, is_resp3, topics: BTreeSet::new(), heard: HashMap::new() }
    }

    /// One or two of a kind.
    fn some_topics(&mut self) -> Told<Vec<&'static str>> {
        let kind: &[&str] = if self.random.one_in(3) { &PATTERNS } else { &CHANNELS };
        let count = 1 + self.random.below(2);
        Ok((0..count).map(|_| kind[self.random.below(kind.len())]).collect())
    }

    /// Publishes something that its own audience must hear, as often as it has topics for it.
    fn tell(&mut self, audience: &mut Audience) -> Told<()> {
        let channel = CHANNELS[self.random.below(CHANNELS.len())];
        let word = format!("w-{}-{}", self.number, self.world.unique());
        let heard = self.say(&[step(&format!("PUBLISH {channel} {word}"))], 0, false);
        let times = audience.topics.iter().filter(|topic| is_about(topic, channel)).count();
        let reply = heard.frames.first().map(|frame| String::from_utf8_lossy(frame).into_owned());
        let count = reply.as_deref().and_then(|text| text.strip_prefix(':')?.trim().parse().ok());
        if count.is_none_or(|count: usize| count < times) {
            return Err(format!("{times} topics of its own, and PUBLISH {channel} says {reply:?}"));
        }
        audience.hear(&word, times)
    }

    /// Goes away in one of many ways, some of them in the middle of a word.
    fn disperse(&mut self, mut audience: Audience) {
        let topics = self.some_topics().unwrap_or_default();
        let outcome = match self.random.below(5) {
            0 => audience.reset(),
            1 => audience.half_close(),
            2 => {
                audience.client.abort();
                return;
            }
            way => {
                let _ = audience.say(if way == 3 { "SUBSCRIBE" } else { "UNSUBSCRIBE" }, &topics);
                return;
            }
        };
        if let Err(what) = outcome {
            self.complain(what);
        }
    }
}

// === impl Audience ===

impl Audience {
    fn join(&mut self, topics: &[&'static str]) -> Told<()> {
        let verb = self.say("SUBSCRIBE", topics)?;
        for &topic in topics {
            // It has the topic as soon as it is told so, and not before.
            let count = self.topics.iter().filter(|other| **other != topic).count() + 1;
            self.confirmed(&verb, topic, count)?;
            self.topics.insert(topic);
        }
        Ok(())
    }

    fn part(&mut self, topics: &[&'static str]) -> Told<()> {
        let verb = self.say("UNSUBSCRIBE", topics)?;
        for &topic in topics {
            let count = self.topics.iter().filter(|other| **other != topic).count();
            self.confirmed(&verb, topic, count)?;
            self.topics.remove(topic);
        }
        Ok(())
    }

    /// Sends the command for these topics, all of a kind; its name in lower case is what confirmations begin with.
    fn say(&mut self, verb: &str, topics: &[&str]) -> Told<String> {
        let letter = if topics.iter().any(|topic| PATTERNS.contains(topic)) { "P" } else { "" };
        let words = step(&format!("{letter}{verb} {}", topics.join(" ")));
        self.client.try_send(&words).map_err(|error| format!("{verb}: {error}"))?;
        Ok(format!("{letter}{verb}").to_lowercase())
    }

    fn confirmed(&mut self, verb: &str, topic: &str, count: usize) -> Told<()> {
        let kind = if self.is_resp3 { '>' } else { '*' };
        let want = format!(
            "{kind}3\r\n${}\r\n{verb}\r\n${}\r\n{topic}\r\n:{count}\r\n",
            verb.len(),
            topic.len()
        );
        self.wait_for(want.as_bytes())
    }

    /// Says something that is answered between the messages.
    fn talk_between(&mut self, word: &str) -> Told<()> {
        let is_restricted = !self.is_resp3 && !self.topics.is_empty();
        let (words, want) = if is_restricted {
            (format!("PING {word}"), [b"*2\r\n$4\r\npong\r\n", &bulk(word.as_bytes())[..]].concat())
        } else {
            (format!("ECHO {word}"), bulk(word.as_bytes()))
        };
        self.client.send(step(&words));
        self.wait_for(&want)
    }

    /// Hears this word so many times, and what others say before.
    fn hear(&mut self, word: &str, times: usize) -> Told<()> {
        let mut left = times;
        while left > 0 {
            let frame = self.frame(word)?;
            left -= usize::from(self.note(&frame)? == word);
        }
        Ok(())
    }

    /// Back to a client without topics, which nothing is published to.
    fn reset(&mut self) -> Told<()> {
        self.client.send(step("RESET"));
        self.wait_for(b"+RESET\r\n")?;
        self.topics.clear();
        self.is_resp3 = false;
        self.talk_between("still-here")
    }

    /// Stops sending, and hears what is still said to it until the connection ends.
    fn half_close(&mut self) -> Told<()> {
        self.client.finish_sending();
        loop {
            match self.client.try_frame() {
                Ok(frame) => drop(self.note(&frame)?),
                Err(error) if is_reset(&error) => return Ok(()),
                Err(error) => return Err(format!("half-closed and not closed: {error}")),
            }
        }
    }

    /// Reads until this comes; whatever comes before is a message that it may be told.
    fn wait_for(&mut self, want: &[u8]) -> Told<()> {
        loop {
            let frame = self.frame(&shown(want))?;
            if frame == want {
                return Ok(());
            }
            self.note(&frame).map_err(|what| format!("{what}, before {}", shown(want)))?;
        }
    }

    fn frame(&mut self, what: &str) -> Told<Vec<u8>> {
        self.client.try_frame().map_err(|error| format!("waiting for {what}: {error}"))
    }

    /// Judges a message, and returns its word.
    fn note(&mut self, frame: &[u8]) -> Told<String> {
        let parts = bulks(frame);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (topic, channel, word) = match parts[..] {
            ["message", channel, word] => (channel, channel, word),
            ["pmessage", pattern, channel, word] => (pattern, channel, word),
            _ => return Err(format!("no message: {}", shown(frame))),
        };
        let is_push = frame.starts_with(b">");
        let own = self.topics.iter().find(|own| **own == topic);
        let Some(&own) = own.filter(|_| is_push == self.is_resp3 && is_about(topic, channel))
        else {
            return Err(format!("a message for somebody else: {}", shown(frame)));
        };
        let (publisher, serial) = word.rsplit_once('-').unwrap_or((word, ""));
        let serial: u64 = serial.parse().map_err(|_| format!("no word: {}", shown(frame)))?;
        let before = self.heard.insert((own, publisher.to_owned()), serial);
        if before.is_some_and(|before| before >= serial) {
            return Err(format!("{word} on {own} behind number {before:?}"));
        }
        Ok(word.to_owned())
    }
}

/// Whether what is published on the channel comes to those who have the topic.
fn is_about(topic: &str, channel: &str) -> bool {
    topic == channel || topic == "news:*" || (topic == "n?ws:1" && channel == "news:1")
}

/// What everybody can be reached by.
pub(crate) const CHANNELS: [&str; 4] = ["news:0", "news:1", "news:2", "news:3"];
/// The same by pattern: all of them, and one.
const PATTERNS: [&str; 2] = ["news:*", "n?ws:1"];

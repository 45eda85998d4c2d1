//! Two hundred clients that come, subscribe, publish, unsubscribe and leave in any order.
//!
//! Owns the recording of who was subscribed to what and when, and the judgement: what was published while a client was
//! certainly subscribed must have come exactly once and in order; what was published while it certainly was not must
//! not have come; in between, once at most. Never knows how the proxy does it: Redis itself passes.
//!
//! What surprises: "certainly" is by the clock of this process, which reads it before a command is sent and behind its
//! answer.

use std::collections::HashMap;
use std::time::Instant;

use crate::support::random::Random;
use crate::support::{Client, Proxy, RedisServer, frames, line, shown, until};

/// A subscription of one client: asked for, confirmed; the end asked for, confirmed.
struct Window {
    topic: String,
    asked: Instant,
    confirmed: Instant,
    left: Instant,
    gone: Instant,
    /// Messages in the order in which they came.
    came: Vec<String>,
}

/// One message.
struct Published {
    channel: String,
    text: String,
    sent: Instant,
    acknowledged: Instant,
}

struct Member {
    client: Client,
    /// Topics that it has, with what came.
    held: HashMap<String, (Instant, Instant, Vec<String>)>,
}

/// What one thread has seen.
#[derive(Default)]
struct Diary {
    windows: Vec<Window>,
    published: Vec<Published>,
}

// === impl Member ===

impl Member {
    fn new(proxy: &Proxy, is_resp3: bool) -> Self {
        let client = if is_resp3 { proxy.client3() } else { proxy.client() };
        Self { client, held: HashMap::new() }
    }

    /// Reads frames until one confirms this topic; messages on the way are noted.
    fn until_confirmed(&mut self, word: &str, topic: &str) -> Result<(), String> {
        loop {
            let frame =
                self.client.try_frame().map_err(|error| format!("{word} {topic}: {error}"))?;
            let parts = parts(&frame);
            match parts[0].as_str() {
                "message" | "smessage" | "pmessage" => {
                    let (topic, text) = (parts[1].clone(), parts[parts.len() - 1].clone());
                    match self.held.get_mut(&topic) {
                        Some((_, _, came)) => came.push(text),
                        None => return Err(format!("{text} of {topic}, which it does not have")),
                    }
                }
                it if it == word && parts[1] == topic => return Ok(()),
                _ => return Err(format!("{word} {topic} was answered {}", shown(&frame))),
            }
        }
    }

    fn subscribe(&mut self, topic: &str) -> Result<(), String> {
        let word = if topic.contains('*') { "psubscribe" } else { "subscribe" };
        let asked = Instant::now();
        // What comes behind the confirmation belongs to it, and it may come in the same read.
        self.client.send(line(&format!("{word} {topic}")));
        let is_new = !self.held.contains_key(topic);
        self.until_confirmed(word, topic)?;
        if is_new {
            self.held.insert(topic.to_owned(), (asked, Instant::now(), Vec::new()));
        }
        Ok(())
    }

    fn unsubscribe(&mut self, topic: &str) -> Result<Window, String> {
        let word = if topic.contains('*') { "punsubscribe" } else { "unsubscribe" };
        let left = Instant::now();
        self.client.send(line(&format!("{word} {topic}")));
        self.until_confirmed(word, topic)?;
        let (asked, confirmed, came) = self.held.remove(topic).ok_or("it had the topic")?;
        let topic = topic.to_owned();
        Ok(Window { topic, asked, confirmed, left, gone: Instant::now(), came })
    }
}

/// The elements of a frame as text; those of a confirmation end with its count.
fn parts(frame: &[u8]) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !matches!(frame[0], b'*' | b'>') {
        return vec![text(frame)];
    }
    let mut rest = &frame[frame.iter().position(|byte| *byte == b'\n').unwrap() + 1..];
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let length = frames::length(rest).unwrap();
        let (element, behind) = rest.split_at(length);
        let line = element.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        parts.push(match element[0] {
            b'$' if element.len() > line => text(&element[line..length - 2]),
            _ => text(&element[1..line - 2]),
        });
        rest = behind;
    }
    parts
}

/// Steps of one thread with clients of its own.
fn drive(proxy: &Proxy, thread: usize, seed: u64) -> Result<Diary, String> {
    let mut random = Random::new(seed);
    let mut diary = Diary::default();
    let mut members: Vec<Member> =
        (0..MEMBERS).map(|number| Member::new(proxy, number % 2 == 1)).collect();
    let mut publisher = proxy.client();
    for step in 0..STEPS {
        let place = random.below(MEMBERS);
        let topic = TOPICS[random.below(TOPICS.len())];
        let member = &mut members[place];
        match random.below(20) {
            0..8 => member.subscribe(topic)?,
            8..12 if member.held.contains_key(topic) => {
                diary.windows.push(member.unsubscribe(topic)?);
            }
            12 => members[place] = Member::new(proxy, random.one_in(2)),
            _ => {
                let channel = CHANNELS[random.below(CHANNELS.len())].to_owned();
                let text = format!("{thread}:{step}");
                let sent = Instant::now();
                let reply = publisher.ask(&format!("PUBLISH {channel} {text}"));
                if !reply.starts_with(b":") {
                    return Err(format!("PUBLISH was answered {}", shown(&reply)));
                }
                diary.published.push(Published {
                    channel,
                    text,
                    sent,
                    acknowledged: Instant::now(),
                });
            }
        }
    }
    for member in &mut members {
        let topics: Vec<String> = member.held.keys().cloned().collect();
        for topic in topics {
            diary.windows.push(member.unsubscribe(&topic)?);
        }
    }
    Ok(diary)
}

/// Whether a message of `channel` belongs to the topic.
fn belongs(topic: &str, channel: &str) -> bool {
    match topic.strip_suffix('*') {
        Some(prefix) => channel.starts_with(prefix),
        None => topic == channel,
    }
}

/// Everything that is wrong with one window.
fn judge(window: &Window, published: &[Published]) -> Vec<String> {
    let mut wrong = Vec::new();
    for message in published {
        let came = window.came.iter().filter(|text| **text == message.text).count();
        let is_ours = belongs(&window.topic, &message.channel);
        let is_certain = message.sent > window.confirmed && message.acknowledged < window.left;
        let is_outside = message.acknowledged < window.asked || message.sent > window.gone;
        let is_right = match (is_ours, is_certain, is_outside) {
            (false, _, _) | (true, _, true) => came == 0,
            (true, true, _) => came == 1,
            _ => came <= 1,
        };
        if !is_right {
            let (topic, text, channel) = (&window.topic, &message.text, &message.channel);
            wrong.push(format!("{text} of {channel} came {came} times to {topic}"));
        }
    }
    // Messages of one publisher come in its order.
    let mut last: HashMap<&str, usize> = HashMap::new();
    for text in &window.came {
        let (thread, step) = text.split_once(':').unwrap_or_default();
        let step = step.parse().unwrap_or(usize::MAX);
        if last.insert(thread, step).is_some_and(|before| before >= step) {
            wrong.push(format!("{text} came out of order"));
        }
    }
    wrong
}

#[test]
fn two_hundred_clients_get_their_messages_and_nobody_elses() {
    let seed = Random::seed_from("PUBSUB_SEED");
    let redis = RedisServer::start();
    let proxy = Proxy::start(&["--upstream", &redis.url(), "--workers", "2"]).ready();
    let diaries: Vec<Diary> = std::thread::scope(|scope| {
        let proxy = &proxy;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || drive(proxy, thread, seed + thread as u64)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    let (mut windows, mut published) = (Vec::new(), Vec::new());
    for diary in diaries {
        windows.extend(diary.windows);
        published.extend(diary.published);
    }
    let came: usize = windows.iter().map(|window| window.came.len()).sum();
    eprintln!("{} windows, {} published, {came} came", windows.len(), published.len());
    assert!(came > published.len(), "there was something to judge");
    let wrong: Vec<String> = windows.iter().flat_map(|window| judge(window, &published)).collect();
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert_eq!(proxy.metric("breakwater_subscription_gaps_total"), 0.0, "the link lived");
    // Those that were replaced have gone without a word, and all the others have unsubscribed.
    let mut raw = redis.client();
    until("nothing is left at the server", || {
        raw.ask("PUBSUB CHANNELS") == b"*0\r\n" && raw.ask("PUBSUB NUMPAT") == b":0\r\n"
    });
}

const THREADS: usize = 4;
/// Clients of one thread; with its publisher, two hundred and four in all.
const MEMBERS: usize = 50;
const STEPS: usize = 1500;
const CHANNELS: [&str; 5] = ["a1", "a2", "b1", "b2", "c"];
const TOPICS: [&str; 7] = ["a1", "a2", "b1", "b2", "c", "a*", "b*"];

//! A link without sockets: one worker, a few clients, and a node that is a model of Redis.
//!
//! The model executes what the link has sent, publishes between any two commands, and sends its
//! bytes in pieces of any size. `any_order` compares what clients get with what connections of
//! their own would have given them.

#[cfg(test)]
mod any_order;

use std::collections::{HashMap, HashSet};

use super::*;
use crate::clock::SECOND;
use crate::pubsub::glob;
use crate::resp::write::Protocol;
use crate::session::state::{Closing, SessionId};
use crate::stats::labels::{ClosedReason, DialFailure};
use crate::upstream::dial::DialError;
use crate::upstream::identity::Presented;
use crate::upstream::receive::Anomaly;
use crate::upstream::rig::{Rig, bytes_of};
use crate::worker::Worker;

/// The node: what the link is subscribed to there, and what it will send.
#[derive(Default)]
struct Node {
    topics: [HashSet<Vec<u8>>; 3],
    /// Commands that have not been executed.
    input: Vec<u8>,
    /// Bytes on their way to the link.
    output: Vec<u8>,
    /// Messages published so far, by channel.
    published: HashMap<Vec<u8>, u64>,
    /// Topics that may not be subscribed to.
    forbidden: HashSet<Vec<u8>>,
}

/// The worker and its link, and the node.
struct World {
    rig: Rig,
    node: Node,
    link: Option<LinkId>,
}

/// A frame as a client sees it: the elements of an array or push, or the line of anything else.
type Frame = Vec<Vec<u8>>;

/// Takes `*n` or `>n` and its bulk strings and integers apart; a line is a frame of one element.
fn frames(mut bytes: &[u8]) -> (Vec<Frame>, usize) {
    let all = bytes.len();
    let mut frames = Vec::new();
    'frames: while let Some(line) = bytes.split(|byte| *byte == b'\n').next() {
        if line.len() == bytes.len() {
            break;
        }
        let mut rest = &bytes[line.len() + 1..];
        let mut frame = Vec::new();
        if matches!(line[0], b'*' | b'>') {
            let count: usize =
                std::str::from_utf8(&line[1..line.len() - 1]).unwrap().parse().unwrap();
            for _ in 0..count {
                let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                    break 'frames;
                };
                let (kind, number) = (rest[0], &rest[1..end - 1]);
                rest = &rest[end + 1..];
                if kind != b'$' || number == b"-1" {
                    frame.push(number.to_vec());
                    continue;
                }
                let length: usize = std::str::from_utf8(number).unwrap().parse().unwrap();
                if rest.len() < length + 2 {
                    break 'frames;
                }
                frame.push(rest[..length].to_vec());
                rest = &rest[length + 2..];
            }
        } else {
            frame.push(line[..line.len() - 1].to_vec());
        }
        frames.push(frame);
        bytes = rest;
    }
    (frames, all - bytes.len())
}

fn command(words: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::command(&mut bytes, &words.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    bytes
}

fn frame(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!(">{}\r\n", words.len()).into_bytes();
    for word in words {
        write::bulk(&mut bytes, word);
    }
    bytes
}

// === impl Node ===

impl Node {
    /// Executes the commands that have arrived whole, at most so many.
    fn execute(&mut self, most: usize) {
        let (commands, _) = frames(&self.input);
        for command in commands.into_iter().take(most) {
            let mut encoded = Vec::new();
            write::command(&mut encoded, &command.iter().map(Vec::as_slice).collect::<Vec<_>>());
            self.input.drain(..encoded.len());
            self.run(&command);
        }
    }

    fn run(&mut self, command: &[Vec<u8>]) {
        let name = String::from_utf8_lossy(&command[0]).into_owned();
        if name == "ping" {
            self.output.extend_from_slice(b"+PONG\r\n");
            return;
        }
        let is_subscribe = !name.contains("un");
        if is_subscribe && command[1..].iter().any(|topic| self.forbidden.contains(topic)) {
            self.output.extend_from_slice(b"-NOPERM this user may not\r\n");
            return;
        }
        for kind in Kind::ALL {
            for topic in command[1..].iter().filter(|_| {
                name == if is_subscribe { kind.subscribe() } else { kind.unsubscribe() }
            }) {
                let topics = &mut self.topics[kind as usize];
                if is_subscribe {
                    topics.insert(topic.clone());
                } else {
                    topics.remove(topic);
                }
                self.output.extend_from_slice(b">3\r\n");
                write::bulk(&mut self.output, name.as_bytes());
                write::bulk(&mut self.output, topic);
                self.output.extend_from_slice(b":0\r\n");
            }
        }
    }

    /// Publishes the next number of a channel.
    fn publish(&mut self, channel: &[u8]) {
        let number = self.published.entry(channel.to_vec()).or_default();
        *number += 1;
        let text = number.to_string().into_bytes();
        if self.topics[Kind::Channel as usize].contains(channel) {
            self.output.extend(frame(&[b"message", channel, &text]));
        }
        for pattern in &self.topics[Kind::Pattern as usize] {
            if glob::matches(pattern, channel) {
                self.output.extend(frame(&[b"pmessage", pattern, channel, &text]));
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.topics.iter().all(HashSet::is_empty)
    }
}

// === impl World ===

impl World {
    fn new() -> Self {
        Self { rig: Rig::new(), node: Node::default(), link: None }
    }

    /// A client that speaks RESP2 or RESP3.
    fn client(&mut self, protocol: Protocol) -> SessionId {
        let id = self.rig.client();
        self.rig.worker.sessions.get_mut(id).unwrap().protocol = protocol;
        id
    }

    fn say(&mut self, client: SessionId, words: &str) {
        self.rig.say(client, &command(words));
        self.dialled();
    }

    /// The link that was asked for has its connection.
    fn dialled(&mut self) {
        if let Some(id) = self.rig.worker.links_to_dial.pop() {
            self.link = Some(id);
            self.open();
        }
    }

    fn with_link<R>(&mut self, work: impl FnOnce(&mut Worker, &mut Link) -> R) -> R {
        let id = self.link.expect("somebody has subscribed");
        let mut link = self.rig.worker.links.lend(id).expect("the link is there");
        let result = work(&mut self.rig.worker, &mut link);
        self.rig.worker.links.restore(id, link);
        result
    }

    fn open(&mut self) {
        self.with_link(|worker, link| loss::opened(worker, link, WriteHalf::Detached));
    }

    /// The connection breaks; the node forgets the link.
    fn lose(&mut self) {
        let published = std::mem::take(&mut self.node.published);
        let forbidden = std::mem::take(&mut self.node.forbidden);
        self.node = Node { published, forbidden, ..Node::default() };
        self.with_link(loss::lost);
    }

    /// The kernel takes what the link has to send.
    fn send(&mut self) {
        if self.link.is_some() {
            let bytes = self.with_link(|worker, link| {
                let bytes = bytes_of(&link.send);
                link.send.advance(bytes.len());
                link.send.release(&mut worker.pool, link.send.sent());
                bytes
            });
            self.node.input.extend(bytes);
        }
    }

    /// The link receives so many of the node's bytes.
    fn receive(&mut self, most: usize) -> Result<(), Anomaly> {
        let count = most.min(self.node.output.len());
        let bytes: Vec<u8> = self.node.output.drain(..count).collect();
        let result = self.with_link(|worker, link| receive::receive(worker, link, &bytes));
        self.resume_all();
        result
    }

    /// Clients that may go on say what they held back.
    fn resume_all(&mut self) {
        let ids: Vec<SessionId> = self.rig.worker.sessions.keys().collect();
        for id in ids {
            let session = self.rig.worker.sessions.get(id).unwrap();
            if session.has_input() && session.admits() {
                self.rig.resume(id);
                self.dialled();
            }
        }
    }

    /// Everything that is on its way arrives.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.send();
            self.node.execute(usize::MAX);
            if self.node.output.is_empty() {
                return;
            }
            self.receive(usize::MAX).unwrap();
        }
        panic!("it never ends");
    }

    /// What a client has been told, as text.
    fn told(&self, client: SessionId) -> String {
        String::from_utf8(self.rig.owed(client)).unwrap()
    }

    fn ends_empty(&self) {
        let worker = &self.rig.worker;
        assert!(self.node.is_idle(), "left at the node: {:?}", self.node.topics);
        assert!(worker.shared.tally.is_empty(), "{:?}", worker.shared.tally);
        assert_eq!((worker.subscription_bytes, worker.stats.subscriptions.get()), (0, 0));
        let link = self.link.and_then(|id| worker.links.get(id)).unwrap();
        assert!(link.book.is_empty() && link.asks.is_empty(), "{link:?}");
        assert_eq!(link.asked_bytes, 0);
    }
}

#[test]
fn a_subscription_is_confirmed_when_the_node_has_confirmed_it_and_messages_follow() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp2), world.client(Protocol::Resp3));
    world.say(ann, "SUBSCRIBE a b");
    world.send();
    world.node.execute(1);
    world.node.publish(b"a");
    assert_eq!(world.told(ann), "");
    // One byte at a time: nothing may depend on where the pieces end.
    while !world.node.output.is_empty() {
        world.receive(1).unwrap();
    }
    let confirmed =
        "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n";
    let message = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n";
    assert_eq!(world.told(ann), format!("{confirmed}{message}"));
    world.say(bob, "PSUBSCRIBE a*");
    world.settle();
    world.node.publish(b"a");
    world.settle();
    let second = message.replace("\n1\r", "\n2\r");
    assert_eq!(world.told(ann), format!("{confirmed}{message}{second}"));
    let confirmed = ">3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n";
    let message = ">4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$1\r\na\r\n$1\r\n2\r\n";
    assert_eq!(world.told(bob), format!("{confirmed}{message}"));
}

#[test]
fn the_second_client_gets_nothing_that_was_published_before_it_came() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp3), world.client(Protocol::Resp3));
    world.say(ann, "SUBSCRIBE a");
    world.settle();
    // On its way to the link while Bob subscribes, and while Ann leaves.
    world.node.publish(b"a");
    world.say(bob, "SUBSCRIBE a");
    world.send();
    world.node.execute(1);
    world.node.publish(b"a");
    world.say(ann, "UNSUBSCRIBE a");
    world.node.publish(b"a");
    world.settle();
    world.node.publish(b"a");
    world.settle();
    let numbers = |text: &str| -> String {
        text.split("\r\n").filter(|line| line.len() == 1 && *line != "a").collect()
    };
    assert_eq!(numbers(&world.told(ann)), "123", "{}", world.told(ann));
    assert_eq!(numbers(&world.told(bob)), "234", "{}", world.told(bob));
}

#[test]
fn a_subscription_waits_for_what_the_client_said_before_it_and_holds_up_what_it_said_behind() {
    let mut world = World::new();
    let ann = world.client(Protocol::Resp3);
    let words = ["PUBLISH a 1", "SUBSCRIBE a", "PUBLISH a 2"];
    world.rig.say(ann, &words.map(command).concat());
    world.dialled();
    assert!(world.link.is_none(), "the PUBLISH travels on a lane and may be overtaken");
    world.rig.hand_over_all();
    world.rig.answer(b":0\r\n").unwrap();
    world.resume_all();
    world.send();
    assert_eq!(world.node.input, command("subscribe a"));
    assert_eq!(world.rig.queued(), b"", "the second PUBLISH waits");
    world.settle();
    assert_eq!(world.rig.queued(), command("PUBLISH a 2"));
    assert_eq!(world.told(ann), ":0\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
}

#[test]
fn an_error_of_the_node_is_the_answer_to_whoever_asked_and_to_nobody_else() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp2), world.client(Protocol::Resp2));
    world.say(ann, "SUBSCRIBE a");
    world.settle();
    world.node.forbidden.insert(b"b".to_vec());
    let before = world.told(ann);
    world.say(bob, "SUBSCRIBE a b");
    world.settle();
    assert_eq!(world.told(bob), "-NOPERM this user may not\r\n");
    world.node.publish(b"a");
    world.settle();
    assert!(world.told(ann).len() > before.len());
    assert_eq!(world.told(bob), "-NOPERM this user may not\r\n");
    world.rig.leave(ann);
    world.settle();
    world.ends_empty();
}

#[test]
fn an_answer_that_was_not_asked_for_ends_the_connection() {
    for bytes in [
        &b">3\r\n$9\r\nsubscribe\r\n$1\r\nz\r\n:1\r\n"[..],
        b">3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n",
        b"+PONG\r\n",
        b"?",
    ] {
        let mut world = World::new();
        let ann = world.client(Protocol::Resp2);
        world.say(ann, "SUBSCRIBE a");
        world.send();
        world.node.output = bytes.to_vec();
        assert!(world.receive(usize::MAX).is_err(), "{}", bytes.escape_ascii());
        assert_eq!(world.told(ann), "");
    }
    // An answer before the question has left.
    let mut world = World::new();
    let ann = world.client(Protocol::Resp2);
    world.say(ann, "SUBSCRIBE a");
    world.node.output = b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n".to_vec();
    assert_eq!(world.receive(usize::MAX), Err(Anomaly::Unexpected));
}

#[test]
fn after_a_loss_everything_is_subscribed_again_and_resp3_is_told_of_the_gap() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp2), world.client(Protocol::Resp3));
    let carl = world.client(Protocol::Resp3);
    world.say(ann, "SUBSCRIBE a b");
    world.say(bob, "PSUBSCRIBE *");
    world.say(carl, "SSUBSCRIBE s");
    world.settle();
    world.say(carl, "SUNSUBSCRIBE");
    world.send();
    let told = [world.told(ann), world.told(bob), world.told(carl)];
    world.lose();
    // Who leaves needs no node.
    assert!(world.told(carl).ends_with(">3\r\n$12\r\nsunsubscribe\r\n$1\r\ns\r\n:0\r\n"));
    assert_eq!(world.rig.worker.stats.subscription_gaps.get(), 1);
    assert_eq!(world.rig.worker.shared.tally.len(), 0, "nobody receives anything");
    world.node.publish(b"a");
    world.open();
    assert_eq!(world.told(bob), told[1], "not before everything is there again");
    world.settle();
    world.node.publish(b"a");
    world.settle();
    let message = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n2\r\n";
    assert_eq!(world.told(ann), format!("{}{message}", told[0]));
    let gap = ">2\r\n$4\r\npong\r\n$14\r\nbreakwater:gap\r\n";
    let message = ">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\na\r\n$1\r\n2\r\n";
    assert_eq!(world.told(bob), format!("{}{gap}{message}", told[1]));
    assert!(!world.told(carl).contains("gap"));
    for client in [ann, bob, carl] {
        world.rig.leave(client);
    }
    world.settle();
    world.ends_empty();
}

#[test]
fn who_asked_while_the_link_was_down_is_answered_when_it_is_up_or_told_in_time() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp2), world.client(Protocol::Resp2));
    world.say(ann, "SUBSCRIBE a");
    world.send();
    world.lose();
    assert_eq!(world.told(ann), "");
    world.open();
    world.settle();
    assert!(world.told(ann).starts_with("*3\r\n$9\r\nsubscribe\r\n"));
    world.lose();
    world.say(bob, "SUBSCRIBE a");
    let error = DialError::new(DialFailure::Refused, "no".into());
    let fail = |world: &mut World, after: Micros| {
        world.rig.worker.now += after;
        world.with_link(|worker, link| {
            let node = Arc::clone(&link.node);
            loss::dial_failed(worker, link, &node, &error);
        });
    };
    fail(&mut world, 0);
    assert_eq!(world.told(bob), "", "it waits for retry_window");
    fail(&mut world, SECOND);
    assert!(world.told(bob).starts_with("-ERR breakwater: not executed: upstream "));
    world.resume_all();
    world.open();
    world.settle();
    assert!(world.node.topics[0].contains(&b"a"[..]));
    world.rig.leave(ann);
    world.rig.leave(bob);
    world.settle();
    world.ends_empty();
}

#[test]
fn a_node_that_does_not_answer_keeps_nobody_waiting_for_ever_and_a_late_answer_is_undone() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp2), world.client(Protocol::Resp2));
    world.say(bob, "SUBSCRIBE b");
    world.settle();
    world.say(ann, "SUBSCRIBE a");
    world.say(bob, "UNSUBSCRIBE b");
    world.send();
    let taken_at = world.with_link(|_, link| link.asks[0].asker.as_ref().unwrap().taken_at);
    let limit = world.with_link(|_, link| link.node.settings.reply_deadline_slow);
    world.rig.worker.now = taken_at + crate::clock::to_micros(limit) + SECOND;
    world.with_link(loss::expire);
    assert!(world.told(ann).starts_with("-ERR breakwater: no reply from "), "{}", world.told(ann));
    assert!(world.told(bob).contains("unsubscribe"), "to leave needs no node");
    world.node.execute(usize::MAX);
    world.node.publish(b"a");
    world.settle();
    assert!(!world.told(ann).contains("message"));
    world.ends_empty();
}

#[test]
fn one_forbidden_topic_ends_its_clients_and_not_the_others() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp3), world.client(Protocol::Resp3));
    world.say(ann, "SUBSCRIBE a b c");
    world.say(bob, "SUBSCRIBE d");
    world.settle();
    world.node.forbidden.insert(b"b".to_vec());
    world.lose();
    world.open();
    world.settle();
    let lost = Some(Closing::Now(ClosedReason::SubscriptionLost));
    assert_eq!((world.rig.closing(ann), world.rig.closing(bob)), (lost, None));
    assert!(world.told(bob).contains("breakwater:gap"));
    world.rig.leave(ann);
    world.rig.leave(bob);
    world.settle();
    world.ends_empty();
}

#[test]
fn a_subscription_that_the_node_ends_is_asked_for_again() {
    let mut world = World::new();
    let ann = world.client(Protocol::Resp3);
    world.say(ann, "SSUBSCRIBE s");
    world.settle();
    let before = world.told(ann);
    world.node.topics[Kind::Shard as usize].clear();
    world.node.output = b">3\r\n$12\r\nsunsubscribe\r\n$1\r\ns\r\n:0\r\n".to_vec();
    world.settle();
    assert!(world.node.topics[Kind::Shard as usize].contains(&b"s"[..]));
    let gap = ">2\r\n$4\r\npong\r\n$14\r\nbreakwater:gap\r\n";
    assert_eq!(world.told(ann), format!("{before}{gap}"), "silently, but for the gap");
    let stats = &world.rig.worker.stats;
    assert_eq!((stats.subscriptions_moved.get(), stats.subscription_gaps.get()), (1, 1));
}

#[test]
fn the_end_of_a_shard_subscription_is_told_from_a_slot_that_moves_at_that_moment() {
    // The node ends it of its own accord, and what was asked meanwhile is redirected; or the other
    // way round.
    let ended = &b">3\r\n$12\r\nsunsubscribe\r\n$1\r\ns\r\n:0\r\n"[..];
    let moved = &b"-MOVED 1 127.0.0.1:1\r\n"[..];
    for answers in [vec![ended, moved], vec![moved], vec![ended]] {
        let mut world = World::new();
        let (ann, bob) = (world.client(Protocol::Resp3), world.client(Protocol::Resp3));
        world.say(ann, "SSUBSCRIBE s");
        world.say(bob, "SUBSCRIBE b");
        world.settle();
        world.say(ann, "SUNSUBSCRIBE s");
        world.send();
        world.node.topics[Kind::Shard as usize].clear();
        world.node.input.clear();
        world.node.output = [answers.concat(), b"+PONG\r\n".to_vec()].concat();
        assert!(!world.told(ann).contains("sunsubscribe"), "the place of the answer is behind");
        world.settle();
        assert!(world.told(ann).ends_with("sunsubscribe\r\n$1\r\ns\r\n:0\r\n"), "{answers:?}");
        assert_eq!(world.rig.worker.stats.subscriptions_moved.get(), 0);
        world.rig.leave(bob);
        world.settle();
        world.ends_empty();
    }
}

#[test]
fn a_slow_reader_is_closed_and_the_others_get_everything() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp3), world.client(Protocol::Resp3));
    for client in [ann, bob] {
        world.say(client, "SUBSCRIBE a");
    }
    world.settle();
    // Small ones are copied, large ones are shared by both; Bob takes what he gets.
    for (number, length) in [100, 1 << 20].into_iter().cycle().take(80).enumerate() {
        let text = vec![b'x'; length];
        world.node.output = frame(&[b"message", b"a", &text]);
        world.settle();
        let session = world.rig.worker.sessions.get_mut(bob).unwrap();
        assert!(session.out.unsent() >= length, "message {number}");
        let unsent = session.out.unsent();
        session.out.advance(unsent);
        let sent = session.out.sent();
        session.out.release(&mut world.rig.worker.pool, sent);
    }
    let slow = Some(Closing::Now(ClosedReason::SlowSubscriber));
    assert_eq!((world.rig.closing(ann), world.rig.closing(bob)), (slow, None));
    let owed = world.rig.worker.sessions.get(ann).unwrap().owed();
    assert!((31 << 20..=32 << 20).contains(&owed), "{owed}");
}

#[test]
fn above_the_soft_limit_a_reader_has_a_minute() {
    let mut world = World::new();
    let ann = world.client(Protocol::Resp3);
    world.say(ann, "SUBSCRIBE a");
    world.settle();
    world.node.output = frame(&[b"message", b"a", &vec![b'x'; 9 << 20]]);
    world.settle();
    let mut is_slow = |after: Micros| {
        let worker = &mut world.rig.worker;
        worker.now += after;
        let (session, now) = (worker.sessions.get_mut(ann).unwrap(), worker.now);
        crate::session::pubsub::is_slow(session, now)
    };
    assert!(!is_slow(0) && !is_slow(59 * SECOND) && is_slow(SECOND));
}

#[test]
fn a_message_larger_than_all_budgets_is_not_kept() {
    let mut world = World::new();
    let shared = Arc::get_mut(&mut world.rig.worker.shared).expect("nobody else has it");
    shared.memory.reply_bytes_total = 4 << 20;
    let (ann, bob) = (world.client(Protocol::Resp3), world.client(Protocol::Resp3));
    world.say(ann, "SUBSCRIBE giant");
    world.say(bob, "SUBSCRIBE a");
    world.settle();
    let total = world.rig.worker.shared.memory.reply_bytes_total;
    let header = format!(">3\r\n$7\r\nmessage\r\n$5\r\ngiant\r\n${}\r\n", 2 * total);
    world.node.output = header.into_bytes();
    world.receive(usize::MAX).unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..2 * total / piece.len() {
        world.node.output = piece.clone();
        world.receive(usize::MAX).unwrap();
        let held = world.with_link(|_, link| link.carry.capacity());
        assert!(held <= 2 * total + (2 << 20), "{held}");
    }
    world.node.output = b"\r\n".to_vec();
    world.node.publish(b"a");
    world.settle();
    let slow = Some(Closing::Now(ClosedReason::SlowSubscriber));
    assert_eq!((world.rig.closing(ann), world.rig.closing(bob)), (slow, None));
    assert!(world.told(bob).ends_with("$1\r\na\r\n$1\r\n1\r\n"), "the stream goes on behind it");
}

#[test]
fn a_client_that_becomes_somebody_else_keeps_what_it_has_and_hears_it_once() {
    let mut world = World::new();
    let ann = world.client(Protocol::Resp3);
    world.say(ann, "SUBSCRIBE a");
    world.settle();
    let presented = Presented { user: Some(b"x".to_vec()), password: Vec::new() };
    let other = world.rig.worker.shared.identities.confirm(&presented, 0).unwrap();
    world.rig.worker.sessions.get_mut(ann).unwrap().identity = Some(other);
    let (first, first_node) = (world.link.unwrap(), std::mem::take(&mut world.node));
    world.say(ann, "SUBSCRIBE a b");
    assert_ne!(world.link, Some(first), "users have links of their own");
    world.settle();
    assert_eq!(world.node.topics[0].len(), 1, "only b is new, and a is given up again");
    assert!(
        world.told(ann).ends_with("$1\r\na\r\n:1\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n")
    );
    // UNSUBSCRIBE speaks of both links.
    world.link = Some(first);
    world.node = first_node;
    world.say(ann, "UNSUBSCRIBE");
    world.settle();
    assert!(world.told(ann).ends_with(
        "unsubscribe\r\n$1\r\na\r\n:1\r\n>3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n"
    ));
    assert!(world.node.is_idle());
    assert!(world.rig.worker.shared.tally.of(Kind::Channel, b"b") == -1, "its end is on its way");
}

#[test]
fn who_cannot_be_authenticated_any_more_is_closed_and_others_wait() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp3), world.client(Protocol::Resp3));
    let presented = Presented { user: Some(b"x".to_vec()), password: Vec::new() };
    let other = world.rig.worker.shared.identities.confirm(&presented, 0).unwrap();
    world.rig.worker.sessions.get_mut(ann).unwrap().identity = Some(other);
    let error = DialError::new(DialFailure::Auth, "WRONGPASS no".into());
    for client in [bob, ann] {
        world.say(client, "SUBSCRIBE a");
        world.settle();
        world.lose();
        world.with_link(|worker, link| {
            let node = Arc::clone(&link.node);
            loss::dial_failed(worker, link, &node, &error);
        });
        world.node = Node::default();
    }
    let lost = Some(Closing::Now(ClosedReason::SubscriptionLost));
    assert_eq!((world.rig.closing(ann), world.rig.closing(bob)), (lost, None));
}

#[test]
fn a_node_that_is_busy_is_asked_again_to_begin_and_to_end() {
    let mut world = World::new();
    let (ann, bob) = (world.client(Protocol::Resp3), world.client(Protocol::Resp3));
    world.say(ann, "SUBSCRIBE a");
    world.say(bob, "SUBSCRIBE b");
    world.settle();
    world.rig.leave(ann);
    world.send();
    world.node.input.clear();
    world.node.output = b"-BUSY a script\r\n".to_vec();
    world.settle();
    assert!(world.node.topics[0].contains(&b"a"[..]), "it has not ended");
    world.rig.worker.now += 2 * SECOND;
    world.with_link(loss::tick);
    world.settle();
    assert!(!world.node.topics[0].contains(&b"a"[..]));
    world.lose();
    world.open();
    world.send();
    world.node.input.clear();
    world.node.output = b"-BUSY a script\r\n".to_vec();
    world.settle();
    assert!(world.node.is_idle() && !world.told(bob).contains("gap"));
    world.with_link(loss::tick);
    world.settle();
    assert!(world.node.topics[0].contains(&b"b"[..]) && world.told(bob).contains("gap"));
    world.rig.leave(bob);
    world.settle();
    world.ends_empty();
}

#[test]
fn bounds_of_subscriptions_are_errors_that_name_the_setting() {
    let mut world = World::new();
    let ann = world.client(Protocol::Resp3);
    let bounds = world.rig.worker.sessions.get(ann).unwrap().gate.pubsub;
    let many: String = (0..=bounds.subscriptions).map(|number| format!(" {number}")).collect();
    world.say(ann, &format!("SUBSCRIBE{many}"));
    assert!(world.told(ann).starts_with("-ERR breakwater: "), "{}", world.told(ann));
    assert!(world.told(ann).contains("listener.pubsub.subscriptions = 100000"));
    let long = "x".repeat(bounds.subscription_bytes);
    world.say(ann, &format!("SUBSCRIBE {long}"));
    assert!(world.told(ann).contains("listener.pubsub.subscription_bytes"));
    assert!(world.link.is_none() && world.rig.worker.links.is_empty(), "nobody was asked");
}

//! Any order of subscribing, leaving, publishing and losing the connection gives each client, byte
//! for byte, what a connection of its own would have given it.
//!
//! The node notes whose question each of its commands answers. From then on it knows who is to get
//! which message, as a Redis with a connection for each client would; what the link has received of
//! its bytes is what clients must have been told, no more and no less, in that order.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    /// A client subscribes, or unsubscribes, to these channels or patterns.
    Say { client: usize, begins: bool, kind: usize, topics: Vec<usize> },
    /// A client unsubscribes from everything of a kind.
    SayAll { client: usize, kind: usize },
    /// A client disconnects, and another one comes.
    Replace(usize),
    /// Somebody publishes.
    Publish(usize),
    /// The kernel takes what the link asks.
    Send,
    /// The node executes so many commands.
    Execute(usize),
    /// The link receives so many bytes.
    Receive(usize),
    /// The connection breaks, or is there again.
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    let topics = prop::collection::vec(0..3_usize, 1..3);
    prop_oneof![
        8 => (0..CLIENTS, any::<bool>(), 0..2_usize, topics).prop_map(
            |(client, begins, kind, topics)| Step::Say { client, begins, kind, topics }
        ),
        1 => (0..CLIENTS, 0..2_usize).prop_map(|(client, kind)| Step::SayAll { client, kind }),
        1 => (0..CLIENTS).prop_map(Step::Replace),
        8 => (0..3_usize).prop_map(Step::Publish),
        5 => Just(Step::Send),
        5 => (1..3_usize).prop_map(Step::Execute),
        6 => (1..80_usize).prop_map(Step::Receive),
        1 => Just(Step::Break),
    ]
}

/// Whose question a command of the link is.
struct Owner {
    session: Option<SessionId>,
    kind: Kind,
    names: Vec<Name>,
    /// The topics that its client leaves, if that is what it wants.
    leaves: Option<Vec<Name>>,
}

/// What the node has sent, in the order of its bytes.
enum Event {
    /// A frame for these clients.
    Message(Vec<SessionId>, Vec<u8>),
    /// A client's question is answered.
    Answered(SessionId, Kind, Vec<Name>, bool),
}

/// A client as it would be with a connection of its own.
#[derive(Default)]
struct Twin {
    /// Its topics as the node has executed its commands.
    claimed: HashSet<(usize, Vec<u8>)>,
    /// Its topics as it has been told, the oldest first.
    told: Vec<(usize, Vec<u8>)>,
    /// Everything that it must have been told.
    log: Vec<u8>,
}

struct Game {
    world: World,
    clients: Vec<SessionId>,
    twins: HashMap<SessionId, Twin>,
    /// Owners of the commands that the node has not executed.
    owners: VecDeque<Owner>,
    /// Events with the position behind their last byte.
    events: VecDeque<(u64, Event)>,
    /// Bytes that the node has sent on this connection.
    sent: u64,
    /// Bytes of them that the link has received.
    received: u64,
    is_open: bool,
}

// === impl Twin ===

impl Twin {
    /// Confirms as Redis does, with the count behind each topic.
    fn confirm(&mut self, kind: Kind, names: &[Name], begins: bool) {
        for name in names {
            let topic = (kind as usize, name.to_vec());
            if !begins {
                self.told.retain(|told| *told != topic);
            } else if !self.told.contains(&topic) {
                self.told.push(topic);
            }
            self.write(kind, Some(name), begins);
        }
        if names.is_empty() {
            self.write(kind, None, begins);
        }
    }

    fn write(&mut self, kind: Kind, name: Option<&[u8]>, begins: bool) {
        let word = if begins { kind.subscribe() } else { kind.unsubscribe() };
        let head = format!("*3\r\n${}\r\n{word}\r\n", word.len());
        let name = match name {
            Some(name) => format!("${}\r\n{}\r\n", name.len(), String::from_utf8_lossy(name)),
            None => "$-1\r\n".into(),
        };
        let count = self.told.len();
        self.log.extend_from_slice(format!("{head}{name}:{count}\r\n").as_bytes());
    }
}

// === impl Game ===

impl Game {
    fn new() -> Self {
        let mut game = Self {
            world: World::new(),
            clients: Vec::new(),
            twins: HashMap::new(),
            owners: VecDeque::new(),
            events: VecDeque::new(),
            sent: 0,
            received: 0,
            is_open: true,
        };
        for _ in 0..CLIENTS {
            game.connect();
        }
        game
    }

    fn connect(&mut self) {
        let id = self.world.client(Protocol::Resp2);
        self.clients.push(id);
        self.twins.insert(id, Twin::default());
    }

    fn play(&mut self, step: &Step) {
        match step {
            Step::Say { client, begins, kind, topics } => {
                let kind = Kind::ALL[*kind];
                let names = topics.iter().map(|&topic| match kind {
                    Kind::Pattern => ["a*", "?b", "[ab]c"][topic].as_bytes().into(),
                    _ => CHANNELS[topic].as_bytes().into(),
                });
                self.say(self.clients[*client], kind, names.collect(), *begins);
            }
            Step::SayAll { client, kind } => {
                self.say(self.clients[*client], Kind::ALL[*kind], Vec::new(), false);
            }
            Step::Replace(client) => {
                let id = self.clients.remove(*client);
                self.world.rig.leave(id);
                self.twins.remove(&id);
                self.connect();
            }
            Step::Publish(channel) => self.publish(CHANNELS[*channel].as_bytes()),
            Step::Send => self.send(),
            Step::Execute(most) => self.execute(*most),
            Step::Receive(most) => self.receive(*most),
            Step::Break => self.break_or_mend(),
        }
        self.check();
    }

    fn say(&mut self, client: SessionId, kind: Kind, names: Vec<Name>, begins: bool) {
        if self.world.rig.worker.sessions.get(client).unwrap().suspended {
            // With a connection of its own it could not be answered either.
            return;
        }
        let word = if begins { kind.subscribe() } else { kind.unsubscribe() };
        let all: Vec<&[u8]> =
            [word.as_bytes()].into_iter().chain(names.iter().map(|name| &**name)).collect();
        let mut bytes = Vec::new();
        write::command(&mut bytes, &all);
        self.world.rig.say(client, &bytes);
        self.world.dialled();
        // What needs no node is answered at once.
        let twin = self.twins.get_mut(&client).unwrap();
        let is_held = |name: &Name| twin.told.contains(&(kind as usize, name.to_vec()));
        let of_kind = twin.told.iter().any(|(it, _)| *it == kind as usize);
        let has_some = if names.is_empty() { of_kind } else { names.iter().any(is_held) };
        let needs_node = begins || (has_some && self.is_open);
        if !needs_node {
            let names = if names.is_empty() { self.all_of(client, kind) } else { names };
            let twin = self.twins.get_mut(&client).unwrap();
            twin.confirm(kind, &names, false);
            let topics = names.iter().map(|name| (kind as usize, name.to_vec()));
            for topic in topics {
                twin.claimed.remove(&topic);
            }
        }
    }

    /// A client's topics of a kind, the oldest first.
    fn all_of(&self, client: SessionId, kind: Kind) -> Vec<Name> {
        let told = self.twins[&client].told.iter().filter(|(it, _)| *it == kind as usize);
        told.map(|(_, name)| Name::from(&name[..])).collect()
    }

    fn publish(&mut self, channel: &[u8]) {
        let number = self.world.node.published.entry(channel.to_vec()).or_default();
        *number += 1;
        let text = number.to_string().into_bytes();
        for kind in [Kind::Channel, Kind::Pattern] {
            let topics: Vec<Vec<u8>> = self.world.node.topics[kind as usize]
                .iter()
                .filter(|topic| match kind {
                    Kind::Pattern => glob::matches(topic, channel),
                    _ => *topic == channel,
                })
                .cloned()
                .collect();
            for topic in topics {
                let bytes = match kind {
                    Kind::Pattern => frame(&[b"pmessage", &topic, channel, &text]),
                    _ => frame(&[b"message", channel, &text]),
                };
                let key = (kind as usize, topic);
                let whom = self.twins.iter().filter(|(_, twin)| twin.claimed.contains(&key));
                let whom = whom.map(|(id, _)| *id).collect();
                self.world.node.output.extend_from_slice(&bytes);
                self.sent += bytes.len() as u64;
                self.events.push_back((self.sent, Event::Message(whom, bytes)));
            }
        }
    }

    fn send(&mut self) {
        if self.world.link.is_none() || !self.is_open {
            return;
        }
        let owners = self.world.with_link(|_, link| {
            let fresh = link.asks.iter().filter(|ask| ask.end > link.send.sent());
            let owner = |ask: &Ask| Owner {
                session: ask.asker.as_ref().map(|asker| asker.session),
                kind: ask.kind,
                names: ask.names.clone(),
                leaves: ask.asker.as_ref().and_then(|asker| match &asker.want {
                    Want::Leave(_, names) => Some(names.clone()),
                    _ => None,
                }),
            };
            fresh.map(owner).collect::<Vec<_>>()
        });
        self.owners.extend(owners);
        self.world.send();
    }

    fn execute(&mut self, most: usize) {
        for _ in 0..most {
            let before = self.world.node.output.len();
            if self.world.node.input.is_empty() {
                return;
            }
            self.world.node.execute(1);
            self.sent += (self.world.node.output.len() - before) as u64;
            let owner = self.owners.pop_front().expect("each command has an owner");
            let Some(session) = owner.session else {
                continue;
            };
            let begins = owner.leaves.is_none();
            let names = owner.leaves.unwrap_or(owner.names);
            if let Some(twin) = self.twins.get_mut(&session) {
                for name in &names {
                    let topic = (owner.kind as usize, name.to_vec());
                    if begins {
                        twin.claimed.insert(topic);
                    } else {
                        twin.claimed.remove(&topic);
                    }
                }
            }
            let event = Event::Answered(session, owner.kind, names, begins);
            self.events.push_back((self.sent, event));
        }
    }

    fn receive(&mut self, most: usize) {
        if self.world.link.is_none() || !self.is_open {
            return;
        }
        let before = self.world.node.output.len();
        self.world.receive(most).expect("the node speaks rightly");
        self.received += (before - self.world.node.output.len()) as u64;
        while let Some((_, event)) = self.events.pop_front_if(|(end, _)| *end <= self.received) {
            match event {
                Event::Message(whom, mut bytes) => {
                    bytes[0] = b'*';
                    for id in whom {
                        if let Some(twin) = self.twins.get_mut(&id) {
                            twin.log.extend_from_slice(&bytes);
                        }
                    }
                }
                Event::Answered(id, kind, names, begins) => {
                    if let Some(twin) = self.twins.get_mut(&id) {
                        twin.confirm(kind, &names, begins);
                    }
                }
            }
        }
    }

    fn break_or_mend(&mut self) {
        if self.world.link.is_none() {
            return;
        }
        self.is_open = !self.is_open;
        if self.is_open {
            self.world.open();
            return;
        }
        // What was asked to be left is left; what was asked to begin has not begun.
        let leaving: Vec<(SessionId, Kind, Vec<Name>)> = self.world.with_link(|_, link| {
            let askers = link.asks.iter().filter_map(|ask| ask.asker.as_ref());
            let leaving = askers.filter_map(|asker| match &asker.want {
                Want::Leave(kind, names) => Some((asker.session, *kind, names.clone())),
                _ => None,
            });
            leaving.collect()
        });
        self.world.lose();
        (self.sent, self.received) = (0, 0);
        self.events.clear();
        self.owners.clear();
        for (id, kind, names) in leaving {
            if let Some(twin) = self.twins.get_mut(&id) {
                twin.confirm(kind, &names, false);
            }
        }
        for twin in self.twins.values_mut() {
            twin.claimed = twin.told.iter().cloned().collect();
        }
    }

    fn check(&self) {
        for (id, twin) in &self.twins {
            let (told, want) = (self.world.rig.owed(*id), &twin.log);
            assert_eq!(told.escape_ascii().to_string(), want.escape_ascii().to_string());
        }
    }

    /// Everything arrives, everybody leaves, and nothing may be left.
    fn finish(mut self) {
        if self.world.link.is_none() {
            return;
        }
        if !self.is_open {
            self.break_or_mend();
        }
        for _ in 0..100 {
            self.send();
            self.execute(usize::MAX);
            self.receive(usize::MAX);
        }
        self.check();
        for id in std::mem::take(&mut self.clients) {
            self.world.rig.leave(id);
        }
        self.world.settle();
        self.world.ends_empty();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn each_client_gets_what_a_connection_of_its_own_would_give_it(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut game = Game::new();
        for step in &steps {
            game.play(step);
        }
        game.finish();
    }
}

const CLIENTS: usize = 4;
/// Two of them match more than one of the patterns.
const CHANNELS: [&str; 3] = ["ab", "ac", "bb"];

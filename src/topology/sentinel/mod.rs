//! Following a master through its Sentinels: who it is, and who it becomes.
//!
//! Owns the follower, which runs for as long as its deployment is the published one: it watches all
//! Sentinels, those it was told of and those that they tell of, asks whoever they name for its ROLE,
//! and publishes that node only then. Never carries a client's command, never votes, never changes a
//! Sentinel.
//!
//! What surprises: what has been verified stays in use until somebody else has been. Sentinels that
//! cannot be reached, that disagree, or that have forgotten change nothing; they are spoken of.

mod act;
pub mod decision;
pub mod event;
pub mod group;
pub mod outlook;
pub mod primary;
pub mod report;
mod speak;
pub mod truth;
pub mod verify;
pub mod watcher;

pub use speak::SOURCE;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use super::cluster::directory::Directory;
use crate::admin::Readiness;
use crate::clock::{self, MILLISECOND, Micros, SECOND};
use crate::config::{Endpoint, SentinelSettings, UpstreamSettings};
use crate::topology::slots::NodeId;
use crate::upstream::dial::{DialError, Node};
use crate::worker::Shared;
use decision::{Announcement, Claim};
use event::Event;
use group::{Member, Standing};
use outlook::Outlook;
use primary::{Contact, Role, Told};
use report::Answer;
use truth::Patience;
use watcher::{News, Watcher};

/// Follows the master that is published as the upstream, until it is dropped.
pub async fn follow(shared: Arc<Shared>, readiness: Arc<Readiness>) -> Infallible {
    let settings = shared.topology.load().node.settings.sentinel.clone();
    let Some(settings) = settings else {
        // Whoever calls has looked.
        return std::future::pending().await;
    };
    let mut follower = Follower::new(shared, readiness, settings);
    loop {
        follower.step().await;
    }
}

/// Whatever comes in.
#[derive(Debug)]
pub enum Heard {
    /// From a Sentinel.
    Sentinel(Arc<Node>, News),
    /// From the control connection of that number.
    Node(u64, Told),
    /// What a node at this address, asked once, says that it is; `None`: nothing.
    Probed(Endpoint, Option<Role>),
}

/// What is kept from one step to the next.
struct Follower {
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    settings: SentinelSettings,
    /// What was published last by this follower; when another deployment is published nothing is
    /// published any more.
    epoch: u64,
    /// Where everybody's words arrive.
    heard: mpsc::Receiver<Heard>,
    tell: mpsc::Sender<Heard>,
    /// By address.
    sentinels: BTreeMap<String, Acquaintance>,
    /// What all Sentinels have in common, their password among it.
    sentinel_model: Arc<Node>,
    /// Nodes for the addresses of Sentinels.
    sentinel_nodes: Directory,
    /// Nodes for those of masters.
    nodes: Directory,
    /// Who is in use.
    primary: Option<Primary>,
    /// Who is being asked whether it is a master.
    candidate: Option<Candidate>,
    /// The number of the newest control connection.
    serial: u64,
    /// The newest switch that was announced, until it has been followed, and until when it counts.
    announced: Option<(Announcement, Micros)>,
    outlook: Outlook,
    /// Whom a majority names although that would be a step back.
    forgotten: Option<Claim>,
    /// Those that were in use before, and until when they are looked after.
    former: VecDeque<(Endpoint, Micros)>,
    /// Those that say that they are masters beside the one in use, and since when they have said
    /// nothing else.
    rivals: BTreeMap<String, Micros>,
    /// When rivals are looked for again.
    probe_at: Micros,
    /// What the primary wants of its replicas.
    min_replicas: Option<u64>,
    /// When the first Sentinel answered.
    first_answer: Option<Micros>,
    /// Until when polls are frequent whatever is said.
    suspicious_until: Micros,
    patience: Patience,
    /// Once a second.
    tick: Interval,
}

/// A Sentinel, and what is known of it.
struct Acquaintance {
    watcher: Watcher,
    member: Member,
    is_seed: bool,
}

/// The verified primary.
struct Primary {
    claim: Claim,
    contact: Contact,
    condition: Condition,
}

/// How the primary is.
#[derive(Debug)]
enum Condition {
    /// It was verified when it was chosen, and its own connection is being made.
    Dialling,
    /// It is a master.
    Up,
    /// It says that it is none.
    Demoted,
    /// It cannot be asked, since then.
    Lost(Micros, DialError),
}

/// Somebody who was named.
struct Candidate {
    claim: Claim,
    is_new_generation: bool,
    contact: Contact,
    /// Why it cannot be used yet, in words.
    trouble: Option<String>,
}

// === impl Follower ===

impl Follower {
    /// Begins with what is published: after a reload that is a verified node, otherwise a name.
    fn new(shared: Arc<Shared>, readiness: Arc<Readiness>, settings: SentinelSettings) -> Self {
        let topology = shared.topology.load_full();
        let (tell, heard) = mpsc::channel(HEARD_MAX);
        let model = model_of_sentinels(&topology.node, &settings);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut follower = Self {
            epoch: topology.epoch,
            heard,
            tell,
            sentinels: BTreeMap::new(),
            sentinel_nodes: Directory::new(&model, []),
            sentinel_model: model,
            nodes: Directory::new(&topology.node, []),
            primary: None,
            candidate: None,
            serial: 0,
            announced: None,
            outlook: Outlook::default(),
            forgotten: None,
            former: VecDeque::new(),
            rivals: BTreeMap::new(),
            probe_at: 0,
            min_replicas: None,
            first_answer: None,
            suspicious_until: clock::micros() + CALM_AFTER,
            patience: Patience::default(),
            tick,
            settings,
            shared,
            readiness,
        };
        // What another kind of deployment left behind.
        follower.readiness.set_notes(Vec::new());
        let verified = topology.group.as_ref().and_then(|group| group.primary.clone());
        match verified {
            Some(claim) => {
                let contact = follower.contact(&topology.node);
                follower.primary = Some(Primary { claim, contact, condition: Condition::Dialling });
            }
            // Commands may wait: somebody is expected.
            None => follower.outlook.begin(clock::micros()),
        }
        follower.publish_outlook();
        follower
    }

    /// Waits for something to happen, and acts on all that has.
    async fn step(&mut self) {
        self.keep_watchers();
        let mut is_tick = false;
        tokio::select! {
            heard = self.heard.recv() => {
                if let Some(heard) = heard {
                    self.note(heard);
                }
            }
            _ = self.tick.tick() => is_tick = true,
        }
        // Several answers make one decision.
        for _ in 0..HEARD_MAX {
            let Ok(heard) = self.heard.try_recv() else { break };
            self.note(heard);
        }
        self.act(clock::micros());
        self.speak();
        if is_tick {
            // A password file may have been replaced.
            self.sentinel_model.deployment.keyring.look();
            self.look_for_rivals();
            self.report();
        }
    }

    fn note(&mut self, heard: Heard) {
        match heard {
            Heard::Sentinel(node, news) => self.note_news(&node, news),
            Heard::Node(serial, told) => self.note_told(serial, told),
            Heard::Probed(endpoint, role) => self.note_probed(&endpoint, role.as_ref()),
        }
    }

    /// Something has come from a Sentinel, which may have been given up meanwhile.
    fn note_news(&mut self, node: &Arc<Node>, news: News) {
        let now = clock::micros();
        let Some(acquaintance) = self.sentinels.get_mut(&node.name) else {
            return;
        };
        let member = &mut acquaintance.member;
        match news {
            News::Polled(answer) => {
                self.first_answer.get_or_insert(now);
                member.standing = match answer {
                    Answer::Watches(report) => Standing::Watches(report),
                    Answer::KnowsNone => Standing::KnowsNone,
                    Answer::Refuses(words) => Standing::Refuses(words),
                };
            }
            News::Surveyed(survey) => {
                member.id = survey.id;
                member.peers = survey.peers;
                member.no_quorum = survey.no_quorum;
                member.claimants = survey.claimants;
            }
            News::Subscribed(is_subscribed) => member.is_subscribed = is_subscribed,
            News::Lost(error) => {
                member.standing = Standing::Lost(format!("{}: {}", error.cause(), error.text));
            }
            News::Announced(event) => self.note_event(&node.name, event, now),
        }
    }

    /// A Sentinel announces something: the others are asked as well, in case theirs was lost.
    fn note_event(&mut self, from: &str, event: Event, now: Micros) {
        self.outlook.note(&event, now);
        self.suspicious_until = now + CALM_AFTER;
        for (name, acquaintance) in &self.sentinels {
            // What concerns a Sentinel or a replica changes who sees whom.
            if event == Event::Other {
                acquaintance.watcher.hurry_with_survey();
            } else if name != from {
                acquaintance.watcher.hurry();
            }
        }
        if let Event::Switched { from, to } = event {
            self.announced = Some((Announcement { from, to }, clock::micros() + ANNOUNCED_FOR));
        }
    }

    /// Something has come over a control connection.
    fn note_told(&mut self, serial: u64, told: Told) {
        let now = clock::micros();
        if self.candidate.as_ref().is_some_and(|it| it.contact.serial == serial) {
            return self.note_candidate(told);
        }
        let Some(primary) = self.primary.as_mut().filter(|it| it.contact.serial == serial) else {
            return;
        };
        match told {
            Told::Role(Role::Master | Role::Mute) => {
                let before = std::mem::replace(&mut primary.condition, Condition::Up);
                if matches!(before, Condition::Lost(..) | Condition::Demoted) {
                    self.outlook.end();
                    self.publish_recovery();
                }
            }
            Told::Role(Role::Replica) => {
                if !matches!(primary.condition, Condition::Demoted) {
                    primary.condition = Condition::Demoted;
                    // Whoever was told to step back was told so for somebody else.
                    self.outlook.begin(now);
                    self.alarm(now);
                }
            }
            // Alive: what it is was known before, and is asked again soon.
            Told::Role(Role::Busy(_)) => {}
            Told::Learnt(learnt) => self.publish_learnt(*learnt),
            Told::MinReplicas(least) => self.min_replicas = least,
            Told::Lost(error) => {
                let since = match primary.condition {
                    Condition::Lost(since, _) => since,
                    _ => now,
                };
                primary.condition = Condition::Lost(since, error);
                self.alarm(now);
            }
        }
    }

    /// Everybody is asked at once, and often for a while.
    fn alarm(&mut self, now: Micros) {
        self.suspicious_until = self.suspicious_until.max(now + CALM_AFTER);
        self.sentinels.values().for_each(|it| it.watcher.hurry());
    }

    /// Two connections to each Sentinel: the seeds, whatever becomes of them, and those that a
    /// reachable one knows.
    fn keep_watchers(&mut self) {
        let mut wanted: Vec<Endpoint> =
            self.settings.seeds.iter().take(SEEDS_MAX).cloned().collect();
        let reachable = || self.sentinels.values().filter(|it| it.member.is_reachable());
        for peer in reachable().flat_map(|it| &it.member.peers) {
            // A seed may be known to the others by another address.
            let is_seed = reachable().any(|it| {
                it.is_seed
                    && it.member.id.as_ref() == Some(&peer.id)
                    && it.member.address != peer.address
            });
            if !is_seed && !wanted.contains(&peer.address) && wanted.len() < SENTINELS_MAX {
                wanted.push(peer.address.clone());
            }
        }
        // While nobody answers, those that were known are as good as any.
        if reachable().next().is_some() {
            self.sentinels.retain(|_, it| wanted.contains(&it.member.address));
        }
        for address in wanted {
            let name = address.to_string();
            if self.sentinels.contains_key(&name) {
                continue;
            }
            let Some(node) = self.sentinel_nodes.node(&address) else { continue };
            let watcher = Watcher::open(&node, &self.settings.master_name, &self.tell);
            let is_seed = self.settings.seeds.contains(&address);
            let acquaintance = Acquaintance { watcher, member: Member::new(address), is_seed };
            self.sentinels.insert(name, acquaintance);
        }
    }

    /// A control connection of its own number.
    fn contact(&mut self, node: &Arc<Node>) -> Contact {
        self.serial += 1;
        Contact::open(node, self.serial, &self.shared, &self.tell)
    }
}

/// What all Sentinels have in common: the clocks and the TLS of the upstream, and credentials of
/// their own.
fn model_of_sentinels(node: &Node, sentinels: &SentinelSettings) -> Arc<Node> {
    let settings = UpstreamSettings {
        endpoint: Endpoint::Elected(sentinels.master_name.clone()),
        sentinel: None,
        credentials: sentinels.credentials.clone(),
        ..node.settings.clone()
    };
    Arc::new(Node::new(NodeId::default(), settings, node.tls.clone()))
}

/// How often gauges and findings are brought up to date.
const TICK: Duration = Duration::from_secs(1);
/// Words that wait to be heard; whoever speaks then waits.
const HEARD_MAX: usize = 64;
/// Most seeds.
const SEEDS_MAX: usize = 16;
/// Most Sentinels that are watched.
const SENTINELS_MAX: usize = 32;
/// How long polls stay frequent after an announcement or a loss.
const CALM_AFTER: Micros = 10 * SECOND;
/// How long an announcement counts that no majority has confirmed.
const ANNOUNCED_FOR: Micros = 15 * SECOND;
/// How long the first to answer waits for the others to be heard before anybody is chosen.
const SETTLES_WITHIN: Micros = 500 * MILLISECOND;

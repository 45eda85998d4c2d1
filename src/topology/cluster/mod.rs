//! Following a Redis Cluster: who is there, who serves which slot, and who is well.
//!
//! Owns the follower, which runs for as long as its deployment is the published one: it keeps a
//! control connection to each member, asks some of them for their view when there is reason to, and
//! publishes what follows from the answers. Never carries a client's command, and never stands in
//! its way: a redirect mends its slot at once, without us.
//!
//! What surprises: seeds are used again whenever no member answers. A cluster may have moved to
//! other addresses behind the same names, and a process must survive that without a restart.

pub mod ask;
pub mod census;
pub mod contact;
pub mod directory;
pub mod freshness;
pub mod nodes;
pub mod pace;
pub mod picture;
mod publish;
mod rounds;
pub mod shards;
mod standing;
mod succession;
pub mod survey;
pub mod verify;
pub mod view;

pub use publish::SOURCE;

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior, sleep};
use tracing::debug;

use super::Topology;
use super::facts::Learnt;
use super::slots::{MemberRole, NodeId, SlotMap};
use crate::admin::Readiness;
use crate::clock::{self, Micros};
use crate::config::Endpoint;
use crate::events;
use crate::random;
use crate::stats::control;
use crate::stats::labels::{RefreshOutcome, RefreshTrigger};
use crate::upstream::dial::Node;
use crate::worker::Shared;
use ask::Places;
use contact::Contact;
use directory::Directory;
use freshness::History;
use pace::Pace;
use picture::{Answer, Picture, Unusable};
use rounds::Rounds;

/// Follows the cluster that is published as the upstream, until it is dropped.
pub async fn follow(shared: Arc<Shared>, readiness: Arc<Readiness>) -> Infallible {
    let mut follower = Follower::new(shared, readiness);
    loop {
        follower.step().await;
    }
}

/// What is kept from one step to the next.
struct Follower {
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    /// The deployment that is followed; when another one is published nothing is published any
    /// more.
    epoch: u64,
    seeds: Vec<Endpoint>,
    directory: Directory,
    /// By the number of the node.
    contacts: BTreeMap<NodeId, Acquaintance>,
    /// Notified by contacts whose standing has changed.
    changed: Rc<Notify>,
    places: Places,
    pace: Pace,
    /// Once a second.
    tick: Interval,
    /// More often, while something is amiss.
    glance: Interval,
    /// The node whose facts were published.
    learnt_of: Option<NodeId>,
    /// The node that is being asked for its facts.
    learning: Option<(Arc<Node>, oneshot::Receiver<Learnt>)>,
    /// Who says that it has taken over from a lost primary: it is asked first.
    heir: Option<NodeId>,
    /// When all nodes were asked last, because some did not know the others.
    assembled_at: Micros,
    rounds: Rounds,
}

/// A contact and how it was when we looked last.
struct Acquaintance {
    contact: Rc<Contact>,
    was_up: bool,
    /// Whether it has been lost, or could not be made, since it was well.
    was_down: bool,
    /// What was seen at the last glance.
    sight: Option<Vec<u8>>,
    /// Since when it does not answer, as a primary.
    lost_at: Option<Micros>,
    /// What it has had as a primary.
    history: History,
}

// === impl Follower ===

impl Follower {
    /// Begins with what is published: after a reload that may be a whole map, otherwise only the
    /// first seed.
    fn new(shared: Arc<Shared>, readiness: Arc<Readiness>) -> Self {
        let topology = shared.topology.load_full();
        let settings = &topology.node.settings;
        let members = topology.slots.iter().flat_map(|map| map.members.iter());
        let directory = Directory::new(&topology.node, members.map(|member| &member.node));
        Self {
            epoch: topology.epoch,
            seeds: settings.cluster.as_ref().map(|it| it.seeds.clone()).unwrap_or_default(),
            directory,
            contacts: BTreeMap::new(),
            changed: Rc::default(),
            places: Places::default(),
            pace: Pace::new(clock::micros()),
            tick: interval(TICK),
            glance: interval(GLANCE),
            learnt_of: topology.facts.is_some().then_some(topology.node.id),
            learning: None,
            heir: None,
            assembled_at: 0,
            rounds: Rounds::default(),
            shared,
            readiness,
        }
    }

    /// Waits for the next event, and acts on it.
    async fn step(&mut self) {
        self.keep_contacts();
        self.keep_learning();
        // Events may come faster than this; each goes through here, so that contacts follow the
        // newest map.
        let pause = Duration::from_micros(self.pace.due().saturating_sub(clock::micros()));
        tokio::select! {
            // One is enough; what comes until then is the same wish.
            () = self.shared.map_is_old.notified(), if !self.pace.is_wanted() => {
                self.pace.want(RefreshTrigger::Sign);
            }
            () = self.shared.stranger_named.notified() => {
                self.pace.hurry(RefreshTrigger::Sign, clock::micros());
            }
            () = self.changed.notified() => self.note_standings(),
            learnt = received(&mut self.learning) => self.note_learnt(learnt),
            _ = self.tick.tick() => {
                self.lost_primaries();
                self.report();
                self.publish_corrections();
                self.judge_replicas();
                self.glance().await;
                self.go_round().await;
            }
            _ = self.glance.tick(), if self.is_anxious() => {
                self.expect_successors().await;
                self.glance().await;
            }
            // Without a node that could be asked there is no point in being due.
            () = sleep(pause), if self.contacts.values().any(Acquaintance::can_tell) => {
                self.refresh().await;
            }
        }
    }

    /// The map in force; an empty one if the deployment is another one.
    fn map(&self) -> Arc<SlotMap> {
        let topology = self.shared.topology.load();
        match &topology.slots {
            Some(map) if topology.epoch == self.epoch => Arc::clone(map),
            _ => Arc::new(SlotMap::empty()),
        }
    }

    /// A connection to each member, primaries first; and to the seeds while no member answers.
    fn keep_contacts(&mut self) {
        let map = self.map();
        // Replicas too: when all primaries are lost, only they can tell who takes over.
        let replicas = map.members.iter().filter(|member| member.role == MemberRole::Replica);
        let members = map.members.primaries().chain(replicas).take(CONTACTS_MAX);
        let mut wanted: Vec<Arc<Node>> = members.map(|member| Arc::clone(&member.node)).collect();
        let is_up =
            |node: &Arc<Node>| self.contacts.get(&node.id).is_some_and(|it| it.contact.is_up());
        // Also before there is a map, and each time that all members fall silent at once.
        if !wanted.iter().any(is_up) {
            let seeds = self.seeds.iter().take(SEEDS_MAX);
            wanted.extend(seeds.filter_map(|seed| self.directory.node(seed)));
        }
        let ids: HashSet<NodeId> = wanted.iter().map(|node| node.id).collect();
        // Who has left is not dialled any more: its address may be somebody else's tomorrow.
        self.contacts.retain(|id, _| ids.contains(id));
        for node in &wanted {
            let open = || Acquaintance {
                contact: Rc::new(Contact::open(node, &self.shared, &self.changed)),
                was_up: false,
                was_down: false,
                sight: None,
                lost_at: None,
                history: History::default(),
            };
            let acquaintance = self.contacts.entry(node.id).or_insert_with(open);
            let member = map.members.get(node.id);
            let is_primary = member.is_some_and(|member| member.role == MemberRole::Primary);
            acquaintance.contact.set_primary(is_primary);
        }
    }

    /// Asks some nodes, and publishes what follows.
    async fn refresh(&mut self) {
        let began = clock::micros();
        let at_once = self.pace.asked_at_once();
        let trigger = self.pace.begin(began, random::any());
        // A sign that was given before the question is answered by it.
        tokio::select! {
            biased;
            () = self.shared.map_is_old.notified() => {}
            () = std::future::ready(()) => {}
        }
        let outcome = match self.compose(began, trigger, at_once).await {
            Ok(picture) => {
                self.note_generation(&picture);
                control::slots_uncovered(picture.unclaimed());
                if self.publish(&picture) { RefreshOutcome::Changed } else { RefreshOutcome::Same }
            }
            Err(unusable) => {
                events::map_not_refreshed(unusable.words());
                unusable.outcome()
            }
        };
        control::map_refreshed(trigger, outcome);
        debug!(?trigger, ?outcome, version = self.map().version, "slot map refreshed");
        // Nothing usable came: whoever wanted it still does. The pace sees to it that this does not
        // become a storm.
        let has_failed = !matches!(outcome, RefreshOutcome::Changed | RefreshOutcome::Same);
        self.pace.end(outcome == RefreshOutcome::Changed);
        if has_failed {
            self.pace.want(RefreshTrigger::Retry);
        }
        self.report();
    }

    /// A node or two are asked, another one if they do not agree, and all if one of them knows
    /// nobody that we know.
    async fn compose(
        &mut self,
        began: Micros,
        trigger: RefreshTrigger,
        at_once: usize,
    ) -> Result<Picture, Unusable> {
        let heir = self.heir.take().filter(|id| self.contacts.contains_key(id));
        let mut asked = heir.map_or_else(|| self.pick(&[], at_once), |heir| vec![heir]);
        let mut answers = self.ask(&asked, trigger).await;
        let map = self.map();
        // One node that was reset and left alone must not make us ask everybody each time.
        let is_due = began >= self.assembled_at + ASSEMBLE_EVERY || self.assembled_at == 0;
        if is_due && picture::has_stranger(&answers, &map) {
            self.assembled_at = began;
            let everybody = self.pick(&asked, ASSEMBLED_MAX);
            answers.extend(self.ask(&everybody, trigger).await);
            asked.extend(everybody);
        }
        for third in self.still_to_be_heard(&answers, &asked, &map) {
            answers.extend(self.ask(&[third], trigger).await);
            asked.push(third);
        }
        answers.iter().for_each(|answer| self.rounds.survey.note(&answer.view, &map));
        // Who was asked and is silent is as good as away, though its connection still stands.
        let spoke: HashSet<NodeId> = answers.iter().map(|answer| answer.from).collect();
        let contacts = &self.contacts;
        let is_away = |id: NodeId| {
            let can_tell = contacts.get(&id).is_some_and(Acquaintance::can_tell);
            !can_tell || (asked.contains(&id) && !spoke.contains(&id))
        };
        Picture::compose(&answers, &map, &mut self.directory, began, is_away)
    }

    /// Who is asked as well before `answers` are weighed.
    fn still_to_be_heard(
        &mut self,
        answers: &[Answer],
        asked: &[NodeId],
        map: &SlotMap,
    ) -> Vec<NodeId> {
        let can_tell = |id: &NodeId| self.contacts.get(id).is_some_and(Acquaintance::can_tell);
        // Whom the others speak against is heard itself. Its own word may be that it serves the
        // slot (then the others are behind), or that it does not.
        let third = match picture::witness(answers, map).filter(|id| self.contacts.contains_key(id))
        {
            None if picture::is_divided(answers) => self.pick(asked, 1).pop(),
            witness => witness,
        };
        // The one that was forgotten is asked beyond the ration: without it a living primary would be dropped, and
        // that costs its clients more than a question costs the cluster.
        let third = third.filter(|_| self.pace.may_spend(clock::micros()));
        let forgotten = picture::forgotten(answers, map).filter(can_tell);
        // Chance may have picked the very one that was forgotten.
        let forgotten = forgotten.filter(|id| !asked.contains(id) && third != Some(*id));
        third.into_iter().chain(forgotten).collect()
    }

    /// So many nodes that could tell something, at random, and none of `besides`.
    fn pick(&self, besides: &[NodeId], count: usize) -> Vec<NodeId> {
        let able = self.contacts.iter().filter(|(id, it)| it.can_tell() && !besides.contains(id));
        // At random: whoever is asked first every time would be asked by the whole fleet.
        let mut able: Vec<NodeId> = able.map(|(id, _)| *id).collect();
        let mut picked = Vec::new();
        while picked.len() < count && !able.is_empty() {
            let place = usize::try_from(random::any() % able.len() as u64).unwrap_or_default();
            picked.push(able.swap_remove(place));
        }
        picked
    }

    /// The views of those nodes that answer in time.
    async fn ask(&mut self, ids: &[NodeId], trigger: RefreshTrigger) -> Vec<Answer> {
        let contacts: Vec<&Contact> =
            ids.iter().filter_map(|id| Some(&*self.contacts.get(id)?.contact)).collect();
        // Counted even where the budget is gone: assembling all nodes is worth more than it.
        for _ in &contacts {
            self.pace.spend(clock::micros());
        }
        let mut answers = Vec::new();
        let mut is_learnt = trigger != RefreshTrigger::Period;
        for (place, view) in ask::views_of(&contacts).await {
            let Some(contact) = contacts.get(place) else { continue };
            let view = match view {
                Some(mut view) => {
                    // Once a refresh is enough, whoever of those who answer is asked.
                    if !is_learnt || self.places.is_old_for(&view) {
                        is_learnt = true;
                        self.pace.spend(clock::micros());
                        self.places.learn(&view, ask::places_of(contact).await);
                    }
                    self.places.lay_over(&mut view);
                    Some(view)
                }
                // CLUSTER NODES is not permitted: without epochs, but better than nothing.
                None => ask::places_of(contact).await,
            };
            answers.extend(view.map(|view| Answer { from: contact.node.id, view }));
        }
        answers
    }

    /// A reset cluster is followed like any other change, but somebody should know: its data is
    /// gone.
    fn note_generation(&self, picture: &Picture) {
        if picture.is_new_generation() {
            control::generation_changed();
            events::generation_changed();
        }
    }
}

// === impl Acquaintance ===

impl Acquaintance {
    /// Whether questions about the cluster make sense.
    fn can_tell(&self) -> bool {
        self.contact.is_up() && !self.contact.is_stranger()
    }
}

/// What is being learnt, when it has come; never, if nothing is.
async fn received(
    learning: &mut Option<(Arc<Node>, oneshot::Receiver<Learnt>)>,
) -> Option<(Arc<Node>, Learnt)> {
    let Some((node, answer)) = learning else {
        return std::future::pending().await;
    };
    let (node, learnt) = (Arc::clone(node), answer.await);
    *learning = None;
    Some((node, learnt.ok()?))
}

/// A clock that forgets what it missed.
fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// How often readiness and gauges are brought up to date without an event.
const TICK: Duration = Duration::from_secs(1);
/// How often a node is glanced at while something is amiss.
const GLANCE: Duration = Duration::from_millis(100);
/// Most members with a control connection.
const CONTACTS_MAX: usize = 256;
/// Most seeds that are dialled at a time.
const SEEDS_MAX: usize = 16;
/// Nodes that are asked in addition to see which cluster has the majority.
const ASSEMBLED_MAX: usize = 16;
/// Shortest time between two such questions.
const ASSEMBLE_EVERY: Micros = clock::SECOND;

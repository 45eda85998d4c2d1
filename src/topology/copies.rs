//! The replicas of one primary, where no cluster names them: who they are, and how far behind.
//!
//! Owns a control connection to each replica that the primary names in ROLE, the comparison with what
//! the primary had, and their place in the published picture. Only while a keyspace lets a replica
//! serve reads; otherwise nobody is dialled. It also passes on, whatever kind of upstream there is,
//! what keyspaces want to be known. Never decides who is the primary and never sends a client's
//! command.
//!
//! What surprises: while the primary is away its list stands, because nobody else has a better one.
//! So a proxy that starts during an outage knows no replica of a single Redis.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::Topology;
use super::cluster::contact::data;
use super::cluster::directory::Directory;
use super::cluster::freshness::{Data, History};
use super::facts::ask;
use super::pulse::{Pulse, Roll};
use crate::clock::{self, Micros, SECOND};
use crate::stats::labels::ErrorClass;
use crate::topology::slots::NodeId;
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::worker::Shared;

/// Looks after the replicas of the published primary for as long as its deployment is published.
pub async fn follow(shared: Arc<Shared>) -> Infallible {
    let mut follower: Option<Follower> = None;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let topology = shared.topology.load_full();
        let policy = shared.policy.load();
        let wishes = policy.keyspaces().map(|it| it.wishes()).unwrap_or_default();
        drop(policy);
        topology.node.deployment.wish(wishes);
        // A cluster's follower knows the replicas already and compares them itself.
        let Some(lag) = wishes.lag.filter(|_| topology.slots.is_none()) else {
            if let Some(follower) = &mut follower {
                follower.rest();
            }
            publish(&shared, &topology, &[]);
            continue;
        };
        let is_current = |follower: &Follower| Arc::ptr_eq(&follower.primary, &topology.node);
        if !follower.as_ref().is_some_and(is_current) {
            follower = Some(Follower::new(&shared, &topology.node));
        }
        if let Some(follower) = &mut follower {
            follower.look(lag, clock::micros());
            publish(&shared, &topology, &follower.nodes());
        }
    }
}

/// Puts these replicas into the picture, unless it has changed meanwhile: then they wait for the next
/// look.
fn publish(shared: &Shared, seen: &Arc<Topology>, replicas: &[Arc<Node>]) {
    let is_same = seen.replicas.len() == replicas.len()
        && seen.replicas.iter().zip(replicas).all(|(one, other)| Arc::ptr_eq(one, other));
    if is_same {
        return;
    }
    let replicas: Arc<[Arc<Node>]> = replicas.into();
    shared.topology.rcu(|current| match Arc::ptr_eq(&current.node, &seen.node) {
        true => Arc::new(Topology { replicas: Arc::clone(&replicas), ..Topology::clone(current) }),
        false => Arc::clone(current),
    });
}

/// Looks after the replicas of one primary.
struct Follower {
    shared: Arc<Shared>,
    primary: Arc<Node>,
    directory: Directory,
    /// By number.
    contacts: BTreeMap<NodeId, Contact>,
    history: History,
    /// When the list that is followed was told.
    told_at: Micros,
}

/// A control connection to a replica. Dropping it ends the connection.
struct Contact {
    node: Arc<Node>,
    /// What it said last of its data, and when; `None`: it does not answer.
    data: Rc<Known>,
    task: AbortHandle,
}

/// What a replica said last of its data, and when.
type Known = Cell<Option<(Data, Micros)>>;

// === impl Follower ===

impl Follower {
    fn new(shared: &Arc<Shared>, primary: &Arc<Node>) -> Self {
        Self {
            shared: Arc::clone(shared),
            primary: Arc::clone(primary),
            directory: Directory::new(primary, []),
            contacts: BTreeMap::new(),
            history: History::default(),
            told_at: 0,
        }
    }

    /// Follows the newest list, and compares everybody on it with the primary. An older list is what
    /// a connection left behind that is gone by now; it says nothing that is not known.
    fn look(&mut self, lag: Micros, now: Micros) {
        let roll = self.primary.roll.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(roll) = roll.filter(|roll| roll.at > self.told_at) {
            self.told_at = roll.at;
            self.history.note(roll.at, roll.offset, lag);
            self.keep_contacts(&roll);
        }
        for contact in self.contacts.values() {
            let fresh =
                contact.data.get().filter(|(_, at)| now.saturating_sub(*at) < TOLD_LONG_AGO);
            self.history.judge(&contact.node, fresh.map(|(data, _)| data), now);
        }
    }

    /// Nobody wants to know any more. The numbers of addresses stay: lanes to them may still be open, and are found by
    /// number when somebody wants to know again.
    fn rest(&mut self) {
        self.contacts.clear();
        self.history = History::default();
        self.told_at = 0;
    }

    fn keep_contacts(&mut self, roll: &Roll) {
        let wanted: Vec<Arc<Node>> =
            roll.replicas.iter().filter_map(|address| self.directory.node(address)).collect();
        // Who has left the list is not dialled any more: its address may be somebody else's tomorrow.
        // Who merely reconnects is back within a moment, and is missed by nobody meanwhile.
        self.contacts.retain(|id, _| wanted.iter().any(|node| node.id == *id));
        for node in wanted {
            let open = || Contact::open(&node, &self.shared);
            self.contacts.entry(node.id).or_insert_with(open);
        }
    }

    /// Those that are looked after.
    fn nodes(&self) -> Vec<Arc<Node>> {
        self.contacts.values().map(|contact| Arc::clone(&contact.node)).collect()
    }
}

// === impl Contact ===

impl Contact {
    fn open(node: &Arc<Node>, shared: &Arc<Shared>) -> Self {
        let data = Rc::new(Cell::new(None));
        let task = run(Arc::clone(node), Arc::clone(shared), Rc::clone(&data));
        let task = tokio::task::spawn_local(task).abort_handle();
        Self { node: Arc::clone(node), data, task }
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        self.task.abort();
        self.node.freshness.note(None, false, 0);
    }
}

/// The connection's end of it, until it is aborted.
async fn run(node: Arc<Node>, shared: Arc<Shared>, known: Rc<Known>) {
    let mut pulse = Pulse::of(&node, false, ROLE_EVERY);
    loop {
        // Without an error its name leads elsewhere: that is dialled at once.
        let result = converse(&node, &shared, &mut pulse, &known).await;
        known.set(None);
        if let Err(error) = result {
            pulse.lost(&error);
        }
    }
}

/// One connection, from the dial to its loss.
async fn converse(
    node: &Arc<Node>,
    shared: &Shared,
    pulse: &mut Pulse,
    known: &Known,
) -> Result<(), DialError> {
    let mut exchange = pulse.connect(&Purpose::control("breakwater:control")).await?;
    loop {
        let beat = pulse.beat(&mut exchange).await?;
        if beat.was_asked_role {
            let told = beat.role.as_ref().and_then(data);
            known.set(told.map(|data| (data, clock::micros())));
        }
        if beat.error == Some(ErrorClass::Noauth)
            && let Some(presented) = shared.identities.any()
        {
            // As with the primary, a client that has proven a name lends it.
            let auth: [&[u8]; 3] = [b"AUTH", presented.user(), &presented.password];
            pulse.answered(ask(&mut exchange, &auth)).await?;
        }
        pulse.answered(dial::renew(node, &mut exchange)).await?;
        if exchange.footing.is_outdated(node, clock::micros()) {
            return Ok(());
        }
        pulse.due().await;
    }
}

/// What was said of data longer ago than this is not believed: two questions would have been answered.
const TOLD_LONG_AGO: Micros = 2 * SECOND + SECOND / 2;
/// How often the picture is compared with the wishes; offsets come once a second.
const TICK: Duration = Duration::from_millis(100);
/// With which beats ROLE is asked: each second.
const ROLE_EVERY: u64 = 2;

//! One fixed node: the control plane's conversation with it.
//!
//! Owns the control connection: it learns the node's facts, publishes them, and says in words
//! whether the node can serve. Never carries a client's command. A PING a second finds a dead link;
//! a lost connection is dialled again with back-off, and each success is published as a recovery,
//! which ends the workers' own back-off.
//!
//! What surprises: an *error* reply to PING is a sign of life. MISCONF, BUSY and LOADING come from
//! a server that is there; only silence and a closed connection are not.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::facts::{self, Learnt};
use super::pulse::{ANSWER_WITHIN, Beat, Pulse};
use super::restore::Restorer;
use super::{Published, Topology, fitted};
use crate::admin::Readiness;
use crate::clock;
use crate::command::overlay::LiveSpec;
use crate::command::table::Table;
use crate::events;
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::exchange::Exchange;
use crate::upstream::health::chart::State;
use crate::upstream::identity::Presented;
use crate::worker::Shared;

/// Follows the node that is published as the upstream, until it is dropped.
pub async fn follow(shared: Arc<Shared>, readiness: Arc<Readiness>) -> Infallible {
    let mut restorer = Restorer::default();
    let node = Arc::clone(&shared.topology.load().node);
    let mut pulse = Pulse::of(&node, true, ROLE_EVERY);
    // What a cluster left behind that was followed before.
    readiness.set_notes(Vec::new());
    loop {
        let talk = converse(&shared, &node, &readiness, &mut pulse, &mut restorer);
        // Without an error its name leads elsewhere: that is dialled at once.
        let Err(error) = talk.await else { continue };
        pulse.lost(&error);
        // Ready again only behind the next look at what it is: it may come back without its
        // functions.
        readiness.set_upstream(node.verdict().and_then(|()| Err(lost(&node, &error))));
    }
}

/// Dials, learns, publishes, and then goes on for as long as the node answers.
async fn converse(
    shared: &Shared,
    node: &Arc<Node>,
    readiness: &Readiness,
    pulse: &mut Pulse,
    restorer: &mut Restorer,
) -> Result<(), DialError> {
    let mut exchange = pulse.connect(&Purpose::control("breakwater:control")).await?;
    restorer.connected();
    pulse.beat(&mut exchange).await?;
    while node.health.is_away() {
        // It loads, for instance: its answers would come late, and some of them would be errors.
        report(node, readiness);
        pulse.due().await;
        beat(node, readiness, pulse, &mut exchange).await?;
    }
    // Before anything else: clients may be calling already.
    restorer.look(shared, node, &mut exchange).await?;
    let learnt = answered(facts::learn(&mut exchange)).await?;
    let mut is_stranger = learnt.facts.wants_auth;
    publish(&shared.topology, node, learnt);
    loop {
        report(node, readiness);
        pulse.due().await;
        if is_stranger && let Some(presented) = shared.identities.any() {
            is_stranger = !introduce(shared, node, &mut exchange, &presented).await?;
        }
        beat(node, readiness, pulse, &mut exchange).await?;
        answered(dial::renew(node, &mut exchange)).await?;
        if exchange.footing.is_outdated(node, clock::micros()) {
            return Ok(());
        }
        restorer.look(shared, node, &mut exchange).await?;
    }
}

/// One beat. It may find that the node has fallen silent and go on waiting, which is reported.
async fn beat(
    node: &Node,
    readiness: &Readiness,
    pulse: &mut Pulse,
    exchange: &mut Exchange,
) -> Result<Beat, DialError> {
    let mut beat = pin!(pulse.beat(exchange));
    loop {
        match timeout(REPORT_EVERY, &mut beat).await {
            Ok(result) => return result,
            Err(_) => report(node, readiness),
        }
    }
}

/// Says whether the node can serve, and what is amiss if it can.
fn report(node: &Node, readiness: &Readiness) {
    readiness.set_upstream(node.verdict());
    readiness.set_notes(node.remark().into_iter().collect());
}

/// With `auth = "passthrough"` the node talks to us only as one of the clients: the first confirmed
/// one lends its name, so that the node's commands and version become known. Returns whether that
/// worked.
async fn introduce(
    shared: &Shared,
    node: &Arc<Node>,
    exchange: &mut Exchange,
    presented: &Presented,
) -> Result<bool, DialError> {
    let auth: [&[u8]; 3] = [b"AUTH", presented.user(), &presented.password];
    let reply = answered(facts::ask(exchange, &auth)).await?;
    if reply.first() != Some(&b'+') {
        return Ok(false);
    }
    let mut learnt = answered(facts::learn(exchange)).await?;
    // Strangers still have to authenticate themselves.
    learnt.facts.wants_auth = true;
    publish(&shared.topology, node, learnt);
    Ok(true)
}

/// Waits for the answer to a question of the control plane, within its bound.
///
/// # Errors
/// [`DialError`], also when the bound passes.
pub async fn answered<T>(
    question: impl Future<Output = Result<T, crate::upstream::exchange::ExchangeError>>,
) -> Result<T, DialError> {
    match timeout(ANSWER_WITHIN, question).await {
        Ok(result) => result.map_err(DialError::from),
        Err(_) => Err(DialError::new(
            crate::stats::labels::DialFailure::Timeout,
            format!("connected, but no answer within {ANSWER_WITHIN:?}"),
        )),
    }
}

/// The picture of a node that has told what it is.
#[must_use]
pub fn learnt_topology(epoch: u64, recoveries: u64, node: &Arc<Node>, learnt: Learnt) -> Topology {
    Topology {
        epoch,
        recoveries,
        failover_until: 0,
        node: Arc::clone(node),
        slots: None,
        replicas: Arc::default(),
        table: Arc::new(table(node, learnt.commands)),
        facts: Some(Arc::new(learnt.facts)),
        group: None,
        claims: None,
    }
}

/// Publishes what was learnt, unless the upstream has been changed meanwhile. Only the control
/// plane publishes, on one thread, so nothing comes between the look and the store.
fn publish(published: &Published, node: &Arc<Node>, learnt: Learnt) {
    let current = published.load_full();
    if Arc::ptr_eq(&current.node, node) {
        let recoveries = current.recoveries + 1;
        let learnt = learnt_topology(current.epoch, recoveries, node, learnt);
        let replicas = Arc::clone(&current.replicas);
        published.store(Arc::new(Topology { replicas, ..learnt }));
    }
}

/// The built-in table with the node's own laid over it; without permission for COMMAND the built-in
/// one.
#[must_use]
pub fn table(node: &Node, live: Vec<LiveSpec>) -> Table {
    let builtin = Table::builtin();
    let table = if live.is_empty() {
        events::no_command_table(&node.name);
        builtin
    } else {
        builtin.overlay(live)
    };
    fitted(table, node)
}

/// What is said between the loss of a connection and the next one, or the dial that fails.
fn lost(node: &Node, error: &DialError) -> String {
    let state = State::Down(error.failure);
    format!("upstream {} {} ({}): {}", node.name, state.words(), error.text, state.repair())
}

/// With which beats ROLE is asked: each two seconds.
const ROLE_EVERY: u64 = 4;
/// How often readiness is brought up to date while an answer is waited for.
const REPORT_EVERY: Duration = Duration::from_millis(100);

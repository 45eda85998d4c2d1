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
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::facts::{self, Learnt};
use super::restore::Restorer;
use super::{Published, Topology, fitted};
use crate::admin::Readiness;
use crate::clock;
use crate::command::overlay::LiveSpec;
use crate::command::table::Table;
use crate::events;
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::exchange::Exchange;
use crate::upstream::identity::Presented;
use crate::worker::Shared;

/// Follows the node that is published as the upstream, until it is dropped.
pub async fn follow(shared: Arc<Shared>, readiness: Arc<Readiness>) -> Infallible {
    let mut failures = 0_u32;
    let mut restorer = Restorer::default();
    let node = Arc::clone(&shared.topology.load().node);
    // What a cluster left behind that was followed before.
    readiness.set_notes(Vec::new());
    loop {
        let talk = converse(&shared, &node, &readiness, &mut failures, &mut restorer);
        // Without an error its name leads elsewhere: that is dialled at once.
        let Err(error) = talk.await else { continue };
        events::dial_failed(&node.name, error.cause(), &error.text);
        readiness.set_upstream(Err(words(&node, &error)));
        // Without jitter on purpose: this is one connection a process, bounded by its own pace.
        sleep(BACKOFF_FIRST * (1 << failures.min(4))).await;
        failures = failures.saturating_add(1);
    }
}

/// Dials, learns, publishes, and then pings for as long as the node answers.
async fn converse(
    shared: &Shared,
    node: &Arc<Node>,
    readiness: &Readiness,
    failures: &mut u32,
    restorer: &mut Restorer,
) -> Result<(), DialError> {
    let mut exchange = dial::dial(node, &Purpose::control("breakwater:control")).await?;
    restorer.connected();
    // Before anything else: clients may be calling already.
    restorer.look(shared, node, &mut exchange).await?;
    let learnt = answered(facts::learn(&mut exchange)).await?;
    *failures = 0;
    let mut is_stranger = learnt.facts.wants_auth;
    publish(&shared.topology, node, learnt);
    readiness.set_upstream(Ok(()));
    loop {
        sleep(PING_EVERY).await;
        if is_stranger && let Some(presented) = shared.identities.any() {
            is_stranger = !introduce(shared, node, &mut exchange, &presented).await?;
        }
        ping(&mut exchange).await?;
        answered(dial::renew(node, &mut exchange)).await?;
        if exchange.footing.is_outdated(node, clock::micros()) {
            return Ok(());
        }
        restorer.look(shared, node, &mut exchange).await?;
    }
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

async fn ping(exchange: &mut Exchange) -> Result<(), DialError> {
    answered(facts::ask(exchange, &[b"PING"])).await.map(drop)
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
        table: Arc::new(table(node, learnt.commands)),
        facts: Some(Arc::new(learnt.facts)),
        group: None,
    }
}

/// Publishes what was learnt, unless the upstream has been changed meanwhile. Only the control
/// plane publishes, on one thread, so nothing comes between the look and the store.
fn publish(published: &Published, node: &Arc<Node>, learnt: Learnt) {
    let current = published.load_full();
    if Arc::ptr_eq(&current.node, node) {
        let recoveries = current.recoveries + 1;
        published.store(Arc::new(learnt_topology(current.epoch, recoveries, node, learnt)));
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

/// What `/readyz` says, with the next step.
fn words(node: &Node, error: &DialError) -> String {
    use crate::stats::labels::DialFailure as Failure;
    let next = match error.failure {
        Failure::Refused => "start the server there, or correct [upstream]",
        Failure::Timeout => "check the network policy and whether the host is alive",
        Failure::Unresolved => "check the name in [upstream] and the resolver",
        Failure::Tls => "check the certificates on both sides",
        Failure::Auth => "check user and password in [upstream]",
        Failure::MaxClients => "raise the server's maxclients or find who holds its connections",
        _ => "look at the server's log",
    };
    format!("upstream {} is down ({}: {}): {next}", node.name, error.cause(), error.text)
}

/// How often the control connection is used; any reply is a sign of life.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How long a reply may take on the control connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// First pause after a failure; doubles four times.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

//! The watcher: asks every server how it is, and says what is amiss before it hurts.
//!
//! Owns a connection of its own to each server that the topology names, and the rounds on it: INFO,
//! DBSIZE, SLOWLOG, in a cluster its INFO and NODES, now and then CONFIG. [`probe`] asks, [`judge`]
//! and [`lint`] decide without I/O, the board and the page of metrics show. Never changes a server,
//! never influences where a command goes.
//!
//! What surprises: losing this connection is no alarm. Whether a server is up is found out by those
//! who need it, within a second; here it only means that its checks are *not made*.

pub mod info;
pub mod judge;
pub mod lint;
pub mod probe;
pub mod readings;
pub mod sample;
pub mod slow;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::clock::{self, Micros, SECOND};
use crate::config::Endpoint;
use crate::findings::{Finding, Severity};
use crate::stats::nodes::Reading;
use crate::topology::{Topology, facts, single};
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::exchange::Exchange;
use crate::upstream::health::chart::State;
use crate::worker::Shared;
use judge::{Case, judge};
use probe::Wanted;
use sample::{History, Sample};

/// What is known of one server at the moment.
#[derive(Debug, Default)]
struct Report {
    readings: Vec<Reading>,
    findings: Vec<Finding>,
}

/// The reports of all servers, by their names.
type Reports = Rc<RefCell<BTreeMap<String, Report>>>;

/// A server that is watched. Dropping it ends that.
struct Watched {
    node: Arc<Node>,
    task: AbortHandle,
    reports: Reports,
}

/// Watches whatever is published as the upstream.
pub async fn follow(shared: Arc<Shared>) -> Infallible {
    let reports = Reports::default();
    let mut watched: Vec<Watched> = Vec::new();
    let mut seen: Option<Arc<Topology>> = None;
    loop {
        let topology = shared.topology.load_full();
        let nodes = nodes(&topology);
        watched.retain(|one| nodes.iter().any(|node| Arc::ptr_eq(node, &one.node)));
        for node in nodes {
            if !watched.iter().any(|one| Arc::ptr_eq(&one.node, &node)) {
                watched.push(Watched::start(node, &shared, &reports));
            }
        }
        publish(&shared, &reports.borrow());
        if !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &topology)) {
            // Counting the slots of each primary is too much for twice a second.
            let map = topology.slots.as_ref();
            let shape = map.map(|map| lint::shape::shape(map, &topology.node.name));
            shared.findings.set("shape", shape.unwrap_or_default());
            seen = Some(topology);
        }
        sleep(PUBLISH_EVERY).await;
    }
}

/// The servers of a deployment, a bounded number of them.
#[must_use]
pub fn nodes(topology: &Topology) -> Vec<Arc<Node>> {
    let members = topology.slots.iter().flat_map(|map| map.members.iter());
    let mut nodes: Vec<_> = members.map(|it| Arc::clone(&it.node)).take(NODES_MAX).collect();
    if nodes.is_empty() {
        // One server, or a cluster that has not told its nodes.
        nodes.push(Arc::clone(&topology.node));
    }
    // Behind Sentinel nobody may have been named yet.
    nodes.retain(|node| !matches!(node.settings.endpoint, Endpoint::Elected(_)));
    nodes
}

/// Shows what all servers have reported.
fn publish(shared: &Shared, reports: &BTreeMap<String, Report>) {
    let readings = reports.iter().map(|(name, report)| (name.clone(), report.readings.clone()));
    shared.nodes.set(readings.collect());
    let findings = reports.values().flat_map(|report| &report.findings).cloned();
    shared.findings.set("watch", findings.collect());
}

// === impl Watched ===

impl Watched {
    fn start(node: Arc<Node>, shared: &Arc<Shared>, reports: &Reports) -> Self {
        let task = Task {
            node: Arc::clone(&node),
            shared: Arc::clone(shared),
            reports: Rc::clone(reports),
            exchange: None,
            history: History::default(),
            linted: Vec::new(),
            lint_at: 0,
        };
        let task = tokio::task::spawn_local(task.run()).abort_handle();
        Self { node, task, reports: Rc::clone(reports) }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
        self.reports.borrow_mut().remove(&self.node.name);
    }
}

/// The rounds of one server.
struct Task {
    node: Arc<Node>,
    shared: Arc<Shared>,
    reports: Reports,
    /// Kept between rounds.
    exchange: Option<Exchange>,
    history: History,
    /// What the last lint found.
    linted: Vec<Finding>,
    /// When the next one is due.
    lint_at: Micros,
}

// === impl Task ===

impl Task {
    async fn run(mut self) -> Infallible {
        loop {
            let report = match self.round().await {
                Ok(report) => report,
                Err(error) => {
                    self.exchange = None;
                    self.unheard(vec![unwatched(&self.node.name, &error)])
                }
            };
            self.reports.borrow_mut().insert(self.node.name.clone(), report);
            sleep(jittered(self.shared.watch.load().every)).await;
        }
    }

    /// A node that is away or has just come back is dialled by those who serve clients; questions
    /// have time.
    async fn let_others_first(&self) -> Result<(), DialError> {
        self.node.health.may_be_asked(clock::micros())?;
        let report = self.node.health.report();
        let back_for = clock::micros().saturating_sub(report.since);
        if report.state == State::Up && report.since > 0 && back_for < OTHERS_FIRST {
            sleep(Duration::from_micros(OTHERS_FIRST - back_for)).await;
        }
        Ok(())
    }

    /// Asks, judges, and keeps what the next round needs.
    async fn round(&mut self) -> Result<Report, DialError> {
        let settings = self.shared.watch.load_full();
        let mut exchange = match self.exchange.take() {
            Some(exchange) => exchange,
            None => {
                self.let_others_first().await?;
                connect(&self.node, &self.shared, "breakwater:watch").await?
            }
        };
        let wanted = Wanted {
            is_cluster: self.node.is_of_cluster(),
            keys: settings.slowlog.keys,
            slow_id: self.history.last.as_ref().and_then(|last| last.slow_id),
        };
        let now = probe::sample(&mut exchange, &self.node, wanted).await?;
        self.history.note(&now);
        let case = Case {
            node: &self.node.name,
            now: &now,
            history: &self.history,
            expect: &settings.expect,
        };
        let verdict = judge(&case);
        if now.is_mute {
            // The late answer would be taken for that of the next question.
            return Ok(self.unheard(verdict.standing));
        }
        self.shared.slowlog.add_theirs(&self.node.name, &now.slow);
        self.lint(&mut exchange, &now).await?;
        // A stranger tries again as one of the clients, once there is one who has proved a name.
        let is_stranger = now.ping.is_none() && self.shared.identities.any().is_some();
        self.exchange = Some(exchange).filter(|_| !is_stranger);
        let readings = readings::readings(&now, &self.history, &settings.expect);
        self.history.keep(now, verdict.events);
        let events = self.history.events.iter().map(|(_, finding)| finding.clone());
        let findings = verdict.standing.into_iter().chain(self.linted.iter().cloned());
        Ok(Report { readings, findings: findings.chain(events).collect() })
    }

    /// Looks at the configuration if it is time.
    async fn lint(&mut self, exchange: &mut Exchange, now: &Sample) -> Result<(), DialError> {
        if now.at < self.lint_at {
            return Ok(());
        }
        let asked = probe::config(exchange, &self.node, now).await?;
        self.linted = lint::lint(&self.node.name, &asked, now, &self.history);
        let is_found = |severity| self.linted.iter().any(|it| it.severity == severity);
        self.lint_at = now.at
            + match now.ping {
                // Nobody has told us who we are yet.
                None => 0,
                // Whoever repairs it wants to see it gone.
                _ if is_found(Severity::Warning) || is_found(Severity::NotChecked) => LINT_SOON,
                _ => LINT_EVERY,
            };
        Ok(())
    }

    /// What is shown of a server that does not answer: `news`, and what was found before. Unknown is
    /// not mended.
    fn unheard(&self, news: Vec<Finding>) -> Report {
        let reports = self.reports.borrow();
        let before = reports.get(&self.node.name).into_iter().flat_map(|it| &it.findings);
        let others = before.filter(|old| !news.iter().any(|it| it.id == old.id)).cloned();
        let findings = others.chain(news.iter().cloned()).collect();
        Report { readings: readings::unwatched(), findings }
    }
}

/// A connection for questions, which the server shows under the name `label`. With `auth = "passthrough"` a client's confirmed name is borrowed, as
/// the follower of the topology does.
///
/// # Errors
/// [`DialError`].
pub async fn connect(node: &Node, shared: &Shared, label: &str) -> Result<Exchange, DialError> {
    let mut exchange = dial::dial(node, &Purpose::control(label)).await?;
    if node.settings.credentials.is_none()
        && let Some(presented) = shared.identities.any()
    {
        let auth: [&[u8]; 3] = [b"AUTH", presented.user(), &presented.password];
        // Refused: what a stranger may ask is asked all the same, and the rest is not checked.
        let _reply = single::answered(facts::ask(&mut exchange, &auth)).await?;
    }
    Ok(exchange)
}

/// A server that cannot be asked is neither well nor ill.
fn unwatched(node: &str, error: &DialError) -> Finding {
    let reason = format!(
        "it cannot be asked ({}: {}); what else is said of it is as of the last look",
        error.cause(),
        error.text
    );
    let repair = "/readyz says whether commands reach it; the checks follow when it answers";
    Finding::not_checked("node_unwatched", node, &reason, repair)
}

/// Between four fifths and six fifths of `every`, so that the sidecars of a fleet drift apart.
fn jittered(every: Duration) -> Duration {
    let mut seed = [0; 2];
    // Without randomness the rounds are merely regular.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed);
    every.mul_f64(0.8 + 0.4 * f64::from(u16::from_le_bytes(seed)) / f64::from(u16::MAX))
}

/// How often the reports are put together.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);
/// Most servers that are watched.
const NODES_MAX: usize = 128;
/// How long clients have a node that came back for themselves.
const OTHERS_FIRST: Micros = 2 * SECOND;
/// How often a configuration without faults is looked at, and one with some.
const LINT_EVERY: Micros = 3_600 * SECOND;
const LINT_SOON: Micros = 300 * SECOND;

//! `breakwater doctor`: one pass of every check, and what to do about what it finds.
//!
//! Owns the order of that pass, the exit code and the layout. The checks themselves are the running
//! proxy's own: [`crate::watch`] asks and judges, here twice a second apart, so that what grows can
//! be seen growing. Serves nobody, changes nothing.
//!
//! What surprises: it exits 0 with warnings. Scripts that shall stop a roll-out want to know of what
//! hurts now; everything else is for whoever reads the page.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;

use crate::cli::{self, DoctorFlags};
use crate::clock;
use crate::config::{
    Complaint, MemorySettings, NamedUpstream, Settings, UpstreamSettings, WatchSettings,
};
use crate::findings::{Finding, Severity, page};
use crate::server::reload;
use crate::topology::sentinel::group::{Group, Standing};
use crate::topology::sentinel::truth;
use crate::topology::{self, Topology, cluster, facts, single};
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::watch::judge::{Case, judge};
use crate::watch::probe::{self, Wanted};
use crate::watch::sample::History;
use crate::watch::{self, lint};
use crate::worker::Shared;

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnosis {
    /// Nothing is critical.
    Well,
    /// Something is, or the configuration is wrong.
    Critical,
    /// No server could be asked.
    Unreached,
}

/// What was found, and how it was looked for.
#[derive(Debug, serde::Serialize)]
struct Findings {
    /// The upstream, without credentials.
    upstream: String,
    /// Servers that were asked.
    asked: Vec<String>,
    /// Servers that could not be asked.
    unreached: usize,
    /// The most urgent first.
    findings: Vec<Finding>,
}

/// Examines the upstreams of `flags` and writes what is amiss.
///
/// # Errors
/// If `out` cannot be written.
pub fn run(flags: &DoctorFlags, out: &mut impl Write) -> io::Result<Diagnosis> {
    let asked_for = Settings::load(&flags.run_flags()).and_then(|settings| {
        let upstreams = chosen(&settings, flags.upstream_name.as_deref())?;
        Ok((upstreams, settings.watch))
    });
    let (upstreams, watch) = match asked_for {
        Ok(asked_for) => asked_for,
        Err(complaints) => {
            cli::report(&complaints, out)?;
            return Ok(Diagnosis::Critical);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let mut found = Vec::new();
    for NamedUpstream { name, settings } in &upstreams {
        found.push((name.as_str(), runtime.block_on(examine(settings, &watch))));
    }
    match flags.json {
        true => write_json(&found, out)?,
        false => write_pages(&found, out)?,
    }
    Ok(diagnosis(&found))
}

/// The upstream that was asked for, or all.
fn chosen(settings: &Settings, name: Option<&str>) -> Result<Vec<NamedUpstream>, Vec<Complaint>> {
    let named = |name: &str, settings: &UpstreamSettings| NamedUpstream {
        name: name.to_owned(),
        settings: settings.clone(),
    };
    match name {
        Some(name) => {
            let settings = settings.upstream_asked_for(name).map_err(|it| vec![it])?;
            Ok(vec![named(name, settings)])
        }
        None => Ok(settings.all_upstreams().map(|(name, it)| named(name, it)).collect()),
    }
}

/// What the process ends with: the worst of all, and that nothing answers only if none does.
fn diagnosis(found: &[(&str, Findings)]) -> Diagnosis {
    let each: Vec<Diagnosis> = found.iter().map(|(_, findings)| findings.diagnosis()).collect();
    if each.iter().all(|it| *it == Diagnosis::Unreached) {
        return Diagnosis::Unreached;
    }
    let is_well = each.iter().all(|it| *it == Diagnosis::Well);
    if is_well { Diagnosis::Well } else { Diagnosis::Critical }
}

/// An object, or one for each of several upstreams by its name.
fn write_json(found: &[(&str, Findings)], out: &mut impl Write) -> io::Result<()> {
    let written = match found {
        [(_, only)] => serde_json::to_writer_pretty(&mut *out, only),
        all => {
            let all: BTreeMap<&str, &Findings> = all.iter().map(|(name, it)| (*name, it)).collect();
            serde_json::to_writer_pretty(&mut *out, &all)
        }
    };
    written.map_err(io::Error::from)?;
    writeln!(out)
}

/// A page, or one for each of several upstreams below its name.
fn write_pages(found: &[(&str, Findings)], out: &mut impl Write) -> io::Result<()> {
    for (place, (name, findings)) in found.iter().enumerate() {
        if found.len() > 1 {
            let gap = if place > 0 { "\n" } else { "" };
            writeln!(out, "{gap}[{name}]")?;
        }
        write(findings, out)?;
    }
    Ok(())
}

/// The pass of one upstream. Whatever cannot be reached is a finding as well.
async fn examine(settings: &UpstreamSettings, watch: &WatchSettings) -> Findings {
    let upstream = settings.endpoint.to_string();
    let mut found = Findings {
        upstream: upstream.clone(),
        asked: Vec::new(),
        unreached: 0,
        findings: Vec::new(),
    };
    let node = match reload::node(settings) {
        Ok(node) => Arc::new(node),
        Err(error) => {
            let repair = "correct the upstream's table 'tls'".to_owned();
            let text = format!("it cannot even be dialled: {error:#}");
            found.findings.push(Finding::critical("upstream_unreachable", &upstream, text, repair));
            found.unreached = 1;
            return found;
        }
    };
    let topology = Topology::unknown(1, Arc::clone(&node));
    let published = Arc::new(ArcSwap::from_pointee(topology));
    let shared = Arc::new(Shared::new(published, MemorySettings::default()));
    shared.watch_as(watch.clone());
    let topology = match look(&node, &shared).await {
        Ok(topology) => topology,
        Err(finding) => {
            found.findings.push(*finding);
            found.unreached = 1;
            return found;
        }
    };
    found.findings.extend(of_deployment(&topology, &upstream));
    found.ask(watch::nodes(&topology), &shared).await;
    found.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

/// What stands behind the address; the nodes of a cluster, or whom Sentinels name.
async fn look(node: &Arc<Node>, shared: &Arc<Shared>) -> Result<Arc<Topology>, Box<Finding>> {
    if node.settings.sentinel.is_some() {
        return Ok(behind_sentinels(shared).await);
    }
    if !node.is_of_cluster() {
        let dialled = dial::dial(node, &Purpose::control("breakwater:doctor")).await;
        let mut exchange = dialled.map_err(|error| Box::new(unreachable(&node.name, &error)))?;
        let pong = single::answered(facts::ask(&mut exchange, &[b"PING"])).await;
        return match pong {
            Ok(_) => Ok(shared.topology.load_full()),
            Err(error) => Err(Box::new(unreachable(&node.name, &error))),
        };
    }
    cluster::verify::verify(node, shared).await.map(Arc::new).map_err(|error| {
        Box::new(Finding::critical(
            "upstream_unreachable",
            &node.name,
            format!("the cluster cannot be used: {error:#}"),
            "start its nodes, or correct the seeds in the upstream's url".to_owned(),
        ))
    })
}

/// Follows the Sentinels for a few seconds, as a running proxy does, and returns the picture.
async fn behind_sentinels(shared: &Arc<Shared>) -> Arc<Topology> {
    // Dropped at the end, which ends the follower as well.
    let (_unchanged, changed) = tokio::sync::watch::channel(1);
    let follow = topology::follow(Arc::clone(shared), Arc::default(), changed);
    let follower = tokio::task::spawn_local(follow);
    let deadline = clock::now() + CONVENE_WITHIN;
    while clock::now() < deadline && !is_settled(&shared.topology.load()) {
        sleep(LOOK_EVERY).await;
    }
    // Those that were told of by others answer a moment later.
    sleep(BETWEEN_SAMPLES).await;
    follower.abort();
    shared.topology.load_full()
}

/// Whether a primary is named and no Sentinel is still being dialled.
fn is_settled(topology: &Topology) -> bool {
    let is_dialled =
        |group: &Group| group.sentinels.iter().all(|it| !matches!(it.standing, Standing::Dialling));
    !watch::nodes(topology).is_empty() && topology.group.as_deref().is_some_and(is_dialled)
}

/// What only the picture of the whole deployment tells.
fn of_deployment(topology: &Topology, upstream: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(map) = &topology.slots {
        found.extend(of_map(map, upstream));
    }
    if let Some(group) = &topology.group {
        found.extend(truth::findings(group));
    }
    if watch::nodes(topology).is_empty() {
        found.push(Finding::critical(
            "upstream_unreachable",
            upstream,
            "no primary could be found: no Sentinel names one that answers".to_owned(),
            "start the Sentinels and the primary, or correct the upstream's url".to_owned(),
        ));
    }
    found
}

/// What the slot map alone tells.
fn of_map(map: &crate::topology::slots::SlotMap, upstream: &str) -> Vec<Finding> {
    let mut found = lint::shape::shape(map, upstream);
    let uncovered = map.uncovered();
    if uncovered > 0 {
        found.push(Finding::critical(
            "cluster_slots_uncovered",
            upstream,
            format!("{uncovered} slots are served by nobody: commands for their keys fail"),
            format!("redis-cli --cluster check {upstream}, then --cluster fix"),
        ));
    }
    found
}

/// Two samples of one server, and its configuration.
async fn pass(node: &Node, shared: &Shared) -> Result<Vec<Finding>, DialError> {
    let settings = shared.watch.load_full();
    let mut exchange = watch::connect(node, shared, "breakwater:watch").await?;
    let mut history = History::default();
    let mut wanted =
        Wanted { is_cluster: node.is_of_cluster(), keys: settings.slowlog.keys, slow_id: None };
    let first = probe::sample(&mut exchange, node, wanted).await?;
    let is_mute = first.is_mute;
    wanted.slow_id = first.slow_id;
    history.note(&first);
    if is_mute {
        let case =
            Case { node: &node.name, now: &first, history: &history, expect: &settings.expect };
        return Ok(judge(&case).standing);
    }
    history.keep(first, Vec::new());
    sleep(BETWEEN_SAMPLES).await;
    let now = probe::sample(&mut exchange, node, wanted).await?;
    history.note(&now);
    let case = Case { node: &node.name, now: &now, history: &history, expect: &settings.expect };
    let verdict = judge(&case);
    let mut found: Vec<Finding> = verdict.standing.into_iter().chain(verdict.events).collect();
    if !now.is_mute {
        let asked = probe::config(&mut exchange, node, &now).await?;
        found.extend(lint::lint(&node.name, &asked, &now, &history));
    }
    Ok(found)
}

fn unreachable(node: &str, error: &DialError) -> Finding {
    Finding::critical(
        "upstream_unreachable",
        node,
        format!("it cannot be reached ({}: {})", error.cause(), error.text),
        "start it, or correct address, credentials and network policy".to_owned(),
    )
}

/// The page: what was looked at, what is amiss, and the sum.
fn write(found: &Findings, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "upstream {}, servers asked: {}", found.upstream, found.asked.len())?;
    writeln!(out)?;
    write!(out, "{}", page::page(&found.findings))?;
    let count = |severity| found.findings.iter().filter(|it| it.severity == severity).count();
    let counts = Severity::ALL
        .iter()
        .rev()
        .map(|severity| format!("{} {}", count(*severity), severity.as_str().replace('_', " ")));
    writeln!(out, "{}", counts.collect::<Vec<_>>().join(", "))
}

// === impl Findings ===

impl Findings {
    /// Examines every one of `nodes`, all at once: each sleeps for a second between its samples.
    async fn ask(&mut self, nodes: Vec<Arc<Node>>, shared: &Arc<Shared>) {
        self.unreached += usize::from(nodes.is_empty());
        let passes = nodes.into_iter().map(|node| {
            let shared = Arc::clone(shared);
            tokio::task::spawn_local(async move { (node.name.clone(), pass(&node, &shared).await) })
        });
        for pass in passes.collect::<Vec<_>>() {
            let Ok((name, outcome)) = pass.await else {
                // Its task panicked, which the panic itself has told.
                self.unreached += 1;
                continue;
            };
            match outcome {
                Ok(findings) => {
                    self.asked.push(name);
                    self.findings.extend(findings);
                }
                Err(error) => {
                    self.unreached += 1;
                    self.findings.push(unreachable(&name, &error));
                }
            }
        }
    }

    fn diagnosis(&self) -> Diagnosis {
        if self.asked.is_empty() && self.unreached > 0 {
            return Diagnosis::Unreached;
        }
        let is_critical = self.findings.iter().any(|it| it.severity == Severity::Critical);
        if is_critical { Diagnosis::Critical } else { Diagnosis::Well }
    }
}

/// How long Sentinels may take to answer and to name a primary, and how often that is looked at.
const CONVENE_WITHIN: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long what grows is given to do so.
const BETWEEN_SAMPLES: Duration = Duration::from_secs(1);

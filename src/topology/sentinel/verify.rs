//! Whether a deployment behind Sentinels can be used, before it is: a changed `[upstream]` is not
//! believed for being written (INV-6).
//!
//! Owns the first look: whom a majority of the reachable seeds names, and whether that node says
//! that it is a master. Publishes nothing; the follower starts from the picture that is made here.
//!
//! What surprises: only the seeds are asked, not those that they know. For a first look that is
//! enough, and whoever wrote the seeds is to see whether they are right.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::decision::{Claim, Word, majority};
use super::group::Group;
use super::primary::{Role, role};
use super::report::{self, Answer};
use super::watcher::ask_all;
use super::{SEEDS_MAX, model_of_sentinels};
use crate::topology::Topology;
use crate::topology::cluster::directory::Directory;
use crate::topology::facts;
use crate::topology::single::{self, answered};
use crate::upstream::dial::{self, Node, Purpose};

/// The picture of the primary that the Sentinels of `node`, which stands for it, name; its epoch is
/// for the caller to set.
///
/// # Errors
/// If no Sentinel answers, no majority agrees, or the named node is no master, in words.
pub async fn verify(node: &Arc<Node>) -> anyhow::Result<Topology> {
    let settings = node.settings.sentinel.as_ref().context("no Sentinels are named")?;
    let model = model_of_sentinels(node, settings);
    let mut sentinels = Directory::new(&model, []);
    let mut asked = JoinSet::new();
    for seed in settings.seeds.iter().take(SEEDS_MAX) {
        let Some(sentinel) = sentinels.node(seed) else { continue };
        let master = settings.master_name.clone();
        asked.spawn_local(async move {
            let answer = ask(&sentinel, &master).await;
            answer.map_err(|error| anyhow!("{}: {error:#}", sentinel.name))
        });
    }
    let (mut words, mut errors): (Vec<Word>, Vec<String>) = (Vec::new(), Vec::new());
    while let Some(answer) = asked.join_next().await {
        match answer? {
            Ok(word) => words.push(word),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    if words.is_empty() {
        bail!("no Sentinel answers: {}", errors.join("; "));
    }
    let claim = majority(&words).with_context(|| {
        format!("no majority of the Sentinels names a primary of '{}'", settings.master_name)
    })?;
    let topology = picture(node, &claim).await?;
    let group = Group {
        master_name: settings.master_name.clone(),
        primary: Some(claim),
        ..Group::default()
    };
    Ok(Topology { group: Some(Arc::new(group)), ..topology })
}

/// Whom one Sentinel names.
async fn ask(sentinel: &Node, master: &str) -> anyhow::Result<Word> {
    let mut exchange = dial::dial(sentinel, &Purpose::control("breakwater:verify")).await?;
    let replies = ask_all(&mut exchange, &report::poll_of(master)).await?;
    match report::read_poll(&replies).context("it does not answer as a Sentinel does")? {
        Answer::Watches(report) => Ok(Some(Claim { address: report.address, epoch: report.epoch })),
        Answer::KnowsNone => Ok(None),
        Answer::Refuses(words) => bail!("{words}"),
    }
}

/// Questions the node that was named.
async fn picture(model: &Arc<Node>, claim: &Claim) -> anyhow::Result<Topology> {
    let mut nodes = Directory::new(model, []);
    let node = nodes.node(&claim.address).context("TLS cannot ask for a host of that name")?;
    let question = async {
        let mut exchange = dial::dial(&node, &Purpose::control("breakwater:verify")).await?;
        match role(&mut exchange).await? {
            Role::Master | Role::Mute => {}
            Role::Replica => bail!("the Sentinels name {}, which is a replica", node.name),
            Role::Busy(words) => bail!("{} is busy: {words}", node.name),
        }
        Ok(answered(facts::learn(&mut exchange)).await?)
    };
    let limit = node.settings.connect_timeout + ANSWER_WITHIN;
    let learnt = timeout(limit, question)
        .await
        .map_err(|_| anyhow!("{} was named and has not answered within {limit:?}", node.name))??;
    Ok(single::learnt_topology(0, 0, &node, learnt))
}

/// How long the node's answers are waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

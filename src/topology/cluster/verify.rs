//! Whether a cluster can be used, before it is: a changed `[upstream]` is not believed for being
//! written (INV-6).
//!
//! Owns the first look at a deployment that is not in force yet: any seed, its view, the facts of
//! that node. Publishes nothing. The follower starts from the picture that is made here.
//!
//! What surprises: a cluster that wants AUTH from clients only (`passthrough`) tells a stranger
//! nothing. It is taken as it is, as a single node would be.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::contact::{Contact, Standing};
use super::directory::Directory;
use super::picture::{Answer, Picture};
use super::{SEEDS_MAX, ask};
use crate::clock;
use crate::topology::slots::SlotMap;
use crate::topology::{Topology, single};
use crate::upstream::dial::Node;
use crate::worker::Shared;

/// The picture of the cluster that `node`, its first seed, belongs to; its epoch is for the caller to set.
///
/// # Errors
/// If no seed answers, or none knows a slot map, in words.
pub async fn verify(node: &Arc<Node>, shared: &Arc<Shared>) -> anyhow::Result<Topology> {
    let mut directory = Directory::new(node, []);
    let seeds = node.settings.cluster.iter().flat_map(|cluster| &cluster.seeds).take(SEEDS_MAX);
    let nodes: Vec<Arc<Node>> = seeds.filter_map(|seed| directory.node(seed)).collect();
    let changed = Rc::default();
    let contacts: Vec<Contact> =
        nodes.iter().map(|node| Contact::open(node, shared, &changed)).collect();
    // A dial, and a conversation.
    let limit = node.settings.connect_timeout + ANSWER_WITHIN;
    let contact = timeout(limit, first_up(&contacts, &changed));
    let contact = contact.await.map_err(|_| anyhow!("no seed has answered within {limit:?}"))??;
    if contact.is_stranger() {
        return Ok(Topology::unknown(0, Arc::clone(node)));
    }
    let map = map_of(contact, &mut directory).await?;
    let learnt = contact.learn().context("the connection was lost")?;
    let mut learnt = timeout(ANSWER_WITHIN, learnt).await.context("no answer in time")??;
    learnt.facts.databases = 1;
    // Which one does not matter: the follower takes another if it turns out not to be well.
    let keyless = map.members.primaries().next().map_or(node, |member| &member.node);
    Ok(single::learnt_topology(0, 0, &Arc::clone(keyless), learnt).with_slots(map))
}

/// The first seed that is well, or why none is.
async fn first_up<'c>(
    contacts: &'c [Contact],
    changed: &Rc<Notify>,
) -> anyhow::Result<&'c Contact> {
    loop {
        if let Some(contact) = contacts.iter().find(|contact| contact.is_up()) {
            return Ok(contact);
        }
        let errors = contacts.iter().filter_map(|contact| match contact.standing() {
            Standing::Down(error) => Some(format!("{}: {error}", contact.node.name)),
            Standing::Dialling | Standing::Up => None,
        });
        let errors: Vec<String> = errors.collect();
        if errors.len() == contacts.len() {
            bail!("no seed answers: {}", errors.join("; "));
        }
        changed.notified().await;
    }
}

/// The first map. Nothing is known that it could contradict, so one node's word is enough; the
/// follower asks others.
async fn map_of(contact: &Contact, directory: &mut Directory) -> anyhow::Result<SlotMap> {
    let began = clock::micros();
    let view = ask::view_of(contact).await;
    let view = view.context("it is no cluster, or our user may not ask CLUSTER NODES and SLOTS")?;
    let answers = [Answer { from: contact.node.id, view }];
    let empty = SlotMap::empty();
    let picture = Picture::compose(&answers, &empty, directory, began, |_| false);
    let picture = picture.map_err(|unusable| anyhow!(unusable.words()))?;
    let map = picture.over(&empty, Arc::from([]));
    if map.members.primaries().next().is_none() {
        bail!("it knows no primary");
    }
    Ok(map)
}

/// How long each answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

//! The questions about the topology, put to several nodes at once.
//!
//! Owns which commands are sent, what stands in for one that a node does not know or permit, and
//! how long an answer is waited for. Never believes an answer; `picture` weighs them.
//!
//! What surprises: the first answer shortens the patience with the others. A hung node costs a
//! tenth of a second, not the whole bound.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis_protocol::resp2;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::contact::Contact;
use super::view::{Host, Seen, View};
use super::{nodes, shards};
use crate::clock;
use crate::config::Endpoint;
use crate::topology::slots::Health;

/// Where clients are told to find each node, by its id; kept from one refresh to the next, because
/// it hardly changes.
#[derive(Debug, Default)]
pub struct Places(HashMap<Box<str>, Place>);

#[derive(Debug)]
struct Place {
    /// What CLUSTER NODES said when this was learnt: when that changes, this is learnt again.
    announced: (Host, u16),
    /// As CLUSTER SHARDS or SLOTS described it.
    seen: Seen,
}

/// One command, in its words.
type Command<'w> = &'w [&'w [u8]];

/// What shows every node, and the slots that the asked one has open.
pub(super) const NODES: Command<'static> = &[b"CLUSTER", b"NODES"];
const SHARDS: Command<'static> = &[b"CLUSTER", b"SHARDS"];
const SLOTS: Command<'static> = &[b"CLUSTER", b"SLOTS"];

/// Asks each of `contacts` for CLUSTER NODES and waits for whoever answers in time. A node that
/// permits only the others answers through [`places_of`] just as well.
pub async fn views_of(contacts: &[&Contact]) -> Vec<(usize, Option<View>)> {
    let mut pending = JoinSet::new();
    for (place, contact) in contacts.iter().enumerate() {
        let Some(replies) = contact.ask(&[NODES]) else { continue };
        let asked = contact.node.settings.endpoint.clone();
        // Each on its own: one that is hung holds up itself.
        pending.spawn_local(async move {
            let reply = replies.await.ok()?.into_iter().next()?;
            Some((place, view_in(&reply, &asked)))
        });
    }
    let mut answers = Vec::new();
    let mut deadline = Instant::from_std(clock::now()) + ANSWER_WITHIN;
    while let Ok(Some(ended)) = timeout_at(deadline, pending.join_next()).await {
        if let Ok(Some(answer)) = ended {
            answers.push(answer);
            deadline = deadline.min(Instant::from_std(clock::now()) + STRAGGLERS_WITHIN);
        }
    }
    answers
}

/// The view in a reply of the node `asked` to [`NODES`].
pub(super) fn view_in(reply: &Bytes, asked: &Endpoint) -> Option<View> {
    let mut view = decode(reply).as_ref().and_then(BytesFrame::as_str).map(nodes::read)?;
    view.resolve(asked);
    Some(view).filter(|view| !view.nodes.is_empty())
}

/// All that one node says, places included.
pub async fn view_of(contact: &Contact) -> Option<View> {
    let nodes = views_of(&[contact]).await.pop()?.1;
    let told = places_of(contact).await;
    let Some(mut view) = nodes else {
        return told;
    };
    let mut places = Places::default();
    places.learn(&view, told);
    places.lay_over(&mut view);
    Some(view)
}

/// What a node tells clients: CLUSTER SHARDS, or CLUSTER SLOTS where that is unknown.
pub async fn places_of(contact: &Contact) -> Option<View> {
    let is_tls = contact.node.tls.is_some();
    let shards = reply(contact.ask(&[SHARDS])?).await;
    let view = match shards.as_ref().and_then(|reply| shards::read_shards(reply, is_tls)) {
        Some(view) => Some(view),
        // An error reply, or something that is no list: older than 7.0, or not permitted.
        None => shards::read_slots(&reply(contact.ask(&[SLOTS])?).await?),
    };
    let mut view = view?;
    view.resolve(&contact.node.settings.endpoint);
    Some(view)
}

/// The one reply that is due, if it comes in time and can be read.
async fn reply(replies: oneshot::Receiver<Vec<Bytes>>) -> Option<BytesFrame> {
    let replies = timeout(ANSWER_WITHIN, replies).await.ok()?.ok()?;
    decode(replies.first()?)
}

/// The scanner has bounded its length and its nesting.
pub(super) fn decode(reply: &Bytes) -> Option<BytesFrame> {
    resp2::decode::decode_bytes(reply).ok()?.map(|(frame, _)| frame)
}

// === impl Places ===

impl Places {
    /// Whether somebody in `view` is not known, or has moved since.
    #[must_use]
    pub fn is_old_for(&self, view: &View) -> bool {
        let is_old = |seen: &Seen| {
            let announced = (&seen.host, seen.port);
            self.0.get(&seen.id).is_none_or(|it| (&it.announced.0, it.announced.1) != announced)
        };
        view.nodes.iter().any(is_old)
    }

    /// Remembers what `told` says of the nodes of `view`, and nothing of anybody else. Who is not
    /// in it (CLUSTER SLOTS leaves out failed replicas, and those without slots) is taken as `view`
    /// has it.
    pub fn learn(&mut self, view: &View, told: Option<View>) {
        let mut told: HashMap<Box<str>, Seen> = told
            .into_iter()
            .flat_map(|told| told.nodes)
            .map(|seen| (seen.id.clone(), seen))
            .collect();
        self.0 = view
            .nodes
            .iter()
            .map(|seen| {
                let announced = (seen.host.clone(), seen.port);
                let known = told.remove(&seen.id).unwrap_or_else(|| seen.clone());
                (seen.id.clone(), Place { announced, seen: known })
            })
            .collect();
    }

    /// Puts into `view` what clients are told.
    pub fn lay_over(&self, view: &mut View) {
        for seen in &mut view.nodes {
            let Some(Place { seen: known, .. }) = self.0.get(&seen.id) else { continue };
            // A node that has no name for clients (`?`) still has the address that the others use:
            // better reached by that than not at all.
            if known.host != Host::Unknown {
                let other = std::mem::replace(&mut seen.host, known.host.clone());
                seen.aliases.extend(other.name().map(Into::into));
                seen.port = known.port;
            }
            seen.aliases.extend(known.aliases.iter().cloned());
            seen.zone.clone_from(&known.zone);
            // What CLUSTER NODES says of failures is from today; that a node loads its data it does
            // not say.
            if seen.health == Health::Online && known.health == Health::Loading {
                seen.health = Health::Loading;
            }
        }
    }
}

/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How long the others are waited for when one has answered.
const STRAGGLERS_WITHIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn view(text: &str) -> View {
        nodes::read(&format!("{text} myself,master - 0 0 1 connected 0-5\n"))
    }

    /// What clients are told of the node `abc`.
    fn told(host: Host) -> View {
        let mut told = view("abc h:7@8");
        (told.nodes[0].host, told.nodes[0].port) = (host, 9);
        told
    }

    #[test]
    fn clients_go_where_they_are_told_and_know_the_other_names() {
        let mut places = Places::default();
        let mut seen = view("abc 10.0.0.1:7@8");
        assert!(places.is_old_for(&seen));
        places.learn(&seen, Some(told(Host::read("h"))));
        assert!(!places.is_old_for(&seen));
        places.lay_over(&mut seen);
        let node = &seen.nodes[0];
        assert_eq!((node.host.name(), node.port), (Some("h"), 9));
        assert_eq!(node.aliases, [Box::<str>::from("10.0.0.1")]);
        // It has moved: what was told is told of its old place.
        assert!(places.is_old_for(&view("abc 10.0.0.2:7@8")));
    }

    #[test]
    fn a_node_without_a_name_for_clients_is_reached_as_the_others_reach_it() {
        let mut places = Places::default();
        let mut seen = view("abc 10.0.0.1:7@8");
        places.learn(&seen, Some(told(Host::Unknown)));
        places.lay_over(&mut seen);
        assert_eq!((seen.nodes[0].host.name(), seen.nodes[0].port), (Some("10.0.0.1"), 7));
        // Nor is one lost that CLUSTER SLOTS leaves out, or a whole reply that is not permitted.
        places.learn(&seen, None);
        assert!(!places.is_old_for(&seen));
    }
}

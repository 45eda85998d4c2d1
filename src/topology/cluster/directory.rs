//! Numbers for addresses, and the nodes behind them.
//!
//! Owns which [`NodeId`] stands for which address of a deployment, and the making of a [`Node`]:
//! all have the settings of the upstream and their own address. A number is never given to another
//! address, so whatever is still keyed by it (lanes, back-off, cursors of SCAN) cannot end at a
//! stranger. Never dials.
//!
//! What surprises: the first seed has number 0, because the picture before the first answer has
//! that node already.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::config::{Endpoint, UpstreamSettings};
use crate::tls::ClientTlsReloader;
use crate::topology::slots::NodeId;
use crate::upstream::dial::Node;

/// All addresses of a deployment that were ever members of it, or seeds.
#[derive(Debug)]
pub struct Directory {
    /// The node that the deployment was published with; all others are made like it.
    model: Arc<Node>,
    /// Grows to 65,536 entries at most; see [`Directory::node`].
    nodes: HashMap<Endpoint, Arc<Node>>,
    /// The lowest number that nobody has had.
    next: u32,
}

// === impl Directory ===

impl Directory {
    /// Knows the deployment's first node and its members so far; they keep their numbers.
    pub fn new<'n>(model: &'n Arc<Node>, members: impl IntoIterator<Item = &'n Arc<Node>>) -> Self {
        let known = members.into_iter().chain([model]);
        let nodes: HashMap<Endpoint, Arc<Node>> =
            known.map(|node| (node.settings.endpoint.clone(), Arc::clone(node))).collect();
        let highest = nodes.values().map(|node| node.id.0).max();
        let next = highest.map_or(0, |highest| u32::from(highest) + 1);
        Self { model: Arc::clone(model), nodes, next }
    }

    /// One without TLS, whose first node is nobody's member.
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self::new(&crate::topology::Topology::for_tests("redis-cluster://seed:1").node, [])
    }

    /// The node at that address. `None` if TLS cannot ask for such a name, or all numbers are used
    /// up.
    pub fn node(&mut self, endpoint: &Endpoint) -> Option<Arc<Node>> {
        if let Some(node) = self.nodes.get(endpoint) {
            return Some(Arc::clone(node));
        }
        let id = NodeId(u16::try_from(self.next).ok()?);
        let node = Arc::new(self.make(id, endpoint)?);
        self.next += 1;
        self.nodes.insert(endpoint.clone(), Arc::clone(&node));
        Some(node)
    }

    /// A node as the model, but for its number, its address and the name that TLS asks for.
    fn make(&self, id: NodeId, endpoint: &Endpoint) -> Option<Node> {
        let tls = match (&self.model.tls, endpoint) {
            (Some((config, _)), Endpoint::Tcp { host, .. }) => Some(with_name(config, host)?),
            _ => None,
        };
        let settings =
            UpstreamSettings { endpoint: endpoint.clone(), ..self.model.settings.clone() };
        Some(self.model.sibling(id, settings, tls))
    }
}

/// All nodes share one configuration of TLS, so that a changed certificate is read once; each is
/// asked for its own name, unless the settings name one for all.
fn with_name(
    config: &ClientTlsReloader,
    host: &str,
) -> Option<(ClientTlsReloader, ServerName<'static>)> {
    config.server_name(host).ok().map(|name| (config.clone(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_number_and_nobody_else_gets_it() {
        let mut directory = Directory::for_tests();
        let at = |host: &str, port| Endpoint::Tcp { host: host.into(), port };
        assert_eq!(directory.node(&at("seed", 1)).unwrap().id, NodeId(0));
        let first = directory.node(&at("a", 1)).unwrap();
        let second = directory.node(&at("a", 2)).unwrap();
        assert_eq!((first.id, second.id), (NodeId(1), NodeId(2)));
        assert!(Arc::ptr_eq(&first, &directory.node(&at("a", 1)).unwrap()));
        assert_eq!(second.settings.endpoint, at("a", 2));
        // So it is for whoever follows the deployment next.
        let mut next = Directory::new(&second, [&first]);
        assert_eq!(next.node(&at("a", 1)).unwrap().id, NodeId(1));
        assert_eq!(next.node(&at("b", 1)).unwrap().id, NodeId(3));
    }

    #[test]
    fn when_all_numbers_are_used_up_there_are_no_more_nodes() {
        let mut directory = Directory::for_tests();
        for port in 0..u16::MAX {
            assert!(directory.node(&Endpoint::Tcp { host: "a".into(), port }).is_some());
        }
        assert!(directory.node(&Endpoint::Tcp { host: "b".into(), port: 1 }).is_none());
        assert!(directory.node(&Endpoint::Tcp { host: "a".into(), port: 7 }).is_some());
    }
}

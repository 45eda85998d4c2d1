//! Numbers for addresses, and the nodes behind them.
//!
//! Owns which [`NodeId`] stands for which address of a deployment, and the making of a [`Node`]: all have the settings of
//! the upstream and their own address. A number is never given to another address, so whatever is still keyed by it
//! (lanes, back-off, cursors of SCAN) cannot end at a stranger. Never dials.
//!
//! What surprises: the first seed has number 0, because the picture before the first answer has that node already.

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
}

// === impl Directory ===

impl Directory {
    /// Knows the deployment's first node, which keeps its number.
    #[must_use]
    pub fn new(model: &Arc<Node>) -> Self {
        let nodes = HashMap::from([(model.settings.endpoint.clone(), Arc::clone(model))]);
        Self { model: Arc::clone(model), nodes }
    }

    /// The node at that address. `None` if TLS cannot ask for such a name, or all numbers are used up.
    pub fn node(&mut self, endpoint: &Endpoint) -> Option<Arc<Node>> {
        if let Some(node) = self.nodes.get(endpoint) {
            return Some(Arc::clone(node));
        }
        let id = NodeId(u16::try_from(self.nodes.len()).ok()?);
        let node = Arc::new(self.make(id, endpoint)?);
        self.nodes.insert(endpoint.clone(), Arc::clone(&node));
        Some(node)
    }

    fn make(&self, id: NodeId, endpoint: &Endpoint) -> Option<Node> {
        let tls = match (&self.model.tls, endpoint) {
            (Some((config, _)), Endpoint::Tcp { host, .. }) => Some(with_name(config, host)?),
            _ => None,
        };
        let settings =
            UpstreamSettings { endpoint: endpoint.clone(), ..self.model.settings.clone() };
        Some(Node { id, name: endpoint.to_string(), settings, tls })
    }
}

/// All nodes share one configuration of TLS, so that a changed certificate is read once; each is asked for its own
/// name, unless the settings name one for all.
fn with_name(
    config: &ClientTlsReloader,
    host: &str,
) -> Option<(ClientTlsReloader, ServerName<'static>)> {
    config.server_name(host).ok().map(|name| (config.clone(), name))
}

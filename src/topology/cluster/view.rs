//! What one node says of its cluster, whichever command it was asked by.
//!
//! Owns the neutral form that all three topology replies are read into, and the rules for what a
//! node may call a host. Never decides who is right: a view may be old, partial or mistaken, and
//! `picture` weighs it against others.
//!
//! What surprises: a node often does not know, or does not tell, its own address. Then it is where
//! it was asked.

use crate::config::Endpoint;
use crate::topology::slots::{Health, MemberRole};

/// The words of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Everybody that it lists with an id.
    pub nodes: Vec<Seen>,
    /// Slots that it has open itself; others' are not told.
    pub open: Vec<Open>,
}

/// A node as another one, or itself, describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name in the cluster.
    pub id: Box<str>,
    /// Where clients are told to find it.
    pub host: Host,
    /// Its port for connections of the kind that was asked through; not 0.
    pub port: u16,
    /// Other hosts that it is known by.
    pub aliases: Vec<Box<str>>,
    /// Whether this is who was asked.
    pub is_myself: bool,
    /// Primary or replica.
    pub role: MemberRole,
    /// Id of its primary, if it is a replica and that is known.
    pub primary: Option<Box<str>>,
    /// Epoch of its claims, of its primary's for a replica; 0 where the reply has none.
    pub epoch: u64,
    /// How the node that was asked sees it.
    pub health: Health,
    /// Availability zone, where the reply has one.
    pub zone: Option<Box<str>>,
    /// First and last slot of each range that it serves.
    pub ranges: Vec<(u16, u16)>,
}

/// What a node is said to be reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// This name or address; IPv6 without brackets.
    Named(Box<str>),
    /// Nothing was said: where the node was found that said so.
    AsAsked,
    /// It has none that clients may use (`?`), or none that makes sense.
    Unknown,
}

/// A slot that the node which was asked has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The slot.
    pub slot: u16,
    /// Which way its keys go.
    pub way: Way,
    /// Id of the other end.
    pub peer: Box<str>,
}

/// Which way the keys of an open slot go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the node that was asked to the other.
    Out,
    /// From the other to the node that was asked.
    In,
}

/// Most nodes that a view may list: more than four times what the authors of Redis Cluster
/// recommend.
pub const NODES_MAX: usize = 4096;
/// Most open slots and ranges that one node may be read to have: all slots, one by one.
pub const RANGES_MAX: usize = 16_384;
/// Longest name of a host, by DNS.
const HOST_BYTES_MAX: usize = 253;

// === impl View ===

impl View {
    /// Who was asked, if it has said so.
    #[must_use]
    pub fn myself(&self) -> Option<&Seen> {
        self.nodes.iter().find(|seen| seen.is_myself)
    }

    /// The node of that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Seen> {
        self.nodes.iter().find(|seen| &*seen.id == id)
    }

    /// Replaces what is said by nobody in particular by the place where it was asked: `AsAsked` by
    /// `asked`'s host, and the address of whoever answered, if that tells none, by all of `asked`.
    pub fn resolve(&mut self, asked: &Endpoint) {
        let Endpoint::Tcp { host, port } = asked else {
            return;
        };
        for seen in &mut self.nodes {
            match seen.host {
                Host::AsAsked => seen.host = Host::Named(host.as_str().into()),
                // It is behind some address that clients are not told; we have found it here all
                // the same.
                Host::Unknown if seen.is_myself => {
                    seen.host = Host::Named(host.as_str().into());
                    seen.port = *port;
                }
                Host::Unknown | Host::Named(_) => {}
            }
        }
    }
}

// === impl Host ===

impl Host {
    /// Reads what a node announces. What no host can be called is unknown, and so reaches neither
    /// resolver nor log.
    #[must_use]
    pub fn read(text: &str) -> Self {
        match text {
            "" => Self::AsAsked,
            name if is_host(name) => Self::Named(name.into()),
            _ => Self::Unknown,
        }
    }

    /// The name, if there is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::AsAsked | Self::Unknown => None,
        }
    }
}

/// Letters, digits and what stands between them in names and addresses; so `?` is none.
fn is_host(text: &str) -> bool {
    let is_fine =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    !text.is_empty() && text.len() <= HOST_BYTES_MAX && text.bytes().all(is_fine)
}

/// Whether this can be a node's name: what Redis makes has 40 hexadecimal digits, but no rule says
/// so.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_cannot_be_hosts_are_unknown() {
        assert_eq!(Host::read(""), Host::AsAsked);
        for bad in ["?", "a b", "a\r\nb", "<x>", &"a".repeat(254)] {
            assert_eq!(Host::read(bad), Host::Unknown, "{bad:?}");
        }
        for good in ["127.0.0.1", "::1", "redis-0.redis.svc", "a_b"] {
            assert_eq!(Host::read(good).name(), Some(good));
        }
    }
}

//! The slot map of a cluster: who serves which slot, as one immutable picture (INV-10).
//!
//! Owns the words of a cluster's picture: its members, the owner of each slot and since when, the
//! slots on the move. Never fetches and never merges (`cluster` does), never hashes a key
//! (`route::slot` does). A map is made whole from what the nodes say, or from an older map and a
//! few owners that redirects have named; both are new maps.
//!
//! What surprises: versions count per slot. A session with commands in flight need not wait because
//! *some* slot has moved, only before it sends for one that has moved since (INV-12 a).

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::Micros;
use crate::route::slot::SLOTS;
use crate::upstream::dial::Node;

/// The number of a node. It stands for one address within a deployment and is never given to
/// another one; 0 is the address that the deployment was published with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);

/// What a member does for its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// Serves its slots.
    Primary,
    /// Copies a primary.
    Replica,
}

/// How the cluster sees a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Online,
    /// It loads its data.
    Loading,
    /// The others have given it up.
    Failed,
}

/// One node of the cluster.
#[derive(Debug)]
pub struct Member {
    /// How it is reached; its number is `node.id`.
    pub node: Arc<Node>,
    /// Its name in the cluster: 40 hexadecimal digits.
    pub cluster_id: Box<str>,
    /// Primary or replica.
    pub role: MemberRole,
    /// The primary of its shard: itself, if it is one.
    pub primary: NodeId,
    /// Epoch of its claims, as far as a node has told; 0 if unknown.
    pub config_epoch: u64,
    /// How the cluster sees it.
    pub health: Health,
    /// Availability zone, where the topology names one.
    pub zone: Option<Box<str>>,
}

/// All nodes, found by number or by the address that redirects use.
#[derive(Debug, Default)]
pub struct Members {
    by_id: Vec<Option<Arc<Member>>>,
    /// `host:port` as the nodes announce it, to number. A host that is announced as unknown is not
    /// among them.
    by_address: HashMap<Box<str>, NodeId>,
}

/// Who serves a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Its primary; `None`: nobody, as far as is known.
    pub owner: Option<NodeId>,
    /// Version of the map in which this owner first appeared.
    pub since: u32,
    /// When a redirect named this owner; 0: a fetch did.
    pub patched_at: Micros,
}

/// A slot that is being moved, as the nodes themselves say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The slot.
    pub slot: u16,
    /// Who has it open as migrating; `None`: nobody says so.
    pub source: Option<NodeId>,
    /// Who has it open as importing; `None`: nobody says so.
    pub target: Option<NodeId>,
}

/// The picture.
#[derive(Debug)]
pub struct SlotMap {
    /// Rises with each map of a deployment.
    pub version: u32,
    /// When the newest fetch that is in it *began*: what happened before that is in it.
    pub fetched_at: Micros,
    /// Everybody.
    pub members: Arc<Members>,
    /// Slots on the move.
    pub migrations: Arc<[Migration]>,
    slots: Box<[Slot]>,
    /// Version in which an owner changed last: nothing has moved since, whatever the version.
    pub changed: u32,
    /// Their owners once more, [`NOBODY`] where there is none: what every command asks fits a small
    /// cache.
    owners: Box<[u16]>,
}

// === impl MemberRole ===

impl MemberRole {
    /// Every role, in the order of declaration.
    pub const ALL: [Self; 2] = [Self::Primary, Self::Replica];

    /// The word for metrics and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

// === impl Health ===

impl Health {
    /// Every state, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Online, Self::Loading, Self::Failed];

    /// The word for metrics and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Loading => "loading",
            Self::Failed => "failed",
        }
    }
}

// === impl Members ===

impl Members {
    /// The nodes `all`, each with the addresses (`host:port`) under which it is announced.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = (Arc<Member>, Vec<Box<str>>)>) -> Self {
        let mut members = Self::default();
        for (member, addresses) in all {
            let id = member.node.id;
            let place = usize::from(id.0);
            if members.by_id.len() <= place {
                members.by_id.resize_with(place + 1, || None);
            }
            if let Some(free) = members.by_id.get_mut(place) {
                *free = Some(member);
            }
            members.by_address.extend(addresses.into_iter().map(|address| (address, id)));
        }
        members
    }

    /// The member of that number.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<&Arc<Member>> {
        self.by_id.get(usize::from(id.0))?.as_ref()
    }

    /// The member that is announced as `host:port`.
    #[must_use]
    pub fn at(&self, address: &str) -> Option<&Arc<Member>> {
        self.by_address.get(address).and_then(|&id| self.get(id))
    }

    /// All of them, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Member>> + Clone {
        self.by_id.iter().flatten()
    }

    /// Those that serve slots or could: every primary.
    pub fn primaries(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.iter().filter(|member| member.role == MemberRole::Primary)
    }

    /// Those that copy `primary`.
    pub fn replicas_of(&self, primary: NodeId) -> impl Iterator<Item = &Arc<Member>> + Clone {
        self.iter()
            .filter(move |member| member.role == MemberRole::Replica && member.primary == primary)
    }
}

// === impl SlotMap ===

impl SlotMap {
    /// Nobody is known and no slot is served.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(0, 0, Arc::default(), Arc::from([]), vec![Slot::default(); usize::from(SLOTS)])
    }

    /// A map of these parts; `slots` is cut or filled to the number of slots that there are.
    #[must_use]
    pub fn new(
        version: u32,
        fetched_at: Micros,
        members: Arc<Members>,
        migrations: Arc<[Migration]>,
        mut slots: Vec<Slot>,
    ) -> Self {
        slots.resize(usize::from(SLOTS), Slot::default());
        let owners = slots.iter().map(|slot| slot.owner.map_or(NOBODY, |owner| owner.0)).collect();
        let changed = slots.iter().map(|slot| slot.since).max().unwrap_or_default();
        let slots = slots.into_boxed_slice();
        Self { version, fetched_at, members, migrations, slots, changed, owners }
    }

    /// Who serves `slot` (below [`SLOTS`]), and since when.
    #[inline]
    #[must_use]
    pub fn slot(&self, slot: u16) -> Slot {
        self.slots.get(usize::from(slot)).copied().unwrap_or_default()
    }

    /// All slots in their order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The primary of `slot`.
    #[must_use]
    pub fn owner(&self, slot: u16) -> Option<&Arc<Member>> {
        self.owner_id(slot).and_then(|id| self.members.get(id))
    }

    /// The number of the primary of `slot`.
    #[inline]
    #[must_use]
    pub fn owner_id(&self, slot: u16) -> Option<NodeId> {
        match self.owners.get(usize::from(slot)) {
            Some(&owner) if owner != NOBODY => Some(NodeId(owner)),
            // Nobody, or the one node that has that number.
            _ => self.slot(slot).owner,
        }
    }

    /// Every primary that there is something to ask of.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().filter(|member| self.is_shard(member))
    }

    /// Whether there is something to ask of this member: it is a primary, and not one that has
    /// failed and been replaced.
    #[must_use]
    pub fn is_shard(&self, member: &Member) -> bool {
        let owns_some = || self.slots.iter().any(|slot| slot.owner == Some(member.node.id));
        member.role == MemberRole::Primary && (member.health != Health::Failed || owns_some())
    }

    /// Slots that nobody serves.
    #[must_use]
    pub fn uncovered(&self) -> usize {
        self.slots.iter().filter(|slot| slot.owner.is_none()).count()
    }

    /// The slot as it is on the move, if it is.
    #[must_use]
    pub fn migration(&self, slot: u16) -> Option<&Migration> {
        self.migrations.iter().find(|migration| migration.slot == slot)
    }

    /// The map after redirects at `now` have named these owners; `None` if that changes nothing.
    /// Owners that are no members are left out: no node is dialled that only an error reply named.
    #[must_use]
    pub fn patched(&self, owners: &[(u16, NodeId)], now: Micros) -> Option<Self> {
        let version = self.version + 1;
        let mut slots = None;
        for &(slot, owner) in owners {
            let is_news = self.slot(slot).owner != Some(owner) && self.members.get(owner).is_some();
            if !is_news {
                continue;
            }
            let slots = slots.get_or_insert_with(|| self.slots.to_vec());
            if let Some(entry) = slots.get_mut(usize::from(slot)) {
                *entry = Slot { owner: Some(owner), since: version, patched_at: now };
            }
        }
        let (members, migrations) = (Arc::clone(&self.members), Arc::clone(&self.migrations));
        slots.map(|slots| Self::new(version, self.fetched_at, members, migrations, slots))
    }
}

/// Stands for no node, and for the last number that there is.
const NOBODY: u16 = u16::MAX;

//! Sets of properties: of commands, of their ACL categories, of keys.
//!
//! Owns the names that servers use for them and the bits that we do. Never says what follows from a
//! property: [`super::spec::Spec`] does.
//!
//! A surprise: names that we do not know are dropped by those who read a server's reply, but stop
//! the reading of our own table.

use std::ops::BitOr;

/// Properties of a command, as the servers name them, and three that are ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

/// ACL categories of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Categories(u32);

/// What is done with a key, and what kind of key it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyFlags(u16);

// === impl Flags ===

impl Flags {
    /// May change data.
    pub const WRITE: Flags = Flags(1);
    /// Only reads data.
    pub const READONLY: Flags = Flags(1 << 1);
    /// Refused when memory is used up.
    pub const DENYOOM: Flags = Flags(1 << 2);
    /// For administrators.
    pub const ADMIN: Flags = Flags(1 << 3);
    /// About messages.
    pub const PUBSUB: Flags = Flags(1 << 4);
    /// Not allowed in scripts.
    pub const NOSCRIPT: Flags = Flags(1 << 5);
    /// May block its connection.
    pub const BLOCKING: Flags = Flags(1 << 6);
    /// Allowed while the data is being loaded.
    pub const LOADING: Flags = Flags(1 << 7);
    /// Allowed on a replica that lost its primary.
    pub const STALE: Flags = Flags(1 << 8);
    /// Not shown by MONITOR.
    pub const SKIP_MONITOR: Flags = Flags(1 << 9);
    /// Not logged by SLOWLOG.
    pub const SKIP_SLOWLOG: Flags = Flags(1 << 10);
    /// Acts as if ASKING came before it.
    pub const ASKING: Flags = Flags(1 << 11);
    /// Constant or logarithmic time.
    pub const FAST: Flags = Flags(1 << 12);
    /// Allowed before authentication.
    pub const NO_AUTH: Flags = Flags(1 << 13);
    /// The old notation does not tell all its keys.
    pub const MOVABLEKEYS: Flags = Flags(1 << 14);
    /// May be called without any key although it has key specs.
    pub const NO_MANDATORY_KEYS: Flags = Flags(1 << 15);
    /// Refused while a replica loads data in the background.
    pub const NO_ASYNC_LOADING: Flags = Flags(1 << 16);
    /// Refused inside MULTI.
    pub const NO_MULTI: Flags = Flags(1 << 17);
    /// Allowed while a script has been running for too long.
    pub const ALLOW_BUSY: Flags = Flags(1 << 18);
    /// Belongs to a module.
    pub const MODULE: Flags = Flags(1 << 19);
    /// Equal calls on equal data may give different replies.
    pub const NONDETERMINISTIC: Flags = Flags(1 << 20);
    /// Equal calls on equal data may give their elements in another order.
    pub const NONDETERMINISTIC_ORDER: Flags = Flags(1 << 21);
    /// Runs code of the user's (a script or function).
    pub const USER_CODE: Flags = Flags(1 << 22);

    /// Changes nothing, although it is not flagged read-only (PING, INFO).
    pub const REPEATABLE: Flags = Flags(1 << 23);

    const NAMES: [(&str, Flags); 24] = [
        ("write", Flags::WRITE),
        ("readonly", Flags::READONLY),
        ("denyoom", Flags::DENYOOM),
        ("admin", Flags::ADMIN),
        ("pubsub", Flags::PUBSUB),
        ("noscript", Flags::NOSCRIPT),
        ("blocking", Flags::BLOCKING),
        ("loading", Flags::LOADING),
        ("stale", Flags::STALE),
        ("skip_monitor", Flags::SKIP_MONITOR),
        ("skip_slowlog", Flags::SKIP_SLOWLOG),
        ("asking", Flags::ASKING),
        ("fast", Flags::FAST),
        ("no_auth", Flags::NO_AUTH),
        ("movablekeys", Flags::MOVABLEKEYS),
        ("no_mandatory_keys", Flags::NO_MANDATORY_KEYS),
        ("no_async_loading", Flags::NO_ASYNC_LOADING),
        ("no_multi", Flags::NO_MULTI),
        ("allow_busy", Flags::ALLOW_BUSY),
        ("module", Flags::MODULE),
        ("nondeterministic_output", Flags::NONDETERMINISTIC),
        ("nondeterministic_output_order", Flags::NONDETERMINISTIC_ORDER),
        ("user_code", Flags::USER_CODE),
        ("repeatable", Flags::REPEATABLE),
    ];

    /// The flag that a server calls `name`; `None` for names that we do not know.
    pub fn from_name(name: &str) -> Option<Flags> {
        Flags::NAMES.iter().find(|(known, _)| *known == name).map(|(_, flag)| *flag)
    }

    /// Whether all of `others` are set.
    #[inline]
    pub const fn contains(self, others: Flags) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether one of `others` is set.
    pub const fn intersects(self, others: Flags) -> bool {
        self.0 & others.0 != 0
    }

    /// Both together.
    pub const fn union(self, others: Flags) -> Flags {
        Flags(self.0 | others.0)
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, others: Flags) -> Flags {
        self.union(others)
    }
}

// === impl Categories ===

impl Categories {
    /// The names in the order of their bits, without `@`.
    const NAMES: [&str; 21] = [
        "keyspace",
        "read",
        "write",
        "set",
        "sortedset",
        "list",
        "hash",
        "string",
        "bitmap",
        "hyperloglog",
        "geo",
        "stream",
        "pubsub",
        "admin",
        "fast",
        "slow",
        "blocking",
        "dangerous",
        "connection",
        "transaction",
        "scripting",
    ];

    /// The category called `name`, without `@`; `None` for names that we do not know (modules).
    pub fn from_name(name: &str) -> Option<Categories> {
        Categories::NAMES.iter().position(|known| *known == name).map(|bit| Categories(1 << bit))
    }

    /// All names, without `@`.
    pub fn all() -> impl Iterator<Item = &'static str> {
        Categories::NAMES.into_iter()
    }

    /// Whether all of `others` are there.
    pub const fn contains(self, others: Categories) -> bool {
        self.0 & others.0 == others.0
    }

    /// Both together.
    pub const fn union(self, others: Categories) -> Categories {
        Categories(self.0 | others.0)
    }

    /// The names of those that are there, without `@`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Categories::NAMES
            .into_iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| name)
    }
}

impl BitOr for Categories {
    type Output = Categories;

    fn bitor(self, others: Categories) -> Categories {
        self.union(others)
    }
}

// === impl KeyFlags ===

impl KeyFlags {
    /// Its value is read and not changed.
    pub const RO: KeyFlags = KeyFlags(1);
    /// Its value is changed, what was there matters.
    pub const RW: KeyFlags = KeyFlags(1 << 1);
    /// Its value is replaced, what was there does not matter.
    pub const OW: KeyFlags = KeyFlags(1 << 2);
    /// It is removed.
    pub const RM: KeyFlags = KeyFlags(1 << 3);
    /// Its content reaches the client or another key.
    pub const ACCESS: KeyFlags = KeyFlags(1 << 4);
    /// Content is changed.
    pub const UPDATE: KeyFlags = KeyFlags(1 << 5);
    /// Content is added.
    pub const INSERT: KeyFlags = KeyFlags(1 << 6);
    /// Content is removed.
    pub const DELETE: KeyFlags = KeyFlags(1 << 7);
    /// Chooses a slot like a key but is none: the channels of sharded pub/sub.
    pub const NOT_KEY: KeyFlags = KeyFlags(1 << 8);
    /// The spec misses some keys.
    pub const INCOMPLETE: KeyFlags = KeyFlags(1 << 9);
    /// The other flags depend on the arguments.
    pub const VARIABLE_FLAGS: KeyFlags = KeyFlags(1 << 10);

    const NAMES: [(&str, KeyFlags); 11] = [
        ("RO", KeyFlags::RO),
        ("RW", KeyFlags::RW),
        ("OW", KeyFlags::OW),
        ("RM", KeyFlags::RM),
        ("access", KeyFlags::ACCESS),
        ("update", KeyFlags::UPDATE),
        ("insert", KeyFlags::INSERT),
        ("delete", KeyFlags::DELETE),
        ("not_key", KeyFlags::NOT_KEY),
        ("incomplete", KeyFlags::INCOMPLETE),
        ("variable_flags", KeyFlags::VARIABLE_FLAGS),
    ];

    /// The flag that a server calls `name`; `None` for names that we do not know.
    pub fn from_name(name: &str) -> Option<KeyFlags> {
        KeyFlags::NAMES.iter().find(|(known, _)| *known == name).map(|(_, flag)| *flag)
    }

    /// Whether all of `others` are set.
    pub const fn contains(self, others: KeyFlags) -> bool {
        self.0 & others.0 == others.0
    }

    /// Both together.
    pub const fn union(self, others: KeyFlags) -> KeyFlags {
        KeyFlags(self.0 | others.0)
    }

    /// The names of those that are set, as COMMAND GETKEYSANDFLAGS spells them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let set = move |(_, flag): &(&str, KeyFlags)| self.contains(*flag);
        KeyFlags::NAMES.into_iter().filter(set).map(|(name, _)| name)
    }
}

impl BitOr for KeyFlags {
    type Output = KeyFlags;

    fn bitor(self, others: KeyFlags) -> KeyFlags {
        self.union(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_flags_name_what_they_hold() {
        let flags = KeyFlags::RW | KeyFlags::ACCESS | KeyFlags::UPDATE;
        assert_eq!(flags.names().collect::<Vec<_>>(), ["RW", "access", "update"]);
        let read = Categories::from_name("read").unwrap();
        let both = read.union(Categories::from_name("geo").unwrap());
        assert_eq!(both.names().collect::<Vec<_>>(), ["read", "geo"]);
        assert!(both.contains(read) && !read.contains(both));
        assert_eq!(KeyFlags::from_name("nonsense"), None);
    }
}

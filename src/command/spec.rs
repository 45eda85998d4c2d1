//! What the table knows about one command or subcommand.
//!
//! Owns the words of the table: [`CommandId`], [`Class`], [`Lane`], policies, key specs and [`Spec`]
//! itself; sets of properties are in [`super::flags`]. Never parses the table (`builtin`) or a server's
//! description of itself ([`super::overlay`]), and never looks up a name ([`super::table`]).
//!
//! Two questions have answers that depend on the arguments: XREAD and XREADGROUP are pinned only
//! with BLOCK, and what names many keys moves to the bulk lane. Ask [`Spec::class_for`] and
//! [`Spec::lane_for`], not the fields, when a command is at hand.

use super::flags::{Categories, Flags, KeyFlags};
use super::keys::{self, KeyRule};
use super::overlay::LiveSpec;
use super::table::BUILTIN_COUNT;
use super::{Command, builtin};

/// The dense number of a command or subcommand.
///
/// Below [`BUILTIN_COUNT`] it is the line in the built-in table and means the same in every
/// [`super::table::Table`] of this build; above, it was given out to a name that only one upstream
/// knows and means nothing in another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub(crate) u16);

/// What a command does to the connection on which it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// One request, one reply, no state: may travel on a lane. Only these ever do (INV-2).
    Shared,
    /// About the client's own connection: answered by us.
    Local,
    /// Needs a connection of its own: keeps state there, blocks it, or turns the server around.
    Pinned,
    /// Subscribes or unsubscribes: answered out of band.
    Subscriber,
    /// Takes the connection over and speaks no RESP on it: refused in every profile.
    Structural,
}

/// Which of a node's shared connections a command travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Small ones, which wait for nobody.
    Fast,
    /// Those that would hold the others up.
    Bulk,
}

/// Where a command without one slot is to be sent, as the servers publish it for cluster proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestPolicy {
    /// By its keys, or anywhere if it has none.
    Default,
    /// To every node, replicas included.
    AllNodes,
    /// To every primary.
    AllShards,
    /// In parts, each to the slot of its keys.
    MultiShard,
    /// As the command itself demands (SCAN).
    Special,
}

/// How the replies to a command that went to several places become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponsePolicy {
    /// Concatenated; in the order of the keys if it has any.
    Default,
    /// One of them if all are positive, else an error.
    AllSucceeded,
    /// The first positive one.
    OneSucceeded,
    /// The sum of integers.
    AggSum,
    /// The least integer.
    AggMin,
    /// The greatest integer.
    AggMax,
    /// Logical and, position by position.
    AggLogicalAnd,
    /// Logical or, position by position.
    AggLogicalOr,
    /// As the command itself demands (INFO).
    Special,
}

/// Where keys begin among the arguments. Index 0 is the name; subcommands count from there too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BeginSearch {
    /// At a fixed argument.
    Index(i32),
    /// Behind a word, looked for from an argument on; negative: from the end, backwards.
    Keyword {
        /// The word, in any case.
        word: Box<str>,
        /// Where to start looking.
        from: i32,
    },
    /// Cannot be said in these terms.
    Unknown,
}

/// How many keys there are from the beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindKeys {
    /// Up to an argument.
    Range {
        /// Relative to the first key; negative: to the end of the arguments (-1 is the last one).
        last: i32,
        /// Distance from key to key.
        step: i32,
        /// With `last` = -1: only the first 1/limit of what follows are keys; 0 and 1: all of it.
        limit: i32,
    },
    /// As many as an argument says.
    Count {
        /// Where the count is, relative to the beginning.
        index: i32,
        /// Where the first key is, relative to the beginning.
        first: i32,
        /// Distance from key to key.
        step: i32,
    },
    /// Cannot be said in these terms.
    Unknown,
}

/// One group of keys of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Where they begin.
    pub begin: BeginSearch,
    /// Where they end.
    pub find: FindKeys,
    /// What is done with them.
    pub flags: KeyFlags,
}

/// Everything known about one command or subcommand.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its number.
    pub id: CommandId,
    /// Full name in lower case; a subcommand's has its container before a bar: `client|kill`.
    pub name: Box<str>,
    /// Group of the documentation ("string", "cluster"); "module" for names that only one upstream knows.
    pub group: Box<str>,
    /// Number of arguments with the name(s); negative: at least that many. [`Spec::bar`] sets one
    /// that nobody can fulfil.
    pub arity: i32,
    /// The arity that it has when it is not barred; `None` while it is not.
    pub(super) barred: Option<i32>,
    /// Properties. Those of a built-in command are not touched by what an upstream says.
    pub flags: Flags,
    /// ACL categories.
    pub categories: Categories,
    /// What it does to a connection, if the arguments do not say more: see [`Spec::class_for`].
    pub class: Class,
    /// Its lane, if the arguments do not say more: see [`Spec::lane_for`].
    pub lane: Lane,
    /// Whether the next argument chooses a subcommand.
    pub is_container: bool,
    /// The container that this is a subcommand of.
    pub container: Option<CommandId>,
    /// Where its keys are; empty: it has none.
    pub key_specs: Box<[KeySpec]>,
    /// First key in the old notation, 0 without keys.
    pub first_key: i32,
    /// Last key in the old notation; negative: from the end.
    pub last_key: i32,
    /// Distance from key to key in the old notation.
    pub key_step: i32,
    /// Where it goes in a cluster.
    pub request_policy: RequestPolicy,
    /// How its replies become one.
    pub response_policy: ResponsePolicy,
    /// What the upstream calls it, if that was renamed there: to be sent instead of argument 0.
    /// The subcommands of a renamed container have it too.
    pub wire_name: Option<Box<[u8]>>,
    /// How keys are found where `key_specs` do not tell.
    pub(super) key_rule: KeyRule,
    /// Whether the number of its keys depends on the arguments.
    pub(super) has_many_keys: bool,
}

/// More keys than this move a command to the bulk lane.
pub const FAST_KEYS_MAX: usize = 32;

// === impl CommandId ===

impl CommandId {
    /// The number, for tables of one entry a command.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Where to count it: its own number, or [`BUILTIN_COUNT`] for all names of one upstream only.
    /// Always below [`super::table::STATS_COUNT`].
    pub const fn stats_index(self) -> usize {
        if self.is_builtin() { self.index() } else { BUILTIN_COUNT }
    }

    /// Whether the built-in table has it, so that its class was decided by us.
    pub const fn is_builtin(self) -> bool {
        self.index() < BUILTIN_COUNT
    }
}

// === impl RequestPolicy ===

impl RequestPolicy {
    /// The policy that a server calls `name`; unknown ones are refused by [`RequestPolicy::Special`].
    pub fn from_name(name: &str) -> RequestPolicy {
        match name {
            "-" => RequestPolicy::Default,
            "all_nodes" => RequestPolicy::AllNodes,
            "all_shards" => RequestPolicy::AllShards,
            "multi_shard" => RequestPolicy::MultiShard,
            _ => RequestPolicy::Special,
        }
    }
}

// === impl ResponsePolicy ===

impl ResponsePolicy {
    /// The policy that a server calls `name`; unknown ones are [`ResponsePolicy::Special`].
    pub fn from_name(name: &str) -> ResponsePolicy {
        match name {
            "-" => ResponsePolicy::Default,
            "all_succeeded" => ResponsePolicy::AllSucceeded,
            "one_succeeded" => ResponsePolicy::OneSucceeded,
            "agg_sum" => ResponsePolicy::AggSum,
            "agg_min" => ResponsePolicy::AggMin,
            "agg_max" => ResponsePolicy::AggMax,
            "agg_logical_and" => ResponsePolicy::AggLogicalAnd,
            "agg_logical_or" => ResponsePolicy::AggLogicalOr,
            _ => ResponsePolicy::Special,
        }
    }
}

// === impl KeySpec ===

impl KeySpec {
    /// Whether the number of keys depends on the arguments: a count, or all up to near the end.
    pub(super) fn depends_on_arguments(&self) -> bool {
        match self.find {
            FindKeys::Range { last, .. } => last < 0,
            FindKeys::Count { .. } => true,
            FindKeys::Unknown => false,
        }
    }
}

// === impl Spec ===

impl Spec {
    /// A command that only one upstream knows. Its class was decided by the table; it never travels
    /// with the small ones, because nothing is known about its cost.
    pub(super) fn of_stranger(
        id: CommandId,
        name: &str,
        container: Option<CommandId>,
        class: Class,
        live: &LiveSpec,
    ) -> Spec {
        Spec {
            id,
            name: name.into(),
            group: "module".into(),
            arity: live.arity,
            barred: None,
            flags: live.flags,
            categories: live.categories,
            class,
            lane: Lane::Bulk,
            is_container: false,
            container,
            key_specs: Box::default(),
            first_key: live.first_key,
            last_key: live.last_key,
            key_step: live.key_step,
            request_policy: live.request_policy,
            response_policy: live.response_policy,
            wire_name: None,
            key_rule: KeyRule::SpecsOnly,
            has_many_keys: false,
        }
    }

    /// A command that is answered here and that no upstream of ours has.
    pub(super) fn of_ours(id: CommandId, name: &str, arity: i32) -> Spec {
        Spec {
            id,
            name: name.into(),
            group: "server".into(),
            arity,
            barred: None,
            flags: Flags::default(),
            categories: Categories::default(),
            class: Class::Local,
            lane: Lane::Fast,
            is_container: false,
            container: None,
            key_specs: Box::default(),
            first_key: 0,
            last_key: 0,
            key_step: 0,
            request_policy: RequestPolicy::Default,
            response_policy: ResponsePolicy::Default,
            wire_name: None,
            key_rule: KeyRule::SpecsOnly,
            has_many_keys: false,
        }
    }

    /// Sets where the keys are.
    pub(super) fn set_key_specs(&mut self, key_specs: Vec<KeySpec>) {
        self.has_many_keys = key_specs.iter().any(KeySpec::depends_on_arguments);
        self.key_specs = key_specs.into();
    }

    /// The argument that is its only key, for all commands whose keys can be told without looking.
    #[inline]
    pub fn only_key(&self) -> Option<usize> {
        match &*self.key_specs {
            [KeySpec { begin: BeginSearch::Index(index), find, flags }]
                if matches!(find, FindKeys::Range { last: 0, .. })
                    && !flags.contains(KeyFlags::INCOMPLETE) =>
            {
                usize::try_from(*index).ok()
            }
            _ => None,
        }
    }

    /// Whether a command of `arguments` arguments, the name(s) included, passes Redis's first check.
    #[inline]
    pub fn accepts(&self, arguments: usize) -> bool {
        fits(self.arity, arguments)
    }

    /// As [`Spec::accepts`], whether it is barred or not.
    pub fn takes(&self, arguments: usize) -> bool {
        fits(self.barred.unwrap_or(self.arity), arguments)
    }

    /// Whether it is refused here, or has to be looked at, whatever its arguments.
    pub fn is_barred(&self) -> bool {
        self.barred.is_some()
    }

    /// Takes it off the path from here on, or lets it through again. By way of its arity, which is compared
    /// for every command anyway: so nobody pays for it.
    pub(super) fn bar(&mut self, does: bool) {
        match self.barred {
            None if does => self.barred = Some(std::mem::replace(&mut self.arity, i32::MIN)),
            Some(arity) if !does => (self.arity, self.barred) = (arity, None),
            _ => {}
        }
    }

    /// Whether it may change data, or runs code that may: scripts and functions, unless called by
    /// their read-only names. Messages are no data: PUBLISH may be sent.
    pub fn may_write(&self) -> bool {
        self.is_write() || (self.flags.contains(Flags::USER_CODE) && !self.is_readonly())
    }

    /// What this command does to its connection, arguments considered: XREAD with BLOCK is pinned.
    #[inline]
    pub fn class_for(&self, command: &Command<'_>) -> Class {
        if self.blocks(command) { Class::Pinned } else { self.class }
    }

    /// Whether this command may wait for somebody else's: what is pinned and flagged blocking
    /// always, XREAD and XREADGROUP only with BLOCK.
    #[inline]
    pub fn blocks(&self, command: &Command<'_>) -> bool {
        if !self.flags.contains(Flags::BLOCKING) {
            return false;
        }
        self.class == Class::Pinned || has_block_option(command)
    }

    /// The lane for this command, arguments considered: more than [`FAST_KEYS_MAX`] keys are bulk.
    #[inline]
    pub fn lane_for(&self, command: &Command<'_>) -> Lane {
        if !self.has_many_keys || command.len() <= FAST_KEYS_MAX {
            return self.lane;
        }
        if keys::count(self, command) > FAST_KEYS_MAX { Lane::Bulk } else { self.lane }
    }

    /// Whether the user's own code runs (scripts, functions, and for all we know any command that
    /// only one upstream has): its error replies prove nothing about what was done.
    pub fn runs_user_code(&self) -> bool {
        !self.id.is_builtin() || self.flags.contains(Flags::USER_CODE)
    }

    /// Whether it may be sent a second time when nobody knows what became of the first (INV-3):
    /// read-only by its flags, scripts that the server holds to that included. Never a name that
    /// only one upstream knows: some of those read and advance a cursor.
    pub fn is_retry_safe(&self) -> bool {
        self.id.is_builtin() && self.flags.intersects(Flags::READONLY | Flags::REPEATABLE)
    }

    /// Whether it may change data.
    pub fn is_write(&self) -> bool {
        self.flags.contains(Flags::WRITE)
    }

    /// Whether it only reads data. Neither holds for what is not about data (PING).
    pub fn is_readonly(&self) -> bool {
        self.flags.contains(Flags::READONLY)
    }

    /// Whether it takes constant or logarithmic time.
    pub fn is_fast(&self) -> bool {
        self.flags.contains(Flags::FAST)
    }

    /// Whether it has keys in the sense of COMMAND GETKEYS, which channels are not.
    pub fn has_keys(&self) -> bool {
        self.key_specs.iter().any(|spec| !spec.flags.contains(KeyFlags::NOT_KEY))
    }
}

/// Whether so many arguments, the name(s) included, are right for an arity.
#[inline]
fn fits(arity: i32, arguments: usize) -> bool {
    let least = arity.unsigned_abs() as usize;
    if arity < 0 { arguments >= least } else { arguments == least }
}

/// Whether XREAD or XREADGROUP is told to wait. Walks the options as Redis does, so that a group, a
/// consumer or a stream may be called "block". What Redis would refuse may be taken for a wait here:
/// that costs a connection, the opposite would stall a lane.
fn has_block_option(command: &Command<'_>) -> bool {
    let mut index = 1;
    while index < command.len() {
        if command.has_word_at(index, "block") {
            return true;
        }
        index += match () {
            () if command.has_word_at(index, "streams") => return false,
            () if command.has_word_at(index, "count") => 2,
            () if command.has_word_at(index, "group") => 3,
            () => 1,
        };
    }
    false
}

/// The id of a command of the built-in table, for constants that a `match` compares with:
/// `const HELLO: CommandId = builtin_id("hello");`. A subcommand is called `client|kill`.
///
/// # Panics
/// If the built-in table has no such name: in a constant, that stops the build.
#[allow(clippy::panic, reason = "made for constants, where it stops the build")]
pub const fn builtin_id(name: &str) -> CommandId {
    match builtin::line_of(name) {
        Some(line) => CommandId(line),
        None => panic!("no such command in the built-in table"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::Table;
    use crate::command::tests::Request;

    fn class_of(table: &Table, line: &str) -> Class {
        let request = Request::words(line);
        table.resolve(&request.command()).unwrap().class_for(&request.command())
    }

    fn lane_of(table: &Table, line: &str) -> Lane {
        let request = Request::words(line);
        table.resolve(&request.command()).unwrap().lane_for(&request.command())
    }

    #[test]
    fn xread_is_pinned_only_when_it_blocks() {
        let table = Table::builtin();
        for line in [
            "XREAD BLOCK 0 STREAMS s 0",
            "XREAD COUNT 1 block 5 STREAMS s 0",
            "XREADGROUP GROUP g c COUNT 1 BLOCK 0 STREAMS s >",
            "XREADGROUP GROUP streams c BLOCK 0 STREAMS s >",
            "XREADGROUP GROUP g streams NOACK BLOCK 0 STREAMS s >",
            "XREAD COUNT streams BLOCK 0 STREAMS s 0",
        ] {
            assert_eq!(class_of(&table, line), Class::Pinned, "{line}");
        }
        for line in [
            "XREAD STREAMS s 0",
            "XREAD STREAMS block 0",
            "XREADGROUP GROUP block block STREAMS block >",
            "XREAD COUNT 5 STREAMS s t 0 block",
        ] {
            assert_eq!(class_of(&table, line), Class::Shared, "{line}");
        }
    }

    #[test]
    fn a_block_option_disguised_by_a_nul_byte_still_blocks() {
        let table = Table::builtin();
        let request = Request::new(&[&b"XREAD"[..], b"BLOCK\0x", b"0", b"STREAMS", b"s", b"$"]);
        let spec = table.resolve(&request.command()).unwrap();
        assert_eq!(spec.class_for(&request.command()), Class::Pinned);
    }

    #[test]
    fn classes_are_those_of_the_design() {
        let table = Table::builtin();
        let expected = [
            (
                Class::Shared,
                "GET k;PING;PUBLISH c m;SPUBLISH c m;COMMAND;COMMAND DOCS;CLUSTER INFO;EVAL x 0;BGSAVE",
            ),
            (
                Class::Local,
                "HELLO;AUTH p;SELECT 1;QUIT;RESET;ECHO x;CLIENT ID;CLIENT REPLY OFF;READONLY;ASKING",
            ),
            (
                Class::Pinned,
                "MULTI;EXEC;WATCH k;BLPOP k 0;WAIT 1 0;CLIENT TRACKING ON;MONITOR;DEBUG SLEEP 1;SAVE;SHUTDOWN;\
                 SYNC;PSYNC ? -1;REPLCONF ack 1",
            ),
            (Class::Subscriber, "SUBSCRIBE c;PUNSUBSCRIBE;SSUBSCRIBE c;SUNSUBSCRIBE"),
            (Class::Structural, "SCRIPT DEBUG YES"),
        ];
        for (class, lines) in expected {
            for line in lines.split(';') {
                assert_eq!(class_of(&table, line), class, "{line}");
            }
        }
    }

    #[test]
    fn nothing_that_is_flagged_blocking_is_shared_without_a_look_at_its_arguments() {
        for spec in Table::builtin().specs().filter(|spec| spec.class == Class::Shared) {
            let looked_at = matches!(&*spec.name, "xread" | "xreadgroup");
            assert!(looked_at || !spec.flags.contains(Flags::BLOCKING), "{}", spec.name);
        }
    }

    #[test]
    fn many_keys_are_bulk() {
        let table = Table::builtin();
        let keys = |count: usize| " k".repeat(count);
        assert_eq!(lane_of(&table, &format!("MGET{}", keys(32))), Lane::Fast);
        assert_eq!(lane_of(&table, &format!("MGET{}", keys(33))), Lane::Bulk);
        assert_eq!(lane_of(&table, &format!("MSET{}", keys(64))), Lane::Fast);
        assert_eq!(lane_of(&table, &format!("MSET{}", keys(66))), Lane::Bulk);
        assert_eq!(lane_of(&table, &format!("SADD{}", keys(500))), Lane::Fast);
        assert_eq!(lane_of(&table, &format!("LMPOP 33{} LEFT", keys(33))), Lane::Bulk);
        assert_eq!(lane_of(&table, &format!("LMPOP 900{} LEFT", keys(33))), Lane::Fast);
        assert_eq!(lane_of(&table, "HGETALL k"), Lane::Bulk);
        assert_eq!(lane_of(&table, "SCRIPT KILL"), Lane::Fast);
    }

    #[test]
    fn only_reads_are_sent_twice() {
        let table = Table::builtin();
        let safe = |name: &str| table.find(name).unwrap().is_retry_safe();
        assert!(
            ["get", "mget", "eval_ro", "evalsha_ro", "fcall_ro", "scan", "dbsize"]
                .into_iter()
                .all(safe)
        );
        assert!(
            !["set", "incr", "eval", "fcall", "publish", "xreadgroup", "exec"]
                .into_iter()
                .any(safe)
        );
        assert!(table.find("eval_ro").unwrap().runs_user_code());
        assert!(!table.find("get").unwrap().runs_user_code());
    }

    #[test]
    fn ids_of_built_in_commands_are_constants() {
        const CLIENT_KILL: CommandId = builtin_id("client|kill");
        assert_eq!(Table::builtin().find("client|kill").unwrap().id, CLIENT_KILL);
        assert!(matches!(builtin_id("client|kill"), CLIENT_KILL));
        assert_eq!(CLIENT_KILL.stats_index(), CLIENT_KILL.index());
    }
}

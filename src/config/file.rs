//! The TOML file as it is written: one struct a table, every key with its default.
//!
//! Owns the names of the keys and the defaults of what has one. Never judges a value: bounds, addresses and
//! combinations are `check/`'s; how a text becomes these structs is `source.rs`'s.
//!
//! What surprises: values keep their place in the text ([`Spanned`]); a default's place is 0..0 and is never
//! shown, because defaults are right.

mod beside;
mod guards;

pub(super) use self::beside::{
    WrittenExpect, WrittenLog, WrittenMemory, WrittenScripts, WrittenSlowlog, WrittenWatch,
};

pub(super) use self::guards::{WrittenConfirm, WrittenWriteGuard};
use super::complaint::Complaint;
use super::quantity::{Size, Time};
use super::source::{Source, Words};
use super::table::Table;
use super::{PinnedMax, PubsubSettings, Workers};
use crate::resp::limits::Limits;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use toml::Spanned;

/// `breakwater.toml`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Written {
    /// 1 to 256, or "auto".
    pub(super) workers: Spanned<Workers>,
    /// An address, or "off".
    pub(super) admin: Spanned<String>,
    /// Whether the admin port may change anything; absent: if it listens on a loopback address.
    pub(super) admin_changes: Option<bool>,
    /// "guard", "observe" or "open".
    pub(super) profile: Spanned<String>,
    /// The path of a file of rules.
    pub(super) policy: Option<Spanned<String>>,
    /// Up to 1 hour; zero stops at once.
    pub(super) drain_timeout: Spanned<Time>,
    /// None: one with every default.
    pub(super) listener: Vec<Spanned<Table<WrittenListener>>>,
    /// Hot, as everything below it.
    pub(super) upstream: Table<WrittenUpstream>,
    /// `[upstreams.NAME]`, for listeners that name it.
    pub(super) upstreams: BTreeMap<String, Spanned<Table<WrittenUpstream>>>,
    /// Level and format.
    pub(super) log: Table<WrittenLog>,
    /// Bounds of what is held for clients.
    pub(super) memory: Table<WrittenMemory>,
    /// What there should be behind us.
    pub(super) expect: Table<WrittenExpect>,
    /// How often it is looked at.
    pub(super) watch: Table<WrittenWatch>,
    /// Which commands are remembered as slow.
    pub(super) slowlog: Table<WrittenSlowlog>,
    /// What is done about scripts that do not end.
    pub(super) scripts: Table<WrittenScripts>,
}

/// `[[listener]]`.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenListener {
    /// IP address and port, or `unix:/path`. Absent is a complaint.
    pub(super) address: Option<Spanned<String>>,
    /// The name of a table of `[upstreams]`; absent: `[upstream]`.
    pub(super) upstream: Option<Spanned<String>>,
    /// Octal, for unix sockets only.
    pub(super) mode: Option<Spanned<String>>,
    /// "users", "passthrough" or "upstream"; absent: users if there are any, else see `config/check/listener.rs`.
    pub(super) auth: Option<Spanned<String>>,
    /// 1 to 1,000,000.
    pub(super) client_max: Spanned<usize>,
    /// Zero means never.
    pub(super) client_idle_timeout: Spanned<Time>,
    /// 1 ms to 1 day.
    pub(super) client_timeout: Option<Spanned<Time>>,
    /// Host and port; absent: what the client dialled.
    pub(super) announce: Option<Spanned<String>>,
    /// Absent: plain text.
    pub(super) tls: Option<Spanned<Table<WrittenServerTls>>>,
    /// Bounds of a client that subscribes.
    pub(super) pubsub: Table<WrittenPubsub>,
    /// Protocol bounds, at most the ceilings.
    pub(super) limits: Table<WrittenLimits>,
    /// Who may log in with `auth = "users"`.
    pub(super) user: Vec<Spanned<Table<WrittenUser>>>,
}

/// `[listener.tls]`.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenServerTls {
    /// PEM, our certificate and its intermediates.
    pub(super) cert: Option<Spanned<String>>,
    /// PEM, not encrypted.
    pub(super) key: Option<Spanned<String>>,
    /// PEM; set, a certificate from there is demanded.
    pub(super) client_ca: Option<Spanned<String>>,
}

/// `[listener.limits]`.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenLimits {
    /// Of one argument.
    pub(super) bulk_bytes: Spanned<Size>,
    /// Of one command.
    pub(super) arguments: Spanned<usize>,
    /// Of one inline command.
    pub(super) inline_bytes: Spanned<Size>,
    /// Of one whole command.
    pub(super) request_bytes: Spanned<Size>,
}

/// `[listener.pubsub]`.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenPubsub {
    /// Up to 1 TiB; zero: no such limit.
    pub(super) buffer_hard_bytes: Spanned<Size>,
    /// Up to 1 TiB, at most the hard one; zero: no such limit.
    pub(super) buffer_soft_bytes: Spanned<Size>,
    /// Up to 1 day.
    pub(super) buffer_soft_time: Spanned<Time>,
    /// 1 to 10,000,000.
    pub(super) subscriptions: Spanned<usize>,
    /// 1 KiB to 1 TiB.
    pub(super) subscription_bytes: Spanned<Size>,
}

/// `[[listener.user]]`.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenUser {
    /// One word. Absent is a complaint.
    pub(super) name: Option<Spanned<String>>,
    /// Each `#` and 64 hex digits, or `>` and the password.
    pub(super) passwords: Vec<Spanned<String>>,
    /// Any password will do; instead of `passwords`.
    pub(super) nopass: bool,
}

/// `[upstream]`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenUpstream {
    /// See `address.rs`. May be absent if a flag or a variable has one.
    pub(super) url: Option<Spanned<String>>,
    /// "cluster" or "standalone"; only with a cluster.
    pub(super) present_as: Option<Spanned<String>>,
    /// "primary", "prefer-replica" or "replica"; only with a cluster.
    pub(super) replica_reads: Option<Spanned<String>>,
    /// How far such a replica may be behind.
    pub(super) replica_max_lag: Spanned<Time>,
    /// Our availability zone.
    pub(super) zone: Option<String>,
    /// "readwrite" or "readonly".
    pub(super) mode: Option<Spanned<String>>,
    /// "refuse_writes" or "report".
    pub(super) split_brain: Option<Spanned<String>>,
    /// Of a second master behind Sentinels; 1 second to 1 hour.
    pub(super) split_brain_grace: Spanned<Time>,
    /// Absent: writes need no replicas.
    pub(super) write_guard: Option<Table<WrittenWriteGuard>>,
    /// Absent: writes are not confirmed.
    pub(super) confirm: Option<Table<WrittenConfirm>>,
    /// "ERR", "LOADING" or "CLUSTERDOWN".
    pub(super) unavailable_error: Option<Spanned<String>>,
    /// "local" or "upstream"; absent: "local" with a cluster.
    pub(super) ping: Option<Spanned<String>>,
    /// Where the URL has none.
    pub(super) db: Option<Spanned<u32>>,
    /// Where the URL has none.
    pub(super) user: Option<Spanned<String>>,
    /// In clear text; one of the three password keys, and none if the URL has one.
    pub(super) password: Option<Spanned<String>>,
    /// The name of a variable.
    pub(super) password_env: Option<Spanned<String>>,
    /// The path of a file.
    pub(super) password_file: Option<Spanned<String>>,
    /// Only with Sentinel, as the keys below: who we are to them.
    pub(super) sentinel_user: Option<Spanned<String>>,
    /// In clear text; one of the three.
    pub(super) sentinel_password: Option<Spanned<String>>,
    /// The name of a variable.
    pub(super) sentinel_password_env: Option<Spanned<String>>,
    /// The path of a file.
    pub(super) sentinel_password_file: Option<Spanned<String>>,
    /// Only with `rediss://`.
    pub(super) tls: Option<Spanned<Table<WrittenClientTls>>>,
    /// Command to the name that the server knows it by.
    pub(super) renamed: BTreeMap<String, Spanned<String>>,
    /// 1 to 64.
    pub(super) lanes_max: Spanned<usize>,
    /// `auto`, or 1 to 65,536.
    pub(super) pinned_max: Spanned<PinnedMax>,
    /// Up to 1 minute.
    pub(super) pinned_wait: Spanned<Time>,
    /// 1 ms to 1 hour.
    pub(super) reply_deadline_fast: Spanned<Time>,
    /// 1 ms to 1 hour, at least the fast one.
    pub(super) reply_deadline_slow: Spanned<Time>,
    /// 1 ms to 1 minute.
    pub(super) connect_timeout: Spanned<Time>,
    /// Up to 1 minute; zero tries nothing again.
    pub(super) retry_window: Spanned<Time>,
    /// 1 second to 2 hours.
    pub(super) keepalive: Spanned<Time>,
    /// 100 ms to 10 minutes.
    pub(super) user_timeout: Spanned<Time>,
    /// 1 second to 1 day.
    pub(super) lane_idle: Spanned<Time>,
    /// Off: the operator must say so.
    pub(super) restore_functions: Spanned<bool>,
}

/// `[upstream.tls]`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenClientTls {
    /// PEM; absent: the system's authorities.
    pub(super) ca: Option<Spanned<String>>,
    /// PEM; together with `key` or not at all.
    pub(super) cert: Option<Spanned<String>>,
    /// PEM, not encrypted.
    pub(super) key: Option<Spanned<String>>,
    /// DNS name or IP address; absent: the host of the URL.
    pub(super) server_name: Option<Spanned<String>>,
}

/// Reads a file as far as it can be read, with everything that could not be.
///
/// What was complained about has its default in the answer, so that the rest can still be checked. After a
/// syntax error the answer is all defaults: a tree with a hole in it would only cause complaints that mislead.
pub(super) fn read(source: &Source) -> (Written, Vec<Complaint>) {
    match source.tree() {
        Ok(tree) => source.read(tree, "", &WORDS),
        Err(complaints) => (Written::default(), complaints),
    }
}

/// What is said of keys that are none here.
const WORDS: Words = Words {
    top: &["workers", "admin", "admin_changes", "profile", "policy", "drain_timeout"],
    elsewhere: &[
        ("rule", "rules stand in a file of their own, which the key 'policy' names"),
        ("keyspace", "keyspaces stand in the file of rules, which the key 'policy' names"),
        ("budget", "this build has no budgets"),
    ],
};

/// Every table and key at the top of the file, for whoever must tell this kind of file from others.
pub(crate) const CONFIGURATION_KEYS: [&str; 15] = [
    "workers",
    "admin",
    "admin_changes",
    "profile",
    "policy",
    "drain_timeout",
    "listener",
    "upstream",
    "upstreams",
    "log",
    "memory",
    "expect",
    "watch",
    "slowlog",
    "scripts",
];

/// A value that nobody wrote.
fn default<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

// === impl Written ===

impl Default for Written {
    fn default() -> Self {
        Self {
            workers: default(Workers::Count(NonZeroUsize::MIN)),
            admin: default("127.0.0.1:9121".to_owned()),
            admin_changes: None,
            profile: default("guard".to_owned()),
            policy: None,
            // Kubernetes kills after 30 s by default; the container needs some of them for itself.
            drain_timeout: default(Time::secs(10)),
            listener: Vec::new(),
            upstream: Table::default(),
            upstreams: BTreeMap::new(),
            log: Table::default(),
            memory: Table::default(),
            expect: Table::default(),
            watch: Table::default(),
            slowlog: Table::default(),
            scripts: Table::default(),
        }
    }
}

// === impl WrittenListener ===

impl Default for WrittenListener {
    fn default() -> Self {
        Self {
            address: None,
            upstream: None,
            mode: None,
            auth: None,
            // Redis's `maxclients`.
            client_max: default(10_000),
            client_idle_timeout: default(Time::ms(0)),
            client_timeout: None,
            announce: None,
            tls: None,
            pubsub: Table::default(),
            limits: Table::default(),
            user: Vec::new(),
        }
    }
}

// === impl WrittenLimits ===

impl Default for WrittenLimits {
    /// The ceilings of the protocol; a file may lower them.
    fn default() -> Self {
        let ceilings = Limits::default();
        Self {
            bulk_bytes: default(Size(ceilings.bulk_bytes)),
            arguments: default(ceilings.arguments),
            inline_bytes: default(Size(ceilings.inline_bytes)),
            request_bytes: default(Size(ceilings.request_bytes)),
        }
    }
}

// === impl WrittenPubsub ===

impl Default for WrittenPubsub {
    fn default() -> Self {
        let settings = PubsubSettings::default();
        Self {
            buffer_hard_bytes: default(Size(settings.buffer_hard_bytes)),
            buffer_soft_bytes: default(Size(settings.buffer_soft_bytes)),
            buffer_soft_time: default(Time(settings.buffer_soft_time)),
            subscriptions: default(settings.subscriptions),
            subscription_bytes: default(Size(settings.subscription_bytes)),
        }
    }
}

// === impl WrittenUpstream ===

impl Default for WrittenUpstream {
    fn default() -> Self {
        Self {
            url: None,
            mode: None,
            split_brain: None,
            split_brain_grace: default(Time::secs(30)),
            write_guard: None,
            confirm: None,
            unavailable_error: None,
            present_as: None,
            replica_reads: None,
            replica_max_lag: default(Time::secs(10)),
            zone: None,
            ping: None,
            db: None,
            user: None,
            password: None,
            password_env: None,
            password_file: None,
            sentinel_user: None,
            sentinel_password: None,
            sentinel_password_env: None,
            sentinel_password_file: None,
            tls: None,
            renamed: BTreeMap::new(),
            lanes_max: default(8),
            pinned_max: default(PinnedMax::Auto),
            pinned_wait: default(Time::secs(1)),
            // The clocks, as far as one standalone Redis has them.
            reply_deadline_fast: default(Time::secs(5)),
            reply_deadline_slow: default(Time::secs(60)),
            connect_timeout: default(Time::secs(1)),
            retry_window: default(Time::ms(400)),
            // A dead link is found in 5 s when something is on its way, in 15 s and a few probes when nothing is.
            keepalive: default(Time::secs(15)),
            user_timeout: default(Time::secs(5)),
            lane_idle: default(Time::secs(60)),
            restore_functions: default(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(text: &str) -> Vec<String> {
        let source = Source::new("f".to_owned(), text.to_owned());
        let mut found = read(&source).1;
        found.sort_by_key(|complaint| complaint.position);
        found.iter().map(Complaint::to_string).collect()
    }

    #[test]
    fn every_unknown_key_and_wrong_type_is_reported_in_one_go() {
        let text = "wrokers = 2\n\
                    admin = 9121\n\
                    [upstream]\n\
                    url = \"redis://h\"\n\
                    lane_max = 3\n\
                    lanes_max = \"many\"\n\
                    connect_timeout = 5\n\
                    [upstream.tls]\n\
                    cacert = \"x\"\n\
                    [[listener]]\n\
                    adress = \"x\"\n\
                    [[listener]]\n\
                    tls.keyy = \"y\"\n\
                    user = [{ name = \"a\", passwords = [1, \"#\", true] }]\n\
                    [memory]\n\
                    session_reply_bytes = \"16MX\"\n\
                    lane_stall = true\n";
        let found = complaints(text);
        assert_eq!(
            found,
            [
                "f:1:1: 'wrokers' is not a key; did you mean 'workers'?",
                "f:2:9: 'admin' is an integer; write a text, in quotes",
                "f:5:1: 'lane_max' is not a key of [upstream]; did you mean 'lanes_max'?",
                "f:6:13: 'lanes_max' is a string; write a whole number",
                "f:7:19: the duration '5' has no unit; write \"5s\" or \"5ms\"",
                "f:9:1: 'cacert' is not a key of [upstream.tls]; did you mean 'cert'?",
                "f:11:1: 'adress' is not a key of [listener]; did you mean 'address'?",
                "f:13:5: 'keyy' is not a key of [listener.tls]; did you mean 'key'?",
                "f:14:36: 'passwords' is an integer; write a text, in quotes",
                "f:14:44: 'passwords' is a boolean; write a text, in quotes",
                "f:16:23: 'MX' is not a unit of size; use bytes or a unit, as in 65536, \"512kb\" or \"16MiB\"",
                "f:17:14: 'lane_stall' is a boolean; write a duration such as \"5s\"",
            ]
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_not_quoted() {
        let found = complaints(
            "upstream.password = 31337\nlistener = \"31337\"\nlog = 31337\nmemory = [31337]\n",
        );
        assert_eq!(
            found,
            [
                "f:1:21: 'password' is an integer; write a text, in quotes",
                "f:2:12: 'listener' is a string; write a list, in brackets",
                "f:3:7: 'log' is an integer; write a table",
                "f:4:10: 'memory' is an array; write a table",
            ]
        );
    }

    #[test]
    fn a_top_level_key_below_a_table_is_sent_to_the_top() {
        let found = complaints("[log]\nlevel = \"info\"\nworkers = 2\n");
        let expected = "f:3:1: 'workers' is not a key of [log]; it belongs at the top of the file, before the first [table]";
        assert_eq!(found, [expected]);
        let found = complaints("[[rule]]\nname = \"x\"\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("rules stand in a file of their own"), "{found:?}");
    }

    #[test]
    fn syntax_errors_are_placed_and_stand_alone() {
        let found = complaints("workers = 2\nadmin = \n[log\nlevel = \"info\"\nx = = 1\n");
        assert!(found.len() >= 2, "{found:?}");
        assert!(found[0].starts_with("f:2:"), "{found:?}");
        assert!(found.iter().all(|complaint| !complaint.contains('\n')), "{found:?}");
        // A key that stands twice is an error of syntax in TOML.
        let found = complaints("workers = 2\nworkers = 3\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("f:2:1: "), "{found:?}");
    }

    #[test]
    fn numbers_out_of_range_are_complaints_with_a_place() {
        let found = complaints("workers = 0\n[upstream]\ndb = -1\n[[listener]]\nclient_max = -3\n");
        assert_eq!(found.len(), 3, "{found:?}");
        for start in [
            "f:1:11: '0' is not a number of workers",
            "f:3:6: 'db' is out of range",
            "f:5:14: 'client_max' is out of range",
        ] {
            assert!(
                found.iter().any(|complaint| complaint.starts_with(start)),
                "{start}: {found:?}"
            );
        }
    }
}

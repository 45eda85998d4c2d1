//! Judges `[upstream]`, `[upstreams.NAME]` and `--upstream`: address, database, TLS, what clients are shown, renamed commands, clocks.
//!
//! Owns how the URL and the keys beside it are joined: a URL from a flag replaces the one of the file; its user,
//! password and database win over the file's keys; the other keys stay. Never quotes a URL (INV-11). Who we are
//! to the upstream is judged in `credentials.rs`.
//!
//! What surprises: two answers to one question within the same file are a complaint and not a precedence,
//! because whoever reads the file sees only one of them.

use super::super::address::{self, Deployment, UpstreamUrl};
use super::super::file::{WrittenClientTls, WrittenUpstream};
use super::super::quantity::{DAY, HOUR, MILLISECOND, MINUTE, SECOND, Time, ZERO};
use super::super::table::Table;
use super::super::{
    ClientTls, ClusterSettings, Endpoint, Mode, Ping, PresentAs, ReplicaReads, SentinelSettings,
    UnavailableError, UpstreamSettings,
};
use super::credentials::{credentials, of_sentinels};
use super::{Checker, NoUpstream, PEM, Place, UPSTREAM, guards, one_of};
use crate::cli::RunFlags;
use crate::tls::is_server_name;
use std::collections::BTreeMap;
use std::time::Duration;
use toml::Spanned;

/// Most lanes a worker may hold to a node: far below Redis's default of 10,000 clients with any number of pods.
const LANES_MAX: usize = 64;

/// The URL of the highest layer that has one, read as far as it could be, and where it stands.
pub(super) struct Url {
    /// `None`: absent or wrong; either has been said.
    pub(super) url: Option<UpstreamUrl>,
    /// Where it stands, or where it would be expected.
    pub(super) place: Place,
}

/// The upstream of all layers. `None` if there is none or it is wrong; either has been said.
pub(super) fn check(
    checker: &mut Checker,
    flags: &RunFlags,
    written: &WrittenUpstream,
    no_upstream: NoUpstream,
) -> Option<UpstreamSettings> {
    let url = url(checker, flags, written, no_upstream);
    judge(checker, written, url)
}

/// One of `[upstreams]`, of which no flag speaks.
pub(super) fn named(
    checker: &mut Checker,
    table: &Spanned<Table<WrittenUpstream>>,
) -> Option<UpstreamSettings> {
    let written = table.get_ref();
    let url = match &written.url {
        Some(text) => {
            let url = checker.keep(text, address::upstream(text.get_ref()));
            Url { url, place: text.into() }
        }
        None => {
            let hint = "add url = \"redis://HOST:6379\"";
            checker.miss(table, "the upstream has no url", hint);
            Url { url: None, place: table.into() }
        }
    };
    judge(checker, written, url)
}

/// The upstream at that URL, as its table wants it.
fn judge(checker: &mut Checker, written: &WrittenUpstream, url: Url) -> Option<UpstreamSettings> {
    // The keys are judged even if the URL is wrong or absent.
    let db = database(checker, written, &url);
    let tls = client_tls(checker, written.tls.as_ref(), &url);
    let credentials = credentials(checker, written, &url);
    let to_sentinels = of_sentinels(checker, written, &url);
    let renamed = renamed(checker, &written.renamed);
    let (fast, slow) = deadlines(checker, written);
    let second = MILLISECOND..=MINUTE;
    let unacknowledged = Time::ms(100)..=Time::secs(600);
    let lanes_max = checker.bounded("lanes_max", &written.lanes_max, 1..=LANES_MAX);
    let pinned_max = *written.pinned_max.get_ref();
    let pinned_wait = checker.time("pinned_wait", &written.pinned_wait, ZERO..=MINUTE);
    let connect_timeout = checker.time("connect_timeout", &written.connect_timeout, second);
    let retry_window = checker.time("retry_window", &written.retry_window, ZERO..=MINUTE);
    // The kernel counts keepalive in whole seconds.
    let keepalive = checker.time("keepalive", &written.keepalive, SECOND..=Time::secs(7_200));
    let user_timeout = checker.time("user_timeout", &written.user_timeout, unacknowledged);
    let lane_idle = checker.time("lane_idle", &written.lane_idle, SECOND..=DAY);
    let present_as = present_as(checker, written.present_as.as_ref(), &url);
    let (mode, guards) = (mode(checker, written.mode.as_ref()), guards::check(checker, written));
    let unavailable_error = unavailable_error(checker, written.unavailable_error.as_ref());
    let ping = ping(checker, written.ping.as_ref(), &url);
    let replica_reads = replica_reads(checker, written.replica_reads.as_ref());
    let hour = SECOND..=HOUR;
    let replica_max_lag = checker.time("replica_max_lag", &written.replica_max_lag, hour);
    let zone = written.zone.clone();
    let UpstreamUrl { endpoint, deployment, .. } = url.url?;
    let (cluster, sentinel) = match deployment {
        Deployment::Single => (None, None),
        Deployment::Cluster(seeds) => {
            let cluster =
                ClusterSettings { seeds, present_as, replica_reads, replica_max_lag, zone };
            (Some(cluster), None)
        }
        Deployment::Sentinel { seeds, master_name } => {
            (None, Some(SentinelSettings { seeds, master_name, credentials: to_sentinels }))
        }
    };
    Some(UpstreamSettings {
        endpoint,
        cluster,
        sentinel,
        mode,
        guards,
        unavailable_error,
        ping,
        db,
        tls,
        credentials,
        renamed,
        lanes_max,
        pinned_max,
        pinned_wait,
        reply_deadline_fast: fast,
        reply_deadline_slow: slow,
        connect_timeout,
        retry_window,
        keepalive,
        user_timeout,
        lane_idle,
        restore_functions: *written.restore_functions.get_ref(),
    })
}

/// Picks the layer and reads the URL.
fn url(
    checker: &mut Checker,
    flags: &RunFlags,
    written: &WrittenUpstream,
    no_upstream: NoUpstream,
) -> Url {
    let (text, place) = match (&flags.upstream, &written.url) {
        (Some(text), _) => (text, Place::Flag(UPSTREAM)),
        (None, Some(text)) => (text.get_ref(), text.into()),
        (None, None) => {
            absent(checker, no_upstream);
            return Url { url: None, place: Place::Flag(UPSTREAM) };
        }
    };
    Url { url: checker.keep(&place, address::upstream(text)), place }
}

/// There is no default: a proxy that guesses its upstream would find the wrong Redis.
fn absent(checker: &mut Checker, no_upstream: NoUpstream) {
    let what = "no upstream is named";
    let place = Place::Flag(UPSTREAM);
    match no_upstream {
        NoUpstream::IsWrong => {
            let hint = "write --upstream redis://HOST:6379, set BREAKWATER_UPSTREAM, or put \
                        url = \"redis://HOST:6379\" under [upstream] of the file";
            checker.miss(&place, what, hint);
        }
        NoUpstream::IsNoted if checker.is_whole => {
            let hint = "a flag or a variable must name it when this file is run";
            checker.note(&place, what, hint);
        }
        NoUpstream::IsNoted => {}
    }
}

/// The database of the URL, else that of the key, else 0.
fn database(checker: &mut Checker, written: &WrittenUpstream, url: &Url) -> u32 {
    let of_url = url.url.as_ref().and_then(|url| url.db);
    let Some(key) = &written.db else {
        return of_url.unwrap_or(0);
    };
    if url.is_cluster() && *key.get_ref() != 0 {
        checker.complain(key, "a Redis Cluster has database 0 only", "remove db");
    }
    // Redis counts databases with an `int`; how many there are only the server knows.
    let db = checker.bounded("db", key, 0..=i32::MAX as u32);
    if of_url.is_some() && url.is_in_file() {
        checker.complain(key, "the database stands in the URL as well", "write it once");
    }
    of_url.unwrap_or(db)
}

/// What clients are shown; only a cluster can be shown as one. "standalone" is no mistake before one Redis, so that a
/// file written for a cluster can be tried before one that a flag names.
fn present_as(checker: &mut Checker, written: Option<&Spanned<String>>, url: &Url) -> PresentAs {
    let Some(word) = written else {
        return PresentAs::default();
    };
    match word.get_ref().as_str() {
        "cluster" => {
            if url.url.is_some() && !url.is_cluster() {
                let what = "one Redis cannot be presented as a cluster";
                checker.complain(
                    word,
                    what,
                    "remove present_as, or write redis-cluster:// in the URL",
                );
            }
            PresentAs::Cluster
        }
        "standalone" => PresentAs::Standalone,
        other => {
            let fault = one_of("way to present the upstream", other, &["cluster", "standalone"]);
            checker.keep(word, Err(fault)).unwrap_or_default()
        }
    }
}

/// Who serves reads. Before one Redis it has no effect, so that a file can be tried there.
fn replica_reads(checker: &mut Checker, written: Option<&Spanned<String>>) -> ReplicaReads {
    let Some(word) = written else {
        return ReplicaReads::default();
    };
    let meaning = ReplicaReads::WORDS.iter().find(|(known, _)| known == word.get_ref());
    let fault = || {
        let known = ReplicaReads::WORDS.map(|(known, _)| known);
        one_of("way to serve reads", word.get_ref(), &known)
    };
    checker.keep(word, meaning.map(|(_, it)| *it).ok_or_else(fault)).unwrap_or_default()
}

/// Whether writes are let through.
fn mode(checker: &mut Checker, written: Option<&Spanned<String>>) -> Mode {
    let Some(word) = written else {
        return Mode::default();
    };
    match word.get_ref().as_str() {
        "readwrite" => Mode::ReadWrite,
        "readonly" => Mode::ReadOnly,
        other => {
            let fault = one_of("mode of the upstream", other, &["readwrite", "readonly"]);
            checker.keep(word, Err(fault)).unwrap_or_default()
        }
    }
}

/// How *not executed* begins while the upstream is away.
fn unavailable_error(checker: &mut Checker, written: Option<&Spanned<String>>) -> UnavailableError {
    let Some(word) = written else {
        return UnavailableError::default();
    };
    match word.get_ref().as_str() {
        "ERR" => UnavailableError::Err,
        "LOADING" => UnavailableError::Loading,
        "CLUSTERDOWN" => UnavailableError::ClusterDown,
        other => {
            let known = ["ERR", "LOADING", "CLUSTERDOWN"];
            let fault = one_of("first word of an error", other, &known);
            checker.keep(word, Err(fault)).unwrap_or_default()
        }
    }
}

/// Who answers PING. Of one Redis it is a question to that Redis; of a cluster no single node can answer it: one that
/// is down would make probes end a process that serves all the others' slots.
fn ping(checker: &mut Checker, written: Option<&Spanned<String>>, url: &Url) -> Ping {
    let usual = if url.is_cluster() { Ping::Local } else { Ping::Upstream };
    let Some(word) = written else {
        return usual;
    };
    match word.get_ref().as_str() {
        "local" => Ping::Local,
        "upstream" => Ping::Upstream,
        other => {
            let fault = one_of("way to answer PING", other, &["local", "upstream"]);
            checker.keep(word, Err(fault)).unwrap_or(usual)
        }
    }
}

/// `[upstream.tls]`, which must agree with the URL's scheme: neither silently wins over the other.
fn client_tls(
    checker: &mut Checker,
    written: Option<&Spanned<Table<WrittenClientTls>>>,
    url: &Url,
) -> Option<ClientTls> {
    let is_tls = url.url.as_ref().is_some_and(|url| url.is_tls);
    let Some(place) = written else {
        return is_tls.then(ClientTls::default);
    };
    if let Some(url) = url.url.as_ref().filter(|url| !url.is_tls) {
        let hint = match url.endpoint {
            Endpoint::Tcp { .. } => "write rediss:// in the URL, or remove [upstream.tls]",
            Endpoint::Elected(_) => "write rediss-sentinel:// in the URL, or remove [upstream.tls]",
            Endpoint::Unix(_) => "a unix socket needs no TLS; remove [upstream.tls]",
        };
        let what = "[upstream.tls] is set, but the URL asks for plain text";
        checker.complain(place, what, hint);
    }
    let table = place.get_ref();
    if table.cert.is_some() != table.key.is_some() {
        let what = "cert and key of [upstream.tls] go together";
        checker.miss(place, what, "set both, or neither");
    }
    let server_name = table.server_name.as_ref();
    if let Some(name) = server_name.filter(|name| !is_server_name(name.get_ref())) {
        let what = "server_name is neither a DNS name nor an IP address";
        checker.complain(name, what, "write it without a port");
    }
    Some(ClientTls {
        ca: checker.path("ca", table.ca.as_ref(), PEM),
        cert: checker.path("cert", table.cert.as_ref(), PEM),
        key: checker.path("key", table.key.as_ref(), PEM),
        server_name: server_name.map(|name| name.get_ref().clone()),
    })
}

/// The deadlines of fast and of other commands.
fn deadlines(checker: &mut Checker, written: &WrittenUpstream) -> (Duration, Duration) {
    let WrittenUpstream { reply_deadline_fast: fast_key, reply_deadline_slow: slow_key, .. } =
        written;
    let fast = checker.time("reply_deadline_fast", fast_key, MILLISECOND..=HOUR);
    let slow = checker.time("reply_deadline_slow", slow_key, MILLISECOND..=HOUR);
    if slow < fast {
        let (slow, fast) = (Time(slow), Time(fast));
        let what =
            format!("reply_deadline_slow ({slow}) is less than reply_deadline_fast ({fast})");
        let place = Place::either(slow_key, fast_key);
        checker.complain(&place, what, "give slow commands at least as long");
    }
    (fast, slow)
}

/// Upper-case names, as commands are compared; a new name must be one word and serve one command.
///
/// The new names are kept as written and never quoted: some hide a command behind a name that is a secret.
fn renamed(
    checker: &mut Checker,
    written: &BTreeMap<String, Spanned<String>>,
) -> Vec<(String, String)> {
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let mut renamed: Vec<(String, String)> = Vec::new();
    for (command, name) in written {
        let command = command.to_ascii_uppercase();
        // Redis looks commands up without regard to case, so two names that differ only there are one.
        let is_taken = |(_, other): &(String, String)| other.eq_ignore_ascii_case(name.get_ref());
        if !is_word(&command) || !is_word(name.get_ref()) {
            let what = format!("the new name of '{command}' is not one word");
            let hint = "write COMMAND = \"name on the server\"; \
                        a command that the server disabled needs no entry";
            checker.complain(name, what, hint);
        } else if renamed.iter().any(|(other, _)| *other == command) {
            checker.complain(name, format!("'{command}' is renamed twice"), "keep one");
        } else if renamed.iter().any(is_taken) {
            let what = format!("the new name of '{command}' is that of another command");
            checker.complain(name, what, "one name serves one command");
        } else {
            renamed.push((command, name.get_ref().clone()));
        }
    }
    renamed
}

// === impl Url ===

impl Url {
    /// True if it stands in the same file as the keys, where two answers are one too many.
    pub(super) fn is_in_file(&self) -> bool {
        matches!(self.place, Place::File(_))
    }

    /// True if it names a cluster.
    fn is_cluster(&self) -> bool {
        self.url.as_ref().is_some_and(|url| matches!(url.deployment, Deployment::Cluster(_)))
    }

    /// True if it names a master behind Sentinels.
    pub(super) fn is_sentinel(&self) -> bool {
        let deployment = self.url.as_ref().map(|url| &url.deployment);
        matches!(deployment, Some(Deployment::Sentinel { .. }))
    }
}

//! From what was written to [`Settings`]: joins the layers and judges every value.
//!
//! Owns the precedence (flag or variable, file, default; key by key), the bounds of every number, and the rule
//! that all complaints come at once. Never opens anything but the configuration file itself: whether a
//! certificate or a password file exists is found out, and said, where it is read.
//!
//! What surprises: after a complaint about the file's form, what is *absent* is not complained about any more,
//! because it may be exactly what could not be read. What is present still is.

mod credentials;
mod guards;
mod listener;
mod request;
mod upstream;
mod upstreams;
mod user;
mod watch;

pub use self::request::ordered;

use self::listener::Surroundings;
use super::checker::{Checker, Place, one_of};
use super::complaint::{Complaint, Fault};
use super::file::{Written, WrittenLog, WrittenMemory, read};
use super::quantity::{HOUR, MILLISECOND, MINUTE, Size, Time, ZERO};
use super::source::Source;
use super::{
    LogFormat, LogSettings, MemorySettings, Profile, Settings, UPSTREAM_DEFAULT, UpstreamSettings,
    Workers, address, content_hash,
};
use crate::cli::RunFlags;
use crate::log::check_level;
use crate::resp::limits::BULK_BYTES_CEILING;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use toml::Spanned;

/// Longest configuration file in bytes; ten thousand renamed commands are a tenth of it.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Whether a configuration without an upstream is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoUpstream {
    /// To run: there must be one.
    IsWrong,
    /// To check a file: a flag or a variable may name it later. It is noted, and there are no settings.
    IsNoted,
}

/// What came of an examination.
pub struct Findings {
    /// Set exactly if there are no complaints and there is an upstream.
    pub settings: Option<Settings>,
    /// What is wrong, in the order of the file, flags first.
    pub complaints: Vec<Complaint>,
    /// What is allowed but deserves a warning.
    pub notes: Vec<Complaint>,
}

// What a complaint about a flag calls it: whoever set the variable does not know the flag, and the reverse.
const ADMIN: &str = "--admin (BREAKWATER_ADMIN)";
const CONFIG: &str = "--config (BREAKWATER_CONFIG)";
const DRAIN_TIMEOUT: &str = "--drain-timeout (BREAKWATER_DRAIN_TIMEOUT)";
const LISTEN: &str = "--listen (BREAKWATER_LISTEN)";
const LOG: &str = "--log (BREAKWATER_LOG)";
const LOG_FORMAT: &str = "--log-format (BREAKWATER_LOG_FORMAT)";
const PROFILE: &str = "--profile (BREAKWATER_PROFILE)";
const UPSTREAM: &str = "--upstream (BREAKWATER_UPSTREAM)";
const WORKERS: &str = "--workers (BREAKWATER_WORKERS)";

/// What the path of a certificate or a key leads to.
const PEM: &str = "of a PEM file";

/// Longest drain: beyond an hour somebody has forgotten the process.
const DRAIN_MAX: Time = HOUR;

/// Joins all layers and judges them. Pure but for reading the file.
#[must_use]
pub fn examine(flags: &RunFlags, no_upstream: NoUpstream) -> Findings {
    let (mut checker, written) = of_file(flags.config.as_deref());
    let settings = settings(&mut checker, flags, &written, no_upstream);
    let Checker { mut complaints, notes, .. } = checker;
    // `None` sorts first: flags before the file, then from its top to its end.
    complaints.sort_by_key(|complaint| complaint.position);
    let settings = settings.filter(|_| complaints.is_empty());
    Findings { settings, complaints, notes }
}

/// Reads the file, if there is one, and starts with what is wrong with its form.
fn of_file(path: Option<&Path>) -> (Checker, Written) {
    let Some(path) = path else {
        return (Checker::new(None, Vec::new()), Written::default());
    };
    match Source::open(path, FILE_BYTES_MAX, CONFIG) {
        Ok(source) => {
            let (written, complaints) = read(&source);
            (Checker::new(Some(Rc::new(source)), complaints), written)
        }
        Err(complaint) => (Checker::new(None, vec![complaint]), Written::default()),
    }
}

/// Every part is judged even if an earlier one failed. `None` if there is no upstream; that it is right otherwise
/// only the absence of complaints says.
fn settings(
    checker: &mut Checker,
    flags: &RunFlags,
    written: &Written,
    no_upstream: NoUpstream,
) -> Option<Settings> {
    let policy = policy(checker, flags, written);
    let profile = profile(checker, flags, written);
    let workers = workers(checker, flags, written);
    let drain_timeout = drain_timeout(checker, flags, written);
    let memory = memory(checker, &written.memory);
    let log = log(checker, flags, &written.log);
    let admin = admin(checker, flags, written);
    let is_local = admin.is_none_or(|address| address.ip().is_loopback());
    let watch = watch::check(checker, written);
    let upstream = upstream::check(checker, flags, &written.upstream, no_upstream);
    let upstreams = upstreams::check(checker, written);
    let default = upstream.iter().map(|settings| (UPSTREAM_DEFAULT, settings));
    let others = upstreams.iter().map(|it| (&*it.name, &it.settings));
    let has_identity = |(_, settings): &(&str, &UpstreamSettings)| settings.credentials.is_some();
    let names = [UPSTREAM_DEFAULT].into_iter().chain(written.upstreams.keys().map(String::as_str));
    let around = Surroundings {
        upstreams: &names.collect::<Vec<_>>(),
        identified: &default.chain(others).filter(has_identity).map(|it| it.0).collect::<Vec<_>>(),
        request_bytes_total: memory.request_bytes_total,
    };
    note_parts(checker, &written.memory, workers, 1 + upstreams.len());
    let listeners = listener::check(checker, &flags.listen, &written.listener, around);
    listener::distinct(checker, &listeners, admin);
    Some(Settings {
        listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
        upstream: upstream?,
        upstreams,
        workers,
        admin,
        // Whoever reaches a port that is open to others needs no password for it.
        admin_changes: written.admin_changes.unwrap_or(is_local),
        profile,
        policy,
        log,
        memory,
        watch,
        drain_timeout,
        notes: checker.notes.clone(),
        file_hash: checker.source.as_ref().map(|source| content_hash(source.text.as_bytes())),
    })
}

/// The file of rules. It is read by whoever makes a policy of it.
fn policy(checker: &mut Checker, flags: &RunFlags, written: &Written) -> Option<PathBuf> {
    if let Some(path) = &flags.policy {
        return Some(path.clone());
    }
    checker.path("policy", written.policy.as_ref(), "of a file of rules")
}

/// A guard unless somebody asks for less.
fn profile(checker: &mut Checker, flags: &RunFlags, written: &Written) -> Profile {
    let (text, place) = pick(flags.profile.as_ref(), PROFILE, &written.profile);
    let profile =
        Profile::named(text).ok_or_else(|| one_of("profile", text, &["guard", "observe", "open"]));
    checker.keep(&place, profile).unwrap_or_default()
}

/// One worker unless somebody asks for more: the writes of one coalesce best.
fn workers(checker: &mut Checker, flags: &RunFlags, written: &Written) -> Workers {
    match &flags.workers {
        Some(text) => checker.keep(Place::Flag(WORKERS), text.parse()).unwrap_or(Workers::Auto),
        None => *written.workers.get_ref(),
    }
}

/// Zero is allowed: a process that shall stop at once.
fn drain_timeout(checker: &mut Checker, flags: &RunFlags, written: &Written) -> Duration {
    let range = ZERO..=DRAIN_MAX;
    let Some(text) = &flags.drain_timeout else {
        return checker.time("drain_timeout", &written.drain_timeout, range);
    };
    let place = Place::Flag(DRAIN_TIMEOUT);
    let time = checker.keep(&place, text.parse()).unwrap_or(ZERO);
    checker.within(&place, "drain_timeout", time, range);
    time.0
}

/// A misspelt level would silence the log, so it is a complaint here and not a surprise later.
fn log(checker: &mut Checker, flags: &RunFlags, written: &WrittenLog) -> LogSettings {
    let (level, place) = pick(flags.log.as_ref(), LOG, &written.level);
    if let Err(error) = check_level(level) {
        let hint = "write a level, or a filter such as \"info,breakwater::upstream=debug\"";
        checker.complain(&place, error.to_string(), hint);
    }
    let (format, place) = pick(flags.log_format.as_ref(), LOG_FORMAT, &written.format);
    let format = match format {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(one_of("log format", format, &["text", "json"])),
    };
    let format = checker.keep(&place, format).unwrap_or_default();
    LogSettings { level: level.to_owned(), format }
}

/// `None` if it is off, or wrong and complained about.
fn admin(checker: &mut Checker, flags: &RunFlags, written: &Written) -> Option<SocketAddr> {
    let (text, place) = pick(flags.admin.as_ref(), ADMIN, &written.admin);
    if text == "off" {
        return None;
    }
    let more = |fault: Fault| Fault::new(fault.what, format!("{}; \"off\" for none", fault.hint));
    checker.keep(&place, address::socket(text).map_err(more))
}

/// Bounds of what is held; two of them only make sense in one order.
fn memory(checker: &mut Checker, written: &WrittenMemory) -> MemorySettings {
    // Less than a buffer's worth would stop every session; more than a tebibyte is a slip of the keyboard.
    let any = || Size(64 << 10)..=Size(1 << 40);
    let (session_key, total_key) = (&written.session_reply_bytes, &written.reply_bytes_total);
    let (lane_key, client_key) = (&written.lane_stall, &written.client_stall);
    let commands_key = &written.session_commands_max;
    let (scripts_key, script_key) = (&written.script_bytes_total, &written.script_bytes);
    let scripts = || Size(0)..=Size(1 << 30);
    let settings = MemorySettings {
        session_reply_bytes: checker.size("session_reply_bytes", session_key, any()),
        reply_bytes_total: checker.size("reply_bytes_total", total_key, any()),
        request_bytes_total: checker.size(
            "request_bytes_total",
            &written.request_bytes_total,
            any(),
        ),
        lane_stall: checker.time("lane_stall", lane_key, MILLISECOND..=MINUTE),
        client_stall: checker.time("client_stall", client_key, MILLISECOND..=HOUR),
        session_commands_max: checker.bounded("session_commands_max", commands_key, 1..=65_536),
        script_bytes_total: checker.size("script_bytes_total", scripts_key, scripts()),
        script_bytes: checker.size("script_bytes", script_key, scripts()),
    };
    if total_key < session_key {
        let (total, session) = (total_key.get_ref(), session_key.get_ref());
        let what =
            format!("reply_bytes_total ({total}) is less than session_reply_bytes ({session})");
        let place = Place::either(total_key, session_key);
        checker.complain(&place, what, "the total holds at least one session's");
    }
    if client_key <= lane_key {
        let (client, lane) = (client_key.get_ref(), lane_key.get_ref());
        let what = format!("client_stall ({client}) is not more than lane_stall ({lane})");
        let place = Place::either(client_key, lane_key);
        checker.complain(&place, what, "a client is closed only after its lane was freed of it");
    }
    settings
}

/// The totals are divided among the workers of all upstreams. Said where a part is less than what one
/// client is promised: it would meet another bound than the one that is written.
fn note_parts(checker: &mut Checker, written: &WrittenMemory, workers: Workers, upstreams: usize) {
    if upstreams == 1 {
        return;
    }
    let among = workers.count() * upstreams;
    let promised = [
        ("reply_bytes_total", &written.reply_bytes_total, written.session_reply_bytes.get_ref().0),
        ("request_bytes_total", &written.request_bytes_total, BULK_BYTES_CEILING),
    ];
    for (name, total, most) in promised {
        let part = total.get_ref().0 / among;
        if part < most {
            let what = format!(
                "{name} leaves each of {among} workers {}, less than the {} that one client may need",
                Size(part),
                Size(most)
            );
            checker.note(total, what, "raise it: every upstream has workers of its own");
        }
    }
}

/// The flag's text if it was given, else the file's or the default.
fn pick<'a>(
    flag: Option<&'a String>,
    name: &'static str,
    written: &'a Spanned<String>,
) -> (&'a str, Place) {
    match flag {
        Some(text) => (text, Place::Flag(name)),
        None => (written.get_ref(), written.into()),
    }
}

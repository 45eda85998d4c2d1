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
mod user;
mod watch;

pub use self::request::ordered;

use self::listener::Surroundings;
use super::complaint::{Complaint, Fault};
use super::file::{Source, Written, WrittenLog, WrittenMemory, read};
use super::quantity::{HOUR, MILLISECOND, MINUTE, Size, Time, ZERO};
use super::spelling::nearest;
use super::{
    LogFormat, LogSettings, MemorySettings, Position, Profile, Settings, Workers, address,
    content_hash,
};
use crate::cli::RunFlags;
use crate::log::check_level;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
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

/// Where a value was written.
#[derive(Clone, Debug)]
enum Place {
    /// At these bytes of the file.
    File(Range<usize>),
    /// In this flag or its variable; clap has joined the two.
    Flag(&'static str),
}

/// Collects what is said about one configuration.
struct Checker {
    /// `None` without a file.
    source: Option<Source>,
    /// The file's form was right, so what is absent really is.
    is_whole: bool,
    /// In the order of their discovery.
    complaints: Vec<Complaint>,
    /// What is allowed but deserves a warning.
    notes: Vec<Complaint>,
}

// What a complaint about a flag calls it: whoever set the variable does not know the flag, and the reverse.
const ADMIN: &str = "--admin (BREAKWATER_ADMIN)";
const CONFIG: &str = "--config (BREAKWATER_CONFIG)";
const DRAIN_TIMEOUT: &str = "--drain-timeout (BREAKWATER_DRAIN_TIMEOUT)";
const LISTEN: &str = "--listen (BREAKWATER_LISTEN)";
const LOG: &str = "--log (BREAKWATER_LOG)";
const LOG_FORMAT: &str = "--log-format (BREAKWATER_LOG_FORMAT)";
const POLICY: &str = "--policy (BREAKWATER_POLICY)";
const PROFILE: &str = "--profile (BREAKWATER_PROFILE)";
const UPSTREAM: &str = "--upstream (BREAKWATER_UPSTREAM)";
const WORKERS: &str = "--workers (BREAKWATER_WORKERS)";

/// Longest drain: beyond an hour somebody has forgotten the process.
const DRAIN_MAX: Time = HOUR;

/// Joins all layers and judges them. Pure but for reading the file.
#[must_use]
pub fn examine(flags: &RunFlags, no_upstream: NoUpstream) -> Findings {
    let (mut checker, written) = Checker::of_file(flags.config.as_deref());
    let settings = settings(&mut checker, flags, &written, no_upstream);
    let Checker { mut complaints, notes, .. } = checker;
    // `None` sorts first: flags before the file, then from its top to its end.
    complaints.sort_by_key(|complaint| complaint.position);
    let settings = settings.filter(|_| complaints.is_empty());
    Findings { settings, complaints, notes }
}

/// The text of a configuration file, bounded.
fn open(path: &Path) -> Result<String, Complaint> {
    let shown = path.display().to_string();
    let mut bytes = Vec::new();
    // One byte more than allowed, to see whether there is one. Devices and pipes have no length to ask for.
    let limit = FILE_BYTES_MAX as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    if let Err(error) = read {
        let fault = Fault::new(format!("cannot be read: {error}"), format!("see {CONFIG}"));
        return Err(Complaint::about(shown, fault));
    }
    if bytes.len() > FILE_BYTES_MAX {
        let what = format!("longer than {FILE_BYTES_MAX} bytes");
        return Err(Complaint::about(shown, Fault::new(what, "is it the right file?")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        // Everything before the offset is valid, so it is the same in the lossy text.
        let position = Position::of(&String::from_utf8_lossy(error.as_bytes()), offset);
        let fault = Fault::new("not UTF-8", "TOML is always UTF-8; save the file as such");
        Complaint::in_file(shown, position, fault)
    })
}

/// Every part is judged even if an earlier one failed. `None` if there is no upstream; that it is right otherwise
/// only the absence of complaints says.
fn settings(
    checker: &mut Checker,
    flags: &RunFlags,
    written: &Written,
    no_upstream: NoUpstream,
) -> Option<Settings> {
    policy(checker, flags, written);
    let profile = profile(checker, flags, written);
    let workers = workers(checker, flags, written);
    let drain_timeout = drain_timeout(checker, flags, written);
    let memory = memory(checker, &written.memory);
    let log = log(checker, flags, &written.log);
    let admin = admin(checker, flags, written);
    let is_local = admin.is_none_or(|address| address.ip().is_loopback());
    let watch = watch::check(checker, written);
    let upstream = upstream::check(checker, flags, &written.upstream, no_upstream);
    let around = Surroundings {
        has_identity: upstream.as_ref().is_some_and(|upstream| upstream.credentials.is_some()),
        request_bytes_total: memory.request_bytes_total,
    };
    let listeners = listener::check(checker, &flags.listen, &written.listener, around);
    listener::distinct(checker, &listeners, admin);
    Some(Settings {
        listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
        upstream: upstream?,
        workers,
        admin,
        // Whoever reaches a port that is open to others needs no password for it.
        admin_changes: written.admin_changes.unwrap_or(is_local),
        profile,
        log,
        memory,
        watch,
        drain_timeout,
        notes: checker.notes.clone(),
        file_hash: checker.source.as_ref().map(|source| content_hash(source.text.as_bytes())),
    })
}

/// A policy that nobody enforces would be worse than none: its file is refused, not ignored.
fn policy(checker: &mut Checker, flags: &RunFlags, written: &Written) {
    let place = match (&flags.policy, &written.policy) {
        (Some(_), _) => Place::Flag(POLICY),
        (None, Some(path)) => path.into(),
        (None, None) => return,
    };
    let what = "a policy file needs the policy engine, which this build does not have";
    checker.complain(&place, what, "leave it out");
}

/// Never silently open: whoever asks for a guard is told that there is none.
fn profile(checker: &mut Checker, flags: &RunFlags, written: &Written) -> Profile {
    let (text, place) = pick(flags.profile.as_ref(), PROFILE, &written.profile);
    let fault = match text {
        "open" => return Profile::Open,
        "guard" | "observe" => {
            let lacks = "needs the policy engine, which this build does not have";
            Fault::new(format!("profile '{text}' {lacks}"), "use 'open'")
        }
        _ => one_of("profile", text, &["open"]),
    };
    checker.keep(&place, Err(fault)).unwrap_or_default()
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

/// A word that is none of the known ones.
fn one_of(subject: &str, word: &str, known: &[&str]) -> Fault {
    let hint = match nearest(word, known) {
        Some(known) => format!("did you mean '{known}'?"),
        None => format!("write {}", known.join(" or ")),
    };
    Fault::new(format!("'{word}' is not a {subject}"), hint)
}

// === impl Place ===

impl Place {
    /// Of two values that contradict each other, the one that somebody wrote; a default has the place 0..0.
    fn either<A, B>(first: &Spanned<A>, second: &Spanned<B>) -> Self {
        if first.span().is_empty() { second.into() } else { first.into() }
    }
}

impl<T> From<&Spanned<T>> for Place {
    fn from(value: &Spanned<T>) -> Self {
        Self::File(value.span())
    }
}

impl From<&Place> for Place {
    fn from(place: &Place) -> Self {
        place.clone()
    }
}

// === impl Checker ===

impl Checker {
    /// Reads the file, if there is one, and starts with what is wrong with its form.
    fn of_file(path: Option<&Path>) -> (Self, Written) {
        let (complaints, notes) = (Vec::new(), Vec::new());
        let mut checker = Self { source: None, is_whole: true, complaints, notes };
        let Some(path) = path else {
            return (checker, Written::default());
        };
        let text = match open(path) {
            Ok(text) => text,
            Err(complaint) => {
                checker.complaints.push(complaint);
                checker.is_whole = false;
                return (checker, Written::default());
            }
        };
        let source = Source { path: path.display().to_string(), text };
        let (written, complaints) = read(&source);
        checker.is_whole = complaints.is_empty();
        checker.complaints = complaints;
        checker.source = Some(source);
        (checker, written)
    }

    /// Something is wrong at this place.
    fn complain(
        &mut self,
        place: impl Into<Place>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let complaint = self.placed(&place.into(), Fault::new(what, hint));
        self.complaints.push(complaint);
    }

    /// Something is missing here. Not said if the file could not be read whole: it may well be there.
    fn miss(&mut self, place: impl Into<Place>, what: &str, hint: &str) {
        if self.is_whole {
            self.complain(place, what, hint);
        }
    }

    /// Something is allowed but deserves a warning.
    fn note(&mut self, place: impl Into<Place>, what: impl Into<String>, hint: &str) {
        let note = self.placed(&place.into(), Fault::new(what, hint));
        self.notes.push(note);
    }

    /// The value of a parse, or a complaint.
    fn keep<T>(&mut self, place: impl Into<Place>, parsed: Result<T, Fault>) -> Option<T> {
        parsed.map_err(|Fault { what, hint }| self.complain(place, what, hint)).ok()
    }

    /// Complains unless a value is in its range.
    fn within<T: PartialOrd + Display>(
        &mut self,
        place: impl Into<Place>,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            let hint = format!("write {} to {}", range.start(), range.end());
            self.complain(place, format!("{key} is {value}"), hint);
        }
    }

    /// The value of a key, in its range or complained about.
    fn bounded<T: PartialOrd + Display + Copy>(
        &mut self,
        key: &str,
        written: &Spanned<T>,
        range: RangeInclusive<T>,
    ) -> T {
        self.within(written, key, *written.get_ref(), range);
        *written.get_ref()
    }

    /// The same for a duration.
    fn time(&mut self, key: &str, at: &Spanned<Time>, range: RangeInclusive<Time>) -> Duration {
        self.bounded(key, at, range).0
    }

    /// The same for a size in bytes.
    fn size(&mut self, key: &str, at: &Spanned<Size>, range: RangeInclusive<Size>) -> usize {
        self.bounded(key, at, range).0
    }

    /// The path of a key; an empty one is a complaint.
    fn path(&mut self, key: &str, written: Option<&Spanned<String>>) -> Option<PathBuf> {
        let text = written?;
        if text.get_ref().is_empty() {
            self.complain(text, format!("{key} is empty"), "write the path of a PEM file");
        }
        Some(PathBuf::from(text.get_ref()))
    }

    /// A fault becomes a complaint by its place.
    fn placed(&self, place: &Place, fault: Fault) -> Complaint {
        match (place, &self.source) {
            (Place::File(span), Some(source)) => source.complain_at(Some(span.clone()), fault),
            (Place::Flag(name), _) => Complaint::about(*name, fault),
            // A default is right, so this is never reached; it must not be lost if it is.
            (Place::File(_), None) => Complaint::about("default", fault),
        }
    }
}

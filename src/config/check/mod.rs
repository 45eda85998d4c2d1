//! From what was written to [`Settings`]: joins the layers and judges every value.
//!
//! Owns the precedence (flag or variable, file, default; key by key), the bounds of every number, and the rule
//! that all complaints come at once. Never opens anything but the configuration file itself: whether a
//! certificate or a password file exists is found out, and said, where it is read.
//!
//! What surprises: after a complaint about the file's form, what is *absent* is not complained about any more,
//! because it may be exactly what could not be read. What is present still is.

mod listener;
mod upstream;

use super::complaint::{Complaint, Fault};
use super::file::{Source, Written, WrittenMemory, nearest, read};
use super::quantity::{Size, Time};
use super::{LogFormat, LogSettings, MemorySettings, Profile, Settings, Workers, address, content_hash};
use crate::cli::RunFlags;
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
    complaints: Vec<Complaint>,
    notes: Vec<Complaint>,
}

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
const DRAIN_MAX: Duration = Duration::from_secs(3_600);

/// Joins all layers and judges them. Pure but for reading the file.
#[must_use]
pub fn examine(flags: &RunFlags, no_upstream: NoUpstream) -> Findings {
    let mut checker = Checker { source: None, is_whole: true, complaints: Vec::new(), notes: Vec::new() };
    let mut written = Written::default();
    let mut file_hash = None;
    if let Some(path) = &flags.config {
        match open(path) {
            Ok(text) => {
                file_hash = Some(content_hash(text.as_bytes()));
                let source = Source { path: path.display().to_string(), text };
                (written, checker.complaints) = read(&source);
                checker.is_whole = checker.complaints.is_empty();
                checker.source = Some(source);
            }
            Err(complaint) => {
                checker.is_whole = false;
                checker.complaints.push(complaint);
            }
        }
    }
    let settings = settings(&mut checker, flags, written, no_upstream);
    let Checker { mut complaints, notes, .. } = checker;
    // `None` sorts first: flags before the file, then from its top to its end.
    complaints.sort_by_key(|complaint| complaint.position);
    let settings = settings
        .filter(|_| complaints.is_empty())
        .map(|settings| Settings { notes: notes.clone(), file_hash, ..settings });
    Findings { settings, complaints, notes }
}

/// The text of a configuration file, bounded.
fn open(path: &Path) -> Result<String, Complaint> {
    let about = |what: String, hint: &str| Complaint::about(path.display().to_string(), Fault::new(what, hint));
    let mut bytes = Vec::new();
    let limit = FILE_BYTES_MAX as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|error| about(format!("cannot be read: {error}"), &format!("see {CONFIG}")))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(about(format!("longer than {FILE_BYTES_MAX} bytes"), "is it the right file?"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        // Everything before the offset is valid, so it is the same in the lossy text.
        let position = super::Position::of(&text, at);
        let fault = Fault::new("not UTF-8", "TOML is always UTF-8; save the file as such");
        Complaint::in_file(path.display().to_string(), position, fault)
    })
}

/// Every part is judged even if an earlier one failed; `None` if the upstream or a listener could not be made.
fn settings(
    checker: &mut Checker,
    flags: &RunFlags,
    written: Written,
    no_upstream: NoUpstream,
) -> Option<Settings> {
    policy(checker, flags, &written);
    let profile = profile(checker, flags, &written);
    let workers = match &flags.workers {
        Some(text) => checker.keep(&Place::Flag(WORKERS), text.parse()).unwrap_or(Workers::Auto),
        None => written.workers.into_inner(),
    };
    let (drain, place) = match &flags.drain_timeout {
        Some(text) => (text.parse(), Place::Flag(DRAIN_TIMEOUT)),
        None => (Ok(*written.drain_timeout.get_ref()), Place::File(written.drain_timeout.span())),
    };
    let drain = checker.keep(&place, drain).unwrap_or(Time::ms(0));
    checker.within(&place, "drain_timeout", drain, Time::ms(0)..=Time(DRAIN_MAX));
    let memory = memory(checker, &written.memory);
    let log = log(checker, flags, written.log.level, written.log.format);
    let admin = admin(checker, flags, written.admin);
    let upstream = upstream::check(checker, flags, written.upstream, no_upstream);
    let has_identity = upstream.as_ref().is_some_and(|upstream| upstream.credentials.is_some());
    let request_bytes_max = memory.request_bytes_total;
    let listeners = listener::check(checker, &flags.listen, &written.listener, has_identity, request_bytes_max);
    listener::distinct(checker, &listeners, admin);
    let listeners = listeners.into_iter().map(|(listener, _)| listener).collect();
    Some(Settings {
        listeners,
        upstream: upstream?,
        workers,
        admin,
        profile,
        log,
        memory,
        drain_timeout: drain.0,
        notes: Vec::new(),
        file_hash: None,
    })
}

/// A policy that nobody enforces would be worse than none: its file is refused, not ignored.
fn policy(checker: &mut Checker, flags: &RunFlags, written: &Written) {
    let given = match (&flags.policy, &written.policy) {
        (Some(_), _) => Some(Place::Flag(POLICY)),
        (None, Some(path)) => Some(Place::File(path.span())),
        (None, None) => None,
    };
    if let Some(place) = given {
        let what = "a policy file needs the policy engine, which this build does not have";
        checker.complain(&place, Fault::new(what, "leave it out"));
    }
}

fn profile(checker: &mut Checker, flags: &RunFlags, written: &Written) -> Profile {
    let (text, place) = pick(flags.profile.as_ref(), PROFILE, &written.profile);
    let fault = match text {
        "open" => return Profile::Open,
        "guard" | "observe" => {
            let what = format!("profile '{text}' needs the policy engine, which this build does not have");
            Fault::new(what, "use 'open'")
        }
        _ => one_of("profile", text, &["open"]),
    };
    checker.complain(&place, fault);
    Profile::Open
}

fn log(
    checker: &mut Checker,
    flags: &RunFlags,
    level: Spanned<String>,
    format: Spanned<String>,
) -> LogSettings {
    let (level, place) = pick(flags.log.as_ref(), LOG, &level);
    if let Err(error) = crate::log::check_level(level) {
        let hint = "write a level, or a filter such as \"info,breakwater::upstream=debug\"";
        checker.complain(&place, Fault::new(error.to_string(), hint));
    }
    let (format, place) = pick(flags.log_format.as_ref(), LOG_FORMAT, &format);
    let format = match format {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        _ => {
            checker.complain(&place, one_of("log format", format, &["text", "json"]));
            LogFormat::Text
        }
    };
    LogSettings { level: level.to_owned(), format }
}

/// `None` if it is off, or wrong and complained about.
fn admin(checker: &mut Checker, flags: &RunFlags, written: Spanned<String>) -> Option<SocketAddr> {
    let (text, place) = pick(flags.admin.as_ref(), ADMIN, &written);
    if text == "off" {
        return None;
    }
    let more = |fault: Fault| Fault::new(fault.what, format!("{}; \"off\" for none", fault.hint));
    checker.keep(&place, address::socket(text).map_err(more))
}

fn memory(checker: &mut Checker, written: &WrittenMemory) -> MemorySettings {
    let minute = Time::secs(60);
    // Less than a buffer's worth would stop every session; more than a tebibyte is a slip of the keyboard.
    let any = Size(64 << 10)..=Size(1 << 40);
    let settings = MemorySettings {
        session_reply_bytes: checker.bounded("session_reply_bytes", &written.session_reply_bytes, any.clone()).0,
        reply_bytes_total: checker.bounded("reply_bytes_total", &written.reply_bytes_total, any.clone()).0,
        request_bytes_total: checker.bounded("request_bytes_total", &written.request_bytes_total, any).0,
        lane_stall: checker.bounded("lane_stall", &written.lane_stall, Time::ms(1)..=minute).0,
        client_stall: checker.bounded("client_stall", &written.client_stall, Time::ms(1)..=Time::secs(3_600)).0,
        session_commands_max: checker.bounded("session_commands_max", &written.session_commands_max, 1..=65_536),
    };
    if settings.reply_bytes_total < settings.session_reply_bytes {
        let (total, session) = (Size(settings.reply_bytes_total), Size(settings.session_reply_bytes));
        let what = format!("reply_bytes_total ({total}) is less than session_reply_bytes ({session})");
        let place = Place::File(either_span(&written.reply_bytes_total, &written.session_reply_bytes));
        checker.complain(&place, Fault::new(what, "the total holds at least one session's"));
    }
    if settings.client_stall <= settings.lane_stall {
        let (client, lane) = (Time(settings.client_stall), Time(settings.lane_stall));
        let what = format!("client_stall ({client}) is not more than lane_stall ({lane})");
        let place = Place::File(either_span(&written.client_stall, &written.lane_stall));
        checker.complain(&place, Fault::new(what, "a client is closed only after its lane was freed of it"));
    }
    settings
}

/// The flag's text if it was given, else the file's or the default.
fn pick<'a>(flag: Option<&'a String>, name: &'static str, written: &'a Spanned<String>) -> (&'a str, Place) {
    match flag {
        Some(text) => (text, Place::Flag(name)),
        None => (written.get_ref(), Place::File(written.span())),
    }
}

/// Of two values that contradict each other, the one that somebody wrote; a default has the place 0..0.
fn either_span<A, B>(first: &Spanned<A>, second: &Spanned<B>) -> Range<usize> {
    if first.span().is_empty() { second.span() } else { first.span() }
}

/// A word that is none of the known ones.
fn one_of(subject: &str, word: &str, known: &[&str]) -> Fault {
    let hint = match nearest(word, known) {
        Some(known) => format!("did you mean '{known}'?"),
        None => format!("write {}", known.join(" or ")),
    };
    Fault::new(format!("'{word}' is not a {subject}"), hint)
}

// === impl Checker ===

impl Checker {
    /// Something is wrong at this place.
    fn complain(&mut self, place: &Place, fault: Fault) {
        let complaint = self.placed(place, fault);
        self.complaints.push(complaint);
    }

    /// Something is missing here. Not said if the file could not be read whole: it may well be there.
    fn miss(&mut self, place: &Place, fault: Fault) {
        if self.is_whole {
            self.complain(place, fault);
        }
    }

    /// Something is allowed but deserves a warning.
    fn note(&mut self, place: &Place, fault: Fault) {
        let note = self.placed(place, fault);
        self.notes.push(note);
    }

    /// The value of a parse, or a complaint.
    fn keep<T>(&mut self, place: &Place, parsed: Result<T, Fault>) -> Option<T> {
        parsed.map_err(|fault| self.complain(place, fault)).ok()
    }

    /// Complains unless a value is in its range.
    fn within<T: PartialOrd + Display>(
        &mut self,
        place: &Place,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            let (start, end) = (range.start(), range.end());
            let what = format!("{key} is {value}");
            self.complain(place, Fault::new(what, format!("write {start} to {end}")));
        }
    }

    /// The value of a key, in its range or complained about.
    fn bounded<T: PartialOrd + Display + Copy>(
        &mut self,
        key: &str,
        written: &Spanned<T>,
        range: RangeInclusive<T>,
    ) -> T {
        let value = *written.get_ref();
        self.within(&Place::File(written.span()), key, value, range);
        value
    }

    /// The path of a key; an empty one is a complaint.
    fn path(&mut self, key: &str, written: Option<&Spanned<String>>) -> Option<PathBuf> {
        let text = written?;
        if text.get_ref().is_empty() {
            let fault = Fault::new(format!("{key} is empty"), "write the path of a PEM file");
            self.complain(&Place::File(text.span()), fault);
        }
        Some(PathBuf::from(text.get_ref()))
    }

    fn placed(&self, place: &Place, fault: Fault) -> Complaint {
        match (place, &self.source) {
            (Place::File(span), Some(source)) => source.complain_at(Some(span.clone()), fault),
            (Place::Flag(name), _) => Complaint::about(*name, fault),
            // A default is right, so this is never reached; it must not be lost if it is.
            (Place::File(_), None) => Complaint::about("default", fault),
        }
    }
}

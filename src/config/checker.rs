//! Collecting what is said about one file or command line: complaints, which make it void, and notes.
//!
//! Owns [`Checker`] and the ways in which a value is judged: in a range, one of some words, present. Never knows a
//! key. What surprises: after a complaint about a file's form, what is *absent* is not missed any more, because it
//! may be exactly what could not be read.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use toml::Spanned;

use super::complaint::{Complaint, Fault};
use super::quantity::{Size, Time};
use super::source::Source;
use super::spelling::nearest;

/// Where a value was written.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// At these bytes of the file.
    File(Range<usize>),
    /// In this flag or its variable; clap has joined the two.
    Flag(&'static str),
}

/// Collects what is said about one configuration.
pub(crate) struct Checker {
    /// `None` without a file.
    pub(crate) source: Option<Rc<Source>>,
    /// Where in the source the text begins whose places are told; 0 unless it is read piece by piece.
    pub(crate) offset: usize,
    /// The file's form was right, so what is absent really is.
    pub(crate) is_whole: bool,
    /// In the order of their discovery.
    pub(crate) complaints: Vec<Complaint>,
    /// What is allowed but deserves a warning.
    pub(crate) notes: Vec<Complaint>,
}

/// A word that is none of the known ones.
pub(crate) fn one_of(subject: &str, word: &str, known: &[&str]) -> Fault {
    let hint = match nearest(word, known) {
        Some(known) => format!("did you mean '{known}'?"),
        None => format!("write {}", known.join(" or ")),
    };
    let article = if subject.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    Fault::new(format!("'{word}' is not {article} {subject}"), hint)
}

// === impl Place ===

impl Place {
    /// Of two values that contradict each other, the one that somebody wrote; a default has the place 0..0.
    pub(crate) fn either<A, B>(first: &Spanned<A>, second: &Spanned<B>) -> Self {
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
    /// What is said of a source that was read, beginning with what is wrong with its form.
    pub(crate) fn new(source: Option<Rc<Source>>, complaints: Vec<Complaint>) -> Self {
        Self { source, offset: 0, is_whole: complaints.is_empty(), complaints, notes: Vec::new() }
    }

    /// Something is wrong at this place.
    pub(crate) fn complain(
        &mut self,
        place: impl Into<Place>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let complaint = self.placed(&place.into(), Fault::new(what, hint));
        self.complaints.push(complaint);
    }

    /// Something is missing here. Not said if the file could not be read whole: it may well be there.
    pub(crate) fn miss(&mut self, place: impl Into<Place>, what: &str, hint: &str) {
        if self.is_whole {
            self.complain(place, what, hint);
        }
    }

    /// Something is allowed but deserves a warning.
    pub(crate) fn note(&mut self, place: impl Into<Place>, what: impl Into<String>, hint: &str) {
        let note = self.placed(&place.into(), Fault::new(what, hint));
        self.notes.push(note);
    }

    /// The value of a parse, or a complaint.
    pub(crate) fn keep<T>(
        &mut self,
        place: impl Into<Place>,
        parsed: Result<T, Fault>,
    ) -> Option<T> {
        parsed.map_err(|Fault { what, hint }| self.complain(place, what, hint)).ok()
    }

    /// Complains unless a value is in its range.
    pub(crate) fn within<T: PartialOrd + Display>(
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
    pub(crate) fn bounded<T: PartialOrd + Display + Copy>(
        &mut self,
        key: &str,
        written: &Spanned<T>,
        range: RangeInclusive<T>,
    ) -> T {
        self.within(written, key, *written.get_ref(), range);
        *written.get_ref()
    }

    /// The same for a duration.
    pub(crate) fn time(
        &mut self,
        key: &str,
        at: &Spanned<Time>,
        range: RangeInclusive<Time>,
    ) -> Duration {
        self.bounded(key, at, range).0
    }

    /// The same for a size in bytes.
    pub(crate) fn size(
        &mut self,
        key: &str,
        at: &Spanned<Size>,
        range: RangeInclusive<Size>,
    ) -> usize {
        self.bounded(key, at, range).0
    }

    /// The path of a key; an empty one is a complaint. `of` says what is to be there.
    pub(crate) fn path(
        &mut self,
        key: &str,
        written: Option<&Spanned<String>>,
        of: &str,
    ) -> Option<PathBuf> {
        let text = written?;
        if text.get_ref().is_empty() {
            self.complain(text, format!("{key} is empty"), format!("write the path {of}"));
        }
        Some(PathBuf::from(text.get_ref()))
    }

    /// The line of a byte of the source.
    pub(crate) fn line_of(&self, offset: usize) -> u32 {
        self.source.as_ref().map_or(1, |source| source.position(offset).line)
    }

    /// A fault becomes a complaint by its place.
    fn placed(&self, place: &Place, fault: Fault) -> Complaint {
        match (place, &self.source) {
            (Place::File(span), Some(source)) => {
                let span = span.start + self.offset..span.end + self.offset;
                source.complain_at(Some(span), fault)
            }
            (Place::Flag(name), _) => Complaint::about(*name, fault),
            // A default is right, so this is never reached; it must not be lost if it is.
            (Place::File(_), None) => Complaint::about("default", fault),
        }
    }
}

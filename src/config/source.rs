//! A TOML text on its way into a struct, with everything that is wrong with its form at once.
//!
//! Owns [`Source`]: opening a file within a bound, parsing it, reading a table of it, and the place of every byte.
//! Never judges a value, and knows no key: the struct that is read has those.
//!
//! What surprises: serde stops at the first error, so [`Source::read`] cuts the offending key out of the parsed
//! tree, notes the complaint, and reads again until nothing is left to complain about. Each turn copies the table
//! in hand; a file of many tables is read table by table, or a broken one would take minutes.

mod words;

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

pub(crate) use self::words::Words;
use self::words::{Cut, explain, syntax};
use super::complaint::{Complaint, Fault, Position};

/// A file's name and text, for complaints about places in it.
#[derive(Debug)]
pub(crate) struct Source {
    /// As the operator named it.
    pub(crate) path: String,
    /// UTF-8, within the bound of its kind.
    pub(crate) text: String,
    /// Where its lines begin; found when the first place is asked for.
    lines: OnceLock<Vec<usize>>,
}

// === impl Source ===

impl Source {
    /// A text and what it is called.
    pub(crate) fn new(path: String, text: String) -> Self {
        Self { path, text, lines: OnceLock::new() }
    }

    /// The text of a file, at most `most` bytes long. `see` names the flag that leads to it.
    pub(crate) fn open(path: &Path, most: usize, see: &str) -> Result<Self, Complaint> {
        let shown = path.display().to_string();
        // One byte more than allowed, to see whether there is one. Devices and pipes have no length to ask for.
        let limit = most as u64 + 1;
        let read = File::open(path).and_then(|file| {
            let length = file.metadata().map_or(0, |it| it.len()).min(limit);
            let mut bytes = Vec::with_capacity(length as usize);
            file.take(limit).read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                let fault = Fault::new(format!("cannot be read: {error}"), format!("see {see}"));
                return Err(Complaint::about(shown, fault));
            }
        };
        if bytes.len() > most {
            let what = format!("longer than {most} bytes");
            return Err(Complaint::about(shown, Fault::new(what, "is it the right file?")));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(shown, text)),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                // Everything before the offset is valid, so it is the same in the lossy text.
                let position = Position::of(&String::from_utf8_lossy(error.as_bytes()), offset);
                let fault = Fault::new("not UTF-8", "TOML is always UTF-8; save the file as such");
                Err(Complaint::in_file(shown, position, fault))
            }
        }
    }

    /// The text as a tree, or every error of syntax.
    pub(crate) fn tree(&self) -> Result<Spanned<DeTable<'_>>, Vec<Complaint>> {
        let (tree, errors) = DeTable::parse_recoverable(&self.text);
        if errors.is_empty() {
            return Ok(tree);
        }
        Err(errors.iter().map(|error| self.complain_at(error.span(), syntax(error))).collect())
    }

    /// Reads a table as far as it can be read, with everything that could not be. What was complained about has its
    /// default in the answer. `name` is what the table is called, `""` for the whole file.
    pub(crate) fn read<T: DeserializeOwned + Default>(
        &self,
        mut table: Spanned<DeTable<'_>>,
        name: &str,
        words: &Words,
    ) -> (T, Vec<Complaint>) {
        let mut complaints = Vec::new();
        loop {
            let error = match T::deserialize(toml::de::Deserializer::from(table.clone())) {
                Ok(written) => return (written, complaints),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_default();
            let cut = cut_from_table(table.get_mut(), &span, name);
            complaints.push(self.complain_at(Some(span), explain(&error, cut.as_ref(), words)));
            // Each turn makes the table smaller. If the error has no place in it there is nothing to cut.
            if cut.is_none() {
                return (T::default(), complaints);
            }
        }
    }

    /// A fault at a place of this file; without a place, at its beginning.
    pub(crate) fn complain_at(&self, span: Option<Range<usize>>, fault: Fault) -> Complaint {
        let position = self.position(span.map_or(0, |span| span.start));
        Complaint::in_file(&self.path, position, fault)
    }

    /// The place of a byte: as [`Position::of`], without reading the text from its beginning each time.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let lines = self.lines.get_or_init(|| {
            let ends = memchr::memchr_iter(b'\n', self.text.as_bytes());
            std::iter::once(0).chain(ends.map(|end| end + 1)).collect()
        });
        let line = lines.partition_point(|start| *start <= offset).max(1);
        let start = lines.get(line - 1).copied().unwrap_or_default();
        let here = self.text.get(start..).unwrap_or_default();
        let Position { column, .. } = Position::of(here, offset - start.min(offset));
        Position { line: line as u32, column }
    }
}

/// Cuts the key or the value at `span` out of a table or anything below it.
fn cut_from_table(table: &mut DeTable<'_>, span: &Range<usize>, name: &str) -> Option<Cut> {
    let here = table.iter().find(|(key, value)| key.span() == *span || value.span() == *span);
    if let Some(key) = here.map(|(key, _)| key.get_ref().to_string()) {
        let found = table.remove(key.as_str())?.get_ref().type_str();
        return Some(Cut { table: name.to_owned(), key, found });
    }
    table.iter_mut().find_map(|(key, value)| {
        let key = key.get_ref().as_ref();
        cut_from_value(value.get_mut(), span, name, key)
    })
}

/// Looks into a table or a list; `key` is what holds the value in `table`.
fn cut_from_value(
    value: &mut DeValue<'_>,
    span: &Range<usize>,
    table: &str,
    key: &str,
) -> Option<Cut> {
    let path = || {
        if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
    };
    match value {
        DeValue::Table(inner) => cut_from_table(inner, span, &path()),
        DeValue::Array(elements) => {
            let Some(index) = elements.iter().position(|element| element.span() == *span) else {
                let mut elements = elements.iter_mut();
                return elements
                    .find_map(|element| cut_from_value(element.get_mut(), span, table, key));
            };
            let found = elements[index].get_ref().type_str();
            // A `DeArray` only grows, so a shorter one is made.
            let mut others = DeArray::new();
            for (_, element) in elements.iter().enumerate().filter(|(at, _)| *at != index) {
                others.push(element.clone());
            }
            *elements = others;
            Some(Cut { table: table.to_owned(), key: key.to_owned(), found })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_same_whether_it_is_counted_or_looked_up() {
        for text in ["", "\n", "ab\ncd é=1\n", "é\n\né", "no end"] {
            let source = Source::new("f".to_owned(), text.to_owned());
            for offset in 0..text.len() + 3 {
                assert_eq!(
                    source.position(offset),
                    Position::of(text, offset),
                    "{text:?} {offset}"
                );
            }
        }
    }
}

//! What is wrong with a configuration, where it stands, and what to write instead.
//!
//! Owns the two words of this folder's errors: a [`Fault`] is what is wrong with a value before anyone knows
//! where the value came from; a [`Complaint`] is a fault with its place, as an operator reads it. Never holds
//! a secret: who makes a fault about a password or a URL describes it and does not quote it (INV-11).
//!
//! What surprises: a complaint about a flag or a variable has no line; its path is the flag's name.

use std::fmt;

/// What is wrong with one value, and the cure. Displayed as `what; hint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, as a statement without a full stop.
    pub what: String,
    /// What to write instead; may be empty if there is nothing to add.
    pub hint: String,
}

/// One fault of a configuration with its place: `file:line:column: what; hint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The file as the operator named it, or the flag with its variable.
    pub path: String,
    /// Where in the file; `None` for flags, variables and files that cannot be read.
    pub position: Option<Position>,
    /// What is wrong, as a statement without a full stop.
    pub what: String,
    /// What to write instead; may be empty.
    pub hint: String,
}

/// A place in a text file, as editors count: both numbers start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, 1 for the first.
    pub line: u32,
    /// Column in characters (not bytes), 1 for the first.
    pub column: u32,
}

// === impl Fault ===

impl Fault {
    /// A fault that says what is wrong and what to write instead.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }

    /// The inverse of `Display`, for faults that travel through serde as one string.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let (what, hint) = text.split_once("; ").unwrap_or((text, ""));
        Self::new(what, hint)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.what)?;
        if self.hint.is_empty() { Ok(()) } else { write!(out, "; {}", self.hint) }
    }
}

// === impl Complaint ===

impl Complaint {
    /// A fault at a place of a file.
    pub fn in_file(path: impl Into<String>, position: Position, fault: Fault) -> Self {
        let Fault { what, hint } = fault;
        Self { path: path.into(), position: Some(position), what, hint }
    }

    /// A fault of something that has no lines: a flag, a variable, a file that cannot be read.
    pub fn about(path: impl Into<String>, fault: Fault) -> Self {
        let Fault { what, hint } = fault;
        Self { path: path.into(), position: None, what, hint }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.path)?;
        if let Some(Position { line, column }) = self.position {
            write!(out, ":{line}:{column}")?;
        }
        write!(out, ": {}", self.what)?;
        if self.hint.is_empty() { Ok(()) } else { write!(out, "; {}", self.hint) }
    }
}

impl std::error::Error for Complaint {}

// === impl Position ===

impl Position {
    /// The place of a byte offset. An offset beyond the end, or inside a character, counts as the nearest before it.
    #[must_use]
    pub fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..text.floor_char_boundary(offset)).unwrap_or(text);
        let start_of_line = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[start_of_line..].chars().count() + 1;
        // A configuration file is at most a megabyte (`FILE_BYTES_MAX`), so both fit.
        Self { line: line as u32, column: column as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one_and_in_characters() {
        let text = "ab\ncd é=1\n";
        for (offset, line, column) in [
            (0, 1, 1),
            (2, 1, 3),
            (3, 2, 1),
            (6, 2, 4),
            (7, 2, 4), // Inside the two bytes of é.
            (8, 2, 5),
            (11, 3, 1),
            (99, 3, 1),
        ] {
            assert_eq!(Position::of(text, offset), Position { line, column }, "offset {offset}");
        }
    }

    #[test]
    fn a_complaint_reads_as_file_line_column() {
        let fault = Fault::new("'wrokers' is not a key", "did you mean 'workers'?");
        let complaint =
            Complaint::in_file("a.toml", Position { line: 3, column: 1 }, fault.clone());
        let expected = "a.toml:3:1: 'wrokers' is not a key; did you mean 'workers'?";
        assert_eq!(complaint.to_string(), expected);
        assert_eq!(Fault::from_text(&fault.to_string()), fault);
        let complaint = Complaint::about("--admin", Fault::new("no port", ""));
        assert_eq!(complaint.to_string(), "--admin: no port");
    }
}

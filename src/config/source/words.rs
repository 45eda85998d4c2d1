//! What is said of a file that cannot be read as it is written.
//!
//! Owns the words for syntax errors, unknown keys and values of the wrong type. Never quotes a
//! value: it may be a password that lost its quotes (INV-11).
//!
//! What surprises: the facts come out of the sentences of serde and of the TOML parser, because
//! their errors carry nothing else.

use crate::config::complaint::Fault;
use crate::config::spelling::nearest;

/// What is said of keys of one kind of file that its structs do not tell.
pub(crate) struct Words {
    /// Keys that stand before every table.
    pub(crate) top: &'static [&'static str],
    /// Keys that belong elsewhere, and what to do about it: as `key` at the top, as `table.key` below.
    pub(crate) elsewhere: &'static [(&'static str, &'static str)],
}

/// What was cut out, for the complaint about it.
pub(super) struct Cut {
    /// The name of the table that held it, `""` for the top of the file.
    pub(super) table: String,
    /// The key, or the key of the array that it was an element of.
    pub(super) key: String,
    /// What stood there, as TOML calls it.
    pub(super) found: &'static str,
}

/// A syntax error in our form: the parser's own words, on one line.
pub(super) fn syntax(error: &toml::de::Error) -> Fault {
    Fault::new(error.message().replace('\n', ", "), "")
}

/// A type error, an unknown key or the fault of a quantity, in our form.
///
/// Never quotes a value of the wrong type: it may be a password without its quotes (INV-11).
pub(super) fn explain(error: &toml::de::Error, cut: Option<&Cut>, words: &Words) -> Fault {
    let message = error.message();
    let Some(cut) = cut else {
        return Fault::from_text(message);
    };
    if let Some(rest) = message.strip_prefix("unknown field ") {
        // serde's words: "`key`, expected one of `a`, `b`"; the odd parts stand in backquotes.
        let known: Vec<&str> = rest.split('`').skip(3).step_by(2).collect();
        return unknown_key(cut, &known, words);
    }
    let expected = message.split_once(", expected ").map(|(_, expected)| expected);
    match expected.filter(|_| message.starts_with("invalid ")) {
        Some(expected) => wrong_value(cut, expected, message.starts_with("invalid type")),
        None => Fault::from_text(message),
    }
}

/// A value of the wrong type, or a number that does not fit its type. serde's words for types become ours.
fn wrong_value(cut: &Cut, expected: &str, is_type: bool) -> Fault {
    let Cut { key, found, .. } = cut;
    if !is_type {
        return Fault::new(format!("'{key}' is out of range"), format!("write {expected}"));
    }
    let found = match *found {
        "integer" | "array" => format!("an {found}"),
        other => format!("a {other}"),
    };
    let expected = match expected {
        "a sequence" => "a list, in brackets",
        "a borrowed string" | "a string" => "a text, in quotes",
        "usize" | "u32" | "u64" => "a whole number",
        "a boolean" => "true or false",
        "a map" => "a table",
        other => other,
    };
    Fault::new(format!("'{key}' is {found}"), format!("write {expected}"))
}

/// A key that the table does not have, with the likeliest reason first.
fn unknown_key(cut: &Cut, known: &[&str], words: &Words) -> Fault {
    let Cut { table, key, .. } = cut;
    let place = if table.is_empty() { String::new() } else { format!(" of [{table}]") };
    let what = format!("'{key}' is not a key{place}");
    // The commonest slip with TOML: a top-level key below a [table] belongs to that table.
    if !table.is_empty() && words.top.contains(&key.as_str()) {
        return Fault::new(what, "it belongs at the top of the file, before the first [table]");
    }
    let path = if table.is_empty() { key.clone() } else { format!("{table}.{key}") };
    let elsewhere = words.elsewhere.iter().find(|(name, _)| *name == path);
    if let Some((_, hint)) = elsewhere {
        return Fault::new(what, *hint);
    }
    match nearest(key, known) {
        Some(known) => Fault::new(what, format!("did you mean '{known}'?")),
        None => Fault::new(what, format!("known here: {}", known.join(", "))),
    }
}

//! What is said of a file that cannot be read as it is written.
//!
//! Owns the words for syntax errors, unknown keys and values of the wrong type. Never quotes a
//! value: it may be a password that lost its quotes (INV-11).
//!
//! What surprises: the facts come out of the sentences of serde and of the TOML parser, because
//! their errors carry nothing else.

use crate::config::complaint::Fault;
use crate::config::spelling::nearest;

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
pub(super) fn explain(error: &toml::de::Error, cut: Option<&Cut>) -> Fault {
    let message = error.message();
    let Some(cut) = cut else {
        return Fault::from_text(message);
    };
    if let Some(rest) = message.strip_prefix("unknown field ") {
        // serde's words: "`key`, expected one of `a`, `b`"; the odd parts stand in backquotes.
        let known: Vec<&str> = rest.split('`').skip(3).step_by(2).collect();
        return unknown_key(cut, &known);
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
fn unknown_key(cut: &Cut, known: &[&str]) -> Fault {
    let Cut { table, key, .. } = cut;
    let place = if table.is_empty() { String::new() } else { format!(" of [{table}]") };
    let what = format!("'{key}' is not a key{place}");
    // The commonest slip with TOML: a top-level key below a [table] belongs to that table.
    if !table.is_empty() && TOP_KEYS.contains(&key.as_str()) {
        return Fault::new(what, "it belongs at the top of the file, before the first [table]");
    }
    if table.is_empty() && OTHER_ISSUES.contains(&key.as_str()) {
        return Fault::new(what, "this build has no policy engine, keyspaces or budgets");
    }
    match nearest(key, known) {
        Some(known) => Fault::new(what, format!("did you mean '{known}'?")),
        None => Fault::new(what, format!("known here: {}", known.join(", "))),
    }
}

/// Keys that stand before every table.
const TOP_KEYS: [&str; 6] =
    ["workers", "admin", "admin_changes", "profile", "policy", "drain_timeout"];

/// Tables of the documented format that this build has nothing for.
const OTHER_ISSUES: [&str; 3] = ["rule", "keyspace", "budget"];

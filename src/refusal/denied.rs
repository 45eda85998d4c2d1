//! What a client is told whose command a rule refuses.
//!
//! Owns the words for that. Never decides (`dispatch::judge` does). What surprises: the first word is
//! that of an ACL's refusal, because client libraries take it for what it is: permanent. A limit of
//! size is an ERR, as it depends on the data.

use crate::policy::rule::Rule;

/// Why a rule refused a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Full name of the command, lower case; for a size, in capitals and with its key.
    pub command: String,
    /// The rule.
    pub rule: String,
    /// Which policy it was part of.
    pub version: u64,
    /// What to do instead; may be empty.
    pub message: String,
    /// The size that was too large, in words.
    pub size: Option<String>,
}

// === impl Denied ===

impl Denied {
    /// The refusal of a command in the name of a rule.
    #[must_use]
    pub fn by(rule: &Rule, version: u64, command: &str) -> Self {
        Self {
            command: command.to_owned(),
            rule: rule.name.to_string(),
            version,
            message: rule.message.as_deref().unwrap_or_default().to_owned(),
            size: None,
        }
    }

    /// The words.
    pub(super) fn text(&self) -> String {
        let Self { command, rule, version, message, size } = self;
        let cure = if message.is_empty() { String::new() } else { format!("; {message}") };
        match size {
            None => {
                format!(
                    "NOPERM breakwater: '{command}' is denied by rule {rule} (policy {version}){cure}"
                )
            }
            Some(size) => format!(
                "ERR breakwater: {command} refused: {size}{cure} (rule {rule}, policy {version})"
            ),
        }
    }
}

/// A command and its key as a client may be shown them, who has sent both (INV-11): printable, and
/// not longer than a line.
#[must_use]
pub fn with_key(name: &str, key: &[u8]) -> String {
    let name = name.to_uppercase().replace('|', " ");
    let (shown, dots) = match key.get(..KEY_BYTES_MAX) {
        Some(head) if key.len() > head.len() => (head, "..."),
        _ => (key, ""),
    };
    format!("{name} {}{dots}", shown.escape_ascii())
}

/// Bytes of a key that are shown.
const KEY_BYTES_MAX: usize = 128;

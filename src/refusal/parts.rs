//! What a client is told when the parts of a command do not make one answer.
//!
//! Owns the words for that. Never decides which part's fault counts (`session::gather` does).
//!
//! What surprises: what may have run is said first. A library that repeats what it was told "not
//! executed" must not be told so of a command of which two parts of three have run (INV-3).

/// Why there is no whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Some parts have run, others have not, or may have.
    Partly {
        /// Parts that have run.
        done: usize,
        /// All parts.
        of: usize,
        /// Whether more may have run.
        is_unknown: bool,
        /// What the other parts are called.
        failed: Vec<String>,
        /// What the worst of them was told.
        why: String,
    },
    /// The replies together are larger than what may be held.
    TooLarge {
        /// Full name of the command, lower case.
        command: String,
        /// How many bytes may be held.
        most: usize,
    },
    /// The replies do not have the shape that the command's policy speaks of.
    Unmergeable {
        /// Full name of the command, lower case.
        command: String,
    },
    /// A node's own cursor of a scan has too many bits.
    CursorTooLarge,
}

// === impl Parts ===

impl Parts {
    /// The words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Partly { done, of, is_unknown, failed, why } => {
                let verdict = if *is_unknown { "outcome unknown" } else { "partly executed" };
                let why = why.strip_prefix("ERR breakwater: ").unwrap_or(why);
                let names = names(failed);
                format!("ERR breakwater: {verdict}: {done} of {of} parts executed; {names}: {why}")
            }
            Self::TooLarge { command, most } => format!(
                "ERR breakwater: the replies of all nodes to {} exceed the {most} bytes that may be \
                 held for one command; ask for less at a time, or raise reply_bytes_total",
                command.to_uppercase()
            ),
            Self::Unmergeable { command } => format!(
                "ERR breakwater: {} has run on all nodes, but their replies cannot be made one; ask \
                 the nodes themselves",
                command.to_uppercase()
            ),
            Self::CursorTooLarge => TOO_LARGE_CURSOR.into(),
        }
    }
}

/// The first few names.
fn names(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    let named = all.get(..all.len() - more).unwrap_or_default().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

const TOO_LARGE_CURSOR: &str = "ERR breakwater: the node's cursor does not fit into one for all nodes; scan the nodes \
     themselves";
/// Parts that a message names one by one.
const NAMED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_is_said_first_and_the_parts_that_failed_are_named() {
        let failed: Vec<String> = (1..=10).map(|key| format!("key {key}")).collect();
        let why = "ERR breakwater: not executed: upstream h:1 is down".to_owned();
        let parts = Parts::Partly { done: 3, of: 13, is_unknown: false, failed, why };
        let names = "key 1, key 2, key 3, key 4, key 5, key 6, key 7, key 8 and 2 more";
        let want = format!(
            "ERR breakwater: partly executed: 3 of 13 parts executed; {names}: not executed: upstream h:1 is down"
        );
        assert_eq!(parts.text(), want);
        let (failed, why) = (vec!["h:1".to_owned()], "OOM no".to_owned());
        let parts = Parts::Partly { done: 0, of: 2, is_unknown: true, failed, why };
        assert_eq!(
            parts.text(),
            "ERR breakwater: outcome unknown: 0 of 2 parts executed; h:1: OOM no"
        );
    }
}

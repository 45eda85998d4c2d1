//! What a client is told whose command a keyspace holds back.
//!
//! Owns the words for that. Never decides (`dispatch::keyspaces` does).
//!
//! What surprises: none of these begins with READONLY or NOREPLICAS, although those words come near.
//! Libraries answer them by sending a whole pipeline again, the commands that succeeded included. A
//! keyspace that refuses writes is an operator's word like a rule, so it has a rule's first word.

use super::seconds;
use crate::clock::Micros;

/// Why a command was held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldBack {
    /// It may write, and the keyspace is read-only.
    ReadOnly {
        /// Full name, lower case.
        command: String,
        /// The keyspace.
        keyspace: String,
    },
    /// It may write, and too few replicas are in step with the primary.
    OutOfStep {
        /// The keyspace.
        keyspace: String,
        /// The primary's name.
        node: String,
        /// How many are; `None`: it has not told.
        in_step: Option<u64>,
        /// How many there must be.
        wanted: u64,
        /// How far behind they may be.
        max_lag: Micros,
    },
    /// Only a replica may serve it, and none is in step.
    NoReplica {
        /// The keyspace.
        keyspace: String,
        /// Name of their primary.
        node: String,
        /// How far behind they may be.
        max_lag: Micros,
    },
}

// === impl HeldBack ===

impl HeldBack {
    /// The words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::ReadOnly { command, keyspace } => format!(
                "NOPERM breakwater: '{command}' refused: keyspace {keyspace} is read-only (mode = \
                 \"readonly\" in the policy)"
            ),
            Self::OutOfStep { keyspace, node, in_step: Some(count), wanted, max_lag } => format!(
                "ERR breakwater: not executed: {count} of {wanted} replicas of {node} are in step (at \
                 most {} behind), as keyspace {keyspace} wants; see INFO replication there",
                seconds(*max_lag)
            ),
            Self::OutOfStep { keyspace, node, in_step: None, wanted, .. } => format!(
                "ERR breakwater: not executed: {node} has not told lately whether {wanted} replicas are \
                 in step, as keyspace {keyspace} wants; may our user ask INFO there?"
            ),
            Self::NoReplica { keyspace, node, max_lag } => format!(
                "ERR breakwater: not executed: no replica of {node} is in step (at most {} behind), and \
                 keyspace {keyspace} reads from no primary (read_from = \"replica\")",
                seconds(*max_lag)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn each_says_which_keyspace_and_none_asks_for_a_repetition() {
        let (keyspace, node) = ("cache".to_owned(), "h:1".to_owned());
        let max_lag = 10 * SECOND;
        let out = |in_step| HeldBack::OutOfStep {
            keyspace: keyspace.clone(),
            node: node.clone(),
            in_step,
            wanted: 2,
            max_lag,
        };
        let readonly = HeldBack::ReadOnly { command: "set".to_owned(), keyspace: keyspace.clone() };
        assert_eq!(
            readonly.text(),
            "NOPERM breakwater: 'set' refused: keyspace cache is read-only (mode = \"readonly\" in the \
             policy)"
        );
        let none = HeldBack::NoReplica { keyspace: keyspace.clone(), node: node.clone(), max_lag };
        for held in [out(Some(1)), out(None), none] {
            let text = held.text();
            assert!(text.starts_with("ERR breakwater: not executed: "), "{text}");
            assert!(text.contains("keyspace cache") && text.contains("h:1"), "{text}");
        }
    }
}

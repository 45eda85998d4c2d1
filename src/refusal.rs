//! What a client is told when a command was not run, or may have been.
//!
//! Owns the texts of our own errors and the rule behind their first words: a library must not
//! repeat what may have run, and must not take a passing fault for a permanent one (INV-3, INV-8).
//! Texts that Redis has itself are in `command::errors`.
//!
//! What surprises: nearly all of these begin with `ERR`, none with a word that asks for a
//! repetition unless the operator wants it (`dispatch::unavailable`). A retryable first word (LOADING, CLUSTERDOWN) makes several libraries run a *whole
//! pipeline* again, the commands that succeeded included.

pub mod denied;
pub mod guarded;
pub mod keyspace;
pub mod paced;
pub mod parts;
pub mod script;

use crate::clock::{Micros, SECOND};
use denied::Denied;
use guarded::Guarded;
use keyspace::HeldBack;
use paced::TooFast;
use parts::Parts;
use script::ScriptRefusal;

/// An error of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client must authenticate first; Redis's own text.
    NoAuth,
    /// This build does not serve the command; `why` and `instead` in words.
    NotServed {
        /// Full name, lower case.
        command: String,
        /// What it would need, and what to do instead.
        why: &'static str,
    },
    /// It may write, and the upstream is in read-only mode.
    ReadOnlyMode {
        /// Full name, lower case.
        command: String,
    },
    /// A rule of the policy refuses it.
    Denied(Box<Denied>),
    /// It came sooner than a rule allows.
    TooFast(Box<TooFast>),
    /// The governor of scripts refuses it.
    Script(Box<ScriptRefusal>),
    /// It may write, and was held back to protect what is there.
    Guarded(Box<Guarded>),
    /// The keyspace of its keys holds it back.
    HeldBack(Box<HeldBack>),
    /// It would change the cluster, and clients here are no administrators of it.
    ChangesCluster {
        /// Full name, lower case.
        command: String,
    },
    /// It was not run, and the node is to blame.
    NodeDown {
        /// The node's name.
        node: String,
        /// One word: refused, timeout, auth …
        cause: &'static str,
        /// Until the next dial.
        retry_in: Micros,
    },
    /// It was not run: the node is there and serves nobody at the moment.
    NodeAway {
        /// The node's name.
        node: String,
        /// What it does instead, as in "is loading its data (loading)".
        state: String,
        /// Until it is looked at again.
        retry_in: Micros,
    },
    /// It was not run: only a replica may serve it, and none is in step.
    NoReplica {
        /// Name of their primary.
        node: String,
    },
    /// It was not run: no node of the cluster has told the slot map yet.
    NoMap {
        /// A seed's name.
        seed: String,
    },
    /// A command over several slots or nodes has no whole answer.
    Parts(Box<Parts>),
    /// It was not run: an earlier write of the same client is in doubt, and order would be lost.
    NotInverted {
        /// The node's name.
        node: String,
    },
    /// It was not run: twice the node closed the connection before it had all of it.
    CutOff {
        /// The node's name.
        node: String,
        /// Full name of the command, lower case.
        command: String,
    },
    /// It was handed to the node and the connection was lost: it may have run.
    OutcomeUnknown {
        /// The node's name.
        node: String,
        /// Full name of the command, lower case.
        command: String,
    },
    /// A read whose connection was lost and that was not sent again.
    ReadLost {
        /// The node's name.
        node: String,
        /// Full name of the command, lower case.
        command: String,
    },
    /// No reply within the deadline.
    Deadline {
        /// The node's name.
        node: String,
        /// Full name of the command, lower case.
        command: String,
        /// How long we waited.
        after: Micros,
        /// What is known of its effect.
        ran: Ran,
    },
    /// The client would have more subscriptions than it may.
    SubscriptionLimit {
        /// The setting that says so.
        setting: &'static str,
        /// Its value.
        most: usize,
    },
    /// All connections that may belong to one client are in use.
    PinnedBusy {
        /// How many there may be.
        most: usize,
        /// How long the client waited.
        wait: Micros,
    },
    /// It was not run: the connection that its transaction or its watched keys were on is lost.
    StateLost {
        /// The node's name.
        node: String,
    },
    /// It was not run: it was sent behind a MULTI or WATCH that was refused.
    NoTransaction,
    /// It was not queued: the connection of its transaction is lost.
    TransactionLost,
    /// It cannot be queued in a transaction.
    NotInTransaction {
        /// Full name of the command, lower case.
        command: String,
    },
    /// The client monitors, and can do nothing else.
    Monitoring,
    /// As many lanes as a worker may have are busy with other databases or users.
    TooManyLanes,
}

/// What is known of the effect of a command that got no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It never left us completely.
    No,
    /// It only reads.
    ReadOnly,
    /// It may have run.
    Maybe,
}

// === impl Refusal ===

impl Refusal {
    /// For what may write, in read-only mode. A stranger is told first that it is one.
    #[must_use]
    pub fn barred(command: &str, is_stranger: bool) -> Self {
        match is_stranger {
            true => Self::NoAuth,
            false => Self::ReadOnlyMode { command: command.to_owned() },
        }
    }

    /// Appends the whole error line.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_as(None, out);
    }

    /// Whether it says that the upstream is away, and so that nothing was executed.
    #[must_use]
    pub fn is_of_upstream(&self) -> bool {
        matches!(self, Self::NodeDown { .. } | Self::NodeAway { .. } | Self::NoMap { .. })
    }

    /// As [`Self::write`], with that word in the place of `ERR`.
    pub fn write_as(&self, word: Option<&str>, out: &mut Vec<u8>) {
        let text = self.text();
        match word.zip(text.strip_prefix("ERR")) {
            Some((word, rest)) => crate::resp::write::error(out, &format!("{word}{rest}")),
            None => crate::resp::write::error(out, &text),
        }
    }

    /// The words, without what RESP puts around them.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::NoAuth => "NOAUTH Authentication required.".into(),
            Self::NotServed { command, why } => {
                format!("ERR breakwater: '{command}' is not served: {why}")
            }
            Self::ReadOnlyMode { command } => format!(
                "NOPERM breakwater: '{command}' refused: this upstream is in read-only mode \
                 (mode = \"readonly\")"
            ),
            Self::NodeDown { node, cause, retry_in } => format!(
                "ERR breakwater: not executed: upstream {node} is down ({cause}), next try in {}",
                seconds(*retry_in)
            ),
            Self::NodeAway { node, state, retry_in } => format!(
                "ERR breakwater: not executed: upstream {node} {state}, next try in {}",
                seconds(*retry_in)
            ),
            Self::Parts(parts) => parts.text(),
            Self::Denied(denied) => denied.text(),
            Self::TooFast(too_fast) => too_fast.text(),
            Self::Script(refusal) => refusal.text(),
            Self::Guarded(guarded) => guarded.text(),
            Self::HeldBack(held_back) => held_back.text(),
            Self::NotInverted { node } => format!(
                "ERR breakwater: not executed: the connection to {node} was lost while an earlier \
                 write of this client was unanswered; send it again once that is resolved"
            ),
            Self::CutOff { node, command } => format!(
                "ERR breakwater: not executed: {node} closed the connection twice while {} was being \
                 sent; is it larger than the node's proto-max-bulk-len or query buffer limit?",
                command.to_uppercase()
            ),
            Self::OutcomeUnknown { node, command } => format!(
                "ERR breakwater: outcome unknown: the connection to {node} was lost after {} was \
                 sent; check before repeating it",
                command.to_uppercase()
            ),
            Self::ReadLost { node, command } => format!(
                "ERR breakwater: no reply: the connection to {node} was lost before {} was \
                 answered; it only reads and may be repeated",
                command.to_uppercase()
            ),
            Self::Deadline { node, command, after, ran } => deadline(node, command, *after, *ran),
            Self::SubscriptionLimit { setting, most } => format!(
                "ERR breakwater: not executed: this would exceed {setting} = {most}; use patterns, or \
                 raise it"
            ),
            Self::PinnedBusy { most, wait } => format!(
                "ERR breakwater: not executed: waited {} for one of the {most} connections that may \
                 belong to one client; use fewer blocked clients or raise upstream.pinned_max",
                seconds(*wait)
            ),
            _ => self.text_of_cluster(),
        }
    }

    /// The words of what only a cluster refuses.
    fn text_of_cluster(&self) -> String {
        match self {
            Self::ChangesCluster { command } => format!(
                "NOPERM breakwater: '{command}' changes the cluster, which is hidden here behind one \
                 address; send it to the node itself"
            ),
            Self::NoReplica { node } => format!(
                "ERR breakwater: not executed: no replica of {node} is in step; use replica_reads = \
                 prefer-replica, or see CLUSTER NODES there"
            ),
            Self::NoMap { seed } => format!(
                "ERR breakwater: not executed: the cluster behind {seed} has not told its slot map \
                 yet; see /readyz of the admin port"
            ),
            _ => self.text_of_session(),
        }
    }

    /// The words about what the client itself has begun.
    fn text_of_session(&self) -> String {
        match self {
            Self::StateLost { node } => format!(
                "ERR breakwater: not executed: the connection to {node} was lost and the \
                 transaction or watched keys with it; begin again"
            ),
            Self::NoTransaction => NO_TRANSACTION.into(),
            Self::TransactionLost => "ERR breakwater: not executed: the connection of this \
                 transaction was lost; EXEC will fail, begin again"
                .into(),
            Self::NotInTransaction { command } => format!(
                "ERR breakwater: '{command}' is not served inside MULTI; send it before or after"
            ),
            Self::Monitoring => "ERR breakwater: this client monitors; send RESET first, or use \
                 another connection"
                .into(),
            Self::TooManyLanes => "ERR breakwater: not executed: all connections that this worker \
                 may open are busy with other databases or users; raise upstream.lanes_max"
                .into(),
            // All others have had their turn above.
            _ => String::new(),
        }
    }
}

fn deadline(node: &str, command: &str, after: Micros, ran: Ran) -> String {
    let (command, after) = (command.to_uppercase(), seconds(after));
    match ran {
        Ran::No => format!(
            "ERR breakwater: not executed: {command} waited {after} for {node} and was dropped \
             unsent"
        ),
        Ran::ReadOnly => format!(
            "ERR breakwater: no reply from {node} within {after}; {command} only reads and may be \
             repeated"
        ),
        Ran::Maybe => format!(
            "ERR breakwater: outcome unknown: no reply from {node} within {after} after {command} \
             was sent; check before repeating it"
        ),
    }
}

/// Tenths of a second, rounded up: precise enough to act on, and a wait is never "0.0 s".
fn seconds(time: Micros) -> String {
    let tenths = time.div_ceil(SECOND / 10);
    format!("{}.{} s", tenths / 10, tenths % 10)
}

const NO_TRANSACTION: &str = "ERR breakwater: not executed: the MULTI or WATCH sent before it was \
     refused; begin again";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(refusal: &Refusal) -> String {
        let mut out = Vec::new();
        refusal.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_unknown_outcome_never_begins_with_a_word_that_libraries_retry() {
        let (node, command) = ("h:1".to_owned(), "incr".to_owned());
        for refusal in [
            Refusal::OutcomeUnknown { node: node.clone(), command: command.clone() },
            Refusal::Deadline { node, command, after: 5 * SECOND, ran: Ran::Maybe },
        ] {
            assert!(text(&refusal).starts_with("-ERR breakwater: outcome unknown: "));
        }
    }

    #[test]
    fn what_did_not_run_is_said_so_with_node_cause_and_time() {
        let refusal = Refusal::NodeDown { node: "h:1".into(), cause: "refused", retry_in: 912_000 };
        assert_eq!(
            text(&refusal),
            "-ERR breakwater: not executed: upstream h:1 is down (refused), next try in 1.0 s\r\n"
        );
    }
}

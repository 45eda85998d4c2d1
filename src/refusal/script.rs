//! What a client is told whose script is not sent.
//!
//! Owns the words for that. Never decides (`governor::admit` does). What surprises: the first word says
//! whether it is for good. A loop without end stays one, so it is NOPERM, which no library repeats; a
//! quarantine passes, and a busy node too, so these are ERR.

use super::denied::Denied;
use super::seconds;
use crate::clock::Micros;

/// Why a script is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptRefusal {
    /// It holds a loop without end: its line and what is wrong, in words.
    Endless {
        /// As `line 3: …`.
        text: String,
    },
    /// It calls what its client may not call.
    Calls {
        /// Line of the script.
        line: u32,
        /// Which command, and which rule forbids it.
        denied: Box<Denied>,
    },
    /// It had to be killed too often.
    Quarantined {
        /// Its SHA1, or the function's name.
        culprit: String,
        /// How often within ten minutes.
        kills: usize,
    },
    /// Its node is held up by another script.
    Busy {
        /// The node's name.
        node: String,
    },
    /// As many of ours as there may be are at its node.
    Crowded {
        /// The node's name.
        node: String,
        /// How many there may be.
        most: usize,
        /// How long it has waited for one of them to end.
        waited: Micros,
    },
}

// === impl ScriptRefusal ===

impl ScriptRefusal {
    /// The words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Endless { text } => {
                format!("NOPERM breakwater: script refused: {text} (rule guard.scripts)")
            }
            Self::Calls { line, denied } => {
                let text = denied.text();
                let reason = text.split_once("breakwater: ").map_or(&*text, |(_, reason)| reason);
                format!("NOPERM breakwater: script refused: line {line}: {reason}")
            }
            Self::Quarantined { culprit, kills } => format!(
                "ERR breakwater: script quarantined: {culprit} was killed {kills} times within 10 \
                 min; mend it (rule guard.scripts)"
            ),
            Self::Busy { node } => format!(
                "ERR breakwater: not executed: upstream {node} is busy with another script (busy); \
                 try again when that has ended"
            ),
            Self::Crowded { node, most, waited } => format!(
                "ERR breakwater: not executed: waited {} while {most} scripts were in flight at {node}; \
                 run fewer at a time, or raise scripts.in_flight_max",
                seconds(*waited)
            ),
        }
    }
}

//! What is asked of the servers on behalf of a session's next command, before it may go.
//!
//! Owns the questions and their answers. Never sends (`dispatch::errand` does) and never knows what
//! the answers are for. What surprises: an errand takes no part in the order of the session's
//! replies. Its questions have reply slots like any command, and each is filled with nothing.

use std::collections::VecDeque;
use std::ops::Range;

use crate::clock::Micros;
use crate::refusal::Refusal;
use crate::session::assembly::Assembly;
use crate::session::replies::Sequence;

/// Questions of ours that the next command of a session waits for.
#[derive(Debug, Default)]
pub struct Errand {
    /// Whole commands that are still to be sent.
    pub questions: VecDeque<Vec<u8>>,
    /// How many have been sent and not answered.
    pub due: u32,
    /// The reply slots of its questions among them; the last one's successor is what its command would
    /// get now. So it is never taken for another command's, which comes if its own is refused meanwhile.
    pub slots: Range<Sequence>,
    /// When its command was first seen.
    pub since: Micros,
    /// What came back, in the order in which it came.
    pub answers: Vec<Answer>,
    /// What is to be known. Whoever takes the answers looks here first: meanwhile another policy may
    /// have come into force, whose rule wants to know something else.
    pub about: About,
    /// What the answers are pages of, if they are; then one question follows the other.
    pub pages: Option<Box<Assembly>>,
}

/// What an errand is to find out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum About {
    /// Something that whoever asked makes sure of himself.
    #[default]
    Anything,
    /// How much the command would read.
    Size {
        /// Of which deployment.
        epoch: u64,
    },
}

/// What came back for a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The node's whole reply.
    Reply(Vec<u8>),
    /// A reply of so many bytes, too many to be held.
    TooLarge(u64),
    /// There will be no reply; the whole error that says why, and what of it is ours: its first word
    /// depends on who is told.
    Failed(Vec<u8>, Option<Box<Refusal>>),
}

// === impl Errand ===

impl Errand {
    /// An errand with these questions, for the command that would get `slot`.
    #[must_use]
    pub fn new(questions: Vec<Vec<u8>>, slot: Sequence) -> Self {
        Self { questions: questions.into(), slots: slot..slot, ..Self::default() }
    }

    /// The errand that fetches the pages of such a command's answer.
    #[must_use]
    pub fn paging(pages: Assembly, slot: Sequence) -> Self {
        Self { pages: Some(Box::new(pages)), ..Self::new(Vec::new(), slot) }
    }

    /// Whether it is for the command that would get `slot`.
    #[must_use]
    pub fn is_for(&self, slot: Sequence) -> bool {
        self.slots.end == slot
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pages.as_ref().map_or(0, |pages| pages.held())
    }

    /// Whether everything that was asked is answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.questions.is_empty() && self.due == 0
    }

    /// Why there is no answer to one of its questions.
    #[must_use]
    pub fn failure(&self) -> Option<(&[u8], Option<&Refusal>)> {
        self.answers.iter().find_map(|answer| match answer {
            Answer::Failed(line, refusal) => Some((&line[..], refusal.as_deref())),
            _ => None,
        })
    }
}

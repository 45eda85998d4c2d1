//! What is asked of the servers on behalf of a session's next command, before it may go.
//!
//! Owns the questions and their answers. Never sends (`dispatch::errand` does) and never knows what
//! the answers are for. What surprises: an errand takes no part in the order of the session's
//! replies. Its questions have reply slots like any command, and each is filled with nothing.

use std::collections::VecDeque;

/// Questions of ours that the next command of a session waits for.
#[derive(Debug, Default)]
pub struct Errand {
    /// Whole commands that are still to be sent.
    pub questions: VecDeque<Vec<u8>>,
    /// How many have been sent and not answered.
    pub due: u32,
    /// What came back, in the order in which it came.
    pub answers: Vec<Answer>,
    /// What is to be known. Whoever takes the answers looks here first: meanwhile another policy may
    /// have come into force, whose rule wants to know something else.
    pub about: About,
}

/// What an errand is to find out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum About {
    /// Something that whoever asked makes sure of himself.
    #[default]
    Anything,
    /// How much the command would read, of the deployment of this epoch.
    Size {
        /// Which deployment.
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
    /// There will be no reply; the whole error that says why.
    Failed(Vec<u8>),
}

// === impl Errand ===

impl Errand {
    /// An errand with these questions.
    #[must_use]
    pub fn new(questions: Vec<Vec<u8>>) -> Self {
        Self { questions: questions.into(), ..Self::default() }
    }

    /// Whether everything that was asked is answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.questions.is_empty() && self.due == 0
    }

    /// Why there is no answer to one of its questions.
    #[must_use]
    pub fn failure(&self) -> Option<&[u8]> {
        self.answers.iter().find_map(|answer| match answer {
            Answer::Failed(line) => Some(&line[..]),
            _ => None,
        })
    }
}

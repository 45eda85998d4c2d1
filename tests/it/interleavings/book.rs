//! What one client, or all of them, did and saw.
//!
//! Owns the sums, and the reading of elements and values out of replies. Never judges. What surprises: an element
//! is known by its first letters alone, so that it is found in a reply of any shape and version.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::{PAIRS, PHASES};

/// What is known of the push of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push {
    /// It was answered.
    Acknowledged,
    /// The client left before the answer.
    Unknown,
    /// The client left before the last byte of its EXEC.
    NotExecuted,
}

/// The figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// How often each action was begun.
    pub(crate) actions: BTreeMap<&'static str, usize>,
    /// Connections that a client closed in the middle.
    pub(crate) left: usize,
    /// Replies that were as they must be.
    pub(crate) right: usize,
    pub(crate) pushed: HashMap<String, Push>,
    pub(crate) popped: Vec<String>,
    /// Elements that may have been popped for a client that had left, by phase.
    pub(crate) unheard_pops: [usize; PHASES],
    /// Answered changes of each pair.
    pub(crate) acknowledged: [usize; PAIRS],
    /// Changes of each pair that may have happened.
    pub(crate) unknown: [usize; PAIRS],
    /// EXECs that found a watched key changed.
    pub(crate) aborted: usize,
    /// What must not happen.
    pub(crate) violations: Vec<String>,
}

// === impl Book ===

impl Book {
    /// Adds the figures of one client.
    pub(crate) fn add(&mut self, other: Self) {
        for (action, count) in other.actions {
            *self.actions.entry(action).or_default() += count;
        }
        self.left += other.left;
        self.right += other.right;
        self.pushed.extend(other.pushed);
        self.popped.extend(other.popped);
        for phase in 0..PHASES {
            self.unheard_pops[phase] += other.unheard_pops[phase];
        }
        for pair in 0..PAIRS {
            self.acknowledged[pair] += other.acknowledged[pair];
            self.unknown[pair] += other.unknown[pair];
        }
        self.aborted += other.aborted;
        self.violations.extend(other.violations);
    }
}

impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { actions, left, right, pushed, popped, aborted, .. } = self;
        writeln!(f, "{actions:?}")?;
        write!(
            f,
            "{right} replies as they must be, {left} times a client left in the middle, {} elements \
             pushed, {} popped, {aborted} transactions aborted by WATCH",
            pushed.len(),
            popped.len()
        )
    }
}

/// The elements in a reply of whatever shape.
pub(crate) fn elements(frame: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(frame);
    text.lines().filter(|line| line.starts_with("e-")).map(str::to_owned).collect()
}

/// The phase in which an element was pushed.
pub(crate) fn phase(element: &str) -> usize {
    let phase = element.split('-').nth(1).and_then(|digits| digits.parse().ok());
    phase.expect("an element begins with its phase")
}

/// The bulk strings in an array.
pub(crate) fn bulks(frame: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(frame);
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[0].starts_with('$') && !pair[0].contains('-'));
    pairs.map(|pair| pair[1].to_owned()).collect()
}

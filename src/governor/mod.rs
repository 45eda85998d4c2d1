//! Scripts: what they may do, and what is done about one that does not end.
//!
//! Owns the judgement of a script before it runs ([`lexer`] and [`lint`] read its text, [`library`]
//! remembers what they found, [`admit`] decides, [`check`] does the same for CI), and its end if that
//! was not enough: [`running`] is what workers know of their own scripts, [`incident`] decides,
//! [`stats`] reads what a node says of its function, [`watchdog`] kills, and [`quarantine`] keeps who
//! was killed too often from coming back. [`turns`] is who waits where only so many may be in flight.
//! Never runs a script, never changes one.
//!
//! What surprises: the text is no proof. A condition that depends on data may never come true, so the
//! watchdog is the protection, and reading the text only what spares most people the need for it.

pub mod admit;
pub mod check;
pub mod incident;
pub mod lexer;
pub mod library;
pub mod lint;
pub mod quarantine;
pub mod running;
pub mod stats;
pub mod turns;
pub mod watchdog;

use library::Library;
use quarantine::Quarantine;

/// What all workers and the watchdog know of scripts together.
#[derive(Debug, Default)]
pub struct Governor {
    /// What was read in them.
    pub library: Library,
    /// Who may not run.
    pub quarantine: Quarantine,
}

/// Longest script that is looked into. Nobody writes one of this length by hand, and reading it takes a
/// few milliseconds of a worker's time.
pub const SCRIPT_BYTES_MAX: usize = 256 * 1024;

//! `bound`: a command goes on if what it would read is small enough.
//!
//! Owns what is known of sizes and how more is found out: [`questions`] says what measures a
//! command, [`sizes`] remembers what was measured, [`pattern`] which keys are of one kind, [`unit`]
//! the words. Never sends anything: [`crate::dispatch::bound`] carries it out.
//!
//! What surprises: nothing here is exact. Another client may let a key grow between the question
//! and the command, and a kind of keys that has been small 64 times may have a giant. Either
//! command runs once; its reply tells, and the next one is refused.

pub mod pattern;
pub mod questions;
pub mod sizes;
pub mod table;
pub mod unit;

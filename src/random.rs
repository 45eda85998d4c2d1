//! Numbers that differ from process to process.
//!
//! Owns the chance that keeps a fleet from doing the same thing in the same moment. Never used for
//! what must not be guessed, and never on the way of a command: each number is a system call.
//!
//! What surprises: without a source of randomness it answers 0, because being in step with others
//! is better than not going on.

/// Any number.
#[must_use]
pub fn any() -> u64 {
    let mut bytes = [0; 8];
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    u64::from_le_bytes(bytes)
}

/// A number below `bound`, which is not 0.
#[must_use]
pub fn below(bound: u64) -> u64 {
    any() % bound
}

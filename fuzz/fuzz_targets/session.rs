//! The synchronous core as a whole: clients, a worker and a node in any interleaving (INV-1, 2, 3, 4, 12).
//!
//! Input: decisions, of which `breakwater_fuzz::world` makes events. What is checked: nobody panics; every client
//! gets its replies in the order of its commands, whole, once, and nobody else's; the node sees only canonical
//! commands, executes no write twice and none of which its client was told that it was not; memory is bounded;
//! and at the end nobody was forgotten.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| breakwater_fuzz::world::play(input));

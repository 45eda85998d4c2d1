//! Connections to nodes: lanes, and what is done when one is lost.
//!
//! Owns everything between a queued command and its settled reply. Never knows a client: it settles
//! waiters, and `dispatch::settle` knows whose they are. A command arrives in a lane's queue and
//! leaves as bytes on a socket; its reply arrives as bytes and leaves through `settle`.
//!
//! What surprises: a lane is plain data (`lane`), worked on by three pure parts (`pool` chooses it,
//! `receive` reads for it, `loss` buries it); `task` reads its socket and `flush` writes it.

pub mod deployment;
pub mod dial;
pub mod exchange;
pub mod flush;
pub mod freshness;
pub mod health;
pub mod identity;
pub mod lane;
pub mod lane_sets;
pub mod loss;
pub mod pinned;
pub mod pool;
pub mod reach;
pub mod receive;
#[cfg(test)]
pub(crate) mod rig;
pub mod role;
mod runs;
pub mod subscriber;
pub mod succession;
pub mod sync;
pub mod task;
pub mod verify;

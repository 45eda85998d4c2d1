//! Where a command belongs: from its keys to a slot.
//!
//! Owns the arithmetic of slots. Never opens a connection, never knows which node owns a slot. One node serves all
//! slots of a standalone Redis, so the data path has nothing to ask here; `explain` shows the slot of a command.

pub mod merge;
pub mod scan;
pub mod slot;
pub mod split;

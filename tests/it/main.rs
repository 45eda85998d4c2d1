//! All integration tests in one binary: one link instead of ten.
//!
//! Owns the list of the suites. Most of them start a real redis-server and the real binary; `support` does that and
//! cleans up. What surprises: `cargo test` runs them beside each other, so no suite may rely on a port, a file
//! or a speed.

// The clock of the product has a wall around it; these tests stand outside.
#![allow(clippy::disallowed_methods)]

mod blocking;
mod chaos;
mod cli;
mod clients;
mod cluster;
mod compatibility;
mod config;
mod credentials;
mod differential;
mod errors;
mod getkeys;
mod guards;
mod health;
mod info;
mod interleavings;
mod keyspace;
mod keyspaces;
mod listeners;
mod memory;
mod policy;
mod pubsub;
mod readonly;
mod reload;
mod replication;
mod retries;
mod scripts;
mod sentinel;
mod support;
mod tidy;
mod transactions;
mod upstream;
mod upstream_move;
mod upstreams;
mod wait;
mod watch;
mod wire;

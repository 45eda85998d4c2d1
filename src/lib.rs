//! Breakwater: a Redis-protocol sidecar.
//!
//! An application connects to `localhost` as if it were Redis. Breakwater frames its commands, answers or refuses
//! what needs no server, and sends the rest over a few shared, pipelined connections. The way of a command:
//!
//! ```text
//! client ─► server ─► session ─► command ─► policy ─► dispatch ─► route ─► upstream ─► Redis
//!                        ▲                    detours ◄──┴── not here, not now ──┤
//!                        └───── reply slots, in order ◄──────────────────────────┘
//! control plane (own threads): each upstream's topology · the process's reload, metrics, admin
//! ```
//!
//! In the order of that way:
//!
//! * [`server`] starts, accepts, reloads and drains;
//! * [`session`] is one client: what it negotiated, its reply slots, its budget;
//! * [`resp`] frames RESP2 and RESP3 without I/O and without allocation;
//! * [`command`] is the table of commands: class, keys, arity, the exact errors;
//! * [`dispatch`] is the screen: where each command goes and where each reply goes, and how what is
//!   redirected, or has no node to go to, waits and goes again;
//! * [`policy`] decides what may be asked, by whom, and how it is asked if not as it came;
//! * [`governor`] reads scripts before they run, and ends those that do not;
//! * [`route`] turns keys into slots, cuts a command at their borders, and makes its replies one;
//! * [`upstream`] is the lanes to a node, and what a lost one owes;
//! * [`pubsub`] is who gets which messages, and what Redis counts wrongly because of us;
//! * [`topology`] follows what stands behind us (one Redis, whom Sentinels elect, a cluster) and
//!   publishes it;
//! * [`watch`] asks it how it is, [`findings`] is what is amiss, with the repair, and [`doctor`]
//!   does all of that once; [`slowlog`] is what took long.
//!
//! Beside the road: [`worker`] (all state of one thread), [`buffer`] and [`arena`] (what it is made of),
//! [`scripts`] (what nodes forget), [`info`] (our section of INFO), [`refusal`] (what clients are told),
//! [`allocator`], [`config`], [`cli`], [`stats`], [`admin`], [`percent`], [`log`], [`tls`], [`net`], [`random`] and
//! [`clock`]. `docs/ARCHITECTURE.md` has the numbered invariants that comments cite as INV-n.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod admin;
pub mod allocator;
pub mod arena;
pub mod buffer;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod dispatch;
pub mod doctor;
pub mod events;
pub mod explain;
pub mod findings;
pub mod governor;
pub mod info;
pub mod log;
pub mod net;
pub mod percent;
pub mod policy;
pub mod pubsub;
pub mod random;
pub mod refusal;
pub mod resp;
pub mod route;
pub mod scripts;
pub mod server;
pub mod session;
pub mod slowlog;
pub mod stats;
pub mod tls;
pub mod topology;
pub mod upstream;
pub mod watch;
pub mod worker;

//! A case: one command of one client, as rules look at it.
//!
//! Owns these two words. A [`Caller`] is only filled in where a rule asks for it
//! ([`super::Policy::asks_who`]), because names are behind a lock. What surprises: the keys are those
//! that the command declares, destinations included; a pattern of KEYS or SCAN is none, nor is a
//! channel.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::FixedState;

use super::rule::Rule;
use crate::clock::Micros;
use crate::command::Command;
use crate::command::flags::KeyFlags;
use crate::command::keys::KeyPosition;
use crate::command::spec::Spec;

/// One command of one client.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// What it is.
    pub spec: &'a Spec,
    /// Its words.
    pub command: Command<'a>,
    /// Where its keys are among them.
    pub keys: &'a [KeyPosition],
    /// Whose it is.
    pub caller: &'a Caller<'a>,
    /// When it came.
    pub now: Micros,
}

/// Who sends a command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// The client's number: stable while it is connected, never used again.
    pub id: u64,
    /// Where it connected: a listener's address as configured.
    pub listener: &'a str,
    /// Who it has proved to be.
    pub user: &'a [u8],
    /// Where it comes from; `None` for unix sockets.
    pub address: Option<IpAddr>,
    /// What it calls itself (CLIENT SETNAME).
    pub name: &'a [u8],
    /// What its library calls itself (CLIENT SETINFO LIB-NAME).
    pub library: &'a [u8],
}

// === impl Case ===

impl<'a> Case<'a> {
    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let command = self.command;
        let is_key = |key: &&KeyPosition| !key.flags.contains(KeyFlags::NOT_KEY);
        let keys = self.keys.iter().filter(is_key);
        keys.filter_map(move |key| command.argument(key.index as usize))
    }
}

// === impl Caller ===

impl Caller<'_> {
    /// Whether it is among those that a rule on its way in is tried with: the same ones each time, and
    /// others for another rule.
    #[must_use]
    pub fn is_in(&self, rule: &Rule) -> bool {
        let share = || FixedState::default().hash_one((&*rule.name, self.id)) % 100;
        rule.canary >= 100 || share() < u64::from(rule.canary)
    }
}

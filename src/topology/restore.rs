//! Libraries of functions, loaded again into a node that has come back empty.
//!
//! Owns the decision whether it has, and the commands that follow, on the control connection. Never
//! replaces a library that is there, never acts where `[upstream] restore_functions` does not allow
//! it. It looks once a connection, and goes on each second while the node is still loading its
//! data.
//!
//! A primary of a cluster that we meet for the first time is treated as one that came back.
//!
//! What surprises: a node that lacks a library has not necessarily lost it; somebody may have
//! deleted it there. So all of this must hold: it is another process than the one before (INFO's
//! `run_id`), and it has no library at all.

use crate::events;
use crate::stats::control;
use crate::upstream::dial::{DialError, Node};
use crate::upstream::exchange::Exchange;
use crate::worker::Shared;

use super::facts::ask;
use super::single::answered;

/// What is known of the node's process from one connection to the next.
#[derive(Debug, Default)]
pub struct Restorer {
    /// `run_id` of the process that has all that we would load.
    run_id: Option<Vec<u8>>,
    /// The process that was found empty, until everything is loaded into it.
    restoring: Option<Vec<u8>>,
    /// Nothing is left to be done on this connection.
    is_done: bool,
}

// === impl Restorer ===

impl Restorer {
    /// For a node that joins others which have the libraries: to it, we have loaded none yet.
    #[must_use]
    pub fn of_newcomer() -> Self {
        Self { run_id: Some(Vec::new()), ..Self::default() }
    }

    /// There is a new connection: to the same process, or to another.
    pub fn connected(&mut self) {
        self.is_done = false;
    }

    /// Looks, and loads what is to be loaded. What the node refuses for the moment is tried again at the next call.
    ///
    /// # Errors
    /// [`DialError`] if the connection fails.
    pub async fn look(
        &mut self,
        shared: &Shared,
        node: &Node,
        exchange: &mut Exchange,
    ) -> Result<(), DialError> {
        if self.is_done || !node.settings.restore_functions {
            return Ok(());
        }
        let reply = answered(ask(exchange, &[b"INFO", b"server"])).await?;
        let Some(run_id) = run_id(&reply) else {
            // Without a name for the process there is no telling whether it was restarted.
            self.is_done = !is_passing(&reply);
            return Ok(());
        };
        if self.run_id.is_none() || self.run_id.as_deref() == Some(run_id) {
            self.finish(run_id);
            return Ok(());
        }
        if self.restoring.as_deref() != Some(run_id) {
            let reply = answered(ask(exchange, &[b"FUNCTION", b"LIST"])).await?;
            if is_passing(&reply) {
                return Ok(());
            }
            if reply.as_ref() != b"*0\r\n" {
                self.finish(run_id);
                return Ok(());
            }
            self.restoring = Some(run_id.to_vec());
        }
        if load(shared, node, exchange).await? {
            self.finish(run_id);
        }
        Ok(())
    }

    fn finish(&mut self, run_id: &[u8]) {
        self.run_id = Some(run_id.to_vec());
        self.restoring = None;
        self.is_done = true;
    }
}

/// Loads every library that is remembered. Returns false if the node wants to be asked again.
async fn load(shared: &Shared, node: &Node, exchange: &mut Exchange) -> Result<bool, DialError> {
    let mut loaded = 0;
    for (_, code) in shared.libraries.all() {
        // Without REPLACE: a client that was quicker is right.
        let reply = answered(ask(exchange, &[b"FUNCTION", b"LOAD", &code])).await?;
        if is_passing(&reply) {
            return Ok(false);
        }
        if reply.first() == Some(&b'-') {
            let words = String::from_utf8_lossy(reply.get(1..).unwrap_or_default());
            events::library_refused(&node.name, words.trim_end());
        } else {
            loaded += 1;
        }
    }
    if loaded > 0 {
        control::libraries_restored(loaded);
        events::libraries_restored(&node.name, loaded);
    }
    Ok(true)
}

/// Whether this is an error that passes by itself.
fn is_passing(reply: &[u8]) -> bool {
    ["-LOADING", "-BUSY", "-MASTERDOWN"].iter().any(|code| reply.starts_with(code.as_bytes()))
}

/// The field of INFO.
fn run_id(reply: &[u8]) -> Option<&[u8]> {
    let mut lines = reply.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(b"run_id:"))?;
    Some(value.strip_suffix(b"\r").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_process_is_found_among_the_lines() {
        assert_eq!(run_id(b"$9\r\n# Server\r\nrun_id:ab12\r\ntcp_port:1\r\n"), Some(&b"ab12"[..]));
        assert_eq!(run_id(b"-NOPERM no\r\n"), None);
        assert!(is_passing(b"-LOADING x\r\n") && !is_passing(b"-NOPERM x\r\n"));
    }
}

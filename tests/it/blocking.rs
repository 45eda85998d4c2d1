//! Commands that wait: answered as Redis answers them, and forgotten when their client has gone.
//!
//! Owns the conversations that are compared with a redis-server (`talks`), clients that leave while they wait
//! (`leaving`), and the budget of connections that waiting costs (`budget`). Never measures how long something
//! took, but for a time-out that must not be endless.
//!
//! What surprises: an element that was popped for a client which left at the same moment is lost with Redis too.
//! These tests push only after the server itself has said that nobody waits.

mod budget;
mod leaving;
mod talks;

use crate::support::{Client, RedisServer, until};

/// Waits until so many clients wait at the server.
fn blocked(redis: &RedisServer, count: usize) {
    let mut direct = redis.client();
    let field = format!("blocked_clients:{count}\r\n");
    until(&field, || direct.text("INFO clients").contains(&field));
}

/// Length of a list.
fn length(direct: &mut Client, key: &str) -> usize {
    let reply = direct.text(&format!("LLEN {key}"));
    reply.trim_start_matches(':').trim().parse().expect("a length is a number")
}

//! Transactions are Redis's own, to the byte, whichever way they arrive and whatever happens to their connection.
//!
//! Owns the conversations that are compared with a redis-server (`talks`), what a transaction does to a hundred
//! neighbours and leaves behind (`beside`), and what remains of one whose node is killed (`lost`). Never believes
//! a reply alone: counters and CLIENT LIST of the server have the last word.
//!
//! What surprises: a block of shared commands in one read goes another way than the same bytes in two. Both are
//! tested, and every split between them.

mod beside;
mod lost;
mod talks;

use crate::support::{RedisServer, until};

/// Waits until no connection of the server is in a transaction, waits, watches, tracks or monitors. Those of a test
/// itself do none of it at that moment.
pub(crate) fn nothing_is_left(redis: &RedisServer) {
    let mut direct = redis.client();
    let what = "nothing is left of a transaction on the server";
    until(what, || {
        let list = direct.text("CLIENT LIST");
        list.lines().filter(|line| line.contains("id=")).all(is_at_rest)
    });
}

/// Whether a connection is in no transaction and waits for nothing.
fn is_at_rest(line: &str) -> bool {
    let flags = line.split(' ').find_map(|field| field.strip_prefix("flags=")).unwrap_or("?");
    line.contains(" multi=-1 ") && !flags.contains(['x', 'b', 'd', 't', 'O'])
}

/// Connections to the server that belong, or belonged, to one client each.
pub(crate) fn pinned_connections(redis: &RedisServer) -> usize {
    redis.client().text("CLIENT LIST").matches(" name=breakwater:pinned ").count()
}

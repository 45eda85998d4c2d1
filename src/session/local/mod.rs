//! Commands of class local: those about the client's own connection, answered here as Redis 7.0
//! answers them.
//!
//! Owns what such a command changes in its session and every byte of its answer. Never asks a node:
//! AUTH with `passthrough` is handed to `upstream::verify`, and what is a node's to answer goes
//! back to `dispatch`. A command arrives resolved and with the right number of arguments; its
//! answer takes its turn among the replies.
//!
//! What surprises: Redis reads option words and prints offending arguments as C strings, so both
//! end at a NUL byte here too. Texts are compared with a real server by the differential tests; do
//! not mend their grammar.

pub mod auth;
mod client;
mod client_help;
mod client_kill;
mod client_list;
pub mod cluster;
mod cluster_help;
mod connection;
pub mod hello;
mod proxy;
mod sentinel;

#[cfg(test)]
mod tests;

use crate::command::Command;
use crate::command::spec::{CommandId, Spec, builtin_id};
use crate::dispatch::Dispatched;
use crate::refusal::Refusal;
use crate::resp::write;
use crate::session::state::Session;
use crate::stats::labels::Outcome;
use crate::topology::Topology;
use crate::worker::Worker;

/// Answers one command of class local. Its reply slot is filled at once, but for an AUTH that the
/// node must judge.
pub fn answer(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) -> Dispatched {
    worker.stats.command(spec.id.stats_index(), Outcome::Local).increment();
    // By name and not by number: a reader finds the command, and none of these is sent often.
    match &*spec.name {
        "echo" => connection::echo(worker, session, command),
        "select" => connection::select(worker, topology, session, command),
        "quit" => connection::quit(worker, session),
        "reset" => connection::reset(worker, topology, session),
        "ping" => connection::ping(worker, session, spec, command),
        "asking" => cluster::asking(worker, topology, session),
        "readonly" => cluster::read_from(worker, topology, session, true),
        "readwrite" => cluster::read_from(worker, topology, session, false),
        name if name.starts_with("cluster|") => {
            cluster::cluster(worker, topology, session, spec, command);
        }
        "sentinel" => sentinel::sentinel(worker, topology, session, command),
        "proxy" => proxy::proxy(worker, topology, session, command),
        "auth" => auth::auth(worker, session, command),
        "hello" => hello::hello(worker, topology, session, command),
        "client|id" => client::id(worker, session),
        "client|getname" => client::get_name(worker, session),
        "client|setname" => client::set_name(worker, session, command),
        "client|setinfo" => client::set_info(worker, session, command),
        "client|info" => client_list::info(worker, topology, session, command),
        "client|list" => client_list::list(worker, topology, session, command),
        "client|kill" => client_kill::kill(worker, session, command),
        "client|unblock" => client::unblock(worker, session, command),
        "client|reply" => client::reply(worker, session, command),
        "client|no-evict" => client::no_evict(worker, session, command),
        "client|no-touch" => client::no_touch(worker, session, command),
        // What a client of Valkey 8 says it can do; no answer of ours depends on it.
        "client|capa" => worker.answer(session, ok),
        // Nobody here has CLIENT TRACKING on, so nothing is redirected.
        "client|getredir" => worker.answer(session, |line| write::integer(line, -1)),
        "client|trackinginfo" => client::tracking_info(worker, session),
        "client|help" => worker.answer(session, |line| lines(line, &client_help::LINES)),
        // The table has grown a local command that is not written here: say so, and answer nothing
        // wrong.
        name => {
            let why = "this build has no answer of its own; send it to the node itself";
            let refusal = Refusal::NotServed { command: name.into(), why };
            worker.answer(session, |line| refusal.write(line));
        }
    }
    Dispatched::Done
}

/// What of class local is for the node to answer all the same, as it is to be sent there: CLIENT
/// UNBLOCK of a client that waits there, and a PING while no connection of ours says that the
/// upstream is there.
///
/// So that PING needs no knowledge of its own: it takes the way of any command without a key, dials
/// what that would dial, waits as long, and is told in the same words that nobody can be reached.
#[must_use]
pub fn passed_on(
    worker: &Worker,
    topology: &Topology,
    spec: &Spec,
    command: Command<'_>,
) -> Option<Vec<u8>> {
    if spec.id == PING {
        let frame = || command.frame().to_vec();
        return (!connection::is_upstream_there(worker, topology)).then(frame);
    }
    client::unblock_there(worker, spec, command)
}

/// Appends `+OK`.
fn ok(line: &mut Vec<u8>) {
    write::simple(line, "OK");
}

/// Appends the reply of a HELP: one simple string a line, in RESP3 as well.
fn lines(line: &mut Vec<u8>, texts: &[&str]) {
    write::array_header(line, texts.len());
    for text in texts {
        write::simple(line, text);
    }
}

/// Appends the error of Redis for whatever it does not understand.
fn syntax_error(line: &mut Vec<u8>) {
    write::error(line, "ERR syntax error");
}

/// Appends an error that quotes an argument of the client, as Redis's `%s` prints it: up to a NUL
/// byte, on one line, any other byte as it is.
fn error_about(line: &mut Vec<u8>, before: &str, argument: &[u8], after: &str) {
    let shown = c_string(argument).iter();
    line.push(b'-');
    line.extend_from_slice(before.as_bytes());
    line.extend(shown.map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    line.extend_from_slice(after.as_bytes());
    line.extend_from_slice(b"\r\n");
}

/// The part of an argument that C code sees: what comes before a NUL byte.
fn c_string(argument: &[u8]) -> &[u8] {
    argument.split(|byte| *byte == 0).next().unwrap_or_default()
}

const PING: CommandId = builtin_id("ping");

/// Whether an argument is the option `word`, in any case.
fn is_word(argument: &[u8], word: &str) -> bool {
    c_string(argument).eq_ignore_ascii_case(word.as_bytes())
}

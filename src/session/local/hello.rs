//! HELLO: protocol version, credentials and name in one command.
//!
//! Owns the order in which Redis does these things, and the reply. Never changes the protocol
//! unless all else went well. A HELLO whose credentials only the node can judge is kept as
//! [`Hello`] until the verdict is in, and goes on where it stopped.
//!
//! What surprises: Redis carries out AUTH and SETNAME while it reads the options, so what stood
//! before a mistake has happened although the answer is an error. Clients can see that, so it is
//! the same here.

use crate::clock::Micros;
use crate::command::Command;
use crate::resp::parse_integer;
use crate::resp::write::{self, Protocol};
use crate::session::state::Session;
use crate::topology::Topology;
use crate::topology::facts::{Facts, Modules};
use crate::upstream::identity::Presented;
use crate::upstream::verify::Then;
use crate::worker::{Shared, Worker};

use super::auth::{self, Judged};
use super::{client, connection};

/// What is still to be done of a HELLO.
#[derive(Debug)]
pub struct Hello {
    /// The version that was asked for; `None` if none was: it stays.
    protocol: Option<Protocol>,
    /// Options that are not carried out yet, word by word. Holds passwords: its `Debug` is never
    /// logged.
    options: Vec<Secret>,
}

/// A word of the options. Its `Debug` shows nothing, because it may be a password (INV-11).
struct Secret(Vec<u8>);

/// How far a HELLO came.
#[derive(Debug)]
pub(super) enum Progress {
    /// To its end; this is the reply.
    Answer(Vec<u8>),
    /// To credentials that the node must judge; the rest comes after that.
    AskNode(Presented, Hello),
}

/// HELLO, from the client.
pub(super) fn hello(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    command: Command<'_>,
) {
    let protocol = match version(command) {
        Ok(protocol) => protocol,
        Err(text) => return worker.answer(session, |line| write::error(line, text)),
    };
    let options = command.arguments().skip(2).map(|word| Secret(word.to_vec())).collect();
    let hello = Hello { protocol, options };
    match proceed(&worker.shared, worker.now, topology, session, hello) {
        Progress::Answer(reply) => {
            worker.answer(session, |line| line.extend_from_slice(&reply));
        }
        Progress::AskNode(presented, rest) => {
            auth::ask_node(worker, session, presented, Then::Hello(rest));
        }
    }
}

/// The version that is asked for, judged before everything else.
fn version(command: Command<'_>) -> Result<Option<Protocol>, &'static str> {
    let Some(word) = command.argument(1) else {
        return Ok(None);
    };
    match parse_integer(word) {
        None => Err("ERR Protocol version is not an integer or out of range"),
        Some(2) => Ok(Some(Protocol::Resp2)),
        Some(3) => Ok(Some(Protocol::Resp3)),
        Some(_) => Err("NOPROTO unsupported protocol version"),
    }
}

/// Carries out the options and then the switch of the protocol.
pub(super) fn proceed(
    shared: &Shared,
    now: Micros,
    topology: &Topology,
    session: &mut Session,
    hello: Hello,
) -> Progress {
    let Hello { protocol, mut options } = hello;
    // How many words of the options are carried out.
    let mut used = 0;
    loop {
        match options.get(used..).unwrap_or_default() {
            [] => return Progress::Answer(welcome(topology, session, protocol)),
            // A pattern with too few words left falls through to the syntax error, as in Redis.
            [word, user, password, ..] if super::is_word(&word.0, "auth") => {
                match auth::judge(shared, &session.gate, now, Some(&user.0), &password.0) {
                    Judged::Granted(identity) => auth::grant(session, identity, Some(&user.0)),
                    Judged::Denied => return error(auth::WRONG_PASSWORD),
                    Judged::AskNode(presented) => {
                        // What is left goes on when the verdict is in, behind these three words.
                        options.drain(..used + 3);
                        return Progress::AskNode(presented, Hello { protocol, options });
                    }
                }
                used += 3;
            }
            [word, name, ..] if super::is_word(&word.0, "setname") => {
                if let Err(text) = client::rename(session, &name.0) {
                    return error(text);
                }
                used += 2;
            }
            [word, ..] => {
                let mut line = Vec::new();
                super::error_about(&mut line, "ERR Syntax error in HELLO option '", &word.0, "'");
                return Progress::Answer(line);
            }
        }
    }
}

/// The end of a HELLO that failed; what it had changed before stays changed.
fn error(text: &str) -> Progress {
    let mut line = Vec::new();
    write::error(&mut line, text);
    Progress::Answer(line)
}

/// Switches the protocol and writes the reply, which is the first in the version asked for.
fn welcome(topology: &Topology, session: &mut Session, protocol: Option<Protocol>) -> Vec<u8> {
    let mut out = Vec::new();
    if session.identity.is_none() {
        write::error(&mut out, STRANGER);
        return out;
    }
    // A bare HELLO only asks; it changes nothing.
    let protocol = protocol.unwrap_or(session.protocol);
    connection::enter(session, protocol, session.db);
    // Before the control plane has spoken with the node, what every supported server can be taken
    // for.
    let unknown = Facts::default();
    let facts = topology.facts.as_deref().unwrap_or(&unknown);
    write::map_header(&mut out, protocol, 7);
    pair(&mut out, "server", &facts.server);
    pair(&mut out, "version", &facts.version);
    write::bulk(&mut out, b"proto");
    write::integer(&mut out, protocol.number());
    write::bulk(&mut out, b"id");
    write::integer(&mut out, i64::try_from(session.client.id).unwrap_or(i64::MAX));
    // What we are to clients, whatever the node calls itself: it takes writes, and is the whole of
    // its cluster.
    pair(&mut out, "mode", if topology.shows_cluster() { "cluster" } else { "standalone" });
    pair(&mut out, "role", "master");
    write::bulk(&mut out, b"modules");
    out.extend_from_slice(modules(&facts.modules, protocol));
    out
}

/// One entry of the reply: a name and a text.
fn pair(out: &mut Vec<u8>, name: &str, text: &str) {
    write::bulk(out, name.as_bytes());
    write::bulk(out, text.as_bytes());
}

/// The node's modules as it would list them in this version of the protocol.
fn modules(modules: &Modules, protocol: Protocol) -> &[u8] {
    match protocol {
        Protocol::Resp2 => &modules.resp2,
        Protocol::Resp3 => &modules.resp3,
    }
}

// === impl Secret ===

impl std::fmt::Debug for Secret {
    // Not derived: see the type.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Redis's words for a HELLO of somebody who has not authenticated and does not do so in it.
const STRANGER: &str = "NOAUTH HELLO must be called with the client already authenticated, \
otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select \
the RESP protocol version at the same time";

//! CLIENT LIST and CLIENT INFO: the cards of this proxy's clients, in the words of Redis.
//!
//! Owns the line of one client and the choice of clients. Shows the clients of all workers of this
//! process and never asks a node: who is connected elsewhere is not shown. A card arrives from the
//! registry and leaves as text.
//!
//! What surprises: the fields about Redis's own buffers are there, because parsers expect them, and
//! are 0. The libraries' names follow only if the upstream knows CLIENT SETINFO, as its own list
//! would show them.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::Micros;
use crate::command::Command;
use crate::command::table::Table;
use crate::resp::parse_integer;
use crate::resp::write;
use crate::session::registry::{Client, Registry};
use crate::session::state::Session;
use crate::topology::Topology;
use crate::worker::Worker;

/// The kinds of clients that Redis tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Commands and replies.
    Normal,
    /// Those that have subscribed to something.
    Pubsub,
    /// Those that read the replication stream.
    Replica,
    /// A primary: none of them is here.
    Absent,
}

/// How lines are written for one upstream.
struct Style<'a> {
    /// Names of commands by id.
    commands: Vec<&'a str>,
    has_library: bool,
    now: Micros,
    /// The client that asks, and the bytes of its command.
    asking: (u64, usize),
}

/// CLIENT INFO: the client's own line.
pub(super) fn info(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    command: Command<'_>,
) {
    let asking = (session.client.id, command.frame().len());
    let style = Style::new(&topology.table, worker.now, asking);
    let mut text = Vec::new();
    style.describe(&mut text, &session.client);
    let protocol = session.protocol;
    worker.answer(session, |line| write::verbatim(line, protocol, &text));
}

/// CLIENT LIST, of everybody, of one TYPE, or by ID.
pub(super) fn list(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    command: Command<'_>,
) {
    let clients = match chosen(&worker.shared.registry, command) {
        Ok(clients) => clients,
        Err(error) => return worker.answer(session, |line| line.extend_from_slice(&error)),
    };
    // One look at the table for all lines.
    let asking = (session.client.id, command.frame().len());
    let style = Style::new(&topology.table, worker.now, asking);
    // Checked as it grows and not before: how long a line is, only the card knows.
    let bound = usize::try_from(session.bounds().reply_bytes).unwrap_or(usize::MAX);
    let mut text = Vec::new();
    for client in clients {
        style.describe(&mut text, &client);
        if text.len() > bound {
            // An id may be asked for a million times in one command (INV-4).
            let error = format!(
                "ERR breakwater: the list exceeds the {bound} bytes of replies that a client may \
                 have outstanding; ask for fewer clients with CLIENT LIST ID"
            );
            return worker.answer(session, |line| write::error(line, &error));
        }
    }
    let protocol = session.protocol;
    worker.answer(session, |line| write::verbatim(line, protocol, &text));
}

/// The clients that the arguments choose, in the order of the answer.
fn chosen(registry: &Registry, command: Command<'_>) -> Result<Vec<Arc<Client>>, Vec<u8>> {
    let mut error = Vec::new();
    if command.len() == 2 {
        return Ok(registry.all());
    }
    // TYPE takes exactly one word, ID any number; Redis combines neither with anything.
    if command.len() == 4 && command.has_word_at(2, "type") {
        return match Kind::from_word(command.argument(3).unwrap_or_default()) {
            Ok(kind) => {
                let all = registry.all().into_iter();
                Ok(all.filter(|client| kind == Kind::of(client)).collect())
            }
            Err(error) => Err(error),
        };
    }
    if command.len() > 3 && command.has_word_at(2, "id") {
        let mut found = Vec::new();
        for word in command.arguments().skip(3) {
            let Some(id) = parse_integer(word) else {
                write::error(&mut error, "ERR Invalid client ID");
                return Err(error);
            };
            // Ids of nobody, negative ones included, are passed over.
            found.extend(u64::try_from(id).ok().and_then(|id| registry.find(id)));
        }
        return Ok(found);
    }
    super::syntax_error(&mut error);
    Err(error)
}

// === impl Kind ===

impl Kind {
    /// What this client is.
    pub(super) fn of(client: &Client) -> Self {
        if client.is_replica.load(Ordering::Relaxed) {
            Self::Replica
        } else if client.is_subscriber() {
            Self::Pubsub
        } else {
            Self::Normal
        }
    }

    /// The kind of this name; the error is a whole error line.
    pub(super) fn from_word(word: &[u8]) -> Result<Self, Vec<u8>> {
        if super::is_word(word, "normal") {
            return Ok(Self::Normal);
        }
        if super::is_word(word, "pubsub") {
            return Ok(Self::Pubsub);
        }
        if ["replica", "slave"].iter().any(|it| super::is_word(word, it)) {
            return Ok(Self::Replica);
        }
        if super::is_word(word, "master") {
            return Ok(Self::Absent);
        }
        let mut error = Vec::new();
        super::error_about(&mut error, "ERR Unknown client type '", word, "'");
        Err(error)
    }
}

// === impl Style ===

impl<'a> Style<'a> {
    /// What the lines of this table's upstream look like at `now`.
    fn new(table: &'a Table, now: Micros, asking: (u64, usize)) -> Self {
        // Cards hold ids as plain numbers, so names are looked up by place.
        let mut commands = Vec::new();
        for spec in table.specs() {
            let place = spec.id.index();
            if commands.len() <= place {
                commands.resize(place + 1, NO_COMMAND);
            }
            if let Some(name) = commands.get_mut(place) {
                *name = &*spec.name;
            }
        }
        let has_library = table.find("client|setinfo").is_some();
        Self { commands, has_library, now, asking }
    }

    /// Appends the line of one client, line feed included.
    fn describe(&self, out: &mut Vec<u8>, client: &Client) {
        // Texts of the client go in as bytes: they are visible ASCII by CLIENT SETNAME's rule, but
        // for the user's name, which is whatever somebody authenticated as.
        let labels = client.labels();
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "id={} addr={} laddr={} fd={} name=",
            client.id, client.address, client.local_address, client.descriptor
        );
        out.extend_from_slice(&labels.name);
        let [subscribed, to_patterns, to_shards] =
            [0, 1, 2].map(|kind: usize| client.subscriptions[kind].load(Ordering::Relaxed));
        let _ = write!(
            out,
            " age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={} qbuf={} qbuf-free=0 \
             argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} user=",
            client.age_seconds(self.now),
            client.idle_seconds(self.now),
            flags(client),
            client.db.load(Ordering::Relaxed),
            subscribed,
            to_patterns,
            to_shards,
            client.queued.load(Ordering::Relaxed),
            self.unread_of(client),
            self.last_command(client),
        );
        out.extend_from_slice(&labels.user);
        let resp = if client.is_resp3.load(Ordering::Relaxed) { 3 } else { 2 };
        let _ = write!(out, " redir=-1 resp={resp}");
        if self.has_library {
            out.extend_from_slice(b" lib-name=");
            out.extend_from_slice(&labels.library_name);
            out.extend_from_slice(b" lib-ver=");
            out.extend_from_slice(&labels.library_version);
        }
        out.push(b'\n');
    }

    /// Bytes that a client has sent and that are not done with: those of the command that asks.
    fn unread_of(&self, client: &Client) -> usize {
        if client.id == self.asking.0 { self.asking.1 } else { 0 }
    }

    /// A card may hold an id of an earlier table, which then names another command or none.
    fn last_command(&self, client: &Client) -> &'a str {
        let place = usize::from(client.last_command.load(Ordering::Relaxed));
        self.commands.get(place).copied().unwrap_or(NO_COMMAND)
    }
}

/// The letters of Redis, in its order: a replica, a subscriber, in a transaction, blocked, on a unix socket,
/// READONLY, NO-EVICT; `N` for none of them.
fn flags(client: &Client) -> String {
    let letters = [
        ('S', client.is_replica.load(Ordering::Relaxed)),
        ('P', client.is_subscriber()),
        ('x', client.queued.load(Ordering::Relaxed) >= 0),
        ('b', client.is_blocked.load(Ordering::Relaxed)),
        ('U', client.address.starts_with('/')),
        ('r', client.is_readonly.load(Ordering::Relaxed)),
        ('e', client.no_evict.load(Ordering::Relaxed)),
    ];
    let flags: String =
        letters.iter().filter(|(_, is_on)| *is_on).map(|(letter, _)| letter).collect();
    if flags.is_empty() { "N".into() } else { flags }
}

/// What Redis shows of a client that has sent no command yet.
const NO_COMMAND: &str = "NULL";

//! The table: which commands exist, and everything known about each.
//!
//! Owns the built-in table, its overlay by what one upstream says about itself, the renames of
//! `[upstream.renamed]`, and the change of class where we answer in the upstream's place. A table is never edited: each step makes another one, to be published
//! whole (INV-6). Never asks a server; [`super::overlay`] reads what one answered.
//!
//! Two surprises. After an overlay the table knows *exactly* what the upstream knows, so that
//! `CLIENT NO-TOUCH` gets Redis 7.0's own error in front of a Redis 7.0; but what it knows about a
//! built-in command stays ours: a server cannot talk its way onto a lane (INV-2). And a server lists
//! a renamed command under its original name, which is why renames are ours to be told.

use std::collections::HashMap;
use std::fmt;

use super::flags::Flags;
use super::index::{Entry, Index, NAME_BYTES_MAX};
use super::overlay::{LIVE_COMMANDS_MAX, LiveSpec};
use super::spec::{Class, CommandId, Spec};
use super::{Command, HTTP_NAMES, builtin};

/// How many commands and subcommands the built-in table has; their ids are below this.
pub const BUILTIN_COUNT: usize = builtin::LINES;

/// How many counters to keep a command: one for each built-in one, one for all others together.
pub const STATS_COUNT: usize = BUILTIN_COUNT + 1;

/// Everything known about the commands of one upstream.
#[derive(Clone, Debug)]
pub struct Table {
    /// By id. All built-in commands are here, those that the upstream lacks included: they are
    /// templates for another overlay, and keep the ids dense. Which of them exist, `index` says.
    specs: Vec<Spec>,
    /// The names that exist.
    index: Index,
    /// Whether everything that may write is refused.
    refuses_writes: bool,
    /// Whether everything that may write is looked at before it goes on.
    watches_writes: bool,
}

/// Why a name was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The command does not exist.
    Command,
    /// The command exists, its subcommand does not.
    Subcommand,
}

/// Why a rename makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenameError {
    /// Neither the upstream nor we know a command of this name; a subcommand cannot be renamed.
    NoSuchCommand(String),
    /// No server accepts this as the name of a command.
    NotAName(String),
    /// Another command has this name.
    Taken(String),
}

// === impl Table ===

impl Table {
    /// The built-in table alone: for an upstream that does not tell what it knows.
    pub fn builtin() -> Table {
        let specs = builtin::specs();
        let entries = specs.iter().map(entry_of).collect();
        Table::new(specs, entries)
    }

    /// A table in which nothing is refused or looked at.
    fn new(specs: Vec<Spec>, entries: Vec<Entry>) -> Table {
        let index = Index::new(entries);
        Table { specs, index, refuses_writes: false, watches_writes: false }
    }

    /// What a command is.
    ///
    /// A container without a further argument is itself; with one, the argument must name one of its
    /// subcommands. Arity is not looked at: see [`Spec::accepts`].
    // Always: it has several callers on the path of every command. Measured: 40 instructions a command.
    #[inline(always)]
    pub fn resolve(&self, command: &Command<'_>) -> Result<&Spec, Unknown> {
        let spec = self.lookup(None, command.name()).ok_or(Unknown::Command)?;
        if !spec.is_container {
            return Ok(spec);
        }
        match command.argument(1) {
            Some(word) => self.lookup(Some(spec.id), word).ok_or(Unknown::Subcommand),
            None => Ok(spec),
        }
    }

    /// The command called `name`, in any case: "get", "client|kill" or "client kill".
    pub fn find(&self, name: &str) -> Option<&Spec> {
        match name.split_once(['|', ' ']) {
            Some((container, word)) => {
                let container = self.lookup(None, container.as_bytes())?;
                self.lookup(Some(container.id), word.as_bytes())
            }
            None => self.lookup(None, name.as_bytes()),
        }
    }

    /// The spec of an id that this table gave out, or of any built-in command.
    pub fn spec(&self, id: CommandId) -> Option<&Spec> {
        self.specs.get(id.index())
    }

    /// Every command and subcommand that exists, once each; containers come before their own.
    pub fn specs(&self) -> impl Iterator<Item = &Spec> {
        let mut seen = vec![false; self.specs.len()];
        self.index.entries().iter().filter_map(move |entry| {
            let seen = seen.get_mut(entry.id.index())?;
            let first = !std::mem::replace(seen, true);
            self.spec(entry.id).filter(|_| first)
        })
    }

    /// The label under which a command is counted: its name, or "other" for all names that only this
    /// upstream has, because a module must not be able to make labels without end.
    pub fn stats_name(&self, id: CommandId) -> &str {
        match self.spec(id) {
            Some(spec) if id.is_builtin() => &spec.name,
            _ => "other",
        }
    }

    /// A table that knows exactly the commands in `live`, which an upstream said it has.
    ///
    /// A built-in command keeps its class, lane, flags, categories and policies; it takes the
    /// upstream's arity, and its key specs where it had none. A container for which the upstream
    /// lists no subcommands (before 7.0 none did) keeps the built-in ones. Other names are added, at
    /// most [`LIVE_COMMANDS_MAX`] of them: reads and writes that are nothing special run on the bulk
    /// lane, everything else is pinned. Renames of `self` are not kept.
    pub fn overlay(&self, live: Vec<LiveSpec>) -> Table {
        let mut overlay = Overlay::new(&self.specs);
        for command in live {
            overlay.add_command(command);
        }
        Table::new(overlay.specs, overlay.entries)
    }

    /// A table for an upstream with renamed commands: pairs of the original name, which clients
    /// send, and the name on the server, which replaces it on the wire ([`Spec::wire_name`]). A
    /// client that uses the server's name gets the same. An empty name: the server lacks the command.
    ///
    /// An original that the upstream does not list is taken from the built-in table, because the
    /// configuration says that it is there.
    pub fn rename(&self, map: &[(String, String)]) -> Result<Table, RenameError> {
        let mut renames = Renames::new(self);
        for (original, name) in map {
            renames.add(original, name)?;
        }
        Ok(Table::new(renames.specs, renames.entries))
    }

    /// A table in which the commands that `is_ours` chooses are of class local, whatever they were.
    pub fn answered_here(mut self, is_ours: impl Fn(&Spec) -> bool) -> Table {
        for spec in &mut self.specs {
            if is_ours(spec) {
                spec.class = Class::Local;
            }
        }
        self
    }

    /// A table in which everything that may write is refused here, or nothing is.
    pub fn writes_refused(mut self, are: bool) -> Table {
        self.refuses_writes = are;
        self.barred()
    }

    /// A table in which everything that may write is looked at by whoever dispatches, before it
    /// goes on, or nothing is.
    pub fn writes_watched(mut self, are: bool) -> Table {
        self.watches_writes = are;
        self.barred()
    }

    /// Whether everything that may write is refused.
    pub fn refuses_writes(&self) -> bool {
        self.refuses_writes
    }

    /// Whether everything that may write is looked at.
    pub fn watches_writes(&self) -> bool {
        self.watches_writes
    }

    /// Both ways lead off the path by the same comparison, so that nobody pays for either.
    fn barred(mut self) -> Table {
        let is_any = self.refuses_writes || self.watches_writes;
        for spec in &mut self.specs {
            spec.bar(is_any && spec.may_write());
        }
        self
    }

    /// The table with one more name that is answered here, whatever the upstream says of it. It is no
    /// container to us: whoever answers reads its words.
    pub fn with_ours(mut self, name: &str, arity: i32) -> Table {
        let id = CommandId(self.specs.len() as u16);
        self.specs.push(Spec::of_ours(id, name, arity));
        let word = name.as_bytes();
        let others = self.index.entries().iter();
        let mut entries: Vec<Entry> =
            others.filter(|it| it.container.is_some() || &*it.word != word).cloned().collect();
        entries.push(Entry { container: None, word: word.into(), id });
        self.index = Index::new(entries);
        self
    }

    #[inline]
    fn lookup(&self, container: Option<CommandId>, word: &[u8]) -> Option<&Spec> {
        self.specs.get(self.index.find(container, word)?.index())
    }
}

/// The name of a spec, as the index wants it.
fn entry_of(spec: &Spec) -> Entry {
    let word = spec.name.split_once('|').map_or(&*spec.name, |(_, word)| word);
    Entry { container: spec.container, word: word.as_bytes().into(), id: spec.id }
}

/// Whether a server may call a command like that: visible ASCII, without our bar.
fn is_name(word: &str) -> bool {
    let visible = |byte: u8| byte.is_ascii_graphic() && byte != b'|';
    !word.is_empty() && word.len() <= NAME_BYTES_MAX && word.bytes().all(visible)
}

/// A table in the making.
struct Overlay {
    specs: Vec<Spec>,
    entries: Vec<Entry>,
    /// Ids by full name in lower case, of templates and of what was added.
    ids: HashMap<Box<str>, CommandId>,
    /// Whether a name was listed before; by id.
    listed: Vec<bool>,
}

// === impl Overlay ===

impl Overlay {
    fn new(specs: &[Spec]) -> Overlay {
        let mut specs = specs.get(..BUILTIN_COUNT).unwrap_or(specs).to_vec();
        for spec in &mut specs {
            spec.wire_name = None;
        }
        let ids = specs.iter().map(|spec| (spec.name.clone(), spec.id)).collect();
        let listed = vec![false; specs.len()];
        Overlay { specs, entries: Vec::new(), ids, listed }
    }

    /// A command with its subcommands.
    fn add_command(&mut self, live: LiveSpec) {
        let name = live.name.to_ascii_lowercase();
        // Redis 6 lists `post` and `host:`, upon which it closes the connection.
        if !is_name(&name) || HTTP_NAMES.contains(&name.as_str()) {
            return;
        }
        let subcommands = live.subcommands.clone();
        let Some(id) = self.add(&name, None, live) else {
            return;
        };
        if subcommands.is_empty() {
            self.keep_subcommands(id);
            return;
        }
        // A subcommand of what is no container to us would change what is known about that command.
        if id.is_builtin() && !self.specs[id.index()].is_container {
            return;
        }
        self.specs[id.index()].is_container = true;
        for subcommand in subcommands {
            // Servers write the full name here; a bare word would mean the same.
            let full = subcommand.name.to_ascii_lowercase();
            let word = full.split_once('|').map_or(full.as_str(), |(_, word)| word);
            if is_name(word) {
                self.add(&format!("{name}|{word}"), Some(id), subcommand);
            }
        }
    }

    /// One name. `None` if it was there before or there is no room.
    fn add(
        &mut self,
        name: &str,
        container: Option<CommandId>,
        live: LiveSpec,
    ) -> Option<CommandId> {
        let id = match self.ids.get(name) {
            Some(id) => *id,
            None => self.add_stranger(name, container, &live)?,
        };
        if std::mem::replace(&mut self.listed[id.index()], true) {
            return None;
        }
        let spec = &mut self.specs[id.index()];
        spec.arity = live.arity;
        if spec.key_specs.is_empty() {
            spec.set_key_specs(live.to_key_specs());
        }
        self.entries.push(entry_of(spec));
        Some(id)
    }

    /// A name that the built-in table does not have.
    fn add_stranger(
        &mut self,
        name: &str,
        container: Option<CommandId>,
        live: &LiveSpec,
    ) -> Option<CommandId> {
        if self.specs.len() >= BUILTIN_COUNT + LIVE_COMMANDS_MAX {
            return None;
        }
        let id = CommandId(self.specs.len() as u16);
        let parent = container.and_then(|container| self.specs.get(container.index()));
        let class = class_of_stranger(live.flags, parent);
        self.specs.push(Spec::of_stranger(id, name, container, class, live));
        self.listed.push(false);
        self.ids.insert(name.into(), id);
        Some(id)
    }

    /// The built-in subcommands of a container of which the upstream lists none.
    fn keep_subcommands(&mut self, container: CommandId) {
        let kept = self.specs.iter().filter(|spec| spec.container == Some(container));
        self.entries.extend(kept.map(entry_of));
    }
}

/// What a command that only one upstream knows may do to a connection: a plain read or write is
/// shared, everything else gets a connection of its own. So does a new subcommand of a container
/// that is about connections (CLIENT), whatever the server calls it.
fn class_of_stranger(flags: Flags, container: Option<&Spec>) -> Class {
    let special = Flags::ADMIN | Flags::PUBSUB | Flags::BLOCKING | Flags::NOSCRIPT;
    let is_plain = flags.intersects(Flags::READONLY | Flags::WRITE) && !flags.intersects(special);
    let is_about_connections =
        container.is_some_and(|spec| spec.id.is_builtin() && spec.class != Class::Shared);
    if is_plain && !is_about_connections { Class::Shared } else { Class::Pinned }
}

/// A table with other names in the making.
struct Renames {
    specs: Vec<Spec>,
    entries: Vec<Entry>,
}

// === impl Renames ===

impl Renames {
    fn new(table: &Table) -> Renames {
        Renames { specs: table.specs.clone(), entries: table.index.entries().to_vec() }
    }

    /// One pair; an empty `name` takes the command away.
    fn add(&mut self, original: &str, name: &str) -> Result<(), RenameError> {
        let original = original.to_ascii_lowercase();
        let is_it = |spec: &&Spec| spec.container.is_none() && *spec.name == *original;
        let Some(id) = self.specs.iter().find(is_it).map(|spec| spec.id) else {
            return Err(RenameError::NoSuchCommand(original));
        };
        if name.is_empty() {
            self.entries.retain(|entry| entry.id != id || entry.container.is_some());
            return Ok(());
        }
        if !is_name(name) {
            return Err(RenameError::NotAName(name.to_owned()));
        }
        self.point(name, id)?;
        self.restore(id);
        for spec in self.specs.iter_mut() {
            if spec.id == id || spec.container == Some(id) {
                spec.wire_name = Some(name.as_bytes().into());
            }
        }
        Ok(())
    }

    /// Makes `name` a name of `id`. If the upstream lists the command under that name, what it says
    /// about it gives way to what is known about the original.
    fn point(&mut self, name: &str, id: CommandId) -> Result<(), RenameError> {
        let word: Box<[u8]> = name.to_ascii_lowercase().as_bytes().into();
        let has_it = |entry: &&Entry| entry.container.is_none() && entry.word == word;
        match self.entries.iter().find(has_it).map(|entry| entry.id) {
            Some(other) if other == id => return Ok(()),
            Some(other) if other.is_builtin() => return Err(RenameError::Taken(name.to_owned())),
            Some(stranger) => self.entries.retain(|entry| entry.id != stranger),
            None => {}
        }
        self.entries.push(Entry { container: None, word, id });
        Ok(())
    }

    /// Brings a command back, with its subcommands, that the upstream did not list.
    fn restore(&mut self, id: CommandId) {
        let original = self.specs.get(id.index()).map(entry_of);
        let is_there =
            |entry: &Entry, original: &Entry| entry.id == id && entry.word == original.word;
        let Some(original) = original else { return };
        if self.entries.iter().any(|entry| is_there(entry, &original)) {
            return;
        }
        self.entries.push(original);
        let own = self.specs.iter().filter(|spec| spec.container == Some(id));
        self.entries.extend(own.map(entry_of));
    }
}

// === impl RenameError ===

impl fmt::Display for RenameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RenameError::NoSuchCommand(name) => write!(f, "there is no command '{name}' to rename"),
            RenameError::NotAName(name) => {
                write!(
                    f,
                    "'{name}' cannot be the name of a command: one word of visible ASCII, at most {NAME_BYTES_MAX} bytes"
                )
            }
            RenameError::Taken(name) => write!(f, "'{name}' is the name of another command"),
        }
    }
}

impl std::error::Error for RenameError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::keys;
    use crate::command::spec::Lane;
    use crate::command::tests::Request;

    fn resolve<'t>(table: &'t Table, line: &str) -> Result<&'t Spec, Unknown> {
        table.resolve(&Request::words(line).command())
    }

    fn name<'t>(table: &'t Table, line: &str) -> &'t str {
        resolve(table, line).map_or("?", |spec| &*spec.name)
    }

    fn live(name: &str, flags: Flags) -> LiveSpec {
        LiveSpec { name: name.to_owned(), arity: -2, flags, ..LiveSpec::default() }
    }

    fn pairs(map: &[(&str, &str)]) -> Vec<(String, String)> {
        map.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }

    #[test]
    fn every_built_in_name_resolves_to_itself_in_any_case() {
        let table = Table::builtin();
        assert_eq!(table.specs().count(), BUILTIN_COUNT);
        for spec in table.specs() {
            let words: Vec<String> =
                spec.name.split('|').map(|word| word.to_ascii_uppercase()).collect();
            let request = Request::new(&words);
            assert_eq!(table.resolve(&request.command()).unwrap().id, spec.id);
            assert_eq!(table.find(&spec.name).unwrap().id, spec.id);
            assert_eq!(table.stats_name(spec.id), &*spec.name);
        }
    }

    #[test]
    fn unknown_names_and_subcommands_are_told_apart() {
        let table = Table::builtin();
        assert_eq!(resolve(&table, "nosuch x").unwrap_err(), Unknown::Command);
        assert_eq!(resolve(&table, "client|kill x").unwrap_err(), Unknown::Command);
        assert_eq!(resolve(&table, "").unwrap_err(), Unknown::Command);
        assert_eq!(resolve(&table, "CLIENT nosuch").unwrap_err(), Unknown::Subcommand);
        let empty = Request::new(&["client", ""]);
        assert_eq!(table.resolve(&empty.command()).unwrap_err(), Unknown::Subcommand);
        // Alone a container is itself, and its arity says that it cannot stand alone.
        let client = resolve(&table, "CLIENT").unwrap();
        assert!(!client.accepts(1));
        assert!(resolve(&table, "COMMAND").unwrap().accepts(1));
        assert_eq!(name(&table, "GET client"), "get");
    }

    #[test]
    fn after_an_overlay_only_what_the_upstream_lists_exists() {
        let mut client = live("client", Flags::default());
        client.subcommands = vec![live("client|id", Flags::default()), live("kill", Flags::ADMIN)];
        let table = Table::builtin().overlay(vec![live("GET", Flags::READONLY), client]);
        assert_eq!(name(&table, "get k"), "get");
        assert_eq!(name(&table, "client id"), "client|id");
        assert_eq!(name(&table, "client kill"), "client|kill");
        assert_eq!(resolve(&table, "set k v").unwrap_err(), Unknown::Command);
        assert_eq!(resolve(&table, "client no-touch on").unwrap_err(), Unknown::Subcommand);
        assert_eq!(table.specs().count(), 4);
        // What is gone can come back with another upstream, under its old id.
        let again = table.overlay(vec![live("set", Flags::WRITE)]);
        assert_eq!(again.find("set").unwrap().id, Table::builtin().find("set").unwrap().id);
    }

    #[test]
    fn an_overlay_cannot_change_what_a_built_in_command_does_to_a_connection() {
        let builtin = Table::builtin();
        let table = builtin.overlay(vec![
            live("monitor", Flags::READONLY),
            live("sync", Flags::READONLY),
            live("blpop", Flags::WRITE),
            live("incr", Flags::READONLY),
        ]);
        for command in ["monitor", "sync", "blpop", "incr"] {
            let (before, after) = (builtin.find(command).unwrap(), table.find(command).unwrap());
            assert_eq!(
                (before.class, before.lane, before.flags, before.is_retry_safe()),
                (after.class, after.lane, after.flags, after.is_retry_safe())
            );
            assert_eq!(after.arity, -2);
        }
    }

    #[test]
    fn strangers_are_shared_only_if_they_are_plain_reads_or_writes() {
        let mut client = live("client", Flags::default());
        client.subcommands = vec![live("client|read-all", Flags::READONLY)];
        let mut debug = live("debug", Flags::ADMIN);
        debug.subcommands = vec![live("debug|read", Flags::READONLY)];
        let mut module = live("m.box", Flags::default());
        module.subcommands = vec![live("m.box|open", Flags::READONLY)];
        let table = Table::builtin().overlay(vec![
            live("FT.SEARCH", Flags::READONLY),
            live("m.write", Flags::WRITE),
            live("m.none", Flags::default()),
            live("m.block", Flags::WRITE | Flags::BLOCKING),
            live("m.admin", Flags::READONLY | Flags::ADMIN),
            live("m.noscript", Flags::READONLY | Flags::NOSCRIPT),
            live("m.pubsub", Flags::READONLY | Flags::PUBSUB),
            client,
            debug,
            module,
        ]);
        let class = |line: &str| resolve(&table, line).map(|spec| (spec.class, spec.lane));
        assert_eq!(class("ft.search x"), Ok((Class::Shared, Lane::Bulk)));
        assert_eq!(class("m.write x"), Ok((Class::Shared, Lane::Bulk)));
        assert_eq!(class("m.box open"), Ok((Class::Shared, Lane::Bulk)));
        for line in ["m.none", "m.block", "m.admin", "m.noscript", "m.pubsub", "client read-all"] {
            assert_eq!(class(line).map(|(class, _)| class), Ok(Class::Pinned), "{line}");
        }
        assert_eq!(name(&table, "debug read"), "debug");
        let search = table.find("ft.search").unwrap();
        assert!(!search.is_retry_safe() && search.runs_user_code());
        assert_eq!(table.stats_name(search.id), "other");
        assert_eq!(search.id.stats_index(), BUILTIN_COUNT);
    }

    #[test]
    fn names_that_close_connections_or_are_no_names_are_never_added() {
        let table = Table::builtin().overlay(vec![
            live("host:", Flags::READONLY),
            live("POST", Flags::READONLY),
            live("two words", Flags::READONLY),
            live("bar|bar", Flags::READONLY),
            live("", Flags::READONLY),
            live(&"x".repeat(65), Flags::READONLY),
            live("ok", Flags::READONLY),
            live("OK", Flags::WRITE),
        ]);
        assert_eq!(table.specs().map(|spec| &*spec.name).collect::<Vec<_>>(), ["ok"]);
        assert!(table.find("ok").unwrap().is_readonly());
    }

    #[test]
    fn an_upstream_before_7_0_keeps_the_built_in_subcommands() {
        let table = Table::builtin().overlay(vec![live("config", Flags::ADMIN)]);
        assert_eq!(name(&table, "config get x"), "config|get");
        assert_eq!(resolve(&table, "config nosuch").unwrap_err(), Unknown::Subcommand);
    }

    #[test]
    fn strangers_are_bounded() {
        let many = (0..LIVE_COMMANDS_MAX + 50).map(|n| live(&format!("x{n}"), Flags::WRITE));
        let table = Table::builtin().overlay(many.collect());
        assert_eq!(table.specs().count(), LIVE_COMMANDS_MAX);
        assert_eq!(name(&table, "x17"), "x17");
    }

    #[test]
    fn keys_of_a_stranger_come_from_its_specs_or_the_old_notation() {
        let old =
            LiveSpec { first_key: 2, last_key: -1, key_step: 2, ..live("m.set", Flags::WRITE) };
        let table = Table::builtin().overlay(vec![old, live("m.none", Flags::WRITE)]);
        let spec = table.find("m.set").unwrap();
        let request = Request::words("m.set x k1 v k2 v");
        let mut found = Vec::new();
        keys::keys(spec, &request.command(), &mut found).unwrap();
        assert_eq!(found.iter().map(|key| key.index).collect::<Vec<_>>(), [2, 4]);
        assert!(!table.find("m.none").unwrap().has_keys());
    }

    #[test]
    fn a_renamed_command_is_known_by_both_names_and_sent_by_the_servers() {
        let map = pairs(&[("FLUSHALL", "Wipe"), ("config", "CONF"), ("shutdown", "")]);
        let table = Table::builtin().rename(&map).unwrap();
        let wipe = resolve(&table, "flushall").unwrap();
        assert_eq!(wipe.wire_name.as_deref(), Some(&b"Wipe"[..]));
        assert_eq!(resolve(&table, "WIPE async").unwrap().id, wipe.id);
        assert_eq!(&*wipe.name, "flushall");
        let get = resolve(&table, "conf get x").unwrap();
        assert_eq!((&*get.name, get.wire_name.as_deref()), ("config|get", Some(&b"CONF"[..])));
        assert_eq!(name(&table, "CONFIG SET a b"), "config|set");
        assert_eq!(resolve(&table, "conf nosuch").unwrap_err(), Unknown::Subcommand);
        assert_eq!(resolve(&table, "shutdown").unwrap_err(), Unknown::Command);
        assert_eq!(table.specs().count(), BUILTIN_COUNT - 1);
        assert!(resolve(&table, "get k").unwrap().wire_name.is_none());
    }

    #[test]
    fn a_rename_wins_over_what_the_upstream_lists_under_the_new_name() {
        // A server may list the renamed command by its new name only, with whatever flags.
        let live = vec![live("wipe", Flags::READONLY), live("get", Flags::READONLY)];
        let table = Table::builtin().overlay(live);
        assert!(table.find("wipe").unwrap().is_readonly());
        let table = table.rename(&pairs(&[("flushall", "wipe"), ("config", "cfg")])).unwrap();
        for spelled in ["wipe", "flushall"] {
            assert_eq!(name(&table, spelled), "flushall");
        }
        assert!(table.find("wipe").unwrap().is_write());
        assert_eq!(name(&table, "cfg get x"), "config|get");
        assert_eq!(name(&table, "set k v"), "?");
    }

    #[test]
    fn renames_that_make_no_sense_are_refused() {
        let rename = |original: &str, name: &str| {
            Table::builtin().rename(&pairs(&[(original, name)])).unwrap_err()
        };
        assert_eq!(rename("flushal", "x"), RenameError::NoSuchCommand("flushal".into()));
        assert_eq!(rename("client|kill", "x"), RenameError::NoSuchCommand("client|kill".into()));
        assert_eq!(rename("flushall", "a b"), RenameError::NotAName("a b".into()));
        assert_eq!(rename("flushall", "get"), RenameError::Taken("get".into()));
        assert!(rename("flushall", "GET").to_string().contains("'GET'"));
    }
}

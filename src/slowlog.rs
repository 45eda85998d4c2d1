//! Slow commands: who asked, how long it waited here and how long at its server.
//!
//! Owns a ring for each worker, bounded in entries and bytes, the server's own SLOWLOG entries that
//! the watcher has brought, and the matching of the two. Behind shared connections the server sees
//! one client, us; only here it is known who asked. A key is kept only if the operator asked for
//! keys, a value never (INV-11).
//!
//! What surprises: a fast command is in it as well if it waited behind a slow one. Queue and
//! upstream time stand apart, so that the culprit and its victims can be told.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::{self, Micros, SECOND};
use crate::command::keys;
use crate::config::SlowlogSettings;
use crate::route::frame;
use crate::upstream::lane::{Lane, Patience, Role, Waiter};
use crate::upstream::loss;
use crate::watch::slow::SlowEntry;
use crate::worker::Worker;

/// The slow commands of the process.
#[derive(Debug, Default)]
pub struct Slowlog {
    /// A ring a worker: when everything is slow they must not wait for each other.
    rings: Mutex<Vec<Arc<Mutex<Ring>>>>,
    /// What servers have logged themselves, with the name of the server; the newest last.
    theirs: Mutex<VecDeque<(String, SlowEntry)>>,
}

/// What a worker needs to notice slow commands.
#[derive(Debug)]
pub struct Recorder {
    /// From how long on a command is slow. Compared for every reply.
    pub after: Micros,
    /// Whether keys are kept.
    keys: bool,
    ring: Arc<Mutex<Ring>>,
}

/// The newest entries of one worker.
#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    /// Heap bytes of their texts.
    bytes: usize,
    /// Entries in the second that began at `second`.
    admitted: usize,
    second: Micros,
    /// Slow commands that were not kept, because too many came at once.
    left_out: u64,
}

/// A slow command.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// When its reply came, in seconds since 1970.
    pub at: u64,
    /// Address of the client; empty if it had left.
    pub client: String,
    /// What the client calls itself.
    pub name: String,
    /// The library that it uses.
    pub library: String,
    /// The command.
    pub command: String,
    /// Its first key, where keys are kept.
    pub key: Option<String>,
    /// Its server.
    pub node: String,
    /// Bytes of the command and of its reply.
    pub request_bytes: u64,
    /// See above.
    pub reply_bytes: u64,
    /// Microseconds until the kernel took it, and from there to the reply.
    pub queue_micros: u64,
    /// See above.
    pub upstream_micros: u64,
    /// What the server itself logged: microseconds that it really took there.
    pub server_micros: Option<u64>,
}

/// Everything that is shown.
#[derive(Debug, Default, serde::Serialize)]
pub struct View {
    /// The newest first.
    pub commands: Vec<Entry>,
    /// What servers logged and no command of ours explains: other clients asked for it.
    pub others: Vec<Other>,
    /// Slow commands that were not kept.
    pub left_out: u64,
}

/// An entry of a server's SLOWLOG that is not ours.
#[derive(Debug, serde::Serialize)]
pub struct Other {
    /// The server.
    pub node: String,
    /// What it logged.
    pub entry: SlowEntry,
}

/// Notes the command of the lane's first waiter if it was slow. To be called while its bytes still
/// lie on the lane; `reply` is the length of what came in answer.
#[inline(always)]
pub fn note(worker: &Worker, lane: &Lane, handed_at: Micros, reply: usize) {
    if let Some(waiter) = lane.waiters.front()
        && worker.now.saturating_sub(waiter.taken_at) >= worker.slow.after
    {
        record(worker, lane, waiter, handed_at, reply as u64);
    }
}

#[cold]
fn record(worker: &Worker, lane: &Lane, waiter: &Waiter, handed_at: Micros, reply: u64) {
    // Who waits for others on purpose is not slow, and our own questions are nobody's command.
    if waiter.patience == Patience::Endless || waiter.role == Role::Whisper {
        return;
    }
    let mut ring = lock(&worker.slow.ring);
    if !ring.admits(worker.now) {
        return;
    }
    let client = worker.sessions.get(waiter.session).map(|session| &session.client);
    let labels = client.map(|client| client.labels()).unwrap_or_default();
    let key = if worker.slow.keys { first_key(worker, lane, waiter) } else { None };
    ring.push(Entry {
        at: clock::unix_seconds(),
        client: client.map(|client| client.address.clone()).unwrap_or_default(),
        name: shortened(&labels.name),
        library: shortened(&labels.library_name),
        command: loss::worker_name(worker, waiter),
        key,
        node: lane.node.name.clone(),
        request_bytes: u64::from(waiter.length.saturating_sub(waiter.prelude)),
        reply_bytes: reply + lane.streamed + lane.block.1.len() as u64,
        queue_micros: handed_at.saturating_sub(waiter.taken_at),
        upstream_micros: worker.now.saturating_sub(handed_at),
        server_micros: None,
    });
}

/// The first key of a command, read from its bytes once more.
fn first_key(worker: &Worker, lane: &Lane, waiter: &Waiter) -> Option<String> {
    let piece = lane.send.piece(waiter.start(), waiter.end)?;
    let table = &worker.shared.topology.load().table;
    let key = frame::with_command(table, piece.bytes(), |command, spec| {
        let mut found = Vec::new();
        keys::keys(spec, command, &mut found).ok()?;
        command.argument(found.first()?.index as usize).map(shortened)
    });
    key.flatten()
}

/// A text for people, of bounded length.
fn shortened(bytes: &[u8]) -> String {
    let most = bytes.get(..bytes.len().min(TEXT_BYTES_MAX)).unwrap_or_default();
    String::from_utf8_lossy(most).replace(|it: char| it.is_control(), " ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Slowlog ===

impl Slowlog {
    /// A recorder for a new worker.
    #[must_use]
    pub fn recorder(&self, settings: &SlowlogSettings) -> Recorder {
        let ring = Arc::default();
        lock(&self.rings).push(Arc::clone(&ring));
        Recorder { after: clock::to_micros(settings.threshold), keys: settings.keys, ring }
    }

    /// Takes in what a server has logged since it was last asked, the newest first.
    pub fn add_theirs(&self, node: &str, entries: &[SlowEntry]) {
        let mut theirs = lock(&self.theirs);
        theirs.extend(entries.iter().rev().map(|entry| (node.to_owned(), entry.clone())));
        while theirs.len() > ENTRIES_MAX {
            theirs.pop_front();
        }
    }

    /// The newest commands of all workers, matched with what the servers say.
    #[must_use]
    pub fn view(&self) -> View {
        let mut view = View::default();
        for ring in lock(&self.rings).iter() {
            let ring = lock(ring);
            view.commands.extend(ring.entries.iter().cloned());
            view.left_out += ring.left_out;
        }
        view.commands.sort_by_key(|entry| std::cmp::Reverse(entry.at));
        view.commands.truncate(ENTRIES_MAX);
        for (node, theirs) in lock(&self.theirs).iter().rev() {
            match view.commands.iter_mut().find(|ours| ours.is_of(node, theirs)) {
                Some(ours) => ours.server_micros = Some(theirs.micros),
                None => view.others.push(Other { node: node.clone(), entry: theirs.clone() }),
            }
        }
        view
    }
}

// === impl Recorder ===

impl Recorder {
    /// Adopts changed settings.
    pub fn adopt(&mut self, settings: &SlowlogSettings) {
        self.after = clock::to_micros(settings.threshold);
        self.keys = settings.keys;
    }
}

// === impl Ring ===

impl Ring {
    /// Whether one more is kept in this second: when all commands are slow, noting that must not
    /// make them slower.
    fn admits(&mut self, now: Micros) -> bool {
        if now.saturating_sub(self.second) >= SECOND {
            (self.second, self.admitted) = (now, 0);
        }
        self.admitted += 1;
        let is_kept = self.admitted <= ENTRIES_A_SECOND;
        self.left_out += u64::from(!is_kept);
        is_kept
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > ENTRIES_MAX || self.bytes > RING_BYTES_MAX {
            let Some(oldest) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Heap bytes of its texts.
    fn bytes(&self) -> usize {
        let texts = [&self.client, &self.name, &self.library, &self.command, &self.node];
        let key = self.key.as_ref().map_or(0, String::len);
        texts.iter().map(|text| text.len()).sum::<usize>() + key
    }

    /// Whether a server's entry is about this command: the same name, at that time, and not longer
    /// than the answer took.
    fn is_of(&self, node: &str, theirs: &SlowEntry) -> bool {
        let name = self.command.split('|').next().unwrap_or_default();
        let began = self.at.saturating_sub((self.queue_micros + self.upstream_micros) / SECOND);
        // Both clocks count whole seconds, and those of two hosts are never quite the same.
        let is_then =
            (began.saturating_sub(CLOCKS_APART)..=self.at + CLOCKS_APART).contains(&theirs.at);
        self.server_micros.is_none()
            && self.node == node
            && name.eq_ignore_ascii_case(&theirs.command)
            && theirs.micros <= self.upstream_micros
            && is_then
    }
}

// === impl View ===

impl View {
    /// The page for people.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut page);
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let ms = |micros: u64| format!("{}.{:03}", micros / 1_000, micros % 1_000);
        if self.commands.is_empty() && self.others.is_empty() {
            return writeln!(page, "no command was slow");
        }
        for it in &self.commands {
            write!(
                page,
                "{} {} queue {} ms, upstream {} ms",
                it.at,
                it.command,
                ms(it.queue_micros),
                ms(it.upstream_micros)
            )?;
            if let Some(micros) = it.server_micros {
                write!(page, ", of which {} ms in the server", ms(micros))?;
            }
            let (request, reply) = (it.request_bytes, it.reply_bytes);
            write!(page, ", {request} bytes asked, {reply} answered, by {}", it.client)?;
            for (word, text) in [("name", &it.name), ("library", &it.library)] {
                if !text.is_empty() {
                    write!(page, " {word} {text}")?;
                }
            }
            let key = it.key.as_ref().map(|key| format!(" key {key}")).unwrap_or_default();
            writeln!(page, " on {}{key}", it.node)?;
        }
        for Other { node, entry } in &self.others {
            let (at, command) = (entry.at, &entry.command);
            writeln!(page, "{at} {command} {} ms in {node}, not through us", ms(entry.micros))?;
        }
        if self.left_out > 0 {
            writeln!(page, "{} more were slow and not kept: too many at once", self.left_out)?;
        }
        Ok(())
    }
}

/// Most entries of a ring, and on the page.
const ENTRIES_MAX: usize = 1_000;
/// Most entries that a worker keeps in a second.
const ENTRIES_A_SECOND: usize = 1_000;
/// Most bytes of texts in a ring.
const RING_BYTES_MAX: usize = 512 * 1024;
/// Longest name, library and key.
const TEXT_BYTES_MAX: usize = 128;
/// Seconds by which clocks may differ.
const CLOCKS_APART: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64, command: &str) -> Entry {
        Entry {
            at,
            command: command.into(),
            client: "c:1".into(),
            node: "n:1".into(),
            queue_micros: 1_000,
            upstream_micros: 20_500,
            ..Entry::default()
        }
    }

    fn theirs(id: u64, at: u64, micros: u64, command: &str) -> SlowEntry {
        SlowEntry { id, at, micros, command: command.into(), key: None }
    }

    #[test]
    fn a_ring_is_bounded_in_entries_bytes_and_by_the_second() {
        let mut ring = Ring::default();
        for at in 0..2_000 {
            ring.push(entry(at, "get"));
        }
        assert_eq!((ring.entries.len(), ring.entries[0].at), (ENTRIES_MAX, 1_000));
        let long = Entry { name: "n".repeat(64 * 1024), ..entry(1, "get") };
        (0..20).for_each(|_| ring.push(long.clone()));
        assert!(ring.bytes <= RING_BYTES_MAX && ring.entries.len() < 20);
        let admitted = (0..5_000).filter(|_| ring.admits(1)).count();
        assert_eq!((admitted, ring.left_out), (ENTRIES_A_SECOND, 4_000));
        assert!(ring.admits(1 + SECOND));
    }

    #[test]
    fn what_the_server_logged_is_matched_by_command_and_time() {
        let slowlog = Slowlog::default();
        let recorder = slowlog.recorder(&SlowlogSettings::default());
        for one in [entry(100, "eval"), entry(100, "config|get"), entry(200, "eval")] {
            lock(&recorder.ring).push(one);
        }
        let logged = [
            theirs(3, 300, 20_000, "EVAL"),
            theirs(2, 200, 99_000, "EVAL"),
            theirs(1, 100, 11_000, "CONFIG"),
            theirs(0, 99, 20_000, "EVAL"),
        ];
        slowlog.add_theirs("n:1", &logged);
        let view = slowlog.view();
        let matched: Vec<_> =
            view.commands.iter().map(|it| (it.at, &*it.command, it.server_micros)).collect();
        assert_eq!(
            matched,
            [(200, "eval", None), (100, "eval", Some(20_000)), (100, "config|get", Some(11_000))]
        );
        // At another time, and longer than the answer took.
        assert_eq!(view.others.iter().map(|it| it.entry.id).collect::<Vec<_>>(), [3, 2]);
        let page = view.page();
        assert!(
            page.contains(
                "100 eval queue 1.000 ms, upstream 20.500 ms, of which 20.000 ms in the server"
            ),
            "{page}"
        );
        assert!(page.contains("200 EVAL 99.000 ms in n:1, not through us"), "{page}");
    }
}

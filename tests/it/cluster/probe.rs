//! Clients that may be refused, but never lied to: each increments a counter of its own in one shard, and keeps book.
//!
//! Owns the reading of errors by class, and the sums that prove that nothing ran twice. Never accepts an error that
//! does not say whether the command was run, nor a connection that is closed.
//!
//! What surprises: Redis itself may lose what it acknowledged when a primary is killed, for it copies behind the
//! reply. A client has one command in flight, so that is one increment for each client and death, and never more.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, key_in};
use crate::support::{Client, shown, until};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    Answered,
    NotExecuted,
    Unknown,
    /// Redis says that its cluster is down.
    ClusterDown,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) sent: Instant,
    pub(crate) took: Duration,
    pub(crate) ending: Ending,
}

/// What one client has seen.
pub(crate) struct Book {
    /// The shard of its key.
    pub(crate) shard: usize,
    key: String,
    samples: Vec<Sample>,
    /// Errors, without their numbers, and how often each came.
    errors: BTreeMap<String, usize>,
    /// The counter's last value, and each time that it was less than before: by how much, and when.
    last: usize,
    lost: Vec<(usize, Instant)>,
    complaint: Option<String>,
}

/// The clients, at work.
pub(crate) struct Probes {
    is_over: Arc<AtomicBool>,
    /// By client: its shard, and how often it was answered.
    answered: Vec<(usize, Arc<AtomicU64>)>,
    threads: Vec<JoinHandle<Book>>,
}

/// The books of a run.
pub(crate) struct Books(Vec<Book>);

// === impl Probes ===

impl Probes {
    /// `each` clients for every shard, of which the slots are given.
    pub(crate) fn start(port: u16, shards: &[Range<u16>], each: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut probes = Self { is_over, answered: Vec::new(), threads: Vec::new() };
        for (shard, slots) in shards.iter().enumerate() {
            for n in 0..each {
                let slot = slots.start + (n * slots.len() / each) as u16;
                let book = Book::new(shard, key_in(slot, n));
                let answered = Arc::new(AtomicU64::new(0));
                probes.answered.push((shard, Arc::clone(&answered)));
                let is_over = Arc::clone(&probes.is_over);
                probes
                    .threads
                    .push(std::thread::spawn(move || book.fill(port, &is_over, &answered)));
            }
        }
        probes
    }

    /// Waits until every client of these shards has been answered `more` times.
    pub(crate) fn pass(&self, more: u64, shards: &[usize]) {
        let counts = || self.answered.iter().map(|(_, count)| count.load(Ordering::Relaxed));
        let before: Vec<u64> = counts().collect();
        until("every client is answered", || {
            let is_wanted = |place: usize| shards.contains(&self.answered[place].0);
            self.threads.iter().any(JoinHandle::is_finished)
                || counts().enumerate().all(|(n, now)| !is_wanted(n) || now >= before[n] + more)
        });
    }

    /// Stops; fails if any client was told something else than what happened.
    pub(crate) fn finish(mut self) -> Books {
        self.is_over.store(true, Ordering::Relaxed);
        let books = self.threads.drain(..).map(|thread| thread.join().expect("no client panics"));
        let books = Books(books.collect());
        let complaints: Vec<&str> =
            books.0.iter().filter_map(|book| book.complaint.as_deref()).collect();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
        books
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

// === impl Book ===

impl Book {
    fn new(shard: usize, key: String) -> Self {
        let (samples, errors) = (Vec::new(), BTreeMap::new());
        Self { shard, key, samples, errors, last: 0, lost: Vec::new(), complaint: None }
    }

    fn fill(mut self, port: u16, is_over: &AtomicBool, answered: &AtomicU64) -> Self {
        let words = format!("INCR {}", self.key);
        let mut client = Client::connect(port);
        while !is_over.load(Ordering::Relaxed) {
            let sent = Instant::now();
            let reply = client
                .try_send(&crate::support::line(&words))
                .and_then(|()| client.try_frame())
                .map_err(|error| format!("no reply to {words}: {error}"));
            match reply.and_then(|reply| self.judge(&reply)) {
                Ok(ending) => {
                    self.samples.push(Sample { sent, took: sent.elapsed(), ending });
                    answered.fetch_add(u64::from(ending == Ending::Answered), Ordering::Relaxed);
                }
                Err(what) => {
                    let took = sent.elapsed();
                    let about = format!("{words} of shard {}, {took:?} after it", self.shard);
                    self.complaint = Some(format!("{about} was sent: {what}"));
                    return self;
                }
            }
            // It is a client that does something between two commands, not a benchmark.
            std::thread::sleep(PAUSE);
        }
        self
    }

    /// The class of the reply; nothing is counted twice, whatever has happened before.
    fn judge(&mut self, reply: &[u8]) -> Result<Ending, String> {
        let text = String::from_utf8_lossy(reply);
        if let Some(value) = text.strip_prefix(':') {
            let most = self.count(Ending::Answered) + self.count(Ending::Unknown) + 1;
            let value: usize = value.trim_end().parse().map_err(|_| text.to_string())?;
            if value <= self.last {
                self.lost.push((self.last + 1 - value, Instant::now()));
            }
            self.last = value;
            return match value <= most {
                true => Ok(Ending::Answered),
                false => Err(format!("it counts {value}, at most {most} can have run")),
            };
        }
        let masked: String =
            text.trim_end().chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
        *self.errors.entry(masked).or_default() += 1;
        let classes = [
            ("-ERR breakwater: not executed: ", Ending::NotExecuted),
            ("-ERR breakwater: outcome unknown: ", Ending::Unknown),
            ("-CLUSTERDOWN ", Ending::ClusterDown),
        ];
        let class = classes.into_iter().find(|(head, _)| text.starts_with(head));
        class.map(|(_, ending)| ending).ok_or_else(|| shown(reply))
    }

    fn count(&self, ending: Ending) -> usize {
        self.samples.iter().filter(|sample| sample.ending == ending).count()
    }
}

// === impl Books ===

impl Books {
    /// How often a command of these shards ended so.
    pub(crate) fn count(&self, shards: &[usize], ending: Ending) -> usize {
        self.of(shards).map(|book| book.count(ending)).sum()
    }

    /// Each time that an acknowledged increment was lost: of which shard, how many, and when.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (usize, usize, Instant)> {
        let of = |book: &Book| {
            let shard = book.shard;
            book.lost.iter().map(move |&(count, at)| (shard, count, at)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of)
    }

    /// The errors of these shards, and how often each came.
    pub(crate) fn errors(&self, shards: &[usize]) -> BTreeMap<&str, usize> {
        let mut errors = BTreeMap::new();
        for (error, count) in self.of(shards).flat_map(|book| &book.errors) {
            *errors.entry(error.as_str()).or_default() += count;
        }
        errors
    }

    /// All commands of these shards.
    pub(crate) fn samples(&self, shards: &[usize]) -> impl Iterator<Item = &Sample> {
        self.of(shards).flat_map(|book| &book.samples)
    }

    /// In milliseconds: what 99 of 100 commands of these shards took at most, of those sent within one of `spans`.
    pub(crate) fn p99_ms(&self, shards: &[usize], spans: &[(Instant, Instant)]) -> f64 {
        let is_within = |at: Instant| spans.iter().any(|(from, to)| (*from..*to).contains(&at));
        let samples = self.samples(shards).filter(|sample| is_within(sample.sent));
        let mut took: Vec<Duration> = samples.map(|sample| sample.took).collect();
        took.sort();
        took.get(took.len() * 99 / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }

    /// How long after `event` the first and the last client of the shard were answered what they asked since `from`.
    pub(crate) fn served_after(&self, shard: usize, event: Instant) -> (Duration, Duration) {
        let books = self.0.iter().filter(|book| book.shard == shard);
        let firsts = books.filter_map(|book| {
            let answered = book.samples.iter().filter(|sample| sample.ending == Ending::Answered);
            answered.map(|sample| sample.sent + sample.took).find(|at| *at >= event)
        });
        let firsts: Vec<Duration> = firsts.map(|at| at - event).collect();
        let both = (firsts.iter().min().copied(), firsts.iter().max().copied());
        (both.0.unwrap_or(Duration::MAX), both.1.unwrap_or(Duration::MAX))
    }

    /// Fails unless each counter of the cluster is between what was acknowledged and what may have run; primaries
    /// died `deaths` times.
    pub(crate) fn balance(&self, cluster: &Cluster, deaths: usize) {
        let mut lost = 0;
        for book in &self.0 {
            let slot = crate::support::cluster::slot_of(&book.key);
            let reply = cluster.node(cluster.owner(slot)).text(&format!("GET {}", book.key));
            let value = reply.lines().nth(1).and_then(|digits| digits.parse::<usize>().ok());
            let value = value.unwrap_or_else(|| panic!("{}: {reply}", book.key));
            let (acknowledged, unknown) =
                (book.count(Ending::Answered), book.count(Ending::Unknown));
            let range = acknowledged.saturating_sub(deaths)..=acknowledged + unknown;
            assert!(range.contains(&value), "{} = {value}, not within {range:?}", book.key);
            lost += acknowledged.saturating_sub(value);
        }
        eprintln!("{lost} acknowledged increments lost by Redis in {deaths} deaths");
    }

    fn of(&self, shards: &[usize]) -> impl Iterator<Item = &Book> {
        self.0.iter().filter(|book| shards.contains(&book.shard))
    }
}

/// Between two commands of one client.
const PAUSE: Duration = Duration::from_millis(1);

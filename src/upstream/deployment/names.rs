//! Where the names of a deployment lead: asked anew for each dial, remembered for when nobody knows.
//!
//! Owns the last good answers of the resolver, by name, for all workers, and the one question a name
//! that may be under way. Never on the way of a command: dials are tasks. Never forgets an answer
//! because the resolver fails: a deployment does not move because DNS is down.
//!
//! What surprises: the resolver of the system cannot be interrupted. A question that hangs is left
//! alone, nobody asks the same again meanwhile, and if it ends after all, its answer is used. And a
//! connection counts as misled only when two answers in a row lack its address: some servers tell
//! of many addresses only a few at a time.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clock::{self, Micros, SECOND};
use crate::config::Endpoint;
use crate::events;
use crate::net;
use crate::random;
use crate::stats::control;
use crate::stats::labels::ResolverFailure;
use crate::topology::{Published, Topology};

/// All names of a deployment that were ever asked for.
#[derive(Clone)]
pub struct Names(Arc<Inner>);

struct Inner {
    lookup: Lookup,
    entries: Mutex<HashMap<String, Entry>>,
    /// Rises when an answer differs from the one before it; read on every tick without the lock.
    changes: AtomicU64,
}

/// Asks the resolver: the system's, or in tests another one.
type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// Addresses in the resolver's order, or why there are none.
type Answer = Result<Vec<IpAddr>, String>;

/// What is known of one name.
#[derive(Default)]
struct Entry {
    /// The last good answer; empty before the first.
    addresses: Vec<IpAddr>,
    /// The good answer before that; at the first the same.
    before: Vec<IpAddr>,
    /// The question that was asked last; its answer may still be due.
    question: Option<watch::Receiver<Option<Answer>>>,
    /// When that was.
    asked_at: Micros,
    /// When to ask without a dial that wants to know.
    due_at: Micros,
}

/// Asks again for the names of whatever is published, by age. Ends never.
pub async fn keep(published: Published) {
    loop {
        sleep(LOOK_EVERY).await;
        let topology = published.load_full();
        let names = &topology.node.deployment.names;
        let now = clock::micros();
        for host in hosts(&topology) {
            if names.is_due(host, now) {
                drop(names.ask(host));
            }
        }
    }
}

/// The hosts of all nodes.
fn hosts(topology: &Topology) -> impl Iterator<Item = &str> {
    let members = topology.slots.iter().flat_map(|map| map.members.iter());
    let nodes = members.map(|member| &member.node).chain([&topology.node]);
    nodes.filter_map(|node| match &node.settings.endpoint {
        Endpoint::Tcp { host, .. } => Some(host.as_str()),
        Endpoint::Unix(_) | Endpoint::Elected(_) => None,
    })
}

// === impl Names ===

impl Default for Names {
    fn default() -> Self {
        Self::with(Arc::new(|host| Box::pin(ask_system(host))))
    }
}

impl Names {
    fn with(lookup: Lookup) -> Self {
        let entries = Mutex::default();
        Self(Arc::new(Inner { lookup, entries, changes: AtomicU64::new(0) }))
    }

    /// The addresses of `host`, fresh if the resolver says them in time. `limit` is how long the
    /// whole dial may take.
    ///
    /// # Errors
    /// The resolver's words, if it has never said any.
    pub async fn resolve(&self, host: &str, limit: Duration) -> Result<Vec<IpAddr>, String> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let remembered = self.remembered(host);
        let patience = match remembered.is_empty() {
            // Without an address there is nothing else that the time could be used for.
            true => limit * 3 / 4,
            false => (limit / 4).min(PATIENCE_MAX),
        };
        let (mut question, waited) = self.ask(host);
        // Whoever has kept others waiting for so long is not waited for again.
        let patience = patience.saturating_sub(waited);
        let words = match timeout(patience, question.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => match answer.clone() {
                Some(Ok(addresses)) => return Ok(addresses),
                Some(Err(words)) => words,
                None => CANCELLED.to_owned(),
            },
            Ok(Err(_)) => CANCELLED.to_owned(),
            Err(_) => {
                control::resolver_failed(ResolverFailure::Timeout);
                format!("the resolver has not answered within {:?}", patience + waited)
            }
        };
        if remembered.is_empty() {
            return Err(words);
        }
        control::stale_address_used();
        events::name_stale(host, &words);
        Ok(remembered)
    }

    /// How often an answer differed from the one before it.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Whether `host` leads to `address`, as far as is known.
    #[must_use]
    pub fn leads_to(&self, host: &str, address: IpAddr) -> bool {
        let entries = self.entries();
        let Some(entry) = entries.get(host).filter(|entry| !entry.addresses.is_empty()) else {
            return true;
        };
        entry.addresses.contains(&address) || entry.before.contains(&address)
    }

    fn remembered(&self, host: &str) -> Vec<IpAddr> {
        self.entries().get(host).map(|entry| entry.addresses.clone()).unwrap_or_default()
    }

    fn is_due(&self, host: &str, now: Micros) -> bool {
        let entries = self.entries();
        entries.get(host).is_some_and(|entry| !entry.is_asked() && now >= entry.due_at)
    }

    /// The question under way and for how long it has been, or a new one.
    fn ask(&self, host: &str) -> (watch::Receiver<Option<Answer>>, Duration) {
        let now = clock::micros();
        let mut entries = self.entries();
        if entries.len() >= NAMES_MAX && !entries.contains_key(host) {
            // Names of nodes that have left: whoever is asked for again is learnt again.
            entries.retain(|_, entry| entry.is_asked());
        }
        let entry = entries.entry(host.to_owned()).or_default();
        if let Some(question) = entry.question.as_ref().filter(|_| entry.is_asked()) {
            return (question.clone(), Duration::from_micros(now.saturating_sub(entry.asked_at)));
        }
        let (answer, question) = watch::channel(None);
        entry.question = Some(question.clone());
        entry.asked_at = now;
        let (names, host) = (self.clone(), host.to_owned());
        tokio::spawn(async move {
            let told = (names.0.lookup)(host.clone()).await;
            names.note(&host, &told, clock::micros());
            let _ = answer.send(Some(told));
        });
        (question, Duration::ZERO)
    }

    /// What the resolver has said.
    fn note(&self, host: &str, answer: &Answer, now: Micros) {
        let mut entries = self.entries();
        let entry = entries.entry(host.to_owned()).or_default();
        let Ok(addresses) = answer else {
            control::resolver_failed(ResolverFailure::Error);
            entry.due_at = now + FAILED_EVERY;
            return;
        };
        let is_first = entry.addresses.is_empty();
        let was = std::mem::replace(&mut entry.addresses, addresses.clone());
        let was_unsteady = !are_same(&entry.before, &was);
        entry.before = if is_first { addresses.clone() } else { was };
        let is_unsteady = !are_same(&entry.before, addresses);
        // A fleet that was started together need not ask together for ever.
        let jitter = random::below(RESOLVE_JITTER);
        entry.due_at = now + if is_unsteady { CONFIRM_AFTER } else { RESOLVE_EVERY + jitter };
        if is_unsteady {
            control::name_moved();
            events::name_moved(host);
        }
        if is_unsteady || was_unsteady {
            self.0.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Every change leaves the map whole, so a panic elsewhere does not matter.
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("changes", &self.changes()).finish_non_exhaustive()
    }
}

// === impl Entry ===

impl Entry {
    /// Whether an answer is due; not if whoever asked has ended without one.
    fn is_asked(&self) -> bool {
        let question = self.question.as_ref();
        question.is_some_and(|it| it.has_changed().is_ok() && it.borrow().is_none())
    }
}

/// The same addresses in any order: resolvers turn the list to spread the load.
fn are_same(one: &[IpAddr], other: &[IpAddr]) -> bool {
    one.iter().all(|it| other.contains(it)) && other.iter().all(|it| one.contains(it))
}

/// The system's resolver, on a thread of tokio's pool.
async fn ask_system(host: String) -> Answer {
    let found: io::Result<Vec<IpAddr>> = net::lookup_host((host.as_str(), 0))
        .await
        .map(|all| all.map(|it| it.ip()).take(ADDRESSES_MAX).collect());
    match found {
        Ok(addresses) if addresses.is_empty() => Err("the name has no address".to_owned()),
        Ok(addresses) => Ok(addresses),
        Err(error) => Err(error.to_string()),
    }
}

/// Most names that are remembered: as many as a cluster may have nodes.
const NAMES_MAX: usize = 1024;
/// Most addresses of one name.
const ADDRESSES_MAX: usize = 64;
/// Longest wait for a fresh answer where an old one is at hand.
const PATIENCE_MAX: Duration = Duration::from_millis(500);
/// How often ages are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Age from which on a name of live connections is asked for again.
const RESOLVE_EVERY: Micros = 30 * SECOND;
/// By how much that differs from process to process.
const RESOLVE_JITTER: Micros = 3 * SECOND;
/// When an answer that differs is asked for a second time.
const CONFIRM_AFTER: Micros = 2 * SECOND;
/// When a resolver that failed is asked again.
const FAILED_EVERY: Micros = 5 * SECOND;
/// Only when the process ends.
const CANCELLED: &str = "the question was given up";

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// A resolver that says what stands in the list, one entry a question; `None` hangs.
    fn scripted(answers: Vec<Option<Answer>>) -> (Names, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let lookup: Lookup = Arc::new(move |_| {
            let place = count.fetch_add(1, Ordering::SeqCst);
            let answer = answers.get(place).cloned().flatten();
            Box::pin(async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            })
        });
        (Names::with(lookup), asked)
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap().block_on(test)
    }

    const LIMIT: Duration = Duration::from_secs(2);

    #[test]
    fn a_resolver_that_fails_or_hangs_is_answered_for_by_what_it_said_last() {
        let answers = vec![Some(Ok(vec![ip(1), ip(2)])), Some(Err("SERVFAIL".into())), None];
        let (names, asked) = scripted(answers);
        run(async {
            for _ in 0..2 {
                assert_eq!(names.resolve("redis", LIMIT).await, Ok(vec![ip(1), ip(2)]));
            }
            // The first one waits for the one that hangs, the others do not.
            let all = async {
                for _ in 0..100 {
                    assert_eq!(names.resolve("redis", LIMIT).await, Ok(vec![ip(1), ip(2)]));
                }
            };
            timeout(50 * PATIENCE_MAX, all).await.unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), 3, "a question that hangs is asked once");
        });
    }

    #[test]
    fn a_name_that_was_never_known_is_an_error_within_the_time_of_the_dial() {
        let (names, _) = scripted(vec![Some(Err("NXDOMAIN".into())), None]);
        run(async {
            assert_eq!(names.resolve("redis", LIMIT).await, Err("NXDOMAIN".to_owned()));
            let began = clock::micros();
            let words = names.resolve("redis", LIMIT).await.unwrap_err();
            assert!(words.contains("not answered within 1.5s"), "{words}");
            assert!(clock::micros() - began >= SECOND);
            assert_eq!(names.resolve("::1", LIMIT).await, Ok(vec!["::1".parse().unwrap()]));
        });
    }

    #[test]
    fn an_address_counts_as_left_when_two_answers_lack_it() {
        let (names, _) = scripted(Vec::new());
        let told = |list: &[u8], at| {
            names.note("redis", &Ok(list.iter().map(|it| ip(*it)).collect()), at * SECOND);
        };
        assert!(names.leads_to("redis", ip(9)), "nothing is known");
        told(&[1, 2], 0);
        assert_eq!((names.changes(), names.is_due("redis", 29 * SECOND)), (0, false));
        assert!(names.is_due("redis", 34 * SECOND));
        // Turned round, it is the same.
        told(&[2, 1], 34);
        assert_eq!(names.changes(), 0);
        told(&[3], 70);
        assert!(names.leads_to("redis", ip(1)) && names.leads_to("redis", ip(3)));
        assert!(names.is_due("redis", 72 * SECOND), "it is asked again soon");
        told(&[3], 72);
        assert!(!names.leads_to("redis", ip(1)) && names.leads_to("redis", ip(3)));
        assert_eq!(names.changes(), 2);
        names.note("redis", &Err("down".into()), 110 * SECOND);
        assert!(names.leads_to("redis", ip(3)));
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let (names, _) = scripted(Vec::new());
        for number in 0..2 * NAMES_MAX {
            names.note(&number.to_string(), &Ok(vec![ip(1)]), 0);
            assert!(names.entries().len() <= NAMES_MAX + number);
        }
        run(async { drop(names.ask("one more")) });
        assert!(names.entries().len() <= NAMES_MAX);
    }
}

//! How fast commands may come: token buckets that all workers share.
//!
//! Owns the buckets of one rule and their arithmetic. Never waits and never answers
//! (`dispatch::pacing` does), never reads the clock, and allocates only when somebody is met for the
//! first time. A bucket holds what one second brings, so that much may come at once after a pause.
//!
//! What surprises: a turn is *reserved*. Whoever may wait is told when its turn is, and its tokens
//! are taken at once; so those who wait go in the order in which they came, whichever their workers,
//! and never sooner than the rate allows. And bytes are charged when they are known: a reply makes a
//! debt that later commands wait for.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::clock::{self, MILLISECOND, Micros, SECOND};

/// How fast commands may come, and how far they have come.
#[derive(Debug, Default)]
pub struct Pace {
    /// Commands a second; `None`: any number.
    pub commands: Option<u64>,
    /// Bytes of requests and replies a second; `None`: any number.
    pub bytes: Option<u64>,
    /// How long a command may wait for its turn; zero: it is refused at once.
    pub wait: Duration,
    /// Who shares a bucket.
    pub per: Per,
    /// What has been taken.
    pub buckets: Buckets,
}

/// Who shares a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Per {
    /// All commands of the rule.
    #[default]
    Rule,
    /// Those of one connection.
    Client,
    /// Those of one user.
    User,
    /// Those whose first key begins alike: with the same so many parts that end in a colon.
    KeyPrefix(u8),
}

/// Whose bucket a command takes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payer<'a> {
    /// The client's number.
    pub client: u64,
    /// Its user.
    pub user: &'a [u8],
    /// The command's first key; `None`: it has none.
    pub key: Option<&'a [u8]>,
}

/// The buckets of one rule.
#[derive(Debug, Default)]
pub struct Buckets {
    /// That of all, of commands without a key, and of those for whom there is no room.
    common: std::sync::OnceLock<Arc<Bucket>>,
    /// By the hash of what they are for; a collision makes two share one, which is no fault worth a
    /// copy of each name.
    known: DashMap<u64, Arc<Bucket>, foldhash::fast::RandomState>,
    /// So that nobody outside can aim at a bucket of somebody else's.
    seed: foldhash::fast::RandomState,
    /// When it was last looked for buckets that may go.
    swept_at: AtomicU64,
}

/// What has been taken, of commands and of bytes.
#[derive(Debug)]
pub struct Bucket {
    commands: Option<Meter>,
    bytes: Option<Meter>,
}

/// One measure, as a single number: when all that was taken will have been earned.
#[derive(Debug)]
struct Meter {
    /// Units a second, at least one.
    rate: u64,
    /// Nanoseconds of the process's clock.
    earned_at: AtomicU64,
}

/// Which measure is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// Commands.
    Commands,
    /// Bytes.
    Bytes,
}

// === impl Pace ===

impl Pace {
    /// A pace at which nothing has come yet.
    #[must_use]
    pub fn new(commands: Option<u64>, bytes: Option<u64>, wait: Duration, per: Per) -> Self {
        Self { commands, bytes, wait, per, buckets: Buckets::default() }
    }

    /// This pace, or, if nothing about it has changed, that of the policy before, with all that was
    /// taken: a reload must not be a way to start anew.
    #[must_use]
    pub fn inherit(self: Arc<Self>, old: &Arc<Self>) -> Arc<Self> {
        if *self == **old { Arc::clone(old) } else { self }
    }

    /// The bucket that `payer` takes from.
    #[must_use]
    pub fn bucket(&self, payer: &Payer<'_>, now: Micros) -> Arc<Bucket> {
        let of = |part: &dyn Fn() -> u64| self.bucket_of(part(), now);
        let seed = &self.buckets.seed;
        match (self.per, payer.key) {
            (Per::Client, _) => of(&|| seed.hash_one(payer.client)),
            (Per::User, _) => of(&|| seed.hash_one(payer.user)),
            (Per::KeyPrefix(parts), Some(key)) => of(&|| seed.hash_one(prefix(key, parts))),
            (Per::Rule, _) | (Per::KeyPrefix(_), None) => self.common(),
        }
    }

    fn bucket_of(&self, hash: u64, now: Micros) -> Arc<Bucket> {
        let known = &self.buckets.known;
        if let Some(bucket) = known.get(&hash) {
            return Arc::clone(&bucket);
        }
        if known.len() >= BUCKETS_MAX && !self.sweep(now) {
            return self.common();
        }
        match known.entry(hash) {
            Entry::Occupied(bucket) => Arc::clone(bucket.get()),
            Entry::Vacant(place) => Arc::clone(&place.insert(Arc::new(self.fresh()))),
        }
    }

    /// Lets go of buckets that are as full as new ones, so nothing is forgotten with them. Returns
    /// whether there is room now.
    #[cold]
    fn sweep(&self, now: Micros) -> bool {
        let Buckets { known, swept_at, .. } = &self.buckets;
        let last = swept_at.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= SWEEP_EVERY;
        let is_ours = is_due
            && swept_at
                .compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_ours {
            known.retain(|_, bucket| !bucket.is_full(now));
        }
        known.len() < BUCKETS_MAX
    }

    fn common(&self) -> Arc<Bucket> {
        Arc::clone(self.buckets.common.get_or_init(|| Arc::new(self.fresh())))
    }

    fn fresh(&self) -> Bucket {
        let meter = |rate: u64| Meter { rate: rate.max(1), earned_at: AtomicU64::new(0) };
        Bucket { commands: self.commands.map(meter), bytes: self.bytes.map(meter) }
    }
}

/// The settings alone: what was taken is not part of them.
impl PartialEq for Pace {
    fn eq(&self, other: &Self) -> bool {
        let settings = |it: &Self| (it.commands, it.bytes, it.wait, it.per);
        settings(self) == settings(other)
    }
}

// === impl Bucket ===

impl Bucket {
    /// Takes one command and the bytes of its request. Returns when it may go; if that is later than
    /// `wait` from now, nothing is taken.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn take(&self, now: Micros, bytes: usize, wait: Duration) -> Result<Micros, Exhausted> {
        let limit = now.saturating_add(clock::to_micros(wait));
        // Of bytes there must only be some left: else what is larger than a second's worth could
        // never pass.
        let of_bytes = self.bytes.as_ref().map_or(now, |meter| meter.turn(now, 0));
        if of_bytes > limit {
            return Err(Exhausted::Bytes);
        }
        let of_commands = match &self.commands {
            Some(meter) => meter.take(now, limit).ok_or(Exhausted::Commands)?,
            None => now,
        };
        self.charge(now, bytes as u64);
        Ok(of_bytes.max(of_commands))
    }

    /// Takes bytes that have come already.
    pub fn charge(&self, now: Micros, bytes: u64) {
        if let Some(meter) = &self.bytes {
            meter.charge(now, bytes);
        }
    }

    /// Whether replies are to be charged.
    #[must_use]
    pub fn counts_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    fn is_full(&self, now: Micros) -> bool {
        let meters = self.commands.iter().chain(&self.bytes);
        let mut earned = meters.map(|meter| meter.earned_at.load(Ordering::Relaxed));
        earned.all(|at| at <= now.saturating_mul(NANOS))
    }
}

// === impl Meter ===

impl Meter {
    /// When `units` more may be taken.
    fn turn(&self, now: Micros, units: u64) -> Micros {
        self.turn_after(self.earned_at.load(Ordering::Relaxed), now, units)
    }

    fn turn_after(&self, earned_at: u64, now: Micros, units: u64) -> Micros {
        let after = earned_at.max(now.saturating_mul(NANOS)).saturating_add(self.time_of(units));
        // A whole second's worth may be owed. Rounded up: a command is never early.
        after.saturating_sub(SECOND * NANOS).div_ceil(NANOS).max(now)
    }

    /// Takes one unit, whose turn is returned, unless that is later than `limit`.
    fn take(&self, now: Micros, limit: Micros) -> Option<Micros> {
        let mut turn = now;
        let taken =
            self.earned_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |earned_at| {
                turn = self.turn_after(earned_at, now, 1);
                let after = earned_at.max(now.saturating_mul(NANOS));
                (turn <= limit).then(|| after.saturating_add(self.time_of(1)))
            });
        taken.is_ok().then_some(turn)
    }

    /// Takes units whatever is left.
    fn charge(&self, now: Micros, units: u64) {
        // The closure always has an answer, so this cannot fail.
        let _ = self.earned_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |earned_at| {
            let from = earned_at.max(now.saturating_mul(NANOS));
            Some(from.saturating_add(self.time_of(units)))
        });
    }

    /// In how many nanoseconds so many units are earned.
    fn time_of(&self, units: u64) -> u64 {
        let time = u128::from(units) * u128::from(SECOND * NANOS) / u128::from(self.rate);
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

/// The first parts of a key, colons included; the whole key if it has fewer.
fn prefix(key: &[u8], parts: u8) -> &[u8] {
    let colons = memchr::memchr_iter(b':', key);
    let end = colons.take(usize::from(parts)).nth(usize::from(parts.max(1)) - 1);
    key.get(..end.map_or(key.len(), |end| end + 1)).unwrap_or(key)
}

/// Buckets of one rule at most: a few megabytes. Who comes when all of them are in use shares one
/// with everybody else in that place.
const BUCKETS_MAX: usize = 10_000;
/// How often it is looked for some that may go.
const SWEEP_EVERY: Micros = 100 * MILLISECOND;
/// Nanoseconds of a microsecond: above a million commands a second a turn is shorter than one.
const NANOS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(commands: u64, wait: Duration) -> Pace {
        Pace::new(Some(commands), None, wait, Per::Rule)
    }

    fn taken(pace: &Pace, from: Micros, step: Micros, count: u32) -> Vec<Micros> {
        let bucket = pace.bucket(&Payer::default(), from);
        let at = |index: u32| from + u64::from(index) * step;
        (0..count).filter_map(|index| bucket.take(at(index), 0, pace.wait).ok()).collect()
    }

    #[test]
    fn a_second_s_worth_may_come_at_once_and_no_more() {
        let pace = pace(50, Duration::ZERO);
        assert_eq!(taken(&pace, 7 * SECOND, 0, 200).len(), 50);
        let bucket = pace.bucket(&Payer::default(), 0);
        assert_eq!(bucket.take(7 * SECOND, 0, pace.wait), Err(Exhausted::Commands));
        // A fiftieth of a second brings one more.
        assert_eq!(taken(&pace, 7 * SECOND + 20_000, 0, 10).len(), 1);
    }

    #[test]
    fn those_who_may_wait_are_given_turns_one_behind_the_other() {
        let pace = pace(10, Duration::from_millis(250));
        let turns = taken(&pace, SECOND, 0, 20);
        let waits: Vec<u64> = turns.iter().map(|turn| turn - SECOND).collect();
        assert_eq!(waits, [vec![0; 10], vec![100_000, 200_000]].concat());
    }

    #[test]
    fn a_reply_makes_a_debt_that_the_next_command_waits_for() {
        let pace = Pace::new(None, Some(1_000), Duration::ZERO, Per::Rule);
        let bucket = pace.bucket(&Payer::default(), 0);
        assert_eq!(bucket.take(SECOND, 10, pace.wait), Ok(SECOND));
        bucket.charge(SECOND, 3_990);
        assert_eq!(bucket.take(SECOND, 10, pace.wait), Err(Exhausted::Bytes));
        assert_eq!(bucket.take(4 * SECOND - 1, 10, pace.wait), Err(Exhausted::Bytes));
        assert!(bucket.take(4 * SECOND, 10, pace.wait).is_ok());
    }

    #[test]
    fn each_client_user_or_prefix_has_a_bucket_of_its_own() {
        let [ann, bob] = [1, 2].map(|client| Payer { client, user: b"u", key: None });
        let per_client = Pace::new(Some(1), None, Duration::ZERO, Per::Client);
        assert!(per_client.bucket(&ann, 0).take(0, 0, Duration::ZERO).is_ok());
        assert!(per_client.bucket(&ann, 0).take(0, 0, Duration::ZERO).is_err());
        assert!(per_client.bucket(&bob, 0).take(0, 0, Duration::ZERO).is_ok());
        let per_user = Pace::new(Some(1), None, Duration::ZERO, Per::User);
        assert!(Arc::ptr_eq(&per_user.bucket(&ann, 0), &per_user.bucket(&bob, 0)));
        let per_key = Pace::new(Some(1), None, Duration::ZERO, Per::KeyPrefix(2));
        let of = |key| per_key.bucket(&Payer { key: Some(key), ..ann }, 0);
        assert!(Arc::ptr_eq(&of(b"a:1:x"), &of(b"a:1:y")));
        assert!(!Arc::ptr_eq(&of(b"a:1:x"), &of(b"a:2:x")));
        assert!(!Arc::ptr_eq(&of(b"a:1"), &of(b"a:1:")));
    }

    #[test]
    fn buckets_are_bounded_and_only_full_ones_are_let_go() {
        let pace = Pace::new(Some(1), None, Duration::ZERO, Per::Client);
        let of = |client, now| pace.bucket(&Payer { client, ..Payer::default() }, now);
        for client in 0..BUCKETS_MAX as u64 {
            assert!(of(client, SECOND).take(SECOND, 0, Duration::ZERO).is_ok());
        }
        let newcomer = of(u64::MAX, SECOND);
        assert!(Arc::ptr_eq(&newcomer, &pace.common()));
        assert_eq!(pace.buckets.known.len(), BUCKETS_MAX);
        assert!(of(0, SECOND).take(SECOND, 0, Duration::ZERO).is_err(), "nothing is forgotten");
        let later = of(u64::MAX, 3 * SECOND);
        assert!(!Arc::ptr_eq(&later, &pace.common()));
        assert_eq!(pace.buckets.known.len(), 1);
    }

    #[test]
    fn a_reload_of_the_same_settings_forgives_nothing() {
        let old = Arc::new(pace(1, Duration::ZERO));
        assert_eq!(taken(&old, 0, 0, 2).len(), 1);
        let same = Arc::new(pace(1, Duration::ZERO)).inherit(&old);
        assert!(Arc::ptr_eq(&same, &old));
        let other = Arc::new(pace(2, Duration::ZERO)).inherit(&old);
        assert_eq!(taken(&other, 0, 0, 5).len(), 2);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_one_second_s_worth(
            rate in 1_u64..5_000_000,
            steps in prop::collection::vec(0_u64..200_000, 1..300),
            wait in 0_u64..2_000,
        ) {
            let pace = pace(rate, Duration::from_millis(wait));
            let bucket = pace.bucket(&Payer::default(), 0);
            let (mut now, mut turns) = (0, Vec::new());
            for step in steps {
                now += step;
                turns.extend(bucket.take(now, 0, pace.wait).ok());
                prop_assert!(turns.last().is_none_or(|turn| *turn <= now + wait * MILLISECOND));
            }
            prop_assert!(turns.is_sorted());
            for (index, turn) in turns.iter().enumerate() {
                let earned = rate + turn * rate / SECOND;
                prop_assert!(index as u64 <= earned, "{index} by {turn}");
            }
        }
    }
}

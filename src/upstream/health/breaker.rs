//! When a node may be dialled, and how much it may be given after it has come back.
//!
//! Owns the breaker of one node as a pure machine: failures in, "open until" out, and the pace of
//! dials to a node that fails. Never reads a clock and never dials. Time goes in as a number, so a
//! test plays an hour in a millisecond.
//!
//! What surprises: a breaker that a failed *dial* has opened is closed by a good dial only. A
//! connection that was made earlier may go on answering while the server takes no new ones
//! (`maxclients`, a changed password), and believing it would let every command dial in vain.

use crate::clock::{MILLISECOND, Micros, SECOND};

/// The breaker of one node.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Until when nobody dials; `None`: closed.
    open_until: Option<Micros>,
    /// Whether only a dial can show that the node is well again.
    wants_dial: bool,
    /// Times that it opened or stayed open without a recovery that lasted.
    openings: u32,
    /// When it was closed last.
    closed_at: Option<Micros>,
    /// Failures since the last answer.
    consecutive: u32,
    /// The newest ten seconds.
    tally: Tally,
    /// When the last two dials began, older first.
    dialled: [Option<Micros>; 2],
    /// State of the jitter's generator.
    jitter: u64,
}

/// Answers and failures, second by second.
#[derive(Debug, Default)]
struct Tally {
    /// `(second, answers, failures)`; a place is used again ten seconds later.
    seconds: [(u64, u64, u64); TALLY_SECONDS],
}

// === impl Breaker ===

impl Breaker {
    /// A dial has failed; `is_probe` if it was the one that was to tell whether the node is back.
    /// Returns whether the breaker has opened by it.
    pub fn dial_failed(&mut self, is_probe: bool, now: Micros) -> bool {
        self.wants_dial = true;
        // Dials that were under way when another one failed say nothing new.
        if self.open_until.is_some() && !is_probe {
            return false;
        }
        let was_closed = self.open_until.is_none();
        self.open(now);
        was_closed
    }

    /// A reset, a deadline, or an answer that the node cannot serve now. Returns whether the
    /// breaker has opened by it.
    pub fn failed(&mut self, count: u64, now: Micros) -> bool {
        self.consecutive = self.consecutive.saturating_add(u32::try_from(count).unwrap_or(1));
        self.tally.note(now, 0, count);
        let (answers, failures) = self.tally.sums(now);
        let is_half = failures >= answers && answers + failures >= HALF_FROM;
        if self.open_until.is_some() || (self.consecutive < CONSECUTIVE_MAX && !is_half) {
            return false;
        }
        self.open(now);
        true
    }

    /// So many replies have come.
    pub fn answered(&mut self, count: u64, now: Micros) {
        self.consecutive = 0;
        self.tally.note(now, count, 0);
    }

    /// The probe was answered; `by_dial` if for that a connection was made. Returns whether the
    /// breaker was closed by it.
    pub fn probed(&mut self, by_dial: bool, now: Micros) -> bool {
        let is_due = self.open_until.is_some_and(|until| now >= until);
        let closes = by_dial || (is_due && !self.wants_dial);
        if self.open_until.is_none() || !closes {
            return false;
        }
        self.open_until = None;
        self.wants_dial = false;
        self.closed_at = Some(now);
        self.consecutive = 0;
        self.tally = Tally::default();
        true
    }

    /// Whether no command may cause a dial.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// Whether the probe must be a dial.
    #[must_use]
    pub fn wants_dial(&self) -> bool {
        self.wants_dial && self.is_open()
    }

    /// When the next dial may begin: two in any second, and none while the breaker is open.
    #[must_use]
    pub fn dial_at(&self) -> Micros {
        let paced = self.dialled[0].map_or(0, |at| at + SECOND);
        paced.max(self.open_until.unwrap_or(0))
    }

    /// A dial begins.
    pub fn dialling(&mut self, now: Micros) {
        self.dialled = [self.dialled[1], Some(now)];
    }

    /// A dial has succeeded: those before it were none to a node that fails.
    pub fn dialled(&mut self) {
        self.dialled = [None; 2];
    }

    /// How much of the usual may be under way `now`, in tenths: after a recovery it grows from one
    /// to ten, so that what waited everywhere does not arrive at once.
    #[must_use]
    pub fn tenths(&self, now: Micros) -> usize {
        let Some(at) = self.closed_at else { return 10 };
        let passed = now.saturating_sub(at).min(SLOW_START);
        1 + usize::try_from(passed * 9 / SLOW_START).unwrap_or(9)
    }

    /// What begins like a recovery of the breaker, though it was not open: the node serves again.
    pub fn restarted(&mut self, now: Micros) {
        self.closed_at = Some(now);
    }

    fn open(&mut self, now: Micros) {
        // A recovery that lasts begins a new count; one that is over at once was none.
        if self.open_until.is_none()
            && self.closed_at.is_none_or(|at| now.saturating_sub(at) > RELAPSE)
        {
            self.openings = 0;
        }
        let time = (OPEN_FIRST << self.openings.min(8)).min(OPEN_MAX);
        self.openings = self.openings.saturating_add(1);
        // A fifth more or less, so that a fleet does not probe in step.
        self.open_until = Some(now + time * 4 / 5 + self.random() % (time * 2 / 5 + 1));
    }

    /// A small generator (xorshift64*) is enough for that.
    fn random(&mut self) -> u64 {
        if self.jitter == 0 {
            let mut seed = [0; 8];
            let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed);
            self.jitter = u64::from_le_bytes(seed) | 1;
        }
        self.jitter ^= self.jitter >> 12;
        self.jitter ^= self.jitter << 25;
        self.jitter ^= self.jitter >> 27;
        self.jitter.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

// === impl Tally ===

impl Tally {
    fn note(&mut self, now: Micros, answers: u64, failures: u64) {
        let second = now / SECOND;
        let place = (second % TALLY_SECONDS as u64) as usize;
        let Some(entry) = self.seconds.get_mut(place) else { return };
        if entry.0 != second {
            *entry = (second, 0, 0);
        }
        entry.1 += answers;
        entry.2 += failures;
    }

    fn sums(&self, now: Micros) -> (u64, u64) {
        let oldest = (now / SECOND).saturating_sub(TALLY_SECONDS as u64 - 1);
        let young = self.seconds.iter().filter(|(second, ..)| *second >= oldest);
        young.fold((0, 0), |sum, (_, answers, failures)| (sum.0 + answers, sum.1 + failures))
    }
}

/// Failures in a row that open the breaker.
const CONSECUTIVE_MAX: u32 = 5;
/// From so many answers and failures on, half of them failures open it as well.
const HALF_FROM: u64 = 20;
/// The time that those are counted for.
const TALLY_SECONDS: usize = 10;
/// How long it stays open at first; doubles with each probe that fails.
const OPEN_FIRST: Micros = 250 * MILLISECOND;
/// The longest: a Sentinel's failover is not to be outlasted.
const OPEN_MAX: Micros = SECOND;
/// A node that fails again within this time had not recovered.
const RELAPSE: Micros = SECOND;
/// How long it takes until a node that came back is given everything.
const SLOW_START: Micros = 5 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_dial_opens_at_once_and_each_failed_probe_doubles_the_time() {
        let mut breaker = Breaker::default();
        let mut now = SECOND;
        assert!(breaker.dial_failed(false, now));
        let mut times = Vec::new();
        for _ in 0..10 {
            let until = breaker.open_until.unwrap();
            times.push(until - now);
            assert!(!breaker.dial_failed(false, now), "others' dials say nothing new");
            assert_eq!(breaker.open_until, Some(until));
            now = until;
            breaker.dial_failed(true, now);
        }
        for (nth, time) in times.iter().enumerate() {
            let middle = (OPEN_FIRST << nth).min(OPEN_MAX);
            assert!((middle * 4 / 5..=middle * 6 / 5).contains(time), "{nth}: {time}");
        }
        assert!(times[6..].iter().any(|&time| time != times[5]), "without jitter");
    }

    #[test]
    fn only_a_dial_closes_what_a_dial_has_opened() {
        let mut breaker = Breaker::default();
        breaker.dial_failed(false, 0);
        assert!(breaker.wants_dial());
        assert!(!breaker.probed(false, 60 * SECOND));
        assert!(breaker.is_open());
        assert!(breaker.probed(true, 60 * SECOND) && !breaker.is_open());
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_an_answer_to_the_probe_closes_it_when_due() {
        let mut breaker = Breaker::default();
        assert!((0..4).all(|_| !breaker.failed(1, 0)));
        breaker.answered(1, 0);
        assert!((0..4).all(|_| !breaker.failed(1, 0)), "an answer begins a new row");
        assert!(breaker.failed(1, 0));
        assert!(!breaker.probed(false, 100), "the probe is not due");
        assert!(breaker.probed(false, SECOND));
    }

    #[test]
    fn half_of_twenty_in_ten_seconds_open_it_however_they_are_mixed() {
        let run = |answers: u64, failures: u64, every: Micros| {
            let mut breaker = Breaker::default();
            let mut is_open = false;
            for round in 0..failures {
                breaker.answered(answers, round * every);
                is_open |= breaker.failed(1, round * every);
            }
            is_open
        };
        assert!(run(1, 10, 1000));
        assert!(!run(1, 9, 1000), "fewer than twenty");
        assert!(!run(2, 1000, 1000), "a third only");
        assert!(!run(1, 100, 2 * SECOND), "spread over more than ten seconds");
    }

    #[test]
    fn no_second_ever_sees_more_than_two_dials() {
        // Whatever asks, and however often: a hundred askers, each millisecond, for a minute.
        let mut breaker = Breaker::default();
        let mut dials: Vec<Micros> = Vec::new();
        for now in (SECOND..61 * SECOND).step_by(1000) {
            for _ in 0..100 {
                if now >= breaker.dial_at() {
                    breaker.dialling(now);
                    breaker.dial_failed(true, now);
                    dials.push(now);
                }
            }
        }
        assert!(dials.windows(3).all(|three| three[2] - three[0] >= SECOND), "{dials:?}");
        assert!(dials.len() > 10, "but it is tried: {}", dials.len());
        assert!(dials.windows(2).all(|two| two[1] - two[0] <= OPEN_MAX * 6 / 5 + 1000));
    }

    #[test]
    fn what_may_be_under_way_grows_from_a_tenth_in_five_seconds() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.tenths(0), 10, "before any trouble");
        breaker.dial_failed(false, 0);
        breaker.probed(true, SECOND);
        let tenths: Vec<_> = (1..=7).map(|second| breaker.tenths(second * SECOND)).collect();
        assert_eq!(tenths, [1, 2, 4, 6, 8, 10, 10]);
    }

    #[test]
    fn a_relapse_is_no_new_trouble() {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            breaker.dial_failed(true, 0);
        }
        breaker.probed(true, 10 * SECOND);
        breaker.dial_failed(false, 10 * SECOND + 1);
        let first_at_most = 10 * SECOND + OPEN_FIRST * 6 / 5 + 1;
        assert!(breaker.open_until.unwrap() > first_at_most, "it goes on where it was");
        breaker.probed(true, 20 * SECOND);
        breaker.dial_failed(false, 30 * SECOND);
        assert!(breaker.open_until.unwrap() <= 30 * SECOND + OPEN_FIRST * 6 / 5);
    }
}

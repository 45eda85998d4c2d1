//! How often the nodes may be asked.
//!
//! Owns the moments: when the next refresh begins, and how many questions it may still ask. A
//! thousand redirects in a millisecond are one wish; the first wish after a quiet time is granted
//! at once, the next ones in growing distance for as long as nothing new is learnt. Never asks.
//!
//! What surprises: jitter is on both the gap and the period. A fleet of proxies that met the same
//! failover must not ask the same nodes in step.

use std::collections::VecDeque;

use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::stats::labels::RefreshTrigger;

/// The clock of refreshes.
#[derive(Debug)]
pub struct Pace {
    /// Moments of the questions of the last second; at most [`CALLS_MAX`] of them.
    calls: VecDeque<Micros>,
    /// No refresh begins before.
    not_before: Micros,
    /// When the newest one began.
    began: Micros,
    /// The next one begins then, even if nobody asks for it.
    period_at: Micros,
    /// Why the next one is wanted sooner.
    wanted: Option<RefreshTrigger>,
    /// Refreshes in a row that brought no news although somebody wanted them.
    fruitless: u32,
    /// How often evidence that came to nothing is still to be looked into: an election has begun
    /// before it is won.
    follow_ups: u32,
    /// A primary is lost: whoever takes over is to find a question left.
    is_expecting: bool,
}

// === impl Pace ===

impl Pace {
    /// The first refresh is due at once.
    #[must_use]
    pub fn new(now: Micros) -> Self {
        Self {
            calls: VecDeque::new(),
            not_before: now,
            began: now,
            period_at: now,
            wanted: Some(RefreshTrigger::Start),
            fruitless: 0,
            follow_ups: 0,
            is_expecting: false,
        }
    }

    /// Somebody has reason to believe that the map is old. The first reason is the one that counts.
    pub fn want(&mut self, trigger: RefreshTrigger) {
        self.wanted.get_or_insert(trigger);
    }

    /// There is fresh evidence of a change: the patience grown from fruitless refreshes is gone.
    pub fn hurry(&mut self, trigger: RefreshTrigger, now: Micros) {
        self.want(trigger);
        if trigger == RefreshTrigger::Glance {
            self.follow_ups = FOLLOW_UPS;
        }
        if self.fruitless > 0 {
            self.fruitless = 0;
            self.not_before = self.not_before.min(now + GAP / 2);
        }
    }

    /// When the next refresh begins.
    #[must_use]
    pub fn due(&self) -> Micros {
        let wish = if self.wanted.is_some() { self.not_before } else { self.period_at };
        // So many places in the window must be free by then.
        let place = (self.calls.len() + self.asked_at_once()).checked_sub(CALLS_MAX + 1);
        let window = place.and_then(|place| self.calls.get(place)).map_or(0, |call| call + SECOND);
        wish.max(window)
    }

    /// A refresh begins at `now`; `dice` is any number. Returns why.
    pub fn begin(&mut self, now: Micros, dice: u64) -> RefreshTrigger {
        // What was in vain long ago says nothing of today.
        if now >= self.began + QUIET {
            self.fruitless = 0;
        }
        let gap = (GAP << self.fruitless.min(FRUITLESS_MAX)).min(GAP_MAX);
        self.began = now;
        self.not_before = now + jittered(gap, dice);
        self.period_at = now + jittered(PERIOD, dice.rotate_left(32));
        self.wanted.take().unwrap_or(RefreshTrigger::Period)
    }

    /// The refresh has ended; `is_news` if it brought another map.
    pub fn end(&mut self, is_news: bool) {
        if is_news {
            (self.fruitless, self.follow_ups) = (0, 0);
            // The patience that it began with is over as well. A primary that is given up is news, and
            // its successor, which is the next, must not wait for what was fruitless before.
            self.not_before = self.not_before.min(self.began + GAP);
        } else if self.follow_ups > 0 {
            self.follow_ups -= 1;
            self.want(RefreshTrigger::Glance);
        } else {
            self.fruitless = self.fruitless.saturating_add(1);
        }
    }

    /// How many nodes the next refresh asks at once. Where speed counts one is enough: what it
    /// knows is new or is not, and the questions of a second are soon used up.
    #[must_use]
    pub fn asked_at_once(&self) -> usize {
        let is_glance = self.wanted == Some(RefreshTrigger::Glance);
        if is_glance || self.is_expecting { 1 } else { 2 }
    }

    /// Whether a successor of somebody is expected.
    pub fn expect(&mut self, is_expecting: bool) {
        self.is_expecting = is_expecting;
    }

    /// Whether a refresh is wanted before its time.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whether somebody has asked lately and nothing new was found: something is on its way.
    #[must_use]
    pub fn is_puzzled(&self, now: Micros) -> bool {
        self.wanted.is_some() || (self.fruitless > 1 && now < self.began + QUIET)
    }

    /// Whether one more question may be asked at `now`.
    pub fn may_spend(&mut self, now: Micros) -> bool {
        while self.calls.front().is_some_and(|&call| call + SECOND <= now) {
            self.calls.pop_front();
        }
        self.calls.len() < CALLS_MAX
    }

    /// Whether a question that is not urgent leaves enough for a refresh.
    pub fn is_idle(&mut self, now: Micros) -> bool {
        !self.is_wanted() && self.may_spend(now) && self.calls.len() + 2 < CALLS_MAX + 1
    }

    /// A question is asked at `now`.
    pub fn spend(&mut self, now: Micros) {
        // More than the window holds are asked only to see which cluster has the majority.
        if self.may_spend(now) {
            self.calls.push_back(now);
        }
    }
}

/// Half of `interval` up to half as much again.
fn jittered(interval: Micros, dice: u64) -> Micros {
    interval / 2 + dice % (interval + 1)
}

/// Most questions about the topology in any second.
const CALLS_MAX: usize = 4;
/// Mean distance of two refreshes that somebody wants.
const GAP: Micros = 250 * MILLISECOND;
/// It doubles so often while nothing is learnt.
const FRUITLESS_MAX: u32 = 3;
/// Mean distance in the end.
const GAP_MAX: Micros = 2 * SECOND;
/// Refreshes that follow on fresh evidence at least.
const FOLLOW_UPS: u32 = 6;
/// After so long without a refresh everybody has calmed down.
const QUIET: Micros = 5 * SECOND;
/// Mean distance of refreshes that nobody wants.
const PERIOD: Micros = 30 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    /// Refreshes with two questions each for `seconds`, while somebody always wants one. Returns
    /// the questions' moments.
    fn storm(seconds: u64, is_news: bool) -> Vec<Micros> {
        let mut pace = Pace::new(0);
        let (mut now, mut calls, mut dice) = (0, Vec::new(), 0x9e37_79b9_7f4a_7c15_u64);
        while now < seconds * SECOND {
            pace.want(RefreshTrigger::Sign);
            now = now.max(pace.due());
            dice = dice.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            pace.begin(now, dice);
            for _ in 0..2 {
                assert!(pace.may_spend(now), "due, and not a question allowed");
                pace.spend(now);
                calls.push(now);
            }
            pace.end(is_news);
            now += MILLISECOND;
        }
        calls
    }

    #[test]
    fn no_second_has_more_than_four_questions_however_many_ask() {
        let calls = storm(60, true);
        for (place, &call) in calls.iter().enumerate() {
            let within = calls[place..].iter().take_while(|&&it| it < call + SECOND).count();
            assert!(within <= CALLS_MAX, "{within} from {call}");
        }
        // It is not slower than it must be either: two refreshes a second.
        assert!(calls.len() > 60 * 3, "{}", calls.len());
        assert!(storm(60, false).len() < 60 * 2);
    }

    #[test]
    fn the_first_wish_after_a_quiet_time_is_granted_at_once() {
        let mut pace = Pace::new(0);
        assert_eq!(pace.due(), 0);
        assert_eq!(pace.begin(0, 5), RefreshTrigger::Start);
        pace.end(true);
        assert!((PERIOD / 2..=PERIOD * 3 / 2).contains(&pace.due()));
        pace.want(RefreshTrigger::Sign);
        pace.want(RefreshTrigger::Connection);
        assert!(pace.due() <= GAP * 3 / 2);
        assert_eq!(pace.begin(10 * SECOND, 7), RefreshTrigger::Sign);
    }

    #[test]
    fn news_ends_the_patience_that_grew_before() {
        let mut pace = Pace::new(0);
        for second in 0..10 {
            pace.begin(second * SECOND, u64::MAX / 2);
            pace.end(second == 9);
        }
        pace.hurry(RefreshTrigger::Glance, 9 * SECOND);
        assert!(pace.due() <= 9 * SECOND + GAP, "{}", pace.due());
    }

    #[test]
    fn while_a_successor_is_expected_there_is_a_question_left_for_it() {
        let mut pace = Pace::new(0);
        pace.expect(true);
        for turn in 0..40 {
            pace.want(RefreshTrigger::Sign);
            let now = pace.due();
            pace.begin(now, GAP / 2);
            for _ in 0..pace.asked_at_once() {
                pace.spend(now);
            }
            pace.end(turn % 2 == 0);
            pace.hurry(RefreshTrigger::Glance, now);
            assert!(pace.due() <= now + GAP * 3 / 2, "in turn {turn}: {}", pace.due() - now);
        }
    }

    #[test]
    fn fresh_evidence_ends_the_patience() {
        let mut pace = Pace::new(0);
        for second in 0..10 {
            pace.begin(second * SECOND, u64::MAX / 2);
            pace.end(false);
        }
        pace.want(RefreshTrigger::Sign);
        let patient = pace.due();
        pace.hurry(RefreshTrigger::Glance, 9 * SECOND);
        assert!(pace.due() <= 9 * SECOND + GAP / 2 && patient > pace.due(), "{patient}");
        // It is looked into several times, one node at a time, and not for ever.
        let mut asked = 0;
        while pace.is_wanted() {
            pace.begin(10 * SECOND, 0);
            pace.end(false);
            asked += 1;
            assert!(!pace.is_wanted() || pace.asked_at_once() == 1);
        }
        assert_eq!(asked, FOLLOW_UPS + 1);
    }
}

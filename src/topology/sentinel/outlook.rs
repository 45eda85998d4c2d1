//! Whether a successor of the primary is on its way, and how long that may be believed.
//!
//! Owns the moment until which commands may wait for it. Never decides who it is. A failover is
//! expected when a Sentinel says that enough of them call the primary down, or that one of them
//! promotes somebody; not when a Sentinel alone cannot reach it, for then nobody may ever act.
//!
//! What surprises: a primary stays flagged as down for as long as no failover succeeds. That flag
//! must not make every command wait in vain, so an expectation is held once for each beginning.

use super::event::Event;
use super::report::Report;
use crate::clock::{Micros, SECOND};

/// What is expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// When somebody said that it begins; `None`: nobody does.
    began: Option<Micros>,
    /// It was given up: flags that are still shown say nothing new.
    is_given_up: bool,
}

// === impl Outlook ===

impl Outlook {
    /// There is reason to expect somebody else, whatever was thought before.
    pub fn begin(&mut self, now: Micros) {
        self.is_given_up = false;
        self.began.get_or_insert(now);
    }

    /// A Sentinel has announced something.
    pub fn note(&mut self, event: &Event, now: Micros) {
        match event {
            Event::Begun if self.until() <= now => *self = Self { began: Some(now), ..*self },
            Event::Begun => self.begin(now),
            Event::Over => *self = Self { began: None, is_given_up: true },
            Event::Switched { .. } | Event::Other => {}
        }
    }

    /// What all reachable Sentinels say of the primary in use.
    pub fn weigh<'r>(&mut self, reports: impl Iterator<Item = &'r Report>, now: Micros) {
        let (mut is_down, mut is_failing_over) = (false, false);
        for report in reports {
            is_down |= report.is_down;
            is_failing_over |= report.is_failing_over;
        }
        if is_failing_over || (is_down && !self.is_given_up) {
            self.begin(now);
        }
        if !is_down && !is_failing_over {
            self.is_given_up = false;
        }
    }

    /// The successor is there, or the primary is back.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// Until when commands may wait; 0: nobody is expected.
    #[must_use]
    pub fn until(&self) -> Micros {
        self.began.map_or(0, |began| began + EXPECTED_WITHIN)
    }

    /// Whether somebody is expected at `now`.
    #[must_use]
    pub fn is_bright(&self, now: Micros) -> bool {
        now < self.until()
    }
}

/// An election takes a second or two, ten if it fails first.
const EXPECTED_WITHIN: Micros = 15 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;

    fn report(is_down: bool, is_failing_over: bool) -> Report {
        Report {
            address: Endpoint::Tcp { host: "a".into(), port: 1 },
            epoch: 1,
            quorum: 2,
            others: 2,
            replicas: 1,
            is_suspected: true,
            is_down,
            is_failing_over,
            is_tilted: false,
        }
    }

    #[test]
    fn a_suspicion_alone_lets_nobody_wait() {
        let mut outlook = Outlook::default();
        outlook.weigh([report(false, false), report(false, false)].iter(), SECOND);
        assert_eq!(outlook.until(), 0);
        outlook.weigh([report(false, false), report(true, false)].iter(), SECOND);
        assert!(outlook.is_bright(2 * SECOND));
    }

    #[test]
    fn a_primary_that_stays_down_does_not_make_everybody_wait_for_ever() {
        let mut outlook = Outlook::default();
        for second in 1..100 {
            outlook.weigh([report(true, false)].iter(), second * SECOND);
        }
        assert_eq!(outlook.until(), SECOND + EXPECTED_WITHIN);
        // The next attempt is a new beginning.
        outlook.note(&Event::Begun, 200 * SECOND);
        assert!(outlook.is_bright(201 * SECOND));
    }

    #[test]
    fn what_was_given_up_is_not_expected_until_it_begins_again() {
        let mut outlook = Outlook::default();
        outlook.note(&Event::Begun, SECOND);
        outlook.note(&Event::Over, 2 * SECOND);
        outlook.weigh([report(true, false)].iter(), 2 * SECOND);
        assert_eq!(outlook.until(), 0, "the flag alone is no news");
        outlook.weigh([report(true, true)].iter(), 3 * SECOND);
        assert!(outlook.is_bright(3 * SECOND));
        outlook.end();
        assert_eq!(outlook.until(), 0);
    }
}

//! How a node is, as all workers and the control plane of this process know it together.
//!
//! Owns one node's [`State`], its breaker, and what both allow: whether a command may be sent,
//! whether anybody may dial, how much may be under way. Workers report what they meet
//! ([`Node::note`]); the control plane's pulse finds out what they cannot. Never dials, never sends.
//!
//! What surprises: for the way of a command all of this is one number, [`Health::room`]. It is as
//! large as a lane's queue while the node is well, small after a recovery, and nothing while the
//! node would only keep the command waiting. Everything else is behind a lock that only trouble
//! takes.

pub mod breaker;
pub mod chart;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::clock::{self, MILLISECOND, Micros};
use crate::events;
use crate::refusal::Refusal;
use crate::stats::control;
use crate::stats::labels::{DialFailure, ErrorClass};
use crate::upstream::dial::{DialError, Node};
use crate::upstream::pool::LANE_WAITERS_MAX;
use breaker::Breaker;
use chart::{Chart, Signal, State};

/// What all threads know of one node.
#[derive(Debug)]
pub struct Health {
    /// What every command looks at; in a cache line of its own, so that the clock of replies beside
    /// it does not slow commands down.
    room: Aligned<AtomicUsize>,
    /// When bytes of a reply came last, to a twentieth of a second.
    heard_at: Aligned<AtomicU64>,
    /// Whether the breaker is open.
    is_open: AtomicBool,
    /// Whether the last thing that happened to a connection was bad: then dials go one by one.
    is_in_question: AtomicBool,
    /// Since when commands cannot be served; 0: they can.
    away_since: AtomicU64,
    /// When it said last that a script keeps it busy; 0: it has served since.
    busy_at: AtomicU64,
    /// When it said so first without having served since.
    busy_from: AtomicU64,
    /// When it served again after that.
    unbusy_at: AtomicU64,
    /// How many of the control plane look after it. A node that nobody does is probed by commands.
    probers: AtomicU32,
    inner: Mutex<Inner>,
    /// The one dial at a time of a node in question.
    turn: Semaphore,
    /// Rung when the node is back, for dials that wait.
    is_back: Notify,
    /// Rung when a worker has met something that the control plane should look at.
    alarm: Notify,
}

/// A value in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Aligned<T>(T);

#[derive(Debug, Default)]
struct Inner {
    chart: Chart,
    breaker: Breaker,
    state: State,
    /// When `state` began.
    since: Micros,
}

/// What may be told of a node's health.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it is.
    pub state: State,
    /// Since when.
    pub since: Micros,
    /// The words of the last failure, if it is down.
    pub detail: Option<String>,
    /// Until when nobody dials; `None`: the breaker is closed.
    pub retry_at: Option<Micros>,
    /// How long the last PING took.
    pub ping: Option<Micros>,
    /// Seconds that it goes on loading, if it has said so.
    pub loading_left: Option<u64>,
}

// === impl Health ===

impl Default for Health {
    fn default() -> Self {
        Self {
            room: Aligned(AtomicUsize::new(LANE_WAITERS_MAX)),
            heard_at: Aligned::default(),
            is_open: AtomicBool::default(),
            // The first dial tells whether there is anybody.
            is_in_question: AtomicBool::new(true),
            away_since: AtomicU64::default(),
            busy_at: AtomicU64::default(),
            busy_from: AtomicU64::default(),
            unbusy_at: AtomicU64::default(),
            probers: AtomicU32::default(),
            inner: Mutex::default(),
            turn: Semaphore::new(1),
            is_back: Notify::new(),
            alarm: Notify::new(),
        }
    }
}

impl Health {
    /// How many commands may be under way on one connection: the one look of the way of a command.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.room.0.load(Ordering::Relaxed)
    }

    /// Whether it cannot serve, as far as is known: its breaker is open, or it would only keep
    /// commands waiting.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away_since.load(Ordering::Relaxed) != 0
    }

    /// Since when; `None` while it serves.
    #[must_use]
    pub fn away_since(&self) -> Option<Micros> {
        Some(self.away_since.load(Ordering::Relaxed)).filter(|&since| since > 0)
    }

    /// Whether nothing is sent to it again and no command may cause a dial.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// When it said first and last that a script keeps it busy; `None`: it has served since.
    #[must_use]
    pub fn busy(&self) -> Option<(Micros, Micros)> {
        let last = self.busy_at.load(Ordering::Relaxed);
        (last > 0).then(|| (self.busy_from.load(Ordering::Relaxed), last))
    }

    /// Whether no script is to be sent to it: one keeps it busy, or did so a moment ago, and what was
    /// sent to end that one may still be on its way.
    #[inline]
    #[must_use]
    pub fn holds_scripts(&self, now: Micros) -> bool {
        let unbusy_at = self.unbusy_at.load(Ordering::Relaxed);
        self.busy_at.load(Ordering::Relaxed) > 0
            || (unbusy_at > 0 && now < unbusy_at + BUSY_SETTLES)
    }

    /// A script of ours takes long there: it is worth a look.
    pub fn suspect(&self) {
        self.alarm.notify_one();
    }

    /// Whether it says that it loads its data, which will pass.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.state() == State::Loading
    }

    /// When bytes of a reply came last.
    #[must_use]
    pub fn heard_at(&self) -> Micros {
        self.heard_at.0.load(Ordering::Relaxed)
    }

    /// How it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().state
    }

    /// Everything that may be told.
    #[must_use]
    pub fn report(&self) -> Report {
        let inner = self.lock();
        Report {
            state: inner.state,
            since: inner.since,
            detail: inner.chart.failure().map(|error| error.text.clone()),
            retry_at: inner.breaker.is_open().then(|| inner.breaker.dial_at()),
            ping: inner.chart.ping,
            loading_left: inner.chart.loading_left,
        }
    }

    /// A worker's replies since it said so last.
    pub fn answered(&self, count: u64, now: Micros) {
        self.lock().breaker.answered(count, now);
    }

    /// Whether it pays to look often.
    #[must_use]
    pub fn is_suspicious(&self) -> bool {
        self.is_away()
            || self.is_in_question.load(Ordering::Relaxed)
            || self.lock().state.is_passing()
    }

    /// Waits until a worker has met something that should be looked at.
    pub async fn alarmed(&self) {
        self.alarm.notified().await;
    }

    /// Waits for `pause`, or less if the node is back before.
    pub async fn rest(&self, pause: Duration) {
        tokio::select! {
            () = self.is_back.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// One dial at a time while the node is in question; as many as the caller likes otherwise.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        if !self.is_in_question.load(Ordering::Relaxed) {
            return None;
        }
        // Never closed.
        self.turn.acquire().await.ok()
    }

    /// Begins a dial for a command, unless the node is known to be away: then it is the last error.
    ///
    /// # Errors
    /// Why it is not dialled.
    pub fn begin_dial(&self, now: Micros) -> Result<(), DialError> {
        let mut inner = self.lock();
        if self.forbids_dials(&inner, now) {
            return Err(inner.last_error());
        }
        self.count_dial(&mut inner, now);
        Ok(())
    }

    /// Whether who only has questions may dial it: not while it is down and somebody else finds out
    /// when it returns. A fleet's first dials then belong to its clients.
    ///
    /// # Errors
    /// Why it is not dialled.
    pub fn may_be_asked(&self, now: Micros) -> Result<(), DialError> {
        let inner = self.lock();
        if matches!(inner.state, State::Down(_)) && self.forbids_dials(&inner, now) {
            return Err(inner.last_error());
        }
        Ok(())
    }

    /// Begins a dial of the control plane.
    ///
    /// # Errors
    /// How long it must wait first.
    pub fn begin_probe(&self, now: Micros) -> Result<(), Duration> {
        let mut inner = self.lock();
        let wait = inner.breaker.dial_at().saturating_sub(now);
        if wait > 0 {
            return Err(Duration::from_micros(wait));
        }
        self.count_dial(&mut inner, now);
        Ok(())
    }

    /// Whether only a dial can tell whether it is back, and one may begin.
    #[must_use]
    pub fn wants_dial(&self, now: Micros) -> bool {
        let inner = self.lock();
        inner.breaker.wants_dial() && now >= inner.breaker.dial_at()
    }

    /// How long a dial for commands that wait should rest.
    #[must_use]
    pub fn pause(&self, now: Micros) -> Duration {
        if !self.is_open() {
            return Duration::ZERO;
        }
        let rest = self.lock().breaker.dial_at().saturating_sub(now);
        Duration::from_micros(rest).max(REST_MIN)
    }

    /// Somebody of the control plane looks after it from now on, or no longer.
    pub fn watched(&self, begins: bool) {
        match begins {
            true => self.probers.fetch_add(1, Ordering::Relaxed),
            false => self.probers.fetch_sub(1, Ordering::Relaxed),
        };
    }

    fn forbids_dials(&self, inner: &Inner, now: Micros) -> bool {
        let is_watched = self.probers.load(Ordering::Relaxed) > 0;
        inner.breaker.is_open() && (is_watched || now < inner.breaker.dial_at())
    }

    fn count_dial(&self, inner: &mut Inner, now: Micros) {
        if self.is_in_question.load(Ordering::Relaxed) {
            inner.breaker.dialling(now);
        }
    }

    /// Takes a signal in, and returns the state before and after if it has changed.
    fn take(&self, signal: Signal<'_>, now: Micros) -> Option<(State, State)> {
        // What only the control plane could take back is not believed where it does not look.
        if matches!(signal, Signal::Refused(_)) && self.probers.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.note_busy(signal, now);
        let mut inner = self.lock();
        let was = inner.state;
        inner.chart.note(signal, now);
        self.trip(&mut inner, signal, now);
        self.settle(&mut inner, now);
        inner.state = inner.chart.state();
        if inner.state == was {
            return None;
        }
        inner.since = now;
        Some((was, inner.state))
    }

    /// What the signal says of scripts.
    fn note_busy(&self, signal: Signal<'_>, now: Micros) {
        let class = match signal {
            Signal::Refused(class) => Some(class),
            Signal::Beat(answered) => answered.error,
            _ => return,
        };
        if class == Some(ErrorClass::Busy) {
            if self.busy_at.swap(now.max(1), Ordering::Relaxed) == 0 {
                self.busy_from.store(now, Ordering::Relaxed);
            }
        } else if matches!(signal, Signal::Beat(_)) && self.busy_at.swap(0, Ordering::Relaxed) > 0 {
            self.unbusy_at.store(now.max(1), Ordering::Relaxed);
        }
    }

    /// What the signal means to the breaker and to dials.
    fn trip(&self, inner: &mut Inner, signal: Signal<'_>, now: Micros) {
        let Inner { chart, breaker, .. } = inner;
        let is_watched = self.probers.load(Ordering::Relaxed) > 0;
        let question = |is_in| self.is_in_question.store(is_in, Ordering::Relaxed);
        let (count, failure) = match signal {
            Signal::DialFailed { is_probe, .. } => {
                question(true);
                if breaker.dial_failed(is_probe || !is_watched, now) {
                    control::breaker_opened();
                }
                self.alarm.notify_one();
                return;
            }
            Signal::Dialled => {
                question(false);
                breaker.dialled();
                // Where nobody else looks, a command's own dial is the probe.
                if !is_watched && breaker.probed(true, now) {
                    chart.closed();
                }
                return;
            }
            Signal::Beat(answered) => {
                if answered.by_dial {
                    question(false);
                    breaker.dialled();
                }
                if !answered.error.is_some_and(chart::is_telling) {
                    breaker.answered(1, now);
                }
                if breaker.probed(answered.by_dial, now) || !breaker.is_open() {
                    chart.closed();
                }
                return;
            }
            Signal::Lost(failure) => {
                question(true);
                (1, failure)
            }
            // One slow command is no slow node: only deadlines in silence count.
            Signal::Late(count) if now.saturating_sub(self.heard_at()) > SILENCE => {
                (count, DialFailure::Timeout)
            }
            Signal::Refused(class) => match class {
                ErrorClass::Loading => (1, DialFailure::Loading),
                ErrorClass::Masterdown | ErrorClass::Clusterdown => (1, DialFailure::Other),
                _ => return,
            },
            Signal::Late(_) | Signal::Silent | Signal::Heard | Signal::Unkillable => return,
        };
        self.alarm.notify_one();
        if breaker.failed(count, now) {
            control::breaker_opened();
            // What it says itself is the better reason.
            if !matches!(signal, Signal::Refused(_)) {
                chart.opened(failure, "connections or replies were lost again and again");
            }
        }
    }

    /// Publishes what follows for those who do not take the lock.
    fn settle(&self, inner: &mut Inner, now: Micros) {
        let is_open = inner.breaker.is_open();
        let is_away = is_open || inner.chart.is_mute();
        let was_away = self.is_away();
        if is_away != was_away {
            let since = if is_away { now.max(1) } else { 0 };
            self.away_since.store(since, Ordering::Relaxed);
        }
        if was_away && !is_away {
            inner.breaker.restarted(now);
            self.is_back.notify_waiters();
        }
        self.is_open.store(is_open, Ordering::Relaxed);
        self.publish_room(inner, now);
    }

    fn publish_room(&self, inner: &Inner, now: Micros) {
        let room = match () {
            () if inner.chart.is_mute() => 0,
            () if inner.breaker.is_open() => ROOM_AWAY,
            () => LANE_WAITERS_MAX / 10 * inner.breaker.tenths(now),
        };
        // A full queue of a healthy node is as long as it always was.
        let room = if room >= LANE_WAITERS_MAX / 10 * 10 { LANE_WAITERS_MAX } else { room };
        self.room.0.store(room, Ordering::Relaxed);
    }

    /// Whole whenever the lock is free: it is held for a few assignments, none of which panics.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn last_error(&self) -> DialError {
        let unserved = || DialError::new(DialFailure::Other, self.state.words());
        self.chart.failure().cloned().unwrap_or_else(unserved)
    }
}

// === impl Node ===

impl Node {
    /// Takes in what somebody has met, and tells everybody if the node's state has changed by it.
    #[cold]
    pub fn note(&self, signal: Signal<'_>, now: Micros) {
        if let Some((before, after)) = self.health.take(signal, now) {
            control::node_state(&self.name, before.label(), after.label());
            let detail = self.health.report().detail.unwrap_or_default();
            events::node_state(&self.name, before, after, &detail);
        }
    }

    /// Bytes of a reply have come. Called once for each batch of them.
    #[inline]
    pub fn heard(&self, now: Micros) {
        let heard_at = &self.health.heard_at.0;
        if now.saturating_sub(heard_at.load(Ordering::Relaxed)) >= HEARD_EVERY {
            heard_at.store(now, Ordering::Relaxed);
        }
        if self.health.room() == 0 {
            self.note(Signal::Heard, now);
        }
    }

    /// What a command is told that would wait for the node; `None` if it need not.
    #[must_use]
    pub fn refusal(&self, now: Micros) -> Option<Refusal> {
        if !self.health.is_away() {
            return None;
        }
        let inner = self.health.lock();
        let is_forbidden = self.health.forbids_dials(&inner, now);
        (is_forbidden || inner.chart.is_mute()).then(|| self.away(&inner, now))
    }

    /// Whether there is room after all for a command that found `waiting` others on its connection.
    ///
    /// # Errors
    /// What it is told if there is no point in waiting for room.
    #[cold]
    pub fn no_room(&self, waiting: usize, now: Micros) -> Result<bool, Refusal> {
        let inner = self.health.lock();
        if inner.chart.is_mute() {
            return Err(self.away(&inner, now));
        }
        // Time alone makes room after a recovery; nobody else looks.
        self.health.publish_room(&inner, now);
        Ok(waiting < self.health.room())
    }

    /// What a command is told when the dial that it waited for has failed.
    #[must_use]
    pub fn down(&self, error: &DialError, now: Micros) -> Refusal {
        let inner = self.health.lock();
        let retry_in = inner.breaker.dial_at().saturating_sub(now);
        if matches!(inner.state, State::Down(_) | State::Unknown | State::Up) {
            return Refusal::NodeDown { node: self.name.clone(), cause: error.cause(), retry_in };
        }
        self.away(&inner, now)
    }

    fn away(&self, inner: &Inner, now: Micros) -> Refusal {
        let retry_in = inner.breaker.dial_at().saturating_sub(now).max(RETRY_MIN);
        let node = self.name.clone();
        match (inner.state, inner.chart.failure()) {
            (State::Down(failure), _) => {
                Refusal::NodeDown { node, cause: failure.as_str(), retry_in }
            }
            (state, _) => {
                let left = inner.chart.loading_left.map(|left| format!(", {left} s left"));
                let state = state.words() + &left.unwrap_or_default();
                Refusal::NodeAway { node, state, retry_in }
            }
        }
    }

    /// What a command is told that it has refused because it loads its data.
    #[must_use]
    pub fn loading(&self, now: Micros) -> Refusal {
        let inner = self.health.lock();
        let retry_in = inner.breaker.dial_at().saturating_sub(now).max(RETRY_MIN);
        let (node, state) = (self.name.clone(), State::Loading.words());
        Refusal::NodeAway { node, state, retry_in }
    }

    /// What is amiss although it serves, for people.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let state = self.health.state();
        let is_worth = matches!(state, State::ReadOnly(_) | State::Busy | State::Demoted);
        is_worth.then(|| format!("upstream {} {}: {}", self.name, state.words(), state.repair()))
    }

    /// How it is and what to do about it, for people; `Ok` while it serves at least reads.
    ///
    /// # Errors
    /// Why it does not.
    pub fn verdict(&self) -> Result<(), String> {
        let report = self.health.report();
        let detail = report.detail.filter(|_| self.health.is_open());
        let left = report.loading_left.map(|left| format!("{left} s left"));
        let detail = detail.or(left).map(|words| format!(" ({words})")).unwrap_or_default();
        let (state, repair) = (report.state.words(), report.state.repair());
        match self.health.is_away() {
            true => Err(format!("upstream {} {state}{detail}: {repair}", self.name)),
            false => Ok(()),
        }
    }
}

/// For so long nothing may come although something is asked; then the node is silent.
pub const SILENCE: Micros = clock::SECOND;
/// How long scripts are held back behind one that kept the node busy: longer than what was sent to kill
/// that one takes to get there.
const BUSY_SETTLES: Micros = 100 * MILLISECOND;
/// How often the time of the last reply is written down: often enough for [`SILENCE`].
const HEARD_EVERY: Micros = 50 * MILLISECOND;
/// Commands that may wait on one connection while the node is away.
const ROOM_AWAY: usize = 1024;
/// What "next try in" says at least: the control plane looks again after that time.
const RETRY_MIN: Micros = 100 * MILLISECOND;
/// Shortest rest of a dial that is not allowed.
const REST_MIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;

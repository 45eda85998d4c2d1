//! The two connections to one Sentinel: one that asks, one that listens.
//!
//! Owns both and their tasks: the first polls at the pace of the moment and now and then surveys,
//! the second is subscribed to what is announced. What comes in goes to the follower. Never weighs
//! an answer, never asks a Sentinel to vote or to change anything: of `is-master-down-by-addr`,
//! which can do the first, there is no need.
//!
//! What surprises: a subscription that is silent is pinged, because it looks just like one whose
//! network is gone; and whoever has subscribed asks once more, since nobody repeats what was
//! announced before.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Heard;
use super::event::{self, CHANNELS, Event};
use super::report::{self, Answer, Survey};
use crate::clock::{self, Micros, SECOND};
use crate::events;
use crate::random;
use crate::resp::write;
use crate::stats::labels::DialFailure;
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::exchange::{Exchange, ExchangeError};

/// The follower's end of both. Dropping it ends them.
#[derive(Debug)]
pub struct Watcher {
    /// The Sentinel.
    pub node: Arc<Node>,
    pace: Rc<Pace>,
    tasks: [AbortHandle; 2],
}

/// What comes from a Sentinel.
#[derive(Debug)]
pub enum News {
    /// It has answered a poll.
    Polled(Answer),
    /// It has answered a survey.
    Surveyed(Survey),
    /// It announces something, which has been asked about already.
    Announced(Event),
    /// Announcements arrive from here on; false: no longer.
    Subscribed(bool),
    /// It cannot be asked.
    Lost(DialError),
}

/// How soon the next poll comes.
#[derive(Debug, Default)]
struct Pace {
    /// Something is amiss with the primary, or with what is said of it.
    is_suspicious: Cell<bool>,
    /// The next poll brings a survey.
    wants_survey: Cell<bool>,
    /// Somebody wants to know at once.
    hurry: Notify,
}

// === impl Watcher ===

impl Watcher {
    /// Opens both connections to a Sentinel of that master.
    #[must_use]
    pub fn open(node: &Arc<Node>, master: &str, heard: &mpsc::Sender<Heard>) -> Self {
        let pace = Rc::new(Pace::default());
        let asker = Asker {
            node: Arc::clone(node),
            master: master.to_owned(),
            heard: heard.clone(),
            pace: Rc::clone(&pace),
        };
        let listener = Listener {
            node: Arc::clone(node),
            master: master.to_owned(),
            heard: heard.clone(),
            pace: Rc::clone(&pace),
        };
        let tasks = [
            tokio::task::spawn_local(asker.run()).abort_handle(),
            tokio::task::spawn_local(listener.run()).abort_handle(),
        ];
        Self { node: Arc::clone(node), pace, tasks }
    }

    /// Polls at once.
    pub fn hurry(&self) {
        self.pace.hurry.notify_one();
    }

    /// Polls at once, and asks about the other Sentinels as well.
    pub fn hurry_with_survey(&self) {
        self.pace.wants_survey.set(true);
        self.hurry();
    }

    /// Polls often, or seldom.
    pub fn set_suspicious(&self, is_suspicious: bool) {
        if self.pace.is_suspicious.replace(is_suspicious) != is_suspicious && is_suspicious {
            self.hurry();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// The task that asks.
struct Asker {
    node: Arc<Node>,
    master: String,
    heard: mpsc::Sender<Heard>,
    pace: Rc<Pace>,
}

// === impl Asker ===

impl Asker {
    /// Until it is aborted.
    async fn run(self) {
        let mut failures = 0_u32;
        loop {
            let Err(error) = self.converse(&mut failures).await;
            events::dial_failed(&self.node.name, error.cause(), &error.text);
            self.tell(News::Lost(error)).await;
            failures = failures.saturating_add(1);
            back_off(failures).await;
        }
    }

    async fn converse(&self, failures: &mut u32) -> Result<Infallible, DialError> {
        let mut exchange = dial::dial(&self.node, &Purpose::control("breakwater:sentinel")).await?;
        // First of all: who it is decides whether its word counts beside the others'.
        self.pace.wants_survey.set(true);
        let mut survey_at = 0;
        loop {
            let asked_at = clock::micros();
            if self.pace.wants_survey.replace(false) || asked_at >= survey_at {
                let questions = report::survey_of(&self.master);
                let replies = ask_all(&mut exchange, &questions).await?;
                let survey = report::read_survey(&replies);
                // Whoever repairs wants to see that it helped.
                let period = if survey.no_quorum.is_some() { SURVEY_AGAIN } else { SURVEY_EVERY };
                survey_at = asked_at + period - random::below(period / 3);
                self.tell(News::Surveyed(survey)).await;
            }
            let replies = ask_all(&mut exchange, &report::poll_of(&self.master)).await?;
            let answer = report::read_poll(&replies).ok_or_else(|| {
                let text = "its answers are not those of a Sentinel: is this its port?";
                DialError::new(DialFailure::Protocol, text.into())
            })?;
            *failures = 0;
            self.tell(News::Polled(answer)).await;
            let often = self.pace.is_suspicious.get();
            let pause = if often { POLL_SUSPICIOUS } else { POLL };
            let _ = timeout(pause, self.pace.hurry.notified()).await;
            // A storm of announcements is one question.
            let since = Duration::from_micros(clock::micros().saturating_sub(asked_at));
            sleep(POLL_GAP.saturating_sub(since)).await;
        }
    }

    async fn tell(&self, news: News) {
        tell(&self.heard, &self.node, news).await;
    }
}

/// The task that listens.
struct Listener {
    node: Arc<Node>,
    master: String,
    heard: mpsc::Sender<Heard>,
    pace: Rc<Pace>,
}

// === impl Listener ===

impl Listener {
    /// Until it is aborted. Why a connection failed the other task says.
    async fn run(self) {
        let mut failures = 0_u32;
        loop {
            let Err(_) = self.converse(&mut failures).await;
            tell(&self.heard, &self.node, News::Subscribed(false)).await;
            failures = failures.saturating_add(1);
            back_off(failures).await;
        }
    }

    async fn converse(&self, failures: &mut u32) -> Result<Infallible, DialError> {
        let purpose = Purpose::control("breakwater:sentinel-events");
        let mut exchange = dial::dial(&self.node, &purpose).await?;
        let mut question: Vec<&[u8]> = vec![b"SUBSCRIBE"];
        question.extend(CHANNELS.map(str::as_bytes));
        let mut bytes = Vec::new();
        write::command(&mut bytes, &question);
        within(exchange.send(&bytes)).await?.map_err(ExchangeError::from)?;
        for _ in CHANNELS {
            let reply = within(exchange.reply()).await??;
            if reply.first() == Some(&b'-') {
                let line = String::from_utf8_lossy(&reply).trim().to_owned();
                return Err(DialError::new(DialFailure::Auth, line));
            }
        }
        *failures = 0;
        tell(&self.heard, &self.node, News::Subscribed(true)).await;
        self.pace.hurry.notify_one();
        loop {
            let frame = match timeout(PING_EVERY, exchange.reply()).await {
                Ok(frame) => frame?,
                // Cutting a reply short loses nothing: what has come of it stays in the buffer.
                Err(_) => {
                    within(exchange.send(b"*1\r\n$4\r\nPING\r\n"))
                        .await?
                        .map_err(ExchangeError::from)?;
                    within(exchange.reply()).await??
                }
            };
            if let Some(event) = event::read(&frame, &self.master) {
                // Asked before it is told: the answer is what counts.
                self.pace.hurry.notify_one();
                tell(&self.heard, &self.node, News::Announced(event)).await;
            }
        }
    }
}

/// The follower ends its watchers; a word that nobody hears any more is lost with them.
async fn tell(heard: &mpsc::Sender<Heard>, node: &Arc<Node>, news: News) {
    let _ = heard.send(Heard::Sentinel(Arc::clone(node), news)).await;
}

/// Half of the pause is certain, so that the proxies of a fleet do not dial in step.
async fn back_off(failures: u32) {
    let ceiling = BACKOFF_FIRST * (1 << failures.min(5));
    let half = ceiling / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or_default();
    sleep(half + Duration::from_micros(random::below(micros + 1))).await;
}

/// Asks everything at once and reads the replies in order.
pub(super) async fn ask_all(
    exchange: &mut Exchange,
    questions: &[Vec<&[u8]>],
) -> Result<Vec<Bytes>, DialError> {
    let mut bytes = Vec::new();
    questions.iter().for_each(|question| write::command(&mut bytes, question));
    let conversation = async {
        exchange.send(&bytes).await?;
        let mut replies = Vec::with_capacity(questions.len());
        for _ in questions {
            replies.push(exchange.reply().await?);
        }
        Ok::<_, ExchangeError>(replies)
    };
    Ok(within(conversation).await??)
}

/// A Sentinel does little: one that does not answer soon is as good as away.
async fn within<T>(question: impl Future<Output = T>) -> Result<T, DialError> {
    timeout(ANSWER_WITHIN, question).await.map_err(|_| {
        let text = format!("connected, but no answer within {ANSWER_WITHIN:?}");
        DialError::new(DialFailure::Timeout, text)
    })
}

/// Distance of polls while all is well.
const POLL: Duration = Duration::from_secs(5);
/// The same while something is amiss.
const POLL_SUSPICIOUS: Duration = Duration::from_millis(500);
/// Shortest distance, whatever is announced.
const POLL_GAP: Duration = Duration::from_millis(50);
/// Longest distance of surveys, CKQUORUM among them.
const SURVEY_EVERY: Micros = 30 * SECOND;
/// The same after a complaint.
const SURVEY_AGAIN: Micros = 6 * SECOND;
/// Silence after which a subscription is pinged.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// First ceiling of the pause after a failure; doubles five times.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

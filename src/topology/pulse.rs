//! The beat of a control connection: is the node there, and what is it?
//!
//! Owns when a node is asked PING and ROLE, what follows for its state, and when the control plane
//! may dial it. One [`Pulse`] looks after one node, whoever follows the deployment: a single node,
//! a member of a cluster, a primary that a Sentinel names. Never carries a client's command.
//!
//! How it is used: [`Pulse::connect`], then in turns [`Pulse::due`] and [`Pulse::beat`], and
//! [`Pulse::lost`] when a question on the connection has failed. Questions of the follower's own go
//! through [`Pulse::answered`], so that a node that falls silent in the middle of one is found, too.
//!
//! What surprises: when only a dial can tell whether the node is back, although this connection
//! answers, the beat makes a second connection and drops it again.

use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis_protocol::resp2;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};
use tokio::time::{sleep, timeout};

use crate::clock::{self, MILLISECOND, Micros, SECOND};
use crate::config::Endpoint;
use crate::events;
use crate::policy::keyspaces::Wishes;
use crate::resp::write;
use crate::stats::control;
use crate::stats::labels::{DialFailure, ErrorClass};
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::exchange::{Exchange, ExchangeError};
use crate::upstream::health::SILENCE;
use crate::upstream::health::chart::{Answered, Signal, State};
use crate::watch::info::Info;

/// Looks after one node. While it lives, commands leave it to us to find out whether the node is
/// back.
#[derive(Debug)]
pub struct Pulse {
    node: Arc<Node>,
    /// Every how many beats ROLE is asked.
    role_every: u64,
    /// Whether the node should be a primary.
    pub expects_primary: bool,
    beats: u64,
    /// When the last beat began.
    beaten_at: Micros,
    /// When it was asked for its replicas last.
    sync_at: Micros,
    /// When INFO was due last.
    info_at: Micros,
    /// When the newest connection was made.
    connected_at: Micros,
    /// There is a connection.
    is_connected: bool,
    /// It has answered.
    has_answered: bool,
}

/// What the node has answered.
#[derive(Clone, Debug)]
pub struct Beat {
    /// The class of the error that came instead of PONG: a sign of life all the same.
    pub error: Option<ErrorClass>,
    /// Whether it was asked for its role.
    pub was_asked_role: bool,
    /// What it said of that, if it may.
    pub role: Option<Role>,
    /// Whether it is time to ask INFO.
    pub is_info_due: bool,
}

/// What ROLE says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A primary.
    Primary {
        /// How far its history has come, in bytes.
        offset: u64,
        /// Where it sees replicas that have its data.
        replicas: Vec<Endpoint>,
    },
    /// A replica.
    Replica {
        /// Whether it is connected to its primary and has its data.
        is_linked: bool,
        /// How far in its primary's history it is; `None` where it does not tell, or has no whole
        /// data.
        offset: Option<u64>,
    },
    /// No server of data at all.
    Sentinel,
}

/// What a primary has said of itself and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roll {
    /// When.
    pub at: Micros,
    /// How far its history had come.
    pub offset: u64,
    /// Where its replicas were.
    pub replicas: Vec<Endpoint>,
}

// === impl Pulse ===

impl Pulse {
    /// Looks after `node` from now on, and asks for its role with each `role_every`th beat.
    #[must_use]
    pub fn of(node: &Arc<Node>, expects_primary: bool, role_every: u64) -> Self {
        node.health.watched(true);
        Self {
            node: Arc::clone(node),
            role_every: role_every.max(1),
            expects_primary,
            beats: 0,
            beaten_at: 0,
            sync_at: 0,
            info_at: 0,
            connected_at: 0,
            is_connected: false,
            has_answered: false,
        }
    }

    /// Dials when it may: not while others do, not before the breaker's time, twice a second at
    /// most.
    ///
    /// # Errors
    /// [`DialError`], which everybody knows by then.
    pub async fn connect(&mut self, purpose: &Purpose) -> Result<Exchange, DialError> {
        let node = Arc::clone(&self.node);
        // One that closes after the first answer, again and again, is not dialled without end.
        let rest = (self.connected_at + CONNECT_EVERY).saturating_sub(clock::micros());
        let lasted = clock::micros().saturating_sub(self.connected_at) >= LASTING;
        if self.connected_at > 0 && !lasted {
            sleep(Duration::from_micros(rest)).await;
        }
        let result = dial_in_turn(&node, purpose).await;
        (self.is_connected, self.has_answered) = (result.is_ok(), false);
        if result.is_ok() {
            self.connected_at = clock::micros();
        }
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    /// A question has failed with `error`: the connection is useless. One that had answered before
    /// is merely replaced; one that had not is no better than none.
    pub fn lost(&mut self, error: &DialError) {
        if !std::mem::take(&mut self.is_connected) {
            return;
        }
        if self.has_answered {
            self.node.note(Signal::Lost(error.failure), clock::micros());
        } else {
            self.failed(error);
        }
    }

    /// Waits until the next beat is due: half a second, a tenth while something may be wrong.
    pub async fn due(&self) {
        let health = &self.node.health;
        let until = |interval: Micros| {
            Duration::from_micros((self.beaten_at + interval).saturating_sub(clock::micros()))
        };
        if !health.is_suspicious() {
            tokio::select! {
                () = sleep(until(BEAT_EVERY)) => return,
                () = health.alarmed() => {}
            }
        }
        sleep(until(BEAT_SUSPICIOUS)).await;
    }

    /// One beat. It is over within the bound of the control plane, and silence is noted earlier.
    ///
    /// # Errors
    /// [`DialError`]: the connection is lost. Not if only the second connection failed.
    pub async fn beat(&mut self, exchange: &mut Exchange) -> Result<Beat, DialError> {
        let began = clock::micros();
        self.beaten_at = began;
        let wishes = self.node.deployment.wishes();
        // Replicas are compared with what it says: each second while they serve keyspaces.
        let role_every = if wishes.lag.is_some() { ROLE_WANTED } else { self.role_every };
        let asks_role = self.beats.is_multiple_of(self.role_every.min(role_every));
        let is_loading = self.node.health.state() == State::Loading;
        let asks_rest = is_loading && self.beats.is_multiple_of(REST_EVERY);
        self.beats += 1;
        let ping = self.answered(ask_all(exchange, &[&[b"PING"]])).await?;
        let took = clock::micros().saturating_sub(began);
        let error = ping.first().and_then(|reply| error_of(reply));
        let role = match asks_role {
            true => self.ask_role(exchange, wishes).await?,
            false => None,
        };
        let rest = match asks_rest {
            true => self.answered(ask_all(exchange, &[&[b"INFO", b"persistence"]])).await?,
            false => Vec::new(),
        };
        self.ask_sync(exchange, wishes, began).await?;
        let left = self.node.health.report().loading_left;
        let answered = Answered {
            error,
            is_replica: role.as_ref().map(|role| matches!(role, Role::Replica { .. })),
            expects_primary: self.expects_primary,
            has_credentials: self.node.settings.credentials.is_some(),
            // The first answer on a connection proves the dial.
            by_dial: !std::mem::replace(&mut self.has_answered, true),
            loading_left: rest.first().and_then(|info| loading_left(info)).or(left),
            took,
        };
        self.node.heard(clock::micros());
        self.node.note(Signal::Beat(&answered), clock::micros());
        control::node_ping(&self.node.name, took);
        self.probe(answered).await;
        Ok(Beat { error, was_asked_role: asks_role, role, is_info_due: self.is_info_due(began) })
    }

    /// Asks for the role. A replica without its primary tells only in INFO what it has of it.
    async fn ask_role(
        &self,
        exchange: &mut Exchange,
        wishes: Wishes,
    ) -> Result<Option<Role>, DialError> {
        let replies = self.answered(ask_all(exchange, &[&[b"ROLE"]])).await?;
        let role = replies.first().and_then(read_role);
        match &role {
            Some(Role::Primary { offset, replicas }) => {
                let (at, offset, replicas) = (clock::micros(), *offset, replicas.clone());
                let mut roll = self.node.roll.lock().unwrap_or_else(PoisonError::into_inner);
                *roll = Some(Roll { at, offset, replicas });
            }
            Some(Role::Replica { is_linked: false, .. }) if wishes.lag.is_some() => {
                let info = self.answered(ask_all(exchange, &[&[b"INFO", b"replication"]])).await?;
                let offset = info.first().and_then(|info| offset_apart(info));
                return Ok(Some(Role::Replica { is_linked: false, offset }));
            }
            _ => {}
        }
        Ok(role)
    }

    /// Asks a primary how many of its replicas are in step, once a second while writes depend on it.
    async fn ask_sync(
        &mut self,
        exchange: &mut Exchange,
        wishes: Wishes,
        now: Micros,
    ) -> Result<(), DialError> {
        let guard = self.node.settings.guards.write_guard.as_ref();
        let is_wanted = guard.is_some() || wishes.counts_replicas;
        if !is_wanted || !self.expects_primary || now.saturating_sub(self.sync_at) < SYNC_EVERY {
            return Ok(());
        }
        self.sync_at = now;
        let info = self.answered(ask_all(exchange, &[&[b"INFO", b"replication"]])).await?;
        let lags = info.first().and_then(|info| lags(info));
        if let Some(guard) = guard {
            let within = |lags: &Vec<u64>| {
                lags.iter().filter(|&&lag| lag <= guard.max_lag.as_secs()).count() as u64
            };
            let wanted = (guard.replicas, clock::to_micros(guard.max_lag));
            self.node.sync.note(lags.as_ref().map(within), wanted, clock::micros());
        }
        self.node.sync.note_lags(lags, clock::micros());
        Ok(())
    }

    /// Waits for the answer to a question, within the bound of the control plane.
    ///
    /// # Errors
    /// [`DialError`], also when the bound passes.
    pub async fn answered<T>(
        &self,
        question: impl Future<Output = Result<T, ExchangeError>>,
    ) -> Result<T, DialError> {
        let asked_at = clock::micros();
        let give_up_at = asked_at + clock::to_micros(ANSWER_WITHIN);
        let mut question = pin!(question);
        let mut look_at = asked_at + SILENT_AFTER;
        loop {
            let wait = look_at.min(give_up_at).saturating_sub(clock::micros());
            if let Ok(result) = timeout(Duration::from_micros(wait), &mut question).await {
                return result.map_err(DialError::from);
            }
            let now = clock::micros();
            if now >= give_up_at {
                return Err(no_answer());
            }
            // What comes for commands is a sign of life as well.
            let silent_at = self.node.health.heard_at() + SILENCE;
            if now >= silent_at {
                self.node.note(Signal::Silent, now);
            }
            look_at = silent_at.max(now + LOOK_EVERY);
        }
    }

    /// Finds out by a dial whether the node takes connections again, if nothing else can tell.
    async fn probe(&self, answered: Answered) {
        if !self.node.health.wants_dial(clock::micros()) {
            return;
        }
        let _turn = self.node.health.turn().await;
        if self.node.health.begin_probe(clock::micros()).is_err() {
            return;
        }
        match dial::dial(&self.node, &Purpose::control("breakwater:probe")).await {
            Ok(_) => {
                let answered = Answered { by_dial: true, ..answered };
                self.node.note(Signal::Beat(&answered), clock::micros());
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &DialError) {
        self.node.note(Signal::DialFailed { error, is_probe: true }, clock::micros());
        events::dial_failed(&self.node.name, error.cause(), &error.text);
    }

    fn is_info_due(&mut self, now: Micros) -> bool {
        let is_due = self.info_at == 0 || now.saturating_sub(self.info_at) >= INFO_EVERY;
        if is_due {
            self.info_at = now;
        }
        is_due
    }
}

/// Dials when the breaker allows it. The turn is kept for the dial alone: commands that wait for
/// theirs are told in time that there is none.
async fn dial_in_turn(node: &Node, purpose: &Purpose) -> Result<Exchange, DialError> {
    loop {
        let turn = node.health.turn().await;
        let Err(wait) = node.health.begin_probe(clock::micros()) else {
            let result = dial::dial(node, purpose).await;
            drop(turn);
            return result;
        };
        drop(turn);
        sleep(wait).await;
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.node.health.watched(false);
        control::node_forgotten(&self.node.name, self.node.health.state().label());
    }
}

/// Sends `commands` at once and reads their replies.
///
/// # Errors
/// [`ExchangeError`].
pub async fn ask_all(
    exchange: &mut Exchange,
    commands: &[&[&[u8]]],
) -> Result<Vec<Bytes>, ExchangeError> {
    let mut bytes = Vec::new();
    commands.iter().for_each(|command| write::command(&mut bytes, command));
    converse(exchange, &bytes, commands.len()).await
}

/// Sends `commands`, spelled out, at once and reads their replies.
///
/// # Errors
/// [`ExchangeError`].
pub async fn converse(
    exchange: &mut Exchange,
    commands: &[u8],
    count: usize,
) -> Result<Vec<Bytes>, ExchangeError> {
    exchange.send(commands).await?;
    let mut replies = Vec::with_capacity(count);
    for _ in 0..count {
        replies.push(exchange.reply().await?);
    }
    Ok(replies)
}

fn no_answer() -> DialError {
    let words = format!("connected, but no answer within {ANSWER_WITHIN:?}");
    DialError::new(DialFailure::Timeout, words)
}

fn error_of(reply: &[u8]) -> Option<ErrorClass> {
    reply.starts_with(b"-").then(|| ErrorClass::of(reply))
}

/// What a reply to ROLE says; `None` if it is none (an ACL may forbid it).
pub fn read_role(reply: &Bytes) -> Option<Role> {
    let (frame, _) = resp2::decode::decode_bytes(reply).ok()??;
    let BytesFrame::Array(parts) = frame else {
        return None;
    };
    let number = |place: usize| match parts.get(place) {
        Some(BytesFrame::Integer(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    match parts.first()?.as_bytes()? {
        b"master" => Some(Role::Primary { offset: number(1)?, replicas: replicas(parts.get(2)) }),
        b"slave" => {
            let is_linked = parts.get(3)?.as_bytes()? == b"connected";
            Some(Role::Replica { is_linked, offset: number(4) })
        }
        b"sentinel" => Some(Role::Sentinel),
        _ => None,
    }
}

/// Where a primary says that its replicas are.
fn replicas(listed: Option<&BytesFrame>) -> Vec<Endpoint> {
    let Some(BytesFrame::Array(listed)) = listed else {
        return Vec::new();
    };
    let address = |replica: &BytesFrame| {
        let BytesFrame::Array(parts) = replica else {
            return None;
        };
        let text = |place: usize| std::str::from_utf8(parts.get(place)?.as_bytes()?).ok();
        let (host, port) = (text(0).filter(|host| !host.is_empty())?, text(1)?.parse().ok()?);
        Some(Endpoint::Tcp { host: host.to_owned(), port })
    };
    listed.iter().take(REPLICAS_MAX).filter_map(address).collect()
}

/// How many seconds those replicas are behind that a primary names in INFO as online; `None` if it
/// does not tell.
fn lags(info: &[u8]) -> Option<Vec<u64>> {
    let info = Info::read(std::str::from_utf8(info).ok().filter(|it| it.starts_with('$'))?);
    let replicas = info.replicas().into_iter().filter(|it| it.state == "online");
    info.is("role", "master").then(|| replicas.map(|it| it.lag).collect())
}

/// How far a replica without its primary has come, from INFO; `None` while it is being filled anew,
/// or has nothing to go on from.
fn offset_apart(info: &[u8]) -> Option<u64> {
    let info = Info::read(std::str::from_utf8(info).ok().filter(|it| it.starts_with('$'))?);
    let is_whole = info.is("role", "slave") && info.is("master_sync_in_progress", "0");
    info.number("slave_repl_offset").filter(|_| is_whole)
}

/// The seconds that INFO says are left.
fn loading_left(info: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(info).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("loading_eta_seconds:"))?;
    value.trim().parse().ok()
}

/// How often a node is asked PING.
const BEAT_EVERY: Micros = 500 * MILLISECOND;
/// How often while something may be wrong.
const BEAT_SUSPICIOUS: Micros = 100 * MILLISECOND;
/// Of those, how many go by between two questions how long loading will take.
const REST_EVERY: u64 = 5;
/// How often a primary is asked for its replicas while writes depend on them. A beat comes twice in
/// that time, so that it is never much more.
const SYNC_EVERY: Micros = 900 * MILLISECOND;
/// With which beats ROLE is asked while replicas serve keyspaces.
const ROLE_WANTED: u64 = 2;
/// Most replicas of one primary that are looked at.
const REPLICAS_MAX: usize = 64;
/// How often INFO is due.
const INFO_EVERY: Micros = 10 * SECOND;
/// A connection that ended earlier than this is replaced only after [`CONNECT_EVERY`].
const LASTING: Micros = 100 * MILLISECOND;
/// Shortest time between two such connections.
const CONNECT_EVERY: Micros = 500 * MILLISECOND;
/// A question must have been open for so long before its node is called silent. With a beat in
/// every half second a dead link is found within 1.4 s of the last byte.
const SILENT_AFTER: Micros = 900 * MILLISECOND;
/// How often a node that is silent is looked at.
const LOOK_EVERY: Micros = 50 * MILLISECOND;
/// How long a reply may take on the control connection.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_and_anything_else_is_none() {
        let read = |text: &'static str| read_role(&Bytes::from_static(text.as_bytes()));
        let alone = Role::Primary { offset: 7, replicas: Vec::new() };
        assert_eq!(read("*3\r\n$6\r\nmaster\r\n:7\r\n*0\r\n"), Some(alone));
        let one = "*1\r\n*3\r\n$1\r\nh\r\n$1\r\n7\r\n$1\r\n5\r\n";
        let led = read_role(&Bytes::from(format!("*3\r\n$6\r\nmaster\r\n:7\r\n{one}")));
        let replicas = vec![Endpoint::Tcp { host: "h".into(), port: 7 }];
        assert_eq!(led, Some(Role::Primary { offset: 7, replicas }));
        let replica = |link: &str| {
            let head = "*5\r\n$5\r\nslave\r\n$1\r\nh\r\n:1\r\n";
            read_role(&Bytes::from(format!("{head}${}\r\n{link}\r\n:9\r\n", link.len())))
        };
        assert_eq!(replica("connected"), Some(Role::Replica { is_linked: true, offset: Some(9) }));
        assert_eq!(replica("sync"), Some(Role::Replica { is_linked: false, offset: Some(9) }));
        assert_eq!(read("-NOPERM no\r\n"), None);
        assert_eq!(read("*1\r\n$1\r\nx\r\n"), None);
    }

    #[test]
    fn replicas_count_that_are_online() {
        let replica = |number: u32, state: &str, lag: u32| {
            format!("slave{number}:ip=h,port=1,state={state},offset=9,lag={lag}\r\n")
        };
        let lines =
            [replica(0, "online", 1), replica(1, "online", 11), replica(2, "wait_bgsave", 0)];
        let info = format!("$99\r\n# Replication\r\nrole:master\r\n{}", lines.concat());
        assert_eq!(lags(info.as_bytes()), Some(vec![1, 11]));
        assert_eq!(lags(b"$9\r\nrole:slave\r\n"), None);
        assert_eq!(lags(b"-NOPERM no\r\n"), None);
    }

    #[test]
    fn a_replica_without_its_primary_tells_what_it_has_unless_it_is_being_filled() {
        let info = |syncing: u8| {
            format!(
                "$9\r\nrole:slave\r\nmaster_link_status:down\r\n\
                 master_sync_in_progress:{syncing}\r\nslave_repl_offset:42\r\n"
            )
        };
        assert_eq!(offset_apart(info(0).as_bytes()), Some(42));
        assert_eq!(offset_apart(info(1).as_bytes()), None);
        assert_eq!(offset_apart(b"$9\r\nrole:master\r\n"), None);
    }

    #[test]
    fn the_rest_of_loading_is_found_among_the_lines() {
        let info = b"$9\r\n# Persistence\r\nloading:1\r\nloading_eta_seconds:12\r\n";
        assert_eq!(loading_left(info), Some(12));
        assert_eq!(loading_left(b"-LOADING x\r\n"), None);
    }
}

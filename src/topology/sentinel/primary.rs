//! The control connection to a node that Sentinels have named.
//!
//! Owns the connection to the primary, or to a candidate for it, and its task: it asks for ROLE
//! first, on every new connection, and again with every fourth beat of its [`Pulse`]; learns what the
//! node is; and dials again when it is lost. Never publishes: the follower does, once a node has said that it is a master.
//! [`probe`] asks any node once, to see whether a deposed primary still thinks that it is one.
//!
//! What surprises: a node may be unable to tell (an ACL, or AUTH that only clients have). Then it is
//! [`Role::Mute`], and the word of the Sentinels has to do; what it is *not* told from is a node
//! that is busy and says so.

use std::sync::Arc;
use std::time::Duration;

use redis_protocol::resp2;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Heard;
use crate::clock::{self, Micros, SECOND};
use crate::topology::facts::{self, Learnt, ask};
use crate::topology::pulse::{self, Pulse};
use crate::topology::restore::Restorer;
use crate::topology::single::answered;
use crate::upstream::dial::{self, DialError, Node, Purpose};
use crate::upstream::exchange::Exchange;
use crate::upstream::health::chart::{Answered, Signal};
use crate::worker::Shared;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Master,
    /// It does not.
    Replica,
    /// It will not tell us.
    Mute,
    /// It cannot say at the moment; its own words.
    Busy(String),
}

/// What comes from a node.
#[derive(Debug)]
pub enum Told {
    /// What it says of itself, on a connection that stands.
    Role(Role),
    /// All that is learnt of a node at the beginning.
    Learnt(Box<Learnt>),
    /// So many replicas must be in step for it to take writes; `None` if it does not tell.
    MinReplicas(Option<u64>),
    /// The connection could not be made, or was lost.
    Lost(DialError),
}

/// The follower's end of a control connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct Contact {
    /// Who is at the other end.
    pub node: Arc<Node>,
    /// Tells what comes from this connection from what came from an earlier one.
    pub serial: u64,
    task: AbortHandle,
}

// === impl Contact ===

impl Contact {
    /// Opens the connection; what comes over it is told under `serial`.
    #[must_use]
    pub fn open(
        node: &Arc<Node>,
        serial: u64,
        shared: &Arc<Shared>,
        heard: &mpsc::Sender<Heard>,
    ) -> Self {
        let task = Task {
            node: Arc::clone(node),
            serial,
            shared: Arc::clone(shared),
            heard: heard.clone(),
            restorer: Restorer::default(),
            wants_auth: false,
        };
        let task = tokio::task::spawn_local(task.run()).abort_handle();
        Self { node: Arc::clone(node), serial, task }
    }
}

impl Drop for Contact {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connection's end of it.
struct Task {
    node: Arc<Node>,
    serial: u64,
    shared: Arc<Shared>,
    heard: mpsc::Sender<Heard>,
    restorer: Restorer,
    /// The node wants AUTH of strangers, and we have no credentials of our own.
    wants_auth: bool,
}

// === impl Task ===

impl Task {
    /// Until it is aborted.
    async fn run(mut self) {
        let mut pulse = Pulse::of(&self.node, true, ROLE_TURNS);
        loop {
            // Without an error its name leads elsewhere: that is dialled at once.
            let Err(error) = self.converse(&mut pulse).await else { continue };
            pulse.lost(&error);
            self.tell(Told::Lost(error)).await;
        }
    }

    /// One connection, from the dial to its loss.
    async fn converse(&mut self, pulse: &mut Pulse) -> Result<(), DialError> {
        let mut exchange = pulse.connect(&Purpose::control("breakwater:control")).await?;
        self.restorer.connected();
        self.wants_auth = false;
        // ROLE before anything else: nobody may write to it before it has said what it is.
        while !self.ask_role(&mut exchange).await? {
            sleep(ROLE_AGAIN).await;
        }
        self.beat(pulse, &mut exchange).await?;
        while self.node.health.is_away() {
            // It loads, for instance: its answers would come late, and some of them would be errors.
            pulse.due().await;
            self.beat(pulse, &mut exchange).await?;
        }
        self.restorer.look(&self.shared, &self.node, &mut exchange).await?;
        self.learn(&mut exchange).await?;
        let mut guard_at: Micros = 0;
        loop {
            let now = clock::micros();
            if now >= guard_at {
                guard_at = now + GUARD_EVERY;
                let least = min_replicas(&mut exchange).await?;
                self.tell(Told::MinReplicas(least)).await;
            }
            pulse.due().await;
            self.beat(pulse, &mut exchange).await?;
            answered(dial::renew(&self.node, &mut exchange)).await?;
            if exchange.footing.is_outdated(&self.node, clock::micros()) {
                return Ok(());
            }
            self.restorer.look(&self.shared, &self.node, &mut exchange).await?;
        }
    }

    /// One beat. Whoever has been told to follow another one must be noticed even where no Sentinel
    /// can be reached.
    async fn beat(&self, pulse: &mut Pulse, exchange: &mut Exchange) -> Result<(), DialError> {
        match pulse.beat(exchange).await?.role {
            Some(pulse::Role::Primary { .. }) => self.tell(Told::Role(Role::Master)).await,
            Some(_) => self.tell(Told::Role(Role::Replica)).await,
            // Not asked, or not told: it is what it was.
            None => {}
        }
        Ok(())
    }

    /// Asks and tells. Returns whether it can be served from: it is a master, or will not say.
    async fn ask_role(&mut self, exchange: &mut Exchange) -> Result<bool, DialError> {
        let mut role = role(exchange).await?;
        if role == Role::Mute && self.introduce(exchange).await? {
            role = self::role(exchange).await?;
        }
        let is_fit = matches!(role, Role::Master | Role::Mute);
        if role == Role::Master {
            // What is remembered of a time when nobody looked after it is over.
            let answered = Answered { by_dial: true, expects_primary: true, ..Answered::default() };
            self.node.note(Signal::Beat(&answered), clock::micros());
        }
        self.tell(Told::Role(role)).await;
        Ok(is_fit)
    }

    /// With `auth = "passthrough"` the node talks to us only as one of the clients: the first
    /// confirmed one lends its name.
    async fn introduce(&mut self, exchange: &mut Exchange) -> Result<bool, DialError> {
        let reply = answered(ask(exchange, &[b"PING"])).await?;
        self.wants_auth |= reply.starts_with(b"-NOAUTH");
        let Some(presented) = self.shared.identities.any().filter(|_| self.wants_auth) else {
            return Ok(false);
        };
        let auth: [&[u8]; 3] = [b"AUTH", presented.user(), &presented.password];
        Ok(answered(ask(exchange, &auth)).await?.first() == Some(&b'+'))
    }

    async fn learn(&self, exchange: &mut Exchange) -> Result<(), DialError> {
        let mut learnt = answered(facts::learn(exchange)).await?;
        // Strangers still have to authenticate themselves, even if we no longer have to.
        learnt.facts.wants_auth |= self.wants_auth;
        self.tell(Told::Learnt(Box::new(learnt))).await;
        Ok(())
    }

    async fn tell(&self, told: Told) {
        let _ = self.heard.send(Heard::Node(self.serial, told)).await;
    }
}

/// Asks a node once what it is; `None` if it does not answer.
pub async fn probe(node: &Node) -> Option<Role> {
    let question = async {
        let mut exchange = dial::dial(node, &Purpose::control("breakwater:probe")).await.ok()?;
        role(&mut exchange).await.ok()
    };
    timeout(PROBE_WITHIN, question).await.ok()?
}

/// What the node says to ROLE, or, where that is not permitted, in INFO.
///
/// # Errors
/// [`DialError`] if the connection fails.
pub async fn role(exchange: &mut Exchange) -> Result<Role, DialError> {
    let reply = answered(ask(exchange, &[b"ROLE"])).await?;
    if let Ok(Some((BytesFrame::Array(parts), _))) = resp2::decode::decode_bytes(&reply) {
        return Ok(match parts.first().and_then(|part| part.as_bytes()) {
            Some(b"master") => Role::Master,
            _ => Role::Replica,
        });
    }
    if !reply.starts_with(b"-NOPERM") && !reply.starts_with(b"-NOAUTH") {
        return Ok(Role::Busy(String::from_utf8_lossy(&reply).trim().to_owned()));
    }
    let info = answered(ask(exchange, &[b"INFO", b"replication"])).await?;
    let line = info.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"role:"));
    Ok(match line.map(<[u8]>::trim_ascii) {
        Some(b"master") => Role::Master,
        Some(_) => Role::Replica,
        None => Role::Mute,
    })
}

/// How many replicas the node wants in step before it takes writes.
async fn min_replicas(exchange: &mut Exchange) -> Result<Option<u64>, DialError> {
    let question: [&[u8]; 3] = [b"CONFIG", b"GET", b"min-replicas-to-write"];
    let reply = answered(ask(exchange, &question)).await?;
    let Ok(Some((BytesFrame::Array(pair), _))) = resp2::decode::decode_bytes(&reply) else {
        return Ok(None);
    };
    let value = pair.get(1).and_then(|value| value.as_bytes());
    Ok(value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()))
}

/// With every so many beats ROLE is asked.
const ROLE_TURNS: u64 = 4;
/// How soon a candidate that is no master yet is asked again.
const ROLE_AGAIN: Duration = Duration::from_millis(50);
/// How often it is asked how many replicas it wants.
const GUARD_EVERY: Micros = 20 * SECOND;
/// How long a probe may take.
const PROBE_WITHIN: Duration = Duration::from_secs(2);

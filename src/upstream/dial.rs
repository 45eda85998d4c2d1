//! Dialling: from a node's address to an authenticated connection.
//!
//! Owns resolving, connecting, TLS, AUTH, HELLO, SELECT and the connection's name, and the words
//! for what went wrong. Never retries (the caller's back-off does), never runs on the request path:
//! commands wait in the lane or are told. No lane exists before its AUTH has succeeded.
//!
//! What surprises: the whole handshake is one write and one round trip; the replies of CLIENT
//! SETNAME and CLIENT NO-EVICT may be errors and are ignored, because an ACL may forbid them.

use std::io;
use std::sync::{Arc, Mutex};

use rustls::pki_types::ServerName;
use tokio::time::timeout;

use crate::config::{Endpoint, UpstreamSettings};
use crate::governor::running::Running;
use crate::net::{self, Halves, TcpStream, UnixStream};
use crate::resp::write::{self, Protocol};
use crate::stats::labels::DialFailure;
use crate::tls::ClientTlsReloader;
use crate::topology::pulse::Roll;
use crate::topology::slots::NodeId;
use crate::upstream::deployment::Deployment;
use crate::upstream::deployment::footing::{Acceptance, Footing};
use crate::upstream::deployment::keyring::Key;
use crate::upstream::exchange::{Exchange, ExchangeError};
use crate::upstream::freshness::Freshness;
use crate::upstream::health::Health;
use crate::upstream::identity::Presented;
use crate::upstream::sync::Sync;

/// One Redis process, and all that is needed to connect to it.
#[derive(Debug)]
pub struct Node {
    /// Its number in the deployment; 0 where there is only one.
    pub id: NodeId,
    /// What messages call it: `host:port` or `unix:/path`.
    pub name: String,
    /// Address, credentials and clocks.
    pub settings: UpstreamSettings,
    /// What it shares with the other nodes, and what may change while it stays.
    pub deployment: Arc<Deployment>,
    /// Which of our credentials it takes.
    pub acceptance: Acceptance,
    /// TLS, if the scheme asks for it, and the name to be verified.
    pub tls: Option<(ClientTlsReloader, ServerName<'static>)>,
    /// Of a replica: how old what it serves may be, as far as the control plane has seen.
    pub freshness: Freshness,
    /// Of a primary: what it said last of itself and its replicas.
    pub roll: Mutex<Option<Roll>>,
    /// How it is, as everybody in this process knows it.
    pub health: Health,
    /// How many replicas are in step with it, while somebody wants to know.
    pub sync: Sync,
    /// Which scripts of this process may be running there.
    pub running: Running,
}

/// What a new connection is for.
#[derive(Debug)]
pub struct Purpose {
    /// RESP version.
    pub protocol: Protocol,
    /// Database to select.
    pub db: u32,
    /// Credentials that a client presented, instead of the URL's.
    pub presented: Option<Presented>,
    /// Whether a node that wants AUTH may be talked to without: only the control plane, which asks
    /// nothing of it that a stranger may not. A lane never.
    pub may_be_stranger: bool,
    /// Whether the node is asked what it calls the connection.
    pub wants_id: bool,
    /// Whether the node is told READONLY.
    pub is_readonly: bool,
    /// What CLIENT LIST of the node shows as its name.
    pub label: String,
}

/// Why a dial failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct DialError {
    /// Its class, for metrics and for the error's text.
    pub failure: DialFailure,
    /// The details in words; for AUTH the node's own line.
    pub text: String,
}

/// Connects to `node` and prepares the connection for `purpose`.
///
/// # Errors
/// [`DialError`], also when the whole takes longer than the node's `connect_timeout`.
pub async fn dial(node: &Node, purpose: &Purpose) -> Result<Exchange, DialError> {
    let limit = node.settings.connect_timeout;
    let attempt = async {
        let (halves, footing) = connect(node).await?;
        let mut exchange = Exchange::new(halves);
        exchange.footing = footing;
        handshake(node, purpose, &mut exchange).await?;
        Ok(exchange)
    };
    match timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(DialError::new(DialFailure::Timeout, format!("no answer within {limit:?}"))),
    }
}

async fn connect(node: &Node) -> Result<(Halves, Footing), DialError> {
    match &node.settings.endpoint {
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| DialError::io(&error))?;
            Ok((net::split_unix(stream), Footing::default()))
        }
        // The control plane publishes the address as soon as it is known.
        Endpoint::Elected(name) => {
            let text = format!("no Sentinel has named the primary of '{name}' yet");
            Err(DialError::new(DialFailure::Unresolved, text))
        }
        Endpoint::Tcp { host, port } => {
            // Before the question: what is answered later is news to this connection.
            let changes = node.deployment.names.changes();
            let stream = connect_tcp(node, host, *port).await?;
            let peer = stream.peer_addr().ok().map(|address| address.ip().to_canonical());
            let footing = Footing { peer, changes, ..Footing::default() };
            let Some((config, name)) = &node.tls else {
                return Ok((net::split_tcp(stream), footing));
            };
            let connector = tokio_rustls::TlsConnector::from(config.current());
            let stream = connector
                .connect(name.clone(), stream)
                .await
                .map_err(|error| DialError::new(DialFailure::Tls, error.to_string()))?;
            Ok((net::split_tls(stream.into()), footing))
        }
    }
}

/// Tries all addresses of the name, in the resolver's order.
async fn connect_tcp(node: &Node, host: &str, port: u16) -> Result<TcpStream, DialError> {
    let UpstreamSettings { connect_timeout, keepalive, .. } = node.settings;
    let addresses =
        node.deployment.names.resolve(host, connect_timeout).await.map_err(|words| {
            DialError::new(DialFailure::Unresolved, format!("'{host}' has no address: {words}"))
        })?;
    let mut last = DialError::new(DialFailure::Unresolved, format!("'{host}' has no address"));
    // One that swallows everything must leave some time for those behind it.
    let each = connect_timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).clamp(1, 4);
    for address in addresses {
        match timeout(each, TcpStream::connect((address, port))).await {
            Ok(Ok(stream)) => {
                net::tune(&stream, keepalive).map_err(|error| DialError::io(&error))?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = DialError::io(&error),
            Err(_) => {
                let text = format!("{address} has not answered within {each:?}");
                last = DialError::new(DialFailure::Timeout, text);
            }
        }
    }
    Err(last)
}

/// Introduces us: with what a client presented, or with our own credentials, the newest first. A
/// node that does not know those yet is told the ones before them.
async fn handshake(
    node: &Node,
    purpose: &Purpose,
    exchange: &mut Exchange,
) -> Result<(), DialError> {
    if purpose.presented.is_some() {
        return greet(purpose, purpose.presented.as_ref(), exchange).await;
    }
    let keyring = &node.deployment.keyring;
    let keys = keyring.keys();
    let (newest, previous) =
        keys.map_err(|error| DialError::new(DialFailure::Auth, error.to_string()))?;
    let mut refusal = None;
    for key in [Some(newest), previous].into_iter().flatten() {
        match greet(purpose, key.presented.as_ref(), exchange).await {
            Ok(()) => {
                node.acceptance.note(key.generation, crate::clock::micros());
                keyring.note_accepted(&key, &node.name);
                exchange.footing.generation = Some(key.generation);
                return Ok(());
            }
            Err(error) if error.failure == DialFailure::Auth && key.presented.is_some() => {
                keyring.note_refused(&key, &node.name, &error.text);
                // The newest one's refusal is what is to be mended.
                refusal.get_or_insert(error);
            }
            Err(error) => return Err(refusal.unwrap_or(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| DialError::new(DialFailure::Auth, "no credentials".into())))
}

/// Presents the newest credentials on a connection that has come with older ones. Whatever the node
/// says, the connection stays who it was until the node agrees.
///
/// # Errors
/// [`ExchangeError`], after which the connection is useless.
pub async fn renew(node: &Node, exchange: &mut Exchange) -> Result<(), ExchangeError> {
    let keyring = &node.deployment.keyring;
    let now = crate::clock::micros();
    let is_older = exchange.footing.generation.is_some_and(|it| it < keyring.generation());
    if !is_older || now < exchange.renew_at {
        return Ok(());
    }
    exchange.renew_at = now + RENEW_EVERY;
    // What is not readable at this moment is no reason to do anything.
    let Ok((Key { generation, presented: Some(presented) }, _)) = keyring.keys() else {
        return Ok(());
    };
    let mut bytes = Vec::new();
    auth(&presented, |arguments| write::command(&mut bytes, arguments));
    exchange.send(&bytes).await?;
    let reply = exchange.reply().await?;
    let key = Key { generation, presented: Some(presented) };
    if reply.first() == Some(&b'+') {
        exchange.footing.generation = Some(generation);
        node.acceptance.note(generation, now);
        keyring.note_accepted(&key, &node.name);
    } else {
        keyring.note_refused(&key, &node.name, &DialError::from_line(&reply).text);
    }
    Ok(())
}

/// One greeting, and all its replies: a connection on which AUTH failed may be greeted again.
async fn greet(
    purpose: &Purpose,
    presented: Option<&Presented>,
    exchange: &mut Exchange,
) -> Result<(), DialError> {
    let (bytes, steps) = greeting(purpose, presented);
    exchange.send(&bytes).await.map_err(|error| DialError::io(&error))?;
    let (mut is_selected, mut fatal) = (false, None);
    for step in steps {
        let reply = match exchange.reply().await {
            Ok(reply) => reply,
            Err(error) => return Err(fatal.unwrap_or_else(|| DialError::from(error))),
        };
        // A node that wants AUTH must not get a lane without it, whatever the step.
        let is_stranger = reply.starts_with(b"-NOAUTH");
        // The node says so instead of answering, and closes.
        let is_turned_away = reply.starts_with(b"-ERR max number of clients");
        is_selected |= step == Step::SelectEarly && reply.starts_with(b"+");
        let must_succeed = step == Step::Must || (step == Step::SelectLate && !is_selected);
        let is_stranger = is_stranger && step != Step::SelectEarly;
        let is_fatal = must_succeed || is_turned_away || (is_stranger && !purpose.may_be_stranger);
        if is_fatal && reply.first() == Some(&b'-') {
            let error = fatal.get_or_insert_with(|| DialError::from_line(&reply));
            if error.failure != DialFailure::Auth {
                return Err(error.clone());
            }
        }
    }
    if purpose.wants_id {
        exchange.node_client_id = node_client_id(exchange).await?;
    }
    if exchange.has_leftover() {
        return Err(DialError::new(DialFailure::Protocol, "more replies than questions".into()));
    }
    fatal.map_or(Ok(()), Err)
}

/// What the node calls this connection; `None` where it does not say (an ACL may forbid CLIENT).
async fn node_client_id(exchange: &mut Exchange) -> Result<Option<u64>, DialError> {
    let reply = exchange.reply().await.map_err(DialError::from)?;
    let digits = reply.strip_prefix(b":").and_then(|line| std::str::from_utf8(line).ok());
    Ok(digits.and_then(|digits| digits.trim_end().parse().ok()))
}

/// What the reply to a command of the handshake decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// An error is the end.
    Must,
    /// An error is ignored: an ACL may forbid it.
    May,
    /// SELECT in front of AUTH: a client that has selected its database keeps it, even as a user
    /// that may not select.
    SelectEarly,
    /// SELECT behind AUTH: must succeed if the early one did not.
    SelectLate,
}

/// The bytes of the handshake, and what each reply decides.
fn greeting(purpose: &Purpose, presented: Option<&Presented>) -> (Vec<u8>, Vec<Step>) {
    let (mut bytes, mut steps) = (Vec::new(), Vec::new());
    let mut step = |arguments: &[&[u8]], step: Step| {
        write::command(&mut bytes, arguments);
        steps.push(step);
    };
    let db = purpose.db.to_string();
    if let Some(presented) = presented {
        if presented.user.is_some() && purpose.db != 0 {
            step(&[b"SELECT", db.as_bytes()], Step::SelectEarly);
        }
        auth(presented, |arguments| step(arguments, Step::Must));
    }
    if purpose.protocol == Protocol::Resp3 {
        step(&[b"HELLO", b"3"], Step::Must);
    }
    if purpose.db != 0 {
        step(&[b"SELECT", db.as_bytes()], Step::SelectLate);
    }
    if purpose.is_readonly {
        step(&[b"READONLY"], Step::Must);
    }
    step(&[b"CLIENT", b"SETNAME", purpose.label.as_bytes()], Step::May);
    step(&[b"CLIENT", b"NO-EVICT", b"on"], Step::May);
    if purpose.wants_id {
        // Its reply is read behind the steps.
        write::command(&mut bytes, &[b"CLIENT", b"ID"]);
    }
    (bytes, steps)
}

/// AUTH as it was configured or presented: with a user, or with the password alone.
fn auth(presented: &Presented, mut write: impl FnMut(&[&[u8]])) {
    match &presented.user {
        Some(user) => write(&[b"AUTH", user, &presented.password]),
        None => write(&[b"AUTH", &presented.password]),
    }
}

// === impl Purpose ===

impl Purpose {
    /// A connection of the control plane, which asks nothing that a stranger may not. `label` is
    /// its name in CLIENT LIST.
    #[must_use]
    pub fn control(label: &str) -> Self {
        Self {
            protocol: Protocol::Resp2,
            db: 0,
            presented: None,
            may_be_stranger: true,
            wants_id: false,
            is_readonly: false,
            label: label.into(),
        }
    }
}

// === impl Node ===

impl Node {
    /// The first node of a deployment, called by its address.
    #[must_use]
    pub fn new(
        id: NodeId,
        settings: UpstreamSettings,
        tls: Option<(ClientTlsReloader, ServerName<'static>)>,
    ) -> Self {
        let deployment = Arc::new(Deployment::new(&settings));
        Self::of(deployment, id, settings, tls)
    }

    /// A node of the deployment that this one belongs to.
    #[must_use]
    pub fn sibling(
        &self,
        id: NodeId,
        settings: UpstreamSettings,
        tls: Option<(ClientTlsReloader, ServerName<'static>)>,
    ) -> Self {
        Self::of(Arc::clone(&self.deployment), id, settings, tls)
    }

    fn of(
        deployment: Arc<Deployment>,
        id: NodeId,
        settings: UpstreamSettings,
        tls: Option<(ClientTlsReloader, ServerName<'static>)>,
    ) -> Self {
        let name = settings.endpoint.to_string();
        let (freshness, acceptance) = (Freshness::default(), Acceptance::default());
        let health = Health::default();
        let (sync, running) = (Sync::default(), Running::default());
        Self {
            id,
            name,
            settings,
            deployment,
            acceptance,
            tls,
            freshness,
            roll: Mutex::default(),
            health,
            sync,
            running,
        }
    }

    /// Whether others may serve what it serves: it can redirect, and be replaced.
    #[must_use]
    pub fn is_of_cluster(&self) -> bool {
        self.settings.cluster.is_some()
    }

    /// Whether another node may take its place while its deployment stays.
    #[must_use]
    pub fn is_replaceable(&self) -> bool {
        self.is_of_cluster() || self.settings.sentinel.is_some()
    }
}

// === impl DialError ===

impl DialError {
    /// An error of this class.
    #[must_use]
    pub fn new(failure: DialFailure, text: String) -> Self {
        Self { failure, text }
    }

    fn io(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let failure = match error.kind() {
            // A unix socket that is not there refuses just as a closed port does.
            Kind::ConnectionRefused | Kind::NotFound => DialFailure::Refused,
            Kind::TimedOut => DialFailure::Timeout,
            // What rustls says of an alert or a certificate.
            Kind::InvalidData => DialFailure::Tls,
            Kind::ConnectionReset | Kind::UnexpectedEof | Kind::BrokenPipe => DialFailure::Reset,
            _ => DialFailure::Other,
        };
        Self::new(failure, error.to_string())
    }

    /// The node's own error line, classified by its first words.
    fn from_line(line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line.get(1..).unwrap_or_default()).trim_end().to_owned();
        let failure = if text.starts_with("ERR max number of clients") {
            DialFailure::MaxClients
        } else if text.starts_with("LOADING") {
            DialFailure::Loading
        } else if ["WRONGPASS", "NOAUTH", "ERR AUTH", "ERR Client sent AUTH"]
            .iter()
            .any(|start| text.starts_with(start))
        {
            DialFailure::Auth
        } else {
            DialFailure::Protocol
        };
        Self::new(failure, text)
    }

    /// Whether the node wants AUTH and we came without: no fault of the node's.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        self.text.starts_with("NOAUTH")
    }

    /// What a client is told in brackets: one word, for an operator's search.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        self.failure.as_str()
    }
}

impl From<ExchangeError> for DialError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Io(error) => Self::io(&error),
            other => Self::new(DialFailure::Protocol, other.to_string()),
        }
    }
}

/// How often a node that refuses the newest credentials is asked about them on one connection.
const RENEW_EVERY: crate::clock::Micros = crate::clock::SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_words_are_classified() {
        let table: [(&[u8], DialFailure); 5] = [
            (b"-ERR max number of clients reached\r\n", DialFailure::MaxClients),
            (b"-LOADING Redis is loading the dataset in memory\r\n", DialFailure::Loading),
            (b"-WRONGPASS invalid username-password pair\r\n", DialFailure::Auth),
            (b"-ERR AUTH <password> called without any password\r\n", DialFailure::Auth),
            (b"-ERR DB index is out of range\r\n", DialFailure::Protocol),
        ];
        for (line, want) in table {
            assert_eq!(DialError::from_line(line).failure, want);
        }
        assert_eq!(DialError::from_line(b"-ERR x\r\n").text, "ERR x");
    }
}

//! What a node says about itself when the control plane connects.
//!
//! Owns the questions of the first conversation (HELLO, COMMAND, databases, AUTH wanted?) and the
//! facts made of the answers. Never asks on the request path, never believes a length it did not
//! count.
//!
//! What surprises: the number of databases is found by SELECT alone, doubling and halving, because
//! CONFIG is renamed or forbidden on many servers and SELECT hardly ever is.

use bytes::Bytes;
use redis_protocol::resp2;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};

use crate::command::overlay::{self, LiveSpec, Value};
use crate::resp::write;
use crate::upstream::exchange::{Exchange, ExchangeError};

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether the node refuses commands until AUTH, and we have no credentials for it.
    pub wants_auth: bool,
    /// Server name of HELLO: `redis` or `valkey`.
    pub server: String,
    /// Version of HELLO, for instance `7.0.15`.
    pub version: String,
    /// The elements of HELLO's `modules`, encoded in RESP2 and in RESP3.
    pub modules: Modules,
    /// The node's `proto-max-bulk-len` in bytes, where CONFIG GET tells: a longer argument makes it
    /// close the connection, and a lane is everybody's (INV-2).
    pub bulk_bytes: Option<usize>,
    /// After how many seconds the node closes a connection that says nothing; 0: never; `None`: it
    /// does not tell.
    pub idle_timeout: Option<usize>,
    /// Databases that SELECT accepts: 0 to `databases - 1`.
    pub databases: u32,
    /// Clients that the node allows, and those that it had when we connected; where INFO tells
    /// (6.2).
    pub clients: Option<(usize, usize)>,
}

/// HELLO's list of modules as the node spelled it: an array, header included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modules {
    /// RESP2 spelling.
    pub resp2: Bytes,
    /// RESP3 spelling.
    pub resp3: Bytes,
}

/// The facts of the node, and the commands it knows (empty where COMMAND is not permitted).
#[derive(Debug)]
pub struct Learnt {
    /// What it says about itself.
    pub facts: Facts,
    /// Its `COMMAND` reply.
    pub commands: Vec<LiveSpec>,
}

/// Most databases that are looked for.
const DATABASES_MAX: u32 = 1 << 20;

/// Asks a node everything that we want to know; the connection speaks RESP2 before and after.
///
/// # Errors
/// [`ExchangeError`] if the connection fails; an error *reply* only leaves its fact at the default.
pub async fn learn(exchange: &mut Exchange) -> Result<Learnt, ExchangeError> {
    let hello = ask(exchange, &[b"HELLO", b"2"]).await?;
    if is_error(&hello, "NOAUTH") {
        let facts = Facts { wants_auth: true, ..Facts::default() };
        return Ok(Learnt { facts, commands: Vec::new() });
    }
    let mut facts = Facts::default();
    if let Ok(Some((BytesFrame::Array(pairs), _))) = resp2::decode::decode_bytes(&hello) {
        facts.read_hello(&pairs);
    }
    facts.databases = count_databases(exchange).await?;
    let reply = ask(exchange, &[b"CONFIG", b"GET", b"proto-max-bulk-len"]).await?;
    facts.bulk_bytes = config_number(&reply);
    let reply = ask(exchange, &[b"CONFIG", b"GET", b"timeout"]).await?;
    facts.idle_timeout = config_number(&reply);
    let reply = ask(exchange, &[b"INFO", b"clients"]).await?;
    facts.clients = info_number(&reply, "maxclients").zip(info_number(&reply, "connected_clients"));
    let reply = ask(exchange, &[b"COMMAND"]).await?;
    let commands = match resp2::decode::decode_bytes(&reply) {
        Ok(Some((frame, _))) => {
            overlay::from_reply(&value(frame)).map(|live| live.commands).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    Ok(Learnt { facts, commands })
}

/// The version of the server; `None` where HELLO is unknown or not permitted.
///
/// # Errors
/// [`ExchangeError`] if the connection fails.
pub async fn version(exchange: &mut Exchange) -> Result<Option<String>, ExchangeError> {
    let hello = ask(exchange, &[b"HELLO", b"2"]).await?;
    let Ok(Some((BytesFrame::Array(pairs), _))) = resp2::decode::decode_bytes(&hello) else {
        return Ok(None);
    };
    let mut facts = Facts { version: String::new(), ..Facts::default() };
    facts.read_hello(&pairs);
    Ok(Some(facts.version).filter(|version| !version.is_empty()))
}

/// One question, one answer.
///
/// # Errors
/// [`ExchangeError`].
pub async fn ask(exchange: &mut Exchange, arguments: &[&[u8]]) -> Result<Bytes, ExchangeError> {
    let mut bytes = Vec::new();
    write::command(&mut bytes, arguments);
    exchange.send(&bytes).await?;
    exchange.reply().await
}

/// The value of a CONFIG GET of one numeric parameter.
fn config_number(reply: &Bytes) -> Option<usize> {
    let (frame, _) = resp2::decode::decode_bytes(reply).ok()??;
    let BytesFrame::Array(pair) = frame else {
        return None;
    };
    std::str::from_utf8(pair.get(1)?.as_bytes()?).ok()?.parse().ok()
}

/// The value of one numeric line of INFO.
fn info_number(reply: &Bytes, name: &str) -> Option<usize> {
    let text = std::str::from_utf8(reply).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| *key == name).find_map(|(_, value)| value.trim().parse().ok())
}

async fn count_databases(exchange: &mut Exchange) -> Result<u32, ExchangeError> {
    // Invariant of the search: `valid` can be selected, `invalid` cannot.
    let (mut valid, mut invalid) = (0, 16);
    while invalid < DATABASES_MAX && selects(exchange, invalid).await? {
        (valid, invalid) = (invalid, invalid * 2);
    }
    while invalid - valid > 1 {
        let middle = valid + (invalid - valid) / 2;
        if selects(exchange, middle).await? {
            valid = middle;
        } else {
            invalid = middle;
        }
    }
    selects(exchange, 0).await?;
    Ok(invalid)
}

async fn selects(exchange: &mut Exchange, db: u32) -> Result<bool, ExchangeError> {
    let reply = ask(exchange, &[b"SELECT", db.to_string().as_bytes()]).await?;
    Ok(reply.first() == Some(&b'+'))
}

fn is_error(reply: &[u8], code: &str) -> bool {
    reply.strip_prefix(b"-").is_some_and(|line| line.starts_with(code.as_bytes()))
}

/// The neutral form that the command table reads.
fn value(frame: BytesFrame) -> Value {
    match frame {
        BytesFrame::Integer(number) => Value::Integer(number),
        BytesFrame::SimpleString(bytes) | BytesFrame::BulkString(bytes) => {
            Value::Bytes(bytes.to_vec())
        }
        BytesFrame::Error(text) => Value::Bytes(text.as_bytes().to_vec()),
        BytesFrame::Array(elements) => Value::Array(elements.into_iter().map(value).collect()),
        BytesFrame::Null => Value::Null,
    }
}

// === impl Facts ===

impl Default for Facts {
    fn default() -> Self {
        Self {
            wants_auth: false,
            server: "redis".into(),
            // What HELLO says while the node's version is unknown; clients gate features on it.
            version: "7.0.0".into(),
            modules: Modules::default(),
            bulk_bytes: None,
            idle_timeout: None,
            databases: 16,
            clients: None,
        }
    }
}

impl Default for Modules {
    fn default() -> Self {
        Self { resp2: Bytes::from_static(b"*0\r\n"), resp3: Bytes::from_static(b"*0\r\n") }
    }
}

impl Facts {
    fn read_hello(&mut self, pairs: &[BytesFrame]) {
        for pair in pairs.chunks_exact(2) {
            let [name, content] = pair else { continue };
            let text = |frame: &BytesFrame| {
                frame.as_bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            };
            match (text(name).as_deref(), content) {
                (Some("server"), _) => self.server = text(content).unwrap_or_default(),
                (Some("version"), _) => self.version = text(content).unwrap_or_default(),
                (Some("modules"), BytesFrame::Array(list)) => self.modules = Modules::new(list),
                _ => {}
            }
        }
    }
}

impl Modules {
    fn new(list: &[BytesFrame]) -> Self {
        if list.iter().any(|module| !matches!(module, BytesFrame::Array(_))) {
            return Self::default();
        }
        let (mut resp2, mut resp3) = (Vec::new(), Vec::new());
        write::array_header(&mut resp2, list.len());
        write::array_header(&mut resp3, list.len());
        for module in list {
            let BytesFrame::Array(fields) = module else {
                continue;
            };
            write::array_header(&mut resp2, fields.len());
            write::map_header(&mut resp3, write::Protocol::Resp3, fields.len() / 2);
            for field in fields {
                for out in [&mut resp2, &mut resp3] {
                    write_flat(out, field);
                }
            }
        }
        Self { resp2: resp2.into(), resp3: resp3.into() }
    }
}

fn write_flat(out: &mut Vec<u8>, frame: &BytesFrame) {
    match frame {
        BytesFrame::Integer(number) => write::integer(out, *number),
        BytesFrame::Array(elements) => {
            write::array_header(out, elements.len());
            for element in elements {
                // Arguments of a module: one level, so this recursion is two calls deep at most.
                write::bulk(out, element.as_bytes().unwrap_or_default());
            }
        }
        other => write::bulk(out, other.as_bytes().unwrap_or_default()),
    }
}

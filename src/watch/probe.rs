//! The questions to a server, and the answers as samples.
//!
//! Owns what is asked and in which words: `[upstream.renamed]` is honoured for each command. Never
//! judges, never changes anything on the server. One question at a time on a connection of its own,
//! each within a bound.
//!
//! What surprises: an error reply is an answer. It is kept as *refused*, with the server's words,
//! and the round goes on; only silence and a closed connection end it.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis_protocol::resp2;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};
use tokio::time::timeout;

use super::info::Info;
use super::lint::{self, Asked};
use super::sample::Sample;
use super::slow;
use crate::clock::{self, to_micros};
use crate::topology::facts;
use crate::topology::single::answered;
use crate::upstream::dial::{DialError, Node};
use crate::upstream::exchange::Exchange;

/// What a round asks besides INFO.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Whether there is a cluster to ask about.
    pub is_cluster: bool,
    /// Whether keys may be shown.
    pub keys: bool,
    /// The number behind the newest entry of SLOWLOG that is known; `None` in the first round,
    /// which takes what is there for known.
    pub slow_id: Option<u64>,
}

/// One round.
///
/// # Errors
/// [`DialError`] if the connection is lost or an answer does not come. A server that is connected
/// and does not answer PING is no error but a sample of its silence.
pub async fn sample(
    exchange: &mut Exchange,
    node: &Node,
    wanted: Wanted,
) -> Result<Sample, DialError> {
    let mut sample = Sample { at: clock::micros(), ..Sample::default() };
    let asked_at = clock::micros();
    let ping = [said(node, "PING")];
    match timeout(PING_WITHIN, facts::ask(exchange, &ping)).await {
        Ok(reply) => {
            let reply = reply?;
            // MISCONF or LOADING took as long as PONG would have.
            let is_stranger = reply.starts_with(b"-NOAUTH");
            sample.ping = (!is_stranger).then(|| clock::micros().saturating_sub(asked_at));
        }
        Err(_) => {
            sample.ping = Some(to_micros(PING_WITHIN));
            sample.is_mute = true;
            return Ok(sample);
        }
    }
    if let Some(text) = text(exchange, node, "INFO", &[], &mut sample).await? {
        sample.info = Info::read(&text);
    }
    sample.at = clock::micros();
    let reply = answered(facts::ask(exchange, &[said(node, "DBSIZE")])).await?;
    sample.keys = integer(&reply);
    if wanted.is_cluster {
        if let Some(text) = text(exchange, node, "CLUSTER", &[b"INFO"], &mut sample).await? {
            sample.info.add(Info::read(&text));
        }
        sample.nodes = text(exchange, node, "CLUSTER", &[b"NODES"], &mut sample).await?;
    }
    slowlog(exchange, node, wanted, &mut sample).await?;
    Ok(sample)
}

/// What the lint wants to know.
///
/// # Errors
/// [`DialError`] if the connection is lost or an answer does not come.
pub async fn config(
    exchange: &mut Exchange,
    node: &Node,
    now: &Sample,
) -> Result<Asked, DialError> {
    let mut config = HashMap::new();
    let unix_seconds = clock::unix_seconds();
    for parameter in lint::PARAMETERS {
        let question = [said(node, "CONFIG"), b"GET", parameter.as_bytes()];
        let reply = answered(facts::ask(exchange, &question)).await?;
        if let Some(words) = refusal(&reply) {
            return Ok(Asked { config: Err(words), idle: None, unix_seconds });
        }
        // A server of another version may not have the parameter: the list is empty then.
        if let Some(BytesFrame::Array(pair)) = decoded(&reply)
            && let Some(value) = pair.get(1).and_then(BytesFrame::as_bytes)
        {
            config.insert(parameter, String::from_utf8_lossy(value).into_owned());
        }
    }
    let idle =
        if lint::wants_idle(&config, now) { Some(idle(exchange, node, now).await?) } else { None };
    Ok(Asked { config: Ok(config), idle, unix_seconds })
}

/// Connections that have said nothing for an hour, and do not wait for anything.
async fn idle(
    exchange: &mut Exchange,
    node: &Node,
    now: &Sample,
) -> Result<Result<usize, String>, DialError> {
    let clients = now.info.number("connected_clients").unwrap_or(0);
    if clients > CLIENTS_LISTED {
        return Ok(Err(format!("{clients} clients are too many to list")));
    }
    let question = [said(node, "CLIENT"), b"LIST", b"TYPE", b"normal"];
    let reply = answered(facts::ask(exchange, &question)).await?;
    if let Some(words) = refusal(&reply) {
        return Ok(Err(words));
    }
    let text = bulk(&reply).unwrap_or_default();
    let is_idle = |line: &&str| {
        let mut words = line.split(' ').filter_map(|word| word.split_once('='));
        let idle = words.clone().find(|(name, _)| *name == "idle");
        let flags = words.find(|(name, _)| *name == "flags").map_or("", |(_, flags)| flags);
        let seconds: u64 = idle.and_then(|(_, seconds)| seconds.parse().ok()).unwrap_or(0);
        // Whoever blocks is silent by right.
        seconds > IDLE_SECONDS && !flags.contains('b')
    };
    Ok(Ok(text.lines().filter(is_idle).count()))
}

/// The entries that are new.
async fn slowlog(
    exchange: &mut Exchange,
    node: &Node,
    wanted: Wanted,
    sample: &mut Sample,
) -> Result<(), DialError> {
    let command = said(node, "SLOWLOG");
    let newest = answered(facts::ask(exchange, &[command, b"GET", b"1"])).await?;
    if let Some(words) = refusal(&newest) {
        sample.refused.push(("SLOWLOG", words));
        return Ok(());
    }
    let entries = decoded(&newest).map(|frame| slow::read(&frame, false)).unwrap_or_default();
    // Emptied by SLOWLOG RESET: its numbers go on where they were.
    let Some(newest) = entries.first().map(|entry| entry.id + 1) else {
        sample.slow_id = Some(wanted.slow_id.unwrap_or(0));
        return Ok(());
    };
    sample.slow_id = Some(newest);
    let known = wanted.slow_id.unwrap_or(newest);
    let Some(count) = newest.checked_sub(known).filter(|count| *count > 0) else {
        return Ok(());
    };
    let count = count.min(ENTRIES_MAX).to_string();
    let reply = answered(facts::ask(exchange, &[command, b"GET", count.as_bytes()])).await?;
    let entries = decoded(&reply).map(|frame| slow::read(&frame, wanted.keys)).unwrap_or_default();
    sample.slow = entries.into_iter().filter(|entry| entry.id >= known).collect();
    Ok(())
}

/// The text that answers a command; a refusal is noted in the sample.
async fn text(
    exchange: &mut Exchange,
    node: &Node,
    command: &'static str,
    rest: &[&[u8]],
    sample: &mut Sample,
) -> Result<Option<String>, DialError> {
    let question: Vec<&[u8]> =
        [said(node, command)].into_iter().chain(rest.iter().copied()).collect();
    let reply = answered(facts::ask(exchange, &question)).await?;
    if let Some(words) = refusal(&reply) {
        if !sample.refused.iter().any(|(known, _)| *known == command) {
            sample.refused.push((command, words));
        }
        return Ok(None);
    }
    Ok(bulk(&reply))
}

/// What the server calls a command.
fn said<'a>(node: &'a Node, command: &'a str) -> &'a [u8] {
    let mut renamed = node.settings.renamed.iter();
    renamed.find(|(ours, _)| ours == command).map_or(command, |(_, theirs)| theirs).as_bytes()
}

/// The words of an error reply. The new name of a command is a secret that they may repeat, so
/// nothing behind a quote is kept (INV-11).
fn refusal(reply: &[u8]) -> Option<String> {
    let line = reply.strip_prefix(b"-")?;
    let line = line.get(..line.len().min(REFUSAL_BYTES)).unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    Some(text.split(['\'', '`', '\r']).next().unwrap_or_default().trim_end().to_owned())
}

fn decoded(reply: &Bytes) -> Option<BytesFrame> {
    resp2::decode::decode_bytes(reply).ok()?.map(|(frame, _)| frame)
}

fn bulk(reply: &Bytes) -> Option<String> {
    let frame = decoded(reply)?;
    frame.as_bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn integer(reply: &Bytes) -> Option<u64> {
    match decoded(reply)? {
        BytesFrame::Integer(number) => u64::try_from(number).ok(),
        _ => None,
    }
}

/// How long a PING is waited for; beyond the threshold of critical, so that this can be seen.
const PING_WITHIN: Duration = Duration::from_secs(6);
/// Most entries of SLOWLOG that are fetched at once.
const ENTRIES_MAX: u64 = 128;
/// Most clients whose list is asked for; each is a line of some 300 bytes.
const CLIENTS_LISTED: u64 = 5_000;
/// Silence after which a connection is idle.
const IDLE_SECONDS: u64 = 3_600;
/// Most bytes of a refusal that are kept.
const REFUSAL_BYTES: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_words_and_no_secret_name() {
        assert_eq!(refusal(b"+OK\r\n"), None);
        let words = refusal(b"-ERR unknown command 's3cret', with args beginning with: 'GET' \r\n");
        assert_eq!(words.as_deref(), Some("ERR unknown command"));
        let words = refusal(b"-NOPERM this user has no permissions to run the command\r\n");
        assert!(words.unwrap().ends_with("command"));
    }
}

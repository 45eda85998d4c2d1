//! The client's side of publish and subscribe.
//!
//! Owns what SUBSCRIBE and its kin ask and answer, the restricted mode of RESP2, the delivery of
//! messages with the limits of a slow reader, and the end of a client's subscriptions. Never talks
//! to a node: questions go to the client's link, and the link calls back here with the answers.
//!
//! What surprises: nothing of a client is dispatched while it waits for a confirmation (INV-12),
//! and confirmations and messages are shown even after CLIENT REPLY OFF, as by Redis 7.0.

use bytes::Bytes;

use crate::buffer::ChunkPool;
use crate::clock::{Micros, to_micros};
use crate::command::Command;
use crate::command::errors;
use crate::command::spec::{Class, Spec};
use crate::config::PubsubSettings;
use crate::dispatch::cluster::cross_slot;
use crate::dispatch::{self, Dispatched};
use crate::pubsub::book::Holders;
use crate::pubsub::{Kind, Name, push};
use crate::refusal::Refusal;
use crate::resp::write::{self, Protocol};
use crate::route::{self, Place};
use crate::session::state::{Closing, Session, SessionId};
use crate::session::subscriptions::{Subscriptions, weight};
use crate::stats::labels::{ClosedReason, ErrorClass, Outcome};
use crate::topology::Topology;
use crate::upstream::identity::Identity;
use crate::upstream::subscriber::{Ask, Asker, Link, LinkId, Want, Wire, copies, place};
use crate::worker::Worker;

/// A message on its way to any number of clients.
#[derive(Debug)]
pub struct Parcel<'a> {
    /// The node's frame.
    pub frame: &'a [u8],
    /// The same without its first byte, once somebody has asked for an allocation of its own.
    pub shared: Option<Bytes>,
}

/// SUBSCRIBE, UNSUBSCRIBE and their kin.
pub fn command(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    spec: &Spec,
    command: Command<'_>,
) -> Dispatched {
    if session.replies.pending() > 0 {
        // On the node this must come behind what travels on lanes (INV-12 c), and no message before
        // its confirmation.
        return Dispatched::Wait;
    }
    let is_of =
        |word: fn(Kind) -> &'static str| Kind::ALL.into_iter().find(|&it| word(it) == &*spec.name);
    let most = session.gate.pubsub.subscriptions;
    if command.len() - 1 > most {
        // Each of them is confirmed, whether the client has it or not (INV-4).
        let setting = "listener.pubsub.subscriptions";
        let refusal = Refusal::SubscriptionLimit { setting, most };
        return dispatch::refuse(worker, session, spec, &refusal);
    }
    if let Some(kind) = is_of(Kind::subscribe) {
        return subscribe(worker, topology, session, (identity, kind), spec, command);
    }
    match is_of(Kind::unsubscribe) {
        Some(kind) => unsubscribe(worker, topology, session, kind, spec, command),
        None => dispatch::refuse(worker, session, spec, &dispatch::not_served(spec)),
    }
}

fn subscribe(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    (identity, kind): (Identity, Kind),
    spec: &Spec,
    command: Command<'_>,
) -> Dispatched {
    if let Some(refusal) = exceeds(worker, session, kind, command) {
        return dispatch::refuse(worker, session, spec, &refusal);
    }
    let is_spread = topology.slots.is_some()
        && route::place(spec, &command, &mut worker.keys) == Place::Several;
    if is_spread {
        return dispatch::refuse_with(worker, session, Some(spec), cross_slot);
    }
    let topic = (kind, command.argument(1).unwrap_or_default());
    let patience = to_micros(session.gate.failover_wait(None, None));
    let id = match place::link_for(worker, topology, identity, topic, patience) {
        Ok(id) => id,
        Err(refusal) => return dispatch::not_executed(worker, session, spec, &refusal),
    };
    let Some(link) = worker.links.get_mut(id) else {
        return Dispatched::Wait;
    };
    let names = command.arguments().skip(1).map(|name| link.book.name(kind, name));
    let names: Vec<Name> = names.collect();
    copies::place(worker, topology, identity, (kind, &names));
    ask(worker, topology, session, id, spec, Ask::new(Wire::Subscribe, kind, names), Want::Join)
}

fn unsubscribe(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    kind: Kind,
    spec: &Spec,
    command: Command<'_>,
) -> Dispatched {
    let held = session.subscriptions.as_ref();
    let names: Vec<Name> = if command.len() > 1 {
        command.arguments().skip(1).map(Into::into).collect()
    } else {
        let all = held.map(|held| held.all(kind)).unwrap_or_default();
        all.into_iter().map(|(name, _)| name).collect()
    };
    // Where the node must say from when on: the link of the first topic that the client has.
    let link = names.iter().find_map(|name| held.and_then(|held| held.link(kind, name)));
    let open = link.and_then(|id| worker.links.get(id)).filter(|link| link.is_open);
    let Some(link) = open else {
        worker.stats.command(spec.id.stats_index(), Outcome::Local).increment();
        return leave_now(worker, topology, session, kind, &names);
    };
    // The last client's question ends the link's subscription as well; for the others it only marks
    // the place.
    let last = names.iter().filter(|name| link.book.is_last(kind, name, session.id));
    let last: Vec<Name> = last.map(|name| link.book.name(kind, name)).collect();
    // In a cluster one question speaks of one slot; the other ones follow when this is answered.
    let last = place::askable(link.is_in_cluster(), kind, last).into_iter().next();
    let last = last.unwrap_or_default();
    let wire = if last.is_empty() { Wire::Mark(None) } else { Wire::Unsubscribe };
    let (id, want) = (link.id, Want::Leave(kind, names));
    ask(worker, topology, session, id, spec, Ask::new(wire, kind, last), want)
}

/// Opens the reply slot and queues the question; nothing more of the client is dispatched until it
/// is answered.
fn ask(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    link: LinkId,
    spec: &Spec,
    ask: Ask,
    want: Want,
) -> Dispatched {
    let waits = worker
        .links
        .get(link)
        .is_some_and(|link| copies::must_wait(worker, topology, link.key.identity, &ask));
    let Some(link) = worker.links.get_mut(link) else {
        return Dispatched::Wait;
    };
    if !link.has_room() {
        if !link.backlog.contains(&session.id) {
            link.backlog.push(session.id);
        }
        return Dispatched::Wait;
    }
    let asker = Asker {
        session: session.id,
        slot: session.replies.open(),
        taken_at: worker.now,
        command: spec.id,
        is_fast: spec.is_fast(),
        is_muted: session.is_muted(),
        want,
    };
    session.suspended = true;
    session.end_of_command();
    let ask = Ask { asker: Some(asker), ..ask };
    if waits {
        link.held_back.push(ask);
    } else {
        link.ask(&mut worker.pool, &topology.table, ask, worker.now);
    }
    Dispatched::Done
}

/// Confirms the end of subscriptions without asking anybody.
fn leave_now(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    kind: Kind,
    names: &[Name],
) -> Dispatched {
    let slot = session.replies.open();
    worker.line.clear();
    let left = leave(&mut worker.line, session, kind, names);
    note_counts(session);
    session.complete(&mut worker.pool, slot, &worker.line);
    session.end_of_command();
    worker.touched.mark(session);
    forget(worker, topology, session.id, kind, &left);
    Dispatched::Done
}

/// In RESP2 a client with subscriptions may say little else. `None`: this it may, and it goes its
/// usual way.
pub fn restrict(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) -> Option<Dispatched> {
    if session.protocol != Protocol::Resp2 || spec.class == Class::Subscriber {
        return None;
    }
    match &*spec.name {
        "quit" | "reset" => None,
        "ping" if command.len() > 2 => {
            Some(dispatch::refuse_with(worker, session, Some(spec), |line| {
                errors::wrong_arity(line, spec);
            }))
        }
        "ping" => Some(ping(worker, topology, session, spec, command)),
        name => Some(refuse_in_context(worker, session, spec, name)),
    }
}

/// What Redis says to a RESP2 client that has subscribed and wants something else.
pub fn refuse_in_context(
    worker: &mut Worker,
    session: &mut Session,
    spec: &Spec,
    name: &str,
) -> Dispatched {
    // Whatever keeps EXEC from running is the reason of an abort to Redis, transaction or not.
    let code = match name {
        "exec" => "EXECABORT Transaction discarded because of:",
        _ => "ERR",
    };
    let text = format!(
        "{code} Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
         RESET are allowed in this context"
    );
    dispatch::refuse_with(worker, session, Some(spec), |line| write::error(line, &text))
}

/// PING of a subscriber takes the way of its messages: the pong comes behind those that were
/// published before.
fn ping(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    spec: &Spec,
    command: Command<'_>,
) -> Dispatched {
    if session.replies.pending() > 0 {
        return Dispatched::Wait;
    }
    let held = session.subscriptions.as_ref();
    let link = held.and_then(|held| {
        let topics = Kind::ALL.into_iter().flat_map(|kind| held.all(kind));
        topics.map(|(_, link)| link).next()
    });
    let Some(link) = link else {
        return Dispatched::Wait;
    };
    let closed = worker.links.get(link).filter(|link| !link.is_open && !link.is_in_cluster());
    if let Some(refusal) = closed.and_then(|it| it.node.refusal(worker.now)) {
        return dispatch::not_executed(worker, session, spec, &refusal);
    }
    let mark = Wire::Mark(command.argument(1).map(Into::into));
    ask(
        worker,
        topology,
        session,
        link,
        spec,
        Ask::new(mark, Kind::Channel, Vec::new()),
        Want::Pong,
    )
}

/// Why the client may not have so many more topics (INV-4).
fn exceeds(
    worker: &Worker,
    session: &Session,
    kind: Kind,
    command: Command<'_>,
) -> Option<Refusal> {
    let held = session.subscriptions.as_deref();
    let fresh =
        command.arguments().skip(1).filter(|name| !held.is_some_and(|held| held.holds(kind, name)));
    let (mut count, mut bytes) = (0, 0);
    for name in fresh {
        count += 1;
        bytes += weight(name);
    }
    let bounds = &session.gate.pubsub;
    let (has, has_bytes) = held.map_or((0, 0), |held| (held.len(), held.bytes()));
    let total = worker.shared.memory.request_bytes_total;
    let over = |setting, most| Some(Refusal::SubscriptionLimit { setting, most });
    if has + count > bounds.subscriptions {
        over("listener.pubsub.subscriptions", bounds.subscriptions)
    } else if has_bytes + bytes > bounds.subscription_bytes {
        over("listener.pubsub.subscription_bytes", bounds.subscription_bytes)
    } else if count > 0 && worker.subscription_bytes + bytes > total {
        // The worker's whole part of that budget; what it holds of unfinished requests is apart.
        over("memory.request_bytes_total", total)
    } else {
        None
    }
}

/// The node has answered a question that a client asked, and said yes.
pub fn confirm(worker: &mut Worker, link: &mut Link, asker: Asker, ask: &Ask) {
    let Some(mut session) = worker.sessions.lend(asker.session) else {
        return;
    };
    worker.line.clear();
    let mut left = Vec::new();
    match &asker.want {
        Want::Join => {
            for name in &ask.names {
                join(worker, &mut session, link, ask.kind, name);
            }
        }
        Want::Leave(kind, names) => left = leave(&mut worker.line, &mut session, *kind, names),
        Want::Pong => {}
    }
    note_counts(&mut session);
    worker.stats.command(asker.command.stats_index(), Outcome::Ok).increment();
    resume(worker, &mut session, &asker);
    worker.sessions.restore(asker.session, session);
    if let Want::Leave(kind, _) = asker.want {
        // Those of this link; it is lent, so it is not found among the others.
        let (mine, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, it)| *it == link.id);
        let topology = std::sync::Arc::clone(worker.topology.load());
        count_left(worker, &mine);
        abandon(worker, &topology, link, asker.session, kind, &mine);
        forget(worker, &topology, asker.session, kind, &others);
    }
}

/// The client holds a topic from here on, and is told so.
fn join(worker: &mut Worker, session: &mut Session, link: &mut Link, kind: Kind, name: &Name) {
    let held = session.subscriptions.get_or_insert_default();
    // What it has already, perhaps on the link of who it was before, is only confirmed.
    if held.hold(kind, name, link.id) {
        link.book.join(kind, name, session.id);
        worker.subscription_bytes += weight(name);
        worker.stats.subscriptions.add(1);
    }
    let (word, count) = (kind.subscribe(), held.counted(kind));
    push::confirmation(&mut worker.line, session.protocol, word, Some(name), count);
}

/// A client's PING has come back.
pub fn marked(worker: &mut Worker, link: &mut Link, asker: Asker, reply: &[u8]) {
    if matches!(asker.want, Want::Leave(..)) {
        // Whatever the node says to a PING, its place is what counts.
        let mark = Ask::new(Wire::Mark(None), Kind::Channel, Vec::new());
        return confirm(worker, link, asker, &mark);
    }
    if matches!(reply.first(), Some(b'-' | b'!')) {
        return refused(worker, asker, reply);
    }
    let Some(mut session) = worker.sessions.lend(asker.session) else {
        return;
    };
    worker.line.clear();
    if !asker.is_muted {
        worker.line.extend_from_slice(b"*2\r\n$4\r\npong\r\n");
        // `+PONG` says that there was no text; anything else is the text.
        let text = if reply.starts_with(b"+") { b"$0\r\n\r\n" } else { reply };
        worker.line.extend_from_slice(text);
    }
    worker.stats.command(asker.command.stats_index(), Outcome::Ok).increment();
    resume(worker, &mut session, &asker);
    worker.sessions.restore(asker.session, session);
}

/// The node has refused what a client asked: its words are the answer to the whole command.
pub fn refused(worker: &mut Worker, asker: Asker, error: &[u8]) {
    worker.stats.error_reply(ErrorClass::of(error)).increment();
    fail(worker, &asker, Outcome::ErrorReply, |line| line.extend_from_slice(error));
}

/// The node has not answered, and the client has waited long enough.
pub fn not_executed(worker: &mut Worker, asker: Asker, refusal: &Refusal) {
    fail(worker, &asker, Outcome::NotExecuted, |line| refusal.write(line));
}

fn fail(worker: &mut Worker, asker: &Asker, outcome: Outcome, write: impl FnOnce(&mut Vec<u8>)) {
    let Some(mut session) = worker.sessions.lend(asker.session) else {
        return;
    };
    worker.line.clear();
    if !asker.is_muted {
        write(&mut worker.line);
    }
    worker.stats.command(asker.command.stats_index(), outcome).increment();
    resume(worker, &mut session, asker);
    worker.sessions.restore(asker.session, session);
}

/// Delivers the answer that stands in the worker's line, and lets the client go on.
fn resume(worker: &mut Worker, session: &mut Session, asker: &Asker) {
    session.complete(&mut worker.pool, asker.slot, &worker.line);
    worker.line.shrink_to(crate::worker::SCRATCH_BYTES);
    session.suspended = false;
    worker.touched.mark(session);
    session.wake();
}

/// Gives a client a message, unless it reads too slowly. Returns whether it got it.
pub fn give(
    session: &mut Session,
    pool: &mut ChunkPool,
    parcel: &mut Parcel<'_>,
    now: Micros,
) -> bool {
    // Who has said QUIT is told no more, as by Redis.
    if session.closing.is_some() {
        return false;
    }
    let hard = session.gate.pubsub.buffer_hard_bytes;
    if hard > 0 && session.owed() + parcel.frame.len() > hard {
        session.close(Closing::Now(ClosedReason::SlowSubscriber));
        session.wake();
        return false;
    }
    let first = push::first_byte(session.protocol);
    match parcel.shared() {
        Some(rest) => session.replies.push_shared(first, rest, &mut session.out, pool),
        None => {
            let rest = parcel.frame.get(1..).unwrap_or_default();
            session.replies.push(&[first], &mut session.out, pool);
            session.replies.push(rest, &mut session.out, pool);
        }
    }
    if is_slow(session, now) {
        session.close(Closing::Now(ClosedReason::SlowSubscriber));
        session.wake();
    }
    true
}

/// Whether a client with subscriptions has left more than the soft limit unread for its whole time.
/// Notes when that began.
pub fn is_slow(session: &mut Session, now: Micros) -> bool {
    let owed = session.owed();
    let PubsubSettings { buffer_soft_bytes: soft, buffer_soft_time: time, .. } =
        session.gate.pubsub;
    let Some(held) = &mut session.subscriptions else {
        return false;
    };
    if soft == 0 || owed <= soft {
        held.above_soft_since = None;
        return false;
    }
    let since = *held.above_soft_since.get_or_insert(now);
    now.saturating_sub(since) >= to_micros(time)
}

/// Ends all subscriptions of a client without a word: RESET, or its own end.
pub fn leave_all(worker: &mut Worker, topology: &Topology, session: &mut Session) {
    let Some(held) = session.subscriptions.take() else {
        return;
    };
    session.client.note_subscriptions([0; 3]);
    for kind in Kind::ALL {
        forget(worker, topology, session.id, kind, &held.all(kind));
    }
}

/// Whoever has missed messages and speaks RESP3 is told that some may be missing: see decision
/// 0010.
pub fn announce_gap(worker: &mut Worker, link: &mut Link) {
    let mut missed = Holders::default();
    for (kind, name) in link.book.take_gaps() {
        missed.extend(copies::holders(&worker.links, link, kind, &name).flatten());
    }
    for id in missed {
        if let Some(session) = worker.sessions.get_mut(id)
            && session.protocol == Protocol::Resp3
            && session.closing.is_none()
        {
            session.replies.push(GAP, &mut session.out, &mut worker.pool);
            worker.touched.mark(session);
        }
    }
}

/// Takes topics away from a client and appends one confirmation for each, or one for nothing.
/// Returns those that it had, with their links.
fn leave(
    line: &mut Vec<u8>,
    session: &mut Session,
    kind: Kind,
    names: &[Name],
) -> Vec<(Name, LinkId)> {
    let mut left = Vec::new();
    let mut confirm = |session: &Session, name: Option<&[u8]>| {
        let count = session.subscriptions.as_ref().map_or(0, |held| held.counted(kind));
        push::confirmation(line, session.protocol, kind.unsubscribe(), name, count);
    };
    for name in names {
        let link = session.subscriptions.as_mut().and_then(|held| held.release(kind, name));
        left.extend(link.map(|link| (name.clone(), link)));
        confirm(session, Some(name));
    }
    if names.is_empty() {
        confirm(session, None);
    }
    left
}

/// The link no longer delivers these topics to the client; it ends what nobody else holds.
fn abandon(
    worker: &mut Worker,
    topology: &Topology,
    link: &mut Link,
    session: SessionId,
    kind: Kind,
    left: &[(Name, LinkId)],
) {
    let names: Vec<Name> = left.iter().map(|(name, _)| name.clone()).collect();
    for name in &names {
        link.book.leave(kind, name, session);
    }
    link.tidy(&mut worker.pool, &topology.table, kind, &names, worker.now);
}

/// As [`abandon`], on whatever links the topics are.
fn forget(
    worker: &mut Worker,
    topology: &Topology,
    session: SessionId,
    kind: Kind,
    left: &[(Name, LinkId)],
) {
    count_left(worker, left);
    let mut rest = left.to_vec();
    while let Some(&(_, id)) = rest.first() {
        let (mine, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(_, it)| *it == id);
        rest = others;
        if let Some(mut link) = worker.links.lend(id) {
            abandon(worker, topology, &mut link, session, kind, &mine);
            worker.links.restore(id, link);
        }
    }
}

fn count_left(worker: &mut Worker, left: &[(Name, LinkId)]) {
    let bytes: usize = left.iter().map(|(name, _)| weight(name)).sum();
    worker.subscription_bytes = worker.subscription_bytes.saturating_sub(bytes);
    worker.stats.subscriptions.sub(left.len() as u64);
}

/// Shows other clients what this one has, and drops the state of a client that has nothing.
fn note_counts(session: &mut Session) {
    let held = session.subscriptions.take_if(|held| held.is_empty());
    let held = if held.is_some() { None } else { session.subscriptions.as_deref() };
    let counts = Kind::ALL.map(|kind| held.map_or(0, |held: &Subscriptions| held.len_of(kind)));
    session.client.note_subscriptions(counts);
}

/// What a RESP3 client with subscriptions gets when its link has come back: a pong that it has not
/// asked for. Every library's loop over messages knows pongs and passes on or drops them, which is
/// true of no other push.
const GAP: &[u8] = b">2\r\n$4\r\npong\r\n$14\r\nbreakwater:gap\r\n";

//! Carrying out a rewrite: another command goes, or parts of it, or its answer is put together from
//! pages.
//!
//! Owns the asking for one page after the other on behalf of a command that waits in its session's
//! input, and the answer in the end. What a rewrite makes of a command `policy::rewrite` says; what
//! the pages become the [`Assembly`]; pages travel as errands. Other sessions are never held up:
//! each node has one page of a session at a time, and few sessions of a worker have pages at all.
//!
//! What surprises: the rule that has begun an answer also ends it, with its caps and its name, though
//! the policy may be another one by then.

use std::sync::Arc;

use super::judge::Ruling;
use super::unavailable::not_executed_since;
use super::{Dispatched, batches, errand, gather, guards, offender, refuse};
use crate::clock::{MILLISECOND, Micros, to_micros};
use crate::command::Command;
use crate::command::keys;
use crate::command::spec::Spec;
use crate::policy::offence::Deed;
use crate::policy::rewrite::{Plan, Source};
use crate::policy::rule::{Paging, Rewrite, Rule};
use crate::refusal::Refusal;
use crate::refusal::denied::{Denied, with_key};
use crate::resp::write::Protocol;
use crate::route::frame;
use crate::route::slot::slot;
use crate::session::assembly::{Assembly, Failure, Footing};
use crate::session::errand::{Answer, Errand};
use crate::session::state::{Closing, Session};
use crate::stats::labels::{ClosedReason, Outcome, Rewritten};
use crate::topology::Topology;
use crate::upstream::identity::Identity;
use crate::upstream::loss::GONE_AFTER;
use crate::worker::Worker;

/// Does what a rule says that rewrites; `version` is that of its policy.
pub fn carry_out(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    (spec, command): (&Spec, Command<'_>),
    (rule, version, rewrite): (&Arc<Rule>, u64, &Rewrite),
) -> Ruling {
    if is_confined(session) {
        // It is refused behind us, in the words that belong there.
        return Ruling::Goes;
    }
    match Plan::of(rewrite, spec, &command) {
        Plan::AsItIs => Ruling::Goes,
        Plan::Instead(bytes) => {
            // A server may lack the command: then the one that it has goes.
            let is_known = frame::with_command(&topology.table, &bytes, |_, _| ()).is_some();
            if !is_known {
                return Ruling::Goes;
            }
            let counted = if *rewrite == Rewrite::Unlink || *rewrite == Rewrite::Async {
                Rewritten::Renamed
            } else {
                Rewritten::Clamped
            };
            if !session.is_counted() {
                worker.stats.rewritten(counted).increment();
            }
            Ruling::Instead(bytes)
        }
        Plan::Parts(size) => {
            if stays_whole(worker, topology, session, spec, &command) {
                return Ruling::Goes;
            }
            let whole = (spec, command, size);
            let done = batches::send(worker, topology, session, identity, whole);
            if done == Dispatched::Done {
                worker.stats.rewritten(Rewritten::Divided).increment();
            }
            Ruling::Done(done)
        }
        Plan::Pages(source) => {
            let Rewrite::Scan(paging) = rewrite else {
                return Ruling::Goes;
            };
            let subject = command.argument(1).unwrap_or_default();
            if let Some(why) = no_pages(session, source) {
                let own = Denied::by(rule, version, &with_key(&spec.name, subject));
                let message = format!("use {}", source.cursor_command());
                let denied = Denied { size: Some(why.into()), message, ..own };
                let refusal = Refusal::Denied(Box::new(denied));
                return Ruling::Done(refuse(worker, session, spec, &refusal));
            }
            let how = (bounded(*paging, worker), footing(topology, source, subject));
            let rule = (Arc::clone(rule), version);
            let pages = Assembly::new(rule, (source, subject), how, worker.now);
            session.errand = Some(Box::new(Errand::paging(pages, session.replies.next())));
            worker.stats.rewritten(Rewritten::Paged).increment();
            Ruling::Done(go_on(worker, topology, session, identity, (spec, command)))
        }
    }
}

/// Whether the session may say little more: it monitors, or hears what is published.
fn is_confined(session: &Session) -> bool {
    let is_subscriber = session.subscriptions.is_some() && session.protocol == Protocol::Resp2;
    let listens = session.pin.as_ref().is_some_and(|pin| pin.is_monitor || pin.listens);
    is_subscriber || listens
}

/// Whether a command means more than its parts: in a transaction, on a connection that knows what
/// its client reads, or where replicas confirm what is written.
fn stays_whole(
    worker: &mut Worker,
    topology: &Topology,
    session: &Session,
    spec: &Spec,
    command: &Command<'_>,
) -> bool {
    let has_own = session.pin.is_some() && topology.slots.is_none();
    has_own
        || session.in_transaction()
        || (spec.is_barred() && guards::confirms(worker, topology, spec, command))
}

/// Why an answer cannot be put together from pages here.
fn no_pages(session: &Session, source: Source) -> Option<&'static str> {
    let is_tracking = session.pin.as_ref().is_some_and(|pin| pin.tracking.is_some());
    if session.in_transaction() {
        Some("its answer is put together from pages, which a transaction cannot wait for")
    } else if is_tracking && source != Source::Keyspace {
        Some("its answer is put together from pages, which CLIENT TRACKING does not follow")
    } else {
        None
    }
}

/// Who would be asked for a page now. Of a whole cluster our own cursors know that.
fn footing(topology: &Topology, source: Source, subject: &[u8]) -> Footing {
    let epoch = topology.epoch;
    match &topology.slots {
        None => Footing { epoch, recoveries: topology.recoveries, owner: None },
        Some(slots) => {
            let has_key = source != Source::Keyspace;
            let owner = has_key.then(|| slots.owner_id(slot(subject))).flatten();
            Footing { epoch, recoveries: 0, owner }
        }
    }
}

/// No answer may take more than a share of what all replies may (INV-4).
fn bounded(paging: Paging, worker: &Worker) -> Paging {
    let share = gather::held_max(worker);
    let addressable = u32::MAX as usize / 2;
    let max_bytes = paging.max_bytes.min(share).min(addressable);
    Paging { page: paging.page.max(1), max_bytes, ..paging }
}

/// Takes the page that has come, and asks for the next one when it is time.
pub fn go_on(
    worker: &mut Worker,
    topology: &Topology,
    session: &mut Session,
    identity: Identity,
    (spec, command): (&Spec, Command<'_>),
) -> Dispatched {
    let subject = command.argument(1).unwrap_or_default();
    loop {
        let Some(errand) = &mut session.errand else {
            return Dispatched::Wait;
        };
        let Some(pages) = &mut errand.pages else {
            return Dispatched::Wait;
        };
        if footing(topology, pages.source(), subject) != pages.footing {
            return finish(worker, session, (spec, command), Some(Failure::Moved));
        }
        if let Some(answer) = errand.answers.pop() {
            worker.stats.pages.increment();
            pages.not_before = worker.now.saturating_add(to_micros(pages.paging().every));
            match page(pages, answer) {
                Ok(false) => {}
                end => return finish(worker, session, (spec, command), end.err()),
            }
        }
        let waited = worker.now.saturating_sub(pages.since);
        if pages.permit.is_none() {
            pages.permit = worker.assemblies.take();
        }
        let is_early = worker.now < pages.not_before;
        if is_early || pages.permit.is_none() {
            let at = if is_early { pages.not_before } else { worker.now + PERMIT_EVERY };
            worker.detouring.alarm(session.id, at);
            return Dispatched::Wait;
        }
        errand.questions.push_back(pages.question());
        if waited >= GONE_AFTER && session.has_left() {
            // No page is asked for nobody (INV-3), and nothing that was sent behind it is executed.
            session.errand = None;
            session.close(Closing::AfterReplies(ClosedReason::ClientClosed));
            return Dispatched::Wait;
        }
        let done = errand::go_on(worker, topology, session, identity);
        if session.errand.as_ref().is_none_or(|errand| !errand.is_done()) {
            return done;
        }
    }
}

/// What an answer to the question for a page means. Returns whether the page was the last one.
fn page(pages: &mut Assembly, answer: Answer) -> Result<bool, Failure> {
    match answer {
        Answer::Reply(bytes) => pages.take(&bytes),
        Answer::TooLarge(_) => Err(Failure::Bytes(pages.paging().max_bytes)),
        Answer::Failed(_, Some(refusal)) => Err(Failure::Away(refusal)),
        Answer::Failed(line, None) => Err(Failure::Told(line)),
    }
}

/// The command has its answer, or will get none.
fn finish(
    worker: &mut Worker,
    session: &mut Session,
    (spec, command): (&Spec, Command<'_>),
    failure: Option<Failure>,
) -> Dispatched {
    let Some(pages) = session.errand.take().and_then(|errand| errand.pages) else {
        return Dispatched::Wait;
    };
    let is_rules = |it: &Failure| !matches!(it, Failure::Told(_) | Failure::Away(_));
    let is_refused = failure.as_ref().is_some_and(is_rules);
    let deed = if is_refused { Deed::Refused } else { Deed::Passed };
    // Others have looked for theirs since this command was judged.
    let _ = keys::keys(spec, &command, &mut worker.keys);
    offender::met(worker, session, spec, command, (&pages.rule, deed), None);
    let (reply, outcome) = match failure {
        None => (pages.finish(session.protocol), Outcome::Ok),
        Some(Failure::Told(line)) => (line, Outcome::ErrorReply),
        // The pages before it have only read: whoever asks again begins anew.
        Some(Failure::Away(refusal)) => {
            return not_executed_since(worker, session, spec, &refusal, pages.since);
        }
        Some(failure) => {
            return refuse(worker, session, spec, &too_large(&pages, spec, &failure));
        }
    };
    let slot = session.replies.next();
    if let Some(paced) = &session.paced {
        paced.charge(slot, reply.len() as u64, worker.now);
    }
    worker.stats.command(spec.id.stats_index(), outcome).increment();
    worker.answer(session, |line| *line = reply);
    Dispatched::Done
}

/// What a client is told whose answer exceeds a cap.
fn too_large(pages: &Assembly, spec: &Spec, failure: &Failure) -> Refusal {
    let (size, setting) = match failure {
        Failure::Bytes(most) => (format!("its answer takes more than {most} bytes"), "max_bytes"),
        Failure::Elements(most) => {
            (format!("its answer has more than {most} elements"), "max_elements")
        }
        // What has words of its own has been told.
        Failure::Moved => {
            ("another server answers now than the one that it was read from".into(), "")
        }
        Failure::Odd | Failure::Told(_) | Failure::Away(_) => {
            ("a page of its answer could not be read".into(), "")
        }
    };
    let own = Denied::by(&pages.rule, pages.version, &with_key(&spec.name, pages.subject()));
    let cursor = pages.source().cursor_command();
    let message = match (&*own.message, setting) {
        (_, "") => "ask again".to_owned(),
        ("", _) => format!("read it page by page with {cursor}, or raise {setting}"),
        _ => own.message.clone(),
    };
    Refusal::Denied(Box::new(Denied { size: Some(size), message, ..own }))
}

/// How often it is looked whether another answer may be begun.
const PERMIT_EVERY: Micros = 5 * MILLISECOND;

#[cfg(test)]
mod tests;

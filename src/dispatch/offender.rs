//! Noting what a rule has met: how often, and who it was.
//!
//! Owns what of a command and its client may be kept: names, the kind of the first key, a size. Never
//! a key or a value (INV-11). What surprises: a rule that lets a command go on is only counted, unless
//! its action is to observe, and then one client in 100 ms is looked at: looking at everybody who is
//! well would cost each of them a lock.

use super::judge;
use crate::clock;
use crate::command::Command;
use crate::command::spec::Spec;
use crate::events;
use crate::policy::offence::{Deed, Offence, Unit, folded, shortened};
use crate::policy::rule::{Action, Rule};
use crate::session::state::Session;
use crate::worker::Worker;

/// A rule has matched a command whose keys are in `worker.keys`, and this became of it. `size`: how
/// much it would have read, if that is known. One that waits comes here again and is counted once.
pub fn met(
    worker: &Worker,
    session: &Session,
    spec: &Spec,
    command: Command<'_>,
    (rule, deed): (&Rule, Deed),
    size: Option<(u64, Unit)>,
) {
    if !session.is_counted() {
        let offence = sighted(worker, session, spec, command, (rule, deed), size);
        note(worker, (rule, deed), offence);
    }
}

/// Who it was and what, if that is to be known.
pub fn sighted(
    worker: &Worker,
    session: &Session,
    spec: &Spec,
    command: Command<'_>,
    (rule, deed): (&Rule, Deed),
    size: Option<(u64, Unit)>,
) -> Option<Offence> {
    let is_watched = || rule.action == Action::Observe && rule.tally.is_due(worker.now);
    if deed == Deed::Passed && !is_watched() {
        return None;
    }
    let (size, unit) = size.unwrap_or_else(|| match worker.keys.len() {
        0 | 1 => (command.frame().len() as u64, Unit::Bytes),
        several => (several as u64, Unit::Keys),
    });
    let name = judge::as_caller(session, |caller| shortened(caller.name));
    Some(Offence {
        at: clock::unix_seconds(),
        client: session.client.id,
        address: session.client.address.clone(),
        name,
        command: spec.name.to_string(),
        pattern: pattern(worker, spec, command),
        size,
        unit,
    })
}

/// Counts what a rule has met, and keeps who it was.
pub fn note(worker: &Worker, (rule, deed): (&Rule, Deed), offence: Option<Offence>) {
    rule.tally.count(deed);
    let Some(offence) = offence else {
        return;
    };
    if deed == Deed::Passed {
        events::rule_met(&rule.name, &offence);
    } else {
        worker.shared.ledger.report.count(&rule.name, deed, &offence);
    }
    rule.tally.sight(offence);
}

/// What kind of key the command names first; of KEYS, what it looks for.
fn pattern(worker: &Worker, spec: &Spec, command: Command<'_>) -> String {
    let first = match worker.keys.first() {
        Some(key) => command.argument(key.index as usize),
        None => command.argument(1).filter(|_| &*spec.name == "keys"),
    };
    first.map_or_else(|| "-".to_owned(), folded)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::clock::{MILLISECOND, SECOND};
    use crate::command::table::Table;
    use crate::command::tests::Request;
    use crate::upstream::rig::Rig;

    #[test]
    fn who_passes_is_counted_always_and_looked_at_now_and_then() {
        let rule = Rule::sample("watched", Action::Observe);
        let (table, mut rig) = (Table::builtin(), Rig::new());
        let client = rig.client();
        let mut meets = |line: &str, now, deed| {
            rig.worker.now = now;
            let (request, session) =
                (Request::words(line), rig.worker.sessions.get(client).unwrap());
            let spec = table.resolve(&request.command()).unwrap();
            met(&rig.worker, session, spec, request.command(), (&rule, deed), None);
            rule.tally.offenders().last.map(|offence| offence.command).unwrap_or_default()
        };
        let start = 9 * SECOND;
        assert_eq!(meets("RENAME a b", start, Deed::Passed), "rename");
        for _ in 0..9 {
            assert_eq!(meets("COPY a b", start + 99 * MILLISECOND, Deed::Passed), "rename");
        }
        assert_eq!(meets("GET a", start + 99 * MILLISECOND, Deed::Spared), "get", "each of these");
        assert_eq!(meets("COPY a b", start + 100 * MILLISECOND, Deed::Passed), "copy");
        assert_eq!(rule.tally.hits(), 12, "counts are exact");
    }
}

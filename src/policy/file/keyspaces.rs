//! One keyspace, from what is written to what is looked up.
//!
//! Owns the names of a keyspace's keys and their judging. Never reads a file. What surprises: a
//! keyspace that says nothing is an error, and so is a `max_lag` that nothing is measured by. Nobody
//! writes either on purpose, and both would look like protection.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::Read;
use super::action::word_of;
use super::compile::{Texts, name_of, patterns};
use crate::config::checker::Checker;
use crate::config::quantity::{DAY, HOUR, MILLISECOND, MINUTE, SECOND, Time, ZERO};
use crate::config::table::Table;
use crate::config::{Confirm, KeyPatterns, ReplicaReads};
use crate::policy::keyspace::Keyspace;

/// `[[keyspace]]`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenKeyspace {
    pub(super) name: Option<Spanned<String>>,
    keys: Option<Texts<'static>>,
    read_from: Option<Spanned<String>>,
    max_lag: Option<Spanned<Time>>,
    when_primary_away: Option<Spanned<String>>,
    wait: Option<Spanned<Time>>,
    client_timeout: Option<Spanned<Time>>,
    mode: Option<Spanned<String>>,
    min_replicas: Option<Spanned<u64>>,
    confirm: Option<Spanned<Table<WrittenConfirm>>>,
}

/// `confirm = { replicas = 1, within = "100ms" }`.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenConfirm {
    replicas: Option<Spanned<u64>>,
    within: Option<Spanned<Time>>,
}

/// A keyspace. Where something is wrong there is a complaint, and it is of no use.
pub(super) fn keyspace(checker: &mut Checker, read: &Read<WrittenKeyspace>) -> Keyspace {
    let written = &read.written;
    let keys = patterns(checker, written.keys.as_ref());
    if keys.is_none() {
        let hint = "write keys = [\"cache:*\"]; keys = [\"*\"] are all";
        checker.miss(&read.place, "a keyspace without keys", hint);
    }
    let client_timeout = written.client_timeout.as_ref();
    let keyspace = Keyspace {
        name: name_of(checker, "keyspace", (written.name.as_ref(), &read.place)),
        keys: keys.unwrap_or_default(),
        read_from: word_of(
            checker,
            "source of reads",
            written.read_from.as_ref(),
            &ReplicaReads::WORDS,
        ),
        max_lag: written
            .max_lag
            .as_ref()
            .map_or(MAX_LAG, |lag| checker.time("max_lag", lag, SECOND..=HOUR)),
        reads_while_away: away(checker, written),
        wait: written.wait.as_ref().map(|wait| checker.time("wait", wait, ZERO..=MINUTE)),
        client_timeout: client_timeout
            .map(|it| checker.time("client_timeout", it, MILLISECOND..=DAY)),
        is_readonly: is_readonly(checker, written),
        min_replicas: written
            .min_replicas
            .as_ref()
            .map(|count| checker.bounded("min_replicas", count, 1..=REPLICAS_MAX)),
        confirm: written.confirm.as_ref().map(|it| confirm(checker, it)),
        met: Arc::default(),
    };
    in_harmony(checker, written, &keyspace);
    if says_nothing(written) {
        let hint = "write read_from, when_primary_away, wait, client_timeout, mode, min_replicas or \
                    confirm";
        checker.miss(&read.place, "a keyspace that changes nothing", hint);
    }
    keyspace
}

/// Whether reads go to a replica while the primary cannot serve them. Not unless somebody says so: an
/// application may prefer an error to what is a minute old.
fn away(checker: &mut Checker, written: &WrittenKeyspace) -> bool {
    let words = [("fail", false), ("replica", true)];
    let written = written.when_primary_away.as_ref();
    word_of(checker, "answer to a primary that is away", written, &words).unwrap_or_default()
}

fn is_readonly(checker: &mut Checker, written: &WrittenKeyspace) -> bool {
    let words = [("readwrite", false), ("readonly", true)];
    word_of(checker, "mode", written.mode.as_ref(), &words).unwrap_or_default()
}

/// WAIT without a limit would wait for ever for a replica that is gone.
fn confirm(checker: &mut Checker, written: &Spanned<Table<WrittenConfirm>>) -> Confirm {
    let WrittenConfirm { replicas, within } = &written.get_ref().0;
    let replicas = replicas.as_ref();
    let within = within.as_ref();
    Confirm {
        replicas: replicas.map_or(1, |it| checker.bounded("replicas", it, 1..=REPLICAS_MAX)),
        within: within
            .map_or(CONFIRM_WITHIN, |it| checker.time("within", it, MILLISECOND..=MINUTE)),
        keys: KeyPatterns::default(),
    }
}

/// Complains about settings that contradict each other, or mean nothing beside the others. Whoever
/// writes `max_lag` alone believes that replicas are read, and finds out when the primary is dead.
fn in_harmony(checker: &mut Checker, written: &WrittenKeyspace, keyspace: &Keyspace) {
    if let Some(place) = &written.max_lag
        && !keyspace.may_leave_primary()
        && keyspace.min_replicas.is_none()
    {
        let what = "'max_lag' means nothing here: no replica is asked for anything";
        let hint = "it belongs to read_from, when_primary_away = \"replica\" or min_replicas";
        checker.complain(place, what, hint);
    }
    if let (Some(place), Some(wait), Some(timeout)) =
        (&written.wait, keyspace.wait, keyspace.client_timeout)
        && wait > timeout.mul_f64(0.8)
    {
        let what = "'wait' is more than 0.8 of 'client_timeout'";
        checker.complain(place, what, "clients would give up before they are answered");
    }
    if keyspace.is_readonly {
        let guards = [
            ("min_replicas", written.min_replicas.as_ref().map(Spanned::span)),
            ("confirm", written.confirm.as_ref().map(Spanned::span)),
        ];
        for (name, span) in guards {
            if let Some(span) = span {
                let what = format!("'{name}' means nothing with mode = \"readonly\"");
                let place = crate::config::checker::Place::File(span);
                checker.complain(place, what, "no write gets that far");
            }
        }
    }
}

/// Whether nothing is written but which keys it is about. Taken apart whole, so that a key which is
/// added cannot be forgotten here.
fn says_nothing(written: &WrittenKeyspace) -> bool {
    let WrittenKeyspace {
        name: _,
        keys: _,
        read_from,
        max_lag,
        when_primary_away,
        wait,
        client_timeout,
        mode,
        min_replicas,
        confirm,
    } = written;
    let words = [read_from, when_primary_away, mode].into_iter().all(Option::is_none);
    let times = [max_lag, wait, client_timeout].into_iter().all(Option::is_none);
    words && times && min_replicas.is_none() && confirm.is_none()
}

/// How far a replica may be behind where nothing is written: Redis's own default for replicas that
/// count.
const MAX_LAG: Duration = Duration::from_secs(10);
/// How long a confirmation may take where nothing is written.
const CONFIRM_WITHIN: Duration = Duration::from_millis(100);
/// More replicas than anybody has.
const REPLICAS_MAX: u64 = 100;

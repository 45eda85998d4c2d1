//! The pages of the policy: what is in force, what its rules have met, and what would happen to a
//! command.
//!
//! Owns the shape of these pages for people and for machines. It reads what is published and changes
//! nothing; `orders` passes on what is to be changed. Names of clients and kinds of keys appear, keys
//! and values never (INV-11).
//!
//! What surprises: `/policy/explain` judges for a client that nobody is, unless the query says who:
//! `name`, `user`, `listener`, `library` and `address` are for rules that ask. The listener, or `upstream`, also
//! says which upstream the command would go to, where there are several.

use std::collections::BTreeMap;
use std::fmt::Write;

use hyper::StatusCode;
use serde::Serialize;

use super::{AdminState, Behind};
use crate::clock;
use crate::explain::{Surroundings, Upstream, explain};
use crate::percent;
use crate::policy::Caller;
use crate::policy::emergency;
use crate::policy::keyspace::{Fate, Keyspace};
use crate::policy::ledger::Account;
use crate::policy::offence::{Offence, Row};
use crate::policy::rule::{Origin, Rule};
use crate::policy::tally::Offenders;

/// The policy in force.
#[derive(Serialize)]
pub(super) struct View {
    version: u64,
    profile: &'static str,
    #[serde(flatten)]
    account: Account,
    rules: Vec<RuleView>,
    keyspaces: Vec<KeyspaceView>,
}

/// One keyspace.
#[derive(Serialize)]
struct KeyspaceView {
    name: String,
    keys: Vec<String>,
    does: String,
    /// What became of its commands, by the word of that.
    met: BTreeMap<&'static str, u64>,
}

/// One rule.
#[derive(Serialize)]
struct RuleView {
    name: String,
    origin: &'static str,
    action: &'static str,
    does: String,
    standing: String,
    canary: u8,
    expires_in_seconds: Option<u64>,
    #[serde(skip)]
    left: Option<String>,
    message: Option<String>,
    hits: u64,
    refused: u64,
    would_refuse: u64,
    #[serde(flatten)]
    offenders: Offenders,
}

/// What was refused, and what would have been.
#[derive(Serialize)]
pub(super) struct ReportView {
    version: u64,
    profile: &'static str,
    rows: Vec<Row>,
}

/// What a query says of a command and of who asks.
#[derive(Default)]
struct Query {
    arguments: Vec<Vec<u8>>,
    listener: String,
    user: Vec<u8>,
    name: Vec<u8>,
    library: Vec<u8>,
    address: String,
}

/// What would happen to the command of a query: `?a=HGETALL&a=user:1`.
pub(super) fn explained(
    state: &AdminState,
    chosen: &[Behind],
    query: &str,
) -> (StatusCode, String) {
    let query = Query::read(query);
    if query.arguments.is_empty() {
        return (StatusCode::BAD_REQUEST, ASK.to_owned());
    }
    let Some(behind) = query.behind(&state.listeners, chosen) else {
        return (StatusCode::NOT_FOUND, NO_SUCH_LISTENER.to_owned());
    };
    let topology = behind.topology.load();
    let caller = Caller {
        id: 0,
        listener: &query.listener,
        user: &query.user,
        address: query.address.parse().ok(),
        name: &query.name,
        library: &query.library,
    };
    let around = Surroundings {
        table: &topology.table,
        policy: &state.policy.load(),
        caller: &caller,
        upstream: Upstream::behind(&topology),
        governor: Some(&behind.governor),
    };
    let arguments: Vec<&[u8]> = query.arguments.iter().map(Vec::as_slice).collect();
    let mut out = Vec::new();
    // Writing to memory cannot fail.
    let explained = behind.recorder.scoped(|| explain(&around, &arguments, &mut out));
    let is_served = explained.unwrap_or_default();
    let status = if is_served { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    (status, String::from_utf8_lossy(&out).into_owned())
}

// === impl Query ===

impl Query {
    fn read(text: &str) -> Self {
        let mut query = Self::default();
        for field in text.split('&') {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let value = percent::decoded(value);
            let as_text = || String::from_utf8_lossy(&value).into_owned();
            match name {
                "a" => query.arguments.push(value),
                "listener" => query.listener = as_text(),
                "address" => query.address = as_text(),
                "user" => query.user = value,
                "name" => query.name = value,
                "library" => query.library = value,
                _ => {}
            }
        }
        query
    }

    /// The upstream of the listener; without one the first that is meant. Of several that the query
    /// could mean none, if its listener leads to none of them: the answer would be of nobody's command.
    fn behind<'a>(
        &self,
        listeners: &[(String, String)],
        chosen: &'a [Behind],
    ) -> Option<&'a Behind> {
        let of_listener = listeners.iter().find(|(address, _)| *address == self.listener);
        match of_listener {
            Some((_, upstream)) => chosen.iter().find(|behind| behind.name == *upstream),
            // A listener that is only asked about: rules may speak of one that will be there.
            None if chosen.len() == 1 || self.listener.is_empty() => chosen.first(),
            None => None,
        }
    }
}

// === impl View ===

impl View {
    /// What is in force now.
    pub(super) fn of(state: &AdminState) -> Self {
        let policy = state.policy.load();
        let rules = policy.rules().iter().map(|rule| RuleView::of(rule, policy.profile)).collect();
        let account = (*state.ledger.account()).clone();
        let all = policy.keyspaces().map(|it| it.all()).unwrap_or_default();
        let keyspaces = all.iter().map(|it| KeyspaceView::of(it)).collect();
        let (version, profile) = (policy.version, policy.profile.name());
        Self { version, profile, account, rules, keyspaces }
    }

    /// For people.
    pub(super) fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut page);
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let Self { version, profile, account, rules, keyspaces } = self;
        let Account { source, sha256, since, cause, changes, is_rolled_back, complaint } = account;
        let age = clock::unix_seconds().saturating_sub(*since);
        writeln!(page, "policy {version}, profile {profile}, {} rules", rules.len())?;
        writeln!(page, "in force for {age} s, since {cause}: {}", or(changes, "the first"))?;
        match source {
            Some(source) => {
                let digest = sha256.as_deref().unwrap_or("unknown");
                writeln!(page, "file {source}, sha256 {digest}")?;
            }
            None => writeln!(page, "no file: only the rules of the profile")?,
        }
        if *is_rolled_back {
            let until = "until the file changes or POST /policy/reload, SIGHUP ask for it";
            writeln!(
                page,
                "rolled back: the file says something else, which does not count {until}"
            )?;
        }
        if let Some(complaint) = complaint {
            let age = clock::unix_seconds().saturating_sub(complaint.at);
            writeln!(page, "the newest file was refused {age} s ago, and this policy stays:")?;
            complaint.lines.iter().try_for_each(|line| writeln!(page, "  {line}"))?;
        }
        rules.iter().try_for_each(|rule| rule.write(page))?;
        keyspaces.iter().try_for_each(|keyspace| keyspace.write(page))
    }
}

// === impl KeyspaceView ===

impl KeyspaceView {
    fn of(keyspace: &Keyspace) -> Self {
        let met = Fate::ALL.map(|fate| (fate.as_str(), keyspace.met.of(fate)));
        Self {
            name: keyspace.name.to_string(),
            keys: keyspace.keys.iter().map(str::to_owned).collect(),
            does: keyspace.words(),
            met: met.into_iter().filter(|(_, count)| *count > 0).collect(),
        }
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let Self { name, keys, does, met } = self;
        writeln!(page, "\nkeyspace {name} ({}): {does}", keys.join(" "))?;
        met.iter().try_for_each(|(fate, count)| writeln!(page, "  {fate} {count}"))
    }
}

// === impl RuleView ===

impl RuleView {
    fn of(rule: &Rule, profile: crate::config::Profile) -> Self {
        let now = clock::micros();
        let seconds = |end: u64| end.saturating_sub(now).div_ceil(clock::SECOND);
        Self {
            name: rule.name.to_string(),
            origin: rule.origin.as_str(),
            action: rule.action.as_str(),
            does: rule.action.words(),
            standing: rule.standing(profile),
            canary: rule.canary,
            expires_in_seconds: rule.expires.map(seconds),
            left: rule.expires.map(|_| emergency::time_left(rule, now)),
            message: rule.message.as_deref().map(str::to_owned),
            hits: rule.tally.hits(),
            refused: rule.tally.refused(),
            would_refuse: rule.tally.spared(),
            offenders: rule.tally.offenders(),
        }
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let Self { name, origin, action, does, standing, hits, refused, would_refuse, .. } = self;
        writeln!(page, "\n{name} ({origin}): {action}, what it matches {does}; {standing}")?;
        if let Some(left) = &self.left {
            let cure = match *origin {
                it if it == Origin::Emergency.as_str() => {
                    format!("; DELETE /policy/emergency/{name} ends it")
                }
                _ => String::new(),
            };
            writeln!(page, "  ends in {left}{cure}")?;
        }
        if let Some(message) = &self.message {
            writeln!(page, "  message: {message}")?;
        }
        if *hits > 0 {
            writeln!(page, "  hits {hits}, refused {refused}, would have refused {would_refuse}")?;
        }
        let offenders = [("last", &self.offenders.last), ("biggest", &self.offenders.biggest)];
        for (word, offence) in offenders {
            offence.as_ref().map_or(Ok(()), |it| writeln!(page, "  {word}: {}", offender(it)))?;
        }
        Ok(())
    }
}

fn offender(offence: &Offence) -> String {
    let Offence { at, client, address, name, command, pattern, size, unit } = offence;
    let age = clock::unix_seconds().saturating_sub(*at);
    let (name, unit) = (or(name, "-"), unit.as_str());
    format!(
        "{command} on {pattern}, {size} {unit}, by client {client} {address} name {name}, {age} s ago"
    )
}

// === impl ReportView ===

impl ReportView {
    /// What was met until now.
    pub(super) fn of(state: &AdminState) -> Self {
        let policy = state.policy.load();
        let rows = state.ledger.report.rows();
        Self { version: policy.version, profile: policy.profile.name(), rows }
    }

    /// For people.
    pub(super) fn page(&self) -> String {
        let mut page = format!("policy {}, profile {}\n", self.version, self.profile);
        if self.rows.is_empty() {
            page.push_str("no rule has refused a command, or would have\n");
        }
        let now = clock::unix_seconds();
        for row in &self.rows {
            let Row { rule, command, pattern, name, refused, would_refuse, .. } = row;
            let Row { biggest, unit, address, last, .. } = row;
            let (age, unit, name) = (now.saturating_sub(*last), unit.as_str(), or(name, "-"));
            // Writing to a string cannot fail.
            let _ = writeln!(
                page,
                "{rule}: {command} on {pattern} by {name}: would have refused {would_refuse}, refused \
                 {refused}, at most {biggest} {unit} by {address}, last {age} s ago"
            );
        }
        page
    }
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

const NO_SUCH_LISTENER: &str = "no such listener leads to the upstream that is asked about; name it as the configuration \
     does, or leave it out\n";
const ASK: &str = "ask with the command's words: /policy/explain?a=HGETALL&a=user:1\n";

//! The keeper of the policy: which one is in force, and when another one takes its place.
//!
//! Owns the looks at the policy file, the orders of the admin port that concern the policy, rules for
//! an emergency, and the publishing. Never applies half of a file: it is read, checked and laid out as
//! a whole on a thread of its own, and on any complaint the old policy stays (INV-6). Runs on the
//! control plane.
//!
//! What surprises: what is published is never the last owner's to drop. Thousands of rules take
//! milliseconds to free, so a policy that was replaced is kept until no worker has it any more. And an
//! order counts until the file changes or is asked for: the later word wins.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use super::watcher::Watcher;
use crate::admin::orders::{Order, Verdict, Wish};
use crate::clock::{self, Micros};
use crate::config::{Complaint, Profile, Settings, content_hash};
use crate::events;
use crate::policy::diff::{Diff, carried_over, keyspaces_carried_over};
use crate::policy::keyspace::Keyspace;
use crate::policy::ledger;
use crate::policy::rule::Rule;
use crate::policy::{self, Policy, emergency};
use crate::stats::control;
use crate::stats::labels::Reload;
use crate::worker::Shared;

/// What the configuration says of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How much of it is enforced.
    pub profile: Profile,
    /// The file of rules.
    pub path: Option<PathBuf>,
}

/// What is in force, and what is needed to replace it.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    wanted: watch::Receiver<Wanted>,
    hint: Arc<Notify>,
    watcher: Option<Watcher>,
    /// Digest of the file that was looked at last.
    seen: Option<[u8; 32]>,
    standing: Standing,
    /// What was in force before, for a rollback.
    before: Option<Standing>,
    /// Rules of operators for the moment, in the order of their orders.
    emergencies: Vec<Arc<Rule>>,
    /// Policies that a worker may still have.
    retired: Vec<Arc<Policy>>,
}

/// The lasting part of a policy: what a file and a profile say.
#[derive(Clone, Debug)]
struct Standing {
    profile: Profile,
    rules: Arc<[Arc<Rule>]>,
    keyspaces: Arc<[Arc<Keyspace>]>,
    /// What is allowed in the file but deserves a warning.
    notes: Arc<[Complaint]>,
    source: Option<String>,
    hash: Option<[u8; 32]>,
}

/// What a look at the file has shown.
enum Look {
    /// The same bytes as before.
    Untouched,
    /// It cannot be used.
    Refused(Option<[u8; 32]>, Vec<Complaint>),
    /// It says what is in force.
    Same(Option<[u8; 32]>),
    /// It says something else.
    Other(Box<(Standing, Diff, Policy)>),
}

/// One look at the file; runs where it delays nobody.
struct Errand {
    wanted: Wanted,
    /// Bytes with this digest need not be read again.
    seen: Option<[u8; 32]>,
    is_asked: bool,
    standing: Standing,
    emergencies: Vec<Arc<Rule>>,
    version: u64,
}

impl From<&Settings> for Wanted {
    fn from(settings: &Settings) -> Self {
        Self { profile: settings.profile, path: settings.policy.clone() }
    }
}

// === impl Keeper ===

impl Keeper {
    /// Puts the first policy in force.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn start(
        shared: Arc<Shared>,
        wanted: watch::Receiver<Wanted>,
    ) -> Result<Self, Vec<Complaint>> {
        let Wanted { profile, path } = wanted.borrow().clone();
        let hash = digest(path.as_deref());
        let read = policy::read(path.as_deref(), clock::micros())?;
        let standing = Standing {
            profile,
            rules: read.rules.into(),
            keyspaces: read.keyspaces.into(),
            notes: read.notes.into(),
            source: shown(path.as_deref()),
            hash,
        };
        shared.policy.store(Arc::new(lay_out(1, &standing, &[])));
        let hint = Arc::new(Notify::new());
        let watcher = path.map(|path| Watcher::new(&path, Arc::clone(&hint)));
        let (before, emergencies, retired) = (None, Vec::new(), Vec::new());
        let keeper = Self {
            shared,
            wanted,
            hint,
            watcher,
            seen: hash,
            standing,
            before,
            emergencies,
            retired,
        };
        keeper.give_account("the start", "");
        Ok(keeper)
    }

    /// Looks whenever there is reason to, and obeys. Ends with the process.
    ///
    /// # Errors
    /// If SIGHUP cannot be heard.
    pub async fn keep(mut self, mut desk: mpsc::Receiver<Order>) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut poll = tokio::time::interval(POLL);
        let hint = Arc::clone(&self.hint);
        let mut wanted = self.wanted.clone();
        wanted.mark_unchanged();
        loop {
            let next_end = self.emergencies.iter().filter_map(|rule| rule.expires).min();
            tokio::select! {
                _ = hangup.recv() => drop(self.look(true, "SIGHUP").await),
                _ = poll.tick() => self.poll().await,
                () = hint.notified() => self.follow_hint().await,
                Ok(()) = wanted.changed() => self.follow_settings().await,
                Some(order) = desk.recv() => self.obey(order).await,
                () = until(next_end) => self.end_expired().await,
            }
        }
    }

    /// The look that needs no reason.
    async fn poll(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            watcher.refresh();
        }
        if self.has_changed() {
            self.settle().await;
        }
        let _ = self.look(false, "a look at the file").await;
        self.sweep();
    }

    /// Something has happened in the folder.
    async fn follow_hint(&mut self) {
        if self.has_changed() {
            self.settle().await;
            let _ = self.look(false, "a changed file").await;
        }
    }

    /// Waits until whoever writes has finished: a file that is being written in place is empty for a
    /// moment, and nothing is a policy too.
    async fn settle(&mut self) {
        for _ in 0..SETTLES_MAX {
            tokio::time::sleep(SETTLE).await;
            if !self.has_changed() {
                return;
            }
        }
    }

    /// Whether the file looks different from the last time that this was asked.
    fn has_changed(&mut self) -> bool {
        self.watcher.as_mut().is_some_and(Watcher::has_changed)
    }

    /// The configuration names another profile or file.
    async fn follow_settings(&mut self) {
        let path = self.wanted.borrow().path.clone();
        let hint = Arc::clone(&self.hint);
        self.watcher = path.map(|path| Watcher::new(&path, hint));
        let _ = self.look(true, "a changed configuration").await;
    }

    /// Reads the file, if it has changed or `is_asked`, and puts it in force if it says something
    /// else. What became of it, in words.
    async fn look(&mut self, is_asked: bool, cause: &'static str) -> Verdict {
        let mut tries = 0;
        let look = loop {
            self.has_changed();
            let errand = self.errand(is_asked);
            let look = tokio::task::spawn_blocking(move || errand.run()).await;
            tries += 1;
            // If it was written meanwhile, it may have been read in the middle of that.
            if tries > SETTLES_MAX || !self.has_changed() {
                break look;
            }
            tokio::time::sleep(SETTLE).await;
        };
        let Ok(look) = look else {
            return Verdict::Wrong("the file could not be judged".to_owned());
        };
        match look {
            Look::Untouched => Verdict::Done(self.stays()),
            Look::Refused(hash, complaints) => self.refuse(hash, &complaints),
            Look::Same(hash) => {
                (self.seen, self.standing.hash) = (hash, hash);
                control::policy_reloaded(Reload::Applied);
                self.shared.ledger.amend(|account| {
                    (account.sha256, account.complaint) = (spelled(hash), None);
                    account.is_rolled_back = false;
                });
                Verdict::Done(self.stays())
            }
            Look::Other(other) => {
                let (standing, diff, policy) = *other;
                self.seen = standing.hash;
                control::policy_reloaded(Reload::Applied);
                self.replace(standing, policy, cause, &diff.words());
                self.shared.ledger.amend(|account| account.complaint = None);
                Verdict::Done(self.in_force(&diff.words()))
            }
        }
    }

    fn errand(&self, is_asked: bool) -> Errand {
        Errand {
            wanted: self.wanted.borrow().clone(),
            seen: self.seen,
            is_asked,
            standing: self.standing.clone(),
            emergencies: self.emergencies.clone(),
            version: self.next_version(),
        }
    }

    /// The old policy stays, and what is wrong with the file is told.
    fn refuse(&mut self, hash: Option<[u8; 32]>, complaints: &[Complaint]) -> Verdict {
        self.seen = hash;
        control::policy_reloaded(Reload::Refused);
        events::policy_refused(complaints, self.version());
        let complaint = ledger::Complaint::of(clock::unix_seconds(), complaints);
        let words = complaint.lines.join("\n");
        self.shared.ledger.amend(|account| account.complaint = Some(complaint));
        Verdict::Wrong(words)
    }

    /// Carries out an order.
    async fn obey(&mut self, order: Order) {
        let verdict = match &order.wish {
            Wish::ReloadPolicy => self.look(true, "an order").await,
            Wish::RollBackPolicy => self.roll_back().await,
            Wish::BeginEmergency => self.begin_emergency(&order.body).await,
            Wish::EndEmergency(name) => self.end_emergency(name).await,
            Wish::Move => Verdict::Wrong("no such order is taken here".to_owned()),
        };
        // Whoever gave it may be gone; it is carried out all the same.
        let _ = order.answer.send(verdict);
    }

    /// Puts what was in force before in force again.
    async fn roll_back(&mut self) -> Verdict {
        let Some(before) = self.before.clone() else {
            return Verdict::Wrong("this process has had no other policy".to_owned());
        };
        let (_, mut diff) = carried_over(&self.standing.rules, &before.rules);
        let _ = keyspaces_carried_over(&self.standing.keyspaces, &before.keyspaces, &mut diff);
        let Some(policy) = self.laid_out(&before).await else {
            return Verdict::Wrong("the policy could not be laid out".to_owned());
        };
        self.replace(before, policy, "a rollback", &diff.words());
        self.shared.ledger.amend(|account| account.is_rolled_back = true);
        let note = "it stays until the file changes, or a reload is asked for";
        Verdict::Done(format!("{}{note}\n", self.in_force(&diff.words())))
    }

    /// Puts a rule of an operator in front of all others, for a time.
    async fn begin_emergency(&mut self, body: &str) -> Verdict {
        if self.standing.profile == Profile::Open {
            return Verdict::Wrong(emergency::NOT_WHILE_OPEN.to_owned());
        }
        if self.emergencies.len() >= emergency::RULES_MAX {
            let most = emergency::RULES_MAX;
            return Verdict::Wrong(format!("there are {most} emergency rules; end one first"));
        }
        let names: Vec<&str> = self.all_rules().map(|rule| &*rule.name).collect();
        let rule = match emergency::ordered(body, &names, clock::micros()) {
            Ok(rule) => Arc::new(rule),
            Err(words) => return Verdict::Wrong(words),
        };
        self.emergencies.push(Arc::clone(&rule));
        if !self.republish("an emergency rule", &format!("added {}", rule.name)).await {
            self.emergencies.pop();
            return Verdict::Wrong("the policy could not be laid out".to_owned());
        }
        let (name, version) = (&rule.name, self.version());
        let left = emergency::time_left(&rule, clock::micros());
        Verdict::Done(format!(
            "rule {name} is in force for {left}, in policy {version}; \
             DELETE /policy/emergency/{name} ends it\n"
        ))
    }

    async fn end_emergency(&mut self, name: &str) -> Verdict {
        let Some(place) = self.emergencies.iter().position(|rule| &*rule.name == name) else {
            return Verdict::Wrong(
                "there is no emergency rule of this name; see /policy".to_owned(),
            );
        };
        let rule = self.emergencies.remove(place);
        if !self.republish("the end of an emergency rule", &format!("removed {name}")).await {
            self.emergencies.insert(place, rule);
            return Verdict::Wrong("the policy could not be laid out".to_owned());
        }
        Verdict::Done(format!("rule {name} has ended; policy {} is in force\n", self.version()))
    }

    /// Takes emergency rules away whose time is over. They have not matched since.
    async fn end_expired(&mut self) {
        let now = clock::micros();
        let is_over = |rule: &Arc<Rule>| rule.expires.is_some_and(|end| end <= now);
        let over: Vec<String> = self
            .emergencies
            .iter()
            .filter(|it| is_over(it))
            .map(|it| it.name.to_string())
            .collect();
        if over.is_empty() {
            return;
        }
        self.emergencies.retain(|rule| !is_over(rule));
        let words = format!("removed {}", over.join(", "));
        self.republish("the time of an emergency rule", &words).await;
    }

    /// Publishes the standing rules with the emergency rules as they are now. False: it failed.
    async fn republish(&mut self, cause: &'static str, changes: &str) -> bool {
        let standing = self.standing.clone();
        let Some(policy) = self.laid_out(&standing).await else {
            return false;
        };
        self.publish(policy, cause, changes);
        true
    }

    /// A policy of these standing rules and the emergency rules, made where it delays nobody.
    async fn laid_out(&self, standing: &Standing) -> Option<Policy> {
        let (standing, emergencies) = (standing.clone(), self.emergencies.clone());
        let version = self.next_version();
        let task = move || lay_out(version, &standing, &emergencies);
        tokio::task::spawn_blocking(task).await.ok()
    }

    /// Makes another standing part the one in force.
    fn replace(&mut self, standing: Standing, policy: Policy, cause: &'static str, changes: &str) {
        self.before = Some(std::mem::replace(&mut self.standing, standing));
        self.publish(policy, cause, changes);
        self.shared.ledger.amend(|account| account.is_rolled_back = false);
    }

    fn publish(&mut self, policy: Policy, cause: &'static str, changes: &str) {
        events::policy_changed(&policy, cause, changes);
        self.retired.push(self.shared.policy.swap(Arc::new(policy)));
        self.sweep();
        self.give_account(cause, changes);
    }

    /// Frees replaced policies that no worker has any more, on a thread that nobody waits for.
    fn sweep(&mut self) {
        let is_free = |policy: &mut Arc<Policy>| Arc::strong_count(policy) == 1;
        let free: Vec<Arc<Policy>> = self.retired.extract_if(.., is_free).collect();
        if !free.is_empty() {
            tokio::task::spawn_blocking(move || drop(free));
        }
    }

    /// Tells where the policy comes from that was just put in force. What is wrong with the newest file
    /// stays told: whoever goes back to an older policy, or adds a rule, has not mended it.
    fn give_account(&self, cause: &'static str, changes: &str) {
        let Standing { source, hash, .. } = &self.standing;
        self.shared.ledger.amend(|account| {
            (account.source, account.sha256) = (source.clone(), spelled(*hash));
            (account.since, account.cause) = (clock::unix_seconds(), cause);
            account.changes = changes.to_owned();
        });
    }

    fn all_rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.emergencies.iter().chain(self.standing.rules.iter())
    }

    fn version(&self) -> u64 {
        self.shared.policy.load().version
    }

    fn next_version(&self) -> u64 {
        self.version() + 1
    }

    fn stays(&self) -> String {
        format!("no rule differs: policy {} stays in force\n", self.version())
    }

    fn in_force(&self, changes: &str) -> String {
        format!("policy {} is in force: {changes}\n", self.version())
    }
}

// === impl Errand ===

impl Errand {
    fn run(self) -> Look {
        let Self {
            wanted: Wanted { profile, path },
            seen,
            is_asked,
            standing,
            emergencies,
            version,
        } = self;
        // Before the file is read: what is written between the two is found by the next look.
        let hash = digest(path.as_deref());
        if hash == seen && !is_asked {
            return Look::Untouched;
        }
        let read = match policy::read(path.as_deref(), clock::micros()) {
            Ok(read) => read,
            Err(complaints) => return Look::Refused(hash, complaints),
        };
        let (rules, mut diff) = carried_over(&standing.rules, &read.rules);
        let keyspaces =
            keyspaces_carried_over(&standing.keyspaces, &read.keyspaces, &mut diff).into();
        if diff.is_empty() && profile == standing.profile {
            return Look::Same(hash);
        }
        let (source, notes) = (shown(path.as_deref()), read.notes.into());
        let newer = Standing { profile, rules: rules.into(), keyspaces, notes, source, hash };
        let policy = lay_out(version, &newer, &emergencies);
        Look::Other(Box::new((newer, diff, policy)))
    }
}

/// The policy of these rules, emergencies first.
fn lay_out(version: u64, standing: &Standing, emergencies: &[Arc<Rule>]) -> Policy {
    let rules = emergencies.iter().chain(standing.rules.iter()).map(Arc::clone).collect();
    let policy = Policy::new(version, standing.profile, rules);
    let mut policy = policy.with_keyspaces(standing.keyspaces.to_vec());
    policy.notes = standing.notes.to_vec();
    policy
}

/// SHA-256 of a file; `None` without one, or if it cannot be read.
fn digest(path: Option<&Path>) -> Option<[u8; 32]> {
    Some(content_hash(&std::fs::read(path?).ok()?))
}

/// A digest as sha256sum writes it.
fn spelled(hash: Option<[u8; 32]>) -> Option<String> {
    hash.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn shown(path: Option<&Path>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

/// Ends at that moment; without one, never.
async fn until(moment: Option<Micros>) {
    match moment {
        Some(moment) => {
            let left = moment.saturating_sub(clock::micros());
            tokio::time::sleep(Duration::from_micros(left)).await;
        }
        None => std::future::pending().await,
    }
}

/// How often the file is looked at without a hint.
const POLL: Duration = Duration::from_secs(10);
/// How long a file may be in the middle of being written.
const SETTLE: Duration = Duration::from_millis(250);
/// How often that is granted to one that is written all the time.
const SETTLES_MAX: u32 = 8;

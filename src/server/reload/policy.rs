//! The keeper of the policy: which one is in force, and when another one takes its place.
//!
//! Owns when the policy file is looked at, the orders of the admin port that concern the policy, rules
//! for an emergency, and the publishing. Never applies half of a file: it is read, checked and laid out
//! as a whole on a thread of its own, and on any complaint the old policy stays (INV-6). Runs on the
//! control plane.
//!
//! What surprises: what is published is never the last owner's to drop. Thousands of rules take
//! milliseconds to free, so a policy that was replaced is kept until no worker has it any more. An order
//! counts until the file changes or is asked for: the later word wins. And who asks waits for nothing
//! but the look: only a file that nobody spoke of is given time to be written to its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use super::look::{self, Errand, Hash, Look, Standing};
use super::watcher::Watcher;
use crate::admin::orders::{Order, Verdict, Wish};
use crate::clock::{self, MILLISECOND, Micros};
use crate::config::{Complaint, Profile, Settings};
use crate::events;
use crate::policy::diff::{carried_over, keyspaces_carried_over};
use crate::policy::ledger;
use crate::policy::rule::Rule;
use crate::policy::{Policy, emergency};
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
    seen: Hash,
    /// The file has changed, and whoever writes it may not have finished.
    settling: Option<Settling>,
    standing: Standing,
    /// What was in force before, for a rollback.
    before: Option<Standing>,
    /// Rules of operators for the moment, in the order of their orders.
    emergencies: Vec<Arc<Rule>>,
    /// Policies that a worker may still have.
    retired: Vec<Arc<Policy>>,
}

/// A time in which a file is left alone.
#[derive(Clone, Copy, Debug)]
struct Settling {
    /// When the first change was seen.
    since: Micros,
    /// When it ends, if no other is seen until then.
    until: Micros,
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
        let path = wanted.borrow().path.clone();
        let standing = look::first(&wanted.borrow())?;
        shared.policy.store(Arc::new(look::lay_out(1, &standing, &[], &mut || ())));
        let hint = Arc::new(Notify::new());
        let watcher = path.map(|path| Watcher::new(&path, Arc::clone(&hint)));
        let (before, emergencies, retired) = (None, Vec::new(), Vec::new());
        let keeper = Self {
            shared,
            wanted,
            hint,
            watcher,
            seen: standing.hash,
            settling: None,
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
            let settled = self.settling.map(|settling| settling.until);
            tokio::select! {
                _ = hangup.recv() => drop(self.look(true, "SIGHUP").await),
                _ = poll.tick() => self.poll().await,
                () = hint.notified() => self.follow_hint(),
                () = until(settled) => drop(self.look(false, "a changed file").await),
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
        // A file that is settling is looked at when it has settled; ten seconds more or less do not
        // matter to one that nobody has touched.
        self.follow_hint();
        if self.settling.is_none() {
            let _ = self.look(false, "a look at the file").await;
        }
        self.sweep();
    }

    /// Something may have happened in the folder. Whoever writes is given time to finish: a file that is
    /// being written in place is empty for a moment, and nothing is a policy too.
    fn follow_hint(&mut self) {
        // The time is not waited for here: orders, signals and the ends of emergency rules are heard
        // meanwhile, and an order that looks at the file ends it.
        if self.has_changed() {
            let now = clock::micros();
            let since = self.settling.map_or(now, |settling| settling.since);
            let until = now.saturating_add(SETTLE).min(since.saturating_add(SETTLE_MAX));
            self.settling = Some(Settling { since, until });
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
        let began = clock::micros();
        let look = loop {
            // What is seen by this look need not be waited for.
            self.settling = None;
            self.has_changed();
            let errand = self.errand(is_asked);
            let look = look::aside(move |pause| errand.run(pause)).await;
            // If it was written meanwhile, it may have been read in the middle of that.
            if clock::micros().saturating_sub(began) > SETTLE_MAX || !self.has_changed() {
                break look;
            }
            tokio::time::sleep(Duration::from_micros(SETTLE)).await;
        };
        let Some(look) = look else {
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
    fn refuse(&mut self, hash: Hash, complaints: &[Complaint]) -> Verdict {
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
        // Comparing thousands of rules is no work for the thread that answers the admin port.
        let (now, after) = (self.standing.clone(), before.clone());
        let changes = look::aside(move |pause| {
            let (_, mut diff) = carried_over(&now.rules, &after.rules, pause);
            let _ = keyspaces_carried_over(&now.keyspaces, &after.keyspaces, &mut diff);
            diff.words()
        });
        let Some((changes, policy)) = changes.await.zip(self.laid_out(&before).await) else {
            return Verdict::Wrong("the policy could not be laid out".to_owned());
        };
        self.replace(before, policy, "a rollback", &changes);
        self.shared.ledger.amend(|account| account.is_rolled_back = true);
        let note = "it stays until the file changes, or a reload is asked for";
        Verdict::Done(format!("{}{note}\n", self.in_force(&changes)))
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
        look::aside(move |pause| look::lay_out(version, &standing, &emergencies, pause)).await
    }

    /// Makes another standing part the one in force.
    fn replace(&mut self, standing: Standing, policy: Policy, cause: &'static str, changes: &str) {
        // One step back is remembered and no more. The rules of the step before that are freed by nobody
        // else: the policy that they were part of may be gone already.
        let gone = self.before.replace(std::mem::replace(&mut self.standing, standing));
        self.publish(policy, cause, changes);
        if let Some(Standing { rules, .. }) = gone {
            look::discard(rules);
        }
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
            look::take_apart(free);
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

/// A digest as sha256sum writes it.
fn spelled(hash: Hash) -> Option<String> {
    hash.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect())
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
/// For how long a file that has changed must not change again until it is read.
const SETTLE: Micros = 250 * MILLISECOND;
/// How long one is waited for that is written all the time.
const SETTLE_MAX: Micros = 8 * SETTLE;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scratch::Folder;
    use crate::upstream::rig::Rig;

    fn text(number: u32) -> String {
        format!("[[rule]]\nname = \"r{number}\"\ncommands = [\"GET\"]\naction = \"deny\"\n")
    }

    /// A keeper of a file with rule `r1`.
    fn keeper(folder: &Folder) -> (Keeper, watch::Sender<Wanted>) {
        let path = Some(folder.write("policy.toml", text(1)));
        let (wanted, on_wanted) = watch::channel(Wanted { profile: Profile::Guard, path });
        let shared = Arc::clone(&Rig::new().worker.shared);
        (Keeper::start(shared, on_wanted).expect("it is right"), wanted)
    }

    fn replace(folder: &Folder, content: &str) {
        let aside = folder.write("aside", content);
        std::fs::rename(aside, folder.path("policy.toml")).unwrap();
    }

    fn words(verdict: Verdict) -> String {
        match verdict {
            Verdict::Done(words) => words,
            Verdict::Wrong(words) | Verdict::Unusable(words) => format!("wrong: {words}"),
        }
    }

    fn names(keeper: &Keeper) -> Vec<String> {
        let policy = keeper.shared.policy.load();
        let file = policy.rules().iter().filter(|rule| !rule.name.starts_with("guard."));
        file.map(|rule| rule.name.to_string()).collect()
    }

    #[tokio::test]
    async fn a_changed_file_is_left_alone_for_a_while_and_an_order_does_not_wait_for_that() {
        let folder = Folder::new();
        let (mut keeper, _wanted) = keeper(&folder);
        replace(&folder, &text(2));
        keeper.follow_hint();
        let settling = keeper.settling.expect("it has changed");
        assert_eq!((names(&keeper), settling.until - settling.since), (vec!["r1".into()], SETTLE));
        keeper.settling = Some(Settling { until: Micros::MAX, ..settling });
        let patience = Duration::from_secs(60);
        let look = tokio::time::timeout(patience, keeper.look(true, "an order"));
        let told = words(look.await.expect("it does not wait"));
        assert_eq!(told, "policy 2 is in force: added r2; removed r1\n");
        assert!(keeper.settling.is_none());
        assert_eq!(names(&keeper), ["r2"]);
        // What rings now finds nothing that was not seen.
        keeper.follow_hint();
        assert!(keeper.settling.is_none());
        assert_eq!(
            words(keeper.look(false, "").await),
            "no rule differs: policy 2 stays in force\n"
        );
    }

    #[tokio::test]
    async fn a_file_that_is_written_all_the_time_is_read_in_the_end() {
        let folder = Folder::new();
        let (mut keeper, _wanted) = keeper(&folder);
        let since = clock::micros();
        keeper.settling = Some(Settling { since, until: since });
        for number in 0..9 {
            replace(&folder, &text(number));
            keeper.follow_hint();
            let until = keeper.settling.map(|settling| settling.until);
            assert!(until.is_some_and(|until| until <= since + SETTLE_MAX));
        }
    }

    #[tokio::test]
    async fn each_fault_of_a_file_is_told_once_unless_somebody_asks() {
        let folder = Folder::new();
        let (mut keeper, _wanted) = keeper(&folder);
        let path = folder.path("policy.toml");
        for spoil in [
            &|| std::fs::remove_file(&path).unwrap(),
            &|| std::fs::write(&path, b"\xff").unwrap(),
            &|| std::fs::write(&path, "[[rule]]\n").unwrap(),
        ] as [&dyn Fn(); 3]
        {
            spoil();
            assert!(words(keeper.look(false, "").await).starts_with("wrong: "));
            let again = words(keeper.look(false, "").await);
            assert_eq!(again, "no rule differs: policy 1 stays in force\n");
            assert!(words(keeper.look(true, "").await).starts_with("wrong: "));
        }
        assert_eq!(names(&keeper), ["r1"]);
    }

    #[tokio::test]
    async fn what_was_replaced_goes_when_nobody_has_it_and_what_a_rollback_needs_stays() {
        let folder = Folder::new();
        let (mut keeper, _wanted) = keeper(&folder);
        let held = keeper.shared.policy.load_full();
        for number in 2..5 {
            replace(&folder, &text(number));
            assert!(words(keeper.look(true, "").await).contains("is in force"));
        }
        assert_eq!(keeper.retired.len(), 1, "a worker has the first one still");
        assert_eq!(&*held.rules()[0].name, "r1");
        drop(held);
        keeper.sweep();
        assert!(keeper.retired.is_empty());
        let told = words(keeper.roll_back().await);
        assert!(told.starts_with("policy 5 is in force: added r3; removed r4\n"), "{told}");
        assert_eq!(names(&keeper), ["r3"]);
    }
}

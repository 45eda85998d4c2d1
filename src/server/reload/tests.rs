//! What upstreams hear of a changed file, and how it is counted.
//!
//! Owns a reloader whose movers are the test itself: what they would do is said here, in any order.
//! Never dials anything.

use super::*;
use crate::config::scratch::Folder;
use crate::stats::export::Exporter;
use crate::upstream::rig::Rig;

/// A reloader of a file, before the upstreams `default` and `b`.
struct Stage {
    reloader: Reloader,
    intents: [mpsc::Receiver<Intent>; 2],
    folder: Folder,
    exporter: Exporter,
    runtime: tokio::runtime::Runtime,
    _policy: watch::Receiver<Wanted>,
}

/// Where the two upstreams are, and which one the listener at 7001 leads to.
fn file(default: &str, b: &str, second: &str) -> String {
    let first = if second == "b" { "default" } else { "b" };
    listening(&[(7000, first), (7001, second)], default, b)
}

fn listening(listeners: &[(u16, &str)], default: &str, b: &str) -> String {
    let listener = |(port, upstream): &(u16, &str)| {
        let upstream = match *upstream {
            "default" => String::new(),
            other => format!("upstream = \"{other}\"\n"),
        };
        format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\n{upstream}")
    };
    let listeners: String = listeners.iter().map(listener).collect();
    format!(
        "{listeners}[upstream]\nurl = \"redis://{default}\"\n[upstreams.b]\nurl = \"redis://{b}\"\n"
    )
}

// === impl Stage ===

impl Stage {
    fn new() -> Self {
        let folder = Folder::new();
        let config = folder.write("breakwater.toml", file("orders", "cache", "b"));
        let flags = RunFlags { config: Some(config), ..RunFlags::default() };
        let settings = Settings::load(&flags).unwrap();
        let (policy, on_policy) = watch::channel(Wanted::from(&settings));
        let (heralds, intents): (Vec<_>, Vec<_>) = ["default", "b"]
            .map(|name| {
                let (mover, intents) = mpsc::channel(1);
                let shared = Arc::clone(&Rig::new().worker.shared);
                (Herald::new(name.into(), shared, mover), intents)
            })
            .into_iter()
            .unzip();
        Self {
            reloader: Reloader::new(&flags, settings, policy, heralds),
            intents: intents.try_into().unwrap(),
            folder,
            exporter: Exporter::of_one(Vec::new(), |_| ""),
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            _policy: on_policy,
        }
    }

    /// The file holds this now, and is looked at.
    fn look(&mut self, content: &str, asked: bool) {
        self.folder.write("breakwater.toml", content);
        self.exporter.scoped(|| self.reloader.look(asked));
    }

    /// What the upstream at this place hears next, while no answer is on its way.
    fn heard(&mut self, place: usize) -> Intent {
        let (settle, next) = (self.reloader.settle(), self.intents[place].recv());
        let heard = async {
            tokio::select! {
                heard = tokio::time::timeout(PATIENCE, next) => heard.expect("it is told in time"),
                () = settle => panic!("nobody has answered"),
            }
        };
        self.runtime.block_on(heard).expect("it is told")
    }

    /// Whether that upstream is told nothing.
    fn is_silent(&mut self, place: usize) -> bool {
        !self.settle() && self.intents[place].try_recv().is_err()
    }

    /// One upstream's answer arrives. False if there is none.
    fn settle(&mut self) -> bool {
        let settle = self.reloader.settle();
        let moment = async { tokio::time::timeout(A_MOMENT, settle).await.is_ok() };
        self.exporter.scoped(|| self.runtime.block_on(moment))
    }

    /// Files that were applied, files that were refused, and whether the newest is in force.
    fn counted(&self) -> (u64, u64, u64) {
        let page = self.exporter.render();
        let value = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(0, |value| value.trim().parse().unwrap())
        };
        (
            value("breakwater_config_reloads_total{result=\"applied\"}"),
            value("breakwater_config_reloads_total{result=\"refused\"}"),
            value("breakwater_config_last_reload_successful"),
        )
    }
}

fn url(intent: &Intent) -> String {
    intent.upstream.endpoint.to_string()
}

#[test]
fn an_upstream_whose_listeners_are_to_lead_elsewhere_is_told_nothing() {
    let both = ["b".to_owned(), "default".to_owned()];
    for (changed, want) in [
        // Roles are exchanged, or the names that listeners lead to along with the addresses.
        (file("cache", "orders", "default"), &both[..]),
        (file("orders", "cache", "default"), &both[..]),
        // Nobody knows whom the file means that says nothing of an open listener.
        (listening(&[(7002, "default"), (7001, "b")], "cache", "orders"), &both[1..]),
        (file("orders", "cache", "b").replace("\"b\"", "\"c\"").replace(".b]", ".c]"), &both[..1]),
    ] {
        let mut stage = Stage::new();
        stage.look(&changed, true);
        assert!(!stage.settle());
        for (intents, name) in stage.intents.iter_mut().zip(["default", "b"]) {
            let is_silent = intents.try_recv().is_err();
            assert_eq!(is_silent, want.iter().any(|it| it == name), "{changed}");
        }
        assert_eq!(stage.counted(), (0, 1, 0), "what is not applied is not called applied");
    }
}

#[test]
fn a_listener_that_is_only_added_holds_nothing_back() {
    let mut stage = Stage::new();
    let more = [(7000, "default"), (7001, "b"), (7002, "b")];
    stage.look(&listening(&more, "elsewhere", "cache"), false);
    for (place, want) in ["elsewhere:6379", "cache:6379"].into_iter().enumerate() {
        let intent = stage.heard(place);
        assert_eq!(url(&intent), want);
        intent.answer.send(true).unwrap();
        assert!(stage.settle());
    }
    assert_eq!(stage.counted(), (1, 0, 1));
}

#[test]
fn how_servers_are_watched_counts_also_where_nothing_moves() {
    let mut stage = Stage::new();
    let watched = format!("[watch]\nevery = \"7s\"\n{}", file("cache", "orders", "default"));
    stage.look(&watched, false);
    for herald in &stage.reloader.heralds {
        assert_eq!(herald.shared.watch.load().every, Duration::from_secs(7));
    }
}

#[test]
fn an_answer_to_an_earlier_file_says_nothing_of_a_broken_one() {
    let mut stage = Stage::new();
    stage.look(&file("elsewhere", "cache", "b"), false);
    let late = [stage.heard(0), stage.heard(1)];
    stage.look("[upstream]\nurll = \"redis://h\"\n", false);
    assert_eq!(stage.counted(), (0, 1, 0));
    for intent in late {
        assert!(intent.answer.is_closed(), "it is called back");
        let _ = intent.answer.send(true);
    }
    assert!(!stage.settle());
    assert_eq!(stage.counted(), (0, 1, 0));
}

#[test]
fn one_that_fails_is_counted_at_once_and_tried_again_while_another_goes_on() {
    let mut stage = Stage::new();
    let changed = file("slow", "dead", "b");
    stage.look(&changed, false);
    let slow = stage.heard(0);
    stage.heard(1).answer.send(false).unwrap();
    assert!(stage.settle());
    assert_eq!(stage.counted(), (0, 1, 0));
    stage.look(&changed, false);
    assert!(stage.is_silent(0) && !slow.answer.is_closed(), "it is still at it");
    stage.heard(1).answer.send(true).unwrap();
    assert!(stage.settle());
    assert_eq!(stage.counted(), (0, 1, 0), "one has not answered");
    slow.answer.send(true).unwrap();
    assert!(stage.settle());
    assert_eq!(stage.counted(), (1, 1, 1));
    stage.look(&changed, false);
    assert!(stage.is_silent(0) && stage.is_silent(1), "all have followed");
}

#[test]
fn that_somebody_asked_for_the_file_is_not_lost_with_an_intent_that_nobody_heard() {
    let mut stage = Stage::new();
    stage.look(&file("orders", "cache", "b"), true);
    stage.heard(1).answer.send(true).unwrap();
    assert!(stage.settle());
    stage.look(&file("newer", "cache", "b"), false);
    // What the mover would find in its inbox after an order that took long.
    let outdated = stage.heard(0);
    assert!(outdated.answer.is_closed() && outdated.is_asked);
    let newer = stage.heard(0);
    assert!(newer.is_asked && url(&newer) == "newer:6379");
    assert!(!stage.heard(1).is_asked, "this one has been heard");
    newer.answer.send(true).unwrap();
    assert!(stage.settle());
    stage.look(&file("newest", "cache", "b"), false);
    assert!(!stage.heard(0).is_asked);
}

/// Generous: nothing here waits for anything but threads' turns.
const PATIENCE: Duration = Duration::from_secs(60);
/// For what never comes.
const A_MOMENT: Duration = Duration::from_millis(20);

//! Judges `[expect]`, `[watch]`, `[slowlog]` and `[scripts]`: what the servers behind are measured by.
//!
//! Owns the bounds of these numbers. Never knows what the watcher makes of them.
//!
//! What surprises: an expectation of no replicas is allowed and means something, an absent one
//! means that the watcher goes by what it has seen.

use super::super::checker::one_of;
use super::super::complaint::Fault;
use super::super::file::{Written, WrittenScripts};
use super::super::quantity::{HOUR, MILLISECOND, MINUTE, SECOND, Size, ZERO};
use super::super::{Expect, ScriptSettings, SlowlogSettings, WatchSettings, Watchdog};
use super::Checker;

/// The four tables together.
pub(super) fn check(checker: &mut Checker, written: &Written) -> WatchSettings {
    let (expect, watch, slowlog) = (&written.expect, &written.watch, &written.slowlog);
    // Below a mebibyte Redis does not even start; a pebibyte is a slip of the keyboard.
    let memory = || Size(1 << 20)..=Size(1 << 50);
    let nodes = expect.nodes.as_ref();
    let replicas = expect.replicas.as_ref();
    let sentinels = expect.sentinels.as_ref();
    let limit = expect.memory_limit.as_ref();
    let scripts = &written.scripts;
    let in_flight = scripts.in_flight_max.as_ref();
    WatchSettings {
        every: checker.time("every", &watch.every, SECOND..=HOUR),
        expect: Expect {
            nodes: nodes.map(|it| checker.bounded("nodes", it, 1..=10_000)),
            replicas: replicas.map(|it| checker.bounded("replicas", it, 0..=1_000)),
            sentinels: sentinels.map(|it| checker.bounded("sentinels", it, 1..=1_000)),
            memory_limit: limit.map(|it| checker.size("memory_limit", it, memory()) as u64),
        },
        slowlog: SlowlogSettings {
            threshold: checker.time("threshold", &slowlog.threshold, MILLISECOND..=HOUR),
            keys: *slowlog.keys.get_ref(),
        },
        scripts: ScriptSettings {
            watchdog: watchdog(checker, scripts),
            kill_after: checker.time("kill_after", &scripts.kill_after, ZERO..=MINUTE),
            in_flight_max: in_flight.map(|it| checker.bounded("in_flight_max", it, 1..=100_000)),
            in_flight_wait: checker.time("in_flight_wait", &scripts.in_flight_wait, ZERO..=MINUTE),
        },
    }
}

fn watchdog(checker: &mut Checker, written: &WrittenScripts) -> Watchdog {
    match written.watchdog.get_ref().as_str() {
        "own" => Watchdog::Own,
        "any" => Watchdog::Any,
        "off" => Watchdog::Off,
        word => {
            let Fault { what, hint } = one_of("watchdog", word, &["own", "any", "off"]);
            checker.complain(&written.watchdog, what, hint);
            Watchdog::Own
        }
    }
}

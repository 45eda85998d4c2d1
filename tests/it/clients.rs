//! Client libraries and frameworks at their real work: queues, locks, caches, subscriptions, all through Breakwater.
//!
//! Owns the list of jobs before one server; those before a cluster are in `cluster/smart.rs`. Each has a redis-server
//! and a Breakwater of its own; a script of `tests/clients/` does the work and asserts what came of it, and when it
//! has ended the server must have nothing left of it. The Rust libraries are called from here: `clients/redis_rs.rs`
//! and `clients/fred.rs`.
//!
//! What surprises: the packages are installed by `make test`, not by Cargo; without them these tests fail and say
//! so. A script runs against any Redis as well: `REDIS_URL=… target/clients/python/bin/python
//! tests/clients/python/rq_jobs.py` tells whose fault a failure is.

mod fred;
mod redis_rs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::process::{Folder, Process, print_tail};
use crate::support::{Client, PATIENCE, Proxy, RedisServer, eventually, line, until};

/// One test a job, so that the name of a failure says which library it was.
macro_rules! jobs {
    ($($name:ident => $program:ident($script:literal, [$($variable:literal),*]);)*) => {
        $(
            #[test]
            fn $name() {
                let stage = Stage::set();
                stage.perform($program($script, &[$($variable),*]));
                stage.clear();
            }
        )*
    };
}

jobs! {
    redis_py_data_resp2 => python("redis_py_data.py", ["PROTOCOL=2"]);
    redis_py_data_resp3 => python("redis_py_data.py", ["PROTOCOL=3"]);
    redis_py_sessions_resp2 => python("redis_py_sessions.py", ["PROTOCOL=2"]);
    redis_py_sessions_resp3 => python("redis_py_sessions.py", ["PROTOCOL=3"]);
    redis_py_asyncio_resp2 => python("redis_py_asyncio.py", ["PROTOCOL=2"]);
    redis_py_asyncio_resp3 => python("redis_py_asyncio.py", ["PROTOCOL=3"]);
    redis_py_caching => python("redis_py_caching.py", []);
    celery_resp2 => python("celery_jobs.py", ["PROTOCOL=2"]);
    celery_resp3 => python("celery_jobs.py", ["PROTOCOL=3"]);
    rq_workers_resp2 => python("rq_jobs.py", ["PROTOCOL=2"]);
    rq_workers_resp3 => python("rq_jobs.py", ["PROTOCOL=3"]);
    django_cache_resp2 => python("django_cache.py", ["PROTOCOL=2"]);
    django_cache_resp3 => python("django_cache.py", ["PROTOCOL=3"]);
    channels_layers_resp2 => python("channels_layers.py", ["PROTOCOL=2"]);
    channels_layers_resp3 => python("channels_layers.py", ["PROTOCOL=3"]);
    ioredis_resp2 => node("ioredis.js", ["PROTOCOL=2"]);
    ioredis_resp3 => node("ioredis.js", ["PROTOCOL=3"]);
    node_redis_resp2 => node("node_redis.js", ["PROTOCOL=2"]);
    node_redis_resp3 => node("node_redis.js", ["PROTOCOL=3"]);
    bullmq_on_ioredis_resp2 => node("bullmq.js", ["DRIVER=ioredis", "PROTOCOL=2"]);
    bullmq_on_ioredis_resp3 => node("bullmq.js", ["DRIVER=ioredis", "PROTOCOL=3"]);
    bullmq_on_node_redis_resp2 => node("bullmq.js", ["DRIVER=node-redis", "PROTOCOL=2"]);
    bullmq_on_node_redis_resp3 => node("bullmq.js", ["DRIVER=node-redis", "PROTOCOL=3"]);
    redlock_on_one_server => node("redlock.js", []);
}

/// Three servers, each behind a Breakwater; the third has died, and two are a majority.
#[test]
fn redlock_on_three_servers_of_which_one_is_gone() {
    let mut stages: Vec<Stage> = (0..3).map(|_| Stage::set()).collect();
    let urls: Vec<String> = stages.iter().map(Stage::url).collect();
    stages[2].redis.kill();
    let mut script = node("redlock.js", &[]);
    script.env("REDIS_URL", urls.join(","));
    stages[0].run(script);
    stages.truncate(2);
    stages.iter().for_each(Stage::clear);
}

/// The check at the end of every job can fail: each of these leaves something on its connection.
#[test]
fn what_is_left_on_a_connection_is_seen() {
    let redis = RedisServer::start();
    let mut observer = redis.client();
    for commands in ["MULTI", "SUBSCRIBE c", "PSUBSCRIBE c", "SSUBSCRIBE c", "BLPOP k 0", "MONITOR"]
    {
        let mut client = redis.client();
        client.send(line(commands));
        until(commands, || observer.text("CLIENT LIST").lines().any(is_left_over));
        drop(client);
        until("it has gone", || !observer.text("CLIENT LIST").lines().any(is_left_over));
    }
}

/// A server and a Breakwater in front of it.
struct Stage {
    redis: RedisServer,
    proxy: Proxy,
    folder: Folder,
}

// === impl Stage ===

impl Stage {
    fn set() -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::before(&redis.url()).ready();
        Self { redis, proxy, folder: Folder::new() }
    }

    /// Where clients connect to.
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.proxy.port())
    }

    /// Runs a script against this stage's Breakwater.
    fn perform(&self, mut script: Command) {
        script.env("REDIS_URL", self.url());
        self.run(script);
    }

    fn run(&self, script: Command) {
        run(script, &self.folder);
    }

    fn clear(&self) {
        nothing_is_left(&mut self.redis.client());
        has_not_panicked(&self.proxy);
    }
}

/// Runs a script to its end, which must be a good one.
pub(crate) fn run(mut script: Command, folder: &Folder) {
    let log = folder.path().join("script.log");
    let mut process = Process::start(&mut script, &log).expect("the program can be started");
    let deadline = Instant::now() + SCRIPT_TIME;
    let status = loop {
        match process.status() {
            None if Instant::now() < deadline => std::thread::sleep(AGAIN),
            status => break status,
        }
    };
    if !status.is_some_and(|status| status.success()) {
        print_tail("the script's output", &log);
        panic!("{script:?} ended with {status:?}");
    }
}

/// Nothing that a client started may outlast it: no blocked command, no subscription, no open transaction. `server` is
/// asked directly.
pub(crate) fn nothing_is_left(server: &mut Client) {
    let deadline = Instant::now() + PATIENCE / 2;
    let left = eventually("the server has answered", || {
        let list = server.text("CLIENT LIST");
        let left: Vec<&str> = list.lines().filter(|line| is_left_over(line)).collect();
        (left.is_empty() || Instant::now() > deadline).then(|| left.join("\n"))
    });
    assert_eq!(left, "", "connections that something is left on");
}

pub(crate) fn has_not_panicked(proxy: &Proxy) {
    let log = proxy.log();
    assert!(!log.contains("panicked"), "Breakwater panicked:\n{log}");
}

/// Whether this line of CLIENT LIST is of a connection with something on it. A Sentinel listens to its master for as long
/// as it watches it.
fn is_left_over(line: &str) -> bool {
    if line.contains(" name=sentinel-") {
        return false;
    }
    let fields: Vec<(&str, &str)> =
        line.split(' ').filter_map(|field| field.split_once('=')).collect();
    fields.iter().any(|&(name, value)| match name {
        "sub" | "psub" | "ssub" | "watch" => value != "0",
        "multi" => value != "-1",
        "flags" => value.contains(['b', 'x', 'O', 't']),
        _ => false,
    })
}

/// A script of `tests/clients/python`.
pub(crate) fn python(script: &str, variables: &[&str]) -> Command {
    let python = installed("python/bin/python");
    let mut command = Command::new(python);
    // Scripts import each other; nothing may be written beside them.
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    with(command, &format!("python/{script}"), variables)
}

/// A script of `tests/clients/node`.
pub(crate) fn node(script: &str, variables: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed("node/node_modules"));
    with(command, &format!("node/{script}"), variables)
}

fn with(mut command: Command, script: &str, variables: &[&str]) -> Command {
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script));
    for variable in variables {
        let (name, value) = variable.split_once('=').expect("it is written NAME=value");
        command.env(name, value);
    }
    command
}

/// A path that `tests/clients/install.sh` has made, all of it.
fn installed(path: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients");
    let advice = "the client libraries are not installed: run `make test`, or `make clients` alone";
    assert!(folder.join("installed").exists(), "{advice}");
    folder.join(path)
}

/// Runs asynchronous work of a library on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime can be made").block_on(work)
}

/// How long until something is asked again.
pub(crate) const AGAIN: Duration = Duration::from_millis(5);
/// How long a script may take; its own limits are shorter and know better what was waited for.
const SCRIPT_TIME: Duration = Duration::from_secs(300);

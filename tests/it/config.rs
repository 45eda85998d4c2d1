//! The annotated examples and `breakwater check`, as an operator meets them.
//!
//! Owns what needs the real binary or the files of `config/`. Never starts a server.

use breakwater::cli::RunFlags;
use breakwater::config::{
    Auth, Endpoint, ListenAddress, MemorySettings, Profile, Settings, UpstreamSettings,
};
use breakwater::policy;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The examples of the repository.
fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let entries = std::fs::read_dir(folder).expect("the folder config exists");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.retain(|path| !path.ends_with("policy.toml"));
    files.sort();
    files
}

#[test]
fn the_example_of_a_policy_loads_without_a_warning() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policy.toml");
    let output = breakwater().arg("check").arg(&path).output().expect("the binary runs");
    assert_eq!(text(&output.stdout), format!("{}: valid\n", path.display()));
    let policy = policy::load(Profile::Guard, Some(&path), 1, 0).expect("it is right");
    assert_eq!((policy.operators(), policy.notes.len()), (9, 0));
    assert_eq!(policy.keyspaces().map(|it| it.all().len()), Some(4));
}

fn load(name: &str) -> Settings {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let flags = RunFlags { config: Some(path), ..RunFlags::default() };
    Settings::load(&flags).unwrap_or_else(|complaints| panic!("{name}: {complaints:#?}"))
}

/// A process that sees none of the variables of whoever runs the tests.
fn breakwater() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_breakwater"));
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BREAKWATER_"))
    {
        command.env_remove(name);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `check` on a file of this content and gives it back with the file's path replaced by `f`.
fn check(name: &str, content: &str) -> (Output, String) {
    let path =
        std::env::temp_dir().join(format!("breakwater-check-{}-{name}.toml", std::process::id()));
    std::fs::write(&path, content).expect("a file in the temporary folder");
    let output = breakwater().arg("check").arg(&path).output().expect("the binary runs");
    std::fs::remove_file(&path).expect("the file is still there");
    let shown = text(&output.stdout).replace(&path.display().to_string(), "f");
    (output, shown)
}

#[test]
fn every_example_loads_without_a_warning() {
    let files = examples();
    assert!(files.len() >= 3, "{files:?}");
    for file in &files {
        let flags = RunFlags { config: Some(file.clone()), ..RunFlags::default() };
        match Settings::load(&flags) {
            Ok(settings) => assert!(settings.notes.is_empty(), "{:#?}", settings.notes),
            Err(complaints) => panic!("{complaints:#?}"),
        }
    }
    let output = breakwater().arg("check").args(&files).output().expect("the binary runs");
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!(
        text(&output.stdout).lines().filter(|line| line.ends_with(": valid")).count(),
        files.len()
    );
}

#[test]
fn the_example_with_sentinels_has_a_user_for_each_side() {
    let sentinel = load("sentinel.toml").upstream;
    let group = sentinel.sentinel.as_ref().expect("it names Sentinels");
    assert_eq!((group.seeds.len(), group.master_name.as_str()), (3, "mymaster"));
    // Each side has users of its own.
    let user =
        |it: &Option<breakwater::config::Credentials>| it.as_ref().and_then(|it| it.user.clone());
    assert_eq!(user(&sentinel.credentials).as_deref(), Some("app"));
    assert_eq!(user(&group.credentials).as_deref(), Some("breakwater"));
}

#[test]
fn the_examples_mean_what_their_comments_say() {
    let minimal = load("minimal.toml");
    assert_eq!(minimal.upstream.endpoint.to_string(), "redis.internal:6379");
    assert_eq!(minimal.listeners[0].auth, Auth::Passthrough);

    let sidecar = load("sidecar.toml");
    assert_eq!(sidecar.listeners[0].auth, Auth::Upstream);
    assert!(sidecar.upstream.tls.is_some());
    // What the example calls a default is one.
    assert_eq!(sidecar.memory, MemorySettings::default());
    let (mut clocks, defaults) = (sidecar.upstream.clone(), minimal.upstream);
    clocks.endpoint = defaults.endpoint.clone();
    clocks.tls = None;
    clocks.credentials = None;
    assert_eq!(clocks, defaults);
    assert_eq!((sidecar.workers, sidecar.drain_timeout), (minimal.workers, minimal.drain_timeout));

    let cluster = load("cluster.toml");
    // What it calls a default is one.
    let plain = RunFlags { upstream: Some("redis-cluster://a".to_owned()), ..RunFlags::default() };
    let plain = Settings::load(&plain).expect("it is a cluster").upstream;
    let shown = |upstream: &UpstreamSettings| {
        (upstream.cluster.as_ref().map(|cluster| cluster.present_as), upstream.ping)
    };
    assert_eq!(shown(&cluster.upstream), shown(&plain));
    let announced = cluster.listeners[0].announce.as_ref().expect("it announces an address");
    assert_eq!((announced.host.as_str(), announced.port), ("redis.example", 7000));

    let node = load("node.toml");
    let [unix, tls] = node.listeners.as_slice() else { panic!("{:?}", node.listeners) };
    assert!(matches!(unix.address, ListenAddress::Unix { mode: 0o660, .. }));
    assert!(tls.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()));
    let Auth::Users(users) = &tls.auth else { panic!("{:?}", tls.auth) };
    let passwords: Vec<usize> = users.iter().map(|user| user.password_sha256.len()).collect();
    assert_eq!(passwords, [2, 1]);
    assert!(matches!(node.upstream.endpoint, Endpoint::Unix(_)));

    let cluster = load("cluster.toml").upstream;
    assert_eq!(cluster.cluster.map(|cluster| cluster.seeds.len()), Some(3));
    assert!(cluster.restore_functions && cluster.tls.is_none());
}

#[test]
fn check_prints_every_complaint_with_file_line_and_column_and_exits_with_one() {
    let (output, shown) = check(
        "bad",
        "wrokers = 2\n\
         profile = \"gard\"\n\
         [[listener]]\n\
         address = \"6379\"\n\
         [upstream]\n\
         url = \"redis-sentinel://a:1\"\n\
         retry_windw = \"400ms\"\n\
         connect_timeout = 1\n",
    );
    assert_eq!(output.status.code(), Some(1));
    let expected = [
        "f:1:1: 'wrokers' is not a key; did you mean 'workers'?",
        "f:2:11: 'gard' is not a profile; did you mean 'guard'?",
        "f:4:11: '6379' is not an address to listen on; write 127.0.0.1:6379",
        "f:6:7: the upstream's URL names no master behind its Sentinels; write the name of `sentinel monitor`, \
         as in redis-sentinel://HOST:26379/mymaster",
        "f:7:1: 'retry_windw' is not a key of [upstream]; did you mean 'retry_window'?",
        "f:8:19: the duration '1' has no unit; write \"1s\" or \"1ms\"",
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn check_accepts_a_file_whose_upstream_comes_from_elsewhere() {
    let (output, shown) = check("partial", "workers = 2\n");
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.starts_with("f: note: no upstream is named; "), "{shown}");
    assert!(shown.ends_with("f: valid\n"), "{shown}");
}

#[test]
fn the_password_of_a_variable_is_in_no_output() {
    let url = "redis://app:hunter2@redis.internal:port";
    for arguments in [&["run", "--help"][..], &["explain", "--help"], &["run", "--workers", "0"]] {
        let output = breakwater()
            .env("BREAKWATER_UPSTREAM", url)
            .args(arguments)
            .output()
            .expect("the binary runs");
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(shown.contains("BREAKWATER_UPSTREAM"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_truncated_example_is_judged_and_never_panics() {
    // Prefixes of an example: some are valid, most are not, none ends the process.
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/node.toml"));
    let text = text.expect("the example exists");
    let path = std::env::temp_dir().join(format!("breakwater-prefix-{}.toml", std::process::id()));
    let flags = RunFlags { config: Some(path.clone()), ..RunFlags::default() };
    for end in (0..text.len()).step_by(17).filter(|end| text.is_char_boundary(*end)) {
        std::fs::write(&path, &text[..end]).expect("a file in the temporary folder");
        if let Err(complaints) = Settings::load(&flags) {
            assert!(!complaints.is_empty(), "prefix of {end} bytes");
        }
    }
    std::fs::remove_file(&path).expect("the file is still there");
}

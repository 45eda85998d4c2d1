//! What a whole configuration becomes: layers, defaults, and the exact words and places of complaints.
//!
//! Owns the tables of good and bad files. Never opens a socket or a certificate, as the code under test.

use super::scratch::Folder;
use super::*;
use crate::log::Redacted;

/// Loads a file, with flags beside it. Complaints name the file `f`.
fn load_with(text: &str, flags: RunFlags) -> Result<Settings, Vec<String>> {
    let folder = Folder::new();
    let path = folder.write("f", text);
    let flags = RunFlags { config: Some(path.clone()), ..flags };
    let shown = path.display().to_string();
    Settings::load(&flags).map_err(|complaints| {
        complaints.iter().map(|complaint| complaint.to_string().replace(&shown, "f")).collect()
    })
}

fn load(text: &str) -> Result<Settings, Vec<String>> {
    load_with(text, RunFlags::default())
}

/// The settings of a file that has an upstream already.
fn with_upstream(text: &str) -> Settings {
    load(&format!("upstream.url = \"redis://h\"\n{text}")).unwrap()
}

/// The complaints about a file that has an upstream in its first line.
fn complaints(text: &str) -> Vec<String> {
    load(&format!("upstream.url = \"redis://h\"\n{text}")).unwrap_err()
}

fn flags(upstream: &str) -> RunFlags {
    RunFlags { upstream: Some(upstream.to_owned()), ..RunFlags::default() }
}

fn inline(text: &str) -> Secret {
    Secret::Inline(Redacted::new(text.to_owned()))
}

#[test]
fn an_upstream_is_all_that_a_sidecar_must_be_told() {
    let settings = Settings::load(&flags("redis://redis.internal")).unwrap();
    let [listener] = settings.listeners.as_slice() else { panic!("{:?}", settings.listeners) };
    assert_eq!(listener.address, ListenAddress::Tcp("127.0.0.1:6379".parse().unwrap()));
    assert_eq!(listener.auth, Auth::Passthrough);
    assert_eq!(
        (listener.client_max, listener.client_idle_timeout, listener.client_timeout),
        (10_000, None, None)
    );
    assert_eq!((&listener.tls, listener.limits), (&None, Limits::default()));
    assert_eq!(settings.workers, Workers::Count(NonZeroUsize::MIN));
    assert_eq!(settings.admin, Some("127.0.0.1:9121".parse().unwrap()));
    assert_eq!((settings.profile, settings.policy), (Profile::Guard, None));
    assert_eq!(settings.log, LogSettings { level: "info".to_owned(), format: LogFormat::Text });
    assert_eq!(settings.memory, MemorySettings::default());
    assert_eq!(settings.drain_timeout, Duration::from_secs(10));
    assert_eq!((settings.notes, settings.file_hash), (Vec::new(), None));
    let upstream = settings.upstream;
    assert_eq!(upstream.endpoint.to_string(), "redis.internal:6379");
    assert_eq!((upstream.db, &upstream.tls, &upstream.credentials), (0, &None, &None));
    assert_eq!((upstream.lanes_max, upstream.renamed), (8, Vec::new()));
    let clocks = [
        upstream.reply_deadline_fast,
        upstream.reply_deadline_slow,
        upstream.connect_timeout,
        upstream.retry_window,
        upstream.keepalive,
        upstream.user_timeout,
        upstream.lane_idle,
    ];
    assert_eq!(
        clocks.map(|clock| clock.as_millis()),
        [5_000, 60_000, 1_000, 400, 15_000, 5_000, 60_000]
    );
}

#[test]
fn without_an_upstream_the_complaint_says_what_to_write() {
    let found = Settings::load(&RunFlags::default()).unwrap_err();
    assert_eq!(found.len(), 1);
    let text = found[0].to_string();
    for part in [
        "--upstream (BREAKWATER_UPSTREAM): no upstream is named",
        "--upstream redis://HOST:6379",
        "under [upstream]",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // What could not be read is not said to be absent.
    assert_eq!(
        load("[upstream]\nurl = 6379\n").unwrap_err(),
        ["f:2:7: 'url' is an integer; write a text, in quotes"]
    );
}

/// Every table, and every way to write what can be written in several.
const WHOLE: &str = r##"
        workers = "auto"
        admin = "off"
        drain_timeout = "0s"
        [[listener]]
        address = "unix:/run/b.sock"
        mode = "0600"
        client_max = 7
        client_idle_timeout = "5m"
        client_timeout = "250ms"
        [listener.limits]
        bulk_bytes = "16MiB"
        arguments = 1000
        inline_bytes = 1024
        request_bytes = "32mb"
        [[listener]]
        address = "[::]:6380"
        tls = { cert = "/c.pem", key = "/k.pem", client_ca = "/ca.pem" }
        [upstream]
        url = "rediss://app@[::1]:6380/3"
        password_file = "/run/secrets/redis"
        tls = { ca = "/ca.pem", cert = "/c", key = "/k", server_name = "redis.internal" }
        renamed = { config = "cfg-1", "FLUSHALL" = "flush-1" }
        lanes_max = 1
        [log]
        level = "warn,breakwater=debug"
        format = "json"
        [memory]
        session_reply_bytes = "1MiB"
        lane_stall = "1s"
        "##;

#[test]
fn a_whole_file_becomes_settings() {
    let settings = load(WHOLE).unwrap();
    assert_eq!(
        (settings.workers, settings.admin, settings.drain_timeout),
        (Workers::Auto, None, Duration::ZERO)
    );
    let [unix, tcp] = settings.listeners.as_slice() else { panic!("{:?}", settings.listeners) };
    assert_eq!(unix.address, ListenAddress::Unix { path: "/run/b.sock".into(), mode: 0o600 });
    assert_eq!((unix.client_max, unix.client_idle_timeout), (7, Some(Duration::from_secs(300))));
    assert_eq!(unix.client_timeout, Some(Duration::from_millis(250)));
    let limits = Limits {
        bulk_bytes: 16 << 20,
        arguments: 1_000,
        inline_bytes: 1_024,
        request_bytes: 32 << 20,
    };
    assert_eq!(unix.limits, limits);
    let tls = ServerTls {
        cert: "/c.pem".into(),
        key: "/k.pem".into(),
        client_ca: Some("/ca.pem".into()),
    };
    assert_eq!(tcp.tls, Some(tls));
    assert_eq!(tcp.auth, Auth::Upstream, "the upstream has credentials");
    assert_eq!(settings.log.format, LogFormat::Json);
    let expected = MemorySettings {
        session_reply_bytes: 1 << 20,
        lane_stall: Duration::from_secs(1),
        ..MemorySettings::default()
    };
    assert_eq!(settings.memory, expected);
}

#[test]
fn a_whole_upstream_becomes_settings() {
    let upstream = load(WHOLE).unwrap().upstream;
    assert_eq!((upstream.endpoint.to_string().as_str(), upstream.db), ("[::1]:6380", 3));
    let credentials = Credentials {
        user: Some("app".to_owned()),
        password: Secret::File("/run/secrets/redis".into()),
    };
    assert_eq!(upstream.credentials, Some(credentials));
    assert_eq!(upstream.tls.unwrap().server_name.as_deref(), Some("redis.internal"));
    let renamed =
        [("FLUSHALL", "flush-1"), ("CONFIG", "cfg-1")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(upstream.renamed, renamed);
}

#[test]
fn a_flag_wins_over_the_file_key_by_key() {
    let text = "workers = 3\nadmin = \"127.0.0.1:1\"\nlog.level = \"warn\"\n[upstream]\nurl = \"redis://a/1\"\nlanes_max = 2\n";
    let flags = RunFlags {
        upstream: Some("redis://b:7".to_owned()),
        workers: Some("2".to_owned()),
        admin: Some("off".to_owned()),
        log: Some("debug".to_owned()),
        log_format: Some("json".to_owned()),
        drain_timeout: Some("3s".to_owned()),
        ..RunFlags::default()
    };
    let settings = load_with(text, flags).unwrap();
    assert_eq!(settings.workers.count(), 2);
    assert_eq!((settings.admin, settings.drain_timeout), (None, Duration::from_secs(3)));
    assert_eq!(settings.log, LogSettings { level: "debug".to_owned(), format: LogFormat::Json });
    let upstream = settings.upstream;
    assert_eq!(
        (upstream.endpoint.to_string().as_str(), upstream.db, upstream.lanes_max),
        ("b:7", 0, 2)
    );
}

#[test]
fn wrong_flags_are_named_with_their_variables_and_all_at_once() {
    let wrong = |text: &str| Some(text.to_owned());
    let flags = RunFlags {
        config: None,
        listen: vec!["6379".to_owned(), "*:1".to_owned()],
        upstream: wrong("redis-sentinel://h:1"),
        workers: wrong("0"),
        profile: wrong("gaurd"),
        policy: Some("p.toml".into()),
        admin: wrong("on"),
        log: wrong("loud"),
        log_format: wrong("jsn"),
        drain_timeout: wrong("2h"),
    };
    let found: Vec<String> =
        Settings::load(&flags).unwrap_err().iter().map(Complaint::to_string).collect();
    for expected in [
        "--listen (BREAKWATER_LISTEN): '6379' is not an address to listen on; write 127.0.0.1:6379",
        "--listen (BREAKWATER_LISTEN): '*:1' is not an address to listen on; to listen everywhere write 0.0.0.0:1 or [::]:1",
        "--workers (BREAKWATER_WORKERS): '0' is not a number of workers; write 1 to 256, or auto",
        "--profile (BREAKWATER_PROFILE): 'gaurd' is not a profile; did you mean 'guard'?",
        "--log-format (BREAKWATER_LOG_FORMAT): 'jsn' is not a log format; did you mean 'json'?",
        "--drain-timeout (BREAKWATER_DRAIN_TIMEOUT): drain_timeout is 2h; write 0s to 1h",
    ] {
        assert!(
            found.iter().any(|complaint| complaint == expected),
            "{expected}\nnot in {found:#?}"
        );
    }
    for start in ["--upstream (", "--admin (", "--log ("] {
        assert!(
            found.iter().any(|complaint| complaint.starts_with(start)),
            "{start}\nnot in {found:#?}"
        );
    }
    assert_eq!(found.len(), 9, "{found:#?}");
}

#[test]
fn complaints_of_form_and_of_meaning_come_together_in_the_order_of_the_file() {
    let found = load(
        "workers = 300\n\
         profile = \"closed\"\n\
         policy = \"\"\n\
         [[listener]]\n\
         address = \"nowhere\"\n\
         client_max = 0\n\
         adress = \"x\"\n\
         [upstream]\n\
         url = \"redis-sentinel://h:1\"\n\
         lanes_max = 65\n\
         keepalive = \"500ms\"\n\
         [memory]\n\
         client_stall = \"100ms\"\n\
         reply_bytes_total = \"1mb\"\n",
    )
    .unwrap_err();
    let expected = [
        "f:1:11: '300' is not a number of workers; write 1 to 256, or auto",
        "f:2:11: 'closed' is not a profile; write guard or observe or open",
        "f:3:10: policy is empty; write the path of a file of rules",
        "f:5:11: 'nowhere' is not an address to listen on; write an IP address and a port, as in 127.0.0.1:6379 or [::1]:6379",
        "f:6:14: client_max is 0; write 1 to 1000000",
        "f:7:1: 'adress' is not a key of [listener]; did you mean 'address'?",
        "f:9:7: the upstream's URL names no master behind its Sentinels; write the name of `sentinel monitor`, as in redis-sentinel://HOST:26379/mymaster",
        "f:10:13: lanes_max is 65; write 1 to 64",
        "f:11:13: keepalive is 500ms; write 1s to 2h",
        "f:13:16: client_stall (100ms) is not more than lane_stall (250ms); a client is closed only after its lane was freed of it",
        "f:14:21: reply_bytes_total (1MiB) is less than session_reply_bytes (16MiB); the total holds at least one session's",
    ];
    assert_eq!(found, expected, "{found:#?}");
}

#[test]
fn a_value_that_contradicts_a_default_is_blamed_and_not_the_default() {
    let found = complaints("[memory]\nsession_reply_bytes = \"1GiB\"\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("f:3:23: reply_bytes_total (256MiB) is less"), "{found:?}");
    let found = complaints("upstream.reply_deadline_fast = \"2m\"\n");
    let expected = "f:2:32: reply_deadline_slow (1m) is less than reply_deadline_fast (2m); give slow commands at least as long";
    assert_eq!(found, [expected]);
}

#[test]
fn auth_follows_users_then_the_url_then_whoever_the_upstream_accepts() {
    let auth = |url: &str, listener: &str| {
        let text = format!(
            "upstream.url = \"{url}\"\n[[listener]]\naddress = \"127.0.0.1:1\"\n{listener}"
        );
        load(&text).unwrap().listeners.remove(0).auth
    };
    let user = "user = [{ name = \"u\", nopass = true }]\n";
    assert!(matches!(auth("redis://h", user), Auth::Users(users) if users[0].nopass));
    assert!(matches!(auth("redis://:p@h", user), Auth::Users(_)));
    assert_eq!(auth("redis://:p@h", ""), Auth::Upstream);
    assert_eq!(auth("redis://h", ""), Auth::Passthrough);
    assert_eq!(auth("redis://:p@h", "auth = \"passthrough\"\n"), Auth::Passthrough);
    assert_eq!(auth("redis://h", "auth = \"upstream\"\n"), Auth::Upstream);
    assert!(matches!(auth("redis://h", &format!("auth = \"users\"\n{user}")), Auth::Users(_)));
}

#[test]
fn contradictions_about_users_are_complaints() {
    let found = complaints(
        "[[listener]]\n\
         address = \"127.0.0.1:1\"\n\
         auth = \"users\"\n\
         [[listener]]\n\
         address = \"127.0.0.1:2\"\n\
         auth = \"upstream\"\n\
         user = [{ name = \"u\", nopass = true }]\n\
         [[listener]]\n\
         address = \"127.0.0.1:3\"\n\
         auth = \"user\"\n\
         [[listener]]\n\
         address = \"127.0.0.1:4\"\n\
         [[listener.user]]\n\
         name = \"u\"\n\
         [[listener.user]]\n\
         name = \"u\"\n\
         nopass = true\n\
         passwords = [\"#12\", \">\", \"secret\", \">clear\"]\n\
         [[listener.user]]\n\
         name = \"a b\"\n\
         nopass = true\n\
         [[listener.user]]\n\
         nopass = true\n",
    );
    let cure = "write # and the 64 hex digits of: printf %s PASSWORD | sha256sum";
    let expected = [
        "f:4:8: auth is \"users\" and there are none; add a [[listener.user]]".to_owned(),
        "f:8:9: auth is \"upstream\", so nobody asks for this user; write auth = \"users\", or remove the users".to_owned(),
        "f:11:8: 'user' is not a kind of auth; did you mean 'users'?".to_owned(),
        "f:15:8: nobody can be this user: it has no password; add passwords, or nopass = true".to_owned(),
        "f:17:8: there is a user 'u' already; keep one, with all its passwords".to_owned(),
        "f:17:8: the user has passwords and nopass; keep one of the two".to_owned(),
        format!("f:19:14: this is not the hash of a password; {cure}"),
        format!("f:19:21: the password is empty; {cure}"),
        format!("f:19:26: this is not the hash of a password; {cure}"),
        "f:21:8: a user's name is one word; write it without blanks".to_owned(),
        "f:23:1: the user has no name; add name = \"app\"".to_owned(),
    ];
    assert_eq!(found, expected, "{found:#?}");
}

#[test]
fn passwords_of_users_are_kept_as_hashes_and_clear_text_is_noted() {
    // SHA-256 of "secret", as sha256sum prints it.
    let digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let upper = digest.to_ascii_uppercase();
    let settings = with_upstream(&format!(
        "[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener.user]]\nname = \"app\"\n\
         passwords = [\"#{digest}\", \"#{upper}\", \">secret\"]\n"
    ));
    let Auth::Users(users) = &settings.listeners[0].auth else { panic!() };
    assert_eq!(users[0].password_sha256, [sha256(b"secret"); 3]);
    let [note] = settings.notes.as_slice() else { panic!("{:?}", settings.notes) };
    assert_eq!(note.what, "a password stands here in clear text");
    assert_eq!(note.position, Some(Position { line: 6, column: 152 }));
}

#[test]
fn contradictions_about_addresses_and_tls_are_complaints() {
    let found = complaints(
        "admin = \"127.0.0.1:3\"\n\
         [[listener]]\n\
         address = \"127.0.0.1:1\"\n\
         mode = \"0660\"\n\
         [[listener]]\n\
         address = \"localhost:1\"\n\
         [[listener]]\n\
         address = \"127.0.0.1:3\"\n\
         [[listener]]\n\
         address = \"unix:/a\"\n\
         mode = \"0888\"\n\
         tls = { cert = \"c\", key = \"\" }\n\
         [[listener]]\n\
         address = \"unix:/a\"\n\
         mode = \"07777\"\n\
         tls = { cert = \"c\" }\n\
         [[listener]]\n\
         mode = \"0660\"\n\
         [upstream.tls]\n\
         cert = \"c\"\n\
         server_name = \"h:1\"\n",
    );
    let mode = "write three octal digits, as in \"0660\"";
    let expected = [
        "f:5:8: mode is for unix sockets only; remove it".to_owned(),
        "f:7:11: another listener has the address 127.0.0.1:1 already; choose another port".to_owned(),
        "f:9:11: the admin server has the address 127.0.0.1:3 already; choose another port".to_owned(),
        "f:11:11: a unix socket does not speak TLS; protect it with mode, or listen on TCP".to_owned(),
        format!("f:12:8: '0888' is not the mode of a socket; {mode}"),
        "f:13:27: key is empty; write the path of a PEM file".to_owned(),
        "f:15:11: another listener has the address unix:/a already; choose another port".to_owned(),
        format!("f:16:8: '07777' is not the mode of a socket; {mode}"),
        "f:17:7: a listener with TLS needs a certificate and its key; set cert and key".to_owned(),
        "f:18:1: the listener has no address; add address = \"127.0.0.1:6379\"".to_owned(),
        "f:20:1: [upstream.tls] is set, but the URL asks for plain text; write rediss:// in the URL, or remove [upstream.tls]".to_owned(),
        "f:20:1: cert and key of [upstream.tls] go together; set both, or neither".to_owned(),
        "f:22:15: server_name is neither a DNS name nor an IP address; write it without a port".to_owned(),
    ];
    assert_eq!(found, expected, "{found:#?}");
}

#[test]
fn free_ports_are_never_the_same_address() {
    let listen = vec!["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()];
    let settings = Settings::load(&RunFlags { listen, ..flags("redis://h") }).unwrap();
    assert_eq!(settings.listeners.len(), 2);
}

#[test]
fn listen_replaces_addresses_and_keeps_a_single_listener_s_users() {
    let text = "upstream.url = \"redis://h\"\n[[listener]]\naddress = \"127.0.0.1:1\"\nmode = \"0600\"\n\
                client_max = 9\nuser = [{ name = \"u\", nopass = true }]\n";
    let listen = |list: &[&str]| RunFlags {
        listen: list.iter().map(|text| (*text).to_owned()).collect(),
        ..RunFlags::default()
    };
    let settings = load_with(text, listen(&["127.0.0.1:2", "unix:/b"])).unwrap();
    let addresses: Vec<String> = settings.listeners.iter().map(|l| l.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:2", "unix:/b"]);
    assert!(
        settings.listeners.iter().all(|l| matches!(l.auth, Auth::Users(_)) && l.client_max == 9)
    );
    assert!(matches!(settings.listeners[1].address, ListenAddress::Unix { mode: 0o600, .. }));
    let two = format!("{text}[[listener]]\naddress = \"127.0.0.1:3\"\n");
    // The template's own mode is complained about only where its address is used.
    let found = load_with(&two, listen(&["127.0.0.1:2"])).unwrap_err();
    assert_eq!(
        found,
        [
            "--listen (BREAKWATER_LISTEN): cannot replace the addresses of 2 listeners of the file; leave out --listen, \
          or keep one [[listener]], whose TLS and users it will use"
        ]
    );
}

/// The credentials of a file that has nothing but these keys of `[upstream]`.
fn of_keys(keys: &str) -> Result<Option<Credentials>, Vec<String>> {
    load(&format!("[upstream]\n{keys}\n")).map(|settings| settings.upstream.credentials)
}

#[test]
fn credentials_come_from_the_url_or_one_key() {
    let credentials = |user: Option<&str>, password| {
        Some(Credentials { user: user.map(str::to_owned), password })
    };
    for (keys, expected) in [
        ("url = \"redis://h\"", None),
        ("url = \"redis://u:p@h\"", credentials(Some("u"), inline("p"))),
        ("url = \"redis://h\"\npassword = \"p\"", credentials(None, inline("p"))),
        (
            "url = \"redis://h\"\nuser = \"u\"\npassword_env = \"P\"",
            credentials(Some("u"), Secret::Env("P".to_owned())),
        ),
        (
            "url = \"unix:/s\"\nuser = \"u\"\npassword_file = \"/p\"",
            credentials(Some("u"), Secret::File("/p".into())),
        ),
    ] {
        assert_eq!(of_keys(keys), Ok(expected), "{keys}");
    }
}

#[test]
fn credentials_that_are_given_twice_or_by_halves_are_complaints() {
    for (keys, complaint) in [
        ("url = \"redis://u@h\"", "f:2:7: the upstream's user has no password; "),
        ("url = \"redis://h\"\nuser = \"u\"", "f:3:8: the upstream's user has no password; "),
        (
            "url = \"redis://:p@h\"\npassword_env = \"P\"",
            "f:3:16: the password stands in the URL as well; write it once",
        ),
        (
            "url = \"redis://u:p@h\"\nuser = \"v\"",
            "f:3:8: the user stands in the URL as well; write it once",
        ),
        (
            "url = \"redis://h\"\npassword = \"p\"\npassword_file = \"/p\"",
            "f:4:17: the upstream's password is given twice; ",
        ),
        (
            "url = \"redis://h\"\npassword = \"\"",
            "f:3:12: the upstream's password is empty; remove the key",
        ),
        (
            "url = \"redis://h\"\npassword = \"${P}\"",
            "f:3:12: password does not expand variables; ",
        ),
        (
            "url = \"redis://h\"\npassword_env = \"$P\"",
            "f:3:16: password_env is not the name of a variable; ",
        ),
        (
            "url = \"redis://h/1\"\ndb = 1",
            "f:3:6: the database stands in the URL as well; write it once",
        ),
    ] {
        let found = of_keys(keys).unwrap_err();
        assert_eq!(found.len(), 1, "{keys}: {found:?}");
        assert!(found[0].starts_with(complaint), "{keys}: {found:?}");
    }
}

#[test]
fn sentinels_have_credentials_of_their_own() {
    let url = "url = \"redis-sentinel://u:p@h/m\"\n";
    let group = |keys: &str| {
        let upstream = load(&format!("[upstream]\n{url}{keys}")).map(|it| it.upstream)?;
        Ok::<_, Vec<String>>(upstream.sentinel.expect("it names one"))
    };
    assert_eq!(group("").unwrap().credentials, None, "not those of Redis");
    let keys = "sentinel_user = \"s\"\nsentinel_password_env = \"P\"\n";
    let own = Credentials { user: Some("s".to_owned()), password: Secret::Env("P".to_owned()) };
    assert_eq!(group(keys).unwrap().credentials, Some(own));
    for (keys, complaint) in [
        ("sentinel_user = \"s\"", "f:3:17: sentinel_user has no password; "),
        (
            "sentinel_password = \"p\"\nsentinel_password_file = \"/p\"",
            "f:4:26: the upstream's password is given twice; keep one of sentinel_password, ",
        ),
        ("sentinel_password_env = \"$P\"", "f:3:25: sentinel_password_env is not the name of a"),
    ] {
        let found = group(keys).unwrap_err();
        assert!(found[0].starts_with(complaint), "{keys}: {found:?}");
    }
    let found = complaints("upstream.sentinel_password = \"p\"");
    assert!(found[0].contains("this upstream has no Sentinels"), "{found:?}");
}

#[test]
fn the_url_of_a_flag_keeps_the_file_s_password_unless_it_has_its_own() {
    let text = "[upstream]\nurl = \"redis://a\"\nuser = \"u\"\npassword_file = \"/p\"\ndb = 4\n";
    let upstream = load_with(text, flags("redis://b")).unwrap().upstream;
    let of_file = Credentials { user: Some("u".to_owned()), password: Secret::File("/p".into()) };
    assert_eq!((upstream.credentials, upstream.db), (Some(of_file), 4));
    let upstream = load_with(text, flags("redis://:q@b/5")).unwrap().upstream;
    assert_eq!(
        (upstream.credentials, upstream.db),
        (Some(Credentials { user: None, password: inline("q") }), 5)
    );
}

#[test]
fn renamed_commands_are_one_to_one() {
    let found = complaints(
        "[upstream.renamed]\nCONFIG = \"\"\nGET = \"a b\"\nKEYS = \"k-1\"\nkeys = \"k-2\"\nSCAN = \"K-1\"\n",
    );
    let disabled =
        "write COMMAND = \"name on the server\"; a command that the server disabled needs no entry";
    let expected = [
        format!("f:3:10: the new name of 'CONFIG' is not one word; {disabled}"),
        format!("f:4:7: the new name of 'GET' is not one word; {disabled}"),
        "f:6:8: 'KEYS' is renamed twice; keep one".to_owned(),
        "f:7:8: the new name of 'SCAN' is that of another command; one name serves one command"
            .to_owned(),
    ];
    let mut found = found;
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn an_open_door_is_noted() {
    let settings = |listen: &str, url: &str| {
        Settings::load(&RunFlags { listen: vec![listen.to_owned()], ..flags(url) }).unwrap()
    };
    let notes = settings("0.0.0.0:6379", "redis://:p@h").notes;
    assert_eq!(notes.len(), 1);
    assert!(notes[0].what.contains("everybody who can reach it"), "{notes:?}");
    assert!(settings("127.0.0.1:6379", "redis://:p@h").notes.is_empty());
    assert!(
        settings("0.0.0.0:6379", "redis://h").notes.is_empty(),
        "passthrough asks for a password"
    );
}

#[test]
fn a_request_is_never_allowed_to_be_larger_than_the_total() {
    let settings = with_upstream("memory.request_bytes_total = \"64MiB\"\n");
    assert_eq!(settings.listeners[0].limits.request_bytes, 64 << 20);
}

#[test]
fn no_secret_is_shown_by_settings_or_complaints() {
    let text = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener.user]]\nname = \"app\"\npasswords = [\">hunter2\"]\n";
    let settings = load_with(text, flags("redis://app:hunter2@h")).unwrap();
    let shown = format!("{settings:?} {settings:#?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    // The first byte of the digest of hunter2, as derived Debug would print the array.
    assert!(!shown.contains("[245"), "{shown}");
    for keys in [
        "password = hunter2",
        "password = \"hunter2",
        "password = ['hunter2']",
        "password = { x = 'hunter2' }",
        "password = \"hunter2\"\npassword_file = \"/p\"",
        "url = \"redis://u:hunter2@h:x\"",
        "url = \"hunter2\"",
        "url = \"redis://u:hunter2@h\"\npassword = \"hunter2\"\nuser = \"v\"\ndb = -1",
    ] {
        let found = load(&format!("[upstream]\n{keys}\n")).unwrap_err();
        assert!(!found.join("\n").contains("hunter2"), "{keys}: {found:#?}");
    }
}

#[test]
fn files_that_cannot_be_read_are_complaints_too() {
    let folder = Folder::new();
    let load = |path: PathBuf| {
        let found =
            Settings::load(&RunFlags { config: Some(path), ..flags("redis://h") }).unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].to_string()
    };
    assert!(load(folder.path("none")).contains("none: cannot be read: No such file"));
    assert!(load(folder.path("")).contains(": cannot be read: Is a directory"));
    let broken = folder.write("broken", b"workers = 1\n# \xff\n");
    assert!(
        load(broken)
            .ends_with("broken:2:3: not UTF-8; TOML is always UTF-8; save the file as such")
    );
    let long = folder.write("long", vec![b'\n'; check::FILE_BYTES_MAX + 1]);
    assert!(load(long).contains("longer than 1048576 bytes"));
}

#[test]
fn a_reload_knows_what_it_may_adopt() {
    let settings = |text: &str| load(text).unwrap();
    let before = settings("upstream.url = \"redis://a\"\nworkers = 1\n");
    let moved = settings("upstream.url = \"redis://b\"\nworkers = 1\n");
    assert_ne!(before.upstream, moved.upstream);
    assert_eq!(before.cold_changes(&moved), Vec::<&str>::new());
    let grown = settings("upstream.url = \"redis://a\"\nworkers = 2\nlog.level = \"debug\"\n");
    assert_eq!(before.cold_changes(&grown), ["workers", "log"]);
    assert_eq!(before.upstream, grown.upstream);
    assert_eq!(
        before.file_hash,
        Some(content_hash(b"upstream.url = \"redis://a\"\nworkers = 1\n"))
    );
    assert_ne!(before.file_hash, grown.file_hash);
}

#[test]
fn a_listener_that_follows_the_url_changes_with_its_credentials() {
    // The upstream is hot but listeners are not: a reload that adds credentials says that a restart is needed.
    let before = load("upstream.url = \"redis://a\"\n").unwrap();
    let after = load("upstream.url = \"redis://:p@a\"\n").unwrap();
    assert_eq!(before.cold_changes(&after), ["listeners"]);
}

#[test]
fn what_clients_are_shown_of_a_cluster_is_a_choice() {
    let of = |text: &str| load(&format!("[upstream]\n{text}")).unwrap().upstream;
    let shown = |text: &str| (of(text).cluster.map(|cluster| cluster.present_as), of(text).ping);
    let cluster = "url = \"redis-cluster://a:1,b:2\"\n";
    assert_eq!(shown(cluster), (Some(PresentAs::Cluster), Ping::Local));
    let hidden = format!("{cluster}present_as = \"standalone\"\nping = \"upstream\"\n");
    assert_eq!(shown(&hidden), (Some(PresentAs::Standalone), Ping::Upstream));
    // It says nothing wrong of one Redis, so the same file serves when a flag names one.
    let single = "url = \"redis://h\"\npresent_as = \"standalone\"\n";
    assert_eq!(shown(single), (None, Ping::Upstream));
    assert_eq!(shown("url = \"redis://h\"\nping = \"local\"\n"), (None, Ping::Local));
    let found = complaints(
        "upstream.present_as = \"cluster\"\nupstream.ping = \"lokal\"\n\
         [[listener]]\naddress = \"[::1]:1\"\nannounce = \"redis\"\n",
    );
    assert_eq!(
        found,
        [
            "f:2:23: one Redis cannot be presented as a cluster; remove present_as, or write \
             redis-cluster:// in the URL",
            "f:3:17: 'lokal' is not a way to answer PING; did you mean 'local'?",
            "f:6:12: 'redis' is not an address to announce; write what clients dial, as in \
             \"redis.example:6379\" or \"[2001:db8::1]:6379\"",
        ]
    );
}

/// A file in which two listeners lead to two upstreams.
const SEVERAL: &str = "[upstream]\nurl = \"redis://a\"\n\
    [upstreams.b]\nurl = \"redis-sentinel://:p@s:1/m\"\nlanes_max = 2\n\
    [[listener]]\naddress = \"[::1]:1\"\n\
    [[listener]]\naddress = \"[::1]:2\"\nupstream = \"b\"\n";

#[test]
fn listeners_lead_to_upstreams_by_name() {
    let settings = load(SEVERAL).unwrap();
    let named: Vec<(&str, usize)> =
        settings.all_upstreams().map(|(name, it)| (name, it.lanes_max)).collect();
    assert_eq!(named, [("default", 8), ("b", 2)]);
    let leads: Vec<(&str, &Auth)> =
        settings.listeners.iter().map(|it| (&*it.upstream, &it.auth)).collect();
    // Who a client is upstream depends on where it is led.
    assert_eq!(leads, [("default", &Auth::Passthrough), ("b", &Auth::Upstream)]);
    assert!(settings.upstream_asked_for("b").is_ok());
    let stranger = settings.upstream_asked_for("c").unwrap_err().to_string();
    assert!(stranger.contains("--upstream-name: 'c' is not a name of an upstream"), "{stranger}");
}

#[test]
fn every_upstream_is_named_rightly_and_used() {
    let listener = "[[listener]]\naddress = \"[::1]:1\"\n";
    let found = complaints(&format!(
        "[upstreams.cache]\nurl = \"redis://c\"\n[upstreams.\"no way\"]\nurl = \"http://x\"\n\
         [upstreams.default]\nlanes_max = 99\n{listener}upstream = \"cahce\"\n"
    ));
    let starts = [
        "f:2:1: no listener leads to the upstream 'cache'; add upstream = \"cache\" to a",
        "f:4:1: 'no way' cannot be the name of an upstream; use letters",
        "f:5:7: ",
        "f:6:1: 'default' is what [upstream] is called; choose another name",
        "f:7:13: lanes_max is 99; write 1 to 64",
        "f:10:12: 'cahce' is not a name of an upstream; did you mean 'cache'?",
    ];
    for start in starts {
        assert!(found.iter().any(|it| it.starts_with(start)), "{start}: {found:#?}");
    }
    let found = complaints(&format!("[upstreams.b]\ndb = 1\n{listener}upstream = \"b\"\n"));
    assert_eq!(
        found,
        [
            "f:1:16: no listener leads to [upstream]: each names another; remove upstream = … \
             from the listener that is to lead there",
            "f:2:1: the upstream has no url; add url = \"redis://HOST:6379\"",
        ]
    );
    let many: String =
        (0..UPSTREAMS_MAX).map(|n| format!("[upstreams.u{n}]\nurl = \"redis://h\"\n")).collect();
    let found = complaints(&many);
    assert_eq!(found.iter().filter(|it| it.contains("more than 16 upstreams")).count(), 1);
}

#[test]
fn one_upstream_is_led_nowhere_else() {
    let one = |port: u16, url: &str| {
        let listener = format!("[[listener]]\naddress = \"[::1]:{port}\"\n");
        load(&format!("{listener}[upstream]\nurl = \"{url}\"\n")).unwrap()
    };
    assert!(one(1, "redis://a").led_elsewhere(&one(2, "redis://b")).is_empty());
    let several = load(SEVERAL).unwrap();
    assert!(several.led_elsewhere(&several).is_empty());
    assert_eq!(one(1, "redis://a").led_elsewhere(&several), ["b"]);
}

#[test]
fn parts_of_memory_that_are_too_small_for_one_client_are_said() {
    let several: String =
        (0..3).map(|n| format!("[upstreams.u{n}]\nurl = \"redis://h\"\n")).collect();
    let listeners: String = (0..3)
        .map(|n| {
            format!("[[listener]]\naddress = \"127.0.0.1:{}\"\nupstream = \"u{n}\"\n", 7001 + n)
        })
        .collect();
    let notes = |memory: &str| {
        let first = "workers = 1\n[[listener]]\naddress = \"127.0.0.1:7000\"\n";
        let text = format!("{first}[upstream]\nurl = \"redis://h\"\n{several}{listeners}{memory}");
        let words: Vec<String> =
            load(&text).unwrap().notes.into_iter().map(|note| note.what).collect();
        words
    };
    let found = notes("");
    assert!(found[0].contains("request_bytes_total leaves each of 4 workers"), "{found:?}");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(notes("[memory]\nrequest_bytes_total = \"2GiB\"\n").is_empty());
    let found = notes("[memory]\nrequest_bytes_total = \"2GiB\"\nreply_bytes_total = \"32MiB\"\n");
    assert!(found[0].starts_with("reply_bytes_total leaves each of 4 workers"), "{found:?}");
}

#[test]
fn which_upstreams_there_are_is_cold_and_what_is_in_them_hot() {
    let before = load(SEVERAL).unwrap();
    let moved = load(&SEVERAL.replace("s:1/m", "t:1/m")).unwrap();
    assert_eq!(before.cold_changes(&moved), [""; 0]);
    assert_ne!(before.upstream_named("b"), moved.upstream_named("b"));
    assert_eq!(before.upstream_named("default"), moved.upstream_named("default"));
    let renamed = load(&SEVERAL.replace("s.b]", "s.c]").replace("= \"b\"", "= \"c\"")).unwrap();
    assert_eq!(before.cold_changes(&renamed), ["upstreams", "listeners"]);
}

#[test]
fn auto_workers_are_at_least_one() {
    assert!((1..=WORKERS_MAX).contains(&Workers::Auto.count()));
}

#[test]
fn limits_of_subscribers_are_those_of_redis_until_somebody_sets_them() {
    let settings = with_upstream("");
    assert_eq!(settings.listeners[0].pubsub, PubsubSettings::default());
    let text = "[[listener]]\naddress = \"127.0.0.1:1\"\n[listener.pubsub]\n\
                buffer_hard_bytes = 0\nbuffer_soft_bytes = \"1MiB\"\nbuffer_soft_time = \"5s\"\n\
                subscriptions = 7\nsubscription_bytes = \"64KiB\"\n";
    let expected = PubsubSettings {
        buffer_hard_bytes: 0,
        buffer_soft_bytes: 1 << 20,
        buffer_soft_time: Duration::from_secs(5),
        subscriptions: 7,
        subscription_bytes: 64 << 10,
    };
    assert_eq!(with_upstream(text).listeners[0].pubsub, expected);
    let found = complaints(
        "[[listener]]\naddress = \"127.0.0.1:1\"\n[listener.pubsub]\nbuffer_hard_bytes = \"1MiB\"\n\
         subscriptions = 0\n",
    );
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().any(|it| it.starts_with("f:6:17: subscriptions is 0")), "{found:?}");
    assert!(found.iter().any(|it| it.contains("is more than buffer_hard_bytes")), "{found:?}");
}

#[test]
fn how_errors_begin_is_one_of_three_words_and_changing_it_moves_nothing() {
    let of = |text: &str| load(&format!("[upstream]\n{text}")).unwrap().upstream;
    let plain = of("url = \"redis://h\"\n");
    assert_eq!(plain.unavailable_error, UnavailableError::Err);
    for (word, want) in
        [("LOADING", UnavailableError::Loading), ("CLUSTERDOWN", UnavailableError::ClusterDown)]
    {
        let chosen = of(&format!("url = \"redis://h\"\nunavailable_error = \"{word}\"\n"));
        assert_eq!(chosen.unavailable_error, want);
        assert!(chosen.is_same_deployment(&plain));
    }
    let found = complaints("upstream.unavailable_error = \"LOADNG\"\n");
    assert_eq!(
        found,
        ["f:2:30: 'LOADNG' is not a first word of an error; did you mean 'LOADING'?"]
    );
}

//! The grammar of addresses: where we listen, and the URL of the upstream.
//!
//! Owns the pure functions [`listen`], [`announced`] and [`upstream`]; they resolve no name and open nothing. Never quotes a
//! URL or any part of one in an error (INV-11): a slip of the keyboard puts a password where a host or a port
//! belongs.
//!
//! What surprises: `localhost` as a listen address means 127.0.0.1 and not also ::1, because one listener is
//! one socket; and userinfo must be percent-encoded, so that a `/` or `@` in a password cannot move the host.

use super::complaint::Fault;
use super::{Announced, Endpoint, ListenAddress, UNIX_MODE_DEFAULT};
use crate::log::Redacted;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Redis's own port, where a URL names none.
const REDIS_PORT: u16 = 6379;
/// Sentinel's, likewise.
const SENTINEL_PORT: u16 = 26379;
/// Longest path of a unix socket in bytes: `sun_path` of `sockaddr_un` is 108, its last byte a zero.
const UNIX_PATH_BYTES_MAX: usize = 107;
/// Highest database number: Redis counts them with an `int`.
const DB_MAX: u32 = i32::MAX as u32;

/// What an upstream URL says, before it is joined with the keys beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UpstreamUrl {
    /// Host and port, or the socket's path; of a cluster the first of its seeds; behind Sentinel the master's name.
    pub(super) endpoint: Endpoint,
    /// What it names, and by whom it is found.
    pub(super) deployment: Deployment,
    /// The scheme was `rediss…`.
    pub(super) is_tls: bool,
    /// `None`: the URL says nothing about a database.
    pub(super) db: Option<u32>,
    /// `None`: no user, or an empty one, which is Redis's `default`.
    pub(super) user: Option<String>,
    /// Decoded; never empty.
    pub(super) password: Option<Redacted<String>>,
}

/// What stands there, and who is to be asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deployment {
    /// One node, at the endpoint.
    Single,
    /// A cluster with these seeds.
    Cluster(Vec<Endpoint>),
    /// Whoever these Sentinels name.
    Sentinel {
        /// At least one.
        seeds: Vec<Endpoint>,
        /// What they call the master.
        master_name: String,
    },
}

/// What a URL's scheme says of the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One node.
    Single,
    /// A cluster, of which any nodes are named.
    Cluster,
    /// A master that Sentinels watch, of which any are named.
    Sentinel,
}

/// The part of a URL that is neither scheme, address nor path.
type UserInfo = (Option<String>, Option<Redacted<String>>);

/// Reads a listen address: `127.0.0.1:6379`, `[::1]:6379`, `localhost:6379` or `unix:/run/redis.sock`.
///
/// Port 0 asks the kernel for a free one. A unix socket gets the default mode.
pub(super) fn listen(text: &str) -> Result<ListenAddress, Fault> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(ListenAddress::Unix { path: unix_path(path)?, mode: UNIX_MODE_DEFAULT });
    }
    socket(text).map(ListenAddress::Tcp)
}

/// Reads an IP address with a port; `localhost` counts as 127.0.0.1.
pub(super) fn socket(text: &str) -> Result<SocketAddr, Fault> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(port) = text.strip_prefix("localhost:").and_then(port_number) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let hint = match text.rsplit_once(':') {
        Some(("" | "*", port)) => {
            format!("to listen everywhere write 0.0.0.0:{port} or [::]:{port}")
        }
        None if text.parse::<u16>().is_ok() => format!("write 127.0.0.1:{text}"),
        None if text.parse::<IpAddr>().is_ok() => "add a port, as in 127.0.0.1:6379".to_owned(),
        _ => "write an IP address and a port, as in 127.0.0.1:6379 or [::1]:6379".to_owned(),
    };
    wrong(format!("'{text}' is not an address to listen on"), hint)
}

/// Reads the address under which clients are to find us: a name or an IP address, and a port.
pub(super) fn announced(text: &str) -> Result<Announced, Fault> {
    let hint = "write what clients dial, as in \"redis.example:6379\" or \"[2001:db8::1]:6379\"";
    let fault = || Fault::new(format!("'{text}' is not an address to announce"), hint);
    // A port that nobody wrote would be a guess, and a wrong one behind every forwarded port.
    let (host, port) = match host_and_port(text, REDIS_PORT) {
        Ok((host, port)) if text.ends_with(&format!(":{port}")) => (host, port),
        _ => return Err(fault()),
    };
    Ok(Announced { host, port })
}

/// Reads an upstream URL: `redis://[user:password@]host[:port][/db]`, `redis-cluster://[user:password@]host[:port],…`,
/// `redis-sentinel://[user:password@]host[:port],…/name[/db]`, `rediss…://…`, `unix:/path`, `unix:///path`.
pub(super) fn upstream(url: &str) -> Result<UpstreamUrl, Fault> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return wrong("the upstream is not a URL", "write redis://HOST:6379");
    };
    match scheme {
        "redis" | "rediss" => redis_url(rest, scheme == "rediss", Kind::Single),
        "redis-cluster" | "rediss-cluster" => {
            redis_url(rest, scheme == "rediss-cluster", Kind::Cluster)
        }
        "redis-sentinel" | "rediss-sentinel" => {
            redis_url(rest, scheme == "rediss-sentinel", Kind::Sentinel)
        }
        "unix" => unix_url(rest),
        _ => {
            // Without `://` the word before the colon may be a host or even a user: it is not quoted.
            let hint = "write redis://HOST:6379, redis-cluster://HOST:6379, redis-sentinel://HOST:26379/NAME, each \
                        with rediss for TLS, or unix:/PATH";
            wrong("the upstream's URL has no scheme that is known here", hint)
        }
    }
}

/// Refuses an address.
fn wrong<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::new(what, hint))
}

/// What stands behind `redis:` or `rediss:`. The parts are taken off from the outside inwards.
fn redis_url(rest: &str, is_tls: bool, kind: Kind) -> Result<UpstreamUrl, Fault> {
    let Some(rest) = rest.strip_prefix("//") else {
        return wrong("the upstream's URL lacks // behind its scheme", "write redis://HOST:6379");
    };
    // Other tools put settings there; ignoring them would leave somebody believing in a time-out.
    if rest.contains(['?', '#']) {
        let hint =
            "put settings into keys of [upstream]; in a password write %3F for ? and %23 for #";
        return wrong("the upstream's URL has a query or a fragment", hint);
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    // An @ behind the first / can only come from a password that was not encoded.
    if path.contains('@') {
        return Err(unencoded());
    }
    let (info, address) = match authority.rsplit_once('@') {
        Some((info, address)) => (user_info(info)?, address),
        None => ((None, None), authority),
    };
    let (user, password) = info;
    let (endpoint, deployment, db) = match kind {
        Kind::Single => (node(address, REDIS_PORT)?, Deployment::Single, db(path)?),
        Kind::Cluster => cluster(address, path)?,
        Kind::Sentinel => sentinel(address, path)?,
    };
    Ok(UpstreamUrl { endpoint, deployment, is_tls, db, user, password })
}

/// What one kind of URL names.
type Named = (Endpoint, Deployment, Option<u32>);

/// `host,host` of a cluster.
fn cluster(address: &str, path: &str) -> Result<Named, Fault> {
    let db = db(path)?;
    if db.is_some_and(|db| db != 0) {
        return wrong("a Redis Cluster has database 0 only", "remove what stands behind the /");
    }
    let seeds = nodes(address, REDIS_PORT)?;
    let first = seeds.first().cloned().ok_or_else(unencoded)?;
    Ok((first, Deployment::Cluster(seeds), db))
}

/// `host,host/name` or `host,host/name/db` of a master behind Sentinel.
fn sentinel(address: &str, path: &str) -> Result<Named, Fault> {
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    // Sentinel takes letters, digits and these three; not quoted, it may be the tail of a password.
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || !name.chars().all(is_fine) {
        let hint =
            "write the name of `sentinel monitor`, as in redis-sentinel://HOST:26379/mymaster";
        return wrong("the upstream's URL names no master behind its Sentinels", hint);
    }
    let (seeds, master_name) = (nodes(address, SENTINEL_PORT)?, name.to_owned());
    let endpoint = Endpoint::Elected(master_name.clone());
    Ok((endpoint, Deployment::Sentinel { seeds, master_name }, db(rest)?))
}

/// What stands behind `unix:`. The path is taken as it is: no percent-encoding, no query.
fn unix_url(rest: &str) -> Result<UpstreamUrl, Fault> {
    // Both `unix:/path` and `unix:///path`; with two slashes the first word would be a host.
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return wrong("a unix socket has no host", "write unix:/PATH or unix:///PATH");
        }
        None => rest,
    };
    let endpoint = Endpoint::Unix(unix_path(path)?);
    Ok(UpstreamUrl {
        endpoint,
        deployment: Deployment::Single,
        is_tls: false,
        db: None,
        user: None,
        password: None,
    })
}

/// One node of a URL, and the port that it has if none is written.
fn node(address: &str, usual_port: u16) -> Result<Endpoint, Fault> {
    let (host, port) = host_and_port(address, usual_port)?;
    Ok(Endpoint::Tcp { host, port })
}

/// Several, separated by commas; at least one.
fn nodes(addresses: &str, usual_port: u16) -> Result<Vec<Endpoint>, Fault> {
    addresses.split(',').map(|address| node(address, usual_port)).collect()
}

/// A path that the system can bind or connect to, of either side.
fn unix_path(path: &str) -> Result<PathBuf, Fault> {
    if !path.starts_with('/') || path.ends_with('/') {
        let hint = "write an absolute path, as in unix:/run/breakwater/redis.sock";
        return wrong(format!("'{path}' is not a path of a unix socket"), hint);
    }
    if path.contains('?') {
        return wrong("a unix socket takes no query", "put settings into keys of [upstream]");
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        let what = format!("the unix socket's path has {} bytes", path.len());
        return wrong(what, format!("the system allows {UNIX_PATH_BYTES_MAX}"));
    }
    Ok(PathBuf::from(path))
}

/// A reserved character in the user or the password moves the end of the host; guessing where would dial a stranger.
fn unencoded() -> Fault {
    let hint =
        "percent-encode the password (%40 for @, %2F for /, %3A for :), or use password_file";
    Fault::new("the user or password in the upstream's URL has characters that end it", hint)
}

/// Splits `user:password`, each percent-encoded, each possibly empty or absent.
fn user_info(info: &str) -> Result<UserInfo, Fault> {
    // Brackets can only be those of a host that slid to this side of an unencoded @.
    if info.contains(['@', '[', ']']) {
        return Err(unencoded());
    }
    let (user, password) = match info.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (info, None),
    };
    let user = Some(percent_decode(user)?).filter(|user| !user.is_empty());
    let password = password.map(percent_decode).transpose()?;
    // Redis has no empty passwords; this is a template whose variable was empty.
    if password.as_ref().is_some_and(String::is_empty) {
        let hint = "leave out the colon, or write the password behind it";
        return wrong("the password in the upstream's URL is empty", hint);
    }
    Ok((user, password.map(Redacted::new)))
}

/// Replaces every `%XX`. What is not valid percent-encoding or not UTF-8 is refused rather than guessed.
fn percent_decode(text: &str) -> Result<String, Fault> {
    let broken =
        || Fault::new("the upstream's URL has a % without two hex digits", "write %25 for a %");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(broken());
        };
        // Two hex digits make at most 255.
        bytes.push((high * 16 + low) as u8);
    }
    let not_text = |_| {
        let hint = "put it into a file, without any encoding, and name that with password_file";
        Fault::new("the user or password in the upstream's URL is not UTF-8", hint)
    };
    String::from_utf8(bytes).map_err(not_text)
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`; the brackets are no part of the host.
fn host_and_port(address: &str, usual_port: u16) -> Result<(String, u16), Fault> {
    let (host, port) = match address.strip_prefix('[') {
        Some(bracketed) => ipv6_and_port(bracketed)?,
        None => {
            let (host, port) =
                address.split_once(':').map_or((address, None), |(h, p)| (h, Some(p)));
            check_host(host, port)?;
            (host, port)
        }
    };
    let port = match port {
        None => usual_port,
        // Not quoted: whoever forgot the host has the password standing here.
        Some(port) => match port_number(port) {
            Some(port) if port > 0 => port,
            _ => {
                return wrong("the upstream's port is not a port", "write 1 to 65535");
            }
        },
    };
    Ok((host.to_owned(), port))
}

/// Digits only, where `parse` would take a sign as well.
fn port_number(text: &str) -> Option<u16> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// What stands behind `[`. Zones (`%eth0`) are refused: they name an interface of one machine.
fn ipv6_and_port(bracketed: &str) -> Result<(&str, Option<&str>), Fault> {
    let broken = || {
        let hint = "write an IPv6 address in brackets, as in redis://[::1]:6379";
        Fault::new("the brackets of the upstream's host hold no IPv6 address", hint)
    };
    let (host, rest) = bracketed.split_once(']').ok_or_else(broken)?;
    if host.parse::<std::net::Ipv6Addr>().is_err() {
        return Err(broken());
    }
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(broken()),
    }
}

/// Letters, digits, `-`, `.` and `_` (which is no DNS name but common in container networks).
fn check_host(host: &str, port: Option<&str>) -> Result<(), Fault> {
    if host.is_empty() {
        return wrong("the upstream's URL has no host", "write redis://HOST:6379");
    }
    if port.is_some_and(|port| port.contains(':')) {
        let hint = "write an IPv6 address in brackets, as in redis://[::1]:6379";
        return wrong("the upstream's host has more than one colon", hint);
    }
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !host.chars().all(is_fine) {
        let hint = "write a name or an IP address, without blanks";
        return wrong("the upstream's host has characters that no host has", hint);
    }
    Ok(())
}

/// What stands behind the host's `/`: nothing, or the number of a database.
fn db(path: &str) -> Result<Option<u32>, Fault> {
    if path.is_empty() {
        return Ok(None);
    }
    let is_number = path.bytes().all(|byte| byte.is_ascii_digit());
    match path.parse() {
        Ok(db) if is_number && db <= DB_MAX => Ok(Some(db)),
        // Not quoted: behind an unencoded / this may be the tail of a password.
        _ => {
            let what = "what stands behind the host in the upstream's URL is not a database";
            wrong(what, "write a number, as in redis://HOST:6379/0")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> UpstreamUrl {
        let endpoint = Endpoint::Tcp { host: host.to_owned(), port };
        let deployment = Deployment::Single;
        UpstreamUrl { endpoint, deployment, is_tls: false, db: None, user: None, password: None }
    }

    fn password(text: &str) -> Option<Redacted<String>> {
        Some(Redacted::new(text.to_owned()))
    }

    #[test]
    fn upstream_urls_of_the_contract_are_read() {
        let user = Some("app".to_owned());
        for (url, expected) in [
            ("redis://localhost", tcp("localhost", 6379)),
            ("redis://10.1.2.3:7000", tcp("10.1.2.3", 7000)),
            ("redis://cache_1.prod-a.internal:6380/", tcp("cache_1.prod-a.internal", 6380)),
            ("redis://[::1]", tcp("::1", 6379)),
            (
                "redis://[2001:db8::7]:6380/2",
                UpstreamUrl { db: Some(2), ..tcp("2001:db8::7", 6380) },
            ),
            ("redis://h/0", UpstreamUrl { db: Some(0), ..tcp("h", 6379) }),
            ("rediss://h:1", UpstreamUrl { is_tls: true, ..tcp("h", 1) }),
            ("redis://app@h", UpstreamUrl { user: user.clone(), ..tcp("h", 6379) }),
            ("redis://:pw@h", UpstreamUrl { password: password("pw"), ..tcp("h", 6379) }),
            (
                "redis://app:a%40b%2Fc%3a%25:d@h:1/15",
                UpstreamUrl { user, password: password("a@b/c:%:d"), db: Some(15), ..tcp("h", 1) },
            ),
            (
                "redis://%C3%A9:p@h",
                UpstreamUrl {
                    user: Some("é".to_owned()),
                    password: password("p"),
                    ..tcp("h", 6379)
                },
            ),
        ] {
            assert_eq!(upstream(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn a_cluster_is_named_by_any_of_its_nodes() {
        let url = upstream("rediss-cluster://app:pw@a:1,[::1]:2,b").unwrap();
        let node = |host: &str, port| Endpoint::Tcp { host: host.to_owned(), port };
        let seeds = vec![node("a", 1), node("::1", 2), node("b", 6379)];
        assert_eq!(
            (&url.endpoint, &url.deployment),
            (&seeds[0], &Deployment::Cluster(seeds.clone()))
        );
        assert_eq!(
            (url.is_tls, url.user, url.password),
            (true, Some("app".into()), password("pw"))
        );
    }

    #[test]
    fn behind_sentinel_a_master_has_a_name() {
        let url = upstream("rediss-sentinel://app:pw@a,[::1]:7/my-master.1/3").unwrap();
        let node = |host: &str, port| Endpoint::Tcp { host: host.to_owned(), port };
        let master_name = "my-master.1".to_owned();
        assert_eq!(url.endpoint, Endpoint::Elected(master_name.clone()));
        let seeds = vec![node("a", 26379), node("::1", 7)];
        assert_eq!(url.deployment, Deployment::Sentinel { seeds, master_name });
        assert_eq!((url.db, url.is_tls, url.password), (Some(3), true, password("pw")));
        assert_eq!(upstream("redis-sentinel://a:1/m/").unwrap().db, None);
    }

    #[test]
    fn a_unix_url_has_one_slash_or_three() {
        for url in ["unix:/run/redis.sock", "unix:///run/redis.sock"] {
            assert_eq!(
                upstream(url).unwrap().endpoint,
                Endpoint::Unix("/run/redis.sock".into()),
                "{url}"
            );
        }
    }

    #[test]
    fn other_upstream_urls_are_refused_with_a_cure() {
        for (url, what) in [
            ("", "the upstream is not a URL"),
            ("localhost", "the upstream is not a URL"),
            ("localhost:6379", "no scheme that is known"),
            ("http://h", "no scheme that is known"),
            ("REDIS://h", "no scheme that is known"),
            ("redis:h", "lacks //"),
            ("redis://", "has no host"),
            ("redis://:6379", "has no host"),
            ("redis://h:", "port is not a port"),
            ("redis://h:0", "port is not a port"),
            ("redis://h:65536", "port is not a port"),
            ("redis://h:+1", "port is not a port"),
            ("redis://h:1/x", "is not a database"),
            ("redis://h:1/+1", "is not a database"),
            ("redis://h:1/2147483648", "is not a database"),
            ("redis://h?db=1", "query or a fragment"),
            ("redis://h#1", "query or a fragment"),
            ("redis://::1:6379", "has no host"),
            ("redis://fe80::1:6379", "more than one colon"),
            ("redis://[::1", "hold no IPv6 address"),
            ("redis://[h]:1", "hold no IPv6 address"),
            ("redis://[::1]6379", "hold no IPv6 address"),
            ("redis://[fe80::1%25eth0]:6379", "hold no IPv6 address"),
            ("redis://h h", "characters that no host has"),
            ("redis://h1,h2:6379", "characters that no host has"),
            ("redis://u:@h", "is empty"),
            ("redis://u:p@x@h", "characters that end it"),
            ("redis://u:p/x@h", "characters that end it"),
            ("redis://u:%zz@h", "% without two hex digits"),
            ("redis://u:%4@h", "% without two hex digits"),
            ("redis://u:%ff@h", "not UTF-8"),
            ("unix:", "'' is not a path"),
            ("unix:run/redis.sock", "'run/redis.sock' is not a path"),
            ("unix://host/run/redis.sock", "has no host"),
            ("unix:/run/", "'/run/' is not a path"),
            ("unix:/run/redis.sock?db=1", "takes no query"),
            ("redis-cluster://a:1,", "has no host"),
            ("redis-cluster://a:1,b:x", "port is not a port"),
            ("redis-cluster://a:1/3", "has database 0 only"),
            ("redis-sentinel://a:1", "names no master"),
            ("redis-sentinel://a:1/", "names no master"),
            ("redis-sentinel://a:1/a b", "names no master"),
            ("redis-sentinel://a:1/m/x", "is not a database"),
            ("redis-sentinel:///m", "has no host"),
        ] {
            let fault = upstream(url).expect_err(url);
            assert!(fault.what.contains(what), "{url}: {fault}");
            assert!(!fault.hint.is_empty(), "{url}: {fault}");
        }
    }

    #[test]
    fn no_error_about_a_url_quotes_its_password() {
        for url in [
            "hunter2",
            "hunter2:hunter2",
            "hunter2://u:hunter2@h",
            "redis:u:hunter2@h",
            "redis://u:hunter2@",
            "redis://u:hunter2@h:0",
            "redis://u:hunter2@h:1/x",
            "redis://u:hunter2@h:1?x",
            "redis://u:hunter2@[h",
            "redis://u:hunter2/@h",
            "redis://u:/hunter2@h",
            "redis://u:@hunter2@h",
            "redis://u:hunter2%@h",
            "redis://u:hunter2%ff@h",
            "redis://u:hunter2",
            "redis://hunter2!",
            "redis-cluster://u:hunter2@h:0",
            "redis-sentinel://u:hunter2@h/",
            "redis-sentinel://h/hunter2!",
        ] {
            let fault = upstream(url).expect_err(url);
            assert!(!fault.to_string().contains("hunter2"), "{url}: {fault}");
        }
    }

    #[test]
    fn an_announced_address_has_a_host_and_a_port() {
        for (text, host, port) in [
            ("10.0.0.7:7000", "10.0.0.7", 7000),
            ("redis.example:6379", "redis.example", 6379),
            ("[2001:db8::1]:6380", "2001:db8::1", 6380),
        ] {
            assert_eq!(announced(text).unwrap(), Announced { host: host.into(), port }, "{text}");
        }
        for text in ["", "redis", ":7000", "h:0", "h:65536", "h:+7", "::1", "[::1]", "a b:7", "h:"]
        {
            let fault = announced(text).unwrap_err();
            assert_eq!(fault.what, format!("'{text}' is not an address to announce"));
        }
    }

    #[test]
    fn listen_addresses_are_ip_and_port_or_a_unix_path() {
        for (text, address) in [
            ("127.0.0.1:6379", "127.0.0.1:6379"),
            ("localhost:6379", "127.0.0.1:6379"),
            ("[::1]:6379", "[::1]:6379"),
            ("0.0.0.0:0", "0.0.0.0:0"),
        ] {
            assert_eq!(listen(text), Ok(ListenAddress::Tcp(address.parse().unwrap())), "{text}");
        }
        let unix = ListenAddress::Unix { path: "/run/x.sock".into(), mode: 0o660 };
        assert_eq!(listen("unix:/run/x.sock"), Ok(unix));
    }

    #[test]
    fn other_listen_addresses_are_refused_with_a_cure() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, complaint) in [
            ("6379", "'6379' is not an address to listen on; write 127.0.0.1:6379"),
            (
                ":6379",
                "':6379' is not an address to listen on; to listen everywhere write 0.0.0.0:6379 or [::]:6379",
            ),
            (
                "*:6379",
                "'*:6379' is not an address to listen on; to listen everywhere write 0.0.0.0:6379 or [::]:6379",
            ),
            (
                "127.0.0.1",
                "'127.0.0.1' is not an address to listen on; add a port, as in 127.0.0.1:6379",
            ),
            (
                "redis.internal:6379",
                "'redis.internal:6379' is not an address to listen on; write an IP address and a port, as in 127.0.0.1:6379 or [::1]:6379",
            ),
            (
                "localhost:99999",
                "'localhost:99999' is not an address to listen on; write an IP address and a port, as in 127.0.0.1:6379 or [::1]:6379",
            ),
            (
                "unix:x.sock",
                "'x.sock' is not a path of a unix socket; write an absolute path, as in unix:/run/breakwater/redis.sock",
            ),
            (&long, "the unix socket's path has 108 bytes; the system allows 107"),
        ] {
            assert_eq!(listen(text).unwrap_err().to_string(), complaint, "{text}");
        }
        assert!(listen(&format!("unix:/{}", "x".repeat(106))).is_ok());
    }
}

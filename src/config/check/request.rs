//! The upstream that an order names which comes while we run: a URL, or an `[upstream]` table.
//!
//! Owns what such an order may say. What it names is all it brings: no password of the deployment in
//! force is carried over to an address that somebody sent us, and no file or variable of this machine
//! is read for it. Reads nothing; never quotes a URL (INV-11).
//!
//! What surprises: behind a bare URL the clocks and budgets in force stay, behind a table all of
//! `[upstream]` is as the table says, defaults included, exactly as in a file.

use super::super::address::{self, Deployment, UpstreamUrl};
use super::super::file::{WrittenUpstream, read};
use super::super::source::Source;
use super::super::{ClusterSettings, Complaint, Fault, Ping, PresentAs, ReplicaReads};
use super::super::{Credentials, Secret, SentinelSettings, UpstreamSettings};
use super::{Checker, NoUpstream, upstream};
use crate::cli::RunFlags;
use std::rc::Rc;
use std::time::Duration;

/// What the body of an order says, where `in_force` is followed now.
///
/// # Errors
/// Every complaint about it.
pub fn ordered(
    body: &str,
    in_force: &UpstreamSettings,
) -> Result<UpstreamSettings, Vec<Complaint>> {
    let text = body.trim();
    let complain = |fault| vec![Complaint::about(ORDER, fault)];
    if text.contains(['\n', '=']) && text.contains("[upstream]") {
        return table(body);
    }
    url(text, in_force).map_err(complain)
}

/// The settings in force with another address, and nothing that belongs to the old one.
fn url(text: &str, in_force: &UpstreamSettings) -> Result<UpstreamSettings, Fault> {
    let UpstreamUrl { endpoint, deployment, is_tls, db, user, password } = address::upstream(text)?;
    let is_cluster = matches!(deployment, Deployment::Cluster(_));
    let usual = ClusterSettings {
        seeds: Vec::new(),
        present_as: PresentAs::default(),
        replica_reads: ReplicaReads::default(),
        replica_max_lag: Duration::from_secs(10),
        zone: None,
    };
    let as_before = in_force.cluster.clone().unwrap_or(usual);
    let ping = match is_cluster == in_force.cluster.is_some() {
        true => in_force.ping,
        false if is_cluster => Ping::Local,
        false => Ping::Upstream,
    };
    let (cluster, sentinel) = match deployment {
        Deployment::Single => (None, None),
        Deployment::Cluster(seeds) => (Some(ClusterSettings { seeds, ..as_before }), None),
        Deployment::Sentinel { seeds, master_name } => {
            (None, Some(SentinelSettings { seeds, master_name, credentials: None }))
        }
    };
    let credentials = password.map(|password| Credentials {
        user: user.filter(|user| !user.is_empty()),
        password: Secret::Inline(password),
    });
    Ok(UpstreamSettings {
        endpoint,
        cluster,
        sentinel,
        ping,
        db: db.unwrap_or(0),
        tls: is_tls.then(|| in_force.tls.clone().unwrap_or_default()),
        credentials,
        ..in_force.clone()
    })
}

/// A table as it would stand in a file.
fn table(body: &str) -> Result<UpstreamSettings, Vec<Complaint>> {
    let source = Source::new(ORDER.to_owned(), body.to_owned());
    let (written, complaints) = read(&source);
    let mut checker = Checker::new(Some(Rc::new(source)), complaints);
    only_what_it_brings(&mut checker, &written.upstream);
    let flags = RunFlags::default();
    let settings = upstream::check(&mut checker, &flags, &written.upstream, NoUpstream::IsWrong);
    let others = body.lines().map(str::trim_start).filter(|line| line.starts_with('['));
    let is_ours = |line: &str| line.starts_with("[upstream]") || line.starts_with("[upstream.");
    if !written.upstreams.is_empty() || others.into_iter().any(|line| !is_ours(line)) {
        let what = "only [upstream] can be changed by an order";
        checker.complaints.push(Complaint::about(ORDER, Fault::new(what, "remove the rest")));
    }
    match settings {
        Some(settings) if checker.complaints.is_empty() => Ok(settings),
        _ => Err(checker.complaints),
    }
}

/// Who may send orders may not be one who may read this machine's files.
fn only_what_it_brings(checker: &mut Checker, written: &WrittenUpstream) {
    for key in [&written.password_file, &written.password_env].into_iter().flatten() {
        let hint = "write the password itself, or change the configuration file";
        checker.complain(key, "an order may not name files or variables of this machine", hint);
    }
}

/// What complaints call it.
const ORDER: &str = "the request";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Settings};

    fn in_force() -> UpstreamSettings {
        let url = Some("redis://app:secret@old:1/3".to_owned());
        let flags = RunFlags { upstream: url, ..RunFlags::default() };
        let upstream = Settings::load(&flags).unwrap().upstream;
        UpstreamSettings { lanes_max: 3, ..upstream }
    }

    #[test]
    fn a_url_keeps_the_clocks_and_takes_no_password_along() {
        let ordered = ordered("redis-cluster://a:1,b:2\n", &in_force()).unwrap();
        assert_eq!(ordered.endpoint, Endpoint::Tcp { host: "a".into(), port: 1 });
        assert_eq!((ordered.db, ordered.credentials, ordered.lanes_max), (0, None, 3));
        assert_eq!((ordered.cluster.unwrap().seeds.len(), ordered.ping), (2, Ping::Local));
        let with = super::ordered("redis://eve:x@b:2/1", &in_force()).unwrap();
        assert_eq!((with.db, with.credentials.unwrap().user), (1, Some("eve".into())));
    }

    #[test]
    fn a_table_is_judged_as_in_a_file_and_reads_nothing_of_this_machine() {
        let good = ordered("[upstream]\nurl = \"redis://h\"\nlanes_max = 2\n", &in_force());
        assert_eq!(good.unwrap().lanes_max, 2);
        for (body, words) in [
            ("[upstream]\nurl = \"redis://h\"\nlanes_mx = 2\n", "the request:3:1: 'lanes_mx'"),
            ("[upstream]\npassword_file = \"/etc/shadow\"\nurl = \"redis://h\"", "may not name"),
            ("workers = 2\n[upstream]\nurl = \"redis://h\"\n[memory]\n", "only [upstream]"),
            (
                "[upstreams.b]\nurl = \"redis://h\"\n[upstream]\nurl = \"redis://h\"",
                "only [upstream]",
            ),
            ("[upstream]\nlanes_max = 2\n", "no upstream is named"),
            ("http://secret.example", "is not a URL of Redis"),
            ("", "not a URL"),
        ] {
            let complaints = ordered(body, &in_force()).unwrap_err();
            let shown: Vec<String> = complaints.iter().map(ToString::to_string).collect();
            let shown = shown.join("\n");
            assert!(shown.contains(words) || words.contains("URL of Redis"), "{body}: {shown}");
            assert!(!shown.contains("secret") && !shown.contains("shadow"), "{shown}");
        }
    }
}

//! Request in, response out: what each path of the admin server answers.
//!
//! This file owns the list of endpoints. Answering is synchronous and does no I/O besides reading
//! `/proc/self` for the metrics page, so it is tested without sockets. Bodies of requests are
//! never read, but for an order (`orders`), whose answer takes as long as carrying it out.
//! What surprises: HEAD needs no code here. hyper drops the body of an answer to HEAD and keeps
//! its `Content-Length`.

use std::collections::BTreeMap;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::behind::{self, Behind, Ready};
use super::orders::Wish;
use super::{AdminState, policy};
use crate::findings::page;
use crate::stats::export;

/// Every answer is complete before it is sent.
pub(super) type Answer = Response<Full<Bytes>>;

/// The page of `/`, and the hint of an unknown path.
const ENDPOINTS: &str = "\
/metrics  counters, gauges and histograms in Prometheus text format
/healthz  200 while the process is alive
/readyz   200 if it can serve, else 503 and the reasons, one a line
/topology the nodes behind, who serves which slots, and what is amiss
/findings what is amiss behind, or could not be checked, each with its repair
/findings.json the same for machines
/upstream POST a URL or an [upstream] table: move there, once it is verified
/policy   the rules in force, where they come from, and what they have met
/policy.json the same for machines
/policy/report what was refused or would have been, from whom, by kind of key
/policy/report.json the same for machines
/policy/explain ?a=HGETALL&a=user:1: what would happen to a command, by which rule
/policy/reload POST: read the policy file now
/policy/rollback POST: the policy before this one, until the file changes
/policy/emergency POST command=KEYS&for=15m: deny it at once; DELETE …/NAME ends it
/slowlog  commands that took long, who asked, and where the time went
/slowlog.json the same for machines
";

/// Where rules for the moment are ordered; each then has a path below.
const EMERGENCY: &str = "/policy/emergency";

/// The media type of everything but the metrics.
const TEXT: &str = "text/plain; charset=utf-8";

/// The media type of what is meant for machines.
const JSON: &str = "application/json";

/// Answers one request, an order when it has been carried out.
pub(super) async fn respond(request: Request<Incoming>, state: &AdminState) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    let Some(chosen) = behind::chosen(&state.behind, query) else {
        return no_such_upstream(state);
    };
    if let Some(wish) = wish(request.method(), request.uri().path()) {
        if wish == Wish::Move && chosen.len() > 1 {
            // The first would be moved by whoever forgot to say which.
            return text(StatusCode::UNPROCESSABLE_ENTITY, name_one(state));
        }
        let orders = match (&wish, chosen.first()) {
            (Wish::Move, Some(behind)) => &behind.orders,
            _ => &state.policy_orders,
        };
        let (status, words) = orders.take(wish, request).await;
        return text(status, words);
    }
    if request.uri().path() == "/policy/explain" && reads(request.method()) {
        let (status, words) = policy::explained(state, chosen, query);
        return text(status, words);
    }
    answer(request.method(), request.uri().path(), state, chosen)
}

/// What a request orders, if it is an order.
fn wish(method: &Method, path: &str) -> Option<Wish> {
    match (method, path) {
        (&Method::POST, "/upstream") => Some(Wish::Move),
        (&Method::POST, "/policy/reload") => Some(Wish::ReloadPolicy),
        (&Method::POST, "/policy/rollback") => Some(Wish::RollBackPolicy),
        (&Method::POST, EMERGENCY) => Some(Wish::BeginEmergency),
        (&Method::DELETE, path) => {
            let name = path.strip_prefix(EMERGENCY)?.strip_prefix('/')?;
            Some(Wish::EndEmergency(name.to_owned()))
        }
        _ => None,
    }
}

fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Answers one request that only reads.
fn answer(method: &Method, path: &str, state: &AdminState, chosen: &[Behind]) -> Answer {
    let endpoint: fn(&AdminState, &[Behind]) -> Answer = match path {
        "/" => index,
        "/metrics" => metrics,
        "/healthz" => healthz,
        "/readyz" => readyz,
        "/topology" => snapshot,
        "/findings" => amiss,
        "/findings.json" => amiss_json,
        "/upstream" => return only("POST", "send the new upstream with POST\n"),
        "/policy" => rules,
        "/policy.json" => rules_json,
        "/policy/report" => report,
        "/policy/report.json" => report_json,
        "/policy/explain" => return only("GET, HEAD", "ask with GET\n"),
        "/policy/reload" | "/policy/rollback" => return only("POST", "ask for it with POST\n"),
        EMERGENCY => return only("POST", "send the rule with POST; /policy shows them\n"),
        "/slowlog" => slow,
        "/slowlog.json" => slow_json,
        _ => return not_found(),
    };
    if reads(method) {
        endpoint(state, chosen)
    } else {
        only("GET, HEAD", "only GET and HEAD are allowed here: this page reads and never changes\n")
    }
}

/// For a person with a browser who knows only the port.
fn index(state: &AdminState, _: &[Behind]) -> Answer {
    let several = match state.behind.len() {
        1 => String::new(),
        _ => format!("\n?upstream=NAME shows one upstream of: {}\n", names(state)),
    };
    text(StatusCode::OK, ENDPOINTS.to_owned() + &several)
}

/// The page for Prometheus; see `docs/metrics.md`.
fn metrics(state: &AdminState, _: &[Behind]) -> Answer {
    state.behind.iter().for_each(Behind::publish);
    let mut answer = text(StatusCode::OK, state.exporter.render());
    let media_type = HeaderValue::from_static(export::CONTENT_TYPE);
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

/// Alive is whoever can run this function. It must not depend on the upstream: a restart of the
/// proxy mends no Redis.
fn healthz(_: &AdminState, _: &[Behind]) -> Answer {
    text(StatusCode::OK, "ok\n".to_owned())
}

/// Ready is who can serve a client now. 503 takes a pod out of its Service and stops a roll-out; it
/// restarts nothing.
fn readyz(_: &AdminState, chosen: &[Behind]) -> Answer {
    let Ready { is_ready, lines } = behind::ready(chosen);
    if is_ready {
        let notes = lines.into_iter().map(|note| format!("but: {note}\n"));
        return text(StatusCode::OK, "ready\n".to_owned() + &notes.collect::<String>());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, lines.join("\n") + "\n")
}

/// What stands behind us, as the workers see it.
fn snapshot(_: &AdminState, chosen: &[Behind]) -> Answer {
    text(StatusCode::OK, behind::pages(chosen, Behind::topology_page))
}

/// What is amiss, each with its repair.
fn amiss(_: &AdminState, chosen: &[Behind]) -> Answer {
    text(StatusCode::OK, behind::pages(chosen, |it| page::page(&it.findings.all())))
}

/// The same as a list of objects.
fn amiss_json(_: &AdminState, chosen: &[Behind]) -> Answer {
    json_of(chosen, |it| it.findings.all())
}

/// The rules in force.
fn rules(state: &AdminState, _: &[Behind]) -> Answer {
    text(StatusCode::OK, policy::View::of(state).page())
}

/// The same as an object.
fn rules_json(state: &AdminState, _: &[Behind]) -> Answer {
    json(&policy::View::of(state))
}

/// What rules have refused, or would have.
fn report(state: &AdminState, _: &[Behind]) -> Answer {
    text(StatusCode::OK, policy::ReportView::of(state).page())
}

/// The same as an object.
fn report_json(state: &AdminState, _: &[Behind]) -> Answer {
    json(&policy::ReportView::of(state))
}

/// Commands that took long, the newest first.
fn slow(_: &AdminState, chosen: &[Behind]) -> Answer {
    text(StatusCode::OK, behind::pages(chosen, |it| it.slowlog.view().page()))
}

/// The same as an object.
fn slow_json(_: &AdminState, chosen: &[Behind]) -> Answer {
    json_of(chosen, |it| it.slowlog.view())
}

/// What upstreams are called.
fn names(state: &AdminState) -> String {
    state.behind.iter().map(|it| &*it.name).collect::<Vec<_>>().join(", ")
}

/// The name is not repeated, as little as a path.
fn no_such_upstream(state: &AdminState) -> Answer {
    text(StatusCode::NOT_FOUND, format!("no such upstream; there are: {}\n", names(state)))
}

/// What is told to an order that could be meant for any of several upstreams.
fn name_one(state: &AdminState) -> String {
    let names = names(state);
    format!(
        "nothing is changed: say which upstream is to move, ?upstream=NAME; there are: {names}\n"
    )
}

/// The path is not repeated: what a browser sends must not come back to it.
fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, format!("no such endpoint; there are:\n{ENDPOINTS}"))
}

/// Says what is allowed in words and, as HTTP demands, in the header `Allow`.
fn only(methods: &'static str, words: &str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, words.to_owned());
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

/// A plain text answer that nobody may cache: each is true only at this moment.
fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// An answer for machines. Nothing that is shown here can fail to be written.
fn json(body: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_string_pretty(body).unwrap_or_default();
    let mut answer = text(StatusCode::OK, body + "\n");
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    answer
}

/// What machines read of one upstream, or of several by their names.
fn json_of<T: serde::Serialize>(chosen: &[Behind], read: impl Fn(&Behind) -> T) -> Answer {
    match chosen {
        [only] => json(&read(only)),
        all => json(&all.iter().map(|it| (&*it.name, read(it))).collect::<BTreeMap<_, _>>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    /// Status and body of one request to a fresh state, about all upstreams or one.
    fn ask(method: Method, path: &str, state: &AdminState) -> (u16, String) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let answer = match behind::chosen(&state.behind, query) {
            Some(chosen) => answer(&method, path, state, chosen),
            None => no_such_upstream(state),
        };
        let status = answer.status().as_u16();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn alive_does_not_depend_on_readiness() {
        let state = AdminState::for_tests();
        assert_eq!(ask(Method::GET, "/healthz", &state), (200, "ok\n".to_owned()));
        assert_eq!(ask(Method::GET, "/readyz", &state).0, 503);
    }

    #[test]
    fn readiness_turns_with_the_upstream_and_says_why() {
        let state = AdminState::for_tests();
        state.behind[0].readiness.set_upstream(Ok(()));
        assert_eq!(ask(Method::GET, "/readyz", &state), (200, "ready\n".to_owned()));
        state.behind[0].readiness.set_notes(vec!["a shard\nis lost".to_owned()]);
        let told = "ready\nbut: a shard is lost\n".to_owned();
        assert_eq!(ask(Method::GET, "/readyz", &state), (200, told));
        state.behind[0]
            .readiness
            .set_upstream(Err("upstream a:1 is down (refused): start it".to_owned()));
        state.behind[0].readiness.set_draining();
        let (status, body) = ask(Method::GET, "/readyz", &state);
        assert_eq!(status, 503);
        let lines: Vec<&str> = body.lines().collect();
        assert!(lines[0].starts_with("draining"));
        assert_eq!(lines[1], "upstream a:1 is down (refused): start it");
    }

    #[test]
    fn the_metrics_page_agrees_with_readiness() {
        let state = AdminState::for_tests();
        let up = |page: &str| page.lines().any(|line| line == "breakwater_upstream_up 1");
        assert!(!up(&ask(Method::GET, "/metrics", &state).1));
        state.behind[0].readiness.set_upstream(Ok(()));
        assert!(up(&ask(Method::GET, "/metrics", &state).1));
        state.behind[0].readiness.set_upstream(Err("gone".to_owned()));
        let page = ask(Method::GET, "/metrics", &state).1;
        assert!(!up(&page));
        assert!(page.lines().any(|line| line == "breakwater_upstream_outages_total 1"));
    }

    #[test]
    fn of_several_upstreams_one_that_serves_is_enough_once_all_were_reached() {
        let state = AdminState::of(&["default", "b"]);
        let readyz = |query: &str| ask(Method::GET, &format!("/readyz{query}"), &state);
        let [first, second] = [0, 1].map(|place: usize| &state.behind[place].readiness);
        first.set_upstream(Ok(()));
        let (status, body) = readyz("");
        assert!(status == 503 && body.starts_with("b: upstream not reached yet"), "{body}");
        second.set_upstream(Ok(()));
        assert_eq!(readyz(""), (200, "ready\n".to_owned()));
        second.set_upstream(Err("it is down".to_owned()));
        assert_eq!(readyz(""), (200, "ready\nbut: b: it is down\n".to_owned()));
        assert_eq!(readyz("?upstream=b"), (503, "it is down\n".to_owned()));
        assert_eq!(readyz("?upstream=default"), (200, "ready\n".to_owned()));
        first.set_upstream(Err("gone".to_owned()));
        assert_eq!(readyz(""), (503, "default: gone\nb: it is down\n".to_owned()));
        first.set_upstream(Ok(()));
        second.set_upstream(Ok(()));
        state.behind.iter().for_each(|it| it.readiness.set_draining());
        assert_eq!(readyz("").0, 503);
    }

    #[test]
    fn pages_have_a_heading_for_each_of_several_upstreams() {
        let state = AdminState::of(&["default", "b"]);
        for path in ["/topology", "/findings", "/slowlog"] {
            let (_, body) = ask(Method::GET, path, &state);
            assert!(body.starts_with("upstream default\n"), "{body}");
            assert!(body.contains("\nupstream b\n"), "{body}");
            let (_, one) = ask(Method::GET, &format!("{path}?upstream=b"), &state);
            assert!(!one.contains("upstream b\n") && body.ends_with(&one), "{one}");
            let (status, body) = ask(Method::GET, &format!("{path}?upstream=c"), &state);
            assert_eq!((status, &*body), (404, "no such upstream; there are: default, b\n"));
        }
        let (_, json) = ask(Method::GET, "/findings.json", &state);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(json["default"].is_array() && json["b"].is_array(), "{json}");
        let (_, one) = ask(Method::GET, "/findings.json?upstream=%62", &state);
        assert_eq!(one, "[]\n");
    }

    #[test]
    fn unknown_paths_get_the_list_and_other_methods_the_allowed_ones() {
        let state = AdminState::for_tests();
        for path in ["/metric", "/metrics/", "//metrics", "*", "", "/%2e%2e", "/Healthz"] {
            let (status, body) = ask(Method::GET, path, &state);
            assert_eq!(status, 404, "{path}");
            assert!(body.contains("/readyz"), "{path}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = answer(&method, "/metrics", &state, &state.behind);
            assert_eq!(answer.status(), 405);
            assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
        }
        assert_eq!(ask(Method::POST, "/nothing", &state).0, 404);
    }

    #[test]
    fn the_index_lists_every_endpoint_and_each_exists() {
        let state = AdminState::for_tests();
        let (status, body) = ask(Method::GET, "/", &state);
        assert_eq!(status, 200);
        let paths: Vec<&str> = body.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(paths.len(), 17);
        for path in paths {
            assert_ne!(ask(Method::GET, path, &state).0, 404, "{path}");
        }
    }
}

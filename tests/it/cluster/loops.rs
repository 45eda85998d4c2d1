//! Nodes that send a command in circles: it is followed for a while, and never for ever.
//!
//! Owns the proof that redirects are bounded, in number and in pace. Never starts a real cluster: no honest one does
//! this for longer than a moment.
//!
//! What surprises: two nodes that disagree for an instant are normal at the end of an atomic migration. That is why a
//! second redirect is followed as well, and only many of them are slowed down.

use std::sync::{Arc, OnceLock};

use crate::support::{Act, FakeUpstream, Proxy, bulk};

/// The ports of two fakes that know each other.
type Ports = Arc<OnceLock<[u16; 2]>>;

#[test]
fn a_loop_of_redirects_ends_and_is_not_run_through_as_fast_as_it_can_be() {
    let fakes =
        two_that_answer(|from, ports| format!("-MOVED 12182 127.0.0.1:{}\r\n", ports[1 - from]));
    let proxy = Proxy::before(&url(&fakes)).ready();
    let mut client = proxy.client();
    let reply = client.text("GET foo");
    assert!(reply.starts_with('-'), "{reply}");
    let asked = fakes.each_ref().map(|fake| fake.count("GET foo"));
    eprintln!("{asked:?} questions, then {}", reply.trim_end());
    assert!(asked.iter().all(|&count| count > 0), "both were asked: {asked:?}");
    assert!(asked.iter().sum::<usize>() < ASKED_MAX, "{asked:?} questions");
    // Nobody else waits for that.
    assert_eq!(client.text("ECHO on"), "$2\r\non\r\n");
}

#[test]
fn a_loop_of_ask_redirects_ends_too() {
    let fakes =
        two_that_answer(|from, ports| format!("-ASK 12182 127.0.0.1:{}\r\n", ports[1 - from]));
    let proxy = Proxy::before(&url(&fakes)).ready();
    let reply = proxy.client().text("GET foo");
    assert!(reply.starts_with('-'), "{reply}");
    let asked = fakes.each_ref().map(|fake| fake.count("GET foo"));
    assert!(asked.iter().sum::<usize>() < ASKED_MAX, "{asked:?} questions");
}

#[test]
fn two_nodes_that_disagree_for_an_instant_are_waited_for() {
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let fakes = two_that_answer(move |from, ports| {
        match seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..3 => format!("-MOVED 12182 127.0.0.1:{}\r\n", ports[1 - from]),
            _ => "$3\r\nbar\r\n".to_owned(),
        }
    });
    let proxy = Proxy::before(&url(&fakes)).ready();
    assert_eq!(proxy.client().text("GET foo"), "$3\r\nbar\r\n");
}

#[test]
fn a_redirect_to_a_stranger_is_not_followed() {
    let stranger = FakeUpstream::start(|_| Act::Reply(b"$5\r\nstole\r\n".to_vec()));
    let port = stranger.port();
    let fakes = two_that_answer(move |_, _| format!("-MOVED 12182 127.0.0.1:{port}\r\n"));
    let proxy = Proxy::before(&url(&fakes)).ready();
    let reply = proxy.client().text("GET foo");
    assert!(reply.starts_with('-'), "{reply}");
    assert_eq!(stranger.asked().len(), 0, "a node that only an error names");
}

/// Two nodes that share the slots and answer GET as they are told; who is asked is 0 or 1.
fn two_that_answer(
    answer: impl Fn(usize, &[u16; 2]) -> String + Send + Sync + 'static,
) -> [FakeUpstream; 2] {
    let (ports, answer) = (Ports::default(), Arc::new(answer));
    let fakes = [0, 1].map(|number| {
        let (ports, answer) = (Arc::clone(&ports), Arc::clone(&answer));
        FakeUpstream::start(move |asked| {
            let ports = ports.get().expect("nobody asks before both are there");
            let reply = match &*asked.words {
                "CLUSTER NODES" => bulk(nodes(number, ports).as_bytes()),
                "ASKING" | "READONLY" => b"+OK\r\n".to_vec(),
                words if words.starts_with("GET ") => answer(number, ports).into_bytes(),
                _ => b"-ERR unknown command\r\n".to_vec(),
            };
            Act::Reply(reply)
        })
    });
    ports.set(fakes.each_ref().map(FakeUpstream::port)).expect("it is set once");
    fakes
}

/// What each of the two says of both.
fn nodes(myself: usize, ports: &[u16; 2]) -> String {
    let line = |number: usize| {
        let (id, port) = (["a", "b"][number].repeat(40), ports[number]);
        let flags = if number == myself { "myself,master" } else { "master" };
        let slots = ["0-8191", "8192-16383"][number];
        let epoch = number + 1;
        format!("{id} 127.0.0.1:{port}@{} {flags} - 0 0 {epoch} connected {slots}\n", port + 1)
    };
    line(0) + &line(1)
}

fn url(fakes: &[FakeUpstream; 2]) -> String {
    let [one, two] = fakes.each_ref().map(FakeUpstream::port);
    format!("redis-cluster://127.0.0.1:{one},127.0.0.1:{two}")
}

/// A loop without a brake would ask some ten thousand times a second.
const ASKED_MAX: usize = 500;

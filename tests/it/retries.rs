//! What we add to the load of a node in trouble: attempts against commands.
//!
//! Owns the proof that reads which may be sent again do not become a storm. What surprises: the server here takes
//! every command and loses the connection before it answers, which is the worst that can happen to reads; what was
//! sent again is lost with the next connection as well.

use std::time::Instant;

use crate::support::{Act, Client, FakeUpstream, Proxy, line, shown, until};

#[test]
fn attempts_stay_within_a_tenth_of_the_commands_while_a_node_loses_them() {
    const ROUNDS: usize = 4;
    const CLIENTS: usize = 100;
    let node = FakeUpstream::start(|asked| match asked.words.as_str() {
        "GET last" => Act::Close,
        _ => Act::Reply(Vec::new()),
    });
    // The budget grows from the start of the process on.
    let began = Instant::now();
    let proxy = Proxy::before(&node.url()).ready();
    let mut everybody: Vec<Client> = Vec::new();
    for round in 1..=ROUNDS {
        let before = node.count("GET k");
        // New ones: of a client that has seen no reply yet little is taken at a time.
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.client()).collect();
        clients.iter_mut().for_each(|client| client.send(line("GET k")));
        until("the node has all commands", || node.count("GET k") >= before + CLIENTS);
        let mut last = proxy.client();
        last.send(line("GET last"));
        until("it has lost them", || proxy.metric("breakwater_lanes_lost_total") >= round as f64);
        everybody.extend(clients);
        everybody.push(last);
    }
    let commands = everybody.len() as f64;
    // Until nobody waits any more, and so nothing is sent again any more.
    for client in &mut everybody {
        let answer = client.frame();
        assert!(answer.starts_with(b"-ERR breakwater: no reply"), "{}", shown(&answer));
    }
    let attempts = node.count("GET") as f64;
    // A tenth, ten to begin with, and five a second.
    let extra = 10.0 + 5.0 * began.elapsed().as_secs_f64();
    assert!(attempts <= 1.1 * commands + extra, "{attempts} attempts for {commands} commands");
    let resent = proxy.metric_of("breakwater_commands_resent_total", "read_only");
    // The node's breaker may hold back what was sent again, so both are counted.
    assert!(resent <= 0.1 * commands + extra, "{resent} sent again of {commands} commands");
    assert!(resent >= 0.05 * commands, "only {resent} were sent again: the test proves nothing");
}

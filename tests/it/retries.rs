//! What we add to the load of a node in trouble: attempts against commands.
//!
//! Owns the proof that reads which may be sent again do not become a storm. What surprises: the server here takes
//! every command and loses the connection before it answers, which is the worst that can happen to reads.

use std::time::Instant;

use crate::support::fake::{Act, FakeUpstream};
use crate::support::{Proxy, line, until};

#[test]
fn attempts_stay_within_a_tenth_of_the_commands_while_a_node_loses_them() {
    const ROUNDS: usize = 8;
    const COMMANDS: usize = 250;
    let node = FakeUpstream::start(|asked| match asked.words.as_str() {
        "GET last" => Act::Close,
        _ => Act::Reply(Vec::new()),
    });
    let proxy = Proxy::before(&node.url());
    let mut client = proxy.client();
    until("the proxy is connected", || proxy.metric("breakwater_upstream_up") == 1.0);
    let began = Instant::now();
    for _ in 0..ROUNDS {
        let mut pipeline = line("GET k").repeat(COMMANDS - 1);
        pipeline.extend(line("GET last"));
        client.send(pipeline);
        // What was sent again gets no answer either, and its connection is closed by the next round's last command.
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    client.send(line("GET last"));
    let commands = ROUNDS * COMMANDS + 1;
    until("every command has been answered or sent again", || {
        proxy.metric_of("breakwater_commands_total", "command=\"get\"") >= 0.9 * commands as f64
    });
    let attempts = node.count("GET k") + node.count("GET last");
    // A tenth, ten to begin with, and five a second.
    let allowed = 1.1 * commands as f64 + 10.0 + 5.0 * began.elapsed().as_secs_f64();
    assert!(attempts as f64 <= allowed, "{attempts} attempts for {commands} commands");
    assert!(proxy.metric_of("breakwater_commands_resent_total", "read_only") >= 1.0);
}

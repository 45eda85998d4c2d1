//! Connections of one client each are counted, and those that wait never get the last of them (INV-9).
//!
//! Owns small budgets and everything that can be wrong with a queue: who is refused, who is served, who has left.
//! Never relies on how long anything takes; a wait of a second is part of the promise and is waited for.
//!
//! What surprises: a connection that rests counts. It must give way, whichever worker it rests on.

use super::blocked;
use crate::support::pair::pipeline;
use crate::support::{Client, Proxy, RedisServer, line, shown, until};

/// A proxy with a bound on connections of one client each.
fn bounded(redis: &RedisServer, most: usize, more: &str) -> Proxy {
    let toml = format!(
        "workers = 1\n[upstream]\nurl = \"{}\"\npinned_max = {most}\n{more}\n",
        redis.url()
    );
    let proxy = Proxy::configured(&toml).ready();
    // The bound is set by the first tick, which counts connections as well.
    let mut client = proxy.client();
    assert_eq!(client.text("WATCH k"), "+OK\r\n");
    until("a tick has passed", || proxy.metric("breakwater_pinned_connections") == 1.0);
    assert_eq!(client.text("UNWATCH"), "+OK\r\n");
    proxy
}

/// Clients that wait for an element of `q`.
fn waiting(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.send(line("BLPOP q 0")));
    clients
}

/// Waits until so many commands were refused for want of a connection.
fn refused(proxy: &Proxy, count: usize) {
    let what = format!("{count} commands are refused");
    until(&what, || refusals(proxy) >= count);
    assert_eq!(refusals(proxy), count);
}

fn refusals(proxy: &Proxy) -> usize {
    proxy.metric("breakwater_pinned_refused_total") as usize
}

/// A transaction in pieces works.
fn transact(client: &mut Client) {
    for (words, reply) in
        [("MULTI", "+OK\r\n"), ("GET none", "+QUEUED\r\n"), ("EXEC", "*1\r\n$-1\r\n")]
    {
        assert_eq!(client.text(words), reply);
    }
}

/// Replies of clients that wait: how many were refused, and how many got an element.
fn judged(clients: &mut [Client]) -> (usize, usize) {
    let replies: Vec<String> =
        clients.iter_mut().map(|client| String::from_utf8_lossy(&client.frame()).into()).collect();
    let refused = "-ERR breakwater: not executed: waited 1.0 s for one of the 10 connections";
    let count = |start: &str| replies.iter().filter(|reply| reply.starts_with(start)).count();
    assert_eq!(count(refused) + count("*2\r\n$1\r\nq\r\n"), replies.len(), "{replies:?}");
    (count(refused), count("*2"))
}

#[test]
fn those_who_wait_too_many_are_refused_and_transactions_go_on() {
    let redis = RedisServer::start();
    let proxy = bounded(&redis, 10, "");
    let mut clients = waiting(&proxy, 20);
    // Four of ten are out of their reach.
    blocked(&redis, 6);
    let mut other = proxy.client();
    transact(&mut other);
    refused(&proxy, 14);
    transact(&mut other);
    blocked(&redis, 6);
    let mut direct = redis.client();
    (0..6).for_each(|number| drop(direct.ask(&format!("RPUSH q {number}"))));
    assert_eq!(judged(&mut clients), (14, 6));
    // Nobody is worse off later.
    let mut again = waiting(&proxy, 6);
    blocked(&redis, 6);
    (0..6).for_each(|number| drop(direct.ask(&format!("RPUSH q {number}"))));
    assert_eq!(judged(&mut again), (0, 6));
}

#[test]
fn those_who_wait_do_not_get_the_reserve_by_way_of_connections_that_rest() {
    let redis = RedisServer::start();
    let proxy = bounded(&redis, 10, "");
    // Ten transactions at once leave ten connections that rest.
    let mut clients: Vec<Client> = (0..10).map(|_| proxy.client()).collect();
    for words in ["MULTI", "GET none", "EXEC"] {
        clients.iter_mut().for_each(|client| assert_ne!(client.ask(words)[0], b'-', "{words}"));
    }
    until("all of them rest", || crate::transactions::pinned_connections(&redis) == 10);
    let mut many = waiting(&proxy, 20);
    refused(&proxy, 14);
    blocked(&redis, 6);
    transact(&mut clients[0]);
    let mut direct = redis.client();
    (0..6).for_each(|number| drop(direct.ask(&format!("RPUSH q {number}"))));
    assert_eq!(judged(&mut many), (14, 6));
}

#[test]
fn connections_that_rest_on_one_worker_give_way_to_the_other() {
    let redis = RedisServer::start();
    let toml = format!("workers = 2\n[upstream]\nurl = \"{}\"\npinned_max = 10\n", redis.url());
    let proxy = Proxy::configured(&toml).ready();
    // Each new client goes to the worker with fewer: neighbours are on different ones.
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    for half in [0, 1, 0, 1] {
        let mut mine: Vec<&mut Client> = clients.iter_mut().skip(half).step_by(2).collect();
        // All ten places are taken by one worker, whoever had them before.
        for (words, reply) in [("MULTI", "+OK\r\n"), ("GET none", "+QUEUED\r\n")] {
            mine.iter_mut().for_each(|client| client.send(line(words)));
            for client in &mut mine {
                assert_eq!(String::from_utf8_lossy(&client.frame()), reply, "{words}");
            }
        }
        mine.iter_mut().for_each(|client| assert_eq!(client.text("EXEC"), "*1\r\n$-1\r\n"));
    }
    assert_eq!(refusals(&proxy), 0);
}

#[test]
fn everybody_in_the_queue_is_served_when_places_become_free_at_once() {
    let redis = RedisServer::start();
    // Nobody is refused within this test, and ticks alone would take longer than its patience.
    let proxy = bounded(&redis, 400, "pinned_wait = \"60s\"");
    for is_clean in [true, false] {
        let mut first: Vec<Client> = (0..400).map(|_| proxy.client()).collect();
        first.iter_mut().for_each(|client| assert_eq!(client.text("MULTI"), "+OK\r\n"));
        let mut second: Vec<Client> = (0..400).map(|_| proxy.client()).collect();
        second.iter_mut().for_each(|client| client.send(pipeline("MULTI|SELECT 0|EXEC")));
        until("they wait", || proxy.metric("breakwater_pinned_waiting") == 400.0);
        match is_clean {
            true => first.iter_mut().for_each(|client| client.send(line("EXEC"))),
            false => first.clear(),
        }
        for client in &mut second {
            let frames = client.frames(3);
            assert_eq!(
                shown(&frames[2]),
                shown(b"*1\r\n+OK\r\n"),
                "clean: {is_clean}; {}",
                shown(&frames[0])
            );
        }
        drop(first);
    }
    assert_eq!(refusals(&proxy), 0);
}

#[test]
fn who_leaves_the_queue_executes_nothing_and_stands_in_nobody_s_way() {
    let redis = RedisServer::start();
    let proxy = bounded(&redis, 10, "pinned_wait = \"60s\"");
    let mut holders: Vec<Client> = (0..10).map(|_| proxy.client()).collect();
    holders.iter_mut().for_each(|client| assert_eq!(client.text("MULTI"), "+OK\r\n"));
    // They are in front, and they are gone when their turn comes.
    let behind = line("INCR ran").repeat(20_000);
    let mut leaving: Vec<Client> = (0..20)
        .map(|number| {
            let mut client = proxy.client();
            client.send(pipeline(["WATCH k|INCR ran", "BLPOP q 0|INCR ran"][number % 2]));
            if number >= 10 {
                client.send(&behind);
            }
            client
        })
        .collect();
    until("they stand in the queue", || proxy.metric("breakwater_pinned_waiting") == 20.0);
    leaving.drain(..).for_each(Client::abort);
    let mut last = proxy.client();
    last.send(line("MULTI"));
    until("they are forgotten", || proxy.metric("breakwater_pinned_waiting") == 1.0);
    assert_eq!(holders[0].text("EXEC"), "*0\r\n");
    assert_eq!(last.frame(), b"+OK\r\n");
    let mut direct = redis.client();
    assert_eq!(direct.ask("RPUSH q a"), b":1\r\n");
    assert_eq!(last.text("EXEC"), "*0\r\n");
    drop(holders);
    until("nobody has a connection", || redis_is_quiet(&redis));
    assert_eq!(direct.ask("EXISTS ran"), b":0\r\n");
    assert_eq!(direct.ask("LLEN q"), b":1\r\n");
}

fn redis_is_quiet(redis: &RedisServer) -> bool {
    redis.client().text("CLIENT LIST").lines().all(|line| !line.contains("multi=0"))
}

#[test]
fn a_refused_multi_takes_the_rest_of_its_transaction_with_it() {
    let redis = RedisServer::start();
    let proxy = bounded(&redis, 10, "");
    let mut holders: Vec<Client> = (0..10).map(|_| proxy.client()).collect();
    holders.iter_mut().for_each(|client| assert_eq!(client.text("MULTI"), "+OK\r\n"));
    let mut client = proxy.client();
    client.send(pipeline("MULTI|SELECT 1|INCR ran|HELLO 3|CLIENT SETNAME x|INCR ran|EXEC"));
    let frames = client.frames(7);
    let texts: Vec<_> = frames.iter().map(|frame| String::from_utf8_lossy(frame)).collect();
    assert!(texts[0].starts_with("-ERR breakwater: not executed: waited "), "{texts:?}");
    assert!(texts.iter().all(|text| text.starts_with('-')), "{texts:?}");
    // Nothing of it happened: not there, and not to the client's own connection.
    assert_eq!(client.text("GET none"), "$-1\r\n", "{texts:?}");
    assert_eq!(client.text("CLIENT GETNAME"), "$-1\r\n", "{texts:?}");
    assert_eq!(client.text("SET here 1"), "+OK\r\n");
    let mut direct = redis.client();
    assert_eq!(direct.ask("EXISTS here"), b":1\r\n", "{texts:?}");
    assert_eq!(direct.ask("EXISTS ran"), b":0\r\n", "{texts:?}");
    // Who waits for the answer to MULTI knows better than to go on; it is not in a transaction.
    assert!(client.text("MULTI").starts_with("-ERR breakwater: not executed: waited "));
    assert_eq!(client.text("INCR alone"), ":1\r\n");
    assert_eq!(client.text("EXEC"), "-ERR EXEC without MULTI\r\n");
}

#[test]
fn a_multi_that_turns_out_to_be_a_whole_block_leaves_the_queue() {
    let redis = RedisServer::start();
    let proxy = bounded(&redis, 10, "");
    let mut holders: Vec<Client> = (0..10).map(|_| proxy.client()).collect();
    holders.iter_mut().for_each(|client| assert_eq!(client.text("MULTI"), "+OK\r\n"));
    let mut client = proxy.client();
    client.send(line("MULTI"));
    until("it stands in the queue", || proxy.metric("breakwater_pinned_waiting") == 1.0);
    // With the rest of it there it needs no connection of its own.
    client.send(pipeline("INCR n|EXEC"));
    assert_eq!(client.frames(3)[2], b"*1\r\n:1\r\n");
    until("it has left the queue", || proxy.metric("breakwater_pinned_waiting") == 0.0);
    assert_eq!(holders.pop().expect("ten of them").text("EXEC"), "*0\r\n");
    // A place is free: nobody is refused on account of an earlier wait.
    assert_eq!(client.text("MULTI"), "+OK\r\n");
    assert_eq!(client.text("EXEC"), "*0\r\n");
}

#[test]
fn draining_ends_with_clients_that_wait_and_pops_nothing_for_them() {
    let redis = RedisServer::start();
    let mut proxy = bounded(&redis, 100, "");
    let mut many = waiting(&proxy, 50);
    blocked(&redis, 50);
    let mut transaction = proxy.client();
    assert_eq!(transaction.text("MULTI"), "+OK\r\n");
    assert_eq!(transaction.text("INCR n"), "+QUEUED\r\n");
    let mut behind = proxy.client();
    behind.send(pipeline("BLPOP q 0|INCR n"));
    blocked(&redis, 51);
    proxy.terminate();
    assert!(proxy.exit_status().success());
    assert!(proxy.log().contains("every client was answered"), "it waited for those who wait");
    many.iter_mut().for_each(|client| assert_eq!(client.rest(), b""));
    assert_eq!((transaction.rest(), behind.rest()), (Vec::new(), Vec::new()));
    blocked(&redis, 0);
    let mut direct = redis.client();
    assert_eq!(direct.ask("RPUSH q a"), b":1\r\n");
    assert_eq!(direct.ask("EXISTS n"), b":0\r\n");
}

//! Clients that leave while they wait: what is pushed afterwards is still there.
//!
//! Owns a thousand of them, in every way in which a connection can end. Never pushes before the server has said
//! that nobody waits: what is popped for somebody who is just leaving is lost with Redis as well.
//!
//! What surprises: a client with much input behind its wait is not read any more, and its end must be noticed all
//! the same.

use super::{blocked, length};
use crate::support::crowd::Crowd;
use crate::support::pair::pipeline;
use crate::support::{Client, Proxy, RedisServer, line, until};

/// Clients that wait and leave.
const MANY: usize = 1000;

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It closes.
    Close,
    /// It is killed: a reset.
    Abort,
    /// It only stops sending.
    HalfClose,
    /// It closes behind further commands.
    CloseBehindInput,
    /// It closes behind more commands than are read ahead.
    CloseBehindMuchInput,
    /// It is reset behind further commands.
    AbortBehindInput,
    /// It closes in the middle of a command.
    CloseInACommand,
}

const WAYS: [Way; 7] = [
    Way::Close,
    Way::Abort,
    Way::HalfClose,
    Way::CloseBehindInput,
    Way::CloseBehindMuchInput,
    Way::AbortBehindInput,
    Way::CloseInACommand,
];

/// Ends a connection; one that is only half closed is given back, so that it stays so.
fn leave(mut client: Client, way: Way) -> Option<Client> {
    match way {
        Way::Close => {}
        Way::Abort => client.abort(),
        Way::HalfClose => {
            client.finish_sending();
            return Some(client);
        }
        Way::CloseBehindInput => client.send(pipeline("LPOP q|BLPOP q 0|INCR after")),
        // More than is read ahead, and no more than the kernel takes: it must be able to deliver the end.
        Way::CloseBehindMuchInput => client.send(line("LPOP q").repeat(6000)),
        Way::AbortBehindInput => {
            client.send(line("LPOP q").repeat(100));
            client.abort();
        }
        Way::CloseInACommand => client.send(b"*2\r\n$4\r\nINCR\r\n$100\r\nafter"),
    }
    None
}

#[test]
fn a_thousand_clients_leave_while_they_wait_and_not_one_element_vanishes() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let crowd = Crowd::start(&proxy, 8);
    for words in ["BLPOP q 0", "BLMOVE q other LEFT LEFT 0", "BLMPOP 0 2 none q LEFT COUNT 10"] {
        let mut clients: Vec<Client> = (0..MANY).map(|_| proxy.client()).collect();
        clients.iter_mut().for_each(|client| client.send(line(words)));
        blocked(&redis, MANY);
        crowd.pass_round();
        let half_closed: Vec<Client> = clients
            .into_iter()
            .enumerate()
            .filter_map(|(number, client)| leave(client, WAYS[number % WAYS.len()]))
            .collect();
        blocked(&redis, 0);
        let mut direct = redis.client();
        for number in 0..MANY {
            direct.ask(&format!("RPUSH q element-{number}"));
        }
        crowd.pass_round();
        assert_eq!(length(&mut direct, "q"), MANY, "{words}");
        assert_eq!(
            direct.ask("EXISTS other after"),
            b":0\r\n",
            "{words}: something ran for nobody"
        );
        direct.ask("DEL q");
        drop(half_closed);
    }
    until("their connections are closed", || pinned_connections(&redis) == 0);
    crowd.finish();
}

fn pinned_connections(redis: &RedisServer) -> usize {
    crate::transactions::pinned_connections(redis)
}

#[test]
fn each_way_to_leave_ends_the_wait_at_once() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    for words in [
        "BLPOP q 0",
        "BRPOP q 0",
        "BZPOPMIN q 0",
        "XREAD BLOCK 0 STREAMS q $",
        "WAIT 5 0",
        "WATCH k|BLPOP q 0",
        "CLIENT TRACKING on|BLPOP q 0",
        "SELECT 1|BLPOP q 0",
        "HELLO 3|BLPOP q 0",
        "CLIENT REPLY OFF|BLPOP q 0",
    ] {
        for way in WAYS {
            let mut client = proxy.client();
            client.send(pipeline(words));
            blocked(&redis, 1);
            let half_closed = leave(client, way);
            blocked(&redis, 0);
            drop(half_closed);
        }
    }
    crate::transactions::nothing_is_left(&redis);
    assert_eq!(redis.client().ask("EXISTS after q"), b":0\r\n");
}

#[test]
fn a_wait_that_is_behind_other_commands_when_its_client_leaves_is_not_begun_or_ends() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    for talk in [
        "BLPOP q 0",
        "SET a 1|BLPOP q 0",
        "WATCH k|BLPOP q 0",
        "WATCH k|GET k|BLPOP q 0|BLPOP q 0",
        "MULTI|SELECT 1|EXEC|BLPOP q 0",
        "BLPOP none 0.01|BLPOP q 0",
    ] {
        for way in [Way::Close, Way::Abort, Way::HalfClose] {
            for _ in 0..5 {
                let mut client = proxy.client();
                client.send(pipeline(talk));
                drop(leave(client, way));
            }
        }
    }
    until("all of them have gone", || proxy.metric("breakwater_clients") == 0.0);
    blocked(&redis, 0);
    assert_eq!(redis.client().ask("RPUSH q a"), b":1\r\n");
    assert_eq!(length(&mut redis.client(), "q"), 1);
}

#[test]
fn three_hundred_clients_that_wait_stand_in_nobody_s_way() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis.url()).ready();
    let mut waiting: Vec<Client> = (0..300)
        .map(|number| {
            let mut client = if number % 2 == 0 { proxy.client() } else { proxy.client3() };
            client.send(line(&format!("BLPOP mine:{number} all 0")));
            client
        })
        .collect();
    blocked(&redis, waiting.len());
    let crowd = Crowd::start(&proxy, 20);
    let mut other = proxy.client();
    for round in 0..20 {
        assert_eq!(other.text("MULTI"), "+OK\r\n", "round {round}");
        assert_eq!(other.text("INCR n"), "+QUEUED\r\n");
        assert_eq!(other.text("EXEC"), format!("*1\r\n:{}\r\n", round + 1));
        assert_eq!(other.text("BLPOP none 0.01"), "*-1\r\n");
    }
    crowd.pass_round();
    // Each gets its own element, whatever the order.
    for number in (0..waiting.len()).rev() {
        assert_eq!(other.text(&format!("RPUSH mine:{number} for-{number}")), ":1\r\n");
    }
    for (number, client) in waiting.iter_mut().enumerate() {
        let (key, element) = (format!("mine:{number}"), format!("for-{number}"));
        let pair = [crate::support::bulk(key.as_bytes()), crate::support::bulk(element.as_bytes())];
        assert_eq!(client.frame(), [&b"*2\r\n"[..], &pair[0], &pair[1]].concat());
    }
    crowd.finish();
    blocked(&redis, 0);
}

//! Conversations with transactions in them, each held with Redis as well.
//!
//! Owns the list of what clients may say between MULTI and EXEC and around it. Never interprets an answer: Redis's
//! own is right. What surprises: what this proxy refuses by design has a test of its own at the end, because there
//! the bytes differ and only the consequence is the same.

use crate::support::pair::{Pair, pipeline, split};
use crate::support::{Client, bulk, command, line, shown, until};

/// Talks of one client. They are held step by step, and once more in one write.
const ALONE: &[&str] = &[
    // The plain life of a transaction.
    "MULTI|EXEC",
    "MULTI|DISCARD|GET a",
    "MULTI|SET a 1|INCR a|GET a|EXEC|GET a",
    "multi|set a 1|exec|MuLtI|gEt a|ExEc",
    "MULTI|SET a 1|DISCARD|GET a|MULTI|GET a|EXEC",
    "MULTI|PING|PING hello|ECHO word|EXEC",
    "MULTI|SET s text|INCR s|LPUSH s 1|SET a 1|GET s|EXEC|GET a",
    "MULTI|HSET h f 1|HGETALL h|SADD t x|SMEMBERS t|ZADD z 1.5 m|ZRANGE z 0 -1 WITHSCORES|EXEC",
    "MULTI|GET none|LRANGE none 0 -1|HGETALL none|BITFIELD b SET u8 0 255|EXEC",
    "MULTI|FLUSHALL|DBSIZE|EXEC",
    // Ends without beginnings, and the other way round.
    "EXEC|DISCARD|EXEC|DISCARD",
    "EXEC now|DISCARD now|MULTI now|UNWATCH now|WATCH",
    "MULTI|EXEC|EXEC|DISCARD",
    "MULTI|DISCARD|EXEC|DISCARD",
    "WATCH a|EXEC|DISCARD|MULTI|SET a 1|EXEC",
    "UNWATCH|MULTI|UNWATCH|EXEC|UNWATCH",
    // Nesting.
    "MULTI|MULTI|SET a 1|EXEC|GET a",
    "MULTI|MULTI|MULTI|DISCARD|EXEC",
    "MULTI|WATCH a|SET a 1|EXEC|GET a",
    "MULTI|SET a 1|WATCH b|MULTI|GET a|EXEC",
    // Errors at queue time, here and there.
    "MULTI|SET a|SET b 1|EXEC|GET b|GET a",
    "MULTI|NOSUCH a b|SET b 1|EXEC|GET b",
    "MULTI|SET b 1|NOSUCH|DISCARD|GET b|MULTI|SET b 2|EXEC|GET b",
    "MULTI|GET a b c|GET|EXEC|EXEC",
    "MULTI|EXEC now|EXEC|MULTI|EXEC",
    "MULTI|SET a 1|EXEC now and then|GET a|DISCARD",
    "MULTI|NOSUCH|EXEC now|EXEC",
    "MULTI|DISCARD now|SET a 1|EXEC|GET a",
    "MULTI|MULTI now|SET a 1|EXEC|GET a",
    "MULTI|WATCH|SET a 1|EXEC|GET a",
    "MULTI|CLIENT NOSUCH|SET a 1|EXEC|GET a",
    "MULTI|CLIENT|EXEC",
    "MULTI|CONFIG NOSUCH|EXEC",
    "MULTI|OBJECT ENCODING|EXEC",
    "MULTI|ECHO|EXEC",
    "MULTI|SELECT|EXEC",
    "MULTI|XADD x|EXEC",
    "MULTI|CLIENT SETNAME|EXEC|CLIENT GETNAME",
    // What the session keeps itself changes only when the transaction runs, and in its order.
    "MULTI|SELECT 1|SET a 1|SELECT 0|GET a|EXEC|GET a",
    "MULTI|SELECT 1|SET a one|EXEC|GET a|SELECT 0|GET a|SELECT 1|GET a",
    "MULTI|SELECT 1|SET a 1|DISCARD|SET a zero|GET a|SELECT 1|GET a",
    "MULTI|SELECT 1|NOSUCH|EXEC|SET a zero|SELECT 1|GET a",
    "MULTI|SELECT 99|SET a 1|SELECT -1|SELECT x|SELECT 1|EXEC|SET b 1|SELECT 0|GET a|GET b",
    "SELECT 2|MULTI|SELECT 3|SET a 1|EXEC|WATCH a|MULTI|GET a|EXEC|SELECT 3|GET a|SELECT 2|GET a",
    "MULTI|HELLO 3|GET none|HGETALL none|EXEC|GET none",
    "MULTI|HELLO 2|GET none|HGETALL none|EXEC|GET none",
    "MULTI|HELLO 3|HELLO 2|GET none|EXEC|GET none",
    "MULTI|HELLO|EXEC|GET none",
    "MULTI|HELLO 4|GET none|EXEC|GET none",
    "MULTI|HELLO x|GET none|EXEC|GET none",
    "MULTI|HELLO 3|DISCARD|GET none",
    "MULTI|HELLO 3|NOSUCH|EXEC|GET none",
    "HELLO 3|MULTI|HELLO 2|GET none|EXEC|GET none|MULTI|GET none|EXEC",
    "MULTI|CLIENT ID|GET none|CLIENT ID|EXEC|CLIENT ID",
    "MULTI|CLIENT SETNAME inside|CLIENT GETNAME|EXEC|CLIENT GETNAME",
    "MULTI|CLIENT SETNAME inside|DISCARD|CLIENT GETNAME",
    "MULTI|CLIENT SETNAME inside|NOSUCH|EXEC|CLIENT GETNAME",
    "CLIENT SETNAME before|MULTI|CLIENT GETNAME|CLIENT SETNAME 'a b'|CLIENT SETNAME|CLIENT GETNAME|EXEC",
    "CLIENT SETNAME before|MULTI|CLIENT GETNAME|CLIENT SETNAME 'a b'|CLIENT GETNAME|EXEC",
    "MULTI|CLIENT GETREDIR|CLIENT TRACKINGINFO|CLIENT UNBLOCK 99999|CLIENT NO-EVICT on|EXEC",
    "MULTI|CLIENT GETNAME|SET a 1|CLIENT SETNAME x|GET a|CLIENT GETNAME|EXEC|GET a",
    // Between WATCH and EXEC they change the connection at once.
    "WATCH k|SELECT 1|SET b 1|GET b|MULTI|SET a 1|EXEC|GET a|SELECT 0|GET a|GET b",
    "WATCH k|HELLO 3|GET none|MULTI|GET none|HGETALL none|EXEC|GET none",
    "SELECT 1|WATCH k|SELECT 0|SELECT 2|SET a 2|UNWATCH|GET a|SELECT 1|GET a",
    // What blocks elsewhere does not block here.
    "RPUSH l a b c|MULTI|BLPOP l 0|BRPOP none 0|BLMOVE l m LEFT RIGHT 0|BRPOPLPUSH none m 0|EXEC",
    "RPUSH l a b c|ZADD z 1 m|MULTI|BLMPOP 0 1 l LEFT|BZPOPMIN z 0|BZPOPMAX none 0|BZMPOP 0 1 none MAX|EXEC",
    "XADD s 1-1 f v|MULTI|XREAD BLOCK 0 STREAMS s 0|XREAD BLOCK 0 STREAMS s $|WAIT 0 0|EXEC",
    "XGROUP CREATE s g $ MKSTREAM|MULTI|XREADGROUP GROUP g c BLOCK 0 STREAMS s >|EXEC",
    "MULTI|BLPOP l|BLPOP l x|EXEC",
    "MULTI|BLPOP l x|BLPOP l -1|EXEC",
    // Scripts.
    "MULTI|EVAL 'return redis.call(\\'INCR\\', KEYS[1])' 1 n|EVAL 'return {1,{2,3}}' 0|EXEC|GET n",
    "MULTI|EVAL 'return redis.error_reply(\\'BAD luck\\')' 0|EVAL 'nonsense' 0|SET a 1|EXEC|GET a",
    "MULTI|EVALSHA ffffffffffffffffffffffffffffffffffffffff 0|SET a 1|EXEC",
    "MULTI|SCRIPT LOAD 'return 1'|EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0|EXEC",
    // Long enough to be thought about.
    "MULTI|MSET a 1 b 2 c 3|MGET a b c none|DEL a b|EXISTS a b c|TYPE c|OBJECT ENCODING c|EXEC",
    // RESET ends it at once.
    "MULTI|SET a 1|RESET|EXEC|GET a",
    "SELECT 1|WATCH a|MULTI|RESET|SET a 1|SELECT 0|GET a",
];

/// Talks with somebody else in them.
const WITH_OTHERS: &[&str] = &[
    "WATCH k|!SET k 1|MULTI|SET a 1|EXEC|GET a",
    "WATCH k|MULTI|!SET k 1|SET a 1|EXEC|GET a|MULTI|SET a 2|EXEC|GET a",
    "WATCH k|MULTI|SET a 1|!GET k|EXEC|GET a",
    "WATCH k|SET k mine|MULTI|SET a 1|EXEC|GET a",
    "WATCH k l m|!LPUSH l x|MULTI|EXEC",
    "WATCH k|WATCH l|!SET k 1|MULTI|EXEC|MULTI|EXEC",
    "WATCH k|UNWATCH|!SET k 1|MULTI|SET a 1|EXEC",
    "WATCH k|!SET k 1|UNWATCH|MULTI|SET a 1|EXEC",
    "WATCH k|!SET k 1|MULTI|UNWATCH|SET a 1|EXEC",
    "WATCH k|!SET k 1|MULTI|DISCARD|MULTI|SET a 1|EXEC",
    "WATCH k|!SET k 1|EXEC|DISCARD|MULTI|SET a 1|EXEC",
    "WATCH k|!SET k 1|MULTI|NOSUCH|EXEC|MULTI|EXEC",
    "WATCH k|!SET k 1|MULTI|SET a|EXEC",
    "WATCH k|!SET k 1|MULTI|EXEC now|MULTI|EXEC",
    "WATCH k|!SET k 1|MULTI|SELECT 1|CLIENT SETNAME x|HELLO 3|EXEC|CLIENT GETNAME|GET none",
    "WATCH k|!FLUSHALL|MULTI|SET a 1|EXEC",
    "SET k 1|WATCH k|!FLUSHALL|MULTI|SET a 1|EXEC",
    "SET k 1|WATCH k|!SWAPDB 0 1|MULTI|SET a 1|EXEC",
    "SET k 1|WATCH k|!EXPIRE k 100|MULTI|SET a 1|EXEC",
    "SET k 1 PX 1|WATCH k|!BLPOP none 0.05|MULTI|SET a 1|EXEC",
    "SELECT 1|WATCH k|!SET k 1|MULTI|SET a 1|EXEC",
    "WATCH k|SELECT 1|!SET k 1|MULTI|SET a 1|EXEC",
    "WATCH k|SELECT 1|WATCH k|SELECT 0|MULTI|SET a 1|EXEC|GET a",
    "WATCH k|HELLO 3|!SET k 1|MULTI|SET a 1|EXEC|GET a",
    "WATCH k|HELLO 2|!SET k 1|MULTI|SET a 1|EXEC|GET a",
    "WATCH k|CLIENT SETNAME x|!SET k 1|CLIENT GETNAME|MULTI|SET a 1|EXEC",
    "WATCH k|RESET|!SET k 1|MULTI|SET a 1|EXEC",
    "WATCH k|BLPOP none 0.01|!SET k 1|MULTI|SET a 1|EXEC",
    "WATCH k|!RPUSH k x|BLPOP k 0|MULTI|SET a 1|EXEC",
    "WATCH k|GET k|!SET k 1|GET k|MULTI|GET k|EXEC",
    "WATCH k|MULTI|MULTI|WATCH l|!SET l 1|EXEC",
    "MULTI|RPUSH l a|!BLPOP l 0.01|EXEC|!BLPOP l 0|LLEN l",
];

#[test]
fn every_talk_of_a_client_is_the_one_with_redis() {
    let pair = Pair::start();
    for version in [2, 3] {
        ALONE.iter().for_each(|talk| pair.same_talk(version, talk));
    }
    super::nothing_is_left(&pair.redis[0]);
}

#[test]
fn every_talk_in_one_write_is_the_one_with_redis() {
    let pair = Pair::start();
    for version in [2, 3] {
        ALONE.iter().for_each(|talk| pair.same_pipeline(version, talk));
    }
    super::nothing_is_left(&pair.redis[0]);
}

#[test]
fn what_others_do_aborts_what_it_aborts_with_redis() {
    let pair = Pair::start();
    for version in [2, 3] {
        WITH_OTHERS.iter().for_each(|talk| pair.same_talk(version, talk));
    }
    super::nothing_is_left(&pair.redis[0]);
}

#[test]
fn everything_that_came_before_a_half_close_is_answered() {
    let pair = Pair::start();
    for talk in [
        "MULTI|SET a 1|GET a|EXEC",
        "MULTI|SET a 1|CLIENT GETNAME|EXEC",
        "SET a 1|WATCH a|GET a|MULTI|INCR a|EXEC|GET a",
        "MULTI|SET a 1|DISCARD|GET a",
        "MULTI|NOSUCH|EXEC|GET a",
        "MULTI|SET a 1",
        "WATCH a",
        "BLPOP none 0|GET a",
        "MULTI|SET a 1|QUIT|EXEC",
        "WATCH a|QUIT",
        "MULTI|RESET|PING",
    ] {
        pair.empty();
        pair.same_stream(&pipeline(talk));
    }
    super::nothing_is_left(&pair.redis[0]);
}

#[test]
fn client_reply_silences_transactions_as_redis_does() {
    let pair = Pair::start();
    for talk in [
        "CLIENT REPLY OFF|MULTI|SET a 1|GET a|EXEC|CLIENT REPLY ON|GET a",
        "CLIENT REPLY SKIP|MULTI|SET a 2|EXEC|GET a",
        "MULTI|SET a 3|GET a|EXEC|CLIENT REPLY SKIP|GET a|GET a",
        "CLIENT REPLY OFF|WATCH a|SET a 4|MULTI|GET a|EXEC|CLIENT REPLY ON|GET a",
        "CLIENT REPLY OFF|MULTI|NOSUCH|EXEC|CLIENT REPLY ON|GET a",
        "CLIENT REPLY OFF|MULTI|SELECT 1|SET a 5|EXEC|CLIENT REPLY ON|GET a",
        "WATCH a|CLIENT REPLY SKIP|MULTI|GET a|EXEC",
        "CLIENT REPLY OFF|MULTI|RESET|GET a",
        "CLIENT REPLY SKIP|BLPOP none 0.01|GET a",
    ] {
        pair.empty();
        // The last word keeps the client there until it has heard all of it.
        for version in [2, 3] {
            let [ours, theirs] = pair.clients().map(|mut client| {
                client.ask(&format!("HELLO {version}"));
                client.send([pipeline(talk), line("QUIT")].concat());
                client.rest()
            });
            assert_eq!(shown(&ours), shown(&theirs), "RESP{version}: {talk}");
        }
    }
}

#[test]
fn a_transaction_may_arrive_in_any_two_pieces() {
    let pair = Pair::start();
    // All of it may share a connection, and all of it may not.
    for (version, talk) in [
        (2, "GET before|MULTI|SET a 1|INCR a|EXEC|GET a"),
        (3, "WATCH k|MULTI|SELECT 1|SET a 1|GET none|EXEC|GET a"),
    ] {
        let bytes = pipeline(talk);
        let count = talk.split('|').count();
        let [_, mut direct] = pair.clients();
        pair.empty();
        direct.ask(&format!("HELLO {version}"));
        direct.send(&bytes);
        let expected = direct.frames(count);
        for at in 1..bytes.len() {
            pair.empty();
            let mut client = pair.proxy.client();
            client.ask(&format!("HELLO {version}"));
            let (first, second) = bytes.split_at(at);
            say(&pair, &mut client, first);
            client.send(second);
            assert_eq!(client.frames(count), expected, "split at {at}");
        }
    }
}

#[test]
fn a_transaction_may_arrive_byte_by_byte() {
    let pair = Pair::start();
    let talk = "MULTI|SET a 1|GET a|CLIENT GETNAME|NOSUCH|EXEC|GET a";
    for version in [2, 3] {
        pair.empty();
        let [mut ours, mut theirs] = pair.clients();
        for client in [&mut ours, &mut theirs] {
            client.ask(&format!("HELLO {version}"));
        }
        theirs.send(pipeline(talk));
        pipeline(talk).iter().for_each(|byte| say(&pair, &mut ours, &[*byte]));
        let count = talk.split('|').count();
        assert_eq!(ours.frames(count), theirs.frames(count));
    }
}

/// Sends bytes to the proxy and waits until it has read them, so that what follows comes in another read.
fn say(pair: &Pair, client: &mut Client, bytes: &[u8]) {
    let received = || pair.proxy.metric_of("breakwater_client_bytes_total", "\"in\"") as usize;
    let before = received();
    client.send(bytes);
    until("the bytes arrive", || received() >= before + bytes.len());
}

#[test]
fn a_block_of_more_commands_than_share_a_connection_runs_all_the_same() {
    let pair = Pair::start();
    for version in [2, 3] {
        for count in [1022, 1023, 1500, 20_000] {
            pair.empty();
            let mut bytes = line("MULTI");
            bytes.extend(line("INCR n").repeat(count));
            bytes.extend(line("EXEC"));
            let [ours, theirs] = pair.clients().map(|mut client| {
                client.ask(&format!("HELLO {version}"));
                client.send(&bytes);
                client.frames(count + 2)
            });
            assert!(ours == theirs, "{count} commands in a block differ");
        }
    }
}

#[test]
fn a_large_reply_of_exec_arrives_whole() {
    let pair = Pair::start();
    let value: Vec<u8> = (0..1 << 20).map(|at| b'a' + (at % 23) as u8).collect();
    for version in [2, 3] {
        pair.empty();
        for talk in [
            "MULTI|GET large|GET small|GET large|EXEC",
            // The reply is kept back because an element of it is ours.
            "MULTI|CLIENT GETNAME|GET large|CLIENT SETNAME x|GET large|EXEC",
            "WATCH k|MULTI|GET large|EXEC",
        ] {
            let [ours, theirs] = pair.clients().map(|mut client| {
                client.ask(&format!("HELLO {version}"));
                let set = command(&[&b"SET"[..], b"large", &value]);
                client.send([set, pipeline(talk)].concat());
                client.frames(talk.split('|').count() + 1)
            });
            assert!(ours == theirs, "RESP{version}: {talk}");
            assert!(ours.last().is_some_and(|exec| exec.len() > value.len()));
        }
    }
}

#[test]
fn a_large_command_is_queued_like_any_other() {
    let pair = Pair::start();
    let value = vec![b'v'; 3 << 20];
    let set = command(&[&b"SET"[..], b"large", &value]);
    let bytes = [line("MULTI"), set, line("STRLEN large"), line("EXEC")].concat();
    let [ours, theirs] = pair.clients().map(|mut client| {
        client.send(&bytes);
        client.frames(4)
    });
    assert_eq!(ours, theirs);
}

#[test]
fn what_cannot_be_queued_is_refused_with_its_reason_and_fails_the_exec() {
    let pair = Pair::start();
    for words in [
        "AUTH secret",
        "AUTH default secret",
        "HELLO 3 AUTH default secret",
        "CLIENT REPLY OFF",
        "CLIENT REPLY SKIP",
        "CLIENT REPLY ON",
        "CLIENT TRACKING on",
        "CLIENT TRACKING off",
        "SUBSCRIBE a b",
        "PSUBSCRIBE a*",
        "SSUBSCRIBE a",
        "UNSUBSCRIBE",
        "MONITOR",
        "REPLCONF capa eof",
        "SCRIPT DEBUG YES",
    ] {
        for in_one_write in [true, false] {
            let mut client = pair.proxy.client();
            let talk = format!("MULTI|SET refused 1|{words}|SET refused 2|EXEC|GET refused");
            let frames = if in_one_write {
                client.send(pipeline(&talk));
                client.frames(6)
            } else {
                talk.split('|').map(|step| client.call(&split(step))).collect()
            };
            let texts: Vec<_> = frames.iter().map(|frame| String::from_utf8_lossy(frame)).collect();
            let name = words.split(' ').next().unwrap_or_default().to_lowercase();
            assert!(texts[2].starts_with("-ERR breakwater: '"), "{words}: {texts:?}");
            assert!(texts[2].contains(&name), "{words}: {texts:?}");
            assert!(texts[4].starts_with("-EXECABORT "), "{words}: {texts:?}");
            assert_eq!(frames[5], b"$-1\r\n", "{words}: {texts:?}");
            assert_eq!(client.ask("ECHO on"), bulk(b"on"), "{words}");
        }
    }
    super::nothing_is_left(&pair.redis[0]);
}

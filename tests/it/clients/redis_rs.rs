//! redis-rs at its work: its blocking connections, its multiplexed ones, its manager, and what RESP3 pushes to it.
//!
//! Owns these jobs and nothing of Breakwater. Each runs with RESP2 and with RESP3 where the library lets one choose.
//!
//! What surprises: the library gives up on a reply after half a second unless told otherwise, which a busy machine
//! may well need; [`PATIENCE`] is told to every connection.

use std::collections::HashSet;
use std::thread;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::caching::CacheConfig;
use redis::streams::{StreamId, StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, Commands, Connection};
use redis::{ErrorKind, PushKind, RedisResult, Script, Value, cmd, pipe};
use tokio::sync::mpsc;

use super::{AGAIN, Stage, block_on};
use crate::support::{PATIENCE, until};

/// A client of a stage, with this version of the protocol.
fn client(stage: &Stage, protocol: u8) -> Client {
    let url = stage.url();
    Client::open(format!("{url}/?protocol=resp{protocol}")).expect("it is an address")
}

/// A connection that blocks its thread.
fn connect(client: &Client) -> Connection {
    let connection = client.get_connection().expect("it connects");
    connection.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    connection
}

fn patient() -> AsyncConnectionConfig {
    let config = AsyncConnectionConfig::new();
    config.set_response_timeout(Some(PATIENCE)).set_connection_timeout(Some(PATIENCE))
}

/// A connection that many tasks share.
async fn multiplexed(client: &Client) -> MultiplexedConnection {
    let config = patient();
    client.get_multiplexed_async_connection_with_config(&config).await.expect("it connects")
}

/// Runs a job with both versions of the protocol.
fn with_both(job: impl Fn(&Client) -> RedisResult<()>) {
    let stage = Stage::set();
    for protocol in [2, 3] {
        job(&client(&stage, protocol)).unwrap_or_else(|error| panic!("RESP{protocol}: {error}"));
        let _: () = connect(&client(&stage, 2)).flushall().expect("the stage is cleared");
    }
    stage.clear();
}

/// How many clients the server says are blocked.
fn blocked(connection: &mut Connection) -> usize {
    let info: redis::InfoDict =
        cmd("INFO").arg("clients").query(connection).expect("INFO is served");
    info.get("blocked_clients").expect("it is a field of INFO")
}

#[test]
fn commands_and_pipelines() {
    with_both(|client| {
        let mut connection = connect(client);
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let _: () = connection.set("bytes", &bytes)?;
        assert!(connection.get::<_, Vec<u8>>("bytes")? == bytes);
        let _: () = connection.hset_multiple("hash", &[("a", 1), ("b", 2)])?;
        let mut pairs: Vec<(String, i64)> = connection.hgetall("hash")?;
        pairs.sort();
        assert_eq!(pairs, [("a".into(), 1), ("b".into(), 2)]);
        let _: () = connection.zadd_multiple("zset", &[(1.5, "x"), (f64::INFINITY, "y")])?;
        let scored: Vec<(String, f64)> = connection.zrange_withscores("zset", 0, -1)?;
        assert_eq!(scored, [("x".into(), 1.5), ("y".into(), f64::INFINITY)]);
        assert_eq!(connection.get::<_, Option<String>>("none")?, None);
        let mut pipeline = pipe();
        for number in 0..1_000 {
            pipeline.set(format!("p:{number}"), number).ignore().get(format!("p:{number}"));
        }
        assert_eq!(pipeline.query::<Vec<i64>>(&mut connection)?, Vec::from_iter(0..1_000));
        let keys: RedisResult<HashSet<String>> = connection.scan_match("p:*")?.collect();
        assert_eq!(keys?, HashSet::from_iter((0..1_000).map(|number| format!("p:{number}"))));
        let error = connection.incr::<_, _, i64>("zset", 1).expect_err("it is no number");
        assert_eq!(error.code(), Some("WRONGTYPE"));
        Ok(())
    });
}

#[test]
fn transactions() {
    with_both(|client| {
        let mut connection = connect(client);
        let mut block = pipe();
        block.atomic().set("k", 40).ignore().incr("k", 2).get("k");
        assert_eq!(block.query::<(i64, String)>(&mut connection)?, (42, "42".into()));
        // Four threads increment by reading and writing: without WATCH some of it would be lost.
        let threads: Vec<_> = (0..4).map(|_| increments(connect(client), 25)).collect();
        for thread in threads {
            thread.join().expect("the thread has not panicked")?;
        }
        assert_eq!(connection.get::<_, i64>("watched")?, 100);
        let mut broken = pipe();
        broken.atomic().incr("k", 1).cmd("INCR").incr("k", 1);
        assert!(broken.query::<Vec<Value>>(&mut connection).is_err());
        assert_eq!(
            connection.get::<_, i64>("k")?,
            42,
            "a block with a broken command does nothing"
        );
        Ok(())
    });
}

fn increments(mut connection: Connection, times: usize) -> thread::JoinHandle<RedisResult<()>> {
    thread::spawn(move || {
        for _ in 0..times {
            let _: () = redis::transaction(&mut connection, &["watched"], |connection, block| {
                let value: Option<i64> = connection.get("watched")?;
                block.set("watched", value.unwrap_or(0) + 1).query(connection)
            })?;
        }
        Ok(())
    })
}

#[test]
fn blocking_pops_and_streams() {
    with_both(|client| {
        let mut connection = connect(client);
        let popping: Vec<_> = (0..10)
            .map(|_| {
                let mut popper = connect(client);
                let limit = PATIENCE.as_secs_f64();
                thread::spawn(move || popper.blpop::<_, (String, i64)>(&["none", "queue"], limit))
            })
            .collect();
        until("ten clients are blocked", || blocked(&mut connection) == 10);
        let _: () = connection.rpush("queue", Vec::from_iter(0..10))?;
        let mut popped = Vec::new();
        for thread in popping {
            let (key, element) = thread.join().expect("the thread has not panicked")?;
            assert_eq!(key, "queue");
            popped.push(element);
        }
        popped.sort_unstable();
        assert_eq!(popped, Vec::from_iter(0..10));
        let _: () = connection.xgroup_create_mkstream("stream", "group", "$")?;
        let mut reader = connect(client);
        let reading = thread::spawn(move || {
            let options = StreamReadOptions::default()
                .group("group", "ann")
                .block(PATIENCE.as_millis() as usize);
            reader.xread_options::<_, _, StreamReadReply>(&["stream"], &[">"], &options)
        });
        until("the reader is blocked", || blocked(&mut connection) == 1);
        let id: String = connection.xadd("stream", "*", &[("job", "a")])?;
        let reply = reading.join().expect("the thread has not panicked")?;
        let ids: Vec<&StreamId> = reply.keys.iter().flat_map(|key| &key.ids).collect();
        assert_eq!(ids.len(), 1);
        assert_eq!((&ids[0].id, ids[0].get::<String>("job")), (&id, Some("a".into())));
        assert_eq!(connection.xack::<_, _, _, i64>("stream", "group", &[id])?, 1);
        Ok(())
    });
}

#[test]
fn subscriptions() {
    with_both(|client| {
        let mut publisher = connect(client);
        let mut listener = connect(client);
        let mut pubsub = listener.as_pubsub();
        pubsub.set_read_timeout(Some(PATIENCE))?;
        pubsub.subscribe("news")?;
        pubsub.psubscribe("n?ws")?;
        for number in 0..100 {
            assert_eq!(publisher.publish::<_, _, i64>("news", number)?, 2);
        }
        for number in 0..100 {
            let (plain, patterned) = (pubsub.get_message()?, pubsub.get_message()?);
            assert_eq!((plain.from_pattern(), patterned.from_pattern()), (false, true));
            assert_eq!(
                (plain.get_payload::<i64>()?, patterned.get_payload::<i64>()?),
                (number, number)
            );
        }
        pubsub.unsubscribe("news")?;
        pubsub.punsubscribe("n?ws")?;
        drop(pubsub);
        assert_eq!(publisher.publish::<_, _, i64>("news", "nobody")?, 0);
        // The connection is an ordinary one again.
        assert_eq!(listener.set::<_, _, String>("k", 1)?, "OK");
        Ok(())
    });
}

#[test]
fn scripts() {
    with_both(|client| {
        let mut connection = connect(client);
        let add = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        assert_eq!(add.key("k").arg(40).invoke::<i64>(&mut connection)?, 40);
        let _: () = cmd("SCRIPT").arg("FLUSH").query(&mut connection)?;
        assert_eq!(add.key("k").arg(2).invoke::<i64>(&mut connection)?, 42);
        let error = Script::new("return redis.error_reply('MINE it broke')");
        let error = error.invoke::<Value>(&mut connection).expect_err("it is an error");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Extension, Some("MINE")));
        Ok(())
    });
}

#[test]
fn multiplexed_connection_and_manager() {
    with_both(|client| {
        block_on(async {
            let connection = multiplexed(client).await;
            let tasks =
                (0..200).map(|number| tokio::spawn(round_trips(connection.clone(), number)));
            for task in Vec::from_iter(tasks) {
                task.await.expect("the task has not panicked")?;
            }
            let config = ConnectionManagerConfig::new()
                .set_response_timeout(Some(PATIENCE))
                .set_connection_timeout(Some(PATIENCE));
            let mut manager = ConnectionManager::new_with_config(client.clone(), config).await?;
            let mut block = pipe();
            block.atomic().incr("counter", 1).incr("counter", 1);
            assert_eq!(block.query_async::<Vec<i64>>(&mut manager).await?, [201, 202]);
            // Its connection is killed; the manager makes another one by itself.
            let id: i64 = cmd("CLIENT").arg("ID").query_async(&mut manager).await?;
            let mut killer = multiplexed(client).await;
            let killed: i64 =
                cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async(&mut killer).await?;
            assert_eq!(killed, 1);
            reconnected(&mut manager).await;
            Ok(())
        })
    });
}

/// A write, a transaction and a read in one task of many on one connection.
async fn round_trips(mut connection: MultiplexedConnection, number: i64) -> RedisResult<()> {
    let key = format!("task:{number}");
    let _: () = connection.set(&key, number).await?;
    let mut block = pipe();
    block.atomic().incr(&key, 1).get(&key).incr("counter", 1).ignore();
    let (sum, text): (i64, String) = block.query_async(&mut connection).await?;
    assert_eq!((sum, text), (number + 1, (number + 1).to_string()));
    assert_eq!(connection.get::<_, i64>(&key).await?, number + 1);
    Ok(())
}

/// Asks until the manager has a connection again; what was asked over the lost one is an error, once or more often.
async fn reconnected(manager: &mut ConnectionManager) {
    let waiting = async {
        while manager.get::<_, i64>("counter").await.ok() != Some(202) {
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it connects again");
}

#[test]
fn pushes_beside_replies() {
    let stage = Stage::set();
    let client = client(&stage, 3);
    let outcome: RedisResult<()> = block_on(async {
        let (sender, mut pushes) = mpsc::unbounded_channel();
        let config = patient().set_push_sender(sender);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        connection.subscribe("news").await?;
        let subscribed = pushes.recv().await.expect("the confirmation is pushed");
        assert_eq!(subscribed.kind, PushKind::Subscribe);
        // The subscriber itself publishes: messages arrive between the replies to its own commands.
        for number in 0..100 {
            assert_eq!(connection.publish::<_, _, i64>("news", number).await?, 1);
        }
        for number in 0..100 {
            let message = pushes.recv().await.expect("every message is pushed");
            let data: (String, i64) = redis::from_redis_value(Value::Array(message.data))?;
            assert_eq!((message.kind, data), (PushKind::Message, ("news".into(), number)));
        }
        connection.unsubscribe("news").await?;
        let unsubscribed = pushes.recv().await.expect("the confirmation is pushed");
        assert_eq!(unsubscribed.kind, PushKind::Unsubscribe);
        Ok(())
    });
    outcome.expect("every command is served");
    stage.clear();
}

#[test]
fn client_side_cache() {
    let stage = Stage::set();
    let client = client(&stage, 3);
    let outcome: RedisResult<()> = block_on(async {
        let config = patient().set_cache_config(CacheConfig::new());
        let mut caching = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut writer = multiplexed(&client).await;
        let _: () = writer.set("k", "old").await?;
        for _ in 0..10 {
            assert_eq!(caching.get::<_, String>("k").await?, "old");
        }
        let statistics = caching.get_cache_statistics().expect("it has a cache");
        assert_eq!((statistics.hit, statistics.miss), (9, 1));
        let _: () = writer.set("k", "new").await?;
        let waiting = async {
            while caching.get::<_, String>("k").await? == "old" {
                tokio::time::sleep(AGAIN).await;
            }
            caching.get::<_, String>("k").await
        };
        let seen = tokio::time::timeout(PATIENCE, waiting).await.expect("the new value is seen")?;
        assert_eq!(seen, "new");
        Ok(())
    });
    outcome.expect("every command is served");
    stage.clear();
}

//! fred at its work: pools, pipelines, transactions, scripts, blocking pops, and its subscriber that remembers.
//!
//! Owns these jobs and nothing of Breakwater. Each runs with RESP2 and with RESP3.
//!
//! What surprises: the library has one connection a client and puts the commands of all tasks on it, so a blocking
//! command has a client of its own, as its documentation wants it.

use fred::clients::{Client, Pool, SubscriberClient};
use fred::interfaces::{ClientLike, EventInterface, HashesInterface, KeysInterface, ListInterface};
use fred::interfaces::{LuaInterface, PubsubInterface, SortedSetsInterface};
use fred::interfaces::{StreamsInterface, TransactionInterface};
use fred::prelude::{Builder, Config, FredResult, ReconnectPolicy};
use fred::types::scripts::Script;
use fred::types::{InfoKind, RespVersion, Value};

use super::{AGAIN, Stage, block_on};
use crate::support::PATIENCE;

/// How clients of a stage are built.
fn builder(stage: &Stage, version: RespVersion) -> Builder {
    let mut config = Config::from_url(&stage.url()).expect("it is an address");
    config.version = version;
    let mut builder = Builder::from_config(config);
    builder.set_policy(ReconnectPolicy::new_constant(0, 10));
    builder.with_connection_config(|connection| connection.connection_timeout = PATIENCE);
    builder.with_performance_config(|performance| performance.broadcast_channel_capacity = 1_024);
    builder
}

/// Runs a job with both versions of the protocol.
fn with_both(job: impl AsyncFn(&Builder) -> FredResult<()>) {
    let stage = Stage::set();
    for version in [RespVersion::RESP2, RespVersion::RESP3] {
        let builder = builder(&stage, version.clone());
        let outcome: FredResult<()> = block_on(async {
            job(&builder).await?;
            let cleaner = connect(&builder).await?;
            cleaner.flushall(false).await
        });
        outcome.unwrap_or_else(|error| panic!("{version:?}: {error}"));
    }
    stage.clear();
}

async fn connect(builder: &Builder) -> FredResult<Client> {
    let client = builder.build()?;
    client.init().await?;
    Ok(client)
}

async fn connect_pool(builder: &Builder, size: usize) -> FredResult<Pool> {
    let pool = builder.build_pool(size)?;
    pool.init().await?;
    Ok(pool)
}

/// Asks again until it is so.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// Waits until the server says that so many clients are blocked.
async fn until_blocked(client: &Client, count: usize) {
    let wanted = format!("\r\nblocked_clients:{count}\r\n");
    let is_so = async || {
        let info = client.info::<String>(Some(InfoKind::Clients)).await;
        info.is_ok_and(|info| info.contains(&wanted))
    };
    until("they are blocked", is_so).await;
}

/// How many subscribe to the channel `news`, and to patterns.
async fn subscriptions(client: &Client) -> (i64, i64) {
    let counts = client.pubsub_numsub::<(String, i64), _>("news").await;
    let patterns = client.pubsub_numpat::<i64>().await;
    (counts.expect("PUBSUB is served").1, patterns.expect("PUBSUB is served"))
}

#[test]
fn commands_of_many_tasks_in_a_pool() {
    with_both(async |builder| {
        let pool = connect_pool(builder, 4).await?;
        let tasks = (0..200).map(|number| tokio::spawn(round_trips(pool.clone(), number)));
        for task in Vec::from_iter(tasks) {
            task.await.expect("the task has not panicked")?;
        }
        assert_eq!(pool.get::<i64, _>("counter").await?, 200);
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let _: () = pool.set("bytes", bytes.as_slice(), None, None, false).await?;
        assert!(pool.get::<Vec<u8>, _>("bytes").await? == bytes);
        let _: () =
            pool.zadd("zset", None, None, false, false, vec![(1.5, "x"), (2.0, "y")]).await?;
        let scored: Vec<(String, f64)> =
            pool.zrange("zset", 0, -1, None, false, None, true).await?;
        assert_eq!(scored, [("x".into(), 1.5), ("y".into(), 2.0)]);
        assert_eq!(pool.zscore::<f64, _, _>("zset", "x").await?, 1.5);
        assert_eq!(pool.get::<Option<String>, _>("none").await?, None);
        let error = pool.incr::<i64, _>("zset").await.expect_err("it is no number");
        assert_eq!(
            error.details(),
            "WRONGTYPE Operation against a key holding the wrong kind of value"
        );
        Ok(())
    });
}

async fn round_trips(pool: Pool, number: i64) -> FredResult<()> {
    let key = format!("task:{number}");
    let _: () = pool.hset(&key, ("number", number)).await?;
    assert_eq!(pool.hincrby::<i64, _, _>(&key, "number", 1).await?, number + 1);
    assert_eq!(pool.hget::<i64, _, _>(&key, "number").await?, number + 1);
    pool.incr("counter").await
}

#[test]
fn pipelines() {
    with_both(async |builder| {
        let client = connect(builder).await?;
        let pipeline = client.pipeline();
        for number in 0..500 {
            let _: () = pipeline.set(format!("p:{number}"), number, None, None, false).await?;
            let _: () = pipeline.get(format!("p:{number}")).await?;
        }
        let replies: Vec<(String, i64)> = pipeline.all().await?;
        assert_eq!(replies, Vec::from_iter((0..500).map(|number| ("OK".to_owned(), number))));
        // One error among them is its own command's alone.
        let pipeline = client.pipeline();
        let _: () = pipeline.incr("p:0").await?;
        let _: () = pipeline.lpush("p:0", "x").await?;
        let _: () = pipeline.incr("p:0").await?;
        let replies = pipeline.try_all::<i64>().await;
        assert!(matches!(&replies[..], [Ok(1), Err(_), Ok(2)]), "{replies:?}");
        Ok(())
    });
}

#[test]
fn transactions() {
    with_both(async |builder| {
        let client = connect(builder).await?;
        let block = client.multi();
        let queued: Value = block.set("k", 40, None, None, false).await?;
        assert!(queued.is_queued());
        let _: () = block.incr_by("k", 2).await?;
        let _: () = block.get("k").await?;
        assert_eq!(
            block.exec::<(String, i64, String)>(true).await?,
            ("OK".into(), 42, "42".into())
        );
        // Another client's write between WATCH and EXEC: nothing is done.
        let other = connect(builder).await?;
        client.watch("k").await?;
        let _: () = other.set("k", "from elsewhere", None, None, false).await?;
        let block = client.multi();
        let _: () = block.set("k", "lost", None, None, false).await?;
        assert_eq!(block.exec::<Value>(true).await?, Value::Null);
        assert_eq!(client.get::<String, _>("k").await?, "from elsewhere");
        // Blocks of many tasks on one connection do not mix.
        let tasks = (0..50).map(|number| tokio::spawn(one_block(client.clone(), number)));
        for task in Vec::from_iter(tasks) {
            task.await.expect("the task has not panicked")?;
        }
        Ok(())
    });
}

async fn one_block(client: Client, number: i64) -> FredResult<()> {
    let key = format!("block:{number}");
    let block = client.multi();
    let _: () = block.set(&key, number, None, None, false).await?;
    let _: () = block.incr(&key).await?;
    let _: () = block.get(&key).await?;
    assert_eq!(
        block.exec::<(String, i64, i64)>(true).await?,
        ("OK".into(), number + 1, number + 1)
    );
    Ok(())
}

#[test]
fn blocking_pops_and_streams() {
    with_both(async |builder| {
        let client = connect(builder).await?;
        let mut popping = Vec::new();
        for _ in 0..10 {
            let popper = connect(builder).await?;
            let limit = PATIENCE.as_secs_f64();
            popping.push(tokio::spawn(async move {
                popper.blpop::<(String, i64), _>(vec!["none", "queue"], limit).await
            }));
        }
        until_blocked(&client, 10).await;
        let _: () = client.rpush("queue", Vec::from_iter(0..10)).await?;
        let mut popped = Vec::new();
        for task in popping {
            let (key, element) = task.await.expect("the task has not panicked")?;
            assert_eq!(key, "queue");
            popped.push(element);
        }
        popped.sort_unstable();
        assert_eq!(popped, Vec::from_iter(0..10));
        let _: () = client.xgroup_create("stream", "group", "$", true).await?;
        let reader = connect(builder).await?;
        let limit = PATIENCE.as_millis() as u64;
        let reading = tokio::spawn(async move {
            let group = ("group", "ann");
            reader
                .xreadgroup_map(group.0, group.1, Some(1), Some(limit), false, "stream", ">")
                .await
        });
        until_blocked(&client, 1).await;
        let id: String = client.xadd("stream", false, None, "*", ("job", "a")).await?;
        let reply: fred::types::streams::XReadResponse<String, String, String, String> =
            reading.await.expect("the task has not panicked")?;
        let (read, fields) = &reply["stream"][0];
        assert_eq!((read, fields["job"].as_str()), (&id, "a"));
        assert_eq!(client.xack::<i64, _, _, _>("stream", "group", id).await?, 1);
        Ok(())
    });
}

#[test]
fn subscriptions_are_made_again_after_a_loss() {
    with_both(async |builder| {
        let client = connect(builder).await?;
        let subscriber: SubscriberClient = builder.build_subscriber_client()?;
        subscriber.init().await?;
        let mut messages = subscriber.message_rx();
        let _resubscribing = subscriber.manage_subscriptions();
        subscriber.subscribe("news").await?;
        subscriber.psubscribe("n?ws").await?;
        // The library returns before the confirmations are there.
        until("both subscriptions stand", async || subscriptions(&client).await == (1, 1)).await;
        for number in 0..100 {
            assert_eq!(client.publish::<i64, _, _>("news", number).await?, 2);
        }
        for number in 0..200 {
            let message = messages.recv().await.expect("every message comes");
            assert_eq!(
                (message.channel.to_string(), message.value.convert::<i64>()?),
                ("news".into(), number / 2)
            );
        }
        // The connection is lost; the library connects and subscribes again by itself.
        let _ = subscriber.force_reconnection().await;
        until("a message comes", async || {
            let reached = client.publish::<i64, _, _>("news", "again").await;
            reached.is_ok() && !messages.is_empty()
        })
        .await;
        let message = messages.recv().await.expect("it is there");
        assert_eq!(message.value.convert::<String>()?, "again");
        subscriber.unsubscribe_all().await?;
        subscriber.quit().await
    });
}

#[test]
fn scripts() {
    with_both(async |builder| {
        let client = connect(builder).await?;
        let add = Script::from_lua("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        add.load(&client).await?;
        assert_eq!(add.evalsha::<i64, _, _, _>(&client, vec!["k"], vec![40]).await?, 40);
        client.script_flush(false).await?;
        assert_eq!(add.evalsha_with_reload::<i64, _, _>(&client, vec!["k"], vec![2]).await?, 42);
        let parts: (String, i64) =
            client.eval("return {KEYS[1], 7}", vec!["k"], Vec::<i64>::new()).await?;
        assert_eq!(parts, ("k".into(), 7));
        Ok(())
    });
}

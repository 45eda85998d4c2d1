//! fred in cluster mode: it asks for the nodes, is told one, and finds every key there.
//!
//! Owns this job and nothing of Breakwater. It runs with RESP2 and with RESP3.
//!
//! What surprises: the library sends a pipeline or a transaction to one node, so their keys share a tag here.

use fred::clients::{Client, SubscriberClient};
use fred::interfaces::{ClientLike, EventInterface, KeysInterface, ListInterface};
use fred::interfaces::{LuaInterface, PubsubInterface, TransactionInterface};
use fred::prelude::{Builder, Config, FredResult, ReconnectPolicy};
use fred::types::RespVersion;

use super::Stage;
use crate::clients::block_on;
use crate::support::PATIENCE;

#[test]
fn fred() {
    let stage = Stage::set();
    for version in [RespVersion::RESP2, RespVersion::RESP3] {
        let builder = builder(&stage, version.clone());
        let outcome: FredResult<()> = block_on(async {
            let client = connect(&builder).await?;
            there_is_one_node(&stage, &client);
            keys_of_all_shards(&client).await?;
            keys_of_one_slot(&client).await?;
            scripts(&client).await?;
            blocking_pops(&builder, &client).await?;
            subscriptions(&builder, &client).await
        });
        outcome.unwrap_or_else(|error| panic!("{version:?}: {error}"));
        stage.clear();
    }
}

fn builder(stage: &Stage, version: RespVersion) -> Builder {
    let url = format!("redis-cluster://{}", stage.address());
    let mut config = Config::from_url(&url).expect("it is an address");
    config.version = version;
    let mut builder = Builder::from_config(config);
    builder.set_policy(ReconnectPolicy::new_constant(0, 10));
    builder.with_connection_config(|connection| connection.connection_timeout = PATIENCE);
    builder
}

async fn connect(builder: &Builder) -> FredResult<Client> {
    let client = builder.build()?;
    client.init().await?;
    Ok(client)
}

fn there_is_one_node(stage: &Stage, client: &Client) {
    let nodes: Vec<String> = client.active_connections().iter().map(ToString::to_string).collect();
    assert_eq!(nodes, [stage.address()]);
}

async fn keys_of_all_shards(client: &Client) -> FredResult<()> {
    let tasks = (0..300_i64).map(|number| tokio::spawn(round_trip(client.clone(), number)));
    for task in Vec::from_iter(tasks) {
        task.await.expect("the task has not panicked")?;
    }
    let error = client.lpush::<i64, _, _>("k:0", "x").await.expect_err("it is no list");
    assert_eq!(
        error.details(),
        "WRONGTYPE Operation against a key holding the wrong kind of value"
    );
    Ok(())
}

async fn round_trip(client: Client, number: i64) -> FredResult<()> {
    let key = format!("k:{number}");
    let _: () = client.set(&key, number, None, None, false).await?;
    assert_eq!(client.incr::<i64, _>(&key).await?, number + 1);
    assert_eq!(client.get::<i64, _>(&key).await?, number + 1);
    Ok(())
}

async fn keys_of_one_slot(client: &Client) -> FredResult<()> {
    let pairs: Vec<(String, i64)> =
        (0..50).map(|number| (format!("{{t}}:{number}"), number)).collect();
    let keys: Vec<String> = pairs.iter().map(|(key, _)| key.clone()).collect();
    let _: () = client.mset(pairs).await?;
    assert_eq!(client.mget::<Vec<i64>, _>(keys.clone()).await?, Vec::from_iter(0..50));
    let pipeline = client.pipeline();
    for key in &keys {
        let _: () = pipeline.incr(key).await?;
    }
    assert_eq!(pipeline.all::<Vec<i64>>().await?, Vec::from_iter(1..=50));
    let block = client.multi();
    let _: () = block.set("{t}:a", 40, None, None, false).await?;
    let _: () = block.incr_by("{t}:a", 2).await?;
    let _: () = block.get("{t}:a").await?;
    assert_eq!(block.exec::<(String, i64, i64)>(true).await?, ("OK".into(), 42, 42));
    assert_eq!(client.del::<i64, _>(keys).await?, 50);
    Ok(())
}

async fn scripts(client: &Client) -> FredResult<()> {
    for number in 0..30_i64 {
        let add = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
        let sum: i64 = client.eval(add, vec![format!("sum:{number}")], vec![number]).await?;
        assert_eq!(sum, number);
    }
    Ok(())
}

async fn blocking_pops(builder: &Builder, client: &Client) -> FredResult<()> {
    for number in 0..6_i64 {
        let (popper, key) = (connect(builder).await?, format!("queue:{number}"));
        let its_key = key.clone();
        let popping = tokio::spawn(async move {
            popper.blpop::<(String, i64), _>(its_key, PATIENCE.as_secs_f64()).await
        });
        let _: i64 = client.rpush(&key, number).await?;
        assert_eq!(popping.await.expect("the task has not panicked")?, (key, number));
    }
    Ok(())
}

async fn subscriptions(builder: &Builder, client: &Client) -> FredResult<()> {
    let subscriber: SubscriberClient = builder.build_subscriber_client()?;
    subscriber.init().await?;
    let mut messages = subscriber.message_rx();
    subscriber.subscribe("news").await?;
    // The library returns before the confirmation is there, so the first of these may reach nobody.
    let mut sent = 0;
    while messages.is_empty() {
        let _: i64 = client.publish("news", sent).await?;
        sent += 1;
        tokio::task::yield_now().await;
    }
    let first = messages.recv().await.expect("it is there").value.convert::<i64>()?;
    for number in first + 1..sent {
        let message = messages.recv().await.expect("every message comes");
        assert_eq!(message.value.convert::<i64>()?, number);
    }
    subscriber.quit().await
}

//! redis-rs in cluster mode, blocking and asynchronous: it asks for the nodes, is told one, and finds every key there.
//!
//! Owns this job and nothing of Breakwater. It runs with RESP2 and with RESP3.
//!
//! What surprises: the library splits commands of many keys by slot itself, and merges their replies.

use redis::cluster::{ClusterClient, ClusterClientBuilder, ClusterConnection, cluster_pipe};
use redis::cluster_async::ClusterConnection as AsyncClusterConnection;
use redis::{AsyncCommands, Commands, ProtocolVersion, RedisResult, Script, Value, cmd};

use super::Stage;
use crate::clients::block_on;
use crate::support::PATIENCE;

#[test]
fn redis_rs() {
    let stage = Stage::set();
    for protocol in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
        let client = client(&stage, protocol);
        let outcome: RedisResult<()> = client.get_connection().and_then(|mut connection| {
            there_is_one_node(&stage, &mut connection)?;
            keys_of_all_shards(&mut connection)?;
            keys_of_one_slot(&mut connection)?;
            scripts(&mut connection)?;
            blocking_pops(&client, &mut connection)?;
            block_on(asynchronously(&client))
        });
        outcome.unwrap_or_else(|error| panic!("{protocol:?}: {error}"));
        stage.clear();
    }
}

fn client(stage: &Stage, protocol: ProtocolVersion) -> ClusterClient {
    let url = format!("redis://{}", stage.address());
    let builder = ClusterClientBuilder::new([url]).use_protocol(protocol);
    builder
        .response_timeout(PATIENCE)
        .connection_timeout(PATIENCE)
        .build()
        .expect("it is an address")
}

/// The first and the last slot, and who has them: host, port, name, and what else it is called.
type Range = (i64, i64, (String, u16, String, Value));

fn there_is_one_node(stage: &Stage, connection: &mut ClusterConnection) -> RedisResult<()> {
    let ranges: Vec<Range> = cmd("CLUSTER").arg("SLOTS").query(connection)?;
    let [(0, 16_383, (host, port, ..))] = &ranges[..] else { panic!("{ranges:?}") };
    assert_eq!(format!("{host}:{port}"), stage.address());
    Ok(())
}

fn keys_of_all_shards(connection: &mut ClusterConnection) -> RedisResult<()> {
    let keys: Vec<String> = (0..300).map(|number| format!("k:{number}")).collect();
    for (number, key) in keys.iter().enumerate() {
        let _: () = connection.set(key, number)?;
        assert_eq!(connection.incr::<_, _, usize>(key, 1)?, number + 1);
    }
    assert_eq!(connection.mget::<_, Vec<usize>>(&keys)?, Vec::from_iter(1..=300));
    let mut pipeline = cluster_pipe();
    for key in &keys {
        pipeline.incr(key, 1).get(key);
    }
    let replies: Vec<usize> = pipeline.query(connection)?;
    assert_eq!(replies, Vec::from_iter((2..=301).flat_map(|number| [number, number])));
    let error = connection.lpush::<_, _, i64>("k:0", "x").expect_err("it is no list");
    assert_eq!(error.code(), Some("WRONGTYPE"));
    Ok(())
}

fn keys_of_one_slot(connection: &mut ClusterConnection) -> RedisResult<()> {
    let pairs: Vec<(String, i64)> =
        (0..50).map(|number| (format!("{{t}}:{number}"), number)).collect();
    let _: () = connection.mset(&pairs)?;
    let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
    assert_eq!(connection.mget::<_, Vec<i64>>(&keys)?, Vec::from_iter(0..50));
    assert_eq!(connection.del::<_, i64>(&keys)?, 50);
    Ok(())
}

fn scripts(connection: &mut ClusterConnection) -> RedisResult<()> {
    let add = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for number in 0..30_i64 {
        let sum: i64 = add.key(format!("sum:{number}")).arg(number).invoke(connection)?;
        assert_eq!(sum, number);
    }
    Ok(())
}

fn blocking_pops(client: &ClusterClient, connection: &mut ClusterConnection) -> RedisResult<()> {
    for number in 0..6_i64 {
        let (mut popper, key) = (client.get_connection()?, format!("queue:{number}"));
        let its_key = key.clone();
        let popping = std::thread::spawn(move || {
            popper.blpop::<_, (String, i64)>(its_key, PATIENCE.as_secs_f64())
        });
        let _: i64 = connection.rpush(&key, number)?;
        assert_eq!(popping.join().expect("the thread has not panicked")?, (key, number));
    }
    Ok(())
}

async fn asynchronously(client: &ClusterClient) -> RedisResult<()> {
    let connection = client.get_async_connection().await?;
    let tasks = (0..300).map(|number| tokio::spawn(round_trip(connection.clone(), number)));
    for task in Vec::from_iter(tasks) {
        task.await.expect("the task has not panicked")?;
    }
    Ok(())
}

async fn round_trip(mut connection: AsyncClusterConnection, number: i64) -> RedisResult<()> {
    let key = format!("async:{number}");
    let _: () = connection.set(&key, number).await?;
    assert_eq!(connection.incr::<_, _, i64>(&key, 1).await?, number + 1);
    let mut block = redis::pipe();
    block.atomic().incr(&key, 1).get(&key);
    let replies: (i64, i64) = block.query_async(&mut connection).await?;
    assert_eq!(replies, (number + 2, number + 2));
    Ok(())
}

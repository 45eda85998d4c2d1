//! fred meets our errors.
//!
//! Owns how a command is sent and how the library's error is named. Never counts anything. What surprises: it puts
//! our words into the error whole and sorts by the first of them.

use ::fred::clients::Client;
use ::fred::interfaces::{ClientLike, KeysInterface};
use ::fred::prelude::{Builder, Config, ReconnectPolicy};
use ::fred::types::{ClusterHash, CustomCommand, RespVersion, Value};

use super::{Case, Seen};
use crate::clients::{AGAIN, block_on};
use crate::support::PATIENCE;

pub(super) fn meet(cases: &[Case]) -> Vec<[Seen; 2]> {
    block_on(async {
        let mut all = Vec::new();
        for case in cases {
            let [alone, behind] = case.shapes();
            all.push([send(case, &alone).await, send(case, &behind).await]);
        }
        all
    })
}

async fn send(case: &Case, commands: &[Vec<String>]) -> Seen {
    let mut config = Config::from_url(&case.url()).expect("it is an address");
    config.version = RespVersion::RESP3;
    let mut builder = Builder::from_config(config);
    builder.set_policy(ReconnectPolicy::new_constant(0, 10));
    builder.with_connection_config(|connection| connection.connection_timeout = PATIENCE);
    let client = builder.build().expect("a client can be made");
    client.init().await.expect("it connects");
    if case.is_served {
        until(async || client.get::<Value, _>("{bar}ready").await.is_ok()).await;
    }
    let before = id(&client).await;
    let command = |words: &[String]| {
        (CustomCommand::new(words[0].clone(), ClusterHash::FirstKey, false), words[1..].to_vec())
    };
    let pipeline = client.pipeline();
    for words in commands.iter().filter(|_| commands.len() > 1) {
        let (name, arguments) = command(words);
        let _: () = pipeline.custom(name, arguments).await.expect("it is queued");
    }
    let outcome: Result<Value, _> = match commands {
        [words] => {
            let (name, arguments) = command(words);
            client.custom(name, arguments).await
        }
        _ => pipeline.all().await,
    };
    let error = outcome.expect_err("it is refused");
    let after = id(&client).await;
    let _ = client.quit().await;
    Seen { class: format!("{:?}", error.kind()), is_kept: before == after }
}

/// What Breakwater calls this connection.
async fn id(client: &Client) -> i64 {
    let command = || CustomCommand::new("CLIENT", ClusterHash::FirstKey, false);
    let mut id = 0;
    until(async || {
        let answer = client.custom::<i64, _>(command(), vec!["ID"]).await;
        id = *answer.as_ref().unwrap_or(&0);
        answer.is_ok()
    })
    .await;
    id
}

/// Asks until it is so.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !condition().await {
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it is served");
}

//! fred meets our errors.
//!
//! Owns how a command is sent and how the library's error is named. Never counts anything. What surprises: it asks INFO
//! before anything else, on every connection, and goes on if that is refused with `ERR`.

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
    let before = id(&client, case).await;
    if case.name.ends_with("as LOADING") {
        // What it has asked on its own account must be so long ago that nobody takes it for a part of
        // what is refused.
        tokio::time::sleep(LONG_AGO).await;
    }
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
    let after = id(&client, case).await;
    // The library waits for a connection to say so on; there may be none.
    drop(client);
    // Which error comes of that is a matter of the moment.
    let class = before.map_or("no connection".to_owned(), |_| format!("{:?}", error.kind()));
    Seen { class, is_kept: before.is_some() && before == after }
}

/// What Breakwater calls this connection. Its handshake asks INFO: told `LOADING`, it has none.
async fn id(client: &Client, case: &Case) -> Option<i64> {
    let mut id = None;
    until(async || {
        let command = CustomCommand::new("CLIENT", ClusterHash::FirstKey, false);
        id = client.custom(command, vec!["ID"]).await.ok();
        id.is_some() || !case.is_served
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

/// More than the second within which an answer counts as one to the same pipeline.
const LONG_AGO: std::time::Duration = std::time::Duration::from_millis(1500);

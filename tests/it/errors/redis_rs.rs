//! redis-rs meets our errors, by its connection manager.
//!
//! Owns how a command is sent and how the library's error is named. Never counts anything. What surprises: the
//! manager finds a closed connection when it is used next, so the first command afterwards may fail.

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, RedisError, Value, cmd, pipe};

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
    let client = Client::open(format!("{}/?protocol=resp3", case.url())).expect("an address");
    let patient = ConnectionManagerConfig::new()
        .set_response_timeout(Some(PATIENCE))
        .set_connection_timeout(Some(PATIENCE));
    let mut connection =
        client.get_connection_manager_with_config(patient).await.expect("it connects");
    if case.is_served {
        let ready = cmd("GET").arg("{bar}ready").to_owned();
        until_served(&mut connection, &ready).await;
    }
    let id = cmd("CLIENT").arg("ID").to_owned();
    let before = until_served(&mut connection, &id).await;
    let mut pipeline = pipe();
    for words in commands {
        pipeline.cmd(&words[0]).arg(&words[1..]);
    }
    let outcome: Result<Value, RedisError> = match commands {
        [words] => cmd(&words[0]).arg(&words[1..]).query_async(&mut connection).await,
        _ => pipeline.query_async(&mut connection).await,
    };
    let error = outcome.expect_err("it is refused");
    let after = until_served(&mut connection, &id).await;
    let class = format!("{:?}", error.kind());
    let class = error.code().filter(|_| class == "Extension").map_or(class, str::to_owned);
    Seen { class, is_kept: before == after }
}

/// Asks until there is an answer.
async fn until_served(connection: &mut ConnectionManager, question: &::redis::Cmd) -> Value {
    let asking = async {
        loop {
            match question.query_async(connection).await {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it is served")
}

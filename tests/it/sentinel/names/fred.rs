//! fred looks for a master by Sentinel, and finds Breakwater.
//!
//! Owns this job and nothing of Breakwater.
//!
//! What surprises: the library keeps a connection to the Sentinel beside that to the master; both are ours.

use fred::prelude::*;
use fred::types::config::ServerConfig;

use super::Stage;
use crate::clients::block_on;

#[test]
fn fred() {
    let stage = Stage::set();
    block_on(look_for_a_master(stage.proxy.port())).expect("the library finds it");
    stage.clear();
}

async fn look_for_a_master(port: u16) -> Result<(), Error> {
    let server = ServerConfig::new_sentinel(vec![("127.0.0.1".to_owned(), port)], "mymaster");
    let config = Config { server, ..Config::default() };
    let client = Builder::from_config(config).build()?;
    client.init().await?;
    let _: () = client.set("k", "v", None, None, false).await?;
    let value: String = client.get("k").await?;
    assert_eq!(value, "v");
    client.quit().await?;
    Ok(())
}

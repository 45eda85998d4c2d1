//! redis-rs looks for a master by Sentinel, and finds Breakwater.
//!
//! Owns this job and nothing of Breakwater. It runs with both the blocking and the asynchronous client.
//!
//! What surprises: the library asks for ROLE itself before it believes a Sentinel, and is answered by the real primary.

use redis::sentinel::{Sentinel, SentinelClient, SentinelServerType};
use redis::{AsyncCommands, Commands, RedisResult};

use super::Stage;
use crate::clients::block_on;

#[test]
fn redis_rs() {
    let stage = Stage::set();
    look_for_a_master(stage.proxy.port()).expect("the library finds it");
    stage.clear();
}

fn look_for_a_master(port: u16) -> RedisResult<()> {
    let url = format!("redis://127.0.0.1:{port}");
    let mut sentinel = Sentinel::build(vec![url.clone()])?;
    let master = sentinel.master_for("mymaster", None)?;
    assert_eq!(master.get_connection_info().addr().to_string(), format!("127.0.0.1:{port}"));
    let mut connection = master.get_connection()?;
    let _: () = connection.set("k", "v")?;
    assert_eq!(connection.get::<_, String>("k")?, "v");
    assert!(sentinel.master_for("other", None).is_err());
    block_on(async {
        let kind = SentinelServerType::Master;
        let mut client = SentinelClient::build(vec![url], "mymaster".into(), None, kind)?;
        let mut connection = client.get_async_connection().await?;
        assert_eq!(connection.get::<_, String>("k").await?, "v");
        Ok(())
    })
}

//! redis-rs looks for a Sentinel, and is not content with Breakwater.
//!
//! Owns the proof of what `docs/compatibility.md` says of it, so that a release which is content is noticed.
//!
//! What surprises: the library asks for ROLE, and only a Sentinel itself may answer `sentinel`. To the same port it
//! connects again for the master, of which it wants to hear `master`; nobody can say both.

use redis::sentinel::Sentinel;
use redis::{Client, Commands, RedisResult};

use super::Stage;

#[test]
fn redis_rs_needs_the_plain_address() {
    let stage = Stage::set();
    let url = format!("redis://127.0.0.1:{}", stage.proxy.port());
    let master =
        Sentinel::build(vec![url.clone()]).and_then(|mut it| it.master_for("mymaster", None));
    let error = match master {
        Ok(_) => panic!("it wants a Sentinel to say so"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("does not point to a sentinel"), "{error}");
    let value: RedisResult<u32> =
        Client::open(url).and_then(|client| client.get_connection()?.incr("k", 1));
    assert_eq!(value, Ok(1));
    stage.clear();
}

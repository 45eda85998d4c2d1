//! Shapes against arguments of all kinds, hostile ones included.
//!
//! Owns the proof that options are read as the server reads them: numbers that are none, words that
//! are values, options twice, and what is missing.

use super::*;
use crate::command::keys;
use crate::command::table::Table;
use crate::command::tests::Request;
use crate::policy::Caller;

fn fits_bytes(shape: &Shape, arguments: &[&[u8]]) -> bool {
    let (table, request) = (Table::builtin(), Request::new(arguments));
    let command = request.command();
    let spec = table.resolve(&command).unwrap();
    let mut positions = Vec::new();
    let _ = keys::keys(spec, &command, &mut positions);
    let caller = Caller::default();
    shape.fits(&Case { spec, command, keys: &positions, caller: &caller, now: 0 })
}

fn fits(shape: &Shape, line: &str) -> bool {
    fits_bytes(shape, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
}

/// Lines that have a shape, and lines that have it not.
fn check(shape: &Shape, lines: &[&str], others: &[&str]) {
    for line in lines {
        assert!(fits(shape, line), "{shape:?}: {line}");
    }
    for line in others {
        assert!(!fits(shape, line), "{shape:?}: {line}");
    }
}

#[test]
fn a_span_is_known_if_both_indexes_count_from_the_same_end() {
    let min = i64::MIN;
    check(
        &Shape::SpanAbove(100),
        &[
            "LRANGE k 0 -1",
            "LRANGE k 0 100",
            "LRANGE k 10 -200",
            "LRANGE k -101 -1",
            "lrange k 0 9223372036854775807",
            &format!("LRANGE k {min} -1"),
            &format!("LRANGE k {min} 9223372036854775807"),
            "GETRANGE k 0 100",
            "ZREVRANGE k 0 -1 WITHSCORES",
            "ZRANGESTORE d k 0 -1",
            "ZRANGE k 0 200 REV",
        ],
        &[
            "LRANGE k 0 99",
            "LRANGE k 500 599",
            "LRANGE k -100 -1",
            "LRANGE k 10 5",
            "LRANGE k -5 100000",
            "LRANGE k -100000 50",
            // Redis answers these with an error.
            "LRANGE k 0 many",
            "LRANGE k 0 9223372036854775808",
            "LRANGE k 0",
            "ZRANGESTORE d k 0 99",
        ],
    );
    assert!(!fits_bytes(&Shape::SpanAbove(100), &[b"LRANGE", b"k", b"0", b"-1\0"]));
}

#[test]
fn a_span_by_value_is_what_its_limit_says() {
    check(
        &Shape::SpanAbove(100),
        &[
            "ZRANGEBYSCORE k -inf +inf",
            "ZRANGEBYSCORE k -inf +inf LIMIT 0 101",
            "ZRANGEBYSCORE k -inf +inf LIMIT 0 -1",
            "ZRANGEBYSCORE k -inf +inf LIMIT 0 10 LIMIT 0 1000",
            "ZRANGEBYLEX k - + LIMIT 0",
            "ZRANGE k 0 10 BYSCORE",
            "ZRANGE k 0 10 byscore LIMIT 0 101",
            "XRANGE k - +",
            "XREVRANGE k + - COUNT 101",
            "GEORADIUS k 1 1 9 km",
            "GEORADIUS k 1 1 9 km STORE count",
            "GEOSEARCH k FROMMEMBER count BYRADIUS 5 km",
            "GEOSEARCHSTORE d k FROMLONLAT 1 1 BYBOX 1 1 km",
            "SORT k BY limit 1 2",
            "SINTERCARD 2 a b",
            "SINTERCARD 2 a b LIMIT 0",
            "SINTERCARD 1 limit 5",
        ],
        &[
            "ZRANGEBYSCORE k -inf +inf LIMIT 0 100",
            "ZRANGEBYSCORE k -inf +inf WITHSCORES limit 5 10",
            "ZRANGEBYSCORE k -inf +inf LIMIT 0 1000 LIMIT 0 10",
            "ZRANGE k 0 1000 BYLEX LIMIT 0 10",
            "XRANGE k - + COUNT 100",
            "GEORADIUS k 1 1 9 km COUNT 5 ANY",
            "GEOSEARCH k FROMMEMBER count BYRADIUS 5 km COUNT 5",
            "SORT k LIMIT 0 10",
            "SINTERCARD 2 a b LIMIT 5",
            "ZRANGEBYSCORE k 0 1 LIMIT 0 x",
        ],
    );
}

#[test]
fn unlimited_is_what_has_no_limit_or_one_that_says_all() {
    check(
        &Shape::Unlimited,
        &["SORT k", "SORT k LIMIT 0 -1", "SORT k GET limit", "XRANGE k - +", "SINTERCARD 1 a"],
        &["SORT k LIMIT 0 1000000", "XRANGE k - + COUNT 9"],
    );
}

#[test]
fn counts_stand_behind_a_word_or_alone() {
    check(
        &Shape::CountAbove(10),
        &[
            "SCAN 0 COUNT 11",
            "SCAN 0 MATCH count COUNT 11",
            "SCAN 0 COUNT 5 TYPE x count 11",
            "HSCAN k 0 COUNT 11",
            "SRANDMEMBER k -11",
            "SPOP k 11",
            "HRANDFIELD k 11 WITHVALUES",
            "LMPOP 2 a b LEFT COUNT 11",
            "BLMPOP 0 1 count LEFT COUNT 11",
            "XREAD COUNT 11 STREAMS a 0",
            "XREADGROUP GROUP count 1 COUNT 11 STREAMS a >",
            "LPOS k count COUNT 11",
            "CLUSTER GETKEYSINSLOT 1 11",
            "SRANDMEMBER k -9223372036854775808",
        ],
        &[
            "SCAN 0",
            "SCAN 0 MATCH count",
            "SCAN 0 COUNT 11 COUNT 10",
            "SCAN 0 COUNT",
            "SCAN 0 COUNT many",
            "SCAN 0 COUNT 99999999999999999999",
            "SRANDMEMBER k",
            "SRANDMEMBER k 10",
            "XREAD STREAMS COUNT 11",
            "LMPOP 99999999999999999999 a LEFT COUNT 11",
            "LMPOP -1 a LEFT COUNT 11",
            "BLMPOP 0 2 count 11 LEFT",
        ],
    );
    check(
        &Shape::RepeatsAbove(10),
        &["SRANDMEMBER k -11", "ZRANDMEMBER k -9223372036854775808"],
        &["SRANDMEMBER k 11", "SRANDMEMBER k -10", "SRANDMEMBER k"],
    );
}

#[test]
fn options_end_at_a_nul_byte_as_they_do_for_redis() {
    let words: [&[u8]; 4] = [b"SCAN", b"0", b"COUNT\0x", b"11"];
    assert!(fits_bytes(&Shape::CountAbove(10), &words));
}

#[test]
fn keys_are_counted_and_values_measured() {
    check(&Shape::KeysAbove(2), &["MGET a b c", "MSET a 1 b 2 c 3"], &["MGET a b", "PING", "MGET"]);
    check(&Shape::ValueAbove(3), &["SET k abcd"], &["SET k abc"]);
}

#[test]
fn a_pattern_with_a_wildcard_is_told_from_a_name() {
    check(
        &Shape::PatternHasGlob,
        &["KEYS *", "KEYS user:?", "KEYS [ab]", "SCAN 0 MATCH x*", "SCAN 0 MATCH a MATCH b*"],
        &["KEYS user:1", "KEYS user\\*", "KEYS", "SCAN 0", "SCAN 0 MATCH a", "KEYS a\\"],
    );
    let patterns = Shape::PatternIs(vec!["*".into(), "session:*".into()]);
    check(&patterns, &["KEYS *", "SCAN 0 MATCH session:*"], &["KEYS session:", "SCAN 0"]);
}

#[test]
fn a_string_without_a_time_to_live_is_told() {
    check(
        &Shape::NoTtl,
        &["SET k v", "SET k EX", "SET k v NX GET", "MSET a 1", "GETEX k PERSIST", "SETNX k v"],
        &[
            "SET k v EX 5",
            "SET k v NX px 5",
            "SET k v KEEPTTL",
            "GETEX k",
            "GETEX k EX 5",
            "SETEX k 5 v",
            "GET k",
        ],
    );
}

#[test]
fn words_are_looked_for_behind_the_name() {
    check(&Shape::Word("async".into()), &["FLUSHALL ASYNC"], &["FLUSHALL", "FLUSHALL SYNC"]);
    check(&Shape::NoWord("async".into()), &["FLUSHALL", "FLUSHALL SYNC"], &["FLUSHALL async"]);
}

#[test]
fn a_shape_suits_only_commands_that_can_have_it() {
    let table = Table::builtin();
    for (shape, good, bad) in [
        (Shape::SpanAbove(1), "lrange", "hgetall"),
        (Shape::SpanAbove(1), "xrange", "scan"),
        (Shape::CountAbove(1), "scan", "lrange"),
        (Shape::RepeatsAbove(1), "srandmember", "get"),
        (Shape::Unlimited, "sort", "lrange"),
        (Shape::PatternHasGlob, "keys", "hscan"),
        (Shape::NoTtl, "set", "hset"),
        (Shape::KeysAbove(1), "mget", "ping"),
    ] {
        assert!(shape.suits(table.find(good).unwrap()), "{shape:?} {good}");
        assert!(!shape.suits(table.find(bad).unwrap()), "{shape:?} {bad}");
    }
}

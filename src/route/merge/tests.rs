//! Replies of several nodes, as literal bytes, and the one that they make.
//!
//! Owns a case for each policy and each command whose policy is "special", in both versions of the
//! protocol, and the property that splitting and merging changes nothing. Never talks to a server.

use super::*;
use crate::command::table::Table;
use proptest::prelude::*;

fn merge_as(how: Merge, protocol: Protocol, parts: &[&str]) -> Result<String, Odd> {
    let replies = parts.iter().map(|part| Reply { bytes: part.as_bytes(), places: &[] });
    let mut out = Vec::new();
    how.write(replies, (0, 1), protocol, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn merge(command: &str, parts: &[&str]) -> Result<String, Odd> {
    let how = Merge::of(Table::builtin().find(command).unwrap());
    merge_as(how, Protocol::Resp2, parts)
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

#[test]
fn every_policy_of_the_table_has_its_rule() {
    let table = Table::builtin();
    let of = |name: &str| Merge::of(table.find(name).unwrap());
    assert_eq!(of("mget"), Merge::ByKey);
    assert_eq!(of("mset"), Merge::First);
    assert_eq!((of("del"), of("dbsize")), (Merge::Number(Fold::Sum), Merge::Number(Fold::Sum)));
    assert_eq!(of("wait"), Merge::Number(Fold::Min));
    assert_eq!(of("script|exists"), Merge::Logical { is_and: true });
    assert_eq!(
        (of("script|kill"), of("function|kill")),
        (Merge::OneSucceeded, Merge::OneSucceeded)
    );
    assert_eq!((of("keys"), of("slowlog|get")), (Merge::Concatenated, Merge::Concatenated));
    assert_eq!((of("info"), of("randomkey")), (Merge::Info, Merge::Random));
}

#[test]
fn numbers_are_added_or_compared() {
    assert_eq!(merge("dbsize", &[":2\r\n", ":0\r\n", ":40\r\n"]).unwrap(), ":42\r\n");
    assert_eq!(merge("wait", &[":2\r\n", ":1\r\n"]).unwrap(), ":1\r\n");
    let greatest = merge_as(Merge::Number(Fold::Max), Protocol::Resp2, &[":-2\r\n", ":-3\r\n"]);
    assert_eq!(greatest.unwrap(), ":-2\r\n");
    let end = format!(":{}\r\n", i64::MAX);
    assert_eq!(merge("dbsize", &[&end, ":1\r\n"]).unwrap(), end, "it does not wrap");
    assert_eq!(merge("dbsize", &[":1\r\n", "+many\r\n"]), Err(Odd));
    assert_eq!(merge("dbsize", &[]), Err(Odd));
}

#[test]
fn a_script_exists_where_every_node_has_it() {
    let merged = merge("script|exists", &["*3\r\n:1\r\n:1\r\n:0\r\n", "*3\r\n:1\r\n:0\r\n:0\r\n"]);
    assert_eq!(merged.unwrap(), "*3\r\n:1\r\n:0\r\n:0\r\n");
    let any = Merge::Logical { is_and: false };
    let merged = merge_as(any, Protocol::Resp2, &["*2\r\n:1\r\n:0\r\n", "*2\r\n:0\r\n:0\r\n"]);
    assert_eq!(merged.unwrap(), "*2\r\n:1\r\n:0\r\n");
    assert_eq!(merge_as(any, Protocol::Resp2, &[":0\r\n", ":1\r\n"]).unwrap(), ":1\r\n");
    assert_eq!(merge("script|exists", &["*1\r\n:1\r\n", "*2\r\n:1\r\n:1\r\n"]), Err(Odd));
}

#[test]
fn arrays_are_put_one_behind_the_other() {
    let merged = merge("keys", &["*1\r\n$1\r\na\r\n", "*0\r\n", "*2\r\n$1\r\nb\r\n$1\r\nc\r\n"]);
    assert_eq!(merged.unwrap(), "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
    assert_eq!(merge("keys", &["*-1\r\n", "*-1\r\n"]).unwrap(), "*-1\r\n");
    assert_eq!(
        merge("keys", &["*-1\r\n", "~1\r\n:1\r\n", "~1\r\n:2\r\n"]).unwrap(),
        "~2\r\n:1\r\n:2\r\n"
    );
    assert_eq!(merge("keys", &["*1\r\n:1\r\n", "~1\r\n:1\r\n"]), Err(Odd));
    assert_eq!(
        merge("keys", &["|1\r\n+a\r\n+b\r\n*1\r\n:1\r\n", "*1\r\n:2\r\n"]).unwrap(),
        "*2\r\n:1\r\n:2\r\n"
    );
}

#[test]
fn any_key_may_be_the_random_one_but_nothing_is_not_chosen_before_something() {
    let parts = ["$-1\r\n", "$1\r\na\r\n", "$1\r\nb\r\n"];
    let replies = || parts.iter().map(|part| Reply { bytes: part.as_bytes(), places: &[] });
    let pick = |chance| {
        let mut out = Vec::new();
        Merge::Random.write(replies(), (0, chance), Protocol::Resp2, &mut out).unwrap();
        out
    };
    assert_eq!((pick(0), pick(1)), (b"$1\r\na\r\n".to_vec(), b"$1\r\nb\r\n".to_vec()));
    assert_eq!(pick(u64::MAX), pick(1));
    assert_eq!(merge("randomkey", &["_\r\n", "_\r\n"]).unwrap(), "_\r\n");
}

#[test]
fn a_running_function_is_found_wherever_it_runs() {
    let idle = "*4\r\n$14\r\nrunning_script\r\n$-1\r\n$7\r\nengines\r\n*0\r\n";
    let busy =
        "*4\r\n$14\r\nrunning_script\r\n*2\r\n$4\r\nname\r\n$1\r\nf\r\n$7\r\nengines\r\n*0\r\n";
    assert_eq!(merge("function|stats", &[idle, busy, idle]).unwrap(), busy);
    assert_eq!(merge("function|stats", &[idle, idle]).unwrap(), idle);
}

#[test]
fn texts_stand_under_the_numbers_of_their_nodes() {
    let merged = merge("memory|doctor", &[&bulk("fine"), "=7\r\ntxt:bad\r\n"]).unwrap();
    assert_eq!(merged, bulk("# Node 1\nfine\n\n# Node 2\nbad\n"));
    let merged = merge_as(Merge::Texts, Protocol::Resp3, &["$1\r\nx\r\n"]).unwrap();
    assert_eq!(merged, "=15\r\ntxt:# Node 1\nx\n\r\n");
}

#[test]
fn maps_are_merged_field_by_field_in_both_spellings() {
    let flat = merge(
        "latency|histogram",
        &[
            "*2\r\n+get\r\n*4\r\n+calls\r\n:3\r\n+histogram_usec\r\n*4\r\n:1\r\n:2\r\n:2\r\n:3\r\n",
            "*4\r\n+get\r\n*4\r\n+calls\r\n:5\r\n+histogram_usec\r\n*2\r\n:2\r\n:5\r\n+set\r\n*2\r\n+calls\r\n:1\r\n",
        ],
    );
    assert_eq!(
        flat.unwrap(),
        "*4\r\n+get\r\n*4\r\n+calls\r\n:8\r\n+histogram_usec\r\n*4\r\n:1\r\n:2\r\n:2\r\n:8\r\n+set\r\n*2\r\n+calls\r\n:1\r\n"
    );
    let maps = merge(
        "memory|stats",
        &[
            "%3\r\n+total\r\n:3\r\n+share\r\n,1.5\r\n+db.0\r\n%1\r\n+x\r\n:1\r\n",
            "%3\r\n+total\r\n:4\r\n+share\r\n,2.5\r\n+db.0\r\n%1\r\n+x\r\n:2\r\n",
        ],
    );
    assert_eq!(
        maps.unwrap(),
        "%3\r\n+total\r\n:7\r\n+share\r\n,2.5\r\n+db.0\r\n%1\r\n+x\r\n:3\r\n"
    );
    assert_eq!(merge("memory|stats", &["*1\r\n:1\r\n", "*0\r\n"]), Err(Odd));
}

#[test]
fn info_counts_for_all_and_describes_the_first() {
    let first = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:50\r\n\r\n# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\nmem_fragmentation_ratio:1.50\r\nmaxmemory_policy:noeviction\r\n\r\n# Persistence\r\nloading:0\r\nrdb_last_bgsave_status:ok\r\n\r\n# CPU\r\nused_cpu_sys:0.500000\r\n\r\n# Commandstats\r\ncmdstat_get:calls=2,usec=8,usec_per_call=4.00,rejected_calls=0,failed_calls=1\r\n\r\n# Latencystats\r\nlatency_percentiles_usec_get:p50=1.003,p99=9.000\r\n\r\n# Keyspace\r\ndb0:keys=10,expires=1,avg_ttl=100\r\n";
    let second = "# Server\r\nredis_version:7.0.14\r\nuptime_in_seconds:40\r\n\r\n# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\nmem_fragmentation_ratio:1.25\r\nmaxmemory_policy:allkeys-lru\r\n\r\n# Persistence\r\nloading:1\r\nrdb_last_bgsave_status:err\r\n\r\n# CPU\r\nused_cpu_sys:0.250000\r\n\r\n# Commandstats\r\ncmdstat_get:calls=2,usec=4,usec_per_call=2.00,rejected_calls=1,failed_calls=0\r\ncmdstat_set:calls=1,usec=3,usec_per_call=3.00,rejected_calls=0,failed_calls=0\r\n\r\n# Latencystats\r\nlatency_percentiles_usec_get:p50=2.003,p99=3.000\r\n\r\n# Keyspace\r\ndb0:keys=30,expires=3,avg_ttl=200\r\n";
    let merged = merge("info", &[&bulk(first), &bulk(second)]).unwrap();
    let text = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:40\r\n\r\n# Memory\r\nused_memory:2097152\r\nused_memory_human:2.00M\r\nmem_fragmentation_ratio:1.50\r\nmaxmemory_policy:noeviction\r\n\r\n# Persistence\r\nloading:1\r\nrdb_last_bgsave_status:err\r\n\r\n# CPU\r\nused_cpu_sys:0.750000\r\n\r\n# Commandstats\r\ncmdstat_get:calls=4,usec=12,usec_per_call=3.00,rejected_calls=1,failed_calls=1\r\ncmdstat_set:calls=1,usec=3,usec_per_call=3.00,rejected_calls=0,failed_calls=0\r\n\r\n# Latencystats\r\nlatency_percentiles_usec_get:p50=2.003,p99=9.000\r\n\r\n# Keyspace\r\ndb0:keys=40,expires=4,avg_ttl=175\r\n";
    assert_eq!(merged, bulk(text));
    let alone = merge("info", &[&bulk(first)]).unwrap();
    assert_eq!(alone, bulk(first), "one node's text is not changed");
}

#[test]
fn an_element_for_each_key_or_nothing() {
    let merge = |parts: &[(&str, &[u32])], count| {
        let replies = parts.iter().map(|(bytes, places)| Reply { bytes: bytes.as_bytes(), places });
        let mut out = Vec::new();
        Merge::ByKey.write(replies, (count, 0), Protocol::Resp2, &mut out).map(|()| out)
    };
    let parts: [(&str, &[u32]); 2] = [("*2\r\n$-1\r\n$1\r\nc\r\n", &[0, 2]), ("*1\r\n_\r\n", &[1])];
    assert_eq!(merge(&parts, 3).unwrap(), b"*3\r\n$-1\r\n_\r\n$1\r\nc\r\n");
    assert_eq!(merge(&parts, 4), Err(Odd), "a key without an element");
    assert_eq!(merge(&parts, 2), Err(Odd), "an element without a key");
    assert_eq!(merge(&[("*1\r\n:1\r\n", &[0, 1])], 2), Err(Odd), "too few elements");
    assert_eq!(merge(&[("+OK\r\n", &[0])], 1), Err(Odd), "no array");
    assert_eq!(merge(&[("*1\r\n", &[0])], 1), Err(Odd), "an empty element");
}

proptest! {
    #[test]
    fn what_is_split_and_merged_is_what_was_whole(
        owners in prop::collection::vec(0_usize..5, 1..40),
        values in prop::collection::vec("[a-z\r\n]{0,6}", 40),
    ) {
        let elements: Vec<String> = owners.iter().enumerate().map(|(key, _)| {
            if values[key].is_empty() { "$-1\r\n".to_owned() } else { bulk(&values[key]) }
        }).collect();
        let whole = format!("*{}\r\n{}", elements.len(), elements.concat());
        let places: Vec<Vec<u32>> = (0..5).map(|owner| {
            (0..owners.len()).filter(|&key| owners[key] == owner).map(|key| key as u32).collect()
        }).collect();
        let parts: Vec<(String, &[u32])> = places.iter().filter(|keys| !keys.is_empty()).map(|keys| {
            let own: String = keys.iter().map(|&key| &*elements[key as usize]).collect();
            (format!("*{}\r\n{own}", keys.len()), &keys[..])
        }).collect();
        let replies = parts.iter().map(|(bytes, places)| Reply { bytes: bytes.as_bytes(), places });
        let mut out = Vec::new();
        Merge::ByKey.write(replies, (owners.len(), 0), Protocol::Resp2, &mut out).unwrap();
        prop_assert_eq!(String::from_utf8(out).unwrap(), whole);
    }

    #[test]
    fn no_bytes_of_a_node_break_a_merge(
        parts in prop::collection::vec("[-+:$*%=#,_0-3a\r\n]{0,30}", 1..4),
    ) {
        let table = Table::builtin();
        for spec in table.specs() {
            let replies = parts.iter().map(|part| Reply { bytes: part.as_bytes(), places: &[0] });
            let _ = Merge::of(spec).write(replies, (1, 7), Protocol::Resp3, &mut Vec::new());
        }
    }
}

#[test]
fn subscribers_of_each_shard_channel_are_added_over_the_nodes() {
    let (one, two) =
        ("*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:0\r\n", "*4\r\n$1\r\na\r\n:2\r\n$1\r\nb\r\n:5\r\n");
    let sum = "*4\r\n$1\r\na\r\n:3\r\n$1\r\nb\r\n:5\r\n";
    assert_eq!(merge("pubsub|shardnumsub", &[one, two]).unwrap(), sum);
    assert_eq!(merge("pubsub|shardnumsub", &["*0\r\n", "*0\r\n"]).unwrap(), "*0\r\n");
    assert_eq!(merge("pubsub|shardnumsub", &[one, "*0\r\n"]), Err(Odd));
    let (one, two) = ("*1\r\n$1\r\na\r\n", "*1\r\n$1\r\nb\r\n");
    assert_eq!(merge("pubsub|shardchannels", &[one, two]).unwrap(), "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
}

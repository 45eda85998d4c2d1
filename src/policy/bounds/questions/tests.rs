//! Plans of commands as clients send them, and as nobody should.
//!
//! Owns the lists of what is asked, of what arguments bound, and of what replies tell. What surprises: the last
//! test makes commands up at random; whatever they are, their plans must be coherent.

use proptest::prelude::*;

use super::*;
use crate::command::keys;
use crate::command::table::Table;
use crate::command::tests::Request;

/// Calls `then` with the plan of a request, if there is one.
fn with_plan<T>(request: &Request, then: impl FnOnce(&Plan<'_>) -> T) -> Option<T> {
    let table = Table::builtin();
    let spec = table.resolve(&request.command()).unwrap();
    let mut found = Vec::new();
    let _ = keys::keys(spec, &request.command(), &mut found);
    plan(spec, request.command(), &found).map(|plan| then(&plan))
}

/// The questions of a line, in words, one behind the other.
fn asked(line: &str) -> Option<String> {
    with_plan(&Request::words(line), |plan| {
        let questions = plan.questions();
        assert_eq!(questions.len(), plan.count(), "{line}");
        let words = questions.iter().map(|question| {
            let text = String::from_utf8_lossy(question).into_owned();
            let words = text.split("\r\n").filter(|word| !word.starts_with(['*', '$']));
            words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
        });
        words.collect::<Vec<_>>().join(", ")
    })
}

#[test]
fn each_command_is_measured_by_what_its_type_offers() {
    for (line, want) in [
        ("HGETALL h", "HLEN h"),
        ("HKEYS h", "HLEN h"),
        ("SMEMBERS s", "SCARD s"),
        ("LRANGE l 5 -5", "LLEN l"),
        ("ZRANGE z 0 -1 WITHSCORES", "ZCARD z"),
        ("ZRANGE z (1 5 BYSCORE", "ZCOUNT z (1 5"),
        ("ZRANGE z 5 (1 REV BYSCORE", "ZCOUNT z (1 5"),
        ("ZRANGE z [a [b BYLEX", "ZLEXCOUNT z [a [b"),
        ("ZRANGESTORE d z 0 -1", "ZCARD z"),
        ("ZRANGESTORE d z 9 1 BYSCORE REV", "ZCOUNT z 1 9"),
        ("ZREVRANGEBYSCORE z +inf -inf", "ZCOUNT z -inf +inf"),
        ("ZRANGEBYLEX z - +", "ZLEXCOUNT z - +"),
        ("ZREVRANGEBYLEX z + -", "ZLEXCOUNT z - +"),
        ("GEORADIUS g 1 2 3 km STORE d", "ZCARD g"),
        ("GEOSEARCHSTORE d g FROMLONLAT 1 2 BYRADIUS 3 km", "ZCARD g"),
        ("XRANGE x - +", "XLEN x"),
        ("SORT s LIMIT 0 5 STORE d", "LLEN s, SCARD s, ZCARD s"),
        ("SUNION a b", "SCARD a, SCARD b"),
        ("SDIFFSTORE d a b", "SCARD a, SCARD b"),
        ("ZUNION 2 a b WEIGHTS 1 2", "ZCARD a, SCARD a, ZCARD b, SCARD b"),
        ("ZINTERSTORE d 1 a", "ZCARD a, SCARD a"),
        ("PFCOUNT a b", "STRLEN a, STRLEN b"),
        ("BITOP AND d a b", "STRLEN a, STRLEN b"),
        ("LCS a b", "STRLEN a, STRLEN b"),
        ("GET s", "STRLEN s"),
        ("DUMP s", "MEMORY USAGE s"),
        ("MEMORY USAGE k SAMPLES 0", "HLEN k, SCARD k, LLEN k, ZCARD k, XLEN k"),
        ("LPOP l 5", "LLEN l"),
        ("LMPOP 2 a b LEFT COUNT 5", "LLEN a, LLEN b"),
        ("HRANDFIELD h 5", "HLEN h"),
    ] {
        assert_eq!(asked(line).as_deref(), Some(want), "{line}");
    }
    for line in ["PING", "GETBIT k 1", "SCAN 0", "DEL a b", "XREAD STREAMS s 0", "EVAL x 1 k"] {
        assert_eq!(asked(line), None, "{line}");
    }
    for line in ["LRANGE l a b", "ZRANGE z a b", "LPOP l -1", "LPOP l x", "SRANDMEMBER s 1x"] {
        assert_eq!(asked(line), None, "the server refuses {line}");
    }
}

#[test]
fn arguments_bound_what_they_can() {
    for (line, ceiling) in [
        ("LRANGE l 0 9", Some(10)),
        ("LRANGE l -10 -1", Some(10)),
        ("LRANGE l 9 0", Some(0)),
        ("LRANGE l -5 100", Some(5)),
        ("LRANGE l -100 5", Some(6)),
        ("LRANGE l 0 -1", None),
        ("LRANGE l -9223372036854775808 9223372036854775807", Some(1 << 63)),
        ("LRANGE l 0 9223372036854775807", Some(1 << 63)),
        ("ZRANGE z 0 9 REV", Some(10)),
        ("ZRANGE z 0 9 BYSCORE", None),
        ("ZRANGE z 0 9 BYSCORE LIMIT 0 5", Some(5)),
        ("ZRANGEBYSCORE z 0 9 WITHSCORES LIMIT 2 5", Some(5)),
        ("ZRANGEBYSCORE z 0 9 LIMIT 2 -1", None),
        ("ZRANGEBYSCORE z 0 9 LIMIT 0 5 LIMIT 0 -1", None),
        ("ZRANGEBYSCORE z 0 9 LIMIT 0", None),
        ("GEOSEARCH g FROMMEMBER count BYRADIUS 3 km", None),
        ("GEOSEARCH g FROMMEMBER m BYRADIUS 3 km COUNT 7 ANY", Some(7)),
        ("GEORADIUSBYMEMBER g count 5 km", None),
        ("XRANGE x - + COUNT 3", Some(3)),
        ("XRANGE x - + COUNT 3 COUNT 9", Some(9)),
        ("XRANGE x 5-1 5-1", Some(1)),
        ("XRANGE x 5 5", None),
        ("XRANGE x - -", None),
        ("SORT s LIMIT 0 5", None),
        ("LPOP l", Some(1)),
        ("LPOP l 20", Some(20)),
        ("LMPOP 1 l LEFT", Some(1)),
        ("SRANDMEMBER s -7", Some(7)),
        ("SRANDMEMBER s -9223372036854775808", Some(1 << 63)),
        ("PFCOUNT a b", Some(24_608)),
        ("PFMERGE d a b", Some(36_912)),
        ("BITOP AND d a b", None),
        ("MEMORY USAGE k", Some(5)),
        ("MEMORY USAGE k SAMPLES 9", Some(9)),
        ("MEMORY USAGE k SAMPLES 0", None),
    ] {
        let found = with_plan(&Request::words(line), |plan| plan.ceiling());
        assert_eq!(found, Some(ceiling), "{line}");
    }
}

#[test]
fn a_range_is_as_long_as_the_server_makes_it() {
    for (line, total, size) in [
        ("LRANGE l 0 -1", 7, 7),
        ("LRANGE l 5 -5", 20, 11),
        ("LRANGE l 5 100", 20, 15),
        ("LRANGE l -100 -3", 20, 18),
        ("LRANGE l 30 -1", 20, 0),
        ("LRANGE l -5 100", 3, 3),
        ("LRANGE l 0 -1", 0, 0),
        ("XRANGE x - + COUNT 9", 5, 5),
        ("SRANDMEMBER s -9", 5, 9),
        ("SRANDMEMBER s 9", 5, 5),
    ] {
        assert_eq!(with_plan(&Request::words(line), |plan| plan.size(total)), Some(size), "{line}");
    }
    let together = |line: &str, answers: [u64; 2]| {
        with_plan(&Request::words(line), |plan| plan.total(answers.into_iter())).unwrap()
    };
    assert_eq!(together("SUNION a b", [3, 4]), 7);
    assert_eq!(together("LCS a b", [3, 4]), 12);
    assert_eq!(together("LCS a b", [u64::MAX, 4]), u64::MAX);
    assert_eq!(together("SUNION a b", [u64::MAX, 4]), u64::MAX);
}

#[test]
fn a_reply_tells_a_size_only_if_it_is_the_size_that_is_asked_for() {
    for line in [
        "HGETALL h",
        "HVALS h",
        "SMEMBERS s",
        "LRANGE l 0 -1",
        "ZREVRANGE z 0 -1",
        "ZRANGE z 0 -1",
        "ZRANGE z 1 5 BYSCORE",
        "ZRANGEBYSCORE z 1 5",
        "XRANGE x - +",
        "XREVRANGE x + -",
    ] {
        let told = with_plan(&Request::words(line), |plan| plan.is_told_by_reply);
        assert_eq!(told, Some(true), "{line}");
    }
    for line in [
        "LRANGE l 0 -2",
        "LRANGE l 0 5",
        "ZRANGE z 1 5 BYSCORE LIMIT 0 1",
        "ZRANGEBYSCORE z 1 5 LIMIT 0 1",
        "ZRANGESTORE d z 0 -1",
        "XRANGE x 5 +",
        "XRANGE x - + COUNT 1",
        "SUNION a b",
        "SORT s",
        "SPOP s 5",
        "HRANDFIELD h 5",
        "GEORADIUS g 1 2 3 km",
    ] {
        let told = with_plan(&Request::words(line), |plan| plan.is_told_by_reply);
        assert_eq!(told, Some(false), "{line}");
    }
    let in_pairs = |line| with_plan(&Request::words(line), |plan| plan.is_in_pairs).unwrap();
    assert!(in_pairs("HGETALL h") && in_pairs("ZRANGE z 0 -1 withscores"));
    assert!(!in_pairs("HKEYS h") && !in_pairs("ZRANGE z 0 -1"));
}

#[test]
fn answers_are_numbers_or_tell_nothing() {
    for (reply, want) in [
        (&b":0\r\n"[..], Some(0)),
        (b":523714\r\n", Some(523_714)),
        (b"-WRONGTYPE Operation against a key\r\n", Some(0)),
        (b"$-1\r\n", Some(0)),
        (b"_\r\n", Some(0)),
        (b":-1\r\n", None),
        (b":x\r\n", None),
        (b":1", None),
        (b"", None),
        (b"-NOPERM no\r\n", None),
        (b"-ERR unknown command\r\n", None),
        (b"$1\r\n1\r\n", None),
        (b"|1\r\n+a\r\n+b\r\n:1\r\n", None),
    ] {
        assert_eq!(number(reply), want, "{:?}", reply.escape_ascii().to_string());
    }
}

/// Words that mean something, or nearly.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "0",
        "-1",
        "1",
        "-9223372036854775808",
        "9223372036854775807",
        "9223372036854775808",
        "+1",
        "COUNT",
        "count\0x",
        "LIMIT",
        "BYSCORE",
        "BYLEX",
        "REV",
        "STORE",
        "SAMPLES",
        "WITHSCORES",
        "ANY",
        "k",
        "",
        "(1",
        "[a",
        "-",
        "+",
        "-inf",
        "5-1",
        "LEFT",
        "IDX",
    ];
    prop_oneof![
        8 => proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ]
}

proptest! {
    /// Whatever the arguments are, the plan is coherent: nothing panics, no part is larger than
    /// what bounds it, and no question is longer than the command it is for.
    #[test]
    fn hostile_arguments_make_coherent_plans(
        command in proptest::sample::select(MEASURED.map(|(name, _)| name).to_vec()),
        arguments in proptest::collection::vec(word(), 0..12),
        total in any::<u64>(),
    ) {
        let name = command.split('|').map(|word| word.as_bytes().to_vec());
        let words: Vec<Vec<u8>> = name.chain(arguments).collect();
        let request = Request::new(&words);
        if Table::builtin().resolve(&request.command()).is_ok() {
            with_plan(&request, |plan| {
                if let Some(ceiling) = plan.ceiling() {
                    assert!(plan.size(total) <= ceiling);
                }
                assert!(plan.known().is_some() || plan.size(total) <= total);
                assert!(plan.count() > 0 && plan.count() <= 5 * words.len());
                for question in plan.questions() {
                    assert!(question.len() <= request.command().frame().len() + 64);
                }
            });
        }
    }
}

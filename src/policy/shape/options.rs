//! Where the options of a command stand: which words it knows, and how many arguments follow each.
//!
//! Owns this table, for the commands whose arguments say how much they want. Never judges an amount.
//!
//! What surprises: it need not know every word of a command, only those that others follow; an
//! argument that is no known word is passed by. Servers read the same way, and refuse what is left.

use crate::command::Command;

use super::number;

/// What there is to know of a command's arguments. All positions count the name as 0.
#[derive(Debug)]
pub(super) struct Grammar {
    /// Where the first index of a range is; the second one follows it.
    pub(super) range: Option<usize>,
    /// Where a count stands that has no word.
    count_at: Option<usize>,
    /// Where its options begin.
    options: Start,
    /// Words, and how many arguments belong to each.
    words: &'static [(&'static str, usize)],
    /// The word whose last argument limits how much comes.
    pub(super) limit: Option<&'static str>,
    /// Whether a limit of zero is none.
    pub(super) zero_is_all: bool,
}

/// Where options begin.
#[derive(Debug)]
enum Start {
    /// At an argument.
    At(usize),
    /// Behind as many keys as this argument says.
    BehindKeys(usize),
}

// === impl Grammar ===

impl Grammar {
    /// That of a command; the empty one if there is nothing to know.
    pub(super) fn of(name: &str) -> &'static Grammar {
        match name {
            "lrange" | "getrange" | "substr" | "zrevrange" => &RANGE,
            "zrange" => &ZRANGE,
            "zrangestore" => &ZRANGESTORE,
            "zrangebyscore" | "zrangebylex" | "zrevrangebyscore" | "zrevrangebylex" => &BY_VALUE,
            "xrange" | "xrevrange" => &XRANGE,
            "georadius" | "georadius_ro" => &GEORADIUS,
            "georadiusbymember" | "georadiusbymember_ro" => &GEORADIUSBYMEMBER,
            "geosearch" => &GEOSEARCH,
            "geosearchstore" => &GEOSEARCHSTORE,
            "sort" | "sort_ro" => &SORT,
            "sintercard" | "zintercard" => &INTERCARD,
            "scan" => &SCAN,
            "hscan" | "sscan" | "zscan" => &KEY_SCAN,
            "xread" | "xreadgroup" => &XREAD,
            "xinfo|stream" => &XINFO,
            "xautoclaim" => &XAUTOCLAIM,
            "lpos" => &LPOS,
            "lmpop" | "zmpop" => &MPOP,
            "blmpop" | "bzmpop" => &BLOCKING_MPOP,
            "srandmember" | "hrandfield" | "zrandmember" | "spop" | "lpop" | "rpop" | "zpopmin"
            | "zpopmax" | "slowlog|get" | "acl|log" => &COUNT_SECOND,
            "cluster|getkeysinslot" => &COUNT_THIRD,
            "set" => &SET,
            "getex" => &GETEX,
            _ => &NOTHING,
        }
    }

    /// Whether it can be asked for so many and no more.
    pub(super) fn has_count(&self) -> bool {
        self.count_at.is_some() || self.words.iter().any(|(word, _)| *word == "count")
    }

    /// How many are asked for.
    pub(super) fn count(&self, command: &Command<'_>) -> Option<i64> {
        number(command, self.count_at.or_else(|| self.amount(command, "count"))?)
    }

    /// Whether a word is there as an option, with all that belongs to it.
    pub(super) fn has(&self, command: &Command<'_>, word: &str) -> bool {
        self.amount(command, word).is_some()
    }

    /// Where the last argument is that belongs to a word (the word itself if none does). Of several the
    /// last one counts.
    pub(super) fn amount(&self, command: &Command<'_>, wanted: &str) -> Option<usize> {
        let mut at = self.start(command)?;
        let mut found = None;
        while at < command.len() {
            let word = self.words.iter().find(|(word, _)| command.has_word_at(at, word));
            let Some(&(word, follow)) = word else {
                at += 1;
                continue;
            };
            let last = at.saturating_add(follow);
            if word == wanted && last < command.len() {
                found = Some(last);
            }
            at = last.saturating_add(1);
        }
        found
    }

    fn start(&self, command: &Command<'_>) -> Option<usize> {
        match self.options {
            Start::At(index) => Some(index),
            Start::BehindKeys(count) => {
                let keys = usize::try_from(number(command, count)?).ok()?;
                keys.checked_add(count + 1)
            }
        }
    }
}

/// Nothing that we would ask for.
const NOTHING: Grammar = Grammar {
    range: None,
    count_at: None,
    options: Start::At(usize::MAX),
    words: &[],
    limit: None,
    zero_is_all: false,
};

/// `LRANGE key start stop`.
const RANGE: Grammar = Grammar { range: Some(2), ..NOTHING };

const RANGE_WORDS: &[(&str, usize)] = &[("limit", 2), ("byscore", 0), ("bylex", 0)];

/// `ZRANGE key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count]`.
const ZRANGE: Grammar = Grammar {
    range: Some(2),
    options: Start::At(4),
    words: RANGE_WORDS,
    limit: Some("limit"),
    ..NOTHING
};

/// `ZRANGESTORE destination key start stop …`.
const ZRANGESTORE: Grammar = Grammar { range: Some(3), options: Start::At(5), ..ZRANGE };

/// `ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]`.
const BY_VALUE: Grammar = Grammar { range: None, words: &[("limit", 2)], ..ZRANGE };

/// `XRANGE key start end [COUNT count]`.
const XRANGE: Grammar =
    Grammar { options: Start::At(4), words: &[("count", 1)], limit: Some("count"), ..NOTHING };

/// `GEORADIUS key longitude latitude radius unit [COUNT count] [STORE key]`.
const GEORADIUS: Grammar = Grammar {
    options: Start::At(6),
    words: &[("count", 1), ("store", 1), ("storedist", 1)],
    ..XRANGE
};

/// `GEORADIUSBYMEMBER key member radius unit …`.
const GEORADIUSBYMEMBER: Grammar = Grammar { options: Start::At(5), ..GEORADIUS };

/// `GEOSEARCH key FROMMEMBER member | FROMLONLAT … BYRADIUS … | BYBOX … [COUNT count]`.
const GEOSEARCH: Grammar = Grammar {
    options: Start::At(2),
    words: &[("frommember", 1), ("fromlonlat", 2), ("byradius", 2), ("bybox", 3), ("count", 1)],
    ..XRANGE
};

/// `GEOSEARCHSTORE destination key …`.
const GEOSEARCHSTORE: Grammar = Grammar { options: Start::At(3), ..GEOSEARCH };

/// `SORT key [BY pattern] [LIMIT offset count] [GET pattern …] [STORE destination]`.
const SORT: Grammar = Grammar {
    options: Start::At(2),
    words: &[("limit", 2), ("by", 1), ("get", 1), ("store", 1)],
    limit: Some("limit"),
    ..NOTHING
};

/// `SINTERCARD numkeys key … [LIMIT limit]`.
const INTERCARD: Grammar = Grammar {
    options: Start::BehindKeys(1),
    words: &[("limit", 1)],
    limit: Some("limit"),
    zero_is_all: true,
    ..NOTHING
};

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`.
const SCAN: Grammar =
    Grammar { options: Start::At(2), words: &[("match", 1), ("count", 1), ("type", 1)], ..NOTHING };

/// `HSCAN key cursor …`.
const KEY_SCAN: Grammar = Grammar { options: Start::At(3), ..SCAN };

/// `XREAD [COUNT count] [BLOCK ms] STREAMS …`, and XREADGROUP. What follows STREAMS are names.
const XREAD: Grammar = Grammar {
    options: Start::At(1),
    words: &[("group", 2), ("count", 1), ("block", 1), ("streams", usize::MAX)],
    ..NOTHING
};

/// `XINFO STREAM key [FULL [COUNT count]]`; without FULL it is small.
const XINFO: Grammar = Grammar { options: Start::At(3), words: &[("count", 1)], ..NOTHING };

/// `XAUTOCLAIM key group consumer min-idle start [COUNT count]`.
const XAUTOCLAIM: Grammar = Grammar { options: Start::At(6), ..XINFO };

/// `LPOS key element [RANK rank] [COUNT count] [MAXLEN length]`.
const LPOS: Grammar = Grammar {
    options: Start::At(3),
    words: &[("rank", 1), ("count", 1), ("maxlen", 1)],
    ..NOTHING
};

/// `LMPOP numkeys key … LEFT | RIGHT [COUNT count]`.
const MPOP: Grammar = Grammar { options: Start::BehindKeys(1), ..XINFO };

/// `BLMPOP timeout numkeys key …`.
const BLOCKING_MPOP: Grammar = Grammar { options: Start::BehindKeys(2), ..XINFO };

/// `SPOP key [count]`.
const COUNT_SECOND: Grammar = Grammar { count_at: Some(2), ..NOTHING };

/// `CLUSTER GETKEYSINSLOT slot count`.
const COUNT_THIRD: Grammar = Grammar { count_at: Some(3), ..NOTHING };

const TTL_WORDS: &[(&str, usize)] =
    &[("ex", 1), ("px", 1), ("exat", 1), ("pxat", 1), ("keepttl", 0), ("persist", 0)];

/// `SET key value [EX seconds | …]`.
const SET: Grammar = Grammar { options: Start::At(3), words: TTL_WORDS, ..NOTHING };

/// `GETEX key [EX seconds | … | PERSIST]`.
const GETEX: Grammar = Grammar { options: Start::At(2), ..SET };

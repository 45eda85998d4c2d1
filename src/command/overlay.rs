//! What an upstream says about its own commands: the reply to COMMAND, read with suspicion.
//!
//! Owns the reading of that reply in the shapes of Redis 6 (six or seven fields a command) and 7
//! (ten), with maps as flat lists of names and values. Never decides what becomes of a command:
//! [`super::table::Table::overlay`] does.
//!
//! The reply comes from outside. Nothing in it can make this fail other than by an `Err`, nothing
//! allocates by a number it names, and every list has a limit. What is malformed is left out and
//! counted, because one odd module must not cost us the rest.

use super::flags::{Categories, Flags, KeyFlags};
use super::index::NAME_BYTES_MAX;
use super::spec::{BeginSearch, FindKeys, KeySpec, RequestPolicy, ResponsePolicy};

/// Most commands and subcommands that are taken from one upstream (Redis with all of its own
/// modules has about 700).
pub const LIVE_COMMANDS_MAX: usize = 4096;

/// Most key specs of one command (Redis has at most three).
pub const KEY_SPECS_MAX: usize = 16;

/// A reply without its protocol: what [`from_reply`] reads. Maps are arrays of names and values,
/// sets are arrays; strings of all kinds are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An integer.
    Integer(i64),
    /// A simple or bulk string.
    Bytes(Vec<u8>),
    /// An array, set or flattened map.
    Array(Vec<Value>),
    /// Null, and whatever else has no place in this reply.
    Null,
}

/// One command as an upstream describes it.
#[derive(Clone, Debug)]
pub struct LiveSpec {
    /// Its name; a subcommand's with or without its container before a bar.
    pub name: String,
    /// Number of arguments with the name(s); negative: at least that many.
    pub arity: i32,
    /// The flags that we know.
    pub flags: Flags,
    /// The ACL categories that we know.
    pub categories: Categories,
    /// First key in the old notation, 0 without keys.
    pub first_key: i32,
    /// Last key in the old notation; negative: from the end.
    pub last_key: i32,
    /// Distance from key to key in the old notation.
    pub key_step: i32,
    /// Where it goes in a cluster.
    pub request_policy: RequestPolicy,
    /// How its replies become one.
    pub response_policy: ResponsePolicy,
    /// Where its keys are; empty where the upstream is too old to say.
    pub key_specs: Vec<KeySpec>,
    /// Its subcommands; theirs are not read.
    pub subcommands: Vec<LiveSpec>,
}

/// What was read from a COMMAND reply.
#[derive(Clone, Debug, Default)]
pub struct LiveCommands {
    /// The commands, in the order of the reply.
    pub commands: Vec<LiveSpec>,
    /// How many entries were left out: malformed, or above [`LIVE_COMMANDS_MAX`].
    pub skipped: usize,
}

/// The reply is no list of commands at all, or an empty one: a table made of it would refuse
/// everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotACommandReply;

/// Reads the reply to COMMAND.
pub fn from_reply(reply: &Value) -> Result<LiveCommands, NotACommandReply> {
    let Value::Array(entries) = reply else {
        return Err(NotACommandReply);
    };
    let mut reader = Reader { room: LIVE_COMMANDS_MAX, skipped: 0 };
    let commands = reader.commands(entries, true);
    if commands.is_empty() {
        return Err(NotACommandReply);
    }
    Ok(LiveCommands { commands, skipped: reader.skipped })
}

/// Counts while reading.
struct Reader {
    /// How many more commands and subcommands may be taken.
    room: usize,
    /// How many were left out.
    skipped: usize,
}

// === impl Reader ===

impl Reader {
    /// A list of commands. Subcommands are one level deep; what a server put below is not looked at.
    fn commands(&mut self, entries: &[Value], is_top: bool) -> Vec<LiveSpec> {
        let mut commands = Vec::new();
        for entry in entries {
            let command = if self.room == 0 { None } else { self.command(entry, is_top) };
            match command {
                Some(command) => commands.push(command),
                None => self.skipped += 1,
            }
        }
        commands
    }

    /// One command; `None` if even its name or arity cannot be read.
    fn command(&mut self, entry: &Value, is_top: bool) -> Option<LiveSpec> {
        let fields = entry.items()?;
        let mut command = LiveSpec {
            name: name_from(fields.first()?)?,
            arity: fields.get(1)?.number().filter(|arity| *arity != 0 && *arity != i32::MIN)?,
            flags: fields
                .get(2)?
                .words()
                .filter_map(Flags::from_name)
                .fold(Flags::default(), Flags::union),
            ..LiveSpec::default()
        };
        self.room -= 1;
        let number = |index: usize| fields.get(index).and_then(Value::number).unwrap_or(0);
        (command.first_key, command.last_key, command.key_step) = (number(3), number(4), number(5));
        command.categories = categories_from(fields.get(6));
        for tip in fields.get(7).into_iter().flat_map(Value::words) {
            command.take_tip(tip);
        }
        command.key_specs = match fields.get(8).and_then(Value::items) {
            Some(specs) => specs.iter().take(KEY_SPECS_MAX).map(key_spec_from).collect(),
            None => Vec::new(),
        };
        if let Some(subcommands) = fields.get(9).and_then(Value::items).filter(|_| is_top) {
            command.subcommands = self.commands(subcommands, false);
        }
        Some(command)
    }
}

// === impl LiveSpec ===

impl Default for LiveSpec {
    fn default() -> LiveSpec {
        LiveSpec {
            name: String::new(),
            arity: -1,
            flags: Flags::default(),
            categories: Categories::default(),
            first_key: 0,
            last_key: 0,
            key_step: 0,
            request_policy: RequestPolicy::Default,
            response_policy: ResponsePolicy::Default,
            key_specs: Vec::new(),
            subcommands: Vec::new(),
        }
    }
}

impl LiveSpec {
    /// Where the keys are: as the upstream says, or else made of the old notation.
    pub(super) fn to_key_specs(&self) -> Vec<KeySpec> {
        if !self.key_specs.is_empty() || self.first_key <= 0 {
            return self.key_specs.clone();
        }
        // The old notation counts `last` from the name, key specs count it from the first key.
        let last = match self.last_key {
            last if last < 0 => last,
            last => last.saturating_sub(self.first_key).max(0),
        };
        let mut flags = KeyFlags::RW | KeyFlags::ACCESS | KeyFlags::UPDATE;
        if self.flags.contains(Flags::MOVABLEKEYS) {
            flags = flags | KeyFlags::INCOMPLETE;
        }
        let find = FindKeys::Range { last, step: self.key_step, limit: 0 };
        vec![KeySpec { begin: BeginSearch::Index(self.first_key), find, flags }]
    }

    /// A hint of the server's; those that we do not know say nothing to us.
    fn take_tip(&mut self, tip: &str) {
        if let Some(policy) = tip.strip_prefix("request_policy:") {
            self.request_policy = RequestPolicy::from_name(policy);
        } else if let Some(policy) = tip.strip_prefix("response_policy:") {
            self.response_policy = ResponsePolicy::from_name(policy);
        } else if tip.starts_with("nondeterministic") {
            self.flags = self.flags.union(Flags::from_name(tip).unwrap_or_default());
        }
    }
}

// === impl Value ===

impl Value {
    /// The elements of a list.
    fn items(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// A number that fits our fields.
    fn number(&self) -> Option<i32> {
        match self {
            Value::Integer(number) => i32::try_from(*number).ok(),
            _ => None,
        }
    }

    /// A string of text.
    fn word(&self) -> Option<&str> {
        match self {
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The strings of a list.
    fn words(&self) -> impl Iterator<Item = &str> {
        self.items().unwrap_or_default().iter().filter_map(Value::word)
    }

    /// The value behind `name` in a flattened map.
    fn field(&self, name: &str) -> Option<&Value> {
        let pairs = self.items()?.chunks_exact(2);
        pairs.into_iter().find(|pair| pair[0].word() == Some(name)).map(|pair| &pair[1])
    }
}

/// A name of bearable length; a subcommand's is as long as two.
fn name_from(value: &Value) -> Option<String> {
    let name = value.word()?;
    (!name.is_empty() && name.len() <= 2 * NAME_BYTES_MAX + 1).then(|| name.to_owned())
}

/// `@read @fast …`
fn categories_from(value: Option<&Value>) -> Categories {
    let words = value.into_iter().flat_map(Value::words);
    words
        .filter_map(|word| Categories::from_name(word.trim_start_matches('@')))
        .fold(Categories::default(), Categories::union)
}

/// One key spec. A part that we do not understand becomes unknown, which says that there are keys
/// that we cannot find; leaving the spec out would say that there are none.
fn key_spec_from(value: &Value) -> KeySpec {
    let flags = value.field("flags").into_iter().flat_map(Value::words);
    KeySpec {
        begin: value.field("begin_search").and_then(begin_from).unwrap_or(BeginSearch::Unknown),
        find: value.field("find_keys").and_then(find_from).unwrap_or(FindKeys::Unknown),
        flags: flags.filter_map(KeyFlags::from_name).fold(KeyFlags::default(), KeyFlags::union),
    }
}

/// Where a spec's keys begin; `None` for kinds that came after us.
fn begin_from(value: &Value) -> Option<BeginSearch> {
    let spec = value.field("spec")?;
    match value.field("type")?.word()? {
        "index" => Some(BeginSearch::Index(spec.field("index")?.number()?)),
        "keyword" => Some(BeginSearch::Keyword {
            word: name_from(spec.field("keyword")?)?.into(),
            from: spec.field("startfrom")?.number()?,
        }),
        _ => None,
    }
}

/// How far a spec's keys go; `None` for kinds that came after us.
fn find_from(value: &Value) -> Option<FindKeys> {
    let spec = value.field("spec")?;
    let number = |name: &str| spec.field(name).and_then(Value::number);
    match value.field("type")?.word()? {
        "range" => Some(FindKeys::Range {
            last: number("lastkey")?,
            step: number("keystep")?,
            limit: number("limit")?,
        }),
        "keynum" => Some(FindKeys::Count {
            index: number("keynumidx")?,
            first: number("firstkey")?,
            step: number("keystep")?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(word: &str) -> Value {
        Value::Bytes(word.as_bytes().to_vec())
    }

    fn words(line: &str) -> Value {
        Value::Array(line.split_whitespace().map(text).collect())
    }

    fn map(pairs: Vec<(&str, Value)>) -> Value {
        Value::Array(pairs.into_iter().flat_map(|(name, value)| [text(name), value]).collect())
    }

    /// Shape of Redis 7: a command with a keyword spec, a range spec and a subcommand.
    fn seven(name: &str, subcommands: Vec<Value>) -> Value {
        let keyword = map(vec![("keyword", text("STREAMS")), ("startfrom", Value::Integer(1))]);
        let range = map(vec![
            ("lastkey", Value::Integer(-1)),
            ("keystep", Value::Integer(1)),
            ("limit", Value::Integer(2)),
        ]);
        let spec = map(vec![
            ("notes", text("whatever")),
            ("flags", words("RO access shiny")),
            ("begin_search", map(vec![("type", text("keyword")), ("spec", keyword)])),
            ("find_keys", map(vec![("type", text("range")), ("spec", range)])),
        ]);
        Value::Array(vec![
            text(name),
            Value::Integer(-4),
            words("readonly blocking futuristic"),
            Value::Integer(0),
            Value::Integer(0),
            Value::Integer(0),
            words("@read @stream @json"),
            words("request_policy:all_shards response_policy:agg_sum nondeterministic_output x"),
            Value::Array(vec![spec]),
            Value::Array(subcommands),
        ])
    }

    fn six(name: &str, fields: usize) -> Value {
        let mut all = vec![text(name), Value::Integer(3), words("write movablekeys")];
        all.extend([1, -1, 2].map(Value::Integer));
        all.push(words("@write"));
        all.truncate(fields);
        Value::Array(all)
    }

    #[test]
    fn the_shape_of_redis_7_is_read_whole() {
        let reply = Value::Array(vec![seven("x", vec![six("x|y", 7)])]);
        let live = from_reply(&reply).unwrap();
        assert_eq!(live.skipped, 0);
        let x = &live.commands[0];
        assert_eq!((x.name.as_str(), x.arity), ("x", -4));
        assert!(x.flags.contains(Flags::READONLY | Flags::BLOCKING | Flags::NONDETERMINISTIC));
        assert_eq!(x.categories.names().collect::<Vec<_>>(), ["read", "stream"]);
        assert_eq!(x.request_policy, RequestPolicy::AllShards);
        assert_eq!(x.response_policy, ResponsePolicy::AggSum);
        assert_eq!(
            x.key_specs,
            [KeySpec {
                begin: BeginSearch::Keyword { word: "STREAMS".into(), from: 1 },
                find: FindKeys::Range { last: -1, step: 1, limit: 2 },
                flags: KeyFlags::RO | KeyFlags::ACCESS,
            }]
        );
        assert_eq!(x.subcommands[0].name, "x|y");
    }

    #[test]
    fn the_shapes_of_redis_6_are_read() {
        for fields in [6, 7] {
            let live = from_reply(&Value::Array(vec![six("mset", fields)])).unwrap();
            let mset = &live.commands[0];
            assert_eq!((mset.first_key, mset.last_key, mset.key_step), (1, -1, 2));
            let [spec] = &mset.to_key_specs()[..] else { panic!("one spec") };
            assert_eq!(spec.begin, BeginSearch::Index(1));
            assert_eq!(spec.find, FindKeys::Range { last: -1, step: 2, limit: 0 });
            assert!(spec.flags.contains(KeyFlags::INCOMPLETE));
        }
    }

    #[test]
    fn the_old_notation_counts_from_the_name() {
        let copy = LiveSpec { first_key: 2, last_key: 3, key_step: 1, ..LiveSpec::default() };
        assert_eq!(copy.to_key_specs()[0].find, FindKeys::Range { last: 1, step: 1, limit: 0 });
        let odd = LiveSpec { first_key: i32::MAX, last_key: 0, ..LiveSpec::default() };
        assert_eq!(odd.to_key_specs()[0].find, FindKeys::Range { last: 0, step: 0, limit: 0 });
    }

    #[test]
    fn malformed_entries_are_left_out_and_counted() {
        let reply = Value::Array(vec![
            Value::Null,
            Value::Integer(5),
            Value::Array(vec![]),
            Value::Array(vec![text("noarity")]),
            Value::Array(vec![text("zero"), Value::Integer(0), words("")]),
            Value::Array(vec![text("huge"), Value::Integer(i64::MAX), words("")]),
            Value::Array(vec![Value::Bytes(vec![0xff]), Value::Integer(1), words("")]),
            Value::Array(vec![text(&"n".repeat(5000)), Value::Integer(1), words("")]),
            six("good", 6),
        ]);
        let live = from_reply(&reply).unwrap();
        assert_eq!((live.commands.len(), live.skipped), (1, 8));
    }

    #[test]
    fn what_is_no_list_of_commands_is_refused() {
        for reply in [Value::Null, text("OK"), Value::Array(vec![]), words("a b c")] {
            assert!(from_reply(&reply).is_err());
        }
    }

    #[test]
    fn the_number_of_commands_and_key_specs_is_bounded() {
        let subcommands = (0..100).map(|n| six(&format!("c|{n}"), 6)).collect();
        let mut entries = vec![seven("c", subcommands)];
        entries.extend((0..LIVE_COMMANDS_MAX).map(|n| six(&format!("x{n}"), 6)));
        let live = from_reply(&Value::Array(entries)).unwrap();
        let total: usize = live.commands.iter().map(|c| 1 + c.subcommands.len()).sum();
        assert_eq!((total, live.skipped), (LIVE_COMMANDS_MAX, 101));

        let Value::Array(mut fields) = seven("k", vec![]) else { unreachable!() };
        fields[8] = Value::Array(vec![Value::Null; 1000]);
        let live = from_reply(&Value::Array(vec![Value::Array(fields)])).unwrap();
        assert_eq!(live.commands[0].key_specs.len(), KEY_SPECS_MAX);
        assert_eq!(live.commands[0].key_specs[0].begin, BeginSearch::Unknown);
    }

    #[test]
    fn no_mutilation_of_a_reply_makes_the_reader_fail() {
        // Every field of every level replaced by something of another kind.
        fn paths(value: &Value, path: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
            all.push(path.clone());
            for (index, item) in value.items().unwrap_or_default().iter().enumerate() {
                path.push(index);
                paths(item, path, all);
                path.pop();
            }
        }
        let whole = Value::Array(vec![seven("x", vec![seven("x|y", vec![])]), six("z", 7)]);
        let mut all = Vec::new();
        paths(&whole, &mut Vec::new(), &mut all);
        for path in &all {
            for odd in [Value::Null, Value::Integer(i64::MIN), text(""), Value::Array(vec![])] {
                let mut reply = whole.clone();
                let mut at = &mut reply;
                for index in path {
                    let Value::Array(items) = at else { unreachable!() };
                    at = &mut items[*index];
                }
                *at = odd;
                let live = from_reply(&reply).map(|live| live.commands).unwrap_or_default();
                assert!(live.len() <= 2);
            }
        }
        assert!(all.len() > 80);
    }
}

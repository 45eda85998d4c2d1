//! Pages that become an answer, whatever they hold.
//!
//! Owns the shapes that pages may have, good and bad. What surprises: what is counted against a cap
//! is the same however the elements came, so these numbers may be exact.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::rule::{Action, Commands, Rewrite};

fn assembly(source: Source, max_bytes: usize, max_elements: u64) -> Assembly {
    let paging = Paging { page: 10, every: Duration::ZERO, max_bytes, max_elements };
    let rule = Rule {
        commands: Commands::default(),
        ..Rule::sample("pages", Action::Rewrite(Rewrite::Scan(paging)))
    };
    let footing = Footing { epoch: 1, recoveries: 0, owner: None };
    Assembly::new((Arc::new(rule), 1), (source, b"s*"), (paging, footing), 0)
}

fn page(cursor: &str, elements: &[&str]) -> Vec<u8> {
    let mut bytes = b"*2\r\n".to_vec();
    write::bulk(&mut bytes, cursor.as_bytes());
    write::array_header(&mut bytes, elements.len());
    elements.iter().for_each(|element| write::bulk(&mut bytes, element.as_bytes()));
    bytes
}

fn words(frame: &[u8]) -> Vec<String> {
    let (_, elements) = Elements::within(frame).unwrap();
    elements.map(|it| String::from_utf8(frames::string(it).unwrap().to_vec()).unwrap()).collect()
}

#[test]
fn a_question_is_the_cursor_command_where_the_last_page_ended() {
    let mut keys = assembly(Source::Keyspace, 1 << 20, 100);
    assert_eq!(words(&keys.question()).join(" "), "SCAN 0 MATCH s* COUNT 10");
    assert_eq!(keys.take(&page("17", &["a"])), Ok(false));
    assert_eq!(words(&keys.question()).join(" "), "SCAN 17 MATCH s* COUNT 10");
    let hash = assembly(Source::Hash, 1 << 20, 100);
    assert_eq!(words(&hash.question()).join(" "), "HSCAN s* 0 COUNT 10");
}

#[test]
fn each_element_is_there_once_and_each_protocol_has_its_own_head() {
    let made = |source, protocol| {
        let mut it = assembly(source, 1 << 20, 100);
        assert_eq!(it.take(&page("5", &["a", "1", "b", "2"])), Ok(false));
        assert_eq!(it.take(&page("0", &["b", "3", "c", "1"])), Ok(true));
        String::from_utf8(it.finish(protocol)).unwrap().replace("$1\r\n", "").replace("\r\n", " ")
    };
    assert_eq!(made(Source::Keyspace, Protocol::Resp3), "*6 a 1 b 2 3 c ");
    assert_eq!(made(Source::Set, Protocol::Resp2), "*6 a 1 b 2 3 c ");
    assert_eq!(made(Source::Set, Protocol::Resp3), "~6 a 1 b 2 3 c ");
    // A field that is seen again keeps its last value.
    assert_eq!(made(Source::Hash, Protocol::Resp2), "*6 a 1 b 3 c 1 ");
    assert_eq!(made(Source::Hash, Protocol::Resp3), "%3 a 1 b 3 c 1 ");
}

#[test]
fn nothing_is_an_answer_too() {
    for (source, protocol, want) in [
        (Source::Keyspace, Protocol::Resp3, "*0\r\n"),
        (Source::Hash, Protocol::Resp2, "*0\r\n"),
        (Source::Hash, Protocol::Resp3, "%0\r\n"),
        (Source::Set, Protocol::Resp3, "~0\r\n"),
    ] {
        let mut it = assembly(source, 1 << 20, 100);
        assert_eq!(it.take(&page("0", &[])), Ok(true));
        assert_eq!(it.finish(protocol), want.as_bytes());
    }
}

#[test]
fn caps_count_what_is_kept_and_not_what_comes_twice() {
    let mut few = assembly(Source::Set, 1 << 20, 2);
    assert_eq!(few.take(&page("1", &["a", "b", "a", "b"])), Ok(false));
    assert_eq!(few.take(&page("2", &["b", "c"])), Err(Failure::Elements(2)));
    let mut small = assembly(Source::Set, 200, 1000);
    assert_eq!(small.take(&page("1", &["a", "b", "c", "a", "b", "c"])), Ok(false));
    assert_eq!(small.take(&page("2", &["d", "e", "f"])), Err(Failure::Bytes(200)));
    // Values that replace others take memory as well.
    let mut busy = assembly(Source::Hash, 200, 1000);
    let taken = (0..100).map(|turn| busy.take(&page("1", &["a", &turn.to_string()])));
    assert!(taken.into_iter().any(|taken| taken == Err(Failure::Bytes(200))));
}

#[test]
fn errors_are_told_and_what_is_no_page_is_none() {
    let mut it = assembly(Source::Hash, 1 << 20, 100);
    let wrong = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
    assert_eq!(it.take(wrong), Err(Failure::Told(wrong.to_vec())));
    for odd in ["+OK\r\n", "*2\r\n$1\r\n0\r\n", "*2\r\n$1\r\n0\r\n*3\r\n$1\r\na\r\n", "*0\r\n"] {
        assert_eq!(it.take(odd.as_bytes()), Err(Failure::Odd), "{odd:?}");
    }
    assert_eq!(it.take(&page("0", &["a field without a value"])), Err(Failure::Odd));
}

#[test]
fn so_many_at_a_time_and_whoever_ends_makes_room() {
    let permits = Permits::default();
    let mut all: Vec<Permit> = std::iter::from_fn(|| permits.take()).collect();
    assert_eq!(all.len(), ASSEMBLIES_MAX);
    all.pop();
    assert!(permits.take().is_some());
}

proptest! {
    #[test]
    fn whatever_comes_twice_the_last_value_counts(
        pairs in prop::collection::vec(("[a-d]{1,2}", "[0-9]{1,3}"), 0..60),
    ) {
        let mut it = assembly(Source::Hash, 1 << 20, 1000);
        for chunk in pairs.chunks(7) {
            let flat: Vec<&str> =
                chunk.iter().flat_map(|(field, value)| [&**field, &**value]).collect();
            prop_assert_eq!(it.take(&page("1", &flat)), Ok(false));
        }
        let want: BTreeMap<String, String> = pairs.into_iter().collect();
        let flat = words(&it.finish(Protocol::Resp2));
        let got: BTreeMap<String, String> =
            flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        prop_assert_eq!(flat.len(), 2 * want.len());
        prop_assert_eq!(got, want);
    }
}

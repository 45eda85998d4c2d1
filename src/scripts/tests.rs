//! The registry: whose a source is, what the bound costs whom, and what a flush leaves.
//!
//! What surprises: bounds are counted with the bookkeeping of each script, so the small sources
//! here cost far more than they are long.

use super::*;
use crate::upstream::identity::{Identities, Presented};

const UPSTREAM: Identity = Identity::UPSTREAM;

fn scripts(bytes: usize) -> Scripts {
    let memory = MemorySettings { script_bytes_total: bytes, ..MemorySettings::default() };
    Scripts::new(&memory)
}

fn ann() -> Identity {
    let presented = Presented { user: Some(b"ann".to_vec()), password: b"x".to_vec() };
    Identities::default().confirm(&presented, 0).unwrap()
}

#[test]
fn a_sha_is_forty_hexadecimal_digits_in_any_case() {
    let sha = sha1(b"return 1");
    assert_eq!(parse_sha(b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"), Some(sha));
    assert_eq!(parse_sha(b"E0E1F9FABFC9D4800C877A703B823AC0578FF8DB"), Some(sha));
    for wrong in [
        &b"e0e1f9fabfc9d4800c877a703b823ac0578ff8d"[..],
        b"e0e1f9fabfc9d4800c877a703b823ac0578ff8dbb",
        b"g0e1f9fabfc9d4800c877a703b823ac0578ff8db",
        b"",
    ] {
        assert_eq!(parse_sha(wrong), None);
    }
}

#[test]
fn a_source_is_found_by_the_name_that_redis_gives_it() {
    let scripts = scripts(10_000);
    let sha = scripts.learn(UPSTREAM, b"return 1").unwrap();
    assert_eq!(scripts.learn(UPSTREAM, b"return 1"), Some(sha));
    assert_eq!(scripts.source(&sha, UPSTREAM).unwrap(), "return 1");
    assert_eq!(scripts.source(&sha1(b"return 2"), UPSTREAM), None);
    assert_eq!(scripts.totals(), (1, 8 + ENTRY_BYTES));
}

#[test]
fn nobody_gets_what_only_another_user_has_sent() {
    let scripts = scripts(10_000);
    let sha = scripts.learn(UPSTREAM, b"return 1").unwrap();
    assert_eq!(scripts.source(&sha, ann()), None);
    scripts.learn(ann(), b"return 1");
    assert!(scripts.source(&sha, ann()).is_some());
    scripts.disown(&sha, ann());
    assert_eq!(scripts.source(&sha, ann()), None);
    assert!(scripts.source(&sha, UPSTREAM).is_some());
}

#[test]
fn the_bound_holds_and_what_is_called_outlives_a_flood_of_what_is_not() {
    let each = 10 + ENTRY_BYTES;
    let scripts = scripts(8 * each);
    let used = scripts.learn(UPSTREAM, b"return  00").unwrap();
    for number in 0..1000 {
        scripts.touch(&used);
        scripts.learn(UPSTREAM, format!("return {number:3}").as_bytes());
        let (count, bytes) = scripts.totals();
        assert!(bytes <= 8 * each && count <= 8, "{count} scripts, {bytes} bytes");
        assert_eq!((scripts.by_sha.len(), scripts.by_content.len()), (count, count));
    }
    assert!(scripts.source(&used, UPSTREAM).is_some());
    assert!(scripts.source(&sha1(b"return 500"), UPSTREAM).is_none());
    assert!(scripts.source(&sha1(b"return 999"), UPSTREAM).is_some());
}

#[test]
fn when_everything_is_used_something_goes_all_the_same() {
    let each = 10 + ENTRY_BYTES;
    let scripts = scripts(4 * each);
    for number in 0..100 {
        let source = format!("return {number:3}");
        let sha = scripts.learn(UPSTREAM, source.as_bytes()).unwrap();
        scripts.touch(&sha);
        assert!(scripts.totals().1 <= 4 * each);
        assert!(scripts.source(&sha, UPSTREAM).is_some(), "the newest one is there");
    }
}

#[test]
fn what_is_too_long_is_not_remembered_and_a_bound_of_zero_remembers_nothing() {
    let script_bytes = 100;
    let limited = Scripts::new(&MemorySettings { script_bytes, ..MemorySettings::default() });
    assert_eq!(limited.learn(UPSTREAM, &[b' '; 101]), None);
    assert!(limited.learn(UPSTREAM, &[b' '; 100]).is_some());
    assert_eq!(scripts(0).learn(UPSTREAM, b""), None);
}

#[test]
fn a_flush_leaves_nothing_and_is_counted() {
    let scripts = scripts(10_000);
    let sha = scripts.learn(UPSTREAM, b"return 1").unwrap();
    scripts.flush();
    assert_eq!((scripts.totals(), scripts.flushes()), ((0, 0), 1));
    assert_eq!(scripts.source(&sha, UPSTREAM), None);
    assert_eq!(scripts.learn(UPSTREAM, b"return 1"), Some(sha));
}

#[test]
fn many_threads_keep_the_books_in_order() {
    let scripts = scripts(50 * (10 + ENTRY_BYTES));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let scripts = &scripts;
            scope.spawn(move || {
                for number in 0..500 {
                    let source = format!("return {:3}", (number * 7 + thread) % 100);
                    let sha = scripts.learn(UPSTREAM, source.as_bytes()).unwrap();
                    let _ = scripts.source(&sha, UPSTREAM);
                    if number % 100 == 99 {
                        scripts.flush();
                    }
                }
            });
        }
    });
    let (count, bytes) = scripts.totals();
    assert_eq!(scripts.by_sha.len(), count);
    assert_eq!(bytes, count * (10 + ENTRY_BYTES));
    assert!(scripts.by_content.len() <= count);
}

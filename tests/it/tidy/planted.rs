//! One planted offence a rule: a rule that finds nothing anywhere protects nothing.
//!
//! Owns the tests of the tidy rules themselves. Each plants a tree of literals with one thing right
//! and one thing wrong, and expects exactly the wrong one, at its line. The one thing that
//! surprises: offending words are put together from pieces, or the rules would find this file.

use super::*;

const DOC: &str = "//! One.\n//! Two.\n//! Three.\n";

/// Runs a rule over planted files and compares where it points, as `path:line`.
#[track_caller]
fn expect(rule: fn(&Tree) -> Offences, files: &[(&str, &str)], places: &[&str]) {
    let offences = rule(&Tree::planted(files));
    let found: Vec<&str> = offences.iter().filter_map(|text| text.split(": ").next()).collect();
    assert_eq!(found, places, "{offences:#?}");
}

#[test]
fn a_missing_a_short_and_a_long_module_doc_are_found() {
    let long = "//! Line.\n".repeat(16);
    let files = [
        ("src/bare.rs", "fn f() {}\n"),
        ("src/fine.rs", DOC),
        ("src/lib.rs", &long),
        ("src/long.rs", &long),
        ("src/short.rs", "//! One.\n\n//! Two.\n"),
    ];
    expect(module_docs, &files, &["src/bare.rs:1", "src/long.rs:1", "src/short.rs:1"]);
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let code = "fn f() {}\n";
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", code.repeat(50));
    let files = [
        ("src/a.rs", &*format!("{}{tests}", code.repeat(600))),
        ("src/b.rs", &*format!("{}{tests}", code.repeat(601))),
        ("src/c/mod.rs", "#[cfg(test)]\nmod tests;\n"),
        ("src/c/tests.rs", &*code.repeat(700)),
    ];
    expect(file_length, &files, &["src/b.rs:601"]);
}

#[test]
fn a_long_function_is_found_whatever_its_strings_say() {
    let body = "    g(\"}\"); // }\n".repeat(68);
    let files = [
        ("src/a.rs", &*format!("\nfn fits() {{\n{body}}}\n")),
        ("src/b.rs", &*format!("\nfn long() {{\n    let c = '}}';\n{body}}}\n")),
    ];
    expect(function_length, &files, &["src/b.rs:2"]);
}

#[test]
fn too_few_comments_are_found_over_the_whole_of_src() {
    let wordy = format!("{DOC}{}", "fn f() {}\n".repeat(9));
    let silent = "fn f() {}\n".repeat(9);
    expect(comment_share, &[("src/a.rs", &wordy)], &[]);
    expect(comment_share, &[("src/a.rs", &wordy), ("src/b.rs", &silent)], &["src", "src/b.rs:1"]);
}

#[test]
fn a_pure_module_that_names_io_or_a_clock_is_found() {
    let text = "use std::{fmt, time::{Duration, Instant}};\nuse tokio as t;\nuse crate::config::{check, file::Raw};\n\nfn f() { metrics::counter(); let metrics = 1; }\n#[cfg(test)]\nmod tests { use tokio::net; }\n";
    let files = [
        ("src/resp/a.rs", text),
        ("src/server/a.rs", text),
        ("src/route/a.rs", "use crate::clock::Moment;\n"),
    ];
    let places = ["src/resp/a.rs:1", "src/resp/a.rs:2", "src/resp/a.rs:3", "src/resp/a.rs:5"];
    expect(pure_walls, &files, &places);
}

#[test]
fn sockets_outside_net_rs_are_found() {
    let text = "use tokio::{net::TcpStream, time};\n";
    let files = [("src/net.rs", text), ("src/server/mod.rs", text)];
    expect(net_wall, &files, &["src/server/mod.rs:1"]);
}

#[test]
fn clocks_read_outside_clock_rs_are_found() {
    let text = "fn f() { Instant::now(); }\nfn g() { std::time::SystemTime::now(); }\n";
    let files = [("src/clock.rs", text), ("src/stats/mod.rs", text)];
    expect(clock_wall, &files, &["src/stats/mod.rs:1", "src/stats/mod.rs:2"]);
}

#[test]
fn unsafe_code_without_its_proof_is_found() {
    let text = "// SAFETY: the range was checked above.\nunsafe { a() }\nlet s = \"unsafe\"; // unsafe\nunsafe { b() }\n";
    expect(unsafe_proven, &[("src/a.rs", text)], &["src/a.rs:4"]);
}

#[test]
fn drawers_are_found_as_files_folders_and_modules() {
    let files = [
        ("src/a.rs", "mod misc {}\nlet common = 1;\n"),
        ("src/helpers/b.rs", ""),
        ("src/utils.rs", ""),
        ("tests/it/support.rs", ""),
    ];
    expect(drawer_names, &files, &["src/a.rs:1", "src/helpers/b.rs:1", "src/utils.rs:1"]);
}

#[test]
fn comments_that_promise_are_found() {
    let text = "// FIXME: this.\n// TODO https://example.org/1 explains it.\n// TODO that.\n// Good for\n// now, they say.\nlet s = \"HACK for now\";\n/* Simplified. */\n// What it is for.\n\n// Now it runs.\n";
    let places = ["src/a.rs:1", "src/a.rs:3", "src/a.rs:5", "src/a.rs:7"];
    expect(comment_words, &[("src/a.rs", text)], &places);
}

#[test]
fn stubs_are_found() {
    let text = "fn f() { to";
    let text = format!(
        "{text}do!() }}\nfn g() {{ unimplemen{}!() }}\nlet todo = \"todo!\"; let a = todo != b;\n",
        "ted"
    );
    expect(stub_macros, &[("src/a.rs", &text)], &["src/a.rs:1", "src/a.rs:2"]);
}

#[test]
fn panics_without_a_proof_are_found_on_the_path_only() {
    let text = "fn f() {\n    // The length was checked above.\n    a.unwrap();\n    b\n        .expect(\"x\");\n    c.unwrap_or(1);\n    // No.\n    d.unwrap();\n    unreachable!() // every caller passes one of the two\n}\n#[cfg(test)]\nmod tests { fn t() { e.unwrap() } }\n";
    let files = [("src/admin/a.rs", text), ("src/dispatch.rs", text)];
    expect(panics_proven, &files, &["src/dispatch.rs:5", "src/dispatch.rs:8"]);
}

#[test]
fn invariants_that_do_not_exist_are_found() {
    let text = "// INV-1 and INV-12 hold, INV-n too.\n// INV-13\n// INV-0\n";
    expect(
        invariant_numbers,
        &[("docs/a.md", text), ("src/a.rs", "")],
        &["docs/a.md:2", "docs/a.md:3"],
    );
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let text = "[a](b.md) [b](../src/) [c](https://example.org)\n[d](c.md)\n```\n[e](d.md)\n```\n[f](b.md#the-one-title)\n[g](b.md#another)\n[h](#here)\n[i](../../out.md)\n# Here\n";
    let files = [("docs/a.md", text), ("docs/b.md", "## The one `title`\n"), ("src/a.rs", "")];
    expect(links, &files, &["docs/a.md:2", "docs/a.md:7", "docs/a.md:9"]);
}

#[test]
fn documents_that_name_files_which_are_gone_are_found() {
    let text = "`src/a.rs` and `src/` and `src/*.rs`\n`src/gone.rs`, not src/gone.rs\n`/src/x`\n";
    let files = [("docs/a.md", text), ("src/a.rs", "// `src/gone.rs`")];
    expect(named_files, &files, &["docs/a.md:2"]);
}

#[test]
fn paths_of_one_machine_are_found() {
    let root = format!("/{}/", "work");
    let text =
        format!("see {root}main\nsee docs{root}a and https://example.org{root}b\n`{root}c`\n");
    expect(
        machine_paths,
        &[("docs/a.md", &text), ("Cargo.lock", &text)],
        &["docs/a.md:1", "docs/a.md:3"],
    );
}

#[test]
fn a_test_that_never_runs_is_found() {
    let files = [
        ("tests/it/lost.rs", ""),
        ("tests/it/main.rs", "//! Doc.\nmod wire; // mod lost;\n"),
        ("tests/it/support/server.rs", ""),
        ("tests/it/wire.rs", ""),
    ];
    expect(test_modules, &files, &["tests/it/lost.rs:1"]);
}

#[test]
fn strangers_at_the_top_are_found() {
    let files = [("src/lib.rs", ""), ("scripts/a.sh", ""), ("README.md", ""), ("notes.txt", "")];
    expect(top_level, &files, &["notes.txt:1", "scripts:1"]);
}

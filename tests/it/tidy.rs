//! The rules of the tree, read from the files as text and enforced like any other test.
//!
//! Owns what no compiler checks: lengths, walls between modules, names, comments, links. Each rule
//! is a function from a [`Tree`] to all offences at once, so that one run shows everything there is
//! to mend; `tidy/planted.rs` plants an offence for each rule and expects it to be found. The one
//! thing that surprises: code under `#[cfg(test)]` is exempt from most rules, wherever it stands.

mod planted;
mod source;
mod tree;

use self::source::{Source, is_word, line_of};
use self::tree::{File, Tree};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// What a file's module doc may be long, in lines. `lib.rs` is the tour and may be longer.
const DOC_LINES: std::ops::RangeInclusive<usize> = 3..=15;
const DOC_LINES_LIB_MAX: usize = 60;
/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines that are comment, of a hundred that are not blank, over the whole of `src`.
const COMMENT_PERCENT_MIN: usize = 20;
/// The invariants of `docs/ARCHITECTURE.md`.
const INVARIANTS: std::ops::RangeInclusive<u32> = 1..=12;

/// Folders that do no I/O and read no clock, and what they therefore never name.
const PURE: [&str; 4] = ["src/resp/", "src/command/", "src/policy/", "src/route/"];
/// Where a panic would hurt somebody else's requests.
const PANIC_FREE: [&str; 4] = ["src/resp/", "src/session/", "src/upstream/", "src/dispatch.rs"];
/// How a path of this repository begins when a document names it.
const FOLDERS: [&str; 8] =
    [".ci/", "benches/", "config/", "deploy/", "docs/", "fuzz/", "src/", "tests/"];
/// Names that say nothing about what is inside.
const DRAWERS: [&str; 6] = ["utils", "common", "helpers", "misc", "types", "prelude"];
/// What may lie at the top of the repository.
const TOP_LEVEL: [&str; 20] = [
    ".ci",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "clippy.toml",
    "config",
    "deny.toml",
    "deploy",
    "docs",
    "fuzz",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "src",
    "tests",
];

/// The files are read once for all rules.
static REPOSITORY: LazyLock<Tree> = LazyLock::new(Tree::repository);

/// One place that breaks a rule, as `path:line: what`.
type Offences = Vec<String>;

/// One test a rule, so that the name of a failure says which rule it was.
macro_rules! rules {
    ($($rule:ident => $sentence:ident;)*) => {
        $(
            #[test]
            fn $sentence() {
                let offences = $rule(&REPOSITORY);
                assert!(offences.is_empty(), "{} found:\n{}", offences.len(), offences.join("\n"));
            }
        )*
    };
}

rules! {
    module_docs => every_source_file_opens_with_a_module_doc;
    file_length => no_source_file_is_longer_than_a_reader_can_hold;
    function_length => no_function_is_longer_than_seventy_lines;
    comment_share => one_line_in_five_is_a_comment;
    pure_walls => pure_modules_name_no_io_and_no_clock;
    net_wall => tokio_net_is_named_in_net_rs_only;
    clock_wall => the_clock_is_read_in_clock_rs_only;
    unsafe_proven => unsafe_code_stands_under_its_proof;
    drawer_names => no_module_is_a_drawer;
    comment_words => comments_promise_nothing_for_later;
    stub_macros => nothing_is_left_to_be_written;
    panics_proven => panics_on_the_path_are_proven_impossible;
    invariant_numbers => cited_invariants_exist;
    links => links_between_documents_resolve;
    named_files => files_that_documents_name_exist;
    machine_paths => no_file_names_a_machine_s_path;
    test_modules => every_integration_test_is_part_of_the_binary;
    top_level => nothing_unexpected_lies_at_the_top;
}

fn module_docs(tree: &Tree) -> Offences {
    let check = |file: &File| {
        let lines = file.text.lines().take_while(|line| line.starts_with("//!")).count();
        let max = if file.path == "src/lib.rs" { DOC_LINES_LIB_MAX } else { *DOC_LINES.end() };
        let is_fine = (*DOC_LINES.start()..=max).contains(&lines);
        (!is_fine).then(|| {
            format!("{}:1: {lines} lines of `//!`, must be {}–{max}", file.path, DOC_LINES.start())
        })
    };
    tree.rust("src/").filter_map(check).collect()
}

fn file_length(tree: &Tree) -> Offences {
    let written = tree.rust("src/").filter(|file| !file.is_test);
    let check = |file: &File| {
        let lines = file.source.is_test.iter().filter(|is_test| !**is_test).count();
        (lines > FILE_LINES_MAX).then(|| {
            format!("{}:{lines}: {lines} lines without tests, at most {FILE_LINES_MAX}", file.path)
        })
    };
    written.filter_map(check).collect()
}

fn function_length(tree: &Tree) -> Offences {
    let mut offences = Offences::new();
    for file in tree.rust("src/").filter(|file| !file.is_test) {
        for function in file.source.functions() {
            if function.lines > FUNCTION_LINES_MAX && !file.source.in_tests(function.line) {
                let (path, line, lines) = (&file.path, function.line, function.lines);
                let name = function.name;
                offences.push(format!(
                    "{path}:{line}: `{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    offences
}

/// A share, so there is no line to point at: the files with the least are listed, worst first.
fn comment_share(tree: &Tree) -> Offences {
    let mut shares = Vec::new();
    for file in tree.rust("src/").filter(|file| !file.is_test) {
        let lines = file.source.lines().filter(|(line, _, _)| !file.source.in_tests(*line));
        let (mut comments, mut written) = (0, 0);
        for (_, code, comment) in lines {
            let is_comment = code.trim().is_empty() && !comment.trim().is_empty();
            comments += usize::from(is_comment);
            written += usize::from(is_comment || !code.trim().is_empty());
        }
        shares.push((comments, written, &file.path));
    }
    let comments: usize = shares.iter().map(|share| share.0).sum();
    let written: usize = shares.iter().map(|share| share.1).sum();
    if comments * 100 >= written * COMMENT_PERCENT_MIN {
        return Offences::new();
    }
    shares.retain(|(comments, written, _)| comments * 100 < written * COMMENT_PERCENT_MIN);
    // The file that misses the most comment lines helps the most.
    shares.sort_by_key(|(comments, written, _)| {
        comments * 100 - (written * COMMENT_PERCENT_MIN).min(comments * 100)
    });
    let row = |(comments, written, path): &(usize, usize, &String)| {
        format!(
            "{path}:1: {comments} of {written} lines are comment, of {COMMENT_PERCENT_MIN} % at least"
        )
    };
    let total = format!(
        "src: {comments} of {written} lines are comment, of {COMMENT_PERCENT_MIN} % at least"
    );
    std::iter::once(total).chain(shares.iter().map(row)).collect()
}

fn pure_walls(tree: &Tree) -> Offences {
    let pure = |file: &&File| {
        PURE.iter().any(|folder| file.path.starts_with(folder))
            || file.path.starts_with("src/route.rs")
    };
    paths_where(tree.rust("src/").filter(pure), "is not for a pure module", |path| {
        path.starts_with("tokio")
            || path.starts_with("metrics")
            || path.names("config::file")
            || path.names("time::Instant")
    })
}

fn net_wall(tree: &Tree) -> Offences {
    let others = tree.rust("src/").filter(|file| file.path != "src/net.rs");
    paths_where(others, "belongs to net.rs", |path| path.names("tokio::net"))
}

fn clock_wall(tree: &Tree) -> Offences {
    let others = tree.rust("src/").filter(|file| file.path != "src/clock.rs");
    paths_where(others, "belongs to clock.rs", |path| {
        path.names("Instant::now") || path.names("SystemTime::now")
    })
}

fn unsafe_proven(tree: &Tree) -> Offences {
    let mut offences = Offences::new();
    for file in tree.rust("") {
        for token in file.source.tokens().iter().filter(|token| token.text == "unsafe") {
            let line = file.source.line(token.at);
            if !comment_at(&file.source, line).contains("SAFETY:") {
                offences
                    .push(format!("{}:{line}: `unsafe` without a `// SAFETY:` comment", file.path));
            }
        }
    }
    offences
}

fn drawer_names(tree: &Tree) -> Offences {
    let mut offences = BTreeSet::new();
    for file in tree.rust("") {
        let mut names = file.path.trim_end_matches(".rs").split('/');
        if let Some(name) = names.find(|name| DRAWERS.contains(name)) {
            offences.insert(format!("{}:1: a file called `{name}`", file.path));
        }
        for pair in file.source.tokens().windows(2) {
            if pair[0].text == "mod" && DRAWERS.contains(&pair[1].text) {
                let line = file.source.line(pair[0].at);
                offences
                    .insert(format!("{}:{line}: a module called `{}`", file.path, pair[1].text));
            }
        }
    }
    offences.into_iter().collect()
}

fn comment_words(tree: &Tree) -> Offences {
    let mut offences = Offences::new();
    for file in tree.rust("").filter(|file| !file.path.starts_with("tests/it/tidy")) {
        for (line, _, comment) in file.source.lines() {
            let has_link = comment.contains("://");
            let words: Vec<&str> = comment
                .split(|c: char| !c.is_alphanumeric())
                .filter(|word| !word.is_empty())
                .collect();
            let shouted = ["FIXME", "HACK", "TODO"].into_iter().filter(|word| words.contains(word));
            // A note that leads somewhere is a reference; one that does not is a wish.
            offences.extend(
                shouted
                    .filter(|word| *word != "TODO" || !has_link)
                    .map(|word| format!("{}:{line}: `{word}` in a comment", file.path)),
            );
        }
        for (line, phrase) in phrases(&file.source) {
            offences.push(format!("{}:{line}: `{phrase}` in a comment", file.path));
        }
    }
    offences
}

fn stub_macros(tree: &Tree) -> Offences {
    let mut offences = Offences::new();
    for file in tree.rust("") {
        for three in file.source.tokens().windows(3) {
            let is_stub = matches!(three[0].text, "todo" | "unimplemented" | "dbg");
            // `todo != x` compares, `todo!(x)` is the macro.
            if is_stub && three[1].text == "!" && three[2].text != "=" {
                let line = file.source.line(three[0].at);
                offences.push(format!("{}:{line}: `{}!`", file.path, three[0].text));
            }
        }
    }
    offences
}

fn panics_proven(tree: &Tree) -> Offences {
    let mut offences = Offences::new();
    let on_the_path = |file: &&File| PANIC_FREE.iter().any(|place| file.path.starts_with(place));
    for file in tree.rust("src/").filter(|file| !file.is_test).filter(on_the_path) {
        for window in file.source.tokens().windows(3) {
            let panics = match [window[0].text, window[1].text, window[2].text] {
                [".", "unwrap" | "expect", "("] => Some(window[1]),
                ["panic" | "unreachable", "!", _] => Some(window[0]),
                _ => None,
            };
            let Some(token) = panics else { continue };
            let line = file.source.line(token.at);
            if !file.source.in_tests(line) && !is_proof(&comment_at(&file.source, line)) {
                offences.push(format!(
                    "{}:{line}: `{}` without a comment that proves it",
                    file.path, token.text
                ));
            }
        }
    }
    offences
}

fn invariant_numbers(tree: &Tree) -> Offences {
    let mut offences = Offences::new();
    for file in tree.files.iter().filter(|file| !file.path.starts_with("tests/it/tidy")) {
        for (at, mark) in file.text.match_indices("INV-") {
            let digits: String =
                file.text[at + mark.len()..].chars().take_while(char::is_ascii_digit).collect();
            // `INV-n` and the like speak of all of them.
            let number = digits.parse::<u32>();
            if !digits.is_empty() && !number.is_ok_and(|number| INVARIANTS.contains(&number)) {
                let line = line_of(&file.text, at);
                offences.push(format!("{}:{line}: INV-{digits} does not exist", file.path));
            }
        }
    }
    offences
}

fn links(tree: &Tree) -> Offences {
    let mut offences = Offences::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, target) in tree::markdown_links(&file.text) {
            if !tree.resolves(&file.path, &target) {
                offences.push(format!("{}:{line}: `{target}` leads nowhere", file.path));
            }
        }
    }
    offences
}

/// A document that sends its reader to a file which has moved is worse than one that names none.
fn named_files(tree: &Tree) -> Offences {
    let mut offences = Offences::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (index, line) in file.text.lines().enumerate() {
            // What stands between backticks is every second piece.
            for name in line.split('`').skip(1).step_by(2) {
                let is_ours = FOLDERS.iter().any(|folder| name.starts_with(folder));
                if is_ours && !name.contains([' ', '*', '{']) && !tree.holds(name) {
                    offences.push(format!("{}:{}: there is no `{name}`", file.path, index + 1));
                }
            }
        }
    }
    offences
}

/// Where this checkout lies, or where a build machine keeps things, is nobody's business.
fn machine_paths(tree: &Tree) -> Offences {
    // Put together here, so that this file does not contain them.
    let roots = ["work", "farm", "root"].map(|name| format!("/{name}/"));
    let mut offences = Offences::new();
    for file in tree.files.iter().filter(|file| !file.path.ends_with(".lock")) {
        for (index, line) in file.text.lines().enumerate() {
            let found = roots.iter().find(|root| starts_a_path(line, root));
            if let Some(root) = found {
                offences.push(format!("{}:{}: the path `{root}…`", file.path, index + 1));
            }
        }
    }
    offences
}

fn test_modules(tree: &Tree) -> Offences {
    let main = tree.files.iter().find(|file| file.path == "tests/it/main.rs");
    let tokens = main.map(|file| file.source.tokens()).unwrap_or_default();
    let is_named =
        |name: &str| tokens.windows(2).any(|pair| pair[0].text == "mod" && pair[1].text == name);
    let mut offences = Offences::new();
    for file in tree.rust("tests/it/") {
        let name = file.path.trim_start_matches("tests/it/").trim_end_matches(".rs");
        // A folder's own files are named by their parent.
        if name != "main" && !name.contains('/') && !is_named(name) {
            offences
                .push(format!("{}:1: not named in tests/it/main.rs, so it never runs", file.path));
        }
    }
    offences
}

fn top_level(tree: &Tree) -> Offences {
    let allowed = |name: &&String| TOP_LEVEL.contains(&name.as_str());
    let strangers = tree.top.iter().filter(|name| !allowed(name));
    strangers
        .map(|name| format!("{name}:1: does not belong at the top of the repository"))
        .collect()
}

/// All paths of non-test code that a rule forbids, with the reason.
fn paths_where<'a>(
    files: impl Iterator<Item = &'a File>,
    why: &str,
    is_forbidden: impl Fn(&source::Path) -> bool,
) -> Offences {
    let mut offences = Offences::new();
    for file in files.filter(|file| !file.is_test) {
        let paths = file.source.paths();
        let outside_tests = paths.iter().filter(|path| !file.source.in_tests(path.line));
        for path in outside_tests.filter(|path| is_forbidden(path)) {
            let written = path.segments.join("::");
            offences.push(format!("{}:{}: `{written}` {why}", file.path, path.line));
        }
    }
    offences
}

/// The comment of a line: on it, or the whole block of comments right above it.
fn comment_at(source: &Source, line: usize) -> String {
    let lines: Vec<(usize, &str, &str)> = source.lines().collect();
    let mut text = lines[line - 1].2.trim().to_string();
    for (_, code, comment) in lines[..line - 1].iter().rev() {
        if !code.trim().is_empty() || comment.trim().is_empty() {
            break;
        }
        text.push(' ');
        text.push_str(comment.trim());
    }
    text
}

/// Three words are the least that can argue.
fn is_proof(comment: &str) -> bool {
    comment.split_whitespace().filter(|word| is_word(word)).count() >= 3
}

/// Banned phrases of two words or one, found across line ends too.
fn phrases(source: &Source) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    let mut before = String::new();
    for (line, _, comment) in source.lines() {
        for word in comment.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            let word = word.to_lowercase();
            match (before.as_str(), word.as_str()) {
                ("for", "now") => found.push((line, "for now")),
                (_, "simplified") => found.push((line, "simplified")),
                _ => {}
            }
            before = word;
        }
        if comment.trim().is_empty() {
            before.clear();
        }
    }
    found
}

/// `/name/` at the start of a path, and not in the middle of a longer one.
fn starts_a_path(line: &str, root: &str) -> bool {
    line.match_indices(root).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before
            .is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '.' | '_' | '-' | '/' | '}' | ')'))
    })
}

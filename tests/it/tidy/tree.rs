//! The repository as the tidy rules see it: every text file, read once, and its top-level names.
//!
//! Owns the walk over the folders and the resolving of links. It never looks into what git ignores
//! (build output, fuzzing leftovers). The one thing that surprises: a tree can be planted from
//! literals, so each rule is tested without touching the disk.

use super::source::Source;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Folders that builds and tools leave behind, by name or by path.
const LEFT_BEHIND: [&str; 8] = [
    ".git",
    "__pycache__",
    "node_modules",
    "target",
    "fuzz/artifacts",
    "fuzz/corpus",
    "fuzz/coverage",
    "fuzz/target",
];

/// All files of the project, sorted by path.
pub(super) struct Tree {
    pub(super) files: Vec<File>,
    /// Names at the top of the repository.
    pub(super) top: BTreeSet<String>,
    /// Paths of all files and folders, those that hold no text included.
    paths: BTreeSet<String>,
}

/// One file, with `/` between the parts of its path whatever the machine.
pub(super) struct File {
    pub(super) path: String,
    /// Empty for what is not UTF-8.
    pub(super) text: String,
    /// Empty for what is not Rust.
    pub(super) source: Source,
    /// The whole file is a test: declared under `#[cfg(test)]`, or outside `src`.
    pub(super) is_test: bool,
}

// === impl Tree ===

impl Tree {
    /// The repository this test was built from.
    pub(super) fn repository() -> Self {
        let mut files = Vec::new();
        let mut paths = BTreeSet::new();
        walk(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut files, &mut paths);
        Self::new(files, paths)
    }

    /// A tree of literals: path and text.
    pub(super) fn planted(files: &[(&str, &str)]) -> Self {
        let files: Vec<(String, String)> =
            files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
        let mut paths = BTreeSet::new();
        for (path, _) in &files {
            let parents = path.match_indices('/').map(|(at, _)| path[..at].to_string());
            paths.extend(parents.chain([path.clone()]));
        }
        Self::new(files, paths)
    }

    /// Rust files below a folder, all of them for the empty one.
    pub(super) fn rust<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a File> {
        self.files
            .iter()
            .filter(move |file| file.path.starts_with(folder) && file.path.ends_with(".rs"))
    }

    /// Is there a file or folder with this path?
    pub(super) fn holds(&self, path: &str) -> bool {
        self.paths.contains(path.trim_end_matches('/'))
    }

    /// Does a link found in `from` lead to a file, a folder, or a heading that exists?
    pub(super) fn resolves(&self, from: &str, target: &str) -> bool {
        if target.contains("://") || target.starts_with("mailto:") {
            return true;
        }
        let (target, anchor) = target.split_once('#').unwrap_or((target, ""));
        let Some(path) = join(from, target) else {
            return false;
        };
        if !path.is_empty() && !self.holds(&path) {
            return false;
        }
        let page = self.files.iter().find(|file| file.path == path);
        anchor.is_empty() || page.is_none_or(|page| headings(&page.text).contains(anchor))
    }

    fn new(mut files: Vec<(String, String)>, paths: BTreeSet<String>) -> Self {
        files.sort();
        let top = paths.iter().filter(|path| !path.contains('/')).cloned().collect();
        let mut files: Vec<File> = files.into_iter().map(File::new).collect();
        let declared: BTreeSet<String> = files.iter().flat_map(File::test_modules).collect();
        for file in &mut files {
            file.is_test |= declared.contains(&file.path) || !file.path.starts_with("src/");
        }
        Self { files, top, paths }
    }
}

// === impl File ===

impl File {
    fn new((path, text): (String, String)) -> Self {
        let source = Source::new(if path.ends_with(".rs") { &text } else { "" });
        Self { path, text, source, is_test: false }
    }

    /// Files that this one declares as `mod name;` under `#[cfg(test)]`.
    fn test_modules(&self) -> Vec<String> {
        let stem = self.path.trim_end_matches(".rs");
        let (parent, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        let folder = if matches!(name, "mod" | "lib" | "main") { parent } else { stem };
        let tokens = self.source.tokens();
        let declared = tokens.windows(3).filter(|three| {
            let line = self.source.line(three[0].at);
            three[0].text == "mod" && three[2].text == ";" && self.source.in_tests(line)
        });
        declared
            .flat_map(|three| {
                ["", "/mod"].map(|tail| format!("{folder}/{}{tail}.rs", three[1].text))
            })
            .collect()
    }
}

/// Links of a page with their line, those in code blocks left out.
pub(super) fn markdown_links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        for (at, mark) in line.match_indices("](") {
            if let Some(target) = line[at + mark.len()..].split(')').next() {
                links.push((index + 1, target.to_string()));
            }
        }
    }
    links
}

/// The anchors that a page's headings get: lower case, blanks to dashes, marks dropped.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = text.lines().filter(|line| line.starts_with('#'));
    titles
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept =
                title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// A link's path from the top of the repository; `None` if it climbs out of it.
fn join(from: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(from.to_string());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

fn walk(
    folder: &Path,
    inside: &str,
    files: &mut Vec<(String, String)>,
    paths: &mut BTreeSet<String>,
) {
    let entries = fs::read_dir(folder).expect("the repository can be read");
    for entry in entries.map(|entry| entry.expect("the repository can be read")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if inside.is_empty() { name.clone() } else { format!("{inside}/{name}") };
        if LEFT_BEHIND.contains(&name.as_str()) || LEFT_BEHIND.contains(&path.as_str()) {
            continue;
        }
        paths.insert(path.clone());
        if entry.path().is_dir() {
            walk(&entry.path(), &path, files, paths);
        } else {
            // A file may vanish while tests run beside each other; then it is not part of the project.
            let bytes = fs::read(entry.path()).unwrap_or_default();
            files.push((path, String::from_utf8(bytes).unwrap_or_default()));
        }
    }
}

//! `docs/compatibility.md` says of every command what the table says.
//!
//! Owns the part of that page between its two markers: it is made here and compared. Never edits the page unless
//! `BREAKWATER_BLESS=1` asks for it.
//!
//! What surprises: the modes of the page are fewer than the classes of the table, because to a reader it does not
//! matter why a command has a connection of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use breakwater::command::flags::Flags;
use breakwater::command::spec::{Class, Spec};
use breakwater::command::table::Table;

const PAGE: &str = "docs/compatibility.md";
const BEGIN: &str =
    "<!-- made from the command table: BREAKWATER_BLESS=1 cargo test --test it compatibility -->\n";
const END: &str = "<!-- end -->\n";

/// Mode and order on the page.
fn mode(spec: &Spec) -> &'static str {
    match spec.class {
        Class::Shared if spec.flags.contains(Flags::BLOCKING) => "shared; pinned with BLOCK",
        Class::Shared => "shared",
        Class::Local => "local",
        Class::Pinned => "pinned",
        Class::Subscriber => "subscriber",
        Class::Structural => "refused",
    }
}

fn shown(spec: &Spec) -> String {
    format!("`{}`", spec.name.to_uppercase().replace('|', " "))
}

/// One line a group and mode.
fn made() -> String {
    let table = Table::builtin();
    let mut groups: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for spec in table.specs().filter(|spec| !spec.is_container) {
        groups.entry((&spec.group, mode(spec))).or_default().push(shown(spec));
    }
    let mut text = String::from("| group | mode | commands |\n|---|---|---|\n");
    for ((group, mode), mut names) in groups {
        names.sort();
        writeln!(text, "| {group} | {mode} | {} |", names.join(", ")).unwrap();
    }
    text
}

#[test]
fn the_page_names_every_command_with_its_mode() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the first marker");
    let (present, after) = rest.split_once(END).expect("the second marker");
    let made = made();
    if std::env::var_os("BREAKWATER_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
        return;
    }
    assert!(
        present == made,
        "{PAGE} is out of date; run BREAKWATER_BLESS=1 cargo test --test it compatibility"
    );
}

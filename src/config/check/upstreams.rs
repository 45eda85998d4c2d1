//! Judges `[upstreams]`: the upstreams beside `[upstream]`, and which listener leads to which.
//!
//! Owns their names and number, and that each is led to. What is in each is judged as in `[upstream]`.
//!
//! What surprises: an upstream that no listener leads to is a mistake and no spare. Whoever wrote it
//! believes that some clients go there, and they go to `[upstream]`.

use super::super::file::{Written, WrittenListener};
use super::super::table::Table;
use super::super::{NamedUpstream, UPSTREAM_DEFAULT, UPSTREAMS_MAX};
use super::{Checker, Place, UPSTREAM, one_of, upstream};
use toml::Spanned;

/// Longest name of an upstream: it is a label of every metric.
const NAME_BYTES_MAX: usize = 64;

/// Those that are right, by name.
pub(super) fn check(checker: &mut Checker, written: &Written) -> Vec<NamedUpstream> {
    let mut upstreams = Vec::new();
    for (number, (name, table)) in written.upstreams.iter().enumerate() {
        if number + 1 == UPSTREAMS_MAX {
            let what = format!("more than {UPSTREAMS_MAX} upstreams");
            checker.complain(table, what, "each has threads of its own; start another process");
        }
        check_name(checker, name, table);
        if let Some(settings) = upstream::named(checker, table) {
            upstreams.push(NamedUpstream { name: name.clone(), settings });
        }
    }
    each_is_used(checker, written);
    upstreams
}

/// It must do as a label, in a query, and in the log.
fn check_name<T>(checker: &mut Checker, name: &str, table: &Spanned<T>) {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_letter) {
        let hint = format!("use letters, digits, '.', '_' and '-', at most {NAME_BYTES_MAX}");
        checker.complain(table, format!("'{name}' cannot be the name of an upstream"), hint);
    }
    if name == UPSTREAM_DEFAULT {
        let what = format!("'{UPSTREAM_DEFAULT}' is what [upstream] is called");
        checker.complain(table, what, "choose another name, or write the keys under [upstream]");
    }
}

/// The name of the upstream that a listener leads to; the default one in place of one that there is not.
pub(super) fn of_listener(
    checker: &mut Checker,
    listener: &WrittenListener,
    known: &[&str],
) -> String {
    match &listener.upstream {
        Some(name) if !known.contains(&name.get_ref().as_str()) => {
            let fault = one_of("name of an upstream", name.get_ref(), known);
            checker.keep::<()>(name, Err(fault));
            UPSTREAM_DEFAULT.to_owned()
        }
        Some(name) => name.get_ref().clone(),
        None => UPSTREAM_DEFAULT.to_owned(),
    }
}

fn each_is_used(checker: &mut Checker, written: &Written) {
    let named = |it: &Spanned<Table<WrittenListener>>| {
        it.get_ref().upstream.as_ref().map_or(UPSTREAM_DEFAULT, |name| name.get_ref()).to_owned()
    };
    let mut used: Vec<String> = written.listener.iter().map(named).collect();
    if used.is_empty() {
        // The listener that there is without any.
        used.push(UPSTREAM_DEFAULT.to_owned());
    }
    for (name, table) in &written.upstreams {
        if !used.contains(name) {
            let what = format!("no listener leads to the upstream '{name}'");
            let hint = format!("add upstream = \"{name}\" to a [[listener]], or remove the table");
            checker.miss(table, &what, &hint);
        }
    }
    if !used.iter().any(|name| name == UPSTREAM_DEFAULT) {
        let place = written.upstream.url.as_ref().map_or(Place::Flag(UPSTREAM), Place::from);
        let what = "no listener leads to [upstream]: each names another";
        checker.miss(place, what, "remove upstream = … from the listener that is to lead there");
    }
}

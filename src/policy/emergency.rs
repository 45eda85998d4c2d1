//! A rule for the moment: an operator's order by the admin port, with a time limit.
//!
//! Owns the reading of such an order, TOML or a form, and its words. Never publishes: the control
//! plane's keeper of the policy does. The rule denies, is tried before all others, and survives
//! reloads until its time is over; it does not survive the process.
//!
//! What surprises: it is enforced in profile `observe` too. Observing is about rules that nobody is
//! sure of yet, and this one somebody has just ordered.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::file::{self, Clock};
use super::rule::{Origin, Rule};
use crate::clock::{self, Micros};
use crate::config::Complaint;

/// An order as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    name: Option<String>,
    #[serde(alias = "command")]
    commands: Words,
    #[serde(alias = "key")]
    keys: Words,
    r#for: Option<String>,
    message: Option<String>,
}

/// One word, or several.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged, expecting = "a text, or a list of texts")]
enum Words {
    #[default]
    None,
    One(String),
    Some(Vec<String>),
}

/// The rule that an order asks for; the error says what is wrong with it. `taken` are names that
/// other rules have.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn ordered(body: &str, taken: &[&str], now: Micros) -> Result<Rule, String> {
    let written = Written::read(body)?;
    let (commands, keys) = (written.commands.list(), written.keys.list());
    if commands.is_empty() && keys.is_empty() {
        return Err(format!("it names neither commands nor keys; {EXAMPLE}"));
    }
    let Some(time) = &written.r#for else {
        return Err(format!("it does not say for how long; {EXAMPLE}"));
    };
    let Some(time) = duration(time) else {
        return Err(format!("'{time}' is not a time; write 90s, 15m or 2h, at most 24h"));
    };
    let name = written.name.unwrap_or_else(|| free_name(taken));
    if taken.contains(&name.as_str()) {
        return Err(format!(
            "there is a rule {name} already; give another name, or end that first"
        ));
    }
    let mut table = toml::Table::new();
    table.insert("name".to_owned(), name.into());
    table.insert("action".to_owned(), "deny".into());
    let lists = [("commands", commands), ("keys", keys)];
    for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        table.insert(key.to_owned(), list.into());
    }
    if let Some(message) = written.message {
        table.insert("message".to_owned(), message.into());
    }
    let rule = judged(table, now)?;
    Ok(Rule { expires: Some(now.saturating_add(clock::to_micros(time))), ..rule })
}

/// The rule of this table, read as any other rule is. Where in it something is wrong is left out of
/// complaints: nobody has seen that text.
fn judged(rule: toml::Table, now: Micros) -> Result<Rule, String> {
    let mut file = toml::Table::new();
    file.insert("rule".to_owned(), toml::Value::Array(vec![rule.into()]));
    let text = toml::to_string(&file).map_err(|error| error.to_string())?;
    match file::parse("order", &text, Origin::Emergency, Clock::at(now)) {
        Ok(read) => {
            let rule = read.rules.into_iter().next();
            rule.map(Arc::unwrap_or_clone).ok_or_else(|| EXAMPLE.to_owned())
        }
        Err(complaints) => {
            let words: Vec<String> = complaints.into_iter().map(words).collect();
            Err(words.join("\n"))
        }
    }
}

fn words(complaint: Complaint) -> String {
    let Complaint { what, hint, .. } = complaint;
    if hint.is_empty() { what } else { format!("{what}; {hint}") }
}

/// How long an emergency rule still counts, in words.
#[must_use]
pub fn time_left(rule: &Rule, now: Micros) -> String {
    let left = rule.expires.map_or(0, |end| end.saturating_sub(now)).div_ceil(clock::SECOND);
    match (left / 3_600, left / 60 % 60, left % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

fn free_name(taken: &[&str]) -> String {
    let names = (1..=taken.len() + 1).map(|number| format!("emergency-{number}"));
    // Of one name more than there are rules, one is free.
    names.into_iter().find(|name| !taken.contains(&name.as_str())).unwrap_or_default()
}

/// Seconds, minutes or hours, within bounds.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    let seconds = number.trim().parse::<u64>().ok()?.checked_mul(seconds)?;
    (1..=HOURS_MAX * 3_600).contains(&seconds).then(|| Duration::from_secs(seconds))
}

// === impl Written ===

impl Written {
    /// TOML, or a form as curl and browsers send one. A form is no TOML, as its values have no quotes.
    fn read(body: &str) -> Result<Self, String> {
        match toml::from_str(body) {
            Ok(written) => Ok(written),
            Err(_) if !body.contains('"') && body.contains('=') => Self::form(body),
            Err(error) => Err(format!("{}; {EXAMPLE}", error.message())),
        }
    }

    fn form(body: &str) -> Result<Self, String> {
        let mut written = Self::default();
        for field in body.trim().split('&') {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let value = String::from_utf8_lossy(&crate::percent::decoded(value)).into_owned();
            match name {
                "name" => written.name = Some(value),
                "command" | "commands" => written.commands.push(value),
                "key" | "keys" => written.keys.push(value),
                "for" => written.r#for = Some(value),
                "message" => written.message = Some(value),
                // Not repeated: what a browser sends must not come back to it.
                _ => return Err(format!("it has a field that is none; {EXAMPLE}")),
            }
        }
        Ok(written)
    }
}

// === impl Words ===

impl Words {
    fn push(&mut self, word: String) {
        let mut list = std::mem::take(self).list();
        list.push(word);
        *self = Self::Some(list);
    }

    fn list(self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(word) => vec![word],
            Self::Some(words) => words,
        }
    }
}

/// Most emergency rules at a time.
pub const RULES_MAX: usize = 100;
/// What is answered while nothing is enforced.
pub const NOT_WHILE_OPEN: &str = "the profile is open, in which no rule is tried, not even this one; \
     set profile = \"observe\" or \"guard\" in the configuration, which needs no restart";
/// Longest time that such a rule may count.
const HOURS_MAX: u64 = 24;
/// What an order looks like.
const EXAMPLE: &str = "send command=HGETALL&key=cart:*&for=15m, or the same as TOML: commands, keys, for, message, name";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyPatterns;
    use crate::policy::rule::Action;

    const NOW: Micros = 5 * clock::SECOND;

    #[test]
    fn toml_and_a_form_say_the_same() {
        let toml = "commands = [\"HGETALL\", \"GET\"]\nkeys = \"cart:*\"\nfor = \"15m\"\nname = \"a\"\n\
                    message = \"frozen\"\n";
        let form = "command=HGETALL&command=GET&key=cart%3A*&for=15m&name=a&message=frozen";
        for body in [toml, form] {
            let rule = ordered(body, &[], NOW).unwrap();
            assert_eq!((&*rule.name, rule.message.as_deref()), ("a", Some("frozen")));
            assert_eq!(rule.keys, Some(KeyPatterns::from_iter(["cart:*"])));
            assert_eq!(rule.expires, Some(NOW + 900 * clock::SECOND));
            assert_eq!((rule.origin, rule.action), (Origin::Emergency, Action::Deny));
            assert_eq!(rule.commands.builtin.iter().filter(|is_meant| **is_meant).count(), 2);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_cure() {
        for (body, words) in [
            ("", "neither commands nor keys"),
            ("command=GET", "for how long"),
            ("command=GET&for=0s", "is not a time"),
            ("command=GET&for=25h", "at most 24h"),
            ("command=GET&for=forever", "is not a time"),
            ("command=GET&for=15m&name=a%20b", "cannot be the name"),
            ("command=GET&for=15m&name=guard.x", "built-in"),
            ("command=GET&for=15m&name=taken", "already"),
            ("command=GETT&for=15m", "GETT"),
            ("comand=GET&for=15m", "a field that is none"),
            ("commands = [\"GET\"]\nfor = \"15m\"\nfro = 1\n", "unknown field"),
        ] {
            let told = ordered(body, &["taken"], NOW).unwrap_err();
            assert!(told.contains(words), "{body}: {told}");
        }
    }

    #[test]
    fn a_name_is_found_and_the_time_left_is_told() {
        let rule = ordered("command=GET&for=90s", &["emergency-1"], NOW).unwrap();
        assert_eq!(&*rule.name, "emergency-2");
        assert_eq!(time_left(&rule, NOW), "1 min 30 s");
        assert_eq!(time_left(&rule, NOW + 89 * clock::SECOND), "1 s");
        let rule = ordered("command=GET&for=2h", &[], NOW).unwrap();
        assert_eq!(time_left(&rule, NOW + 1), "2 h 0 min");
    }
}

//! Stand-in.
use super::*;
use crate::config::Complaint;
use crate::config::{Fault,Position};
pub fn load(profile: Profile, path: Option<&std::path::Path>, version: u64, _now: crate::clock::Micros) -> Result<Policy, Vec<Complaint>> {
    let Some(path) = path else { return Ok(Policy::new(version, profile, Vec::new())) };
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| vec![Complaint::about(&shown, Fault::new(format!("cannot be read: {e}"), ""))])?;
    let table: toml::Table = toml::from_str(&text).map_err(|e: toml::de::Error| vec![Complaint::in_file(&shown, Position::of(&text, e.span().unwrap_or_default().start), Fault::new(e.message(), ""))])?;
    let mut rules = Vec::new();
    for rule in table.get("rule").and_then(|it| it.as_array()).into_iter().flatten() {
        let strings = |key: &str| -> Vec<String> { rule.get(key).and_then(|it| it.as_array()).into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect() };
        let text = |key: &str| rule.get(key).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
        let keys = strings("keys");
        rules.push(Arc::new(Rule {
            name: text("name").into(), origin: rule::Origin::File,
            commands: rule::Commands::named(&strings("commands")).map_err(|e| vec![Complaint::in_file(&shown, Position{line:1,column:1}, Fault::new(e, ""))])?,
            keys: (!keys.is_empty()).then_some(crate::config::KeyPatterns(keys)),
            who: None, shape: Vec::new(), action: match text("action").as_str() {"allow"=>Action::Allow,"observe"=>Action::Observe,_=>Action::Deny},
            mode: if text("mode")=="observe" {rule::Mode::Observe} else {rule::Mode::Enforce}, canary: 100, expires: None,
            message: Some(text("message").into()), tally: Arc::default(),
        }));
    }
    Ok(Policy::new(version, profile, rules))
}
impl rule::Commands {
    pub fn named(words: &[String]) -> Result<Self, String> {
        let table = crate::command::table::Table::builtin();
        let mut it = Self { all: words.is_empty(), builtin: vec![false; BUILTIN_COUNT], ..Self::default() };
        for word in words {
            let spec = table.find(&word.to_lowercase()).ok_or_else(|| format!("'{word}' is no command"))?;
            it.builtin[spec.id.index()] = true;
        }
        Ok(it)
    }
}

//! What a misspelt word most likely means.
//!
//! Owns one question: the known word that is nearest, if one is near enough to be suggested. Never decides what a word
//! means, so a suggestion is only ever a part of a complaint. What surprises: two swapped letters count as one slip,
//! because that is how hands misspell.

/// The known word that a misspelt one most likely means: at most a third of its letters wrong, and at least one.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = plain(word);
    let allowed = (word.chars().count() / 3).max(1);
    let scored = known.iter().map(|name| (distance(&word, &plain(name)), *name));
    scored.filter(|(distance, _)| *distance <= allowed).min().map(|(_, name)| name)
}

/// Edits between two words: insert, delete, replace, or swap two neighbours (each counts one).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    // Three rows of the classic table: a swap looks back two.
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = last[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_or_absent() {
        let known = ["workers", "admin", "profile", "client_idle_timeout", "key"];
        for (word, expected) in [
            ("worker", Some("workers")),
            ("wrokers", Some("workers")),
            ("Admin", Some("admin")),
            ("client-idle-timeout", Some("client_idle_timeout")),
            ("idle_timeout", None),
            ("keys", Some("key")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
        assert_eq!(
            [distance("abc", "acb"), distance("", "abc"), distance("abc", "abc")],
            [1, 3, 0]
        );
    }
}

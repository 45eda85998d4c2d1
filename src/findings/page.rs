//! How findings are spelled for people: rows of `/topology`, the page of `/findings` and `doctor`.
//!
//! Owns the layout only; the words are those of whoever found it. The page must be
//! readable in a terminal of eighty columns by somebody who has just been woken.
//! What surprises: there is no colour and no table. Both are lost in a chat window, where the page
//! will be pasted.

use std::fmt::Write;

use super::{Finding, Severity};

/// A row each: what, where and how bad. The words are on the page of `/findings`.
#[must_use]
pub fn rows(findings: &[Finding]) -> String {
    findings.iter().fold(String::new(), |mut rows, it| {
        // Writing to a string cannot fail; the same holds below.
        let _ = writeln!(
            rows,
            "finding {} {} {}: {}",
            it.severity.as_str(),
            it.id,
            it.subject,
            it.text
        );
        rows
    })
}

/// The whole page, the most urgent first. Checks of one subject that were not made for one reason
/// are one paragraph: twelve of them say no more than one.
#[must_use]
pub fn page(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing is known to be amiss\n".to_owned();
    }
    let (unchecked, found): (Vec<&Finding>, Vec<&Finding>) =
        findings.iter().partition(|it| it.severity == Severity::NotChecked);
    let mut page = String::new();
    for it in found {
        paragraph(&mut page, it, it.id, "repair");
    }
    let mut rest = unchecked;
    while let Some(first) = rest.first().copied() {
        let is_alike = |it: &&Finding| (&it.subject, &it.text) == (&first.subject, &first.text);
        let (alike, others): (Vec<&Finding>, Vec<&Finding>) = rest.into_iter().partition(is_alike);
        let ids: Vec<&str> = alike.iter().map(|it| it.id).collect();
        paragraph(&mut page, first, &ids.join(", "), "to check");
        rest = others;
    }
    page
}

fn paragraph(page: &mut String, it: &Finding, ids: &str, next: &str) {
    let severity = it.severity.as_str().replace('_', " ").to_uppercase();
    // Writing to a string cannot fail.
    let _ = writeln!(
        page,
        "{severity}  {}  ({ids})\n  {}\n  {next}: {}\n",
        it.subject, it.text, it.repair
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_its_words_and_its_repair() {
        let findings = [
            Finding::critical("x", "n:1", "it hurts".into(), "mend it".into()),
            Finding::not_checked("y", "n:1", "CONFIG is forbidden", "allow CONFIG GET"),
            Finding::not_checked("z", "n:1", "CONFIG is forbidden", "allow CONFIG GET"),
        ];
        assert_eq!(
            page(&findings),
            "CRITICAL  n:1  (x)\n  it hurts\n  repair: mend it\n\n\
             NOT CHECKED  n:1  (y, z)\n  not checked: CONFIG is forbidden\n  to check: allow CONFIG GET\n\n"
        );
        assert_eq!(
            rows(&findings[..2]),
            "finding critical x n:1: it hurts\nfinding not_checked y n:1: not checked: CONFIG is forbidden\n"
        );
        assert!(page(&[]).contains("nothing"));
    }
}

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

/// The whole page, the most urgent first.
#[must_use]
pub fn page(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing is known to be amiss\n".to_owned();
    }
    findings.iter().fold(String::new(), |mut page, it| {
        let next = match it.severity {
            Severity::NotChecked => "to check",
            _ => "repair",
        };
        let severity = it.severity.as_str().replace('_', " ").to_uppercase();
        let _ = writeln!(page, "{severity}  {}  ({})", it.subject, it.id);
        let _ = writeln!(page, "  {}", it.text);
        let _ = writeln!(page, "  {next}: {}\n", it.repair);
        page
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_its_words_and_its_repair() {
        let findings = [
            Finding::critical("x", "n:1", "it hurts".into(), "mend it".into()),
            Finding::not_checked("y", "n:1", "CONFIG is forbidden", "allow CONFIG GET"),
        ];
        assert_eq!(
            page(&findings),
            "CRITICAL  n:1  (x)\n  it hurts\n  repair: mend it\n\n\
             NOT CHECKED  n:1  (y)\n  not checked: CONFIG is forbidden\n  to check: allow CONFIG GET\n\n"
        );
        assert_eq!(
            rows(&findings),
            "finding critical x n:1: it hurts\nfinding not_checked y n:1: not checked: CONFIG is forbidden\n"
        );
        assert!(page(&[]).contains("nothing"));
    }
}

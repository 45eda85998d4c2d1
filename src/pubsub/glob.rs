//! Redis's glob-style patterns over bytes.
//!
//! Owns one pure function that says what `stringmatchlen` of Redis 7.0 says, oddities included.
//! Never allocates, never recurses: a pattern of many stars takes time in proportion to the two
//! lengths' product at most.
//!
//! What surprises: nothing but the empty pattern matches the empty text, not even `*`; a class
//! without its `]` ends with the pattern; and `]` directly behind `[` closes an empty class, which
//! matches nothing.

/// Whether `text` matches `pattern`.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // Where the last star stands behind, and up to where it has swallowed: one star's choice is
    // enough to go back to, because whatever an earlier star could swallow the later one can as
    // well.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        let rest = pattern.get(p..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if let Some(length) = element(rest, byte) {
            p += length;
            t += 1;
            continue;
        }
        let Some((behind, swallowed)) = star else {
            return false;
        };
        star = Some((behind, swallowed + 1));
        (p, t) = (behind, swallowed + 1);
    }
    pattern.get(p..).unwrap_or_default().iter().all(|&byte| byte == b'*')
}

/// The length of the first element of `pattern`, which is no star, if it matches `byte`.
fn element(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', ref class @ ..] => {
            let (is_match, length) = class_matches(class, byte);
            is_match.then_some(1 + length)
        }
        [b'\\', escaped, ..] => (escaped == byte).then_some(2),
        [literal, ..] => (literal == byte).then_some(1),
    }
}

/// Whether the class whose inside begins here has `byte`, and how long it is with its `]`.
fn class_matches(class: &[u8], byte: u8) -> (bool, usize) {
    let is_negated = class.first() == Some(&b'^');
    let mut at = usize::from(is_negated);
    let mut is_match = false;
    loop {
        match class.get(at..).unwrap_or_default() {
            [] => return (is_match != is_negated, at),
            [b'\\', escaped, ..] => {
                is_match |= *escaped == byte;
                at += 2;
            }
            [b']', ..] => return (is_match != is_negated, at + 1),
            [from, b'-', to, ..] => {
                // A range may be written either way round.
                is_match |= (*from.min(to)..=*from.max(to)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                is_match |= *literal == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_what_redis_says_they_match() {
        // Each line was asked of redis-server 7.0.15 with PSUBSCRIBE and PUBLISH.
        for (pattern, text, expected) in [
            ("*", "", false),
            ("*", "a", true),
            ("**", "a", true),
            ("**", "", false),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("*.*", "news.it", true),
            ("[ab", "a", true),
            ("[ab", "c", false),
            ("[a-", "a", true),
            ("[a-", "-", true),
            ("[^a]b", "ab", false),
            ("[^a]b", "bb", true),
            ("a\\", "a\\", true),
            ("a\\", "a", false),
            ("[c-a]", "b", true),
            ("[]a]", "a", false),
            ("[]a]", "a]", false),
            ("h[\\]]x", "h]x", true),
            ("h\\*x", "h*x", true),
            ("h\\*x", "hax", false),
            ("a*", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_end_in_time() {
        let pattern = b"a*".repeat(1000);
        let text = [b"a".repeat(10_000), b"b".to_vec()].concat();
        assert!(matches(&pattern, &text));
        assert!(!matches(&[&pattern[..], b"c"].concat(), &text));
    }

    /// The definition: a star is any number of bytes, every other element is one.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                by_definition(rest, text)
                    || (!text.is_empty() && by_definition(pattern, &text[1..]))
            }
            ([_, ..], [byte, later @ ..]) => element(pattern, *byte)
                .is_some_and(|length| by_definition(&pattern[length..], later)),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn going_back_to_the_last_star_is_enough(
            pattern in "[ab*?\\[\\]^\\\\-]{0,8}",
            text in "[ab]{1,8}",
        ) {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), by_definition(pattern, text));
        }
    }
}

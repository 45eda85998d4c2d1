//! A blocking command with what is left of its time.
//!
//! Owns the place of the time-out among the arguments of each blocking command, and its arithmetic.
//! Never decides whether a command is sent again. What surprises: time-outs are seconds with
//! fractions, but milliseconds behind BLOCK; and 0 means for ever, so what has run out becomes the
//! shortest time and not 0.

use crate::clock::Micros;
use crate::resp::request::arguments;
use crate::resp::write;

/// The command `frame` after a wait of `waited`; `None` if it waits for ever, or is none of these
/// commands.
#[must_use]
pub fn of(frame: &[u8], waited: Micros) -> Option<Vec<u8>> {
    let mut words: Vec<&[u8]> = arguments(frame).collect();
    let name = words.first()?.to_ascii_lowercase();
    let (place, is_millis) = match &name[..] {
        b"blmpop" | b"bzmpop" => (1, false),
        b"xread" | b"xreadgroup" => {
            (words.iter().position(|word| word.eq_ignore_ascii_case(b"block"))? + 1, true)
        }
        _ if name.starts_with(b"b") => (words.len().checked_sub(1)?, false),
        _ => return None,
    };
    let text = std::str::from_utf8(words.get(place)?).ok()?;
    let unit = if is_millis { 1_000.0 } else { 1_000_000.0 };
    let wanted: f64 = text.parse().ok().filter(|time: &f64| time.is_finite() && *time > 0.0)?;
    // Exact up to 285 years.
    #[allow(clippy::cast_precision_loss)]
    let left = (wanted * unit - waited as f64).max(SHORTEST);
    let left = if is_millis {
        format!("{:.0}", (left / unit).ceil())
    } else {
        format!("{:.3}", left / unit)
    };
    *words.get_mut(place)? = left.as_bytes();
    let mut out = Vec::with_capacity(frame.len() + left.len());
    write::command(&mut out, &words);
    Some(out)
}

/// A millisecond in µs: the shortest time that is not for ever.
const SHORTEST: f64 = 1_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn after(line: &str, waited: Micros) -> Option<String> {
        let mut frame = Vec::new();
        write::command(&mut frame, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        let frame = of(&frame, waited)?;
        let words = arguments(&frame).map(|word| String::from_utf8_lossy(word).into_owned());
        Some(words.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_is_left_stands_where_the_time_out_stood() {
        for (line, waited, want) in [
            ("BLPOP a b 5", 1_500_000, "BLPOP a b 3.500"),
            ("BLMOVE a b LEFT LEFT 0.5", 100_000, "BLMOVE a b LEFT LEFT 0.400"),
            ("BLMPOP 2 1 a LEFT", 500_000, "BLMPOP 1.500 1 a LEFT"),
            ("XREAD COUNT 1 BLOCK 900 STREAMS s $", 300_200, "XREAD COUNT 1 BLOCK 600 STREAMS s $"),
            ("BRPOP a 1", 9_000_000, "BRPOP a 0.001"),
            ("XREAD BLOCK 1 STREAMS s 0", 9_000_000, "XREAD BLOCK 1 STREAMS s 0"),
        ] {
            assert_eq!(after(line, waited).as_deref(), Some(want));
        }
    }

    #[test]
    fn who_waits_for_ever_goes_on_doing_so() {
        for line in ["BLPOP a 0", "XREAD BLOCK 0 STREAMS s $", "BLPOP a x", "GET a"] {
            assert_eq!(after(line, 1_000_000), None, "{line}");
        }
    }
}

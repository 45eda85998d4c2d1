//! Durations and sizes as people write them: `250ms`, `5s`, `16MiB`, `512kb`.
//!
//! Owns [`Time`], [`Size`] and [`Percent`], their grammar and their serde form. Never knows a bound: ranges belong to the
//! key that uses the quantity. One number and one unit, no fractions, no sums, so that a value reads the same
//! to everybody and the error for anything else is short.
//!
//! What surprises: sizes follow redis.conf, where `1k` is 1,000 bytes and `1kb` is 1,024; the IEC spelling
//! `1KiB` is 1,024 as well. A duration always needs a unit, except 0.

use super::complaint::Fault;
use super::{PinnedMax, Workers};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

/// A duration as written in a file, whole milliseconds, at most ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) Duration);

/// A size in bytes as written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) usize);

/// A part of a hundred: `10` or `"10%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Percent(pub(crate) u8);

/// No time at all.
pub(crate) const ZERO: Time = Time::ms(0);
/// The shortest time that a bound may be.
pub(crate) const MILLISECOND: Time = Time::ms(1);
/// 1 s.
pub(crate) const SECOND: Time = Time::secs(1);
/// 60 s.
pub(crate) const MINUTE: Time = Time::secs(60);
/// 3,600 s.
pub(crate) const HOUR: Time = Time::secs(3_600);
/// 86,400 s.
pub(crate) const DAY: Time = Time::secs(86_400);

/// Reads a value that may be written as text or as a whole number, through its [`FromStr`].
pub(crate) struct TextOrNumber<T> {
    /// What belongs here, for the complaint about any other type.
    pub(crate) expected: &'static str,
    /// What is read.
    value: PhantomData<T>,
}

/// Unit and milliseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Unit in lower case and bytes; the spellings of redis.conf, then those of the IEC.
const SIZE_UNITS: [(&str, usize); 10] = [
    ("b", 1),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("kb", 1 << 10),
    ("mb", 1 << 20),
    ("gb", 1 << 30),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];

/// Ten years in milliseconds: beyond this a duration is a slip of the keyboard.
const TIME_MS_MAX: u64 = 3_650 * 86_400_000;

// === impl Time ===

impl Time {
    /// Whole milliseconds, for defaults that are written in code.
    pub(crate) const fn ms(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// Whole seconds, for defaults that are written in code.
    pub(crate) const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl FromStr for Time {
    type Err = Fault;

    /// One whole number and one unit; `0` needs none.
    fn from_str(text: &str) -> Result<Self, Fault> {
        let units = "use ms, s, m, h or d, as in \"250ms\" or \"5s\"";
        let (number, unit) = split_unit(text);
        let Ok(number) = number.parse::<u64>() else {
            return Err(Fault::new(format!("'{text}' is not a duration"), units));
        };
        // Zero is zero in every unit.
        if unit.is_empty() && number == 0 {
            return Ok(Self::ms(0));
        }
        if unit.is_empty() {
            let hint = format!("write \"{number}s\" or \"{number}ms\"");
            return Err(Fault::new(format!("the duration '{text}' has no unit"), hint));
        }
        let Some((_, scale)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(Fault::new(format!("'{unit}' is not a unit of time"), units));
        };
        match number.checked_mul(*scale) {
            Some(milliseconds) if milliseconds <= TIME_MS_MAX => Ok(Self::ms(milliseconds)),
            _ => Err(Fault::new(format!("'{text}' is longer than ten years"), "write less")),
        }
    }
}

impl fmt::Display for Time {
    /// The largest unit that divides the value: `90s`, not `1m30s`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fits = |(_, scale): &&(&str, u64)| milliseconds.is_multiple_of(*scale);
        let zero_is_seconds = ("s", 1_000);
        let (unit, scale) = match milliseconds {
            0 => zero_is_seconds,
            _ => *TIME_UNITS.iter().rev().find(fits).unwrap_or(&("ms", 1)),
        };
        write!(out, "{}{unit}", milliseconds / scale)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrNumber::new("a duration such as \"5s\""))
    }
}

// === impl Size ===

impl FromStr for Size {
    type Err = Fault;

    /// One whole number and at most one unit, whose case does not matter; without one it counts bytes.
    fn from_str(text: &str) -> Result<Self, Fault> {
        let units = "use bytes or a unit, as in 65536, \"512kb\" or \"16MiB\"";
        let (number, unit) = split_unit(text);
        let Ok(number) = number.parse::<usize>() else {
            return Err(Fault::new(format!("'{text}' is not a size"), units));
        };
        if unit.is_empty() {
            return Ok(Self(number));
        }
        let lower = unit.to_ascii_lowercase();
        let Some((_, scale)) = SIZE_UNITS.iter().find(|(name, _)| *name == lower) else {
            return Err(Fault::new(format!("'{unit}' is not a unit of size"), units));
        };
        let too_large =
            || Fault::new(format!("'{text}' is larger than memory can be"), "write less");
        number.checked_mul(*scale).map(Self).ok_or_else(too_large)
    }
}

impl fmt::Display for Size {
    /// The largest binary unit that divides the value, else bytes.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match binary.iter().find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale)) {
            Some((unit, scale)) => write!(out, "{}{unit}", self.0 / scale),
            None => write!(out, "{} bytes", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrNumber::new("a size such as \"16MiB\""))
    }
}

// === impl Percent ===

impl FromStr for Percent {
    type Err = Fault;

    /// A whole number up to 100, with or without its sign.
    fn from_str(text: &str) -> Result<Self, Fault> {
        let number = text.strip_suffix('%').unwrap_or(text).trim_end().parse();
        let number = number.ok().filter(|number| *number <= 100);
        let fault = || Fault::new(format!("'{text}' is not a percentage"), "write 0 to 100");
        number.map(Self).ok_or_else(fault)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrNumber::new("a percentage such as 10 or \"10%\""))
    }
}

// === impl TextOrNumber ===

impl<T> TextOrNumber<T> {
    /// `expected` ends the sentence "write …".
    pub(crate) fn new(expected: &'static str) -> Self {
        Self { expected, value: PhantomData }
    }
}

impl<T: FromStr<Err = Fault>> Visitor<'_> for TextOrNumber<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    // A bare number goes the same way, so that 5 and "5" earn the same complaint about the missing unit.
    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

/// Splits `16MiB` into `16` and `MiB`, blanks between them allowed.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

// === impl Workers ===

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrNumber::new("a number of workers, or \"auto\""))
    }
}

// === impl PinnedMax ===

impl<'de> Deserialize<'de> for PinnedMax {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrNumber::new("a number of connections, or \"auto\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_one_number_and_one_unit() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("1m", 60_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            (" 5 s ", 5_000),
            ("0", 0),
            ("0s", 0),
            ("3650d", TIME_MS_MAX),
        ] {
            assert_eq!(text.parse(), Ok(Time::ms(milliseconds)), "{text}");
        }
        for (text, complaint) in [
            ("5", "the duration '5' has no unit; write \"5s\" or \"5ms\""),
            ("", "'' is not a duration; use ms, s, m, h or d, as in \"250ms\" or \"5s\""),
            ("fast", "'fast' is not a duration; use ms, s, m, h or d, as in \"250ms\" or \"5s\""),
            ("-5s", "'-5s' is not a duration; use ms, s, m, h or d, as in \"250ms\" or \"5s\""),
            ("5S", "'S' is not a unit of time; use ms, s, m, h or d, as in \"250ms\" or \"5s\""),
            (
                "1.5s",
                "'.5s' is not a unit of time; use ms, s, m, h or d, as in \"250ms\" or \"5s\"",
            ),
            (
                "1m30s",
                "'m30s' is not a unit of time; use ms, s, m, h or d, as in \"250ms\" or \"5s\"",
            ),
            ("3651d", "'3651d' is longer than ten years; write less"),
            (
                "18446744073709551615d",
                "'18446744073709551615d' is longer than ten years; write less",
            ),
        ] {
            assert_eq!(text.parse::<Time>().unwrap_err().to_string(), complaint, "{text}");
        }
    }

    #[test]
    fn sizes_follow_redis_conf_and_the_iec() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("1b", 1),
            ("1k", 1_000),
            ("1kb", 1_024),
            ("512kb", 524_288),
            ("1KiB", 1_024),
            ("16MiB", 16 << 20),
            ("16 mb", 16 << 20),
            ("2m", 2_000_000),
            ("1GB", 1 << 30),
            ("1gib", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "1tib", "-1", "99999999999gib", "1 2"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_end_at_a_hundred() {
        for (text, percent) in [("0", 0), ("10%", 10), ("100", 100), ("7 %", 7)] {
            assert_eq!(text.parse(), Ok(Percent(percent)), "{text}");
        }
        for text in ["", "%", "101", "-1", "1.5", "10%%", "many"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }

    #[test]
    fn quantities_read_back_as_they_are_shown() {
        for text in ["0s", "250ms", "5s", "90s", "1m", "36h", "1d"] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), text);
        }
        for (bytes, text) in
            [(0, "0 bytes"), (1_500, "1500 bytes"), (16 << 20, "16MiB"), (1 << 30, "1GiB")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}

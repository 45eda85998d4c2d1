//! What a node says of the function that it runs.
//!
//! Owns the reading of FUNCTION STATS, and whether it speaks of the function that is to be killed. Never
//! asks, and never kills (the [`super::watchdog`] does both).
//!
//! What surprises: the name alone does not tell two calls of one function apart, so it is compared too
//! for how long it has been running. One that began before ours was handed over is somebody else's.

use super::quarantine::Culprit;
use super::running::Script;
use crate::clock::{MILLISECOND, Micros};
use crate::resp::frames::{self, Elements};

/// What the answer says of a script of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It is what runs.
    Seen,
    /// Something else runs, or nothing.
    Other,
    /// The node does not tell, in its own words.
    Hidden(String),
}

/// Reads the answer to FUNCTION STATS, which has come at `now`.
#[must_use]
pub fn read(reply: &[u8], script: &Script, now: Micros) -> Sight {
    // A node that runs a script of another kind does not even answer this.
    if frames::is_error(reply) && !reply.starts_with(b"-BUSY") {
        return Sight::Hidden(String::from_utf8_lossy(reply).trim().to_owned());
    }
    let Some((name, lasts)) = running(reply) else {
        return Sight::Other;
    };
    let may_last = now.saturating_sub(script.handed_at).saturating_add(TOLERANCE);
    let is_named = match (&script.culprit, Culprit::function(name)) {
        // Redis tells functions apart without regard to case.
        (Some(Culprit::Function(ours)), Culprit::Function(theirs)) => {
            ours.eq_ignore_ascii_case(&theirs)
        }
        (Some(_), _) => false,
        // Whatever a transaction calls.
        (None, _) => true,
    };
    if is_named && lasts <= may_last { Sight::Seen } else { Sight::Other }
}

/// The name of the function that runs, and for how long it has.
fn running(reply: &[u8]) -> Option<(&[u8], Micros)> {
    let (_, fields) = Elements::within(reply)?;
    let (_, fields) = Elements::within(value(fields, b"running_script")?)?;
    let name = frames::string(value(fields.clone(), b"name")?)?;
    let lasts = frames::integer(value(fields, b"duration_ms")?)?;
    Some((name, u64::try_from(lasts).ok()?.saturating_mul(MILLISECOND)))
}

/// What stands behind a name, in a map or in the list that RESP2 makes of one.
fn value<'a>(mut fields: Elements<'a>, name: &[u8]) -> Option<&'a [u8]> {
    loop {
        let (key, value) = (fields.next()?, fields.next()?);
        if frames::string(key) == Some(name) {
            return Some(value);
        }
    }
}

/// By how much the two clocks, and the way of the answer, may be out.
const TOLERANCE: Micros = 100 * MILLISECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    fn ours(culprit: Option<Culprit>) -> Script {
        let mut script = Script::plain(5 * SECOND);
        script.culprit = culprit;
        script
    }

    fn told(name: &str, lasts: u64) -> String {
        format!(
            "*4\r\n$14\r\nrunning_script\r\n*6\r\n$4\r\nname\r\n${}\r\n{name}\r\n$7\r\ncommand\r\n*3\r\n\
             $5\r\nFCALL\r\n$1\r\nf\r\n$1\r\n0\r\n$11\r\nduration_ms\r\n:{lasts}\r\n\
             $7\r\nengines\r\n*0\r\n",
            name.len()
        )
    }

    #[test]
    fn only_what_was_handed_over_by_us_is_seen() {
        let function = ours(Some(Culprit::function(b"Slow")));
        let block = ours(None);
        let now = 6 * SECOND;
        for (reply, seen, in_block) in [
            (told("slow", 900), Sight::Seen, Sight::Seen),
            (told("slow", 1_050), Sight::Seen, Sight::Seen),
            // It began before ours was sent.
            (told("slow", 1_200), Sight::Other, Sight::Other),
            (told("slower", 900), Sight::Other, Sight::Seen),
            (
                "*4\r\n$14\r\nrunning_script\r\n$-1\r\n$7\r\nengines\r\n*0\r\n".into(),
                Sight::Other,
                Sight::Other,
            ),
            (
                "%2\r\n$14\r\nrunning_script\r\n_\r\n$7\r\nengines\r\n%0\r\n".into(),
                Sight::Other,
                Sight::Other,
            ),
            ("-BUSY Redis is busy running a script.\r\n".into(), Sight::Other, Sight::Other),
            ("*1\r\n$14\r\nrunning_script\r\n".into(), Sight::Other, Sight::Other),
            ("+OK\r\n".into(), Sight::Other, Sight::Other),
        ] {
            assert_eq!(read(reply.as_bytes(), &function, now), seen, "{reply}");
            assert_eq!(read(reply.as_bytes(), &block, now), in_block, "{reply}");
        }
        let script = ours(Some(Culprit::script(&[0; 20])));
        assert_eq!(read(told("slow", 1).as_bytes(), &script, now), Sight::Other);
        let hidden = Sight::Hidden("-NOPERM no".into());
        assert_eq!(read(b"-NOPERM no\r\n", &function, now), hidden);
    }
}

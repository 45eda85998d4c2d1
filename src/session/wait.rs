//! WAIT and WAITAOF: an answer that is true although the writes went elsewhere.
//!
//! Owns the command that goes in front of a WAIT, and the reading of the two replies. Never counts
//! replicas itself.
//!
//! What surprises: the node answers for the writes of *its connection*, and a client's writes are
//! on a shared one. So something is written on the connection of the WAIT first: a PUBLISH that
//! nobody hears, which is replicated as any write is. Every earlier write of the session has been
//! answered by then (INV-12 c), so replicas that have acknowledged the PUBLISH have them all.
//! Without it redis-server 7.0 answers `:1` while its replica is stopped.

use crate::resp::frames;
use crate::resp::write;

/// What is replicated in front of each WAIT.
pub const STEP: &[u8] = b"*3\r\n$7\r\nPUBLISH\r\n$19\r\n__breakwater:wait__\r\n$0\r\n\r\n";

/// The reply to the WAIT, out of both; an error if the node would not let us take the step that
/// makes it true.
#[must_use]
pub fn answer(replies: &[u8]) -> Vec<u8> {
    let length = frames::length(replies).unwrap_or(replies.len());
    let (step, wait) = replies.split_at(length);
    if !step.starts_with(b"-") || wait.starts_with(b"-") {
        return wait.to_vec();
    }
    let reason = String::from_utf8_lossy(step.get(1..).unwrap_or_default());
    let mut line = Vec::new();
    let text = format!(
        "ERR breakwater: the replicas cannot be counted: PUBLISH to __breakwater:wait__ was \
         refused ({}); allow this user that channel",
        reason.trim_end()
    );
    write::error(&mut line, &text);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_answer_is_the_second_reply() {
        assert_eq!(answer(b":0\r\n:2\r\n"), b":2\r\n");
        assert_eq!(answer(b":0\r\n*2\r\n:1\r\n:0\r\n"), b"*2\r\n:1\r\n:0\r\n");
        assert_eq!(answer(b"-NOPERM x\r\n-ERR wrong\r\n"), b"-ERR wrong\r\n");
    }

    #[test]
    fn a_count_that_proves_nothing_is_not_shown() {
        let line = answer(b"-NOPERM no channel\r\n:1\r\n");
        assert!(line.starts_with(b"-ERR breakwater: the replicas cannot be counted"));
        assert!(line.ends_with(b"\r\n"));
    }

    #[test]
    fn the_step_is_a_whole_command() {
        let text = std::str::from_utf8(STEP).unwrap();
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines[3], format!("${}", lines[4].len()));
    }
}

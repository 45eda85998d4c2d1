//! What Redis answers to commands that it does not know or that have too few or many arguments.
//!
//! Owns these three error replies, byte for byte those of Redis 7.0, because client libraries look
//! into them. Never decides that there is an error.
//!
//! Redis builds them with C's string functions, and it shows: an argument ends at its first NUL
//! byte, names and subcommands are cut at 128 bytes, and the list of arguments stops growing once it
//! has 128. Line ends inside become blanks, or the reply would become two.

use super::spec::{CommandId, Spec, builtin_id};
use super::table::Unknown;
use super::{Command, until_nul};

/// Redis cuts the name, and the list of arguments, at this many bytes.
const SHOWN_BYTES_MAX: usize = 128;

/// Appends the reply to a command that [`super::table::Table::resolve`] did not find.
pub fn unknown(out: &mut Vec<u8>, what: Unknown, command: &Command<'_>) {
    match what {
        Unknown::Command => unknown_command(out, command),
        Unknown::Subcommand => unknown_subcommand(out, command),
    }
}

/// Appends `-ERR unknown command …`, with the line end.
pub fn unknown_command(out: &mut Vec<u8>, command: &Command<'_>) {
    out.extend_from_slice(b"-ERR unknown command '");
    push_shown(out, command.name(), SHOWN_BYTES_MAX);
    out.extend_from_slice(b"', with args beginning with: ");
    let start = out.len();
    for argument in command.arguments().skip(1) {
        // The quotes and the blank count as shown, so the last argument may go beyond by three.
        let Some(room) = SHOWN_BYTES_MAX.checked_sub(out.len() - start).filter(|room| *room > 0)
        else {
            break;
        };
        out.push(b'\'');
        push_shown(out, argument, room);
        out.extend_from_slice(b"' ");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `-ERR unknown subcommand …`, with the line end.
pub fn unknown_subcommand(out: &mut Vec<u8>, command: &Command<'_>) {
    out.extend_from_slice(b"-ERR unknown subcommand '");
    push_shown(out, command.argument(1).unwrap_or_default(), SHOWN_BYTES_MAX);
    out.extend_from_slice(b"'. Try ");
    // As the client wrote it, in capitals: a renamed container is advertised by the name it used.
    let start = out.len();
    push_shown(out, command.name(), usize::MAX);
    out[start..].make_ascii_uppercase();
    out.extend_from_slice(b" HELP.\r\n");
}

/// Appends `-ERR wrong number of arguments …`, with the line end. Names the command as the table
/// does, `client|kill`, whatever the client or a rename calls it.
///
/// EXEC is special: to Redis a refused EXEC ends the transaction, and the error says so.
pub fn wrong_arity(out: &mut Vec<u8>, spec: &Spec) {
    const EXEC: CommandId = builtin_id("exec");
    let start: &[u8] = match spec.id {
        EXEC => b"-EXECABORT Transaction discarded because of: ",
        _ => b"-ERR ",
    };
    out.extend_from_slice(start);
    out.extend_from_slice(b"wrong number of arguments for '");
    out.extend_from_slice(spec.name.as_bytes());
    out.extend_from_slice(b"' command\r\n");
}

/// What of an argument Redis shows: up to a NUL byte, at most `most` bytes, on one line.
fn push_shown(out: &mut Vec<u8>, argument: &[u8], most: usize) {
    let shown = until_nul(argument);
    let shown = shown.get(..most).unwrap_or(shown);
    out.extend(shown.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::Table;
    use crate::command::tests::Request;

    fn answer<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
        let request = Request::new(arguments);
        let command = request.command();
        let mut out = b"+before\r\n".to_vec();
        match Table::builtin().resolve(&command) {
            Err(what) => unknown(&mut out, what, &command),
            Ok(spec) => wrong_arity(&mut out, spec),
        }
        out.strip_prefix(b"+before\r\n").unwrap().to_vec()
    }

    #[track_caller]
    fn check<A: AsRef<[u8]>>(arguments: &[A], expected: &str) {
        assert_eq!(String::from_utf8(answer(arguments)).unwrap(), format!("-ERR {expected}\r\n"));
    }

    #[test]
    fn unknown_commands_are_shown_with_their_arguments() {
        check(&["foo"], "unknown command 'foo', with args beginning with: ");
        check(&["foo", "a", ""], "unknown command 'foo', with args beginning with: 'a' '' ");
        check(&["f\r\noo", "a\nb"], "unknown command 'f  oo', with args beginning with: 'a b' ");
        check(&["f\0oo", "a\0b", "c"], "unknown command 'f', with args beginning with: 'a' 'c' ");
        let bytes = answer(&[&b"x"[..], b"\xff'"]);
        assert_eq!(bytes, b"-ERR unknown command 'x', with args beginning with: '\xff'' \r\n");
    }

    #[test]
    fn long_names_and_arguments_are_cut() {
        let (x, y) = ("x".repeat(200), "y".repeat(200));
        let cut = |word: &str, length: usize| word[..length].to_owned();
        let start = |name: &str| format!("unknown command '{name}', with args beginning with: ");
        check(&[&x, &y, &x], &format!("{}'{}' ", start(&cut(&x, 128)), cut(&y, 128)));
        // 124 bytes and their quotes leave room for one.
        let (four, five) = (cut(&y, 124), cut(&y, 125));
        check(&["n", &four, "zz"], &format!("{}'{four}' 'z' ", start("n")));
        check(&["n", &five, "zz"], &format!("{}'{five}' ", start("n")));
    }

    #[test]
    fn unknown_subcommands_point_to_help() {
        check(&["cLient", "foo"], "unknown subcommand 'foo'. Try CLIENT HELP.");
        check(&["client", "f\r\no\0z"], "unknown subcommand 'f  o'. Try CLIENT HELP.");
        check(&["client", ""], "unknown subcommand ''. Try CLIENT HELP.");
        let long = "x".repeat(200);
        check(
            &["client", &long],
            &format!("unknown subcommand '{}'. Try CLIENT HELP.", &long[..128]),
        );
    }

    #[test]
    fn a_wrong_number_of_arguments_names_the_command_in_full() {
        check(&["GET"], "wrong number of arguments for 'get' command");
        check(&["CLIENT", "KILL"], "wrong number of arguments for 'client|kill' command");
        check(&["CLIENT"], "wrong number of arguments for 'client' command");
    }
}

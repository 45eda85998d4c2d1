//! Where a RESP value ends: the tests' own reading of the protocol, on purpose not the product's.
//!
//! Owns one pure function and the packing of two common replies. Never decodes: tests compare whole frames as
//! bytes. What surprises: an attribute counts as part of the value behind it, a push as a value of its own.

/// Length of the first whole value in `bytes`, or `None` if more bytes are needed.
///
/// # Panics
/// If it is no RESP, which a test wants to know.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let (mut position, mut due) = (0, 1_usize);
    while due > 0 {
        let rest = bytes.get(position..)?;
        let end = position + rest.windows(2).position(|pair| pair == b"\r\n")?;
        let (kind, content) = bytes[position..end].split_first()?;
        let number = || -> i64 {
            let text = std::str::from_utf8(content).unwrap_or_default();
            text.parse().unwrap_or_else(|_| panic!("no length: {}", super::shown(bytes)))
        };
        position = end + 2;
        due -= 1;
        match kind {
            b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => {}
            b'$' | b'!' | b'=' => {
                if let Ok(length) = usize::try_from(number()) {
                    position += length + 2;
                }
            }
            b'*' | b'~' | b'>' => due += usize::try_from(number()).unwrap_or(0),
            b'%' => due += 2 * usize::try_from(number()).unwrap_or(0),
            b'|' => due += 1 + 2 * usize::try_from(number()).unwrap_or(0),
            _ => panic!("no RESP: {}", super::shown(bytes)),
        }
    }
    (position <= bytes.len()).then_some(position)
}

/// The arguments of a command that is an array of bulk strings.
///
/// # Panics
/// If it is anything else.
pub(crate) fn arguments(command: &[u8]) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    let header = length_of_line(command);
    let mut rest = &command[header..];
    while !rest.is_empty() {
        assert_eq!(rest[0], b'$', "an argument that is no bulk string: {}", super::shown(command));
        let (header, whole) = (length_of_line(rest), length(rest).expect("the command is whole"));
        arguments.push(rest[header..whole - 2].to_vec());
        rest = &rest[whole..];
    }
    arguments
}

fn length_of_line(bytes: &[u8]) -> usize {
    bytes.windows(2).position(|pair| pair == b"\r\n").expect("the frame is whole") + 2
}

#[test]
fn a_value_ends_where_its_last_element_ends() {
    let table: [(&[u8], Option<usize>); 10] = [
        (b"+OK\r\n+next", Some(5)),
        (b"$3\r\na\r\n", None),
        (b"$3\r\nabc\r\n:", Some(9)),
        (b"$-1\r\n", Some(5)),
        (b"*0\r\n", Some(4)),
        (b"*2\r\n:1\r\n*1\r\n_\r\n", Some(15)),
        (b"%1\r\n+a\r\n", None),
        (b"%1\r\n+a\r\n#t\r\n", Some(12)),
        (b"|1\r\n+a\r\n:1\r\n+OK\r\n", Some(17)),
        (b"*1", None),
    ];
    for (bytes, expected) in table {
        assert_eq!(length(bytes), expected, "{}", super::shown(bytes));
    }
}

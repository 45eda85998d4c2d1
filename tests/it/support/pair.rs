//! Two equal servers, one of them behind a proxy: the same bytes to both, and the same bytes back (INV-7).
//!
//! Owns the servers and the small language in which tests write conversations; see [`Pair::same_talk`]. Never
//! compares what two servers may answer differently: ids of clients are masked, times and random choices are left
//! out by whoever writes the conversation.
//!
//! What surprises: the other party of a conversation talks to the server itself. What it does to the client under
//! test must not depend on the proxy knowing of it.

use super::{Client, Proxy, RedisServer, command, shown, until};

/// Two equal servers, one of them behind a proxy.
pub(crate) struct Pair {
    pub(crate) proxy: Proxy,
    pub(crate) redis: [RedisServer; 2],
}

// === impl Pair ===

impl Pair {
    pub(crate) fn start() -> Self {
        Self::configured("")
    }

    /// With further settings in the section `[upstream]`.
    pub(crate) fn configured(settings: &str) -> Self {
        let redis = [RedisServer::start(), RedisServer::start()];
        let toml = format!("[upstream]\nurl = \"{}\"\n{settings}\n", redis[0].url());
        let proxy = Proxy::configured(&toml).ready();
        Self { proxy, redis }
    }

    /// A client through the proxy and one without.
    pub(crate) fn clients(&self) -> [Client; 2] {
        [self.proxy.client(), self.redis[1].client()]
    }

    /// Empties both.
    pub(crate) fn empty(&self) {
        for redis in &self.redis {
            let mut client = redis.client();
            for words in ["FLUSHALL", "SCRIPT FLUSH", "FUNCTION FLUSH"] {
                assert_eq!(client.ask(words), b"+OK\r\n");
            }
        }
    }

    /// Sends raw bytes to both, and everything that comes until the connection is closed is the same.
    pub(crate) fn same_stream(&self, bytes: &[u8]) {
        let [ours, theirs] = self.clients().map(|mut client| {
            client.send(bytes);
            client.finish_sending();
            client.rest()
        });
        assert_eq!(shown(&masked(ours)), shown(&masked(theirs)), "{}", shown(bytes));
    }

    /// Holds a conversation with both, from empty servers, and every frame is the same.
    ///
    /// Its steps stand between `|`. `words` asks and waits for the reply; `>words` only asks and `<` takes a
    /// reply; `!words` is said by somebody else, to the server; `?n` waits until n clients are blocked there.
    pub(crate) fn same_talk(&self, version: u8, talk: &str) {
        self.empty();
        let mut clients = self.clients();
        for client in &mut clients {
            client.ask(&format!("HELLO {version}"));
        }
        let ids = clients.each_mut().map(|client| client.ask("CLIENT ID"));
        let mut others = self.redis.each_ref().map(RedisServer::client);
        for step in talk.split('|') {
            let mut frames = Vec::new();
            for side in 0..2 {
                let frame = take(step, &mut clients[side], &mut others[side]);
                let is_masked = talk.contains("CLIENT ID");
                frames.push(match is_masked {
                    true => without_id(&masked(frame), &ids[side]),
                    false => masked(frame),
                });
            }
            let [ours, theirs] = [&frames[0], &frames[1]].map(|frame| shown(frame));
            assert_eq!(ours, theirs, "RESP{version}: `{step}` in `{talk}`; Redis is right");
        }
        self.same_end(&mut clients);
    }

    /// As [`Self::same_talk`] for a talk without others, in one write.
    pub(crate) fn same_pipeline(&self, version: u8, talk: &str) {
        self.empty();
        let (bytes, count) = (pipeline(talk), talk.split('|').count());
        let mut clients = self.clients();
        let replies = clients.each_mut().map(|client| {
            client.ask(&format!("HELLO {version}"));
            let id = client.ask("CLIENT ID");
            client.send(&bytes);
            let frames = client.frames(count).into_iter().map(masked);
            match talk.contains("CLIENT ID") {
                true => frames.map(|frame| without_id(&frame, &id)).collect(),
                false => frames.collect::<Vec<_>>(),
            }
        });
        let [ours, theirs] = replies;
        for (step, (ours, theirs)) in talk.split('|').zip(ours.iter().zip(&theirs)) {
            let (ours, theirs) = (shown(ours), shown(theirs));
            assert_eq!(ours, theirs, "RESP{version}: `{step}` in one write of `{talk}`");
        }
        self.same_end(&mut clients);
    }

    /// Nothing more has come, and both are of use.
    fn same_end(&self, clients: &mut [Client; 2]) {
        for client in clients {
            assert_eq!(shown(&client.ask("ECHO end")), shown(b"$3\r\nend\r\n"));
        }
    }
}

/// Does one step of a conversation; what came is returned.
fn take(step: &str, client: &mut Client, other: &mut Client) -> Vec<u8> {
    if let Some(words) = step.strip_prefix('>') {
        client.send(command(&split(words)));
        return Vec::new();
    }
    if let Some(words) = step.strip_prefix('!') {
        return other.call(&split(words));
    }
    if let Some(count) = step.strip_prefix('?') {
        let field = format!("blocked_clients:{count}\r\n");
        until(&field, || other.text("INFO clients").contains(&field));
        return Vec::new();
    }
    if step == "<" {
        return client.frame();
    }
    client.call(&split(step))
}

/// The steps of a talk as the bytes of one write.
pub(crate) fn pipeline(talk: &str) -> Vec<u8> {
    talk.split('|').flat_map(|words| command(&split(words))).collect()
}

/// The arguments of a line; `'…'` quotes, with `\n`, `\t`, `\0` and `\'` inside.
pub(crate) fn split(line: &str) -> Vec<Vec<u8>> {
    let (mut arguments, mut bytes) = (Vec::new(), line.bytes().peekable());
    loop {
        while bytes.next_if_eq(&b' ').is_some() {}
        let mut argument = Vec::new();
        match bytes.peek() {
            None => return arguments,
            Some(b'\'') => {
                bytes.next();
                while let Some(byte) = bytes.next().filter(|byte| *byte != b'\'') {
                    argument.push(match byte {
                        b'\\' => match bytes.next() {
                            Some(b'n') => b'\n',
                            Some(b't') => b'\t',
                            Some(b'0') => 0,
                            Some(other) => other,
                            None => panic!("{line}"),
                        },
                        byte => byte,
                    });
                }
            }
            Some(_) => {
                while let Some(byte) = bytes.next_if(|byte| *byte != b' ') {
                    argument.push(byte);
                }
            }
        }
        arguments.push(argument);
    }
}

/// Hides the digits behind each `$2 id`, which HELLO answers, in either protocol.
pub(crate) fn masked(mut reply: Vec<u8>) -> Vec<u8> {
    const MARK: &[u8] = b"$2\r\nid\r\n:";
    let mut from = 0;
    while let Some(at) = reply[from..].windows(MARK.len()).position(|part| part == MARK) {
        from += at + MARK.len();
        let digits = reply[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        reply.drain(from..from + digits);
    }
    reply
}

/// Hides a client's own id, which is an integer of its own. Only for talks that have no other integers.
fn without_id(frame: &[u8], id: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = frame;
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix(id) {
            out.extend_from_slice(b":own id\r\n");
            rest = behind;
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out
}

//! What one Sentinel says of the master: its replies, read.
//!
//! Owns the reading of `SENTINEL MASTER`, `GET-MASTER-ADDR-BY-NAME`, `SENTINELS`, `REPLICAS`,
//! `MYID`, `CKQUORUM` and of the one line of INFO that tells of TILT. Never believes any of it;
//! `decision` weighs what several have said. A reply that makes no sense is no report.
//!
//! What surprises: the address is that of GET-MASTER-ADDR-BY-NAME. While a Sentinel leads a
//! failover, `SENTINEL MASTER` goes on showing the old one until every replica has been turned
//! around, under the new config epoch; the other command tells who was promoted. The flags are then
//! about the old one, and are left out.

use bytes::Bytes;
use redis_protocol::resp2;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};

use crate::config::Endpoint;
use crate::topology::cluster::view::Host;

/// A master as one Sentinel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where clients are to go.
    pub address: Endpoint,
    /// Rises with each failover; the higher one is right.
    pub epoch: u64,
    /// So many Sentinels have to call the master down before anybody is promoted.
    pub quorum: u32,
    /// How many other Sentinels it knows.
    pub others: u32,
    /// How many replicas it knows.
    pub replicas: u32,
    /// It cannot reach the master itself.
    pub is_suspected: bool,
    /// Enough of them cannot reach the master.
    pub is_down: bool,
    /// It is promoting a replica.
    pub is_failing_over: bool,
    /// It does not trust its own clock at the moment, and does nothing.
    pub is_tilted: bool,
}

/// What came of a poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It watches this master.
    Watches(Report),
    /// It does not know a master of that name.
    KnowsNone,
    /// It does not answer us: AUTH, or an ACL. Its own words.
    Refuses(String),
}

/// Another Sentinel, as one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its SENTINEL MYID.
    pub id: String,
    /// Where it is found.
    pub address: Endpoint,
}

/// What is asked for less often than the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// What the Sentinel calls itself; `None` before 6.2, or where that is not permitted.
    pub id: Option<String>,
    /// The other Sentinels that it knows; at most [`PEERS_MAX`].
    pub peers: Vec<Peer>,
    /// What it lists as replicas although they say that they are masters; at most [`PEERS_MAX`].
    pub claimants: Vec<Endpoint>,
    /// Its complaint that a failover cannot be agreed upon, in its own words.
    pub no_quorum: Option<String>,
}

/// The questions of a poll.
#[must_use]
pub fn poll_of(master: &str) -> [Vec<&[u8]>; 3] {
    let master = master.as_bytes();
    [
        // In this order: between the two a promotion may become known, and then the new address
        // comes with the old epoch, which changes nothing. The other way round an old address
        // would come with the new epoch.
        vec![b"SENTINEL", b"MASTER", master],
        vec![b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", master],
        vec![b"INFO", b"sentinel"],
    ]
}

/// The questions of a survey.
#[must_use]
pub fn survey_of(master: &str) -> [Vec<&[u8]>; 4] {
    let master = master.as_bytes();
    [
        vec![b"SENTINEL", b"MYID"],
        vec![b"SENTINEL", b"SENTINELS", master],
        vec![b"SENTINEL", b"REPLICAS", master],
        vec![b"SENTINEL", b"CKQUORUM", master],
    ]
}

/// Reads the replies to [`poll_of`]. `None` if they make no sense.
#[must_use]
pub fn read_poll(replies: &[Bytes]) -> Option<Answer> {
    let [master, address, info] = replies else {
        return None;
    };
    let fields = match decode(master)? {
        BytesFrame::Array(fields) => fields,
        BytesFrame::Error(line) if line.starts_with("ERR No such master") => {
            return Some(Answer::KnowsNone);
        }
        BytesFrame::Error(line) if line.starts_with("NOAUTH") || line.starts_with("NOPERM") => {
            return Some(Answer::Refuses(line.to_string()));
        }
        _ => return None,
    };
    let fields = Fields(&fields);
    let told = match decode(address)? {
        BytesFrame::Array(pair) => match pair.as_slice() {
            [host, port] => endpoint(&text(host)?, &text(port)?)?,
            _ => return None,
        },
        // It was removed between the two questions.
        BytesFrame::Null => return Some(Answer::KnowsNone),
        _ => return None,
    };
    let shown = endpoint(&fields.text("ip")?, &fields.text("port")?)?;
    let flags = fields.text("flags").unwrap_or_default();
    let has = |flag: &str| flags.split(',').any(|word| word == flag);
    // They may differ while it leads a failover, and then the one that is told is right, and the
    // flags are about the other. Otherwise it has turned to another one between the two questions,
    // and the epoch is still that of the one before.
    let is_leading = has("failover_in_progress") && told != shown;
    let has = |flag: &str| !is_leading && has(flag);
    let address = if is_leading { told } else { shown };
    Some(Answer::Watches(Report {
        address,
        epoch: fields.number("config-epoch")?,
        quorum: fields.number("quorum").unwrap_or_default(),
        others: fields.number("num-other-sentinels").unwrap_or_default(),
        replicas: fields.number("num-slaves").unwrap_or_default(),
        is_suspected: has("s_down"),
        is_down: has("o_down"),
        is_failing_over: has("failover_in_progress"),
        is_tilted: info.split(|&byte| byte == b'\n').any(|line| line.trim_ascii() == TILTED),
    }))
}

/// Reads the replies to [`survey_of`]; what was not permitted is left at its default.
#[must_use]
pub fn read_survey(replies: &[Bytes]) -> Survey {
    let frame = |place: usize| replies.get(place).and_then(decode);
    let id = frame(0).and_then(|frame| match frame {
        BytesFrame::BulkString(_) => text(&frame).filter(|id| is_id(id)),
        _ => None,
    });
    let list = |place: usize| match frame(place) {
        Some(BytesFrame::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let peers = list(1).iter().take(PEERS_MAX).filter_map(peer).collect();
    let claimants = list(2).iter().take(PEERS_MAX).filter_map(claimant).collect();
    let no_quorum = match frame(3) {
        Some(BytesFrame::Error(line)) if line.starts_with("NOQUORUM") => Some(line.to_string()),
        _ => None,
    };
    Survey { id, peers, claimants, no_quorum }
}

/// An address as Sentinels write it: the port apart, no brackets. What no host can be called
/// reaches neither resolver nor log.
#[must_use]
pub fn endpoint(host: &str, port: &str) -> Option<Endpoint> {
    let port = port.parse().ok().filter(|&port| port > 0)?;
    let host = Host::read(host).name()?.to_owned();
    Some(Endpoint::Tcp { host, port })
}

/// One entry of `SENTINEL SENTINELS`.
fn peer(entry: &BytesFrame) -> Option<Peer> {
    let BytesFrame::Array(fields) = entry else {
        return None;
    };
    let fields = Fields(fields);
    let address = endpoint(&fields.text("ip")?, &fields.text("port")?)?;
    // A Sentinel that has not been met yet has no id.
    Some(Peer { id: fields.text("runid").filter(|id| is_id(id))?, address })
}

/// One entry of `SENTINEL REPLICAS`, if it says itself that it is a master.
fn claimant(entry: &BytesFrame) -> Option<Endpoint> {
    let BytesFrame::Array(fields) = entry else {
        return None;
    };
    let fields = Fields(fields);
    let is_claimant = fields.text("role-reported")? == "master";
    endpoint(&fields.text("ip")?, &fields.text("port")?).filter(|_| is_claimant)
}

/// What Sentinels call themselves: 40 hexadecimal digits, but no rule says so.
fn is_id(text: &str) -> bool {
    crate::topology::cluster::view::is_id(text)
}

/// Names and values in turn.
struct Fields<'f>(&'f [BytesFrame]);

// === impl Fields ===

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let mut pairs = self.0.chunks_exact(2);
        pairs.find_map(|pair| match pair {
            [key, value] if key.as_bytes() == Some(name.as_bytes()) => text(value),
            _ => None,
        })
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }
}

fn text(frame: &BytesFrame) -> Option<String> {
    String::from_utf8(frame.as_bytes()?.to_vec()).ok()
}

/// The scanner has bounded its length and its nesting.
fn decode(reply: &Bytes) -> Option<BytesFrame> {
    resp2::decode::decode_bytes(reply).ok()?.map(|(frame, _)| frame)
}

/// The line of INFO.
const TILTED: &[u8] = b"sentinel_tilt:1";
/// Most Sentinels, and most replicas, that are read from one list.
pub const PEERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::write;

    fn array(words: &[&str]) -> Bytes {
        let mut out = Vec::new();
        write::array_header(&mut out, words.len());
        words.iter().for_each(|word| write::bulk(&mut out, word.as_bytes()));
        out.into()
    }

    fn master(flags: &str) -> Bytes {
        let fields = ["name", "m", "ip", "10.0.0.1", "port", "7", "flags", flags, "quorum", "2"];
        let more = ["num-other-sentinels", "2", "num-slaves", "1", "config-epoch", "5"];
        array(&[&fields[..], &more].concat())
    }

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    #[test]
    fn the_promoted_one_is_told_by_the_address_alone() {
        let info = Bytes::from_static(b"$9\r\n# Sentinel\r\nsentinel_tilt:1\r\n");
        let flags = "s_down,o_down,master,failover_in_progress";
        let replies = [master(flags), array(&["10.0.0.2", "8"]), info];
        let Some(Answer::Watches(report)) = read_poll(&replies) else { panic!() };
        assert_eq!((&report.address, report.epoch), (&tcp("10.0.0.2", 8), 5));
        assert_eq!((report.quorum, report.others, report.replicas), (2, 2, 1));
        assert!(!report.is_down && !report.is_failing_over, "that is said of the old one");
        assert!(report.is_tilted);
        let replies = [master(flags), array(&["10.0.0.1", "7"]), Bytes::new()];
        let Some(Answer::Watches(report)) = read_poll(&replies) else { panic!() };
        assert!(report.is_down && report.is_suspected && report.is_failing_over);
        let replies = [master("master"), array(&["::1", "8"]), Bytes::from_static(b"$0\r\n\r\n")];
        let Some(Answer::Watches(report)) = read_poll(&replies) else { panic!() };
        assert_eq!(report.address, tcp("10.0.0.1", 7), "the epoch is that of the one before");
        assert!(!report.is_down && !report.is_tilted);
    }

    #[test]
    fn a_refusal_is_told_from_ignorance_and_from_nonsense() {
        let poll = |first: &'static [u8], second: Bytes| {
            read_poll(&[Bytes::from_static(first), second, Bytes::new()])
        };
        let none = Bytes::from_static(b"*-1\r\n");
        let unknown = b"-ERR No such master with that name\r\n";
        assert_eq!(poll(unknown, none.clone()), Some(Answer::KnowsNone));
        let refused = poll(b"-NOAUTH Authentication required.\r\n", none);
        assert!(matches!(refused, Some(Answer::Refuses(line)) if line.starts_with("NOAUTH")));
        for address in [array(&["a b", "7"]), array(&["a", "0"]), array(&["a", "70000"])] {
            let replies = [master("master"), address, Bytes::new()];
            assert_eq!(read_poll(&replies), None);
        }
        assert_eq!(poll(b"+OK\r\n", array(&["a", "7"])), None);
        assert_eq!(poll(b"-ERR unknown command 'SENTINEL'\r\n", array(&["a", "7"])), None);
    }

    #[test]
    fn others_and_claimants_are_read_and_nonsense_is_left_out() {
        let id = "07c37dfeb235213a872192d90877d0cd55635b91";
        let entry = |words: &[&str]| array(words);
        let list = |entries: &[Bytes]| {
            let mut out = Vec::new();
            write::array_header(&mut out, entries.len());
            entries.iter().for_each(|entry| out.extend_from_slice(entry));
            Bytes::from(out)
        };
        let sentinels = list(&[
            entry(&["ip", "10.0.0.9", "port", "26379", "runid", id]),
            entry(&["ip", "10.0.0.8", "port", "26379", "runid", ""]),
            entry(&["ip", "10.0.0.8"]),
        ]);
        let replicas = list(&[
            entry(&["ip", "10.0.0.1", "port", "7", "role-reported", "master"]),
            entry(&["ip", "10.0.0.2", "port", "7", "role-reported", "slave"]),
        ]);
        let mut myid = Vec::new();
        write::bulk(&mut myid, id.as_bytes());
        let quorum = Bytes::from_static(b"-NOQUORUM 1 usable Sentinels. Not enough\r\n");
        let survey = read_survey(&[myid.into(), sentinels, replicas, quorum]);
        assert_eq!(survey.id.as_deref(), Some(id));
        assert_eq!(survey.peers, [Peer { id: id.into(), address: tcp("10.0.0.9", 26379) }]);
        assert_eq!(survey.claimants, [tcp("10.0.0.1", 7)]);
        assert!(survey.no_quorum.is_some_and(|words| words.contains("1 usable")));
        let refused = Bytes::from_static(b"-NOPERM no\r\n");
        assert_eq!(read_survey(&[refused.clone(), refused]), Survey::default());
    }
}

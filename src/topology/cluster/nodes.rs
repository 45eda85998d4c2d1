//! CLUSTER NODES: the one reply that tells epochs, failures and open slots.
//!
//! Owns the reading of its lines. Pure. A line that makes no sense is left out and the others are
//! read: one odd node must not hide a cluster.
//!
//! What surprises: the address ends at the *last* colon, because IPv6 stands there without
//! brackets; and only the line of whoever was asked (`myself`) shows open slots, in brackets among
//! its ranges.

use super::view::{Host, NODES_MAX, Open, RANGES_MAX, Seen, View, Way, is_id};
use crate::route::slot::SLOTS;
use crate::topology::slots::{Health, MemberRole};

/// Reads the text of the reply.
#[must_use]
pub fn read(text: &str) -> View {
    let mut view = View::default();
    for line in text.lines().take(NODES_MAX) {
        let mut open = Vec::new();
        if let Some(seen) = read_line(line, &mut open) {
            view.nodes.push(seen);
            view.open.append(&mut open);
        }
    }
    view
}

/// `id address flags primary ping pong epoch link slots…`; `None` for who is no member yet or makes
/// no sense.
fn read_line(line: &str, open: &mut Vec<Open>) -> Option<Seen> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let id = words.next().filter(|id| is_id(id))?;
    let address = words.next()?;
    let flags = words.next()?;
    let primary = words.next()?;
    // When it was heard of is the cluster's own affair: its flags say what follows from that.
    let (_ping, _pong) = (words.next()?, words.next()?);
    let epoch = words.next()?.parse().ok()?;
    // Whether the bus between the two is connected says nothing of whether we can reach it.
    let _link = words.next()?;
    let has = |flag| flags.split(',').any(|it| it == flag);
    // Nodes in handshake have a random id that they will not keep.
    if has("handshake") {
        return None;
    }
    // `fail?` is one node's suspicion, and does not count; `fail` is agreed upon.
    let is_myself = has("myself");
    let (host, port, aliases) = read_address(address, is_myself, has("noaddr"))?;
    let is_replica = has("slave") || has("replica");
    // Everything that is left are slots, in ranges or one by one, and behind them the open ones.
    let mut ranges = Vec::new();
    for word in words.take(RANGES_MAX) {
        match read_open(word) {
            Some(one) if is_myself => open.push(one),
            Some(_) => {}
            None => ranges.extend(read_range(word)),
        }
    }
    Some(Seen {
        id: id.into(),
        host,
        port,
        aliases,
        is_myself,
        role: if is_replica { MemberRole::Replica } else { MemberRole::Primary },
        primary: Some(primary).filter(|id| is_replica && is_id(id)).map(Into::into),
        epoch,
        health: if has("fail") { Health::Failed } else { Health::Online },
        zone: None,
        ranges,
    })
}

/// `host:port@bus,hostname,more…`: the host, the port and the other name, if there is one.
fn read_address(
    text: &str,
    is_myself: bool,
    is_unreachable: bool,
) -> Option<(Host, u16, Vec<Box<str>>)> {
    let mut parts = text.split(',');
    let address = parts.next()?;
    let address = address.split_once('@').map_or(address, |(address, _bus)| address);
    // The bus port behind the @ is for nodes alone.
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match Host::read(host) {
        // Only of itself a node may know no address: it is where it was asked.
        Host::AsAsked if !is_myself => Host::Unknown,
        host if is_unreachable || port == 0 => {
            if is_myself {
                host
            } else {
                Host::Unknown
            }
        }
        host => host,
    };
    // Further parts have the form name=value.
    let hostname = parts.next().filter(|name| !name.contains('=')).map(Host::read);
    let aliases = hostname.as_ref().and_then(Host::name).map(Into::into).into_iter().collect();
    Some((host, port, aliases))
}

/// `[7-<-id]` or `[7->-id]`.
fn read_open(word: &str) -> Option<Open> {
    let inner = word.strip_prefix('[')?.strip_suffix(']')?;
    let (slot, way, peer) = match (inner.split_once("->-"), inner.split_once("-<-")) {
        (Some((slot, peer)), _) => (slot, Way::Out, peer),
        (None, Some((slot, peer))) => (slot, Way::In, peer),
        (None, None) => return None,
    };
    let slot = slot.parse().ok().filter(|&slot| slot < SLOTS)?;
    is_id(peer).then(|| Open { slot, way, peer: peer.into() })
}

/// `7` or `0-5460`.
fn read_range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "07c37dfeb235213a872192d90877d0cd55635b91";
    const B: &str = "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1";

    fn line(address: &str, flags: &str, rest: &str) -> String {
        format!("{A} {address} {flags} - 0 1426238317239 4 connected {rest}\n")
    }

    fn one(address: &str, flags: &str, rest: &str) -> Seen {
        let view = read(&line(address, flags, rest));
        assert_eq!(view.nodes.len(), 1, "{address} {flags} {rest}");
        view.nodes[0].clone()
    }

    #[test]
    fn a_primary_and_its_replica_are_read_from_any_version() {
        let text = format!(
            "{A} 127.0.0.1:30004@31004,hostname4 slave,fail? {B} 0 1426238317239 4 connected\n\
             {B} 127.0.0.1:30001@31001,,shard-id=x myself,master - 0 0 9 connected 0-5460 7000 [93-<-{A}] [94->-{A}]\n"
        );
        let view = read(&text);
        let replica = view.get(A).unwrap();
        assert_eq!((replica.role, replica.primary.as_deref()), (MemberRole::Replica, Some(B)));
        assert_eq!(replica.aliases, [Box::<str>::from("hostname4")]);
        assert_eq!(replica.health, Health::Online);
        let primary = view.myself().unwrap();
        assert_eq!((primary.epoch, primary.port), (9, 30001));
        assert_eq!(primary.ranges, [(0, 5460), (7000, 7000)]);
        assert!(primary.aliases.is_empty());
        let ends: Vec<_> = view.open.iter().map(|open| (open.slot, open.way)).collect();
        assert_eq!(ends, [(93, Way::In), (94, Way::Out)]);
        // Before 4.0 there was no bus port in it.
        assert_eq!(one("10.0.0.1:6379", "master", "").port, 6379);
    }

    #[test]
    fn addresses_end_at_the_last_colon_and_may_be_absent() {
        assert_eq!(one("fe80::1:7000@17000", "master", "").host.name(), Some("fe80::1"));
        assert_eq!(one(":0@0", "noaddr,master", "").host, Host::Unknown);
        assert_eq!(one("10.0.0.1:7000@17000", "noaddr,master", "").host, Host::Unknown);
        assert_eq!(one(":7000@17000", "myself,master", "").host, Host::AsAsked);
        assert_eq!(one(":7000@17000", "master", "").host, Host::Unknown);
        assert_eq!(one("?:7000@17000", "master", "").host, Host::Unknown);
    }

    #[test]
    fn what_makes_no_sense_is_left_out_alone() {
        let good = line("a:1@2", "master", "1-2");
        for bad in [
            "",
            "x",
            "vars currentEpoch 6 lastVoteEpoch 0",
            &format!("{A} a:70000@1 master - 0 0 1 connected"),
            &format!("{A} noport master - 0 0 1 connected"),
            &format!("{A} a:1@2 master - 0 0 -1 connected"),
            &format!("{A} a:1@2 handshake - 0 0 0 connected"),
            "a\u{0}b a:1@2 master - 0 0 1 connected",
        ] {
            assert_eq!(read(&format!("{bad}\n{good}")).nodes.len(), 1, "{bad:?}");
        }
        let seen = one("a:1@2", "master", "5-4 3-16384 16383 99999 [x->-y] [1-2] -1 --");
        assert_eq!(seen.ranges, [(16383, 16383)]);
        let open = read(&line("a:1@2", "myself,master", "[16384->-abc] [1->-a!] [5-<-abc]")).open;
        assert_eq!(open.len(), 1);
        // Others' lines show none; one that did would be lying.
        assert!(read(&line("a:1@2", "master", "[5-<-abc]")).open.is_empty());
    }
}

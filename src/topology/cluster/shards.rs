//! CLUSTER SHARDS and CLUSTER SLOTS: where clients are told to go.
//!
//! Owns the reading of both replies. Pure. Unknown fields and further elements are skipped, so that
//! later versions can add some; what lacks an address of any kind is left out.
//!
//! What surprises: SLOTS has had four shapes. Only the first two elements of a node have been there
//! from the beginning.

use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};

use super::view::{Host, NODES_MAX, RANGES_MAX, Seen, View, is_id};
use crate::route::slot::SLOTS;
use crate::topology::slots::{Health, MemberRole};

/// Reads CLUSTER SHARDS (since 7.0); through TLS a node's `tls-port` counts. `None` for an error
/// reply.
#[must_use]
pub fn read_shards(reply: &BytesFrame, is_tls: bool) -> Option<View> {
    let BytesFrame::Array(shards) = reply else {
        return None;
    };
    let mut view = View::default();
    for shard in shards.iter().take(NODES_MAX) {
        // A shard without slots is one that is empty, or about to be taken out: its nodes are
        // members all the same.
        let ranges = field(shard, "slots").map(read_ranges).unwrap_or_default();
        let Some(BytesFrame::Array(nodes)) = field(shard, "nodes") else {
            continue;
        };
        let mut nodes: Vec<Seen> =
            nodes.iter().take(NODES_MAX).filter_map(|node| read_node(node, is_tls)).collect();
        // Midway through a failover two may be called primary; the one that is well serves the
        // slots.
        let leader = nodes.iter().filter(|node| node.role == MemberRole::Primary);
        let leader = leader.min_by_key(|node| node.health == Health::Failed);
        let leader = leader.map(|leader| leader.id.clone());
        for node in &mut nodes {
            if Some(&node.id) == leader.as_ref() {
                node.ranges.clone_from(&ranges);
            } else if node.role == MemberRole::Replica {
                node.primary.clone_from(&leader);
            }
        }
        view.nodes.append(&mut nodes);
    }
    // Each shard is bounded, and so is their number; their product must be as well.
    view.nodes.truncate(NODES_MAX);
    Some(view)
}

/// Reads CLUSTER SLOTS. `None` for an error reply.
#[must_use]
pub fn read_slots(reply: &BytesFrame) -> Option<View> {
    let BytesFrame::Array(entries) = reply else {
        return None;
    };
    let mut view = View::default();
    for entry in entries.iter().take(RANGES_MAX) {
        let BytesFrame::Array(parts) = entry else {
            continue;
        };
        // What stands behind the two numbers is the primary, and then its replicas in no order.
        let [first, last, nodes @ ..] = parts.as_slice() else {
            continue;
        };
        let Some(range) = range(first, last) else {
            continue;
        };
        read_entry(&mut view, range, nodes);
    }
    Some(view)
}

/// One range with its primary and that one's replicas.
fn read_entry(view: &mut View, range: (u16, u16), nodes: &[BytesFrame]) {
    let mut primary: Option<Box<str>> = None;
    for (place, node) in nodes.iter().enumerate() {
        // A replica that makes no sense is one replica fewer.
        let Some(mut seen) = read_slots_node(node) else {
            // Without its primary the range belongs to nobody.
            if place == 0 {
                return;
            }
            continue;
        };
        if place > 0 {
            seen.role = MemberRole::Replica;
            seen.primary.clone_from(&primary);
        } else {
            primary = Some(seen.id.clone());
        }
        // A node is named again with each of its ranges; it is one node.
        let has_room = view.nodes.len() < NODES_MAX;
        match view.nodes.iter_mut().find(|it| it.id == seen.id) {
            Some(known) if place == 0 => known.ranges.push(range),
            Some(_) => {}
            None if has_room => {
                seen.ranges.extend((place == 0).then_some(range));
                view.nodes.push(seen);
            }
            None => {}
        }
    }
}

/// `[endpoint, port]`, since 4.0 `id`, since 7.0 a list of names and values.
fn read_slots_node(node: &BytesFrame) -> Option<Seen> {
    let BytesFrame::Array(parts) = node else {
        return None;
    };
    let host = read_host(parts.first()?);
    let port = port(parts.get(1)?)?;
    // Versions differ from here on.
    let id = parts.get(2).and_then(text).filter(|id| is_id(id));
    // Before 4.0 a node has no name there; its address is as good, as long as nothing else names
    // it.
    let id = match (id, host.name()) {
        (Some(id), _) => id.into(),
        (None, name) => format!("{}x{port}", name.unwrap_or_default())
            .replace(|c: char| !c.is_ascii_alphanumeric(), "x")
            .into(),
    };
    let more = parts.get(3);
    let named = |name| more.and_then(|more| field(more, name)).and_then(text);
    let aliases = ["ip", "hostname"].into_iter().filter_map(named).map(Host::read);
    let zone = named("availability-zone").filter(|zone| !zone.is_empty());
    Some(Seen {
        aliases: aliases.filter_map(|host| host.name().map(Into::into)).collect(),
        zone: zone.map(Into::into),
        ..seen(id, host, port)
    })
}

/// A node of CLUSTER SHARDS.
fn read_node(node: &BytesFrame, is_tls: bool) -> Option<Seen> {
    let named = |name| field(node, name).and_then(text);
    let id = named("id").filter(|id| is_id(id))?;
    let [plain, tls] = ["port", "tls-port"].map(|name| field(node, name).and_then(port));
    let port = if is_tls { tls.or(plain) } else { plain.or(tls) }?;
    let host = read_host(field(node, "endpoint").or_else(|| field(node, "ip"))?);
    let aliases = ["ip", "hostname"].into_iter().filter_map(named).map(Host::read);
    // A role that is not known yet serves no slots as far as we are concerned.
    let role = match named("role") {
        Some("master" | "primary") => MemberRole::Primary,
        _ => MemberRole::Replica,
    };
    // Whoever does not say that it is ill is taken to be well: a dial will tell.
    let health = match named("health") {
        Some("fail" | "failed") => Health::Failed,
        Some("loading") => Health::Loading,
        _ => Health::Online,
    };
    // Only some servers have it, and most leave it empty.
    let zone = named("availability-zone").filter(|zone| !zone.is_empty());
    Some(Seen {
        aliases: aliases.filter_map(|host| host.name().map(Into::into)).collect(),
        role,
        health,
        zone: zone.map(Into::into),
        ..seen(id.into(), host, port)
    })
}

/// A primary of which nothing else is known.
fn seen(id: Box<str>, host: Host, port: u16) -> Seen {
    Seen {
        id,
        host,
        port,
        aliases: Vec::new(),
        is_myself: false,
        role: MemberRole::Primary,
        primary: None,
        epoch: 0,
        health: Health::Online,
        zone: None,
        ranges: Vec::new(),
    }
}

/// The value behind `name` in a flat list of names and values.
fn field<'f>(pairs: &'f BytesFrame, name: &str) -> Option<&'f BytesFrame> {
    let BytesFrame::Array(pairs) = pairs else {
        return None;
    };
    // A key without its value at the end is left out.
    pairs.chunks_exact(2).find_map(|pair| match pair {
        [key, value] if text(key) == Some(name) => Some(value),
        _ => None,
    })
}

/// NULL stands for "where you asked"; so does the empty word.
fn read_host(frame: &BytesFrame) -> Host {
    match frame {
        BytesFrame::Null => Host::AsAsked,
        other => text(other).map_or(Host::Unknown, Host::read),
    }
}

/// Words; `None` for anything else, and for bytes that are no UTF-8.
fn text(frame: &BytesFrame) -> Option<&str> {
    std::str::from_utf8(frame.as_bytes()?).ok()
}

/// A port that can be dialled: 0 is none.
fn port(frame: &BytesFrame) -> Option<u16> {
    number(frame).filter(|&port| port > 0)
}

/// A number up to 65,535, however it is spelled.
fn number(frame: &BytesFrame) -> Option<u16> {
    match frame {
        BytesFrame::Integer(number) => u16::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

/// Pairs of first and last slot.
fn read_ranges(frame: &BytesFrame) -> Vec<(u16, u16)> {
    let BytesFrame::Array(numbers) = frame else {
        return Vec::new();
    };
    let pairs = numbers.chunks_exact(2).take(RANGES_MAX);
    pairs.filter_map(|pair| range(pair.first()?, pair.get(1)?)).collect()
}

/// A range that exists. Whoever claims slots beyond the last is not believed in the others of that
/// range either.
fn range(first: &BytesFrame, last: &BytesFrame) -> Option<(u16, u16)> {
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < SLOTS).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis_protocol::resp2;

    /// Reads what is written without line ends: one word a line of the protocol.
    fn frame(words: &str) -> BytesFrame {
        let bytes = words.split_whitespace().fold(String::new(), |all, word| all + word + "\r\n");
        resp2::decode::decode_bytes(&bytes.into_bytes().into()).unwrap().unwrap().0
    }

    fn hosts(view: &View) -> Vec<Host> {
        view.nodes.iter().map(|node| node.host.clone()).collect()
    }

    #[test]
    fn slots_are_read_in_each_of_their_shapes() {
        let old = frame("*1 *4 :0 :5460 *2 $9 127.0.0.1 :30001 *2 $9 127.0.0.1 :30004");
        let view = read_slots(&old).unwrap();
        assert_eq!(view.nodes.len(), 2);
        assert_eq!(view.nodes[0].ranges, [(0, 5460)]);
        assert_eq!(view.nodes[1].primary.as_ref(), Some(&view.nodes[0].id));
        let newer = frame(
            "*2 *3 :0 :1 *4 $1 h :1 $2 aa *2 $8 hostname $1 n *3 :5 :6 *5 $1 h :1 $2 aa *0 $4 more",
        );
        let view = read_slots(&newer).unwrap();
        assert_eq!(view.nodes.len(), 1);
        assert_eq!(view.nodes[0].ranges, [(0, 1), (5, 6)]);
        assert_eq!(view.nodes[0].aliases, [Box::<str>::from("n")]);
    }

    #[test]
    fn endpoints_may_be_null_empty_or_a_question_mark() {
        let reply = frame(
            "*3 *3 :0 :0 *3 $-1 :1 $2 aa *3 :1 :1 *3 $1 e :2 $2 bb *3 :2 :2 *3 $1 ? :3 $2 cc",
        );
        // An empty bulk string cannot be spelled in words: it is put in afterwards.
        let BytesFrame::Array(mut entries) = reply else { unreachable!() };
        let empty = BytesFrame::BulkString(Default::default());
        if let BytesFrame::Array(parts) = &mut entries[1] {
            parts[2] = BytesFrame::Array(vec![
                empty,
                BytesFrame::Integer(2),
                BytesFrame::BulkString("bb".into()),
            ]);
        }
        let view = read_slots(&BytesFrame::Array(entries)).unwrap();
        assert_eq!(hosts(&view), [Host::AsAsked, Host::AsAsked, Host::Unknown]);
    }

    #[test]
    fn shards_are_read_with_ports_health_and_two_primaries() {
        let reply = frame(
            "*1 *4 $5 slots *4 :0 :5 :9 :9 $5 nodes *3 \
             *12 $2 id $2 aa $4 port :1 $8 tls-port :2 $8 endpoint $1 h $4 role $6 master $6 health $4 fail \
             *10 $2 id $2 bb $8 tls-port :3 $8 endpoint $1 i $4 role $6 master $6 health $6 online \
             *10 $2 id $2 cc $4 port :4 $2 ip $1 j $4 role $7 replica $6 health $7 loading",
        );
        let view = read_shards(&reply, true).unwrap();
        let ports: Vec<u16> = view.nodes.iter().map(|node| node.port).collect();
        assert_eq!(ports, [2, 3, 4]);
        assert!(view.nodes[0].ranges.is_empty());
        assert_eq!(view.nodes[1].ranges, [(0, 5), (9, 9)]);
        assert_eq!(view.nodes[2].primary.as_deref(), Some("bb"));
        assert_eq!(view.nodes[2].health, Health::Loading);
        assert_eq!(read_shards(&reply, false).unwrap().nodes[0].port, 1);
    }

    #[test]
    fn hostile_replies_leave_nothing_behind() {
        assert!(
            read_slots(&frame("-ERR")).is_none() && read_shards(&frame("$2 ok"), false).is_none()
        );
        for words in [
            "*1 :1",
            "*1 *2 :0 :1",
            "*1 *3 :5 :4 *3 $1 h :1 $2 aa",
            "*1 *3 :0 :16384 *3 $1 h :1 $2 aa",
            "*1 *3 :0 :1 *3 $1 h :0 $2 aa",
            "*1 *3 :0 :1 *3 $1 h :65536 $2 aa",
            "*1 *4 :0 :1 $1 x *3 $1 h :1 $2 aa",
            "*1 *3 :-1 :1 *3 $1 h :1 $2 aa",
        ] {
            assert!(read_slots(&frame(words)).unwrap().nodes.is_empty(), "{words}");
        }
        for words in ["*1 *2 $5 nodes :1", "*1 *2 $5 nodes *1 *2 $2 id $2 aa", "*1 :3"] {
            assert!(read_shards(&frame(words), false).unwrap().nodes.is_empty(), "{words}");
        }
    }
}

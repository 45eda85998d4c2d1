//! The screen, without sockets: commands that only the node's own table knows, and names that it
//! has changed.
//!
//! What surprises: what a module answers is nobody's business here, so the replies are bytes of no
//! known shape and must arrive as they were sent.

use std::sync::Arc;

use super::*;
use crate::command::overlay::LiveSpec;
use crate::upstream::rig::Rig;

fn command(words: &[&str]) -> Vec<u8> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut bytes = Vec::new();
    write::command(&mut bytes, &words);
    bytes
}

/// A rig whose node has these commands besides the built-in ones.
fn with_module(commands: &[(&str, Flags)]) -> Rig {
    let rig = Rig::new();
    let live = |(name, flags): &(&str, Flags)| LiveSpec {
        name: (*name).to_owned(),
        arity: -2,
        flags: *flags,
        ..LiveSpec::default()
    };
    let published = &rig.worker.shared.topology;
    let known = published.load_full();
    published.store(Arc::new(Topology {
        epoch: known.epoch,
        recoveries: known.recoveries,
        group: None,
        claims: None,
        failover_until: 0,
        slots: None,
        replicas: Arc::default(),
        node: Arc::clone(&known.node),
        table: Arc::new(known.table.overlay(commands.iter().map(live).collect())),
        facts: None,
    }));
    rig
}

#[test]
fn a_module_s_command_goes_out_as_it_came_and_its_reply_comes_back_as_it_is() {
    let flags = Flags::WRITE | Flags::DENYOOM;
    let mut rig = with_module(&[("json.set", flags), ("ft.search", Flags::READONLY)]);
    let ann = rig.client();
    let asked = [
        command(&["JSON.SET", "doc", "$", "{\"a\":\r\n1}"]),
        command(&["ft.Search", "index", "*"]),
    ]
    .concat();
    rig.say(ann, &asked);
    assert_eq!(rig.queued(), asked);
    rig.hand_over_all();
    let replies = b"+OK\r\n*3\r\n:1\r\n$4\r\na\r\nb\r\n*2\r\n,3.5\r\n_\r\n";
    for piece in replies.chunks(4) {
        rig.answer(piece).unwrap();
    }
    assert_eq!(rig.owed(ann), replies);
}

#[test]
fn a_module_s_read_is_not_sent_twice_because_some_of_them_advance_a_cursor() {
    let mut rig = with_module(&[("ft.cursor", Flags::READONLY)]);
    let ann = rig.client();
    rig.say(ann, &command(&["FT.CURSOR", "READ", "index", "1"]));
    rig.hand_over_all();
    rig.lose();
    assert_eq!(rig.queued(), b"");
    assert!(rig.owed(ann).starts_with(b"-ERR breakwater: outcome unknown"));
}

#[test]
fn a_module_s_blocking_or_administrative_command_never_reaches_a_lane() {
    for flags in [Flags::BLOCKING | Flags::WRITE, Flags::ADMIN | Flags::READONLY, Flags::PUBSUB] {
        let mut rig = with_module(&[("m.special", flags)]);
        let ann = rig.client();
        rig.say(ann, &command(&["M.SPECIAL", "k"]));
        let shared = rig
            .worker
            .lanes
            .keys()
            .filter(|id| rig.worker.lanes.get(*id).is_some_and(|lane| lane.pinned.is_none()));
        assert_eq!(shared.count(), 0);
    }
}

#[test]
fn a_renamed_script_command_is_loaded_by_its_name_on_the_server() {
    let renamed = vec![("SCRIPT".to_owned(), "LUA-7f".to_owned())];
    let mut rig = Rig::with(|upstream| upstream.renamed = renamed);
    let ann = rig.client();
    let source = "return 1";
    let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    rig.say(ann, &command(&["SCRIPT", "LOAD", source]));
    assert_eq!(rig.queued(), command(&["LUA-7f", "LOAD", source]));
    rig.hand_over_all();
    rig.answer(format!("$40\r\n{sha}\r\n").as_bytes()).unwrap();
    rig.lose();
    let call = command(&["EVALSHA", sha, "0"]);
    rig.say(ann, &call);
    assert_eq!(rig.queued(), [command(&["LUA-7f", "LOAD", source]), call].concat());
}

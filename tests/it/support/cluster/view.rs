//! What one node says of its cluster: `CLUSTER NODES`, read.
//!
//! Owns the reading of that text, on purpose not the product's. Never merges the views of two nodes. What surprises:
//! only the line about the node itself tells which slots are open, and a slot that is being moved has one owner
//! still: its source.

use std::collections::BTreeMap;

use crate::support::Client;

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    entries: Vec<Entry>,
}

/// One line of it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) port: u16,
    pub(crate) is_primary: bool,
    /// The primary that it copies.
    pub(crate) primary: Option<String>,
    pub(crate) epoch: u64,
    /// Ranges, both ends included.
    pub(crate) slots: Vec<(u16, u16)>,
    /// Open slots as they stand there: `42->-id` or `42-<-id`.
    pub(crate) open: Vec<String>,
    flags: String,
    is_linked: bool,
}

// === impl View ===

impl View {
    pub(crate) fn of(client: &mut Client) -> Self {
        let text = client.text("CLUSTER NODES");
        Self { entries: text.lines().skip(1).filter_map(Entry::read).collect() }
    }

    pub(crate) fn own(&self) -> &Entry {
        self.entries.iter().find(|entry| entry.has_flag("myself")).expect("a node knows itself")
    }

    pub(crate) fn entry(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// Who claims which slots, with which epoch.
    pub(crate) fn claims(self) -> BTreeMap<String, (u64, Vec<(u16, u16)>)> {
        let claim = |entry: Entry| (entry.id, (entry.epoch, entry.slots));
        self.entries.into_iter().map(claim).collect()
    }

    /// The node that announces that port.
    pub(crate) fn at(&self, port: u16) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.port == port)
    }

    /// Empty for somebody who is unknown.
    pub(crate) fn slots_of(&self, id: &str) -> Vec<(u16, u16)> {
        self.entry(id).map(|entry| entry.slots.clone()).unwrap_or_default()
    }

    /// Who has the slot, with port and epoch, in words.
    pub(crate) fn owners_of(&self, slot: u16) -> String {
        let owners = self.entries.iter().filter(|entry| entry.has(slot));
        owners
            .map(|entry| format!("{} by epoch {}", entry.port, entry.epoch))
            .collect::<Vec<_>>()
            .join(" and ")
    }

    pub(crate) fn primary_of(&self, id: &str) -> Option<&str> {
        self.entry(id)?.primary.as_deref()
    }
}

// === impl Entry ===

impl Entry {
    /// `id ip:port@bus flags primary ping pong epoch link slot…`
    fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [id, address, flags, primary, _, _, epoch, link, slots @ ..] = &words[..] else {
            return None;
        };
        let port = address.split('@').next()?.rsplit(':').next()?.parse().ok()?;
        let (open, owned): (Vec<&str>, Vec<&str>) =
            slots.iter().partition(|word| word.starts_with('['));
        let range = |word: &&str| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        let entry = Self {
            id: (*id).to_owned(),
            port,
            is_primary: flags.split(',').any(|flag| flag == "master"),
            primary: (*primary != "-").then(|| (*primary).to_owned()),
            epoch: epoch.parse().ok()?,
            slots: owned.iter().filter_map(range).collect(),
            open: open.iter().map(|word| word.trim_matches(['[', ']']).to_owned()).collect(),
            flags: (*flags).to_owned(),
            is_linked: *link == "connected",
        };
        Some(entry)
    }

    pub(crate) fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|&(first, last)| (first..=last).contains(&slot))
    }

    /// Connected, and neither failing nor half known.
    pub(crate) fn is_well(&self) -> bool {
        let is_odd = |flag: &str| ["fail", "fail?", "handshake", "noaddr"].contains(&flag);
        self.is_linked && !self.flags.split(',').any(is_odd)
    }

    pub(crate) fn has_flag(&self, flag: &str) -> bool {
        self.flags.split(',').any(|its| its == flag)
    }
}

#[test]
fn a_line_of_cluster_nodes_is_read_whole() {
    let line = "07c3 127.0.0.1:30004@31004,host master,fail? - 1 2 7 connected 0-5 9 [42->-e7d1]";
    let entry = Entry::read(line).expect("it is a line");
    assert_eq!((entry.port, entry.epoch, entry.is_primary), (30_004, 7, true));
    assert_eq!(entry.slots, [(0, 5), (9, 9)]);
    assert_eq!(entry.open, ["42->-e7d1"]);
    assert!(!entry.is_well() && entry.has_flag("fail?") && entry.has(5) && !entry.has(6));
    assert_eq!(entry.primary, None);
}

//! What Breakwater knows of the cluster, without any traffic that would teach it.
//!
//! Owns the proofs that nodes, owners and open slots are found, that a cluster which was reset is followed, and that the
//! repairs which the log prints bring every key back. All of it is read from the admin port and the log.
//!
//! What surprises: the last one takes a minute and a half. A slot whose keys do not move may just be slow, and is not
//! called failed before it has stood still for a minute.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::cluster::Cluster;
use crate::support::{Proxy, RedisServer, eventually_within, until};

/// The keys of one slot, by hash tag.
const TAG: &str = "{half}";
const TAG_SLOT: u16 = 12909;

/// Whether `/topology` has a line that begins with `start` and holds all of `words`.
fn shows(proxy: &Proxy, start: &str, words: &[&str]) -> bool {
    let page = proxy.http("/topology").1;
    page.lines().any(|line| line.starts_with(start) && words.iter().all(|word| line.contains(word)))
}

/// Who has that slot, by the page; `None` for nobody.
fn owner(proxy: &Proxy, slot: u16) -> Option<u16> {
    let page = proxy.http("/topology").1;
    page.lines().find_map(|line| {
        let (range, node) = line.strip_prefix("slots ")?.split_once(' ')?;
        let (first, last) = range.split_once('-')?;
        let range = first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?;
        range.contains(&slot).then(|| node.rsplit_once(':')?.1.parse().ok())?
    })
}

#[test]
fn members_come_and_go_and_one_living_seed_is_enough() {
    let mut cluster = Cluster::start(3, 0);
    let dead = crate::support::free_port();
    let seeds = format!("redis-cluster://127.0.0.1:{dead},127.0.0.1:{}", cluster.port(2));
    let proxy = Proxy::before(&seeds).ready();
    for i in 0..3 {
        let name = format!("127.0.0.1:{} ", cluster.port(i));
        let id = cluster.id(i);
        until("each member is listed", || {
            shows(&proxy, "node ", &[&name, &id, "primary", "online"])
        });
    }
    assert_eq!(
        proxy.metric_of("breakwater_cluster_members", "role=\"primary\",health=\"online\""),
        3.0
    );
    assert_eq!(proxy.metric("breakwater_slots_uncovered"), 0.0);
    let new = cluster.add_node();
    let name = format!("127.0.0.1:{} ", cluster.port(new));
    until("the node that was added is listed", || shows(&proxy, "node ", &[&name]));
    cluster.move_slot(TAG_SLOT, cluster.owner(TAG_SLOT), new);
    until("its slot is", || owner(&proxy, TAG_SLOT) == Some(cluster.port(new)));
    cluster.move_slot(TAG_SLOT, new, 0);
    cluster.settle();
    cluster.forget(new);
    until("the node that was taken out is not", || !shows(&proxy, "node ", &[&name]));
    // What it was started with may all be gone.
    assert_eq!(proxy.metric("breakwater_cluster_generations_total"), 0.0);
}

#[test]
fn a_failover_is_noticed_without_traffic() {
    let mut cluster = Cluster::start(3, 1);
    let proxy = Proxy::before(&cluster.url()).ready();
    let (dead, heir) = (0, cluster.replicas_of(0)[0]);
    until("the map is there", || owner(&proxy, 0) == Some(cluster.port(dead)));
    cluster.kill(dead);
    until("the heir has the slots", || owner(&proxy, 0) == Some(cluster.port(heir)));
    let name = format!("127.0.0.1:{} ", cluster.port(dead));
    until("the dead one is called so", || shows(&proxy, "node ", &[&name, "failed"]));
    assert_eq!(proxy.http("/readyz").0, 200);
    cluster.restart(dead);
    let heir = format!("replica of 127.0.0.1:{}", cluster.port(heir));
    until("the dead one is back as a replica", || {
        shows(&proxy, "node ", &[&name, "online", &heir])
    });
}

#[test]
fn a_cluster_that_was_reset_is_followed() {
    let cluster = Cluster::start(3, 0);
    let proxy = Proxy::before(&cluster.url()).ready();
    // Epochs that the new cluster will not reach.
    for _ in 0..3 {
        assert!(cluster.node(0).text("CLUSTER BUMPEPOCH").starts_with('+'));
        cluster.settle();
    }
    let before = cluster.id(0);
    until("the map is there", || shows(&proxy, "node ", &[&before]));
    cluster.reset_hard_all();
    cluster.form(3);
    for i in 0..3 {
        let id = cluster.id(i);
        until("the new names are known", || shows(&proxy, "node ", &[&id]));
    }
    assert_eq!(proxy.metric("breakwater_cluster_generations_total"), 1.0);
    assert!(!shows(&proxy, "node ", &[&before]));
    assert!(proxy.log().contains("the cluster was reset"));
}

#[test]
fn a_reload_moves_to_a_cluster_and_back() {
    let (redis, cluster) = (RedisServer::start(), Cluster::start(3, 0));
    let upstream = |url: &str| format!("[upstream]\nurl = \"{url}\"\n");
    let mut proxy = Proxy::configured(&upstream(&redis.url())).ready();
    assert_eq!(owner(&proxy, 0), None);
    std::fs::write(proxy.file("breakwater.toml"), upstream(&cluster.url())).unwrap();
    proxy.hang_up();
    until("the cluster is adopted", || owner(&proxy, 0) == Some(cluster.port(0)));
    std::fs::write(proxy.file("breakwater.toml"), upstream(&redis.url())).unwrap();
    proxy.hang_up();
    until("the one Redis is adopted", || shows(&proxy, "keyless", &[&redis.port().to_string()]));
    // One that is no cluster is not taken for one.
    let wrong = format!("redis-cluster://127.0.0.1:{}", redis.port());
    std::fs::write(proxy.file("breakwater.toml"), upstream(&wrong)).unwrap();
    proxy.hang_up();
    until("the wrong kind is refused", || proxy.log().contains("it is no cluster"));
    assert_eq!(proxy.http("/readyz").0, 200);
}

#[test]
fn however_much_is_amiss_four_questions_a_second_are_enough() {
    let mut cluster = Cluster::start(3, 0);
    let proxy = Proxy::before(&cluster.url()).ready();
    until("the map is there", || owner(&proxy, 0) == Some(cluster.port(0)));
    let mut mover = cluster.mover();
    cluster.kill(2);
    let questions = |cluster: &Cluster| -> u64 {
        let all = ["cluster|nodes", "cluster|shards", "cluster|slots"];
        all.iter().map(|command| cluster.calls(command)).sum()
    };
    let (before, began) = (questions(&cluster), Instant::now());
    // A third of the slots changes its owner at once, another third has none that lives.
    mover.give_empty(&(0..5461).collect::<Vec<u16>>(), 0, 1);
    let mut client = proxy.client();
    while began.elapsed() < Duration::from_secs(4) {
        let words: String = (0..500).map(|i| format!("GET key{i}\r\n")).collect();
        client.send(&words);
        // Errors are due: a third of the keys cannot be reached.
        drop(client.frames(500));
    }
    until("the map has the new owner", || owner(&proxy, 5460) == Some(cluster.port(1)));
    let asked = questions(&cluster).saturating_sub(before);
    // The first and the last second may lie anywhere.
    let most = 4 * (began.elapsed().as_secs() + 2);
    println!("{asked} questions in {:?}, at most {most}", began.elapsed());
    assert!((1..=most).contains(&asked), "{asked} questions, at most {most}");
}

#[test]
fn functions_are_loaded_into_primaries_that_have_none() {
    let mut cluster = Cluster::start(3, 0);
    let upstream = format!("[upstream]\nurl = \"{}\"\nrestore_functions = true\n", cluster.url());
    let proxy = Proxy::configured(&upstream).ready();
    until("the map is there", || owner(&proxy, 0) == Some(cluster.port(0)));
    let code = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)";
    assert_eq!(proxy.client().call(&["FUNCTION", "LOAD", code]), b"$5\r\nmylib\r\n");
    let has_it = |cluster: &Cluster, i| cluster.node(i).text("FUNCTION LIST").contains("mylib");
    until("every shard has it", || (0..3).all(|i| has_it(&cluster, i)));
    // One comes back without its memory, another one joins that never had any.
    cluster.kill(1);
    cluster.restart(1);
    until("the one that came back has it again", || has_it(&cluster, 1));
    let new = cluster.add_node();
    until("the one that joined has it", || has_it(&cluster, new));
    // Somebody who deletes it there means it.
    assert_eq!(cluster.node(2).text("FUNCTION DELETE mylib"), "+OK\r\n");
    assert!(!has_it(&cluster, 2));
    until("it is counted", || proxy.metric("breakwater_libraries_restored_total") == 2.0);
}

#[test]
fn a_cluster_may_move_away_from_its_seeds_and_come_back_to_them() {
    let mut cluster = Cluster::start(1, 0);
    let proxy = Proxy::before(&cluster.url()).ready();
    let everything: Vec<u16> = (0..16384).collect();
    let new = cluster.add_node();
    cluster.mover().give_empty(&everything, 0, new);
    until("the slots have moved", || owner(&proxy, 0) == Some(cluster.port(new)));
    cluster.settle();
    cluster.forget(0);
    let old = format!("127.0.0.1:{} ", cluster.port(0));
    until("the seed is no member", || !shows(&proxy, "node ", &[&old]));
    assert_eq!(proxy.http("/readyz").0, 200);
    // Everybody who is known dies, and at the seed's address there is somebody again.
    cluster.restart(0);
    assert!(cluster.node(0).text("CLUSTER RESET HARD").starts_with("+OK"));
    assert!(cluster.node(0).text("CLUSTER ADDSLOTSRANGE 0 16383").starts_with("+OK"));
    cluster.kill(new);
    until("the seed is asked again", || owner(&proxy, 0) == Some(cluster.port(0)));
    assert_eq!(proxy.metric("breakwater_cluster_generations_total"), 1.0);
}

/// What the log tells to be done, as a shell would be given it.
fn repairs(proxy: &Proxy, about: &str) -> Vec<String> {
    let log = proxy.log();
    let lines = log.lines().filter(|line| line.contains(about));
    let commands = lines.filter_map(|line| line.split_once("epair").map(|(_, rest)| rest));
    // The fields of the log line stand behind its words.
    let cut = |rest: &str| -> Option<String> {
        let command = rest.split_once("redis-cli")?.1;
        let end = [" slot=", " keys="].iter().filter_map(|field| command.find(field)).min();
        Some(format!("redis-cli{}", &command[..end.unwrap_or(command.len())]))
    };
    commands.filter_map(cut).collect()
}

/// Executes them word for word.
fn execute(repair: &str) {
    let output = Command::new("sh").args(["-c", repair]).output().expect("a shell");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{repair}\n{shown}");
}

/// Two hundred keys of the slot `tag` stands for, a quarter of them moved from `from` to `to`.
fn move_by_half(cluster: &Cluster, tag: &str, slot: u16, from: usize, to: usize) {
    let mut client = cluster.node(from);
    for i in 0..KEYS {
        assert_eq!(client.text(&format!("SET {tag}{i} v")), "+OK\r\n");
    }
    let mut mover = cluster.mover();
    mover.open(slot, from, to);
    assert_eq!(mover.move_keys(slot, from, to, KEYS / 4), KEYS / 4);
}

#[test]
fn half_moved_slots_are_named_and_the_printed_repairs_bring_every_key_back() {
    let cluster = Cluster::start_unhurried();
    let proxy = Proxy::before(&cluster.url()).ready();
    let (closed, closed_slot) = ("{closed}", slot_of(&cluster, "{closed}"));
    assert_eq!(slot_of(&cluster, TAG), TAG_SLOT);
    let [from, closed_from] = [TAG_SLOT, closed_slot].map(|slot| cluster.owner(slot));
    move_by_half(&cluster, TAG, TAG_SLOT, from, (from + 1) % 3);
    move_by_half(&cluster, closed, closed_slot, closed_from, (closed_from + 1) % 3);
    let mut mover = cluster.mover();
    mover.stable(closed_slot, closed_from);
    mover.stable(closed_slot, (closed_from + 1) % 3);
    until("the open slot is seen", || proxy.metric("breakwater_migrations_open") == 1.0);
    assert!(shows(&proxy, &format!("slot {TAG_SLOT} moves from"), &[]));
    named("the keys left behind are counted", || {
        proxy.metric_of("breakwater_orphaned_keys", "all") == (KEYS / 4) as f64
    });
    until("it stands still", || proxy.metric("breakwater_migration_age_seconds") > 40.0);
    named("it is called failed", || proxy.metric("breakwater_migrations_failed") == 1.0);
    let mut commands = repairs(&proxy, "cannot be found");
    commands.extend(repairs(&proxy, "half moved"));
    assert_eq!(commands.len(), 2, "{}", proxy.log());
    commands.iter().for_each(|command| execute(command));
    for (tag, slot) in [(TAG, TAG_SLOT), (closed, closed_slot)] {
        let mut client = cluster.node(cluster.owner(slot));
        for i in 0..KEYS {
            assert_eq!(client.text(&format!("GET {tag}{i}")), "$1\r\nv\r\n", "{tag}{i}");
        }
    }
    named("nothing is amiss any more", || {
        ["breakwater_migrations_open", "breakwater_migrations_failed", "breakwater_orphaned_keys"]
            .iter()
            .all(|name| proxy.metric(name) == 0.0)
    });
}

/// Waits for what is promised within two minutes. The first count of keys may be a minute away, and the second one of
/// what was found takes some seconds.
fn named(what: &str, mut condition: impl FnMut() -> bool) {
    eventually_within(Duration::from_secs(120), what, || condition().then_some(()));
}

fn slot_of(cluster: &Cluster, tag: &str) -> u16 {
    let reply = cluster.node(0).text(&format!("CLUSTER KEYSLOT {tag}"));
    reply.trim_start_matches(':').trim_end().parse().expect("a slot")
}

/// Keys in a slot that is moved by half.
const KEYS: usize = 200;

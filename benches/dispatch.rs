//! How long a command takes through the synchronous core: lookup, slot, and the whole way there and back.
//!
//! Owns the choice of commands. A round is everything of a GET but the sockets: scanned, resolved, queued on a
//! lane, its reply framed and settled, the client's bytes taken. It is reported for each command of the batch.

#[allow(dead_code)] // Each benchmark uses its part.
mod rig;

use std::hint::black_box;
use std::time::Duration;

use breakwater::command::table::Table;
use breakwater::route::slot;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("look up");
    let table = Table::builtin();
    let inputs = [
        ("GET", rig::get()),
        ("zrangebyscore", rig::command(&[b"zrangebyscore", b"k", b"0", b"1"])),
        ("CONFIG GET", rig::command(&[b"CONFIG", b"GET", b"maxmemory"])),
        ("unknown", rig::command(&[b"NOSUCHCOMMAND", b"k"])),
    ];
    for (name, input) in inputs {
        rig::with_command(&input, |command| {
            group.bench_function(name, |bencher| {
                bencher.iter(|| rig::look_up(&table, black_box(command)).map(|spec| spec.id));
            });
        });
    }
}

fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slot");
    for (name, key) in
        [("21 B", &b"user:000000012345:tag"[..]), ("hash tag", b"{user:12345}:session")]
    {
        group.bench_function(name, |bencher| bencher.iter(|| slot::slot(black_box(key))));
    }
}

fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("GET 64 B, there and back");
    for pipeline in [1, 64] {
        let mut rig = rig::Rig::new();
        let commands = rig::get().repeat(pipeline);
        let replies = rig::bulk(64).repeat(pipeline);
        group.throughput(Throughput::Elements(pipeline as u64));
        group.bench_function(format!("P={pipeline}"), |bencher| {
            bencher.iter(|| rig.round(black_box(&commands), black_box(&replies)));
        });
    }
}

/// Short, because there are many: an effect that needs more is looked for with `instructions`.
fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
}

criterion_group! { name = dispatch; config = settings(); targets = lookup, route, rounds }
criterion_main!(dispatch);

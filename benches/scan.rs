//! How long the scanners take: requests as clients send them, replies as nodes send them.
//!
//! Owns the inputs and nothing else. A pipeline is reported by its bytes, so that one command of many can be
//! compared with one alone. Wall time on a shared machine is noisy; `instructions` counts what does not change.

#[allow(dead_code)] // Each benchmark uses its part.
mod rig;

use std::hint::black_box;
use std::time::Duration;

use breakwater::resp::limits::Limits;
use breakwater::resp::reply::ReplyScanner;
use breakwater::resp::request::RequestScanner;
use breakwater::resp::write;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan request");
    let inputs = [
        ("GET", rig::get()),
        ("SET k v EX 60", rig::command(&[b"SET", b"key:000000012345", b"value", b"EX", b"60"])),
        ("SET 16 KiB", rig::command(&[b"SET", b"key:000000012345", &[b'x'; 16 << 10]])),
        ("64 GETs", rig::get().repeat(64)),
        ("inline GET", b"GET key:000000012345\r\n".to_vec()),
    ];
    for (name, input) in inputs {
        let (mut scanner, limits) = (RequestScanner::default(), Limits::default());
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| rig::scan_requests(&mut scanner, &limits, black_box(&input)));
        });
    }
}

fn replies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan reply");
    let mut array = Vec::new();
    write::array_header(&mut array, 1000);
    array.extend(rig::bulk(64).repeat(1000));
    let inputs = [
        ("OK", b"+OK\r\n".to_vec()),
        ("64 B", rig::bulk(64)),
        ("16 KiB", rig::bulk(16 << 10)),
        ("64 of 64 B", rig::bulk(64).repeat(64)),
        ("array of 1,000", array),
    ];
    for (name, input) in inputs {
        let mut scanner = ReplyScanner::default();
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| rig::scan_replies(&mut scanner, black_box(&input)));
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

criterion_group! { name = scan; config = settings(); targets = requests, replies }
criterion_main!(scan);

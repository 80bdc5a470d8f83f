//! The parts that do no I/O, each alone, so that a later change can be compared with today:
//!
//! ```sh
//! cargo bench -p nudge-tests --bench pure -- --save-baseline today
//! cargo bench -p nudge-tests --bench pure -- --baseline today
//! ```

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nudge_protocol::{
    EntityId, EntityName, Version, WriteToken,
    digest::{Digest, RangeRow},
    subject::{decode_subject, subject},
};
use nudge_subscriber_kit::internals::pass_through_the_queue;

/// Rows of a digest: as many as a page of a comparison.
const ROWS: usize = 4_096;
/// Keys in a work queue.
const KEYS: usize = 10_000;
/// How often each key is pushed where notifications coalesce.
const TIMES: usize = 10;

fn id(text: &str) -> EntityId {
    EntityId::new(text).expect("a valid ID")
}

fn names(c: &mut Criterion) {
    let store = EntityName::new("store").expect("a valid name");
    let mut group = c.benchmark_group("an ID in a subject");
    for (what, id) in [("plain", id("store-0000042")), ("encoded", id("망원동 달빛국수.1"))]
    {
        let text = subject(&store, &id);
        group.bench_function(format!("{what}, written"), |b| {
            b.iter(|| subject(&store, black_box(&id)))
        });
        group.bench_function(format!("{what}, read"), |b| {
            b.iter(|| decode_subject(&store, black_box(&text)))
        });
    }
    group.finish();
    let version = Version::new(1_800_000_000_000_000).expect("a valid version");
    let token = WriteToken { entity: store, id: id("store-0000042"), version };
    let text = token.to_string();
    c.bench_function("a write token, written", |b| b.iter(|| black_box(&token).to_string()));
    c.bench_function("a write token, read", |b| b.iter(|| black_box(&text).parse::<WriteToken>()));
}

fn digests(c: &mut Criterion) {
    let row = |n: usize| {
        let version = Version::new(1_800_000_000_000_000 + n as u64).expect("a valid version");
        RangeRow { id: id(&format!("store-{n:07}")), version, deleted: n.is_multiple_of(50) }
    };
    let rows: Vec<_> = (0..ROWS).map(row).collect();
    let mut group = c.benchmark_group("a digest");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("of a page", |b| b.iter(|| Digest::of(black_box(&rows))));
    group.finish();
}

fn queue(c: &mut Criterion) {
    let keys: Vec<_> = (0..KEYS).map(|n| id(&format!("store-{n:07}"))).collect();
    let often: Vec<_> = (0..TIMES).flat_map(|_| keys.iter().cloned()).collect();
    let mut group = c.benchmark_group("the work queue");
    for (what, keys) in [("each key once", &keys), ("each key ten times", &often)] {
        group.throughput(Throughput::Elements(keys.len() as u64));
        group.bench_function(what, |b| {
            b.iter(|| assert_eq!(pass_through_the_queue(black_box(keys)), KEYS));
        });
    }
    group.finish();
}

criterion_group!(pure, names, digests, queue);
criterion_main!(pure);

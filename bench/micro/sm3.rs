//! SM3 of many streams on every back end this CPU has: log leaves, Merkle pairs, short messages of
//! unequal lengths; and one stream alone. RustCrypto's stands beside them in the same run.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hufu_crypto::{Backend, Digest, Sm3, software_provider_on};

/// Bytes hashed by one call.
const BYTES: usize = 1 << 20;

fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

fn many(criterion: &mut Criterion) {
    let bytes: Vec<u8> = (0..BYTES).map(|place| (place % 251).to_le_bytes()[0]).collect();
    for (shape, messages) in [
        ("streams_16x16384", bytes.chunks(16 << 10).take(16).collect::<Vec<_>>()),
        ("leaves_4096", bytes.chunks(4_096).collect()),
        ("short_60_to_188", unequal(&bytes)),
    ] {
        let size: usize = messages.iter().map(|message| message.len()).sum();
        let mut digests = vec![Digest::ZERO; messages.len()];
        let mut group = criterion.benchmark_group(format!("kernels::sm3_many/shape={shape}"));
        group.throughput(Throughput::Bytes(size as u64));
        for backend in backends() {
            let hasher = software_provider_on(backend).hasher;
            group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
                bencher.iter(|| hasher.digest_many(black_box(&messages), &mut digests));
            });
        }
    }
}

/// Messages of 60 to 188 bytes in an order without pattern: what state keys and rows look like.
fn unequal(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut messages, mut number) = (bytes, Vec::new(), 1_usize);
    while rest.len() >= 200 {
        number = number * 75 % 65_537;
        let (message, others) = rest.split_at(60 + number % 129);
        messages.push(message);
        rest = others;
    }
    messages
}

fn pairs(criterion: &mut Criterion) {
    let pairs: Vec<[Digest; 2]> =
        (0..BYTES / 64).map(|number| [Sm3::of(&[&number.to_le_bytes()]); 2]).collect();
    let mut parents = vec![Digest::ZERO; pairs.len()];
    let mut group = criterion.benchmark_group("kernels::sm3_pairs");
    group.throughput(Throughput::Elements(pairs.len() as u64));
    for backend in backends() {
        let hasher = software_provider_on(backend).hasher;
        group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
            bencher.iter(|| hasher.digest_pairs(black_box(&pairs), &mut parents));
        });
    }
    group.bench_function("rustcrypto", |bencher| {
        bencher.iter(|| {
            for (parent, [left, right]) in parents.iter_mut().zip(black_box(&pairs)) {
                let hasher = <sm3::Sm3 as sm3::Digest>::new_with_prefix(left.0);
                parent.0 = sm3::Digest::finalize(sm3::Digest::chain_update(hasher, right.0)).into();
            }
        });
    });
}

fn one(criterion: &mut Criterion) {
    let bytes = vec![7; 16 << 10];
    let mut group = criterion.benchmark_group("kernels::sm3_one");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("portable", |bencher| bencher.iter(|| Sm3::of(&[black_box(&bytes)])));
    group.bench_function("rustcrypto", |bencher| {
        bencher.iter(|| <sm3::Sm3 as sm3::Digest>::digest(black_box(&bytes)));
    });
}

criterion_group!(benches, many, pairs, one);
criterion_main!(benches);

//! SM4 in CTR and GCM on every back end this CPU has, and RustCrypto's beside them in the same run;
//! CBC, of which one stream is a chain and many are not.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ctr::cipher::{BlockCipherEncrypt as _, KeyInit as _, KeyIvInit as _, StreamCipher as _};
use ghash::GHash;
use ghash::universal_hash::UniversalHash as _;
use hufu_crypto::cipher::{BLOCK_SIZE, CbcStream, cbc_encrypt_many, ctr};
use hufu_crypto::{Backend, Sm4Key, software_provider_on};

/// Bytes of a message.
const BYTES: usize = 16 << 10;

const KEY: [u8; BLOCK_SIZE] = [7; BLOCK_SIZE];
const NONCE: [u8; 12] = [3; 12];

fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

fn counters(criterion: &mut Criterion) {
    let key = Sm4Key::from_bytes(&KEY);
    let mut data = vec![0x5a; BYTES];
    let mut group = criterion.benchmark_group("kernels::sm4_ctr");
    group.throughput(Throughput::Bytes(BYTES as u64));
    for backend in backends() {
        group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
            bencher.iter(|| ctr(backend, &key, &[0; BLOCK_SIZE], black_box(&mut data)));
        });
    }
    group.bench_function("rustcrypto", |bencher| {
        bencher.iter(|| {
            ctr::Ctr128BE::<sm4::Sm4>::new((&KEY).into(), &[0; BLOCK_SIZE].into())
                .apply_keystream(black_box(&mut data));
        });
    });
}

fn sealed(criterion: &mut Criterion) {
    let mut data = vec![0x5a; BYTES];
    let mut group = criterion.benchmark_group("kernels::sm4_gcm");
    group.throughput(Throughput::Bytes(BYTES as u64));
    for backend in backends() {
        let aead = software_provider_on(backend).cipher.sm4_gcm(&Sm4Key::from_bytes(&KEY));
        group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
            bencher.iter(|| aead.seal(&NONCE, &[], black_box(&mut data)));
        });
    }
    let cipher = sm4::Sm4::new((&KEY).into());
    let mut point = [0; BLOCK_SIZE].into();
    cipher.encrypt_block(&mut point);
    let hash = GHash::new(&point);
    group.bench_function("rustcrypto", |bencher| {
        bencher.iter(|| baseline(&hash, black_box(&mut data)));
    });
}

/// GCM put together from RustCrypto's parts.
fn baseline(hash: &GHash, data: &mut [u8]) -> [u8; BLOCK_SIZE] {
    let mut first = [0; BLOCK_SIZE];
    first[..NONCE.len()].copy_from_slice(&NONCE);
    first[BLOCK_SIZE - 1] = 1;
    let mut stream = ctr::Ctr32BE::<sm4::Sm4>::new((&KEY).into(), &first.into());
    let mut tag = [0; BLOCK_SIZE];
    stream.apply_keystream(&mut tag);
    stream.apply_keystream(data);
    let mut hash = hash.clone();
    hash.update_padded(data);
    hash.update(&[(8 * data.len() as u128).to_be_bytes().into()]);
    for (byte, hashed) in tag.iter_mut().zip(hash.finalize()) {
        *byte ^= hashed;
    }
    tag
}

fn chains(criterion: &mut Criterion) {
    let key = Sm4Key::from_bytes(&KEY);
    for count in [1, 64] {
        let mut data = vec![[[0x5a; BLOCK_SIZE]; BYTES / BLOCK_SIZE]; count];
        let mut group = criterion.benchmark_group(format!("kernels::sm4_cbc/streams={count}"));
        group.throughput(Throughput::Bytes((count * BYTES) as u64));
        for backend in backends() {
            group.bench_function(BenchmarkId::from_parameter(backend.name()), |bencher| {
                bencher.iter(|| {
                    let mut streams: Vec<CbcStream<'_>> = data
                        .iter_mut()
                        .map(|blocks| CbcStream { chain: [0; BLOCK_SIZE], blocks })
                        .collect();
                    cbc_encrypt_many(backend, &key, &mut streams);
                });
            });
        }
    }
}

criterion_group!(benches, counters, sealed, chains);
criterion_main!(benches);

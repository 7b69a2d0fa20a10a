//! Values of the state store, encrypted and in clear: a block that writes 10,000 holdings, and one
//! that reads as many.

use std::cell::Cell;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hufu_bench::must;
use hufu_crypto::software_provider;
use hufu_ledger::{Holding, StateKey, StateValue};
use hufu_load::setup::cash;
use hufu_storage::block_log::RecordPosition;
use hufu_storage::keyring::{DataKey, Keyring};
use hufu_storage::state_store::{AppliedMark, Family, StateBatch, StateStore, StateStoreOptions};
use hufu_types::{Address, Digest};

/// Holdings of one block.
const COUNT: u64 = 10_000;

/// Holdings of the state that a block's are spread over.
const STATE_COUNT: u64 = 100_000;

fn key(index: u64) -> Vec<u8> {
    let mut address = [0; 20];
    for (place, byte) in address.iter_mut().zip(index.to_le_bytes()) {
        *place = byte;
    }
    StateKey::Holding(Address(address), cash()).to_bytes().as_slice().to_vec()
}

/// The holdings of the block of a height, and their new balance.
fn keys(height: u64) -> impl Iterator<Item = Vec<u8>> {
    (0..COUNT).map(move |index| key((index * 7_919 + height * 104_729) % STATE_COUNT))
}

fn batch(height: u64) -> StateBatch {
    let mut batch = StateBatch::new();
    let value = StateValue::Holding(Holding { balance: u128::from(height), frozen: false });
    for key in keys(height) {
        batch.put(Family::Accounts, key, value.to_bytes().as_slice());
    }
    batch
}

fn mark(height: u64) -> AppliedMark {
    let position =
        RecordPosition { sequence: height, segment: 0, group_offset: 4_096, record_offset: 256 };
    AppliedMark {
        height,
        block_digest: Digest::ZERO,
        log_position: position,
        replay_from: position,
        state_root: Digest::ZERO,
    }
}

fn state_store(criterion: &mut Criterion) {
    let provider = software_provider();
    let ring = Keyring::new(DataKey::new(&[1; 32]), Vec::new(), &provider);
    for (name, keyring) in [("sm4-gcm", Some(ring)), ("none", None)] {
        let folder = must(tempfile::tempdir());
        let mut options = StateStoreOptions::new(folder.path());
        options.keys = keyring;
        let store = must(StateStore::open(&options));
        let height = Cell::new(0);
        let next = || {
            height.set(height.get() + 1);
            height.get()
        };
        for _ in 0..STATE_COUNT / COUNT {
            let height = next();
            must(store.commit(batch(height), &mark(height)));
        }
        let mut group = criterion.benchmark_group("storage");
        group.throughput(Throughput::Elements(COUNT)).sample_size(20);
        group.bench_function(format!("state_commit/count={COUNT} encryption={name}"), |bencher| {
            let setup = || {
                let height = next();
                (batch(height), mark(height))
            };
            let commit = |(batch, mark)| must(store.commit(batch, &mark));
            bencher.iter_batched(setup, commit, BatchSize::PerIteration);
        });
        must(store.flush());
        group.bench_function(
            format!("state_multi_get/count={COUNT} encryption={name}"),
            |bencher| {
                let setup = || keys(next()).collect::<Vec<_>>();
                let read = |keys: Vec<_>| must(store.multi_get(Family::Accounts, &keys));
                bencher.iter_batched(setup, read, BatchSize::PerIteration);
            },
        );
        group.finish();
    }
}

criterion_group!(benches, state_store);
criterion_main!(benches);

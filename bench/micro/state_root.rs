//! The state root: 10,000 updates on a state of 2^20 entries in 2^20 buckets, the shape of `jmt`
//! and others in published comparisons.

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use hufu_bench::must;
use hufu_crypto::software_provider;
use hufu_ledger::{Holding, StateChanges, StateKey, StateTree, StateValue, Write};
use hufu_load::setup::cash;
use hufu_types::{Address, ChainId};

/// Logarithm of the number of buckets and of entries.
const LOG2: u8 = 20;

/// Entries that one block changes.
const UPDATES: u64 = 10_000;

fn write(index: u64, balance: u128) -> Write {
    let mut address = [0; 20];
    for (place, byte) in address.iter_mut().zip(index.to_le_bytes()) {
        *place = byte;
    }
    let value = StateValue::Holding(Holding { balance, frozen: false });
    Write { key: StateKey::Holding(Address(address), cash()), value: Some(value) }
}

fn state_root(criterion: &mut Criterion) {
    let provider = software_provider();
    let hasher = &*provider.hasher;
    let mut tree = StateTree::new(ChainId::ZERO, LOG2, hasher);
    let all: Vec<Write> = (0..1 << LOG2).map(|index| write(index, 1)).collect();
    let changes = StateChanges::new(ChainId::ZERO, LOG2, &all, hasher);
    let applied = must(tree.apply(&changes, changes.buckets().map(|_| [0_u8; 0]), hasher));
    let mut rows = vec![Vec::new(); 1 << LOG2];
    for (bucket, row) in applied.rows() {
        row.clone_into(&mut rows[must(usize::try_from(bucket))]);
    }
    drop((all, changes, applied));
    let stride = (1 << LOG2) / UPDATES;
    let updates: Vec<Write> = (0..UPDATES).map(|index| write(index * stride, 2)).collect();
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(UPDATES));
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    group.bench_function(format!("state_root/updates={UPDATES} leaves=2^{LOG2}"), |bencher| {
        bencher.iter(|| {
            let changes = StateChanges::new(ChainId::ZERO, LOG2, &updates, hasher);
            let current: Vec<&[u8]> = changes
                .buckets()
                .map(|bucket| rows[must(usize::try_from(bucket))].as_slice())
                .collect();
            must(tree.apply(&changes, current, hasher)).root
        });
    });
    group.finish();
}

criterion_group!(benches, state_root);
criterion_main!(benches);

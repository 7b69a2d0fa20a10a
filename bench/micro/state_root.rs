//! The state root: 10,000 updates on a state of 2^20 entries in 2^20 buckets, the shape of `jmt`
//! and others in published comparisons. Each update checks the value and the row it replaces.

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use hufu_bench::must;
use hufu_crypto::{Hasher, software_provider};
use hufu_ledger::{Applied, Holding, StateChanges, StateKey, StateTree, StateValue, Write};
use hufu_load::setup::cash;
use hufu_types::{Address, ChainId};

/// Logarithm of the number of buckets and of entries.
const LOG2: u8 = 20;

/// Entries that one block changes.
const UPDATES: u64 = 10_000;

fn write(index: u64, before: Option<u128>, balance: u128) -> Write {
    let mut address = [0; 20];
    for (place, byte) in address.iter_mut().zip(index.to_le_bytes()) {
        *place = byte;
    }
    let value = |balance| StateValue::Holding(Holding { balance, frozen: false });
    let key = StateKey::Holding(Address(address), cash());
    Write { key, before: before.map(value), value: Some(value(balance)) }
}

/// Applies writes to the tree, whose rows are all at the tops of their buckets.
fn apply(tree: &mut StateTree, rows: &[Vec<u8>], writes: &[Write], hasher: &dyn Hasher) -> Applied {
    let changes = StateChanges::new(ChainId::ZERO, LOG2, writes, hasher);
    let mut update = tree.update(&changes);
    while !update.wanted().is_empty() {
        let wanted = update.wanted().iter();
        let records: Vec<Option<&[u8]>> =
            wanted.map(|place| Some(rows[number(place.bucket())].as_slice())).collect();
        must(update.supply(records, hasher));
    }
    must(tree.apply(&update, hasher))
}

fn number(bucket: u32) -> usize {
    must(usize::try_from(bucket))
}

fn keep(rows: &mut [Vec<u8>], applied: &Applied) {
    for (place, record) in applied.records() {
        assert_eq!(place.depth(), 0, "no bucket has more entries than a row takes");
        rows[number(place.bucket())] = record.unwrap_or_default().to_vec();
    }
}

fn state_root(criterion: &mut Criterion) {
    let provider = software_provider();
    let hasher = &*provider.hasher;
    let mut tree = StateTree::new(ChainId::ZERO, LOG2, hasher);
    let all: Vec<Write> = (0..1 << LOG2).map(|index| write(index, None, 1)).collect();
    let mut rows = vec![Vec::new(); 1 << LOG2];
    let applied = apply(&mut tree, &rows, &all, hasher);
    keep(&mut rows, &applied);
    drop((all, applied));
    // A block and the one that takes it back, so that every round finds the rows it needs without
    // storing any.
    let stride = (1 << LOG2) / UPDATES;
    let updates = |from, to| (0..UPDATES).map(move |index| write(index * stride, Some(from), to));
    let there: Vec<Write> = updates(1, 2).collect();
    let back: Vec<Write> = updates(2, 1).collect();
    let mut rows_there = rows.clone();
    keep(&mut rows_there, &apply(&mut tree, &rows, &there, hasher));
    let mut is_there = true;
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(UPDATES));
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    group.bench_function(format!("state_root/updates={UPDATES} leaves=2^{LOG2}"), |bencher| {
        bencher.iter(|| {
            is_there = !is_there;
            let (rows, writes) = if is_there { (&rows, &there) } else { (&rows_there, &back) };
            apply(&mut tree, rows, writes, hasher).root
        });
    });
    group.finish();
}

criterion_group!(benches, state_root);
criterion_main!(benches);

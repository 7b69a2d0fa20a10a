//! The state root: 10,000 updates on a state of 2^20 entries in 2^20 buckets, the shape of `jmt`
//! and others in published comparisons. Each update checks the value and the row it replaces.

use std::collections::HashMap;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use hufu_bench::must;
use hufu_crypto::{Hasher, software_provider};
use hufu_ledger::{Applied, Holding, Place, StateChanges, StateKey, StateTree, StateValue, Write};
use hufu_load::setup::cash;
use hufu_types::{Address, ChainId};

/// Logarithm of the number of buckets and of entries.
const LOG2: u8 = 20;

/// Logarithm of the number of buckets of a crowded state: 65,536 entries in each.
const CROWDED_BUCKETS_LOG2: u8 = 4;

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

/// Applies writes to the tree, with its records as `stored` finds them.
fn apply<'r>(
    tree: &mut StateTree,
    mut stored: impl FnMut(Place) -> Option<&'r [u8]>,
    writes: &[Write],
    hasher: &dyn Hasher,
) -> Applied {
    let changes = StateChanges::new(ChainId::ZERO, tree.log2(), writes, hasher);
    let mut update = tree.update(&changes);
    while !update.wanted().is_empty() {
        let records: Vec<_> = update.wanted().iter().map(|place| stored(*place)).collect();
        must(update.supply(records, hasher));
    }
    must(tree.apply(&update, hasher))
}

/// Gives records in the order in which they are wanted, as a store does.
fn fetched<'r>(rows: &'r [Vec<u8>]) -> impl FnMut(Place) -> Option<&'r [u8]> {
    let mut rows = rows.iter();
    move |_| rows.next().map(Vec::as_slice)
}

/// The records after a block that touches nothing but the tops of buckets, in their order.
fn tops(applied: &Applied) -> Vec<Vec<u8>> {
    let records = applied.records().map(|(place, record)| {
        assert_eq!(place.depth(), 0, "no bucket has more entries than a row takes");
        record.unwrap_or_default().to_vec()
    });
    records.collect()
}

fn state_root(criterion: &mut Criterion) {
    let provider = software_provider();
    let hasher = &*provider.hasher;
    let mut tree = StateTree::new(ChainId::ZERO, LOG2, hasher);
    let all: Vec<Write> = (0..1 << LOG2).map(|index| write(index, None, 1)).collect();
    let applied = apply(&mut tree, |_| None, &all, hasher);
    let rows: HashMap<Place, Vec<u8>> =
        applied.records().map(|(place, row)| (place, row.unwrap_or_default().to_vec())).collect();
    drop((all, applied));
    // A block and the one that takes it back, so that every round finds the rows it needs without
    // storing any.
    let stride = (1 << LOG2) / UPDATES;
    let updates = |from, to| (0..UPDATES).map(move |index| write(index * stride, Some(from), to));
    let there: Vec<Write> = updates(1, 2).collect();
    let back: Vec<Write> = updates(2, 1).collect();
    let stored = |place| rows.get(&place).map(Vec::as_slice);
    let rows_there = tops(&apply(&mut tree, stored, &there, hasher));
    let rows_back = tops(&apply(&mut tree, fetched(&rows_there), &back, hasher));
    let mut is_there = false;
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(UPDATES));
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    group.bench_function(format!("state_root/updates={UPDATES} leaves=2^{LOG2}"), |bencher| {
        bencher.iter(|| {
            is_there = !is_there;
            let (rows, writes) = if is_there { (&rows_back, &there) } else { (&rows_there, &back) };
            apply(&mut tree, fetched(rows), writes, hasher).root
        });
    });
    group.finish();
}

/// One update among so many entries that a bucket is what an attacker with much patience makes it.
fn crowded(criterion: &mut Criterion) {
    let provider = software_provider();
    let hasher = &*provider.hasher;
    let mut tree = StateTree::new(ChainId::ZERO, CROWDED_BUCKETS_LOG2, hasher);
    let all: Vec<Write> = (0..1 << LOG2).map(|index| write(index, None, 1)).collect();
    let mut records: HashMap<Place, Vec<u8>> = HashMap::new();
    let applied = apply(&mut tree, |_| None, &all, hasher);
    let keep = |records: &mut HashMap<Place, Vec<u8>>, applied: &Applied| {
        records.extend(applied.records().map(|(at, one)| (at, one.unwrap_or_default().to_vec())));
    };
    keep(&mut records, &applied);
    drop((all, applied));
    let (there, back) = ([write(7, Some(1), 2)], [write(7, Some(2), 1)]);
    let mut records_there = records.clone();
    let stored = |at: Place| records.get(&at).map(Vec::as_slice);
    keep(&mut records_there, &apply(&mut tree, stored, &there, hasher));
    let stored_there = |at: Place| records_there.get(&at).map(Vec::as_slice);
    let name = format!("state_root/updates=1 leaves=2^{LOG2} buckets=2^{CROWDED_BUCKETS_LOG2}");
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(2));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let root = apply(&mut tree, stored_there, &back, hasher).root;
            assert_ne!(root, apply(&mut tree, stored, &there, hasher).root);
        });
    });
    group.finish();
}

criterion_group!(benches, state_root, crowded);
criterion_main!(benches);

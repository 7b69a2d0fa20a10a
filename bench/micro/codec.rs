//! Encoding: building, parsing and batching transactions.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hufu_bench::{Chain, must};
use hufu_load::sign::unsigned_bytes;
use hufu_load::{Action, Replay, SyntheticHour, Task};
use hufu_types::{Address, Batch, BatchBuilder, TransactionView};

/// Transactions of the batch that is parsed and sealed.
const BATCH_COUNT: usize = 1_024;

fn tasks() -> Vec<Task> {
    let events = SyntheticHour::new(1, 4_000).collect::<Vec<_>>().into();
    must(Replay::new(events, 64, 1, 0)).collect()
}

fn transactions(criterion: &mut Criterion) {
    let chain = Chain::new(64);
    let all = tasks();
    for (kind, is_kind) in [
        ("notarise", (|task| matches!(task.action, Action::Notarise { .. })) as fn(&Task) -> bool),
        ("settle", |task| matches!(task.action, Action::Settle(_))),
    ] {
        let tasks: Vec<Task> = all.iter().copied().filter(is_kind).take(1).collect();
        let made = chain.transactions(&tasks);
        let (Some(task), Some(transaction)) = (tasks.first(), made.first()) else { continue };
        criterion.bench_function(&format!("types::transaction_build/kind={kind}"), |bencher| {
            bencher.iter(|| unsigned_bytes(black_box(task), chain.cast(), chain.id(), 500));
        });
        criterion.bench_function(&format!("types::transaction_parse/kind={kind}"), |bencher| {
            bencher.iter(|| TransactionView::parse(black_box(transaction.bytes())).is_ok());
        });
    }
}

fn batches(criterion: &mut Criterion) {
    let chain = Chain::new(64);
    let tasks: Vec<Task> = tasks().into_iter().take(BATCH_COUNT).collect();
    let verified = chain.verified(chain.transactions(&tasks));
    let hasher = &*chain.provider().hasher;
    let mut builder = BatchBuilder::new(chain.id(), Address::ZERO);
    let mut group = criterion.benchmark_group("types");
    group.throughput(Throughput::Elements(must(u64::try_from(BATCH_COUNT))));
    group.bench_function(format!("batch_seal/count={BATCH_COUNT}"), |bencher| {
        bencher.iter(|| {
            verified.iter().for_each(|transaction| builder.push(transaction));
            builder.seal(1, hasher)
        });
    });
    verified.iter().for_each(|transaction| builder.push(transaction));
    let bytes = Arc::clone(builder.seal(1, hasher).bytes());
    group.bench_function(format!("batch_parse/count={BATCH_COUNT}"), |bencher| {
        bencher.iter_batched(
            || Arc::clone(&bytes),
            |bytes| must(Batch::parse(bytes, hasher)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = transactions, batches
}
criterion_main!(benches);

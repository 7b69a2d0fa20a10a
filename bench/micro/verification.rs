//! The verification pipeline: digests, SM2, verdicts; and the raw rate of the same verifier on all
//! cores, against which the end-to-end figure is held.

use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use hufu_bench::{Chain, must};
use hufu_crypto::{Digest, Verdict, VerifyItem};
use hufu_load::{Replay, SyntheticHour, Task};
use hufu_types::{Transaction, TransactionBuilder, verify_transactions};
use rayon::prelude::*;

/// Items of one batch: what a verify tile gathers.
const COUNT: usize = 256;

fn transactions(chain: &Chain) -> Vec<Transaction> {
    let events = SyntheticHour::new(1, must(u64::try_from(COUNT))).collect::<Vec<_>>().into();
    let tasks: Vec<Task> = must(Replay::new(events, 64, 1, 0)).collect();
    chain.transactions(&tasks)
}

fn verification(criterion: &mut Criterion) {
    let chain = Chain::new(64);
    let transactions = transactions(&chain);
    let provider = chain.provider();
    let digests: Vec<Digest> = transactions
        .iter()
        .map(|transaction| {
            let sender = &transaction.header().sender;
            TransactionBuilder::signing_digest(transaction.unsigned_bytes(), sender)
        })
        .collect();
    let items: Vec<VerifyItem<'_>> = transactions
        .iter()
        .zip(&digests)
        .map(|(transaction, digest)| VerifyItem {
            key: &transaction.header().sender,
            digest: *digest,
            signature: transaction.signature(),
        })
        .collect();
    let mut group = criterion.benchmark_group("verification");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.throughput(Throughput::Elements(must(u64::try_from(COUNT))));
    group.bench_function(format!("types::verify_transactions/count={COUNT}"), |bencher| {
        bencher.iter_batched(
            || transactions.clone(),
            |transactions| verify_transactions(provider, chain.id(), transactions),
            BatchSize::LargeInput,
        );
    });
    let verify = |items: &[VerifyItem<'_>]| {
        let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
        provider.verifier.verify_many(items, &mut verdicts);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Valid), "honest signatures");
    };
    group.bench_function(format!("crypto::verify_many/count={COUNT} cores=1"), |bencher| {
        bencher.iter(|| verify(&items));
    });
    let cores = rayon::current_num_threads();
    let portion = COUNT.div_ceil(cores * 8);
    group.bench_function(format!("crypto::verify_many/count={COUNT} cores={cores}"), |bencher| {
        bencher.iter(|| items.par_chunks(portion).for_each(verify));
    });
    group.finish();
}

criterion_group!(benches, verification);
criterion_main!(benches);

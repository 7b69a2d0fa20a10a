//! Execution of whole blocks by the ledger's rules on one core: plan, load, execute, merge; state
//! in memory, root apart.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hufu_bench::{Chain, must};
use hufu_load::setup::{cash, shares};
use hufu_load::sign::event_digest;
use hufu_load::{Role, SyntheticHour};

use hufu_types::limits::{BATCH_KEYS_COUNT_MAX, BLOCK_KEYS_COUNT_MAX};
use hufu_types::{Address, Batch, Leg, Operation, Transaction};

/// Transactions of one block.
const COUNT: u16 = 1_024;

/// Brokers of the chain.
const ACCOUNTS: u16 = 64;

fn leg(from: Address, to: Address, asset: hufu_types::AssetCode, amount: u128) -> Leg {
    Leg { asset, from, to, amount: amount.into() }
}

/// A block of one kind of transaction.
fn block(chain: &Chain, kind: &str) -> Vec<Batch> {
    let address = |index: u16| *chain.cast().actor(Role::Broker(index % ACCOUNTS)).address();
    let event = must(SyntheticHour::new(1, 1).next().ok_or("an hour has events"));
    let make = |index: u16| -> Transaction {
        let (from, to) = (address(index), address(index + 1));
        let (broker, nonce) = (Role::Broker(index % ACCOUNTS), u64::from(index));
        match kind {
            "notarise" => chain.transaction(broker, nonce, |builder| {
                let digest = event_digest(&event, nonce);
                builder.operation(Operation::Notarise { digest: &digest, memo: b"memo" })
            }),
            "transfer" => chain.transaction(broker, nonce, |builder| {
                builder.operation(Operation::Transfer(&leg(from, to, cash(), 5)))
            }),
            _ => chain.transaction(Role::ClearingHouse, nonce, |builder| {
                let legs = [leg(from, to, shares(), 3), leg(to, from, cash(), 7)];
                builder.operation(Operation::Settle(&legs))
            }),
        }
    };
    chain.batches((0..COUNT).map(make).collect())
}

/// The block that asks for the most work: as many keys as its limits allow, no two legs with an
/// account or an asset in common, all of it in vain because the sender is a stranger to them.
fn worst(chain: &Chain) -> Vec<Batch> {
    const LEGS: u32 = 85;
    let address = |number: u32, byte: u8| {
        let mut address = Address([byte; 20]);
        address.0[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
        address
    };
    let make = |nonce: u32| {
        let legs: Vec<Leg> = (nonce * LEGS..(nonce + 1) * LEGS)
            .map(|number| {
                let code = format!("A{number}");
                let asset = must(hufu_types::AssetCode::new(&code).ok_or("a code is canonical"));
                leg(address(number, 1), address(number, 2), asset, 1)
            })
            .collect();
        chain.transaction(Role::Broker(0), u64::from(nonce), |builder| {
            builder.operation(Operation::Settle(&legs))
        })
    };
    let per_transaction = make(0).keys_count();
    let (per_batch, most) =
        (BATCH_KEYS_COUNT_MAX / per_transaction, BLOCK_KEYS_COUNT_MAX / BATCH_KEYS_COUNT_MAX);
    let batches = chain.batches((0..per_batch * most).map(make).collect());
    let keys: u32 = batches.iter().map(Batch::keys_count).sum();
    let count = u32::try_from(batches.len()).unwrap_or(u32::MAX);
    assert!(count == most, "as many full batches as a block may order");
    assert!(keys > BLOCK_KEYS_COUNT_MAX / 100 * 95, "nearly as many keys");
    batches
}

fn execution(criterion: &mut Criterion) {
    let chain = Chain::new(ACCOUNTS);
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(u64::from(COUNT))).sample_size(30);
    for kind in ["notarise", "transfer", "settle"] {
        let batches = block(&chain, kind);
        let outcome = chain.execute(&batches);
        assert!(outcome.failures_count == 0, "what is measured succeeds");
        group.bench_function(format!("execute_block/kind={kind} count={COUNT}"), |bencher| {
            bencher.iter(|| chain.execute(&batches));
        });
    }
    let batches = worst(&chain);
    let keys: u32 = batches.iter().map(Batch::keys_count).sum();
    group.throughput(Throughput::Elements(u64::from(keys))).sample_size(10);
    group.bench_function(format!("execute_block/kind=worst keys={keys}"), |bencher| {
        bencher.iter(|| chain.execute(&batches));
    });
    group.finish();
}

criterion_group!(benches, execution);
criterion_main!(benches);

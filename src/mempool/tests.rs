//! The mempool against a naive model, and its rules one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use hufu_crypto::{Provider, Verdict, Verifier, VerifyItem, software_provider};
use hufu_types::limits::{BATCH_SIZE_MAX, TX_VALIDITY_HEIGHTS_MAX};
use hufu_types::{
    Address, Batch, BatchDigest, ChainId, Digest, Operation, PublicKey, RefusalCode, Signature,
    Transaction, TransactionBuilder, Verified, verify_transactions,
};
use proptest::prelude::*;

use super::*;
use crate::hashing::SeededState;

pub(crate) const CHAIN: ChainId = ChainId(Digest([7; 32]));

/// Signatures are not what is tested here.
struct Gullible;

impl Verifier for Gullible {
    fn verify_many(&self, _items: &[VerifyItem<'_>], verdicts: &mut [Verdict]) {
        verdicts.fill(Verdict::Valid);
    }
}

pub(crate) fn transaction(
    sender: u8,
    nonce: u64,
    valid_until: u64,
    signature: u8,
) -> Verified<Transaction> {
    sized_transaction(sender, nonce, valid_until, signature, 1)
}

pub(crate) fn sized_transaction(
    sender: u8,
    nonce: u64,
    valid_until: u64,
    signature: u8,
    operations: u16,
) -> Verified<Transaction> {
    let mut builder = TransactionBuilder::new(CHAIN, PublicKey([sender; 64]), nonce, valid_until);
    for _ in 0..operations {
        builder =
            builder.operation(Operation::Notarise { digest: &Digest([1; 32]), memo: &[0; 32] });
    }
    let transaction = TransactionBuilder::join(builder.unsigned(), &Signature([signature; 64]));
    let provider = Provider { verifier: Arc::new(Gullible), ..software_provider() };
    let mut verified = verify_transactions(&provider, CHAIN, vec![transaction.unwrap()]);
    verified.remove(0).unwrap()
}

fn mempool(config: MempoolConfig) -> Mempool {
    let hasher = software_provider().hasher;
    Mempool::new(config, CHAIN, Address([1; 20]), hasher, 1, 100, 42)
}

fn config() -> MempoolConfig {
    MempoolConfig { batch_transactions_max: 3, batch_wait_nanos: 50, ..MempoolConfig::default() }
}

fn drain(pool: &mut Mempool) -> Vec<Batch> {
    std::iter::from_fn(|| pool.take_sealed()).collect()
}

#[test]
fn refusals_have_their_reasons() {
    let two = MempoolConfig { pending_transactions_max: 2, ..config() };
    let mut pool = mempool(two);
    pool.decided(&[], 1);
    let furthest = 2 + TX_VALIDITY_HEIGHTS_MAX;
    assert_eq!(pool.admit(&transaction(1, 1, 1, 1), 0), Err(RefusalCode::Expired));
    let long = transaction(1, 1, furthest + 1, 1);
    assert_eq!(pool.admit(&long, 0), Err(RefusalCode::ValidityTooLong));
    let first = transaction(1, 1, furthest, 1);
    assert_eq!(pool.admit(&first, 0), Ok(()));
    let copy = transaction(1, 1, furthest, 2);
    assert_eq!(pool.admit(&copy, 0), Err(RefusalCode::Duplicate));
    let other = transaction(1, 1, 5, 1);
    assert_eq!(pool.admit(&other, 0), Err(RefusalCode::Duplicate), "same sender and nonce");
    assert_eq!(pool.admit(&transaction(2, 1, 5, 1), 0), Ok(()));
    let third = transaction(3, 1, 5, 1);
    assert_eq!(pool.admit(&third, 0), Err(RefusalCode::Overloaded));
    pool.seal_now();
    let batch = pool.take_sealed().unwrap();
    pool.decided(&[batch.digest()], 2);
    assert_eq!(pool.admit(&third, 0), Ok(()), "what was refused may come again");
    for height in 3..=5 {
        let duplicate = pool.admit(&transaction(2, 1, 9, 1), 0);
        assert_eq!(duplicate, Err(RefusalCode::Duplicate), "at height {height}");
        pool.decided(&[], height);
    }
    assert_eq!(pool.admit(&transaction(2, 1, 9, 1), 0), Ok(()), "a nonce is free after its window");
    let refused: u64 = pool.counters().refusals().map(|(_, count)| count).sum();
    assert_eq!((pool.counters().transactions_admitted, refused), (4, 8));
}

/// The memory is full of decided transactions that stay valid for 600 heights, nothing is pending,
/// so the chain rests and no height comes: whatever waits for one would wait for ever.
#[test]
fn a_full_memory_does_not_stop_the_chain() {
    let small =
        MempoolConfig { pending_transactions_max: 6, remembered_transactions_max: 6, ..config() };
    let mut pool = mempool(small);
    let furthest = 1 + TX_VALIDITY_HEIGHTS_MAX;
    for nonce in 0..6 {
        pool.admit(&transaction(1, nonce, furthest, 1), 0).unwrap();
    }
    let batches: Vec<BatchDigest> = drain(&mut pool).iter().map(Batch::digest).collect();
    pool.decided(&batches, 1);
    assert!(pool.is_empty(), "the chain rests here");
    assert_eq!(pool.admit(&transaction(1, 6, furthest, 1), 0), Ok(()));
    assert_eq!(pool.counters().transactions_forgotten, 1);
    let youngest = pool.admit(&transaction(1, 5, furthest, 1), 0);
    assert_eq!(youngest, Err(RefusalCode::Duplicate), "the oldest was forgotten, not this one");
    assert_eq!(pool.admit(&transaction(1, 0, furthest, 1), 0), Ok(()), "execution judges it");
}

#[test]
fn what_has_expired_is_not_counted_as_forgotten() {
    let small =
        MempoolConfig { pending_transactions_max: 2, remembered_transactions_max: 2, ..config() };
    let mut pool = mempool(small);
    for height in 1..5 {
        for sender in 1..3 {
            assert_eq!(pool.admit(&transaction(sender, 1, height, 1), 0), Ok(()));
        }
        pool.seal_now();
        let digest = pool.take_sealed().unwrap().digest();
        pool.decided(&[digest], height);
    }
    assert_eq!(pool.counters().transactions_forgotten, 0);
}

#[test]
fn batches_are_sealed_when_full_due_or_wanted() {
    let mut pool = mempool(config());
    for nonce in 0..7 {
        pool.admit(&transaction(1, nonce, 10, 1), 1_000 + nonce).unwrap();
    }
    let full = drain(&mut pool);
    let shape: Vec<(u64, usize)> =
        full.iter().map(|one| (one.header().sequence.get(), one.entries().len())).collect();
    assert_eq!(shape, [(100, 3), (101, 3)]);
    assert_eq!(pool.deadline(), Some(1_056));
    assert!(!pool.poll(1_055));
    assert!(pool.poll(1_056));
    assert_eq!(drain(&mut pool).len(), 1);
    assert!(!pool.poll(9_999) && !pool.seal_now(), "nothing is open");
    pool.admit(&transaction(1, 7, 10, 1), 2_000).unwrap();
    assert!(pool.seal_now());
    let counters = pool.counters();
    let sealed = [
        counters.batches_sealed_full,
        counters.batches_sealed_due,
        counters.batches_sealed_demanded,
    ];
    assert_eq!(sealed, [2, 1, 1]);
}

#[test]
fn batches_keep_their_size() {
    let config = MempoolConfig { batch_bytes_max: 140_000, ..MempoolConfig::default() };
    let mut pool = mempool(config);
    for nonce in 0..10 {
        pool.admit(&sized_transaction(1, nonce, 10, 1, 700), 0).unwrap();
    }
    pool.seal_now();
    let batches = drain(&mut pool);
    assert!(batches.iter().all(|batch| batch.bytes().len() <= 140_000));
    assert!(batches.len() >= 4);
    assert_eq!(batches.iter().map(|batch| batch.entries().len()).sum::<usize>(), 10);
}

#[test]
fn own_batches_leave_when_they_are_ordered_or_when_none_may_order_them() {
    let mut pool = mempool(config());
    for nonce in 0..9 {
        // The largest last height of each three counts: 2, 5 and 8.
        pool.admit(&transaction(1, nonce, nonce.max(1), 1), 0).unwrap();
    }
    let batches = drain(&mut pool);
    let digests: Vec<BatchDigest> = batches.iter().map(Batch::digest).collect();
    pool.decided(&[digests[1], BatchDigest(Digest([9; 32]))], 1);
    assert_eq!((pool.pending_transactions(), pool.batches_count()), (6, 2));
    pool.decided(&[], 2);
    assert_eq!((pool.pending_transactions(), pool.batches_count()), (3, 1), "2 was its last");
    let again = transaction(1, 8, 10, 2);
    assert_eq!(pool.admit(&again, 0), Err(RefusalCode::Duplicate), "it is pending");
    for height in 3..8 {
        pool.decided(&[], height);
        assert_eq!(pool.batches_count(), 1);
    }
    pool.decided(&[], 8);
    assert!(pool.is_empty() && pool.pending_bytes() == 0 && pool.batches_count() == 0);
    let counters = pool.counters();
    let gone = (counters.batches_decided, counters.batches_expired, counters.transactions_expired);
    assert_eq!(gone, (1, 2, 6));
    assert_eq!(pool.admit(&again, 0), Ok(()), "what was never included may come again");
    assert!(!pool.restore(&batches[2]), "nor may a restart bring it back");
}

#[test]
fn a_batch_that_expired_while_it_was_open_is_not_sealed() {
    let mut pool = mempool(config());
    pool.admit(&transaction(1, 1, 1, 1), 0).unwrap();
    pool.decided(&[], 1);
    assert_eq!(pool.pending_transactions(), 1);
    assert!(!pool.seal_now() && pool.take_sealed().is_none());
    assert!(pool.is_empty() && pool.deadline().is_none());
    assert_eq!(pool.counters().transactions_expired, 1);
    pool.admit(&transaction(1, 2, 2, 1), 0).unwrap();
    assert!(pool.seal_now());
    assert_eq!(pool.take_sealed().unwrap().header().last_height.get(), 2);
}

#[test]
fn a_restart_takes_back_what_was_durable() {
    let mut before = mempool(config());
    for nonce in 0..3 {
        before.admit(&transaction(1, nonce, 10, 1), 0).unwrap();
    }
    let batch = before.take_sealed().unwrap();
    let hasher = software_provider().hasher;
    let mut pool = Mempool::new(config(), CHAIN, Address([1; 20]), hasher, 5, 101, 1);
    assert!(pool.restore(&batch));
    assert!(!pool.restore(&batch), "once");
    let included = transaction(2, 8, 9, 1);
    pool.remember(included.get().header());
    assert_eq!(pool.admit(&included, 0), Err(RefusalCode::Duplicate));
    let again = transaction(1, 2, 10, 1);
    assert_eq!(pool.admit(&again, 0), Err(RefusalCode::Duplicate));
    assert_eq!(pool.pending_transactions(), 3);
    pool.remember(transaction(2, 9, 4, 1).get().header());
    let past = pool.admit(&transaction(2, 9, 10, 1), 0);
    assert_eq!(past, Ok(()), "what has expired is not remembered");
}

/// Limits lowered between two runs: what is durable is taken back all the same, and only what is
/// new is refused until there is room.
#[test]
fn a_restart_with_lower_limits_takes_back_what_was_durable() {
    let mut before = mempool(config());
    for nonce in 0..6 {
        before.admit(&transaction(1, nonce, 10, 1), 0).unwrap();
    }
    let batches = drain(&mut before);
    let lowered = MempoolConfig {
        pending_transactions_max: 4,
        remembered_transactions_max: 4,
        pending_bytes_max: BATCH_SIZE_MAX.into(),
        ..config()
    };
    let hasher = software_provider().hasher;
    let mut pool = Mempool::new(lowered, CHAIN, Address([1; 20]), hasher, 1, 102, 1);
    assert!(batches.iter().all(|batch| pool.restore(batch)));
    assert_eq!(pool.pending_transactions(), 6);
    let fresh = transaction(2, 0, 10, 1);
    assert_eq!(pool.admit(&fresh, 0), Err(RefusalCode::Overloaded));
    let digests: Vec<BatchDigest> = batches.iter().map(Batch::digest).collect();
    pool.decided(&digests[..1], 1);
    assert_eq!(pool.admit(&fresh, 0), Ok(()));
    pool.decided(&digests[1..], 2);
    assert_eq!(pool.pending_transactions(), 1);
}

/// What a log holds is not believed: neither a number twice nor one that is still to be given out.
#[test]
fn a_restart_refuses_batches_that_this_node_cannot_have_left() {
    let batch = |sender| {
        let mut before = mempool(config());
        before.admit(&transaction(sender, 1, 10, 1), 0).unwrap();
        before.seal_now();
        before.take_sealed().unwrap()
    };
    let (one, other) = (batch(1), batch(2));
    let mut fresh = mempool(config());
    assert!(!fresh.restore(&one), "100 is the next number to be given out");
    let hasher = software_provider().hasher;
    let mut pool = Mempool::new(config(), CHAIN, Address([1; 20]), hasher, 1, 101, 1);
    assert!(pool.restore(&one) && !pool.restore(&other), "both have the number 100");
    assert_eq!((pool.pending_transactions(), pool.batches_count()), (1, 1));
}

#[test]
fn configurations_are_judged() {
    assert_eq!(MempoolConfig::default().fault(), None);
    let key = |config: MempoolConfig| config.fault().map(|(key, ..)| key);
    let good = MempoolConfig::default();
    let bad = MempoolConfig { batch_bytes_max: BATCH_SIZE_MAX + 1, ..good };
    assert_eq!(key(bad), Some("batch_bytes_max"));
    let bad = MempoolConfig { remembered_transactions_max: 1, ..good };
    assert_eq!(key(bad), Some("remembered_transactions_max"));
    let bad = MempoolConfig { batch_transactions_max: 0, ..good };
    assert_eq!(key(bad), Some("batch_transactions_max"));
    for pending in [1, 1_024, 524_288, 524_289, 16_777_216, MempoolConfig::REMEMBERED_MAX] {
        let remembered = MempoolConfig::usual_memory(pending);
        let derived = MempoolConfig {
            pending_transactions_max: pending,
            remembered_transactions_max: remembered,
            ..good
        };
        assert_eq!(derived.fault(), None, "{pending} pending, {remembered} remembered");
    }
    let memory = good.memory_bytes() - good.pending_bytes_max;
    assert_eq!(memory, 64 * 524_288, "64 bytes a pair where their number is a power of two");
}

#[test]
fn the_seed_changes_where_keys_go() {
    let keys: Vec<[u8; 32]> = (0..=255_u8).map(|byte| hufu_crypto::Sm3::of(&[&[byte]]).0).collect();
    let buckets = |seed: u64| -> BTreeSet<u64> {
        let state = SeededState::new(seed);
        keys.iter().map(|key| state.hash_one(key)).collect()
    };
    assert_eq!(buckets(1).len(), keys.len());
    assert!(buckets(1).is_disjoint(&buckets(2)));
    // Keys ground to agree in their low bits spread over the buckets all the same.
    let state = SeededState::new(3);
    let ground = (0..4_096_u64).map(|number| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(number << 32).to_le_bytes());
        state.hash_one(key) & 0xfff
    });
    let mut loads = BTreeMap::<u64, u32>::new();
    ground.for_each(|bucket| *loads.entry(bucket).or_default() += 1);
    assert!(loads.values().all(|load| *load < 16), "no bucket of 4,096 is crowded");
}

/// What the mempool does, said naively: lists, and everything looked for from the front.
#[derive(Default)]
struct Model {
    next_height: u64,
    open: Vec<(u8, u64, u64)>,
    known: Vec<(u8, u64, u64)>,
    /// Digest, transactions, last height.
    sealed: Vec<(BatchDigest, usize, u64)>,
}

impl Model {
    /// The memory has 20 places; the youngest entry of a pair counts.
    fn knows(&self, sender: u8, nonce: u64) -> bool {
        let same = |known: &&(u8, u64, u64)| (known.0, known.1) == (sender, nonce);
        let youngest = self.known.iter().rev().take(20).find(same);
        youngest.is_some_and(|(_, _, valid_until)| *valid_until >= self.next_height)
    }

    fn admit(&mut self, sender: u8, nonce: u64, valid_until: u64) -> Result<(), RefusalCode> {
        if valid_until < self.next_height {
            return Err(RefusalCode::Expired);
        }
        if valid_until > self.next_height + TX_VALIDITY_HEIGHTS_MAX {
            return Err(RefusalCode::ValidityTooLong);
        }
        if self.knows(sender, nonce) {
            return Err(RefusalCode::Duplicate);
        }
        let pending = self.open.len() + self.sealed.iter().map(|sealed| sealed.1).sum::<usize>();
        if pending >= 12 {
            return Err(RefusalCode::Overloaded);
        }
        self.known.push((sender, nonce, valid_until));
        self.open.push((sender, nonce, valid_until));
        Ok(())
    }

    fn is_open_valid(&self) -> bool {
        self.open.iter().any(|one| one.2 >= self.next_height)
    }

    /// An open batch that is sealed and has expired is thrown away.
    fn seal(&mut self, is_sealed: bool) {
        if is_sealed && !self.is_open_valid() {
            self.open.clear();
        }
    }

    fn decide(&mut self, digests: &[BatchDigest]) {
        self.sealed.retain(|sealed| !digests.contains(&sealed.0));
        self.next_height += 1;
        self.sealed.retain(|sealed| sealed.2 >= self.next_height);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit { sender: u8, nonce: u64, ahead: u64 },
    Poll { now: u64 },
    Seal,
    Decide { places: Vec<usize> },
}

fn steps() -> impl Strategy<Value = Step> {
    let ahead = prop_oneof![0..5_u64, 598..604_u64];
    prop_oneof![
        8 => (1..6_u8, 0..8_u64, ahead)
            .prop_map(|(sender, nonce, ahead)| Step::Admit { sender, nonce, ahead }),
        1 => (0..200_u64).prop_map(|now| Step::Poll { now }),
        1 => Just(Step::Seal),
        2 => proptest::collection::vec(0..6_usize, 0..4).prop_map(|places| Step::Decide { places }),
    ]
}

/// Takes sealed batches over into the model; their content must be what it holds open, in order.
fn seal_model(pool: &mut Mempool, model: &mut Model) {
    for batch in drain(pool) {
        let count = batch.entries().len();
        let content: Vec<(u8, u64, u64)> = (0..count)
            .map(|position| {
                let view = batch.transaction(position).unwrap();
                let header = view.header();
                (header.sender.0[0], header.nonce.get(), header.valid_until.get())
            })
            .collect();
        let expected: Vec<(u8, u64, u64)> = model.open.drain(..count).collect();
        assert_eq!(content, expected, "first in, first out");
        let last_height = expected.iter().map(|one| one.2).max().unwrap();
        assert_eq!(batch.header().last_height.get(), last_height);
        assert!(last_height >= model.next_height, "what has expired is not sealed");
        model.sealed.push((batch.digest(), count, last_height));
    }
}

fn apply(pool: &mut Mempool, model: &mut Model, step: Step) {
    match step {
        Step::Admit { sender, nonce, ahead } => {
            let valid_until = (model.next_height + ahead).saturating_sub(2);
            let found = pool.admit(&transaction(sender, nonce, valid_until, 1), 100);
            assert_eq!(found, model.admit(sender, nonce, valid_until));
        }
        Step::Poll { now } => {
            let is_due = now >= 150 && !model.open.is_empty();
            assert_eq!(pool.poll(now), is_due && model.is_open_valid());
            model.seal(is_due);
        }
        Step::Seal => {
            assert_eq!(pool.seal_now(), model.is_open_valid());
            model.seal(true);
        }
        Step::Decide { places } => {
            let all: BTreeSet<usize> = places.into_iter().collect();
            let digests: Vec<BatchDigest> =
                all.iter().filter_map(|place| model.sealed.get(*place)).map(|one| one.0).collect();
            pool.decided(&digests, model.next_height);
            model.decide(&digests);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_mempool_equals_a_naive_model(steps in proptest::collection::vec(steps(), 0..150)) {
        let small = MempoolConfig {
            pending_transactions_max: 12,
            remembered_transactions_max: 20,
            ..config()
        };
        let mut pool = mempool(small);
        let mut model = Model { next_height: 1, ..Model::default() };
        for step in steps {
            apply(&mut pool, &mut model, step);
            seal_model(&mut pool, &mut model);
            prop_assert!(model.open.len() < 3, "a full batch is sealed at once");
            let sealed: usize = model.sealed.iter().map(|sealed| sealed.1).sum();
            let pending = u64::try_from(model.open.len() + sealed).unwrap();
            prop_assert_eq!(pool.pending_transactions(), pending);
            prop_assert_eq!(pool.batches_count(), model.sealed.len());
            prop_assert_eq!(pool.is_empty(), model.open.is_empty() && model.sealed.is_empty());
            prop_assert_eq!(pool.pending_bytes() == 0, pool.is_empty());
        }
    }
}

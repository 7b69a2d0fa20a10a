//! The memory against a list, then each rule of a block, broken alone.

use hufu_crypto::{Address, Digest, Hasher, Signature, Signer, SoftwareSigner, software_provider};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64, U128};

use super::*;
use crate::asset::AssetCode;
use crate::block::BlockHeader;
use crate::codec::{length_u32, put};
use crate::domain::{DomainPrefix, Kind};
use crate::ids::BlockDigest;
use crate::operation::{Leg, Operation};
use crate::transaction::TransactionBuilder;

const CHAIN: ChainId = ChainId(Digest([1; 32]));

fn digest(number: u64) -> BatchDigest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    BatchDigest(Digest(bytes))
}

/// A batch of `count` transactions with these operations; nobody looks at their signatures here.
fn batch(
    chain_id: ChainId,
    first_nonce: u64,
    valid_until: u64,
    count: u64,
    operations: &[Operation<'_>],
) -> Batch {
    let key = *SoftwareSigner::from_bytes(&[7; 32]).unwrap().public_key();
    let mut body = Vec::new();
    for nonce in first_nonce..first_nonce + count {
        let builder = TransactionBuilder::new(chain_id, key, nonce, valid_until);
        let builder = operations.iter().fold(builder, |builder, one| builder.operation(*one));
        let transaction = TransactionBuilder::join(builder.unsigned(), &Signature([9; 64]));
        let transaction = transaction.unwrap();
        put(&mut body, &U32::new(length_u32(transaction.bytes())));
        body.extend_from_slice(transaction.bytes());
    }
    let header = BatchHeader {
        prefix: DomainPrefix::new(Kind::Batch, chain_id),
        origin: Address::ZERO,
        sequence: U64::new(first_nonce),
        last_height: U64::new(valid_until),
        transactions_count: U32::new(u32::try_from(count).unwrap()),
        transactions_size: U32::new(length_u32(&body)),
    };
    Batch::parse([header.as_bytes(), &body].concat().into(), &*hasher()).unwrap()
}

fn hasher() -> std::sync::Arc<dyn Hasher> {
    software_provider().hasher
}

fn small(nonce: u64, valid_until: u64) -> Batch {
    batch(CHAIN, nonce, valid_until, 1, &[Operation::Notarise { digest: &Digest::ZERO, memo: b"" }])
}

fn block(height: u64, transactions_count: u64, batches: &[Batch]) -> Block {
    let digests: Vec<BatchDigest> = batches.iter().map(Batch::digest).collect();
    let header = BlockHeader {
        prefix: DomainPrefix::new(Kind::BlockHeader, CHAIN),
        height: U64::new(height),
        time_millis: U64::new(1),
        parent: BlockDigest::ZERO,
        proposer: Address::ZERO,
        batches_count: U32::new(length_u32(&digests)),
        transactions_count: U32::new(u32::try_from(transactions_count).unwrap()),
        transactions_root: Block::transactions_root(&digests, &*hasher()),
        executed_height: U64::ZERO,
        state_root: Digest::ZERO,
        receipts_root: Digest::ZERO,
        receipts_count: U32::ZERO,
        validators: Digest::ZERO,
        present: 0.into(),
    };
    Block::new(header, digests, &*hasher()).unwrap()
}

/// What is said of a block that counts its batches rightly.
fn judged(height: u64, batches: &[Batch], ordered: &OrderedBatches) -> Result<(), OrderingError> {
    let count = batches.iter().map(|batch| batch.entries().len()).sum::<usize>();
    check_batches(&block(height, u64::try_from(count).unwrap(), batches), batches, ordered)
}

#[test]
fn the_window_is_six_hundred_heights_and_no_more() {
    let mut ordered = OrderedBatches::new(1);
    let mut seed = 7_u64;
    let mut orders: Vec<Vec<u64>> = vec![Vec::new()];
    for height in 1..=2 * TX_VALIDITY_HEIGHTS_MAX {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        // Some numbers come again while they are held, which no chain does; a later height counts.
        let numbers: Vec<u64> = (0..(seed >> 33) % 4).map(|one| (seed >> 40) % 500 + one).collect();
        let digests: Vec<BatchDigest> = numbers.iter().map(|number| digest(*number)).collect();
        ordered.insert(height, &digests);
        orders.push(numbers);
        if height % 100 != 0 && height != TX_VALIDITY_HEIGHTS_MAX + 1 {
            continue;
        }
        let first = OrderedBatches::first_needed(height);
        let mut again = OrderedBatches::new(first);
        for (at, numbers) in (0..).zip(&orders).filter(|(at, _)| *at >= first) {
            let digests: Vec<BatchDigest> = numbers.iter().map(|number| digest(*number)).collect();
            again.insert(at, &digests);
        }
        assert_eq!(ordered, again, "what recovery reads is what was held at height {height}");
        let last = |number: u64| {
            let found = (0..).zip(&orders).filter(|(_, numbers)| numbers.contains(&number));
            found.map(|(at, _)| at).filter(|at| *at >= first).last()
        };
        for number in 0..510 {
            assert_eq!(ordered.height_of(&digest(number)), last(number));
            assert_eq!(ordered.contains(&digest(number)), last(number).is_some());
        }
    }
    assert_eq!(OrderedBatches::first_needed(0), 1);
    assert_eq!(OrderedBatches::first_needed(600), 1);
    assert_eq!(OrderedBatches::first_needed(601), 2);
}

/// The rule that makes the window long enough: whatever it has forgotten is too old by itself.
#[test]
fn what_the_window_forgets_is_refused_by_its_last_height() {
    let most = small(1, 1 + TX_VALIDITY_HEIGHTS_MAX);
    let mut ordered = OrderedBatches::new(1);
    assert_eq!(judged(1, std::slice::from_ref(&most), &ordered), Ok(()));
    ordered.insert(1, &[most.digest()]);
    for height in 2..=TX_VALIDITY_HEIGHTS_MAX + 3 {
        let refused = judged(height, std::slice::from_ref(&most), &ordered);
        assert!(refused.is_err(), "ordered again at height {height}");
        let is_passed = matches!(refused, Err(OrderingError::Passed { .. }));
        assert_eq!(is_passed, height > 1 + TX_VALIDITY_HEIGHTS_MAX);
        ordered.insert(height, &[]);
    }
}

#[test]
fn a_batch_is_ordered_while_one_of_its_transactions_is_valid() {
    let ordered = OrderedBatches::new(5);
    let verdict = |valid_until| judged(5, &[small(1, valid_until)], &ordered);
    assert!(matches!(verdict(4), Err(OrderingError::Passed { last_height: 4, height: 5, .. })));
    assert_eq!((verdict(5), verdict(605)), (Ok(()), Ok(())));
    assert!(matches!(verdict(606), Err(OrderingError::TooFarAhead { last_height: 606, .. })));
}

#[test]
fn a_block_orders_what_it_names_and_counts() {
    let mut ordered = OrderedBatches::new(1);
    let [one, two, three] = [1, 2, 3].map(|nonce| small(nonce, 100));
    let elsewhere = ChainId(Digest([2; 32]));
    let operation = Operation::Notarise { digest: &Digest::ZERO, memo: b"" };
    let foreign = batch(elsewhere, 4, 100, 1, &[operation]);
    ordered.insert(1, &[one.digest()]);
    let two_three = [two.clone(), three.clone()];
    assert_eq!(judged(2, &two_three, &ordered), Ok(()));
    assert_eq!(judged(2, &[], &ordered), Ok(()));
    let repeated = OrderingError::Repeated { digest: one.digest(), height: 1 };
    assert_eq!(judged(2, &[two.clone(), one], &ordered), Err(repeated));
    let wrong = OrderingError::WrongChain { digest: foreign.digest(), found: elsewhere };
    assert_eq!(judged(2, &[foreign], &ordered), Err(wrong));
    for stated in [0, 1, 3] {
        let refused = check_batches(&block(2, stated, &two_three), &two_three, &ordered);
        let stated = u32::try_from(stated).unwrap();
        assert_eq!(refused, Err(OrderingError::TransactionsCount { stated, actual: 2 }));
    }
    let named = block(2, 2, &two_three);
    for other in [&[three, two][..], &two_three[..1]] {
        assert_eq!(check_batches(&named, other, &ordered), Err(OrderingError::Unrelated));
    }
}

/// Each sum one batch beyond its limit, and exactly as many batches as stay below it.
#[test]
fn a_block_is_bounded_by_transactions_keys_and_bytes() {
    let ordered = OrderedBatches::new(1);
    let asset = AssetCode::new("USD").unwrap();
    let leg = Leg { asset, from: Address([1; 20]), to: Address([2; 20]), amount: U128::new(1) };
    let legs = [leg; 170];
    let memo = [0; 256];
    let most_bytes = [Operation::Notarise { digest: &Digest::ZERO, memo: &memo }; 440];
    let empty = [Operation::Notarise { digest: &Digest::ZERO, memo: b"" }];
    let kinds: [(&str, u32, u64, &[Operation<'_>]); 3] = [
        ("transactions", BLOCK_TRANSACTIONS_COUNT_MAX, 4_096, &empty),
        ("state keys", BLOCK_KEYS_COUNT_MAX, 8, &[Operation::Settle(&legs)]),
        ("bytes of batches", BLOCK_SIZE_MAX, 7, &most_bytes),
    ];
    for (kind, max, count, operations) in kinds {
        let measure = |batch: &Batch| match kind {
            "transactions" => batch.entries().len(),
            "state keys" => usize::try_from(batch.keys_count()).unwrap(),
            _ => batch.bytes().len(),
        };
        let mut batches = vec![batch(CHAIN, 0, 9, count, operations)];
        let each = u64::try_from(measure(&batches[0])).unwrap();
        let most = u64::from(max) / each;
        assert!((8..u64::from(BLOCK_BATCHES_COUNT_MAX)).contains(&most), "{kind}: {each}");
        for number in 1..=most {
            batches.push(batch(CHAIN, number * count, 9, count, operations));
        }
        let found = each * (most + 1);
        let refused = OrderingError::TooMany { what: kind, found, max: max.into() };
        assert_eq!(judged(1, &batches, &ordered), Err(refused));
        batches.pop();
        assert_eq!(judged(1, &batches, &ordered), Ok(()), "{kind}");
    }
}

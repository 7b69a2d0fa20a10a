//! What a node that lies is caught at.

use hufu_types::{Receipt, Strength};

use super::*;

/// The small real chain that the conformance and property tests begin from.
#[path = "../../../../tests/examples.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::cast_lossless,
    clippy::cast_possible_truncation,
    reason = "written for other tests, which use all of it"
)]
mod examples;

/// An honest answer about the second transaction of the first block.
fn honest(chain: &examples::Chain, strength: Strength) -> TransactionInfo {
    let at = &chain.heights[0];
    TransactionInfo {
        height: 3,
        strength,
        receipt: at.receipts[1],
        transaction: at.batches[0].transaction(1).unwrap().bytes().to_vec(),
        proof: chain.proof(1, 1, strength).to_bytes(),
    }
}

#[test]
fn an_honest_answer_is_proven_as_far_as_its_proof_goes() {
    let chain = examples::Chain::new();
    let id = chain.heights[0].receipts[1].id;
    for strength in [Strength::Committed, Strength::Certified] {
        let info = honest(&chain, strength);
        assert_eq!(judge(&info, id, Some(&chain.genesis)), Ok(Some(strength)));
        assert_eq!(judge(&info, id, None), Ok(None));
    }
}

#[test]
fn a_proof_of_something_else_proves_nothing() {
    let chain = examples::Chain::new();
    let at = &chain.heights[0];
    let (id, other) = (at.receipts[1].id, at.receipts[2]);
    type Lie = fn(&examples::Chain, &mut TransactionInfo);
    let lies: [(&str, Lie); 6] = [
        ("receipt shown", |_, info| {
            let it = info.receipt;
            let (height, index) = (it.height.get(), it.index.get());
            let chain_id = it.prefix.chain_id;
            info.receipt = Receipt::new(chain_id, height, index, it.id, it.digest, Ok(()));
        }),
        ("another transaction", |chain, info| info.receipt = chain.heights[0].receipts[2]),
        ("another transaction", |chain, info| {
            let other = chain.heights[0].batches[0].transaction(2).unwrap();
            info.transaction = other.bytes().to_vec();
        }),
        ("transaction shown", |_, info| {
            let end = info.transaction.len() - 1;
            info.transaction[end] ^= 1;
        }),
        ("receipt shown", |chain, info| {
            info.proof = chain.proof(1, 2, Strength::Certified).to_bytes();
        }),
        ("calls the receipt certified", |chain, info| {
            info.proof = chain.proof(1, 1, Strength::Committed).to_bytes();
        }),
    ];
    for (number, (expected, lie)) in lies.into_iter().enumerate() {
        let mut info = honest(&chain, Strength::Certified);
        lie(&chain, &mut info);
        let caught = judge(&info, id, Some(&chain.genesis)).unwrap_err();
        assert!(caught.contains(expected), "lie {number}: {caught}");
    }
    let mut silent = honest(&chain, Strength::Certified);
    silent.proof.clear();
    assert!(judge(&silent, id, Some(&chain.genesis)).unwrap_err().contains("no proof"));
    // Without a genesis nothing is proven, but the question is known all the same.
    let info = honest(&chain, Strength::Certified);
    assert!(judge(&info, other.id, None).is_err());
}

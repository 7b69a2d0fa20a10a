//! Accounts proven under load: what a node proves is what it would prove later, and never what it
//! was not asked at.

use hufu_crypto::software_provider;
use hufu_ledger::{AccountProof, ProvenAccount};
use hufu_network::message::answer::AccountInfo;

use crate::chain::{Chain, ISSUED_EACH, Person, asset, commit, operator, person};

/// Proofs asked for while money moves.
const PROOFS_COUNT: u64 = 40;

/// A bit flipped in each stretch of so many bytes.
const FLIP_STEP: usize = 13;

fn prove(chain: &Chain, bytes: &[u8]) -> Option<ProvenAccount> {
    let proof = AccountProof::parse(bytes).ok()?;
    proof.verify(&chain.genesis, &*software_provider().verifier).ok()
}

/// The balance that the answer shows, after the proof has shown the same.
fn proven_balance(chain: &Chain, info: &AccountInfo) -> u128 {
    let proven = prove(chain, &info.proof).expect("the genesis proves the account");
    assert_eq!((proven.height, proven.address), (info.height, info.address));
    let [(code, holding)] = proven.account.unwrap().holdings[..] else { panic!("one holding") };
    let [shown] = &info.holdings[..] else { panic!("one holding") };
    assert_eq!((code, holding.balance), (shown.asset, shown.balance.get()));
    assert_eq!(code, asset());
    holding.balance
}

#[test]
fn accounts_are_proven_while_money_moves_and_no_flipped_bit_is() {
    let chain = Chain::new("account-proofs");
    let mut node = chain.node();
    node.start_ready();
    let mut client = chain.connect(&node);
    chain.open_market(&mut client);
    let [from, to]: [Person; 2] = [person(0), person(1)];
    let (mut asker, mut heights) = (chain.connect(&node), Vec::new());
    for nonce in 0..PROOFS_COUNT {
        let height = client.status().unwrap().height;
        // One each way in turn: the sum is the same at every height, and each is off by at most 1.
        let pair = if nonce % 2 == 0 { [&from, &to] } else { [&to, &from] };
        commit(&mut client, &chain.payment(pair, 1_000 + nonce, height + 500));
        let info = asker.account(from.address, true).unwrap();
        assert!(info.height >= height, "a state from before the question");
        let expected = ISSUED_EACH - u128::from(nonce % 2 == 0);
        assert_eq!(proven_balance(&chain, &info), expected, "height {}", info.height);
        heights.push(info.height);
    }
    assert!(heights.is_sorted() && heights[0] < heights[heights.len() - 1], "{heights:?}");

    let info = asker.account(operator().address, true).unwrap();
    assert_eq!(prove(&chain, &info.proof).unwrap().account, None, "never opened");
    // What is proven after a restart, without a new block, is the same.
    let before = asker.account(from.address, true).unwrap();
    node.stop();
    node.start_ready();
    let after = chain.connect(&node).account(from.address, true).unwrap();
    assert_eq!(after, before);
    for at in (0..after.proof.len()).step_by(FLIP_STEP) {
        let mut flipped = after.proof.clone();
        flipped[at] ^= 1 << (at % 8);
        assert_eq!(prove(&chain, &flipped), None, "byte {at} is not proven");
    }
    node.stop();
}

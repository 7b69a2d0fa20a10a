//! Transactions that must not happen: each is refused or fails with its own code, each is counted,
//! and none changes what anybody holds.

use std::sync::Arc;

use hufu_network::client::Client;
use hufu_network::message::{ServerMessage, WaitFor};
use hufu_types::operation::{
    AccountBody, CreateAssetBody, GrantMandateBody, HoldingBody, Leg, SupplyBody,
};
use hufu_types::{
    AssetCode, ChainId, Digest, FailureCode, Operation, PublicKey, Receipt, RefusalCode, Signature,
    Transaction, TransactionBuilder,
};
use zerocopy::little_endian::{U64, U128};

use crate::chain::{Chain, ISSUED_EACH, Person, VALIDITY_HEIGHTS, asset, commit, operator, person};
use crate::checks::Checker;
use crate::load::{LIGHT, Loader, Record};
use crate::node::{PATIENCE, TestNode, wait_until};
use crate::wire::Metrics;

/// Hands in any bytes as a transaction and returns the last word.
fn word(chain: &Chain, node: &TestNode, bytes: &[u8]) -> Result<Receipt, RefusalCode> {
    let (mut sender, mut receiver) = chain.connect(node).split();
    sender.submit([bytes], WaitFor::Committed, false).unwrap();
    sender.flush().unwrap();
    let mut last = None;
    while last.is_none() {
        let got = receiver.receive(PATIENCE, &mut |incoming| match incoming.message {
            ServerMessage::Statuses(entries) => last = entries[0].refusal().map(Err),
            ServerMessage::Receipts(receipts) => {
                last = receipts.entries().next().map(|entry| Ok(*entry.receipt));
            }
            other => panic!("{other:?}"),
        });
        assert!(got.unwrap() > 0, "no last word within {PATIENCE:?}");
    }
    last.unwrap()
}

fn notarise(chain: ChainId, key: PublicKey, nonce: u64, valid_until: u64) -> TransactionBuilder {
    let builder = TransactionBuilder::new(chain, key, nonce, valid_until);
    builder.operation(Operation::Notarise { digest: &Digest([7; 32]), memo: b"" })
}

/// Signs bytes that may be anything.
fn sign_bytes(person: &Person, mut unsigned: Vec<u8>) -> Vec<u8> {
    let digest = TransactionBuilder::signing_digest(&unsigned, &person.key());
    unsigned.extend(person.signer.sign_unverified(&digest).unwrap().0);
    unsigned
}

/// Bytes with one byte of the unsigned part changed, signed as they are.
fn signed_with(person: &Person, builder: TransactionBuilder, place: usize, value: u8) -> Vec<u8> {
    let mut unsigned = builder.unsigned();
    unsigned[place] = value;
    sign_bytes(person, unsigned)
}

/// Everything that is refused, but for duplicates.
fn refusals(chain: &Chain, height: u64) -> Vec<(&'static str, Vec<u8>, RefusalCode)> {
    use RefusalCode::{
        Expired, KeyInvalid, Malformed, Oversized, SignatureInvalid, SuiteUnknown, ValidityTooLong,
        WrongChain,
    };
    let (id, one, until) = (chain.id(), person(1), height + VALIDITY_HEIGHTS);
    let key = one.key();
    let good = one.sign(notarise(id, key, 1, until));
    let changed = |place: usize| {
        let mut bytes = good.bytes().to_vec();
        bytes[place] ^= 1;
        bytes
    };
    let last = good.bytes().len() - 1;
    let unsigned = |nonce| notarise(id, key, nonce, until);
    let nobody = PublicKey([1; 64]);
    let zero = |mut bytes: Vec<u8>| {
        let start = bytes.len() - 64;
        bytes[start..].fill(0);
        bytes
    };
    let other = ChainId(Digest([3; 32]));
    vec![
        ("nothing", Vec::new(), Malformed),
        ("a truncated transaction", good.bytes()[..last].to_vec(), Malformed),
        ("a byte behind", [good.bytes(), &[0]].concat(), Malformed),
        ("another kind", signed_with(&one, unsigned(2), 0, 2), Malformed),
        ("another version", signed_with(&one, unsigned(2), 2, 9), Malformed),
        ("a reserved byte", signed_with(&one, unsigned(2), 37, 1), Malformed),
        ("more operations than there are", signed_with(&one, unsigned(2), 120, 2), Malformed),
        (
            "no operations",
            sign_bytes(&one, TransactionBuilder::new(id, key, 2, until).unsigned()),
            Malformed,
        ),
        ("an unknown operation", signed_with(&one, unsigned(2), 128, 99), Malformed),
        ("a transfer to oneself", transfer_bytes(&one, id, until, one.address, 1), Malformed),
        ("a transfer of nothing", transfer_bytes(&one, id, until, person(2).address, 0), Malformed),
        ("a large transaction", vec![0; 131_073], Oversized),
        ("another chain", one.sign(notarise(other, key, 3, until)).bytes().to_vec(), WrongChain),
        ("an unknown suite", signed_with(&one, unsigned(4), 36, 2), SuiteUnknown),
        ("an old transaction", one.sign(notarise(id, key, 5, 1)).bytes().to_vec(), Expired),
        (
            "too long a validity",
            one.sign(notarise(id, key, 6, height + 2_000)).bytes().to_vec(),
            ValidityTooLong,
        ),
        (
            "an endless validity",
            one.sign(notarise(id, key, 6, u64::MAX)).bytes().to_vec(),
            ValidityTooLong,
        ),
        (
            "no point of the curve",
            one.sign(notarise(id, nobody, 7, until)).bytes().to_vec(),
            KeyInvalid,
        ),
        (
            "somebody else's signature",
            person(2).sign(notarise(id, key, 8, until)).bytes().to_vec(),
            SignatureInvalid,
        ),
        ("a changed signature", changed(last), SignatureInvalid),
        ("a changed nonce", changed(104), SignatureInvalid),
        ("a signature of zeroes", zero(good.bytes().to_vec()), SignatureInvalid),
    ]
}

fn transfer_bytes(
    from: &Person,
    chain: ChainId,
    until: u64,
    to: hufu_types::Address,
    amount: u128,
) -> Vec<u8> {
    let leg = Leg { asset: asset(), from: from.address, to, amount: U128::new(amount) };
    let builder = TransactionBuilder::new(chain, from.key(), 9, until);
    sign_bytes(from, builder.operation(Operation::Transfer(&leg)).unsigned())
}

fn refused_count(node: &TestNode, code: RefusalCode) -> u64 {
    Metrics::of(node).get(&format!("hufu_transactions_refused_total{{reason=\"{code}\"}}"))
}

fn failed_count(node: &TestNode, code: FailureCode) -> u64 {
    Metrics::of(node).get(&format!("hufu_transactions_failed_total{{reason=\"{code}\"}}"))
}

fn assert_refused(chain: &Chain, node: &TestNode, what: &str, bytes: &[u8], code: RefusalCode) {
    let before = refused_count(node, code);
    assert_eq!(word(chain, node, bytes), Err(code), "{what}");
    wait_until("the counter", || refused_count(node, code) == before + 1);
}

#[test]
fn bad_transactions_are_refused_each_with_its_code() {
    let chain = Arc::new(Chain::new("refusals"));
    let mut node = chain.node();
    node.start_ready();
    let mut client = chain.connect(&node);
    chain.open_market(&mut client);
    let record = Arc::new(Record::default());
    let loader = Loader::start(&chain, &node, &record, LIGHT);
    record.wait_for_more(500);
    let height = client.status().unwrap().height;
    assert!(height > 1, "the first height has passed");
    for (what, bytes, code) in refusals(&chain, height) {
        assert_refused(&chain, &node, what, &bytes, code);
    }
    duplicates(&chain, &node, &mut client);
    record.wait_for_more(500);
    loader.finish();
    Checker::default().check(&chain, &node, &record, true);
    node.stop();
}

/// The same bytes, another content under the same nonce, a copy with a spoilt signature first.
fn duplicates(chain: &Chain, node: &TestNode, client: &mut Client) {
    let one = person(1);
    let nonce = 1 << 50;
    let until = client.status().unwrap().height + VALIDITY_HEIGHTS;
    let honest = one.sign(notarise(chain.id(), one.key(), nonce, until));
    let mut spoilt = honest.bytes().to_vec();
    let last = spoilt.len() - 1;
    spoilt[last] ^= 1;
    let code = RefusalCode::SignatureInvalid;
    assert_refused(chain, node, "a copy with a spoilt signature", &spoilt, code);
    let receipt = commit(client, &honest);
    assert_eq!(receipt.outcome().unwrap(), Ok(()), "the copy has not censored the honest one");
    let code = RefusalCode::Duplicate;
    assert_refused(chain, node, "the same bytes", honest.bytes(), code);
    let other = TransactionBuilder::new(chain.id(), one.key(), nonce, until);
    let other =
        one.sign(other.operation(Operation::Notarise { digest: &Digest([8; 32]), memo: b"x" }));
    assert_refused(chain, node, "the same nonce", other.bytes(), code);
    let found = client.transaction(receipt.id, false).unwrap();
    assert_eq!(found.receipt, receipt, "duplicates have left the receipt as it was");
    // Twice in one frame: one of the two.
    let fresh = one.sign(notarise(chain.id(), one.key(), nonce + 1, until));
    let both = [fresh.clone(), fresh];
    let results = client.submit(&both, WaitFor::Committed, false).unwrap();
    let refused = hufu_network::client::TransactionResult::Refused(code);
    assert_eq!(results.iter().filter(|result| **result == refused).count(), 1, "{results:?}");
}

/// What fails at execution, told by the operations of one transaction.
struct Trial<'a> {
    chain: &'a Chain,
    node: &'a TestNode,
    client: Client,
    nonce: u64,
}

impl Trial<'_> {
    fn run(&mut self, by: &Person, operations: &[Operation<'_>]) -> Receipt {
        let until = self.client.status().unwrap().height + VALIDITY_HEIGHTS;
        self.nonce += 1;
        let builder = TransactionBuilder::new(self.chain.id(), by.key(), self.nonce, until);
        let built = operations.iter().fold(builder, |builder, one| builder.operation(*one));
        let transaction: Transaction = by.sign(built);
        commit(&mut self.client, &transaction)
    }

    fn succeeds(&mut self, by: &Person, operation: Operation<'_>) -> Receipt {
        let receipt = self.run(by, &[operation]);
        assert_eq!(receipt.outcome().unwrap(), Ok(()), "{operation:?}");
        receipt
    }

    /// A good operation stands before the bad one, so that its effects must be undone.
    fn fails(&mut self, by: &Person, operation: Operation<'_>, code: FailureCode) {
        let before = failed_count(self.node, code);
        let memo = Operation::Notarise { digest: &Digest([1; 32]), memo: b"before" };
        let receipt = self.run(by, &[memo, operation]);
        let failure = receipt.outcome().unwrap().unwrap_err();
        assert_eq!((failure.code, failure.operation), (code, Some(1)), "{operation:?}");
        assert_eq!(failed_count(self.node, code), before + 1, "{code}");
    }
}

fn leg(from: &Person, to: &Person, amount: u128) -> Leg {
    let (from, to) = (from.address, to.address);
    Leg { asset: asset(), from, to, amount: U128::new(amount) }
}

fn supply(asset: AssetCode, account: &Person, amount: u128) -> SupplyBody {
    SupplyBody { asset, account: account.address, amount: U128::new(amount) }
}

#[test]
fn failing_transactions_are_included_with_their_code_and_change_nothing() {
    let chain = Arc::new(Chain::new("failures"));
    let mut node = chain.node();
    node.start_ready();
    let mut client = chain.connect(&node);
    chain.open_market(&mut client);
    let record = Arc::new(Record::default());
    let loader = Loader::start(&chain, &node, &record, LIGHT);
    let mut trial = Trial { chain: &chain, node: &node, client, nonce: 1 << 50 };
    accounts_and_assets(&mut trial);
    balances_and_freezing(&mut trial);
    mandates(&mut trial);
    record.wait_for_more(500);
    loader.finish();
    Checker::default().check(&chain, &node, &record, true);
    node.stop();
}

fn accounts_and_assets(trial: &mut Trial<'_>) {
    use FailureCode::{
        AccountClosed, AccountExists, AccountNotEmpty, AccountUnknown, AmountOverflow, AssetExists,
        AssetUnknown, AuthorityMissing, SupplyCapExceeded,
    };
    let (boss, one, new) = (operator(), person(1), person(100));
    let account = |person: &Person| AccountBody { address: person.address };
    trial.fails(&boss, Operation::OpenAccount(&account(&one)), AccountExists);
    trial.fails(&one, Operation::OpenAccount(&account(&new)), AuthorityMissing);
    trial.fails(&boss, Operation::CloseAccount(&account(&one)), AccountNotEmpty);
    trial.fails(&one, Operation::Transfer(&leg(&one, &new, 1)), AccountUnknown);
    trial.fails(&new, Operation::Transfer(&leg(&new, &one, 1)), AccountUnknown);
    trial.succeeds(&boss, Operation::OpenAccount(&account(&new)));
    trial.succeeds(&new, Operation::CloseAccount(&account(&new)));
    trial.fails(&one, Operation::Transfer(&leg(&one, &new, 1)), AccountClosed);
    let silver = AssetCode::new("SILVER").unwrap();
    trial.fails(&boss, Operation::IssueAsset(&supply(silver, &one, 1)), AssetUnknown);
    let create = CreateAssetBody::new(silver, boss.address, 0, 10);
    trial.fails(&one, Operation::CreateAsset(&create), AuthorityMissing);
    trial.succeeds(&boss, Operation::CreateAsset(&create));
    trial.fails(&boss, Operation::CreateAsset(&create), AssetExists);
    trial.fails(&boss, Operation::IssueAsset(&supply(silver, &one, 11)), SupplyCapExceeded);
    trial.fails(&one, Operation::IssueAsset(&supply(silver, &one, 1)), AuthorityMissing);
    trial.fails(&boss, Operation::IssueAsset(&supply(asset(), &one, u128::MAX)), AmountOverflow);
}

fn balances_and_freezing(trial: &mut Trial<'_>) {
    use FailureCode::{AuthorityMissing, BalanceInsufficient, HoldingFrozen, HoldingNotFrozen};
    let (boss, one, two) = (operator(), person(1), person(2));
    let too_much = ISSUED_EACH * 8 + 1;
    trial.fails(&one, Operation::Transfer(&leg(&one, &two, too_much)), BalanceInsufficient);
    trial.fails(
        &one,
        Operation::RedeemAsset(&supply(asset(), &one, too_much)),
        BalanceInsufficient,
    );
    // The load moves every holder's money all the time, so the frozen one is somebody of its own.
    let rich = person(101);
    trial.succeeds(&boss, Operation::OpenAccount(&AccountBody { address: rich.address }));
    trial.succeeds(&one, Operation::Transfer(&leg(&one, &rich, 5)));
    let holding = HoldingBody { asset: asset(), account: rich.address };
    trial.fails(&one, Operation::FreezeHolding(&holding), AuthorityMissing);
    trial.succeeds(&boss, Operation::FreezeHolding(&holding));
    trial.fails(&rich, Operation::Transfer(&leg(&rich, &one, 5)), HoldingFrozen);
    trial.fails(&rich, Operation::RedeemAsset(&supply(asset(), &rich, 1)), HoldingFrozen);
    trial.succeeds(&boss, Operation::UnfreezeHolding(&holding));
    trial.fails(&boss, Operation::UnfreezeHolding(&holding), HoldingNotFrozen);
    let legs = [leg(&rich, &one, 5), leg(&rich, &two, 1)];
    trial.fails(&rich, Operation::Settle(&legs), BalanceInsufficient);
    // All of it goes back, so that the holders of the load own everything at the end.
    trial.succeeds(&rich, Operation::Transfer(&leg(&rich, &one, 5)));
}

fn mandates(trial: &mut Trial<'_>) {
    use FailureCode::{MandateExceeded, MandateExpired, MandateMissing};
    let (one, two, agent) = (person(1), person(2), person(102));
    let debit = leg(&one, &two, 3);
    trial.fails(&agent, Operation::Transfer(&debit), MandateMissing);
    let grant = |limit: u128, expires_at: u64| GrantMandateBody {
        agent: agent.address,
        asset: asset(),
        limit: U128::new(limit),
        expires_at: U64::new(expires_at),
    };
    trial.succeeds(&one, Operation::GrantMandate(&grant(4, u64::MAX)));
    trial.succeeds(&agent, Operation::Transfer(&debit));
    trial.fails(&agent, Operation::Transfer(&debit), MandateExceeded);
    trial.fails(&one, Operation::GrantMandate(&grant(4, 1)), MandateExpired);
    let soon = trial.client.status().unwrap().height + 50;
    trial.succeeds(&one, Operation::GrantMandate(&grant(10, soon)));
    wait_until("the mandate's last height", || trial.client.status().unwrap().height > soon);
    trial.fails(&agent, Operation::Transfer(&debit), MandateExpired);
}

#[test]
fn a_signature_is_not_taken_from_another_transaction() {
    let chain = Chain::new("signatures");
    let mut node = chain.node();
    node.start_ready();
    let mut client = chain.connect(&node);
    chain.open_market(&mut client);
    let one = person(1);
    let until = client.status().unwrap().height + VALIDITY_HEIGHTS;
    let first = one.sign(notarise(chain.id(), one.key(), 1, until));
    let second = one.sign(notarise(chain.id(), one.key(), 2, until));
    let mut mixed = first.unsigned_bytes().to_vec();
    let Signature(signature) = second.signature();
    mixed.extend(signature);
    assert_refused(&chain, &node, "mixed", &mixed, RefusalCode::SignatureInvalid);
    node.stop();
}

//! Each rule by itself, and the order of its checks: every row breaks several conditions, and the
//! first must be told.

use hufu_types::FailureCode as Code;
use hufu_types::limits::ACCOUNT_MANDATES_COUNT_MAX;
use hufu_types::operation::{GrantMandateBody, Operation};
use hufu_types::receipt::Failure;
use hufu_types::{Address, BatchHeader, ChainId, Digest, Signature, TransactionBuilder};
use zerocopy::little_endian::{U64, U128};

use super::fixture::{Act, ISSUER, Move, OPENER, Store, Tx, address, asset, batch, key};
use crate::declare::declare;
use crate::{Account, AuditError, Corrupt, Mandate, StateKey, StateValue, audit};

/// Never opened.
const NOBODY: u8 = 7;
/// Opened and closed again.
const GONE: u8 = 6;

/// Accounts 2 to 5 open, 6 closed, 7 unknown; USD (0) without a cap worth naming, CNY (1) capped at
/// 1,000 with 900 out; 2 and 3 hold 100 USD each.
fn world() -> Store {
    let mut store = Store::new();
    store.run(OPENER, &(2..7).map(Act::Open).collect::<Vec<_>>()).unwrap();
    store.run(GONE, &[Act::Close(GONE)]).unwrap();
    let create = |asset, cap| Act::Create { asset, authority: ISSUER, cap };
    store.run(ISSUER, &[create(0, u128::MAX), create(1, 1_000)]).unwrap();
    let issue = |asset, account, amount| Act::Issue { asset, account, amount };
    store.run(ISSUER, &[issue(0, 2, 100), issue(0, 3, 100), issue(1, 2, 900)]).unwrap();
    store
}

fn failed(code: Code) -> Result<(), Failure> {
    Err(Failure { code, operation: Some(0) })
}

fn movement(asset: u8, from: u8, to: u8, amount: u128) -> Move {
    Move { asset, from, to, amount }
}

fn transfer(asset: u8, from: u8, to: u8, amount: u128) -> Act {
    Act::Transfer(movement(asset, from, to, amount))
}

fn grant(agent: u8, limit: u128, expires_at: u64) -> Act {
    Act::Grant { agent, asset: 0, limit, expires_at }
}

#[test]
fn failures_are_told_in_the_documented_order() {
    let issue = |asset, account, amount| Act::Issue { asset, account, amount };
    let redeem = |asset, account, amount| Act::Redeem { asset, account, amount };
    let rows = [
        (2, Act::Open(2), Code::AuthorityMissing),
        (OPENER, Act::Open(2), Code::AccountExists),
        (OPENER, Act::Open(GONE), Code::AccountClosed),
        (3, Act::Close(NOBODY), Code::AuthorityMissing),
        (OPENER, Act::Close(NOBODY), Code::AccountUnknown),
        (GONE, Act::Close(GONE), Code::AccountClosed),
        (2, Act::Close(2), Code::AccountNotEmpty),
        (2, Act::Create { asset: 0, authority: 2, cap: 1 }, Code::AuthorityMissing),
        (ISSUER, Act::Create { asset: 0, authority: 2, cap: 1 }, Code::AssetExists),
        (2, issue(3, NOBODY, 1), Code::AssetUnknown),
        (2, issue(1, NOBODY, 900), Code::AuthorityMissing),
        (ISSUER, issue(1, NOBODY, 900), Code::AccountUnknown),
        (ISSUER, issue(1, GONE, 900), Code::AccountClosed),
        (ISSUER, issue(1, 2, u128::MAX), Code::AmountOverflow),
        (ISSUER, issue(1, 2, 101), Code::SupplyCapExceeded),
        (ISSUER, issue(0, 2, u128::MAX), Code::AmountOverflow),
        (4, redeem(3, NOBODY, 1), Code::AssetUnknown),
        (4, redeem(0, NOBODY, 1), Code::AccountUnknown),
        (4, redeem(0, GONE, 1), Code::AccountClosed),
        (4, redeem(0, 2, 101), Code::MandateMissing),
        (2, redeem(0, 2, 101), Code::BalanceInsufficient),
        (4, transfer(3, NOBODY, GONE, 1), Code::AssetUnknown),
        (4, transfer(0, NOBODY, GONE, 1), Code::AccountUnknown),
        (4, transfer(0, GONE, NOBODY, 1), Code::AccountClosed),
        (4, transfer(0, 2, NOBODY, 101), Code::AccountUnknown),
        (4, transfer(0, 2, GONE, 101), Code::AccountClosed),
        (4, transfer(0, 2, 3, 101), Code::MandateMissing),
        (2, transfer(0, 2, 3, 101), Code::BalanceInsufficient),
        (2, transfer(0, 2, 3, u128::MAX), Code::AmountOverflow),
        (NOBODY, Act::Grant { agent: 3, asset: 3, limit: 1, expires_at: 1 }, Code::AssetUnknown),
        (NOBODY, grant(3, 1, 1), Code::AccountUnknown),
        (GONE, grant(3, 1, 1), Code::AccountClosed),
        (2, grant(3, 1, 4), Code::MandateExpired),
        (NOBODY, Act::Revoke { agent: 3, asset: 3 }, Code::MandateMissing),
        (2, Act::Freeze { asset: 3, account: NOBODY }, Code::AssetUnknown),
        (2, Act::Freeze { asset: 0, account: NOBODY }, Code::AuthorityMissing),
        (ISSUER, Act::Freeze { asset: 0, account: NOBODY }, Code::AccountUnknown),
        (ISSUER, Act::Freeze { asset: 0, account: GONE }, Code::AccountClosed),
        (2, Act::Unfreeze { asset: 3, account: NOBODY }, Code::AssetUnknown),
        (2, Act::Unfreeze { asset: 0, account: NOBODY }, Code::AuthorityMissing),
        (ISSUER, Act::Unfreeze { asset: 0, account: NOBODY }, Code::AccountUnknown),
        (ISSUER, Act::Unfreeze { asset: 0, account: GONE }, Code::AccountClosed),
        (ISSUER, Act::Unfreeze { asset: 0, account: 2 }, Code::HoldingNotFrozen),
        (ISSUER, Act::Unfreeze { asset: 0, account: 5 }, Code::HoldingNotFrozen),
    ];
    let mut store = world();
    for (sender, act, code) in rows {
        let mut before = store.state.clone();
        assert_eq!(store.run(sender, core::slice::from_ref(&act)), failed(code), "{act:?}");
        before.retain(|key, _| {
            store.state.contains_key(key) || !matches!(key, StateKey::Nonce { .. })
        });
        let spent: Vec<_> = store.state.keys().filter(|key| !before.contains_key(key)).collect();
        assert!(matches!(spent[..], [StateKey::Nonce { .. }]), "only the nonce is spent: {act:?}");
        store.state.iter().filter(|(key, _)| before.contains_key(key)).for_each(|(key, value)| {
            assert_eq!(before.get(key), Some(value), "{act:?} changed {key}");
        });
    }
}

#[test]
fn debits_by_an_agent_stay_inside_the_mandate() {
    let mut store = world();
    let mandate = StateKey::Mandate { owner: address(2), agent: address(4), asset: asset(0) };
    let expires_at = store.height + 5;
    store.run(2, &[grant(4, 50, expires_at)]).unwrap();
    let granted_at = store.height;
    assert_eq!(store.run(4, &[transfer(0, 2, 3, 51)]), failed(Code::MandateExceeded));
    assert_eq!(store.run(3, &[transfer(0, 2, 3, 1)]), failed(Code::MandateMissing));
    store.run(4, &[transfer(0, 2, 3, 20)]).unwrap();
    let left = StateValue::Mandate(Mandate { limit: 30, expires_at, granted_at });
    assert_eq!(store.value(mandate), Some(left));
    assert_eq!(store.run(4, &[transfer(0, 2, 3, 31)]), failed(Code::MandateExceeded));
    assert_eq!(store.height, expires_at);
    // Expired comes before exceeded.
    assert_eq!(store.run(4, &[transfer(0, 2, 3, 31)]), failed(Code::MandateExpired));
    store.run(2, &[grant(4, 30, u64::MAX)]).unwrap();
    // Used up, it is gone; NOBODY never had an account and may be an agent all the same.
    store.run(4, &[Act::Redeem { asset: 0, account: 2, amount: 30 }]).unwrap();
    assert_eq!(store.value(mandate), None);
    store.run(2, &[grant(NOBODY, 10, u64::MAX)]).unwrap();
    store.run(NOBODY, &[transfer(0, 2, 3, 4)]).unwrap();
    store.run(2, &[Act::Revoke { agent: NOBODY, asset: 0 }]).unwrap();
    assert_eq!(store.run(NOBODY, &[transfer(0, 2, 3, 4)]), failed(Code::MandateMissing));
    assert_eq!((store.balance(2, 0), store.balance(3, 0)), (46, 124));
}

#[test]
fn the_last_height_of_a_mandate_counts() {
    let mut store = world();
    let height = store.height;
    store.run(2, &[grant(4, 50, height + 2)]).unwrap();
    store.run(4, &[transfer(0, 2, 3, 1)]).unwrap();
    assert_eq!(store.run(4, &[transfer(0, 2, 3, 1)]), failed(Code::MandateExpired));
}

fn account(store: &Store, person: u8) -> Account {
    match store.value(StateKey::Account(address(person))) {
        Some(StateValue::Account(account)) => account,
        other => panic!("{person} has {other:?}"),
    }
}

#[test]
fn mandates_are_counted_until_they_are_revoked_or_used_up() {
    let mut store = world();
    let last = store.height + 3;
    store.run(2, &[grant(3, 10, last), grant(4, 20, u64::MAX), grant(5, 30, u64::MAX)]).unwrap();
    assert_eq!(account(&store, 2).mandates_count, 3);
    store.run(2, &[grant(4, 25, u64::MAX)]).unwrap();
    assert_eq!(account(&store, 2).mandates_count, 3, "it replaces the one before");
    store.run(4, &[transfer(0, 2, 3, 24)]).unwrap();
    assert_eq!(account(&store, 2).mandates_count, 3);
    store.run(4, &[transfer(0, 2, 3, 1)]).unwrap();
    assert_eq!(account(&store, 2).mandates_count, 2, "used up");
    assert!(store.height > last);
    assert_eq!(store.run(3, &[transfer(0, 2, 3, 1)]), failed(Code::MandateExpired));
    assert_eq!(account(&store, 2).mandates_count, 2, "one that expired keeps its place");
    store.run(2, &[Act::Revoke { agent: 3, asset: 0 }]).unwrap();
    assert_eq!(account(&store, 2).mandates_count, 1);
    // The owner of a closed account can still clear what it granted.
    let redeem = |asset, amount| Act::Redeem { asset, account: 2, amount };
    store.run(2, &[redeem(0, 75), redeem(1, 900), Act::Close(2)]).unwrap();
    assert_eq!(account(&store, 2).mandates_count, 1);
    store.run(2, &[Act::Revoke { agent: 5, asset: 0 }]).unwrap();
    assert_eq!(account(&store, 2).mandates_count, 0);
}

#[test]
fn one_account_grants_a_bounded_number_of_mandates() {
    let mut store = world();
    let grants = |numbers: core::ops::Range<u16>| {
        move |builder: TransactionBuilder| {
            numbers.fold(builder, |builder, number| {
                let mut agent = Address([1; 20]);
                agent.0[..2].copy_from_slice(&number.to_be_bytes());
                let (asset, limit) = (asset(0), U128::new(1));
                let body = GrantMandateBody { agent, asset, limit, expires_at: U64::new(u64::MAX) };
                builder.operation(Operation::GrantMandate(&body))
            })
        }
    };
    for first in (0..ACCOUNT_MANDATES_COUNT_MAX).step_by(1_024) {
        store.run_built(2, grants(first..first + 1_024)).unwrap();
    }
    assert_eq!(account(&store, 2).mandates_count, ACCOUNT_MANDATES_COUNT_MAX);
    assert_eq!(store.run(2, &[grant(4, 1, u64::MAX)]), failed(Code::MandatesTooMany));
    assert_eq!(store.run(2, &[grant(4, 1, 1)]), failed(Code::MandateExpired), "this comes first");
    store.run_built(2, grants(7..8)).unwrap();
    assert_eq!(account(&store, 2).mandates_count, ACCOUNT_MANDATES_COUNT_MAX, "it replaces one");
    store.run(3, &[grant(4, 1, u64::MAX)]).unwrap();
}

#[test]
fn a_mandate_that_is_not_counted_is_told() {
    let mut store = world();
    store.run(2, &[grant(4, 10, u64::MAX)]).unwrap();
    let (key, mut wrong) = (StateKey::Account(address(2)), account(&store, 2));
    assert_eq!(audit(store.entries()).unwrap().mandates_count, 1);
    wrong.mandates_count = 0;
    store.state.insert(key, StateValue::Account(wrong).to_bytes().as_slice().to_vec());
    let found = audit(store.entries());
    let miscounted = AuditError::MandatesMiscounted { account: address(2), stated: 0, found: 1 };
    assert_eq!(found, Err(miscounted));
    let acts = vec![transfer(0, 2, 3, 10)];
    let plan = store.plan(store.batches(&[Tx { sender: 4, nonce: 1, valid_until: 99, acts }]));
    let uncounted = Corrupt::MandateUncounted { account: address(2) };
    assert_eq!(plan.execute(&plan.load(&store.state).unwrap(), &[0]), Err(uncounted));
}

#[test]
fn a_closed_account_has_no_power_left() {
    const BROKER: u8 = 5;
    let mut store = world();
    let (broker, asset) = (BROKER, 2);
    store.run(ISSUER, &[Act::Create { asset, authority: BROKER, cap: 100 }]).unwrap();
    store.run(2, &[grant(broker, 1_000, u64::MAX)]).unwrap();
    let issue = Act::Issue { asset, account: 3, amount: 10 };
    let redeem = Act::Redeem { asset: 0, account: 2, amount: 1 };
    let (freeze, unfreeze) =
        (Act::Freeze { asset, account: 3 }, Act::Unfreeze { asset, account: 3 });
    let settle = Act::Settle(vec![movement(0, 2, 3, 1), movement(0, 2, 4, 1)]);
    let acts = [issue, freeze, unfreeze, redeem, transfer(0, 2, 3, 1), settle];
    store.run(broker, &acts).unwrap();
    store.run(OPENER, &[Act::Close(broker)]).unwrap();
    for act in acts {
        assert_eq!(store.run(broker, core::slice::from_ref(&act)), failed(Code::AccountClosed));
    }
    // It is told before the mandate and behind the missing authority.
    assert_eq!(store.run(broker, &[transfer(0, 3, 2, 1)]), failed(Code::AccountClosed));
    let other = Act::Freeze { asset: 0, account: 2 };
    assert_eq!(store.run(broker, &[other]), failed(Code::AuthorityMissing));
    // Who never had an account acts as before.
    let created = Act::Create { asset: 3, authority: NOBODY, cap: 100 };
    store.run(ISSUER, &[created]).unwrap();
    store.run(NOBODY, &[Act::Issue { asset: 3, account: 3, amount: 10 }]).unwrap();
}

#[test]
fn operations_declare_no_more_keys_than_forms_are_checked_for() {
    let acts = [
        Act::Open(2),
        Act::Close(2),
        Act::Create { asset: 0, authority: 2, cap: 1 },
        Act::Issue { asset: 0, account: 2, amount: 1 },
        Act::Redeem { asset: 0, account: 2, amount: 1 },
        transfer(0, 2, 3, 1),
        Act::Settle(vec![movement(0, 2, 3, 1), movement(1, 2, 4, 1), movement(0, 2, 3, 1)]),
        grant(3, 1, 9),
        Act::Revoke { agent: 3, asset: 0 },
        Act::Notarise,
        Act::Freeze { asset: 0, account: 2 },
        Act::Unfreeze { asset: 0, account: 2 },
    ];
    for act in acts {
        let builder = TransactionBuilder::new(ChainId::ZERO, key(2), 1, 1);
        let unsigned = act.write(builder).unsigned();
        let transaction = TransactionBuilder::join(unsigned, &Signature([9; 64])).unwrap();
        let (view, mut most) = (transaction.view(), 0);
        let operation = view.operations().next().unwrap();
        for sender in [2, 3, 9].map(address) {
            let mut count = 0;
            declare(sender, &operation, &mut |_, _| count += 1);
            most = most.max(count);
        }
        assert_eq!(most, operation.keys_count(), "{act:?}");
        assert_eq!(transaction.keys_count(), 1 + most, "{act:?}");
    }
}

#[test]
fn a_batch_of_another_chain_is_not_planned() {
    let store = world();
    let own =
        store.batches(&[Tx { sender: 2, nonce: 1, valid_until: 9, acts: vec![Act::Notarise] }]);
    let elsewhere = ChainId(Digest([1; 32]));
    let unsigned = Act::Notarise.write(TransactionBuilder::new(elsewhere, key(2), 1, 9)).unsigned();
    let transaction = TransactionBuilder::join(unsigned, &Signature([9; 64])).unwrap();
    let foreign = batch(elsewhere, &[transaction.bytes().to_vec()]);
    let header: &BatchHeader = foreign.header();
    assert_eq!(header.prefix.chain_id, elsewhere);
    let refused = store.try_plan(vec![own[0].clone(), foreign.clone()]).err();
    assert_eq!(refused, Some(Corrupt::ChainWrong { batch: foreign.digest() }));
}

#[test]
fn legs_settle_simultaneously_or_not_at_all() {
    let mut store = world();
    store.run(3, &[grant(2, 1_000, u64::MAX)]).unwrap();
    // Account 4 holds nothing and passes on what it receives in the same settlement.
    store.run(4, &[grant(2, 1_000, u64::MAX)]).unwrap();
    let chain = vec![movement(0, 4, 5, 70), movement(0, 2, 4, 70)];
    store.run(2, &[Act::Settle(chain)]).unwrap();
    assert_eq!([2, 4, 5].map(|person| store.balance(person, 0)), [30, 0, 70]);
    let account = StateKey::Holding(address(4), asset(0));
    assert_eq!(store.value(account), None, "an empty holding leaves the state");
    // A round trip of more than anybody holds is no change at all, but takes its full amount off
    // the mandate.
    let round = vec![movement(0, 2, 3, 800), movement(0, 3, 2, 800)];
    store.run(2, &[Act::Settle(round.clone())]).unwrap();
    assert_eq!(store.run(2, &[Act::Settle(round)]), failed(Code::MandateExceeded));
    let versus = vec![movement(0, 2, 3, 30), movement(1, 2, 3, 901)];
    assert_eq!(store.run(2, &[Act::Settle(versus)]), failed(Code::BalanceInsufficient));
    assert_eq!([store.balance(2, 0), store.balance(2, 1)], [30, 900]);
    let vast = vec![movement(0, 2, 4, u128::MAX), movement(0, 2, 4, u128::MAX)];
    assert_eq!(store.run(2, &[Act::Settle(vast)]), failed(Code::AmountOverflow));
    // Overflow anywhere comes before insufficiency anywhere.
    let both = vec![movement(0, 2, 4, 5_000), movement(0, 2, 3, u128::MAX)];
    assert_eq!(store.run(2, &[Act::Settle(both)]), failed(Code::AmountOverflow));
    // All accounts are looked at before any right.
    let orders = vec![movement(0, 5, 4, 1), movement(0, 2, NOBODY, 1)];
    assert_eq!(store.run(2, &[Act::Settle(orders)]), failed(Code::AccountUnknown));
}

#[test]
fn a_frozen_holding_is_credited_but_not_debited() {
    let mut store = world();
    let frozen = Act::Freeze { asset: 0, account: 2 };
    store.run(ISSUER, core::slice::from_ref(&frozen)).unwrap();
    assert_eq!(store.run(ISSUER, &[frozen]), failed(Code::HoldingFrozen));
    assert_eq!(store.run(2, &[transfer(0, 2, 3, 500)]), failed(Code::HoldingFrozen));
    let redeem = Act::Redeem { asset: 0, account: 2, amount: 500 };
    assert_eq!(store.run(2, &[redeem]), failed(Code::HoldingFrozen));
    store.run(3, &[transfer(0, 3, 2, 100)]).unwrap();
    // A frozen holding takes part in no debit, even if the settlement credits it more.
    store.run(3, &[grant(2, 100, u64::MAX)]).unwrap();
    let net = vec![movement(0, 3, 2, 10), movement(0, 2, 3, 1)];
    assert_eq!(store.run(2, &[Act::Settle(net)]), failed(Code::HoldingFrozen));
    store.run(ISSUER, &[Act::Unfreeze { asset: 0, account: 2 }]).unwrap();
    store.run(2, &[transfer(0, 2, 3, 200)]).unwrap();
    assert_eq!((store.balance(2, 0), store.balance(3, 0)), (0, 200));
    // Freezing what does not exist creates it, unfreezing it again removes it.
    store.run(ISSUER, &[Act::Freeze { asset: 0, account: 5 }]).unwrap();
    assert!(store.value(StateKey::Holding(address(5), asset(0))).is_some());
    assert_eq!(store.run(5, &[Act::Close(5)]), failed(Code::AccountNotEmpty));
    store.run(ISSUER, &[Act::Unfreeze { asset: 0, account: 5 }]).unwrap();
    assert!(store.value(StateKey::Holding(address(5), asset(0))).is_none());
    store.run(5, &[Act::Close(5)]).unwrap();
}

#[test]
fn all_operations_of_a_transaction_happen_or_none() {
    let mut store = world();
    let acts = [transfer(0, 2, 3, 60), transfer(0, 2, 4, 40), transfer(0, 2, 5, 1)];
    let outcome = store.run(2, &acts);
    assert_eq!(outcome, Err(Failure { code: Code::BalanceInsufficient, operation: Some(2) }));
    assert_eq!([2, 3, 4].map(|person| store.balance(person, 0)), [100, 100, 0]);
    store.run(2, &acts[..2]).unwrap();
    assert_eq!([2, 3, 4].map(|person| store.balance(person, 0)), [0, 160, 40]);
    // An asset created, issued and redeemed within one transaction.
    let acts = [
        Act::Create { asset: 2, authority: ISSUER, cap: 7 },
        Act::Issue { asset: 2, account: 3, amount: 7 },
        Act::Grant { agent: 3, asset: 2, limit: 1, expires_at: 99 },
    ];
    let outcome = store.run(ISSUER, &acts);
    assert_eq!(outcome, Err(Failure { code: Code::AccountUnknown, operation: Some(2) }));
    assert_eq!(store.value(StateKey::Asset(asset(2))), None);
    store.run(ISSUER, &acts[..2]).unwrap();
    assert_eq!(store.balance(3, 2), 7);
}

#[test]
fn independent_transactions_are_in_different_groups() {
    let store = world();
    let tx = |sender, nonce, act| Tx { sender, nonce, valid_until: 10, acts: vec![act] };
    let groups = |transactions: &[Tx]| store.plan(store.batches(transactions)).groups_count();
    assert_eq!(groups(&[]), 0);
    let notes: Vec<Tx> = (0..9).map(|nonce| tx(2, nonce, Act::Notarise)).collect();
    assert_eq!(groups(&notes), 9, "a sender's transactions are not ordered by being his");
    let apart = [tx(2, 1, transfer(0, 2, 3, 1)), tx(4, 1, transfer(0, 4, 5, 1))];
    assert_eq!(groups(&apart), 2, "both read the asset");
    let issue = tx(ISSUER, 1, Act::Issue { asset: 0, account: GONE, amount: 1 });
    assert_eq!(groups(&[apart[0].clone(), issue, apart[1].clone()]), 1, "all touch its supply");
    let joined = [apart[0].clone(), apart[1].clone(), tx(2, 2, transfer(1, 3, 4, 1))];
    assert_eq!(groups(&joined), 1);
    assert_eq!(groups(&[notes[0].clone(), notes[0].clone()]), 1, "one nonce");
    let plan = store.plan(store.batches(&notes));
    let portions = plan.portions(4);
    assert_eq!(portions.len(), 4);
    assert!(portions.iter().all(|portion| portion.len() == 2 || portion.len() == 3));
}

//! The real ledger against the model, over random blocks; groups in any distribution against one
//! portion.

use std::collections::{BTreeMap, BTreeSet};

use hufu_types::FailureCode;
use proptest::prelude::*;

use super::fixture::{Act, ISSUER, Move, OPENER, Store, Tx};
use super::model::{Model, Verdict};
use crate::{BlockOutcome, Plan, StateKey, StateValue, audit};

const CASES: u32 = 1_024;

fn amounts() -> impl Strategy<Value = u128> {
    prop_oneof![
        6 => 1..60_u128,
        // Round amounts use up balances, mandates and caps exactly.
        6 => prop::sample::select(vec![10_u128, 50, 100, 150, 600]),
        2 => 300..1_200_u128,
        1 => Just(u128::MAX),
        1 => Just(u128::MAX / 2 + 1),
    ]
}

fn moves() -> impl Strategy<Value = Move> {
    (0..4_u8, 1..7_u8, 1..6_u8, amounts()).prop_map(|(asset, from, step, amount)| Move {
        // Most movements are of the assets that exist.
        asset: if asset == 3 { 3 } else { asset % 2 },
        from,
        to: 1 + (from - 1 + step) % 6,
        amount,
    })
}

fn acts(height: u64) -> impl Strategy<Value = Act> {
    let held = || (0..4_u8, 1..7_u8);
    let governed = || (0..3_u8, 2..6_u8);
    prop_oneof![
        2 => (0..9_u8).prop_map(Act::Open),
        2 => (1..8_u8).prop_map(Act::Close),
        1 => (0..4_u8, 1..3_u8, amounts())
            .prop_map(|(asset, authority, cap)| Act::Create { asset: asset % 3, authority, cap }),
        3 => (held(), amounts())
            .prop_map(|((asset, account), amount)| Act::Issue { asset, account, amount }),
        2 => (held(), amounts())
            .prop_map(|((asset, account), amount)| Act::Redeem { asset, account, amount }),
        8 => moves().prop_map(Act::Transfer),
        8 => prop::collection::vec(moves(), 1..6).prop_map(Act::Settle),
        4 => (1..7_u8, 0..4_u8, amounts(), 0..6_u64).prop_map(move |(agent, asset, limit, ahead)| {
            Act::Grant { agent, asset: asset % 3, limit, expires_at: (height + ahead) - 1 }
        }),
        2 => (1..7_u8, 0..3_u8).prop_map(|(agent, asset)| Act::Revoke { agent, asset }),
        2 => Just(Act::Notarise),
        2 => governed().prop_map(|(asset, account)| Act::Freeze { asset, account }),
        3 => governed().prop_map(|(asset, account)| Act::Unfreeze { asset, account }),
    ]
}

fn transactions(height: u64) -> impl Strategy<Value = Vec<Tx>> {
    let valid_until = prop_oneof![
        8 => height..height + 4,
        1 => Just(height - 1),
        1 => height + 599..height + 603,
    ];
    // The authority of both assets and the opener succeed in more of what they try.
    let senders = prop_oneof![4 => 0..7_u8, 2 => Just(ISSUER), 1 => Just(OPENER)];
    let tx = (senders, 0..12_u64, valid_until, prop::collection::vec(acts(height), 1..3));
    let tx =
        tx.prop_map(|(sender, nonce, valid_until, acts)| Tx { sender, nonce, valid_until, acts });
    prop::collection::vec(tx, 0..16)
}

/// Accounts 1 to 6 open, two assets, something to move, everybody an agent of everybody for the
/// first.
fn founding() -> Vec<Tx> {
    let tx = |sender, nonce, acts| Tx { sender, nonce, valid_until: 1, acts };
    let mut issuing = vec![
        Act::Create { asset: 0, authority: ISSUER, cap: u128::MAX },
        Act::Create { asset: 1, authority: ISSUER, cap: 1_000 },
    ];
    for account in 2..6 {
        issuing.push(Act::Issue { asset: 0, account, amount: 200 });
        issuing.push(Act::Issue { asset: 1, account, amount: 100 });
    }
    let mut founding =
        vec![tx(OPENER, 1 << 40, (1..7).map(Act::Open).collect()), tx(ISSUER, 1 << 40, issuing)];
    for owner in 2..7 {
        let agents = (1..7).filter(|agent| *agent != owner);
        let grant = |agent| Act::Grant { agent, asset: 0, limit: 150, expires_at: 5 };
        founding.push(tx(owner, 1 << 40, agents.map(grant).collect()));
    }
    founding
}

fn workload() -> impl Strategy<Value = Vec<Vec<Tx>>> {
    (2..10_u64).prop_flat_map(|last| (2..last + 1).map(transactions).collect::<Vec<_>>())
}

fn verdicts(outcome: &BlockOutcome) -> Vec<Verdict> {
    let verdict = |receipt: &hufu_types::Receipt| {
        receipt.check().unwrap();
        receipt.outcome().unwrap().map_err(|failure| (failure.code, failure.operation))
    };
    outcome.receipts.iter().map(verdict).collect()
}

fn decoded(store: &Store) -> BTreeMap<StateKey, StateValue> {
    let parse =
        |(key, bytes): (&StateKey, &Vec<u8>)| (*key, StateValue::parse(key, bytes).unwrap());
    store.state.iter().map(parse).collect()
}

/// Executes every group by itself, last first, and in `count` portions; both must give `expected`.
fn check_distributions(store: &Store, plan: &Plan, expected: &BlockOutcome, count: usize) {
    let (loaded, hasher) = (plan.load(&store.state).unwrap(), &*store.provider.hasher);
    let apart: Vec<_> = (0..plan.groups_count())
        .rev()
        .map(|group| plan.execute(&loaded, &[group]).unwrap())
        .collect();
    let portions: Vec<_> =
        plan.portions(count).iter().map(|groups| plan.execute(&loaded, groups).unwrap()).collect();
    for parts in [apart, portions] {
        let merged = plan.merge(&loaded, parts, hasher);
        assert_eq!(merged.receipts, expected.receipts);
        assert_eq!(merged.writes, expected.writes);
        assert_eq!(merged.expiry, expected.expiry);
        assert_eq!(merged.touched, expected.touched);
        assert_eq!(merged.receipts_root(), expected.receipts_root());
    }
}

/// What all cases together reached.
#[derive(Default)]
struct Reached {
    codes: BTreeSet<FailureCode>,
    /// Names of operations that succeeded after the founding block.
    acts: BTreeSet<String>,
}

fn name(act: &Act) -> String {
    format!("{act:?}").chars().take_while(char::is_ascii_alphabetic).collect()
}

fn run(blocks: &[Vec<Tx>], reached: &mut Reached) {
    let (mut store, mut model) = (Store::new(), Model::default());
    for transactions in core::iter::once(&founding()).chain(blocks) {
        let plan = store.plan(store.batches(transactions));
        assert!(plan.keys().is_sorted());
        let loaded = plan.load(&store.state).unwrap();
        let groups: Vec<u32> = (0..plan.groups_count()).collect();
        let whole = plan.execute(&loaded, &groups).unwrap();
        let outcome = plan.merge(&loaded, vec![whole], &*store.provider.hasher);
        check_distributions(&store, &plan, &outcome, 3);
        let found = verdicts(&outcome);
        assert_eq!(found, model.block(transactions), "height {}", outcome.height);
        let failed = found.iter().filter_map(|verdict| verdict.err()).map(|(code, _)| code);
        assert_eq!(usize::try_from(outcome.failures_count).unwrap(), failed.clone().count());
        reached.codes.extend(failed);
        let succeeded = transactions.iter().zip(&found).filter(|(_, verdict)| verdict.is_ok());
        if outcome.height > 1 {
            reached.acts.extend(succeeded.flat_map(|(tx, _)| &tx.acts).map(name));
        }
        let applied = store.commit(&outcome).unwrap();
        assert_eq!(decoded(&store), model.state(), "height {}", outcome.height);
        assert_eq!(applied.root, super::roots::root_of(&store));
    }
    let totals = audit(store.entries()).unwrap();
    assert!(totals.assets.values().all(|asset| asset.held == asset.supply));
}

/// One run of many cases, because what it must reach is reached by all of them together.
#[test]
fn the_ledger_equals_the_model_in_every_success_and_every_failure() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        rng_algorithm: proptest::test_runner::RngAlgorithm::ChaCha,
        rng_seed: proptest::test_runner::RngSeed::Fixed(2),
        ..ProptestConfig::default()
    });
    let reached = std::cell::RefCell::new(Reached::default());
    let result = runner.run(&workload(), |blocks| {
        run(&blocks, &mut reached.borrow_mut());
        Ok(())
    });
    result.unwrap();
    // Thousands of grants by one owner are a test of their own.
    let rare = FailureCode::MandatesTooMany;
    let all: BTreeSet<FailureCode> =
        FailureCode::ALL.iter().copied().filter(|code| *code != rare).collect();
    let missed: Vec<_> = all.difference(&reached.borrow().codes).copied().collect();
    assert_eq!(missed, [], "codes that no case reached");
    let succeeded = &reached.borrow().acts;
    assert_eq!(succeeded.len(), 12, "every operation succeeds in some case: {succeeded:?}");
}

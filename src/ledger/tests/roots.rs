//! The state root, its proofs, and what corrupt storage looks like.

use std::collections::BTreeMap;

use hufu_crypto::{Digest, Sm3};
use hufu_types::{ChainId, DomainPrefix, FailureCode, Kind};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::fixture::{Act, BUCKETS_LOG2, ISSUER, Move, OPENER, Store, Tx, address, asset};
use crate::proof::bucket_of_key;
use crate::{
    AccountQuery, AuditError, Corrupt, Nonce, StateChanges, StateKey, StateProof, StateProofError,
    StateTree, StateValue, Write, audit,
};

/// The root computed from the state alone, as the documentation of `root.rs` says it.
pub(crate) fn naive_root(store: &Store) -> Digest {
    let prefix = DomainPrefix::new(Kind::StateBucket, store.chain_id);
    let log2 = store.tree.buckets_count().ilog2();
    let mut buckets: Vec<BTreeMap<Digest, Digest>> = vec![BTreeMap::new(); 1 << log2];
    for (key, value) in store.entries() {
        let hash = Sm3::of(&[prefix.as_bytes(), &key]);
        let bucket = u64::from_be_bytes(hash.0[..8].try_into().unwrap()) >> (64 - log2);
        buckets[usize::try_from(bucket).unwrap()].insert(hash, Sm3::of(&[value]));
    }
    let leaf = |(number, entries): (u32, &BTreeMap<Digest, Digest>)| {
        if entries.is_empty() {
            return Digest::ZERO;
        }
        let count = u32::try_from(entries.len()).unwrap();
        let mut message = [prefix.as_bytes(), &number.to_le_bytes(), &count.to_le_bytes()].concat();
        for (key, value) in entries {
            message.extend_from_slice(&key.0);
            message.extend_from_slice(&value.0);
        }
        Sm3::of(&[&message])
    };
    let mut level: Vec<Digest> = (0..).zip(&buckets).map(leaf).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| Sm3::of(&[&pair[0].0, &pair[1].0])).collect();
    }
    level[0]
}

/// A store with accounts, assets, holdings and nonces.
fn peopled() -> Store {
    let mut store = Store::new();
    store.run(OPENER, &(1..7).map(Act::Open).collect::<Vec<_>>()).unwrap();
    store.run(ISSUER, &[Act::Create { asset: 0, authority: ISSUER, cap: 1_000 }]).unwrap();
    let issue = |account| Act::Issue { asset: 0, account, amount: 10 };
    store.run(ISSUER, &(2..7).map(issue).collect::<Vec<_>>()).unwrap();
    store.run(2, &[Act::Grant { agent: 3, asset: 0, limit: 5, expires_at: 99 }]).unwrap();
    store
}

#[test]
fn an_empty_state_has_one_root_for_each_size() {
    let store = Store::new();
    assert_eq!(store.tree.root(), naive_root(&store));
    let larger = Store::with_buckets(BUCKETS_LOG2 + 1);
    assert_eq!(larger.tree.root(), naive_root(&larger));
    assert_ne!(store.tree.root(), larger.tree.root());
}

#[test]
fn a_tree_loaded_from_rows_equals_the_one_that_was_kept() {
    let store = peopled();
    let load = |rows: &BTreeMap<u32, Vec<u8>>| {
        let rows = rows.iter().map(|(&bucket, row)| (bucket, row.clone()));
        StateTree::load(store.chain_id, BUCKETS_LOG2, rows, &*store.provider.hasher)
    };
    assert_eq!(load(&store.rows).unwrap(), store.tree);
    let (&bucket, row) = store.rows.iter().find(|(_, row)| row.len() > 64).unwrap();
    let mut rows = store.rows.clone();
    rows.insert(bucket, [&row[64..128], &row[..64]].concat());
    assert_eq!(load(&rows), Err(Corrupt::Row { bucket }), "not ascending");
    rows.insert(bucket, row[1..].to_vec());
    assert_eq!(load(&rows), Err(Corrupt::Row { bucket }), "not whole entries");
    rows.insert(bucket, Vec::new());
    assert_eq!(load(&rows), Err(Corrupt::Row { bucket }), "empty rows are not stored");
    let mut rows = store.rows.clone();
    let moved = rows.remove(&bucket).unwrap();
    rows.insert((bucket + 1) % 16, moved);
    assert!(matches!(load(&rows), Err(Corrupt::Row { .. })), "entries of another bucket");
    let mut rows = store.rows.clone();
    rows.insert(16, row.clone());
    assert_eq!(load(&rows), Err(Corrupt::Row { bucket: 16 }), "no such bucket");
    let mut rows = store.rows.clone();
    rows.get_mut(&bucket).unwrap()[40] ^= 1;
    assert_ne!(load(&rows).unwrap().root(), store.tree.root(), "a flipped bit moves the root");
}

#[test]
fn every_entry_and_every_absence_is_proven_and_nothing_else() {
    let store = peopled();
    let root = store.tree.root();
    let absent = (0..20).map(|nonce| StateKey::Nonce { sender: address(7), nonce });
    let keys: Vec<StateKey> = store.state.keys().copied().chain(absent).collect();
    for key in &keys {
        let value = store.state.get(key).map(Vec::as_slice);
        let bucket = bucket_of_key(store.chain_id, BUCKETS_LOG2, key);
        let row = store.rows.get(&bucket).map_or(&[][..], Vec::as_slice);
        let proof = store.tree.prove(key, row).unwrap();
        let proof = StateProof::parse(&proof.to_bytes()).unwrap();
        let verify = |chain_id: ChainId, log2: u8, value: Option<&[u8]>, root: &Digest| {
            proof.verify(chain_id, log2, key, value, root)
        };
        assert_eq!(verify(store.chain_id, BUCKETS_LOG2, value, &root), Ok(()), "{key}");
        let other = if value.is_some() { None } else { Some(&[1_u8; 8][..]) };
        let wrong = verify(store.chain_id, BUCKETS_LOG2, other, &root);
        assert_eq!(wrong, Err(StateProofError::ValueWrong), "{key}");
        let wrong = verify(store.chain_id, BUCKETS_LOG2, Some(&[7; 24]), &root);
        assert_eq!(wrong, Err(StateProofError::ValueWrong), "{key}");
        let wrong = verify(store.chain_id, BUCKETS_LOG2, value, &Digest::ZERO);
        assert_eq!(wrong, Err(StateProofError::PathWrong), "{key}");
        assert!(verify(store.chain_id, BUCKETS_LOG2 + 1, value, &root).is_err(), "{key}");
        assert!(verify(store.chain_id, 0, value, &root).is_err(), "{key}");
        assert!(verify(ChainId::ZERO, BUCKETS_LOG2, value, &root).is_err(), "{key}");
    }
}

#[test]
fn a_forged_row_does_not_prove() {
    let store = peopled();
    let key = StateKey::Account(address(2));
    let value = store.state.get(&key).map(Vec::as_slice);
    let bucket = bucket_of_key(store.chain_id, BUCKETS_LOG2, &key);
    let row = &store.rows[&bucket];
    let proof = store.tree.prove(&key, row).unwrap().to_bytes();
    let verify = |bytes: &[u8], value| {
        let proof = StateProof::parse(bytes).unwrap();
        proof.verify(store.chain_id, BUCKETS_LOG2, &key, value, &store.tree.root())
    };
    assert_eq!(verify(&proof, value), Ok(()));
    // Without its row the bucket would look empty.
    let mut empty = proof.clone();
    empty.drain(12..12 + row.len());
    empty[4..8].fill(0);
    assert_eq!(verify(&empty, None), Err(StateProofError::PathWrong));
    for place in 0..proof.len() {
        let mut forged = proof.clone();
        forged[place] ^= 1;
        let parsed = StateProof::parse(&forged);
        let proven = parsed.is_ok_and(|proof| {
            let root = store.tree.root();
            proof.verify(store.chain_id, BUCKETS_LOG2, &key, value, &root).is_ok()
        });
        assert!(!proven, "byte {place} of a proof is checked");
    }
    assert!(StateProof::parse(&proof[..proof.len() - 1]).is_err());
    assert!(store.tree.prove(&key, &[]).is_err(), "a row that is not the tree's");
}

#[test]
fn the_root_does_not_depend_on_how_it_was_reached() {
    let (mut once, mut twice) = (Store::new(), Store::new());
    let hasher = once.provider.hasher.clone();
    let nonce = |number| StateKey::Nonce { sender: address(1), nonce: number };
    let put = |number| Write {
        key: nonce(number),
        value: Some(StateValue::Nonce(Nonce { valid_until: number })),
    };
    let delete = |number| Write { key: nonce(number), value: None };
    let apply = |store: &mut Store, writes: &[Write]| {
        let changes = StateChanges::new(store.chain_id, BUCKETS_LOG2, writes, &*hasher);
        let rows: Vec<Vec<u8>> = changes
            .buckets()
            .map(|bucket| store.rows.get(&bucket).cloned().unwrap_or_default())
            .collect();
        let applied = store.tree.apply(&changes, rows, &*hasher)?;
        for (bucket, row) in applied.rows() {
            store.rows.insert(bucket, row.to_vec());
        }
        Ok::<_, Corrupt>(applied.root)
    };
    apply(&mut once, &(0..50).map(put).collect::<Vec<_>>()).unwrap();
    apply(&mut twice, &(30..90).map(put).collect::<Vec<_>>()).unwrap();
    apply(&mut twice, &(0..30).map(put).collect::<Vec<_>>()).unwrap();
    assert_ne!(once.tree.root(), twice.tree.root());
    apply(&mut twice, &(50..90).map(delete).collect::<Vec<_>>()).unwrap();
    assert_eq!(once.tree, twice.tree);
    let before = once.tree.clone();
    let missing = apply(&mut once, &[delete(70)]);
    assert!(matches!(missing, Err(Corrupt::RowUnmatched { .. })));
    assert_eq!(once.tree, before, "a refused change leaves the tree as it was");
    apply(&mut once, &(0..50).map(delete).collect::<Vec<_>>()).unwrap();
    assert_eq!(once.tree.root(), Store::new().tree.root(), "an empty state has the first root");
    assert_eq!(apply(&mut once, &[]).unwrap(), once.tree.root());
}

#[test]
fn nonces_leave_with_their_height_and_may_be_used_again() {
    let mut store = Store::new();
    let tx = |valid_until| Tx { sender: 1, nonce: 7, valid_until, acts: vec![Act::Notarise] };
    let code = |outcome: &crate::BlockOutcome, at: usize| {
        outcome.receipts[at].outcome().unwrap().err().map(|failure| failure.code)
    };
    let first = store.block(&[tx(3), tx(3), tx(2)]);
    assert_eq!(code(&first, 0), None);
    assert_eq!(code(&first, 1), Some(FailureCode::NonceUsed));
    assert_eq!(code(&first, 2), Some(FailureCode::NonceUsed), "whatever its last height");
    assert_eq!(code(&store.block(&[tx(2)]), 0), Some(FailureCode::NonceUsed));
    assert_eq!(code(&store.block(&[tx(3)]), 0), Some(FailureCode::NonceUsed));
    assert_eq!((store.state.len(), store.expiry.len()), (1, 1));
    // At height 4 the old entry leaves and the nonce serves again, in one write.
    let fourth = store.block(&[tx(3), tx(9)]);
    assert_eq!(code(&fourth, 0), Some(FailureCode::Expired));
    assert_eq!(code(&fourth, 1), None);
    assert_eq!((fourth.writes.len(), fourth.expiry.deletions.len()), (1, 1));
    while store.height < 9 {
        assert_eq!(store.block(&[]).writes.len(), 0);
    }
    let last = store.block(&[]);
    assert_eq!((last.writes.len(), last.writes[0].value), (1, None));
    assert!(store.state.is_empty() && store.expiry.is_empty());
    assert_eq!(store.tree.root(), Store::new().tree.root());
}

#[test]
fn the_window_ends_600_heights_ahead() {
    let mut store = Store::new();
    let tx = |nonce, valid_until| Tx { sender: 1, nonce, valid_until, acts: vec![Act::Notarise] };
    let outcome = store.block(&[tx(1, 601), tx(2, 602), tx(3, u64::MAX), tx(4, 1), tx(5, 0)]);
    let found = outcome.receipts.iter().map(|receipt| receipt.outcome().unwrap().is_ok());
    assert!(found.eq([true, false, false, true, false]));
    assert_eq!(store.state.len(), 2, "what is outside the window leaves no nonce");
}

#[test]
fn corrupt_storage_is_told_and_never_panics() {
    let store = peopled();
    let mut broken = peopled();
    let tx = Tx {
        sender: 2,
        nonce: 1,
        valid_until: 9,
        acts: vec![Act::Transfer(Move { asset: 0, from: 2, to: 3, amount: 10 })],
    };
    for key in store.plan(store.batches(core::slice::from_ref(&tx))).keys() {
        let Some(good) = store.state.get(key) else { continue };
        broken.state.insert(*key, vec![0xff; good.len()]);
        let plan = broken.plan(broken.batches(core::slice::from_ref(&tx)));
        assert!(plan.load(&broken.state).is_err() || good.len() == 8, "{key}");
        broken.state.insert(*key, good[1..].to_vec());
        assert!(plan.load(&broken.state).is_err(), "{key}");
        broken.state.insert(*key, good.clone());
    }
    let plan = broken.plan(broken.batches(core::slice::from_ref(&tx)));
    let key = StateKey::Account(address(2));
    let Some(StateValue::Account(mut account)) = broken.value(key) else { panic!() };
    account.holdings_count = 0;
    broken.state.insert(key, StateValue::Account(account).to_bytes().as_slice().to_vec());
    let loaded = plan.load(&broken.state).unwrap();
    let miscounted = Corrupt::HoldingUncounted { account: address(2), asset: asset(0) };
    assert_eq!(plan.execute(&loaded, &[0]), Err(miscounted));
}

#[test]
fn an_expiry_index_that_lies_is_told() {
    let mut store = Store::new();
    let tx = Tx { sender: 1, nonce: 7, valid_until: 1, acts: vec![Act::Notarise] };
    store.block(core::slice::from_ref(&tx));
    let key = StateKey::Nonce { sender: address(1), nonce: 7 };
    let again = Tx { valid_until: 9, ..tx };
    let plan = store.plan(store.batches(&[again]));
    assert!(plan.load(&store.state).is_ok());
    let later = StateValue::Nonce(Nonce { valid_until: 5 });
    store.state.insert(key, later.to_bytes().as_slice().to_vec());
    let unmatched = Corrupt::ExpiryUnmatched { key, valid_until: 1 };
    assert_eq!(plan.load(&store.state), Err(unmatched));
    store.state.remove(&key);
    assert_eq!(plan.load(&store.state), Err(unmatched));
}

#[test]
fn the_audit_finds_each_contradiction() {
    let store = peopled();
    let totals = audit(store.entries()).unwrap();
    assert_eq!(totals.accounts_open_count, 6);
    let usd = totals.assets[&asset(0)];
    assert_eq!((usd.supply, usd.held, usd.holdings_count), (50, 50, 5));
    assert_eq!((totals.mandates_count, totals.nonces_count), (1, 4));
    let change = |key: StateKey, value: Option<StateValue>| {
        let mut state = store.state.clone();
        match value {
            Some(value) => state.insert(key, value.to_bytes().as_slice().to_vec()),
            None => state.remove(&key),
        };
        let entries = state.iter().map(|(key, value)| (key.to_bytes(), value.clone()));
        audit(entries.collect::<Vec<_>>())
    };
    let held = StateKey::Holding(address(2), asset(0));
    let more = crate::Holding { balance: 11, frozen: false };
    let lost = change(held, Some(StateValue::Holding(more)));
    assert!(matches!(lost, Err(AuditError::NotConserved { supply: 50, held: 51, .. })));
    assert!(matches!(change(held, None), Err(AuditError::HoldingsMiscounted { found: 0, .. })));
    let orphan = change(StateKey::Account(address(2)), None);
    assert!(matches!(orphan, Err(AuditError::Orphaned { .. })));
    let orphan = change(StateKey::Asset(asset(0)), None);
    assert!(matches!(orphan, Err(AuditError::Orphaned { .. })));
    let mut entries: Vec<_> = store.entries().collect();
    entries.swap(0, 1);
    assert!(matches!(audit(entries.clone()), Err(AuditError::OrderWrong { .. })));
    entries.swap(0, 1);
    entries[3].0.push(0);
    assert!(matches!(audit(entries), Err(AuditError::Corrupt(_))));
}

#[test]
fn an_account_is_read_with_what_lies_under_its_prefixes() {
    let store = peopled();
    let scan = |prefix: [u8; 21]| {
        let found = store.entries().filter(move |(key, _)| key.starts_with(&prefix));
        found.collect::<Vec<_>>()
    };
    let person = address(2);
    let account = &store.state[&StateKey::Account(person)];
    let (holdings, mandates) =
        (scan(StateKey::holdings_prefix(&person)), scan(StateKey::mandates_prefix(&person)));
    let query = AccountQuery::read(person, account, holdings, mandates).unwrap();
    assert_eq!(query.account.holdings_count, 1);
    assert_eq!(query.holdings, [(asset(0), crate::Holding { balance: 10, frozen: false })]);
    assert_eq!((query.mandates.len(), query.mandates[0].agent), (1, address(3)));
    assert!(AccountQuery::read::<&[u8], &[u8]>(person, &account[1..], [], []).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Bytes from a disk or a peer never panic a decoder, and what decodes encodes to the same
    /// bytes.
    #[test]
    fn decoders_survive_any_bytes(
        kind in 0..7_u8,
        bytes in prop::collection::vec(any::<u8>(), 0..130),
    ) {
        let key = [&[kind], bytes.as_slice()].concat();
        if let Ok(parsed) = StateKey::parse(&key) {
            prop_assert_eq!(parsed.to_bytes().as_slice().to_vec(), key);
        }
        for sample in [
            StateKey::Account(address(1)),
            StateKey::Asset(asset(1)),
            StateKey::Holding(address(1), asset(1)),
            StateKey::Mandate { owner: address(1), agent: address(2), asset: asset(1) },
            StateKey::Nonce { sender: address(1), nonce: 3 },
        ] {
            if let Ok(value) = StateValue::parse(&sample, &bytes) {
                prop_assert_eq!(value.to_bytes().as_slice().to_vec(), bytes.clone());
            }
        }
        if let Ok(proof) = StateProof::parse(&bytes) {
            prop_assert_eq!(proof.to_bytes(), bytes);
        }
    }
}

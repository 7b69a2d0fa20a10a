//! The state root, its proofs, and what corrupt storage looks like.

use std::collections::BTreeMap;

use hufu_crypto::{Digest, Sm3};
use hufu_types::{ChainId, DomainPrefix, FailureCode, Kind};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::fixture::{Act, BUCKETS_LOG2, ISSUER, Move, OPENER, Store, Tx, address, asset};
use crate::{AccountQuery, AuditError, Corrupt, StateKey, StateProof, StateValue, audit};

/// The digest of the node over some entries, and of nothing: as the documentation of `bucket.rs`
/// says it. Bits are read one at a time.
fn naive_node(
    chain_id: ChainId,
    bucket: u32,
    log2: u32,
    depth: u32,
    entries: &BTreeMap<Digest, Digest>,
) -> Digest {
    if entries.is_empty() {
        return Digest::ZERO;
    }
    let mut record = Vec::new();
    let kind = if entries.len() <= 64 {
        record.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        entries.iter().for_each(|(key, value)| record.extend([key.0, value.0].concat()));
        Kind::StateRow
    } else {
        let bit = |key: &Digest, at: u32| {
            let byte = key.0[usize::try_from(at / 8).unwrap()];
            u32::from(byte >> (7 - at % 8) & 1)
        };
        let nibble =
            |key: &Digest| (0..4).fold(0, |bits, at| 2 * bits + bit(key, log2 + 4 * depth + at));
        for child in 0..16 {
            let below = entries.iter().filter(|(key, _)| nibble(key) == child);
            let below = below.map(|(key, value)| (*key, *value)).collect::<BTreeMap<_, _>>();
            record.extend(u32::try_from(below.len()).unwrap().to_le_bytes());
            record.extend(naive_node(chain_id, bucket, log2, depth + 1, &below).0);
        }
        Kind::StateFork
    };
    let prefix = DomainPrefix::new(kind, chain_id);
    Sm3::of(&[prefix.as_bytes(), &bucket.to_le_bytes(), &depth.to_le_bytes(), &record])
}

/// The root of some entries, by stored key and value, as the documentation says it.
pub(crate) fn naive_root<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    chain_id: ChainId,
    log2: u8,
    entries: impl IntoIterator<Item = (K, V)>,
) -> Digest {
    let prefix = DomainPrefix::new(Kind::StateKey, chain_id);
    let hashed = entries.into_iter().map(|(key, value)| {
        let key = Sm3::of(&[prefix.as_bytes(), key.as_ref()]);
        // Kind 14, version 1.
        (key, Sm3::of(&[&[14, 0, 1, 0], value.as_ref()]))
    });
    naive_root_of_hashes(chain_id, log2, hashed)
}

pub(crate) fn naive_root_of_hashes(
    chain_id: ChainId,
    log2: u8,
    entries: impl IntoIterator<Item = (Digest, Digest)>,
) -> Digest {
    let mut buckets: Vec<BTreeMap<Digest, Digest>> = vec![BTreeMap::new(); 1 << log2];
    for (key, value) in entries {
        let bucket = u64::from_be_bytes(key.0[..8].try_into().unwrap()) >> (64 - log2);
        buckets[usize::try_from(bucket).unwrap()].insert(key, value);
    }
    let leaves = (0..).zip(&buckets);
    let leaf = |(bucket, entries)| naive_node(chain_id, bucket, log2.into(), 0, entries);
    let mut level: Vec<Digest> = leaves.map(leaf).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| Sm3::of(&[&pair[0].0, &pair[1].0])).collect();
    }
    level[0]
}

pub(crate) fn root_of(store: &Store) -> Digest {
    naive_root(store.chain_id, store.tree.log2(), store.entries())
}

/// A store with accounts, assets, holdings and nonces.
pub(crate) fn peopled() -> Store {
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
    assert_eq!(store.tree.root(), root_of(&store));
    let larger = Store::with_buckets(BUCKETS_LOG2 + 1);
    assert_eq!(larger.tree.root(), root_of(&larger));
    assert_ne!(store.tree.root(), larger.tree.root());
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
    let unmatched = Corrupt::ExpiryUnmatched { key, valid_until: 1 };
    store.state.remove(&key);
    assert_eq!(plan.load(&store.state), Err(unmatched));
}

/// The index moves a nonce to an earlier height: deleting it there would let its transaction be
/// executed twice.
#[test]
fn an_expiry_index_that_lies_about_an_untouched_nonce_is_told_by_the_state_root() {
    let mut store = Store::new();
    let tx = Tx { sender: 1, nonce: 7, valid_until: 50, acts: vec![Act::Notarise] };
    store.block(core::slice::from_ref(&tx));
    let (key, chunk) = store.expiry.pop_first().unwrap();
    for (valid_until, used_at) in [(1_u64, 1_u64), (50, 1)] {
        let mut moved = key;
        moved[..8].copy_from_slice(&valid_until.to_be_bytes());
        moved[8..16].copy_from_slice(&used_at.to_be_bytes());
        store.expiry = BTreeMap::from([(moved, chunk.clone())]);
        if valid_until == 50 {
            break;
        }
        let plan = store.plan(Vec::new());
        let loaded = plan.load(&store.state).unwrap();
        let outcome = plan.merge(&loaded, Vec::new(), &*store.provider.hasher);
        assert_eq!(outcome.writes.len(), 1, "the index says that the nonce leaves");
        let told = store.commit(&outcome);
        assert!(matches!(told, Err(Corrupt::EntryUnmatched { .. })), "{told:?}");
    }
    store.block(&[]);
    let again = store.block(&[tx]).receipts[0].outcome().unwrap();
    assert_eq!(again.unwrap_err().code, FailureCode::NonceUsed);
}

/// A value that was changed behind the ledger's back must not reach a root, whoever reads it.
#[test]
fn a_write_onto_something_else_than_the_row_holds_is_told() {
    let mut store = peopled();
    let key = StateKey::Holding(address(2), asset(0));
    let more = StateValue::Holding(crate::Holding { balance: 11, frozen: false });
    let tx = Tx {
        sender: 2,
        nonce: 1,
        valid_until: 9,
        acts: vec![Act::Transfer(Move { asset: 0, from: 2, to: 3, amount: 1 })],
    };
    for forged in [Some(more), None] {
        let mut state = store.state.clone();
        match forged {
            Some(value) => state.insert(key, value.to_bytes().as_slice().to_vec()),
            None => state.remove(&StateKey::Holding(address(3), asset(0))),
        };
        let plan = store.plan(store.batches(core::slice::from_ref(&tx)));
        let loaded = plan.load(&state).unwrap();
        let part = plan.execute(&loaded, &[0]).unwrap();
        let outcome = plan.merge(&loaded, vec![part], &*store.provider.hasher);
        let (before, told) = (store.tree.clone(), store.commit(&outcome));
        assert!(matches!(told, Err(Corrupt::EntryUnmatched { .. })), "{told:?}");
        assert_eq!(store.tree, before, "a refused block leaves the tree as it was");
    }
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
    // A store may have an order of its own within a kind, and each key once.
    let totals = audit(entries.clone()).unwrap();
    entries.sort_by_key(|(key, _)| (key[0], core::cmp::Reverse(key.clone())));
    assert_eq!(audit(entries.clone()), Ok(totals));
    for (one, kind) in [(1, "account"), (2, "asset")] {
        let mut twice = entries.clone();
        let place = twice.iter().position(|(key, _)| key[0] == one).unwrap();
        twice.insert(place, twice[place].clone());
        assert!(matches!(audit(twice), Err(AuditError::OrderWrong { .. })), "{kind}");
    }
    entries.sort();
    let (first, last) = (0, entries.len() - 1);
    entries.swap(first, last);
    assert!(matches!(audit(entries.clone()), Err(AuditError::OrderWrong { .. })));
    entries.swap(first, last);
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

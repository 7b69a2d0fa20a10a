//! Buckets that somebody filled on purpose: forks, rows, proofs, and damage in every record.

use std::collections::{BTreeMap, BTreeSet};

use hufu_crypto::{Digest, Sm3};
use hufu_types::limits::{ROW_ENTRIES_COUNT_MAX, STATE_PROOF_SIZE_MAX};
use proptest::prelude::*;

use super::fixture::{BUCKETS_LOG2, Store, address};
use super::roots::{naive_root_of_hashes, peopled, root_of};
use crate::changes::{Change, row_entries};
use crate::{
    Applied, Corrupt, Lookup, Nonce, Place, StateChanges, StateKey, StateProof, StateProofError,
    StateTree, StateValue, Write,
};

type Entries = BTreeMap<Digest, Digest>;

/// A bucket tree and what it should hold.
struct Trie {
    store: Store,
    entries: Entries,
}

impl Trie {
    fn new(log2: u8) -> Self {
        Self { store: Store::with_buckets(log2), entries: Entries::new() }
    }

    fn of(log2: u8, entries: &Entries) -> Self {
        let mut trie = Self::new(log2);
        trie.change_to(entries).unwrap();
        trie
    }

    /// Applies the difference as one block.
    fn change_to(&mut self, entries: &Entries) -> Result<Digest, Corrupt> {
        let keys: BTreeSet<Digest> = self.entries.keys().chain(entries.keys()).copied().collect();
        let change = |key: Digest| Change {
            key,
            before: self.entries.get(&key).copied(),
            after: entries.get(&key).copied(),
        };
        let changes = keys.into_iter().map(change);
        let changes: Vec<Change> = changes.filter(|change| change.before != change.after).collect();
        let applied = self.apply(&changes)?;
        self.entries.clone_from(entries);
        Ok(applied.root)
    }

    fn apply(&mut self, changes: &[Change]) -> Result<Applied, Corrupt> {
        let (chain_id, log2) = (self.store.chain_id, self.store.tree.log2());
        self.store.apply(&StateChanges::of_hashes(chain_id, log2, changes))
    }

    fn naive_root(&self) -> Digest {
        let entries = self.entries.iter().map(|(key, value)| (*key, *value));
        naive_root_of_hashes(self.store.chain_id, self.store.tree.log2(), entries)
    }

    fn assert_whole(&self) {
        assert_eq!(self.store.tree.root(), self.naive_root());
        let (faults, counts, root) = self.store.check();
        assert_eq!((faults, root), (Vec::new(), self.naive_root()));
        assert_eq!(counts.entries, self.entries.len() as u64);
        assert_eq!(self.store.load().unwrap(), self.store.tree);
    }

    /// The forks above the row of a key.
    fn forks(&self, key: &Digest) -> usize {
        usize::from(self.prove(key).to_bytes()[4])
    }

    fn prove(&self, key: &Digest) -> StateProof {
        let mut prover = self.store.tree.prove_hash(*key);
        while let Some(place) = prover.wanted() {
            let record = self.store.records.get(place.to_bytes().as_ref());
            prover.supply(record.map_or(&[], Vec::as_slice)).unwrap();
        }
        prover.finish()
    }
}

/// A key hash that shares `bits` with all others of them, and is told by `number` in its last 16
/// bits or right behind the shared ones.
fn ground(bits: usize, number: u16) -> Digest {
    let mut key = Sm3::of(&[&number.to_le_bytes()]);
    for at in 0..bits {
        let (byte, mask) = (at / 8, 0x80 >> (at % 8));
        key.0[byte] = key.0[byte] & !mask | 0x5a & mask;
    }
    if bits <= 240 {
        key.0[30..].copy_from_slice(&number.to_be_bytes());
    } else {
        key.0[31] = number.to_le_bytes()[0];
    }
    key
}

fn value(number: u64) -> Digest {
    Sm3::of(&[b"value", &number.to_le_bytes()])
}

fn universe() -> impl Strategy<Value = Digest> {
    let bits = prop_oneof![
        3 => Just(0_usize),
        3 => Just(5),
        3 => Just(9),
        2 => Just(14),
        1 => Just(120),
        1 => Just(248),
    ];
    (bits, 0..160_u16).prop_map(|(bits, number)| ground(bits, number))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever blocks led there, tree and records are those of the set of entries.
    #[test]
    fn the_root_follows_from_the_set_of_entries_alone(
        log2 in 4..9_u8,
        blocks in prop::collection::vec(
            prop::collection::vec((universe(), prop::option::weighted(0.6, 0..4_u64)), 0..300),
            1..6,
        ),
    ) {
        let mut trie = Trie::new(log2);
        let mut entries = Entries::new();
        for block in blocks {
            for (key, number) in block {
                match number {
                    Some(number) => drop(entries.insert(key, value(number))),
                    None => drop(entries.remove(&key)),
                }
            }
            trie.change_to(&entries).unwrap();
            trie.assert_whole();
        }
        let fresh = Trie::of(log2, &entries);
        prop_assert_eq!(&fresh.store.tree, &trie.store.tree);
        prop_assert_eq!(&fresh.store.records, &trie.store.records);
        trie.change_to(&Entries::new()).unwrap();
        prop_assert!(trie.store.records.is_empty());
        prop_assert_eq!(trie.store.tree, Trie::new(log2).store.tree);
    }
}

/// Nonces whose key hashes share their first 12 bits, as an attacker finds them.
fn ground_nonces(store: &Store, count: usize) -> Vec<(StateKey, Digest)> {
    let all: Vec<(StateKey, [u8; 0])> =
        (0..1 << 20).map(|nonce| (StateKey::Nonce { sender: address(1), nonce }, [])).collect();
    let hashed = row_entries(store.chain_id, &all, &*store.provider.hasher);
    let is_ground = |key: &Digest| key.0[0] == 0x5a && key.0[1] >> 4 == 0x7;
    let keys = all.iter().map(|(key, _)| *key).zip(hashed.iter().map(|entry| entry.key));
    let found: Vec<_> = keys.filter(|(_, hash)| is_ground(hash)).take(count).collect();
    assert_eq!(found.len(), count, "a 4,096th of a million, about");
    found
}

#[test]
fn a_ground_bucket_forks_stays_cheap_and_merges_back() {
    let mut store = Store::new();
    let nonces = ground_nonces(&store, 200);
    let used = |valid_until| Some(StateValue::Nonce(Nonce { valid_until, used_at: 1 }));
    let hasher = store.provider.hasher.clone();
    let mut apply = |writes: &[Write]| {
        let changes = StateChanges::new(store.chain_id, BUCKETS_LOG2, writes, &*hasher);
        assert_eq!(changes.buckets().len(), usize::from(!writes.is_empty()), "all in one bucket");
        let applied = store.apply(&changes).unwrap();
        for write in writes {
            match write.value {
                Some(value) => {
                    store.state.insert(write.key, value.to_bytes().as_slice().to_vec());
                }
                None => drop(store.state.remove(&write.key)),
            }
        }
        assert_eq!(applied.root, root_of(&store));
        let (faults, counts, root) = store.check();
        assert_eq!((faults, root), (Vec::new(), applied.root));
        let sizes = applied.records().map(|(_, record)| record.map_or(0, <[u8]>::len));
        (counts.rows, counts.forks, sizes.sum::<usize>())
    };
    let put = |(key, _): &(StateKey, Digest)| Write { key: *key, before: None, value: used(9) };
    let delete = |(key, _): &(StateKey, Digest)| Write { key: *key, before: used(9), value: None };
    let row_max = usize::try_from(ROW_ENTRIES_COUNT_MAX).unwrap();
    let full: Vec<Write> = nonces[..row_max].iter().map(put).collect();
    assert_eq!(apply(&full), (1, 0, 4 + 64 * row_max), "a full row");
    let (rows, forks, _) = apply(&[put(&nonces[row_max])]);
    assert_eq!(forks, 3, "the keys differ behind two forks");
    assert!(rows > 8, "and are spread by the third");
    let rest: Vec<Write> = nonces[row_max + 1..].iter().map(put).collect();
    let (_, forks, _) = apply(&rest);
    assert_eq!(forks, 3);
    // One change rewrites one row and the forks above it.
    let key = nonces[100].0;
    let (_, _, size) = apply(&[Write { key, before: used(9), value: used(10) }]);
    assert!(size <= 3 * 576 + 4 + 64 * row_max && size > 3 * 576, "{size} bytes");
    apply(&[Write { key, before: used(10), value: used(9) }]);
    let most: Vec<Write> = nonces[row_max..].iter().map(delete).collect();
    assert_eq!(apply(&most), (1, 0, 4 + 64 * row_max), "one row again");
    let last: Vec<Write> = nonces[..row_max].iter().map(delete).collect();
    assert_eq!(apply(&last), (0, 0, 0));
    assert!(store.records.is_empty());
    assert_eq!(store.tree, Store::new().tree);
}

/// 256 keys that differ in their last 8 bits only, the most that can lie below one fork at the end
/// of the key hash; and some beside them on the way.
fn deepest(log2: u8) -> Trie {
    let mut entries: Entries = (0..256).map(|number| (ground(248, number), value(1))).collect();
    entries.extend((0..300).map(|number| (ground(0, number), value(2))));
    entries.extend((0..100).map(|number| (ground(40, number), value(3))));
    Trie::of(log2, &entries)
}

#[test]
fn every_entry_and_every_absence_is_proven_at_all_depths_and_nothing_else() {
    for log2 in [4, 5, 7, 8] {
        let trie = deepest(log2);
        trie.assert_whole();
        let (chain_id, root) = (trie.store.chain_id, trie.store.tree.root());
        let deep = ground(248, 7);
        assert_eq!(trie.forks(&deep), (249 - usize::from(log2)) / 4 + 1, "to the last 7 bits");
        let absent = (0..248).map(|bits| {
            let mut key = deep;
            key.0[bits / 8] ^= 0x80 >> (bits % 8);
            key
        });
        let mut depths = BTreeSet::new();
        for key in trie.entries.keys().copied().step_by(3).chain(absent) {
            let value = trie.entries.get(&key).copied();
            depths.insert((trie.forks(&key), value.is_some()));
            let bytes = trie.prove(&key).to_bytes();
            assert!(bytes.len() <= usize::try_from(STATE_PROOF_SIZE_MAX).unwrap());
            let proof = StateProof::parse(&bytes).unwrap();
            let verify = |value| proof.verify_hash(chain_id, log2, &key, value, &root);
            assert_eq!(verify(value), Ok(()), "{key}");
            let other = if value.is_some() { None } else { Some(Digest([1; 32])) };
            assert_eq!(verify(other), Err(StateProofError::ValueWrong), "{key}");
            assert_eq!(verify(Some(Digest([7; 32]))), Err(StateProofError::ValueWrong), "{key}");
            let wrong = proof.verify_hash(chain_id, log2, &key, value, &Digest::ZERO);
            assert_eq!(wrong, Err(StateProofError::PathWrong), "{key}");
            assert!(proof.verify_hash(chain_id, log2 + 1, &key, value, &root).is_err());
        }
        assert!(depths.len() > 60, "absence behind every fork: {depths:?}");
    }
}

#[test]
fn a_forged_proof_does_not_prove() {
    let trie = deepest(4);
    let (chain_id, root) = (trie.store.chain_id, trie.store.tree.root());
    let (shallow, deep) = (ground(0, 5), ground(248, 7));
    let mut gone = deep;
    gone.0[9] ^= 1;
    for key in [shallow, deep, gone] {
        let value = trie.entries.get(&key).copied();
        let good = trie.prove(&key).to_bytes();
        let proves = |bytes: &[u8], value| {
            let parsed = StateProof::parse(bytes);
            parsed.is_ok_and(|one| one.verify_hash(chain_id, 4, &key, value, &root).is_ok())
        };
        assert!(proves(&good, value));
        let step = if good.len() > 8_192 { 7 } else { 1 };
        for place in (0..good.len()).step_by(step).chain(0..12) {
            let mut forged = good.clone();
            forged[place] ^= 1;
            assert!(!proves(&forged, value), "byte {place} of a proof is checked");
        }
        assert!(StateProof::parse(&good[..good.len() - 1]).is_err());
        assert!(StateProof::parse(&[good.as_slice(), &[0]].concat()).is_err());
        // Without its row the place would look empty, without its last fork the row would.
        let (forks, rows) = (trie.forks(&key), good[8]);
        let mut empty = good.clone();
        empty.drain(12 + 576 * forks..12 + 576 * forks + 64 * usize::from(rows));
        empty[8] = 0;
        assert!(rows == 0 || !proves(&empty, None));
        if forks > 0 {
            let mut short = empty.clone();
            short.drain(12 + 576 * (forks - 1)..12 + 576 * forks);
            short[4] -= 1;
            assert!(!proves(&short, None));
        }
    }
    let other = trie.prove(&shallow);
    assert!(other.verify_hash(chain_id, 4, &deep, None, &root).is_err(), "of another place");
}

/// Every record is needed by some key; a flipped bit, a missing record and a record too many are
/// found by whoever needs it, and by the check.
#[test]
fn damage_in_any_record_is_found_before_it_is_used() {
    let trie = deepest(4);
    let records = trie.store.records.clone();
    let by_place = records.keys().map(|key| (Place::parse(key, 4).unwrap(), key));
    for (number, (place, stored)) in by_place.enumerate() {
        let touched = trie.entries.keys().find(|key| place.contains(key)).copied().unwrap();
        let change =
            Change { key: touched, before: Some(trie.entries[&touched]), after: Some(value(9)) };
        let good = &records[stored];
        let mut flipped = good.clone();
        let at = (number * 31 + 7) % good.len();
        flipped[at] ^= 1 << (number % 8);
        for damaged in [Some(flipped), Some(good[..good.len() - 1].to_vec()), None] {
            let mut broken = Trie { store: Store::with_buckets(4), entries: Entries::new() };
            (broken.store.tree, broken.store.records) = (trie.store.tree.clone(), records.clone());
            match damaged {
                Some(record) => drop(broken.store.records.insert(stored.clone(), record)),
                None => drop(broken.store.records.remove(stored)),
            }
            let told = broken.apply(&[change]).unwrap_err();
            assert_eq!(told, Corrupt::NodeUnmatched { place }, "{place} byte {at}");
            assert_eq!(broken.store.tree, trie.store.tree);
            let mut prover = broken.store.tree.prove_hash(touched);
            let mut proven = Ok(());
            while let Some(place) = prover.wanted().filter(|_| proven.is_ok()) {
                let record = broken.store.records.get(place.to_bytes().as_ref());
                proven = prover.supply(record.map_or(&[], Vec::as_slice));
            }
            assert_eq!(proven, Err(Corrupt::NodeUnmatched { place }));
            let (faults, _, root) = broken.store.check();
            let moved = root != trie.store.tree.root();
            assert!(moved || !faults.is_empty(), "{place} byte {at} is found by the check");
            assert!(place.depth() == 0 || !faults.is_empty(), "below the top by the fork above");
        }
    }
}

#[test]
fn records_that_belong_to_nothing_are_found_by_the_check() {
    let trie = deepest(4);
    let deep: Vec<Vec<u8>> =
        trie.store.records.keys().filter(|key| key.len() > 30).cloned().collect();
    let row = trie.store.records.iter().find(|(key, record)| key.len() == 5 && record.len() != 576);
    let (row_key, _) = row.unwrap();
    // Below a row, beside all children of a fork, and without anything above.
    for key in [[row_key.as_slice(), &[3]].concat(), {
        let mut beside = deep[0].clone();
        beside[20] ^= 5;
        beside
    }] {
        let place = Place::parse(&key, 4).unwrap();
        let mut entries = Entries::new();
        let mut inside = place.to_bytes().as_ref()[4..].to_vec();
        inside.resize(63, 1);
        let mut hash = Digest::ZERO;
        hash.0[0] = u8::try_from(place.bucket()).unwrap() << 4;
        for (at, nibble) in inside.iter().enumerate() {
            hash.0[at.div_ceil(2)] |= if at % 2 == 0 { *nibble } else { nibble << 4 };
        }
        entries.insert(hash, value(1));
        assert!(place.contains(&hash), "{place}");
        let alone = Trie::of(4, &entries);
        let (_, record) = alone.store.records.first_key_value().unwrap();
        let mut broken = Trie::new(4);
        broken.store.records = trie.store.records.clone();
        broken.store.records.insert(key, record.clone());
        let (faults, _, root) = broken.store.check();
        assert_eq!(faults, [Corrupt::NodeOrphaned { place }]);
        assert_eq!(root, trie.store.tree.root());
    }
}

#[test]
fn a_tree_loads_only_canonical_records() {
    let store = peopled();
    let load = |records: &[(Place, Vec<u8>)]| {
        let records = records.iter().map(|(place, record)| (*place, record));
        StateTree::load(store.chain_id, BUCKETS_LOG2, records, &*store.provider.hasher)
    };
    let records = store.records.iter();
    let records: Vec<(Place, Vec<u8>)> = records
        .map(|(key, record)| (Place::parse(key, BUCKETS_LOG2).unwrap(), record.clone()))
        .collect();
    assert_eq!(load(&records).unwrap(), store.tree);
    let at = records.iter().position(|(_, record)| record.len() > 68).unwrap();
    let (place, record) = records[at].clone();
    let with = |record: Vec<u8>| {
        let mut records = records.clone();
        records[at].1 = record;
        load(&records)
    };
    let swapped = [&record[..4], &record[68..132], &record[4..68], &record[132..]].concat();
    assert_eq!(with(swapped), Err(Corrupt::Node { place }), "not ascending");
    assert_eq!(with(record[1..].to_vec()), Err(Corrupt::Node { place }), "not whole entries");
    assert_eq!(with(Vec::new()), Err(Corrupt::Node { place }), "empty rows are not stored");
    let mut moved = records.clone();
    moved[at].0 = Place::top((place.bucket() + 1) % 16, BUCKETS_LOG2);
    assert!(matches!(load(&moved), Err(Corrupt::Node { .. })), "entries of another bucket");
    let below = place.child(0);
    moved[at].0 = below;
    assert_eq!(load(&moved), Err(Corrupt::Node { place: below }), "not the top of a bucket");
    let mut flipped = record;
    flipped[40] ^= 1;
    assert_ne!(with(flipped).unwrap().root(), store.tree.root(), "a flipped bit moves the root");
}

#[test]
fn entries_of_a_real_state_are_proven() {
    let store = peopled();
    let root = store.tree.root();
    let absent = (0..20).map(|nonce| StateKey::Nonce { sender: address(7), nonce });
    for key in store.state.keys().copied().chain(absent) {
        let value = store.state.get(&key).map(Vec::as_slice);
        let proof = StateProof::parse(&store.prove(&key).unwrap().to_bytes()).unwrap();
        let verify = |value| proof.verify(store.chain_id, BUCKETS_LOG2, &key, value, &root);
        assert_eq!(verify(value), Ok(()), "{key}");
        assert_eq!(verify(Some(&[7; 24])), Err(StateProofError::ValueWrong), "{key}");
        let chain = hufu_types::ChainId::ZERO;
        assert!(proof.verify(chain, BUCKETS_LOG2, &key, value, &root).is_err(), "{key}");
        assert!(proof.verify(store.chain_id, 0, &key, value, &root).is_err(), "{key}");
    }
}

/// What execution asks of the rows: in short buckets, under forks and where nothing is.
#[test]
fn rows_tell_used_nonces_from_fresh_ones() {
    let mut store = Store::new();
    let hasher = store.provider.hasher.clone();
    let ground = ground_nonces(&store, 200).into_iter().map(|(key, _)| key);
    let spread = (0..200).map(|nonce| StateKey::Nonce { sender: address(2), nonce });
    let keys: Vec<StateKey> = ground.chain(spread).collect();
    let value = Some(StateValue::Nonce(Nonce { valid_until: 9, used_at: 1 }));
    let used = keys.iter().step_by(2).map(|&key| Write { key, before: None, value });
    let used: Vec<Write> = used.collect();
    let changes = StateChanges::new(store.chain_id, BUCKETS_LOG2, &used, &*hasher);
    let applied = store.apply(&changes).unwrap();
    assert!(applied.records().count() > 10, "forks and rows");

    let lookup = Lookup::new(store.chain_id, BUCKETS_LOG2, &keys, &*hasher);
    let held = |store: &Store| {
        let mut update = store.tree.update(lookup.changes());
        while !update.wanted().is_empty() {
            let record = |place: &Place| store.records.get(place.to_bytes().as_ref()).cloned();
            let records: Vec<_> = update.wanted().iter().map(record).collect();
            update.supply(records, &*hasher)?;
        }
        Ok::<_, Corrupt>(lookup.held(&update))
    };
    let expected: Vec<bool> = (0..keys.len()).map(|place| place % 2 == 0).collect();
    assert_eq!(held(&store), Ok(expected));
    let record = store.records.values_mut().next_back().unwrap();
    *record.last_mut().unwrap() ^= 1;
    assert!(held(&store).is_err(), "a row that lies about a nonce is not believed");
}

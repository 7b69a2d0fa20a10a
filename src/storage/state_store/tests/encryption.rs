//! An encrypted store: what is in its files, what is refused, and what a copy of it does.

use std::collections::BTreeSet;

use super::*;

/// What a client would not like to see on a stolen disk.
const WORDS: [&[u8]; 3] =
    [b"\x03BOND-2031-SECRET", b"an account of somebody", b"what it holds now!"];

fn account(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(b"twenty bytes address");
    key.extend_from_slice(rest);
    key
}

/// The bytes of all files below a folder.
fn all_bytes(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            all.extend(std::fs::read(path).unwrap());
        }
    }
    all
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn fill(store: &StateStore) {
    let mut batch = StateBatch::new();
    for family in Family::ALL {
        for word in WORDS {
            let key = if family == Family::Accounts { word } else { &word[..1] };
            batch.put(family, key, WORDS.concat());
        }
    }
    for rest in WORDS {
        batch.put(Family::Accounts, account(3, rest), WORDS[2]);
    }
    batch.put(Family::Accounts, account(1, b""), WORDS[1]);
    store.commit(batch, &mark(1)).unwrap();
    store.flush().unwrap();
}

#[test]
fn nothing_is_in_any_file_in_clear() {
    for is_encrypted in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let store = if is_encrypted { open(folder.path()) } else { open_plain(folder.path()) };
        fill(&store);
        let values = store.multi_get(Family::Accounts, &WORDS).unwrap();
        assert_eq!(values, [Some(WORDS.concat()), Some(WORDS.concat()), Some(WORDS.concat())]);
        drop(store);
        let bytes = all_bytes(folder.path());
        for word in WORDS.into_iter().chain([b"twenty bytes address".as_slice()]) {
            assert_eq!(holds(&bytes, word), !is_encrypted, "{}", word.escape_ascii());
        }
    }
}

#[test]
fn accounts_are_found_by_kind_and_address_and_no_other_way() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    fill(&store);
    let mut found: Vec<_> = store
        .scan_prefix(Family::Accounts, &account(3, b""))
        .unwrap()
        .map(|entry| entry.unwrap().0.into_vec())
        .collect();
    found.sort();
    let mut expected = WORDS.map(|rest| account(3, rest));
    expected.sort();
    assert_eq!(found, expected);
    let snapshot = store.snapshot();
    let of_snapshot = snapshot.scan_prefix(Family::Accounts, &account(3, b"")).unwrap();
    assert_eq!(of_snapshot.count(), 3);
    assert_eq!(snapshot.get(Family::Accounts, &account(1, b"")).unwrap().unwrap(), WORDS[1]);
    let kinds: Vec<u8> =
        store.iterate(Family::Accounts, &[]).unwrap().map(|entry| entry.unwrap().0[0]).collect();
    assert!(kinds.len() == 7 && kinds.is_sorted(), "{kinds:?}");
    assert_eq!(store.get(Family::Accounts, &account(3, b"none")).unwrap(), None);
}

#[test]
fn every_flipped_bit_of_an_encrypted_value_is_found_in_every_family() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let before = store.verify(10).unwrap().len();
    assert_eq!(before, 0);
    for family in Family::ALL {
        let key = account(3, b"asset");
        let stored_key = store.codec.stored_key(family, &key);
        let stored = |key: &[u8], value: &[u8]| {
            let stored_key = store.codec.stored_key(family, key);
            store.codec.seal(family, key, &stored_key, value.to_vec())
        };
        let good = stored(&key, b"value");
        let again = stored(&key, b"value");
        let named = if family == Family::Accounts { key.len() + 1 } else { 0 };
        assert_eq!(good.len(), 5 + named + 28, "what a value costs");
        assert_ne!(good[..5], again[..5], "the same value twice does not look the same");
        let damaged = |bytes: &[u8], why: &str| {
            put_raw(&store, family, &stored_key, bytes);
            let found = store.get(family, &key);
            assert!(matches!(found, Err(Error::ValueDamaged { .. })), "{why}");
            assert!(store.multi_get(family, &[&key]).is_err(), "{why}");
            assert_eq!(store.verify(10).unwrap().len(), 1, "{why}");
        };
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            damaged(&flipped, &format!("bit {bit}"));
        }
        for length in [0, 1, 27, good.len() - 1] {
            damaged(&good[..length], "cut");
        }
        damaged(&stored(&account(3, b"other"), b"value"), "a value of another key");
        put_raw(&store, family, &stored_key, &good);
        assert_eq!(store.get(family, &key).unwrap().unwrap(), b"value");
    }
    let other = store.codec.seal(Family::Blocks, b"key", b"key", b"value".to_vec());
    put_raw(&store, Family::Receipts, b"key", &other);
    assert!(store.get(Family::Receipts, b"key").is_err(), "a value of another family");
}

#[test]
fn another_key_is_refused_and_an_older_one_is_read() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open(folder.path()));
    let with = |keys| StateStoreOptions { keys, ..options(folder.path()) };
    for open in [StateStore::open, StateStore::open_read_only] {
        let refused = open(&with(Some(ring(&[2])))).unwrap_err();
        assert!(matches!(refused, Error::KeyUnknown { .. }), "{refused}");
        let refused = open(&with(None)).unwrap_err();
        assert!(matches!(refused, Error::KeyMissing { .. }), "{refused}");
    }
    let store = StateStore::open(&with(Some(ring(&[2, 1])))).unwrap();
    let mut batch = StateBatch::new();
    batch.put(Family::Accounts, account(1, b""), b"under the new key".to_vec());
    store.commit(batch, &mark(2)).unwrap();
    assert_eq!(store.get(Family::Accounts, WORDS[0]).unwrap().unwrap(), WORDS.concat());
    store.flush().unwrap();
    drop(store);
    let store = StateStore::open_read_only(&with(Some(ring(&[1, 2])))).unwrap();
    let value = store.get(Family::Accounts, &account(1, b"")).unwrap().unwrap();
    assert_eq!(value, b"under the new key");
    assert!(store.verify(10).unwrap().is_empty());
    drop(store);
    let refused = StateStore::open_read_only(&options(folder.path())).unwrap_err();
    assert!(matches!(refused, Error::KeyUnknown { .. }), "{refused}");

    // A store that is to have the order of one that was made with an older key.
    let other = tempfile::tempdir().unwrap();
    let keys = ring(&[2, 1]);
    let older = StateStore::open_read_only(&with(Some(keys.clone()))).unwrap();
    let beside = |names_key| StateStoreOptions {
        keys: Some(keys.clone()),
        names_key,
        ..options(other.path())
    };
    let refused = StateStore::open(&beside(Some(7))).unwrap_err();
    assert!(matches!(refused, Error::KeyUnknown { .. }), "{refused}");
    let like = StateStore::open(&beside(older.names_key())).unwrap();
    assert_eq!(
        (like.names_key(), older.names_key()),
        (Some(ring(&[1]).current()), like.names_key())
    );
    let place = |store: &StateStore| store.codec.stored_key(Family::Accounts, &account(1, b"a"));
    assert_eq!(place(&like), place(&older));

    let plain = tempfile::tempdir().unwrap();
    fill(&open_plain(plain.path()));
    for open in [StateStore::open, StateStore::open_read_only] {
        let refused = open(&options(plain.path())).unwrap_err();
        assert!(matches!(refused, Error::NotEncrypted { .. }), "{refused}");
    }
}

/// Two copies of one folder, and one that is put back: what they write under the same count has
/// nothing in common.
#[test]
fn copies_of_a_store_do_not_share_a_keystream() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open(folder.path()));
    let mut seen = BTreeSet::new();
    for _copy in 0..3 {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let store = open(copy.path());
        let stored = store.codec.seal(Family::Blocks, b"key", b"key", vec![0; 64]);
        let (keystream, nonce) = (stored[..64].to_vec(), stored[80..].to_vec());
        assert!(nonce[0] == 2 && nonce[1..].iter().all(|byte| *byte == 0), "{nonce:?}");
        assert!(seen.insert(keystream), "the same nonce under the same key");
    }
}

#[test]
fn damaged_records_about_the_encryption_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open(folder.path()));
    let keys: Vec<Vec<u8>> = vec![b"encryption".to_vec(), b"epoch\0\0\0\x01".to_vec()];
    for key in keys {
        let raw = rocksdb::DB::open_cf(
            &rocksdb::Options::default(),
            folder.path(),
            std::iter::once("default").chain(Family::ALL.map(Family::name)),
        )
        .unwrap();
        let good = raw.get(&key).unwrap().unwrap();
        let put = |bytes: &[u8]| {
            raw.put(&key, bytes).unwrap();
            raw.flush().unwrap();
        };
        let mut flipped = good.clone();
        flipped[5] ^= 1;
        put(&flipped);
        drop(raw);
        let refused = StateStore::open(&options(folder.path())).unwrap_err();
        assert!(matches!(refused, Error::Database { operation: "open", .. }), "{refused}");
        let raw = rocksdb::DB::open_cf(
            &rocksdb::Options::default(),
            folder.path(),
            std::iter::once("default").chain(Family::ALL.map(Family::name)),
        )
        .unwrap();
        raw.put(&key, good).unwrap();
        raw.flush().unwrap();
        drop(raw);
        assert!(open(folder.path()).verify(10).unwrap().is_empty());
    }
}

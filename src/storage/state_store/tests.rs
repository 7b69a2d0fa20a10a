use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::keyring::ring;

mod encryption;

fn mark(height: u64) -> AppliedMark {
    AppliedMark {
        height,
        block_digest: Digest([1; 32]),
        log_position: RecordPosition {
            sequence: height + 1,
            segment: 3,
            group_offset: 4096,
            record_offset: 256,
        },
        replay_from: RecordPosition {
            sequence: height / 2,
            segment: 2,
            group_offset: 8192,
            record_offset: 300,
        },
        state_root: Digest([2; 32]),
    }
}

fn options(folder: &Path) -> StateStoreOptions {
    let mut options = StateStoreOptions::new(folder);
    options.keys = Some(ring(&[1]));
    options.cache_bytes = 4 << 20;
    options.write_buffer_bytes = 4 << 20;
    options
}

fn open(folder: &Path) -> StateStore {
    StateStore::open(&options(folder)).unwrap()
}

/// A store without encryption.
fn open_plain(folder: &Path) -> StateStore {
    StateStore::open(&StateStoreOptions { keys: None, ..options(folder) }).unwrap()
}

/// Writes past the store.
fn put_raw(store: &StateStore, family: Family, key: &[u8], bytes: &[u8]) {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    store.db.put_cf_opt(store.handle(family).unwrap(), key, bytes, &options).unwrap();
}

#[test]
fn a_commit_is_one_block_with_its_mark() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert_eq!(store.applied().unwrap(), None);
    let mut batch = StateBatch::new();
    for family in Family::ALL {
        batch.put(family, b"b".to_vec(), family.name().as_bytes());
        batch.put(family, b"a".to_vec(), b"first".to_vec());
        batch.put(family, b"a".to_vec(), b"second".to_vec());
        batch.put(family, b"c".to_vec(), b"gone".to_vec());
        batch.delete(family, b"c".to_vec());
    }
    assert_eq!(batch.len(), 40);
    let before = store.snapshot();
    store.commit(batch, &mark(1)).unwrap();
    assert_eq!(before.applied().unwrap(), None);
    assert_eq!(before.get(Family::Blocks, b"a").unwrap(), None);
    for family in Family::ALL {
        assert_eq!(store.get(family, b"a").unwrap().unwrap(), b"second");
        let found = store.multi_get(family, &[b"c", b"b", b"a"]).unwrap();
        assert_eq!(
            found,
            [None, Some(family.name().as_bytes().to_vec()), Some(b"second".to_vec())]
        );
    }
    assert_eq!(store.applied().unwrap(), Some(mark(1)));
    assert_eq!(store.snapshot().applied().unwrap(), Some(mark(1)));
    assert!(store.memory_bytes().unwrap() < 64 << 20);
}

#[test]
fn a_kill_leaves_the_state_after_exactly_one_block() {
    for open in [open, open_plain] {
        kill(open);
    }
}

fn kill(open: fn(&Path) -> StateStore) {
    let folder = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for height in 1..=20_u64 {
        let mut batch = StateBatch::new();
        batch.put(Family::Accounts, b"height".to_vec(), height.to_le_bytes());
        batch.put(Family::Receipts, height.to_be_bytes(), height.to_le_bytes());
        store.commit(batch, &mark(height)).unwrap();
        if height == 12 {
            store.flush().unwrap();
        }
    }
    // Copying the files of a store in use is what a kill leaves: memory is lost.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let after = open(copy.path());
    let applied = after.applied().unwrap().unwrap();
    assert_eq!(applied, mark(12));
    assert_eq!(after.get(Family::Accounts, b"height").unwrap().unwrap(), 12_u64.to_le_bytes());
    assert_eq!(after.scan_prefix(Family::Receipts, &[]).unwrap().count(), 12);
    drop(store);
    assert_eq!(open(folder.path()).applied().unwrap().unwrap().height % 20, 0);
}

#[test]
fn scans_stop_at_their_prefix_and_snapshots_stand_still() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut batch = StateBatch::new();
    for key in ["a1", "a2", "b1", "b2", "b3", "c"] {
        batch.put(Family::Transactions, key.as_bytes(), key.as_bytes());
    }
    store.commit(batch, &mark(1)).unwrap();
    let keys = |prefix: &'static [u8]| -> Vec<String> {
        let entries = store.scan_prefix(Family::Transactions, prefix).unwrap();
        entries.map(|entry| String::from_utf8(entry.unwrap().1).unwrap()).collect()
    };
    assert_eq!(keys(b"b"), ["b1", "b2", "b3"]);
    assert_eq!(keys(b"d"), Vec::<String>::new());
    assert_eq!(keys(b"").len(), 6);
    assert_eq!(store.iterate(Family::Transactions, b"b2").unwrap().count(), 3);
    let snapshot = store.snapshot();
    let mut batch = StateBatch::new();
    batch.delete(Family::Transactions, b"b2".to_vec());
    store.commit(batch, &mark(2)).unwrap();
    assert_eq!(keys(b"b"), ["b1", "b3"]);
    assert_eq!(snapshot.scan_prefix(Family::Transactions, b"b").unwrap().count(), 3);
    assert_eq!(snapshot.applied().unwrap(), Some(mark(1)));
}

#[test]
fn every_flipped_bit_of_a_value_with_a_checksum_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_plain(folder.path());
    let stored = |family, key: &[u8]| store.codec.seal(family, key, key, b"a value".to_vec());
    for family in Family::ALL.into_iter().filter(|family| family.has_checksums()) {
        let good = stored(family, b"key");
        let raw = |bytes: &[u8]| put_raw(&store, family, b"key", bytes);
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            raw(&flipped);
            let found = store.get(family, b"key");
            assert!(matches!(found, Err(Error::ValueDamaged { .. })), "bit {bit}");
        }
        assert_eq!(store.verify(10).unwrap().len(), 1);
        raw(&good[..3]);
        assert!(store.multi_get(family, &[b"key"]).is_err());
        raw(&stored(family, b"other"));
        assert!(store.get(family, b"key").is_err(), "a value under another key is no value");
        raw(&good);
        assert_eq!(store.get(family, b"key").unwrap().unwrap(), b"a value");
    }
    assert!(store.verify(10).unwrap().is_empty());
}

#[test]
fn every_flipped_byte_of_a_table_file_is_found_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut batch = StateBatch::new();
    for index in 0..60_u8 {
        batch.put(Family::Accounts, [index], [index; 40]);
    }
    store.commit(batch, &mark(1)).unwrap();
    store.flush().unwrap();
    drop(store);
    let tables: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .collect();
    assert!(tables.len() >= 2);
    let options = options(folder.path());
    let expected: Vec<_> = {
        let store = StateStore::open_read_only(&options).unwrap();
        store.iterate(Family::Accounts, &[]).unwrap().map(Result::unwrap).collect()
    };
    let mut found = 0;
    for table in tables {
        let whole = std::fs::read(&table).unwrap();
        for index in (0..whole.len()).step_by(97) {
            let mut flipped = whole.clone();
            flipped[index] ^= 0x10;
            std::fs::write(&table, &flipped).unwrap();
            let clean = StateStore::open_read_only(&options)
                .and_then(|store| Ok((store.verify(10)?, store)))
                .is_ok_and(|(faults, store)| {
                    faults.is_empty() && {
                        // Undetected flips may only be where no value lies.
                        let seen: Result<Vec<_>, _> =
                            store.iterate(Family::Accounts, &[]).unwrap().collect();
                        assert_eq!(seen.unwrap(), expected, "{} byte {index}", table.display());
                        true
                    }
                });
            found += usize::from(!clean);
            std::fs::write(&table, &whole).unwrap();
        }
    }
    assert!(found > 10);
}

#[test]
fn checkpoints_and_read_only_stores_hold_the_same_state() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state"));
    let mut batch = StateBatch::new();
    batch.put(Family::Configuration, b"key".to_vec(), b"value".to_vec());
    store.commit(batch, &mark(4)).unwrap();
    let copy = folder.path().join("copy");
    store.checkpoint(&copy).unwrap();
    store.commit(StateBatch::new(), &mark(5)).unwrap();
    let read = StateStore::open_read_only(&options(&copy)).unwrap();
    assert_eq!(read.applied().unwrap(), Some(mark(4)));
    assert_eq!(read.get(Family::Configuration, b"key").unwrap().unwrap(), b"value");
    let refused = read.commit(StateBatch::new(), &mark(6)).unwrap_err();
    assert_eq!(refused.whose(), crate::Whose::Host);
    let missing = StateStore::open_read_only(&options(&folder.path().join("none")));
    assert!(matches!(missing, Err(Error::Database { operation: "open", .. })));
    let again = store.checkpoint(&copy);
    assert!(matches!(again, Err(Error::Database { operation: "checkpoint", .. })));
}

#[test]
fn options_out_of_range_are_refused() {
    let wrong: [fn(&mut StateStoreOptions); 4] = [
        |options| options.cache_bytes = 1,
        |options| options.write_buffer_bytes = 1,
        |options| options.background_jobs = 0,
        |options| options.open_files_max = -1,
    ];
    for change in wrong {
        let mut options = options(Path::new("never made"));
        change(&mut options);
        assert!(matches!(StateStore::open(&options), Err(Error::Option { .. })));
    }
}

#[derive(Debug, Clone)]
struct Change(usize, u8, Option<Vec<u8>>);

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let change =
        (0_usize..8, 0_u8..20, proptest::option::of(proptest::collection::vec(0_u8.., 0..9)))
            .prop_map(|(family, key, value)| Change(family, key, value));
    proptest::collection::vec(proptest::collection::vec(change, 0..30), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn commits_equal_maps_in_memory(blocks in changes()) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        let mut model: BTreeMap<(Family, Vec<u8>), Vec<u8>> = BTreeMap::new();
        for (index, block) in blocks.into_iter().enumerate() {
            let mut batch = StateBatch::new();
            for Change(family, key, value) in block {
                let family = Family::ALL[family];
                if let Some(value) = value {
                    batch.put(family, [key], value.clone());
                    model.insert((family, vec![key]), value);
                } else {
                    batch.delete(family, [key]);
                    model.remove(&(family, vec![key]));
                }
            }
            let height = u64::try_from(index).unwrap();
            store.commit(batch, &mark(height)).unwrap();
            if index % 4 == 3 {
                store.flush().unwrap();
                drop(store);
                store = open(folder.path());
                prop_assert_eq!(store.applied().unwrap(), Some(mark(height)));
            }
            for family in Family::ALL {
                let mut seen: Vec<_> = store
                    .iterate(family, &[])
                    .unwrap()
                    .map(|entry| entry.unwrap())
                    .filter(|(key, _)| **key != *APPLIED_KEY)
                    .map(|(key, value)| (key.into_vec(), value))
                    .collect();
                prop_assert!(seen.is_sorted_by_key(|(key, _)| store.order(family, key)));
                if family == Family::Accounts {
                    seen.sort();
                }
                let expected: Vec<_> = model
                    .iter()
                    .filter(|((of, _), _)| *of == family)
                    .map(|((_, key), value)| (key.clone(), value.clone()))
                    .collect();
                prop_assert_eq!(seen, expected);
            }
        }
    }
}

//! Damage to what the state store holds: values, entries that are gone or were never there, files.

use super::*;

/// Key and value as RocksDB holds them.
pub(super) type Entry = (Box<[u8]>, Box<[u8]>);

#[test]
fn one_flipped_bit_in_any_class_of_stored_values_is_found_by_hashes() {
    for plain in [false, true] {
        flip_values(&Folder::new(Crooked { plain, ..Crooked::default() }));
    }
}

fn flip_values(whole: &Folder) {
    for family in Family::ALL {
        let entries: Vec<Entry> = {
            let copy = whole.copy();
            let store = Raw::open(&copy);
            store.entries(family)
        };
        let step = entries.len().div_ceil(6).max(1);
        for (number, (key, value)) in entries.iter().enumerate().step_by(step) {
            let folder = whole.copy();
            let mut value = value.to_vec();
            let place = (number * 7 + 5) % value.len();
            value[place] ^= 1 << (number % 8);
            Raw::open(&folder).put(family, key, &value);
            let report = folder.verify(Level::Hashes);
            assert!(!report.is_clean(), "{} key {key:02x?} byte {place}", family.name());
            let words = match family {
                _ if !whole.is_plain => "value is damaged: family",
                Family::Accounts => "the row of bucket",
                // What the index no longer says of a nonce, a row still does.
                Family::Nonces | Family::Buckets => "bucket",
                _ => "value is damaged: family",
            };
            assert_found(&report, Part::State, words);
        }
        // An entry that is gone, and one that was never there.
        if let Some((key, value)) = entries.first() {
            let folder = whole.copy();
            Raw::open(&folder).delete(family, key);
            assert!(!folder.verify(Level::Hashes).is_clean(), "{} first entry gone", family.name());
            let folder = whole.copy();
            let mut key = key.to_vec();
            *key.last_mut().unwrap() ^= 0x55;
            Raw::open(&folder).put(family, &key, value);
            if family != Family::Metadata {
                let report = folder.verify(Level::Hashes);
                assert!(!report.is_clean(), "{} entry {key:02x?} added", family.name());
            }
        }
    }
    let report = whole.verify(Level::Hashes);
    assert_clean(&report);
}

/// Somebody has ground nonces into one bucket, so that it forks: what lies below a fork is checked
/// as well as what lies at the top.
#[test]
fn damage_in_any_record_of_a_bucket_that_forks_is_found_by_hashes() {
    // In clear, so that the test can write records that are whole.
    let crooked = Crooked { ground: true, plain: true, ..Crooked::default() };
    let whole = Folder::new(crooked);
    let report = whole.verify(Level::Replay);
    assert_clean(&report);
    assert!(report.counts.bucket_forks > 0 && report.counts.bucket_rows > 8, "{report}");
    let reopened = Maker::open(&whole.copy().path(), crooked);
    assert_eq!(reopened.recovered.executor.height(), HEIGHTS, "a start finds the tops again");
    let records = Raw::open(&whole.copy()).entries(Family::Buckets);
    let below: Vec<&Entry> = records.iter().filter(|(key, _)| key.len() > 4).collect();
    let fork = records.iter().find(|(_, record)| record.len() == 576).unwrap();
    for (number, (key, record)) in below.iter().copied().step_by(4).chain([fork]).enumerate() {
        let mut flipped = record.to_vec();
        let place = (number * 29 + 11) % flipped.len();
        flipped[place] ^= 1 << (number % 8);
        let folder = whole.copy();
        Raw::open(&folder).put(Family::Buckets, key, &flipped);
        assert_found(&folder.verify(Level::Hashes), Part::State, "bucket 0");
        let folder = whole.copy();
        Raw::open(&folder).delete(Family::Buckets, key);
        assert_found(&folder.verify(Level::Hashes), Part::State, "bucket 0");
    }
    let folder = whole.copy();
    let (key, record) = below[0];
    Raw::open(&folder).put(Family::Buckets, &[key, [0].as_slice()].concat(), record);
    let report = folder.verify(Level::Hashes);
    assert_found(&report, Part::State, "bucket 0 path");
}

#[test]
fn one_flipped_bit_in_a_table_file_is_found_by_hashes() {
    let folder = Folder::new(Crooked::default());
    let values: Vec<Box<[u8]>> = {
        let copy = folder.copy();
        let store = Raw::open(&copy);
        let families = [Family::Accounts, Family::Nonces, Family::Buckets, Family::Receipts];
        families.iter().flat_map(|family| store.entries(*family)).map(|(_, value)| value).collect()
    };
    let mut flips = 0;
    for table in files(&folder.path().join("state"), |name| name.ends_with(".sst")) {
        let bytes = fs::read(&table).unwrap();
        let wanted = values.iter().filter(|value| value.len() >= 24).step_by(5);
        for value in wanted {
            let Some(at) = bytes.windows(value.len()).position(|window| window == &**value) else {
                continue;
            };
            let offset = (at + flips % value.len()) as u64;
            let report = with_flipped(&table, offset, [0, 1, 2, 3, 4, 5, 6, 7][flips % 8], || {
                folder.verify(Level::Hashes)
            });
            assert!(!report.is_clean(), "{} offset {offset}", table.display());
            flips += 1;
        }
    }
    assert!(flips >= 10, "{flips} flips");
    assert_clean(&folder.verify(Level::Hashes));
}

/// The state store as RocksDB sees it, so that a test can write what the node never would.
pub(super) struct Raw {
    db: rocksdb::DB,
}

impl Raw {
    pub(super) fn open(folder: &Folder) -> Self {
        let names = Family::ALL.map(Family::name);
        let all = std::iter::once("default").chain(names);
        let options = rocksdb::Options::default();
        let db = rocksdb::DB::open_cf(&options, folder.path().join("state"), all).unwrap();
        Self { db }
    }

    pub(super) fn entries(&self, family: Family) -> Vec<Entry> {
        let handle = self.db.cf_handle(family.name()).unwrap();
        self.db.iterator_cf(handle, rocksdb::IteratorMode::Start).map(Result::unwrap).collect()
    }

    /// A value without the checksum behind it.
    pub(super) fn get(&self, family: Family, key: &[u8]) -> Vec<u8> {
        let handle = self.db.cf_handle(family.name()).unwrap();
        let mut value = self.db.get_cf(handle, key).unwrap().unwrap();
        value.truncate(value.len() - if family.has_checksums() { 4 } else { 0 });
        value
    }

    pub(super) fn put(&self, family: Family, key: &[u8], value: &[u8]) {
        self.db.put_cf(self.db.cf_handle(family.name()).unwrap(), key, value).unwrap();
        self.db.flush_cf(self.db.cf_handle(family.name()).unwrap()).unwrap();
    }

    /// Puts a value with the checksum that the store would give it.
    pub(super) fn put_checked(&self, family: Family, key: &[u8], value: &[u8]) {
        let seed = crc32c::crc32c(family.name().as_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c_append(seed, key), value);
        self.put(family, key, &[value, checksum.to_le_bytes().as_slice()].concat());
    }

    pub(super) fn delete(&self, family: Family, key: &[u8]) {
        self.db.delete_cf(self.db.cf_handle(family.name()).unwrap(), key).unwrap();
        self.db.flush_cf(self.db.cf_handle(family.name()).unwrap()).unwrap();
    }
}

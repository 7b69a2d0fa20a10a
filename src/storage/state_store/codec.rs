//! How keys and values look on the disk: in clear, or encrypted.
//!
//! ```text
//!            key                                    value
//! in clear   key                                    value [ CRC-32C where no root covers it ]
//! encrypted  key                                    SM4-GCM(value) tag 16, epoch 4, count 8
//!   Accounts kind, name(first 21) [ name(whole) ]   the same of (value, key, its length)
//! ```
//!
//! Each open of the store for writing begins an epoch, with a key of its own that is made from 256
//! random bits and the data key. So a nonce is epoch and count, and neither a copy of the folder
//! nor one that was put back can make it come twice. The tag also covers the family and the stored
//! key: a value under another key is no value.
//!
//! Keys of the accounts say who holds what, so they are stored as names that only the data key
//! yields. The kind stays, and what `scan_prefix` looks for keeps a name of its own. All other
//! keys are heights, places of the tree and digests.
//!
//! Records of the store about itself lie in RocksDB's default family, in clear, each with a
//! checksum: which data key the names are made with, and the salt of each epoch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hufu_crypto::{Aead, Tag};
use rocksdb::{ColumnFamily, DB, Direction, FlushOptions, IteratorMode, WriteOptions};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{CHECKSUM_BYTES, Entry, Family, StateStoreOptions, database};
use crate::error::Error;
use crate::keyring::Keyring;

/// Bytes that encryption adds to a value.
pub(super) const OVERHEAD_BYTES: usize = size_of::<Trailer>();

/// Family of the store's records about itself.
const OWN_FAMILY: &str = "default";
const ENCRYPTION_KEY: &[u8] = b"encryption";
const EPOCH_PREFIX: &[u8] = b"epoch";
const RECORD_VERSION: u32 = crate::data_dir::DATA_FORMAT_VERSION;

/// What follows an encrypted value.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Trailer {
    tag: [u8; 16],
    nonce: Nonce,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Nonce {
    epoch: U32,
    count: U64,
}

/// Whether and how a store is encrypted.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredEncryption {
    version: U32,
    /// Data key that names are made with; 0 in a store that is in clear.
    names_key: U64,
}

/// One open of a store for writing.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredEpoch {
    key_id: U64,
    salt: [u8; 32],
}

/// How a store's keys and values are stored.
pub(super) enum Codec {
    Plain,
    Encrypted(Box<Encryption>),
}

/// Keys and epochs of an encrypted store.
pub(super) struct Encryption {
    keys: Keyring,
    names_key: u64,
    epochs: BTreeMap<u32, Epoch>,
    /// Epoch of what is written; none in a store that is only read.
    own: Option<u32>,
    count: AtomicU64,
}

struct Epoch {
    key_id: u64,
    salt: [u8; 32],
    aead: OnceLock<Arc<dyn Aead>>,
}

/// A key and a value as RocksDB has them.
type StoredEntry = (Box<[u8]>, Box<[u8]>);

/// Keys of a family that are stored as names.
struct Names {
    /// Leading bytes that stay in clear.
    clear: usize,
    /// Leading bytes that have a name of their own, so that entries are found by them.
    prefix: usize,
}

fn names_of(family: Family) -> Option<Names> {
    // Kind; kind and address.
    (family == Family::Accounts).then_some(Names { clear: 1, prefix: 21 })
}

impl Codec {
    /// Reads how the store is encrypted, or decides it for a new one. A store to be written begins
    /// a new epoch, durable when this returns.
    pub(super) fn open(
        db: &DB,
        options: &StateStoreOptions,
        is_writable: bool,
    ) -> Result<Self, Error> {
        let (folder, keys) = (options.folder.as_path(), options.keys.as_ref());
        let own = own_family(db)?;
        let stored = db.get_cf(own, ENCRYPTION_KEY).map_err(|error| database("open", &error))?;
        let is_new = stored.is_none();
        let found = match stored {
            Some(stored) => {
                let stored: StoredEncryption = own_record(ENCRYPTION_KEY, &stored)?;
                if stored.version.get() != RECORD_VERSION {
                    return Err(damaged("the record of its encryption has another format"));
                }
                stored.names_key.get()
            }
            None if is_empty(db)? => {
                keys.map_or(0, |keys| options.names_key.unwrap_or_else(|| keys.current()))
            }
            None => return Err(damaged("it has no record of its encryption")),
        };
        let keys = check_key(folder.to_path_buf(), found, keys)?;
        if is_writable && is_new {
            let (version, names_key) = (U32::new(RECORD_VERSION), U64::new(found));
            let record = StoredEncryption { version, names_key };
            put_own(db, ENCRYPTION_KEY, record.as_bytes())?;
        }
        let Some(keys) = keys else { return Ok(Self::Plain) };
        let mut encryption = Encryption {
            keys: keys.clone(),
            names_key: found,
            epochs: read_epochs(db, folder, keys)?,
            own: None,
            count: AtomicU64::new(0),
        };
        if is_writable {
            encryption.begin_epoch(db)?;
        }
        Ok(Self::Encrypted(Box::new(encryption)))
    }

    /// Which data key keys are named with.
    pub(super) fn names_key(&self) -> Option<u64> {
        match self {
            Self::Plain => None,
            Self::Encrypted(encryption) => Some(encryption.names_key),
        }
    }

    /// What keys are stored as.
    pub(super) fn stored_keys(&self, family: Family, keys: &[impl AsRef<[u8]>]) -> Vec<Vec<u8>> {
        match (self, names_of(family)) {
            (Self::Encrypted(encryption), Some(names)) => encryption.name(&names, keys),
            _ => keys.iter().map(|key| key.as_ref().to_vec()).collect(),
        }
    }

    /// What a key is stored as.
    pub(super) fn stored_key(&self, family: Family, key: &[u8]) -> Vec<u8> {
        self.stored_keys(family, &[key]).pop().unwrap_or_default()
    }

    /// What the stored keys of all keys that begin with `prefix` begin with.
    pub(super) fn stored_prefix(&self, family: Family, prefix: &[u8]) -> Vec<u8> {
        let is_whole = names_of(family).is_none_or(|names| names.prefix == prefix.len());
        let is_found = is_whole || prefix.is_empty() || self.keeps_order(family);
        assert!(is_found, "a name has no beginning to look for");
        if prefix.is_empty() { Vec::new() } else { self.stored_key(family, prefix) }
    }

    /// A value as it is stored.
    pub(super) fn seal(
        &self,
        family: Family,
        key: &[u8],
        stored_key: &[u8],
        mut value: Vec<u8>,
    ) -> Vec<u8> {
        assert!(!key.is_empty());
        match self {
            Self::Plain => {
                if family.has_checksums() {
                    let checksum = family.checksum(key, &value);
                    value.extend_from_slice(&checksum);
                }
                value
            }
            Self::Encrypted(encryption) => {
                value.reserve_exact(OVERHEAD_BYTES + key.len() + 1);
                if names_of(family).is_some() {
                    value.extend_from_slice(key);
                    value.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
                }
                encryption.seal(family, stored_key, value)
            }
        }
    }

    /// The key and the value of what is stored.
    pub(super) fn open_entry(
        &self,
        family: Family,
        stored_key: &[u8],
        mut bytes: Vec<u8>,
    ) -> Result<Entry, Error> {
        let damaged = || {
            let key = stored_key.iter().map(|byte| format!("{byte:02x}")).collect();
            Error::ValueDamaged { family: family.name(), key }
        };
        match self {
            Self::Plain => {
                if family.has_checksums() {
                    let length = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(damaged)?;
                    let (value, sum) = bytes.split_at_checked(length).ok_or_else(damaged)?;
                    if sum != family.checksum(stored_key, value) {
                        return Err(damaged());
                    }
                    bytes.truncate(length);
                }
                Ok((stored_key.into(), bytes))
            }
            Self::Encrypted(encryption) => {
                if !encryption.open(family, stored_key, &mut bytes) {
                    return Err(damaged());
                }
                if names_of(family).is_none() {
                    return Ok((stored_key.into(), bytes));
                }
                let key = take_key(&mut bytes).ok_or_else(damaged)?;
                Ok((key, bytes))
            }
        }
    }

    /// The value stored under `key`.
    pub(super) fn open_value(
        &self,
        family: Family,
        (key, stored_key): (&[u8], &[u8]),
        found: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(bytes) = found else { return Ok(None) };
        let (found, value) = self.open_entry(family, stored_key, bytes)?;
        // Two keys with one name: 160 bits say that it does not happen, and this that it shows.
        if *found == *key {
            return Ok(Some(value));
        }
        let key = stored_key.iter().map(|byte| format!("{byte:02x}")).collect();
        Err(Error::ValueDamaged { family: family.name(), key })
    }

    /// Entries as they are meant, as long as their stored keys begin with `prefix`.
    pub(super) fn entries<'a>(
        &'a self,
        family: Family,
        prefix: Vec<u8>,
        stored: impl Iterator<Item = Result<StoredEntry, rocksdb::Error>> + 'a,
    ) -> impl Iterator<Item = Result<Entry, Error>> + 'a {
        let own = stored.take_while(move |entry| {
            entry.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))
        });
        own.map(move |entry| {
            let (key, value) = entry.map_err(|error| database("iterate", &error))?;
            self.open_entry(family, &key, value.into_vec())
        })
    }

    /// Whether keys of the family are stored in their own order.
    pub(super) fn keeps_order(&self, family: Family) -> bool {
        matches!(self, Self::Plain) || names_of(family).is_none()
    }

    /// Whether values can be written.
    pub(super) fn is_writable(&self) -> bool {
        match self {
            Self::Plain => true,
            Self::Encrypted(encryption) => encryption.own.is_some(),
        }
    }
}

impl Encryption {
    fn begin_epoch(&mut self, db: &DB) -> Result<(), Error> {
        let last = self.epochs.last_key_value().map_or(0, |(number, _)| *number);
        let number = last.checked_add(1).ok_or_else(|| damaged("it was opened too often"))?;
        let (key_id, mut salt) = (self.keys.current(), [0; 32]);
        hufu_crypto::entropy::fill(&mut salt)?;
        let record = StoredEpoch { key_id: U64::new(key_id), salt };
        let key = [EPOCH_PREFIX, &number.to_be_bytes()].concat();
        // Whatever is written in this epoch can be read as long as this is there.
        put_own(db, &key, record.as_bytes())?;
        self.epochs.insert(number, Epoch { key_id, salt, aead: OnceLock::new() });
        self.own = Some(number);
        Ok(())
    }

    fn aead(&self, number: u32) -> Option<&dyn Aead> {
        let epoch = self.epochs.get(&number)?;
        if epoch.aead.get().is_none() {
            let made = self.keys.epoch(epoch.key_id, &epoch.salt)?;
            // Somebody else may have been quicker with the same.
            drop(epoch.aead.set(made));
        }
        epoch.aead.get().map(|aead| &**aead)
    }

    fn seal(&self, family: Family, stored_key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
        let number = self.own.unwrap_or(0);
        let aead = self.aead(number);
        assert!(aead.is_some(), "a store that is only read writes nothing");
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        assert!(count < u64::MAX, "a count that came round would use a nonce twice");
        let nonce = Nonce { epoch: U32::new(number), count: U64::new(count) };
        let bytes = zerocopy::transmute!(nonce);
        let sealed =
            aead.map(|aead| aead.seal(&bytes, &associated(family, stored_key), &mut value));
        if let Some(Tag(tag)) = sealed {
            value.extend_from_slice(Trailer { tag, nonce }.as_bytes());
        }
        value
    }

    /// Decrypts in place and takes the trailer off. False when it does not open.
    fn open(&self, family: Family, stored_key: &[u8], bytes: &mut Vec<u8>) -> bool {
        let Ok((_, trailer)) = Trailer::read_from_suffix(bytes) else { return false };
        bytes.truncate(bytes.len() - OVERHEAD_BYTES);
        let Some(aead) = self.aead(trailer.nonce.epoch.get()) else { return false };
        let (nonce, tag) = (zerocopy::transmute!(trailer.nonce), Tag(trailer.tag));
        aead.open(&nonce, &associated(family, stored_key), bytes, &tag).is_ok()
    }

    fn name(&self, names: &Names, keys: &[impl AsRef<[u8]>]) -> Vec<Vec<u8>> {
        let front = |key: &&[u8]| key.len().min(names.prefix);
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        let fronts: Vec<&[u8]> =
            keys.iter().map(|key| key.get(..front(key)).unwrap_or_default()).collect();
        let longer: Vec<&[u8]> =
            keys.iter().copied().filter(|key| key.len() > names.prefix).collect();
        let fronts = self.keys.names(self.names_key, 1, &fronts).unwrap_or_default();
        let mut wholes =
            self.keys.names(self.names_key, 2, &longer).unwrap_or_default().into_iter();
        assert!(fronts.len() == keys.len(), "the key of the names was there when the store opened");
        let stored = keys.iter().zip(fronts).map(|(key, front)| {
            let mut stored = key.get(..names.clear).unwrap_or_default().to_vec();
            stored.extend_from_slice(&front);
            if key.len() > names.prefix {
                stored.extend(wholes.next().into_iter().flatten());
            }
            stored
        });
        stored.collect()
    }
}

/// What a tag covers beside the value.
fn associated(family: Family, stored_key: &[u8]) -> Vec<u8> {
    let name = family.name().as_bytes();
    let mut bytes = Vec::with_capacity(name.len() + 1 + stored_key.len());
    bytes.extend_from_slice(name);
    bytes.push(0);
    bytes.extend_from_slice(stored_key);
    bytes
}

/// Takes the key off the end of a decrypted value.
fn take_key(bytes: &mut Vec<u8>) -> Option<Box<[u8]>> {
    let size = usize::from(bytes.pop()?);
    let start = bytes.len().checked_sub(size)?;
    Some(bytes.split_off(start).into())
}

/// Refuses a store that is encrypted otherwise than this node was told.
fn check_key(path: PathBuf, found: u64, keys: Option<&Keyring>) -> Result<Option<&Keyring>, Error> {
    match keys {
        None if found == 0 => Ok(None),
        None => Err(Error::KeyMissing { path, found }),
        Some(_) if found == 0 => Err(Error::NotEncrypted { path }),
        Some(keys) if keys.has(found) => Ok(Some(keys)),
        Some(keys) => Err(Error::KeyUnknown { path, found, known: keys.ids() }),
    }
}

fn read_epochs(db: &DB, folder: &Path, keys: &Keyring) -> Result<BTreeMap<u32, Epoch>, Error> {
    let mut epochs = BTreeMap::new();
    let from = IteratorMode::From(EPOCH_PREFIX, Direction::Forward);
    for entry in db.iterator_cf(own_family(db)?, from) {
        let (key, record) = entry.map_err(|error| database("open", &error))?;
        let number = key.strip_prefix(EPOCH_PREFIX).and_then(|rest| rest.try_into().ok());
        let Some(number) = number.map(u32::from_be_bytes) else { break };
        let record: StoredEpoch = own_record(&key, &record)?;
        let key_id = record.key_id.get();
        check_key(folder.to_path_buf(), key_id, Some(keys))?;
        epochs.insert(number, Epoch { key_id, salt: record.salt, aead: OnceLock::new() });
    }
    Ok(epochs)
}

fn own_family(db: &DB) -> Result<&ColumnFamily, Error> {
    db.cf_handle(OWN_FAMILY).ok_or_else(|| damaged("column family default is missing"))
}

/// Writes a record of the store about itself, durable when this returns: before anything that needs
/// it to be read.
fn put_own(db: &DB, key: &[u8], record: &[u8]) -> Result<(), Error> {
    let checksum = own_checksum(key, record);
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    let own = own_family(db)?;
    db.put_cf_opt(own, key, [record, &checksum].concat(), &options)
        .map_err(|error| database("commit", &error))?;
    let mut options = FlushOptions::default();
    options.set_wait(true);
    db.flush_cf_opt(own, &options).map_err(|error| database("flush", &error))
}

fn own_record<T: FromBytes>(key: &[u8], stored: &[u8]) -> Result<T, Error> {
    let record = stored.split_last_chunk::<CHECKSUM_BYTES>();
    let record = record.filter(|(record, sum)| **sum == own_checksum(key, record));
    let record = record.and_then(|(record, _)| T::read_from_bytes(record).ok());
    record.ok_or_else(|| damaged("a record about its encryption is damaged"))
}

fn own_checksum(key: &[u8], record: &[u8]) -> [u8; CHECKSUM_BYTES] {
    crc32c::crc32c_append(crc32c::crc32c(key), record).to_le_bytes()
}

fn is_empty(db: &DB) -> Result<bool, Error> {
    for family in Family::ALL {
        let Some(handle) = db.cf_handle(family.name()) else { continue };
        if let Some(entry) = db.iterator_cf(handle, IteratorMode::Start).next() {
            entry.map_err(|error| database("open", &error))?;
            return Ok(false);
        }
    }
    Ok(true)
}

fn damaged(cause: &str) -> Error {
    Error::Database { operation: "open", cause: cause.to_owned() }
}

//! The state store: what the ledger looks like after the last applied block (RocksDB).
//!
//! ```text
//! execute tile -> StateBatch -> commit(batch, AppliedMark)      one atomic write a block
//! ingress, admin -> get, multi_get, scan, snapshot
//! ```
//!
//! The write-ahead log of RocksDB is off: the block log *is* the write-ahead log. Each commit
//! carries the mark of the block it applies, and all families are flushed together, so what is
//! found after a crash is the state after exactly one block, and replay goes on from its mark.
//!
//! Every value is encrypted, and the keys of accounts are; [`codec`] says how. In a store in clear,
//! values of `Accounts`, `Nonces` and `Buckets` are covered by the state root, and all others get a
//! CRC-32C over family, key and value behind the value. So a flipped bit, or a value under another
//! key, is found when it is read. RocksDB's own block checksums cover every family on disk.

mod codec;
mod options;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use hufu_crypto::Digest;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamily, DB, Direction, FlushOptions, IteratorMode, WriteBatch, WriteOptions};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use codec::Codec;
pub use options::StateStoreOptions;

use crate::block_log::RecordPosition;
use crate::error::Error;

/// Key of the applied mark in [`Family::Metadata`]; no caller may write it.
const APPLIED_KEY: &[u8] = b"applied";
const CHECKSUM_BYTES: usize = size_of::<u32>();
/// Stands for "no block applied" where a height is expected; never a height.
const NO_HEIGHT: u64 = u64::MAX;

/// A class of data, kept apart from the others in its own column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Account states.
    Accounts,
    /// Nonces seen in the validity window.
    Nonces,
    /// Buckets and inner nodes of the state tree.
    Buckets,
    /// Block headers and certificates by height and digest.
    Blocks,
    /// Where each transaction is.
    Transactions,
    /// Receipts.
    Receipts,
    /// Configuration that the ledger decided.
    Configuration,
    /// The applied mark and other facts about the store itself.
    Metadata,
}

impl Family {
    /// All families, in the order in which batches are written.
    pub const ALL: [Self; 8] = [
        Self::Accounts,
        Self::Nonces,
        Self::Buckets,
        Self::Blocks,
        Self::Transactions,
        Self::Receipts,
        Self::Configuration,
        Self::Metadata,
    ];

    /// Name of the column family on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Nonces => "nonces",
            Self::Buckets => "buckets",
            Self::Blocks => "blocks",
            Self::Transactions => "transactions",
            Self::Receipts => "receipts",
            Self::Configuration => "configuration",
            Self::Metadata => "metadata",
        }
    }

    /// True when values carry a checksum because no state root covers them.
    #[must_use]
    pub fn has_checksums(self) -> bool {
        !matches!(self, Self::Accounts | Self::Nonces | Self::Buckets)
    }

    fn index(self) -> usize {
        match self {
            Self::Accounts => 0,
            Self::Nonces => 1,
            Self::Buckets => 2,
            Self::Blocks => 3,
            Self::Transactions => 4,
            Self::Receipts => 5,
            Self::Configuration => 6,
            Self::Metadata => 7,
        }
    }

    fn checksum(self, key: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let seed = crc32c::crc32c(self.name().as_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(seed, key), value).to_le_bytes()
    }
}

/// The block a state belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedMark {
    /// Height of the block.
    pub height: u64,
    /// Its digest.
    pub block_digest: Digest,
    /// Where its block record lies in the block log; its sequence is durable.
    pub log_position: RecordPosition,
    /// Where a replay of the blocks after it begins: at this record, or at the oldest batch before
    /// it that no block had ordered.
    pub replay_from: RecordPosition,
    /// Root of the state after the block.
    pub state_root: Digest,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredMark {
    version: U32,
    height: U64,
    block_digest: Digest,
    log_position: [u8; RecordPosition::STORED_BYTES],
    replay_from: [u8; RecordPosition::STORED_BYTES],
    state_root: Digest,
}

const MARK_VERSION: u32 = crate::data_dir::DATA_FORMAT_VERSION;

/// A key and its new value, or `None` to remove it.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// The same with what the key is stored as in between.
type StoredChange = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// Changes to the state, in any order; the last change to a key wins.
#[derive(Debug, Default)]
pub struct StateBatch {
    families: [Vec<Change>; Family::ALL.len()],
}

impl StateBatch {
    /// A batch without changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value.
    pub fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.push(family, key.into(), Some(value.into()));
    }

    /// Removes a value.
    pub fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) {
        self.push(family, key.into(), None);
    }

    /// Number of changes, counting each change to the same key.
    #[must_use]
    pub fn len(&self) -> usize {
        self.families.iter().map(Vec::len).sum()
    }

    /// True without changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push(&mut self, family: Family, key: Vec<u8>, value: Option<Vec<u8>>) {
        assert!(!key.is_empty());
        assert!(family != Family::Metadata || key != APPLIED_KEY, "only commit writes the mark");
        if let Some(changes) = self.families.get_mut(family.index()) {
            changes.push((key, value));
        }
    }
}

/// One fault found by [`StateStore::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFault {
    /// The family.
    pub family: Family,
    /// What is wrong.
    pub reason: String,
}

/// The state on disk. Shared by reference: one tile commits, any number read.
pub struct StateStore {
    db: DB,
    codec: Codec,
    /// Height of the last commit, for the assertion that heights only grow.
    height: AtomicU64,
}

impl StateStore {
    /// Opens the store, making it if it is not there.
    pub fn open(options: &StateStoreOptions) -> Result<Self, Error> {
        options.check()?;
        let db = options.open()?;
        let codec = Codec::open(&db, options, true)?;
        Self::with(db, codec)
    }

    /// Opens an existing store without changing it.
    pub fn open_read_only(options: &StateStoreOptions) -> Result<Self, Error> {
        options.check()?;
        let db = options.open_read_only()?;
        let codec = Codec::open(&db, options, false)?;
        Self::with(db, codec)
    }

    fn with(db: DB, codec: Codec) -> Result<Self, Error> {
        let store = Self { db, codec, height: AtomicU64::new(NO_HEIGHT) };
        if let Some(mark) = store.applied()? {
            assert!(mark.height != NO_HEIGHT);
            store.height.store(mark.height, Ordering::Relaxed);
        }
        assert!(Family::ALL.iter().all(|family| store.db.cf_handle(family.name()).is_some()));
        Ok(store)
    }

    /// The value under a key.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        assert!(!key.is_empty());
        let stored_key = self.codec.stored_key(family, key);
        let stored = self.db.get_cf(self.handle(family)?, &stored_key);
        let stored = stored.map_err(|error| database("get", &error))?;
        self.codec.open_value(family, (key, &stored_key), stored)
    }

    /// The values under many keys, in the order of the keys.
    pub fn multi_get(
        &self,
        family: Family,
        keys: &[impl AsRef<[u8]>],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let stored_keys = self.codec.stored_keys(family, keys);
        let mut places: Vec<usize> = (0..keys.len()).collect();
        places.sort_by_key(|place| stored_keys.get(*place));
        let ascending = places.iter().filter_map(|place| stored_keys.get(*place));
        let found = self.db.batched_multi_get_cf(self.handle(family)?, ascending, true);
        assert!(found.len() == keys.len());
        let mut values: Vec<Option<Vec<u8>>> = vec![None; keys.len()];
        for (place, found) in places.into_iter().zip(found) {
            let stored = found.map_err(|error| database("get", &error))?;
            let stored = stored.map(|value| value.to_vec());
            let (Some(key), Some(stored_key), Some(value)) =
                (keys.get(place), stored_keys.get(place), values.get_mut(place))
            else {
                continue;
            };
            *value = self.codec.open_value(family, (key.as_ref(), stored_key), stored)?;
        }
        Ok(values)
    }

    /// All entries whose key begins with `prefix`, in the order of [`StateStore::order`].
    ///
    /// An empty prefix gives the whole family. In an encrypted store, keys of accounts are found by
    /// kind and address only.
    pub fn scan_prefix(
        &self,
        family: Family,
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<Entry, Error>> + '_, Error> {
        let prefix = self.codec.stored_prefix(family, prefix);
        let mode = IteratorMode::From(&prefix, Direction::Forward);
        let entries = self.db.iterator_cf(self.handle(family)?, mode);
        Ok(self.codec.entries(family, prefix, entries))
    }

    /// All entries from the key `from` on, in the order of [`StateStore::order`]. In an encrypted
    /// store, accounts are read from the first on only.
    pub fn iterate(
        &self,
        family: Family,
        from: &[u8],
    ) -> Result<impl Iterator<Item = Result<Entry, Error>> + '_, Error> {
        assert!(from.is_empty() || self.codec.keeps_order(family));
        let handle = self.handle(family)?;
        let entries = self.db.iterator_cf(handle, IteratorMode::From(from, Direction::Forward));
        Ok(self.codec.entries(family, Vec::new(), entries))
    }

    /// Which data key its keys are named with, which is the one it was made with; none in clear.
    #[must_use]
    pub fn names_key(&self) -> Option<u64> {
        self.codec.names_key()
    }

    /// Where a key stands among all keys of its family: smaller comes first. It is the key itself,
    /// but for accounts in an encrypted store, where only their kinds ascend. Stores that are
    /// named with the same data key have the same order.
    #[must_use]
    pub fn order(&self, family: Family, key: &[u8]) -> impl Ord + use<> {
        self.codec.stored_key(family, key)
    }

    /// A view that later commits do not change, with the mark of the block it belongs to.
    #[must_use]
    pub fn snapshot(&self) -> StateSnapshot<'_> {
        StateSnapshot { store: self, snapshot: self.db.snapshot() }
    }

    /// Writes the changes of one block and its mark, all or nothing.
    ///
    /// Heights only grow. Not on disk before the next flush; the block log replays what is lost.
    pub fn commit(&self, batch: StateBatch, mark: &AppliedMark) -> Result<(), Error> {
        if !self.codec.is_writable() {
            return Err(Error::Database {
                operation: "commit",
                cause: "the store was opened for reading".to_owned(),
            });
        }
        let before = self.height.load(Ordering::Relaxed);
        assert!(mark.height != NO_HEIGHT);
        assert!(before == NO_HEIGHT || before < mark.height, "heights only grow");
        let mut writes = WriteBatch::default();
        for (family, changes) in Family::ALL.into_iter().zip(batch.families) {
            let handle = self.handle(family)?;
            for (key, stored_key, value) in self.ascending(family, changes) {
                match value {
                    Some(value) => {
                        let value = self.codec.seal(family, &key, &stored_key, value);
                        writes.put_cf(handle, &stored_key, value);
                    }
                    None => writes.delete_cf(handle, &stored_key),
                }
            }
        }
        let (family, key) = (Family::Metadata, APPLIED_KEY);
        let value = self.codec.seal(family, key, key, encode_mark(mark));
        writes.put_cf(self.handle(family)?, key, value);
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(writes, &options).map_err(|error| database("commit", &error))?;
        self.height.store(mark.height, Ordering::Relaxed);
        Ok(())
    }

    /// Changes with what their keys are stored as, in the order of the store.
    fn ascending(&self, family: Family, changes: Vec<Change>) -> Vec<StoredChange> {
        let keys: Vec<&[u8]> = changes.iter().map(|(key, _)| key.as_slice()).collect();
        let stored_keys = self.codec.stored_keys(family, &keys);
        assert!(stored_keys.len() == changes.len());
        let pairs = changes.into_iter().zip(stored_keys);
        let mut changes: Vec<_> =
            pairs.map(|((key, value), stored_key)| (key, stored_key, value)).collect();
        // Stable, so that among changes to one key the last stays last and wins.
        changes.sort_by(|left, right| left.1.cmp(&right.1));
        changes
    }

    /// The mark of the last committed block; `None` in a new store.
    pub fn applied(&self) -> Result<Option<AppliedMark>, Error> {
        self.get(Family::Metadata, APPLIED_KEY)?.map(|bytes| decode_mark(&bytes)).transpose()
    }

    /// Writes everything committed so far to disk, all families together.
    pub fn flush(&self) -> Result<(), Error> {
        let mut handles = Vec::with_capacity(Family::ALL.len());
        for family in Family::ALL {
            handles.push(self.handle(family)?);
        }
        assert!(handles.len() == Family::ALL.len());
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&handles, &options).map_err(|error| database("flush", &error))
    }

    /// Makes a copy of the store in `folder`, which must not exist, sharing files where it can.
    pub fn checkpoint(&self, folder: &Path) -> Result<(), Error> {
        self.flush()?;
        let checkpoint =
            Checkpoint::new(&self.db).map_err(|error| database("checkpoint", &error))?;
        checkpoint.create_checkpoint(folder).map_err(|error| database("checkpoint", &error))
    }

    /// Reads every value and names every fault, at most `faults_max` of them.
    ///
    /// Values without a checksum of their own are checked by RocksDB's block checksums here and by
    /// the state root in the ledger.
    pub fn verify(&self, faults_max: usize) -> Result<Vec<StateFault>, Error> {
        let mut faults = Vec::new();
        for family in Family::ALL {
            for entry in self.iterate(family, &[])? {
                let Err(error) = entry else { continue };
                if faults.len() == faults_max {
                    return Ok(faults);
                }
                faults.push(StateFault { family, reason: error.to_string() });
            }
        }
        assert!(faults.len() <= faults_max);
        Ok(faults)
    }

    /// Bytes the block cache and the write buffers hold now.
    pub fn memory_bytes(&self) -> Result<u64, Error> {
        let read = |handle: &ColumnFamily, name: &str| {
            let value = self.db.property_int_value_cf(handle, name);
            value.map(Option::unwrap_or_default).map_err(|error| database("property", &error))
        };
        // The cache is one for all families, so it is asked once.
        let mut bytes = read(self.handle(Family::Metadata)?, "rocksdb.block-cache-usage")?;
        for family in Family::ALL {
            bytes += read(self.handle(family)?, "rocksdb.cur-size-all-mem-tables")?;
        }
        Ok(bytes)
    }

    fn handle(&self, family: Family) -> Result<&ColumnFamily, Error> {
        self.db.cf_handle(family.name()).ok_or_else(|| Error::Database {
            operation: "open",
            cause: format!("column family {} is missing", family.name()),
        })
    }
}

impl std::fmt::Debug for StateStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StateStore").field("path", &self.db.path()).finish_non_exhaustive()
    }
}

/// A key and its value.
pub type Entry = (Box<[u8]>, Vec<u8>);

/// The state as it was when the snapshot was taken.
pub struct StateSnapshot<'a> {
    store: &'a StateStore,
    snapshot: rocksdb::Snapshot<'a>,
}

impl StateSnapshot<'_> {
    /// The value under a key.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        assert!(!key.is_empty());
        let stored_key = self.store.codec.stored_key(family, key);
        let stored = self.snapshot.get_cf(self.store.handle(family)?, &stored_key);
        let stored = stored.map_err(|error| database("get", &error))?;
        self.store.codec.open_value(family, (key, &stored_key), stored)
    }

    /// As [`StateStore::scan_prefix`].
    pub fn scan_prefix(
        &self,
        family: Family,
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<Entry, Error>> + '_, Error> {
        let prefix = self.store.codec.stored_prefix(family, prefix);
        let mode = IteratorMode::From(&prefix, Direction::Forward);
        let entries = self.snapshot.iterator_cf(self.store.handle(family)?, mode);
        Ok(self.store.codec.entries(family, prefix, entries))
    }

    /// The mark of the block this state belongs to.
    pub fn applied(&self) -> Result<Option<AppliedMark>, Error> {
        self.get(Family::Metadata, APPLIED_KEY)?.map(|bytes| decode_mark(&bytes)).transpose()
    }
}

impl std::fmt::Debug for StateSnapshot<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StateSnapshot").finish_non_exhaustive()
    }
}

fn encode_mark(mark: &AppliedMark) -> Vec<u8> {
    let stored = StoredMark {
        version: U32::new(MARK_VERSION),
        height: U64::new(mark.height),
        block_digest: mark.block_digest,
        log_position: mark.log_position.to_bytes(),
        replay_from: mark.replay_from.to_bytes(),
        state_root: mark.state_root,
    };
    assert!(mark.log_position.sequence > 0 || mark.height == 0);
    assert!(mark.replay_from <= mark.log_position, "a block's batches lie before it");
    assert!(decode_mark(stored.as_bytes()).is_ok_and(|read| read == *mark));
    stored.as_bytes().to_vec()
}

fn decode_mark(bytes: &[u8]) -> Result<AppliedMark, Error> {
    let stored = StoredMark::read_from_bytes(bytes).ok();
    let stored = stored.filter(|stored| stored.version.get() == MARK_VERSION);
    let Some(stored) = stored.filter(|stored| stored.height.get() != NO_HEIGHT) else {
        let cause = "the applied mark has another format".to_owned();
        return Err(Error::Database { operation: "open", cause });
    };
    Ok(AppliedMark {
        height: stored.height.get(),
        block_digest: stored.block_digest,
        log_position: RecordPosition::from_bytes(&stored.log_position),
        replay_from: RecordPosition::from_bytes(&stored.replay_from),
        state_root: stored.state_root,
    })
}

fn database(operation: &'static str, error: &rocksdb::Error) -> Error {
    Error::Database { operation, cause: error.to_string() }
}

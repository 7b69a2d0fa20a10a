//! What the state store is opened with, and what that means for RocksDB.

use std::path::PathBuf;

use hufu_runtime::file::FileSystem;
use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Options};

use super::{Family, database};
use crate::error::Error;
use crate::keyring::Keyring;

const PROBE: &str = "direct.probe";
/// Write buffers kept per family: one filling, one being flushed.
const BUFFERS_COUNT_MAX: i32 = 2;

/// Bytes of RocksDB's own tables, threads and open files, roughly.
const OWN_BYTES: u64 = 20 << 20;

/// Options of the state store. Memory is a promise: [`StateStoreOptions::memory_bytes`]. The
/// defaults stay below 200 MiB.
#[derive(Debug, Clone)]
pub struct StateStoreOptions {
    /// Folder of the store.
    pub folder: PathBuf,
    /// Encrypts and decrypts; without it the store is in clear. A store keeps to what it began
    /// with.
    pub keys: Option<Keyring>,
    /// Which of the keys a new store names its keys with, if not the current one: stores have the
    /// same order where these are the same ([`super::StateStore::names_key`]).
    pub names_key: Option<u64>,
    /// Bytes of blocks, indexes and filters kept in memory.
    pub cache_bytes: usize,
    /// Bytes of changes of all families kept in memory before they are flushed.
    pub write_buffer_bytes: usize,
    /// Threads of RocksDB for flushes and compactions.
    pub background_jobs: i32,
    /// Files of the store kept open.
    pub open_files_max: i32,
    /// Tells whether flush and compaction bypass the page cache.
    pub file_system: FileSystem,
}

impl StateStoreOptions {
    /// The defaults: in clear, 64 MiB of cache, 48 MiB of write buffers, two background threads.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            keys: None,
            names_key: None,
            cache_bytes: 64 << 20,
            write_buffer_bytes: 48 << 20,
            background_jobs: 2,
            open_files_max: 256,
            file_system: FileSystem::default(),
        }
    }

    /// Bytes a store takes at most: block cache, write buffers twice over while a flush is under
    /// way, and what RocksDB needs for itself.
    #[must_use]
    pub fn memory_bytes(cache_bytes: u64, write_buffer_bytes: u64) -> u64 {
        let buffers = write_buffer_bytes.saturating_mul(2);
        cache_bytes.saturating_add(buffers).saturating_add(OWN_BYTES)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let size = crate::widths::offset;
        let rules = [
            (
                self.cache_bytes >= 1 << 20,
                "cache_bytes",
                size(self.cache_bytes),
                "must be at least 1 MiB",
            ),
            (
                self.write_buffer_bytes >= 1 << 20,
                "write_buffer_bytes",
                size(self.write_buffer_bytes),
                "must be at least 1 MiB",
            ),
            (
                (1..=64).contains(&self.background_jobs),
                "background_jobs",
                u64::try_from(self.background_jobs).unwrap_or(0),
                "must be 1..=64",
            ),
            (
                (64..=1 << 20).contains(&self.open_files_max),
                "open_files_max",
                u64::try_from(self.open_files_max).unwrap_or(0),
                "must be 64..=1048576",
            ),
        ];
        for (kept, key, value, rule) in rules {
            if !kept {
                return Err(Error::Option { key, value, rule });
            }
        }
        Ok(())
    }

    pub(super) fn open(&self) -> Result<DB, Error> {
        self.file_system.make_folder(&self.folder)?;
        let mut options = self.database();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_use_direct_io_for_flush_and_compaction(self.probe_direct()?);
        let opened = DB::open_cf_descriptors(&options, &self.folder, self.families());
        opened.map_err(|error| database("open", &error))
    }

    pub(super) fn open_read_only(&self) -> Result<DB, Error> {
        let families = self.families();
        let opened =
            DB::open_cf_descriptors_read_only(&self.database(), &self.folder, families, false);
        opened.map_err(|error| database("open", &error))
    }

    fn database(&self) -> Options {
        let mut options = Options::default();
        options.set_atomic_flush(true);
        options.set_db_write_buffer_size(self.write_buffer_bytes);
        options.set_max_background_jobs(self.background_jobs);
        options.set_max_open_files(self.open_files_max);
        options.set_paranoid_checks(true);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(4 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_compression_type(DBCompressionType::None);
        // One tile writes, in key order: without concurrent writers the memory tables remember
        // where the last key went, which makes the next one cheap.
        options.set_allow_concurrent_memtable_write(false);
        options.set_enable_write_thread_adaptive_yield(false);
        options
    }

    fn families(&self) -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(self.cache_bytes);
        let mut tables = BlockBasedOptions::default();
        tables.set_block_cache(&cache);
        tables.set_bloom_filter(10.0, false);
        // Indexes and filters count towards the cache, or memory would grow with the state.
        tables.set_cache_index_and_filter_blocks(true);
        tables.set_cache_index_and_filter_blocks_with_high_priority(true);
        tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
        let mut options = Options::default();
        options.set_block_based_table_factory(&tables);
        options.set_write_buffer_size(self.write_buffer_bytes / 2);
        options.set_max_write_buffer_number(BUFFERS_COUNT_MAX);
        // Most nonces looked up are new: a filter answers for the memory tables too.
        options.set_memtable_prefix_bloom_ratio(0.05);
        options.set_memtable_whole_key_filtering(true);
        options.set_compression_type(DBCompressionType::None);
        let names = Family::ALL.iter().map(|family| family.name());
        let all: Vec<_> = std::iter::once("default")
            .chain(names)
            .map(|name| ColumnFamilyDescriptor::new(name, options.clone()))
            .collect();
        assert!(all.len() == Family::ALL.len() + 1);
        all
    }

    /// Asks the file system of the folder whether it takes direct I/O; RocksDB refuses to open
    /// when it is told so wrongly.
    fn probe_direct(&self) -> Result<bool, Error> {
        let path = self.folder.join(PROBE);
        if self.file_system.exists(&path)? {
            self.file_system.remove(&path)?;
        }
        let direct = self.file_system.create(&path)?.is_direct();
        self.file_system.remove(&path)?;
        Ok(direct)
    }
}

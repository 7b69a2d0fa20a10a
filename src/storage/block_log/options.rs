//! What a log is opened with. All memory of the log follows from these numbers.

use std::path::PathBuf;
use std::sync::Arc;

use hufu_crypto::{Digest, Hasher};
use hufu_runtime::file::{AlignedBuffer, Backend, FileSystem};

use super::LogKind;
use super::format::{
    BLOCK, GROUP_BYTES_MAX, GROUP_HEADER_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES,
    padded_bytes,
};
use super::segment::ZEROES_BYTES;
use crate::error::Error;
use crate::keyring::Keyring;
use crate::widths;

/// Groups in flight at most; more gained nothing in `facts/storage.md`.
pub(crate) const DEPTH_MAX: u32 = 4;

/// Ordinary groups in memory beside those in flight: one collects, one waits sealed.
pub(crate) const BUFFERS_BESIDE_DEPTH: u32 = 2;

/// Longest payload of one record that any log takes, in bytes, and what logs take by default.
pub const RECORD_BYTES_MAX: u32 = 8 << 20;

/// Options of a log. Start from [`LogOptions::new`] and change what the configuration says.
#[derive(Clone)]
pub struct LogOptions {
    /// Folder of the segments; made if it is not there.
    pub folder: PathBuf,
    /// What the log is for.
    pub kind: LogKind,
    /// The chain the log belongs to; a log of another chain is refused.
    pub chain: Digest,
    /// Hashes the leaves of groups, in as many lanes as the provider has.
    pub hasher: Arc<dyn Hasher>,
    /// Encrypts and decrypts; without it the log is stored in clear. A log keeps to what it began
    /// with.
    pub keys: Option<Keyring>,
    /// How files are opened.
    pub file_system: FileSystem,
    /// How the disk is reached. `Auto` is io_uring where it is allowed: the device writes one group
    /// while the next one is collected and hashed. The synchronous back end does one after the
    /// other on the log's own thread.
    pub backend: Backend,
    /// Groups in flight at most, 1..=4.
    pub depth: u32,
    /// Size of a segment in bytes, header included; a multiple of 4 KiB below 4 GiB.
    pub segment_bytes: u64,
    /// Size of a group in bytes at which it is closed; a multiple of 4 KiB, at most 8 MiB.
    pub group_bytes_max: u32,
    /// Longest payload of one record in bytes, at most 8 MiB. A record that does not fit an
    /// ordinary group makes a group of its own.
    pub record_bytes_max: u32,
    /// Segments written ahead before the log opens. The one after them is written piece by piece
    /// while the log runs.
    pub segments_ready_at_open: u32,
    /// Newest segments whose groups are checked at open. Older ones have only their headers
    /// checked; `ledger verify` checks everything.
    pub segments_checked_at_open: u32,
    /// A group sequence known from elsewhere to have been durable; a log that ends before it is
    /// damaged. 0 if nothing is known.
    pub known_durable: u64,
}

impl LogOptions {
    /// The defaults: stored in clear, 64 MiB segments, groups of 1 MiB, records up to 8 MiB, one
    /// group in flight.
    #[must_use]
    pub fn new(
        folder: impl Into<PathBuf>,
        kind: LogKind,
        chain: Digest,
        hasher: Arc<dyn Hasher>,
    ) -> Self {
        Self {
            folder: folder.into(),
            kind,
            chain,
            hasher,
            keys: None,
            file_system: FileSystem::default(),
            backend: Backend::Auto,
            depth: 1,
            segment_bytes: 64 << 20,
            group_bytes_max: 1 << 20,
            record_bytes_max: RECORD_BYTES_MAX,
            segments_ready_at_open: 0,
            segments_checked_at_open: 64,
            known_durable: 0,
        }
    }

    /// Checks ranges and relations.
    pub fn check(&self) -> Result<(), Error> {
        let block = widths::offset(BLOCK);
        let group = u64::from(self.group_bytes_max);
        let largest = widths::offset(self.longest_group());
        let faults = [
            (
                !(1..=DEPTH_MAX).contains(&self.depth),
                "depth",
                u64::from(self.depth),
                "must be 1..=4",
            ),
            (
                group < block || !group.is_multiple_of(block) || group > 8 << 20,
                "group_bytes_max",
                group,
                "must be a multiple of 4096, 4096..=8388608",
            ),
            (
                self.record_bytes_max == 0 || largest > widths::offset(GROUP_BYTES_MAX),
                "record_bytes_max",
                u64::from(self.record_bytes_max),
                "must be 1..=8388608",
            ),
            (
                !self.segment_bytes.is_multiple_of(block)
                    || self.segment_bytes < SEGMENT_HEADER_BYTES + largest
                    || self.segment_bytes > u64::from(u32::MAX),
                "segment_bytes",
                self.segment_bytes,
                "must be a multiple of 4096, hold the longest record, and stay below 4 GiB",
            ),
            (
                self.segments_checked_at_open == 0,
                "segments_checked_at_open",
                0,
                "must be at least 1",
            ),
        ];
        for (broken, key, value, rule) in faults {
            if broken {
                return Err(Error::Option { key, value, rule });
            }
        }
        Ok(())
    }

    /// Bytes of the buffers a log takes when it opens and keeps, by the options they follow from.
    #[must_use]
    pub fn memory_bytes(depth: u32, group_bytes_max: u32, record_bytes_max: u32) -> u64 {
        let longest = widths::offset(longest(group_bytes_max, record_bytes_max));
        let large = Some(longest).filter(|bytes| *bytes > u64::from(group_bytes_max));
        let ordinary = u64::from(depth) + u64::from(BUFFERS_BESIDE_DEPTH);
        AlignedBuffer::resident_bytes(group_bytes_max.into())
            .saturating_mul(ordinary)
            .saturating_add(large.map_or(0, AlignedBuffer::resident_bytes))
            .saturating_add(widths::offset(ZEROES_BYTES))
    }

    /// What every segment of this log is opened with.
    pub(crate) fn chain_and_keys(&self) -> (&Digest, Option<&Keyring>) {
        (&self.chain, self.keys.as_ref())
    }

    /// Bytes of the longest group these options allow.
    pub(crate) fn longest_group(&self) -> usize {
        longest(self.group_bytes_max, self.record_bytes_max)
    }
}

fn longest(group_bytes_max: u32, record_bytes_max: u32) -> usize {
    const { assert!(GROUP_HEADER_BYTES + RECORD_HEADER_BYTES < BLOCK) };
    // With room for the tags of an encrypted one, so that memory does not depend on it.
    let alone = padded_bytes(RECORD_HEADER_BYTES + widths::index(record_bytes_max), true);
    alone.max(widths::index(group_bytes_max))
}

impl std::fmt::Debug for LogOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LogOptions")
            .field("folder", &self.folder)
            .field("kind", &self.kind)
            .field("backend", &self.backend)
            .field("depth", &self.depth)
            .field("segment_bytes", &self.segment_bytes)
            .field("group_bytes_max", &self.group_bytes_max)
            .finish_non_exhaustive()
    }
}

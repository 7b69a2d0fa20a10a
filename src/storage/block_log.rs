//! The block log: opaque records made durable in order, in groups, on disk segments.
//!
//! ```text
//! persist tile -> append -> open group -> (full, or device idle) -> sealed -> FileRing -> durable
//!                                                                     ^ one chain of headers
//! LogReader  <- execute (replay), network (sync), ledger verify
//! ```
//!
//! The persist tile owns the [`BlockLog`]; readers are handed out to others and see only what is
//! durable. The log *is* the write-ahead log of the state store. It never retries, never reads a
//! clock, never starts a thread, and knows nothing of what its records mean.
//!
//! **Torn tail or damage.** Every group header carries the highest sequence that was known durable
//! when it was handed to the device. A group that does not check out is *damage* if anything later
//! proves that it was durable: a later header whose durable mark reaches it, a later segment
//! (activated only when everything before it is durable), or the sequence the caller knows from
//! elsewhere. Otherwise it is taken for a *torn tail*, also when groups behind it (in flight at the
//! same time) are complete. A torn tail is zeroed at the next open, and each open begins a new
//! epoch with a marker group, so old tail bytes never become valid again.
//!
//! **Not covered.** The last groups acknowledged before a stop that was not clean: unless a known
//! sequence vouches for them, damage there looks like a torn tail, for nothing later was written.
//! [`RecoveryReport::torn`] says that something was cut off; who opens the log must tell its
//! operator, and bring every sequence it can know: the state store's and the vote log's marks.
//!
//! **Trusting the disk.** Between a kill and the next open nobody knows what was synced. An open
//! makes the folder and the last segment durable before it writes its marker; earlier segments were
//! durable before the last one began.

mod cipher;
mod format;
mod group;
mod options;
mod reader;
mod recovery;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod tree;
mod verify;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use format::Damage;
pub use options::{LogOptions, RECORD_BYTES_MAX};
pub use reader::{LogReader, Record, Start};
pub use recovery::{RecoveryReport, Torn};
pub use verify::{Fault, VerifyReport, verify};
pub use writer::{Appended, BlockLog, Progress};

/// What a log is for; it decides the magic bytes of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// Batches and blocks.
    Block,
    /// What consensus must not forget.
    Vote,
}

impl LogKind {
    fn segment_magic(self) -> [u8; 8] {
        match self {
            Self::Block => *b"HUFUBLKS",
            Self::Vote => *b"HUFUVOTS",
        }
    }

    fn group_magic(self) -> [u8; 8] {
        match self {
            Self::Block => *b"HUFUBLKG",
            Self::Vote => *b"HUFUVOTG",
        }
    }
}

/// Where a record lies. Ordered as the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPosition {
    /// Sequence of the group the record is in; the unit of durability. Counts from 1.
    pub sequence: u64,
    /// Segment, as in the file name.
    pub segment: u32,
    /// Offset of the group in the segment, in bytes.
    pub group_offset: u32,
    /// Offset of the record in the group, in bytes.
    pub record_offset: u32,
}

/// Stored form of a [`RecordPosition`].
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredPosition {
    sequence: U64,
    segment: U32,
    group_offset: U32,
    record_offset: U32,
}

impl RecordPosition {
    /// Length of the stored form, in bytes.
    pub const STORED_BYTES: usize = size_of::<StoredPosition>();

    /// The stored form: sequence, segment, group offset, record offset, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::STORED_BYTES] {
        let stored = StoredPosition {
            sequence: U64::new(self.sequence),
            segment: U32::new(self.segment),
            group_offset: U32::new(self.group_offset),
            record_offset: U32::new(self.record_offset),
        };
        zerocopy::transmute!(stored)
    }

    /// Reads the stored form. Whether a record is there is checked when it is read.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::STORED_BYTES]) -> Self {
        let stored: StoredPosition = zerocopy::transmute!(*bytes);
        Self {
            sequence: stored.sequence.get(),
            segment: stored.segment.get(),
            group_offset: stored.group_offset.get(),
            record_offset: stored.record_offset.get(),
        }
    }

    /// Offset of the record in the segment, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.group_offset) + u64::from(self.record_offset)
    }
}

/// Every group up to and with this sequence is on the disk. Only a log makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurableSequence(u64);

impl DurableSequence {
    /// The sequence; 0 means that nothing is durable yet.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// True when the record at `position` is on the disk.
    #[must_use]
    pub fn covers(self, position: &RecordPosition) -> bool {
        position.sequence <= self.0
    }
}

/// What a log has on the disk, for others than its owner. Cheap to clone; never goes back.
#[derive(Debug, Clone)]
pub struct DurableMark(Arc<Shared>);

impl DurableMark {
    /// The highest sequence that is durable now.
    #[must_use]
    pub fn get(&self) -> DurableSequence {
        DurableSequence(self.0.durable())
    }
}

/// A segment as readers need it.
#[derive(Debug, Clone, Copy)]
struct SegmentEntry {
    segment: u32,
    first_sequence: u64,
}

/// What the writer tells its readers.
#[derive(Debug)]
struct Shared {
    durable: AtomicU64,
    segments: Mutex<Vec<SegmentEntry>>,
}

impl Shared {
    fn new(durable: u64, segments: Vec<SegmentEntry>) -> Self {
        assert!(segments.windows(2).all(|pair| match pair {
            [first, second] => first.segment < second.segment,
            _ => true,
        }));
        Self { durable: AtomicU64::new(durable), segments: Mutex::new(segments) }
    }

    fn durable(&self) -> u64 {
        // Acquire pairs with the release in `advance`: whoever sees the mark sees the bytes, which
        // the kernel has, and the segment table as it was then.
        self.durable.load(Ordering::Acquire)
    }

    fn advance(&self, sequence: u64) {
        assert!(sequence > self.durable.load(Ordering::Relaxed));
        self.durable.store(sequence, Ordering::Release);
    }

    fn push(&self, entry: SegmentEntry) {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(segments.last().is_none_or(|last| last.segment < entry.segment));
        segments.push(entry);
    }

    /// Removes the oldest segment from the table; its file is about to go.
    fn forget_first(&self) -> Option<u32> {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        (segments.len() > 1).then(|| segments.remove(0).segment)
    }

    fn first(&self) -> Option<SegmentEntry> {
        let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.first().copied()
    }

    fn numbers(&self) -> Vec<u32> {
        let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.iter().map(|entry| entry.segment).collect()
    }

    fn entry(&self, segment: u32) -> Option<SegmentEntry> {
        let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.iter().find(|entry| entry.segment == segment).copied()
    }

    /// The second-oldest segment, whose first sequence tells where the oldest one ends.
    fn second(&self) -> Option<SegmentEntry> {
        let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.get(1).copied()
    }
}

//! The vote log: what consensus must not forget across a crash.
//!
//! ```text
//! consensus -> persist-vote tile -> append ... sync -> Durable<SignIntent>, published votes
//!                                   seal(height) after a height is decided
//! ```
//!
//! One tile owns it, apart from the block log, so that a vote never waits behind a block. It has
//! the format and the recovery of the block log under its own magic, with one group in flight on
//! the caller's thread: one pwrite and one fdatasync per sync. The next segment is written ahead in
//! [`VoteLog::prepare`], which the tile calls when no vote waits; a sync pays for a segment only
//! where it was never called.
//!
//! Sealing a height keeps its records as audit; recovery hands out what came after the newest seal
//! and, for the guard's last sign intents, the records of the last few sealed heights. A seal also
//! notes how far the block log was durable, and so vouches for the end of that log.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use hufu_crypto::{Digest, Hasher};
use hufu_runtime::file::{Backend, FileSystem};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block_log::{
    Appended, BlockLog, DurableSequence, LogKind, LogOptions, LogReader, RecordPosition,
    RecoveryReport, Start, VerifyReport, verify,
};
use crate::error::Error;
use crate::keyring::Keyring;

/// Longest payload of a vote-log record, in bytes.
pub const VOTE_RECORD_BYTES_MAX: u32 = 64 << 10;

/// Groups in flight: a vote waits for its own sync only.
const DEPTH: u32 = 1;

/// Bytes at which a group of votes is closed.
const GROUP_BYTES_MAX: u32 = 128 << 10;

/// The record kind that marks a sealed height. Callers use lower kinds.
pub const KIND_SEAL: u16 = u16::MAX;

/// Options of a vote log.
#[derive(Clone)]
pub struct VoteLogOptions {
    /// Folder of the segments; made if it is not there.
    pub folder: PathBuf,
    /// The chain the log belongs to.
    pub chain: Digest,
    /// Hashes the leaves of groups.
    pub hasher: Arc<dyn Hasher>,
    /// Encrypts and decrypts; without it the log is stored in clear.
    pub keys: Option<Keyring>,
    /// How files are opened.
    pub file_system: FileSystem,
    /// Size of a segment in bytes, a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// Sealed heights whose records recovery still hands out, at least 1.
    pub heights_recovered: u32,
    /// Sealed heights kept on disk, whole segments at least; `None` keeps all of them as audit.
    /// Older segments are used again. At least `heights_recovered`.
    pub heights_kept: Option<u32>,
    /// A group sequence known from elsewhere to have been durable, 0 if nothing is known.
    pub known_durable: u64,
}

impl VoteLogOptions {
    /// The defaults: stored in clear, 4 MiB segments, two sealed heights recovered, everything
    /// kept.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, chain: Digest, hasher: Arc<dyn Hasher>) -> Self {
        Self {
            folder: folder.into(),
            chain,
            hasher,
            keys: None,
            file_system: FileSystem::default(),
            segment_bytes: 4 << 20,
            heights_recovered: 2,
            heights_kept: None,
            known_durable: 0,
        }
    }

    /// Bytes of the buffers a vote log takes when it opens and keeps.
    #[must_use]
    pub fn memory_bytes() -> u64 {
        LogOptions::memory_bytes(DEPTH, GROUP_BYTES_MAX, VOTE_RECORD_BYTES_MAX)
    }

    fn log(&self) -> LogOptions {
        let hasher = Arc::clone(&self.hasher);
        let mut options = LogOptions::new(&self.folder, LogKind::Vote, self.chain, hasher);
        options.keys = self.keys.clone();
        options.file_system = self.file_system.clone();
        options.backend = Backend::Sync;
        options.depth = DEPTH;
        options.segment_bytes = self.segment_bytes;
        options.group_bytes_max = GROUP_BYTES_MAX;
        options.record_bytes_max = VOTE_RECORD_BYTES_MAX;
        options.known_durable = self.known_durable;
        options
    }

    fn check(&self) -> Result<(), Error> {
        let (recovered, kept) = (self.heights_recovered, self.heights_kept);
        if recovered == 0 {
            let (key, rule) = ("heights_recovered", "must be at least 1");
            return Err(Error::Option { key, value: 0, rule });
        }
        if let Some(kept) = kept.filter(|kept| *kept < recovered) {
            let (key, rule) = ("heights_kept", "must be at least heights_recovered");
            return Err(Error::Option { key, value: u64::from(kept), rule });
        }
        Ok(())
    }
}

/// A record of the vote log, as recovery hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoteRecord {
    /// Where it lies.
    pub position: RecordPosition,
    /// What it is, as consensus said.
    pub kind: u16,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// What a seal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// The height that is decided, and whose block record is durable in the block log.
    pub height: u64,
    /// A group of the block log that was durable then, that of the block record or a later one.
    pub log_sequence: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredSeal {
    height: U64,
    log_sequence: U64,
}

impl Seal {
    /// Reads the payload of a record of kind [`KIND_SEAL`]; `None` where it is not one.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let stored = StoredSeal::read_from_bytes(payload).ok()?;
        Some(Self { height: stored.height.get(), log_sequence: stored.log_sequence.get() })
    }

    fn stored(self) -> StoredSeal {
        let (height, log_sequence) = (U64::new(self.height), U64::new(self.log_sequence));
        StoredSeal { height, log_sequence }
    }
}

/// What the vote log knows after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VoteRecovery {
    /// The newest seal.
    pub seal: Option<Seal>,
    /// Records of the last sealed heights, oldest first.
    pub sealed: Vec<VoteRecord>,
    /// Records since the newest seal, oldest first: what the engine replays.
    pub open: Vec<VoteRecord>,
}

/// The append-only log of one identity's votes.
#[derive(Debug)]
pub struct VoteLog {
    log: BlockLog,
    heights_recovered: usize,
    heights_kept: Option<usize>,
    sealed_height: Option<u64>,
    /// Group sequences of the newest seals, oldest first; only as many as are kept.
    seals: VecDeque<u64>,
}

impl VoteLog {
    /// Whether there is a vote log in `options.folder`.
    pub fn exists(options: &VoteLogOptions) -> Result<bool, Error> {
        BlockLog::exists(&options.log())
    }

    /// As [`BlockLog::check_keys`].
    ///
    /// # Errors
    /// What is encrypted otherwise, and how.
    pub fn check_keys(options: &VoteLogOptions) -> Result<(), Error> {
        BlockLog::check_keys(&options.log())
    }

    /// Opens the log and tells what consensus must know before it acts.
    pub fn open(options: &VoteLogOptions) -> Result<(Self, VoteRecovery, RecoveryReport), Error> {
        options.check()?;
        let (log, report) = BlockLog::open(options.log())?;
        let count = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let mut votes = Self {
            log,
            heights_recovered: count(options.heights_recovered),
            heights_kept: options.heights_kept.map(count),
            sealed_height: None,
            seals: VecDeque::new(),
        };
        let recovery = votes.recover()?;
        votes.sealed_height = recovery.seal.map(|seal| seal.height);
        assert!(votes.sealed_height.is_some() || recovery.sealed.is_empty());
        Ok((votes, recovery, report))
    }

    /// Takes a record. It is not durable before [`VoteLog::sync`].
    pub fn append(&mut self, kind: u16, payload: &[u8]) -> Result<RecordPosition, Error> {
        assert!(kind != KIND_SEAL, "this kind marks sealed heights");
        self.place(kind, payload)
    }

    /// Makes every record appended so far durable: one write and one fdatasync.
    pub fn sync(&mut self) -> Result<DurableSequence, Error> {
        if hufu_types::planted!("votes_unsynced") {
            return Ok(self.log.durable());
        }
        let durable = self.log.flush()?;
        assert!(durable >= self.log.durable());
        Ok(durable)
    }

    /// Writes a piece of the next segment ahead, if it is due; false when nothing was done. To be
    /// called when no vote waits.
    pub fn prepare(&mut self) -> Result<bool, Error> {
        self.log.prepare()
    }

    /// Marks a height as decided, durably. Its records stay as audit and are not replayed again.
    pub fn seal(&mut self, seal: Seal) -> Result<DurableSequence, Error> {
        let height = seal.height;
        assert!(self.sealed_height.is_none_or(|sealed| sealed < height), "heights only grow");
        let position = self.place(KIND_SEAL, seal.stored().as_bytes())?;
        let durable = self.log.flush()?;
        assert!(durable.covers(&position));
        self.sealed_height = Some(height);
        if let Some(kept) = self.heights_kept {
            self.seals.push_back(position.sequence);
            // The records of the oldest height kept begin behind the seal before it.
            if self.seals.len() > kept + 1 {
                self.seals.pop_front();
            }
            if self.seals.len() > kept
                && let Some(oldest) = self.seals.front()
            {
                self.log.recycle_before(*oldest)?;
            }
        }
        Ok(durable)
    }

    /// The records since the newest seal and those of the last sealed heights.
    pub fn recover(&mut self) -> Result<VoteRecovery, Error> {
        let begin = self.find_seals()?;
        let mut recovery = VoteRecovery::default();
        let mut reader = self.log.reader();
        reader.seek(begin.map_or(Start::Beginning, Start::After))?;
        while let Some(record) = reader.next()? {
            if record.kind == KIND_SEAL {
                let Some(seal) = Seal::parse(record.payload) else {
                    return Err(seal_damaged(&record.position));
                };
                recovery.seal = Some(seal);
                recovery.sealed.append(&mut recovery.open);
                continue;
            }
            recovery.open.push(VoteRecord {
                position: record.position,
                kind: record.kind,
                payload: record.payload.to_vec(),
            });
        }
        assert!(recovery.seal.is_some() || recovery.sealed.is_empty());
        Ok(recovery)
    }

    /// What is on the disk.
    #[must_use]
    pub fn durable(&self) -> DurableSequence {
        self.log.durable()
    }

    /// Syncs and writes the mark of a clean stop.
    pub fn close(self) -> Result<DurableSequence, Error> {
        self.log.close()
    }

    /// Opens a vote log that nobody writes, to read all its records, seals included, without
    /// changing it.
    pub fn reader(options: &VoteLogOptions) -> Result<(LogReader, RecoveryReport), Error> {
        options.check()?;
        LogReader::open(options.log())
    }

    /// The newest seal of a vote log that nobody writes.
    pub fn last_seal(options: &VoteLogOptions) -> Result<Option<Seal>, Error> {
        let (mut reader, _) = Self::reader(options)?;
        let mut newest = None;
        for segment in reader.segments().into_iter().rev() {
            reader.seek_segment(segment);
            while let Some(record) = reader.next()? {
                if record.position.segment != segment {
                    break;
                }
                if record.kind == KIND_SEAL {
                    let Some(seal) = Seal::parse(record.payload) else {
                        return Err(seal_damaged(&record.position));
                    };
                    newest = Some(seal);
                }
            }
            if newest.is_some() {
                break;
            }
        }
        Ok(newest)
    }

    /// Checks every byte of a vote log that nobody writes.
    pub fn verify(options: &VoteLogOptions) -> Result<VerifyReport, Error> {
        options.check()?;
        verify(&options.log(), &mut |_done, _total| {})
    }

    fn place(&mut self, kind: u16, payload: &[u8]) -> Result<RecordPosition, Error> {
        loop {
            match self.log.append(kind, &[payload])? {
                Appended::Placed(position) => return Ok(position),
                // More than fits between two syncs: the part so far goes to the disk now.
                Appended::Full => drop(self.log.flush()?),
            }
        }
    }

    /// Finds the seal behind which the records of the recovered heights begin.
    ///
    /// Reads segments backwards from the newest, so the length of the log does not matter.
    fn find_seals(&mut self) -> Result<Option<RecordPosition>, Error> {
        let wanted = self.heights_kept.unwrap_or(self.heights_recovered) + 1;
        let mut reader = self.log.reader();
        let mut seals: VecDeque<RecordPosition> = VecDeque::new();
        for segment in reader.segments().into_iter().rev() {
            reader.seek_segment(segment);
            let mut found = Vec::new();
            while let Some(record) = reader.next()? {
                if record.position.segment != segment {
                    break;
                }
                if record.kind == KIND_SEAL {
                    found.push(record.position);
                }
            }
            for position in found.into_iter().rev() {
                seals.push_front(position);
            }
            if seals.len() >= wanted {
                break;
            }
        }
        seals.drain(..seals.len().saturating_sub(wanted));
        if self.heights_kept.is_some() {
            self.seals = seals.iter().map(|position| position.sequence).collect();
        }
        let before = seals.len().checked_sub(self.heights_recovered + 1);
        assert!(seals.len() <= wanted);
        Ok(before.and_then(|index| seals.get(index)).copied())
    }
}

/// A seal whose payload is not one: its group was whole, so its writer was not ours.
fn seal_damaged(position: &RecordPosition) -> Error {
    let (segment, offset, sequence) = (position.segment, position.offset(), position.sequence);
    Error::NoSuchRecord { segment, offset, sequence }
}

#[cfg(test)]
mod tests;

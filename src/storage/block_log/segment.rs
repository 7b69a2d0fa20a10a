//! Segments as files: names, headers, and the next segment written ahead.
//!
//! ```text
//! NNNNNNNNNN.tmp   --zeroes written, synced-->  NNNNNNNNNN.ready
//! NNNNNNNNNN.ready --header written, synced-->  NNNNNNNNNN.log     (rename, folder synced)
//! NNNNNNNNNNNNNNNNNNNN.epoch                     empty; its name is the newest epoch claimed
//! ```
//!
//! A `.log` file therefore always has a valid header: one that has not is damaged, never torn. A
//! segment turns into `.log` only when every group before it is durable.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use hufu_crypto::Digest;
use hufu_runtime::file::{AlignedBuffer, DirectFile, FileError, FileSystem};

use super::LogKind;
use super::format::{BLOCK, Damage, FORMAT_VERSION, SegmentFacts};
use crate::error::Error;
use crate::keyring::Keyring;
use crate::widths;

/// Bytes of zeroes written at a time when a segment is prepared.
pub(super) const ZEROES_BYTES: usize = 1 << 20;
/// Old segments kept for reuse at most.
const SPARES_MAX: usize = 2;

/// Extension of the empty file whose name is the newest epoch claimed.
const EPOCH: &str = "epoch";
/// Digits of its name, as many as the largest epoch has.
const EPOCH_DIGITS: usize = 20;

/// The three states of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Temporary,
    Ready,
    Log,
}

impl State {
    fn extension(self) -> &'static str {
        match self {
            Self::Temporary => "tmp",
            Self::Ready => "ready",
            Self::Log => "log",
        }
    }
}

/// Path of a segment file.
pub(crate) fn path(folder: &Path, segment: u32, state: State) -> PathBuf {
    folder.join(format!("{segment:010}.{}", state.extension()))
}

/// Claims `epoch`, so that no later open takes it again: durable when this returns, and with it
/// every name in the folder that recovery saw, also those that a killed process gave and never
/// synced.
///
/// A group is known by (epoch, sequence). What the groups themselves say does not do: the one group
/// of an epoch may be the torn one.
pub(crate) fn claim_epoch(
    file_system: &FileSystem,
    folder: &Path,
    claimed: &BTreeSet<u64>,
    epoch: u64,
) -> Result<(), Error> {
    assert!(claimed.iter().all(|before| *before < epoch));
    let name = |epoch: u64| folder.join(format!("{epoch:0EPOCH_DIGITS$}.{EPOCH}"));
    let mut before = claimed.iter();
    match before.next_back() {
        Some(last) => file_system.rename(&name(*last), &name(epoch))?,
        None => drop(file_system.create(&name(epoch))?),
    }
    for older in before {
        file_system.remove(&name(*older))?;
    }
    Ok(file_system.sync_dir(folder)?)
}

/// The segment files of a folder. Names that are not segments are left alone.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) logs: BTreeSet<u32>,
    pub(crate) ready: BTreeSet<u32>,
    pub(crate) temporary: BTreeSet<u32>,
    /// Epochs that were claimed; the newest counts.
    pub(crate) epochs: BTreeSet<u64>,
}

impl Listing {
    pub(crate) fn read(file_system: &FileSystem, folder: &Path) -> Result<Self, Error> {
        let mut listing = Self::default();
        for name in file_system.names(folder)? {
            let Some((stem, extension)) = name.split_once('.') else { continue };
            let digits = stem.bytes().all(|byte| byte.is_ascii_digit());
            if digits && stem.len() == EPOCH_DIGITS && extension == EPOCH {
                listing.epochs.extend(stem.parse::<u64>().ok());
            }
            let digits = digits && stem.len() == 10;
            let Some(segment) = stem.parse().ok().filter(|_| digits) else { continue };
            match extension {
                "log" => drop(listing.logs.insert(segment)),
                "ready" => drop(listing.ready.insert(segment)),
                "tmp" => drop(listing.temporary.insert(segment)),
                _ => {}
            }
        }
        Ok(listing)
    }
}

/// Opens a `.log` file for reading and checks its header.
pub(crate) fn open(
    file_system: &FileSystem,
    folder: &Path,
    kind: LogKind,
    (chain, keys): (&Digest, Option<&Keyring>),
    segment: u32,
) -> Result<(DirectFile, SegmentFacts), Error> {
    let path = path(folder, segment, State::Log);
    let file = file_system.open_read(&path)?;
    let mut block = AlignedBuffer::new(BLOCK);
    let damaged =
        |damage| Error::Corrupted { folder: folder.to_path_buf(), segment, offset: 0, damage };
    match file.read(0, &mut block, BLOCK) {
        Err(FileError::EndOfFile { .. }) => return Err(damaged(Damage::Truncated)),
        other => other?,
    }
    let facts = match SegmentFacts::decode(kind, segment, &block) {
        Ok(facts) => facts,
        Err(damage) => return Err(damaged(damage)),
    };
    // The checksum vouches for version and chain, so these are refusals, not damage.
    match SegmentFacts::peek_version(kind, &block) {
        Some(FORMAT_VERSION) => {}
        found => {
            let (found, expected) = (found.unwrap_or(0), FORMAT_VERSION);
            return Err(Error::OtherVersion { path, found, expected });
        }
    }
    if facts.chain != *chain.as_bytes() {
        let (found, expected) = (Digest(facts.chain).to_string(), chain.to_string());
        return Err(Error::OtherChain { path, found, expected });
    }
    if file.bytes()? < facts.segment_bytes {
        return Err(damaged(Damage::Truncated));
    }
    check_key(&path, facts.key_id, keys)?;
    assert!(facts.segment == segment);
    Ok((file, facts))
}

/// Refuses what is encrypted otherwise than this node was told: nothing is wrong with the bytes.
fn check_key(path: &Path, found: u64, keys: Option<&Keyring>) -> Result<(), Error> {
    let path = path.to_path_buf();
    match keys {
        None if found == 0 => Ok(()),
        None => Err(Error::KeyMissing { path, found }),
        Some(_) if found == 0 => Err(Error::NotEncrypted { path }),
        Some(keys) if keys.has(found) => Ok(()),
        Some(keys) => Err(Error::KeyUnknown { path, found, known: keys.ids() }),
    }
}

/// A segment being filled with zeroes.
struct Filling {
    segment: u32,
    file: DirectFile,
    done: u64,
}

/// Keeps segments written ahead, a piece at a time on the thread that owns the log.
pub(crate) struct Preparer {
    file_system: FileSystem,
    folder: PathBuf,
    segment_bytes: u64,
    zeroes: AlignedBuffer,
    filling: Option<Filling>,
    /// Segments ready, in order, with whether they hold bytes of an older life.
    ready: VecDeque<(u32, bool)>,
    /// Oldest `.log` files that nobody needs, in order.
    spares: VecDeque<u32>,
    /// The segment after the last one that is ready or being filled.
    next: u32,
}

impl Preparer {
    /// `next` is the first segment that is not yet a `.log` file.
    pub(crate) fn new(
        file_system: FileSystem,
        folder: &Path,
        segment_bytes: u64,
        next: u32,
    ) -> Result<Self, Error> {
        assert!(segment_bytes > widths::offset(BLOCK));
        assert!(segment_bytes.is_multiple_of(widths::offset(BLOCK)));
        let mut preparer = Self {
            file_system,
            folder: folder.to_path_buf(),
            segment_bytes,
            zeroes: AlignedBuffer::new(ZEROES_BYTES),
            filling: None,
            ready: VecDeque::new(),
            spares: VecDeque::new(),
            next,
        };
        preparer.adopt(next)?;
        Ok(preparer)
    }

    /// Takes over the segments an earlier process prepared and removes what it left half done.
    fn adopt(&mut self, next: u32) -> Result<(), Error> {
        let listing = Listing::read(&self.file_system, &self.folder)?;
        for segment in &listing.temporary {
            self.file_system.remove(&path(&self.folder, *segment, State::Temporary))?;
        }
        for segment in &listing.ready {
            let path = path(&self.folder, *segment, State::Ready);
            let file = self.file_system.open_read(&path)?;
            if *segment == self.next && file.bytes()? == self.segment_bytes {
                // The header is rewritten at activation. A first block that is not zero tells a
                // recycled segment, or a crash while its header was written; the difference only
                // decides whether the unused end must be zero, so the careful answer is taken.
                let mut block = AlignedBuffer::new(BLOCK);
                file.read(0, &mut block, BLOCK)?;
                self.ready.push_back((*segment, block.iter().any(|byte| *byte != 0)));
                self.next += 1;
            } else {
                self.file_system.remove(&path)?;
            }
        }
        assert!(self.next >= next);
        Ok(())
    }

    /// Segments that can be activated at once.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Bytes of the segment in work that are written.
    pub(crate) fn filled_bytes(&self) -> u64 {
        self.filling.as_ref().map_or(0, |filling| filling.done)
    }

    /// Reserves the room of the next segment, so that a full disk shows here.
    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        if self.filling.is_some() || self.reuse_spare()? {
            return Ok(());
        }
        let (segment, bytes) = (self.next, self.segment_bytes);
        let path = path(&self.folder, segment, State::Temporary);
        let file = self.file_system.create(&path)?;
        let room = file.allocate(bytes).and_then(|()| file.set_bytes(bytes));
        if let Err(error) = room {
            return Err(self.give_up(segment, error));
        }
        self.filling = Some(Filling { segment, file, done: 0 });
        Ok(())
    }

    /// Writes the next zeroes, at most one megabyte. True when the segment became ready.
    pub(crate) fn step(&mut self) -> Result<bool, Error> {
        self.begin()?;
        let Some(filling) = self.filling.as_mut() else { return Ok(true) };
        let left = self.segment_bytes - filling.done;
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(self.zeroes.len());
        assert!(bytes.is_multiple_of(BLOCK));
        let (segment, done) = (filling.segment, filling.done);
        let mut written = filling.file.write(done, &self.zeroes, bytes);
        filling.done += widths::offset(bytes);
        let finished = filling.done == self.segment_bytes;
        if finished && written.is_ok() {
            written = filling.file.sync_data();
        }
        if let Err(error) = written {
            return Err(self.give_up(segment, error));
        }
        if finished {
            self.filling = None;
            self.file_system.rename(
                &path(&self.folder, segment, State::Temporary),
                &path(&self.folder, segment, State::Ready),
            )?;
            self.ready.push_back((segment, false));
            self.next += 1;
        }
        Ok(finished)
    }

    /// Gives the oldest `.log` file up for use as a later segment, without new zeroes.
    ///
    /// Its groups carry the old segment number, so recovery never takes them for new ones. Until
    /// it is renamed it stays what it was. More than two wait for no one: the oldest is removed.
    pub(crate) fn recycle(&mut self, old: u32) -> Result<(), Error> {
        assert!(old < self.next);
        assert!(self.spares.back().is_none_or(|last| *last < old));
        self.spares.push_back(old);
        if self.spares.len() > SPARES_MAX
            && let Some(oldest) = self.spares.pop_front()
        {
            self.file_system.remove(&path(&self.folder, oldest, State::Log))?;
            // Were a later removal to last and this one not, there would be a gap.
            self.file_system.sync_dir(&self.folder)?;
        }
        Ok(())
    }

    /// Makes the oldest spare the next ready segment. False when there is none that fits.
    fn reuse_spare(&mut self) -> Result<bool, Error> {
        let Some(oldest) = self.spares.pop_front() else { return Ok(false) };
        let from = path(&self.folder, oldest, State::Log);
        if self.file_system.open_read(&from)?.bytes()? != self.segment_bytes {
            self.file_system.remove(&from)?;
            self.file_system.sync_dir(&self.folder)?;
            return Ok(false);
        }
        self.file_system.rename(&from, &path(&self.folder, self.next, State::Ready))?;
        // Otherwise the header of its new life could be found under the old name.
        self.file_system.sync_dir(&self.folder)?;
        self.ready.push_back((self.next, true));
        self.next += 1;
        assert!(!self.ready.is_empty());
        Ok(true)
    }

    /// Turns the next ready segment into a `.log` file; durable when this returns.
    pub(crate) fn activate(&mut self, mut facts: SegmentFacts) -> Result<DirectFile, Error> {
        while self.ready.is_empty() {
            self.step()?;
        }
        let Some((segment, recycled)) = self.ready.pop_front() else {
            return Err(Error::Stopped { folder: self.folder.clone() });
        };
        assert!(segment == facts.segment);
        assert!(facts.segment_bytes == self.segment_bytes);
        facts.recycled = recycled;
        let ready = path(&self.folder, segment, State::Ready);
        let log = path(&self.folder, segment, State::Log);
        let file = self.file_system.open_write(&ready)?;
        let mut block = AlignedBuffer::new(BLOCK);
        facts.encode(&mut block);
        file.write(0, &block, BLOCK)?;
        file.sync_data()?;
        drop(file);
        self.file_system.rename(&ready, &log)?;
        self.file_system.sync_dir(&self.folder)?;
        Ok(self.file_system.open_write(&log)?)
    }

    /// Names a full disk as such and gives its room back; other errors pass as they are.
    fn give_up(&mut self, segment: u32, error: FileError) -> Error {
        self.filling = None;
        if !error.is_disk_full() {
            return Error::File(error);
        }
        // Without this the half-made segment would eat the room an operator is about to free.
        let removal = self.file_system.remove(&path(&self.folder, segment, State::Temporary));
        let available = self.file_system.available_bytes(&self.folder);
        match (removal, available) {
            (Ok(()), Ok(available_bytes)) => Error::DiskFull {
                segment,
                needed_bytes: self.segment_bytes,
                folder: self.folder.clone(),
                available_bytes,
            },
            (Err(other), _) | (_, Err(other)) => Error::File(other),
        }
    }
}

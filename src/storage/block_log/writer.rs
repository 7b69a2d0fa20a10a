//! The writing side of a log: groups are collected, handed to the device, and reported durable.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use hufu_runtime::file::{
    AlignedBuffer, Backend, Completion, DirectFile, FileError, FileRing, RingOptions, Token,
};

use super::cipher::{GroupCipher, GroupName};
use super::format::{
    ChainLink, FLAG_OPEN, FLAG_SEAL, GroupHeader, GroupPlace, RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES, SegmentFacts, padded_bytes,
};
use super::group::{GroupSlot, OpenGroup, SealedGroup};
use super::options::{BUFFERS_BESIDE_DEPTH, LogOptions};
use super::reader::LogReader;
use super::recovery::{self, FIRST_HASH, Recovered, RecoveryReport, Tail};
use super::segment::{self, Listing, Preparer, State};
use super::{Damage, DurableMark, DurableSequence, RecordPosition, SegmentEntry, Shared};
use crate::error::Error;
use crate::keyring::Keyring;
use crate::widths;

/// What became of a record that was offered.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is in a group; durable once [`DurableSequence::covers`] says so.
    Placed(RecordPosition),
    /// All buffers are on their way to the disk: poll, then offer it again.
    Full,
}

/// What a poll brought.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is on the disk.
    pub durable: DurableSequence,
    /// True when more is durable than before this poll.
    pub advanced: bool,
    /// True when nothing is collected, waiting or in flight. With the synchronous back end nothing
    /// is ever left in flight, so a poll that is not idle wants another one at once; so does one
    /// that advanced with io_uring, and after one that did not [`BlockLog::descriptor`] tells when.
    pub idle: bool,
}

/// Counters for metrics; they only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Records appended.
    pub records_total: u64,
    /// Groups handed to the device.
    pub groups_total: u64,
    /// Bytes of these groups, headers and padding included.
    pub bytes_total: u64,
    /// Segments begun.
    pub segments_total: u64,
}

/// The segment that groups are written to.
struct Active {
    facts: SegmentFacts,
    file: Arc<DirectFile>,
}

/// Where the next group will lie.
#[derive(Clone, Copy)]
struct Planned {
    segment: u32,
    offset: u64,
    end: u64,
}

struct InFlight {
    token: Token,
    sequence: u64,
}

/// An append-only log of opaque records; see the module for what it promises.
pub struct BlockLog {
    options: LogOptions,
    ring: FileRing,
    preparer: Preparer,
    shared: Arc<Shared>,
    active: Active,
    planned: Planned,
    open: Option<OpenGroup>,
    sealed: VecDeque<SealedGroup>,
    in_flight: VecDeque<InFlight>,
    completions: Vec<Completion>,
    buffers: Vec<AlignedBuffer>,
    buffer_large: Option<AlignedBuffer>,
    sequence_next: u64,
    link: ChainLink,
    epoch: u64,
    counters: LogCounters,
    stopped: bool,
}

impl BlockLog {
    /// Whether there is a log in `options.folder`: an open of it has returned at least once, or was
    /// about to.
    pub fn exists(options: &LogOptions) -> Result<bool, Error> {
        let (system, folder) = (&options.file_system, &options.folder);
        Ok(system.exists(folder)? && !Listing::read(system, folder)?.logs.is_empty())
    }

    /// Whether the log in `options.folder`, if there is one, is encrypted with keys of
    /// `options.keys`, or in clear if there are none. Looks at the first segment that has a header.
    ///
    /// # Errors
    /// [`Error::KeyMissing`], [`Error::KeyUnknown`], [`Error::NotEncrypted`]; what else is wrong
    /// with the log is for others to say.
    pub fn check_keys(options: &LogOptions) -> Result<(), Error> {
        if !Self::exists(options)? {
            return Ok(());
        }
        let (system, folder) = (&options.file_system, &options.folder);
        for number in Listing::read(system, folder)?.logs {
            let common = options.chain_and_keys();
            match segment::open(system, folder, options.kind, common, number) {
                Ok(_) => return Ok(()),
                Err(
                    error @ (Error::KeyMissing { .. }
                    | Error::KeyUnknown { .. }
                    | Error::NotEncrypted { .. }),
                ) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Opens the log in `options.folder`, making it if there is none, after recovery.
    ///
    /// A torn tail is cut off and reported; damage, a full disk or another chain is an error. When
    /// this returns, a marker group of the new epoch is durable.
    pub fn open(options: LogOptions) -> Result<(Self, RecoveryReport), Error> {
        options.check()?;
        let recovered = recovery::recover(&options)?;
        options.file_system.make_folder(&options.folder)?;
        let (tail, segments, report, preparer, epoch) = match recovered {
            Some(Recovered { segments, tail, report }) => {
                let next = tail
                    .facts
                    .segment
                    .checked_add(1)
                    .ok_or_else(|| segments_end(&options, &tail))?;
                recovery::secure_tail(&options, &tail)?;
                let epoch = begin_epoch(&options, tail.link.epoch)?;
                (tail, segments, report, new_preparer(&options, next)?, epoch)
            }
            None => create(&options)?,
        };
        let path = segment::path(&options.folder, tail.facts.segment, State::Log);
        let file = Arc::new(options.file_system.open_write(&path)?);
        let ring_options = RingOptions { backend: options.backend, depth: options.depth };
        let count = widths::index(options.depth + BUFFERS_BESIDE_DEPTH);
        let group_bytes = widths::index(options.group_bytes_max);
        let large = options.longest_group();
        let planned = Planned {
            segment: tail.facts.segment,
            offset: tail.offset,
            end: tail.facts.segment_bytes,
        };
        let mut log = Self {
            ring: FileRing::new(ring_options)?,
            preparer,
            shared: Arc::new(Shared::new(tail.sequence, segments)),
            active: Active { facts: tail.facts, file },
            planned,
            open: None,
            sealed: VecDeque::with_capacity(count),
            in_flight: VecDeque::with_capacity(count),
            completions: Vec::with_capacity(count),
            buffers: (0..count).map(|_| AlignedBuffer::resident(group_bytes)).collect(),
            buffer_large: (large > group_bytes).then(|| AlignedBuffer::resident(large)),
            sequence_next: tail.sequence + 1,
            link: tail.link,
            epoch,
            counters: LogCounters::default(),
            stopped: false,
            options,
        };
        log.prepare_at_open()?;
        log.mark(FLAG_OPEN)?;
        Ok((log, report))
    }

    /// Puts a record into the group being collected. `parts` are stored one after the other.
    pub fn append(&mut self, kind: u16, parts: &[&[u8]]) -> Result<Appended, Error> {
        self.check_running()?;
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > widths::index(self.options.record_bytes_max) {
            let (bytes, bytes_max) = (widths::offset(bytes), self.options.record_bytes_max);
            return Err(Error::RecordTooLong { bytes, bytes_max });
        }
        if self.open.as_ref().is_some_and(|group| !group.fits(bytes)) {
            self.seal_open();
        }
        if self.open.is_none()
            && !self.guarded(|log| log.begin_group(RECORD_HEADER_BYTES + bytes, 0))?
        {
            return Ok(Appended::Full);
        }
        let Some(group) = self.open.as_mut() else { return Ok(Appended::Full) };
        let position = group.put(kind, parts, &*self.options.hasher);
        self.counters.records_total += 1;
        assert!(position.sequence > self.shared.durable());
        Ok(Appended::Placed(position))
    }

    /// True when [`BlockLog::append`] would take a record with `bytes` of payload now.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        if self.open.as_ref().is_some_and(|group| group.fits(bytes)) {
            return true;
        }
        if bytes > widths::index(self.options.record_bytes_max) {
            return false;
        }
        let needed = padded_bytes(RECORD_HEADER_BYTES + bytes, self.options.keys.is_some());
        if needed <= widths::index(self.options.group_bytes_max) {
            !self.buffers.is_empty()
        } else {
            self.buffer_large.as_ref().is_some_and(|buffer| needed <= buffer.len())
        }
    }

    /// Collects what became durable and hands over what is ready.
    ///
    /// Full groups go as soon as the device takes them; a group still collecting goes when nothing
    /// is in flight. With the synchronous back end this call writes and syncs; with io_uring and
    /// one group in flight it may sync what is written. Any error is final.
    pub fn poll(&mut self) -> Result<Progress, Error> {
        self.check_running()?;
        let before = self.shared.durable();
        self.guarded(|log| {
            log.reap()?;
            let written = log.hand_over()?;
            // What is done at once announces itself to nobody who sleeps.
            log.reap()?;
            log.prepare_ahead(written)
        })?;
        let durable = self.shared.durable();
        assert!(durable >= before);
        Ok(Progress {
            durable: DurableSequence(durable),
            advanced: durable > before,
            idle: self.open.is_none() && self.sealed.is_empty() && self.in_flight.is_empty(),
        })
    }

    /// Writes a piece of the next segment ahead if this one is filled so far that it is due; false
    /// when nothing is. [`BlockLog::poll`] does it by itself; who only calls [`BlockLog::flush`]
    /// calls this when nobody waits.
    pub fn prepare(&mut self) -> Result<bool, Error> {
        self.check_running()?;
        self.guarded(Self::prepare_step)
    }

    /// Makes everything appended so far durable before it returns: one write and one sync for each
    /// group, and nothing else while the segment has room.
    pub fn flush(&mut self) -> Result<DurableSequence, Error> {
        self.check_running()?;
        self.seal_open();
        self.guarded(|log| {
            loop {
                log.hand_over()?;
                if log.sealed.is_empty() && log.in_flight.is_empty() {
                    return Ok(());
                }
                log.wait()?;
            }
        })?;
        assert!(self.shared.durable() + 1 == self.sequence_next);
        assert!(self.open.is_none());
        Ok(self.durable())
    }

    /// Flushes, then writes the seal that tells a clean stop from a crash.
    pub fn close(mut self) -> Result<DurableSequence, Error> {
        self.flush()?;
        self.mark(FLAG_SEAL)?;
        Ok(self.durable())
    }

    /// What is on the disk.
    #[must_use]
    pub fn durable(&self) -> DurableSequence {
        DurableSequence(self.shared.durable())
    }

    /// Tells others what is on the disk, also while this log goes on.
    #[must_use]
    pub fn durable_mark(&self) -> DurableMark {
        DurableMark(Arc::clone(&self.shared))
    }

    /// A reader of what is durable, also while this log goes on.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader::attached(self.options.clone(), Arc::clone(&self.shared))
    }

    /// Descriptor that turns readable when a poll will bring something.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.ring.descriptor()
    }

    /// The back end in use.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.ring.backend()
    }

    /// True when the segment in use bypasses the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.active.file.is_direct()
    }

    /// Counters since this log was opened.
    #[must_use]
    pub fn counters(&self) -> LogCounters {
        self.counters
    }

    /// Gives up segments that hold only groups before `sequence`; their files are used again.
    pub(crate) fn recycle_before(&mut self, sequence: u64) -> Result<(), Error> {
        assert!(sequence <= self.sequence_next);
        while self.shared.second().is_some_and(|entry| entry.first_sequence <= sequence) {
            let Some(oldest) = self.shared.forget_first() else { break };
            assert!(oldest < self.active.facts.segment);
            self.guarded(|log| log.preparer.recycle(oldest))?;
        }
        Ok(())
    }

    /// Bytes of the buffers that are not in flight.
    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> u64 {
        let buffers = self.buffers.iter().chain(&self.buffer_large);
        buffers.map(|buffer| widths::offset(buffer.len())).sum()
    }

    fn check_running(&self) -> Result<(), Error> {
        if self.stopped {
            return Err(Error::Stopped { folder: self.options.folder.clone() });
        }
        assert!(self.sequence_next > self.shared.durable());
        Ok(())
    }

    /// Runs `work`; an error of it stops the log for good.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        assert!(!self.stopped);
        let result = work(self);
        self.stopped = result.is_err();
        result
    }

    /// Writes a group without records and waits for it.
    fn mark(&mut self, flag: u32) -> Result<(), Error> {
        assert!(self.open.is_none() && self.sealed.is_empty());
        assert!(flag == FLAG_OPEN || flag == FLAG_SEAL);
        let begun = self.guarded(|log| log.begin_group(0, flag))?;
        assert!(begun, "all buffers are free when nothing is in flight");
        self.flush()?;
        Ok(())
    }

    /// Plans the next group for `payload` bytes of records. False when no buffer is free.
    fn begin_group(&mut self, payload: usize, flags: u32) -> Result<bool, Error> {
        assert!(self.open.is_none());
        let needed = padded_bytes(payload, self.options.keys.is_some());
        let ordinary = needed <= widths::index(self.options.group_bytes_max);
        let taken = if ordinary { self.buffers.pop() } else { self.buffer_large.take() };
        let Some(buffer) = taken else { return Ok(false) };
        if self.planned.end - self.planned.offset < widths::offset(needed) {
            self.planned = Planned {
                segment: self.planned.segment + 1,
                offset: SEGMENT_HEADER_BYTES,
                end: self.options.segment_bytes,
            };
        }
        let left = self.planned.end - self.planned.offset;
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let capacity = if ordinary { buffer.len().min(left) } else { needed };
        assert!(capacity >= needed && capacity <= left);
        let slot = GroupSlot {
            segment: self.planned.segment,
            offset: self.planned.offset,
            sequence: self.sequence_next,
            flags,
        };
        let name = GroupName {
            kind: self.options.kind,
            chain: *self.options.chain.as_bytes(),
            segment: slot.segment,
            offset: slot.offset,
            epoch: self.epoch,
            sequence: slot.sequence,
            flags,
        };
        let keys = self.options.keys.as_ref();
        let cipher = keys.map(|keys| GroupCipher::begin(keys, &name)).transpose()?;
        self.sequence_next += 1;
        self.open = Some(OpenGroup::new(slot, buffer, capacity, cipher));
        Ok(true)
    }

    /// Closes the group being collected, if there is one.
    fn seal_open(&mut self) {
        let Some(group) = self.open.take() else { return };
        let group = group.seal(&*self.options.hasher);
        assert!(group.slot.segment == self.planned.segment);
        assert!(group.slot.offset == self.planned.offset);
        self.planned.offset += u64::from(group.body.padded_bytes);
        assert!(self.planned.offset <= self.planned.end);
        self.sealed.push_back(group);
    }

    /// Hands sealed groups to the device while it takes them; returns the bytes handed over.
    fn hand_over(&mut self) -> Result<u64, Error> {
        let mut bytes = 0;
        loop {
            if self.sealed.is_empty() && self.in_flight.is_empty() {
                self.seal_open();
            }
            let Some(group) = self.sealed.front() else { return Ok(bytes) };
            if group.slot.segment != self.active.facts.segment {
                if !self.in_flight.is_empty() {
                    // A segment may begin only when everything before it is durable.
                    return Ok(bytes);
                }
                self.rotate()?;
            }
            if !self.ring.has_room(&self.active.file) {
                return Ok(bytes);
            }
            if let Some(group) = self.sealed.pop_front() {
                bytes += u64::from(group.body.padded_bytes);
                self.submit(group)?;
            }
        }
    }

    fn submit(&mut self, mut group: SealedGroup) -> Result<(), Error> {
        let slot = group.slot;
        assert!(slot.segment == self.active.facts.segment);
        let place = GroupPlace {
            kind: self.options.kind,
            seed: self.active.facts.seed(),
            segment: slot.segment,
            flags: slot.flags,
            epoch: self.epoch,
            sequence: slot.sequence,
            durable: self.shared.durable(),
            previous: self.link.hash,
        };
        let hash = GroupHeader::encode(&mut group.buffer, &group.body, &place);
        self.link = ChainLink { hash, epoch: self.epoch };
        let bytes = group.body.padded_bytes;
        assert!(slot.offset + u64::from(bytes) <= self.active.facts.segment_bytes);
        match self.ring.submit(&self.active.file, slot.offset, group.buffer, bytes) {
            Ok(token) => {
                self.in_flight.push_back(InFlight { token, sequence: slot.sequence });
                self.counters.groups_total += 1;
                self.counters.bytes_total += u64::from(bytes);
                Ok(())
            }
            Err(refused) => Err(refused.error.unwrap_or(FileError::RingFailed).into()),
        }
    }

    /// Takes note of the groups that became durable.
    fn reap(&mut self) -> Result<(), Error> {
        self.ring.poll(&mut self.completions)?;
        self.take_completions();
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Error> {
        self.ring.wait(&mut self.completions)?;
        self.take_completions();
        Ok(())
    }

    fn take_completions(&mut self) {
        for completion in self.completions.drain(..) {
            let flight = self.in_flight.pop_front();
            assert!(flight.as_ref().is_some_and(|flight| flight.token == completion.token));
            if let Some(flight) = flight {
                assert!(flight.sequence == self.shared.durable() + 1);
                self.shared.advance(flight.sequence);
            }
            if completion.buffer.len() > widths::index(self.options.group_bytes_max) {
                self.buffer_large = Some(completion.buffer);
            } else {
                self.buffers.push(completion.buffer);
            }
        }
    }

    /// Begins the next segment. Everything before it is durable.
    fn rotate(&mut self) -> Result<(), Error> {
        assert!(self.in_flight.is_empty());
        let Some(first) = self.sealed.front().map(|group| group.slot) else { return Ok(()) };
        assert!(first.segment == self.active.facts.segment + 1);
        assert!(first.sequence == self.shared.durable() + 1);
        let facts = SegmentFacts {
            segment: first.segment,
            segment_bytes: self.options.segment_bytes,
            epoch: self.epoch,
            first_sequence: first.sequence,
            previous: self.link.hash,
            key_id: self.options.keys.as_ref().map_or(0, Keyring::current),
            ..self.active.facts
        };
        let file = Arc::new(self.preparer.activate(facts)?);
        self.shared.push(SegmentEntry { segment: first.segment, first_sequence: first.sequence });
        self.active = Active { facts, file };
        self.counters.segments_total += 1;
        Ok(())
    }

    /// Finishes the segments asked for and reserves the room of the one after them.
    fn prepare_at_open(&mut self) -> Result<(), Error> {
        let wanted = widths::index(self.options.segments_ready_at_open);
        self.guarded(|log| {
            while log.preparer.ready_count() < wanted {
                log.preparer.step()?;
            }
            if log.preparer.ready_count() == 0 { log.preparer.begin() } else { Ok(()) }
        })
    }

    /// Writes the next segment ahead at the pace at which this one fills, an eighth in front.
    fn prepare_ahead(&mut self, written: u64) -> Result<(), Error> {
        let steps = 1 + written.div_ceil(1 << 20);
        assert!(steps > 0);
        for _step in 0..steps {
            if !self.prepare_step()? {
                break;
            }
        }
        Ok(())
    }

    fn prepare_step(&mut self) -> Result<bool, Error> {
        let end = self.active.facts.segment_bytes;
        let target = (self.planned.offset + end / 8).min(self.options.segment_bytes);
        assert!(target > 0);
        if self.preparer.ready_count() > 0 || self.preparer.filled_bytes() >= target {
            return Ok(false);
        }
        self.preparer.step()?;
        Ok(true)
    }
}

impl AsFd for BlockLog {
    /// The same as [`BlockLog::descriptor`], for sets of descriptors to sleep on.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor()
    }
}

impl std::fmt::Debug for BlockLog {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("BlockLog")
            .field("options", &self.options)
            .field("durable", &self.shared.durable())
            .field("sequence_next", &self.sequence_next)
            .field("epoch", &self.epoch)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

type Beginning = (Tail, Vec<SegmentEntry>, RecoveryReport, Preparer, u64);

/// Makes the first segment of a new log.
fn create(options: &LogOptions) -> Result<Beginning, Error> {
    let mut salt = [0; 16];
    hufu_crypto::entropy::fill(&mut salt)?;
    let facts = SegmentFacts {
        kind: options.kind,
        chain: *options.chain.as_bytes(),
        segment: 0,
        recycled: false,
        segment_bytes: options.segment_bytes,
        epoch: begin_epoch(options, 0)?,
        first_sequence: 1,
        previous: FIRST_HASH,
        salt,
        key_id: options.keys.as_ref().map_or(0, Keyring::current),
    };
    let mut preparer = new_preparer(options, 0)?;
    drop(preparer.activate(facts)?);
    let link = ChainLink { hash: FIRST_HASH, epoch: facts.epoch };
    let tail = Tail { facts, offset: SEGMENT_HEADER_BYTES, sequence: 0, link };
    let report = RecoveryReport {
        segments_count: 1,
        segments_checked: 1,
        groups_checked: 0,
        last_sequence: 0,
        sealed: true,
        torn: None,
    };
    assert!(tail.offset < facts.segment_bytes);
    let entry = SegmentEntry { segment: 0, first_sequence: facts.first_sequence };
    Ok((tail, vec![entry], report, preparer, facts.epoch))
}

fn new_preparer(options: &LogOptions, next: u32) -> Result<Preparer, Error> {
    assert!(options.segment_bytes > SEGMENT_HEADER_BYTES);
    Preparer::new(options.file_system.clone(), &options.folder, options.segment_bytes, next)
}

/// Begins an epoch later than `last`, the one of the last good group, and than all claimed before.
fn begin_epoch(options: &LogOptions, last: u64) -> Result<u64, Error> {
    let claimed = Listing::read(&options.file_system, &options.folder)?.epochs;
    let epoch = claimed.last().map_or(last, |newest| last.max(*newest)).saturating_add(1);
    segment::claim_epoch(&options.file_system, &options.folder, &claimed, epoch)?;
    assert!(epoch > last);
    Ok(epoch)
}

/// The name of the last segment leaves no name for the next one: no log of ours came so far.
fn segments_end(options: &LogOptions, tail: &Tail) -> Error {
    let (segment, damage) = (tail.facts.segment, Damage::HeaderFields);
    Error::Corrupted { folder: options.folder.clone(), segment, offset: 0, damage }
}

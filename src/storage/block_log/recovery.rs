//! What a log holds after a stop of any kind: the good part, and what to do with the rest.

use std::collections::BTreeSet;

use hufu_crypto::{Digest, Hasher};
use hufu_runtime::file::{AlignedBuffer, DirectFile};

use super::SegmentEntry;
use super::format::{BLOCK, ChainLink, Damage, FLAG_SEAL, SEGMENT_HEADER_BYTES, SegmentFacts};
use super::options::LogOptions;
use super::scan::SegmentScan;
use super::segment::{self, Listing, State};
use crate::error::Error;
use crate::widths;

/// Bytes of the tail that are looked at, and zeroed, at a time.
const ZEROES_BYTES: usize = 1 << 20;

/// Bytes behind the last good group that were being written when the process or the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// The last segment.
    pub segment: u32,
    /// Where the good part ends, in bytes.
    pub offset: u64,
    /// Sequence the group there would have had.
    pub sequence: u64,
    /// What is wrong with the bytes there.
    pub damage: Damage,
}

/// What was found when a log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments of the log.
    pub segments_count: u32,
    /// Segments whose groups were checked.
    pub segments_checked: u32,
    /// Groups checked.
    pub groups_checked: u64,
    /// Sequence of the last good group, 0 for a new log.
    pub last_sequence: u64,
    /// True when the log was closed cleanly, or is new.
    pub sealed: bool,
    /// The torn tail that was cut off, if there was one.
    pub torn: Option<Torn>,
}

/// Where a log goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    pub(super) facts: SegmentFacts,
    pub(super) offset: u64,
    pub(super) sequence: u64,
    pub(super) link: ChainLink,
}

/// A log that was read and judged, and not changed.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Vec<SegmentEntry>,
    pub(super) tail: Tail,
    pub(super) report: RecoveryReport,
}

/// Position in the chain while groups are walked.
struct Walk {
    offset: u64,
    sequence_next: u64,
    link: ChainLink,
    sealed: bool,
    groups: u64,
}

/// Reads the log in `options.folder`. `None` means that there is none yet.
pub(super) fn recover(options: &LogOptions) -> Result<Option<Recovered>, Error> {
    let logs = match options.file_system.exists(&options.folder)? {
        true => Listing::read(&options.file_system, &options.folder)?.logs,
        false => BTreeSet::new(),
    };
    let known = options.known_durable;
    let (Some(first), Some(last)) = (logs.first().copied(), logs.last().copied()) else {
        let damage = Damage::EndsEarly { last: 0, known };
        return if known == 0 { Ok(None) } else { Err(corrupted(options, 0, 0, damage)) };
    };
    assert!(first <= last);
    let facts = read_headers(options, &logs)?;
    let checked_from = last.saturating_sub(options.segments_checked_at_open - 1).max(first);
    let mut window = SegmentScan::new_window();
    let mut groups = 0;
    for segment in checked_from..last {
        let next = facts.get(widths::index(segment - first) + 1);
        let Some(next) = next else { continue };
        (window, groups) = check_full(options, segment, next, window, groups)?;
    }
    let (tail, sealed, torn, count) = check_last(options, last, window)?;
    groups += count;
    if tail.sequence < known {
        let damage = Damage::EndsEarly { last: tail.sequence, known };
        return Err(corrupted(options, last, tail.offset, damage));
    }
    let segments: Vec<SegmentEntry> = facts
        .iter()
        .map(|facts| SegmentEntry { segment: facts.segment, first_sequence: facts.first_sequence })
        .collect();
    let report = RecoveryReport {
        segments_count: widths::length(facts.len()),
        segments_checked: last - checked_from + 1,
        groups_checked: groups,
        last_sequence: tail.sequence,
        sealed: sealed && torn.is_none(),
        torn,
    };
    Ok(Some(Recovered { segments, tail, report }))
}

/// Makes what was read durable, and zeroes what is behind it, so that no byte of a torn group is
/// ever looked at again.
///
/// What a killed process wrote is seen, whether it was synced or not, and the groups that come next
/// would vouch for it. So nothing is built on it before it is on the disk. The names are made
/// durable by the claim of the epoch, which follows.
pub(super) fn secure_tail(options: &LogOptions, tail: &Tail) -> Result<(), Error> {
    let path = segment::path(&options.folder, tail.facts.segment, State::Log);
    let file = options.file_system.open_write(&path)?;
    assert!(tail.offset >= SEGMENT_HEADER_BYTES);
    if !file.is_direct() {
        // After a failed sync the page cache takes its pages for written: only writing them again
        // makes the next sync mean something.
        rewrite(&file, tail.offset)?;
    }
    zero(&file, tail.offset, tail.facts.segment_bytes)?;
    Ok(file.sync_data()?)
}

/// Writes the first `end` bytes of a file where they are.
fn rewrite(file: &DirectFile, end: u64) -> Result<(), Error> {
    let mut piece = AlignedBuffer::new(ZEROES_BYTES);
    let mut offset = 0;
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let bytes = left.min(ZEROES_BYTES);
        file.read(offset, &mut piece, bytes)?;
        file.write(offset, &piece, bytes)?;
        offset += widths::offset(bytes);
    }
    assert!(offset == end);
    Ok(())
}

/// Zeroes what is not zero from `offset` to `end`.
fn zero(file: &DirectFile, mut offset: u64, end: u64) -> Result<(), Error> {
    let (mut found, zeroes) = (AlignedBuffer::new(ZEROES_BYTES), AlignedBuffer::new(ZEROES_BYTES));
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let bytes = left.min(ZEROES_BYTES);
        file.read(offset, &mut found, bytes)?;
        if found.get(..bytes) != zeroes.get(..bytes) {
            file.write(offset, &zeroes, bytes)?;
        }
        offset += widths::offset(bytes);
    }
    assert!(offset == end);
    Ok(())
}

/// The headers of all segments, each continuing the one before.
fn read_headers(options: &LogOptions, logs: &BTreeSet<u32>) -> Result<Vec<SegmentFacts>, Error> {
    let mut all: Vec<SegmentFacts> = Vec::new();
    for &segment in logs {
        if let Some(expected) = all.last().and_then(|before| before.segment.checked_add(1))
            && expected != segment
        {
            return Err(corrupted(options, expected, 0, Damage::Missing));
        }
        let (_file, facts) = segment::open(
            &options.file_system,
            &options.folder,
            options.kind,
            options.chain_and_keys(),
            segment,
        )?;
        let continues = all.last().is_none_or(|before| {
            facts.salt == before.salt
                && facts.epoch >= before.epoch
                && facts.first_sequence > before.first_sequence
        });
        if !continues {
            return Err(corrupted(options, segment, 0, Damage::HeaderFields));
        }
        assert!(facts.segment == segment);
        all.push(facts);
    }
    Ok(all)
}

/// Checks a segment that was left full: every group up to the first of the next segment.
fn check_full(
    options: &LogOptions,
    segment: u32,
    next: &SegmentFacts,
    window: AlignedBuffer,
    groups: u64,
) -> Result<(AlignedBuffer, u64), Error> {
    assert!(next.segment == segment + 1);
    let mut scan = open_scan(options, segment, window)?;
    let mut walk = Walk::start(&scan);
    while walk.sequence_next < next.first_sequence {
        // The next segment was activated only after this group was durable.
        if let Err(damage) = walk.step(&mut scan, None)? {
            return Err(corrupted(options, segment, walk.offset, damage));
        }
    }
    if walk.sequence_next != next.first_sequence || walk.link.hash != next.previous {
        return Err(corrupted(options, next.segment, 0, Damage::Chain));
    }
    Ok((scan.into_window(), groups + walk.groups))
}

type Last = (Tail, bool, Option<Torn>, u64);

/// Checks the last segment and tells a torn tail from damage.
fn check_last(options: &LogOptions, last: u32, window: AlignedBuffer) -> Result<Last, Error> {
    let mut scan = open_scan(options, last, window)?;
    let mut walk = Walk::start(&scan);
    let end = scan.facts.segment_bytes;
    let damage = loop {
        if walk.offset + widths::offset(BLOCK) > end {
            break Damage::Truncated;
        }
        if let Err(damage) = walk.step(&mut scan, Some(&*options.hasher))? {
            break damage;
        }
    };
    let (offset, expected) = (walk.offset, walk.sequence_next);
    if damage == Damage::Tag {
        // All its bytes are there, so no crash left them behind.
        return Err(corrupted(options, last, offset, damage));
    }
    let mut at = offset;
    while let Some((found, header)) = scan.find_header(at)? {
        if header.durable.get() >= expected {
            return Err(corrupted(options, last, offset, damage));
        }
        at = found + widths::offset(BLOCK);
    }
    // In a recycled segment old bytes follow the tail, so only a header of this life tells.
    let torn_bytes = if scan.facts.recycled {
        scan.header(offset).is_ok_and(|header| header.is_ok())
    } else {
        scan.find_used(offset, end)?.is_some()
    };
    let torn = torn_bytes.then_some(Torn { segment: last, offset, sequence: expected, damage });
    assert!(offset <= end);
    let tail = Tail { facts: scan.facts, offset, sequence: expected - 1, link: walk.link };
    Ok((tail, walk.sealed, torn, walk.groups))
}

impl Walk {
    fn start(scan: &SegmentScan) -> Self {
        Self {
            offset: SEGMENT_HEADER_BYTES,
            sequence_next: scan.facts.first_sequence,
            link: scan.first_link(),
            sealed: false,
            groups: 0,
        }
    }

    /// Goes over one group, or says what is wrong with it.
    fn step(
        &mut self,
        scan: &mut SegmentScan,
        hasher: Option<&dyn Hasher>,
    ) -> Result<Result<(), Damage>, Error> {
        assert!(self.offset >= SEGMENT_HEADER_BYTES);
        let segment = scan.facts.segment;
        let header = scan.group(self.offset, hasher)?.and_then(|header| {
            header.check_place(segment, self.sequence_next, &self.link).map(|()| header)
        });
        let header = match header {
            Ok(header) => header,
            Err(damage) => return Ok(Err(damage)),
        };
        self.offset += u64::from(header.padded_bytes.get());
        self.sequence_next += 1;
        self.link = header.link();
        self.sealed = header.flags.get() & FLAG_SEAL != 0;
        self.groups += 1;
        assert!(self.offset <= scan.facts.segment_bytes);
        Ok(Ok(()))
    }
}

fn open_scan(
    options: &LogOptions,
    segment: u32,
    window: AlignedBuffer,
) -> Result<SegmentScan, Error> {
    let (system, folder) = (&options.file_system, &options.folder);
    SegmentScan::open(system, folder, options.kind, options.chain_and_keys(), segment, window)
}

fn corrupted(options: &LogOptions, segment: u32, offset: u64, damage: Damage) -> Error {
    Error::Corrupted { folder: options.folder.clone(), segment, offset, damage }
}

/// Hash that the first group there is must hold.
pub(super) const FIRST_HASH: Digest = Digest::ZERO;

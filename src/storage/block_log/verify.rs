//! Reads every byte of a log that nobody writes, and names every fault with segment and offset.
//!
//! This is `ledger verify --level hashes`. Opening a log stops at the first fault; this goes on.

use hufu_runtime::file::AlignedBuffer;

use super::format::{
    BLOCK, ChainLink, Damage, FLAG_SEAL, GroupHeader, SEGMENT_HEADER_BYTES, SegmentFacts,
};
use super::options::LogOptions;
use super::recovery::Torn;
use super::scan::SegmentScan;
use super::segment::Listing;
use crate::error::Error;
use crate::widths;

/// One fault of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The segment.
    pub segment: u32,
    /// Offset of the damaged group or header in the segment, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub damage: Damage,
}

/// What a whole log looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Segments seen.
    pub segments_count: u32,
    /// Good groups.
    pub groups_count: u64,
    /// Records in good groups.
    pub records_count: u64,
    /// Bytes of good groups, headers and padding included.
    pub bytes_count: u64,
    /// Sequence of the last good group.
    pub last_sequence: u64,
    /// True when the log was closed cleanly.
    pub sealed: bool,
    /// Every fault, in order.
    pub faults: Vec<Fault>,
    /// Bytes at the end that were being written when the process stopped, or that were damaged
    /// there: the two cannot be told apart without a known sequence.
    pub torn: Option<Torn>,
}

impl VerifyReport {
    /// True when there is neither a fault nor a torn tail.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty() && self.torn.is_none()
    }
}

/// What comes next: a sequence, and the header it must continue. Unknown after a fault hid it.
type Anchor = Option<(u64, ChainLink)>;

/// The walk over all segments.
struct Verification<'a> {
    options: &'a LogOptions,
    report: VerifyReport,
    anchor: Anchor,
    before: Option<SegmentFacts>,
    window: Option<AlignedBuffer>,
}

/// Checks the whole log. `progress` is told the segments done and the segments there are.
///
/// Faults are in the report; an error means that the log could not be read at all or is not ours.
pub fn verify(
    options: &LogOptions,
    progress: &mut dyn FnMut(u32, u32),
) -> Result<VerifyReport, Error> {
    options.check()?;
    let logs = Listing::read(&options.file_system, &options.folder)?.logs;
    let mut walk = Verification {
        options,
        report: VerifyReport::default(),
        anchor: None,
        before: None,
        window: Some(SegmentScan::new_window()),
    };
    let last = logs.last().copied().unwrap_or(0);
    let total = widths::length(logs.len());
    let mut expected = logs.first().copied();
    for &segment in &logs {
        if let Some(missing) = expected.filter(|expected| *expected != segment) {
            // One fault, however many are missing: a stray name may be far away.
            walk.gap(missing);
        }
        walk.segment(segment, segment == last)?;
        expected = segment.checked_add(1);
        progress(walk.report.segments_count, total);
    }
    assert!(walk.report.segments_count == total);
    let mut report = walk.report;
    let (known, found) = (options.known_durable, report.last_sequence);
    if found < known {
        let damage = Damage::EndsEarly { last: found, known };
        let place = report.torn.map(|torn| (torn.segment, torn.offset));
        let (segment, offset) = place.unwrap_or((last, SEGMENT_HEADER_BYTES));
        report.faults.push(Fault { segment, offset, damage });
    }
    report.sealed = report.sealed && report.torn.is_none();
    Ok(report)
}

impl Verification<'_> {
    /// Takes into account that segments from `segment` on are not there.
    fn gap(&mut self, segment: u32) {
        self.fault(segment, 0, Damage::Missing);
        // Their groups cannot be read, so the next segment has nothing to continue.
        self.anchor = None;
        self.before = None;
    }

    /// Checks one segment; whatever is wrong goes into the report.
    fn segment(&mut self, segment: u32, is_last: bool) -> Result<(), Error> {
        self.report.segments_count += 1;
        let Some(mut scan) = self.open(segment)? else {
            // Its groups cannot be read, so the next segment has nothing to continue.
            self.anchor = None;
            self.before = None;
            return Ok(());
        };
        let facts = scan.facts;
        let link = scan.first_link();
        let continues = self
            .before
            .as_ref()
            .is_none_or(|before| before.salt == facts.salt && before.epoch <= facts.epoch)
            && self.anchor.is_none_or(|(sequence, before)| {
                sequence == facts.first_sequence && before.hash == facts.previous
            });
        if !continues {
            self.fault(segment, 0, Damage::Chain);
        }
        self.anchor = Some((facts.first_sequence, link));
        let next_first = if is_last { None } else { self.first_sequence_of(segment + 1) };
        let end = self.groups(&mut scan, is_last, next_first)?;
        assert!(end >= SEGMENT_HEADER_BYTES && end <= facts.segment_bytes);
        if !is_last
            && !facts.recycled
            && let Some(offset) = scan.find_used(end, facts.segment_bytes)?
        {
            self.fault(segment, offset, Damage::UnusedEnd);
        }
        self.before = Some(facts);
        self.window = Some(scan.into_window());
        Ok(())
    }

    /// Opens a segment; a damaged one is a fault, one of another chain an error.
    fn open(&mut self, segment: u32) -> Result<Option<SegmentScan>, Error> {
        let window = self.window.take().unwrap_or_else(SegmentScan::new_window);
        let (options, system) = (self.options, &self.options.file_system);
        let (folder, common) = (&options.folder, options.chain_and_keys());
        match SegmentScan::open(system, folder, options.kind, common, segment, window) {
            Ok(scan) => Ok(Some(scan)),
            Err(Error::Corrupted { offset, damage, .. }) => {
                self.fault(segment, offset, damage);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// First sequence of a segment, if its header can be read; its faults are found in its turn.
    fn first_sequence_of(&self, segment: u32) -> Option<u64> {
        let options = self.options;
        let (system, folder) = (&options.file_system, &options.folder);
        let common = options.chain_and_keys();
        let opened = super::segment::open(system, folder, options.kind, common, segment);
        opened.ok().map(|(_file, facts)| facts.first_sequence)
    }

    /// Walks the groups of a segment; returns where they end.
    fn groups(
        &mut self,
        scan: &mut SegmentScan,
        is_last: bool,
        next_first: Option<u64>,
    ) -> Result<u64, Error> {
        let segment = scan.facts.segment;
        let (mut offset, end) = (SEGMENT_HEADER_BYTES, scan.facts.segment_bytes);
        while offset + widths::offset(BLOCK) <= end {
            let expected = self.anchor.map(|(sequence, _link)| sequence);
            if expected.is_some() && expected == next_first {
                break;
            }
            match scan.group(offset, Some(&*self.options.hasher))? {
                Ok(header) => {
                    self.good(segment, offset, &header);
                    offset += u64::from(header.padded_bytes.get());
                }
                Err(damage) => match self.bad(scan, offset, damage, is_last, next_first)? {
                    Some(next) => offset = next,
                    None if is_last => break,
                    None => return Ok(offset),
                },
            }
        }
        assert!(offset <= end);
        Ok(offset)
    }

    /// Takes a group into account that is good in itself.
    fn good(&mut self, segment: u32, offset: u64, header: &GroupHeader) {
        let placed =
            self.anchor.map(|(sequence, link)| header.check_place(segment, sequence, &link));
        if let Some(Err(damage)) = placed {
            self.fault(segment, offset, damage);
        }
        self.anchor = Some((header.sequence.get().saturating_add(1), header.link()));
        self.report.groups_count += 1;
        self.report.records_count += u64::from(header.records_count.get());
        self.report.bytes_count += u64::from(header.padded_bytes.get());
        self.report.last_sequence = header.sequence.get();
        self.report.sealed = header.flags.get() & FLAG_SEAL != 0;
    }

    /// Judges bytes at `offset` that are no good group. Returns where the next header lies.
    fn bad(
        &mut self,
        scan: &mut SegmentScan,
        offset: u64,
        damage: Damage,
        is_last: bool,
        next_first: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let segment = scan.facts.segment;
        // A group whose header is whole is skipped as a whole.
        let behind = scan
            .header(offset)?
            .map_or(widths::offset(BLOCK), |header| u64::from(header.padded_bytes.get()));
        let next = scan.find_header(offset.saturating_add(behind))?;
        let expected = self.anchor.map(|(sequence, _link)| sequence);
        let used = scan.find_used(offset, scan.facts.segment_bytes)?.is_some();
        if is_last {
            // A group that is whole and does not open is no tail that a crash left behind.
            let proved = damage == Damage::Tag || self.is_proved_durable(scan, offset, expected)?;
            if !proved {
                if used && !scan.facts.recycled {
                    let sequence = expected.unwrap_or(0);
                    self.report.torn = Some(Torn { segment, offset, sequence, damage });
                }
                return Ok(None);
            }
        } else if next.is_none() && next_first.is_none() && !used {
            // The next header is damaged, which is a fault of its own; the groups end here.
            return Ok(None);
        }
        self.fault(segment, offset, damage);
        self.anchor =
            next.as_ref().map(|(_offset, header)| (header.sequence.get(), header.own_link()));
        Ok(next.map(|(found, _header)| found).or_else(|| {
            // Nothing readable follows, so the unused end is not judged either.
            (!is_last).then_some(scan.facts.segment_bytes)
        }))
    }

    /// True when a later header says that the group expected at `offset` was durable.
    fn is_proved_durable(
        &self,
        scan: &mut SegmentScan,
        offset: u64,
        expected: Option<u64>,
    ) -> Result<bool, Error> {
        let Some(expected) = expected else { return Ok(true) };
        if expected <= self.options.known_durable {
            return Ok(true);
        }
        let mut at = offset;
        while let Some((found, header)) = scan.find_header(at)? {
            if header.durable.get() >= expected {
                return Ok(true);
            }
            at = found + widths::offset(BLOCK);
        }
        Ok(false)
    }

    fn fault(&mut self, segment: u32, offset: u64, damage: Damage) {
        let fault = Fault { segment, offset, damage };
        assert!(self.report.faults.last().is_none_or(|last| last.segment <= segment));
        self.report.faults.push(fault);
    }
}

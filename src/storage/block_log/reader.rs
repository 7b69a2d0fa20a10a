//! Reading records: one by one from a place on, or a single one by its position.
//!
//! A reader that hangs on a writer sees exactly what is durable, also while the writer goes on; a
//! reader of its own opens a log nobody writes.

use std::sync::Arc;

use hufu_runtime::file::AlignedBuffer;

use super::format::{
    ChainLink, GROUP_HEADER_BYTES, GroupHeader, SEGMENT_HEADER_BYTES, split_record,
};
use super::options::LogOptions;
use super::recovery::{self, RecoveryReport};
use super::scan::SegmentScan;
use super::{RecordPosition, SegmentEntry, Shared};
use crate::error::Error;
use crate::widths;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record.
    Beginning,
    /// At this record.
    At(RecordPosition),
    /// At the record after this one.
    After(RecordPosition),
}

/// A record whose group was fully verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it lies.
    pub position: RecordPosition,
    /// What it is, as its writer said.
    pub kind: u16,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Where the reader stands: a group, and the next record in it.
#[derive(Clone, Copy)]
struct Cursor {
    segment: u32,
    group_offset: u64,
    sequence: u64,
    record_offset: usize,
    /// True when a record or the end of the group is known to lie at `record_offset`.
    on_boundary: bool,
    /// What the group must continue; not known right after a jump into the middle.
    link: Option<ChainLink>,
}

/// The group the cursor is in, verified.
#[derive(Clone)]
struct Loaded {
    sequence: u64,
    header: GroupHeader,
}

/// Reads a log; owned by whoever reads, with memory of its own.
pub struct LogReader {
    options: LogOptions,
    shared: Arc<Shared>,
    scan: Option<SegmentScan>,
    window: Option<AlignedBuffer>,
    /// What was durable when the window was last filled.
    window_durable: u64,
    cursor: Option<Cursor>,
    loaded: Option<Loaded>,
}

impl LogReader {
    pub(super) fn attached(options: LogOptions, shared: Arc<Shared>) -> Self {
        Self {
            options,
            shared,
            scan: None,
            window: Some(SegmentScan::new_window()),
            window_durable: 0,
            cursor: None,
            loaded: None,
        }
    }

    /// Opens a log that nobody writes, without changing it. A log that is not there is empty.
    pub fn open(options: LogOptions) -> Result<(Self, RecoveryReport), Error> {
        options.check()?;
        let (segments, report) = match recovery::recover(&options)? {
            Some(recovered) => (recovered.segments, recovered.report),
            None => (
                Vec::new(),
                RecoveryReport {
                    segments_count: 0,
                    segments_checked: 0,
                    groups_checked: 0,
                    last_sequence: 0,
                    sealed: true,
                    torn: None,
                },
            ),
        };
        let shared = Arc::new(Shared::new(report.last_sequence, segments));
        assert!(report.segments_checked <= report.segments_count);
        Ok((Self::attached(options, shared), report))
    }

    /// Moves the reader. Whether a record is there shows at the next read, if not before.
    pub fn seek(&mut self, start: Start) -> Result<(), Error> {
        let (position, skip) = match start {
            Start::Beginning => {
                (self.loaded, self.cursor) = (None, None);
                return Ok(());
            }
            Start::At(position) => (position, false),
            Start::After(position) => (position, true),
        };
        self.jump(&position)?;
        assert!(self.cursor.is_some());
        if skip && self.next()?.is_none() {
            return Err(no_such_record(&position));
        }
        Ok(())
    }

    /// The next durable record in order; `None` at the end of what is durable now.
    #[expect(clippy::should_implement_trait, reason = "the record borrows the reader")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Error> {
        loop {
            if self.cursor.is_none() && !self.begin() {
                return Ok(None);
            }
            let Some(header) = self.load()? else { return Ok(None) };
            let Some(cursor) = self.cursor.as_mut() else { return Ok(None) };
            let end = GROUP_HEADER_BYTES + widths::index(header.payload_bytes.get());
            assert!(cursor.record_offset >= GROUP_HEADER_BYTES);
            if cursor.record_offset >= end {
                if !cursor.on_boundary {
                    // Only a jump comes here, with an offset behind all records of the group.
                    return Err(no_such_record(&cursor.position()));
                }
                self.next_group(&header);
                continue;
            }
            let at = *cursor;
            let Some(length) = self.record_bytes(&header, &at)? else {
                return Err(no_such_record(&at.position()));
            };
            if let Some(cursor) = self.cursor.as_mut() {
                cursor.record_offset += length;
                cursor.on_boundary = true;
                assert!(cursor.record_offset <= end);
            }
            return self.record(&header, &at);
        }
    }

    /// The record at `position`, with its whole group verified. The reader then stands behind it.
    pub fn read(&mut self, position: &RecordPosition) -> Result<Record<'_>, Error> {
        if widths::index(position.record_offset) < GROUP_HEADER_BYTES {
            return Err(no_such_record(position));
        }
        let held = self.loaded.as_ref().is_some_and(|loaded| loaded.sequence == position.sequence);
        let here = self.cursor.is_some_and(|cursor| {
            cursor.segment == position.segment
                && cursor.group_offset == u64::from(position.group_offset)
        });
        if held && here {
            if let Some(cursor) = self.cursor.as_mut() {
                cursor.record_offset = widths::index(position.record_offset);
                cursor.on_boundary = false;
            }
        } else {
            self.seek(Start::At(*position))?;
        }
        let asked = *position;
        match self.next()? {
            Some(record) if record.position == asked => Ok(record),
            _ => Err(no_such_record(&asked)),
        }
    }

    /// The highest sequence this reader may see now.
    #[must_use]
    pub fn durable_sequence(&self) -> u64 {
        self.shared.durable()
    }

    /// The segments there are, oldest first.
    pub(crate) fn segments(&self) -> Vec<u32> {
        self.shared.numbers()
    }

    /// Moves the reader to the first group of a segment.
    pub(crate) fn seek_segment(&mut self, segment: u32) {
        self.loaded = None;
        self.cursor = self.shared.entry(segment).map(Cursor::at_start);
        assert!(self.cursor.is_some());
    }

    fn jump(&mut self, position: &RecordPosition) -> Result<(), Error> {
        if widths::index(position.record_offset) < GROUP_HEADER_BYTES {
            return Err(no_such_record(position));
        }
        self.loaded = None;
        self.cursor = Some(Cursor {
            segment: position.segment,
            group_offset: u64::from(position.group_offset),
            sequence: position.sequence,
            record_offset: widths::index(position.record_offset),
            on_boundary: false,
            link: None,
        });
        Ok(())
    }

    /// Puts the cursor on the oldest group. False when the log is empty.
    fn begin(&mut self) -> bool {
        let Some(first) = self.shared.first() else { return false };
        self.cursor = Some(Cursor::at_start(first));
        assert!(self.loaded.is_none());
        true
    }

    /// Makes sure that the group under the cursor is loaded and verified.
    fn load(&mut self) -> Result<Option<GroupHeader>, Error> {
        let Some(mut cursor) = self.cursor else { return Ok(None) };
        if let Some(loaded) = &self.loaded
            && loaded.sequence == cursor.sequence
        {
            return Ok(Some(loaded.header.clone()));
        }
        let durable = self.shared.durable();
        if cursor.sequence > durable {
            return Ok(None);
        }
        if let Some(next) = self.shared.entry(cursor.segment.saturating_add(1))
            && next.first_sequence == cursor.sequence
        {
            cursor.segment = next.segment;
            cursor.group_offset = SEGMENT_HEADER_BYTES;
            self.cursor = Some(cursor);
        }
        let header = self.verified_group(&cursor, durable)?;
        assert!(header.sequence.get() == cursor.sequence);
        self.loaded = Some(Loaded { sequence: cursor.sequence, header: header.clone() });
        Ok(Some(header))
    }

    fn verified_group(&mut self, cursor: &Cursor, durable: u64) -> Result<GroupHeader, Error> {
        let block = widths::offset(super::format::BLOCK);
        let exists = self.shared.entry(cursor.segment).is_some()
            && cursor.group_offset.is_multiple_of(block)
            && cursor.group_offset >= SEGMENT_HEADER_BYTES;
        if !exists {
            return Err(no_such_record(&cursor.position()));
        }
        let hasher = Arc::clone(&self.options.hasher);
        let fresh = cursor.sequence <= self.window_durable;
        let scan = self.scan_of(cursor.segment)?;
        if !fresh {
            // The window may hold what was there before the writer came by.
            scan.forget();
        }
        let found = scan.group(cursor.group_offset, Some(&*hasher))?.and_then(|header| {
            let link = match cursor.link {
                Some(link) => link,
                None if cursor.group_offset == SEGMENT_HEADER_BYTES => scan.first_link(),
                // After a jump there is nothing to compare with; the group vouches for itself.
                None => header.own_link(),
            };
            header.check_place(cursor.segment, cursor.sequence, &link).map(|()| header)
        });
        if !fresh {
            self.window_durable = durable;
        }
        let folder = self.options.folder.clone();
        let (segment, offset) = (cursor.segment, cursor.group_offset);
        found.map_err(|damage| Error::Corrupted { folder, segment, offset, damage })
    }

    fn scan_of(&mut self, segment: u32) -> Result<&mut SegmentScan, Error> {
        let held = self.scan.take();
        let scan = match held {
            Some(scan) if scan.facts.segment == segment => scan,
            other => {
                let window = other.map(SegmentScan::into_window).or_else(|| self.window.take());
                let window = window.unwrap_or_else(SegmentScan::new_window);
                let options = &self.options;
                let (system, folder) = (&options.file_system, &options.folder);
                let common = options.chain_and_keys();
                SegmentScan::open(system, folder, options.kind, common, segment, window)?
            }
        };
        assert!(scan.facts.segment == segment);
        Ok(self.scan.insert(scan))
    }

    fn next_group(&mut self, header: &GroupHeader) {
        self.loaded = None;
        if let Some(cursor) = self.cursor.as_mut() {
            assert!(cursor.sequence == header.sequence.get());
            cursor.group_offset += u64::from(header.padded_bytes.get());
            cursor.sequence += 1;
            cursor.record_offset = GROUP_HEADER_BYTES;
            cursor.on_boundary = true;
            cursor.link = Some(header.link());
        }
    }

    /// Length of the record at the cursor, header included; `None` when no record begins there.
    fn record_bytes(&mut self, header: &GroupHeader, at: &Cursor) -> Result<Option<usize>, Error> {
        let end = GROUP_HEADER_BYTES + widths::index(header.payload_bytes.get());
        let Some(scan) = self.scan.as_mut() else { return Ok(None) };
        let group = scan.bytes(at.group_offset, header)?;
        // After a jump only a walk from the first record tells where records begin.
        let mut offset = if at.on_boundary { at.record_offset } else { GROUP_HEADER_BYTES };
        while let Some((_header, payload, _behind)) = group.get(offset..end).and_then(split_record)
        {
            let length = super::format::RECORD_HEADER_BYTES + payload.len();
            if offset == at.record_offset {
                return Ok(Some(length));
            }
            offset += length;
        }
        Ok(None)
    }

    fn record(&mut self, header: &GroupHeader, at: &Cursor) -> Result<Option<Record<'_>>, Error> {
        let end = GROUP_HEADER_BYTES + widths::index(header.payload_bytes.get());
        let Some(scan) = self.scan.as_mut() else { return Ok(None) };
        let group = scan.bytes(at.group_offset, header)?;
        let split = group.get(at.record_offset..end).and_then(split_record);
        Ok(split.map(|(record, payload, _behind)| Record {
            position: at.position(),
            kind: record.kind.get(),
            payload,
        }))
    }
}

impl Cursor {
    fn at_start(entry: SegmentEntry) -> Self {
        Self {
            segment: entry.segment,
            group_offset: SEGMENT_HEADER_BYTES,
            sequence: entry.first_sequence,
            record_offset: GROUP_HEADER_BYTES,
            on_boundary: true,
            link: None,
        }
    }

    fn position(&self) -> RecordPosition {
        RecordPosition {
            sequence: self.sequence,
            segment: self.segment,
            group_offset: widths::short(self.group_offset),
            record_offset: widths::length(self.record_offset),
        }
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LogReader")
            .field("options", &self.options)
            .field("durable", &self.shared.durable())
            .finish_non_exhaustive()
    }
}

fn no_such_record(position: &RecordPosition) -> Error {
    Error::NoSuchRecord {
        segment: position.segment,
        offset: position.offset(),
        sequence: position.sequence,
    }
}

//! Reading groups out of one segment file, with every check on the way.

use std::path::Path;

use hufu_crypto::{Digest, Hasher};
use hufu_runtime::file::{AlignedBuffer, DirectFile, FileSystem};

use super::LogKind;
use super::format::{
    BLOCK, ChainLink, Damage, GROUP_BYTES_MAX, GroupHeader, SEGMENT_HEADER_BYTES, SegmentFacts,
};
use super::segment;
use crate::error::Error;
use crate::widths;

/// Bytes read at a time when groups are small.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// One segment file seen through a window of memory.
pub(crate) struct SegmentScan {
    file: DirectFile,
    pub(crate) facts: SegmentFacts,
    window: AlignedBuffer,
    start: u64,
    filled: usize,
}

impl SegmentScan {
    /// Opens a segment; `window` is reused from scan to scan and must hold the longest group.
    pub(crate) fn open(
        file_system: &FileSystem,
        folder: &Path,
        kind: LogKind,
        chain: &Digest,
        segment: u32,
        window: AlignedBuffer,
    ) -> Result<Self, Error> {
        assert!(window.len() >= GROUP_BYTES_MAX);
        let (file, facts) = segment::open(file_system, folder, kind, chain, segment)?;
        assert!(facts.segment_bytes > SEGMENT_HEADER_BYTES);
        Ok(Self { file, facts, window, start: 0, filled: 0 })
    }

    /// A window large enough for every group there can be. Untouched pages cost no memory.
    pub(crate) fn new_window() -> AlignedBuffer {
        AlignedBuffer::new(GROUP_BYTES_MAX)
    }

    /// Gives the window back for the next segment.
    pub(crate) fn into_window(self) -> AlignedBuffer {
        self.window
    }

    /// Forgets what was read, because a writer may have written there since.
    pub(crate) fn forget(&mut self) {
        self.filled = 0;
    }

    /// What the first group of this segment must continue.
    pub(crate) fn first_link(&self) -> ChainLink {
        ChainLink { hash: self.facts.previous, epoch: self.facts.epoch }
    }

    /// `bytes` bytes at `offset`, `None` beyond the end of the segment.
    pub(crate) fn span(&mut self, offset: u64, bytes: usize) -> Result<Option<&[u8]>, Error> {
        assert!(offset.is_multiple_of(widths::offset(BLOCK)));
        assert!(bytes.is_multiple_of(BLOCK) && bytes <= self.window.len());
        let end = offset.saturating_add(widths::offset(bytes));
        if end > self.facts.segment_bytes {
            return Ok(None);
        }
        let held_end = self.start + widths::offset(self.filled);
        if offset < self.start || end > held_end {
            let left = self.facts.segment_bytes - offset;
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let wanted = bytes.max(READ_AHEAD_BYTES).min(left).min(self.window.len());
            self.filled = 0;
            self.file.read(offset, &mut self.window, wanted)?;
            (self.start, self.filled) = (offset, wanted);
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.window.get(from..from + bytes))
    }

    /// A header at `offset` that is consistent in itself and of this segment.
    pub(crate) fn header(&mut self, offset: u64) -> Result<Result<GroupHeader, Damage>, Error> {
        let (kind, seed, segment) = (self.facts.kind, self.facts.seed(), self.facts.segment);
        let Some(block) = self.span(offset, BLOCK)? else {
            return Ok(Err(Damage::Truncated));
        };
        let header = GroupHeader::decode(kind, seed, block);
        Ok(header.and_then(|header| {
            let found = header.segment.get();
            if found == segment { Ok(header) } else { Err(Damage::Segment { found }) }
        }))
    }

    /// The whole group at `offset` with its body checked; place and chain are the caller's.
    pub(crate) fn group(
        &mut self,
        offset: u64,
        hasher: Option<&dyn Hasher>,
    ) -> Result<Result<GroupHeader, Damage>, Error> {
        let header = match self.header(offset)? {
            Ok(header) => header,
            Err(damage) => return Ok(Err(damage)),
        };
        let padded = widths::index(header.padded_bytes.get());
        let Some(bytes) = self.span(offset, padded)? else {
            return Ok(Err(Damage::HeaderFields));
        };
        Ok(header.check_body(bytes, hasher).map(|()| header))
    }

    /// The bytes of a group that [`SegmentScan::group`] found at `offset`.
    pub(crate) fn bytes(&mut self, offset: u64, header: &GroupHeader) -> Result<&[u8], Error> {
        let padded = widths::index(header.padded_bytes.get());
        Ok(self.span(offset, padded)?.unwrap_or_default())
    }

    /// Offset of the next self-consistent group header at or behind `offset`.
    pub(crate) fn find_header(&mut self, offset: u64) -> Result<Option<(u64, GroupHeader)>, Error> {
        let mut offset = offset;
        while offset < self.facts.segment_bytes {
            if let Ok(header) = self.header(offset)? {
                return Ok(Some((offset, header)));
            }
            offset += widths::offset(BLOCK);
        }
        Ok(None)
    }

    /// First block in `from..to` that is not all zero.
    pub(crate) fn find_used(&mut self, from: u64, to: u64) -> Result<Option<u64>, Error> {
        assert!(from <= to);
        let mut offset = from;
        while offset < to {
            let used = self.span(offset, BLOCK)?.is_some_and(|block| !is_zero(block));
            if used {
                return Ok(Some(offset));
            }
            offset += widths::offset(BLOCK);
        }
        Ok(None)
    }
}

/// True when every byte is zero; compared sixteen at a time.
fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

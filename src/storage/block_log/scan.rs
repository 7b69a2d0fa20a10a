//! Reading groups out of one segment file, with every check on the way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hufu_crypto::{Digest, Hasher};
use hufu_runtime::file::{AlignedBuffer, DirectFile, FileSystem};

use super::LogKind;
use super::cipher::{self, GroupName};
use super::format::{
    BLOCK, ChainLink, Damage, GROUP_BYTES_MAX, GroupHeader, SEGMENT_HEADER_BYTES, SegmentFacts,
};
use super::segment::{self, State};
use crate::error::Error;
use crate::keyring::Keyring;
use crate::widths;

/// Bytes read at a time when groups are small.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// One segment file seen through a window of memory.
pub(crate) struct SegmentScan {
    path: PathBuf,
    file: DirectFile,
    pub(crate) facts: SegmentFacts,
    window: AlignedBuffer,
    start: u64,
    filled: usize,
    keys: Option<Keyring>,
    /// Offsets of the groups of the window that are decrypted, and so were checked before.
    decrypted: BTreeSet<u64>,
}

impl SegmentScan {
    /// Opens a segment; `window` is reused from scan to scan and must hold the longest group.
    pub(crate) fn open(
        file_system: &FileSystem,
        folder: &Path,
        kind: LogKind,
        (chain, keys): (&Digest, Option<&Keyring>),
        segment: u32,
        window: AlignedBuffer,
    ) -> Result<Self, Error> {
        assert!(window.len() >= GROUP_BYTES_MAX);
        let (file, facts) = segment::open(file_system, folder, kind, (chain, keys), segment)?;
        assert!(facts.segment_bytes > SEGMENT_HEADER_BYTES);
        let (keys, decrypted) = (keys.cloned(), BTreeSet::new());
        let path = segment::path(folder, segment, State::Log);
        Ok(Self { path, file, facts, window, start: 0, filled: 0, keys, decrypted })
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
        self.decrypted.clear();
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
            self.forget();
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
            if found != segment {
                return Err(Damage::Segment { found });
            }
            let fits = header.encrypted().is_some() == self.keys.is_some();
            if fits { Ok(header) } else { Err(Damage::HeaderFields) }
        }))
    }

    /// The whole group at `offset` with its body checked; place and chain are the caller's.
    ///
    /// With a hasher it is checked in full and its records can be read. Without one, only the fast
    /// checksum says that the bytes are those that were written.
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
        if self.span(offset, padded)?.is_none() {
            return Ok(Err(Damage::HeaderFields));
        }
        if self.decrypted.contains(&offset) {
            return Ok(Ok(header));
        }
        let bytes = self.span(offset, padded)?.unwrap_or_default();
        if let Err(damage) = header.check_body(bytes, hasher) {
            return Ok(Err(damage));
        }
        if hasher.is_some() && !self.decrypt(offset, &header)? {
            return Ok(Err(Damage::Tag));
        }
        if hasher.is_none() && self.keys.is_some() {
            return Ok(Ok(header));
        }
        let bytes = self.span(offset, padded)?.unwrap_or_default();
        Ok(header.check_records(bytes).map(|()| header))
    }

    /// Decrypts a group of the window in place, if it is encrypted. False when it does not open.
    fn decrypt(&mut self, offset: u64, header: &GroupHeader) -> Result<bool, Error> {
        let (Some(keys), Some(encrypted)) = (self.keys.as_ref(), header.encrypted()) else {
            return Ok(true);
        };
        let name = GroupName {
            kind: self.facts.kind,
            chain: self.facts.chain,
            segment: self.facts.segment,
            offset,
            epoch: header.epoch.get(),
            sequence: header.sequence.get(),
            flags: header.flags.get(),
        };
        let padded = widths::index(header.padded_bytes.get());
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let group = self.window.get_mut(from..from + padded).unwrap_or_default();
        assert!(group.len() == padded, "its checksum was taken from there");
        match cipher::open(keys, &name, (&header.sizes(), &encrypted), group) {
            Some(true) => {
                self.decrypted.insert(offset);
                Ok(true)
            }
            Some(false) => {
                // What is there now is neither what is stored nor what was.
                self.forget();
                Ok(false)
            }
            None => Err(Error::KeyUnknown {
                path: self.path.clone(),
                found: encrypted.key_id,
                known: keys.ids(),
            }),
        }
    }

    /// The bytes of a group that [`SegmentScan::group`] found at `offset`, its records in clear.
    pub(crate) fn bytes(&mut self, offset: u64, header: &GroupHeader) -> Result<&[u8], Error> {
        let padded = widths::index(header.padded_bytes.get());
        assert!(self.keys.is_none() || self.decrypted.contains(&offset));
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

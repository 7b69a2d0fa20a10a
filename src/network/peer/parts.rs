//! Bulk messages in parts, so that a vote never waits for more than one part.
//!
//! ```text
//! part header 16: kind u16, reserved u16, total size u32, offset u32, reserved u32
//! ```
//! A link carries one bulk message after the other, each from its first byte to its last.

use std::sync::Arc;

use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, index, length_u32};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::codes::BulkKind;
use crate::limits::PEER_PART_SIZE_MAX;

pub(super) const PART_HEADER_SIZE: u32 = 16;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct PartHeader {
    kind: U16,
    reserved: U16,
    total: U32,
    offset: U32,
    reserved_too: U32,
}

const _: () = assert!(size_of::<PartHeader>() == PART_HEADER_SIZE as usize, "frames bound parts");

/// A bulk message on its way out.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) kind: BulkKind,
    pub(super) bytes: Arc<[u8]>,
    offset: u32,
}

impl Sending {
    pub(super) fn new(kind: BulkKind, bytes: Arc<[u8]>) -> Self {
        assert!(!bytes.is_empty(), "a bulk message has content");
        assert!(length_u32(&bytes) <= kind.size_max(), "a bulk message keeps its limit");
        Self { kind, bytes, offset: 0 }
    }

    /// Writes the next part; `true` if it was the last.
    pub(super) fn write_part(&mut self, out: &mut Vec<u8>) -> bool {
        let total = length_u32(&self.bytes);
        let size = (total - self.offset).min(PEER_PART_SIZE_MAX);
        let header = PartHeader {
            kind: U16::new(self.kind.number()),
            reserved: U16::ZERO,
            total: U32::new(total),
            offset: U32::new(self.offset),
            reserved_too: U32::ZERO,
        };
        out.extend_from_slice(header.as_bytes());
        let (start, end) = (index(self.offset), index(self.offset + size));
        out.extend_from_slice(&self.bytes[start..end]);
        self.offset += size;
        self.offset == total
    }
}

/// A bulk message with all its bytes.
pub(super) type Whole = (BulkKind, Arc<[u8]>);

/// A bulk message on its way in. Memory is taken as its bytes arrive, never ahead of them.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    open: Option<(BulkKind, u32)>,
    bytes: Vec<u8>,
}

impl Receiving {
    /// Takes a part; gives the message when it is whole.
    pub(super) fn part(&mut self, body: &[u8]) -> Result<Option<Whole>, DecodeError> {
        let mut reader = Reader::new(body);
        let header: PartHeader = *reader.fixed()?;
        check_reserved("part", header.reserved.as_bytes())?;
        check_reserved("part", header.reserved_too.as_bytes())?;
        let content = reader.bytes(reader.remaining())?;
        let (number, total) = (header.kind.get(), header.total.get());
        let Some(kind) = BulkKind::from_number(number) else {
            let max = BulkKind::ALL.iter().map(|kind| kind.number()).max().unwrap_or(0).into();
            return Err(DecodeError::Range {
                field: "bulk kind",
                found: number.into(),
                min: 1,
                max,
            });
        };
        check_range("bulk size", total.into(), 1, kind.size_max().into())?;
        let (open, held) = (self.open.get_or_insert((kind, total)), length_u32(&self.bytes));
        if *open != (kind, total) || header.offset.get() != held {
            return Err(DecodeError::NotCanonical { field: "part out of turn" });
        }
        let end = u64::from(held) + u64::from(length_u32(content));
        check_range("end of a part", end, 1, total.into())?;
        self.bytes.extend_from_slice(content);
        if end < u64::from(total) {
            return Ok(None);
        }
        self.open = None;
        Ok(Some((kind, Arc::from(core::mem::take(&mut self.bytes)))))
    }
}

//! A group while its records are collected, and once it is ready for the device.

use hufu_crypto::Hasher;
use hufu_runtime::file::AlignedBuffer;
use zerocopy::IntoBytes;

use super::RecordPosition;
use super::cipher::GroupCipher;
use super::format::{
    BLOCK, GROUP_HEADER_BYTES, GroupBody, RECORD_HEADER_BYTES, RecordHeader, STEP_BYTES,
    padded_bytes,
};
use super::tree::GrowingTree;
use crate::widths;

/// Where a group lies and which one it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupSlot {
    pub(super) segment: u32,
    pub(super) offset: u64,
    pub(super) sequence: u64,
    pub(super) flags: u32,
}

/// A group that still takes records.
pub(super) struct OpenGroup {
    pub(super) slot: GroupSlot,
    buffer: AlignedBuffer,
    capacity: usize,
    payload: usize,
    records_count: u32,
    cipher: Option<GroupCipher>,
    tree: GrowingTree,
}

/// A group whose body will not change any more.
pub(super) struct SealedGroup {
    pub(super) slot: GroupSlot,
    pub(super) buffer: AlignedBuffer,
    pub(super) body: GroupBody,
}

impl OpenGroup {
    /// A group at `slot` that may grow to `capacity` bytes, header included; encrypted on the way
    /// where there is a cipher.
    pub(super) fn new(
        slot: GroupSlot,
        buffer: AlignedBuffer,
        capacity: usize,
        cipher: Option<GroupCipher>,
    ) -> Self {
        assert!(capacity <= buffer.len() && capacity.is_multiple_of(BLOCK));
        assert!(slot.offset.is_multiple_of(widths::offset(BLOCK)));
        assert!(slot.sequence > 0);
        let tree = GrowingTree::new(capacity);
        Self { slot, buffer, capacity, payload: 0, records_count: 0, cipher, tree }
    }

    /// True when a record with `bytes` of payload still fits.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        assert!(GROUP_HEADER_BYTES + self.payload <= self.capacity);
        let is_encrypted = self.cipher.is_some();
        bytes <= self.capacity
            && padded_bytes(self.payload + RECORD_HEADER_BYTES + bytes, is_encrypted)
                <= self.capacity
    }

    /// Copies one record in, and encrypts and hashes what became whole. The caller has asked
    /// whether it fits.
    pub(super) fn put(
        &mut self,
        kind: u16,
        parts: &[&[u8]],
        hasher: &dyn Hasher,
    ) -> RecordPosition {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        assert!(self.fits(bytes));
        let start = GROUP_HEADER_BYTES + self.payload;
        let header = RecordHeader::new(kind, widths::length(bytes));
        let mut at = start;
        for part in std::iter::once(header.as_bytes()).chain(parts.iter().copied()) {
            for piece in part.chunks(STEP_BYTES) {
                if let Some(target) = self.buffer.get_mut(at..at + piece.len()) {
                    target.copy_from_slice(piece);
                }
                at += piece.len();
                let stored = match self.cipher.as_mut() {
                    Some(cipher) => cipher.grow(&mut self.buffer, at),
                    None => at,
                };
                self.tree.grow(&self.buffer, stored, hasher);
            }
        }
        self.payload += RECORD_HEADER_BYTES + bytes;
        self.records_count += 1;
        assert!(at == GROUP_HEADER_BYTES + self.payload && at <= self.capacity);
        RecordPosition {
            sequence: self.slot.sequence,
            segment: self.slot.segment,
            group_offset: widths::short(self.slot.offset),
            record_offset: widths::length(start),
        }
    }

    /// Ends the group: pads it, encrypts and hashes what is left.
    pub(super) fn seal(mut self, hasher: &dyn Hasher) -> SealedGroup {
        assert!(self.records_count > 0 || self.slot.flags != 0);
        let records = (self.payload, self.records_count);
        let body = GroupBody::seal(&mut self.buffer, records, self.cipher, self.tree, hasher);
        assert!(widths::index(body.padded_bytes) <= self.capacity);
        SealedGroup { slot: self.slot, buffer: self.buffer, body }
    }
}

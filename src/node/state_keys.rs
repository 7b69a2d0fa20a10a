//! Keys and rows of the state store: which family holds what, in which layout.
//!
//! ```text
//! family         key                                      value
//! Accounts       state key (kinds 1-4 of hufu-ledger)     state value
//! Nonces         expiry key                               nonces that leave with one height
//! Buckets        place in the bucket tree                 row or fork (`bucket.rs` of hufu-ledger)
//! Blocks         height u64 big-endian                    block row
//! Receipts       height u64 big-endian                    receipts in block order
//! Transactions   transaction id                           height u64, index u32, little-endian
//! ```

use hufu_ledger::StateKey;
use hufu_storage::block_log::RecordPosition;
use hufu_storage::state_store::Family;
use hufu_types::codec::{DecodeError, Reader, check_range, index, length_u32, put};
use hufu_types::limits::BLOCK_BATCHES_COUNT_MAX;
use hufu_types::{Digest, FailureCode, Receipt};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::messages::ExecutedRoots;

/// The family that holds the value of this key; none for a nonce, which is there or not: the bucket
/// rows say so, and the expiry index knows its heights.
#[must_use]
pub const fn family(key: &StateKey) -> Option<Family> {
    match key {
        StateKey::Nonce { .. } => None,
        _ => Some(Family::Accounts),
    }
}

/// The place of a transaction, as the family Transactions stores it.
#[must_use]
pub fn transaction_row(height: u64, index: u32) -> [u8; 12] {
    let mut row = [0; 12];
    row[..8].copy_from_slice(&height.to_le_bytes());
    row[8..].copy_from_slice(&index.to_le_bytes());
    row
}

/// Height and index of a stored place.
///
/// # Errors
/// [`DecodeError`] for a row of another size.
pub fn parse_transaction_row(row: &[u8]) -> Result<(u64, u32), DecodeError> {
    let mut reader = Reader::new(row);
    let (height, index) = (reader.fixed::<U64>()?.get(), reader.fixed::<U32>()?.get());
    reader.finish()?;
    Ok((height, index))
}

/// Whether the receipt is the one to be found by its transaction's id whatever was there before. A
/// spent nonce may be that of an exact copy, and a copy can be ordered again behind its last
/// height: the receipt of what happened must stay the one found.
#[must_use]
pub fn is_first_of_its_id(receipt: &Receipt) -> bool {
    let leaves_no_trace =
        |code: FailureCode| matches!(code, FailureCode::NonceUsed | FailureCode::Expired);
    !matches!(receipt.outcome(), Ok(Err(failure)) if leaves_no_trace(failure.code))
}

/// What the family Blocks holds of one height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// Roots after the height.
    pub roots: ExecutedRoots,
    /// Where the block's record lies in the log.
    pub position: RecordPosition,
    /// Where the records of its batches lie, in the block's order.
    pub bodies: Vec<RecordPosition>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct BlockRowHeader {
    state_root: Digest,
    receipts_root: Digest,
    receipts_count: U32,
    bodies_count: U32,
    position: [u8; RecordPosition::STORED_BYTES],
}

impl BlockRow {
    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = BlockRowHeader {
            state_root: self.roots.state_root,
            receipts_root: self.roots.receipts_root,
            receipts_count: U32::new(self.roots.receipts_count),
            bodies_count: U32::new(length_u32(&self.bodies)),
            position: self.position.to_bytes(),
        };
        let mut out = Vec::with_capacity(256);
        put(&mut out, &header);
        for body in &self.bodies {
            put(&mut out, &body.to_bytes());
        }
        out
    }

    /// Reads the row of `height`.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that are no such row.
    pub fn parse(height: u64, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header: &BlockRowHeader = reader.fixed()?;
        let count = header.bodies_count.get();
        check_range("bodies of a block row", count.into(), 0, BLOCK_BATCHES_COUNT_MAX.into())?;
        let bodies: &[[u8; RecordPosition::STORED_BYTES]] = reader.slice(index(count))?;
        reader.finish()?;
        let roots = ExecutedRoots {
            height,
            state_root: header.state_root,
            receipts_root: header.receipts_root,
            receipts_count: header.receipts_count.get(),
        };
        let bodies = bodies.iter().map(RecordPosition::from_bytes).collect();
        Ok(Self { roots, position: RecordPosition::from_bytes(&header.position), bodies })
    }
}

/// Reads the receipts of one height.
///
/// # Errors
/// [`DecodeError`] for bytes that are no receipts.
pub fn parse_receipts(bytes: &[u8]) -> Result<Vec<Receipt>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let receipts: &[Receipt] = reader.slice(bytes.len() / size_of::<Receipt>())?;
    reader.finish()?;
    receipts.iter().try_for_each(Receipt::check)?;
    Ok(receipts.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_one_encoding() {
        let place =
            |sequence| RecordPosition { sequence, segment: 1, group_offset: 2, record_offset: 3 };
        let roots = ExecutedRoots {
            height: 9,
            state_root: Digest([1; 32]),
            receipts_root: Digest([2; 32]),
            receipts_count: 5,
        };
        let row = BlockRow { roots, position: place(7), bodies: vec![place(5), place(6)] };
        let bytes = row.to_bytes();
        assert_eq!(BlockRow::parse(9, &bytes), Ok(row));
        for length in 0..bytes.len() {
            assert!(BlockRow::parse(9, &bytes[..length]).is_err(), "cut at {length}");
        }
        assert_eq!(parse_transaction_row(&transaction_row(8, 3)), Ok((8, 3)));
        assert!(parse_transaction_row(&[0; 11]).is_err());
    }
}

//! Batches: the unit of dissemination, verification and storage (design.md 3).
//!
//! ```text
//! header: domain prefix (kind 3), origin address, sequence, transactions count, transactions size
//! then per transaction: size u32, bytes
//! ```
//! The digest of a batch commits to its header and to the Merkle root over its transaction digests,
//! so that a proof runs from a transaction through its batch to the block.

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{Address, Digest, Hasher, Sm3};

use crate::codec::{DecodeError, Reader, check_range, index, length_u32, put};
use crate::domain::{DomainPrefix, Kind};
use crate::ids::{BatchDigest, ChainId, TxDigest, TxId};
use crate::limits::{BATCH_SIZE_MAX, BATCH_TRANSACTIONS_COUNT_MAX};
use crate::merkle::MerkleTree;
use crate::transaction::{Transaction, TransactionView, tx_digest};
use crate::verification::Verified;

/// Fixed first part of a batch.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct BatchHeader {
    /// Kind, version, chain.
    pub prefix: DomainPrefix,
    /// Address of the validator that took the transactions from its clients.
    pub origin: Address,
    /// Number of the batch among those of its origin; grows across restarts, gaps allowed.
    pub sequence: U64,
    /// Transactions in the batch.
    pub transactions_count: U32,
    /// Bytes that follow the header.
    pub transactions_size: U32,
}

impl BatchHeader {
    /// The batch's digest, from its header and the Merkle root over its transaction digests.
    #[must_use]
    pub fn digest(&self, root: &Digest) -> BatchDigest {
        BatchDigest(Sm3::of(&[self.as_bytes(), root.as_bytes()]))
    }
}

/// Where one transaction lies in its batch, with its identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEntry {
    offset: u32,
    size: u32,
    /// The transaction's id.
    pub id: TxId,
    /// The digest of all its bytes.
    pub digest: TxDigest,
}

/// A batch with its index; shared, never changed.
#[derive(Clone, Debug)]
pub struct Batch {
    bytes: Arc<[u8]>,
    header: BatchHeader,
    entries: Arc<[BatchEntry]>,
    digest: BatchDigest,
}

impl Batch {
    /// Reads a canonical batch and computes all its digests. Signatures are not looked at.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn parse(bytes: Arc<[u8]>, hasher: &dyn Hasher) -> Result<Self, DecodeError> {
        check_range("batch size", length_u32(&bytes).into(), 0, BATCH_SIZE_MAX.into())?;
        let mut reader = Reader::new(&bytes);
        let header: BatchHeader = *reader.fixed()?;
        header.prefix.expect(Kind::Batch)?;
        let count = header.transactions_count.get();
        check_range(
            "batch transactions count",
            count.into(),
            1,
            BATCH_TRANSACTIONS_COUNT_MAX.into(),
        )?;
        let stated = header.transactions_size.get();
        if index(stated) != reader.remaining() {
            let actual = u64::try_from(reader.remaining()).unwrap_or(u64::MAX);
            return Err(DecodeError::Mismatch {
                field: "transactions size",
                stated: stated.into(),
                actual,
            });
        }
        let mut entries = Vec::with_capacity(index(count));
        for _ in 0..count {
            let size = reader.fixed::<U32>()?.get();
            let offset = u32::try_from(reader.offset()).unwrap_or(u32::MAX);
            let view = TransactionView::parse(reader.bytes(index(size))?)?;
            let id = view.id();
            let digest = tx_digest(header.prefix.chain_id, &id, view.signature());
            entries.push(BatchEntry { offset, size, id, digest });
        }
        reader.finish()?;
        Ok(Self::assemble(bytes, header, entries, hasher))
    }

    fn assemble(
        bytes: Arc<[u8]>,
        header: BatchHeader,
        entries: Vec<BatchEntry>,
        hasher: &dyn Hasher,
    ) -> Self {
        let root = Self::tree_of(&entries, hasher).root();
        Self { bytes, header, entries: entries.into(), digest: header.digest(&root) }
    }

    fn tree_of(entries: &[BatchEntry], hasher: &dyn Hasher) -> MerkleTree {
        MerkleTree::new(entries.iter().map(|entry| entry.digest.0).collect(), hasher)
    }

    /// All bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The fixed first part.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The digest that names the batch.
    #[must_use]
    pub const fn digest(&self) -> BatchDigest {
        self.digest
    }

    /// The transactions' places and identifiers, in order.
    #[must_use]
    pub fn entries(&self) -> &[BatchEntry] {
        &self.entries
    }

    /// The transaction at `position`, read in place; `None` behind the last.
    #[must_use]
    pub fn transaction(&self, position: usize) -> Option<TransactionView<'_>> {
        let entry = self.entries.get(position)?;
        let start = index(entry.offset);
        TransactionView::parse(self.bytes.get(start..start.checked_add(index(entry.size))?)?).ok()
    }

    /// The tree over the transaction digests, for proofs.
    #[must_use]
    pub fn tree(&self, hasher: &dyn Hasher) -> MerkleTree {
        Self::tree_of(&self.entries, hasher)
    }
}

/// Collects verified transactions into one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    chain_id: ChainId,
    origin: Address,
    bytes: Vec<u8>,
    entries: Vec<BatchEntry>,
}

impl BatchBuilder {
    /// An empty batch of `origin`, with memory for the largest batch taken once.
    #[must_use]
    pub fn new(chain_id: ChainId, origin: Address) -> Self {
        let mut bytes = Vec::with_capacity(index(BATCH_SIZE_MAX));
        bytes.resize(size_of::<BatchHeader>(), 0);
        Self { chain_id, origin, bytes, entries: Vec::new() }
    }

    /// Transactions collected.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.entries.len()
    }

    /// Bytes collected, header included.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether `transaction` still fits; if not, the batch is to be sealed first.
    #[must_use]
    pub fn fits(&self, transaction: &Verified<Transaction>) -> bool {
        let needed = self.bytes.len() + size_of::<U32>() + transaction.get().bytes().len();
        needed <= index(BATCH_SIZE_MAX) && self.entries.len() < index(BATCH_TRANSACTIONS_COUNT_MAX)
    }

    /// Adds a transaction.
    ///
    /// # Panics
    /// If it does not fit; ask [`BatchBuilder::fits`] first.
    pub fn push(&mut self, transaction: &Verified<Transaction>) {
        assert!(self.fits(transaction), "the caller seals a batch that is full");
        let bytes = transaction.get().bytes();
        put(&mut self.bytes, &U32::new(length_u32(bytes)));
        let entry = BatchEntry {
            offset: length_u32(&self.bytes),
            size: length_u32(bytes),
            id: transaction.id(),
            digest: transaction.digest(),
        };
        self.bytes.extend_from_slice(bytes);
        self.entries.push(entry);
    }

    /// The batch with everything collected; the builder is empty again and keeps its memory.
    ///
    /// # Panics
    /// If nothing was collected: an empty batch has no encoding.
    pub fn seal(&mut self, sequence: u64, hasher: &dyn Hasher) -> Batch {
        assert!(!self.entries.is_empty(), "an empty batch has no encoding");
        let header_size = size_of::<BatchHeader>();
        let header = BatchHeader {
            prefix: DomainPrefix::new(Kind::Batch, self.chain_id),
            origin: self.origin,
            sequence: U64::new(sequence),
            transactions_count: U32::new(length_u32(&self.entries)),
            transactions_size: U32::new(length_u32(&self.bytes[header_size..])),
        };
        self.bytes[..header_size].copy_from_slice(header.as_bytes());
        let batch = Batch::assemble(
            self.bytes.as_slice().into(),
            header,
            core::mem::take(&mut self.entries),
            hasher,
        );
        self.bytes.truncate(header_size);
        batch
    }
}

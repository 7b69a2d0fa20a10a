//! Batches: the unit of dissemination, verification and storage (design.md 3).
//!
//! ```text
//! header: domain prefix (kind 3), origin address, sequence, last height, transactions count,
//!         transactions size
//! then per transaction: size u32, bytes
//! ```
//! The digest of a batch commits to its header and to the Merkle root over its transaction digests,
//! so that a proof runs from a transaction through its batch to the block.

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{Address, Digest, Hasher, Sm3};

use crate::codec::{DecodeError, Reader, check_keys, check_range, index, length_u32, put};
use crate::domain::{DomainPrefix, Kind};
use crate::ids::{BatchDigest, ChainId, TxDigest, TxId};
use crate::limits::{BATCH_KEYS_COUNT_MAX, BATCH_SIZE_MAX, BATCH_TRANSACTIONS_COUNT_MAX};
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
    /// The last height at which any of its transactions is valid: the largest of their last valid
    /// heights. No later block may order the batch, so that none needs to be remembered for longer.
    pub last_height: U64,
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
    keys_count: u32,
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
    keys_count: u32,
}

impl Batch {
    /// Reads a canonical batch, all of whose transactions are of its own chain, and computes all
    /// its digests. Signatures are not looked at.
    ///
    /// # Errors
    /// What is not canonical, and where; [`DecodeError::KeysTooMany`] for a batch that asks for
    /// more work than one may.
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
        let (mut keys_count, mut last_height) = (0, 0);
        for _ in 0..count {
            let size = reader.fixed::<U32>()?.get();
            let offset = u32::try_from(reader.offset()).unwrap_or(u32::MAX);
            let view = TransactionView::parse(reader.bytes(index(size))?)?;
            if view.header().prefix.chain_id != header.prefix.chain_id {
                return Err(DecodeError::NotCanonical { field: "chain of a batch's transaction" });
            }
            last_height = last_height.max(view.header().valid_until.get());
            keys_count += view.keys_count();
            check_keys("batch", keys_count, BATCH_KEYS_COUNT_MAX)?;
            let id = view.id();
            let digest = tx_digest(header.prefix.chain_id, &id, view.signature());
            let keys_count = view.keys_count();
            entries.push(BatchEntry { offset, size, keys_count, id, digest });
        }
        reader.finish()?;
        let stated = header.last_height.get();
        if stated != last_height {
            return Err(DecodeError::Mismatch {
                field: "last height",
                stated,
                actual: last_height,
            });
        }
        Ok(Self::assemble(bytes, header, entries, hasher))
    }

    fn assemble(
        bytes: Arc<[u8]>,
        header: BatchHeader,
        entries: Vec<BatchEntry>,
        hasher: &dyn Hasher,
    ) -> Self {
        let root = Self::tree_of(&entries, hasher).root();
        let keys_count = entries.iter().map(|entry| entry.keys_count).sum();
        assert!(keys_count <= BATCH_KEYS_COUNT_MAX, "reader and builder keep the limit");
        Self { bytes, header, entries: entries.into(), digest: header.digest(&root), keys_count }
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

    /// State keys that its transactions may touch, each mention counted.
    #[must_use]
    pub const fn keys_count(&self) -> u32 {
        self.keys_count
    }

    /// The transaction at `position`, read in place; `None` behind the last.
    #[must_use]
    pub fn transaction(&self, position: usize) -> Option<TransactionView<'_>> {
        let entry = self.entries.get(position)?;
        let start = index(entry.offset);
        let bytes = self.bytes.get(start..start.checked_add(index(entry.size))?)?;
        TransactionView::split(bytes, entry.keys_count).ok()
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
    keys_count: u32,
    last_height: u64,
}

impl BatchBuilder {
    /// An empty batch of `origin`, with memory for the largest batch taken once.
    #[must_use]
    pub fn new(chain_id: ChainId, origin: Address) -> Self {
        let mut bytes = Vec::with_capacity(index(BATCH_SIZE_MAX));
        bytes.resize(size_of::<BatchHeader>(), 0);
        Self { chain_id, origin, bytes, entries: Vec::new(), keys_count: 0, last_height: 0 }
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
        needed <= index(BATCH_SIZE_MAX)
            && self.entries.len() < index(BATCH_TRANSACTIONS_COUNT_MAX)
            && self.keys_count + transaction.get().keys_count() <= BATCH_KEYS_COUNT_MAX
    }

    /// Adds a transaction.
    ///
    /// # Panics
    /// If it does not fit, ask [`BatchBuilder::fits`] first; or if it is of another chain.
    pub fn push(&mut self, transaction: &Verified<Transaction>) {
        assert!(self.fits(transaction), "the caller seals a batch that is full");
        let (bytes, keys_count) = (transaction.get().bytes(), transaction.get().keys_count());
        let chain_id = transaction.get().header().prefix.chain_id;
        assert_eq!(chain_id, self.chain_id, "transactions are verified for the chain they are of");
        put(&mut self.bytes, &U32::new(length_u32(bytes)));
        let entry = BatchEntry {
            offset: length_u32(&self.bytes),
            size: length_u32(bytes),
            keys_count,
            id: transaction.id(),
            digest: transaction.digest(),
        };
        self.bytes.extend_from_slice(bytes);
        self.entries.push(entry);
        self.keys_count += keys_count;
        let valid_until = transaction.get().header().valid_until.get();
        self.last_height = self.last_height.max(valid_until);
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
            last_height: U64::new(self.last_height),
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
        (self.keys_count, self.last_height) = (0, 0);
        batch
    }
}

#[cfg(test)]
mod tests {
    use hufu_crypto::{Signature, Signer, SoftwareSigner, software_provider};
    use zerocopy::little_endian::U128;

    use super::*;
    use crate::asset::AssetCode;
    use crate::limits::{SETTLEMENT_LEGS_COUNT_MAX, TX_KEYS_COUNT_MAX};
    use crate::operation::{Leg, Operation};
    use crate::transaction::TransactionBuilder;
    use crate::verification::verify_transactions;

    const CHAIN: ChainId = ChainId(Digest([1; 32]));

    fn leg() -> Leg {
        let asset = AssetCode::new("USD").unwrap();
        Leg { asset, from: Address([1; 20]), to: Address([2; 20]), amount: U128::new(1) }
    }

    fn signed(
        chain_id: ChainId,
        nonce: u64,
        operations: &[Operation<'_>],
    ) -> Result<Transaction, DecodeError> {
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let key = *signer.public_key();
        // Each nonce has its own last valid height.
        let builder = TransactionBuilder::new(chain_id, key, nonce, 9 + nonce);
        let builder = operations.iter().fold(builder, |builder, one| builder.operation(*one));
        let unsigned = builder.unsigned();
        let digest = TransactionBuilder::signing_digest(&unsigned, &key);
        let signature: Signature = signer.sign(&digest).unwrap();
        TransactionBuilder::join(unsigned, &signature)
    }

    fn verified(transaction: Transaction) -> Verified<Transaction> {
        let chain_id = transaction.header().prefix.chain_id;
        let verdicts = verify_transactions(&software_provider(), chain_id, vec![transaction]);
        verdicts.into_iter().next().unwrap().unwrap()
    }

    /// The bytes of a batch of `chain_id` with these transactions, whatever they are.
    fn encoded(chain_id: ChainId, transactions: &[Transaction]) -> Arc<[u8]> {
        let mut body = Vec::new();
        for transaction in transactions {
            put(&mut body, &U32::new(length_u32(transaction.bytes())));
            body.extend_from_slice(transaction.bytes());
        }
        let last_heights = transactions.iter().map(|one| one.header().valid_until.get());
        let header = BatchHeader {
            prefix: DomainPrefix::new(Kind::Batch, chain_id),
            origin: Address::ZERO,
            sequence: U64::new(1),
            last_height: U64::new(last_heights.max().unwrap_or(0)),
            transactions_count: U32::new(length_u32(transactions)),
            transactions_size: U32::new(length_u32(&body)),
        };
        [header.as_bytes(), &body].concat().into()
    }

    #[test]
    fn a_batch_holds_transactions_of_its_own_chain_alone() {
        let (hasher, leg) = (software_provider().hasher, leg());
        let own = signed(CHAIN, 1, &[Operation::Transfer(&leg)]).unwrap();
        let other = signed(ChainId(Digest([2; 32])), 2, &[Operation::Transfer(&leg)]).unwrap();
        let batch = Batch::parse(encoded(CHAIN, core::slice::from_ref(&own)), &*hasher).unwrap();
        assert_eq!(batch.transaction(0).unwrap().bytes(), own.bytes());
        let refused = Batch::parse(encoded(CHAIN, &[own, other]), &*hasher).err();
        let field = "chain of a batch's transaction";
        assert_eq!(refused, Some(DecodeError::NotCanonical { field }));
    }

    #[test]
    fn a_batch_says_up_to_which_height_any_of_its_transactions_is_valid() {
        let (hasher, leg) = (software_provider().hasher, leg());
        let make = |nonce| signed(CHAIN, nonce, &[Operation::Transfer(&leg)]).unwrap();
        let mut builder = BatchBuilder::new(CHAIN, Address::ZERO);
        for nonce in [1, 5, 2] {
            builder.push(&verified(make(nonce)));
        }
        let batch = builder.seal(1, &*hasher);
        assert_eq!(batch.header().last_height.get(), 9 + 5);
        builder.push(&verified(make(2)));
        let next = builder.seal(2, &*hasher);
        assert_eq!(next.header().last_height.get(), 9 + 2, "the next batch begins anew");
        let read = Batch::parse(Arc::clone(batch.bytes()), &*hasher).unwrap();
        assert_eq!((read.header(), read.digest()), (batch.header(), batch.digest()));
        for stated in [0, 13, 15, u64::MAX] {
            let header = BatchHeader { last_height: U64::new(stated), ..*batch.header() };
            let body = &batch.bytes()[size_of::<BatchHeader>()..];
            let bytes = [header.as_bytes(), body].concat();
            let refused = Batch::parse(bytes.into(), &*hasher).err();
            let field = "last height";
            assert_eq!(refused, Some(DecodeError::Mismatch { field, stated, actual: 14 }));
        }
    }

    #[test]
    fn a_transaction_names_a_bounded_number_of_keys() {
        let leg = leg();
        let most = signed(CHAIN, 1, &[Operation::Transfer(&leg); 1_024]).unwrap();
        assert_eq!((most.keys_count(), most.view().keys_count()), (7_169, 7_169));
        let legs = [leg; 256];
        assert_eq!(legs.len(), usize::from(SETTLEMENT_LEGS_COUNT_MAX));
        let five = signed(CHAIN, 1, &[Operation::Settle(&legs); 5]).unwrap();
        assert_eq!(five.keys_count(), 1 + 5 * (256 * 6 + 1));
        let refused = signed(CHAIN, 1, &[Operation::Settle(&legs); 6]).err();
        let (field, found, max) = ("transaction", 1 + 6 * (256 * 6 + 1), TX_KEYS_COUNT_MAX);
        assert_eq!(refused, Some(DecodeError::KeysTooMany { field, found, max }));
    }

    #[test]
    fn a_batch_is_full_at_its_limit_of_keys() {
        let (hasher, leg) = (software_provider().hasher, leg());
        let legs = [leg; 170];
        let make = |nonce| signed(CHAIN, nonce, &[Operation::Settle(&legs)]).unwrap();
        let transactions: Vec<Transaction> = (0..9).map(make).collect();
        let mut builder = BatchBuilder::new(CHAIN, Address::ZERO);
        for transaction in &transactions[..8] {
            builder.push(&verified(transaction.clone()));
        }
        let one_more = verified(transactions[8].clone());
        assert!(!builder.fits(&one_more), "8 x 1,022 keys leave room for 16");
        let small = verified(signed(CHAIN, 9, &[Operation::Settle(&legs[..2])]).unwrap());
        assert!(builder.fits(&small));
        let batch = builder.seal(1, &*hasher);
        assert_eq!(batch.keys_count(), 8 * 1_022);
        assert!(builder.fits(&one_more), "the next batch begins without keys");
        let read = Batch::parse(encoded(CHAIN, &transactions[..8]), &*hasher).unwrap();
        assert_eq!(read.keys_count(), batch.keys_count());
        let refused = Batch::parse(encoded(CHAIN, &transactions), &*hasher).err();
        let (field, found, max) = ("batch", 9 * 1_022, BATCH_KEYS_COUNT_MAX);
        assert_eq!(refused, Some(DecodeError::KeysTooMany { field, found, max }));
    }
}

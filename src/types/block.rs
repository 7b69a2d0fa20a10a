//! Blocks: a header and an ordered list of batch digests. The bodies travel and are stored apart.

use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{Address, Digest, Hasher, Sm3};

use crate::codec::{DecodeError, Reader, check_range, index, length_u32, put};
use crate::domain::{DomainPrefix, Kind};
use crate::ids::{BatchDigest, BlockDigest};
use crate::limits::{BLOCK_BATCHES_COUNT_MAX, VALIDATORS_COUNT_MAX};
use crate::merkle;

/// Header of a block; its SM3 is what validators vote for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct BlockHeader {
    /// Kind, version, chain.
    pub prefix: DomainPrefix,
    /// Height, from 1; 0 is the genesis, which has no block.
    pub height: U64,
    /// Unix time in milliseconds; greater than the parent's, at most 2 s ahead of an honest
    /// validator's clock.
    pub time_millis: U64,
    /// Digest of the block before; zero for the first.
    pub parent: BlockDigest,
    /// The validator that built the block.
    pub proposer: Address,
    /// Batches ordered by the block.
    pub batches_count: U32,
    /// Transactions in all its batches.
    pub transactions_count: U32,
    /// Merkle root over the batch digests in order, each of which commits to its transactions.
    pub transactions_root: Digest,
    /// The height whose roots follow: this height less the genesis's lag, or 0.
    pub executed_height: U64,
    /// State root after `executed_height`.
    pub state_root: Digest,
    /// Merkle root over the receipts of `executed_height`, in order; zero when it has none.
    pub receipts_root: Digest,
    /// Number of those receipts.
    pub receipts_count: U32,
    /// Digest of the validator set in force at this height.
    pub validators: Digest,
    /// Validators of whom the proposer heard lately, a bit each by ascending address, lowest first.
    /// A claim, not a proof: it only says who is asked to propose next.
    pub present: U128,
}

const _: () = assert!(VALIDATORS_COUNT_MAX <= u128::BITS, "every validator has a bit in a header");

impl BlockHeader {
    /// The digest validators agree on.
    #[must_use]
    pub fn digest(&self) -> BlockDigest {
        BlockDigest(Sm3::of(&[self.as_bytes()]))
    }
}

/// A block: header and batch digests in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    header: BlockHeader,
    batches: Vec<BatchDigest>,
}

impl Block {
    /// Joins a header with its batch digests.
    ///
    /// # Errors
    /// If count or root in the header are not those of the list, or the list is longer than a block
    /// may be, or names a batch twice: its transactions can happen only once.
    pub fn new(
        header: BlockHeader,
        batches: Vec<BatchDigest>,
        hasher: &dyn Hasher,
    ) -> Result<Self, DecodeError> {
        header.prefix.expect(Kind::BlockHeader)?;
        let count = length_u32(&batches);
        check_range("block batches count", count.into(), 0, BLOCK_BATCHES_COUNT_MAX.into())?;
        check_range("block height", header.height.get(), 1, u64::MAX - 1)?;
        if header.batches_count.get() != count {
            let stated = header.batches_count.get().into();
            return Err(DecodeError::Mismatch {
                field: "batches count",
                stated,
                actual: count.into(),
            });
        }
        let mut sorted = batches.clone();
        sorted.sort_unstable();
        if !sorted.is_sorted_by(|first, second| first < second) {
            return Err(DecodeError::NotCanonical {
                field: "list of batches with one named twice",
            });
        }
        if header.transactions_root != Self::transactions_root(&batches, hasher) {
            return Err(DecodeError::NotCanonical { field: "transactions root" });
        }
        Ok(Self { header, batches })
    }

    /// Merkle root over batch digests, as headers carry it.
    #[must_use]
    pub fn transactions_root(batches: &[BatchDigest], hasher: &dyn Hasher) -> Digest {
        merkle::root(batches.iter().map(|batch| batch.0).collect(), hasher)
    }

    /// Reads exactly one block.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn parse(bytes: &[u8], hasher: &dyn Hasher) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let block = Self::read(&mut reader, hasher)?;
        reader.finish()?;
        Ok(block)
    }

    /// Reads the next block.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn read(reader: &mut Reader<'_>, hasher: &dyn Hasher) -> Result<Self, DecodeError> {
        let header: BlockHeader = *reader.fixed()?;
        let count = header.batches_count.get();
        check_range("block batches count", count.into(), 0, BLOCK_BATCHES_COUNT_MAX.into())?;
        let batches = reader.slice::<BatchDigest>(index(count))?.to_vec();
        Self::new(header, batches, hasher)
    }

    /// Appends the encoding.
    pub fn write(&self, out: &mut Vec<u8>) {
        put(out, &self.header);
        put(out, self.batches.as_slice());
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// The batch digests in order.
    #[must_use]
    pub fn batches(&self) -> &[BatchDigest] {
        &self.batches
    }

    /// Height of the block.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.header.height.get()
    }

    /// The digest validators agree on.
    #[must_use]
    pub fn digest(&self) -> BlockDigest {
        self.header.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ChainId;

    #[test]
    fn a_batch_is_ordered_once() {
        let provider = hufu_crypto::software_provider();
        let block = |batches: Vec<BatchDigest>| {
            let header = BlockHeader {
                prefix: DomainPrefix::new(Kind::BlockHeader, ChainId::ZERO),
                height: U64::new(1),
                time_millis: U64::new(1),
                parent: BlockDigest::ZERO,
                proposer: Address::ZERO,
                batches_count: U32::new(length_u32(&batches)),
                transactions_count: U32::new(2),
                transactions_root: Block::transactions_root(&batches, &*provider.hasher),
                executed_height: U64::ZERO,
                state_root: Digest::ZERO,
                receipts_root: Digest::ZERO,
                receipts_count: U32::ZERO,
                validators: Digest::ZERO,
                present: U128::ZERO,
            };
            let mut bytes = header.as_bytes().to_vec();
            put(&mut bytes, batches.as_slice());
            (
                Block::parse(&bytes, &*provider.hasher),
                Block::new(header, batches, &*provider.hasher),
            )
        };
        let [one, two] = [2, 1].map(|byte| BatchDigest(Digest([byte; 32])));
        let (parsed, made) = block(vec![one, two]);
        assert_eq!(parsed, made);
        assert_eq!(made.unwrap().batches(), [one, two]);
        let (parsed, made) = block(vec![one, two, one]);
        assert_eq!(parsed, made);
        assert!(matches!(made, Err(DecodeError::NotCanonical { .. })));
    }
}

//! What a block may order: the rules that every validator checks before it votes, and the memory
//! they need.
//!
//! ```text
//! batch:  height <= last height <= height + TX_VALIDITY_HEIGHTS_MAX, never ordered before
//! block:  its batches' counts, keys and bytes together within the limits of a block
//! ```
//!
//! A batch that a block at height h may order has a last height of at most h + 600, so no block
//! behind that may order it again: the digests of the last 600 heights are all that must be known.

use std::collections::{BTreeMap, VecDeque};

use crate::batch::{Batch, BatchHeader};
use crate::block::Block;
use crate::ids::{BatchDigest, ChainId};
use crate::limits::{
    BLOCK_BATCHES_COUNT_MAX, BLOCK_KEYS_COUNT_MAX, BLOCK_SIZE_MAX, BLOCK_TRANSACTIONS_COUNT_MAX,
    TX_VALIDITY_HEIGHTS_MAX,
};

/// Why a block may not order what it orders. A proposer that keeps the rules is never refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderingError {
    /// None of the batch's transactions is valid any more.
    #[error("batch {digest} is valid up to height {last_height}, the block's is {height}")]
    Passed {
        /// The batch.
        digest: BatchDigest,
        /// Its last height.
        last_height: u64,
        /// Height of the block.
        height: u64,
    },
    /// A transaction of the batch is valid for longer than any may be.
    #[error("batch {digest} is valid up to height {last_height}, too far ahead of {height}")]
    TooFarAhead {
        /// The batch.
        digest: BatchDigest,
        /// Its last height.
        last_height: u64,
        /// Height of the block.
        height: u64,
    },
    /// An earlier block has ordered the batch.
    #[error("batch {digest} was ordered at height {height} already")]
    Repeated {
        /// The batch.
        digest: BatchDigest,
        /// Height that ordered it.
        height: u64,
    },
    /// The batch is of another chain than the block.
    #[error("batch {digest} is of chain {found}")]
    WrongChain {
        /// The batch.
        digest: BatchDigest,
        /// Its chain.
        found: ChainId,
    },
    /// The bodies are not those that the block names, in its order.
    #[error("the batches at hand are not those of the block")]
    Unrelated,
    /// The header counts other transactions than the batches hold.
    #[error("the header counts {stated} transactions, the batches hold {actual}")]
    TransactionsCount {
        /// What the header says.
        stated: u32,
        /// What is there.
        actual: u64,
    },
    /// The batches together are more than one block may order.
    #[error("{found} {what} are more than the {max} of a block")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// Most allowed.
        max: u64,
    },
}

/// The batches that the last [`TX_VALIDITY_HEIGHTS_MAX`] heights ordered. Bounded by the heights
/// and by [`BLOCK_BATCHES_COUNT_MAX`] for each: 153,600 digests, about 12 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedBatches {
    next_height: u64,
    by_height: VecDeque<Vec<BatchDigest>>,
    by_digest: BTreeMap<BatchDigest, u64>,
}

impl OrderedBatches {
    /// An empty memory that takes in heights from `first_height` on: 1 on a new chain,
    /// [`OrderedBatches::first_needed`] of one that is recovered.
    ///
    /// # Panics
    /// If the height is 0: that is the genesis, which has no block.
    #[must_use]
    pub const fn new(first_height: u64) -> Self {
        assert!(first_height > 0, "height 0 is the genesis");
        Self { next_height: first_height, by_height: VecDeque::new(), by_digest: BTreeMap::new() }
    }

    /// The lowest height whose batches must be known where `tip` is the last block's height.
    #[must_use]
    pub const fn first_needed(tip: u64) -> u64 {
        tip.saturating_sub(TX_VALIDITY_HEIGHTS_MAX) + 1
    }

    /// Height of the block to come.
    #[must_use]
    pub const fn next_height(&self) -> u64 {
        self.next_height
    }

    /// Digests that are held, count.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_digest.len()
    }

    /// The block of this height ordered these batches; what no later block may order anyway is
    /// forgotten.
    ///
    /// # Panics
    /// If `height` is not the next one, or more are named than a block may order.
    pub fn insert(&mut self, height: u64, digests: &[BatchDigest]) {
        assert_eq!(height, self.next_height, "blocks are decided in order");
        assert!(
            digests.len() <= crate::codec::index(BLOCK_BATCHES_COUNT_MAX),
            "a block keeps its limit"
        );
        self.next_height += 1;
        self.by_height.push_back(digests.to_vec());
        self.by_digest.extend(digests.iter().map(|digest| (*digest, height)));
        let count = u64::try_from(self.by_height.len()).unwrap_or(u64::MAX);
        if count <= TX_VALIDITY_HEIGHTS_MAX {
            return;
        }
        let passed = self.next_height - count;
        for digest in self.by_height.pop_front().into_iter().flatten() {
            if self.by_digest.get(&digest) == Some(&passed) {
                self.by_digest.remove(&digest);
            }
        }
    }

    /// Whether a block of the window ordered this batch.
    #[must_use]
    pub fn contains(&self, digest: &BatchDigest) -> bool {
        self.by_digest.contains_key(digest)
    }

    /// The height of the window that ordered this batch.
    #[must_use]
    pub fn height_of(&self, digest: &BatchDigest) -> Option<u64> {
        self.by_digest.get(digest).copied()
    }
}

/// Whether a block of this height may order the batch, from its header alone; what was ordered
/// before is [`OrderedBatches`]' to say.
///
/// # Errors
/// [`OrderingError::Passed`] or [`OrderingError::TooFarAhead`].
pub fn check_batch(
    digest: BatchDigest,
    header: &BatchHeader,
    height: u64,
) -> Result<(), OrderingError> {
    let last_height = header.last_height.get();
    if last_height < height && !crate::planted!("last_height_unchecked") {
        return Err(OrderingError::Passed { digest, last_height, height });
    }
    if last_height > height.saturating_add(TX_VALIDITY_HEIGHTS_MAX) {
        return Err(OrderingError::TooFarAhead { digest, last_height, height });
    }
    Ok(())
}

/// Whether the block may order these batches, which are its own in its order: every rule of the
/// module.
///
/// # Errors
/// The first rule that is broken.
///
/// # Panics
/// If `ordered` does not end just before the block: whoever judges a block has decided all before.
pub fn check_batches(
    block: &Block,
    batches: &[Batch],
    ordered: &OrderedBatches,
) -> Result<(), OrderingError> {
    let height = block.height();
    assert_eq!(ordered.next_height(), height, "a block is judged behind the one before it");
    if !batches.iter().map(Batch::digest).eq(block.batches().iter().copied()) {
        return Err(OrderingError::Unrelated);
    }
    let (mut transactions, mut keys, mut bytes) = (0, 0, 0);
    for batch in batches {
        let (digest, header) = (batch.digest(), batch.header());
        let found = header.prefix.chain_id;
        if found != block.header().prefix.chain_id {
            return Err(OrderingError::WrongChain { digest, found });
        }
        check_batch(digest, header, height)?;
        if let Some(height) = ordered.height_of(&digest)
            && !crate::planted!("batch_ordered_twice")
        {
            return Err(OrderingError::Repeated { digest, height });
        }
        transactions += u64::from(header.transactions_count.get());
        keys += u64::from(batch.keys_count());
        bytes += u64::from(crate::codec::length_u32(batch.bytes()));
    }
    let stated = block.header().transactions_count.get();
    if u64::from(stated) != transactions {
        return Err(OrderingError::TransactionsCount { stated, actual: transactions });
    }
    check_sum("transactions", transactions, BLOCK_TRANSACTIONS_COUNT_MAX)?;
    check_sum("state keys", keys, BLOCK_KEYS_COUNT_MAX)?;
    check_sum("bytes of batches", bytes, BLOCK_SIZE_MAX)
}

fn check_sum(what: &'static str, found: u64, max: u32) -> Result<(), OrderingError> {
    let max = u64::from(max);
    if found <= max { Ok(()) } else { Err(OrderingError::TooMany { what, found, max }) }
}

#[cfg(test)]
mod tests;

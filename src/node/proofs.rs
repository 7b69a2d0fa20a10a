//! Receipts with their proofs, built from an executed block and the block that certifies it.

use hufu_crypto::Hasher;
use hufu_types::codec::{index, length_u32};
use hufu_types::merkle::MerkleTree;
use hufu_types::{Batch, BlockHeader, CertifiedPart, CommitCertificate, Receipt, ReceiptProof};

use crate::messages::{Executed, ExecutedBlock};

/// An executed block with the trees its proofs are read from; built once for all receipts of the
/// block.
#[derive(Debug)]
pub struct ProofSource {
    executed: Executed,
    batch_trees: Vec<MerkleTree>,
    block_tree: MerkleTree,
    /// Transactions in the batches before each batch.
    before: Vec<u32>,
}

impl ProofSource {
    /// Builds the trees of `executed`.
    #[must_use]
    pub fn new(executed: Executed, hasher: &dyn Hasher) -> Self {
        let batch_trees: Vec<MerkleTree> =
            executed.batches.iter().map(|batch| batch.tree(hasher)).collect();
        let digests = executed.batches.iter().map(|batch| batch.digest().0).collect();
        let block_tree = MerkleTree::new(digests, hasher);
        let mut before = Vec::with_capacity(executed.batches.len());
        let mut count = 0;
        for batch in &executed.batches {
            before.push(count);
            count += length_u32(batch.entries());
        }
        assert_eq!(count, length_u32(&executed.receipts), "one receipt for each transaction");
        assert_eq!(
            block_tree.root(),
            executed.block.header().transactions_root,
            "the block's own root"
        );
        Self { executed, batch_trees, block_tree, before }
    }

    /// The block.
    #[must_use]
    pub const fn executed(&self) -> &Executed {
        &self.executed
    }

    /// The receipt at `place` with its proof; certified when `certifier` carries the receipts root
    /// of this height. `None` if the block has no such transaction.
    #[must_use]
    pub fn prove(&self, place: u32, certifier: Option<&ExecutedBlock>) -> Option<ReceiptProof> {
        let receipt = *self.executed.receipts.get(index(place))?;
        let batch_index = self.before.partition_point(|&before| before <= place).checked_sub(1)?;
        let transactions_before = *self.before.get(batch_index)?;
        let batch: &Batch = self.executed.batches.get(batch_index)?;
        let position = index(place - transactions_before);
        let certified = certifier
            .map(|certifier| self.certify(place, certifier.block.header(), &certifier.certificate));
        Some(ReceiptProof {
            receipt,
            signature: *batch.transaction(position)?.signature(),
            header: *self.executed.block.header(),
            certificate: self.executed.certificate.clone(),
            batch: *batch.header(),
            batch_index: u32::try_from(batch_index).ok()?,
            transactions_before,
            batch_path: self.batch_trees.get(batch_index)?.path(position)?,
            block_path: self.block_tree.path(batch_index)?,
            certified,
        })
    }

    fn certify(
        &self,
        place: u32,
        header: &BlockHeader,
        certificate: &CommitCertificate,
    ) -> CertifiedPart {
        assert_eq!(header.executed_height.get(), self.executed.block.height(), "the header of h+d");
        assert_eq!(
            header.receipts_root,
            self.executed.receipts_tree.root(),
            "nodes agree on roots"
        );
        let path = self.executed.receipts_tree.path(index(place)).unwrap_or_default();
        CertifiedPart { header: *header, certificate: certificate.clone(), path }
    }
}

/// The tree over receipts read back from the store.
#[must_use]
pub fn receipts_tree(receipts: &[Receipt], hasher: &dyn Hasher) -> MerkleTree {
    MerkleTree::new(receipts.iter().map(Receipt::leaf).collect(), hasher)
}

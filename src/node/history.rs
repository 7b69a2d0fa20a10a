//! Reads executed blocks back: from the store's indexes and the block log.
//!
//! Every byte read is verified by the log's groups or the store's checksums; what does not fit
//! together is an error, never an answer.

use std::sync::Arc;

use hufu_crypto::Provider;
use hufu_storage::block_log::{LogReader, RecordPosition};
use hufu_storage::state_store::{Family, StateStore};
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;
use hufu_types::{Batch, Block, CommitCertificate, TransactionHeader, TxId};

use crate::executor::{ExecuteError, describe};
use crate::messages::{Executed, ExecutedBlock};
use crate::proofs::receipts_tree;
use crate::records::{RECORD_BATCH, RECORD_BLOCK, parse_block_record};
use crate::recovery::RecoverError;
use crate::state_keys::{self, BlockRow};

/// See the module.
pub struct History {
    store: Arc<StateStore>,
    reader: LogReader,
    provider: Provider,
}

impl History {
    /// Reads from `store` and from the log behind `reader`.
    #[must_use]
    pub const fn new(store: Arc<StateStore>, reader: LogReader, provider: Provider) -> Self {
        Self { store, reader, provider }
    }

    /// Where a transaction was included: height and index.
    ///
    /// # Errors
    /// A store that fails or is damaged.
    pub fn find(&self, id: &TxId) -> Result<Option<(u64, u32)>, RecoverError> {
        let row = self.store.get(Family::Transactions, id.as_bytes())?;
        let place = row.map(|row| state_keys::parse_transaction_row(&row)).transpose();
        Ok(place.map_err(ExecuteError::from)?)
    }

    /// The last `count` executed blocks up to `height`, oldest first.
    ///
    /// # Errors
    /// A store or log that fails or is damaged.
    pub fn last(&mut self, height: u64, count: u64) -> Result<Vec<Executed>, RecoverError> {
        let first = height.saturating_sub(count) + 1;
        let mut blocks = Vec::new();
        for height in first..=height {
            blocks.extend(self.block(height)?);
        }
        Ok(blocks)
    }

    /// The executed block of `height`; `None` above the last one executed.
    ///
    /// # Errors
    /// A store or log that fails or is damaged.
    pub fn block(&mut self, height: u64) -> Result<Option<Executed>, RecoverError> {
        let Some(row) = self.row(height)? else { return Ok(None) };
        let receipts = self.store.get(Family::Receipts, &height.to_be_bytes())?;
        let receipts = state_keys::parse_receipts(&receipts.unwrap_or_default());
        let receipts = receipts.map_err(ExecuteError::from)?;
        let (block, certificate) = self.block_of(height, &row)?;
        let batches = self.batches_of(&row)?;
        if !batches.iter().map(Batch::digest).eq(block.batches().iter().copied()) {
            return Err(damaged(&row, "orders other batches than the index says".to_owned()));
        }
        let tree = receipts_tree(&receipts, &*self.provider.hasher);
        if tree.root() != row.roots.receipts_root {
            return Err(damaged(&row, "has other receipts than the index says".to_owned()));
        }
        let digest = block.digest();
        let receipts_tree = tree;
        let roots = row.roots;
        Ok(Some(Arc::new(ExecutedBlock {
            block,
            digest,
            certificate,
            batches,
            receipts,
            receipts_tree,
            roots,
        })))
    }

    /// The block of an executed height and what decided it, without what it orders; `None` above
    /// the last one executed.
    ///
    /// # Errors
    /// A store or log that fails or is damaged.
    pub fn decided(
        &mut self,
        height: u64,
    ) -> Result<Option<(Block, CommitCertificate)>, RecoverError> {
        let Some(row) = self.row(height)? else { return Ok(None) };
        self.block_of(height, &row).map(Some)
    }

    /// The batches of an executed height, in the order of its block; `None` above the last one
    /// executed.
    ///
    /// # Errors
    /// A store or log that fails or is damaged.
    pub fn bodies(&mut self, height: u64) -> Result<Option<Vec<Batch>>, RecoverError> {
        let Some(row) = self.row(height)? else { return Ok(None) };
        self.batches_of(&row).map(Some)
    }

    fn row(&self, height: u64) -> Result<Option<BlockRow>, RecoverError> {
        let row = self.store.get(Family::Blocks, &height.to_be_bytes())?;
        let row = row.map(|row| BlockRow::parse(height, &row)).transpose();
        Ok(row.map_err(ExecuteError::from)?)
    }

    fn block_of(
        &mut self,
        height: u64,
        row: &BlockRow,
    ) -> Result<(Block, CommitCertificate), RecoverError> {
        let record = self.reader.read(&row.position)?;
        if record.kind != RECORD_BLOCK {
            return Err(damaged(row, "is no block".to_owned()));
        }
        let (block, certificate) = parse_block_record(record.payload, &*self.provider.hasher)
            .map_err(|cause| damaged(row, cause.to_string()))?;
        if block.height() != height {
            return Err(damaged(row, format!("is the block of height {}", block.height())));
        }
        Ok((block, certificate))
    }

    fn batches_of(&mut self, row: &BlockRow) -> Result<Vec<Batch>, RecoverError> {
        row.bodies.iter().map(|position| self.batch(position)).collect()
    }

    /// The last `transactions_max` transactions of the validity window that ends with `tip`, and
    /// what else is in the first of their blocks, in the order of the chain, to `take`.
    ///
    /// # Errors
    /// A store or log that fails or is damaged.
    pub fn included(
        &mut self,
        tip: u64,
        transactions_max: u32,
        take: &mut dyn FnMut(&TransactionHeader),
    ) -> Result<(), RecoverError> {
        let (mut rows, mut count) = (Vec::new(), 0);
        for height in (tip.saturating_sub(TX_VALIDITY_HEIGHTS_MAX).max(1)..=tip).rev() {
            if count >= transactions_max {
                break;
            }
            let Some(row) = self.store.get(Family::Blocks, &height.to_be_bytes())? else {
                continue;
            };
            let row = BlockRow::parse(height, &row).map_err(ExecuteError::from)?;
            count = count.saturating_add(row.roots.receipts_count);
            rows.push(row);
        }
        for position in rows.iter().rev().flat_map(|row| &row.bodies) {
            let batch = self.batch(position)?;
            for index in 0..batch.entries().len() {
                if let Some(view) = batch.transaction(index) {
                    take(view.header());
                }
            }
        }
        Ok(())
    }

    fn batch(&mut self, position: &RecordPosition) -> Result<Batch, RecoverError> {
        let record = self.reader.read(position)?;
        let damaged = |reason: String| RecoverError::Record { place: describe(position), reason };
        if record.kind != RECORD_BATCH {
            return Err(damaged("is no batch".to_owned()));
        }
        Batch::parse(record.payload.into(), &*self.provider.hasher)
            .map_err(|cause| damaged(cause.to_string()))
    }
}

/// The record of a block does not fit the index.
fn damaged(row: &BlockRow, reason: String) -> RecoverError {
    RecoverError::Record { place: describe(&row.position), reason }
}

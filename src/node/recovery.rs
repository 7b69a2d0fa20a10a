//! Recovery: the block log is the history; the state store is brought up to it.
//!
//! ```text
//! data folder -> state store -> the last block applied
//!             -> vote log -> the last height sealed       } what the block log must hold at least
//!             -> block log (torn tail cut, damage refused) -> replay from the applied mark
//!             -> state at the log's end, records of the height under way -> engine
//! ```
//!
//! The vote log comes first: its seals vouch for the end of the block log, and a node makes it
//! before its first block log, so that a block log without a vote log is one whose votes are lost.
//!
//! Runs once, before any tile. What it cannot make whole it refuses, with the place.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hufu_consensus::RecoveredLog;
use hufu_consensus::header::Parent;
use hufu_consensus::replica::Tip;
use hufu_crypto::Provider;
use hufu_storage::block_log::{BlockLog, LogKind, LogOptions, LogReader, RecoveryReport, Start};
use hufu_storage::data_dir::DataDir;
use hufu_storage::keyring::Keyring;
use hufu_storage::state_store::{StateStore, StateStoreOptions};
use hufu_storage::vote_log::{VoteLog, VoteRecovery};
use hufu_types::{Batch, BatchDigest, Block, ChainId, Genesis, OrderedBatches};

use crate::executor::{ExecuteError, Executor, Inline};
use crate::messages::{DecidedBlock, DurableBlock};
use crate::metrics::Metrics;
use crate::records::{RECORD_BATCH, RECORD_BLOCK, parse_block_record};
use crate::state_keys::BlockRow;
use crate::tiles::persist_log::UnorderedBatches;
use hufu_storage::state_store::Family;

/// Why a node cannot start from what is in its data folder.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A log or the store failed or is damaged.
    #[error(transparent)]
    Storage(#[from] hufu_storage::Error),
    /// The state failed.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The vote log holds what the engine never wrote, or contradicts itself.
    #[error("vote log: {0}")]
    VoteLog(#[from] hufu_consensus::vote_log::RecoverError),
    /// There are blocks and no vote log: what this key signed for the next height is unknown.
    #[error(
        "{} holds no vote log, but there are blocks: this key may have voted on the next height, \
         and would vote again; put the folder back, or start with an empty data folder and a new \
         key",
        folder.display()
    )]
    VotesMissing {
        /// Folder of the vote log.
        folder: PathBuf,
    },
    /// The vote log has sealed a height whose block is not in the block log.
    #[error("vote log: height {sealed} is sealed, the block log ends at height {tip}")]
    SealedAhead {
        /// The last height sealed.
        sealed: u64,
        /// The last block of the block log.
        tip: u64,
    },
    /// A record of the block log is not what was written.
    #[error("block log record at {place}: {reason}")]
    Record {
        /// Segment and offset.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// Somebody wants the node to stop; the next start goes on from here.
    #[error("interrupted at height {height}")]
    Interrupted {
        /// Height executed last.
        height: u64,
    },
}

/// Hears of each height before it is executed again; `false` ends the recovery there.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> bool;

/// What recovery hands to the tiles.
pub struct Recovered {
    /// The state at the log's end.
    pub executor: Executor,
    /// The log, open for appending.
    pub log: BlockLog,
    /// What was found when it was opened.
    pub report: RecoveryReport,
    /// What was found when the vote log was opened.
    pub vote_report: RecoveryReport,
    /// Batches on disk that no block has ordered and the next one may order, of any origin.
    pub batches: Vec<Batch>,
    /// Where they lie.
    pub unordered: UnorderedBatches,
    /// What the last heights ordered, and no later one may order again.
    pub ordered: OrderedBatches,
    /// The vote log, open for appending.
    pub vote_log: VoteLog,
    /// Its records above the tip.
    pub votes: RecoveredLog,
    /// The last block.
    pub tip: Tip,
    /// Blocks executed again.
    pub replayed: u64,
}

/// What the storage of a node is opened with.
#[derive(Clone)]
pub struct StorageOptions {
    /// The block log.
    pub log: LogOptions,
    /// The vote log's folder is beside it; its options follow from these.
    pub vote_log: hufu_storage::vote_log::VoteLogOptions,
    /// The state store.
    pub store: StateStoreOptions,
    /// Bytes of decoded-value cache.
    pub cache_bytes: usize,
}

impl StorageOptions {
    /// The default options of a data folder that is stored in clear.
    #[must_use]
    pub fn new(data_dir: &Path, chain_id: ChainId, provider: &Provider) -> Self {
        let hasher = &provider.hasher;
        Self {
            log: LogOptions::new(
                DataDir::block_log_in(data_dir),
                LogKind::Block,
                chain_id.0,
                Arc::clone(hasher),
            ),
            vote_log: hufu_storage::vote_log::VoteLogOptions::new(
                DataDir::vote_log_in(data_dir),
                chain_id.0,
                Arc::clone(hasher),
            ),
            store: StateStoreOptions::new(DataDir::state_store_in(data_dir)),
            cache_bytes: 16 << 20,
        }
    }

    /// The same, encrypted with these keys if there are any.
    #[must_use]
    pub fn with_keys(mut self, keys: Option<Keyring>) -> Self {
        (self.log.keys, self.vote_log.keys) = (keys.clone(), keys.clone());
        self.store.keys = keys;
        self
    }

    /// Whether what is in the data folder, if there is anything, is encrypted with these keys, or
    /// in clear if there are none.
    ///
    /// # Errors
    /// What is encrypted otherwise, and how.
    pub fn check_keys(&self) -> Result<(), hufu_storage::Error> {
        VoteLog::check_keys(&self.vote_log)?;
        BlockLog::check_keys(&self.log)
    }
}

/// Opens everything in the data folder and replays what the state store has not applied.
///
/// # Errors
/// What cannot be made whole, and where.
pub fn recover(
    genesis: &Genesis,
    provider: &Provider,
    metrics: &Arc<Metrics>,
    mut options: StorageOptions,
    progress: Progress<'_>,
) -> Result<Recovered, RecoverError> {
    let store = Arc::new(StateStore::open(&options.store)?);
    let applied = store.applied()?;
    let (vote_log, records, vote_report) = open_votes(&mut options, applied.is_some())?;
    let sealed = records.seal.map_or(0, |seal| seal.log_sequence);
    let executed = applied.as_ref().map_or(0, |mark| mark.log_position.sequence);
    options.log.known_durable = sealed.max(executed);
    let mut executor =
        Executor::open(genesis, provider.clone(), store, options.cache_bytes, Arc::clone(metrics))?;
    let (log, report) = BlockLog::open(options.log)?;
    let start = applied.map_or(Start::Beginning, |mark| Start::At(mark.replay_from));
    let mut reader = log.reader();
    reader.seek(start)?;
    let mut replay = Replay::new(provider, genesis.chain_id());
    let replayed = replay.run(&mut reader, &mut executor, progress)?;
    let tip = tip(&executor, &mut reader, genesis, provider)?;
    if let Some(sealed) =
        records.seal.map(|seal| seal.height).filter(|sealed| *sealed > tip.block.height)
    {
        return Err(RecoverError::SealedAhead { sealed, tip: tip.block.height });
    }
    let records =
        records.sealed.iter().chain(&records.open).map(|record| record.payload.as_slice());
    let votes = RecoveredLog::read(records, tip.block.height, &*provider.hasher)?;
    let ordered = ordered(&executor, &mut reader, provider)?;
    let (batches, unordered) = replay.finish(tip.block.height);
    Ok(Recovered {
        executor,
        log,
        report,
        vote_report,
        batches,
        unordered,
        ordered,
        vote_log,
        votes,
        tip,
        replayed,
    })
}

/// Opens the vote log; where there are blocks, it must be there.
fn open_votes(
    options: &mut StorageOptions,
    has_state: bool,
) -> Result<(VoteLog, VoteRecovery, RecoveryReport), RecoverError> {
    if has_state || BlockLog::exists(&options.log)? {
        if !VoteLog::exists(&options.vote_log)? {
            return Err(RecoverError::VotesMissing { folder: options.vote_log.folder.clone() });
        }
        // Its first group was durable before the block log was made.
        options.vote_log.known_durable = 1;
    }
    Ok(VoteLog::open(&options.vote_log)?)
}

/// Reads the log's records in order, executing the blocks that the state has not seen.
pub struct Replay<'a> {
    provider: &'a Provider,
    chain_id: ChainId,
    bodies: HashMap<BatchDigest, Batch>,
    unordered: UnorderedBatches,
}

impl<'a> Replay<'a> {
    /// Nothing read yet of the log of this chain.
    #[must_use]
    pub fn new(provider: &'a Provider, chain_id: ChainId) -> Self {
        let (bodies, unordered) = (HashMap::new(), UnorderedBatches::default());
        Self { provider, chain_id, bodies, unordered }
    }

    /// Reads to the end of the log; returns how many blocks were executed.
    ///
    /// # Errors
    /// A record that is not what was written, or a block that cannot be executed.
    pub fn run(
        &mut self,
        reader: &mut LogReader,
        executor: &mut Executor,
        progress: Progress<'_>,
    ) -> Result<u64, RecoverError> {
        let mut executed = 0;
        while let Some(record) = reader.next()? {
            let place = crate::executor::describe(&record.position);
            let damaged = |reason: String| RecoverError::Record { place: place.clone(), reason };
            match record.kind {
                RECORD_BATCH => {
                    let batch = Batch::parse(record.payload.into(), &*self.provider.hasher)
                        .map_err(|cause| damaged(cause.to_string()))?;
                    if batch.header().prefix.chain_id != self.chain_id {
                        return Err(damaged("batch is of another chain".to_owned()));
                    }
                    self.unordered.insert(&batch, record.position);
                    self.bodies.insert(batch.digest(), batch);
                }
                RECORD_BLOCK => {
                    let (block, certificate) =
                        parse_block_record(record.payload, &*self.provider.hasher)
                            .map_err(|cause| damaged(cause.to_string()))?;
                    if block.height() <= executor.height() {
                        block.batches().iter().for_each(|digest| self.forget(digest));
                        self.forget_expired(block.height());
                        continue;
                    }
                    let position = record.position;
                    let (mut batches, mut bodies) = (Vec::new(), Vec::new());
                    for digest in block.batches() {
                        let missing = || {
                            damaged(format!(
                                "batch {digest} of height {} is missing",
                                block.height()
                            ))
                        };
                        batches.push(self.bodies.remove(digest).ok_or_else(missing)?);
                        bodies.push(self.unordered.remove(digest).ok_or_else(missing)?);
                    }
                    self.forget_expired(block.height());
                    let replay_from =
                        self.unordered.oldest().map_or(position, |oldest| oldest.min(position));
                    if !progress(block.height()) {
                        return Err(RecoverError::Interrupted { height: executor.height() });
                    }
                    let decided = DecidedBlock { block, certificate, batches };
                    let durable = DurableBlock { decided, position, bodies, replay_from };
                    executor.execute(durable, &mut Inline)?;
                    executed += 1;
                }
                other => return Err(damaged(format!("kind {other} is unknown to this build"))),
            }
        }
        Ok(executed)
    }

    fn forget(&mut self, digest: &BatchDigest) {
        self.bodies.remove(digest);
        self.unordered.remove(digest);
    }

    /// The block of this height is durable: what no later one may order is of no use.
    fn forget_expired(&mut self, height: u64) {
        while let Some(digest) = self.unordered.remove_expired(height) {
            self.bodies.remove(&digest);
        }
    }

    /// The batches that no block up to `tip` has ordered and a later one may order, oldest first,
    /// and where they lie.
    #[must_use]
    pub fn finish(mut self, tip: u64) -> (Vec<Batch>, UnorderedBatches) {
        self.forget_expired(tip);
        let ordered: Vec<BatchDigest> = self.unordered.digests().collect();
        let batches = ordered.iter().filter_map(|digest| self.bodies.remove(digest)).collect();
        (batches, self.unordered)
    }
}

/// The last block executed: its header and the one before it are read from the log.
fn tip(
    executor: &Executor,
    reader: &mut LogReader,
    genesis: &Genesis,
    provider: &Provider,
) -> Result<Tip, RecoverError> {
    let height = executor.height();
    let mut tip = Tip::genesis(genesis.time_millis);
    if height == 0 {
        return Ok(tip);
    }
    let last = block_at(height, executor, reader, provider)?;
    tip.block = Parent::of(last.header());
    tip.present = Some(last.header().present.get());
    let with_receipts = executor.recent_roots().iter().rev().find(|roots| roots.receipts_count > 0);
    tip.last_receipts_height = with_receipts.map_or(0, |roots| roots.height);
    if height > 1 {
        let before = block_at(height - 1, executor, reader, provider)?;
        tip.present_before = Some(before.header().present.get());
    }
    Ok(tip)
}

/// What the blocks of the last heights ordered.
fn ordered(
    executor: &Executor,
    reader: &mut LogReader,
    provider: &Provider,
) -> Result<OrderedBatches, RecoverError> {
    let tip = executor.height();
    let first = OrderedBatches::first_needed(tip);
    let mut ordered = OrderedBatches::new(first);
    for height in first..=tip {
        ordered.insert(height, block_at(height, executor, reader, provider)?.batches());
    }
    Ok(ordered)
}

/// The block of an executed height, from the log.
fn block_at(
    height: u64,
    executor: &Executor,
    reader: &mut LogReader,
    provider: &Provider,
) -> Result<Block, RecoverError> {
    let row = executor.store().get(Family::Blocks, &height.to_be_bytes())?.unwrap_or_default();
    let row = BlockRow::parse(height, &row).map_err(ExecuteError::from)?;
    let record = reader.read(&row.position)?;
    let place = crate::executor::describe(&record.position);
    let damaged = |reason: String| RecoverError::Record { place, reason };
    if record.kind != RECORD_BLOCK {
        return Err(damaged("is no block".to_owned()));
    }
    match parse_block_record(record.payload, &*provider.hasher) {
        Ok((block, _)) if block.height() == height => Ok(block),
        Ok((block, _)) => Err(damaged(format!("is the block of height {}", block.height()))),
        Err(cause) => Err(damaged(cause.to_string())),
    }
}

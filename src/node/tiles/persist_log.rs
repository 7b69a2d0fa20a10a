//! The block-log tile: makes batches and decided blocks durable, in order.
//!
//! ```text
//! mempool   --SealedBatch--> persist-log --BatchDigest--> mempool   (may be proposed now)
//! consensus --DecidedBlock-> persist-log --height-------> consensus (may start the next height)
//!                                        \-DurableBlock-> execute   (may be executed now)
//! ```
//!
//! It owns the block log and nothing else. While one group is on its way to the disk the next one
//! collects; nothing is announced before the log says that it is durable. Any error of the log ends
//! the node.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use hufu_runtime::clock::Nanos;
use hufu_runtime::file::Backend;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_runtime::wake::PollSet;
use hufu_storage::block_log::{Appended, BlockLog, RecordPosition};
use hufu_types::{Batch, BatchDigest};

use crate::messages::{DecidedBlock, DurableBlock, SealedBatch};
use crate::metrics::Metrics;
use crate::records::{RECORD_BATCH, RECORD_BLOCK, block_record};

/// The links of the block-log tile.
#[derive(Debug)]
pub struct PersistLogLinks {
    /// Batches to write.
    pub batches: Consumer<SealedBatch>,
    /// Decided blocks to write.
    pub blocks: Consumer<DecidedBlock>,
    /// Tells the mempool which batches are durable.
    pub to_mempool: Producer<BatchDigest>,
    /// Tells consensus which heights are durable.
    pub to_consensus: Producer<u64>,
    /// Hands durable blocks to execution.
    pub to_execute: Producer<DurableBlock>,
}

/// A record that is in the log but not known to be durable.
enum Waiting {
    Batch(BatchDigest),
    Block(Box<DecidedBlock>),
}

/// Where the batches lie that no durable block has ordered and a later one may order, whoever their
/// origin is.
///
/// A replay that begins at the oldest of them finds every body it needs.
#[derive(Debug, Default)]
pub struct UnorderedBatches {
    /// Position and last height.
    by_digest: HashMap<BatchDigest, (RecordPosition, u64)>,
    by_position: BTreeMap<RecordPosition, BatchDigest>,
    by_last_height: BTreeSet<(u64, BatchDigest)>,
}

impl UnorderedBatches {
    /// A batch was recorded.
    pub fn insert(&mut self, batch: &Batch, position: RecordPosition) {
        let (digest, last_height) = (batch.digest(), batch.header().last_height.get());
        if let Some((earlier, _)) = self.by_digest.insert(digest, (position, last_height)) {
            self.by_position.remove(&earlier);
        }
        self.by_position.insert(position, digest);
        self.by_last_height.insert((last_height, digest));
        self.check();
    }

    /// A block has ordered a batch; says where it lies.
    pub fn remove(&mut self, digest: &BatchDigest) -> Option<RecordPosition> {
        let (position, last_height) = self.by_digest.remove(digest)?;
        self.by_position.remove(&position);
        self.by_last_height.remove(&(last_height, *digest));
        self.check();
        Some(position)
    }

    /// The block of this height is durable: takes out a batch that no later one may order; `None`
    /// if there is none. Without this a batch that is never ordered would hold every replay back.
    pub fn remove_expired(&mut self, height: u64) -> Option<BatchDigest> {
        let (last_height, digest) = *self.by_last_height.first()?;
        if last_height > height {
            return None;
        }
        self.remove(&digest).map(|_| digest)
    }

    fn check(&self) {
        assert_eq!(self.by_digest.len(), self.by_position.len(), "one position for each batch");
        assert_eq!(self.by_digest.len(), self.by_last_height.len(), "each batch expires once");
    }

    /// All of them, oldest first.
    pub fn digests(&self) -> impl Iterator<Item = BatchDigest> + '_ {
        self.by_position.values().copied()
    }

    /// The oldest one's position.
    #[must_use]
    pub fn oldest(&self) -> Option<RecordPosition> {
        self.by_position.first_key_value().map(|(position, _)| *position)
    }
}

/// See the module.
pub struct PersistLogTile {
    log: Option<BlockLog>,
    metrics: Arc<Metrics>,
    links: PersistLogLinks,
    waiting: VecDeque<(RecordPosition, Waiting)>,
    unordered: UnorderedBatches,
    held_batch: Option<SealedBatch>,
    held_block: Option<(Box<DecidedBlock>, Vec<u8>)>,
    durable_batch: Option<BatchDigest>,
    durable_block: Option<DurableBlock>,
    durable_height: Option<u64>,
    is_idle: bool,
    is_stopping: bool,
}

impl PersistLogTile {
    /// A tile on an open log; `unordered` is what recovery found recorded but not ordered.
    #[must_use]
    pub fn new(
        log: BlockLog,
        unordered: UnorderedBatches,
        metrics: Arc<Metrics>,
        links: PersistLogLinks,
    ) -> Self {
        Self {
            log: Some(log),
            metrics,
            links,
            waiting: VecDeque::new(),
            unordered,
            held_batch: None,
            held_block: None,
            durable_batch: None,
            durable_block: None,
            durable_height: None,
            is_idle: true,
            is_stopping: false,
        }
    }

    /// Puts what came in into the log while it has room. Blocks first: execution waits for them.
    fn append(&mut self) -> Result<bool, Fatal> {
        let Some(log) = self.log.as_mut() else { return Ok(false) };
        let mut has_worked = false;
        loop {
            let next = self.held_block.take().or_else(|| {
                let decided = self.links.blocks.pop()?;
                let payload = block_record(&decided.block, &decided.certificate);
                Some((Box::new(decided), payload))
            });
            let Some((decided, payload)) = next else { break };
            match log.append(RECORD_BLOCK, &[&payload])? {
                Appended::Placed(position) => {
                    self.waiting.push_back((position, Waiting::Block(decided)));
                }
                Appended::Full => {
                    self.held_block = Some((decided, payload));
                    return Ok(has_worked);
                }
            }
            has_worked = true;
        }
        while let Some(sealed) = self.held_batch.take().or_else(|| self.links.batches.pop()) {
            match log.append(RECORD_BATCH, &[sealed.batch.bytes()])? {
                Appended::Placed(position) => {
                    self.unordered.insert(&sealed.batch, position);
                    let digest = sealed.batch.digest();
                    self.waiting.push_back((position, Waiting::Batch(digest)));
                }
                Appended::Full => {
                    self.held_batch = Some(sealed);
                    return Ok(has_worked);
                }
            }
            has_worked = true;
        }
        Ok(has_worked)
    }

    fn sync(&mut self) -> Result<bool, Fatal> {
        let Some(log) = self.log.as_mut() else { return Ok(false) };
        let progress = log.poll()?;
        self.is_idle = progress.idle;
        let counters = log.counters();
        self.metrics.log_bytes.publish(counters.bytes_total);
        self.metrics.log_groups.publish(counters.groups_total);
        // The synchronous back end works only inside `poll`, so what it has left is work to be done
        // at once.
        let has_more = !progress.idle && log.backend() == Backend::Sync;
        Ok(progress.advanced || has_more)
    }

    /// Announces what is durable, in the order of the log; `false` while a link downstream is full.
    fn announce(&mut self) -> bool {
        loop {
            if !self.push_durable() {
                return false;
            }
            let durable = match &self.log {
                Some(log) => log.durable(),
                None => return true,
            };
            match self.waiting.pop_front() {
                Some((position, waiting)) if durable.covers(&position) => {
                    self.note_durable(position, waiting);
                }
                Some(entry) => {
                    self.waiting.push_front(entry);
                    return true;
                }
                None => return true,
            }
        }
    }

    fn note_durable(&mut self, position: RecordPosition, waiting: Waiting) {
        match waiting {
            Waiting::Batch(digest) => self.durable_batch = Some(digest),
            Waiting::Block(decided) => {
                let bodies: Option<Vec<RecordPosition>> = decided
                    .block
                    .batches()
                    .iter()
                    .map(|digest| self.unordered.remove(digest))
                    .collect();
                let Some(bodies) = bodies else {
                    unreachable!("consensus decides only blocks whose batches are durable here")
                };
                while self.unordered.remove_expired(decided.block.height()).is_some() {}
                let replay_from =
                    self.unordered.oldest().map_or(position, |oldest| oldest.min(position));
                self.durable_height = Some(decided.block.height());
                self.durable_block =
                    Some(DurableBlock { decided: *decided, position, bodies, replay_from });
            }
        }
    }

    fn push_durable(&mut self) -> bool {
        if let Some(digest) = self.durable_batch.take() {
            self.durable_batch = self.links.to_mempool.try_push(digest).err();
        }
        if let Some(block) = self.durable_block.take() {
            self.durable_block = self.links.to_execute.try_push(block).err();
        }
        if let Some(height) = self.durable_height.take() {
            self.durable_height = self.links.to_consensus.try_push(height).err();
        }
        self.durable_batch.is_none()
            && self.durable_block.is_none()
            && self.durable_height.is_none()
    }

    fn is_finished(&self) -> bool {
        self.is_stopping
            && self.is_idle
            && self.waiting.is_empty()
            && self.held_batch.is_none()
            && self.held_block.is_none()
            && self.links.batches.is_finished()
            && self.links.blocks.is_finished()
    }
}

impl Tile for PersistLogTile {
    fn name(&self) -> &'static str {
        "persist-log"
    }

    fn poll(&mut self, _now: Nanos) -> Result<Progress, Fatal> {
        let has_appended = self.append()?;
        let has_advanced = self.sync()?;
        if !self.announce() {
            return Ok(Progress::PushedBack);
        }
        if self.is_finished() {
            if let Some(log) = self.log.take() {
                log.close()?;
            }
            return Ok(Progress::Done);
        }
        Ok(if has_appended || has_advanced { Progress::Busy } else { Progress::Idle })
    }

    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        if let Some(log) = &self.log
            && !self.is_idle
        {
            fds.readable(log);
        }
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

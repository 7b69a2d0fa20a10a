//! The mempool tile: admission, batches, proposals.
//!
//! ```text
//! verify --Checked--> mempool --Status--> ingress
//!                     mempool --TxDigest--> verify (admitted: exact copies need no verification)
//!                     mempool --SealedBatch--> persist-log --BatchDigest--> mempool (durable)
//! consensus --MempoolRequest--> mempool --Candidates--> consensus
//! ```
//!
//! It owns the pending set; the rules are `hufu-mempool`'s. A batch is proposed only when the block
//! log has it on disk. When no room is left downstream it takes nothing in, which pushes back to
//! the clients.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use hufu_mempool::{Mempool, ProposalLimits};
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_types::limits::{
    BATCH_KEYS_COUNT_MAX, BLOCK_KEYS_COUNT_MAX, BLOCK_SIZE_MAX, BLOCK_TRANSACTIONS_COUNT_MAX,
};
use hufu_types::{Batch, BatchDigest, TxDigest};

use crate::messages::{Candidates, Checked, MempoolRequest, SealedBatch, Status};
use crate::metrics::Metrics;

/// Transactions taken from one verify tile in one poll, so that no tile starves another.
const CHECKED_PER_POLL_MAX: usize = 512;

/// The links of the mempool tile.
#[derive(Debug)]
pub struct MempoolLinks {
    /// From each verify tile.
    pub checked: Vec<Consumer<Checked>>,
    /// To each verify tile, in the same order: what was admitted of its transactions.
    pub to_verify: Vec<Producer<TxDigest>>,
    /// To each ingress tile.
    pub to_ingress: Vec<Producer<Status>>,
    /// Batches for the block log.
    pub to_log: Producer<SealedBatch>,
    /// Batches that are on disk.
    pub durable: Consumer<BatchDigest>,
    /// Questions and decisions of consensus.
    pub requests: Consumer<MempoolRequest>,
    /// Answers to consensus.
    pub to_consensus: Producer<Candidates>,
}

/// A question of consensus that waits for something to order.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    height: u64,
    round: u32,
    allow_empty: bool,
}

/// See the module.
pub struct MempoolTile {
    pool: Mempool,
    metrics: Arc<Metrics>,
    links: MempoolLinks,
    bodies: HashMap<BatchDigest, Batch>,
    proposed: Vec<BatchDigest>,
    wanted: Option<Wanted>,
    statuses: VecDeque<Status>,
    sealed: VecDeque<SealedBatch>,
    answer: Option<Candidates>,
    is_stopping: bool,
}

impl MempoolTile {
    /// A tile on `pool`; `recovered` are durable batches that it has restored.
    #[must_use]
    pub fn new(
        pool: Mempool,
        recovered: Vec<Batch>,
        metrics: Arc<Metrics>,
        links: MempoolLinks,
    ) -> Self {
        assert_eq!(
            links.checked.len(),
            links.to_verify.len(),
            "every verify tile hears of its admissions"
        );
        // Nothing is admitted before all answers are delivered, so more never wait.
        let statuses_max = CHECKED_PER_POLL_MAX * links.checked.len();
        Self {
            pool,
            metrics,
            links,
            bodies: recovered.into_iter().map(|batch| (batch.digest(), batch)).collect(),
            proposed: Vec::new(),
            wanted: None,
            statuses: VecDeque::with_capacity(statuses_max),
            sealed: VecDeque::new(),
            answer: None,
            is_stopping: false,
        }
    }

    fn admit(&mut self, now: Nanos) -> bool {
        let mut has_worked = false;
        for link in 0..self.links.checked.len() {
            for _ in 0..CHECKED_PER_POLL_MAX {
                if !self.sealed.is_empty() {
                    // The log has no room: transactions stay where they are.
                    return has_worked;
                }
                let Some(checked) = self.links.checked[link].pop() else { break };
                has_worked = true;
                self.admit_one(link, &checked, now);
            }
        }
        has_worked
    }

    fn admit_one(&mut self, link: usize, checked: &Checked, now: Nanos) {
        let transaction = &checked.transaction;
        let admitted = self.pool.admit(transaction, now.as_nanos());
        if admitted.is_ok() {
            self.metrics.mempool_admitted.add(1);
            // A digest for which there is no room is dropped: a copy is then verified
            // again and refused by the pool.
            if self.links.to_verify[link].try_push(transaction.digest()).is_err() {
                self.metrics.mempool_untold.add(1);
            }
        }
        let result = admitted.map(|()| transaction.id());
        self.statuses.push_back(Status { source: checked.source, result });
        self.take_sealed();
    }

    fn take_sealed(&mut self) {
        while let Some(batch) = self.pool.take_sealed() {
            self.metrics.mempool_batches.add(1);
            self.bodies.insert(batch.digest(), batch.clone());
            self.sealed.push_back(SealedBatch { batch });
        }
    }

    fn take_durable(&mut self) -> bool {
        let mut has_worked = false;
        while let Some(digest) = self.links.durable.pop() {
            let is_own = self.pool.durable(&digest);
            assert!(is_own, "the log makes durable what this tile sealed");
            has_worked = true;
        }
        has_worked
    }

    fn take_requests(&mut self) -> bool {
        let mut has_worked = false;
        while let Some(request) = self.links.requests.pop() {
            has_worked = true;
            match request {
                MempoolRequest::Propose { height, round, allow_empty } => {
                    self.wanted = Some(Wanted { height, round, allow_empty });
                }
                MempoolRequest::Decided { height, batches } => {
                    self.pool.decided(&batches, height);
                    for digest in &batches {
                        self.bodies.remove(digest);
                    }
                    self.proposed.clear();
                }
            }
        }
        has_worked
    }

    /// Answers consensus once there is something to order, or nothing but an empty block is wanted.
    fn propose(&mut self) -> bool {
        let Some(wanted) = self.wanted else { return false };
        if self.answer.is_some() {
            return false;
        }
        if !self.proposed.is_empty() {
            // Asked again for the same height: what was proposed before did not get through.
            self.pool.requeue(&self.proposed);
            self.proposed.clear();
        }
        if !self.pool.has_durable() {
            let has_sealed = self.pool.seal_now();
            self.take_sealed();
            let is_coming = has_sealed || self.pool.batches_count() > 0;
            if is_coming || !wanted.allow_empty {
                return has_sealed;
            }
        }
        let limits = ProposalLimits {
            batches_max: BLOCK_KEYS_COUNT_MAX / BATCH_KEYS_COUNT_MAX,
            transactions_max: BLOCK_TRANSACTIONS_COUNT_MAX,
            bytes_max: BLOCK_SIZE_MAX.into(),
        };
        self.proposed = self.pool.propose(&limits).batches;
        let batches = self.proposed.iter().map(|digest| {
            let Some(batch) = self.bodies.get(digest) else {
                unreachable!("bodies of pending batches are held")
            };
            batch.clone()
        });
        let Wanted { height, round, .. } = wanted;
        self.answer = Some(Candidates { height, round, batches: batches.collect() });
        self.wanted = None;
        true
    }

    fn deliver(&mut self) -> bool {
        while let Some(status) = self.statuses.pop_front() {
            let ingress = usize::from(status.source.ingress);
            let Some(link) = self.links.to_ingress.get_mut(ingress) else { continue };
            if let Err(back) = link.try_push(status) {
                self.statuses.push_front(back);
                break;
            }
        }
        // A client hears of its admission before its batch can become a block, or its receipt would
        // find nobody waiting.
        while self.statuses.is_empty()
            && let Some(sealed) = self.sealed.pop_front()
        {
            if let Err(back) = self.links.to_log.try_push(sealed) {
                self.sealed.push_front(back);
                break;
            }
        }
        if let Some(answer) = self.answer.take() {
            self.answer = self.links.to_consensus.try_push(answer).err();
        }
        self.statuses.is_empty() && self.sealed.is_empty() && self.answer.is_none()
    }

    fn is_finished(&mut self) -> bool {
        if !self.is_stopping || !self.links.checked.iter().all(Consumer::is_finished) {
            return false;
        }
        // What was admitted is not lost: it is sealed, and recovery finds it in the log.
        self.pool.seal_now();
        self.take_sealed();
        self.sealed.is_empty()
    }
}

impl Tile for MempoolTile {
    fn name(&self) -> &'static str {
        "mempool"
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        // Decisions and durable batches are taken in even while clients are pushed back: they make
        // room.
        let mut has_worked = self.take_durable();
        has_worked |= self.take_requests();
        if self.statuses.is_empty() {
            has_worked |= self.admit(now);
        }
        if self.pool.poll(now.as_nanos()) {
            self.take_sealed();
            has_worked = true;
        }
        has_worked |= self.propose();
        if !self.deliver() {
            return Ok(if has_worked { Progress::Busy } else { Progress::PushedBack });
        }
        if has_worked {
            return Ok(Progress::Busy);
        }
        Ok(if self.is_finished() { Progress::Done } else { Progress::Idle })
    }

    fn deadline(&self) -> Option<Nanos> {
        self.pool.deadline().map(Nanos::from_nanos)
    }

    fn housekeeping(&mut self, _now: Nanos) {
        self.metrics.mempool_transactions.set(self.pool.pending_transactions());
        self.metrics.mempool_bytes.set(self.pool.pending_bytes());
        self.metrics.mempool_forgotten.publish(self.pool.counters().transactions_forgotten);
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

/// The number the next batch of `origin` gets: above every one it ever gave out. Heights rise
/// between runs, and a run that decided nothing left its batches unordered in the log.
#[must_use]
pub fn next_sequence(height: u64, unordered: &[Batch]) -> u64 {
    let left = unordered
        .iter()
        .map(|batch| batch.header().sequence.get().saturating_add(1))
        .max()
        .unwrap_or(0);
    left.max((height + 1) << 32)
}

//! The mempool tile: admission, batches of all validators, proposals.
//!
//! ```text
//! verify --Checked--> mempool --Status--> ingress
//!                     mempool --TxDigest--> verify (admitted: exact copies need no verification)
//!                     mempool --SealedBatch--> persist-log --BatchDigest--> mempool (durable)
//! consensus --MempoolRequest--> mempool --MempoolAnswer--> consensus
//! peer --PeerBatches--> mempool --SendBatches--> peer
//! verify --Parsed--> mempool --JudgeChunk--> verify --Judged--> mempool (a peer's batch)
//! ```
//!
//! It owns what is pending and all batches that are not ordered; the rules are `hufu-mempool`'s. A
//! batch is proposed only when the block log has it on disk. When no room is left downstream it
//! takes nothing in that asks for more, which pushes back to the clients.

mod judging;
mod spreading;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hufu_mempool::{Dissemination, Mempool, ProposalLimits};
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_types::{Address, Batch, BatchDigest, TxDigest};

use crate::messages::{
    Candidates, Checked, FromVerify, JudgeChunk, MempoolAnswer, MempoolRequest, PeerBatches,
    SealedBatch, SendBatches, Status,
};
use crate::metrics::Metrics;
use judging::Judging;

/// Items taken from one verify tile in one poll, so that no tile starves another.
const CHECKED_PER_POLL_MAX: usize = 512;

/// How long a proposal waits for batches that are on their way to the disk or to a quorum: a few
/// writes of a disk, and far less than others wait for a proposal.
const COMING_PATIENCE: Duration = Duration::from_millis(30);

/// The links of the mempool tile.
#[derive(Debug)]
pub struct MempoolLinks {
    /// From each verify tile.
    pub from_verify: Vec<Consumer<FromVerify>>,
    /// To each verify tile, in the same order: what was admitted of its transactions.
    pub to_verify: Vec<Producer<TxDigest>>,
    /// To each verify tile, in the same order: parts of peers' batches.
    pub to_judge: Vec<Producer<JudgeChunk>>,
    /// To each ingress tile.
    pub to_ingress: Vec<Producer<Status>>,
    /// Batches for the block log.
    pub to_log: Producer<SealedBatch>,
    /// Batches that are on disk.
    pub durable: Consumer<BatchDigest>,
    /// Questions and decisions of consensus.
    pub requests: Consumer<MempoolRequest>,
    /// Answers to consensus.
    pub to_consensus: Producer<MempoolAnswer>,
    /// The peer tile; nothing where there are no peers.
    pub peers: Option<MempoolPeers>,
}

/// The links between the mempool and the peer tile.
#[derive(Debug)]
pub struct MempoolPeers {
    /// What peers say and ask for.
    pub incoming: Consumer<PeerBatches>,
    /// What they are sent.
    pub outgoing: Producer<SendBatches>,
}

/// A question of consensus that waits for something to order.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    height: u64,
    round: u32,
    allow_empty: bool,
    /// Until when what is coming is waited for where an empty answer is wanted too.
    patience: Nanos,
}

/// See the module.
pub struct MempoolTile {
    pool: Mempool,
    dissemination: Dissemination,
    judging: Judging,
    metrics: Arc<Metrics>,
    links: MempoolLinks,
    wanted: Option<Wanted>,
    statuses: VecDeque<Status>,
    stores: VecDeque<SealedBatch>,
    sends: VecDeque<SendBatches>,
    answers: VecDeque<MempoolAnswer>,
    is_stopping: bool,
}

impl MempoolTile {
    /// A tile on a pool and a dissemination to which what was durable is given back.
    #[must_use]
    pub fn new(
        pool: Mempool,
        dissemination: Dissemination,
        metrics: Arc<Metrics>,
        links: MempoolLinks,
    ) -> Self {
        let verify_count = links.from_verify.len();
        assert_eq!(verify_count, links.to_verify.len(), "every tile hears of its admissions");
        assert_eq!(verify_count, links.to_judge.len(), "every tile judges");
        assert_eq!(pool.next_height(), dissemination.next_height(), "both stand at one height");
        // Nothing is admitted before all answers are delivered, so more never wait.
        let statuses_max = CHECKED_PER_POLL_MAX * verify_count;
        Self {
            pool,
            dissemination,
            judging: Judging::default(),
            metrics,
            links,
            wanted: None,
            statuses: VecDeque::with_capacity(statuses_max),
            stores: VecDeque::new(),
            sends: VecDeque::new(),
            answers: VecDeque::new(),
            is_stopping: false,
        }
    }

    /// Whether the log or the peers have no room: what would need more of it stays where it is.
    fn is_held(&self) -> bool {
        !self.stores.is_empty() || !self.sends.is_empty()
    }

    fn take_verified(&mut self, now: Nanos) -> bool {
        let mut has_worked = false;
        for link in 0..self.links.from_verify.len() {
            for _ in 0..CHECKED_PER_POLL_MAX {
                if self.is_held() && !self.deliver_out() {
                    return has_worked;
                }
                let Some(verified) = self.links.from_verify[link].pop() else { break };
                has_worked = true;
                match verified {
                    FromVerify::Checked(checked) => self.admit_one(link, &checked, now),
                    FromVerify::Parsed { from, batch } => self.take_parsed(from, batch),
                    FromVerify::Judged { digest, is_valid } => self.take_judged(digest, is_valid),
                }
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
            self.dissemination.sealed(batch);
        }
        self.act();
    }

    fn take_durable(&mut self) -> bool {
        let mut has_worked = false;
        while let Some(digest) = self.links.durable.pop() {
            self.dissemination.durable(digest);
            has_worked = true;
        }
        // Together: what one group brought to the disk is told in one message.
        self.act();
        has_worked
    }

    fn take_requests(&mut self, now: Nanos) -> bool {
        let now = now.as_nanos();
        let mut has_worked = false;
        while let Some(request) = self.links.requests.pop() {
            has_worked = true;
            match request {
                MempoolRequest::Propose { height, round, allow_empty } => {
                    let patience = Nanos::from_nanos(now).after(COMING_PATIENCE);
                    self.wanted = Some(Wanted { height, round, allow_empty, patience });
                }
                MempoolRequest::Need { height, block, batches, proposer } => {
                    let is_taken = self.dissemination.need(now, height, block, &batches, proposer);
                    self.metrics.mempool_needs_refused.add(u64::from(!is_taken));
                    self.act();
                }
                MempoolRequest::NeedDecided { height, block, batches, holder } => {
                    self.dissemination.need_decided(now, height, block, &batches, holder);
                    self.act();
                }
                MempoolRequest::Decided { height, batches } => self.take_decided(height, &batches),
            }
        }
        has_worked
    }

    /// Answers consensus once there is something to order, or nothing but an empty block is wanted.
    fn propose(&mut self, now: Nanos) -> bool {
        let Some(Wanted { height, round, allow_empty, patience }) = self.wanted else {
            return false;
        };
        let batches = self.dissemination.propose(height, &ProposalLimits::default());
        if batches.is_empty() {
            let has_sealed = self.pool.seal_now();
            self.take_sealed();
            let is_coming = has_sealed || self.dissemination.has_coming();
            if !allow_empty || (is_coming && now < patience) {
                return has_sealed;
            }
        }
        self.answers.push_back(MempoolAnswer::Candidates(Candidates { height, round, batches }));
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
        let is_out = self.deliver_out();
        while let Some(answer) = self.answers.pop_front() {
            if let Err(back) = self.links.to_consensus.try_push(answer) {
                self.answers.push_front(back);
                break;
            }
        }
        is_out && self.statuses.is_empty() && self.answers.is_empty()
    }

    /// Passes batches on to the log and to the peers; `false` while one of them has no room.
    ///
    /// A client hears of its admission before its batch can become a block, or its receipt would
    /// find nobody waiting.
    fn deliver_out(&mut self) -> bool {
        while self.statuses.is_empty()
            && let Some(batch) = self.stores.pop_front()
        {
            if let Err(back) = self.links.to_log.try_push(batch) {
                self.stores.push_front(back);
                break;
            }
        }
        while self.statuses.is_empty()
            && let Some(peers) = &mut self.links.peers
            && let Some(message) = self.sends.pop_front()
        {
            if let Err(back) = peers.outgoing.try_push(message) {
                self.sends.push_front(back);
                break;
            }
        }
        !self.is_held()
    }

    fn is_finished(&mut self) -> bool {
        if !self.is_stopping || !self.links.from_verify.iter().all(Consumer::is_finished) {
            return false;
        }
        // What was admitted is not lost: it is sealed, and recovery finds it in the log.
        self.pool.seal_now();
        self.take_sealed();
        !self.is_held()
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
        has_worked |= self.take_requests(now);
        if self.statuses.is_empty() {
            has_worked |= self.take_verified(now);
        }
        has_worked |= self.take_peers(now);
        if self.dissemination.deadline().is_some_and(|deadline| deadline <= now.as_nanos()) {
            self.dissemination.tick(now.as_nanos());
            self.act();
            has_worked = true;
        }
        if self.pool.poll(now.as_nanos()) {
            self.take_sealed();
            has_worked = true;
        }
        has_worked |= self.propose(now);
        has_worked |= self.judging.deliver(&mut self.links.to_judge);
        if !self.deliver() {
            return Ok(if has_worked { Progress::Busy } else { Progress::PushedBack });
        }
        if has_worked {
            return Ok(Progress::Busy);
        }
        Ok(if self.is_finished() { Progress::Done } else { Progress::Idle })
    }

    fn deadline(&self) -> Option<Nanos> {
        let deadlines = self.pool.deadline().into_iter().chain(self.dissemination.deadline());
        let patience = self.wanted.filter(|wanted| wanted.allow_empty).map(|one| one.patience);
        deadlines.map(Nanos::from_nanos).chain(patience).min()
    }

    fn housekeeping(&mut self, _now: Nanos) {
        self.metrics.mempool_transactions.set(self.pool.pending_transactions());
        self.metrics.mempool_bytes.set(self.pool.pending_bytes());
        let counters = self.pool.counters();
        self.metrics.mempool_forgotten.publish(counters.transactions_forgotten);
        self.metrics.mempool_batches_expired.publish(counters.batches_expired);
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

/// The number the next batch of `origin` gets: above every one it ever gave out. Heights rise
/// between runs, and a run that decided nothing left its batches unordered in the log.
#[must_use]
pub fn next_sequence(height: u64, unordered: &[Batch], origin: Address) -> u64 {
    let left = unordered
        .iter()
        .filter(|batch| batch.header().origin == origin)
        .map(|batch| batch.header().sequence.get().saturating_add(1))
        .max()
        .unwrap_or(0);
    left.max((height + 1) << 32)
}

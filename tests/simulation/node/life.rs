//! What a node has in memory from one start to the next crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hufu_consensus::engine::{self, Timeouts};
use hufu_consensus::header::ExecutedRoots;
use hufu_consensus::replica::{CatchUpConfig, Config, Decided, Input, Replica, Start};
use hufu_mempool::{Dissemination, DisseminationConfig, Mempool, MempoolConfig, ProposalLimits};
use hufu_storage::block_log::{BlockLog, RecordPosition};
use hufu_storage::vote_log::VoteLog;
use hufu_types::receipt::Failure as TransactionFailure;
use hufu_types::{
    Address, Batch, BatchDigest, Block, BlockDigest, CommitCertificate, FailureCode, Receipt,
};

use super::{Chained, Halt, Node, Outside, Peers, Receipts, Unsynced, Waiters};
use crate::ledger::Ledger;
use crate::logs::LogError;
use crate::material::Material;
use crate::oracles::Failure;
use crate::wire::Wire;

/// A record of the block log that is appended and not known to be durable.
pub(super) enum Waiting {
    Batch(BatchDigest),
    Block(Box<Decided>),
}

/// A block that is decided, durable and executed here.
pub(super) struct Executed {
    pub(super) block: Block,
    pub(super) certificate: CommitCertificate,
    pub(super) batches: Vec<Batch>,
}

/// The question of consensus for something to order.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) height: u64,
    /// Whether nothing is an answer too.
    pub(super) allow_empty: bool,
    /// Until when what is coming is waited for all the same.
    pub(super) patience: u64,
}

/// See the module.
pub(crate) struct Life {
    pub(crate) replica: Replica,
    pub(crate) dissemination: Dissemination,
    pub(crate) pool: Mempool,
    pub(crate) ledger: Ledger,
    pub(crate) receipts: Receipts,
    pub(super) blocks: BlockLog,
    pub(super) votes: VoteLog,
    pub(super) unsynced: Unsynced,
    /// Records of the block log on their way to the disk, in order.
    pub(super) waiting: VecDeque<(RecordPosition, Waiting)>,
    pub(super) is_flushing: bool,
    pub(super) is_syncing: bool,
    /// Blocks that are durable and not executed.
    pub(super) to_execute: VecDeque<Decided>,
    pub(super) chain: Vec<Executed>,
    pub(super) durable_height: u64,
    pub(super) durable_batches: BTreeSet<BatchDigest>,
    /// The batches of blocks that this node was told are all durable.
    pub(super) bodies: BTreeMap<BlockDigest, Vec<BatchDigest>>,
    pub(super) sealed: u64,
    pub(super) announced: Option<u64>,
    pub(super) inbox: VecDeque<Input>,
    pub(super) up: Peers,
    pub(super) waiters: Waiters,
    pub(super) wanted: Option<Wanted>,
    pub(super) wake_at: Option<u64>,
}

impl Life {
    /// Recovers from the disk, as the node does at its start.
    pub(super) fn recover(node: &mut Node, outside: &mut Outside<'_>) -> Result<Self, Halt> {
        let material = outside.material;
        let place = node.place;
        let opened =
            node.disk.open(&*material.provider.hasher).map_err(|error| fate(place, error))?;
        let mut ledger = Ledger::new(material);
        let mut roots = vec![Ledger::genesis_roots(material)];
        let mut chained = Chained::new(material.genesis.time_millis);
        let (mut receipts, mut chain) = (Receipts::new(), Vec::new());
        for (block, certificate, batches) in opened.chain {
            let (outcome, executed) = ledger
                .execute(material, &batches)
                .map_err(|error| broken(format!("node {place}: {error}")))?;
            if !node.is_byzantine {
                let pair = (&block, batches.as_slice());
                outside.oracles.executed(material, place, pair, &outcome.receipts, executed)?;
            }
            receipts.extend(effective(&outcome.receipts));
            roots.push(executed);
            chained.add(block.header(), block.batches());
            chain.push(Executed { block, certificate, batches });
        }
        let height = ledger.height();
        let own = material.address(place);
        let mut pool = new_pool(material, own, height, &opened.unordered);
        for batch in chain.iter().flat_map(|executed| &executed.batches) {
            remember(&mut pool, batch);
        }
        let set = material.genesis.validators.clone();
        let powers = set.iter().map(|(address, validator)| (*address, validator.power));
        let config = DisseminationConfig::default();
        let mut dissemination = Dissemination::new(config, own, powers, chained.ordered.clone());
        let mut durable_batches = BTreeSet::new();
        for batch in opened.unordered {
            durable_batches.insert(batch.digest());
            if batch.header().origin == own {
                let _is_taken: bool = pool.restore(&batch);
            }
            dissemination.restored(batch);
        }
        let roots = roots.split_off(roots.len().saturating_sub(2));
        let Chained { tip, ordered } = chained;
        let probation = node.probation;
        let start = Start { validators: set, tip, roots, ordered, log: opened.log, probation };
        Ok(Self {
            replica: Replica::new(config_of(material, own), start),
            dissemination,
            pool,
            ledger,
            receipts,
            blocks: opened.blocks,
            votes: opened.votes,
            unsynced: Unsynced::new(),
            waiting: VecDeque::new(),
            is_flushing: false,
            is_syncing: false,
            to_execute: VecDeque::new(),
            chain,
            durable_height: height,
            durable_batches,
            bodies: BTreeMap::new(),
            sealed: opened.sealed,
            announced: None,
            inbox: VecDeque::from([Input::Tick]),
            up: Peers::new(),
            waiters: Waiters::new(),
            wanted: None,
            wake_at: None,
        })
    }

    /// Seals and proposes, as the mempool tile does; whether anything changed.
    pub(super) fn propose(&mut self, now: u64) -> bool {
        let mut has_worked = self.pool.poll(now);
        has_worked |= self.take_sealed();
        let Some(Wanted { height, allow_empty, patience }) = self.wanted else { return has_worked };
        let batches = self.dissemination.propose(height, &ProposalLimits::default());
        if batches.is_empty() {
            self.pool.seal_now();
            let has_sealed = self.take_sealed();
            let is_coming = has_sealed || self.dissemination.has_coming();
            if !allow_empty || (is_coming && now < patience) {
                return has_worked | has_sealed;
            }
        }
        self.wanted = None;
        self.inbox.push_back(Input::Candidates { height, batches });
        true
    }

    fn take_sealed(&mut self) -> bool {
        let mut has_worked = false;
        while let Some(batch) = self.pool.take_sealed() {
            self.dissemination.sealed(batch);
            has_worked = true;
        }
        has_worked
    }

    /// A block was decided: others' transactions are duplicates from here on as well.
    pub(super) fn ordered(&mut self, own: Address, height: u64, batches: &[BatchDigest]) {
        let others: Vec<Batch> = batches
            .iter()
            .filter_map(|digest| self.dissemination.get(digest).cloned())
            .filter(|batch| batch.header().origin != own)
            .collect();
        self.pool.decided(batches, height);
        self.dissemination.ordered(height, batches);
        for batch in &others {
            remember(&mut self.pool, batch);
        }
    }

    pub(super) fn serve_heights(
        &self,
        outside: &mut Outside<'_>,
        peer: usize,
        first: u64,
        count: u32,
    ) {
        for height in first..first.saturating_add(count.into()) {
            let Some(executed) = self.executed(height) else { return };
            let (block, certificate) = (executed.block.clone(), executed.certificate.clone());
            outside.sends.push((peer, Wire::Height { block, certificate }));
        }
    }

    pub(super) fn serve_bodies(&self, outside: &mut Outside<'_>, peer: usize, height: u64) {
        let Some(executed) = self.executed(height) else {
            outside.sends.push((peer, Wire::NoBodies { height }));
            return;
        };
        for batch in &executed.batches {
            outside.sends.push((peer, Wire::Batch(Arc::clone(batch.bytes()))));
        }
    }

    fn executed(&self, height: u64) -> Option<&Executed> {
        self.chain.get(usize::try_from(height.checked_sub(1)?).ok()?)
    }

    /// A batch of the chain, the last that fits `pick`, for a node that breaks rules with it.
    pub(crate) fn old_batches(&self) -> impl Iterator<Item = &Batch> {
        self.chain.iter().rev().flat_map(|executed| &executed.batches)
    }
}

/// The receipts of transactions that took effect, or failed for good.
pub(super) fn effective(receipts: &[Receipt]) -> impl Iterator<Item = (hufu_types::TxId, Receipt)> {
    receipts.iter().filter_map(|receipt| {
        let is_void = match receipt.outcome() {
            Ok(Err(TransactionFailure { code, .. })) => {
                matches!(code, FailureCode::NonceUsed | FailureCode::Expired)
            }
            _ => false,
        };
        (!is_void).then_some((receipt.id, *receipt))
    })
}

fn remember(pool: &mut Mempool, batch: &Batch) {
    for position in 0..batch.entries().len() {
        if let Some(view) = batch.transaction(position) {
            pool.remember(view.header());
        }
    }
}

fn new_pool(material: &Material, own: Address, height: u64, unordered: &[Batch]) -> Mempool {
    let config = MempoolConfig {
        pending_transactions_max: 1_024,
        remembered_transactions_max: 4_096,
        ..MempoolConfig::default()
    };
    let own_ones = unordered.iter().filter(|batch| batch.header().origin == own);
    let left = own_ones.map(|batch| batch.header().sequence.get() + 1).max().unwrap_or(0);
    let sequence = left.max((height + 1) << 32);
    let hasher = Arc::clone(&material.provider.hasher);
    Mempool::new(config, material.chain_id, own, hasher, height + 1, sequence, 1)
}

fn config_of(material: &Material, own: Address) -> Config {
    let parameters = material.genesis.parameters;
    Config {
        engine: engine::Config {
            chain_id: material.chain_id,
            address: own,
            timeouts: Timeouts::default(),
            provider: material.provider.clone(),
        },
        certified_lag_heights: parameters.certified_lag_heights,
        interval_nanos: u64::from(parameters.block_interval_millis) * 1_000_000,
        catch_up: CatchUpConfig::default(),
    }
}

pub(super) fn fate(place: usize, error: LogError) -> Halt {
    match error {
        LogError::Stopped => Halt::Died,
        LogError::Broken(text) => Failure::new("recovery", format!("node {place}: {text}")).into(),
    }
}

fn broken(text: String) -> Halt {
    Failure::new("execution", text).into()
}

/// The roots in the shape of the replica's inputs.
pub(super) const fn roots_input(roots: ExecutedRoots) -> Input {
    Input::Executed(roots)
}

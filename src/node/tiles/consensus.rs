//! The consensus tile: drives the ordering engine, paces the chain, builds blocks.
//!
//! ```text
//! mempool --Candidates--> consensus --DecidedBlock--> persist-log --height--> consensus (next one)
//! consensus --VoteLogCommand--> persist-vote --LogTicket--> consensus
//! consensus --SignRequest--> sign --Signed--> consensus
//! execute --ExecutedRoots--> consensus (roots that headers carry d heights later)
//! ```
//!
//! It owns the engine, its timers and the bodies of blocks not yet decided. A height is started
//! when there is work for it: batches to order, or a result that no header certifies yet; so an
//! idle chain closes its last heights with empty blocks and then rests. Nothing here decides what
//! may be signed or when it may leave: the engine does.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hufu_consensus::engine::{Timeouts, TimerId};
use hufu_consensus::{
    Config, Decision, Effect, Engine, Input, LogTicket, RecoveredLog, Validators,
};
use hufu_crypto::Provider;
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_types::codec::length_u32;
use hufu_types::{Address, Batch, BatchDigest, Block, BlockHeader, Genesis};

use crate::blocks::{Chain, ChainTip};
use crate::messages::{
    Candidates, DecidedBlock, ExecutedRoots, MempoolAnswer, MempoolRequest, SignRequest, Signed,
    VoteLogCommand,
};
use crate::metrics::Metrics;

/// The links of the consensus tile.
#[derive(Debug)]
pub struct ConsensusLinks {
    /// Blocks that may be proposed.
    pub candidates: Consumer<MempoolAnswer>,
    /// Asks for them, and tells what was decided.
    pub to_mempool: Producer<MempoolRequest>,
    /// Records for the vote log.
    pub to_vote_log: Producer<VoteLogCommand>,
    /// How far the vote log is durable.
    pub vote_log: Consumer<LogTicket>,
    /// What to sign.
    pub to_sign: Producer<SignRequest>,
    /// What was signed.
    pub signed: Consumer<Signed>,
    /// Decided blocks for the block log.
    pub to_log: Producer<DecidedBlock>,
    /// Heights whose blocks are durable.
    pub durable_heights: Consumer<u64>,
    /// Roots of executed heights.
    pub executed: Consumer<ExecutedRoots>,
}

/// What the tile starts with, from the genesis and from recovery.
#[derive(Debug)]
pub struct ConsensusStart {
    /// This validator.
    pub address: Address,
    /// Waiting times of rounds.
    pub timeouts: Timeouts,
    /// What the vote log held.
    pub log: RecoveredLog,
    /// The last block executed here.
    pub tip: ChainTip,
    /// Roots of the last heights, oldest first.
    pub roots: Vec<ExecutedRoots>,
    /// Batches that are durable and not ordered.
    pub batches: Vec<Batch>,
}

/// What the tile is doing between two heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waiting for the pace, the roots or work.
    Resting,
    /// The mempool was asked and answers when it has something.
    Asked,
    /// The engine works on the height.
    Deciding,
    /// The height is decided; its record is on its way to the disk.
    Writing,
}

/// Effects that could not be passed on, in their order.
#[derive(Debug, Default)]
struct Outbox {
    mempool: VecDeque<MempoolRequest>,
    vote_log: VecDeque<VoteLogCommand>,
    sign: VecDeque<SignRequest>,
    log: VecDeque<DecidedBlock>,
}

/// See the module.
pub struct ConsensusTile {
    engine: Engine,
    validators: Validators,
    address: Address,
    chain: Chain,
    provider: Provider,
    metrics: Arc<Metrics>,
    links: ConsensusLinks,
    outbox: Outbox,
    interval: Duration,
    stage: Stage,
    /// Heights with records in the vote log must be started without waiting for work.
    must_start: bool,
    last_start: Option<Nanos>,
    timers: BTreeMap<TimerId, u64>,
    batches: HashMap<BatchDigest, Batch>,
    candidates: Option<Candidates>,
    /// The mempool was asked for candidates and has not answered.
    is_asked: bool,
    build: Option<(u64, u32)>,
    sync_sent: Option<LogTicket>,
    effects: Vec<Effect>,
    is_stopping: bool,
}

impl ConsensusTile {
    /// A tile that goes on from `start`.
    #[must_use]
    pub fn new(
        genesis: &Genesis,
        provider: Provider,
        metrics: Arc<Metrics>,
        start: ConsensusStart,
        links: ConsensusLinks,
    ) -> Self {
        let chain_id = genesis.chain_id();
        let config = Config {
            chain_id,
            address: start.address,
            timeouts: start.timeouts,
            provider: provider.clone(),
        };
        let next = start.tip.height + 1;
        let must_start = start.log.heights().any(|height| height >= next);
        Self {
            engine: Engine::recover(config, start.log),
            validators: Validators::new(genesis.validators.clone()),
            address: start.address,
            chain: Chain::new(genesis, start.tip, start.roots),
            provider,
            metrics,
            links,
            outbox: Outbox::default(),
            interval: Duration::from_millis(genesis.parameters.block_interval_millis.into()),
            stage: Stage::Resting,
            must_start,
            last_start: None,
            timers: BTreeMap::new(),
            batches: start.batches.into_iter().map(|batch| (batch.digest(), batch)).collect(),
            candidates: None,
            is_asked: false,
            build: None,
            sync_sent: None,
            effects: Vec::new(),
            is_stopping: false,
        }
    }

    /// Takes in everything that arrived; `true` if there was something.
    fn take_in(&mut self, now: Nanos) -> Result<bool, Fatal> {
        let mut has_worked = false;
        while let Some(roots) = self.links.executed.pop() {
            self.chain.executed(roots);
            has_worked = true;
        }
        while let Some(ticket) = self.links.vote_log.pop() {
            self.step(now, Input::VoteLogDurable(ticket))?;
            has_worked = true;
        }
        while let Some(signed) = self.links.signed.pop() {
            self.step(now, Input::Signed { ticket: signed.ticket, signature: signed.signature })?;
            has_worked = true;
        }
        while let Some(height) = self.links.durable_heights.pop() {
            self.height_durable(height);
            has_worked = true;
        }
        while let Some(answer) = self.links.candidates.pop() {
            let MempoolAnswer::Candidates(candidates) = answer else { continue };
            self.is_asked = false;
            has_worked = true;
            if candidates.height != self.chain.next_height() {
                // The height was decided while the mempool answered; if the answer was waited for,
                // ask again.
                if self.stage == Stage::Asked {
                    self.stage = Stage::Resting;
                }
                continue;
            }
            for batch in &candidates.batches {
                self.batches.insert(batch.digest(), batch.clone());
            }
            self.candidates = Some(candidates);
        }
        has_worked |= self.fire_timers(now)?;
        Ok(has_worked)
    }

    fn fire_timers(&mut self, now: Nanos) -> Result<bool, Fatal> {
        let due: Vec<TimerId> = self
            .timers
            .iter()
            .filter(|(_, deadline)| **deadline <= now.as_nanos())
            .map(|(timer, _)| *timer)
            .collect();
        for timer in &due {
            self.timers.remove(timer);
            self.step(now, Input::TimerFired(*timer))?;
        }
        Ok(!due.is_empty())
    }

    /// Moves the height on; `true` if something happened.
    fn advance(&mut self, now: Nanos) -> Result<bool, Fatal> {
        match self.stage {
            Stage::Resting if self.must_start => self.start_height(now).map(|()| true),
            Stage::Resting => Ok(self.ask(now)),
            Stage::Asked if self.candidates.is_some() => self.start_height(now).map(|()| true),
            Stage::Deciding => self.build(now),
            Stage::Asked | Stage::Writing => Ok(false),
        }
    }

    /// Asks the mempool for the next block once the pace allows it and the roots for its header are
    /// there.
    fn ask(&mut self, now: Nanos) -> bool {
        let height = self.chain.next_height();
        let is_paced = self.next_start().is_some_and(|earliest| now < earliest);
        if self.is_stopping || is_paced || self.chain.roots_for(height).is_none() {
            return false;
        }
        self.stage = Stage::Asked;
        self.is_asked || self.ask_for(height, 0, self.chain.has_uncertified())
    }

    fn ask_for(&mut self, height: u64, round: u32, allow_empty: bool) -> bool {
        assert!(!self.is_asked, "one question at a time");
        self.outbox.mempool.push_back(MempoolRequest::Propose { height, round, allow_empty });
        self.is_asked = true;
        true
    }

    fn next_start(&self) -> Option<Nanos> {
        self.last_start.map(|last| last.after(self.interval))
    }

    fn start_height(&mut self, now: Nanos) -> Result<(), Fatal> {
        let height = self.chain.next_height();
        self.must_start = false;
        self.last_start = Some(now);
        self.stage = Stage::Deciding;
        let validators = self.validators.clone();
        self.step(now, Input::StartHeight { height, validators })
    }

    /// Answers an outstanding request for a block, if the mempool's answer and the roots are there.
    fn build(&mut self, now: Nanos) -> Result<bool, Fatal> {
        let Some((height, round)) = self.build else { return Ok(false) };
        let Some(roots) = self.chain.roots_for(height) else { return Ok(false) };
        if self.candidates.is_none() && self.links.to_mempool.is_closed() {
            // The node is stopping and the mempool has finished: the height under way ends with an
            // empty block.
            self.candidates = Some(Candidates { height, round, batches: Vec::new() });
        }
        let Some(candidates) = self.candidates.clone() else {
            // A later round, or a height that recovery began: the mempool was not asked for this
            // block.
            return Ok(!self.is_asked && self.ask_for(height, round, true));
        };
        self.build = None;
        let header = self.header(height, &candidates, roots);
        let digests = candidates.batches.iter().map(Batch::digest).collect();
        let block = Block::new(header, digests, &*self.provider.hasher)?;
        self.step(now, Input::BlockBuilt { round, block })?;
        Ok(true)
    }

    fn header(&self, height: u64, candidates: &Candidates, roots: ExecutedRoots) -> BlockHeader {
        let digests: Vec<BatchDigest> = candidates.batches.iter().map(Batch::digest).collect();
        let counts = candidates.batches.iter().map(|batch| batch.header().transactions_count.get());
        let clock = clock::wall().as_millis();
        let mut header = self.chain.header(height, self.address, clock, roots);
        header.batches_count = length_u32(&digests).into();
        header.transactions_count = counts.sum::<u32>().into();
        header.transactions_root = Block::transactions_root(&digests, &*self.provider.hasher);
        header
    }

    fn height_durable(&mut self, height: u64) {
        assert_eq!(height, self.chain.height(), "blocks become durable in order");
        assert_eq!(self.stage, Stage::Writing, "only a decided height is written");
        self.outbox.vote_log.push_back(VoteLogCommand::Seal(height));
        self.stage = Stage::Resting;
    }

    fn step(&mut self, now: Nanos, input: Input) -> Result<(), Fatal> {
        let mut effects = std::mem::take(&mut self.effects);
        self.engine.step(now.as_nanos(), input, &mut effects)?;
        // Acting on one effect can bring the next input at once; those of the engine's answers come
        // behind.
        let mut queue: VecDeque<Effect> = effects.drain(..).collect();
        self.effects = effects;
        while let Some(effect) = queue.pop_front() {
            if let Some(answer) = self.act(effect)? {
                let mut more = std::mem::take(&mut self.effects);
                self.engine.step(now.as_nanos(), answer, &mut more)?;
                queue.extend(more.drain(..));
                self.effects = more;
            }
        }
        Ok(())
    }

    /// Acts on one effect; an answer that is there at once is returned.
    fn act(&mut self, effect: Effect) -> Result<Option<Input>, Fatal> {
        match effect {
            Effect::AppendVoteLog { ticket, record, .. } => {
                self.outbox.vote_log.push_back(VoteLogCommand::Append { ticket, record });
            }
            Effect::Sign { ticket, intent } => {
                self.outbox.sign.push_back(SignRequest { ticket, intent });
            }
            Effect::BuildBlock { height, round, .. } => self.build = Some((height, round)),
            Effect::NeedBatches { height, block } => {
                return self.need_batches(height, &block).map(Some);
            }
            Effect::SetTimer { id, deadline_nanos } => {
                self.timers.insert(id, deadline_nanos);
            }
            Effect::CancelTimer(id) => {
                self.timers.remove(&id);
            }
            Effect::CancelTimers => self.timers.clear(),
            Effect::Decided(decision) => self.decided(*decision)?,
            Effect::RoundStarted { .. } => self.metrics.consensus_rounds.add(1),
            // There is no peer to send to: the topology has no peer tile with one validator.
            Effect::Publish(_) | Effect::RestreamBlock { .. } => {}
            Effect::Refused { .. } => self.metrics.consensus_refused.add(1),
        }
        Ok(None)
    }

    /// With one validator every batch of a block was made durable here before it was proposed.
    fn need_batches(&self, height: u64, block: &Block) -> Result<Input, Fatal> {
        match block.batches().iter().find(|digest| !self.batches.contains_key(digest)) {
            None => Ok(Input::BatchesDurable { height, block: block.digest() }),
            Some(missing) => Err(Fatal::message(&format!(
                "block {} of height {height} orders batch {missing}, which is not in the block log",
                block.digest()
            ))),
        }
    }

    fn decided(&mut self, decision: Decision) -> Result<(), Fatal> {
        assert_eq!(decision.height, self.chain.next_height(), "heights are decided in order");
        let digests = decision.block.batches().to_vec();
        let mut batches = Vec::with_capacity(digests.len());
        for digest in &digests {
            let Some(batch) = self.batches.remove(digest) else {
                return Err(Fatal::message(&format!(
                    "batch {digest} of a decided block is not held here"
                )));
            };
            batches.push(batch);
        }
        self.metrics.consensus_blocks.add(1);
        self.chain.decided(decision.block.header());
        self.outbox
            .mempool
            .push_back(MempoolRequest::Decided { height: decision.height, batches: digests });
        let Decision { block, certificate, .. } = decision;
        self.outbox.log.push_back(DecidedBlock { block, certificate, batches });
        self.candidates = None;
        self.build = None;
        self.stage = Stage::Writing;
        Ok(())
    }

    /// Asks the vote log to sync when the engine waits for it, once for each record waited for.
    fn request_sync(&mut self) {
        if let Some(ticket) = self.engine.awaits_durable()
            && self.sync_sent < Some(ticket)
        {
            self.sync_sent = Some(ticket);
            self.outbox.vote_log.push_back(VoteLogCommand::Sync(ticket));
        }
    }

    fn deliver(&mut self) -> bool {
        let is_mempool_clear = push_all(&mut self.outbox.mempool, &mut self.links.to_mempool);
        let is_vote_log_clear = push_all(&mut self.outbox.vote_log, &mut self.links.to_vote_log);
        let is_sign_clear = push_all(&mut self.outbox.sign, &mut self.links.to_sign);
        let is_log_clear = push_all(&mut self.outbox.log, &mut self.links.to_log);
        is_mempool_clear && is_vote_log_clear && is_sign_clear && is_log_clear
    }
}

/// Pushes what waits; `false` while the link is full.
fn push_all<T>(waiting: &mut VecDeque<T>, link: &mut Producer<T>) -> bool {
    while let Some(item) = waiting.pop_front() {
        if let Err(back) = link.try_push(item) {
            waiting.push_front(back);
            return false;
        }
    }
    true
}

impl Tile for ConsensusTile {
    fn name(&self) -> &'static str {
        "consensus"
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        let has_arrived = self.take_in(now)?;
        let has_advanced = self.advance(now)?;
        self.request_sync();
        if !self.deliver() {
            return Ok(Progress::PushedBack);
        }
        if has_arrived || has_advanced {
            return Ok(Progress::Busy);
        }
        // A height under way is finished; one that is only asked for is not begun.
        let is_between = matches!(self.stage, Stage::Resting | Stage::Asked);
        Ok(if self.is_stopping && is_between { Progress::Done } else { Progress::Idle })
    }

    fn deadline(&self) -> Option<Nanos> {
        let timer = self.timers.values().min().map(|nanos| Nanos::from_nanos(*nanos));
        let pace = (self.stage == Stage::Resting).then(|| self.next_start()).flatten();
        timer.into_iter().chain(pace).min()
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

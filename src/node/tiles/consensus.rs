//! The consensus tile: the shell of a [`Replica`], which orders blocks.
//!
//! ```text
//! peer    --FromPeer--> consensus --ToPeer--> peer
//! mempool --MempoolAnswer--> consensus --MempoolRequest--> mempool
//! consensus --DecidedBlock--> persist-log --height--> consensus (next one)
//! consensus --VoteLogCommand--> persist-vote --LogTicket--> consensus
//! consensus --SignRequest--> sign --Signed--> consensus
//! execute --ExecutedRoots--> consensus (roots that headers carry d heights later)
//! ```
//!
//! It owns the replica and carries its effects to the other tiles in their order. Nothing here
//! decides anything. Messages of peers are taken in only while the replica has room for them, which
//! pushes back to the peers.

use std::collections::VecDeque;
use std::sync::Arc;

use hufu_consensus::LogTicket;
use hufu_consensus::replica::{Effect, Input, Note, Replica, Time};
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};

use crate::explain::Explanation;
use crate::log;
use crate::messages::{
    DecidedBlock, ExecutedRoots, FromPeer, MempoolAnswer, MempoolRequest, SignRequest, Signed,
    ToPeer, VoteLogCommand,
};
use crate::metrics::Metrics;

/// Messages of peers taken in by one poll, count, so that what is durable is never far behind.
const PEER_MESSAGES_PER_POLL_MAX: usize = 64;

/// The links of the consensus tile.
#[derive(Debug)]
pub struct ConsensusLinks {
    /// What the mempool has, and how far the batches of blocks are.
    pub from_mempool: Consumer<MempoolAnswer>,
    /// Asks for both, and tells what was decided.
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
    /// From and to the peers; nothing with one validator.
    pub peers: Option<PeerEnds>,
}

/// The links to the peer tile and from it.
#[derive(Debug)]
pub struct PeerEnds {
    /// What peers say.
    pub from: Consumer<FromPeer>,
    /// What they are told.
    pub to: Producer<ToPeer>,
}

/// Effects that could not be passed on, in their order.
#[derive(Debug, Default)]
struct Outbox {
    mempool: VecDeque<MempoolRequest>,
    vote_log: VecDeque<VoteLogCommand>,
    sign: VecDeque<SignRequest>,
    log: VecDeque<DecidedBlock>,
    peers: VecDeque<ToPeer>,
}

/// See the module.
pub struct ConsensusTile {
    replica: Replica,
    metrics: Arc<Metrics>,
    explanation: Arc<Explanation>,
    links: ConsensusLinks,
    outbox: Outbox,
    effects: Vec<Effect>,
    /// When the replica has something to do of its own accord.
    due: Option<u64>,
    is_stopping: bool,
}

impl ConsensusTile {
    /// A tile around `replica`; what it waits for is published as `explanation` at housekeeping.
    #[must_use]
    pub fn new(
        replica: Replica,
        metrics: Arc<Metrics>,
        explanation: Arc<Explanation>,
        links: ConsensusLinks,
    ) -> Self {
        Self {
            replica,
            metrics,
            explanation,
            links,
            outbox: Outbox::default(),
            effects: Vec::new(),
            // At once: a height may have been under way before the start.
            due: Some(0),
            is_stopping: false,
        }
    }

    /// Takes in everything that arrived; `true` if there was something.
    fn take_in(&mut self, now: Nanos) -> Result<bool, Fatal> {
        let mut has_worked = false;
        while let Some(roots) = self.links.executed.pop() {
            self.step(now, Input::Executed(roots))?;
            has_worked = true;
        }
        while let Some(ticket) = self.links.vote_log.pop() {
            self.step(now, Input::VoteLogDurable(ticket))?;
            has_worked = true;
        }
        while let Some(Signed { ticket, signature }) = self.links.signed.pop() {
            self.step(now, Input::Signed { ticket, signature })?;
            has_worked = true;
        }
        while let Some(height) = self.links.durable_heights.pop() {
            self.step(now, Input::HeightDurable(height))?;
            has_worked = true;
        }
        while let Some(answer) = self.links.from_mempool.pop() {
            self.step(now, input_of_mempool(answer))?;
            has_worked = true;
        }
        for _ in 0..PEER_MESSAGES_PER_POLL_MAX {
            if !self.replica.has_room() || !self.outbox.peers.is_empty() {
                break;
            }
            let next = self.links.peers.as_mut().and_then(|peers| peers.from.pop());
            let Some(message) = next else { break };
            self.step(now, input_of_peer(message))?;
            has_worked = true;
        }
        if self.due.is_some_and(|due| due <= now.as_nanos()) {
            self.step(now, Input::Tick)?;
            has_worked = true;
        }
        has_worked |= self.end_height_alone(now)?;
        if has_worked {
            self.due = self.replica.deadline(now.as_nanos());
        }
        Ok(has_worked)
    }

    /// The node is stopping and the mempool has finished: a height that nobody else can finish ends
    /// with an empty block.
    fn end_height_alone(&mut self, now: Nanos) -> Result<bool, Fatal> {
        if !self.is_stopping
            || !self.links.to_mempool.is_closed()
            || !self.replica.must_finish()
            || !self.replica.awaits_candidates()
        {
            return Ok(false);
        }
        let height = self.replica.chain().next_height();
        self.step(now, Input::Candidates { height, batches: Vec::new() })?;
        Ok(true)
    }

    fn step(&mut self, now: Nanos, input: Input) -> Result<(), Fatal> {
        let time = Time { nanos: now.as_nanos(), wall_millis: clock::wall().as_millis() };
        let mut effects = std::mem::take(&mut self.effects);
        self.replica.step(time, input, &mut effects)?;
        for effect in effects.drain(..) {
            self.act(effect);
        }
        self.effects = effects;
        Ok(())
    }

    fn act(&mut self, effect: Effect) {
        let Outbox { mempool, vote_log, sign, log, peers } = &mut self.outbox;
        match effect {
            Effect::AppendVoteLog { ticket, record } => {
                vote_log.push_back(VoteLogCommand::Append { ticket, record });
            }
            Effect::SyncVoteLog(ticket) => vote_log.push_back(VoteLogCommand::Sync(ticket)),
            Effect::EndProbation => vote_log.push_back(VoteLogCommand::EndProbation),
            Effect::SealVoteLog(height) => vote_log.push_back(VoteLogCommand::Seal(height)),
            Effect::Sign { ticket, intent } => sign.push_back(SignRequest { ticket, intent }),
            Effect::Propose { height, round, allow_empty } => {
                mempool.push_back(MempoolRequest::Propose { height, round, allow_empty });
            }
            Effect::Need { height, block, batches, proposer } => {
                mempool.push_back(MempoolRequest::Need { height, block, batches, proposer });
            }
            Effect::NeedDecided { height, block, batches, holder } => {
                mempool.push_back(MempoolRequest::NeedDecided { height, block, batches, holder });
            }
            Effect::Ordered { height, batches } => {
                mempool.push_back(MempoolRequest::Decided { height, batches });
            }
            Effect::Write(decided) => {
                self.metrics.consensus_blocks.add(1);
                let hufu_consensus::replica::Decided { block, certificate, batches, .. } = *decided;
                log.push_back(DecidedBlock { block, certificate, batches });
            }
            Effect::Publish(message) => peers.push_back(ToPeer::Publish(message)),
            Effect::Send { to, message } => peers.push_back(ToPeer::Send { to, message }),
            Effect::SendBlock { to, round, block } => {
                peers.push_back(ToPeer::Block { to, round, block });
            }
            Effect::AnnounceTip { height, block } => {
                peers.push_back(ToPeer::Tip { height, block });
            }
            Effect::AskHeights { to, from, count } => {
                peers.push_back(ToPeer::AskHeights { to, from, count });
            }
            Effect::Note(note) => self.note(note),
        }
        if self.links.peers.is_none() {
            // One validator has nobody to tell.
            self.outbox.peers.clear();
        }
    }

    fn note(&self, note: Note) {
        match note {
            Note::RoundStarted { .. } => self.metrics.consensus_rounds.add(1),
            Note::Refused(_) => self.metrics.consensus_refused.add(1),
            Note::CaughtUp { .. } => self.metrics.consensus_caught_up.add(1),
            Note::Judged { height, proposer, fault } => {
                let (height, proposer) = (height.to_string(), proposer.to_string());
                let fault = fault.map_or_else(
                    || "orders what it may not, or what is not valid".to_owned(),
                    |fault| fault.to_string(),
                );
                let fields = [("height", &height), ("proposer", &proposer), ("fault", &fault)];
                log::warn("proposed block is invalid", &fields);
            }
            Note::Blame(peer, blame) => {
                self.metrics.consensus_blamed.add(1);
                let (peer, blame) = (peer.to_string(), blame.to_string());
                log::warn("peer broke a rule", &[("peer", &peer), ("rule", &blame)]);
            }
        }
    }

    fn deliver(&mut self) -> bool {
        let is_mempool_clear = push_all(&mut self.outbox.mempool, &mut self.links.to_mempool);
        let is_vote_log_clear = push_all(&mut self.outbox.vote_log, &mut self.links.to_vote_log);
        let is_sign_clear = push_all(&mut self.outbox.sign, &mut self.links.to_sign);
        let is_log_clear = push_all(&mut self.outbox.log, &mut self.links.to_log);
        let peers = self.links.peers.as_mut();
        let is_peer_clear =
            peers.is_none_or(|peers| push_all(&mut self.outbox.peers, &mut peers.to));
        is_mempool_clear && is_vote_log_clear && is_sign_clear && is_log_clear && is_peer_clear
    }
}

fn input_of_mempool(answer: MempoolAnswer) -> Input {
    match answer {
        MempoolAnswer::Candidates(candidates) => {
            Input::Candidates { height: candidates.height, batches: candidates.batches }
        }
        MempoolAnswer::Available { block, batches } => Input::Available { block, batches },
        MempoolAnswer::Durable { block, batches } => Input::Durable { block, batches },
        MempoolAnswer::Invalid { block } => Input::Invalid { block },
    }
}

fn input_of_peer(message: FromPeer) -> Input {
    match message {
        FromPeer::Up(peer) => Input::PeerUp(peer),
        FromPeer::Down(peer) => Input::PeerDown(peer),
        FromPeer::Message { from, message } => Input::Message { from, message },
        FromPeer::Block { from, round, block } => Input::Block { from, round, block },
        FromPeer::Tip { from, height, .. } => Input::Tip { from, height },
        FromPeer::Height { from, block, certificate } => Input::Height { from, block, certificate },
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
        let has_worked = self.take_in(now)?;
        if !self.deliver() {
            return Ok(if has_worked { Progress::Busy } else { Progress::PushedBack });
        }
        if has_worked {
            return Ok(Progress::Busy);
        }
        // A height under way is finished where nobody else would; one that is only asked for is not
        // begun.
        let is_between = !self.replica.must_finish();
        Ok(if self.is_stopping && is_between { Progress::Done } else { Progress::Idle })
    }

    fn deadline(&self) -> Option<Nanos> {
        self.due.map(Nanos::from_nanos)
    }

    fn housekeeping(&mut self, now: Nanos) {
        self.explanation.publish(self.replica.status(now.as_nanos()));
        self.metrics.consensus_is_without_signer.set(self.replica.is_without_signer().into());
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

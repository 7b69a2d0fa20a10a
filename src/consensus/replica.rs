//! One validator's part in ordering blocks, whole but without I/O: when a height begins, what is
//! proposed, what of others' proposals is voted for, and how a lagging validator comes back.
//!
//! ```text
//! Resting --work, or a peer's message--> Deciding --engine decides--> Writing --durable--> Resting
//!    '------- decided heights of peers (catch-up) ------------------->'
//! ```
//!
//! A height is begun when there is work for it: batches to order, a result that no header certifies
//! yet, or a peer that has begun it; so an idle chain closes its last heights with empty blocks and
//! then rests. The [`Engine`] says what may be signed and when it may leave; nothing here does.
//! Owned by the consensus tile; the simulator runs it as it is. Time is an argument.

mod catch_up;
pub mod chain;
mod following;
mod probation;
mod proposals;
mod seam;
mod signer;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use hufu_types::OrderedBatches;
use hufu_types::limits::VALIDATORS_COUNT_MAX;
use hufu_types::{Address, Batch, BatchDigest, Block, ValidatorSet};

pub use catch_up::CatchUpConfig;
pub use chain::{Chain, Tip};
pub use seam::{BLAMES_COUNT, Blame, Decided, Effect, Input, Note, Time};
pub use status::{Missing, Status};

use crate::durable::LogTicket;
use crate::engine::{self, Engine, TimerId, TimerKind};
use crate::header::{ExecutedRoots, HeaderError, Parent};
use crate::message::Message;
use crate::vote_log::{BlockVerdict, RecoveredLog};
use catch_up::CatchUp;
use probation::Probation;
use proposals::Proposals;
use signer::Signer;

/// Messages of the height at work that are kept to be told to a peer that comes, count: what one
/// validator says in sixteen rounds.
const TOLD_COUNT_MAX: usize = 64;

/// Inputs that the engine had no room for, count: a bundle's worth from every peer.
const REFUSED_COUNT_MAX: usize = 8 * VALIDATORS_COUNT_MAX as usize;

/// Heights decided and not durable, count: as many as make a group of the block log worth its
/// write, and few enough for the memory of their bodies.
const WRITING_HEIGHTS_COUNT_MAX: usize = 16;

/// Heights decided and not executed with which none more is taken over from peers, count.
const UNEXECUTED_HEIGHTS_COUNT_MAX: usize = 16;

/// Bytes of their bodies with which none more is: two of the largest blocks.
const UNEXECUTED_BYTES_MAX: u64 = 64 << 20;

/// Why a replica stopped. None may be ignored or retried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine stopped.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// Host: what a quorum decided does not fit what is here; most of all
    /// [`HeaderError::Diverged`], other roots than ours. This node never votes again on this state.
    #[error("decided block: {0}")]
    Decided(#[from] HeaderError),
    /// Bug: what this validator wants to propose breaks a rule.
    #[error("own block of height {height}: {reason}")]
    OwnBlock {
        /// Its height.
        height: u64,
        /// The rule.
        reason: String,
    },
}

/// What a replica runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The engine's part: chain, own address, waiting times, provider.
    pub engine: engine::Config,
    /// Heights between a block and the header that carries its roots, from the genesis.
    pub certified_lag_heights: u32,
    /// Nanoseconds between the beginnings of two heights of one's own accord, from the genesis.
    pub interval_nanos: u64,
    /// How long catch-up waits.
    pub catch_up: CatchUpConfig,
}

/// What a replica starts with, from the genesis and from recovery.
#[derive(Debug)]
pub struct Start {
    /// The validators.
    pub validators: ValidatorSet,
    /// The last block executed here.
    pub tip: Tip,
    /// Roots of the last heights, oldest first, the tip's last.
    pub roots: Vec<ExecutedRoots>,
    /// What was ordered in the window of validity.
    pub ordered: OrderedBatches,
    /// What the vote log held.
    pub log: RecoveredLog,
    /// Since when, in Unix milliseconds, this validator has a log at all, where it does not know
    /// what its key signed before: it follows and does not vote until that cannot matter.
    pub probation: Option<u64>,
}

/// What a replica does between two heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing, until there is work.
    Resting,
    /// The engine works on the next height.
    Deciding,
    /// Heights are decided and their records on their way to the disk: one, or several that came
    /// from peers.
    Writing,
}

/// See the module.
pub struct Replica {
    engine: Engine,
    config: Config,
    chain: Chain,
    stage: Stage,
    /// Heights with records in the vote log are begun without waiting for work.
    must_start: bool,
    /// The highest height at which a peer was seen to work.
    called: u64,
    last_start: Option<u64>,
    timers: BTreeMap<TimerId, u64>,
    /// The question for batches that is open: its height, and whether nothing is an answer too.
    asked: Option<(u64, bool)>,
    candidates: Option<Vec<Batch>>,
    /// The engine waits for a block of this round.
    build: Option<u32>,
    /// Our own block of the height at work, and the round it is for.
    own_block: Option<(u32, Block)>,
    proposals: Proposals,
    catch_up: CatchUp,
    told: VecDeque<Message>,
    refused: VecDeque<engine::Input>,
    signer: Signer,
    /// Decided heights that are not durable, in order.
    writing: VecDeque<Parent>,
    /// Bytes of the bodies of each decided height that is not executed, in order.
    unexecuted: VecDeque<u64>,
    sync_sent: Option<LogTicket>,
    probation: Option<Probation>,
    has_announced: bool,
    status: status::Tracker,
}

impl Replica {
    /// A replica that goes on from `start`.
    #[must_use]
    pub fn new(config: Config, start: Start) -> Self {
        let Start { validators, tip, roots, ordered, log, probation } = start;
        let lag = config.certified_lag_heights;
        let chain = Chain::new(config.engine.chain_id, lag, validators, tip, roots, ordered);
        let must_start = log.heights().any(|height| height >= chain.next_height());
        Self {
            engine: Engine::recover(config.engine.clone(), log),
            catch_up: CatchUp::new(config.catch_up),
            config,
            chain,
            stage: Stage::Resting,
            must_start,
            called: 0,
            last_start: None,
            timers: BTreeMap::new(),
            asked: None,
            candidates: None,
            build: None,
            own_block: None,
            proposals: Proposals::default(),
            told: VecDeque::new(),
            refused: VecDeque::new(),
            signer: Signer::default(),
            writing: VecDeque::new(),
            unexecuted: VecDeque::new(),
            sync_sent: None,
            probation: probation.map(Probation::new),
            has_announced: false,
            status: status::Tracker::default(),
        }
    }

    /// What is known of the chain.
    #[must_use]
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The engine's counts since start.
    #[must_use]
    pub fn counters(&self) -> engine::Counters {
        self.engine.counters()
    }

    /// Whether messages of peers are taken in; if not, their links are left alone until there is
    /// room. A signer that is late holds up nobody: what it leaves no room for is dropped.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.signer.is_late() || (self.refused.is_empty() && self.engine.room() > 0)
    }

    /// Whether a height is under way that must be finished before a stop: with nobody else to
    /// finish it, or on its way to the disk.
    #[must_use]
    pub fn must_finish(&self) -> bool {
        let is_alone = self.chain.validators().set().count() == 1;
        let can_decide = self.stage == Stage::Deciding && !self.signer.is_late();
        self.stage == Stage::Writing || (is_alone && can_decide)
    }

    /// Whether the height at work waits for batches to propose.
    #[must_use]
    pub const fn awaits_candidates(&self) -> bool {
        self.build.is_some() && self.candidates.is_none()
    }

    /// Whether this validator follows without voting, because it does not know what its key signed
    /// before it lost its log.
    #[must_use]
    pub const fn is_on_probation(&self) -> bool {
        self.probation.is_some()
    }

    /// Whether this validator follows without voting, because its signer does not answer.
    #[must_use]
    pub fn is_without_signer(&self) -> bool {
        self.signer.is_late()
    }

    /// Why the height at work is not decided, for people.
    #[must_use]
    pub fn status(&self, now: u64) -> Status {
        self.status.status(now, self)
    }

    /// When [`Input::Tick`] has something to do, on the monotonic clock of [`Time`].
    #[must_use]
    pub fn deadline(&self, now: u64) -> Option<u64> {
        let timer = self.timers.values().min().copied();
        let may_ask = self.stage == Stage::Resting && self.asked.is_none();
        let pace = if may_ask { self.next_start() } else { None };
        let pace = pace.filter(|time| *time > now);
        let catch_up = self.catch_up.deadline(now, self.chain.height());
        let signer = self.signer.deadline();
        timer.into_iter().chain(pace).chain(catch_up).chain(signer).min()
    }

    /// Takes in one input and adds what it asks for to `out`.
    ///
    /// # Errors
    /// [`Error`]: the replica has stopped for good; the node goes down and recovers.
    pub fn step(&mut self, time: Time, input: Input, out: &mut Vec<Effect>) -> Result<(), Error> {
        if !core::mem::replace(&mut self.has_announced, true) {
            let Tip { block, .. } = self.chain.tip();
            // At the genesis only those speak who have signed nothing before this run: that is what
            // the chain's being new means to a validator with an empty folder.
            if block.height > 0 || self.probation.is_some() {
                out.push(Effect::AnnounceTip { height: block.height, block: block.digest });
            }
        }
        self.signer.tick(time.nanos);
        self.take(time, input, out)?;
        self.advance(time, out)?;
        self.request_sync(out);
        Ok(())
    }

    fn take(&mut self, time: Time, input: Input, out: &mut Vec<Effect>) -> Result<(), Error> {
        let now = time.nanos;
        match input {
            Input::PeerUp(peer) => self.peer_up(peer, out),
            Input::PeerDown(peer) => self.catch_up.down(&peer),
            Input::Message { from, message } => return self.message(time, from, message, out),
            Input::Block { from, round, block } => self.block(from, round, block, out),
            Input::Tip { from, height } => {
                self.catch_up.tip(now, from, height, self.chain.height());
            }
            Input::Height { from, block, certificate } => {
                if block.height() <= self.chain.height() {
                    return Ok(());
                }
                if let Err(blame) = self.catch_up.received(now, from, block, certificate) {
                    out.push(Effect::Note(Note::Blame(from, blame)));
                }
            }
            Input::Candidates { height, batches } => {
                // The height may have been decided while the mempool answered.
                if height == self.chain.next_height() {
                    self.asked = None;
                    self.candidates = Some(batches);
                }
            }
            Input::Available { block, batches } => self.proposals.available(&block, batches),
            Input::Durable { block, batches } => {
                if let Some(height) = self.proposals.durable(&block, batches)
                    && self.engine.height() == height
                {
                    return self.drive(time, engine::Input::BatchesDurable { height, block }, out);
                }
            }
            Input::Invalid { block } => self.proposals.invalid(&block),
            Input::VoteLogDurable(ticket) => {
                return self.drive(time, engine::Input::VoteLogDurable(ticket), out);
            }
            Input::Signed { ticket, signature } => {
                if self.signer.answered(ticket) {
                    return Ok(());
                }
                return self.drive(time, engine::Input::Signed { ticket, signature }, out);
            }
            Input::SignFailed(ticket) => {
                return self.drive(time, engine::Input::SignFailed { ticket }, out);
            }
            Input::HeightDurable(height) => self.height_durable(time, height, out),
            Input::Executed(roots) => {
                self.unexecuted.pop_front();
                self.chain.executed(roots)?;
            }
            Input::Tick => {}
        }
        Ok(())
    }

    /// Everything that may be possible now, whatever made it so.
    fn advance(&mut self, time: Time, out: &mut Vec<Effect>) -> Result<(), Error> {
        self.fire_timers(time, out)?;
        self.offer_again(time, out)?;
        self.judge(time, out)?;
        self.follow_peers(time, out)?;
        match self.stage {
            Stage::Resting => self.rest(time, out)?,
            Stage::Deciding => self.build(time, out)?,
            Stage::Writing => {}
        }
        Ok(())
    }

    fn fire_timers(&mut self, time: Time, out: &mut Vec<Effect>) -> Result<(), Error> {
        let is_due = |(_, deadline): &(&TimerId, &u64)| **deadline <= time.nanos;
        let due: Vec<TimerId> = self.timers.iter().filter(is_due).map(|(id, _)| *id).collect();
        for timer in due {
            self.timers.remove(&timer);
            if timer.kind == TimerKind::Rebroadcast {
                self.tell_block_again(timer.round, out);
            }
            self.drive(time, engine::Input::TimerFired(timer), out)?;
        }
        Ok(())
    }

    /// Links lose what they carry when they end; a proposal of ours that nobody decides is sent
    /// again with our votes.
    fn tell_block_again(&self, round: u32, out: &mut Vec<Effect>) {
        let Some((_, block)) = self.own_block.as_ref().filter(|(of, _)| *of == round) else {
            return;
        };
        out.push(Effect::SendBlock { to: None, round, block: block.clone() });
        let told = self.told.iter().filter(|message| matches!(message, Message::Proposal(_)));
        out.extend(told.cloned().map(Effect::Publish));
    }

    /// What the engine had no room for.
    fn offer_again(&mut self, time: Time, out: &mut Vec<Effect>) -> Result<(), Error> {
        let mut count = self.refused.len();
        while count > 0
            && self.engine.room() > 0
            && let Some(input) = self.refused.pop_front()
        {
            count -= 1;
            self.drive(time, input, out)?;
        }
        Ok(())
    }

    fn peer_up(&mut self, peer: Address, out: &mut Vec<Effect>) {
        self.catch_up.up(peer);
        if self.stage == Stage::Resting {
            return;
        }
        // It may have missed what was told at this height.
        if let Some((round, block)) = self.own_block.clone() {
            out.push(Effect::SendBlock { to: Some(peer), round, block });
        }
        let told = self.told.iter().cloned();
        out.extend(told.map(|message| Effect::Send { to: peer, message }));
    }

    fn message(
        &mut self,
        time: Time,
        from: Address,
        message: Message,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        let height = message.height();
        if let Message::Vote(signed) = &message
            && signed.vote.validator == from
        {
            self.chain.heard(from, height);
            self.status.vote(height, signed);
        }
        self.call(height);
        if self.signer.is_given_up() {
            // The height comes with its certificate.
            return Ok(());
        }
        if self.stage == Stage::Resting {
            // The engine may still be at the last height it worked on itself, and would not know
            // what to do with this one.
            self.rest(time, out)?;
        }
        let input = match message {
            Message::Vote(signed) => engine::Input::Vote(signed),
            Message::Proposal(signed) => {
                self.status.proposal(height, signed.proposal.round.get());
                engine::Input::Proposal(signed)
            }
            Message::Votes(bundle) => engine::Input::Votes(bundle),
        };
        self.drive(time, input, out)
    }

    fn block(&mut self, from: Address, round: u32, block: Block, out: &mut Vec<Effect>) {
        let next = self.chain.next_height();
        let height = block.height();
        if height < next || height.saturating_sub(next) > engine::HEIGHTS_AHEAD_COUNT_MAX {
            // Decided already, or so far ahead that catch-up will bring it.
            return;
        }
        if height == next && !self.may_propose(from, round) {
            out.push(Effect::Note(Note::Blame(from, Blame::BlockUnasked)));
            return;
        }
        self.call(height);
        match self.proposals.insert(from, round, block) {
            Ok(need) => out.extend(need),
            Err(blame) => out.push(Effect::Note(Note::Blame(from, blame))),
        }
    }

    /// Whether a block of the next height by `from` is worth fetching what it orders: it is its
    /// turn, and the engine will take the round in.
    fn may_propose(&self, from: Address, round: u32) -> bool {
        let next = self.chain.next_height();
        let last = self.engine.round_of(next).saturating_add(engine::ROUNDS_AHEAD_COUNT_MAX);
        round <= last && self.chain.validators().proposer(next, round).address() == from
    }

    /// A peer works on this height, so this validator does too when it gets there.
    fn call(&mut self, height: u64) {
        let ahead = self.chain.next_height().saturating_add(engine::HEIGHTS_AHEAD_COUNT_MAX);
        self.called = self.called.max(height.min(ahead));
    }

    /// Judges proposed blocks of the height at work whose batches are here.
    fn judge(&mut self, time: Time, out: &mut Vec<Effect>) -> Result<(), Error> {
        if self.stage != Stage::Deciding || self.engine.height() != self.chain.next_height() {
            return Ok(());
        }
        let judged = self.proposals.judge(&self.chain, time.wall_millis);
        for proposals::Judged { from, round, verdict, note } in judged {
            let height = self.chain.next_height();
            out.extend(note.map(Effect::Note));
            if self.chain.validators().proposer(height, round).address() != from {
                out.push(Effect::Note(Note::Blame(from, Blame::BlockUnasked)));
                continue;
            }
            if matches!(verdict, BlockVerdict::Invalid(_)) {
                out.push(Effect::Note(Note::Blame(from, Blame::BlockInvalid)));
            }
            self.status.block(height, round);
            let input = engine::Input::BlockReceived { height, round, proposer: from, verdict };
            self.drive(time, input, out)?;
        }
        Ok(())
    }

    /// Begins a height, or asks whether there is work for one.
    fn rest(&mut self, time: Time, out: &mut Vec<Effect>) -> Result<(), Error> {
        let now = time.nanos;
        if self.chain.next_roots().is_none() || self.catch_up.is_coming(now) {
            return Ok(());
        }
        if self.signer.is_asked() {
            return Ok(());
        }
        if let Some(probation) = self.probation {
            let own = self.config.engine.address;
            if !probation.is_over(&self.chain, own, self.catch_up.tips()) {
                return Ok(());
            }
            self.probation = None;
            out.push(Effect::EndProbation);
        }
        if self.must_start || self.called >= self.chain.next_height() {
            return self.start_height(time, out);
        }
        if self.next_start().is_some_and(|earliest| now < earliest) {
            return Ok(());
        }
        if self.candidates.is_some() {
            return self.start_height(time, out);
        }
        self.ask(0, self.chain.has_uncertified(), out);
        Ok(())
    }

    fn next_start(&self) -> Option<u64> {
        self.last_start.map(|last| last.saturating_add(self.config.interval_nanos))
    }

    /// Asks for batches, unless this very answer is still to come.
    fn ask(&mut self, round: u32, allow_empty: bool, out: &mut Vec<Effect>) {
        let height = self.chain.next_height();
        if self.asked.is_some_and(|(of, empty)| of == height && (empty || !allow_empty)) {
            return;
        }
        self.asked = Some((height, allow_empty));
        out.push(Effect::Propose { height, round, allow_empty });
    }

    fn start_height(&mut self, time: Time, out: &mut Vec<Effect>) -> Result<(), Error> {
        let height = self.chain.next_height();
        assert!(self.chain.next_roots().is_some(), "a height is begun when its roots are there");
        self.must_start = false;
        self.last_start = Some(time.nanos);
        self.stage = Stage::Deciding;
        self.status.begin(height, time.nanos);
        let validators = self.chain.validators().clone();
        self.drive(time, engine::Input::StartHeight { height, validators }, out)?;
        // What came early is judged, and our own block built, without waiting for another input.
        self.judge(time, out)?;
        if self.stage == Stage::Deciding { self.build(time, out) } else { Ok(()) }
    }

    /// Answers the engine's request for a block, once there is something to put into it.
    fn build(&mut self, time: Time, out: &mut Vec<Effect>) -> Result<(), Error> {
        let Some(round) = self.build else { return Ok(()) };
        let Some(batches) = self.candidates.take() else {
            // A later round, or a height that a peer called for: nobody was asked for this block.
            self.ask(round, true, out);
            return Ok(());
        };
        self.build = None;
        let height = self.chain.next_height();
        let block = self.make_block(time, &batches)?;
        self.proposals.own(&block, batches);
        self.own_block = Some((round, block.clone()));
        self.status.block(height, round);
        out.push(Effect::SendBlock { to: None, round, block: block.clone() });
        self.drive(time, engine::Input::BlockBuilt { round, block }, out)
    }

    fn make_block(&self, time: Time, batches: &[Batch]) -> Result<Block, Error> {
        let height = self.chain.next_height();
        let own = self.config.engine.address;
        let hasher = &*self.config.engine.provider.hasher;
        let bad = |reason: String| Error::OwnBlock { height, reason };
        let digests: Vec<BatchDigest> = batches.iter().map(Batch::digest).collect();
        let count = batches.iter().map(|batch| batch.header().transactions_count.get()).sum();
        let header = self.chain.build(own, &digests, count, time.wall_millis, hasher);
        let header = header.ok_or_else(|| bad("its roots are not there".to_owned()))?;
        let block = Block::new(header, digests, hasher).map_err(|fault| bad(fault.to_string()))?;
        hufu_types::check_batches(&block, batches, self.chain.ordered())
            .map_err(|fault| bad(fault.to_string()))?;
        Ok(block)
    }

    /// Hands an input to the engine and acts on all that comes of it.
    fn drive(
        &mut self,
        time: Time,
        input: engine::Input,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.engine.step(time.nanos, input, &mut effects)?;
            for effect in effects {
                inputs.extend(self.act(time, effect, out)?);
            }
        }
        Ok(())
    }

    /// Acts on one effect of the engine; an answer that is there at once is returned.
    fn act(
        &mut self,
        time: Time,
        effect: engine::Effect,
        out: &mut Vec<Effect>,
    ) -> Result<Option<engine::Input>, Error> {
        match effect {
            engine::Effect::AppendVoteLog { ticket, record, .. } => {
                out.push(Effect::AppendVoteLog { ticket, record });
            }
            engine::Effect::Sign { ticket, intent } => {
                self.signer.asked(time.nanos, ticket);
                out.push(Effect::Sign { ticket, intent });
            }
            engine::Effect::Publish(message) => self.publish(message, out),
            engine::Effect::BuildBlock { round, .. } => self.build = Some(round),
            engine::Effect::NeedBatches { height, block } => {
                let digest = block.digest();
                let proposer = block.header().proposer;
                if self.proposals.need(height, &block) {
                    let batches = block.batches().to_vec();
                    out.push(Effect::Need { height, block: digest, batches, proposer });
                }
                let is_durable = self.proposals.is_durable(&digest);
                return Ok(
                    is_durable.then_some(engine::Input::BatchesDurable { height, block: digest })
                );
            }
            engine::Effect::RestreamBlock { round, block, .. } => {
                self.own_block = Some((round, block.clone()));
                out.push(Effect::SendBlock { to: None, round, block });
            }
            engine::Effect::RoundStarted { height, round, proposer, role } => {
                self.status.round(height, round, proposer, time.nanos);
                out.push(Effect::Note(Note::RoundStarted { height, round, proposer, role }));
            }
            engine::Effect::SetTimer { id, deadline_nanos } => {
                self.timers.insert(id, deadline_nanos);
            }
            engine::Effect::CancelTimer(id) => {
                self.timers.remove(&id);
            }
            engine::Effect::CancelTimers => self.timers.clear(),
            engine::Effect::Decided(decision) => self.decided(time, *decision, out)?,
            engine::Effect::Refused { reason, input } => {
                out.push(Effect::Note(Note::Refused(reason)));
                let has_signer = !self.signer.is_late();
                let room = REFUSED_COUNT_MAX.saturating_sub(self.refused.len());
                let room = if has_signer { room } else { 0 };
                self.refused.extend(input.map(|input| *input).into_iter().take(room));
            }
        }
        Ok(None)
    }

    fn publish(&mut self, message: Message, out: &mut Vec<Effect>) {
        let height = message.height();
        match &message {
            Message::Vote(signed) => self.status.vote(height, signed),
            Message::Proposal(signed) => self.status.proposal(height, signed.proposal.round.get()),
            Message::Votes(_) => {}
        }
        if !self.told.contains(&message) {
            if self.told.len() >= TOLD_COUNT_MAX {
                self.told.pop_front();
            }
            self.told.push_back(message.clone());
        }
        out.push(Effect::Publish(message));
    }

    fn decided(
        &mut self,
        time: Time,
        decision: engine::Decision,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        let engine::Decision { block, certificate, evidence, .. } = decision;
        self.write(time, block, certificate, evidence, out)
    }

    /// The next height is decided: by the engine here, or by a certificate that came from a peer.
    /// What came from peers is written without waiting for the heights before, and executed behind:
    /// the log keeps the order, and each root is compared with its header when it is known.
    fn write(
        &mut self,
        time: Time,
        block: Block,
        certificate: hufu_types::CommitCertificate,
        evidence: Vec<crate::vote_log::Evidence>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        assert!(self.writing.len() < WRITING_HEIGHTS_COUNT_MAX, "a bounded count is under way");
        let height = block.height();
        let Some(batches) = self.proposals.take(&block) else {
            unreachable!("a decision leaves the gate when its batches are durable here")
        };
        assert_eq!(batches.len(), block.batches().len(), "each batch has its body");
        self.chain.decided(&block, time.wall_millis)?;
        self.stage = Stage::Writing;
        self.writing.push_back(self.chain.tip().block);
        let sizes = batches.iter().map(|batch| batch.bytes().len());
        self.unexecuted.push_back(sizes.map(|size| u64::try_from(size).unwrap_or(u64::MAX)).sum());
        // The answer to a question about this height is of no use, and nothing waits for it.
        self.asked = None;
        self.candidates = None;
        self.build = None;
        self.own_block = None;
        self.told.clear();
        self.proposals.advanced(height);
        self.catch_up.advanced(time.nanos, height);
        out.push(Effect::Ordered { height, batches: block.batches().to_vec() });
        if hufu_types::planted!("sealed_before_durable") {
            out.push(Effect::SealVoteLog(height));
        }
        out.push(Effect::Write(Box::new(Decided { block, certificate, batches, evidence })));
        Ok(())
    }

    fn height_durable(&mut self, time: Time, height: u64, out: &mut Vec<Effect>) {
        assert_eq!(self.stage, Stage::Writing, "only a decided height is written");
        let written = self.writing.pop_front();
        assert_eq!(written.map(|one| one.height), Some(height), "blocks become durable in order");
        if self.writing.is_empty() {
            self.stage = Stage::Resting;
            self.status.rest(time.nanos);
        }
        if !hufu_types::planted!("sealed_before_durable") {
            out.push(Effect::SealVoteLog(height));
        }
        let block = written.map_or(self.chain.tip().block.digest, |one| one.digest);
        out.push(Effect::AnnounceTip { height, block });
    }

    /// Asks the vote log to sync when the engine waits for it, once for each record waited for.
    fn request_sync(&mut self, out: &mut Vec<Effect>) {
        if let Some(ticket) = self.engine.awaits_durable()
            && self.sync_sent < Some(ticket)
        {
            self.sync_sent = Some(ticket);
            out.push(Effect::SyncVoteLog(ticket));
        }
    }
}

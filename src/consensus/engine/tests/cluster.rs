//! The test's cluster: nodes with a log that loses what was not synced, a network of queues, a
//! clock that jumps to the next timer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hufu_crypto::{Signer as _, SoftwareSigner, software_provider};
use hufu_types::vote::signing_digest;
use hufu_types::{BatchDigest, Digest, Validator, ValidatorSet};

use super::super::*;
use crate::guard::Position;
use crate::header::{ExecutedRoots, HeaderRules, Parent, Standing, executed_height};
use crate::message::Message;
use crate::vote_log::BlockVerdict;

/// Virtual time at which the chain's clock starts, milliseconds.
const EPOCH_MILLIS: u64 = 1_000_000;

/// Events of a run, count: far above what any test needs, so that a standstill ends as a failure.
const EVENTS_COUNT_MAX: u64 = 200_000;

/// What travels between nodes.
#[derive(Clone)]
pub(super) enum Parcel {
    Message(Message),
    Block { round: u32, block: Block },
}

/// A crash to come: before the node acts on its `at`-th effect.
#[derive(Clone, Copy)]
pub(super) struct CrashPlan {
    pub(super) node: usize,
    pub(super) at: u64,
    /// Whether records that were appended but not synced happen to survive.
    pub(super) keeps_unsynced: bool,
}

pub(super) struct Node {
    pub(super) engine: Engine,
    pub(super) signer: SoftwareSigner,
    pub(super) inbox: VecDeque<Input>,
    pub(super) durable: Vec<Vec<u8>>,
    pub(super) unsynced: Vec<(LogTicket, Vec<u8>)>,
    pub(super) timers: BTreeMap<TimerId, u64>,
    pub(super) decided: Vec<Decision>,
    pub(super) is_up: bool,
    pub(super) effects_count: u64,
    pub(super) withholds_batches: bool,
    pub(super) waiting_batches: Vec<(u64, BlockDigest)>,
    pub(super) early: Vec<Parcel>,
    pub(super) batches: BTreeSet<BlockDigest>,
    pub(super) syncs_count: u64,
}

pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) validators: Validators,
    pub(super) chain_id: ChainId,
    pub(super) now: u64,
    pub(super) mail: VecDeque<(usize, Parcel)>,
    /// Everything any signer was ever made to sign.
    pub(super) signed: BTreeMap<(usize, Position), Vec<Vec<u8>>>,
    pub(super) crash: Option<CrashPlan>,
    pub(super) crashes_count: u64,
    pub(super) published: Vec<(usize, Message)>,
    pub(super) loss_per_mille: u64,
    seed: u64,
}

pub(super) fn key(place: usize) -> SoftwareSigner {
    let mut scalar = [7; 32];
    scalar[31] = u8::try_from(place).unwrap() + 1;
    SoftwareSigner::repeatable(&scalar).unwrap()
}

impl Cluster {
    pub(super) fn new(count: usize) -> Self {
        Self::seeded(count, 1)
    }

    pub(super) fn seeded(count: usize, seed: u64) -> Self {
        let make = |place| Validator {
            name: format!("v{place}"),
            key: *key(place).public_key(),
            link_key: *key(100 + place).public_key(),
            power: 1,
        };
        let set = ValidatorSet::new((0..count).map(make).collect()).unwrap();
        let mut cluster = Self {
            nodes: Vec::new(),
            validators: Validators::new(set),
            chain_id: ChainId(Digest([42; 32])),
            now: 0,
            mail: VecDeque::new(),
            signed: BTreeMap::new(),
            crash: None,
            crashes_count: 0,
            published: Vec::new(),
            loss_per_mille: 0,
            seed,
        };
        for place in 0..count {
            let signer = key(place);
            let engine = cluster.engine(&signer, &[], 0);
            cluster.nodes.push(Node {
                engine,
                signer,
                inbox: VecDeque::new(),
                durable: Vec::new(),
                unsynced: Vec::new(),
                timers: BTreeMap::new(),
                decided: Vec::new(),
                is_up: true,
                effects_count: 0,
                withholds_batches: false,
                waiting_batches: Vec::new(),
                early: Vec::new(),
                batches: BTreeSet::new(),
                syncs_count: 0,
            });
            cluster.start_next(place);
        }
        cluster
    }

    fn engine(&self, signer: &SoftwareSigner, records: &[Vec<u8>], decided: u64) -> Engine {
        let provider = software_provider();
        let records = records.iter().map(Vec::as_slice);
        let log = RecoveredLog::read(records, decided, &*provider.hasher).unwrap();
        let config = Config {
            chain_id: self.chain_id,
            address: signer.public_key().address(),
            timeouts: Timeouts::default(),
            provider,
        };
        Engine::recover(config, log)
    }

    fn start_next(&mut self, place: usize) {
        let height = u64::try_from(self.nodes[place].decided.len()).unwrap() + 1;
        let validators = self.validators.clone();
        self.nodes[place].inbox.push_back(Input::StartHeight { height, validators });
        let early = std::mem::take(&mut self.nodes[place].early);
        self.mail.extend(early.into_iter().map(|parcel| (place, parcel)));
    }

    pub(super) fn address(&self, place: usize) -> Address {
        self.nodes[place].signer.public_key().address()
    }

    pub(super) fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        (self.seed >> 33) % below.max(1)
    }

    /// Takes the node down and up again: memory and mail are gone, the log keeps what was synced
    /// and, if the crash `keeps_unsynced`, the first of the records behind it, as many as it likes.
    pub(super) fn restart(&mut self, place: usize, keeps_unsynced: bool) {
        self.stop(place, keeps_unsynced);
        self.bring_up(place);
    }

    pub(super) fn stop(&mut self, place: usize, keeps_unsynced: bool) {
        let unsynced = std::mem::take(&mut self.nodes[place].unsynced);
        let most = u64::try_from(unsynced.len()).unwrap();
        let kept = if keeps_unsynced { self.random(most + 1) } else { 0 };
        let kept = unsynced.into_iter().take(usize::try_from(kept).unwrap());
        let node = &mut self.nodes[place];
        node.durable.extend(kept.map(|(_, record)| record));
        node.inbox.clear();
        node.timers.clear();
        node.waiting_batches.clear();
        node.early.clear();
        node.is_up = false;
        self.mail.retain(|(to, _)| *to != place);
        self.crashes_count += 1;
    }

    pub(super) fn bring_up(&mut self, place: usize) {
        let node = &self.nodes[place];
        let decided = u64::try_from(node.decided.len()).unwrap();
        let engine = self.engine(&node.signer, &node.durable, decided);
        self.nodes[place].engine = engine;
        self.nodes[place].is_up = true;
        self.start_next(place);
    }

    /// Runs until every node that is up has decided `height` heights.
    pub(super) fn run_to(&mut self, height: usize) {
        self.run_until(|cluster| {
            cluster.nodes.iter().all(|node| !node.is_up || node.decided.len() >= height)
        });
    }

    pub(super) fn run_until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..EVENTS_COUNT_MAX {
            if done(self) {
                return;
            }
            self.event();
        }
        let heights: Vec<usize> = self.nodes.iter().map(|node| node.decided.len()).collect();
        panic!("no progress: heights {heights:?}, seed {}", self.seed);
    }

    /// One thing happens: an input is taken in, a parcel arrives, a log is synced, a timer fires.
    pub(super) fn event(&mut self) {
        let count = self.nodes.len();
        let first = usize::try_from(self.random(count as u64)).unwrap();
        for place in (first..count).chain(0..first) {
            if self.nodes[place].is_up
                && let Some(input) = self.nodes[place].inbox.pop_front()
            {
                return self.feed(place, input);
            }
        }
        if let Some((to, parcel)) = self.mail.pop_front() {
            let is_lost = self.random(1_000) < self.loss_per_mille;
            if self.nodes[to].is_up && !is_lost {
                self.deliver(to, parcel);
            }
            return;
        }
        for place in (first..count).chain(0..first) {
            if self.nodes[place].is_up && self.sync_log(place) {
                return;
            }
        }
        if !self.catch_up() {
            self.fire();
        }
    }

    fn sync_log(&mut self, place: usize) -> bool {
        let node = &mut self.nodes[place];
        let Some(awaited) = node.engine.awaits_durable() else {
            return false;
        };
        let Some((last, _)) = node.unsynced.last().cloned() else {
            panic!("{awaited:?} is awaited and nothing was appended");
        };
        assert!(last >= awaited);
        node.syncs_count += 1;
        node.durable.extend(node.unsynced.drain(..).map(|(_, record)| record));
        node.inbox.push_back(Input::VoteLogDurable(last));
        true
    }

    /// Nodes that fell behind are handed the decision they miss, as a peer would.
    fn catch_up(&mut self) -> bool {
        let longest = self.nodes.iter().max_by_key(|node| node.decided.len());
        let longest = longest.map(|node| node.decided.clone()).unwrap_or_default();
        let mut any = false;
        for node in self.nodes.iter_mut().filter(|node| node.is_up) {
            let height = usize::try_from(node.engine.height()).unwrap();
            if node.decided.len() + 1 == height
                && let Some(decision) = longest.get(height - 1).cloned()
                && !node.withholds_batches
            {
                let Decision { certificate, block, .. } = decision;
                node.inbox.push_back(Input::Synced { certificate, block });
                any = true;
            }
        }
        any
    }

    fn fire(&mut self) {
        let up = self.nodes.iter().enumerate().filter(|(_, node)| node.is_up);
        let timers = up.flat_map(|(place, node)| {
            node.timers.iter().map(move |(id, deadline)| (*deadline, place, *id))
        });
        let (deadline, place, id) = timers.min().expect("a live node has a timer");
        self.now = self.now.max(deadline);
        self.nodes[place].timers.remove(&id);
        self.nodes[place].inbox.push_back(Input::TimerFired(id));
    }

    fn deliver(&mut self, to: usize, parcel: Parcel) {
        let input = match parcel {
            Parcel::Message(message) => {
                let mut bytes = Vec::new();
                message.write(&mut bytes);
                match Message::parse(&bytes).unwrap() {
                    Message::Proposal(signed) => Input::Proposal(signed),
                    // Odd rounds come verified ahead, so that both ways are walked.
                    Message::Vote(signed) if signed.vote.round.get() % 2 == 1 => {
                        let verifier = software_provider().verifier;
                        let verified = verify_votes(&*verifier, &self.validators, &[signed]);
                        verified[0].map_or(Input::Vote(signed), Input::VoteVerified)
                    }
                    Message::Vote(signed) => Input::Vote(signed),
                    Message::Votes(bundle) => Input::Votes(bundle),
                }
            }
            Parcel::Block { round, block } => {
                let height = block.height();
                let next = u64::try_from(self.nodes[to].decided.len()).unwrap() + 1;
                if height > next {
                    // It can be judged only once its parent is decided here.
                    self.nodes[to].early.push(Parcel::Block { round, block });
                    return;
                }
                if height < next {
                    return;
                }
                let checked =
                    self.rules(to, height).check(block.header(), Standing::Proposed { round });
                let verdict = match checked {
                    Ok(()) => BlockVerdict::Valid(block),
                    Err(_) => BlockVerdict::Invalid(block.digest()),
                };
                let proposer = self.validators.proposer(height, round).address();
                Input::BlockReceived { height, round, proposer, verdict }
            }
        };
        self.nodes[to].inbox.push_back(input);
    }

    fn rules(&self, place: usize, height: u64) -> HeaderRules<'_> {
        let last = self.nodes[place].decided.last();
        let parent = last
            .map_or(Parent::genesis(EPOCH_MILLIS), |decision| Parent::of(decision.block.header()));
        let executed = executed_height(height, 1);
        let executed = ExecutedRoots {
            height: executed,
            state_root: Digest([u8::try_from(executed % 251).unwrap(); 32]),
            receipts_root: Digest::ZERO,
            receipts_count: 0,
        };
        HeaderRules {
            chain_id: self.chain_id,
            parent,
            validators: &self.validators,
            executed,
            certified_lag_heights: 1,
            clock_millis: EPOCH_MILLIS + self.now / 1_000_000,
        }
    }

    /// A block whose content depends on when and by whom it is built, so that building twice gives
    /// two blocks.
    pub(super) fn build(&self, place: usize, salt: u8) -> Block {
        let height = u64::try_from(self.nodes[place].decided.len()).unwrap() + 1;
        let mut batch = [salt; 32];
        batch[..8].copy_from_slice(&self.nodes[place].effects_count.to_le_bytes());
        batch[8..16].copy_from_slice(&self.crashes_count.to_le_bytes());
        batch[16] = u8::try_from(place).unwrap();
        let batches = vec![BatchDigest(Digest(batch))];
        let hasher = software_provider().hasher;
        let header = self.rules(place, height).build(self.address(place), &batches, 1, 0, &*hasher);
        Block::new(header, batches, &*hasher).unwrap()
    }

    pub(super) fn feed(&mut self, place: usize, input: Input) {
        let mut effects = Vec::new();
        let now = self.now;
        let node = &mut self.nodes[place];
        node.engine.step(now, input, &mut effects).unwrap();
        for effect in effects {
            let node = &mut self.nodes[place];
            node.effects_count += 1;
            let at = node.effects_count;
            if let Some(plan) = self.crash.take_if(|plan| plan.node == place && plan.at == at) {
                return self.restart(place, plan.keeps_unsynced);
            }
            self.carry_out(place, effect);
        }
    }

    fn carry_out(&mut self, place: usize, effect: Effect) {
        let node = &mut self.nodes[place];
        match effect {
            Effect::AppendVoteLog { ticket, record, .. } => node.unsynced.push((ticket, record)),
            Effect::Sign { ticket, intent } => {
                let intent = *intent.get();
                let is_on_disk = node.durable.contains(&Record::SignIntent(intent).to_bytes());
                assert!(is_on_disk, "an intent is on disk before it is signed");
                let entry = self.signed.entry((place, intent.position())).or_default();
                if !entry.iter().any(|bytes| bytes == intent.bytes()) {
                    entry.push(intent.bytes().to_vec());
                }
                let digest = signing_digest(intent.bytes(), node.signer.public_key());
                let signature = node.signer.sign(&digest).unwrap();
                node.inbox.push_back(Input::Signed { ticket, signature });
            }
            Effect::Publish(message) => {
                self.check_published(place, &message);
                self.published.push((place, message.clone()));
                self.send(place, &Parcel::Message(message));
            }
            Effect::BuildBlock { round, .. } => {
                let block = self.build(place, 0);
                self.nodes[place]
                    .inbox
                    .push_back(Input::BlockBuilt { round, block: block.clone() });
                self.send(place, &Parcel::Block { round, block });
            }
            Effect::NeedBatches { height, block } => {
                let block = block.digest();
                if node.withholds_batches {
                    node.waiting_batches.push((height, block));
                } else {
                    node.batches.insert(block);
                    node.inbox.push_back(Input::BatchesDurable { height, block });
                }
            }
            Effect::RestreamBlock { round, block, .. } => {
                self.send(place, &Parcel::Block { round, block });
            }
            Effect::RoundStarted { .. } => {}
            Effect::SetTimer { id, deadline_nanos } => {
                node.timers.insert(id, deadline_nanos);
            }
            Effect::CancelTimer(id) => {
                node.timers.remove(&id);
            }
            Effect::CancelTimers => node.timers.clear(),
            Effect::Decided(decision) => {
                self.check_decided(place, &decision);
                self.nodes[place].decided.push(*decision);
                self.start_next(place);
            }
            Effect::Refused { reason, input } => {
                let harmless = matches!(
                    reason,
                    Refusal::HeightPassed
                        | Refusal::HeightFarAhead
                        | Refusal::BlockUnasked
                        | Refusal::BlockSurplus
                );
                assert!(harmless && input.is_none(), "{reason:?}");
            }
        }
    }

    fn send(&mut self, from: usize, parcel: &Parcel) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            self.mail.push_back((to, parcel.clone()));
        }
    }

    /// The batches that a node was made to wait for become durable there.
    pub(super) fn hand_over_batches(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        node.withholds_batches = false;
        for (height, block) in std::mem::take(&mut node.waiting_batches) {
            node.batches.insert(block);
            node.inbox.push_back(Input::BatchesDurable { height, block });
        }
    }

    /// A decision is the next one, whole, and what it rests on is on this node's disk.
    fn check_decided(&self, place: usize, decision: &Decision) {
        let node = &self.nodes[place];
        assert_eq!(usize::try_from(decision.height).unwrap(), node.decided.len() + 1);
        assert!(node.batches.contains(&decision.block.digest()));
        let verifier = software_provider().verifier;
        decision.certificate.verify(self.chain_id, self.validators.set(), &*verifier).unwrap();
        for evidence in &decision.evidence {
            let record = Record::Evidence(*evidence).to_bytes();
            assert!(node.durable.contains(&record), "evidence is nowhere else");
        }
    }

    /// The intent of what this node tells of itself is in its log, on disk; a precommit also tells
    /// of batches.
    fn check_published(&self, place: usize, message: &Message) {
        let own = self.address(place);
        let durable = &self.nodes[place].durable;
        let precommits =
            message.votes().iter().map(|signed| signed.vote).filter(|vote| {
                vote.validator == own && vote.step() == hufu_types::VoteStep::Precommit
            });
        for block in precommits.filter_map(|vote| vote.block()) {
            assert!(self.nodes[place].batches.contains(&block), "batches come before a precommit");
        }
        let intent = match message {
            Message::Proposal(signed) if signed.proposal.validator == own => {
                SignIntent::Proposal(signed.proposal)
            }
            Message::Vote(signed) => SignIntent::Vote(signed.vote),
            Message::Proposal(_) | Message::Votes(_) => return,
        };
        assert!(durable.contains(&Record::SignIntent(intent).to_bytes()));
    }

    /// No fork, no double sign, blocks in a chain.
    pub(super) fn check(&self) {
        let longest = self.nodes.iter().max_by_key(|node| node.decided.len()).unwrap();
        for node in &self.nodes {
            for (decision, other) in node.decided.iter().zip(&longest.decided) {
                assert_eq!(decision.block, other.block, "fork at height {}", decision.height);
            }
        }
        for pair in longest.decided.windows(2) {
            assert_eq!(pair[1].block.header().parent, pair[0].block.digest());
        }
        for ((place, position), messages) in &self.signed {
            assert_eq!(messages.len(), 1, "validator {place} signed twice at {position}");
        }
    }
}

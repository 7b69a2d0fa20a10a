//! Dissemination: which batches are here, who is told of them, and who is asked for those that a
//! block orders and that are missing.
//!
//! ```text
//! own:      sealed --Store, Send to all--> durable -----------------+--> may be proposed
//! a peer's: received --Judge--> judged --Store--> durable ----------+
//! a block:  need --Ask proposer, the others in turn--> received ...
//!           need_decided --AskBodies holder, the others in turn--> received ...
//!             \--> Available (all verified: may be prevoted)
//!             \--> Durable   (all on disk: may be precommitted)
//!             \--> Invalid   (one is not valid, or they are too large together: never)
//! ```
//! A batch is named by its digest and taken once, whoever sends it; its transactions are judged
//! once. Only the origin of a batch pushes it; anybody else is asked. What is pushed is bounded for
//! each origin, what is fetched for undecided blocks for each proposer, so that none of them fills
//! the memory of the others; what a certificate has decided is always taken. A batch leaves when it
//! was ordered some heights ago or when no later block may order it. Owner: the mempool tile. Pure:
//! time is an argument.

mod holders;
mod needs;
mod proposal;
mod question;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hufu_types::limits::{BATCH_SIZE_MAX, BLOCK_SIZE_MAX};
use hufu_types::{Address, Batch, BatchDigest, BlockDigest, OrderedBatches};

use holders::Holders;
use needs::{Bodies, Need};
pub use proposal::ProposalLimits;
use question::Question;

/// Digests of batches found invalid that are remembered, count; the oldest are forgotten first.
const INVALID_COUNT_MAX: usize = 1_024;

/// Undecided blocks whose batches are waited for, count: two a round for the rounds and heights
/// that consensus takes in. Each proposer has an equal share of it.
pub const NEEDS_COUNT_MAX: usize = 1_024;

/// What a node allows its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisseminationConfig {
    /// Bytes of batches that one origin may push and that no block has ordered yet.
    pub origin_bytes_max: u64,
    /// Bytes of batches that may be fetched for the undecided blocks of one proposer.
    pub proposer_bytes_max: u64,
    /// Nanoseconds after which the next peer is asked for what is missing.
    pub ask_nanos: u64,
    /// Heights for which an ordered batch is kept for peers that ask for it.
    pub heights_kept: u64,
}

impl Default for DisseminationConfig {
    /// 72 MiB an origin: what a usual mempool lets be pending, with its headers. 64 MiB a proposer:
    /// two of the largest blocks. 200 ms, 8 heights.
    fn default() -> Self {
        Self {
            origin_bytes_max: 72 << 20,
            proposer_bytes_max: 64 << 20,
            ask_nanos: 200_000_000,
            heights_kept: 8,
        }
    }
}

/// What a peer did wrong. Each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    /// It sent a batch that nobody asked it for and that is not its own.
    Unasked,
    /// It sent a batch that holds an invalid transaction.
    Invalid,
    /// It pushes more than it may before a block orders it.
    Surplus,
    /// The batch's origin is no validator.
    OriginUnknown,
    /// It pushed a batch that a block has ordered already.
    Replayed,
    /// It pushed a batch that no block may order any more.
    Late,
    /// It sent bytes that are no batch of this chain.
    Malformed,
}

impl Blame {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Unasked,
        Self::Invalid,
        Self::Surplus,
        Self::OriginUnknown,
        Self::Replayed,
        Self::Late,
        Self::Malformed,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Invalid => "invalid",
            Self::Surplus => "surplus",
            Self::OriginUnknown => "origin_unknown",
            Self::Replayed => "replayed",
            Self::Late => "late",
            Self::Malformed => "malformed",
        }
    }

    /// Whether no peer that keeps the rules ever does it. The others happen to a peer that lags or
    /// answers late.
    #[must_use]
    pub const fn is_proof(self) -> bool {
        matches!(self, Self::Invalid | Self::OriginUnknown | Self::Malformed)
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
#[must_use]
pub enum Effect {
    /// Send the batch to this peer.
    Send {
        /// To whom.
        peer: Address,
        /// What.
        batch: Batch,
    },
    /// Ask this peer for batches.
    Ask {
        /// Whom.
        peer: Address,
        /// For what.
        digests: Vec<BatchDigest>,
    },
    /// Ask this peer for all batches of a decided height; it answers with the batches, or
    /// [`Dissemination::no_bodies`] is told that it has not got them.
    AskBodies {
        /// Whom.
        peer: Address,
        /// Which height.
        height: u64,
    },
    /// Tell that these batches are verified and durable here.
    Hold {
        /// Whom; all peers where nobody is named.
        peer: Option<Address>,
        /// What.
        digests: Vec<BatchDigest>,
    },
    /// Tell this peer that these batches are not here.
    Lack {
        /// Whom.
        peer: Address,
        /// What.
        digests: Vec<BatchDigest>,
    },
    /// Verify every signature of the batch and answer with [`Dissemination::judged`].
    Judge(Batch),
    /// Write the batch to the block log and answer with [`Dissemination::durable`].
    Store(Batch),
    /// All batches of the block are here and valid; [`Dissemination::bodies`] gives them.
    Available(BlockDigest),
    /// All batches of the block are durable here; [`Dissemination::bodies`] gives them.
    Durable(BlockDigest),
    /// The block orders an invalid batch, or more bytes than a block may.
    Invalid(BlockDigest),
    /// A peer broke a rule; for counters, and for whoever decides to end the link.
    Blame(Address, Blame),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Judging,
    Storing,
    Held,
}

#[derive(Clone, Debug)]
struct Entry {
    batch: Batch,
    /// Who sent it; this validator for its own.
    sender: Address,
    stage: Stage,
    /// Height that ordered it.
    ordered: Option<u64>,
    /// Whether it came because a block wanted it, so that its origin did not push it.
    is_fetched: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Dissemination {
    config: DisseminationConfig,
    own: Address,
    /// Power of each.
    validators: BTreeMap<Address, u64>,
    up: BTreeSet<Address>,
    entries: BTreeMap<BatchDigest, Entry>,
    /// Bytes of each origin's batches that it pushed and no block has ordered.
    pushed: BTreeMap<Address, u64>,
    /// Batches that no block has ordered, by origin and sequence.
    lanes: BTreeMap<Address, BTreeSet<(u64, BatchDigest)>>,
    /// The same by the last height at which a block may order them.
    expiry: BTreeSet<(u64, BatchDigest)>,
    /// Batches that came because an undecided or decided block wanted them.
    fetched: BTreeSet<BatchDigest>,
    /// Missing batches of undecided blocks.
    wants: BTreeMap<BatchDigest, Question>,
    /// Missing batches of decided blocks, by height.
    bodies: BTreeMap<u64, Bodies>,
    needs: BTreeMap<BlockDigest, Need>,
    /// Peers that have sent something wanted since a question to them was last due.
    answering: BTreeSet<Address>,
    invalid: VecDeque<BatchDigest>,
    holders: Holders,
    /// Ordered batches that are still kept, by height.
    kept: BTreeMap<u64, Vec<BatchDigest>>,
    /// What must not be ordered again.
    window: OrderedBatches,
    effects: Vec<Effect>,
}

impl Dissemination {
    /// Nothing held, nobody up; `validators` are all with their power, `window` is what the last
    /// heights of the chain ordered.
    #[must_use]
    pub fn new(
        config: DisseminationConfig,
        own: Address,
        validators: impl IntoIterator<Item = (Address, u64)>,
        window: OrderedBatches,
    ) -> Self {
        assert!(config.origin_bytes_max >= u64::from(BATCH_SIZE_MAX), "room for one batch");
        assert!(config.proposer_bytes_max >= u64::from(BLOCK_SIZE_MAX), "room for one block");
        assert!(config.ask_nanos > 0, "asking takes time");
        Self {
            config,
            own,
            validators: validators.into_iter().collect(),
            up: BTreeSet::new(),
            entries: BTreeMap::new(),
            pushed: BTreeMap::new(),
            lanes: BTreeMap::new(),
            expiry: BTreeSet::new(),
            fetched: BTreeSet::new(),
            wants: BTreeMap::new(),
            bodies: BTreeMap::new(),
            needs: BTreeMap::new(),
            answering: BTreeSet::new(),
            invalid: VecDeque::new(),
            holders: Holders::default(),
            kept: BTreeMap::new(),
            window,
            effects: Vec::new(),
        }
    }

    /// What is to be done since it was last asked.
    pub fn effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// Height of the block to come.
    #[must_use]
    pub const fn next_height(&self) -> u64 {
        self.window.next_height()
    }

    /// Whether no block to come may order this batch.
    fn is_late(&self, batch: &Batch) -> bool {
        batch.header().last_height.get() < self.window.next_height()
    }

    /// A batch of this validator's own was sealed: it goes to the disk and to everybody at once.
    ///
    /// A validator that lost its disk may seal again, byte for byte, what it sealed before and
    /// peers have kept: that is no new batch.
    pub fn sealed(&mut self, batch: Batch) {
        assert_eq!(batch.header().origin, self.own, "a batch sealed here");
        assert!(!self.is_late(&batch), "what no block may order is not sealed");
        let digest = batch.digest();
        if self.entries.contains_key(&digest) || self.window.contains(&digest) {
            return;
        }
        self.effects.push(Effect::Store(batch.clone()));
        for peer in &self.up {
            self.effects.push(Effect::Send { peer: *peer, batch: batch.clone() });
        }
        self.insert(batch, self.own, Stage::Storing, false);
    }

    /// A batch that is durable here since before the start. What no block may order any more is of
    /// no use.
    pub fn restored(&mut self, batch: Batch) {
        if self.is_late(&batch) || self.window.contains(&batch.digest()) {
            return;
        }
        let origin = batch.header().origin;
        self.insert(batch, origin, Stage::Held, false);
        self.holders.has_held = true;
    }

    /// A peer sent bytes that are no batch of this chain.
    pub fn malformed(&mut self, from: Address) {
        self.blame(from, Blame::Malformed);
    }

    /// A peer sent a batch; parsed, of this chain, and so named by its content.
    pub fn received(&mut self, from: Address, batch: Batch) {
        let digest = batch.digest();
        if self.entries.contains_key(&digest) {
            return;
        }
        if self.invalid.contains(&digest) {
            return self.blame(from, Blame::Invalid);
        }
        if !self.validators.contains_key(&batch.header().origin) {
            return self.blame(from, Blame::OriginUnknown);
        }
        let is_wanted = self.is_wanted(&digest);
        if !is_wanted && let Some(blame) = self.refusal(from, &batch) {
            return self.blame(from, blame);
        }
        if is_wanted {
            self.answering.insert(from);
            if !self.found(&batch) {
                return;
            }
        }
        self.effects.push(Effect::Judge(batch.clone()));
        self.insert(batch, from, Stage::Judging, is_wanted);
    }

    /// Why a batch that no block wants is not taken.
    fn refusal(&self, from: Address, batch: &Batch) -> Option<Blame> {
        let origin = batch.header().origin;
        if self.window.contains(&batch.digest()) {
            return Some(Blame::Replayed);
        }
        if from != origin {
            return Some(Blame::Unasked);
        }
        if self.is_late(batch) {
            return Some(Blame::Late);
        }
        let waiting = self.pushed.get(&origin).copied().unwrap_or(0);
        let is_surplus = waiting + size_of_batch(batch) > self.config.origin_bytes_max;
        is_surplus.then_some(Blame::Surplus)
    }

    /// Every signature of the batch was looked at.
    pub fn judged(&mut self, digest: BatchDigest, is_valid: bool) {
        let Some(entry) = self.entries.get_mut(&digest) else { return };
        // A batch that left and came again can get the verdict on the first one, and then its own.
        if entry.stage != Stage::Judging {
            return;
        }
        if is_valid || hufu_types::planted!("batch_signatures_unchecked") {
            entry.stage = Stage::Storing;
            let batch = entry.batch.clone();
            // What a block learns from it comes first: its disk may be fast.
            self.check_needs(digest);
            return self.effects.push(Effect::Store(batch));
        }
        let (sender, origin) = (entry.sender, entry.batch.header().origin);
        self.remove(digest);
        if self.invalid.len() >= INVALID_COUNT_MAX {
            self.invalid.pop_front();
        }
        self.invalid.push_back(digest);
        self.blame(sender, Blame::Invalid);
        if sender != origin {
            // Whoever made it is to blame as well; a peer that only passed it on did not look.
            self.blame(origin, Blame::Invalid);
        }
        self.refuse_needs(digest);
    }

    /// The batch's record is on disk here.
    pub fn durable(&mut self, digest: BatchDigest) {
        let Some(entry) = self.entries.get_mut(&digest) else { return };
        // A batch that left and came again is written again before it counts.
        if entry.stage == Stage::Storing {
            entry.stage = Stage::Held;
            self.check_needs(digest);
            self.tell_held(digest);
        }
    }

    /// A peer asks for batches.
    pub fn wanted(&mut self, from: Address, digests: &[BatchDigest]) {
        let mut absent = Vec::new();
        for digest in digests {
            match self.get(digest) {
                Some(batch) => {
                    let batch = batch.clone();
                    self.effects.push(Effect::Send { peer: from, batch });
                }
                None => absent.push(*digest),
            }
        }
        if !absent.is_empty() {
            self.effects.push(Effect::Lack { peer: from, digests: absent });
        }
    }

    /// A link to this peer is open: it is sent the own batches it may have missed, and asked for
    /// what nobody could be asked for.
    pub fn peer_up(&mut self, now: u64, peer: Address) {
        assert!(peer != self.own, "there is no link to oneself");
        if !self.validators.contains_key(&peer) {
            return;
        }
        self.up.insert(peer);
        for (_, digest) in self.lanes.get(&self.own).into_iter().flatten() {
            if let Some(entry) = self.entries.get(digest) {
                self.effects.push(Effect::Send { peer, batch: entry.batch.clone() });
            }
        }
        self.tell_all_held(Some(peer));
        self.ask(now);
    }

    /// The link to this peer has ended: what it was asked for is asked of another.
    pub fn peer_down(&mut self, now: u64, peer: Address) {
        self.up.remove(&peer);
        self.answering.remove(&peer);
        self.questions().for_each(|question| question.peer_down(now, peer));
        self.ask(now);
    }

    /// Blocks up to this height are decided, this one orders these batches. They are kept for peers
    /// that lag by a few heights; what only undecided blocks needed and what no later block may
    /// order is forgotten.
    ///
    /// # Panics
    /// If `height` is not the next one: blocks are decided in order.
    pub fn ordered(&mut self, height: u64, digests: &[BatchDigest]) {
        self.window.insert(height, digests);
        for digest in digests {
            self.leave_lane(*digest);
            self.holders.forget(digest);
            if let Some(entry) = self.entries.get_mut(digest) {
                entry.ordered = Some(height);
                self.fetched.remove(digest);
            }
        }
        self.kept.insert(height, digests.to_vec());
        let keep_from = height.saturating_sub(self.config.heights_kept);
        let kept = self.kept.split_off(&keep_from);
        for digest in core::mem::replace(&mut self.kept, kept).into_values().flatten() {
            self.remove(digest);
        }
        self.forget_needs(height);
        while let Some((_, digest)) = self.expiry.first().filter(|(last, _)| *last <= height) {
            let digest = *digest;
            self.remove(digest);
        }
        self.settle_fetched();
        if self.lanes.is_empty() {
            self.nothing_to_tell();
        }
    }

    /// What was fetched for blocks that were not decided becomes its origin's like what it pushed,
    /// as far as it may push that much, or leaves.
    fn settle_fetched(&mut self) {
        let fetched = self.fetched.iter().filter(|digest| !self.is_needed(digest));
        for digest in fetched.copied().collect::<Vec<BatchDigest>>() {
            let Some(entry) = self.entries.get_mut(&digest) else { continue };
            let waiting = self.pushed.entry(entry.batch.header().origin).or_default();
            let bytes = waiting.saturating_add(size_of_batch(&entry.batch));
            if entry.ordered.is_none() && bytes <= self.config.origin_bytes_max {
                *waiting = bytes;
                entry.is_fetched = false;
                self.fetched.remove(&digest);
            } else {
                self.remove(digest);
            }
        }
    }

    /// The batch, if it is here and valid.
    #[must_use]
    pub fn get(&self, digest: &BatchDigest) -> Option<&Batch> {
        let entry = self.entries.get(digest)?;
        (entry.stage >= Stage::Storing).then_some(&entry.batch)
    }

    fn insert(&mut self, batch: Batch, sender: Address, stage: Stage, is_fetched: bool) {
        let (digest, header) = (batch.digest(), *batch.header());
        // A block that is not decided may want what another one ordered: it is given what it wants,
        // but nobody proposes that again.
        let ordered = self.window.height_of(&digest);
        if is_fetched {
            self.fetched.insert(digest);
        } else {
            *self.pushed.entry(header.origin).or_default() += size_of_batch(&batch);
        }
        if ordered.is_none() {
            self.holders.begin(digest);
            self.lanes.entry(header.origin).or_default().insert((header.sequence.get(), digest));
            self.expiry.insert((header.last_height.get(), digest));
        }
        let entry = Entry { batch, sender, stage, ordered, is_fetched };
        let twice = self.entries.insert(digest, entry);
        assert!(twice.is_none(), "a batch is taken once");
    }

    fn remove(&mut self, digest: BatchDigest) {
        self.leave_lane(digest);
        self.holders.forget(&digest);
        self.fetched.remove(&digest);
        self.entries.remove(&digest);
    }

    /// No block may be proposed with this batch any more.
    fn leave_lane(&mut self, digest: BatchDigest) {
        let Some(entry) = self.entries.get(&digest).filter(|one| one.ordered.is_none()) else {
            return;
        };
        let header = *entry.batch.header();
        if let Some(lane) = self.lanes.get_mut(&header.origin) {
            let was_there = lane.remove(&(header.sequence.get(), digest));
            assert!(was_there, "a batch that no block ordered is in its lane");
            if lane.is_empty() {
                self.lanes.remove(&header.origin);
            }
        }
        self.expiry.remove(&(header.last_height.get(), digest));
        if !entry.is_fetched
            && let Some(bytes) = self.pushed.get_mut(&header.origin)
        {
            let size = size_of_batch(&entry.batch);
            assert!(*bytes >= size, "what leaves was counted");
            *bytes -= size;
        }
    }

    fn blame(&mut self, peer: Address, blame: Blame) {
        if peer != self.own {
            self.effects.push(Effect::Blame(peer, blame));
        }
    }
}

fn size_of_batch(batch: &Batch) -> u64 {
    u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX)
}

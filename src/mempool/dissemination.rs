//! Dissemination: which batches are here, who is told of them, and who is asked for those that a
//! block orders and that are missing.
//!
//! ```text
//! own:      sealed --Store, Send to all--> durable -----------------+--> may be proposed
//! a peer's: received --Judge--> judged --Store--> durable ----------+
//! a block:  need --Ask proposer, origin, the others in turn--> received ...
//!             \--> Available (all verified: may be prevoted)
//!             \--> Durable   (all on disk: may be precommitted)
//!             \--> Invalid   (one is not valid: never)
//! ```
//! A batch is named by its digest and taken once, whoever sends it; its transactions are judged
//! once. Only the origin of a batch pushes it; anybody else is asked. What is pushed is bounded for
//! each origin, so that none of them fills the memory of the others; what a block orders is always
//! taken. Owner: the mempool tile. Pure: time is an argument.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hufu_types::codec::index;
use hufu_types::limits::{BATCH_SIZE_MAX, BLOCK_BATCHES_COUNT_MAX};
use hufu_types::{Address, Batch, BatchDigest, BlockDigest};

use crate::batches::ProposalLimits;

/// Digests of batches found invalid that are remembered, count; the oldest are forgotten first.
const INVALID_COUNT_MAX: usize = 1_024;

/// Blocks whose batches are waited for, count: two a round for the rounds and heights that
/// consensus takes in.
pub const NEEDS_COUNT_MAX: usize = 1_024;

/// What a node allows its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisseminationConfig {
    /// Bytes of batches that one origin may push and that no block has ordered yet.
    pub origin_bytes_max: u64,
    /// Nanoseconds after which the next peer is asked for a missing batch.
    pub ask_nanos: u64,
    /// Heights for which an ordered batch is kept for peers that ask for it.
    pub heights_kept: u64,
}

impl Default for DisseminationConfig {
    /// 32 MiB an origin, 200 ms, 8 heights.
    fn default() -> Self {
        Self { origin_bytes_max: 32 << 20, ask_nanos: 200_000_000, heights_kept: 8 }
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
    /// All batches of the block are here and valid.
    Available(BlockDigest),
    /// All batches of the block are durable here.
    Durable(BlockDigest),
    /// The block orders an invalid batch.
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
}

/// A missing batch.
#[derive(Clone, Debug)]
struct Want {
    /// Whom to ask, the likeliest first; asked in turn, again and again.
    holders: Vec<Address>,
    next: usize,
    asked: Option<Address>,
    ask_at: u64,
}

/// A block whose batches are waited for.
#[derive(Clone, Debug)]
struct Need {
    height: u64,
    batches: Vec<BatchDigest>,
    is_available: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Dissemination {
    config: DisseminationConfig,
    own: Address,
    validators: BTreeSet<Address>,
    up: BTreeSet<Address>,
    entries: BTreeMap<BatchDigest, Entry>,
    /// Bytes of each origin's batches that no block has ordered.
    pushed: BTreeMap<Address, u64>,
    /// Batches that no block has ordered, by origin and sequence.
    lanes: BTreeMap<Address, BTreeSet<(u64, BatchDigest)>>,
    wants: BTreeMap<BatchDigest, Want>,
    needs: BTreeMap<BlockDigest, Need>,
    invalid: VecDeque<BatchDigest>,
    /// Ordered batches that are still kept, by height.
    ordered: BTreeMap<u64, Vec<BatchDigest>>,
    effects: Vec<Effect>,
}

impl Dissemination {
    /// Nothing held, nobody up.
    #[must_use]
    pub fn new(
        config: DisseminationConfig,
        own: Address,
        validators: impl IntoIterator<Item = Address>,
    ) -> Self {
        assert!(config.origin_bytes_max >= u64::from(BATCH_SIZE_MAX), "room for one batch");
        assert!(config.ask_nanos > 0, "asking takes time");
        Self {
            config,
            own,
            validators: validators.into_iter().collect(),
            up: BTreeSet::new(),
            entries: BTreeMap::new(),
            pushed: BTreeMap::new(),
            lanes: BTreeMap::new(),
            wants: BTreeMap::new(),
            needs: BTreeMap::new(),
            invalid: VecDeque::new(),
            ordered: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// What is to be done since it was last asked.
    pub fn effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// A batch of this validator's own was sealed: it goes to the disk and to everybody at once.
    pub fn sealed(&mut self, batch: Batch) {
        assert_eq!(batch.header().origin, self.own, "a batch sealed here");
        self.effects.push(Effect::Store(batch.clone()));
        for peer in &self.up {
            self.effects.push(Effect::Send { peer: *peer, batch: batch.clone() });
        }
        self.insert(batch, self.own, Stage::Storing);
    }

    /// A batch that is durable here since before the start.
    pub fn restored(&mut self, batch: Batch) {
        let origin = batch.header().origin;
        self.insert(batch, origin, Stage::Held);
    }

    /// A peer sent a batch; parsed, and so named by its content.
    pub fn received(&mut self, from: Address, batch: Batch) {
        let (digest, origin) = (batch.digest(), batch.header().origin);
        if self.entries.contains_key(&digest) {
            return;
        }
        if self.invalid.contains(&digest) {
            return self.blame(from, Blame::Invalid);
        }
        let is_wanted = self.wants.contains_key(&digest);
        if !self.validators.contains(&origin) {
            return self.blame(from, Blame::OriginUnknown);
        }
        if !is_wanted {
            if from != origin {
                return self.blame(from, Blame::Unasked);
            }
            let waiting = self.pushed.get(&origin).copied().unwrap_or(0);
            if waiting + size_of_batch(&batch) > self.config.origin_bytes_max {
                return self.blame(from, Blame::Surplus);
            }
        }
        self.wants.remove(&digest);
        self.effects.push(Effect::Judge(batch.clone()));
        self.insert(batch, from, Stage::Judging);
    }

    /// Every signature of the batch was looked at.
    pub fn judged(&mut self, digest: BatchDigest, is_valid: bool) {
        let Some(entry) = self.entries.get_mut(&digest) else { return };
        assert_eq!(entry.stage, Stage::Judging, "a batch is judged once");
        if is_valid {
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
        assert!(entry.stage >= Stage::Storing, "only a judged batch is written");
        entry.stage = Stage::Held;
        self.check_needs(digest);
    }

    /// A block of this height orders these batches; its proposer has them, if it is honest.
    /// `false` if too many blocks are waited for.
    #[must_use]
    pub fn need(
        &mut self,
        now: u64,
        height: u64,
        block: BlockDigest,
        batches: &[BatchDigest],
        proposer: Address,
    ) -> bool {
        assert!(batches.len() <= index(BLOCK_BATCHES_COUNT_MAX), "a block keeps its limit");
        if self.needs.contains_key(&block) {
            return true;
        }
        if self.needs.len() >= NEEDS_COUNT_MAX {
            return false;
        }
        if batches.iter().any(|digest| self.invalid.contains(digest)) {
            self.effects.push(Effect::Invalid(block));
            return true;
        }
        let need = Need { height, batches: batches.to_vec(), is_available: false };
        self.needs.insert(block, need);
        for digest in batches {
            if !self.entries.contains_key(digest) && !self.wants.contains_key(digest) {
                self.want(now, *digest, proposer);
            }
        }
        self.ask(now);
        self.check_need(block);
        true
    }

    fn want(&mut self, now: u64, digest: BatchDigest, proposer: Address) {
        let others = self.validators.iter().filter(|peer| **peer != proposer);
        let holders = core::iter::once(proposer).chain(others.copied());
        let holders = holders.filter(|peer| *peer != self.own).collect();
        let want = Want { holders, next: 0, asked: None, ask_at: now };
        self.wants.insert(digest, want);
    }

    /// Asks the next holder for everything that is due, many digests in one question.
    fn ask(&mut self, now: u64) {
        let mut questions: BTreeMap<Address, Vec<BatchDigest>> = BTreeMap::new();
        for (digest, want) in self.wants.iter_mut().filter(|(_, want)| want.ask_at <= now) {
            let count = want.holders.len();
            let turns = (0..count).map(|turn| (want.next + turn) % count);
            let found = turns.into_iter().find(|place| self.up.contains(&want.holders[*place]));
            // With nobody up the question waits for the first peer that comes.
            let Some(place) = found else { continue };
            want.next = (place + 1) % count;
            want.asked = Some(want.holders[place]);
            want.ask_at = now.saturating_add(self.config.ask_nanos);
            questions.entry(want.holders[place]).or_default().push(*digest);
        }
        let asks = questions.into_iter().map(|(peer, digests)| Effect::Ask { peer, digests });
        self.effects.extend(asks);
    }

    /// A peer does not have what it was asked for: the next one is asked at once.
    pub fn absent(&mut self, now: u64, from: Address, digests: &[BatchDigest]) {
        for digest in digests {
            if let Some(want) = self.wants.get_mut(digest).filter(|one| one.asked == Some(from)) {
                want.asked = None;
                // Once all have been asked, asking again at once would only go round in circles.
                if want.next != 0 {
                    want.ask_at = now;
                }
            }
        }
        self.ask(now);
    }

    /// A peer asks for batches.
    pub fn wanted(&mut self, from: Address, digests: &[BatchDigest]) {
        let mut absent = Vec::new();
        for digest in digests {
            match self.entries.get(digest) {
                Some(entry) if entry.stage >= Stage::Storing => {
                    let batch = entry.batch.clone();
                    self.effects.push(Effect::Send { peer: from, batch });
                }
                _ => absent.push(*digest),
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
        self.up.insert(peer);
        for (_, digest) in self.lanes.get(&self.own).into_iter().flatten() {
            if let Some(entry) = self.entries.get(digest) {
                self.effects.push(Effect::Send { peer, batch: entry.batch.clone() });
            }
        }
        self.ask(now);
    }

    /// The link to this peer has ended: what it was asked for is asked of another.
    pub fn peer_down(&mut self, now: u64, peer: Address) {
        self.up.remove(&peer);
        for want in self.wants.values_mut().filter(|want| want.asked == Some(peer)) {
            want.asked = None;
            want.ask_at = now;
        }
        self.ask(now);
    }

    /// Asks again for what did not come.
    pub fn tick(&mut self, now: u64) {
        self.ask(now);
    }

    /// When [`Dissemination::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        if self.up.is_empty() {
            return None;
        }
        self.wants.values().map(|want| want.ask_at).min()
    }

    /// Blocks up to this height are decided, this one orders these batches. They are kept for peers
    /// that lag by a few heights; what only undecided blocks needed is forgotten.
    pub fn ordered(&mut self, height: u64, digests: &[BatchDigest]) {
        for digest in digests {
            let Some(entry) = self.entries.get_mut(digest) else { continue };
            if entry.ordered.is_none() {
                entry.ordered = Some(height);
                let (origin, sequence) =
                    (entry.batch.header().origin, entry.batch.header().sequence);
                let size = size_of_batch(&entry.batch);
                self.leave_lane(origin, sequence.get(), *digest, size);
            }
        }
        self.ordered.insert(height, digests.to_vec());
        let keep_from = height.saturating_sub(self.config.heights_kept);
        let kept = self.ordered.split_off(&keep_from);
        for digest in core::mem::replace(&mut self.ordered, kept).into_values().flatten() {
            self.entries.remove(&digest);
        }
        self.needs.retain(|_, need| need.height > height);
        let needed: BTreeSet<BatchDigest> =
            self.needs.values().flat_map(|need| need.batches.iter().copied()).collect();
        self.wants.retain(|digest, _| needed.contains(digest));
    }

    /// Durable batches that no block has ordered: the oldest of every origin in turn, beginning
    /// with the origin that `height` names, so that no origin is always last.
    #[must_use]
    pub fn propose(&self, height: u64, limits: &ProposalLimits) -> Vec<Batch> {
        let origins: Vec<&Address> = self.lanes.keys().collect();
        if origins.is_empty() {
            return Vec::new();
        }
        let count = u64::try_from(origins.len()).unwrap_or(u64::MAX);
        let first = usize::try_from(height % count).unwrap_or(0);
        let mut lanes: Vec<_> = (0..origins.len())
            .filter_map(|turn| self.lanes.get(origins[(first + turn) % origins.len()]))
            .map(|lane| lane.iter().filter_map(|(_, digest)| self.entries.get(digest)).peekable())
            .collect();
        let (mut proposed, mut transactions, mut bytes) = (Vec::new(), 0_u32, 0_u64);
        let batches_max = index(limits.batches_max.min(BLOCK_BATCHES_COUNT_MAX));
        while !lanes.is_empty() {
            // A lane ends at its first batch that is not durable: order within an origin is kept.
            lanes.retain_mut(|lane| {
                let next = lane.peek().filter(|entry| entry.stage == Stage::Held);
                let Some(batch) = next.map(|entry| &entry.batch) else { return false };
                let more = batch.header().transactions_count.get();
                let is_over = transactions.saturating_add(more) > limits.transactions_max
                    || bytes.saturating_add(size_of_batch(batch)) > limits.bytes_max;
                if proposed.len() >= batches_max || (is_over && !proposed.is_empty()) {
                    return false;
                }
                transactions = transactions.saturating_add(more);
                bytes = bytes.saturating_add(size_of_batch(batch));
                proposed.push(batch.clone());
                lane.next();
                true
            });
        }
        proposed
    }

    /// The batch, if it is here and valid.
    #[must_use]
    pub fn get(&self, digest: &BatchDigest) -> Option<&Batch> {
        let entry = self.entries.get(digest)?;
        (entry.stage >= Stage::Storing).then_some(&entry.batch)
    }

    fn insert(&mut self, batch: Batch, sender: Address, stage: Stage) {
        let (digest, header) = (batch.digest(), *batch.header());
        *self.pushed.entry(header.origin).or_default() += size_of_batch(&batch);
        self.lanes.entry(header.origin).or_default().insert((header.sequence.get(), digest));
        let entry = Entry { batch, sender, stage, ordered: None };
        let twice = self.entries.insert(digest, entry);
        assert!(twice.is_none(), "a batch is taken once");
    }

    fn remove(&mut self, digest: BatchDigest) {
        let Some(entry) = self.entries.remove(&digest) else { return };
        if entry.ordered.is_none() {
            let header = entry.batch.header();
            let size = size_of_batch(&entry.batch);
            self.leave_lane(header.origin, header.sequence.get(), digest, size);
        }
    }

    fn leave_lane(&mut self, origin: Address, sequence: u64, digest: BatchDigest, size: u64) {
        if let Some(lane) = self.lanes.get_mut(&origin) {
            let was_there = lane.remove(&(sequence, digest));
            assert!(was_there, "a batch that no block ordered is in its lane");
            if lane.is_empty() {
                self.lanes.remove(&origin);
            }
        }
        if let Some(bytes) = self.pushed.get_mut(&origin) {
            assert!(*bytes >= size, "what leaves was counted");
            *bytes -= size;
        }
    }

    fn check_needs(&mut self, digest: BatchDigest) {
        let blocks: Vec<BlockDigest> = self
            .needs
            .iter()
            .filter(|(_, need)| need.batches.contains(&digest))
            .map(|(block, _)| *block)
            .collect();
        for block in blocks {
            self.check_need(block);
        }
    }

    /// Says how far a block is, each thing once; a block whose batches are durable is no longer
    /// waited for.
    fn check_need(&mut self, block: BlockDigest) {
        let Some(need) = self.needs.get_mut(&block) else { return };
        let stages =
            need.batches.iter().map(|digest| self.entries.get(digest).map(|one| one.stage));
        // Without batches nothing is missing.
        let least = stages.min().unwrap_or(Some(Stage::Held));
        if least >= Some(Stage::Storing) && !need.is_available {
            need.is_available = true;
            self.effects.push(Effect::Available(block));
        }
        if least == Some(Stage::Held) {
            self.needs.remove(&block);
            self.effects.push(Effect::Durable(block));
        }
    }

    fn refuse_needs(&mut self, digest: BatchDigest) {
        let is_bad = |need: &Need| need.batches.contains(&digest);
        let blocks = self.needs.iter().filter(|(_, need)| is_bad(need)).map(|(block, _)| *block);
        self.effects.extend(blocks.map(Effect::Invalid).collect::<Vec<_>>());
        self.needs.retain(|_, need| !is_bad(need));
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

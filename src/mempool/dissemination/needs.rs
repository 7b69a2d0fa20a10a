//! What blocks need: how far each is, and the questions for what is missing.

use std::collections::{BTreeMap, BTreeSet};

use hufu_types::codec::index;
use hufu_types::limits::{BATCH_SIZE_MAX, BLOCK_BATCHES_COUNT_MAX, BLOCK_SIZE_MAX};
use hufu_types::{Address, Batch, BatchDigest, BlockDigest};

use super::{Dissemination, Effect, NEEDS_COUNT_MAX, Question, Stage, size_of_batch};

/// How far a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    Available,
    Durable,
    Invalid,
}

/// A block whose batches are waited for, or were, until its height is over.
#[derive(Clone, Debug)]
pub(super) struct Need {
    height: u64,
    batches: Vec<BatchDigest>,
    /// Who is charged with what is fetched; nobody for a block that is decided.
    proposer: Option<Address>,
    /// Bytes that he is charged with: all that may come.
    reserved: u64,
    /// Bytes that came.
    fetched: u64,
    progress: Progress,
}

/// The missing batches of a decided block, asked for together.
#[derive(Clone, Debug)]
pub(super) struct Bodies {
    missing: BTreeSet<BatchDigest>,
    question: Question,
}

impl Dissemination {
    /// A block of this height orders these batches; its proposer has them, if it is honest. Asked
    /// again, it says again how far the block is.
    ///
    /// `false` if it is not waited for: too many blocks are, or the batches that its proposer would
    /// have us fetch are too much.
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
            self.tell(block);
            return true;
        }
        if batches.iter().any(|digest| self.invalid.contains(digest)) {
            self.effects.push(Effect::Invalid(block));
            return true;
        }
        let missing: Vec<BatchDigest> =
            batches.iter().filter(|digest| !self.entries.contains_key(digest)).copied().collect();
        let of_proposer = || self.needs.values().filter(|need| need.proposer == Some(proposer));
        // What he is charged with already, for as long as this block is of interest, comes once.
        let is_charged = |digest: &BatchDigest| {
            let mut needs = of_proposer().filter(|need| need.height >= height);
            needs.any(|need| need.batches.contains(digest))
        };
        let count = missing.iter().filter(|digest| !is_charged(digest)).count();
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let reserved = count.saturating_mul(BATCH_SIZE_MAX.into()).min(BLOCK_SIZE_MAX.into());
        let charged: u64 = of_proposer().map(|need| need.reserved).sum();
        // Nobody takes the room of another one.
        let share = NEEDS_COUNT_MAX / self.validators.len().max(1);
        if of_proposer().count() >= share || charged + reserved > self.config.proposer_bytes_max {
            return false;
        }
        let need = Need {
            height,
            batches: batches.to_vec(),
            proposer: Some(proposer),
            reserved,
            fetched: 0,
            progress: Progress::Waiting,
        };
        self.needs.insert(block, need);
        for digest in missing {
            if !self.is_wanted(&digest) {
                let question = Question::new(now, proposer, self.own, &self.validators);
                self.wants.insert(digest, question);
            }
        }
        self.ask(now);
        self.check_need(block);
        true
    }

    /// A certificate has decided this block of this height, and `holder` has its batches, as has
    /// everybody that is further. What is missing is asked for with one question, of one peer after
    /// the other, and nothing is too much.
    pub fn need_decided(
        &mut self,
        now: u64,
        height: u64,
        block: BlockDigest,
        batches: &[BatchDigest],
        holder: Address,
    ) {
        assert!(batches.len() <= index(BLOCK_BATCHES_COUNT_MAX), "a block keeps its limit");
        let known = self.needs.get(&block).map_or(Progress::Waiting, |need| need.progress);
        let is_bad = batches.iter().any(|digest| self.invalid.contains(digest));
        let progress = match known {
            // Decided blocks have the right size, so only a batch can have been invalid.
            Progress::Invalid if !is_bad => Progress::Waiting,
            _ if is_bad => Progress::Invalid,
            known => known,
        };
        let need = Need {
            height,
            batches: batches.to_vec(),
            proposer: None,
            reserved: 0,
            fetched: 0,
            progress,
        };
        self.needs.insert(block, need);
        if progress != Progress::Waiting {
            return self.tell(block);
        }
        let missing: BTreeSet<BatchDigest> =
            batches.iter().filter(|digest| !self.entries.contains_key(digest)).copied().collect();
        for digest in &missing {
            // The question for the whole height takes the place of those for each batch.
            self.wants.remove(digest);
        }
        if !missing.is_empty() && !self.bodies.contains_key(&height) {
            let question = Question::new(now, holder, self.own, &self.validators);
            self.bodies.insert(height, Bodies { missing, question });
        }
        self.ask(now);
        self.check_need(block);
    }

    /// The batches of a block that is available; `None` if it is not, or its height is over.
    #[must_use]
    pub fn bodies(&self, block: &BlockDigest) -> Option<Vec<Batch>> {
        let need = self.needs.get(block)?;
        need.batches.iter().map(|digest| self.get(digest).cloned()).collect()
    }

    /// A peer does not have what it was asked for: the next one is asked at once.
    pub fn absent(&mut self, now: u64, from: Address, digests: &[BatchDigest]) {
        for digest in digests {
            if let Some(question) = self.wants.get_mut(digest) {
                let _is_last: bool = question.absent(now, from, &self.up);
            }
        }
        self.ask(now);
    }

    /// A peer does not have the batches of a height it was asked for: the next one is asked at
    /// once. Once nobody is that far, the batches are asked for one by one as well: who decided the
    /// height may be gone, and those who precommitted its block have them and wait for this
    /// validator.
    pub fn no_bodies(&mut self, now: u64, from: Address, height: u64) {
        if let Some(bodies) = self.bodies.get_mut(&height)
            && bodies.question.absent(now, from, &self.up)
        {
            for digest in &bodies.missing {
                let ask = || Question::new(now, from, self.own, &self.validators);
                self.wants.entry(*digest).or_insert_with(ask);
            }
        }
        self.ask(now);
    }

    /// Asks again for what did not come.
    pub fn tick(&mut self, now: u64) {
        self.ask(now);
        self.tell_again(now);
    }

    /// When [`Dissemination::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        if self.up.is_empty() {
            return None;
        }
        let bodies = self.bodies.values().map(|bodies| &bodies.question);
        let asks = self.wants.values().chain(bodies).map(Question::ask_at);
        asks.chain(self.tell_deadline()).min()
    }

    pub(super) fn questions(&mut self) -> impl Iterator<Item = &mut Question> {
        let bodies = self.bodies.values_mut().map(|bodies| &mut bodies.question);
        self.wants.values_mut().chain(bodies)
    }

    /// Asks the next holder for everything that is due, many digests in one question.
    pub(super) fn ask(&mut self, now: u64) {
        let Self { config, up, answering, wants, bodies, effects, .. } = self;
        let mut digests: BTreeMap<Address, Vec<BatchDigest>> = BTreeMap::new();
        let mut is_due = false;
        for (digest, question) in wants.iter_mut().filter(|(_, one)| one.is_due(now)) {
            is_due = true;
            if let Some(peer) = question.turn(now, config.ask_nanos, up, answering) {
                digests.entry(peer).or_default().push(*digest);
            }
        }
        for (peer, digests) in digests {
            effects.push(Effect::Ask { peer, digests });
        }
        for (height, bodies) in bodies.iter_mut().filter(|(_, one)| one.question.is_due(now)) {
            is_due = true;
            if let Some(peer) = bodies.question.turn(now, config.ask_nanos, up, answering) {
                effects.push(Effect::AskBodies { peer, height: *height });
            }
        }
        if is_due {
            // Whoever goes on answering shows it again until the next time.
            answering.clear();
        }
    }

    pub(super) fn is_wanted(&self, digest: &BatchDigest) -> bool {
        self.wants.contains_key(digest) || self.is_wanted_of_decided(digest)
    }

    fn is_wanted_of_decided(&self, digest: &BatchDigest) -> bool {
        self.bodies.values().any(|bodies| bodies.missing.contains(digest))
    }

    pub(super) fn is_needed(&self, digest: &BatchDigest) -> bool {
        self.needs.values().any(|need| need.batches.contains(digest))
    }

    /// A wanted batch has come: nobody is asked for it any more. `false` if the only blocks that
    /// wanted it are too large with it.
    pub(super) fn found(&mut self, batch: &Batch) -> bool {
        let (digest, size) = (batch.digest(), size_of_batch(batch));
        self.wants.remove(&digest);
        self.bodies.retain(|_, bodies| {
            bodies.missing.remove(&digest);
            !bodies.missing.is_empty()
        });
        let mut is_needed = false;
        let mut too_large = Vec::new();
        for (block, need) in &mut self.needs {
            if need.progress != Progress::Waiting || !need.batches.contains(&digest) {
                continue;
            }
            need.fetched = need.fetched.saturating_add(size);
            if need.proposer.is_some() && need.fetched > BLOCK_SIZE_MAX.into() {
                too_large.push(*block);
            } else {
                is_needed = true;
            }
        }
        for block in too_large {
            self.refuse_need(block);
        }
        is_needed
    }

    pub(super) fn check_needs(&mut self, digest: BatchDigest) {
        let needs = self.needs.iter().filter(|(_, need)| need.batches.contains(&digest));
        let blocks: Vec<BlockDigest> = needs.map(|(block, _)| *block).collect();
        for block in blocks {
            self.check_need(block);
        }
    }

    /// Says how far a block is, each thing once.
    fn check_need(&mut self, block: BlockDigest) {
        let Some(need) = self.needs.get_mut(&block) else { return };
        let stages =
            need.batches.iter().map(|digest| self.entries.get(digest).map(|one| one.stage));
        // Without batches nothing is missing.
        let least = stages.min().unwrap_or(Some(Stage::Held));
        if least >= Some(Stage::Storing) && need.progress == Progress::Waiting {
            need.progress = Progress::Available;
            self.effects.push(Effect::Available(block));
        }
        if least == Some(Stage::Held) && need.progress == Progress::Available {
            need.progress = Progress::Durable;
            self.effects.push(Effect::Durable(block));
        }
    }

    /// Says again how far a block is. One of a height ahead may have lost batches that no block of
    /// its height may order, and is not available any more.
    fn tell(&mut self, block: BlockDigest) {
        let is_whole = self.bodies(&block).is_some();
        if let Some(need) = self.needs.get_mut(&block)
            && need.progress != Progress::Invalid
            && !is_whole
        {
            need.progress = Progress::Waiting;
        }
        match self.needs.get(&block).map(|need| need.progress) {
            None | Some(Progress::Waiting) => {}
            Some(Progress::Available) => self.effects.push(Effect::Available(block)),
            Some(Progress::Durable) => {
                self.effects.push(Effect::Available(block));
                self.effects.push(Effect::Durable(block));
            }
            Some(Progress::Invalid) => self.effects.push(Effect::Invalid(block)),
        }
    }

    pub(super) fn refuse_needs(&mut self, digest: BatchDigest) {
        let needs = self.needs.iter().filter(|(_, need)| need.batches.contains(&digest));
        let blocks: Vec<BlockDigest> = needs.map(|(block, _)| *block).collect();
        for block in blocks {
            self.refuse_need(block);
        }
    }

    /// The block will never do. It stays charged to its proposer until its height is over, for what
    /// came is kept until then.
    fn refuse_need(&mut self, block: BlockDigest) {
        let Some(need) = self.needs.get_mut(&block) else { return };
        if need.progress == Progress::Invalid {
            return;
        }
        need.progress = Progress::Invalid;
        let height = need.height;
        if need.proposer.is_none() {
            self.bodies.remove(&height);
        }
        self.effects.push(Effect::Invalid(block));
        self.retain_wants();
    }

    /// Blocks up to this height are decided.
    pub(super) fn forget_needs(&mut self, height: u64) {
        self.needs.retain(|_, need| need.height > height);
        self.bodies.retain(|one, _| *one > height);
        self.retain_wants();
    }

    fn retain_wants(&mut self) {
        let waiting = self.needs.values().filter(|need| need.progress == Progress::Waiting);
        let needed: BTreeSet<BatchDigest> =
            waiting.flat_map(|need| need.batches.iter().copied()).collect();
        self.wants.retain(|digest, _| needed.contains(digest));
    }
}

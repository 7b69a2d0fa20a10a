//! Proposed blocks until they are judged, and the bodies of blocks until one of them is decided.
//!
//! ```text
//! block from a peer -> pending --header and what it orders, once its batches are here--> verdict
//! bodies: Waiting -> Available (may be prevoted) -> Durable (may be precommitted, may be written)
//!               \--> Invalid
//! ```

use std::collections::BTreeMap;

use hufu_types::check_batches;
use hufu_types::{Address, Batch, Block, BlockDigest};

use super::chain::Chain;
use super::seam::{Blame, Effect, Note};
use crate::engine::ROUND_BLOCKS_COUNT_MAX;
use crate::header::Standing;
use crate::vote_log::BlockVerdict;

/// Blocks of one peer that wait for judgement, count: a few rounds of the heights that are taken in
/// ahead.
const PEER_BLOCKS_COUNT_MAX: usize = 32;

/// How far the bodies of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Available,
    Durable,
    Invalid,
}

#[derive(Clone, Debug)]
struct Bodies {
    height: u64,
    stage: Stage,
    batches: Vec<Batch>,
}

/// A verdict on a block of the height at work.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) from: Address,
    pub(super) round: u32,
    pub(super) verdict: BlockVerdict,
    /// Why it is invalid.
    pub(super) note: Option<Note>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    /// By height, round, sender and digest.
    pending: BTreeMap<(u64, u32, Address, BlockDigest), Block>,
    bodies: BTreeMap<BlockDigest, Bodies>,
    /// What was taken in, by height, round and sender: also what is judged already.
    taken: BTreeMap<(u64, u32, Address), Vec<BlockDigest>>,
}

impl Proposals {
    /// Takes in a block of a height not decided yet; gives the question for its batches as long as
    /// they are not here, because the mempool may have had no room for it.
    pub(super) fn insert(
        &mut self,
        from: Address,
        round: u32,
        block: Block,
    ) -> Result<Option<Effect>, Blame> {
        let (height, digest) = (block.height(), block.digest());
        let batches = block.batches().to_vec();
        let need = Effect::Need { height, block: digest, batches, proposer: from };
        let taken = self.taken.get(&(height, round, from)).map_or(&[][..], Vec::as_slice);
        if taken.contains(&digest) {
            return Ok(self.is_waiting(&digest).then_some(need));
        }
        let of_peer = self.pending.keys().filter(|(_, _, sender, _)| *sender == from).count();
        if of_peer >= PEER_BLOCKS_COUNT_MAX || taken.len() >= ROUND_BLOCKS_COUNT_MAX {
            return Err(Blame::BlockUnasked);
        }
        self.need(height, &block);
        self.taken.entry((height, round, from)).or_default().push(digest);
        self.pending.insert((height, round, from, digest), block);
        Ok(self.is_waiting(&digest).then_some(need))
    }

    fn is_waiting(&self, block: &BlockDigest) -> bool {
        self.bodies.get(block).is_some_and(|bodies| bodies.stage == Stage::Waiting)
    }

    /// The bodies of this block are waited for from here on; whether they must be asked for.
    pub(super) fn need(&mut self, height: u64, block: &Block) -> bool {
        let digest = block.digest();
        if self.bodies.contains_key(&digest) {
            return false;
        }
        // Nothing to fetch, so nothing to wait for.
        let is_empty = block.batches().is_empty();
        let stage = if is_empty { Stage::Durable } else { Stage::Waiting };
        self.bodies.insert(digest, Bodies { height, stage, batches: Vec::new() });
        !is_empty
    }

    /// Our own block, of batches that are durable here.
    pub(super) fn own(&mut self, block: &Block, batches: Vec<Batch>) {
        assert_eq!(block.batches().len(), batches.len(), "each batch has its body");
        let bodies = Bodies { height: block.height(), stage: Stage::Durable, batches };
        self.bodies.insert(block.digest(), bodies);
    }

    pub(super) fn available(&mut self, block: &BlockDigest, batches: Vec<Batch>) {
        if let Some(bodies) = self.bodies.get_mut(block)
            && bodies.stage == Stage::Waiting
        {
            bodies.stage = Stage::Available;
            bodies.batches = batches;
        }
    }

    /// The bodies are on disk; the height of the block, if it is still of interest.
    pub(super) fn durable(&mut self, block: &BlockDigest, batches: Vec<Batch>) -> Option<u64> {
        let bodies = self.bodies.get_mut(block)?;
        bodies.stage = Stage::Durable;
        bodies.batches = batches;
        Some(bodies.height)
    }

    pub(super) fn invalid(&mut self, block: &BlockDigest) {
        if let Some(bodies) = self.bodies.get_mut(block) {
            assert_ne!(bodies.stage, Stage::Durable, "what is durable was found valid");
            bodies.stage = Stage::Invalid;
        }
    }

    pub(super) fn is_durable(&self, block: &BlockDigest) -> bool {
        self.bodies.get(block).is_some_and(|bodies| bodies.stage == Stage::Durable)
    }

    /// Whether the batches of some block of this height are still on their way.
    pub(super) fn awaits_batches(&self, height: u64) -> bool {
        let mut bodies = self.bodies.values();
        bodies.any(|bodies| bodies.height == height && bodies.stage == Stage::Waiting)
    }

    /// Verdicts on the blocks of the next height that can be judged now. A header is judged without
    /// its batches if it is bad.
    pub(super) fn judge(&mut self, chain: &Chain, wall_millis: u64) -> Vec<Judged> {
        let height = chain.next_height();
        let Some(rules) = chain.rules(wall_millis) else { return Vec::new() };
        let first = (height, 0, Address::ZERO, BlockDigest::ZERO);
        let end = (height + 1, 0, Address::ZERO, BlockDigest::ZERO);
        let mut judged = Vec::new();
        for (&(_, round, from, digest), block) in self.pending.range(first..end) {
            let fault = rules.check(block.header(), Standing::Proposed { round }).err();
            let bodies = self.bodies.get(&digest);
            let is_good = match bodies {
                _ if fault.is_some() => Some(false),
                Some(Bodies { stage: Stage::Invalid, .. }) => Some(false),
                Some(Bodies { stage: Stage::Available | Stage::Durable, batches, .. }) => {
                    Some(check_batches(block, batches, chain.ordered()).is_ok())
                }
                Some(Bodies { stage: Stage::Waiting, .. }) | None => None,
            };
            let Some(is_good) = is_good else { continue };
            let verdict = if is_good {
                BlockVerdict::Valid(block.clone())
            } else {
                BlockVerdict::Invalid(digest)
            };
            let note = Note::Judged { height, proposer: from, fault };
            judged.push(Judged { from, round, verdict, note: (!is_good).then_some(note) });
        }
        for Judged { from, round, verdict, .. } in &judged {
            self.pending.remove(&(height, *round, *from, verdict.digest()));
        }
        judged
    }

    /// The durable bodies of a decided block. One without batches has them always, also where it
    /// came out of the vote log and nobody asked for them.
    pub(super) fn take(&mut self, block: &Block) -> Option<Vec<Batch>> {
        let bodies = self.bodies.remove(&block.digest());
        if block.batches().is_empty() {
            return Some(Vec::new());
        }
        let bodies = bodies?;
        (bodies.stage == Stage::Durable).then_some(bodies.batches)
    }

    /// This height is decided: what was proposed for it is of no interest any more.
    pub(super) fn advanced(&mut self, height: u64) {
        let next = (height + 1, 0, Address::ZERO, BlockDigest::ZERO);
        self.pending = self.pending.split_off(&next);
        self.taken = self.taken.split_off(&(height + 1, 0, Address::ZERO));
        self.bodies.retain(|_, bodies| bodies.height > height);
    }
}

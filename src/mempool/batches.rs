//! Own batches between sealing and decision: sealed -> durable -> proposed -> decided, oldest
//! first.

use std::collections::{BTreeMap, HashMap};

use hufu_types::limits::BLOCK_BATCHES_COUNT_MAX;
use hufu_types::{Batch, BatchDigest};

use crate::hashing::SeededState;

/// How much one block may order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposalLimits {
    /// Batches, at most [`BLOCK_BATCHES_COUNT_MAX`].
    pub batches_max: u32,
    /// Transactions in all its batches. A first batch with more is proposed alone.
    pub transactions_max: u32,
    /// Bytes of all its batches. A first batch with more is proposed alone.
    pub bytes_max: u64,
}

/// The content of a proposal: durable batches, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposed {
    /// The batches in order; empty when none is durable.
    pub batches: Vec<BatchDigest>,
    /// Transactions in all of them.
    pub transactions_count: u32,
    /// Bytes of all of them.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its record is not known to be on disk.
    Sealed,
    /// May be proposed.
    Durable,
    /// Stands in a proposal that is not decided yet.
    Proposed,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    digest: BatchDigest,
    transactions_count: u32,
    bytes: u64,
    stage: Stage,
}

/// Own batches that are not decided, by sequence.
pub(crate) struct Batches {
    waiting: BTreeMap<u64, Waiting>,
    sequences: HashMap<BatchDigest, u64, SeededState>,
}

/// What left with a decided batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) transactions_count: u32,
    pub(crate) bytes: u64,
}

impl Batches {
    pub(crate) fn new(seed: u64) -> Self {
        let sequences = HashMap::with_hasher(SeededState::new(seed));
        Self { waiting: BTreeMap::new(), sequences }
    }

    pub(crate) fn count(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn add(&mut self, batch: &Batch, is_durable: bool) {
        let (header, digest) = (batch.header(), batch.digest());
        let stage = if is_durable { Stage::Durable } else { Stage::Sealed };
        let waiting = Waiting {
            digest,
            transactions_count: header.transactions_count.get(),
            bytes: header.transactions_size.get().into(),
            stage,
        };
        let replaced = self.waiting.insert(header.sequence.get(), waiting);
        assert!(replaced.is_none(), "a sequence number is used once");
        self.sequences.insert(digest, header.sequence.get());
        assert_eq!(self.sequences.len(), self.waiting.len(), "each waiting batch has one digest");
    }

    pub(crate) fn holds(&self, digest: &BatchDigest) -> bool {
        self.sequences.contains_key(digest)
    }

    /// The batch may be proposed from here on; `false` if it is not an own batch waiting for that.
    pub(crate) fn durable(&mut self, digest: &BatchDigest) -> bool {
        self.change(digest, Stage::Sealed, Stage::Durable)
    }

    pub(crate) fn requeue(&mut self, digest: &BatchDigest) -> bool {
        self.change(digest, Stage::Proposed, Stage::Durable)
    }

    fn change(&mut self, digest: &BatchDigest, from: Stage, to: Stage) -> bool {
        let Some(sequence) = self.sequences.get(digest) else { return false };
        let waiting = self.waiting.get_mut(sequence);
        assert!(waiting.is_some(), "each digest has its waiting batch");
        let Some(waiting) = waiting.filter(|waiting| waiting.stage == from) else { return false };
        waiting.stage = to;
        true
    }

    pub(crate) fn has_durable(&self) -> bool {
        self.waiting.values().any(|waiting| waiting.stage == Stage::Durable)
    }

    /// Takes durable batches, oldest first, until one does not fit: order is kept, so nobody's
    /// batch waits for ever.
    pub(crate) fn propose(&mut self, limits: &ProposalLimits) -> Proposed {
        let batches_max = limits.batches_max.min(BLOCK_BATCHES_COUNT_MAX);
        assert!(batches_max > 0, "a block has room for a batch");
        let batches_max = usize::try_from(batches_max).unwrap_or(usize::MAX);
        let mut proposed = Proposed::default();
        let durable = self.waiting.values_mut().filter(|waiting| waiting.stage == Stage::Durable);
        for waiting in durable {
            let transactions =
                proposed.transactions_count.saturating_add(waiting.transactions_count);
            let bytes = proposed.bytes.saturating_add(waiting.bytes);
            let is_over = transactions > limits.transactions_max || bytes > limits.bytes_max;
            let is_first = proposed.batches.is_empty();
            if proposed.batches.len() == batches_max || (is_over && !is_first) {
                break;
            }
            waiting.stage = Stage::Proposed;
            proposed.batches.push(waiting.digest);
            (proposed.transactions_count, proposed.bytes) = (transactions, bytes);
        }
        assert!(proposed.batches.len() <= batches_max, "a proposal keeps the limit of a block");
        proposed
    }

    /// Takes a decided batch out, in whatever stage it is; `None` if it is not an own one.
    pub(crate) fn decided(&mut self, digest: &BatchDigest) -> Option<Left> {
        let sequence = self.sequences.remove(digest)?;
        let waiting = self.waiting.remove(&sequence);
        assert!(waiting.is_some(), "each digest has its waiting batch");
        waiting.map(|Waiting { transactions_count, bytes, .. }| Left { transactions_count, bytes })
    }

    /// Puts every proposed batch back; returns how many.
    pub(crate) fn requeue_all(&mut self) -> u64 {
        let mut count = 0;
        for waiting in self.waiting.values_mut().filter(|one| one.stage == Stage::Proposed) {
            waiting.stage = Stage::Durable;
            count += 1;
        }
        count
    }
}

//! Own batches between sealing and decision: sealed -> durable -> proposed -> decided, oldest
//! first.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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

#[derive(Clone, Copy, Debug)]
struct Waiting {
    digest: BatchDigest,
    transactions_count: u32,
    bytes: u64,
}

/// Own batches that are not decided, by sequence. One that is in neither set is not known to be on
/// disk.
pub(crate) struct Batches {
    waiting: BTreeMap<u64, Waiting>,
    sequences: HashMap<BatchDigest, u64, SeededState>,
    /// Those that may be proposed, so that nobody looks through those that may not.
    durable: BTreeSet<u64>,
    /// Those that stand in a proposal that is not decided yet.
    proposed: BTreeSet<u64>,
}

/// What left with a decided batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) transactions_count: u32,
    pub(crate) bytes: u64,
}

impl Batches {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            waiting: BTreeMap::new(),
            sequences: HashMap::with_hasher(SeededState::new(seed)),
            durable: BTreeSet::new(),
            proposed: BTreeSet::new(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn add(&mut self, batch: &Batch, is_durable: bool) {
        let (header, digest) = (batch.header(), batch.digest());
        let sequence = header.sequence.get();
        let waiting = Waiting {
            digest,
            transactions_count: header.transactions_count.get(),
            bytes: header.transactions_size.get().into(),
        };
        let replaced = self.waiting.insert(sequence, waiting);
        assert!(replaced.is_none(), "a sequence number is used once");
        self.sequences.insert(digest, sequence);
        assert_eq!(self.sequences.len(), self.waiting.len(), "each waiting batch has one digest");
        if is_durable {
            self.durable.insert(sequence);
        }
    }

    /// Whether this batch waits, or another one with its number.
    pub(crate) fn holds(&self, batch: &Batch) -> bool {
        self.sequences.contains_key(&batch.digest())
            || self.waiting.contains_key(&batch.header().sequence.get())
    }

    /// The batch may be proposed from here on; `false` if it is not an own batch waiting for that.
    pub(crate) fn durable(&mut self, digest: &BatchDigest) -> bool {
        let Some(sequence) = self.sequences.get(digest) else { return false };
        !self.proposed.contains(sequence) && self.durable.insert(*sequence)
    }

    /// The batch may be proposed again; `false` if it is not an own batch in a proposal.
    pub(crate) fn requeue(&mut self, digest: &BatchDigest) -> bool {
        let Some(sequence) = self.sequences.get(digest) else { return false };
        if !self.proposed.remove(sequence) {
            return false;
        }
        let is_new = self.durable.insert(*sequence);
        assert!(is_new, "what is proposed does not wait for a proposal");
        true
    }

    pub(crate) fn has_durable(&self) -> bool {
        !self.durable.is_empty()
    }

    /// Takes durable batches, oldest first, until one does not fit: it is the first of the next
    /// proposal, so nobody's batch waits for ever.
    pub(crate) fn propose(&mut self, limits: &ProposalLimits) -> Proposed {
        let batches_max = limits.batches_max.min(BLOCK_BATCHES_COUNT_MAX);
        assert!(batches_max > 0, "a block has room for a batch");
        let batches_max = usize::try_from(batches_max).unwrap_or(usize::MAX);
        let mut proposed = Proposed::default();
        while let Some(&sequence) = self.durable.first() {
            let waiting = self.waiting.get(&sequence).copied();
            assert!(waiting.is_some(), "what is durable waits");
            let Some(Waiting { digest, transactions_count, bytes }) = waiting else { break };
            let transactions = proposed.transactions_count.saturating_add(transactions_count);
            let bytes = proposed.bytes.saturating_add(bytes);
            let is_over = transactions > limits.transactions_max || bytes > limits.bytes_max;
            let is_first = proposed.batches.is_empty();
            if proposed.batches.len() == batches_max || (is_over && !is_first) {
                break;
            }
            self.durable.remove(&sequence);
            self.proposed.insert(sequence);
            proposed.batches.push(digest);
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
        let was_durable = self.durable.remove(&sequence);
        let was_proposed = self.proposed.remove(&sequence);
        assert!(!(was_durable && was_proposed), "a batch is in one stage");
        waiting.map(|Waiting { transactions_count, bytes, .. }| Left { transactions_count, bytes })
    }

    /// Puts every proposed batch back; returns how many.
    pub(crate) fn requeue_all(&mut self) -> usize {
        let count = self.proposed.len();
        self.durable.append(&mut self.proposed);
        count
    }
}

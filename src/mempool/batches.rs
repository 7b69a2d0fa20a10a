//! Own batches between sealing and decision: what of this node's clients is pending.

use std::collections::{BTreeSet, HashMap};

use hufu_types::{Batch, BatchDigest};

use crate::hashing::SeededState;

/// What one own batch keeps pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) transactions_count: u32,
    pub(crate) bytes: u64,
    sequence: u64,
    last_height: u64,
}

/// Own batches that no block has ordered.
pub(crate) struct Batches {
    waiting: HashMap<BatchDigest, Waiting, SeededState>,
    sequences: BTreeSet<u64>,
    /// By the last height at which a block may order them.
    expiry: BTreeSet<(u64, BatchDigest)>,
}

impl Batches {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            waiting: HashMap::with_hasher(SeededState::new(seed)),
            sequences: BTreeSet::new(),
            expiry: BTreeSet::new(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn add(&mut self, batch: &Batch) {
        let (header, digest) = (batch.header(), batch.digest());
        let waiting = Waiting {
            transactions_count: header.transactions_count.get(),
            bytes: header.transactions_size.get().into(),
            sequence: header.sequence.get(),
            last_height: header.last_height.get(),
        };
        let is_new = self.sequences.insert(waiting.sequence);
        assert!(is_new, "a sequence number is used once");
        self.expiry.insert((waiting.last_height, digest));
        self.waiting.insert(digest, waiting);
        assert_eq!(self.sequences.len(), self.waiting.len(), "each waiting batch has one number");
    }

    pub(crate) fn contains(&self, digest: &BatchDigest) -> bool {
        self.waiting.contains_key(digest)
    }

    /// Whether this batch waits, or another one with its number.
    pub(crate) fn holds(&self, batch: &Batch) -> bool {
        self.waiting.contains_key(&batch.digest())
            || self.sequences.contains(&batch.header().sequence.get())
    }

    /// Takes a batch out; `None` if it is not an own one that waits.
    pub(crate) fn remove(&mut self, digest: &BatchDigest) -> Option<Waiting> {
        let waiting = self.waiting.remove(digest)?;
        self.sequences.remove(&waiting.sequence);
        self.expiry.remove(&(waiting.last_height, *digest));
        assert_eq!(self.expiry.len(), self.waiting.len(), "each waiting batch expires once");
        Some(waiting)
    }

    /// Takes out a batch that no block behind `height` may order; `None` if there is none.
    pub(crate) fn remove_expired(&mut self, height: u64) -> Option<Waiting> {
        let (last_height, digest) = *self.expiry.first()?;
        if last_height <= height { self.remove(&digest) } else { None }
    }
}

//! Peers' batches on their way through the verify tiles: divided into parts, the verdicts joined.

use std::collections::{BTreeMap, VecDeque};

use hufu_runtime::link::Producer;
use hufu_types::{Batch, BatchDigest};

use crate::messages::JudgeChunk;

/// Transactions in one part, count: some milliseconds of work for a verify tile, so that several
/// share a batch and none keeps its clients waiting for long.
pub(super) const CHUNK_TRANSACTIONS_MAX: usize = 256;

/// A batch whose verdict is not complete.
#[derive(Clone, Copy, Debug)]
struct Open {
    parts_left: usize,
    is_valid: bool,
}

/// See the module. Bounded by what dissemination lets peers have under way.
#[derive(Debug, Default)]
pub(super) struct Judging {
    waiting: VecDeque<JudgeChunk>,
    open: BTreeMap<BatchDigest, Open>,
    /// The verify tile that is offered the next part first.
    next: usize,
}

impl Judging {
    /// Divides the batch. One that is under way already gets the verdict that is coming.
    pub(super) fn begin(&mut self, batch: &Batch) {
        let count = batch.entries().len();
        let parts_left = count.div_ceil(CHUNK_TRANSACTIONS_MAX);
        assert!(parts_left > 0, "a batch holds a transaction");
        if self.open.contains_key(&batch.digest()) {
            return;
        }
        self.open.insert(batch.digest(), Open { parts_left, is_valid: true });
        for first in (0..count).step_by(CHUNK_TRANSACTIONS_MAX) {
            let count = CHUNK_TRANSACTIONS_MAX.min(count - first);
            self.waiting.push_back(JudgeChunk { batch: batch.clone(), first, count });
        }
    }

    /// Gives parts to the tiles in turn, as far as these have room; whether it gave any.
    pub(super) fn deliver(&mut self, tiles: &mut [Producer<JudgeChunk>]) -> bool {
        let before = self.waiting.len();
        let mut full_count = 0;
        while full_count < tiles.len()
            && let Some(chunk) = self.waiting.pop_front()
        {
            let place = self.next % tiles.len();
            self.next = place + 1;
            match tiles[place].try_push(chunk) {
                Ok(()) => full_count = 0,
                Err(back) => {
                    self.waiting.push_front(back);
                    full_count += 1;
                }
            }
        }
        self.waiting.len() < before
    }

    /// The verdict on one part; that on the whole batch with its last one.
    pub(super) fn judged(&mut self, digest: BatchDigest, is_valid: bool) -> Option<bool> {
        let open = self.open.get_mut(&digest);
        assert!(open.is_some(), "verify tiles judge what they were given");
        let open = open?;
        open.parts_left -= 1;
        open.is_valid &= is_valid;
        if open.parts_left > 0 {
            return None;
        }
        self.open.remove(&digest).map(|open| open.is_valid)
    }
}

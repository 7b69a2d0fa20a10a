//! What this validator proposes: durable batches that the rules let a block order.

use hufu_types::codec::index;
use hufu_types::limits::{
    BLOCK_BATCHES_COUNT_MAX, BLOCK_KEYS_COUNT_MAX, BLOCK_SIZE_MAX, BLOCK_TRANSACTIONS_COUNT_MAX,
};
use hufu_types::{Batch, check_batch};

use super::{Dissemination, Stage, size_of_batch};

/// How much one block may order. A first batch with more is proposed alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposalLimits {
    /// Batches, at most [`BLOCK_BATCHES_COUNT_MAX`].
    pub batches_max: u32,
    /// Transactions in all its batches.
    pub transactions_max: u32,
    /// State keys that they name.
    pub keys_max: u32,
    /// Bytes of all its batches.
    pub bytes_max: u64,
}

impl Default for ProposalLimits {
    /// The limits of the protocol.
    fn default() -> Self {
        Self {
            batches_max: BLOCK_BATCHES_COUNT_MAX,
            transactions_max: BLOCK_TRANSACTIONS_COUNT_MAX,
            keys_max: BLOCK_KEYS_COUNT_MAX,
            bytes_max: BLOCK_SIZE_MAX.into(),
        }
    }
}

/// What a proposal holds so far.
#[derive(Default)]
struct Filling {
    batches: Vec<Batch>,
    transactions: u32,
    keys: u32,
    bytes: u64,
}

impl Filling {
    /// Adds the batch; `false` if it does not fit.
    fn add(&mut self, batch: &Batch, limits: &ProposalLimits) -> bool {
        let transactions =
            self.transactions.saturating_add(batch.header().transactions_count.get());
        let keys = self.keys.saturating_add(batch.keys_count());
        let bytes = self.bytes.saturating_add(size_of_batch(batch));
        let is_over = transactions > limits.transactions_max
            || keys > limits.keys_max
            || bytes > limits.bytes_max;
        let batches_max = index(limits.batches_max.min(BLOCK_BATCHES_COUNT_MAX));
        if self.batches.len() >= batches_max || (is_over && !self.batches.is_empty()) {
            return false;
        }
        (self.transactions, self.keys, self.bytes) = (transactions, keys, bytes);
        self.batches.push(batch.clone());
        true
    }
}

impl Dissemination {
    /// Batches that a block of this height may order and that a quorum has verified and on disk, so
    /// that nobody waits for them: the oldest of every origin in turn,
    /// beginning with the origin that `height` names, so that no origin is always last.
    #[must_use]
    pub fn propose(&self, height: u64, limits: &ProposalLimits) -> Vec<Batch> {
        let mut lanes: Vec<_> = self.lanes.values().collect();
        if lanes.is_empty() {
            return Vec::new();
        }
        let count = u64::try_from(lanes.len()).unwrap_or(u64::MAX);
        lanes.rotate_left(usize::try_from(height % count).unwrap_or(0));
        let mut lanes: Vec<_> = lanes
            .into_iter()
            .map(|lane| lane.iter().filter_map(|(_, digest)| self.entries.get(digest)))
            .map(|lane| lane.filter(|entry| entry.batch.header().last_height.get() >= height))
            .collect();
        let mut filling = Filling::default();
        while !lanes.is_empty() {
            // A lane ends at its first batch that may not be ordered yet: order within an origin is
            // kept.
            lanes.retain_mut(|lane| {
                let next = lane.find(|entry| !self.is_lost(&entry.batch));
                let Some(entry) = next else { return false };
                let is_allowed = check_batch(entry.batch.digest(), entry.batch.header(), height);
                let is_held = entry.stage == Stage::Held
                    && self.is_held_by_quorum(&entry.batch.digest())
                    || hufu_types::planted!("proposed_before_durable");
                is_held && is_allowed.is_ok() && filling.add(&entry.batch, limits)
            });
        }
        filling.batches
    }

    /// Whether [`Dissemination::propose`] will give more than it gives now as soon as disks or
    /// verify tiles are done, here or at others.
    #[must_use]
    pub fn has_coming(&self) -> bool {
        let mut lanes = self.lanes.values().flatten();
        lanes.any(|(_, digest)| {
            let Some(entry) = self.entries.get(digest) else { return false };
            let is_held = entry.stage == Stage::Held && self.is_held_by_quorum(digest);
            !is_held && !self.is_lost(&entry.batch)
        })
    }
}

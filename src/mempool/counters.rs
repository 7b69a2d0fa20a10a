//! What the mempool has seen and done, by reason; read by the tile at housekeeping.

use hufu_types::RefusalCode;

/// Why a batch was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealReason {
    /// It had no room for the next transaction.
    Full,
    /// Its first transaction had waited long enough.
    Due,
    /// A proposal wanted it.
    Demanded,
}

/// Counters of a mempool, from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MempoolCounters {
    /// Transactions admitted.
    pub transactions_admitted: u64,
    /// Transactions forgotten while they could still be included, because newer ones needed their
    /// room; a duplicate of one is found by execution.
    pub transactions_forgotten: u64,
    /// Batches sealed because they were full.
    pub batches_sealed_full: u64,
    /// Batches sealed because their time had come.
    pub batches_sealed_due: u64,
    /// Batches sealed for a proposal.
    pub batches_sealed_demanded: u64,
    /// Own batches that were decided.
    pub batches_decided: u64,
    /// Own batches that no block ordered while one might.
    pub batches_expired: u64,
    /// Transactions in them.
    pub transactions_expired: u64,
    refusals: [u64; RefusalCode::ALL.len()],
}

impl MempoolCounters {
    pub(crate) fn count_refusal(&mut self, code: RefusalCode) {
        let place = RefusalCode::ALL.iter().position(|other| *other == code);
        if let Some(counter) = place.and_then(|place| self.refusals.get_mut(place)) {
            *counter += 1;
        }
    }

    pub(crate) const fn count_seal(&mut self, reason: SealReason) {
        match reason {
            SealReason::Full => self.batches_sealed_full += 1,
            SealReason::Due => self.batches_sealed_due += 1,
            SealReason::Demanded => self.batches_sealed_demanded += 1,
        }
    }

    /// Verified transactions refused, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (RefusalCode, u64)> + '_ {
        RefusalCode::ALL.iter().copied().zip(self.refusals)
    }
}

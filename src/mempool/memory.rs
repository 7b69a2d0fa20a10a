//! What the mempool remembers of transactions it has taken or seen included, until they can no
//! longer be included.
//!
//! ```text
//! wheel, by last valid height:   next | next+1 | … | next+600
//!                                 |       each slot lists what leaves when its height has passed
//! ```
//! Two sets are asked: digests of all bytes (before verification), and (sender, nonce) pairs (after
//! it). A transaction's id covers its sender and nonce, so the pair also finds every duplicate by
//! id.

use std::collections::HashSet;

use hufu_types::TxDigest;
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;
use hufu_types::transaction::TransactionHeader;

use crate::hashing::SeededState;

/// Slots of the wheel, count: one for each last valid height that may be admitted.
const SLOTS_COUNT: u64 = TX_VALIDITY_HEIGHTS_MAX + 1;

/// A sender and a nonce, exactly: a point of the curve is determined by x and the parity of y. Only
/// verified senders get here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NonceKey {
    x: [u8; 32],
    nonce: u64,
    is_y_odd: bool,
}

impl NonceKey {
    pub(crate) fn of(header: &TransactionHeader) -> Self {
        let mut x = [0; 32];
        let (first, second) = header.sender.0.split_at(32);
        x.copy_from_slice(first);
        let is_y_odd = second.last().is_some_and(|byte| byte & 1 == 1);
        Self { x, nonce: header.nonce.get(), is_y_odd }
    }
}

pub(crate) struct Memory {
    digests: HashSet<TxDigest, SeededState>,
    nonces: HashSet<NonceKey, SeededState>,
    wheel: Vec<Vec<(NonceKey, TxDigest)>>,
    next_height: u64,
    count: usize,
}

impl Memory {
    pub(crate) fn new(next_height: u64, seed: u64) -> Self {
        let slots = usize::try_from(SLOTS_COUNT).unwrap_or(usize::MAX);
        let state = SeededState::new(seed);
        Self {
            digests: HashSet::with_hasher(state),
            nonces: HashSet::with_hasher(state),
            wheel: vec![Vec::new(); slots],
            next_height,
            count: 0,
        }
    }

    pub(crate) const fn next_height(&self) -> u64 {
        self.next_height
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn knows_digest(&self, digest: &TxDigest) -> bool {
        self.digests.contains(digest)
    }

    pub(crate) fn knows_nonce(&self, key: &NonceKey) -> bool {
        self.nonces.contains(key)
    }

    /// Remembers a transaction until `valid_until` has passed; `false` if its nonce is remembered
    /// already.
    pub(crate) fn remember(&mut self, key: NonceKey, digest: TxDigest, valid_until: u64) -> bool {
        assert!(valid_until >= self.next_height, "what has expired is not remembered");
        let ahead = valid_until - self.next_height;
        assert!(ahead < SLOTS_COUNT, "no validity reaches beyond the wheel");
        if !self.nonces.insert(key) {
            return false;
        }
        self.digests.insert(digest);
        self.slot(valid_until).push((key, digest));
        self.count += 1;
        true
    }

    /// The chain's next block has this height: what can no longer be included is forgotten.
    pub(crate) fn advance(&mut self, next_height: u64) {
        assert!(next_height >= self.next_height, "heights only grow");
        let passed = (next_height - self.next_height).min(SLOTS_COUNT);
        for height in self.next_height..self.next_height + passed {
            // The slot's memory goes too, or 601 past peaks would stay.
            for (key, digest) in core::mem::take(self.slot(height)) {
                let was_known = self.nonces.remove(&key);
                assert!(was_known, "a wheel entry has its nonce");
                self.digests.remove(&digest);
                self.count -= 1;
            }
        }
        self.next_height = next_height;
    }

    fn slot(&mut self, height: u64) -> &mut Vec<(NonceKey, TxDigest)> {
        let place = usize::try_from(height % SLOTS_COUNT).unwrap_or(usize::MAX);
        assert!(place < self.wheel.len(), "the wheel has a slot for each remainder");
        &mut self.wheel[place]
    }
}

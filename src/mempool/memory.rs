//! What the mempool remembers of transactions it has taken or seen included.
//!
//! Asked is the (sender, nonce) pair, after verification: a transaction's id covers both, so this
//! finds every duplicate by id too. The memory has room for the last so many pairs. It refuses
//! nothing when it is full, it forgets the oldest: a memory that refused would only shrink with the
//! heights of a chain that rests because everything is refused.

use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;
use hufu_types::transaction::TransactionHeader;

use crate::recent::Recent;

/// A sender and a nonce, exactly: a point of the curve is determined by x and the parity of y. Only
/// verified senders get here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
    /// Pairs with the last height at which their transactions may be included.
    nonces: Recent<NonceKey, u64>,
    next_height: u64,
}

impl Memory {
    pub(crate) fn new(transactions_max: u32, next_height: u64, seed: u64) -> Self {
        assert!(next_height > 0, "height 0 is the genesis");
        Self { nonces: Recent::new(transactions_max, seed), next_height }
    }

    /// Bytes that the memory of so many transactions takes.
    pub(crate) fn bytes(transactions_max: u32) -> u64 {
        Recent::<NonceKey, u64>::memory_bytes(transactions_max)
    }

    pub(crate) const fn next_height(&self) -> u64 {
        self.next_height
    }

    /// Whether a transaction with this pair was taken or included and may still be.
    pub(crate) fn knows(&self, key: &NonceKey) -> bool {
        self.nonces.get(key).is_some_and(|valid_until| *valid_until >= self.next_height)
    }

    /// Remembers a transaction until `valid_until` has passed; `true` if another one had to be
    /// forgotten before its time.
    pub(crate) fn remember(&mut self, key: NonceKey, valid_until: u64) -> bool {
        assert!(valid_until >= self.next_height, "what has expired is not remembered");
        let ahead = valid_until - self.next_height;
        assert!(ahead <= TX_VALIDITY_HEIGHTS_MAX, "no validity reaches further");
        let forgotten = self.nonces.insert(key, valid_until);
        forgotten.is_some_and(|(_, valid_until)| valid_until >= self.next_height)
    }

    /// The chain's next block has this height: a pair is free again once its transaction can no
    /// longer be included.
    pub(crate) fn advance(&mut self, next_height: u64) {
        assert!(next_height >= self.next_height, "heights only grow");
        self.next_height = next_height;
    }
}

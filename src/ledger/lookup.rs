//! Asks the state's rows which of some keys are there.
//!
//! ```text
//! nonces of a block --Lookup::new--> changes() --StateTree::update--> wanted() / supply() as ever
//!                              \--> held(&update): one answer for each key
//! ```
//! A nonce is nothing but there or not there until it expires, and the row it falls into says so,
//! checked against the root; so nonces are stored nowhere else than in rows and in the expiry
//! index. Owner: the execute tile.

use hufu_crypto::Hasher;
use hufu_types::{ChainId, Digest};

use crate::changes::{Change, StateChanges, key_hashes};
use crate::key::StateKey;
use crate::update::StateUpdate;

/// A question about some keys; see the module.
#[derive(Clone, Debug)]
pub struct Lookup {
    hashes: Vec<Digest>,
    changes: StateChanges,
}

impl Lookup {
    /// A question about these keys, each of which comes once, to a tree of 2^`log2` buckets.
    #[must_use]
    pub fn new(chain_id: ChainId, log2: u8, keys: &[StateKey], hasher: &dyn Hasher) -> Self {
        let hashes = key_hashes(chain_id, keys, hasher);
        // A change from nothing to nothing leads to the row of its key and leaves it alone.
        let changes: Vec<Change> =
            hashes.iter().map(|&key| Change { key, before: None, after: None }).collect();
        let changes = StateChanges::of_hashes(chain_id, log2, &changes);
        assert_eq!(hashes.len(), keys.len(), "one hash for each key");
        Self { hashes, changes }
    }

    /// What [`crate::StateTree::update`] is begun with. That update is never applied.
    #[must_use]
    pub const fn changes(&self) -> &StateChanges {
        &self.changes
    }

    /// Whether the state holds each key, in the order in which they were given.
    ///
    /// # Panics
    /// If the update is not the one begun with [`Lookup::changes`], or still wants records.
    #[must_use]
    pub fn held(&self, update: &StateUpdate<'_>) -> Vec<bool> {
        if hufu_types::planted!("nonces_unchecked") {
            return vec![false; self.hashes.len()];
        }
        let held = update.held(&self.changes);
        self.hashes.iter().map(|hash| held.binary_search(hash).is_ok()).collect()
    }
}

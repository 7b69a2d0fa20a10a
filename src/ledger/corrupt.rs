//! What can be wrong with what was stored: the only error of this crate.
//!
//! Whose: the host's (a disk, a database, or a node built wrongly). Retry: never; the node stops
//! and its operator runs `hufu ledger verify`. Stage: execute. What clients do wrong is a
//! `FailureCode` in a receipt instead.

use hufu_types::codec::DecodeError;
use hufu_types::{Address, AssetCode, BatchDigest, Digest};

use crate::bucket::Place;
use crate::key::StateKey;

/// Stored bytes that this ledger cannot have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// The bytes are no state key.
    #[error("stored state key is not canonical: {cause}")]
    Key {
        /// What is wrong with them.
        cause: DecodeError,
    },
    /// The bytes under a key are no value of its kind.
    #[error("stored value of {key} is not canonical: {cause}")]
    Value {
        /// The key.
        key: StateKey,
        /// What is wrong with the bytes.
        cause: DecodeError,
    },
    /// An account is missing or counts fewer holdings than it has.
    #[error("account {account} does not count its holding of {asset}")]
    HoldingUncounted {
        /// The account.
        account: Address,
        /// The asset it holds.
        asset: AssetCode,
    },
    /// An account is missing or counts fewer mandates than it has granted.
    #[error("account {account} does not count a mandate it granted")]
    MandateUncounted {
        /// The account.
        account: Address,
    },
    /// A batch to be executed is of another chain than the state.
    #[error("batch {batch} is of another chain")]
    ChainWrong {
        /// The batch.
        batch: BatchDigest,
    },
    /// Less of an asset is in circulation than one account holds.
    #[error("supply of {asset} is less than one holding of it")]
    SupplyBelowHolding {
        /// The asset.
        asset: AssetCode,
    },
    /// A chunk of the expiry index is not what was written, or is of another height.
    #[error("expiry index of height {valid_until} is not canonical: {cause}")]
    Expiry {
        /// Last valid height of the nonces it should list.
        valid_until: u64,
        /// What is wrong.
        cause: DecodeError,
    },
    /// The expiry index names a nonce that the state does not hold with that height.
    #[error("expiry index names {key} for height {valid_until}, the state does not")]
    ExpiryUnmatched {
        /// The nonce.
        key: StateKey,
        /// Last valid height the index has for it.
        valid_until: u64,
    },
    /// A record of the bucket tree is not the one form of a set of entries at its place.
    #[error("record of {place} is not canonical")]
    Node {
        /// Where it lies.
        place: Place,
    },
    /// A record of the bucket tree is missing or is not the one that the node above it stands for.
    #[error("record of {place} is not the one that the state root stands for")]
    NodeUnmatched {
        /// Where it lies.
        place: Place,
    },
    /// A record of the bucket tree lies where the fork above has nothing.
    #[error("record of {place} belongs to no fork")]
    NodeOrphaned {
        /// Where it lies.
        place: Place,
    },
    /// A row holds something else than the state or the expiry index under a key that a block
    /// changes.
    #[error("the row of {place} and the state disagree about the entry with key hash {key}")]
    EntryUnmatched {
        /// Where the row lies.
        place: Place,
        /// Hash of the entry's key.
        key: Digest,
    },
}

//! Domain separation: the prefix that begins everything hashed or signed as a whole.
//!
//! Kind, format version and chain id come first, so no signature or digest of one kind, version or
//! chain can pass for another (design.md 3).

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::codec::DecodeError;
use crate::ids::ChainId;

/// What the bytes after the prefix are. Numbers are never reused; 10 were the buckets of data
/// format 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Unsigned bytes of a transaction.
    Transaction = 1,
    /// A transaction with its signature, as a leaf of the transactions root.
    TransactionDigest = 2,
    /// A batch of transactions.
    Batch = 3,
    /// A block header.
    BlockHeader = 4,
    /// A consensus vote.
    Vote = 5,
    /// A consensus proposal.
    Proposal = 6,
    // 7 is free: vote extensions, which the engine does not use, would take it.
    /// A receipt, as a leaf of the receipts root.
    Receipt = 8,
    /// A genesis; its chain id is zero, because it is what the chain id is made of.
    Genesis = 9,
    /// A set of validators.
    ValidatorSet = 11,
    /// A receipt with its proof, as a file or answer.
    ReceiptProof = 12,
    /// A key of the state.
    StateKey = 13,
    /// A value of the state; hashed behind its [`DomainTag`] alone.
    StateValue = 14,
    /// A row of a state bucket.
    StateRow = 15,
    /// A fork of a state bucket.
    StateFork = 16,
    /// What two peers sign to prove who they are on a link.
    PeerProof = 17,
    /// An account with its proof, as a file or answer.
    AccountProof = 18,
}

/// The one format version of today, for every kind.
pub const FORMAT_VERSION: u16 = 1;

/// First 36 bytes of everything signed: kind, format version, chain.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DomainPrefix {
    kind: U16,
    version: U16,
    /// The chain these bytes belong to.
    pub chain_id: ChainId,
}

/// The first 4 bytes of a [`DomainPrefix`] alone, kind and format version: for messages that are
/// many and short, and whose digest is only ever used beside one that names the chain.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DomainTag {
    kind: U16,
    version: U16,
}

impl DomainTag {
    /// The tag of `kind` at today's format version.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self { kind: U16::new(kind as u16), version: U16::new(FORMAT_VERSION) }
    }
}

impl DomainPrefix {
    /// The prefix of `kind` on `chain_id` at today's format version.
    #[must_use]
    pub const fn new(kind: Kind, chain_id: ChainId) -> Self {
        Self { kind: U16::new(kind as u16), version: U16::new(FORMAT_VERSION), chain_id }
    }

    /// Accepts the prefix if it is that of `kind` at a version this build reads; the chain is the
    /// caller's to compare.
    ///
    /// # Errors
    /// [`DecodeError::Kind`] or [`DecodeError::Version`].
    pub fn expect(&self, kind: Kind) -> Result<(), DecodeError> {
        if self.kind.get() != kind as u16 {
            return Err(DecodeError::Kind { found: self.kind.get(), expected: kind as u16 });
        }
        if self.version.get() != FORMAT_VERSION {
            return Err(DecodeError::Version {
                found: self.version.get(),
                expected: FORMAT_VERSION,
            });
        }
        Ok(())
    }
}

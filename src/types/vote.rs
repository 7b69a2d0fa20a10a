//! Votes and proposals: the two messages validators sign (Tendermint, arXiv:1807.04938, algorithm
//! 1).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{
    Address, Digest, IDENTITY_DEFAULT, PublicKey, Signature, identity_digest, message_digest,
};

use crate::codec::{DecodeError, Reader, check_range, check_reserved};
use crate::domain::{DomainPrefix, Kind};
use crate::ids::{BlockDigest, ChainId};
use crate::limits::ROUNDS_COUNT_MAX;

/// The two steps in which validators vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VoteStep {
    /// First vote of a round.
    Prevote = 1,
    /// Second vote of a round; a quorum of them for one block is its commit certificate.
    Precommit = 2,
}

/// What a validator signs when it votes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Vote {
    /// Kind, version, chain.
    pub prefix: DomainPrefix,
    step: u8,
    has_block: u8,
    reserved: [u8; 2],
    /// Round, from 0.
    pub round: U32,
    /// Height.
    pub height: U64,
    block: BlockDigest,
    /// The voter.
    pub validator: Address,
}

impl Vote {
    /// A vote for `block`, or for no block ("nil").
    #[must_use]
    pub fn new(
        chain_id: ChainId,
        step: VoteStep,
        height: u64,
        round: u32,
        block: Option<BlockDigest>,
        validator: Address,
    ) -> Self {
        Self {
            prefix: DomainPrefix::new(Kind::Vote, chain_id),
            step: step as u8,
            has_block: u8::from(block.is_some()),
            reserved: [0; 2],
            round: U32::new(round),
            height: U64::new(height),
            block: block.unwrap_or_default(),
            validator,
        }
    }

    /// The step voted in.
    #[must_use]
    pub const fn step(&self) -> VoteStep {
        // `check` has refused every other number.
        if self.step == VoteStep::Prevote as u8 { VoteStep::Prevote } else { VoteStep::Precommit }
    }

    /// The block voted for; `None` is a vote for nil.
    #[must_use]
    pub fn block(&self) -> Option<BlockDigest> {
        (self.has_block == 1).then_some(self.block)
    }

    /// Accepts canonical values only; to be called on every vote that came from outside.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.prefix.expect(Kind::Vote)?;
        check_reserved("vote", &self.reserved)?;
        check_range("vote step", self.step.into(), 1, 2)?;
        check_range("vote has block", self.has_block.into(), 0, 1)?;
        check_range("vote round", self.round.get().into(), 0, ROUNDS_COUNT_MAX.into())?;
        check_range("vote height", self.height.get(), 1, u64::MAX - 1)?;
        if self.has_block == 0 && self.block != BlockDigest::ZERO {
            return Err(DecodeError::NotCanonical { field: "vote for nil" });
        }
        Ok(())
    }
}

/// What a proposer signs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Proposal {
    /// Kind, version, chain.
    pub prefix: DomainPrefix,
    has_proof_of_lock: u8,
    reserved: [u8; 3],
    /// Round, from 0.
    pub round: U32,
    proof_of_lock_round: U32,
    reserved_more: [u8; 4],
    /// Height.
    pub height: U64,
    /// The block proposed.
    pub block: BlockDigest,
    /// The proposer.
    pub validator: Address,
}

impl Proposal {
    /// A proposal of `block`; `proof_of_lock_round` is the round in which a quorum prevoted for it
    /// before, if any.
    #[must_use]
    pub fn new(
        chain_id: ChainId,
        height: u64,
        round: u32,
        block: BlockDigest,
        proof_of_lock_round: Option<u32>,
        validator: Address,
    ) -> Self {
        Self {
            prefix: DomainPrefix::new(Kind::Proposal, chain_id),
            has_proof_of_lock: u8::from(proof_of_lock_round.is_some()),
            reserved: [0; 3],
            round: U32::new(round),
            proof_of_lock_round: U32::new(proof_of_lock_round.unwrap_or(0)),
            reserved_more: [0; 4],
            height: U64::new(height),
            block,
            validator,
        }
    }

    /// The round of the earlier quorum of prevotes for this block.
    #[must_use]
    pub fn proof_of_lock_round(&self) -> Option<u32> {
        (self.has_proof_of_lock == 1).then_some(self.proof_of_lock_round.get())
    }

    /// Accepts canonical values only; to be called on every proposal that came from outside.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.prefix.expect(Kind::Proposal)?;
        check_reserved("proposal", &self.reserved)?;
        check_reserved("proposal rounds", &self.reserved_more)?;
        check_range("proposal has proof of lock", self.has_proof_of_lock.into(), 0, 1)?;
        check_range("proposal round", self.round.get().into(), 0, ROUNDS_COUNT_MAX.into())?;
        check_range("proposal height", self.height.get(), 1, u64::MAX - 1)?;
        let lock = self.proof_of_lock_round.get();
        if self.has_proof_of_lock == 0 && lock != 0 {
            return Err(DecodeError::NotCanonical { field: "proposal without proof of lock" });
        }
        if self.has_proof_of_lock == 1 && lock >= self.round.get() {
            return Err(DecodeError::NotCanonical { field: "proof of lock round" });
        }
        Ok(())
    }
}

macro_rules! signed {
    ($(#[$doc:meta])* $name:ident, $field:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
            Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            /// What is signed.
            pub $field: $inner,
            /// SM2 over e = SM3(ZA || the bytes above).
            pub signature: Signature,
        }

        impl $name {
            /// Reads exactly one and checks that it is canonical; the signature is not looked at.
            ///
            /// # Errors
            /// What is not canonical, and where.
            pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
                let mut reader = Reader::new(bytes);
                let signed: Self = *reader.fixed()?;
                reader.finish()?;
                signed.$field.check()?;
                Ok(signed)
            }
        }
    };
}

signed!(
    /// A vote with its signature.
    SignedVote, vote, Vote
);
signed!(
    /// A proposal with its signature.
    SignedProposal, proposal, Proposal
);

/// The digest e for a consensus message of a validator with this key.
#[must_use]
pub fn signing_digest(message: &[u8], key: &PublicKey) -> Digest {
    message_digest(&identity_digest(IDENTITY_DEFAULT, key), message)
}

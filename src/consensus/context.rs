//! The vocabulary of the Tendermint library in hufu's types: address, height, value, vote,
//! proposal.
//!
//! ```text
//! types::Vote, types::Proposal  <->  Ballot, Offer  <->  arc-malachitebft-core-*
//! ```
//!
//! Owned by the consensus tile. The value voted for is a block digest, and it is its own
//! identifier: the block travels apart (`ValuePayload::ProposalAndParts`). No private key is known
//! here, so nothing here can sign.

use core::fmt;

use arc_malachitebft_core_types as core_types;
use core_types::{NilOrVal, Round, VoteType};
use hufu_types::codec::DecodeError;
use hufu_types::{
    Address, BlockDigest, ChainId, Proposal, PublicKey, Signature, SignedProposal, SignedVote,
    Vote, VoteStep,
};
use zerocopy::FromBytes as _;

use crate::validators::{Member, Validators};

/// A validator's address as the library wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Voter(pub Address);

impl fmt::Display for Voter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl core_types::Address for Voter {}

/// A height; 0 is the genesis, 1 the first block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Height(pub u64);

impl fmt::Display for Height {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl core_types::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    fn decrement_by(&self, count: u64) -> Option<Self> {
        self.0.checked_sub(count).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// The value agreed on: a block by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockValue(pub BlockDigest);

impl core_types::Value for BlockValue {
    type Id = BlockDigest;

    fn id(&self) -> BlockDigest {
        self.0
    }
}

/// Blocks travel apart from the engine, which therefore never sees a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPart {}

impl core_types::ProposalPart<Context> for NoPart {
    fn is_first(&self) -> bool {
        match *self {}
    }

    fn is_last(&self) -> bool {
        match *self {}
    }
}

/// SM2 as the library sees it: it carries keys and signatures around and asks its driver to sign
/// and to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sm2Scheme {}

impl core_types::SigningScheme for Sm2Scheme {
    type DecodingError = DecodeError;
    type Signature = Signature;
    type PublicKey = PublicKey;
    type PrivateKey = ();

    fn decode_signature(bytes: &[u8]) -> Result<Signature, DecodeError> {
        Signature::read_from_bytes(bytes)
            .map_err(|_| DecodeError::NotCanonical { field: "signature" })
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.as_bytes().to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<PublicKey, DecodeError> {
        PublicKey::read_from_bytes(bytes)
            .map_err(|_| DecodeError::NotCanonical { field: "public key" })
    }

    fn encode_public_key(public_key: &PublicKey) -> Vec<u8> {
        public_key.as_bytes().to_vec()
    }
}

/// A [`Vote`] with the parts the library borrows from it.
///
/// Equality is equality of the bytes to be signed: replay compares votes (see the crate's
/// `README.md`), so nothing that changes between runs may ever enter. A vote extension would be a
/// field beside `wire`, left out of it; none is carried while `VoteExtensionPolicy::Disabled` is
/// passed at every height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ballot {
    wire: Vote,
    value: NilOrVal<BlockDigest>,
    voter: Voter,
}

impl Ballot {
    /// The bytes to be signed, as a type.
    #[must_use]
    pub const fn wire(&self) -> &Vote {
        &self.wire
    }
}

impl From<Vote> for Ballot {
    fn from(wire: Vote) -> Self {
        let value = wire.block().map_or(NilOrVal::Nil, NilOrVal::Val);
        Self { wire, value, voter: Voter(wire.validator) }
    }
}

impl core_types::Vote<Context> for Ballot {
    fn height(&self) -> Height {
        Height(self.wire.height.get())
    }

    fn round(&self) -> Round {
        Round::new(self.wire.round.get())
    }

    fn value(&self) -> &NilOrVal<BlockDigest> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<BlockDigest> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        vote_type(self.wire.step())
    }

    fn validator_address(&self) -> &Voter {
        &self.voter
    }

    fn extension(&self) -> Option<&core_types::SignedExtension<Context>> {
        None
    }

    fn take_extension(&mut self) -> Option<core_types::SignedExtension<Context>> {
        None
    }

    fn extend(self, _extension: core_types::SignedExtension<Context>) -> Self {
        // Unreachable while extensions are disabled at every height; the vote itself must stay as
        // it is in any case.
        self
    }
}

/// A [`Proposal`] with the parts the library borrows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    wire: Proposal,
    value: BlockValue,
    voter: Voter,
}

impl Offer {
    /// The bytes to be signed, as a type.
    #[must_use]
    pub const fn wire(&self) -> &Proposal {
        &self.wire
    }
}

impl From<Proposal> for Offer {
    fn from(wire: Proposal) -> Self {
        Self { wire, value: BlockValue(wire.block), voter: Voter(wire.validator) }
    }
}

impl core_types::Proposal<Context> for Offer {
    fn height(&self) -> Height {
        Height(self.wire.height.get())
    }

    fn round(&self) -> Round {
        Round::new(self.wire.round.get())
    }

    fn value(&self) -> &BlockValue {
        &self.value
    }

    fn take_value(self) -> BlockValue {
        self.value
    }

    fn pol_round(&self) -> Round {
        Round::from(self.wire.proof_of_lock_round())
    }

    fn validator_address(&self) -> &Voter {
        &self.voter
    }
}

/// The library's view of one chain.
#[derive(Clone, Debug)]
pub struct Context {
    chain_id: ChainId,
}

impl Context {
    /// The view of this chain.
    #[must_use]
    pub const fn new(chain_id: ChainId) -> Self {
        Self { chain_id }
    }

    fn ballot(
        &self,
        step: VoteStep,
        height: Height,
        round: Round,
        block: &NilOrVal<BlockDigest>,
        voter: Voter,
    ) -> Ballot {
        let block = match block {
            NilOrVal::Nil => None,
            NilOrVal::Val(digest) => Some(*digest),
        };
        Vote::new(self.chain_id, step, height.0, round_number(round), block, voter.0).into()
    }
}

impl core_types::Context for Context {
    type Address = Voter;
    type Height = Height;
    type ProposalPart = NoPart;
    type Proposal = Offer;
    type Validator = Member;
    type ValidatorSet = Validators;
    // The engine's own `Timeouts` decide; the library's core never asks these.
    type Timeouts = core_types::LinearTimeouts;
    type Value = BlockValue;
    type Vote = Ballot;
    type Extension = ();
    type SigningScheme = Sm2Scheme;

    // Tendermint L13: proposer(h, r).
    fn select_proposer<'a>(
        &self,
        validators: &'a Validators,
        height: Height,
        round: Round,
    ) -> &'a Member {
        validators.proposer(height.0, round_number(round))
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        value: BlockValue,
        pol_round: Round,
        voter: Voter,
    ) -> Offer {
        let (round, lock) = (round_number(round), pol_round.as_u32());
        Proposal::new(self.chain_id, height.0, round, value.0, lock, voter.0).into()
    }

    fn new_prevote(
        &self,
        height: Height,
        round: Round,
        block: NilOrVal<BlockDigest>,
        voter: Voter,
    ) -> Ballot {
        self.ballot(VoteStep::Prevote, height, round, &block, voter)
    }

    fn new_precommit(
        &self,
        height: Height,
        round: Round,
        block: NilOrVal<BlockDigest>,
        voter: Voter,
    ) -> Ballot {
        self.ballot(VoteStep::Precommit, height, round, &block, voter)
    }
}

/// A round that has begun, as a number.
///
/// # Panics
/// On the library's "no round": it builds and selects only for rounds it has entered.
#[must_use]
pub(crate) fn round_number(round: Round) -> u32 {
    let number = round.as_u32();
    assert!(number.is_some(), "the library names a round it has entered");
    number.unwrap_or(0)
}

/// The library's name of a step.
#[must_use]
pub(crate) const fn vote_type(step: VoteStep) -> VoteType {
    match step {
        VoteStep::Prevote => VoteType::Prevote,
        VoteStep::Precommit => VoteType::Precommit,
    }
}

/// A signed vote for the library.
#[must_use]
pub(crate) fn to_library_vote(signed: &SignedVote) -> core_types::SignedVote<Context> {
    core_types::SignedMessage::new(signed.vote.into(), signed.signature)
}

/// A signed vote from the library.
#[must_use]
pub(crate) fn from_library_vote(signed: &core_types::SignedVote<Context>) -> SignedVote {
    SignedVote { vote: *signed.message.wire(), signature: signed.signature }
}

/// A signed proposal for the library.
#[must_use]
pub(crate) fn to_library_proposal(signed: &SignedProposal) -> core_types::SignedProposal<Context> {
    core_types::SignedMessage::new(signed.proposal.into(), signed.signature)
}

/// A signed proposal from the library.
#[must_use]
pub(crate) fn from_library_proposal(
    signed: &core_types::SignedProposal<Context>,
) -> SignedProposal {
    SignedProposal { proposal: *signed.message.wire(), signature: signed.signature }
}

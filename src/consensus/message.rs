//! What validators tell each other about a height: proposals, votes, and bundles of votes that help
//! a peer catch up with a round.
//!
//! ```text
//! Effect::Publish(Message) -> network -> Message::parse -> Input::{Proposal, Vote, Votes}
//! ```
//!
//! Blocks and batches are not among them: they travel apart.

use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, index, length_u32, put};
use hufu_types::limits::VALIDATORS_COUNT_MAX;
use hufu_types::{BlockDigest, SignedProposal, SignedVote, VoteStep};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What the votes of a bundle have in common, and what they justify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BundleKind {
    /// Prevotes of a quorum for one block: it may be locked and proposed again (Tendermint L28,
    /// L36).
    Polka = 1,
    /// Votes of more than a third from a later round: it may be entered at once (Tendermint L55).
    SkipRound = 2,
    /// Precommits of a quorum, not for one thing: the round may be left after its timeout
    /// (Tendermint L47).
    LeaveRound = 3,
}

/// Votes of one height and round, at most one a validator, by ascending address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteBundle {
    kind: BundleKind,
    votes: Vec<SignedVote>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct BundleHeader {
    kind: u8,
    reserved: [u8; 3],
    votes_count: U32,
}

impl VoteBundle {
    /// Orders the votes and joins them; of two by one validator the first stays.
    ///
    /// # Errors
    /// If the votes have not in common what their kind demands, or there are none or too many.
    pub fn new(kind: BundleKind, mut votes: Vec<SignedVote>) -> Result<Self, DecodeError> {
        votes.sort_by_key(|signed| signed.vote.validator);
        votes.dedup_by_key(|signed| signed.vote.validator);
        let bundle = Self { kind, votes };
        bundle.check()?;
        Ok(bundle)
    }

    /// What the bundle justifies.
    #[must_use]
    pub const fn kind(&self) -> BundleKind {
        self.kind
    }

    /// The votes by ascending address of the voter, at least one.
    #[must_use]
    pub fn votes(&self) -> &[SignedVote] {
        &self.votes
    }

    /// Height of all votes.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.votes.first().map_or(0, |signed| signed.vote.height.get())
    }

    /// Round of all votes.
    #[must_use]
    pub fn round(&self) -> u32 {
        self.votes.first().map_or(0, |signed| signed.vote.round.get())
    }

    /// The block of the first vote; of all votes in a polka.
    #[must_use]
    pub fn block(&self) -> Option<BlockDigest> {
        self.votes.first().and_then(|signed| signed.vote.block())
    }

    /// Appends the encoding.
    pub fn write(&self, out: &mut Vec<u8>) {
        let header = BundleHeader {
            kind: self.kind as u8,
            reserved: [0; 3],
            votes_count: U32::new(length_u32(&self.votes)),
        };
        put(out, &header);
        put(out, self.votes.as_slice());
    }

    /// Reads the next bundle.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header: BundleHeader = *reader.fixed()?;
        check_reserved("vote bundle", &header.reserved)?;
        let kind = match header.kind {
            1 => BundleKind::Polka,
            2 => BundleKind::SkipRound,
            3 => BundleKind::LeaveRound,
            found => {
                let (field, found) = ("vote bundle kind", found.into());
                return Err(DecodeError::Range { field, found, min: 1, max: 3 });
            }
        };
        let count = header.votes_count.get();
        check_range("vote bundle count", count.into(), 1, VALIDATORS_COUNT_MAX.into())?;
        let votes = reader.slice::<SignedVote>(index(count))?.to_vec();
        let bundle = Self { kind, votes };
        bundle.check()?;
        Ok(bundle)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let count = length_u32(&self.votes);
        check_range("vote bundle count", count.into(), 1, VALIDATORS_COUNT_MAX.into())?;
        let (height, round, block) = (self.height(), self.round(), self.block());
        for SignedVote { vote, .. } in &self.votes {
            vote.check()?;
            let fits = match self.kind {
                BundleKind::Polka => {
                    vote.step() == VoteStep::Prevote && vote.block() == block && block.is_some()
                }
                BundleKind::SkipRound => true,
                BundleKind::LeaveRound => vote.step() == VoteStep::Precommit,
            };
            if !fits || vote.height.get() != height || vote.round.get() != round {
                return Err(DecodeError::NotCanonical { field: "vote of a bundle" });
            }
        }
        if self.votes.is_sorted_by(|first, second| first.vote.validator < second.vote.validator) {
            Ok(())
        } else {
            Err(DecodeError::NotCanonical { field: "order of a vote bundle" })
        }
    }
}

/// A message between validators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A proposal.
    Proposal(SignedProposal),
    /// A vote.
    Vote(SignedVote),
    /// Votes of several validators.
    Votes(VoteBundle),
}

const KIND_PROPOSAL: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_VOTES: u8 = 3;

impl Message {
    /// The height it is about.
    #[must_use]
    pub fn height(&self) -> u64 {
        match self {
            Self::Proposal(signed) => signed.proposal.height.get(),
            Self::Vote(signed) => signed.vote.height.get(),
            Self::Votes(bundle) => bundle.height(),
        }
    }

    /// The votes in it.
    #[must_use]
    pub fn votes(&self) -> &[SignedVote] {
        match self {
            Self::Proposal(_) => &[],
            Self::Vote(signed) => core::slice::from_ref(signed),
            Self::Votes(bundle) => bundle.votes(),
        }
    }

    /// Appends the encoding: one byte of kind, then the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Proposal(signed) => {
                out.push(KIND_PROPOSAL);
                put(out, signed);
            }
            Self::Vote(signed) => {
                out.push(KIND_VOTE);
                put(out, signed);
            }
            Self::Votes(bundle) => {
                out.push(KIND_VOTES);
                bundle.write(out);
            }
        }
    }

    /// Reads exactly one message; signatures are not looked at.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (kind, rest) =
            bytes.split_first().ok_or(DecodeError::Truncated { offset: 0, needed: 1 })?;
        match *kind {
            KIND_PROPOSAL => Ok(Self::Proposal(SignedProposal::parse(rest)?)),
            KIND_VOTE => Ok(Self::Vote(SignedVote::parse(rest)?)),
            KIND_VOTES => {
                let mut reader = Reader::new(rest);
                let bundle = VoteBundle::read(&mut reader)?;
                reader.finish()?;
                Ok(Self::Votes(bundle))
            }
            found => {
                let (field, found) = ("consensus message kind", found.into());
                Err(DecodeError::Range { field, found, min: 1, max: 3 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hufu_types::{Address, ChainId, Digest, Signature, Vote};

    use super::*;

    fn vote(step: VoteStep, block: u8, validator: u8) -> SignedVote {
        let block = (block != 0).then_some(BlockDigest(Digest([block; 32])));
        let vote = Vote::new(ChainId::ZERO, step, 7, 2, block, Address([validator; 20]));
        SignedVote { vote, signature: Signature([validator; 64]) }
    }

    #[test]
    fn a_bundle_holds_what_its_kind_says() {
        let (prevote, precommit) = (VoteStep::Prevote, VoteStep::Precommit);
        let polka =
            VoteBundle::new(BundleKind::Polka, vec![vote(prevote, 1, 2), vote(prevote, 1, 1)]);
        assert_eq!(polka.unwrap().votes()[0].vote.validator, Address([1; 20]));
        for (kind, votes) in [
            (BundleKind::Polka, vec![]),
            (BundleKind::Polka, vec![vote(prevote, 0, 1)]),
            (BundleKind::Polka, vec![vote(prevote, 1, 1), vote(prevote, 2, 2)]),
            (BundleKind::Polka, vec![vote(precommit, 1, 1)]),
            (BundleKind::LeaveRound, vec![vote(precommit, 0, 1), vote(prevote, 0, 2)]),
        ] {
            assert!(VoteBundle::new(kind, votes).is_err());
        }
    }

    #[test]
    fn messages_have_one_encoding() {
        let votes = vec![vote(VoteStep::Precommit, 0, 1), vote(VoteStep::Precommit, 3, 2)];
        let bundle = VoteBundle::new(BundleKind::LeaveRound, votes).unwrap();
        for message in [Message::Vote(vote(VoteStep::Prevote, 3, 1)), Message::Votes(bundle)] {
            let mut bytes = Vec::new();
            message.write(&mut bytes);
            assert_eq!(Message::parse(&bytes), Ok(message));
            for length in 0..bytes.len() {
                assert!(Message::parse(&bytes[..length]).is_err());
            }
            bytes.push(0);
            assert!(Message::parse(&bytes).is_err());
        }
        assert!(Message::parse(&[9, 1, 2]).is_err());
    }
}

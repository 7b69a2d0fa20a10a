//! The logs that stopped nodes leave behind: the same blocks on all disks, and no vote or proposal
//! that contradicts another of the same validator in any log.
//!
//! Each vote log holds what its node signed and what it took in from others, so together they know
//! what left a validator whose own disk was lost.

use std::collections::BTreeMap;
use std::path::Path;

use hufu_consensus::Record;
use hufu_crypto::software_provider;
use hufu_node::records::{RECORD_BLOCK, parse_block_record};
use hufu_storage::block_log::LogReader;
use hufu_storage::vote_log::{KIND_SEAL, VoteLog};
use hufu_types::{Address, BlockDigest, SignedProposal, SignedVote, VoteStep};

use crate::chain::Chain;

/// The blocks of a stopped node's log, from height 1 on.
pub(crate) fn blocks(chain: &Chain, data: &Path) -> Vec<BlockDigest> {
    let provider = software_provider();
    let options = chain.storage(data).log;
    let (mut reader, _) = LogReader::open(options).unwrap();
    let mut blocks = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        if record.kind == RECORD_BLOCK {
            let (block, _) = parse_block_record(record.payload, &*provider.hasher).unwrap();
            blocks.push(block.digest());
            assert_eq!(block.height(), blocks.len() as u64, "a height is missing or there twice");
        }
    }
    blocks
}

/// What a validator may say once only: a proposal, a prevote or a precommit of a height and round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Proposal,
    Prevote,
    Precommit,
}

/// Who said what, and when.
type Place = (Address, u64, u32, What);

/// All that validators have said, by what they may say once only.
#[derive(Default)]
pub(crate) struct Said(BTreeMap<Place, Option<BlockDigest>>);

impl Said {
    fn vote(&mut self, signed: &SignedVote) {
        let vote = &signed.vote;
        let what = match vote.step() {
            VoteStep::Prevote => What::Prevote,
            VoteStep::Precommit => What::Precommit,
        };
        self.take((vote.validator, vote.height.get(), vote.round.get(), what), vote.block());
    }

    fn proposal(&mut self, signed: &SignedProposal) {
        let proposal = &signed.proposal;
        let (height, round) = (proposal.height.get(), proposal.round.get());
        self.take((proposal.validator, height, round, What::Proposal), Some(proposal.block));
    }

    fn take(&mut self, place: Place, block: Option<BlockDigest>) {
        let before = *self.0.entry(place).or_insert(block);
        assert_eq!(before, block, "DOUBLE SIGN: {place:?}");
    }

    /// Who made the proposal of the highest height and round.
    pub(crate) fn last_proposer(&self) -> Option<Address> {
        let proposals = self.0.keys().filter(|(.., what)| *what == What::Proposal);
        proposals.max_by_key(|(_, height, round, _)| (*height, *round)).map(|(who, ..)| *who)
    }
}

/// Reads all vote logs together and returns how many different votes and proposals they hold.
pub(crate) fn audit_votes(chain: &Chain, folders: &[&Path]) -> usize {
    let said = read_votes(chain, folders);
    assert!(said.0.len() > folders.len(), "the vote logs hold hardly a vote");
    said.0.len()
}

/// All that the vote logs of these data folders hold; nobody contradicts himself in it.
pub(crate) fn read_votes(chain: &Chain, folders: &[&Path]) -> Said {
    let provider = software_provider();
    let mut said = Said::default();
    for data in folders {
        let options = chain.storage(data).vote_log;
        let (mut reader, _) = VoteLog::reader(&options).unwrap();
        while let Some(record) = reader.next().unwrap() {
            if record.kind == KIND_SEAL {
                continue;
            }
            match Record::parse(record.payload, &*provider.hasher).unwrap() {
                Record::Vote(vote) | Record::OwnVote(vote) => said.vote(&vote),
                Record::Proposal(proposal) | Record::OwnProposal(proposal) => {
                    said.proposal(&proposal);
                }
                Record::Evidence(evidence) => panic!("DOUBLE SIGN: {evidence:?}"),
                _ => {}
            }
        }
    }
    said
}

#[test]
#[should_panic(expected = "DOUBLE SIGN")]
fn two_votes_of_one_step_are_seen() {
    let mut said = Said::default();
    let place = (Address([1; 20]), 7, 0, What::Prevote);
    said.take(place, None);
    said.take((Address([2; 20]), 7, 0, What::Prevote), Some(BlockDigest::ZERO));
    said.take(place, None);
    said.take(place, Some(BlockDigest::ZERO));
}

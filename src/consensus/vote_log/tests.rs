use hufu_crypto::Sm3;
use hufu_types::{
    BatchDigest, BlockHeader, ChainId, CommitSignature, Digest, DomainPrefix, Proposal, Signature,
    Vote, VoteStep,
};

use super::*;

fn hasher() -> std::sync::Arc<dyn Hasher> {
    hufu_crypto::software_provider().hasher
}

fn block() -> Block {
    let batches = vec![BatchDigest(Digest([5; 32])), BatchDigest(Digest([6; 32]))];
    let header = BlockHeader {
        prefix: DomainPrefix::new(hufu_types::Kind::BlockHeader, ChainId::ZERO),
        height: U64::new(9),
        time_millis: U64::new(1_000),
        parent: BlockDigest(Digest([1; 32])),
        proposer: Address([2; 20]),
        batches_count: U32::new(2),
        transactions_count: U32::new(3),
        transactions_root: Block::transactions_root(&batches, &*hasher()),
        executed_height: U64::new(8),
        state_root: Digest([3; 32]),
        receipts_root: Digest([4; 32]),
        receipts_count: U32::new(1),
        validators: Digest([7; 32]),
        present: zerocopy::little_endian::U128::new(1),
    };
    Block::new(header, batches, &*hasher()).unwrap()
}

fn vote(step: VoteStep, digest: u8, validator: u8) -> SignedVote {
    let block = Some(BlockDigest(Digest([digest; 32])));
    let vote = Vote::new(ChainId::ZERO, step, 9, 1, block, Address([validator; 20]));
    SignedVote { vote, signature: Signature([validator; 64]) }
}

fn proposal(digest: u8) -> SignedProposal {
    let digest = BlockDigest(Digest([digest; 32]));
    let proposal = Proposal::new(ChainId::ZERO, 9, 1, digest, Some(0), Address([2; 20]));
    SignedProposal { proposal, signature: Signature([2; 64]) }
}

fn records() -> Vec<Record> {
    let polka = vec![vote(VoteStep::Prevote, 1, 1), vote(VoteStep::Prevote, 1, 2)];
    let signature = CommitSignature { validator: Address([1; 20]), signature: Signature([8; 64]) };
    let certificate = CommitCertificate {
        height: 9,
        round: 1,
        block: block().digest(),
        signatures: vec![signature],
    };
    let entry =
        |synced, verdict| BlockEntry { round: 1, proposer: Address([2; 20]), synced, verdict };
    let invalid = BlockVerdict::Invalid(BlockDigest(Digest([9; 32])));
    vec![
        Record::SignIntent(SignIntent::Proposal(proposal(1).proposal)),
        Record::SignIntent(SignIntent::Vote(vote(VoteStep::Prevote, 1, 1).vote)),
        Record::Vote(vote(VoteStep::Prevote, 1, 3)),
        Record::Proposal(proposal(1)),
        Record::OwnVote(vote(VoteStep::Precommit, 1, 1)),
        Record::OwnProposal(proposal(1)),
        Record::Block { height: 9, entry: entry(false, BlockVerdict::Valid(block())) },
        Record::Block { height: 9, entry: entry(true, invalid) },
        Record::Timeout { height: 9, round: 1, step: StepTimeout::Precommit },
        Record::Polka(VoteBundle::new(BundleKind::Polka, polka).unwrap()),
        Record::Decided(certificate),
        Record::Evidence(Evidence::Votes(
            vote(VoteStep::Prevote, 1, 1),
            vote(VoteStep::Prevote, 2, 1),
        )),
        Record::Evidence(Evidence::Proposals(proposal(1), proposal(2))),
    ]
}

#[test]
fn records_have_one_encoding_and_its_hash_is_golden() {
    let mut all = Vec::new();
    for record in records() {
        let bytes = record.to_bytes();
        assert_eq!(Record::parse(&bytes, &*hasher()), Ok(record));
        for length in 0..bytes.len() {
            assert!(Record::parse(&bytes[..length], &*hasher()).is_err(), "cut at {length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Record::parse(&longer, &*hasher()).is_err());
        all.extend_from_slice(&bytes);
    }
    // Changing this digest changes the format of vote logs on disk: raise the record version with
    // it.
    let golden = "282e0883beedca630bed2a25bca5d5bcccafc69528c734dcb71486c137eb28a1";
    assert_eq!(Sm3::of(&[&all]).to_string(), golden);
}

#[test]
fn unknown_kinds_versions_and_reserved_bytes_are_refused() {
    let bytes = records()[8].to_bytes();
    for place in 0..8 {
        let mut changed = bytes.clone();
        changed[place] ^= 0x80;
        assert!(Record::parse(&changed, &*hasher()).is_err(), "byte {place}");
    }
    let mut other_height = records()[2].to_bytes();
    other_height[8] ^= 1;
    assert!(matches!(
        Record::parse(&other_height, &*hasher()),
        Err(DecodeError::Mismatch { stated: 8, actual: 9, .. })
    ));
}

#[test]
fn evidence_that_proves_nothing_is_refused() {
    let same = vote(VoteStep::Prevote, 1, 1);
    for evidence in [
        Evidence::Votes(same, same),
        Evidence::Votes(same, vote(VoteStep::Precommit, 2, 1)),
        Evidence::Votes(same, vote(VoteStep::Prevote, 2, 3)),
        Evidence::Proposals(proposal(1), proposal(1)),
    ] {
        assert!(Record::parse(&Record::Evidence(evidence).to_bytes(), &*hasher()).is_err());
    }
}

#[cfg(not(hufu_planted_bug = "guard_off"))]
#[test]
fn a_log_with_two_intents_at_one_position_is_refused() {
    let intent = |digest| {
        Record::SignIntent(SignIntent::Vote(vote(VoteStep::Prevote, digest, 1).vote)).to_bytes()
    };
    let (first, second) = (intent(1), intent(2));
    let again = RecoveredLog::read([&*first, &*first], 0, &*hasher()).unwrap();
    assert_eq!(again.heights().collect::<Vec<_>>(), [9]);
    let mut decided = RecoveredLog::read([&*first], 9, &*hasher()).unwrap();
    assert_eq!(decided.heights().count(), 0);
    assert_eq!(decided.guard.last().map(|position| position.height), Some(9));
    // Also where the records of decided heights are gone, as those that came by sync always are.
    let mut forgotten = RecoveredLog::read([], 9, &*hasher()).unwrap();
    let later = SignIntent::Vote(vote(VoteStep::Precommit, 1, 1).vote);
    for log in [&mut decided, &mut forgotten] {
        assert!(matches!(log.guard.admit(&later), Err(GuardError::Decided { decided: 9, .. })));
    }
    assert!(matches!(
        RecoveredLog::read([&*first, &*second], 0, &*hasher()),
        Err(RecoverError::Guard { index: 1, .. })
    ));
}

//! Between the library's bundles and certificates and hufu's.

use arc_malachitebft_core_types as core_types;
use core_types::{NilOrVal, Round, RoundCertificateType};
use hufu_types::codec::DecodeError;
use hufu_types::{CommitCertificate, CommitSignature, SignedVote};

use crate::context::{
    Context, Height, Voter, from_library_proposal, from_library_vote, round_number, vote_type,
};
use crate::message::{BundleKind, VoteBundle};
use crate::vote_log::Evidence;

pub(super) fn from_polka(
    context: &Context,
    polka: &core_types::PolkaCertificate<Context>,
) -> Result<VoteBundle, DecodeError> {
    let votes = polka.votes(context).map(|signed| from_library_vote(&signed)).collect();
    VoteBundle::new(BundleKind::Polka, votes)
}

pub(super) fn from_round(
    context: &Context,
    certificate: &core_types::RoundCertificate<Context>,
) -> Result<VoteBundle, DecodeError> {
    let kind = match certificate.cert_type {
        RoundCertificateType::Skip => BundleKind::SkipRound,
        RoundCertificateType::Precommit => BundleKind::LeaveRound,
    };
    let votes = certificate.votes(context).map(|signed| from_library_vote(&signed)).collect();
    VoteBundle::new(kind, votes)
}

/// A bundle as the input the library takes it by; `None` for a polka without a block, which no
/// bundle is.
pub(super) fn to_input(bundle: &VoteBundle) -> Option<super::coroutine::LibraryInput> {
    let (height, round) = (Height(bundle.height()), Round::new(bundle.round()));
    let cert_type = match bundle.kind() {
        BundleKind::Polka => {
            let polka_signatures = bundle.votes().iter().map(to_polka_signature).collect();
            let value_id = bundle.block()?;
            let polka = core_types::PolkaCertificate { height, round, value_id, polka_signatures };
            return Some(super::coroutine::LibraryInput::PolkaCertificate(polka));
        }
        BundleKind::SkipRound => RoundCertificateType::Skip,
        BundleKind::LeaveRound => RoundCertificateType::Precommit,
    };
    let round_signatures = bundle.votes().iter().map(to_round_signature).collect();
    let certificate = core_types::RoundCertificate { height, round, cert_type, round_signatures };
    Some(super::coroutine::LibraryInput::RoundCertificate(certificate))
}

fn to_polka_signature(signed: &SignedVote) -> core_types::PolkaSignature<Context> {
    core_types::PolkaSignature::new(Voter(signed.vote.validator), signed.signature)
}

fn to_round_signature(signed: &SignedVote) -> core_types::RoundSignature<Context> {
    let vote = &signed.vote;
    let value = vote.block().map_or(NilOrVal::Nil, NilOrVal::Val);
    let step = vote_type(vote.step());
    core_types::RoundSignature::new(step, value, Voter(vote.validator), signed.signature)
}

/// The library's commit certificate with its signatures by ascending address, one each.
pub(super) fn from_commit(
    certificate: &core_types::CommitCertificate<Context>,
) -> CommitCertificate {
    let make = |signed: &core_types::CommitSignature<Context>| CommitSignature {
        validator: signed.address.0,
        signature: signed.signature,
    };
    let mut signatures: Vec<CommitSignature> =
        certificate.commit_signatures.iter().map(make).collect();
    signatures.sort_by_key(|signed| signed.validator);
    signatures.dedup_by_key(|signed| signed.validator);
    CommitCertificate {
        height: certificate.height.0,
        round: round_number(certificate.round),
        block: certificate.value_id,
        signatures,
    }
}

pub(super) fn to_extended_commit(
    certificate: &CommitCertificate,
) -> core_types::ExtendedCommitCertificate<Context> {
    let make = |signed: &CommitSignature| {
        core_types::ExtendedCommitSignature::new(Voter(signed.validator), signed.signature, None)
    };
    core_types::ExtendedCommitCertificate {
        height: Height(certificate.height),
        round: Round::new(certificate.round),
        value_id: certificate.block,
        commit_signatures: certificate.signatures.iter().map(make).collect(),
    }
}

/// Double messages, votes first, by ascending address.
pub(super) fn from_evidence(
    evidence: &arc_malachitebft_core_consensus::MisbehaviorEvidence<Context>,
) -> Vec<Evidence> {
    let votes = evidence.votes.iter().flat_map(|(_, pairs)| pairs).map(|(first, second)| {
        Evidence::Votes(from_library_vote(first), from_library_vote(second))
    });
    let proposals =
        evidence.proposals.iter().flat_map(|(_, pairs)| pairs).map(|(first, second)| {
            Evidence::Proposals(from_library_proposal(first), from_library_proposal(second))
        });
    votes.chain(proposals).collect()
}

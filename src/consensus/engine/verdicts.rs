//! Signatures and certificates: verified once, remembered until their height has passed.
//!
//! A vote is verified when it comes in, and again asked for when it sits in a polka, a round
//! certificate and a commit certificate. The answer depends on nothing but bytes (a validator's
//! address is a hash of its key), so it is looked up the second time.

use std::collections::BTreeSet;

use hufu_crypto::{Verdict, Verifier, VerifyItem};
use hufu_types::vote::signing_digest;
use hufu_types::{Address, Signature, SignedProposal, SignedVote};
use zerocopy::IntoBytes as _;

use crate::message::{BundleKind, VoteBundle};
use crate::validators::Validators;

/// Verdicts remembered, count: 128 validators' votes of both steps for 64 rounds. Beyond it
/// signatures are verified anew.
pub const VERDICTS_COUNT_MAX: usize = 16_384;

/// A message whose signature was found good for the validator it names; only [`verify_votes`] and
/// [`verify_proposal`] make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    inner: T,
}

impl<T> Verified<T> {
    /// The verified message.
    pub const fn get(&self) -> &T {
        &self.inner
    }
}

/// Verifies votes in one batch: for tiles that do it ahead of the engine. `None` for a voter
/// outside the set and a bad signature.
#[must_use]
pub fn verify_votes(
    verifier: &dyn Verifier,
    validators: &Validators,
    votes: &[SignedVote],
) -> Vec<Option<Verified<SignedVote>>> {
    let claims: Vec<Claim<'_>> = votes.iter().map(Claim::from).collect();
    let verdicts = verify(verifier, validators, &claims);
    let judged = votes.iter().zip(verdicts);
    judged.map(|(vote, valid)| valid.then_some(Verified { inner: *vote })).collect()
}

/// Verifies one proposal. `None` for a proposer outside the set and a bad signature.
#[must_use]
pub fn verify_proposal(
    verifier: &dyn Verifier,
    validators: &Validators,
    signed: &SignedProposal,
) -> Option<Verified<SignedProposal>> {
    let valid = verify(verifier, validators, &[Claim::from(signed)]);
    (valid == [true]).then_some(Verified { inner: *signed })
}

/// That a validator signed these bytes.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) height: u64,
    pub(super) validator: Address,
    pub(super) message: &'a [u8],
    pub(super) signature: &'a Signature,
}

impl<'a> From<&'a SignedVote> for Claim<'a> {
    fn from(signed: &'a SignedVote) -> Self {
        let (height, validator) = (signed.vote.height.get(), signed.vote.validator);
        Self { height, validator, message: signed.vote.as_bytes(), signature: &signed.signature }
    }
}

impl<'a> From<&'a SignedProposal> for Claim<'a> {
    fn from(signed: &'a SignedProposal) -> Self {
        let proposal = &signed.proposal;
        let (height, validator) = (proposal.height.get(), proposal.validator);
        Self { height, validator, message: proposal.as_bytes(), signature: &signed.signature }
    }
}

/// One verdict for each claim; a validator outside the set has no key and is never right.
fn verify(verifier: &dyn Verifier, validators: &Validators, claims: &[Claim<'_>]) -> Vec<bool> {
    let mut items = Vec::with_capacity(claims.len());
    let mut places = Vec::with_capacity(claims.len());
    for (place, claim) in claims.iter().enumerate() {
        if let Some(member) = validators.get(&claim.validator) {
            let digest = signing_digest(claim.message, member.key());
            items.push(VerifyItem { key: member.key(), digest, signature: claim.signature });
            places.push(place);
        }
    }
    let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
    verifier.verify_many(&items, &mut verdicts);
    let mut valid = vec![false; claims.len()];
    for (place, verdict) in places.into_iter().zip(verdicts) {
        if let Some(slot) = valid.get_mut(place) {
            *slot = verdict == Verdict::Valid;
        }
    }
    valid
}

/// Why a bundle of votes proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BundleFault {
    Signature(Address),
    Power { found: u64, total: u64 },
}

/// Good signatures seen, by height.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    good: BTreeSet<(u64, Vec<u8>)>,
    asked: u64,
    known: u64,
}

impl Verdicts {
    /// Remembers a signature known to be good: one made here, or verified ahead.
    pub(super) fn remember(&mut self, claim: Claim<'_>) {
        if self.good.len() < VERDICTS_COUNT_MAX {
            self.good.insert(entry(&claim));
        }
    }

    /// Forgets what lies below `height`.
    pub(super) fn prune(&mut self, height: u64) {
        self.good = self.good.split_off(&(height, Vec::new()));
    }

    /// (Verdicts asked for, verdicts that were known).
    pub(super) const fn counts(&self) -> (u64, u64) {
        (self.asked, self.known)
    }

    /// Whether each claim is right; what is not known is verified in one batch.
    pub(super) fn judge(
        &mut self,
        verifier: &dyn Verifier,
        validators: &Validators,
        claims: &[Claim<'_>],
    ) -> Vec<bool> {
        let known: Vec<bool> =
            claims.iter().map(|claim| self.good.contains(&entry(claim))).collect();
        let open: Vec<Claim<'_>> = claims
            .iter()
            .zip(&known)
            .filter_map(|(claim, known)| (!known).then_some(*claim))
            .collect();
        let claims_count = u64::try_from(claims.len()).unwrap_or(u64::MAX);
        let open_count = u64::try_from(open.len()).unwrap_or(u64::MAX);
        self.asked = self.asked.saturating_add(claims_count);
        self.known = self.known.saturating_add(claims_count.saturating_sub(open_count));
        let mut verified = verify(verifier, validators, &open).into_iter();
        let mut verdicts = Vec::with_capacity(claims.len());
        for (claim, known) in claims.iter().zip(known) {
            let valid = known || verified.next() == Some(true);
            if valid && !known {
                self.remember(*claim);
            }
            verdicts.push(valid);
        }
        verdicts
    }

    /// Whether a bundle's votes are all good and weigh enough for what it justifies.
    pub(super) fn judge_bundle(
        &mut self,
        verifier: &dyn Verifier,
        validators: &Validators,
        bundle: &VoteBundle,
    ) -> Result<(), BundleFault> {
        let votes = bundle.votes();
        let claims: Vec<Claim<'_>> = votes.iter().map(Claim::from).collect();
        let verdicts = self.judge(verifier, validators, &claims);
        if let Some((bad, _)) = votes.iter().zip(verdicts).find(|(_, valid)| !valid) {
            return Err(BundleFault::Signature(bad.vote.validator));
        }
        // One vote a validator, or the sum would count it twice; the type says so.
        assert!(
            votes.is_sorted_by(|first, second| first.vote.validator < second.vote.validator),
            "a bundle holds one vote a validator"
        );
        let set = validators.set();
        let powers = votes.iter().filter_map(|signed| set.get(&signed.vote.validator));
        let found: u64 = powers.map(|validator| validator.power).sum();
        let total = set.power_total();
        let enough = match bundle.kind() {
            BundleKind::Polka | BundleKind::LeaveRound => set.is_quorum(found),
            // More than a third: at least one honest validator is there (Tendermint L55).
            BundleKind::SkipRound => found.saturating_mul(3) > total,
        };
        if enough { Ok(()) } else { Err(BundleFault::Power { found, total }) }
    }
}

fn entry(claim: &Claim<'_>) -> (u64, Vec<u8>) {
    let mut bytes = Vec::with_capacity(claim.message.len() + Signature::SIZE);
    bytes.extend_from_slice(claim.message);
    bytes.extend_from_slice(claim.signature.as_bytes());
    (claim.height, bytes)
}

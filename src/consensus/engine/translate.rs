//! The library's effects, one by one: what each becomes here, and what it is answered with.

use std::collections::BTreeSet;

use arc_malachitebft_core_consensus as library;
use arc_malachitebft_core_types as core_types;
use core_types::{CertificateError, SignedMessage, ValueOrigin};
use hufu_types::{Address, BlockDigest, Signature, SignedProposal, SignedVote, VoteStep};
use library::{ConsensusMsg, LivenessMsg, Resumable as _, SignedConsensusMsg};

use super::coroutine::{LibraryEffect, LibraryInput, LibraryResume};
use super::timers::{TimerId, timer};
use super::verdicts::{BundleFault, Claim};
use super::{
    BuildRequest, Decision, EFFECTS_HELD_COUNT_MAX, Effect, Engine, Error, PendingSign, Role,
    convert,
};
use crate::context::{
    Context, Height, Voter, from_library_proposal, from_library_vote, round_number,
};
use crate::durable::{LogTicket, SignTicket};
use crate::guard::{Admission, SignIntent};
use crate::message::{Message, VoteBundle};
use crate::validators::Validators;
use crate::vote_log::{BlockEntry, BlockVerdict, Record, StepTimeout};

type Answer = Option<LibraryResume>;
type Validity = Result<(), CertificateError<Context>>;

impl Engine {
    /// Carries out one effect. `None` means that the answer is a signature, which comes later.
    pub(super) fn answer(
        &mut self,
        now: u64,
        effect: LibraryEffect,
        out: &mut Vec<Effect>,
    ) -> Result<Answer, Error> {
        match effect {
            // The vote path: these wait for a signature.
            LibraryEffect::SignVote(ballot, _) => {
                return self.ask_signature(SignIntent::Vote(*ballot.wire()), out);
            }
            LibraryEffect::SignProposal(offer, _) => {
                return self.ask_signature(SignIntent::Proposal(*offer.wire()), out);
            }
            // Verdicts: pure computation.
            LibraryEffect::VerifySignature(signed, _key, resume) => {
                return Ok(Some(resume.resume_with(self.judge_signature(&signed))));
            }
            LibraryEffect::VerifyCommitCertificate(certificate, validators, _, resume) => {
                let verdict = self.judge_commit(&certificate, &validators);
                return Ok(Some(resume.resume_with(verdict)));
            }
            LibraryEffect::VerifyExtendedCommitCertificate(extended, validators, _, _, resume) => {
                let verdict = self.judge_commit(&extended.trim_vote_extensions(), &validators);
                return Ok(Some(resume.resume_with(verdict)));
            }
            LibraryEffect::VerifyPolkaCertificate(polka, validators, _, resume) => {
                let bundle = convert::from_polka(&self.context, &polka);
                let verdict = self.judge_bundle(bundle.ok(), &validators);
                return Ok(Some(resume.resume_with(verdict)));
            }
            LibraryEffect::VerifyRoundCertificate(certificate, validators, _, resume) => {
                let bundle = convert::from_round(&self.context, &certificate);
                let verdict = self.judge_bundle(bundle.ok(), &validators);
                return Ok(Some(resume.resume_with(verdict)));
            }
            // Vote extensions are disabled at every height, so neither of these is ever asked.
            LibraryEffect::ExtendVote(.., resume) => return Ok(Some(resume.resume_with(None))),
            LibraryEffect::VerifyVoteExtension(.., resume) => {
                let refused = library::VoteExtensionError::InvalidVoteExtension;
                return Ok(Some(resume.resume_with(Err(refused))));
            }
            other => self.act(now, other, out)?,
        }
        Ok(Some(LibraryResume::Continue))
    }

    /// Effects whose only answer is to go on.
    fn act(&mut self, now: u64, effect: LibraryEffect, out: &mut Vec<Effect>) -> Result<(), Error> {
        match effect {
            LibraryEffect::WalAppend(_, input, _) => self.log_input(&input, out)?,
            LibraryEffect::StartRound(height, round, proposer, role, _) => {
                self.round = round_number(round);
                let effect = round_started(height, round, &proposer, role);
                self.hold(self.log.appended(), None, effect)?;
            }
            LibraryEffect::PublishConsensusMsg(SignedConsensusMsg::Vote(signed), _)
            | LibraryEffect::RepublishVote(signed, _)
            | LibraryEffect::PublishLivenessMsg(LivenessMsg::Vote(signed), _) => {
                self.publish(Message::Vote(from_library_vote(&signed)))?;
            }
            LibraryEffect::PublishConsensusMsg(SignedConsensusMsg::Proposal(signed), _) => {
                self.publish(Message::Proposal(from_library_proposal(&signed)))?;
            }
            LibraryEffect::PublishLivenessMsg(LivenessMsg::PolkaCertificate(polka), _) => {
                let bundle = convert::from_polka(&self.context, &polka)?;
                self.publish(Message::Votes(bundle))?;
            }
            LibraryEffect::PublishLivenessMsg(LivenessMsg::SkipRoundCertificate(round), _)
            | LibraryEffect::RepublishRoundCertificate(round, _) => {
                let bundle = convert::from_round(&self.context, &round)?;
                self.publish(Message::Votes(bundle))?;
            }
            LibraryEffect::GetValue(height, round, timeout, _) => {
                let round = round_number(round);
                let deadline_nanos = match timer(height.0, timeout) {
                    Some(id) => self.deadline(now, id),
                    None => now,
                };
                self.ask_block(BuildRequest { round, deadline_nanos }, out);
            }
            LibraryEffect::RestreamProposal(height, round, _, _, value, _) => {
                self.restream(height.0, round_number(round), value, out);
            }
            LibraryEffect::ScheduleTimeout(timeout, _) => {
                if let Some(id) = timer(self.height, timeout) {
                    let deadline_nanos = self.deadline(now, id);
                    out.push(Effect::SetTimer { id, deadline_nanos });
                }
            }
            LibraryEffect::CancelTimeout(timeout, _) => {
                out.extend(timer(self.height, timeout).map(Effect::CancelTimer));
            }
            LibraryEffect::CancelAllTimeouts(_) => out.push(Effect::CancelTimers),
            LibraryEffect::Decide(certificate, _, _) => {
                self.decision = Some(convert::from_commit(&certificate));
            }
            LibraryEffect::Finalize(_, _, evidence, _) => {
                self.decided(&convert::from_evidence(&evidence), out)?;
            }
            // The block of a synced decision was handed in before its certificate, so this only
            // says what is known.
            LibraryEffect::CertVerifiedSyncValue(..) => {}
            LibraryEffect::CertRejectedSyncValue(_, _, error, _) => {
                return Err(Error::Library(error.to_string()));
            }
            answered => return Err(Error::Library(format!("effect without answer: {answered:?}"))),
        }
        Ok(())
    }

    fn deadline(&self, now: u64, id: TimerId) -> u64 {
        now.saturating_add(self.config.timeouts.nanos(id.kind, id.round))
    }

    /// The guard's rule, then the record, then the signer: never in another order.
    fn ask_signature(
        &mut self,
        intent: SignIntent,
        out: &mut Vec<Effect>,
    ) -> Result<Answer, Error> {
        assert!(self.signing.is_none(), "one signature at a time");
        assert_eq!(intent.position().height, self.height, "only the current height is signed for");
        let log = match self.guard.admit(&intent)? {
            Admission::First => self.append(&Record::SignIntent(intent), out),
            // On record since before the crash, which is what the last ticket durable stands for,
            // or since earlier in this run, in which case the last record appended lies behind it.
            Admission::Again => self.log.appended(),
        };
        self.sign_tickets += 1;
        let ticket = SignTicket(self.sign_tickets);
        self.signing = Some(PendingSign { ticket, intent, log, sent: false });
        self.send_sign(out);
        Ok(None)
    }

    /// The signed message as the coroutine waits for it. Our own signature was verified by the
    /// signer.
    pub(super) fn signed_answer(
        &mut self,
        intent: &SignIntent,
        signature: Signature,
    ) -> LibraryResume {
        match intent {
            SignIntent::Vote(vote) => {
                self.verdicts.remember(Claim::from(&SignedVote { vote: *vote, signature }));
                LibraryResume::SignedVote(SignedMessage::new((*vote).into(), signature))
            }
            SignIntent::Proposal(proposal) => {
                let signed = SignedProposal { proposal: *proposal, signature };
                self.verdicts.remember(Claim::from(&signed));
                LibraryResume::SignedProposal(SignedMessage::new((*proposal).into(), signature))
            }
        }
    }

    fn judge_signature(&mut self, signed: &SignedMessage<Context, ConsensusMsg<Context>>) -> bool {
        let Some(validators) = self.validators.clone() else {
            return false;
        };
        let verifier = &*self.config.provider.verifier;
        let verdict = match &signed.message {
            ConsensusMsg::Vote(ballot) => {
                let signed = SignedVote { vote: *ballot.wire(), signature: signed.signature };
                self.verdicts.judge(verifier, &validators, &[Claim::from(&signed)])
            }
            ConsensusMsg::Proposal(offer) => {
                let signed =
                    SignedProposal { proposal: *offer.wire(), signature: signed.signature };
                self.verdicts.judge(verifier, &validators, &[Claim::from(&signed)])
            }
        };
        verdict == [true]
    }

    fn judge_bundle(&mut self, bundle: Option<VoteBundle>, validators: &Validators) -> Validity {
        let Some(bundle) = bundle else {
            return Err(CertificateError::VerificationError(None));
        };
        let verifier = &*self.config.provider.verifier;
        self.verdicts.judge_bundle(verifier, validators, &bundle).map_err(|fault| match fault {
            BundleFault::Signature(validator) => {
                CertificateError::UnknownValidator(Voter(validator))
            }
            BundleFault::Power { found, total } => not_enough(found, total),
        })
    }

    fn judge_commit(
        &mut self,
        certificate: &core_types::CommitCertificate<Context>,
        validators: &Validators,
    ) -> Validity {
        let mut seen = BTreeSet::new();
        let mut votes = Vec::with_capacity(certificate.commit_signatures.len());
        let mut found: u64 = 0;
        for signed in &certificate.commit_signatures {
            if !seen.insert(signed.address) {
                return Err(CertificateError::DuplicateVote(signed.address));
            }
            let power = validators.set().get(&signed.address.0).map(|validator| validator.power);
            let Some(power) = power else {
                return Err(CertificateError::UnknownValidator(signed.address));
            };
            found = found.saturating_add(power);
            let vote = hufu_types::Vote::new(
                self.config.chain_id,
                VoteStep::Precommit,
                certificate.height.0,
                round_number(certificate.round),
                Some(certificate.value_id),
                signed.address.0,
            );
            votes.push(SignedVote { vote, signature: signed.signature });
        }
        let claims: Vec<Claim<'_>> = votes.iter().map(Claim::from).collect();
        let verifier = &*self.config.provider.verifier;
        let verdicts = self.verdicts.judge(verifier, validators, &claims);
        let bad = certificate.commit_signatures.iter().zip(verdicts).find(|(_, valid)| !valid);
        if let Some((bad, _)) = bad {
            return Err(CertificateError::InvalidCommitSignature(bad.clone()));
        }
        let total = validators.set().power_total();
        if validators.set().is_quorum(found) { Ok(()) } else { Err(not_enough(found, total)) }
    }

    /// An input that moved the engine, on its way to the log; not again when it came from there.
    fn log_input(&mut self, input: &LibraryInput, out: &mut Vec<Effect>) -> Result<(), Error> {
        let record = self.record_of(input)?;
        let is_known = self.replay.as_ref().is_some_and(|replay| replay.holds(&record));
        if !is_known {
            let _ticket: LogTicket = self.append(&record, out);
        }
        Ok(())
    }

    fn record_of(&self, input: &LibraryInput) -> Result<Record, Error> {
        let own = self.config.address;
        Ok(match input {
            LibraryInput::Vote(signed) => {
                let signed = from_library_vote(signed);
                let is_own = signed.vote.validator == own;
                if is_own { Record::OwnVote(signed) } else { Record::Vote(signed) }
            }
            LibraryInput::Proposal(signed) => {
                let signed = from_library_proposal(signed);
                let is_own = signed.proposal.validator == own;
                if is_own { Record::OwnProposal(signed) } else { Record::Proposal(signed) }
            }
            LibraryInput::ProposedValue(value, origin) => {
                let (height, block) = (value.height.0, value.value.0);
                let verdict = if value.validity.is_valid() {
                    let held = self.blocks.get(&(height, block)).cloned();
                    BlockVerdict::Valid(held.ok_or(Error::BlockMissing { height, block })?)
                } else {
                    BlockVerdict::Invalid(block)
                };
                let round = round_number(value.round);
                let synced = matches!(origin, ValueOrigin::Sync);
                let entry = BlockEntry { round, proposer: value.proposer.0, synced, verdict };
                Record::Block { height, entry }
            }
            LibraryInput::TimeoutElapsed(timeout) => {
                let step = match timeout.kind {
                    core_types::TimeoutKind::Propose => StepTimeout::Propose,
                    core_types::TimeoutKind::Prevote => StepTimeout::Prevote,
                    core_types::TimeoutKind::Precommit => StepTimeout::Precommit,
                    other => return Err(Error::Library(format!("timer {other:?} in the log"))),
                };
                Record::Timeout { height: self.height, round: round_number(timeout.round), step }
            }
            LibraryInput::PolkaCertificate(polka) => {
                Record::Polka(convert::from_polka(&self.context, polka)?)
            }
            other => return Err(Error::Library(format!("input {other:?} in the log"))),
        })
    }

    /// Sends a message once all that led to it is durable; one that tells our precommit for a
    /// block, also its batches.
    ///
    /// For a vote or proposal of our own, that is so when it is signed: the intent with its bytes
    /// is durable, and with it every record before. A crash that loses the record of the signature
    /// has the same bytes signed again, so nobody waits for another write (ADR 0009).
    pub(super) fn publish(&mut self, message: Message) -> Result<(), Error> {
        let own = self.config.address;
        let tells = message.votes().iter().find(|signed| {
            signed.vote.validator == own && signed.vote.step() == VoteStep::Precommit
        });
        let batches = tells
            .and_then(|signed| signed.vote.block().map(|block| (signed.vote.height.get(), block)));
        let log = match message {
            Message::Vote(_) | Message::Proposal(_) => self.log.durable(),
            Message::Votes(_) => self.log.appended(),
        };
        self.hold(log, batches, Effect::Publish(message))
    }

    fn hold(
        &mut self,
        log: LogTicket,
        batches: Option<(u64, BlockDigest)>,
        effect: Effect,
    ) -> Result<(), Error> {
        if self.gate.hold(log, batches, effect) {
            Ok(())
        } else {
            Err(Error::GateFull { limit: EFFECTS_HELD_COUNT_MAX })
        }
    }

    fn ask_block(&mut self, request: BuildRequest, out: &mut Vec<Effect>) {
        self.build = Some(request);
        self.built = None;
        // On replay the log may answer, so the question waits until it is exhausted.
        if self.replay.is_none() {
            self.send_build(out);
        }
    }

    pub(super) fn send_build(&self, out: &mut Vec<Effect>) {
        if let Some(BuildRequest { round, deadline_nanos }) = self.build {
            out.push(Effect::BuildBlock { height: self.height, round, deadline_nanos });
        }
    }

    pub(super) fn restream(
        &self,
        height: u64,
        round: u32,
        block: BlockDigest,
        out: &mut Vec<Effect>,
    ) {
        let held = self.blocks.get(&(height, block)).cloned();
        out.extend(held.map(|block| Effect::RestreamBlock { height, round, block }));
    }

    fn decided(
        &mut self,
        evidence: &[crate::vote_log::Evidence],
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        let certificate = self.decision.take();
        let certificate = certificate
            .ok_or_else(|| Error::Library("a height was finished without a decision".to_owned()))?;
        for evidence in evidence {
            let _ticket: LogTicket = self.append(&Record::Evidence(*evidence), out);
        }
        let _ticket: LogTicket = self.append(&Record::Decided(certificate.clone()), out);
        self.hold_decision(certificate, evidence.to_vec())
    }

    /// The decision leaves once the block's batches are durable here. Its own record is not waited
    /// for, since the block log gets the certificate with the block before anything is built on
    /// them; only evidence, which is nowhere else, must be on disk (ADR 0009).
    pub(super) fn hold_decision(
        &mut self,
        certificate: hufu_types::CommitCertificate,
        evidence: Vec<crate::vote_log::Evidence>,
    ) -> Result<(), Error> {
        let (height, digest) = (certificate.height, certificate.block);
        assert_eq!(height, self.height, "the current height is decided");
        let held = self.blocks.get(&(height, digest)).cloned();
        let block = held.ok_or(Error::BlockMissing { height, block: digest })?;
        self.is_decided = true;
        self.build = None;
        self.built = None;
        let round = certificate.round;
        let decision = Decision { height, round, block, certificate, evidence };
        let has_evidence = !decision.evidence.is_empty();
        let log = if has_evidence { self.log.appended() } else { self.log.durable() };
        self.hold(log, Some((height, digest)), Effect::Decided(Box::new(decision)))
    }
}

fn not_enough(signed: u64, total: u64) -> CertificateError<Context> {
    let expected = total.saturating_mul(2) / 3 + 1;
    CertificateError::NotEnoughVotingPower { signed, total, expected }
}

fn round_started(
    height: Height,
    round: core_types::Round,
    proposer: &Voter,
    role: library::Role,
) -> Effect {
    let role = match role {
        library::Role::Proposer => Role::Proposer,
        library::Role::Validator => Role::Validator,
        library::Role::None => Role::Observer,
    };
    let proposer: Address = proposer.0;
    Effect::RoundStarted { height: height.0, round: round_number(round), proposer, role }
}

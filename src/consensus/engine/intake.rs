//! Messages and blocks from outside: which are taken in, which are given back, and as what the
//! library gets them.

use arc_malachitebft_core_consensus::{LocallyProposedValue, PeerId, ProposedValue};
use arc_malachitebft_core_types::{Round, Validity, ValueOrigin, ValueResponse};
use hufu_types::{Address, Block, BlockDigest, CommitCertificate, SignedProposal, SignedVote};

use super::coroutine::LibraryInput;
use super::verdicts::Claim;
use super::{
    BLOCKS_HELD_COUNT_MAX, Effect, Engine, HEIGHTS_AHEAD_COUNT_MAX, INPUTS_QUEUED_COUNT_MAX, Input,
    ROUND_BLOCKS_COUNT_MAX, ROUNDS_AHEAD_COUNT_MAX, Refusal, convert,
};
use crate::context::{BlockValue, Context, Height, Voter, to_library_proposal, to_library_vote};
use crate::vote_log::BlockVerdict;

/// The library wants to know which peer sent a decision, to name it in a complaint. It never
/// complains here, since the certificate is verified first; so all peers bear the shortest name:
/// identity code, no bytes.
const PEER_NAME: [u8; 2] = [0, 0];

impl Engine {
    /// Takes in a message that may have to wait.
    pub(super) fn accept_message(&mut self, input: Input, out: &mut Vec<Effect>) {
        if let Some(reason) = self.check_message(&input) {
            let again = matches!(reason, Refusal::QueueFull | Refusal::HeldFull);
            self.refuse(reason, again.then_some(input), out);
            return;
        }
        match input {
            Input::Vote(signed) => self.queue_vote(&signed),
            Input::VoteVerified(verified) => {
                self.verdicts.remember(Claim::from(verified.get()));
                self.queue_vote(verified.get());
            }
            Input::Proposal(signed) => self.queue_proposal(&signed),
            Input::ProposalVerified(verified) => {
                self.verdicts.remember(Claim::from(verified.get()));
                self.queue_proposal(verified.get());
            }
            Input::Votes(bundle) => self.queue.extend(convert::to_input(&bundle)),
            Input::BlockReceived { height, round, proposer, verdict } => {
                self.queue_block(height, round, proposer, verdict, out);
            }
            Input::Synced { certificate, block } => self.accept_synced(&certificate, block, out),
            Input::StartHeight { .. }
            | Input::BlockBuilt { .. }
            | Input::BatchesDurable { .. }
            | Input::VoteLogDurable(_)
            | Input::Signed { .. }
            | Input::SignFailed { .. }
            | Input::TimerFired(_) => {}
        }
    }

    /// Why a message is not taken in.
    fn check_message(&self, input: &Input) -> Option<Refusal> {
        let (height, chain_id) = match input {
            Input::Vote(signed) => (signed.vote.height.get(), signed.vote.prefix.chain_id),
            Input::VoteVerified(signed) => {
                (signed.get().vote.height.get(), signed.get().vote.prefix.chain_id)
            }
            Input::Proposal(signed) => {
                (signed.proposal.height.get(), signed.proposal.prefix.chain_id)
            }
            Input::ProposalVerified(signed) => {
                (signed.get().proposal.height.get(), signed.get().proposal.prefix.chain_id)
            }
            Input::Votes(bundle) => {
                let mut chains = bundle.votes().iter().map(|signed| signed.vote.prefix.chain_id);
                let own = self.config.chain_id;
                (bundle.height(), chains.find(|chain| *chain != own).unwrap_or(own))
            }
            Input::BlockReceived { height, verdict: BlockVerdict::Valid(block), .. } => {
                (*height, block.header().prefix.chain_id)
            }
            Input::BlockReceived { height, .. } => (*height, self.config.chain_id),
            Input::Synced { block, .. } => (block.height(), block.header().prefix.chain_id),
            _ => return None,
        };
        if chain_id != self.config.chain_id {
            return Some(Refusal::WrongChain);
        }
        if height < self.height || (self.is_decided && height == self.height) {
            return Some(Refusal::HeightPassed);
        }
        let ahead = height.saturating_sub(self.height);
        let limit = if matches!(input, Input::Synced { .. }) { 0 } else { HEIGHTS_AHEAD_COUNT_MAX };
        if ahead > limit {
            return Some(Refusal::HeightFarAhead);
        }
        if self.queue.len() >= INPUTS_QUEUED_COUNT_MAX {
            return Some(Refusal::QueueFull);
        }
        let Input::BlockReceived { height, round, verdict, .. } = input else { return None };
        self.check_block(*height, *round, verdict.digest())
    }

    /// Why a proposed block is not taken in. A block that comes with its certificate is never
    /// weighed against those that were only proposed.
    fn check_block(&self, height: u64, round: u32, block: BlockDigest) -> Option<Refusal> {
        let current = if height == self.height { self.round } else { 0 };
        if round > current.saturating_add(ROUNDS_AHEAD_COUNT_MAX) {
            return Some(Refusal::RoundFarAhead);
        }
        let received = self.received.get(&(height, round)).map_or(&[][..], Vec::as_slice);
        if received.len() >= ROUND_BLOCKS_COUNT_MAX || received.contains(&block) {
            return Some(Refusal::BlockSurplus);
        }
        (self.blocks.len() >= BLOCKS_HELD_COUNT_MAX).then_some(Refusal::HeldFull)
    }

    fn queue_vote(&mut self, signed: &SignedVote) {
        self.queue.push_back(LibraryInput::Vote(to_library_vote(signed)));
    }

    fn queue_proposal(&mut self, signed: &SignedProposal) {
        self.queue.push_back(LibraryInput::Proposal(to_library_proposal(signed)));
    }

    fn queue_block(
        &mut self,
        height: u64,
        round: u32,
        proposer: Address,
        verdict: BlockVerdict,
        out: &mut Vec<Effect>,
    ) {
        self.received.entry((height, round)).or_default().push(verdict.digest());
        let validity = Validity::from_bool(matches!(verdict, BlockVerdict::Valid(_)));
        let value = proposed_value(height, round, proposer, verdict.digest(), validity);
        if let BlockVerdict::Valid(block) = verdict {
            // A block that names another height than its proposal is the tile's mistake, for it
            // judged it valid.
            assert_eq!(
                block.height(),
                height,
                "a valid block is of the height it was proposed for"
            );
            self.hold_block(block, out);
        }
        self.queue.push_back(LibraryInput::ProposedValue(value, ValueOrigin::Consensus));
    }

    /// Keeps a block for its height, and asks for its batches unless they are known to be durable.
    pub(super) fn hold_block(&mut self, block: Block, out: &mut Vec<Effect>) {
        let (height, digest) = (block.height(), block.digest());
        if block.batches().is_empty() {
            // Nothing to write, so nothing to wait for. A full set of marks is left to
            // `batches_durable` to refuse.
            let _marked: bool = self.gate.batches_durable(height, digest);
        }
        if !self.gate.has_batches(height, digest) && !self.blocks.contains_key(&(height, digest)) {
            out.push(Effect::NeedBatches { height, block: block.clone() });
        }
        self.blocks.insert((height, digest), block);
    }

    /// The batches of a block are durable here.
    pub(super) fn batches_durable(
        &mut self,
        height: u64,
        block: BlockDigest,
        out: &mut Vec<Effect>,
    ) {
        if height < self.height {
            return;
        }
        if height.saturating_sub(self.height) > HEIGHTS_AHEAD_COUNT_MAX {
            self.refuse(Refusal::HeightFarAhead, None, out);
        } else if !self.gate.batches_durable(height, block) {
            let input = Input::BatchesDurable { height, block };
            self.refuse(Refusal::HeldFull, Some(input), out);
        } else {
            self.propose_built();
        }
    }

    /// Our own block. It is proposed once its batches are durable here: a proposal signed for a
    /// block whose batches a crash may lose would leave a single validator bound to a block that
    /// nobody has.
    pub(super) fn block_built(&mut self, round: u32, block: Block, out: &mut Vec<Effect>) {
        let asked = self.build.is_some_and(|request| request.round == round);
        let fits = block.height() == self.height
            && block.header().prefix.chain_id == self.config.chain_id
            && block.header().proposer == self.config.address;
        if !asked || !fits || self.is_decided || self.replay.is_some() {
            self.refuse(Refusal::BlockUnasked, None, out);
            return;
        }
        self.build = None;
        self.hold_block(block.clone(), out);
        self.built = Some((round, block));
        self.propose_built();
    }

    fn propose_built(&mut self) {
        let height = self.height;
        let gate = &self.gate;
        let ready = self.built.take_if(|(_, block)| gate.has_batches(height, block.digest()));
        if let Some((round, block)) = ready {
            self.queue.push_back(propose(height, round, block.digest()));
        }
    }

    /// The decision of this height from a peer. The certificate is verified before the library sees
    /// it, so that a peer without one cannot make it store anything.
    fn accept_synced(
        &mut self,
        certificate: &CommitCertificate,
        block: Block,
        out: &mut Vec<Effect>,
    ) {
        let Some(validators) = self.validators.clone() else {
            return self.refuse(Refusal::HeightFarAhead, None, out);
        };
        let names_block =
            certificate.height == block.height() && certificate.block == block.digest();
        let verifier = &*self.config.provider.verifier;
        let proves = certificate.verify(self.config.chain_id, validators.set(), verifier);
        if !names_block || proves.is_err() {
            return self.refuse(Refusal::CertificateInvalid, None, out);
        }
        let Ok(peer) = PeerId::from_bytes(&PEER_NAME) else {
            return self.refuse(Refusal::CertificateInvalid, None, out);
        };
        let (height, round, digest) = (certificate.height, certificate.round, certificate.block);
        let proposer = validators.proposer(height, round).address();
        self.hold_block(block, out);
        let value = proposed_value(height, round, proposer, digest, Validity::Valid);
        self.queue.push_back(LibraryInput::ProposedValue(value, ValueOrigin::Sync));
        let extended = convert::to_extended_commit(certificate);
        let response = ValueResponse::new(peer, Default::default(), extended);
        self.queue.push_back(LibraryInput::SyncValueResponse(response));
    }
}

/// A block as the library takes it from outside.
pub(super) fn proposed_value(
    height: u64,
    round: u32,
    proposer: Address,
    block: BlockDigest,
    validity: Validity,
) -> ProposedValue<Context> {
    ProposedValue {
        height: Height(height),
        round: Round::new(round),
        valid_round: Round::Nil,
        proposer: Voter(proposer),
        value: BlockValue(block),
        validity,
    }
}

/// Our own block as the library takes it.
pub(super) fn propose(height: u64, round: u32, block: BlockDigest) -> LibraryInput {
    LibraryInput::Propose(LocallyProposedValue::new(
        Height(height),
        Round::new(round),
        BlockValue(block),
    ))
}

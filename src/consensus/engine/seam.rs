//! The seam: what an ordering engine is told and what it asks for. Nothing in it knows which engine
//! is behind it.

use hufu_types::{
    Address, Block, BlockDigest, CommitCertificate, Signature, SignedProposal, SignedVote,
};

use super::timers::TimerId;
use super::verdicts::Verified;
use crate::durable::{Durable, LogTicket, SignTicket};
use crate::guard::SignIntent;
use crate::message::{Message, VoteBundle};
use crate::validators::Validators;
use crate::vote_log::{BlockVerdict, Evidence};

/// What the engine is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// Work on this height; the block before it is durable in the block log. Records of the height
    /// found at start are replayed first.
    StartHeight {
        /// The height, above every one started before.
        height: u64,
        /// Its validators.
        validators: Validators,
    },
    /// A vote came in; the engine verifies it.
    Vote(SignedVote),
    /// A vote came in and was verified ahead.
    VoteVerified(Verified<SignedVote>),
    /// A proposal came in; the engine verifies it.
    Proposal(SignedProposal),
    /// A proposal came in and was verified ahead.
    ProposalVerified(Verified<SignedProposal>),
    /// A bundle of votes came in; the engine verifies it.
    Votes(VoteBundle),
    /// The answer to [`Effect::BuildBlock`].
    BlockBuilt {
        /// Round it was built for.
        round: u32,
        /// The block.
        block: Block,
    },
    /// A proposed block is held here, header and all batches, and was judged.
    BlockReceived {
        /// Its height.
        height: u64,
        /// Round of the proposal.
        round: u32,
        /// The proposer of that round.
        proposer: Address,
        /// The verdict.
        verdict: BlockVerdict,
    },
    /// All batches of this block are durable here; may come before the block. Blocks without
    /// batches need none.
    BatchesDurable {
        /// Height of the block.
        height: u64,
        /// The block.
        block: BlockDigest,
    },
    /// All records up to this one are durable.
    VoteLogDurable(LogTicket),
    /// The answer to [`Effect::Sign`], verified by the signer.
    Signed {
        /// Which request.
        ticket: SignTicket,
        /// The signature.
        signature: Signature,
    },
    /// The signer gave up. The engine stops: nothing can be signed at later positions before this
    /// one is known to be unsigned.
    SignFailed {
        /// Which request.
        ticket: SignTicket,
    },
    /// A timer fired.
    TimerFired(TimerId),
    /// A peer sent the decision of the current height; the block was judged valid.
    Synced {
        /// Proof of the decision; the engine verifies it.
        certificate: CommitCertificate,
        /// The block.
        block: Block,
    },
}

/// What this validator is in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It proposes.
    Proposer,
    /// It votes.
    Validator,
    /// It only follows.
    Observer,
}

/// A decided block with everything that goes into the block log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Height.
    pub height: u64,
    /// Round of the certificate.
    pub round: u32,
    /// The block.
    pub block: Block,
    /// Signatures by ascending address.
    pub certificate: CommitCertificate,
    /// Double messages seen at this height.
    pub evidence: Vec<Evidence>,
}

/// Why an input was not taken in. Each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refusal {
    /// The queue is full while a signature is outstanding: push back and offer it again.
    QueueFull = 0,
    /// Too many blocks or marks are held for this height: offer it again later.
    HeldFull = 1,
    /// It belongs to another chain.
    WrongChain = 2,
    /// Its height has passed, or is decided.
    HeightPassed = 3,
    /// Its height is far ahead: this node lags and needs catch-up.
    HeightFarAhead = 4,
    /// A block that was not asked for, or no longer.
    BlockUnasked = 5,
    /// A signature that was not asked for, or no longer.
    SignatureUnasked = 6,
    /// A certificate that proves nothing.
    CertificateInvalid = 7,
    /// A block of a round far ahead of this one: votes would have to carry this node there first.
    RoundFarAhead = 8,
    /// A block that came before, or one more than a round can have: whoever proposes more than one
    /// must not fill what honest proposers need.
    BlockSurplus = 9,
}

/// How many refusals there are.
pub const REFUSALS_COUNT: usize = 10;

/// What the engine asks for. An effect may be acted on as soon as it is seen: what must wait for
/// the disk was held back.
#[derive(Clone, Debug)]
#[must_use]
pub enum Effect {
    /// Append to the vote log, in this order. Make durable at the latest when
    /// [`super::Engine::awaits_durable`] names it.
    AppendVoteLog {
        /// Number of the record.
        ticket: LogTicket,
        /// Height it belongs to.
        height: u64,
        /// The record.
        record: Vec<u8>,
    },
    /// Sign these bytes and answer.
    Sign {
        /// Which request.
        ticket: SignTicket,
        /// What to sign; its record is durable.
        intent: Durable<SignIntent>,
    },
    /// Send to all validators.
    Publish(Message),
    /// Build a block of durable batches and answer with [`Input::BlockBuilt`]; an answer after the
    /// deadline is likely in vain.
    BuildBlock {
        /// Height.
        height: u64,
        /// Round.
        round: u32,
        /// When the round gives up waiting, on the clock given to `step`.
        deadline_nanos: u64,
    },
    /// Tell with [`Input::BatchesDurable`] once all batches of this block are durable here; fetch
    /// what is missing.
    NeedBatches {
        /// Height of the block.
        height: u64,
        /// The block.
        block: Block,
    },
    /// Send this block to peers again, ahead of its proposal.
    RestreamBlock {
        /// Height.
        height: u64,
        /// Round of the proposal.
        round: u32,
        /// The block.
        block: Block,
    },
    /// A round has begun: for people and metrics.
    RoundStarted {
        /// Height.
        height: u64,
        /// Round.
        round: u32,
        /// Who proposes.
        proposer: Address,
        /// What this validator is in it.
        role: Role,
    },
    /// Fire at this time on the clock given to `step`; replaces an earlier deadline of the same
    /// timer.
    SetTimer {
        /// The timer.
        id: TimerId,
        /// When.
        deadline_nanos: u64,
    },
    /// Forget this timer.
    CancelTimer(TimerId),
    /// Forget all timers.
    CancelTimers,
    /// The height is decided, and its batches are durable here: write it to the block log, then
    /// start the next height.
    Decided(Box<Decision>),
    /// An input was not taken in.
    Refused {
        /// Why.
        reason: Refusal,
        /// The input, given back where offering it again makes sense.
        input: Option<Box<Input>>,
    },
}

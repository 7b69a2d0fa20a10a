//! The seam of a replica: what its node tells it and what it asks the node for.

use hufu_types::{Address, Batch, BatchDigest, Block, BlockDigest, CommitCertificate, Signature};

use crate::durable::{Durable, LogTicket, SignTicket};
use crate::engine::{self, Role};
use crate::guard::SignIntent;
use crate::header::{ExecutedRoots, HeaderError};
use crate::message::Message;
use crate::vote_log::Evidence;

/// The two clocks of a node, read once for each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Monotonic, nanoseconds.
    pub nanos: u64,
    /// Wall clock, milliseconds since 1970.
    pub wall_millis: u64,
}

/// What a replica is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// The link to this validator is open.
    PeerUp(Address),
    /// The link to this validator has ended.
    PeerDown(Address),
    /// A consensus message came over the link of this validator; its signatures are verified here.
    Message {
        /// Whose link.
        from: Address,
        /// The message.
        message: Message,
    },
    /// A proposed block came over the link of this validator.
    Block {
        /// Whose link.
        from: Address,
        /// Round it is proposed in.
        round: u32,
        /// The block.
        block: Block,
    },
    /// The last height decided and durable at this validator.
    Tip {
        /// Whose.
        from: Address,
        /// The height.
        height: u64,
    },
    /// A decided height that was asked of this validator.
    Height {
        /// Whose link.
        from: Address,
        /// The block.
        block: Block,
        /// What it says decided it; verified here.
        certificate: CommitCertificate,
    },
    /// The answer to [`Effect::Propose`]: there is something to order, or an empty block is wanted.
    Candidates {
        /// Height asked for.
        height: u64,
        /// Durable batches to order; may be empty.
        batches: Vec<Batch>,
    },
    /// All batches of this block are here and each of their transactions is verified.
    Available {
        /// The block.
        block: BlockDigest,
        /// Its batches, in its order.
        batches: Vec<Batch>,
    },
    /// All batches of this block are durable here.
    Durable {
        /// The block.
        block: BlockDigest,
        /// Its batches, in its order.
        batches: Vec<Batch>,
    },
    /// A batch of this block is not valid.
    Invalid {
        /// The block.
        block: BlockDigest,
    },
    /// All vote-log records up to this one are durable.
    VoteLogDurable(LogTicket),
    /// The answer to [`Effect::Sign`], verified by the signer.
    Signed {
        /// Which request.
        ticket: SignTicket,
        /// The signature.
        signature: Signature,
    },
    /// The signer gave up; the replica stops.
    SignFailed(SignTicket),
    /// The block of this height is durable in the block log.
    HeightDurable(u64),
    /// A height was executed.
    Executed(ExecutedRoots),
    /// Time has passed; see [`super::Replica::deadline`].
    Tick,
}

/// A decided block with all that is recorded of it.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Header and batch digests.
    pub block: Block,
    /// The quorum that decided it.
    pub certificate: CommitCertificate,
    /// Its bodies, in order, each durable here.
    pub batches: Vec<Batch>,
    /// Double messages seen at its height.
    pub evidence: Vec<Evidence>,
}

/// What a peer did that an honest one does not. Each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Blame {
    /// It sent a block out of its turn, or more blocks than it has turns.
    BlockUnasked = 0,
    /// Its block breaks the rules of headers or of what a block may order.
    BlockInvalid = 1,
    /// It sent a decided height that was not asked of it.
    HeightUnasked = 2,
    /// It sent a decided height whose certificate proves nothing, or that does not follow.
    HeightInvalid = 3,
    /// It did not send what its tip promises.
    HeightMissing = 4,
}

impl core::fmt::Display for Blame {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str(match self {
            Self::BlockUnasked => "a block out of its turn",
            Self::BlockInvalid => "an invalid block",
            Self::HeightUnasked => "a decided height that was not asked for",
            Self::HeightInvalid => "a decided height whose certificate proves nothing",
            Self::HeightMissing => "decided heights that its tip promised did not come",
        })
    }
}

/// How many kinds of [`Blame`] there are.
pub const BLAMES_COUNT: usize = 5;

/// What a replica asks for. All may be acted on as soon as they are seen, in their order.
#[derive(Clone, Debug)]
#[must_use]
pub enum Effect {
    /// Append to the vote log.
    AppendVoteLog {
        /// Number of the record.
        ticket: LogTicket,
        /// The record.
        record: Vec<u8>,
    },
    /// Make the vote log durable up to this record and say so.
    SyncVoteLog(LogTicket),
    /// The block of this height is in the block log: its votes are only history from here on.
    SealVoteLog(u64),
    /// This validator's probation is over, durably so before anything after this effect is.
    EndProbation,
    /// Sign and answer.
    Sign {
        /// Which request.
        ticket: SignTicket,
        /// What to sign; its record is durable.
        intent: Durable<SignIntent>,
    },
    /// Send to all peers whose links are open.
    Publish(Message),
    /// Send to one peer.
    Send {
        /// To whom.
        to: Address,
        /// What.
        message: Message,
    },
    /// Send a proposed block to one peer or to all, ahead of its proposal.
    SendBlock {
        /// To whom; to all where nobody is named.
        to: Option<Address>,
        /// Round it is proposed in.
        round: u32,
        /// The block.
        block: Block,
    },
    /// Tell all peers, also those whose links open later, what the last height is that is durable
    /// here.
    AnnounceTip {
        /// The height.
        height: u64,
        /// Its block.
        block: BlockDigest,
    },
    /// Ask a peer for decided heights.
    AskHeights {
        /// Whom.
        to: Address,
        /// The first.
        from: u64,
        /// How many.
        count: u32,
    },
    /// Which durable batches should the next block order? Answered when there is something, or at
    /// once with nothing where that is allowed.
    Propose {
        /// Height of the block.
        height: u64,
        /// Round of the proposal.
        round: u32,
        /// Whether an empty answer is wanted too.
        allow_empty: bool,
    },
    /// Get the batches of a proposed block.
    Need {
        /// Height of the block.
        height: u64,
        /// The block.
        block: BlockDigest,
        /// Its batches.
        batches: Vec<BatchDigest>,
        /// Who proposed it and has them if he is honest.
        proposer: Address,
    },
    /// Get the batches of a block that a certificate decided.
    NeedDecided {
        /// Height of the block.
        height: u64,
        /// The block.
        block: BlockDigest,
        /// Its batches.
        batches: Vec<BatchDigest>,
        /// Who sent the block and has them if he is honest.
        holder: Address,
    },
    /// A block was decided; its batches are no longer waiting.
    Ordered {
        /// Its height.
        height: u64,
        /// Its batches.
        batches: Vec<BatchDigest>,
    },
    /// Write to the block log and answer [`Input::HeightDurable`]; then execute.
    Write(Box<Decided>),
    /// For counters.
    Note(Note),
}

/// Something that happened, for counters and people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A round has begun.
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
    /// An input was refused by the engine.
    Refused(engine::Refusal),
    /// A peer broke a rule.
    Blame(Address, Blame),
    /// A proposed block was judged invalid, and why as far as its header goes.
    Judged {
        /// Height.
        height: u64,
        /// Who proposed it.
        proposer: Address,
        /// The header's fault; `None` for what it orders.
        fault: Option<HeaderError>,
    },
    /// A height was taken over from peers instead of voted on.
    CaughtUp {
        /// The height.
        height: u64,
    },
}

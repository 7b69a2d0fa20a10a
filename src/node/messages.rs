//! What travels over the links between tiles. Everything here is moved or shared, never copied in
//! bulk.

use std::sync::Arc;

use hufu_consensus::{Durable, LogTicket, SignIntent, SignTicket};
use hufu_network::Ticket;
use hufu_network::message::answer::{AccountInfo, BlockInfo, TransactionInfo};
use hufu_network::message::request::{QueryAccount, QueryBlock, QueryTransaction, Wait};
use hufu_runtime::net::ConnToken;
use hufu_types::merkle::MerkleTree;
use hufu_types::{
    Address, Batch, BatchDigest, Block, BlockDigest, CommitCertificate, DecodeError, Digest,
    Receipt, RefusalCode, Signature, Strength, Transaction, TxId, Verified,
};

/// Where a transaction came in, so that its refusal or admission finds the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The ingress tile.
    pub ingress: u16,
    /// The connection; an old token finds nobody.
    pub connection: ConnToken,
    /// What the session knows it by.
    pub ticket: Ticket,
    /// Bytes of the transaction, which ingress counts while it waits for the verdict.
    pub size: u32,
}

/// ingress -> verify.
#[derive(Debug)]
pub struct Submitted {
    /// Canonical, not verified.
    pub transaction: Transaction,
    /// Who sent it.
    pub source: Source,
}

/// verify -> mempool.
#[derive(Debug)]
pub struct Checked {
    /// Its signature is good.
    pub transaction: Verified<Transaction>,
    /// Who sent it.
    pub source: Source,
}

/// verify -> mempool.
#[derive(Debug)]
pub enum FromVerify {
    /// A client's transaction with a good signature.
    Checked(Checked),
    /// A peer's bytes, read.
    Parsed {
        /// Who sent them.
        from: Address,
        /// The batch of this chain, its signatures not looked at; or what is not canonical.
        batch: Result<Batch, DecodeError>,
    },
    /// The verdict on one [`JudgeChunk`].
    Judged {
        /// The batch.
        digest: BatchDigest,
        /// Whether every signature of the part is good.
        is_valid: bool,
    },
}

/// mempool -> verify: a part of a batch whose signatures are to be verified.
#[derive(Clone, Debug)]
pub struct JudgeChunk {
    /// The batch.
    pub batch: Batch,
    /// Its first transaction of the part.
    pub first: usize,
    /// How many, at least one.
    pub count: usize,
}

/// verify or mempool -> ingress.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Who sent the transaction.
    pub source: Source,
    /// Admitted to the mempool, or the reason why not.
    pub result: Result<TxId, RefusalCode>,
}

/// mempool -> persist-log.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    /// To be written before it may be proposed.
    pub batch: Batch,
}

/// consensus -> mempool.
#[derive(Clone, Debug)]
pub enum MempoolRequest {
    /// This validator proposes: which durable batches should the block order?
    Propose {
        /// Height of the proposal.
        height: u64,
        /// Round of the proposal.
        round: u32,
        /// Whether to answer even when there is nothing to order.
        allow_empty: bool,
    },
    /// A block is proposed: all its batches must be here before it may be voted for. Answered each
    /// time it is asked, once the batches are here.
    Need {
        /// Its height.
        height: u64,
        /// Its digest.
        block: BlockDigest,
        /// Its batches.
        batches: Vec<BatchDigest>,
        /// The validator that proposes it, and so has them.
        proposer: Address,
    },
    /// A certificate has decided a block; its batches must be here before it can be executed.
    NeedDecided {
        /// Its height.
        height: u64,
        /// Its digest.
        block: BlockDigest,
        /// Its batches.
        batches: Vec<BatchDigest>,
        /// A validator that has it.
        holder: Address,
    },
    /// A block was decided; its batches leave the pool.
    Decided {
        /// Its height.
        height: u64,
        /// Its batches.
        batches: Vec<BatchDigest>,
    },
}

/// mempool -> consensus.
#[derive(Clone, Debug)]
pub enum MempoolAnswer {
    /// To [`MempoolRequest::Propose`].
    Candidates(Candidates),
    /// All batches of a needed block are here and valid.
    Available {
        /// The block.
        block: BlockDigest,
        /// Its batches, in its order.
        batches: Vec<Batch>,
    },
    /// All batches of a needed block are on disk here.
    Durable {
        /// The block.
        block: BlockDigest,
        /// Its batches, in its order.
        batches: Vec<Batch>,
    },
    /// A needed block orders an invalid batch, or more bytes than a block may.
    Invalid {
        /// The block.
        block: BlockDigest,
    },
}

/// What a block may order.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// Height asked for.
    pub height: u64,
    /// Round asked for.
    pub round: u32,
    /// Durable batches in the order to be proposed; may be empty.
    pub batches: Vec<Batch>,
}

/// consensus -> persist-log: a decided block with its certificate.
#[derive(Clone, Debug)]
pub struct DecidedBlock {
    /// Header and batch digests.
    pub block: Block,
    /// The quorum that decided it.
    pub certificate: CommitCertificate,
    /// Its bodies, in order.
    pub batches: Vec<Batch>,
}

/// persist-log -> execute: a decided block whose record and bodies are on disk here.
#[derive(Clone, Debug)]
pub struct DurableBlock {
    /// The block.
    pub decided: DecidedBlock,
    /// Where its record lies in the block log.
    pub position: hufu_storage::block_log::RecordPosition,
    /// Where the records of its batches lie, in the block's order.
    pub bodies: Vec<hufu_storage::block_log::RecordPosition>,
    /// From where a replay must read to find every batch that no durable block has ordered yet.
    pub replay_from: hufu_storage::block_log::RecordPosition,
}

/// execute -> consensus: the roots that the header of h+d must carry.
pub use hufu_consensus::header::ExecutedRoots;

/// execute -> ingress, query: what became of one block; shared, never changed.
#[derive(Debug)]
pub struct ExecutedBlock {
    /// The block.
    pub block: Block,
    /// Its digest.
    pub digest: BlockDigest,
    /// Its certificate.
    pub certificate: CommitCertificate,
    /// Its bodies.
    pub batches: Vec<Batch>,
    /// Receipts in block order.
    pub receipts: Vec<Receipt>,
    /// The tree over the receipts' leaves.
    pub receipts_tree: MerkleTree,
    /// Roots after it.
    pub roots: ExecutedRoots,
}

impl ExecutedBlock {
    /// Bytes of memory that the block keeps, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let batches = self.batches.iter().map(|batch| {
            batch.bytes().len() + size_of_val(batch.entries()) + size_of::<MerkleTree>()
        });
        // The leaves of a tree and all that stands above them are twice the leaves.
        let tree = 2 * size_of::<Digest>() * self.receipts.len();
        size_of::<Self>() + batches.sum::<usize>() + size_of_val(self.receipts.as_slice()) + tree
    }
}

/// A shared [`ExecutedBlock`].
pub type Executed = Arc<ExecutedBlock>;

/// Who asks: a connection of an ingress tile, and its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The connection; an old token finds nobody.
    pub connection: ConnToken,
    /// The client's request; 0 where the tile asks for itself.
    pub request: u64,
}

/// ingress, peer -> execute, query: a client's or a peer's question.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Who asks.
    pub asker: Asker,
    /// What is asked.
    pub query: Query,
}

/// What may be asked.
#[derive(Clone, Copy, Debug)]
pub enum Query {
    /// An account, answered by execution between two blocks.
    Account(QueryAccount),
    /// A block.
    Block(QueryBlock),
    /// A transaction with its receipt.
    Transaction(QueryTransaction),
    /// The receipt of a transaction that was included before the wait for it began.
    Wait(Wait),
    /// A block that a subscription has not seen.
    History {
        /// Its height.
        height: u64,
    },
    /// A block that a peer has not seen, without what it orders.
    Decided {
        /// Its height.
        height: u64,
    },
    /// What a block orders that a peer has not seen.
    Bodies {
        /// Its height.
        height: u64,
    },
}

/// execute, query -> ingress, peer.
#[derive(Debug)]
pub struct Answer {
    /// Who asked.
    pub asker: Asker,
    /// The answer.
    pub body: AnswerBody,
}

/// What was answered.
#[derive(Debug)]
pub enum AnswerBody {
    /// An account.
    Account(Box<AccountInfo>),
    /// A block.
    Block(Box<BlockInfo>),
    /// A transaction.
    Transaction(Box<TransactionInfo>),
    /// A receipt that was waited for, with its proof if it was asked for.
    Receipt {
        /// How strong it is.
        strength: Strength,
        /// The receipt.
        receipt: Box<Receipt>,
        /// Its proof, or nothing.
        proof: Vec<u8>,
    },
    /// The transaction of a wait is included; the header that certifies it is still to come.
    NotCertified(Wait),
    /// The transaction of a wait is not included.
    NotIncluded {
        /// The wait.
        wait: Wait,
        /// Up to this height.
        height: u64,
    },
    /// A block for subscriptions.
    History(Executed),
    /// A block for a peer, and what decided it.
    Decided(Box<(Block, CommitCertificate)>),
    /// The batches of a block for a peer, in its order.
    Bodies {
        /// Height of the block.
        height: u64,
        /// The batches.
        batches: Vec<Batch>,
    },
    /// A block that subscriptions or peers want is not held.
    NoHistory(u64),
    /// There is no such thing.
    NotFound,
    /// There is more than fits an answer.
    TooLarge,
    /// The header that proves the answer has not come.
    Uncertified,
    /// Too many wait for that header already.
    Overloaded,
}

impl AnswerBody {
    /// Bytes of memory that the answer keeps for itself alone, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Account(info) => {
                    size_of_val(info.holdings.as_slice())
                        + size_of_val(info.mandates.as_slice())
                        + info.proof.len()
                }
                Self::Block(info) => {
                    info.block.len() + info.certificate.len() + size_of_val(info.ids.as_slice())
                }
                Self::Transaction(info) => info.transaction.len() + info.proof.len(),
                Self::Receipt { proof, .. } => size_of::<Receipt>() + proof.len(),
                Self::Decided(decided) => {
                    let (block, certificate) = &**decided;
                    size_of_val(&**decided)
                        + size_of_val(block.batches())
                        + size_of_val(certificate.signatures.as_slice())
                }
                Self::Bodies { batches, .. } => {
                    batches.iter().map(|batch| batch.bytes().len()).sum()
                }
                Self::NotCertified(_)
                | Self::NotIncluded { .. }
                | Self::History(_)
                | Self::NoHistory(_)
                | Self::NotFound
                | Self::TooLarge
                | Self::Uncertified
                | Self::Overloaded => 0,
            }
    }
}

/// consensus -> sign.
#[derive(Clone, Debug)]
pub struct SignRequest {
    /// Which request.
    pub ticket: SignTicket,
    /// What to sign; its record is durable.
    pub intent: Durable<SignIntent>,
}

/// sign -> consensus.
#[derive(Clone, Copy, Debug)]
pub struct Signed {
    /// Which request.
    pub ticket: SignTicket,
    /// The signature, verified by the signer.
    pub signature: Signature,
}

/// consensus -> persist-vote.
#[derive(Clone, Debug)]
pub enum VoteLogCommand {
    /// Append a record; nothing waits for it yet.
    Append {
        /// Its number.
        ticket: LogTicket,
        /// Its bytes.
        record: Vec<u8>,
    },
    /// Make everything up to this record durable and say so.
    Sync(LogTicket),
    /// The block of this height is durable in the block log: its records are only history from here
    /// on.
    Seal(u64),
    /// This validator may vote from here on: see [`hufu_storage::data_dir::DataDir::probation`].
    EndProbation,
}

/// peer -> consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromPeer {
    /// A link to this validator is open.
    Up(Address),
    /// The link is gone.
    Down(Address),
    /// A proposal, a vote or a bundle of votes, its signatures not looked at.
    Message {
        /// Who sent it.
        from: Address,
        /// The message.
        message: hufu_consensus::Message,
    },
    /// A proposed block.
    Block {
        /// Who sent it.
        from: Address,
        /// The round it is proposed in.
        round: u32,
        /// The block.
        block: Block,
    },
    /// The last height decided and durable there.
    Tip {
        /// Who says so.
        from: Address,
        /// The height.
        height: u64,
        /// Its block.
        block: BlockDigest,
    },
    /// A decided height that was asked for, its certificate not looked at.
    Height {
        /// Who sent it.
        from: Address,
        /// The block.
        block: Block,
        /// What is said to have decided it.
        certificate: CommitCertificate,
    },
}

/// consensus -> peer.
#[derive(Clone, Debug)]
pub enum ToPeer {
    /// A message for everybody.
    Publish(hufu_consensus::Message),
    /// A message for one.
    Send {
        /// To whom.
        to: Address,
        /// The message.
        message: hufu_consensus::Message,
    },
    /// A proposed block.
    Block {
        /// To whom; `None` for everybody.
        to: Option<Address>,
        /// The round it is proposed in.
        round: u32,
        /// The block.
        block: Block,
    },
    /// The last height decided and durable here; also told to those who come later.
    Tip {
        /// The height.
        height: u64,
        /// Its block.
        block: BlockDigest,
    },
    /// Decided heights wanted.
    AskHeights {
        /// Of whom.
        to: Address,
        /// The first.
        from: u64,
        /// How many, 1..=64.
        count: u32,
    },
}

/// peer -> mempool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerBatches {
    /// A link to this validator is open.
    Up(Address),
    /// The link is gone.
    Down(Address),
    /// The peer wants batches.
    Wanted {
        /// Who.
        from: Address,
        /// Which.
        digests: Vec<BatchDigest>,
    },
    /// The peer does not have batches that were wanted.
    Absent {
        /// Who.
        from: Address,
        /// Which.
        digests: Vec<BatchDigest>,
    },
    /// The peer has verified these batches and has them on disk.
    Held {
        /// Who.
        from: Address,
        /// Which.
        digests: Vec<BatchDigest>,
    },
    /// The peer does not have the height whose batches were wanted.
    NoBodies {
        /// Who.
        from: Address,
        /// The height.
        height: u64,
    },
}

/// mempool -> peer.
#[derive(Clone, Debug)]
pub enum SendBatches {
    /// Send a batch.
    Batch {
        /// To whom.
        to: Address,
        /// What.
        batch: Batch,
    },
    /// Ask for batches.
    Ask {
        /// Whom.
        to: Address,
        /// For what.
        digests: Vec<BatchDigest>,
    },
    /// Tell that batches are verified and durable here.
    Hold {
        /// To whom; to all where nobody is named.
        to: Option<Address>,
        /// Which.
        digests: Vec<BatchDigest>,
    },
    /// Tell that batches are not here.
    Lack {
        /// Whom.
        to: Address,
        /// Which.
        digests: Vec<BatchDigest>,
    },
    /// Ask for all batches of a decided height.
    AskBodies {
        /// Whom.
        to: Address,
        /// The height.
        height: u64,
    },
}

/// peer -> verify: a batch as it came, not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerBatch {
    /// Who sent it.
    pub from: Address,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

//! Limits of the client protocol, each with its unit and its reason. What an operator may choose
//! for one node is in [`crate::session::SessionConfig`] and stays inside these.

use hufu_types::limits::{self, BLOCK_BATCHES_COUNT_MAX, TX_SIZE_MAX, VALIDATORS_COUNT_MAX};

/// Bytes of a proof beside an account: the protocol's limit and none of our own, so that every
/// proof that a node makes can be sent and read.
pub use hufu_types::limits::ACCOUNT_PROOF_SIZE_MAX;

/// Size of the header of every frame, bytes.
pub const FRAME_HEADER_SIZE: usize = 16;

/// Bytes of the body of one frame. Holds eight of the largest transactions or about 4,000 usual
/// ones.
pub const FRAME_BODY_SIZE_MAX: u32 = 1_024 * 1_024;

/// Transactions in one submit frame, count.
pub const SUBMIT_TRANSACTIONS_COUNT_MAX: u32 = 4_096;

/// Bytes of the text of an error, so that an error always fits beside a full outgoing buffer.
pub const ERROR_TEXT_SIZE_MAX: u16 = 256;

/// Bytes of a node's software version in a status answer.
pub const VERSION_TEXT_SIZE_MAX: u16 = 64;

/// Holdings in one account answer, count.
pub const ACCOUNT_HOLDINGS_COUNT_MAX: u32 = 4_096;

/// Mandates in one account answer, count: all that an account can have granted.
pub const ACCOUNT_MANDATES_COUNT_MAX: u32 = limits::ACCOUNT_MANDATES_COUNT_MAX as u32;

/// Bytes of a receipt's proof: two certificates of the largest validator set, four paths, two
/// headers.
pub const RECEIPT_PROOF_SIZE_MAX: u32 = 64 * 1_024;

/// Transaction ids in one block answer, count; a block with more is read in several answers.
pub const BLOCK_IDS_COUNT_MAX: u32 = 16_384;

/// Bytes of one event's body; a block header is the largest.
pub const EVENT_BODY_SIZE_MAX: u32 = 1_024;

/// Events that a client may have granted and not received, count, per subscription.
pub const CREDITS_MAX: u32 = 65_536;

/// Heights that a cursor may lie ahead of the node, count: a client may come from a node that is
/// further.
pub const CURSOR_AHEAD_HEIGHTS_MAX: u64 = 1_024;

/// Bytes of a consensus message between peers: a bundle of one vote of each validator.
pub const PEER_CONSENSUS_SIZE_MAX: u32 = 64 * 1_024;

/// Bytes of a proposed block between peers: a header and its batch digests.
pub const PEER_BLOCK_SIZE_MAX: u32 = 16 * 1_024;

/// Digests in one request for batches, count: as many as a block orders.
pub const PEER_DIGESTS_COUNT_MAX: u32 = BLOCK_BATCHES_COUNT_MAX;

/// Heights in one request for a range, count.
pub const PEER_HEIGHTS_COUNT_MAX: u32 = 64;

/// Bytes of a bulk message that one frame carries: what a vote may have to wait behind.
pub const PEER_PART_SIZE_MAX: u32 = 64 * 1_024;

/// Bytes of a decided height without its bodies: block and certificate.
pub const PEER_HEIGHT_SIZE_MAX: u32 = 64 * 1_024;

const _: () = assert!(
    VALIDATORS_COUNT_MAX * 256 + 64 <= PEER_CONSENSUS_SIZE_MAX,
    "a vote of each validator must fit a consensus message"
);
const _: () = assert!(
    BLOCK_BATCHES_COUNT_MAX * 32 + 1_024 <= PEER_BLOCK_SIZE_MAX,
    "a block of the most batches must fit"
);
const _: () = assert!(
    PEER_BLOCK_SIZE_MAX + VALIDATORS_COUNT_MAX * 128 <= PEER_HEIGHT_SIZE_MAX,
    "a block and a certificate of the largest validator set must fit"
);
const _: () = assert!(
    FRAME_BODY_SIZE_MAX >= 2 * TX_SIZE_MAX,
    "the largest transaction must fit a submit frame with its counts"
);
const _: () = assert!(
    FRAME_BODY_SIZE_MAX / SUBMIT_TRANSACTIONS_COUNT_MAX >= 196,
    "a submit frame of the most transactions must be able to hold the smallest ones"
);
const _: () = assert!(
    ACCOUNT_HOLDINGS_COUNT_MAX * 40
        + ACCOUNT_MANDATES_COUNT_MAX * 64
        + ACCOUNT_PROOF_SIZE_MAX
        + 1_024
        <= FRAME_BODY_SIZE_MAX,
    "the largest account answer must fit a frame"
);
const _: () = assert!(
    BLOCK_IDS_COUNT_MAX * 32 + 64 * 1_024 <= FRAME_BODY_SIZE_MAX,
    "a block with its certificate and one page of ids must fit a frame"
);
const _: () = assert!(
    VALIDATORS_COUNT_MAX * 84 * 2 + 8 * 1_024 <= RECEIPT_PROOF_SIZE_MAX,
    "two certificates of the largest validator set must fit a receipt's proof"
);

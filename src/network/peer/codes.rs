//! Kinds of frames and of bulk messages between peers, and why a link ends.

use crate::frame::{FrameError, Kind};
use crate::limits::{
    ERROR_TEXT_SIZE_MAX, PEER_BLOCK_SIZE_MAX, PEER_CONSENSUS_SIZE_MAX, PEER_DIGESTS_COUNT_MAX,
    PEER_HEIGHT_SIZE_MAX, PEER_PART_SIZE_MAX,
};
use hufu_types::limits::BATCH_SIZE_MAX;

use super::hello::{HELLO_SIZE, PROOF_SIZE};
use super::parts::PART_HEADER_SIZE;

hufu_types::codes!(
    /// What a frame between peers is.
    PeerKind {
        /// Who speaks, on which chain.
        Hello = 1, "hello";
        /// The proof of it.
        Proof = 2, "proof";
        /// Are you there? Carries the sender's clock, which comes back.
        Ping = 3, "ping";
        /// Yes.
        Pong = 4, "pong";
        /// Why the link ends.
        Farewell = 5, "farewell";
        /// A proposal, a vote or a bundle of votes.
        Consensus = 16, "consensus";
        /// A proposed block, ahead of its proposal.
        Block = 17, "block";
        /// The last height decided and durable at the sender.
        Tip = 18, "tip";
        /// Batches the sender wants.
        BatchesWanted = 19, "batches_wanted";
        /// Batches that were wanted and are not there.
        BatchesAbsent = 20, "batches_absent";
        /// Decided heights the sender wants.
        HeightsWanted = 21, "heights_wanted";
        /// A decided height of which the sender wants all batches.
        BodiesWanted = 22, "bodies_wanted";
        /// A height whose batches were wanted and that is not there.
        BodiesAbsent = 23, "bodies_absent";
        /// Batches that are durable at the sender.
        BatchesHeld = 24, "batches_held";
        /// A part of a bulk message.
        Part = 32, "part";
    }
);

/// Bytes of a digest in a list.
const DIGEST_SIZE: u32 = 32;

/// Bytes of a code and its reserved field before the text of a farewell.
pub(super) const FAREWELL_HEADER_SIZE: u32 = 4;

impl Kind for PeerKind {
    fn of_wire(number: u16) -> Option<Self> {
        Self::from_number(number)
    }

    fn wire_number(self) -> u16 {
        self.number()
    }

    fn body_limits(self) -> (u32, u32) {
        match self {
            Self::Hello => (HELLO_SIZE, HELLO_SIZE),
            Self::Proof => (PROOF_SIZE, PROOF_SIZE),
            Self::Ping | Self::Pong | Self::BodiesWanted | Self::BodiesAbsent => (8, 8),
            Self::Farewell => {
                (FAREWELL_HEADER_SIZE, FAREWELL_HEADER_SIZE + u32::from(ERROR_TEXT_SIZE_MAX))
            }
            Self::Consensus => (1, PEER_CONSENSUS_SIZE_MAX),
            Self::Block => (1, PEER_BLOCK_SIZE_MAX),
            Self::Tip => (40, 40),
            Self::BatchesWanted | Self::BatchesAbsent | Self::BatchesHeld => {
                (DIGEST_SIZE, DIGEST_SIZE * PEER_DIGESTS_COUNT_MAX)
            }
            Self::HeightsWanted => (16, 16),
            Self::Part => (PART_HEADER_SIZE + 1, PART_HEADER_SIZE + PEER_PART_SIZE_MAX),
        }
    }
}

hufu_types::codes!(
    /// What a bulk message is.
    BulkKind {
        /// A batch, canonical bytes.
        Batch = 1, "batch";
        /// A decided height: block and certificate; its batches come as batches.
        Height = 2, "height";
    }
);

impl BulkKind {
    /// Bytes of the largest message of this kind.
    #[must_use]
    pub const fn size_max(self) -> u32 {
        match self {
            Self::Batch => BATCH_SIZE_MAX,
            Self::Height => PEER_HEIGHT_SIZE_MAX,
        }
    }
}

hufu_types::codes!(
    /// Why a link ends. Each has a counter.
    PeerCode {
        /// The first bytes are not those of a hufu peer.
        BadMagic = 1, "bad_magic";
        /// No version of the protocol that both speak.
        VersionUnsupported = 2, "version_unsupported";
        /// The other end is on another chain.
        WrongChain = 3, "wrong_chain";
        /// The other end names an address that is no validator's, or one it was not dialled as.
        UnknownPeer = 4, "unknown_peer";
        /// The smaller address dials; this one was on the wrong side.
        WrongDirection = 5, "wrong_direction";
        /// The signature of the proof is not good.
        ProofInvalid = 6, "proof_invalid";
        /// A frame or its body is not canonical, or comes out of turn.
        Malformed = 7, "malformed";
        /// A frame or a bulk message is larger than its kind allows.
        Oversized = 8, "oversized";
        /// A frame of no known kind or version.
        UnknownKind = 9, "unknown_kind";
        /// The two ends did not open the link in time.
        HandshakeTimeout = 10, "handshake_timeout";
        /// Nothing was heard for too long.
        IdleTimeout = 11, "idle_timeout";
        /// What the other end must know first does not drain.
        SlowPeer = 12, "slow_peer";
        /// The channel below failed.
        ChannelFailed = 13, "channel_failed";
        /// A newer link of the same peer takes its place.
        Replaced = 14, "replaced";
        /// This node is stopping.
        Stopping = 15, "stopping";
        /// The other end said that it ends the link.
        Farewell = 16, "farewell";
    }
);

impl From<&FrameError> for PeerCode {
    fn from(error: &FrameError) -> Self {
        match error {
            FrameError::VersionUnknown { .. } | FrameError::KindUnknown { .. } => Self::UnknownKind,
            FrameError::Oversized { .. } => Self::Oversized,
            FrameError::FlagsUnknown { .. } | FrameError::Undersized { .. } => Self::Malformed,
        }
    }
}

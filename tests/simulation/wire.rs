//! What travels between simulated nodes: what the peer tile carries.

use std::sync::Arc;

use hufu_consensus::Message;
use hufu_types::{BatchDigest, Block, CommitCertificate};

/// One frame.
#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Message(Message),
    Block { round: u32, block: Block },
    Tip { height: u64 },
    AskHeights { from: u64, count: u32 },
    Height { block: Block, certificate: CommitCertificate },
    Batch(Arc<[u8]>),
    Wanted(Vec<BatchDigest>),
    Absent(Vec<BatchDigest>),
    Held(Vec<BatchDigest>),
    AskBodies { height: u64 },
    NoBodies { height: u64 },
}

impl Wire {
    /// Whether it waits behind control frames: bulk has a lane of its own.
    pub(crate) const fn is_bulk(&self) -> bool {
        matches!(self, Self::Height { .. } | Self::Batch(_))
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Message(Message::Vote(_)) => "vote",
            Self::Message(Message::Proposal(_)) => "proposal",
            Self::Message(Message::Votes(_)) => "votes",
            Self::Block { .. } => "block",
            Self::Tip { .. } => "tip",
            Self::AskHeights { .. } => "ask-heights",
            Self::Height { .. } => "height",
            Self::Batch(_) => "batch",
            Self::Wanted(_) => "wanted",
            Self::Absent(_) => "absent",
            Self::Held(_) => "held",
            Self::AskBodies { .. } => "ask-bodies",
            Self::NoBodies { .. } => "no-bodies",
        }
    }

    /// What tells it from others of its kind, for the trace's hash.
    pub(crate) fn fingerprint(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Message(message) => message.write(&mut out),
            Self::Block { round, block } => {
                out.extend_from_slice(&round.to_le_bytes());
                out.extend_from_slice(block.digest().as_bytes());
            }
            Self::Height { block, certificate } => {
                out.extend_from_slice(block.digest().as_bytes());
                certificate.write(&mut out);
            }
            Self::Batch(bytes) => {
                out.extend_from_slice(hufu_crypto::Sm3::of(&[bytes]).as_bytes());
            }
            Self::Tip { height } | Self::AskBodies { height } | Self::NoBodies { height } => {
                out.extend_from_slice(&height.to_le_bytes());
            }
            Self::AskHeights { from, count } => {
                out.extend_from_slice(&from.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
            }
            Self::Wanted(digests) | Self::Absent(digests) | Self::Held(digests) => {
                digests.iter().for_each(|digest| out.extend_from_slice(digest.as_bytes()));
            }
        }
        out
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        let height = match self {
            Self::Message(message) => {
                let of = message.votes().first().map(|one| (one.vote.step(), one.vote.block()));
                let vote = of.map_or(String::new(), |(step, block)| {
                    format!(
                        " {step:?} {}",
                        block.map_or_else(|| "nil".into(), |block| short(&block.0.0))
                    )
                });
                format!("height {}{vote}", message.height())
            }
            Self::Block { round, block } => {
                format!("height {} round {round} {}", block.height(), short(&block.digest().0.0))
            }
            Self::Height { block, .. } => {
                format!("height {} {}", block.height(), short(&block.digest().0.0))
            }
            Self::Batch(bytes) => format!("{} bytes", bytes.len()),
            Self::Tip { height } | Self::AskBodies { height } | Self::NoBodies { height } => {
                format!("height {height}")
            }
            Self::AskHeights { from, count } => format!("{count} from {from}"),
            Self::Wanted(digests) | Self::Absent(digests) | Self::Held(digests) => {
                format!("{} batches", digests.len())
            }
        };
        format!("{} {height}", self.name())
    }
}

/// The first bytes of a digest, in hexadecimal.
pub(crate) fn short(bytes: &[u8]) -> String {
    bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

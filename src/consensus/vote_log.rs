//! Records of the vote log: what a validator must remember across a crash to go on voting safely.
//! Codec only, no I/O.
//!
//! ```text
//! engine -> Record::to_bytes -> persist-vote tile -> disk
//!        -> Record::parse -> RecoveredLog -> engine
//! ```
//!
//! A height's records, in the order of appends, are the inputs that moved the engine (with the
//! blocks they speak of), the sign intents and the messages signed in between. Records of a height
//! may be sealed away once its block is durable in the block log, not before: a decided block may
//! exist here alone.

use std::collections::BTreeMap;

use hufu_crypto::Hasher;
use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, put};
use hufu_types::limits::ROUNDS_COUNT_MAX;
use hufu_types::{Address, Block, BlockDigest, CommitCertificate, SignedProposal, SignedVote};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::guard::{Guard, GuardError, SignIntent};
use crate::message::{BundleKind, VoteBundle};

/// Format version of records.
pub const RECORD_VERSION: u16 = 1;

/// The step whose timer fired (Tendermint L57-L66).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum StepTimeout {
    /// No proposal came in time.
    Propose = 1,
    /// A quorum prevoted, not for one thing.
    Prevote = 2,
    /// A quorum precommitted, not for one thing.
    Precommit = 3,
}

/// A block and what this validator found it to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all blocks are valid, and few are held at once"
)]
pub enum BlockVerdict {
    /// Held here and valid.
    Valid(Block),
    /// Not to be voted for.
    Invalid(BlockDigest),
}

impl BlockVerdict {
    /// The block's digest.
    #[must_use]
    pub fn digest(&self) -> BlockDigest {
        match self {
            Self::Valid(block) => block.digest(),
            Self::Invalid(digest) => *digest,
        }
    }
}

/// A block as it reached the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    /// Round for which it came.
    pub round: u32,
    /// The proposer of that round.
    pub proposer: Address,
    /// Whether it came by sync, with a certificate.
    pub synced: bool,
    /// The verdict on it.
    pub verdict: BlockVerdict,
}

/// Two different messages of one validator where it may send one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Two votes of one height, round and step.
    Votes(SignedVote, SignedVote),
    /// Two proposals of one height and round.
    Proposals(SignedProposal, SignedProposal),
}

impl Evidence {
    /// Who sent both.
    #[must_use]
    pub const fn validator(&self) -> Address {
        match self {
            Self::Votes(first, _) => first.vote.validator,
            Self::Proposals(first, _) => first.proposal.validator,
        }
    }

    fn check(&self) -> Result<(), DecodeError> {
        let proves = match self {
            Self::Votes(SignedVote { vote: first, .. }, SignedVote { vote: second, .. }) => {
                first.check()?;
                second.check()?;
                first != second
                    && (first.validator, first.height, first.round, first.step())
                        == (second.validator, second.height, second.round, second.step())
            }
            Self::Proposals(first, second) => {
                let (first, second) = (&first.proposal, &second.proposal);
                first.check()?;
                second.check()?;
                first != second
                    && (first.validator, first.height, first.round)
                        == (second.validator, second.height, second.round)
            }
        };
        if proves { Ok(()) } else { Err(DecodeError::NotCanonical { field: "evidence" }) }
    }
}

/// One record of the vote log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The guard admitted these bytes; they may be about to be signed.
    SignIntent(SignIntent),
    /// A vote of another validator was taken in.
    Vote(SignedVote),
    /// A proposal of another validator was taken in.
    Proposal(SignedProposal),
    /// A vote this validator signed.
    OwnVote(SignedVote),
    /// A proposal this validator signed.
    OwnProposal(SignedProposal),
    /// A block was built, received or synced.
    Block {
        /// Its height.
        height: u64,
        /// The block and how it came.
        entry: BlockEntry,
    },
    /// A timer fired.
    Timeout {
        /// Height of the timer.
        height: u64,
        /// Round of the timer.
        round: u32,
        /// Step of the timer.
        step: StepTimeout,
    },
    /// A quorum of prevotes came as one.
    Polka(VoteBundle),
    /// A block was decided.
    Decided(CommitCertificate),
    /// A validator sent two different messages; kept for the operator and for those who punish.
    Evidence(Evidence),
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RecordHeader {
    kind: U16,
    version: U16,
    reserved: [u8; 4],
    height: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct BlockRow {
    round: U32,
    is_valid: u8,
    is_synced: u8,
    reserved: [u8; 2],
    proposer: Address,
    digest: BlockDigest,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TimeoutRow {
    round: U32,
    step: u8,
    reserved: [u8; 3],
}

impl Record {
    /// The height the record belongs to.
    #[must_use]
    pub fn height(&self) -> u64 {
        match self {
            Self::SignIntent(intent) => intent.position().height,
            Self::Vote(signed) | Self::OwnVote(signed) => signed.vote.height.get(),
            Self::Proposal(signed) | Self::OwnProposal(signed) => signed.proposal.height.get(),
            Self::Block { height, .. } | Self::Timeout { height, .. } => *height,
            Self::Polka(bundle) => bundle.height(),
            Self::Decided(certificate) => certificate.height,
            Self::Evidence(Evidence::Votes(first, _)) => first.vote.height.get(),
            Self::Evidence(Evidence::Proposals(first, _)) => first.proposal.height.get(),
        }
    }

    /// The kind's number on disk; never reused.
    #[must_use]
    pub const fn kind(&self) -> u16 {
        match self {
            Self::SignIntent(_) => 1,
            Self::Vote(_) => 2,
            Self::Proposal(_) => 3,
            Self::OwnVote(_) => 4,
            Self::OwnProposal(_) => 5,
            Self::Block { .. } => 6,
            Self::Timeout { .. } => 7,
            Self::Polka(_) => 8,
            Self::Decided(_) => 9,
            Self::Evidence(Evidence::Votes(..)) => 10,
            Self::Evidence(Evidence::Proposals(..)) => 11,
        }
    }

    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let header = RecordHeader {
            kind: U16::new(self.kind()),
            version: U16::new(RECORD_VERSION),
            reserved: [0; 4],
            height: U64::new(self.height()),
        };
        put(&mut out, &header);
        match self {
            Self::SignIntent(intent) => out.extend_from_slice(intent.bytes()),
            Self::Vote(signed) | Self::OwnVote(signed) => put(&mut out, signed),
            Self::Proposal(signed) | Self::OwnProposal(signed) => put(&mut out, signed),
            Self::Block { entry, .. } => write_block(entry, &mut out),
            Self::Timeout { round, step, .. } => {
                let (round, step) = (U32::new(*round), *step as u8);
                put(&mut out, &TimeoutRow { round, step, reserved: [0; 3] });
            }
            Self::Polka(bundle) => bundle.write(&mut out),
            Self::Decided(certificate) => certificate.write(&mut out),
            Self::Evidence(Evidence::Votes(first, second)) => {
                put(&mut out, first);
                put(&mut out, second);
            }
            Self::Evidence(Evidence::Proposals(first, second)) => {
                put(&mut out, first);
                put(&mut out, second);
            }
        }
        out
    }

    /// Reads exactly one record.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn parse(bytes: &[u8], hasher: &dyn Hasher) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header: RecordHeader = *reader.fixed()?;
        let (version, expected) = (header.version.get(), RECORD_VERSION);
        if version != expected {
            return Err(DecodeError::Version { found: version, expected });
        }
        check_reserved("vote log record", &header.reserved)?;
        let height = header.height.get();
        check_range("vote log record height", height, 1, u64::MAX - 1)?;
        let record = match header.kind.get() {
            1 => Self::SignIntent(SignIntent::parse(reader.bytes(reader.remaining())?)?),
            2 => Self::Vote(SignedVote::parse(reader.bytes(reader.remaining())?)?),
            3 => Self::Proposal(SignedProposal::parse(reader.bytes(reader.remaining())?)?),
            4 => Self::OwnVote(SignedVote::parse(reader.bytes(reader.remaining())?)?),
            5 => Self::OwnProposal(SignedProposal::parse(reader.bytes(reader.remaining())?)?),
            6 => Self::Block { height, entry: read_block(&mut reader, hasher)? },
            7 => read_timeout(&mut reader, height)?,
            8 => Self::Polka(read_polka(&mut reader)?),
            9 => Self::Decided(CommitCertificate::read(&mut reader)?),
            10 => Self::Evidence(Evidence::Votes(*reader.fixed()?, *reader.fixed()?)),
            11 => Self::Evidence(Evidence::Proposals(*reader.fixed()?, *reader.fixed()?)),
            found => {
                let (field, found) = ("vote log record kind", found.into());
                return Err(DecodeError::Range { field, found, min: 1, max: 11 });
            }
        };
        reader.finish()?;
        if let Self::Evidence(evidence) = &record {
            evidence.check()?;
        }
        if record.height() != height {
            let (field, actual) = ("vote log record height", record.height());
            return Err(DecodeError::Mismatch { field, stated: height, actual });
        }
        Ok(record)
    }
}

fn write_block(entry: &BlockEntry, out: &mut Vec<u8>) {
    let row = BlockRow {
        round: U32::new(entry.round),
        is_valid: u8::from(matches!(entry.verdict, BlockVerdict::Valid(_))),
        is_synced: u8::from(entry.synced),
        reserved: [0; 2],
        proposer: entry.proposer,
        digest: entry.verdict.digest(),
    };
    put(out, &row);
    if let BlockVerdict::Valid(block) = &entry.verdict {
        block.write(out);
    }
}

fn read_block(reader: &mut Reader<'_>, hasher: &dyn Hasher) -> Result<BlockEntry, DecodeError> {
    let row: BlockRow = *reader.fixed()?;
    check_reserved("block record", &row.reserved)?;
    check_range("block record is valid", row.is_valid.into(), 0, 1)?;
    check_range("block record is synced", row.is_synced.into(), 0, 1)?;
    check_range("block record round", row.round.get().into(), 0, ROUNDS_COUNT_MAX.into())?;
    let verdict = if row.is_valid == 1 {
        let block = Block::read(reader, hasher)?;
        if block.digest() != row.digest {
            return Err(DecodeError::NotCanonical { field: "block record digest" });
        }
        BlockVerdict::Valid(block)
    } else {
        BlockVerdict::Invalid(row.digest)
    };
    let (round, synced) = (row.round.get(), row.is_synced == 1);
    Ok(BlockEntry { round, proposer: row.proposer, synced, verdict })
}

fn read_timeout(reader: &mut Reader<'_>, height: u64) -> Result<Record, DecodeError> {
    let row: TimeoutRow = *reader.fixed()?;
    check_reserved("timeout record", &row.reserved)?;
    check_range("timeout record round", row.round.get().into(), 0, ROUNDS_COUNT_MAX.into())?;
    check_range("timeout record step", row.step.into(), 1, 3)?;
    let step = match row.step {
        1 => StepTimeout::Propose,
        2 => StepTimeout::Prevote,
        _ => StepTimeout::Precommit,
    };
    Ok(Record::Timeout { height, round: row.round.get(), step })
}

fn read_polka(reader: &mut Reader<'_>) -> Result<VoteBundle, DecodeError> {
    let bundle = VoteBundle::read(reader)?;
    if bundle.kind() == BundleKind::Polka {
        Ok(bundle)
    } else {
        Err(DecodeError::NotCanonical { field: "polka record" })
    }
}

/// Why records that parse one by one make no sense together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// A record is not canonical.
    #[error("vote log record {index}: {cause}")]
    Record {
        /// Which record, from 0.
        index: usize,
        /// What is wrong.
        cause: DecodeError,
    },
    /// The sign intents contradict each other: this key signed twice, or the log is not ours.
    #[error("vote log record {index}: {cause}")]
    Guard {
        /// Which record, from 0.
        index: usize,
        /// What is wrong.
        cause: GuardError,
    },
}

/// What a vote log says, by height, and the guard it rebuilds.
#[derive(Clone, Debug, Default)]
pub struct RecoveredLog {
    pub(crate) guard: Guard,
    pub(crate) heights: BTreeMap<u64, Vec<Record>>,
}

impl RecoveredLog {
    /// Reads all records in the order in which they were appended. Those up to `decided_height`,
    /// the last height whose block is durable in the block log, only rebuild the guard, which
    /// admits nothing new there.
    ///
    /// # Errors
    /// [`RecoverError`]: the node must not vote.
    pub fn read<'a>(
        records: impl IntoIterator<Item = &'a [u8]>,
        decided_height: u64,
        hasher: &dyn Hasher,
    ) -> Result<Self, RecoverError> {
        let mut log = Self::default();
        for (index, bytes) in records.into_iter().enumerate() {
            let record = Record::parse(bytes, hasher)
                .map_err(|cause| RecoverError::Record { index, cause })?;
            if let Record::SignIntent(intent) = &record {
                let admitted = log.guard.admit(intent);
                let _admission = admitted.map_err(|cause| RecoverError::Guard { index, cause })?;
            }
            if record.height() > decided_height && !hufu_types::planted!("records_forgotten") {
                log.heights.entry(record.height()).or_default().push(record);
            }
        }
        log.guard.decide(decided_height);
        Ok(log)
    }

    /// Heights with records above the decided height, ascending.
    pub fn heights(&self) -> impl Iterator<Item = u64> {
        self.heights.keys().copied()
    }
}

#[cfg(test)]
mod tests;

//! The two logs of a node, as shipped, on a disk in memory that loses what was not synced.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hufu_consensus::RecoveredLog;
use hufu_runtime::file::{Backend, DirectIo, FaultPlan, FileSystem};
use hufu_runtime::sim::disk::SimDisk;
use hufu_storage::block_log::{Appended, BlockLog, LogKind, LogOptions, RecordPosition};
use hufu_storage::keyring::{DataKey, Keyring};
use hufu_storage::vote_log::{VoteLog, VoteLogOptions, VoteRecovery};
use hufu_types::codec::Reader;
use hufu_types::{Batch, BatchDigest, Block, CommitCertificate, Hasher};

use crate::material::Material;

/// The numbers that the node gives the records of its block log.
pub(crate) const RECORD_BATCH: u16 = 1;
pub(crate) const RECORD_BLOCK: u16 = 2;

/// The number of all records of the vote log.
const RECORD_CONSENSUS: u16 = 1;

/// Small segments: a seed writes a megabyte or two, and is to see segments end.
const SEGMENT_BYTES: u64 = 256 << 10;

/// Why a node cannot go on with its disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The disk stopped, as a test told it to: the node dies here.
    #[error("the disk stopped")]
    Stopped,
    /// Anything else is a failure of the run.
    #[error("{0}")]
    Broken(String),
}

/// The disk of a node, which survives its lives.
pub(crate) struct Disk {
    pub(crate) disk: SimDisk,
    blocks: LogOptions,
    votes: VoteLogOptions,
}

/// A block of the chain, what decided it, and its bodies.
pub(crate) type Link = (Block, CommitCertificate, Vec<Batch>);

/// What the logs held at a start.
pub(crate) struct Opened {
    pub(crate) blocks: BlockLog,
    pub(crate) votes: VoteLog,
    pub(crate) chain: Vec<Link>,
    /// Batches that no block has ordered, in the order of the log.
    pub(crate) unordered: Vec<Batch>,
    pub(crate) log: RecoveredLog,
    /// The last height sealed.
    pub(crate) sealed: u64,
}

impl Disk {
    pub(crate) fn new(material: &Material) -> Self {
        let disk = SimDisk::new();
        let plan = Arc::new(FaultPlan::default());
        let system = FileSystem::simulated(DirectIo::WherePossible, disk.clone(), plan);
        let (chain, hasher) = (material.chain_id.0, Arc::clone(&material.provider.hasher));
        let mut blocks =
            LogOptions::new("/data/blocks", LogKind::Block, chain, Arc::clone(&hasher));
        let keys = Keyring::new(DataKey::new(&[1; 32]), Vec::new(), &material.provider);
        blocks.keys = Some(keys.clone());
        blocks.file_system = system.clone();
        blocks.backend = Backend::Sync;
        blocks.segment_bytes = SEGMENT_BYTES;
        blocks.group_bytes_max = 64 << 10;
        blocks.record_bytes_max = 60 << 10;
        let mut votes = VoteLogOptions::new(Path::new("/data/votes"), chain, hasher);
        votes.keys = Some(keys);
        votes.file_system = system;
        votes.segment_bytes = SEGMENT_BYTES;
        Self { disk, blocks, votes }
    }

    /// What an error of a log means: a stop that was ordered, or a failure.
    pub(crate) fn judge(&self, error: &hufu_storage::Error) -> LogError {
        if self.disk.has_stopped() {
            LogError::Stopped
        } else {
            LogError::Broken(error.to_string())
        }
    }

    /// Opens both logs as the node's recovery does: votes first, for they vouch for the blocks.
    pub(crate) fn open(&mut self, hasher: &dyn Hasher) -> Result<Opened, LogError> {
        let had_blocks = BlockLog::exists(&self.blocks).map_err(|error| self.judge(&error))?;
        if had_blocks {
            if !VoteLog::exists(&self.votes).map_err(|error| self.judge(&error))? {
                return Err(LogError::Broken("blocks without a vote log".to_owned()));
            }
            self.votes.known_durable = 1;
        }
        let (votes, records, _) = VoteLog::open(&self.votes).map_err(|error| self.judge(&error))?;
        let seal = records.seal;
        let mut options = self.blocks.clone();
        options.known_durable = seal.map_or(0, |seal| seal.log_sequence);
        let (blocks, _) = BlockLog::open(options).map_err(|error| self.judge(&error))?;
        let (chain, unordered) = self.replay(&blocks, hasher)?;
        let tip = chain.last().map_or(0, |(block, ..)| block.height());
        let sealed = seal.map_or(0, |seal| seal.height);
        if sealed > tip {
            let text = format!("height {sealed} is sealed, the block log ends at height {tip}");
            return Err(LogError::Broken(text));
        }
        let log = recovered(&records, tip, hasher)?;
        Ok(Opened { blocks, votes, chain, unordered, log, sealed })
    }

    fn replay(
        &self,
        log: &BlockLog,
        hasher: &dyn Hasher,
    ) -> Result<(Vec<Link>, Vec<Batch>), LogError> {
        let broken = |what: String| LogError::Broken(format!("block log: {what}"));
        let mut chain = Vec::new();
        let mut bodies: BTreeMap<BatchDigest, (RecordPosition, Batch)> = BTreeMap::new();
        let mut reader = log.reader();
        while let Some(record) = reader.next().map_err(|error| self.judge(&error))? {
            if record.kind == RECORD_BATCH {
                let batch = Batch::parse(record.payload.into(), hasher)
                    .map_err(|error| broken(error.to_string()))?;
                bodies.insert(batch.digest(), (record.position, batch));
                continue;
            }
            let mut reader = Reader::new(record.payload);
            let block =
                Block::read(&mut reader, hasher).map_err(|error| broken(error.to_string()))?;
            let certificate =
                CommitCertificate::read(&mut reader).map_err(|error| broken(error.to_string()))?;
            let mut batches = Vec::new();
            for digest in block.batches() {
                let missing = || broken(format!("a batch of height {} is missing", block.height()));
                batches.push(bodies.remove(digest).ok_or_else(missing)?.1);
            }
            chain.push((block, certificate, batches));
        }
        let mut left: Vec<(RecordPosition, Batch)> = bodies.into_values().collect();
        left.sort_by_key(|(position, _)| *position);
        Ok((chain, left.into_iter().map(|(_, batch)| batch).collect()))
    }
}

fn recovered(
    records: &VoteRecovery,
    tip: u64,
    hasher: &dyn Hasher,
) -> Result<RecoveredLog, LogError> {
    let records = records.sealed.iter().chain(&records.open).map(|one| one.payload.as_slice());
    RecoveredLog::read(records, tip, hasher)
        .map_err(|error| LogError::Broken(format!("vote log: {error}")))
}

/// Appends to the vote log.
pub(crate) fn append_vote(log: &mut VoteLog, record: &[u8]) -> Result<(), hufu_storage::Error> {
    log.append(RECORD_CONSENSUS, record).map(|_position| ())
}

/// Appends to the block log; what does not fit the open group is written first.
pub(crate) fn append_block(
    log: &mut BlockLog,
    kind: u16,
    payload: &[u8],
) -> Result<RecordPosition, hufu_storage::Error> {
    loop {
        match log.append(kind, &[payload])? {
            Appended::Placed(position) => return Ok(position),
            Appended::Full => drop(log.flush()?),
        }
    }
}

/// The payload of a block's record.
pub(crate) fn block_record(block: &Block, certificate: &CommitCertificate) -> Vec<u8> {
    let mut out = Vec::new();
    block.write(&mut out);
    certificate.write(&mut out);
    out
}

//! The blocks of the log, one by one, in one pass whatever the level.
//!
//! ```text
//! record --> batch: held until a block orders it
//!        \-> block: certificate's name, header against its parent, bodies --> index
//!                                                                        |-> signatures
//!                                                                        '-> replay
//! ```

use std::collections::HashMap;

use hufu_consensus::Validators;
use hufu_consensus::header::{ExecutedRoots, HeaderRules, Parent, Standing, executed_height};
use hufu_ledger::StateTree;
use hufu_storage::block_log::{LogReader, RecordPosition};
use hufu_types::codec::length_u32;
use hufu_types::{
    Batch, BatchDigest, Block, BlockDigest, CommitCertificate, Digest, OrderedBatches,
    check_batches,
};

use super::index::Index;
use super::replay::Replay;
use super::signatures::Signatures;
use super::{Check, Level, Part, State, VerifyError};
use crate::executor::describe;
use crate::messages::{DecidedBlock, DurableBlock};
use crate::records::{RECORD_BATCH, RECORD_BLOCK, parse_block_record};
use crate::tiles::persist_log::UnorderedBatches;

/// What later checks need of the chain.
pub(super) struct Chain {
    /// Digest of every block from height 1 on, as far as the chain is unbroken.
    pub(super) digests: Vec<BlockDigest>,
}

impl Chain {
    /// The block that the log holds at `height`.
    pub(super) fn at(&self, height: u64) -> Option<BlockDigest> {
        let place = usize::try_from(height.checked_sub(1)?).ok()?;
        self.digests.get(place).copied()
    }
}

/// A block of the log with all that belongs to it.
pub(super) struct BlockAtHand {
    pub(super) durable: DurableBlock,
    /// Where its record lies, for messages.
    pub(super) place: String,
}

struct Walk<'a> {
    state: Option<&'a State>,
    validators: Validators,
    parent: Parent,
    chain: Chain,
    bodies: HashMap<BatchDigest, Batch>,
    unordered: UnorderedBatches,
    /// What the last heights ordered, as far as the chain is unbroken.
    ordered: OrderedBatches,
    index: Index,
    signatures: Option<Signatures>,
    replay: Option<Replay>,
    /// Whether every block so far was whole and in its place.
    is_unbroken: bool,
}

/// Follows the chain from the genesis to the end of the log.
pub(super) fn verify(check: &mut Check<'_>, state: Option<&State>) -> Result<Chain, VerifyError> {
    let level = check.report.level;
    let mut walk = Walk {
        state,
        validators: Validators::new(check.genesis.validators.clone()),
        parent: Parent {
            height: 0,
            digest: BlockDigest::ZERO,
            time_millis: check.genesis.time_millis,
        },
        chain: Chain { digests: Vec::new() },
        bodies: HashMap::new(),
        unordered: UnorderedBatches::default(),
        ordered: OrderedBatches::new(1),
        index: Index::new(genesis_roots(check)),
        signatures: (level >= Level::Signatures).then(|| Signatures::new(check)),
        replay: match level {
            Level::Replay => Some(Replay::new(check, state)?),
            Level::Hashes | Level::Signatures => None,
        },
        is_unbroken: true,
    };
    match LogReader::open(check.options.log.clone()) {
        Ok((mut reader, _)) => walk.read(check, &mut reader),
        Err(error) => walk.stopped(check, &error),
    }
    walk.finish(check);
    Ok(walk.chain)
}

/// The roots of the state before the first block.
fn genesis_roots(check: &Check<'_>) -> ExecutedRoots {
    let log2 = check.genesis.parameters.state_buckets_log2;
    let tree = StateTree::new(check.genesis.chain_id(), log2, &*check.provider.hasher);
    ExecutedRoots {
        height: 0,
        state_root: tree.root(),
        receipts_root: Digest::ZERO,
        receipts_count: 0,
    }
}

impl Walk<'_> {
    fn read(&mut self, check: &mut Check<'_>, reader: &mut LogReader) {
        while !check.is_interrupted {
            match reader.next() {
                Ok(Some(record)) => {
                    let position = record.position;
                    match record.kind {
                        RECORD_BATCH => self.batch(check, position, record.payload),
                        RECORD_BLOCK => self.block(check, position, record.payload),
                        other => {
                            let what = format!("record kind {other} is unknown to this build");
                            check.report.fault(Part::BlockLog, describe(&position), what);
                        }
                    }
                }
                Ok(None) => return,
                Err(error) => return self.stopped(check, &error),
            }
        }
    }

    /// Records behind damage cannot be reached; the damage itself is found byte by byte.
    fn stopped(&mut self, check: &mut Check<'_>, error: &hufu_storage::Error) {
        self.is_unbroken = false;
        if check.report.faults.iter().all(|fault| fault.part != Part::BlockLog) {
            check.report.fault(Part::BlockLog, "reading", error);
        }
        let height = self.parent.height;
        let notice = format!("blocks behind height {height} were not followed: {error}");
        check.report.notices.push(notice);
    }

    fn batch(&mut self, check: &mut Check<'_>, position: RecordPosition, payload: &[u8]) {
        check.report.counts.batches += 1;
        let chain_id = check.genesis.chain_id();
        match Batch::parse(payload.into(), &*check.provider.hasher) {
            Ok(batch) if batch.header().prefix.chain_id == chain_id => {
                self.unordered.insert(&batch, position);
                self.bodies.insert(batch.digest(), batch);
            }
            Ok(_) => {
                check.report.fault(
                    Part::BlockLog,
                    describe(&position),
                    "batch is of another chain",
                );
            }
            Err(cause) => check.report.fault(Part::BlockLog, describe(&position), cause),
        }
    }

    fn block(&mut self, check: &mut Check<'_>, position: RecordPosition, payload: &[u8]) {
        let place = describe(&position);
        let (block, certificate) = match parse_block_record(payload, &*check.provider.hasher) {
            Ok(parsed) => parsed,
            Err(cause) => {
                self.is_unbroken = false;
                check.report.fault(Part::BlockLog, place, cause);
                return;
            }
        };
        check.report.counts.blocks += 1;
        let (height, header) = (block.height(), *block.header());
        self.header(check, &block, &place);
        let at_hand = self.gather(check, block, certificate, position, place);
        self.is_unbroken &= at_hand.is_some();
        self.order(check, at_hand.as_ref());
        if let Some(at_hand) = at_hand {
            self.index.block(check, self.state, &at_hand);
            if let Some(signatures) = &mut self.signatures {
                signatures.take(check, &at_hand);
            }
            if let Some(replay) = self.replay.as_mut().filter(|_| self.is_unbroken) {
                replay.block(check, self.state, at_hand);
            }
        }
        self.parent = Parent::of(&header);
        if self.is_unbroken {
            self.chain.digests.push(self.parent.digest);
        }
        let applied = self.state.map_or(0, State::height);
        check.progress("blocks", height, applied.max(height));
    }

    /// Checks a header against the block before it and the roots that the store knows.
    fn header(&mut self, check: &mut Check<'_>, block: &Block, place: &str) {
        let lag = check.genesis.parameters.certified_lag_heights;
        let header = block.header();
        let expected = self.parent.height + 1;
        // Where the store does not know the roots, the header's own stand in for them.
        let own = ExecutedRoots {
            height: executed_height(expected, lag),
            state_root: header.state_root,
            receipts_root: header.receipts_root,
            receipts_count: header.receipts_count.get(),
        };
        let executed = self.index.roots(own.height).unwrap_or(own);
        let rules = HeaderRules {
            chain_id: check.genesis.chain_id(),
            parent: self.parent,
            validators: &self.validators,
            executed,
            certified_lag_heights: lag,
            clock_millis: header.time_millis.get(),
        };
        if let Err(error) = rules.check(header, Standing::Decided) {
            check.report.fault(Part::BlockLog, place, error);
            self.is_unbroken = false;
        }
    }

    /// Checks what a whole block of an unbroken chain orders. What it may not order it has ordered
    /// all the same: the chain goes on.
    fn order(&mut self, check: &mut Check<'_>, at_hand: Option<&BlockAtHand>) {
        let Some(at_hand) = at_hand.filter(|_| self.is_unbroken) else { return };
        let DecidedBlock { block, batches, .. } = &at_hand.durable.decided;
        if let Err(error) = check_batches(block, batches, &self.ordered) {
            let what = format!("height {}: {error}", block.height());
            check.report.fault(Part::BlockLog, &at_hand.place, what);
        }
        self.ordered.insert(block.height(), block.batches());
    }

    /// Joins a block with its batches; `None` if one is missing or they are not what it counts.
    fn gather(
        &mut self,
        check: &mut Check<'_>,
        block: Block,
        certificate: CommitCertificate,
        position: RecordPosition,
        place: String,
    ) -> Option<BlockAtHand> {
        let height = block.height();
        let (mut batches, mut bodies) = (Vec::new(), Vec::new());
        let mut is_whole = true;
        for digest in block.batches() {
            let Some((batch, body)) = self.bodies.remove(digest).zip(self.unordered.remove(digest))
            else {
                let earlier = self.ordered.height_of(digest);
                let what = earlier.map_or_else(
                    || {
                        format!(
                            "batch {digest} of height {height} is not in the log before its block"
                        )
                    },
                    |at| format!("batch {digest} of height {height} was ordered at height {at}"),
                );
                check.report.fault(Part::BlockLog, &place, what);
                is_whole = false;
                continue;
            };
            batches.push(batch);
            bodies.push(body);
        }
        let found: u32 = batches.iter().map(|batch| length_u32(batch.entries())).sum();
        let stated = block.header().transactions_count.get();
        if is_whole && found != stated {
            let what =
                format!("height {height} counts {stated} transactions, its batches hold {found}");
            check.report.fault(Part::BlockLog, &place, what);
            is_whole = false;
        }
        check.report.counts.transactions += u64::from(found);
        while let Some(expired) = self.unordered.remove_expired(height) {
            self.bodies.remove(&expired);
        }
        let replay_from = self.unordered.oldest().map_or(position, |oldest| oldest.min(position));
        let decided = DecidedBlock { block, certificate, batches };
        let durable = DurableBlock { decided, position, bodies, replay_from };
        is_whole.then_some(BlockAtHand { durable, place })
    }

    fn finish(&mut self, check: &mut Check<'_>) {
        check.report.height = self.parent.height;
        if let Some(signatures) = &mut self.signatures {
            signatures.flush(check);
        }
        let Some(state) = self.state else { return };
        if self.is_unbroken {
            self.index.finish(check, state, &self.chain);
        }
    }
}

//! What a validator knows of the chain when it builds the next header: the tip, and the roots of
//! the last heights.

use std::collections::VecDeque;

use hufu_types::domain::{DomainPrefix, Kind};
use hufu_types::{Address, BlockDigest, BlockHeader, ChainId, Digest, Genesis};

use crate::messages::ExecutedRoots;

/// The last block of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainTip {
    /// Its height; 0 before the first block.
    pub height: u64,
    /// Its digest; zero before the first block.
    pub block: BlockDigest,
    /// Its time, or the genesis's.
    pub time_millis: u64,
    /// The last height that has receipts; 0 if none has.
    pub last_receipts_height: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Chain {
    chain_id: ChainId,
    lag: u64,
    validators: Digest,
    tip: ChainTip,
    roots: VecDeque<ExecutedRoots>,
}

impl Chain {
    /// The chain as recovery left it.
    #[must_use]
    pub fn new(genesis: &Genesis, tip: ChainTip, roots: Vec<ExecutedRoots>) -> Self {
        assert!(roots.last().is_some_and(|last| last.height == tip.height), "the tip is executed");
        let chain_id = genesis.chain_id();
        Self {
            chain_id,
            lag: genesis.parameters.certified_lag_heights.into(),
            validators: genesis.validators.digest(chain_id),
            tip,
            roots: roots.into(),
        }
    }

    /// Height of the last decided block.
    #[must_use]
    pub const fn height(&self) -> u64 {
        self.tip.height
    }

    /// The height to decide next.
    #[must_use]
    pub const fn next_height(&self) -> u64 {
        self.tip.height + 1
    }

    /// The roots that the header of `height` must carry, once they are known here.
    #[must_use]
    pub fn roots_for(&self, height: u64) -> Option<ExecutedRoots> {
        let executed = height.saturating_sub(self.lag);
        self.roots.iter().find(|roots| roots.height == executed).copied()
    }

    /// Whether some height has receipts that no header carries yet.
    #[must_use]
    pub const fn has_uncertified(&self) -> bool {
        let certified = self.tip.height.saturating_sub(self.lag);
        self.tip.last_receipts_height > certified
    }

    /// Takes note of the roots of an executed height.
    pub fn executed(&mut self, roots: ExecutedRoots) {
        assert!(self.roots.back().is_none_or(|last| last.height + 1 == roots.height), "in order");
        self.roots.push_back(roots);
        while self.roots.front().is_some_and(|first| first.height + self.lag < self.next_height()) {
            self.roots.pop_front();
        }
    }

    /// Takes note of a decided block.
    pub fn decided(&mut self, header: &BlockHeader) {
        assert_eq!(header.height.get(), self.next_height(), "heights are decided in order");
        assert_eq!(header.parent, self.tip.block, "a block continues the one before it");
        self.tip.height = header.height.get();
        self.tip.block = header.digest();
        self.tip.time_millis = header.time_millis.get();
        if header.transactions_count.get() > 0 {
            self.tip.last_receipts_height = self.tip.height;
        }
    }

    /// A header for the next height without its transactions; time is the clock's, but always after
    /// the parent's.
    #[must_use]
    pub fn header(
        &self,
        height: u64,
        proposer: Address,
        clock_millis: u64,
        roots: ExecutedRoots,
    ) -> BlockHeader {
        assert_eq!(height, self.next_height(), "a block continues the tip");
        BlockHeader {
            prefix: DomainPrefix::new(Kind::BlockHeader, self.chain_id),
            height: height.into(),
            time_millis: clock_millis.max(self.tip.time_millis.saturating_add(1)).into(),
            parent: self.tip.block,
            proposer,
            batches_count: 0.into(),
            transactions_count: 0.into(),
            transactions_root: Digest::ZERO,
            executed_height: roots.height.into(),
            state_root: roots.state_root,
            receipts_root: roots.receipts_root,
            receipts_count: roots.receipts_count.into(),
            validators: self.validators,
            present: 0.into(),
        }
    }
}

//! What a validator knows of the chain when it builds or judges the next block: the tip, the roots
//! of the last heights, who is present, and what was ordered lately.

use std::collections::{BTreeMap, VecDeque};

use hufu_types::OrderedBatches;
use hufu_types::limits::VALIDATORS_COUNT_MAX;
use hufu_types::{Address, Block, BlockHeader, ChainId, Hasher, ValidatorSet};

use crate::header::{
    ExecutedRoots, HeaderError, HeaderRules, Parent, Standing, carried, carries, executed_height,
};
use crate::validators::Validators;

/// Heights for which a validator that was heard of counts as present, count: the height before, and
/// one more for votes that were late.
const PRESENT_HEIGHTS_COUNT: u64 = 2;

/// The last block of the chain, as recovery finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Height, digest and time; those of the genesis before the first block.
    pub block: Parent,
    /// The last height that has receipts; 0 if none has.
    pub last_receipts_height: u64,
    /// Who its header names as present; nothing before the first block.
    pub present: Option<u128>,
    /// Who the header before names as present; nothing where there is none.
    pub present_before: Option<u128>,
}

impl Tip {
    /// Before the first block.
    #[must_use]
    pub const fn genesis(time_millis: u64) -> Self {
        Self {
            block: Parent::genesis(time_millis),
            last_receipts_height: 0,
            present: None,
            present_before: None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Chain {
    chain_id: ChainId,
    lag: u32,
    set: ValidatorSet,
    tip: Tip,
    roots: VecDeque<ExecutedRoots>,
    /// The last height executed here.
    executed: u64,
    /// Headers decided before the roots that they carry were known here, in order.
    uncompared: VecDeque<BlockHeader>,
    ordered: OrderedBatches,
    /// The validators of the next height.
    validators: Validators,
    absent: Vec<Address>,
    /// The last height at which each validator's vote was heard here.
    heard: BTreeMap<Address, u64>,
}

impl Chain {
    /// The chain as recovery left it; `roots` are those of the last heights, the tip's last.
    #[must_use]
    pub fn new(
        chain_id: ChainId,
        lag: u32,
        set: ValidatorSet,
        tip: Tip,
        roots: Vec<ExecutedRoots>,
        ordered: OrderedBatches,
    ) -> Self {
        let last = roots.last().map(|last| last.height);
        assert_eq!(last, Some(tip.block.height), "the tip is executed");
        let validators = Validators::new(set.clone());
        // Whoever was present for the last header is taken to be so still.
        let bits = tip.present.unwrap_or_default();
        let present = set.iter().filter(|(address, _)| validators.bit(address) & bits != 0);
        let heard = present.map(|(address, _)| (*address, tip.block.height)).collect();
        let mut chain = Self {
            chain_id,
            lag,
            set,
            tip,
            roots: roots.into(),
            executed: tip.block.height,
            uncompared: VecDeque::new(),
            ordered,
            validators,
            absent: Vec::new(),
            heard,
        };
        chain.renew_validators();
        chain
    }

    /// The chain's id.
    #[must_use]
    pub const fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// The last block.
    #[must_use]
    pub const fn tip(&self) -> &Tip {
        &self.tip
    }

    /// Height of the last decided block.
    #[must_use]
    pub const fn height(&self) -> u64 {
        self.tip.block.height
    }

    /// The height to decide next.
    #[must_use]
    pub const fn next_height(&self) -> u64 {
        self.tip.block.height + 1
    }

    /// The validators of the next height, with those left out of its first rounds of whom nobody
    /// has heard.
    #[must_use]
    pub const fn validators(&self) -> &Validators {
        &self.validators
    }

    /// Those left out.
    #[must_use]
    pub fn absent(&self) -> &[Address] {
        &self.absent
    }

    /// What was ordered in the window of validity.
    #[must_use]
    pub const fn ordered(&self) -> &OrderedBatches {
        &self.ordered
    }

    /// The roots that the next header must carry, once they are known here.
    #[must_use]
    pub fn next_roots(&self) -> Option<ExecutedRoots> {
        let executed = executed_height(self.next_height(), self.lag);
        self.roots.iter().find(|roots| roots.height == executed).copied()
    }

    /// Whether some height has receipts that no header carries yet.
    #[must_use]
    pub fn has_uncertified(&self) -> bool {
        self.tip.last_receipts_height > executed_height(self.tip.block.height, self.lag)
    }

    /// The rules of the next header, once the roots for it are known here.
    #[must_use]
    pub fn rules(&self, clock_millis: u64) -> Option<HeaderRules<'_>> {
        Some(HeaderRules {
            chain_id: self.chain_id,
            parent: self.tip.block,
            validators: &self.validators,
            executed: self.next_roots()?,
            certified_lag_heights: self.lag,
            clock_millis,
        })
    }

    /// A validator's vote of this height came in.
    pub fn heard(&mut self, validator: Address, height: u64) {
        let ahead = self.next_height().saturating_add(PRESENT_HEIGHTS_COUNT);
        if height <= ahead && self.set.get(&validator).is_some() {
            let last = self.heard.entry(validator).or_default();
            *last = height.max(*last);
        }
        assert!(self.heard.len() <= self.set.count(), "only validators are heard");
    }

    /// The bits of those who are present as far as this validator, `own`, has heard.
    #[must_use]
    pub fn present(&self, own: &Address) -> u128 {
        let since = self.next_height().saturating_sub(PRESENT_HEIGHTS_COUNT);
        let heard = self.heard.iter().filter(|(_, height)| **height >= since);
        heard.fold(self.validators.bit(own), |bits, (address, _)| {
            bits | self.validators.bit(address)
        })
    }

    /// Takes note of the roots of an executed height.
    ///
    /// # Errors
    /// [`HeaderError::Diverged`] if a header that was decided before carries others.
    ///
    /// # Panics
    /// If it is not the height after the last: blocks are executed in order.
    pub fn executed(&mut self, roots: ExecutedRoots) -> Result<(), HeaderError> {
        assert_eq!(roots.height, self.executed + 1, "blocks are executed in order");
        assert!(roots.height <= self.height(), "only what is decided is executed");
        self.executed = roots.height;
        let is_due = |header: &mut BlockHeader| header.executed_height.get() <= roots.height;
        while let Some(header) = self.uncompared.pop_front_if(is_due) {
            if !carries(&header, &roots) {
                let (height, executed) = (header.height.get(), roots.height);
                return Err(HeaderError::Diverged { height, executed });
            }
        }
        self.roots.push_back(roots);
        self.forget_roots();
        Ok(())
    }

    fn forget_roots(&mut self) {
        let needed = executed_height(self.next_height(), self.lag);
        while self.roots.front().is_some_and(|first| first.height < needed) {
            self.roots.pop_front();
        }
    }

    /// Takes note of a decided block. Where the roots that its header carries are not known here
    /// yet, as in catch-up, they are compared when they are.
    ///
    /// # Errors
    /// [`HeaderError::Diverged`] if a quorum decided on other roots than ours; any other is a
    /// decision that no honest quorum makes.
    ///
    /// # Panics
    /// If it is not of the next height.
    pub fn decided(&mut self, block: &Block, clock_millis: u64) -> Result<(), HeaderError> {
        let header = block.header();
        let rules = HeaderRules {
            chain_id: self.chain_id,
            parent: self.tip.block,
            validators: &self.validators,
            executed: self.next_roots().unwrap_or_else(|| ExecutedRoots {
                height: executed_height(self.next_height(), self.lag),
                ..carried(header)
            }),
            certified_lag_heights: self.lag,
            clock_millis,
        };
        rules.check(header, Standing::Decided)?;
        if self.next_roots().is_none() {
            self.uncompared.push_back(*header);
        }
        self.follow(header);
        self.ordered.insert(self.height(), block.batches());
        Ok(())
    }

    fn follow(&mut self, header: &BlockHeader) {
        let has_receipts = header.transactions_count.get() > 0;
        let height = header.height.get();
        assert_eq!(height, self.next_height(), "heights are decided in order");
        assert_eq!(header.parent, self.tip.block.digest, "a block continues the one before it");
        self.tip = Tip {
            block: Parent::of(header),
            last_receipts_height: if has_receipts { height } else { self.tip.last_receipts_height },
            present: Some(header.present.get()),
            present_before: self.tip.present,
        };
        self.forget_roots();
        self.renew_validators();
    }

    /// The validators of the next height: a function of the last two headers alone.
    fn renew_validators(&mut self) {
        let absent = match (self.tip.present, self.tip.present_before) {
            _ if hufu_types::planted!("absent_by_own_ear") => {
                let silent = |address: &&Address| !self.heard.contains_key(address);
                let unheard = self.set.iter().map(|(address, _)| address).filter(silent);
                let bits = unheard.fold(0, |bits, address| bits | self.validators.bit(address));
                self.validators.without(self.present(&Address::ZERO) | bits)
            }
            (Some(last), Some(before)) => self.validators.without(last | before),
            _ => Vec::new(),
        };
        assert!(absent.len() <= VALIDATORS_COUNT_MAX as usize, "the absent are validators");
        if absent != self.absent {
            self.validators = Validators::with_absent(self.set.clone(), &absent);
            self.absent = absent;
        }
    }

    /// A header for the next height by `own`, which orders these batches.
    #[must_use]
    pub fn build(
        &self,
        own: Address,
        batches: &[hufu_types::BatchDigest],
        transactions_count: u32,
        clock_millis: u64,
        hasher: &dyn Hasher,
    ) -> Option<BlockHeader> {
        let rules = self.rules(clock_millis)?;
        Some(rules.build(own, batches, transactions_count, self.present(&own), hasher))
    }
}

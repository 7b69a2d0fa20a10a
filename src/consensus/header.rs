//! Rules of block headers: what a proposer writes into one, and what everyone checks before voting
//! for it. Pure.
//!
//! ```text
//! proposer: HeaderRules::build        validators: HeaderRules::check -> BlockVerdict -> engine
//! decision: HeaderRules::check with Standing::Decided -> HeaderError::Diverged stops the node
//! ```

use hufu_crypto::{Digest, Hasher};
use hufu_types::codec::length_u32;
use hufu_types::limits::HEADER_TIME_AHEAD_MILLIS_MAX;
use hufu_types::{
    Address, BatchDigest, Block, BlockDigest, BlockHeader, ChainId, DomainPrefix, Kind,
};
use zerocopy::little_endian::{U32, U64, U128};

use crate::validators::{SCHEDULE_SLOTS_COUNT_MAX, Validators};

/// The block before, or the genesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its height; 0 for the genesis.
    pub height: u64,
    /// Its digest; zero for the genesis, which has no block.
    pub digest: BlockDigest,
    /// Its time, milliseconds since 1970.
    pub time_millis: u64,
}

impl Parent {
    /// A decided block as a parent.
    #[must_use]
    pub fn of(header: &BlockHeader) -> Self {
        let (height, time_millis) = (header.height.get(), header.time_millis.get());
        Self { height, digest: header.digest(), time_millis }
    }

    /// The genesis as a parent.
    #[must_use]
    pub const fn genesis(time_millis: u64) -> Self {
        Self { height: 0, digest: BlockDigest::ZERO, time_millis }
    }
}

/// What this validator's own execution of a height came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutedRoots {
    /// The height; 0 for the genesis.
    pub height: u64,
    /// State root after it.
    pub state_root: Digest,
    /// Merkle root over its receipts.
    pub receipts_root: Digest,
    /// Number of its receipts.
    pub receipts_count: u32,
}

/// How far a header has come, which decides what a differing root means.
///
/// A proposal with roots that are not ours is just a bad proposal: if it stopped the node, one
/// faulty proposer could stop all. A *decided* header with other roots than ours means that a
/// quorum computed something else: ours is the wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Proposed in this round.
    Proposed {
        /// The round.
        round: u32,
    },
    /// Decided, with a certificate.
    Decided,
}

/// Why a header is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Peer: of another chain, kind or version.
    #[error("header is not of this chain and format")]
    Prefix,
    /// Peer: not the next height.
    #[error("header has height {found}, expected {expected}")]
    Height {
        /// The height read.
        found: u64,
        /// The height wanted.
        expected: u64,
    },
    /// Peer: does not follow our block.
    #[error("header of height {height}: parent is {found}, expected {expected}")]
    Parent {
        /// The header's height.
        height: u64,
        /// The parent read.
        found: BlockDigest,
        /// Our block before.
        expected: BlockDigest,
    },
    /// Peer: not later than its parent.
    #[error("header of height {height}: time {found} ms is not after its parent's {parent} ms")]
    TimeBackwards {
        /// The header's height.
        height: u64,
        /// The time read.
        found: u64,
        /// The parent's time.
        parent: u64,
    },
    /// Peer (or our clock is slow): too far ahead of our clock. Proposals only: what is decided is
    /// accepted.
    #[error("header of height {height}: time {found} ms is ahead of this clock's {clock} ms")]
    TimeAhead {
        /// The header's height.
        height: u64,
        /// The time read.
        found: u64,
        /// Our clock.
        clock: u64,
    },
    /// Peer: built by someone whose turn it was not.
    #[error("header of height {height}: {found} had no turn to propose")]
    Proposer {
        /// The header's height.
        height: u64,
        /// The proposer read.
        found: Address,
    },
    /// Peer: names another validator set.
    #[error("header of height {height} names another validator set")]
    Validators {
        /// The header's height.
        height: u64,
    },
    /// Peer: says that it heard of validators that there are not.
    #[error("header of height {height} names validators outside the set as present")]
    Present {
        /// The header's height.
        height: u64,
    },
    /// Peer: carries the roots of another height than the chain's lag says.
    #[error("header of height {height} carries the roots of height {found}, expected {expected}")]
    ExecutedHeight {
        /// The header's height.
        height: u64,
        /// The executed height read.
        found: u64,
        /// The executed height wanted.
        expected: u64,
    },
    /// Peer: a proposal with roots other than ours: prevote nil.
    #[error("proposal of height {height}: roots of height {executed} are not ours")]
    RootsDiffer {
        /// The header's height.
        height: u64,
        /// The height of the roots.
        executed: u64,
    },
    /// Host: a quorum decided on roots other than ours. The node stops with an alarm and never
    /// votes again on this state.
    #[error(
        "DIVERGED: the decided header of height {height} has other roots for height {executed}"
    )]
    Diverged {
        /// The header's height.
        height: u64,
        /// The height of the roots.
        executed: u64,
    },
}

/// All that a header of one height is checked against or built from.
#[derive(Clone, Copy, Debug)]
pub struct HeaderRules<'a> {
    /// The chain.
    pub chain_id: ChainId,
    /// The block before.
    pub parent: Parent,
    /// The validators of the height.
    pub validators: &'a Validators,
    /// Our roots of [`executed_height`]; the caller waits until its execution is there.
    pub executed: ExecutedRoots,
    /// Heights between a block and the header that carries its roots, from the genesis.
    pub certified_lag_heights: u32,
    /// Our wall clock, milliseconds since 1970.
    pub clock_millis: u64,
}

/// The height whose roots the header of `height` carries.
#[must_use]
pub fn executed_height(height: u64, certified_lag_heights: u32) -> u64 {
    height.saturating_sub(u64::from(certified_lag_heights))
}

/// The roots that a header carries.
#[must_use]
pub fn carried(header: &BlockHeader) -> ExecutedRoots {
    ExecutedRoots {
        height: header.executed_height.get(),
        state_root: header.state_root,
        receipts_root: header.receipts_root,
        receipts_count: header.receipts_count.get(),
    }
}

/// Whether a header carries these roots.
#[must_use]
pub fn carries(header: &BlockHeader, roots: &ExecutedRoots) -> bool {
    carried(header) == *roots || hufu_types::planted!("roots_uncompared")
}

impl HeaderRules<'_> {
    /// The height these rules are for.
    #[must_use]
    pub const fn height(&self) -> u64 {
        self.parent.height.saturating_add(1)
    }

    /// A header for our own block; its time is our clock's, or just after the parent's where our
    /// clock is behind.
    ///
    /// # Panics
    /// If `executed` is not of the height that the lag demands.
    #[must_use]
    pub fn build(
        &self,
        proposer: Address,
        batches: &[BatchDigest],
        transactions_count: u32,
        present: u128,
        hasher: &dyn Hasher,
    ) -> BlockHeader {
        let height = self.height();
        let executed_height = executed_height(height, self.certified_lag_heights);
        assert_eq!(self.executed.height, executed_height, "the header carries the roots of h - d");
        assert!(self.validators.get(&proposer).is_some(), "a validator builds");
        BlockHeader {
            prefix: DomainPrefix::new(Kind::BlockHeader, self.chain_id),
            height: U64::new(height),
            time_millis: U64::new(self.clock_millis.max(self.parent.time_millis.saturating_add(1))),
            parent: self.parent.digest,
            proposer,
            batches_count: U32::new(length_u32(batches)),
            transactions_count: U32::new(transactions_count),
            transactions_root: Block::transactions_root(batches, hasher),
            executed_height: U64::new(executed_height),
            state_root: self.executed.state_root,
            receipts_root: self.executed.receipts_root,
            receipts_count: U32::new(self.executed.receipts_count),
            validators: self.validators.set().digest(self.chain_id),
            present: U128::new(present),
        }
    }

    /// Checks a header; the list of batches behind it is checked by [`Block::new`], their content
    /// by those who hold them.
    ///
    /// # Errors
    /// The first rule broken.
    ///
    /// # Panics
    /// If `executed` is not of the height that the lag demands.
    pub fn check(&self, header: &BlockHeader, standing: Standing) -> Result<(), HeaderError> {
        let expected = self.height();
        let executed = executed_height(expected, self.certified_lag_heights);
        assert_eq!(self.executed.height, executed, "the header carries the roots of h - d");
        let own_prefix = DomainPrefix::new(Kind::BlockHeader, self.chain_id);
        if header.prefix != own_prefix {
            return Err(HeaderError::Prefix);
        }
        let height = header.height.get();
        if height != expected {
            return Err(HeaderError::Height { found: height, expected });
        }
        if header.parent != self.parent.digest {
            let (found, expected) = (header.parent, self.parent.digest);
            return Err(HeaderError::Parent { height, found, expected });
        }
        self.check_time(header, standing)?;
        if header.validators != self.validators.set().digest(self.chain_id) {
            return Err(HeaderError::Validators { height });
        }
        if header.present.get() & !self.validators.bits() != 0 {
            return Err(HeaderError::Present { height });
        }
        if !self.had_turn(header.proposer, standing) {
            return Err(HeaderError::Proposer { height, found: header.proposer });
        }
        let found = header.executed_height.get();
        if found != executed {
            return Err(HeaderError::ExecutedHeight { height, found, expected: executed });
        }
        match (carries(header, &self.executed), standing) {
            (true, _) => Ok(()),
            (false, Standing::Proposed { .. }) => {
                Err(HeaderError::RootsDiffer { height, executed })
            }
            (false, Standing::Decided) => Err(HeaderError::Diverged { height, executed }),
        }
    }

    fn check_time(&self, header: &BlockHeader, standing: Standing) -> Result<(), HeaderError> {
        let (height, found) = (header.height.get(), header.time_millis.get());
        let parent = self.parent.time_millis;
        if found <= parent {
            return Err(HeaderError::TimeBackwards { height, found, parent });
        }
        let clock = self.clock_millis;
        let latest = clock.saturating_add(HEADER_TIME_AHEAD_MILLIS_MAX);
        // A parent at the edge of the bound leaves room for one more millisecond, or a clock that
        // lags would reject every block.
        let is_next_tick = found == parent.saturating_add(1);
        match standing {
            Standing::Proposed { .. } if found > latest && !is_next_tick => {
                Err(HeaderError::TimeAhead { height, found, clock })
            }
            Standing::Proposed { .. } | Standing::Decided => Ok(()),
        }
    }

    /// A block may be proposed again in a later round by another validator, so its builder had its
    /// turn in this round or before.
    fn had_turn(&self, proposer: Address, standing: Standing) -> bool {
        let turns = u32::try_from(SCHEDULE_SLOTS_COUNT_MAX).unwrap_or(u32::MAX).saturating_mul(2);
        let last = match standing {
            Standing::Proposed { round } => round.min(turns),
            Standing::Decided => turns,
        };
        let height = self.height();
        (0..=last).any(|round| self.validators.proposer(height, round).address() == proposer)
    }
}

#[cfg(test)]
mod tests {
    use hufu_crypto::{Signer, SoftwareSigner, software_provider};
    use hufu_types::{Validator, ValidatorSet};

    use super::*;

    const LAG: u32 = 2;

    fn validators() -> Validators {
        let make = |place: u8| {
            let key = |seed: u8| *SoftwareSigner::from_bytes(&[seed; 32]).unwrap().public_key();
            let (key, link_key) = (key(place), key(100 + place));
            Validator { name: format!("v{place}"), key, link_key, power: 1 }
        };
        Validators::new(ValidatorSet::new((1..5).map(make).collect()).unwrap())
    }

    fn rules(validators: &Validators) -> HeaderRules<'_> {
        HeaderRules {
            chain_id: ChainId(Digest([1; 32])),
            parent: Parent { height: 6, digest: BlockDigest(Digest([2; 32])), time_millis: 10_000 },
            validators,
            executed: ExecutedRoots {
                height: 5,
                state_root: Digest([3; 32]),
                receipts_root: Digest([4; 32]),
                receipts_count: 9,
            },
            certified_lag_heights: LAG,
            clock_millis: 10_500,
        }
    }

    fn built(rules: &HeaderRules<'_>) -> BlockHeader {
        let proposer = rules.validators.proposer(7, 0).address();
        rules.build(proposer, &[], 0, 0b1111, &*software_provider().hasher)
    }

    const ROUND_0: Standing = Standing::Proposed { round: 0 };

    #[test]
    fn what_is_built_is_accepted_and_time_never_stands_still() {
        let validators = validators();
        let mut rules = rules(&validators);
        let header = built(&rules);
        assert_eq!(rules.check(&header, ROUND_0), Ok(()));
        assert_eq!(header.time_millis.get(), 10_500);
        rules.clock_millis = 3;
        let slow = built(&rules);
        assert_eq!(slow.time_millis.get(), 10_001);
        assert_eq!(rules.check(&slow, ROUND_0), Ok(()), "our own block passes a slow clock");
    }

    #[test]
    fn every_rule_refuses() {
        let validators = validators();
        let rules = rules(&validators);
        let header = built(&rules);
        let other = validators.proposer(7, 1).address();
        let changed = |change: fn(&mut BlockHeader)| {
            let mut header = header;
            change(&mut header);
            rules.check(&header, ROUND_0).unwrap_err()
        };
        use HeaderError as E;
        let prefix = DomainPrefix::new(Kind::BlockHeader, ChainId::ZERO);
        let foreign = BlockHeader { prefix, ..header };
        assert_eq!(rules.check(&foreign, ROUND_0), Err(E::Prefix));
        assert!(matches!(changed(|header| header.height = U64::new(8)), E::Height { .. }));
        assert!(matches!(changed(|header| header.parent = BlockDigest::ZERO), E::Parent { .. }));
        let backwards = changed(|header| header.time_millis = U64::new(10_000));
        assert!(matches!(backwards, E::TimeBackwards { .. }));
        let ahead = changed(|header| header.time_millis = U64::new(12_501));
        assert!(matches!(ahead, E::TimeAhead { .. }));
        assert!(matches!(changed(|header| header.validators = Digest::ZERO), E::Validators { .. }));
        let present = changed(|header| header.present = U128::new(0b1_0000));
        assert!(matches!(present, E::Present { .. }));
        let lag = changed(|header| header.executed_height = U64::new(6));
        assert!(matches!(lag, E::ExecutedHeight { .. }));
        let out_of_turn = BlockHeader { proposer: other, ..header };
        assert!(matches!(rules.check(&out_of_turn, ROUND_0), Err(E::Proposer { .. })));
        assert_eq!(rules.check(&out_of_turn, Standing::Proposed { round: 1 }), Ok(()));
        let edge = BlockHeader { time_millis: U64::new(12_500), ..header };
        assert_eq!(rules.check(&edge, ROUND_0), Ok(()));
    }

    #[test]
    fn other_roots_make_a_bad_proposal_but_a_diverged_decision() {
        let validators = validators();
        let rules = rules(&validators);
        for change in [
            |header: &mut BlockHeader| header.state_root = Digest::ZERO,
            |header: &mut BlockHeader| header.receipts_root = Digest::ZERO,
            |header: &mut BlockHeader| header.receipts_count = U32::new(8),
        ] {
            let mut header = built(&rules);
            change(&mut header);
            let (height, executed) = (7, 5);
            let proposed = rules.check(&header, ROUND_0);
            assert_eq!(proposed, Err(HeaderError::RootsDiffer { height, executed }));
            let decided = rules.check(&header, Standing::Decided);
            assert_eq!(decided, Err(HeaderError::Diverged { height, executed }));
        }
    }

    #[test]
    fn first_heights_carry_the_roots_of_the_genesis() {
        assert_eq!([1, 2, 3, 4].map(|height| executed_height(height, LAG)), [0, 0, 1, 2]);
    }
}

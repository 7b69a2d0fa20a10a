//! Probation: a validator that begins with an empty data folder cannot know what its key signed
//! before. Perhaps nothing, because the chain is new; perhaps votes, on a disk that is lost.
//!
//! It follows by catch-up and signs nothing until either holds:
//! - The chain is new: validators with more than two thirds of the power, itself among them, say
//!   that they are at the genesis. Only those say so that began their run on probation, so that
//!   none of them has ever signed anything in another run. Where power was lost before the first
//!   block, the others keep silent, and whoever lost its disk then waits for the second rule.
//! - A block is decided whose time is later than the empty folder by more than twice what clocks
//!   may differ. An honest quorum prevoted for that block at such a time, so its height is not
//!   below the last at which this key can have signed, and the next one is above.
//!
//! The second rests on clocks, as nothing else here does: on honest validators' clocks that differ
//! by no more than headers allow. Without it a lost disk would mean a new key.

use hufu_types::Address;
use hufu_types::limits::HEADER_TIME_AHEAD_MILLIS_MAX;

use super::chain::Chain;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probation {
    since_millis: u64,
}

impl Probation {
    /// On probation since this Unix time in milliseconds.
    pub(super) const fn new(since_millis: u64) -> Self {
        Self { since_millis }
    }

    /// Whether `own` may vote at the next height; `tips` are those of peers that have told.
    pub(super) fn is_over(
        self,
        chain: &Chain,
        own: Address,
        tips: impl Iterator<Item = (Address, u64)>,
    ) -> bool {
        if chain.height() > 0 {
            let limit = self.since_millis.saturating_add(2 * HEADER_TIME_AHEAD_MILLIS_MAX);
            return chain.tip().block.time_millis > limit;
        }
        let set = chain.validators().set();
        let at_genesis = tips.filter(|(_, tip)| *tip == 0).map(|(peer, _)| peer);
        let power = |address| set.get(&address).map_or(0, |validator| validator.power);
        set.is_quorum(core::iter::once(own).chain(at_genesis).map(power).sum())
    }
}

//! The validator set of a height as the engine uses it, and who proposes when.
//!
//! **Rotation.** A schedule of at most [`SCHEDULE_SLOTS_COUNT_MAX`] slots is laid out once per set
//! by smooth weighted round robin: each validator gets slots in proportion to its power, spread as
//! evenly as they go. The proposer of (height, round) is the slot (height + round) of the schedule,
//! so round r + 1 of a height asks whom height + 1 would ask first, and a fault costs one slot.
//!
//! **Absent proposers.** [`Validators::with_absent`] leaves named validators out of the schedule,
//! as long as those left hold more than two thirds of the power and only for the first rounds of a
//! height; from round `count` on everyone is asked again, so that a wrong guess never stops the
//! chain. Who is absent must be the same on all validators, hence a function of decided blocks
//! alone: each header says of whom its proposer heard lately, and who is named by neither of the
//! last two headers is absent. So one dead proposer costs one slot, and one that is back is asked
//! again as soon as anybody hears its votes. A certificate's round or signers may *not* be used:
//! two validators may hold different certificates for one block.

use std::sync::Arc;

use arc_malachitebft_core_types as core_types;
use hufu_types::limits::VALIDATORS_COUNT_MAX;
use hufu_types::{Address, PublicKey, ValidatorSet};

use crate::context::{Context, Voter};

/// Slots of a proposer schedule, count. Eight for each of the most validators there may be: powers
/// are kept to about an eighth of a mean share.
pub const SCHEDULE_SLOTS_COUNT_MAX: u64 = 1_024;

const _: () = assert!(
    SCHEDULE_SLOTS_COUNT_MAX >= 8 * VALIDATORS_COUNT_MAX as u64,
    "every validator needs a slot, and room for its weight"
);

/// One validator as the library sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    voter: Voter,
    key: PublicKey,
    power: u64,
}

impl Member {
    /// The validator's address.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.voter.0
    }

    /// Verifies its votes and proposals.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }
}

impl core_types::Validator<Context> for Member {
    fn address(&self) -> &Voter {
        &self.voter
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn voting_power(&self) -> u64 {
        self.power
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Shared {
    set: ValidatorSet,
    members: Vec<Member>,
    schedule: Vec<usize>,
    schedule_present: Vec<usize>,
}

/// The validators of a height with their proposer schedule; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    shared: Arc<Shared>,
}

impl Validators {
    /// The set with everyone in the schedule.
    #[must_use]
    pub fn new(set: ValidatorSet) -> Self {
        Self::with_absent(set, &[])
    }

    /// The set with `absent` left out of the first rounds; ignored where too few would be left to
    /// form a quorum.
    #[must_use]
    pub fn with_absent(set: ValidatorSet, absent: &[Address]) -> Self {
        let members: Vec<Member> = set
            .iter()
            .map(|(address, validator)| Member {
                voter: Voter(*address),
                key: validator.key,
                power: validator.power,
            })
            .collect();
        assert!(!members.is_empty(), "a validator set has a validator");
        let schedule = lay_out(&members);
        let is_present = |place: &usize| {
            members.get(*place).is_some_and(|member| !absent.contains(&member.address()))
        };
        let present_power =
            (0..members.len()).filter(is_present).filter_map(|place| members.get(place));
        let present_power: u64 = present_power.map(|member| member.power).sum();
        let schedule_present = if set.is_quorum(present_power) {
            schedule.iter().copied().filter(is_present).collect()
        } else {
            schedule.clone()
        };
        Self { shared: Arc::new(Shared { set, members, schedule, schedule_present }) }
    }

    /// The set itself.
    #[must_use]
    pub fn set(&self) -> &ValidatorSet {
        &self.shared.set
    }

    /// The bits that a header may set for validators that are present: one for each, by ascending
    /// address, lowest first.
    #[must_use]
    pub fn bits(&self) -> u128 {
        (0..self.shared.members.len()).fold(0, |bits, place| bits | (1 << place))
    }

    /// The bit of this validator in a header; 0 for one outside the set.
    #[must_use]
    pub fn bit(&self, address: &Address) -> u128 {
        let place = self.shared.members.binary_search_by_key(address, Member::address);
        place.map_or(0, |place| 1 << place)
    }

    /// The validators whose bits are not among `bits`.
    #[must_use]
    pub fn without(&self, bits: u128) -> Vec<Address> {
        let addresses = self.shared.members.iter().map(Member::address);
        addresses.filter(|address| self.bit(address) & bits == 0).collect()
    }

    /// The validator with this address.
    #[must_use]
    pub fn get(&self, address: &Address) -> Option<&Member> {
        let members = &self.shared.members;
        let place = members.binary_search_by_key(address, Member::address).ok()?;
        members.get(place)
    }

    /// Who proposes in this round (Tendermint L13).
    ///
    /// # Panics
    /// Never: a set has a validator, and a schedule names only those.
    #[must_use]
    pub fn proposer(&self, height: u64, round: u32) -> &Member {
        let shared = &self.shared;
        let first_rounds = usize::try_from(round).is_ok_and(|round| round < shared.members.len());
        let schedule = if first_rounds { &shared.schedule_present } else { &shared.schedule };
        let slots = u64::try_from(schedule.len()).unwrap_or(1).max(1);
        let slot = height.wrapping_add(u64::from(round)) % slots;
        let place = usize::try_from(slot).ok().and_then(|slot| schedule.get(slot)).copied();
        let member = place.and_then(|place| shared.members.get(place));
        assert!(member.is_some(), "a schedule names members of its set");
        member.unwrap_or(&shared.members[0])
    }
}

impl core_types::ValidatorSet<Context> for Validators {
    fn count(&self) -> usize {
        self.shared.members.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.shared.set.power_total()
    }

    fn get_by_address(&self, address: &Voter) -> Option<&Member> {
        self.get(&address.0)
    }

    fn get_by_index(&self, index: usize) -> Option<&Member> {
        self.shared.members.get(index)
    }
}

/// Slots per validator: its power divided by the common divisor, scaled down to the limit where
/// that is too many, at least one.
fn weights(members: &[Member]) -> Vec<u64> {
    let divisor = members.iter().fold(0, |common, member| common_divisor(common, member.power));
    let divisor = divisor.max(1);
    let total: u64 = members.iter().map(|member| member.power / divisor).sum();
    let scale = |weight: u64| {
        if total <= SCHEDULE_SLOTS_COUNT_MAX {
            return weight;
        }
        let scaled =
            u128::from(weight) * u128::from(SCHEDULE_SLOTS_COUNT_MAX / 2) / u128::from(total);
        u64::try_from(scaled).unwrap_or(SCHEDULE_SLOTS_COUNT_MAX).max(1)
    };
    members.iter().map(|member| scale(member.power / divisor)).collect()
}

const fn common_divisor(mut first: u64, mut second: u64) -> u64 {
    while second != 0 {
        (first, second) = (second, first % second);
    }
    first
}

/// Smooth weighted round robin: in each slot everyone gains its weight, the richest is chosen and
/// pays the total.
fn lay_out(members: &[Member]) -> Vec<usize> {
    let weights = weights(members);
    let total: u64 = weights.iter().sum();
    assert!(total <= SCHEDULE_SLOTS_COUNT_MAX, "weights were scaled to the limit");
    let mut credits: Vec<i128> = vec![0; weights.len()];
    let mut schedule = Vec::new();
    for _ in 0..total {
        for (credit, weight) in credits.iter_mut().zip(&weights) {
            *credit += i128::from(*weight);
        }
        // Of equals the first by address, so that every validator lays out the same schedule.
        let richest = credits.iter().copied().max();
        let Some(place) = credits.iter().position(|credit| Some(*credit) == richest) else {
            break;
        };
        if let Some(credit) = credits.get_mut(place) {
            *credit -= i128::from(total);
        }
        schedule.push(place);
    }
    schedule
}

#[cfg(test)]
mod tests {
    use hufu_crypto::{Signer, SoftwareSigner};
    use hufu_types::Validator;

    use super::*;

    fn validators(powers: &[u64]) -> Vec<Validator> {
        let make = |(place, power): (usize, &u64)| {
            let secret = [u8::try_from(place).unwrap() + 1; 32];
            let mut link_secret = secret;
            link_secret[31] = !link_secret[31];
            let key = |secret| *SoftwareSigner::from_bytes(secret).unwrap().public_key();
            let (key, link_key) = (key(&secret), key(&link_secret));
            Validator { name: format!("v{place}"), key, link_key, power: *power }
        };
        powers.iter().enumerate().map(make).collect()
    }

    fn count(validators: &Validators, heights: u64) -> Vec<u64> {
        let mut counts = vec![0; validators.shared.members.len()];
        for height in 0..heights {
            let proposer = validators.proposer(height, 0);
            let place =
                validators.shared.members.iter().position(|member| member == proposer).unwrap();
            counts[place] += 1;
        }
        counts
    }

    #[test]
    fn equal_powers_take_turns_and_a_failed_round_asks_the_next() {
        let set = Validators::new(ValidatorSet::new(validators(&[7, 7, 7, 7])).unwrap());
        assert_eq!(count(&set, 40), vec![10; 4]);
        for height in 1..20 {
            assert_eq!(set.proposer(height, 1), set.proposer(height + 1, 0));
            assert_ne!(set.proposer(height, 0), set.proposer(height, 1));
        }
    }

    #[test]
    fn slots_follow_power_and_are_spread() {
        let set = Validators::new(ValidatorSet::new(validators(&[1, 2, 5])).unwrap());
        let mut powers: Vec<u64> =
            set.shared.members.iter().map(|member| member.power * 10).collect();
        assert_eq!(count(&set, 80), powers);
        powers.sort_unstable();
        assert_eq!(powers, [10, 20, 50]);
        let strongest = set.shared.members.iter().max_by_key(|member| member.power).unwrap();
        let run = (0..80).map(|height| set.proposer(height, 0) == strongest);
        let longest = run.fold((0, 0), |(longest, run), hit| {
            let run = if hit { run + 1 } else { 0 };
            (i32::max(longest, run), run)
        });
        assert!(longest.0 <= 3, "five of eight slots in runs of at most three");
    }

    #[test]
    fn huge_powers_still_leave_a_slot_for_everyone() {
        let powers: Vec<u64> = (0..128).map(|place| if place == 0 { 1 << 47 } else { 1 }).collect();
        let set = Validators::new(ValidatorSet::new(validators(&powers)).unwrap());
        let slots = u64::try_from(set.shared.schedule.len()).unwrap();
        assert!(slots <= SCHEDULE_SLOTS_COUNT_MAX);
        assert!(count(&set, slots).iter().all(|turns| *turns >= 1));
    }

    #[test]
    fn an_absent_validator_is_asked_only_in_late_rounds() {
        let four = ValidatorSet::new(validators(&[1, 1, 1, 1])).unwrap();
        let dead = *four.iter().next().unwrap().0;
        let set = Validators::with_absent(four.clone(), &[dead]);
        for height in 0..12 {
            for round in 0..4 {
                assert_ne!(set.proposer(height, round).address(), dead);
            }
        }
        assert!((4..12).any(|round| set.proposer(0, round).address() == dead));
        let two: Vec<Address> = four.iter().take(2).map(|(address, _)| *address).collect();
        let ignored = Validators::with_absent(four, &two);
        assert!((0..4).any(|height| ignored.proposer(height, 0).address() == two[0]));
    }
}

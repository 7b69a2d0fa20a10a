//! Why a height is not decided: whose part is missing, and since when. For people only; nothing is
//! decided by it.

use std::collections::BTreeSet;

use hufu_types::{Address, SignedVote, VoteStep};

use super::{Replica, Stage};

/// What a height waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// The proposer's block or its proposal.
    Proposal,
    /// Batches that the proposed block orders.
    Batches,
    /// A prevote.
    Prevote,
    /// A precommit.
    Precommit,
}

/// Where the height at work stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The last height decided.
    pub tip: u64,
    /// What is being done: `resting`, `deciding`, `writing`, `catching up` or
    /// `on probation`.
    pub stage: &'static str,
    /// Nanoseconds since that began.
    pub stage_nanos: u64,
    /// The round at work.
    pub round: u32,
    /// Nanoseconds since it began.
    pub round_nanos: u64,
    /// Who proposes in it; nobody while resting.
    pub proposer: Option<Address>,
    /// What it waits for, and of whom.
    pub missing: Vec<(Address, Missing)>,
    /// For how many nanoseconds this validator's signer has not answered, once that is too long: it
    /// follows and does not vote.
    pub signer_late_nanos: Option<u64>,
    /// Validators left out of the first rounds, because nobody has heard of them.
    pub absent: Vec<Address>,
    /// Peers whose links are open and the last height of each.
    pub peers: Vec<(Address, u64)>,
}

/// Keeps note of what was seen of the height at work.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    height: u64,
    since: u64,
    round: u32,
    round_since: u64,
    proposer: Option<Address>,
    has_block: bool,
    has_proposal: bool,
    prevotes: BTreeSet<Address>,
    precommits: BTreeSet<Address>,
}

impl Tracker {
    pub(super) fn begin(&mut self, height: u64, now: u64) {
        *self = Self { height, since: now, round_since: now, ..Self::default() };
    }

    pub(super) fn rest(&mut self, now: u64) {
        *self = Self { since: now, round_since: now, ..Self::default() };
    }

    pub(super) fn round(&mut self, height: u64, round: u32, proposer: Address, now: u64) {
        let since = if height == self.height { self.since } else { now };
        let proposer = Some(proposer);
        *self = Self { height, since, round, round_since: now, proposer, ..Self::default() };
    }

    pub(super) fn block(&mut self, height: u64, round: u32) {
        self.has_block |= (height, round) == (self.height, self.round);
    }

    pub(super) fn proposal(&mut self, height: u64, round: u32) {
        self.has_proposal |= (height, round) == (self.height, self.round);
    }

    pub(super) fn vote(&mut self, height: u64, signed: &SignedVote) {
        if (height, signed.vote.round.get()) != (self.height, self.round) {
            return;
        }
        let votes = match signed.vote.step() {
            VoteStep::Prevote => &mut self.prevotes,
            VoteStep::Precommit => &mut self.precommits,
        };
        votes.insert(signed.vote.validator);
    }

    pub(super) fn status(&self, now: u64, replica: &Replica) -> Status {
        let chain = &replica.chain;
        let stage = match replica.stage {
            Stage::Resting if replica.is_on_probation() => "on probation",
            Stage::Resting if replica.catch_up.is_coming(now) => "catching up",
            Stage::Resting => "resting",
            Stage::Deciding => "deciding",
            Stage::Writing => "writing",
        };
        let is_deciding = replica.stage == Stage::Deciding;
        Status {
            tip: chain.height(),
            stage,
            stage_nanos: now.saturating_sub(self.since),
            round: self.round,
            round_nanos: now.saturating_sub(self.round_since),
            proposer: self.proposer.filter(|_| is_deciding),
            missing: if is_deciding { self.missing(replica) } else { Vec::new() },
            signer_late_nanos: replica.signer.late_nanos(now),
            absent: chain.absent().to_vec(),
            peers: replica.catch_up.tips().collect(),
        }
    }

    fn missing(&self, replica: &Replica) -> Vec<(Address, Missing)> {
        let set = replica.chain.validators().set();
        let without = |votes: &BTreeSet<Address>, what| {
            let silent = set.iter().map(|(address, _)| *address);
            silent.filter(|one| !votes.contains(one)).map(|one| (one, what)).collect()
        };
        let power = |votes: &BTreeSet<Address>| {
            votes.iter().filter_map(|one| set.get(one)).map(|validator| validator.power).sum()
        };
        let is_proposed = self.has_block && self.has_proposal;
        if !is_proposed && !set.is_quorum(power(&self.prevotes)) {
            let is_fetching = replica.proposals.awaits_batches(self.height);
            let what = if is_fetching { Missing::Batches } else { Missing::Proposal };
            let mut missing: Vec<_> =
                self.proposer.map(|proposer| (proposer, what)).into_iter().collect();
            // Who waited long enough for the proposal votes without it, then waits for votes.
            if !self.prevotes.is_empty() {
                missing.extend(without(&self.prevotes, Missing::Prevote));
            }
            return missing;
        }
        if !set.is_quorum(power(&self.prevotes)) {
            return without(&self.prevotes, Missing::Prevote);
        }
        without(&self.precommits, Missing::Precommit)
    }
}

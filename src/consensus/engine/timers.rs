//! How long the engine waits in each step: linear in the round, up to a cap.
//!
//! Chains whose timers double have stood still for hours after a short outage
//! (`facts/consensus.md`); a linear timer with a cap finds the network's real delay soon enough and
//! is never further than the cap from the next try.

use core::time::Duration;

use arc_malachitebft_core_types::{Round, Timeout, TimeoutKind};

/// Longest time any round timer may run, nanoseconds: a minute.
pub const ROUND_TIMER_NANOS_MAX: u64 = 60_000_000_000;

/// What a timer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// The proposal (Tendermint L21, L57).
    Propose,
    /// Prevotes that agree (Tendermint L35, L61).
    Prevote,
    /// Precommits that agree (Tendermint L48, L65).
    Precommit,
    /// Telling our last votes again to peers that may have missed them.
    Rebroadcast,
}

/// Names a timer; scheduling the same one again moves its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerId {
    /// Height it was set at.
    pub height: u64,
    /// Round it was set for.
    pub round: u32,
    /// What it waits for.
    pub kind: TimerKind,
}

/// Waiting times in nanoseconds. A node's choice: nodes may differ without harm to safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a proposal, in round 0.
    pub propose_nanos: u64,
    /// For prevotes that agree, in round 0.
    pub prevote_nanos: u64,
    /// For precommits that agree, in round 0.
    pub precommit_nanos: u64,
    /// Between two tellings of our last votes.
    pub rebroadcast_nanos: u64,
    /// More for each round, in every kind.
    pub round_step_nanos: u64,
    /// Never longer than this, at most [`ROUND_TIMER_NANOS_MAX`].
    pub cap_nanos: u64,
}

impl Default for Timeouts {
    /// For a data centre: half a second for a block of 1 MiB batches, far more than a vote needs.
    fn default() -> Self {
        Self {
            propose_nanos: 500_000_000,
            prevote_nanos: 200_000_000,
            precommit_nanos: 200_000_000,
            rebroadcast_nanos: 1_000_000_000,
            round_step_nanos: 100_000_000,
            cap_nanos: 5_000_000_000,
        }
    }
}

impl Timeouts {
    /// How long a timer of this kind runs in this round.
    #[must_use]
    pub fn nanos(&self, kind: TimerKind, round: u32) -> u64 {
        let base = match kind {
            TimerKind::Propose => self.propose_nanos,
            TimerKind::Prevote => self.prevote_nanos,
            TimerKind::Precommit => self.precommit_nanos,
            TimerKind::Rebroadcast => self.rebroadcast_nanos,
        };
        let more = self.round_step_nanos.saturating_mul(u64::from(round));
        base.saturating_add(more).min(self.cap_nanos).min(ROUND_TIMER_NANOS_MAX)
    }
}

/// The library's timeout as a timer of ours; `None` for the one it sets only when a target time is
/// given, which it never is.
pub(super) fn timer(height: u64, timeout: Timeout) -> Option<TimerId> {
    let kind = match timeout.kind {
        TimeoutKind::Propose => TimerKind::Propose,
        TimeoutKind::Prevote => TimerKind::Prevote,
        TimeoutKind::Precommit => TimerKind::Precommit,
        TimeoutKind::Rebroadcast => TimerKind::Rebroadcast,
        TimeoutKind::FinalizeHeight(Duration { .. }) => return None,
    };
    Some(TimerId { height, round: timeout.round.as_u32()?, kind })
}

/// A timer of ours as the library's timeout.
pub(super) const fn timeout(timer: TimerId) -> Timeout {
    let kind = match timer.kind {
        TimerKind::Propose => TimeoutKind::Propose,
        TimerKind::Prevote => TimeoutKind::Prevote,
        TimerKind::Precommit => TimeoutKind::Precommit,
        TimerKind::Rebroadcast => TimeoutKind::Rebroadcast,
    };
    Timeout::new(Round::new(timer.round), kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_grow_linearly_to_the_cap_and_never_overflow() {
        let timeouts = Timeouts::default();
        let at = |round| timeouts.nanos(TimerKind::Propose, round);
        assert_eq!(at(1) - at(0), at(2) - at(1));
        assert_eq!(at(0), 500_000_000);
        assert_eq!(at(u32::MAX), timeouts.cap_nanos);
        let endless = Timeouts { cap_nanos: u64::MAX, round_step_nanos: u64::MAX, ..timeouts };
        assert_eq!(endless.nanos(TimerKind::Prevote, u32::MAX), ROUND_TIMER_NANOS_MAX);
    }
}

//! The double-sign guard: the rule that decides which bytes may be signed with this validator's
//! key.
//!
//! ```text
//! engine asks for a signature -> Guard::admit -> vote log -> Durable<SignIntent> -> signer
//! ```
//!
//! Pure: it holds what was admitted and decides; the record that makes a decision survive a crash
//! is the vote log's ([`crate::vote_log`]), from which it is rebuilt at start. Positions (height,
//! round, step) only rise; a position admitted once is admitted again only with the very same
//! bytes, which is what a crash between intent and signature needs.

use std::collections::BTreeMap;

use hufu_types::codec::DecodeError;
use hufu_types::{Proposal, Vote, VoteStep};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Positions whose bytes the guard remembers, count: three for each of more than a thousand rounds.
/// Older ones are refused outright.
pub const POSITIONS_COUNT_MAX: usize = 4_096;

/// The three things a validator signs in a round, in the order in which it signs them (Tendermint
/// L19, L22-L36, L37-L46).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignStep {
    /// A proposal.
    Propose,
    /// A prevote.
    Prevote,
    /// A precommit.
    Precommit,
}

/// A place in the life of a chain at which a validator signs at most one thing; ordered as they
/// come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Height, from 1.
    pub height: u64,
    /// Round, from 0.
    pub round: u32,
    /// Step in the round.
    pub step: SignStep,
}

impl core::fmt::Display for Position {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "height {}, round {}, {:?}", self.height, self.round, self.step)
    }
}

/// A message this validator means to sign: all its bytes, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignIntent {
    /// A proposal.
    Proposal(Proposal),
    /// A vote.
    Vote(Vote),
}

impl SignIntent {
    /// The complete bytes to sign; e = SM3(ZA || these) is made by
    /// [`hufu_types::vote::signing_digest`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Proposal(proposal) => proposal.as_bytes(),
            Self::Vote(vote) => vote.as_bytes(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        let (height, round, step) = match self {
            Self::Proposal(proposal) => (proposal.height, proposal.round, SignStep::Propose),
            Self::Vote(vote) => (
                vote.height,
                vote.round,
                match vote.step() {
                    VoteStep::Prevote => SignStep::Prevote,
                    VoteStep::Precommit => SignStep::Precommit,
                },
            ),
        };
        Position { height: height.get(), round: round.get(), step }
    }

    /// Reads exactly one intent back from its bytes; the domain prefix tells which kind it is.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wrong = |_| DecodeError::NotCanonical { field: "length of a sign intent" };
        if bytes.len() == size_of::<Vote>() {
            let vote = Vote::read_from_bytes(bytes).map_err(|error| wrong(error.to_string()))?;
            vote.check()?;
            return Ok(Self::Vote(vote));
        }
        let proposal =
            Proposal::read_from_bytes(bytes).map_err(|error| wrong(error.to_string()))?;
        proposal.check()?;
        Ok(Self::Proposal(proposal))
    }
}

const _: () = assert!(
    size_of::<Vote>() != size_of::<Proposal>(),
    "the length of an intent tells votes from proposals"
);

/// That the guard lets something be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Nothing was admitted at this position before: its record must be durable before anyone
    /// signs.
    First,
    /// The same bytes were admitted at this position before, and are on record.
    Again,
}

/// Why something must not be signed. Whoever sees one stops voting: our own rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// Something else was admitted at the same position.
    #[error("refused to sign a second message at {position}")]
    SecondMessage {
        /// The position.
        position: Position,
    },
    /// A later position was admitted already.
    #[error("refused to sign at {position} after {last}")]
    Backwards {
        /// The position asked for.
        position: Position,
        /// The last position admitted.
        last: Position,
    },
    /// The height is decided: nothing new is to be said about it.
    #[error("refused to sign at {position}, height {decided} is decided")]
    Decided {
        /// The position asked for.
        position: Position,
        /// The last height decided.
        decided: u64,
    },
}

/// What was admitted, and the rule over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    admitted: BTreeMap<Position, SignIntent>,
    /// Up to this height nothing new is admitted, also where nothing is remembered of it.
    decided: u64,
}

impl Guard {
    /// A guard for a key that has signed nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The last position admitted.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        self.admitted.last_key_value().map(|(position, _)| *position)
    }

    /// What was admitted at this position, as far as it is remembered.
    #[must_use]
    pub fn admitted(&self, position: Position) -> Option<&SignIntent> {
        self.admitted.get(&position)
    }

    /// Everything up to `height` is decided and durable: nothing new is admitted there. What was
    /// signed for such a height may be long forgotten, or this validator took no part in it.
    pub fn decide(&mut self, height: u64) {
        assert!(self.decided <= height, "decided heights only rise");
        self.decided = height;
    }

    /// Decides, and remembers what it admits.
    ///
    /// # Errors
    /// [`GuardError`]: the message must not be signed.
    pub fn admit(&mut self, intent: &SignIntent) -> Result<Admission, GuardError> {
        // A guard that remembers nothing: the planted bug by which a simulator shows that it would
        // notice.
        if hufu_types::planted!("guard_off") {
            return Ok(Admission::First);
        }
        let position = intent.position();
        let before = self.admitted.get(&position);
        if before == Some(intent) {
            return Ok(Admission::Again);
        }
        if before.is_some() {
            return Err(GuardError::SecondMessage { position });
        }
        if position.height <= self.decided {
            return Err(GuardError::Decided { position, decided: self.decided });
        }
        if let Some(last) = self.last().filter(|last| *last > position) {
            return Err(GuardError::Backwards { position, last });
        }
        self.admitted.insert(position, *intent);
        while self.admitted.len() > POSITIONS_COUNT_MAX {
            self.admitted.pop_first();
        }
        assert!(self.last() >= Some(position), "positions only rise");
        Ok(Admission::First)
    }
}

#[cfg(all(test, not(hufu_planted_bug = "guard_off")))]
mod tests {
    use hufu_types::{Address, BlockDigest, ChainId, Digest};
    use proptest::prelude::*;

    use super::*;

    fn block(number: u8) -> Option<BlockDigest> {
        (number != 0).then_some(BlockDigest(Digest([number; 32])))
    }

    fn vote(height: u64, round: u32, step: VoteStep, number: u8) -> SignIntent {
        let validator = Address([1; 20]);
        SignIntent::Vote(Vote::new(ChainId::ZERO, step, height, round, block(number), validator))
    }

    fn proposal(height: u64, round: u32, number: u8) -> SignIntent {
        let digest = BlockDigest(Digest([number; 32]));
        let proposer = Address([1; 20]);
        SignIntent::Proposal(Proposal::new(ChainId::ZERO, height, round, digest, None, proposer))
    }

    fn any_intent() -> impl Strategy<Value = SignIntent> {
        (1u64..4, 0u32..3, 0u8..3, 1u8..4).prop_map(|(height, round, step, number)| match step {
            0 => proposal(height, round, number),
            1 => vote(height, round, VoteStep::Prevote, number),
            _ => vote(height, round, VoteStep::Precommit, number),
        })
    }

    #[test]
    fn steps_of_a_round_come_in_order_and_once() {
        let mut guard = Guard::new();
        assert_eq!(guard.admit(&proposal(1, 0, 1)), Ok(Admission::First));
        assert_eq!(guard.admit(&vote(1, 0, VoteStep::Prevote, 1)), Ok(Admission::First));
        assert_eq!(guard.admit(&vote(1, 0, VoteStep::Precommit, 1)), Ok(Admission::First));
        assert_eq!(guard.admit(&vote(1, 0, VoteStep::Prevote, 1)), Ok(Admission::Again));
        let second = guard.admit(&vote(1, 0, VoteStep::Precommit, 0));
        assert!(matches!(second, Err(GuardError::SecondMessage { .. })));
        assert_eq!(guard.admit(&proposal(2, 0, 2)), Ok(Admission::First));
        let late = guard.admit(&vote(1, 1, VoteStep::Prevote, 1));
        assert!(matches!(late, Err(GuardError::Backwards { .. })));
    }

    #[test]
    fn nothing_new_is_signed_at_a_decided_height() {
        let mut guard = Guard::new();
        let early = vote(4, 0, VoteStep::Prevote, 1);
        assert_eq!(guard.admit(&early), Ok(Admission::First));
        guard.decide(5);
        assert_eq!(guard.admit(&early), Ok(Admission::Again), "the same bytes may be signed again");
        for intent in [proposal(1, 0, 1), vote(4, 1, VoteStep::Prevote, 1), proposal(5, 9, 1)] {
            let refused = guard.admit(&intent);
            assert!(matches!(refused, Err(GuardError::Decided { decided: 5, .. })), "{refused:?}");
        }
        assert_eq!(guard.admit(&proposal(6, 0, 1)), Ok(Admission::First));
    }

    #[test]
    fn memory_is_bounded_and_forgotten_positions_stay_refused() {
        let mut guard = Guard::new();
        let rounds = u32::try_from(POSITIONS_COUNT_MAX).unwrap() + 10;
        for round in 0..rounds {
            assert_eq!(guard.admit(&vote(1, round, VoteStep::Prevote, 1)), Ok(Admission::First));
        }
        assert_eq!(guard.admitted.len(), POSITIONS_COUNT_MAX);
        let forgotten = guard.admit(&vote(1, 0, VoteStep::Prevote, 1));
        assert!(matches!(forgotten, Err(GuardError::Backwards { .. })));
    }

    #[test]
    fn intents_come_back_from_their_bytes() {
        for intent in [proposal(3, 2, 1), vote(3, 2, VoteStep::Precommit, 0)] {
            assert_eq!(SignIntent::parse(intent.bytes()), Ok(intent));
            let mut longer = intent.bytes().to_vec();
            longer.push(0);
            assert!(SignIntent::parse(&longer).is_err());
            let mut other = intent.bytes().to_vec();
            other[0] ^= 0x40;
            assert!(SignIntent::parse(&other).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(512)
        })]

        #[test]
        fn never_two_messages_at_one_position_and_never_backwards(
            asked in proptest::collection::vec((any_intent(), any::<bool>()), 1..40)
        ) {
            let mut guard = Guard::new();
            let mut record: Vec<SignIntent> = Vec::new();
            for (intent, crash) in asked {
                if crash {
                    // What a restart does: admit the record again, in its order.
                    guard = Guard::new();
                    for intent in &record {
                        prop_assert_eq!(guard.admit(intent), Ok(Admission::First));
                    }
                }
                match guard.admit(&intent) {
                    Ok(Admission::First) => {
                        let position = intent.position();
                        let rises = record.last().is_none_or(|last| last.position() < position);
                        prop_assert!(rises);
                        record.push(intent);
                    }
                    Ok(Admission::Again) => prop_assert!(record.contains(&intent)),
                    Err(GuardError::Decided { .. }) => prop_assert!(false, "none is decided"),
                    Err(GuardError::SecondMessage { position }) => {
                        let same = record.iter().find(|before| before.position() == position);
                        prop_assert!(same.is_some_and(|before| *before != intent));
                    }
                    Err(GuardError::Backwards { position, last }) => {
                        prop_assert!(position < last);
                        prop_assert_eq!(record.last().map(SignIntent::position), Some(last));
                    }
                }
            }
        }
    }
}

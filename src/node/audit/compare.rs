//! The audit log against the vote log: whether what the one says was signed is what the other has.
//!
//! ```text
//! vote log: intents, in order of their positions ---.
//! audit log: key.used from A to B, counts, chain ----+--> the same bytes, in the same order
//! ```
//!
//! Every intent between the first and the last position of a record was signed, in this order: the
//! engine asks for one signature at a time and goes on when it has it. Two things are not so. What
//! was admitted and not signed when a node stopped lies between two runs, where nothing is asked of
//! it; if the next run signs before and behind it, it lies within a record and may be left out
//! there, provided that no vote made of it was taken in. And the vote log uses the files of its
//! oldest heights again: records about those are counted and not compared.

use std::collections::BTreeMap;

use hufu_consensus::Record as VoteRecord;
use hufu_consensus::guard::{Position, SignStep};
use hufu_crypto::{Digest, Hasher};
use hufu_storage::audit_log::Record;
use hufu_storage::vote_log::{KIND_SEAL, VoteLog, VoteLogOptions};

use super::events::{KEY_USED, NODE, NODE_STARTED, SIGN, Used, parse_used, place_of};
use super::signed_digest;

/// Ways to leave out what was not signed that are tried for one record, count.
const CHOICES_MAX: u32 = 4_096;

/// Records that may be about one position, count: each is of another run.
const OVERLAPS_MAX: usize = 16;

/// Why there is nothing to compare with.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The vote log cannot be read.
    #[error(transparent)]
    Storage(#[from] hufu_storage::Error),
    /// A record of the vote log is none.
    #[error("a record of the vote log is not canonical: {0}")]
    Record(hufu_types::codec::DecodeError),
}

/// What does not agree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// A record of what was signed makes no sense.
    #[error("record {sequence} says it is about signatures and is not readable")]
    Unreadable {
        /// Of the audit log.
        sequence: u64,
    },
    /// The chain is over other bytes than the vote log holds.
    #[error(
        "record {sequence}: {signed} signatures from {first} to {last} are not over what the vote \
         log holds there ({held} intents)"
    )]
    Other {
        /// Of the audit log.
        sequence: u64,
        /// Signatures it tells of, count.
        signed: u64,
        /// Intents the vote log has there, count.
        held: usize,
        /// Where it begins.
        first: Position,
        /// Where it ends.
        last: Position,
    },
    /// The vote log has something that no record tells of, though the node ran all the time.
    #[error("{position} was signed, and no record tells of it; record {sequence} comes next")]
    Untold {
        /// Where.
        position: Position,
        /// The next record of the audit log that is about signatures.
        sequence: u64,
    },
}

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Records about signatures that agree with the vote log, count.
    pub records_count: u64,
    /// Signatures they tell of, count.
    pub signatures_count: u64,
    /// Records about heights that the vote log does not hold any more, count.
    pub older_count: u64,
    /// Intents that no record tells of because the node stopped just then, or was never told to,
    /// count.
    pub untold_count: u64,
    /// What does not agree, in order.
    pub disagreements: Vec<Disagreement>,
}

/// Something the vote log says was to be signed.
struct Intent {
    bytes: Vec<u8>,
    /// Whether the signed message is there too, so that it was signed for certain.
    is_signed: bool,
}

/// What a validator signed, by its vote log.
pub struct Votes {
    intents: BTreeMap<Position, Intent>,
    /// The first height that is there from its beginning.
    complete_from: u64,
}

impl Votes {
    /// Reads the vote log of a node that does not run.
    ///
    /// # Errors
    /// [`CompareError`].
    pub fn read(options: &VoteLogOptions, hasher: &dyn Hasher) -> Result<Self, CompareError> {
        let mut votes = Self { intents: BTreeMap::new(), complete_from: 0 };
        let (mut reader, _) = VoteLog::reader(options)?;
        // A log whose oldest segment is not its first begins somewhere within a height.
        let mut oldest = None;
        while let Some(record) = reader.next()? {
            oldest.get_or_insert(record.position.segment);
            if record.kind != KIND_SEAL {
                let record = VoteRecord::parse(record.payload, hasher);
                votes.take(&record.map_err(CompareError::Record)?);
            }
        }
        if oldest.is_some_and(|segment| segment > 0) {
            let first = votes.intents.first_key_value();
            votes.complete_from = first.map_or(0, |(position, _)| position.height + 1);
        }
        Ok(votes)
    }

    fn take(&mut self, record: &VoteRecord) {
        let own = match record {
            VoteRecord::SignIntent(intent) => {
                let (bytes, is_signed) = (intent.bytes().to_vec(), false);
                self.intents.insert(intent.position(), Intent { bytes, is_signed });
                return;
            }
            VoteRecord::OwnVote(signed) => hufu_consensus::SignIntent::Vote(signed.vote),
            VoteRecord::OwnProposal(signed) => {
                hufu_consensus::SignIntent::Proposal(signed.proposal)
            }
            _ => return,
        };
        if let Some(intent) = self.intents.get_mut(&own.position()) {
            intent.is_signed = true;
        }
    }
}

/// A record about signatures, and the run that it is of.
struct Told {
    sequence: u64,
    run: u64,
    used: Used,
}

/// Holds the records of an audit log, handed over in their order, against a vote log.
pub struct Comparison {
    votes: Votes,
    compared: Compared,
    run: u64,
    /// The chain at the end of the record before; zeroes at the start of a run.
    chain: Digest,
    told: Vec<Told>,
}

impl Comparison {
    /// With nothing compared yet.
    #[must_use]
    pub fn new(votes: Votes) -> Self {
        let (compared, told) = (Compared::default(), Vec::new());
        Self { votes, compared, run: 0, chain: Digest::ZERO, told }
    }

    /// The next record, of whatever kind.
    pub fn record(&mut self, record: &Record) {
        if record.actor == NODE && record.action == NODE_STARTED {
            self.run += 1;
            self.chain = Digest::ZERO;
        }
        if record.actor != SIGN || record.action != KEY_USED {
            return;
        }
        let sequence = record.sequence;
        let Some(used) = parse_used(record).filter(|used| used.first <= used.last) else {
            self.compared.disagreements.push(Disagreement::Unreadable { sequence });
            return;
        };
        let before = std::mem::replace(&mut self.chain, used.chain);
        if used.first.height < self.votes.complete_from {
            self.compared.older_count += 1;
        } else if self.agrees(&used, &before) {
            self.compared.records_count += 1;
            self.compared.signatures_count += used.counts.iter().sum::<u64>();
        } else {
            let signed = used.counts.iter().sum();
            let held = self.votes.intents.range(used.first..=used.last).count();
            let (first, last) = (used.first, used.last);
            let other = Disagreement::Other { sequence, signed, held, first, last };
            self.compared.disagreements.push(other);
        }
        if used.last.height >= self.votes.complete_from {
            self.told.push(Told { sequence, run: self.run, used });
        }
    }

    /// Whether the vote log holds what the record says was signed.
    fn agrees(&self, used: &Used, before: &Digest) -> bool {
        let held: Vec<(SignStep, &Intent)> = self
            .votes
            .intents
            .range(used.first..=used.last)
            .map(|(position, intent)| (position.step, intent))
            .collect();
        let signed = usize::try_from(used.counts.iter().sum::<u64>()).unwrap_or(usize::MAX);
        let Some(unsigned) = held.len().checked_sub(signed) else { return false };
        let mut search = Search { used, choices: 0 };
        search.run(&held, unsigned, *before, [0; 3])
    }

    /// What came of it, now that there are no more records.
    #[must_use]
    pub fn finish(mut self) -> Compared {
        // A run may sign once more what the one before it signed last.
        self.told.sort_by_key(|told| told.used.last);
        let all = self.votes.intents.keys();
        for position in all.filter(|position| position.height >= self.votes.complete_from) {
            let next = self.told.partition_point(|told| told.used.last < *position);
            let (before, after) = (next.checked_sub(1), self.told.get(next));
            let mut behind = self.told.iter().skip(next).take(OVERLAPS_MAX);
            if behind.any(|told| told.used.first <= *position) {
                continue;
            }
            match (before.and_then(|before| self.told.get(before)), after) {
                (Some(before), Some(after)) if before.run == after.run => {
                    let (position, sequence) = (*position, after.sequence);
                    let untold = Disagreement::Untold { position, sequence };
                    self.compared.disagreements.push(untold);
                }
                _ => self.compared.untold_count += 1,
            }
        }
        self.compared
    }
}

/// Looks for those intents of a range whose chain is the one of the record.
struct Search<'a> {
    used: &'a Used,
    choices: u32,
}

impl Search<'_> {
    /// Goes through `held` and leaves out `unsigned` that nothing says were signed.
    fn run(
        &mut self,
        held: &[(SignStep, &Intent)],
        unsigned: usize,
        mut chain: Digest,
        mut counts: [u64; 3],
    ) -> bool {
        let mut rest = held;
        while let Some(((step, intent), behind)) = rest.split_first() {
            if unsigned > 0 && !intent.is_signed && self.choices < CHOICES_MAX {
                self.choices += 1;
                if self.run(behind, unsigned - 1, chain, counts) {
                    return true;
                }
            }
            chain = signed_digest(&chain, &intent.bytes);
            counts[place_of(*step)] += 1;
            rest = behind;
        }
        unsigned == 0 && chain == self.used.chain && counts == self.used.counts
    }
}

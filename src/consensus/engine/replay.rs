//! Replay: a height's records are fed to the library again, in their order, before anything new.
//!
//! Follows the order of the library's reference engine: `StartHeight`, then the index of the
//! records, then the records as inputs, then the index is dropped. What the library derives again
//! it compares with the record byte for byte and reuses the recorded signature; where the record
//! has an intent but no signature, the same bytes are signed again. What it would log again is
//! recognised and left out. Our votes are published again on the way; our last proposal is, at the
//! end.

use std::collections::{BTreeSet, VecDeque};

use arc_malachitebft_core_types::{Validity, ValueOrigin};
use hufu_types::SignedProposal;

use super::coroutine::LibraryInput;
use super::timers::{TimerId, TimerKind};
use super::{Effect, Engine, Error, convert, intake, timers};
use crate::context::{to_library_proposal, to_library_vote};
use crate::guard::{Position, SignIntent, SignStep};
use crate::message::Message;
use crate::vote_log::{BlockVerdict, Record, StepTimeout};

/// Records of the current height on their way into the library.
pub(super) struct Replay {
    rest: VecDeque<Record>,
    known: BTreeSet<Vec<u8>>,
    proposals: Vec<SignedProposal>,
    is_indexed: bool,
}

impl Replay {
    pub(super) fn new(records: Vec<Record>) -> Self {
        let known = records.iter().map(Record::to_bytes).collect();
        let proposals = records.iter().filter_map(|record| match record {
            Record::OwnProposal(signed) => Some(*signed),
            _ => None,
        });
        let proposals = proposals.collect();
        Self { rest: records.into(), known, proposals, is_indexed: false }
    }

    /// Whether the log holds this record already.
    pub(super) fn holds(&self, record: &Record) -> bool {
        self.known.contains(&record.to_bytes())
    }
}

impl Engine {
    /// The next recorded input; `None` when all are fed.
    pub(super) fn next_replayed(
        &mut self,
        out: &mut Vec<Effect>,
    ) -> Result<Option<LibraryInput>, Error> {
        if self.replay.as_ref().is_some_and(|replay| !replay.is_indexed) {
            self.index_replay();
        }
        while let Some(record) = self.replay.as_mut().and_then(|replay| replay.rest.pop_front()) {
            if let Record::Block { entry, .. } = &record
                && let BlockVerdict::Valid(block) = &entry.verdict
            {
                self.hold_block(block.clone(), out);
            }
            let Some(input) = input_of(&record) else {
                continue;
            };
            if let LibraryInput::TimeoutElapsed(timeout) = &input {
                // It fired before the crash; the one that replay has set is not needed.
                out.extend(timers::timer(self.height, *timeout).map(Effect::CancelTimer));
            }
            return Ok(Some(input));
        }
        Ok(None)
    }

    fn index_replay(&mut self) {
        let Some(replay) = &mut self.replay else {
            return;
        };
        replay.is_indexed = true;
        let inputs: Vec<LibraryInput> = replay.rest.iter().filter_map(input_of).collect();
        if let Some(state) = self.coroutine.as_mut().and_then(super::Coroutine::state) {
            state.record_recovered_own_precommit_extensions(inputs.iter());
            state.index_wal_entries(inputs.iter());
        }
    }

    /// Ends replay and takes up what the crash cut off.
    pub(super) fn finish_replay(&mut self, now: u64, out: &mut Vec<Effect>) -> Result<(), Error> {
        let Some(replay) = self.replay.take() else {
            return Ok(());
        };
        assert!(replay.rest.is_empty(), "replay ends when all records are fed");
        let state = self.coroutine.as_mut().and_then(super::Coroutine::state);
        let Some(state) = state else {
            return Err(Error::Stopped);
        };
        state.reset_entries_index();
        let Some(round) = state.round().as_u32() else {
            return Ok(());
        };
        if self.is_decided {
            return Ok(());
        }
        let own = replay.proposals.iter().find(|signed| signed.proposal.round.get() == round);
        if let Some(signed) = own {
            // Signed and on record, but peers may not have it.
            self.restream(self.height, round, signed.proposal.block, out);
            self.publish(Message::Proposal(*signed))?;
        }
        let Some(request) = self.build.filter(|request| request.round == round) else {
            return Ok(());
        };
        if own.is_some() {
            self.build = None;
            return Ok(());
        }
        let position = Position { height: self.height, round, step: SignStep::Propose };
        if let Some(SignIntent::Proposal(proposal)) = self.guard.admitted(position).copied() {
            // The crash came between intent and signature: this block or none in this round.
            self.build = None;
            let (height, block) = (self.height, proposal.block);
            if !self.blocks.contains_key(&(height, block)) {
                return Err(Error::BlockMissing { height, block });
            }
            self.queue.push_front(intake::propose(height, round, block));
            return Ok(());
        }
        let propose = TimerId { height: self.height, round, kind: TimerKind::Propose };
        let nanos = self.config.timeouts.nanos(propose.kind, round);
        let deadline_nanos = request.deadline_nanos.max(now.saturating_add(nanos));
        self.build = Some(super::BuildRequest { round, deadline_nanos });
        self.send_build(out);
        Ok(())
    }

    /// Where the log holds the height's decision, it is told again and nothing else is done at this
    /// height.
    pub(super) fn decide_by_log(
        &mut self,
        records: &[Record],
        out: &mut Vec<Effect>,
    ) -> Result<bool, Error> {
        let decided = records.iter().find_map(|record| match record {
            Record::Decided(certificate) => Some(certificate.clone()),
            _ => None,
        });
        let Some(certificate) = decided else {
            return Ok(false);
        };
        let mut evidence = Vec::new();
        for record in records {
            match record {
                Record::Block { entry, .. } => {
                    if let BlockVerdict::Valid(block) = &entry.verdict
                        && block.digest() == certificate.block
                    {
                        self.hold_block(block.clone(), out);
                    }
                }
                Record::Evidence(found) => evidence.push(*found),
                _ => {}
            }
        }
        self.is_decided_by_log = true;
        self.hold_decision(certificate, evidence)?;
        Ok(true)
    }
}

/// A record as the input it was; `None` for those that were none.
fn input_of(record: &Record) -> Option<LibraryInput> {
    match record {
        Record::Vote(signed) | Record::OwnVote(signed) => {
            Some(LibraryInput::Vote(to_library_vote(signed)))
        }
        Record::Proposal(signed) | Record::OwnProposal(signed) => {
            Some(LibraryInput::Proposal(to_library_proposal(signed)))
        }
        Record::Block { height, entry } => {
            let validity = Validity::from_bool(matches!(entry.verdict, BlockVerdict::Valid(_)));
            let digest = entry.verdict.digest();
            let value =
                intake::proposed_value(*height, entry.round, entry.proposer, digest, validity);
            let origin = if entry.synced { ValueOrigin::Sync } else { ValueOrigin::Consensus };
            Some(LibraryInput::ProposedValue(value, origin))
        }
        Record::Timeout { height, round, step } => {
            let kind = match step {
                StepTimeout::Propose => TimerKind::Propose,
                StepTimeout::Prevote => TimerKind::Prevote,
                StepTimeout::Precommit => TimerKind::Precommit,
            };
            let timer = TimerId { height: *height, round: *round, kind };
            Some(LibraryInput::TimeoutElapsed(timers::timeout(timer)))
        }
        Record::Polka(bundle) => convert::to_input(bundle),
        Record::SignIntent(_) | Record::Decided(_) | Record::Evidence(_) => None,
    }
}

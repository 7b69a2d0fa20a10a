//! The ordering engine: Tendermint (arXiv:1807.04938) by `arc-malachitebft-core-consensus`, driven
//! effect by effect.
//!
//! ```text
//! tile --Input--> step --+-- control (durable, signed, batches): at once
//!                        +-- the rest: queue -> coroutine -> translate -> gate --Effect--> tile
//! ```
//!
//! Owned by the consensus tile. It never reads a clock, opens a file or signs. While a signature is
//! outstanding the coroutine is suspended and inputs wait in a bounded queue; what must follow the
//! disk waits in the gate. Any error stops it for good: the node must go down and recover, never
//! vote on.

mod convert;
mod coroutine;
mod gate;
mod intake;
mod replay;
mod seam;
mod timers;
mod translate;
mod verdicts;

use std::collections::{BTreeMap, VecDeque};

use arc_malachitebft_core_consensus as library;
use hufu_crypto::Provider;
use hufu_types::codec::DecodeError;
use hufu_types::limits::VALIDATORS_COUNT_MAX;
use hufu_types::{Address, Block, BlockDigest, ChainId, CommitCertificate, Signature};

pub use gate::{BLOCKS_DURABLE_COUNT_MAX, EFFECTS_HELD_COUNT_MAX};
pub use seam::{Decision, Effect, Input, REFUSALS_COUNT, Refusal, Role};
pub use timers::{ROUND_TIMER_NANOS_MAX, Timeouts, TimerId, TimerKind};
pub use verdicts::{VERDICTS_COUNT_MAX, Verified, verify_proposal, verify_votes};

use crate::context::Context;
use crate::durable::{Durable, LogCursor, LogTicket, SignTicket};
use crate::guard::{Guard, GuardError, SignIntent};
use crate::validators::Validators;
use crate::vote_log::{Record, RecoveredLog};
use coroutine::{Coroutine, LibraryInput, LibraryResume, Poll};
use gate::Gate;
use replay::Replay;
use verdicts::Verdicts;

/// Inputs waiting while a signature is outstanding, count: the votes of both steps of 128
/// validators for eight rounds.
pub const INPUTS_QUEUED_COUNT_MAX: usize = 2_048;

/// Blocks held for the current height and those just ahead, count: two for each of 512 rounds.
pub const BLOCKS_HELD_COUNT_MAX: usize = 1_024;

/// Heights ahead of the current one from which messages are kept for later, count. A node further
/// behind needs catch-up.
pub const HEIGHTS_AHEAD_COUNT_MAX: u64 = 8;

/// Rounds ahead of the current one for which proposed blocks are taken in, count; as many as the
/// library counts votes for.
pub const ROUNDS_AHEAD_COUNT_MAX: u32 = 10;

/// Blocks taken in for one round, count: the proposer's, and a second one that proves him
/// two-faced.
pub const ROUND_BLOCKS_COUNT_MAX: usize = 2;

/// Messages kept for one height ahead, count.
pub const AHEAD_INPUTS_COUNT_MAX: usize = 1_024;

const _: () = assert!(
    INPUTS_QUEUED_COUNT_MAX >= 16 * VALIDATORS_COUNT_MAX as usize,
    "the votes of several rounds must fit while one signature is made"
);
const _: () = assert!(
    BLOCKS_DURABLE_COUNT_MAX > BLOCKS_HELD_COUNT_MAX,
    "every block held may be marked durable"
);

/// Why the engine stopped. None may be ignored or retried: the node goes down and recovers from its
/// logs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bug (stage: sign): the guard refused; our own rule was about to be broken.
    #[error("double-sign guard: {0}")]
    Guard(#[from] GuardError),
    /// Device (stage: sign): the signer could not sign.
    #[error("signing failed for request {ticket:?}")]
    SignFailed {
        /// The request.
        ticket: SignTicket,
    },
    /// Bug (stage: vote log): a record was called durable that was never appended.
    #[error("vote log record {ticket:?} was reported durable, last appended is {appended:?}")]
    TicketUnknown {
        /// The ticket reported.
        ticket: LogTicket,
        /// The last one given out.
        appended: LogTicket,
    },
    /// Bug (stage: start): a height was started that is not above the last.
    #[error("height {height} cannot be started after {last}")]
    HeightBackwards {
        /// The height asked for.
        height: u64,
        /// The last one started.
        last: u64,
    },
    /// Host (stage: recovery): the vote log names a block that it does not hold.
    #[error("vote log of height {height} does not hold block {block}")]
    BlockMissing {
        /// The height.
        height: u64,
        /// The block.
        block: BlockDigest,
    },
    /// Host (stage: gate): too many effects wait for the disk.
    #[error("{limit} effects wait for the disk")]
    GateFull {
        /// The limit.
        limit: usize,
    },
    /// Bug (stage: engine): the library made something that is not canonical.
    #[error("engine made a message that is not canonical: {0}")]
    NotCanonical(#[from] DecodeError),
    /// Bug (stage: engine): the library failed; on replay, a message came out other than recorded.
    #[error("engine: {0}")]
    Library(String),
    /// The engine had stopped before.
    #[error("engine has stopped")]
    Stopped,
}

/// Who this validator is and what it runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The chain.
    pub chain_id: ChainId,
    /// This validator; outside a height's set it only follows.
    pub address: Address,
    /// Waiting times.
    pub timeouts: Timeouts,
    /// Verification and digests.
    pub provider: Provider,
}

/// Counts since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Inputs refused, by [`Refusal`] as index.
    pub refused: [u64; REFUSALS_COUNT],
    /// Signatures asked for.
    pub signed: u64,
    /// Signature verdicts asked for by the protocol.
    pub verdicts_asked: u64,
    /// Of these, known already.
    pub verdicts_known: u64,
    /// Records appended to the vote log.
    pub records_appended: u64,
}

/// What kind of answer the coroutine waits for.
struct PendingSign {
    ticket: SignTicket,
    intent: SignIntent,
    log: LogTicket,
    sent: bool,
}

/// A block that this validator is asked to build.
#[derive(Clone, Copy)]
struct BuildRequest {
    round: u32,
    deadline_nanos: u64,
}

/// The engine of one validator.
pub struct Engine {
    config: Config,
    context: Context,
    coroutine: Option<Coroutine>,
    height: u64,
    validators: Option<Validators>,
    start: Option<(u64, Validators)>,
    /// Nothing is taken in before the next height: the current one is decided, or was found decided
    /// in the log.
    is_decided: bool,
    is_decided_by_log: bool,
    is_stopped: bool,
    recovered: BTreeMap<u64, Vec<Record>>,
    replay: Option<Replay>,
    guard: Guard,
    log: LogCursor,
    gate: Gate,
    queue: VecDeque<LibraryInput>,
    signing: Option<PendingSign>,
    sign_tickets: u64,
    blocks: BTreeMap<(u64, BlockDigest), Block>,
    /// Round of the height at work.
    round: u32,
    /// The blocks from outside that were taken in, by height and round.
    received: BTreeMap<(u64, u32), Vec<BlockDigest>>,
    build: Option<BuildRequest>,
    built: Option<(u32, Block)>,
    verdicts: Verdicts,
    decision: Option<CommitCertificate>,
    counters: Counters,
}

impl Engine {
    /// An engine that will replay what the vote log held, height by height, as they are started.
    #[must_use]
    pub fn recover(config: Config, log: RecoveredLog) -> Self {
        let context = Context::new(config.chain_id);
        Self {
            config,
            context,
            coroutine: None,
            height: 0,
            validators: None,
            start: None,
            is_decided: false,
            is_decided_by_log: false,
            is_stopped: false,
            recovered: log.heights,
            replay: None,
            guard: log.guard,
            log: LogCursor::default(),
            gate: Gate::default(),
            queue: VecDeque::new(),
            signing: None,
            sign_tickets: 0,
            blocks: BTreeMap::new(),
            round: 0,
            received: BTreeMap::new(),
            build: None,
            built: None,
            verdicts: Verdicts::default(),
            decision: None,
            counters: Counters::default(),
        }
    }

    /// The height at work; 0 before the first is started.
    #[must_use]
    pub const fn height(&self) -> u64 {
        self.height
    }

    /// The round at work in this height; 0 if the height is not at work.
    #[must_use]
    pub const fn round_of(&self, height: u64) -> u32 {
        if height == self.height { self.round } else { 0 }
    }

    /// The last record that something waits for: the vote log must become durable up to there
    /// without being asked again.
    #[must_use]
    pub fn awaits_durable(&self) -> Option<LogTicket> {
        let signing = self.signing.as_ref().filter(|pending| !pending.sent);
        let signing = signing.map(|pending| pending.log);
        self.gate.awaited().max(signing).filter(|ticket| *ticket > self.log.durable())
    }

    /// Ends the height at work without a decision of its own: it was decided elsewhere while the
    /// signer did not answer. The library's state goes with its coroutine, as in a crash, and what
    /// waited for it too; the next height begins with a fresh one. What was admitted to be signed
    /// stays admitted, so nothing else is ever signed in its place.
    ///
    /// # Panics
    /// If no signature is outstanding: only that keeps a height from being ended by its
    /// certificate.
    pub fn give_up(&mut self) {
        let given_up = self.signing.take();
        assert!(given_up.is_some_and(|pending| pending.sent), "the signer was asked");
        assert!(self.start.is_none(), "the height at work was begun");
        self.coroutine = None;
        self.replay = None;
        self.queue.clear();
        self.build = None;
        self.built = None;
        self.decision = None;
        self.is_decided = true;
    }

    /// How many more messages the queue takes; at 0 the links from peers are left alone.
    #[must_use]
    pub fn room(&self) -> usize {
        INPUTS_QUEUED_COUNT_MAX.saturating_sub(self.queue.len())
    }

    /// Counts since start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let (verdicts_asked, verdicts_known) = self.verdicts.counts();
        Counters { verdicts_asked, verdicts_known, ..self.counters }
    }

    /// Takes in one input and adds what it asks for to `effects`. `now` is monotonic, in
    /// nanoseconds.
    ///
    /// # Errors
    /// [`Error`]: the engine has stopped for good.
    pub fn step(&mut self, now: u64, input: Input, effects: &mut Vec<Effect>) -> Result<(), Error> {
        if self.is_stopped {
            return Err(Error::Stopped);
        }
        let result = self.accept(now, input, effects).and_then(|()| self.run(now, effects));
        if result.is_err() {
            self.is_stopped = true;
            return result;
        }
        self.gate.release(&self.log, effects);
        Ok(())
    }

    fn accept(&mut self, now: u64, input: Input, out: &mut Vec<Effect>) -> Result<(), Error> {
        match input {
            Input::StartHeight { height, validators } => {
                let last = self.start.as_ref().map_or(self.height, |(height, _)| *height);
                if height <= last {
                    return Err(Error::HeightBackwards { height, last });
                }
                self.start = Some((height, validators));
            }
            Input::VoteLogDurable(ticket) => {
                if !self.log.advance(ticket) {
                    let appended = self.log.appended();
                    return Err(Error::TicketUnknown { ticket, appended });
                }
                self.send_sign(out);
            }
            Input::BatchesDurable { height, block } => self.batches_durable(height, block, out),
            Input::Signed { ticket, signature } => {
                return self.signed(now, ticket, signature, out);
            }
            Input::SignFailed { ticket } => return Err(Error::SignFailed { ticket }),
            Input::TimerFired(timer) => {
                if timer.height == self.height && !self.is_decided {
                    self.queue.push_back(LibraryInput::TimeoutElapsed(timers::timeout(timer)));
                }
            }
            Input::BlockBuilt { round, block } => self.block_built(round, block, out),
            message => self.accept_message(message, out),
        }
        Ok(())
    }

    /// Feeds the coroutine until it waits for a signature or nothing is left.
    fn run(&mut self, now: u64, out: &mut Vec<Effect>) -> Result<(), Error> {
        while self.signing.is_none() {
            let Some(input) = self.next_input(now, out)? else {
                break;
            };
            let Some(coroutine) = &mut self.coroutine else {
                break;
            };
            let poll = coroutine.begin(input);
            self.drive(now, poll, out)?;
        }
        Ok(())
    }

    /// Answers effects until the coroutine is done or must wait.
    fn drive(&mut self, now: u64, mut poll: Poll, out: &mut Vec<Effect>) -> Result<(), Error> {
        loop {
            match poll {
                Poll::Done(result) => {
                    return result.map_err(|error| Error::Library(error.to_string()));
                }
                Poll::Effect(effect) => {
                    let Some(answer) = self.answer(now, effect, out)? else {
                        assert!(
                            self.signing.is_some(),
                            "only a signature keeps the coroutine waiting"
                        );
                        return Ok(());
                    };
                    let Some(coroutine) = &mut self.coroutine else {
                        return Err(Error::Stopped);
                    };
                    poll = coroutine.resume(answer);
                }
            }
        }
    }

    fn next_input(
        &mut self,
        now: u64,
        out: &mut Vec<Effect>,
    ) -> Result<Option<LibraryInput>, Error> {
        if let Some((height, validators)) = self.start.take()
            && let Some(input) = self.start_height(height, validators, out)?
        {
            return Ok(Some(input));
        }
        if self.coroutine.is_none() || self.is_decided_by_log {
            return Ok(None);
        }
        if self.replay.is_some() {
            if let Some(input) = self.next_replayed(out)? {
                return Ok(Some(input));
            }
            self.finish_replay(now, out)?;
        }
        let is_decided = self.is_decided;
        // Decided while a peer's decision waited in the queue: there is nothing left to decide.
        let is_late = |input: &LibraryInput| {
            is_decided && matches!(input, LibraryInput::SyncValueResponse(_))
        };
        while self.queue.pop_front_if(|input| is_late(input)).is_some() {}
        Ok(self.queue.pop_front())
    }

    /// Sets the stage for a height; `None` when the log holds its decision already.
    fn start_height(
        &mut self,
        height: u64,
        validators: Validators,
        out: &mut Vec<Effect>,
    ) -> Result<Option<LibraryInput>, Error> {
        assert!(height > self.height, "heights only rise");
        assert!(self.signing.is_none(), "a height starts between two inputs");
        self.height = height;
        self.round = 0;
        self.received = self.received.split_off(&(height, 0));
        self.validators = Some(validators.clone());
        self.is_decided = false;
        self.is_decided_by_log = false;
        self.build = None;
        self.built = None;
        self.decision = None;
        // The library's timers name no height, so one that fired at the last height must not be
        // taken for one of this.
        self.queue.retain(|input| !matches!(input, LibraryInput::TimeoutElapsed(_)));
        self.blocks = self.blocks.split_off(&(height, BlockDigest::ZERO));
        self.gate.prune(height);
        self.verdicts.prune(height);
        self.recovered = self.recovered.split_off(&height);
        let records = self.recovered.remove(&height).unwrap_or_default();
        let is_restart = !records.is_empty();
        if self.decide_by_log(&records, out)? {
            return Ok(None);
        }
        let coroutine = self.coroutine.get_or_insert_with(|| {
            let params = library::Params {
                address: crate::context::Voter(self.config.address),
                threshold_params: library::ThresholdParams::default(),
                value_payload: library::ValuePayload::ProposalAndParts,
                enabled: true,
            };
            let heights = usize::try_from(HEIGHTS_AHEAD_COUNT_MAX).unwrap_or(1);
            Coroutine::new(library::State::new(
                self.context.clone(),
                crate::context::Height(height),
                validators.clone(),
                params,
                heights,
                AHEAD_INPUTS_COUNT_MAX,
            ))
        });
        if let Some(state) = coroutine.state() {
            state.reset_entries_index();
        }
        self.replay = is_restart.then(|| Replay::new(records));
        // No target time: with one the library would read the clock. Vote extensions stay off.
        Ok(Some(LibraryInput::StartHeight(
            crate::context::Height(height),
            validators,
            is_restart,
            None,
            arc_malachitebft_core_types::VoteExtensionPolicy::Disabled,
        )))
    }

    /// Sends the outstanding request to the signer, once its record is durable.
    fn send_sign(&mut self, out: &mut Vec<Effect>) {
        let Some(pending) = self.signing.as_mut().filter(|pending| !pending.sent) else {
            return;
        };
        if let Some(intent) = Durable::witness(pending.intent, pending.log, &self.log) {
            pending.sent = true;
            self.counters.signed += 1;
            out.push(Effect::Sign { ticket: pending.ticket, intent });
        }
    }

    fn signed(
        &mut self,
        now: u64,
        ticket: SignTicket,
        signature: Signature,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        let asked = self.signing.take_if(|pending| pending.sent && pending.ticket == ticket);
        let Some(pending) = asked else {
            self.refuse(Refusal::SignatureUnasked, None, out);
            return Ok(());
        };
        let answer: LibraryResume = self.signed_answer(&pending.intent, signature);
        let Some(coroutine) = &mut self.coroutine else {
            return Err(Error::Stopped);
        };
        let poll = coroutine.resume(answer);
        self.drive(now, poll, out)
    }

    fn append(&mut self, record: &Record, out: &mut Vec<Effect>) -> LogTicket {
        let ticket = self.log.append();
        self.counters.records_appended += 1;
        out.push(Effect::AppendVoteLog {
            ticket,
            height: record.height(),
            record: record.to_bytes(),
        });
        ticket
    }

    fn refuse(&mut self, reason: Refusal, input: Option<Input>, out: &mut Vec<Effect>) {
        if let Some(count) = self.counters.refused.get_mut(reason as usize) {
            *count += 1;
        }
        out.push(Effect::Refused { reason, input: input.map(Box::new) });
    }
}

#[cfg(test)]
mod tests;

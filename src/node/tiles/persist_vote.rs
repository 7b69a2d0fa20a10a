//! The vote-log tile: makes what consensus must not forget durable.
//!
//! ```text
//! consensus --VoteLogCommand--> persist-vote --LogTicket--> consensus
//! ```
//!
//! It owns the vote log and has a thread of its own: one write and one `fdatasync` for each sync,
//! waited for on the spot, which has the best latency with one in flight; it never waits behind the
//! block log. The next segment is prepared when no vote waits. A seal notes how far the block log
//! is durable, which vouches for its end at the next start. Any error ends the node.

use std::path::PathBuf;
use std::sync::Arc;

use hufu_consensus::LogTicket;
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_storage::block_log::DurableMark;
use hufu_storage::data_dir::DataDir;
use hufu_storage::vote_log::{Seal, VoteLog};

use crate::messages::VoteLogCommand;
use crate::metrics::Metrics;

/// Kind of all records: the engine's own encoding tells them apart.
const RECORD_CONSENSUS: u16 = 1;

/// See the module.
pub struct PersistVoteTile {
    log: Option<VoteLog>,
    blocks: DurableMark,
    data_dir: PathBuf,
    metrics: Arc<Metrics>,
    commands: Consumer<VoteLogCommand>,
    durable: Producer<LogTicket>,
    appended: Option<LogTicket>,
    held: Option<LogTicket>,
    is_stopping: bool,
}

impl PersistVoteTile {
    /// A tile on an open log of this data folder; `blocks` tells how far the block log is durable.
    #[must_use]
    pub const fn new(
        log: VoteLog,
        blocks: DurableMark,
        data_dir: PathBuf,
        metrics: Arc<Metrics>,
        commands: Consumer<VoteLogCommand>,
        durable: Producer<LogTicket>,
    ) -> Self {
        Self {
            log: Some(log),
            blocks,
            data_dir,
            metrics,
            commands,
            durable,
            appended: None,
            held: None,
            is_stopping: false,
        }
    }

    /// Takes in what waits; everything that asks for a sync is served by one.
    fn serve(&mut self) -> Result<bool, Fatal> {
        let Some(log) = self.log.as_mut() else { return Ok(false) };
        let (mut has_worked, mut wants_sync) = (false, false);
        while let Some(command) = self.commands.pop() {
            has_worked = true;
            match command {
                VoteLogCommand::Append { ticket, record } => {
                    log.append(RECORD_CONSENSUS, &record)?;
                    self.appended = Some(ticket);
                }
                VoteLogCommand::Sync(ticket) => {
                    assert!(
                        self.appended >= Some(ticket),
                        "a record is appended before it is waited for"
                    );
                    wants_sync = true;
                }
                VoteLogCommand::Seal(height) => {
                    // The block was durable before its height came here, so the mark covers it.
                    log.seal(Seal { height, log_sequence: self.blocks.get().get() })?;
                    self.metrics.vote_log_syncs.add(1);
                }
                VoteLogCommand::EndProbation => DataDir::end_probation_in(&self.data_dir)?,
            }
        }
        if wants_sync {
            log.sync()?;
            self.metrics.vote_log_syncs.add(1);
            self.held = self.appended;
        }
        Ok(has_worked)
    }
}

impl Tile for PersistVoteTile {
    fn name(&self) -> &'static str {
        "persist-vote"
    }

    fn poll(&mut self, _now: Nanos) -> Result<Progress, Fatal> {
        let has_worked = self.serve()?;
        if let Some(ticket) = self.held.take()
            && self.durable.try_push(ticket).is_err()
        {
            self.held = Some(ticket);
            return Ok(Progress::PushedBack);
        }
        if has_worked {
            return Ok(Progress::Busy);
        }
        if self.is_stopping && self.commands.is_finished() {
            if let Some(log) = self.log.take() {
                log.close()?;
            }
            return Ok(Progress::Done);
        }
        if let Some(log) = self.log.as_mut()
            && log.prepare()?
        {
            return Ok(Progress::Busy);
        }
        Ok(Progress::Idle)
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

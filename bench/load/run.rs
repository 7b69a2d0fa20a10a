//! A whole run against nodes that are up: set-up, windows of load, and the final check.
//!
//! ```text
//! set_up -> [ sign a chunk (all cores, nothing is sent) -> send it -> next ] -> holdings
//! ```
//!
//! Rates and latencies are those of the sending windows; signing time is told apart, because a
//! client of a real chain signs on its own machine. A chunk is at most what the chain takes while
//! its transactions are valid.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hufu_network::{Client, ClientConfig, TransactionResult, WaitFor};
use hufu_runtime::clock::monotonic;
use hufu_types::Transaction;
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;

use crate::Error;
use crate::cast::Cast;
use crate::generator::{Pace, SendOptions, Sent, connect, send};
use crate::receipts::ReceiptFile;
use crate::replay::Holdings;
use crate::report::{Latency, RunResult};
use crate::setup::{Phase, cash, shares, sign_phase};
use crate::sign::SignedChunk;
use crate::tracker::{Counts, latencies};
use crate::usage::{Sample, Usage};
use crate::workload::{Task, Workload};

/// Tasks of a chunk at most: one hour of the market is one chunk. Some 40 MB of signed bytes.
const CHUNK_TASKS_COUNT_MAX: usize = 100_000;

/// Tasks of a chunk at least, so that filling and draining the pipeline does not rule the figures.
const CHUNK_TASKS_COUNT_MIN: usize = 4_096;

/// Tasks of the first chunk at full speed, while the chain's speed is not known.
const CHUNK_TASKS_COUNT_FIRST: usize = 30_000;

/// Windows in a row that may bring nothing but expired transactions before the run goes on without
/// them.
const RESIGNED_WINDOWS_COUNT_MAX: u32 = 10;

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening accounts, issuing, granting: phases done of phases.
    SettingUp,
    /// Signing a chunk: tasks done of the chunk.
    Signing,
    /// Sending: tasks done of the run.
    Sending,
    /// Asking for the final holdings: brokers done of brokers.
    Checking,
}

impl Stage {
    /// The stage in a word or two, for a progress bar.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::SettingUp => "setting up",
            Self::Signing => "signing",
            Self::Sending => "sending",
            Self::Checking => "checking holdings",
        }
    }
}

/// Hears how far a run is; called often and from any thread.
pub trait Observer: Sync {
    /// `done` of `total` of this stage.
    fn progress(&self, stage: Stage, done: u64, total: u64);
}

/// An observer who does not listen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _stage: Stage, _done: u64, _total: u64) {}
}

/// How a run is done.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Nodes and connections.
    pub send: SendOptions,
    /// How fast.
    pub pace: Pace,
    /// The genesis's least time between two blocks; says how long a signature lasts.
    pub block_interval: Duration,
    /// Admin plane of the first node, for its usage.
    pub admin: Option<SocketAddr>,
    /// Process of the first node, for its CPU time by thread.
    pub pid: Option<u32>,
    /// File for all receipts with their proofs; makes the run wait for certified ones if
    /// `send.strength` says so.
    pub receipts: Option<PathBuf>,
}

/// A run against nodes that are up.
pub struct Run<'a> {
    cast: &'a Cast,
    options: &'a RunOptions,
    observer: &'a dyn Observer,
}

impl<'a> Run<'a> {
    /// Prepares a run; nothing is sent yet.
    #[must_use]
    pub fn new(cast: &'a Cast, options: &'a RunOptions, observer: &'a dyn Observer) -> Self {
        Self { cast, options, observer }
    }

    /// Opens accounts, creates and issues the assets and grants the mandates; returns when all is
    /// committed.
    ///
    /// # Errors
    /// [`Error::SetUp`] if any of it does not succeed, and everything that talking to the node can
    /// bring.
    pub fn set_up(&self, issued: &[Holdings]) -> Result<(), Error> {
        let mut client = self.client()?;
        let mut chunk = SignedChunk::new();
        let phases_count = count(Phase::ALL.len());
        for (number, phase) in (0..).zip(Phase::ALL) {
            self.observer.progress(Stage::SettingUp, number, phases_count);
            let valid_until = client.status()?.height + TX_VALIDITY_HEIGHTS_MAX;
            let chain_id = self.options.send.chain_id;
            sign_phase(phase, self.cast, issued, chain_id, valid_until, &mut chunk)?;
            let parsed = chunk.iter().map(|signed| Transaction::parse(signed.bytes.into()));
            let transactions = parsed.collect::<Result<Vec<_>, _>>()?;
            let results = client.submit(&transactions, WaitFor::Committed, false)?;
            for (number, result) in (1..).zip(&results) {
                if let Some(reason) = failure(result) {
                    return Err(Error::SetUp { phase, number, reason });
                }
            }
        }
        self.observer.progress(Stage::SettingUp, phases_count, phases_count);
        Ok(())
    }

    /// Signs and sends the whole workload and returns when every task has its last word.
    ///
    /// # Errors
    /// What keeps the load from being sent; what the chain makes of it is in the result.
    pub fn load(&self, workload: &mut dyn Workload) -> Result<RunResult, Error> {
        let receipts = self.options.receipts.as_deref().map(ReceiptFile::create).transpose()?;
        let mut progress = Progress {
            tasks_count: workload.tasks_count(),
            result: RunResult { tasks_count: workload.tasks_count(), ..RunResult::default() },
            latency: latencies()?,
            expired: Vec::new(),
            fruitless: 0,
            size: self.chunk_size_first(),
        };
        let mut client = self.client()?;
        progress.result.height_first = client.status()?.height;
        let (mut chunk, mut tasks, mut offsets) = (SignedChunk::new(), Vec::new(), Vec::new());
        loop {
            tasks.clear();
            tasks.append(&mut progress.expired);
            let room = progress.size.saturating_sub(tasks.len());
            tasks.extend((&mut *workload).take(room));
            if tasks.is_empty() {
                break;
            }
            offsets.clear();
            offsets.extend(tasks.iter().map(|task| task.offset_nanos));
            // The node may have been away since the last window; a fresh connection outlives no
            // restart.
            client = self.client()?;
            let valid_until = client.status()?.height + TX_VALIDITY_HEIGHTS_MAX;
            progress.result.signing_nanos += self.sign(&mut chunk, valid_until, &tasks)?;
            let before = self.sample();
            let (base, total) = (progress.finished(), progress.tasks_count);
            let sent = send(
                &chunk,
                &offsets,
                valid_until,
                self.options.pace,
                &self.options.send,
                receipts.as_ref(),
                &|done| self.observer.progress(Stage::Sending, base + done, total),
            )?;
            let usage = before.zip(self.sample());
            let usage = usage.map(|(before, after)| Usage::between(&before, &after));
            progress.take(sent, &tasks, usage);
            progress.size = self.chunk_size(&progress.result);
        }
        client = self.client()?;
        progress.result.height_last = client.status()?.height;
        progress.result.receipts_written = receipts.map(ReceiptFile::finish).transpose()?;
        Ok(progress.finish())
    }

    /// What every broker holds now, as the first node says.
    ///
    /// # Errors
    /// Everything that talking to the node can bring.
    pub fn holdings(&self) -> Result<Vec<Holdings>, Error> {
        let mut client = self.client()?;
        let brokers = self.cast.brokers();
        let mut all = Vec::with_capacity(brokers.len());
        for broker in brokers {
            self.observer.progress(Stage::Checking, count(all.len()), count(brokers.len()));
            let account = client.account(*broker.address(), false)?;
            let balance = |asset| {
                let found = account.holdings.iter().find(|holding| holding.asset == asset);
                found.map_or(0, |holding| holding.balance.get())
            };
            all.push(Holdings { shares: balance(shares()), cash: balance(cash()) });
        }
        self.observer.progress(Stage::Checking, count(all.len()), count(brokers.len()));
        Ok(all)
    }

    fn client(&self) -> Result<Client, Error> {
        let node = *self.options.send.nodes.first().ok_or(Error::Nodes)?;
        let chain_id = Some(self.options.send.chain_id);
        let config = ClientConfig { chain_id, ..ClientConfig::default() };
        connect(node, &config, self.options.send.reconnect_wait)
    }

    /// Signs a chunk and says how long it took.
    fn sign(
        &self,
        chunk: &mut SignedChunk,
        valid_until: u64,
        tasks: &[Task],
    ) -> Result<u64, Error> {
        let (started, total) = (monotonic(), count(tasks.len()));
        let progress = |done| self.observer.progress(Stage::Signing, done, total);
        chunk.sign(self.cast, self.options.send.chain_id, valid_until, tasks, &progress)?;
        Ok(monotonic().since(started))
    }

    /// A node that is just being started again has no sample to give; its window is then left out
    /// of the usage.
    fn sample(&self) -> Option<Sample> {
        let admin = self.options.admin?;
        let with_threads = Sample::take(admin, self.options.pid);
        with_threads.or_else(|_| Sample::take(admin, None)).ok()
    }

    fn chunk_size_first(&self) -> usize {
        match self.options.pace {
            Pace::Max => CHUNK_TASKS_COUNT_FIRST,
            Pace::PerSecond(rate) => self.chunk_size_at(rate),
            // The busiest seconds of the recorded hour have some 200 events each.
            Pace::Recorded(speed) => self.chunk_size_at(speed.saturating_mul(25)),
        }
    }

    fn chunk_size(&self, result: &RunResult) -> usize {
        match self.options.pace {
            Pace::Max => self.chunk_size_at(result.committed_per_second()),
            Pace::PerSecond(_) | Pace::Recorded(_) => self.chunk_size_first(),
        }
    }

    /// What a chain at `rate` transactions a second takes in half the time that signatures last.
    fn chunk_size_at(&self, rate: u64) -> usize {
        let interval = u64::try_from(self.options.block_interval.as_millis()).unwrap_or(u64::MAX);
        let lasting = interval.max(1).saturating_mul(TX_VALIDITY_HEIGHTS_MAX);
        let size = rate.saturating_mul(lasting) / 2_000;
        let size = usize::try_from(size).unwrap_or(CHUNK_TASKS_COUNT_MAX);
        size.clamp(CHUNK_TASKS_COUNT_MIN, CHUNK_TASKS_COUNT_MAX)
    }
}

/// What is known of a run between two windows.
struct Progress {
    tasks_count: u64,
    result: RunResult,
    latency: hdrhistogram::Histogram<u64>,
    expired: Vec<Task>,
    fruitless: u32,
    size: usize,
}

impl Progress {
    /// Tasks with their last word.
    fn finished(&self) -> u64 {
        let Counts { committed, unanswered, .. } = self.result.counts;
        let counts = &self.result.counts;
        committed + counts.failed_count() + counts.refused_count() + unanswered
    }

    fn take(&mut self, mut sent: Sent, tasks: &[Task], usage: Option<Usage>) {
        let receipts_count = sent.counts.committed + sent.counts.failed_count();
        self.fruitless = if receipts_count > 0 { 0 } else { self.fruitless + 1 };
        if self.fruitless <= RESIGNED_WINDOWS_COUNT_MAX {
            // Refused for its age, a transaction was not and will not be included; its task is
            // signed once more.
            self.expired.extend(sent.expired.iter().filter_map(|place| tasks.get(*place)));
            self.result.resigned += count(sent.expired.len());
            sent.counts.refused.remove(hufu_types::RefusalCode::Expired.text());
        }
        self.result.counts.add(&sent.counts);
        self.result.sending_nanos += u64::try_from(sent.elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.result.windows += 1;
        let added = self.latency.add(&sent.latency);
        assert!(added.is_ok(), "all histograms have the same bounds");
        if let Some(usage) = usage {
            self.result.usage_tasks += count(tasks.len());
            self.result.usage.get_or_insert_default().add(&usage);
        }
    }

    fn finish(mut self) -> RunResult {
        self.result.latency = Latency::of(&self.latency);
        self.result
    }
}

/// Why a set-up transaction did not succeed.
fn failure(result: &TransactionResult) -> Option<String> {
    match result {
        TransactionResult::Taken => Some("taken, but without receipt".to_owned()),
        TransactionResult::Refused(code) => Some(format!("refused: {code}")),
        TransactionResult::Receipt { receipt, .. } => match receipt.outcome() {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(match failure.operation {
                Some(operation) => format!("failed: {} in operation {operation}", failure.code),
                None => format!("failed: {}", failure.code),
            }),
            Err(error) => Some(error.to_string()),
        },
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod fake_node;
#[cfg(test)]
mod tests;

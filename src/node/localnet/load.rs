//! The load of a local network, on a thread of its own so that the main thread can watch.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hufu_load::run::Observer;
use hufu_load::{
    Cast, Discrepancy, Error, Observed, Pace, Replay, Run, RunOptions, RunResult, SendOptions,
    Stage, SyntheticHour, Workload, lobster, synthetic,
};
use hufu_runtime::clock;
use hufu_types::{Address, ChainId, Strength};
use indicatif::ProgressBar;

use super::Options;
use super::folder::{BLOCK_INTERVAL_MILLIS, Folder};
use super::outage::Began;
use crate::cli::CliError;
use crate::kernels;
use crate::output::Output;
use crate::ready::Ready;

/// A load that is ready to be sent.
pub(super) struct Load {
    cast: Cast,
    workload: Replay,
    pace: Pace,
    strength: Strength,
    connections_count: u16,
    keeps_answers: bool,
    began: Began,
}

/// What a load brought.
pub(super) struct Loaded {
    /// Transactions of the set-up.
    pub set_up_count: u64,
    /// Counts, rates, latencies.
    pub result: RunResult,
    /// Where the ledger differs from the model.
    pub discrepancies: Vec<Discrepancy>,
}

impl Load {
    /// Reads or makes the events and derives the keys.
    pub(super) fn prepare(options: &Options) -> Result<Self, CliError> {
        let events = match &options.replay {
            Some(path) => read_events(path)?,
            None => {
                let count = options.events_count.unwrap_or(synthetic::EVENTS_COUNT);
                SyntheticHour::new(options.seed, count).collect()
            }
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&options.seed.to_le_bytes());
        let failed = |error: Error| CliError::usage(error, "see `hufu localnet run --help`");
        let cast = Cast::derive(&seed, options.accounts_count).map_err(failed)?;
        let cast = cast.on(kernels::backend());
        let workload =
            Replay::new(Arc::from(events), options.accounts_count, options.hours_count, 0)
                .map_err(failed)?;
        Ok(Self {
            cast,
            workload,
            pace: options.pace,
            strength: options.strength,
            connections_count: options.connections_count,
            keeps_answers: options.outage.is_some(),
            began: Began::default(),
        })
    }

    /// Who opens accounts and creates assets; the genesis names it.
    pub(super) fn operator(&self) -> Address {
        *self.cast.operator().address()
    }

    /// Transactions of the load, without the set-up.
    pub(super) fn tasks_count(&self) -> u64 {
        self.workload.tasks_count()
    }

    /// Says when the first transaction of the load is sent.
    pub(super) fn began(&self) -> Began {
        Arc::clone(&self.began)
    }

    /// Starts sending; the result comes through the receiver.
    pub(super) fn start(
        self,
        ready: &[Ready],
        folder: &Folder,
        output: Output,
    ) -> Result<Receiver<Result<Loaded, Error>>, CliError> {
        let options = self.options(ready, folder.chain_id(), folder.receipts());
        let (sender, receiver) = sync_channel(1);
        let work = move || {
            let progress = Progress::new(output, Arc::clone(&self.began));
            // The receiver is gone when someone has interrupted; then nobody wants the result.
            drop(sender.send(self.send(&options, &progress)));
        };
        let started = std::thread::Builder::new().name("load".to_owned()).spawn(work);
        started.map_err(|cause| {
            CliError::failed(cause, "this process", "raise the limit of processes (ulimit -u)")
        })?;
        Ok(receiver)
    }

    fn options(&self, ready: &[Ready], chain_id: ChainId, receipts: Option<&Path>) -> RunOptions {
        let clients = ready.iter().map(|node| node.client);
        let mut send = SendOptions::over(clients.collect(), chain_id);
        send.strength = self.strength;
        send.connections_count = self.connections_count;
        send.keeps_answers = self.keeps_answers;
        RunOptions {
            send,
            pace: self.pace,
            block_interval: Duration::from_millis(BLOCK_INTERVAL_MILLIS.into()),
            observed: ready
                .iter()
                .map(|node| Observed { admin: node.admin, pid: Some(node.pid) })
                .collect(),
            receipts: receipts.map(Path::to_owned),
        }
    }

    fn send(mut self, options: &RunOptions, progress: &Progress) -> Result<Loaded, Error> {
        let totals = self.workload.totals();
        let run = Run::new(&self.cast, options, progress);
        let set_up_count = run.set_up(&totals.issued())?;
        let result = run.load(&mut self.workload)?;
        let discrepancies = totals.discrepancies(&run.holdings()?);
        progress.finish();
        Ok(Loaded { set_up_count, result, discrepancies })
    }
}

fn read_events(path: &Path) -> Result<Vec<hufu_load::Event>, CliError> {
    let remedy = "name LOBSTER messages, as .csv or .csv.gz";
    lobster::read_all(path).map_err(|error| CliError::file(error, path, remedy))
}

/// One progress bar, made anew for each stage.
struct Progress {
    output: Output,
    began: Began,
    shown: Mutex<Option<(Stage, ProgressBar)>>,
}

impl Progress {
    const fn new(output: Output, began: Began) -> Self {
        Self { output, began, shown: Mutex::new(None) }
    }

    fn finish(&self) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((_, bar)) = shown {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    fn progress(&self, stage: Stage, done: u64, total: u64) {
        if stage == Stage::Sending {
            self.began.get_or_init(clock::monotonic);
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shown {
            Some((current, bar)) if *current == stage => {
                bar.set_length(total);
                bar.set_position(done);
            }
            _ => {
                if let Some((_, bar)) = shown.take() {
                    bar.finish_and_clear();
                }
                let bar = self.output.bar(total, stage.text());
                bar.set_position(done);
                *shown = Some((stage, bar));
            }
        }
    }
}

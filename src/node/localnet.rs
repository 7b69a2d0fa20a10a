//! `hufu localnet run`: a chain on this machine, loaded, checked and stopped.
//!
//! ```text
//! folder (keys, genesis, config) -> node processes -> ready -> hufu-load: set up, load, holdings
//!   -> graceful stop -> ledger verify (own process) -> receipt verify (own process) -> verdict
//! ```
//!
//! Nodes are separate processes of this very binary. They die with this one however it ends, and an
//! interrupt stops them before it returns. Nothing here knows rules of the ledger: what must hold
//! comes from the independent model of `hufu-load` and from the offline verifiers.

mod check;
mod child;
mod folder;
mod load;

use std::path::PathBuf;
use std::time::Duration;

use hufu_load::RunResult;
use hufu_runtime::process::{Signal, Signals};
use hufu_types::Strength;
use serde_json::{Value, json};

use crate::cli::CliError;
use crate::output::Output;
use check::Checks;
use child::{NodeProcess, Stopped};
use folder::Folder;
use load::Load;

/// What a local network is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes, count.
    pub nodes_count: u16,
    /// Market messages to replay; a synthetic hour without them.
    pub replay: Option<PathBuf>,
    /// How often the hour is repeated.
    pub hours_count: u32,
    /// How fast it is sent.
    pub pace: hufu_load::Pace,
    /// Brokers, count.
    pub accounts_count: u16,
    /// Folder of the network; a fresh one without it.
    pub folder: Option<PathBuf>,
    /// Whether the folder stays.
    pub keep: bool,
    /// What keys and synthetic events follow from.
    pub seed: u64,
    /// Where receipts with their proofs go; into the folder without it.
    pub receipts: Option<PathBuf>,
    /// Whether receipts are written and verified at all.
    pub with_receipts: bool,
    /// Which receipts are waited for.
    pub strength: Strength,
    /// Connections of the load, count.
    pub connections_count: u16,
    /// Whether the raw verification rate of this machine is measured when the node is gone.
    pub with_raw_rate: bool,
}

/// Nodes this build can run together.
const NODES_COUNT_MAX: u16 = 1;

/// How long a node may take to start or to stop. Recovery of a long log takes its time.
const NODE_PATIENCE: Duration = Duration::from_secs(120);

/// Runs a local network from its making to its verdict.
///
/// # Errors
/// If anything that must hold does not, or someone interrupts; no node is left running.
pub fn run(options: &Options, output: Output) -> Result<(), CliError> {
    if options.nodes_count != NODES_COUNT_MAX {
        let what = format!("{} nodes were asked for", options.nodes_count);
        let remedy = "use --nodes 1: this build has no peer connections, so nodes could not agree";
        return Err(CliError::usage(what, remedy));
    }
    // Before any thread is started, so that every thread leaves the signals to this one.
    let signals = Signals::block().map_err(|cause| {
        CliError::failed(cause, "this process", "raise the limit of open files (ulimit -n)")
    })?;
    let load = Load::prepare(options)?;
    let folder = Folder::make(options, &load)?;
    let outcome = run_in(&folder, load, options, &signals, output);
    // The verdict matters more than what is left in a folder for temporary files.
    folder.leave(options.keep || matches!(outcome, Err(CliError::Reported)), output);
    outcome
}

fn run_in(
    folder: &Folder,
    load: Load,
    options: &Options,
    signals: &Signals,
    output: Output,
) -> Result<(), CliError> {
    let mut checks = Checks::new(output);
    let mut node = NodeProcess::start(folder, 0)?;
    let ready = node.wait_ready(signals, NODE_PATIENCE);
    let ready = ready.map_err(|stopped| node.explain(stopped))?;
    output.note(format!("node-0 (process {}) serves {}", ready.pid, ready.client));

    let (tasks_count, loading) = (load.tasks_count(), load.start(ready, folder, output)?);
    let loaded = node.watch(signals, &loading).map_err(|stopped| node.explain(stopped))?;
    let loaded = loaded.map_err(|error| {
        let remedy = format!("look at {}", node.log_path().display());
        CliError::failed(error, "the load", remedy)
    });
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            node.show_log(output);
            return Err(error);
        }
    };
    checks.exactly_once(&loaded.result, tasks_count);
    checks.holdings(&loaded.discrepancies);
    checks.healthy(ready.admin);
    let memory = hufu_runtime::process::resident_memory_of(ready.pid).ok();
    let stopped = node.stop(signals, NODE_PATIENCE).map_err(|stopped| node.explain(stopped))?;
    checks.graceful(stopped);

    let arguments = folder.ledger_verify_arguments(0);
    checks.verifier("ledger verify --level replay", folder, &arguments, signals)?;
    if let Some(receipts) = folder.receipts() {
        let arguments = folder.receipt_verify_arguments(receipts, tasks_count, options.strength);
        checks.verifier("receipt verify, from the genesis alone", folder, &arguments, signals)?;
    }
    if checks.have_failed() {
        node.show_log(output);
    }
    let peak = memory.map(|memory| memory.peak_bytes);
    let raw_rate = options.with_raw_rate.then(raw_rate).transpose()?;
    report(&checks, &loaded.result, folder, options, (peak, raw_rate), output);
    if checks.have_failed() { Err(CliError::Reported) } else { Ok(()) }
}

/// How long the raw verification rate is measured.
const RAW_RATE_SPAN: Duration = Duration::from_secs(5);

/// Signatures a second that all cores of this machine verify when they do nothing else.
fn raw_rate() -> Result<u64, CliError> {
    let remedy = "leave --raw-rate out";
    let failed = |error: hufu_load::Error| CliError::failed(error, "the raw rate", remedy);
    let cores = hufu_runtime::placement::available_cores()
        .map_err(|cause| CliError::failed(cause, "the cores of this process", remedy))?;
    let threads = u16::try_from(cores.cores().len()).unwrap_or(u16::MAX);
    let cast = hufu_load::Cast::generate(8).map_err(failed)?;
    let provider = hufu_crypto::software_provider();
    hufu_load::verification::rate(&provider, &cast, threads, RAW_RATE_SPAN).map_err(failed)
}

fn report(
    checks: &Checks,
    result: &RunResult,
    folder: &Folder,
    options: &Options,
    (memory_peak_bytes, raw_rate): (Option<u64>, Option<u64>),
    output: Output,
) {
    let value = json!({
        "chain_id": folder.chain_id().to_string(),
        "folder": folder.path().display().to_string(),
        "seed": options.seed,
        "load": serde_json::to_value(result).unwrap_or(Value::Null),
        "committed_per_second": result.committed_per_second(),
        "cpu_nanos_outside_verify": result.cpu_nanos_outside_verify(),
        "node_memory_peak_bytes": memory_peak_bytes,
        "raw_verifications_per_second": raw_rate,
        "checks": checks.to_json(),
        "passed": !checks.have_failed(),
    });
    let memory = memory_peak_bytes.map_or_else(String::new, |bytes| {
        format!("node's peak memory        {} MiB\n", bytes / (1 << 20))
    });
    let raw = raw_rate.map_or_else(String::new, |rate| {
        let percent = u128::from(result.committed_per_second()) * 100 / u128::from(rate.max(1));
        format!("raw verification rate     {rate}/s on all cores; the chain reached {percent} %\n")
    });
    let (chain, seed) = (folder.chain_id(), options.seed);
    let verdict = if checks.have_failed() { "FAILED" } else { "passed" };
    let table = result.table();
    output.result(
        &value,
        format!(
            "\n{}\n{memory}{raw}chain {chain}, seed {seed}\n\n{checks}\n{verdict}",
            table.trim_end()
        ),
    );
}

/// Whether someone wants this process to stop.
fn interrupted(signals: &Signals, patience: Duration) -> Result<(), Stopped> {
    match signals.wait(Some(patience)) {
        Ok(None) => Ok(()),
        Ok(Some(Signal::Interrupt | Signal::Terminate | Signal::HangUp)) => {
            Err(Stopped::Interrupted)
        }
        Err(cause) => Err(Stopped::Host(cause)),
    }
}

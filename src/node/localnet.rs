//! `hufu localnet run`: a chain on this machine, loaded, checked and stopped.
//!
//! ```text
//! folder (keys, genesis, configs) -> node processes -> all ready
//!   -> hufu-load: set up, load, settle, holdings -> graceful stop -> block logs compared
//!   -> ledger verify of each (own processes) -> receipt verify (own process) -> verdict
//! ```
//!
//! Nodes are separate processes of this very binary. They die with this one however it ends, and an
//! interrupt stops them before it returns. Nothing here knows rules of the ledger: what must hold
//! comes from the independent model of `hufu-load` and from the offline verifiers.

mod card_faults;
pub mod cards;
mod check;
mod child;
mod compare;
mod folder;
mod load;
mod outage;
mod ports;

use std::path::PathBuf;
use std::time::Duration;

use hufu_load::RunResult;
use hufu_runtime::process::{Signal, Signals};
use hufu_types::Strength;
use serde_json::{Value, json};

use crate::cli::CliError;
use crate::data_key;
use crate::kernels;
use crate::output::Output;
use crate::recovery::StorageOptions;
use card_faults::CardCourse;
pub use card_faults::CardFaults;
use check::Checks;
use child::{Nodes, Stopped, received};
use compare::Held;
use folder::Folder;
use load::Load;
use outage::Course;
pub use outage::{Outage, Restart};

/// What a local network is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes, count.
    pub nodes_count: u16,
    /// Market messages to replay; a synthetic hour without them.
    pub replay: Option<PathBuf>,
    /// Events of the synthetic hour; as many as the real one has if left out.
    pub events_count: Option<u64>,
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
    /// Whether vote keys live in soft tokens instead of files.
    pub with_cards: bool,
    /// What happens to cards meanwhile.
    pub card_faults: CardFaults,
    /// What happens to the last node meanwhile.
    pub outage: Option<Outage>,
}

/// Nodes of a local network, unless more or fewer are asked for.
pub const NODES_COUNT: u16 = 4;

/// Nodes of a local network at most: more processes than that tell nothing on one machine.
pub const NODES_COUNT_MAX: u16 = 16;

/// How long a node may take to start or to stop. Recovery of a long log takes its time.
const NODE_PATIENCE: Duration = Duration::from_secs(120);

/// Runs a local network from its making to its verdict.
///
/// # Errors
/// If anything that must hold does not, or someone interrupts; no node is left running.
pub fn run(options: &Options, output: Output) -> Result<(), CliError> {
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
    let mut nodes = Nodes::start(folder, options.nodes_count)?;
    let ready = nodes.wait_ready(signals, NODE_PATIENCE)?;
    for (index, node) in (0..).zip(&ready) {
        let name = folder::name(index);
        output.note(format!("{name} (process {}) serves {}", node.pid, node.client));
    }

    // A node that will be killed gets no load, so that no client is cut off.
    let last = options.nodes_count.saturating_sub(1);
    let mut course = options.outage.map(|outage| Course::new(outage, last, load.began()));
    let mut card_course = CardCourse::new(options.card_faults, load.began());
    let mut ready = ready;
    let there = ready.len() - usize::from(course.is_some());
    let (tasks_count, loading) = (load.tasks_count(), load.start(&ready[..there], folder, output)?);
    let loaded = nodes.watch(signals, |nodes| {
        if let Some(course) = &mut course {
            course.step(nodes, folder, &ready[0], false)?;
        }
        if let Some(course) = &mut card_course {
            course.step(nodes, folder, &ready, false)?;
        }
        received(&loading)
    })?;
    let loaded = loaded.map_err(|error| {
        nodes.show_logs(output);
        let remedy = format!("look at the logs of the nodes in {}", folder.path().display());
        CliError::failed(error, "the load", remedy)
    })?;
    checks.exactly_once(&loaded.result, tasks_count);
    checks.holdings(&loaded.discrepancies);
    checks.one_tip(&loaded.result.tips);
    if let Some(course) = &mut course {
        let step = |nodes: &mut Nodes| course.step(nodes, folder, &ready[0], true);
        let back = nodes.watch(signals, step)?;
        ready[there] = back;
    }
    if let Some(course) = &mut card_course {
        nodes
            .watch(signals, |nodes| Ok(course.step(nodes, folder, &ready, true)?.then_some(())))?;
    }
    let card_faults = card_course.map(|course| course.report());
    checks.cards(card_faults.as_ref());
    checks.verified_once(&ready[..there], &loaded);
    checks.healthy(&ready);
    let memory = ready.iter().map(|node| hufu_runtime::process::resident_memory_of(node.pid).ok());
    let peaks = memory.map(|memory| memory.map(|memory| memory.peak_bytes)).collect();
    let ends = nodes.stop(signals, NODE_PATIENCE)?;
    checks.graceful(&ends);
    let chain = verify(&mut checks, folder, &loaded.result, options, signals)?;
    let outage = course.map(|course| course.report(&chain, &loaded.result.answers));
    if checks.have_failed() {
        nodes.show_logs(output);
    }
    let raw_rate = options.with_raw_rate.then(raw_rate).transpose()?;
    let measured = Measured { peaks, raw_rate, outage, card_faults };
    report(&checks, &loaded.result, folder, options, &measured, output);
    if checks.have_failed() { Err(CliError::Reported) } else { Ok(()) }
}

/// What is measured beside the load.
struct Measured {
    /// Most memory that each node had resident; `None` where the host does not say.
    peaks: Vec<Option<u64>>,
    /// Signatures a second that all cores verify when they do nothing else.
    raw_rate: Option<u64>,
    /// What the loss of a node did.
    outage: Option<outage::Report>,
    /// What became of cards that failed.
    card_faults: Option<card_faults::Report>,
}

/// What stopped nodes have left behind: compared, and verified by other processes. Returns the
/// first node's chain.
fn verify(
    checks: &mut Checks,
    folder: &Folder,
    result: &RunResult,
    options: &Options,
    signals: &Signals,
) -> Result<Vec<Held>, CliError> {
    let provider = kernels::provider();
    let chains = (0..options.nodes_count).map(|index| {
        let keys = data_key::load(&folder.data_key(index), &provider);
        let keys = keys.map_err(|error| error.to_string());
        let chain_id = folder.chain_id();
        let read = keys.and_then(|keys| {
            let options = StorageOptions::new(&folder.data_dir(index), chain_id, &provider);
            compare::read(options.with_keys(Some(keys)).log, &provider)
        });
        read.map_err(|fault| format!("{}: {fault}", folder::name(index)))
    });
    let chains: Result<Vec<Vec<Held>>, String> = chains.collect();
    checks.one_chain(chains.as_deref(), result.height_last);
    for index in 0..options.nodes_count {
        let arguments = folder.ledger_verify_arguments(index);
        let what = format!("ledger verify --level replay of {}", folder::name(index));
        checks.verifier(&what, folder, &arguments, signals)?;
        let arguments = folder.audit_verify_arguments(index)?;
        let what = format!("audit verify of {}, against its vote log", folder::name(index));
        checks.verifier(&what, folder, &arguments, signals)?;
    }
    if let Some(receipts) = folder.receipts() {
        let count = result.tasks_count;
        let arguments = folder.receipt_verify_arguments(receipts, count, options.strength);
        checks.verifier("receipt verify, from the genesis alone", folder, &arguments, signals)?;
    }
    Ok(chains.ok().and_then(|chains| chains.into_iter().next()).unwrap_or_default())
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
    let cast = cast.on(kernels::backend());
    let provider = kernels::provider();
    hufu_load::verification::rate(&provider, &cast, threads, RAW_RATE_SPAN).map_err(failed)
}

fn report(
    checks: &Checks,
    result: &RunResult,
    folder: &Folder,
    options: &Options,
    measured: &Measured,
    output: Output,
) {
    let raw_rate_each = measured.raw_rate.map(|rate| rate / u64::from(options.nodes_count));
    let value = json!({
        "chain_id": folder.chain_id().to_string(),
        "folder": folder.path().display().to_string(),
        "seed": options.seed,
        "nodes": options.nodes_count,
        "load": serde_json::to_value(result).unwrap_or(Value::Null),
        "committed_per_second": result.committed_per_second(),
        "cpu_nanos_outside_verify": result.cpu_nanos_outside_verify(),
        "node_memory_peak_bytes": measured.peaks.iter().max().copied().flatten(),
        "node_memory_peaks_bytes": measured.peaks,
        "raw_verifications_per_second": measured.raw_rate,
        "raw_verifications_per_second_and_node": raw_rate_each,
        "outage": measured.outage,
        "card_faults": measured.card_faults,
        "checks": checks.to_json(),
        "passed": !checks.have_failed(),
    });
    let peaks: Vec<String> =
        measured.peaks.iter().flatten().map(|bytes| (bytes / (1 << 20)).to_string()).collect();
    let memory = match peaks.as_slice() {
        [] => String::new(),
        peaks => format!("nodes' peak memory        {} MiB\n", peaks.join(" ")),
    };
    let raw = measured.raw_rate.zip(raw_rate_each).map_or_else(String::new, |(rate, each)| {
        let percent = percent_of(result.committed_per_second(), each);
        let share = match options.nodes_count {
            1 => String::new(),
            count => format!(", {each}/s for each of {count} nodes"),
        };
        format!("raw verification rate     {rate}/s on all cores{share}; the chain reached {percent} %\n")
    });
    let outage = measured.outage.as_ref().map_or_else(String::new, |outage| format!("\n{outage}"));
    let cards =
        measured.card_faults.as_ref().map_or_else(String::new, |report| format!("\n{report}"));
    let (chain, seed) = (folder.chain_id(), options.seed);
    let verdict = if checks.have_failed() { "FAILED" } else { "passed" };
    let table = result.table();
    output.result(
        &value,
        format!(
            "\n{}\n{memory}{raw}{outage}{cards}chain {chain}, seed {seed}\n\n{checks}\n{verdict}",
            table.trim_end()
        ),
    );
}

fn percent_of(part: u64, whole: u64) -> u128 {
    u128::from(part) * 100 / u128::from(whole.max(1))
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

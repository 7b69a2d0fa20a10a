//! `hufu node run`: opens the data folder, recovers, starts the tiles, waits for a signal, stops
//! them in order.
//!
//! ```text
//! self-test -> config, genesis -> data folder (locked) -> audit log -> keys -> recovery -> tiles
//!   -> ready file
//!   -> SIGTERM or SIGINT -> drain -> end, or at once when the same signal comes again
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hufu_crypto::{Backend, Provider, selftest};
use hufu_runtime::process::{self, Signal, Signals};
use hufu_runtime::thread::{Failure, Group, abort_process};
use hufu_storage::audit_log::AuditError;
use hufu_storage::data_dir::DataDir;
use hufu_types::Genesis;

use crate::admin::Admin;
use crate::assemble::{self, Parts};
use crate::cards::Cards;
use crate::config::NodeConfig;
use crate::data_key::DataKeyError;
use crate::explain::Explanation;
use crate::genesis_copy;
use crate::genesis_file;
use crate::health::{Health, NodeState};
use crate::kernels;
use crate::log;
use crate::metrics::Metrics;
use crate::opening::{self, Opened};
use crate::ready::Ready;
use crate::recovery::{self, RecoverError, StorageOptions};
use crate::signing_desk::{DeskError, SigningDesk};

/// Why a node did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration, the genesis or the key is at fault; trying again changes nothing.
    #[error("{0}")]
    Configuration(String),
    /// The data folder cannot be used.
    #[error(transparent)]
    DataFolder(#[from] hufu_storage::Error),
    /// What is in the data folder cannot be made whole.
    #[error("recovery: {0}")]
    Recover(#[from] RecoverError),
    /// The host refused something the node needs.
    #[error("{what}: {cause}")]
    Host {
        /// What the node asked for.
        what: String,
        /// What the host said.
        cause: io::Error,
    },
    /// An algorithm of the chosen back end gave a wrong answer: this machine must not sign or
    /// verify anything.
    #[error("{cause} (back end {backend})")]
    SelfTest {
        /// The back end.
        backend: &'static str,
        /// Which algorithm and what was wrong.
        cause: hufu_crypto::Error,
    },
    /// The card with the vote key cannot be used.
    #[error("node.key: {0}")]
    Card(DeskError),
    /// The data keys cannot be read, or their card does not unwrap them.
    #[error("storage.key_file {path}: {cause}; {}", cause.remedy())]
    DataKey {
        /// The file.
        path: String,
        /// What is wrong.
        cause: Box<DataKeyError>,
    },
    /// The audit log cannot be written.
    #[error("audit log: {0}")]
    Audit(#[from] AuditError),
    /// A tile failed.
    #[error(transparent)]
    Tile(#[from] Failure),
}

impl RunError {
    fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Host { what, cause }
    }

    /// Whether the configuration is at fault, so that a service manager must not start the node
    /// again.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        use hufu_storage::Error as Storage;
        let storage = match self {
            Self::Configuration(_) => return true,
            // A PIN that was refused must not be tried again by whoever starts services.
            Self::Card(error) => return !error.may_pass(),
            Self::DataKey { cause, .. } => return cause.is_permanent(),
            Self::Audit(error) => return matches!(error, AuditError::OtherOwner { .. }),
            Self::DataFolder(error) | Self::Recover(RecoverError::Storage(error)) => error,
            _ => return false,
        };
        matches!(
            storage,
            Storage::OtherChain { .. }
                | Storage::OtherNode { .. }
                | Storage::OtherVersion { .. }
                | Storage::KeyMissing { .. }
                | Storage::KeyUnknown { .. }
                | Storage::NotEncrypted { .. }
        )
    }
}

/// A provider that has given the known answers on this machine: only with one does a node start.
#[derive(Debug)]
pub struct Proven(Provider);

impl Proven {
    /// Tests every algorithm of the provider and of the back end it stands on.
    ///
    /// # Errors
    /// [`RunError::SelfTest`] with the first wrong answer.
    pub fn new(provider: Provider, backend: Backend) -> Result<Self, RunError> {
        let name = backend.name();
        let passed = selftest(&provider, backend)
            .map_err(|cause| RunError::SelfTest { backend: name, cause })?;
        let tests: &str = &passed.len().to_string();
        let forced = if kernels::is_forced() { kernels::VARIABLE } else { "the CPU" };
        log::info(
            "kernels passed their self-test",
            &[("backend", name), ("chosen_by", forced), ("algorithms", tests)],
        );
        Ok(Self(provider))
    }
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// What kept it from starting or from ending well.
pub fn run(config: &NodeConfig) -> Result<(), RunError> {
    let provider = kernels::provider_knowing(config.verify.known_keys_max);
    run_with(config, Proven::new(provider, kernels::backend())?)
}

fn run_with(config: &NodeConfig, provider: Proven) -> Result<(), RunError> {
    let Proven(provider) = provider;
    // Blocked before any thread exists, so that every thread inherits the mask.
    let signals = Signals::block().map_err(RunError::host("signals"))?;
    process::forbid_core_dumps().map_err(RunError::host("core dumps"))?;
    let genesis = genesis_file::load(&config.node.genesis)
        .map_err(|fault| RunError::Configuration(fault.to_string()))?;
    let stop = Arc::new(Stop { signals, is_asked: AtomicBool::new(false) });
    let Some(opened) = open_unless_stopped(config, &genesis, &provider, &stop)? else {
        return Ok(());
    };
    let Opened { address, folder, audit, cards, desk, link_signer, data_keys } = opened;
    let signals = &stop.signals;
    genesis_copy::keep(folder.path(), &genesis).map_err(RunError::host("copy of the genesis"))?;
    remove_ready(folder.path());
    let (metrics, health) = (metrics_with(&cards, &desk), Arc::new(Health::default()));
    let explanation = Arc::new(Explanation::of(&genesis));
    let shared = (Arc::clone(&metrics), Arc::clone(&health), Arc::clone(&explanation));
    let admin = Admin::start(config.admin.listen, shared.0, shared.1, shared.2)
        .map_err(RunError::host(format!("admin.listen {}", config.admin.listen)))?;
    health.set(NodeState::Recovering);
    let options = storage_options(config, &folder, &genesis, &provider).with_keys(data_keys);
    let mut go_on = |_| !matches!(next_stop(signals), Ok(Some(_)));
    let recovered = recovery::recover(&genesis, &provider, &metrics, options, &mut go_on);
    let recovered = match recovered {
        Err(RecoverError::Interrupted { height }) => {
            let height: &str = &height.to_string();
            log::info("stopped", &[("height", height), ("during", "recovery")]);
            return Ok(());
        }
        recovered => recovered?,
    };
    log_recovery(&recovered);
    let parts = Parts {
        config,
        genesis: &genesis,
        address,
        desk,
        audit,
        link_signer,
        provider,
        metrics: Arc::clone(&metrics),
        explanation,
        probation: folder.probation()?,
        recovered,
    };
    let mut group = Group::new(abort_process());
    let assembled = assemble::assemble(&mut group, parts).map_err(RunError::host("tiles"))?;
    let running = group.start()?;
    metrics.publish_topology(running.stats().to_vec(), assembled.links);
    health.watch(running.stats().to_vec());
    health.set(NodeState::Ready);
    metrics.is_ready.set(1);
    announce(config, &assembled.client, admin.address(), assembled.peer);
    let ready = Ready { pid: std::process::id(), client: assembled.client, admin: admin.address() };
    ready.announce(folder.path()).map_err(RunError::host("ready file"))?;
    let signal = wait_for_stop(signals).map_err(RunError::host("signals"))?;
    log::info("stopping", &[("signal", &format!("{signal:?}"))]);
    // Whatever is under way is whole after a crash too: the same signal again ends the process.
    signals.release(signal).map_err(RunError::host("signals"))?;
    metrics.is_ready.set(0);
    health.set(NodeState::Draining);
    remove_ready(folder.path());
    running.request_stop();
    running.join()?;
    log::info("stopped", &[("height", &metrics.chain_height.get().to_string())]);
    drop(admin);
    drop(folder);
    Ok(())
}

/// Whether this process was asked to stop while it waits for its cards.
struct Stop {
    signals: Signals,
    is_asked: AtomicBool,
}

impl Stop {
    fn look(&self) -> bool {
        if matches!(next_stop(&self.signals), Ok(Some(_))) {
            self.is_asked.store(true, Ordering::Relaxed);
        }
        self.is_asked.load(Ordering::Relaxed)
    }
}

/// Opens what the node needs; nothing if it was asked to stop while it waited for a card.
fn open_unless_stopped(
    config: &NodeConfig,
    genesis: &Genesis,
    provider: &Provider,
    stop: &Arc<Stop>,
) -> Result<Option<Opened>, RunError> {
    let watched = Arc::clone(stop);
    let opened = opening::open(config, genesis, provider, Arc::new(move || watched.look()));
    // Also where one of several cards was there: the signal was taken and does not come again.
    if stop.is_asked.load(Ordering::Relaxed) {
        log::info("stopped", &[("during", "start")]);
        return Ok(None);
    }
    opened.map(Some)
}

/// The metrics, with what the cards count among them.
fn metrics_with(cards: &Cards, desk: &SigningDesk) -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::default());
    metrics.publish_cards(cards.all().to_vec(), desk.card_counts());
    metrics
}

/// The storage options that the configuration asks for, but for the keys.
#[must_use]
pub fn storage_options(
    config: &NodeConfig,
    folder: &DataDir,
    genesis: &Genesis,
    provider: &Provider,
) -> StorageOptions {
    use crate::config::LogBackend;
    use hufu_runtime::file::Backend;
    let mut options = StorageOptions::new(folder.path(), genesis.chain_id(), provider);
    options.log.segment_bytes = config.log.segment_bytes;
    options.log.group_bytes_max = config.log.group_bytes_max;
    options.log.depth = config.log.depth;
    options.log.backend = match config.log.backend {
        LogBackend::Auto => Backend::Auto,
        LogBackend::Uring => Backend::Uring,
        LogBackend::Sync => Backend::Sync,
    };
    options.vote_log.heights_kept = Some(config.log.vote_heights_kept);
    options.cache_bytes = config.state.cache_half_bytes();
    options.store.cache_bytes = config.state.cache_half_bytes();
    options.store.write_buffer_bytes =
        usize::try_from(config.state.write_buffer_bytes).unwrap_or(usize::MAX);
    options
}

fn log_recovery(recovered: &recovery::Recovered) {
    let report = &recovered.report;
    let fields = [
        ("height", recovered.tip.block.height.to_string()),
        ("blocks_replayed", recovered.replayed.to_string()),
        ("batches_pending", recovered.batches.len().to_string()),
        ("clean_stop", report.sealed.to_string()),
        ("state_root", recovered.executor.last_roots().state_root.to_string()),
    ];
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(key, value)| (*key, value.as_str())).collect();
    log::info("recovered", &fields);
    let tails = [
        ("tail of the block log cut off", &report.torn),
        ("tail of the vote log cut off", &recovered.vote_report.torn),
    ];
    for (message, torn) in tails {
        let Some(torn) = torn else { continue };
        let place = format!("segment {} offset {}", torn.segment, torn.offset);
        let damage = torn.damage.to_string();
        // A crash leaves such a tail behind, and so does a disk that lost what it had acknowledged:
        // only an operator can tell.
        log::error(message, &[("place", &place), ("damage", &damage)]);
    }
}

fn announce(config: &NodeConfig, client: &SocketAddr, admin: SocketAddr, peer: Option<SocketAddr>) {
    let mut fields = vec![
        ("client", client.to_string()),
        ("admin", admin.to_string()),
        ("name", config.node.name.clone()),
    ];
    fields.extend(peer.map(|peer| ("peer", peer.to_string())));
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(key, value)| (*key, value.as_str())).collect();
    log::info("ready", &fields);
    let reason =
        "client links are plain until GM-TLS is built in, so only loopback addresses are served";
    log::warn("client channel is not encrypted", &[("reason", reason)]);
}

fn wait_for_stop(signals: &Signals) -> io::Result<Signal> {
    loop {
        if let Some(signal) = signals.wait(None)?.and_then(stop) {
            return Ok(signal);
        }
    }
}

/// The signal that asks the node to stop, if one has come. Never waits.
fn next_stop(signals: &Signals) -> io::Result<Option<Signal>> {
    while let Some(signal) = signals.next()? {
        if let Some(signal) = stop(signal) {
            return Ok(Some(signal));
        }
    }
    Ok(None)
}

/// The signal itself, unless it asks for something else than to stop.
fn stop(signal: Signal) -> Option<Signal> {
    if signal == Signal::HangUp {
        log::info("reload asked for", &[("result", "nothing to reload")]);
        return None;
    }
    Some(signal)
}

/// A file of an earlier run must not pass for this one's.
fn remove_ready(data_dir: &Path) {
    if let Err(cause) = Ready::withdraw(data_dir) {
        log::warn("old ready file cannot be removed", &[("cause", &cause.to_string())]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hufu_crypto::{Verdict, Verifier, VerifyItem};

    use super::*;

    /// Takes every signature for good.
    struct Gullible;

    impl Verifier for Gullible {
        fn verify_many(&self, _: &[VerifyItem<'_>], verdicts: &mut [Verdict]) {
            verdicts.fill(Verdict::Valid);
        }
    }

    /// A node runs with a [`Proven`] provider only, and one that lies never becomes that.
    #[test]
    fn a_provider_that_gives_a_wrong_answer_starts_no_node() {
        for backend in kernels::available() {
            let good = hufu_crypto::software_provider_on(backend);
            let lying = Provider { verifier: Arc::new(Gullible), ..good.clone() };
            let refused = Proven::new(lying, backend).unwrap_err();
            assert!(!refused.is_configuration(), "no configuration mends it");
            let text = refused.to_string();
            assert!(text.contains("SM2 verification") && text.contains(backend.name()), "{text}");
            assert!(Proven::new(good, backend).is_ok());
        }
    }
}

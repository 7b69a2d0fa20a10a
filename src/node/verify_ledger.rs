//! `hufu ledger verify`: checks everything in a data folder that no node is using, and changes
//! nothing in it.
//!
//! ```text
//! hold the lock -> genesis, identity -> every byte of both logs -> blocks one by one
//!               |                                                 |- headers, batches, indexes
//!               |                                                 |- signatures, certificates
//!               |                                                 '- execution into a fresh state
//!               -> vote records, guard's rule -> state entries = rows = root -> audit -> Report
//! ```
//!
//! Faults are gathered, not stopped at: one bad group must not hide another. What is not covered
//! is listed in the README of `hufu-storage`.

mod chain;
mod genesis;
mod index;
mod logs;
mod replay;
mod report;
mod signatures;
mod state;
mod votes;

use std::io;
use std::path::{Path, PathBuf};

use hufu_crypto::Provider;
use hufu_storage::data_dir::DataDir;
use hufu_storage::keyring::Keyring;
use hufu_storage::state_store::{AppliedMark, StateStore};
use hufu_types::Genesis;

pub use report::{Counts, FAULTS_LISTED_MAX, Fault, Part, Report};

use crate::kernels;
use crate::recovery::StorageOptions;

/// How deep a verification looks; each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every byte against its checksum and hash, every link between what is stored.
    Hashes,
    /// Also every transaction signature and commit certificate.
    Signatures,
    /// Also every block executed again from the genesis.
    Replay,
}

impl Level {
    /// As the command line and reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hashes => "hashes",
            Self::Signatures => "signatures",
            Self::Replay => "replay",
        }
    }
}

/// Why a folder was not verified at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not there.
    #[error("{} is not a folder", .0.display())]
    NoFolder(PathBuf),
    /// A node is running on it, or it cannot be used.
    #[error(transparent)]
    Storage(#[from] hufu_storage::Error),
    /// Nothing says what its chain begins with.
    #[error("{} holds no copy of the genesis", .0.display())]
    GenesisMissing(PathBuf),
    /// The copy of the genesis is not that of the folder's chain.
    #[error("the copy of the genesis in {} is damaged", .0.display())]
    GenesisDamaged(PathBuf),
    /// The folder belongs to another chain than the genesis given.
    #[error("{} belongs to chain {found}, the genesis given is that of {given}", folder.display())]
    OtherChain {
        /// The data folder.
        folder: PathBuf,
        /// Its chain.
        found: String,
        /// The genesis's.
        given: String,
    },
    /// The host refused something.
    #[error("{what}: {cause}")]
    Host {
        /// What was asked of it.
        what: String,
        /// What it said.
        cause: io::Error,
    },
    /// Somebody wants it to end.
    #[error("interrupted")]
    Interrupted,
}

impl VerifyError {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Storage(hufu_storage::Error::Locked { .. }) => {
                "a node is running on it: stop the node, or verify a copy made while it was stopped"
            }
            Self::Storage(
                hufu_storage::Error::KeyMissing { .. } | hufu_storage::Error::KeyUnknown { .. },
            ) => "give the data key of this node (storage.key_file) with --data-key FILE",
            Self::Storage(hufu_storage::Error::NotEncrypted { .. }) => {
                "verify it without --data-key: it is of a node with storage.encryption \"none\""
            }
            Self::NoFolder(_) | Self::Storage(_) => {
                "name the data folder of a node (node.data_dir)"
            }
            Self::GenesisMissing(_) | Self::GenesisDamaged(_) => {
                "give the chain's genesis with --genesis FILE"
            }
            Self::OtherChain { .. } => "give the genesis of this folder's chain",
            Self::Host { .. } => "mend what is named above and verify again",
            Self::Interrupted => "verify again",
        }
    }
}

/// Told what is being done, how much of it is done, and how much there is (0 if unknown); `false`
/// ends the verification.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64, u64) -> bool;

/// All that the checks share.
struct Check<'a> {
    genesis: &'a Genesis,
    provider: &'a Provider,
    options: StorageOptions,
    report: Report,
    progress: Progress<'a>,
    is_interrupted: bool,
}

impl Check<'_> {
    /// Says how far the verification is and hears whether it is to go on.
    fn progress(&mut self, what: &'static str, done: u64, total: u64) {
        self.is_interrupted |= !(self.progress)(what, done, total);
    }

    /// A report about half a folder would be none.
    fn go_on(&self) -> Result<(), VerifyError> {
        if self.is_interrupted { Err(VerifyError::Interrupted) } else { Ok(()) }
    }

    /// A fault of the state store, worded the same whichever check meets it.
    fn store_fault(&mut self, error: &hufu_storage::Error) {
        self.report.fault(Part::State, "reading", error);
    }
}

/// The store, opened for reading, and the block that it stands at.
struct State {
    store: StateStore,
    mark: Option<AppliedMark>,
}

impl State {
    fn height(&self) -> u64 {
        self.mark.map_or(0, |mark| mark.height)
    }
}

/// Senders whose multiples are kept while their signatures are verified, count; 16.7 KB each.
const KNOWN_KEYS_MAX: u32 = 4_096;

/// Verifies the data folder of a node, which is encrypted with `keys` or in clear without any.
/// `genesis` stands in for the copy in the folder.
///
/// # Errors
/// What kept it from looking at the folder; whatever is wrong in it is in the report.
pub fn verify(
    folder: &Path,
    level: Level,
    genesis: Option<Genesis>,
    keys: Option<Keyring>,
    progress: Progress<'_>,
) -> Result<Report, VerifyError> {
    if !folder.is_dir() {
        return Err(VerifyError::NoFolder(folder.to_path_buf()));
    }
    let held = DataDir::hold(folder)?;
    let mut report = Report::new(level, String::new());
    let genesis = genesis::find(folder, genesis, &mut report)?;
    let (chain_id, provider) = (genesis.chain_id(), kernels::provider_knowing(KNOWN_KEYS_MAX));
    report.chain_id = chain_id.to_string();
    let options = StorageOptions::new(folder, chain_id, &provider).with_keys(keys);
    // Without the key nothing else that is said of the folder would be worth anything.
    options.check_keys()?;
    let (genesis, provider) = (&genesis, &provider);
    let mut check = Check { genesis, provider, options, report, progress, is_interrupted: false };
    let state = open_state(&mut check);
    let tails = logs::verify(&mut check, state.as_ref());
    check.go_on()?;
    let chain = chain::verify(&mut check, state.as_ref())?;
    check.go_on()?;
    votes::verify(&mut check, &chain);
    check.go_on()?;
    if let Some(state) = &state {
        state::verify(&mut check, state);
    }
    check.go_on()?;
    tails.judge(&mut check.report);
    let report = check.report;
    assert!(
        report.is_clean() == report.faults.is_empty(),
        "a fault that is counted is listed first"
    );
    drop(held);
    Ok(report)
}

/// Opens the state store; one that cannot be opened is a fault unless nothing was ever decided.
fn open_state(check: &mut Check<'_>) -> Option<State> {
    if !check.options.store.folder.exists() {
        check
            .report
            .notices
            .push("there is no state store; a start would build it from the block log".to_owned());
        return None;
    }
    let opened = StateStore::open_read_only(&check.options.store);
    let opened = opened.and_then(|store| store.applied().map(|mark| State { store, mark }));
    match opened {
        Ok(state) => {
            check.report.applied_height = state.height();
            check.report.state_root = state
                .mark
                .map_or(String::new(), |mark| hufu_types::Digest(mark.state_root.0).to_string());
            Some(state)
        }
        Err(error) => {
            check.report.fault(Part::State, "opening", error);
            None
        }
    }
}

//! `hufu ledger verify`: checks everything in a data folder and changes nothing in it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use hufu_runtime::process::Signals;
use hufu_storage::keyring::Keyring;

use super::CliError;
use crate::data_key;
use crate::genesis_file;
use crate::kernels;
use crate::output::Output;
use crate::verify_ledger::{self, Level, VerifyError};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Verify the logs and the state in a data folder that no node is using.
    #[command(after_help = "Every fault is reported with its place and remedy; exit code 1 if \
        there is any. Nothing in the folder is changed.")]
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The node's data folder (node.data_dir).
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How deep to look; each level includes the ones before it.
    #[arg(long, value_enum, default_value = "replay")]
    level: LevelArgument,
    /// The node's data key (storage.key_file), unless its data is stored in clear. Where a card
    /// wraps it, that card must be there.
    #[arg(long, value_name = "FILE")]
    data_key: Option<PathBuf>,
    /// The chain's genesis; the folder's own copy if left out.
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
}

/// How deep a verification looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LevelArgument {
    /// Every byte against its checksum and hash, every link between what is stored.
    Hashes,
    /// Also every transaction signature and commit certificate.
    Signatures,
    /// Also every block executed again from the genesis.
    Replay,
}

impl From<LevelArgument> for Level {
    fn from(argument: LevelArgument) -> Self {
        match argument {
            LevelArgument::Hashes => Self::Hashes,
            LevelArgument::Signatures => Self::Signatures,
            LevelArgument::Replay => Self::Replay,
        }
    }
}

pub(super) fn run(verb: &Verb, output: Output) -> Result<(), CliError> {
    let Verb::Verify(verify) = verb;
    let genesis = verify.genesis.as_deref().map(genesis_file::load).transpose()?;
    let keys = verify.data_key.as_deref().map(load_keys).transpose()?;
    // An interrupt is heard between two blocks, so that what the replay wrote is removed.
    let signals = Signals::block().map_err(|cause| {
        CliError::failed(cause, "this process", "raise the limit of open files (ulimit -n)")
    })?;
    let bar = output.bar(0, "verifying");
    let mut shown = "";
    let progress = &mut |what: &'static str, done: u64, total: u64| {
        if what != shown {
            bar.set_message(what);
            shown = what;
        }
        // Where the whole is not known, what is done is all there is to show.
        bar.set_length(if total == 0 { done } else { total });
        bar.set_position(done);
        matches!(signals.next(), Ok(None))
    };
    let report =
        verify_ledger::verify(&verify.folder, verify.level.into(), genesis, keys, progress);
    bar.finish_and_clear();
    let report = report.map_err(|error| match error {
        VerifyError::Interrupted => CliError::Interrupted,
        error => CliError::file(&error, &verify.folder, error.remedy()),
    })?;
    output.result(&report.to_json(), &report);
    if report.is_clean() { Ok(()) } else { Err(CliError::Reported) }
}

fn load_keys(path: &Path) -> Result<Keyring, CliError> {
    data_key::load(path, &kernels::provider()).map_err(|error| CliError::data_key(&error, path))
}

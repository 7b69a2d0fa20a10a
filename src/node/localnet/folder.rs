//! The folder of a local network: keys, genesis, configurations, logs, receipts.
//!
//! ```text
//! D/genesis.toml  D/node-I/{hufu.toml, vote.pem, link.pem, data/, log}  D/receipts.bin  D/*.json
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hufu_crypto::Signer;
use hufu_runtime::clock;
use hufu_types::genesis::{Genesis, Parameters, Validator, ValidatorSet};
use hufu_types::{ChainId, Strength};
use tempfile::TempDir;

use super::Options;
use super::load::Load;
use crate::cli::CliError;
use crate::output::Output;
use crate::{genesis_file, keys_file};

/// Least time between two blocks: short enough for quick receipts, long enough for full blocks.
pub(super) const BLOCK_INTERVAL_MILLIS: u32 = 50;

/// Buckets of the state root, as a logarithm.
const STATE_BUCKETS_LOG2: u8 = 16;

/// A folder that was made for one network.
pub(super) struct Folder {
    path: PathBuf,
    temporary: Option<TempDir>,
    chain_id: ChainId,
    receipts: Option<PathBuf>,
}

impl Folder {
    /// Makes the folder and everything the nodes need.
    pub(super) fn make(options: &Options, load: &Load) -> Result<Self, CliError> {
        let (path, temporary) = match &options.folder {
            Some(path) => (prepare(path)?, None),
            None => {
                let made = tempfile::Builder::new().prefix("hufu-localnet-").tempdir();
                let made = made.map_err(|cause| {
                    CliError::file(cause, &std::env::temp_dir(), "give --dir, or set TMPDIR")
                })?;
                (made.path().to_owned(), Some(made))
            }
        };
        let receipts = options.receipts.clone().unwrap_or_else(|| path.join("receipts.bin"));
        let receipts = options.with_receipts.then_some(receipts);
        let mut folder = Self { path, temporary, chain_id: ChainId::ZERO, receipts };
        folder.chain_id = folder.write(options.nodes_count, load)?;
        Ok(folder)
    }

    fn write(&self, nodes_count: u16, load: &Load) -> Result<ChainId, CliError> {
        let validators = (0..nodes_count).map(|index| self.write_node(index));
        let validators = validators.collect::<Result<_, _>>()?;
        let genesis = genesis_of(load, validators).map_err(|error| {
            CliError::failed(error, "the genesis of the local network", "report this")
        })?;
        let path = self.genesis();
        fs::write(&path, genesis_file::write(&genesis)).map_err(|cause| failed(cause, &path))?;
        Ok(genesis.chain_id())
    }

    /// Makes a node's folder, keys and configuration; returns who it is.
    fn write_node(&self, index: u16) -> Result<Validator, CliError> {
        let node = self.node(index);
        fs::create_dir_all(&node).map_err(|cause| failed(cause, &node))?;
        let key = |file| {
            let path = node.join(file);
            let made = keys_file::create(&path).map_err(|error| CliError::key(&error, &path))?;
            Ok::<_, CliError>(*made.public_key())
        };
        let (key, link_key) = (key("vote.pem")?, key("link.pem")?);
        let path = node.join("hufu.toml");
        fs::write(&path, configuration(index)).map_err(|cause| failed(cause, &path))?;
        Ok(Validator { name: name(index), key, link_key, power: 1 })
    }

    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The chain that was made.
    pub(super) const fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// The genesis file.
    pub(super) fn genesis(&self) -> PathBuf {
        self.path.join("genesis.toml")
    }

    /// The folder of one node.
    pub(super) fn node(&self, index: u16) -> PathBuf {
        self.path.join(name(index))
    }

    /// Where receipts go, if they are written.
    pub(super) fn receipts(&self) -> Option<&Path> {
        self.receipts.as_deref()
    }

    /// Arguments of the process that replays a node's log.
    pub(super) fn ledger_verify_arguments(&self, index: u16) -> Vec<String> {
        let data = self.node(index).join("data").display().to_string();
        let genesis = self.genesis().display().to_string();
        let words =
            ["ledger", "verify", &data, "--genesis", &genesis, "--level", "replay", "--json"];
        words.map(str::to_owned).to_vec()
    }

    /// Arguments of the process that verifies all receipts with nothing but the genesis.
    pub(super) fn receipt_verify_arguments(
        &self,
        receipts: &Path,
        count: u64,
        strength: Strength,
    ) -> Vec<String> {
        let (genesis, receipts) =
            (self.genesis().display().to_string(), receipts.display().to_string());
        let strength = match strength {
            Strength::Committed => "committed",
            Strength::Certified => "certified",
        };
        let count = count.to_string();
        let words = [
            "receipt",
            "verify",
            "--genesis",
            &genesis,
            "--distinct",
            &count,
            "--strength",
            strength,
            "--json",
            &receipts,
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Ends the use of the folder: a temporary one goes unless it is to be kept.
    pub(super) fn leave(self, keep: bool, output: Output) {
        let Some(temporary) = self.temporary else { return };
        if keep {
            let path = temporary.keep();
            output.note(format!("the network's files are kept in {}", path.display()));
        } else if let Err(cause) = temporary.close() {
            output.note(format!("{} could not be removed: {cause}", self.path.display()));
        }
    }
}

/// Name of a node, of its validator and of its folder.
pub(super) fn name(index: u16) -> String {
    format!("node-{index}")
}

fn failed(cause: io::Error, path: &Path) -> CliError {
    CliError::file(cause, path, "check the folder and its disk")
}

/// One node's configuration; the system picks the ports, the node tells them.
fn configuration(index: u16) -> String {
    format!(
        "# Written by `hufu localnet run`.\n\
         [node]\nname = \"{}\"\ndata_dir = \"data\"\ngenesis = \"../genesis.toml\"\n\
         key = \"vote.pem\"\n\
         [client]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        name(index)
    )
}

fn genesis_of(load: &Load, validators: Vec<Validator>) -> Result<Genesis, hufu_types::DecodeError> {
    let validators = ValidatorSet::new(validators)?;
    let parameters = Parameters {
        certified_lag_heights: 1,
        block_interval_millis: BLOCK_INTERVAL_MILLIS,
        state_buckets_log2: STATE_BUCKETS_LOG2,
    };
    let operator = vec![load.operator()];
    let time_millis = clock::wall().as_millis();
    let name = "localnet".to_owned();
    Genesis::new(name, time_millis, parameters, validators, operator.clone(), operator)
}

/// A folder named by the operator must be new or empty: a chain is never mixed with another.
fn prepare(path: &Path) -> Result<PathBuf, CliError> {
    let failed = |cause| CliError::file(cause, path, "name a folder this user may write");
    fs::create_dir_all(path).map_err(failed)?;
    if fs::read_dir(path).map_err(failed)?.next().is_some() {
        let remedy = "name a new or empty folder: a local network never joins an older one";
        return Err(CliError::file("the folder is not empty", path, remedy));
    }
    std::path::absolute(path).map_err(failed)
}

//! The folder of a local network: keys, genesis, configurations, logs, receipts.
//!
//! ```text
//! D/genesis.toml  D/node-0/{hufu.toml, vote.pem, data/, log}  D/receipts.bin  D/*.json
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
        let node = folder.node(0);
        folder.write(&node, load).map(|chain_id| {
            folder.chain_id = chain_id;
            folder
        })
    }

    fn write(&self, node: &Path, load: &Load) -> Result<ChainId, CliError> {
        let failed =
            |cause: io::Error| CliError::file(cause, node, "check the folder and its disk");
        fs::create_dir_all(node).map_err(failed)?;
        let key_path = node.join("vote.pem");
        let key = keys_file::create(&key_path).map_err(|error| CliError::key(&error, &key_path))?;
        let genesis = genesis_of(load, *key.public_key()).map_err(|error| {
            CliError::failed(error, "the genesis of the local network", "report this")
        })?;
        fs::write(self.genesis(), genesis_file::write(&genesis)).map_err(failed)?;
        fs::write(node.join("hufu.toml"), CONFIGURATION).map_err(failed)?;
        Ok(genesis.chain_id())
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
        self.path.join(format!("node-{index}"))
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

/// One node's configuration; the system picks the ports, the node tells them.
const CONFIGURATION: &str = "\
# Written by `hufu localnet run`.
[node]
name = \"node-0\"
data_dir = \"data\"
genesis = \"../genesis.toml\"
key = \"vote.pem\"
[client]
listen = \"127.0.0.1:0\"
[admin]
listen = \"127.0.0.1:0\"
";

fn genesis_of(load: &Load, key: hufu_types::PublicKey) -> Result<Genesis, hufu_types::DecodeError> {
    let validators =
        ValidatorSet::new(vec![Validator { name: "node-0".to_owned(), key, power: 1 }])?;
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
